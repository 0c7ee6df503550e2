//! The few system calls of the floor: recvmmsg, and sendmsg with UDP_SEGMENT. As bare as they can be, for this bench
//! alone: every saving here lowers the floor.
#![expect(unsafe_code, reason = "message headers are C structures full of pointers")]

use std::io::{self, IoSlice};
use std::mem::zeroed;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::{MsgHdr, SockAddr, Socket};
use weirgate::net::udp::socket::{Sharing, bind, set_option};

const MESSAGES: usize = 64;
const BUFFER: usize = 2_048;
/// Room for a `cmsghdr` and a timespec.
type Control = [u64; 4];

pub fn loopback() -> Socket {
    bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Sharing::Alone).expect("loopback is there")
}

/// Has the kernel note when it put each datagram into the socket's queue.
pub fn stamp_arrivals(socket: &Socket) {
    set_option(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &1i32).expect("an option of every kernel");
}

/// Buffers for one recvmmsg.
pub struct Inbox {
    buffers: Vec<[u8; BUFFER]>,
    controls: Vec<Control>,
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

impl Inbox {
    pub fn new() -> Inbox {
        // SAFETY: both are plain C structures for which all bits zero are a valid value.
        let (vector, header) = unsafe { (zeroed(), zeroed()) };
        Inbox {
            buffers: vec![[0; BUFFER]; MESSAGES],
            controls: vec![[0; 4]; MESSAGES],
            vectors: vec![vector; MESSAGES],
            headers: vec![header; MESSAGES],
        }
    }

    /// Returns the number of datagrams. A blocking socket waits for the first; those that are there with it come too.
    pub fn receive(&mut self, socket: &Socket) -> usize {
        for at in 0..MESSAGES {
            self.vectors[at] = libc::iovec { iov_base: self.buffers[at].as_mut_ptr().cast(), iov_len: BUFFER };
            let header = &mut self.headers[at].msg_hdr;
            header.msg_iov = &raw mut self.vectors[at];
            header.msg_iovlen = 1;
            header.msg_control = self.controls[at].as_mut_ptr().cast();
            header.msg_controllen = size_of::<Control>() as _;
        }
        // SAFETY: every header points into our own arrays, of the lengths given, which nobody else touches meanwhile.
        let got = unsafe {
            let headers = self.headers.as_mut_ptr();
            libc::recvmmsg(socket.as_raw_fd(), headers, MESSAGES as _, libc::MSG_WAITFORONE, std::ptr::null_mut())
        };
        usize::try_from(got).unwrap_or(0)
    }

    pub fn is_full(&self, came: usize) -> bool {
        came == MESSAGES
    }

    pub fn packet(&mut self, at: usize) -> &mut [u8] {
        &mut self.buffers[at][..self.headers[at].msg_len as usize]
    }

    /// The kernel's time of arrival, since 1970. Only for a socket whose arrivals are stamped.
    pub fn arrived(&self, at: usize) -> Duration {
        let [_, _, seconds, nanos] = self.controls[at];
        Duration::new(seconds, nanos as u32)
    }
}

/// Sends `bytes` as datagrams of `segment` bytes, of which only the last may be shorter.
pub fn send_run(socket: &Socket, to: &SockAddr, bytes: &[u8], segment: usize) -> io::Result<usize> {
    let (vectors, control) = ([IoSlice::new(bytes)], segment_control(segment as u16));
    let message = MsgHdr::new().with_addr(to).with_buffers(&vectors);
    let message = if bytes.len() > segment { message.with_control(&control) } else { message };
    socket.sendmsg(&message, 0)
}

/// `cmsghdr { len, level, type }` and the segment's size (udp(7)), padded to whole words.
fn segment_control(segment: u16) -> [u8; 24] {
    const LEN: usize = size_of::<libc::cmsghdr>() + size_of::<u16>();
    let mut control = [0; 24];
    control[..8].copy_from_slice(&LEN.to_ne_bytes());
    control[8..12].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
    control[12..16].copy_from_slice(&libc::UDP_SEGMENT.to_ne_bytes());
    control[16..18].copy_from_slice(&segment.to_ne_bytes());
    control
}
