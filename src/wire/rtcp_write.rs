//! Writes RTCP packets one behind the other into a datagram. The writer never fails: a list too long for one packet
//! goes into several, a name that is too long is cut. It does not decide who sends what and when; `media::report` and
//! `shard` do.

use super::rtcp::{ReportBlock, SDES_CNAME};
use super::rtcp_numbers::{REMB_NAME, format, packet_type};
use crate::base::id::Ssrc;
use crate::base::seq::Seq;
use crate::base::time::NtpTime;
use crate::base::units::Bitrate;

/// Blocks, chunks or sources that the five-bit count of a header can say.
const COUNT_MAX: usize = 31;
/// Keeps one NACK within a datagram.
const NACK_ENTRIES_MAX: usize = 256;

/// Appends to a datagram.
pub struct RtcpWriter<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> RtcpWriter<'a> {
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        RtcpWriter { out }
    }

    /// Blocks beyond 31 follow in receiver reports of the same source (RFC 3550 section 6.1).
    pub fn sender_report(
        &mut self,
        ssrc: Ssrc,
        ntp: NtpTime,
        rtp_timestamp: u32,
        packets: u32,
        octets: u32,
        blocks: &[ReportBlock],
    ) {
        let (own, more) = blocks.split_at(blocks.len().min(COUNT_MAX));
        self.packet(packet_type::SENDER_REPORT, own.len() as u8, |out| {
            out.extend(ssrc.0.to_be_bytes());
            out.extend(ntp.0.to_be_bytes());
            for word in [rtp_timestamp, packets, octets] {
                out.extend(word.to_be_bytes());
            }
            out.extend(own.iter().flat_map(|block| block.to_bytes()));
        });
        if !more.is_empty() {
            self.receiver_report(ssrc, more);
        }
    }

    /// An empty list gives an empty report, which may open a compound packet.
    pub fn receiver_report(&mut self, ssrc: Ssrc, blocks: &[ReportBlock]) {
        let mut blocks = blocks;
        loop {
            let (now, more) = blocks.split_at(blocks.len().min(COUNT_MAX));
            self.packet(packet_type::RECEIVER_REPORT, now.len() as u8, |out| {
                out.extend(ssrc.0.to_be_bytes());
                out.extend(now.iter().flat_map(|block| block.to_bytes()));
            });
            if more.is_empty() {
                return;
            }
            blocks = more;
        }
    }

    /// At most 255 bytes of the name are written (RFC 3550 section 6.5).
    pub fn sdes_cname(&mut self, ssrc: Ssrc, cname: &str) {
        let end = (0..=cname.len().min(usize::from(u8::MAX))).rev().find(|end| cname.is_char_boundary(*end));
        let cname = &cname[..end.unwrap_or(0)];
        self.packet(packet_type::SDES, 1, |out| {
            out.extend(ssrc.0.to_be_bytes());
            out.extend([SDES_CNAME, cname.len() as u8]);
            out.extend(cname.as_bytes());
            // At least one zero ends the chunk, more fill its last word.
            let chunk = 4 + 2 + cname.len();
            out.extend(std::iter::repeat_n(0, (chunk + 1).next_multiple_of(4) - chunk));
        });
    }

    pub fn bye(&mut self, ssrcs: &[Ssrc]) {
        for some in ssrcs.chunks(COUNT_MAX) {
            self.packet(packet_type::BYE, some.len() as u8, |out| {
                out.extend(some.iter().flat_map(|ssrc| ssrc.0.to_be_bytes()));
            });
        }
    }

    /// `seqs` in ascending order on the circle; neighbours within 16 share an entry (RFC 4585 section 6.2.1).
    pub fn nack(&mut self, sender: Ssrc, media: Ssrc, seqs: &[Seq]) {
        let mut rest = seqs;
        while !rest.is_empty() {
            self.feedback(packet_type::TRANSPORT_FEEDBACK, format::NACK, sender, media, |out| {
                for _ in 0..NACK_ENTRIES_MAX {
                    let Some((first, more)) = rest.split_first() else { break };
                    rest = more;
                    let mut mask = 0u16;
                    while let Some((next, more)) = rest.split_first() {
                        match next.0.wrapping_sub(first.0) {
                            0 => {}
                            distance @ 1..=16 => mask |= 1 << (distance - 1),
                            _ => break,
                        }
                        rest = more;
                    }
                    out.extend(first.0.to_be_bytes());
                    out.extend(mask.to_be_bytes());
                }
            });
        }
    }

    pub fn pli(&mut self, sender: Ssrc, media: Ssrc) {
        self.feedback(packet_type::PAYLOAD_FEEDBACK, format::PLI, sender, media, |_| ());
    }

    pub fn fir(&mut self, sender: Ssrc, target: Ssrc, number: u8) {
        // RFC 5104 section 4.3.1.2: the media SSRC is 0, the entry names the source.
        self.feedback(packet_type::PAYLOAD_FEEDBACK, format::FIR, sender, Ssrc(0), |out| {
            out.extend(target.0.to_be_bytes());
            out.extend([number, 0, 0, 0]);
        });
    }

    /// The rate is rounded down to its 18 significant bits; at most 255 sources are named.
    pub fn remb(&mut self, sender: Ssrc, bitrate: Bitrate, ssrcs: &[Ssrc]) {
        let ssrcs = &ssrcs[..ssrcs.len().min(usize::from(u8::MAX))];
        let exponent = (u64::BITS - bitrate.0.leading_zeros()).saturating_sub(18);
        let mantissa = (bitrate.0 >> exponent) as u32;
        self.feedback(packet_type::PAYLOAD_FEEDBACK, format::APPLICATION, sender, Ssrc(0), |out| {
            out.extend(REMB_NAME);
            out.extend(((ssrcs.len() as u32) << 24 | exponent << 18 | mantissa).to_be_bytes());
            out.extend(ssrcs.iter().flat_map(|ssrc| ssrc.0.to_be_bytes()));
        });
    }

    fn feedback(&mut self, packet_type: u8, format: u8, sender: Ssrc, media: Ssrc, control: impl FnOnce(&mut Vec<u8>)) {
        self.packet(packet_type, format, |out| {
            out.extend(sender.0.to_be_bytes());
            out.extend(media.0.to_be_bytes());
            control(out);
        });
    }

    /// A header whose length is filled in behind `body`, which writes whole words and never as many as 65,536.
    fn packet(&mut self, packet_type: u8, count: u8, body: impl FnOnce(&mut Vec<u8>)) {
        let start = self.out.len();
        self.out.extend([0x80 | count, packet_type, 0, 0]);
        body(self.out);
        let words = (self.out.len() - start) / 4 - 1;
        self.out[start + 2..start + 4].copy_from_slice(&(words as u16).to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::super::feedback::Feedback;
    use super::super::rtcp::{Rtcp, parse};
    use super::*;

    fn block(ssrc: u32) -> ReportBlock {
        ReportBlock {
            ssrc,
            fraction_lost: 3,
            cumulative_lost: -2,
            highest_seq: 4,
            jitter: 5,
            last_sr: 6,
            delay_since_last_sr: 7,
        }
    }

    fn written(write: impl FnOnce(&mut RtcpWriter<'_>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut RtcpWriter::new(&mut out));
        assert_eq!(out.len() % 4, 0);
        out
    }

    /// All that can be written, in one compound.
    fn everything() -> Vec<u8> {
        written(|writer| {
            writer.sender_report(Ssrc(1), NtpTime(0x0102_0304_0506_0708), 9, 10, 11, &[block(2)]);
            writer.receiver_report(Ssrc(1), &[block(3), block(4)]);
            writer.sdes_cname(Ssrc(1), "näme");
            writer.nack(Ssrc(1), Ssrc(5), &[Seq(65_535), Seq(1)]);
            writer.pli(Ssrc(1), Ssrc(5));
            writer.fir(Ssrc(1), Ssrc(5), 7);
            writer.remb(Ssrc(1), Bitrate(1_000_000), &[Ssrc(5), Ssrc(6)]);
            writer.bye(&[Ssrc(1), Ssrc(2)]);
        })
    }

    #[test]
    fn everything_written_is_read_back() {
        let bytes = everything();
        let packets: Vec<_> = parse(&bytes).map(Result::unwrap).collect();
        let [
            Rtcp::SenderReport(sr),
            Rtcp::ReceiverReport(rr),
            Rtcp::Sdes(sdes),
            Rtcp::Feedback(Feedback::Nack(nack)),
            Rtcp::Feedback(Feedback::Pli(pli)),
            Rtcp::Feedback(Feedback::Fir(fir)),
            Rtcp::Feedback(Feedback::Remb(remb)),
            Rtcp::Bye(bye),
        ] = &packets[..]
        else {
            panic!("{packets:?}")
        };
        assert_eq!((sr.ssrc, sr.ntp), (Ssrc(1), NtpTime(0x0102_0304_0506_0708)));
        assert_eq!((sr.rtp_timestamp, sr.packets, sr.octets), (9, 10, 11));
        assert_eq!(sr.blocks().collect::<Vec<_>>(), [block(2)]);
        assert_eq!(rr.blocks().collect::<Vec<_>>(), [block(3), block(4)]);
        assert_eq!(sdes.items().collect::<Vec<_>>(), [(Ssrc(1), SDES_CNAME, "näme".as_bytes())]);
        assert_eq!(nack.seqs().collect::<Vec<_>>(), [Seq(65_535), Seq(1)]);
        assert_eq!((pli.sender, pli.media), (Ssrc(1), Ssrc(5)));
        assert_eq!(fir.requests().collect::<Vec<_>>(), [(Ssrc(5), 7)]);
        assert_eq!(remb.bitrate, Bitrate(1_000_000));
        assert_eq!(remb.ssrcs().collect::<Vec<_>>(), [Ssrc(5), Ssrc(6)]);
        assert_eq!(bye.ssrcs().collect::<Vec<_>>(), [Ssrc(1), Ssrc(2)]);
    }

    #[test]
    fn every_truncation_of_a_compound_is_whole_packets_or_ends_in_one_error() {
        let bytes = everything();
        let mut starts = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            starts.push(at);
            at += (usize::from(u16::from_be_bytes([bytes[at + 2], bytes[at + 3]])) + 1) * 4;
        }
        for cut in 0..bytes.len() {
            let read: Vec<_> = parse(&bytes[..cut]).collect();
            let whole = starts.contains(&cut);
            assert_eq!(read.last().is_none_or(Result::is_ok), whole, "{cut}");
            assert_eq!(read.iter().filter(|packet| packet.is_err()).count(), usize::from(!whole));
        }
    }

    #[test]
    fn long_lists_go_into_several_packets() {
        let blocks: Vec<_> = (0..70).map(block).collect();
        let bytes = written(|writer| writer.sender_report(Ssrc(1), NtpTime(0), 0, 0, 0, &blocks));
        let read: Vec<_> = parse(&bytes)
            .flat_map(|packet| match packet.unwrap() {
                Rtcp::SenderReport(report) => report.blocks().collect::<Vec<_>>(),
                Rtcp::ReceiverReport(report) => report.blocks().collect(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(read, blocks);
        let bytes = written(|writer| writer.bye(&[Ssrc(9); 40]));
        assert_eq!(parse(&bytes).count(), 2);
        assert_eq!(written(|writer| writer.bye(&[])), [0u8; 0]);
        assert_eq!(written(|writer| writer.receiver_report(Ssrc(1), &[])), [0x80, 201, 0, 1, 0, 0, 0, 1]);
    }

    #[test]
    fn nack_entries_are_as_few_as_can_be_and_lose_nothing() {
        let read = |seqs: &[Seq]| {
            let bytes = written(|writer| writer.nack(Ssrc(1), Ssrc(2), seqs));
            let mut back = Vec::new();
            for packet in parse(&bytes) {
                let Ok(Rtcp::Feedback(Feedback::Nack(nack))) = packet else { panic!("{packet:?}") };
                back.extend(nack.seqs());
            }
            (bytes.len(), back)
        };
        let run: Vec<_> = (0..17).map(|offset: u16| Seq(65_530u16.wrapping_add(offset))).collect();
        assert_eq!(read(&run), (16, run), "one entry");
        let spread: Vec<_> = (0..600u16).map(|n| Seq(n * 40)).collect();
        assert_eq!(read(&spread), (3 * 12 + 600 * 4, spread));
        assert_eq!(read(&[]), (0, vec![]));
        assert_eq!(read(&[Seq(5), Seq(5), Seq(6)]).1, [Seq(5), Seq(6)]);
    }

    #[test]
    fn a_remb_rate_loses_only_what_18_bits_cannot_hold() {
        for rate in [0, 1, 0x3_FFFF, 0x4_0000, 2_500_000, 123_456_789, u64::MAX] {
            let bytes = written(|writer| writer.remb(Ssrc(1), Bitrate(rate), &[]));
            let Some(Ok(Rtcp::Feedback(Feedback::Remb(remb)))) = parse(&bytes).next() else { panic!() };
            assert!(remb.bitrate.0 <= rate && rate - remb.bitrate.0 <= rate >> 17, "{rate}");
        }
    }

    #[test]
    fn a_cname_of_any_length_ends_its_chunk() {
        for len in [0, 1, 2, 3, 4, 255, 300] {
            let name = "x".repeat(len);
            let bytes = written(|writer| writer.sdes_cname(Ssrc(1), &name));
            let Some(Ok(Rtcp::Sdes(sdes))) = parse(&bytes).next() else { panic!("{len}") };
            assert_eq!(sdes.items().next().unwrap().2.len(), len.min(255));
        }
        let bytes = written(|writer| writer.sdes_cname(Ssrc(1), &"ä".repeat(200)));
        let Some(Ok(Rtcp::Sdes(sdes))) = parse(&bytes).next() else { panic!() };
        assert_eq!(sdes.items().next().unwrap().2.len(), 254, "cut between characters");
    }
}
