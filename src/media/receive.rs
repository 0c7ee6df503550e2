//! The receiver of one RTP stream: extends sequence numbers, tells new packets from late, repeated and restarted ones,
//! and keeps the counters of receiver reports and statistics (RFC 3550 sections 6.4.1, A.1, A.3, A.8). It neither
//! requests missing packets (`nack`) nor keeps any (`history`). The producer in `router` owns one per SSRC.

use crate::base::id::Ssrc;
use crate::base::limits::SEQUENCE_JUMP_MAX;
use crate::base::seq::{ExtSeq, Seq, timestamp_ahead};
use crate::base::time::{Duration, Instant, Now, NtpTime};
use crate::media::seen_window::{SeenWindow, Standing, WINDOW};
use crate::wire::rtcp::ReportBlock;

/// A source that restarts a little behind its old numbers looks like repeats. After this many in a row, each following
/// the one before, with nothing new for `STALE_TIME`, it counts as restarted.
const STALE_RUN: u32 = 32;
const STALE_TIME: Duration = Duration::from_millis(500);

/// A jump of the transit time beyond this is a clock that was set, not jitter.
const TRANSIT_JUMP_SECONDS_MAX: u32 = 5;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    InOrder(ExtSeq),
    /// `missing_from` up to, not including, `packet` have not come.
    Gap {
        packet: ExtSeq,
        missing_from: ExtSeq,
    },
    /// Behind the newest, not seen before.
    Late(ExtSeq),
    /// Seen before, or too far behind to tell. To be dropped.
    Duplicate,
    /// Too far from all others to belong to them, until its successor confirms it (RFC 3550 A.1). To be dropped.
    Unconfirmed,
    /// The source restarted, and this is its first trusted packet. Its number is ahead of all before.
    Restarted(ExtSeq),
}

#[derive(Clone, Copy, Debug)]
struct Stale {
    next: Seq,
    run: u32,
}

#[derive(Clone, Debug)]
struct Progress {
    window: SeenWindow,
    /// First number of the present count.
    base: ExtSeq,
    advanced_at: Instant,
    transit: u32,
}

#[derive(Clone, Debug)]
pub struct Receiver {
    clock_rate: u32,
    progress: Option<Progress>,
    stale: Option<Stale>,
    /// Packets expected before the source's last restart.
    expected_before: u64,
    received: u64,
    /// Times 16, as in RFC 3550 A.8.
    jitter_scaled: u32,
    expected_reported: u64,
    received_reported: u64,
    heard_since_report: bool,
    /// The next packet has another SSRC and starts a new count.
    renamed: bool,
    sender_report: Option<(NtpTime, u32, Instant)>,
}

impl Receiver {
    pub fn new(clock_rate: u32) -> Receiver {
        Receiver {
            clock_rate: clock_rate.max(1),
            progress: None,
            stale: None,
            expected_before: 0,
            received: 0,
            jitter_scaled: 0,
            expected_reported: 0,
            received_reported: 0,
            heard_since_report: false,
            renamed: false,
            sender_report: None,
        }
    }

    pub fn on_packet(&mut self, now: Instant, seq: Seq, timestamp: u32) -> Arrival {
        let Some(progress) = &mut self.progress else {
            let ext = ExtSeq::first(seq);
            self.begin(now, ext, timestamp);
            self.count();
            return Arrival::InOrder(ext);
        };
        let highest = progress.window.highest();
        if std::mem::take(&mut self.renamed) {
            return self.on_stale(now, seq, timestamp, 1, Arrival::Unconfirmed);
        }
        let ext = highest.nearest(seq);
        if ext.distance_from(highest).abs() > SEQUENCE_JUMP_MAX {
            return self.on_stale(now, seq, timestamp, 2, Arrival::Unconfirmed);
        }
        match progress.window.insert(ext) {
            Standing::Newest => {
                progress.advanced_at = now;
                self.stale = None;
                self.update_jitter(now, timestamp);
                self.count();
                if ext == highest.next() {
                    Arrival::InOrder(ext)
                } else {
                    Arrival::Gap { packet: ext, missing_from: highest.next() }
                }
            }
            Standing::Late => {
                progress.base = progress.base.min(ext);
                self.count();
                Arrival::Late(ext)
            }
            Standing::Duplicate | Standing::TooOld if now.since(progress.advanced_at) >= STALE_TIME => {
                self.on_stale(now, seq, timestamp, STALE_RUN, Arrival::Duplicate)
            }
            Standing::Duplicate | Standing::TooOld => Arrival::Duplicate,
        }
    }

