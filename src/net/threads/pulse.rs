//! The state of a shard that other threads may read at any time: how busy it is and whether it has overslept. The
//! heartbeat reads it once a second; the shard's own cost is a few stores a round.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};

use crate::base::id::ShardId;
use crate::base::time::{Duration, Instant};
use crate::net::clock::Clock;
use crate::net::doorbell::Doorbell;

const BEAT: Duration = Duration::from_secs(1);

/// A sleeping shard is poked when its deadline lies back this far.
const OVERSLEPT: Duration = Duration::from_secs(1);

/// A round that keeps media waiting.
const SLOW_ROUND: Duration = Duration::from_millis(1);

/// Beats covered by the longest round: no shorter than the interval of two scrapes.
const LONGEST_OVER: usize = 15;

const NO_DEADLINE: u64 = u64::MAX;

pub(in crate::net) struct Pulse {
    /// When the shard that sleeps now wants to wake.
    deadline: AtomicU64,
    busy_nanos: AtomicU64,
    load_permille: AtomicU32,
    /// Since the last beat.
    longest_nanos: AtomicU64,
    longest_round_us: AtomicU32,
    pub rounds: AtomicU64,
    pub slow_rounds: AtomicU64,
    pub pokes: AtomicU64,
}

impl Pulse {
    pub(in crate::net) fn new() -> Pulse {
        Pulse {
            deadline: AtomicU64::new(NO_DEADLINE),
            busy_nanos: AtomicU64::new(0),
            load_permille: AtomicU32::new(0),
            longest_nanos: AtomicU64::new(0),
            longest_round_us: AtomicU32::new(0),
            rounds: AtomicU64::new(0),
            slow_rounds: AtomicU64::new(0),
            pokes: AtomicU64::new(0),
        }
    }

    pub(in crate::net) fn sleeps_until(&self, deadline: Option<Instant>) {
        self.deadline.store(deadline.map_or(NO_DEADLINE, Instant::as_nanos), Ordering::Relaxed);
    }

    pub(in crate::net) fn is_awake(&self) {
        self.deadline.store(NO_DEADLINE, Ordering::Relaxed);
    }

    /// Only the shard's own thread calls this.
    pub(in crate::net) fn worked(&self, busy: Duration) {
        let add = |counter: &AtomicU64, amount| {
            counter.store(counter.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
        };
        let nanos = busy.as_nanos() as u64;
        add(&self.busy_nanos, nanos);
        add(&self.rounds, 1);
        add(&self.slow_rounds, u64::from(busy > SLOW_ROUND));
        if nanos > self.longest_nanos.load(Ordering::Relaxed) {
            self.longest_nanos.store(nanos, Ordering::Relaxed);
        }
    }

    /// The longest round of the last fifteen seconds, in microseconds.
    pub(in crate::net) fn longest_round_us(&self) -> u32 {
        self.longest_round_us.load(Ordering::Relaxed)
    }

    /// The share of its core that the shard used in the last second, in thousandths.
    pub(in crate::net) fn load_permille(&self) -> u32 {
        self.load_permille.load(Ordering::Relaxed)
    }

    fn overslept(&self, now: Instant) -> bool {
        let deadline = self.deadline.load(Ordering::Relaxed);
        deadline != NO_DEADLINE && now.since(Instant::from_nanos(deadline)) > OVERSLEPT
    }
}

pub(in crate::net) struct Patient {
    pub shard: ShardId,
    pub pulse: Arc<Pulse>,
    pub bell: Doorbell,
    busy_nanos_seen: u64,
    /// The longest round of each of the last beats.
    longest_nanos: [u64; LONGEST_OVER],
}

impl Patient {
    pub(in crate::net) fn new(shard: ShardId, pulse: Arc<Pulse>, bell: Doorbell) -> Patient {
        Patient { shard, pulse, bell, busy_nanos_seen: 0, longest_nanos: [0; LONGEST_OVER] }
    }

    fn examine(&mut self, now: Instant, since_last: Duration) {
        let busy_nanos = self.pulse.busy_nanos.load(Ordering::Relaxed);
        let busy = busy_nanos.wrapping_sub(self.busy_nanos_seen);
        self.busy_nanos_seen = busy_nanos;
        let load = u128::from(busy) * 1_000 / since_last.as_nanos().max(1);
        self.pulse.load_permille.store(load.min(1_000) as u32, Ordering::Relaxed);
        self.longest_nanos.rotate_right(1);
        self.longest_nanos[0] = self.pulse.longest_nanos.swap(0, Ordering::Relaxed);
        let longest = self.longest_nanos.iter().max().map_or(0, |nanos| nanos / 1_000);
        self.pulse.longest_round_us.store(longest.try_into().unwrap_or(u32::MAX), Ordering::Relaxed);
        if self.pulse.overslept(now) {
            self.pulse.pokes.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(shard = %self.shard, "a shard slept through its deadline and was poked");
            self.bell.force();
        }
    }
}

/// Runs until the other end of `stop` is gone.
pub(in crate::net) fn heartbeat(mut patients: Vec<Patient>, stop: &Receiver<()>) {
    let clock = Clock::process();
    let mut last = clock.mono();
    while stop.recv_timeout(BEAT) == Err(RecvTimeoutError::Timeout) {
        let now = clock.mono();
        for patient in &mut patients {
            patient.examine(now, now.since(last));
        }
        last = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleeper_is_poked_only_long_after_its_deadline() {
        let (pulse, bell) = (Arc::new(Pulse::new()), Doorbell::new().unwrap());
        let mut patient = Patient::new(ShardId(0), Arc::clone(&pulse), bell);
        let at = |millis| Instant::ZERO + Duration::from_millis(millis);
        let mut pokes_at = |millis| {
            patient.examine(at(millis), BEAT);
            pulse.pokes.load(Ordering::Relaxed)
        };
        assert_eq!(pokes_at(9_000), 0);
        pulse.sleeps_until(Some(at(10_000)));
        assert_eq!(pokes_at(10_900), 0);
        assert_eq!(pokes_at(11_100), 1);
        pulse.is_awake();
        assert_eq!(pokes_at(20_000), 1);
        pulse.sleeps_until(None);
        assert_eq!(pokes_at(90_000), 1);
    }

    #[test]
    fn the_longest_round_is_told_for_a_while() {
        let (pulse, bell) = (Arc::new(Pulse::new()), Doorbell::new().unwrap());
        let mut patient = Patient::new(ShardId(0), Arc::clone(&pulse), bell);
        for micros in [300, 1_200, 800] {
            pulse.worked(Duration::from_micros(micros));
        }
        for _ in 0..LONGEST_OVER {
            patient.examine(Instant::ZERO, BEAT);
            assert_eq!(pulse.longest_round_us(), 1_200);
        }
        patient.examine(Instant::ZERO, BEAT);
        assert_eq!(pulse.longest_round_us(), 0);
        assert_eq!(pulse.slow_rounds.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn load_is_the_share_of_the_last_beat() {
        let (pulse, bell) = (Arc::new(Pulse::new()), Doorbell::new().unwrap());
        let mut patient = Patient::new(ShardId(0), Arc::clone(&pulse), bell);
        pulse.worked(Duration::from_millis(250));
        patient.examine(Instant::ZERO, BEAT);
        assert_eq!(pulse.load_permille(), 250);
        patient.examine(Instant::ZERO, BEAT);
        assert_eq!(pulse.load_permille(), 0);
    }
}
