//! The hot loop: one packet of a source, already in its history, to every consumer on this shard. No allocation, no
//! lock, no clock, no bytes: what goes into a transport's egress is a reference and the rewritten numbers.

use crate::base::limits::{CATCH_UP_PACKETS_MAX, RUN_HOLD_MAX};
use crate::base::seq::ExtSeq;
use crate::base::slab::{Key, Slab};
use crate::base::time::Instant;
use crate::media::layers::{ActiveSet, Decision};
use crate::router::consumer::{Consumer, Flow};
use crate::router::source::Source;
use crate::transport::Transport;
use crate::transport::egress::{Queued, StoredAt, Urgency};
use crate::wire::codec::PayloadInfo;

/// What the loop must know of a packet besides its place in the history.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    pub encoding: u8,
    pub ext: ExtSeq,
    /// At this machine, whichever shard got it.
    pub arrived: Instant,
    pub timestamp: u32,
    pub marker: bool,
    pub info: PayloadInfo,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForwardCounts {
    pub forwarded: u64,
    pub waiting_key_frame: u64,
    pub closed: u64,
    pub other_encoding: u64,
    /// Came before the consumer's base, or twice.
    pub out_of_window: u64,
    pub egress_full: u64,
}

/// Transports whose egress went from empty to holding something.
pub type Dirty = Vec<Key<Transport>>;

/// Returns the encodings of which some consumer wants a keyframe, one bit each.
#[expect(clippy::too_many_arguments, reason = "plain arguments: each is a part of the shard that the loop borrows")]
pub fn forward(
    now: Instant,
    key: Key<Source>,
    source: &mut Source,
    packet: &Packet,
    consumers: &mut Slab<Consumer>,
    transports: &mut Slab<Transport>,
    dirty: &mut Dirty,
    counts: &mut ForwardCounts,
) -> u8 {
    let Some(encoding) = source.encodings.get_mut(usize::from(packet.encoding)) else { return 0 };
    encoding.pace.on_packet(packet.arrived, packet.timestamp);
    let epoch = encoding.epoch;
    let video = source.codec.is_video();
    let ends_frame = packet.marker || packet.info.ends_frame;
    let urgency = if video && !ends_frame && encoding.pace.next_within(RUN_HOLD_MAX) {
        Urgency::FrameContinues
    } else {
        Urgency::Now
    };
    let mut wanted = 0;
    let (slot, generation) = key.to_parts();
    let at = StoredAt { slot, generation, encoding: packet.encoding, ext: packet.ext };
    // A keyframe can begin for a consumer when its first packet is repaired, though the others have gone by.
    let behind = encoding.newest.map_or(0, |newest| newest.0.saturating_sub(packet.ext.0));
    let starts = packet.info.starts_keyframe && behind <= CATCH_UP_PACKETS_MAX;

    for consumer_key in &source.consumers {
        let Some(consumer) = consumers.get_mut(*consumer_key) else { continue };
        let admission = admits(now, consumer, &source.active, packet, starts, epoch, video, counts, &mut wanted);
        if admission == Admission::Withheld {
            continue;
        }
        let Some(transport) = transports.get_mut(consumer.transport) else { continue };
        let was_empty = transport.egress.is_empty();
        let passed = pass(now, consumer, transport, at, packet.timestamp, urgency, counts);
        if passed && behind > 0 && admission == Admission::Attached {
            let history = &source.encodings[usize::from(packet.encoding)].history;
            for ext in (1..=behind).map(|ahead| ExtSeq(packet.ext.0 + ahead)) {
                let Some(stored) = history.get(ext) else { continue };
                pass(now, consumer, transport, StoredAt { ext, ..at }, stored.header.timestamp, Urgency::Now, counts);
            }
        }
        if was_empty && !transport.egress.is_empty() {
            dirty.push(consumer.transport);
        }
    }
    wanted
}

/// Gives one packet its outgoing numbers and a place in the transport's queue.
fn pass(
    now: Instant,
    consumer: &mut Consumer,
    transport: &mut Transport,
    at: StoredAt,
    timestamp: u32,
    urgency: Urgency,
    counts: &mut ForwardCounts,
) -> bool {
    let Some(rewritten) = consumer.rewriter.forward(now, at.ext, timestamp) else {
        counts.out_of_window += 1;
        return false;
    };
    let queued = Queued {
        outgoing: consumer.outgoing,
        at,
        index: rewritten.index,
        timestamp: rewritten.timestamp,
        retransmission: false,
    };
    let queued = transport.egress.push(now, queued, urgency);
    if queued {
        counts.forwarded += 1;
        consumer.resent.earn();
    } else {
        counts.egress_full += 1;
    }
    queued
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Admission {
    Withheld,
    Passes,
    /// The first packet after a wait or a switch.
    Attached,
}

#[expect(clippy::too_many_arguments, reason = "as above")]
/// Whether this packet passes, and the switches it brings about.
fn admits(
    now: Instant,
    consumer: &mut Consumer,
    active: &ActiveSet,
    packet: &Packet,
    starts: bool,
    epoch: u32,
    video: bool,
    counts: &mut ForwardCounts,
    wanted: &mut u8,
) -> Admission {
    match consumer.flow {
        Flow::Closed => {
            counts.closed += 1;
            Admission::Withheld
        }
        Flow::KeyFrame if video && !starts => {
            counts.waiting_key_frame += 1;
            // Asked for with every packet: the keyframe that the first request brought may never have come this far,
            // or the encoding it was about may have stopped. The source merges the requests.
            match consumer.selector.on_packet(now, packet.encoding, false, active) {
                Decision::Forward => *wanted |= 1 << packet.encoding,
                Decision::WantKeyframe(encoding) => *wanted |= 1 << encoding,
                Decision::Drop | Decision::SwitchAndForward => {}
            }
            Admission::Withheld
        }
        Flow::KeyFrame => match consumer.selector.on_packet(now, packet.encoding, starts, active) {
            Decision::Forward | Decision::SwitchAndForward => {
                attach(now, consumer, packet.encoding, epoch);
                Admission::Attached
            }
            Decision::Drop | Decision::WantKeyframe(_) => {
                counts.other_encoding += 1;
                Admission::Withheld
            }
        },
        Flow::Open { encoding, epoch: attached } => {
            match consumer.selector.on_packet(now, packet.encoding, starts, active) {
                Decision::Drop => {
                    counts.other_encoding += 1;
                    return Admission::Withheld;
                }
                Decision::WantKeyframe(encoding) => {
                    *wanted |= 1 << encoding;
                    counts.other_encoding += 1;
                    return Admission::Withheld;
                }
                Decision::SwitchAndForward => {
                    attach(now, consumer, packet.encoding, epoch);
                    return Admission::Attached;
                }
                Decision::Forward => {}
            }
            if encoding == packet.encoding && attached != epoch {
                // The stream restarted: a decoder can only go on at a keyframe. The restart's own may have gone to
                // confirm that it was one.
                if video && !starts {
                    consumer.set_flow(now, Flow::KeyFrame);
                    *wanted |= 1 << encoding;
                    counts.waiting_key_frame += 1;
                    return Admission::Withheld;
                }
                attach(now, consumer, packet.encoding, epoch);
                return Admission::Attached;
            }
            Admission::Passes
        }
    }
}

fn attach(now: Instant, consumer: &mut Consumer, encoding: u8, epoch: u32) {
    consumer.rewriter.rebase(u32::from(encoding));
    consumer.set_flow(now, Flow::Open { encoding, epoch });
}
