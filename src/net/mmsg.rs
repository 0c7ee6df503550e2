//! recvmmsg(2) and sendmmsg(2) with their arrays of pointers, behind two safe calls. Which datagrams and what to do
//! about errors is the plain backend's.
#![expect(unsafe_code, reason = "message headers are C structures full of pointers")]

use std::io;
use std::mem::zeroed;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::RawFd;

use super::clock::Clock;
use super::stamp::{Moment, StampControl};
use crate::base::buffer::{Batch, DATAGRAM_MAX, LocalIndex, Path};
use crate::base::time::Instant;

/// Messages in one system call.
pub(super) const MESSAGES_MAX: usize = 64;

/// Room for `cmsghdr` and a u16 or a stamp, in the unit that keeps it aligned.
type Control = StampControl;

#[derive(Clone, Copy)]
union Name {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

/// The arrays of one direction, allocated once. Every pointer in them is written anew before each system call, to
/// places that outlive the call.
struct Arrays {
    headers: [libc::mmsghdr; MESSAGES_MAX],
    vectors: [libc::iovec; MESSAGES_MAX],
    names: [Name; MESSAGES_MAX],
    controls: [Control; MESSAGES_MAX],
}

// SAFETY: the pointers inside are never read across calls, so that it does not matter which thread wrote them.
unsafe impl Send for Arrays {}

impl Arrays {
    fn new() -> Box<Arrays> {
        // SAFETY: every field is a plain C structure or integer for which all bits zero are a valid value.
        Box::new(unsafe { zeroed() })
    }
}

pub(super) struct Receiver {
    arrays: Box<Arrays>,
    taken: [(usize, SocketAddr, Option<Instant>); MESSAGES_MAX],
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
        Receiver { arrays: Arrays::new(), taken: [(0, nowhere, None); MESSAGES_MAX] }
    }

    /// One recvmmsg into the batch's free buffers.
    pub(super) fn receive(
        &mut self,
        fd: RawFd,
        local: LocalIndex,
        clock: &Clock,
        batch: &mut Batch,
    ) -> io::Result<Received> {
        let Arrays { headers, vectors, names, controls } = &mut *self.arrays;
        let mut asked = 0;
        for (i, buffer) in batch.free_buffers().take(MESSAGES_MAX).enumerate() {
            vectors[i] = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: DATAGRAM_MAX };
            let header = &mut headers[i].msg_hdr;
            header.msg_name = (&raw mut names[i]).cast();
            header.msg_namelen = size_of::<Name>() as libc::socklen_t;
            header.msg_iov = &raw mut vectors[i];
            header.msg_iovlen = 1;
            header.msg_control = (&raw mut controls[i]).cast();
            header.msg_controllen = size_of::<Control>() as _;
            asked = i + 1;
        }
        if asked == 0 {
            return Ok(Received::default());
        }
        // SAFETY: the first `asked` headers point to distinct buffers of DATAGRAM_MAX bytes in `batch` and to names and
        // controls in our own arrays, all of which live and are not otherwise touched until the call returns.
        let got = unsafe {
            libc::recvmmsg(fd, headers.as_mut_ptr(), asked as libc::c_uint, libc::MSG_DONTWAIT, std::ptr::null_mut())
        };
        if got < 0 {
            return Err(io::Error::last_os_error());
        }
        let got = got as usize;
        let moment = Moment::read(clock);
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
            let arrived = moment.arrival(&controls[i], header.msg_hdr.msg_controllen as _);
            self.taken[received.taken] = (len, remote, arrived);
            received.taken += 1;
            received.bytes += len;
        }
        for (len, remote, arrived) in &self.taken[..received.taken] {
            batch.commit_arrived(Path { local, remote: *remote }, *len, *arrived);
        }
        Ok(received)
    }
}

/// One message to send: a range of the slab, cut into datagrams of `segment` bytes by the kernel (None: one datagram).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Message {
    pub remote: SocketAddr,
    pub start: usize,
    pub len: usize,
    pub segment: Option<u16>,
}

impl Message {
    pub(super) fn datagrams(&self) -> usize {
        self.segment.map_or(1, |segment| self.len.div_ceil(usize::from(segment.max(1))))
    }
}

pub(super) struct Sender {
    arrays: Box<Arrays>,
}

impl Sender {
    pub(super) fn new() -> Sender {
        Sender { arrays: Arrays::new() }
    }

