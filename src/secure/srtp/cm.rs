//! AES_CM_128_HMAC_SHA1_80 for SRTP and SRTCP (RFC 3711), for peers that know nothing better: in place, without an
//! allocation, on the RustCrypto crates, which use AES-NI and SHA-NI; the tags of what leaves come several at a time from
//! `sha1_lanes`. Knows neither streams nor replay: `sealer` and `opener` give it the index and see that none is used twice.

use std::mem::offset_of;

use super::keys::{Label, MasterKey};
use super::packet::{Placed, RTCP_HEADER_LEN, RTCP_INDEX_LEN, rtcp_index};
use super::sha1_lanes::{DIGEST_LEN, LANES, LaneKey, LaneMessage, authenticate};
use crate::secure::dropped::SecureDrop;
use aes::Aes128Enc;
use aes::cipher::{InnerIvInit, KeyInit, StreamCipher, StreamCipherCoreWrapper};
use ctr::CtrCore;
use ctr::flavors::Ctr128BE;
use hmac::{Hmac, Mac};
use sha1::Sha1;

const TAG_LEN: usize = 10;
const SALT_LEN: usize = 14;

/// The session keys of one direction.
#[repr(C)]
pub(super) struct CmKeys {
    rtp: SessionKeys,
    rtcp: SessionKeys,
    /// The authentication key of RTP once more, where several packets can be hashed at once.
    lanes: Option<LaneKey>,
}

impl CmKeys {
    /// How much of them, from their beginning, an RTP packet needs.
    pub(super) const RTP: usize = offset_of!(CmKeys, rtcp);

    pub(super) fn new(master: &MasterKey) -> CmKeys {
        let mut authentication = [0; DIGEST_LEN];
        master.derive(Label::RtpAuthentication, &mut authentication);
        CmKeys {
            rtp: SessionKeys::derive(master, Label::RtpKey, Label::RtpAuthentication, Label::RtpSalt),
            rtcp: SessionKeys::derive(master, Label::RtcpKey, Label::RtcpAuthentication, Label::RtcpSalt),
            lanes: LaneKey::new(&authentication),
        }
    }

    pub(super) fn seal_rtp(&self, ssrc: u32, index: u64, buffer: &mut [u8], header_len: usize, len: usize) -> usize {
        let (packet, tail) = buffer.split_at_mut(len);
        self.rtp.apply_key_stream(ssrc, index, &mut packet[header_len..]);
        let tag = self.rtp.authenticate(packet, &rollover_counter(index)).finalize().into_bytes();
        tail[..TAG_LEN].copy_from_slice(&tag[..TAG_LEN]);
        len + TAG_LEN
    }

    /// As [`CmKeys::seal_rtp`] does, but for the tag, which may come with those of later packets.
    pub(super) fn seal_in_buffer(
        &self,
        ssrc: u32,
        index: u64,
        place: Placed,
        buffer: &mut [u8],
        due: &mut DueTags,
    ) -> usize {
        let Some(key) = &self.lanes else {
            return self.seal_rtp(ssrc, index, &mut buffer[place.start..], place.header_len, place.len);
        };
        self.rtp.apply_key_stream(ssrc, index, &mut buffer[place.start..][place.header_len..place.len]);
        due.push(Due { key: *key, start: place.start, len: place.len, tail: rollover_counter(index) }, buffer);
        place.len + TAG_LEN
    }

    pub(super) fn open_rtp(
        &self,
        ssrc: u32,
        index: u64,
        header_len: usize,
        packet: &mut [u8],
    ) -> Result<usize, SecureDrop> {
        let (packet, tag) = packet.split_at_mut(packet.len() - TAG_LEN);
        self.rtp
            .authenticate(packet, &rollover_counter(index))
            .verify_truncated_left(tag)
            .map_err(|_| SecureDrop::BadTag)?;
        self.rtp.apply_key_stream(ssrc, index, &mut packet[header_len..]);
        Ok(packet.len())
    }

