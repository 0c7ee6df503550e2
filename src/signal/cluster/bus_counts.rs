//! What went over the bus, for `/metrics`.

use std::collections::BTreeMap;

use super::messages::BusMessage;
use super::seal::Unopened;
use crate::base::time::Duration;

/// Upper bounds of round trips, in microseconds.
const BUCKETS: [u64; 11] = [250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 500_000, 2_500_000];

/// The labels `type` of messages in; `other`: of a type that is not known, `malformed`: no message at all.
const KINDS: [&str; 5] = [BusMessage::TYPES[0], BusMessage::TYPES[1], "echo", "other", "malformed"];

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BusCounts {
    pub(super) reconnects: u64,
    pub(super) fields_unknown: u64,
    received: [u64; KINDS.len()],
    sent: [u64; KINDS.len()],
    unopened: [u64; Unopened::ALL.len()],
    /// By the id of the cluster key.
    opened: BTreeMap<u8, u64>,
    round_trips: [u64; BUCKETS.len() + 1],
    round_trips_micros: u64,
}

fn place(kind: &str) -> usize {
    KINDS.iter().position(|known| *known == kind).unwrap_or(KINDS.len() - 1)
}

impl BusCounts {
    pub(super) fn received(&mut self, kind: &str) {
        self.received[place(kind)] += 1;
    }

    pub(super) fn sent(&mut self, kind: &str) {
        self.sent[place(kind)] += 1;
    }

    pub(super) fn unopened(&mut self, why: Unopened) {
        if let Some(place) = Unopened::ALL.iter().position(|known| *known == why) {
            self.unopened[place] += 1;
        }
    }

    pub(super) fn opened(&mut self, key: u8) {
        *self.opened.entry(key).or_default() += 1;
    }

    pub(super) fn round_trip(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.iter().position(|most| micros <= *most).unwrap_or(BUCKETS.len());
        self.round_trips[bucket] += 1;
        self.round_trips_micros = self.round_trips_micros.saturating_add(micros);
    }

    /// Connections of the bus beside the first.
    pub fn reconnects(&self) -> u64 {
        self.reconnects
    }

    /// Fields of messages that a later release may know.
    pub fn fields_unknown(&self) -> u64 {
        self.fields_unknown
    }

    /// Way, type and number.
    pub fn messages(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let of = |way: &'static str, counts: &[u64; KINDS.len()]| {
            let counts = *counts;
            KINDS.into_iter().zip(counts).map(move |(kind, count)| (way, kind, count))
        };
        of("in", &self.received).chain(of("out", &self.sent))
    }

    pub fn unopened_by_reason(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Unopened::ALL.into_iter().map(Unopened::name).zip(self.unopened)
    }

    pub(super) fn opened_by_key(&self) -> impl Iterator<Item = (u8, u64)> {
        self.opened.iter().map(|(key, count)| (*key, *count))
    }

    /// The sum in seconds; then upper bounds in seconds, the last of them without end, and how many lie in each.
    pub fn round_trips(&self) -> (f64, Vec<(f64, u64)>) {
        let bounds = BUCKETS.iter().map(|micros| *micros as f64 / 1e6).chain([f64::MAX]);
        (self.round_trips_micros as f64 / 1e6, bounds.zip(self.round_trips).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_counts_in_its_own_place() {
        let mut counts = BusCounts::default();
        for kind in KINDS {
            counts.received(kind);
            counts.sent(kind);
        }
        counts.received("sing");
        Unopened::ALL.into_iter().for_each(|why| counts.unopened(why));
        assert!(counts.messages().all(|(way, kind, count)| count == 1 + u64::from(way == "in" && kind == "malformed")));
        assert!(counts.unopened_by_reason().all(|(_, count)| count == 1));
        counts.opened(7);
        assert_eq!(counts.opened_by_key().collect::<Vec<_>>(), [(7, 1)]);
        for micros in [250, 251, 3_000_000] {
            counts.round_trip(Duration::from_micros(micros));
        }
        let (sum, buckets) = counts.round_trips();
        assert!((sum - 3.000_501).abs() < 1e-9);
        let filled: Vec<f64> = buckets.iter().filter(|(_, count)| *count > 0).map(|(most, _)| *most).collect();
        assert_eq!(filled, [0.000_25, 0.000_5, f64::MAX]);
    }
}
