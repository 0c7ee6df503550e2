//! Names that are being proved by TLS-ALPN-01 (RFC 8737), and what a ClientHello is presented.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use tokio_rustls::rustls;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;

use crate::server::in_use::{HTTP, Presented, Validity};

/// RFC 8737 section 6.2.
pub(in crate::server) const PROTOCOL: &[u8] = b"acme-tls/1";

type Proofs = BTreeMap<String, Arc<CertifiedKey>>;

#[derive(Clone, Default)]
pub(super) struct Challenges(Arc<Mutex<Proofs>>);

impl Challenges {
    fn lock(&self) -> MutexGuard<'_, Proofs> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has this name proved, which is one of ours, in lower case.
    pub(super) fn add(&self, name: &str, digest: &[u8; 32]) -> Result<(), rcgen::Error> {
        let proof = proof(name, digest)?;
        self.lock().insert(name.to_owned(), Arc::new(proof));
        Ok(())
    }

    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    fn of(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        // RFC 4343: names are compared without case.
        self.lock().get(&name.to_ascii_lowercase()).cloned()
    }

    /// A certificate for everybody else, beside these.
    pub(super) fn beside(&self, own: CertifiedKey, validity: Option<Validity>) -> Result<Presented, rustls::Error> {
        let resolver = ByProtocol { own: Arc::new(own), challenges: self.clone() };
        Presented::by(Arc::new(resolver), &[HTTP, PROTOCOL], validity)
    }
}

/// RFC 8737 section 3: the name, and the digest in a critical extension.
fn proof(name: &str, digest: &[u8; 32]) -> Result<CertifiedKey, rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let certificate = params.self_signed(&key)?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
    // A critical extension that it does not know keeps the library from comparing the two.
    let key = ring::sign::any_supported_type(&key).map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
    Ok(CertifiedKey::new(vec![certificate.der().clone()], key))
}

struct ByProtocol {
    own: Arc<CertifiedKey>,
    challenges: Challenges,
}

impl fmt::Debug for ByProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ByProtocol")
    }
}

impl ByProtocol {
    /// None: there is nothing for this ClientHello.
    fn choose(&self, protocols: Option<&[&[u8]]>, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        match protocols {
            // RFC 8737 section 3: a validation offers this protocol alone, with the name that is being proved.
            Some([PROTOCOL]) => self.challenges.of(name?),
            // One that offers it among others is no validation; where http/1.1 is not among them it would be agreed on.
            Some(protocols) if protocols.contains(&PROTOCOL) && !protocols.contains(&HTTP) => None,
            _ => Some(self.own.clone()),
        }
    }
}

impl ResolvesServerCert for ByProtocol {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let protocols: Option<Vec<&[u8]>> = hello.alpn().map(Iterator::collect);
        self.choose(protocols.as_deref(), hello.server_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proof_is_for_its_name_and_its_protocol_alone() {
        let challenges = Challenges::default();
        let own = Arc::new(proof("own.example", &[0; 32]).unwrap());
        let resolver = ByProtocol { own: own.clone(), challenges: challenges.clone() };
        challenges.add("a.example", &[7; 32]).unwrap();
        let chosen = |protocols: Option<&[&[u8]]>, name| resolver.choose(protocols, name);
        let is_own = |found: Option<Arc<CertifiedKey>>| found.is_some_and(|found| Arc::ptr_eq(&found, &own));
        let proof = chosen(Some(&[PROTOCOL]), Some("A.Example")).expect("it is being proved");
        assert!(!Arc::ptr_eq(&proof, &own));
        for name in [None, Some("b.example"), Some("own.example"), Some("a.example.b"), Some("")] {
            assert!(chosen(Some(&[PROTOCOL]), name).is_none(), "{name:?}");
        }
        for protocols in [&[PROTOCOL, b"h2"][..], &[b"h2", PROTOCOL], &[PROTOCOL, PROTOCOL]] {
            assert!(chosen(Some(protocols), Some("a.example")).is_none(), "{protocols:?}");
        }
        for protocols in [None, Some(&[][..]), Some(&[HTTP]), Some(&[PROTOCOL, HTTP]), Some(&[HTTP, PROTOCOL])] {
            assert!(is_own(chosen(protocols, Some("a.example"))), "{protocols:?}");
        }
        challenges.clear();
        assert!(chosen(Some(&[PROTOCOL]), Some("a.example")).is_none(), "it is proved");
    }

    #[test]
    fn a_proof_has_one_name_and_the_digest_in_a_critical_extension() {
        use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

        let made = proof("a.example", &[7; 32]).unwrap();
        let (_, certificate) = X509Certificate::from_der(&made.cert[0]).unwrap();
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        assert!(matches!(names.value.general_names[..], [GeneralName::DNSName("a.example")]));
        let identifier = certificate.extensions().iter().find(|ext| ext.oid.to_id_string() == "1.3.6.1.5.5.7.1.31");
        let identifier = identifier.unwrap();
        // An OCTET STRING of 32 bytes.
        let expected = [&[4, 32][..], &[7; 32]].concat();
        assert_eq!((identifier.critical, identifier.value), (true, &expected[..]));
    }
}
