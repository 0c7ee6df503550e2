//! The open WebSockets by session, and the bound on what all of them hold together. Beyond it, the one that holds most
//! is closed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use super::end::SocketEnd;
use super::frames::SocketFrame;
use super::outbox::Outbox;
use super::posting::Posting;
use crate::base::limits::SOCKETS_BYTES_MAX;
use crate::signal::{About, SessionId, Text};

#[derive(Default)]
pub(super) struct Sockets {
    open: RefCell<BTreeMap<SessionId, Rc<Outbox>>>,
    /// Bytes queued to sockets, and parts of messages read from them.
    held: Rc<Cell<usize>>,
}

impl Sockets {
    pub(super) fn open(&self, id: SessionId) -> Rc<Outbox> {
        let outbox = Rc::new(Outbox::new(self.held.clone()));
        self.open.borrow_mut().insert(id, outbox.clone());
        outbox
    }

    pub(super) fn close(&self, id: SessionId) {
        self.open.borrow_mut().remove(&id);
    }

    pub(super) fn len(&self) -> usize {
        self.open.borrow().len()
    }

    pub(super) fn held(&self) -> usize {
        self.held.get()
    }

    /// Sends a text to a socket; false: it is gone.
    pub(super) fn send(&self, posting: &Posting, id: SessionId, text: Text, about: Option<About>) -> bool {
        let open = self.open.borrow();
        let Some(outbox) = open.get(&id) else { return false };
        if outbox.push_listed(SocketFrame::Text(text), about) {
            posting.list(outbox.clone());
        }
        true
    }

    pub(super) fn end(&self, id: SessionId, end: SocketEnd) {
        if let Some(outbox) = self.open.borrow().get(&id) {
            outbox.end(end);
        }
    }

    pub(super) fn end_all(&self, end: &SocketEnd) {
        self.open.borrow().values().for_each(|outbox| outbox.end(end.clone()));
    }

    /// Closes the one that holds most, as long as all together hold too much.
    pub(super) fn keep_to_budget(&self) {
        while self.held.get() > SOCKETS_BYTES_MAX {
            let sockets = self.open.borrow();
            let open = sockets.values().filter(|outbox| !outbox.has_ended());
            // An end takes all of it out of the account.
            let Some(most) = open.max_by_key(|outbox| outbox.held()) else { return };
            most.give_up();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_most_goes_when_all_together_hold_too_much() {
        let sockets = Sockets::default();
        let outboxes: Vec<Rc<Outbox>> = (0..4).map(|n| sockets.open(SessionId(n))).collect();
        for (n, outbox) in outboxes.iter().enumerate() {
            outbox.reading(SOCKETS_BYTES_MAX / 4 + n);
        }
        sockets.keep_to_budget();
        let ended: Vec<bool> = outboxes.iter().map(|outbox| outbox.has_ended()).collect();
        assert_eq!(ended, [false, false, false, true]);
        assert!(sockets.held() <= SOCKETS_BYTES_MAX && sockets.len() == 4);
        sockets.close(SessionId(3));
        assert!(!sockets.send(&Posting::default(), SessionId(3), Text::from("late".to_owned()), None));
    }
}
