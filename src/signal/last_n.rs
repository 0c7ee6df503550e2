//! The choice of a channel's forwarded audio producers when only the N loudest are forwarded. A new speaker is let in
//! at once; the quietest leaves for it, and no sooner than it must. Pure: `speech` knows the voices and gives the
//! resulting orders.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::base::id::ProducerId;
use crate::base::time::{Duration, Instant};
use crate::signal::voice::Voice;

/// The setting of `--last-n`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LastN {
    /// Everything is forwarded, and no client can change that.
    #[default]
    Off,
    /// In every channel.
    Fixed(usize),
    /// Off in each channel until one of its peers asks for a number.
    Peers,
}

/// A pause between words, after which a speaker may take the place.
const SPOKE_LATELY: Duration = Duration::from_millis(800);
/// Where every place is taken by a speaker: how long each keeps it at least, and how much louder a newcomer has to be,
/// in dB.
const PLACE_MIN: Duration = Duration::from_secs(1);
const LOUDER_BY: u8 = 6;

impl Voice {
    fn spoke_lately(&self, now: Instant) -> bool {
        self.spoke_at.is_some_and(|at| now.since(at) < SPOKE_LATELY)
    }

    /// The higher, the sooner forwarded: current speakers, then the louder, then the last to have spoken.
    fn rank(&self, now: Instant) -> impl Ord + use<> {
        (self.spoke_lately(now), 127 - self.speech(now).level.min(127), self.spoke_at)
    }

    /// Whether it gives its place to `newcomer`.
    fn yields(&self, newcomer: &Voice, now: Instant) -> bool {
        let louder = newcomer.speech(now).level.saturating_add(LOUDER_BY) <= self.speech(now).level;
        !self.spoke_lately(now) || louder && now.since(self.placed_at) >= PLACE_MIN
    }
}

/// Decides who is forwarded; returns the producers whose state changed. The active speaker keeps its place.
pub(super) fn choose(
    voices: &mut BTreeMap<ProducerId, Voice>,
    last_n: Option<usize>,
    active: Option<ProducerId>,
    now: Instant,
) -> Vec<(ProducerId, bool)> {
    let before: Vec<bool> = voices.values().map(|voice| voice.forwarded).collect();
    let n = last_n.unwrap_or(usize::MAX);
    let mut places = before.iter().filter(|forwarded| **forwarded).count();
    while places > n
        && let Some(id) = quietest(voices, active, now)
    {
        place(voices, id, false, now);
        places -= 1;
    }
    while places < n
        && let Some(id) = loudest(voices, now)
    {
        place(voices, id, true, now);
        places += 1;
    }
    let mut waiting: Vec<_> =
        voices.iter().filter(|(_, voice)| !voice.forwarded && voice.speech(now).speaks()).collect();
    waiting.sort_by_key(|(id, voice)| (voice.speech(now).level, **id));
    let waiting: Vec<_> = waiting.into_iter().map(|(id, _)| *id).collect();
    for newcomer in waiting {
        let Some(leaves) = quietest(voices, active, now) else { break };
        if !voices[&leaves].yields(&voices[&newcomer], now) {
            break;
        }
        place(voices, leaves, false, now);
        place(voices, newcomer, true, now);
    }
    let after = voices.iter().map(|(id, voice)| (*id, voice.forwarded));
    after.zip(before).filter(|((_, after), before)| after != before).map(|(change, _)| change).collect()
}

fn place(voices: &mut BTreeMap<ProducerId, Voice>, id: ProducerId, forwarded: bool, now: Instant) {
    if let Some(voice) = voices.get_mut(&id) {
        (voice.forwarded, voice.placed_at) = (forwarded, now);
    }
}

/// The producer to remove; the active speaker only when there is no other.
fn quietest(voices: &BTreeMap<ProducerId, Voice>, active: Option<ProducerId>, now: Instant) -> Option<ProducerId> {
    let forwarded = voices.iter().filter(|(_, voice)| voice.forwarded);
    let first = forwarded.min_by_key(|(id, voice)| (active == Some(**id), voice.rank(now), Reverse(**id)))?;
    Some(*first.0)
}

