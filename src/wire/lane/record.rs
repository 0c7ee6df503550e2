//! The records in the sealed part of a lane's datagram: a u16 of kind (5 bits) and length (11 bits), then the body.

use crate::base::id::Ssrc;
use crate::base::time::NtpTime;
use crate::wire::lane::media::LaneMedia;
use crate::wire::lane::writer::{RECORD_BODY_MAX, RECORD_HEAD, RecordWriter};
use crate::wire::lane::{EncodingEpoch, LaneHandle};
use crate::wire::transport_cc::{FeedbackBuilder, TransportCc};
use crate::wire::{Malformed, Reader};

const PADDING: u8 = 0;
const MEDIA: u8 = 1;
const PART: u8 = 2;
const SKIP: u8 = 3;
const CLOCK: u8 = 4;
const FEEDBACK: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const ORDER: u8 = 16;

/// RTCP header and both SSRCs, which feedback on a lane has no use for.
const RTCP_FEEDBACK_HEAD: usize = 12;
const BUS_UP: u8 = 1;
const ARRIVALS: u8 = 2;

#[derive(Clone, Copy, Debug)]
pub enum LaneRecord<'a> {
    Media(LaneMedia<'a>),
    Part(PartHead, &'a [u8]),
    Skip(LaneSkip),
    Clock(LaneClock),
    Feedback(LaneFeedback<'a>),
    Ping(u32),
    Pong(u32),
    /// The number of an order, and its type and body.
    Order(u16, &'a [u8]),
}

/// A stretch of a media record that does not fit a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartHead {
    pub handle: LaneHandle,
    pub at: EncodingEpoch,
    pub number: u32,
    pub part: u8,
    pub parts: u8,
}

pub const PART_HEAD: usize = 10;

/// Numbers that are not forwarded, the last included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaneSkip {
    pub handle: LaneHandle,
    pub at: EncodingEpoch,
    pub first: u32,
    pub last: u32,
}

/// The moment that an RTP timestamp stands for, on the sender's timeline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaneClock {
    pub handle: LaneHandle,
    pub encoding: u8,
    pub ntp: NtpTime,
    pub rtp_timestamp: u32,
}

#[derive(Clone, Copy, Debug)]
pub struct LaneFeedback<'a> {
    /// All orders before this number have come.
    pub orders_before: u16,
    /// The sender's own bus answers.
    pub bus_up: bool,
    /// The subscribers that the sender serves beyond itself.
    pub children: u16,
    /// From the arrival of the highest number to this feedback, in steps of 8 µs.
    pub held: u16,
    pub arrivals: Option<TransportCc<'a>>,
}

impl PartHead {
    pub fn to_bytes(self) -> [u8; PART_HEAD] {
        let [a, b] = self.handle.index.to_be_bytes();
        let [c, d, e, f] = self.number.to_be_bytes();
        [a, b, self.handle.generation, self.at.0, c, d, e, f, self.part, self.parts]
    }
}

/// Reads the records of an opened datagram. A record that is no good is an error and the next ones are read all the
/// same; of an unknown kind, nothing. Ends within the bytes.
#[derive(Clone, Copy, Debug)]
pub struct LaneRecords<'a>(pub &'a [u8]);

impl<'a> Iterator for LaneRecords<'a> {
    type Item = Result<LaneRecord<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            // One byte is too short for a record: padding.
            let (head, rest) = self.0.split_first_chunk::<RECORD_HEAD>()?;
            let head = u16::from_be_bytes(*head);
            let (kind, len) = ((head >> 11) as u8, usize::from(head) & RECORD_BODY_MAX);
            if kind == PADDING {
                self.0 = &[];
                return None;
            }
            let Some((body, rest)) = rest.split_at_checked(len) else {
                self.0 = &[];
                return Some(Err(Malformed("lane record longer than its datagram")));
            };
            self.0 = rest;
            if let Some(record) = LaneRecord::parse(kind, body) {
                return Some(record);
            }
        }
    }
}

impl<'a> LaneRecord<'a> {
    pub const MEDIA: u8 = MEDIA;
    pub const PART: u8 = PART;
    pub const ORDER: u8 = ORDER;

