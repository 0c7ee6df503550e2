//! The buffer that a shard seals into, with the runs in it, and the counters of sent packets.

use crate::base::buffer::{Path, Run, Transmit};
use crate::base::limits::EGRESS_QUEUE_MAX;
use crate::base::time::Instant;
use crate::secure::srtp::DueTags;
use crate::transport::runs::Planned;

/// The buffer that a shard seals into, with the runs in it. A full one is handed on and begins anew.
pub struct SendBuffer {
    pub(super) bytes: Box<[u8]>,
    pub(super) used: usize,
    runs: Vec<Run>,
    /// Completed before it is handed on.
    pub(super) due_tags: DueTags,
    /// Empty between flushes.
    pub(super) plan: Vec<Planned<'static>>,
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
    /// Dropped: longer than [`PACKET_BYTES_MAX`](crate::base::limits::PACKET_BYTES_MAX) with all additions.
    pub too_long: u64,
    /// Dropped: the sealer would not take the number, or knows too many SSRCs.
    pub unsealed: u64,
    /// Dropped: above the allowance of a path that has yet to be proved.
    pub beyond_proof: u64,
}

const SEND_BUFFER_BYTES: usize = 256 * 1024;

impl Default for SendBuffer {
    fn default() -> Self {
        SendBuffer {
            bytes: vec![0; SEND_BUFFER_BYTES].into_boxed_slice(),
            used: 0,
            runs: Vec::with_capacity(512),
            due_tags: DueTags::default(),
            plan: Vec::with_capacity(EGRESS_QUEUE_MAX),
            counts: SendCounts::default(),
        }
    }
}

impl SendBuffer {
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

    pub(super) fn make_room<T: Transmit>(&mut self, bytes: usize, out: &mut T) {
        if self.used + bytes > self.bytes.len() {
            self.finish(out);
        }
    }

    pub(super) fn close_run(&mut self, path: Path, start: usize, len: usize, segment: usize, oldest: Option<Instant>) {
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
