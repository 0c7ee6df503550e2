//! The bandwidth towards each client: feedback goes into its transport's estimate, and the result to the transport's
//! consumers, its pacer and its probes. Clients may set bounds of their own.

use crate::base::id::{ConsumerId, Layers, TransportId};
use crate::base::slab::{Key, Slab};
use crate::base::time::{Duration, Now};
use crate::base::units::Bitrate;
use crate::media::allocation::{Demand, Granted};
use crate::media::congestion::sent_log::SentLog;
use crate::media::encoding_choice::Allowance;
use crate::router::consumer::{Consumer, Flow};
use crate::router::keys::ConsumerKey;
use crate::shard::commons::Commons;
use crate::shard::flow;
use crate::shard::wiring::Share;
use crate::transport::Transport;
use crate::transport::bandwidth::AllocationOutcome;
use crate::transport::outgoing::Outgoing;
use crate::wire::extension::Extension;
use crate::wire::transport_cc::TransportCc;

/// The longest time that video stops so that the queue on the way drains, where much more flows than the path carries.
const REST_MAX: Duration = Duration::from_millis(500);
/// The interval of checks for a stream to probe with.
const PROBE_GAP_MIN: Duration = Duration::from_millis(5);

pub(super) fn on_feedback(commons: &mut Commons, now: Now, key: Key<Transport>, feedback: &TransportCc<'_>) {
    commons.ledger.counters.transport_feedback += 1;
    let Some(transport) = commons.registry.transports.get_mut(key).filter(|transport| !transport.outgoing.is_empty())
    else {
        return;
    };
    let bandwidth = transport.bandwidth.get_or_insert_default();
    bandwidth.congestion.on_feedback(now.mono, &mut transport.egress.log, feedback);
    commons.settling.share(&mut commons.registry, key, Share::IfDue);
}

pub(super) fn on_remb(commons: &mut Commons, now: Now, key: Key<Transport>, rate: Bitrate) {
    commons.ledger.counters.remb += 1;
    let Some(transport) = commons.registry.transports.get_mut(key).filter(|transport| !transport.outgoing.is_empty())
    else {
        return;
    };
    transport.bandwidth.get_or_insert_default().congestion.on_remb(now.mono, rate);
    commons.settling.share(&mut commons.registry, key, Share::IfDue);
}

/// Does what is due without any feedback.
pub(super) fn look_after(commons: &mut Commons, now: Now, key: Key<Transport>) {
    let Some(transport) = commons.registry.transports.get_mut(key) else { return };
    let open = transport.is_open();
    let Some(bandwidth) = &mut transport.bandwidth else { return };
    if open {
        bandwidth.congestion.on_silence(now.mono, &mut transport.egress.log);
        share_if_due(commons, now, key);
    }
}

/// The allocation that a turn owes to this transport. Returns the number of consumers that were checked.
pub(super) fn settle(commons: &mut Commons, now: Now, key: Key<Transport>) -> usize {
    let Some(transport) = commons.registry.transports.get(key) else { return 0 };
    let Some(how) = commons.registry.wiring[key.slot()].share.take() else { return 0 };
    let due = transport.bandwidth.as_ref().is_some_and(|bandwidth| bandwidth.is_due(now.mono));
    match how {
        Share::Anew => share(commons, now, key),
        Share::IfDue => share_if_due(commons, now, key),
    }
    if due || how == Share::Anew { commons.registry.wiring[key.slot()].consumers.len() } else { 0 }
}

fn share_if_due(commons: &mut Commons, now: Now, key: Key<Transport>) {
    let Some(bandwidth) = commons.registry.transports.get(key).and_then(|transport| transport.bandwidth.as_ref())
    else {
        return;
    };
    if bandwidth.is_due(now.mono) {
        share(commons, now, key);
    } else {
        probe(commons, now, key);
    }
}

/// Allocates the bandwidth; does nothing where there is no estimate.
fn share(commons: &mut Commons, now: Now, key: Key<Transport>) {
    if commons.registry.transports.get(key).is_none_or(|transport| transport.bandwidth.is_none()) {
        return;
    }
    let (consumers, mut demands) = demands(commons, now, key);
    debug_assert_eq!(consumers.len(), demands.len(), "one of each");
    let Some(transport) = commons.registry.transports.get_mut(key) else { return };
    let Some(bandwidth) = &mut transport.bandwidth else { return };
    let AllocationOutcome { pace, floods } = bandwidth.share(now.mono, &mut demands);
    transport.egress.pace(now.mono, pace);
    if floods {
        transport.egress.rest(bandwidth.congestion.queue().min(REST_MAX));
    }
    for (consumer, demand) in consumers.into_iter().zip(&demands) {
        grant(commons, now, consumer, demand);
        if floods {
            flow::leave_at_once(commons, now, consumer);
        }
    }
    probe(commons, now, key);
    if let Some(at) = commons.registry.transports.get(key).and_then(Transport::bandwidth_deadline) {
        commons.arm(key, at.max(now.mono + PROBE_GAP_MIN));
    }
}

