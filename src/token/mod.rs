//! Tokens that say who somebody is: JSON Web Tokens (RFC 7519) under HS256, RS256 and EdDSA. Keys, a token's text and
//! the time as seconds since 1970 go in; [`Claims`] or a named refusal come out. What must hold before a byte of the
//! payload is believed is in `jws`, by RFC 8725.

mod channels;
mod claims;
mod fault;
#[cfg(test)]
#[path = "fixture_tests.rs"]
mod fixture;
mod jws;
mod key;
mod key_file;
mod mint;
mod strict_json;

pub use channels::Channels;
pub use claims::Claims;
pub use fault::TokenFault;
pub use key_file::{KeyFault, TokenKeys};
pub use mint::{MintFault, Signer, TokenOrder};
