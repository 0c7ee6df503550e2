//! AEAD_AES_128_GCM and AEAD_AES_256_GCM for SRTP and SRTCP (RFC 7714), in place and without an allocation. Knows
//! neither streams nor replay: `sealer` and `opener` give it the index and see that none is used twice.

use std::mem::offset_of;

use super::keys::{Label, MasterKey, SrtpProfile};
use super::packet::{RTCP_HEADER_LEN, RTCP_INDEX_LEN, SealError, rtcp_index};
use crate::base::prefetch::prefetch;
use crate::secure::dropped::SecureDrop;
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

const TAG_LEN: usize = 16;

/// The session keys of one direction.
#[repr(C)]
pub(super) struct GcmKeys {
    rtp: LessSafeKey,
    rtp_salt: [u8; NONCE_LEN],
    rtcp: LessSafeKey,
    rtcp_salt: [u8; NONCE_LEN],
}

impl GcmKeys {
    /// How much of them, from their beginning, an RTP packet needs.
    pub(super) const RTP: usize = offset_of!(GcmKeys, rtcp);

    pub(super) fn new(profile: SrtpProfile, master: &MasterKey) -> GcmKeys {
        let algorithm = if profile == SrtpProfile::AeadAes256Gcm { &AES_256_GCM } else { &AES_128_GCM };
        let key = |label| {
            let mut bytes = [0; 32];
            let bytes = &mut bytes[..algorithm.key_len()];
            master.derive(label, bytes);
            LessSafeKey::new(UnboundKey::new(algorithm, bytes).expect("the key has the length the algorithm names"))
        };
        let salt = |label| {
            let mut bytes = [0; NONCE_LEN];
            master.derive(label, &mut bytes);
            bytes
        };
        GcmKeys {
            rtp: key(Label::RtpKey),
            rtp_salt: salt(Label::RtpSalt),
            rtcp: key(Label::RtcpKey),
            rtcp_salt: salt(Label::RtcpSalt),
        }
    }

    pub(super) fn prefetch_rtcp(&self) {
        prefetch(&self.rtcp, size_of_val(&self.rtcp));
    }

    /// RFC 7714 section 8.1: two zero bytes, SSRC, rollover counter and sequence number, exclusive-ored with the salt.
    fn rtp_nonce(&self, ssrc: u32, index: u64) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[2..6].copy_from_slice(&ssrc.to_be_bytes());
        nonce[6..].copy_from_slice(&index.to_be_bytes()[2..]);
        salted(nonce, &self.rtp_salt)
    }

    /// RFC 7714 section 9.1: two zero bytes, SSRC, two zero bytes, index without the E bit.
    fn rtcp_nonce(&self, ssrc: u32, index: u32) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[2..6].copy_from_slice(&ssrc.to_be_bytes());
        nonce[8..].copy_from_slice(&index.to_be_bytes());
        salted(nonce, &self.rtcp_salt)
    }

    pub(super) fn seal_rtp(
        &self,
        ssrc: u32,
        index: u64,
        buffer: &mut [u8],
        header_len: usize,
        len: usize,
    ) -> Result<usize, SealError> {
        let (header, payload) = buffer.split_at_mut(header_len);
        let (payload, tail) = payload.split_at_mut(len - header_len);
        let nonce = self.rtp_nonce(ssrc, index);
        // RFC 7714 section 8.2: the header with CSRCs and extensions is the associated data.
        let tag =
            self.rtp.seal_in_place_separate_tag(nonce, Aad::from(&*header), payload).map_err(|_| SealError::Lengths)?;
        tail[..TAG_LEN].copy_from_slice(tag.as_ref());
        Ok(len + TAG_LEN)
    }

    pub(super) fn open_rtp(
        &self,
        ssrc: u32,
        index: u64,
        header_len: usize,
        packet: &mut [u8],
    ) -> Result<usize, SecureDrop> {
        let (header, sealed) = packet.split_at_mut(header_len);
        let nonce = self.rtp_nonce(ssrc, index);
        let payload = self.rtp.open_in_place(nonce, Aad::from(&*header), sealed).map_err(|_| SecureDrop::BadTag)?;
        Ok(header_len + payload.len())
    }

    pub(super) fn seal_rtcp(&self, index: u32, packet: &mut Vec<u8>) -> Result<(), SealError> {
        let ssrc = u32::from_be_bytes([packet[4], packet[5], packet[6], packet[7]]);
        let word = (index | 1 << 31).to_be_bytes();
        let (header, body) = packet.split_at_mut(RTCP_HEADER_LEN);
        let aad = Aad::from(rtcp_aad(header, &word));
        let tag = self
            .rtcp
            .seal_in_place_separate_tag(self.rtcp_nonce(ssrc, index), aad, body)
            .map_err(|_| SealError::Lengths)?;
        packet.extend_from_slice(tag.as_ref());
        packet.extend_from_slice(&word);
        Ok(())
    }

    pub(super) fn open_rtcp(&self, ssrc: u32, index: u32, packet: &mut [u8]) -> Result<usize, SecureDrop> {
        let (header, sealed) = packet.split_at_mut(RTCP_HEADER_LEN);
        let (sealed, word) = sealed.split_at_mut(sealed.len() - RTCP_INDEX_LEN);
        let aad = Aad::from(rtcp_aad(header, word));
        let body =
            self.rtcp.open_in_place(self.rtcp_nonce(ssrc, index), aad, sealed).map_err(|_| SecureDrop::BadTag)?;
        Ok(RTCP_HEADER_LEN + body.len())
    }

    /// SSRC and index of an SRTCP packet; the tag stands before the word with the index (RFC 7714 section 9.3).
    pub(super) fn rtcp_index(packet: &[u8]) -> Result<(u32, u32), SecureDrop> {
        rtcp_index(packet, RTCP_HEADER_LEN + TAG_LEN + RTCP_INDEX_LEN, 0)
    }
}