/// The demand of each consumer of the transport that could flow.
fn demands(commons: &Commons, now: Now, key: Key<Transport>) -> (Vec<ConsumerKey>, Vec<Demand>) {
    let mut consumers = Vec::new();
    let mut demands = Vec::new();
    for consumer_key in &commons.registry.wiring[key.slot()].consumers {
        let Some(consumer) = commons.registry.consumers.get(*consumer_key) else { continue };
        let Some(source) = commons.registry.sources.get(consumer.source) else { continue };
        if consumer.paused || source.paused || !takes_of_estimate(commons, key, consumer) {
            continue;
        }
        let mut ladder = source.ladder(now.mono);
        if let Some(layered) = &consumer.layered {
            let (ceiling, lowest) = (layered.ceiling(), ladder[0]);
            ladder.retain(|(layers, _)| *layers == layers.at_most(ceiling));
            drop_slide_shows(&mut ladder);
            if ladder.is_empty() {
                ladder.push(lowest);
            }
        }
        consumers.push(*consumer_key);
        demands.push(Demand {
            audio: !consumer.codec.is_video(),
            priority: consumer.priority,
            // A new consumer must fit with a reserve like any that asks for more.
            granted: granted(consumer.allowance, &ladder).filter(|_| consumer.flow != Flow::Closed),
            ladder,
        });
    }
    (consumers, demands)
}

/// Whether the consumer's rate counts against the estimate. Audio flows in any case, and the estimate leaves it out
/// where feedback comes but audio has no transport-wide numbers.
fn takes_of_estimate(commons: &Commons, key: Key<Transport>, consumer: &Consumer) -> bool {
    let Some(transport) = commons.registry.transports.get(key) else { return false };
    let heard = transport.bandwidth.as_ref().is_some_and(|bandwidth| bandwidth.congestion.is_heard());
    let numbered = |stream: &Outgoing| stream.extensions.contains(Extension::TransportCc);
    consumer.codec.is_video() || !heard || transport.outgoing.get(consumer.outgoing).is_some_and(numbered)
}

fn grant(commons: &mut Commons, now: Now, key: ConsumerKey, demand: &Demand) {
    debug_assert!(demand.granted.is_none_or(|step| step < demand.ladder.len()), "a step that there is");
    let allowance = match demand.granted {
        None => Allowance::Paused,
        Some(step) if step + 1 >= demand.ladder.len() => Allowance::Unlimited,
        Some(step) => Allowance::UpTo(demand.ladder[step].0),
    };
    flow::allow(commons, now, key, allowance);
}

/// Starts a probe when one is due.
fn probe(commons: &mut Commons, now: Now, key: Key<Transport>) {
    let Some(transport) = commons.registry.transports.get_mut(key).filter(|transport| transport.is_open()) else {
        return;
    };
    let Some(bandwidth) = transport.bandwidth.as_mut().filter(|known| known.congestion.target().is_some()) else {
        return;
    };
    let Some(cluster) = bandwidth.congestion.poll_probe(now.mono) else { return };
    bandwidth.probes += 1;
    let Some(stream) = padding_stream(&transport.outgoing, &transport.egress.log, bandwidth.probes) else {
        if bandwidth.congestion.try_without_probe(now.mono) {
            commons.arm(key, now.mono + PROBE_GAP_MIN);
        }
        return;
    };
    let was_empty = transport.egress.is_empty();
    transport.egress.start_probe(now.mono, cluster, stream);
    commons.ledger.counters.probes += 1;
    if was_empty {
        commons.outlet.dirty.push(key);
    }
}

pub(super) fn set_priority(commons: &mut Commons, id: ConsumerId, priority: u8) {
    let Some(consumer) = commons.registry.consumer_mut(id) else { return };
    consumer.priority = priority;
    let transport = consumer.transport;
    commons.settling.share(&mut commons.registry, transport, Share::Anew);
}

pub(super) fn set_max_bitrate(
    commons: &mut Commons,
    now: Now,
    id: TransportId,
    incoming: Option<Bitrate>,
    outgoing: Option<Bitrate>,
) {
    let Some(key) = commons.registry.transport_keys.get(&id).copied() else { return };
    let Some(transport) = commons.registry.transports.get_mut(key) else { return };
    let bound = |rate: Bitrate| (rate > Bitrate(0)).then_some(rate);
    if let Some(rate) = incoming {
        transport.max_incoming = bound(rate);
        // Sent with the next report, and with each after it.
        transport.reports_at = transport.reports_at.map(|at| at.min(now.mono));
        commons.arm(key, now.mono);
    }
    if let Some(rate) = outgoing
        && let Some(transport) = commons.registry.transports.get_mut(key)
    {
        transport.bandwidth.get_or_insert_default().congestion.set_max(bound(rate));
        commons.settling.share(&mut commons.registry, key, Share::Anew);
    }
}

