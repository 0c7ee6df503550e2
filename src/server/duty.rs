//! Work for the operator that may take long when somebody asks for much: one piece at a time, and for each as long a
//! rest as leaves calls most of the thread.

use std::cell::Cell;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::yield_now;
use tokio::time::sleep_until;

use super::clock;
use crate::base::time::Instant;

/// The thread's time is so many times what this work may take of it.
const SHARE: u32 = 5;
/// A rest that is not worth a timer, which counts in milliseconds.
const SHORT: Duration = Duration::from_millis(1);

#[derive(Default)]
pub(super) struct Duty {
    turn: Mutex<()>,
    rests_until: Cell<Instant>,
}

impl Duty {
    pub(super) async fn work<T>(&self, work: impl FnOnce() -> T) -> T {
        let _turn = self.turn.lock().await;
        yield_now().await;
        let rests_until = self.rests_until.get();
        if rests_until > clock::now() + SHORT {
            sleep_until(clock::at(rests_until)).await;
        }
        let start = clock::now();
        let done = work();
        let took = clock::now().since(start);
        self.rests_until.set(self.rests_until.get().max(start) + took * SHARE);
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_work_leaves_most_of_the_time_to_others() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let duty = Duty::default();
        let busy = Cell::new(Duration::ZERO);
        let start = clock::now();
        runtime.block_on(async {
            for _ in 0..10 {
                let piece = || {
                    let start = clock::now();
                    while clock::now().since(start) < Duration::from_millis(3) {}
                    busy.set(busy.get() + clock::now().since(start));
                };
                duty.work(piece).await;
            }
        });
        // The rest after the last is still to come.
        let all = clock::now().since(start);
        assert!(all >= busy.get() * (SHARE - 1), "{all:?} for {:?}", busy.get());
    }
}
