//! The hot loop: one packet of a source, already in its history, to every consumer on this shard. No allocation, no
//! lock, no clock, no bytes: what goes into a transport's egress is a reference and the rewritten numbers.

use crate::base::limits::RUN_HOLD_MAX;
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
    encoding.pace.on_packet(now, packet.timestamp);
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

    for consumer_key in &source.consumers {
        let Some(consumer) = consumers.get_mut(*consumer_key) else { continue };
        if !admits(now, consumer, &source.active, packet, epoch, video, counts, &mut wanted) {
            continue;
        }
        let Some(rewritten) = consumer.rewriter.forward(now, packet.ext, packet.timestamp) else {
            counts.out_of_window += 1;
            continue;
        };
        let Some(transport) = transports.get_mut(consumer.transport) else { continue };
        let queued = Queued {
            outgoing: consumer.outgoing,
            at,
            index: rewritten.index,
            timestamp: rewritten.timestamp,
            retransmission: false,
        };
        let was_empty = transport.egress.is_empty();
        if transport.egress.push(now, queued, urgency) {
            counts.forwarded += 1;
            if was_empty {
                dirty.push(consumer.transport);
            }
        } else {
            counts.egress_full += 1;
        }
    }
    wanted
}

#[expect(clippy::too_many_arguments, reason = "as above")]
/// Whether this packet passes, and the switches it brings about.
fn admits(
    now: Instant,
    consumer: &mut Consumer,
    active: &ActiveSet,
    packet: &Packet,
    epoch: u32,
    video: bool,
    counts: &mut ForwardCounts,
    wanted: &mut u8,
) -> bool {
    match consumer.flow {
        Flow::Closed => {
            counts.closed += 1;
            false
        }
        Flow::KeyFrame if video && !packet.info.starts_keyframe => {
            counts.waiting_key_frame += 1;
            false
        }
        Flow::KeyFrame => {
            match consumer.selector.on_packet(now, packet.encoding, packet.info.starts_keyframe, active) {
                Decision::Forward | Decision::SwitchAndForward => {
                    attach(consumer, packet.encoding, epoch);
                    true
                }
                Decision::Drop | Decision::WantKeyframe(_) => {
                    counts.other_encoding += 1;
                    false
                }
            }
        }
        Flow::Open { encoding, epoch: attached } => {
            match consumer.selector.on_packet(now, packet.encoding, packet.info.starts_keyframe, active) {
                Decision::Drop => {
                    counts.other_encoding += 1;
                    return false;
                }
                Decision::WantKeyframe(encoding) => {
                    *wanted |= 1 << encoding;
                    counts.other_encoding += 1;
                    return false;
                }
                Decision::SwitchAndForward => {
                    attach(consumer, packet.encoding, epoch);
                    return true;
                }
                Decision::Forward => {}
            }
            if encoding == packet.encoding && attached != epoch {
                // The stream restarted: a decoder can only go on at a keyframe. The restart's own may have gone to
                // confirm that it was one.
                if video && !packet.info.starts_keyframe {
                    consumer.flow = Flow::KeyFrame;
                    *wanted |= 1 << encoding;
                    counts.waiting_key_frame += 1;
                    return false;
                }
                attach(consumer, packet.encoding, epoch);
            }
            true
        }
    }
}

fn attach(consumer: &mut Consumer, encoding: u8, epoch: u32) {
    consumer.rewriter.rebase(u32::from(encoding));
    consumer.flow = Flow::Open { encoding, epoch };
}
