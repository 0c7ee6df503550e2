//! The one way into a shard's core: catches its panics. A panic closes what the core was handling; a second within a
//! second means that more than one object is broken, and the core is built anew. The sockets are not touched: a
//! restart loses no address.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::base::time::{Duration, Instant, Now};
use crate::net::threads::shard_core::Core;

/// Two panics closer than this restart the shard.
const RESTART_WITHIN: Duration = Duration::from_secs(1);

pub(in crate::net) struct Guard<C> {
    core: C,
    /// Builds the core of the given generation (0 at start, one more at each restart).
    make: Box<dyn FnMut(u32) -> C>,
    generation: u32,
    last_panic: Option<Instant>,
    pub panics: u64,
    pub restarts: u64,
}

impl<C: Core> Guard<C> {
    pub(in crate::net) fn new(mut make: Box<dyn FnMut(u32) -> C>) -> Guard<C> {
        Guard { core: make(0), make, generation: 0, last_panic: None, panics: 0, restarts: 0 }
    }

    /// None: it panicked. The object being handled is closed then, or the core is a new one (see `restarts`).
    pub(in crate::net) fn call<T>(&mut self, now: Now, work: impl FnOnce(&mut C) -> T) -> Option<T> {
        // The state that a panic leaves half done is inside the core, and `fault` or the restart deals with it.
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
            self.restart();
        }
    }

    fn restart(&mut self) {
        self.restarts += 1;
        self.generation = self.generation.wrapping_add(1);
        let broken = std::mem::replace(&mut self.core, (self.make)(self.generation));
        if catch_unwind(AssertUnwindSafe(|| drop(broken))).is_err() {
            tracing::error!("the replaced core panicked once more while it was dropped");
        }
    }
}

/// The message of a panic.
pub(in crate::net) fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no message)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::buffer::{Batch, Path, Transmit};
    use crate::base::id::ShardId;
    use crate::shard::PathChange;
    use crate::shard::command::{Command, Event};
    use std::cell::RefCell;
    use std::rc::Rc;

    type Log = Rc<RefCell<Vec<String>>>;

    /// Records what happens to it; does nothing else.
    struct LoggedCore {
        generation: u32,
        log: Log,
        fault_panics: bool,
        drop_panics: bool,
    }

    impl Core for LoggedCore {
        fn handle_batch(&mut self, _: Now, _: &mut Batch) -> usize {
            0
        }
        fn handle_command(&mut self, _: Now, _: Command) {}
        fn handle_mesh(&mut self, _: Now, _: ShardId, _: Duration, _: &[u8]) {}
        fn handle_timeout(&mut self, _: Now) {}
        fn flush<T: Transmit>(&mut self, _: Now, _: &mut T) {}
        fn poll_timeout(&self) -> Option<Instant> {
            None
        }
        fn poll_event(&mut self) -> Option<Event> {
            None
        }
        fn poll_mesh(&mut self, _: &mut dyn FnMut(ShardId, &[u8]) -> bool) {}
        fn poll_path(&mut self) -> Option<PathChange> {
            None
        }
        fn path_is_held(&mut self, _: Path, _: ShardId) {}
        fn fault(&mut self, _: Now) {
            assert!(!self.fault_panics);
            self.log.borrow_mut().push(format!("fault {}", self.generation));
        }
        fn is_stopped(&self) -> bool {
            false
        }
    }

    impl Drop for LoggedCore {
        fn drop(&mut self) {
            assert!(!self.drop_panics);
        }
    }

    fn at(millis: u64) -> Now {
        Now { mono: Instant::ZERO + Duration::from_millis(millis), ..Now::default() }
    }

    fn guard() -> (Guard<LoggedCore>, Log) {
        let log = Log::default();
        let for_cores = Rc::clone(&log);
        let make = move |generation| {
            for_cores.borrow_mut().push(format!("born {generation}"));
            LoggedCore { generation, log: Rc::clone(&for_cores), fault_panics: false, drop_panics: false }
        };
        (Guard::new(Box::new(make)), log)
    }

    fn panic_at(guard: &mut Guard<LoggedCore>, millis: u64) {
        assert_eq!(guard.call(at(millis), |_| -> u8 { panic!("asked to") }), None);
    }

    #[test]
    fn panics_apart_cost_an_object_each_and_two_within_a_second_the_core() {
        let (mut guard, log) = guard();
        assert_eq!(guard.call(at(1), |core| core.generation), Some(0));
        panic_at(&mut guard, 100);
        panic_at(&mut guard, 1_100);
        assert_eq!(*log.borrow(), ["born 0", "fault 0", "fault 0"]);
        panic_at(&mut guard, 2_099);
        assert_eq!(guard.call(at(2_100), |core| core.generation), Some(1));
        panic_at(&mut guard, 4_000);
        assert_eq!(*log.borrow(), ["born 0", "fault 0", "fault 0", "born 1", "fault 1"]);
        assert_eq!((guard.panics, guard.restarts), (4, 1));
    }

    #[test]
    fn a_panic_in_the_fault_handler_or_while_dropping_ends_in_a_new_core() {
        let (mut guard, log) = guard();
        guard.call(at(0), |core| (core.fault_panics, core.drop_panics) = (true, true));
        panic_at(&mut guard, 10_000);
        assert_eq!(*log.borrow(), ["born 0", "born 1"]);
        assert_eq!(guard.call(at(10_001), |core| core.generation), Some(1));
    }

    #[test]
    fn a_panics_message_is_found() {
        let payload = |work: fn()| catch_unwind(work).unwrap_err();
        assert_eq!(message(&*payload(|| panic!("plain"))), "plain");
        assert_eq!(message(&*payload(|| panic!("with {}", 1))), "with 1");
        assert_eq!(message(&*payload(|| std::panic::panic_any(7))), "(no message)");
    }
}
