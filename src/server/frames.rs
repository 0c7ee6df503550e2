//! The outgoing frames of a WebSocket: gathered into batches, written piece by piece without copying, and finished even
//! when the socket ends in the middle of one. A server's frames are not masked (RFC 6455 section 5.1).

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::outbox::{Frame, Outbox};

/// Frames and pieces gathered into one write.
const BATCH_FRAMES: usize = 64;
const BATCH_BYTES: usize = 128 * 1024;
const BATCH_PIECES: usize = 256;

/// The writing half of a socket.
pub(super) type Stream = Box<dyn AsyncWrite + Unpin>;

struct Outgoing {
    header: Vec<u8>,
    frame: Frame,
}

impl Outgoing {
    fn new(frame: Frame) -> Outgoing {
        let opcode = match frame {
            Frame::Text(_) => OpCode::Data(Data::Text),
            Frame::Ping => OpCode::Control(Control::Ping),
            Frame::Pong(_) => OpCode::Control(Control::Pong),
        };
        Outgoing { header: header(opcode, frame.payload()), frame }
    }

    fn len(&self) -> usize {
        self.header.len() + self.frame.payload()
    }

    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let (text, data): (_, &[u8]) = match &self.frame {
            Frame::Text(text) => (Some(text), &[]),
            Frame::Ping => (None, &[]),
            Frame::Pong(data) => (None, data),
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
pub(super) struct Batch {
    frames: VecDeque<Outgoing>,
    /// Bytes of the first frame that are written.
    done: usize,
}

impl Batch {
    /// Takes as much of the queue as one write may carry. False: the queue is empty.
    pub(super) fn gather(&mut self, outbox: &Outbox) -> bool {
        let mut bytes: usize = self.frames.iter().map(Outgoing::len).sum();
        while self.frames.len() < BATCH_FRAMES && bytes < BATCH_BYTES {
            let Some(frame) = outbox.pop() else { break };
            let outgoing = Outgoing::new(frame);
            bytes += outgoing.len();
            self.frames.push_back(outgoing);
        }
        !self.frames.is_empty()
    }

    /// Writes once; counts the written bytes, and tells the account.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Stream,
        outbox: &Outbox,
    ) -> Poll<io::Result<()>> {
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
        while let Some(first) = self.frames.front()
            && self.done >= first.len()
        {
            self.done -= first.len();
            outbox.written(first.frame.cost());
            self.frames.pop_front();
        }
        Poll::Ready(Ok(()))
    }

    /// Drops the frames of which nothing is written yet.
    pub(super) fn cut(&mut self) {
        self.frames.truncate(usize::from(self.done > 0));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}

/// The last frame: a close with its reason, or an empty one.
pub(super) fn close(frame: Option<&CloseFrame>) -> Vec<u8> {
    let payload = frame.map_or(Vec::new(), |frame| {
        let code: u16 = frame.code.into();
        [&code.to_be_bytes()[..], frame.reason.as_bytes()].concat()
    });
    [header(OpCode::Control(Control::Close), payload.len()), payload].concat()
}
