//! The producer of a new SSRC. Signalling need not say on which transport a producer sends: it is found by the packets
//! that arrive on any transport of its peer: the ssrc, else mid and rid, else mid. A mid in the packet that
//! is another producer's says more than the ssrc.

use std::collections::VecDeque;

use crate::base::id::{Mid, Ssrc};
use crate::base::slab::Key;
use crate::base::time::{Instant, Now};
use crate::media::remb::RembEstimator;
use crate::router::keys::ProducerKey;
use crate::router::producer::Producer;
use crate::shard::command::{Closed, Event};
use crate::shard::drops::Drop;
use crate::shard::elements::{Elements, Names};
use crate::shard::limbo::Waiting;
use crate::shard::shard::Shard;
use crate::shard::wiring::Route;
use crate::transport::Transport;
use crate::wire::extension::Extension;
use crate::wire::rtp::RtpHeader;

/// The most that a publisher without transport-cc is allowed (draft-alvestrand-rmcat-remb).
const REMB_MAX: crate::base::units::Bitrate = crate::base::units::Bitrate::mbps(20);

impl Shard {
    /// Finds the producer of a decrypted packet whose SSRC leads nowhere yet. A packet of none waits if there is media
    /// in it.
    pub(super) fn unknown(
        &mut self,
        now: Now,
        arrived: Instant,
        key: Key<Transport>,
        header: &RtpHeader,
        packet: &[u8],
    ) {
        let Some(transport) = self.commons.registry.transports.get(key) else { return };
        let peer = transport.peer;
        let elements = Elements::of(header, packet);
        // Feedback counts it, whatever becomes of it: the sender takes unreported packets for lost.
        match transport.extensions.get(Extension::TransportCc) {
            Some(id) => {
                if let Some(seq) = elements.number(id) {
                    self.note_arrival(arrived, key, seq);
                }
            }
            None => self.commons.registry.wiring[key.slot()].limbo.note(arrived, elements.numbers()),
        }
        let former = self.commons.registry.wiring[key.slot()].was_given_up(now.mono, header.ssrc);
        let producers = self.commons.registry.peers.get(&peer).map(|entry| &entry.producers[..]).unwrap_or_default();
        match self.best_fit(key, producers, &elements, former) {
            Some(route) => {
                if self.bind(now, key, route, header.ssrc) {
                    self.routed(now, arrived, key, route, header, packet, true);
                }
            }
            None => self.wait_for_producer(arrived, key, header, packet),
        }
        if let Some(deadline) = self.commons.registry.wiring[key.slot()].limbo.deadline() {
            self.commons.arm(key, deadline);
        }
    }

    /// Padding alone never takes the place of media.
    fn wait_for_producer(&mut self, arrived: Instant, key: Key<Transport>, header: &RtpHeader, packet: &[u8]) {
        match header.payload(packet) {
            Ok([]) => self.commons.ledger.drops.count(Drop::PaddingOnly),
            Ok(_) => {
                let dropped = self.commons.registry.wiring[key.slot()].limbo.keep(arrived, packet);
                self.commons.ledger.drops.add(Drop::UnknownSsrc, dropped);
            }
            Err(_) => self.commons.ledger.drops.count(Drop::MalformedRtp),
        }
    }

    /// A producer has come that packets in limbo may belong to. They were compared with the others when they came.
    pub(super) fn leave_limbo(&mut self, now: Now, key: Key<Transport>, producer: ProducerKey) {
        self.expire_limbo(now, key);
        let mut nobodys = VecDeque::new();
        for waiting in self.commons.registry.wiring[key.slot()].limbo.take() {
            let Waiting { arrived, packet } = &waiting;
            let Ok(header) = RtpHeader::parse(packet) else { continue };
            let known = self.commons.registry.wiring[key.slot()].route(header.ssrc);
            let route = known.or_else(|| {
                let former = self.commons.registry.wiring[key.slot()].was_given_up(now.mono, header.ssrc);
                let (_, route) = self.fits(key, producer, &Elements::of(&header, packet), former)?;
                self.bind(now, key, route, header.ssrc).then_some(route)
            });
            match route {
                Some(route) => self.routed(now, *arrived, key, route, &header, packet, true),
                None => nobodys.push_back(waiting),
            }
        }
        self.commons.registry.wiring[key.slot()].limbo.put_back(nobodys);
    }

