//! What this node says it is: starting until it knows the others, serving, full while it has too much to do, and starting
//! for longer where nodes serve that it could not speak with.

use super::messages::{NodeLoad, NodeState};
use crate::base::time::{Duration, Instant};

/// A start ends at the latest after so long, with a bus or without.
const START_MAX: Duration = Duration::from_secs(2);
/// The time for the hellos of the others, once the bus works.
const GREETING: Duration = Duration::from_millis(200);

/// Where a node becomes full, and where it is no more: the expected load in percent, the measured one in thousandths for
/// so long, and sockets in percent.
const EXPECTED: (u64, u64) = (85, 75);
const PERMILLE: (u32, u32) = (700, 600);
const PERMILLE_FOR: Duration = Duration::from_secs(3);
const SOCKETS: (u64, u64) = (90, 80);

/// How many sockets there are, and may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SocketsInUse {
    pub open: u64,
    pub most: u64,
}

#[derive(Debug)]
pub(super) struct OwnState {
    started: Instant,
    /// When the bus first worked.
    answered: Option<Instant>,
    greeted: bool,
    /// Since when the cores are that busy.
    busy_since: Option<Instant>,
    full: bool,
    /// A node serves that this one cannot speak with, and it is the newer one.
    apart: bool,
}

impl OwnState {
    pub(super) fn new(now: Instant) -> OwnState {
        OwnState { started: now, answered: None, greeted: false, busy_since: None, full: false, apart: false }
    }

    pub(super) fn bus_answered(&mut self, now: Instant) {
        self.answered.get_or_insert(now);
    }

    pub(super) fn is_apart(&mut self, apart: bool) {
        self.apart = apart;
    }

    pub(super) fn state(&self) -> NodeState {
        match (self.greeted && !self.apart, self.full) {
            (false, _) => NodeState::Starting,
            (true, true) => NodeState::Full,
            (true, false) => NodeState::Serving,
        }
    }

    /// When the start ends by time alone.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (!self.greeted).then(|| self.start_ends())
    }

    fn start_ends(&self) -> Instant {
        let latest = self.started + START_MAX;
        self.answered.map_or(latest, |answered| latest.min(answered + GREETING))
    }

    pub(super) fn look(&mut self, now: Instant, load: &NodeLoad, sockets: SocketsInUse) {
        self.greeted |= now >= self.start_ends();
        let over = |used: u64, of: u64, percent: u64| of > 0 && used.saturating_mul(100) > of.saturating_mul(percent);
        let at = |of_bounds: fn((u64, u64)) -> u64| {
            over(load.expected, load.capacity, of_bounds(EXPECTED))
                || over(sockets.open, sockets.most, of_bounds(SOCKETS))
        };
        if load.permille > PERMILLE.0 {
            self.busy_since.get_or_insert(now);
        } else {
            self.busy_since = None;
        }
        self.full = match self.full {
            false => at(|bounds| bounds.0) || self.busy_since.is_some_and(|since| now.since(since) >= PERMILLE_FOR),
            true => at(|bounds| bounds.1) || load.permille > PERMILLE.1,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    fn serving() -> OwnState {
        let mut own = OwnState::new(at(0));
        own.look(at(2_000), &NodeLoad::default(), SocketsInUse::default());
        own
    }

    /// What it is with this load at this time.
    fn with(own: &mut OwnState, millis: u64, expected: u64, permille: u32, open: u64) -> NodeState {
        let load = NodeLoad { expected, capacity: 1_000, permille, ..NodeLoad::default() };
        own.look(at(millis), &load, SocketsInUse { open, most: 1_000 });
        own.state()
    }

    #[test]
    fn a_start_ends_when_the_bus_works_and_the_others_could_say_hello() {
        let mut own = OwnState::new(at(0));
        assert_eq!((with(&mut own, 0, 0, 0, 0), own.deadline()), (NodeState::Starting, Some(at(2_000))));
        own.bus_answered(at(300));
        own.bus_answered(at(900));
        assert_eq!((with(&mut own, 499, 0, 0, 0), own.deadline()), (NodeState::Starting, Some(at(500))));
        assert_eq!((with(&mut own, 500, 0, 0, 0), own.deadline()), (NodeState::Serving, None));
        let mut alone = OwnState::new(at(0));
        assert_eq!(with(&mut alone, 1_999, 0, 0, 0), NodeState::Starting);
        assert_eq!(with(&mut alone, 2_000, 0, 0, 0), NodeState::Serving, "without a bus too");
    }

    #[test]
    fn it_is_full_from_a_bound_on_and_until_well_below_it() {
        use NodeState::{Full, Serving};
        let mut own = serving();
        let expected = [850, 851, 760, 751, 750].map(|expected| with(&mut own, 2_000, expected, 0, 0));
        assert_eq!(expected, [Serving, Full, Full, Full, Serving]);
        let sockets = [900, 901, 801, 800].map(|open| with(&mut own, 2_000, 0, 0, open));
        assert_eq!(sockets, [Serving, Full, Full, Serving]);
    }

    #[test]
    fn a_moment_of_busy_cores_is_not_full() {
        use NodeState::{Full, Serving};
        let mut own = serving();
        let busy = [(3_000, 701), (5_999, 900), (6_000, 900), (6_100, 601), (6_200, 600)];
        let states = busy.map(|(millis, permille)| with(&mut own, millis, 0, permille, 0));
        assert_eq!(states, [Serving, Serving, Full, Full, Serving]);
        let swinging = [(7_000, 900), (9_000, 700), (10_000, 900), (12_999, 900)];
        assert!(swinging.iter().all(|(millis, permille)| with(&mut own, *millis, 0, *permille, 0) == Serving));
    }

    #[test]
    fn beside_nodes_that_it_cannot_speak_with_it_starts_for_ever() {
        let mut own = serving();
        own.is_apart(true);
        assert_eq!((own.state(), own.deadline()), (NodeState::Starting, None));
        own.is_apart(false);
        assert_eq!(own.state(), NodeState::Serving);
    }

    #[test]
    fn without_a_capacity_nothing_is_full() {
        let mut own = serving();
        own.look(at(3_000), &NodeLoad { expected: 9, ..NodeLoad::default() }, SocketsInUse::default());
        assert_eq!(own.state(), NodeState::Serving);
    }
}
