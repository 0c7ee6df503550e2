//! Keyframe requests. Consumers ask the source, whose authority merges the requests; from there they go to the
//! publisher as PLI or FIR, or to the publisher's home.

use crate::base::limits::ENCODINGS_MAX;
use crate::base::slab::Key;
use crate::base::time::{Duration, Now};
use crate::router::consumer::Flow;
use crate::router::keys::{ConsumerKey, ProducerKey, SourceKey};
use crate::router::source::SourceOrigin;
use crate::shard::commons::Commons;
use crate::shard::relay::Order;
use crate::shard::rtcp_out::{self, OWN_SSRC};
use crate::transport::Transport;
use crate::wire::rtcp_write::RtcpWriter;

/// The least interval between two requests to the home of one source; those of new consumers do not wait.
const RELAYED_REQUEST_GAP: Duration = Duration::from_millis(20);

/// Requests a keyframe from the source of a video consumer, whose authority decides how often a request reaches the
/// publisher. `first`: the consumer cannot have a picture yet, and is not rate limited.
pub(super) fn ask_for_consumer(commons: &mut Commons, now: Now, key: ConsumerKey, first: bool) {
    let Some(consumer) = commons.registry.consumers.get(key) else { return };
    if !consumer.codec.is_video() {
        return;
    }
    let encoding = match consumer.flow {
        Flow::Open { encoding, .. } => Some(encoding),
        // The encoding to begin with, or any where none is known.
        Flow::KeyFrame => consumer.layered.as_ref().and_then(|layered| {
            let active = &commons.registry.sources.get(consumer.source)?.active;
            layered.aim(now.mono, active)
        }),
        Flow::Closed => return,
    };
    let source = consumer.source;
    request(commons, now, source, encoding, first);
}

/// Requests a keyframe of one encoding, or of every one that is being sent (`None`). Audio has none to give, whatever
/// feedback was agreed.
pub(super) fn request(commons: &mut Commons, now: Now, key: SourceKey, encoding: Option<u8>, first: bool) {
    let Some(source) = commons.registry.sources.get_mut(key).filter(|source| source.codec.is_video()) else {
        return;
    };
    match source.origin {
        SourceOrigin::Relay(_) | SourceOrigin::Lane => {
            // The home merges requests; this keeps a flood of them out of the mesh.
            if !first && source.asked_home.is_some_and(|asked| now.mono.since(asked) < RELAYED_REQUEST_GAP) {
                return;
            }
            source.asked_home = Some(now.mono);
            commons.port.order_home(source, Order::KeyFrame { encoding, first });
        }
        SourceOrigin::Local(producer) => {
            let transport = commons.registry.producers.get(producer).and_then(|producer| producer.transport);
            let rtt = transport.and_then(|transport| commons.registry.round_trip_to(transport));
            let mut due = [false; ENCODINGS_MAX];
            let Some(source) = commons.registry.sources.get_mut(key) else { return };
            for (at, (due, source)) in due.iter_mut().zip(&mut source.encodings).enumerate() {
                source.keyframes.set_rtt(rtt.unwrap_or_default());
                let asked = encoding.is_none_or(|only| usize::from(only) == at);
                *due = asked && source.keyframes.request(now.mono, first);
            }
            for at in (0..ENCODINGS_MAX).filter(|at| due[*at]) {
                send(commons, producer, at as u8);
            }
            arm(commons, producer, key);
        }
    }
}

/// Requests the keyframe that consumers of this encoding wait for. Called with every packet, so requests to another
/// shard are limited on this side already.
pub(super) fn request_wanted(commons: &mut Commons, now: Now, key: SourceKey, encoding: u8) {
    let Some(source) = commons.registry.sources.get_mut(key) else { return };
    let passes = match (&source.origin, source.encodings.get_mut(usize::from(encoding))) {
        (SourceOrigin::Local(_), _) => true,
        (SourceOrigin::Relay(_) | SourceOrigin::Lane, Some(encoding)) => encoding.keyframes.request(now.mono, false),
        (SourceOrigin::Relay(_) | SourceOrigin::Lane, None) => false,
    };
    if passes {
        request(commons, now, key, Some(encoding), false);
    }
}

fn arm(commons: &mut Commons, producer: ProducerKey, key: SourceKey) {
    let Some(transport) = commons.registry.producers.get(producer).and_then(|producer| producer.transport) else {
        return;
    };
    let Some(source) = commons.registry.sources.get(key) else { return };
    let deadline = source.encodings.iter().filter_map(|encoding| encoding.keyframes.next_deadline()).min();
    if let Some(deadline) = deadline {
        commons.arm(transport, deadline);
    }
}

