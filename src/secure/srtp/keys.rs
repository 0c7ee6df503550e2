//! Which profiles there are, and the master key of one direction, from which every key of a session is derived (RFC 3711
//! section 4.3). Made of what a handshake exports.

use aes::cipher::{BlockEncrypt, KeyInit, generic_array::GenericArray};
use std::fmt;

/// The profiles Weirgate speaks, best first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SrtpProfile {
    AeadAes128Gcm,
    AeadAes256Gcm,
    Aes128CmSha1_80,
}

impl SrtpProfile {
    pub const ALL: [SrtpProfile; 3] =
        [SrtpProfile::AeadAes128Gcm, SrtpProfile::AeadAes256Gcm, SrtpProfile::Aes128CmSha1_80];

    /// As the IANA registry and the W3C statistics call it.
    pub const fn name(self) -> &'static str {
        match self {
            SrtpProfile::AeadAes128Gcm => "AEAD_AES_128_GCM",
            SrtpProfile::AeadAes256Gcm => "AEAD_AES_256_GCM",
            SrtpProfile::Aes128CmSha1_80 => "AES_CM_128_HMAC_SHA1_80",
        }
    }

    /// The number in use_srtp (RFC 5764 section 4.1.2, RFC 7714 section 14.2).
    pub const fn id(self) -> u16 {
        match self {
            SrtpProfile::AeadAes128Gcm => 0x0007,
            SrtpProfile::AeadAes256Gcm => 0x0008,
            SrtpProfile::Aes128CmSha1_80 => 0x0001,
        }
    }

    pub const fn key_len(self) -> usize {
        match self {
            SrtpProfile::AeadAes128Gcm | SrtpProfile::Aes128CmSha1_80 => 16,
            SrtpProfile::AeadAes256Gcm => 32,
        }
    }

    pub const fn salt_len(self) -> usize {
        match self {
            SrtpProfile::AeadAes128Gcm | SrtpProfile::AeadAes256Gcm => 12,
            SrtpProfile::Aes128CmSha1_80 => 14,
        }
    }

    /// Bytes that sealing adds to an RTP packet.
    pub const fn tag_len(self) -> usize {
        match self {
            SrtpProfile::AeadAes128Gcm | SrtpProfile::AeadAes256Gcm => 16,
            SrtpProfile::Aes128CmSha1_80 => 10,
        }
    }
}

/// Master key and salt of one direction, as the handshake yields them.
#[derive(Clone, PartialEq, Eq)]
pub struct MasterKey {
    key: [u8; 32],
    key_len: usize,
    salt: [u8; 14],
    salt_len: usize,
}

impl MasterKey {
    /// None unless both have the lengths that `profile` wants.
    pub fn new(profile: SrtpProfile, key: &[u8], salt: &[u8]) -> Option<MasterKey> {
        if key.len() != profile.key_len() || salt.len() != profile.salt_len() {
            return None;
        }
        let mut master = MasterKey { key: [0; 32], key_len: key.len(), salt: [0; 14], salt_len: salt.len() };
        master.key[..key.len()].copy_from_slice(key);
        master.salt[..salt.len()].copy_from_slice(salt);
        Some(master)
    }

    pub fn key(&self) -> &[u8] {
        &self.key[..self.key_len]
    }

    pub fn salt(&self) -> &[u8] {
        &self.salt[..self.salt_len]
    }

