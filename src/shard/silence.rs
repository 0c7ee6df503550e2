//! Producers that have fallen silent: their channels are told, and they are not offered to clients that ask for "any".

use crate::base::slab::Key;
use crate::base::time::Now;
use crate::shard::command::Event;
use crate::shard::commons::Commons;
use crate::transport::Transport;

/// Notices the silence of all producers of this peer, also of those that have not found their transport.
pub(super) fn notice(commons: &mut Commons, now: Now, key: Key<Transport>) {
    let transport = commons.registry.transports.get(key);
    let Some(entry) = transport.and_then(|transport| commons.registry.peers.get(&transport.peer)) else { return };
    for producer in entry.producers.clone() {
        if let Some(producer) = commons.registry.producers.get_mut(producer)
            && producer.falls_silent(now.mono)
        {
            commons.ledger.events.push_back(Event::ProducerSilent { producer: producer.id, silent: true });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::fixture::{Fixture, video};

    #[test]
    fn a_producer_that_says_bye_or_nothing_is_told_once() {
        let mut fixture = Fixture::new();
        let key = fixture.connected(1);
        let (leaves, fades) = (fixture.producer(7, 1, video(100)), fixture.producer(8, 1, video(200)));
        fixture.events();
        let told = |fixture: &mut Fixture| {
            notice(&mut fixture.commons, fixture.now, key);
            let silent = |event| matches!(event, Event::ProducerSilent { silent: true, .. }).then_some(event);
            fixture.events().into_iter().filter_map(silent).count()
        };
        assert_eq!(told(&mut fixture), 0);
        fixture.commons.registry.stream_mut(leaves, 0).unwrap().said_bye = true;
        assert_eq!((told(&mut fixture), told(&mut fixture)), (1, 0));
        fixture.wait(10_000);
        assert_eq!((told(&mut fixture), told(&mut fixture)), (1, 0));
        assert!(fixture.commons.registry.producers.get(fades).unwrap().silence_deadline().is_none());
    }
}
