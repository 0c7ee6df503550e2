//! One lane of a shard, whatever has become of it: waiting for its next attempt, in its handshake, or up; with the table of
//! imports whose handles its other end names, and the exports that the other end has subscribed to.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::base::id::{ProducerId, ShardId};
use crate::base::limits::LANE_IMPORTS_MAX;
use crate::base::node_id::NodeId;
use crate::base::time::{Duration, Instant};
use crate::router::keys::SourceKey;
use crate::secure::dtls::{Keying, SecureSession, Side};
use crate::transport::lane::Lane;
use crate::wire::lane::LaneHandle;

/// Waits before attempts to open a lane; the last one again and again.
const RETRIES: [Duration; 4] =
    [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(10)];

pub(super) struct LaneSlot {
    pub(super) node: NodeId,
    pub(super) shard: ShardId,
    pub(super) remote: SocketAddr,
    pub(super) state: SlotState,
    /// Another handshake, while the lane is up: for new keys, or of a shard that has begun anew.
    pub(super) beside: Option<LaneHandshake>,
    pub(super) imports: ImportTable,
    pub(super) exports: HashMap<LaneHandle, ProducerId>,
    failures: usize,
    /// What was told of the other end's bus.
    pub(super) told_bus_up: bool,
}

pub(super) enum SlotState {
    Waiting { until: Instant },
    Opening(LaneHandshake),
    Up(Box<LaneUp>),
}

pub(super) struct LaneHandshake {
    pub(super) session: Box<dyn SecureSession>,
    pub(super) side: Side,
    pub(super) since: Instant,
    /// It is done, and the first datagram under its keys has yet to say what they are for.
    pub(super) keying: Option<Box<Keying>>,
}

pub(super) struct LaneUp {
    pub(super) lane: Lane,
    pub(super) session: Box<dyn SecureSession>,
}

impl LaneSlot {
    pub(super) fn new(now: Instant, (node, shard): (NodeId, ShardId), remote: SocketAddr) -> LaneSlot {
        LaneSlot {
            node,
            shard,
            remote,
            state: SlotState::Waiting { until: now },
            beside: None,
            imports: ImportTable::default(),
            exports: HashMap::new(),
            failures: 0,
            told_bus_up: false,
        }
    }

    pub(super) fn lane(&mut self) -> Option<&mut Lane> {
        match &mut self.state {
            SlotState::Up(up) => Some(&mut up.lane),
            _ => None,
        }
    }

    pub(super) fn is_in_use(&self) -> bool {
        !self.imports.is_empty() || !self.exports.is_empty()
    }

    /// The next attempt is after a while, a longer one each time.
    pub(super) fn put_off(&mut self, now: Instant) {
        let wait = RETRIES[self.failures.min(RETRIES.len() - 1)];
        self.failures += 1;
        self.beside = None;
        self.state = SlotState::Waiting { until: now + wait };
    }

    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }
}

/// The imports of one lane by handle.
#[derive(Default)]
pub(super) struct ImportTable {
    entries: Vec<ImportEntry>,
    used: usize,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct ImportEntry {
    generation: u8,
    import: Option<(ProducerId, SourceKey)>,
}

impl ImportTable {
    /// None: there are as many as there may be.
    pub(super) fn mint(&mut self, producer: ProducerId, source: SourceKey) -> Option<LaneHandle> {
        let index = match self.entries.iter().position(|entry| entry.import.is_none()) {
            Some(index) => index,
            None if self.entries.len() >= LANE_IMPORTS_MAX => return None,
            None => {
                self.entries.push(ImportEntry { generation: 0, import: None });
                self.entries.len() - 1
            }
        };
        let entry = &mut self.entries[index];
        entry.import = Some((producer, source));
        self.used += 1;
        Some(LaneHandle { index: index as u16, generation: entry.generation })
    }

    pub(super) fn get(&self, handle: LaneHandle) -> Option<(ProducerId, SourceKey)> {
        self.entries.get(usize::from(handle.index)).filter(|entry| entry.generation == handle.generation)?.import
    }

    pub(super) fn free(&mut self, handle: LaneHandle) {
        if self.get(handle).is_some()
            && let Some(entry) = self.entries.get_mut(usize::from(handle.index))
        {
            entry.import = None;
            entry.generation = entry.generation.wrapping_add(1);
            self.used -= 1;
        }
    }

    /// Gives all imports new handles: what is under way under the ones before is of a lane that is gone.
    pub(super) fn renew(&mut self) -> Vec<(ProducerId, LaneHandle)> {
        let mut renewed = Vec::new();
        for (index, entry) in (0u16..).zip(&mut self.entries) {
            entry.generation = entry.generation.wrapping_add(1);
            let handle = LaneHandle { index, generation: entry.generation };
            renewed.extend(entry.import.map(|(producer, _)| (producer, handle)));
        }
        renewed
    }

    pub(super) fn is_empty(&self) -> bool {
        self.used == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::slab::Key;

    #[test]
    fn a_handle_is_of_one_import_and_of_no_later_one() {
        let (mut table, source) = (ImportTable::default(), Key::from_parts(3, 0));
        let first = table.mint(ProducerId(1), source).unwrap();
        let second = table.mint(ProducerId(2), source).unwrap();
        assert_eq!((first.index, second.index), (0, 1));
        table.free(first);
        table.free(first);
        assert!(table.get(first).is_none() && !table.is_empty());
        let third = table.mint(ProducerId(3), source).unwrap();
        assert_eq!((third.index, third.generation), (0, 1));
        assert_eq!(table.get(third), Some((ProducerId(3), source)));
        let renewed = table.renew();
        assert_eq!(renewed.iter().map(|(producer, _)| producer.0).collect::<Vec<_>>(), [3, 2]);
        assert!(table.get(third).is_none() && table.get(renewed[0].1).is_some());
        renewed.iter().for_each(|(_, handle)| table.free(*handle));
        assert!(table.is_empty());
    }

    #[test]
    fn attempts_come_later_and_later() {
        let now = Instant::ZERO;
        let mut slot = LaneSlot::new(now, (NodeId(1), ShardId(0)), ([10, 0, 0, 1], 1).into());
        let waits: Vec<_> = (0..5)
            .map(|_| {
                slot.put_off(now);
                let SlotState::Waiting { until } = slot.state else { panic!() };
                until.since(now).as_millis()
            })
            .collect();
        assert_eq!(waits, [200, 1_000, 3_000, 10_000, 10_000]);
    }
}
