//! One packet of a producer on a lane. Mid, rid, SSRC and payload type do not travel: handle and encoding say it all, and
//! consumers have names of their own. Header extensions travel in the router's ids; descriptor and payload verbatim.

use crate::wire::lane::{EncodingEpoch, LaneHandle};
use crate::wire::{Malformed, Reader};

/// The bits of a media record's flags.
pub mod flags {
    pub const MARKER: u8 = 1;
    pub const KEYFRAME: u8 = 2;
    pub const STARTS: u8 = 4;
    pub const ENDS: u8 = 8;
    pub const LEGIBLE: u8 = 16;
    pub const GARBLED: u8 = 32;
    pub(super) const HAS_LAYERS: u8 = 64;
    pub(super) const HAS_AGE: u8 = 128;
}

const HEAD: usize = 15;
/// With layers and age.
pub const MEDIA_HEAD_MAX: usize = HEAD + 1 + 2;

/// A media record up to its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct MediaHead {
    pub handle: LaneHandle,
    /// Of [`flags`]; those of layers and age follow from the fields below.
    pub flags: u8,
    /// The low bits of the extended sequence number.
    pub number: u32,
    pub timestamp: u32,
    pub at: EncodingEpoch,
    /// Spatial layer in the upper half, temporal in the lower; of a stream that has some.
    pub layers: Option<u8>,
    /// The time from its arrival to its sending in steps of 8 µs, where that is long.
    pub age: Option<u16>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaneMedia<'a> {
    pub head: MediaHead,
    /// Header-extension elements, dependency descriptor, payload.
    pub parts: [&'a [u8]; 3],
}

impl MediaHead {
    pub fn length(&self) -> usize {
        HEAD + usize::from(self.layers.is_some()) + 2 * usize::from(self.age.is_some())
    }

    /// Writes it and returns its length; `elements` and `descriptor` are the lengths of the first two parts.
    pub fn write(&self, elements: u8, descriptor: u8, out: &mut [u8; MEDIA_HEAD_MAX]) -> usize {
        let has = |flag: u8, is: bool| if is { flag } else { 0 };
        let own = flags::HAS_LAYERS | flags::HAS_AGE;
        let set = has(flags::HAS_LAYERS, self.layers.is_some()) | has(flags::HAS_AGE, self.age.is_some());
        out[0..2].copy_from_slice(&self.handle.index.to_be_bytes());
        out[2] = self.handle.generation;
        out[3] = self.flags & !own | set;
        out[4..8].copy_from_slice(&self.number.to_be_bytes());
        out[8..12].copy_from_slice(&self.timestamp.to_be_bytes());
        out[12] = self.at.0;
        (out[13], out[14]) = (elements, descriptor);
        let mut end = HEAD;
        if let Some(layers) = self.layers {
            out[end] = layers;
            end += 1;
        }
        if let Some(age) = self.age {
            out[end..end + 2].copy_from_slice(&age.to_be_bytes());
            end += 2;
        }
        end
    }
}

impl<'a> LaneMedia<'a> {
    pub fn parse(body: &'a [u8]) -> Result<LaneMedia<'a>, Malformed> {
        let mut reader = Reader::new(body, "media record cut short");
        let handle = LaneHandle { index: reader.u16()?, generation: reader.u8()? };
        let flags = reader.u8()?;
        let (number, timestamp) = (reader.u32()?, reader.u32()?);
        let at = EncodingEpoch(reader.u8()?);
        let (elements, descriptor) = (reader.u8()?, reader.u8()?);
        let layers = if flags & flags::HAS_LAYERS != 0 { Some(reader.u8()?) } else { None };
        let age = if flags & flags::HAS_AGE != 0 { Some(reader.u16()?) } else { None };
        let parts = [reader.take(elements.into())?, reader.take(descriptor.into())?, reader.rest()];
        let flags = flags & !(flags::HAS_LAYERS | flags::HAS_AGE);
        Ok(LaneMedia { head: MediaHead { handle, flags, number, timestamp, at, layers, age }, parts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_read_as_it_was_written_and_fifteen_bytes_are_its_head() {
        let handle = LaneHandle { index: 300, generation: 9 };
        let plain = MediaHead { handle, flags: flags::MARKER | flags::KEYFRAME, ..MediaHead::default() };
        let whole = MediaHead { layers: Some(0x21), age: Some(1_000), number: u32::MAX, timestamp: 5, ..plain };
        for (head, len) in [(plain, 15), (MediaHead { age: Some(0), ..plain }, 17), (whole, MEDIA_HEAD_MAX)] {
            let mut bytes = [0; MEDIA_HEAD_MAX];
            assert_eq!((head.write(2, 1, &mut bytes), head.length()), (len, len));
            let record = [&bytes[..len], b"eedpayload"].concat();
            assert_eq!(LaneMedia::parse(&record), Ok(LaneMedia { head, parts: [b"ee", b"d", b"payload"] }));
            assert!((0..len + 3).all(|cut| LaneMedia::parse(&record[..cut]).is_err()));
        }
    }
}
