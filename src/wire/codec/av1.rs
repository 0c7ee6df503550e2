//! AV1 payloads (AV1 RTP specification, section 4): the aggregation header, and the layer ids of the first OBU that has
//! them.

use super::PayloadInfo;
use crate::wire::{Malformed, Reader};

/// Section 4.4.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AggregationHeader {
    /// Z: the first element continues an OBU of the packet before.
    pub continues: bool,
    /// Y: the last element goes on in the next packet.
    pub continued: bool,
    /// W: the number of elements; 0: each has a length in front.
    pub elements: u8,
    /// N: the first packet of a coded video sequence.
    pub new_sequence: bool,
}

impl AggregationHeader {
    pub fn parse(payload: &[u8]) -> Result<AggregationHeader, Malformed> {
        let byte = Reader::new(payload, "AV1 payload without aggregation header").u8()?;
        Ok(AggregationHeader {
            continues: byte & 0x80 != 0,
            continued: byte & 0x40 != 0,
            elements: byte >> 4 & 3,
            new_sequence: byte & 0x08 != 0,
        })
    }
}

pub(super) fn inspect(payload: &[u8]) -> PayloadInfo {
    let Ok(header) = AggregationHeader::parse(payload) else { return PayloadInfo::default() };
    let (spatial, temporal) = layers(header, &payload[1..]).unwrap_or((0, 0));
    PayloadInfo {
        // Z and N together contradict each other: section 4.4 forbids it.
        starts_keyframe: header.new_sequence && !header.continues,
        starts_frame: !header.continues,
        spatial,
        temporal,
        ..PayloadInfo::default()
    }
}

/// Spatial and temporal id of the first OBU that starts in this packet and has an extension header.
fn layers(header: AggregationHeader, elements: &[u8]) -> Option<(u8, u8)> {
    // AV1 specification section 5.3.2: the extension flag, and behind the first byte temporal and spatial id.
    find_obu(header, elements, |obu| match obu {
        &[first, extension, ..] if first & 0x04 != 0 => Some((extension >> 3 & 3, extension >> 5)),
        _ => None,
    })
}

/// The result of `read` for the first OBU starting in this packet for which it has one.
fn find_obu<'a, T>(header: AggregationHeader, elements: &'a [u8], read: impl Fn(&'a [u8]) -> Option<T>) -> Option<T> {
    let mut reader = Reader::new(elements, "AV1 element cut short");
    let mut index = 0u8;
    loop {
        index = index.saturating_add(1);
        // Section 4.3: the last of W elements has no length.
        let last = index == header.elements;
        let element = if last { reader.rest() } else { leb128(&mut reader).and_then(|len| reader.take(len)).ok()? };
        let starts_here = index > 1 || !header.continues;
        if let (true, Some(found)) = (starts_here, read(element)) {
            return Some(found);
        }
        if last || reader.rest().is_empty() {
            return None;
        }
    }
}

/// The sequence header in a payload, behind the OBU's own header.
pub(super) fn sequence_header(payload: &[u8]) -> Option<&[u8]> {
    let header = AggregationHeader::parse(payload).ok()?;
    // AV1 specification section 5.3.2: the type, whether there is an extension, whether there is a size.
    find_obu(header, &payload[1..], |obu| {
        let mut reader = Reader::new(obu, "AV1 sequence header cut short");
        let first = reader.u8().ok().filter(|first| first >> 3 & 0x0F == 1)?;
        if first & 0x04 != 0 {
            reader.u8().ok()?;
        }
        if first & 0x02 != 0 {
            leb128(&mut reader).ok()?;
        }
        Some(reader.rest())
    })
}

/// AV1 specification section 4.10.5, within the lengths a datagram can have.
fn leb128(reader: &mut Reader<'_>) -> Result<usize, Malformed> {
    let mut value = 0;
    for shift in [0, 7, 14] {
        let byte = reader.u8()?;
        value |= usize::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed("AV1 element longer than a datagram"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyframe_is_a_new_sequence_and_a_frame_starts_without_continuation() {
        let first = inspect(&[0x18, 0x0A, 1]);
        assert!(first.starts_keyframe && first.starts_frame);
        let later = inspect(&[0x10, 0x32, 1]);
        assert!(!later.starts_keyframe && later.starts_frame);
        for continued in [0x90, 0x98] {
            let inside = inspect(&[continued, 1]);
            assert!(!inside.starts_keyframe && !inside.starts_frame);
        }
        assert_eq!(inspect(&[]), PayloadInfo::default());
    }

    #[test]
    fn layer_ids_come_from_the_first_obu_that_has_them() {
        let ids = |payload: &[u8]| (inspect(payload).spatial, inspect(payload).temporal);
        let extension = 2 << 5 | 1 << 3;
        assert_eq!(ids(&[0x10, 0x34, extension, 0]), (1, 2), "one element without length");
        assert_eq!(ids(&[0x20, 2, 0x0A, 0, 0x34, extension]), (1, 2), "behind a sequence header");
        assert_eq!(ids(&[0x00, 2, 0x0A, 0, 2, 0x34, extension]), (1, 2), "all with lengths");
        assert_eq!(ids(&[0x90, 0x34, extension]), (0, 0), "the rest of an OBU is not a header");
        assert_eq!(ids(&[0xA0, 2, 0x34, 0xFF, 0x34, extension]), (1, 2), "behind the rest of one");
    }

    #[test]
    fn lengths_that_lie_end_the_reading() {
        for payload in
            [&[0x00, 0x80][..], &[0, 0x80, 0x80, 0x80, 1], &[0, 9, 0x34], &[0x20, 5, 1], &[0x30, 0, 0, 0], &[0]]
        {
            let info = inspect(payload);
            assert!(info.starts_frame && (info.spatial, info.temporal) == (0, 0), "{payload:?}");
        }
    }
}
