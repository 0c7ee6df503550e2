//! What waits to be written to one WebSocket: texts within [`SOCKET_QUEUE_BYTES_MAX`], and how it ends. Filled by
//! [`super::control`], emptied by [`super::websocket`]; both run on the signalling thread.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use tokio::sync::Notify;

use super::websocket::End;
use crate::base::limits::SOCKET_QUEUE_BYTES_MAX;

/// Counted beside its text for each queued message.
const MESSAGE_OVERHEAD: usize = 64;

#[derive(Default)]
pub(super) struct Outbox {
    queue: RefCell<VecDeque<String>>,
    /// Of the queue and of the text that is being written.
    bytes: Cell<usize>,
    end: RefCell<Option<End>>,
    filled: Notify,
    ended: Notify,
}

impl Outbox {
    /// Beyond the bound the socket ends, and what waits is given up.
    pub(super) fn push(&self, text: String) {
        if self.end.borrow().is_some() {
            return;
        }
        let bytes = self.bytes.get().saturating_add(text.len() + MESSAGE_OVERHEAD);
        if bytes > SOCKET_QUEUE_BYTES_MAX {
            self.queue.borrow_mut().clear();
            return self.end(End::TooSlow);
        }
        self.bytes.set(bytes);
        self.queue.borrow_mut().push_back(text);
        self.filled.notify_one();
    }

    /// The first end stays; texts pushed before it are still written.
    pub(super) fn end(&self, end: End) {
        self.end.borrow_mut().get_or_insert(end);
        self.ended.notify_one();
    }

    /// The next text; its bytes count until [`Outbox::written`].
    pub(super) async fn next(&self) -> String {
        loop {
            if let Some(text) = self.pop() {
                return text;
            }
            self.filled.notified().await;
        }
    }

    pub(super) fn pop(&self) -> Option<String> {
        self.queue.borrow_mut().pop_front()
    }

    pub(super) fn written(&self, text_len: usize) {
        self.bytes.set(self.bytes.get().saturating_sub(text_len + MESSAGE_OVERHEAD));
    }

    pub(super) async fn ended(&self) -> End {
        loop {
            if let Some(end) = self.end.borrow().clone() {
                return end;
            }
            self.ended.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_outbox_ends_its_socket_and_holds_nothing_more() {
        let outbox = Outbox::default();
        let text = "x".repeat(SOCKET_QUEUE_BYTES_MAX / 4);
        for _ in 0..3 {
            outbox.push(text.clone());
        }
        assert_eq!(*outbox.end.borrow(), None);
        let written = outbox.pop().expect("three wait");
        outbox.push(text.clone());
        assert_eq!(*outbox.end.borrow(), Some(End::TooSlow), "a text that is being written still counts");
        assert_eq!(outbox.pop(), None);
        outbox.written(written.len());
        outbox.push(text);
        assert_eq!(outbox.pop(), None, "after its end nothing is queued");
    }

    #[test]
    fn what_was_written_makes_room() {
        let outbox = Outbox::default();
        for _ in 0..100 {
            outbox.push("x".repeat(SOCKET_QUEUE_BYTES_MAX / 2));
            let text = outbox.pop().expect("it was just pushed");
            outbox.written(text.len());
        }
        assert_eq!((outbox.bytes.get(), outbox.end.borrow().clone()), (0, None));
    }
}
