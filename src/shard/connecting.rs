//! The two protocols that set a transport up and end it. Only STUN makes or moves a path; DTLS is taken only from a
//! path that an authenticated check has made.

use crate::base::buffer::{Leg, Path};
use crate::base::slab::Key;
use crate::base::time::{Instant, Now};
use crate::secure::SecureDrop;
use crate::secure::dtls::{HANDSHAKE_FAILURE, SecureEngine, SessionTag, is_client_hello};
use crate::shard::closing;
use crate::shard::command::{Closed, Event};
use crate::shard::commons::Commons;
use crate::shard::demux::{Demux, Owner};
use crate::shard::drops::ShardDrop;
use crate::shard::flow::{self, FIRST_REPORT};
use crate::shard::handshake_quota::HandshakeQuota;
use crate::shard::paths::Rival;
use crate::shard::relay::Handover;
use crate::shard::rivals;
use crate::shard::transport_life;
use crate::transport::Transport;
use crate::transport::ice_lite::{IceDrop, IceOutcome};
use crate::transport::link::{Link, LinkChange};
use crate::transport::stun::{NotStun, StunClass, peek};
use crate::transport::web_rtc::WebRtc;

/// The name of a transport's secure session at the engine.
fn tag(key: Key<Transport>) -> SessionTag {
    let (slot, generation) = key.to_parts();
    SessionTag(u64::from(slot) << 32 | u64::from(generation))
}

pub(super) fn transport_of(SessionTag(tag): SessionTag) -> Key<Transport> {
    Key::from_parts((tag >> 32) as u32, tag as u32)
}

/// The result of a step of a transport's set-up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "early media waits for keys"]
pub(super) enum SetupStep {
    Done,
    /// Keys are in use: media that came before them can be opened.
    Keys,
}

pub(super) struct Connecting {
    engine: Box<dyn SecureEngine>,
    quota: HandshakeQuota,
}

impl Connecting {
    pub(super) fn new(engine: Box<dyn SecureEngine>) -> Connecting {
        Connecting { engine, quota: HandshakeQuota::default() }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.engine.next_deadline()
    }

    /// DTLS datagrams that the engine has not worked on.
    pub(super) fn waiting(&self) -> usize {
        self.engine.waiting()
    }

    /// Lets the engine do what is due; false: nothing is. [`Connecting::next_ready`] names the sessions with results.
    pub(super) fn pump(&mut self, commons: &mut Commons, now: Now) -> bool {
        if self.engine.next_deadline().is_none_or(|at| at > now.mono) {
            return false;
        }
        self.engine.pump(now.mono);
        while let Some(why) = self.engine.dropped() {
            commons.ledger.drops.secure(why);
        }
        true
    }

    pub(super) fn next_ready(&mut self) -> Option<SessionTag> {
        self.engine.ready()
    }

    /// For sessions of lanes, which are no transports.
    pub(super) fn engine(&mut self) -> &mut dyn SecureEngine {
        self.engine.as_mut()
    }

    /// Takes STUN, and answers it. The second value is the transport whose check it was.
    pub(super) fn take_stun(
        &mut self,
        commons: &mut Commons,
        demux: &mut Demux,
        now: Now,
        path: Path,
        datagram: &[u8],
    ) -> Option<(Key<Transport>, SetupStep)> {
        let (key, outcome) = match check(commons, demux, now, path, datagram) {
            Ok(checked) => checked?,
            Err(why) => {
                commons.ledger.drops.ice(why);
                return None;
            }
        };
        commons.ledger.counters.stun_answered += 1;
        let web_rtc = commons.registry.web_rtc(key)?;
        web_rtc.proof.heard(path, datagram.len());
        if let Some(removed) = outcome.path_removed {
            web_rtc.proof.forget(removed);
            demux.paths.withdraw(removed, Rival::Here(key));
            demux.path_down(commons, now, removed, key);
        }
        // An error answer makes no path.
        if commons.registry.web_rtc(key).is_some_and(|web_rtc| web_rtc.ice.is_valid_path(path)) {
            demux.claim(commons, now, path, key);
        }
        rivals::look_at_proof(commons, now, key);
        Some((key, self.after_check(commons, demux, now, key, outcome)))
    }

