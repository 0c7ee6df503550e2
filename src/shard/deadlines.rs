//! The next deadline of a transport: the earliest of everything that is on it.

use crate::base::slab::Key;
use crate::base::time::{Duration, Instant};
use crate::router::producer::Producer;
use crate::shard::commons::Commons;
use crate::shard::registry::Registry;
use crate::transport::Transport;

/// The least interval between two wakes of one transport: a deadline that stays in the past must not starve the rest of
/// the shard.
const WAKE_GAP_MIN: Duration = Duration::from_micros(500);

/// Arms the transport for its next deadlines. Call once all due work is done.
pub(super) fn rearm(commons: &mut Commons, now: Instant, key: Key<Transport>) {
    if let Some(next) = prompt(&commons.registry, key) {
        commons.arm(key, next.max(now + WAKE_GAP_MIN));
    }
    if let Some(next) = patient(&commons.registry, key) {
        commons.arm_patient(key, next.max(now + WAKE_GAP_MIN));
    }
}

fn prompt(registry: &Registry, key: Key<Transport>) -> Option<Instant> {
    let transport = registry.transports.get(key)?;
    let wiring = &registry.wiring[key.slot()];
    let mut deadlines = vec![
        transport.kind.consent_deadline(),
        transport.kind.link_deadline(),
        transport.bandwidth_deadline(),
        wiring.limbo.deadline(),
    ];
    for producer in wiring.producers.iter().filter_map(|producer| registry.producers.get(*producer)) {
        deadlines.extend(producer.streams.iter().map(|stream| stream.nack.next_deadline()));
        if let Some(source) = registry.sources.get(producer.source) {
            deadlines.extend(source.encodings.iter().map(|encoding| encoding.keyframes.next_deadline()));
        }
    }
    if let Some(entry) = registry.peers.get(&transport.peer) {
        let producers = entry.producers.iter().filter_map(|producer| registry.producers.get(*producer));
        deadlines.extend(producers.map(Producer::silence_deadline));
    }
    deadlines.into_iter().flatten().min()
}

/// The deadline of reports and feedback, which wait for media to wake the shard.
fn patient(registry: &Registry, key: Key<Transport>) -> Option<Instant> {
    let transport = registry.transports.get(key)?;
    [transport.arrivals.next_deadline(), transport.reports_at].into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::seq::ExtSeq;
    use crate::shard::fixture::{Fixture, video};

    #[test]
    fn the_earliest_deadline_counts_and_one_that_has_passed_waits_a_little() {
        let mut fixture = Fixture::new();
        let key = fixture.connected(1);
        let producer = fixture.producer(7, 1, video(100));
        let first = prompt(&fixture.commons.registry, key).unwrap();
        let now = fixture.now.mono;
        let stream = fixture.commons.registry.stream_mut(producer, 0).unwrap();
        stream.nack.on_gap(ExtSeq(1), ExtSeq(2), now);
        let sooner = prompt(&fixture.commons.registry, key).unwrap();
        assert!(sooner < first, "{sooner:?} {first:?}");
        rearm(&mut fixture.commons, sooner + WAKE_GAP_MIN * 3, key);
        assert_eq!(fixture.commons.timers.next(), Some(sooner + WAKE_GAP_MIN * 4));
    }
}
