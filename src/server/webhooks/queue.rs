//! The events that wait for one hook: one at a time for each channel, in the order of the channel, again after a while
//! when it failed. Events and bytes, attempts and age are bounded. Touches no socket and reads no clock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::counts::GivenUp;
use crate::base::limits::{WEBHOOK_BYTES_MAX, WEBHOOK_EVENTS_MAX};
use crate::base::time::Instant;

/// One event, on its way to every hook.
#[derive(Clone, Debug)]
pub(super) struct Parcel {
    /// The same in every attempt, so that the hook knows it again.
    pub(super) id: Arc<str>,
    pub(super) channel: Arc<str>,
    pub(super) text: Arc<str>,
    pub(super) made: Instant,
}

/// When an event is tried again, and when it is given up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) attempts: u32,
    pub(super) age: Duration,
    /// The wait after the first failure, doubled with each further one up to the last.
    pub(super) first_wait: Duration,
    pub(super) last_wait: Duration,
}

#[derive(Default)]
struct Row {
    parcels: VecDeque<Parcel>,
    /// Failures of the first.
    failures: u32,
    /// When the first may be tried; None: it is being tried.
    due: Option<Instant>,
}

pub(super) struct HookQueue {
    patience: Patience,
    rows: BTreeMap<Arc<str>, Row>,
    /// Rows whose first parcel waits for its time.
    due: BTreeSet<(Instant, Arc<str>)>,
    /// The rows by their lengths.
    lengths: BTreeSet<(usize, Arc<str>)>,
    bytes: usize,
    events: usize,
}

impl HookQueue {
    pub(super) fn new(patience: Patience) -> HookQueue {
        HookQueue {
            patience,
            rows: BTreeMap::new(),
            due: BTreeSet::new(),
            lengths: BTreeSet::new(),
            bytes: 0,
            events: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.events
    }

    /// Where there is no room, a channel that has most loses its newest: one that comes and goes without end is in no
    /// other's way. Returns how many were given up for this one.
    pub(super) fn push(&mut self, now: Instant, parcel: Parcel) -> Result<u64, GivenUp> {
        let mut others = 0;
        while self.events >= WEBHOOK_EVENTS_MAX || self.bytes + parcel.text.len() > WEBHOOK_BYTES_MAX {
            let own = self.rows.get(&parcel.channel).map_or(0, |row| row.parcels.len());
            // Two more than its own: the first of a row may be on its way.
            let Some((_, longest)) = self.lengths.last().filter(|(most, _)| *most >= own + 2).cloned() else {
                return Err(GivenUp::QueueFull);
            };
            self.take(&longest, VecDeque::pop_back);
            others += 1;
        }
        self.bytes += parcel.text.len();
        self.events += 1;
        let channel = parcel.channel.clone();
        let row = self.rows.entry(channel.clone()).or_default();
        row.parcels.push_back(parcel);
        let length = row.parcels.len();
        if length == 1 {
            row.due = Some(now);
            self.due.insert((now, channel.clone()));
        }
        self.lengths.remove(&(length - 1, channel.clone()));
        self.lengths.insert((length, channel));
        Ok(others)
    }

    fn take(&mut self, channel: &Arc<str>, which: fn(&mut VecDeque<Parcel>) -> Option<Parcel>) {
        let Some(row) = self.rows.get_mut(channel) else { return };
        let Some(parcel) = which(&mut row.parcels) else { return };
        self.bytes -= parcel.text.len();
        self.events -= 1;
        let length = row.parcels.len();
        self.lengths.remove(&(length + 1, channel.clone()));
        if length > 0 {
            self.lengths.insert((length, channel.clone()));
        }
    }

    /// The next that may be tried now; [`HookQueue::done`] or [`HookQueue::failed`] says what became of it. `given_up`
    /// is called for each that is too old.
    pub(super) fn next(&mut self, now: Instant, mut given_up: impl FnMut(&Parcel)) -> Option<Parcel> {
        loop {
            self.due.first().filter(|(due, _)| *due <= now)?;
            let (_, channel) = self.due.pop_first()?;
            let row = self.rows.get_mut(&channel)?;
            row.due = None;
            let parcel = row.parcels.front()?.clone();
            if now.since(parcel.made) < self.patience.age {
                return Some(parcel);
            }
            given_up(&parcel);
            self.done(now, &channel);
        }
    }

    /// The channel's first is through, or given up.
    pub(super) fn done(&mut self, now: Instant, channel: &Arc<str>) {
        self.take(channel, VecDeque::pop_front);
        let Some(row) = self.rows.get_mut(channel) else { return };
        row.failures = 0;
        if row.parcels.is_empty() {
            self.rows.remove(channel);
        } else {
            row.due = Some(now);
            self.due.insert((now, channel.clone()));
        }
    }

    /// The channel's first failed once more; `jitter` from 0 to 1 takes up to half of the wait, so that many do not come
    /// back together.
    pub(super) fn failed(&mut self, now: Instant, channel: &Arc<str>, jitter: f64) -> Option<GivenUp> {
        let row = self.rows.get_mut(channel)?;
        row.failures += 1;
        if row.failures >= self.patience.attempts {
            self.done(now, channel);
            return Some(GivenUp::Attempts);
        }
        let doubled = self.patience.first_wait.saturating_mul(1 << (row.failures - 1).min(16));
        let wait = doubled.min(self.patience.last_wait).mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0);
        let due = now + wait;
        row.due = Some(due);
        self.due.insert((due, channel.clone()));
        None
    }