/// The producer for a free place.
fn loudest(voices: &BTreeMap<ProducerId, Voice>, now: Instant) -> Option<ProducerId> {
    let withheld = voices.iter().filter(|(_, voice)| !voice.forwarded);
    withheld.max_by_key(|(id, voice)| (voice.rank(now), Reverse(**id))).map(|(id, _)| *id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::command::Speech;
    use crate::signal::voice::tests::speaker;

    struct Room {
        voices: BTreeMap<ProducerId, Voice>,
        now: Instant,
    }

    impl Room {
        fn new(people: u64) -> Room {
            let now = Instant::ZERO + Duration::from_secs(5);
            Room { voices: (0..people).map(|id| (ProducerId(id), Voice::new(now, speaker(0)))).collect(), now }
        }

        /// After this time the speakers are heard at these levels.
        fn hears(&mut self, millis: u64, speaking: &[(u64, u8)]) {
            self.now = self.now + Duration::from_millis(millis);
            for (id, level) in speaking {
                let speech = Speech { level: *level, immediate: 9, medium: 5, long: 5 };
                self.voices.get_mut(&ProducerId(*id)).unwrap().told(self.now, speech);
            }
        }

        fn choose(&mut self, n: Option<usize>) -> Vec<(u64, bool)> {
            choose(&mut self.voices, n, None, self.now).into_iter().map(|(id, forwarded)| (id.0, forwarded)).collect()
        }

        fn forwarded(&self) -> Vec<u64> {
            self.voices.iter().filter(|(_, voice)| voice.forwarded).map(|(id, _)| id.0).collect()
        }
    }

    #[test]
    fn the_oldest_stay_until_somebody_speaks() {
        let mut room = Room::new(4);
        assert_eq!(room.choose(None), []);
        assert_eq!(room.choose(Some(2)), [(2, false), (3, false)]);
        room.hears(100, &[(3, 40)]);
        assert_eq!(room.choose(Some(2)), [(1, false), (3, true)], "let in at once");
        assert_eq!(room.choose(Some(2)), [], "and nothing moves without a reason");
        assert_eq!(room.choose(Some(9)), [(1, true), (2, true)]);
        assert_eq!(room.choose(Some(1)), [(0, false), (1, false), (2, false)], "who spoke stays");
        assert_eq!(room.choose(None), [(0, true), (1, true), (2, true)]);
    }

    #[test]
    fn who_speaks_is_not_pushed_out_by_one_who_is_hardly_louder() {
        let mut room = Room::new(3);
        room.hears(0, &[(0, 40), (1, 44)]);
        room.choose(Some(2));
        room.hears(300, &[(0, 40), (1, 44), (2, 41)]);
        assert_eq!(room.choose(Some(2)), []);
        room.hears(300, &[(0, 40), (1, 44), (2, 30)]);
        assert_eq!(room.choose(Some(2)), [], "much louder, but the others have only just begun");
        room.hears(600, &[(0, 40), (1, 44), (2, 30)]);
        assert_eq!(room.choose(Some(2)), [(1, false), (2, true)]);
        room.hears(300, &[(0, 40), (1, 37), (2, 30)]);
        assert_eq!(room.choose(Some(2)), []);
        // The pause of one lets the other in again.
        room.hears(900, &[(1, 44), (2, 30)]);
        assert_eq!(room.choose(Some(2)), [(0, false), (1, true)]);
    }

    #[test]
    fn a_place_that_becomes_free_goes_to_who_spoke_last() {
        let mut room = Room::new(4);
        room.choose(Some(2));
        room.hears(0, &[(3, 40)]);
        room.choose(Some(2));
        room.hears(2_000, &[(2, 40)]);
        room.choose(Some(2));
        assert_eq!(room.forwarded(), [2, 3]);
        room.voices.remove(&ProducerId(2));
        room.hears(5_000, &[]);
        room.choose(Some(2));
        assert_eq!(room.forwarded(), [0, 3]);
    }

    #[test]
    fn the_active_speaker_keeps_its_place_through_a_long_pause() {
        let mut room = Room::new(3);
        room.hears(0, &[(0, 40)]);
        room.choose(Some(2));
        room.hears(9_000, &[(1, 40), (2, 38)]);
        let changes = choose(&mut room.voices, Some(2), Some(ProducerId(0)), room.now);
        assert_eq!(changes, [], "the two who speak share one place");
    }
}
