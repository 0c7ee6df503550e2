//! The demultiplexer: the transport of a datagram, and the two protocols that set a path up: STUN, which alone makes or
//! moves paths, and DTLS, which is only taken from a path that an authenticated check has made.

use crate::base::buffer::Path;
use crate::base::id::ShortName;
use crate::base::slab::Key;
use crate::base::time::{Instant, Now};
use crate::secure::Dropped;
use crate::secure::dtls::{HANDSHAKE_FAILURE, SessionTag, is_client_hello};
use crate::shard::command::{Closed, Event, TransportState};
use crate::shard::drops::Drop;
use crate::shard::ledger::PathChange;
use crate::shard::paths::Rival;
use crate::shard::relay::RelayMessage;
use crate::shard::shard::Shard;
use crate::transport::Transport;
use crate::transport::ice_lite::{IceDrop, IceOutcome};
use crate::transport::link::{Link, LinkChange};
use crate::transport::stun::{Malformed, StunClass, peek};

/// The name of a transport's secure session at the engine.
fn tag(key: Key<Transport>) -> SessionTag {
    let (slot, generation) = key.to_parts();
    SessionTag(u64::from(slot) << 32 | u64::from(generation))
}

impl Shard {
    /// The transport that owns this validated path; hands the datagram over when another shard owns it.
    pub(super) fn owner(&mut self, path: Path, datagram: &[u8]) -> Option<Key<Transport>> {
        let key = self.paths.owner(&path);
        let elsewhere = match key {
            Some(_) => self.paths.holder(&path),
            None => self.elsewhere.get(&path).copied(),
        };
        if elsewhere.is_none() && key.is_some() {
            return key;
        }
        match elsewhere {
            Some(shard) => {
                self.commons.ledger.counters.handed_over += 1;
                self.send_relay(shard, &RelayMessage::Datagram { path, bytes: datagram });
            }
            None => self.commons.ledger.drops.count(Drop::UnknownPath),
        }
        None
    }

    pub(super) fn handle_stun(&mut self, now: Now, path: Path, datagram: &[u8]) {
        let peeked = match peek(datagram) {
            Ok(peeked) => peeked,
            Err(Malformed) => return self.commons.ledger.drops.ice(IceDrop::Malformed),
        };
        match peeked.class {
            StunClass::BindingRequest => {}
            // Keeps a NAT open and wants no answer (RFC 8445 section 11).
            StunClass::BindingIndication => return self.commons.ledger.drops.ice(IceDrop::Indication),
            StunClass::GoogPing => return self.commons.ledger.drops.ice(IceDrop::GoogPing),
            // A lite agent sends no requests, so nobody has anything to respond to.
            StunClass::BindingResponse | StunClass::Other => {
                return self.commons.ledger.drops.ice(IceDrop::NotARequest);
            }
        }
        let Some(ufrag) = peeked.local_ufrag else {
            return self.commons.ledger.drops.ice(IceDrop::NoUsername);
        };
        let key = match ShortName::new(ufrag).and_then(|name| self.ufrags.get(&name).copied()) {
            Some(key) => key,
            None => return self.hand_over_stun(path, ufrag, datagram),
        };
        let Some(transport) = self.commons.registry.transports.get_mut(key) else { return };
        self.commons.current = Some(key);
        let mut reply = Vec::with_capacity(128);
        let outcome = match transport.ice.handle(now.mono, path, datagram, &mut reply) {
            Ok(outcome) => outcome,
            Err(why) => return self.commons.ledger.drops.ice(why),
        };
        self.commons.ledger.counters.stun_answered += 1;
        self.commons.outlet.ready.push(path, &reply);
        transport.proof.heard(path, datagram.len());
        if let Some(removed) = outcome.path_removed {
            transport.proof.forget(removed);
            self.paths.withdraw(removed, Rival::Here(key));
            self.path_down(now, removed, key);
        }
        // An answer that is an error has made no path.
        if self.commons.registry.transports.get(key).is_some_and(|transport| transport.ice.is_valid_path(path)) {
            self.claim(now, path, key);
        }
        self.look_at_proof(now, key);
        self.after_check(now, key, outcome);
    }

