//! The loop of a shard: receive a batch, take other shards' records, let the core handle both, carry out commands,
//! flush, tell signalling, sleep until the next deadline. All of it on one thread that nothing else runs on; the core
//! is called through one guard. Knows nothing of the bytes' meaning.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};

use tokio::sync::mpsc::UnboundedSender;

use crate::base::buffer::{Batch, Run, Transmit};
use crate::base::histogram::RecentHistogram;
use crate::base::id::ShardId;
use crate::base::time::{Duration, Instant, Now};
use crate::net::clock::Clock;
use crate::net::doorbell::Doorbell;
use crate::net::steering::{Claimed, PathTable};
use crate::net::threads::executor::Footing;
use crate::net::threads::guard::Guard;
use crate::net::threads::mesh::MeshEnd;
use crate::net::threads::moderation::Moderation;
use crate::net::threads::pulse::Pulse;
use crate::net::threads::shard_core::Core;
use crate::net::udp::backend::{Backend, RECEIVE_BATCH_MAX};
use crate::shard::PathChange;
use crate::shard::command::{Command, Distribution, Event, Metrics, Reply};

/// Bounds of one round, so that neither door nor mesh keeps the media waiting.
const COMMANDS_PER_ROUND: usize = 64;
const MESH_RECORDS_PER_ROUND: usize = 1_024;

/// When a full ring to another shard is tried again: nobody rings when there is room.
const MESH_RETRY: Duration = Duration::from_millis(1);

/// The time that a core has to shut down after it was told.
const SHUTDOWN_MAX: Duration = Duration::from_secs(1);

pub(super) struct ShardThread<C, B> {
    pub shard: ShardId,
    pub guard: Guard<C>,
    pub backend: B,
    pub bell: Doorbell,
    pub door: Receiver<Command>,
    pub mesh: MeshEnd,
    /// Where the kernel steers: this shard's access to the map.
    pub paths: Option<PathTable>,
    /// All shards, by the slots of that map.
    pub by_slot: Vec<ShardId>,
    /// Whether this shard reports the counters that belong to the whole process.
    pub first: bool,
    pub events: UnboundedSender<(ShardId, Event)>,
    pub pulse: Arc<Pulse>,
    pub footing: Footing,
    /// Whether the backend is the ring.
    pub on_ring: bool,
    pub times: Times,
}

/// How long packets wait: the deliberate part, and all of it as measured.
pub(super) struct Times {
    moderation: Moderation,
    /// From arrival to the end of the send, of the oldest packet of each run, counted once for each packet in it.
    delays: RecentHistogram,
}

impl Times {
    pub(super) fn new(coalesce_max: Duration) -> Times {
        Times { moderation: Moderation::new(coalesce_max), delays: RecentHistogram::default() }
    }
}

/// Passes runs on and notes how long their packets took.
struct Timed<'a, B> {
    backend: &'a mut B,
    delays: &'a mut RecentHistogram,
    clock: Clock,
    /// After the last send, or at its beginning.
    now: Instant,
}

impl<B: Transmit> Transmit for Timed<'_, B> {
    fn transmit(&mut self, buffer: &[u8], runs: &[Run]) {
        self.backend.transmit(buffer, runs);
        let now = self.clock.mono();
        self.now = now;
        for run in runs {
            if let Some(oldest) = run.oldest {
                self.delays.record(now, now.since(oldest), run.packets() as u64);
            }
        }
    }

    fn now(&self) -> Option<Instant> {
        Some(self.now)
    }
}

