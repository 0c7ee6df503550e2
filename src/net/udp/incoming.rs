//! The incoming datagrams of a shard: its sockets, those of them that have something, and recvmmsg. The backend waits,
//! and says which became readable.

use std::io;
use std::os::fd::AsRawFd;

use socket2::Socket;

use crate::base::buffer::{Batch, LocalIndex};
use crate::base::limits::LOCAL_ADDRESSES_MAX;
use crate::base::time::Instant;
use crate::net::clock::Clock;
use crate::net::udp::mmsg::MmsgReceiver;
use crate::net::udp::quiet::Quiet;
use crate::net::udp::socket;
use crate::net::udp::tally::UdpTally;

pub(super) struct Incoming {
    /// In the order of [`LocalIndex`].
    sockets: Vec<Socket>,
    pub quiet: Quiet,
    /// Bit i: socket i was readable and has not been seen empty since.
    ready: u64,
    /// Bit i: the last read of socket i failed.
    failed: u64,
    /// The socket that is read first: moves on each time, so that a flooded one starves none.
    first: usize,
    receiver: MmsgReceiver,
}

impl Incoming {
    pub(super) fn new(sockets: Vec<Socket>, quiet: Vec<Socket>) -> Incoming {
        assert!(sockets.len().max(quiet.len()) <= LOCAL_ADDRESSES_MAX, "checked at start");
        socket::join_datagrams(&sockets);
        Incoming { sockets, quiet: Quiet::new(quiet), ready: 0, failed: 0, first: 0, receiver: MmsgReceiver::new() }
    }

    pub(super) fn for_sending(&self) -> &[Socket] {
        self.quiet.for_sending(&self.sockets)
    }

    /// Whether those are the quiet ones.
    pub(super) fn sends_from_quiet(&self) -> bool {
        std::ptr::eq(self.for_sending(), self.quiet.sockets())
    }

    pub(super) fn is_readable(&mut self, socket: usize) {
        self.ready |= 1 << socket;
    }

    /// Any of them may have something.
    pub(super) fn are_readable(&mut self) {
        (0..self.sockets.len()).for_each(|socket| self.is_readable(socket));
    }

    /// Whether a wait would be pointless.
    pub(super) fn is_waiting(&self) -> bool {
        self.ready != 0 || self.receiver.holds()
    }

    pub(super) fn receive(&mut self, clock: Clock, batch: &mut Batch, tally: &mut UdpTally) -> usize {
        let before = batch.len();
        self.receiver.deal(batch, tally);
        let now = if self.quiet.is_empty() { Instant::ZERO } else { clock.mono() };
        // First, or batches full of media would keep it waiting for ever.
        self.quiet.receive_if_due(now, &mut self.receiver, batch, tally);
        let quiet = batch.len();
        let sockets = self.sockets.len();
        for turn in 0..sockets {
            self.receive_from((self.first + turn) % sockets, batch, tally);
        }
        self.first = if sockets == 0 { 0 } else { (self.first + 1) % sockets };
        if batch.len() > quiet {
            self.quiet.receive_beside_media(now, &mut self.receiver, batch, tally);
        }
        batch.len() - before
    }

    fn receive_from(&mut self, index: usize, batch: &mut Batch, tally: &mut UdpTally) {
        let bit = 1 << index;
        while self.ready & bit != 0 && batch.room() > 0 {
            let (fd, local) = (self.sockets[index].as_raw_fd(), LocalIndex(index as u8));
            match self.receiver.receive(fd, local, batch, tally) {
                Ok(is_empty) => {
                    self.failed &= !bit;
                    self.ready &= !(u64::from(is_empty) << index);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.ready &= !bit,
                // An error of the socket is told once, and datagrams may stand behind it.
                Err(_) => {
                    tally.counters.receive_failed += 1;
                    self.ready &= !(self.failed & bit);
                    self.failed ^= bit;
                }
            }
        }
    }
}
