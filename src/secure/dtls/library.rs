//! What a DTLS library has to be to stand behind the gate: a handshake that takes what the gate lets through, and a record
//! layer that stays when the handshake is done. Its keys and how they come about are the library's own: whoever keeps a
//! session gets a [`RecordLayer`] and nothing to derive. Traits alone; `webrtc_engine` and `dimpl_engine` implement them.

use super::record::DtlsRecord;
use super::session::{Keying, Side};
use crate::base::time::Instant;
use crate::secure::dropped::SecureDrop;
use crate::secure::srtp::SrtpProfile;

pub(super) trait Library {
    /// A handshake in which we are `side`. The client offers the profiles `offer`, the server answers the hello that comes
    /// next with one of them.
    fn start(&self, now: Instant, side: Side, offer: &[SrtpProfile]) -> Box<dyn Handshake>;
}

/// One handshake. It ends when this is dropped.
pub(super) trait Handshake {
    /// Takes a datagram that the gate has let through. False: there is no room, it is lost as on any link.
    fn push(&mut self, datagram: Vec<u8>) -> bool;
    /// Does all that can be done with what was pushed.
    fn drive(&mut self, now: Instant);
    /// Does what is due at `now`.
    fn tick(&mut self, now: Instant);
    /// What has come of it since the last call.
    fn take(&mut self) -> HandshakeProgress;
}

#[derive(Default)]
pub(super) struct HandshakeProgress {
    pub(super) sent: Vec<Vec<u8>>,
    /// The end, with the reason where it failed.
    pub(super) end: Option<Result<Secured, String>>,
}

/// What a handshake that is done leaves.
pub(super) struct Secured {
    pub(super) keying: Box<Keying>,
    pub(super) records: Box<dyn RecordLayer>,
}

/// Protects the records of one session after its handshake, in both directions. It may live on another thread than the
/// handshake did.
pub(super) trait RecordLayer: Send {
    /// Opens an encrypted record, each once.
    fn open(&mut self, now: Instant, record: &DtlsRecord<'_>) -> Result<Opened, SecureDrop>;
    /// `data` as one application record. None: it does not fit, or the keys have protected all they may.
    fn seal(&mut self, data: &[u8]) -> Option<Vec<u8>>;
    /// A record with close_notify. Nothing is sealed after it.
    fn farewell(&mut self) -> Option<Vec<u8>>;
}

/// What was in a record.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Opened {
    Application(Vec<u8>),
    /// close_notify or a fatal alert: the peer has ended the session.
    Closed,
    /// The peer repeats the end of its last flight: ours has not reached it.
    FlightRepeated,
    /// Nothing that anybody has to act upon.
    Nothing,
}
