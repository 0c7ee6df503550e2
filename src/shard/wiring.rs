//! What hangs on a transport: which of the router's objects its SSRCs lead to. Kept beside the transports, slot by slot,
//! so that a transport need not know the router.

use crate::base::id::{ShortName, Ssrc};
use crate::base::limits::{FORMER_SSRC, FORMER_SSRCS_MAX, INCOMING_SSRCS_PER_TRANSPORT_MAX};
use crate::base::slab::Key;
use crate::base::time::Instant;
use crate::router::consumer::Consumer;
use crate::router::producer::Producer;
use crate::shard::limbo::Limbo;

/// Where an incoming SSRC belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    pub producer: Key<Producer>,
    pub stream: u8,
    pub rtx: bool,
}

#[derive(Default)]
pub struct Wiring {
    routes: Vec<(Ssrc, Route)>,
    /// Given up lately, oldest first.
    former: Vec<(Ssrc, Instant)>,
    pub(super) limbo: Limbo,
    /// Of its packets, how many wait for keys.
    pub(super) early: u8,
    /// The names under which STUN finds the transport.
    pub ufrags: Vec<ShortName>,
    pub producers: Vec<Key<Producer>>,
    pub consumers: Vec<Key<Consumer>>,
}

impl Wiring {
    pub fn route(&self, ssrc: Ssrc) -> Option<Route> {
        self.routes.iter().find(|(known, _)| *known == ssrc).map(|(_, route)| *route)
    }

    /// False when the transport has as many SSRCs as it may have.
    pub fn add_route(&mut self, ssrc: Ssrc, route: Route) -> bool {
        if let Some(entry) = self.routes.iter_mut().find(|(known, _)| *known == ssrc) {
            entry.1 = route;
            return true;
        }
        if self.routes.len() >= INCOMING_SSRCS_PER_TRANSPORT_MAX {
            return false;
        }
        self.routes.push((ssrc, route));
        true
    }

    pub fn remove_route(&mut self, now: Instant, ssrc: Ssrc) {
        self.routes.retain(|(known, _)| *known != ssrc);
        self.give_up(now, ssrc);
    }

    pub fn remove_producer(&mut self, now: Instant, producer: Key<Producer>) {
        while let Some(at) = self.routes.iter().position(|(_, route)| route.producer == producer) {
            let (ssrc, _) = self.routes.remove(at);
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

    pub fn remove_consumer(&mut self, consumer: Key<Consumer>) {
        self.consumers.retain(|known| *known != consumer);
    }
}
