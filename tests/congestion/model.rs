//! A model of a path: flows that obey `media::congestion`, and a TCP if need be, share a bottleneck with a queue, and
//! behind it delay, loss and jitter; feedback every 100 ms, which can be lost too; both machines may stall.

use std::collections::VecDeque;

use rand::{Rng, SeedableRng, rngs::SmallRng};
use weirgate::base::id::Ssrc;
use weirgate::base::time::Instant;
use weirgate::base::units::Bitrate;
use weirgate::media::congestion::sent_log::{Purpose, SentLog, StreamTag};
use weirgate::media::congestion::{Cluster, Congestion, START};
use weirgate::wire::feedback::Feedback;
use weirgate::wire::rtcp::{self, Rtcp};
use weirgate::wire::transport_cc::FeedbackBuilder;

const PACKET: usize = 1_200;
const STREAM: StreamTag = StreamTag { place: 0, acknowledged: true };
const PROBE_PACKET: usize = 300;
const FEEDBACK_MS: u64 = 100;
/// The pacing factor, in percent of the target.
const PACE: u64 = 250;

fn at(millis: u64) -> Instant {
    Instant::from_nanos(millis * 1_000_000)
}

#[derive(Clone, Copy)]
pub(crate) struct Path {
    pub(crate) kbps: u64,
    pub(crate) delay_ms: u64,
    pub(crate) queue_ms: u64,
    pub(crate) loss: f64,
    pub(crate) jitter_ms: u64,
    pub(crate) feedback_loss: f64,
}

pub(crate) const PATH: Path =
    Path { kbps: 1_000, delay_ms: 50, queue_ms: 1_000, loss: 0.0, jitter_ms: 0, feedback_loss: 0.0 };

/// The length and the interval of a machine's stalls, in ms.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stalls {
    pub(crate) every: u64,
    pub(crate) length: u64,
    /// The time afterwards for each packet that waits to be received.
    pub(crate) catch_up_us: u64,
}

impl Default for Stalls {
    fn default() -> Stalls {
        Stalls { every: 0, length: 0, catch_up_us: 20 }
    }
}

impl Stalls {
    fn hold(self, now: u64) -> bool {
        self.length > 0 && now % self.every < self.length
    }
}

