//! The plain backend: recvmmsg, sendmmsg with UDP GSO, epoll. Works wherever UDP does.

use std::io;
use std::os::fd::AsRawFd;

use socket2::Socket;

use crate::base::buffer::{Batch, LocalIndex, Run, Transmit};
use crate::base::limits::LOCAL_ADDRESSES_MAX;
use crate::base::time::{Duration, Instant};
use crate::net::clock::Clock;
use crate::net::doorbell::Doorbell;
use crate::net::udp::backend::{Backend, UdpCounters};
use crate::net::udp::mmsg::{MmsgReceiver, MmsgSender};
use crate::net::udp::poll::{Poller, wait_readable};
use crate::net::udp::socket;
use crate::net::udp::tally::UdpTally;
use crate::net::udp::transmitter::Transmitter;

const BELL: u64 = u64::MAX;
const QUIET: u64 = u64::MAX - 1;

/// The longest that a quiet socket is left alone.
const QUIET_MAX: Duration = Duration::from_millis(25);
/// After this long without media, quiet sockets wake the shard.
const CALM: Duration = Duration::from_millis(200);

pub struct PlainBackend {
    /// In the order of [`LocalIndex`].
    sockets: Vec<Socket>,
    bell: Doorbell,
    poller: Poller,
    clock: Clock,
    /// Bit i: socket i was readable and has not been seen empty since.
    ready: u64,
    /// The socket that is read first: moves on each time, so that a flooded one starves none.
    first: usize,
    quiet: Quiet,
    receiver: MmsgReceiver,
    sender: MmsgSender,
    transmitter: Transmitter,
    tally: UdpTally,
}

impl PlainBackend {
    /// `run_datagrams_max` as [`crate::net::udp::socket::run_datagrams_max`] found it; 1 sends everything one by one.
    pub fn new(sockets: Vec<Socket>, bell: Doorbell, run_datagrams_max: usize) -> io::Result<PlainBackend> {
        assert!(sockets.len() <= LOCAL_ADDRESSES_MAX, "checked at start");
        let poller = Poller::new()?;
        for (index, socket) in sockets.iter().enumerate() {
            poller.add(socket.as_raw_fd(), index as u64)?;
        }
        socket::join_datagrams(&sockets);
        poller.add(bell.as_raw_fd(), BELL)?;
        Ok(PlainBackend {
            sockets,
            bell,
            poller,
            clock: Clock::process(),
            ready: 0,
            first: 0,
            quiet: Quiet::default(),
            receiver: MmsgReceiver::new(),
            sender: MmsgSender::new(),
            transmitter: Transmitter::new(run_datagrams_max),
            tally: UdpTally::default(),
        })
    }

    /// With second sockets for traffic that can wait a little (RTCP), one for each of the first or none: see [`Quiet`].
    pub fn with_quiet(mut self, sockets: Vec<Socket>) -> io::Result<PlainBackend> {
        for socket in &sockets {
            self.poller.add(socket.as_raw_fd(), QUIET)?;
        }
        self.quiet = Quiet { sockets, listening: true, ..Quiet::default() };
        Ok(self)
    }

    /// Reads into half of the room at most, or a flood of RTCP would keep media out.
    fn receive_quiet(&mut self, now: Instant, batch: &mut Batch) {
        if batch.room() == 0 {
            return;
        }
        let kept_free = batch.room() / 2;
        for (index, socket) in self.quiet.sockets.iter().enumerate() {
            // Datagrams left by lack of room or a failed call are there the next time.
            while batch.room() > kept_free
                && let Ok(false) =
                    self.receiver.receive(socket.as_raw_fd(), LocalIndex(index as u8), batch, &mut self.tally)
            {
            }
        }
        self.quiet.read_at = now;
    }
}

/// Sockets that the steering program gives the RTCP of this shard. Every receiver sends some ten feedback packets a
/// second, and waking for each costs more than handling it. So while media flows they do not wake the shard: they are
/// read when media has woken it, and [`QUIET_MAX`] after the last time at the latest. Without media they are sockets
/// like the others.
#[derive(Default)]
struct Quiet {
    sockets: Vec<Socket>,
    read_at: Instant,
    /// When the first sockets last had a datagram.
    busy_at: Instant,
    /// Whether they wake the shard.
    listening: bool,
}

