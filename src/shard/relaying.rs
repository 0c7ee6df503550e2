//! The two ends of a relay: subscriptions, by whoever is on the mesh, to producers that live here; and the stand-ins
//! here for producers that live on other shards.

use crate::base::id::{Layers, ProducerId, ShardId};
use crate::base::ranking::Ranking;
use crate::base::time::{Duration, Now};
use crate::router::keys::SourceKey;
use crate::router::packet::Packet;
use crate::router::source::{Elsewhere, Source, SourceOrigin};
use crate::shard::commons::Commons;
use crate::shard::layers;
use crate::shard::registry::Registry;
use crate::shard::relay::{Feed, Published};
use crate::wire::codec::inspect;

/// Adds a subscriber to a producer. Signalling tells the producer's home before any consumer's shard, but commands and
/// records come by different ways: the producer may come after its subscription, which then waits.
pub(super) fn subscribe(commons: &mut Commons, now: Now, producer: ProducerId, from: ShardId) {
    let Commons { registry, port, .. } = commons;
    let Some(source) = registry.source_mut(producer) else {
        if !port.await_producer(now.mono, producer, from) {
            port.feed(from, producer, Feed::Closed);
        }
        return;
    };
    if !source.subscribers.contains(&from) {
        source.subscribers.push(from);
    }
    port.feed(from, producer, Feed::Paused { paused: source.paused });
    if source.withheld {
        port.feed(from, producer, Feed::Withheld { withheld: true });
    }
    if source.active.ranking != Ranking::default() {
        port.feed(from, producer, Feed::Ranked { ranking: source.active.ranking });
    }
    for (encoding, state) in (0..).zip(&source.encodings) {
        if let Some((ntp, rtp_timestamp)) = state.clock.mapping() {
            port.feed(from, producer, Feed::Clock { encoding, ntp, rtp_timestamp });
        }
    }
}

pub(super) fn unsubscribe(commons: &mut Commons, now: Now, producer: ProducerId, from: ShardId) {
    let Commons { registry, port, .. } = commons;
    port.await_no_more(producer, from);
    if let Some(source) = registry.source_mut(producer) {
        source.subscribers.retain(|shard| *shard != from);
    }
    layers::watched_elsewhere(commons, now, producer, Elsewhere::Shard(from), 0);
}

/// Carries out the subscriptions that waited for this producer.
pub(super) fn subscribe_awaiting(commons: &mut Commons, now: Now, producer: ProducerId) {
    for shard in commons.port.awaiting(producer) {
        subscribe(commons, now, producer, shard);
    }
}

/// The local stand-in for a producer whose home is `from`.
pub(super) fn stand_in(registry: &Registry, producer: ProducerId, from: ShardId) -> Option<SourceKey> {
    let key = *registry.source_keys.get(&producer)?;
    matches!(registry.sources.get(key)?.origin, SourceOrigin::Relay(home) if home == from).then_some(key)
}

/// The packet that a feed brought to its stand-in, read as far as the stand-in's layers need.
pub(super) fn follow(source: &mut Source, now: Now, waited: Duration, media: &Published<'_>) -> Packet {
    let mut packet = media.packet(now.mono, waited);
    source.follow(packet.encoding, media.epoch);
    if packet.legible && source.top != Layers::default() {
        // The record holds only what a stream without layers needs.
        let starts_keyframe = packet.info.starts_keyframe;
        packet.info = inspect(source.codec, media.parts[2]);
        // Earlier packets may decide where a keyframe starts. Its home has seen them.
        packet.info.starts_keyframe |= starts_keyframe;
    }
    packet
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::fixture::{Fixture, HERE, THERE, video};

    #[test]
    fn a_subscriber_is_told_the_state_it_finds_and_again_nothing_after_it_left() {
        let mut fixture = Fixture::new();
        fixture.connected(1);
        fixture.producer(7, 1, video(100));
        let source = fixture.source(7);
        fixture.commons.registry.sources.get_mut(source).unwrap().withheld = true;
        subscribe(&mut fixture.commons, fixture.now, ProducerId(7), THERE);
        subscribe(&mut fixture.commons, fixture.now, ProducerId(7), THERE);
        assert_eq!(fixture.commons.registry.sources.get(source).unwrap().subscribers, [THERE]);
        let said = fixture.said();
        assert!(said[0].contains("paused: false") && said[1].contains("withheld: true"), "{said:?}");
        unsubscribe(&mut fixture.commons, fixture.now, ProducerId(7), THERE);
        fixture.publish(7, 10, true);
        assert_eq!(fixture.said(), [""; 0]);
    }

    #[test]
    fn a_subscription_may_come_before_its_producer() {
        let mut fixture = Fixture::new();
        fixture.connected(1);
        subscribe(&mut fixture.commons, fixture.now, ProducerId(7), THERE);
        assert_eq!(fixture.said(), [""; 0]);
        fixture.producer(7, 1, video(100));
        subscribe_awaiting(&mut fixture.commons, fixture.now, ProducerId(7));
        assert_eq!(fixture.said().len(), 1);
        assert_eq!(fixture.commons.registry.sources.get(fixture.source(7)).unwrap().subscribers, [THERE]);
    }

    #[test]
    fn only_the_home_of_a_producer_speaks_for_it() {
        let mut fixture = Fixture::new();
        fixture.connected(1);
        fixture.producer(7, 1, video(100));
        fixture.consumer(3, 1, 8, THERE);
        let registry = &fixture.commons.registry;
        assert_eq!(stand_in(registry, ProducerId(8), THERE), Some(fixture.source(8)));
        assert_eq!(stand_in(registry, ProducerId(8), HERE), None);
        assert_eq!(stand_in(registry, ProducerId(7), THERE), None, "it lives here");
    }
}
