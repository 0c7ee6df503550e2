//! The work of a turn, at its end: what the other mechanisms have for the lanes goes in, dead ones are given up and wanted
//! ones opened, what is due goes out.

use crate::base::buffer::{Path, Transmit};
use crate::base::id::ProducerId;
use crate::base::time::Now;
use crate::router::keys::LaneSlotKey;
use crate::router::source::Source;
use crate::shard::command::LaneState;
use crate::shard::commons::Commons;
use crate::shard::drops::ShardDrop;
use crate::shard::lane_out::{ItemOut, PieceOut};
use crate::shard::lanes::lanes::{Lanes, OPENING_MAX, Work};
use crate::shard::lanes::slot::{LaneSlot, SlotState};
use crate::shard::relay::Order;
use crate::transport::lane::LaneItem;
use crate::wire::lane::LaneOrder;

impl Lanes {
    /// The turn's work, at its end.
    pub(crate) fn run<T: Transmit>(&mut self, work: &mut Work<'_>, out: &mut T) {
        if !work.commons.port.lanes.is_empty() {
            self.take_out(work.commons, work.now);
        }
        let now = work.now.mono;
        if !self.touched && self.next.is_none_or(|next| next > now) {
            return;
        }
        self.touched = false;
        self.give_up_awaited(work);
        let keys: Vec<LaneSlotKey> = self.slots.iter().map(|(key, _)| key).collect();
        self.next = self.awaited.iter().map(|awaited| awaited.until).min();
        for key in keys {
            self.look_after(work, key);
            let (Some(local), Some(slot)) = (self.local, self.slots.get_mut(key)) else { continue };
            let due = match &mut slot.state {
                SlotState::Waiting { until } => Some(*until),
                SlotState::Opening(handshake) => Some(handshake.since + OPENING_MAX),
                SlotState::Up(up) => {
                    let path = Path::udp(local, slot.remote);
                    let Commons { registry, outlet, .. } = &mut *work.commons;
                    up.lane.flush(now, path, &registry.sources, &mut outlet.buffer, out);
                    up.lane.deadline()
                }
            };
            let beside = slot.beside.as_ref().map(|handshake| handshake.since + OPENING_MAX);
            self.next = [self.next, due, beside].into_iter().flatten().min();
        }
    }

    /// Queues what the other mechanisms have left for the lanes.
    fn take_out(&mut self, commons: &mut Commons, now: Now) {
        self.touched = true;
        let Commons { port, ledger, .. } = &mut *commons;
        for ItemOut { lane, item, layer, urgency } in port.lanes.items.drain(..) {
            let Some(lane) = self.slots.get_mut(lane).and_then(LaneSlot::lane) else { continue };
            if !lane.push(now.mono, item, layer, urgency) && matches!(item, LaneItem::Packet(_)) {
                ledger.drops.count(ShardDrop::LaneFull);
            }
        }
        for (key, piece) in port.lanes.pieces.drain(..) {
            let Some(slot) = self.slots.get_mut(key) else { continue };
            if let PieceOut::Order(LaneOrder::Closed { handle, .. }) = &piece {
                slot.exports.remove(handle);
            }
            let Some(lane) = slot.lane() else { continue };
            match &piece {
                PieceOut::Order(order) => lane.order(order),
                PieceOut::Clock(clock) => lane.clock(now.mono, *clock),
                PieceOut::ParameterSets { handle, encoding, first, units } => {
                    let (handle, encoding, first) = (*handle, *encoding, *first);
                    lane.order(&LaneOrder::ParameterSets { handle, encoding, first, units });
                }
            }
        }
        for (producer, order) in std::mem::take(&mut port.lanes.homeward) {
            self.order_home(commons, producer, order);
        }
    }

    /// Passes an order of a stand-in on to where its producer is.
    fn order_home(&mut self, commons: &Commons, producer: ProducerId, order: Order) {
        let Some(import) = self.imports.get_mut(&producer) else { return };
        let handle = import.handle;
        let order = match order {
            Order::KeyFrame { encoding, first } => LaneOrder::KeyFrame { handle, encoding, first },
            Order::Watched { layers } => {
                let key = commons.registry.source_keys.get(&producer);
                let Some(source) = key.and_then(|key| commons.registry.sources.get(*key)) else { return };
                import.want.encodings = wanted(source, layers);
                LaneOrder::Want { handle, want: import.want }
            }
            Order::Subscribe | Order::Unsubscribe => return,
        };
        if let Some(lane) = self.slots.get_mut(import.lane).and_then(LaneSlot::lane) {
            lane.order(&order);
        }
    }

    /// What a lane's time has come for: its end, another attempt, other keys.
    fn look_after(&mut self, work: &mut Work<'_>, key: LaneSlotKey) {
        let (now, own) = (work.now.mono, self.nodes.own);
        let (bus_up, children) = (self.nodes.bus_up, 0);
        let Some(slot) = self.slots.get_mut(key) else { return };
        let in_use = slot.is_in_use();
        if slot.beside.as_ref().is_some_and(|handshake| now.since(handshake.since) >= OPENING_MAX) {
            slot.beside = None;
        }
        match &mut slot.state {
            SlotState::Waiting { until } if *until > now => {}
            SlotState::Waiting { .. } if !in_use => self.forget(key),
            SlotState::Waiting { until } if self.nodes.address(slot.node, slot.shard).is_none() => {
                *until = now + OPENING_MAX;
            }
            SlotState::Waiting { .. } => self.connect(work, key),
            SlotState::Opening(handshake) if now.since(handshake.since) >= OPENING_MAX => {
                self.fail(work.commons, work.now, key, LaneState::Dead);
            }
            SlotState::Opening(_) => {}
            SlotState::Up(up) => {
                (up.lane.bus_up, up.lane.children) = (bus_up, children);
                up.lane.set_in_use(now, in_use);
                let phase = up.lane.wants_keys(now).filter(|_| slot.beside.is_none());
                if up.lane.is_dead(now) {
                    self.fail(work.commons, work.now, key, LaneState::Dead);
                } else if up.lane.is_idle(now) {
                    up.session.close();
                    self.poll_session(work, key);
                    self.fail(work.commons, work.now, key, LaneState::Closed);
                } else if slot.told_bus_up != up.lane.their_bus_up {
                    slot.told_bus_up = up.lane.their_bus_up;
                    self.tell(work.commons, key, LaneState::Up);
                } else if phase.is_some() && own.is_some_and(|own| own < slot.node) {
                    self.connect_beside(work, key);
                }
            }
        }
    }
}

/// The encodings of the lowest `layers` of a source.
fn wanted(source: &Source, layers: u8) -> u8 {
    let encodings = 0..source.encodings.len().min(8) as u8;
    match source.encodings.len() {
        // All layers are in the one encoding.
        1 => u8::from(layers > 0),
        _ => encodings
            .filter(|encoding| source.active.ranking.layer(*encoding) < layers)
            .fold(0, |bits, encoding| bits | 1 << encoding),
    }
}