/// The stream whose RTX carries the padding of the nth probe: the one of which a packet arrived last. Where nothing
/// arrived they take turns, because a page may have left some and not begun with others.
fn padding_stream(outgoing: &Slab<Outgoing>, log: &SentLog, nth: usize) -> Option<Key<Outgoing>> {
    let able = |stream: &Outgoing| stream.rtx.is_some() && stream.extensions.contains(Extension::TransportCc);
    let streams = || outgoing.iter().filter(|(_, stream)| able(stream)).map(|(key, _)| key);
    let newest = |key: &Key<Outgoing>| log.newest_arrived(Outgoing::place(*key));
    if nth.is_multiple_of(2)
        && let Some(best) = streams().filter(|key| newest(key).is_some()).max_by_key(newest)
    {
        return Some(best);
    }
    let silent = || streams().filter(|key| newest(key).is_none());
    let take = |count: usize| (count > 0).then(|| nth / 2 % count);
    take(silent().count()).and_then(|at| silent().nth(at)).or_else(|| streams().nth(take(streams().count())?))
}

/// A larger picture at a quarter of its frame rate is worth less than a smaller one at all of its.
fn drop_slide_shows(ladder: &mut Vec<(Layers, Bitrate)>) {
    let Some(lowest) = ladder.first().map(|(layers, _)| layers.spatial) else { return };
    let all = ladder.clone();
    let top = |spatial| all.iter().filter(|(of, _)| of.spatial == spatial).map(|(of, _)| of.temporal).max();
    ladder.retain(|(of, _)| of.spatial == lowest || Some(of.temporal + 1) >= top(of.spatial));
}

/// The step of its ladder that a consumer has.
fn granted(allowance: Allowance, ladder: &[(Layers, Bitrate)]) -> Granted {
    match allowance {
        Allowance::Paused => None,
        Allowance::Unlimited => ladder.len().checked_sub(1),
        Allowance::UpTo(most) => {
            let rank = |layers: &Layers| (layers.spatial, layers.temporal);
            Some(ladder.iter().rposition(|(layers, _)| rank(layers) <= rank(&most)).unwrap_or(0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::fixture::{Fixture, HERE, video};

    #[test]
    fn a_bound_that_the_video_does_not_fit_pauses_it_in_the_settling() {
        let mut fixture = Fixture::new();
        fixture.connected(1);
        let watcher = fixture.connected(2);
        fixture.producer(7, 1, video(100));
        let consumer = fixture.consumer(3, 2, 7, HERE);
        for ext in 0..200 {
            fixture.publish(7, 10 + ext, ext == 0);
            fixture.wait(5);
        }
        let allowance = |fixture: &Fixture| fixture.commons.registry.consumers.get(consumer).unwrap().allowance;
        let bound = |fixture: &mut Fixture, rate| {
            set_max_bitrate(&mut fixture.commons, fixture.now, TransportId(2), None, Some(rate));
            assert_eq!(fixture.commons.settling.next_transport(), Some(watcher));
            assert_eq!(settle(&mut fixture.commons, fixture.now, watcher), 1);
        };
        bound(&mut fixture, Bitrate::kbps(20));
        assert_eq!(allowance(&fixture), Allowance::Paused);
        assert_eq!(settle(&mut fixture.commons, fixture.now, watcher), 0, "once");
        // An allowance that was cut comes back only after a while.
        for _ in 0..3 {
            fixture.wait(1_000);
            bound(&mut fixture, Bitrate::mbps(20));
        }
        assert_eq!(allowance(&fixture), Allowance::Unlimited);
    }

    #[test]
    fn a_larger_picture_begins_at_half_its_frame_rate() {
        let step = |spatial, temporal| (Layers { spatial, temporal }, Bitrate::kbps(100));
        let left = |temporal: [u8; 2]| {
            let all = (0..2).flat_map(|spatial| (0..temporal[usize::from(spatial)]).map(move |of| step(spatial, of)));
            let mut ladder: Vec<_> = all.collect();
            drop_slide_shows(&mut ladder);
            ladder.iter().map(|(of, _)| (of.spatial, of.temporal)).collect::<Vec<_>>()
        };
        assert_eq!(left([3, 3]), [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2)]);
        assert_eq!(left([3, 1]), [(0, 0), (0, 1), (0, 2), (1, 0)], "its only one is all of it");
        assert_eq!(left([2, 2]), [(0, 0), (0, 1), (1, 0), (1, 1)], "half of it");
    }
}
