//! The beginning of a connection on a listener that speaks TLS: the handshake, within a time and a number of bytes, or
//! the discovery that the client speaks plain HTTP.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::acme::PROTOCOL;
use super::turnstile::Turnstile;
use crate::base::limits::{TLS_HANDSHAKE_BYTES_MAX, TLS_WRITE_BYTES_MAX};

/// The type of a record of the handshake, which every client begins with (RFC 8446 section 5.1, RFC 5246 section 6.2.1).
const HANDSHAKE_RECORD: u8 = 22;

/// What a client turns out to speak.
pub(super) enum Spoken {
    Tls(Box<TlsStream<Bounded>>),
    /// It wanted to see the proof of a name, and has.
    Validation,
    /// Its bytes are unread.
    Plain(TcpStream),
}

/// Why a handshake came to nothing; a label of `weirgate_tls_handshakes_failed_total`.
#[derive(Debug)]
pub(super) enum HandshakeFault {
    /// Not finished within its time.
    Silent,
    /// The client went.
    Closed,
    /// Not TLS that is spoken here: the client's and ours have nothing in common, or it does not trust the certificate.
    Refused(io::Error),
    /// Its address began too many lately, or caused too much otherwise.
    RateLimited,
}

impl HandshakeFault {
    pub(super) const NAMES: [&str; 4] = ["silent", "closed", "refused", "rate-limited"];

    /// Its place in [`HandshakeFault::NAMES`].
    pub(super) fn index(&self) -> usize {
        match self {
            HandshakeFault::Silent => 0,
            HandshakeFault::Closed => 1,
            HandshakeFault::Refused(_) => 2,
            HandshakeFault::RateLimited => 3,
        }
    }

    fn of(error: io::Error) -> HandshakeFault {
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                HandshakeFault::Closed
            }
            _ => HandshakeFault::Refused(error),
        }
    }
}

impl fmt::Display for HandshakeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HandshakeFault::NAMES[self.index()])?;
        match self {
            HandshakeFault::Silent | HandshakeFault::Closed | HandshakeFault::RateLimited => Ok(()),
            HandshakeFault::Refused(error) => write!(f, ": {error}"),
        }
    }
}

/// Everything until the first request can be read. `may_begin`: whether the client's address may ask for a handshake now.
pub(super) async fn open(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    turns: &Turnstile,
    may_begin: impl FnOnce() -> bool,
) -> Result<Spoken, HandshakeFault> {
    let mut first = [0];
    match stream.peek(&mut first).await.map_err(HandshakeFault::of)? {
        0 => return Err(HandshakeFault::Closed),
        _ if first[0] != HANDSHAKE_RECORD => return Ok(Spoken::Plain(stream)),
        _ if !may_begin() => return Err(HandshakeFault::RateLimited),
        _ => {}
    }
    let stream = Bounded { stream, left: Some(TLS_HANDSHAKE_BYTES_MAX) };
    let accept = acceptor.accept_with(stream, |session| session.set_buffer_limit(Some(TLS_WRITE_BYTES_MAX)));
    let mut stream = turns.pass(accept).await.map_err(HandshakeFault::of)?;
    if stream.get_ref().1.alpn_protocol() == Some(PROTOCOL) {
        // RFC 8737 section 3: no application data follows. Who is gone already has seen it.
        let _ = stream.shutdown().await;
        return Ok(Spoken::Validation);
    }
    stream.get_mut().0.left = None;
    Ok(Spoken::Tls(Box::new(stream)))
}

/// A stream of which a client that is not through with its handshake may fill so much: the library by itself would keep
/// 64 KiB for each.
pub(super) struct Bounded {
    stream: TcpStream,
    /// None: the handshake is done.
    left: Option<usize>,
}

impl AsyncRead for Bounded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.left == Some(0) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a handshake without end")));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let bytes = buf.filled().len() - before;
        self.left = self.left.map(|left| left.saturating_sub(bytes));
        read
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::server::ResolvesServerCertUsingSni;

    use super::*;

    /// What becomes of a client that sends this, from an address that may begin no handshake.
    async fn opened(bytes: &[u8]) -> (Result<Spoken, HandshakeFault>, usize) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.write_all(bytes).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let config =
            ServerConfig::builder_with_provider(Arc::new(tokio_rustls::rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()));
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let opened = open(stream, acceptor, &Turnstile::default(), || false).await;
        if opened.is_ok() {
            return (opened, 0);
        }
        // A reset says as much as an end.
        let answered = client.read(&mut [0; 64]).await.unwrap_or(0);
        (opened, answered)
    }

    #[tokio::test]
    async fn an_address_that_may_not_begin_costs_no_handshake_and_gets_its_redirect_all_the_same() {
        assert!(matches!(opened(&[HANDSHAKE_RECORD, 3, 1]).await, (Err(HandshakeFault::RateLimited), 0)));
        assert!(matches!(opened(b"GET / HTTP/1.1\r\n").await, (Ok(Spoken::Plain(_)), 0)));
    }
}
