//! The hot loop: forwards one packet of a source, already in its history, to every consumer on this shard. No
//! allocation, no lock, no clock, no bytes: a transport's egress gets a reference and the rewritten numbers.

use crate::base::limits::{CATCH_UP_PACKETS_MAX, RUN_HOLD_MAX};
use crate::base::seq::ExtSeq;
use crate::base::slab::{Key, Slab};
use crate::base::time::Instant;
use crate::router::admission::{Admission, Start, admits};
use crate::router::consumer::{Consumer, Consumers};
use crate::router::keys::{ConsumerKey, SourceKey};
use crate::router::packet::Packet;
use crate::router::pass::{ForwardCounts, PassResults, Passing, lead, pass, pass_late, pass_layered, read_again};
use crate::router::source::{EncodingSource, Source};
use crate::transport::Transport;
use crate::transport::queued::{StoredAt, Urgency};
use crate::wire::codec::Codec;
use crate::wire::dependency_descriptor::DescribedFrame;

/// Transports whose egress went from empty to holding something.
pub type Dirty = Vec<Key<Transport>>;

/// Consumers whose layers differ from those told to their clients.
pub type LayersChanged = Vec<ConsumerKey>;

/// The parts of a shard that the loop borrows.
pub struct Fanout<'a> {
    pub consumers: &'a mut Consumers,
    pub transports: &'a mut Slab<Transport>,
    pub dirty: &'a mut Dirty,
    pub layers_changed: &'a mut LayersChanged,
    pub counts: &'a mut ForwardCounts,
}

/// Returns the encodings of which some consumer wants a keyframe, one bit each. `frame` is read from the packet's
/// dependency descriptor.
pub fn forward(
    now: Instant,
    key: SourceKey,
    source: &mut Source,
    packet: &Packet,
    frame: Option<&DescribedFrame>,
    fanout: Fanout<'_>,
) -> u8 {
    let Fanout { consumers, transports, dirty, layers_changed, counts } = fanout;
    let codec = source.codec;
    let Some(encoding) = source.encodings.get_mut(usize::from(packet.encoding)) else { return 0 };
    let Prepared { start, unread, behind, holds, cold } = prepare(now, codec, encoding, packet);
    let urgency = if holds && !packet.info.ends_frame { Urgency::FrameContinues } else { Urgency::Now };

    let source = &*source;
    let encoding = &source.encodings[usize::from(packet.encoding)];
    let (slot, generation) = key.to_parts();
    let at = StoredAt { slot, generation, encoding: packet.encoding, ext: packet.ext };
    let frame = frame.zip(encoding.structure.as_ref()).map(|(frame, known)| (frame, &known.targets));
    let passing = Passing { now, at, packet, frame, holds };
    let mut results = PassResults { counts, wanted: 0 };
    if cold {
        source.consumers.iter().take(CONSUMERS_AHEAD).for_each(|key| consumers.prefetch(*key, Consumer::HOT));
    }
    for (at_consumer, consumer_key) in source.consumers.iter().enumerate() {
        if cold {
            prefetch(&source.consumers[at_consumer..], consumers, transports);
        }
        let Some(consumer) = consumers.get_mut(*consumer_key) else { continue };
        let admission = admits(&passing, start, consumer, source, &mut results);
        if admission == Admission::Withheld {
            continue;
        }
        let attached = admission == Admission::Attached;
        if unread && attached {
            // Most likely not a keyframe: a repaired one can pass now, whenever it comes.
            results.want(packet.encoding);
        }
        let Some(transport) = transports.get_mut(consumer.transport) else { continue };
        let was_empty = transport.egress.is_empty();
        if attached && let Some(sets) = encoding.leading(&packet.info) {
            lead(&passing, consumer, transport, sets, &mut results);
        }
        let passed = if admission == Admission::Late {
            pass_late(&passing, consumer, transport, &mut results);
            false
        } else if consumer.layered.is_some() {
            pass_layered(&passing, consumer, transport, &mut results)
        } else {
            pass(&passing, consumer, transport, urgency, &mut results).is_some()
        };
        if passed && attached && behind > 0 {
            catch_up(&passing, behind, encoding, codec, consumer, transport, &mut results);
        }
        if consumer.layered.as_mut().is_some_and(|layered| layered.has_changed()) {
            layers_changed.push(*consumer_key);
        }
        if was_empty && !transport.egress.is_empty() {
            dirty.push(consumer.transport);
        }
        if cold {
            transport.prefetch(consumer.outgoing);
        }
    }
    results.wanted
}

