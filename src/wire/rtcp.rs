//! RTCP packets (RFC 3550 section 6): a walk over a compound or reduced-size (RFC 5506) datagram that is already
//! decrypted. The messages of RFC 4585 are in `feedback`, the writing in `rtcp_write`. Called by `transport`, once a
//! datagram.

use super::feedback::Feedback;
use super::rtcp_numbers::{packet_type, ssrcs};
use super::{Malformed, Reader};
use crate::base::id::Ssrc;
use crate::base::time::NtpTime;

/// SDES item types (RFC 3550 section 6.5) that somebody reads.
pub const SDES_CNAME: u8 = 1;

const BLOCK: usize = 24;

#[derive(Clone, Debug)]
pub enum Rtcp<'a> {
    SenderReport(SenderReport<'a>),
    ReceiverReport(ReceiverReport<'a>),
    Sdes(Sdes<'a>),
    Bye(Bye<'a>),
    Feedback(Feedback<'a>),
    /// APP, XR and whatever else nobody here reads.
    Other {
        packet_type: u8,
    },
}

/// The packets of one datagram in their order. A malformed one hides nothing behind it: its header's length leads on to
/// the next (RFC 3550 appendix A.2). The walk ends early only where there is no such header.
pub fn parse(bytes: &[u8]) -> RtcpIter<'_> {
    RtcpIter { rest: bytes }
}

#[derive(Clone, Debug)]
pub struct RtcpIter<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for RtcpIter<'a> {
    type Item = Result<Rtcp<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let (packet, rest) = match cut(std::mem::take(&mut self.rest)) {
            Ok(parts) => parts,
            Err(malformed) => return Some(Err(malformed)),
        };
        self.rest = rest;
        Some(packet.unpadded().and_then(read))
    }
}

/// One packet of a compound, without its header.
struct Packet<'a> {
    has_padding: bool,
    packet_type: u8,
    /// The five bits that count blocks, chunks or sources, or name the format of a feedback message.
    count: u8,
    body: &'a [u8],
}

impl Packet<'_> {
    /// RFC 3550 section 6.4.1 wants whole words of padding, on the last packet of a compound only. libwebrtc pads
    /// transport-wide feedback by single bytes and may put more behind it, so the count of each packet is honoured.
    fn unpadded(mut self) -> Result<Self, Malformed> {
        if self.has_padding {
            let pad = self.body.last().copied().unwrap_or(0);
            if pad == 0 || usize::from(pad) > self.body.len() {
                return Err(Malformed("RTCP padding count is 0 or longer than the packet"));
            }
            self.body = &self.body[..self.body.len() - usize::from(pad)];
        }
        Ok(self)
    }
}

/// The first packet and what follows it.
fn cut(bytes: &[u8]) -> Result<(Packet<'_>, &[u8]), Malformed> {
    let mut reader = Reader::new(bytes, "RTCP packet cut short");
    let first = reader.u8()?;
    let packet_type = reader.u8()?;
    let words = reader.u16()?;
    if first >> 6 != 2 {
        return Err(Malformed("RTCP version is not 2"));
    }
    let body = reader.take(usize::from(words) * 4)?;
    Ok((Packet { has_padding: first & 0x20 != 0, packet_type, count: first & 0x1F, body }, reader.rest()))
}

fn read<'a>(packet: Packet<'a>) -> Result<Rtcp<'a>, Malformed> {
    let Packet { packet_type, count, body, .. } = packet;
    Ok(match packet_type {
        packet_type::SENDER_REPORT => {
            let mut reader = Reader::new(body, "sender report shorter than its block count");
            Rtcp::SenderReport(SenderReport {
                ssrc: Ssrc(reader.u32()?),
                ntp: NtpTime(reader.u64()?),
                rtp_timestamp: reader.u32()?,
                packets: reader.u32()?,
                octets: reader.u32()?,
                blocks: reader.take(usize::from(count) * BLOCK)?,
            })
        }
        packet_type::RECEIVER_REPORT => {
            let mut reader = Reader::new(body, "receiver report shorter than its block count");
            let ssrc = Ssrc(reader.u32()?);
            Rtcp::ReceiverReport(ReceiverReport { ssrc, blocks: reader.take(usize::from(count) * BLOCK)? })
        }
        packet_type::SDES => Rtcp::Sdes(Sdes::parse(count, body)?),
        packet_type::BYE => {
            let mut reader = Reader::new(body, "BYE shorter than its source count");
            let ssrcs = reader.take(usize::from(count) * 4)?;
            // An item longer than the packet takes nothing from the list before it.
            let reason = reader.u8().and_then(|len| reader.take(usize::from(len))).ok();
            Rtcp::Bye(Bye { ssrcs, reason })
        }
        packet_type::TRANSPORT_FEEDBACK | packet_type::PAYLOAD_FEEDBACK => {
            Rtcp::Feedback(Feedback::parse(packet_type, count, body)?)
        }
        packet_type => Rtcp::Other { packet_type },
    })
}

