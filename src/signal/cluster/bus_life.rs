//! Whether the bus works: once a second a question goes out that nobody listens to, and the engine has to say so. A
//! connection that is open says nothing about an engine that hangs.

use std::collections::VecDeque;

use crate::base::time::{Duration, Instant};

const ASK_EVERY: Duration = Duration::from_secs(1);
/// Without an answer for so long the bus is down, whatever its connection says.
const DOWN_AFTER: Duration = Duration::from_millis(2_500);
/// The interval at which another connection is tried while it is down.
const FORCE_EVERY: Duration = Duration::from_secs(2);
/// Questions whose answers are waited for.
const OPEN_MAX: usize = 4;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BusStep {
    /// Ask under this number.
    Ask(u64),
    WentDown,
    /// Try another connection.
    Force,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum BusAnswer {
    /// The bus is back, or there for the first time.
    CameUp(Duration),
    Again(Duration),
    /// Of no question that is open.
    Stray,
}

#[derive(Debug)]
pub(super) struct BusLife {
    ask_at: Instant,
    /// Numbers of open questions, and when they were asked.
    open: VecDeque<(u64, Instant)>,
    asked: u64,
    is_up: bool,
    /// The last answer; at first the start.
    answered: Instant,
    force_at: Option<Instant>,
}

impl BusLife {
    pub(super) fn new(now: Instant) -> BusLife {
        BusLife {
            ask_at: now,
            open: VecDeque::new(),
            asked: 0,
            is_up: false,
            answered: now,
            force_at: Some(now + DOWN_AFTER),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.is_up
    }

    /// A connection is there, maybe another than before.
    pub(super) fn connected(&mut self, now: Instant) {
        self.ask_at = now;
        if !self.is_up {
            self.force_at = Some(now + DOWN_AFTER);
        }
    }

    pub(super) fn nobody(&mut self, now: Instant, number: u64) -> BusAnswer {
        let Some(place) = self.open.iter().position(|(open, _)| *open == number) else { return BusAnswer::Stray };
        let Some((_, asked)) = self.open.remove(place) else { return BusAnswer::Stray };
        let took = now.since(asked);
        self.answered = now;
        self.force_at = None;
        match std::mem::replace(&mut self.is_up, true) {
            true => BusAnswer::Again(took),
            false => BusAnswer::CameUp(took),
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        let down = if self.is_up { self.answered + DOWN_AFTER } else { self.force_at.unwrap_or(self.ask_at) };
        self.ask_at.min(down)
    }

    /// The next thing to do, until there is none.
    pub(super) fn poll(&mut self, now: Instant) -> Option<BusStep> {
        if self.is_up && now.since(self.answered) >= DOWN_AFTER {
            self.is_up = false;
            self.force_at = Some(now);
            return Some(BusStep::WentDown);
        }
        if !self.is_up && self.force_at.is_some_and(|at| at <= now) {
            self.force_at = Some(now + FORCE_EVERY);
            return Some(BusStep::Force);
        }
        if self.ask_at <= now {
            self.ask_at = now + ASK_EVERY;
            self.asked += 1;
            if self.open.len() == OPEN_MAX {
                self.open.pop_front();
            }
            self.open.push_back((self.asked, now));
            return Some(BusStep::Ask(self.asked));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    /// Everything it does up to then; questions are answered after 1 ms as long as `answers`.
    fn run(life: &mut BusLife, from: u64, to: u64, answers: bool) -> Vec<(u64, BusStep)> {
        let mut steps = Vec::new();
        for millis in from..=to {
            while let Some(step) = life.poll(at(millis)) {
                if let (BusStep::Ask(number), true) = (step, answers) {
                    assert_ne!(life.nobody(at(millis + 1), number), BusAnswer::Stray);
                }
                steps.push((millis, step));
            }
        }
        steps
    }

    fn but_questions(steps: Vec<(u64, BusStep)>) -> Vec<(u64, BusStep)> {
        steps.into_iter().filter(|(_, step)| !matches!(step, BusStep::Ask(_))).collect()
    }

    #[test]
    fn a_bus_that_answers_is_up_from_the_first_answer_on() {
        let mut life = BusLife::new(at(0));
        assert_eq!(life.poll(at(0)), Some(BusStep::Ask(1)));
        assert!(!life.is_up());
        assert_eq!(life.nobody(at(3), 1), BusAnswer::CameUp(Duration::from_millis(3)));
        let steps = run(&mut life, 3, 5_000, true);
        let asked: Vec<u64> = steps.iter().map(|(millis, _)| *millis).collect();
        assert_eq!(asked, [1_000, 2_000, 3_000, 4_000, 5_000]);
        assert_eq!(but_questions(steps), []);
        assert_eq!(life.nobody(at(5_001), 1), BusAnswer::Stray, "answered already");
        assert_eq!(life.nobody(at(5_001), 99), BusAnswer::Stray);
    }

    #[test]
    fn one_that_hangs_is_left_again_and_again_until_it_answers() {
        let mut life = BusLife::new(at(0));
        run(&mut life, 0, 4_000, true);
        let steps = but_questions(run(&mut life, 4_001, 9_000, false));
        let expected = [(6_501, BusStep::WentDown), (6_501, BusStep::Force), (8_501, BusStep::Force)];
        assert_eq!(steps, expected);
        life.connected(at(9_100));
        let Some(BusStep::Ask(number)) = life.poll(at(9_100)) else { panic!("it asks at once") };
        assert_eq!(life.nobody(at(9_102), number), BusAnswer::CameUp(Duration::from_millis(2)));
        assert_eq!(but_questions(run(&mut life, 9_102, 12_000, true)), []);
    }

    #[test]
    fn a_moment_without_connection_is_no_outage() {
        let mut life = BusLife::new(at(0));
        run(&mut life, 0, 4_000, true);
        assert_eq!(but_questions(run(&mut life, 4_001, 6_300, false)), []);
        life.connected(at(6_301));
        assert_eq!(but_questions(run(&mut life, 6_301, 9_000, true)), []);
    }

    #[test]
    fn one_that_never_was_is_tried_for_ever() {
        let mut life = BusLife::new(at(0));
        let steps = but_questions(run(&mut life, 0, 7_000, false));
        assert_eq!(steps, [(2_500, BusStep::Force), (4_500, BusStep::Force), (6_500, BusStep::Force)]);
        assert!(life.open.len() <= OPEN_MAX && life.deadline() <= at(8_500));
    }
}
