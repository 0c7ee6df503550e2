//! The decrypted packets of one producer on one shard, whether the producer lives here or is relayed from another
//! shard; consumers attach to it. Not the receiving side (`producer`), not the sending side (`consumer`).

use crate::base::id::{Layers, ProducerId, ShardId};
use crate::base::limits::ENCODINGS_MAX;
use crate::base::ranking::Ranking;
use crate::base::seq::{ExtSeq, timestamp_ahead};
use crate::base::slab::{Key, Slab};
use crate::base::time::{Duration, Instant, Now};
use crate::base::units::Bitrate;
use crate::media::decode_target::Targets;
use crate::media::encoding_choice::ActiveSet;
use crate::media::history::{History, HistoryBounds, Stored, StoredHeader};
use crate::media::keyframe::KeyframeAuthority;
use crate::media::legibility::Legibility;
use crate::media::ordering::{OrderFound, Ordering};
use crate::media::parameter_sets::ParameterSets;
use crate::media::rate::LayerRates;
use crate::media::report::SenderClock;
use crate::router::keys::{ConsumerKey, LaneSlotKey, OfSource, ProducerKey};
use crate::router::packet::Packet;
use crate::transport::queued::{PacketStore, StoredAt};
use crate::wire::codec::size::pixels;
use crate::wire::codec::{Codec, PayloadInfo};
use crate::wire::dependency_descriptor::{DescribedFrame, Structure, parse_frame, parse_structure};
use crate::wire::lane::LaneHandle;

/// At one frame a second (a shared screen) the next two may have been under way when the keyframe was requested.
const HIDDEN_AFTER_FRAMES: u8 = 4;

pub enum SourceOrigin {
    Local(ProducerKey),
    /// Its home is another shard; packets come over the mesh.
    Relay(ShardId),
    /// Its home is on another node; packets come over a lane.
    Lane,
}

/// The sources of a shard.
pub type Sources = Slab<Source, OfSource>;

pub struct Source {
    pub producer: ProducerId,
    pub origin: SourceOrigin,
    pub codec: Codec,
    pub clock_rate: u32,
    pub paused: bool,
    /// When the source was made, or when that last changed.
    pub paused_at: Instant,
    /// Its consumers are to be opened or closed.
    pub unsettled: bool,
    /// Beyond the last N of its channel: none of its packets reaches its history.
    pub withheld: bool,
    pub encodings: Vec<EncodingSource>,
    /// The highest layers; (0, 0) of a plain stream.
    pub top: Layers,
    /// None of a plain stream.
    pub watched: Option<Box<Watched>>,
    pub active: ActiveSet,
    /// The measured order, where its client does not say which encoding is which; None once that is found.
    pub ordering: Option<Box<Ordering>>,
    /// In the order of joining.
    pub consumers: Vec<ConsumerKey>,
    /// The ends of the mesh that take its packets, such as other shards with consumers of it; a source whose home is
    /// another shard has none.
    pub subscribers: Vec<ShardId>,
    /// Shards of other nodes that take its packets.
    pub exports: Vec<Export>,
    /// When the home of a relayed source was last asked for a keyframe.
    pub asked_home: Option<Instant>,
}

/// A subscription by a shard of another node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Export {
    pub lane: LaneSlotKey,
    pub handle: LaneHandle,
    /// A bit for each encoding that is wanted there.
    pub encodings: u8,
}

/// Who watches a producer that lives here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Elsewhere {
    Shard(ShardId),
    Lane(LaneSlotKey),
}

/// How many of a producer's spatial layers, from the lowest on, are watched.
pub struct Watched {
    /// The count that its owner (of a relayed source: its home) was told.
    pub told: u8,
    pub falls_since: Option<Instant>,
    pub elsewhere: Vec<(Elsewhere, u8)>,
    /// Due to be looked at.
    pub noticed: bool,
}

/// One encoding's packets on this shard.
pub struct EncodingSource {
    pub history: History,
    pub keyframes: KeyframeAuthority,
    pub clock: SenderClock,
    pub pace: FramePace,
    pub rates: LayerRates,
    legibility: Legibility,
    /// Frames begun since a keyframe was requested.
    frames_unanswered: u8,
    /// Counts restarts of the stream: a consumer attached to another epoch starts over.
    pub epoch: u32,
    pub newest: Option<ExtSeq>,
    /// When the hot loop last ran for it.
    pub forwarded_at: Instant,
    /// The first packet of the newest keyframe, and its timestamp.
    pub keyframe: Option<(ExtSeq, u32)>,
    /// The reader of its dependency descriptors; None before the first, and where there are none.
    pub structure: Option<Box<Known>>,
    /// For H.264, once there are any.
    pub parameter_sets: Option<Box<ParameterSets>>,
}