/// RFC 3550 section 6.4.1.
#[derive(Clone, Copy, Debug)]
pub struct SenderReport<'a> {
    pub ssrc: Ssrc,
    pub ntp: NtpTime,
    pub rtp_timestamp: u32,
    pub packets: u32,
    pub octets: u32,
    blocks: &'a [u8],
}

impl<'a> SenderReport<'a> {
    pub fn blocks(&self) -> impl ExactSizeIterator<Item = ReportBlock> + 'a {
        blocks(self.blocks)
    }
}

/// RFC 3550 section 6.4.2.
#[derive(Clone, Copy, Debug)]
pub struct ReceiverReport<'a> {
    pub ssrc: Ssrc,
    blocks: &'a [u8],
}

impl<'a> ReceiverReport<'a> {
    pub fn blocks(&self) -> impl ExactSizeIterator<Item = ReportBlock> + 'a {
        blocks(self.blocks)
    }
}

/// A receiver's report block about one source (RFC 3550 section 6.4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ReportBlock {
    pub ssrc: u32,
    /// Of the packets since the last report, in 1/256.
    pub fraction_lost: u8,
    /// 24 bits with sign: duplicates can make it negative.
    pub cumulative_lost: i32,
    pub highest_seq: u32,
    /// In units of the RTP timestamp.
    pub jitter: u32,
    /// The middle 32 bits of the last sender report's NTP time; 0 when there was none.
    pub last_sr: u32,
    /// In 1/65,536 s.
    pub delay_since_last_sr: u32,
}

impl ReportBlock {
    pub(super) fn from_bytes(bytes: &[u8; BLOCK]) -> ReportBlock {
        let (words, _) = bytes.as_chunks::<4>();
        let word = |index: usize| u32::from_be_bytes(words[index]);
        ReportBlock {
            ssrc: word(0),
            fraction_lost: bytes[4],
            // Shifted up and back down so that bit 23 becomes the sign.
            cumulative_lost: (word(1) << 8) as i32 >> 8,
            highest_seq: word(2),
            jitter: word(3),
            last_sr: word(4),
            delay_since_last_sr: word(5),
        }
    }

    pub(super) fn to_bytes(self) -> [u8; BLOCK] {
        // RFC 3550 appendix A.3: the count is clamped to its 24 bits.
        let lost = self.cumulative_lost.clamp(-0x80_0000, 0x7F_FFFF) as u32 & 0xFF_FFFF;
        let words = [
            self.ssrc,
            u32::from(self.fraction_lost) << 24 | lost,
            self.highest_seq,
            self.jitter,
            self.last_sr,
            self.delay_since_last_sr,
        ];
        let mut bytes = [0; BLOCK];
        for (out, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *out = word.to_be_bytes();
        }
        bytes
    }
}

fn blocks(bytes: &[u8]) -> impl ExactSizeIterator<Item = ReportBlock> + '_ {
    bytes.as_chunks().0.iter().map(ReportBlock::from_bytes)
}

/// Source, item type, text.
pub type SdesItem<'a> = (Ssrc, u8, &'a [u8]);

/// Source descriptions (RFC 3550 section 6.5); all items were walked once, so that reading them cannot fail.
#[derive(Clone, Debug)]
pub struct Sdes<'a> {
    chunks: u8,
    body: &'a [u8],
}

impl<'a> Sdes<'a> {
    fn parse(chunks: u8, body: &'a [u8]) -> Result<Sdes<'a>, Malformed> {
        let sdes = Sdes { chunks, body };
        for item in sdes.walk() {
            item?;
        }
        Ok(sdes)
    }

    /// Without the terminators.
    pub fn items(&self) -> impl Iterator<Item = SdesItem<'a>> + 'a {
        self.walk().map_while(Result::ok)
    }

    fn walk(&self) -> SdesWalk<'a> {
        SdesWalk { chunks: self.chunks, source: None, body: self.body, rest: self.body }
    }
}

struct SdesWalk<'a> {
    /// Chunks that have not begun yet.
    chunks: u8,
    source: Option<Ssrc>,
    body: &'a [u8],
    rest: &'a [u8],
}

