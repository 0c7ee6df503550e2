//! RTP packets (RFC 3550 section 5.1) and the header extension block (RFC 8285): read in place, written in place.
//! Not a packet type that owns bytes: [`RtpHeader`] remembers offsets, the caller keeps the packet. Read by `transport`
//! and `router` on the way in, written by `router` and `egress` on the way out.

use std::ops::Range;

use super::{Malformed, Reader};
use crate::base::id::{PayloadType, Ssrc};
use crate::base::limits::EXTENSION_ELEMENTS_MAX;
use crate::base::seq::Seq;

pub const FIXED_HEADER: usize = 12;

const ONE_BYTE_PROFILE: u16 = 0xBEDE;
/// RFC 8285 section 4.3: the low four bits are the application's.
const TWO_BYTE_PROFILE: u16 = 0x1000;
/// Profile and length in front of the elements.
const PREAMBLE: usize = 4;

/// The extension block as a packet carries it, without its preamble.
#[derive(Clone, Copy, Debug)]
struct Block {
    profile: u16,
    start: u16,
    len: u16,
}

/// A checked header: its offsets hold for the bytes it was parsed from.
#[derive(Clone, Copy, Debug)]
pub struct RtpHeader {
    pub marker: bool,
    pub payload_type: PayloadType,
    pub seq: Seq,
    pub timestamp: u32,
    pub ssrc: Ssrc,
    pub has_padding: bool,
    /// The whole header with CSRCs and extension block.
    len: u16,
    extension: Option<Block>,
}

impl RtpHeader {
    /// Checks every length of the header. The payload may still be encrypted: it is not looked at.
    pub fn parse(bytes: &[u8]) -> Result<RtpHeader, Malformed> {
        let mut reader = Reader::new(bytes, "RTP header cut short");
        let [first, second] = reader.array()?;
        if first >> 6 != 2 {
            return Err(Malformed("RTP version is not 2"));
        }
        let seq = Seq(reader.u16()?);
        let timestamp = reader.u32()?;
        let ssrc = Ssrc(reader.u32()?);
        reader.take(usize::from(first & 0x0F) * 4)?;
        let block = if first & 0x10 != 0 {
            let profile = reader.u16()?;
            let words = reader.u16()?;
            let start = bytes.len() - reader.rest().len();
            let len = reader.take(usize::from(words) * 4)?.len();
            Some((profile, start, len))
        } else {
            None
        };
        let too_long = |_| Malformed("RTP header longer than a datagram");
        let extension = match block {
            Some((profile, start, len)) => Some(Block {
                profile,
                start: start.try_into().map_err(too_long)?,
                len: len.try_into().map_err(too_long)?,
            }),
            None => None,
        };
        Ok(RtpHeader {
            marker: second & 0x80 != 0,
            payload_type: PayloadType(second & 0x7F),
            seq,
            timestamp,
            ssrc,
            has_padding: first & 0x20 != 0,
            len: (bytes.len() - reader.rest().len()).try_into().map_err(too_long)?,
            extension,
        })
    }

    #[expect(clippy::len_without_is_empty, reason = "a header is never empty")]
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// The extension elements of `packet`, the bytes this header was parsed from.
    pub fn extensions<'a>(&self, packet: &'a [u8]) -> ExtensionIter<'a> {
        let (form, rest) = match self.extension {
            Some(Block { profile, start, len }) => {
                let start = usize::from(start);
                (Form::of(profile), packet.get(start..start + usize::from(len)).unwrap_or_default())
            }
            None => (None, &[][..]),
        };
        ExtensionIter { form, rest, left: EXTENSION_ELEMENTS_MAX }
    }

    /// The bytes behind the header in a decrypted `packet` (without the tag), less its padding. A packet of nothing but
    /// padding gives an empty slice.
    pub fn payload<'a>(&self, packet: &'a [u8]) -> Result<&'a [u8], Malformed> {
        let payload = packet.get(self.len()..).ok_or(Malformed("packet shorter than its RTP header"))?;
        if !self.has_padding {
            return Ok(payload);
        }
        // RFC 3550 section 5.1: the last octet counts the padding, itself included.
        match payload.last() {
            Some(&pad) if pad != 0 && usize::from(pad) <= payload.len() => {
                Ok(&payload[..payload.len() - usize::from(pad)])
            }
            _ => Err(Malformed("RTP padding count is 0 or longer than the payload")),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Form {
    OneByte,
    TwoByte,
}

impl Form {
    fn of(profile: u16) -> Option<Form> {
        match profile {
            ONE_BYTE_PROFILE => Some(Form::OneByte),
            _ if profile & 0xFFF0 == TWO_BYTE_PROFILE => Some(Form::TwoByte),
            _ => None,
        }
    }
}

/// Elements as (id, value); ends at the first one that cannot be read, and after [`EXTENSION_ELEMENTS_MAX`].
#[derive(Clone, Debug)]
pub struct ExtensionIter<'a> {
    /// None: a block of another profile, which holds no elements.
    form: Option<Form>,
    rest: &'a [u8],
    left: usize,
}

