//! The clocks behind sender and receiver reports: turns publishers' sender reports into our own NTP timeline, so that a
//! consumer's reports keep audio and video of a peer in step, and measures round trips (RFC 3550 section 6.4.1). It
//! writes no RTCP.

use crate::base::seq::timestamp_ahead;
use crate::base::time::{Duration, Instant, Now, NtpTime};

/// How far one report may move an offset: so little that the streams of a peer, which learn of it one after the other,
/// stay in step.
const STEP_MAX: i64 = 1_000_000;
/// A report this much earlier or later than the offset allows means that a clock was set.
const SET_FASTER: i64 = 1_000_000_000;
const SET_SLOWER: i64 = 10_000_000_000;

/// The most by which a report and the packets of a stream may disagree.
const AGREEMENT_MS: u64 = 200;
/// After this long of disagreement the packets alone count.
const DISPROVED_MAX: Duration = Duration::from_secs(3);

/// A longer round trip belongs to a report about another stream.
const ROUND_TRIP_MAX: u32 = 60 << 16;

/// The offset from a publisher's NTP time to ours: one for all streams of a publishing transport. It is the minimum of
/// arrival less sending time, which is the clocks' difference plus the fastest way here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClockOffset {
    nanos: Option<i64>,
}

impl ClockOffset {
    /// How far the publisher's clock is ahead of ours, in 2^-32 s. None before its first report.
    pub fn of_theirs(&self) -> Option<i64> {
        let units = |nanos: i64| -(i128::from(nanos) << 32) / 1_000_000_000;
        self.nanos.map(|nanos| units(nanos).clamp(i64::MIN.into(), i64::MAX.into()) as i64)
    }

    fn on_report(&mut self, now: Now, ntp: NtpTime) -> i64 {
        let observed = now.wall.nanos_since(ntp);
        let nanos = match self.nanos {
            None => observed,
            Some(nanos) => {
                let slower_by = observed.saturating_sub(nanos);
                if (-SET_FASTER..=SET_SLOWER).contains(&slower_by) {
                    nanos + slower_by.clamp(-STEP_MAX, 0)
                } else {
                    observed
                }
            }
        };
        self.nanos = Some(nanos);
        nanos
    }
}

#[derive(Clone, Copy, Debug)]
struct Mapping {
    ntp: NtpTime,
    rtp: u32,
}

/// The clock of one RTP stream.
#[derive(Clone, Copy, Debug)]
pub struct SenderClock {
    clock_rate: u32,
    /// From the publisher's last report, in our NTP time.
    reported: Option<Mapping>,
    /// The newest packet's timestamp and arrival.
    arrived: Option<(Instant, u32)>,
    /// Since when the two disagree.
    disproved_since: Option<Instant>,
}

impl SenderClock {
    pub fn new(clock_rate: u32) -> SenderClock {
        SenderClock { clock_rate: clock_rate.max(1), reported: None, arrived: None, disproved_since: None }
    }

    /// Takes packets that are newer than all before.
    pub fn on_packet(&mut self, now: Instant, timestamp: u32) {
        self.arrived = Some((now, timestamp));
    }

    /// Whether a packet has come within this time.
    pub fn runs(&self, now: Instant, within: Duration) -> bool {
        self.arrived.is_some_and(|(arrival, _)| now.since(arrival) <= within)
    }

    pub fn newest_timestamp(&self) -> Option<u32> {
        self.arrived.map(|(_, timestamp)| timestamp)
    }

    /// `offset` is shared by all streams of the transport on which the report came.
    pub fn on_sender_report(&mut self, now: Now, ntp: NtpTime, rtp: u32, offset: &mut ClockOffset) {
        //= RFC 3550 section 6.4.1: a sender that has no notion of wallclock time may set the NTP time to zero.
        if ntp.0 != 0 {
            let nanos = offset.on_report(now, ntp);
            self.reported = Some(Mapping { ntp: ntp.offset_nanos(nanos), rtp });
        }
    }

