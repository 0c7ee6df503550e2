//! Seals what leaves under one master key, in place, and sees that no index of an SSRC is ever sealed twice. Sequence numbers
//! are extended by the caller.

use super::cipher::Cipher;
use super::cm::{CmKeys, DueTags};
use super::gcm::GcmKeys;
use super::keys::{MasterKey, SrtpProfile};
use super::outgoing::{SealPlace, Spent};
use super::packet::{Placed, RTCP_HEADER_LEN, RTCP_INDEX_MAX, RTP_HEADER_LEN, RTP_INDEX_MAX, SealError};
use crate::base::id::Ssrc;
use crate::base::prefetch::prefetch;

/// Seals what leaves under one master key.
#[repr(C)]
pub struct Sealer {
    cipher: Cipher,
    spent: Spent,
    rtcp_index: u32,
}

impl Sealer {
    pub fn new(profile: SrtpProfile, master: &MasterKey) -> Sealer {
        Sealer { cipher: Cipher::new(profile, master), spent: Spent::default(), rtcp_index: 0 }
    }

    /// Leaves packets as they are. Numbers are spent all the same: RTP repeats none either.
    pub(super) fn clear() -> Sealer {
        Sealer { cipher: Cipher::Clear, spent: Spent::default(), rtcp_index: 0 }
    }

    /// Seals the RTP packet in `buffer[..len]`, whose header (with CSRCs and extensions) is `header_len` long, and
    /// says how long it is with its tag. `index` is `rollover counter << 16 | sequence number`, the counter starting
    /// at 0 for each SSRC. An index is spent when the call returns `Ok`, and never sealed for again.
    pub fn seal_rtp(
        &mut self,
        index: u64,
        buffer: &mut [u8],
        header_len: usize,
        len: usize,
    ) -> Result<usize, SealError> {
        let ssrc = self.admit(&mut SealPlace::default(), index, buffer, header_len, len)?;
        match &self.cipher {
            Cipher::Gcm(keys) => keys.seal_rtp(ssrc, index, buffer, header_len, len),
            Cipher::Cm(keys) => Ok(keys.seal_rtp(ssrc, index, buffer, header_len, len)),
            Cipher::Clear => Ok(len),
        }
    }

    /// As [`Sealer::seal_rtp`], for a packet in `buffer` whose SSRC was last found at `place`. Where it pays to compute
    /// tags together, that of this packet is left in `due`: the buffer is not to be sent before [`DueTags::write`].
    pub fn seal_in_buffer(
        &mut self,
        place: &mut SealPlace,
        index: u64,
        packet: Placed,
        buffer: &mut [u8],
        due: &mut DueTags,
    ) -> Result<usize, SealError> {
        let Placed { start, header_len, len } = packet;
        let bytes = buffer.get_mut(start..).ok_or(SealError::Lengths)?;
        let ssrc = self.admit(place, index, bytes, header_len, len)?;
        match &self.cipher {
            Cipher::Gcm(keys) => keys.seal_rtp(ssrc, index, bytes, header_len, len),
            Cipher::Cm(keys) => Ok(keys.seal_in_buffer(ssrc, index, packet, buffer, due)),
            Cipher::Clear => Ok(len),
        }
    }

    /// Seals an RTCP compound: encrypts all behind the first SSRC, appends tag, E bit and index.
    pub fn seal_rtcp(&mut self, packet: &mut Vec<u8>) -> Result<(), SealError> {
        if packet.len() < RTCP_HEADER_LEN {
            return Err(SealError::Lengths);
        }
        if self.rtcp_index == RTCP_INDEX_MAX {
            return Err(SealError::KeysUsedUp);
        }
        // One counter for all SSRCs of the key: an index is not even repeated for another SSRC.
        self.rtcp_index += 1;
        match &self.cipher {
            Cipher::Gcm(keys) => keys.seal_rtcp(self.rtcp_index, packet)?,
            Cipher::Cm(keys) => keys.seal_rtcp(self.rtcp_index, packet),
            // No index is written that could run out.
            Cipher::Clear => self.rtcp_index = 0,
        }
        Ok(())
    }

    /// Packets of the streams at these places will be sealed next.
    pub fn prefetch(&self, places: impl Iterator<Item = SealPlace>) {
        match &self.cipher {
            Cipher::Gcm(keys) => prefetch(&**keys, GcmKeys::RTP),
            Cipher::Cm(keys) => prefetch(&**keys, CmKeys::RTP),
            Cipher::Clear => {}
        }
        self.spent.prefetch(places);
    }

    /// Gives up an SSRC: its state is freed, and nothing is ever sealed for it again.
    pub fn retire(&mut self, ssrc: Ssrc) {
        self.spent.retire(ssrc.0);
    }

    /// What sealing adds to a packet.
    pub fn tag_len(&self) -> usize {
        self.cipher.tag_len()
    }

