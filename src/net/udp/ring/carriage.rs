//! The outgoing messages as requests of the ring. The kernel sends each while it takes it, in their order, and reports
//! only those that it refuses.
#![expect(unsafe_code, reason = "message headers are C structures full of pointers")]

use std::os::fd::RawFd;

use io_uring::opcode;
use io_uring::squeue::Flags;
use io_uring::types::Fixed;

use super::enter::Ring;
use crate::base::buffer::LocalIndex;
use crate::net::udp::message::{Headers, MESSAGES_MAX, Message};
use crate::net::udp::transmitter::{Carrier, Refused};

/// Marks the completions of sends; below it is the place among the messages.
const SEND: u64 = 1 << 32;

/// The ring, and what it takes to send by it.
pub(super) struct Carriage<'a> {
    pub(super) ring: &'a mut Ring,
    pub(super) arrays: &'a mut Headers,
    /// The first of the registered files to send from.
    pub(super) files: u32,
}

impl Carriage<'_> {
    /// Queues the first messages, as many as fit, each from its socket; returns their number.
    ///
    /// # Safety
    /// `buffer` must live and stay as it is until the ring has been entered, and no other messages may be queued before.
    pub(super) unsafe fn queue(&mut self, from: &[LocalIndex], buffer: &[u8], messages: &[Message]) -> usize {
        // Everything that may panic comes before the first entry is queued.
        let count = self.arrays.fill(buffer, messages).min(from.len());
        for (place, (message, from)) in messages[..count].iter().zip(from).enumerate() {
            let header = &self.arrays.headers[place].msg_hdr;
            let file = Fixed(self.files + u32::from(from.0));
            let bytes = self.arrays.vectors[place].iov_base.cast::<u8>();
            // A request that would have to wait is refused.
            let entry = match message.segment {
                Some(_) => opcode::SendMsg::new(file, &raw const *header).flags(libc::MSG_DONTWAIT as u32).build(),
                // Spares the kernel the copies of a header and a vector.
                None => opcode::Send::new(file, bytes, message.len as u32)
                    .flags(libc::MSG_DONTWAIT)
                    .dest_addr(header.msg_name.cast())
                    .dest_addr_len(header.msg_namelen)
                    .build(),
            };
            let entry = entry.flags(Flags::SKIP_SUCCESS).user_data(SEND | place as u64);
            // SAFETY: the entry points into our own arrays and into `buffer`, which stay until the ring is entered, by
            // the caller's word; and the kernel ends the request while it takes it: MSG_DONTWAIT keeps it from putting it off.
            if !unsafe { self.ring.push(&entry) } {
                return place;
            }
        }
        count
    }

    /// Those of the messages that the kernel refused, by their place.
    pub(super) fn refused(&mut self) -> Vec<Refused> {
        let mut refused = Vec::new();
        self.add_refused(&mut refused);
        refused
    }

    fn add_refused(&mut self, refused: &mut Vec<Refused>) {
        self.ring.look_for(|completion| {
            let is_send = (SEND..2 * SEND).contains(&completion.user_data());
            if is_send && completion.result() < 0 {
                refused.push(Refused { place: (completion.user_data() - SEND) as usize, error: -completion.result() });
            }
            is_send
        });
    }
}

impl Carrier for Carriage<'_> {
    fn carry(
        &mut self,
        _: RawFd,
        local: LocalIndex,
        buffer: &[u8],
        messages: &[Message],
        refused: &mut Vec<Refused>,
    ) -> usize {
        let from = [local; MESSAGES_MAX];
        // SAFETY: the ring is entered before this returns, or never again.
        let queued = unsafe { self.queue(&from, buffer, messages) };
        if let Err(error) = self.ring.submit_all() {
            let error = error.raw_os_error().unwrap_or(libc::EIO);
            refused.extend((0..messages.len()).map(|place| Refused { place, error }));
            return messages.len();
        }
        self.add_refused(refused);
        queued
    }
}
