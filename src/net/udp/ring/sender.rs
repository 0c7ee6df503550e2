//! The outgoing messages: a chain of SENDMSG, submitted and completed in one io_uring_enter.
#![expect(unsafe_code, reason = "message headers are C structures full of pointers")]

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::squeue::Flags;
use io_uring::types::Fixed;
use io_uring::{IoUring, opcode};
use socket2::Socket;

use super::setup;
use crate::base::buffer::LocalIndex;
use crate::net::udp::message::{Headers, MESSAGES_MAX, Message};
use crate::net::udp::transmitter::Carrier;

pub(super) struct Sender {
    ring: IoUring,
    arrays: Box<Headers>,
    results: [i32; MESSAGES_MAX],
    /// Entries that the kernel never took are left in the ring: it must not be entered again.
    broken: Option<i32>,
}

impl Sender {
    pub(super) fn new(sockets: &[Socket]) -> io::Result<Sender> {
        let ring = setup::open(MESSAGES_MAX as u32, 2 * MESSAGES_MAX as u32)?;
        let fds: Vec<RawFd> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
        ring.submitter().register_files(&fds)?;
        Ok(Sender { ring, arrays: Headers::new(), results: [0; MESSAGES_MAX], broken: None })
    }
}

impl Carrier for Sender {
    /// Linked, so that a refused one cancels those behind it, which would otherwise overtake it.
    fn carry(&mut self, _: RawFd, local: LocalIndex, buffer: &[u8], messages: &[Message]) -> io::Result<usize> {
        if let Some(error) = self.broken {
            return Err(io::Error::from_raw_os_error(error));
        }
        // Everything that may panic comes before the first entry is queued.
        let count = self.arrays.fill(buffer, messages);
        let mut queue = self.ring.submission();
        for (i, header) in self.arrays.headers[..count].iter().enumerate() {
            let send = opcode::SendMsg::new(Fixed(local.0.into()), &raw const header.msg_hdr);
            let flags = if i + 1 < count { Flags::IO_LINK } else { Flags::empty() };
            let entry = send.flags(libc::MSG_DONTWAIT as u32).build().flags(flags).user_data(i as u64);
            // SAFETY: the header points into our own arrays and into `buffer`. Both live until this function returns,
            // and it returns only when every entry is completed or when the kernel has taken none and never will.
            // The queue is empty and has room for MESSAGES_MAX, so that this cannot fail.
            let _ = unsafe { queue.push(&entry) };
        }
        drop(queue);
        let mut left = count;
        while left > 0 {
            if let Err(error) = self.ring.submit_and_wait(left) {
                let error = error.raw_os_error().unwrap_or(libc::EIO);
                // Short of memory or interrupted: again. Anything else is refused before an entry is looked at.
                let again = matches!(error, libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ENOMEM);
                if !again && left == count && self.ring.submission().len() == count {
                    self.broken = Some(error);
                    return Err(io::Error::from_raw_os_error(error));
                }
            }
            for completion in self.ring.completion() {
                if let Some(result) = self.results.get_mut(completion.user_data() as usize) {
                    *result = completion.result();
                    left -= 1;
                }
            }
        }
        let sent = self.results[..count].iter().take_while(|result| **result >= 0).count();
        match self.results[..count].first() {
            Some(error) if *error < 0 => Err(io::Error::from_raw_os_error(-error)),
            _ => Ok(sent),
        }
    }
}
