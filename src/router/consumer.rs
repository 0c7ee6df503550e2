//! The sending side of one consumer: its negotiated stream, its numbering, its record of sent packets.

use std::mem::offset_of;

use crate::base::id::{ConsumerId, Layers, ProducerId};
use crate::base::limits::RESENT_BURST_MAX;
use crate::base::prefetch::LINE;
use crate::base::seq::Seq;
use crate::base::slab::{Key, SLOT_HEAD, Slab};
use crate::base::time::{Duration, Instant};
use crate::media::encoding_choice::Allowance;
use crate::media::rewrite::Rewriter;
use crate::media::sampled::Sampled;
use crate::router::keys::{OfConsumer, SourceKey};
use crate::router::layered::Layered;
use crate::transport::Transport;
use crate::transport::outgoing::Outgoing;
use crate::wire::codec::Codec;

/// The consumers of a shard.
pub type Consumers = Slab<Consumer, OfConsumer>;

/// In the order of use: a packet needs the first lines of this, up to the rewriter's.
#[repr(C)]
pub struct Consumer {
    pub transport: Key<Transport>,
    /// Its stream in that transport: headers, numbering of RTX, record of sent packets.
    pub outgoing: Key<Outgoing>,
    pub flow: Flow,
    /// None: the producer has one stream without layers.
    pub layered: Option<Box<Layered>>,
    pub resent: Resent,
    pub rewriter: Rewriter,
    pub id: ConsumerId,
    pub producer: ProducerId,
    pub source: SourceKey,
    pub codec: Codec,
    pub nack: bool,
    /// Paused by the client.
    pub paused: bool,
    /// When the consumer was made, or when that last changed.
    pub paused_at: Instant,
    /// Among the consumers of its transport, 1 to 255.
    pub priority: u8,
    /// Since when it is closed, waits, or is open, whatever is attached.
    pub flow_since: Instant,
    /// The allocation of its transport's bandwidth.
    pub allowance: Allowance,
    /// When it first opened: its first keyframe was requested then, and that request is never rate limited.
    pub opened: Option<Instant>,
    /// Apart, because the hot loop has no use for it.
    pub reports: Box<Reports>,
    pub rate: Sampled,
}

/// Two lines.
const _: () = assert!(SLOT_HEAD + Consumer::HOT <= 2 * LINE);

/// Whether packets pass, and if not, the reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// Paused, or its transport or producer is not up.
    Closed,
    /// Video waits for a keyframe to start with.
    KeyFrame,
    /// Attached to this encoding and this epoch of it.
    Open { encoding: u8, epoch: u32 },
}

/// The receiver's reports and requests.
#[derive(Default)]
pub struct Reports {
    pub nacks: u64,
    pub nacked_packets: u64,
    pub plis: u64,
    pub firs: u64,
    pub packets_lost: i64,
    pub fraction_lost: f64,
    pub round_trip: Option<Duration>,
    /// In ticks of the stream's clock.
    pub jitter: u32,
    highest: Option<u32>,
    /// When a report last acknowledged packets that the one before had not.
    pub advanced_at: Option<Instant>,
    /// When it resumed after its reports had stood still, or with a keyframe that it had requested.
    pub recovered_at: Option<Instant>,
    /// It requested a keyframe, and none has come for it since.
    asked_at: Option<Instant>,
    /// Packets that had been sent at its last sender report.
    pub packets_told: u64,
}

impl Reports {
    /// A PLI or FIR came, and `keyframe` is the start of the last keyframe.
    pub fn asks(&mut self, now: Instant, keyframe: Option<Instant>) {
        if self.asked_at.is_none() || self.answered(keyframe).is_some() {
            self.asked_at = Some(now);
        }
    }

    /// Since when it waits for a requested keyframe. Unknown where keyframes cannot be told from other packets (an
    /// encrypted payload).
    pub fn waits_for(&self, keyframe: Option<Instant>) -> Option<Instant> {
        self.asked_at.filter(|asked| keyframe.is_some_and(|at| at < *asked))
    }

    /// When the keyframe came that it last requested.
    pub fn answered(&self, keyframe: Option<Instant>) -> Option<Instant> {
        keyframe.filter(|at| self.asked_at.is_some_and(|asked| *at >= asked))
    }

    /// A report came. `stood_still`: long enough that somebody may have been told.
    pub fn on_highest(&mut self, now: Instant, highest: u32, keyframe: Option<Instant>, stood_still: bool) {
        if let Some(answered) = self.answered(keyframe) {
            self.recovered_at = self.recovered_at.max(Some(answered));
            self.asked_at = None;
        }
        if self.highest != Some(highest) {
            self.highest = Some(highest);
            self.advanced_at = Some(now);
            if stood_still {
                self.recovered_at = Some(now);
            }
        }
    }
}

