//! The states of one client's secure link, as types, from the first ClientHello to keys in use. Media can only be
//! sealed or opened in [`Link::Up`], which cannot be built without keys whose certificate was compared.

use crate::base::limits::ANNOUNCEMENT_WAIT;
use crate::base::time::{Duration, Instant};
use crate::secure::SecureDrop;
use crate::secure::certificate::{Fingerprint, matches};
use crate::secure::dtls::{Keying, SecureEngine, SecureOutput, SecureSession, SessionTag, Side};
use crate::secure::srtp::SrtpContext;

/// The DTLS role that the remote peer wants for itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RemoteDtlsRole {
    /// It connects (or leaves it to us): we are the server.
    ClientOrAuto,
    /// It listens: we send the ClientHello on the nominated path.
    Server,
}

/// The announcement of connect-transport. Without a transport id signalling sends it to every unconnected transport of
/// the peer with `certain: false`; whichever presents the certificate takes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Announcement {
    pub fingerprints: Vec<Fingerprint>,
    pub role: RemoteDtlsRole,
    pub certain: bool,
}

#[derive(Default)]
pub enum Link {
    #[default]
    Idle,
    Handshaking(Box<dyn SecureSession>),
    Unannounced(Box<Unannounced>),
    Up(Box<Up>),
    Failed(String),
}

/// The handshake is done, but this certificate has not been announced yet: no key is used.
pub struct Unannounced {
    session: Box<dyn SecureSession>,
    keying: Box<Keying>,
    since: Instant,
}

#[repr(C)]
pub struct Up {
    pub srtp: SrtpContext,
    pub session: Box<dyn SecureSession>,
}

/// Events on the link, for its transport to act on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LinkChange {
    /// With this DTLS cipher suite.
    Connected(&'static str),
    /// In words, for the log.
    Failed(String),
    ClosedByPeer,
}

/// How long an uncertain announcement of a listening peer waits, after a path was nominated, for a ClientHello that
/// would show that the announcement was meant for another transport.
const LISTENER_GRACE: Duration = Duration::from_millis(300);

