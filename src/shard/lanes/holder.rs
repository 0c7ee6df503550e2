//! The holder's side of a lane: subscriptions by another node to producers that are here, with what they begin with.

use crate::base::limits::{LANE_AWAITED_MAX, LANE_EXPORTS_MAX, RELAY_WAIT};
use crate::base::ranking::Ranking;
use crate::base::time::Now;
use crate::router::keys::{LaneSlotKey, SourceKey};
use crate::router::replay::since_keyframe;
use crate::router::source::{Elsewhere, Export, Source};
use crate::shard::commons::Commons;
use crate::shard::keyframes;
use crate::shard::lane_out::PieceOut;
use crate::shard::lanes::lanes::{AwaitedExport, Lanes, Work};
use crate::shard::layers;
use crate::shard::parameter_sets;
use crate::shard::relay::Feed;
use crate::wire::lane::{Few, LaneGone, LaneHandle, LaneOrder, LaneWant, ProducerUuid, SubscribedEncoding};

impl Lanes {
    /// Carries out what a subscriber orders. False: it is no order of a subscriber.
    pub(super) fn ordered(&mut self, work: &mut Work<'_>, key: LaneSlotKey, order: &LaneOrder<'_>) -> bool {
        match *order {
            LaneOrder::Subscribe { handle, producer, want, replay, avoid } => {
                let refused = self.nodes.own.is_some_and(|own| avoid.as_slice().contains(&own));
                let full = self.slots.get(key).is_none_or(|slot| slot.exports.len() >= LANE_EXPORTS_MAX);
                if refused || full {
                    self.gone(work.commons, key, handle, LaneGone::Full);
                } else if !self.export(work, key, handle, producer, want, replay) {
                    self.await_producer(work, key, handle, (producer, want, replay));
                }
            }
            LaneOrder::Unsubscribe { handle } => {
                self.awaited.retain(|awaited| (awaited.lane, awaited.handle) != (key, handle));
                let Some(producer) = self.slots.get_mut(key).and_then(|slot| slot.exports.remove(&handle)) else {
                    return true;
                };
                if let Some(source) = work.commons.registry.source_mut(producer) {
                    source.exports.retain(|export| (export.lane, export.handle) != (key, handle));
                }
                layers::watched_elsewhere(work.commons, work.now, producer, Elsewhere::Lane(key), 0);
            }
            LaneOrder::Want { handle, want } => self.want(work, key, handle, want),
            LaneOrder::KeyFrame { handle, encoding, first } => {
                if let Some(source) = self.exported(work.commons, key, handle) {
                    keyframes::request(work.commons, work.now, source, encoding, first);
                }
            }
            _ => return false,
        }
        true
    }

    /// Subscribes, where the producer is here.
    fn export(
        &mut self,
        work: &mut Work<'_>,
        lane: LaneSlotKey,
        handle: LaneHandle,
        uuid: ProducerUuid,
        want: LaneWant,
        replay: bool,
    ) -> bool {
        let Commons { registry, port, .. } = &mut *work.commons;
        let Some(producer) = registry.names.get(&uuid).copied() else { return false };
        let Some(key) = registry.source_keys.get(&producer).copied() else { return false };
        let Some(source) = registry.sources.get_mut(key) else { return false };
        let Some(slot) = self.slots.get_mut(lane) else { return true };
        source.exports.retain(|export| export.lane != lane);
        source.exports.push(Export { lane, handle, encodings: want.encodings });
        slot.exports.retain(|_, exported| *exported != producer);
        slot.exports.insert(handle, producer);
        port.lanes.pieces.push((lane, PieceOut::Order(subscribed(source, handle, self.nodes.own))));
        if source.active.ranking != Ranking::default() {
            port.lanes.feed(lane, handle, Feed::Ranked { ranking: source.active.ranking });
        }
        let mut missing = 0u8;
        for (encoding, state) in (0..).zip(&source.encodings) {
            if let Some(sets) = &state.parameter_sets {
                let units = parameter_sets::joined(sets);
                port.lanes.feed(lane, handle, Feed::ParameterSets { encoding, units: &units });
            }
            if !source.codec.is_video() || want.encodings & 1 << encoding == 0 {
                continue;
            }
            match since_keyframe(work.now.mono, source, encoding).filter(|_| replay) {
                Some(packets) => {
                    packets.for_each(|packet| port.lanes.push(key, source, &packet, state.epoch, (lane, handle)));
                }
                None => missing |= 1 << encoding,
            }
        }
        let layers = layers_of(source, want.encodings);
        layers::watched_elsewhere(work.commons, work.now, producer, Elsewhere::Lane(lane), layers);
        // A request of its consumers may have come before the lane was up.
        for encoding in (0..8).filter(|encoding| missing & 1 << encoding != 0) {
            keyframes::request(work.commons, work.now, key, Some(encoding), true);
        }
        true
    }

