//! The ring backend: one io_uring for a shard, entered once a turn. That call sends what the turn has made and waits for
//! sockets, the doorbell or the deadline. Datagrams are read by recvmmsg, which measures better than the ring's own
//! receive. Needs Linux 6.1 and a machine that allows io_uring. Made and used on one thread, the shard's.

mod carriage;
mod enter;
mod polls;
mod setup;
mod staged;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};

use socket2::Socket;

use crate::base::buffer::{Batch, LocalIndex, Path, Run, Transmit};
use crate::base::limits::LOCAL_ADDRESSES_MAX;
use crate::base::time::{Duration, Instant};
use crate::net::clock::Clock;
use crate::net::doorbell::Doorbell;
use crate::net::udp::backend::{Backend, UdpCounters};
use crate::net::udp::incoming::Incoming;
use crate::net::udp::message::{Headers, MESSAGES_MAX};
use crate::net::udp::poll::wait_readable;
use crate::net::udp::socket::{Sharing, bind, local_address};
use crate::net::udp::tally::UdpTally;
use crate::net::udp::transmitter::Transmitter;
use carriage::Carriage;
use enter::{Ring, Wait};
use polls::{Polls, Readable};
pub use setup::{allowed, cure};
use staged::Staged;

/// Requests in one submission: sends, the polls of all sockets and of the bell, and the end of some.
const ENTRIES: u32 = ((MESSAGES_MAX + 2 * LOCAL_ADDRESSES_MAX + 2) as u32).next_power_of_two();

/// Each of them may complete, and be armed once more before that is read.
const COMPLETIONS: u32 = 2 * ENTRIES;

/// How long a shard sleeps whose ring cannot be entered any more.
const BROKEN_SLEEP: Duration = Duration::from_millis(100);

/// How long the probe waits for a datagram that it sent to itself over loopback.
const PROBE_WAIT: Duration = Duration::from_secs(1);

/// Whether this machine has all that the ring needs: a datagram goes through one, from us to us.
pub fn probe() -> io::Result<()> {
    let socket = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Sharing::Alone)?;
    let path = Path::udp(LocalIndex(0), local_address(&socket)?);
    let mut ring = RingBackend::new(vec![socket], Vec::new(), Doorbell::new()?, 1).map_err(|(error, ..)| error)?;
    ring.transmit(b"?", &[Run { path, start: 0, len: 1, segment: 1, oldest: None }]);
    ring.wait(Some(ring.clock.mono() + PROBE_WAIT));
    match ring.receive(&mut Batch::new(1)) {
        1 => Ok(()),
        // A request was refused: a kernel that does not know it.
        _ => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    }
}

pub struct RingBackend {
    /// Closed before what its requests may point to.
    ring: Ring,
    polls: Polls,
    arrays: Box<Headers>,
    staged: Staged,
    transmitter: Transmitter,
    incoming: Incoming,
    clock: Clock,
    tally: UdpTally,
    /// The ring polls it.
    bell: Doorbell,
    is_told_broken: bool,
}

impl RingBackend {
    /// `quiet` are second sockets for traffic that can wait a little (RTCP), one for each of the first or none.
    /// `run_datagrams_max` as [`crate::net::udp::socket::run_datagrams_max`] found it; 1 sends everything one by one. On
    /// failure the sockets come back as they were.
    pub fn new(
        sockets: Vec<Socket>,
        quiet: Vec<Socket>,
        bell: Doorbell,
        run_datagrams_max: usize,
    ) -> Result<RingBackend, (io::Error, Vec<Socket>, Vec<Socket>)> {
        let files: Vec<RawFd> = sockets.iter().chain(&quiet).map(AsRawFd::as_raw_fd).collect();
        let opened =
            Ring::open(ENTRIES, COMPLETIONS).and_then(|ring| ring.submitter().register_files(&files).map(|()| ring));
        let ring = match opened {
            Ok(ring) => ring,
            Err(error) => return Err((error, sockets, quiet)),
        };
        Ok(RingBackend {
            ring,
            polls: Polls::new(sockets.len(), quiet.len(), bell.as_raw_fd()),
            arrays: Headers::new(),
            staged: Staged::new(),
            transmitter: Transmitter::new(run_datagrams_max),
            incoming: Incoming::new(sockets, quiet),
            clock: Clock::process(),
            tally: UdpTally::default(),
            bell,
            is_told_broken: false,
        })
    }

