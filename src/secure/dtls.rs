//! DTLS sessions as sans-IO machines: datagrams and the time go in, datagrams, keys and the end come out. The library
//! behind it is async: it runs on a runtime of the engine's own (timers, no sockets), which is driven until idle once per
//! datagram and once per tick. In front of it stands the gate, which decides what the library sees and when it starts.
//!
//! One engine per shard; `transport` opens a session when a path has passed ICE, compares the certificate in
//! [`Keying`] with the announced fingerprints, and only then uses the keys. The library's retransmission timer reads the
//! real clock: a simulation has another engine behind the same traits. Not to be used inside another tokio runtime.

use super::Dropped;
use super::certificate::Identity;
use super::dtls_gate::Gate;
pub use super::dtls_gate::Side;
use super::dtls_line::{Line, Report, associate};
use super::srtp::{MasterKey, SrtpProfile};
use crate::base::limits::{FLIGHT_DATAGRAMS_MAX, FLIGHT_RESENDS_MAX, HANDSHAKE_MAX};
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
use webrtc_dtls::conn::DTLSConn;
use webrtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile;

/// How often timers are looked at while a handshake is open.
const TICK: Duration = Duration::from_millis(20);
/// Task polls before a drive of the runtime may end early: a whole handshake step takes about 40.
const POLLS_PER_DRIVE: u32 = 1_024;
/// Sent as server_name by the client: the library would send an address, which RFC 6066 section 3 forbids.
const SERVER_NAME: &str = "weirgate";

pub trait SecureEngine {
    /// A session on a path that passed ICE. The client side sends its first flight at once.
    fn open(&mut self, now: Instant, side: Side) -> Box<dyn SecureSession>;
    /// Drives the timers of open handshakes; then every session that is not established wants a `poll`.
    fn pump(&mut self, now: Instant);
    /// When `pump` is due: None while no handshake is open.
    fn next_deadline(&self) -> Option<Instant>;
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

/// [`SecureEngine`] on the `dtls` crate.
pub struct DtlsEngine {
    shared: Rc<Shared>,
}

struct Shared {
    runtime: Runtime,
    identity: Identity,
    settings: DtlsSettings,
    open: RefCell<Vec<Weak<Handshake>>>,
    next_tick: Cell<Instant>,
    started: Cell<u64>,
}

/// What engine and session both know of a handshake; it ends when the session lets go of it.
struct Handshake {
    deadline: Instant,
    /// The library runs, so there are timers to drive.
    running: Cell<bool>,
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

    /// Tasks of the library that are alive: three per session, none after it.
    pub fn tasks(&self) -> usize {
        self.shared.runtime.metrics().num_alive_tasks()
    }
}

impl SecureEngine for DtlsEngine {
    fn open(&mut self, now: Instant, side: Side) -> Box<dyn SecureSession> {
        let shared = self.shared.clone();
        let handshake =
            Rc::new(Handshake { deadline: now + HANDSHAKE_MAX, running: Cell::new(false), expired: Cell::new(false) });
        shared.open.borrow_mut().push(Rc::downgrade(&handshake));
        let mut session = DtlsSession {
            gate: Gate::new(side),
            side,
            line: Arc::default(),
            report: Arc::default(),
            phase: Phase::Waiting,
            handshake: Some(handshake),
            outputs: VecDeque::new(),
            last_flight: Vec::new(),
            answer_due: false,
            resends: 0,
            resent_at: None,
            shared,
        };
        if side == Side::Client {
            session.start(now, self.shared.settings.offer);
            session.drive();
        }
        Box::new(session)
    }

    fn pump(&mut self, now: Instant) {
        self.shared.next_tick.set(now + TICK);
        self.shared.open.borrow_mut().retain(|handshake| match handshake.upgrade() {
            Some(handshake) if now >= handshake.deadline => {
                handshake.expired.set(true);
                false
            }
            Some(_) => true,
            None => false,
        });
        self.shared.drive();
    }

    fn next_deadline(&self) -> Option<Instant> {
        let open = self.shared.open.borrow();
        open.iter()
            .filter_map(Weak::upgrade)
            .map(|handshake| match handshake.running.get() {
                true => self.shared.next_tick.get().min(handshake.deadline),
                false => handshake.deadline,
            })
            .min()
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
    /// Server: no ClientHello yet, and no library.
    Waiting,
    Handshaking(Task),
    Established(Task, Arc<DTLSConn>),
    Closed,
}

/// The library's task of a session; ends with it.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct DtlsSession {
    shared: Rc<Shared>,
    side: Side,
    gate: Gate,
    line: Arc<Line>,
    report: Arc<Report>,
    phase: Phase,
    /// Until established or closed.
    handshake: Option<Rc<Handshake>>,
    outputs: VecDeque<SecureOutput>,
    /// What answered the peer's last flight, verbatim.
    last_flight: Vec<Vec<u8>>,
    /// Something new went to the library: what it sends next is its next flight.
    answer_due: bool,
    resends: u32,
    resent_at: Option<Instant>,
}

impl SecureSession for DtlsSession {
    fn handle_datagram(&mut self, now: Instant, bytes: &[u8]) -> Result<(), Dropped> {
        self.expire(now);
        if let Phase::Closed = self.phase {
            return Err(Dropped::DtlsClosed);
        }
        let outcome = self.gate.handle(bytes);
        match outcome.hello {
            Some(Some(profile)) => self.start(now, &[profile]),
            Some(None) => self.refuse("the client offers no SRTP profile that we have"),
            None => {}
        }
        let mut result = outcome.dropped.map_or(Ok(()), Err);
        if !outcome.deliver.is_empty() {
            self.answer_due = true;
            for datagram in outcome.deliver {
                if !self.line.push(datagram) {
                    result = result.and(Err(Dropped::DtlsQueueFull));
                }
            }
            self.drive();
        }
        if outcome.repeated {
            result = result.and(self.resend(now));
        }
        result
    }

