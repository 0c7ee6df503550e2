//! The keyframe requests of one encoding to its publisher: requests of all consumers are merged into few PLIs (RFC 4585
//! section 6.3.1). It knows neither who asks nor how PLI or FIR are written; the producer in `router` owns one per
//! encoding.
//!
//! The price for a publisher is bounded: one PLI per 300 ms (or two round trips) while one is not answered, one per 500
//! ms when each is, and over time one keyframe a second. A keyframe is several frames long, and where losses come of
//! too much traffic, more keyframes make more losses. A consumer without a first picture does not wait for that: 100 ms
//! after the last PLI while there is something to spend, 500 ms otherwise.

use crate::base::time::{Duration, Instant};

const REPEAT_MIN: Duration = Duration::from_millis(300);
const AFTER_ANSWER: Duration = Duration::from_millis(500);
const FIRST_REQUEST: Duration = Duration::from_millis(100);
/// The interval of keyframes over time, and how many may come sooner.
const KEYFRAME_EVERY: Duration = Duration::from_secs(1);
const KEYFRAMES_AHEAD: u32 = 4;
/// A requested keyframe comes within this time, or cannot be told from other frames. On a stream that had one the
/// publisher is slow to hear or to answer, unless that lasts.
const HIDDEN_AFTER: Duration = Duration::from_secs(1);
const HIDDEN_AFTER_ONE: Duration = Duration::from_secs(10);
/// A measured round trip above this is not believed.
const RTT_MAX: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, Default)]
pub struct KeyframeAuthority {
    rtt: Duration,
    sent_at: Option<Instant>,
    /// The first PLI since the last keyframe.
    unanswered_since: Option<Instant>,
    /// Keyframes come, but cannot be told from other frames.
    hidden: bool,
    keyframe_at: Option<Instant>,
    /// Somebody waits; the time of the next request.
    due: Option<Instant>,
    /// When all requested keyframes would have come at one per [`KEYFRAME_EVERY`].
    spent_until: Instant,
}

impl KeyframeAuthority {
    /// Round trip to the publisher.
    pub fn set_rtt(&mut self, rtt: Duration) {
        self.rtt = rtt.min(RTT_MAX);
    }

    /// A consumer needs a keyframe; `first`: it never had one. True: send a PLI now.
    pub fn request(&mut self, now: Instant, first: bool) -> bool {
        let at = match self.sent_at {
            None => now,
            Some(sent_at) if first && (now.since(sent_at) > FIRST_REQUEST || self.unanswered_since.is_none()) => {
                sent_at + FIRST_REQUEST
            }
            Some(sent_at) => sent_at + self.interval(),
        };
        let affordable = self.affordable_at();
        let at = match (first, self.sent_at) {
            (true, Some(sent_at)) if affordable > at => at.max(sent_at + AFTER_ANSWER),
            _ => at.max(affordable),
        };
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
        self.poll(now)
    }

    /// A keyframe starts: it serves all who wait.
    pub fn on_keyframe(&mut self, now: Instant) {
        (self.keyframe_at, self.hidden) = (Some(now), false);
        self.answered(now);
        self.due = None;
    }

    /// Keyframes cannot be told from other frames, and nobody waits for one: requested ones count as received, and
    /// requests that are due stay due.
    pub fn on_hidden(&mut self, now: Instant) {
        (self.keyframe_at, self.hidden) = (None, true);
        if self.unanswered_since.is_some() {
            self.answered(now);
            self.due = None;
        }
    }

    /// A frame came whose content is encrypted: that keyframes could be read before says nothing any more.
    pub fn on_garbled(&mut self) {
        self.keyframe_at = None;
    }

    /// Until the next readable keyframe.
    pub fn is_hidden(&self) -> bool {
        self.hidden
    }

    /// Nothing readable has come for so long that keyframes must be hidden.
    pub fn is_overdue(&self, now: Instant) -> bool {
        let limit = if self.keyframe_at.is_some() { HIDDEN_AFTER_ONE } else { HIDDEN_AFTER };
        self.unanswered_since.is_some_and(|since| now.since(since) >= limit)
    }

    fn answered(&mut self, now: Instant) {
        if self.unanswered_since.take().is_some() {
            self.spent_until = self.spent_until.max(now) + KEYFRAME_EVERY;
        }
    }

    /// Nobody waits any more.
    pub fn cancel(&mut self) {
        self.unanswered_since = None;
        self.due = None;
    }

    /// True: send a PLI now.
    pub fn poll(&mut self, now: Instant) -> bool {
        if self.due.is_none_or(|due| due > now) {
            return false;
        }
        self.sent_at = Some(now);
        self.unanswered_since.get_or_insert(now);
        self.due = Some(now + self.interval());
        true
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        self.due
    }

    /// A PLI is without an answer.
    pub fn is_unanswered(&self) -> bool {
        self.unanswered_since.is_some()
    }

    /// When the last keyframe started, requested or not; None also where they cannot be told from other frames.
    pub fn last_keyframe(&self) -> Option<Instant> {
        self.keyframe_at
    }

