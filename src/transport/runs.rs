//! The order of departure, and the end of a run of equal packets (udp(7), UDP_SEGMENT): pure arithmetic over lengths.

use crate::base::limits::{RUN_BYTES_MAX, RUN_PACKETS_MAX};
use crate::media::history::Stored;
use crate::transport::queued::Queued;

/// RTP padding that makes the packets of a run equally long (RFC 3550 section 5.1), because a send costs more than some
/// bytes: this many for each packet on average, and for small ones (audio) an eighth of the run if that is more.
const PAD_PER_PACKET: usize = 16;
const PAD_SHARE: usize = 8;
const SMALL_PACKET: usize = 256;
/// The padding between neighbours. The count of padding is one byte, and a run's longest may still grow after them.
const PAD_MAX: usize = 64;

#[derive(Clone, Copy)]
pub(super) struct Planned<'a> {
    pub(super) queued: Queued,
    pub(super) stored: Stored<'a>,
    /// Its place in the queue.
    position: u16,
    pub(super) len: u16,
    pub(super) pad_to: u16,
    place: Place,
    pub(super) ends_run: bool,
}

impl<'a> Planned<'a> {
    pub(super) fn new(queued: Queued, stored: Stored<'a>, position: u16, len: u16) -> Planned<'a> {
        Planned { queued, stored, position, len, pad_to: 0, place: Place::default(), ends_run: false }
    }
}

/// The place of a packet in a flush of several streams, by what it shares with those of others.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// For small packets (audio), the rank in its stream, from 1: those of all streams in turn share a run.
    turn: u16,
    /// Falls with its length, or with the longest of its stream.
    rank: u16,
}

/// The same memory, for packets of other histories (collecting in place allocates nothing).
pub(super) fn emptied<'a>(mut plan: Vec<Planned<'_>>) -> Vec<Planned<'a>> {
    plan.clear();
    plan.into_iter().map(|_| unreachable!("it is empty")).collect()
}

/// Orders packets so that those that can share a run are neighbours, with little padding. Packets of one stream keep
/// their order; those of a frame stay side by side.
pub(super) fn arrange(plan: &mut [Planned<'_>]) {
    let stream = |planned: &Planned<'_>| planned.queued.outgoing.slot();
    let Some(first) = plan.first().map(stream) else { return };
    if plan.iter().all(|planned| stream(planned) == first) {
        return;
    }
    plan.sort_unstable_by_key(|planned| (stream(planned), planned.position));
    for group in plan.chunk_by_mut(|a, b| stream(a) == stream(b)) {
        let longest = group.iter().map(|planned| planned.len).max().unwrap_or(0);
        for (planned, turn) in group.iter_mut().zip(1..) {
            planned.place = match usize::from(longest) <= SMALL_PACKET {
                true => Place { turn, rank: u16::MAX - planned.len },
                false => Place { turn: 0, rank: u16::MAX - longest },
            };
        }
    }
    plan.sort_unstable_by_key(|planned| (planned.place, stream(planned), planned.position));
}

/// Greedy: a run goes on while little padding makes its packets equal. Only the last may be shorter (udp(7),
/// UDP_SEGMENT).
pub(super) fn cut_into_runs(plan: &mut [Planned<'_>]) {
    let mut start = 0;
    while start < plan.len() {
        let mut longest = usize::from(plan[start].len);
        let mut sum = longest;
        let mut end = start + 1;
        while end < plan.len() && end - start < RUN_PACKETS_MAX {
            let len = usize::from(plan[end].len);
            let count = end - start + 1;
            let padded = longest.max(len) * count;
            let allowed = if longest.max(len) <= SMALL_PACKET { (sum + len) / PAD_SHARE } else { 0 };
            let equal = padded - sum - len <= allowed.max(PAD_PER_PACKET * count) && longest.abs_diff(len) <= PAD_MAX;
            if padded > RUN_BYTES_MAX || (len > longest && !equal) {
                break;
            }
            end += 1;
            if !equal {
                break;
            }
            longest = longest.max(len);
            sum += len;
        }
        for planned in &mut plan[start..end] {
            planned.pad_to = longest as u16;
        }
        let last = &mut plan[end - 1];
        last.ends_run = true;
        // Padded only when others follow it, or when it is the length that the others are padded to.
        last.pad_to = last.len;
        if end - start > 1 {
            plan[start].pad_to = longest as u16;
        }
        start = end;
    }
}