    fn poll(&mut self) -> Option<SecureOutput> {
        if self.handshake.as_ref().is_some_and(|handshake| handshake.expired.get()) {
            self.end(ClosedBy::HandshakeTimeout);
        }
        if self.outputs.is_empty() {
            self.collect();
        }
        self.outputs.pop_front()
    }

    fn close(&mut self) {
        if let Phase::Established(_task, connection) = std::mem::replace(&mut self.phase, Phase::Closed) {
            // An error would say that the peer closed first.
            self.shared.runtime.spawn(async move { connection.close().await.is_ok() });
            self.shared.drive();
            let farewell = self.line.take().into_iter().map(SecureOutput::Transmit);
            self.outputs.extend(farewell);
        }
        self.let_go();
    }
}

impl DtlsSession {
    fn start(&mut self, now: Instant, profiles: &[SrtpProfile]) {
        let config = self.shared.config(self.side, profiles);
        let is_client = self.side == Side::Client;
        let task = associate(self.line.clone(), config, is_client, self.report.clone());
        let task = Task(self.shared.runtime.spawn(task).abort_handle());
        self.shared.started.set(self.shared.started.get() + 1);
        self.phase = Phase::Handshaking(task);
        self.answer_due = true;
        if let Some(handshake) = &self.handshake {
            handshake.running.set(true);
            self.shared.next_tick.set(now + TICK);
        }
    }

    fn drive(&mut self) {
        self.shared.drive();
        self.collect();
    }

    /// Takes what the library has sent and found.
    fn collect(&mut self) {
        let sent = self.line.take();
        if !sent.is_empty() && std::mem::take(&mut self.answer_due) && sent.len() <= FLIGHT_DATAGRAMS_MAX {
            self.last_flight.clone_from(&sent);
        }
        self.outputs.extend(sent.into_iter().map(SecureOutput::Transmit));
        let found = self.report.take();
        if let Some((keying, connection)) = found.established {
            self.phase = match std::mem::replace(&mut self.phase, Phase::Closed) {
                Phase::Handshaking(task) => Phase::Established(task, connection),
                other => other,
            };
            self.gate.established();
            self.handshake = None;
            self.resends = 0;
            self.resent_at = None;
            self.outputs.push_back(SecureOutput::Established(keying));
        }
        if let Some(why) = found.closed {
            self.end(why);
        }
    }

    /// The peer repeats its flight: sends ours again as it was. The library answers some repeats late, and those of a
    /// finished handshake never.
    fn resend(&mut self, now: Instant) -> Result<(), Dropped> {
        let pause = self.shared.settings.flight_interval / 4;
        let too_soon = self.resent_at.is_some_and(|at| now.since(at) < pause);
        if too_soon || self.resends >= FLIGHT_RESENDS_MAX {
            return Err(Dropped::DtlsRepeatLimit);
        }
        self.resends += 1;
        self.resent_at = Some(now);
        self.outputs.extend(self.last_flight.iter().cloned().map(SecureOutput::Transmit));
        Ok(())
    }

    /// Ends a handshake that cannot succeed, with a fatal handshake_failure (RFC 5246 section 7.2.2).
    fn refuse(&mut self, reason: &str) {
        let alert = vec![21, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 40];
        self.outputs.push_back(SecureOutput::Transmit(alert));
        self.end(ClosedBy::HandshakeFailed(reason.to_owned()));
    }

    fn expire(&mut self, now: Instant) {
        if self.handshake.as_ref().is_some_and(|handshake| now >= handshake.deadline) {
            self.end(ClosedBy::HandshakeTimeout);
        }
    }

    fn end(&mut self, why: ClosedBy) {
        self.phase = Phase::Closed;
        self.let_go();
        self.outputs.push_back(SecureOutput::Closed(why));
    }

    /// Drops what the handshake and the library held.
    fn let_go(&mut self) {
        self.handshake = None;
        self.last_flight = Vec::new();
        self.gate.established();
        self.shared.drive();
        self.report.take();
    }
}

impl Drop for DtlsSession {
    fn drop(&mut self) {
        self.phase = Phase::Closed;
        // The task is cancelled when the runtime next runs.
        self.let_go();
    }
}
