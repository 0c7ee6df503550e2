//! The hot loop: forwards one packet of a source, already in its history, to every consumer on this shard. No
//! allocation, no lock, no clock, no bytes: a transport's egress gets a reference and the rewritten numbers.

use crate::base::limits::{CATCH_UP_PACKETS_MAX, RUN_HOLD_MAX};
use crate::base::seq::ExtSeq;
use crate::base::slab::{Key, Slab};
use crate::base::time::Instant;
use crate::media::decode_target::Targets;
use crate::media::edit::{Change, Edit};
use crate::media::layers::Decision;
use crate::media::parameter_sets::ParameterSets;
use crate::media::rewrite::Rewritten;
use crate::router::consumer::{Consumer, Flow};
use crate::router::layered::Layered;
use crate::router::source::{EncodingSource, Source};
use crate::transport::Transport;
use crate::transport::egress::{Queued, StoredAt, Urgency};
use crate::wire::codec::{Codec, PayloadInfo, inspect};
use crate::wire::dependency_descriptor::Frame;

/// The fields of a packet that the loop needs beside its place in the history.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    pub encoding: u8,
    pub ext: ExtSeq,
    /// The arrival at this machine, whichever shard received it.
    pub arrived: Instant,
    pub timestamp: u32,
    pub marker: bool,
    /// The reading of its payload can be believed.
    pub legible: bool,
    pub info: PayloadInfo,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForwardCounts {
    pub forwarded: u64,
    pub waiting_key_frame: u64,
    pub closed: u64,
    pub other_encoding: u64,
    /// Of the flowing encoding, but above the consumer's layers.
    pub other_layer: u64,
    /// From before the consumer's base, or repeated.
    pub out_of_window: u64,
    pub egress_full: u64,
}

/// Transports whose egress went from empty to holding something.
pub type Dirty = Vec<Key<Transport>>;

/// Consumers whose layers differ from those told to their clients.
pub type News = Vec<Key<Consumer>>;

/// Returns the encodings of which some consumer wants a keyframe, one bit each. `frame` is read from the packet's
/// dependency descriptor.
#[expect(clippy::too_many_arguments, reason = "plain arguments: each is a part of the shard that the loop borrows")]
pub fn forward(
    now: Instant,
    key: Key<Source>,
    source: &mut Source,
    packet: &Packet,
    frame: Option<&Frame>,
    consumers: &mut Slab<Consumer>,
    transports: &mut Slab<Transport>,
    dirty: &mut Dirty,
    news: &mut News,
    counts: &mut ForwardCounts,
) -> u8 {
    let codec = source.codec;
    let Some(encoding) = source.encodings.get_mut(usize::from(packet.encoding)) else { return 0 };
    let unread = encoding.starts_unread(now, codec, packet);
    if unread {
        encoding.keyframes.on_hidden(now);
    }
    encoding.pace.on_packet(packet.arrived, packet.timestamp);
    let epoch = encoding.epoch;
    let video = codec.is_video();
    // Whether the next packet of the same frame is about to come, unless this one ends it.
    let holds = video && !packet.marker && encoding.pace.next_within(RUN_HOLD_MAX);
    let urgency = if holds && !packet.info.ends_frame { Urgency::FrameContinues } else { Urgency::Now };
    let mut wanted = 0;
    let (slot, generation) = key.to_parts();
    let at = StoredAt { slot, generation, encoding: packet.encoding, ext: packet.ext };
    // A keyframe can begin for a consumer when its first packet is repaired, even though later ones have gone by.
    let behind = encoding.newest.map_or(0, |newest| newest.0.saturating_sub(packet.ext.0));
    let starts = (packet.info.starts_keyframe || unread) && behind <= CATCH_UP_PACKETS_MAX;

    let cold = encoding.forwarded_at != now;
    encoding.forwarded_at = now;

    let source = &*source;
    let encoding = &source.encodings[usize::from(packet.encoding)];
    let frame = frame.zip(encoding.structure.as_ref()).map(|(frame, known)| (frame, &known.targets));
    if cold {
        source.consumers.iter().take(CONSUMERS_AHEAD).for_each(|key| consumers.prefetch(*key, Consumer::HOT));
    }
    for (at_consumer, consumer_key) in source.consumers.iter().enumerate() {
        if cold {
            foresee(&source.consumers[at_consumer..], consumers, transports);
        }
        let Some(consumer) = consumers.get_mut(*consumer_key) else { continue };
        let admission = admits(now, consumer, source, packet, starts, epoch, video, counts, &mut wanted);
        if admission == Admission::Withheld {
            continue;
        }
        if unread && admission == Admission::Attached {
            // Most likely not a keyframe: a repaired one can pass now, whenever it comes.
            wanted |= 1 << packet.encoding;
        }
        let Some(transport) = transports.get_mut(consumer.transport) else { continue };
        let was_empty = transport.egress.is_empty();
        if admission == Admission::Attached
            && let Some(sets) = encoding.leading(&packet.info)
        {
            lead(now, consumer, transport, at, packet.timestamp, sets, counts);
        }
        if admission == Admission::Late {
            pass_late(now, consumer, transport, at, packet, frame, counts);
        } else if consumer.layered.is_some() {
            let passed = pass_layered(now, consumer, transport, at, packet, frame, holds, counts, &mut wanted);
            if passed && behind > 0 && admission == Admission::Attached {
                for ext in (1..=behind).map(|ahead| ExtSeq(packet.ext.0 + ahead)) {
                    let Some((packet, frame)) = read_again(encoding, codec, packet, ext) else { continue };
                    let frame = frame.as_ref().zip(encoding.structure.as_ref().map(|known| &known.targets));
                    let at = StoredAt { ext, ..at };
                    pass_layered(now, consumer, transport, at, &packet, frame, false, counts, &mut wanted);
                }
            }
            if consumer.layered.as_mut().is_some_and(|layered| layered.has_news()) {
                news.push(*consumer_key);
            }
        } else {
            let passed = pass(now, consumer, transport, at, packet.timestamp, urgency, counts);
            if passed.is_some() && behind > 0 && admission == Admission::Attached {
                for ext in (1..=behind).map(|ahead| ExtSeq(packet.ext.0 + ahead)) {
                    let Some(stored) = encoding.history.get(ext) else { continue };
                    let at = StoredAt { ext, ..at };
                    pass(now, consumer, transport, at, stored.header.timestamp, Urgency::Now, counts);
                }
            }
        }
        if was_empty && !transport.egress.is_empty() {
            dirty.push(consumer.transport);
        }
        if cold {
            transport.foresee(consumer.outgoing);
        }
    }
    wanted
}

