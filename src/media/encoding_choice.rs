//! The encoding of one consumer: the highest that is sent and allowed, reached at a keyframe. Layers within an encoding
//! are `pictures`, `spatial` and `decode_target`. It reads no packet and sends no request; the consumer in `router`
//! carries out what it decides.

use crate::base::id::Layers;
use crate::base::limits::ENCODINGS_MAX;
use crate::base::ranking::Ranking;
use crate::base::time::{Duration, Instant};

/// A browser starts the lowest encoding first and the others as its bandwidth grows: one is trusted after this time.
const STEADY: Duration = Duration::from_secs(1);
/// An encoding without a packet for this long may have stopped.
pub const SILENT: Duration = Duration::from_secs(2);
/// It has stopped once the others have begun this many frames since: a shared screen may send one frame a second.
const FRAMES_BEHIND: u8 = 8;

/// The allocation of a consumer's transport.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Allowance {
    #[default]
    Unlimited,
    UpTo(Layers),
    /// Not even the lowest layer.
    Paused,
}

impl Allowance {
    pub fn limit(self) -> Layers {
        match self {
            Allowance::UpTo(layers) => layers,
            Allowance::Unlimited | Allowance::Paused => Layers::ALL,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    Forward,
    Drop,
    /// Rebase, then forward: this packet is the first of another encoding.
    SwitchAndForward,
    /// Drop, and request a keyframe of this encoding: the consumer should be on it. Returned with every packet until
    /// one comes; `keyframe` merges the requests.
    WantKeyframe(u8),
}

#[derive(Clone, Copy, Debug)]
struct Activity {
    since: Instant,
    /// The same, except that every pause counts, whatever the others do meanwhile.
    unbroken_since: Instant,
    last: Instant,
    timestamp: u32,
    /// Frames that others have begun since its last packet.
    behind: u8,
}

impl Activity {
    fn is_silent(&self, now: Instant) -> bool {
        self.behind >= FRAMES_BEHIND && now.since(self.last) >= SILENT
    }
}

/// The activity and the order of a producer's encodings; one for all its consumers.
#[derive(Clone, Debug, Default)]
pub struct ActiveSet {
    encodings: [Option<Activity>; ENCODINGS_MAX],
    pub ranking: Ranking,
}

impl ActiveSet {
    pub fn on_packet(&mut self, now: Instant, encoding: u8, timestamp: u32) {
        let Some(place) = self.encodings.get_mut(usize::from(encoding)) else { return };
        let begins_frame = match place {
            Some(activity) if !activity.is_silent(now) => {
                let begins_frame = activity.timestamp != timestamp;
                if now.since(activity.last) >= SILENT {
                    activity.unbroken_since = now;
                }
                (activity.last, activity.timestamp, activity.behind) = (now, timestamp, 0);
                begins_frame
            }
            _ => {
                *place = Some(Activity { since: now, unbroken_since: now, last: now, timestamp, behind: 0 });
                true
            }
        };
        if begins_frame {
            let others = self.encodings.iter_mut().enumerate().filter(|(at, _)| *at != usize::from(encoding));
            for other in others.filter_map(|(_, other)| other.as_mut()) {
                other.behind = other.behind.saturating_add(1);
            }
        }
    }

    /// Whether the encoding is being sent: one that fell silent while others went on is not.
    pub fn is_active(&self, now: Instant, encoding: u8) -> bool {
        self.active(now, encoding).is_some()
    }

    /// A packet of it came lately, whatever the others do.
    pub fn is_sending(&self, now: Instant, encoding: u8) -> bool {
        let activity = self.encodings.get(usize::from(encoding)).copied().flatten();
        activity.is_some_and(|activity| now.since(activity.last) < SILENT)
    }

    /// When the last packet came, of any encoding.
    pub fn last_packet(&self) -> Option<Instant> {
        self.encodings.iter().flatten().map(|activity| activity.last).max()
    }

    /// When the last packet of this encoding came.
    pub fn last_packet_of(&self, encoding: u8) -> Option<Instant> {
        self.encodings.get(usize::from(encoding)).copied().flatten().map(|activity| activity.last)
    }

    /// Since when packets come without a stop, of any encoding; None while none do.
    pub fn since(&self, now: Instant) -> Option<Instant> {
        let sending = self.encodings.iter().flatten().filter(|activity| now.since(activity.last) < SILENT);
        sending.map(|activity| activity.unbroken_since).min()
    }

    /// The layer that this encoding is.
    pub fn layer(&self, encoding: u8) -> u8 {
        self.ranking.layer(encoding)
    }

    pub fn lowest(&self, now: Instant) -> Option<u8> {
        self.ranking.encodings().into_iter().find(|encoding| self.is_active(now, *encoding))
    }

    /// The highest layer up to `cap` that has been sent for `for_at_least`.
    fn highest(&self, now: Instant, cap: u8, for_at_least: Duration) -> Option<u8> {
        self.ranking.encodings().into_iter().take(usize::from(cap) + 1).rev().find(|encoding| {
            self.active(now, *encoding).is_some_and(|activity| now.since(activity.since) >= for_at_least)
        })
    }

    fn active(&self, now: Instant, encoding: u8) -> Option<Activity> {
        let activity = self.encodings.get(usize::from(encoding)).copied().flatten();
        activity.filter(|activity| !activity.is_silent(now))
    }
}

/// For a producer with several encodings; `cap` is the highest layer allowed.
#[derive(Clone, Debug, Default)]
pub struct EncodingSelector {
    current: Option<u8>,
}

impl EncodingSelector {
    /// Starts over with whichever encoding suits then.
    pub fn release(&mut self) {
        self.current = None;
    }

    /// The encoding to move to, at most `cap` where there is such a one: None when that is the present one, or none is
    /// sent.
    pub fn aim(&self, now: Instant, active: &ActiveSet, cap: u8) -> Option<u8> {
        let current = self.current.filter(|current| active.is_active(now, *current));
        let within = current.filter(|current| active.layer(*current) <= cap);
        // Up only to an encoding that has proved itself; from one that stopped or is too much, to any.
        let highest = match (within, self.current) {
            (None, Some(_)) => active.highest(now, cap, Duration::ZERO),
            _ => active.highest(now, cap, STEADY),
        };
        let aim = match within {
            Some(within) => highest.filter(|highest| active.layer(*highest) > active.layer(within)),
            None => highest.or_else(|| active.lowest(now)),
        };
        aim.filter(|aim| current != Some(*aim))
    }

    /// `active` has been told of this packet already.
    pub fn on_packet(
        &mut self,
        now: Instant,
        encoding: u8,
        starts_keyframe: bool,
        active: &ActiveSet,
        cap: u8,
    ) -> Decision {
        if self.current == Some(encoding) {
            return Decision::Forward;
        }
        let aim = self.aim(now, active, cap);
        // A consumer that has nothing takes what comes, within its limits.
        let has_nothing = self.current.is_none_or(|current| !active.is_active(now, current));
        if starts_keyframe && (aim == Some(encoding) || has_nothing && active.layer(encoding) <= cap) {
            self.current = Some(encoding);
            return Decision::SwitchAndForward;
        }
        if aim == Some(encoding) { Decision::WantKeyframe(encoding) } else { Decision::Drop }
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::Decision::*;
    use super::*;

    const ANY: u8 = u8::MAX;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[derive(Default)]
    struct World {
        active: ActiveSet,
        selector: EncodingSelector,
        timestamp: u32,
    }

    impl World {
        /// Each packet is a frame.
        fn packet(&mut self, millis: u64, encoding: u8, starts_keyframe: bool, cap: u8) -> Decision {
            self.timestamp += 1;
            self.active.on_packet(at(millis), encoding, self.timestamp);
            self.selector.on_packet(at(millis), encoding, starts_keyframe, &self.active, cap)
        }

        /// Frames of these encodings every `gap` up to `until`, none of them a keyframe.
        fn run(&mut self, from: u64, until: u64, gap: u64, encodings: &[u8], cap: u8) -> Vec<Decision> {
            let times = (from..until).step_by(gap as usize);
            let frames = times.flat_map(|millis| encodings.iter().map(move |encoding| (millis, *encoding)));
            frames.map(|(millis, encoding)| self.packet(millis, encoding, false, cap)).collect()
        }
    }

    #[test]
    fn starts_with_what_comes_and_moves_up_at_a_keyframe_once_the_higher_is_steady() {
        let mut world = World::default();
        assert_eq!(world.packet(0, 0, false, ANY), WantKeyframe(0));
        assert_eq!(world.packet(1, 1, false, ANY), Drop);
        assert_eq!(world.packet(10, 0, true, ANY), SwitchAndForward);
        assert_eq!(world.packet(20, 0, false, ANY), Forward);
        assert_eq!(world.packet(500, 2, true, ANY), Drop, "not steady yet");
        world.run(510, 1_500, 50, &[0, 2], ANY);
        assert_eq!(world.packet(1_510, 1, true, ANY), Drop, "the higher one is the aim");
        assert_eq!(world.packet(1_520, 2, false, ANY), WantKeyframe(2));
        assert_eq!(world.packet(1_530, 2, true, ANY), SwitchAndForward);
        assert_eq!(world.packet(1_540, 0, true, ANY), Drop, "and not down while it lives");
        assert_eq!(world.selector.current, Some(2));
    }

    #[test]
    fn who_joins_later_waits_for_the_highest_it_may_have() {
        let mut world = World::default();
        world.run(0, 2_000, 33, &[0, 1, 2], ANY);
        assert_eq!(world.packet(2_001, 1, false, 1), WantKeyframe(1));
        assert_eq!(world.packet(2_002, 2, true, 1), Drop, "more than it may have");
        assert_eq!(world.packet(2_003, 0, true, 1), SwitchAndForward, "less will do to begin with");
        assert_eq!(world.packet(2_004, 1, true, 1), SwitchAndForward);
    }

    #[test]
    fn goes_down_at_a_keyframe_when_it_may_have_less() {
        let mut world = World::default();
        world.run(0, 2_000, 33, &[0, 1, 2], ANY);
        assert_eq!(world.packet(2_001, 2, true, ANY), SwitchAndForward);
        assert_eq!(world.packet(2_002, 0, true, 1), Drop);
        assert_eq!(world.packet(2_003, 1, false, 1), WantKeyframe(1));
        assert_eq!(world.packet(2_004, 2, false, 1), Forward, "it flows until the other can start");
        assert_eq!(world.packet(2_005, 1, true, 1), SwitchAndForward);
        assert_eq!(world.packet(2_006, 2, true, 1), Drop);
    }

    #[test]
    fn falls_back_when_its_own_goes_silent_and_up_again_when_it_has_proved_itself() {
        let mut world = World::default();
        assert_eq!(world.packet(0, 1, true, ANY), SwitchAndForward);
        let decisions = world.run(30, 1_990, 33, &[0], ANY);
        assert!(decisions.iter().all(|decision| *decision == Drop));
        assert_eq!(world.packet(2_000, 0, false, ANY), WantKeyframe(0));
        assert_eq!(world.packet(2_050, 0, true, ANY), SwitchAndForward);
        assert_eq!(world.packet(2_100, 1, true, ANY), Drop, "it came back, but must prove itself");
        world.run(2_110, 3_140, 33, &[0, 1], ANY);
        assert_eq!(world.packet(3_150, 1, true, ANY), SwitchAndForward);
    }

    #[test]
    fn a_screen_at_any_frame_rate_is_not_taken_for_dead() {
        for gap in [33, 1_000, 5_000, 20_000] {
            let mut world = World::default();
            world.run(0, 20 * gap + 3_000, gap, &[0, 1, 2], ANY);
            let now = 20 * gap + 4_000;
            assert_eq!(world.packet(now, 2, true, ANY), SwitchAndForward, "{gap} ms");
            let decisions = world.run(now + gap, now + 40 * gap, gap, &[0, 1, 2], ANY);
            assert!(decisions.chunks(3).all(|frame| *frame == [Drop, Drop, Forward]), "{gap} ms: {decisions:?}");
        }
    }

    #[test]
    fn what_is_too_much_still_flows_when_nothing_else_is_sent() {
        let mut world = World::default();
        world.run(0, 500, 33, &[1], 0);
        assert_eq!(world.packet(510, 1, false, 0), WantKeyframe(1));
        assert_eq!(world.packet(520, 1, true, 0), SwitchAndForward);
        world.run(530, 600, 33, &[1, 0], 0);
        assert_eq!(world.packet(610, 0, true, 0), SwitchAndForward);
    }

    #[test]
    fn the_highest_is_the_largest_wherever_it_is_listed() {
        let mut world = World::default();
        world.active.ranking = Ranking::smallest_first([2, 1, 0]).unwrap();
        world.run(0, 2_000, 33, &[0, 1, 2], ANY);
        assert_eq!(world.packet(2_001, 2, true, ANY), SwitchAndForward, "less will do to begin with");
        assert_eq!(world.packet(2_002, 0, false, ANY), WantKeyframe(0));
        assert_eq!(world.packet(2_003, 1, true, ANY), Drop);
        assert_eq!(world.packet(2_004, 0, true, ANY), SwitchAndForward);
        assert_eq!(world.packet(2_005, 2, false, 0), WantKeyframe(2), "layer 0");
        assert_eq!(world.packet(2_006, 1, true, 0), Drop);
        assert_eq!(world.packet(2_007, 2, true, 0), SwitchAndForward);
        assert_eq!(world.packet(2_008, 1, true, 1), SwitchAndForward);
        assert_eq!(world.active.lowest(at(2_008)), Some(2));
    }

    #[test]
    fn an_order_that_is_found_later_moves_who_watches_at_the_next_keyframe() {
        let mut world = World::default();
        world.run(0, 2_000, 33, &[0, 1], ANY);
        assert_eq!(world.packet(2_001, 1, true, ANY), SwitchAndForward);
        world.active.ranking = Ranking::smallest_first([1, 0]).unwrap();
        assert_eq!(world.packet(2_002, 1, false, ANY), Forward, "nothing stops");
        assert_eq!(world.packet(2_003, 0, false, ANY), WantKeyframe(0));
        assert_eq!(world.packet(2_004, 0, true, ANY), SwitchAndForward);
    }

    #[test]
    fn forwards_one_encoding_switches_at_keyframes_only_and_ends_within_its_limits() {
        for seed in 0..40 {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut world = World::default();
            let (mut current, mut ms, mut cap) = (None, 0, ANY);
            for _ in 0..20_000 {
                ms += if rng.random_range(0..500) == 0 { 2_500 } else { 10 };
                if rng.random_range(0..300) == 0 {
                    cap = rng.random_range(0..4);
                }
                let (encoding, keyframe) = (rng.random_range(0..ENCODINGS_MAX as u8 + 2), rng.random_range(0..20) == 0);
                match world.packet(ms, encoding, keyframe, cap) {
                    Forward => assert_eq!(Some(encoding), current),
                    SwitchAndForward => {
                        assert!(keyframe && Some(encoding) != current);
                        current = Some(encoding);
                    }
                    WantKeyframe(wanted) => assert!(wanted == encoding && !keyframe && Some(encoding) != current),
                    Drop => assert_ne!(Some(encoding), current),
                }
            }
            for _ in 0..200 {
                ms += 33;
                for encoding in 0..3 {
                    world.packet(ms, encoding, true, cap);
                }
            }
            assert_eq!(world.selector.current, Some(cap.min(2)), "seed {seed}");
        }
    }
}
