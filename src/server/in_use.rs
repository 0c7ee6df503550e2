//! The certificate that new connections get, and until when it holds. Whoever has another one, on whatever thread, puts
//! it here.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::ResolvesServerCert;
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{self, ServerConfig};
use x509_parser::prelude::{FromDer, X509Certificate};

/// RFC 7301: a client that asks for protocols and not for this one is refused in the handshake.
pub(super) const HTTP: &[u8] = b"http/1.1";

/// When a certificate begins and ends to hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Validity {
    pub(super) begins: SystemTime,
    pub(super) ends: SystemTime,
}

impl Validity {
    /// None: it cannot be read.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Validity> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let at = |time: x509_parser::time::ASN1Time| {
            let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
            UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
        };
        let validity = certificate.validity();
        Some(Validity { begins: at(validity.not_before)?, ends: at(validity.not_after)? })
    }
}

/// A certificate with its key, ready to be presented.
#[derive(Clone)]
pub(super) struct Presented {
    pub(super) config: Arc<ServerConfig>,
    pub(super) validity: Option<Validity>,
}

/// The chain and the key as one; an error when they do not belong together.
pub(super) fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, rustls::Error> {
    CertifiedKey::from_der(chain, key, &ring::default_provider())
}

impl Presented {
    /// To every client.
    pub(super) fn to_all(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Presented, rustls::Error> {
        let validity = chain.first().and_then(Validity::of);
        let mut config = builder()?.with_single_cert(chain, key)?;
        config.alpn_protocols = vec![HTTP.to_vec()];
        Ok(Presented { config: Arc::new(config), validity })
    }

    /// As this resolver says, of which `validity` is known; `protocols` in our order of preference.
    pub(super) fn by(
        resolver: Arc<dyn ResolvesServerCert>,
        protocols: &[&[u8]],
        validity: Option<Validity>,
    ) -> Result<Presented, rustls::Error> {
        let mut config = builder()?.with_cert_resolver(resolver);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Presented { config: Arc::new(config), validity })
    }
}

fn builder() -> Result<rustls::ConfigBuilder<ServerConfig, rustls::server::WantsServerCert>, rustls::Error> {
    let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13, &TLS12])?;
    Ok(builder.with_no_client_auth())
}

pub(super) struct InUse(Mutex<Presented>);

impl InUse {
    pub(super) fn new(presented: Presented) -> InUse {
        InUse(Mutex::new(presented))
    }

    fn lock(&self) -> MutexGuard<'_, Presented> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Open connections keep theirs.
    pub(super) fn replace(&self, presented: Presented) {
        *self.lock() = presented;
    }

    /// For one connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.lock().config.clone().into()
    }

    pub(super) fn validity(&self) -> Option<Validity> {
        self.lock().validity
    }
}