/// How far ahead of the loop the prefetch of consumers runs, that of their transports, whose place is read there, and
/// that of what has its place in those.
const CONSUMERS_AHEAD: usize = 16;
const TRANSPORTS_AHEAD: usize = 8;
const QUEUES_AHEAD: usize = 4;

/// Prefetches the consumers: the first packet of a source in a round finds them in no cache, see `base::prefetch`.
fn foresee(keys: &[Key<Consumer>], consumers: &Slab<Consumer>, transports: &Slab<Transport>) {
    if let Some(key) = keys.get(CONSUMERS_AHEAD) {
        consumers.prefetch(*key, Consumer::HOT);
    }
    if let Some(consumer) = keys.get(TRANSPORTS_AHEAD).and_then(|key| consumers.get(*key)) {
        transports.prefetch(consumer.transport, Transport::HOT);
        consumer.rewriter.foresee();
    }
    let consumer = keys.get(QUEUES_AHEAD).and_then(|key| consumers.get(*key));
    if let Some(transport) = consumer.and_then(|consumer| transports.get(consumer.transport)) {
        transport.egress.foresee();
    }
}

/// Numbers one packet and queues it in the transport.
pub(super) fn pass(
    now: Instant,
    consumer: &mut Consumer,
    transport: &mut Transport,
    at: StoredAt,
    timestamp: u32,
    urgency: Urgency,
    counts: &mut ForwardCounts,
) -> Option<u64> {
    let Some(rewritten) = consumer.rewriter.forward(now, at.ext, timestamp) else {
        counts.out_of_window += 1;
        return None;
    };
    enqueue(now, consumer, transport, at, rewritten, urgency, counts)
}

/// The parameter sets that a decoder needs before the first packet, as packets of our own. Single units, which every
/// packetization mode allows (RFC 6184 section 6).
#[cold]
pub(super) fn lead(
    now: Instant,
    consumer: &mut Consumer,
    transport: &mut Transport,
    at: StoredAt,
    timestamp: u32,
    sets: &ParameterSets,
    counts: &mut ForwardCounts,
) {
    let mut names = sets.names();
    let Some(name) = names.next() else { return };
    let Some(first) = consumer.rewriter.lead(now, at.ext, timestamp, name, sets.names().len()) else { return };
    for (index, name) in (first.index..).zip(sets.names()) {
        let rewritten = Rewritten { index, timestamp: first.timestamp };
        enqueue(now, consumer, transport, at.parameter_set(name), rewritten, Urgency::FrameContinues, counts);
        transport.edit(consumer.outgoing, index, Edit::default());
    }
}

