//! Texts on their way into sockets: those that something waits for are written to one after the other, by one task for
//! all. To wake each socket's own task for it costs several times the writing. Filled by [`super::control`].

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use tokio::sync::Notify;

/// Something may be written to it.
pub(super) trait Listed {
    /// What it takes without waiting.
    fn write_now(&self);
}

/// Written to before everybody else has a turn.
const BETWEEN_TURNS: usize = 64;

#[derive(Default)]
pub(super) struct Posting {
    listed: RefCell<VecDeque<Rc<dyn Listed>>>,
    filled: Notify,
}

impl Posting {
    pub(super) fn list(&self, outbox: Rc<dyn Listed>) {
        let mut listed = self.listed.borrow_mut();
        if listed.is_empty() {
            self.filled.notify_one();
        }
        listed.push_back(outbox);
    }

    /// For ever.
    pub(super) async fn run(&self) {
        loop {
            let mut written = 0;
            while let Some(outbox) = self.next() {
                outbox.write_now();
                written += 1;
                if written % BETWEEN_TURNS == 0 {
                    tokio::task::yield_now().await;
                }
            }
            self.filled.notified().await;
        }
    }

    fn next(&self) -> Option<Rc<dyn Listed>> {
        self.listed.borrow_mut().pop_front()
    }
}
