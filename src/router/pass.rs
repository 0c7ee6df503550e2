//! Passes one packet to one consumer: its outgoing numbers, its edits and a place in the transport's queue. Called by
//! `forward` for live packets and by `replay` for past ones.

use crate::base::seq::ExtSeq;
use crate::base::time::Instant;
use crate::media::decode_target::Targets;
use crate::media::edit::{Change, Edit};
use crate::media::parameter_sets::ParameterSets;
use crate::media::rewrite::Rewritten;
use crate::router::consumer::Consumer;
use crate::router::packet::Packet;
use crate::router::source::EncodingSource;
use crate::transport::Transport;
use crate::transport::queued::{Queued, StoredAt, Urgency};
use crate::wire::codec::{Codec, PayloadInfo, inspect};
use crate::wire::dependency_descriptor::DescribedFrame;

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

/// A packet on its way to the consumers of its source: the part that is the same for all of them.
#[derive(Clone, Copy)]
pub struct Passing<'a> {
    pub now: Instant,
    pub at: StoredAt,
    pub packet: &'a Packet,
    /// Its dependency descriptor, and the targets of the structure it was read by.
    pub frame: Option<(&'a DescribedFrame, &'a Targets)>,
    /// The next packet of the same frame is about to come, unless this one ends it.
    pub holds: bool,
}

/// The results of passing, over all consumers.
pub struct PassResults<'a> {
    pub counts: &'a mut ForwardCounts,
    /// The encodings of which some consumer wants a keyframe, one bit each.
    pub wanted: u8,
}

impl PassResults<'_> {
    pub(super) fn want(&mut self, encoding: u8) {
        self.wanted |= 1 << encoding;
    }
}

/// Numbers one packet and queues it in the transport.
pub(super) fn pass(
    passing: &Passing<'_>,
    consumer: &mut Consumer,
    transport: &mut Transport,
    urgency: Urgency,
    results: &mut PassResults<'_>,
) -> Option<u64> {
    let Some(rewritten) = consumer.rewriter.forward(passing.now, passing.at.ext, passing.packet.timestamp) else {
        results.counts.out_of_window += 1;
        return None;
    };
    enqueue(passing.now, consumer, transport, passing.at, rewritten, urgency, results)
}

/// The parameter sets that a decoder needs before the first packet, as packets of our own. Single units, which every
/// packetization mode allows (RFC 6184 section 6).
#[cold]
pub(super) fn lead(
    passing: &Passing<'_>,
    consumer: &mut Consumer,
    transport: &mut Transport,
    sets: &ParameterSets,
    results: &mut PassResults<'_>,
) {
    let Passing { now, at, packet, .. } = *passing;
    let mut names = sets.names();
    let Some(name) = names.next() else { return };
    let Some(first) = consumer.rewriter.lead(now, at.ext, packet.timestamp, name, sets.names().len()) else { return };
    for (index, name) in (first.index..).zip(sets.names()) {
        let rewritten = Rewritten { index, timestamp: first.timestamp };
        enqueue(now, consumer, transport, at.parameter_set(name), rewritten, Urgency::FrameContinues, results);
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
    results: &mut PassResults<'_>,
) -> Option<u64> {
    let queued = Queued { outgoing: consumer.outgoing, at, index, timestamp, retransmission: false };
    if !transport.egress.push(now, queued, urgency) {
        results.counts.egress_full += 1;
        return None;
    }
    results.counts.forwarded += 1;
    consumer.resent.earn();
    Some(index)
}

/// The same, if the packet is of the consumer's layers; else its number closes up.
pub(super) fn pass_layered(
    passing: &Passing<'_>,
    consumer: &mut Consumer,
    transport: &mut Transport,
    results: &mut PassResults<'_>,
) -> bool {
    let Some(layered) = &mut consumer.layered else { return false };
    let verdict = layered.pass(passing.now, &passing.packet.info, passing.frame);
    if verdict.wants_keyframe {
        results.want(passing.at.encoding);
    }
    let Some(edit) = verdict.edit else {
        results.counts.other_layer += 1;
        hollow(passing, consumer, transport);
        return false;
    };
    let urgency = if passing.holds && !edit.ends_picture { Urgency::FrameContinues } else { Urgency::Now };
    let index = pass(passing, consumer, transport, urgency, results);
    if let Some(index) = index {
        transport.edit(consumer.outgoing, index, edit);
    }
    index.is_some()
}

/// A packet that was missing of the previous encoding goes out under the number that was kept for it.
pub(super) fn pass_late(
    passing: &Passing<'_>,
    consumer: &mut Consumer,
    transport: &mut Transport,
    results: &mut PassResults<'_>,
) {
    let Passing { now, at, packet, frame, .. } = *passing;
    let Consumer { layered: Some(layered), rewriter, .. } = &mut *consumer else { return };
    let Some((rewritten, edit)) = layered.late(rewriter, packet.ext, packet.timestamp, &packet.info, frame) else {
        results.counts.out_of_window += 1;
        return;
    };
    if let Some(index) = enqueue(now, consumer, transport, at, rewritten, Urgency::Now, results) {
        transport.edit(consumer.outgoing, index, edit);
    }
}

/// A packet that is not for the consumer: padding takes its place when its number can no longer be closed up.
fn hollow(passing: &Passing<'_>, consumer: &mut Consumer, transport: &mut Transport) {
    let Passing { now, at, packet, .. } = *passing;
    let Some(index) = consumer.rewriter.skip(at.ext) else { return };
    let timestamp = packet.timestamp.wrapping_add(consumer.rewriter.timestamp_offset().unwrap_or(0));
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
) -> Option<(Packet, Option<DescribedFrame>)> {
    let stored = encoding.history.get(ext)?;
    let (_, descriptor, payload) = stored.parts();
    let mut info = if like.legible { inspect(codec, payload) } else { PayloadInfo::default() };
    let frame = encoding.frame_of(descriptor, &mut info);
    let (timestamp, marker) = (stored.header.timestamp, stored.header.marker);
    Some((Packet { ext, timestamp, marker, info, arrived: stored.header.arrival, ..*like }, frame))
}