impl Link {
    /// Takes a DTLS datagram from a validated path; opens a session as server when there is none.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        engine: &mut dyn SecureEngine,
        tag: SessionTag,
        bytes: &[u8],
    ) -> Result<(), SecureDrop> {
        if matches!(self, Link::Idle) {
            *self = Link::Handshaking(engine.open(now, Side::Server, tag));
        }
        match self {
            Link::Handshaking(session) => session.handle_datagram(now, bytes),
            Link::Unannounced(unannounced) => unannounced.session.handle_datagram(now, bytes),
            Link::Up(up) => up.session.handle_datagram(now, bytes),
            Link::Idle | Link::Failed(_) => Err(SecureDrop::NotReady),
        }
    }

    /// Whether the peer listens and it is for us to [`Link::connect`]; see [`LISTENER_GRACE`] for when.
    pub fn is_to_connect(&self, now: Instant, announcements: &[Announcement], nominated_at: Instant) -> bool {
        let waited = now.since(nominated_at) >= LISTENER_GRACE;
        matches!(self, Link::Idle)
            && announcements.iter().any(|said| said.role == RemoteDtlsRole::Server && (said.certain || waited))
    }

    /// Starts as client.
    pub fn connect(&mut self, now: Instant, engine: &mut dyn SecureEngine, tag: SessionTag) {
        if matches!(self, Link::Idle) {
            *self = Link::Handshaking(engine.open(now, Side::Client, tag));
        }
    }

    /// When [`Link::connect`] or [`Link::poll`] is due.
    pub fn deadline(&self, announcements: &[Announcement], nominated_at: Option<Instant>) -> Option<Instant> {
        match self {
            Link::Idle if announcements.iter().any(|said| said.role == RemoteDtlsRole::Server) => {
                nominated_at.map(|at| at + LISTENER_GRACE)
            }
            Link::Unannounced(unannounced) => Some(unannounced.since + ANNOUNCEMENT_WAIT),
            _ => None,
        }
    }

    /// Moves the session's output to `transmit` and its state forward.
    pub fn poll(
        &mut self,
        now: Instant,
        announcements: &[Announcement],
        mut transmit: impl FnMut(&[u8]),
    ) -> Option<LinkChange> {
        loop {
            let session = match self {
                Link::Handshaking(session) => session,
                Link::Unannounced(unannounced) => &mut unannounced.session,
                Link::Up(up) => &mut up.session,
                Link::Idle | Link::Failed(_) => return None,
            };
            match session.poll() {
                Some(SecureOutput::Transmit(datagram)) => transmit(&datagram),
                Some(SecureOutput::Established(keying)) => {
                    if let Link::Handshaking(session) = std::mem::take(self) {
                        *self = Link::Unannounced(Box::new(Unannounced { session, keying, since: now }));
                    }
                }
                // Never asked for: without data channels nobody takes it.
                Some(SecureOutput::Application(_)) => {}
                Some(SecureOutput::Closed(by)) => {
                    let change = match self {
                        Link::Up(_) => LinkChange::ClosedByPeer,
                        _ => LinkChange::Failed(by.to_string()),
                    };
                    *self = Link::Failed(by.to_string());
                    return Some(change);
                }
                None => break,
            }
        }
        self.compare(now, announcements, transmit)
    }

    /// RFC 8122 section 5 and RFC 8842: the certificate must be one that signalling announced, before any key is used.
    fn compare(
        &mut self,
        now: Instant,
        announcements: &[Announcement],
        mut transmit: impl FnMut(&[u8]),
    ) -> Option<LinkChange> {
        let Link::Unannounced(unannounced) = self else { return None };
        let certificate = &unannounced.keying.peer_certificate;
        let announced = announcements.iter().any(|said| matches(&said.fingerprints, certificate));
        let certain = announcements.iter().any(|said| said.certain);
        let waited = now.since(unannounced.since) >= ANNOUNCEMENT_WAIT;
        if announced {
            let Link::Unannounced(unannounced) = std::mem::take(self) else { return None };
            let Unannounced { session, keying, .. } = *unannounced;
            let suite = keying.suite;
            *self = Link::Up(Box::new(Up {
                session,
                srtp: SrtpContext::new(keying.profile, &keying.local, &keying.remote),
            }));
            Some(LinkChange::Connected(suite))
        } else if certain || waited {
            let Link::Unannounced(unannounced) = std::mem::take(self) else { return None };
            let Unannounced { mut session, .. } = *unannounced;
            session.close();
            // The peer takes itself for connected: its page learns of the end now and not from silence.
            while let Some(SecureOutput::Transmit(farewell)) = session.poll() {
                transmit(&farewell);
            }
            let why = if certain {
                "the certificate is not the one that connect-transport announced"
            } else {
                "no connect-transport announced this certificate"
            };
            *self = Link::Failed(why.to_owned());
            Some(LinkChange::Failed(why.to_owned()))
        } else {
            None
        }
    }

    pub fn is_up(&self) -> bool {
        matches!(self, Link::Up(_))
    }

    pub fn has_failed(&self) -> bool {
        matches!(self, Link::Failed(_))
    }

    /// As RTCDtlsTransportState has it (W3C webrtc). A link that its peer closes goes with its transport.
    pub fn state(&self) -> &'static str {
        match self {
            Link::Idle => "new",
            Link::Handshaking(_) | Link::Unannounced(_) => "connecting",
            Link::Up(_) => "connected",
            Link::Failed(_) => "failed",
        }
    }

    /// Sends close_notify where there is a session; the datagrams come out of the next [`Link::poll`].
    pub fn close(&mut self) {
        match self {
            Link::Handshaking(session) => session.close(),
            Link::Unannounced(unannounced) => unannounced.session.close(),
            Link::Up(up) => up.session.close(),
            Link::Idle | Link::Failed(_) => {}
        }
    }
}