fn salted(mut nonce: [u8; NONCE_LEN], salt: &[u8; NONCE_LEN]) -> Nonce {
    nonce.iter_mut().zip(salt).for_each(|(byte, salt)| *byte ^= salt);
    Nonce::assume_unique_for_key(nonce)
}

/// RFC 7714 section 9.2: the first 8 bytes and the word with E bit and index.
fn rtcp_aad(header: &[u8], word: &[u8]) -> [u8; RTCP_HEADER_LEN + RTCP_INDEX_LEN] {
    let mut aad = [0; RTCP_HEADER_LEN + RTCP_INDEX_LEN];
    aad[..RTCP_HEADER_LEN].copy_from_slice(header);
    aad[RTCP_HEADER_LEN..].copy_from_slice(word);
    aad
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        text.as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    /// The vectors of RFC 7714 give session keys, not master keys.
    fn with_session_keys(algorithm: &'static ring::aead::Algorithm) -> GcmKeys {
        let bytes: Vec<u8> = (0..algorithm.key_len() as u8).collect();
        let key = || LessSafeKey::new(UnboundKey::new(algorithm, &bytes).unwrap());
        let salt = hex("517569642070726f2071756f").try_into().unwrap();
        GcmKeys { rtp: key(), rtp_salt: salt, rtcp: key(), rtcp_salt: salt }
    }

    /// RFC 7714 section 16: sections 16.1.1 and 16.2.1.
    #[test]
    fn rtp_is_sealed_as_rfc_7714_shows() {
        let plain = hex("8040f17b8041f8d35501a0b247616c6c696120657374206f6d6e69732064697669736120\
                         696e207061727465732074726573");
        let sealed_128 = hex("8040f17b8041f8d35501a0b2f24de3a3fb34de6cacba861c9d7e4bcabe633bd50d294e6f42a5f47a\
                              51c7d19b36de3adf8833899d7f27beb16a9152cf765ee4390cce");
        let sealed_256 = hex("8040f17b8041f8d35501a0b232b1de78a822fe12ef9f78fa332e33aab18012389a58e2f3b50b2a02\
                              76ffae0f1ba63799b87b7aa3db36dfffd6b0f9bb7878d7a76c13");
        for (algorithm, expected) in [(&AES_128_GCM, sealed_128), (&AES_256_GCM, sealed_256)] {
            let keys = with_session_keys(algorithm);
            let mut buffer = plain.clone();
            buffer.resize(plain.len() + TAG_LEN, 0);
            assert_eq!(keys.seal_rtp(0x5501_A0B2, 0xF17B, &mut buffer, 12, plain.len()), Ok(expected.len()));
            assert_eq!(buffer, expected);
            assert_eq!(keys.open_rtp(0x5501_A0B2, 0xF17B, 12, &mut buffer), Ok(plain.len()));
            assert_eq!(buffer[..plain.len()], plain);
        }
    }

    /// RFC 7714 section 17: sections 17.1 and 17.2.
    #[test]
    fn rtcp_is_sealed_as_rfc_7714_shows() {
        let plain = hex("81c8000d4d6172734e5450314e545032525450200000042a0000e9304c756e61\
                         deadbeefdeadbeefdeadbeefdeadbeefdeadbeef");
        let sealed_128 = hex("81c8000d4d61727363e94885dcdab67ca727d7662f6b7e997ff5c0f76c06f32dc676a5f1730d6fda\
                              4ce09b4686303ded0bb9275bc84aa45896cf4d2fc5abf87245d9eade800005d4");
        let sealed_256 = hex("81c8000d4d617273d50ae4d1f5ce5d304ba297e47d470c282c3ece5dbffe0a50a2eaa5c1110555be\
                              8415f658c61de0476f1b6fad1d1eb30c4446839f57ff6f6cb26ac3be800005d4");
        for (algorithm, expected) in [(&AES_128_GCM, sealed_128), (&AES_256_GCM, sealed_256)] {
            let keys = with_session_keys(algorithm);
            let mut packet = plain.clone();
            keys.seal_rtcp(0x5D4, &mut packet).unwrap();
            assert_eq!(packet, expected);
            assert_eq!(GcmKeys::rtcp_index(&packet), Ok((0x4D61_7273, 0x5D4)));
            assert_eq!(keys.open_rtcp(0x4D61_7273, 0x5D4, &mut packet), Ok(plain.len()));
            assert_eq!(packet[..plain.len()], plain);
        }
    }
}
