//! The send queue of one client, and the one place that decides where a run ends, how long it is held, its padding, the
//! transport-wide sequence number and abs-send-time. Packets are copied out of the history and sealed only when they
//! are flushed: waiting costs a reference, and dropping burns no number.

use crate::base::buffer::{Path, Run, Transmit};
use crate::base::limits::{
    EGRESS_QUEUE_MAX, PACKET_BYTES_MAX, REPLAY_BYTES_MAX, RUN_BYTES_MAX, RUN_HOLD_MAX, RUN_PACKETS_MAX,
    UNPROVED_BYTES_MAX,
};
use crate::base::prefetch::prefetch_at;
use crate::base::seq::ExtSeq;
use crate::base::slab::{Key, LINE, Slab};
use crate::base::time::{Duration, Instant, Now};
use crate::base::units::Bitrate;
use crate::media::congestion::Cluster;
use crate::media::congestion::sent_log::{Purpose, SentLog};
use crate::media::history::Stored;
use crate::media::pacer::Pacer;
use crate::secure::srtp::{DueTags, OVERHEAD_MAX, Sealer};
use crate::transport::outgoing::Outgoing;
use crate::transport::pacing::{Pacing, Probe, Replay};
use crate::transport::packet::{PADDING_PACKET_MAX, packet_len, seal, write_packet, write_padding};

/// The place of a packet's bytes until it is flushed: an opaque slot of the router's and the packet in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoredAt {
    pub slot: u32,
    pub generation: u32,
    pub encoding: u8,
    pub ext: ExtSeq,
}

/// The router's histories, as egress reads them.
pub trait PacketStore {
    fn stored(&self, at: StoredAt) -> Option<Stored<'_>>;
}

/// One queued packet.
#[derive(Clone, Copy, Debug)]
pub struct Queued {
    pub outgoing: Key<Outgoing>,
    pub at: StoredAt,
    /// Extended outgoing sequence number of the media stream.
    pub index: u64,
    pub timestamp: u32,
    pub retransmission: bool,
}

/// The departure that a packet wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Urgency {
    /// Audio, retransmissions, the last packet of a frame: flush with what has gathered.
    Now,
    /// More of the same frame is about to come: hold up to [`RUN_HOLD_MAX`].
    FrameContinues,
}

#[derive(Default)]
#[repr(C)]
pub struct Egress {
    queue: Vec<Queued>,
    due: Option<Instant>,
    /// Only where the client's bandwidth is short.
    pacing: Option<Box<Pacing>>,
    /// Gives transport-wide sequence numbers.
    pub log: SentLog,
}

/// RTP padding that makes the packets of a run equally long (RFC 3550 section 5.1), because a send costs more than some
/// bytes: this many for each packet on average, and for small ones (audio) an eighth of the run if that is more.
const PAD_PER_PACKET: usize = 16;
const PAD_SHARE: usize = 8;
const SMALL_PACKET: usize = 256;
/// The padding between neighbours. The count of padding is one byte, and a run's longest may still grow after them.
const PAD_MAX: usize = 64;
/// The part of a bounded queue that video leaves free.
const KEPT_FOR_AUDIO: usize = UNPROVED_BYTES_MAX / 4;

impl Egress {
    /// False when the queue is full: the packet is dropped by the caller's count.
    pub fn push(&mut self, now: Instant, packet: Queued, urgency: Urgency) -> bool {
        if self.queue.len() >= EGRESS_QUEUE_MAX {
            return false;
        }
        let due = match urgency {
            Urgency::Now => now,
            Urgency::FrameContinues => now + RUN_HOLD_MAX,
        };
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
        self.queue.push(packet);
        if self.queue.len() >= RUN_PACKETS_MAX {
            self.due = Some(now);
        }
        true
    }

    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Queued packets, those of a frame counted once.
    pub fn streams(&self) -> impl Iterator<Item = Key<Outgoing>> {
        self.queue.chunk_by(|a, b| a.outgoing == b.outgoing).map(|group| group[0].outgoing)
    }

    /// Prefetches the places of the next packets, some five.
    pub fn foresee(&self) {
        prefetch_at(self.queue.as_ptr_range().end, 4 * LINE);
        self.log.foresee();
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.pacing.as_ref().is_none_or(|pacing| pacing.probe.is_none())
    }

