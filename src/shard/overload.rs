//! Load shedding of a shard that cannot keep up. Its sockets hold seconds of media: once all of it waits for long,
//! working through that in order makes every stream late and saves none. A burst drains by itself and is forwarded
//! whole; a standing queue (RFC 8289 section 3) is removed by dropping unread the video that waited too long, until new
//! packets are fresh again. Publishers count it as lost and send less. Audio is kept: it is little.

use crate::base::time::{Duration, Instant};

/// The longest tolerable wait.
const TARGET: Duration = Duration::from_millis(100);
/// A queue stands when for this long nothing was handled that had waited less.
const INTERVAL: Duration = Duration::from_millis(500);
/// The same where it stood before, within [`REMEMBERED`].
const INTERVAL_AGAIN: Duration = Duration::from_millis(100);
const REMEMBERED: Duration = Duration::from_secs(10);
/// A gap found so soon after consists of shed packets: they are not requested again.
const GAPS_FOLLOW: Duration = Duration::from_secs(1);
/// Further behind than this, repeats are not sent.
const BEHIND: Duration = Duration::from_millis(50);

#[derive(Default)]
pub(super) struct Overload {
    /// The waits of the freshest and of the oldest media of this batch.
    batch: Option<(Duration, Duration)>,
    /// The oldest of the last batch with any.
    behind: Duration,
    standing_since: Option<Instant>,
    sheds: bool,
    shed_at: Option<Instant>,
}

impl Overload {
    /// A media packet with this wait. True when it is to be dropped, if it is video.
    pub(super) fn on_media(&mut self, waited: Duration) -> bool {
        let (freshest, oldest) = self.batch.unwrap_or((waited, waited));
        self.batch = Some((freshest.min(waited), oldest.max(waited)));
        self.sheds && waited >= TARGET
    }

    pub(super) fn end_batch(&mut self, now: Instant) {
        let Some((freshest, oldest)) = self.batch.take() else { return };
        self.behind = oldest;
        if freshest < TARGET {
            (self.standing_since, self.sheds) = (None, false);
            return;
        }
        let since = *self.standing_since.get_or_insert(now);
        let again = self.shed_at.is_some_and(|at| now.since(at) < REMEMBERED);
        if now.since(since) >= if again { INTERVAL_AGAIN } else { INTERVAL } {
            (self.sheds, self.shed_at) = (true, Some(now));
        }
    }

    pub(super) fn is_behind(&self) -> bool {
        self.batch.map_or(self.behind, |(_, oldest)| oldest) > BEHIND
    }

    pub(super) fn shed_lately(&self, now: Instant) -> bool {
        self.shed_at.is_some_and(|at| now.since(at) < GAPS_FOLLOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    /// Batches every 20 ms from `start`, whose packets waited so long; returns how many were to be dropped.
    fn run(overload: &mut Overload, start: u64, batches: &[u64]) -> usize {
        let mut shed = 0;
        for (n, waited) in batches.iter().enumerate() {
            shed += usize::from(overload.on_media(Duration::from_millis(*waited)));
            overload.end_batch(at(start + 20 * n as u64));
        }
        shed
    }

    #[test]
    fn a_burst_is_forwarded_whole() {
        let mut overload = Overload::default();
        // Stood still for 400 ms, and worked through that within 480.
        let batches: Vec<u64> = (0..25).map(|n| 400_u64.saturating_sub(16 * n)).collect();
        assert_eq!(run(&mut overload, 0, &batches), 0);
        assert!(!overload.is_behind() && !overload.shed_lately(at(500)));
    }

    #[test]
    fn a_queue_that_stands_is_shed_until_what_comes_is_fresh() {
        let mut overload = Overload::default();
        assert_eq!(run(&mut overload, 0, &[300; 26]), 0, "500 ms are up with the last");
        assert!(overload.is_behind());
        assert_eq!(run(&mut overload, 520, &[300, 250, 150, 99]), 3, "a fresh one ends it");
        assert!(overload.shed_lately(at(700)));
        assert_eq!(run(&mut overload, 800, &[300; 8]), 2, "again, and this time after 100 ms");
        assert_eq!(run(&mut overload, 60_000, &[20]), 0);
        assert_eq!(run(&mut overload, 60_020, &[300; 26]), 0, "long ago: 500 ms again");
    }

    #[test]
    fn no_media_says_nothing() {
        let mut overload = Overload::default();
        run(&mut overload, 0, &[300]);
        overload.end_batch(at(5_000));
        assert!(!overload.shed_lately(at(5_000)) && overload.is_behind());
    }
}
