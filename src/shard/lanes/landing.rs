//! What comes over a lane, and the stand-ins that take it: packets under handles of ours, numbers, clocks, and what the
//! holder says about a producer.

use crate::base::buffer::Path;
use crate::base::seq::ExtSeq;
use crate::base::time::{Duration, Instant, NtpTime};
use crate::router::keys::{LaneSlotKey, SourceKey};
use crate::secure::lane::LaneUnopened;
use crate::shard::command::ImportEnd;
use crate::shard::drops::ShardDrop;
use crate::shard::flow;
use crate::shard::lanes::lanes::{Lanes, Work, stand_in};
use crate::shard::lanes::slot::{LaneSlot, SlotState};
use crate::shard::layers;
use crate::shard::parameter_sets;
use crate::shard::relay::Published;
use crate::shard::relaying;
use crate::shard::skip;
use crate::transport::lane::LaneHeard;
use crate::wire::codec::{Codec, PayloadInfo, inspect};
use crate::wire::lane::{
    LaneClock, LaneGone, LaneHandle, LaneMedia, LaneOrder, LaneRecords, LaneSkip, SubscribedEncoding, flags, is_lane,
};

/// Numbers that one skip may name.
const SKIPPED_MAX: u32 = 1_024;

impl Lanes {
    /// Takes a datagram from the lanes' socket.
    pub(crate) fn take(&mut self, work: &mut Work<'_>, arrived: Instant, path: Path, datagram: &mut [u8]) {
        self.touched = true;
        let known = self.nodes.at(path.remote);
        let stranger = |work: &mut Work<'_>| work.commons.ledger.drops.count(ShardDrop::LaneStranger);
        let Some(end) = known else { return stranger(work) };
        if !is_lane(datagram) {
            return match self.slot_at(work.now.mono, end, path.remote) {
                Some(key) => self.take_dtls(work, key, datagram),
                None => stranger(work),
            };
        }
        let Some(mut key) = self.by_address.get(&path.remote).copied() else { return stranger(work) };
        if self.slots.get(key).is_some_and(|slot| slot.beside.is_some()) {
            self.try_beside(work, key, datagram);
            // A shard that began anew has a lane of its own.
            key = self.by_address.get(&path.remote).copied().unwrap_or(key);
        }
        let Some(lane) = self.slots.get_mut(key).and_then(LaneSlot::lane) else { return stranger(work) };
        match lane.open(arrived, datagram) {
            Ok(records) => self.records(work, key, arrived, records),
            Err(LaneUnopened::Replayed) => work.commons.ledger.drops.count(ShardDrop::LaneReplayed),
            Err(_) => work.commons.ledger.drops.count(ShardDrop::LaneUnopened),
        }
    }

    /// Does what an opened datagram says.
    fn records(&mut self, work: &mut Work<'_>, key: LaneSlotKey, arrived: Instant, records: &[u8]) {
        for record in LaneRecords(records) {
            let Some(slot) = self.slots.get_mut(key) else { return };
            let Some(lane) = slot.lane() else { return };
            let heard = match &record {
                Ok(record) => lane.take(work.now, record),
                Err(_) => {
                    work.commons.ledger.drops.count(ShardDrop::LaneMalformed);
                    continue;
                }
            };
            match heard {
                LaneHeard::Nothing => {}
                LaneHeard::Media(media) => take_media(work, slot, arrived, &media),
                LaneHeard::Whole(whole) => match LaneMedia::parse(&whole) {
                    Ok(media) => take_media(work, slot, arrived, &media),
                    Err(_) => work.commons.ledger.drops.count(ShardDrop::LaneMalformed),
                },
                LaneHeard::Skip(skipped) => take_skip(work, slot, &skipped),
                LaneHeard::Clock(clock) => {
                    let LaneClock { handle, encoding, ntp, rtp_timestamp } = clock;
                    set_clock(work, stand_in(slot, handle), encoding, (ntp, rtp_timestamp));
                }
            }
        }
        while let Some(order) = self.slots.get_mut(key).and_then(LaneSlot::lane).and_then(|lane| lane.next_order()) {
            match LaneOrder::parse(&order) {
                Ok(Some(order)) => self.obey(work, key, &order),
                // Of a later version.
                Ok(None) => {}
                Err(_) => work.commons.ledger.drops.count(ShardDrop::LaneMalformed),
            }
        }
    }

