//! Messages in the kernel's form: addresses, control messages, and the arrays of C structures that carry many of them.
//! Used by every backend; the system calls are theirs.
#![expect(unsafe_code, reason = "socket addresses are a union, and control messages are laid out by hand")]

use std::mem::zeroed;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Messages in one system call.
pub(super) const MESSAGES_MAX: usize = 64;

/// Room for `cmsghdr` and an int, in the unit that keeps it aligned.
pub(super) type Control = [u64; 3];

#[derive(Clone, Copy)]
pub(super) union Name {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl Name {
    pub(super) fn empty() -> Name {
        // SAFETY: all bits zero are a valid value of both variants.
        unsafe { zeroed() }
    }

    /// From what the kernel wrote somewhere else, cut to what fits.
    pub(super) fn from_bytes(bytes: &[u8]) -> Name {
        let mut name = Name::empty();
        // SAFETY: any bits are a valid Name.
        unsafe { copy_cut(bytes, &mut name) };
        name
    }
}

/// # Safety
/// Any bits must be a valid `T`.
unsafe fn copy_cut<T>(bytes: &[u8], to: &mut T) {
    let len = bytes.len().min(size_of::<T>());
    // SAFETY: at most as many bytes as `to` has, and valid there by the caller's word.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), (&raw mut *to).cast(), len) };
}

/// Control messages that the kernel wrote somewhere else, cut to what fits.
pub(super) fn control_from(bytes: &[u8]) -> Control {
    let mut control: Control = [0; 3];
    // SAFETY: any bits are valid integers.
    unsafe { copy_cut(bytes, &mut control) };
    control
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

/// The arrays of one direction, allocated once. Every pointer in them is written anew before each system call, to
/// places that outlive what the kernel does with them.
pub(super) struct Headers {
    pub headers: [libc::mmsghdr; MESSAGES_MAX],
    pub vectors: [libc::iovec; MESSAGES_MAX],
    pub names: [Name; MESSAGES_MAX],
    pub controls: [Control; MESSAGES_MAX],
}

// SAFETY: the pointers inside are never read across calls, so that it does not matter which thread wrote them.
unsafe impl Send for Headers {}

impl Headers {
    pub(super) fn new() -> Box<Headers> {
        // SAFETY: every field is a plain C structure or integer for which all bits zero are a valid value.
        Box::new(unsafe { zeroed() })
    }

    /// Fills in the first messages, as many as fit; how many. The headers point into `self` and `slab`.
    pub(super) fn fill(&mut self, slab: &[u8], messages: &[Message]) -> usize {
        let Headers { headers, vectors, names, controls } = self;
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
                    header.msg_controllen = size_of::<Control>() as _;
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
const _: () = assert!(HEAD + size_of::<i32>() <= size_of::<Control>());

/// `cmsghdr { len, level: SOL_UDP, type: UDP_SEGMENT }` and the segment's size (udp(7)).
fn segment_control(segment: u16) -> Control {
    let mut control: Control = [0; 3];
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

/// The size of the datagrams that the kernel joined (UDP_GRO, an int), if the `len` bytes of control messages tell of
/// one. Only the first is looked at: no other option of ours makes any.
pub(super) fn joined_segment(control: &Control, len: usize) -> Option<usize> {
    if len < HEAD + size_of::<i32>() {
        return None;
    }
    // SAFETY: a cmsghdr and an int fit (asserted above), need no alignment here, and may hold any bits.
    let (head, segment) = unsafe {
        let base: *const u8 = control.as_ptr().cast();
        (base.cast::<libc::cmsghdr>().read_unaligned(), base.add(HEAD).cast::<i32>().read_unaligned())
    };
    let ours = head.cmsg_level == libc::SOL_UDP && head.cmsg_type == libc::UDP_GRO;
    usize::try_from(segment).ok().filter(|segment| ours && *segment > 0)
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

    #[test]
    fn addresses_survive_the_kernels_form_and_mapped_ones_are_normalised() {
        let mut name = Name::empty();
        for text in ["192.0.2.7:40000", "[2001:db8::7]:1", "[fe80::1%3]:9"] {
            let address: SocketAddr = text.parse().unwrap();
            encode(address, &mut name);
            assert_eq!(decode(&name), Some(address));
        }
        encode("[::ffff:192.0.2.7]:5".parse().unwrap(), &mut name);
        assert_eq!(decode(&name), Some("192.0.2.7:5".parse().unwrap()));
        name.v4.sin_family = libc::AF_UNIX as libc::sa_family_t;
        assert_eq!(decode(&name), None);
        assert_eq!(decode(&Name::from_bytes(&[])), None);
    }

    #[test]
    fn only_a_whole_gro_message_names_a_segment() {
        const LEN: usize = HEAD + size_of::<i32>();
        let mut control = segment_control(1_200);
        assert_eq!(joined_segment(&control, LEN), None, "UDP_SEGMENT is for sending");
        let head = libc::cmsghdr { cmsg_len: LEN as _, cmsg_level: libc::SOL_UDP, cmsg_type: libc::UDP_GRO };
        // SAFETY: as in `segment_control`.
        unsafe { control.as_mut_ptr().cast::<libc::cmsghdr>().write(head) };
        assert_eq!(joined_segment(&control, LEN), Some(1_200));
        assert_eq!(joined_segment(&control, LEN - 1), None);
        assert_eq!(joined_segment(&control, 0), None);
        control[2] = 0;
        assert_eq!(joined_segment(&control, LEN), None);
    }
}