fn enqueue(
    now: Instant,
    consumer: &mut Consumer,
    transport: &mut Transport,
    at: StoredAt,
    Rewritten { index, timestamp }: Rewritten,
    urgency: Urgency,
    counts: &mut ForwardCounts,
) -> Option<u64> {
    let queued = Queued { outgoing: consumer.outgoing, at, index, timestamp, retransmission: false };
    if !transport.egress.push(now, queued, urgency) {
        counts.egress_full += 1;
        return None;
    }
    counts.forwarded += 1;
    consumer.resent.earn();
    Some(index)
}

/// The same, if the packet is of the consumer's layers; else its number closes up.
#[expect(clippy::too_many_arguments, reason = "as above")]
pub(super) fn pass_layered(
    now: Instant,
    consumer: &mut Consumer,
    transport: &mut Transport,
    at: StoredAt,
    packet: &Packet,
    frame: Option<(&Frame, &Targets)>,
    holds: bool,
    counts: &mut ForwardCounts,
    wanted: &mut u8,
) -> bool {
    let Some(layered) = &mut consumer.layered else { return false };
    let verdict = layered.pass(now, &packet.info, frame);
    if verdict.wants_keyframe {
        *wanted |= 1 << at.encoding;
    }
    let Some(edit) = verdict.edit else {
        counts.other_layer += 1;
        hollow(now, consumer, transport, at, packet.timestamp);
        return false;
    };
    let urgency = if holds && !edit.ends_picture { Urgency::FrameContinues } else { Urgency::Now };
    let index = pass(now, consumer, transport, at, packet.timestamp, urgency, counts);
    if let Some(index) = index {
        transport.edit(consumer.outgoing, index, edit);
    }
    index.is_some()
}

/// A packet that was missing of the previous encoding goes out under the number that was kept for it.
fn pass_late(
    now: Instant,
    consumer: &mut Consumer,
    transport: &mut Transport,
    at: StoredAt,
    packet: &Packet,
    frame: Option<(&Frame, &Targets)>,
    counts: &mut ForwardCounts,
) {
    let Consumer { layered: Some(layered), rewriter, .. } = &mut *consumer else { return };
    let Some((rewritten, edit)) = layered.late(rewriter, packet.ext, packet.timestamp, &packet.info, frame) else {
        counts.out_of_window += 1;
        return;
    };
    if let Some(index) = enqueue(now, consumer, transport, at, rewritten, Urgency::Now, counts) {
        transport.edit(consumer.outgoing, index, edit);
    }
}

/// A packet that is not for the consumer: padding takes its place when its number can no longer be closed up.
fn hollow(now: Instant, consumer: &mut Consumer, transport: &mut Transport, at: StoredAt, timestamp: u32) {
    let Some(index) = consumer.rewriter.skip(at.ext) else { return };
    let timestamp = timestamp.wrapping_add(consumer.rewriter.timestamp_offset().unwrap_or(0));
    let queued = Queued { outgoing: consumer.outgoing, at, index, timestamp, retransmission: false };
    if transport.egress.push(now, queued, Urgency::FrameContinues) {
        transport.edit(consumer.outgoing, index, Edit { change: Change::Hollow, ..Edit::default() });
    }
}

