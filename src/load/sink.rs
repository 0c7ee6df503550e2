//! One received stream: whether each packet is what its publisher sent, which are missing, and the receiver's report.
//! Knows nothing of SRTP or sockets; driven by `transport`.

use crate::base::id::{PayloadType, Ssrc};
use crate::base::seq::{ExtSeq, Seq};
use crate::base::time::{Instant, NtpTime};
use crate::load::payload::{self, PacketLabel};
use crate::load::repair::Wanted;
use crate::sim::receiver_reports::{ReceiverReports, StreamCounts};
use crate::wire::rtcp::ReportBlock;
use crate::wire::rtp::RtpHeader;

/// The stream that `consumer-params` announced.
#[derive(Clone, Copy, Debug)]
pub struct SinkSetup {
    pub ssrc: Ssrc,
    pub rtx_ssrc: Option<Ssrc>,
    pub payload_type: PayloadType,
    pub video: bool,
    /// The server answers NACKs.
    pub nack: bool,
    /// The stream that its packets must belong to.
    pub stream: u32,
    /// The time of the reply.
    pub since: Instant,
}

/// A packet that is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WrongPacket {
    PayloadType,
    /// Not as it was sent, or of another stream.
    Payload,
}

pub struct LoadSink {
    pub setup: SinkSetup,
    first: Option<ExtSeq>,
    highest: ExtSeq,
    received: u64,
    reports: ReceiverReports,
    /// Packets of the window that came.
    pub counted: u64,
    /// Numbers that were passed over, less those that came later.
    pub holes: i64,
    /// The list of requests, where packets are lost on purpose.
    pub wanted: Option<Wanted>,
}

impl LoadSink {
    pub fn new(setup: SinkSetup) -> LoadSink {
        LoadSink {
            setup,
            first: None,
            highest: ExtSeq(0),
            received: 0,
            reports: ReceiverReports::default(),
            counted: 0,
            holes: 0,
            wanted: None,
        }
    }

    pub fn has_started(&self) -> bool {
        self.first.is_some()
    }

    /// One packet in plain text; None when it carries nothing but padding.
    pub fn take(
        &mut self,
        now: Instant,
        header: &RtpHeader,
        packet: &[u8],
    ) -> Result<Option<PacketLabel>, WrongPacket> {
        if header.payload_type != self.setup.payload_type {
            return Err(WrongPacket::PayloadType);
        }
        let at = if self.first.is_some() { self.highest.nearest(header.seq) } else { ExtSeq::first(header.seq) };
        if self.first.is_none() {
            (self.first, self.highest) = (Some(at), at);
        } else if at > self.highest {
            self.holes += at.distance_from(self.highest) - 1;
            if let Some(wanted) = &mut self.wanted {
                wanted.add(now, self.highest.next(), at);
            }
            self.highest = at;
        } else {
            self.holes -= 1;
            if let Some(wanted) = &mut self.wanted {
                wanted.fill(at);
            }
        }
        self.received += 1;
        let payload = header.payload(packet).map_err(|_| WrongPacket::Payload)?;
        self.read(payload)
    }

    /// One packet of the repair stream; None for padding and for repeats.
    pub fn take_repair(&mut self, header: &RtpHeader, packet: &[u8]) -> Result<Option<PacketLabel>, WrongPacket> {
        let payload = header.payload(packet).map_err(|_| WrongPacket::Payload)?;
        // RFC 4588 section 4; an empty one is a probe.
        let [high, low, payload @ ..] = payload else { return Ok(None) };
        let at = self.highest.nearest(Seq(u16::from_be_bytes([*high, *low])));
        if !self.wanted.as_mut().is_some_and(|wanted| wanted.fill(at)) {
            return Ok(None);
        }
        self.holes -= 1;
        self.read(payload)
    }

    fn read(&self, payload: &[u8]) -> Result<Option<PacketLabel>, WrongPacket> {
        if payload.is_empty() {
            return Ok(None);
        }
        payload::read(payload).filter(|label| label.stream == self.setup.stream).map(Some).ok_or(WrongPacket::Payload)
    }

    pub fn on_sender_report(&mut self, now: Instant, ntp: NtpTime) {
        self.reports.on_sender_report(now, ntp);
    }

