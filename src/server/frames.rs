//! The outgoing frames of a WebSocket: gathered into batches, written piece by piece without copying, and finished even
//! when the socket ends in the middle of one. A server's frames are not masked (RFC 6455 section 5.1).

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;
use tungstenite::Bytes;
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use crate::signal::Text;

/// Frames and pieces gathered into one write.
const BATCH_FRAMES: usize = 64;
const BATCH_BYTES: usize = 128 * 1024;
const BATCH_PIECES: usize = 256;

/// The writing half of a socket.
pub(super) type SocketWriter = Box<dyn AsyncWrite + Unpin>;

/// The overhead of each queued frame.
pub(super) const FRAME_OVERHEAD: usize = 64;

pub(super) enum SocketFrame {
    Text(Text),
    Ping,
    Pong(Bytes),
}

impl SocketFrame {
    pub(super) fn payload(&self) -> usize {
        match self {
            SocketFrame::Text(text) => text.len(),
            SocketFrame::Ping => 0,
            SocketFrame::Pong(data) => data.len(),
        }
    }

    pub(super) fn cost(&self) -> usize {
        self.payload() + FRAME_OVERHEAD
    }
}

struct Outgoing {
    header: Vec<u8>,
    frame: SocketFrame,
}

impl Outgoing {
    fn new(frame: SocketFrame) -> Outgoing {
        let opcode = match frame {
            SocketFrame::Text(_) => OpCode::Data(Data::Text),
            SocketFrame::Ping => OpCode::Control(Control::Ping),
            SocketFrame::Pong(_) => OpCode::Control(Control::Pong),
        };
        Outgoing { header: header(opcode, frame.payload()), frame }
    }

    fn len(&self) -> usize {
        self.header.len() + self.frame.payload()
    }

    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let (text, data): (_, &[u8]) = match &self.frame {
            SocketFrame::Text(text) => (Some(text), &[]),
            SocketFrame::Ping => (None, &[]),
            SocketFrame::Pong(data) => (None, data),
        };
        let text = text.into_iter().flat_map(|text| text.pieces()).map(str::as_bytes);
        std::iter::once(&self.header[..]).chain(text).chain([data]).filter(|piece| !piece.is_empty())
    }
}

fn header(opcode: OpCode, length: usize) -> Vec<u8> {
    let header = FrameHeader { opcode, ..FrameHeader::default() };
    let mut bytes = Vec::with_capacity(10);
    header.format(length as u64, &mut bytes).expect("writing to a Vec does not fail");
    bytes
}

/// The batch being written.
#[derive(Default)]
pub(super) struct FrameBatch {
    frames: VecDeque<Outgoing>,
    /// Bytes of the first frame that are written.
    done: usize,
}

impl FrameBatch {
    /// Takes as much of the queue as one write may carry. False: the queue is empty.
    pub(super) fn gather(&mut self, mut next: impl FnMut() -> Option<SocketFrame>) -> bool {
        let mut bytes: usize = self.frames.iter().map(Outgoing::len).sum();
        while self.frames.len() < BATCH_FRAMES && bytes < BATCH_BYTES {
            let Some(frame) = next() else { break };
            let outgoing = Outgoing::new(frame);
            bytes += outgoing.len();
            self.frames.push_back(outgoing);
        }
        !self.frames.is_empty()
    }

    /// Writes once, and returns the cost of the frames that are written whole by now.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, stream: &mut SocketWriter) -> Poll<io::Result<usize>> {
        let mut skip = self.done;
        let mut slices = Vec::with_capacity(2 * self.frames.len());
        for piece in self.frames.iter().flat_map(Outgoing::pieces) {
            if skip >= piece.len() {
                skip -= piece.len();
                continue;
            }
            slices.push(IoSlice::new(&piece[skip..]));
            skip = 0;
            if slices.len() == BATCH_PIECES {
                break;
            }
        }
        let written = ready!(Pin::new(stream).poll_write_vectored(cx, &slices))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.done += written;
        let mut through = 0;
        while let Some(first) = self.frames.front()
            && self.done >= first.len()
        {
            self.done -= first.len();
            through += first.frame.cost();
            self.frames.pop_front();
        }
        Poll::Ready(Ok(through))
    }

    /// Drops the frames of which nothing is written yet.
    pub(super) fn cut(&mut self) {
        self.frames.truncate(usize::from(self.done > 0));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}

/// A text by itself.
pub(super) fn text(text: &str) -> Vec<u8> {
    [&header(OpCode::Data(Data::Text), text.len()), text.as_bytes()].concat()
}

/// The last frame: a close with its reason, or an empty one.
pub(super) fn close(frame: Option<&CloseFrame>) -> Vec<u8> {
    let payload = frame.map_or(Vec::new(), |frame| {
        let code: u16 = frame.code.into();
        [&code.to_be_bytes()[..], frame.reason.as_bytes()].concat()
    });
    [header(OpCode::Control(Control::Close), payload.len()), payload].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes at most so many bytes at once.
    struct Narrow(usize, Vec<u8>);

    impl AsyncWrite for Narrow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let taken = bytes.len().min(self.0);
            self.1.extend_from_slice(&bytes[..taken]);
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn a_frame_counts_until_its_last_byte_is_written_and_one_that_is_begun_is_not_cut() {
        let mut queue =
            VecDeque::from([SocketFrame::Text("abc".to_owned().into()), SocketFrame::Ping, SocketFrame::Ping]);
        let costs: Vec<usize> = queue.iter().map(SocketFrame::cost).collect();
        let mut batch = FrameBatch::default();
        assert!(batch.gather(|| queue.pop_front()));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut stream: SocketWriter = Box::new(Narrow(2, Vec::new()));
        // Header and payload are five bytes.
        let mut step = |batch: &mut FrameBatch| match batch.poll_write(&mut cx, &mut stream) {
            Poll::Ready(Ok(through)) => through,
            other => panic!("{other:?}"),
        };
        assert_eq!([step(&mut batch), step(&mut batch)], [0, 0]);
        batch.cut();
        assert_eq!((step(&mut batch), batch.is_empty()), (costs[0], true));
        assert!(!batch.gather(|| queue.pop_front()), "all three were in the batch");
    }
}