/// The newest template structure of a stream.
pub struct Known {
    structure: Structure,
    pub targets: Targets,
    from: ExtSeq,
}

impl Source {
    pub fn new(
        now: Instant,
        producer: ProducerId,
        origin: SourceOrigin,
        codec: Codec,
        clock_rate: u32,
        encodings: usize,
        top: Layers,
    ) -> Source {
        let bounds = if codec.is_video() { HistoryBounds::VIDEO } else { HistoryBounds::AUDIO };
        let encodings = (0..encodings.max(1))
            .map(|_| EncodingSource {
                history: History::new(bounds),
                keyframes: KeyframeAuthority::default(),
                clock: SenderClock::new(clock_rate),
                pace: FramePace::default(),
                rates: LayerRates::default(),
                legibility: Legibility::default(),
                frames_unanswered: 0,
                epoch: 0,
                newest: None,
                forwarded_at: Instant::ZERO,
                keyframe: None,
                structure: None,
                parameter_sets: None,
            })
            .collect::<Vec<_>>();
        let active = ActiveSet::default();
        let watched = Watched { told: 0, falls_since: None, elsewhere: Vec::new(), noticed: false };
        Source {
            producer,
            origin,
            codec,
            clock_rate,
            paused: false,
            paused_at: now,
            unsettled: false,
            withheld: false,
            encodings,
            top,
            watched: (top.spatial > 0).then(|| Box::new(watched)),
            active,
            ordering: None,
            consumers: Vec::new(),
            subscribers: Vec::new(),
            exports: Vec::new(),
            asked_home: None,
        }
    }

    /// The stream of this encoding restarted: consumers attached to the old epoch start over.
    pub fn restart(&mut self, encoding: u8) {
        if let Some(encoding) = self.encodings.get_mut(usize::from(encoding)) {
            encoding.epoch = encoding.epoch.wrapping_add(1);
            encoding.begin_anew();
        }
    }

    /// Takes a relayed packet, which names its epoch and may be the first of an encoding.
    pub fn follow(&mut self, encoding: u8, epoch: u32) {
        if let Some(encoding) = self.encodings.get_mut(usize::from(encoding))
            && encoding.epoch != epoch
        {
            encoding.epoch = epoch;
            encoding.begin_anew();
        }
    }

    /// Lets it through again: its consumers go on where they were, as after a restart; but the stream is the same, and
    /// so is its timing.
    pub fn set_withheld(&mut self, withheld: bool) {
        if std::mem::replace(&mut self.withheld, withheld) && !withheld {
            for encoding in &mut self.encodings {
                encoding.epoch = encoding.epoch.wrapping_add(1);
            }
        }
    }

    /// Notes a packet before it is forwarded: activity, keyframes, the newest timestamp. The reading of its payload is
    /// discarded where that is noise.
    pub fn note(&mut self, now: Now, packet: &mut Packet) {
        self.active.on_packet(now.mono, packet.encoding, packet.timestamp);
        let Some(encoding) = self.encodings.get_mut(usize::from(packet.encoding)) else { return };
        if let SourceOrigin::Local(_) = self.origin {
            encoding.legibility.on_packet(&packet.info);
            packet.legible = encoding.legibility.is_legible();
        }
        if packet.info.garbled {
            encoding.keyframes.on_garbled();
        }
        if !packet.legible {
            packet.info = PayloadInfo::default();
            encoding.keyframe = None;
            encoding.parameter_sets = None;
            encoding.keyframes.on_hidden(now.mono);
        }
        if packet.info.starts_keyframe {
            encoding.keyframes.on_keyframe(now.mono);
            let first = (packet.ext, packet.timestamp);
            // More than one packet of it may say so, in any order.
            encoding.keyframe = Some(encoding.keyframe.map_or(first, |known| match known.1 == first.1 {
                true => known.min(first),
                false => known.max(first),
            }));
        }
        if encoding.newest.is_none_or(|newest| packet.ext > newest) {
            encoding.newest = Some(packet.ext);
            encoding.clock.on_packet(now.mono, packet.timestamp);
        }
    }

    /// The order of its encodings, where a packet changes it. Call after [`Source::note`].
    #[inline]
    pub fn measure(&mut self, now: Instant, packet: &Packet, payload: &[u8]) -> Option<Ranking> {
        let ordering = self.ordering.as_mut()?;
        let pixels = packet.info.starts_keyframe.then(|| pixels(self.codec, payload)).flatten();
        match ordering.on_packet(now, packet.encoding, payload.len(), pixels) {
            OrderFound::Nothing => None,
            OrderFound::Order(ranking) => Some(ranking),
            OrderFound::Settled(ranking) => {
                self.ordering = None;
                Some(ranking)
            }
        }
    }

