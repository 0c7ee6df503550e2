//! One transport on a UDP socket of its own: a thread that owns the socket, the DTLS engine (which cannot be shared)
//! and the fake browser, and moves datagrams and time between them.
#![expect(clippy::disallowed_methods, reason = "the client's edge: here its clock is read")]

use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};
use std::sync::OnceLock;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::base::buffer::DATAGRAM_MAX;
use crate::base::limits::REMOTE_ADDRESSES_PER_TRANSPORT_MAX;
use crate::base::time::{Instant, Now, NtpTime};
use crate::client::witness::OtherSrtp;
use crate::secure::certificate::{Fingerprint, Identity, matches};
use crate::secure::dtls::{DtlsEngine, DtlsSettings};
use crate::secure::srtp::SrtpProfile;
use crate::sim::browser::{Browser, FeedbackStats};
use crate::sim::endpoint::{DtlsRole, EndpointStats};
use crate::sim::ice_client::RemoteIce;
use crate::sim::sink::{SinkConfig, SinkStats};
use crate::sim::source::{SourceConfig, SourceStats};
use crate::wire::{Kind, classify};

/// The longest sleep of the thread between two checks for commands.
const SLEEP_MAX: Duration = Duration::from_millis(5);
const SLEEP_MIN: Duration = Duration::from_micros(200);

/// The server's side of the transport, from transport-params.
#[derive(Clone, Debug)]
pub struct RemoteTransport {
    pub ice: RemoteIce,
    pub fingerprints: Vec<Fingerprint>,
}

/// The behaviour of our end of a transport.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalSettings {
    pub role: DtlsRole,
    /// The profiles that we offer as DTLS client, best first.
    pub srtp_profiles: &'static [SrtpProfile],
}

impl Default for LocalSettings {
    fn default() -> LocalSettings {
        LocalSettings { role: DtlsRole::Client, srtp_profiles: &SrtpProfile::ALL }
    }
}

#[derive(Clone, Debug, Default)]
pub struct MediaStats {
    pub connected: bool,
    pub srtp_profile: Option<&'static str>,
    /// The server presented the certificate it had announced; None before the handshake is done.
    pub fingerprint_right: Option<bool>,
    pub endpoint: EndpointStats,
    pub feedback: FeedbackStats,
    /// Packets that belong to no sink.
    pub stray: u64,
    /// RTP thrown away on purpose, in both directions.
    pub lost_on_purpose: u64,
    pub sources: Vec<SourceStats>,
    /// With the delays of packets in microseconds, sorted.
    pub sinks: Vec<(SinkStats, Vec<u32>)>,
}

enum MediaCommand {
    AddSource(Box<SourceConfig>),
    AddSink(Box<SinkConfig>),
    PauseSource(usize, bool),
    RestartIce(RemoteIce),
    ChangeAddress,
    Lose(u32),
    Inject(Vec<u8>),
    Seal(Vec<u8>),
    Stats(Sender<MediaStats>),
}

pub struct MediaThread {
    commands: Option<Sender<MediaCommand>>,
    thread: Option<JoinHandle<()>>,
}

/// One clock for all transports of the process, so that stamps of one can be read at another.
fn now() -> Now {
    static START: OnceLock<std::time::Instant> = OnceLock::new();
    let mono = START.get_or_init(std::time::Instant::now).elapsed();
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { mono: Instant::ZERO + mono, wall: NtpTime::from_unix(wall) }
}

