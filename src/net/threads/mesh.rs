//! The mesh: one single-producer, single-consumer byte ring for each ordered pair of shards, carrying records whose
//! content only the shards know. A record is copied in once and read in place; a full ring refuses (the shard drops and
//! counts). Bells are rung once per batch and target.

use crate::base::id::ShardId;
use crate::base::limits::{MESH_RECORD_BYTES_MAX, MESH_RING_BYTES, MESH_RING_BYTES_MIN, MESH_TOTAL_BYTES_MAX};
use crate::base::time::Instant;
use crate::net::doorbell::Doorbell;

/// The head of a record in its ring.
#[derive(Clone, Copy)]
struct Head {
    len: u32,
    /// The time of the push, from which the receiver has the time on the way.
    left: Instant,
}

impl Head {
    const LEN: usize = 4 + 8;

    fn to_bytes(self) -> [u8; Head::LEN] {
        let mut bytes = [0; Head::LEN];
        bytes[..4].copy_from_slice(&self.len.to_le_bytes());
        bytes[4..].copy_from_slice(&self.left.as_nanos().to_le_bytes());
        bytes
    }

    fn from_bytes([a, b, c, d, left @ ..]: [u8; Head::LEN]) -> Head {
        Head { len: u32::from_le_bytes([a, b, c, d]), left: Instant::from_nanos(u64::from_le_bytes(left)) }
    }
}

/// The size of each ring when `shards` shards all talk to each other.
pub fn ring_bytes(shards: usize) -> usize {
    let pairs = shards.saturating_mul(shards.saturating_sub(1)).max(1);
    (MESH_TOTAL_BYTES_MAX / pairs).clamp(MESH_RING_BYTES_MIN, MESH_RING_BYTES)
}

/// One shard's side of the mesh.
pub struct MeshEnd {
    pub sender: MeshSender,
    pub receiver: MeshReceiver,
}

/// An end for each shard, in the order of `shards`. Pages of a ring are touched only when records cross it.
pub fn build(shards: &[(ShardId, Doorbell)], ring_bytes: usize) -> Vec<MeshEnd> {
    let mut ends: Vec<MeshEnd> = shards
        .iter()
        .map(|_| MeshEnd {
            sender: MeshSender { lanes: Vec::new(), counters: MeshCounters::default() },
            receiver: MeshReceiver { lanes: Vec::new(), next: 0, scratch: vec![0; MESH_RECORD_BYTES_MAX] },
        })
        .collect();
    for (from, (from_id, _)) in shards.iter().enumerate() {
        for (to, (to_id, bell)) in shards.iter().enumerate() {
            if from == to {
                continue;
            }
            let (producer, consumer) = rtrb::RingBuffer::new(ring_bytes);
            ends[from].sender.lanes.push(OutLane { to: *to_id, ring: producer, bell: bell.clone(), dirty: false });
            ends[to].receiver.lanes.push(InLane { from: *from_id, ring: consumer, pending: None });
        }
    }
    ends
}

#[derive(Clone, Copy, Debug, Default)]
pub struct MeshCounters {
    pub records_sent: u64,
    pub bytes_sent: u64,
    pub refused_full: u64,
    pub refused_unfit: u64,
    /// Sleeping shards woken.
    pub wakes: u64,
}

struct OutLane {
    to: ShardId,
    ring: rtrb::Producer<u8>,
    bell: Doorbell,
    dirty: bool,
}

pub struct MeshSender {
    lanes: Vec<OutLane>,
    counters: MeshCounters,
}

impl MeshSender {
    /// False: the ring to that shard is full, or there is no such shard, or the record is too long. Nothing of it is
    /// sent then.
    pub fn push(&mut self, to: ShardId, now: Instant, record: &[u8]) -> bool {
        let lane = self.lanes.iter_mut().find(|lane| lane.to == to);
        let (Some(lane), true) = (lane, record.len() <= MESH_RECORD_BYTES_MAX) else {
            self.counters.refused_unfit += 1;
            return false;
        };
        if lane.ring.slots() < Head::LEN + record.len() {
            self.counters.refused_full += 1;
            // The receiver may be asleep on a ring that is full since the last bell.
            lane.dirty = true;
            return false;
        }
        let head = Head { len: record.len() as u32, left: now }.to_bytes();
        for part in [&head[..], record] {
            lane.ring.push_entire_slice(part).expect("there was room for both, and only this side fills the ring");
        }
        lane.dirty = true;
        self.counters.records_sent += 1;
        self.counters.bytes_sent += record.len() as u64;
        true
    }

