//! recvmmsg(2) and sendmmsg(2) behind safe calls. `incoming` and `transmitter` choose the socket and handle errors.
#![expect(unsafe_code, reason = "message headers are C structures full of pointers")]

use std::io;
use std::os::fd::RawFd;

use crate::base::buffer::{Batch, LocalIndex, Path};
use crate::net::clock::{Arrivals, Clock};
use crate::net::udp::backend::UdpDrop;
use crate::net::udp::joined::{JOINED_BYTES, Joined};
use crate::net::udp::message::{Ancillary, ControlBuffer, Headers, MESSAGES_MAX, Message, Name, decode};
use crate::net::udp::tally::UdpTally;
use crate::net::udp::transmitter::{Carrier, Refused};

const ASKED_MIN: usize = 4;

/// Receives into buffers of its own, large enough for joined datagrams (UDP GRO); untouched pages of them cost nothing.
pub(super) struct MmsgReceiver {
    arrays: Box<Headers>,
    memory: Box<[u8]>,
    /// The received messages that are not drained yet, the first of them perhaps in part.
    next: usize,
    got: usize,
    local: LocalIndex,
    arrivals: Arrivals,
    open: Option<Joined>,
    /// The number of messages asked for: twice as many as came last time. Preparing all 64 costs an idle shard, whose
    /// cache is cold, more than receiving one.
    asked: usize,
}

impl MmsgReceiver {
    pub(super) fn new() -> MmsgReceiver {
        MmsgReceiver {
            arrays: Headers::new(),
            memory: vec![0; MESSAGES_MAX * JOINED_BYTES].into_boxed_slice(),
            next: 0,
            got: 0,
            local: LocalIndex(0),
            arrivals: Clock::process().arrivals(),
            open: None,
            asked: ASKED_MIN,
        }
    }

    /// One recvmmsg, once the last is drained; moves as much of it into the batch as fits. True: the socket is empty.
    pub(super) fn receive(
        &mut self,
        fd: RawFd,
        local: LocalIndex,
        batch: &mut Batch,
        tally: &mut UdpTally,
    ) -> io::Result<bool> {
        let Headers { headers, vectors, names, controls } = &mut *self.arrays;
        let asked = batch.room().min(self.asked);
        for (i, buffer) in self.memory.chunks_exact_mut(JOINED_BYTES).take(asked).enumerate() {
            vectors[i] = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: JOINED_BYTES };
            let header = &mut headers[i].msg_hdr;
            header.msg_name = (&raw mut names[i]).cast();
            header.msg_namelen = size_of::<Name>() as libc::socklen_t;
            header.msg_iov = &raw mut vectors[i];
            header.msg_iovlen = 1;
            header.msg_control = (&raw mut controls[i]).cast();
            header.msg_controllen = size_of::<ControlBuffer>() as _;
        }
        // SAFETY: the first `asked` headers point to distinct buffers of JOINED_BYTES bytes in `memory` and to names and
        // controls in our own arrays, all of which live and are not otherwise touched until the call returns.
        let got = unsafe {
            libc::recvmmsg(fd, headers.as_mut_ptr(), asked as libc::c_uint, libc::MSG_DONTWAIT, std::ptr::null_mut())
        };
        if got < 0 {
            return Err(io::Error::last_os_error());
        }
        (self.next, self.got, self.local) = (0, got as usize, local);
        self.arrivals = Clock::process().arrivals();
        tally.counters.receive_calls += 1;
        self.asked = (2 * self.got).clamp(ASKED_MIN, MESSAGES_MAX);
        self.deal(batch, tally);
        Ok(self.got < asked)
    }

    /// Whether some of the last recvmmsg did not fit into the batch.
    pub(super) fn holds(&self) -> bool {
        self.next < self.got
    }

    /// Moves as much of the last recvmmsg into the batch as fits.
    pub(super) fn deal(&mut self, batch: &mut Batch, tally: &mut UdpTally) {
        while self.next < self.got {
            let header = &self.arrays.headers[self.next];
            let buffer = &self.memory[self.next * JOINED_BYTES..(self.next + 1) * JOINED_BYTES];
            let bytes = &buffer[..(header.msg_len as usize).min(JOINED_BYTES)];
            if self.open.is_none() {
                if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
                    tally.dropped(UdpDrop::ReceiveTooLong, 1);
                } else if let Some(remote) = decode(&self.arrays.names[self.next]) {
                    let told = Ancillary::read(&self.arrays.controls[self.next], header.msg_hdr.msg_controllen);
                    let path = Path::udp(self.local, remote);
                    self.open = Some(Joined::new(path, self.arrivals.at(told.stamp), bytes.len(), told.segment));
                } else {
                    tally.dropped(UdpDrop::ReceiveNoAddress, 1);
                }
            }
            if let Some(joined) = &mut self.open
                && !joined.deal(bytes, batch, tally)
            {
                return;
            }
            self.open = None;
            self.next += 1;
        }
    }
}

pub(super) struct MmsgSender {
    arrays: Box<Headers>,
}

impl MmsgSender {
    pub(super) fn new() -> MmsgSender {
        MmsgSender { arrays: Headers::new() }
    }
}

impl Carrier for MmsgSender {
    /// One sendmmsg, which ends at the first that the kernel refuses and tells its error to who begins with it.
    fn carry(
        &mut self,
        fd: RawFd,
        _: LocalIndex,
        buffer: &[u8],
        messages: &[Message],
        refused: &mut Vec<Refused>,
    ) -> usize {
        let count = self.arrays.fill(buffer, messages);
        let headers = self.arrays.headers.as_mut_ptr();
        // SAFETY: the first `count` headers point into our own arrays and into `buffer`, which live until the call
        // returns; the kernel only reads what the vectors, names and controls point to.
        let sent = unsafe { libc::sendmmsg(fd, headers, count as libc::c_uint, libc::MSG_DONTWAIT) };
        if sent < 0 {
            refused.push(Refused { place: 0, error: io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) });
            return 1;
        }
        sent as usize
    }
}
