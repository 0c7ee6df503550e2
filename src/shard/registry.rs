//! The objects of one shard, and every way to find one: by key, by id, by peer. What an object is, and what follows
//! when it comes or goes, is not decided here.

use std::collections::HashMap;

use crate::base::id::{ConsumerId, PeerId, ProducerId, TransportId};
use crate::base::limits::TRANSPORTS_PER_SHARD_MAX;
use crate::base::slab::{Key, Slab};
use crate::base::time::{Duration, Instant};
use crate::router::consumer::{Consumer, Consumers};
use crate::router::keys::{ConsumerKey, ProducerKey, SourceKey};
use crate::router::producer::{Producer, Producers};
use crate::router::source::{Source, Sources};
use crate::router::stream::Stream;
use crate::router::verdict::verdict;
use crate::shard::wiring::Wiring;
use crate::transport::Transport;
use crate::transport::web_rtc::WebRtc;
use crate::wire::lane::ProducerUuid;

pub(super) struct Registry {
    pub(super) transports: Slab<Transport>,
    /// By transport slot.
    pub(super) wiring: Vec<Wiring>,
    pub(super) producers: Producers,
    pub(super) sources: Sources,
    pub(super) consumers: Consumers,
    pub(super) transport_keys: HashMap<TransportId, Key<Transport>>,
    pub(super) producer_keys: HashMap<ProducerId, ProducerKey>,
    pub(super) source_keys: HashMap<ProducerId, SourceKey>,
    pub(super) consumer_keys: HashMap<ConsumerId, ConsumerKey>,
    pub(super) peers: HashMap<PeerId, PeerEntry>,
    /// The producers that other nodes may ask for, by the name they know; empty without a cluster.
    pub(super) names: HashMap<ProducerUuid, ProducerId>,
}

/// One peer's objects on this shard: all its transports are here, so a producer without a transport can find its own.
#[derive(Default)]
pub(super) struct PeerEntry {
    pub transports: Vec<Key<Transport>>,
    pub producers: Vec<ProducerKey>,
}

impl Default for Registry {
    fn default() -> Registry {
        Registry {
            // Moving ten thousand transports, or hashing their names anew, would keep media waiting for milliseconds.
            transports: Slab::with_capacity(TRANSPORTS_PER_SHARD_MAX),
            wiring: Vec::with_capacity(TRANSPORTS_PER_SHARD_MAX),
            producers: Slab::default(),
            sources: Slab::default(),
            consumers: Slab::default(),
            transport_keys: HashMap::with_capacity(TRANSPORTS_PER_SHARD_MAX),
            producer_keys: HashMap::new(),
            source_keys: HashMap::new(),
            consumer_keys: HashMap::new(),
            peers: HashMap::with_capacity(TRANSPORTS_PER_SHARD_MAX),
            names: HashMap::new(),
        }
    }
}

impl Registry {
    /// With a wiring of its own; None: the shard is full.
    pub(super) fn add_transport(&mut self, transport: Transport) -> Option<Key<Transport>> {
        if self.transports.len() >= TRANSPORTS_PER_SHARD_MAX {
            return None;
        }
        let (id, peer) = (transport.id, transport.peer);
        let key = self.transports.insert(transport);
        while self.wiring.len() <= key.slot() {
            self.wiring.push(Wiring::default());
        }
        self.wiring[key.slot()] = Wiring::default();
        self.transport_keys.insert(id, key);
        self.peers.entry(peer).or_default().transports.push(key);
        Some(key)
    }

    /// The transport with what was wired to it.
    pub(super) fn remove_transport(&mut self, key: Key<Transport>) -> Option<(Transport, Wiring)> {
        let transport = self.transports.remove(key)?;
        self.transport_keys.remove(&transport.id);
        if let Some(entry) = self.peers.get_mut(&transport.peer) {
            entry.transports.retain(|other| *other != key);
        }
        self.forget_if_empty(transport.peer);
        Some((transport, std::mem::take(&mut self.wiring[key.slot()])))
    }

    pub(super) fn add_producer(&mut self, producer: Producer) -> ProducerKey {
        let (id, peer) = (producer.id, producer.peer);
        let key = self.producers.insert(producer);
        self.producer_keys.insert(id, key);
        self.peers.entry(peer).or_default().producers.push(key);
        key
    }

    pub(super) fn remove_producer(&mut self, key: ProducerKey) -> Option<Producer> {
        let producer = self.producers.remove(key)?;
        self.producer_keys.remove(&producer.id);
        if let Some(entry) = self.peers.get_mut(&producer.peer) {
            entry.producers.retain(|other| *other != key);
        }
        self.forget_if_empty(producer.peer);
        Some(producer)
    }

    pub(super) fn producer_mut(&mut self, id: ProducerId) -> Option<&mut Producer> {
        self.producers.get_mut(*self.producer_keys.get(&id)?)
    }

