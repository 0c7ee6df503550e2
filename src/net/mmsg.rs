//! recvmmsg(2) and sendmmsg(2) behind two safe calls. Which datagrams and what to do about errors is the plain
//! backend's.
#![expect(unsafe_code, reason = "message headers are C structures full of pointers")]

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::RawFd;

use super::message::{Headers, MESSAGES_MAX, Message, Name, decode};
use super::outbox::Carrier;
use crate::base::buffer::{Batch, DATAGRAM_MAX, LocalIndex, Path};

pub(super) struct Receiver {
    arrays: Box<Headers>,
    taken: [(usize, SocketAddr); MESSAGES_MAX],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Received {
    pub taken: usize,
    pub bytes: usize,
    /// Longer than a buffer: dropped.
    pub too_long: usize,
    /// Without a usable remote address: dropped.
    pub nameless: usize,
    /// The kernel had fewer than were asked for: nothing waits any more.
    pub exhausted: bool,
}

impl Receiver {
    pub(super) fn new() -> Receiver {
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        Receiver { arrays: Headers::new(), taken: [(0, nowhere); MESSAGES_MAX] }
    }

    /// One recvmmsg into the batch's free buffers.
    pub(super) fn receive(&mut self, fd: RawFd, local: LocalIndex, batch: &mut Batch) -> io::Result<Received> {
        let Headers { headers, vectors, names, .. } = &mut *self.arrays;
        let mut asked = 0;
        for (i, buffer) in batch.free_buffers().take(MESSAGES_MAX).enumerate() {
            vectors[i] = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: DATAGRAM_MAX };
            let header = &mut headers[i].msg_hdr;
            header.msg_name = (&raw mut names[i]).cast();
            header.msg_namelen = size_of::<Name>() as libc::socklen_t;
            header.msg_iov = &raw mut vectors[i];
            header.msg_iovlen = 1;
            asked = i + 1;
        }
        if asked == 0 {
            return Ok(Received::default());
        }
        // SAFETY: the first `asked` headers point to distinct buffers of DATAGRAM_MAX bytes in `batch` and to names in
        // our own arrays, all of which live and are not otherwise touched until the call returns.
        let got = unsafe {
            libc::recvmmsg(fd, headers.as_mut_ptr(), asked as libc::c_uint, libc::MSG_DONTWAIT, std::ptr::null_mut())
        };
        if got < 0 {
            return Err(io::Error::last_os_error());
        }
        let got = got as usize;
        let mut received = Received { exhausted: got < asked, ..Received::default() };
        for i in 0..got {
            let header = &headers[i];
            if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
                received.too_long += 1;
                continue;
            }
            let Some(remote) = decode(&names[i]) else {
                received.nameless += 1;
                continue;
            };
            let len = header.msg_len as usize;
            if i != received.taken {
                // SAFETY: both are whole buffers of `batch`, distinct because the indexes differ, and `batch` has not
                // been touched since the pointers were taken.
                unsafe {
                    let (from, to) = (vectors[i].iov_base.cast::<u8>(), vectors[received.taken].iov_base.cast::<u8>());
                    std::ptr::copy_nonoverlapping(from, to, len.min(DATAGRAM_MAX));
                }
            }
            self.taken[received.taken] = (len, remote);
            received.taken += 1;
            received.bytes += len;
        }
        for (len, remote) in &self.taken[..received.taken] {
            batch.commit(Path { local, remote: *remote }, *len);
        }
        Ok(received)
    }
}

pub(super) struct Sender {
    arrays: Box<Headers>,
}

impl Sender {
    pub(super) fn new() -> Sender {
        Sender { arrays: Headers::new() }
    }
}

impl Carrier for Sender {
    /// One sendmmsg.
    fn carry(&mut self, fd: RawFd, _: LocalIndex, slab: &[u8], messages: &[Message]) -> io::Result<usize> {
        let count = self.arrays.fill(slab, messages);
        let headers = self.arrays.headers.as_mut_ptr();
        // SAFETY: the first `count` headers point into our own arrays and into `slab`, which live until the call
        // returns; the kernel only reads what the vectors, names and controls point to.
        let sent = unsafe { libc::sendmmsg(fd, headers, count as libc::c_uint, libc::MSG_DONTWAIT) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
    }
}