impl<'a> SdesWalk<'a> {
    fn step(&mut self) -> Result<Option<SdesItem<'a>>, Malformed> {
        let mut reader = Reader::new(self.rest, "SDES chunk cut short");
        loop {
            // The last chunk of some senders ends with its last item, without the zero.
            if self.source.is_some() && self.chunks == 0 && reader.rest().is_empty() {
                return Ok(None);
            }
            let source = match self.source {
                Some(source) => source,
                None if self.chunks == 0 => return Ok(None),
                None => {
                    self.chunks -= 1;
                    Ssrc(reader.u32()?)
                }
            };
            self.source = Some(source);
            let item = reader.u8()?;
            if item != 0 {
                let len = usize::from(reader.u8()?);
                let text = reader.take(len)?;
                self.rest = reader.rest();
                return Ok(Some((source, item, text)));
            }
            // RFC 3550 section 6.5: zeros up to the next word end the chunk.
            let read = self.body.len() - reader.rest().len();
            reader.take(read.next_multiple_of(4) - read)?;
            self.source = None;
        }
    }
}

impl<'a> Iterator for SdesWalk<'a> {
    type Item = Result<SdesItem<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        if !matches!(step, Ok(Some(_))) {
            (self.chunks, self.source) = (0, None);
        }
        step.transpose()
    }
}

/// Sources that left (RFC 3550 section 6.6).
#[derive(Clone, Debug)]
pub struct Bye<'a> {
    ssrcs: &'a [u8],
    pub reason: Option<&'a [u8]>,
}

impl<'a> Bye<'a> {
    pub fn ssrcs(&self) -> impl ExactSizeIterator<Item = Ssrc> + 'a {
        ssrcs(self.ssrcs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(bytes: &[u8]) -> Result<Rtcp<'_>, Malformed> {
        let mut packets = parse(bytes);
        let first = packets.next().expect("bytes are not empty");
        assert!(packets.next().is_none());
        first
    }

    #[test]
    fn a_report_block_keeps_the_sign_of_its_loss() {
        for lost in [0, 1, -1, 0x7F_FFFF, -0x80_0000] {
            let block = ReportBlock { ssrc: 1, fraction_lost: 255, cumulative_lost: lost, ..Default::default() };
            assert_eq!(ReportBlock::from_bytes(&block.to_bytes()), block);
        }
        let over = ReportBlock { cumulative_lost: i32::MAX, ..Default::default() };
        assert_eq!(ReportBlock::from_bytes(&over.to_bytes()).cumulative_lost, 0x7F_FFFF);
    }

    #[test]
    fn an_sdes_of_two_chunks_gives_its_items() {
        let bytes = [
            0x82, 202, 0, 6, // two chunks
            0, 0, 0, 1, 1, 2, b'a', b'b', 2, 1, b'n', 0, // cname and name, then one zero
            0, 0, 0, 2, 1, 1, b'c', 0, 0, 0, 0, 0, // cname, zero, and a word nobody counts
        ];
        let Ok(Rtcp::Sdes(sdes)) = one(&bytes) else { panic!("not an SDES") };
        let items: Vec<_> = sdes.items().collect();
        assert_eq!(items, [(Ssrc(1), 1, &b"ab"[..]), (Ssrc(1), 2, b"n"), (Ssrc(2), 1, b"c")]);
        let unended = [0x81, 202, 0, 2, 0, 0, 0, 1, 1, 2, b'a', b'b'];
        let Ok(Rtcp::Sdes(sdes)) = one(&unended) else { panic!("not an SDES") };
        assert_eq!(sdes.items().collect::<Vec<_>>(), [(Ssrc(1), 1, &b"ab"[..])]);
        let cut = [0x81, 202, 0, 2, 0, 0, 0, 1, 1, 3, b'a', b'b'];
        assert_eq!(one(&cut).unwrap_err(), Malformed("SDES chunk cut short"));
        let missing = [0x82, 202, 0, 2, 0, 0, 0, 1, 1, 2, b'a', b'b'];
        assert_eq!(one(&missing).unwrap_err(), Malformed("SDES chunk cut short"), "two chunks claimed");
    }

