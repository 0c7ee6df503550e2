//! A token made for trying, as the application of an operator makes them.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::rand::SecureRandom;
use ring::signature::{Ed25519KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use serde_json::{Map, Value, json};
use x509_parser::pem::Pem;

use super::key::SECRET_BYTES_MIN;
use super::key_file::secret;
use crate::base::limits::TOKEN_KEY_FILE_BYTES_MAX;

/// What a token is to say.
#[derive(Clone, PartialEq, Debug)]
pub struct TokenOrder {
    pub user: String,
    pub channels: Vec<String>,
    pub name: Option<String>,
    pub grants: Value,
    /// In seconds since 1970.
    pub issued: u64,
    pub expires: u64,
    pub jti: Option<String>,
    pub once: bool,
    pub admin: bool,
}

/// What signs it.
pub enum Signer {
    Secret(hmac::Key),
    Rsa(RsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// Why no token came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MintFault {
    /// The key is none: what to give.
    Key(&'static str),
    Signing,
}

impl fmt::Display for MintFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MintFault::Key(cure) => cure,
            MintFault::Signing => "the key does not sign",
        })
    }
}

impl Signer {
    /// From the bytes of a file: a private key in PEM (PKCS#8, or PKCS#1 for RSA), or a secret.
    pub fn read(bytes: &[u8]) -> Result<Signer, MintFault> {
        const KEYS: &str = "give a private key in PEM that is RSA from 2048 bits or Ed25519, or a secret";
        if bytes.len() as u64 > TOKEN_KEY_FILE_BYTES_MAX {
            return Err(MintFault::Key(KEYS));
        }
        if !bytes.trim_ascii_start().starts_with(b"-----BEGIN ") {
            let secret = secret(bytes);
            return match secret.len() >= SECRET_BYTES_MIN {
                true => Ok(Signer::Secret(hmac::Key::new(hmac::HMAC_SHA256, secret))),
                false => Err(MintFault::Key("give a secret of at least 32 bytes")),
            };
        }
        let Some(Ok(pem)) = Pem::iter_from_buffer(bytes).next() else { return Err(MintFault::Key(KEYS)) };
        let der = &pem.contents;
        match pem.label.as_str() {
            "RSA PRIVATE KEY" => RsaKeyPair::from_der(der).map(Signer::Rsa).map_err(|_| MintFault::Key(KEYS)),
            "PRIVATE KEY" => RsaKeyPair::from_pkcs8(der)
                .map(Signer::Rsa)
                // OpenSSL leaves out the public half.
                .or_else(|_| Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map(Signer::Ed25519))
                .map_err(|_| MintFault::Key(KEYS)),
            _ => Err(MintFault::Key(KEYS)),
        }
    }

    const fn alg(&self) -> &'static str {
        match self {
            Signer::Secret(_) => "HS256",
            Signer::Rsa(_) => "RS256",
            Signer::Ed25519(_) => "EdDSA",
        }
    }

    pub fn token(&self, order: &TokenOrder, random: &dyn SecureRandom) -> Result<String, MintFault> {
        self.sign(&json!({ "alg": self.alg(), "typ": "JWT" }), &order.claims(), random)
    }

    /// Any header over any claims.
    pub fn sign(&self, header: &Value, claims: &Value, random: &dyn SecureRandom) -> Result<String, MintFault> {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let signature = match self {
            Signer::Secret(key) => hmac::sign(key, message.as_bytes()).as_ref().to_vec(),
            Signer::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                let signed = key.sign(&RSA_PKCS1_SHA256, random, message.as_bytes(), &mut signature);
                signed.map_err(|_| MintFault::Signing)?;
                signature
            }
            Signer::Ed25519(key) => key.sign(message.as_bytes()).as_ref().to_vec(),
        };
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

impl TokenOrder {
    fn claims(&self) -> Value {
        let mut claims = Map::new();
        let channel = match self.channels.as_slice() {
            [one] => json!(one),
            many => json!(many),
        };
        let needed = [
            ("sub", json!(self.user)),
            ("grants", self.grants.clone()),
            ("iat", json!(self.issued)),
            ("exp", json!(self.expires)),
        ];
        claims.extend(needed.map(|(name, value)| (name.to_owned(), value)));
        claims.extend((!self.channels.is_empty()).then(|| ("channel".to_owned(), channel)));
        claims.extend(self.admin.then(|| ("admin".to_owned(), json!(true))));
        claims.extend(self.name.iter().map(|name| ("name".to_owned(), json!(name))));
        claims.extend(self.jti.iter().map(|jti| ("jti".to_owned(), json!(jti))));
        claims.extend(self.once.then(|| ("once".to_owned(), json!(true))));
        Value::Object(claims)
    }
}
