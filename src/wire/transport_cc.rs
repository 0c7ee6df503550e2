//! Transport-wide congestion control feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01): the arrival times
//! of a transport's packets. The view is read by the sender's estimator, the builder is fed by `media::arrival_log`.

use super::rtcp_numbers::{format, packet_type};
use super::{Malformed, Reader};
use crate::base::id::Ssrc;
use crate::base::limits::TRANSPORT_CC_PACKETS_MAX;

/// Arrival times are counted in steps of this many microseconds.
pub const TICK_US: u64 = 250;
/// The reference time is counted in steps of 64 ms: this many ticks.
const REFERENCE_TICKS: u64 = 256;
/// A feedback packet is never longer than this, header included.
pub const FEEDBACK_BYTES_MAX: usize = 1_200;
/// RTCP header, both SSRCs and the fixed fields.
const FIXED: usize = 20;

/// Section 3.1.1 of the draft.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Symbol {
    Lost,
    /// A delta of one byte.
    Small,
    /// A delta of two bytes, with sign.
    Large,
}

impl Symbol {
    fn from_bits(bits: u16) -> Option<Symbol> {
        match bits {
            0 => Some(Symbol::Lost),
            1 => Some(Symbol::Small),
            2 => Some(Symbol::Large),
            _ => None,
        }
    }

    fn delta_len(self) -> usize {
        self as usize
    }
}

/// A checked feedback packet: its chunks cover every packet it counts, and its deltas are all there.
#[derive(Clone, Copy, Debug)]
pub struct TransportCc<'a> {
    pub sender: Ssrc,
    pub media: Ssrc,
    pub base_seq: u16,
    /// The number of packets that it covers.
    pub status_count: u16,
    /// In steps of 64 ms, 24 bits with sign.
    pub reference_time: i32,
    pub feedback_count: u8,
    chunks: &'a [[u8; 2]],
    deltas: &'a [u8],
}

impl<'a> TransportCc<'a> {
    pub(super) fn parse(sender: Ssrc, media: Ssrc, control: &'a [u8]) -> Result<TransportCc<'a>, Malformed> {
        let mut reader = Reader::new(control, "transport-wide feedback cut short");
        let base_seq = reader.u16()?;
        let status_count = reader.u16()?;
        let time = reader.u32()?;
        if status_count == 0 {
            return Err(Malformed("transport-wide feedback about no packet"));
        }
        if status_count > TRANSPORT_CC_PACKETS_MAX {
            return Err(Malformed("transport-wide feedback about over 8,192 packets"));
        }
        let body = reader.rest();
        let mut covered = 0;
        let mut deltas_len = 0;
        let mut chunks = 0;
        while covered < usize::from(status_count) {
            let chunk = reader.u16()?;
            chunks += 1;
            let symbols = Symbols { chunk, next: 0 };
            let wanted = usize::from(status_count) - covered;
            // A run is one symbol many times: its deltas are counted without walking it.
            let (count, bytes) = match symbols.run() {
                Some((symbol, len)) => {
                    let symbol = symbol.ok_or(RESERVED)?;
                    let count = usize::from(len).min(wanted);
                    (count, count * symbol.delta_len())
                }
                None => symbols.take(wanted).try_fold((0, 0), |(count, bytes), symbol| {
                    Ok((count + 1, bytes + symbol.ok_or(RESERVED)?.delta_len()))
                })?,
            };
            covered += count;
            deltas_len += bytes;
        }
        let deltas = reader.take(deltas_len)?;
        let (chunks, _) = body[..chunks * 2].as_chunks();
        Ok(TransportCc {
            sender,
            media,
            base_seq,
            status_count,
            // The upper 24 bits, shifted with their sign.
            reference_time: time as i32 >> 8,
            feedback_count: time as u8,
            chunks,
            deltas,
        })
    }

    /// Each packet with its arrival in ticks of 250 µs after the reference time; None: it has not arrived.
    pub fn packets(&self) -> impl Iterator<Item = (u16, Option<i64>)> + 'a {
        self.statuses().flat_map(|status| {
            let (first, count, arrival) = match status {
                Status::Arrived { seq, ticks } => (seq, 1, Some(ticks)),
                Status::Missing { first, count } => (first, count, None),
            };
            (0..count).map(move |nth| (first.wrapping_add(nth), arrival))
        })
    }

