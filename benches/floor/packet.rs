//! A packet of both sides: an RTP header of 40 bytes with the time of sending in its extension, which stays in the
//! clear, and a payload under AES-128-GCM.

use std::time::Duration;

use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

pub const HEADER: usize = 40;
pub const TAG: usize = 16;
/// Transport-wide feedback about some thirty packets, or a report with its CNAME, before it is sealed.
pub const FEEDBACK_BYTES: usize = 84;
const MARKER: u8 = 0x80;

pub fn key(number: usize) -> LessSafeKey {
    let mut bytes = [7; 16];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &bytes).expect("16 bytes"))
}

pub fn feedback_key(receiver: usize) -> LessSafeKey {
    key(1_000_000 + receiver)
}

/// The nonce of a sequence number and an SSRC (RFC 7714 section 8.1, without the salt).
fn nonce(header: &[u8]) -> Nonce {
    let mut nonce = [0; 12];
    nonce[2..6].copy_from_slice(&header[8..12]);
    nonce[6..10].copy_from_slice(&header[4..8]);
    nonce[10..].copy_from_slice(&header[2..4]);
    Nonce::assume_unique_for_key(nonce)
}

/// The sequence number's upper half is kept where the timestamp would be, so that none comes twice under one key.
pub fn set_header(packet: &mut [u8], publisher: usize, number: u32, marker: bool) {
    packet[0] = 0x90;
    packet[1] = 96 | if marker { MARKER } else { 0 };
    packet[2..4].copy_from_slice(&(number as u16).to_be_bytes());
    packet[4..8].copy_from_slice(&(number >> 16).to_be_bytes());
    packet[8..12].copy_from_slice(&(publisher as u32).to_be_bytes());
}

pub fn set_sent_at(packet: &mut [u8], since_1970: Duration) {
    packet[16..24].copy_from_slice(&(since_1970.as_nanos() as u64).to_be_bytes());
}

pub fn sent_at(packet: &[u8]) -> Duration {
    Duration::from_nanos(u64::from_be_bytes(packet[16..24].try_into().expect("eight bytes")))
}

pub fn publisher(packet: &[u8]) -> usize {
    u32::from_be_bytes(packet[8..12].try_into().expect("four bytes")) as usize
}

pub fn is_last_of_frame(packet: &[u8]) -> bool {
    packet[1] & MARKER != 0
}

/// Seals a packet whose last [`TAG`] bytes are room for the tag.
pub fn seal(key: &LessSafeKey, packet: &mut [u8]) {
    let (header, payload) = packet.split_at_mut(HEADER);
    let (payload, room) = payload.split_at_mut(payload.len() - TAG);
    let tag = key.seal_in_place_separate_tag(nonce(header), Aad::from(&*header), payload).expect("a short packet");
    room.copy_from_slice(tag.as_ref());
}

/// False: the tag is wrong.
pub fn open(key: &LessSafeKey, packet: &mut [u8]) -> bool {
    let (header, sealed) = packet.split_at_mut(HEADER);
    key.open_in_place(nonce(header), Aad::from(&*header), sealed).is_ok()
}