    fn obey(&mut self, work: &mut Work<'_>, key: LaneSlotKey, order: &LaneOrder<'_>) {
        if let LaneOrder::Open { zero, .. } = order {
            let is_who = self.slots.get(key).is_some_and(|slot| self.is_who(slot, order));
            match self.slots.get_mut(key).and_then(LaneSlot::lane).filter(|_| is_who) {
                Some(lane) => lane.set_zero(*zero),
                None => self.fail(work.commons, work.now, key, crate::shard::command::LaneState::Dead),
            }
        } else if !self.ordered(work, key, order) {
            self.told(work, key, order);
        }
    }

    /// Takes what the holder says about a producer that is imported.
    fn told(&mut self, work: &mut Work<'_>, key: LaneSlotKey, order: &LaneOrder<'_>) {
        let import = |handle: LaneHandle| self.slots.get(key).and_then(|slot| slot.imports.get(handle));
        match *order {
            LaneOrder::Subscribed { handle, paused, withheld, encodings, .. } => {
                let Some((_, source)) = import(handle) else { return };
                self.subscribed(work, key, source, (paused, withheld), encodings.as_slice());
            }
            LaneOrder::Gone { handle, why } | LaneOrder::Closed { handle, why } => {
                let Some((producer, _)) = import(handle) else { return };
                let end = match (order, why) {
                    (LaneOrder::Closed { .. }, _) => ImportEnd::Closed,
                    (_, LaneGone::Full) => ImportEnd::Limit("exports of a lane"),
                    _ => ImportEnd::Gone,
                };
                self.end_import(work.commons, work.now, producer, Some(end));
            }
            // No tree is built yet: nobody is named who would serve in another's place.
            LaneOrder::Elsewhere { handle, .. } => {
                let Some((producer, _)) = import(handle) else { return };
                self.end_import(work.commons, work.now, producer, Some(ImportEnd::Gone));
            }
            LaneOrder::Paused { handle, paused } => {
                if let Some((_, source)) = import(handle) {
                    flow::set_source_paused(work.commons, work.now, source, paused);
                }
            }
            LaneOrder::Withheld { handle, withheld } => {
                let source = import(handle).and_then(|(_, key)| work.commons.registry.sources.get_mut(key));
                if let Some(source) = source {
                    source.set_withheld(withheld);
                    work.commons.port.feed_all(source, crate::shard::relay::Feed::Withheld { withheld });
                }
            }
            LaneOrder::Ranked { handle, ranking } => {
                if let Some((_, source)) = import(handle) {
                    layers::ranked(work.commons, work.now, source, ranking);
                }
            }
            LaneOrder::ParameterSets { handle, encoding, units, .. } => {
                let source = import(handle).and_then(|(_, key)| work.commons.registry.sources.get_mut(key));
                if let Some(source) = source {
                    parameter_sets::take(source, work.now, encoding, units);
                    work.commons.port.parameter_sets(source, encoding, units);
                }
            }
            _ => {}
        }
    }

    fn subscribed(
        &mut self,
        work: &mut Work<'_>,
        lane: LaneSlotKey,
        key: SourceKey,
        (paused, withheld): (bool, bool),
        encodings: &[SubscribedEncoding],
    ) {
        flow::set_source_paused(work.commons, work.now, key, paused);
        if let Some(source) = work.commons.registry.sources.get_mut(key).filter(|source| source.withheld != withheld) {
            source.set_withheld(withheld);
        }
        for (encoding, said) in (0..).zip(encodings) {
            let ours = self.slots.get_mut(lane).and_then(LaneSlot::lane).zip(said.clock);
            let ours =
                ours.and_then(|(lane, (ntp, timestamp))| Some((lane.on_our_timeline(work.now, ntp)?, timestamp)));
            if let Some(clock) = ours {
                set_clock(work, Some(key), encoding, clock);
            }
        }
    }
}

