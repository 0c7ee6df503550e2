//! DTLS sessions as sans-IO machines: datagrams and the time go in, datagrams, keys and the end come out. The library
//! behind it is async: it runs on a runtime of the engine's own (timers, no sockets), which is driven until idle once per
//! datagram and once per tick. In front of it stands the gate, which decides what the library sees and when it starts.
//! The library is there for the handshake alone: what follows one is [`Settled`], a few hundred bytes.
//!
//! One engine per thread that does handshakes; `transport` opens a session when a path has passed ICE, compares the
//! certificate in [`Keying`] with the announced fingerprints, and only then uses the keys. The library's retransmission
//! timer reads the real clock: a simulation has another engine behind the same traits. Not to be used inside another tokio
//! runtime.

pub mod gate;
mod line;
mod message;
mod reassembly;
mod settled;

pub use self::gate::Side;
pub use self::settled::Settled;

use self::gate::Gate;
use self::line::{Line, Report, associate};
use super::Dropped;
use super::certificate::Identity;
use super::srtp::{MasterKey, SrtpProfile};
use crate::base::limits::{FLIGHT_DATAGRAMS_MAX, FLIGHT_RESENDS_MAX, HANDSHAKE_MAX, REFUSALS_MAX};
use crate::base::time::{Duration, Instant};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use tokio::runtime::Runtime;
use tokio::task::AbortHandle;
use webrtc_dtls::cipher_suite::CipherSuiteId;
use webrtc_dtls::config::{ClientAuthType, Config, ExtendedMasterSecretType};
use webrtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile;

/// How often timers are looked at while a handshake is open.
const TICK: Duration = Duration::from_millis(20);
/// Task polls before a drive of the runtime may end early: a whole handshake step takes about 40.
const POLLS_PER_DRIVE: u32 = 1_024;
/// Sent as server_name by the client: the library would send an address, which RFC 6066 section 3 forbids.
const SERVER_NAME: &str = "weirgate";

/// A fatal handshake_failure in plaintext (RFC 5246 section 7.2.2): what is said to whoever is refused.
pub const HANDSHAKE_FAILURE: [u8; 15] = [21, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 40];

/// By which the owner of a session knows it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct SessionTag(pub u64);

pub trait SecureEngine {
    /// A session on a path that passed ICE. The client side sends its first flight at once.
    fn open(&mut self, now: Instant, side: Side, tag: SessionTag) -> Box<dyn SecureSession>;
    /// Drives the timers of open handshakes; then the sessions that [`SecureEngine::ready`] names want a `poll`.
    fn pump(&mut self, now: Instant);
    /// The next of those that may have something to say since the last `pump`. One may be named that has nothing, or that
    /// is gone.
    fn ready(&mut self) -> Option<SessionTag>;
    /// When `pump` is due: None while no handshake is open.
    fn next_deadline(&self) -> Option<Instant>;
    /// What was dropped, by the last `pump`, of that which sessions had taken.
    fn dropped(&mut self) -> Option<Dropped> {
        None
    }
    /// Datagrams that were taken and not yet looked at.
    fn waiting(&self) -> usize {
        0
    }
}

pub trait SecureSession {
    /// Takes a datagram of the DTLS range (RFC 7983). An error names the first thing in it that was dropped; what was
    /// good has been taken all the same, so poll in either case.
    fn handle_datagram(&mut self, now: Instant, bytes: &[u8]) -> Result<(), Dropped>;
    fn poll(&mut self) -> Option<SecureOutput>;
    /// Sends close_notify if established; poll once more for it.
    fn close(&mut self);
}

