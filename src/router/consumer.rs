//! The sending side for one receiver of one source: what it agreed to, where its numbering stands, what it was sent.

use crate::base::id::{ConsumerId, ProducerId};
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
    /// It has asked for its first keyframe; that one is never rate limited away.
    pub asked: bool,
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

/// The last retransmissions, so that one burst of repeated NACKs does not become a flood.
pub struct Resent {
    recent: [(Seq, Instant); Resent::MEMORY],
    next: usize,
}

impl Default for Resent {
    fn default() -> Self {
        Resent { recent: [(Seq(0), Instant::ZERO); Resent::MEMORY], next: 0 }
    }
}

impl Resent {
    const MEMORY: usize = 32;

    /// True when `seq` may be resent now, and then remembers it.
    pub fn admit(&mut self, now: Instant, seq: Seq, interval: Duration) -> bool {
        if self.recent.iter().any(|(sent, at)| *sent == seq && *at != Instant::ZERO && now.since(*at) < interval) {
            return false;
        }
        self.recent[self.next] = (seq, now);
        self.next = (self.next + 1) % Self::MEMORY;
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
}
