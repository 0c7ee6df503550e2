//! The payloads of the generator: the head of their codec, a pattern, and at the end their identity: stream, length,
//! number and the time of sending. A server may rewrite the head (VP8's picture id) and nothing else.

use crate::net::udp::stamped::UnixNanos;
use crate::wire::codec::Codec;

/// The head of a codec ends before this.
const HEAD_MAX: usize = 16;
const TRAILER: usize = 24;
/// The shortest payload.
pub const PAYLOAD_MIN: usize = HEAD_MAX + TRAILER;
/// The longest payload, which is Chromium's.
pub const PAYLOAD_MAX: usize = 1_180;

const PATTERN: [u8; PAYLOAD_MAX] = {
    let mut pattern = [0; PAYLOAD_MAX];
    let mut at = 0;
    while at < PAYLOAD_MAX {
        pattern[at] = (at as u8).wrapping_mul(31) ^ (at >> 8) as u8;
        at += 1;
    }
    pattern
};

/// The identity of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PacketLabel {
    pub stream: u32,
    pub index: u64,
    pub sent_at: UnixNanos,
}

/// The place of a packet in its frame.
#[derive(Clone, Copy, Debug)]
pub struct FramePlace {
    pub key: bool,
    pub first: bool,
    pub picture_id: u16,
    pub tl0_pic_idx: u8,
}

/// Fills `payload`, which is at least [`PAYLOAD_MIN`] long.
pub fn write(codec: Codec, place: FramePlace, label: PacketLabel, payload: &mut [u8]) {
    let len = payload.len();
    payload.copy_from_slice(&PATTERN[..len]);
    if codec.is_video() {
        // RFC 7741 section 4.2: X, S on the first packet; I, L and T; a 15-bit picture id, TL0PICIDX, layer 0.
        let id = (place.picture_id | 0x8000).to_be_bytes();
        let descriptor = [0x80 | u8::from(place.first) << 4, 0xe0, id[0], id[1], place.tl0_pic_idx, 0];
        payload[..6].copy_from_slice(&descriptor);
        if place.first {
            // RFC 6386 section 9.1: the lowest bit is 0 for a keyframe, which adds its start code and 640 x 480.
            payload[6..9].copy_from_slice(&[0x10 | u8::from(!place.key), 0, 0]);
            if place.key {
                payload[9..HEAD_MAX].copy_from_slice(&[0x9d, 0x01, 0x2a, 0x80, 0x02, 0xe0, 0x01]);
            }
        }
    } else {
        // RFC 6716 section 3.1: CELT, 20 ms, one frame.
        payload[0] = 0xf8;
    }
    let trailer = &mut payload[len - TRAILER..];
    trailer[..4].copy_from_slice(&label.stream.to_be_bytes());
    trailer[4..8].copy_from_slice(&(len as u32).to_be_bytes());
    trailer[8..16].copy_from_slice(&label.index.to_be_bytes());
    trailer[16..].copy_from_slice(&label.sent_at.to_be_bytes());
}

/// None when it is not what [`write`] wrote, apart from the head.
pub fn read(payload: &[u8]) -> Option<PacketLabel> {
    if payload.len() < PAYLOAD_MIN || payload.len() > PAYLOAD_MAX {
        return None;
    }
    let (body, trailer) = payload.split_at(payload.len() - TRAILER);
    let word = |at: usize| u32::from_be_bytes([trailer[at], trailer[at + 1], trailer[at + 2], trailer[at + 3]]);
    let long = |at: usize| u64::from(word(at)) << 32 | u64::from(word(at + 4));
    let whole = word(4) as usize == payload.len() && body[HEAD_MAX..] == PATTERN[HEAD_MAX..body.len()];
    whole.then(|| PacketLabel { stream: word(0), index: long(8), sent_at: long(16) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::payload::read as decode;

    const LABEL: PacketLabel = PacketLabel { stream: 7, index: 1 << 40, sent_at: 1_700_000_000_123_456_789 };

    fn written(codec: Codec, place: FramePlace, len: usize) -> Vec<u8> {
        let mut payload = vec![0; len];
        write(codec, place, LABEL, &mut payload);
        payload
    }

    #[test]
    fn what_is_written_is_read_back_and_a_decoder_would_take_it() {
        for codec in [Codec::Vp8, Codec::Opus] {
            for (key, first) in [(true, true), (false, true), (false, false)] {
                for len in [PAYLOAD_MIN, 140, PAYLOAD_MAX] {
                    let place = FramePlace { key, first, picture_id: 0x1234, tl0_pic_idx: 9 };
                    let payload = written(codec, place, len);
                    assert_eq!(read(&payload), Some(LABEL));
                    if codec == Codec::Vp8 {
                        let decoded = decode(codec, &payload).unwrap();
                        assert_eq!((decoded.starts_frame, decoded.key), (first, key && first));
                        assert_eq!(decoded.picture_id, Some(0x1234));
                    }
                }
            }
        }
    }

    #[test]
    fn a_wrong_payload_is_noticed() {
        let place = FramePlace { key: false, first: false, picture_id: 1, tl0_pic_idx: 1 };
        let good = written(Codec::Vp8, place, 600);
        for at in HEAD_MAX..600 - TRAILER {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(read(&bad), None, "byte {at}");
        }
        assert_eq!(read(&good[1..]), None, "a byte less in front");
        assert_eq!(read(&good[..599]), None, "a byte less behind");
        assert_eq!(read(&[&good[..], &[0]].concat()), None, "a byte more");
        let mut shorter = good.clone();
        shorter.drain(300..316);
        assert_eq!(read(&shorter), None, "some bytes less between");
        assert_eq!(read(&[]), None);
        let mut rewritten = good;
        rewritten[2..5].copy_from_slice(&[0x80, 1, 2]);
        assert_eq!(read(&rewritten), Some(LABEL), "a server may renumber pictures");
    }
}
