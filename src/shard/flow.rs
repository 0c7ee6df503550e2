//! The flow of a consumer: it opens and closes with everything that it depends on, and aims at the encoding that its
//! allowance names.

use crate::base::id::{ConsumerId, ProducerId};
use crate::base::slab::Key;
use crate::base::time::{Duration, Now};
use crate::media::encoding_choice::Allowance;
use crate::router::consumer::Flow;
use crate::router::keys::{ConsumerKey, SourceKey};
use crate::router::replay::replay;
use crate::shard::commons::Commons;
use crate::shard::drops::ShardDrop;
use crate::shard::keyframes;
use crate::shard::layers;
use crate::shard::relay::Feed;
use crate::shard::wiring::Share;
use crate::transport::Transport;

/// When the first sender and receiver reports of a new stream go out.
pub(super) const FIRST_REPORT: Duration = Duration::from_millis(200);

/// Opens or closes a consumer by the state of everything that it depends on.
pub(super) fn reopen(commons: &mut Commons, now: Now, key: ConsumerKey) {
    let Some(consumer) = commons.registry.consumers.get_mut(key) else { return };
    let open = !consumer.paused
        && consumer.allowance != Allowance::Paused
        && commons.registry.transports.get(consumer.transport).is_some_and(Transport::is_open)
        && commons.registry.sources.get(consumer.source).is_some_and(|source| !source.paused);
    match (open, consumer.flow) {
        (false, _) => {
            consumer.set_flow(now.mono, Flow::Closed);
            layers::note_changed(commons, now, key);
        }
        (true, Flow::Closed) => {
            consumer.begin_anew(now.mono);
            debug_assert_ne!(consumer.flow, Flow::Closed, "it would ask for a keyframe that it drops");
            let first = consumer.opened.is_none();
            consumer.opened.get_or_insert(now.mono);
            let transport = consumer.transport;
            report_soon(commons, now, transport);
            if !first || !serve_from_history(commons, now, key) {
                keyframes::ask_for_consumer(commons, now, key, first);
            }
            layers::note_changed(commons, now, key);
        }
        (true, _) => {}
    }
}

/// Opens a consumer that is to flow, after its transport's bandwidth was allocated.
pub(super) fn open_later(commons: &mut Commons, now: Now, key: ConsumerKey) {
    let Commons { registry, settling, .. } = commons;
    let Some(transport) = registry.consumers.get(key).map(|consumer| consumer.transport) else { return };
    if !settling.open(registry, key, transport) {
        reopen(commons, now, key);
    }
}

/// Serves a consumer with the packets since its source's last keyframe; false: it must request one.
fn serve_from_history(commons: &mut Commons, now: Now, key: ConsumerKey) -> bool {
    let Some(consumer) = commons.registry.consumers.get_mut(key) else { return false };
    let transport_key = consumer.transport;
    let (Some(source), Some(transport)) =
        (commons.registry.sources.get(consumer.source), commons.registry.transports.get_mut(transport_key))
    else {
        return false;
    };
    let was_empty = transport.egress.is_empty();
    if !replay(now.mono, source, consumer, transport, &mut commons.ledger.forwarded) {
        return false;
    }
    commons.ledger.counters.replays += 1;
    if was_empty {
        commons.outlet.dirty.push(transport_key);
    }
    true
}

/// Sends the next reports soon: lip sync needs a sender report early in a stream.
pub(super) fn report_soon(commons: &mut Commons, now: Now, key: Key<Transport>) {
    let soon = now.mono + FIRST_REPORT;
    if let Some(transport) = commons.registry.transports.get_mut(key) {
        transport.reports_at = transport.reports_at.map(|at| at.min(soon));
    }
    commons.arm(key, soon);
}

pub(super) fn reopen_all(commons: &mut Commons, now: Now, key: Key<Transport>) {
    let Some(transport) = commons.registry.transports.get_mut(key) else { return };
    let was_open = transport.down_since.is_none();
    // The consumers follow this one flag, however many they are and however often the path changes.
    if transport.look_at_path(now.mono) == was_open {
        return;
    }
    for consumer in commons.registry.wiring[key.slot()].consumers.clone() {
        reopen(commons, now, consumer);
    }
}

pub(super) fn set_source_paused(commons: &mut Commons, now: Now, key: SourceKey, paused: bool) {
    let Some(source) = commons.registry.sources.get_mut(key) else { return };
    if source.paused != paused {
        (source.paused, source.paused_at) = (paused, now.mono);
        commons.settling.look_at_consumers(&mut commons.registry, key);
    }
}

/// Gives the consumer its new allowance.
pub(super) fn allow(commons: &mut Commons, now: Now, key: ConsumerKey, allowance: Allowance) {
    let Some(consumer) = commons.registry.consumers.get_mut(key) else { return };
    let before = consumer.allowance;
    if consumer.set_allowance(allowance) {
        commons.layer_changes.of_consumer(now.mono, key);
        reopen(commons, now, key);
    } else if before != allowance {
        ask_for_aim(commons, now, key);
    }
}

