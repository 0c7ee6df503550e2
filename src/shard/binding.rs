//! The producer of a new SSRC. Signalling need not say on which transport a producer sends: the packets that arrive on
//! any transport of its peer tell, by ssrc, else by mid and rid, else by mid. The mid of another producer in the packet
//! outweighs the ssrc.

use std::collections::VecDeque;

use crate::base::id::{Mid, Ssrc};
use crate::base::slab::Key;
use crate::base::time::{Instant, Now};
use crate::media::remb::RembEstimator;
use crate::router::keys::ProducerKey;
use crate::router::producer::Producer;
use crate::shard::closing;
use crate::shard::command::{Closed, Event};
use crate::shard::commons::Commons;
use crate::shard::drops::ShardDrop;
use crate::shard::elements::{Elements, Names};
use crate::shard::flow;
use crate::shard::keyframes;
use crate::shard::limbo::Waiting;
use crate::shard::registry::Registry;
use crate::shard::wiring::Route;
use crate::transport::Transport;
use crate::wire::extension::Extension;
use crate::wire::rtp::RtpHeader;

/// The most that a publisher without transport-cc is allowed (draft-alvestrand-rmcat-remb).
const REMB_MAX: crate::base::units::Bitrate = crate::base::units::Bitrate::mbps(20);

/// Finds the producer of a decrypted packet whose SSRC has no route yet. A packet without a producer waits in limbo if
/// it carries media.
pub(super) fn find(
    commons: &mut Commons,
    now: Now,
    arrived: Instant,
    key: Key<Transport>,
    header: &RtpHeader,
    packet: &[u8],
) -> Option<Route> {
    let transport = commons.registry.transports.get(key)?;
    let peer = transport.peer;
    let elements = Elements::of(header, packet);
    // Feedback counts every packet that arrived: the sender takes unreported ones for lost.
    match transport.extensions.get(Extension::TransportCc) {
        Some(id) => {
            if let Some(seq) = elements.number(id) {
                commons.note_arrival(arrived, key, seq);
            }
        }
        None => commons.registry.wiring[key.slot()].limbo.note(arrived, elements.numbers()),
    }
    let former = commons.registry.wiring[key.slot()].was_given_up(now.mono, header.ssrc);
    let producers = commons.registry.peers.get(&peer).map(|entry| &entry.producers[..]).unwrap_or_default();
    let fitting = best_fit(&commons.registry, key, producers, &elements, former);
    if fitting.is_none() {
        wait_for_producer(commons, arrived, key, header, packet);
    }
    let route = fitting.filter(|route| bind(commons, now, key, *route, header.ssrc));
    if let Some(deadline) = commons.registry.wiring[key.slot()].limbo.deadline() {
        commons.arm(key, deadline);
    }
    route
}

/// Whether a producer that may be on this transport was declared with this SSRC.
pub(super) fn is_declared(registry: &Registry, key: Key<Transport>, ssrc: Ssrc) -> bool {
    let peer = registry.transports.get(key).and_then(|transport| registry.peers.get(&transport.peer));
    let producers = peer.into_iter().flat_map(|entry| &entry.producers);
    let here = |producer: &&Producer| producer.transport.is_none_or(|home| home == key);
    let streams = producers.filter_map(|key| registry.producers.get(*key)).filter(here).flat_map(|p| &p.streams);
    streams.flat_map(|stream| [stream.ssrc, stream.rtx_ssrc]).any(|known| known == Some(ssrc))
}

/// Puts a packet with media into limbo. Padding alone never takes the place of media.
fn wait_for_producer(commons: &mut Commons, arrived: Instant, key: Key<Transport>, header: &RtpHeader, packet: &[u8]) {
    match header.payload(packet) {
        Ok([]) => commons.ledger.drops.count(ShardDrop::PaddingOnly),
        Ok(_) => {
            let dropped = commons.registry.wiring[key.slot()].limbo.keep(arrived, packet);
            commons.ledger.drops.add(ShardDrop::UnknownSsrc, dropped);
        }
        Err(_) => commons.ledger.drops.count(ShardDrop::MalformedRtp),
    }
}

/// Takes the packets out of limbo that may belong to a new producer.
pub(super) fn take_limbo(commons: &mut Commons, now: Now, key: Key<Transport>) -> VecDeque<Waiting> {
    expire_limbo(commons, now, key);
    commons.registry.wiring[key.slot()].limbo.take()
}

