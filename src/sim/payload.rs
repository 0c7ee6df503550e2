//! Payloads of synthetic media: valid packetization with meaningless content, and the fields that a receiver must read
//! to know whether it could decode. Written apart from `wire::codec` on purpose: the simulation checks the SFU's
//! readers with it. Every payload ends with the time it was made, so that its delay can be measured.

use crate::base::time::Instant;
use crate::sim::scalability::{LayerFrame, Scalability};
use crate::wire::codec::Codec;

/// The most one packet carries, descriptor and stamp included: what Chromium aims at.
pub const PAYLOAD_MAX: usize = 1_180;
const STAMP_LEN: usize = 8;

const WIDTH: u16 = 640;
const HEIGHT: u16 = 480;

/// One frame to packetize; a source counts these.
#[derive(Clone, Debug)]
pub struct Frame {
    pub key: bool,
    pub picture_id: u16,
    pub tl0_pic_idx: u8,
    /// Content bytes over all packets.
    pub len: usize,
    pub made_at: Instant,
    /// One of several layers, which its descriptor names; None: the only one.
    pub layer: Option<Layer>,
    /// The content that a decoder finds.
    pub inside: Option<Inside>,
    pub encryption: Encryption,
}

/// End to end: the part that cannot be read on the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Encryption {
    #[default]
    None,
    /// Everything behind the payload descriptor, as browsers' encoded transforms do it.
    Content,
    /// The payload as a whole.
    Payload,
}

#[derive(Clone, Debug)]
pub struct Layer {
    pub mode: Scalability,
    pub spatial_layers: u8,
    pub frame: LayerFrame,
}

impl Frame {
    /// It begins a coded video sequence: only the lowest layer of a keyframe does.
    fn begins(&self) -> bool {
        self.key && self.layer.as_ref().is_none_or(|layer| layer.frame.spatial == 0)
    }

    fn temporal(&self) -> u8 {
        self.layer.as_ref().map_or(0, |layer| layer.frame.temporal)
    }
}

/// A receiver's reading of one payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PayloadReading {
    pub starts_frame: bool,
    /// Known only from the packet that starts a frame.
    pub key: bool,
    pub picture_id: Option<u16>,
}

/// Cuts a frame into payloads.
pub fn packetize(codec: Codec, frame: Frame) -> Vec<Vec<u8>> {
    let room = PAYLOAD_MAX - STAMP_LEN - if frame.inside.is_some() { 80 } else { 32 };
    let packets = frame.len.div_ceil(room).max(1);
    let mut payloads = Vec::with_capacity(packets + 1);
    if codec == Codec::H264 && frame.key && frame.encryption == Encryption::None {
        let behind = STAMP_LEN + if frame.inside.is_some() { Inside::LEN } else { 0 };
        payloads.push(h264_parameter_sets(behind));
    }
    for index in 0..packets {
        let (first, last) = (index == 0, index + 1 == packets);
        let mut payload = match codec {
            // RFC 6716 section 3.1: CELT, 20 ms, one frame.
            Codec::Opus => vec![0xf8],
            Codec::Vp8 => vp8_start(&frame, first),
            Codec::Vp9 => vp9_start(&frame, first, last),
            Codec::H264 => h264_start(&frame, first, last),
            Codec::Av1 => av1_start(&frame, first, last),
        };
        // The same content in every packet of a frame but the last, as encoders' packetizers do it.
        let content = if last { frame.len - (frame.len / packets) * (packets - 1) } else { frame.len / packets };
        payload.resize(payload.len() + content, 0x55);
        payloads.push(payload);
    }
    let count = payloads.len() as u16;
    for (index, payload) in payloads.iter_mut().enumerate() {
        if let Some(inside) = frame.inside {
            payload.extend_from_slice(&Inside { index: index as u16, count, ..inside }.to_bytes());
        }
        payload.extend_from_slice(&frame.made_at.as_nanos().to_be_bytes());
        if frame.encryption == Encryption::Payload {
            seal(payload);
        }
    }
    payloads
}

const SEAL_LEN: usize = 16;

/// Noise in place of the first bytes, which can be checked by the rest.
fn seal(payload: &mut Vec<u8>) {
    let noise = noise_of(payload);
    payload.splice(..0, noise);
}

/// Whether a sealed payload is as it was made.
pub fn is_intact(payload: &[u8]) -> bool {
    payload.split_first_chunk::<SEAL_LEN>().is_some_and(|(noise, rest)| *noise == noise_of(rest))
}

