//! The body of an HTTP answer, in pieces: after each the connection gives way, so that files and metrics for many never
//! hold up the sockets of a call.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};

const PIECE: usize = 16 * 1024;

#[derive(Default)]
pub(super) struct Paced {
    left: Bytes,
    gave_way: bool,
}

impl From<Bytes> for Paced {
    fn from(left: Bytes) -> Paced {
        Paced { left, gave_way: false }
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        if !std::mem::replace(&mut self.gave_way, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.gave_way = false;
        let piece = PIECE.min(self.left.len());
        Poll::Ready(Some(Ok(Frame::data(self.left.split_to(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gives_way_before_each_piece() {
        let whole: Vec<u8> = (0..3 * PIECE + 5).map(|n| n as u8).collect();
        let mut body = Paced::from(Bytes::from(whole.clone()));
        assert_eq!(body.size_hint().exact(), Some(whole.len() as u64));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let (mut read, mut turns) = (Vec::new(), 0);
        loop {
            match Pin::new(&mut body).poll_frame(&mut cx) {
                Poll::Pending => turns += 1,
                Poll::Ready(Some(Ok(frame))) => {
                    let data = frame.into_data().unwrap();
                    assert!(data.len() <= PIECE);
                    read.extend_from_slice(&data);
                }
                Poll::Ready(_) => break,
            }
        }
        assert_eq!((read, turns), (whole, 4));
    }
}
