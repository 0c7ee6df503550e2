//! The estimator of one transport through a history that bytes choose: streams, paths, true and invented feedback,
//! closings, leaps of time. Then the path has no bound any more, and all that is wanted must flow within five seconds.
//! Fuzzing and the tests of drawn states call it; it panics at what must never be.

use std::collections::VecDeque;

use crate::base::id::{Layers, Ssrc};
use crate::base::time::{Duration, Instant};
use crate::base::units::Bitrate;
use crate::media::allocation::Demand;
use crate::media::congestion::sent_log::{Purpose, SentLog, StreamTag};
use crate::media::congestion::{Cluster, FLOOR};
use crate::transport::bandwidth::Bandwidth;
use crate::wire::feedback::Feedback;
use crate::wire::rtcp::{self, Rtcp};
use crate::wire::transport_cc::FeedbackBuilder;

/// All that is wanted flows within this time, once the path has no bound.
pub const HEALS_WITHIN: Duration = Duration::from_secs(5);
/// All of it goes on flowing for this time.
const STAYS_FOR: Duration = Duration::from_secs(2);
const STEP: Duration = Duration::from_millis(2);
const FEEDBACK_EVERY: Duration = Duration::from_millis(100);
/// A transport is looked at this often in any case, because its reports are due.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Deadlines in the past are met this much later, as in `shard`.
const LOOK_GAP: Duration = Duration::from_millis(5);
/// Looks caused by deadlines alone, a second.
const LOOKS_MAX: u64 = 60;
const AUDIO_EVERY: Duration = Duration::from_millis(20);
const AUDIO_BYTES: usize = 100;
const VIDEO_BYTES: usize = 1_100;
const PADDING_BYTES: usize = 290;
const QUEUE_MAX: Duration = Duration::from_millis(250);
/// A receiver's first report, which acknowledges a stream.
const ACKNOWLEDGED_AFTER: Duration = Duration::from_secs(1);
/// Histories end here at the latest.
const OPERATIONS_MAX: usize = 24;
const AUDIO: u16 = 0;

const LADDERS: [&[u64]; 4] = [&[700], &[150, 500, 1_500], &[100, 300], &[60, 190, 740, 3_000]];
const CAPACITIES: [Option<u64>; 8] = [None, Some(0), Some(30), Some(90), Some(300), Some(800), Some(2_000), None];
const DELAYS: [u64; 4] = [5, 20, 60, 100];
const LOSSES: [u64; 4] = [0, 5, 20, 60];

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn up_to(&mut self, count: usize) -> usize {
        usize::from(self.next().unwrap_or(0)) % count
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken.to_vec()
    }
}

#[derive(Clone, Copy)]
struct PathModel {
    kbps: Option<u64>,
    delay: Duration,
    /// In percent.
    loss: u64,
    feedback: bool,
}

/// The video that is watched.
#[derive(Clone, Copy)]
struct Video {
    place: u16,
    paused: bool,
    granted: Option<usize>,
    acknowledged_at: Option<Instant>,
    credit: f64,
}

struct Probe {
    cluster: Cluster,
    since: Instant,
    bytes: u64,
    packets: u32,
}

struct Rig {
    now: Instant,
    bandwidth: Bandwidth,
    log: SentLog,
    ladder: &'static [u64],
    audio_numbered: bool,
    /// Padding can be sent.
    rtx: bool,
    video: Option<Video>,
    next_place: u16,
    probe: Option<Probe>,
    path: PathModel,
    free_at: Instant,
    flying: VecDeque<(Instant, u16, u16)>,
    arrived: Vec<(u16, Instant)>,
    feedback: VecDeque<(Instant, Vec<u8>)>,
    feedback_at: Instant,
    audio_at: Instant,
    looked_at: Instant,
    looks: u64,
    drawn: u64,
}

/// The outcome: how long it took until all flowed.
pub fn run(bytes: &[u8]) -> Duration {
    let mut bytes = Bytes(bytes);
    let mut rig = Rig::new(&mut bytes);
    for _ in 0..OPERATIONS_MAX {
        let Some(operation) = bytes.next() else { break };
        rig.operate(operation, &mut bytes);
    }
    rig.heal()
}

