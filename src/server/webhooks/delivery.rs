//! The tasks that bring one hook its events: a few at a time, each of another channel.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep_until;

use super::client::{HookClient, Signed, Target};
use super::counts::{GivenUp, HookCounts};
use super::queue::{HookQueue, Parcel, Patience};
use super::secret::Secrets;
use crate::base::limits::{
    WEBHOOK_AGE_MAX, WEBHOOK_ANSWER_WAIT, WEBHOOK_ATTEMPTS_MAX, WEBHOOK_FIRST_WAIT, WEBHOOK_LAST_WAIT,
};
use crate::server::clock;
use crate::server::seldom::Seldom;

/// When an attempt fails, when it is repeated, and when the event is given up; tests shorten it.
#[derive(Clone, Copy, Debug)]
pub struct WebhookTiming {
    pub answer_wait: Duration,
    pub attempts: u32,
    pub age: Duration,
    pub first_wait: Duration,
    pub last_wait: Duration,
}

impl Default for WebhookTiming {
    fn default() -> WebhookTiming {
        WebhookTiming {
            answer_wait: WEBHOOK_ANSWER_WAIT,
            attempts: WEBHOOK_ATTEMPTS_MAX,
            age: WEBHOOK_AGE_MAX,
            first_wait: WEBHOOK_FIRST_WAIT,
            last_wait: WEBHOOK_LAST_WAIT,
        }
    }
}

pub(super) struct Hook {
    client: HookClient,
    timing: WebhookTiming,
    queue: RefCell<HookQueue>,
    filled: Notify,
    secrets: Rc<RefCell<Secrets>>,
    counts: Arc<HookCounts>,
    failures: Seldom,
    losses: Seldom,
}

impl Hook {
    pub(super) fn new(
        target: Target,
        timing: WebhookTiming,
        secrets: Rc<RefCell<Secrets>>,
        counts: Arc<HookCounts>,
    ) -> Hook {
        let WebhookTiming { attempts, age, first_wait, last_wait, .. } = timing;
        let queue = HookQueue::new(Patience { attempts, age, first_wait, last_wait });
        let (failures, losses) = (Seldom::default(), Seldom::default());
        let client = HookClient::new(target);
        Hook { client, timing, queue: RefCell::new(queue), filled: Notify::new(), secrets, counts, failures, losses }
    }

    pub(super) fn push(&self, parcel: Parcel) {
        let pushed = self.queue.borrow_mut().push(clock::now(), parcel);
        match pushed {
            Ok(others) => {
                self.counts.queued(1, others);
                (0..others).for_each(|_| self.lost(GivenUp::QueueFull));
                self.filled.notify_one();
            }
            Err(why) => self.lost(why),
        }
    }

    /// Events that wait, or are on their way.
    pub(super) fn waiting(&self) -> usize {
        self.queue.borrow().len()
    }

    /// Brings events, one at a time, for ever.
    pub(super) async fn run(&self) {
        loop {
            let next = self.queue.borrow_mut().next(clock::now(), |_| {
                self.counts.queued(0, 1);
                self.lost(GivenUp::Age);
            });
            match next {
                Some(parcel) => self.attempt(&parcel).await,
                None => self.wait().await,
            }
        }
    }

    async fn wait(&self) {
        let deadline = self.queue.borrow().deadline();
        let due = async {
            match deadline {
                Some(deadline) => sleep_until(clock::at(deadline)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.filled.notified() => {}
            () = due => {}
        }
    }

    async fn attempt(&self, parcel: &Parcel) {
        let timestamp = clock::unix_seconds();
        let signature = self.secrets.borrow().sign(&parcel.id, timestamp, &parcel.text);
        let signed = Signed { id: &parcel.id, timestamp, signature };
        let outcome = self.client.deliver(signed, &parcel.text, self.timing.answer_wait).await;
        let now = clock::now();
        match outcome {
            Ok(()) => {
                self.counts.delivered();
                self.counts.queued(0, 1);
                self.queue.borrow_mut().done(now, &parcel.channel);
            }
            Err(failure) => {
                self.counts.failed(failure);
                if let Some(left_out) = self.failures.now(now) {
                    let (hook, why) = (self.client.target().shown(), failure.to_string());
                    tracing::warn!(hook, why, left_out, "an event did not reach a webhook, and is tried again");
                }
                let given_up = self.queue.borrow_mut().failed(now, &parcel.channel, rand::random());
                if let Some(why) = given_up {
                    self.counts.queued(0, 1);
                    self.lost(why);
                }
            }
        }
        // The channel's next may go with another task.
        self.filled.notify_one();
    }

    pub(super) fn lost(&self, why: GivenUp) {
        self.counts.given_up(why);
        if let Some(left_out) = self.losses.now(clock::now()) {
            let (hook, why) = (self.client.target().shown(), why.name());
            tracing::warn!(hook, why, left_out, "an event was given up: weirgate_webhook_events_total counts them");
        }
    }
}
