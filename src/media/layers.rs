//! Which of a producer's encodings a consumer gets: one, whole. It starts with the first that brings a keyframe, moves
//! up when a higher one has proved steady, and falls back when its own goes silent. It looks into no packet and sends no
//! request; the consumer in `router` does what it decides, and waits for keyframes after a pause by itself.

use crate::base::limits::ENCODINGS_MAX;
use crate::base::time::{Duration, Instant};

/// A browser starts the lowest encoding first and the others as its bandwidth grows: one is trusted after this time.
const STEADY: Duration = Duration::from_secs(1);
/// An encoding without a packet for this long has stopped.
pub const SILENT: Duration = Duration::from_secs(2);

/// A quality of a stream: the encoding of simulcast or the spatial layer of SVC, and the temporal layer; lowest 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Layers {
    pub spatial: u8,
    pub temporal: u8,
}

/// What the bandwidth towards a client leaves to one of its consumers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Allowance {
    #[default]
    Unlimited,
    UpTo(Layers),
    Paused,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    Forward,
    Drop,
    /// Rebase, then forward: this packet is the first of another encoding.
    SwitchAndForward,
    /// Drop, and ask for a keyframe of this encoding: the consumer should be on it. Given with every packet until one
    /// comes; `keyframe` merges the requests.
    WantKeyframe(u8),
}

#[derive(Clone, Copy, Debug)]
struct Activity {
    since: Instant,
    last: Instant,
}

/// Which encodings of a producer are being sent; one for all its consumers.
#[derive(Clone, Debug, Default)]
pub struct ActiveSet {
    encodings: [Option<Activity>; ENCODINGS_MAX],
}

impl ActiveSet {
    pub fn on_packet(&mut self, now: Instant, encoding: u8) {
        if let Some(place) = self.encodings.get_mut(usize::from(encoding)) {
            match place {
                Some(activity) if now.since(activity.last) < SILENT => activity.last = now,
                _ => *place = Some(Activity { since: now, last: now }),
            }
        }
    }

    pub fn is_active(&self, now: Instant, encoding: u8) -> bool {
        self.active(now, encoding).is_some()
    }

    /// When anything last came, of any encoding.
    pub fn last_packet(&self) -> Option<Instant> {
        self.encodings.iter().flatten().map(|activity| activity.last).max()
    }

    /// When the last came of this encoding.
    pub fn last_packet_of(&self, encoding: u8) -> Option<Instant> {
        self.encodings.get(usize::from(encoding)).copied().flatten().map(|activity| activity.last)
    }

    /// Since when anything comes without a stop, of whatever encoding; None while nothing does.
    pub fn since(&self, now: Instant) -> Option<Instant> {
        (0..ENCODINGS_MAX as u8).filter_map(|encoding| self.active(now, encoding)).map(|activity| activity.since).min()
    }

    pub fn lowest(&self, now: Instant) -> Option<u8> {
        (0..ENCODINGS_MAX as u8).find(|encoding| self.is_active(now, *encoding))
    }

    /// The highest up to `cap` that is sent and has been for `for_at_least`.
    fn highest(&self, now: Instant, for_at_least: Duration, cap: u8) -> Option<u8> {
        (0..ENCODINGS_MAX as u8).rev().filter(|encoding| *encoding <= cap).find(|encoding| {
            self.active(now, *encoding).is_some_and(|activity| now.since(activity.since) >= for_at_least)
        })
    }

    fn active(&self, now: Instant, encoding: u8) -> Option<Activity> {
        let activity = self.encodings.get(usize::from(encoding)).copied().flatten();
        activity.filter(|activity| now.since(activity.last) < SILENT)
    }
}

#[derive(Clone, Debug)]
pub struct EncodingSelector {
    single: bool,
    current: Option<u8>,
    /// No encoding above this, as long as one below it is sent.
    cap: u8,
}

impl EncodingSelector {
    /// For a producer with so many encodings, numbered from 0, lowest first.
    pub fn new(encodings: usize) -> EncodingSelector {
        EncodingSelector { single: encodings <= 1, current: (encodings <= 1).then_some(0), cap: u8::MAX }
    }

    pub fn current(&self) -> Option<u8> {
        self.current
    }

    /// None lifts it.
    pub fn set_cap(&mut self, cap: Option<u8>) {
        self.cap = cap.unwrap_or(u8::MAX);
    }