    /// The layers that are sent, lowest first, each with its rate: the steps that a consumer can be given. Within an
    /// encoding or spatial layer, all its temporal layers come before the next one. Never empty.
    pub fn ladder(&self, now: Instant) -> Vec<(Layers, Bitrate)> {
        if self.top == Layers::default() {
            return vec![(self.top, self.encodings.first().map_or(Bitrate(0), |only| only.rates.total(now)))];
        }
        let mut ladder: Vec<(Layers, Bitrate)> = Vec::new();
        let mut push = |spatial, rates: &LayerRates, up_to| {
            let below = ladder.last().map(|(_, rate)| *rate);
            let from = ladder.len();
            ladder.extend(rates.up_to(now, up_to).map(|(temporal, rate)| (Layers { spatial, temporal }, rate)));
            // A layer that is not sent adds nothing to those below it.
            if below.is_some() && ladder.last().map(|(_, rate)| *rate) == below {
                ladder.truncate(from);
            }
        };
        match &self.encodings[..] {
            [only] => {
                (0..self.top.spatial).for_each(|spatial| push(spatial, &only.rates, spatial));
                push(self.top.spatial, &only.rates, u8::MAX);
            }
            all => {
                let ranked = self.active.ranking.encodings().into_iter();
                let sent = ranked.filter_map(|encoding| all.get(usize::from(encoding)));
                (0..).zip(sent).for_each(|(spatial, encoding)| push(spatial, &encoding.rates, u8::MAX));
            }
        }
        if ladder.is_empty() {
            ladder.push((Layers::default(), Bitrate(0)));
        }
        ladder
    }

    /// The frame of a packet's dependency descriptor, for forwarding. None, and nothing changed, where it cannot be
    /// read (yet).
    pub fn read_descriptor(
        &mut self,
        ext: ExtSeq,
        encoding: u8,
        value: &[u8],
        info: &mut PayloadInfo,
    ) -> Option<DescribedFrame> {
        let encoding = self.encodings.get_mut(usize::from(encoding))?;
        if let Ok(Some(structure)) = parse_structure(value)
            // A late packet must not bring back a structure that was replaced.
            && encoding.structure.as_ref().is_none_or(|known| known.from <= ext)
        {
            let targets = Targets::of(&structure);
            encoding.structure = Some(Box::new(Known { structure, targets, from: ext }));
        }
        let frame = encoding.frame_of(value, info)?;
        if let (Some(known), Some(active)) = (&mut encoding.structure, frame.active_decode_targets)
            && encoding.newest.is_none_or(|newest| newest < ext)
        {
            known.targets.set_active(active);
        }
        Some(frame)
    }

    pub fn history_bytes(&self) -> usize {
        self.encodings.iter().map(|encoding| encoding.history.bytes_held()).sum()
    }

    pub fn is_unused(&self) -> bool {
        self.consumers.is_empty() && self.subscribers.is_empty() && self.exports.is_empty()
    }
}

impl EncodingSource {
    /// As far as its home knows.
    pub fn is_legible(&self) -> bool {
        self.legibility.is_legible()
    }

    /// The parameter sets in front of a packet with which a receiver starts.
    pub fn leading(&self, info: &PayloadInfo) -> Option<&ParameterSets> {
        if info.starts_idr { self.parameter_sets.as_deref() } else { None }
    }

    /// A dependency descriptor, read by the present structure.
    pub fn frame_of(&self, descriptor: &[u8], info: &mut PayloadInfo) -> Option<DescribedFrame> {
        let frame = parse_frame(descriptor, &self.structure.as_ref()?.structure).ok()?;
        info.starts_frame = frame.mandatory.start_of_frame;
        info.starts_keyframe = frame.mandatory.start_of_frame && frame.is_keyframe();
        (info.spatial, info.temporal) = (frame.spatial, frame.temporal);
        Some(frame)
    }

    /// Where end-to-end encryption hides keyframes, the start of any frame is as good as another. Ask before `pace`
    /// takes the packet.
    pub fn starts_unread(&mut self, now: Instant, codec: Codec, packet: &Packet) -> bool {
        let begins_frame = self.pace.begins(packet.timestamp);
        self.frames_unanswered = match self.keyframes.is_unanswered() {
            true => self.frames_unanswered.saturating_add(u8::from(begins_frame)),
            false => 0,
        };
        let begins = match codec {
            Codec::Vp8 => packet.info.starts_frame || !packet.legible,
            Codec::H264 => true,
            Codec::Av1 => self.structure.is_none(),
            // Its descriptor says so, where that can be read.
            Codec::Vp9 => !packet.legible,
            Codec::Opus => false,
        };
        let overdue = self.frames_unanswered >= HIDDEN_AFTER_FRAMES && self.keyframes.is_overdue(now);
        (overdue || self.keyframes.is_hidden())
            && begins
            && !packet.info.starts_keyframe
            && self.newest == Some(packet.ext)
            && begins_frame
    }

