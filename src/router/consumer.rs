//! The sending side for one receiver of one source: what it agreed to, where its numbering stands, what it was sent.

use crate::base::id::{ConsumerId, ProducerId};
use crate::base::limits::RESENT_BURST_MAX;
use crate::base::seq::Seq;
use crate::base::slab::Key;
use crate::base::time::{Duration, Instant};
use crate::media::layers::EncodingSelector;
use crate::media::rewrite::Rewriter;
use crate::router::source::Source;
use crate::transport::Transport;
use crate::transport::outgoing::Outgoing;
use crate::wire::codec::Codec;

pub struct Consumer {
    pub id: ConsumerId,
    pub producer: ProducerId,
    pub source: Key<Source>,
    pub transport: Key<Transport>,
    /// Its stream in that transport: headers, numbering of RTX, what has been sent.
    pub outgoing: Key<Outgoing>,
    pub codec: Codec,
    pub nack: bool,
    /// By the client.
    pub paused: bool,
    pub flow: Flow,
    pub selector: EncodingSelector,
    pub rewriter: Rewriter,
    /// When it was open for the first time: its first keyframe was asked for then, and that request never waits for
    /// its turn.
    pub opened: Option<Instant>,
    pub resent: Resent,
    pub reports: Reports,
}

/// Whether packets pass, and if not, what they wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// Paused, or its transport or producer is not up.
    Closed,
    /// Video waits for a keyframe to start with.
    KeyFrame,
    /// Attached to this encoding and this epoch of it.
    Open { encoding: u8, epoch: u32 },
}

/// What the receiver last reported.
#[derive(Default)]
pub struct Reports {
    pub nacks: u64,
    pub plis: u64,
    pub firs: u64,
    pub packets_lost: i64,
    pub fraction_lost: f64,
    pub round_trip: Option<Duration>,
}

impl Consumer {
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

    /// How long a retransmission is given before the same packet is resent.
    pub fn resend_interval(&self) -> Duration {
        self.reports.round_trip.unwrap_or(Duration::from_millis(30)).max(Duration::from_millis(5))
    }
}

/// What a receiver may have resent. A NACK of a few bytes can name thousands of packets, and costs its sender nothing
/// to repeat: each packet is resent at most once a round trip, and over time no more is resent than was sent.
#[derive(Default)]
pub struct Resent {
    /// When each of the newest numbers was resent, by its low bits; empty before the first NACK.
    recent: Vec<(Seq, Instant)>,
    /// Earned by the packets that were sent since, less what was resent.
    spent: u32,
}

impl Resent {
    const MEMORY: usize = 256;

    /// A media packet was sent: one more may be resent.
    pub fn earn(&mut self) {
        self.spent = self.spent.saturating_sub(1);
    }

    /// True when `seq` may be resent now, and then remembers it.
    pub fn admit(&mut self, now: Instant, seq: Seq, interval: Duration) -> bool {
        if self.spent >= RESENT_BURST_MAX {
            return false;
        }
        if self.recent.is_empty() {
            self.recent = vec![(Seq(0), Instant::ZERO); Self::MEMORY];
        }
        let (known, at) = &mut self.recent[usize::from(seq.0) % Self::MEMORY];
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
            // One packet out, the whole history asked for, each millisecond.
            resent.earn();
            count += (0..1_024).filter(|seq| resent.admit(now, Seq(*seq), Duration::from_millis(5))).count();
        }
        assert!((1_000..=1_000 + RESENT_BURST_MAX as usize).contains(&count), "{count}");
    }
}