    /// None: of a kind that is unknown here.
    fn parse(kind: u8, body: &'a [u8]) -> Option<Result<LaneRecord<'a>, Malformed>> {
        Some(match kind {
            MEDIA => LaneMedia::parse(body).map(LaneRecord::Media),
            PART => LaneRecord::part(body),
            SKIP => LaneRecord::skip(body),
            CLOCK => LaneRecord::clock(body),
            FEEDBACK => LaneFeedback::parse(body).map(LaneRecord::Feedback),
            PING => Reader::new(body, "ping cut short").u32().map(LaneRecord::Ping),
            PONG => Reader::new(body, "pong cut short").u32().map(LaneRecord::Pong),
            ORDER => LaneRecord::order(body),
            _ => return None,
        })
    }

    fn part(body: &'a [u8]) -> Result<LaneRecord<'a>, Malformed> {
        let mut reader = Reader::new(body, "part of a record cut short");
        let handle = handle(&mut reader)?;
        let at = EncodingEpoch(reader.u8()?);
        let head = PartHead { handle, at, number: reader.u32()?, part: reader.u8()?, parts: reader.u8()? };
        if head.part >= head.parts {
            return Err(Malformed("part of a record beyond its parts"));
        }
        Ok(LaneRecord::Part(head, reader.rest()))
    }

    fn skip(body: &'a [u8]) -> Result<LaneRecord<'a>, Malformed> {
        let mut reader = Reader::new(body, "skip cut short");
        let handle = handle(&mut reader)?;
        let at = EncodingEpoch(reader.u8()?);
        Ok(LaneRecord::Skip(LaneSkip { handle, at, first: reader.u32()?, last: reader.u32()? }))
    }

    fn clock(body: &'a [u8]) -> Result<LaneRecord<'a>, Malformed> {
        let mut reader = Reader::new(body, "clock cut short");
        let (handle, encoding) = (handle(&mut reader)?, reader.u8()?);
        let (ntp, rtp_timestamp) = (NtpTime(reader.u64()?), reader.u32()?);
        Ok(LaneRecord::Clock(LaneClock { handle, encoding, ntp, rtp_timestamp }))
    }

    fn order(body: &'a [u8]) -> Result<LaneRecord<'a>, Malformed> {
        let mut reader = Reader::new(body, "order cut short");
        Ok(LaneRecord::Order(reader.u16()?, reader.rest()))
    }

    /// Appends a record that is not media. False: it does not fit.
    pub fn write(&self, out: &mut RecordWriter<'_>) -> bool {
        match self {
            LaneRecord::Media(media) => {
                let [elements, descriptor, payload] = media.parts;
                let mut head = [0; super::MEDIA_HEAD_MAX];
                let (Ok(elements_len), Ok(descriptor_len)) =
                    (u8::try_from(elements.len()), u8::try_from(descriptor.len()))
                else {
                    return false;
                };
                let len = media.head.write(elements_len, descriptor_len, &mut head);
                out.push(MEDIA, &[&head[..len], elements, descriptor, payload])
            }
            LaneRecord::Part(head, bytes) => out.push(PART, &[&head.to_bytes(), bytes]),
            LaneRecord::Skip(LaneSkip { handle, at, first, last }) => {
                out.push(SKIP, &[&handle.to_bytes(), &[at.0], &first.to_be_bytes(), &last.to_be_bytes()])
            }
            LaneRecord::Clock(LaneClock { handle, encoding, ntp, rtp_timestamp }) => {
                out.push(CLOCK, &[&handle.to_bytes(), &[*encoding], &ntp.0.to_be_bytes(), &rtp_timestamp.to_be_bytes()])
            }
            // Its arrivals are not kept as bytes: see `LaneFeedback::write`.
            LaneRecord::Feedback(feedback) => out.push(FEEDBACK, &[&feedback.head(false)]),
            LaneRecord::Ping(id) => out.push(PING, &[&id.to_be_bytes()]),
            LaneRecord::Pong(id) => out.push(PONG, &[&id.to_be_bytes()]),
            LaneRecord::Order(number, body) => out.push(ORDER, &[&number.to_be_bytes(), body]),
        }
    }
}

impl LaneHandle {
    pub(super) fn to_bytes(self) -> [u8; 3] {
        let [high, low] = self.index.to_be_bytes();
        [high, low, self.generation]
    }
}

pub(super) fn handle(reader: &mut Reader<'_>) -> Result<LaneHandle, Malformed> {
    Ok(LaneHandle { index: reader.u16()?, generation: reader.u8()? })
}

impl<'a> LaneFeedback<'a> {
    fn parse(body: &'a [u8]) -> Result<LaneFeedback<'a>, Malformed> {
        let mut reader = Reader::new(body, "lane feedback cut short");
        let (orders_before, flags) = (reader.u16()?, reader.u8()?);
        let (children, held) = (reader.u16()?, reader.u16()?);
        let arrivals = match flags & ARRIVALS {
            0 => None,
            _ => Some(TransportCc::parse(Ssrc(0), Ssrc(0), reader.rest())?),
        };
        Ok(LaneFeedback { orders_before, bus_up: flags & BUS_UP != 0, children, held, arrivals })
    }

    fn head(&self, arrivals: bool) -> [u8; 7] {
        let ([a, b], [c, d]) = (self.orders_before.to_be_bytes(), self.children.to_be_bytes());
        let [e, f] = self.held.to_be_bytes();
        let flags = if self.bus_up { BUS_UP } else { 0 } | if arrivals { ARRIVALS } else { 0 };
        [a, b, flags, c, d, e, f]
    }

    /// Appends it with the arrivals of `packets`, from `base` on, as [`FeedbackBuilder`] takes them. `scratch` is for
    /// one message. False: it does not fit.
    pub fn write(
        &self,
        base: u16,
        packets: impl IntoIterator<Item = (u16, Option<u64>)>,
        scratch: &mut Vec<u8>,
        out: &mut RecordWriter<'_>,
    ) -> bool {
        scratch.clear();
        let builder = FeedbackBuilder { sender: Ssrc(0), media: Ssrc(0), base_seq: base, feedback_count: 0 };
        builder.write(packets, scratch);
        let body = scratch.get(RTCP_FEEDBACK_HEAD..).unwrap_or_default();
        out.push(FEEDBACK, &[&self.head(!body.is_empty()), body])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::lane::media::MediaHead;

    const HANDLE: LaneHandle = LaneHandle { index: 7, generation: 2 };

    fn written(write: impl FnOnce(&mut RecordWriter<'_>)) -> Vec<u8> {
        let mut bytes = [0; 1_400];
        let mut writer = RecordWriter::new(&mut bytes);
        write(&mut writer);
        let used = writer.used();
        bytes[..used].to_vec()
    }

    fn examples() -> Vec<LaneRecord<'static>> {
        let at = EncodingEpoch::new(2, 9);
        let head = MediaHead { handle: HANDLE, at, layers: Some(0x12), ..MediaHead::default() };
        vec![
            LaneRecord::Media(LaneMedia { head, parts: [b"e", b"dd", b"payload"] }),
            LaneRecord::Part(PartHead { handle: HANDLE, at, number: 77, part: 1, parts: 3 }, b"middle"),
            LaneRecord::Skip(LaneSkip { handle: HANDLE, at, first: 5, last: 9 }),
            LaneRecord::Clock(LaneClock { handle: HANDLE, encoding: 1, ntp: NtpTime(1 << 50), rtp_timestamp: 3 }),
            LaneRecord::Ping(8),
            LaneRecord::Pong(8),
            LaneRecord::Order(65_535, b"body"),
        ]
    }

    #[test]
    fn records_are_read_in_their_order_and_unknown_ones_are_passed_over() {
        let bytes = written(|out| {
            for record in examples() {
                assert!(record.write(out));
                assert!(out.push(30, &[b"of a later version"]));
            }
            out.pad(40);
        });
        let read: Vec<_> = LaneRecords(&bytes).map(|record| format!("{:?}", record.unwrap())).collect();
        assert_eq!(read, examples().iter().map(|record| format!("{record:?}")).collect::<Vec<_>>());
        let with_a_byte = written(|out| {
            LaneRecord::Ping(1).write(out);
            out.pad(1);
        });
        assert_eq!(LaneRecords(&with_a_byte).count(), 1);
    }

    #[test]
    fn feedback_carries_arrivals_of_any_number_of_packets_or_none() {
        let feedback = LaneFeedback { orders_before: 9, bus_up: true, children: 3, held: 100, arrivals: None };
        let packets = [(65_535, Some(1_000_000)), (0, None), (1, Some(1_002_000))];
        for packets in [&packets[..], &[]] {
            let bytes = written(|out| assert!(feedback.write(65_535, packets.to_vec(), &mut Vec::new(), out)));
            let Some(Ok(LaneRecord::Feedback(read))) = LaneRecords(&bytes).next() else { panic!() };
            assert_eq!((read.orders_before, read.bus_up, read.children, read.held), (9, true, 3, 100));
            let arrived: Vec<_> = read.arrivals.iter().flat_map(|arrivals| arrivals.packets()).collect();
            assert_eq!(arrived.len(), packets.len());
            assert_eq!(arrived.iter().filter(|(_, at)| at.is_some()).count(), packets.len().min(2));
        }
    }

    #[test]
    fn no_truncation_or_mutation_panics_and_a_bad_record_takes_no_other_along() {
        let bytes = written(|out| examples().iter().for_each(|record| assert!(record.write(out))));
        for len in 0..bytes.len() {
            assert!(LaneRecords(&bytes[..len]).count() <= examples().len());
        }
        for at in 0..bytes.len() {
            for value in [0, 1, 127, 255] {
                let mut bad = bytes.clone();
                bad[at] = value;
                LaneRecords(&bad).for_each(|record| drop(format!("{record:?}")));
            }
        }
        let short = written(|out| {
            assert!(out.push(PING, &[b"abc"]));
            assert!(LaneRecord::Pong(5).write(out));
        });
        let read: Vec<_> = LaneRecords(&short).collect();
        assert!(matches!(read[..], [Err(_), Ok(LaneRecord::Pong(5))]));
    }
}
