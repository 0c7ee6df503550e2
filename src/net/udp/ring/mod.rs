//! The ring backend: io_uring with multishot receives into lent buffers, linked sends with UDP GSO, and the doorbell in
//! the same ring. Needs Linux 6.0 and a machine that allows io_uring. Made and used on one thread, the shard's.

mod buffers;
mod inbox;
mod sender;
mod setup;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;

use socket2::Socket;

use crate::base::buffer::{Batch, LocalIndex, Path, Run, Transmit};
use crate::base::limits::LOCAL_ADDRESSES_MAX;
use crate::base::time::{Duration, Instant};
use crate::net::clock::Clock;
use crate::net::doorbell::Doorbell;
use crate::net::udp::backend::{Backend, UdpCounters};
use crate::net::udp::poll::wait_readable;
use crate::net::udp::socket::{self, Sharing, bind, local_address};
use crate::net::udp::tally::UdpTally;
use crate::net::udp::transmitter::Transmitter;
use inbox::Inbox;
use sender::Sender;
pub use setup::{allowed, cure};

/// How long the probe waits for a datagram that it sent to itself over loopback.
const PROBE_WAIT: Duration = Duration::from_secs(1);

/// Whether this machine has all that the ring needs: a datagram goes through one, from us to us.
pub fn probe() -> io::Result<()> {
    let socket = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Sharing::Alone)?;
    let path = Path::udp(LocalIndex(0), local_address(&socket)?);
    let mut ring = RingBackend::new(vec![socket], Doorbell::new()?, 1).map_err(|(error, _)| error)?;
    ring.transmit(b"?", &[Run { path, start: 0, len: 1, segment: 1, oldest: None }]);
    ring.wait(Some(ring.clock.mono() + PROBE_WAIT));
    match ring.receive(&mut Batch::new(1)) {
        1 => Ok(()),
        // The request was refused: a kernel that does not know it.
        _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

pub struct RingBackend {
    inbox: Inbox,
    sender: Sender,
    transmitter: Transmitter,
    clock: Clock,
    tally: UdpTally,
    /// In the order of [`crate::base::buffer::LocalIndex`].
    sockets: Vec<Socket>,
    /// The ring polls it, and a pause waits for it.
    bell: Doorbell,
}

impl RingBackend {
    /// `run_datagrams_max` as [`crate::net::udp::socket::run_datagrams_max`] found it; 1 sends everything one by one. On failure
    /// the sockets come back as they were.
    pub fn new(
        sockets: Vec<Socket>,
        bell: Doorbell,
        run_datagrams_max: usize,
    ) -> Result<RingBackend, (io::Error, Vec<Socket>)> {
        assert!(sockets.len() <= LOCAL_ADDRESSES_MAX, "checked at start");
        let made = Inbox::new(&sockets, bell.as_raw_fd()).and_then(|inbox| Ok((inbox, Sender::new(&sockets)?)));
        let (inbox, sender) = match made {
            Ok(made) => made,
            Err(error) => return Err((error, sockets)),
        };
        socket::join_datagrams(&sockets);
        let transmitter = Transmitter::new(run_datagrams_max);
        Ok(RingBackend {
            inbox,
            sender,
            transmitter,
            clock: Clock::process(),
            tally: UdpTally::default(),
            sockets,
            bell,
        })
    }
}

impl Transmit for RingBackend {
    fn transmit(&mut self, buffer: &[u8], runs: &[Run]) {
        self.transmitter.transmit(&mut self.sender, &self.sockets, buffer, runs, &mut self.tally);
    }
}

impl Backend for RingBackend {
    fn receive(&mut self, batch: &mut Batch) -> usize {
        self.inbox.receive(batch, &mut self.tally)
    }

    fn wait(&mut self, deadline: Option<Instant>) {
        if self.inbox.has_news() {
            return;
        }
        let timeout = deadline.map(|deadline| deadline.since(self.clock.mono()));
        if timeout == Some(Duration::ZERO) {
            return self.inbox.look(&mut self.tally);
        }
        self.tally.counters.waits += 1;
        self.inbox.enter(true, timeout, &mut self.tally);
    }

    fn pause(&mut self, until: Instant) {
        let timeout = until.since(self.clock.mono());
        if timeout > Duration::ZERO {
            self.tally.counters.pauses += 1;
            wait_readable(self.bell.as_raw_fd(), timeout);
            // The ring is told of each ring anew, but a bell that stays readable would end every later pause at once.
            self.bell.clear();
        }
        self.inbox.look(&mut self.tally);
    }

    fn counters(&self) -> &UdpCounters {
        &self.tally.counters
    }

    fn drops(&self) -> Vec<(&'static str, u64)> {
        self.tally.drops()
    }
}