    /// Signalling announces a producer by another way than its subscription comes.
    fn await_producer(
        &mut self,
        work: &mut Work<'_>,
        lane: LaneSlotKey,
        handle: LaneHandle,
        (uuid, want, replay): (ProducerUuid, LaneWant, bool),
    ) {
        if self.awaited.len() >= LANE_AWAITED_MAX {
            return self.gone(work.commons, lane, handle, LaneGone::Full);
        }
        let until = work.now.mono + RELAY_WAIT;
        self.awaited.push(AwaitedExport { lane, handle, uuid, want, replay, until });
    }

    /// Carries out subscriptions that waited for a producer which has its name.
    pub(crate) fn named(&mut self, work: &mut Work<'_>, uuid: ProducerUuid) {
        let (waited, others) = std::mem::take(&mut self.awaited).into_iter().partition(|awaited| awaited.uuid == uuid);
        self.awaited = others;
        for AwaitedExport { lane, handle, want, replay, .. } in waited {
            self.export(work, lane, handle, uuid, want, replay);
        }
    }

    pub(super) fn give_up_awaited(&mut self, work: &mut Work<'_>) {
        let now = work.now.mono;
        let (over, others) = std::mem::take(&mut self.awaited).into_iter().partition(|awaited| awaited.until <= now);
        self.awaited = others;
        for AwaitedExport { lane, handle, .. } in over {
            self.gone(work.commons, lane, handle, LaneGone::Unknown);
        }
    }

    fn gone(&mut self, commons: &mut Commons, lane: LaneSlotKey, handle: LaneHandle, why: LaneGone) {
        let pieces = &mut commons.port.lanes.pieces;
        pieces.push((lane, PieceOut::Order(LaneOrder::Gone { handle, why })));
    }

    fn exported(&self, commons: &Commons, lane: LaneSlotKey, handle: LaneHandle) -> Option<SourceKey> {
        let producer = self.slots.get(lane)?.exports.get(&handle)?;
        commons.registry.source_keys.get(producer).copied()
    }

    fn want(&mut self, work: &mut Work<'_>, lane: LaneSlotKey, handle: LaneHandle, want: LaneWant) {
        let (commons, now): (&mut Commons, Now) = (work.commons, work.now);
        let Some(key) = self.exported(commons, lane, handle) else { return };
        let Some(source) = commons.registry.sources.get_mut(key) else { return };
        let producer = source.producer;
        let Some(export) = source.exports.iter_mut().find(|export| export.lane == lane) else { return };
        let before = std::mem::replace(&mut export.encodings, want.encodings);
        let layers = layers_of(source, want.encodings);
        layers::watched_elsewhere(commons, now, producer, Elsewhere::Lane(lane), layers);
        for encoding in (0..8).filter(|encoding| want.encodings & !before & 1 << encoding != 0) {
            keyframes::request(commons, now, key, Some(encoding), false);
        }
    }
}

/// The number of layers, from the lowest up, that have these encodings.
fn layers_of(source: &Source, encodings: u8) -> u8 {
    if source.encodings.len() == 1 {
        return if encodings & 1 != 0 { u8::MAX } else { 0 };
    }
    let wanted = (0..source.encodings.len().min(8) as u8).filter(|encoding| encodings & 1 << encoding != 0);
    wanted.map(|encoding| source.active.ranking.layer(encoding).saturating_add(1)).max().unwrap_or(0)
}

fn subscribed(source: &Source, handle: LaneHandle, own: Option<crate::base::node_id::NodeId>) -> LaneOrder<'static> {
    let encodings = source.encodings.iter().map(|encoding| SubscribedEncoding {
        epoch: encoding.epoch,
        newest: encoding.newest.map_or(0, |newest| newest.0),
        clock: encoding.clock.mapping(),
    });
    let (paused, withheld) = (source.paused, source.withheld);
    LaneOrder::Subscribed { handle, paused, withheld, path: Few::of(own), encodings: Few::of(encodings) }
}
