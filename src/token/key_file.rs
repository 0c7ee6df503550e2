//! Keys from the bytes of files: a secret as it is, a public key in PEM, or a set of keys in JSON (RFC 7517).

use std::fmt;

use serde_json::Value;
use x509_parser::oid_registry::OID_SIG_ED25519;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::{PublicKey, RSAPublicKey};
use x509_parser::x509::SubjectPublicKeyInfo;

use super::claims::Claims;
use super::fault::TokenFault;
use super::jws;
use super::key::{Material, SECRET_BYTES_MIN, TokenKey};
use crate::base::limits::{TOKEN_KEY_FILE_BYTES_MAX, TOKEN_KEYS_MAX};

/// Why a file is of no use, and what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyFault {
    pub what: String,
    pub cure: String,
}

impl fmt::Display for KeyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.cure)
    }
}

/// What tokens are checked with; at most [`TOKEN_KEYS_MAX`].
#[derive(Debug, Default)]
pub struct TokenKeys(Vec<TokenKey>);

impl TokenKeys {
    /// From files, each by its name for the operator.
    pub fn read<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<TokenKeys, KeyFault> {
        let mut keys = Vec::new();
        for (name, bytes) in files {
            let fault = |(what, cure): (&str, &str)| KeyFault { what: format!("{name} {what}"), cure: cure.to_owned() };
            keys.append(&mut read(bytes).map_err(fault)?);
            if keys.len() > TOKEN_KEYS_MAX {
                return Err(fault((
                    "brings more keys than the 16 that there may be",
                    "leave out keys that are not in use",
                )));
            }
        }
        Ok(TokenKeys(keys))
    }

    /// The claims of a token that one of these keys has signed, that holds now, and that says all that is needed.
    /// `unix` is the time in seconds since 1970.
    pub fn verify(&self, token: &str, unix: u64, leeway: u64) -> Result<Claims, TokenFault> {
        let payload = jws::open(&self.0, token)?;
        let claims = Claims::read(&payload)?;
        claims.hold_at(unix, leeway)?;
        Ok(claims)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

type Fault = (&'static str, &'static str);

const RIGHT: &str = "give a secret of at least 32 bytes, a public key in PEM, or a JWKS";

fn read(bytes: &[u8]) -> Result<Vec<TokenKey>, Fault> {
    if bytes.len() as u64 > TOKEN_KEY_FILE_BYTES_MAX {
        return Err(("is longer than 64 KiB", RIGHT));
    }
    let text = std::str::from_utf8(bytes).map(str::trim).unwrap_or_default();
    if text.starts_with("-----BEGIN ") {
        return pem(bytes).map(|material| vec![TokenKey { kid: None, material }]);
    }
    if text.starts_with('{') && text.ends_with('}') {
        return jwks(text);
    }
    let material = Material::secret(secret(bytes)).ok_or(("holds a secret of fewer than 32 bytes", RIGHT))?;
    Ok(vec![TokenKey { kid: None, material }])
}

/// A secret that was written as a text ends before its last line end, which editors add.
pub(super) fn secret(bytes: &[u8]) -> &[u8] {
    let line = bytes.strip_suffix(b"\r\n").or(bytes.strip_suffix(b"\n")).unwrap_or(bytes);
    let printable = line.iter().all(|byte| (b' '..=b'~').contains(byte));
    if printable { line } else { bytes }
}

fn pem(bytes: &[u8]) -> Result<Material, Fault> {
    const PUBLIC: &str = "give it a public key: openssl pkey -in PRIVATE_KEY -pubout";
    const TAKEN: &str = "use an RSA key from 2048 to 8192 bits, or Ed25519";
    let broken = ("is no PEM", PUBLIC);
    let mut items = Pem::iter_from_buffer(bytes);
    let (Some(Ok(pem)), None) = (items.next(), items.next()) else { return Err(broken) };
    let rsa = |key: &RSAPublicKey<'_>| {
        Material::rsa(key.modulus, key.exponent).ok_or(("holds an RSA key that is not taken here", TAKEN))
    };
    match pem.label.as_str() {
        "PUBLIC KEY" => {
            let (_, spki) = SubjectPublicKeyInfo::from_der(&pem.contents).map_err(|_| broken)?;
            if spki.algorithm.algorithm == OID_SIG_ED25519 {
                let point = spki.subject_public_key.data.as_ref().try_into();
                return point.map(Material::Ed25519).map_err(|_| broken);
            }
            match spki.parsed() {
                Ok(PublicKey::RSA(key)) => rsa(&key),
                _ => Err(("holds a key of a kind that is not taken here", TAKEN)),
            }
        }
        "RSA PUBLIC KEY" => RSAPublicKey::from_der(&pem.contents).map_err(|_| broken).and_then(|(_, key)| rsa(&key)),
        label if label.ends_with("PRIVATE KEY") => Err(("holds a private key, which has no business here", PUBLIC)),
        _ => Err(("holds no public key", PUBLIC)),
    }
}

/// A set, or a single key. Keys of other kinds and for other uses are passed over (RFC 7517 section 5).
fn jwks(text: &str) -> Result<Vec<TokenKey>, Fault> {
    let broken = ("is no JWKS", "give it an object with keys: {\"keys\":[…]} (RFC 7517)");
    let set: Value = serde_json::from_str(text).map_err(|_| broken)?;
    let single;
    let listed = match set.get("keys") {
        Some(Value::Array(keys)) => keys,
        Some(_) => return Err(broken),
        None => {
            single = vec![set];
            &single
        }
    };
    let mut keys = Vec::new();
    for key in listed {
        if key.get("d").is_some() {
            return Err(("holds a private key, which has no business here", "leave out d and what else is private"));
        }
        keys.extend(jwk(key)?);
    }
    match keys.is_empty() {
        true => {
            Err(("holds no key that is taken here", "use RSA from 2048 bits for RS256, OKP Ed25519, or oct for HS256"))
        }
        false => Ok(keys),
    }
}

fn jwk(key: &Value) -> Result<Option<TokenKey>, Fault> {
    let broken = (
        "holds a key without its parts, or of a length that is not taken here",
        "make the set anew (RFC 7518 section 6)",
    );
    let field = |name: &str| key.get(name).and_then(Value::as_str);
    let bytes = |name: &str| field(name).and_then(jws::decode).ok_or(broken);
    let is_for = |algs: &[&str]| {
        let used = field("use").is_none_or(|used| used == "sig");
        used && field("alg").is_none_or(|alg| algs.contains(&alg))
    };
    let material = match (field("kty"), field("crv")) {
        (Some("RSA"), _) if is_for(&["RS256"]) => Material::rsa(&bytes("n")?, &bytes("e")?),
        (Some("OKP"), Some("Ed25519")) if is_for(&["EdDSA", "Ed25519"]) => {
            <[u8; 32]>::try_from(bytes("x")?).ok().map(Material::Ed25519)
        }
        (Some("oct"), _) if is_for(&["HS256"]) => Material::secret(&bytes("k")?),
        _ => return Ok(None),
    };
    Ok(Some(TokenKey { kid: field("kid").map(str::to_owned), material: material.ok_or(broken)? }))
}

const _: () =
    assert!(SECRET_BYTES_MIN == 32 && TOKEN_KEYS_MAX == 16 && TOKEN_KEY_FILE_BYTES_MAX == 64 * 1024, "as said");

#[cfg(test)]
#[path = "key_file_tests.rs"]
mod tests;