    fn hand_over_stun(&mut self, path: Path, ufrag: &[u8], datagram: &[u8]) {
        let owner = self
            .settings
            .labels
            .iter()
            .find(|(shard, label)| *shard != self.settings.id && ufrag.starts_with(&label.0))
            .map(|(shard, _)| *shard);
        match owner {
            Some(shard) => {
                self.commons.ledger.counters.handed_over += 1;
                self.send_relay(shard, &RelayMessage::Datagram { path, bytes: datagram });
            }
            None => self.commons.ledger.drops.count(Drop::UnknownUfrag),
        }
    }

    pub(super) fn path_down(&mut self, now: Now, path: Path, key: Key<Transport>) {
        if self.paths.owner(&path) != Some(key) {
            return;
        }
        self.paths.remove(&path);
        if self.paths.let_go(&path).is_none() {
            self.commons.ledger.path_changes.push_back(PathChange::Down(path));
            self.announce_path(path, false);
        }
        self.inherit(now, path);
    }

    pub(super) fn announce_path(&mut self, path: Path, up: bool) {
        if !self.settings.handover {
            return;
        }
        for at in 0..self.settings.labels.len() {
            let (shard, _) = self.settings.labels[at];
            if shard != self.settings.id {
                self.send_relay(shard, &RelayMessage::Path { path, up });
            }
        }
    }

    fn after_check(&mut self, now: Now, key: Key<Transport>, outcome: IceOutcome) {
        let Some(transport) = self.commons.registry.transports.get_mut(key) else { return };
        let first = transport.nominated_at.is_none() && transport.ice.selected().is_some();
        if first {
            transport.nominated_at = Some(now.mono);
        }
        transport.path_changes += u64::from(outcome.selected_changed);
        let was_disconnected = transport.disconnected_since.take().is_some();
        if let Some(deadline) = transport.consent_deadline() {
            self.commons.arm(key, deadline);
        }
        let revived = was_disconnected || outcome.revived;
        if first || revived {
            self.report_state(key);
            self.start_as_client(now, key);
        }
        // Its path may also have gone to another transport meanwhile, and this check gave it a new one.
        if revived || outcome.selected_changed {
            self.commons.arm(key, now.mono + Shard::FIRST_REPORT);
            self.reopen_consumers(now, key);
        }
    }

    pub(super) fn handle_dtls(&mut self, now: Now, path: Path, datagram: &[u8]) {
        let Some(key) = self.owner(path, datagram) else { return };
        if let Err(why) = self.take_dtls(now, path, key, datagram) {
            self.try_rivals(now, now.mono, path, datagram, why);
        }
    }

    /// An error says that it is not of this transport's session.
    pub(super) fn take_dtls(
        &mut self,
        now: Now,
        path: Path,
        key: Key<Transport>,
        datagram: &[u8],
    ) -> Result<(), Dropped> {
        self.commons.current = Some(key);
        let Some(transport) = self.commons.registry.transports.get_mut(key) else { return Ok(()) };
        if matches!(transport.link, Link::Idle) && !self.handshake_quota.admits(now.mono, path.remote.ip()) {
            self.commons.ledger.drops.count(Drop::HandshakeQuota);
            return Ok(());
        }
        self.commons.registry.wiring[key.slot()].life.handshake_began(now.mono);
        let Some(transport) = self.commons.registry.transports.get_mut(key) else { return Ok(()) };
        let taken = transport.link.handle_datagram(now.mono, self.engine.as_mut(), tag(key), datagram);
        // Shorter than the hello: a client that asks again after a refusal may not have heard it.
        if transport.link.has_failed() && is_client_hello(datagram) {
            self.commons.outlet.ready.push(path, &HANDSHAKE_FAILURE);
        }
        self.poll_link(now, key);
        taken
    }

    /// Lets the engine do what is due, and collects the results of the sessions that it names.
    pub(super) fn pump_handshakes(&mut self, now: Now) {
        if self.engine.next_deadline().is_none_or(|at| at > now.mono) {
            return;
        }
        self.engine.pump(now.mono);
        while let Some(why) = self.engine.dropped() {
            self.commons.ledger.drops.secure(why);
        }
        while let Some(SessionTag(tag)) = self.engine.ready() {
            let key = Key::from_parts((tag >> 32) as u32, tag as u32);
            self.commons.current = Some(key);
            self.poll_link(now, key);
        }
    }

