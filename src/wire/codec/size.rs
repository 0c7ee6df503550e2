//! The size of the picture that a keyframe starts, where the payload says it and it is cheap to read. Called by
//! `router` for producers whose client does not say which of their encodings is which.

use super::h264::sequence_parameters;
use super::vp8::Vp8Descriptor;
use super::vp9::Vp9Descriptor;
use super::{Codec, av1};

/// Pixels; None where the payload does not say. Only for packets that start a keyframe.
pub fn pixels(codec: Codec, payload: &[u8]) -> Option<u32> {
    let (width, height) = match codec {
        Codec::Opus => None,
        Codec::Vp8 => vp8(payload),
        Codec::Vp9 => Vp9Descriptor::parse(payload).ok()?.structure_size,
        Codec::H264 => sequence_parameters(payload).and_then(h264),
        Codec::Av1 => av1::sequence_header(payload).and_then(av1),
    }?;
    width.checked_mul(height).filter(|pixels| *pixels > 0)
}

/// RFC 6386 section 9.1: 14 bits each, little-endian, with two bits of scale above them.
fn vp8(payload: &[u8]) -> Option<(u32, u32)> {
    let descriptor = Vp8Descriptor::parse(payload).ok().filter(|descriptor| descriptor.keyframe)?;
    match payload.get(usize::from(descriptor.len)..)? {
        &[_, _, _, _, _, _, a, b, c, d, ..] => {
            let side = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3FFF);
            Some((side(a, b), side(c, d)))
        }
        _ => None,
    }
}

/// ITU-T H.264 section 7.3.2.1.1, as far as the size; None where scaling lists are in the way. Cropping is left out.
fn h264(unit: &[u8]) -> Option<(u32, u32)> {
    let mut bits = Bits::without_emulation(unit);
    let profile = bits.take(8)?;
    bits.take(16)?;
    bits.exp_golomb()?;
    if [100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135].contains(&profile) {
        if bits.exp_golomb()? == 3 {
            bits.take(1)?;
        }
        bits.exp_golomb()?;
        bits.exp_golomb()?;
        bits.take(1)?;
        if bits.take(1)? == 1 {
            return None;
        }
    }
    bits.exp_golomb()?;
    match bits.exp_golomb()? {
        0 => {
            bits.exp_golomb()?;
        }
        1 => {
            bits.take(1)?;
            bits.exp_golomb()?;
            bits.exp_golomb()?;
            for _ in 0..bits.exp_golomb()?.min(255) {
                bits.exp_golomb()?;
            }
        }
        _ => {}
    }
    bits.exp_golomb()?;
    bits.take(1)?;
    let (width, height) = (bits.exp_golomb()?.checked_add(1)?, bits.exp_golomb()?.checked_add(1)?);
    let fields = 2 - bits.take(1)?;
    Some((width.checked_mul(16)?, height.checked_mul(16 * fields)?))
}

/// AV1 specification section 5.5.1, as far as the size; None where timing information is in the way, which encoders for
/// calls do not write.
fn av1(header: &[u8]) -> Option<(u32, u32)> {
    let mut bits = Bits::of(header);
    bits.take(4)?;
    let reduced = bits.take(1)? == 1;
    if reduced {
        bits.take(5)?;
    } else {
        if bits.take(1)? == 1 {
            return None;
        }
        let has_delays = bits.take(1)? == 1;
        for _ in 0..=bits.take(5)? {
            bits.take(12)?;
            if bits.take(5)? > 7 {
                bits.take(1)?;
            }
            if has_delays && bits.take(1)? == 1 {
                bits.take(4)?;
            }
        }
    }
    let (width_bits, height_bits) = (bits.take(4)? + 1, bits.take(4)? + 1);
    Some((bits.take(width_bits)? + 1, bits.take(height_bits)? + 1))
}

/// Reads bits, the highest of each byte first.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Bytes that only keep start codes away are passed over (ITU-T H.264 section 7.4.1).
    emulation: bool,
    zeros: u8,
}

