//! The plain backend: recvmmsg, sendmmsg with UDP GSO, epoll. Works wherever UDP does.

use std::io;
use std::os::fd::AsRawFd;

use socket2::Socket;

use crate::base::buffer::{Batch, Run, Transmit};
use crate::base::time::{Duration, Instant};
use crate::net::clock::Clock;
use crate::net::doorbell::Doorbell;
use crate::net::udp::backend::{Backend, UdpCounters};
use crate::net::udp::incoming::Incoming;
use crate::net::udp::mmsg::MmsgSender;
use crate::net::udp::poll::{Poller, wait_readable};
use crate::net::udp::tally::UdpTally;
use crate::net::udp::transmitter::Transmitter;

const BELL: u64 = u64::MAX;
const QUIET: u64 = u64::MAX - 1;

pub struct PlainBackend {
    bell: Doorbell,
    poller: Poller,
    clock: Clock,
    incoming: Incoming,
    sender: MmsgSender,
    transmitter: Transmitter,
    tally: UdpTally,
}

impl PlainBackend {
    /// `quiet` are second sockets for traffic that can wait a little (RTCP), one for each of the first or none.
    /// `run_datagrams_max` as [`crate::net::udp::socket::run_datagrams_max`] found it; 1 sends everything one by one.
    pub fn new(
        sockets: Vec<Socket>,
        quiet: Vec<Socket>,
        bell: Doorbell,
        run_datagrams_max: usize,
    ) -> io::Result<PlainBackend> {
        let poller = Poller::new()?;
        for (index, socket) in sockets.iter().enumerate() {
            poller.add(socket.as_raw_fd(), index as u64)?;
        }
        for socket in &quiet {
            poller.add(socket.as_raw_fd(), QUIET)?;
        }
        poller.add(bell.as_raw_fd(), BELL)?;
        Ok(PlainBackend {
            bell,
            poller,
            clock: Clock::process(),
            incoming: Incoming::new(sockets, quiet),
            sender: MmsgSender::new(),
            transmitter: Transmitter::new(run_datagrams_max),
            tally: UdpTally::default(),
        })
    }
}

impl Transmit for PlainBackend {
    fn transmit(&mut self, buffer: &[u8], runs: &[Run]) {
        self.transmitter.transmit(&mut self.sender, self.incoming.for_sending(), buffer, runs, &mut self.tally);
    }
}

impl Backend for PlainBackend {
    fn receive(&mut self, batch: &mut Batch) -> usize {
        self.incoming.receive(self.clock, batch, &mut self.tally)
    }

    fn wait(&mut self, deadline: Option<Instant>) {
        let poller = &self.poller;
        self.incoming.quiet.choose(self.clock, |quiet, listen| {
            let set = |socket: &Socket| match listen {
                true => poller.add(socket.as_raw_fd(), QUIET),
                false => poller.remove(socket.as_raw_fd()),
            };
            quiet.iter().all(|socket| set(socket).is_ok())
        });
        let deadline = [deadline, self.incoming.quiet.deadline()].into_iter().flatten().min();
        let timeout = match deadline {
            _ if self.incoming.is_waiting() => Some(Duration::ZERO),
            Some(deadline) => Some(deadline.since(self.clock.mono())),
            None => None,
        };
        if timeout != Some(Duration::ZERO) {
            self.tally.counters.waits += 1;
        }
        let (incoming, bell) = (&mut self.incoming, &self.bell);
        self.poller.wait(timeout, |token| match token {
            BELL => bell.clear(),
            // Read whenever the loop turns while they are listened to.
            QUIET => {}
            socket => incoming.is_readable(socket as usize),
        });
    }

    fn pause(&mut self, until: Instant, _: Option<Instant>) {
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
