//! Sockets that the steering program gives the RTCP of this shard. Every receiver sends some ten feedback packets a
//! second, and waking for each costs more than handling it. So while media flows they do not wake the shard: they are
//! read when media has woken it, and [`QUIET_MAX`] after the last time at the latest. Without media they are sockets
//! like the others. The backend knows how to listen to them.

use std::os::fd::AsRawFd;

use socket2::Socket;

use crate::base::buffer::{Batch, LocalIndex};
use crate::base::time::{Duration, Instant};
use crate::net::clock::Clock;
use crate::net::udp::mmsg::MmsgReceiver;
use crate::net::udp::tally::UdpTally;

/// The longest that a quiet socket is left alone.
const QUIET_MAX: Duration = Duration::from_millis(25);
/// After this long without media, quiet sockets wake the shard.
const CALM: Duration = Duration::from_millis(200);

pub(super) struct Quiet {
    sockets: Vec<Socket>,
    read_at: Instant,
    /// When the other sockets last had a datagram.
    busy_at: Instant,
    /// Whether they wake the shard.
    listening: bool,
}

impl Quiet {
    /// One for each other socket, or none. The backend listens to them from now on.
    pub(super) fn new(sockets: Vec<Socket>) -> Quiet {
        Quiet { sockets, read_at: Instant::ZERO, busy_at: Instant::ZERO, listening: true }
    }

    pub(super) fn sockets(&self) -> &[Socket] {
        &self.sockets
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// What to send from. A socket that is waited for tells its waiter of each send that is done: 1 % of a busy shard.
    /// Quiet ones are waited for in calm alone.
    pub(super) fn for_sending<'a>(&'a self, others: &'a [Socket]) -> &'a [Socket] {
        if self.sockets.len() == others.len() { &self.sockets } else { others }
    }

    fn is_due(&self, now: Instant) -> bool {
        !self.sockets.is_empty() && (self.listening || now.since(self.read_at) >= QUIET_MAX)
    }

    /// The latest end of a wait for their sake.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (!self.sockets.is_empty() && !self.listening).then(|| self.read_at + QUIET_MAX)
    }

    /// Before a wait: `listen` begins to listen to them or ends it, and says whether it could. Where it cannot, they
    /// wake the shard too often or are read late; nothing is lost.
    pub(super) fn choose(&mut self, clock: Clock, listen: impl FnOnce(&[Socket], bool) -> bool) {
        if self.sockets.is_empty() {
            return;
        }
        let wanted = clock.mono().since(self.busy_at) >= CALM;
        if wanted != self.listening {
            self.listening = listen(&self.sockets, wanted) == wanted;
        }
    }

    pub(super) fn receive_if_due(
        &mut self,
        now: Instant,
        receiver: &mut MmsgReceiver,
        batch: &mut Batch,
        tally: &mut UdpTally,
    ) {
        if self.is_due(now) {
            self.receive(now, receiver, batch, tally);
        }
    }

    /// Media came in this round.
    pub(super) fn receive_beside_media(
        &mut self,
        now: Instant,
        receiver: &mut MmsgReceiver,
        batch: &mut Batch,
        tally: &mut UdpTally,
    ) {
        if self.sockets.is_empty() {
            return;
        }
        self.busy_at = now;
        if self.read_at != now {
            self.receive(now, receiver, batch, tally);
        }
    }

    /// Reads into half of the room at most, or a flood of RTCP would keep media out.
    fn receive(&mut self, now: Instant, receiver: &mut MmsgReceiver, batch: &mut Batch, tally: &mut UdpTally) {
        if batch.room() == 0 {
            return;
        }
        let kept_free = batch.room() / 2;
        for (index, socket) in self.sockets.iter().enumerate() {
            // Datagrams left by lack of room or a failed call are there the next time.
            while batch.room() > kept_free
                && let Ok(false) = receiver.receive(socket.as_raw_fd(), LocalIndex(index as u8), batch, tally)
            {
            }
        }
        self.read_at = now;
    }
}
