//! Messages in the kernel's form: addresses, control messages, and the arrays of C structures that carry many of them.
//! Used by every backend; the system calls are theirs.
#![expect(unsafe_code, reason = "socket addresses are a union, and control messages are laid out by hand")]

use std::mem::zeroed;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use crate::base::time::Duration;

/// Messages in one system call.
pub(super) const MESSAGES_MAX: usize = 64;

/// Room for the kernel's control messages about a datagram, in the unit that keeps it aligned: its time of arrival (a
/// `cmsghdr` and a timespec) and the size of joined datagrams (a `cmsghdr` and an int).
pub(super) type ControlBuffer = [u64; 7];

#[derive(Clone, Copy)]
pub(super) union Name {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

/// One message to send: a range of the buffer, which the kernel cuts into datagrams of `segment` bytes (None: one
/// datagram).
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

/// The arrays of one direction, allocated once. Every pointer in them is written anew before each system call, to
/// places that outlive what the kernel does with them.
pub(super) struct Headers {
    pub headers: [libc::mmsghdr; MESSAGES_MAX],
    pub vectors: [libc::iovec; MESSAGES_MAX],
    pub names: [Name; MESSAGES_MAX],
    pub controls: [ControlBuffer; MESSAGES_MAX],
}

// SAFETY: the pointers inside are never read across calls, so that it does not matter which thread wrote them.
unsafe impl Send for Headers {}

impl Headers {
    pub(super) fn new() -> Box<Headers> {
        // SAFETY: every field is a plain C structure or integer for which all bits zero are a valid value.
        Box::new(unsafe { zeroed() })
    }

    /// Fills in the first messages, as many as fit; returns their number. The headers point into `self` and `buffer`.
    pub(super) fn fill(&mut self, buffer: &[u8], messages: &[Message]) -> usize {
        let Headers { headers, vectors, names, controls } = self;
        let count = messages.len().min(MESSAGES_MAX);
        for (i, message) in messages[..count].iter().enumerate() {
            let bytes = &buffer[message.start..message.start + message.len];
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
                    header.msg_controllen = SEGMENT_CONTROL_BYTES as _;
                }
                None => {
                    header.msg_control = std::ptr::null_mut();
                    header.msg_controllen = 0;
                }
            }
        }
        count
    }
}

const HEAD: usize = size_of::<libc::cmsghdr>();
const _: () = assert!(HEAD + size_of::<i32>() <= size_of::<ControlBuffer>());

/// The length that the kernel reads of a `segment_control`: it takes bytes behind it for another message, and refuses
/// them.
const SEGMENT_CONTROL_BYTES: usize = (HEAD + size_of::<u16>()).next_multiple_of(size_of::<usize>());

/// `cmsghdr { len, level: SOL_UDP, type: UDP_SEGMENT }` and the segment's size (udp(7)).
fn segment_control(segment: u16) -> ControlBuffer {
    let mut control: ControlBuffer = [0; 7];
    let len = HEAD + size_of::<u16>();
    let head = libc::cmsghdr { cmsg_len: len as _, cmsg_level: libc::SOL_UDP, cmsg_type: libc::UDP_SEGMENT };
    let base: *mut u8 = control.as_mut_ptr().cast();
    // SAFETY: head and segment fit into `control` (asserted above), and u64 is aligned at least as a cmsghdr.
    unsafe {
        base.cast::<libc::cmsghdr>().write(head);
        base.add(HEAD).cast::<u16>().write(segment);
    }
    control
}

/// The ancillary data (cmsg(3)) that the kernel gives with a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Ancillary {
    /// The size of the datagrams that it joined (UDP_GRO, an int).
    pub segment: Option<usize>,
    /// When the last of them came, by the system clock (SO_TIMESTAMPNS, a timespec).
    pub stamp: Option<Duration>,
}

impl Ancillary {
    /// From the first `len` bytes of control messages.
    pub(super) fn read(control: &ControlBuffer, len: usize) -> Ancillary {
        let mut told = Ancillary::default();
        let mut at = 0;
        while let Some(head) = read_at::<libc::cmsghdr>(control, len, at) {
            let size = head.cmsg_len;
            let end = (at + size).min(len);
            match (head.cmsg_level, head.cmsg_type) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let segment = read_at::<i32>(control, end, at + HEAD).and_then(|size| usize::try_from(size).ok());
                    told.segment = segment.filter(|segment| *segment > 0);
                }
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                    told.stamp = read_at::<libc::timespec>(control, end, at + HEAD)
                        .and_then(|at| Some(Duration::new(at.tv_sec.try_into().ok()?, at.tv_nsec.try_into().ok()?)));
                }
                _ => {}
            }
            // CMSG_NXTHDR: each begins where the one before ends, rounded up.
            at += size.max(HEAD).next_multiple_of(size_of::<usize>());
        }
        told
    }
}

/// A C structure out of the first `len` bytes, None where it would go beyond them.
fn read_at<T: Copy>(control: &ControlBuffer, len: usize, at: usize) -> Option<T> {
    let fits = at.checked_add(size_of::<T>())? <= len.min(size_of::<ControlBuffer>());
    // SAFETY: it lies within `control`; only integers and C structures of integers are read, which may hold any bits
    // and are read without alignment.
    fits.then(|| unsafe { control.as_ptr().cast::<u8>().add(at).cast::<T>().read_unaligned() })
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
pub(super) fn decode(name: &Name) -> Option<SocketAddr> {
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

    /// Control messages, cut to what fits.
    fn control_from(bytes: &[u8]) -> ControlBuffer {
        let mut control: ControlBuffer = [0; 7];
        for (word, bytes) in control.iter_mut().zip(bytes.chunks(8)) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_ne_bytes(whole);
        }
        control
    }

    #[test]
    fn addresses_survive_the_kernels_form_and_mapped_ones_are_normalised() {
        // SAFETY: all bits zero are a valid value of both variants.
        let mut name: Name = unsafe { zeroed() };
        assert_eq!(decode(&name), None, "of no family");
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

    #[test]
    fn what_the_kernel_told_is_read_whole_or_not_at_all() {
        let joined: Vec<u8> =
            [20u64.to_ne_bytes().as_slice(), &libc::SOL_UDP.to_ne_bytes(), &libc::UDP_GRO.to_ne_bytes()]
                .concat()
                .into_iter()
                .chain(1_200i32.to_ne_bytes())
                .chain([0; 4])
                .collect();
        let kind = [libc::SOL_SOCKET.to_ne_bytes(), libc::SCM_TIMESTAMPNS.to_ne_bytes()].concat();
        let stamped: Vec<u8> =
            [32u64.to_ne_bytes().as_slice(), &kind, &7u64.to_ne_bytes(), &9u64.to_ne_bytes()].concat();
        let read = |bytes: &[u8]| {
            let told = Ancillary::read(&control_from(bytes), bytes.len());
            (told.segment, told.stamp)
        };
        let (segment, stamp) = (Some(1_200), Some(Duration::new(7, 9)));
        assert_eq!(read(&joined), (segment, None));
        assert_eq!(read(&[stamped.clone(), joined.clone()].concat()), (segment, stamp));
        assert_eq!(read(&[joined.clone(), stamped.clone()].concat()), (segment, stamp));
        assert_eq!(read(&stamped[..31]), (None, None));
        assert_eq!(read(&joined[..19]), (None, None));
        assert_eq!(read(&[0; 56]), (None, None), "a length of zero does not stop it for ever");
        let control = segment_control(1_200);
        assert_eq!(Ancillary::read(&control, 20), Ancillary::default(), "UDP_SEGMENT is for sending");
    }
}