#[derive(Debug)]
pub enum SecureOutput {
    Transmit(Vec<u8>),
    Established(Box<Keying>),
    /// Nothing follows.
    Closed(ClosedBy),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClosedBy {
    /// close_notify, or a fatal alert under the session's own keys.
    Peer,
    HandshakeFailed(String),
    /// The handshake took longer than [`HANDSHAKE_MAX`].
    HandshakeTimeout,
}

impl fmt::Display for ClosedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClosedBy::Peer => f.write_str("the peer closed the DTLS session"),
            ClosedBy::HandshakeFailed(reason) => write!(f, "the DTLS handshake failed: {reason}"),
            ClosedBy::HandshakeTimeout => write!(f, "the DTLS handshake took over {} s", HANDSHAKE_MAX.as_secs()),
        }
    }
}

/// What a finished handshake yields. The peer is nobody yet: its certificate is still to be compared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Keying {
    pub profile: SrtpProfile,
    /// DTLS's own cipher suite, as the IANA registry calls it.
    pub suite: &'static str,
    pub local: MasterKey,
    pub remote: MasterKey,
    /// DER.
    pub peer_certificate: Vec<u8>,
}

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

impl DtlsSettings {
    /// Between two answers to a flight that is repeated.
    fn resend_pause(&self) -> Duration {
        self.flight_interval / 4
    }
}

/// [`SecureEngine`] on the `dtls` crate.
pub struct DtlsEngine {
    shared: Rc<Shared>,
}

struct Shared {
    runtime: Runtime,
    identity: Identity,
    settings: DtlsSettings,
    /// All last equally long: the oldest is the next to expire.
    open: RefCell<VecDeque<Weak<Handshake>>>,
    ready: RefCell<VecDeque<SessionTag>>,
    /// Handshakes in which the library runs, so that there are timers to drive.
    running: Cell<usize>,
    next_tick: Cell<Instant>,
    started: Cell<u64>,
}

/// What engine and session both know of a handshake; it ends when the session lets go of it.
struct Handshake {
    tag: SessionTag,
    deadline: Instant,
    expired: Cell<bool>,
}

impl DtlsEngine {
    pub fn new(identity: Identity, settings: DtlsSettings) -> std::io::Result<DtlsEngine> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().event_interval(POLLS_PER_DRIVE).build()?;
        let shared = Shared {
            runtime,
            identity,
            settings,
            open: RefCell::default(),
            ready: RefCell::default(),
            running: Cell::default(),
            next_tick: Cell::default(),
            started: Cell::default(),
        };
        Ok(DtlsEngine { shared: Rc::new(shared) })
    }

    /// Handshakes for which the library was started so far. Each costs it two throw-away certificates that no
    /// configuration avoids (0.2 ms), so none starts before a whole, well-formed ClientHello.
    pub fn started(&self) -> u64 {
        self.shared.started.get()
    }

    /// Tasks of the library that are alive: three per handshake, none after it.
    pub fn tasks(&self) -> usize {
        self.shared.runtime.metrics().num_alive_tasks()
    }
}

impl DtlsEngine {
    /// [`SecureEngine::open`], for whoever wants to [`DtlsSession::settle`] what comes of it.
    pub fn open_session(&mut self, now: Instant, side: Side, tag: SessionTag) -> DtlsSession {
        let shared = self.shared.clone();
        let handshake = Rc::new(Handshake { tag, deadline: now + HANDSHAKE_MAX, expired: Cell::new(false) });
        shared.open.borrow_mut().push_back(Rc::downgrade(&handshake));
        let mut opening = Opening {
            shared,
            handshake,
            side,
            gate: Gate::new(side),
            line: Arc::default(),
            report: Arc::default(),
            task: None,
            last_flight: Vec::new(),
            answer_due: false,
            resends: 0,
            resent_at: None,
            refusals: 0,
        };
        if side == Side::Client {
            opening.start(now, self.shared.settings.offer);
            self.shared.drive();
        }
        DtlsSession { phase: Phase::Open(Box::new(opening)), outputs: VecDeque::new() }
    }
}

