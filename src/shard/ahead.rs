//! The prefetch for a run of RTCP: that of many receivers comes in a row, each about state that nothing has touched since
//! the last of that receiver.

use crate::base::buffer::Slot;
use crate::base::slab::{Key, Slab};
use crate::shard::paths::Paths;
use crate::transport::Transport;
use crate::wire::{Kind, classify};

/// The owners of the next RTCP in a batch, one datagram and two after the present one.
#[derive(Default)]
pub(super) struct Ahead([Option<Key<Transport>>; 2]);

impl Ahead {
    /// How far ahead of the present datagram it looks for RTCP.
    pub(super) const BY: usize = 3;

    /// In three steps, each of which needs the lines of the one before.
    pub(super) fn foresee(&mut self, paths: &Paths, transports: &Slab<Transport>, slot: Option<&Slot>) {
        let far = slot.filter(|slot| classify(slot.bytes()) == Kind::Rtcp).and_then(|slot| paths.peek(&slot.path));
        if let Some(key) = far {
            transports.prefetch(key, Transport::HOT);
        }
        let [soon, next] = self.0.map(|key| key.and_then(|key| transports.get(key)));
        if let Some(transport) = next {
            transport.foresee_feedback();
        }
        if let Some(transport) = soon {
            transport.foresee_feedback_soon();
        }
        self.0 = [self.0[1], far];
    }
}