    #[test]
    fn a_bye_has_sources_and_perhaps_a_reason() {
        let Ok(Rtcp::Bye(bye)) = one(&[0x82, 203, 0, 3, 0, 0, 0, 1, 0, 0, 0, 2, 3, b'b', b'y', b'e']) else {
            panic!("not a BYE")
        };
        assert_eq!(bye.ssrcs().collect::<Vec<_>>(), [Ssrc(1), Ssrc(2)]);
        assert_eq!(bye.reason, Some(&b"bye"[..]));
        assert!(one(&[0x82, 203, 0, 1, 0, 0, 0, 1]).is_err(), "two sources claimed, one there");
        let Ok(Rtcp::Bye(bye)) = one(&[0x81, 203, 0, 2, 0, 0, 0, 1, 4, 0, 0, 0]) else { panic!("not a BYE") };
        assert_eq!((bye.ssrcs().collect::<Vec<_>>(), bye.reason), (vec![Ssrc(1)], None), "a reason that is too long");
        assert!(matches!(one(&[0x80, 203, 0, 0]), Ok(Rtcp::Bye(_))), "no source is useless but valid");
    }

    #[test]
    fn padding_is_cut_and_a_lie_about_it_is_malformed() {
        let padded = |pad: u8| [0xA0, 201, 0, 2, 0, 0, 0, 9, 0, 0, 0, pad];
        assert!(matches!(one(&padded(4)), Ok(Rtcp::ReceiverReport(report)) if report.ssrc == Ssrc(9)));
        for lie in [0, 5, 9, 255] {
            assert!(one(&padded(lie)).is_err(), "{lie}");
        }
        assert!(one(&[0xA0, 201, 0, 0]).is_err(), "no room for a count");
    }

    /// RFC 3550 appendix A.2.
    #[test]
    fn a_malformed_packet_hides_nothing_behind_it() {
        let pli = [0x81, 206, 0, 2, 0, 0, 0, 1, 0, 0, 0, 9];
        let malformed: [&[u8]; 10] = [
            &[0x81, 201, 0, 1, 0, 0, 0, 1],                           // one block claimed, none there
            [0x9F, 201, 0, 7, 0, 0, 0, 1].as_slice(),                 // cut short below: filled up to its length
            [0x81, 200, 0, 6, 0, 0, 0, 1].as_slice(),                 // the same of a sender report
            &[0x81, 202, 0, 2, 0, 0, 0, 1, 1, 9, b'a', b'b'],         // an SDES item longer than its packet
            &[0x82, 203, 0, 1, 0, 0, 0, 1],                           // two sources claimed
            &[0xA0, 201, 0, 1, 0, 0, 0, 0],                           // padding of no bytes
            &[0xA0, 204, 0, 1, 0, 0, 0, 99],                          // padding longer than the packet
            &[0x81, 205, 0, 2, 0, 0, 0, 1, 0, 0, 0, 9],               // a NACK of nothing
            &[0x84, 206, 0, 3, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 0],   // half an entry of a FIR
            &[0x8F, 205, 0, 3, 0, 0, 0, 1, 0, 0, 0, 9, 0, 1, 0, 200], // transport-wide feedback without its chunks
        ];
        for bad in malformed {
            let len = 4 + 4 * usize::from(bad[3]);
            let bad = [bad, &vec![0; len - bad.len()]].concat();
            let compound = [&pli[..], &bad, &bad, &pli].concat();
            let read: Vec<_> = parse(&compound).map(|packet| packet.is_ok()).collect();
            assert_eq!(read, [true, false, false, true], "{bad:?}");
        }
        for fine in [&[0x80, 204, 0, 1, 0, 0, 0, 1][..], &[0x80, 207, 0, 1, 0, 0, 0, 1], &[0x9F, 192, 0, 0]] {
            let compound = [fine, &pli].concat();
            assert!(parse(&compound).all(|packet| packet.is_ok()) && parse(&compound).count() == 2, "{fine:?}");
        }
    }

    #[test]
    fn the_walk_ends_where_no_header_leads_on() {
        let pli = [0x81, 206, 0, 2, 0, 0, 0, 1, 0, 0, 0, 9];
        for end in [&[0x40, 201, 0, 1, 0, 0, 0, 1][..], &[0x80, 201, 0], &[0x80, 201, 0, 9, 0, 0, 0, 1], &[0; 40]] {
            let compound = [&pli, end].concat();
            let read: Vec<_> = parse(&compound).map(|packet| packet.is_ok()).collect();
            assert_eq!(read, [true, false], "{end:?}");
        }
        assert!(parse(&[]).next().is_none());
        assert_eq!(one(&[0x40, 201, 0, 1, 0, 0, 0, 1]).unwrap_err(), Malformed("RTCP version is not 2"));
    }
}
