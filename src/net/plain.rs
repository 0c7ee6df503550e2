//! The plain backend: recvmmsg, sendmmsg with UDP GSO, epoll. Works wherever UDP does.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use socket2::Socket;

use super::backend::{Backend, Counters, Dropped};
use super::clock::Clock;
use super::doorbell::Doorbell;
use super::mmsg::{MESSAGES_MAX, Message, Receiver, Sender};
use super::poll::{Poller, wait_writable};
use super::stamp;
use super::udp::RUN_PAYLOAD_MAX;
use crate::base::buffer::{Batch, LocalIndex, Run, Transmit};
use crate::base::limits::{GSO_REFUSED_MAX, LOCAL_ADDRESSES_MAX};
use crate::base::time::{Duration, Instant};

const BELL: u64 = u64::MAX;

/// How often one call to `transmit` waits for a full queue before it drops, and for how long each time: a shard may
/// lose at most a millisecond to a link that does not keep up.
const RETRIES_MAX: u32 = 4;
const RETRY_WAIT: Duration = Duration::from_micros(250);

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
    queue: Vec<Message>,
    run_datagrams_max: usize,
    run_refused: HashSet<SocketAddr>,
    counters: Counters,
    drops: [u64; Dropped::ALL.len()],
}

impl PlainBackend {
    /// `run_datagrams_max` as [`super::udp::run_datagrams_max`] found it; 1 sends everything one by one.
    pub fn new(sockets: Vec<Socket>, bell: Doorbell, run_datagrams_max: usize) -> io::Result<PlainBackend> {
        assert!(sockets.len() <= LOCAL_ADDRESSES_MAX, "checked at start");
        let poller = Poller::new()?;
        for (index, socket) in sockets.iter().enumerate() {
            stamp::enable(socket)?;
            poller.add(socket.as_raw_fd(), index as u64)?;
        }
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
            queue: Vec::with_capacity(4 * MESSAGES_MAX),
            run_datagrams_max: run_datagrams_max.max(1),
            run_refused: HashSet::new(),
            counters: Counters::default(),
            drops: [0; Dropped::ALL.len()],
        })
    }

    fn drop_counted(&mut self, why: Dropped, datagrams: usize) {
        self.drops[why as usize] += datagrams as u64;
    }

    /// Puts a run into the queue as the fewest messages that the kernel takes.
    fn enqueue(&mut self, run: &Run) {
        let segment = usize::from(run.segment.max(1));
        let whole = self.run_datagrams_max > 1
            && run.packets() > 1
            && (self.run_refused.is_empty() || !self.run_refused.contains(&run.path.remote));
        let datagrams = if whole { self.run_datagrams_max.min((RUN_PAYLOAD_MAX / segment).max(1)) } else { 1 };
        let (start, len) = (run.start as usize, run.len as usize);
        self.queue.extend(cut(run.path.remote, start, len, run.segment, datagrams));
    }

    fn send_queue(&mut self, local: LocalIndex, slab: &[u8], retries: &mut u32) {
        let Some(fd) = self.sockets.get(usize::from(local.0)).map(AsRawFd::as_raw_fd) else {
            let lost = self.queue.iter().map(Message::datagrams).sum();
            self.queue.clear();
            return self.drop_counted(Dropped::SendRefused, lost);
        };
        let mut at = 0;
        while let Some(first) = self.queue.get(at).copied() {
            let error = match self.sender.send(fd, slab, &self.queue[at..]) {
                Ok(sent) => {
                    self.count_sent(at, sent);
                    at += sent;
                    continue;
                }
                Err(error) => error.raw_os_error().unwrap_or(0),
            };
            match Refusal::of(error, first.segment.is_some()) {
                Refusal::Interrupted => {}
                Refusal::QueueFull if *retries > 0 => {
                    *retries -= 1;
                    self.counters.send_retries += 1;
                    wait_writable(fd, RETRY_WAIT);
                }
                Refusal::Run => {
                    self.remember_refused(first.remote);
                    let segment = first.segment.unwrap_or(u16::MAX);
                    self.queue.splice(at..=at, cut(first.remote, first.start, first.len, segment, 1));
                }
                Refusal::QueueFull => {
                    self.drop_counted(Dropped::SendQueueFull, first.datagrams());
                    at += 1;
                }
                Refusal::Message(why) => {
                    self.drop_counted(why, first.datagrams());
                    at += 1;
                }
            }
        }
        self.queue.clear();
    }

    fn count_sent(&mut self, at: usize, sent: usize) {
        self.counters.send_calls += 1;
        for message in &self.queue[at..at + sent] {
            let datagrams = message.datagrams() as u64;
            self.counters.datagrams_sent += datagrams;
            self.counters.bytes_sent += message.len as u64;
            if message.segment.is_some() {
                self.counters.runs_sent += 1;
                self.counters.run_datagrams_sent += datagrams;
            }
        }
    }

    fn remember_refused(&mut self, remote: SocketAddr) {
        if self.run_refused.len() >= GSO_REFUSED_MAX {
            self.run_refused.clear();
        }
        if self.run_refused.insert(remote) {
            self.counters.gso_fallbacks += 1;
        }
    }
}

/// Messages of up to `datagrams` datagrams each, in order.
fn cut(
    remote: SocketAddr,
    start: usize,
    len: usize,
    segment: u16,
    datagrams: usize,
) -> impl Iterator<Item = Message> + use<> {
    let segment = segment.max(1);
    let step = usize::from(segment) * datagrams;
    (0..len).step_by(step).map(move |at| {
        let len = step.min(len - at);
        let segment = (len > usize::from(segment)).then_some(segment);
        Message { remote, start: start + at, len, segment }
    })
}