impl<'a> Bits<'a> {
    fn of(bytes: &'a [u8]) -> Bits<'a> {
        Bits { bytes, at: 0, emulation: false, zeros: 0 }
    }

    fn without_emulation(bytes: &'a [u8]) -> Bits<'a> {
        Bits { bytes, at: 0, emulation: true, zeros: 0 }
    }

    fn bit(&mut self) -> Option<u32> {
        let byte = *self.bytes.first()?;
        let bit = u32::from(byte >> (7 - self.at) & 1);
        self.at += 1;
        if self.at == 8 {
            (self.at, self.bytes) = (0, &self.bytes[1..]);
            self.zeros = if byte == 0 { self.zeros + 1 } else { 0 };
            if self.emulation && self.zeros >= 2 && self.bytes.first() == Some(&3) {
                (self.bytes, self.zeros) = (&self.bytes[1..], 0);
            }
        }
        Some(bit)
    }

    /// Up to 32 bits.
    fn take(&mut self, count: u32) -> Option<u32> {
        (0..count).try_fold(0, |value: u32, _| Some(value << 1 | self.bit()?))
    }

    /// ITU-T H.264 section 9.1. None for values that no size has.
    fn exp_golomb(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while self.bit()? == 0 {
            zeros += 1;
            if zeros > 16 {
                return None;
            }
        }
        Some((1 << zeros) - 1 + self.take(zeros)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPS_720: [u8; 13] = [0x67, 0x42, 0xC0, 0x1F, 0xDA, 0x01, 0x40, 0x16, 0xE8, 0x06, 0xD0, 0xA1, 0x35];
    /// As x264 writes it, in high profile.
    const SPS_HIGH: [u8; 14] = [0x67, 0x64, 0x00, 0x1F, 0xAC, 0xD9, 0x40, 0x50, 0x05, 0xBB, 0x01, 0x10, 0x00, 0x00];
    fn stap(units: &[&[u8]]) -> Vec<u8> {
        let mut payload = vec![0x78];
        for unit in units {
            payload.extend((unit.len() as u16).to_be_bytes());
            payload.extend(*unit);
        }
        payload
    }

    #[test]
    fn a_vp8_keyframe_says_its_size_and_nothing_else_does() {
        let key = [0x10, 0, 0, 0, 0x9D, 0x01, 0x2A, 0x80, 0x42, 0xE0, 0x01, 0xFF];
        assert_eq!(pixels(Codec::Vp8, &key), Some(640 * 480), "the bits of scale are no part of it");
        let mut later = key;
        later[1] = 1;
        assert_eq!(pixels(Codec::Vp8, &later), None);
        for cut in 0..11 {
            assert_eq!(pixels(Codec::Vp8, &key[..cut]), None, "{cut}");
        }
    }

    #[test]
    fn vp9_says_it_of_its_highest_layer() {
        let with = |structure: &[u8]| [&[0b0000_1010][..], structure, &[0xAA]].concat();
        assert_eq!(pixels(Codec::Vp9, &with(&[0b0001_0000, 1, 64, 0, 180])), Some(320 * 180));
        assert_eq!(pixels(Codec::Vp9, &with(&[0b0011_0000, 1, 64, 0, 180, 2, 128, 1, 104])), Some(640 * 360));
        assert_eq!(pixels(Codec::Vp9, &with(&[0b0000_0000])), None, "a structure without sizes");
        assert_eq!(pixels(Codec::Vp9, &[0b0000_1000, 0xAA]), None);
    }

    #[test]
    fn an_sps_says_it_alone_or_among_others() {
        assert_eq!(pixels(Codec::H264, &SPS_720), Some(1_280 * 720));
        assert_eq!(pixels(Codec::H264, &SPS_HIGH), Some(1_280 * 720));
        assert_eq!(pixels(Codec::H264, &stap(&[&[0x09, 0x10], &SPS_720, &[0x68, 0xCE]])), Some(1_280 * 720));
        assert_eq!(pixels(Codec::H264, &stap(&[&[0x68, 0xCE]])), None);
        assert_eq!(pixels(Codec::H264, &[0x65, 0x88]), None);
        assert_eq!(pixels(Codec::H264, &SPS_720[..6]), None);
    }

    /// The low bits of each, so many.
    fn written(fields: &[(u32, usize)]) -> Vec<u8> {
        let bits: Vec<u8> = fields
            .iter()
            .flat_map(|(value, count)| (0..*count).rev().map(move |bit| (value >> bit & 1) as u8))
            .collect();
        bits.chunks(8).map(|byte| byte.iter().enumerate().fold(0, |all, (at, bit)| all | bit << (7 - at))).collect()
    }

    #[test]
    fn emulation_prevention_is_no_part_of_a_size() {
        let written = [66, 0, 0, 3, 0b1111_0100, 0b0010_0010, 0b0001_1000];
        let mut bits = Bits::without_emulation(&written);
        assert_eq!([8, 16, 8].map(|count| bits.take(count)), [Some(66), Some(0), Some(0b1111_0100)]);
        assert_eq!(Bits::of(&written).take(32), Some(66 << 24 | 3), "which AV1 has none of");
    }

    #[test]
    fn an_av1_sequence_header_says_it() {
        let size = [(9, 4), (8, 4), (639, 10), (359, 9)];
        let plain = written(&[&[(0, 5), (0, 2), (0, 5), (0, 12), (5, 5)][..], &size].concat());
        let two_points = written(
            &[
                &[(0, 5), (0, 1), (1, 1), (1, 5)],
                &[(0, 12), (9, 5), (1, 1), (1, 1), (7, 4)][..],
                &[(0, 12), (5, 5), (0, 1)],
                &size,
            ]
            .concat(),
        );
        let reduced = written(&[&[(0, 3), (1, 1), (1, 1), (5, 5)][..], &size].concat());
        for header in [&plain, &two_points, &reduced] {
            // One element of W 1, N; the same with an extension header; with its own length.
            assert_eq!(pixels(Codec::Av1, &[&[0x18, 0x08][..], header].concat()), Some(640 * 360));
            assert_eq!(pixels(Codec::Av1, &[&[0x18, 0x0C, 0x20][..], header].concat()), Some(640 * 360));
            assert_eq!(pixels(Codec::Av1, &[&[0x18, 0x0A, header.len() as u8][..], header].concat()), Some(640 * 360));
            // Behind another element, in front of a third.
            let among = [&[0x38, 1, 0x10, header.len() as u8 + 1, 0x08][..], header, &[0x32, 1]].concat();
            assert_eq!(pixels(Codec::Av1, &among), Some(640 * 360));
        }
        let timed = written(&[(0, 5), (1, 1), (0, 32), (0, 32)]);
        assert_eq!(pixels(Codec::Av1, &[&[0x18, 0x08][..], &timed].concat()), None);
        assert_eq!(pixels(Codec::Av1, &[0x18, 0x32, 1, 2, 3]), None, "a frame is no sequence header");
        assert_eq!(pixels(Codec::Av1, &[&[0x18, 0x08][..], &plain[..5]].concat()), None);
    }

    #[test]
    fn whatever_comes_ends() {
        use rand::{Rng, SeedableRng, rngs::StdRng};
        let mut rng = StdRng::seed_from_u64(1);
        for _ in 0..200_000 {
            let mut payload = vec![0u8; rng.random_range(0..48)];
            rng.fill(&mut payload[..]);
            if let Some(first) = payload.first_mut() {
                *first = [0x10, 0x67, 0x78, 0x18, 0x0A, *first][rng.random_range(0..6)];
            }
            for codec in [Codec::Opus, Codec::Vp8, Codec::Vp9, Codec::H264, Codec::Av1] {
                let _ = pixels(codec, &payload);
            }
        }
    }
}
