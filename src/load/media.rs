//! The generator's media thread: all transports on one epoll, their timers in one heap. While transports connect it
//! sleeps in epoll. Once all is set up it reads the sockets at intervals instead, and takes sockets with media out of
//! the epoll, because notifying a receiver of each packet costs the sender, which no receiver behind a network does.
//! Arrival times are the kernel's, so that a late read costs no accuracy.
#![expect(clippy::disallowed_methods, reason = "the generator's edge: packets carry the wall clock's time")]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::base::seq::Seq;
use crate::base::time::{Duration, Instant};
use crate::load::cpu;
use crate::load::progress::Progress;
use crate::load::repair::SentPackets;
use crate::load::sink::SinkSetup;
use crate::load::source::{LoadSource, Rhythm};
use crate::load::tally::{Measured, Tally};
use crate::load::transport::{Due, LoadState, LoadTransport, TransportSetup, TurnTime};
use crate::net::clock::Clock;
use crate::net::udp::poll::Poller;
use crate::net::udp::stamped::{StampedReceiver, UnixNanos};
use crate::secure::certificate::Identity;
use crate::secure::dtls::{DtlsEngine, DtlsSettings, SecureEngine};
use crate::secure::srtp::SrtpProfile;
use crate::sim::source::SourceConfig;

/// The longest sleep while transports connect: commands are checked between.
const SETUP_SLEEP: Duration = Duration::from_millis(1);
/// How long packets of a closed window that are under way are waited for.
const GRACE: Duration = Duration::from_millis(500);
/// Rounds of reading before commands are checked.
const ROUNDS_MAX: usize = 64;
/// The number of sockets read whether or not they are readable; the others stay in the epoll.
const DIRECT_MAX: usize = 1_000;

pub struct SourceSetup {
    pub config: SourceConfig,
    pub rhythm: Rhythm,
    pub transport: usize,
    pub publisher: usize,
}

/// Transports and sources are numbered from 0 in the order of these.
pub enum MediaCommand {
    Open(Box<TransportSetup>),
    Publish(Box<SourceSetup>),
    Receive {
        transport: usize,
        sink: SinkSetup,
        transport_cc: Option<u8>,
    },
    /// Only this many of the publishers send, the first ones.
    Activate(usize),
    Settle,
    Begin,
    End(Sender<Measured>),
}

#[derive(Clone)]
pub struct MediaSettings {
    pub profiles: &'static [SrtpProfile],
    pub identity: Identity,
    pub loss: f64,
    pub gro: bool,
    pub collect_gap: Duration,
    /// The process whose CPU time is read.
    pub server: Option<u32>,
    pub seed: u64,
}

pub struct MediaWorker {
    commands: Option<Sender<MediaCommand>>,
    thread: Option<JoinHandle<()>>,
}

impl MediaWorker {
    pub fn start(settings: MediaSettings, progress: Arc<Progress>) -> io::Result<MediaWorker> {
        let (commands, incoming) = mpsc::channel();
        let poller = Poller::new()?;
        let run = move || {
            let dtls = DtlsSettings { offer: settings.profiles, ..DtlsSettings::default() };
            let engine = match DtlsEngine::new(settings.identity.clone(), dtls, std::time::Instant::now()) {
                Ok(engine) => engine,
                Err(error) => return progress.fail(format!("no DTLS engine: {error}")),
            };
            let state = LoadState {
                sources: Vec::new(),
                engine,
                timers: BinaryHeap::new(),
                tally: Tally::default(),
                progress,
                rng: SmallRng::seed_from_u64(settings.seed),
                loss: settings.loss,
                settled: false,
                handshaking: 0,
                compound: Vec::new(),
            };
            let receiver = StampedReceiver::new(settings.gro);
            let state = Loop {
                state,
                poller,
                receiver,
                transports: Vec::new(),
                direct: Vec::new(),
                incoming,
                clock: Clock::process(),
                next_collect: Instant::ZERO,
                window: None,
                ending: None,
                active: usize::MAX,
                settings,
            };
            state.run();
        };
        let thread = std::thread::Builder::new().name("media".into()).spawn(run)?;
        Ok(MediaWorker { commands: Some(commands), thread: Some(thread) })
    }

    pub fn commands(&self) -> Sender<MediaCommand> {
        self.commands.clone().expect("taken only when dropped")
    }
}

impl Drop for MediaWorker {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            // A panic of that thread has been reported there.
            let _ = thread.join();
        }
    }
}

