//! The envelope of a token: a JWS in compact form (RFC 7515 section 7.1), from text to a payload that a key of ours has
//! signed. Nothing in the header chooses how it is checked: `alg` and `kid` only say which of our keys to try.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::fault::TokenFault;
use super::key::TokenKey;
use super::strict_json;
use crate::base::limits::TOKEN_BYTES_MAX;

/// Fields that would have us trust what the token brings (RFC 8725 sections 3.8 and 3.10), or read it in another way
/// (RFC 7515 section 4.1.11, RFC 7797).
const NOT_DONE_HERE: [(&str, &str); 7] = [
    ("crit", "the token's header asks for an extension (crit), of which none is known here"),
    ("b64", "the token's header asks for an unencoded payload (b64)"),
    ("jwk", "the token's header brings a key (jwk): keys come from this server's operator"),
    ("jku", "the token's header names a place for keys (jku): keys come from this server's operator"),
    ("x5u", "the token's header names a place for keys (x5u): keys come from this server's operator"),
    ("x5c", "the token's header brings a certificate (x5c): keys come from this server's operator"),
    ("zip", "the token's header asks for compression (zip)"),
];

/// One spelling for each sequence of bytes: no padding, no bits that are left over, no white space.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// The payload, which a key has signed.
pub(super) fn open(keys: &[TokenKey], token: &str) -> Result<Vec<u8>, TokenFault> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(TokenFault::TooLong);
    }
    let mut parts = token.split('.');
    let (Some(header), Some(payload), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(TokenFault::Form);
    };
    let message = &token[..header.len() + 1 + payload.len()];
    let [header, payload, signature] = [header, payload, signature].map(|part| decode(part).ok_or(TokenFault::Form));
    let header = strict_json::object(&header?).ok_or(TokenFault::Header)?;
    if let Some((_, why)) = NOT_DONE_HERE.iter().find(|(name, _)| header.contains_key(*name)) {
        return Err(TokenFault::HeaderField(why));
    }
    match header.get("typ") {
        None => {}
        Some(Value::String(kind)) if kind.eq_ignore_ascii_case("JWT") => {}
        Some(_) => return Err(TokenFault::HeaderField("the token's header has a typ other than JWT")),
    }
    let alg = header.get("alg").and_then(Value::as_str).ok_or(TokenFault::Header)?;
    let kid = match header.get("kid") {
        None => None,
        Some(Value::String(kid)) => Some(kid.as_str()),
        Some(_) => return Err(TokenFault::HeaderField("the token's header has a kid that is no string")),
    };
    let (payload, signature) = (payload?, signature?);
    let mut candidates = keys.iter().filter(|key| key.is_for(alg, kid)).peekable();
    if candidates.peek().is_none() {
        return Err(TokenFault::NoKey);
    }
    match candidates.any(|key| key.verifies(message.as_bytes(), &signature)) {
        true => Ok(payload),
        false => Err(TokenFault::Signature),
    }
}

#[cfg(test)]
#[path = "jws_tests.rs"]
mod tests;
