//! The progress that both threads of the generator share with their waiters: the joining, the failures, the times.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::base::histogram::Histogram;

#[derive(Default)]
pub struct Progress {
    /// Peers whose transports and producers are made.
    pub joined: AtomicUsize,
    pub transports_open: AtomicUsize,
    pub transports_connected: AtomicUsize,
    /// Streams that are consumed, and those of them that brought a packet.
    pub consumed: AtomicUsize,
    pub started: AtomicUsize,
    /// Since the start of the program.
    pub sent: AtomicU64,
    pub delivered: AtomicU64,
    pub times: Mutex<SetupTimes>,
    failures: Mutex<(usize, Option<String>)>,
}

/// How long clients wait.
#[derive(Clone, Default)]
pub struct SetupTimes {
    /// From opening the WebSocket to the parameters of the first transport.
    pub answered: Histogram,
    /// From the first check to the end of the DTLS handshake.
    pub connected: Histogram,
    /// From consumer-params to the stream's first packet.
    pub first_packet: Histogram,
}

impl Progress {
    pub fn fail(&self, why: String) {
        let mut failures = self.failures.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        failures.0 += 1;
        failures.1.get_or_insert(why);
    }

    /// The number of failures, and the first one's reason.
    pub fn failures(&self) -> (usize, Option<String>) {
        self.failures.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    pub fn time(&self, record: impl FnOnce(&mut SetupTimes)) {
        record(&mut self.times.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    }

    pub fn times(&self) -> SetupTimes {
        self.times.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }
}

/// These counters order nothing.
pub fn read(counter: &AtomicUsize) -> usize {
    counter.load(Ordering::Relaxed)
}

pub fn count(counter: &AtomicUsize) {
    counter.fetch_add(1, Ordering::Relaxed);
}
