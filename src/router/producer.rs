//! The receiving side of one producer: the reception state of its streams. Packets themselves go to its `source`.

use crate::base::id::{PeerId, ProducerId, Ssrc};
use crate::base::limits::SILENCE_MAX;
use crate::base::slab::{Key, Slab};
use crate::base::time::{Duration, Instant};
use crate::media::loudness::Loudness;
use crate::router::keys::{OfProducer, SourceKey};
use crate::router::spec::ProducerSpec;
use crate::router::stream::Stream;
use crate::transport::Transport;

/// The producers of a shard.
pub type Producers = Slab<Producer, OfProducer>;

pub struct Producer {
    pub id: ProducerId,
    pub peer: PeerId,
    /// Known from signalling, or once its packets arrive.
    pub transport: Option<Key<Transport>>,
    pub bound: bool,
    pub spec: Box<ProducerSpec>,
    pub paused: bool,
    pub source: SourceKey,
    /// One per encoding, in the order of the spec.
    pub streams: Vec<Stream>,
    pub presence: Presence,
    /// While signalling listens to it.
    pub loudness: Option<Box<Loudness>>,
}

/// Whether a packet came lately; silent producers are not offered to clients that ask for "any".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    /// Counts from its creation until the first packet, from the last packet after that.
    Present {
        since: Instant,
    },
    Silent,
}

impl Producer {
    pub fn new(
        now: Instant,
        id: ProducerId,
        peer: PeerId,
        transport: Option<Key<Transport>>,
        spec: Box<ProducerSpec>,
        paused: bool,
        source: SourceKey,
    ) -> Producer {
        let streams = spec
            .encodings
            .iter()
            .map(|encoding| Stream::new(encoding.ssrc, encoding.rtx_ssrc, spec.clock_rate))
            .collect();
        let presence = Presence::Present { since: now };
        Producer { id, peer, transport, bound: false, spec, paused, source, streams, presence, loudness: None }
    }

    /// The SSRC that signalling named for a stream, or for its retransmissions.
    pub fn declared(&self, stream: u8, rtx: bool) -> Option<Ssrc> {
        let encoding = self.spec.encodings.get(usize::from(stream))?;
        if rtx { encoding.rtx_ssrc } else { encoding.ssrc }
    }

    /// A packet came; true when the producer was silent until now.
    pub fn heard(&mut self, now: Instant) -> bool {
        let was_silent = self.presence == Presence::Silent;
        self.presence = Presence::Present { since: now };
        was_silent
    }

    /// True when it has just become silent: nothing for [`SILENCE_MAX`], or BYE on every stream.
    pub fn falls_silent(&mut self, now: Instant) -> bool {
        let Presence::Present { since } = self.presence else { return false };
        let silent = now.since(since) >= SILENCE_MAX || self.streams.iter().all(|stream| stream.said_bye);
        if silent {
            self.presence = Presence::Silent;
        }
        silent
    }

    /// When to ask [`Producer::falls_silent`] if no packet comes.
    pub fn silence_deadline(&self) -> Option<Instant> {
        match self.presence {
            Presence::Present { since } => Some(since + SILENCE_MAX),
            Presence::Silent => None,
        }
    }

    /// An ordinary link, until its round trip is measured.
    pub const ROUND_TRIP_DEFAULT: Duration = Duration::from_millis(100);
}