    /// Enters the ring with all that is queued, staged sends among it, and takes its answers.
    fn enter(&mut self, wait: Wait) {
        self.polls.arm(&mut self.ring);
        if let Err(error) = self.ring.submit_and_wait(wait) {
            self.tally.counters.receive_failed += 1;
            if !self.is_told_broken {
                self.is_told_broken = true;
                tracing::error!(%error, "the kernel takes no requests for a shard's ring any more: restart with --io plain");
            }
            wait_readable(self.bell.as_raw_fd(), BROKEN_SLEEP);
        }
        self.settle();
        while let Some(completion) = self.ring.next() {
            match self.polls.completed(&completion) {
                Some(Readable::Socket(socket)) => self.incoming.is_readable(socket),
                Some(Readable::Bell) => self.bell.clear(),
                None => {}
            }
        }
        if self.ring.has_lost_completions() {
            self.polls.forget();
            self.incoming.are_readable();
        }
    }

    /// Before a sleep: whether quiet sockets end it, and the deadline with theirs.
    fn choose_quiet(&mut self, deadline: Option<Instant>) -> Option<Instant> {
        let RingBackend { ring, polls, incoming, .. } = self;
        incoming.quiet.choose(self.clock, |_, listen| polls.listen(ring, listen));
        [deadline, incoming.quiet.deadline()].into_iter().flatten().min()
    }

    /// Sees to it that the staged sends are out.
    fn settle(&mut self) {
        if self.staged.is_empty() {
            return;
        }
        // The kernel may have taken fewer entries than there were.
        if let Err(error) = self.ring.submit_all() {
            tracing::debug!(%error, "what was staged is lost with its ring");
        }
        let RingBackend { ring, arrays, staged, transmitter, incoming, polls, tally, .. } = self;
        let mut carriage = Carriage { ring, arrays, files: polls.first_file(incoming.sends_from_quiet()) };
        staged.settle(&mut carriage, transmitter, incoming.for_sending(), tally);
    }
}

impl Transmit for RingBackend {
    fn transmit(&mut self, buffer: &[u8], runs: &[Run]) {
        // Before what follows them.
        self.settle();
        let RingBackend { ring, arrays, staged, transmitter, incoming, polls, tally, .. } = self;
        let sockets = incoming.for_sending();
        let mut carriage = Carriage { ring, arrays, files: polls.first_file(incoming.sends_from_quiet()) };
        if !staged.take(&mut carriage, transmitter, sockets, buffer, runs) {
            transmitter.transmit(&mut carriage, sockets, buffer, runs, tally);
        }
    }
}

impl Backend for RingBackend {
    fn receive(&mut self, batch: &mut Batch) -> usize {
        self.incoming.receive(self.clock, batch, &mut self.tally)
    }

    fn wait(&mut self, deadline: Option<Instant>) {
        let deadline = self.choose_quiet(deadline);
        let timeout = deadline.map(|deadline| deadline.since(self.clock.mono()));
        if timeout == Some(Duration::ZERO) || self.incoming.is_waiting() {
            return self.enter(Wait::No);
        }
        self.tally.counters.waits += 1;
        self.enter(Wait::ForOne(timeout));
    }

    fn pause(&mut self, until: Instant, deadline: Option<Instant>) {
        let deadline = self.choose_quiet(deadline);
        let now = self.clock.mono();
        let least = until.since(now);
        if least == Duration::ZERO || self.incoming.is_waiting() {
            return self.enter(Wait::No);
        }
        self.tally.counters.pauses += 1;
        self.enter(Wait::Gather(least, deadline.map(|deadline| deadline.since(now).max(least))));
    }

    fn counters(&self) -> &UdpCounters {
        &self.tally.counters
    }

    fn drops(&self) -> Vec<(&'static str, u64)> {
        self.tally.drops()
    }
}

impl Drop for RingBackend {
    /// The last words of a shard's transports may be staged.
    fn drop(&mut self) {
        self.settle();
    }
}
