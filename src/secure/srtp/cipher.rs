//! The session keys of one direction, of whichever profile, or none.

use super::cm::CmKeys;
use super::gcm::GcmKeys;
use super::keys::{MasterKey, SrtpProfile};
use crate::base::id::Ssrc;
use crate::secure::dropped::SecureDrop;

/// The session keys of one direction.
pub(super) enum Cipher {
    Gcm(Box<GcmKeys>),
    Cm(Box<CmKeys>),
    /// RTP as it is (RFC 3550): nothing is encrypted, added or verified.
    Clear,
}

impl Cipher {
    pub(super) fn new(profile: SrtpProfile, master: &MasterKey) -> Cipher {
        match profile {
            SrtpProfile::AeadAes128Gcm | SrtpProfile::AeadAes256Gcm => {
                Cipher::Gcm(Box::new(GcmKeys::new(profile, master)))
            }
            SrtpProfile::Aes128CmSha1_80 => Cipher::Cm(Box::new(CmKeys::new(master))),
        }
    }

    pub(super) fn open_rtp(
        &self,
        ssrc: Ssrc,
        index: u64,
        header_len: usize,
        packet: &mut [u8],
    ) -> Result<usize, SecureDrop> {
        match self {
            Cipher::Gcm(keys) => keys.open_rtp(ssrc.0, index, header_len, packet),
            Cipher::Cm(keys) => keys.open_rtp(ssrc.0, index, header_len, packet),
            Cipher::Clear => Ok(packet.len()),
        }
    }

    /// What sealing adds to a packet.
    pub(super) fn tag_len(&self) -> usize {
        match self {
            Cipher::Gcm(_) => SrtpProfile::AeadAes128Gcm.tag_len(),
            Cipher::Cm(_) => SrtpProfile::Aes128CmSha1_80.tag_len(),
            Cipher::Clear => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_profile_gets_its_cipher() {
        for profile in SrtpProfile::ALL {
            let (key, salt) = (vec![1; profile.key_len()], vec![2; profile.salt_len()]);
            let cipher = Cipher::new(profile, &MasterKey::new(profile, &key, &salt).unwrap());
            assert_eq!(matches!(cipher, Cipher::Cm(_)), profile == SrtpProfile::Aes128CmSha1_80);
            assert_eq!(cipher.tag_len(), profile.tag_len());
            assert_eq!(cipher.open_rtp(Ssrc(1), 5, 12, &mut [0x80; 40]), Err(SecureDrop::BadTag));
        }
    }
}