/// Requests keyframes for consumers that were there before the producer had found its transport.
pub(super) fn ask_for_waiting(commons: &mut Commons, now: Now, producer: ProducerKey) {
    let Some(source) = commons.registry.producers.get(producer).map(|producer| producer.source) else {
        return;
    };
    let Some(waits) = commons.registry.sources.get(source).filter(|source| source.codec.is_video()) else {
        return;
    };
    if !waits.is_unused() {
        request(commons, now, source, None, true);
    }
}

pub(super) fn repeat(commons: &mut Commons, now: Now, key: Key<Transport>) {
    for producer_key in commons.registry.wiring[key.slot()].producers.clone() {
        let Some(source_key) = commons.registry.producers.get(producer_key).map(|producer| producer.source) else {
            continue;
        };
        let Some(source) = commons.registry.sources.get_mut(source_key) else { continue };
        let idle = source.is_unused() || source.paused;
        let mut due = [false; ENCODINGS_MAX];
        for (at, (due, encoding)) in due.iter_mut().zip(&mut source.encodings).enumerate() {
            // A silent encoding has no keyframe to give. When it starts again it starts with one, or the consumers
            // that wait for it ask anew.
            let stopped = encoding.newest.is_some() && !source.active.is_sending(now.mono, at as u8);
            if idle || stopped {
                encoding.keyframes.cancel();
            }
            *due = encoding.keyframes.poll(now.mono);
        }
        for (at, _) in due.iter().enumerate().filter(|(_, due)| **due) {
            send(commons, producer_key, at as u8);
        }
    }
}

/// Sends a PLI, or a FIR where only that is negotiated (RFC 5104 section 4.3.1).
fn send(commons: &mut Commons, producer_key: ProducerKey, stream: u8) {
    let Some(producer) = commons.registry.producers.get_mut(producer_key) else { return };
    let (Some(transport), feedback) = (producer.transport, producer.spec.feedback) else { return };
    let Some(stream) = producer.streams.get_mut(usize::from(stream)) else { return };
    let Some(ssrc) = stream.ssrc else { return };
    let mut packet = Vec::new();
    if feedback.pli {
        stream.plis_sent += 1;
        RtcpWriter::new(&mut packet).pli(OWN_SSRC, ssrc);
    } else if feedback.fir {
        stream.firs_sent += 1;
        stream.fir_sequence = stream.fir_sequence.wrapping_add(1);
        RtcpWriter::new(&mut packet).fir(OWN_SSRC, ssrc, stream.fir_sequence);
    }
    commons.ledger.counters.key_frames_requested += u64::from(!packet.is_empty());
    rtcp_out::send(commons, transport, packet);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::command::{MediaKind, ProducerSpec};
    use crate::shard::fixture::{Fixture, THERE, video};
    use crate::wire::codec::Codec;

    #[test]
    fn requests_of_many_consumers_reach_the_publisher_once() {
        let mut fixture = Fixture::new();
        let publisher = fixture.connected(1);
        let producer = fixture.producer(7, 1, video(100));
        let source = fixture.source(7);
        for _ in 0..3 {
            request(&mut fixture.commons, fixture.now, source, Some(0), false);
        }
        assert_eq!(fixture.requests(), 1);
        let stream = |fixture: &Fixture| fixture.commons.registry.producers.get(producer).unwrap().streams[0].plis_sent;
        assert_eq!(stream(&fixture), 1);
        // Nobody has answered: it is repeated, but only as long as there is somebody to see it.
        fixture.wait(2_000);
        repeat(&mut fixture.commons, fixture.now, publisher);
        assert_eq!(stream(&fixture), 1, "the source is unused");
    }

    #[test]
    fn a_flood_of_requests_for_a_producer_that_lives_elsewhere_stays_out_of_the_mesh() {
        let mut fixture = Fixture::new();
        fixture.connected(2);
        fixture.consumer(3, 2, 7, THERE);
        fixture.said();
        let source = fixture.source(7);
        for (wait, first) in [(0, false), (1, false), (1, true), (30, false)] {
            fixture.wait(wait);
            request(&mut fixture.commons, fixture.now, source, None, first);
        }
        let said = fixture.said();
        assert_eq!(said.len(), 2, "the first of a new consumer always, others 20 ms apart: {said:?}");
        assert!(said[0].contains("KeyFrame") && said[0].contains("first: true"), "{said:?}");
    }

    #[test]
    fn audio_is_never_asked_for_keyframes() {
        let mut fixture = Fixture::new();
        fixture.connected(1);
        fixture.producer(7, 1, ProducerSpec { kind: MediaKind::Audio, codec: Codec::Opus, ..video(100) });
        let source = fixture.source(7);
        request(&mut fixture.commons, fixture.now, source, None, true);
        assert_eq!(fixture.requests(), 0);
    }
}