    fn affordable_at(&self) -> Instant {
        self.spent_until - KEYFRAME_EVERY * KEYFRAMES_AHEAD
    }

    fn interval(&self) -> Duration {
        if self.unanswered_since.is_some() { REPEAT_MIN.max(self.rtt * 2) } else { AFTER_ANSWER }
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn requests_merge_and_repeat_until_a_keyframe_starts() {
        let mut authority = KeyframeAuthority::default();
        assert!(authority.request(at(0), true));
        assert!(!authority.request(at(10), false) && !authority.request(at(20), true));
        assert_eq!(authority.next_deadline(), Some(at(300)));
        assert!(!authority.poll(at(299)) && authority.poll(at(300)));
        authority.set_rtt(Duration::from_millis(400));
        assert!(authority.poll(at(600)) && authority.next_deadline() == Some(at(1_400)));
        assert!(authority.is_unanswered());
        authority.on_keyframe(at(700));
        assert!(authority.next_deadline().is_none() && !authority.is_unanswered());
        assert!(!authority.poll(at(5_000)));
    }

    #[test]
    fn after_an_answer_a_further_request_waits_its_turn() {
        let mut authority = KeyframeAuthority::default();
        assert!(authority.request(at(0), true));
        authority.on_keyframe(at(40));
        assert!(!authority.request(at(50), false));
        assert!(!authority.poll(at(499)) && authority.poll(at(500)));
        authority.on_keyframe(at(540));
        assert!(authority.request(at(1_000), false), "the interval is over");
    }

    #[test]
    fn somebody_new_does_not_wait() {
        let mut authority = KeyframeAuthority::default();
        assert!(authority.request(at(0), true));
        authority.on_keyframe(at(40));
        assert!(!authority.request(at(60), true));
        assert_eq!(authority.next_deadline(), Some(at(100)));
        assert!(authority.poll(at(100)));
        assert!(authority.request(at(201), true), "older than 100 ms, answered or not");
        authority.cancel();
        assert_eq!(authority.next_deadline(), None);
    }

    #[test]
    fn what_is_hidden_is_asked_for_once_each_time_and_cannot_be_awaited() {
        let mut authority = KeyframeAuthority::default();
        assert!(authority.request(at(0), true) && !authority.is_overdue(at(999)) && authority.is_overdue(at(1_000)));
        authority.on_hidden(at(1_000));
        assert!(authority.is_hidden() && authority.next_deadline().is_none());
        assert!(authority.request(at(5_000), false));
        assert!(!authority.request(at(5_001), false), "before the next frame");
        authority.on_hidden(at(5_020));
        assert_eq!(authority.next_deadline(), None, "that may have been it");
        assert!(!authority.request(at(5_100), false));
        authority.on_hidden(at(5_120));
        assert_eq!(authority.next_deadline(), Some(at(5_500)), "has not been asked for yet");
        authority.on_keyframe(at(6_000));
        assert!(!authority.is_hidden());
        // After a readable one it takes longer, unless the stream has turned unreadable since.
        assert!(authority.request(at(20_000), false));
        assert!(!authority.is_overdue(at(29_999)) && authority.is_overdue(at(30_000)));
        authority.on_garbled();
        assert!(!authority.is_overdue(at(20_999)) && authority.is_overdue(at(21_000)));
    }

    #[test]
    fn over_time_there_is_one_keyframe_a_second() {
        for (first, most) in [(false, 64), (true, 125)] {
            let mut authority = KeyframeAuthority::default();
            let mut sent = 0;
            for ms in 0..60_000 {
                if authority.request(at(ms), first) || authority.poll(at(ms)) {
                    sent += 1;
                    authority.on_keyframe(at(ms));
                }
            }
            assert!((60..=most).contains(&sent), "{sent}");
            assert!(authority.request(at(70_000), false), "who asks seldom does not wait");
        }
    }

    #[test]
    fn the_cost_is_bounded_and_nobody_is_forgotten() {
        for seed in 0..20 {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut authority = KeyframeAuthority::default();
            let (mut sent, mut waiting_since) = (Vec::new(), None);
            let firsts = seed % 2 == 0;
            for ms in 0..20_000u64 {
                if rng.random_range(0..15) == 0 {
                    waiting_since.get_or_insert(ms);
                    if authority.request(at(ms), firsts && rng.random()) {
                        sent.push(ms);
                    }
                }
                if authority.poll(at(ms)) {
                    sent.push(ms);
                }
                if rng.random_range(0..400) == 0 {
                    authority.on_keyframe(at(ms));
                    waiting_since = None;
                }
                if let Some(since) = waiting_since {
                    assert!(authority.next_deadline().is_some());
                    let last = *sent.last().unwrap();
                    assert!(last >= since || since - last <= 1_000 && ms - last <= 1_000, "seed {seed} at {ms}");
                }
            }
            let least = if firsts { 100 } else { 300 };
            assert!(sent.windows(2).all(|pair| pair[1] - pair[0] >= least), "seed {seed}: {sent:?}");
        }
    }
}
