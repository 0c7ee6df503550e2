//! Subscriptions of other shards to producers that live here, and the stand-ins for producers that live there.

use crate::base::id::{ProducerId, ShardId};
use crate::base::ranking::Ranking;
use crate::base::time::Now;
use crate::router::keys::SourceKey;
use crate::router::source::Origin;
use crate::shard::commons::Commons;
use crate::shard::layers;
use crate::shard::registry::Registry;
use crate::shard::relay::RelayMessage;

/// Signalling tells the home of a producer before it tells anyone of a consumer; but commands come by another way,
/// and may still be waiting when the mesh has brought this.
pub(super) fn subscribe(commons: &mut Commons, now: Now, producer: ProducerId, from: ShardId) {
    let Commons { registry, port, .. } = commons;
    let Some(source) = registry.source_keys.get(&producer).and_then(|key| registry.sources.get_mut(*key)) else {
        if !port.await_producer(now.mono, producer, from) {
            port.send(from, &RelayMessage::Closed { producer });
        }
        return;
    };
    if !source.relays.contains(&from) {
        source.relays.push(from);
    }
    port.send(from, &RelayMessage::Paused { producer, paused: source.paused });
    if source.withheld {
        port.send(from, &RelayMessage::Withheld { producer, withheld: true });
    }
    if source.active.ranking != Ranking::default() {
        port.send(from, &RelayMessage::Ranked { producer, ranking: source.active.ranking });
    }
    for (encoding, state) in (0..).zip(&source.encodings) {
        if let Some((ntp, rtp_timestamp)) = state.clock.mapping() {
            port.send(from, &RelayMessage::Clock { producer, encoding, ntp, rtp_timestamp });
        }
    }
}

pub(super) fn unsubscribe(commons: &mut Commons, now: Now, producer: ProducerId, from: ShardId) {
    let Commons { registry, port, .. } = commons;
    port.await_no_more(producer, from);
    if let Some(source) = registry.source_keys.get(&producer).and_then(|key| registry.sources.get_mut(*key)) {
        source.relays.retain(|shard| *shard != from);
    }
    layers::watched_elsewhere(commons, now, producer, from, 0);
}

/// The producer has come that other shards may have subscribed to.
pub(super) fn subscribe_awaiting(commons: &mut Commons, now: Now, producer: ProducerId) {
    for shard in commons.port.awaiting(producer) {
        subscribe(commons, now, producer, shard);
    }
}

/// The local stand-in for a producer whose home is `from`.
pub(super) fn stand_in(registry: &Registry, producer: ProducerId, from: ShardId) -> Option<SourceKey> {
    let key = *registry.source_keys.get(&producer)?;
    matches!(registry.sources.get(key)?.origin, Origin::Relay(home) if home == from).then_some(key)
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
        assert_eq!(fixture.commons.registry.sources.get(source).unwrap().relays, [THERE]);
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
        assert_eq!(fixture.commons.registry.sources.get(fixture.source(7)).unwrap().relays, [THERE]);
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