    /// Forgets the old stream's timing.
    fn begin_anew(&mut self) {
        self.pace = FramePace::default();
        self.structure = None;
        self.keyframe = None;
        self.clock.reset();
        if let Some(sets) = &mut self.parameter_sets {
            sets.on_restart();
        }
    }
}

/// In the place of an encoding: one of its parameter sets, by name, instead of a packet of its history.
const PARAMETER_SETS: u8 = 0x80;
const _: () = assert!(ENCODINGS_MAX <= PARAMETER_SETS as usize);

impl StoredAt {
    /// The parameter set of this name of the same encoding.
    pub fn parameter_set(self, name: u64) -> StoredAt {
        StoredAt { encoding: self.encoding | PARAMETER_SETS, ext: ExtSeq(name), ..self }
    }
}

impl PacketStore for Sources {
    fn stored(&self, at: StoredAt) -> Option<Stored<'_>> {
        let source = self.get(Key::from_parts(at.slot, at.generation))?;
        match source.encodings.get(usize::from(at.encoding)) {
            Some(encoding) => encoding.history.get(at.ext),
            None => stored_set(source, at),
        }
    }
}

#[cold]
fn stored_set(source: &Source, at: StoredAt) -> Option<Stored<'_>> {
    let encoding = source.encodings.get(usize::from(at.encoding & !PARAMETER_SETS))?;
    let sets = encoding.parameter_sets.as_deref()?;
    let header =
        StoredHeader { marker: false, timestamp: 0, extension_len: 0, descriptor_len: 0, arrival: sets.used_at };
    Some(Stored { header, bytes: sets.unit(at.ext.0)? })
}

/// The spacing of the packets of one frame: decides whether the next one is worth waiting for.
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

    /// Whether a packet with this timestamp is the first of its frame to come.
    pub fn begins(&self, timestamp: u32) -> bool {
        self.last.is_none() || timestamp_ahead(timestamp, self.timestamp) > 0
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

    #[test]
    fn a_hidden_keyframe_is_given_up_a_second_after_it_was_asked_for() {
        let at = |millis: u64| Instant::from_nanos(millis * 1_000_000);
        for (codec, hides) in [(Codec::Vp8, true), (Codec::H264, true), (Codec::Av1, true), (Codec::Vp9, false)] {
            let mut source = Source::new(
                Instant::ZERO,
                ProducerId(1),
                SourceOrigin::Relay(ShardId(0)),
                codec,
                90_000,
                1,
                Layers::default(),
            );
            let encoding = &mut source.encodings[0];
            let packet = |n: u64, timestamp| {
                let info = PayloadInfo { starts_frame: true, ..PayloadInfo::default() };
                Packet { encoding: 0, ext: ExtSeq(n), arrived: at(0), timestamp, marker: false, legible: true, info }
            };
            let mut unread = |now, n, timestamp| {
                encoding.newest = Some(ExtSeq(n));
                let packet = packet(n, timestamp);
                let unread = encoding.starts_unread(now, codec, &packet);
                encoding.pace.on_packet(now, timestamp);
                if n == 10 {
                    encoding.keyframes.request(now, true);
                }
                unread
            };
            assert!(!unread(at(0), 10, 90));
            assert!(!unread(at(999), 11, 180), "it may still come");
            assert!(!unread(at(1_000), 12, 180), "in the middle of a frame");
            assert!(!unread(at(1_001), 13, 270), "frames are rare: it may still come");
            assert!(!unread(at(1_001), 13, 280));
            assert_eq!(unread(at(1_001), 13, 290), hides, "{codec:?}");
            if hides {
                encoding.keyframes.on_hidden(at(1_001));
            }
            encoding.newest = Some(ExtSeq(14));
            let again = packet(14, 360);
            assert_eq!(encoding.starts_unread(at(1_002), codec, &again), hides, "from then on nobody waits");
            // Once one was read, the next is waited for again.
            encoding.keyframes.on_keyframe(at(2_000));
            assert!(!encoding.starts_unread(at(2_001), codec, &again));
            encoding.keyframes.request(at(20_000), true);
            for _ in 0..HIDDEN_AFTER_FRAMES {
                assert!(!encoding.starts_unread(at(29_999), codec, &again));
            }
            assert_eq!(encoding.starts_unread(at(30_000), codec, &again), hides);
        }
    }
}