    /// Fills `session` with the session key of `label`: AES in counter mode over the salt, the label exclusive-ored
    /// in, with a key derivation rate of 0 (RFC 3711 sections 4.3.1 and 4.3.3; RFC 6188 for 256 bits; RFC 7714
    /// section 11 pads the 12-byte salt with zeros on the right).
    pub(super) fn derive(&self, label: Label, session: &mut [u8]) {
        let mut counter = [0u8; 16];
        counter[..14].copy_from_slice(&self.salt);
        counter[7] ^= label as u8;
        for (number, chunk) in session.chunks_mut(16).enumerate() {
            counter[14..].copy_from_slice(&(number as u16).to_be_bytes());
            let mut block = GenericArray::from(counter);
            match self.key_len {
                16 => aes::Aes128::new(GenericArray::from_slice(self.key())).encrypt_block(&mut block),
                _ => aes::Aes256::new(GenericArray::from_slice(self.key())).encrypt_block(&mut block),
            }
            chunk.copy_from_slice(&block[..chunk.len()]);
        }
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({} bits)", self.key_len * 8)
    }
}

/// RFC 3711 section 4.3.2.
#[derive(Clone, Copy)]
pub(super) enum Label {
    RtpKey = 0,
    RtpAuthentication = 1,
    RtpSalt = 2,
    RtcpKey = 3,
    RtcpAuthentication = 4,
    RtcpSalt = 5,
}

#[cfg(test)]
mod tests {
    use super::Label::*;
    use super::*;
    use crate::secure::srtp::packet::OVERHEAD_MAX;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    fn derive(master: &MasterKey, label: Label, len: usize) -> Vec<u8> {
        let mut session = vec![0; len];
        master.derive(label, &mut session);
        session
    }

    /// RFC 3711 appendix B.3.
    #[test]
    fn keys_are_derived_as_rfc_3711_shows() {
        let key = hex("E1F97A0D3E018BE0D64FA32C06DE4139");
        let salt = hex("0EC675AD498AFEEBB6960B3AABE6");
        let master = MasterKey::new(SrtpProfile::Aes128CmSha1_80, &key, &salt).unwrap();
        assert_eq!(derive(&master, RtpKey, 16), hex("C61E7A93744F39EE10734AFE3FF7A087"));
        assert_eq!(derive(&master, RtpSalt, 14), hex("30CBBC08863D8C85D49DB34A9AE1"));
        let authentication = "CEBE321F6FF7716B6FD4AB49AF256A156D38BAA48F0A0ACF3C34E2359E6CDBCE\
             E049646C43D9327AD175578EF72270986371C10C9A369AC2F94A8C5FBCDDDC25\
             6D6E919A48B610EF17C2041E474035766B68642C59BBFC2F34DB60DBDFB2DC68";
        assert_eq!(derive(&master, RtpAuthentication, 94), hex(authentication)[..94]);
    }

    /// RFC 6188 section 7.2.
    #[test]
    fn keys_of_256_bits_are_derived_as_rfc_6188_shows() {
        let master = MasterKey {
            key: hex("F0F04914B513F2763A1B1FA130F10E2998F6F6E43E4309D1E622A0E332B9F1B6").try_into().unwrap(),
            key_len: 32,
            salt: hex("3B04803DE51EE7C96423AB5B78D2").try_into().unwrap(),
            salt_len: 14,
        };
        let key = "5BA1064E30EC51613CAD926C5A28EF731EC7FB397F70A960653CAF06554CD8C4";
        assert_eq!(derive(&master, RtpKey, 32), hex(key));
        assert_eq!(derive(&master, RtpSalt, 14), hex("FA31791685CA444A9E07C6C64E93"));
    }

    #[test]
    fn a_master_key_has_the_lengths_of_its_profile_and_shows_nothing() {
        for profile in SrtpProfile::ALL {
            let (key, salt) = (vec![7; profile.key_len()], vec![7; profile.salt_len()]);
            let master = MasterKey::new(profile, &key, &salt).unwrap();
            assert_eq!((master.key(), master.salt()), (&key[..], &salt[..]));
            assert!(!format!("{master:?}").contains('7'));
            assert!(MasterKey::new(profile, &key[1..], &salt).is_none());
            assert!(MasterKey::new(profile, &key, &salt[1..]).is_none());
            assert!(profile.tag_len() <= OVERHEAD_MAX);
        }
    }
}