impl MediaThread {
    pub fn start(
        remote: RemoteTransport,
        identity: Identity,
        local: LocalSettings,
        seed: u64,
    ) -> std::io::Result<MediaThread> {
        let v6 = remote.ice.candidates.first().is_some_and(SocketAddr::is_ipv6);
        let socket = bind(v6)?;
        let (commands, incoming) = mpsc::channel();
        let run = move || {
            let settings = DtlsSettings { offer: local.srtp_profiles, ..DtlsSettings::default() };
            match DtlsEngine::new(identity, settings, std::time::Instant::now()) {
                Ok(engine) => {
                    let mut browser = Browser::new(now().mono, &remote.ice, local.role, seed);
                    browser.endpoint.watched_by(Box::<OtherSrtp>::default());
                    let fingerprints = remote.fingerprints;
                    let loss = Loss { permille: 0, lost: 0, rng: SmallRng::seed_from_u64(seed) };
                    Transport {
                        socket,
                        engine,
                        browser,
                        incoming,
                        fingerprints,
                        loss,
                        in_use: SLEEP_MAX,
                        left: VecDeque::new(),
                    }
                    .run();
                }
                Err(error) => tracing::error!("no DTLS engine: {error}"),
            };
        };
        let thread = std::thread::Builder::new().name("media".into()).spawn(run)?;
        Ok(MediaThread { commands: Some(commands), thread: Some(thread) })
    }

    /// Sources and sinks are numbered from 0 in the order they are added.
    pub fn add_source(&self, config: SourceConfig) {
        self.command(MediaCommand::AddSource(Box::new(config)));
    }

    pub fn add_sink(&self, config: SinkConfig) {
        self.command(MediaCommand::AddSink(Box::new(config)));
    }

    pub fn pause_source(&self, index: usize, paused: bool) {
        self.command(MediaCommand::PauseSource(index, paused));
    }

    pub fn restart_ice(&self, remote: RemoteIce) {
        self.command(MediaCommand::RestartIce(remote));
    }

    /// Moves to a new socket and tells the server by a check, as after a change of the network; datagrams on their way
    /// to the old one are lost.
    pub fn change_address(&self) {
        self.command(MediaCommand::ChangeAddress);
    }

    /// Loses so many of 1,000 RTP packets from here on, in both directions.
    pub fn lose(&self, permille: u32) {
        self.command(MediaCommand::Lose(permille));
    }

    /// Sends a datagram as it is, from this transport's address, as a hostile client would.
    pub fn inject(&self, bytes: Vec<u8>) {
        self.command(MediaCommand::Inject(bytes));
    }

    /// Seals any RTP packet or RTCP compound and sends it, as a hostile client with keys would.
    pub fn seal(&self, packet: Vec<u8>) {
        self.command(MediaCommand::Seal(packet));
    }

    /// None when the thread has ended.
    pub fn stats(&self) -> Option<MediaStats> {
        let (reply, replied) = mpsc::channel();
        self.command(MediaCommand::Stats(reply));
        replied.recv().ok()
    }

    fn command(&self, command: MediaCommand) {
        if let Some(commands) = &self.commands {
            // It fails only when the thread has ended, and then `stats` says so.
            let _ = commands.send(command);
        }
    }
}

impl Drop for MediaThread {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            // A panic of that thread has been reported there.
            let _ = thread.join();
        }
    }
}

fn bind(v6: bool) -> std::io::Result<UdpSocket> {
    UdpSocket::bind(if v6 { "[::]:0" } else { "0.0.0.0:0" })
}

/// A link that is bad on purpose.
struct Loss {
    permille: u32,
    lost: u64,
    rng: SmallRng,
}

impl Loss {
    fn takes(&mut self, datagram: &[u8]) -> bool {
        let taken = self.permille > 0
            && classify(datagram) == Kind::Rtp
            && self.rng.random_ratio(self.permille.min(1_000), 1_000);
        self.lost += u64::from(taken);
        taken
    }
}

struct Transport {
    socket: UdpSocket,
    engine: DtlsEngine,
    browser: Browser,
    incoming: Receiver<MediaCommand>,
    fingerprints: Vec<Fingerprint>,
    loss: Loss,
    /// Old sockets, as many as the server keeps addresses of one transport: as long as it knows an address, the kernel
    /// must not give it to another transport.
    left: VecDeque<UdpSocket>,
    /// The socket's read timeout as it is set.
    in_use: Duration,
}