impl Consumer {
    /// The length, from its beginning, that a packet needs.
    pub const HOT: usize = offset_of!(Consumer, rewriter) + Rewriter::HOT;

    pub fn set_paused(&mut self, now: Instant, paused: bool) {
        if self.paused != paused {
            (self.paused, self.paused_at) = (paused, now);
        }
    }

    pub fn set_flow(&mut self, now: Instant, flow: Flow) {
        if std::mem::discriminant(&self.flow) != std::mem::discriminant(&flow) {
            self.flow_since = now;
        }
        self.flow = flow;
    }

    /// Starts over with a keyframe of whichever encoding suits then.
    pub fn begin_anew(&mut self, now: Instant) {
        self.set_flow(now, Flow::KeyFrame);
        if let Some(layered) = &mut self.layered {
            layered.release();
        }
    }

    /// The encoding that flows.
    pub fn attached(&self) -> Option<u8> {
        match self.flow {
            Flow::Open { encoding, .. } => Some(encoding),
            Flow::Closed | Flow::KeyFrame => None,
        }
    }

    pub fn waits_for_key_frame(&self) -> bool {
        self.flow == Flow::KeyFrame && self.codec.is_video()
    }

    pub fn is_attached_to(&self, encoding: u8) -> bool {
        matches!(self.flow, Flow::Open { encoding: attached, .. } if attached == encoding)
    }

    /// True when it became paused by its producer, or ceased to be: the shard then opens or closes it.
    pub fn set_allowance(&mut self, allowance: Allowance) -> bool {
        let before = std::mem::replace(&mut self.allowance, allowance);
        if let Some(layered) = &mut self.layered {
            layered.set_allowed(allowance.limit());
        }
        (before == Allowance::Paused) != (allowance == Allowance::Paused)
    }

    pub fn set_preferred(&mut self, layers: Layers) {
        if let Some(layered) = &mut self.layered {
            layered.set_preferred(layers, self.allowance.limit());
        }
    }

    /// The layers that flow; None: none do.
    pub fn current(&self) -> Option<Layers> {
        self.attached().map(|_| self.layered.as_ref().map_or(Layers::default(), |layered| layered.current()))
    }

    /// The time that a retransmission is given before the same packet is resent.
    pub fn resend_interval(&self) -> Duration {
        self.reports.round_trip.unwrap_or(Duration::from_millis(30)).max(Duration::from_millis(5))
    }
}

/// The retransmission budget of a receiver. A NACK of a few bytes can name thousands of packets, and costs its sender
/// nothing to repeat: each packet is resent at most once a round trip, and over time no more is resent than was sent.
#[derive(Default)]
#[repr(C)]
pub struct Resent {
    /// Earned by packets sent since, less retransmissions.
    spent: u32,
    /// When each of the newest numbers was resent, by its low bits, from the first NACK on.
    recent: Option<Box<[(Seq, Instant); Resent::MEMORY]>>,
}

impl Resent {
    const MEMORY: usize = 256;

    /// A media packet was sent: one more may be resent.
    pub fn earn(&mut self) {
        self.spent = self.spent.saturating_sub(1);
    }

    /// True when `seq` may be resent now; records it then.
    pub fn admit(&mut self, now: Instant, seq: Seq, interval: Duration) -> bool {
        if self.spent >= RESENT_BURST_MAX {
            return false;
        }
        let recent = self.recent.get_or_insert_with(|| Box::new([(Seq(0), Instant::ZERO); Self::MEMORY]));
        let (known, at) = &mut recent[usize::from(seq.0) % Self::MEMORY];
        if *known == seq && *at != Instant::ZERO && now.since(*at) < interval {
            return false;
        }
        (*known, *at) = (seq, now);
        self.spent += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_packet_is_not_resent_within_a_round_trip() {
        let mut resent = Resent::default();
        let rtt = Duration::from_millis(50);
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        assert!(resent.admit(at(1), Seq(7), rtt));
        assert!(!resent.admit(at(20), Seq(7), rtt));
        assert!(resent.admit(at(20), Seq(8), rtt));
        assert!(resent.admit(at(60), Seq(7), rtt));
    }

    #[test]
    fn a_flood_of_requests_gets_no_more_than_was_sent() {
        let mut resent = Resent::default();
        let mut count = 0;
        for ms in 1..=1_000 {
            let now = Instant::from_nanos(ms * 1_000_000);
            // One packet out, the whole history requested, each millisecond.
            resent.earn();
            count += (0..1_024).filter(|seq| resent.admit(now, Seq(*seq), Duration::from_millis(5))).count();
        }
        assert!((1_000..=1_000 + RESENT_BURST_MAX as usize).contains(&count), "{count}");
    }
}
