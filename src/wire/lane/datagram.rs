//! A lane's datagram: eight bytes in the clear, which are sealed along as associated data, and the sealed part.

use crate::wire::Malformed;

/// The length of what is in the clear.
pub const LANE_HEADER: usize = 8;
/// The one version there is. Sixteen fit the first byte.
pub const LANE_VERSION: u8 = 1;
const FIRST: u8 = 0xC0;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaneHeader {
    pub version: u8,
    /// Counts the keys of a lane: 0 are the first, and never come again.
    pub phase: u8,
    /// 48 bits, never twice under a key.
    pub number: u64,
}

/// A datagram that claims to be a lane's. Its range of first bytes is nobody else's (RFC 7983).
pub fn is_lane(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| first & 0xF0 == FIRST)
}

impl LaneHeader {
    pub const NUMBER_MAX: u64 = (1 << 48) - 1;

    pub fn parse(datagram: &[u8]) -> Result<LaneHeader, Malformed> {
        let Some(&[first, phase, a, b, c, d, e, f]) = datagram.first_chunk::<LANE_HEADER>() else {
            return Err(Malformed("lane datagram cut short"));
        };
        if !is_lane(datagram) {
            return Err(Malformed("not a lane's datagram"));
        }
        Ok(LaneHeader { version: first & 0x0F, phase, number: u64::from_be_bytes([0, 0, a, b, c, d, e, f]) })
    }

    pub fn to_bytes(self) -> [u8; LANE_HEADER] {
        let mut bytes = self.number.to_be_bytes();
        bytes[0] = FIRST | self.version & 0x0F;
        bytes[1] = self.phase;
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written_and_other_protocols_are_not() {
        for number in [0, 1, 0x0102_0304_0506, LaneHeader::NUMBER_MAX] {
            let header = LaneHeader { version: LANE_VERSION, phase: 7, number };
            assert_eq!(LaneHeader::parse(&header.to_bytes()), Ok(header));
        }
        for first in (0..0xC0).chain(0xD0..=255) {
            assert!(!is_lane(&[first]) && LaneHeader::parse(&[first; 20]).is_err(), "{first}");
        }
        assert!(LaneHeader::parse(&[0xC1; 7]).is_err());
    }
}
