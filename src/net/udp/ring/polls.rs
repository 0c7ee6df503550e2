//! The requests that tell of readable sockets: a multishot poll for each, for the doorbell, and in calm for the quiet
//! sockets. Each reports once for each time that something comes.
#![expect(unsafe_code, reason = "requests go to the kernel")]

use std::os::fd::RawFd;

use io_uring::cqueue::{Entry as Completion, more};
use io_uring::opcode::{AsyncCancel2, PollAdd};
use io_uring::types::{CancelBuilder, Fd, Fixed};

use super::enter::Ring;

const BELL: u64 = u64::MAX;
const QUIET: u64 = u64::MAX - 1;
const UNLISTENED: u64 = u64::MAX - 2;

pub(super) struct Polls {
    /// The registered files: these sockets, and behind them the quiet ones.
    sockets: usize,
    quiet: usize,
    bell: RawFd,
    /// Bit i: socket i has a poll in the kernel.
    armed: u64,
    bell_armed: bool,
    /// Quiet sockets are to be polled.
    listening: bool,
    /// Polls of quiet sockets in the kernel.
    quiet_armed: usize,
}

pub(super) enum Readable {
    Socket(usize),
    Bell,
}

impl Polls {
    pub(super) fn new(sockets: usize, quiet: usize, bell: RawFd) -> Polls {
        Polls { sockets, quiet, bell, armed: 0, bell_armed: false, listening: true, quiet_armed: 0 }
    }

    /// The first of the registered files to send from.
    pub(super) fn first_file(&self, quiet: bool) -> u32 {
        if quiet { self.sockets as u32 } else { 0 }
    }

    /// Queues the polls that are not under way.
    pub(super) fn arm(&mut self, ring: &mut Ring) {
        for socket in 0..self.sockets {
            if self.armed & 1 << socket == 0 && poll(ring, PollAdd::new(Fixed(socket as u32), READABLE), socket as u64)
            {
                self.armed |= 1 << socket;
            }
        }
        self.bell_armed = self.bell_armed || poll(ring, PollAdd::new(Fd(self.bell), READABLE), BELL);
        // All of them anew: one poll rarely ends alone, and two polls of a socket do no harm.
        if self.listening && self.quiet_armed < self.quiet {
            for file in self.sockets..self.sockets + self.quiet {
                self.quiet_armed += usize::from(poll(ring, PollAdd::new(Fixed(file as u32), READABLE), QUIET));
            }
        }
    }

    /// Quiet sockets wake from now on, or do not any more. True: the request is queued.
    pub(super) fn listen(&mut self, ring: &mut Ring, listen: bool) -> bool {
        if !listen {
            let end = AsyncCancel2::new(CancelBuilder::user_data(QUIET).all()).build().user_data(UNLISTENED);
            // SAFETY: no pointers.
            if !unsafe { ring.push(&end) } {
                return false;
            }
        }
        self.listening = listen;
        true
    }

    /// What has become readable.
    pub(super) fn completed(&mut self, completion: &Completion) -> Option<Readable> {
        let ended = !more(completion.flags());
        let readable = completion.result() > 0;
        match completion.user_data() {
            BELL => {
                self.bell_armed &= !ended;
                readable.then_some(Readable::Bell)
            }
            // Read whenever the loop turns while they are listened to.
            QUIET => {
                self.quiet_armed = self.quiet_armed.saturating_sub(usize::from(ended));
                None
            }
            socket if socket < self.sockets as u64 => {
                self.armed &= !(u64::from(ended) << socket);
                readable.then_some(Readable::Socket(socket as usize))
            }
            // The end of quiet polls, or a send that nobody waits for any more.
            _ => None,
        }
    }

    /// Completions were lost, the last ones of polls perhaps among them: all are armed anew. Two polls of a socket do no
    /// harm.
    pub(super) fn forget(&mut self) {
        (self.armed, self.bell_armed, self.quiet_armed) = (0, false, 0);
    }
}

const READABLE: u32 = libc::POLLIN as u32;

/// True: queued.
fn poll(ring: &mut Ring, poll: PollAdd, name: u64) -> bool {
    // SAFETY: no pointers; the kernel holds the file open while it polls it.
    unsafe { ring.push(&poll.multi(true).build().user_data(name)) }
}