/// Requests a keyframe of the encoding that a flowing consumer is to change to. Each further packet of an encoding that
/// the bandwidth does not carry makes matters worse, so the request does not wait for a packet of the other.
fn ask_for_aim(commons: &mut Commons, now: Now, key: ConsumerKey) {
    let Some(consumer) = commons.registry.consumers.get(key) else { return };
    let source = consumer.source;
    if let (Some(layered), Some(_)) = (&consumer.layered, consumer.attached())
        && let Some(aim) = commons.registry.sources.get(source).and_then(|source| layered.aim(now.mono, &source.active))
    {
        keyframes::request(commons, now, source, Some(aim), false);
    }
}

/// Stops the present encoding without waiting for the keyframe of a lower one: what flows fills the path, so that
/// neither it nor the keyframe would arrive whole, nor the sound beside them.
pub(super) fn leave_at_once(commons: &mut Commons, now: Now, key: ConsumerKey) {
    let Some(consumer) = commons.registry.consumers.get_mut(key) else { return };
    let (Some(layered), Some(flows)) = (&consumer.layered, consumer.attached()) else { return };
    let Some(active) = commons.registry.sources.get(consumer.source).map(|source| &source.active) else {
        return;
    };
    if layered.aim(now.mono, active).is_some_and(|aim| active.layer(aim) < active.layer(flows)) {
        consumer.begin_anew(now.mono);
        if let Some(transport) = commons.registry.transports.get_mut(consumer.transport) {
            let given_up = transport.egress.give_up_repairs(consumer.outgoing);
            commons.ledger.drops.add(ShardDrop::Overtaken, given_up as u64);
        }
        layers::note_changed(commons, now, key);
    }
}

pub(super) fn pause_producer(commons: &mut Commons, now: Now, id: ProducerId, paused: bool) {
    let Some(producer) = commons.registry.producer_mut(id) else { return };
    producer.paused = paused;
    let source_key = producer.source;
    set_source_paused(commons, now, source_key, paused);
    if let Some(source) = commons.registry.sources.get(source_key) {
        commons.port.feed_all(source, Feed::Paused { paused });
    }
}

pub(super) fn pause_consumer(commons: &mut Commons, now: Now, id: ConsumerId, paused: bool) {
    let Some(key) = commons.registry.consumer_keys.get(&id).copied() else { return };
    if let Some(consumer) = commons.registry.consumers.get_mut(key) {
        consumer.set_paused(now.mono, paused);
        let transport = consumer.transport;
        if paused {
            reopen(commons, now, key);
            commons.settling.share(&mut commons.registry, transport, Share::Anew);
        } else {
            open_later(commons, now, key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::fixture::{Fixture, HERE, path, video};

    fn flow_of(fixture: &Fixture, key: ConsumerKey) -> Flow {
        fixture.commons.registry.consumers.get(key).unwrap().flow
    }

    #[test]
    fn a_consumer_flows_once_all_that_it_depends_on_is_there() {
        let mut fixture = Fixture::new();
        fixture.connected(1);
        let watcher = fixture.transport(2);
        fixture.producer(7, 1, video(100));
        let consumer = fixture.consumer(3, 2, 7, HERE);
        assert_eq!((flow_of(&fixture, consumer), fixture.requests()), (Flow::Closed, 0), "no keys");
        fixture.connect(watcher, path(9));
        reopen_all(&mut fixture.commons, fixture.now, watcher);
        assert_eq!((flow_of(&fixture, consumer), fixture.requests()), (Flow::KeyFrame, 1));
        allow(&mut fixture.commons, fixture.now, consumer, Allowance::Paused);
        assert_eq!(flow_of(&fixture, consumer), Flow::Closed);
        allow(&mut fixture.commons, fixture.now, consumer, Allowance::Unlimited);
        assert_eq!(flow_of(&fixture, consumer), Flow::KeyFrame);
        pause_consumer(&mut fixture.commons, fixture.now, ConsumerId(3), true);
        assert_eq!(flow_of(&fixture, consumer), Flow::Closed);
    }

    #[test]
    fn a_joiner_is_served_from_the_history_and_asks_for_nothing() {
        let mut fixture = Fixture::new();
        fixture.connected(1);
        let watcher = fixture.connected(2);
        fixture.producer(7, 1, video(100));
        fixture.consumer(3, 2, 7, HERE);
        fixture.publish(7, 10, true);
        fixture.publish(7, 11, false);
        let asked = fixture.requests();
        let joiner = fixture.consumer(4, 2, 7, HERE);
        assert_eq!((flow_of(&fixture, joiner), fixture.requests()), (Flow::Open { encoding: 0, epoch: 0 }, asked));
        assert_eq!(fixture.commons.ledger.counters.replays, 1);
        assert_eq!(fixture.commons.outlet.dirty, [watcher], "once, however much waits");
    }

    #[test]
    fn a_paused_source_closes_its_consumers_in_the_settling() {
        let mut fixture = Fixture::new();
        fixture.connected(1);
        fixture.connected(2);
        fixture.producer(7, 1, video(100));
        let consumer = fixture.consumer(3, 2, 7, HERE);
        pause_producer(&mut fixture.commons, fixture.now, ProducerId(7), true);
        let commons = &mut fixture.commons;
        commons.settling.spread(&mut commons.registry);
        let owed = commons.settling.next_consumer();
        assert_eq!(owed, Some(consumer));
        reopen(commons, fixture.now, consumer);
        assert_eq!(flow_of(&fixture, consumer), Flow::Closed);
    }
}