    fn after_check(
        &mut self,
        commons: &mut Commons,
        demux: &mut Demux,
        now: Now,
        key: Key<Transport>,
        outcome: IceOutcome,
    ) -> SetupStep {
        let Some(web_rtc) = commons.registry.web_rtc(key) else { return SetupStep::Done };
        let first = web_rtc.nominated_at.is_none() && web_rtc.ice.selected().is_some();
        if first {
            web_rtc.nominated_at = Some(now.mono);
        }
        web_rtc.path_changes += u64::from(outcome.selected_changed);
        let was_disconnected = web_rtc.disconnected_since.take().is_some();
        let deadline = web_rtc.consent_deadline();
        let revived = was_disconnected || outcome.revived;
        if let (Some(transport), true) = (commons.registry.transports.get(key), first || revived) {
            commons.ledger.events.push_back(transport_life::state(transport));
        }
        if let Some(deadline) = deadline {
            commons.arm(key, deadline);
        }
        let mut step = SetupStep::Done;
        if first || revived {
            step = self.start_as_client(commons, demux, now, key);
        }
        // Its path may also have gone to another transport meanwhile, and this check gave it a new one.
        if revived || outcome.selected_changed {
            commons.arm(key, now.mono + FIRST_REPORT);
            flow::reopen_all(commons, now, key);
        }
        step
    }

    /// Takes DTLS from a path of this transport. Err: it does not belong to this transport's session.
    pub(super) fn take_dtls(
        &mut self,
        commons: &mut Commons,
        demux: &mut Demux,
        now: Now,
        path: Path,
        key: Key<Transport>,
        datagram: &[u8],
    ) -> (SetupStep, Result<(), SecureDrop>) {
        commons.current = Some(key);
        let Some(web_rtc) = commons.registry.web_rtc(key) else {
            commons.ledger.drops.count(ShardDrop::UnknownProtocol);
            return (SetupStep::Done, Ok(()));
        };
        if matches!(web_rtc.link, Link::Idle) && !self.quota.admits(now.mono, path.remote.ip()) {
            commons.ledger.drops.count(ShardDrop::HandshakeQuota);
            return (SetupStep::Done, Ok(()));
        }
        let taken = web_rtc.link.handle_datagram(now.mono, self.engine.as_mut(), tag(key), datagram);
        // The alert is shorter than the hello. A client that asks again after a refusal may not have heard it.
        if web_rtc.link.has_failed() && is_client_hello(datagram) {
            commons.outlet.ready.push(path, &HANDSHAKE_FAILURE);
        }
        commons.registry.wiring[key.slot()].life.handshake_began(now.mono);
        (poll_link(commons, demux, now, key), taken)
    }

    /// Sends the ClientHello where the peer is the DTLS server and it is time.
    pub(super) fn start_as_client(
        &mut self,
        commons: &mut Commons,
        demux: &mut Demux,
        now: Now,
        key: Key<Transport>,
    ) -> SetupStep {
        let Some(web_rtc) = commons.registry.web_rtc(key) else { return SetupStep::Done };
        let Some(nominated_at) = web_rtc.nominated_at else { return SetupStep::Done };
        if web_rtc.link.is_to_connect(now.mono, &web_rtc.announcements, nominated_at) {
            // A handshake costs as much whoever begins it.
            let address = web_rtc.ice.selected().map(|path| path.remote.ip());
            if address.is_none_or(|address| self.quota.admits(now.mono, address)) {
                web_rtc.link.connect(now.mono, self.engine.as_mut(), tag(key));
            } else {
                commons.ledger.drops.count(ShardDrop::HandshakeQuota);
                web_rtc.nominated_at = Some(now.mono);
            }
        }
        poll_link(commons, demux, now, key)
    }
}

