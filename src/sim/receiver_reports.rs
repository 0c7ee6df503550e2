//! The report blocks of one receiving stream, as clients send them. [`super::sink`] and the load generator use them.

use crate::base::id::Ssrc;
use crate::base::seq::ExtSeq;
use crate::base::time::{Instant, NtpTime};
use crate::wire::rtcp::ReportBlock;

/// A stream's counts so far.
#[derive(Clone, Copy, Debug)]
pub struct StreamCounts {
    pub first: ExtSeq,
    pub highest: ExtSeq,
    pub packets: u64,
    /// In ticks of its clock.
    pub jitter: u32,
}

#[derive(Default)]
pub struct ReceiverReports {
    /// Packets expected and received by the last report.
    reported: (u64, u64),
    last_sr: Option<(NtpTime, Instant)>,
}

impl ReceiverReports {
    pub fn on_sender_report(&mut self, now: Instant, ntp: NtpTime) {
        self.last_sr = Some((ntp, now));
    }

    /// The stream restarted: its counts begin anew.
    pub fn start_over(&mut self) {
        self.reported = (0, 0);
    }

    /// RFC 3550 section 6.4.1.
    pub fn block(&mut self, now: Instant, ssrc: Ssrc, stream: StreamCounts) -> ReportBlock {
        let expected = stream.highest.distance_from(stream.first) as u64 + 1;
        let (expected_before, received_before) = std::mem::replace(&mut self.reported, (expected, stream.packets));
        let (expected_now, received_now) = (expected - expected_before, stream.packets - received_before);
        let lost_now = expected_now.saturating_sub(received_now);
        let delay = self.last_sr.map_or(0, |(_, at)| (now.since(at).as_nanos() * 65_536 / 1_000_000_000) as u32);
        ReportBlock {
            ssrc: ssrc.0,
            fraction_lost: (lost_now * 256).checked_div(expected_now).unwrap_or(0).min(255) as u8,
            cumulative_lost: expected as i32 - stream.packets as i32,
            highest_seq: (stream.highest.0 - (1 << 16)) as u32,
            jitter: stream.jitter,
            last_sr: self.last_sr.map_or(0, |(ntp, _)| ntp.middle()),
            delay_since_last_sr: delay,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::seq::Seq;
    use crate::base::time::Duration;

    #[test]
    fn loss_is_counted_since_the_last_report_and_delay_since_the_senders() {
        let mut reports = ReceiverReports::default();
        let first = ExtSeq::first(Seq(10));
        let mut after = |packets: u64, expected: u64, seconds: u64| {
            let now = Instant::ZERO + Duration::from_secs(seconds);
            let highest = ExtSeq(first.0 + expected - 1);
            let block = reports.block(now, Ssrc(7), StreamCounts { first, highest, packets, jitter: 5 });
            if seconds == 1 {
                reports.on_sender_report(now, NtpTime(3 << 32));
            }
            (block.cumulative_lost, block.fraction_lost, block.last_sr, block.delay_since_last_sr)
        };
        assert_eq!(after(75, 100, 1), (25, 64, 0, 0));
        assert_eq!(after(175, 200, 3), (25, 0, 3 << 16, 2 << 16), "nothing was lost since");
        assert_eq!(after(175, 200, 4), (25, 0, 3 << 16, 3 << 16), "nothing came");
        assert_eq!(after(180, 200, 5).1, 0, "more came than was expected: repairs");
    }
}