    /// Paces packets at about this target from now on; None: not at all.
    pub fn pace(&mut self, now: Instant, target: Option<Bitrate>) {
        match (target, &mut self.pacing) {
            (None, None) => {}
            (None, Some(pacing)) if pacing.probe.is_none() && pacing.replay.is_none() => {
                self.pacing = None;
                self.due = self.due.map(|_| now);
            }
            (None, Some(pacing)) => pacing.pacer = None,
            (Some(target), pacing) => {
                let pacing = pacing.get_or_insert_default();
                match &mut pacing.pacer {
                    Some(pacer) => pacer.set_target(target),
                    None => pacing.pacer = Some(Pacer::new(now, target)),
                }
            }
        }
    }

    /// Where packets are paced, holds video back for this long.
    pub fn rest(&mut self, span: Duration) {
        if let Some(pacer) = self.pacing.as_mut().and_then(|pacing| pacing.pacer.as_mut()) {
            pacer.rest(span);
        }
    }

    /// Sends padding on this stream's RTX at the rate of the cluster, beside the media.
    pub fn start_probe(&mut self, now: Instant, cluster: Cluster, stream: Key<Outgoing>) {
        self.pacing.get_or_insert_default().probe = Some(Probe::new(now, cluster, stream));
        self.due = Some(now);
    }

    /// Packets of the past are about to be pushed, which are to leave evenly within `span`. False: there is no room for
    /// them, or the path is not fit for a burst.
    pub fn make_room_for_replay(&mut self, now: Instant, packets: usize, bytes: usize, span: Duration) -> bool {
        let replay = self.pacing.as_ref().and_then(|pacing| pacing.replay.as_ref());
        let replayed = replay.map_or(0, |replay| replay.bytes);
        let short = self.pacing.as_ref().is_some_and(|pacing| pacing.pacer.is_some());
        let bytes = replayed + bytes;
        if short || bytes > REPLAY_BYTES_MAX || self.queue.len() + packets > EGRESS_QUEUE_MAX / 2 {
            return false;
        }
        self.pacing.get_or_insert_default().replay = Some(Replay::new(now, bytes, span));
        true
    }

    /// The packet that left last is not live.
    pub fn is_replaying(&self) -> bool {
        self.pacing.as_ref().is_some_and(|pacing| pacing.replay.is_some())
    }

    pub fn len(&self) -> usize {
        self.queue.len()
    }

    pub fn clear(&mut self) {
        self.queue.clear();
        self.due = None;
        if let Some(pacing) = &mut self.pacing {
            (pacing.probe, pacing.replay) = (None, None);
        }
    }
}

/// The slab that a shard seals into, with the runs in it. A full one is handed on and begins anew.
pub struct SendSlab {
    bytes: Box<[u8]>,
    used: usize,
    runs: Vec<Run>,
    /// Completed before it is handed on.
    due_tags: DueTags,
    /// Empty between flushes.
    plan: Vec<Planned<'static>>,
    pub counts: SendCounts,
}

const RUN_BUCKETS: usize = 7;

#[derive(Default, Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendCounts {
    pub runs: u64,
    pub packets: u64,
    pub packets_in_long_runs: u64,
    /// Runs by their number of packets: up to 1, 2, 4, 8 and so on, the last without a bound.
    pub runs_up_to: [u64; RUN_BUCKETS],
    pub padding_bytes: u64,
    /// Left the queue unsent because the history no longer held them.
    pub lost_from_history: u64,
    /// Dropped: longer than [`PACKET_BYTES_MAX`] with all additions.
    pub too_long: u64,
    /// Dropped: the sealer would not take the number, or knows too many SSRCs.
    pub unsealed: u64,
    /// Dropped: above the allowance of a path that has yet to be proved.
    pub beyond_proof: u64,
}

#[derive(Clone, Copy)]
struct Planned<'a> {
    queued: Queued,
    stored: Stored<'a>,
    /// Its place in the queue.
    position: u16,
    len: u16,
    pad_to: u16,
    place: Place,
    ends_run: bool,
}

/// The place of a packet in a flush of several streams, by what it shares with those of others.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// For small packets (audio), the rank in its stream, from 1: those of all streams in turn share a run.
    turn: u16,
    /// Falls with its length, or with the longest of its stream.
    rank: u16,
}

const SLAB_BYTES: usize = 256 * 1024;

impl Default for SendSlab {
    fn default() -> Self {
        SendSlab {
            bytes: vec![0; SLAB_BYTES].into_boxed_slice(),
            used: 0,
            runs: Vec::with_capacity(512),
            due_tags: DueTags::default(),
            plan: Vec::with_capacity(EGRESS_QUEUE_MAX),
            counts: SendCounts::default(),
        }
    }
}

