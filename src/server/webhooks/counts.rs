//! What became of the events for webhooks, for `/metrics`. Atomic, because two threads read and write it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why an event is given up; a label of `weirgate_webhook_events_total`, beside `delivered`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::server) enum GivenUp {
    /// Too much waits already.
    QueueFull,
    /// Refused as often as it may be.
    Attempts,
    /// Too old by now.
    Age,
    /// The server ends.
    Stopped,
}

impl GivenUp {
    pub(in crate::server) const ALL: [GivenUp; 4] =
        [GivenUp::QueueFull, GivenUp::Attempts, GivenUp::Age, GivenUp::Stopped];

    pub(in crate::server) const fn name(self) -> &'static str {
        match self {
            GivenUp::QueueFull => "queue-full",
            GivenUp::Attempts => "attempts",
            GivenUp::Age => "age",
            GivenUp::Stopped => "stopped",
        }
    }
}

/// Why an attempt failed; a label of `weirgate_webhook_failures_total`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::server) enum HookFailure {
    /// The host's name leads nowhere.
    Name,
    Connect,
    Tls,
    /// No answer in time.
    Timeout,
    /// It answered with this status: none of 200 to 299.
    Status(u16),
    /// It closed the connection, or spoke no HTTP.
    Http,
}

impl HookFailure {
    pub(in crate::server) const NAMES: [&str; 6] = ["name", "connect", "tls", "timeout", "status", "http"];

    const fn index(self) -> usize {
        match self {
            HookFailure::Name => 0,
            HookFailure::Connect => 1,
            HookFailure::Tls => 2,
            HookFailure::Timeout => 3,
            HookFailure::Status(_) => 4,
            HookFailure::Http => 5,
        }
    }
}

impl fmt::Display for HookFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HookFailure::Status(status) => write!(f, "status {status}"),
            failure => f.write_str(HookFailure::NAMES[failure.index()]),
        }
    }
}

#[derive(Default)]
pub(in crate::server) struct HookCounts {
    delivered: AtomicU64,
    given_up: [AtomicU64; GivenUp::ALL.len()],
    failures: [AtomicU64; HookFailure::NAMES.len()],
    queued: AtomicU64,
}

impl HookCounts {
    pub(super) fn delivered(&self) {
        self.delivered.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn given_up(&self, why: GivenUp) {
        if let Some(place) = GivenUp::ALL.iter().position(|other| *other == why) {
            self.given_up[place].fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn failed(&self, failure: HookFailure) {
        self.failures[failure.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// Events wait now, or no more.
    pub(super) fn queued(&self, more: u64, fewer: u64) {
        self.queued.fetch_add(more, Ordering::Relaxed);
        self.queued.fetch_sub(fewer, Ordering::Relaxed);
    }

    /// By outcome.
    pub(in crate::server) fn events(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let given_up = GivenUp::ALL.iter().zip(&self.given_up).map(|(why, count)| (why.name(), count));
        let all = [("delivered", &self.delivered)].into_iter().chain(given_up);
        all.map(|(name, count)| (name, count.load(Ordering::Relaxed)))
    }

    pub(in crate::server) fn failures(&self) -> impl Iterator<Item = (&'static str, u64)> {
        HookFailure::NAMES.iter().zip(&self.failures).map(|(name, count)| (*name, count.load(Ordering::Relaxed)))
    }

    pub(in crate::server) fn waiting(&self) -> u64 {
        self.queued.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_counts_in_its_own_place() {
        let counts = HookCounts::default();
        GivenUp::ALL.iter().for_each(|why| counts.given_up(*why));
        counts.delivered();
        assert!(counts.events().all(|(_, count)| count == 1) && counts.events().count() == 5);
        let failures = [
            HookFailure::Name,
            HookFailure::Connect,
            HookFailure::Tls,
            HookFailure::Timeout,
            HookFailure::Status(500),
            HookFailure::Http,
        ];
        failures.iter().for_each(|failure| counts.failed(*failure));
        assert!(counts.failures().all(|(_, count)| count == 1));
        assert_eq!(HookFailure::Status(302).to_string(), "status 302");
        counts.queued(3, 1);
        assert_eq!(counts.waiting(), 2);
    }
}
