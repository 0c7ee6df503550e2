//! A session from its first datagram until its handshake is done: the gate in front, behind it the library that the first
//! ClientHello calls for. What follows is [`Settled`]. Called by `engine`.

use super::dimpl_engine::DimplEngine;
use super::gate::{Gate, Hello};
use super::library::{Handshake, Library, Secured};
use super::record::{ALERT, HANDSHAKE_FAILURE};
use super::session::{ClosedBy, SecureOutput, SecureSession, SessionTag, Side};
use super::settled::Settled;
use super::webrtc_engine::WebrtcEngine;
use crate::base::limits::{FLIGHT_DATAGRAMS_MAX, FLIGHT_RESENDS_MAX, HANDSHAKE_MAX, REFUSALS_MAX};
use crate::base::time::{Duration, Instant};
use crate::secure::certificate::Identity;
use crate::secure::dropped::SecureDrop;
use crate::secure::srtp::SrtpProfile;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

/// How often timers are looked at while a handshake is open.
const TICK: Duration = Duration::from_millis(20);

/// What an engine's sessions have in common.
pub(super) struct Shared {
    /// Takes everything but what it is known not to take.
    webrtc: WebrtcEngine,
    dimpl: DimplEngine,
    offer: &'static [SrtpProfile],
    /// Between two answers to a flight that is repeated.
    resend_pause: Duration,
    /// All last equally long: the oldest is the next to expire.
    open: RefCell<VecDeque<Weak<Clock>>>,
    ready: RefCell<VecDeque<SessionTag>>,
    /// Handshakes in which a library runs, so that there are timers to drive.
    running: Cell<usize>,
    next_tick: Cell<Instant>,
    started: Cell<u64>,
}

/// What engine and session both know of a handshake; it ends when the session lets go of it.
struct Clock {
    tag: SessionTag,
    deadline: Instant,
    expired: Cell<bool>,
    /// The engine's last pump, whose timers the session has not looked at.
    ticked: Cell<Option<Instant>>,
}

impl Shared {
    pub(super) fn new(
        identity: &Identity,
        flight_interval: Duration,
        offer: &'static [SrtpProfile],
        origin: std::time::Instant,
    ) -> std::io::Result<Shared> {
        Ok(Shared {
            webrtc: WebrtcEngine::new(identity, flight_interval)?,
            dimpl: DimplEngine::new(identity, flight_interval, origin)?,
            offer,
            resend_pause: flight_interval / 4,
            open: RefCell::default(),
            ready: RefCell::default(),
            running: Cell::default(),
            next_tick: Cell::default(),
            started: Cell::default(),
        })
    }

    pub(super) fn started(&self) -> u64 {
        self.started.get()
    }

    pub(super) fn tasks(&self) -> usize {
        self.webrtc.tasks()
    }

    pub(super) fn pump(&self, now: Instant) {
        self.next_tick.set(now + TICK);
        let mut ready = self.ready.borrow_mut();
        ready.clear();
        self.open.borrow_mut().retain(|clock| match clock.upgrade() {
            Some(clock) => {
                ready.push_back(clock.tag);
                clock.ticked.set(Some(now));
                clock.expired.set(now >= clock.deadline);
                !clock.expired.get()
            }
            None => false,
        });
        self.webrtc.drive();
    }

    pub(super) fn next_ready(&self) -> Option<SessionTag> {
        self.ready.borrow_mut().pop_front()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let mut open = self.open.borrow_mut();
        while open.front().is_some_and(|clock| clock.strong_count() == 0) {
            open.pop_front();
        }
        let expiry = open.front().and_then(Weak::upgrade).map(|clock| clock.deadline)?;
        Some(if self.running.get() > 0 { expiry.min(self.next_tick.get()) } else { expiry })
    }

    /// The library for whoever sends this hello.
    fn library_for(&self, hello: &Hello) -> &dyn Library {
        if hello.has_session_id { &self.dimpl } else { &self.webrtc }
    }

