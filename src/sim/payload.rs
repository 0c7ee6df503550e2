//! Payloads of synthetic media: valid packetization with meaningless content, and the little that a receiver must read
//! to know whether it could decode. Written apart from `wire::codec` on purpose: the simulation checks the SFU's
//! readers with it. Every payload ends with the moment it was made, so that its delay can be measured.

use crate::base::time::Instant;
use crate::wire::codec::Codec;

/// The most one packet carries, descriptor and stamp included: what Chromium aims at.
pub const PAYLOAD_MAX: usize = 1_180;
pub const STAMP_LEN: usize = 8;

const WIDTH: u16 = 640;
const HEIGHT: u16 = 480;

/// One frame to packetize; a source counts these.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    pub key: bool,
    pub picture_id: u16,
    pub tl0_pic_idx: u8,
    /// Content bytes over all packets.
    pub len: usize,
    pub made_at: Instant,
}

/// What a receiver reads of one payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reading {
    pub starts_frame: bool,
    /// Only told by the packet that starts a frame.
    pub key: bool,
    pub picture_id: Option<u16>,
}

/// Cuts a frame into payloads.
pub fn packetize(codec: Codec, frame: Frame) -> Vec<Vec<u8>> {
    let room = PAYLOAD_MAX - STAMP_LEN - 32;
    let packets = frame.len.div_ceil(room).max(1);
    let mut payloads = Vec::with_capacity(packets + 1);
    if codec == Codec::H264 && frame.key {
        payloads.push(h264_parameter_sets());
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
    for payload in &mut payloads {
        payload.extend_from_slice(&frame.made_at.as_nanos().to_be_bytes());
    }
    payloads
}

/// When the payload was made; meaningless unless the publisher is one of ours.
pub fn stamp(payload: &[u8]) -> Option<Instant> {
    let (_, stamp) = payload.split_last_chunk::<STAMP_LEN>()?;
    Some(Instant::from_nanos(u64::from_be_bytes(*stamp)))
}

/// None when the payload is none of this codec.
pub fn read(codec: Codec, payload: &[u8]) -> Option<Reading> {
    match codec {
        Codec::Opus => payload.first().map(|_| Reading { starts_frame: true, key: true, picture_id: None }),
        Codec::Vp8 => read_vp8(payload),
        Codec::Vp9 => read_vp9(payload),
        Codec::H264 => read_h264(payload),
        // AV1 RTP section 4.4: Z continues an OBU, N starts a coded video sequence.
        Codec::Av1 => payload.first().map(|aggregation| Reading {
            starts_frame: aggregation & 0x80 == 0,
            key: aggregation & 0x08 != 0,
            picture_id: None,
        }),
    }
}

/// RFC 7741 section 4.2: X, then I, L and T, a 15-bit picture id; section 4.3: the frame's own header.
fn vp8_start(frame: &Frame, first: bool) -> Vec<u8> {
    let id = (frame.picture_id | 0x8000).to_be_bytes();
    let mut payload = vec![0x80 | u8::from(first) << 4, 0xe0, id[0], id[1], frame.tl0_pic_idx, 0];
    if first {
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

fn read_vp8(payload: &[u8]) -> Option<Reading> {
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
    Some(Reading { starts_frame, key, picture_id })
}

/// RFC 9628 section 4.2: I, P, L, B, E, V; not flexible; the keyframe carries its size in the scalability structure.
fn vp9_start(frame: &Frame, first: bool, last: bool) -> Vec<u8> {
    let structure = frame.key && first;
    let flags =
        0xa0 | u8::from(!frame.key) << 6 | u8::from(first) << 3 | u8::from(last) << 2 | u8::from(structure) << 1;
    let id = (frame.picture_id | 0x8000).to_be_bytes();
    let mut payload = vec![flags, id[0], id[1], 0, frame.tl0_pic_idx];
    if structure {
        payload.push(0x10);
        payload.extend_from_slice(&WIDTH.to_be_bytes());
        payload.extend_from_slice(&HEIGHT.to_be_bytes());
    }
    payload
}

fn read_vp9(payload: &[u8]) -> Option<Reading> {
    let flags = *payload.first()?;
    let picture_id = match (flags & 0x80 != 0, payload) {
        (false, _) => None,
        (true, [_, high, low, ..]) if high & 0x80 != 0 => Some(u16::from(high & 0x7f) << 8 | u16::from(*low)),
        (true, [_, short, ..]) => Some(u16::from(*short)),
        _ => return None,
    };
    let starts_frame = flags & 0x08 != 0;
    Some(Reading { starts_frame, key: starts_frame && flags & 0x40 == 0, picture_id })
}

/// RFC 6184 section 5.7.1: SPS and PPS in one aggregation packet, in front of every IDR picture.
fn h264_parameter_sets() -> Vec<u8> {
    let sps = [0x67, 0x42, 0xe0, 0x1f, 0x8c, 0x8d, 0x40, 0x50, 0x1e, 0xd0];
    let pps = [0x68, 0xce, 0x3c, 0x80];
    let mut payload = vec![0x78];
    for unit in [&sps[..], &pps] {
        payload.extend_from_slice(&(unit.len() as u16).to_be_bytes());
        payload.extend_from_slice(unit);
    }
    // The stamp behind it is a unit of its own, of a type decoders skip.
    payload.extend_from_slice(&[0, 1 + STAMP_LEN as u8, 0x1f]);
    payload
}

/// RFC 6184 sections 5.6 and 5.8: one unit whole, or in fragments.
fn h264_start(frame: &Frame, first: bool, last: bool) -> Vec<u8> {
    let (priority, kind) = if frame.key { (0x60, 5) } else { (0x40, 1) };
    if first && last {
        vec![priority | kind]
    } else {
        vec![priority | 28, u8::from(first) << 7 | u8::from(last) << 6 | kind]
    }
}

fn read_h264(payload: &[u8]) -> Option<Reading> {
    let (starts_frame, kind) = match (payload.first()? & 0x1f, payload) {
        (24, [_, _, _, inner, ..]) => (true, inner & 0x1f),
        (28, [_, header, ..]) => (header & 0x80 != 0, header & 0x1f),
        (24 | 28, _) => return None,
        (kind, _) => (true, kind),
    };
    Some(Reading { starts_frame, key: starts_frame && matches!(kind, 5 | 7), picture_id: None })
}

/// AV1 RTP section 4.4: one OBU a packet, and at a keyframe the sequence header before it.
fn av1_start(frame: &Frame, first: bool, last: bool) -> Vec<u8> {
    const SEQUENCE_HEADER: [u8; 11] = [0x08, 0, 0, 0, 0x42, 0xab, 0xbf, 0xc3, 0x70, 0x09, 0x20];
    let with_header = frame.key && first;
    let elements = 1 + u8::from(with_header);
    let aggregation = u8::from(!first) << 7 | u8::from(!last) << 6 | elements << 4 | u8::from(with_header) << 3;
    let mut payload = vec![aggregation];
    if with_header {
        payload.push(SEQUENCE_HEADER.len() as u8);
        payload.extend_from_slice(&SEQUENCE_HEADER);
    }
    if first {
        // OBU_FRAME without a size field.
        payload.push(0x30);
    }
    payload
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIDEO: [Codec; 4] = [Codec::Vp8, Codec::Vp9, Codec::H264, Codec::Av1];

    fn frame(key: bool, len: usize) -> Frame {
        Frame { key, picture_id: 0x1234, tl0_pic_idx: 7, len, made_at: Instant::from_nanos(123_456_789) }
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
