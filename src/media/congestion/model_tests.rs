//! The whole estimator on a model of a path: a bottleneck with a queue, delay, loss and jitter, feedback each 100 ms that
//! can be lost too. Where a bound is that of libwebrtc's tests it says so; the others are our own.

use std::collections::VecDeque;

use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::sent_log::SentLog;
use super::*;
use crate::base::id::Ssrc;
use crate::wire::feedback::Feedback;
use crate::wire::rtcp::{self, Rtcp};
use crate::wire::transport_cc::FeedbackBuilder;

const PACKET: usize = 1_200;
const PROBE_PACKET: usize = 300;
const FEEDBACK_MS: u64 = 100;

fn at(millis: u64) -> Instant {
    Instant::from_nanos(millis * 1_000_000)
}

#[derive(Clone, Copy)]
struct Path {
    kbps: u64,
    delay_ms: u64,
    queue_ms: u64,
    loss: f64,
    jitter_ms: u64,
    feedback_loss: f64,
}

const PATH: Path = Path { kbps: 1_000, delay_ms: 50, queue_ms: 1_000, loss: 0.0, jitter_ms: 0, feedback_loss: 0.0 };

struct Flow {
    congestion: Congestion,
    log: SentLog,
    /// What it can send: the highest of these that the target allows, or the target itself up to the last.
    layers: &'static [u64],
    credit: f64,
    probe: Option<(Cluster, f64, u64)>,
    arrived: Vec<(u16, u64)>,
    base: u16,
    feedback: VecDeque<(u64, Vec<u8>)>,
    feedback_count: u8,
    /// Of the packets that arrived.
    bytes: u64,
    queued_ms_max: u64,
}

impl Flow {
    fn new(layers: &'static [u64]) -> Flow {
        let mut congestion = Congestion::default();
        congestion.set_wanted(Bitrate::kbps(*layers.last().expect("one at least")));
        Flow {
            congestion,
            log: SentLog::default(),
            layers,
            credit: 0.0,
            probe: None,
            arrived: Vec::new(),
            base: 0,
            feedback: VecDeque::new(),
            feedback_count: 0,
            bytes: 0,
            queued_ms_max: 0,
        }
    }

    fn target_kbps(&self) -> u64 {
        self.congestion.estimate().bps() / 1_000
    }

    fn sends_kbps(&self) -> u64 {
        match self.layers {
            [max] => self.target_kbps().min(*max),
            layers => layers.iter().rev().find(|layer| **layer <= self.target_kbps()).copied().unwrap_or(layers[0]),
        }
    }

    /// What leaves in this millisecond: length and probe of each.
    fn sends(&mut self, now: u64) -> Vec<(usize, u8)> {
        let mut packets = Vec::new();
        self.congestion.on_silence(at(now), &self.log);
        self.credit += self.sends_kbps() as f64 / 8.0;
        while self.credit >= PACKET as f64 {
            self.credit -= PACKET as f64;
            packets.push((PACKET, 0));
        }
        if self.probe.is_none() && self.log.next_seq() > 0 {
            self.probe = self.congestion.poll_probe(at(now)).map(|cluster| (cluster, 0.0, 0));
        }
        if let Some((cluster, credit, sent)) = &mut self.probe {
            *credit += cluster.rate.bps() as f64 / 8_000.0;
            while *credit > 0.0 {
                *credit -= PROBE_PACKET as f64;
                *sent += PROBE_PACKET as u64;
                packets.push((PROBE_PACKET, cluster.id));
            }
            if *sent >= cluster.bytes.bytes() + PROBE_PACKET as u64 {
                self.probe = None;
            }
        }
        packets
    }

    fn report(&mut self, now: u64, path: &Path, rng: &mut SmallRng) {
        // What came too late for its own feedback is told in the next.
        self.arrived.sort_unstable_by_key(|(seq, _)| seq.wrapping_sub(self.base.wrapping_sub(1_000)));
        let Some((oldest, _)) = self.arrived.first() else { return };
        if oldest.wrapping_sub(self.base) > 1 << 15 {
            self.base = *oldest;
        }
        let mut bytes = Vec::new();
        let builder = FeedbackBuilder {
            sender: Ssrc(1),
            media: Ssrc(2),
            base_seq: self.base,
            feedback_count: self.feedback_count,
        };
        let taken = builder.write(self.arrived.iter().map(|(seq, at)| (*seq, Some(*at))), &mut bytes);
        assert_eq!(taken, self.arrived.len());
        self.feedback_count = self.feedback_count.wrapping_add(1);
        self.base = self.arrived.last().map_or(self.base, |(seq, _)| seq.wrapping_add(1));
        self.arrived.clear();
        if !rng.random_bool(path.feedback_loss) {
            self.feedback.push_back((now + path.delay_ms, bytes));
        }
    }

