//! UDP sockets with the options of an SFU, and the kernel's abilities. Backends send and receive.
#![expect(unsafe_code, reason = "setsockopt(2) and getsockopt(2) for options that socket2 does not know")]

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// The size asked for each socket's queues: some milliseconds of a full core. The kernel accounts about 2.3 kB for a
/// datagram of 1.2 kB.
pub const SOCKET_BUFFER_BYTES: usize = 8 * 1024 * 1024;

/// Largest UDP payload over IPv4 (65,535 less IP and UDP headers), which is also the most that one run may carry.
pub const RUN_PAYLOAD_MAX: usize = 65_507;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sharing {
    /// The only socket on its address: another one there is an error.
    Alone,
    /// One of a SO_REUSEPORT group.
    Group,
}

/// Binds a nonblocking socket of `address`'s own family alone.
pub fn bind(address: SocketAddr, sharing: Sharing) -> io::Result<Socket> {
    let socket = open(address, sharing)?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}

/// The same, not bound yet: for a caller that must do something before the first datagram can come.
pub fn open(address: SocketAddr, sharing: Sharing) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if sharing == Sharing::Group {
        socket.set_reuse_port(true)?;
    }
    fit(&socket, address.is_ipv6())?;
    Ok(socket)
}

/// Takes a socket that somebody else has bound; returns its address.
pub fn adopt(socket: &Socket) -> io::Result<SocketAddr> {
    let address = local_address(socket)?;
    socket.set_nonblocking(true)?;
    fit(socket, address.is_ipv6())?;
    Ok(address)
}

/// The options that a socket may get at any time.
fn fit(socket: &Socket, v6: bool) -> io::Result<()> {
    ignore_path_mtu(socket, v6)?;
    set_option(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &1i32)?;
    grow_buffer(socket, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF)?;
    grow_buffer(socket, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)
}

/// An ICMP "packet too big" can be forged by anyone who guesses a 5-tuple, and one that shrinks the path MTU below a
/// run's segment makes the kernel refuse the run. OMIT ignores them, and what exceeds the interface is fragmented
/// instead of refused.
fn ignore_path_mtu(socket: &Socket, v6: bool) -> io::Result<()> {
    if v6 {
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, &libc::IPV6_PMTUDISC_OMIT)
    } else {
        set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, &libc::IP_PMTUDISC_OMIT)
    }
}

/// The forced option passes net.core.[rw]mem_max but needs CAP_NET_ADMIN; the plain one is cut to that maximum.
fn grow_buffer(socket: &Socket, forced: i32, plain: i32) -> io::Result<()> {
    let bytes = SOCKET_BUFFER_BYTES as i32;
    set_option(socket, libc::SOL_SOCKET, forced, &bytes)
        .or_else(|_| set_option(socket, libc::SOL_SOCKET, plain, &bytes))
}

/// The receive buffer that the kernel granted of [`SOCKET_BUFFER_BYTES`]. It reports twice the size asked for
/// (socket(7)).
pub fn receive_buffer_granted(socket: &Socket) -> io::Result<usize> {
    Ok(socket.recv_buffer_size()? / 2)
}

/// Whether anyone, this process included, has `address`. Two sockets of one user with SO_REUSEPORT would share it in
/// silence, so this asks without.
pub fn check_free(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.cloexec(), Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&SockAddr::from(address))
}

pub fn local_address(socket: &Socket) -> io::Result<SocketAddr> {
    let address = socket.local_addr()?;
    address.as_socket().ok_or_else(|| io::Error::other("a UDP socket without an IP address"))
}

pub fn set_option<T: Copy>(socket: &impl AsRawFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    let size = size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer and the size are those of `value`, which the kernel only reads.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const *value).cast(), size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

pub fn int_option(socket: &impl AsRawFd, level: i32, name: i32) -> io::Result<i32> {
    let mut value = 0i32;
    let mut size = size_of::<i32>() as libc::socklen_t;
    // SAFETY: both pointers are to live locals of the sizes given.
    let result = unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// Lets the kernel join datagrams of one sender that came in a row (UDP_GRO, Linux 5.0). Without it they come one by
/// one.
pub fn join_datagrams(sockets: &[Socket]) {
    for socket in sockets {
        let _ = set_option(socket, libc::SOL_UDP, libc::UDP_GRO, &1i32);
    }
}

/// The most datagrams that this kernel cuts out of one send: 128, 64 before Linux 6.10, 1 without UDP GSO (before
/// 4.18). Found by sending to ourselves.
pub fn run_datagrams_max() -> usize {
    let loopbacks = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), SocketAddr::from((Ipv6Addr::LOCALHOST, 0))];
    for loopback in loopbacks {
        if let Ok(max) = probe_runs(loopback) {
            return max;
        }
    }
    1
}

fn probe_runs(loopback: SocketAddr) -> io::Result<usize> {
    let socket = bind(loopback, Sharing::Alone)?;
    let to = socket.local_addr()?;
    if set_option(&socket, libc::SOL_UDP, libc::UDP_SEGMENT, &1i32).is_err() {
        return Ok(1);
    }
    let bytes = [0; 128];
    Ok([128, 64].into_iter().find(|count| socket.send_to(&bytes[..*count], &to).is_ok()).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_set_on_both_families() {
        let v4 = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Sharing::Alone).unwrap();
        let v6 = bind(SocketAddr::from((Ipv6Addr::LOCALHOST, 0)), Sharing::Alone).unwrap();
        assert_eq!(int_option(&v4, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER).unwrap(), libc::IP_PMTUDISC_OMIT);
        assert_eq!(int_option(&v6, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER).unwrap(), libc::IPV6_PMTUDISC_OMIT);
        assert_eq!(int_option(&v6, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY).unwrap(), 1);
        assert!(receive_buffer_granted(&v4).unwrap() > 64 * 1024);
        assert!(matches!(run_datagrams_max(), 1 | 64 | 128));
    }

    #[test]
    fn a_group_shares_its_port_and_a_stranger_is_seen() {
        let first = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Sharing::Group).unwrap();
        let address = local_address(&first).unwrap();
        let second = bind(address, Sharing::Group).unwrap();
        assert_eq!(local_address(&second).unwrap(), address);
        assert_eq!(check_free(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop((first, second));
        check_free(address).unwrap();
    }
}
