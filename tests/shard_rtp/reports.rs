//! RFC 3550 section 6.4: a sender report agrees with the packets around it, or is not sent; and nothing is reported of a
//! stream that sends nothing.

use weirgate::base::id::Ssrc;
use weirgate::base::time::Now;
use weirgate::shard::command::{Command, ConsumerSpec, ProducerSpec};
use weirgate::wire::rtcp::{self, Rtcp};
use weirgate::wire::rtcp_write::RtcpWriter;

use crate::shard_rig::{consumer_spec, millis, producer_spec};
use crate::support::{CONSUMED, Call, Heard, PUBLISHED, Rtp, opus};

/// A publisher as its viewer gets it: packets every 20 ms, a report each second.
struct Broadcast {
    call: Call,
    rate: u32,
    video: bool,
    seq: u16,
    /// The time on its RTP clock.
    clock: u32,
    /// The viewer's newest packet.
    newest: Option<(Now, u32)>,
    /// The received reports: time, and distance from the newest packet before, in milliseconds.
    reports: Vec<(u64, i64)>,
    read: (usize, usize),
    started: u64,
}

impl Broadcast {
    fn new(shards: usize, (produced, consumed): (ProducerSpec, ConsumerSpec)) -> Broadcast {
        let (rate, video) = (produced.clock_rate, produced.clock_rate == 90_000);
        let call = Call::new(shards, produced, consumed);
        let started = call.rig.now.mono.as_millis();
        let reports = Vec::new();
        Broadcast { call, rate, video, seq: 0, clock: u32::MAX - 90_000, newest: None, reports, read: (0, 0), started }
    }

    fn now(&self) -> u64 {
        self.call.rig.now.mono.as_millis() - self.started
    }

    fn ticks(&self, millis: i64) -> u32 {
        (millis * i64::from(self.rate) / 1_000) as u32
    }

    /// `media`: packets are sent. `stands`: the clock does not go on. `reported`: the lead of the reports' RTP time.
    fn run(&mut self, span: u64, media: bool, stands: bool, reported: impl Fn(u64) -> i64) {
        let end = self.now() + span;
        while self.now() < end {
            if !stands {
                self.clock = self.clock.wrapping_add(self.ticks(20));
            }
            if self.now().is_multiple_of(1_000) {
                let rtp = self.clock.wrapping_add(self.ticks(reported(self.now())));
                let ntp = self.call.rig.now.wall.offset_nanos(-5_000_000_000);
                let mut report = Vec::new();
                RtcpWriter::new(&mut report).sender_report(Ssrc(PUBLISHED), ntp, rtp, 1, 1, &[]);
                assert!(self.call.rig.clients[self.call.publisher].peer.send_rtcp(report));
            }
            if media {
                let first = self.seq == 0;
                let payload: &[u8] = match (self.video, first) {
                    (true, true) => &[0x10, 0, 0, 0, 0x9d, 0x01, 0x2a, 1],
                    (true, false) => &[0x10, 1, 2],
                    (false, _) => &[0xf8, 1, 2],
                };
                self.seq += 1;
                let (seq, timestamp) = (self.seq, self.clock);
                let packet = Rtp { seq, timestamp, payload, ..Rtp::default() }.bytes();
                assert!(self.call.rig.clients[self.call.publisher].peer.send_rtp(&packet));
            }
            let sent = self.call.rig.now;
            self.call.rig.run(millis(20));
            self.look(sent);
        }
    }

    /// Reads the packets and reports since the last check, packets of `sent` first.
    fn look(&mut self, sent: Now) {
        let client = &self.call.rig.clients[self.call.viewer];
        if let Some(newest) = client.rtp[self.read.0..].last() {
            self.newest = Some((sent, Heard::read(newest).timestamp));
        }
        let mut found = Vec::new();
        for (at, compound) in &client.rtcp[self.read.1..] {
            for packet in rtcp::parse(compound).flatten() {
                if let Rtcp::SenderReport(report) = packet {
                    assert_eq!(report.ssrc, Ssrc(CONSUMED));
                    let (then, timestamp) = self.newest.expect("no report before the first packet");
                    let passed = report.ntp.nanos_since(then.wall) / 1_000_000;
                    assert!((0..25_000).contains(&passed), "our own clock: {passed}");
                    let expected = timestamp.wrapping_add(self.ticks(passed));
                    let off =
                        i64::from(report.rtp_timestamp.wrapping_sub(expected) as i32) * 1_000 / i64::from(self.rate);
                    found.push((at.as_millis() - self.started, off));
                }
            }
        }
        self.read = (client.rtp.len(), client.rtcp.len());
        self.reports.extend(found);
    }

