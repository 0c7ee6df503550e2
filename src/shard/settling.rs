//! The work that a turn owes to many objects, done once for each before the flush: consumers checked because their
//! producer was paused, bandwidth allocated, consumers opened. Commands and feedback only note it here: an allocation
//! is work for each consumer of a client, and one for each consumer and each message would be work by their square.
//! Work beyond one turn's share waits for the next, which is due at once; media goes first.

use std::collections::VecDeque;

use crate::base::slab::Key;
use crate::router::keys::{ConsumerKey, SourceKey};
use crate::shard::registry::Registry;
use crate::shard::wiring::Share;
use crate::transport::Transport;

#[derive(Default)]
pub(super) struct Settling {
    sources: VecDeque<SourceKey>,
    transports: VecDeque<Key<Transport>>,
    /// To be opened once their transports' bandwidth has been allocated.
    consumers: VecDeque<ConsumerKey>,
}

impl Settling {
    pub(super) fn is_empty(&self) -> bool {
        self.sources.is_empty() && self.transports.is_empty() && self.consumers.is_empty()
    }

    /// Notes that the transport's bandwidth is to be allocated before anything more is sent; nothing where there is no
    /// estimate.
    pub(super) fn share(&mut self, registry: &mut Registry, key: Key<Transport>, how: Share) {
        if registry.transports.get(key).is_none_or(|transport| transport.bandwidth.is_none()) {
            return;
        }
        let asked = &mut registry.wiring[key.slot()].share;
        if asked.replace(asked.map_or(how, |before| before.max(how))).is_none() {
            self.transports.push_back(key);
        }
    }

    /// Notes a consumer that is to flow after its allocation. False: there is none to wait for.
    pub(super) fn open(&mut self, registry: &mut Registry, key: ConsumerKey, transport: Key<Transport>) -> bool {
        let shares = registry.transports.get(transport).is_some_and(|transport| transport.bandwidth.is_some());
        if shares {
            self.share(registry, transport, Share::Anew);
            self.consumers.push_back(key);
        }
        shares
    }

    /// Notes that all consumers of the source are to be opened or closed by its state.
    pub(super) fn look_at_consumers(&mut self, registry: &mut Registry, key: SourceKey) {
        if let Some(source) = registry.sources.get_mut(key)
            && !std::mem::replace(&mut source.unsettled, true)
        {
            self.sources.push_back(key);
        }
    }

    /// Notes the consumers of the noted sources, and the transports that they are on.
    pub(super) fn spread(&mut self, registry: &mut Registry) {
        while let Some(key) = self.sources.pop_front() {
            let Some(source) = registry.sources.get_mut(key) else { continue };
            source.unsettled = false;
            for consumer in source.consumers.clone() {
                if let Some(transport) = registry.consumers.get(consumer).map(|consumer| consumer.transport) {
                    self.share(registry, transport, Share::Anew);
                    self.consumers.push_back(consumer);
                }
            }
        }
    }

    pub(super) fn next_transport(&mut self) -> Option<Key<Transport>> {
        self.transports.pop_front()
    }

    /// The next consumer to open. Call when no transport is left.
    pub(super) fn next_consumer(&mut self) -> Option<ConsumerKey> {
        debug_assert!(self.transports.is_empty(), "its allocation comes first");
        self.consumers.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::fixture::{Fixture, HERE};
    use crate::transport::bandwidth::Bandwidth;

    fn estimated(fixture: &mut Fixture, key: Key<Transport>) {
        let transport = fixture.commons.registry.transports.get_mut(key).unwrap();
        transport.bandwidth.get_or_insert_with(|| Box::new(Bandwidth::default()));
    }

    #[test]
    fn what_is_asked_for_often_is_done_once_and_the_allocation_comes_first() {
        let mut fixture = Fixture::new();
        let (publisher, watcher) = (fixture.connected(1), fixture.connected(2));
        fixture.producer(7, 1, crate::shard::fixture::video(100));
        let consumer = fixture.consumer(3, 2, 7, HERE);
        let source = fixture.source(7);
        estimated(&mut fixture, watcher);
        let (registry, mut settling) = (&mut fixture.commons.registry, Settling::default());
        assert!(!settling.open(registry, consumer, publisher), "nothing is known of its path");
        settling.share(registry, watcher, Share::IfDue);
        assert!(settling.open(registry, consumer, watcher));
        settling.look_at_consumers(registry, source);
        settling.look_at_consumers(registry, source);
        settling.spread(registry);
        assert_eq!(registry.wiring[watcher.slot()].share, Some(Share::Anew), "the stronger reason stands");
        assert_eq!((settling.next_transport(), settling.next_transport()), (Some(watcher), None));
        assert_eq!((settling.next_consumer(), settling.next_consumer()), (Some(consumer), Some(consumer)));
        assert!(settling.next_consumer().is_none() && settling.is_empty());
    }
}
