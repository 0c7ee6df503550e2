//! What the mechanisms of a shard have for other nodes, until the turn's end: packets of exported sources by reference,
//! the rest of their feeds, and orders to the homes of stand-ins. The lanes take it; nothing here knows one.

use crate::base::id::ProducerId;
use crate::base::seq::ExtSeq;
use crate::router::keys::{LaneSlotKey, SourceKey};
use crate::router::packet::Packet;
use crate::router::source::Source;
use crate::shard::relay::{Feed, Order};
use crate::transport::lane::{LaneItem, LanePacket};
use crate::transport::queued::{StoredAt, Urgency};
use crate::wire::lane::{EncodingEpoch, LaneClock, LaneGone, LaneHandle, LaneOrder, LaneSkip, flags};

/// Parameter sets in one order: they fit a datagram with it, and one set at least fits them.
const SETS_BYTES_MAX: usize = 1_100;

/// A packet or a skip for one export.
#[derive(Clone, Copy, Debug)]
pub(super) struct ItemOut {
    pub(super) lane: LaneSlotKey,
    pub(super) item: LaneItem,
    /// As [`Lane::push`](crate::transport::lane::Lane::push) takes it.
    pub(super) layer: Option<u8>,
    pub(super) urgency: Urgency,
}

/// Another piece of a feed.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "pieces are few, and wait for one flush")]
pub(super) enum PieceOut {
    Order(LaneOrder<'static>),
    Clock(LaneClock),
    ParameterSets { handle: LaneHandle, encoding: u8, first: bool, units: Box<[u8]> },
}

#[derive(Default)]
pub(super) struct LaneOut {
    pub(super) items: Vec<ItemOut>,
    pub(super) pieces: Vec<(LaneSlotKey, PieceOut)>,
    pub(super) homeward: Vec<(ProducerId, Order)>,
}

impl LaneOut {
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty() && self.pieces.is_empty() && self.homeward.is_empty()
    }

    /// Sends a packet to all exports that want its encoding.
    pub(super) fn publish(&mut self, key: SourceKey, source: &Source, packet: &Packet, epoch: u32) {
        for export in source.exports.iter().filter(|export| export.encodings & 1 << packet.encoding != 0) {
            self.push(key, source, packet, epoch, (export.lane, export.handle));
        }
    }

    /// Sends a packet to one export.
    pub(super) fn push(
        &mut self,
        key: SourceKey,
        source: &Source,
        packet: &Packet,
        epoch: u32,
        (lane, handle): (LaneSlotKey, LaneHandle),
    ) {
        let (slot, generation) = key.to_parts();
        let at = StoredAt { slot, generation, encoding: packet.encoding, ext: packet.ext };
        let video = source.codec.is_video();
        let (info, set) = (&packet.info, |is: bool, flag: u8| if is { flag } else { 0 });
        let flags = set(packet.marker, flags::MARKER)
            | set(info.starts_keyframe, flags::KEYFRAME)
            | set(info.starts_frame, flags::STARTS)
            | set(info.ends_frame, flags::ENDS)
            | set(packet.legible, flags::LEGIBLE)
            | set(info.garbled, flags::GARBLED);
        let layers =
            (video && (info.spatial, info.temporal) != (0, 0)).then_some(info.spatial << 4 | info.temporal & 15);
        let epoch = EncodingEpoch::new(packet.encoding, epoch);
        let item = LaneItem::Packet(LanePacket { at, handle, flags, epoch, layers });
        let urgency = if video && !packet.marker { Urgency::FrameContinues } else { Urgency::Now };
        self.items.push(ItemOut { lane, item, layer: layer(source, packet.encoding), urgency });
    }

    pub(super) fn skip(&mut self, source: &Source, encoding: u8, ext: ExtSeq) {
        let Some(epoch) = source.encodings.get(usize::from(encoding)).map(|encoding| encoding.epoch) else { return };
        for export in source.exports.iter().filter(|export| export.encodings & 1 << encoding != 0) {
            let (at, number) = (EncodingEpoch::new(encoding, epoch), ext.0 as u32);
            let skip = LaneSkip { handle: export.handle, at, first: number, last: number };
            let (lane, item) = (export.lane, LaneItem::Skip(skip));
            let urgency = Urgency::FrameContinues;
            self.items.push(ItemOut { lane, item, layer: layer(source, encoding), urgency });
        }
    }

    pub(super) fn feed_all(&mut self, source: &Source, feed: Feed<'_>) {
        for export in &source.exports {
            self.feed(export.lane, export.handle, feed);
        }
    }

