//! Takes datagrams apart that the kernel joined into one (UDP GRO), into the slots of a batch. A lone datagram is the
//! case of one. Called by backends that receive into buffers of their own.

use crate::base::buffer::{Batch, DATAGRAM_MAX, Path};
use crate::base::time::Instant;
use crate::net::udp::backend::UdpDrop;
use crate::net::udp::tally::UdpTally;

/// A buffer for one: the kernel joins up to 64 KiB, and in front may stand a header, the address and control messages.
/// The odd 2 KiB spread the beginnings of many buffers over the cache.
pub(super) const JOINED_BYTES: usize = 66 * 1024;

#[derive(Clone, Copy)]
pub(super) struct Joined {
    path: Path,
    arrived: Instant,
    /// Every datagram has this many bytes, only the last may have fewer.
    segment: usize,
    /// Bytes copied into batches so far.
    dealt: usize,
    /// An empty datagram is one, too.
    empty: bool,
}

impl Joined {
    pub(super) fn new(path: Path, arrived: Instant, len: usize, segment: Option<usize>) -> Joined {
        Joined { path, arrived, segment: segment.unwrap_or(len).max(1), dealt: 0, empty: len == 0 }
    }

    /// Copies datagrams out of `bytes`, which is the same at every call, until there are no more (true) or the batch is
    /// full.
    pub(super) fn deal(&mut self, bytes: &[u8], batch: &mut Batch, tally: &mut UdpTally) -> bool {
        while self.dealt < bytes.len() || self.empty {
            if batch.room() == 0 {
                return false;
            }
            let datagram = &bytes[self.dealt..(self.dealt + self.segment).min(bytes.len())];
            if datagram.len() > DATAGRAM_MAX {
                tally.dropped(UdpDrop::ReceiveTooLong, 1);
            } else {
                batch.push(self.path, self.arrived, datagram);
                tally.counters.datagrams_received += 1;
                tally.counters.bytes_received += datagram.len() as u64;
            }
            self.dealt += datagram.len();
            self.empty = false;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::buffer::LocalIndex;
    use std::net::SocketAddr;

    #[test]
    fn what_was_joined_is_dealt_in_order_over_as_many_batches_as_it_takes() {
        let path = Path::udp(LocalIndex(1), SocketAddr::from(([127, 0, 0, 1], 9)));
        let (mut batch, mut tally) = (Batch::new(2), UdpTally::default());
        let bytes: Vec<u8> = (0..10).collect();
        let mut joined = Joined::new(path, Instant::ZERO, bytes.len(), Some(3));
        let mut seen = Vec::new();
        for all in [false, true] {
            batch.clear();
            assert_eq!(joined.deal(&bytes, &mut batch, &mut tally), all);
            seen.extend(batch.slots_mut().iter().map(|slot| slot.bytes().to_vec()));
        }
        assert_eq!(seen, [&bytes[..3], &bytes[3..6], &bytes[6..9], &bytes[9..]]);
        assert_eq!((tally.counters.datagrams_received, tally.counters.bytes_received), (4, 10));
    }

    #[test]
    fn an_empty_datagram_counts_and_one_that_is_too_long_does_not() {
        let path = Path::udp(LocalIndex(0), SocketAddr::from(([127, 0, 0, 1], 9)));
        let (mut batch, mut tally) = (Batch::new(4), UdpTally::default());
        assert!(Joined::new(path, Instant::ZERO, 0, None).deal(&[], &mut batch, &mut tally));
        let long = [0; 2 * DATAGRAM_MAX];
        assert!(Joined::new(path, Instant::ZERO, long.len(), None).deal(&long, &mut batch, &mut tally));
        assert!(Joined::new(path, Instant::ZERO, long.len(), Some(DATAGRAM_MAX)).deal(&long, &mut batch, &mut tally));
        assert_eq!((batch.len(), tally.counters.datagrams_received), (3, 3));
        assert!(tally.drops().contains(&("receive_too_long", 1)));
    }
}