    /// When the next may be tried, apart from those that are being tried.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        attempts: 3,
        age: Duration::from_secs(100),
        first_wait: Duration::from_secs(4),
        last_wait: Duration::from_secs(6),
    };

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    fn parcel(channel: &str, id: u64, made: Instant) -> Parcel {
        Parcel { id: id.to_string().into(), channel: channel.into(), text: "{}".into(), made }
    }

    fn ids(queue: &mut HookQueue, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| queue.next(now, |_| {})).map(|parcel| parcel.id.to_string()).collect()
    }

    #[test]
    fn a_channel_has_its_order_and_does_not_wait_for_another() {
        let mut queue = HookQueue::new(PATIENCE);
        for (channel, id) in [("a", 1), ("a", 2), ("b", 3), ("a", 4)] {
            queue.push(at(0), parcel(channel, id, at(0))).unwrap();
        }
        assert_eq!(ids(&mut queue, at(0)), ["1", "3"]);
        let (a, b) = (Arc::from("a"), Arc::from("b"));
        assert_eq!(queue.failed(at(0), &a, 0.0), None);
        queue.done(at(0), &b);
        assert_eq!(
            (ids(&mut queue, at(3)), queue.deadline()),
            (vec![], Some(at(4))),
            "the second waits behind the first"
        );
        assert_eq!(ids(&mut queue, at(4)), ["1"]);
        queue.done(at(4), &a);
        assert_eq!(ids(&mut queue, at(4)), ["2"]);
        queue.done(at(4), &a);
        assert_eq!(ids(&mut queue, at(4)), ["4"]);
        queue.done(at(4), &a);
        assert!(queue.len() == 0 && queue.bytes == 0 && queue.rows.is_empty() && queue.due.is_empty());
        assert!(queue.lengths.is_empty());
    }

    #[test]
    fn waits_double_up_to_the_last_and_jitter_shortens_them() {
        let mut queue = HookQueue::new(PATIENCE);
        let a = Arc::from("a");
        queue.push(at(0), parcel("a", 1, at(0))).unwrap();
        queue.push(at(0), parcel("a", 2, at(0))).unwrap();
        assert_eq!(ids(&mut queue, at(0)), ["1"]);
        assert_eq!((queue.failed(at(0), &a, 1.0), queue.deadline()), (None, Some(at(2))));
        assert_eq!(ids(&mut queue, at(2)), ["1"]);
        assert_eq!((queue.failed(at(2), &a, 0.0), queue.deadline()), (None, Some(at(8))));
        assert_eq!(ids(&mut queue, at(8)), ["1"]);
        assert_eq!(queue.failed(at(8), &a, 0.0), Some(GivenUp::Attempts));
        assert_eq!(ids(&mut queue, at(8)), ["2"], "the next begins anew");
        assert_eq!((queue.failed(at(8), &a, 0.0), queue.deadline()), (None, Some(at(12))));
    }

    #[test]
    fn a_channel_without_end_loses_its_own_events_and_no_others() {
        let mut queue = HookQueue::new(PATIENCE);
        let mut refused = 0;
        for n in 0..2 * WEBHOOK_EVENTS_MAX as u64 {
            refused += u64::from(queue.push(at(0), parcel("flood", n, at(0))).is_err());
        }
        assert_eq!((refused, queue.len()), (WEBHOOK_EVENTS_MAX as u64, WEBHOOK_EVENTS_MAX));
        assert_eq!(ids(&mut queue, at(0)), ["0"], "it is on its way");
        for n in 0..100 {
            assert_eq!(queue.push(at(0), parcel("a", 1_000_000 + n, at(0))), Ok(1));
            assert_eq!(queue.len(), WEBHOOK_EVENTS_MAX);
        }
        assert_eq!(queue.push(at(0), parcel("flood", 7, at(0))), Err(GivenUp::QueueFull));
        let (a, flood) = (Arc::from("a"), Arc::from("flood"));
        for n in 0..100 {
            assert_eq!(ids(&mut queue, at(0)), [(1_000_000 + n).to_string()]);
            queue.done(at(0), &a);
        }
        queue.done(at(0), &flood);
        assert_eq!(ids(&mut queue, at(0)), ["1"]);
        for _ in 1..WEBHOOK_EVENTS_MAX - 100 {
            queue.done(at(0), &flood);
        }
        assert!(queue.len() == 0 && queue.bytes == 0 && queue.rows.is_empty() && queue.lengths.is_empty());
    }

    #[test]
    fn what_is_too_old_or_too_much_is_given_up() {
        let mut queue = HookQueue::new(PATIENCE);
        queue.push(at(0), parcel("a", 1, at(0))).unwrap();
        queue.push(at(1), parcel("a", 2, at(1))).unwrap();
        let mut old = Vec::new();
        let next = queue.next(at(100), |parcel| old.push(parcel.id.to_string()));
        assert_eq!((old, next.map(|parcel| parcel.id.to_string())), (vec!["1".to_owned()], Some("2".to_owned())));
        while queue.push(at(2), parcel("b", 3, at(2))).is_ok() {}
        assert_eq!(queue.len(), WEBHOOK_EVENTS_MAX);
        let mut queue = HookQueue::new(PATIENCE);
        let long = Parcel { text: "x".repeat(WEBHOOK_BYTES_MAX / 4).into(), ..parcel("a", 1, at(0)) };
        let taken = std::iter::from_fn(|| queue.push(at(0), long.clone()).ok()).count();
        assert_eq!((taken, queue.bytes), (4, WEBHOOK_BYTES_MAX));
    }
}