impl SendSlab {
    /// Queues one ready datagram (STUN, DTLS, RTCP).
    pub fn datagram<T: Transmit>(&mut self, path: Path, datagram: &[u8], out: &mut T) {
        if datagram.is_empty() || datagram.len() > u16::MAX as usize {
            return;
        }
        self.make_room(datagram.len(), out);
        let start = self.used;
        self.bytes[start..start + datagram.len()].copy_from_slice(datagram);
        self.close_run(path, start, datagram.len(), datagram.len(), None);
    }

    /// Hands over the gathered datagrams.
    pub fn finish<T: Transmit>(&mut self, out: &mut T) {
        self.due_tags.write(&mut self.bytes);
        if !self.runs.is_empty() {
            out.transmit(&self.bytes[..self.used], &self.runs);
            self.runs.clear();
        }
        self.used = 0;
    }

    /// A panic may have left packets that are in no run.
    pub fn after_fault(&mut self) {
        self.due_tags.forget_from(self.used);
    }

    fn make_room<T: Transmit>(&mut self, bytes: usize, out: &mut T) {
        if self.used + bytes > self.bytes.len() {
            self.finish(out);
        }
    }

    fn close_run(&mut self, path: Path, start: usize, len: usize, segment: usize, oldest: Option<Instant>) {
        let run = Run { path, start: start as u32, len: len as u32, segment: segment as u16, oldest };
        let packets = run.packets() as u64;
        self.counts.runs += 1;
        self.counts.packets += packets;
        if packets > 1 {
            self.counts.packets_in_long_runs += packets;
        }
        let bucket = packets.max(1).next_power_of_two().ilog2() as usize;
        self.counts.runs_up_to[bucket.min(RUN_BUCKETS - 1)] += 1;
        self.runs.push(run);
        self.used = start + len;
    }
}

/// The parts of the transport that flushing needs besides its queue.
pub struct Exit<'a> {
    pub path: Path,
    /// The bytes that may leave; no bound is `usize::MAX`.
    pub room: usize,
    pub sealer: &'a mut Sealer,
    pub outgoing: &'a mut Slab<Outgoing>,
}

impl Egress {
    /// Seals the whole queue into `slab` as runs for `exit.path`. Returns the number of bytes.
    pub fn flush<S: PacketStore, T: Transmit>(
        &mut self,
        now: Now,
        exit: Exit<'_>,
        store: &S,
        slab: &mut SendSlab,
        out: &mut T,
    ) -> u64 {
        let Exit { path, mut room, sealer, outgoing } = exit;
        let bounded = room < usize::MAX;
        let mut plan = emptied(std::mem::take(&mut slab.plan));
        // The time in the history before a request is not a delay of ours.
        let live = !self.is_replaying();
        if let Some(pacing) = &mut self.pacing {
            pacing.hold_back(now.mono, &mut self.queue, outgoing, store);
        }
        for group in self.queue.chunk_by(|a, b| a.outgoing == b.outgoing) {
            let Some(stream) = outgoing.get(group[0].outgoing) else { continue };
            let kept = if stream.audio { 0 } else { KEPT_FOR_AUDIO };
            for queued in group {
                let Some(stored) = store.stored(queued.at) else {
                    slab.counts.lost_from_history += 1;
                    continue;
                };
                let len = packet_len(stream, &stored, queued) + sealer.tag_len();
                if len > PACKET_BYTES_MAX + OVERHEAD_MAX {
                    slab.counts.too_long += 1;
                    continue;
                }
                if len + kept > room {
                    slab.counts.beyond_proof += 1;
                    continue;
                }
                room -= len;
                plan.push(Planned {
                    queued: *queued,
                    stored,
                    position: plan.len() as u16,
                    len: len as u16,
                    pad_to: 0,
                    place: Place::default(),
                    ends_run: false,
                });
            }
        }
        self.queue.clear();
        self.due = self.pacing.as_mut().and_then(|pacing| pacing.give_back(&mut self.queue));
        self.pacing.take_if(|pacing| pacing.is_idle());
        arrange(&mut plan);
        cut_into_runs(&mut plan);

        let mut bytes = 0;
        for run in plan.chunk_by(|packet, _| !packet.ends_run) {
            slab.make_room(RUN_BYTES_MAX + PACKET_BYTES_MAX + OVERHEAD_MAX, out);
            let start = slab.used;
            let mut end = start;
            let mut oldest: Option<Instant> = None;
            for group in run.chunk_by(|a, b| a.queued.outgoing == b.queued.outgoing) {
                let Some(stream) = outgoing.get_mut(group[0].queued.outgoing) else { continue };
                for Planned { queued, stored, len, pad_to, .. } in group {
                    let padding = usize::from(pad_to.saturating_sub(*len));
                    slab.counts.padding_bytes += padding as u64;
                    let sequence = self.log.next_seq();
                    let written = write_packet(&mut slab.bytes[end..], now, stream, queued, stored, padding, sequence);
                    let (into, due) = (&mut slab.bytes, &mut slab.due_tags);
                    let Some(len) = seal(sealer, stream, queued, written, end, into, due) else {
                        slab.counts.unsealed += 1;
                        continue;
                    };
                    if written.uses_transport_seq {
                        self.log.sent(now.mono, len, stream.purpose(), stream.tag(queued.outgoing));
                    }
                    stream.sent.packets += 1;
                    if queued.retransmission {
                        stream.sent.retransmitted_bytes += len as u64;
                    } else {
                        stream.sent.octets += u64::from(written.payload);
                        stream.sent.timestamp = queued.timestamp;
                    }
                    stream.sent.bytes += len as u64;
                    if live && !queued.retransmission {
                        let arrival = stored.header.arrival;
                        oldest = Some(oldest.map_or(arrival, |oldest| oldest.min(arrival)));
                    }
                    end += len;
                }
            }
            if end > start {
                bytes += (end - start) as u64;
                let segment = usize::from(run[0].pad_to);
                slab.close_run(path, start, end - start, segment.min(end - start), oldest);
            }
        }
        slab.plan = emptied(plan);
        if bounded && let Some(pacing) = &mut self.pacing {
            pacing.probe = None;
        }
        if self.pacing.as_ref().is_some_and(|pacing| pacing.probe.is_some()) {
            bytes += self.send_padding(now, path, sealer, outgoing, slab, out);
        }
        bytes
    }