    /// A packet received as a retransmission of `seq` (RFC 4588). Like any other, except that it never restarts the
    /// stream: a sender also probes with old packets in this form.
    pub fn on_retransmission(&mut self, now: Instant, seq: Seq, timestamp: u32) -> Arrival {
        let Some(progress) = &self.progress else { return self.on_packet(now, seq, timestamp) };
        let highest = progress.window.highest();
        let ext = highest.nearest(seq);
        let ahead = ext.distance_from(highest);
        if self.renamed || ahead > SEQUENCE_JUMP_MAX || ahead <= -WINDOW {
            return Arrival::Duplicate;
        }
        if ahead > 0 {
            return self.on_packet(now, seq, timestamp);
        }
        let Some(progress) = &mut self.progress else { return Arrival::Duplicate };
        match progress.window.insert(ext) {
            Standing::Late => {
                progress.base = progress.base.min(ext);
                self.count();
                Arrival::Late(ext)
            }
            Standing::Newest | Standing::Duplicate | Standing::TooOld => Arrival::Duplicate,
        }
    }

    /// The timestamp for a packet without one of this stream's clock: it changes no jitter.
    pub fn steady_timestamp(&self, now: Instant) -> u32 {
        self.arrival_ticks(now).wrapping_sub(self.progress.as_ref().map_or(0, |progress| progress.transit))
    }

    /// The stream goes on under another SSRC with unrelated numbers.
    pub fn restart(&mut self) {
        self.renamed = true;
        self.sender_report = None;
    }

    /// `count` of the packets given to [`Receiver::on_packet`] were retransmissions or copies: they are no longer lost
    /// to the viewers, but reports still tell the sender that its network lost them (RFC 4588 section 4).
    pub fn repaired(&mut self, count: u64) {
        self.received = self.received.saturating_sub(count);
    }

    pub fn on_sender_report(&mut self, now: Now, ntp: NtpTime, rtp: u32) {
        self.sender_report = Some((ntp, rtp, now.mono));
    }

    /// The report block for the stream, which is `ssrc`; None when nothing came since the last one (RFC 3550 section
    /// 6.4).
    pub fn report_block(&mut self, now: Now, ssrc: Ssrc) -> Option<ReportBlock> {
        let progress = self.progress.as_ref()?;
        if !std::mem::take(&mut self.heard_since_report) {
            return None;
        }
        //= RFC 3550 A.3: the fraction is that of the interval, and zero when more came than was to be expected.
        let expected = self.expected();
        let expected_now = expected.saturating_sub(self.expected_reported);
        let received_now = self.received.saturating_sub(self.received_reported);
        let lost_now = expected_now.saturating_sub(received_now);
        let fraction_lost = (lost_now * 256).checked_div(expected_now).unwrap_or(0).min(255) as u8;
        self.expected_reported = expected;
        self.received_reported = self.received;
        let (last_sr, delay_since_last_sr) = match self.sender_report {
            Some((ntp, _, at)) => {
                let delay = now.mono.since(at).as_nanos() * 65_536 / 1_000_000_000;
                (ntp.middle(), u32::try_from(delay).unwrap_or(u32::MAX))
            }
            None => (0, 0),
        };
        Some(ReportBlock {
            ssrc: ssrc.0,
            fraction_lost,
            cumulative_lost: self.packets_lost().clamp(-0x80_0000, 0x7f_ffff) as i32,
            highest_seq: progress.window.highest().0.wrapping_sub(progress.base.0 & !0xffff) as u32,
            jitter: self.jitter_scaled >> 4,
            last_sr,
            delay_since_last_sr,
        })
    }

    pub fn highest(&self) -> Option<ExtSeq> {
        self.progress.as_ref().map(|progress| progress.window.highest())
    }

    /// Expected less received, repaired or not.
    pub fn packets_lost(&self) -> i64 {
        self.expected() as i64 - self.received as i64
    }

    pub fn jitter(&self) -> Duration {
        let ticks = u64::from(self.jitter_scaled >> 4);
        Duration::from_nanos(ticks * 1_000_000_000 / u64::from(self.clock_rate))
    }

    fn expected(&self) -> u64 {
        let current = self.progress.as_ref().map_or(0, |p| p.window.highest().0 - p.base.0 + 1);
        self.expected_before + current
    }

    fn count(&mut self) {
        self.received += 1;
        self.heard_since_report = true;
    }

    fn begin(&mut self, now: Instant, ext: ExtSeq, timestamp: u32) {
        let transit = self.arrival_ticks(now).wrapping_sub(timestamp);
        let window = SeenWindow::starting_at(ext);
        self.progress = Some(Progress { window, base: ext, advanced_at: now, transit });
    }