impl<'a> Iterator for ExtensionIter<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let form = self.form?;
        self.left = self.left.checked_sub(1)?;
        let zeros = self.rest.iter().take_while(|byte| **byte == 0).count();
        let rest = &self.rest[zeros..];
        // An unreadable element ends the block, for good.
        self.rest = &[];
        let (id, len, rest) = match form {
            Form::OneByte => {
                let (&head, rest) = rest.split_first()?;
                // RFC 8285 section 4.2: id 15, and id 0 with a length, end the processing of the whole block.
                if head >> 4 == 15 || head >> 4 == 0 {
                    return None;
                }
                (head >> 4, usize::from(head & 0x0F) + 1, rest)
            }
            Form::TwoByte => {
                let (&[id, len], rest) = rest.split_first_chunk()?;
                (id, usize::from(len), rest)
            }
        };
        let (value, rest) = rest.split_at_checked(len)?;
        self.rest = rest;
        Some((id, value))
    }
}

pub struct HeaderFields {
    pub marker: bool,
    pub has_padding: bool,
    pub payload_type: PayloadType,
    pub seq: Seq,
    pub timestamp: u32,
    pub ssrc: Ssrc,
}

/// A fixed header without CSRCs; with `has_extension` an extension block must follow it.
pub fn write_fixed_header(out: &mut [u8; FIXED_HEADER], fields: HeaderFields, has_extension: bool) {
    out[0] = 0x80 | u8::from(fields.has_padding) << 5 | u8::from(has_extension) << 4;
    out[1] = u8::from(fields.marker) << 7 | fields.payload_type.0 & 0x7F;
    out[2..4].copy_from_slice(&fields.seq.0.to_be_bytes());
    out[4..8].copy_from_slice(&fields.timestamp.to_be_bytes());
    out[8..12].copy_from_slice(&fields.ssrc.0.to_be_bytes());
}

/// Writes one extension block at the start of `out`. The form is chosen beforehand, because elements of the one-byte
/// form cannot be widened in place: two-byte as soon as one element [`needs_two_byte`](Self::needs_two_byte).
pub struct ExtensionWriter<'a> {
    out: &'a mut [u8],
    two_byte: bool,
    at: usize,
}

impl<'a> ExtensionWriter<'a> {
    pub fn new(out: &'a mut [u8], two_byte: bool) -> Self {
        // Whole words only, so that the padding of `finish` always fits; the length field counts 65,535 of them.
        let usable = (out.len() & !3).min(PREAMBLE + usize::from(u16::MAX) * 4);
        ExtensionWriter { out: &mut out[..usable], two_byte, at: PREAMBLE }
    }

    /// Whether an element does not fit the one-byte form: ids 1–14, 1–16 bytes (RFC 8285 section 4.2).
    pub fn needs_two_byte(id: u8, len: usize) -> bool {
        !(1..=14).contains(&id) || !(1..=16).contains(&len)
    }

    /// False when the element does not fit the space or the form; nothing is written then.
    pub fn push(&mut self, id: u8, value: &[u8]) -> bool {
        match self.reserve(id, value.len()) {
            Some(range) => {
                self.out[range].copy_from_slice(value);
                true
            }
            None => false,
        }
    }

    /// Elements that are already in one-byte form, as they are. False when they do not fit or the form is another.
    pub fn push_one_byte_elements(&mut self, elements: &[u8]) -> bool {
        match self.out.get_mut(self.at..self.at + elements.len()) {
            Some(room) if !self.two_byte => {
                room.copy_from_slice(elements);
                self.at += elements.len();
                true
            }
            _ => false,
        }
    }

