//! Why the media tower does not start, each with its cure.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use crate::base::id::ShardId;
use crate::base::limits::LOCAL_ADDRESSES_MAX;
use crate::net::steering::SteeringError;

#[derive(Debug)]
pub enum StartError {
    NoShards,
    /// None, or more than fit.
    Addresses(usize),
    /// port-per-core counts past 65,535.
    PortsExhausted {
        first: SocketAddr,
        shards: usize,
    },
    /// An address could not be bound.
    Bind {
        address: SocketAddr,
        error: io::Error,
    },
    /// The ports of lanes count past 65,535.
    LanePorts {
        first: SocketAddr,
        shards: usize,
    },
    /// The address of a shard's lanes could not be bound.
    LaneBind {
        address: SocketAddr,
        error: io::Error,
    },
    /// An inherited socket has no address of this machine.
    InheritedWildcard(SocketAddr),
    /// A socket on this address was bound without SO_REUSEPORT.
    InheritedAlone(SocketAddr),
    /// Not one for each shard.
    InheritedCount {
        address: SocketAddr,
        sockets: usize,
        shards: usize,
    },
    Steering(SteeringError),
    /// An eventfd, epoll or thread was refused.
    Resources(io::Error),
    /// A shard's thread ended before it was ready; the log has the panic.
    ShardDied(ShardId),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::NoShards => f.write_str("no core to run a shard on: name at least one with --cores"),
            StartError::Addresses(0) => f.write_str(
                "no address to receive media on: this machine has none but link-local ones; name one with --rtc-listen",
            ),
            StartError::Addresses(count) => write!(
                f,
                "{count} addresses to receive media on, at most {LOCAL_ADDRESSES_MAX}: name those wanted with --rtc-listen \
                 instead of 0.0.0.0 or [::]"
            ),
            StartError::PortsExhausted { first, shards } => write!(
                f,
                "--steering port-per-core needs {shards} ports from {first} on, past 65535: choose a lower port"
            ),
            StartError::LanePorts { first, shards } => {
                write!(f, "lanes need {shards} ports from {first} on, past 65535: choose a lower port")
            }
            StartError::LaneBind { address, error } => {
                write!(f, "cannot receive lanes of other nodes on {address}: {error}{}", bind_cure(error))
            }
            StartError::Bind { address, error } => {
                write!(f, "cannot receive media on {address}: {error}{}", bind_cure(error))
            }
            StartError::InheritedWildcard(address) => write!(
                f,
                "the inherited UDP socket on {address} has no address of its own: give ListenDatagram= an address of this \
                 machine"
            ),
            StartError::InheritedAlone(address) => {
                write!(
                    f,
                    "the inherited UDP socket on {address} cannot be shared: add ReusePort=yes to its .socket unit"
                )
            }
            StartError::InheritedCount { address, sockets, shards } => write!(
                f,
                "{sockets} UDP sockets are inherited on {address} for {shards} shards: repeat ListenDatagram={address} for \
                 each shard, or give --cores {sockets} (with --steering port-per-core a port each)"
            ),
            StartError::Steering(error) => write!(f, "--steering bpf: {error}"),
            StartError::Resources(error) => {
                write!(f, "the kernel refuses a descriptor or a thread: {error} (see ulimit -n and ulimit -u)")
            }
            StartError::ShardDied(shard) => write!(f, "shard {shard} ended while it started; the log has the reason"),
        }
    }
}

fn bind_cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another program has this port: stop it, or choose another with --rtc-listen",
        io::ErrorKind::AddrNotAvailable => {
            "; it is not an address of this machine: use one of its own with --rtc-listen, and --announce for the one \
             that clients reach it at"
        }
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE: choose a higher one with --rtc-listen"
        }
        _ => "",
    }
}

impl std::error::Error for StartError {}