impl<C: Core, B: Backend> ShardThread<C, B> {
    /// Runs until the core has shut down.
    pub(super) fn run(mut self) {
        let clock = Clock::process();
        let mut batch = Batch::new(RECEIVE_BATCH_MAX);
        // A command that was taken out of the door while checking whether it is empty.
        let mut waiting: Option<Command> = None;
        let mut stopping: Option<Instant> = None;
        let mut now = clock.now();
        loop {
            let restarts = self.guard.restarts;
            batch.clear();
            self.backend.receive(&mut batch);
            let mut more = batch.room() == 0;
            // Between receiving and handling: the owner of a path was announced before its client was answered, so the
            // news is here no later than what the client then sent.
            let guard = &mut self.guard;
            more |= self.mesh.receiver.pop(MESH_RECORDS_PER_ROUND, |from, left, record| {
                guard.call(now, |core| core.handle_mesh(now, from, now.mono.since(left), record));
            });
            let mut arrivals = 0;
            if !batch.is_empty() {
                // Once more after a panic: the datagrams behind its cause belong to others.
                let mut handle = || self.guard.call(now, |core| core.handle_batch(now, &mut batch));
                arrivals = handle().or_else(handle).unwrap_or(0);
            }
            more |= self.commands(now, &mut waiting, &mut stopping);
            let due = self.guard.call(now, |core| core.poll_timeout()).flatten();
            if arrivals > 0 || due.is_some_and(|due| due <= now.mono) {
                self.guard.call(now, |core| core.handle_timeout(now));
            }
            // Before the flush: the answer to a check must not overtake the map or the news to the other shards, or
            // what the client sends on it goes to the sink or to a shard that does not know it.
            self.path_changes(now);
            let mut refused = self.mesh_out(now);
            let mut out =
                Timed { backend: &mut self.backend, delays: &mut self.times.delays, clock, now: clock.mono() };
            self.guard.call(now, |core| core.flush(now, &mut out));
            self.path_changes(now);
            refused |= self.mesh_out(now);
            self.events_out(now);
            if self.guard.restarts != restarts {
                self.restarted();
                more = true;
            }

            let stopped = self.guard.call(now, |core| core.is_stopped()).unwrap_or(false);
            let given_up = stopping.map(|since| since + SHUTDOWN_MAX);
            if stopped || given_up.is_some_and(|given_up| given_up <= now.mono) {
                return;
            }
            // A panic in here comes back at once with a closed object or a new core.
            let deadline = self.guard.call(now, |core| core.poll_timeout()).unwrap_or(Some(Instant::ZERO));
            let mesh = refused.then(|| now.mono + MESH_RETRY);
            let deadline = [deadline, given_up, mesh].into_iter().flatten().min();
            let before = clock.mono();
            let worked = before.since(now.mono);
            self.pulse.worked(worked);
            self.times.moderation.round(now.mono, arrivals, worked);
            let quiet_until = self.times.moderation.until();
            if !more && quiet_until > before {
                let latest = deadline.map(|deadline| deadline.max(quiet_until));
                self.sleep(now, &mut waiting, |backend| backend.pause(quiet_until, deadline), latest);
            } else if more || deadline.is_some_and(|deadline| deadline <= before) {
                self.backend.wait(Some(Instant::ZERO));
            } else {
                self.sleep(now, &mut waiting, |backend| backend.wait(deadline), deadline);
            }
            now = clock.now();
        }
    }

    /// Sleeps unless something came in at the last moment.
    fn sleep(&mut self, now: Now, waiting: &mut Option<Command>, wait: impl FnOnce(&mut B), until: Option<Instant>) {
        self.bell.park();
        *waiting = waiting.take().or_else(|| self.door.try_recv().ok());
        // The core asks for work of other threads by being due.
        let due = self.guard.call(now, |core| core.poll_timeout()).unwrap_or(Some(Instant::ZERO));
        let is_due = due.is_some_and(|due| due <= now.mono);
        if waiting.is_none() && self.mesh.receiver.is_empty() && !is_due {
            self.pulse.sleeps_until(until);
            wait(&mut self.backend);
            self.pulse.is_awake();
        }
        self.bell.unpark();
    }

    /// True: some may be left.
    fn commands(&mut self, now: Now, waiting: &mut Option<Command>, stopping: &mut Option<Instant>) -> bool {
        for _ in 0..COMMANDS_PER_ROUND {
            let command = match waiting.take().map_or_else(|| self.door.try_recv(), Ok) {
                Ok(command) => command,
                Err(TryRecvError::Empty) => return false,
                // Nobody is left to give commands, not even the one to shut down.
                Err(TryRecvError::Disconnected) if stopping.is_none() => Command::Shutdown,
                Err(TryRecvError::Disconnected) => return false,
            };
            if matches!(command, Command::Shutdown) {
                stopping.get_or_insert(now.mono);
            }
            self.guard.call(now, |core| core.handle_command(now, command));
        }
        true
    }