/// A packet out of the history, as it was on arrival.
pub(super) fn read_again(
    encoding: &EncodingSource,
    codec: Codec,
    like: &Packet,
    ext: ExtSeq,
) -> Option<(Packet, Option<Frame>)> {
    let stored = encoding.history.get(ext)?;
    let (_, descriptor, payload) = stored.parts();
    let mut info = if like.legible { inspect(codec, payload) } else { PayloadInfo::default() };
    let frame = encoding.frame_of(descriptor, &mut info);
    let (timestamp, marker) = (stored.header.timestamp, stored.header.marker);
    Some((Packet { ext, timestamp, marker, info, arrived: stored.header.arrival, ..*like }, frame))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Admission {
    Withheld,
    Passes,
    /// The first packet after a wait or a switch.
    Attached,
    /// A packet of the previous encoding that may have been missing at the switch.
    Late,
}

fn other_encoding(consumer: &Consumer, packet: &Packet, epoch: u32, counts: &mut ForwardCounts) -> Admission {
    let awaits = |layered: &Layered| layered.awaits(packet.encoding, epoch, packet.ext);
    if consumer.layered.as_deref().is_some_and(awaits) {
        return Admission::Late;
    }
    counts.other_encoding += 1;
    Admission::Withheld
}

#[expect(clippy::too_many_arguments, reason = "as above")]
/// The decision about this packet, and the switches that it causes.
fn admits(
    now: Instant,
    consumer: &mut Consumer,
    source: &Source,
    packet: &Packet,
    starts: bool,
    epoch: u32,
    video: bool,
    counts: &mut ForwardCounts,
    wanted: &mut u8,
) -> Admission {
    let select = |consumer: &mut Consumer, starts: bool| match &mut consumer.layered {
        None => Decision::Forward,
        Some(layered) => layered.select(now, packet.encoding, starts, &source.active),
    };
    let starts = starts && !steps_back(now, consumer, source, packet);
    match consumer.flow {
        Flow::Closed => {
            counts.closed += 1;
            Admission::Withheld
        }
        Flow::KeyFrame if video && !starts => {
            counts.waiting_key_frame += 1;
            // Requested with every packet: the keyframe that the first request brought may have been lost on its way
            // here, or its encoding may have stopped. The source merges the requests.
            match select(consumer, false) {
                Decision::Forward => *wanted |= 1 << packet.encoding,
                Decision::WantKeyframe(encoding) => *wanted |= 1 << encoding,
                Decision::Drop | Decision::SwitchAndForward => {}
            }
            Admission::Withheld
        }
        Flow::KeyFrame => match select(consumer, starts) {
            Decision::Forward | Decision::SwitchAndForward => {
                attach(now, consumer, source, packet.encoding, epoch);
                Admission::Attached
            }
            Decision::Drop | Decision::WantKeyframe(_) => {
                counts.other_encoding += 1;
                Admission::Withheld
            }
        },
        Flow::Open { encoding, epoch: attached } => {
            match select(consumer, starts) {
                Decision::Drop => return other_encoding(consumer, packet, epoch, counts),
                Decision::WantKeyframe(encoding) => {
                    *wanted |= 1 << encoding;
                    return other_encoding(consumer, packet, epoch, counts);
                }
                Decision::SwitchAndForward => {
                    attach(now, consumer, source, packet.encoding, epoch);
                    return Admission::Attached;
                }
                Decision::Forward => {}
            }
            if encoding == packet.encoding && attached != epoch {
                // The stream restarted: a decoder can only go on at a keyframe. The restart's own keyframe may have
                // been used up to confirm the restart.
                if video && !starts {
                    consumer.set_flow(now, Flow::KeyFrame);
                    *wanted |= 1 << encoding;
                    counts.waiting_key_frame += 1;
                    return Admission::Withheld;
                }
                attach(now, consumer, source, packet.encoding, epoch);
                return Admission::Attached;
            }
            Admission::Passes
        }
    }
}

/// The offset from timestamps of `encoding` to those of the flowing encoding, by their sender reports.
fn ahead(consumer: &Consumer, source: &Source, encoding: u8) -> Option<u32> {
    let clock = |encoding: u8| source.encodings.get(usize::from(encoding)).map(|encoding| &encoding.clock);
    match consumer.flow {
        Flow::Open { encoding: before, .. } if before != encoding => {
            clock(before).zip(clock(encoding)).and_then(|(before, next)| before.ahead_of(next))
        }
        _ => None,
    }
}

/// Whether a keyframe to switch to shows what was shown already: it came late, and the next will be in time.
fn steps_back(now: Instant, consumer: &mut Consumer, source: &Source, packet: &Packet) -> bool {
    let Some(ahead) = ahead(consumer, source, packet.encoding) else { return false };
    let Some(layered) = &mut consumer.layered else { return false };
    layered.aim(now, &source.active) == Some(packet.encoding)
        && consumer.rewriter.would_step_back(ahead, packet.timestamp)
        && layered.refuse_keyframe()
}

fn attach(now: Instant, consumer: &mut Consumer, source: &Source, encoding: u8, epoch: u32) {
    let before = match consumer.flow {
        Flow::Open { encoding: before, epoch } if before != encoding => Some((before, epoch)),
        _ => None,
    };
    // Between two encodings of the same pictures timestamps go on.
    let ahead = ahead(consumer, source, encoding);
    if let Some(layered) = &mut consumer.layered {
        layered.leave(before, &mut consumer.rewriter);
    }
    match ahead {
        Some(ahead) => consumer.rewriter.rebase_aligned(u32::from(encoding), ahead),
        None => consumer.rewriter.rebase(u32::from(encoding)),
    }
    consumer.set_flow(now, Flow::Open { encoding, epoch });
    if let Some(layered) = &mut consumer.layered {
        layered.attach(source.active.layer(encoding));
    }
}