impl SecureEngine for DtlsEngine {
    fn open(&mut self, now: Instant, side: Side, tag: SessionTag) -> Box<dyn SecureSession> {
        Box::new(self.open_session(now, side, tag))
    }

    fn pump(&mut self, now: Instant) {
        self.shared.next_tick.set(now + TICK);
        let mut ready = self.shared.ready.borrow_mut();
        ready.clear();
        self.shared.open.borrow_mut().retain(|handshake| match handshake.upgrade() {
            Some(handshake) => {
                ready.push_back(handshake.tag);
                handshake.expired.set(now >= handshake.deadline);
                !handshake.expired.get()
            }
            None => false,
        });
        drop(ready);
        self.shared.drive();
    }

    fn ready(&mut self) -> Option<SessionTag> {
        self.shared.ready.borrow_mut().pop_front()
    }

    fn next_deadline(&self) -> Option<Instant> {
        let mut open = self.shared.open.borrow_mut();
        while open.front().is_some_and(|handshake| handshake.strong_count() == 0) {
            open.pop_front();
        }
        let expiry = open.front().and_then(Weak::upgrade).map(|handshake| handshake.deadline)?;
        Some(if self.shared.running.get() > 0 { expiry.min(self.shared.next_tick.get()) } else { expiry })
    }
}

impl Shared {
    /// Runs every task that can run, and due timers; does not wait.
    fn drive(&self) {
        self.runtime.block_on(tokio::task::yield_now());
    }

    fn config(&self, side: Side, profiles: &[SrtpProfile]) -> Config {
        // RFC 8827 section 6.5 makes this suite mandatory. As server no RSA suite: our key is ECDSA, and the library would
        // take one if the client prefers it. Nothing but GCM: the library's CBC panics on forged records.
        let mut cipher_suites = vec![CipherSuiteId::Tls_Ecdhe_Ecdsa_With_Aes_128_Gcm_Sha256];
        if side == Side::Client {
            cipher_suites.push(CipherSuiteId::Tls_Ecdhe_Rsa_With_Aes_128_Gcm_Sha256);
        }
        Config {
            certificates: vec![self.identity.dtls_certificate()],
            cipher_suites,
            srtp_protection_profiles: profiles.iter().map(|&profile| library_profile(profile)).collect(),
            client_auth: ClientAuthType::RequireAnyClientCert,
            extended_master_secret: ExtendedMasterSecretType::Require,
            flight_interval: self.settings.flight_interval,
            // No authority vouches for these certificates: `transport` compares fingerprints.
            insecure_skip_verify: true,
            server_name: SERVER_NAME.to_owned(),
            ..Config::default()
        }
    }
}