/// The part that is the same for all consumers, computed before the loop.
struct Prepared {
    start: Start,
    /// It may be a keyframe, and cannot be read.
    unread: bool,
    /// Packets of its encoding that came before it and belong after it.
    behind: u64,
    /// The next packet of the same frame is about to come, unless this one ends it.
    holds: bool,
    /// The first packet of the source in this round.
    cold: bool,
}

fn prepare(now: Instant, codec: Codec, encoding: &mut EncodingSource, packet: &Packet) -> Prepared {
    let video = codec.is_video();
    let unread = encoding.starts_unread(now, codec, packet);
    if unread {
        encoding.keyframes.on_hidden(now);
    }
    encoding.pace.on_packet(packet.arrived, packet.timestamp);
    let holds = video && !packet.marker && encoding.pace.next_within(RUN_HOLD_MAX);
    // A keyframe can begin for a consumer when its first packet is repaired, even though later ones have gone by.
    let behind = encoding.newest.map_or(0, |newest| newest.0.saturating_sub(packet.ext.0));
    let starts = (packet.info.starts_keyframe || unread) && behind <= CATCH_UP_PACKETS_MAX;
    let cold = std::mem::replace(&mut encoding.forwarded_at, now) != now;
    Prepared { start: Start { video, starts, epoch: encoding.epoch }, unread, behind, holds, cold }
}

/// Passes the packets behind the one that a consumer has just begun with.
#[cold]
fn catch_up(
    passing: &Passing<'_>,
    behind: u64,
    encoding: &EncodingSource,
    codec: Codec,
    consumer: &mut Consumer,
    transport: &mut Transport,
    results: &mut PassResults<'_>,
) {
    let (packet, at) = (passing.packet, passing.at);
    for ext in (1..=behind).map(|ahead| ExtSeq(packet.ext.0 + ahead)) {
        let at = StoredAt { ext, ..at };
        if consumer.layered.is_some() {
            let Some((packet, frame)) = read_again(encoding, codec, packet, ext) else { continue };
            let frame = frame.as_ref().zip(encoding.structure.as_ref().map(|known| &known.targets));
            let passing = Passing { at, packet: &packet, frame, holds: false, ..*passing };
            pass_layered(&passing, consumer, transport, results);
        } else {
            let Some(stored) = encoding.history.get(ext) else { continue };
            let packet = Packet { ext, timestamp: stored.header.timestamp, ..*packet };
            pass(&Passing { at, packet: &packet, ..*passing }, consumer, transport, Urgency::Now, results);
        }
    }
}

/// How far ahead of the loop the prefetch runs: of consumers, of their transports, whose place is read there, and of
/// the state behind those.
const CONSUMERS_AHEAD: usize = 16;
const TRANSPORTS_AHEAD: usize = 8;
const QUEUES_AHEAD: usize = 4;

/// Prefetches the consumers: the first packet of a source in a round finds them in no cache, see `base::prefetch`.
fn prefetch(keys: &[ConsumerKey], consumers: &Consumers, transports: &Slab<Transport>) {
    if let Some(key) = keys.get(CONSUMERS_AHEAD) {
        consumers.prefetch(*key, Consumer::HOT);
    }
    if let Some(consumer) = keys.get(TRANSPORTS_AHEAD).and_then(|key| consumers.get(*key)) {
        transports.prefetch(consumer.transport, Transport::HOT);
        consumer.rewriter.prefetch();
    }
    let consumer = keys.get(QUEUES_AHEAD).and_then(|key| consumers.get(*key));
    if let Some(transport) = consumer.and_then(|consumer| transports.get(consumer.transport)) {
        transport.egress.prefetch();
    }
}