fn millis(millis: usize) -> Duration {
    Duration::from_millis(millis as u64)
}

impl Rig {
    fn new(bytes: &mut Bytes<'_>) -> Rig {
        let kind = bytes.next().unwrap_or(0);
        let path = PathModel { kbps: None, delay: Duration::from_millis(20), loss: 0, feedback: true };
        let start = Instant::ZERO + Duration::from_secs(1);
        let mut rig = Rig {
            now: start,
            bandwidth: Bandwidth::default(),
            log: SentLog::default(),
            ladder: LADDERS[usize::from(kind) % LADDERS.len()],
            audio_numbered: kind & 16 == 0,
            rtx: kind & 32 == 0,
            video: None,
            next_place: 1,
            probe: None,
            path,
            free_at: start,
            flying: VecDeque::new(),
            arrived: Vec::new(),
            feedback: VecDeque::new(),
            feedback_at: start,
            audio_at: start,
            looked_at: start,
            looks: 0,
            drawn: u64::from(kind) + 1,
        };
        rig.open();
        rig
    }

    fn operate(&mut self, operation: u8, bytes: &mut Bytes<'_>) {
        match operation % 12 {
            0..=2 => self.pass(millis(bytes.up_to(256) * 8)),
            3 => self.path.kbps = CAPACITIES[bytes.up_to(CAPACITIES.len())],
            4 => self.path.loss = LOSSES[bytes.up_to(LOSSES.len())],
            5 => self.path.delay = Duration::from_millis(DELAYS[bytes.up_to(DELAYS.len())]),
            6 => self.path.feedback = bytes.up_to(3) > 0,
            7 => self.lie(bytes),
            8 => self.invent(bytes),
            9 => {
                let kbps = bytes.up_to(256) as u64 * 8;
                if bytes.up_to(2) == 0 {
                    self.bandwidth.congestion.on_remb(self.now, Bitrate::kbps(kbps));
                } else {
                    self.bandwidth.congestion.set_max((kbps > 0).then(|| Bitrate::kbps(kbps)));
                }
                self.look();
            }
            // A machine slept.
            10 => self.now = self.now + Duration::from_secs(1 << bytes.up_to(13)),
            _ => match (bytes.up_to(4), &mut self.video) {
                (0, Some(video)) => video.paused = !video.paused,
                (1, Some(video)) => {
                    self.log.stream_ended(video.place);
                    self.video = None;
                    self.look();
                }
                (_, None) => self.open(),
                // The route changes.
                (_, Some(_)) => {
                    self.path.delay = Duration::from_millis(DELAYS[bytes.up_to(DELAYS.len())]);
                    self.look();
                }
            },
        }
    }

    fn open(&mut self) {
        let place = self.next_place;
        self.next_place = place % 4 + 1;
        self.video = Some(Video { place, paused: false, granted: None, acknowledged_at: None, credit: 0.0 });
        self.share();
    }

    /// Well-formed feedback of any packets.
    fn lie(&mut self, bytes: &mut Bytes<'_>) {
        let back = bytes.up_to(256) as u16;
        let base_seq = self.log.next_seq().wrapping_sub(back);
        let step = bytes.up_to(256) as u64 * 250;
        let mut at = u64::from(bytes.next().unwrap_or(0)) << bytes.up_to(24) << 8;
        let missing = bytes.next().unwrap_or(0);
        let packets = (0..back).map(|nth| {
            at += step;
            (base_seq.wrapping_add(nth), (missing >> (nth % 8) & 1 == 0).then_some(at))
        });
        let mut packet = Vec::new();
        let builder = FeedbackBuilder { sender: Ssrc(1), media: Ssrc(2), base_seq, feedback_count: 0 };
        builder.write(packets.collect::<Vec<_>>(), &mut packet);
        self.hear(&packet);
    }