    /// Jitter, which nobody reads, is 0. None before the first packet.
    pub fn report(&mut self, now: Instant) -> Option<ReportBlock> {
        let stream = StreamCounts { first: self.first?, highest: self.highest, packets: self.received, jitter: 0 };
        Some(self.reports.block(now, self.setup.ssrc, stream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::seq::Seq;
    use crate::load::payload::{FramePlace, PAYLOAD_MIN};
    use crate::wire::codec::Codec;
    use crate::wire::rtp::{FIXED_HEADER, HeaderFields, write_fixed_header};

    fn packet(seq: u16, stream: u32, payload_type: u8) -> Vec<u8> {
        let mut packet = vec![0; FIXED_HEADER + PAYLOAD_MIN];
        let (header, payload) = packet.split_first_chunk_mut().unwrap();
        let fields = HeaderFields {
            marker: false,
            has_padding: false,
            payload_type: PayloadType(payload_type),
            seq: Seq(seq),
            timestamp: 0,
            ssrc: Ssrc(5),
        };
        write_fixed_header(header, fields, false);
        let place = FramePlace { key: false, first: false, picture_id: 0, tl0_pic_idx: 0 };
        payload::write(Codec::Opus, place, PacketLabel { stream, index: u64::from(seq), sent_at: 1 }, payload);
        packet
    }

    fn take(sink: &mut LoadSink, packet: &[u8]) -> Result<Option<PacketLabel>, WrongPacket> {
        sink.take(Instant::ZERO, &RtpHeader::parse(packet).unwrap(), packet)
    }

    fn sink() -> LoadSink {
        LoadSink::new(SinkSetup {
            ssrc: Ssrc(5),
            rtx_ssrc: None,
            payload_type: PayloadType(100),
            video: false,
            nack: true,
            stream: 9,
            since: Instant::ZERO,
        })
    }

    #[test]
    fn holes_are_counted_until_they_fill() {
        let mut sink = sink();
        for seq in [65_534, 65_535, 2, 3] {
            assert_eq!(take(&mut sink, &packet(seq, 9, 100)).unwrap().unwrap().index, u64::from(seq));
        }
        assert_eq!(sink.holes, 2);
        let report = sink.report(Instant::ZERO).unwrap();
        assert_eq!((report.cumulative_lost, report.fraction_lost, report.highest_seq), (2, 85, 65_539));
        take(&mut sink, &packet(0, 9, 100)).unwrap();
        assert_eq!(sink.holes, 1);
        assert_eq!(sink.report(Instant::ZERO).unwrap().cumulative_lost, 1);
    }

    #[test]
    fn a_repair_fills_its_hole_once() {
        let mut sink = sink();
        sink.wanted = Some(Wanted::default());
        for seq in [10, 13] {
            take(&mut sink, &packet(seq, 9, 100)).unwrap();
        }
        let original = packet(12, 9, 100);
        let mut repair = original[..FIXED_HEADER].to_vec();
        repair.extend([0, 12]);
        repair.extend(&original[FIXED_HEADER..]);
        let header = RtpHeader::parse(&repair).unwrap();
        assert_eq!(sink.take_repair(&header, &repair).unwrap().unwrap().index, 12);
        assert_eq!(sink.take_repair(&header, &repair), Ok(None), "it is there");
        assert_eq!((sink.holes, sink.wanted.unwrap().ask(Instant::ZERO)), (1, vec![Seq(11)]));
    }

    #[test]
    fn what_is_not_what_was_sent_is_a_fault() {
        let mut sink = sink();
        assert_eq!(take(&mut sink, &packet(1, 9, 101)), Err(WrongPacket::PayloadType));
        assert_eq!(take(&mut sink, &packet(1, 8, 100)), Err(WrongPacket::Payload), "another stream");
        let mut bad = packet(2, 9, 100);
        *bad.last_mut().unwrap() ^= 1;
        assert!(take(&mut sink, &bad).is_ok_and(|label| label.unwrap().sent_at != 1), "a time cannot be wrong");
        bad[FIXED_HEADER + 15] ^= 1;
        assert!(take(&mut sink, &bad).is_ok(), "the head belongs to the server");
        bad.truncate(FIXED_HEADER + 20);
        assert_eq!(take(&mut sink, &bad), Err(WrongPacket::Payload));
        assert_eq!(take(&mut sink, &bad[..FIXED_HEADER]), Ok(None), "padding");
    }
}
