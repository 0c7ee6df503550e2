//! Send-side congestion control of one transport: its target rate, from transport-cc feedback
//! (draft-ietf-rmcat-gcc-02), or from REMB where the client speaks nothing else. Pure: `shard` feeds it, `allocation`
//! and `pacer` obey it. Nothing is held back until a queue grows or much is lost: most paths carry all that is sent on
//! them, and one that does not shows it within a second.

mod acknowledged;
mod aimd;
mod delay;
mod loss;
mod probe;
pub mod sent_log;

use crate::base::time::{Duration, Instant};
use crate::base::units::{Bitrate, DataSize};
use crate::wire::transport_cc::TransportCc;
use acknowledged::AcknowledgedRate;
use aimd::Aimd;
use delay::{DelayDetector, Usage};
use loss::LossBound;
pub use probe::Cluster;
use probe::{Measure, Prober};
use sent_log::{Purpose, SentLog, Told};

/// The target until something is known of the path.
pub const START: Bitrate = Bitrate::kbps(600);
/// The least target: audio and a keyframe now and then must pass.
pub const FLOOR: Bitrate = Bitrate::kbps(30);
const CEILING: Bitrate = Bitrate::mbps(100);
/// After this long without a sign of congestion, and with nothing held back, the path counts as wide again.
const RELAXED: Duration = Duration::from_secs(10);
/// While video leaves and feedback is silent for this long beyond the round trip, the estimate is halved, and again.
const SILENCE: Duration = Duration::from_secs(1);
const SILENCE_STEP: Duration = Duration::from_millis(250);
/// Below this percentage of the estimate the sender, not the path, is the limit.
const LIMITED: u64 = 80;
/// After this long without media the last rate says nothing of the present one.
const IDLE: Duration = Duration::from_millis(500);
const ROUND_TRIP_START: Duration = Duration::from_millis(100);
/// Feedback later than this is ignored.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(3);
/// How long after a probe a growing queue may be the probe's own.
const PROBE_DRAINS: Duration = Duration::from_millis(200);
/// After this long without a sign of congestion a path may carry more than all that is sent.
const STEADY: Duration = Duration::from_millis(2_500);
/// And that long where far more is wanted than is allowed: what looked like a bound may have been a change of the
/// route.
const STEADY_FAR_BELOW: Duration = Duration::from_secs(1);
/// Browsers repeat a REMB each second; one that is not repeated expires.
const REMB_LASTS: Duration = Duration::from_secs(3);
/// Where there is no stream to probe with, withheld layers are tried after this long without a sign of congestion.
const TRIAL: Duration = Duration::from_secs(2);
/// The percentage of the estimate from which on a probe has shown that the estimate was low, even if less than it
/// tried.
const PROGRESS: u64 = 120;
/// A path that carries this percentage of what is wanted has room for all of it beyond doubt.
const AMPLE: u64 = 200;
/// A round trip this far beyond the shortest means a queue, and this share of loss means that it overflows.
const CROWDED: Duration = Duration::from_millis(300);
const OVERFLOW: f64 = 0.02;
/// At this share of loss a growing queue is far too short for what is sent.
const FLOODED: f64 = 0.15;

#[derive(Debug)]
pub struct Congestion {
    max: Bitrate,
    delay: DelayDetector,
    acknowledged: AcknowledgedRate,
    aimd: Aimd,
    loss: LossBound,
    prober: Prober,
    measure: Measure,
    remb: Option<(Bitrate, Instant)>,
    /// When transport-cc feedback began.
    heard_since: Option<Instant>,
    /// When feedback last covered anything but probes, and when video.
    media_at: Instant,
    video_at: Instant,
    /// When feedback last covered a probe.
    probed_at: Instant,
    halved_at: Instant,
    /// When the path last showed a bound; None: no bound that matters is known.
    strained_at: Option<Instant>,
    /// The round trip, smoothed and last.
    round_trip: Duration,
    newest_trip: Duration,
    /// The shortest round trip ever, or the one assumed.
    shortest: Option<Duration>,
    told: Told,
}

