//! The budget of work for one RTCP datagram. A few bytes can ask for much: a feedback of 24 bytes covers thousands of
//! packets, four bytes of a NACK request seventeen. Each part takes its steps of a small budget; when that is spent,
//! the rest of the datagram is dropped and counted. Receivers repeat what they still want.

use crate::base::limits::RTCP_STEPS_MAX;
use crate::wire::feedback::Feedback;
use crate::wire::rtcp::Rtcp;

/// Any part, and a malformed one.
const PART: u32 = 8;
const BLOCK: u32 = 8;
const SOURCE: u32 = 1;
const TRANSPORT_CC: u32 = 32;
/// The packets covered by feedback that take one more step.
const TOLD_PER_STEP: u32 = 2;
const REMB: u32 = 8;
/// A keyframe request.
pub(super) const REQUEST: u32 = 24;
/// A requested packet, beside the resending, which is bounded by the packets sent.
pub(super) const NACKED: u32 = 2;
/// A message to another shard.
pub(super) const RELAY: u32 = 8;

pub(super) struct Effort {
    left: u32,
}

impl Default for Effort {
    fn default() -> Effort {
        Effort { left: RTCP_STEPS_MAX }
    }
}

impl Effort {
    /// False: the budget is spent, and everything that follows is dropped.
    #[must_use]
    pub(super) fn take(&mut self, steps: u32) -> bool {
        let left = self.left.checked_sub(steps);
        self.left = left.unwrap_or(0);
        left.is_some()
    }

    /// The price of the part whatever it is about (None: malformed); [`REQUEST`], [`NACKED`] and [`RELAY`] come on top,
    /// one by one.
    #[must_use]
    pub(super) fn begin(&mut self, packet: Option<&Rtcp<'_>>) -> bool {
        let steps = match packet {
            Some(Rtcp::SenderReport(report)) => BLOCK + report.blocks().len() as u32 * BLOCK,
            Some(Rtcp::ReceiverReport(report)) => report.blocks().len() as u32 * BLOCK,
            Some(Rtcp::Bye(bye)) => bye.ssrcs().len() as u32 * SOURCE,
            Some(Rtcp::Feedback(Feedback::TransportCc(feedback))) => {
                TRANSPORT_CC + u32::from(feedback.status_count) / TOLD_PER_STEP
            }
            Some(Rtcp::Feedback(Feedback::Remb(_))) => REMB,
            Some(Rtcp::Feedback(_) | Rtcp::Sdes(_) | Rtcp::Other { .. }) | None => 0,
        };
        self.take(PART + steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::Ssrc;
    use crate::base::limits::RESENT_BURST_MAX;
    use crate::base::seq::Seq;
    use crate::wire::rtcp::{ReportBlock, parse};
    use crate::wire::rtcp_write::RtcpWriter;

    /// The number of parts of the datagram that are let through.
    fn begun(datagram: &[u8]) -> usize {
        let mut effort = Effort::default();
        parse(datagram).take_while(|packet| effort.begin(packet.as_ref().ok())).count()
    }

    fn times(count: usize, write: impl Fn(&mut RtcpWriter<'_>)) -> Vec<u8> {
        let mut datagram = Vec::new();
        (0..count).for_each(|_| write(&mut RtcpWriter::new(&mut datagram)));
        datagram
    }

    fn lost(count: u16) -> Vec<u8> {
        let run = 0x1fff_u16.min(count);
        let mut packet = vec![0x8f, 205, 0, 5, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0];
        packet.extend(count.to_be_bytes());
        packet.extend([0; 4]);
        packet.extend(run.to_be_bytes());
        packet.extend((count - run).to_be_bytes());
        packet
    }

    #[test]
    fn what_receivers_send_in_earnest_passes_whole() {
        let block = ReportBlock::default();
        assert_eq!(begun(&times(2, |to| to.receiver_report(Ssrc(1), &[block; 31]))), 2, "as many as a datagram holds");
        assert_eq!(begun(&times(110, |to| to.pli(Ssrc(1), Ssrc(2)))), 110);
        assert_eq!(begun(&lost(1_900)), 1, "a second of 18 Mbit/s");
        assert_eq!(begun(&lost(100).repeat(10)), 10);
        let mut effort = Effort::default();
        assert!((0..RESENT_BURST_MAX).all(|_| effort.take(NACKED)), "as many as are resent in a row");
        let seqs: Vec<Seq> = (0..17).map(Seq).collect();
        assert_eq!(begun(&times(1, |to| to.nack(Ssrc(1), Ssrc(2), &seqs))), 1);
    }

    #[test]
    fn what_a_few_bytes_ask_for_is_bounded() {
        let telling = |count| begun(&lost(count).repeat(58));
        assert_eq!(telling(8_191), 0);
        assert!(telling(900) <= 2 && telling(1) <= 26, "{} {}", telling(900), telling(1));
        assert!(begun(&[0x80, 204, 0, 0].repeat(350)) <= 128);
        let mut effort = Effort::default();
        assert!((0..1_024).filter(|_| effort.take(REQUEST)).count() <= 64);
        assert!(!effort.take(1), "spent is spent");
        assert!((0..1_024).filter(|_| Effort::default().begin(None)).count() == 1_024, "each datagram has its own");
    }
}
