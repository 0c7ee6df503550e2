//! Which producer a new SSRC belongs to. Signalling need not say on which transport a producer sends: it is found by
//! what arrives on any transport of its peer: the ssrc, else mid and rid, else mid.

use crate::base::id::Ssrc;
use crate::base::slab::Key;
use crate::base::time::Now;
use crate::media::remb::RembEstimator;
use crate::router::producer::Producer;
use crate::shard::command::{Closed, Event};
use crate::shard::drops::Drop;
use crate::shard::incoming::{Names, names};
use crate::shard::shard::Shard;
use crate::shard::wiring::Route;
use crate::transport::Transport;
use crate::wire::rtp::RtpHeader;

/// What a publisher without transport-cc is told at most (draft-alvestrand-rmcat-remb).
const REMB_MAX: crate::base::units::Bitrate = crate::base::units::Bitrate::mbps(20);

impl Shard {
    pub(super) fn bind(&mut self, now: Now, key: Key<Transport>, header: &RtpHeader, packet: &[u8]) -> Option<Route> {
        let peer = self.transports.get(key)?.peer;
        let entry = self.peers.get(&peer)?;
        let former = self.wiring[key.slot()].was_given_up(now.mono, header.ssrc);
        // Newest first: of two that fit, the later one is what the page is sending now.
        let route = entry.producers.iter().rev().find_map(|producer_key| {
            let producer = self.producers.get(*producer_key)?;
            if producer.transport.is_some_and(|home| home != key) {
                return None;
            }
            let names = names(header, packet, &producer.spec.extensions);
            let (stream, rtx) = recognise(producer, &names, former)?;
            Some(Route { producer: *producer_key, stream, rtx })
        })?;
        let attached = self.attach_producer(now, key, route.producer);
        let routed = self.take_ssrc(now, key, route, header.ssrc);
        if attached {
            // Not before the SSRC is known: a request has to name it.
            self.ask_for_waiting_consumers(now, route.producer);
        }
        routed.then_some(route)
    }

    /// The producer's packets arrive here: an older one with the same mid or ssrc on this transport is replaced. False
    /// when it was known before.
    fn attach_producer(&mut self, now: Now, key: Key<Transport>, producer_key: Key<Producer>) -> bool {
        let Some(producer) = self.producers.get_mut(producer_key) else { return false };
        if producer.bound {
            return false;
        }
        producer.bound = true;
        producer.transport = Some(key);
        let (id, mid) = (producer.id, producer.spec.mid);
        let ssrcs: Vec<Ssrc> = producer.streams.iter().flat_map(|s| [s.ssrc, s.rtx_ssrc]).flatten().collect();
        let ids = producer.spec.extensions;
        let feedback = producer.spec.feedback;

        let replaced: Vec<_> = self.wiring[key.slot()]
            .producers
            .iter()
            .copied()
            .filter(|other| *other != producer_key)
            .filter(|other| {
                self.producers.get(*other).is_some_and(|other| {
                    (mid.is_some() && other.spec.mid == mid)
                        || other.streams.iter().any(|s| s.ssrc.is_some_and(|ssrc| ssrcs.contains(&ssrc)))
                })
            })
            .collect();
        for other in replaced {
            self.close_producer(now, other, Some(Closed::Replaced));
        }
        let wiring = &mut self.wiring[key.slot()];
        if !wiring.producers.contains(&producer_key) {
            wiring.producers.push(producer_key);
        }
        if let Some(transport) = self.transports.get_mut(key) {
            transport.extensions.merge(&ids);
            if feedback.remb && !feedback.transport_cc && transport.remb.is_none() {
                transport.remb = Some(RembEstimator::new(REMB_MAX));
            }
            self.events.push_back(Event::ProducerBound { producer: id, transport: transport.id });
        }
        self.arm(key, now.mono + Shard::FIRST_REPORT);
        true
    }

    /// Routes `ssrc` to the stream; a stream that changes its SSRC starts anew.
    fn take_ssrc(&mut self, now: Now, key: Key<Transport>, route: Route, ssrc: Ssrc) -> bool {
        let Some(producer) = self.producers.get_mut(route.producer) else { return false };
        let source = producer.source;
        let Some(stream) = producer.streams.get_mut(usize::from(route.stream)) else { return false };
        let known = if route.rtx { &mut stream.rtx_ssrc } else { &mut stream.ssrc };
        let before = known.replace(ssrc).filter(|before| *before != ssrc);
        if let Some(before) = before {
            self.wiring[key.slot()].remove_route(now.mono, before);
            if !route.rtx {
                stream.receiver.restart();
                stream.nack.clear();
                if let Some(source) = self.sources.get_mut(source) {
                    source.restart(route.stream);
                }
            }
        }
        let routed = self.wiring[key.slot()].add_route(ssrc, route);
        if !routed {
            self.drops.count(Drop::RouteTableFull);
        }
        routed
    }
}

/// The stream a packet belongs to, and whether it is a retransmission of it. A `former` SSRC is only known by itself.
fn recognise(producer: &Producer, names: &Names, former: bool) -> Option<(u8, bool)> {
    for (at, stream) in producer.streams.iter().enumerate() {
        if stream.ssrc == Some(names.ssrc) {
            return Some((at as u8, false));
        }
        if stream.rtx_ssrc == Some(names.ssrc) {
            return Some((at as u8, true));
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
        return Some((at as u8, names.repaired_rid.is_some()));
    }
    if producer.streams.len() != 1 {
        return None;
    }
    if Some(names.payload_type) == producer.spec.rtx_payload_type {
        Some((0, true))
    } else if names.payload_type == producer.spec.payload_type {
        Some((0, false))
    } else {
        None
    }
}