/// The source of a flow.
#[derive(Clone, Copy)]
pub(crate) enum Source {
    /// An encoder that follows the target up to this rate, without frames.
    Smooth(u64),
    /// The highest of these rates that the target allows.
    Layers(&'static [u64]),
    /// The same as pictures, with one in so many that is so much larger.
    Pictures { layers: &'static [u64], per_second: u64, key_every: u64, key_size: u64 },
}

impl Source {
    fn max(self) -> u64 {
        match self {
            Source::Smooth(max) => max,
            Source::Layers(layers) | Source::Pictures { layers, .. } => *layers.last().expect("one at least"),
        }
    }
}

pub(crate) struct Flow {
    pub(crate) congestion: Congestion,
    log: SentLog,
    source: Source,
    /// In ms from the beginning.
    starts: u64,
    credit: f64,
    pictures: u64,
    /// Packets that the pacer holds, and its budget.
    held: u64,
    pace: f64,
    probe: Option<(Cluster, f64, u64)>,
    arrived: Vec<(u16, u64)>,
    base: u16,
    feedback: VecDeque<(u64, Vec<u8>)>,
    feedback_count: u8,
    /// Counts of the packets that arrived.
    pub(crate) bytes: u64,
    pub(crate) queued_ms_max: u64,
    /// The lowest that was ever allowed while something bounded it.
    pub(crate) target_min: Option<u64>,
}

impl Flow {
    fn new(source: Source, starts: u64) -> Flow {
        let mut congestion = Congestion::default();
        congestion.set_wanted(Bitrate::kbps(source.max()));
        Flow {
            congestion,
            log: SentLog::default(),
            source,
            starts,
            credit: 0.0,
            pictures: 0,
            held: 0,
            pace: 0.0,
            probe: None,
            arrived: Vec::new(),
            base: 0,
            feedback: VecDeque::new(),
            feedback_count: 0,
            bytes: 0,
            queued_ms_max: 0,
            target_min: None,
        }
    }

    pub(crate) fn target_kbps(&self) -> u64 {
        self.congestion.available().unwrap_or(START).bps() / 1_000
    }

    fn sends_kbps(&self) -> u64 {
        let fits = |layers: &[u64]| {
            layers.iter().rev().find(|layer| **layer <= self.target_kbps()).copied().unwrap_or(layers[0])
        };
        match self.source {
            Source::Smooth(max) => self.target_kbps().min(max),
            Source::Layers(layers) => fits(layers),
            // Nothing is held back before the path has shown a bound.
            Source::Pictures { layers, .. } if self.congestion.target().is_none() => layers[layers.len() - 1],
            Source::Pictures { layers, .. } => fits(layers),
        }
    }

    /// The packets of media to send in this millisecond, whatever the pacer says.
    fn encode(&mut self, now: u64) -> u64 {
        let kbps = self.sends_kbps();
        match self.source {
            Source::Smooth(_) | Source::Layers(_) => self.credit += kbps as f64 / 8.0,
            Source::Pictures { per_second, key_every, key_size, .. } => {
                if (now - self.starts) * per_second / 1_000 < self.pictures {
                    return 0;
                }
                // The large ones are part of the rate.
                let usual =
                    kbps as f64 * 125.0 / per_second as f64 * key_every as f64 / (key_every + key_size - 1) as f64;
                let key = self.pictures.is_multiple_of(key_every);
                self.credit += if key { usual * key_size as f64 } else { usual };
                self.pictures += 1;
            }
        }
        let packets = (self.credit / PACKET as f64) as u64;
        self.credit -= (packets * PACKET as u64) as f64;
        packets
    }

    /// The packets that leave in this millisecond: length and probe of each.
    fn sends(&mut self, now: u64, stalled: bool) -> Vec<(usize, u8)> {
        let mut packets = Vec::new();
        if now < self.starts {
            return packets;
        }
        self.held += self.encode(now);
        if stalled {
            return packets;
        }
        self.congestion.on_silence(at(now), &mut self.log);
        let paced = matches!(self.source, Source::Pictures { .. });
        self.pace += self.target_kbps() as f64 / 8.0 * PACE as f64 / 100.0;
        while self.held > 0 && (!paced || self.congestion.target().is_none() || self.pace > 0.0) {
            self.held -= 1;
            self.pace -= PACKET as f64;
            packets.push((PACKET, 0));
        }
        self.pace = self.pace.clamp(-2.0 * PACKET as f64, PACKET as f64);
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
        // Packets too late for their own feedback are covered by the next.
        self.arrived.sort_unstable_by_key(|(seq, _)| seq.wrapping_sub(self.base.wrapping_sub(1_000)));
        let Some((oldest, _)) = self.arrived.first() else { return };
        if oldest.wrapping_sub(self.base) > 1 << 15 {
            self.base = *oldest;
        }
        let mut told = 0;
        while told < self.arrived.len() {
            let mut bytes = Vec::new();
            let (sender, media, feedback_count) = (Ssrc(1), Ssrc(2), self.feedback_count);
            let builder = FeedbackBuilder { sender, media, base_seq: self.base, feedback_count };
            told += builder.write(self.arrived[told..].iter().map(|(seq, at)| (*seq, Some(*at))), &mut bytes);
            self.feedback_count = self.feedback_count.wrapping_add(1);
            self.base = self.arrived[told - 1].0.wrapping_add(1);
            if !rng.random_bool(path.feedback_loss) {
                self.feedback.push_back((now + path.delay_ms, bytes));
            }
        }
        self.arrived.clear();
    }

    fn hear(&mut self, now: u64) {
        while let Some((_, bytes)) = self.feedback.pop_front_if(|(due, _)| *due <= now) {
            let Some(Ok(Rtcp::Feedback(Feedback::TransportCc(feedback)))) = rtcp::parse(&bytes).next() else {
                panic!("feedback was written")
            };
            self.congestion.on_feedback(at(now), &mut self.log, &feedback);
            let target = self.congestion.target().map(|target| target.bps() / 1_000);
            self.target_min = [self.target_min, target].into_iter().flatten().min();
        }
    }
}

/// A download: half as fast after a loss, a packet a round trip faster without (RFC 5681), from slow start on.
struct Tcp {
    from: u64,
    until: u64,
    window: f64,
    slow_start: bool,
    under_way: u64,
    /// The times of acknowledgements in µs, each with whether it tells of a loss; in order.
    acks: VecDeque<(u64, bool)>,
    halved_at: u64,
}

impl Tcp {
    fn hear(&mut self, now_us: u64, round_trip_us: u64) {
        while let Some((_, lost)) = self.acks.pop_front_if(|(due, _)| *due <= now_us) {
            self.under_way -= 1;
            if !lost {
                self.window += if self.slow_start { 1.0 } else { 1.0 / self.window };
            } else if now_us - self.halved_at > round_trip_us {
                (self.window, self.slow_start, self.halved_at) = ((self.window / 2.0).max(1.0), false, now_us);
            }
        }
    }

    fn may_send(&self, now: u64) -> bool {
        (self.from..self.until).contains(&now) && (self.under_way as f64) < self.window
    }
}

pub(crate) struct Model {
    /// In ms.
    pub(crate) now: u64,
    pub(crate) path: Path,
    pub(crate) flows: Vec<Flow>,
    pub(crate) sender_stalls: Stalls,
    pub(crate) receiver_stalls: Stalls,
    tcp: Vec<Tcp>,
    /// When the receiver has time for the next packet, in µs.
    read_at: u64,
    /// When the wire is free, in µs.
    free_at: u64,
    /// (arrival in µs, flow, number, bytes), in order of arrival but for jitter.
    flying: Vec<(u64, usize, u16, usize)>,
    rng: SmallRng,
}

impl Model {
    pub(crate) fn new(path: Path, sources: &[Source]) -> Model {
        let mut model = Model {
            now: 1_000,
            path,
            flows: Vec::new(),
            sender_stalls: Stalls::default(),
            receiver_stalls: Stalls::default(),
            tcp: Vec::new(),
            read_at: 0,
            free_at: 0,
            flying: Vec::new(),
            rng: SmallRng::seed_from_u64(7),
        };
        sources.iter().for_each(|source| model.join(*source));
        model
    }

    /// One more flow, from now on.
    pub(crate) fn join(&mut self, source: Source) {
        self.flows.push(Flow::new(source, self.now));
    }

    /// One more download, from now on for so many seconds.
    pub(crate) fn download(&mut self, seconds: u64) {
        let (from, until) = (self.now, self.now + seconds * 1_000);
        let acks = VecDeque::new();
        self.tcp.push(Tcp { from, until, window: 10.0, slow_start: true, under_way: 0, acks, halved_at: 0 });
    }

    pub(crate) fn run(&mut self, seconds: u64) {
        for flow in &mut self.flows {
            (flow.bytes, flow.queued_ms_max) = (0, 0);
        }
        for _ in 0..seconds * 1_000 {
            self.step();
        }
    }

    /// Through the bottleneck: the arrival, in µs.
    fn cross(&mut self, now_us: u64, bytes: usize) -> Option<u64> {
        let start = self.free_at.max(now_us);
        let lost = self.rng.random_bool(self.path.loss);
        let jitter = self.rng.random_range(0..=self.path.jitter_ms * 1_000);
        if start - now_us > self.path.queue_ms * 1_000 {
            return None;
        }
        self.free_at = start + bytes as u64 * 8_000 / self.path.kbps;
        (!lost).then(|| self.free_at + self.path.delay_ms * 1_000 + jitter)
    }

    fn step(&mut self) {
        self.now += 1;
        let (now, now_us) = (self.now, self.now * 1_000);
        let stalled = self.sender_stalls.hold(now);
        for at_flow in 0..self.flows.len() {
            if !stalled {
                self.flows[at_flow].hear(now);
            }
            for (bytes, cluster) in self.flows[at_flow].sends(now, stalled) {
                let seq = self.flows[at_flow].log.next_seq();
                let purpose = if cluster == 0 { Purpose::Video } else { Purpose::Probe(cluster) };
                self.flows[at_flow].log.sent(at(now), bytes, purpose, STREAM);
                let arrival = self.cross(now_us, bytes);
                let queued = (self.free_at.saturating_sub(now_us)) / 1_000;
                self.flows[at_flow].queued_ms_max = self.flows[at_flow].queued_ms_max.max(queued);
                self.flying.extend(arrival.map(|arrival| (arrival, at_flow, seq, bytes)));
            }
        }
        for at_tcp in 0..self.tcp.len() {
            let back = self.path.delay_ms * 1_000;
            self.tcp[at_tcp].hear(now_us, 2 * back);
            while self.tcp[at_tcp].may_send(now) {
                let arrival = self.cross(now_us, PACKET);
                // A loss is known by the packets after it.
                let due = arrival.unwrap_or(self.free_at + back) + back;
                let due = self.tcp[at_tcp].acks.back().map_or(due, |(last, _)| due.max(*last));
                self.tcp[at_tcp].acks.push_back((due, arrival.is_none()));
                self.tcp[at_tcp].under_way += 1;
            }
        }
        self.arrive(now_us);
    }

    fn arrive(&mut self, now_us: u64) {
        let stalls = self.receiver_stalls;
        if stalls.hold(self.now) {
            return;
        }
        if stalls.hold(self.now - 1) {
            self.read_at = now_us;
        }
        let flows = &mut self.flows;
        let read_at = &mut self.read_at;
        self.flying.retain(|(arrival, flow, seq, bytes)| {
            let read = (*arrival).max(*read_at);
            let here = *arrival <= now_us && read < now_us + 1_000;
            if here {
                if read > *arrival {
                    *read_at = read + stalls.catch_up_us;
                }
                flows[*flow].arrived.push((*seq, read));
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

    pub(crate) fn target(&self) -> u64 {
        self.flows[0].target_kbps()
    }

    /// The packets of the first flow that arrived in the last run.
    pub(crate) fn throughput(&self, seconds: u64) -> u64 {
        self.flows[0].bytes * 8 / seconds / 1_000
    }
}
