//! The send queue of one client, and the one place that decides where a run ends, how long it is held, its padding, the
//! transport-wide sequence number and abs-send-time. Packets are copied out of the history and sealed only when they
//! are flushed: waiting costs a reference, and dropping burns no number.

use crate::base::buffer::{Path, Transmit};
use crate::base::limits::{
    EGRESS_QUEUE_MAX, PACKET_BYTES_MAX, REPLAY_BYTES_MAX, RUN_BYTES_MAX, RUN_HOLD_MAX, RUN_PACKETS_MAX,
    UNPROVED_BYTES_MAX,
};
use crate::base::prefetch::{LINE, prefetch_at};
use crate::base::slab::{Key, Slab};
use crate::base::time::{Duration, Instant, Now};
use crate::media::congestion::Cluster;
use crate::media::congestion::sent_log::{Purpose, SentLog};
use crate::media::pacer::{Pace, Pacer};
use crate::secure::srtp::{OVERHEAD_MAX, Sealer};
use crate::transport::outgoing::Outgoing;
use crate::transport::pacing::{Pacing, Probe, Replay};
use crate::transport::packet::{PADDING_PACKET_MAX, packet_len, seal, write_packet, write_padding};
use crate::transport::queued::{PacketStore, Queued, Urgency};
use crate::transport::runs::{Planned, arrange, cut_into_runs, emptied};
use crate::transport::send_buffer::{SendBuffer, SendCounts};

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
    pub fn prefetch(&self) {
        prefetch_at(self.queue.as_ptr_range().end, 4 * LINE);
        self.log.prefetch();
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.pacing.as_ref().is_none_or(|pacing| pacing.probe.is_none())
    }

    /// Paces packets from now on; None: not at all.
    pub fn pace(&mut self, now: Instant, pace: Option<Pace>) {
        match (pace, &mut self.pacing) {
            (None, None) => {}
            (None, Some(pacing)) if pacing.probe.is_none() && pacing.replay.is_none() => {
                self.pacing = None;
                self.due = self.due.map(|_| now);
            }
            (None, Some(pacing)) => pacing.pacer = None,
            (Some(pace), pacing) => {
                let pacing = pacing.get_or_insert_default();
                match &mut pacing.pacer {
                    Some(pacer) => pacer.set_pace(pace),
                    None => pacing.pacer = Some(Pacer::new(now, pace)),
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

    /// Takes the retransmissions of this stream out of the queue. Returns their number.
    pub fn give_up_repairs(&mut self, stream: Key<Outgoing>) -> usize {
        let before = self.queue.len();
        self.queue.retain(|queued| queued.outgoing != stream || !queued.retransmission);
        before - self.queue.len()
    }

    pub fn clear(&mut self) {
        self.queue.clear();
        self.due = None;
        if let Some(pacing) = &mut self.pacing {
            (pacing.probe, pacing.replay) = (None, None);
        }
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
    /// Seals the whole queue into `buffer` as runs for `exit.path`. Returns the number of bytes.
    pub fn flush<S: PacketStore, T: Transmit>(
        &mut self,
        now: Now,
        mut exit: Exit<'_>,
        store: &S,
        buffer: &mut SendBuffer,
        out: &mut T,
    ) -> u64 {
        // The time in the history before a request is not a delay of ours.
        let live = !self.is_replaying();
        if let Some(pacing) = &mut self.pacing {
            pacing.hold_back(now.mono, &mut self.queue, exit.outgoing, store);
        }
        let mut plan = emptied(std::mem::take(&mut buffer.plan));
        self.plan(&mut exit, store, &mut buffer.counts, &mut plan);
        self.queue.clear();
        self.due = self.pacing.as_mut().and_then(|pacing| pacing.give_back(&mut self.queue));
        self.pacing.take_if(|pacing| pacing.is_idle());
        arrange(&mut plan);
        cut_into_runs(&mut plan);

        let mut bytes = 0;
        for run in plan.chunk_by(|packet, _| !packet.ends_run) {
            bytes += self.seal_run(now, &mut exit, run, live, buffer, out);
        }
        buffer.plan = emptied(plan);
        if self.pacing.as_ref().is_some_and(|pacing| pacing.probe.is_some()) {
            bytes += self.send_padding(now, exit, buffer, out);
        }
        bytes
    }

    /// The packets of the queue that can leave, with their bytes and lengths; the others are counted.
    fn plan<'a, S: PacketStore>(
        &self,
        exit: &mut Exit<'_>,
        store: &'a S,
        counts: &mut SendCounts,
        plan: &mut Vec<Planned<'a>>,
    ) {
        for group in self.queue.chunk_by(|a, b| a.outgoing == b.outgoing) {
            let Some(stream) = exit.outgoing.get(group[0].outgoing) else { continue };
            let kept = if stream.audio { 0 } else { KEPT_FOR_AUDIO };
            for queued in group {
                let Some(stored) = store.stored(queued.at) else {
                    counts.lost_from_history += 1;
                    continue;
                };
                let len = packet_len(stream, &stored, queued) + exit.sealer.tag_len();
                if len > PACKET_BYTES_MAX + OVERHEAD_MAX {
                    counts.too_long += 1;
                    continue;
                }
                if len + kept > exit.room {
                    counts.beyond_proof += 1;
                    continue;
                }
                exit.room -= len;
                plan.push(Planned::new(*queued, stored, plan.len() as u16, len as u16));
            }
        }
    }

    /// Writes and seals the packets of one run; its bytes.
    #[inline]
    fn seal_run<T: Transmit>(
        &mut self,
        now: Now,
        exit: &mut Exit<'_>,
        run: &[Planned<'_>],
        live: bool,
        buffer: &mut SendBuffer,
        out: &mut T,
    ) -> u64 {
        buffer.make_room(RUN_BYTES_MAX + PACKET_BYTES_MAX + OVERHEAD_MAX, out);
        let start = buffer.used;
        let mut end = start;
        let mut oldest: Option<Instant> = None;
        for group in run.chunk_by(|a, b| a.queued.outgoing == b.queued.outgoing) {
            let Some(stream) = exit.outgoing.get_mut(group[0].queued.outgoing) else { continue };
            for Planned { queued, stored, len, pad_to, .. } in group {
                let padding = usize::from(pad_to.saturating_sub(*len));
                buffer.counts.padding_bytes += padding as u64;
                let sequence = self.log.next_seq();
                let written = write_packet(&mut buffer.bytes[end..], now, stream, queued, stored, padding, sequence);
                let (into, due) = (&mut buffer.bytes, &mut buffer.due_tags);
                let Some(len) = seal(exit.sealer, stream, queued, written, end, into, due) else {
                    buffer.counts.unsealed += 1;
                    continue;
                };
                if written.uses_transport_seq {
                    self.log.sent(now.mono, len, stream.purpose(), stream.tag(queued.outgoing));
                }
                if queued.retransmission {
                    stream.count_retransmission(len);
                } else {
                    stream.count(queued.timestamp, len, written.payload);
                }
                if live && !queued.retransmission {
                    let arrival = stored.header.arrival;
                    oldest = Some(oldest.map_or(arrival, |oldest| oldest.min(arrival)));
                }
                end += len;
            }
        }
        if end > start {
            let segment = usize::from(run[0].pad_to);
            buffer.close_run(exit.path, start, end - start, segment.min(end - start), oldest);
        }
        (end - start) as u64
    }

    /// The due part of the probe: RTX packets of nothing but padding (RFC 4588 section 4 leaves them without a
    /// payload).
    fn send_padding<T: Transmit>(
        &mut self,
        now: Now,
        Exit { path, room, sealer, outgoing }: Exit<'_>,
        buffer: &mut SendBuffer,
        out: &mut T,
    ) -> u64 {
        let Some(pacing) = &mut self.pacing else { return 0 };
        let Some(probe) = &mut pacing.probe else { return 0 };
        buffer.make_room(RUN_BYTES_MAX, out);
        let (start, mut end, mut segment) = (buffer.used, buffer.used, 0);
        let mut alive = true;
        // A path that carries too little to ask for video has to be probed, or it would never be proved.
        let room = room.saturating_sub(KEPT_FOR_AUDIO);
        while alive && probe.is_due(now.mono) && end - start + PADDING_PACKET_MAX <= RUN_BYTES_MAX {
            if end - start + PADDING_PACKET_MAX > room {
                alive = false;
                break;
            }
            let stream = outgoing.get_mut(probe.stream);
            let sent = stream.and_then(|stream| {
                let len = write_padding(&mut buffer.bytes[end..], now, stream, self.log.next_seq(), sealer)?;
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
            buffer.close_run(path, start, end - start, segment, None);
        }
        (end - start) as u64
    }
}
