//! The prefetch for a run of RTCP. Feedback of many receivers comes in a row, and nothing has touched the state of each
//! since its last feedback.

use crate::base::buffer::Slot;
use crate::base::slab::{Key, Slab};
use crate::shard::paths::Paths;
use crate::transport::Transport;
use crate::wire::{Kind, classify};

/// The owners of the next RTCP in a batch, one datagram and two after the present one.
#[derive(Default)]
pub(super) struct Ahead([Option<Key<Transport>>; 2]);

impl Ahead {
    /// The distance, in datagrams, at which it looks ahead for RTCP.
    pub(super) const BY: usize = 3;

    /// Prefetches in three steps, each of which reads the lines that the one before fetched.
    pub(super) fn prefetch(&mut self, paths: &Paths, transports: &Slab<Transport>, slot: Option<&Slot>) {
        let far = slot.filter(|slot| classify(slot.bytes()) == Kind::Rtcp).and_then(|slot| paths.peek(&slot.path));
        if let Some(key) = far {
            transports.prefetch(key, Transport::HOT);
        }
        let [soon, next] = self.0.map(|key| key.and_then(|key| transports.get(key)));
        if let Some(transport) = next {
            transport.prefetch_feedback();
        }
        if let Some(transport) = soon {
            transport.prefetch_feedback_soon();
        }
        self.0 = [self.0[1], far];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::buffer::Batch;
    use crate::shard::fixture::{Fixture, path};

    #[test]
    fn the_owner_of_rtcp_moves_up_datagram_by_datagram() {
        let mut fixture = Fixture::new();
        let key = fixture.transport(1);
        fixture.connect(key, path(1));
        let (mut ahead, mut batch) = (Ahead::default(), Batch::new(4));
        batch.push(path(1), fixture.now.mono, &[0x80, 201, 0, 1, 0, 0, 0, 1]);
        batch.push(path(1), fixture.now.mono, &[0x80, 96, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1]);
        batch.push(path(2), fixture.now.mono, &[0x80, 201, 0, 1, 0, 0, 0, 1]);
        let (paths, transports) = (&fixture.demux.paths, &fixture.commons.registry.transports);
        let seen: Vec<_> = batch
            .slots_mut()
            .iter()
            .map(|slot| {
                ahead.prefetch(paths, transports, Some(slot));
                ahead.0
            })
            .collect();
        assert_eq!(seen, [[None, Some(key)], [Some(key), None], [None, None]], "RTP and strangers are nobody's");
    }
}