impl Transport {
    fn run(mut self) {
        let mut bytes = [0; DATAGRAM_MAX];
        if self.socket.set_read_timeout(Some(self.in_use)).is_err() {
            return;
        }
        while self.obey_all() {
            let now = now();
            if self.browser.deadline(&self.engine).is_some_and(|at| at <= now.mono) {
                self.browser.handle_timeout(now, &mut self.engine);
            }
            self.transmit();
            let deadline = self.browser.deadline(&self.engine).unwrap_or(now.mono + SLEEP_MAX);
            let sleep = deadline.since(now.mono).clamp(SLEEP_MIN, SLEEP_MAX);
            if sleep.abs_diff(self.in_use) > SLEEP_MIN && self.socket.set_read_timeout(Some(sleep)).is_ok() {
                self.in_use = sleep;
            }
            // Timeouts and answers of ICMP are no datagrams.
            let Ok((len, from)) = self.socket.recv_from(&mut bytes) else { continue };
            // Media answers a command that was given before it was requested: the sink must be there first.
            if !self.obey_all() {
                break;
            }
            if self.loss.takes(&bytes[..len]) {
                continue;
            }
            self.browser.handle_datagram(self::now(), &mut self.engine, from, &mut bytes[..len]);
        }
        self.browser.endpoint.close();
        self.transmit();
    }

    fn transmit(&mut self) {
        while let Some(datagram) = self.browser.poll_transmit() {
            if self.loss.takes(&datagram.bytes) {
                continue;
            }
            // A datagram that cannot be sent is a lost one.
            let _ = self.socket.send_to(&datagram.bytes, datagram.to);
        }
    }

    /// Carries out the commands; false when nobody is left to give any.
    fn obey_all(&mut self) -> bool {
        loop {
            match self.incoming.try_recv() {
                Ok(command) => self.obey(command),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn obey(&mut self, command: MediaCommand) {
        match command {
            MediaCommand::AddSource(config) => {
                self.browser.add_source(now().mono, *config);
            }
            MediaCommand::AddSink(config) => {
                self.browser.add_sink(now().mono, *config);
            }
            MediaCommand::PauseSource(index, paused) => {
                if let Some(source) = self.browser.sources.get_mut(index) {
                    source.set_paused(paused);
                }
            }
            MediaCommand::RestartIce(remote) => self.browser.endpoint.restart_ice(now().mono, &remote),
            MediaCommand::ChangeAddress => self.change_address(),
            MediaCommand::Lose(permille) => self.loss.permille = permille,
            MediaCommand::Inject(bytes) => self.browser.endpoint.send_raw(bytes),
            // A packet that cannot be sealed yet is not sent.
            MediaCommand::Seal(packet) => {
                let _ = match classify(&packet) {
                    Kind::Rtcp => self.browser.endpoint.send_rtcp(packet),
                    _ => self.browser.endpoint.send_rtp(&packet),
                };
            }
            MediaCommand::Stats(reply) => drop(reply.send(self.stats())),
        }
    }

    fn change_address(&mut self) {
        let v6 = self.socket.local_addr().is_ok_and(|own| own.is_ipv6());
        match bind(v6).and_then(|socket| socket.set_read_timeout(Some(self.in_use)).map(|()| socket)) {
            Ok(socket) => self.left.push_back(std::mem::replace(&mut self.socket, socket)),
            Err(error) => return tracing::error!("no new socket, the old one stays: {error}"),
        }
        if self.left.len() > REMOTE_ADDRESSES_PER_TRANSPORT_MAX {
            self.left.pop_front();
        }
        self.browser.endpoint.recheck(now().mono);
    }

    fn stats(&self) -> MediaStats {
        let endpoint = &self.browser.endpoint;
        MediaStats {
            connected: endpoint.is_connected(),
            srtp_profile: endpoint.profile().map(|profile| profile.name()),
            fingerprint_right: endpoint.peer_certificate().map(|presented| matches(&self.fingerprints, presented)),
            endpoint: endpoint.stats(),
            feedback: self.browser.feedback(),
            stray: self.browser.stray(),
            lost_on_purpose: self.loss.lost,
            sources: self.browser.sources.iter().map(|source| source.stats()).collect(),
            sinks: self.browser.sinks.iter().map(|sink| (sink.stats(), sorted(sink.delays_us()))).collect(),
        }
    }
}

fn sorted(delays: &[u32]) -> Vec<u32> {
    let mut delays = delays.to_vec();
    delays.sort_unstable();
    delays
}
