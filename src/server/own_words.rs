//! Replaces the HTTP library's own answers, to input that is no request, by answers like all others: JSON that says
//! what is wrong, with the same headers.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::headers::ALWAYS;

/// The library's own answers are a head and nothing else, shorter than this.
const HEAD_BYTES_MAX: usize = 512;

/// The number of replaced answers. Atomic, because the library asks for streams that could change threads.
#[derive(Default)]
pub(super) struct OwnAnswers([AtomicU64; 3]);

impl OwnAnswers {
    fn of(&self, status: u16) -> Option<&AtomicU64> {
        match status {
            400 => Some(&self.0[0]),
            414 => Some(&self.0[1]),
            431 => Some(&self.0[2]),
            _ => None,
        }
    }

    fn count(&self, status: u16) {
        if let Some(count) = self.of(status) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn counted(&self, status: u16) -> u64 {
        self.of(status).map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

/// The stream of one connection.
pub(super) struct OwnWords<IO> {
    stream: IO,
    said: Arc<OwnAnswers>,
    /// The replacement that is not written yet.
    instead: Vec<u8>,
}

impl<IO> OwnWords<IO> {
    pub(super) fn new(stream: IO, said: Arc<OwnAnswers>) -> OwnWords<IO> {
        OwnWords { stream, said, instead: Vec::new() }
    }

    /// Whether these bytes are an answer of the library; then ours is on its way.
    fn replaces(&mut self, bytes: &[u8]) -> bool {
        let Some(status) = own_status(bytes) else { return false };
        self.said.count(status);
        self.instead = answer(status);
        true
    }
}

/// Every answer of ours carries the first of [`ALWAYS`].
fn own_status(bytes: &[u8]) -> Option<u16> {
    let head = std::str::from_utf8(bytes).ok().filter(|head| head.len() <= HEAD_BYTES_MAX)?;
    let rest = head.strip_prefix("HTTP/1.1 ").filter(|_| head.ends_with("\r\n\r\n"))?;
    let status = rest.get(..3)?.parse().ok().filter(|status| matches!(status, 400 | 414 | 431))?;
    (!head.contains(ALWAYS[0].0.as_str())).then_some(status)
}

fn answer(status: u16) -> Vec<u8> {
    let (reason, code, message) = match status {
        414 => ("URI Too Long", "uri-too-long", "the request line is too long"),
        431 => (
            "Request Header Fields Too Large",
            "head-too-large",
            "request line and headers may have 16 KiB and 64 headers together",
        ),
        _ => ("Bad Request", "bad-request", "this is not a request of HTTP/1.1"),
    };
    let body = json!({ "error": { "code": code, "message": message } }).to_string();
    let mut head = format!(
        "HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n",
        body.len()
    );
    for (name, value) in ALWAYS {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    (head + "\r\n" + &body).into_bytes()
}

impl<IO: AsyncWrite + Unpin> OwnWords<IO> {
    fn poll_instead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.instead.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.instead))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.instead.drain(..written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for OwnWords<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for OwnWords<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_instead(cx))?;
        if self.replaces(buf) {
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_instead(cx))?;
        let mut filled = bufs.iter().filter(|buf| !buf.is_empty());
        if let (Some(only), None) = (filled.next(), filled.next())
            && self.replaces(only)
        {
            return Poll::Ready(Ok(only.len()));
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_instead(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_instead(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_librarys_own_heads_are_replaced() {
        let own = "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(own_status(own.as_bytes()), Some(431));
        for other in [
            "HTTP/1.1 404 Not Found\r\ncontent-security-policy: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\n",
            "HTTP/1.1 4\r\n\r\n",
            "\u{81}HTTP/1.1 400 \r\n\r\n",
            "",
        ] {
            assert_eq!(own_status(other.as_bytes()), None, "{other}");
        }
        let answer = String::from_utf8(answer(400)).unwrap();
        assert!(own_status(answer.as_bytes()).is_none());
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
    }
}