    fn start(&self, library: &dyn Library, now: Instant, side: Side, offer: &[SrtpProfile]) -> Box<dyn Handshake> {
        self.started.set(self.started.get() + 1);
        self.running.set(self.running.get() + 1);
        self.next_tick.set(now + TICK);
        library.start(now, side, offer)
    }
}

enum Phase {
    Open(Box<Opening>),
    Settled(Box<Settled>),
    Closed,
}

pub struct DtlsSession {
    phase: Phase,
    outputs: VecDeque<SecureOutput>,
}

/// A handshake that is not done.
struct Opening {
    shared: Rc<Shared>,
    clock: Rc<Clock>,
    side: Side,
    gate: Gate,
    /// None: a server that has seen no ClientHello.
    handshake: Option<Box<dyn Handshake>>,
    /// What answered the peer's last flight, verbatim.
    last_flight: Vec<Vec<u8>>,
    /// Something new went to the library: what it sends next is its next flight.
    answer_due: bool,
    resends: u32,
    resent_at: Option<Instant>,
    refusals: u32,
}

impl DtlsSession {
    pub(super) fn open(shared: Rc<Shared>, now: Instant, side: Side, tag: SessionTag) -> DtlsSession {
        let deadline = now + HANDSHAKE_MAX;
        let clock = Rc::new(Clock { tag, deadline, expired: Cell::default(), ticked: Cell::default() });
        shared.open.borrow_mut().push_back(Rc::downgrade(&clock));
        let mut opening = Opening {
            shared,
            clock,
            side,
            gate: Gate::new(side),
            handshake: None,
            last_flight: Vec::new(),
            answer_due: false,
            resends: 0,
            resent_at: None,
            refusals: 0,
        };
        if side == Side::Client {
            opening.connect(now);
        }
        DtlsSession { phase: Phase::Open(Box::new(opening)), outputs: VecDeque::new() }
    }

    /// Once it has yielded [`SecureOutput::Established`]: what is left of it, for any thread.
    pub fn settle(self) -> Option<Box<Settled>> {
        match self.phase {
            Phase::Settled(settled) => Some(settled),
            Phase::Open(_) | Phase::Closed => None,
        }
    }

    /// Takes what the library has sent and found.
    fn collect(&mut self) {
        let Phase::Open(opening) = &mut self.phase else { return };
        let Some(handshake) = &mut opening.handshake else { return };
        let progress = handshake.take();
        let sent = progress.sent;
        if !sent.is_empty() && std::mem::take(&mut opening.answer_due) && sent.len() <= FLIGHT_DATAGRAMS_MAX {
            opening.last_flight.clone_from(&sent);
        }
        let alerted = sent.iter().any(|datagram| datagram.first() == Some(&ALERT));
        self.outputs.extend(sent.into_iter().map(SecureOutput::Transmit));
        match progress.end {
            Some(Ok(Secured { mut keying, records })) => {
                keying.suite = opening.gate.suite();
                let last_flight = std::mem::take(&mut opening.last_flight);
                let settled = Settled::new(opening.side, records, last_flight, opening.shared.resend_pause);
                self.phase = Phase::Settled(Box::new(settled));
                self.outputs.push_back(SecureOutput::Established(keying));
            }
            Some(Err(why)) if alerted => self.end(ClosedBy::HandshakeFailed(why)),
            Some(Err(why)) => self.refuse(ClosedBy::HandshakeFailed(why)),
            None => {}
        }
    }

    /// Ends it, and tells the peer, who may well have said something in vain.
    fn refuse(&mut self, why: ClosedBy) {
        self.outputs.push_back(SecureOutput::Transmit(HANDSHAKE_FAILURE.to_vec()));
        self.end(why);
    }

    fn end(&mut self, why: ClosedBy) {
        self.phase = Phase::Closed;
        self.outputs.push_back(SecureOutput::Closed(why));
    }
}