    /// The same in at most as many steps as it has bytes: a run of packets that have not arrived is one.
    pub fn statuses(&self) -> impl Iterator<Item = Status> + 'a {
        let mut reader = StatusReader {
            seq: self.base_seq,
            left: self.status_count,
            at: 0,
            deltas: self.deltas,
            chunks: self.chunks,
            symbols: None,
        };
        std::iter::from_fn(move || reader.next())
    }
}

/// The status of one packet or of a run of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// In ticks of 250 µs after the reference time.
    Arrived {
        seq: u16,
        ticks: i64,
    },
    Missing {
        first: u16,
        count: u16,
    },
}

struct StatusReader<'a> {
    /// The next packet, and the number of equal ones with it.
    seq: u16,
    left: u16,
    at: i64,
    deltas: &'a [u8],
    chunks: &'a [[u8; 2]],
    /// Of the chunk that is being read.
    symbols: Option<Symbols>,
}

impl StatusReader<'_> {
    fn next(&mut self) -> Option<Status> {
        while self.left > 0 {
            let Some(symbols) = &mut self.symbols else {
                let (chunk, rest) = self.chunks.split_first()?;
                self.chunks = rest;
                let symbols = Symbols { chunk: u16::from_be_bytes(*chunk), next: 0 };
                if let Some((Some(Symbol::Lost), count)) = symbols.run() {
                    if count > 0 {
                        return Some(self.missing(count));
                    }
                } else {
                    self.symbols = Some(symbols);
                }
                continue;
            };
            match symbols.next() {
                Some(symbol) => return Some(self.status(symbol)),
                None => self.symbols = None,
            }
        }
        None
    }

    fn missing(&mut self, count: u16) -> Status {
        let (first, count) = (self.seq, count.min(self.left));
        self.seq = first.wrapping_add(count);
        self.left -= count;
        Status::Missing { first, count }
    }

    fn status(&mut self, symbol: Option<Symbol>) -> Status {
        let delta = match symbol {
            Some(Symbol::Small) => self.deltas.split_first().map(|(byte, rest)| (i64::from(*byte), rest)),
            Some(Symbol::Large) => {
                self.deltas.split_first_chunk().map(|(delta, rest)| (i64::from(i16::from_be_bytes(*delta)), rest))
            }
            Some(Symbol::Lost) | None => None,
        };
        let Some((delta, rest)) = delta else { return self.missing(1) };
        self.deltas = rest;
        self.at += delta;
        let seq = self.seq;
        self.seq = seq.wrapping_add(1);
        self.left -= 1;
        Status::Arrived { seq, ticks: self.at }
    }
}

const RESERVED: Malformed = Malformed("transport-wide feedback with a reserved symbol");

/// The symbols of one chunk in order; None for a reserved one.
struct Symbols {
    chunk: u16,
    next: u16,
}

impl Symbols {
    /// A run length chunk (section 3.1.3): its symbol and length. None for a status vector (section 3.1.4).
    fn run(&self) -> Option<(Option<Symbol>, u16)> {
        (self.chunk & 0x8000 == 0).then(|| (Symbol::from_bits(self.chunk >> 13 & 3), self.chunk & 0x1FFF))
    }
}

impl Iterator for Symbols {
    type Item = Option<Symbol>;

    fn next(&mut self) -> Option<Self::Item> {
        let index = self.next;
        let symbol = match self.run() {
            Some((symbol, len)) => (index < len).then_some(symbol),
            None if self.chunk & 0x4000 == 0 => (index < 14).then(|| Symbol::from_bits(self.chunk >> (13 - index) & 1)),
            None => (index < 7).then(|| Symbol::from_bits(self.chunk >> (12 - 2 * index) & 3)),
        }?;
        self.next += 1;
        Some(symbol)
    }
}