/// The transport of a check, and what it changed there; None where it is for another shard or for nobody.
fn check(
    commons: &mut Commons,
    demux: &Demux,
    now: Now,
    path: Path,
    datagram: &[u8],
) -> Result<Option<(Key<Transport>, IceOutcome)>, IceDrop> {
    if demux.plain_rtp_at(path.leg).is_some() {
        commons.ledger.drops.count(ShardDrop::UnknownProtocol);
        return Ok(None);
    }
    let peeked = peek(datagram).map_err(|NotStun| IceDrop::Malformed)?;
    match peeked.class {
        StunClass::BindingRequest => {}
        // Keeps a NAT open and wants no answer (RFC 8445 section 11).
        StunClass::BindingIndication => return Err(IceDrop::Indication),
        StunClass::GoogPing => return Err(IceDrop::GoogPing),
        // A lite agent sends no requests, so nobody has anything to respond to.
        StunClass::BindingResponse | StunClass::Other => return Err(IceDrop::NotARequest),
    }
    let ufrag = peeked.local_ufrag.ok_or(IceDrop::NoUsername)?;
    let key = match demux.owner_of_check(ufrag) {
        Owner::Here(key) => key,
        Owner::At(shard) if matches!(path.leg, Leg::Udp(_)) => {
            commons.ledger.counters.handed_over += 1;
            commons.port.hand_over(shard, Handover::Datagram { path, bytes: datagram });
            return Ok(None);
        }
        // An answer could not leave by a connection that another shard has.
        Owner::At(_) | Owner::Stranger(_) | Owner::Nobody => {
            commons.ledger.drops.count(ShardDrop::UnknownUfrag);
            return Ok(None);
        }
    };
    let Some(web_rtc) = commons.registry.web_rtc(key) else { return Ok(None) };
    commons.current = Some(key);
    let mut reply = Vec::with_capacity(128);
    let outcome = web_rtc.ice.handle(now.mono, path, datagram, &mut reply)?;
    commons.outlet.ready.push(path, &reply);
    Ok(Some((key, outcome)))
}

/// Takes the output of the secure link: datagrams, keys, its end.
pub(super) fn poll_link(commons: &mut Commons, demux: &mut Demux, now: Now, key: Key<Transport>) -> SetupStep {
    let Some(web_rtc) = commons.registry.transports.get_mut(key).and_then(|transport| transport.kind.web_rtc_mut())
    else {
        return SetupStep::Done;
    };
    let exit = web_rtc.exit();
    let (ready, drops) = (&mut commons.outlet.ready, &mut commons.ledger.drops);
    let WebRtc { link, proof, bounded, announcements, .. } = web_rtc;
    let change = link.poll(now.mono, announcements, |datagram| {
        let Some(path) = exit else { return };
        if *bounded && !proof.admits(datagram.len()) {
            return drops.count(ShardDrop::UnprovedPath);
        }
        proof.said(path);
        ready.push(path, datagram);
    });
    let deadline = web_rtc.link_deadline();
    if let Some(deadline) = deadline.filter(|at| *at > now.mono) {
        commons.arm(key, deadline);
    }
    match change {
        Some(LinkChange::Connected(suite)) => {
            connected(commons, demux, now, key, suite);
            return SetupStep::Keys;
        }
        Some(LinkChange::Failed(why)) => {
            commons.ledger.counters.handshakes_failed += 1;
            if let Some(transport) = commons.registry.transports.get(key) {
                commons.ledger.events.push_back(Event::HandshakeFailed { transport: transport.id, why });
                commons.ledger.events.push_back(transport_life::state(transport));
            }
        }
        Some(LinkChange::ClosedByPeer) => {
            closing::close_transport(commons, demux, now, key, Some(Closed::TransportClosed));
        }
        None => {}
    }
    SetupStep::Done
}

