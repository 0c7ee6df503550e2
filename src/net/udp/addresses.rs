//! The addresses that the media edge binds: a wildcard stands for every usable address of the machine, because an
//! answer must leave from the address that was asked (RFC 8445 section 7.2.5.2.1). Addresses that the operator excludes
//! and those that cannot be bound yet are left out. Called by main before the start.
#![expect(unsafe_code, reason = "getifaddrs(3)")]

use std::ffi::CStr;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::net::udp::socket;

/// An exclusion from the wildcards.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Exclusion {
    Interface(String),
    /// Every interface whose name begins so.
    Interfaces(String),
    /// Every address that has its first `prefix` bits in common with `base`.
    Range {
        base: IpAddr,
        prefix: u32,
    },
}

impl Exclusion {
    fn covers(&self, own: &MachineAddress) -> bool {
        match (self, own.ip) {
            (Exclusion::Interface(name), _) => own.interface == *name,
            (Exclusion::Interfaces(start), _) => own.interface.starts_with(start),
            (Exclusion::Range { base: IpAddr::V4(base), prefix }, IpAddr::V4(ip)) => {
                (base.to_bits() ^ ip.to_bits()).leading_zeros() >= *prefix
            }
            (Exclusion::Range { base: IpAddr::V6(base), prefix }, IpAddr::V6(ip)) => {
                (base.to_bits() ^ ip.to_bits()).leading_zeros() >= *prefix
            }
            (Exclusion::Range { .. }, _) => false,
        }
    }
}

/// An address of the machine, and the interface that has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MachineAddress {
    pub ip: IpAddr,
    pub interface: String,
}

impl fmt::Display for MachineAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.ip, self.interface)
    }
}

/// The result of expanding a list of addresses.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Expanded {
    pub addresses: Vec<SocketAddr>,
    /// Addresses of the wildcards that cannot be bound: tentative, or found to be another host's (RFC 4862 section
    /// 5.4).
    pub unready: Vec<MachineAddress>,
    /// Excluded by the operator.
    pub excluded: Vec<MachineAddress>,
}

/// `listen` with each wildcard replaced by the machine's own addresses of that family, without repeats, in a stable
/// order. A machine that has only loopback gets that. Other addresses stay as they are.
pub fn expand(listen: &[SocketAddr], exclude: &[Exclusion]) -> io::Result<Expanded> {
    // At any port: whether the wanted one is free is checked elsewhere.
    let ready = |ip: IpAddr| match socket::check_free(SocketAddr::new(ip, 0)) {
        Err(error) => error.kind() != io::ErrorKind::AddrNotAvailable,
        Ok(()) => true,
    };
    Ok(expand_among(listen, exclude, &own_addresses()?, ready))
}

fn expand_among(
    listen: &[SocketAddr],
    exclude: &[Exclusion],
    own: &[MachineAddress],
    ready: impl Fn(IpAddr) -> bool,
) -> Expanded {
    let mut expanded = Expanded::default();
    for address in listen {
        if !address.ip().is_unspecified() {
            add(&mut expanded.addresses, *address);
            continue;
        }
        let of_family = own.iter().filter(|own| own.ip.is_ipv4() == address.is_ipv4());
        let (excluded, wanted): (Vec<&MachineAddress>, Vec<&MachineAddress>) =
            of_family.partition(|own| exclude.iter().any(|exclusion| exclusion.covers(own)));
        excluded.into_iter().for_each(|own| add(&mut expanded.excluded, own.clone()));
        let mut wanted = preferred(wanted);
        wanted.sort_unstable_by_key(|own| own.ip);
        for own in wanted {
            if ready(own.ip) {
                add(&mut expanded.addresses, SocketAddr::new(own.ip, address.port()));
            } else {
                add(&mut expanded.unready, own.clone());
            }
        }
    }
    expanded
}

fn add<T: PartialEq>(list: &mut Vec<T>, element: T) {
    if !list.contains(&element) {
        list.push(element);
    }
}

/// Loopback only where there is no other.
fn preferred(own: Vec<&MachineAddress>) -> Vec<&MachineAddress> {
    let (loopback, others): (Vec<&MachineAddress>, Vec<&MachineAddress>) =
        own.into_iter().partition(|own| own.ip.is_loopback());
    if others.is_empty() { loopback } else { others }
}

/// Whether a peer elsewhere can reach it, or at least one on this machine.
fn is_usable(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_link_local() && !ip.is_unspecified(),
        IpAddr::V6(ip) => !ip.is_unicast_link_local() && !ip.is_unspecified(),
    }
}

