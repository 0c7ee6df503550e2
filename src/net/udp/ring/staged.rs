//! A small flush that waits for the next time that the ring is entered: its bytes are copied here, its requests are
//! queued, and the system call that waits for the next datagram sends it. The copy costs less than a call of its own.
#![expect(unsafe_code, reason = "requests that point into memory of ours")]

use socket2::Socket;

use super::carriage::Carriage;
use crate::base::buffer::{Leg, LocalIndex, Run};
use crate::net::udp::message::{MESSAGES_MAX, Message};
use crate::net::udp::tally::UdpTally;
use crate::net::udp::transmitter::{Transmitter, count_sent};

/// The longest flush that waits: one frame of video in nine packets, or as many packets of audio as leave in a turn.
const STAGED_BYTES_MAX: usize = 16 * 1024;

pub(super) struct Staged {
    bytes: Box<[u8]>,
    messages: Vec<Message>,
    from: Vec<LocalIndex>,
}

impl Staged {
    pub(super) fn new() -> Staged {
        Staged {
            bytes: vec![0; STAGED_BYTES_MAX].into_boxed_slice(),
            messages: Vec::with_capacity(MESSAGES_MAX),
            from: Vec::with_capacity(MESSAGES_MAX),
        }
    }

    /// Takes the runs, if they are few and nothing is here. False: nothing was taken.
    pub(super) fn take(
        &mut self,
        carriage: &mut Carriage<'_>,
        transmitter: &Transmitter,
        sockets: &[Socket],
        buffer: &[u8],
        runs: &[Run],
    ) -> bool {
        let len: usize = runs.iter().map(|run| run.len as usize).sum();
        let is_known = |run: &Run| matches!(run.path.leg, Leg::Udp(local) if usize::from(local.0) < sockets.len());
        if len > STAGED_BYTES_MAX || !self.messages.is_empty() || !runs.iter().all(is_known) {
            return false;
        }
        self.from.clear();
        let mut at = 0;
        for run in runs {
            let bytes = &buffer[run.start as usize..][..run.len as usize];
            self.bytes[at..][..bytes.len()].copy_from_slice(bytes);
            self.messages.extend(transmitter.messages(&Run { start: at as u32, ..*run }));
            self.from.resize(self.messages.len(), run.path.leg.local());
            at += bytes.len();
        }
        if self.messages.len() > MESSAGES_MAX.min(carriage.ring.free()) {
            self.messages.clear();
            return false;
        }
        // SAFETY: the bytes are ours, and stay as they are until `settle`, before which the kernel has taken all that is
        // queued. They are freed after the ring is closed.
        let queued = unsafe { carriage.queue(&self.from, &self.bytes, &self.messages) };
        debug_assert_eq!(queued, self.messages.len(), "there is room for them");
        true
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Call once the kernel has taken all that is queued: counts what was sent, and sends again what was refused.
    pub(super) fn settle(
        &mut self,
        carriage: &mut Carriage<'_>,
        transmitter: &mut Transmitter,
        sockets: &[Socket],
        tally: &mut UdpTally,
    ) {
        let refused = carriage.refused();
        count_sent(&self.messages, &refused, tally);
        if !refused.is_empty() {
            let refused = refused.iter().map(|it| (self.from[it.place], self.messages[it.place], it.error));
            transmitter.send_again(carriage, sockets, refused, &self.bytes, tally);
        }
        self.messages.clear();
    }
}