impl SecureSession for DtlsSession {
    fn handle_datagram(&mut self, now: Instant, bytes: &[u8]) -> Result<(), SecureDrop> {
        let opening = match &mut self.phase {
            Phase::Open(opening) => opening,
            Phase::Settled(settled) => return settled.handle_datagram(now, bytes),
            Phase::Closed => return Err(SecureDrop::DtlsClosed),
        };
        if now >= opening.clock.deadline {
            self.refuse(ClosedBy::HandshakeTimeout);
            return Err(SecureDrop::DtlsClosed);
        }
        let outcome = opening.gate.handle(bytes);
        let mut result = outcome.dropped.map_or(Ok(()), Err);
        if let Some(hello) = outcome.hello
            && !opening.accept(now, &hello)
        {
            let reason = "the client offers no SRTP profile that we have";
            self.refuse(ClosedBy::HandshakeFailed(reason.to_owned()));
            return result;
        }
        // Only as long as no hello was right: what comes later may be anybody's, and must not end the peer's handshake.
        if outcome.unfit_hello && opening.handshake.is_none() && opening.refusals < REFUSALS_MAX {
            opening.refusals += 1;
            self.outputs.push_back(SecureOutput::Transmit(HANDSHAKE_FAILURE.to_vec()));
        }
        result = result.and(opening.deliver(now, outcome.deliver));
        if outcome.repeated {
            result = result.and(opening.resend(now, &mut self.outputs));
        }
        self.collect();
        result
    }

    fn poll(&mut self) -> Option<SecureOutput> {
        if let Phase::Open(opening) = &mut self.phase {
            if opening.clock.expired.get() {
                self.refuse(ClosedBy::HandshakeTimeout);
            } else if self.outputs.is_empty() {
                opening.tick();
                self.collect();
            }
        }
        let own = self.outputs.pop_front();
        match &mut self.phase {
            Phase::Settled(settled) if own.is_none() => settled.poll(),
            _ => own,
        }
    }

    fn close(&mut self) {
        match &mut self.phase {
            Phase::Settled(settled) => settled.close(),
            Phase::Open(_) | Phase::Closed => self.phase = Phase::Closed,
        }
    }

    fn send(&mut self, data: &[u8]) -> bool {
        match &mut self.phase {
            Phase::Settled(settled) => settled.send(data),
            Phase::Open(_) | Phase::Closed => false,
        }
    }

    fn accept_application(&mut self) {
        if let Phase::Settled(settled) = &mut self.phase {
            settled.accept_application();
        }
    }
}

impl Opening {
    /// As client: the first flight.
    fn connect(&mut self, now: Instant) {
        let mut handshake = self.shared.start(&self.shared.webrtc, now, self.side, self.shared.offer);
        handshake.drive(now);
        self.handshake = Some(handshake);
        self.answer_due = true;
    }

    /// As server: starts the library that takes such a hello. False: nothing can come of it.
    fn accept(&mut self, now: Instant, hello: &Hello) -> bool {
        let Some(profile) = hello.profile else { return false };
        let library = self.shared.library_for(hello);
        self.handshake = Some(self.shared.start(library, now, self.side, &[profile]));
        true
    }

    fn deliver(&mut self, now: Instant, datagrams: Vec<Vec<u8>>) -> Result<(), SecureDrop> {
        let Some(handshake) = self.handshake.as_mut().filter(|_| !datagrams.is_empty()) else { return Ok(()) };
        self.answer_due = true;
        let mut result = Ok(());
        for datagram in datagrams {
            if !handshake.push(datagram) {
                result = result.and(Err(SecureDrop::DtlsQueueFull));
            }
        }
        handshake.drive(now);
        result
    }

