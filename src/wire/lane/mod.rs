//! Lanes between shards of two nodes, as bytes: the datagram around what is sealed, the records in it, and the orders
//! that some of them carry. A record of an unknown kind is passed over by its length, so that a later version may add
//! some. Called by `transport::lane` (datagrams, feedback) and `shard::lanes` (what records mean).

mod datagram;
mod media;
mod order;
mod record;
mod writer;

pub use datagram::{LANE_HEADER, LANE_VERSION, LaneHeader, is_lane};
pub use media::{LaneMedia, MEDIA_HEAD_MAX, MediaHead, flags};
pub use order::{
    ELSEWHERE_MAX, Few, LaneGone, LaneOrder, LaneWant, PATH_MAX, ProducerUuid, SubscribedEncoding, order_bytes,
};
pub use record::{LaneClock, LaneFeedback, LaneRecord, LaneRecords, LaneSkip, PART_HEAD, PartHead};
pub use writer::{RECORD_HEAD, RecordWriter};

/// An entry of the subscriber's table of imports, as the subscriber minted it. The generation tells apart what used the
/// same entry one after the other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct LaneHandle {
    pub index: u16,
    pub generation: u8,
}

/// An encoding and the low bits of its epoch, in one byte.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct EncodingEpoch(pub u8);

impl EncodingEpoch {
    pub fn new(encoding: u8, epoch: u32) -> EncodingEpoch {
        EncodingEpoch((encoding & 7) << 5 | (epoch & 31) as u8)
    }

    pub fn encoding(self) -> u8 {
        self.0 >> 5
    }

    /// The epoch nearest to `known` that ends in these bits.
    pub fn epoch(self, known: u32) -> u32 {
        let ahead = (u32::from(self.0 & 31)).wrapping_sub(known) & 31;
        // Half way round counts as behind, as with sequence numbers.
        let ahead = if ahead >= 16 { ahead | !31 } else { ahead };
        known.wrapping_add(ahead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_the_nearest_with_its_bits() {
        for known in [0u32, 5, 31, 32, 1_000, u32::MAX] {
            for ahead in -16i32..16 {
                let epoch = known.wrapping_add_signed(ahead);
                let both = EncodingEpoch::new(5, epoch);
                assert_eq!((both.encoding(), both.epoch(known)), (5, epoch), "{known} {ahead}");
            }
        }
    }
}
