//! What consumers attach to on one shard: the decrypted packets of a producer, whether it lives here or is relayed from
//! another shard. Not the receiving side (`producer`), not the sending side (`consumer`).

use crate::base::id::{ProducerId, ShardId};
use crate::base::seq::{ExtSeq, timestamp_ahead};
use crate::base::slab::{Key, Slab};
use crate::base::time::{Duration, Instant, Now};
use crate::base::units::Bitrate;
use crate::media::history::{History, HistoryBounds, Stored};
use crate::media::keyframe::KeyframeAuthority;
use crate::media::layers::{ActiveSet, Layers};
use crate::media::rate::LayerRates;
use crate::media::report::SenderClock;
use crate::router::consumer::Consumer;
use crate::router::forward::Packet;
use crate::router::producer::Producer;
use crate::router::spec::MediaKind;
use crate::transport::egress::{PacketStore, StoredAt};
use crate::wire::codec::Codec;

pub enum Origin {
    Local(Key<Producer>),
    /// Its home is another shard; packets come over the mesh.
    Relay(ShardId),
}

pub struct Source {
    pub producer: ProducerId,
    pub origin: Origin,
    pub kind: MediaKind,
    pub codec: Codec,
    pub clock_rate: u32,
    pub paused: bool,
    /// When it was made, or when that last changed.
    pub paused_at: Instant,
    /// Beyond the last N of its channel: no packet gets as far as its history.
    pub withheld: bool,
    pub encodings: Vec<EncodingSource>,
    pub active: ActiveSet,
    /// In the order they joined.
    pub consumers: Vec<Key<Consumer>>,
    /// Other shards that have consumers of it; only a local source has any.
    pub relays: Vec<ShardId>,
    /// When the home of a relayed source was last asked for a keyframe.
    pub asked_home: Option<Instant>,
}

/// One encoding's packets on this shard.
pub struct EncodingSource {
    pub history: History,
    pub keyframes: KeyframeAuthority,
    pub clock: SenderClock,
    pub pace: FramePace,
    pub rates: LayerRates,
    /// Counts restarts of the stream: a consumer that was attached to another epoch starts anew.
    pub epoch: u32,
    pub newest: Option<ExtSeq>,
}

impl Source {
    pub fn new(
        now: Instant,
        producer: ProducerId,
        origin: Origin,
        kind: MediaKind,
        codec: Codec,
        clock_rate: u32,
        encodings: usize,
    ) -> Source {
        let bounds = if codec.is_video() { HistoryBounds::VIDEO } else { HistoryBounds::AUDIO };
        let encodings = (0..encodings.max(1))
            .map(|_| EncodingSource {
                history: History::new(bounds),
                keyframes: KeyframeAuthority::default(),
                clock: SenderClock::new(clock_rate),
                pace: FramePace::default(),
                rates: LayerRates::default(),
                epoch: 0,
                newest: None,
            })
            .collect::<Vec<_>>();
        let active = ActiveSet::default();
        Source {
            producer,
            origin,
            kind,
            codec,
            clock_rate,
            paused: false,
            paused_at: now,
            withheld: false,
            encodings,
            active,
            consumers: Vec::new(),
            relays: Vec::new(),
            asked_home: None,
        }
    }

    /// The stream of this encoding began anew: consumers attached to the old epoch start again.
    pub fn restart(&mut self, encoding: u8) {
        if let Some(encoding) = self.encodings.get_mut(usize::from(encoding)) {
            encoding.epoch = encoding.epoch.wrapping_add(1);
            encoding.begin_anew();
        }
    }

    /// A relayed packet names its epoch, and may show an encoding for the first time.
    pub fn follow(&mut self, encoding: u8, epoch: u32) {
        if let Some(encoding) = self.encodings.get_mut(usize::from(encoding))
            && encoding.epoch != epoch
        {
            encoding.epoch = epoch;
            encoding.begin_anew();
        }
    }

