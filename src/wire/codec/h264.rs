//! H.264 payloads (RFC 6184 section 5): NAL unit types, and the units of an aggregation or a first fragment.

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
            let mut info = PayloadInfo { starts_frame, ..PayloadInfo::default() };
            for unit in units {
                info.starts_keyframe |= unit.starts_keyframe();
                info.starts_idr |= unit.starts_idr();
            }
            info.starts_idr &= !info.starts_keyframe;
            info
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

    /// A keyframe's parameter sets come in front of it, and a decoder that begins behind them cannot decode the IDR:
    /// the IDR's own first fragment starts nothing. A PPS may also come alone between other frames.
    fn starts_keyframe(&self) -> bool {
        self.kind == SPS
    }

    fn starts_idr(&self) -> bool {
        self.kind == IDR && self.starts_frame()
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
            starts_idr: self.starts_idr(),
            starts_frame: self.starts_frame(),
            ..PayloadInfo::default()
        }
    }
}

/// A parameter set's type and its id (ITU-T H.264 sections 7.4.2.1 and 7.4.2.2). Sorted, sequences come before pictures.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SetId {
    pub kind: u8,
    pub id: u8,
}

/// A parameter set in a payload, or a part of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetPart<'a> {
    Whole(&'a [u8]),
    /// `head` is the header of the fragmented unit.
    Fragment {
        head: u8,
        starts: bool,
        ends: bool,
        part: &'a [u8],
    },
}

pub fn parameter_sets(payload: &[u8]) -> impl Iterator<Item = SetPart<'_>> {
    let is_set = |head: u8| matches!(head & 0x1F, SPS | PPS);
    let (aggregated, single) = match payload {
        [head, rest @ ..] if head & 0x1F == STAP_A => (rest, None),
        // RFC 6184 section 5.8: S and E, then the type of the unit that is cut up, whose other bits the indicator has.
        [indicator, fragment, part @ ..] if indicator & 0x1F == FU_A && is_set(*fragment) => {
            let (starts, ends) = (fragment & 0x80 != 0, fragment & 0x40 != 0);
            let head = indicator & 0xE0 | fragment & 0x1F;
            (&[][..], Some(SetPart::Fragment { head, starts, ends, part }))
        }
        [head, ..] if is_set(*head) => (&[][..], Some(SetPart::Whole(payload))),
        _ => (&[][..], None),
    };
    let units = Aggregated { rest: aggregated }.filter(move |unit| is_set(unit[0]));
    units.map(SetPart::Whole).chain(single)
}

/// ITU-T H.264 sections 7.3.2.1.1 and 7.3.2.2: of a sequence's set the id is behind three bytes of profile and level, of
/// a picture's it comes first.
pub fn parameter_set_id(unit: &[u8]) -> Option<SetId> {
    let (&head, body) = unit.split_first()?;
    let (kind, at, ids) = match head & 0x1F {
        SPS => (SPS, 3, 32),
        PPS => (PPS, 0, 256),
        _ => return None,
    };
    let id = exp_golomb(body.get(at..)?).filter(|id| *id < ids)?;
    Some(SetId { kind, id: id as u8 })
}

/// ITU-T H.264 section 9.1, up to what an id can be.
fn exp_golomb(bytes: &[u8]) -> Option<u32> {
    let mut word = [0; 4];
    word.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    let word = u32::from_be_bytes(word);
    let zeros = word.leading_zeros();
    (zeros <= 8).then(|| (word >> (31 - 2 * zeros)) - 1)
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
    fn an_idr_begins_with_its_first_slice_alone() {
        for begins in [&[0x65, 0x88][..], &[0x7C, 0x85, 0x88], &[0x78, 0, 2, 0x68, 0xCE, 0, 2, 0x65, 0x88]] {
            assert!(inspect(begins).starts_idr && !keyframe(begins), "{begins:?}");
        }
        for none in [
            &[0x65, 0x40][..],
            &[0x7C, 0x05, 0x88],
            &[0x7C, 0x85, 0x40],
            &[0x41, 0x9A],
            &[0x78, 0, 2, 0x67, 0x42, 0, 2, 0x65, 0x88],
            &[0x67, 0x42],
        ] {
            assert!(!inspect(none).starts_idr, "{none:?}");
        }
    }

    #[test]
    fn parameter_sets_are_found_alone_aggregated_and_in_fragments() {
        let found = |payload| parameter_sets(payload).collect::<Vec<_>>();
        assert_eq!(found(&[0x67, 0x42, 1]), [SetPart::Whole(&[0x67, 0x42, 1])]);
        let both = [0x78, 0, 1, 0x09, 0, 2, 0x67, 0x42, 0, 2, 0x68, 0xCE, 0, 1, 0x65];
        assert_eq!(found(&both), [SetPart::Whole(&[0x67, 0x42]), SetPart::Whole(&[0x68, 0xCE])]);
        let part = |starts, ends| vec![SetPart::Fragment { head: 0x67, starts, ends, part: &[9, 8] }];
        assert_eq!(found(&[0x7C, 0x87, 9, 8]), part(true, false));
        assert_eq!(found(&[0x7C, 0x07, 9, 8]), part(false, false));
        assert_eq!(found(&[0x7C, 0x47, 9, 8]), part(false, true));
        for none in [&[][..], &[0x65, 7], &[0x7C, 0x85, 7], &[0x7C], &[0x78, 0, 9, 0x67], &[0x41, 0x67]] {
            assert!(found(none).is_empty(), "{none:?}");
        }
    }

    #[test]
    fn a_parameter_sets_id_is_read_or_it_has_none() {
        let id = |unit: &[u8]| parameter_set_id(unit).map(|set| (set.kind, set.id));
        // ue(v): 1 is 0, 010 is 1, 00110 is 5, 000010000 is 15.
        assert_eq!(id(&[0x67, 0x42, 0xC0, 0x1F, 0x80]), Some((7, 0)));
        assert_eq!(id(&[0x27, 0x64, 0, 0x28, 0b0100_0000]), Some((7, 1)));
        assert_eq!(id(&[0x68, 0xCE]), Some((8, 0)));
        assert_eq!(id(&[0x68, 0b0011_0000]), Some((8, 5)));
        assert_eq!(id(&[0x68, 0b0000_1000, 0]), Some((8, 15)));
        // 00000000 1 00000000 is 255, 000001 00001 is 32.
        assert_eq!(id(&[0x68, 0, 0b1000_0000, 0]), Some((8, 255)));
        for none in [&[][..], &[0x67], &[0x67, 1, 2, 3], &[0x68], &[0x68, 0, 0x40, 0], &[0x65, 0x88]] {
            assert_eq!(id(none), None, "{none:?}");
        }
        assert_eq!(id(&[0x67, 1, 2, 3, 0b0000_0100, 0b0010_0000]), None, "a sequence's is at most 31");
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
