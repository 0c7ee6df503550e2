//! All lanes of a shard, the imports over them, and the work of a turn: what the other mechanisms have for them goes in,
//! what is due goes out, dead ones are given up and wanted ones opened.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::base::buffer::{Leg, LocalIndex, Path};
use crate::base::id::{ProducerId, ShardId};
use crate::base::limits::{LANES_PER_SHARD_MAX, SOURCES_PER_SHARD_MAX};
use crate::base::node_id::NodeId;
use crate::base::slab::Slab;
use crate::base::time::{Duration, Instant, Now};
use crate::router::keys::{LaneSlotKey, OfLane, SourceKey};
use crate::router::source::{Elsewhere, Source, SourceOrigin};
use crate::secure::dtls::SecureEngine;
use crate::shard::closing;
use crate::shard::command::{Event, ImportEnd, ImportSpec, LaneNodes, LaneState};
use crate::shard::commons::Commons;
use crate::shard::incoming::Intake;
use crate::shard::lanes::nodes::KnownNodes;
use crate::shard::lanes::slot::{LaneSlot, SlotState};
use crate::shard::layers;
use crate::shard::relay::Feed;
use crate::shard::relaying;
use crate::transport::lane::LaneCounts;
use crate::wire::lane::{Few, LaneHandle, LaneOrder, LaneWant, ProducerUuid};

/// A handshake that is not done by then is begun anew.
pub(super) const OPENING_MAX: Duration = Duration::from_secs(3);

/// A subscription of ours at another node.
pub(super) struct Import {
    pub(super) lane: LaneSlotKey,
    pub(super) handle: LaneHandle,
    pub(super) uuid: ProducerUuid,
    pub(super) want: LaneWant,
}

/// A subscription by another node to a producer that is not here yet.
pub(super) struct AwaitedExport {
    pub(super) lane: LaneSlotKey,
    pub(super) handle: LaneHandle,
    pub(super) uuid: ProducerUuid,
    pub(super) want: LaneWant,
    pub(super) replay: bool,
    pub(super) until: Instant,
}

pub(crate) struct Lanes {
    /// Where the datagrams of lanes arrive and leave. None: there are none.
    pub(super) local: Option<LocalIndex>,
    /// This shard, as other nodes number it.
    pub(super) shard: ShardId,
    pub(super) nodes: KnownNodes,
    pub(super) slots: Slab<LaneSlot, OfLane>,
    pub(super) by_address: HashMap<SocketAddr, LaneSlotKey>,
    pub(super) imports: HashMap<ProducerId, Import>,
    pub(super) awaited: Vec<AwaitedExport>,
    /// Something came in since the last turn.
    pub(super) touched: bool,
    pub(super) next: Option<Instant>,
    /// Of lanes that are gone.
    pub(super) ended: LaneTotals,
}

/// What all lanes of a shard have done together.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct LaneTotals {
    pub(crate) datagrams: [u64; 2],
    pub(crate) bytes: [u64; 2],
    pub(crate) records: [u64; 2],
    pub(crate) lost: u64,
    pub(crate) resent: u64,
    pub(crate) resent_too_late: u64,
}

impl LaneTotals {
    fn add(&mut self, counts: &LaneCounts) {
        let both = |sums: &mut [u64; 2], into: u64, out: u64| *sums = [sums[0] + into, sums[1] + out];
        both(&mut self.datagrams, counts.datagrams_in, counts.datagrams_out);
        both(&mut self.bytes, counts.bytes_in, counts.bytes_out);
        both(&mut self.records, counts.records_in, counts.records_out);
        self.lost += counts.lost;
        self.resent += counts.resent;
        self.resent_too_late += counts.resent_too_late;
    }
}

/// The machines that the lanes work on.
pub(crate) struct Work<'a> {
    pub(crate) commons: &'a mut Commons,
    pub(crate) intake: &'a mut Intake,
    pub(crate) engine: &'a mut dyn SecureEngine,
    pub(crate) now: Now,
}

impl Lanes {
    pub(crate) fn new(local: Option<LocalIndex>, shard: ShardId) -> Lanes {
        Lanes {
            local,
            shard,
            nodes: KnownNodes::default(),
            slots: Slab::default(),
            by_address: HashMap::new(),
            imports: HashMap::new(),
            awaited: Vec::new(),
            touched: false,
            next: None,
            ended: LaneTotals::default(),
        }
    }

