//! The admission of a packet to one consumer, and the switches between encodings that it causes. Called by `forward`.

use crate::base::time::Instant;
use crate::media::encoding_choice::Decision;
use crate::router::consumer::{Consumer, Flow};
use crate::router::layered::Layered;
use crate::router::packet::Packet;
use crate::router::pass::{PassResults, Passing};
use crate::router::source::Source;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    Withheld,
    Passes,
    /// The first packet after a wait or a switch.
    Attached,
    /// A packet of the previous encoding that may have been missing at the switch.
    Late,
}

fn other_encoding(consumer: &Consumer, packet: &Packet, epoch: u32, results: &mut PassResults<'_>) -> Admission {
    let awaits = |layered: &Layered| layered.awaits(packet.encoding, epoch, packet.ext);
    if consumer.layered.as_deref().is_some_and(awaits) {
        return Admission::Late;
    }
    results.counts.other_encoding += 1;
    Admission::Withheld
}

/// The beginning that a packet can be.
#[derive(Clone, Copy)]
pub(super) struct Start {
    pub(super) video: bool,
    /// A decoder can start with it.
    pub(super) starts: bool,
    /// Of its encoding.
    pub(super) epoch: u32,
}

/// The decision about this packet, and the switches that it causes.
pub(super) fn admits(
    passing: &Passing<'_>,
    start: Start,
    consumer: &mut Consumer,
    source: &Source,
    results: &mut PassResults<'_>,
) -> Admission {
    let Passing { now, packet, .. } = *passing;
    let Start { video, starts, epoch } = start;
    let select = |consumer: &mut Consumer, starts: bool| match &mut consumer.layered {
        None => Decision::Forward,
        Some(layered) => layered.select(now, packet.encoding, starts, &source.active),
    };
    let starts = starts && !steps_back(now, consumer, source, packet);
    let start = Start { starts, ..start };
    match consumer.flow {
        Flow::Closed => {
            results.counts.closed += 1;
            Admission::Withheld
        }
        Flow::KeyFrame if video && !starts => {
            results.counts.waiting_key_frame += 1;
            // Requested with every packet: the keyframe that the first request brought may have been lost on its way
            // here, or its encoding may have stopped. The source merges the requests.
            match select(consumer, false) {
                Decision::Forward => results.want(packet.encoding),
                Decision::WantKeyframe(encoding) => results.want(encoding),
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
                results.counts.other_encoding += 1;
                Admission::Withheld
            }
        },
        Flow::Open { encoding, epoch: attached } => {
            match select(consumer, starts) {
                Decision::Drop => return other_encoding(consumer, packet, epoch, results),
                Decision::WantKeyframe(encoding) => {
                    results.want(encoding);
                    return other_encoding(consumer, packet, epoch, results);
                }
                Decision::SwitchAndForward => {
                    attach(now, consumer, source, packet.encoding, epoch);
                    return Admission::Attached;
                }
                Decision::Forward => {}
            }
            if encoding == packet.encoding && attached != epoch {
                return restarted(passing, start, consumer, source, results);
            }
            Admission::Passes
        }
    }
}

/// The stream restarted: a decoder can only go on at a keyframe. The restart's own keyframe may have been used up to
/// confirm the restart.
#[cold]
fn restarted(
    passing: &Passing<'_>,
    Start { video, starts, epoch }: Start,
    consumer: &mut Consumer,
    source: &Source,
    results: &mut PassResults<'_>,
) -> Admission {
    let encoding = passing.packet.encoding;
    if video && !starts {
        consumer.set_flow(passing.now, Flow::KeyFrame);
        results.want(encoding);
        results.counts.waiting_key_frame += 1;
        return Admission::Withheld;
    }
    attach(passing.now, consumer, source, encoding, epoch);
    Admission::Attached
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
        Some(ahead) => consumer.rewriter.rebase_aligned(encoding, ahead),
        None => consumer.rewriter.rebase(encoding),
    }
    consumer.set_flow(now, Flow::Open { encoding, epoch });
    if let Some(layered) = &mut consumer.layered {
        layered.attach(source.active.layer(encoding));
    }
}