    pub(super) fn seal_rtcp(&self, index: u32, packet: &mut Vec<u8>) {
        let ssrc = u32::from_be_bytes([packet[4], packet[5], packet[6], packet[7]]);
        self.rtcp.apply_key_stream(ssrc, u64::from(index), &mut packet[RTCP_HEADER_LEN..]);
        packet.extend_from_slice(&(index | 1 << 31).to_be_bytes());
        let tag = self.rtcp.authenticate(packet, &[]).finalize().into_bytes();
        packet.extend_from_slice(&tag[..TAG_LEN]);
    }

    pub(super) fn open_rtcp(&self, ssrc: u32, index: u32, packet: &mut [u8]) -> Result<usize, SecureDrop> {
        let (packet, tag) = packet.split_at_mut(packet.len() - TAG_LEN);
        self.rtcp.authenticate(packet, &[]).verify_truncated_left(tag).map_err(|_| SecureDrop::BadTag)?;
        let len = packet.len() - RTCP_INDEX_LEN;
        self.rtcp.apply_key_stream(ssrc, u64::from(index), &mut packet[RTCP_HEADER_LEN..len]);
        Ok(len)
    }

    /// SSRC and index of an SRTCP packet; the tag stands behind the word with the index (RFC 3711 section 3.4).
    pub(super) fn rtcp_index(packet: &[u8]) -> Result<(u32, u32), SecureDrop> {
        rtcp_index(packet, RTCP_HEADER_LEN + RTCP_INDEX_LEN + TAG_LEN, TAG_LEN)
    }
}

/// Packets in a buffer that wait for their tags, so that several tags are computed at once: of one client's packets and
/// of many clients'.
pub struct DueTags(Vec<Due>);

struct Due {
    key: LaneKey,
    start: usize,
    len: usize,
    tail: [u8; 4],
}

impl Default for DueTags {
    fn default() -> DueTags {
        DueTags(Vec::with_capacity(LANES))
    }
}

impl DueTags {
    fn push(&mut self, due: Due, buffer: &mut [u8]) {
        self.0.push(due);
        if self.0.len() >= LANES {
            self.write(buffer);
        }
    }

    /// What begins at `start` or behind it in the buffer will not be sent.
    pub fn forget_from(&mut self, start: usize) {
        self.0.retain(|due| due.start < start);
    }

    /// Writes all tags that are due: before the buffer is sent.
    pub fn write(&mut self, buffer: &mut [u8]) {
        let Some(first) = self.0.first() else { return };
        let none = LaneMessage { key: &first.key, packet: &[], tail: [0; 4] };
        let mut messages = [none; LANES];
        for (message, due) in messages.iter_mut().zip(&self.0) {
            *message = LaneMessage { key: &due.key, packet: &buffer[due.start..][..due.len], tail: due.tail };
        }
        let tags = authenticate(&messages[..self.0.len().min(LANES)]);
        for (due, tag) in self.0.iter().zip(tags) {
            buffer[due.start + due.len..][..TAG_LEN].copy_from_slice(&tag[..TAG_LEN]);
        }
        self.0.clear();
    }
}

/// RFC 3711 section 4.2: it is authenticated behind the packet, and not sent.
fn rollover_counter(index: u64) -> [u8; 4] {
    ((index >> 16) as u32).to_be_bytes()
}

struct SessionKeys {
    cipher: Aes128Enc,
    salt: [u8; SALT_LEN],
    /// Both blocks of the key are hashed already: a packet's tag begins with a copy.
    authenticator: Hmac<Sha1>,
}

