//! The plain backend: recvmmsg, sendmmsg with UDP GSO, epoll. Works wherever UDP does.

use std::io;
use std::os::fd::AsRawFd;

use socket2::Socket;

use super::backend::{Backend, Counters};
use super::clock::Clock;
use super::doorbell::Doorbell;
use super::mmsg::{Receiver, Sender};
use super::outbox::Outbox;
use super::poll::{Poller, wait_readable};
use super::tally::Tally;
use super::udp;
use crate::base::buffer::{Batch, LocalIndex, Run, Transmit};
use crate::base::limits::LOCAL_ADDRESSES_MAX;
use crate::base::time::{Duration, Instant};

const BELL: u64 = u64::MAX;

pub struct PlainBackend {
    /// In the order of [`LocalIndex`].
    sockets: Vec<Socket>,
    bell: Doorbell,
    poller: Poller,
    clock: Clock,
    /// Bit i: socket i was readable and has not been seen empty since.
    ready: u64,
    /// The socket that is asked first: moves on each time, so that a flooded one starves none.
    first: usize,
    receiver: Receiver,
    sender: Sender,
    outbox: Outbox,
    tally: Tally,
}

impl PlainBackend {
    /// `run_datagrams_max` as [`super::udp::run_datagrams_max`] found it; 1 sends everything one by one.
    pub fn new(sockets: Vec<Socket>, bell: Doorbell, run_datagrams_max: usize) -> io::Result<PlainBackend> {
        assert!(sockets.len() <= LOCAL_ADDRESSES_MAX, "checked at start");
        let poller = Poller::new()?;
        for (index, socket) in sockets.iter().enumerate() {
            poller.add(socket.as_raw_fd(), index as u64)?;
        }
        udp::join_datagrams(&sockets);
        poller.add(bell.as_raw_fd(), BELL)?;
        Ok(PlainBackend {
            sockets,
            bell,
            poller,
            clock: Clock::process(),
            ready: 0,
            first: 0,
            receiver: Receiver::new(),
            sender: Sender::new(),
            outbox: Outbox::new(run_datagrams_max),
            tally: Tally::default(),
        })
    }
}

impl Transmit for PlainBackend {
    fn transmit(&mut self, slab: &[u8], runs: &[Run]) {
        self.outbox.transmit(&mut self.sender, &self.sockets, slab, runs, &mut self.tally);
    }
}

impl Backend for PlainBackend {
    fn receive(&mut self, batch: &mut Batch) -> usize {
        let before = batch.len();
        self.receiver.deal(batch, &mut self.tally);
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
        batch.len() - before
    }

    fn wait(&mut self, deadline: Option<Instant>) {
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

    fn counters(&self) -> &Counters {
        &self.tally.counters
    }

    fn drops(&self) -> Vec<(&'static str, u64)> {
        self.tally.drops()
    }
}