    fn hear(&mut self, now: u64) {
        while let Some((_, bytes)) = self.feedback.pop_front_if(|(due, _)| *due <= now) {
            let Some(Ok(Rtcp::Feedback(Feedback::TransportCc(feedback)))) = rtcp::parse(&bytes).next() else {
                panic!("feedback was written")
            };
            self.congestion.on_feedback(at(now), &mut self.log, &feedback);
        }
    }
}

struct Model {
    now: u64,
    path: Path,
    flows: Vec<Flow>,
    /// When the wire is free, in µs.
    free_at: u64,
    /// (arrival in µs, flow, number, bytes), in order of arrival but for jitter.
    flying: Vec<(u64, usize, u16, usize)>,
    rng: SmallRng,
}

impl Model {
    fn new(path: Path, flows: &[&'static [u64]]) -> Model {
        let flows = flows.iter().map(|layers| Flow::new(layers)).collect();
        Model { now: 1_000, path, flows, free_at: 0, flying: Vec::new(), rng: SmallRng::seed_from_u64(7) }
    }

    fn run(&mut self, seconds: u64) {
        for flow in &mut self.flows {
            (flow.bytes, flow.queued_ms_max) = (0, 0);
        }
        for _ in 0..seconds * 1_000 {
            self.step();
        }
    }

    fn step(&mut self) {
        self.now += 1;
        let now_us = self.now * 1_000;
        for at_flow in 0..self.flows.len() {
            self.flows[at_flow].hear(self.now);
            for (bytes, cluster) in self.flows[at_flow].sends(self.now) {
                let seq = self.flows[at_flow].log.next_seq();
                self.flows[at_flow].log.sent(at(self.now), bytes, cluster);
                let start = self.free_at.max(now_us);
                let lost = self.rng.random_bool(self.path.loss);
                let jitter = self.rng.random_range(0..=self.path.jitter_ms * 1_000);
                if start - now_us > self.path.queue_ms * 1_000 {
                    continue;
                }
                self.free_at = start + bytes as u64 * 8_000 / self.path.kbps;
                let queued = (self.free_at - now_us) / 1_000;
                self.flows[at_flow].queued_ms_max = self.flows[at_flow].queued_ms_max.max(queued);
                if !lost {
                    self.flying.push((self.free_at + self.path.delay_ms * 1_000 + jitter, at_flow, seq, bytes));
                }
            }
        }
        let flows = &mut self.flows;
        self.flying.retain(|(arrival, flow, seq, bytes)| {
            let here = *arrival <= now_us;
            if here {
                flows[*flow].arrived.push((*seq, *arrival));
                flows[*flow].bytes += *bytes as u64;
            }
            !here
        });
        if self.now.is_multiple_of(FEEDBACK_MS) {
            for flow in &mut self.flows {
                flow.report(self.now, &self.path, &mut self.rng);
            }
        }
    }

    fn target(&self) -> u64 {
        self.flows[0].target_kbps()
    }

    /// What arrived of the first flow over the last run.
    fn throughput(&self, seconds: u64) -> u64 {
        self.flows[0].bytes * 8 / seconds / 1_000
    }
}

#[test]
fn the_target_follows_the_capacity_of_the_link() {
    // libwebrtc, UpdatesTargetRateBasedOnLinkCapacity: 500 kbit/s for 25 s: 450 ± 100; 800 for 20 s: 750 ± 150; 100 and
    // twice the delay for 50 s: 90 ± 25. Its encoder stops at 1500.
    let mut model = Model::new(Path { kbps: 500, delay_ms: 100, ..PATH }, &[&[1_500]]);
    model.run(25);
    assert!((350..=550).contains(&model.target()), "{}", model.target());
    model.path.kbps = 800;
    model.run(20);
    assert!((600..=900).contains(&model.target()), "{}", model.target());
    (model.path.kbps, model.path.delay_ms) = (100, 200);
    model.run(50);
    assert!((65..=115).contains(&model.target()), "{}", model.target());
}

#[test]
fn a_layered_sender_finds_capacity_steps_within_seconds() {
    // (capacity, seconds, target from, to): down within 3 s, up again within 15 although far less is sent than would fit.
    let steps = [
        (2_500, 5, 2_000, 3_300),
        (1_000, 3, 600, 1_100),
        (300, 3, 150, 340),
        (2_500, 15, 1_800, 3_300),
        (60, 6, 30, 80),
    ];
    let mut model = Model::new(PATH, &[&[40, 190, 740, 2_300]]);
    for (kbps, seconds, from, to) in steps {
        model.path.kbps = kbps;
        model.run(seconds);
        assert!((from..=to).contains(&model.target()), "{} after {seconds} s at {kbps}", model.target());
    }
}

#[test]
fn a_steady_link_is_used_and_its_queue_stays_short() {
    for kbps in [500, 1_000, 2_000] {
        let mut model = Model::new(Path { kbps, ..PATH }, &[&[10_000]]);
        model.run(20);
        model.run(40);
        let used = model.throughput(40) * 100 / kbps;
        let queued = model.flows[0].queued_ms_max;
        assert!(used >= 75 && queued <= 250, "{used} % of {kbps} with {queued} ms");
    }
}

#[test]
fn two_flows_share_a_link() {
    // By Jain's index.
    let mut model = Model::new(Path { kbps: 2_000, ..PATH }, &[&[5_000], &[5_000]]);
    model.run(60);
    model.run(60);
    let [a, b] = [0, 1].map(|at: usize| model.flows[at].bytes as f64);
    let fairness = (a + b) * (a + b) / (2.0 * (a * a + b * b));
    assert!(fairness > 0.9, "{fairness}: {a} {b}");
    assert!((a + b) * 8.0 / 60.0 > 1_400e3, "and they use it: {}", (a + b) * 8.0 / 60e3);
}

#[test]
fn random_loss_does_not_starve() {
    // The draft holds its rate up to 10 %, and would go down from there without end.
    for (loss, least) in [(0.02, 800), (0.05, 800), (0.10, 500)] {
        let mut model = Model::new(Path { kbps: 2_000, loss, ..PATH }, &[&[1_000]]);
        model.run(30);
        model.run(30);
        assert!(model.target() >= least, "{} at {loss}", model.target());
    }
}

#[test]
fn a_queue_too_short_to_be_felt_is_noticed_by_its_loss() {
    let mut model = Model::new(Path { kbps: 500, queue_ms: 20, ..PATH }, &[&[3_000]]);
    model.run(30);
    model.run(10);
    let used = model.throughput(10);
    assert!(used > 350 && model.target() < 700, "{used} of 500, allowed {}", model.target());
}

#[test]
fn jitter_is_not_taken_for_congestion() {
    for jitter_ms in [5, 20] {
        let mut model = Model::new(Path { kbps: 3_000, jitter_ms, ..PATH }, &[&[1_000]]);
        model.run(20);
        model.run(20);
        assert!(model.target() >= 700, "{} with {jitter_ms} ms", model.target());
    }
}

#[test]
fn lost_feedback_is_lived_with() {
    let mut model = Model::new(Path { kbps: 1_000, feedback_loss: 0.2, ..PATH }, &[&[5_000]]);
    model.run(30);
    model.run(20);
    assert!((600..=1_150).contains(&model.target()), "{}", model.target());
    assert!(model.throughput(20) > 600);
}

#[test]
fn silence_takes_the_rate_to_the_floor_and_feedback_brings_it_back() {
    // libwebrtc, CongestionWindowPushbackOnNetworkDelay: under 40 kbit/s after 3 s without any feedback.
    let mut model = Model::new(PATH, &[&[900]]);
    model.run(10);
    model.path.feedback_loss = 1.0;
    model.run(3);
    assert!(model.target() < 40, "{}", model.target());
    model.path.feedback_loss = 0.0;
    model.run(15);
    assert!(model.target() >= 700, "{}", model.target());
}

#[test]
fn nothing_is_known_without_feedback_and_remb_counts_where_there_is_no_other() {
    let mut congestion = Congestion::default();
    assert_eq!(congestion.target(), None);
    congestion.on_remb(Bitrate::kbps(450));
    assert_eq!(congestion.target(), Some(Bitrate::kbps(450)));
    congestion.set_max(Some(Bitrate::kbps(200)));
    assert_eq!((congestion.target(), congestion.max()), (Some(Bitrate::kbps(200)), Some(Bitrate::kbps(200))));
    let mut model = Model::new(PATH, &[&[900]]);
    model.flows[0].congestion.on_remb(Bitrate::kbps(100));
    model.run(3);
    assert_eq!(model.flows[0].congestion.target(), None, "transport-cc knows better");
    assert!(model.flows[0].congestion.available() > Some(Bitrate::kbps(500)));
    model.flows[0].congestion.set_max(Some(Bitrate::kbps(250)));
    model.run(3);
    assert_eq!(model.target(), 250);
}
