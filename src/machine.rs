//! The machine check: whether this machine can run the configuration. Each finding says what is wrong and how to cure
//! it. Limits that this process may raise by itself are raised. Ports are only probed; `main` binds those of HTTP, the
//! media tower the others.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use glommio::{LocalExecutorBuilder, Placement};
use rlimit::Resource;
use weirgate::base::limits::{HTTP_CONNECTIONS_MAX, SOCKETS_MAX};
use weirgate::net::udp::addresses::{Expanded, MachineAddress};
use weirgate::net::udp::ring;
use weirgate::net::udp::socket::{self, SOCKET_BUFFER_BYTES, Sharing};

/// The locked memory that glommio needs, per executor.
const MEMLOCK_PER_SHARD: u64 = 512 * 1024;
const PLAIN_THREADS: &str = "shards run on plain threads instead of glommio's executors";
const PLAIN_CALLS: &str = "they read and write their sockets as with --io plain";
/// Descriptors for rings, events, logs and everything else beside sockets.
const DESCRIPTORS_SPARE: u64 = 512;
const DESCRIPTORS_PER_SHARD: u64 = 64;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Finding {
    /// The start fails with it; otherwise it is a warning.
    pub(crate) fatal: bool,
    pub(crate) what: String,
    pub(crate) cure: Option<String>,
}

impl Finding {
    fn error(what: impl Into<String>, cure: impl Into<String>) -> Finding {
        Finding { fatal: true, what: what.into(), cure: Some(cure.into()) }
    }

    pub(crate) fn warning(what: impl Into<String>, cure: impl Into<String>) -> Finding {
        Finding { fatal: false, what: what.into(), cure: Some(cure.into()) }
    }
}

/// The purpose of a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PortPurpose {
    Media,
    Http,
    Admin,
}

/// `media`: the UDP addresses of every shard; `ring`: the shards are to use io_uring; `expanded`: the result of
/// --rtc-listen.
pub(crate) fn check(
    shards: usize,
    ring: bool,
    media: &[SocketAddr],
    candidates: &[SocketAddr],
    expanded: &Expanded,
) -> Vec<Finding> {
    let shards = shards as u64;
    let (memlock, descriptors) = (raised(Resource::MEMLOCK), raised(Resource::NOFILE));
    let memory = memlock_finding(memlock, shards);
    // Without locked memory a probe of the executor would report the same in other words.
    let io_uring = io_uring_finding(memlock >= MEMLOCK_PER_SHARD, ring);
    let mut findings: Vec<Finding> =
        [memory, io_uring, descriptors_finding(descriptors, shards), receive_buffer_finding()]
            .into_iter()
            .flatten()
            .collect();
    findings.extend(reach_finding(media, candidates, expanded));
    findings.extend(expanded.unready.iter().map(unready_finding));
    findings
}

/// The media addresses that are not free to be bound.
pub(crate) fn taken_ports(media: &[SocketAddr]) -> Vec<Finding> {
    let taken = |address: &SocketAddr| port_finding(PortPurpose::Media, *address, socket::check_free(*address).err()?);
    let mut findings: Vec<Finding> = media.iter().filter_map(taken).collect();
    // Ports of one address that is not ours all fail alike.
    findings.dedup();
    findings
}

/// The soft limit, after it was raised to the hard one where that is allowed. u64::MAX: there is none, or it is
/// unknown.
fn raised(resource: Resource) -> u64 {
    match resource.get() {
        Ok((soft, hard)) if soft < hard && resource.set(hard, hard).is_ok() => hard,
        Ok((soft, _)) => soft,
        Err(_) => u64::MAX,
    }
}

fn memlock_finding(limit: u64, shards: u64) -> Option<Finding> {
    let needed = MEMLOCK_PER_SHARD * shards;
    let kib = limit / 1024;
    let cure = format!(
        "raise the limit to {} KiB: `ulimit -l`, LimitMEMLOCK=infinity in a systemd unit, --ulimit memlock=-1 for a container",
        needed / 1024
    );
    if limit < MEMLOCK_PER_SHARD {
        let what = format!("the limit on locked memory is {kib} KiB, too little for an executor: {PLAIN_THREADS}");
        return Some(Finding::warning(what, cure));
    }
    let what = format!("the limit on locked memory is {kib} KiB for {shards} shards: kernels before 5.12 need more");
    (limit < needed).then(|| Finding::warning(what, cure))
}

