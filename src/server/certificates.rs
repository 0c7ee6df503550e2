//! The certificate chain of the public listener and its key, read from two PEM files: at the start by `main`, and again
//! on the signalling thread's behalf when they change or somebody asks. A pair that cannot be used changes nothing. Or
//! made at the start ([`super::self_signed`]).

use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{self, ServerConfig};

use super::{self_signed, watched};
use crate::base::limits::TLS_FILE_BYTES_MAX;

/// The two files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CertificateFiles {
    /// The server's certificate first, then its intermediates.
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Why a pair cannot be used, and what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFault {
    pub what: String,
    pub cure: String,
}

/// What TLS needs of its operator, in use for every new connection.
pub struct Certificates {
    /// None: it was made here, and stays.
    files: Option<CertificateFiles>,
    /// The state of the files that the first was read from, or an older one.
    read: watched::Stamp,
    current: RefCell<Arc<ServerConfig>>,
}

fn fault<T>(what: String, cure: &str) -> Result<T, TlsFault> {
    Err(TlsFault { what, cure: cure.to_owned() })
}

fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_protocol_versions(&[&TLS13, &TLS12])?;
    let mut config = builder.with_no_client_auth().with_single_cert(chain, key)?;
    // RFC 7301: a client that asks for protocols and not for this one is refused in the handshake.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

impl CertificateFiles {
    /// Reads both. Blocks on the disk.
    fn load(&self) -> Result<Arc<ServerConfig>, TlsFault> {
        let read = |path: &Path, setting: &str| {
            let right = format!("name a PEM file that this user may read with {setting}");
            watched::read(path, TLS_FILE_BYTES_MAX)
                .or_else(|why| fault(format!("the file {} of {setting} {why}", path.display()), &right))
        };
        let (certificate, key) = (read(&self.certificate, "--tls-cert")?, read(&self.key, "--tls-key")?);
        let chain = self.chain(&certificate)?;
        let key = self.private_key(&key)?;
        server_config(chain, key).or_else(|error| self.unfit(&error))
    }

    fn paths(&self) -> Vec<PathBuf> {
        vec![self.certificate.clone(), self.key.clone()]
    }

    fn chain(&self, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsFault> {
        let name = format!("the file {} of --tls-cert", self.certificate.display());
        let chain: Result<Vec<_>, PemError> = CertificateDer::pem_slice_iter(pem).collect();
        let right = "give it the server's certificate in PEM, then its intermediates (fullchain.pem of an ACME client)";
        match chain {
            Ok(chain) if chain.is_empty() => fault(format!("{name} holds no certificate"), right),
            Ok(chain) => Ok(chain),
            Err(error) => fault(format!("{name} is no PEM: {error}"), right),
        }
    }

    fn private_key(&self, pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsFault> {
        let name = format!("the file {} of --tls-key", self.key.display());
        let right = "give it the certificate's private key in PEM: PKCS#8, SEC1 or PKCS#1";
        match PrivateKeyDer::from_pem_slice(pem) {
            Ok(key) => Ok(key),
            Err(PemError::NoItemsFound) if pem.windows(21).any(|part| part == b"ENCRYPTED PRIVATE KEY") => {
                fault(format!("{name} is encrypted"), "decrypt it: openssl pkey -in KEY -out PLAIN_KEY")
            }
            Err(PemError::NoItemsFound) => fault(format!("{name} holds no private key"), right),
            Err(error) => fault(format!("{name} is no PEM: {error}"), right),
        }
    }

    fn unfit<T>(&self, error: &rustls::Error) -> Result<T, TlsFault> {
        let (certificate, key) = (self.certificate.display(), self.key.display());
        match error {
            rustls::Error::InconsistentKeys(_) => fault(
                format!("the key {key} does not belong to the first certificate of {certificate}"),
                "give --tls-key the key that the certificate was made for, and --tls-cert the server's own certificate first",
            ),
            error => fault(
                format!("the pair {certificate} and {key} cannot be used: {error}"),
                "use a certificate of X.509 v3 with a key of ECDSA P-256 or P-384, Ed25519, or RSA from 2048 bits",
            ),
        }
    }
}

impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.cure)
    }
}

