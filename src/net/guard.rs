//! The one way into a shard's core: catches its panics. A panic closes what the core was handling; a second within a
//! second means that more than one object is broken, and the core is built anew. The sockets are not touched: a
//! restart loses no address.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::shard_thread::Core;
use crate::base::time::{Duration, Instant, Now};

/// Two panics closer than this restart the shard.
const RESTART_WITHIN: Duration = Duration::from_secs(1);

pub(super) struct Guard<C> {
    core: C,
    /// Builds the core of the given generation (0 at start, one more at each restart).
    make: Box<dyn FnMut(u32, Now) -> C>,
    generation: u32,
    last_panic: Option<Instant>,
    pub panics: u64,
    pub restarts: u64,
}

impl<C: Core> Guard<C> {
    pub(super) fn new(mut make: Box<dyn FnMut(u32, Now) -> C>, now: Now) -> Guard<C> {
        Guard { core: make(0, now), make, generation: 0, last_panic: None, panics: 0, restarts: 0 }
    }

    /// None: it panicked. What the core was handling is closed then, or the core is a new one (see `restarts`).
    pub(super) fn call<T>(&mut self, now: Now, work: impl FnOnce(&mut C) -> T) -> Option<T> {
        // What a panic leaves half done is inside the core, and `fault` or the restart deals with it.
        match catch_unwind(AssertUnwindSafe(|| work(&mut self.core))) {
            Ok(result) => Some(result),
            Err(payload) => {
                self.caught(now, &*payload);
                None
            }
        }
    }

    #[cold]
    fn caught(&mut self, now: Now, payload: &(dyn Any + Send)) {
        self.panics += 1;
        let again = self.last_panic.is_some_and(|last| now.mono.since(last) < RESTART_WITHIN);
        self.last_panic = Some(now.mono);
        tracing::error!(panic = message(payload), again, "a panic was caught in a shard");
        let contained = !again && catch_unwind(AssertUnwindSafe(|| self.core.fault(now))).is_ok();
        if !contained {
            self.restart(now);
        }
    }

    fn restart(&mut self, now: Now) {
        self.restarts += 1;
        self.generation = self.generation.wrapping_add(1);
        let broken = std::mem::replace(&mut self.core, (self.make)(self.generation, now));
        if catch_unwind(AssertUnwindSafe(|| drop(broken))).is_err() {
            tracing::error!("the replaced core panicked once more while it was dropped");
        }
    }
}

/// What a panic said.
pub(super) fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no message)")
}