    /// The publisher's NTP time in ours, and the RTP time that belongs to it: another shard needs both to go on.
    pub fn mapping(&self) -> Option<(NtpTime, u32)> {
        self.reported.map(|Mapping { ntp, rtp }| (ntp, rtp))
    }

    pub fn set_mapping(&mut self, ntp: NtpTime, rtp: u32) {
        self.reported = Some(Mapping { ntp, rtp });
    }

    /// The offset from `other`'s timestamps to this clock's at the same moment, where both have reports.
    pub fn ahead_of(&self, other: &SenderClock) -> Option<u32> {
        let (own, other) = (self.reported?, other.reported?);
        let own_then = own.rtp.wrapping_add(self.ticks(other.ntp.nanos_since(own.ntp)));
        Some(own_then.wrapping_sub(other.rtp))
    }

    /// The source restarts its count: nothing of before holds.
    pub fn reset(&mut self) {
        *self = SenderClock::new(self.clock_rate);
    }

    /// The source's RTP time at `now`, with our NTP time of `now`. Before the publisher's first report it is derived
    /// from the arrival of its packets. None before any packet, and where the publisher's report and its packets
    /// disagree: its clock stood still or jumped, and the next report will tell; or its packets are late.
    pub fn rtp_at(&mut self, now: Now) -> Option<(NtpTime, u32)> {
        let by_arrival = self.arrived.map(|(arrival, timestamp)| {
            let passed = i64::try_from(now.mono.since(arrival).as_nanos()).unwrap_or(i64::MAX);
            timestamp.wrapping_add(self.ticks(passed))
        });
        let by_report =
            self.reported.map(|Mapping { ntp, rtp }| rtp.wrapping_add(self.ticks(now.wall.nanos_since(ntp))));
        let rtp = match (by_report, by_arrival) {
            (Some(by_report), Some(by_arrival)) => {
                let apart = u64::from(timestamp_ahead(by_report, by_arrival).unsigned_abs());
                if apart * 1_000 <= AGREEMENT_MS * u64::from(self.clock_rate) {
                    self.disproved_since = None;
                    by_report
                } else if now.mono.since(*self.disproved_since.get_or_insert(now.mono)) >= DISPROVED_MAX {
                    by_arrival
                } else {
                    return None;
                }
            }
            (by_report, by_arrival) => by_report.or(by_arrival)?,
        };
        Some((now.wall, rtp))
    }

    fn ticks(&self, nanos: i64) -> u32 {
        (i128::from(nanos) * i128::from(self.clock_rate)).div_euclid(1_000_000_000) as u32
    }
}

