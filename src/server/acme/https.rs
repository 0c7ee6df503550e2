//! The HTTP client for an authority that may hang, lie or have no end: https alone, a bound on time and on bytes, no
//! redirects (RFC 8555 has none). A connection for each request: an order has about a dozen.

use std::fmt;
use std::future::pending;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::poll_fn;
use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue, RETRY_AFTER};
use hyper::http::response::Parts;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use super::schedule::read_retry_after;
use crate::base::limits::{ACME_ADDRESSES_MAX, ACME_BODY_BYTES_MAX, ACME_REQUEST_WAIT, HTTP_HEADERS_MAX};
use crate::server::clock;

/// Of a response's head, and of what is read at once.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// For one address of the host, so that another gets its turn.
const CONNECT_WAIT: Duration = Duration::from_secs(5);

/// Why a request has no answer.
#[derive(Debug)]
pub(super) enum HttpsFault {
    NotHttps,
    /// With the last address that was tried.
    Connect(io::Error),
    Tls(io::Error),
    Silent,
    Endless,
    Redirect(StatusCode),
    Http(hyper::Error),
}

impl fmt::Display for HttpsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HttpsFault::NotHttps => f.write_str("the authority names an address that is no https URL"),
            HttpsFault::Connect(error) => write!(f, "the authority cannot be reached: {error}"),
            HttpsFault::Tls(error) => write!(f, "no TLS with the authority: {error}"),
            HttpsFault::Silent => write!(f, "the authority does not answer within {} s", ACME_REQUEST_WAIT.as_secs()),
            HttpsFault::Endless => write!(f, "the authority's answer is longer than {ACME_BODY_BYTES_MAX} bytes"),
            HttpsFault::Redirect(status) => write!(f, "the authority redirects ({status}), which is not followed"),
            HttpsFault::Http(error) => write!(f, "the authority's answer is no HTTP: {error}"),
        }
    }
}

impl std::error::Error for HttpsFault {}

/// The wait that an authority asked for when it refused.
#[derive(Clone, Default)]
pub(super) struct Asked(Arc<Mutex<Option<Duration>>>);

impl Asked {
    fn note(&self, wait: Option<Duration>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = wait;
    }

    pub(super) fn take(&self) -> Option<Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

pub(super) struct Https {
    connector: TlsConnector,
    asked: Asked,
}

impl Https {
    pub(super) fn new(roots: RootCertStore, asked: Asked) -> Result<Https, rustls::Error> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = builder.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth();
        Ok(Https { connector: TlsConnector::from(Arc::new(config)), asked })
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>>;

impl HttpClient for Https {
    fn request(&self, request: Request<BodyWrapper<Bytes>>) -> Answer {
        let (connector, asked) = (self.connector.clone(), self.asked.clone());
        Box::pin(async move {
            let exchange = timeout(ACME_REQUEST_WAIT, exchange(&connector, request));
            let (mut parts, body) =
                exchange.await.unwrap_or(Err(HttpsFault::Silent)).map_err(|fault| Error::Other(Box::new(fault)))?;
            let wait = bound_retry_after(&mut parts);
            if matches!(parts.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
                asked.note(wait);
            }
            Ok(BytesResponse { parts, body: Box::new(body) })
        })
    }
}

/// Rewrites the header within our bounds: the library adds whatever is in it to the time, which may overflow.
fn bound_retry_after(parts: &mut Parts) -> Option<Duration> {
    let header = parts.headers.remove(RETRY_AFTER)?;
    let wait = read_retry_after(header.to_str().ok()?, clock::wall())?;
    parts.headers.insert(RETRY_AFTER, HeaderValue::from(wait.as_secs()));
    Some(wait)
}

async fn exchange(
    connector: &TlsConnector,
    mut request: Request<BodyWrapper<Bytes>>,
) -> Result<(Parts, Bytes), HttpsFault> {
    let stream = connect(connector, request.uri()).await?;
    let host = match (request.uri().host(), request.uri().port_u16()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (host, _) => host.unwrap_or_default().to_owned(),
    };
    request.headers_mut().insert(HOST, HeaderValue::from_str(&host).map_err(|_| HttpsFault::NotHttps)?);
    // RFC 9112 section 3.2.1.
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    *request.uri_mut() = path.parse().map_err(|_| HttpsFault::NotHttps)?;
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_BYTES_MAX).max_headers(HTTP_HEADERS_MAX);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(HttpsFault::Http)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(HttpsFault::Http)?;
        if response.status().is_redirection() {
            return Err(HttpsFault::Redirect(response.status()));
        }
        let (parts, body) = response.into_parts();
        Ok((parts, whole(body).await?))
    };
    let running = async {
        // Its fault is the answer's.
        let _ = connection.await;
        pending().await
    };
    tokio::select! {
        answer = answer => answer,
        never = running => never,
    }
}

async fn connect(connector: &TlsConnector, uri: &Uri) -> Result<TlsStream<TcpStream>, HttpsFault> {
    let host = uri.host().filter(|_| uri.scheme_str() == Some("https")).ok_or(HttpsFault::NotHttps)?;
    let host = host.trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(host.clone()).map_err(|_| HttpsFault::NotHttps)?;
    let addresses = lookup_host((host, uri.port_u16().unwrap_or(443))).await.map_err(HttpsFault::Connect)?;
    let mut fault = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    for address in addresses.take(ACME_ADDRESSES_MAX) {
        match timeout(CONNECT_WAIT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return connector.connect(name, stream).await.map_err(HttpsFault::Tls),
            Ok(Err(error)) => fault = error,
            Err(_) => fault = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(HttpsFault::Connect(fault))
}

async fn whole(body: Incoming) -> Result<Bytes, HttpsFault> {
    let (mut body, mut read) = (pin!(body), Vec::new());
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let Ok(data) = frame.map_err(HttpsFault::Http)?.into_data() else { continue };
        if read.len() + data.len() > ACME_BODY_BYTES_MAX {
            return Err(HttpsFault::Endless);
        }
        read.extend_from_slice(&data);
    }
    Ok(read.into())
}
