//! Which addresses the media edge binds: a wildcard stands for every usable address of the machine, because an answer
//! must leave from the address that was asked (RFC 8445 section 7.2.5.2.1). Called by main before the start.
#![expect(unsafe_code, reason = "getifaddrs(3)")]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// `listen` with each wildcard replaced by the machine's own addresses of that family, without repeats, in a stable
/// order. A machine that has only loopback gets that.
pub fn expand(listen: &[SocketAddr]) -> io::Result<Vec<SocketAddr>> {
    let own = own_addresses()?;
    let mut expanded: Vec<SocketAddr> = Vec::new();
    for address in listen {
        for address in expand_one(*address, &own) {
            if !expanded.contains(&address) {
                expanded.push(address);
            }
        }
    }
    Ok(expanded)
}

fn expand_one(listen: SocketAddr, own: &[IpAddr]) -> Vec<SocketAddr> {
    if !listen.ip().is_unspecified() {
        return vec![listen];
    }
    let same_family = || own.iter().copied().filter(|ip| ip.is_ipv4() == listen.is_ipv4());
    let mut found: Vec<IpAddr> = same_family().filter(|ip| !ip.is_loopback()).collect();
    if found.is_empty() {
        found = same_family().collect();
    }
    found.sort_unstable();
    found.into_iter().map(|ip| SocketAddr::new(ip, listen.port())).collect()
}

/// Whether a peer elsewhere can reach it, or at least one on this machine.
fn is_usable(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_link_local() && !ip.is_unspecified(),
        IpAddr::V6(ip) => !ip.is_unicast_link_local() && !ip.is_unspecified(),
    }
}

/// Addresses of interfaces that are up.
fn own_addresses() -> io::Result<Vec<IpAddr>> {
    let mut list: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: the pointer is to a live local; on success it is freed below.
    if unsafe { libc::getifaddrs(&raw mut list) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut found = Vec::new();
    let mut entry = list;
    while !entry.is_null() {
        // SAFETY: not null, and an element of the list that getifaddrs made and nobody has freed yet.
        let interface = unsafe { &*entry };
        if interface.ifa_flags & libc::IFF_UP as libc::c_uint != 0 {
            // SAFETY: null or a socket address of the length that its family has.
            found.extend(unsafe { address_of(interface.ifa_addr) }.filter(is_usable));
        }
        entry = interface.ifa_next;
    }
    // SAFETY: the list of getifaddrs, freed once, with no reference into it left.
    unsafe { libc::freeifaddrs(list) };
    Ok(found)
}

/// # Safety
/// `address` is null or points to a socket address as long as its family says.
unsafe fn address_of(address: *const libc::sockaddr) -> Option<IpAddr> {
    if address.is_null() {
        return None;
    }
    // SAFETY: not null, and every socket address begins with its family; the casts follow it.
    unsafe {
        match i32::from((*address).sa_family) {
            libc::AF_INET => {
                let v4 = address.cast::<libc::sockaddr_in>().read_unaligned();
                Some(IpAddr::V4(Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes())))
            }
            libc::AF_INET6 => {
                let v6 = address.cast::<libc::sockaddr_in6>().read_unaligned();
                Some(IpAddr::V6(Ipv6Addr::from(v6.sin6_addr.s6_addr)))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_stands_for_usable_addresses_of_its_family() {
        let own: Vec<IpAddr> =
            ["127.0.0.1", "::1", "192.0.2.9", "192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().unwrap()).to_vec();
        let expand = |listen: &str| expand_one(listen.parse().unwrap(), &own);
        let parsed = |list: &[&str]| list.iter().map(|a| a.parse().unwrap()).collect::<Vec<SocketAddr>>();
        assert_eq!(expand("0.0.0.0:5"), parsed(&["192.0.2.1:5", "192.0.2.9:5"]));
        assert_eq!(expand("[::]:5"), parsed(&["[2001:db8::1]:5"]));
        assert_eq!(expand("127.0.0.1:5"), parsed(&["127.0.0.1:5"]));
        assert_eq!(expand_one("0.0.0.0:5".parse().unwrap(), &own[..2]), parsed(&["127.0.0.1:5"]));
    }

    #[test]
    fn this_machine_has_an_address_and_none_is_link_local() {
        let listen = ["0.0.0.0:40000", "[::]:40000", "127.0.0.1:40000", "127.0.0.1:40000"].map(|a| a.parse().unwrap());
        let expanded = expand(&listen).unwrap();
        assert!(expanded.iter().any(SocketAddr::is_ipv4));
        assert!(expanded.iter().all(|address| is_usable(&address.ip()) && address.port() == 40_000));
        assert_eq!(expanded.iter().filter(|address| **address == listen[2]).count(), 1);
    }
}
