//! The messages between shards, as bytes: the mesh carries records, and a media packet is written into it once, by
//! value. The other end is this same program, yet decoding is total: a bad record is dropped and counted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::base::buffer::{LocalIndex, Path};
use crate::base::id::ProducerId;
use crate::base::limits::ENCODINGS_MAX;
use crate::base::ranking::Ranking;
use crate::base::seq::ExtSeq;
use crate::base::time::{Instant, NtpTime};
use crate::router::packet::Packet;
use crate::wire::codec::PayloadInfo;

#[derive(Clone, Copy, Debug)]
pub enum RelayMessage<'a> {
    /// A datagram that reached the wrong shard.
    Datagram {
        path: Path,
        bytes: &'a [u8],
    },
    /// The sender owns this path, or no longer does.
    Path {
        path: Path,
        up: bool,
    },
    /// About a path that transports of both shards have passed a check on.
    Claim {
        path: Path,
        claim: Claim,
    },
    /// The sender has consumers of this producer; its home is the receiver.
    Subscribe {
        producer: ProducerId,
    },
    Unsubscribe {
        producer: ProducerId,
    },
    KeyFrame {
        producer: ProducerId,
        encoding: Option<u8>,
        first: bool,
    },
    Media {
        producer: ProducerId,
        packet: Packet,
        epoch: u32,
        /// Header-extension elements, dependency descriptor, payload.
        parts: [&'a [u8]; 3],
    },
    /// A packet that is not forwarded: its number must not look lost.
    Skip {
        producer: ProducerId,
        encoding: u8,
        ext: ExtSeq,
    },
    Clock {
        producer: ProducerId,
        encoding: u8,
        ntp: NtpTime,
        rtp_timestamp: u32,
    },
    Paused {
        producer: ProducerId,
        paused: bool,
    },
    Closed {
        producer: ProducerId,
    },
    Withheld {
        producer: ProducerId,
        withheld: bool,
    },
    /// The H.264 parameter sets of one encoding, each behind its length.
    ParameterSets {
        producer: ProducerId,
        encoding: u8,
        units: &'a [u8],
    },
    /// The layer of each of its encodings.
    Ranked {
        producer: ProducerId,
        ranking: Ranking,
    },
    /// The sender's consumers want so many spatial layers of it, from the lowest on.
    Watched {
        producer: ProducerId,
        layers: u8,
    },
}

/// A claim of one shard to another about such a path (`shard::rivals`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Claim {
    /// A transport of the sender waits for it.
    Asked,
    /// The sender's own transport has it.
    Held,
    /// It is the receiver's.
    Released,
    /// A transport of the sender has proved that it is there.
    Taken,
}

impl Claim {
    const ALL: [Claim; 4] = [Claim::Asked, Claim::Held, Claim::Released, Claim::Taken];
}

const ANY_ENCODING: u8 = u8::MAX;

fn encode_media(packet: &Packet, epoch: u32, [elements, descriptor, payload]: [&[u8]; 3], out: &mut Vec<u8>) {
    let info = packet.info;
    let flags = u8::from(packet.marker)
        | u8::from(info.starts_keyframe) << 1
        | u8::from(info.starts_frame) << 2
        | u8::from(info.ends_frame) << 3
        | u8::from(packet.legible) << 4
        | u8::from(info.garbled) << 5
        | u8::from(info.starts_idr) << 6;
    out.extend([packet.encoding, flags, info.spatial, info.temporal]);
    out.extend([elements.len() as u8, descriptor.len() as u8]);
    out.extend(packet.ext.0.to_be_bytes());
    out.extend(packet.arrived.as_nanos().to_be_bytes());
    out.extend(packet.timestamp.to_be_bytes());
    out.extend(epoch.to_be_bytes());
    out.extend_from_slice(elements);
    out.extend_from_slice(descriptor);
    out.extend_from_slice(payload);
}