    /// The library's timers, once for each pump of the engine.
    fn tick(&mut self) {
        if let (Some(now), Some(handshake)) = (self.clock.ticked.take(), &mut self.handshake) {
            handshake.tick(now);
        }
    }

    /// The peer repeats its flight: sends ours again as it was. The library answers some repeats late.
    fn resend(&mut self, now: Instant, outputs: &mut VecDeque<SecureOutput>) -> Result<(), SecureDrop> {
        let too_soon = self.resent_at.is_some_and(|at| now.since(at) < self.shared.resend_pause);
        if too_soon || self.resends >= FLIGHT_RESENDS_MAX {
            return Err(SecureDrop::DtlsRepeatLimit);
        }
        self.resends += 1;
        self.resent_at = Some(now);
        outputs.extend(self.last_flight.iter().cloned().map(SecureOutput::Transmit));
        Ok(())
    }
}

impl Drop for Opening {
    /// The library's handshake goes with it, however that ended.
    fn drop(&mut self) {
        if self.handshake.is_some() {
            self.shared.running.set(self.shared.running.get() - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::tests::{client_hello, hello_with_id};
    use super::super::record::{HANDSHAKE, RECORD_HEADER_LEN};
    use super::*;

    fn shared() -> Rc<Shared> {
        let (identity, origin) = (Identity::generate().unwrap(), crate::net::clock::Clock::process().start());
        Rc::new(Shared::new(&identity, Duration::from_millis(30), &SrtpProfile::ALL, origin).unwrap())
    }

    /// The ClientHello `body` as message `sequence`.
    fn datagram(sequence: u8, body: &[u8]) -> Vec<u8> {
        let [high, low] = (body.len() as u16).to_be_bytes();
        let message = [&[1, 0, high, low, 0, sequence, 0, 0, 0, 0, high, low][..], body].concat();
        let header = [HANDSHAKE, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, sequence];
        [&header[..], &(message.len() as u16).to_be_bytes(), &message].concat()
    }

    fn server(shared: &Rc<Shared>) -> DtlsSession {
        DtlsSession::open(Rc::clone(shared), Instant::ZERO, Side::Server, SessionTag(1))
    }

    fn sent(session: &mut DtlsSession) -> Vec<u8> {
        match session.poll() {
            Some(SecureOutput::Transmit(datagram)) => datagram,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_hello_says_which_library() {
        let shared = shared();
        let mut sessions = [server(&shared), server(&shared)];
        let hellos = [hello_with_id(&[9; 32], &[], true), client_hello(&[], 0)];
        for (session, (hello, tasks)) in sessions.iter_mut().zip(hellos.iter().zip([false, true])) {
            assert_eq!(session.handle_datagram(Instant::ZERO, &datagram(0, hello)), Ok(()));
            assert_eq!(sent(session)[RECORD_HEADER_LEN], 3, "a HelloVerifyRequest");
            assert_eq!(shared.tasks() > 0, tasks, "only the first library has tasks");
        }
        assert_eq!((shared.started(), shared.running.get()), (2, 2));
        drop(sessions);
        assert_eq!((shared.tasks(), shared.running.get()), (0, 0));
    }

    #[test]
    fn what_a_library_refuses_is_told_before_the_end() {
        let shared = shared();
        let mut session = server(&shared);
        session.handle_datagram(Instant::ZERO, &datagram(0, &hello_with_id(&[9], &[], false))).unwrap();
        let cookie = sent(&mut session)[RECORD_HEADER_LEN + 12 + 3..].to_vec();
        session.handle_datagram(Instant::ZERO, &datagram(1, &hello_with_id(&[9], &cookie, false))).unwrap();
        assert_eq!(sent(&mut session), HANDSHAKE_FAILURE);
        assert!(matches!(session.poll(), Some(SecureOutput::Closed(ClosedBy::HandshakeFailed(_)))));
        assert!(session.poll().is_none() && session.settle().is_none());
        assert_eq!(shared.running.get(), 0);
    }
}
