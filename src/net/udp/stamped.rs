//! Receiving as an observer: batches of datagrams from connected sockets, each with the kernel's time of arrival, so
//! that a late read does not count as delay. Used by `load`.
#![expect(unsafe_code, reason = "recvmmsg(2) with control messages")]

use std::io;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, RawFd};

use crate::net::udp::message::{Ancillary, ControlBuffer, MESSAGES_MAX};
use crate::net::udp::socket::set_option;

/// With receive offload a message is up to a whole run.
const MESSAGES_OF_RUNS_MAX: usize = 16;
const MESSAGE_BYTES: usize = 2_048;
const RUN_BYTES: usize = 65_536;

/// The zero of CLOCK_REALTIME, in which the kernel stamps, is that of `SystemTime`.
pub type UnixNanos = u64;

/// Asks the kernel to stamp what `socket` receives, and with `runs` to leave what came in runs in runs (UDP_GRO).
pub fn prepare(socket: &impl AsRawFd, runs: bool) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &1i32)?;
    if runs { set_option(socket, libc::SOL_UDP, libc::UDP_GRO, &1i32) } else { Ok(()) }
}

pub struct StampedReceiver {
    headers: Vec<libc::mmsghdr>,
    vectors: Vec<libc::iovec>,
    controls: Vec<ControlBuffer>,
    memory: Vec<u8>,
    slot: usize,
}

impl StampedReceiver {
    pub fn new(runs: bool) -> StampedReceiver {
        let (messages, slot) = if runs { (MESSAGES_OF_RUNS_MAX, RUN_BYTES) } else { (MESSAGES_MAX, MESSAGE_BYTES) };
        // SAFETY: both are plain C structures for which all bits zero are a valid value.
        let (header, vector) = unsafe { (zeroed::<libc::mmsghdr>(), zeroed::<libc::iovec>()) };
        StampedReceiver {
            headers: vec![header; messages],
            vectors: vec![vector; messages],
            controls: vec![ControlBuffer::default(); messages],
            memory: vec![0; messages * slot],
            slot,
        }
    }

    /// One recvmmsg; hands every datagram on with its time (0: none was told), and says whether more may wait.
    pub fn receive(&mut self, fd: RawFd, mut take: impl FnMut(&mut [u8], UnixNanos)) -> io::Result<bool> {
        let parts = self.headers.iter_mut().zip(&mut self.vectors).zip(&mut self.controls);
        for (((header, vector), control), buffer) in parts.zip(self.memory.chunks_exact_mut(self.slot)) {
            *vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = control.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = size_of::<ControlBuffer>();
        }
        let asked = self.headers.len();
        // SAFETY: the headers point to vectors, buffers and controls of our own, distinct and alive until the call
        // returns; no names are asked for.
        let got = unsafe {
            let headers = self.headers.as_mut_ptr();
            libc::recvmmsg(fd, headers, asked as libc::c_uint, libc::MSG_DONTWAIT, std::ptr::null_mut())
        };
        if got < 0 {
            return Err(io::Error::last_os_error());
        }
        let got = got as usize;
        let filled = self.headers[..got].iter().zip(&self.controls).zip(self.memory.chunks_exact_mut(self.slot));
        for ((header, control), buffer) in filled {
            let len = (header.msg_len as usize).min(buffer.len());
            let told = Ancillary::read(control, header.msg_hdr.msg_controllen);
            let at = told.stamp.map_or(0, |stamp| stamp.as_nanos() as UnixNanos);
            for datagram in buffer[..len].chunks_mut(told.segment.unwrap_or(len).max(1)) {
                take(datagram, at);
            }
        }
        Ok(got == asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::udp::socket::{Sharing, bind, local_address};
    use std::net::SocketAddr;

    #[test]
    fn datagrams_come_in_order_each_with_its_time() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        for runs in [false, true] {
            let (from, to) = (bind(any, Sharing::Alone).unwrap(), bind(any, Sharing::Alone).unwrap());
            prepare(&to, runs).unwrap();
            from.connect(&local_address(&to).unwrap().into()).unwrap();
            if runs {
                set_option(&from, libc::SOL_UDP, libc::UDP_SEGMENT, &3i32).unwrap();
                from.send(b"onetwosix").unwrap();
            } else {
                [b"one", b"two", b"six"].iter().for_each(|bytes| assert_eq!(from.send(*bytes).unwrap(), 3));
            }
            let mut seen = Vec::new();
            let mut receiver = StampedReceiver::new(runs);
            let more = receiver.receive(to.as_raw_fd(), |bytes, at| seen.push((bytes.to_vec(), at))).unwrap();
            assert!(!more);
            assert_eq!(seen.iter().map(|(bytes, _)| &bytes[..]).collect::<Vec<_>>(), [b"one", b"two", b"six"]);
            assert!(seen.is_sorted_by_key(|(_, at)| *at));
            assert!(seen[0].1 > 1_600_000_000_000_000_000, "nanoseconds since 1970");
            assert!(receiver.receive(to.as_raw_fd(), |_, _| panic!("nothing waits")).is_err());
        }
    }
}