fn connected(commons: &mut Commons, demux: &mut Demux, now: Now, key: Key<Transport>, suite: &'static str) {
    commons.ledger.counters.handshakes_done += 1;
    demux.proved_by_handshake(commons, now, key);
    if let Some(transport) = commons.registry.transports.get(key) {
        debug_assert!(transport.kind.srtp().is_some(), "a link that says Connected has keys");
        commons.ledger.events.push_back(transport_life::state(transport));
        let handshake = commons.registry.wiring[key.slot()].life.handshake(now.mono, suite);
        commons.ledger.events.extend(transport_life::connected(transport, Some(handshake)));
    }
    commons.arm(key, now.mono + FIRST_REPORT);
    flow::reopen_all(commons, now, key);
}

/// Disconnects a transport whose consent (RFC 7675 section 5.1) has run out, and closes one that has been without it
/// for too long.
pub(super) fn check_consent(commons: &mut Commons, demux: &mut Demux, now: Now, key: Key<Transport>) {
    let Some(transport) = commons.registry.transports.get_mut(key) else { return };
    let Some(web_rtc) = transport.kind.web_rtc_mut() else { return };
    if web_rtc.consent_deadline().is_none_or(|at| at > now.mono) {
        return;
    }
    if web_rtc.disconnected_since.is_some() {
        return closing::close_transport(commons, demux, now, key, Some(Closed::TransportClosed));
    }
    web_rtc.disconnected_since = Some(now.mono);
    transport.egress.clear();
    commons.ledger.events.push_back(transport_life::state(transport));
    commons.ledger.counters.consent_lost += 1;
    flow::reopen_all(commons, now, key);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::command::TransportState;
    use crate::shard::fixture::{Fixture, THERE, engine, path};

    fn connecting() -> Connecting {
        Connecting::new(Box::new(engine()))
    }

    fn take(connecting: &mut Connecting, fixture: &mut Fixture, datagram: &[u8]) -> Option<Key<Transport>> {
        let Fixture { commons, demux, now, .. } = fixture;
        connecting.take_stun(commons, demux, *now, path(9), datagram).map(|(key, _)| key)
    }

    #[test]
    fn a_check_makes_a_path_and_consent_ends_it() {
        let (mut fixture, mut connecting) = (Fixture::new(), connecting());
        let key = fixture.transport(1);
        let check = fixture.check(1);
        assert_eq!(take(&mut connecting, &mut fixture, &check), Some(key));
        assert_eq!(fixture.demux.paths.peek(&path(9)), Some(key));
        let states = |fixture: &mut Fixture| -> Vec<TransportState> {
            let state = |event| match event {
                Event::TransportState { state, .. } => Some(state),
                _ => None,
            };
            fixture.events().into_iter().filter_map(state).collect()
        };
        assert_eq!(states(&mut fixture), [TransportState::Connecting]);
        fixture.wait(31_000);
        check_consent(&mut fixture.commons, &mut fixture.demux, fixture.now, key);
        assert_eq!(states(&mut fixture), [TransportState::Disconnected]);
        assert_eq!(fixture.commons.ledger.counters.consent_lost, 1);
        take(&mut connecting, &mut fixture, &check);
        assert_eq!(states(&mut fixture), [TransportState::Connecting], "it is back");
    }

    #[test]
    fn a_check_for_another_shard_is_handed_over_and_one_for_nobody_is_dropped() {
        let (mut fixture, mut connecting) = (Fixture::new(), connecting());
        fixture.transport(1);
        let mut of_another = fixture.check(1);
        let at = of_another.windows(2).position(|two| two == b"aa").unwrap();
        of_another[at..at + 2].copy_from_slice(b"bb");
        assert_eq!(take(&mut connecting, &mut fixture, &of_another), None);
        let said = fixture.said();
        assert!(
            said.len() == 1 && said[0].starts_with(&THERE.0.to_string()) && said[0].contains("Datagram"),
            "{said:?}"
        );
        of_another[at..at + 2].copy_from_slice(b"cc");
        assert_eq!(take(&mut connecting, &mut fixture, &of_another), None);
        assert_eq!(fixture.commons.ledger.drops.of(ShardDrop::UnknownUfrag), 1);
        assert_eq!(take(&mut connecting, &mut fixture, &[0, 1, 2]), None);
    }
}
