//! The machines that the mechanisms of a shard act on: its objects, their deadlines, what leaves, and the work and
//! changes that a turn owes. It decides nothing: a mechanism is a function that takes all of them, or the few that it
//! touches.

use crate::base::slab::Key;
use crate::base::time::Instant;
use crate::shard::layer_changes::LayerChanges;
use crate::shard::ledger::Ledger;
use crate::shard::outlet::Outlet;
use crate::shard::port::Port;
use crate::shard::registry::Registry;
use crate::shard::settling::Settling;
use crate::shard::timers::{Timers, Wake};
use crate::transport::Transport;

#[derive(Default)]
pub(super) struct Commons {
    pub(super) registry: Registry,
    pub(super) timers: Timers,
    pub(super) outlet: Outlet,
    pub(super) port: Port,
    pub(super) settling: Settling,
    pub(super) layer_changes: LayerChanges,
    pub(super) ledger: Ledger,
    /// The transport whose bytes are being handled; a panic closes it.
    pub(super) current: Option<Key<Transport>>,
}

impl Commons {
    /// Schedules the transport no later than `at`.
    pub(super) fn arm(&mut self, key: Key<Transport>, at: Instant) {
        if let Some(transport) = self.registry.transports.get_mut(key) {
            self.timers.arm(Wake::Prompt, &mut transport.armed, key, at);
        }
    }

    /// Schedules work of the transport that can wait for media.
    pub(super) fn arm_patient(&mut self, key: Key<Transport>, at: Instant) {
        if let Some(transport) = self.registry.transports.get_mut(key) {
            self.timers.arm(Wake::Patient, &mut transport.armed_patient, key, at);
        }
    }

    /// Notes an arrival for transport-wide feedback, which counts every packet with a number, RTX and padding too.
    pub(super) fn note_arrival(&mut self, arrived: Instant, key: Key<Transport>, seq: u16) {
        if let Some(transport) = self.registry.transports.get_mut(key) {
            note_arrival(&mut self.timers, transport, arrived, key, seq);
        }
    }
}

/// As [`Commons::note_arrival`], with the transport at hand.
pub(super) fn note_arrival(
    timers: &mut Timers,
    transport: &mut Transport,
    arrived: Instant,
    key: Key<Transport>,
    seq: u16,
) {
    transport.arrivals.on_packet(arrived, seq);
    if let Some(deadline) = transport.arrivals.next_deadline() {
        timers.arm(Wake::Patient, &mut transport.armed_patient, key, deadline);
    }
}

#[cfg(test)]
mod tests {
    use crate::base::time::Duration;
    use crate::shard::fixture::Fixture;

    #[test]
    fn a_transport_is_armed_once_and_a_stale_key_arms_nothing() {
        let mut fixture = Fixture::new();
        let (key, now) = (fixture.transport(1), fixture.now.mono);
        fixture.commons.note_arrival(now, key, 7);
        let feedback = fixture.commons.timers.next().unwrap();
        fixture.commons.arm(key, now + Duration::from_millis(1));
        fixture.commons.arm(key, now + Duration::from_millis(2));
        assert_eq!(fixture.commons.timers.next(), Some(now + Duration::from_millis(1)));
        assert!(feedback > now + Duration::from_millis(20), "it waits for media");
        fixture.commons.registry.remove_transport(key).unwrap();
        fixture.commons.arm(key, now);
        assert_eq!(fixture.commons.timers.next(), Some(now + Duration::from_millis(1)));
    }
}
