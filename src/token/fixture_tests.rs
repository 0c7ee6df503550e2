//! Keys for the unit tests of this room, and tokens that they sign.

use ring::rand::SystemRandom;
use serde_json::{Value, json};

use super::fault::TokenFault;
use super::key_file::TokenKeys;
use super::mint::Signer;

pub(super) const SECRET: &[u8] = b"a secret of more than 32 bytes, for tests alone";
pub(super) const RSA: &[u8] = include_bytes!("../../tests/data/token/rsa.pem");
pub(super) const RSA_PUBLIC: &[u8] = include_bytes!("../../tests/data/token/rsa.pub.pem");
pub(super) const ED: &[u8] = include_bytes!("../../tests/data/token/ed.pem");
pub(super) const ED_PUBLIC: &[u8] = include_bytes!("../../tests/data/token/ed.pub.pem");

/// The moment of all tests.
pub(super) const NOW: u64 = 1_800_000_000;

pub(super) fn keys(files: &[&[u8]]) -> TokenKeys {
    TokenKeys::read(files.iter().map(|bytes| ("a file", *bytes))).expect("they are keys")
}

pub(super) fn claims() -> Value {
    json!({
        "sub": "anna", "channel": "room", "exp": NOW + 60,
        "grants": { "join": true, "publish": true, "subscribe": true },
    })
}

/// The claims with one of them set, or left out where it is null.
pub(super) fn claims_with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    let map = claims.as_object_mut().expect("an object");
    match value {
        Value::Null => map.remove(name),
        value => map.insert(name.to_owned(), value),
    };
    claims
}

pub(super) fn signed(key: &[u8], header: &Value, claims: &Value) -> String {
    let signer = Signer::read(key).expect("it is a key");
    signer.sign(header, claims, &SystemRandom::new()).expect("it signs")
}

pub(super) fn hs256(claims: &Value) -> String {
    signed(SECRET, &json!({ "alg": "HS256" }), claims)
}

/// Of a token under the secret alone.
pub(super) fn judged(claims: &Value) -> Result<(), TokenFault> {
    keys(&[SECRET]).verify(&hs256(claims), NOW, 0).map(|_| ())
}