/// Whether a packet out of limbo belongs to this producer, or to one that has its route by now. The packet was compared
/// with all others when it came.
pub(super) fn place(
    commons: &mut Commons,
    now: Now,
    key: Key<Transport>,
    producer: ProducerKey,
    header: &RtpHeader,
    packet: &[u8],
) -> Option<Route> {
    let wiring = &commons.registry.wiring[key.slot()];
    if let Some(known) = wiring.route(header.ssrc) {
        return Some(known);
    }
    let former = wiring.was_given_up(now.mono, header.ssrc);
    let (_, route) = fits(&commons.registry, key, producer, &Elements::of(header, packet), former)?;
    bind(commons, now, key, route, header.ssrc).then_some(route)
}

/// Takes back a new producer's SSRCs: packets that came before it were taken, by mid or rid, for an older producer's.
pub(super) fn claim_ssrcs(commons: &mut Commons, now: Now, key: Key<Transport>, of: ProducerKey) {
    let Some(producer) =
        commons.registry.producers.get(of).filter(|producer| producer.transport.is_none_or(|at| at == key))
    else {
        return;
    };
    let mid = producer.spec.mid;
    let routes = (0u8..).zip(&producer.streams).flat_map(|(stream, state)| {
        let route = |rtx| Route { producer: of, stream, rtx };
        [(state.ssrc, route(false)), (state.rtx_ssrc, route(true))]
    });
    let declared: Vec<(Ssrc, Route)> = routes.filter_map(|(ssrc, route)| Some((ssrc?, route))).collect();
    for (ssrc, route) in declared {
        let Some(taken) = commons.registry.wiring[key.slot()].route(ssrc).filter(|taken| taken.producer != of) else {
            continue;
        };
        if only_by_name(&commons.registry, taken, ssrc, mid) {
            give_back(commons, taken);
            bind(commons, now, key, route, ssrc);
        }
    }
}

/// Whether an SSRC has its route by a mid or rid alone, and not by another mid than `mid`.
fn only_by_name(registry: &Registry, taken: Route, ssrc: Ssrc, mid: Option<Mid>) -> bool {
    let Some(other) = registry.producers.get(taken.producer) else { return false };
    let other_mid = mid.is_some_and(|mid| other.spec.mid.is_some_and(|other| other != mid));
    !other_mid && other.declared(taken.stream, taken.rtx) != Some(ssrc)
}

/// Returns the stream to the SSRC that was declared for it.
fn give_back(commons: &mut Commons, taken: Route) {
    let Some(producer) = commons.registry.producers.get_mut(taken.producer) else { return };
    let declared = producer.declared(taken.stream, taken.rtx);
    let source = producer.source;
    let Some(stream) = producer.streams.get_mut(usize::from(taken.stream)) else { return };
    if taken.rtx {
        stream.rtx_ssrc = declared;
        return;
    }
    stream.ssrc = declared;
    stream.receiver.restart();
    stream.nack.clear();
    if let Some(source) = commons.registry.sources.get_mut(source) {
        source.restart(taken.stream);
    }
}

pub(super) fn expire_limbo(commons: &mut Commons, now: Now, key: Key<Transport>) {
    let dropped = commons.registry.wiring[key.slot()].limbo.expire(now.mono);
    commons.ledger.drops.add(ShardDrop::UnknownSsrc, dropped);
}

/// The producer that fits the packet best. `producers` are in the order they came.
fn best_fit(
    registry: &Registry,
    key: Key<Transport>,
    producers: &[ProducerKey],
    elements: &Elements<'_>,
    former: bool,
) -> Option<Route> {
    let mut best: Option<(Fit, Route)> = None;
    // Newest first: of two that fit alike, the later one is what the page is sending now.
    for producer in producers.iter().rev() {
        let Some((fit, route)) = fits(registry, key, *producer, elements, former) else { continue };
        if best.is_none_or(|(known, _)| fit > known) {
            best = Some((fit, route));
        }
    }
    best.map(|(_, route)| route)
}

/// The route of a packet that can be this producer's, and how well it fits.
fn fits(
    registry: &Registry,
    key: Key<Transport>,
    of: ProducerKey,
    elements: &Elements<'_>,
    former: bool,
) -> Option<(Fit, Route)> {
    let producer = registry.producers.get(of)?;
    if producer.transport.is_some_and(|home| home != key) {
        return None;
    }
    let (fit, stream, rtx) = recognise(producer, &elements.names(&producer.spec.extensions), former)?;
    Some((fit, Route { producer: of, stream, rtx }))
}

/// Attaches the producer and routes the SSRC to it; false when the SSRC cannot be routed.
fn bind(commons: &mut Commons, now: Now, key: Key<Transport>, route: Route, ssrc: Ssrc) -> bool {
    let attached = attach_producer(commons, now, key, route.producer);
    let routed = take_ssrc(commons, now, key, route, ssrc);
    if attached {
        // Not before the SSRC is known: a request has to name it.
        keyframes::ask_for_waiting(commons, now, route.producer);
    }
    routed
}