    /// Space for an element whose value is known later: its range within `out`, filled with zeros.
    fn reserve(&mut self, id: u8, len: usize) -> Option<Range<usize>> {
        let (head, head_len) = if self.two_byte {
            // RFC 8285 section 4.3: id 0 is padding.
            if id == 0 {
                return None;
            }
            ([id, u8::try_from(len).ok()?], 2)
        } else if Self::needs_two_byte(id, len) {
            return None;
        } else {
            ([id << 4 | (len as u8 - 1), 0], 1)
        };
        let start = self.at + head_len;
        let range = start..start + len;
        self.out.get_mut(range.clone())?.fill(0);
        self.out[self.at..start].copy_from_slice(&head[..head_len]);
        self.at = range.end;
        Some(range)
    }

    /// Writes the preamble and the padding; returns the length of the whole block, 0 when nothing was pushed.
    pub fn finish(self) -> usize {
        if self.at == PREAMBLE {
            return 0;
        }
        let end = self.at.next_multiple_of(4);
        self.out[self.at..end].fill(0);
        let profile = if self.two_byte { TWO_BYTE_PROFILE } else { ONE_BYTE_PROFILE };
        self.out[..2].copy_from_slice(&profile.to_be_bytes());
        self.out[2..4].copy_from_slice(&(((end - PREAMBLE) / 4) as u16).to_be_bytes());
        end
    }
}

