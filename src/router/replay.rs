//! Serves a joiner from the history: the packets since the newest keyframe go out at many times their speed, and live
//! packets follow without a gap, so that the publisher need not be asked for a keyframe. Receivers set their clock by
//! the first picture: timestamps are squeezed as the packets are, or live pictures would be shown late for good. Called
//! by `shard` when a consumer opens for the first time; not the hot loop (`forward`), which goes on from there.

use crate::base::limits::{REPLAY_AGE_MAX, REPLAY_BYTES_MAX};
use crate::base::seq::ExtSeq;
use crate::base::time::{Duration, Instant};
use crate::media::rewrite::Replayed;
use crate::router::consumer::{Consumer, Flow};
use crate::router::packet::Packet;
use crate::router::pass::{ForwardCounts, PassResults, Passing, lead, pass, pass_layered, read_again};
use crate::router::source::{EncodingSource, Source};
use crate::transport::Transport;
use crate::transport::queued::{StoredAt, Urgency};
use crate::wire::codec::PayloadInfo;

/// The packets of a stream since its newest keyframe.
struct Group {
    first: ExtSeq,
    replayed: Replayed,
    age: Duration,
    bytes: usize,
}

impl Group {
    /// None unless all of them are there and young enough.
    fn of(now: Instant, encoding: &EncodingSource) -> Option<Group> {
        let (first, timestamp) = encoding.keyframe?;
        let until = encoding.newest.filter(|newest| *newest >= first)?;
        let age = now.since(encoding.history.get(first)?.header.arrival);
        if age > REPLAY_AGE_MAX {
            return None;
        }
        let mut bytes = 0;
        let mut replayed = Replayed { until, timestamp };
        for ext in (first.0..=until.0).map(ExtSeq) {
            let stored = encoding.history.get(ext)?;
            bytes += stored.bytes.len();
            replayed.timestamp = stored.header.timestamp;
        }
        Some(Group { first, replayed, age, bytes })
    }

    fn packets(&self) -> usize {
        (self.replayed.until.0 - self.first.0) as usize + 1
    }
}

/// The packets of an encoding since its newest keyframe, as on arrival, for a subscriber that begins with them. None:
/// there is none, it is too old, or one is missing.
pub fn since_keyframe(now: Instant, source: &Source, at: u8) -> Option<impl Iterator<Item = Packet>> {
    let encoding = source.encodings.get(usize::from(at))?;
    let group = Group::of(now, encoding)?;
    if group.bytes > REPLAY_BYTES_MAX {
        return None;
    }
    let info = PayloadInfo::default();
    let like =
        Packet { encoding: at, ext: group.first, arrived: now, timestamp: 0, marker: false, legible: true, info };
    let packets = (group.first.0..=group.replayed.until.0).map(ExtSeq);
    Some(packets.filter_map(move |ext| {
        let (mut packet, _) = read_again(encoding, source.codec, &like, ext)?;
        packet.info.starts_keyframe |= ext == group.first;
        Some(packet)
    }))
}