impl Quiet {
    fn is_due(&self, now: Instant) -> bool {
        !self.sockets.is_empty() && (self.listening || now.since(self.read_at) >= QUIET_MAX)
    }

    /// The latest end of a wait for their sake.
    fn deadline(&self) -> Option<Instant> {
        (!self.sockets.is_empty() && !self.listening).then(|| self.read_at + QUIET_MAX)
    }

    fn choose(&mut self, now: Instant, poller: &Poller) {
        let listen = now.since(self.busy_at) >= CALM;
        if listen != self.listening {
            // A socket that cannot be changed wakes the shard too often or is read late; nothing is lost.
            let set = |socket: &Socket| match listen {
                true => poller.add(socket.as_raw_fd(), QUIET),
                false => poller.remove(socket.as_raw_fd()),
            };
            self.listening = self.sockets.iter().all(|socket| set(socket).is_ok()) == listen;
        }
    }
}

impl Transmit for PlainBackend {
    fn transmit(&mut self, buffer: &[u8], runs: &[Run]) {
        // A socket in an epoll tells it of each send that is done: 1 % of a busy shard. Quiet ones are in it in calm alone.
        let quiet = self.quiet.sockets.len() == self.sockets.len();
        let sockets = if quiet { &self.quiet.sockets } else { &self.sockets };
        self.transmitter.transmit(&mut self.sender, sockets, buffer, runs, &mut self.tally);
    }
}

impl Backend for PlainBackend {
    fn receive(&mut self, batch: &mut Batch) -> usize {
        let before = batch.len();
        self.receiver.deal(batch, &mut self.tally);
        let now = if self.quiet.sockets.is_empty() { Instant::ZERO } else { self.clock.mono() };
        if self.quiet.is_due(now) {
            // First, or batches full of media would keep it waiting for ever.
            self.receive_quiet(now, batch);
        }
        let quiet = batch.len();
        let sockets = self.sockets.len();
        for turn in 0..sockets {
            let index = (self.first + turn) % sockets;
            while self.ready & 1 << index != 0 && batch.room() > 0 {
                let (fd, local) = (self.sockets[index].as_raw_fd(), LocalIndex(index as u8));
                match self.receiver.receive(fd, local, batch, &mut self.tally) {
                    Ok(exhausted) => {
                        if exhausted {
                            self.ready &= !(1 << index);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => {
                        self.ready &= !(1 << index);
                        if error.kind() != io::ErrorKind::WouldBlock {
                            self.tally.counters.receive_failed += 1;
                        }
                    }
                }
            }
        }
        self.first = if sockets == 0 { 0 } else { (self.first + 1) % sockets };
        if batch.len() > quiet && !self.quiet.sockets.is_empty() {
            self.quiet.busy_at = now;
            if self.quiet.read_at != now {
                self.receive_quiet(now, batch);
            }
        }
        batch.len() - before
    }

    fn wait(&mut self, deadline: Option<Instant>) {
        if !self.quiet.sockets.is_empty() {
            self.quiet.choose(self.clock.mono(), &self.poller);
        }
        let deadline = [deadline, self.quiet.deadline()].into_iter().flatten().min();
        let timeout = match deadline {
            _ if self.ready != 0 || self.receiver.holds() => Some(Duration::ZERO),
            Some(deadline) => Some(deadline.since(self.clock.mono())),
            None => None,
        };
        if timeout != Some(Duration::ZERO) {
            self.tally.counters.waits += 1;
        }
        let (ready, bell) = (&mut self.ready, &self.bell);
        self.poller.wait(timeout, |token| match token {
            BELL => bell.clear(),
            // Read whenever the loop turns while they are listened to.
            QUIET => {}
            socket => *ready |= 1 << socket,
        });
    }

    fn pause(&mut self, until: Instant) {
        let timeout = until.since(self.clock.mono());
        if timeout > Duration::ZERO {
            self.tally.counters.pauses += 1;
            wait_readable(self.bell.as_raw_fd(), timeout);
        }
        // Also clears the bell.
        self.wait(Some(Instant::ZERO));
    }

    fn counters(&self) -> &UdpCounters {
        &self.tally.counters
    }

    fn drops(&self) -> Vec<(&'static str, u64)> {
        self.tally.drops()
    }
}