impl RelayMessage<'_> {
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            RelayMessage::Datagram { path, bytes } => {
                out.push(1);
                encode_path(path, out);
                out.extend_from_slice(bytes);
            }
            RelayMessage::Path { path, up } => {
                out.extend([2, u8::from(up)]);
                encode_path(path, out);
            }
            RelayMessage::Claim { path, claim } => {
                out.extend([15, claim as u8]);
                encode_path(path, out);
            }
            RelayMessage::Subscribe { producer } => head(3, producer, out),
            RelayMessage::Unsubscribe { producer } => head(4, producer, out),
            RelayMessage::KeyFrame { producer, encoding, first } => {
                head(5, producer, out);
                out.extend([encoding.unwrap_or(ANY_ENCODING), u8::from(first)]);
            }
            RelayMessage::Media { producer, packet, epoch, parts } => {
                head(6, producer, out);
                encode_media(&packet, epoch, parts, out);
            }
            RelayMessage::Skip { producer, encoding, ext } => {
                head(7, producer, out);
                out.push(encoding);
                out.extend(ext.0.to_be_bytes());
            }
            RelayMessage::Clock { producer, encoding, ntp, rtp_timestamp } => {
                head(8, producer, out);
                out.push(encoding);
                out.extend(ntp.0.to_be_bytes());
                out.extend(rtp_timestamp.to_be_bytes());
            }
            RelayMessage::Paused { producer, paused } => {
                head(9, producer, out);
                out.push(u8::from(paused));
            }
            RelayMessage::Closed { producer } => head(10, producer, out),
            RelayMessage::Withheld { producer, withheld } => {
                head(11, producer, out);
                out.push(u8::from(withheld));
            }
            RelayMessage::Watched { producer, layers } => {
                head(12, producer, out);
                out.push(layers);
            }
            RelayMessage::ParameterSets { producer, encoding, units } => {
                head(13, producer, out);
                out.push(encoding);
                out.extend_from_slice(units);
            }
            RelayMessage::Ranked { producer, ranking } => {
                head(14, producer, out);
                out.extend(ranking.encodings());
            }
        }
    }

    /// Whether an encoded record is a datagram that was handed over, whose loss harms no more than any datagram's.
    pub fn is_datagram(record: &[u8]) -> bool {
        record.first() == Some(&1)
    }

    pub fn decode(record: &[u8]) -> Option<RelayMessage<'_>> {
        let mut reader = Reader(record);
        let kind = reader.byte()?;
        if kind == 1 {
            let path = reader.path()?;
            return Some(RelayMessage::Datagram { path, bytes: reader.0 });
        }
        if kind == 2 {
            let up = reader.byte()? != 0;
            return Some(RelayMessage::Path { path: reader.path()?, up });
        }
        if kind == 15 {
            let claim = *Claim::ALL.get(usize::from(reader.byte()?))?;
            return Some(RelayMessage::Claim { path: reader.path()?, claim });
        }
        let producer = ProducerId(u64::from_be_bytes(reader.array()?));
        Some(match kind {
            3 => RelayMessage::Subscribe { producer },
            4 => RelayMessage::Unsubscribe { producer },
            5 => {
                let encoding = Some(reader.byte()?).filter(|encoding| *encoding != ANY_ENCODING);
                RelayMessage::KeyFrame { producer, encoding, first: reader.byte()? != 0 }
            }
            6 => {
                let [encoding, flags, spatial, temporal, elements_len, descriptor_len] = reader.array()?;
                let ext = ExtSeq(u64::from_be_bytes(reader.array()?));
                let arrived = Instant::from_nanos(u64::from_be_bytes(reader.array()?));
                let timestamp = u32::from_be_bytes(reader.array()?);
                let epoch = u32::from_be_bytes(reader.array()?);
                let (elements, rest) = reader.0.split_at_checked(usize::from(elements_len))?;
                let (descriptor, payload) = rest.split_at_checked(usize::from(descriptor_len))?;
                let info = PayloadInfo {
                    starts_keyframe: flags & 2 != 0,
                    starts_frame: flags & 4 != 0,
                    ends_frame: flags & 8 != 0,
                    garbled: flags & 32 != 0,
                    starts_idr: flags & 64 != 0,
                    spatial,
                    temporal,
                    ..PayloadInfo::default()
                };
                let (marker, legible) = (flags & 1 != 0, flags & 16 != 0);
                let packet = Packet { encoding, ext, arrived, timestamp, marker, legible, info };
                RelayMessage::Media { producer, packet, epoch, parts: [elements, descriptor, payload] }
            }
            7 => RelayMessage::Skip {
                producer,
                encoding: reader.byte()?,
                ext: ExtSeq(u64::from_be_bytes(reader.array()?)),
            },
            8 => RelayMessage::Clock {
                producer,
                encoding: reader.byte()?,
                ntp: NtpTime(u64::from_be_bytes(reader.array()?)),
                rtp_timestamp: u32::from_be_bytes(reader.array()?),
            },
            9 => RelayMessage::Paused { producer, paused: reader.byte()? != 0 },
            10 => RelayMessage::Closed { producer },
            11 => RelayMessage::Withheld { producer, withheld: reader.byte()? != 0 },
            12 => RelayMessage::Watched { producer, layers: reader.byte()? },
            13 => RelayMessage::ParameterSets { producer, encoding: reader.byte()?, units: reader.0 },
            14 => {
                RelayMessage::Ranked { producer, ranking: Ranking::smallest_first(reader.array::<ENCODINGS_MAX>()?)? }
            }
            _ => return None,
        })
    }
}