/// The round trip in a report block about a stream of ours, at its arrival (RFC 3550 section 6.4.1). None before a
/// sender report, and for impossible values.
pub fn round_trip(now: NtpTime, last_sr: u32, delay_since_last_sr: u32) -> Option<Duration> {
    if last_sr == 0 {
        return None;
    }
    let units = now.middle().wrapping_sub(last_sr).wrapping_sub(delay_since_last_sr);
    // The other side's clock may run a little faster while it holds our report.
    let units = if (units as i32) < 0 && units.wrapping_neg() < 1 << 13 { 0 } else { units };
    (units <= ROUND_TRIP_MAX).then(|| Duration::from_nanos((u64::from(units) * 1_000_000_000) >> 16))
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    fn now(millis: u64) -> Now {
        let wall = NtpTime::from_unix(Duration::from_secs(1_700_000_000) + Duration::from_millis(millis));
        Now { mono: Instant::from_nanos(millis * 1_000_000), wall }
    }

    /// The publisher's clock is `ahead` of ours.
    fn theirs(millis: u64, ahead: i64) -> NtpTime {
        now(millis).wall.offset_nanos(ahead)
    }

    #[test]
    fn before_a_report_arrival_decides() {
        let mut clock = SenderClock::new(90_000);
        assert_eq!(clock.rtp_at(now(0)), None);
        clock.on_packet(now(100).mono, u32::MAX);
        assert_eq!(clock.rtp_at(now(200)), Some((now(200).wall, 8_999)));
        clock.on_sender_report(now(200), NtpTime(0), 5, &mut ClockOffset::default());
        assert_eq!(clock.rtp_at(now(200)), Some((now(200).wall, 8_999)), "a report without time tells nothing");
    }

    #[test]
    fn audio_and_video_keep_one_clock_whatever_way_their_reports_took() {
        for seed in 0..20 {
            let mut rng = StdRng::seed_from_u64(seed);
            let ahead = rng.random_range(-3_600_000_000_000..3_600_000_000_000);
            let mut offset = ClockOffset::default();
            let (mut audio, mut video) = (SenderClock::new(48_000), SenderClock::new(90_000));
            let (audio_start, video_start): (u32, u32) = (rng.random(), rng.random());
            let sent = |ms: u64| (audio_start.wrapping_add(ms as u32 * 48), video_start.wrapping_add(ms as u32 * 90));
            for second in 0..200 {
                let ms = second * 1_000;
                let arrival = now(ms + rng.random_range(20..200));
                video.on_sender_report(arrival, theirs(ms, ahead), sent(ms).1, &mut offset);
                if second % 5 == 0 {
                    let arrival = now(ms + rng.random_range(20..200));
                    audio.on_sender_report(arrival, theirs(ms, ahead), sent(ms).0, &mut offset);
                    // Both at one moment: the same time since the start, less the same way.
                    let ((_, a), (_, v)) = (audio.rtp_at(arrival).unwrap(), video.rtp_at(arrival).unwrap());
                    let a = f64::from(a.wrapping_sub(audio_start) as i32) / 48.0;
                    let v = f64::from(v.wrapping_sub(video_start) as i32) / 90.0;
                    assert!((a - v).abs() < 6.0, "seed {seed}: audio {a} ms, video {v} ms");
                    let late = (arrival.mono.as_millis() as f64) - v;
                    assert!((19.0..=201.0).contains(&late), "seed {seed}: {late} ms behind");
                }
            }
            let late = now(200_000).mono.as_millis() as f64
                - f64::from(video.rtp_at(now(200_000)).unwrap().1.wrapping_sub(video_start) as i32) / 90.0;
            assert!(late < 80.0, "the fastest way wins in time: {late} ms");
        }
    }

    #[test]
    fn a_clock_that_was_set_is_followed() {
        let (mut clock, mut offset) = (SenderClock::new(1_000), ClockOffset::default());
        for (ms, ahead) in [(0, 0), (1_000, 30_000_000_000), (2_000, 30_000_000_000), (3_000, -5_000_000_000)] {
            clock.on_sender_report(now(ms), theirs(ms, ahead), ms as u32, &mut offset);
            assert!(clock.rtp_at(now(ms)).unwrap().1.abs_diff(ms as u32) <= 1);
        }
        clock.reset();
        assert_eq!(clock.rtp_at(now(9)), None);
    }

    /// RFC 3550 section 6.4.1: the RTP timestamp corresponds to the same time as the NTP timestamp.
    #[test]
    fn a_report_that_the_packets_disprove_is_not_passed_on() {
        let rate = 90_000;
        // The publisher's RTP clock after so many milliseconds: at rest, wound on, wound back, around the wrap.
        let stands = |ms: u64| (ms.min(5_000) + ms.saturating_sub(15_000)) as u32 * 90;
        let jumps = |ms: u64| if ms < 15_000 { ms as u32 * 90 } else { ms as u32 * 90 + 900_000 };
        let turns_back = |ms: u64| if ms < 15_000 { ms as u32 * 90 } else { (ms as u32 * 90).wrapping_sub(45_000) };
        let wraps = |ms: u64| (ms as u32 * 90).wrapping_sub(15_000 * 90);
        let drifts = |ms: u64| ms as u32 * 91;
        let clocks: [&dyn Fn(u64) -> u32; 5] = [&stands, &jumps, &turns_back, &wraps, &drifts];
        for (at, shows) in clocks.into_iter().enumerate() {
            let (mut clock, mut offset) = (SenderClock::new(rate), ClockOffset::default());
            let (mut passed_on, mut held_back) = (0, 0);
            for ms in (0..40_000).step_by(20) {
                // Nothing is sent while the clock stands, and the reports of a browser count on.
                let silent = at == 0 && (5_000..15_000).contains(&ms);
                if !silent {
                    clock.on_packet(now(ms + 20).mono, shows(ms));
                }
                if ms % 1_000 == 100 {
                    let rtp = if silent { ms as u32 * 90 } else { shows(ms) };
                    clock.on_sender_report(now(ms + 20), theirs(ms, 7_000), rtp, &mut offset);
                }
                if ms % 100 == 0 && !silent {
                    match clock.rtp_at(now(ms + 20)) {
                        Some((_, rtp)) => {
                            let off = i64::from(timestamp_ahead(rtp, shows(ms))) / 90;
                            assert!(off.abs() <= 200, "clock {at}: {off} ms off after {ms} ms");
                            passed_on += 1;
                        }
                        None => held_back += 1,
                    }
                }
            }
            assert!(passed_on > 200 && held_back <= 10, "clock {at}: {passed_on} and {held_back}");
            assert_eq!(held_back > 0, at < 3, "clock {at}: {held_back}");
        }
    }

    #[test]
    fn a_publisher_whose_reports_never_fit_is_taken_by_its_packets() {
        let (mut clock, mut offset) = (SenderClock::new(90_000), ClockOffset::default());
        let mut held_back = 0;
        for second in 0..60 {
            clock.on_packet(now(second * 1_000).mono, second as u32 * 90_000);
            let wrong = second as u32 * 90_000 + 5_000_000;
            clock.on_sender_report(now(second * 1_000), theirs(second * 1_000, 0), wrong, &mut offset);
            match clock.rtp_at(now(second * 1_000)) {
                Some((_, rtp)) => assert_eq!(rtp, second as u32 * 90_000),
                None => held_back += 1,
            }
        }
        assert_eq!(held_back, 3);
    }

    #[test]
    fn two_encodings_are_aligned_by_their_reports() {
        let (mut low, mut high, mut offset) =
            (SenderClock::new(90_000), SenderClock::new(90_000), ClockOffset::default());
        assert_eq!(low.ahead_of(&high), None);
        low.on_sender_report(now(1_050), theirs(1_000, 7), 90_000 + 5, &mut offset);
        assert_eq!(low.ahead_of(&high), None);
        high.on_sender_report(now(3_080), theirs(3_000, 7), 3 * 90_000 + 1_000_005, &mut offset);
        let ahead = low.ahead_of(&high).unwrap();
        assert!(ahead.wrapping_add(1_000_000) <= 1, "{ahead}");
    }

    #[test]
    fn any_report_is_safe() {
        let mut rng = StdRng::seed_from_u64(1);
        let (mut clock, mut offset) = (SenderClock::new(u32::MAX), ClockOffset::default());
        for _ in 0..10_000 {
            let now = Now { mono: Instant::from_nanos(rng.random()), wall: NtpTime(rng.random()) };
            clock.on_packet(now.mono, rng.random());
            clock.on_sender_report(now, NtpTime(rng.random()), rng.random(), &mut offset);
            clock.rtp_at(Now { mono: Instant::from_nanos(rng.random()), wall: NtpTime(rng.random()) });
            round_trip(now.wall, rng.random(), rng.random());
        }
    }

    #[test]
    fn a_round_trip_is_arrival_less_sending_less_waiting() {
        let sent = now(0).wall;
        let trip = round_trip(now(350).wall, sent.middle(), 65_536 / 4).unwrap();
        assert!(trip.abs_diff(Duration::from_millis(100)) < Duration::from_micros(50));
        assert_eq!(round_trip(now(350).wall, 0, 0), None);
        assert_eq!(round_trip(now(350).wall, sent.middle(), 65_536 * 36 / 100), Some(Duration::ZERO));
        assert_eq!(round_trip(now(350).wall, sent.middle(), 65_536), None);
        assert_eq!(round_trip(now(90_000).wall, sent.middle(), 0), None);
    }
}
