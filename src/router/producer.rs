//! The receiving side of one producer: the reception state of its streams. Packets themselves go to its `source`.

use crate::base::id::{PeerId, ProducerId, Ssrc};
use crate::base::limits::SILENCE_MAX;
use crate::base::slab::{Key, Slab};
use crate::base::time::{Duration, Instant};
use crate::media::loudness::Loudness;
use crate::media::nack::NackGenerator;
use crate::media::receive::Receiver;
use crate::media::sampled::Sampled;
use crate::router::keys::{OfProducer, SourceKey};
use crate::router::spec::ProducerSpec;
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

/// One encoding as it arrives.
pub struct Stream {
    pub ssrc: Option<Ssrc>,
    pub rtx_ssrc: Option<Ssrc>,
    pub receiver: Receiver,
    pub nack: NackGenerator,
    pub bytes: u64,
    pub packets: u64,
    pub nacks_sent: u64,
    pub plis_sent: u64,
    pub firs_sent: u64,
    pub fir_sequence: u8,
    pub key_frames: u64,
    pub repaired: u64,
    /// Packets that came as retransmissions, needed or not.
    pub retransmitted: u64,
    /// Repeated, or impossible to place.
    pub discarded: u64,
    pub nacked_packets: u64,
    /// Pictures whose last packet came; none for audio.
    pub frames: u64,
    /// The fraction last reported to the publisher, in 1/256.
    pub fraction_lost: u8,
    pub rate: Sampled,
    pub frame_rate: Sampled,
    pub said_bye: bool,
}

impl Stream {
    pub fn look_at_rates(&mut self, now: Instant) {
        self.rate.look(now, self.bytes);
        self.frame_rate.look(now, self.frames);
    }
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
            .map(|encoding| Stream {
                ssrc: encoding.ssrc,
                rtx_ssrc: encoding.rtx_ssrc,
                receiver: Receiver::new(spec.clock_rate),
                nack: NackGenerator::default(),
                bytes: 0,
                packets: 0,
                nacks_sent: 0,
                plis_sent: 0,
                firs_sent: 0,
                fir_sequence: 0,
                key_frames: 0,
                repaired: 0,
                retransmitted: 0,
                discarded: 0,
                nacked_packets: 0,
                frames: 0,
                fraction_lost: 0,
                rate: Sampled::default(),
                frame_rate: Sampled::default(),
                said_bye: false,
            })
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