impl Default for Congestion {
    fn default() -> Congestion {
        Congestion {
            max: CEILING,
            delay: DelayDetector::default(),
            acknowledged: AcknowledgedRate::default(),
            aimd: Aimd::new(START),
            loss: LossBound::default(),
            prober: Prober::default(),
            measure: Measure::default(),
            remb: None,
            heard_since: None,
            media_at: Instant::ZERO,
            video_at: Instant::ZERO,
            probed_at: Instant::ZERO,
            halved_at: Instant::ZERO,
            strained_at: None,
            round_trip: ROUND_TRIP_START,
            newest_trip: ROUND_TRIP_START,
            shortest: None,
            told: Told::default(),
        }
    }
}

impl Congestion {
    /// The client's own bound; None lifts it.
    pub fn set_max(&mut self, max: Option<Bitrate>) {
        self.max = max.map_or(CEILING, |max| max.clamp(FLOOR, CEILING));
        self.aimd.clamp(FLOOR, self.max);
    }

    pub fn max(&self) -> Option<Bitrate> {
        (self.max < CEILING).then_some(self.max)
    }

    /// The rate of all consumers of the transport at their best: decides whether probing is worth it.
    pub fn set_wanted(&mut self, wanted: Bitrate) {
        self.prober.set_wanted(wanted.min(self.max));
    }

    /// Nothing stands between the path and `wanted`, nor would for a while: it carries twice as much.
    pub fn has_ample_room(&self, wanted: Bitrate) -> bool {
        let ample = Bitrate(wanted.bps().saturating_mul(AMPLE) / 100);
        self.max >= wanted && self.estimate() >= ample.min(self.max)
    }

    /// The rate that the path is known to carry; it may carry more.
    pub fn available(&self) -> Option<Bitrate> {
        if self.is_heard() { Some(self.estimate()) } else { self.target() }
    }

    /// All that is wanted is sent. After long enough without congestion nothing needs to be held back.
    pub fn relax(&mut self, now: Instant) {
        self.strained_at = self.strained_at.filter(|at| now.since(*at) < RELAXED);
    }

    /// The target; None as long as nothing bounds it.
    pub fn target(&self) -> Option<Bitrate> {
        let known = if self.strained_at.is_some() {
            Some(self.estimate())
        } else {
            self.remb.filter(|_| self.heard_since.is_none()).map(|(rate, _)| rate)
        };
        match known {
            Some(known) => Some(known.min(self.max)),
            None => self.max(),
        }
    }

    fn estimate(&self) -> Bitrate {
        let rate = self.aimd.rate();
        let rate = self.loss.bound().map_or(rate, |bound| bound.min(rate));
        rate.max(FLOOR).min(self.max)
    }

    /// The client has no transport-cc, or sends REMB besides; REMB counts only in the first case.
    pub fn on_remb(&mut self, now: Instant, rate: Bitrate) {
        self.remb = Some((rate.max(FLOOR), now));
    }

    /// Prefetches what feedback will touch.
    pub fn prefetch(&self) {
        self.delay.prefetch();
    }

    pub fn on_feedback(&mut self, now: Instant, log: &mut SentLog, feedback: &TransportCc<'_>) {
        let mut told = std::mem::take(&mut self.told);
        log.take(now, feedback, &mut told);
        if !told.arrived.is_empty() {
            self.learn(now, &told);
        }
        self.told = told;
    }