/// Why the kernel did not take a message, and so what becomes of it.
#[derive(PartialEq, Eq, Debug)]
enum Refusal {
    Interrupted,
    QueueFull,
    /// It is refused as a run: a segment above the MTU (EINVAL, EMSGSIZE), a device or tunnel that cannot cut it or
    /// lacks checksum offload (EIO), or a kernel that does not know the option.
    Run,
    Message(Dropped),
}

impl Refusal {
    fn of(error: i32, is_run: bool) -> Refusal {
        match error {
            libc::EINTR => Refusal::Interrupted,
            libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM => Refusal::QueueFull,
            libc::EINVAL | libc::EMSGSIZE | libc::EIO | libc::EOPNOTSUPP if is_run => Refusal::Run,
            libc::EMSGSIZE => Refusal::Message(Dropped::SendTooLong),
            libc::ENETUNREACH
            | libc::EHOSTUNREACH
            | libc::ENETDOWN
            | libc::EADDRNOTAVAIL
            | libc::EAFNOSUPPORT
            | libc::ECONNREFUSED
            | libc::EACCES
            | libc::EPERM => Refusal::Message(Dropped::SendRefused),
            _ => Refusal::Message(Dropped::SendFailed),
        }
    }
}

impl Transmit for PlainBackend {
    /// Datagrams to one destination leave in the order of `runs`.
    fn transmit(&mut self, slab: &[u8], runs: &[Run]) {
        let mut retries = RETRIES_MAX;
        let mut local = LocalIndex(0);
        for run in runs {
            if run.path.local != local || self.queue.len() >= MESSAGES_MAX {
                self.send_queue(local, slab, &mut retries);
                local = run.path.local;
            }
            self.enqueue(run);
        }
        self.send_queue(local, slab, &mut retries);
    }
}

impl Backend for PlainBackend {
    fn receive(&mut self, batch: &mut Batch) -> usize {
        let before = batch.len();
        let sockets = self.sockets.len();
        for turn in 0..sockets {
            let index = (self.first + turn) % sockets;
            while self.ready & 1 << index != 0 && batch.room() > 0 {
                match self.receiver.receive(
                    self.sockets[index].as_raw_fd(),
                    LocalIndex(index as u8),
                    &self.clock,
                    batch,
                ) {
                    Ok(received) => {
                        self.counters.receive_calls += 1;
                        self.counters.datagrams_received += received.taken as u64;
                        self.counters.bytes_received += received.bytes as u64;
                        self.drop_counted(Dropped::ReceiveTooLong, received.too_long);
                        self.drop_counted(Dropped::ReceiveNoAddress, received.nameless);
                        if received.exhausted {
                            self.ready &= !(1 << index);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => {
                        self.ready &= !(1 << index);
                        if error.kind() != io::ErrorKind::WouldBlock {
                            self.counters.receive_failed += 1;
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
            _ if self.ready != 0 => Some(Duration::ZERO),
            Some(deadline) => Some(deadline.since(self.clock.mono())),
            None => None,
        };
        if timeout != Some(Duration::ZERO) {
            self.counters.waits += 1;
        }
        let (ready, bell) = (&mut self.ready, &self.bell);
        self.poller.wait(timeout, |token| match token {
            BELL => bell.clear(),
            socket => *ready |= 1 << socket,
        });
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }

    fn drops(&self) -> Vec<(&'static str, u64)> {
        Dropped::ALL.iter().map(|why| (why.name(), self.drops[*why as usize])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(len: usize, segment: u16, datagrams: usize) -> Vec<(usize, usize, Option<u16>)> {
        let remote = SocketAddr::from(([127, 0, 0, 1], 9));
        cut(remote, 100, len, segment, datagrams).map(|m| (m.start, m.len, m.segment)).collect()
    }

    #[test]
    fn runs_are_cut_at_the_kernels_maximum_and_a_lone_datagram_is_no_run() {
        assert_eq!(messages(35, 10, 64), [(100, 35, Some(10))]);
        assert_eq!(messages(35, 10, 3), [(100, 30, Some(10)), (130, 5, None)]);
        assert_eq!(messages(35, 10, 1), [(100, 10, None), (110, 10, None), (120, 10, None), (130, 5, None)]);
        assert_eq!(messages(10, 10, 64), [(100, 10, None)]);
        assert_eq!(messages(3, 0, 1), [(100, 1, None), (101, 1, None), (102, 1, None)]);
        assert_eq!(messages(0, 10, 64), []);
    }

    #[test]
    fn each_error_has_its_consequence() {
        assert_eq!(Refusal::of(libc::EINVAL, true), Refusal::Run);
        assert_eq!(Refusal::of(libc::EMSGSIZE, true), Refusal::Run);
        assert_eq!(Refusal::of(libc::EIO, true), Refusal::Run);
        assert_eq!(Refusal::of(libc::EMSGSIZE, false), Refusal::Message(Dropped::SendTooLong));
        assert_eq!(Refusal::of(libc::EINVAL, false), Refusal::Message(Dropped::SendFailed));
        assert_eq!(Refusal::of(libc::EAGAIN, true), Refusal::QueueFull);
        assert_eq!(Refusal::of(libc::ENOBUFS, false), Refusal::QueueFull);
        assert_eq!(Refusal::of(libc::EPERM, true), Refusal::Message(Dropped::SendRefused));
    }
}