    /// `active` has been told of this packet already.
    pub fn on_packet(&mut self, now: Instant, encoding: u8, starts_keyframe: bool, active: &ActiveSet) -> Decision {
        if self.single {
            return Decision::Forward;
        }
        let wanted = match self.current {
            Some(current) if current == encoding => return Decision::Forward,
            // Any may start; the lowest is the first that a browser sends, and the smallest keyframe.
            None if starts_keyframe && encoding <= self.cap => Some(encoding),
            None => active.lowest(now),
            Some(current) if current > self.cap => active.highest(now, Duration::ZERO, self.cap),
            Some(current) if !active.is_active(now, current) => match starts_keyframe {
                true => Some(encoding),
                false => active.highest(now, Duration::ZERO, self.cap),
            },
            Some(current) => active.highest(now, STEADY, self.cap).filter(|highest| *highest > current),
        };
        match wanted {
            Some(wanted) if wanted == encoding && starts_keyframe => {
                self.current = Some(encoding);
                Decision::SwitchAndForward
            }
            Some(wanted) if wanted == encoding => Decision::WantKeyframe(encoding),
            _ => Decision::Drop,
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::Decision::*;
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    struct World {
        active: ActiveSet,
        selector: EncodingSelector,
    }

    impl World {
        fn packet(&mut self, millis: u64, encoding: u8, starts_keyframe: bool) -> Decision {
            self.active.on_packet(at(millis), encoding);
            self.selector.on_packet(at(millis), encoding, starts_keyframe, &self.active)
        }
    }

    fn world(encodings: usize) -> World {
        World { active: ActiveSet::default(), selector: EncodingSelector::new(encodings) }
    }

    #[test]
    fn a_single_encoding_is_always_forwarded() {
        let mut world = world(1);
        assert_eq!(world.packet(0, 0, false), Forward);
        assert_eq!(world.selector.current(), Some(0));
    }

    #[test]
    fn starts_low_and_moves_up_at_a_keyframe_once_the_higher_is_steady() {
        let mut world = world(3);
        assert_eq!(world.packet(0, 0, false), WantKeyframe(0));
        assert_eq!(world.packet(1, 1, false), Drop);
        assert_eq!(world.packet(10, 0, true), SwitchAndForward);
        assert_eq!(world.packet(20, 0, false), Forward);
        assert_eq!(world.packet(500, 2, true), Drop, "not steady yet");
        assert_eq!(world.packet(1_400, 2, true), Drop);
        assert_eq!(world.packet(1_450, 0, false), Forward);
        assert_eq!(world.packet(1_510, 1, true), Drop, "the higher one is the aim");
        assert_eq!(world.packet(1_520, 2, false), WantKeyframe(2));
        assert_eq!(world.packet(1_530, 2, true), SwitchAndForward);
        assert_eq!(world.packet(1_540, 0, true), Drop, "and never down while it lives");
        assert_eq!(world.selector.current(), Some(2));
    }

    #[test]
    fn a_cap_takes_it_down_at_a_keyframe_and_lifting_it_up_again() {
        let mut world = world(3);
        for ms in (0..1_500).step_by(100) {
            for encoding in 0..3 {
                world.packet(ms, encoding, true);
            }
        }
        assert_eq!(world.selector.current(), Some(2));
        world.selector.set_cap(Some(1));
        assert_eq!(world.packet(1_500, 2, false), Forward, "until there is something else");
        assert_eq!(world.packet(1_510, 0, true), Drop);
        assert_eq!(world.packet(1_520, 1, false), WantKeyframe(1));
        assert_eq!(world.packet(1_530, 1, true), SwitchAndForward);
        assert_eq!(world.packet(1_540, 2, true), Drop);
        world.selector.set_cap(None);
        assert_eq!(world.packet(1_550, 2, true), SwitchAndForward);
    }

    #[test]
    fn falls_back_when_its_own_goes_silent() {
        let mut world = world(2);
        assert_eq!(world.packet(0, 1, true), SwitchAndForward);
        assert_eq!(world.packet(1_999, 0, true), Drop);
        assert_eq!(world.packet(2_000, 0, false), WantKeyframe(0));
        assert_eq!(world.packet(2_050, 0, true), SwitchAndForward);
        assert_eq!(world.packet(2_100, 1, true), Drop, "it came back, but must prove itself");
        assert_eq!(world.packet(2_150, 0, false), Forward);
        assert_eq!(world.packet(3_150, 1, true), SwitchAndForward);
    }

    #[test]
    fn forwards_one_encoding_and_switches_at_keyframes_only() {
        for seed in 0..20 {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut world = world(3);
            let (mut current, mut ms) = (None, 0);
            for _ in 0..20_000 {
                ms += if rng.random_range(0..500) == 0 { 2_500 } else { 10 };
                let (encoding, keyframe) = (rng.random_range(0..ENCODINGS_MAX as u8 + 2), rng.random_range(0..20) == 0);
                match world.packet(ms, encoding, keyframe) {
                    Forward => assert_eq!(Some(encoding), current),
                    SwitchAndForward => {
                        assert!(keyframe && Some(encoding) != current);
                        current = Some(encoding);
                    }
                    WantKeyframe(wanted) => assert!(wanted == encoding && !keyframe && Some(encoding) != current),
                    Drop => assert_ne!(Some(encoding), current),
                }
            }
        }
    }
}
