//! The end of transports, producers, sources and consumers. Each takes with it what depends on it.

use crate::base::id::{ProducerId, ShardId};
use crate::base::slab::Key;
use crate::base::time::Now;
use crate::router::keys::{ConsumerKey, ProducerKey, SourceKey};
use crate::router::source::SourceOrigin;
use crate::shard::command::{Closed, Event};
use crate::shard::commons::Commons;
use crate::shard::demux::Demux;
use crate::shard::layers;
use crate::shard::paths::Rival;
use crate::shard::relay::{Feed, Order};
use crate::shard::rtcp_out;
use crate::shard::wiring::Wiring;
use crate::transport::Transport;
use crate::transport::outgoing::Outgoing;
use crate::transport::web_rtc::WebRtc;

/// Closes a transport. `why: None`: signalling asked for it and needs no event.
pub(super) fn close_transport(
    commons: &mut Commons,
    demux: &mut Demux,
    now: Now,
    key: Key<Transport>,
    why: Option<Closed>,
) {
    // The slot of a stale key may be another transport's by now.
    let Some(peer) = commons.registry.transports.get(key).map(|transport| transport.peer) else { return };
    say_goodbye(commons, now, key);
    for consumer in commons.registry.wiring[key.slot()].take_consumers() {
        close_consumer(commons, now, consumer, why);
    }
    // The last transport of a peer takes along the producers that never found one.
    let last = commons.registry.peers.get(&peer).filter(|entry| entry.transports == [key]);
    let mut producers = last.map(|entry| entry.producers.clone()).unwrap_or_default();
    producers.extend(&commons.registry.wiring[key.slot()].producers);
    for producer in producers {
        close_producer(commons, now, producer, why);
    }
    let Some((transport, Wiring { ufrags, life, producers, consumers, .. })) = commons.registry.remove_transport(key)
    else {
        return;
    };
    debug_assert!(producers.is_empty() && consumers.is_empty(), "what is on a transport ends before it does");
    commons.ledger.counters.received -= transport.traffic.packets_received;
    for ufrag in ufrags {
        demux.ufrags.remove(&ufrag);
    }
    if let Some(plain) = transport.kind.plain_rtp() {
        demux.plain_rtp.remove(&plain.local());
    }
    for path in transport.kind.paths() {
        demux.paths.withdraw(path, Rival::Here(key));
        demux.path_down(commons, now, path, key);
    }
    commons.ledger.events.push_back(life.ended(&transport));
    if let Some(why) = why {
        commons.ledger.events.push_back(Event::TransportClosed { transport: transport.id, why });
    }
}

/// Sends close_notify, so that the other end need not wait for its consent to run out.
fn say_goodbye(commons: &mut Commons, now: Now, key: Key<Transport>) {
    let Some(transport) = commons.registry.transports.get_mut(key) else { return };
    let Some(web_rtc) = transport.kind.web_rtc_mut() else { return };
    let exit = web_rtc.exit();
    let WebRtc { link, proof, bounded, .. } = web_rtc;
    link.close();
    let ready = &mut commons.outlet.ready;
    link.poll(now.mono, &[], |datagram| {
        if let Some(path) = exit.filter(|_| !*bounded || proof.admits(datagram.len())) {
            ready.push(path, datagram);
        }
    });
}

pub(super) fn close_producer(commons: &mut Commons, now: Now, key: ProducerKey, why: Option<Closed>) {
    let Some(producer) = commons.registry.remove_producer(key) else { return };
    commons.registry.note_end_of_producer(&producer);
    if let Some(transport) = producer.transport {
        commons.registry.wiring[transport.slot()].remove_producer(now.mono, key);
    }
    if let Some(source) = commons.registry.sources.get(producer.source) {
        commons.port.feed_all(source, Feed::Closed);
    }
    close_source(commons, now, producer.source);
    if let Some(why) = why {
        commons.ledger.events.push_back(Event::ProducerClosed { producer: producer.id, why });
    }
}

/// Closes a source and its consumers. The source goes first, or each consumer would be searched for in its list.
pub(super) fn close_source(commons: &mut Commons, now: Now, key: SourceKey) {
    let Some(source) = commons.registry.sources.remove(key) else { return };
    commons.registry.source_keys.remove(&source.producer);
    commons.registry.names.retain(|_, named| *named != source.producer);
    for consumer in source.consumers {
        close_consumer(commons, now, consumer, Some(Closed::ProducerClosed));
    }
}

