//! AES_CM_128_HMAC_SHA1_80 (RFC 3711), for peers that know nothing better, by `webrtc-srtp`. That library counts
//! rollovers by itself, keeps state for SSRCs it could not verify, accepts SRTCP without a tag when the E bit is 0, and
//! panics on short RTCP and odd RTP headers. So it never parses a header of ours or theirs, gets one context per
//! SSRC, and is only asked when its rollover counter is known to be the right one.

use super::Dropped;
use super::srtp::{MasterKey, RTCP_HEADER_LEN, RTCP_INDEX_LEN, RTP_HEADER_LEN, SealError, rtcp_index};
use crate::base::limits::INCOMING_SSRCS_PER_TRANSPORT_MAX;
use rtp::header::Header;
use rustc_hash::FxHashMap;
use webrtc_srtp::context::Context;
use webrtc_srtp::protection_profile::ProtectionProfile;

const TAG_LEN: usize = 10;
/// The library's RTCP context is thrown away after so many packets it could not verify: it remembers their SSRCs.
const RTCP_FAILURES_MAX: u32 = 64;

fn context(master: &MasterKey) -> Context {
    Context::new(master.key(), master.salt(), ProtectionProfile::Aes128CmHmacSha1_80, None, None)
        .expect("a master key of this profile has the lengths the library checks")
}

/// The header as the library uses it: SSRC, sequence number, and its length in place of its contents.
fn header(ssrc: u32, index: u64, header_len: usize) -> Header {
    Header {
        version: 2,
        ssrc,
        sequence_number: index as u16,
        csrc: vec![0; (header_len - RTP_HEADER_LEN) / 4],
        ..Header::default()
    }
}

/// A context that has only ever served one SSRC, and the index it served last.
struct Stream {
    context: Context,
    last: Option<u64>,
    used: u64,
}

impl Stream {
    fn new(master: &MasterKey) -> Stream {
        Stream { context: context(master), last: None, used: 0 }
    }

    /// The index the library will make of `index`'s sequence number: it goes by the packet it served last, and before
    /// 2^15 by rollover counter 0 alone.
    fn agrees_on(&self, index: u64) -> bool {
        const HALF: u64 = 1 << 15;
        let Some(last) = self.last else { return index >> 16 == 0 };
        let (rollover, last_seq, seq) = (last >> 16, last & 0xFFFF, index & 0xFFFF);
        let guess = if last <= HALF {
            Some(rollover)
        } else if last_seq < HALF {
            if seq > last_seq + HALF { rollover.checked_sub(1) } else { Some(rollover) }
        } else if last_seq - HALF > seq {
            Some(rollover + 1)
        } else {
            Some(rollover)
        };
        guess == Some(index >> 16)
    }
}

pub(super) struct CmSealer {
    master: MasterKey,
    streams: FxHashMap<u32, Stream>,
    rtcp: Context,
}

impl CmSealer {
    pub(super) fn new(master: &MasterKey) -> CmSealer {
        CmSealer { master: master.clone(), streams: FxHashMap::default(), rtcp: context(master) }
    }

    pub(super) fn seal_rtp(
        &mut self,
        ssrc: u32,
        index: u64,
        buffer: &mut [u8],
        header_len: usize,
        len: usize,
    ) -> Result<usize, SealError> {
        let stream = self.streams.entry(ssrc).or_insert_with(|| Stream::new(&self.master));
        if !stream.agrees_on(index) {
            return Err(SealError::Jump);
        }
        let sealed = stream
            .context
            .encrypt_rtp_with_header(&buffer[..len], &header(ssrc, index, header_len))
            .map_err(|_| SealError::KeysUsedUp)?;
        stream.last = Some(index);
        buffer.get_mut(..sealed.len()).ok_or(SealError::Lengths)?.copy_from_slice(&sealed);
        Ok(sealed.len())
    }

    pub(super) fn seal_rtcp(&mut self, packet: &mut Vec<u8>) -> Result<(), SealError> {
        let sealed = self.rtcp.encrypt_rtcp(packet).map_err(|_| SealError::Lengths)?;
        packet.clear();
        packet.extend_from_slice(&sealed);
        Ok(())
    }

    pub(super) fn retire(&mut self, ssrc: u32) {
        self.streams.remove(&ssrc);
    }
}

pub(super) struct CmOpener {
    master: MasterKey,
    /// At most [`INCOMING_SSRCS_PER_TRANSPORT_MAX`], each of an SSRC that was verified.
    streams: Vec<(u32, Stream)>,
    clock: u64,
    rtcp: Context,
    rtcp_failures: u32,
}

impl CmOpener {
    pub(super) fn new(master: &MasterKey) -> CmOpener {
        CmOpener { master: master.clone(), streams: Vec::new(), clock: 0, rtcp: context(master), rtcp_failures: 0 }
    }

    pub(super) fn open_rtp(
        &mut self,
        ssrc: u32,
        index: u64,
        header_len: usize,
        packet: &mut [u8],
    ) -> Result<usize, Dropped> {
        self.clock += 1;
        let header = header(ssrc, index, header_len);
        if let Some((_, stream)) = self.streams.iter_mut().find(|(known, _)| *known == ssrc) {
            stream.used = self.clock;
            return open(stream, index, &header, packet);
        }
        let mut stream = Stream::new(&self.master);
        stream.used = self.clock;
        let len = open(&mut stream, index, &header, packet)?;
        if self.streams.len() >= INCOMING_SSRCS_PER_TRANSPORT_MAX {
            let oldest = (0..self.streams.len()).min_by_key(|&at| self.streams[at].1.used).unwrap_or_default();
            self.streams.swap_remove(oldest);
        }
        self.streams.push((ssrc, stream));
        Ok(len)
    }

    pub(super) fn open_rtcp(&mut self, packet: &mut [u8]) -> Result<usize, Dropped> {
        match self.rtcp.decrypt_rtcp(packet) {
            Ok(opened) => {
                packet.get_mut(..opened.len()).ok_or(Dropped::TooShort)?.copy_from_slice(&opened);
                Ok(opened.len())
            }
            Err(_) => {
                self.rtcp_failures += 1;
                if self.rtcp_failures >= RTCP_FAILURES_MAX {
                    self.rtcp = context(&self.master);
                    self.rtcp_failures = 0;
                }
                Err(Dropped::BadTag)
            }
        }
    }

    /// SSRC and index of an SRTCP packet; the tag stands behind the word with the index (RFC 3711 section 3.4).
    pub(super) fn rtcp_index(packet: &[u8]) -> Result<(u32, u32), Dropped> {
        rtcp_index(packet, RTCP_HEADER_LEN + RTCP_INDEX_LEN + TAG_LEN, TAG_LEN)
    }
}

fn open(stream: &mut Stream, index: u64, header: &Header, packet: &mut [u8]) -> Result<usize, Dropped> {
    if !stream.agrees_on(index) {
        return Err(Dropped::TooOld);
    }
    let opened = stream.context.decrypt_rtp_with_header(packet, header).map_err(|_| Dropped::BadTag)?;
    stream.last = Some(index);
    packet.get_mut(..opened.len()).ok_or(Dropped::TooShort)?.copy_from_slice(&opened);
    Ok(opened.len())
}