impl SessionKeys {
    fn derive(master: &MasterKey, key: Label, authentication: Label, salt: Label) -> SessionKeys {
        let mut keys = ([0; 16], [0; 20], [0; SALT_LEN]);
        master.derive(key, &mut keys.0);
        master.derive(authentication, &mut keys.1);
        master.derive(salt, &mut keys.2);
        SessionKeys {
            cipher: Aes128Enc::new(&keys.0.into()),
            salt: keys.2,
            authenticator: <Hmac<Sha1> as Mac>::new_from_slice(&keys.1).expect("HMAC takes a key of any length"),
        }
    }

    /// RFC 3711 section 4.1.1: counter mode from the salt, SSRC and index exclusive-ored in, and two zero bytes. Both
    /// encrypts and decrypts.
    fn apply_key_stream(&self, ssrc: u32, index: u64, payload: &mut [u8]) {
        let mut counter = [0; 16];
        counter[4..8].copy_from_slice(&ssrc.to_be_bytes());
        counter[8..14].copy_from_slice(&index.to_be_bytes()[2..]);
        counter.iter_mut().zip(&self.salt).for_each(|(byte, salt)| *byte ^= salt);
        let stream = CtrCore::<_, Ctr128BE>::inner_iv_init(&self.cipher, &counter.into());
        StreamCipherCoreWrapper::from_core(stream).apply_keystream(payload);
    }

    fn authenticate(&self, packet: &[u8], tail: &[u8]) -> Hmac<Sha1> {
        self.authenticator.clone().chain_update(packet).chain_update(tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secure::srtp::keys::SrtpProfile;

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        let byte = |at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap();
        assert_eq!(text.len(), 2 * N);
        std::array::from_fn(byte)
    }

    /// RFC 3711 appendix B.2.
    #[test]
    fn the_key_stream_is_the_one_that_rfc_3711_shows() {
        let keys = SessionKeys {
            cipher: Aes128Enc::new(&hex::<16>("2b7e151628aed2a6abf7158809cf4f3c").into()),
            salt: hex("f0f1f2f3f4f5f6f7f8f9fafbfcfd"),
            authenticator: <Hmac<Sha1> as Mac>::new_from_slice(&[]).unwrap(),
        };
        let mut stream = vec![0; 1_044_512];
        keys.apply_key_stream(0, 0, &mut stream);
        for (block, expected) in [
            (0, "e03ead0935c95e80e166b16dd92b4eb4"),
            (1, "d23513162b02d0f72a43a2fe4a5f97ab"),
            (2, "41e95b3bb0a2e8dd477901e4fca894c0"),
            (0xFEFF, "ec8cdf7398607cb0f2d21675ea9ea1e4"),
            (0xFF00, "362b7c3c6773516318a077d7fc5073ae"),
            (0xFF01, "6a2cc3787889374fbeb4c81b17ba6c44"),
        ] {
            assert_eq!(stream[16 * block..16 * (block + 1)], hex::<16>(expected), "block {block:x}");
        }
    }

    /// RFC 3711 has no vector of a whole packet; this one is of libsrtp's own test driver.
    #[test]
    fn a_packet_is_sealed_as_libsrtp_does() {
        let master = MasterKey::new(
            SrtpProfile::Aes128CmSha1_80,
            &hex::<16>("e1f97a0d3e018be0d64fa32c06de4139"),
            &hex::<14>("0ec675ad498afeebb6960b3aabe6"),
        );
        let keys = CmKeys::new(&master.unwrap());
        let plain = hex::<28>("800f1234decafbadcafebabeabababababababababababababababab");
        let sealed = hex::<38>("800f1234decafbadcafebabe4e55dc4ce79978d88ca4d215949d2402b78d6acc99ea179b8dbb");
        let mut buffer = [0; 38];
        buffer[..28].copy_from_slice(&plain);
        assert_eq!(keys.seal_rtp(0xCAFE_BABE, 0x1234, &mut buffer, 12, 28), 38);
        assert_eq!(buffer, sealed);
        assert_eq!(keys.open_rtp(0xCAFE_BABE, 0x1234, 12, &mut buffer), Ok(28));
        assert_eq!(buffer[..28], plain);
    }
}