/// Notes the transport-wide numbers of packets that came before their extension id was known.
fn note_early(commons: &mut Commons, key: Key<Transport>) {
    let transport = commons.registry.transports.get(key);
    let Some(id) = transport.and_then(|transport| transport.extensions.get(Extension::TransportCc)) else { return };
    for (arrived, seq) in commons.registry.wiring[key.slot()].limbo.numbers(id) {
        commons.note_arrival(arrived, key, seq);
    }
}

/// Attaches the producer to the transport that its packets arrive on, in place of an older one with the same mid or
/// ssrc. False when it was attached before.
fn attach_producer(commons: &mut Commons, now: Now, key: Key<Transport>, producer_key: ProducerKey) -> bool {
    let Some(producer) = commons.registry.producers.get_mut(producer_key) else { return false };
    if producer.bound {
        return false;
    }
    producer.bound = true;
    producer.transport = Some(key);
    let (id, mid) = (producer.id, producer.spec.mid);
    let ssrcs: Vec<Ssrc> = producer.streams.iter().flat_map(|s| [s.ssrc, s.rtx_ssrc]).flatten().collect();
    let ids = producer.spec.extensions;
    let feedback = producer.spec.feedback;

    let replaced: Vec<_> = commons.registry.wiring[key.slot()]
        .producers
        .iter()
        .copied()
        .filter(|other| *other != producer_key)
        .filter(|other| {
            commons.registry.producers.get(*other).is_some_and(|other| {
                (mid.is_some() && other.spec.mid == mid)
                    || other.streams.iter().any(|s| s.ssrc.is_some_and(|ssrc| ssrcs.contains(&ssrc)))
            })
        })
        .collect();
    for other in replaced {
        closing::close_producer(commons, now, other, Some(Closed::Replaced));
    }
    let wiring = &mut commons.registry.wiring[key.slot()];
    if !wiring.producers.contains(&producer_key) {
        wiring.producers.push(producer_key);
    }
    if let Some(transport) = commons.registry.transports.get_mut(key) {
        transport.extensions.merge(&ids);
        if feedback.remb && !feedback.transport_cc && transport.remb.is_none() {
            transport.remb = Some(RembEstimator::new(REMB_MAX));
        }
        commons.ledger.events.push_back(Event::ProducerBound { producer: id, transport: transport.id });
    }
    note_early(commons, key);
    commons.arm(key, now.mono + flow::FIRST_REPORT);
    true
}

/// Routes `ssrc` to the stream; a stream that changes its SSRC starts anew.
fn take_ssrc(commons: &mut Commons, now: Now, key: Key<Transport>, route: Route, ssrc: Ssrc) -> bool {
    let Some(producer) = commons.registry.producers.get_mut(route.producer) else { return false };
    let source = producer.source;
    let Some(stream) = producer.streams.get_mut(usize::from(route.stream)) else { return false };
    let known = if route.rtx { &mut stream.rtx_ssrc } else { &mut stream.ssrc };
    let before = known.replace(ssrc).filter(|before| *before != ssrc);
    if let Some(before) = before {
        commons.registry.wiring[key.slot()].remove_route(now.mono, before);
        if !route.rtx {
            stream.receiver.restart();
            stream.nack.clear();
            if let Some(source) = commons.registry.sources.get_mut(source) {
                source.restart(route.stream);
            }
        }
    }
    let routed = commons.registry.wiring[key.slot()].add_route(ssrc, route);
    if !routed {
        commons.ledger.drops.count(ShardDrop::RouteTableFull);
    }
    routed
}

/// By what a packet was recognised as a producer's, the least first.
//= RFC 8843 section 9.2: a MID in the packet decides, whatever was said of its SSRC; then the SSRC that was signalled;
// and last what may be anybody's. An SSRC under a MID that nobody has is taken by what was signalled all the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Fit {
    /// The SSRC, under another MID.
    OtherMid,
    /// MID or RID alone.
    Name,
    Ssrc,
}