    /// Wakes every shard that was pushed to since the last call: once after a batch.
    pub fn ring(&mut self) {
        for lane in &mut self.lanes {
            if std::mem::take(&mut lane.dirty) {
                self.counters.wakes += u64::from(lane.bell.ring());
            }
        }
    }

    pub fn counters(&self) -> &MeshCounters {
        &self.counters
    }
}

struct InLane {
    from: ShardId,
    ring: rtrb::Consumer<u8>,
    /// A head that was read before its record was in the ring.
    pending: Option<Head>,
}

pub struct MeshReceiver {
    lanes: Vec<InLane>,
    /// The lane the next round starts with, so that a loud shard starves none.
    next: usize,
    /// For the few records that lie around the end of their ring.
    scratch: Vec<u8>,
}

impl MeshReceiver {
    pub fn is_empty(&self) -> bool {
        self.lanes.iter().all(|lane| lane.ring.is_empty())
    }

    /// Drains up to `limit` records, one lane after the other; true when some may be left. A record leaves the ring
    /// when `take` returns, so a panic must not leave `take`.
    pub fn pop(&mut self, limit: usize, mut take: impl FnMut(ShardId, Instant, &[u8])) -> bool {
        let lanes = self.lanes.len();
        let mut left = limit;
        for turn in 0..lanes {
            let lane = &mut self.lanes[(self.next + turn) % lanes];
            while left > 0 {
                let mut bytes = [0; Head::LEN];
                let head = match lane.pending.take() {
                    Some(head) => head,
                    None if lane.ring.pop_entire_slice(&mut bytes).is_ok() => Head::from_bytes(bytes),
                    None => break,
                };
                let len = head.len as usize;
                let Ok(record) = lane.ring.read_chunk(len) else {
                    lane.pending = Some(head);
                    break;
                };
                match record.as_slices() {
                    (whole, []) => take(lane.from, head.left, whole),
                    (start, rest) => {
                        // The length is our own: `push` bounds it.
                        let copy = &mut self.scratch[..len];
                        copy[..start.len()].copy_from_slice(start);
                        copy[start.len()..].copy_from_slice(rest);
                        take(lane.from, head.left, copy);
                    }
                }
                record.commit_all();
                left -= 1;
            }
        }
        if lanes > 0 {
            self.next = (self.next + 1) % lanes;
        }
        left == 0
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::base::time::Duration;

    const AT: Instant = Instant::from_nanos(77);

    fn pair(bytes: usize) -> (Vec<MeshEnd>, Vec<Doorbell>) {
        let bells: Vec<_> = (0..2).map(|_| Doorbell::new().unwrap()).collect();
        let shards: Vec<_> = bells.iter().enumerate().map(|(i, b)| (ShardId(i as u16), b.clone())).collect();
        (build(&shards, bytes), bells)
    }

    #[test]
    fn records_cross_whole_over_every_wrap() {
        let (mut ends, _) = pair(69);
        let (a, b) = ends.split_at_mut(1);
        for round in 0..5_000usize {
            let record: Vec<u8> = (0..round % 57).map(|i| (i * 7 + round) as u8).collect();
            assert!(a[0].sender.push(ShardId(1), AT, &record));
            let mut seen = 0;
            b[0].receiver.pop(8, |from, left, got| {
                assert_eq!((from, left, got), (ShardId(0), AT, &record[..]));
                seen += 1;
            });
            assert_eq!(seen, 1);
        }
    }

    #[test]
    fn a_sleeping_shard_is_woken_once_for_a_batch() {
        let (mut ends, bells) = pair(1 << 10);
        for (asleep, wakes) in [(true, 1), (false, 1), (true, 2)] {
            if asleep {
                bells[1].park();
            }
            for _ in 0..5 {
                assert!(ends[0].sender.push(ShardId(1), AT, b"record"));
            }
            ends[0].sender.ring();
            ends[0].sender.ring();
            assert_eq!(ends[0].sender.counters().wakes, wakes);
            bells[1].unpark();
        }
    }

    /// One shard goes to sleep each time it finds nothing, and another sends right then: a lost wake would leave it
    /// waiting in vain.
    #[test]
    fn no_wake_is_lost_between_shards() {
        const RECORDS: u64 = 20_000;
        let (mut ends, bells) = pair(1 << 10);
        let (MeshEnd { mut receiver, .. }, MeshEnd { mut sender, .. }) = (ends.remove(1), ends.remove(0));
        let mut poller = crate::net::udp::poll::Poller::new().unwrap();
        poller.add(bells[1].as_raw_fd(), 0).unwrap();
        let seen = Arc::new(AtomicU64::new(0));
        let (counter, bell) = (Arc::clone(&seen), bells[1].clone());
        let shard = std::thread::spawn(move || {
            let mut slept = 0u64;
            while counter.load(Ordering::Relaxed) < RECORDS {
                bell.park();
                if receiver.is_empty() {
                    let mut rung = false;
                    poller.wait(Some(Duration::from_secs(20)), |_| rung = true);
                    assert!(rung, "slept through record {}", counter.load(Ordering::Relaxed));
                    bell.clear();
                    slept += 1;
                }
                bell.unpark();
                receiver.pop(1, |_, _, _| {
                    counter.fetch_add(1, Ordering::Release);
                });
            }
            slept
        });
        for n in 0..RECORDS {
            assert!(sender.push(ShardId(1), AT, &n.to_le_bytes()));
            sender.ring();
            while seen.load(Ordering::Acquire) <= n && !shard.is_finished() {
                std::thread::yield_now();
            }
            // From right away to well asleep.
            for _ in 0..n % 64 * 20 {
                std::hint::spin_loop();
            }
        }
        assert!(shard.join().unwrap() > 0 && sender.counters().wakes > 0, "it slept and was woken");
    }

    #[test]
    fn a_full_ring_refuses_whole_records_and_still_rings() {
        let (mut ends, bells) = pair(80);
        assert!(ends[0].sender.push(ShardId(1), AT, &[1; 40]));
        ends[0].sender.ring();
        bells[1].park();
        assert!(!ends[0].sender.push(ShardId(1), AT, &[2; 40]));
        assert!(ends[0].sender.push(ShardId(1), AT, &[3; 10]));
        ends[0].sender.ring();
        assert!(!bells[1].is_parked(), "rung");
        let mut seen = Vec::new();
        assert!(ends[1].receiver.pop(1, |_, _, record| seen.push(record.to_vec())), "one is left");
        assert!(!ends[1].receiver.pop(8, |_, _, record| seen.push(record.to_vec())));
        assert_eq!(seen, [vec![1; 40], vec![3; 10]]);
        assert!(ends[1].receiver.is_empty());
        assert_eq!(ends[0].sender.counters().refused_full, 1);
    }

    #[test]
    fn a_record_to_nobody_or_beyond_the_maximum_is_refused() {
        let (mut ends, _) = pair(1 << 20);
        assert!(!ends[0].sender.push(ShardId(7), AT, b"x"));
        assert!(!ends[0].sender.push(ShardId(0), AT, b"to itself"));
        assert!(!ends[0].sender.push(ShardId(1), AT, &vec![0; MESH_RECORD_BYTES_MAX + 1]));
        assert!(ends[0].sender.push(ShardId(1), AT, &vec![0; MESH_RECORD_BYTES_MAX]));
        assert_eq!(ends[0].sender.counters().refused_unfit, 3);
    }

    #[test]
    fn rings_shrink_as_shards_grow_in_number() {
        assert_eq!(ring_bytes(1), MESH_RING_BYTES);
        assert_eq!(ring_bytes(2), MESH_RING_BYTES);
        assert!(ring_bytes(64) * 64 * 63 <= MESH_TOTAL_BYTES_MAX);
        assert_eq!(ring_bytes(10_000), MESH_RING_BYTES_MIN);
    }
}