/// Builds feedback packets from arrivals. Not a log: it keeps nothing between two packets.
pub struct FeedbackBuilder {
    pub sender: Ssrc,
    pub media: Ssrc,
    /// The first packet to cover.
    pub base_seq: u16,
    /// Counts the feedback packets of a transport, with wrap.
    pub feedback_count: u8,
}

impl FeedbackBuilder {
    /// Appends one RTCP packet about as many of `packets` as fit, and returns their number. Each is a sequence number
    /// and its arrival in microseconds on any clock, None if it has not arrived; ascending from `base_seq`, and numbers
    /// left out have not arrived. It stops before a delta that does not fit 16 bits, before a number that does not
    /// ascend, at [`FEEDBACK_BYTES_MAX`] and [`TRANSPORT_CC_PACKETS_MAX`]: the rest then goes into a new feedback
    /// packet, with its first number as base. The reference time is that of the first arrival; 0 and nothing written
    /// when there is none.
    pub fn write(&self, packets: impl IntoIterator<Item = (u16, Option<u64>)>, out: &mut Vec<u8>) -> usize {
        let mut body = Body::default();
        let mut taken = 0;
        for (seq, arrival) in packets {
            let skipped = seq.wrapping_sub(self.base_seq.wrapping_add(body.count));
            if skipped >= 1 << 15 || !body.push(skipped, arrival.map(|micros| micros / TICK_US)) {
                break;
            }
            taken += 1;
        }
        let Some(reference) = body.reference else { return 0 };
        body.chunks.finish();
        let start = out.len();
        out.extend([0x80 | format::TRANSPORT_CC, packet_type::TRANSPORT_FEEDBACK, 0, 0]);
        out.extend(self.sender.0.to_be_bytes());
        out.extend(self.media.0.to_be_bytes());
        out.extend(self.base_seq.to_be_bytes());
        out.extend(body.count.to_be_bytes());
        out.extend(((reference as u32) << 8 | u32::from(self.feedback_count)).to_be_bytes());
        out.extend_from_slice(body.chunks.bytes.written());
        out.extend_from_slice(body.deltas.written());
        let len = (out.len() - start).next_multiple_of(4);
        out.resize(start + len, 0);
        out[start + 2..start + 4].copy_from_slice(&((len / 4 - 1) as u16).to_be_bytes());
        taken
    }
}

/// The space between the fixed fields and the end, less the padding to whole words.
const BODY_MAX: usize = FEEDBACK_BYTES_MAX - FIXED - 3;

/// Bytes of a bounded list on the stack.
struct Bounded {
    bytes: [u8; BODY_MAX],
    len: usize,
}

