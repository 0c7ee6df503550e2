//! The engine that a thread of handshakes owns: opens sessions, drives the timers of those whose handshake is open, and
//! names those that have something to say. The simulation has another one behind the same traits.

use super::opening::{DtlsSession, Shared};
use super::session::{SecureEngine, SecureSession, SessionTag, Side};
use crate::base::time::{Duration, Instant};
use crate::secure::certificate::Identity;
use crate::secure::srtp::SrtpProfile;
use std::rc::Rc;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DtlsSettings {
    /// How long to wait before a flight is sent again.
    pub flight_interval: Duration,
    /// The SRTP profiles that the client side offers, best first.
    pub offer: &'static [SrtpProfile],
}

impl Default for DtlsSettings {
    fn default() -> DtlsSettings {
        DtlsSettings { flight_interval: Duration::from_millis(400), offer: &SrtpProfile::ALL }
    }
}

/// [`SecureEngine`] on DTLS libraries.
pub struct DtlsEngine {
    shared: Rc<Shared>,
}

impl DtlsEngine {
    /// `origin` is any instant of the system's clock: one of the libraries takes no other kind of time.
    pub fn new(identity: Identity, settings: DtlsSettings, origin: std::time::Instant) -> std::io::Result<DtlsEngine> {
        let shared = Shared::new(&identity, settings.flight_interval, settings.offer, origin)?;
        Ok(DtlsEngine { shared: Rc::new(shared) })
    }

    /// [`SecureEngine::open`], for whoever wants to [`DtlsSession::settle`] what comes of it.
    pub fn open_session(&mut self, now: Instant, side: Side, tag: SessionTag) -> DtlsSession {
        DtlsSession::open(Rc::clone(&self.shared), now, side, tag)
    }

    /// Handshakes for which a library was started so far. Each costs the first one two throw-away certificates that no
    /// configuration avoids (0.2 ms), so none starts before a whole, well-formed ClientHello.
    pub fn started(&self) -> u64 {
        self.shared.started()
    }

    /// Tasks of the first library that are alive: three per handshake, none after it.
    pub fn tasks(&self) -> usize {
        self.shared.tasks()
    }
}

impl SecureEngine for DtlsEngine {
    fn open(&mut self, now: Instant, side: Side, tag: SessionTag) -> Box<dyn SecureSession> {
        Box::new(self.open_session(now, side, tag))
    }

    fn pump(&mut self, now: Instant) {
        self.shared.pump(now);
    }

    fn ready(&mut self) -> Option<SessionTag> {
        self.shared.next_ready()
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.shared.next_deadline()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::HANDSHAKE_MAX;

    #[test]
    fn a_server_session_starts_no_library_and_wakes_nobody_before_its_time() {
        let identity = Identity::generate().unwrap();
        let mut engine =
            DtlsEngine::new(identity, DtlsSettings::default(), crate::net::clock::Clock::process().start()).unwrap();
        assert_eq!(engine.next_deadline(), None);
        let now = Instant::from_nanos(9);
        let server = engine.open(now, Side::Server, SessionTag(3));
        assert_eq!((engine.started(), engine.next_deadline()), (0, Some(now + HANDSHAKE_MAX)));
        engine.pump(now);
        assert_eq!((engine.ready(), engine.ready()), (Some(SessionTag(3)), None));
        drop(server);
        assert_eq!(engine.next_deadline(), None);
        let client = engine.open(now, Side::Client, SessionTag(4));
        assert!(engine.started() == 1 && engine.tasks() > 0);
        drop(client);
        assert_eq!(engine.tasks(), 0);
    }
}
