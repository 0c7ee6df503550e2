//! The certificate this process presents in every handshake, and the comparison of a peer's certificate with the
//! fingerprints it announced (RFC 8122 section 5). Whether a peer is trusted is decided by its announcement alone:
//! nobody looks at names, dates or issuers. Made once at the edge; compared by `transport`.

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use sha2::{Digest, Sha256, Sha384, Sha512};
use std::fmt;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum HashAlgorithm {
    Sha256,
    Sha384,
    Sha512,
}

impl HashAlgorithm {
    /// RFC 8122 section 5: the names of hash functions are compared without case.
    pub fn parse(name: &str) -> Option<HashAlgorithm> {
        [HashAlgorithm::Sha256, HashAlgorithm::Sha384, HashAlgorithm::Sha512]
            .into_iter()
            .find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
    }

    pub const fn name(self) -> &'static str {
        match self {
            HashAlgorithm::Sha256 => "sha-256",
            HashAlgorithm::Sha384 => "sha-384",
            HashAlgorithm::Sha512 => "sha-512",
        }
    }

    /// Bytes of a hash.
    const fn hash_len(self) -> usize {
        match self {
            HashAlgorithm::Sha256 => 32,
            HashAlgorithm::Sha384 => 48,
            HashAlgorithm::Sha512 => 64,
        }
    }

    fn hash(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            HashAlgorithm::Sha256 => Sha256::digest(bytes).to_vec(),
            HashAlgorithm::Sha384 => Sha384::digest(bytes).to_vec(),
            HashAlgorithm::Sha512 => Sha512::digest(bytes).to_vec(),
        }
    }
}

/// A certificate fingerprint as a client announced it; `value` is the raw hash.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fingerprint {
    pub algorithm: HashAlgorithm,
    pub value: Vec<u8>,
}

impl Fingerprint {
    /// From the form of SDP: `sha-256`, `AA:BB:…`. None for other algorithms, other lengths, anything but hex.
    pub fn parse(algorithm: &str, value: &str) -> Option<Fingerprint> {
        let algorithm = HashAlgorithm::parse(algorithm)?;
        if value.len() != algorithm.hash_len() * 3 - 1 {
            return None;
        }
        let value = value.split(':').map(hex_byte).collect::<Option<Vec<u8>>>()?;
        (value.len() == algorithm.hash_len()).then_some(Fingerprint { algorithm, value })
    }
}

fn hex_byte(pair: &str) -> Option<u8> {
    let well_formed = pair.len() == 2 && pair.bytes().all(|byte| byte.is_ascii_hexdigit());
    if well_formed { u8::from_str_radix(pair, 16).ok() } else { None }
}

/// Whether one of the announced fingerprints is that of the certificate `der`.
pub fn matches(announced: &[Fingerprint], der: &[u8]) -> bool {
    announced.iter().any(|fingerprint| fingerprint.algorithm.hash(der) == fingerprint.value)
}

/// The text form of a hash: upper case hex with colons (RFC 8122 section 5).
fn colons(hash: &[u8]) -> String {
    hash.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

#[derive(Debug)]
pub struct IdentityError(String);

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no certificate could be made ({}): is the system's random source available?", self.0)
    }
}

impl std::error::Error for IdentityError {}

/// The process's own key and self-signed certificate.
#[derive(Clone)]
pub struct Identity {
    certificate: Vec<u8>,
    /// PKCS #8.
    private_key: Vec<u8>,
}

impl Identity {
    /// A new ECDSA P-256 key with a certificate of its own. Reads the system's random source, so only edges call it.
    pub fn generate() -> Result<Identity, IdentityError> {
        let failed = |error: rcgen::Error| IdentityError(error.to_string());
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let params = rcgen::CertificateParams::new(vec!["weirgate".to_owned()]).map_err(failed)?;
        let certificate = params.self_signed(&key).map_err(failed)?;
        Ok(Identity { certificate: certificate.der().to_vec(), private_key: key.serialize_der() })
    }

    /// The certificate itself, as it is sent.
    pub fn der(&self) -> &[u8] {
        &self.certificate
    }

    pub fn fingerprint_sha256(&self) -> String {
        colons(&HashAlgorithm::Sha256.hash(self.der()))
    }

    /// PKCS #8.
    pub(super) fn private_key(&self) -> &[u8] {
        &self.private_key
    }

    pub(super) fn signer(&self) -> EcdsaKeyPair {
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &self.private_key, &SystemRandom::new())
            .expect("it was generated for this algorithm")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_read_without_regard_to_case() {
        let text = colons(&HashAlgorithm::Sha256.hash(b"certificate"));
        let upper = Fingerprint::parse("sha-256", &text).unwrap();
        assert_eq!(Fingerprint::parse("SHA-256", &text.to_lowercase()), Some(upper.clone()));
        assert!(matches(std::slice::from_ref(&upper), b"certificate"));
        assert!(!matches(&[upper], b"another certificate"));
        assert!(!matches(&[], b"certificate"));
    }

    #[test]
    fn any_announced_algorithm_may_match() {
        for name in ["sha-256", "sha-384", "sha-512"] {
            let algorithm = HashAlgorithm::parse(name).unwrap();
            let right = Fingerprint::parse(name, &colons(&algorithm.hash(b"x"))).unwrap();
            let wrong = Fingerprint { algorithm: HashAlgorithm::Sha256, value: vec![0; 32] };
            assert!(matches(&[wrong, right], b"x"));
        }
    }

    #[test]
    fn odd_text_is_no_fingerprint() {
        let good = colons(&[0xAB; 32]);
        assert!(Fingerprint::parse("sha-256", &good).is_some());
        for bad in ["", "AB", &good[..good.len() - 1], &good.replace(':', "-"), &good.replacen("AB", "+B", 1)] {
            assert!(Fingerprint::parse("sha-256", bad).is_none(), "{bad}");
        }
        assert!(Fingerprint::parse("sha-1", &good).is_none());
        assert!(Fingerprint::parse("sha-384", &good).is_none());
        assert!(Fingerprint::parse("sha-256", &format!("{}x", "é".repeat(47))).is_none());
    }

    #[test]
    fn an_identity_keeps_one_certificate() {
        let identity = Identity::generate().unwrap();
        let own = Fingerprint::parse("sha-256", &identity.fingerprint_sha256()).unwrap();
        assert!(matches(&[own], identity.der()));
        assert_eq!(identity.clone().der(), identity.der());
        assert_ne!(Identity::generate().unwrap().der(), identity.der());
    }
}