/// CLOCK_REALTIME, the clock of the kernel's stamps.
fn unix_now() -> UnixNanos {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// An open window: its beginning.
struct Window {
    began: Instant,
    cpu_own: Option<Duration>,
    cpu_server: Option<Duration>,
}

struct Loop {
    state: LoadState,
    poller: Poller,
    receiver: StampedReceiver,
    transports: Vec<LoadTransport>,
    /// Transports that have left the epoll.
    direct: Vec<usize>,
    incoming: Receiver<MediaCommand>,
    clock: Clock,
    next_collect: Instant,
    window: Option<Window>,
    /// A closed window, and the end of the wait for its packets.
    ending: Option<(Instant, Measured, Sender<Measured>)>,
    active: usize,
    settings: MediaSettings,
}

impl Loop {
    fn run(mut self) {
        let mut ready = Vec::new();
        while self.obey_all() {
            self.fire();
            self.publish_progress();
            let now = self.clock.mono();
            let timer = self.state.timers.peek().map(|Reverse((at, _))| *at);
            if !self.state.settled {
                let until = timer.unwrap_or(now + SETUP_SLEEP).since(now).min(SETUP_SLEEP);
                self.poller.wait(Some(until), |token| ready.push(token));
                self.receive_all(&mut ready);
                self.pump();
                continue;
            }
            let next = timer.map_or(self.next_collect, |at| at.min(self.next_collect));
            let sleep = next.since(now);
            if !sleep.is_zero() {
                std::thread::sleep(sleep);
            }
            if self.clock.mono() >= self.next_collect {
                self.next_collect = self.clock.mono() + self.settings.collect_gap;
                self.collect(&mut ready);
            }
            self.finish();
        }
    }

    fn turn(&self) -> TurnTime {
        TurnTime { now: self.clock.now(), unix: unix_now() }
    }

    /// Reads everything that waits, firing timers between.
    fn collect(&mut self, ready: &mut Vec<u64>) {
        for at in 0..self.direct.len() {
            let number = self.direct[at];
            for _ in 0..ROUNDS_MAX {
                if !self.receive(number) {
                    break;
                }
            }
        }
        for _ in 0..ROUNDS_MAX {
            self.poller.wait(Some(Duration::ZERO), |token| ready.push(token));
            if ready.is_empty() {
                return;
            }
            self.receive_all(ready);
        }
    }

    fn receive_all(&mut self, ready: &mut Vec<u64>) {
        for token in ready.drain(..) {
            self.receive(token as usize);
        }
    }

    /// Handles one batch of a transport; returns whether more may wait.
    fn receive(&mut self, number: usize) -> bool {
        let turn = self.turn();
        let transport = &mut self.transports[number];
        let state = &mut self.state;
        let fd = transport.socket.as_raw_fd();
        // An error is ICMP's, or that nothing waits.
        let more = self.receiver.receive(fd, |bytes, at| transport.handle(turn, state, at, bytes));
        transport.arm(state);
        self.fire();
        more.unwrap_or(false)
    }

    /// Fires the timers that are due.
    fn fire(&mut self) {
        loop {
            let now = self.clock.mono();
            let Some(Reverse((at, due))) = self.state.timers.peek().copied().filter(|Reverse((at, _))| *at <= now)
            else {
                return;
            };
            self.state.timers.pop();
            let turn = self.turn();
            let state = &mut self.state;
            match due {
                Due::Frame(source) => {
                    let transport = state.sources[source].transport;
                    self.transports[transport].publish(turn, state, source, unix_now);
                }
                Due::Check(transport) => self.transports[transport].check_due(at, turn, state),
                Due::Nack(transport) => self.transports[transport].ask_again(turn, state),
                Due::Feedback(transport) => self.transports[transport].feed_back(turn, state),
                Due::Report(transport) => self.transports[transport].report(turn, state),
            }
        }
    }

    /// Lets open handshakes repeat lost flights.
    fn pump(&mut self) {
        if self.state.handshaking == 0 {
            return;
        }
        let turn = self.turn();
        if self.state.engine.next_deadline().is_some_and(|at| at <= turn.now.mono) {
            self.state.engine.pump(turn.now.mono);
            for transport in self.transports.iter_mut().filter(|transport| transport.is_handshaking()) {
                transport.drive(turn, &mut self.state);
            }
        }
    }

    fn publish_progress(&self) {
        self.state.progress.sent.store(self.state.tally.sent, Ordering::Relaxed);
        self.state.progress.delivered.store(self.state.tally.delivered, Ordering::Relaxed);
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
            MediaCommand::Open(setup) => {
                let number = self.transports.len();
                if let Err(error) = self.poller.add(setup.socket.as_raw_fd(), number as u64) {
                    self.state.progress.fail(format!("epoll refuses a socket: {error}"));
                }
                let turn = self.turn();
                self.transports.push(LoadTransport::new(turn, number, *setup, &mut self.state));
            }
            MediaCommand::Publish(setup) => self.publish(*setup),
            MediaCommand::Receive { transport, sink, transport_cc } => {
                self.transports[transport].add_sink(sink, transport_cc, &self.state);
            }
            MediaCommand::Activate(publishers) => {
                self.active = publishers;
                for source in &mut self.state.sources {
                    source.set_active(source.publisher < publishers);
                }
            }
            MediaCommand::Settle => self.settle(),
            MediaCommand::Begin => self.begin(),
            MediaCommand::End(reply) => self.end(reply),
        }
    }

    fn settle(&mut self) {
        self.state.settled = true;
        self.next_collect = self.clock.mono();
        let with_media = self.transports.iter().enumerate().filter(|(_, transport)| transport.has_media());
        for (number, transport) in with_media.take(DIRECT_MAX) {
            match self.poller.remove(transport.socket.as_raw_fd()) {
                Ok(()) => self.direct.push(number),
                Err(error) => self.state.progress.fail(format!("epoll keeps a socket: {error}")),
            }
        }
    }

    fn publish(&mut self, setup: SourceSetup) {
        let now = self.clock.mono();
        let number = self.state.sources.len();
        let phase = self.state.rng.random_range(0.0..1.0);
        // libwebrtc starts in the lower half, so that an early loss cannot hide a wrap from SRTP.
        let seq = Seq(self.state.rng.random_range(1_000..32_767));
        let mut source = LoadSource::new(now, setup.config, setup.rhythm, number as u32, phase, seq);
        (source.transport, source.publisher) = (setup.transport, setup.publisher);
        source.active = setup.publisher < self.active;
        if self.state.loss > 0.0 && source.config.rtx.is_some() {
            source.history = Some(SentPackets::new(Seq(self.state.rng.random_range(1_000..32_767))));
        }
        self.state.sources.push(source);
        let transport = &mut self.transports[setup.transport];
        transport.sources.push(number);
        // Otherwise its handshake arms them all.
        if transport.is_connected() {
            self.state.arm(now, Due::Frame(number));
        }
    }

    fn begin(&mut self) {
        let tally = &mut self.state.tally;
        // The totals go on, for a reader that watches them grow; and earlier faults are not forgotten.
        *tally = Tally { sent: tally.sent, delivered: tally.delivered, wrong: tally.wrong, ..Tally::default() };
        self.state.sources.iter_mut().for_each(LoadSource::open_window);
        for sink in self.transports.iter_mut().flat_map(LoadTransport::sinks_mut) {
            (sink.counted, sink.holes) = (0, 0);
        }
        self.window = Some(Window {
            began: self.clock.mono(),
            cpu_own: cpu::used(std::process::id()).ok(),
            cpu_server: self.settings.server.and_then(|pid| cpu::used(pid).ok()),
        });
    }

    fn end(&mut self, reply: Sender<Measured>) {
        let Some(window) = self.window.take() else { return };
        self.state.sources.iter_mut().for_each(LoadSource::close_window);
        let since = |before: Option<Duration>, pid: u32| Some(cpu::used(pid).ok()?.saturating_sub(before?));
        let measured = Measured {
            length: self.clock.mono().since(window.began),
            cpu_own: since(window.cpu_own, std::process::id()),
            cpu_server: self.settings.server.and_then(|pid| since(window.cpu_server, pid)),
            late_frames: self.state.sources.iter().map(|source| source.late_frames).sum(),
            ..Measured::default()
        };
        self.ending = Some((self.clock.mono() + GRACE, measured, reply));
    }

    /// Returns the result when no packet of the window can be on its way.
    fn finish(&mut self) {
        if self.ending.as_ref().is_none_or(|(at, ..)| *at > self.clock.mono()) {
            return;
        }
        let Some((_, mut measured, reply)) = self.ending.take() else { return };
        for sink in self.transports.iter_mut().flat_map(LoadTransport::sinks_mut) {
            let window = &self.state.sources[sink.setup.stream as usize].window;
            let expected = window.end - window.start;
            let lost = expected.saturating_sub(sink.counted);
            measured.expected += expected;
            measured.holes += sink.holes;
            measured.streams += usize::from(expected > 0);
            measured.streams_with_loss += usize::from(lost > 0);
            if expected > 0 {
                measured.worst_loss = measured.worst_loss.max(lost as f64 / expected as f64);
            }
        }
        measured.tally = self.state.tally.clone();
        let seen = || self.transports.iter().map(LoadTransport::seen);
        measured.tally.compared = seen().map(|seen| seen.compared).sum();
        measured.tally.wrong.disputed = seen().map(|seen| seen.disputed).sum();
        // The asker may be gone.
        let _ = reply.send(measured);
    }
}