fn set_clock(work: &mut Work<'_>, key: Option<SourceKey>, at: u8, (ntp, rtp_timestamp): (NtpTime, u32)) {
    let Some(source) = key.and_then(|key| work.commons.registry.sources.get_mut(key)) else { return };
    if let Some(encoding) = source.encodings.get_mut(usize::from(at)) {
        encoding.clock.set_mapping(ntp, rtp_timestamp);
        let feed = crate::shard::relay::Feed::Clock { encoding: at, ntp, rtp_timestamp };
        work.commons.port.feed_all(source, feed);
    }
}

/// The whole number nearest to `known` that ends in these 32 bits. Its upper half means nothing: the first one of an
/// encoding is placed high enough that packets from before it can be named.
fn whole(known: Option<ExtSeq>, number: u32) -> ExtSeq {
    match known {
        None => ExtSeq(1 << 32 | u64::from(number)),
        Some(ExtSeq(known)) => ExtSeq(known.wrapping_add_signed(i64::from(number.wrapping_sub(known as u32) as i32))),
    }
}

fn take_skip(work: &mut Work<'_>, slot: &LaneSlot, skipped: &LaneSkip) {
    let LaneSkip { handle, at, first, last } = *skipped;
    let Some(key) = stand_in(slot, handle) else { return };
    let count = last.wrapping_sub(first).saturating_add(1).min(SKIPPED_MAX);
    for nth in 0..count {
        let Some(source) = work.commons.registry.sources.get_mut(key) else { return };
        let Some(encoding) = source.encodings.get(usize::from(at.encoding())) else { return };
        if at.epoch(encoding.epoch) != encoding.epoch {
            return;
        }
        let ext = whole(encoding.newest, first.wrapping_add(nth));
        if encoding.history.get(ext).is_none() {
            skip::skip(work.commons, work.now, key, at.encoding(), ext);
        }
    }
}

fn take_media(work: &mut Work<'_>, slot: &LaneSlot, arrived: Instant, media: &LaneMedia<'_>) {
    debug_assert!(matches!(slot.state, SlotState::Up(_)), "it was opened");
    let head = &media.head;
    let Some(key) = stand_in(slot, head.handle) else {
        return work.commons.ledger.drops.count(ShardDrop::LaneHandle);
    };
    let Some(source) = work.commons.registry.sources.get_mut(key) else { return };
    let Some(encoding) = source.encodings.get(usize::from(head.at.encoding())) else {
        return work.commons.ledger.drops.count(ShardDrop::LaneMalformed);
    };
    let (ext, epoch) = (whole(encoding.newest, head.number), head.at.epoch(encoding.epoch));
    // Sent twice, and here already.
    if encoding.history.get(ext).is_some() {
        return work.commons.ledger.drops.count(ShardDrop::DuplicateRtp);
    }
    let is = |flag: u8| head.flags & flag != 0;
    let mut info = PayloadInfo {
        starts_keyframe: is(flags::KEYFRAME),
        starts_frame: is(flags::STARTS),
        ends_frame: is(flags::ENDS),
        garbled: is(flags::GARBLED),
        spatial: head.layers.unwrap_or(0) >> 4,
        temporal: head.layers.unwrap_or(0) & 15,
        ..PayloadInfo::default()
    };
    if source.codec == Codec::H264 && info.starts_keyframe {
        info.starts_idr = inspect(Codec::H264, media.parts[2]).starts_idr;
    }
    let published = Published {
        encoding: head.at.encoding(),
        ext,
        age: Duration::from_micros(u64::from(head.age.unwrap_or(0)) * 8),
        timestamp: head.timestamp,
        marker: is(flags::MARKER),
        legible: is(flags::LEGIBLE),
        info,
        epoch,
        parts: media.parts,
    };
    let packet = relaying::follow(source, work.now, work.now.mono.since(arrived), &published);
    work.intake.publish(work.commons, work.now, key, packet, media.parts);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_the_nearest_with_its_bits() {
        assert_eq!(whole(None, 7), ExtSeq(1 << 32 | 7));
        let known = Some(ExtSeq(1 << 32 | 5));
        assert_eq!(whole(known, 6), ExtSeq(1 << 32 | 6));
        assert_eq!(whole(known, u32::MAX), ExtSeq((1 << 32) - 1), "from before the first");
        assert_eq!(whole(Some(ExtSeq(0x1_ffff_fffe)), 1), ExtSeq(0x2_0000_0001));
    }
}
