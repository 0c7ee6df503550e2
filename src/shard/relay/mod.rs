//! The records of the mesh, as bytes: what shards hand over, what a subscriber orders at a producer's home, and the
//! producer's feed. A media packet is written once, by value. The other end is this same program; decoding is total all
//! the same: a bad record is dropped and counted.

mod feed;
mod handover;
mod order;
mod reader;

use crate::base::id::ProducerId;
use crate::shard::relay::reader::RecordReader;

pub use feed::{Feed, Published};
pub use handover::{Claim, Handover};
pub use order::Order;

#[derive(Clone, Copy, Debug)]
pub enum Record<'a> {
    Handover(Handover<'a>),
    Order(ProducerId, Order),
    Feed(ProducerId, Feed<'a>),
}

impl Record<'_> {
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Record::Handover(handover) => handover.encode(out),
            Record::Order(producer, order) => {
                head(order.kind(), *producer, out);
                order.encode(out);
            }
            Record::Feed(producer, feed) => {
                head(feed.kind(), *producer, out);
                feed.encode(out);
            }
        }
    }

    /// Whether an encoded record is a handed-over datagram, which may be lost like any datagram.
    pub fn is_datagram(record: &[u8]) -> bool {
        record.first() == Some(&handover::DATAGRAM)
    }

    pub fn decode(record: &[u8]) -> Option<Record<'_>> {
        let mut reader = RecordReader(record);
        let kind = reader.byte()?;
        if Handover::is_one(kind) {
            return Handover::decode(kind, reader).map(Record::Handover);
        }
        let producer = ProducerId(u64::from_be_bytes(reader.array()?));
        match Order::is_one(kind) {
            true => Some(Record::Order(producer, Order::decode(kind, reader)?)),
            false => Some(Record::Feed(producer, Feed::decode(kind, reader)?)),
        }
    }
}

fn head(kind: u8, producer: ProducerId, out: &mut Vec<u8>) {
    out.push(kind);
    out.extend(producer.0.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::buffer::{LocalIndex, Path};
    use crate::base::ranking::Ranking;
    use crate::base::seq::ExtSeq;
    use crate::base::time::{Duration, Instant, NtpTime};
    use crate::wire::codec::PayloadInfo;

    fn examples() -> Vec<Vec<u8>> {
        let v4 = Path::udp(LocalIndex(2), "192.0.2.7:4000".parse().unwrap());
        let v6 = Path::udp(LocalIndex(0), "[2001:db8::1]:4000".parse().unwrap());
        let producer = ProducerId(77);
        let info = PayloadInfo { starts_keyframe: true, garbled: true, spatial: 1, temporal: 2, ..Default::default() };
        let (ext, age) = (ExtSeq(70_000), Duration::from_nanos(5));
        let (marker, legible, parts): (_, _, [&[u8]; 3]) = (true, true, [b"el", b"dd!", b"payload"]);
        let media = Published { encoding: 1, ext, age, timestamp: 9, marker, legible, info, epoch: 3, parts };
        let handed = [
            Handover::Datagram { path: v4, bytes: b"xyz" },
            Handover::Path { path: v6, up: true },
            Handover::Claim { path: v4, claim: Claim::Asked },
            Handover::Claim { path: v6, claim: Claim::Taken },
        ];
        let ordered = [
            Order::Subscribe,
            Order::Unsubscribe,
            Order::KeyFrame { encoding: None, first: true },
            Order::KeyFrame { encoding: Some(1), first: false },
            Order::Watched { layers: 2 },
        ];
        let fed = [
            Feed::Media(media),
            Feed::Skip { encoding: 1, ext: ExtSeq(5) },
            Feed::Clock { encoding: 0, ntp: NtpTime(1 << 40), rtp_timestamp: 8 },
            Feed::Paused { paused: true },
            Feed::Closed,
            Feed::Withheld { withheld: true },
            Feed::ParameterSets { encoding: 2, units: &[0, 2, 0x67, 0x42] },
            Feed::Ranked { ranking: Ranking::smallest_first([2, 0, 1]).unwrap() },
        ];
        let records = handed.map(Record::Handover).into_iter();
        let records = records.chain(ordered.map(|order| Record::Order(producer, order)));
        records
            .chain(fed.map(|feed| Record::Feed(producer, feed)))
            .map(|message| {
                let mut record = Vec::new();
                message.encode(&mut record);
                let decoded = Record::decode(&record).unwrap();
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
                let _ = Record::decode(&record[..len]);
            }
            for at in 0..record.len() {
                for value in [0, 1, 127, 255] {
                    let mut bad = record.clone();
                    bad[at] = value;
                    let _ = Record::decode(&bad);
                }
            }
        }
    }

    #[test]
    fn a_packets_age_grows_by_its_way() {
        let at = Instant::from_nanos;
        let record = &examples()[9];
        let Some(Record::Feed(_, Feed::Media(media))) = Record::decode(record) else { panic!() };
        let received = media.packet(at(1_000), Duration::from_nanos(100));
        assert_eq!(received.arrived, at(895));
        assert_eq!(Published::new(at(1_000), &received, 3, media.parts).age, Duration::from_nanos(105));
        assert_eq!(media.packet(at(3), Duration::ZERO).arrived, at(0), "a clock that has just begun");
    }
}
