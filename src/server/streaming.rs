//! Whether a connection carries an event stream: it then lasts as long as somebody listens, and ends when the listener
//! is let go, even if the client reads nothing that would tell it so.

use std::cell::Cell;

use tokio::sync::Notify;

#[derive(Default)]
pub(super) struct Streaming {
    on: Cell<bool>,
    cut: Notify,
}

impl Streaming {
    pub(super) fn begin(&self) {
        self.on.set(true);
    }

    pub(super) fn is_on(&self) -> bool {
        self.on.get()
    }

    pub(super) fn cut(&self) {
        self.cut.notify_one();
    }

    pub(super) async fn has_been_cut(&self) {
        self.cut.notified().await;
    }
}