pub(super) fn close_consumer(commons: &mut Commons, now: Now, key: ConsumerKey, why: Option<Closed>) {
    let Some(consumer) = commons.registry.consumers.remove(key) else { return };
    commons.registry.note_end_of_consumer(now.mono, &consumer);
    commons.registry.consumer_keys.remove(&consumer.id);
    commons.registry.wiring[consumer.transport.slot()].remove_consumer(key);
    if let Some(transport) = commons.registry.transports.get_mut(consumer.transport)
        && let Some(outgoing) = transport.outgoing.remove(consumer.outgoing)
    {
        transport.egress.log.stream_ended(Outgoing::place(consumer.outgoing));
        rtcp_out::bye(commons, consumer.transport, outgoing.ssrc);
        if let Some(srtp) =
            commons.registry.transports.get_mut(consumer.transport).and_then(|transport| transport.kind.srtp_mut())
        {
            srtp.sealer.retire(outgoing.ssrc);
            if let Some(rtx) = outgoing.rtx {
                srtp.sealer.retire(rtx.ssrc);
            }
        }
    }
    if let Some(why) = why {
        commons.ledger.events.push_back(Event::ConsumerClosed { consumer: consumer.id, why });
    }
    let Some(source) = commons.registry.sources.get_mut(consumer.source) else { return };
    source.consumers.retain(|other| *other != key);
    layers::note_watched(commons, now, consumer.source);
    let Some(source) = commons.registry.sources.get_mut(consumer.source) else { return };
    if let (SourceOrigin::Relay(home), true) = (&source.origin, source.consumers.is_empty()) {
        let home = *home;
        let producer = source.producer;
        forget_relay(commons, consumer.source, home, producer);
    }
}

fn forget_relay(commons: &mut Commons, key: SourceKey, home: ShardId, producer: ProducerId) {
    commons.registry.sources.remove(key);
    commons.registry.source_keys.remove(&producer);
    commons.port.order(home, producer, Order::Unsubscribe);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::fixture::{Fixture, HERE, THERE, path, video};

    #[test]
    fn a_transport_takes_along_what_is_on_it_and_what_hangs_on_that() {
        let mut fixture = Fixture::new();
        let publisher = fixture.connected(1);
        fixture.connected(2);
        fixture.producer(7, 1, video(100));
        fixture.consumer(3, 2, 7, HERE);
        let source = fixture.source(7);
        fixture.commons.registry.sources.get_mut(source).unwrap().subscribers.push(THERE);
        fixture.events();
        fixture.said();
        let Fixture { commons, demux, now, .. } = &mut fixture;
        close_transport(commons, demux, *now, publisher, Some(Closed::Fault));
        close_transport(commons, demux, *now, publisher, Some(Closed::Fault));
        assert_eq!((commons.registry.sources.len(), commons.registry.consumers.len()), (0, 0));
        assert_eq!((commons.registry.transports.len(), demux.ufrags.len()), (1, 1));
        assert_eq!(demux.paths.peek(&path(1_001)), None);
        let ends = |event: &Event| match event {
            Event::ConsumerClosed { why: Closed::ProducerClosed, .. } => Some("consumer"),
            Event::ProducerClosed { why: Closed::Fault, .. } => Some("producer"),
            Event::TransportEnded { .. } => Some("totals"),
            Event::TransportClosed { why: Closed::Fault, .. } => Some("transport"),
            _ => None,
        };
        let ended: Vec<_> = fixture.events().iter().filter_map(ends).collect();
        assert_eq!(ended, ["consumer", "producer", "totals", "transport"]);
        assert!(fixture.said().iter().any(|said| said.contains("Closed")));
    }

    #[test]
    fn the_last_consumer_of_a_relayed_producer_ends_the_relay() {
        let mut fixture = Fixture::new();
        fixture.connected(2);
        let (first, last) = (fixture.consumer(3, 2, 7, THERE), fixture.consumer(4, 2, 7, THERE));
        fixture.said();
        close_consumer(&mut fixture.commons, fixture.now, first, None);
        assert!(!fixture.said().iter().any(|said| said.contains("Unsubscribe")));
        close_consumer(&mut fixture.commons, fixture.now, last, None);
        assert!(fixture.said().iter().any(|said| said.contains("Unsubscribe")));
        assert!(fixture.commons.registry.sources.is_empty() && fixture.commons.registry.source_keys.is_empty());
    }
}