    fn learn(&mut self, now: Instant, told: &Told) {
        self.heard_since.get_or_insert(now);
        if let Some(newest) = told.arrived.iter().map(|packet| packet.sent).max() {
            self.newest_trip = now.since(newest).min(ROUND_TRIP_MAX);
            self.round_trip = (self.round_trip * 7 + self.newest_trip) / 8;
            self.shortest = Some(self.shortest.map_or(self.newest_trip, |shortest| shortest.min(self.newest_trip)));
        }
        if told.gap {
            self.acknowledged.on_gap();
        }
        let estimate = self.estimate();
        let limited = self.is_limited(now, estimate);
        let mut probed = None;
        // The capacity measured while the queue grew, which may be much more than the mean sent rate.
        let mut carried = None;
        let mut over = false;
        let lost = told.lost.saturating_sub(told.found);
        let mut bytes = 0;
        for packet in &told.arrived {
            self.delay.on_packet(packet);
            // The detector may see a queue grow and shrink again within one feedback.
            if self.delay.usage() == Usage::Over {
                over = true;
                carried = carried.max(self.delay.carried());
            }
            match packet.purpose {
                Purpose::Audio => self.media_at = now,
                Purpose::Video => (self.media_at, self.video_at) = (now, now),
                Purpose::Probe(_) => self.probed_at = now,
            }
            if let Some((cluster, rate)) = self.measure.on_packet(packet) {
                let more = rate.bps() >= estimate.bps() / 100 * PROGRESS;
                self.prober.on_result(cluster, rate, more && lost == 0 && self.loss.share(now) < OVERFLOW);
                probed = Some(rate);
            } else if !matches!(packet.purpose, Purpose::Probe(_)) {
                self.acknowledged.on_packet(packet, limited);
            }
            bytes += u64::from(packet.bytes);
        }
        // A queue filled by a probe on top of the rest shows that more is carried than is allowed.
        let own =
            over && now.since(self.probed_at) < PROBE_DRAINS && carried.is_some_and(|carried| carried >= estimate);
        let usage = if own { Usage::Under } else { self.delay.usage() };
        over &= !own;
        let rates = self.loss.on_feedback(now, told.arrived.len() as u32, bytes, lost);
        // A full queue grows no more: it loses.
        if self.is_crowded() && self.loss.share(now) > OVERFLOW {
            over = true;
            // A queue would drain now. The delay that stays is the path's.
            self.shortest = self.shortest.map(|shortest| (shortest * 31 + self.round_trip) / 32);
        }
        if !self.is_held_to(now) {
            // Audio alone is sent whatever the target is, and says nothing of a higher rate. A probe does.
            if let Some(measured) = probed.filter(|_| !over) {
                self.raise_to(now, measured);
            }
            return;
        }
        if let Some(rates) = rates {
            self.loss.judge(now, rates, self.round_trip, estimate);
        }
        self.conclude(now, if over { Usage::Over } else { usage }, carried, probed);
        if over || self.loss.is_high(now) {
            self.strained_at = Some(now);
        }
    }

    /// A stream flows that obeys the estimate.
    fn is_held_to(&self, now: Instant) -> bool {
        now.since(self.video_at) < IDLE
    }

    /// A long queue stands on the way.
    fn is_crowded(&self) -> bool {
        let trip = self.round_trip.min(self.newest_trip);
        self.shortest.is_some_and(|shortest| trip > shortest + CROWDED)
    }

    /// The queueing delay of a packet sent now, as far as it is known.
    pub fn queue(&self) -> Duration {
        self.shortest.map_or(Duration::ZERO, |shortest| self.newest_trip.saturating_sub(shortest))
    }

    /// Far less is sent than is allowed.
    fn is_limited(&self, now: Instant, estimate: Bitrate) -> bool {
        self.is_idle(now) || self.acknowledged.rate().is_none_or(|rate| rate.bps() * 100 < estimate.bps() * LIMITED)
    }

    fn is_idle(&self, now: Instant) -> bool {
        now.since(self.media_at) >= IDLE
    }

    /// Whether the client speaks transport-cc.
    pub fn is_heard(&self) -> bool {
        self.heard_since.is_some()
    }