    /// How many reports came within this span, all of which agreed with their packets.
    fn good(&self, span: std::ops::Range<u64>) -> usize {
        let within: Vec<_> = self.reports.iter().filter(|(at, _)| span.contains(at)).collect();
        assert!(within.iter().all(|(_, off)| off.abs() <= 200), "{within:?}");
        within.len()
    }
}

fn both() -> [(ProducerSpec, ConsumerSpec); 2] {
    [opus(), (producer_spec(PUBLISHED), consumer_spec(CONSUMED))]
}

/// `replaceTrack(null)`, or a mute that stops the clock: reports go on, and their RTP time goes on or stands as well.
#[test]
fn a_clock_that_stands_for_ten_seconds_takes_no_report_along() {
    for shards in [1, 2] {
        for specs in both() {
            for (pauses, counts_on) in [(false, true), (true, true), (false, false), (true, false)] {
                let mut cast = Broadcast::new(shards, specs.clone());
                let audio = !cast.video;
                cast.run(10_000, true, false, |_| 0);
                let producer = weirgate::base::id::ProducerId(1);
                if pauses {
                    cast.call.rig.command(0, Command::PauseProducer { producer });
                }
                let stopped = cast.now() as i64;
                cast.run(10_000, false, true, |at| if counts_on { at as i64 - stopped } else { 0 });
                if pauses {
                    cast.call.rig.command(0, Command::ResumeProducer { producer });
                    if cast.video {
                        // The key frame that whoever resumes is asked for.
                        let asked = cast.call.plis();
                        cast.call.rig.run(millis(5));
                        assert!(cast.call.plis() > asked);
                        let seq = cast.seq + 1;
                        (cast.seq, cast.clock) = (seq, cast.clock.wrapping_add(1_800));
                        let key = &[0x10, 0, 0, 0, 0x9d, 0x01, 0x2a, 1][..];
                        let packet = Rtp { seq, timestamp: cast.clock, payload: key, ..Rtp::default() };
                        cast.call.send(packet);
                        let sent = cast.call.rig.now;
                        cast.call.rig.run(millis(15));
                        cast.look(sent);
                    }
                }
                cast.run(12_000, true, false, |_| 0);
                let case = format!("{shards} shards, audio {audio}, paused {pauses}, counted on {counts_on}");
                let few = if audio { 1 } else { 7 };
                assert!(cast.good(0..10_000) >= few, "{case}: {:?}", cast.reports);
                assert!(cast.good(10_000..20_000) <= 1, "{case}: nothing is sent: {:?}", cast.reports);
                assert_eq!(cast.good(11_300..20_000), 0, "{case}: {:?}", cast.reports);
                assert!(cast.good(20_000..33_000) >= few, "{case}: {:?}", cast.reports);
            }
        }
    }
}

#[test]
fn a_clock_that_jumps_or_drifts_is_followed_and_reports_that_never_fit_are_not_believed() {
    for specs in both() {
        let few = if specs.0.clock_rate == 90_000 { 7 } else { 1 };
        for jump in [700, -500, 60_000, -60_000] {
            let mut cast = Broadcast::new(1, specs.clone());
            cast.run(10_500, true, false, |_| 0);
            cast.clock = cast.clock.wrapping_add(cast.ticks(jump));
            cast.run(10_000, true, false, |_| 0);
            assert!(cast.good(0..10_500) >= few && cast.good(10_500..21_000) >= few, "{jump}: {:?}", cast.reports);
        }
        // Two per cent too slow, and told so each second.
        let mut cast = Broadcast::new(1, specs.clone());
        for _ in 0..500 {
            cast.run(20, true, false, |_| 0);
            cast.clock = cast.clock.wrapping_sub(cast.ticks(20) / 50);
        }
        assert!(cast.good(0..11_000) >= few, "{:?}", cast.reports);
        // Reports about another clock altogether.
        let mut cast = Broadcast::new(1, specs.clone());
        cast.run(15_000, true, false, |_| 7_000_000);
        assert!(cast.good(0..16_000) >= 1, "{:?}", cast.reports);
    }
}
