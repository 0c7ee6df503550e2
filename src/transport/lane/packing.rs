//! Packs records into full datagrams, seals each in the send buffer, and closes runs of equal ones. Packets are copied out
//! of the histories here: waiting costs a reference. The first datagram of a run gives its length; those that lack less
//! than a tenth of it are padded, a shorter one is the last.

use crate::base::buffer::{Path, Transmit};
use crate::base::limits::{RUN_BYTES_MAX, RUN_PACKETS_MAX};
use crate::base::time::{Duration, Instant};
use crate::media::history::Stored;
use crate::secure::lane::{LANE_TAG, LaneSealer};
use crate::transport::lane::item::{LanePacket, LaneQueued};
use crate::transport::lane::sent::LaneSent;
use crate::transport::lane::size::SIZE_MAX;
use crate::transport::send_buffer::SendBuffer;
use crate::wire::lane::{LANE_HEADER, LaneRecord, MEDIA_HEAD_MAX, MediaHead, PART_HEAD, PartHead, RECORD_HEAD};

/// The sending time in front of the records.
pub(super) const SENT_TIME: usize = 4;
const FRAME: usize = LANE_HEADER + SENT_TIME + LANE_TAG;
/// An age below this is not told.
const AGE_TOLD: Duration = Duration::from_millis(8);
/// Lengths of runs are rounded up to it, so that a frame's packets, which differ by a byte, share one.
const ROUND: usize = 8;

/// One flush of one lane.
pub(super) struct Packer<'a, T> {
    pub(super) now: Instant,
    pub(super) path: Path,
    /// The most that a datagram takes.
    pub(super) size: usize,
    pub(super) rtt: Duration,
    pub(super) sealer: &'a mut LaneSealer,
    pub(super) sent: &'a mut LaneSent,
    pub(super) buffer: &'a mut SendBuffer,
    pub(super) out: &'a mut T,
    pub(super) state: Packing,
}

/// Where a flush stands.
#[derive(Default, Debug)]
pub(super) struct Packing {
    run: Option<RunOpen>,
    /// Bytes of records in the datagram that is being written, and the items among them.
    used: usize,
    items: u16,
    pub(super) datagrams: u64,
    pub(super) bytes: u64,
    pub(super) records: u64,
    /// The numbers under the lane's keys are spent.
    pub(super) spent: bool,
}

#[derive(Debug)]
struct RunOpen {
    start: usize,
    end: usize,
    /// None before its first datagram is closed.
    segment: Option<usize>,
    datagrams: usize,
    oldest: Option<Instant>,
}