    pub(super) fn feed(&mut self, lane: LaneSlotKey, handle: LaneHandle, feed: Feed<'_>) {
        let piece = match feed {
            Feed::Paused { paused } => PieceOut::Order(LaneOrder::Paused { handle, paused }),
            Feed::Withheld { withheld } => PieceOut::Order(LaneOrder::Withheld { handle, withheld }),
            Feed::Closed => PieceOut::Order(LaneOrder::Closed { handle, why: LaneGone::Closed }),
            Feed::Ranked { ranking } => PieceOut::Order(LaneOrder::Ranked { handle, ranking }),
            Feed::Clock { encoding, ntp, rtp_timestamp } => {
                PieceOut::Clock(LaneClock { handle, encoding, ntp, rtp_timestamp })
            }
            Feed::ParameterSets { encoding, units } => return self.sets(lane, handle, encoding, units),
            // These have their own ways.
            Feed::Media(_) | Feed::Skip { .. } => return,
        };
        self.pieces.push((lane, piece));
    }

    /// Cuts parameter sets, each behind its length, into orders that fit a datagram.
    fn sets(&mut self, lane: LaneSlotKey, handle: LaneHandle, encoding: u8, mut units: &[u8]) {
        let mut first = true;
        while !units.is_empty() {
            let mut end = 0;
            while let Some(len) = units.get(end..).and_then(<[u8]>::first_chunk) {
                let next = end + 2 + usize::from(u16::from_be_bytes(*len));
                if next > units.len() || end > 0 && next > SETS_BYTES_MAX {
                    break;
                }
                end = next;
            }
            if end == 0 {
                return;
            }
            let (piece, rest) = units.split_at(end);
            self.pieces.push((lane, PieceOut::ParameterSets { handle, encoding, first, units: piece.into() }));
            (units, first) = (rest, false);
        }
    }

    pub(super) fn order_home(&mut self, producer: ProducerId, order: Order) {
        self.homeward.push((producer, order));
    }
}

/// The rank of an encoding among those of its source; None for audio.
fn layer(source: &Source, encoding: u8) -> Option<u8> {
    let layer = if source.encodings.len() > 1 { source.active.ranking.layer(encoding) } else { 0 };
    source.codec.is_video().then_some(layer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::slab::Key;
    use crate::router::source::Export;
    use crate::shard::fixture::{Fixture, video};

    fn sets(lens: &[usize]) -> Vec<u8> {
        lens.iter().flat_map(|len| [&(*len as u16).to_be_bytes()[..], &vec![7; *len]].concat()).collect()
    }

    #[test]
    fn parameter_sets_are_cut_between_two_of_them() {
        for (lens, expected) in [(&[20, 4][..], &[28][..]), (&[1_000, 900, 60], &[1_002, 964]), (&[], &[])] {
            let mut out = LaneOut::default();
            out.sets(Key::from_parts(0, 0), LaneHandle::default(), 0, &sets(lens));
            let cut: Vec<_> = out
                .pieces
                .iter()
                .map(|(_, piece)| match piece {
                    PieceOut::ParameterSets { units, first, .. } => (units.len(), *first),
                    piece => panic!("{piece:?}"),
                })
                .collect();
            assert_eq!(cut.iter().map(|(len, _)| *len).collect::<Vec<_>>(), expected);
            assert_eq!(cut.iter().filter(|(_, first)| *first).count(), expected.len().min(1));
        }
        let mut out = LaneOut::default();
        out.sets(Key::from_parts(0, 0), LaneHandle::default(), 0, &[0, 9, 1]);
        assert!(out.is_empty(), "cut short");
    }

    #[test]
    fn only_exports_that_want_an_encoding_get_it() {
        let mut fixture = Fixture::new();
        fixture.connected(1);
        fixture.producer(7, 1, video(100));
        let key = fixture.source(7);
        let source = fixture.commons.registry.sources.get_mut(key).unwrap();
        let export = |slot, encodings| {
            let handle = LaneHandle { index: slot as u16, generation: 0 };
            Export { lane: Key::from_parts(slot, 0), handle, encodings }
        };
        source.exports = vec![export(1, 1), export(2, 2), export(3, 3)];
        fixture.publish(7, 10, true);
        let lanes: Vec<_> = fixture.commons.port.lanes.items.iter().map(|item| item.lane.slot()).collect();
        assert_eq!(lanes, [1, 3]);
    }
}
