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

/// The number of sockets written to before the thread does other work.
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

    /// Writes to the listed sockets, for ever.
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// The number of writes before others had a turn.
    struct Counted(Rc<Cell<usize>>);

    impl Listed for Counted {
        fn write_now(&self) {
            self.0.set(self.0.get() + 1);
        }
    }

    #[test]
    fn a_long_list_leaves_others_their_turn() {
        let (posting, written) = (Posting::default(), Rc::new(Cell::new(0)));
        (0..3 * BETWEEN_TURNS).for_each(|_| posting.list(Rc::new(Counted(written.clone()))));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let others = async {
            let mut seen = Vec::new();
            while written.get() < 3 * BETWEEN_TURNS {
                seen.push(written.get());
                tokio::task::yield_now().await;
            }
            seen
        };
        let seen = runtime.block_on(async {
            tokio::select! {
                biased;
                () = posting.run() => panic!("it never ends"),
                seen = others => seen,
            }
        });
        assert_eq!(seen, [BETWEEN_TURNS, 2 * BETWEEN_TURNS]);
    }
}