    /// One sendmmsg of the first messages, as many as fit into the arrays. How many the kernel took, at least one;
    /// an error is that of the first message.
    pub(super) fn send(&mut self, fd: RawFd, slab: &[u8], messages: &[Message]) -> io::Result<usize> {
        let Arrays { headers, vectors, names, controls } = &mut *self.arrays;
        let count = messages.len().min(MESSAGES_MAX);
        for (i, message) in messages[..count].iter().enumerate() {
            let bytes = &slab[message.start..message.start + message.len];
            vectors[i] = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            let name_len = encode(message.remote, &mut names[i]);
            let header = &mut headers[i].msg_hdr;
            header.msg_name = (&raw mut names[i]).cast();
            header.msg_namelen = name_len;
            header.msg_iov = &raw mut vectors[i];
            header.msg_iovlen = 1;
            match message.segment {
                Some(segment) => {
                    controls[i] = segment_control(segment);
                    header.msg_control = (&raw mut controls[i]).cast();
                    header.msg_controllen = SEGMENT_CONTROL as _;
                }
                None => {
                    header.msg_control = std::ptr::null_mut();
                    header.msg_controllen = 0;
                }
            }
        }
        // SAFETY: the first `count` headers point into our own arrays and into `slab`, which live until the call
        // returns; the kernel only reads what the vectors, names and controls point to.
        let sent = unsafe { libc::sendmmsg(fd, headers.as_mut_ptr(), count as libc::c_uint, libc::MSG_DONTWAIT) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
    }
}

/// `CMSG_SPACE` of a u16: what more the room holds is no message.
const SEGMENT_CONTROL: usize = size_of::<libc::cmsghdr>() + size_of::<u64>();

/// `cmsghdr { len, level: SOL_UDP, type: UDP_SEGMENT }` and the segment's size (udp(7)).
fn segment_control(segment: u16) -> Control {
    const LEN: usize = size_of::<libc::cmsghdr>() + size_of::<u16>();
    const _: () = assert!(LEN <= size_of::<Control>());
    let mut control: Control = [0; 4];
    let head = libc::cmsghdr { cmsg_len: LEN as _, cmsg_level: libc::SOL_UDP, cmsg_type: libc::UDP_SEGMENT };
    let base: *mut u8 = control.as_mut_ptr().cast();
    // SAFETY: head and segment fit into `control` (asserted above), and u64 is aligned at least as a cmsghdr.
    unsafe {
        base.cast::<libc::cmsghdr>().write(head);
        base.add(size_of::<libc::cmsghdr>()).cast::<u16>().write(segment);
    }
    control
}

/// Writes the address in the kernel's form; its length.
fn encode(address: SocketAddr, name: &mut Name) -> libc::socklen_t {
    match address {
        SocketAddr::V4(address) => {
            name.v4 = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: address.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                sin_zero: [0; 8],
            };
            size_of::<libc::sockaddr_in>() as libc::socklen_t
        }
        SocketAddr::V6(address) => {
            name.v6 = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: address.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                sin6_scope_id: address.scope_id(),
            };
            size_of::<libc::sockaddr_in6>() as libc::socklen_t
        }
    }
}

/// The remote address in the one form that the rest of the crate compares: IPv4 is never written as mapped IPv6, and
/// the flow label is not part of it.
fn decode(name: &Name) -> Option<SocketAddr> {
    // SAFETY: both variants begin with the family, and all bits of `name` are initialised.
    let family = i32::from(unsafe { name.v4.sin_family });
    match family {
        libc::AF_INET => {
            // SAFETY: the kernel wrote a sockaddr_in.
            let v4 = unsafe { name.v4 };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(v4.sin_port))))
        }
        libc::AF_INET6 => {
            // SAFETY: the kernel wrote a sockaddr_in6.
            let v6 = unsafe { name.v6 };
            let (ip, port) = (Ipv6Addr::from(v6.sin6_addr.s6_addr), u16::from_be(v6.sin6_port));
            Some(match ip.to_ipv4_mapped() {
                Some(ip) => SocketAddr::V4(SocketAddrV4::new(ip, port)),
                None => SocketAddr::V6(SocketAddrV6::new(ip, port, 0, v6.sin6_scope_id)),
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernels_form_and_mapped_ones_are_normalised() {
        // SAFETY: all bits zero are a valid Name.
        let mut name: Name = unsafe { zeroed() };
        for text in ["192.0.2.7:40000", "[2001:db8::7]:1", "[fe80::1%3]:9"] {
            let address: SocketAddr = text.parse().unwrap();
            encode(address, &mut name);
            assert_eq!(decode(&name), Some(address));
        }
        encode("[::ffff:192.0.2.7]:5".parse().unwrap(), &mut name);
        assert_eq!(decode(&name), Some("192.0.2.7:5".parse().unwrap()));
        name.v4.sin_family = libc::AF_UNIX as libc::sa_family_t;
        assert_eq!(decode(&name), None);
    }
}