    /// A new producer's SSRCs whose packets came before it and were taken, by mid or rid, for an older one's.
    pub(super) fn claim_ssrcs(&mut self, now: Now, key: Key<Transport>, of: ProducerKey) {
        let Some(producer) =
            self.commons.registry.producers.get(of).filter(|producer| producer.transport.is_none_or(|at| at == key))
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
            let Some(taken) = self.commons.registry.wiring[key.slot()].route(ssrc).filter(|taken| taken.producer != of)
            else {
                continue;
            };
            if self.only_by_name(taken, ssrc, mid) {
                self.give_back(taken);
                self.bind(now, key, route, ssrc);
            }
        }
    }

    /// Whether an SSRC leads somewhere by a mid or rid alone, and not by the mid of another than `mid`.
    fn only_by_name(&self, taken: Route, ssrc: Ssrc, mid: Option<Mid>) -> bool {
        let Some(other) = self.commons.registry.producers.get(taken.producer) else { return false };
        let other_mid = mid.is_some_and(|mid| other.spec.mid.is_some_and(|other| other != mid));
        !other_mid && other.declared(taken.stream, taken.rtx) != Some(ssrc)
    }

    /// The stream goes back to the SSRC that was declared for it.
    fn give_back(&mut self, taken: Route) {
        let Some(producer) = self.commons.registry.producers.get_mut(taken.producer) else { return };
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
        if let Some(source) = self.commons.registry.sources.get_mut(source) {
            source.restart(taken.stream);
        }
    }

    pub(super) fn expire_limbo(&mut self, now: Now, key: Key<Transport>) {
        let dropped = self.commons.registry.wiring[key.slot()].limbo.expire(now.mono);
        self.commons.ledger.drops.add(Drop::UnknownSsrc, dropped);
    }

    /// Of these producers, in the order they came, the one whose packet it is by the most that is known.
    fn best_fit(
        &self,
        key: Key<Transport>,
        producers: &[ProducerKey],
        elements: &Elements<'_>,
        former: bool,
    ) -> Option<Route> {
        let mut best: Option<(Fit, Route)> = None;
        // Newest first: of two that fit alike, the later one is what the page is sending now.
        for producer in producers.iter().rev() {
            let Some((fit, route)) = self.fits(key, *producer, elements, former) else { continue };
            if best.is_none_or(|(known, _)| fit > known) {
                best = Some((fit, route));
            }
        }
        best.map(|(_, route)| route)
    }

    /// Whether a packet can be this producer's.
    fn fits(
        &self,
        key: Key<Transport>,
        of: ProducerKey,
        elements: &Elements<'_>,
        former: bool,
    ) -> Option<(Fit, Route)> {
        let producer = self.commons.registry.producers.get(of)?;
        if producer.transport.is_some_and(|home| home != key) {
            return None;
        }
        let (fit, stream, rtx) = recognise(producer, &elements.names(&producer.spec.extensions), former)?;
        Some((fit, Route { producer: of, stream, rtx }))
    }

    /// False when the SSRC cannot be routed.
    fn bind(&mut self, now: Now, key: Key<Transport>, route: Route, ssrc: Ssrc) -> bool {
        let attached = self.attach_producer(now, key, route.producer);
        let routed = self.take_ssrc(now, key, route, ssrc);
        if attached {
            // Not before the SSRC is known: a request has to name it.
            self.ask_for_waiting_consumers(now, route.producer);
        }
        routed
    }

    /// The numbers of packets that came before their extension id was known.
    fn note_early(&mut self, key: Key<Transport>) {
        let id = self
            .commons
            .registry
            .transports
            .get(key)
            .and_then(|transport| transport.extensions.get(Extension::TransportCc));
        let Some(id) = id else { return };
        for (arrived, seq) in self.commons.registry.wiring[key.slot()].limbo.numbers(id) {
            self.note_arrival(arrived, key, seq);
        }
    }

    /// The producer's packets arrive here: an older one with the same mid or ssrc on this transport is replaced. False
    /// when it was known before.
    fn attach_producer(&mut self, now: Now, key: Key<Transport>, producer_key: ProducerKey) -> bool {
        let Some(producer) = self.commons.registry.producers.get_mut(producer_key) else { return false };
        if producer.bound {
            return false;
        }
        producer.bound = true;
        producer.transport = Some(key);
        let (id, mid) = (producer.id, producer.spec.mid);
        let ssrcs: Vec<Ssrc> = producer.streams.iter().flat_map(|s| [s.ssrc, s.rtx_ssrc]).flatten().collect();
        let ids = producer.spec.extensions;
        let feedback = producer.spec.feedback;

        let replaced: Vec<_> = self.commons.registry.wiring[key.slot()]
            .producers
            .iter()
            .copied()
            .filter(|other| *other != producer_key)
            .filter(|other| {
                self.commons.registry.producers.get(*other).is_some_and(|other| {
                    (mid.is_some() && other.spec.mid == mid)
                        || other.streams.iter().any(|s| s.ssrc.is_some_and(|ssrc| ssrcs.contains(&ssrc)))
                })
            })
            .collect();
        for other in replaced {
            self.close_producer(now, other, Some(Closed::Replaced));
        }
        let wiring = &mut self.commons.registry.wiring[key.slot()];
        if !wiring.producers.contains(&producer_key) {
            wiring.producers.push(producer_key);
        }
        if let Some(transport) = self.commons.registry.transports.get_mut(key) {
            transport.extensions.merge(&ids);
            if feedback.remb && !feedback.transport_cc && transport.remb.is_none() {
                transport.remb = Some(RembEstimator::new(REMB_MAX));
            }
            self.commons.ledger.events.push_back(Event::ProducerBound { producer: id, transport: transport.id });
        }
        self.note_early(key);
        self.commons.arm(key, now.mono + Shard::FIRST_REPORT);
        true
    }

    /// Routes `ssrc` to the stream; a stream that changes its SSRC starts anew.
    fn take_ssrc(&mut self, now: Now, key: Key<Transport>, route: Route, ssrc: Ssrc) -> bool {
        let Some(producer) = self.commons.registry.producers.get_mut(route.producer) else { return false };
        let source = producer.source;
        let Some(stream) = producer.streams.get_mut(usize::from(route.stream)) else { return false };
        let known = if route.rtx { &mut stream.rtx_ssrc } else { &mut stream.ssrc };
        let before = known.replace(ssrc).filter(|before| *before != ssrc);
        if let Some(before) = before {
            self.commons.registry.wiring[key.slot()].remove_route(now.mono, before);
            if !route.rtx {
                stream.receiver.restart();
                stream.nack.clear();
                if let Some(source) = self.commons.registry.sources.get_mut(source) {
                    source.restart(route.stream);
                }
            }
        }
        let routed = self.commons.registry.wiring[key.slot()].add_route(ssrc, route);
        if !routed {
            self.commons.ledger.drops.count(Drop::RouteTableFull);
        }
        routed
    }
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
