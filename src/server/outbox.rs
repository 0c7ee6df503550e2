//! The outgoing queue of one WebSocket, in one account: texts, pings, pongs and the parts of a message that is still
//! coming in. Bounded for the socket by [`SOCKET_QUEUE_BYTES_MAX`]; `control` bounds all sockets together. Filled
//! by [`super::control`] and [`super::websocket`]. Texts are written by [`super::posting`] for all sockets in turn, as
//! long as the socket takes them; what it does not take at once its own task writes, which is woken for nothing else.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::AsyncWrite;
use tokio::sync::Notify;
use tungstenite::Bytes;

use super::end::SocketEnd;
use super::frames::{FRAME_OVERHEAD, FrameBatch, SocketFrame, SocketWriter};
use super::posting::Listed;
use crate::base::limits::{SOCKET_QUEUE_BYTES_MAX, SOCKET_QUEUE_PAUSE_BYTES};
use crate::signal::{About, Backlog, Growth};

/// Who writes what waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// Nothing waits.
    Free,
    /// Whoever goes through the list of those that something waits for.
    Listed,
    /// The socket's own task.
    Task,
}

/// The way to the client, and what is on it.
pub(super) struct Line {
    pub(super) stream: SocketWriter,
    pub(super) batch: FrameBatch,
}

pub(super) struct Outbox {
    queue: RefCell<Backlog<SocketFrame>>,
    way: Cell<Way>,
    /// None: the socket is not served yet, or not any more.
    line: RefCell<Option<Line>>,
    /// Bytes of the queue and of the frames that are being written.
    queued: Cell<usize>,
    /// Bytes of a message that has not come whole.
    partial: Cell<usize>,
    /// Bytes of all sockets.
    total: Rc<Cell<usize>>,
    pong: RefCell<Option<Bytes>>,
    end: RefCell<Option<SocketEnd>>,
    filled: Notify,
    drained: Notify,
    ended: Notify,
}

impl Outbox {
    pub(super) fn new(total: Rc<Cell<usize>>) -> Outbox {
        Outbox {
            queue: RefCell::default(),
            way: Cell::new(Way::Task),
            line: RefCell::default(),
            queued: Cell::new(0),
            partial: Cell::new(0),
            total,
            pong: RefCell::default(),
            end: RefCell::default(),
            filled: Notify::new(),
            drained: Notify::new(),
            ended: Notify::new(),
        }
    }

    /// All bytes held for this socket.
    pub(super) fn held(&self) -> usize {
        self.queued.get() + self.partial.get()
    }

    fn grow(&self, bytes: usize) {
        self.counted(|| self.queued.set(self.queued.get() + bytes));
    }

    fn shrink(&self, bytes: usize) {
        self.counted(|| self.queued.set(self.queued.get().saturating_sub(bytes)));
    }

    /// Transfers the change to the account of all, which holds the sockets that have not ended.
    fn counted(&self, change: impl FnOnce()) {
        let before = self.held();
        change();
        if !self.has_ended() {
            self.total.set((self.total.get() + self.held()).saturating_sub(before));
        }
    }

    /// From now on there is somewhere to write to.
    pub(super) fn connect(&self, stream: SocketWriter) {
        self.line.replace(Some(Line { stream, batch: FrameBatch::default() }));
    }

    /// To write what is left, and the goodbye.
    pub(super) fn disconnect(&self) -> Option<Line> {
        self.line.take()
    }

    /// For the socket's own task to write.
    pub(super) fn push(&self, frame: SocketFrame, about: Option<About>) {
        if self.queue(frame, about) {
            self.hand_over();
        }
    }

    /// True: it is to be listed, so that [`Listed::write_now`] is called.
    #[must_use]
    pub(super) fn push_listed(&self, frame: SocketFrame, about: Option<About>) -> bool {
        let listed = self.queue(frame, about) && self.way.get() == Way::Free;
        if listed {
            self.way.set(Way::Listed);
        }
        listed
    }