/// False, and nothing done, where that is impossible: the consumer must wait for a keyframe.
pub fn replay(
    now: Instant,
    source: &Source,
    consumer: &mut Consumer,
    transport: &mut Transport,
    counts: &mut ForwardCounts,
) -> bool {
    let wanted = match (&consumer.layered, consumer.flow) {
        (_, Flow::Closed | Flow::Open { .. }) => None,
        (Some(layered), _) if source.encodings.len() > 1 => layered.aim(now, &source.active),
        _ => Some(0),
    };
    let Some(at) = wanted else { return false };
    let Some(encoding) = source.encodings.get(usize::from(at)) else { return false };
    let Some(group) = Group::of(now, encoding) else { return false };
    let span = group.age / Replayed::SPEED;
    if !transport.egress.make_room_for_replay(now, group.packets(), group.bytes, span) {
        return false;
    }
    consumer.rewriter.rebase_replayed(at, group.replayed);
    consumer.set_flow(now, Flow::Open { encoding: at, epoch: encoding.epoch });
    if let Some(layered) = &mut consumer.layered {
        layered.select(now, at, true, &source.active);
        layered.attach(source.active.layer(at));
    }
    let (slot, generation) = consumer.source.to_parts();
    let like = Packet {
        encoding: at,
        ext: group.first,
        arrived: now,
        timestamp: 0,
        marker: false,
        // Without it there would be no keyframe to begin with.
        legible: true,
        info: PayloadInfo::default(),
    };
    let mut results = PassResults { counts, wanted: 0 };
    for ext in (group.first.0..=group.replayed.until.0).map(ExtSeq) {
        let Some((packet, frame)) = read_again(encoding, source.codec, &like, ext) else { continue };
        let frame = frame.as_ref().zip(encoding.structure.as_ref().map(|known| &known.targets));
        let packet = Packet { timestamp: group.replayed.squeeze(packet.timestamp), ..packet };
        let stored = StoredAt { slot, generation, encoding: at, ext };
        let passing = Passing { now, at: stored, packet: &packet, frame, holds: false };
        if ext == group.first
            && let Some(sets) = encoding.leading(&packet.info)
        {
            lead(&passing, consumer, transport, sets, &mut results);
        }
        if consumer.layered.is_some() {
            pass_layered(&passing, consumer, transport, &mut results);
        } else {
            pass(&passing, consumer, transport, Urgency::Now, &mut results);
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{Layers, ProducerId, ShardId};
    use crate::base::time::Now;
    use crate::media::history::StoredHeader;
    use crate::router::source::SourceOrigin;
    use crate::sim::world::at;
    use crate::wire::codec::Codec;

    /// Packets of 1,000 bytes, three to a frame, 30 ms apart; frame 3 is a keyframe.
    fn source(packets: impl Iterator<Item = u64>) -> Source {
        let (producer, origin) = (ProducerId(1), SourceOrigin::Relay(ShardId(0)));
        let layers = Layers::default();
        let mut source = Source::new(Instant::ZERO, producer, origin, Codec::Vp8, 90_000, 1, layers);
        for n in packets {
            let now = time(n / 3 * 30);
            let info = PayloadInfo { starts_keyframe: n == 9, ..PayloadInfo::default() };
            let timestamp = (n / 3 * 2_700) as u32;
            let (arrived, ext) = (now.mono, ExtSeq(n));
            let mut packet = Packet { encoding: 0, ext, arrived, timestamp, marker: false, legible: true, info };
            source.note(now, &mut packet);
            let header =
                StoredHeader { marker: false, timestamp, extension_len: 0, descriptor_len: 0, arrival: now.mono };
            source.encodings[0].history.push(now.mono, ExtSeq(n), header, &[&[0; 1_000]]);
        }
        source
    }

    fn time(millis: u64) -> Now {
        at(Instant::from_nanos(millis * 1_000_000))
    }

    fn group(source: &Source, millis: u64) -> Option<Group> {
        Group::of(time(millis).mono, &source.encodings[0])
    }

    #[test]
    fn a_group_reaches_from_its_keyframe_to_live_or_is_none() {
        let whole = source(0..30);
        let found = group(&whole, 300).unwrap();
        assert_eq!((found.first, found.packets(), found.bytes), (ExtSeq(9), 21, 21_000));
        assert_eq!(
            (found.replayed, found.age),
            (Replayed { until: ExtSeq(29), timestamp: 24_300 }, time(210).mono.since(Instant::ZERO))
        );
        assert!(group(&whole, 1_090).is_some() && group(&whole, 1_091).is_none(), "a second is the most");
        assert!(group(&source(0..9), 90).is_none(), "no keyframe");
        for missing in [9, 10, 17, 28] {
            assert!(group(&source((0..30).filter(|n| *n != missing)), 300).is_none(), "{missing} is missing");
        }
        assert!(group(&source((3..30).filter(|n| *n != 7)), 300).is_some(), "what was before does not count");
        // Late, but here.
        assert!(group(&source((0..12).chain(15..30).chain(12..15)), 300).is_some());
    }

    #[test]
    fn a_stream_that_starts_over_has_none() {
        let mut source = source(0..30);
        source.restart(0);
        assert!(group(&source, 300).is_none());
    }
}