impl<T: Transmit> Packer<'_, T> {
    /// Appends a record whose body is the `parts`. False: it does not fit any datagram.
    pub(super) fn record(&mut self, kind: u8, parts: &[&[u8]]) -> bool {
        let len: usize = RECORD_HEAD + parts.iter().map(|part| part.len()).sum::<usize>();
        if !self.make_room(len) {
            return false;
        }
        self.put(&(u16::from(kind) << 11 | (len - RECORD_HEAD) as u16).to_be_bytes());
        parts.iter().for_each(|part| self.put(part));
        self.state.records += 1;
        true
    }

    /// Appends whole records, each of which fits a datagram.
    pub(super) fn ready_record(&mut self, record: &[u8]) -> bool {
        let fits = self.make_room(record.len());
        if fits {
            self.put(record);
            self.state.records += 1;
        }
        fits
    }

    /// Appends a packet out of its history, in parts where it does not fit.
    pub(super) fn packet(&mut self, queued: &LaneQueued, packet: &LanePacket, stored: &Stored<'_>) {
        let age = self.now.since(stored.header.arrival);
        let age = (age >= AGE_TOLD).then(|| u16::try_from(age.as_micros() / 8).unwrap_or(u16::MAX));
        let number = packet.at.ext.0 as u32;
        let head = MediaHead {
            handle: packet.handle,
            flags: packet.flags,
            number,
            timestamp: stored.header.timestamp,
            at: packet.epoch,
            layers: packet.layers,
            age,
        };
        let mut bytes = [0; MEDIA_HEAD_MAX];
        let len = head.write(stored.header.extension_len, stored.header.descriptor_len, &mut bytes);
        if !self.record(LaneRecord::MEDIA, &[&bytes[..len], stored.bytes]) {
            return self.in_parts(queued, packet, [&bytes[..len], stored.bytes]);
        }
        let live = queued.resent == 0 && age.is_none();
        if let (true, Some(run)) = (live, &mut self.state.run) {
            let arrival = stored.header.arrival;
            run.oldest = Some(run.oldest.map_or(arrival, |oldest| oldest.min(arrival)));
        }
        self.carries(queued);
    }

    pub(super) fn carries(&mut self, queued: &LaneQueued) {
        self.sent.carries(*queued);
        self.state.items += 1;
    }

    fn in_parts(&mut self, queued: &LaneQueued, packet: &LanePacket, [head, bytes]: [&[u8]; 2]) {
        let whole = [head, bytes].concat();
        let room = self.size - FRAME - RECORD_HEAD - PART_HEAD;
        let Ok(parts) = u8::try_from(whole.len().div_ceil(room)) else { return };
        for (part, bytes) in (0..parts).zip(whole.chunks(whole.len().div_ceil(parts.into()))) {
            let (handle, at) = (packet.handle, packet.epoch);
            let head = PartHead { handle, at, number: packet.at.ext.0 as u32, part, parts };
            // A datagram of its own: what shares one with it would be lost with it.
            self.close_datagram();
            self.record(LaneRecord::PART, &[&head.to_bytes(), bytes]);
            self.carries(queued);
        }
        self.close_datagram();
    }

    /// Fills the datagram up to `size` bytes: the question whether so many pass.
    pub(super) fn probe(&mut self, size: usize, record: &[u8]) {
        self.end_run();
        let usual = std::mem::replace(&mut self.size, size);
        if self.ready_record(record) {
            let padding = size - FRAME - self.state.used;
            self.pad(padding);
        }
        self.end_run();
        self.size = usual;
    }

    /// Hands the last run over to the buffer.
    pub(super) fn end_run(&mut self) {
        self.close_datagram();
        self.close_run();
    }

    /// The records that the datagram being written may have, in bytes.
    fn limit(&self) -> usize {
        let segment = self.state.run.as_ref().and_then(|run| run.segment);
        segment.unwrap_or(self.size).min(self.size) - FRAME
    }

    fn make_room(&mut self, len: usize) -> bool {
        if len > self.size - FRAME {
            return false;
        }
        if self.state.used + len > self.limit() {
            self.close_datagram();
        }
        if len > self.limit() {
            self.close_run();
        }
        if self.state.run.is_none() {
            self.buffer.make_room(RUN_BYTES_MAX + SIZE_MAX, self.out);
            let start = self.buffer.used;
            self.state.run = Some(RunOpen { start, end: start, segment: None, datagrams: 0, oldest: None });
        }
        true
    }

    fn put(&mut self, bytes: &[u8]) {
        let Some(run) = &self.state.run else { return };
        let at = run.end + LANE_HEADER + SENT_TIME + self.state.used;
        self.buffer.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self.state.used += bytes.len();
    }

    fn pad(&mut self, len: usize) {
        let Some(run) = &self.state.run else { return };
        let at = run.end + LANE_HEADER + SENT_TIME + self.state.used;
        self.buffer.bytes[at..at + len].fill(0);
        self.state.used += len;
        self.buffer.counts.padding_bytes += len as u64;
    }

    fn close_datagram(&mut self) {
        let Some(run) = self.state.run.as_ref().filter(|_| self.state.used > 0) else { return };
        let len = self.state.used + FRAME;
        let padded = match run.segment {
            None => len.next_multiple_of(ROUND).min(self.size),
            Some(segment) if len * 10 >= segment * 9 => segment,
            Some(_) => len,
        };
        self.pad(padded - len);
        self.seal(padded);
    }

    fn seal(&mut self, len: usize) {
        let Packer { now, sealer, sent, buffer, state, .. } = self;
        let Some(run) = &mut state.run else { return };
        let datagram = &mut buffer.bytes[run.end..run.end + len];
        datagram[LANE_HEADER..LANE_HEADER + SENT_TIME].copy_from_slice(&(now.as_micros() as u32).to_be_bytes());
        let items = std::mem::take(&mut state.items);
        state.used = 0;
        let Some(number) = sealer.seal(datagram) else {
            state.spent = true;
            return;
        };
        sent.on_sent(*now, number, len, items, self.rtt);
        (state.datagrams, state.bytes) = (state.datagrams + 1, state.bytes + len as u64);
        let segment = *run.segment.get_or_insert(len);
        (run.end, run.datagrams) = (run.end + len, run.datagrams + 1);
        let is_full = run.datagrams >= RUN_PACKETS_MAX || run.end - run.start + segment > RUN_BYTES_MAX;
        if len < segment || is_full {
            self.close_run();
        }
    }

    fn close_run(&mut self) {
        let Some(run) = self.state.run.take() else { return };
        let len = run.end - run.start;
        if len > 0 {
            self.buffer.close_run(self.path, run.start, len, run.segment.unwrap_or(len), run.oldest);
        }
    }
}
