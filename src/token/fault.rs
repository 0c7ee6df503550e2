//! Why a token was refused, in words that may be told to who brought it.

use std::fmt;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TokenFault {
    TooLong,
    /// It is no compact JWS of three parts in canonical base64url.
    Form,
    /// Its header is no JSON object as RFC 8259 and RFC 7515 want it.
    Header,
    /// The header asks for something that is not done here, as to trust a key that it brings or to skip a check.
    HeaderField(&'static str),
    /// No key here is for its `alg` and `kid`.
    NoKey,
    Signature,
    /// Its payload is no JSON object, or names something twice.
    Payload,
    /// A claim is missing or malformed.
    Claim(&'static str),
    Expired,
    NotYet,
    /// It is for other channels.
    Channel,
    /// It is not for the admin API.
    NotAdmin,
}

impl fmt::Display for TokenFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

impl TokenFault {
    pub const fn words(self) -> &'static str {
        match self {
            TokenFault::TooLong => "the token is too long",
            TokenFault::Form => "this is no JWT: three parts in base64url without padding, dots between",
            TokenFault::Header => "the token's header is no JSON object with an alg",
            TokenFault::HeaderField(what) | TokenFault::Claim(what) => what,
            TokenFault::NoKey => "the token's alg and kid are of no key that this server has",
            TokenFault::Signature => "the token's signature is wrong",
            TokenFault::Payload => "the token's payload is no JSON object, or names something twice",
            TokenFault::Expired => "the token has expired: get a new one",
            TokenFault::NotYet => "the token is not valid yet (nbf): look at both clocks",
            TokenFault::Channel => "the token is not for this channel",
            TokenFault::NotAdmin => "the token does not grant the admin API: its claim admin is not true",
        }
    }
}
