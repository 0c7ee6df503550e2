//! What SRTP and SRTCP packets have in common, whichever cipher protects them: lengths, bounds of indices, why a packet of
//! ours was not sealed.

use crate::secure::dropped::SecureDrop;
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

/// A packet in a buffer that is not sealed yet.
#[derive(Clone, Copy)]
pub struct Placed {
    pub start: usize,
    /// With CSRCs and extensions.
    pub header_len: usize,
    pub len: usize,
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

/// Reads SSRC, E bit and index of an SRTCP packet whose E-bit word ends `tail_len` bytes before the packet does.
pub(super) fn rtcp_index(packet: &[u8], len_min: usize, tail_len: usize) -> Result<(u32, u32), SecureDrop> {
    if packet.len() < len_min {
        return Err(SecureDrop::TooShort);
    }
    let ssrc = u32::from_be_bytes([packet[4], packet[5], packet[6], packet[7]]);
    let word = &packet[packet.len() - tail_len - RTCP_INDEX_LEN..][..RTCP_INDEX_LEN];
    let word = u32::from_be_bytes([word[0], word[1], word[2], word[3]]);
    // RFC 3711 section 3.4 allows unencrypted SRTCP; WebRTC (RFC 8827 section 6.5) does not.
    if word & 1 << 31 == 0 {
        return Err(SecureDrop::Unencrypted);
    }
    Ok((ssrc, word & RTCP_INDEX_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_stands_in_front_of_the_tail() {
        let mut packet = vec![0x80, 200, 0, 1, 0, 0, 0, 9];
        packet.extend((1u32 << 31 | 5).to_be_bytes());
        packet.extend([7; 10]);
        assert_eq!(rtcp_index(&packet, packet.len(), 10), Ok((9, 5)));
        assert_eq!(rtcp_index(&packet, packet.len() + 1, 10), Err(SecureDrop::TooShort));
        packet[8] = 0;
        assert_eq!(rtcp_index(&packet, packet.len(), 10), Err(SecureDrop::Unencrypted));
    }
}