    /// Beyond the bound the socket ends, and its queue is dropped: false.
    fn queue(&self, frame: SocketFrame, about: Option<About>) -> bool {
        if self.end.borrow().is_some() {
            return false;
        }
        let cost = frame.cost();
        let Growth { grown, given_up } = self.queue.borrow_mut().push(frame, cost, about);
        self.shrink(given_up);
        self.grow(grown);
        if self.queued.get() > SOCKET_QUEUE_BYTES_MAX {
            self.give_up();
            return false;
        }
        true
    }

    fn hand_over(&self) {
        self.way.set(Way::Task);
        self.filled.notify_one();
    }

    /// One write, of as much as waits. When nothing does, the next to push has its choice.
    pub(super) fn poll_write(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut line = self.line.borrow_mut();
        let Some(Line { stream, batch }) = &mut *line else {
            self.way.set(Way::Task);
            return Poll::Ready(Ok(()));
        };
        if batch.gather(|| self.pop()) {
            let through = ready!(batch.poll_write(cx, stream))?;
            self.written(through);
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(stream).poll_flush(cx))?;
        self.way.set(Way::Free);
        Poll::Ready(Ok(()))
    }

    /// Only the latest ping has to be answered (RFC 6455 section 5.5.3).
    pub(super) fn answer_ping(&self, data: Bytes) {
        if self.pong.replace(Some(data)).is_none() {
            self.grow(FRAME_OVERHEAD);
        }
        self.hand_over();
    }

    /// An incoming message takes this many bytes so far.
    pub(super) fn reading(&self, bytes: usize) {
        self.counted(|| self.partial.set(bytes));
    }

    /// The client does not take what it is sent.
    pub(super) fn give_up(&self) {
        while let Some((frame, _)) = self.queue.borrow_mut().pop() {
            self.shrink(frame.cost());
        }
        self.end(SocketEnd::TooSlow);
    }

    /// The first end stays; texts pushed before it are still written. From now on the socket no longer counts for all:
    /// the rest is gone within moments.
    pub(super) fn end(&self, end: SocketEnd) {
        if !self.has_ended() {
            self.total.set(self.total.get().saturating_sub(self.held()));
            self.end.replace(Some(end));
        }
        self.ended.notify_one();
    }

    /// Waits until there is something that the socket's task has to write.
    pub(super) async fn filled(&self) {
        while self.way.get() != Way::Task {
            self.filled.notified().await;
        }
    }

    /// The next frame; its bytes count until [`Outbox::written`].
    pub(super) fn pop(&self) -> Option<SocketFrame> {
        if let Some(data) = self.pong.take() {
            let pong = SocketFrame::Pong(data);
            self.grow(pong.payload());
            return Some(pong);
        }
        self.queue.borrow_mut().pop().map(|(frame, _)| frame)
    }

