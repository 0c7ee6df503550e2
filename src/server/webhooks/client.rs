//! One attempt to bring an event to a hook: HTTP/1.1 or HTTPS to the address that the operator gave and no other.
//! Redirects are not followed, and an answer is read no further than its head needs.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use super::counts::HookFailure;
use crate::base::limits::{HTTP_HEAD_BYTES_MAX, HTTP_HEADERS_MAX};

/// Bytes of an answer's body that are read to keep the connection, and for how long.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
const ANSWER_WAIT: Duration = Duration::from_millis(200);

/// A body of one piece.
pub(super) struct Whole(Option<Bytes>);

impl Body for Whole {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        std::task::Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

/// Where a hook is.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) uri: Uri,
    pub(super) host: String,
    pub(super) port: u16,
    /// None: plain HTTP.
    pub(super) tls: Option<Arc<ClientConfig>>,
}

impl Target {
    /// As the log shows it: a path may hold a secret.
    pub(super) fn shown(&self) -> String {
        format!("{}://{}:{}", self.uri.scheme_str().unwrap_or("http"), self.host, self.port)
    }
}

type Answered = (SendRequest<Whole>, Response<Incoming>);

/// What an attempt says beside its body.
pub(super) struct Signed<'a> {
    pub(super) id: &'a str,
    pub(super) timestamp: u64,
    pub(super) signature: String,
}

/// A hook, and its connections that wait for their next request.
pub(super) struct HookClient {
    target: Target,
    idle: RefCell<Vec<SendRequest<Whole>>>,
}

impl HookClient {
    pub(super) fn new(target: Target) -> HookClient {
        HookClient { target, idle: RefCell::default() }
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// Done when the hook has answered with a status from 200 to 299.
    pub(super) async fn deliver(&self, signed: Signed<'_>, body: &str, wait: Duration) -> Result<(), HookFailure> {
        let (connection, answer) =
            timeout(wait, self.post(&signed, body)).await.unwrap_or(Err(HookFailure::Timeout))?;
        let status = answer.status();
        if timeout(ANSWER_WAIT, is_read(answer)).await.unwrap_or(false) {
            self.idle.borrow_mut().push(connection);
        }
        if status.is_success() { Ok(()) } else { Err(HookFailure::Status(status.as_u16())) }
    }

    async fn post(&self, signed: &Signed<'_>, body: &str) -> Result<Answered, HookFailure> {
        loop {
            let idle = self.idle.borrow_mut().pop();
            let Some(mut idle) = idle else { break };
            // One that was closed at the other end meanwhile is no failure; the id tells the hook if it comes twice.
            if idle.ready().await.is_ok()
                && let Ok(answer) = self.send(&mut idle, signed, body).await
            {
                return Ok((idle, answer));
            }
        }
        let mut connection = self.connect().await?;
        let answer = self.send(&mut connection, signed, body).await?;
        Ok((connection, answer))
    }

    async fn send(
        &self,
        connection: &mut SendRequest<Whole>,
        signed: &Signed<'_>,
        body: &str,
    ) -> Result<Response<Incoming>, HookFailure> {
        let request = request(&self.target, signed, body).map_err(|_| HookFailure::Http)?;
        connection.send_request(request).await.map_err(|_| HookFailure::Http)
    }

    async fn connect(&self) -> Result<SendRequest<Whole>, HookFailure> {
        let Target { host, port, tls, .. } = &self.target;
        let addresses = tokio::net::lookup_host((host.as_str(), *port)).await.map_err(|_| HookFailure::Name)?;
        let mut stream = Err(HookFailure::Name);
        for address in addresses {
            stream = TcpStream::connect(address).await.map_err(|_| HookFailure::Connect);
            if stream.is_ok() {
                break;
            }
        }
        let stream = stream?;
        // A socket that refuses it works all the same.
        let _ = stream.set_nodelay(true);
        let Some(tls) = tls else { return handshake(stream).await };
        let name = ServerName::try_from(host.clone()).map_err(|_| HookFailure::Tls)?;
        let stream = TlsConnector::from(tls.clone()).connect(name, stream).await.map_err(|_| HookFailure::Tls)?;
        handshake(stream).await
    }
}

async fn handshake<IO>(stream: IO) -> Result<SendRequest<Whole>, HookFailure>
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HTTP_HEAD_BYTES_MAX).max_headers(HTTP_HEADERS_MAX);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|_| HookFailure::Http)?;
    // It ends with the sender; how does not matter.
    tokio::task::spawn_local(async move { _ = connection.await });
    Ok(sender)
}

fn request(target: &Target, signed: &Signed<'_>, body: &str) -> Result<Request<Whole>, hyper::http::Error> {
    let path = target.uri.path_and_query().map_or("/", |path| path.as_str());
    let host = target.uri.authority().map_or(target.host.as_str(), |authority| authority.as_str());
    Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, HeaderValue::from_static(concat!("weirgate/", env!("CARGO_PKG_VERSION"))))
        .header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .header("webhook-id", signed.id)
        .header("webhook-timestamp", signed.timestamp)
        .header("webhook-signature", &signed.signature)
        .body(Whole(Some(Bytes::copy_from_slice(body.as_bytes()))))
}

/// Whether the answer ended within its bounds, so that its connection is of use.
async fn is_read(answer: Response<Incoming>) -> bool {
    let mut body = answer.into_body();
    let mut read = 0;
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let Ok(frame) = frame else { return false };
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > ANSWER_BYTES_MAX {
            return false;
        }
    }
    true
}
