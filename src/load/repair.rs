//! Retransmission for packets lost on purpose, as browsers do it: the publisher's history (RFC 4588) and the receiver's
//! list of missing packets (RFC 4585). Only video, and only in runs that lose packets.

use std::collections::VecDeque;

use crate::base::seq::{ExtSeq, Seq};
use crate::base::time::{Duration, Instant};

const HISTORY_PACKETS: usize = 1_024;
const WANTED_MAX: usize = 512;
/// The interval of two requests for the same packet, and the number of requests.
const ASK_GAP: Duration = Duration::from_millis(100);
const ASKS_MAX: u32 = 10;

/// A packet that was sent.
pub struct SentPacket {
    seq: ExtSeq,
    pub timestamp: u32,
    pub marker: bool,
    pub payload: Vec<u8>,
}

pub struct SentPackets {
    packets: VecDeque<SentPacket>,
    next_seq: ExtSeq,
}

impl SentPackets {
    pub fn new(first: Seq) -> SentPackets {
        SentPackets { packets: VecDeque::new(), next_seq: ExtSeq::first(first) }
    }

    pub fn keep(&mut self, seq: ExtSeq, timestamp: u32, marker: bool, payload: &[u8]) {
        let mut buffer = match self.packets.len() {
            HISTORY_PACKETS => self.packets.pop_front().map(|oldest| oldest.payload).unwrap_or_default(),
            _ => Vec::new(),
        };
        buffer.clear();
        buffer.extend_from_slice(payload);
        self.packets.push_back(SentPacket { seq, timestamp, marker, payload: buffer });
    }

    /// The packet, if it is still there, and the next number of the repair stream.
    pub fn resend(&mut self, seq: Seq) -> Option<(&SentPacket, ExtSeq)> {
        let (newest, oldest) = (self.packets.back()?.seq, self.packets.front()?.seq);
        let at = newest.nearest(seq);
        let sent = self.packets.get(usize::try_from(at.distance_from(oldest)).ok()?)?;
        let repair_seq = self.next_seq;
        self.next_seq = repair_seq.next();
        Some((sent, repair_seq))
    }
}

struct Gap {
    at: ExtSeq,
    asked: u32,
    ask_at: Instant,
}

/// Ascending.
#[derive(Default)]
pub struct Wanted {
    gaps: Vec<Gap>,
}

impl Wanted {
    /// Numbers from `from` up to, not including, `to` were passed over.
    pub fn add(&mut self, now: Instant, from: ExtSeq, to: ExtSeq) {
        let room = WANTED_MAX.saturating_sub(self.gaps.len());
        self.gaps.extend((from.0..to.0).take(room).map(|at| Gap { at: ExtSeq(at), asked: 0, ask_at: now }));
    }

    /// False when it was not missing.
    pub fn fill(&mut self, at: ExtSeq) -> bool {
        let found = self.gaps.binary_search_by_key(&at, |gap| gap.at);
        found.map(|place| self.gaps.remove(place)).is_ok()
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.gaps.iter().map(|gap| gap.ask_at).min()
    }

    /// The requests that are due.
    pub fn ask(&mut self, now: Instant) -> Vec<Seq> {
        self.gaps.retain(|gap| gap.asked < ASKS_MAX || gap.ask_at > now);
        let due = self.gaps.iter_mut().filter(|gap| gap.ask_at <= now);
        due.map(|gap| {
            gap.asked += 1;
            gap.ask_at = now + ASK_GAP;
            gap.at.seq()
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_found_by_its_number_until_it_is_too_old() {
        let mut history = SentPackets::new(Seq(65_535));
        let first = ExtSeq::first(Seq(65_000));
        for n in 0..HISTORY_PACKETS as u64 + 10 {
            history.keep(ExtSeq(first.0 + n), n as u32, false, &n.to_be_bytes());
        }
        let (sent, seq) = history.resend(ExtSeq(first.0 + 600).seq()).unwrap();
        assert_eq!((sent.timestamp, &sent.payload[..], seq.seq()), (600, &600u64.to_be_bytes()[..], Seq(65_535)));
        assert_eq!(history.resend(ExtSeq(first.0 + 10).seq()).unwrap().1.seq(), Seq(0));
        assert!(history.resend(ExtSeq(first.0 + 9).seq()).is_none(), "too old");
        assert!(history.resend(ExtSeq(first.0 + 5_000).seq()).is_none(), "not sent yet");
    }

    #[test]
    fn what_is_missing_is_asked_for_until_it_comes_or_was_asked_for_often() {
        let mut wanted = Wanted::default();
        let at = |millis: u64| Instant::from_nanos(millis * 1_000_000);
        wanted.add(at(0), ExtSeq(70_000), ExtSeq(70_003));
        assert_eq!(wanted.ask(at(0)), [Seq(4_464), Seq(4_465), Seq(4_466)]);
        assert!(wanted.fill(ExtSeq(70_001)) && !wanted.fill(ExtSeq(70_001)));
        assert_eq!((wanted.ask(at(99)), wanted.deadline()), (vec![], Some(at(100))));
        let asked: usize = (1..20).map(|n| wanted.ask(at(n * 100)).len()).sum();
        assert_eq!((asked, wanted.deadline()), (2 * (ASKS_MAX as usize - 1), None), "given up");
    }
}
