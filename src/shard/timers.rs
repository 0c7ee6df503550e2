//! The deadlines of a shard's transports, in two queues: those that wake it, and those that gain by waiting for media to
//! wake it. A transport keeps the deadline it is armed for; entries that it has outrun are passed over when they come up.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::base::slab::Key;
use crate::base::time::{Duration, Instant};
use crate::transport::Transport;

/// Reports and transport-cc feedback are sent in the first round with media after they fall due, and wake the shard by
/// themselves only this much later: a wake costs several times the work in it.
const PATIENCE: Duration = Duration::from_millis(20);

/// When, and the parts of a transport's key.
type Queue = BinaryHeap<Reverse<(Instant, u32, u32)>>;

#[derive(Default)]
pub(super) struct Timers {
    prompt: Queue,
    patient: Queue,
}

/// What an entry was armed as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wake {
    Prompt,
    /// See [`PATIENCE`].
    Patient,
}

impl Timers {
    /// Schedules the transport no later than `at`; `armed` is its own note of that.
    pub(super) fn arm(&mut self, wake: Wake, armed: &mut Option<Instant>, key: Key<Transport>, at: Instant) {
        if armed.is_some_and(|armed| armed <= at) {
            return;
        }
        *armed = Some(at);
        let (slot, generation) = key.to_parts();
        self.queue(wake).push(Reverse((at, slot, generation)));
    }

    /// The next entry of its kind that is due.
    pub(super) fn pop_due(&mut self, wake: Wake, now: Instant) -> Option<(Instant, Key<Transport>)> {
        let queue = self.queue(wake);
        let Reverse((at, slot, generation)) = queue.peek().copied().filter(|Reverse((at, ..))| *at <= now)?;
        queue.pop();
        Some((at, Key::from_parts(slot, generation)))
    }

    /// When the shard has to wake, if no media does it before.
    pub(super) fn next(&self) -> Option<Instant> {
        let prompt = self.prompt.peek().map(|Reverse((at, ..))| *at);
        let patient = self.patient.peek().map(|Reverse((at, ..))| *at + PATIENCE);
        [prompt, patient].into_iter().flatten().min()
    }

    fn queue(&mut self, wake: Wake) -> &mut Queue {
        match wake {
            Wake::Prompt => &mut self.prompt,
            Wake::Patient => &mut self.patient,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn a_transport_is_armed_for_its_earliest_deadline_alone() {
        let (mut timers, mut armed, key) = (Timers::default(), None, Key::from_parts(1, 0));
        timers.arm(Wake::Prompt, &mut armed, key, at(50));
        timers.arm(Wake::Prompt, &mut armed, key, at(70));
        timers.arm(Wake::Prompt, &mut armed, key, at(30));
        assert_eq!((armed, timers.next()), (Some(at(30)), Some(at(30))));
        assert_eq!(timers.pop_due(Wake::Prompt, at(29)), None);
        assert_eq!(timers.pop_due(Wake::Prompt, at(60)), Some((at(30), key)));
        assert_eq!(timers.pop_due(Wake::Prompt, at(60)), Some((at(50), key)), "outrun: the transport's note says so");
        assert_eq!((timers.pop_due(Wake::Prompt, at(99)), timers.next()), (None, None));
    }

    #[test]
    fn patient_deadlines_are_due_in_time_and_wake_nobody_until_later() {
        let (mut timers, key) = (Timers::default(), Key::from_parts(1, 0));
        timers.arm(Wake::Patient, &mut None, key, at(10));
        assert_eq!(timers.next(), Some(at(10) + PATIENCE));
        assert_eq!(timers.pop_due(Wake::Prompt, at(10)), None);
        assert_eq!(timers.pop_due(Wake::Patient, at(10)), Some((at(10), key)));
    }
}
