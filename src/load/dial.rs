//! The way to a server's WebSocket: plain, or by TLS for `wss:`, with the server's certificate verified by what this
//! machine trusts, or not at all where the user says so.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{WebSocketStream, client_async};

/// Where Debian, and where Fedora, keep the certificates that a machine trusts.
const TRUSTED: [&str; 2] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

pub trait Wire: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Wire for T {}

/// What a server's certificate is verified by; read once for all peers.
#[derive(Clone)]
pub struct Trust(Arc<ClientConfig>);

impl Trust {
    /// `insecure`: whatever comes. A machine that keeps no list of its own trusts nobody.
    pub fn new(insecure: bool) -> Result<Trust, Error> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let mut roots = RootCertStore::empty();
        if !insecure {
            let lists = TRUSTED.iter().filter_map(|path| CertificateDer::pem_file_iter(path).ok());
            roots.add_parsable_certificates(lists.flatten().flatten());
        }
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        if insecure {
            config.dangerous().set_certificate_verifier(Arc::new(Anybody(provider)));
        }
        Ok(Trust(Arc::new(config)))
    }
}

/// Opens it; also gives the server's address.
pub async fn dial(url: &str, trust: &Trust) -> Result<(WebSocketStream<Box<dyn Wire>>, Option<IpAddr>), String> {
    // The query may hold a token.
    let place = url.split('?').next().unwrap_or(url);
    let failed = |error: &dyn std::fmt::Display| format!("no WebSocket at {place}: {error}");
    let request = url.into_client_request().map_err(|error| failed(&error))?;
    let uri = request.uri();
    let tls = uri.scheme_str() == Some("wss");
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|error| failed(&error))?;
    stream.set_nodelay(true).map_err(|error| failed(&error))?;
    let server = stream.peer_addr().ok().map(|address| address.ip());
    let wire: Box<dyn Wire> = if tls {
        let name = ServerName::try_from(host).map_err(|error| failed(&error))?;
        let connected = TlsConnector::from(trust.0.clone()).connect(name, stream).await;
        Box::new(connected.map_err(|error| failed(&advised(error)))?)
    } else {
        Box::new(stream)
    };
    let (socket, _) = client_async(request, wire).await.map_err(|error| failed(&error))?;
    Ok((socket, server))
}

/// The cure for a certificate that nobody vouches for.
fn advised(error: io::Error) -> String {
    let of_certificate = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref())
        .is_some_and(|inner| matches!(inner, Error::InvalidCertificate(_)));
    if of_certificate { format!("{error}; a self-signed one needs --insecure") } else { error.to_string() }
}

/// Trusts every certificate, if its owner is who speaks.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