/// Addresses of interfaces that are up.
fn own_addresses() -> io::Result<Vec<MachineAddress>> {
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
            if let Some(ip) = unsafe { address_of(interface.ifa_addr) }.filter(is_usable) {
                // SAFETY: getifaddrs gives each element a name that ends with a zero and lives as long as the list.
                let name = unsafe { CStr::from_ptr(interface.ifa_name) };
                found.push(MachineAddress { ip, interface: name.to_string_lossy().into_owned() });
            }
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

    fn own(list: &[(&str, &str)]) -> Vec<MachineAddress> {
        list.iter()
            .map(|(ip, interface)| MachineAddress { ip: ip.parse().unwrap(), interface: (*interface).to_owned() })
            .collect()
    }

    fn machine() -> Vec<MachineAddress> {
        own(&[
            ("127.0.0.1", "lo"),
            ("::1", "lo"),
            ("192.0.2.9", "eth0"),
            ("192.0.2.1", "eth0"),
            ("2001:db8::1", "eth0"),
            ("172.17.0.1", "docker0"),
            ("172.18.0.1", "br-4f1e"),
            ("10.8.0.1", "wg0"),
            ("fd00:8::1", "wg0"),
        ])
    }

    fn parsed(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|address| address.parse().unwrap()).collect()
    }

    fn range(base: &str, prefix: u32) -> Exclusion {
        Exclusion::Range { base: base.parse().unwrap(), prefix }
    }

    #[test]
    fn a_wildcard_stands_for_usable_addresses_of_its_family() {
        let expand = |listen: &str| expand_among(&parsed(&[listen]), &[], &machine()[..5], |_| true).addresses;
        assert_eq!(expand("0.0.0.0:5"), parsed(&["192.0.2.1:5", "192.0.2.9:5"]));
        assert_eq!(expand("[::]:5"), parsed(&["[2001:db8::1]:5"]));
        assert_eq!(expand("127.0.0.1:5"), parsed(&["127.0.0.1:5"]));
        let only = expand_among(&parsed(&["0.0.0.0:5"]), &[], &machine()[..2], |_| true);
        assert_eq!(only.addresses, parsed(&["127.0.0.1:5"]));
    }

    #[test]
    fn interfaces_and_ranges_can_be_left_out_of_a_wildcard() {
        let left = |exclude: &[Exclusion]| {
            let listen = parsed(&["0.0.0.0:5", "[::]:5", "172.17.0.1:6"]);
            expand_among(&listen, exclude, &machine(), |_| true)
        };
        let (docker, bridges) = (Exclusion::Interface("docker0".into()), Exclusion::Interfaces("br-".into()));
        let without = left(&[docker, bridges, range("10.0.0.0", 8), range("fc00::", 7)]);
        let rest = ["192.0.2.1:5", "192.0.2.9:5", "[2001:db8::1]:5", "172.17.0.1:6"];
        assert_eq!(without.addresses, parsed(&rest), "what is named by itself stays");
        assert_eq!(without.excluded.len(), 4, "{without:?}");
        assert_eq!(left(&[range("192.0.2.9", 32)]).excluded, own(&[("192.0.2.9", "eth0")]));
        let no_v4 = parsed(&["[2001:db8::1]:5", "[fd00:8::1]:5", "172.17.0.1:6"]);
        assert_eq!(left(&[range("0.0.0.0", 0)]).addresses, no_v4);
        assert_eq!(left(&[Exclusion::Interface("docker".into())]).excluded, [], "names are whole");
        assert_eq!(left(&[range("::", 0)]).excluded.len(), 3, "and families apart");
    }

    #[test]
    fn an_address_that_cannot_be_bound_yet_is_left_out_where_a_wildcard_brought_it() {
        let tentative: IpAddr = "2001:db8::1".parse().unwrap();
        let listen = parsed(&["[::]:5", "0.0.0.0:5", "[2001:db8::1]:6"]);
        let expanded = expand_among(&listen, &[], &machine()[..5], |ip| ip != tentative);
        assert_eq!(expanded.addresses, parsed(&["192.0.2.1:5", "192.0.2.9:5", "[2001:db8::1]:6"]));
        assert_eq!(expanded.unready, own(&[("2001:db8::1", "eth0")]));
        assert_eq!(expanded.unready[0].to_string(), "2001:db8::1 of eth0");
    }

    #[test]
    fn this_machine_has_an_address_and_none_is_link_local() {
        let listen = ["0.0.0.0:40000", "[::]:40000", "127.0.0.1:40000", "127.0.0.1:40000"].map(|a| a.parse().unwrap());
        let Expanded { addresses, .. } = expand(&listen, &[]).unwrap();
        assert!(addresses.iter().any(SocketAddr::is_ipv4));
        assert!(addresses.iter().all(|address| is_usable(&address.ip()) && address.port() == 40_000));
        assert_eq!(addresses.iter().filter(|address| **address == listen[2]).count(), 1);
    }
}