    /// Feedback whose chunks and deltas are any bytes.
    fn invent(&mut self, bytes: &mut Bytes<'_>) {
        let base = self.log.next_seq().wrapping_sub(bytes.up_to(256) as u16);
        let length = 8 + bytes.up_to(64);
        let mut body = [&[0, 0, 0, 1, 0, 0, 0, 2], &base.to_be_bytes()[..], &bytes.take(length)].concat();
        body.resize((body.len().max(16)).next_multiple_of(4), 0);
        let words = (body.len() / 4) as u16;
        self.hear(&[&[0x8F, 205], &words.to_be_bytes()[..], &body].concat());
    }

    fn hear(&mut self, packet: &[u8]) {
        if let Some(Ok(Rtcp::Feedback(Feedback::TransportCc(feedback)))) = rtcp::parse(packet).next() {
            self.bandwidth.congestion.on_feedback(self.now, &mut self.log, &feedback);
            self.look();
        }
    }

    fn pass(&mut self, span: Duration) {
        let until = self.now + span;
        while self.now < until {
            self.step();
        }
    }

    fn step(&mut self) {
        self.now = self.now + STEP;
        while let Some((_, seq, _)) = self.flying.pop_front_if(|(at, ..)| *at <= self.now) {
            self.arrived.push((seq, self.now));
        }
        if self.now >= self.feedback_at {
            self.feedback_at = self.now + FEEDBACK_EVERY;
            self.report();
        }
        while let Some((_, packet)) = self.feedback.pop_front_if(|(at, _)| *at <= self.now) {
            self.hear(&packet);
        }
        let due = self.bandwidth.deadline(&self.log).map(|at| at.max(self.looked_at + LOOK_GAP));
        if due.is_some_and(|at| at <= self.now) || self.now >= self.looked_at + LOOK_EVERY {
            self.looks += 1;
            self.bandwidth.congestion.on_silence(self.now, &mut self.log);
            self.look();
        }
        self.send();
        self.check();
    }

    fn report(&mut self) {
        let arrived = std::mem::take(&mut self.arrived);
        let mut rest = &arrived[..];
        while let Some(&(base_seq, _)) = rest.first() {
            let mut packet = Vec::new();
            let builder = FeedbackBuilder { sender: Ssrc(1), media: Ssrc(2), base_seq, feedback_count: 0 };
            let taken = builder.write(rest.iter().map(|(seq, at)| (*seq, Some(at.as_micros()))), &mut packet);
            rest = &rest[taken.max(1)..];
            if self.path.feedback {
                self.feedback.push_back((self.now + self.path.delay, packet));
            }
        }
    }

    fn demands(&self) -> Vec<Demand> {
        let Some(video) = self.video.filter(|video| !video.paused) else { return Vec::new() };
        let layers =
            |(spatial, kbps): (usize, &u64)| (Layers { spatial: spatial as u8, temporal: 0 }, Bitrate::kbps(*kbps));
        let ladder = self.ladder.iter().enumerate().map(layers).collect();
        vec![Demand { audio: false, priority: 1, ladder, granted: video.granted }]
    }

    /// The steps of `shard` with feedback, and at deadlines.
    fn look(&mut self) {
        self.looked_at = self.now;
        if self.bandwidth.is_due(self.now) {
            self.share();
        }
        if self.bandwidth.congestion.target().is_none() {
            return;
        }
        let Some(cluster) = self.bandwidth.congestion.poll_probe(self.now) else { return };
        if self.rtx && self.video.is_some() {
            self.probe = Some(Probe { cluster, since: self.now, bytes: 0, packets: 0 });
        } else {
            if self.bandwidth.congestion.try_without_probe(self.now) {
                self.share();
            }
        }
    }

    fn share(&mut self) {
        let mut demands = self.demands();
        self.bandwidth.share(self.now, &mut demands);
        if let (Some(video), Some(demand)) = (&mut self.video, demands.first()) {
            video.granted = demand.granted;
        }
    }

