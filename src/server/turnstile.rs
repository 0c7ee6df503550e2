//! Work that takes long for one turn of the thread, as the signatures of TLS handshakes do: one piece at a time, and a
//! turn for everybody else between two.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use tokio::sync::Semaphore;
use tokio::task::yield_now;

pub(super) struct Turnstile(Semaphore);

impl Default for Turnstile {
    fn default() -> Turnstile {
        Turnstile(Semaphore::new(1))
    }
}

impl Turnstile {
    /// Each step of `work` waits for its turn, which it does not hold while it waits for anything else.
    pub(super) async fn pass<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            // The semaphore is never closed.
            let mut turn = self.0.acquire().await.ok();
            yield_now().await;
            let step = poll_fn(|cx| match turn.take() {
                Some(_held) => work.as_mut().poll(cx).map(Some),
                // Woken: the next step waits for its turn.
                None => Poll::Ready(None),
            });
            if let Some(output) = step.await {
                return output;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use tokio::task::{LocalSet, spawn_local};

    use super::*;

    #[test]
    fn others_have_a_turn_between_any_two_and_who_waits_holds_nobody_up() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let (turnstile, steps) = (Rc::new(Turnstile::default()), Rc::new(Cell::new(0)));
            for n in 0..300 {
                let (turnstile, steps) = (turnstile.clone(), steps.clone());
                let work = async move {
                    if n % 3 == 0 {
                        steps.set(steps.get() + 1);
                        std::future::pending::<()>().await;
                    }
                    steps.set(steps.get() + 1);
                    yield_now().await;
                    steps.set(steps.get() + 1);
                };
                spawn_local(async move { turnstile.pass(work).await });
            }
            let mut before = 0;
            while before < 100 + 2 * 200 {
                assert!(steps.get() <= before + 1, "{} after {before}", steps.get());
                before = steps.get();
                yield_now().await;
            }
        });
    }
}
