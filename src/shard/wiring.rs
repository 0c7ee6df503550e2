//! The wiring of a transport: the router's objects behind its SSRCs. Kept beside the transports, slot by slot, so that
//! a transport need not know the router.

use crate::base::id::{ShortName, Ssrc};
use crate::base::limits::{FORMER_SSRC, FORMER_SSRCS_MAX, INCOMING_SSRCS_PER_TRANSPORT_MAX};
use crate::base::time::Instant;
use crate::router::keys::{ConsumerKey, ProducerKey};
use crate::shard::limbo::Limbo;
use crate::shard::transport_life::TransportLife;

/// The destination of an incoming SSRC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    pub producer: ProducerKey,
    pub stream: u8,
    pub rtx: bool,
}

/// The reason for a transport's allocation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Share {
    /// Feedback came.
    IfDue,
    /// The consumers or their demands have changed.
    Anew,
}

#[derive(Default)]
pub struct Wiring {
    /// The incoming SSRCs, in order.
    routes: Vec<(Ssrc, Route)>,
    /// The outgoing SSRCs, RTX too, in order: receivers name them.
    sent: Vec<(Ssrc, ConsumerKey)>,
    /// Given up lately, oldest first.
    former: Vec<(Ssrc, Instant)>,
    pub(super) limbo: Limbo,
    /// The number of its packets that wait for keys.
    pub(super) early: u8,
    /// The names under which STUN finds the transport.
    pub ufrags: Vec<ShortName>,
    pub producers: Vec<ProducerKey>,
    /// In order of creation, which is the order of bandwidth among equals.
    pub consumers: Vec<ConsumerKey>,
    pub(super) life: TransportLife,
    /// Due in the settling of this turn.
    pub(super) share: Option<Share>,
}

impl Wiring {
    pub fn route(&self, ssrc: Ssrc) -> Option<Route> {
        self.place(ssrc).ok().map(|at| self.routes[at].1)
    }

    fn place(&self, ssrc: Ssrc) -> Result<usize, usize> {
        self.routes.binary_search_by_key(&ssrc, |(known, _)| *known)
    }

    /// False when the transport has as many SSRCs as it may have.
    pub fn add_route(&mut self, ssrc: Ssrc, route: Route) -> bool {
        match self.place(ssrc) {
            Ok(at) => self.routes[at].1 = route,
            Err(_) if self.routes.len() >= INCOMING_SSRCS_PER_TRANSPORT_MAX => return false,
            Err(at) => self.routes.insert(at, (ssrc, route)),
        }
        debug_assert!(self.routes.is_sorted_by_key(|(ssrc, _)| *ssrc), "they are searched by halves");
        true
    }

    pub fn remove_route(&mut self, now: Instant, ssrc: Ssrc) {
        if let Ok(at) = self.place(ssrc) {
            self.routes.remove(at);
        }
        self.give_up(now, ssrc);
    }

    pub fn remove_producer(&mut self, now: Instant, producer: ProducerKey) {
        let of_it: Vec<Ssrc> =
            self.routes.iter().filter(|(_, route)| route.producer == producer).map(|(ssrc, _)| *ssrc).collect();
        self.routes.retain(|(_, route)| route.producer != producer);
        for ssrc in of_it {
            self.give_up(now, ssrc);
        }
        self.producers.retain(|known| *known != producer);
    }

    fn give_up(&mut self, now: Instant, ssrc: Ssrc) {
        self.former.retain(|(known, _)| *known != ssrc);
        if self.former.len() >= FORMER_SSRCS_MAX {
            self.former.remove(0);
        }
        self.former.push((ssrc, now));
    }

    /// Its packets may still be under way, and say nothing about what their stream is now.
    pub fn was_given_up(&self, now: Instant, ssrc: Ssrc) -> bool {
        self.former.iter().any(|(known, at)| *known == ssrc && now.since(*at) < FORMER_SSRC)
    }

    /// The stream of one of our SSRCs.
    pub fn consumer_of(&self, ssrc: Ssrc) -> Option<ConsumerKey> {
        self.sent.binary_search_by_key(&ssrc, |(known, _)| *known).ok().map(|at| self.sent[at].1)
    }

    pub fn add_consumer(&mut self, consumer: ConsumerKey, ssrcs: impl IntoIterator<Item = Ssrc>) {
        self.consumers.push(consumer);
        for ssrc in ssrcs {
            match self.sent.binary_search_by_key(&ssrc, |(known, _)| *known) {
                Ok(at) => self.sent[at].1 = consumer,
                Err(at) => self.sent.insert(at, (ssrc, consumer)),
            }
        }
    }

    pub fn remove_consumer(&mut self, consumer: ConsumerKey) {
        self.consumers.retain(|known| *known != consumer);
        self.sent.retain(|(_, of)| *of != consumer);
    }

    /// All at once, in their order: looking for each of them would cost the square of their number.
    pub fn take_consumers(&mut self) -> Vec<ConsumerKey> {
        self.sent.clear();
        std::mem::take(&mut self.consumers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::slab::Key;

    fn key<T>(slot: u32) -> Key<T> {
        Key::from_parts(slot, 0)
    }

    fn route(producer: u32) -> Route {
        Route { producer: key(producer), stream: 0, rtx: false }
    }

    #[test]
    fn routes_are_found_whatever_order_they_came_in() {
        let mut wiring = Wiring::default();
        for ssrc in [7, 3, u32::MAX, 0, 5] {
            assert!(wiring.add_route(Ssrc(ssrc), route(ssrc % 2)));
        }
        assert!(wiring.add_route(Ssrc(5), route(9)), "it moves");
        assert_eq!(wiring.route(Ssrc(5)), Some(route(9)));
        assert_eq!((wiring.route(Ssrc(0)), wiring.route(Ssrc(4))), (Some(route(0)), None));
        wiring.remove_producer(Instant::ZERO, key(1));
        assert_eq!([7, 3, u32::MAX].map(|ssrc| wiring.route(Ssrc(ssrc))), [None; 3]);
        assert!(wiring.was_given_up(Instant::ZERO, Ssrc(7)) && !wiring.was_given_up(Instant::ZERO, Ssrc(0)));
        for ssrc in 0..2 * INCOMING_SSRCS_PER_TRANSPORT_MAX as u32 {
            wiring.add_route(Ssrc(1_000 + ssrc), route(2));
        }
        assert_eq!(wiring.routes.len(), INCOMING_SSRCS_PER_TRANSPORT_MAX);
    }

    #[test]
    fn a_consumer_is_found_by_both_of_its_ssrcs_until_it_goes() {
        let mut wiring = Wiring::default();
        for at in 0..100 {
            wiring.add_consumer(key(at), [Ssrc(1_000 - 2 * at), Ssrc(5_000 + at)]);
        }
        assert_eq!((wiring.consumer_of(Ssrc(1_000)), wiring.consumer_of(Ssrc(5_099))), (Some(key(0)), Some(key(99))));
        assert_eq!(wiring.consumer_of(Ssrc(999)), None);
        wiring.remove_consumer(key(40));
        assert_eq!((wiring.consumer_of(Ssrc(920)), wiring.consumer_of(Ssrc(5_040))), (None, None));
        assert_eq!(wiring.take_consumers().len(), 99);
        assert_eq!(wiring.consumer_of(Ssrc(1_000)), None);
    }
}