    /// Whether a datagram that came on this path is for a lane.
    #[inline]
    pub(crate) fn takes(&self, path: Path) -> bool {
        self.local.is_some_and(|local| path.leg == Leg::Udp(local))
    }

    /// When there is something to do without any input.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        if self.touched { Some(Instant::ZERO) } else { self.next }
    }

    pub(crate) fn set_nodes(&mut self, nodes: LaneNodes) {
        self.nodes.set(nodes);
        self.touched = true;
    }

    /// Makes a stand-in for a producer of another node, and subscribes to it there.
    pub(crate) fn import(
        &mut self,
        commons: &mut Commons,
        now: Now,
        (producer, uuid): (ProducerId, ProducerUuid),
        from: (NodeId, ShardId),
        spec: ImportSpec,
    ) -> Result<(), ImportEnd> {
        if commons.registry.source_keys.contains_key(&producer) {
            return Ok(());
        }
        if commons.registry.sources.len() >= SOURCES_PER_SHARD_MAX {
            return Err(ImportEnd::Limit("sources per shard"));
        }
        let lane = self.slot_to(now.mono, from)?;
        let slot = self.slots.get_mut(lane).ok_or(ImportEnd::Gone)?;
        let ImportSpec { codec, clock_rate, encodings, top, ranking } = spec;
        let mut source = Source::new(now.mono, producer, SourceOrigin::Lane, codec, clock_rate, encodings, top);
        source.active.ranking = ranking;
        if let Some(watched) = &mut source.watched {
            // It begins with all layers, so that its first consumer waits for none.
            watched.told = source.top.spatial.saturating_add(1);
        }
        let key = commons.registry.sources.insert(source);
        let Some(handle) = slot.imports.mint(producer, key) else {
            commons.registry.sources.remove(key);
            return Err(ImportEnd::Limit("imports of one lane"));
        };
        commons.registry.source_keys.insert(producer, key);
        commons.registry.names.insert(uuid, producer);
        let encodings = u8::MAX >> 8usize.saturating_sub(encodings.max(1));
        let want = LaneWant { encodings, spatial: u8::MAX, temporal: u8::MAX, watchers: 0, children: 0 };
        self.imports.insert(producer, Import { lane, handle, uuid, want });
        self.subscribe(now.mono, producer);
        relaying::subscribe_awaiting(commons, now, producer);
        layers::note_watched(commons, now, key);
        self.touched = true;
        Ok(())
    }

    /// Sends the order that begins an import, where its lane is up; else it is sent when that comes up.
    pub(super) fn subscribe(&mut self, now: Instant, producer: ProducerId) {
        let Some(&Import { lane, handle, uuid, want }) = self.imports.get(&producer) else { return };
        if let Some(lane) = self.slots.get_mut(lane).and_then(LaneSlot::lane) {
            lane.set_in_use(now, true);
            let avoid = Few::default();
            lane.order(&LaneOrder::Subscribe { handle, producer: uuid, want, replay: true, avoid });
        }
    }

    /// The control tower wants it no more.
    pub(crate) fn drop_import(&mut self, commons: &mut Commons, now: Now, producer: ProducerId) {
        if let Some(&Import { lane, handle, .. }) = self.imports.get(&producer)
            && let Some(lane) = self.slots.get_mut(lane).and_then(LaneSlot::lane)
        {
            lane.order(&LaneOrder::Unsubscribe { handle });
        }
        self.end_import(commons, now, producer, None);
    }

    /// Ends an import with its stand-in and the consumers of that. `why: None`: it was asked for and needs no event.
    pub(super) fn end_import(&mut self, commons: &mut Commons, now: Now, producer: ProducerId, why: Option<ImportEnd>) {
        let Some(import) = self.imports.remove(&producer) else { return };
        if let Some(slot) = self.slots.get_mut(import.lane) {
            slot.imports.free(import.handle);
        }
        if let Some(why) = why {
            commons.ledger.events.push_back(Event::ImportLost { producer, why });
        }
        if let Some(key) = commons.registry.source_keys.get(&producer).copied() {
            if let Some(source) = commons.registry.sources.get(key) {
                commons.port.feed_all(source, Feed::Closed);
            }
            closing::close_source(commons, now, key);
        }
        self.touched = true;
    }

    /// The lane to a shard of a node, made where there is none.
    fn slot_to(&mut self, now: Instant, (node, shard): (NodeId, ShardId)) -> Result<LaneSlotKey, ImportEnd> {
        let remote = self.nodes.address(node, shard).ok_or(ImportEnd::Gone)?;
        self.slot_at(now, (node, shard), remote).ok_or(ImportEnd::Limit("lanes of one shard"))
    }

    pub(super) fn slot_at(&mut self, now: Instant, end: (NodeId, ShardId), remote: SocketAddr) -> Option<LaneSlotKey> {
        if let Some(key) = self.by_address.get(&remote).copied() {
            return Some(key);
        }
        if self.local.is_none() || self.slots.len() >= LANES_PER_SHARD_MAX {
            return None;
        }
        let key = self.slots.insert(LaneSlot::new(now, end, remote));
        self.by_address.insert(remote, key);
        Some(key)
    }

    /// Gives a lane up. What it carried here waits for the next attempt, what it carried there is no more.
    pub(super) fn fail(&mut self, commons: &mut Commons, now: Now, key: LaneSlotKey, state: LaneState) {
        self.tell(commons, key, state);
        self.end_exports(commons, now, key);
        let Some(slot) = self.slots.get_mut(key) else { return };
        if let SlotState::Up(up) = &slot.state {
            self.ended.add(&up.lane.counts());
        }
        slot.put_off(now.mono);
        if !slot.is_in_use() {
            self.forget(key);
        }
        self.touched = true;
    }

    pub(super) fn end_exports(&mut self, commons: &mut Commons, now: Now, key: LaneSlotKey) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        for producer in std::mem::take(&mut slot.exports).into_values() {
            if let Some(source) = commons.registry.source_mut(producer) {
                source.exports.retain(|export| export.lane != key);
            }
            layers::watched_elsewhere(commons, now, producer, Elsewhere::Lane(key), 0);
        }
        self.awaited.retain(|awaited| awaited.lane != key);
    }

    pub(super) fn forget(&mut self, key: LaneSlotKey) {
        if let Some(slot) = self.slots.remove(key) {
            self.by_address.remove(&slot.remote);
        }
    }

    pub(super) fn tell(&self, commons: &mut Commons, key: LaneSlotKey, state: LaneState) {
        let Some(slot) = self.slots.get(key) else { return };
        let (node, shard, bus_up) = (slot.node, slot.shard, slot.told_bus_up);
        commons.ledger.events.push_back(Event::Lane { node, shards: (self.shard, shard), state, bus_up });
    }

    /// The number of lanes that are opening, up, and waiting for another attempt.
    pub(crate) fn states(&self) -> [usize; 3] {
        let mut states = [0; 3];
        for (_, slot) in self.slots.iter() {
            states[match slot.state {
                SlotState::Opening(_) => 0,
                SlotState::Up(_) => 1,
                SlotState::Waiting { .. } => 2,
            }] += 1;
        }
        states
    }

    pub(crate) fn imports(&self) -> usize {
        self.imports.len()
    }

    pub(crate) fn exports(&self) -> usize {
        self.slots.iter().map(|(_, slot)| slot.exports.len()).sum()
    }

    pub(crate) fn totals(&self) -> LaneTotals {
        let mut totals = self.ended;
        for (_, slot) in self.slots.iter() {
            if let SlotState::Up(up) = &slot.state {
                totals.add(&up.lane.counts());
            }
        }
        totals
    }

    /// The longest round trip of all lanes that are up.
    pub(crate) fn rtt(&self) -> Duration {
        let up = self.slots.iter().filter_map(|(_, slot)| match &slot.state {
            SlotState::Up(up) => Some(up.lane.rtt()),
            _ => None,
        });
        up.max().unwrap_or_default()
    }
}

/// The stand-in that a handle names.
pub(super) fn stand_in(slot: &LaneSlot, handle: LaneHandle) -> Option<SourceKey> {
    slot.imports.get(handle).map(|(_, source)| source)
}
