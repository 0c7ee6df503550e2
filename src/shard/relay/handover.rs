//! The records of shards that share a UDP port: datagrams that reached the wrong shard, and the ownership of paths. All
//! their paths have a UDP leg: a connection is on one shard from its first byte to its last.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::base::buffer::{Leg, LocalIndex, Path};
use crate::shard::relay::reader::RecordReader;

#[derive(Clone, Copy, Debug)]
pub enum Handover<'a> {
    /// A datagram that reached the wrong shard.
    Datagram { path: Path, bytes: &'a [u8] },
    /// The sender owns this path, or no longer does.
    Path { path: Path, up: bool },
    /// A claim to a path on which transports of both shards have passed a check.
    Claim { path: Path, claim: Claim },
}

/// What one shard says to another about a contended path (`shard::rivals`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Claim {
    /// A transport of the sender waits for it.
    Asked,
    /// The sender's own transport has it.
    Held,
    /// The path is the receiver's.
    Released,
    /// A transport of the sender has proved that its client is there.
    Taken,
}

impl Claim {
    const ALL: [Claim; 4] = [Claim::Asked, Claim::Held, Claim::Released, Claim::Taken];
}

pub(super) const DATAGRAM: u8 = 1;
const PATH: u8 = 2;
const CLAIM: u8 = 15;

impl Handover<'_> {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Handover::Datagram { path, bytes } => {
                out.push(DATAGRAM);
                encode_path(path, out);
                out.extend_from_slice(bytes);
            }
            Handover::Path { path, up } => {
                out.extend([PATH, u8::from(up)]);
                encode_path(path, out);
            }
            Handover::Claim { path, claim } => {
                out.extend([CLAIM, claim as u8]);
                encode_path(path, out);
            }
        }
    }

    pub(super) fn is_one(kind: u8) -> bool {
        matches!(kind, DATAGRAM | PATH | CLAIM)
    }

    pub(super) fn decode<'a>(kind: u8, mut reader: RecordReader<'a>) -> Option<Handover<'a>> {
        Some(match kind {
            DATAGRAM => Handover::Datagram { path: decode_path(&mut reader)?, bytes: reader.0 },
            PATH => {
                let up = reader.byte()? != 0;
                Handover::Path { path: decode_path(&mut reader)?, up }
            }
            CLAIM => {
                let claim = *Claim::ALL.get(usize::from(reader.byte()?))?;
                Handover::Claim { path: decode_path(&mut reader)?, claim }
            }
            _ => return None,
        })
    }
}

fn encode_path(path: Path, out: &mut Vec<u8>) {
    debug_assert!(matches!(path.leg, Leg::Udp(_)), "only what comes by UDP may reach another shard");
    let (family, address) = match path.remote.ip() {
        IpAddr::V4(v4) => (4, v4.to_ipv6_mapped()),
        IpAddr::V6(v6) => (6, v6),
    };
    out.extend([path.leg.local().0, family]);
    out.extend(address.octets());
    out.extend(path.remote.port().to_be_bytes());
}

fn decode_path(reader: &mut RecordReader<'_>) -> Option<Path> {
    let [local, family] = reader.array()?;
    let address = Ipv6Addr::from(reader.array::<16>()?);
    let port = u16::from_be_bytes(reader.array()?);
    let ip = match family {
        4 => IpAddr::V4(address.to_ipv4_mapped().unwrap_or(Ipv4Addr::UNSPECIFIED)),
        6 => IpAddr::V6(address),
        _ => return None,
    };
    Some(Path::udp(LocalIndex(local), SocketAddr::new(ip, port)))
}
