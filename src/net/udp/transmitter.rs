//! The outgoing runs: put into the fewest messages that the kernel takes, and kept in order through every refusal. The
//! backend chooses the system call.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};

use socket2::Socket;

use crate::base::buffer::{Leg, LocalIndex, Run};
use crate::base::limits::GSO_REFUSED_MAX;
use crate::base::time::Duration;
use crate::net::udp::backend::UdpDrop;
use crate::net::udp::message::{MESSAGES_MAX, Message};
use crate::net::udp::poll::wait_writable;
use crate::net::udp::socket::RUN_PAYLOAD_MAX;
use crate::net::udp::tally::UdpTally;

/// How often one call to `transmit` waits for a full queue before it drops, and for how long each time: a shard may
/// lose at most a millisecond to a link that does not keep up.
const RETRIES_MAX: u32 = 4;
const RETRY_WAIT: Duration = Duration::from_micros(250);

pub(super) trait Carrier {
    /// Hands the first messages, at most [`MESSAGES_MAX`], to the kernel in one system call and in order. Returns how
    /// many of them the kernel has looked at, at least one; those that it refused are added to `refused`. The buffer is
    /// the caller's again when this returns.
    fn carry(
        &mut self,
        fd: RawFd,
        local: LocalIndex,
        buffer: &[u8],
        messages: &[Message],
        refused: &mut Vec<Refused>,
    ) -> usize;
}

/// A message that the kernel did not take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Refused {
    /// Its place among the messages.
    pub place: usize,
    /// An errno(3).
    pub error: i32,
}

pub(super) struct Transmitter {
    queue: Vec<Message>,
    refused: Vec<Refused>,
    run_datagrams_max: usize,
    run_refused: HashSet<SocketAddr>,
}

impl Transmitter {
    /// `run_datagrams_max` as [`crate::net::udp::socket::run_datagrams_max`] found it; 1 sends everything one by one.
    pub(super) fn new(run_datagrams_max: usize) -> Transmitter {
        Transmitter {
            queue: Vec::with_capacity(4 * MESSAGES_MAX),
            refused: Vec::with_capacity(MESSAGES_MAX),
            run_datagrams_max: run_datagrams_max.max(1),
            run_refused: HashSet::new(),
        }
    }

    /// Datagrams to one destination leave in the order of `runs`, but for those that the kernel refused at first.
    pub(super) fn transmit(
        &mut self,
        carrier: &mut impl Carrier,
        sockets: &[Socket],
        buffer: &[u8],
        runs: &[Run],
        tally: &mut UdpTally,
    ) {
        // A panic of the caller may have left some behind.
        self.queue.clear();
        let mut retries = RETRIES_MAX;
        let mut local = LocalIndex(0);
        for run in runs {
            let Leg::Udp(to) = run.path.leg else {
                // No socket of UDP leads there.
                tally.dropped(UdpDrop::SendRefused, run.packets());
                continue;
            };
            if to != local || self.queue.len() >= MESSAGES_MAX {
                self.send_queue(carrier, sockets, local, buffer, &mut retries, tally);
                local = to;
            }
            self.enqueue(run);
        }
        self.send_queue(carrier, sockets, local, buffer, &mut retries, tally);
    }

    /// Puts a run into the queue as the fewest messages that the kernel takes.
    fn enqueue(&mut self, run: &Run) {
        let messages = self.messages(run);
        self.queue.extend(messages);
    }

    /// A run as the fewest messages that the kernel takes.
    pub(super) fn messages(&self, run: &Run) -> impl Iterator<Item = Message> + use<> {
        let segment = usize::from(run.segment.max(1));
        let whole = self.run_datagrams_max > 1
            && run.packets() > 1
            && (self.run_refused.is_empty() || !self.run_refused.contains(&run.path.remote));
        let datagrams = if whole { self.run_datagrams_max.min((RUN_PAYLOAD_MAX / segment).max(1)) } else { 1 };
        cut(run.path.remote, run.start as usize, run.len as usize, run.segment, datagrams)
    }

    /// Sends once more what the kernel refused of messages that somebody else handed over, where that helps.
    pub(super) fn send_again(
        &mut self,
        carrier: &mut impl Carrier,
        sockets: &[Socket],
        refused: impl Iterator<Item = (LocalIndex, Message, i32)>,
        buffer: &[u8],
        tally: &mut UdpTally,
    ) {
        let mut retries = RETRIES_MAX;
        let mut again: Vec<(LocalIndex, Message)> = Vec::new();
        let (mut messages, mut waited) = (Vec::new(), false);
        for (local, message, error) in refused {
            let Some(fd) = sockets.get(usize::from(local.0)).map(AsRawFd::as_raw_fd) else { continue };
            self.consequence(fd, message, error, &mut messages, (&mut retries, &mut waited), tally);
            again.extend(messages.drain(..).map(|message| (local, message)));
        }
        self.queue.clear();
        for of_one in again.chunk_by(|(one, _), (other, _)| one == other) {
            self.queue.extend(of_one.iter().map(|(_, message)| *message));
            self.send_queue(carrier, sockets, of_one[0].0, buffer, &mut retries, tally);
        }
    }