    /// This shard's source of a producer, whose home may be elsewhere.
    pub(super) fn source_mut(&mut self, producer: ProducerId) -> Option<&mut Source> {
        self.sources.get_mut(*self.source_keys.get(&producer)?)
    }

    pub(super) fn consumer_mut(&mut self, id: ConsumerId) -> Option<&mut Consumer> {
        self.consumers.get_mut(*self.consumer_keys.get(&id)?)
    }

    /// The round trip to the client of this transport. Only a transport that the client receives on measures it; for
    /// one that only sends, the peer's other transports tell, which lead to the same place.
    pub(super) fn round_trip_to(&self, key: Key<Transport>) -> Option<Duration> {
        let transport = self.transports.get(key)?;
        let siblings = || self.peers.get(&transport.peer).into_iter().flat_map(|entry| &entry.transports);
        transport.round_trip.or_else(|| {
            siblings().filter_map(|key| self.transports.get(*key)).filter_map(|transport| transport.round_trip).min()
        })
    }

    /// None also where the transport is of another kind.
    pub(super) fn web_rtc(&mut self, key: Key<Transport>) -> Option<&mut WebRtc> {
        self.transports.get_mut(key)?.kind.web_rtc_mut()
    }

    pub(super) fn stream_mut(&mut self, producer: ProducerKey, stream: u8) -> Option<&mut Stream> {
        self.producers.get_mut(producer)?.streams.get_mut(usize::from(stream))
    }

    /// Notes how the consumers of a transport stand, for the log of its end.
    pub(super) fn note_verdicts(&mut self, now: Instant, key: Key<Transport>) {
        let Some(transport) = self.transports.get(key) else { return };
        let Wiring { consumers, life, .. } = &mut self.wiring[key.slot()];
        for consumer in consumers.iter().filter_map(|consumer| self.consumers.get(*consumer)) {
            if let Some(source) = self.sources.get(consumer.source) {
                life.note(now, verdict(now, consumer, source, transport));
            }
        }
    }

    /// The consumer is gone, and its transport's log keeps what it lost.
    pub(super) fn note_end_of_consumer(&mut self, now: Instant, consumer: &Consumer) {
        let Some(transport) = self.transports.get(consumer.transport) else { return };
        let life = &mut self.wiring[consumer.transport.slot()].life;
        life.consumer_ended(consumer);
        if let Some(source) = self.sources.get(consumer.source) {
            life.note(now, verdict(now, consumer, source, transport));
        }
    }

    pub(super) fn note_end_of_producer(&mut self, producer: &Producer) {
        if let Some(key) = producer.transport.filter(|key| self.transports.get(*key).is_some()) {
            self.wiring[key.slot()].life.producer_ended(producer);
        }
    }

    fn forget_if_empty(&mut self, peer: PeerId) {
        if self.peers.get(&peer).is_some_and(|entry| entry.transports.is_empty() && entry.producers.is_empty()) {
            self.peers.remove(&peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::ice_lite::{IceCredentialsLocal, IceLite};
    use crate::transport::kind::TransportKind;

    fn transport(id: u64, peer: u64) -> Transport {
        let credentials = IceCredentialsLocal { ufrag: format!("ufrag{id}"), pwd: "a password of twenty-four".into() };
        let kind = TransportKind::WebRtc(WebRtc::new(IceLite::new(credentials)));
        Transport::new(Instant::ZERO, TransportId(id), PeerId(peer), kind)
    }

    #[test]
    fn a_peer_is_known_as_long_as_it_has_anything() {
        let mut registry = Registry::default();
        let first = registry.add_transport(transport(1, 7)).unwrap();
        let second = registry.add_transport(transport(2, 7)).unwrap();
        assert_eq!(registry.peers[&PeerId(7)].transports, [first, second]);
        assert_eq!(registry.transport_keys[&TransportId(2)], second);
        let (gone, _) = registry.remove_transport(first).unwrap();
        assert_eq!((gone.id, registry.peers[&PeerId(7)].transports.len()), (TransportId(1), 1));
        assert!(registry.remove_transport(first).is_none(), "once");
        registry.remove_transport(second).unwrap();
        assert!(registry.peers.is_empty() && registry.transport_keys.is_empty());
    }

    #[test]
    fn a_slot_that_is_used_again_has_no_wiring_of_the_one_before() {
        let mut registry = Registry::default();
        let old = registry.add_transport(transport(1, 7)).unwrap();
        registry.wiring[old.slot()].early = 3;
        registry.remove_transport(old).unwrap();
        let new = registry.add_transport(transport(2, 8)).unwrap();
        assert_eq!((new.slot(), registry.wiring[new.slot()].early), (old.slot(), 0));
        assert!(registry.transports.get(old).is_none());
    }
}
