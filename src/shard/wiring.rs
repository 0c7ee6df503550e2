//! What hangs on a transport: which of the router's objects its SSRCs lead to. Kept beside the transports, slot by slot,
//! so that a transport need not know the router.

use crate::base::id::{ShortName, Ssrc};
use crate::base::limits::INCOMING_SSRCS_PER_TRANSPORT_MAX;
use crate::base::slab::Key;
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
    pub(super) limbo: Limbo,
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

    pub fn remove_route(&mut self, ssrc: Ssrc) {
        self.routes.retain(|(known, _)| *known != ssrc);
    }

    pub fn remove_producer(&mut self, producer: Key<Producer>) {
        self.routes.retain(|(_, route)| route.producer != producer);
        self.producers.retain(|known| *known != producer);
    }

    pub fn remove_consumer(&mut self, consumer: Key<Consumer>) {
        self.consumers.retain(|known| *known != consumer);
    }
}