fn descriptors_finding(limit: u64, shards: u64) -> Option<Finding> {
    let spare = DESCRIPTORS_SPARE + DESCRIPTORS_PER_SHARD * shards;
    let needed = spare + (SOCKETS_MAX + HTTP_CONNECTIONS_MAX) as u64;
    let cure = format!(
        "raise the limit to {needed}: `ulimit -n`, LimitNOFILE={needed} in a systemd unit, --ulimit nofile={needed} for a container"
    );
    if limit < spare {
        let what = format!("this process may open {limit} files: {shards} shards alone need {spare}");
        return Some(Finding::error(what, cure));
    }
    let what = format!("this process may open {limit} files: enough for about {} clients", limit - spare);
    (limit < needed).then(|| Finding::warning(what, cure))
}

/// Probes the users of io_uring as a shard will: the executor, and the ring where --io asks for it. One finding for
/// both, because one cure helps both.
fn io_uring_finding(executor: bool, ring: bool) -> Option<Finding> {
    let executor = executor.then(executor_refusal).flatten();
    let ring = ring.then(|| ring::probe().err()).flatten();
    let (what, error) = match (executor, ring) {
        (None, None) => return None,
        (Some(error), None) => (format!("io_uring cannot be used ({error}): {PLAIN_THREADS}"), error),
        (None, Some(error)) => (format!("--io ring cannot be had ({error}): {PLAIN_CALLS}"), error),
        (Some(_), Some(error)) => {
            (format!("io_uring cannot be used ({error}): {PLAIN_THREADS}, and {PLAIN_CALLS}"), error)
        }
    };
    Some(Finding::warning(what, ring::cure(&error)))
}

fn executor_refusal() -> Option<io::Error> {
    if let Err(error) = ring::allowed() {
        return Some(error);
    }
    let probe = LocalExecutorBuilder::new(Placement::Unbound).name("probe").spawn(|| async {});
    let error = probe.and_then(|handle| handle.join()).err()?;
    Some(error.raw_os_error().map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error))
}

fn receive_buffer_finding() -> Option<Finding> {
    let socket = socket::open(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Sharing::Alone).ok()?;
    let granted = socket::receive_buffer_granted(&socket).ok()?;
    let what = format!(
        "a socket gets a receive buffer of {} KiB instead of {}: bursts may be lost",
        granted / 1024,
        SOCKET_BUFFER_BYTES / 1024
    );
    let cure = format!("`sysctl -w net.core.rmem_max={SOCKET_BUFFER_BYTES}`, or give CAP_NET_ADMIN");
    (granted < SOCKET_BUFFER_BYTES).then(|| Finding::warning(what, cure))
}

/// An address of a wildcard that the kernel does not let anybody use.
fn unready_finding(own: &MachineAddress) -> Finding {
    let what =
        format!("{own} cannot be bound, so clients are not told of it: it is tentative, or another machine has it");
    let cure = format!(
        "`ip address show dev {}` says which: start again when it is no longer tentative, or give --rtc-exclude {}",
        own.interface, own.ip
    );
    Finding::warning(what, cure)
}

fn reach_finding(media: &[SocketAddr], candidates: &[SocketAddr], expanded: &Expanded) -> Option<Finding> {
    if media.is_empty() && !(expanded.excluded.is_empty() && expanded.unready.is_empty()) {
        let list = |own: &[MachineAddress]| own.iter().map(MachineAddress::to_string).collect::<Vec<_>>().join(", ");
        let what = match (list(&expanded.excluded), list(&expanded.unready)) {
            (excluded, unready) if unready.is_empty() => {
                format!("--rtc-exclude leaves no address to listen at: it covers {excluded}")
            }
            (excluded, unready) if excluded.is_empty() => format!("no address can be bound: {unready}"),
            (excluded, unready) => {
                format!(
                    "no address is left to listen at: --rtc-exclude covers {excluded}, and {unready} cannot be bound"
                )
            }
        };
        return Some(Finding::error(what, "exclude less, or name an address with --rtc-listen"));
    }
    if media.is_empty() {
        let what = "no address of this machine is of a family that --rtc-listen asks for";
        return Some(Finding::error(
            what,
            "name an address that this machine has, for example --rtc-listen 127.0.0.1:40000",
        ));
    }
    let asked_for_loopback = media.iter().any(|address| !address.ip().is_loopback());
    let only_here = candidates.iter().all(|candidate| candidate.ip().is_loopback());
    (only_here && asked_for_loopback).then(|| {
        let what = "clients are only told of loopback addresses: nobody but this machine can send media";
        Finding::warning(what, "give --announce the address at which clients reach this machine")
    })
}

