//! Why a token was refused, in words that may be told to who brought it.

use std::fmt;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
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
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

impl Refused {
    pub const fn words(self) -> &'static str {
        match self {
            Refused::TooLong => "the token is too long",
            Refused::Form => "the token is no JWT: three parts in base64url without padding, dots between",
            Refused::Header => "the token's header is no JSON object with an alg",
            Refused::HeaderField(what) | Refused::Claim(what) => what,
            Refused::NoKey => "the token's alg and kid are of no key that this server has",
            Refused::Signature => "the token's signature is wrong",
            Refused::Payload => "the token's payload is no JSON object, or names something twice",
            Refused::Expired => "the token has expired: get a new one",
            Refused::NotYet => "the token is not valid yet (nbf): look at both clocks",
            Refused::Channel => "the token is not for this channel",
        }
    }
}