    pub(super) fn start_as_client(&mut self, now: Now, key: Key<Transport>) {
        let Some(transport) = self.commons.registry.transports.get_mut(key) else { return };
        let Some(nominated_at) = transport.nominated_at else { return };
        if transport.link.is_to_connect(now.mono, &transport.announcements, nominated_at) {
            // It costs as much as one that the peer begins.
            let address = transport.ice.selected().map(|path| path.remote.ip());
            if address.is_none_or(|address| self.handshake_quota.admits(now.mono, address)) {
                transport.link.connect(now.mono, self.engine.as_mut(), tag(key));
            } else {
                self.commons.ledger.drops.count(Drop::HandshakeQuota);
                transport.nominated_at = Some(now.mono);
            }
        }
        self.poll_link(now, key);
    }

    /// Takes the output of the secure link: datagrams, keys, its end.
    pub(super) fn poll_link(&mut self, now: Now, key: Key<Transport>) {
        let Some(transport) = self.commons.registry.transports.get_mut(key) else { return };
        let exit = transport.exit();
        let (ready, drops) = (&mut self.commons.outlet.ready, &mut self.commons.ledger.drops);
        let Transport { link, proof, bounded, announcements, .. } = transport;
        let change = link.poll(now.mono, announcements, |datagram| {
            let Some(path) = exit else { return };
            if *bounded && !proof.admits(datagram.len()) {
                return drops.count(Drop::UnprovedPath);
            }
            proof.said(path);
            ready.push(path, datagram);
        });
        let deadline = transport.link.deadline(&transport.announcements, transport.nominated_at);
        if let Some(deadline) = deadline.filter(|at| *at > now.mono) {
            self.commons.arm(key, deadline);
        }
        match change {
            Some(LinkChange::Connected(suite)) => {
                self.commons.ledger.counters.handshakes_done += 1;
                self.proved_by_handshake(now, key);
                self.report_state(key);
                if let Some(transport) = self.commons.registry.transports.get(key) {
                    let life = &self.commons.registry.wiring[key.slot()].life;
                    self.commons.ledger.events.extend(life.connected(now.mono, transport, suite));
                }
                self.commons.arm(key, now.mono + Shard::FIRST_REPORT);
                self.reopen_consumers(now, key);
                self.take_early(now, key);
            }
            Some(LinkChange::Failed(why)) => {
                self.commons.ledger.counters.handshakes_failed += 1;
                if let Some(transport) = self.commons.registry.transports.get(key).map(|transport| transport.id) {
                    self.commons.ledger.events.push_back(Event::HandshakeFailed { transport, why });
                }
                self.report_state(key);
            }
            Some(LinkChange::ClosedByPeer) => self.close_transport(now, key, Some(Closed::TransportClosed)),
            None => {}
        }
    }

    pub(super) fn state_of(transport: &Transport) -> TransportState {
        if transport.link.has_failed() {
            TransportState::Failed
        } else if transport.disconnected_since.is_some() {
            TransportState::Disconnected
        } else if transport.ice.selected().is_none() {
            TransportState::New
        } else if transport.link.is_up() {
            TransportState::Connected
        } else {
            TransportState::Connecting
        }
    }

    /// Consent (RFC 7675 section 5.1) has run out, or a transport has been without it for too long.
    pub(super) fn check_consent(&mut self, now: Now, key: Key<Transport>) {
        let Some(transport) = self.commons.registry.transports.get_mut(key) else { return };
        let expired = |deadline: Option<Instant>| deadline.is_some_and(|at| at <= now.mono);
        if !expired(transport.consent_deadline()) {
            return;
        }
        if transport.disconnected_since.is_some() {
            return self.close_transport(now, key, Some(Closed::TransportClosed));
        }
        transport.disconnected_since = Some(now.mono);
        transport.egress.clear();
        self.commons.ledger.counters.consent_lost += 1;
        self.report_state(key);
        self.reopen_consumers(now, key);
    }
}
