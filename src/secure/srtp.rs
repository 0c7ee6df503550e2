//! SRTP and SRTCP of one transport: [`Sealer`] for what leaves, [`Opener`] for what comes. Both work in place. The
//! GCM profiles (RFC 7714) are `srtp_gcm`, AES_CM_128_HMAC_SHA1_80 (RFC 3711) is `srtp_cm`; what both share stands
//! here: profiles, master keys, key derivation, and the rule that no index of an SSRC is ever sealed twice.
//! Sequence numbers are extended by the caller on the way out and by `srtp_incoming` on the way in.

use super::Dropped;
use super::srtp_cm::CmKeys;
pub use super::srtp_cm::DueTags;
use super::srtp_gcm::GcmKeys;
use super::srtp_incoming::{Incoming, Indices};
pub use super::srtp_outgoing::SealPlace;
use super::srtp_outgoing::Spent;
use crate::base::buffer::DATAGRAM_MAX;
use crate::base::id::Ssrc;
use crate::base::prefetch::prefetch;
use crate::base::seq::Seq;
use aes::cipher::{BlockEncrypt, KeyInit, generic_array::GenericArray};
use std::fmt;

/// Bytes that sealing adds to an RTP packet at most.
pub const OVERHEAD_MAX: usize = 16;

/// RFC 3711 section 9.2: keys are used up after 2^48 RTP packets of an SSRC or 2^31 RTCP packets.
pub(super) const RTP_INDEX_MAX: u64 = (1 << 48) - 1;
pub(super) const RTCP_INDEX_MAX: u32 = (1 << 31) - 1;

pub(super) const RTP_HEADER_LEN: usize = 12;
/// What stays in the clear of an RTCP compound: the first header and the sender's SSRC.
pub(super) const RTCP_HEADER_LEN: usize = 8;
/// E bit and index.
pub(super) const RTCP_INDEX_LEN: usize = 4;

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

    pub fn from_id(id: u16) -> Option<SrtpProfile> {
        SrtpProfile::ALL.into_iter().find(|profile| profile.id() == id)
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

/// Why a packet of ours was not sealed. Each is a fault of the caller or an end of the keys, never of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SealError {
    /// The buffer has no room for the tag, or the lengths do not describe an RTP or RTCP packet.
    Lengths,
    /// The index's low 16 bits are not the packet's sequence number.
    SequenceMismatch,
    /// This index of this SSRC was sealed before, or is too old to tell.
    IndexUsed,
    /// The first packet of an SSRC must have rollover counter 0: its receiver assumes that (RFC 3711 section 3.3.1).
    FirstRollover,
    /// Half the sequence space or more ahead: the receiver would guess another rollover counter.
    Jump,
    /// The SSRC was retired.
    Retired,
    SsrcLimit,
    /// RFC 3711 section 9.2: these keys have protected all they may.
    KeysUsedUp,
}

impl fmt::Display for SealError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SealError::Lengths => "the buffer is too small for the packet and its tag: leave OVERHEAD_MAX bytes",
            SealError::SequenceMismatch => "the index does not end in the packet's sequence number",
            SealError::IndexUsed => "this index was sealed before, or is too old to tell: send the stored sealed bytes",
            SealError::FirstRollover => "the first index of an SSRC must be below 65,536: count its rollovers from 0",
            SealError::Jump => "the index jumps ahead by half the sequence space: restart the stream with a new SSRC",
            SealError::Retired => "the SSRC was retired: give the stream a new one",
            SealError::SsrcLimit => "too many SSRCs on one transport: retire those that have ended",
            SealError::KeysUsedUp => {
                "the keys have protected all packets they may: the transport needs a new handshake"
            }
        })
    }
}

impl std::error::Error for SealError {}

/// The session keys of one direction.
enum Cipher {
    Gcm(Box<GcmKeys>),
    Cm(Box<CmKeys>),
}

impl Cipher {
    fn new(profile: SrtpProfile, master: &MasterKey) -> Cipher {
        match profile {
            SrtpProfile::AeadAes128Gcm | SrtpProfile::AeadAes256Gcm => {
                Cipher::Gcm(Box::new(GcmKeys::new(profile, master)))
            }
            SrtpProfile::Aes128CmSha1_80 => Cipher::Cm(Box::new(CmKeys::new(master))),
        }
    }

    fn open_rtp(&self, ssrc: Ssrc, index: u64, header_len: usize, packet: &mut [u8]) -> Result<usize, Dropped> {
        match self {
            Cipher::Gcm(keys) => keys.open_rtp(ssrc.0, index, header_len, packet),
            Cipher::Cm(keys) => keys.open_rtp(ssrc.0, index, header_len, packet),
        }
    }

    /// What sealing adds to a packet.
    fn tag_len(&self) -> usize {
        match self {
            Cipher::Gcm(_) => SrtpProfile::AeadAes128Gcm.tag_len(),
            Cipher::Cm(_) => SrtpProfile::Aes128CmSha1_80.tag_len(),
        }
    }
}