    /// Takes `index` for the packet in `buffer[..len]`, whose SSRC it returns.
    fn admit(
        &mut self,
        place: &mut SealPlace,
        index: u64,
        buffer: &[u8],
        header_len: usize,
        len: usize,
    ) -> Result<u32, SealError> {
        let lengths_fit = (RTP_HEADER_LEN..=len).contains(&header_len)
            && header_len.is_multiple_of(4)
            && buffer.len().checked_sub(len).is_some_and(|room| room >= self.tag_len());
        if !lengths_fit {
            return Err(SealError::Lengths);
        }
        if index > RTP_INDEX_MAX {
            return Err(SealError::KeysUsedUp);
        }
        if u16::from_be_bytes([buffer[2], buffer[3]]) != index as u16 {
            return Err(SealError::SequenceMismatch);
        }
        let ssrc = u32::from_be_bytes([buffer[8], buffer[9], buffer[10], buffer[11]]);
        self.spent.spend(place, ssrc, index)?;
        Ok(ssrc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::OUTGOING_SSRCS_PER_TRANSPORT_MAX;
    use crate::secure::srtp::packet::OVERHEAD_MAX;

    fn packet(ssrc: u32, seq: u16) -> Vec<u8> {
        let mut packet = vec![0x80, 96];
        packet.extend(seq.to_be_bytes());
        packet.extend([0; 4]);
        packet.extend(ssrc.to_be_bytes());
        packet.extend([0xEE; 20]);
        packet.resize(32 + OVERHEAD_MAX, 0);
        packet
    }

    fn sealers() -> impl Iterator<Item = Sealer> {
        SrtpProfile::ALL.into_iter().map(|profile| {
            let (key, salt) = (vec![1; profile.key_len()], vec![2; profile.salt_len()]);
            Sealer::new(profile, &MasterKey::new(profile, &key, &salt).unwrap())
        })
    }

    #[test]
    fn nothing_is_sealed_twice_or_out_of_reach() {
        for mut sealer in sealers() {
            let mut seal = |ssrc, index: u64| sealer.seal_rtp(index, &mut packet(ssrc, index as u16), 12, 32);
            assert_eq!(seal(1, 1 << 16), Err(SealError::FirstRollover));
            assert!(seal(1, 65_000).is_ok() && seal(1, 64_999).is_ok() && seal(1, 65_536).is_ok());
            assert_eq!(seal(1, 65_000), Err(SealError::IndexUsed));
            assert_eq!(seal(1, 65_536), Err(SealError::IndexUsed));
            assert_eq!(seal(1, 65_536 - 1_024), Err(SealError::IndexUsed), "too old to tell");
            assert_eq!(seal(1, 65_536 + 32_768), Err(SealError::Jump));
            assert!(seal(1, 65_536 + 32_767).is_ok());
            assert!(seal(2, 65_000).is_ok());
            assert_eq!(seal(2, 1 << 48), Err(SealError::KeysUsedUp));
            sealer.retire(Ssrc(1));
            sealer.retire(Ssrc(9));
            let mut seal = |ssrc, index: u64| sealer.seal_rtp(index, &mut packet(ssrc, index as u16), 12, 32);
            assert_eq!(seal(1, 1), Err(SealError::Retired), "the SSRC may not come back");
            assert!(seal(3, 7).is_ok(), "its place may");
            assert!(seal(2, 65_001).is_ok());
        }
    }

    #[test]
    fn lengths_and_sequence_numbers_must_fit() {
        for mut sealer in sealers() {
            let tag = sealer.tag_len();
            assert_eq!(sealer.seal_rtp(5, &mut packet(1, 6), 12, 32), Err(SealError::SequenceMismatch));
            assert_eq!(sealer.seal_rtp(5, &mut packet(1, 5)[..32 + tag - 1], 12, 32), Err(SealError::Lengths));
            assert_eq!(sealer.seal_rtp(5, &mut packet(1, 5)[..30], 12, 32), Err(SealError::Lengths));
            for header_len in [0, 8, 13, 36] {
                assert_eq!(sealer.seal_rtp(5, &mut packet(1, 5), header_len, 32), Err(SealError::Lengths));
            }
            assert_eq!(sealer.seal_rtp(5, &mut packet(1, 5)[..32 + tag], 12, 32), Ok(32 + tag));
            assert_eq!(sealer.seal_rtcp(&mut vec![0x80; 7]), Err(SealError::Lengths));
        }
    }

    #[test]
    fn the_table_of_outgoing_ssrcs_is_bounded() {
        for mut sealer in sealers() {
            for ssrc in 0..OUTGOING_SSRCS_PER_TRANSPORT_MAX as u32 {
                assert!(sealer.seal_rtp(1, &mut packet(ssrc, 1), 12, 32).is_ok());
            }
            let one_more = OUTGOING_SSRCS_PER_TRANSPORT_MAX as u32;
            assert_eq!(sealer.seal_rtp(1, &mut packet(one_more, 1), 12, 32), Err(SealError::SsrcLimit));
            sealer.retire(Ssrc(0));
            assert!(sealer.seal_rtp(1, &mut packet(one_more, 1), 12, 32).is_ok());
        }
    }

    #[test]
    fn rtcp_ends_when_its_indices_do() {
        for mut sealer in sealers() {
            sealer.rtcp_index = RTCP_INDEX_MAX - 1;
            assert!(sealer.seal_rtcp(&mut vec![0x80; 8]).is_ok());
            assert_eq!(sealer.seal_rtcp(&mut vec![0x80; 8]), Err(SealError::KeysUsedUp));
        }
    }
}