    /// The due part of the probe: RTX packets of nothing but padding (RFC 4588 section 4 leaves them without a
    /// payload).
    fn send_padding<T: Transmit>(
        &mut self,
        now: Now,
        path: Path,
        sealer: &mut Sealer,
        outgoing: &mut Slab<Outgoing>,
        slab: &mut SendSlab,
        out: &mut T,
    ) -> u64 {
        let Some(pacing) = &mut self.pacing else { return 0 };
        let Some(probe) = &mut pacing.probe else { return 0 };
        slab.make_room(RUN_BYTES_MAX, out);
        let (start, mut end, mut segment) = (slab.used, slab.used, 0);
        let mut alive = true;
        while alive && probe.is_due(now.mono) && end - start + PADDING_PACKET_MAX <= RUN_BYTES_MAX {
            let stream = outgoing.get_mut(probe.stream);
            let sent = stream.and_then(|stream| {
                let len = write_padding(&mut slab.bytes[end..], now, stream, self.log.next_seq(), sealer)?;
                stream.sent.packets += 1;
                stream.sent.retransmitted += 1;
                stream.sent.bytes += len as u64;
                Some((len, stream.tag(probe.stream)))
            });
            alive = sent.is_some();
            if let Some((len, tag)) = sent {
                self.log.sent(now.mono, len, Purpose::Probe(probe.cluster.id), tag);
                probe.sent(len);
                (end, segment) = (end + len, len);
            }
        }
        if alive && !probe.is_done() {
            let next = now.mono + Probe::GAP;
            self.due = Some(self.due.map_or(next, |due| due.min(next)));
        } else {
            pacing.probe = None;
        }
        if end > start {
            slab.close_run(path, start, end - start, segment, None);
        }
        (end - start) as u64
    }
}

/// The same memory, for packets of other histories (collecting in place allocates nothing).
fn emptied<'a>(mut plan: Vec<Planned<'_>>) -> Vec<Planned<'a>> {
    plan.clear();
    plan.into_iter().map(|_| unreachable!("it is empty")).collect()
}

/// Orders packets so that those that can share a run are neighbours, with little padding. Packets of one stream keep
/// their order; those of a frame stay side by side.
fn arrange(plan: &mut [Planned<'_>]) {
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
fn cut_into_runs(plan: &mut [Planned<'_>]) {
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
