//! Opens what comes under one master key, in place. Sequence numbers are extended by `received_indices`.

use super::cipher::Cipher;
use super::cm::CmKeys;
use super::gcm::GcmKeys;
use super::keys::{MasterKey, SrtpProfile};
use super::packet::RTP_HEADER_LEN;
use super::received_indices::{Indices, ReceivedIndices};
use crate::base::buffer::DATAGRAM_MAX;
use crate::base::id::Ssrc;
use crate::base::seq::Seq;
use crate::secure::dropped::SecureDrop;

/// Opens what comes under one master key. Nothing a packet says moves any state before its tag is verified.
pub struct Opener {
    cipher: Cipher,
    rtp: ReceivedIndices,
    rtcp: ReceivedIndices,
}

impl Opener {
    pub fn new(profile: SrtpProfile, master: &MasterKey) -> Opener {
        Opener {
            cipher: Cipher::new(profile, master),
            rtp: ReceivedIndices::default(),
            rtcp: ReceivedIndices::default(),
        }
    }

    /// Takes packets as they are, and keeps nothing of what nobody has signed.
    pub(super) fn clear() -> Opener {
        Opener { cipher: Cipher::Clear, rtp: ReceivedIndices::default(), rtcp: ReceivedIndices::default() }
    }

    /// An RTCP packet will be opened, and this itself is at hand.
    pub fn prefetch_rtcp(&self) {
        if let Cipher::Gcm(keys) = &self.cipher {
            keys.prefetch_rtcp();
        }
        self.rtcp.prefetch();
    }

    /// Opens an RTP packet in place and says how long it is without its tag. On a drop the payload is destroyed.
    pub fn open_rtp(
        &mut self,
        header_len: usize,
        ssrc: Ssrc,
        seq: Seq,
        packet: &mut [u8],
    ) -> Result<usize, SecureDrop> {
        let room = packet.len().checked_sub(self.cipher.tag_len()).ok_or(SecureDrop::TooShort)?;
        if !(RTP_HEADER_LEN..=room).contains(&header_len) || !header_len.is_multiple_of(4) {
            return Err(SecureDrop::TooShort);
        }
        if matches!(self.cipher, Cipher::Clear) {
            return Ok(packet.len());
        }
        let (indices, place) = self.rtp.place_rtp(ssrc.0, seq)?;
        let opened = match indices {
            Indices::One(index) => self.cipher.open_rtp(ssrc, index, header_len, packet).map(|len| (index, len)),
            Indices::Either(index, later) => self.open_either(ssrc, [index, later], header_len, packet),
        };
        let (index, len) = opened.inspect_err(|_| self.rtp.doubt(place))?;
        self.rtp.commit(ssrc.0, index, place);
        Ok(len)
    }

    /// Out of line: hardly a packet comes by here.
    #[inline(never)]
    fn open_either(
        &self,
        ssrc: Ssrc,
        [index, later]: [u64; 2],
        header_len: usize,
        packet: &mut [u8],
    ) -> Result<(u64, usize), SecureDrop> {
        // What does not open is destroyed.
        let mut kept = [0; DATAGRAM_MAX];
        let kept = kept.get_mut(..packet.len()).ok_or(SecureDrop::BadTag)?;
        kept.copy_from_slice(packet);
        match self.cipher.open_rtp(ssrc, index, header_len, packet) {
            Err(SecureDrop::BadTag) => {
                packet.copy_from_slice(kept);
                Ok((later, self.cipher.open_rtp(ssrc, later, header_len, packet)?))
            }
            opened => Ok((index, opened?)),
        }
    }

    /// Opens an RTCP compound in place and says how long it is without index and tag.
    pub fn open_rtcp(&mut self, packet: &mut [u8]) -> Result<usize, SecureDrop> {
        let (ssrc, index) = match &self.cipher {
            Cipher::Gcm(_) => GcmKeys::rtcp_index(packet)?,
            Cipher::Cm(_) => CmKeys::rtcp_index(packet)?,
            Cipher::Clear => return Ok(packet.len()),
        };
        let place = self.rtcp.place_rtcp(ssrc, index)?;
        let len = match &self.cipher {
            Cipher::Gcm(keys) => keys.open_rtcp(ssrc, index, packet)?,
            Cipher::Cm(keys) => keys.open_rtcp(ssrc, index, packet)?,
            Cipher::Clear => packet.len(),
        };
        self.rtcp.commit(ssrc, u64::from(index), place);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secure::srtp::packet::OVERHEAD_MAX;
    use crate::secure::srtp::sealer::Sealer;

    #[test]
    fn what_was_sealed_opens_once() {
        for profile in SrtpProfile::ALL {
            let (key, salt) = (vec![1; profile.key_len()], vec![2; profile.salt_len()]);
            let master = MasterKey::new(profile, &key, &salt).unwrap();
            let (mut sealer, mut opener) = (Sealer::new(profile, &master), Opener::new(profile, &master));
            let mut packet = vec![0x80, 96, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1];
            packet.resize(32 + OVERHEAD_MAX, 0xEE);
            let len = sealer.seal_rtp(5, &mut packet, 12, 32).unwrap();
            packet.truncate(len);
            for (sealed, expected) in [(&packet[..len - 1], Err(SecureDrop::BadTag)), (&packet[..], Ok(32))] {
                assert_eq!(opener.open_rtp(12, Ssrc(1), Seq(5), &mut sealed.to_vec()), expected);
            }
            assert_eq!(opener.open_rtp(12, Ssrc(1), Seq(5), &mut packet.clone()), Err(SecureDrop::Replayed));
            assert_eq!(opener.open_rtp(12, Ssrc(1), Seq(6), &mut packet[..20]), Err(SecureDrop::TooShort));
        }
    }
}