/// Why a port cannot be bound.
pub(crate) fn port_finding(what_for: PortPurpose, address: SocketAddr, error: io::Error) -> Option<Finding> {
    let (protocol, flag, list) = match what_for {
        PortPurpose::Media => ("UDP", "--rtc-listen", "ss -lunp"),
        PortPurpose::Http => ("TCP", "--listen", "ss -ltnp"),
        PortPurpose::Admin => ("TCP", "--admin-listen", "ss -ltnp"),
    };
    let or_off = if what_for == PortPurpose::Admin { ", or off" } else { "" };
    let port = address.port();
    let (what, cure) = match error.kind() {
        io::ErrorKind::AddrInUse => (
            format!("{protocol} port {port} of {} is taken", address.ip()),
            format!(
                "end the program that has it (`{list} 'sport = :{port}'` names it), or give {flag} another port{or_off}"
            ),
        ),
        io::ErrorKind::AddrNotAvailable => (
            format!("{} is no address of this machine", address.ip()),
            format!("give {flag} one that `ip address` lists; an address in front of a NAT belongs to --announce"),
        ),
        io::ErrorKind::PermissionDenied => (
            format!("{protocol} port {port} is not allowed to this user"),
            format!("give {flag} a port from 1024 on, or CAP_NET_BIND_SERVICE to the program"),
        ),
        _ => (format!("{protocol} {address} cannot be bound: {error}"), format!("give {flag} another address")),
    };
    Some(Finding::error(what, cure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_limit_that_stops_the_shards_is_an_error() {
        let mib = 1024 * 1024;
        assert_eq!(memlock_finding(mib, 2), None);
        assert_eq!(memlock_finding(u64::MAX, 64), None);
        assert!(!memlock_finding(mib, 4).unwrap().fatal);
        let low = memlock_finding(64 * 1024, 4).unwrap();
        assert!(!low.fatal && low.what.contains("64 KiB"), "{low:?}");

        assert!(descriptors_finding(256, 1).unwrap().fatal);
        assert!(!descriptors_finding(1024, 1).unwrap().fatal);
        assert_eq!(descriptors_finding(1 << 20, 1), None);
    }

    #[test]
    fn a_port_in_use_names_who_has_it_and_the_flag() {
        let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let finding = port_finding(PortPurpose::Media, address, socket::check_free(address).unwrap_err()).unwrap();
        assert!(finding.fatal && finding.what.contains(&format!("UDP port {} of 127.0.0.1 is taken", address.port())));
        let cure = finding.cure.unwrap();
        assert!(cure.contains("ss -lunp") && cure.contains("--rtc-listen"), "{cure}");
        drop(taken);
        assert!(socket::check_free(address).is_ok());
    }

    #[test]
    fn an_address_of_somebody_else_leads_to_announce() {
        let address: SocketAddr = "192.0.2.1:40000".parse().unwrap();
        let finding = port_finding(PortPurpose::Media, address, socket::check_free(address).unwrap_err()).unwrap();
        assert!(finding.what.contains("no address of this machine") && finding.cure.unwrap().contains("--announce"));
    }

    #[test]
    fn this_machine_has_io_uring_or_says_why_not() {
        if let Some(finding) = io_uring_finding(true, true) {
            assert!(!finding.fatal && finding.what.contains("io_uring") && finding.cure.is_some());
        }
    }

    #[test]
    fn no_address_at_all_is_an_error() {
        let all = Expanded::default();
        assert!(reach_finding(&[], &[], &all).unwrap().fatal);
        let loopback: SocketAddr = "127.0.0.1:1".parse().unwrap();
        assert_eq!(reach_finding(&[loopback], &[loopback], &all), None, "it was asked for");
    }

    #[test]
    fn who_leaves_nothing_is_told_what_was_left_out() {
        let own = |ip: &str| vec![MachineAddress { ip: ip.parse().unwrap(), interface: "eth0".into() }];
        let (excluded, unready) = (own("192.0.2.1"), own("2001:db8::1"));
        let what = |excluded: &[MachineAddress], unready: &[MachineAddress]| {
            let left = Expanded { addresses: vec![], excluded: excluded.to_vec(), unready: unready.to_vec() };
            let finding = reach_finding(&[], &[], &left).unwrap();
            assert!(finding.fatal);
            finding.what
        };
        assert!(
            what(&excluded, &[]).contains("--rtc-exclude leaves no address to listen at: it covers 192.0.2.1 of eth0")
        );
        assert!(what(&[], &unready).contains("no address can be bound: 2001:db8::1 of eth0"));
        let both = what(&excluded, &unready);
        assert!(both.contains("192.0.2.1") && both.contains("2001:db8::1"), "{both}");
        let finding = unready_finding(&unready[0]);
        assert!(!finding.fatal && finding.cure.unwrap().contains("--rtc-exclude 2001:db8::1"));
    }
}