    fn path_changes(&mut self, now: Now) {
        while let Some(Some(change)) = self.guard.call(now, |core| core.poll_path()) {
            match (&self.paths, change) {
                (Some(paths), PathChange::Up(path)) => {
                    if let Claimed::HeldBy(slot) = paths.up(&path)
                        && let Some(by) = self.by_slot.get(slot).copied()
                    {
                        self.guard.call(now, |core| core.path_is_held(path, by));
                    }
                }
                (Some(paths), PathChange::Taken(path)) => {
                    paths.take(&path);
                }
                (Some(paths), PathChange::Down(path)) => paths.down(&path),
                (None, _) => {}
            }
        }
    }

    /// True: a ring was full, so that the core may have kept some records for later.
    fn mesh_out(&mut self, now: Now) -> bool {
        let sender = &mut self.mesh.sender;
        let before = sender.counters().refused_full;
        self.guard.call(now, |core| core.poll_mesh(&mut |to, record| sender.push(to, now.mono, record)));
        sender.ring();
        sender.counters().refused_full != before
    }

    fn events_out(&mut self, now: Now) {
        while let Some(Some(mut event)) = self.guard.call(now, |core| core.poll_event()) {
            if let Event::Answer { reply: Reply::Metrics(metrics), .. } = &mut event {
                self.add_metrics(metrics);
            }
            self.tell(event);
        }
    }

    fn restarted(&mut self) {
        if let Some(paths) = &self.paths {
            paths.clear();
        }
        tracing::error!(shard = %self.shard, "a shard was restarted: all its transports are gone");
        self.tell(Event::ShardRestarted { shard: self.shard });
    }

    fn tell(&self, event: Event) {
        // Signalling hangs up only when the process ends.
        let _ = self.events.send((self.shard, event));
    }

    fn add_metrics(&mut self, metrics: &mut Metrics) {
        let relaxed = Ordering::Relaxed;
        let mesh = self.mesh.sender.counters();
        metrics.counters.extend(self.backend.counters().rows());
        metrics.counters.extend([
            ("shard_rounds", "Rounds of the shard's loop", self.pulse.rounds.load(relaxed)),
            ("shard_slow_rounds", "Rounds that took longer than 1 ms", self.pulse.slow_rounds.load(relaxed)),
            ("shard_pokes", "Times the heartbeat woke a shard that had overslept", self.pulse.pokes.load(relaxed)),
            ("shard_panics", "Panics caught in a shard", self.guard.panics),
            ("shard_restarts", "Shards built anew after two panics within a second", self.guard.restarts),
            ("mesh_records_sent", "Records sent to other shards", mesh.records_sent),
            ("mesh_bytes_sent", "Bytes of such records", mesh.bytes_sent),
            ("mesh_wakes", "Times another shard was woken for such records", mesh.wakes),
        ]);
        metrics.drops.extend(self.backend.drops());
        let recent = self.times.delays.recent(Clock::process().mono());
        let quantile = |share| recent.quantile(share).unwrap_or_default().as_micros() as i64;
        metrics.histograms.push(Distribution::of_delays(&self.times.delays.total));
        metrics.gauges.extend([
            ("added_delay_p50_us", "Of added_delay_seconds in the last 10 to 20 s, in microseconds", quantile(0.5)),
            ("added_delay_p99_us", "The same, of a hundredth of the packets exceeded", quantile(0.99)),
            ("added_delay_p999_us", "The same, of a thousandth of the packets exceeded", quantile(0.999)),
        ]);
        // The shard itself has counted a full mesh.
        metrics.drops.push(("mesh_unfit", mesh.refused_unfit));
        metrics.gauges.extend([
            (
                "shard_load_permille",
                "Share of its core that a shard used in the last second, in thousandths",
                self.pulse.load_permille().into(),
            ),
            (
                "shard_longest_round_us",
                "The longest round of the last 15 seconds, in microseconds",
                self.pulse.longest_round_us().into(),
            ),
            ("shard_pinned", "Shards that are pinned to their core", self.footing.pinned.into()),
            ("shard_on_glommio", "Shards that run on a glommio executor", self.footing.glommio.into()),
            ("shard_on_ring", "Shards that read and write their sockets through io_uring", self.on_ring.into()),
        ]);
        if let (true, Some(paths)) = (self.first, &self.paths) {
            metrics.counters.extend(paths.steering().counters());
            let held = i64::try_from(paths.steering().paths()).unwrap_or(i64::MAX);
            metrics.gauges.push(("steering_paths", "Remote addresses in the kernel's map", held));
        }
    }
}