/// A packet in a slab that is not sealed yet.
#[derive(Clone, Copy)]
pub struct Placed {
    pub start: usize,
    /// With CSRCs and extensions.
    pub header_len: usize,
    pub len: usize,
}

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
        }
    }

    /// As [`Sealer::seal_rtp`], for a packet in `slab` whose SSRC was last found at `place`. Where it pays to compute tags
    /// together, that of this packet is left in `due`: the slab is not to be sent before [`DueTags::write`].
    pub fn seal_in_slab(
        &mut self,
        place: &mut SealPlace,
        index: u64,
        packet: Placed,
        slab: &mut [u8],
        due: &mut DueTags,
    ) -> Result<usize, SealError> {
        let Placed { start, header_len, len } = packet;
        let buffer = slab.get_mut(start..).ok_or(SealError::Lengths)?;
        let ssrc = self.admit(place, index, buffer, header_len, len)?;
        match &self.cipher {
            Cipher::Gcm(keys) => keys.seal_rtp(ssrc, index, buffer, header_len, len),
            Cipher::Cm(keys) => Ok(keys.seal_in_slab(ssrc, index, packet, slab, due)),
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
        }
        Ok(())
    }

    /// Packets of the streams at these places will be sealed next.
    pub fn foresee(&self, places: impl Iterator<Item = SealPlace>) {
        match &self.cipher {
            Cipher::Gcm(keys) => prefetch(&**keys, GcmKeys::RTP),
            Cipher::Cm(keys) => prefetch(&**keys, CmKeys::RTP),
        }
        self.spent.foresee(places);
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

/// Opens what comes under one master key. Nothing a packet says moves any state before its tag is verified.
pub struct Opener {
    cipher: Cipher,
    rtp: Incoming,
    rtcp: Incoming,
}

impl Opener {
    pub fn new(profile: SrtpProfile, master: &MasterKey) -> Opener {
        Opener { cipher: Cipher::new(profile, master), rtp: Incoming::default(), rtcp: Incoming::default() }
    }

    /// An RTCP packet will be opened, and this itself is at hand.
    pub fn foresee_rtcp(&self) {
        if let Cipher::Gcm(keys) = &self.cipher {
            keys.foresee_rtcp();
        }
        self.rtcp.foresee();
    }

    /// Opens an RTP packet in place and says how long it is without its tag. On a drop the payload is destroyed.
    pub fn open_rtp(&mut self, header_len: usize, ssrc: Ssrc, seq: Seq, packet: &mut [u8]) -> Result<usize, Dropped> {
        let room = packet.len().checked_sub(self.cipher.tag_len()).ok_or(Dropped::TooShort)?;
        if !(RTP_HEADER_LEN..=room).contains(&header_len) || !header_len.is_multiple_of(4) {
            return Err(Dropped::TooShort);
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
    ) -> Result<(u64, usize), Dropped> {
        // What does not open is destroyed.
        let mut kept = [0; DATAGRAM_MAX];
        let kept = kept.get_mut(..packet.len()).ok_or(Dropped::BadTag)?;
        kept.copy_from_slice(packet);
        match self.cipher.open_rtp(ssrc, index, header_len, packet) {
            Err(Dropped::BadTag) => {
                packet.copy_from_slice(kept);
                Ok((later, self.cipher.open_rtp(ssrc, later, header_len, packet)?))
            }
            opened => Ok((index, opened?)),
        }
    }

    /// Opens an RTCP compound in place and says how long it is without index and tag.
    pub fn open_rtcp(&mut self, packet: &mut [u8]) -> Result<usize, Dropped> {
        let (ssrc, index) = match &self.cipher {
            Cipher::Gcm(_) => GcmKeys::rtcp_index(packet)?,
            Cipher::Cm(_) => CmKeys::rtcp_index(packet)?,
        };
        let place = self.rtcp.place_rtcp(ssrc, index)?;
        let len = match &self.cipher {
            Cipher::Gcm(keys) => keys.open_rtcp(ssrc, index, packet)?,
            Cipher::Cm(keys) => keys.open_rtcp(ssrc, index, packet)?,
        };
        self.rtcp.commit(ssrc, u64::from(index), place);
        Ok(len)
    }
}

/// Reads SSRC, E bit and index of an SRTCP packet whose E-bit word ends `tail_len` bytes before the packet does.
pub(super) fn rtcp_index(packet: &[u8], len_min: usize, tail_len: usize) -> Result<(u32, u32), Dropped> {
    if packet.len() < len_min {
        return Err(Dropped::TooShort);
    }
    let ssrc = u32::from_be_bytes([packet[4], packet[5], packet[6], packet[7]]);
    let word = &packet[packet.len() - tail_len - RTCP_INDEX_LEN..][..RTCP_INDEX_LEN];
    let word = u32::from_be_bytes([word[0], word[1], word[2], word[3]]);
    // RFC 3711 section 3.4 allows unencrypted SRTCP; WebRTC (RFC 8827 section 6.5) does not.
    if word & 1 << 31 == 0 {
        return Err(Dropped::Unencrypted);
    }
    Ok((ssrc, word & RTCP_INDEX_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::OUTGOING_SSRCS_PER_TRANSPORT_MAX;
    use crate::secure::srtp::Label::*;

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
            assert_eq!(SrtpProfile::from_id(profile.id()), Some(profile));
            assert!(profile.tag_len() <= OVERHEAD_MAX);
        }
        assert_eq!(SrtpProfile::from_id(2), None);
    }

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