impl Certificates {
    /// Reads the files.
    pub fn load(files: CertificateFiles) -> Result<Certificates, TlsFault> {
        let read = watched::stamp(&files.paths());
        let current = RefCell::new(files.load()?);
        Ok(Certificates { files: Some(files), read, current })
    }

    /// Makes one that is good for these host names and addresses until the process ends.
    pub fn self_signed(names: Vec<String>) -> Result<Certificates, TlsFault> {
        let cure = "see that the system's random source is available, or give --tls-cert and --tls-key";
        let made = self_signed::make(names).map_err(|error| error.to_string());
        let config = made.and_then(|(chain, key)| server_config(vec![chain], key).map_err(|error| error.to_string()));
        match config {
            Ok(config) => Ok(Certificates { files: None, read: None, current: RefCell::new(config) }),
            Err(error) => fault(format!("no certificate could be made: {error}"), cure),
        }
    }

    /// For one connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.current.borrow().clone().into()
    }

    /// Keeps up with the files for ever, where there are some. `asked`: somebody wants them read at once.
    pub(super) async fn keep_up(&self, asked: &Notify) {
        let Some(files) = &self.files else { return };
        watched::keep_up(files.paths(), self.read.clone(), asked, async || self.reload(files).await).await;
    }

    async fn reload(&self, files: &CertificateFiles) {
        let certificate = files.certificate.display();
        let read = files.clone();
        match watched::blocking(move || read.load()).await {
            Some(Ok(config)) => {
                self.current.replace(config);
                tracing::info!(%certificate, "new connections get the certificate that was just read");
            }
            Some(Err(TlsFault { what, cure })) => {
                tracing::warn!(cure, "the certificate in use stays: {what}");
            }
            None => tracing::warn!(%certificate, "the certificate in use stays: reading the files panicked"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A folder of this test alone.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("weirgate-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }

        fn file(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, text).unwrap();
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn pair() -> (String, String) {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        (cert.pem(), signing_key.serialize_pem())
    }

    #[test]
    fn each_fault_of_a_pair_has_its_cause_and_its_cure() {
        let folder = Folder::new("pair-faults");
        let ((certificate, key), (_, other)) = (pair(), pair());
        let certificate = folder.file("cert.pem", &certificate);
        let key = folder.file("key.pem", &key);
        let load = |certificate: &Path, key: &Path| {
            let files = CertificateFiles { certificate: certificate.to_owned(), key: key.to_owned() };
            Certificates::load(files).map(|_| ())
        };
        assert_eq!(load(&certificate, &key), Ok(()));
        let other = folder.file("other.pem", &other);
        let none = folder.file("none.pem", "nothing here\n");
        let broken = folder.file("broken.pem", "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n");
        let sealed = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let sealed = folder.file("sealed.pem", sealed);
        let long = folder.file("long.pem", &"x".repeat(TLS_FILE_BYTES_MAX as usize + 1));
        let junk = "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n";
        let junk = folder.file("junk.pem", junk);
        let absent = folder.0.join("absent.pem");
        for (certificate, key, what, cure) in [
            (&absent, &key, "--tls-cert cannot be read: No such file", "PEM file that this user may read"),
            (&certificate, &absent, "--tls-key cannot be read: No such file", "with --tls-key"),
            (&folder.0, &key, "is no regular file", "--tls-cert"),
            (&long, &key, "is longer than", "--tls-cert"),
            (&none, &key, "holds no certificate", "fullchain.pem"),
            (&key, &certificate, "holds no certificate", "the server's certificate"),
            (&broken, &key, "is no PEM", "in PEM"),
            (&certificate, &none, "holds no private key", "PKCS#8, SEC1 or PKCS#1"),
            (&certificate, &sealed, "is encrypted", "openssl pkey"),
            (&certificate, &junk, "cannot be used", "ECDSA P-256"),
            (
                &certificate,
                &other,
                "does not belong to the first certificate",
                "the key that the certificate was made for",
            ),
        ] {
            let fault = load(certificate, key).unwrap_err();
            assert!(fault.what.contains(what) && fault.cure.contains(cure), "{what}: {fault:?}");
        }
    }
}