    /// When it is let through again its consumers go on where they were, as after a restart; but the stream is the same,
    /// and so is what is known of its timing.
    pub fn set_withheld(&mut self, withheld: bool) {
        if std::mem::replace(&mut self.withheld, withheld) && !withheld {
            for encoding in &mut self.encodings {
                encoding.epoch = encoding.epoch.wrapping_add(1);
            }
        }
    }

    /// Takes note of a packet before it is forwarded: activity, keyframes, the newest timestamp.
    pub fn note(&mut self, now: Now, packet: &Packet) {
        self.active.on_packet(now.mono, packet.encoding);
        let Some(encoding) = self.encodings.get_mut(usize::from(packet.encoding)) else { return };
        if packet.info.starts_keyframe {
            encoding.keyframes.on_keyframe(now.mono);
        }
        if encoding.newest.is_none_or(|newest| packet.ext > newest) {
            encoding.newest = Some(packet.ext);
            encoding.clock.on_packet(now.mono, packet.timestamp);
        }
    }

    /// Its encodings that are sent, lowest first, with their rates: what a consumer can be given.
    pub fn ladder(&self, now: Instant) -> Vec<(Layers, Bitrate)> {
        let encodings = self.encodings.iter().zip(0..).map(|(encoding, spatial)| {
            // A whole encoding: bandwidth is shared out by encodings.
            (Layers { spatial, temporal: u8::MAX }, encoding.rates.total(now))
        });
        let mut ladder: Vec<_> = encodings.filter(|(layers, rate)| layers.spatial == 0 || rate.bps() > 0).collect();
        // A lower encoding that is not sent is no alternative to one that is.
        if ladder.len() > 1 && ladder[0].1 == Bitrate(0) {
            ladder.remove(0);
        }
        ladder
    }

    pub fn history_bytes(&self) -> usize {
        self.encodings.iter().map(|encoding| encoding.history.bytes_held()).sum()
    }

    pub fn is_unused(&self) -> bool {
        self.consumers.is_empty() && self.relays.is_empty()
    }
}

impl EncodingSource {
    /// Nothing that was learned of the old stream's timing holds for the new one.
    fn begin_anew(&mut self) {
        self.pace = FramePace::default();
        self.clock.reset();
    }
}

impl PacketStore for Slab<Source> {
    fn stored(&self, at: StoredAt) -> Option<Stored<'_>> {
        let source = self.get(Key::from_parts(at.slot, at.generation))?;
        source.encodings.get(usize::from(at.encoding))?.history.get(at.ext)
    }
}

/// How fast the packets of one frame follow each other: decides whether the next one is worth waiting for.
#[derive(Default)]
pub struct FramePace {
    timestamp: u32,
    last: Option<Instant>,
    gap_ns: u64,
}

impl FramePace {
    /// Call for each packet in order of arrival.
    pub fn on_packet(&mut self, now: Instant, timestamp: u32) {
        if let Some(last) = self.last
            && timestamp == self.timestamp
        {
            let gap = now.since(last).as_nanos().min(20_000_000) as u64;
            self.gap_ns = (self.gap_ns * 7 + gap) / 8;
        }
        if self.last.is_none() || timestamp_ahead(timestamp, self.timestamp) != 0 {
            self.timestamp = timestamp;
        }
        self.last = Some(now);
    }

    /// Whether the next packet of this frame is expected within `bound`.
    pub fn next_within(&self, bound: Duration) -> bool {
        u128::from(self.gap_ns) < bound.as_nanos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_uplink_is_not_waited_for() {
        let mut pace = FramePace::default();
        let bound = Duration::from_millis(1);
        for n in 0..40u64 {
            pace.on_packet(Instant::from_nanos(n * 2_000_000), (n / 20) as u32);
        }
        assert!(!pace.next_within(bound));
        for n in 0..200u64 {
            pace.on_packet(Instant::from_nanos(80_000_000 + n * 20_000), 7);
        }
        assert!(pace.next_within(bound));
    }
}
