use serde_json::json;

use super::super::fixture::{ED, ED_PUBLIC, RSA, RSA_PUBLIC, SECRET};
use super::*;

const RSA_PKCS1: &[u8] = include_bytes!("../../tests/data/token/rsa.pub1.pem");
const SMALL: &[u8] = include_bytes!("../../tests/data/token/small.pub.pem");
const EC: &[u8] = include_bytes!("../../tests/data/token/ec.pub.pem");

fn kinds(bytes: &[u8]) -> Result<Vec<String>, Fault> {
    read(bytes).map(|keys| keys.iter().map(|key| format!("{key:?}")).collect())
}

#[test]
fn a_file_is_a_secret_a_public_key_or_a_set() {
    let one = |alg: &str| Ok(vec![format!("a key for {alg}, kid None")]);
    assert_eq!([kinds(SECRET), kinds(&[0xff; 32])], [one("HS256"), one("HS256")]);
    assert_eq!([kinds(RSA_PUBLIC), kinds(RSA_PKCS1), kinds(ED_PUBLIC)], [one("RS256"), one("RS256"), one("EdDSA")]);
    let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    let set = json!({ "keys": [
        { "kty": "OKP", "crv": "Ed25519", "x": x, "kid": "a", "alg": "EdDSA", "use": "sig" },
        { "kty": "EC", "crv": "P-256", "x": x, "y": x },
        { "kty": "OKP", "crv": "X25519", "x": x },
        { "kty": "OKP", "crv": "Ed25519", "x": x, "use": "enc" },
        { "kty": "oct", "k": "AAAA", "alg": "A128KW" },
        { "kty": "new" },
        7,
        { "kty": "oct", "k": x, "kid": "b" },
    ] });
    let both = ["a key for EdDSA, kid Some(\"a\")", "a key for HS256, kid Some(\"b\")"].map(str::to_owned).to_vec();
    assert_eq!(kinds(format!(" {set}\n").as_bytes()), Ok(both));
    assert_eq!(kinds(json!({ "kty": "OKP", "crv": "Ed25519", "x": x }).to_string().as_bytes()), one("EdDSA"));
}

#[test]
fn a_line_end_is_no_part_of_a_secret_that_is_text() {
    let bytes = |last: &[u8], fill: u8| [&[fill; 32][..], last].concat();
    for end in [&b""[..], b"\n", b"\r\n"] {
        assert_eq!(secret(&bytes(end, b'x')), [b'x'; 32]);
        assert_eq!(secret(&bytes(end, 0x80)), bytes(end, 0x80), "of bytes, all count");
    }
    assert_eq!(secret(b"a\n\n"), b"a\n\n");
    assert!(read(&[&[b'x'; 31][..], b"\n"].concat()).is_err());
}

#[test]
fn each_fault_of_a_file_has_its_cause_and_its_cure() {
    let jwk = |key: Value| json!({ "keys": [key] }).to_string().into_bytes();
    for (bytes, what) in [
        (vec![], "fewer than 32"),
        (b"short\n".to_vec(), "fewer than 32"),
        (vec![b'x'; 64 * 1024 + 1], "longer"),
        (RSA.to_vec(), "private key"),
        (ED.to_vec(), "private key"),
        (SMALL.to_vec(), "RSA key that is not taken"),
        (EC.to_vec(), "a kind that is not taken"),
        ([RSA_PUBLIC, ED_PUBLIC].concat(), "no PEM"),
        (b"-----BEGIN PUBLIC KEY-----\n!!\n-----END PUBLIC KEY-----\n".to_vec(), "no PEM"),
        (b"-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----\n".to_vec(), "no PEM"),
        (b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n".to_vec(), "no public key"),
        (b"{ not JSON }".to_vec(), "no JWKS"),
        (b"{\"keys\":7}".to_vec(), "no JWKS"),
        (b"{\"keys\":[]}".to_vec(), "no key that is taken"),
        (jwk(json!({ "kty": "RSA", "n": "AAAA", "e": "AQAB" })), "of a length"),
        (jwk(json!({ "kty": "RSA", "e": "AQAB" })), "without its parts"),
        (jwk(json!({ "kty": "OKP", "crv": "Ed25519", "x": "AAAA" })), "of a length"),
        (jwk(json!({ "kty": "oct", "k": "c2hvcnQ" })), "of a length"),
        (jwk(json!({ "kty": "OKP", "crv": "Ed25519", "x": "AAAA", "d": "AAAA" })), "private key"),
    ] {
        let fault = TokenKeys::read([("the file x", &bytes[..])]).unwrap_err();
        assert!(fault.what.starts_with("the file x ") && fault.what.contains(what), "{what}: {fault:?}");
        assert!(fault.cure.len() > 10);
    }
    let many = vec![("a secret", SECRET); TOKEN_KEYS_MAX + 1];
    assert!(TokenKeys::read(many[1..].iter().copied()).is_ok());
    assert!(TokenKeys::read(many).unwrap_err().what.contains("more keys"));
}