    /// A packet that cannot be placed: after `run_min` of them in sequence the source has restarted.
    fn on_stale(&mut self, now: Instant, seq: Seq, timestamp: u32, run_min: u32, otherwise: Arrival) -> Arrival {
        let run = match self.stale {
            Some(stale) if stale.next == seq => stale.run.saturating_add(1),
            _ => 1,
        };
        if run < run_min {
            self.stale = Some(Stale { next: Seq(seq.0.wrapping_add(1)), run });
            return otherwise;
        }
        self.stale = None;
        self.expected_before = self.expected();
        let highest = self.highest().unwrap_or_default();
        // Two cycles on: clear of every number that was given or that a late packet could still be given.
        let ext = ExtSeq(((highest.0 >> 16) + 2) << 16 | u64::from(seq.0));
        self.begin(now, ext, timestamp);
        self.count();
        Arrival::Restarted(ext)
    }

    fn arrival_ticks(&self, now: Instant) -> u32 {
        (u128::from(now.as_nanos()) * u128::from(self.clock_rate) / 1_000_000_000) as u32
    }

    fn update_jitter(&mut self, now: Instant, timestamp: u32) {
        let transit = self.arrival_ticks(now).wrapping_sub(timestamp);
        let Some(progress) = &mut self.progress else { return };
        let difference = timestamp_ahead(transit, progress.transit).unsigned_abs();
        progress.transit = transit;
        if difference < self.clock_rate.saturating_mul(TRANSIT_JUMP_SECONDS_MAX) {
            //= RFC 3550 A.8: J += (|D| - J) / 16, kept times 16 and rounded.
            let decay = self.jitter_scaled.saturating_add(8) >> 4;
            self.jitter_scaled = self.jitter_scaled.saturating_add(difference).saturating_sub(decay);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    const SSRC: Ssrc = Ssrc(7);

    fn now(millis: u64) -> Now {
        Now { mono: at(millis), wall: NtpTime::from_unix(Duration::from_millis(millis)) }
    }

    #[test]
    fn gaps_late_packets_and_repeats_are_told_apart_over_the_wrap() {
        let mut receiver = Receiver::new(90_000);
        let first = ExtSeq::first(Seq(65_534));
        assert_eq!(receiver.on_packet(at(0), Seq(65_534), 0), Arrival::InOrder(first));
        assert_eq!(
            receiver.on_packet(at(1), Seq(1), 0),
            Arrival::Gap { packet: ExtSeq(first.0 + 3), missing_from: first.next() }
        );
        assert_eq!(receiver.on_packet(at(2), Seq(65_535), 0), Arrival::Late(first.next()));
        assert_eq!(receiver.on_packet(at(2), Seq(65_535), 0), Arrival::Duplicate);
        assert_eq!((receiver.received, receiver.packets_lost()), (3, 1));
        let report = receiver.report_block(now(5), SSRC).unwrap();
        assert_eq!((report.highest_seq, report.cumulative_lost, report.fraction_lost), (1 << 16 | 1, 1, 64));
        assert_eq!(receiver.report_block(now(6), SSRC), None);
    }

    #[test]
    fn a_repair_does_not_hide_the_loss_from_the_sender() {
        let mut receiver = Receiver::new(90_000);
        for seq in [0, 1, 3] {
            receiver.on_packet(at(0), Seq(seq), 0);
        }
        assert!(matches!(receiver.on_packet(at(9), Seq(2), 0), Arrival::Late(_)));
        receiver.repaired(1);
        assert_eq!(receiver.packets_lost(), 1);
        assert_eq!(receiver.report_block(now(9), SSRC).unwrap().fraction_lost, 64);
    }

    #[test]
    fn a_restart_needs_two_in_sequence_and_never_goes_back() {
        let mut receiver = Receiver::new(48_000);
        receiver.on_packet(at(0), Seq(40_000), 0);
        assert_eq!(receiver.on_packet(at(1), Seq(100), 0), Arrival::Unconfirmed);
        assert!(matches!(receiver.on_packet(at(2), Seq(40_001), 0), Arrival::InOrder(_)));
        assert_eq!(receiver.on_packet(at(3), Seq(101), 0), Arrival::Unconfirmed, "the good packet broke the row");
        let before = receiver.highest().unwrap();
        let Arrival::Restarted(ext) = receiver.on_packet(at(4), Seq(102), 0) else { panic!("confirmed") };
        assert!(ext.0 > before.0 + (1 << 16) && ext.seq() == Seq(102));
        assert_eq!(receiver.on_packet(at(5), Seq(103), 0), Arrival::InOrder(ext.next()));
        assert_eq!(receiver.packets_lost(), 0);
        assert_eq!(receiver.report_block(now(6), SSRC).unwrap().highest_seq, 103);
    }

    #[test]
    fn a_restart_a_little_behind_is_found_too() {
        let mut receiver = Receiver::new(90_000);
        for seq in 1_000..2_000 {
            receiver.on_packet(at(0), Seq(seq), 0);
        }
        let restarted = (1_500..1_600)
            .map(|seq| receiver.on_packet(at(1_000), Seq(seq), 0))
            .position(|arrival| matches!(arrival, Arrival::Restarted(_)));
        assert_eq!(restarted, Some(STALE_RUN as usize - 1));
        // A burst of needless retransmissions right behind the live packets is no restart.
        let mut receiver = Receiver::new(90_000);
        for seq in (1_000..2_000).chain(1_500..1_600) {
            assert!(!matches!(receiver.on_packet(at(0), Seq(seq), 0), Arrival::Restarted(_)));
        }
    }

    #[test]
    fn jitter_follows_the_formula_and_survives_hostile_timestamps() {
        let mut receiver = Receiver::new(8_000);
        let mut jitter = 0.0;
        let mut rng = StdRng::seed_from_u64(1);
        let mut last = 0i64;
        for n in 0..500u64 {
            let delay = rng.random_range(0..40);
            receiver.on_packet(at(n * 20 + delay), Seq(n as u16), (n * 160) as u32);
            if n > 0 {
                jitter += ((delay as f64 * 8.0 - last as f64 * 8.0).abs() - jitter) / 16.0;
            }
            last = delay as i64;
        }
        let measured = receiver.report_block(now(10_000), SSRC).unwrap().jitter;
        assert!((f64::from(measured) - jitter).abs() < 4.0, "{measured} is not {jitter}");
        for n in 500..600u16 {
            receiver.on_packet(at(10_000), Seq(n), rng.random());
        }
        assert!(receiver.jitter() < Duration::from_secs(5));
    }

    #[test]
    fn the_report_points_back_to_the_senders() {
        let mut receiver = Receiver::new(90_000);
        receiver.on_packet(at(0), Seq(0), 0);
        let ntp = NtpTime(0x1234_5678_9abc_def0);
        receiver.on_sender_report(now(1_000), ntp, 7);
        let report = receiver.report_block(now(1_500), SSRC).unwrap();
        assert_eq!((report.last_sr, report.delay_since_last_sr), (0x5678_9abc, 32_768));
        assert_eq!(receiver.sender_report, Some((ntp, 7, at(1_000))));
    }

    #[test]
    fn agrees_with_a_model_over_loss_reorder_and_repeats() {
        for seed in 0..20 {
            let mut rng = StdRng::seed_from_u64(seed);
            let start: u16 = rng.random();
            let first = ExtSeq::first(Seq(start));
            let mut wire: Vec<u64> = (0..20_000).collect();
            for chunk in wire.chunks_mut(16) {
                if rng.random_range(0..4) == 0 {
                    chunk.shuffle(&mut rng);
                }
            }
            let mut receiver = Receiver::new(90_000);
            let mut seen = BTreeSet::new();
            for (n, offset) in wire.into_iter().enumerate() {
                if rng.random_range(0..10) == 0 {
                    continue;
                }
                for _ in 0..rng.random_range(1..3) {
                    let seq = Seq(start.wrapping_add(offset as u16));
                    let arrival = receiver.on_packet(at(n as u64), seq, 0);
                    let ext = match arrival {
                        Arrival::InOrder(ext) | Arrival::Late(ext) | Arrival::Gap { packet: ext, .. } => Some(ext),
                        _ => None,
                    };
                    assert_eq!(ext.is_some(), seen.insert(offset), "seed {seed}, {offset}: {arrival:?}");
                    if let Some(ext) = ext {
                        assert_eq!(ext.seq(), seq);
                        assert!(ext.0.abs_diff(first.0 + offset) % (1 << 16) == 0);
                    }
                }
            }
            let span = seen.last().unwrap() - seen.first().unwrap() + 1;
            assert_eq!(receiver.packets_lost(), span as i64 - seen.len() as i64);
        }
    }

    #[test]
    fn any_sequence_of_numbers_is_safe() {
        let mut rng = StdRng::seed_from_u64(3);
        let mut receiver = Receiver::new(0);
        let mut given = BTreeSet::new();
        let mut seq = 0u16;
        for n in 0..100_000u64 {
            seq = if rng.random_range(0..3) == 0 { rng.random() } else { seq.wrapping_add(1) };
            match receiver.on_packet(Instant::from_nanos(n * rng.random_range(1..1_000_000)), Seq(seq), rng.random()) {
                Arrival::InOrder(ext)
                | Arrival::Late(ext)
                | Arrival::Restarted(ext)
                | Arrival::Gap { packet: ext, .. } => {
                    assert!(given.insert(ext), "{ext:?} was given twice")
                }
                Arrival::Duplicate | Arrival::Unconfirmed => {}
            }
            if n % 100 == 0 {
                receiver.report_block(now(n), SSRC);
            }
        }
    }
}