fn noise_of(content: &[u8]) -> [u8; SEAL_LEN] {
    let sum = content
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    let mixed = |seed: u64| {
        (sum ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    };
    (u128::from(mixed(1)) << 64 | u128::from(mixed(2))).to_be_bytes()
}

/// The content that a decoder would read, in front of the stamp of every packet: which frame of which stream it is, and
/// its references. Stands for the coded frame, so the SFU knows nothing of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Inside {
    /// One start of one encoder; no other has the same.
    pub stream: u32,
    /// In order of coding, from 0.
    pub frame: u32,
    pub captured_at: Instant,
    pub key: bool,
    pub spatial: u8,
    pub temporal: u8,
    /// Counted back in coded frames, 0 for none.
    pub refs: [u8; 3],
    pub index: u16,
    pub count: u16,
}

impl Inside {
    const MAGIC: u8 = 0xd7;
    pub const LEN: usize = 28;

    pub fn to_bytes(self) -> [u8; Inside::LEN] {
        let mut bytes = [0; Inside::LEN];
        bytes[0] = Inside::MAGIC;
        bytes[1] = u8::from(self.key) << 7 | self.spatial << 4 | self.temporal;
        bytes[2..6].copy_from_slice(&self.stream.to_be_bytes());
        bytes[6..10].copy_from_slice(&self.frame.to_be_bytes());
        bytes[10..18].copy_from_slice(&self.captured_at.as_nanos().to_be_bytes());
        bytes[18..21].copy_from_slice(&self.refs);
        bytes[21..23].copy_from_slice(&self.index.to_be_bytes());
        bytes[23..25].copy_from_slice(&self.count.to_be_bytes());
        bytes
    }

    /// None for another publisher's payload.
    pub fn of(payload: &[u8]) -> Option<Inside> {
        let (rest, _) = payload.split_last_chunk::<STAMP_LEN>()?;
        let (_, bytes) = rest.split_last_chunk::<{ Inside::LEN }>()?;
        let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let half = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        (bytes[0] == Inside::MAGIC).then(|| Inside {
            stream: word(2),
            frame: word(6),
            captured_at: Instant::from_nanos(u64::from(word(10)) << 32 | u64::from(word(14))),
            key: bytes[1] & 0x80 != 0,
            spatial: bytes[1] >> 4 & 7,
            temporal: bytes[1] & 15,
            refs: [bytes[18], bytes[19], bytes[20]],
            index: half(21),
            count: half(23),
        })
    }
}

/// When the payload was made; meaningless unless the publisher is one of ours.
pub fn stamp(payload: &[u8]) -> Option<Instant> {
    let (_, stamp) = payload.split_last_chunk::<STAMP_LEN>()?;
    Some(Instant::from_nanos(u64::from_be_bytes(*stamp)))
}

/// None when the payload is not of this codec.
pub fn read(codec: Codec, payload: &[u8]) -> Option<PayloadReading> {
    match codec {
        Codec::Opus => payload.first().map(|_| PayloadReading { starts_frame: true, key: true, picture_id: None }),
        Codec::Vp8 => read_vp8(payload),
        Codec::Vp9 => read_vp9(payload),
        Codec::H264 => read_h264(payload),
        // AV1 RTP section 4.4: Z continues an OBU, N starts a coded video sequence.
        Codec::Av1 => payload.first().map(|aggregation| PayloadReading {
            starts_frame: aggregation & 0x80 == 0,
            key: aggregation & 0x08 != 0,
            picture_id: None,
        }),
    }
}