    fn send_queue(
        &mut self,
        carrier: &mut impl Carrier,
        sockets: &[Socket],
        local: LocalIndex,
        buffer: &[u8],
        retries: &mut u32,
        tally: &mut UdpTally,
    ) {
        let Some(fd) = sockets.get(usize::from(local.0)).map(AsRawFd::as_raw_fd) else {
            let lost = self.queue.iter().map(Message::datagrams).sum();
            self.queue.clear();
            return tally.dropped(UdpDrop::SendRefused, lost);
        };
        let mut at = 0;
        while at < self.queue.len() {
            self.refused.clear();
            let looked_at = carrier.carry(fd, local, buffer, &self.queue[at..], &mut self.refused);
            count_sent(&self.queue[at..at + looked_at], &self.refused, tally);
            if self.refused.is_empty() {
                at += looked_at;
                continue;
            }
            let (mut again, mut waited) = (Vec::new(), false);
            for Refused { place, error } in std::mem::take(&mut self.refused) {
                self.consequence(fd, self.queue[at + place], error, &mut again, (retries, &mut waited), tally);
            }
            self.queue.splice(at..at + looked_at, again);
        }
        self.queue.clear();
    }

    /// Does what a refusal asks for; what is to be sent once more is added to `again`. One wait is for all that a full
    /// queue refused together.
    fn consequence(
        &mut self,
        fd: RawFd,
        message: Message,
        error: i32,
        again: &mut Vec<Message>,
        (retries, waited): (&mut u32, &mut bool),
        tally: &mut UdpTally,
    ) {
        match SendRefusal::of(error, message.segment.is_some()) {
            SendRefusal::Interrupted => again.push(message),
            SendRefusal::QueueFull if *waited => again.push(message),
            SendRefusal::QueueFull if *retries > 0 => {
                (*retries, *waited) = (*retries - 1, true);
                tally.counters.send_retries += 1;
                wait_writable(fd, RETRY_WAIT);
                again.push(message);
            }
            SendRefusal::Run => {
                self.remember_refused(message.remote, tally);
                let segment = message.segment.unwrap_or(u16::MAX);
                again.extend(cut(message.remote, message.start, message.len, segment, 1));
            }
            SendRefusal::QueueFull => tally.dropped(UdpDrop::SendQueueFull, message.datagrams()),
            SendRefusal::Message(why) => tally.dropped(why, message.datagrams()),
        }
    }

    fn remember_refused(&mut self, remote: SocketAddr, tally: &mut UdpTally) {
        if self.run_refused.len() >= GSO_REFUSED_MAX {
            self.run_refused.clear();
        }
        if self.run_refused.insert(remote) {
            tally.counters.gso_fallbacks += 1;
        }
    }
}

/// Counts what one system call has sent.
pub(super) fn count_sent(messages: &[Message], refused: &[Refused], tally: &mut UdpTally) {
    let counters = &mut tally.counters;
    counters.send_calls += u64::from(messages.len() > refused.len());
    let mut refused = refused.iter().map(|refused| refused.place).peekable();
    for (place, message) in messages.iter().enumerate() {
        if refused.next_if_eq(&place).is_some() {
            continue;
        }
        let datagrams = message.datagrams() as u64;
        counters.datagrams_sent += datagrams;
        counters.bytes_sent += message.len as u64;
        if message.segment.is_some() {
            counters.runs_sent += 1;
            counters.run_datagrams_sent += datagrams;
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

/// Why the kernel refused a message, and so what becomes of it.
#[derive(PartialEq, Eq, Debug)]
enum SendRefusal {
    Interrupted,
    QueueFull,
    /// It is refused as a run: a segment above the MTU (EINVAL, EMSGSIZE), a device or tunnel that cannot cut it or
    /// lacks checksum offload (EIO), or a kernel that does not know the option.
    Run,
    Message(UdpDrop),
}

impl SendRefusal {
    fn of(error: i32, is_run: bool) -> SendRefusal {
        match error {
            libc::EINTR => SendRefusal::Interrupted,
            libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM => SendRefusal::QueueFull,
            libc::EINVAL | libc::EMSGSIZE | libc::EIO | libc::EOPNOTSUPP if is_run => SendRefusal::Run,
            libc::EMSGSIZE => SendRefusal::Message(UdpDrop::SendTooLong),
            libc::ENETUNREACH
            | libc::EHOSTUNREACH
            | libc::ENETDOWN
            | libc::EADDRNOTAVAIL
            | libc::EAFNOSUPPORT
            | libc::ECONNREFUSED
            | libc::EACCES
            | libc::EPERM => SendRefusal::Message(UdpDrop::SendRefused),
            _ => SendRefusal::Message(UdpDrop::SendFailed),
        }
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
        assert_eq!(SendRefusal::of(libc::EINVAL, true), SendRefusal::Run);
        assert_eq!(SendRefusal::of(libc::EMSGSIZE, true), SendRefusal::Run);
        assert_eq!(SendRefusal::of(libc::EIO, true), SendRefusal::Run);
        assert_eq!(SendRefusal::of(libc::EMSGSIZE, false), SendRefusal::Message(UdpDrop::SendTooLong));
        assert_eq!(SendRefusal::of(libc::EINVAL, false), SendRefusal::Message(UdpDrop::SendFailed));
        assert_eq!(SendRefusal::of(libc::EAGAIN, true), SendRefusal::QueueFull);
        assert_eq!(SendRefusal::of(libc::ENOBUFS, false), SendRefusal::QueueFull);
        assert_eq!(SendRefusal::of(libc::EPERM, true), SendRefusal::Message(UdpDrop::SendRefused));
    }
}