/// The elements of a block in one-byte form that holds no padding: ids and values.
pub fn one_byte_elements(mut elements: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (&head, rest) = elements.split_first()?;
        let (value, rest) = rest.split_at_checked(usize::from(head & 0x0F) + 1)?;
        elements = rest;
        Some((head >> 4, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> HeaderFields {
        HeaderFields {
            marker: true,
            has_padding: false,
            payload_type: PayloadType(96),
            seq: Seq(65_535),
            timestamp: 0xDEAD_BEEF,
            ssrc: Ssrc(0x0102_0304),
        }
    }

    fn packet(block: &[u8], payload: &[u8], has_padding: bool) -> Vec<u8> {
        let mut fixed = [0; FIXED_HEADER];
        write_fixed_header(&mut fixed, HeaderFields { has_padding, ..fields() }, !block.is_empty());
        [&fixed[..], block, payload].concat()
    }

    fn elements(packet: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let header = RtpHeader::parse(packet).unwrap();
        header.extensions(packet).map(|(id, value)| (id, value.to_vec())).collect()
    }

    #[test]
    fn a_fixed_header_comes_back_as_written() {
        let bytes = packet(&[], b"payload", false);
        let header = RtpHeader::parse(&bytes).unwrap();
        assert!(header.marker && !header.has_padding && header.len() == 12);
        assert_eq!((header.payload_type, header.seq), (PayloadType(96), Seq(65_535)));
        assert_eq!((header.timestamp, header.ssrc), (0xDEAD_BEEF, Ssrc(0x0102_0304)));
        assert_eq!(header.payload(&bytes).unwrap(), b"payload");
        assert_eq!(header.extensions(&bytes).count(), 0);
    }

    #[test]
    fn csrcs_and_extension_block_belong_to_the_header_and_every_cut_is_malformed() {
        let mut bytes = packet(&[0xBE, 0xDE, 0, 1, 0x10, 0xAA, 0, 0], b"", false);
        bytes[0] |= 2;
        bytes.splice(12..12, [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(RtpHeader::parse(&bytes).unwrap().len(), 28);
        assert_eq!(elements(&bytes), [(1, vec![0xAA])]);
        for cut in 0..bytes.len() {
            assert_eq!(RtpHeader::parse(&bytes[..cut]).unwrap_err(), Malformed("RTP header cut short"));
        }
    }

    #[test]
    fn only_version_2_is_rtp() {
        let mut bytes = packet(&[], b"", false);
        for version in [0, 1, 3] {
            bytes[0] = version << 6;
            assert!(RtpHeader::parse(&bytes).is_err());
        }
    }

    #[test]
    fn the_example_of_rfc_8285_section_4_2_reads_as_drawn() {
        let block = [0xBE, 0xDE, 0, 3, 0x10, 0xA0, 0x21, 0xB0, 0xB1, 0, 0, 0x33, 0xC0, 0xC1, 0xC2, 0xC3];
        assert_eq!(
            elements(&packet(&block, b"", false)),
            [(1, vec![0xA0]), (2, vec![0xB0, 0xB1]), (3, vec![0xC0, 0xC1, 0xC2, 0xC3])]
        );
    }

    #[test]
    fn the_example_of_rfc_8285_section_4_3_reads_as_drawn() {
        let block = [0x10, 0, 0, 3, 1, 0, 2, 1, 0xB0, 0, 3, 4, 0xC0, 0xC1, 0xC2, 0xC3];
        assert_eq!(
            elements(&packet(&block, b"", false)),
            [(1, vec![]), (2, vec![0xB0]), (3, vec![0xC0, 0xC1, 0xC2, 0xC3])]
        );
    }

    #[test]
    fn id_15_id_0_with_a_length_and_an_overlong_element_end_the_block() {
        for stop in [0xF0, 0x02, 0x2F] {
            let block = [0xBE, 0xDE, 0, 2, 0x10, 7, stop, 0x30, 9, 0x40, 9, 0];
            assert_eq!(elements(&packet(&block, b"", false)), [(1, vec![7])], "{stop:#x}");
        }
        assert!(elements(&packet(&[0xAB, 0xCD, 0, 1, 0x10, 7, 0, 0], b"", false)).is_empty(), "another profile");
    }

    #[test]
    fn elements_beyond_the_maximum_are_not_read() {
        for count in [1, EXTENSION_ELEMENTS_MAX, EXTENSION_ELEMENTS_MAX + 1, 600] {
            let block: Vec<u8> = (0..count).flat_map(|at| [1 + (at % 255) as u8, 0]).collect();
            let words = (block.len().div_ceil(4) as u16).to_be_bytes();
            let block = [&[0x10, 0, words[0], words[1]], &block[..], &[0; 2][..block.len() % 4]].concat();
            assert_eq!(elements(&packet(&block, b"", false)).len(), count.min(EXTENSION_ELEMENTS_MAX));
        }
    }

    #[test]
    fn padding_is_stripped_and_a_lie_about_it_is_malformed() {
        let payload = |bytes: &[u8]| -> Result<Vec<u8>, Malformed> {
            let packet = packet(&[], bytes, true);
            RtpHeader::parse(&packet).unwrap().payload(&packet).map(<[u8]>::to_vec)
        };
        assert_eq!(payload(&[9, 9, 0, 2]).unwrap(), [9, 9]);
        assert_eq!(payload(&[0, 0, 0, 4]).unwrap(), [0u8; 0], "padding only");
        for lie in [&[9, 9, 0, 0][..], &[9, 9, 0, 5], &[255], &[]] {
            assert!(payload(lie).is_err(), "{lie:?}");
        }
        let full = [[0; 254].as_slice(), &[255]].concat();
        assert_eq!(payload(&full).unwrap(), [0u8; 0]);
    }

    #[test]
    fn a_header_read_against_other_bytes_stays_within_them() {
        let long = packet(&[0xBE, 0xDE, 0, 1, 0x10, 0xAA, 0, 0], b"x", false);
        let header = RtpHeader::parse(&long).unwrap();
        for cut in 0..header.len() {
            assert!(header.payload(&long[..cut]).is_err());
            let _ = header.extensions(&long[..cut]).count();
        }
    }

    #[test]
    fn written_blocks_come_back_in_both_forms() {
        for two_byte in [false, true] {
            let mut out = [0xEE; 64];
            let mut writer = ExtensionWriter::new(&mut out, two_byte);
            assert!(writer.push(1, b"0"));
            let range = writer.reserve(5, 2).unwrap();
            assert!(writer.push(14, &[7; 16]));
            let len = writer.finish();
            out[range].copy_from_slice(&[1, 2]);
            assert_eq!(len % 4, 0);
            let read = elements(&packet(&out[..len], b"", false));
            assert_eq!(read, [(1, b"0".to_vec()), (5, vec![1, 2]), (14, vec![7; 16])]);
        }
    }

    #[test]
    fn the_writer_refuses_what_does_not_fit_and_writes_nothing_when_empty() {
        let mut out = [0; 11];
        let mut writer = ExtensionWriter::new(&mut out, false);
        assert!(!writer.push(15, b"x") && !writer.push(0, b"x") && !writer.push(1, b"") && !writer.push(1, &[0; 17]));
        assert!(!writer.push(1, &[1, 2, 3, 4]), "11 bytes hold one word of elements");
        assert!(writer.push(1, &[1, 2, 3]) && !writer.push(2, &[1]));
        assert_eq!(writer.finish(), 8);
        let mut writer = ExtensionWriter::new(&mut out, true);
        assert!(!writer.push(0, b"x") && !writer.push(1, &[0; 256]));
        assert_eq!(writer.finish(), 0);
        for len in 0..4 {
            let mut writer = ExtensionWriter::new(&mut out[..len], true);
            assert!(!writer.push(1, b""));
            assert_eq!(writer.finish(), 0);
        }
    }
}