/// RFC 7741 section 4.2: X, then I, L and T, a 15-bit picture id; section 4.3: the frame's own header.
fn vp8_start(frame: &Frame, first: bool) -> Vec<u8> {
    let id = (frame.picture_id | 0x8000).to_be_bytes();
    let base_only = frame.layer.as_ref().is_some_and(|layer| layer.frame.base_only);
    let temporal = frame.temporal() << 6 | u8::from(base_only) << 5;
    let mut payload = vec![0x80 | u8::from(first) << 4, 0xe0, id[0], id[1], frame.tl0_pic_idx, temporal];
    if frame.encryption != Encryption::None {
        // Noise where the frame's own header would be.
        payload.extend_from_slice(&frame.made_at.as_nanos().wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    } else if first {
        // The lowest bit of the frame tag is 0 for a keyframe, which adds its start code and size.
        payload.extend_from_slice(&[0x10 | u8::from(!frame.key), 0, 0]);
        if frame.key {
            payload.extend_from_slice(&[0x9d, 0x01, 0x2a]);
            payload.extend_from_slice(&WIDTH.to_le_bytes());
            payload.extend_from_slice(&HEIGHT.to_le_bytes());
        }
    }
    payload
}

fn read_vp8(payload: &[u8]) -> Option<PayloadReading> {
    let first = *payload.first()?;
    let mut at = 1;
    let mut picture_id = None;
    if first & 0x80 != 0 {
        let flags = *payload.get(1)?;
        at = 2;
        if flags & 0x80 != 0 {
            let high = *payload.get(at)?;
            let long = high & 0x80 != 0;
            let low = if long { *payload.get(at + 1)? } else { 0 };
            picture_id = Some(if long { u16::from(high & 0x7f) << 8 | u16::from(low) } else { u16::from(high) });
            at += 1 + usize::from(long);
        }
        at += usize::from(flags & 0x40 != 0) + usize::from(flags & 0x30 != 0);
    }
    let starts_frame = first & 0x17 == 0x10;
    let key = starts_frame && payload.get(at)? & 1 == 0;
    Some(PayloadReading { starts_frame, key, picture_id })
}

/// RFC 9628 section 4.2: I, P, L, B, E, V; not flexible; the keyframe carries its size in the scalability structure.
fn vp9_start(frame: &Frame, first: bool, last: bool) -> Vec<u8> {
    let structure = frame.begins() && first;
    let inter_picture = frame.layer.as_ref().map_or(!frame.key, |layer| layer.frame.inter_picture);
    let flags =
        0xa0 | u8::from(inter_picture) << 6 | u8::from(first) << 3 | u8::from(last) << 2 | u8::from(structure) << 1;
    let id = (frame.picture_id | 0x8000).to_be_bytes();
    let Some(Layer { mode, spatial_layers, frame: layer }) = &frame.layer else {
        let mut payload = vec![flags, id[0], id[1], 0, frame.tl0_pic_idx];
        if structure {
            payload.push(0x10);
            payload.extend_from_slice(&WIDTH.to_be_bytes());
            payload.extend_from_slice(&HEIGHT.to_be_bytes());
        }
        return payload;
    };
    // Z: no higher spatial layer refers to this frame.
    let flags = flags | u8::from(!layer.needed_above);
    let ids = layer.temporal << 5 | u8::from(layer.switch_up) << 4 | layer.spatial << 1 | u8::from(layer.inter_layer);
    let mut payload = vec![flags, id[0], id[1], ids, frame.tl0_pic_idx];
    if structure {
        // Section 4.2.1: N_S, Y, G; the sizes; a group of pictures.
        payload.push((spatial_layers - 1) << 5 | 0x18);
        for spatial in 0..*spatial_layers {
            let shift = spatial_layers - 1 - spatial;
            payload.extend_from_slice(&(WIDTH >> shift).to_be_bytes());
            payload.extend_from_slice(&(HEIGHT >> shift).to_be_bytes());
        }
        payload.push(mode.period() as u8);
        for picture in 0..mode.period() {
            let refs = mode.refs(picture);
            let up = u8::from(mode.switches_up(picture)) << 4;
            payload.push(mode.temporal(picture) << 5 | up | (refs.len() as u8) << 2);
            payload.extend_from_slice(refs);
        }
    }
    payload
}

fn read_vp9(payload: &[u8]) -> Option<PayloadReading> {
    let flags = *payload.first()?;
    let picture_id = match (flags & 0x80 != 0, payload) {
        (false, _) => None,
        (true, [_, high, low, ..]) if high & 0x80 != 0 => Some(u16::from(high & 0x7f) << 8 | u16::from(*low)),
        (true, [_, short, ..]) => Some(u16::from(*short)),
        _ => return None,
    };
    let starts_frame = flags & 0x08 != 0;
    Some(PayloadReading { starts_frame, key: starts_frame && flags & 0x40 == 0, picture_id })
}

/// RFC 6184 section 5.7.1: SPS and PPS in one aggregation packet, in front of every IDR picture.
fn h264_parameter_sets(behind: usize) -> Vec<u8> {
    let sps = [0x67, 0x42, 0xe0, 0x1f, 0x8c, 0x8d, 0x40, 0x50, 0x1e, 0xd0];
    let pps = [0x68, 0xce, 0x3c, 0x80];
    let mut payload = vec![0x78];
    for unit in [&sps[..], &pps] {
        payload.extend_from_slice(&(unit.len() as u16).to_be_bytes());
        payload.extend_from_slice(unit);
    }
    // The stamp behind it is a unit of its own, of a type decoders skip.
    payload.extend_from_slice(&[0, 1 + behind as u8, 0x1f]);
    payload
}

/// RFC 6184 sections 5.6 and 5.8: one unit whole, or in fragments.
fn h264_start(frame: &Frame, first: bool, last: bool) -> Vec<u8> {
    let (priority, kind) = match frame.encryption {
        Encryption::None if frame.key => (0x60, 5),
        Encryption::None => (0x40, 1),
        // The unit's own header is noise, of a single unit at least.
        _ => {
            let [noise, .., kind] = frame.made_at.as_nanos().wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
            (noise & 0xe0, kind % 24)
        }
    };
    if first && last {
        vec![priority | kind]
    } else {
        vec![priority | 28, u8::from(first) << 7 | u8::from(last) << 6 | kind]
    }
}

fn read_h264(payload: &[u8]) -> Option<PayloadReading> {
    let (starts_frame, kind) = match (payload.first()? & 0x1f, payload) {
        (24, [_, _, _, inner, ..]) => (true, inner & 0x1f),
        (28, [_, header, ..]) => (header & 0x80 != 0, header & 0x1f),
        (24 | 28, _) => return None,
        (kind, _) => (true, kind),
    };
    Some(PayloadReading { starts_frame, key: starts_frame && matches!(kind, 5 | 7), picture_id: None })
}

/// AV1 RTP section 4.4: one OBU a packet, and at a keyframe the sequence header before it.
fn av1_start(frame: &Frame, first: bool, last: bool) -> Vec<u8> {
    const SEQUENCE_HEADER: [u8; 11] = [0x08, 0, 0, 0, 0x42, 0xab, 0xbf, 0xc3, 0x70, 0x09, 0x20];
    let with_header = frame.begins() && first && frame.encryption == Encryption::None;
    let elements = 1 + u8::from(with_header);
    let aggregation = u8::from(!first) << 7 | u8::from(!last) << 6 | elements << 4 | u8::from(with_header) << 3;
    let mut payload = vec![aggregation];
    if with_header {
        payload.push(SEQUENCE_HEADER.len() as u8);
        payload.extend_from_slice(&SEQUENCE_HEADER);
    }
    if first {
        // OBU_FRAME without a size field; with an extension where there are layers (AV1 specification section 5.3.3).
        match &frame.layer {
            Some(layer) => payload.extend_from_slice(&[0x34, layer.frame.temporal << 5 | layer.frame.spatial << 3]),
            None => payload.push(0x30),
        }
    }
    payload
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIDEO: [Codec; 4] = [Codec::Vp8, Codec::Vp9, Codec::H264, Codec::Av1];

    fn frame(key: bool, len: usize) -> Frame {
        let made_at = Instant::from_nanos(123_456_789);
        Frame {
            key,
            picture_id: 0x1234,
            tl0_pic_idx: 7,
            len,
            made_at,
            layer: None,
            inside: None,
            encryption: Encryption::None,
        }
    }

    #[test]
    fn frames_read_back_as_written() {
        for codec in VIDEO {
            for key in [true, false] {
                for len in [1, 900, 5_000] {
                    let payloads = packetize(codec, frame(key, len));
                    assert!(payloads.iter().all(|payload| payload.len() <= PAYLOAD_MAX));
                    for (index, payload) in payloads.iter().enumerate() {
                        let reading = read(codec, payload).unwrap();
                        assert_eq!(stamp(payload), Some(Instant::from_nanos(123_456_789)));
                        // H.264's picture starts a second time behind its parameter sets.
                        if codec != Codec::H264 || index == 0 {
                            assert_eq!(
                                (reading.starts_frame, reading.key),
                                (index == 0, index == 0 && key),
                                "{codec:?}"
                            );
                        }
                        if matches!(codec, Codec::Vp8 | Codec::Vp9) {
                            assert_eq!(reading.picture_id, Some(0x1234));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused() {
        for codec in VIDEO.into_iter().chain([Codec::Opus]) {
            for first in 0..=255u8 {
                for second in [0u8, 0x80, 0xff] {
                    for len in 0..8 {
                        let _ = read(codec, &[first, second, 0xff, 0, 0, 0, 0, 0][..len]);
                    }
                }
            }
        }
    }
}
