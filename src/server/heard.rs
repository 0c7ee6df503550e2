//! The time at which a client was last heard. A stream that records when its last byte came, so that a peer counts as
//! alive while it sends anything at all, also in the middle of one long message; and the clock of its silence, which
//! stands while the signalling thread is too busy to read.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{MissedTickBehavior, interval};

use crate::base::time::Instant;

/// The time that the thread was running: a turn that lasts longer counts as one step.
#[derive(Default)]
pub(super) struct AwakeClock {
    now: Cell<Instant>,
}

impl AwakeClock {
    pub(super) fn now(&self) -> Instant {
        self.now.get()
    }

    /// Counts steps for ever, on the thread whose time it is.
    pub(super) async fn run(&self, step: Duration) {
        let mut ticks = interval(step);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.now.set(self.now.get() + step);
        }
    }
}

pub(super) struct Heard {
    clock: Rc<AwakeClock>,
    last: Cell<Instant>,
    /// Since [`Heard::take_bytes`].
    bytes: Cell<usize>,
    /// Bytes that are still read.
    allowed: Cell<usize>,
}

impl Heard {
    pub(super) fn new(clock: Rc<AwakeClock>) -> Heard {
        Heard { last: Cell::new(clock.now()), clock, bytes: Cell::new(0), allowed: Cell::new(usize::MAX) }
    }

    pub(super) fn touch(&self) {
        self.last.set(self.clock.now());
    }

    /// On the clock of its silence.
    pub(super) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// When anything last came.
    pub(super) fn last(&self) -> Instant {
        self.last.get()
    }

    pub(super) fn silence(&self) -> Duration {
        self.clock.now().since(self.last.get())
    }

    pub(super) fn take_bytes(&self) -> usize {
        self.bytes.take()
    }

    /// From now on so many bytes are read, and what is left of one piece; the reader then waits for ever, and whoever
    /// polls it looks whether they are spent.
    pub(super) fn allow(&self, bytes: usize) {
        self.allowed.set(bytes);
    }

    pub(super) fn is_spent(&self) -> bool {
        self.allowed.get() == 0
    }
}

/// The reading half of a WebSocket. Bytes that its reader wants to write by itself (pongs, its answer to a close frame)
/// are discarded: `websocket` writes those with everything else.
pub(super) struct ReadHalf<IO> {
    stream: IO,
    heard: Rc<Heard>,
}

impl<IO> ReadHalf<IO> {
    pub(super) fn new(stream: IO, heard: Rc<Heard>) -> ReadHalf<IO> {
        ReadHalf { stream, heard }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for ReadHalf<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.heard.is_spent() {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let bytes = buf.filled().len() - before;
        if bytes > 0 {
            self.heard.touch();
            self.heard.bytes.set(self.heard.bytes.get() + bytes);
            self.heard.allowed.set(self.heard.allowed.get().saturating_sub(bytes));
        }
        read
    }
}

impl<IO: Unpin> AsyncWrite for ReadHalf<IO> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_which_the_thread_was_busy_is_no_silence() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let clock = Rc::new(AwakeClock::default());
        let heard = Heard::new(clock.clone());
        let step = Duration::from_millis(10);
        let turns = async {
            std::thread::sleep(Duration::from_millis(500));
            tokio::time::sleep(Duration::from_millis(30)).await;
            let after_stall = heard.silence();
            tokio::time::sleep(Duration::from_millis(400)).await;
            (after_stall, heard.silence())
        };
        let (after_stall, later) = runtime.block_on(async {
            tokio::select! {
                () = clock.run(step) => panic!("it never ends"),
                silences = turns => silences,
            }
        });
        assert!(after_stall < Duration::from_millis(100), "{after_stall:?}");
        assert!(later > after_stall + Duration::from_millis(50), "{later:?}: a silence in turns counts");
    }
}