impl Bounded {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn written(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Default for Bounded {
    fn default() -> Self {
        Bounded { bytes: [0; BODY_MAX], len: 0 }
    }
}

#[derive(Default)]
struct Body {
    chunks: Chunks,
    deltas: Bounded,
    count: u16,
    /// In steps of 64 ms, once something has arrived.
    reference: Option<u64>,
    /// The last arrival in ticks.
    last: u64,
}

impl Body {
    /// Takes `lost` missing packets and then one with its arrival in ticks, or nothing at all.
    fn push(&mut self, lost: u16, arrival: Option<u64>) -> bool {
        let count = self.count.saturating_add(lost).saturating_add(1);
        if count > TRANSPORT_CC_PACKETS_MAX {
            return false;
        }
        let reference = self.reference.or(arrival.map(|ticks| ticks / REFERENCE_TICKS));
        let (symbol, delta) = match (arrival, reference) {
            (Some(ticks), Some(reference)) => {
                let last = if self.reference.is_some() { self.last } else { reference * REFERENCE_TICKS };
                let delta = ticks.wrapping_sub(last) as i64;
                match (u8::try_from(delta), i16::try_from(delta)) {
                    (Ok(_), Ok(delta)) => (Symbol::Small, delta),
                    (Err(_), Ok(delta)) => (Symbol::Large, delta),
                    _ => return false,
                }
            }
            _ => (Symbol::Lost, 0),
        };
        // The missing ones close at most two chunks before they are a run, and fill whole runs; the last symbol closes
        // at most one more, and one stays open.
        let closed = 4 + usize::from(lost) / usize::from(Chunks::RUN_MAX);
        if self.chunks.bytes.len + 2 * closed + self.deltas.len + symbol.delta_len() > BODY_MAX {
            return false;
        }
        for _ in 0..lost {
            self.chunks.push(Symbol::Lost);
        }
        self.chunks.push(symbol);
        let delta = delta.to_be_bytes();
        self.deltas.push(&delta[delta.len() - symbol.delta_len()..]);
        self.count = count;
        self.reference = reference;
        self.last = arrival.unwrap_or(self.last);
        true
    }
}

/// Packs symbols into chunks: equal ones into runs, others into vectors of 14 (nothing large among them) or 7.
#[derive(Default)]
struct Chunks {
    bytes: Bounded,
    /// Symbols of the open chunk: the first 14 of them, two bits each from the lowest up.
    open: u32,
    len: u16,
    mixed: bool,
    has_large: bool,
}

impl Chunks {
    const RUN_MAX: u16 = 0x1FFF;

    fn push(&mut self, symbol: Symbol) {
        if !self.takes(symbol) {
            self.close(false);
        }
        if self.len < 14 {
            self.open |= (symbol as u32) << (2 * self.len);
        }
        self.mixed |= self.open & 3 != symbol as u32;
        self.has_large |= symbol == Symbol::Large;
        self.len += 1;
    }

    fn takes(&self, symbol: Symbol) -> bool {
        let same = !self.mixed && self.open & 3 == symbol as u32;
        match self.len {
            0..7 => true,
            7..14 if !self.has_large && symbol != Symbol::Large => true,
            _ => same && self.len < Self::RUN_MAX,
        }
    }

    /// Writes one chunk; up to six symbols that did not fit it stay open, none when it is the last.
    fn close(&mut self, last: bool) {
        let symbol = |index: u16| (self.open >> (2 * index) & 3) as u16;
        let (chunk, kept_from) = if !self.mixed {
            (symbol(0) << 13 | self.len, self.len)
        } else if !self.has_large && (self.len == 14 || last) {
            ((0..14).fold(0x8000, |chunk, index| chunk | symbol(index) << (13 - index)), self.len)
        } else {
            ((0..7).fold(0xC000, |chunk, index| chunk | symbol(index) << (12 - 2 * index)), 7)
        };
        self.bytes.push(&chunk.to_be_bytes());
        let (open, len) = (self.open, self.len);
        (self.open, self.len, self.mixed, self.has_large) = (0, 0, false, false);
        for index in kept_from..len {
            self.push(match open >> (2 * index) & 3 {
                0 => Symbol::Lost,
                1 => Symbol::Small,
                _ => Symbol::Large,
            });
        }
    }

    fn finish(&mut self) {
        if self.len > 0 {
            self.close(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::super::feedback::Feedback;
    use super::super::rtcp::{self, Rtcp};
    use super::*;

    fn read(bytes: &[u8]) -> Result<TransportCc<'_>, Malformed> {
        match rtcp::parse(bytes).next() {
            Some(Ok(Rtcp::Feedback(Feedback::TransportCc(feedback)))) => Ok(feedback),
            Some(Err(malformed)) => Err(malformed),
            other => panic!("{other:?}"),
        }
    }

    /// Feedback of hand-written chunks and deltas.
    fn feedback(count: u16, chunks: &[u16], deltas: &[u8]) -> Vec<u8> {
        let mut control = vec![0, 10];
        control.extend(count.to_be_bytes());
        control.extend([0xFF, 0xFF, 0xFE, 7]);
        control.extend(chunks.iter().flat_map(|chunk| chunk.to_be_bytes()));
        control.extend(deltas);
        control.resize(control.len().next_multiple_of(4), 0);
        [&[0x8F, 205, 0, (control.len() / 4 + 2) as u8, 0, 0, 0, 1, 0, 0, 0, 2], &control[..]].concat()
    }

    fn arrivals(count: u16, chunks: &[u16], deltas: &[u8]) -> Vec<Option<i64>> {
        read(&feedback(count, chunks, deltas)).unwrap().packets().map(|(_, arrival)| arrival).collect()
    }

    #[test]
    fn the_chunk_examples_of_the_draft_read_as_drawn() {
        // Section 3.1.3: 221 packets lost; 24 packets small.
        assert_eq!(arrivals(221, &[0x00DD], &[]), [None; 221]);
        let all = arrivals(24, &[0x2018], &[4; 24]);
        assert_eq!(all, (1..=24).map(|n| Some(4 * n)).collect::<Vec<_>>());
        // Section 3.1.4: one lost, five received, three lost, three received, two lost.
        let vector = arrivals(14, &[0x9F1C], &[1; 8]);
        let received: Vec<_> = vector.iter().map(Option::is_some).collect();
        let [t, f] = [true, false];
        assert_eq!(received, [f, t, t, t, t, t, f, f, f, t, t, t, f, f]);
        // Two-bit symbols: one lost, one small, one large, then four lost.
        let two_bit = arrivals(7, &[0xC000 | 1 << 10 | 2 << 8], &[3, 0xFF, 0xFE]);
        assert_eq!(two_bit, [None, Some(3), Some(1), None, None, None, None]);
    }

    #[test]
    fn a_run_of_missing_packets_is_one_step() {
        let bytes = feedback(8_192, &[0x1F00, 0x0000, 0x2001, 0x1FFF], &[8]);
        let all: Vec<_> = read(&bytes).unwrap().statuses().collect();
        let missing = |first, count| Status::Missing { first, count };
        let expected = [missing(10, 0x1F00), Status::Arrived { seq: 7_946, ticks: 8 }, missing(7_947, 255)];
        assert_eq!(all, expected);
    }

    #[test]
    fn the_fixed_fields_keep_their_signs() {
        let bytes = feedback(1, &[0x2001], &[8]);
        let read = read(&bytes).unwrap();
        assert_eq!((read.sender, read.media, read.base_seq), (Ssrc(1), Ssrc(2), 10));
        assert_eq!((read.reference_time, read.feedback_count, read.status_count), (-2, 7, 1));
        assert_eq!(read.packets().collect::<Vec<_>>(), [(10, Some(8))]);
    }

    #[test]
    fn what_the_chunks_do_not_cover_and_deltas_that_are_missing_are_malformed() {
        assert!(read(&feedback(0, &[], &[])).is_err(), "no packet");
        assert!(read(&feedback(8_192, &[0x1FFF, 0x1FFF], &[])).is_ok());
        assert!(read(&feedback(8_193, &[0x1FFF, 0x1FFF], &[])).is_err(), "more than anybody sends");
        assert!(read(&feedback(2, &[0x2001, 0x2000], &[])).is_err(), "one of two covered");
        assert!(read(&feedback(9, &[0x2009], &[0; 2])).is_err(), "two of nine deltas");
        assert_eq!(read(&feedback(1, &[0x6001], &[0; 2])).unwrap_err(), RESERVED);
        assert_eq!(read(&feedback(7, &[0xC003], &[0; 2])).unwrap_err(), RESERVED);
        assert!(read(&feedback(6, &[0xC003], &[0; 2])).is_ok(), "a symbol beyond the count is not read");
        assert_eq!(arrivals(3, &[0x3FFF], &[1, 1, 1]).len(), 3, "a run longer than the count");
    }

    fn builder(base_seq: u16) -> FeedbackBuilder {
        FeedbackBuilder { sender: Ssrc(1), media: Ssrc(2), base_seq, feedback_count: 3 }
    }

    /// Writes all of `packets` into as many feedback packets as it takes and reads them back, in microseconds.
    fn round_trip(packets: &[(u16, Option<u64>)]) -> Vec<(u16, Option<u64>)> {
        let mut rest = packets;
        let mut back = Vec::new();
        while let Some(&(base, _)) = rest.first() {
            let mut bytes = Vec::new();
            let taken = builder(base).write(rest.iter().copied(), &mut bytes);
            if taken == 0 {
                assert!(rest.iter().all(|(_, arrival)| arrival.is_none()) && bytes.is_empty());
                break;
            }
            assert!(bytes.len() <= FEEDBACK_BYTES_MAX && bytes.len() % 4 == 0);
            let read = read(&bytes).unwrap();
            let reference = read.reference_time as u64 * REFERENCE_TICKS;
            back.extend(
                read.packets()
                    .map(|(seq, arrival)| (seq, arrival.map(|ticks| reference.wrapping_add_signed(ticks) * TICK_US))),
            );
            rest = &rest[taken..];
        }
        back
    }

    #[test]
    fn random_arrivals_come_back_as_they_were() {
        let mut rng = StdRng::seed_from_u64(1);
        for _ in 0..500 {
            let (loss, jump, jitter) =
                (rng.random_range(0.0..1.0), rng.random_range(0.0..0.3), rng.random_range(1..400));
            let mut clock = rng.random_range(40_000..1_000_000u64);
            let base: u16 = rng.random();
            let mut packets: Vec<_> = (0..rng.random_range(1..1_500u16))
                .map(|offset| {
                    clock += if rng.random_bool(jump) { rng.random_range(0..50_000) } else { 0 };
                    let arrival = clock - rng.random_range(0..jitter * 10);
                    (base.wrapping_add(offset), (!rng.random_bool(loss)).then_some(arrival * TICK_US))
                })
                .collect();
            while packets.last().is_some_and(|(_, arrival)| arrival.is_none()) {
                packets.pop();
            }
            assert_eq!(round_trip(&packets), packets);
        }
    }

    #[test]
    fn numbers_left_out_are_lost_packets() {
        let mut bytes = Vec::new();
        assert_eq!(builder(65_534).write([(65_535, Some(64_000)), (8_000, Some(64_250))], &mut bytes), 2);
        let read = read(&bytes).unwrap();
        assert_eq!((read.status_count, read.reference_time), (8_003, 1));
        let arrived: Vec<_> = read.packets().filter(|(_, arrival)| arrival.is_some()).collect();
        assert_eq!(arrived, [(65_535, Some(0)), (8_000, Some(1))]);
        assert!(bytes.len() <= 40);
        assert_eq!(builder(0).write([(0, Some(0)), (8_192, Some(0))], &mut Vec::new()), 1, "the gap is too long");
    }

    #[test]
    fn it_stops_where_a_delta_does_not_fit_or_a_number_goes_back() {
        let mut bytes = Vec::new();
        let ten_seconds_later = [(1, Some(0)), (2, None), (3, Some(10_000_000))];
        assert_eq!(builder(1).write(ten_seconds_later, &mut bytes), 2);
        assert_eq!(read(&bytes).unwrap().status_count, 2);
        bytes.clear();
        assert_eq!(builder(1).write([(1, Some(0)), (2, Some(0)), (2, Some(0))], &mut bytes), 2);
        bytes.clear();
        assert_eq!(builder(1).write([(1, None), (2, None)], &mut bytes), 0);
        assert!(bytes.is_empty());
    }

    #[test]
    fn every_truncation_is_malformed() {
        let mut bytes = Vec::new();
        let packets = (0..100u16).map(|n| (n, (n % 3 != 0).then_some(u64::from(n) * 1_000)));
        assert_eq!(builder(0).write(packets, &mut bytes), 100);
        for words in 1..bytes.len() / 4 {
            let mut cut = bytes[..words * 4].to_vec();
            cut[2..4].copy_from_slice(&(words as u16 - 1).to_be_bytes());
            assert!(read(&cut).is_err(), "{words}");
        }
    }
}