    fn send(&mut self) {
        if self.audio_numbered && self.now >= self.audio_at {
            self.audio_at = self.now + AUDIO_EVERY;
            self.send_one(AUDIO_BYTES, Purpose::Audio, AUDIO);
        }
        let Some(mut video) = self.video else { return };
        if let (Some(granted), false) = (video.granted, video.paused) {
            video.credit += self.ladder[granted] as f64 / 8.0 * STEP.as_secs_f64() * 1e3;
            while video.credit > 0.0 {
                video.credit -= VIDEO_BYTES as f64;
                self.send_one(VIDEO_BYTES, Purpose::Video, video.place);
            }
        }
        self.video = Some(Video { acknowledged_at: self.video.and_then(|video| video.acknowledged_at), ..video });
        let Some(mut probe) = self.probe.take() else { return };
        while probe.bytes <= (probe.cluster.rate * self.now.since(probe.since)).bytes() {
            if probe.bytes > probe.cluster.bytes.bytes() && probe.packets > probe.cluster.packets {
                return;
            }
            (probe.bytes, probe.packets) = (probe.bytes + PADDING_BYTES as u64, probe.packets + 1);
            self.send_one(PADDING_BYTES, Purpose::Probe(probe.cluster.id), video.place);
        }
        self.probe = Some(probe);
    }

    fn send_one(&mut self, bytes: usize, purpose: Purpose, place: u16) {
        let acknowledged_at = self.video.filter(|video| video.place == place).and_then(|video| video.acknowledged_at);
        let stream = StreamTag { place, acknowledged: acknowledged_at.is_some_and(|at| at <= self.now) };
        let seq = self.log.next_seq();
        self.log.sent(self.now, bytes, purpose, stream);
        let Some(arrival) = self.cross(bytes) else { return };
        self.flying.push_back((arrival.max(self.flying.back().map_or(arrival, |last| last.0)), seq, place));
        if let Some(video) = self.video.as_mut().filter(|video| video.place == place) {
            video.acknowledged_at.get_or_insert(arrival + ACKNOWLEDGED_AFTER);
        }
    }

    /// The arrival, if there is one.
    fn cross(&mut self, bytes: usize) -> Option<Instant> {
        // Knuth's generator: good enough for choosing lost packets.
        self.drawn = self.drawn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut leaves = self.now;
        if let Some(kbps) = self.path.kbps {
            let start = self.free_at.max(self.now);
            if kbps == 0 || start.since(self.now) > QUEUE_MAX {
                return None;
            }
            leaves = start + Duration::from_micros(bytes as u64 * 8_000 / kbps);
            self.free_at = leaves;
        }
        ((self.drawn >> 33) % 100 >= self.path.loss).then(|| leaves + self.path.delay)
    }

    fn check(&self) {
        let congestion = &self.bandwidth.congestion;
        for rate in [congestion.target(), congestion.available()].into_iter().flatten() {
            let max = congestion.max().unwrap_or(Bitrate::mbps(100));
            assert!(rate >= FLOOR.min(max) && rate <= max, "{rate:?} is not between {FLOOR:?} and {max:?}");
        }
    }

    fn flows(&self) -> bool {
        self.video.is_some_and(|video| video.granted == Some(self.ladder.len() - 1))
    }

    fn heal(&mut self) -> Duration {
        self.path = PathModel { kbps: None, loss: 0, feedback: true, ..self.path };
        self.bandwidth.congestion.set_max(None);
        match &mut self.video {
            Some(video) => video.paused = false,
            None => self.open(),
        }
        self.share();
        let (start, looks) = (self.now, self.looks);
        let mut took = None;
        while self.now < start + HEALS_WITHIN + STAYS_FOR {
            self.step();
            if took.is_none() && self.flows() {
                took = Some(self.now.since(start));
            }
            let late = self.now.since(start) > HEALS_WITHIN;
            assert!(!late || self.flows(), "after {:?}: {:?}", self.now.since(start), self.bandwidth.congestion);
        }
        let looks = self.looks - looks;
        assert!(looks <= LOOKS_MAX * (HEALS_WITHIN + STAYS_FOR).as_secs(), "{looks} looks at it");
        took.expect("it flows")
    }
}
