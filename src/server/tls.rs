//! The beginning of a connection on a listener that speaks TLS: the handshake, within a time and a number of bytes, or
//! the discovery that the client speaks plain HTTP.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
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
}

impl HandshakeFault {
    pub(super) const NAMES: [&str; 3] = ["silent", "closed", "refused"];

    /// Its place in [`HandshakeFault::NAMES`].
    pub(super) fn index(&self) -> usize {
        match self {
            HandshakeFault::Silent => 0,
            HandshakeFault::Closed => 1,
            HandshakeFault::Refused(_) => 2,
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
            HandshakeFault::Silent | HandshakeFault::Closed => Ok(()),
            HandshakeFault::Refused(error) => write!(f, ": {error}"),
        }
    }
}

/// Everything until the first request can be read takes no longer than `wait`.
pub(super) async fn open(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    turns: &Turnstile,
    wait: Duration,
) -> Result<Spoken, HandshakeFault> {
    timeout(wait, handshake(stream, acceptor, turns)).await.unwrap_or(Err(HandshakeFault::Silent))
}

async fn handshake(stream: TcpStream, acceptor: TlsAcceptor, turns: &Turnstile) -> Result<Spoken, HandshakeFault> {
    let mut first = [0];
    match stream.peek(&mut first).await.map_err(HandshakeFault::of)? {
        0 => return Err(HandshakeFault::Closed),
        _ if first[0] != HANDSHAKE_RECORD => return Ok(Spoken::Plain(stream)),
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