    pub(super) fn written(&self, cost: usize) {
        if cost > 0 {
            self.shrink(cost);
            self.drained.notify_one();
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.end.borrow().is_some()
    }

    pub(super) fn is_behind(&self) -> bool {
        self.queued.get() > SOCKET_QUEUE_PAUSE_BYTES
    }

    /// A client that does not take the answers may ask no further.
    pub(super) async fn caught_up(&self) {
        while self.is_behind() {
            self.drained.notified().await;
        }
    }

    pub(super) async fn ended(&self) -> SocketEnd {
        loop {
            if let Some(end) = self.end.borrow().clone() {
                return end;
            }
            self.ended.notified().await;
        }
    }
}

impl Listed for Outbox {
    /// The rest is its own task's.
    fn write_now(&self) {
        if self.way.get() != Way::Listed {
            return;
        }
        loop {
            match self.poll_write(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Ok(())) if self.way.get() != Way::Listed => return,
                Poll::Ready(Ok(())) => {}
                // Nobody is woken by this attempt: the task makes its own, and finds the same.
                Poll::Ready(Err(_)) | Poll::Pending => return self.hand_over(),
            }
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.counted(|| {
            self.queued.set(0);
            self.partial.set(0);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::Step;

    fn text(length: usize) -> SocketFrame {
        SocketFrame::Text("x".repeat(length).into())
    }

    fn outbox() -> (Outbox, Rc<Cell<usize>>) {
        let total = Rc::<Cell<usize>>::default();
        (Outbox::new(total.clone()), total)
    }

    #[test]
    fn a_full_outbox_ends_its_socket_and_holds_nothing_more() {
        let (outbox, total) = outbox();
        for _ in 0..3 {
            outbox.push(text(SOCKET_QUEUE_BYTES_MAX / 4), None);
        }
        assert_eq!(*outbox.end.borrow(), None);
        let written = outbox.pop().expect("three wait");
        outbox.push(text(SOCKET_QUEUE_BYTES_MAX / 4), None);
        assert_eq!(*outbox.end.borrow(), Some(SocketEnd::TooSlow), "a text that is being written still counts");
        assert!(outbox.pop().is_none());
        assert_eq!((outbox.held(), total.get()), (written.cost(), 0));
        outbox.written(written.cost());
        outbox.push(text(9), None);
        assert!(outbox.pop().is_none(), "after its end nothing is queued");
        assert_eq!((outbox.held(), total.get()), (0, 0));
    }

    #[test]
    fn a_socket_is_listed_once_and_what_it_does_not_take_is_its_tasks() {
        let (outbox, total) = outbox();
        let (ours, mut theirs) = tokio::io::duplex(1_000);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            outbox.connect(Box::new(ours));
            assert!(!outbox.push_listed(text(10), None), "its task has not looked yet");
            outbox.filled().await;
            while outbox.way.get() == Way::Task {
                std::future::poll_fn(|cx| outbox.poll_write(cx)).await.unwrap();
            }
            assert!(outbox.push_listed(text(100), None) && !outbox.push_listed(text(100), None));
            outbox.write_now();
            assert_eq!((outbox.way.get(), total.get()), (Way::Free, 0));
            let mut read = [0; 216];
            tokio::io::AsyncReadExt::read_exact(&mut theirs, &mut read).await.unwrap();
            assert!(outbox.push_listed(text(5_000), None));
            outbox.write_now();
            assert!(outbox.way.get() == Way::Task && total.get() > 4_000);
            assert!(!outbox.push_listed(text(1), None));
            outbox.filled().await;
            // One that is gone while it is listed.
            let _ = outbox.disconnect();
            outbox.way.set(Way::Listed);
            outbox.write_now();
        });
    }

    #[test]
    fn what_was_written_makes_room() {
        let (outbox, total) = outbox();
        for _ in 0..100 {
            outbox.push(text(SOCKET_QUEUE_BYTES_MAX / 2), None);
            let frame = outbox.pop().expect("it was just pushed");
            outbox.written(frame.cost());
        }
        assert_eq!((outbox.held(), outbox.end.borrow().clone(), total.get()), (0, None, 0));
    }

    #[test]
    fn pings_without_end_are_one_pong() {
        let (outbox, total) = outbox();
        for n in 0..100_000_u32 {
            outbox.answer_ping(Bytes::copy_from_slice(&n.to_be_bytes()));
        }
        assert_eq!(total.get(), FRAME_OVERHEAD);
        let Some(SocketFrame::Pong(data)) = outbox.pop() else { panic!("a pong waits") };
        assert_eq!(data[..], 99_999_u32.to_be_bytes());
        outbox.written(SocketFrame::Pong(data).cost());
        assert!(outbox.pop().is_none() && total.get() == 0);
    }

    #[test]
    fn a_message_in_parts_counts_and_all_is_released_at_the_end() {
        let (outbox, total) = outbox();
        outbox.reading(70_000);
        outbox.reading(90_000);
        outbox.push(text(1_000), None);
        assert_eq!((outbox.held(), total.get()), (91_064, 91_064));
        outbox.reading(0);
        assert_eq!(total.get(), 1_064);
        drop(outbox);
        assert_eq!(total.get(), 0);
    }

    #[test]
    fn news_that_became_old_unread_leaves_the_account() {
        let (outbox, total) = outbox();
        outbox.push(text(100), None);
        let before = total.get();
        for thing in 0..1_000 {
            outbox.push(text(16_384), Some(About { thing, step: Step::Begins }));
            outbox.push(text(100), Some(About { thing, step: Step::Ends }));
        }
        assert_eq!((total.get(), outbox.end.borrow().clone()), (before, None));
    }
}