fn head(kind: u8, producer: ProducerId, out: &mut Vec<u8>) {
    out.push(kind);
    out.extend(producer.0.to_be_bytes());
}

fn encode_path(path: Path, out: &mut Vec<u8>) {
    let (family, address) = match path.remote.ip() {
        IpAddr::V4(v4) => (4, v4.to_ipv6_mapped()),
        IpAddr::V6(v6) => (6, v6),
    };
    out.extend([path.local.0, family]);
    out.extend(address.octets());
    out.extend(path.remote.port().to_be_bytes());
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn path(&mut self) -> Option<Path> {
        let [local, family] = self.array()?;
        let address = Ipv6Addr::from(self.array::<16>()?);
        let port = u16::from_be_bytes(self.array()?);
        let ip = match family {
            4 => IpAddr::V4(address.to_ipv4_mapped().unwrap_or(Ipv4Addr::UNSPECIFIED)),
            6 => IpAddr::V6(address),
            _ => return None,
        };
        Some(Path { local: LocalIndex(local), remote: SocketAddr::new(ip, port) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples() -> Vec<Vec<u8>> {
        let v4 = Path { local: LocalIndex(2), remote: "192.0.2.7:4000".parse().unwrap() };
        let v6 = Path { local: LocalIndex(0), remote: "[2001:db8::1]:4000".parse().unwrap() };
        let producer = ProducerId(77);
        let info = PayloadInfo { starts_keyframe: true, garbled: true, spatial: 1, temporal: 2, ..Default::default() };
        let (ext, arrived) = (ExtSeq(70_000), Instant::from_nanos(5));
        let packet = Packet { encoding: 1, ext, arrived, timestamp: 9, marker: true, legible: true, info };
        [
            RelayMessage::Datagram { path: v4, bytes: b"xyz" },
            RelayMessage::Path { path: v6, up: true },
            RelayMessage::Claim { path: v4, claim: Claim::Asked },
            RelayMessage::Claim { path: v6, claim: Claim::Taken },
            RelayMessage::Subscribe { producer },
            RelayMessage::Unsubscribe { producer },
            RelayMessage::KeyFrame { producer, encoding: None, first: true },
            RelayMessage::KeyFrame { producer, encoding: Some(1), first: false },
            RelayMessage::Media { producer, packet, epoch: 3, parts: [b"el", b"dd!", b"payload"] },
            RelayMessage::Skip { producer, encoding: 1, ext: ExtSeq(5) },
            RelayMessage::Clock { producer, encoding: 0, ntp: NtpTime(1 << 40), rtp_timestamp: 8 },
            RelayMessage::Paused { producer, paused: true },
            RelayMessage::Closed { producer },
            RelayMessage::Withheld { producer, withheld: true },
            RelayMessage::Watched { producer, layers: 2 },
            RelayMessage::ParameterSets { producer, encoding: 2, units: &[0, 2, 0x67, 0x42] },
            RelayMessage::Ranked { producer, ranking: Ranking::smallest_first([2, 0, 1]).unwrap() },
        ]
        .iter()
        .map(|message| {
            let mut record = Vec::new();
            message.encode(&mut record);
            let decoded = RelayMessage::decode(&record).unwrap();
            assert_eq!(format!("{message:?}"), format!("{decoded:?}"));
            record
        })
        .collect()
    }

    #[test]
    fn every_message_survives_the_mesh() {
        assert_eq!(examples().len(), 17);
    }

    #[test]
    fn no_truncation_or_mutation_panics() {
        for record in examples() {
            for len in 0..record.len() {
                let _ = RelayMessage::decode(&record[..len]);
            }
            for at in 0..record.len() {
                for value in [0, 1, 127, 255] {
                    let mut bad = record.clone();
                    bad[at] = value;
                    let _ = RelayMessage::decode(&bad);
                }
            }
        }
    }
}
