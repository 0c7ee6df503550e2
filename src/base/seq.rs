//! Sequence numbers on the 16-bit circle and their extension to 64 bits. Arithmetic here is defined for every pair
//! of values a peer can send: nothing panics.

/// A 16-bit RTP sequence number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Seq(pub u16);

impl Seq {
    /// Signed distance from `other` to `self` on the circle; exactly half way round counts as behind.
    pub fn ahead_of(self, other: Seq) -> i16 {
        self.0.wrapping_sub(other.0) as i16
    }
}

/// An unwrapped sequence number. The first one of a stream is placed at `1 << 16` plus its 16 bits, so that packets
/// from before it can be named too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ExtSeq(pub u64);

impl ExtSeq {
    pub fn first(seq: Seq) -> ExtSeq {
        ExtSeq(1 << 16 | u64::from(seq.0))
    }

    pub fn seq(self) -> Seq {
        Seq(self.0 as u16)
    }

    /// The extended number nearest to `self` whose low 16 bits are `seq`.
    pub fn nearest(self, seq: Seq) -> ExtSeq {
        let distance = i64::from(seq.ahead_of(self.seq()));
        ExtSeq(self.0.saturating_add_signed(distance))
    }

    pub fn next(self) -> ExtSeq {
        ExtSeq(self.0 + 1)
    }

    pub fn distance_from(self, earlier: ExtSeq) -> i64 {
        self.0.wrapping_sub(earlier.0) as i64
    }
}

/// Signed distance between two 32-bit RTP timestamps on their circle.
pub fn timestamp_ahead(newer: u32, older: u32) -> i32 {
    newer.wrapping_sub(older) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extension_follows_wraps_both_ways() {
        let start = ExtSeq::first(Seq(65_534));
        let after = start.nearest(Seq(3));
        assert_eq!(after.0 - start.0, 5);
        assert_eq!(after.nearest(Seq(65_534)), start);
    }

    #[test]
    fn distance_is_total() {
        for a in [0u16, 1, 32_767, 32_768, 65_535] {
            for b in [0u16, 1, 32_767, 32_768, 65_535] {
                let _ = Seq(a).ahead_of(Seq(b));
                let _ = ExtSeq(u64::from(a)).nearest(Seq(b));
            }
        }
        assert!(Seq(0).ahead_of(Seq(65_535)) > 0);
    }
}