fn library_profile(profile: SrtpProfile) -> SrtpProtectionProfile {
    match profile {
        SrtpProfile::AeadAes128Gcm => SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm,
        SrtpProfile::AeadAes256Gcm => SrtpProtectionProfile::Srtp_Aead_Aes_256_Gcm,
        SrtpProfile::Aes128CmSha1_80 => SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80,
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
    handshake: Rc<Handshake>,
    side: Side,
    gate: Gate,
    line: Arc<Line>,
    report: Arc<Report>,
    /// None: a server that has seen no ClientHello, and so no library.
    task: Option<AbortHandle>,
    /// What answered the peer's last flight, verbatim.
    last_flight: Vec<Vec<u8>>,
    /// Something new went to the library: what it sends next is its next flight.
    answer_due: bool,
    resends: u32,
    resent_at: Option<Instant>,
    refusals: u32,
}

impl DtlsSession {
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
        let sent = opening.line.take();
        if !sent.is_empty() && std::mem::take(&mut opening.answer_due) && sent.len() <= FLIGHT_DATAGRAMS_MAX {
            opening.last_flight.clone_from(&sent);
        }
        self.outputs.extend(sent.into_iter().map(SecureOutput::Transmit));
        let found = opening.report.take();
        if let Some((mut keying, alerts)) = found.established {
            keying.suite = opening.gate.suite();
            let last_flight = std::mem::take(&mut opening.last_flight);
            let pause = opening.shared.settings.resend_pause();
            self.phase = Phase::Settled(Box::new(Settled::new(opening.side, alerts, last_flight, pause)));
            self.outputs.push_back(SecureOutput::Established(keying));
        } else if let Some(why) = found.closed {
            self.end(ClosedBy::HandshakeFailed(why));
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
    fn handle_datagram(&mut self, now: Instant, bytes: &[u8]) -> Result<(), Dropped> {
        let opening = match &mut self.phase {
            Phase::Open(opening) => opening,
            Phase::Settled(settled) => return settled.handle_datagram(now, bytes),
            Phase::Closed => return Err(Dropped::DtlsClosed),
        };
        if now >= opening.handshake.deadline {
            self.refuse(ClosedBy::HandshakeTimeout);
            return Err(Dropped::DtlsClosed);
        }
        let outcome = opening.gate.handle(bytes);
        match outcome.hello {
            Some(Some(profile)) => opening.start(now, &[profile]),
            Some(None) => {
                let reason = "the client offers no SRTP profile that we have";
                self.refuse(ClosedBy::HandshakeFailed(reason.to_owned()));
                return outcome.dropped.map_or(Ok(()), Err);
            }
            None => {}
        }
        // Only as long as no hello was right: what comes later may be anybody's, and must not end the peer's handshake.
        if outcome.unfit_hello && opening.task.is_none() && opening.refusals < REFUSALS_MAX {
            opening.refusals += 1;
            self.outputs.push_back(SecureOutput::Transmit(HANDSHAKE_FAILURE.to_vec()));
        }
        let mut result = outcome.dropped.map_or(Ok(()), Err);
        if !outcome.deliver.is_empty() {
            opening.answer_due = true;
            for datagram in outcome.deliver {
                if !opening.line.push(datagram) {
                    result = result.and(Err(Dropped::DtlsQueueFull));
                }
            }
            opening.shared.drive();
        }
        if outcome.repeated {
            result = result.and(opening.resend(now, &mut self.outputs));
        }
        self.collect();
        result
    }

    fn poll(&mut self) -> Option<SecureOutput> {
        if let Phase::Open(opening) = &self.phase {
            if opening.handshake.expired.get() {
                self.refuse(ClosedBy::HandshakeTimeout);
            } else if self.outputs.is_empty() {
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
}

impl Opening {
    fn start(&mut self, now: Instant, profiles: &[SrtpProfile]) {
        let config = self.shared.config(self.side, profiles);
        let task = associate(self.line.clone(), config, self.side == Side::Client, self.report.clone());
        self.task = Some(self.shared.runtime.spawn(task).abort_handle());
        self.answer_due = true;
        self.shared.started.set(self.shared.started.get() + 1);
        self.shared.running.set(self.shared.running.get() + 1);
        self.shared.next_tick.set(now + TICK);
    }

    /// The peer repeats its flight: sends ours again as it was. The library answers some repeats late.
    fn resend(&mut self, now: Instant, outputs: &mut VecDeque<SecureOutput>) -> Result<(), Dropped> {
        let pause = self.shared.settings.resend_pause();
        let too_soon = self.resent_at.is_some_and(|at| now.since(at) < pause);
        if too_soon || self.resends >= FLIGHT_RESENDS_MAX {
            return Err(Dropped::DtlsRepeatLimit);
        }
        self.resends += 1;
        self.resent_at = Some(now);
        outputs.extend(self.last_flight.iter().cloned().map(SecureOutput::Transmit));
        Ok(())
    }
}

impl Drop for Opening {
    /// The library goes with the handshake, however that ended: cancelled tasks end when the runtime runs.
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
            self.shared.running.set(self.shared.running.get() - 1);
            self.shared.drive();
        }
    }
}