    fn conclude(&mut self, now: Instant, usage: Usage, carried: Option<Bitrate>, probed: Option<Bitrate>) {
        // A queue that overflows within its first few pictures belongs to a path far below the mean rate.
        let acknowledged = match carried {
            Some(carried) if self.loss.share(now) > FLOODED => Some(carried),
            _ => self.acknowledged.rate().max(carried),
        };
        match probed {
            Some(measured) if usage != Usage::Over && measured > self.estimate() => self.raise_to(now, measured),
            _ => {
                if self.aimd.update(now, usage, acknowledged, self.round_trip) {
                    self.prober.on_drop();
                }
                // Before anything was held back, a rate that arrives without a growing queue is carried.
                if self.strained_at.is_none()
                    && usage == Usage::Normal
                    && let Some(arrives) = acknowledged
                {
                    self.aimd.raise_to(arrives);
                }
            }
        }
        self.aimd.clamp(FLOOR, self.max);
    }

    /// A probe has shown that the path carries this rate.
    fn raise_to(&mut self, now: Instant, measured: Bitrate) {
        self.loss.raise_to(measured);
        if measured > self.aimd.rate() {
            self.aimd.set(now, measured);
        }
        self.aimd.clamp(FLOOR, self.max);
    }

    /// The next burst of padding, when one is due.
    pub fn poll_probe(&mut self, now: Instant) -> Option<Cluster> {
        let estimate = self.estimate();
        let heard = now.since(self.halved_at) > SILENCE_STEP * 2;
        // A sender that uses all it is allowed learns from that, and is probed only when no bound has shown for long.
        let rest = if self.prober.is_far_below(estimate) { STEADY_FAR_BELOW } else { STEADY };
        let steady = self.strained_at.is_none_or(|at| now.since(at) >= rest);
        let of_use = steady || self.is_limited(now, estimate);
        let calm =
            of_use && heard && (self.is_idle(now) || self.delay.usage() == Usage::Normal && !self.loss.is_high(now));
        let cluster = self.prober.poll(now, estimate, calm)?;
        if self.is_idle(now) {
            // The last queue has long drained.
            self.delay.begin_anew();
        }
        self.measure.expect(cluster);
        Some(cluster)
    }

    /// When [`Congestion::poll_probe`] or [`Congestion::on_silence`] is due.
    pub fn next_deadline(&self, log: &SentLog) -> Option<Instant> {
        let probe = self.prober.next_deadline(self.estimate());
        [probe, self.silent_at(log)].into_iter().flatten().min()
    }

    /// When the wait for feedback about sent packets becomes too long.
    fn silent_at(&self, log: &SentLog) -> Option<Instant> {
        // The target cannot go lower: probes must ask.
        if self.strained_at.is_some() && self.estimate() <= FLOOR {
            return None;
        }
        let at_least = self.halved_at + SILENCE_STEP;
        log.unanswered_since().map(|since| (since + self.round_trip + SILENCE).max(at_least))
    }

    /// Video leaves and no feedback comes: the path is shut, or so full that nothing passes. True when the target
    /// changed.
    pub fn on_silence(&mut self, now: Instant, log: &mut SentLog) -> bool {
        self.remb.take_if(|(_, at)| now.since(*at) >= REMB_LASTS);
        log.forget_if_paused(now);
        if self.silent_at(log).is_none_or(|at| at > now) {
            return false;
        }
        (self.halved_at, self.strained_at) = (now, Some(now));
        self.prober.on_drop();
        self.aimd.halve(now);
        self.aimd.clamp(FLOOR, self.max);
        true
    }

    /// A probe is due and there is no stream to send one on: withheld layers then show what the path carries. True when
    /// they are to flow now.
    pub fn try_without_probe(&mut self, now: Instant) -> bool {
        let tries = self.strained_at.is_some_and(|at| now.since(at) >= TRIAL);
        self.strained_at.take_if(|_| tries);
        tries
    }

    /// The bytes of `span` at `rate` percent of the target.
    pub fn allowance(&self, span: Duration, percent: u64) -> Option<DataSize> {
        self.target().map(|target| Bitrate(target.bps() / 100 * percent) * span)
    }
}
