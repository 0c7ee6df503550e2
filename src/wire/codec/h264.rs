//! H.264 payloads (RFC 6184 section 5): NAL unit types, and what an aggregation or a first fragment holds.

use super::PayloadInfo;

const SLICE: u8 = 1;
const IDR: u8 = 5;
const SEI: u8 = 6;
const SPS: u8 = 7;
const PPS: u8 = 8;
const DELIMITER: u8 = 9;
const STAP_A: u8 = 24;
const FU_A: u8 = 28;

pub(super) fn inspect(payload: &[u8]) -> PayloadInfo {
    let Some((&head, rest)) = payload.split_first() else { return PayloadInfo::default() };
    //= RFC 6184 section 1.3, F: a value of 1 indicates that the NAL unit type octet and payload may contain bit errors or
    // other syntax violations.
    let garbled = head & 0x80 != 0;
    let info = match head & 0x1F {
        STAP_A => {
            let mut units = Aggregated { rest }.map(Unit::whole).peekable();
            let starts_frame = units.peek().is_some_and(Unit::starts_frame);
            PayloadInfo {
                starts_keyframe: units.any(|unit| unit.starts_keyframe()),
                starts_frame,
                ..Default::default()
            }
        }
        // RFC 6184 section 5.8: the S bit, then the type of the unit that is cut up.
        FU_A => match rest.split_first() {
            Some((&fragment, rest)) if fragment & 0x80 != 0 => {
                Unit { kind: fragment & 0x1F, first: rest.first().copied() }.info()
            }
            _ => PayloadInfo::default(),
        },
        _ => Unit::whole(payload).info(),
    };
    PayloadInfo { garbled, ..info }
}

/// A NAL unit or its first fragment.
struct Unit {
    kind: u8,
    /// The byte behind its header.
    first: Option<u8>,
}

impl Unit {
    fn whole(unit: &[u8]) -> Unit {
        Unit { kind: unit.first().map_or(0, |head| head & 0x1F), first: unit.get(1).copied() }
    }

    /// Parameter sets come in front of the keyframe they are for, and a decoder that begins behind them has nothing to
    /// decode the IDR with: its own first fragment starts nothing. A PPS may also come alone between other frames.
    fn starts_keyframe(&self) -> bool {
        self.kind == SPS
    }

    /// ITU-T H.264 section 7.4.1.2.3: what begins an access unit, or a slice whose `first_mb_in_slice` is 0, which
    /// exp-Golomb codes as one set bit.
    fn starts_frame(&self) -> bool {
        match self.kind {
            SLICE | IDR => self.first.is_some_and(|byte| byte & 0x80 != 0),
            kind => matches!(kind, SEI | SPS | PPS | DELIMITER),
        }
    }

    fn info(&self) -> PayloadInfo {
        PayloadInfo {
            starts_keyframe: self.starts_keyframe(),
            starts_frame: self.starts_frame(),
            ..PayloadInfo::default()
        }
    }
}

/// The sequence parameter set in a payload, behind the unit's header; not one in fragments.
pub(super) fn sequence_parameters(payload: &[u8]) -> Option<&[u8]> {
    let unit = match payload.first()? & 0x1F {
        STAP_A => Aggregated { rest: &payload[1..] }.find(|unit| unit[0] & 0x1F == SPS)?,
        SPS => payload,
        _ => return None,
    };
    unit.get(1..)
}

/// The units of a STAP-A (RFC 6184 section 5.7.1); ends at the first size that lies or is 0.
struct Aggregated<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Aggregated<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<Self::Item> {
        let (size, rest) = self.rest.split_first_chunk()?;
        self.rest = &[];
        let (unit, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*size)))?;
        if unit.is_empty() {
            return None;
        }
        self.rest = rest;
        Some(unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyframe(payload: &[u8]) -> bool {
        inspect(payload).starts_keyframe
    }

    #[test]
    fn an_sps_starts_a_keyframe_and_neither_a_pps_nor_an_idr_alone_does() {
        assert!(keyframe(&[0x67, 0x42]) && !keyframe(&[0x65, 0x88]));
        assert!(!keyframe(&[0x68, 0xCE]) && !keyframe(&[0x41, 0x9A]) && !keyframe(&[]));
    }

    #[test]
    fn an_aggregation_starts_a_keyframe_when_one_of_its_units_does() {
        assert!(keyframe(&[0x78, 0, 2, 0x67, 0x42, 0, 2, 0x68, 0xCE]));
        assert!(keyframe(&[0x78, 0, 1, 0x09, 0, 1, 0x67, 0, 2, 0x68, 0xCE, 0, 1, 0x65]));
        assert!(!keyframe(&[0x78, 0, 2, 0x68, 0xCE, 0, 2, 0x41, 0x9A]));
        assert!(!keyframe(&[0x78, 0, 0, 0, 1, 0x67]), "a unit of no length ends it");
        assert!(!keyframe(&[0x78, 0, 9, 0x67]), "a size that lies");
    }

    #[test]
    fn only_the_first_fragment_of_an_sps_starts_a_keyframe() {
        assert!(keyframe(&[0x7C, 0x87, 0x42]));
        assert!(!keyframe(&[0x7C, 0x07, 0x42]) && !keyframe(&[0x7C, 0x47, 0x42]) && !keyframe(&[0x7C, 0x85, 0x88]));
        assert!(!keyframe(&[0x7C]));
    }

    #[test]
    fn the_forbidden_bit_tells_of_encryption() {
        assert!(inspect(&[0xE5, 0x88]).garbled && inspect(&[0xFC, 0x85, 0x88]).garbled && inspect(&[0xF8]).garbled);
        assert!(!inspect(&[0x65, 0x88]).garbled && !inspect(&[0x7C, 0x85, 0x88]).garbled);
    }

    #[test]
    fn a_frame_starts_with_its_first_slice_or_what_comes_before_it() {
        for start in
            [&[0x41, 0x9A][..], &[0x65, 0x88], &[0x09, 0x10], &[0x06], &[0x7C, 0x81, 0x9A], &[0x78, 0, 1, 0x67]]
        {
            assert!(inspect(start).starts_frame, "{start:?}");
        }
        for inside in [&[0x41, 0x40][..], &[0x41], &[0x7C, 0x01, 0x9A], &[0x7C, 0x81, 0x20], &[0x78], &[0x0C, 0xFF]] {
            assert!(!inspect(inside).starts_frame, "{inside:?}");
        }
    }
}