/// The stream a packet belongs to, and whether it is a retransmission of it. A `former` SSRC is only known by itself.
fn recognise(producer: &Producer, names: &Names, former: bool) -> Option<(Fit, u8, bool)> {
    let other_mid = producer.spec.mid.is_some_and(|ours| names.mid.is_some_and(|theirs| ours != theirs));
    let by_ssrc = if other_mid { Fit::OtherMid } else { Fit::Ssrc };
    for (at, stream) in producer.streams.iter().enumerate() {
        if stream.ssrc == Some(names.ssrc) {
            return Some((by_ssrc, at as u8, false));
        }
        if stream.rtx_ssrc == Some(names.ssrc) {
            return Some((by_ssrc, at as u8, true));
        }
    }
    if former {
        return None;
    }
    let mid_fits = match (producer.spec.mid, names.mid) {
        (Some(ours), Some(theirs)) => ours == theirs,
        // Without a mid on the packet a rid alone must do; without either there is nothing to go by.
        (_, None) => names.rid.is_some() || names.repaired_rid.is_some(),
        (None, Some(_)) => false,
    };
    if !mid_fits {
        return None;
    }
    if let Some(rid) = names.repaired_rid.or(names.rid) {
        let at = producer.spec.encodings.iter().position(|encoding| encoding.rid == Some(rid))?;
        return Some((Fit::Name, at as u8, names.repaired_rid.is_some()));
    }
    if producer.streams.len() != 1 {
        return None;
    }
    if Some(names.payload_type) == producer.spec.rtx_payload_type {
        Some((Fit::Name, 0, true))
    } else if names.payload_type == producer.spec.payload_type {
        Some((Fit::Name, 0, false))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::command::{EncodingSpec, ProducerSpec};
    use crate::shard::fixture::{Fixture, rtp, video};

    /// A packet of this SSRC under this mid.
    fn packet(ssrc: u32, mid: Option<&[u8]>) -> Vec<u8> {
        rtp(ssrc, 96, 7, mid, &[0x90, 0x90, 1, 2, 3])
    }

    fn found(fixture: &mut Fixture, key: Key<Transport>, packet: &[u8]) -> Option<ProducerKey> {
        let header = RtpHeader::parse(packet).unwrap();
        let now = fixture.now;
        find(&mut fixture.commons, now, now.mono, key, &header, packet).map(|route| route.producer)
    }

    fn unnamed() -> ProducerSpec {
        ProducerSpec { encodings: vec![EncodingSpec::default()], ..video(0) }
    }

    #[test]
    fn a_packet_finds_its_producer_by_ssrc_or_by_mid_and_then_has_a_route() {
        let mut fixture = Fixture::new();
        let key = fixture.connected(1);
        let declared = fixture.producer(7, 1, ProducerSpec { mid: Mid::new(b"1"), ..video(100) });
        let named = fixture.producer(8, 1, unnamed());
        assert_eq!(found(&mut fixture, key, &packet(100, None)), Some(declared));
        assert_eq!(found(&mut fixture, key, &packet(555, Some(b"0"))), Some(named));
        let route = |ssrc| fixture.commons.registry.wiring[key.slot()].route(Ssrc(ssrc)).map(|route| route.producer);
        assert_eq!((route(100), route(555), route(556)), (Some(declared), Some(named), None));
        let bound = |event: &Event| matches!(event, Event::ProducerBound { .. });
        assert_eq!(fixture.events().iter().filter(|event| bound(event)).count(), 2);
    }

    #[test]
    fn media_of_no_producer_waits_for_it_and_then_finds_it() {
        let mut fixture = Fixture::new();
        let key = fixture.connected(1);
        let early = packet(555, Some(b"0"));
        assert_eq!(found(&mut fixture, key, &early), None);
        assert_eq!(found(&mut fixture, key, &rtp(555, 96, 7, None, &[])), None, "without a payload it is no media");
        let producer = fixture.producer(8, 1, unnamed());
        let now = fixture.now;
        let waiting = take_limbo(&mut fixture.commons, now, key);
        assert_eq!(waiting.len(), 1);
        let header = RtpHeader::parse(&waiting[0].packet).unwrap();
        let route = place(&mut fixture.commons, now, key, producer, &header, &waiting[0].packet);
        assert_eq!(route.map(|route| route.producer), Some(producer));
    }

    #[test]
    fn a_newer_producer_of_the_same_mid_replaces_the_older() {
        let mut fixture = Fixture::new();
        let key = fixture.connected(1);
        let old = fixture.producer(7, 1, video(100));
        assert_eq!(found(&mut fixture, key, &packet(100, Some(b"0"))), Some(old));
        let new = fixture.producer(8, 1, video(200));
        fixture.events();
        assert_eq!(found(&mut fixture, key, &packet(200, Some(b"0"))), Some(new));
        let replaced = |event: &Event| matches!(event, Event::ProducerClosed { why: Closed::Replaced, .. });
        assert!(fixture.events().iter().any(replaced) && fixture.commons.registry.producers.get(old).is_none());
    }
}
