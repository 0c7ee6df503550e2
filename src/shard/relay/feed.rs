//! The feed of a producer to a subscriber: its packets, and what is needed to make use of them. A subscriber is whoever
//! ordered it, at any end of the mesh. Times are ages, which mean the same on every machine.

use crate::base::limits::ENCODINGS_MAX;
use crate::base::ranking::Ranking;
use crate::base::seq::ExtSeq;
use crate::base::time::{Duration, Instant, NtpTime};
use crate::router::packet::Packet;
use crate::shard::relay::reader::RecordReader;
use crate::wire::codec::PayloadInfo;

#[derive(Clone, Copy, Debug)]
pub enum Feed<'a> {
    Media(Published<'a>),
    /// A packet that is not forwarded: its number must not look lost.
    Skip {
        encoding: u8,
        ext: ExtSeq,
    },
    /// The moment that an RTP timestamp stands for, on the timeline of our reports.
    Clock {
        encoding: u8,
        ntp: NtpTime,
        rtp_timestamp: u32,
    },
    Paused {
        paused: bool,
    },
    /// The end of the feed.
    Closed,
    Withheld {
        withheld: bool,
    },
    /// The H.264 parameter sets of one encoding, each behind its length.
    ParameterSets {
        encoding: u8,
        units: &'a [u8],
    },
    /// The layer of each encoding.
    Ranked {
        ranking: Ranking,
    },
}

/// One packet of a producer.
#[derive(Clone, Copy, Debug)]
pub struct Published<'a> {
    pub encoding: u8,
    pub ext: ExtSeq,
    /// The time since its arrival, as it left. The carrier reports the time on the way.
    pub age: Duration,
    pub timestamp: u32,
    pub marker: bool,
    /// Whether the descriptors of its payload are believed (`media::legibility`).
    pub legible: bool,
    /// The part of the payload's description that a stream without layers needs.
    pub info: PayloadInfo,
    /// The number of restarts of the stream.
    pub epoch: u32,
    /// Header-extension elements, dependency descriptor, payload.
    pub parts: [&'a [u8]; 3],
}

const MEDIA: u8 = 6;
const SKIP: u8 = 7;
const CLOCK: u8 = 8;
const PAUSED: u8 = 9;
const CLOSED: u8 = 10;
const WITHHELD: u8 = 11;
const PARAMETER_SETS: u8 = 13;
const RANKED: u8 = 14;

impl<'a> Published<'a> {
    pub(in crate::shard) fn new(now: Instant, packet: &Packet, epoch: u32, parts: [&'a [u8]; 3]) -> Published<'a> {
        let Packet { encoding, ext, arrived, timestamp, marker, legible, info } = *packet;
        Published { encoding, ext, age: now.since(arrived), timestamp, marker, legible, info, epoch, parts }
    }

    /// The packet on this machine's clock, after it `waited` on its way.
    pub(in crate::shard) fn packet(&self, now: Instant, waited: Duration) -> Packet {
        let Published { encoding, ext, age, timestamp, marker, legible, info, .. } = *self;
        Packet { encoding, ext, arrived: now - age - waited, timestamp, marker, legible, info }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let (info, [elements, descriptor, payload]) = (self.info, self.parts);
        let fits = |part: &[u8]| part.len() <= usize::from(u8::MAX);
        debug_assert!(fits(elements) && fits(descriptor), "bounded where they are read");
        let flags = u8::from(self.marker)
            | u8::from(info.starts_keyframe) << 1
            | u8::from(info.starts_frame) << 2
            | u8::from(info.ends_frame) << 3
            | u8::from(self.legible) << 4
            | u8::from(info.garbled) << 5
            | u8::from(info.starts_idr) << 6;
        out.extend([self.encoding, flags, info.spatial, info.temporal]);
        out.extend([elements.len() as u8, descriptor.len() as u8]);
        out.extend(self.ext.0.to_be_bytes());
        out.extend(u64::try_from(self.age.as_nanos()).unwrap_or(u64::MAX).to_be_bytes());
        out.extend(self.timestamp.to_be_bytes());
        out.extend(self.epoch.to_be_bytes());
        out.extend_from_slice(elements);
        out.extend_from_slice(descriptor);
        out.extend_from_slice(payload);
    }

    fn decode(mut reader: RecordReader<'a>) -> Option<Published<'a>> {
        let [encoding, flags, spatial, temporal, elements_len, descriptor_len] = reader.array()?;
        let ext = ExtSeq(u64::from_be_bytes(reader.array()?));
        let age = Duration::from_nanos(u64::from_be_bytes(reader.array()?));
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
        let parts = [elements, descriptor, payload];
        Some(Published { encoding, ext, age, timestamp, marker, legible, info, epoch, parts })
    }
}

impl<'a> Feed<'a> {
    pub(super) fn kind(&self) -> u8 {
        match self {
            Feed::Media(_) => MEDIA,
            Feed::Skip { .. } => SKIP,
            Feed::Clock { .. } => CLOCK,
            Feed::Paused { .. } => PAUSED,
            Feed::Closed => CLOSED,
            Feed::Withheld { .. } => WITHHELD,
            Feed::ParameterSets { .. } => PARAMETER_SETS,
            Feed::Ranked { .. } => RANKED,
        }
    }

    /// Writes the record after its producer.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Feed::Media(packet) => packet.encode(out),
            Feed::Skip { encoding, ext } => {
                out.push(encoding);
                out.extend(ext.0.to_be_bytes());
            }
            Feed::Clock { encoding, ntp, rtp_timestamp } => {
                out.push(encoding);
                out.extend(ntp.0.to_be_bytes());
                out.extend(rtp_timestamp.to_be_bytes());
            }
            Feed::Paused { paused } => out.push(u8::from(paused)),
            Feed::Closed => {}
            Feed::Withheld { withheld } => out.push(u8::from(withheld)),
            Feed::ParameterSets { encoding, units } => {
                out.push(encoding);
                out.extend_from_slice(units);
            }
            Feed::Ranked { ranking } => out.extend(ranking.encodings()),
        }
    }

    pub(super) fn decode(kind: u8, mut reader: RecordReader<'a>) -> Option<Feed<'a>> {
        Some(match kind {
            MEDIA => Feed::Media(Published::decode(reader)?),
            SKIP => Feed::Skip { encoding: reader.byte()?, ext: ExtSeq(u64::from_be_bytes(reader.array()?)) },
            CLOCK => Feed::Clock {
                encoding: reader.byte()?,
                ntp: NtpTime(u64::from_be_bytes(reader.array()?)),
                rtp_timestamp: u32::from_be_bytes(reader.array()?),
            },
            PAUSED => Feed::Paused { paused: reader.byte()? != 0 },
            CLOSED => Feed::Closed,
            WITHHELD => Feed::Withheld { withheld: reader.byte()? != 0 },
            PARAMETER_SETS => Feed::ParameterSets { encoding: reader.byte()?, units: reader.0 },
            RANKED => Feed::Ranked { ranking: Ranking::smallest_first(reader.array::<ENCODINGS_MAX>()?)? },
            _ => return None,
        })
    }
}
