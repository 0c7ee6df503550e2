//! The question to all shards for their metrics: at most one is open, and its answers serve every reader for a moment.
//! [`super::metrics`] and [`super::http`] ask; [`super::control`] brings the answers.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Mutex, Notify};
use tokio::time::timeout;

use super::clock;
use super::tower::Tower;
use crate::base::id::ShardId;
use crate::base::limits::SHARD_ANSWER_WAIT;
use crate::base::time::Instant;
use crate::shard::command::{Command, Metrics, RequestId};

/// The first number of these questions; the hub counts its own from zero and never gets this far.
const REQUESTS_FROM: u64 = 1 << 63;
/// The age up to which the shards' answers are used again, so that many readers cost the shards no more than one.
const FRESH: Duration = Duration::from_millis(250);

/// The answer of each shard; None: nothing in time.
pub(super) type Answers = Vec<(ShardId, Option<Metrics>)>;

/// The open question to the shards, and the last answers.
pub(super) struct Scrapes {
    shards: Vec<ShardId>,
    last: Mutex<Option<(Instant, Rc<Answers>)>>,
    asked: Cell<u64>,
    answers: RefCell<BTreeMap<ShardId, Metrics>>,
    complete: Notify,
}

impl Scrapes {
    pub(super) fn new(shards: Vec<ShardId>) -> Scrapes {
        Scrapes {
            shards,
            last: Mutex::new(None),
            asked: Cell::new(REQUESTS_FROM),
            answers: RefCell::default(),
            complete: Notify::new(),
        }
    }

    pub(super) fn shards(&self) -> &[ShardId] {
        &self.shards
    }

    pub(super) fn answered(&self, shard: ShardId, request: RequestId, metrics: Metrics) {
        if request.0 != self.asked.get() || !self.shards.contains(&shard) {
            return;
        }
        let mut answers = self.answers.borrow_mut();
        answers.insert(shard, metrics);
        if answers.len() == self.shards.len() {
            self.complete.notify_one();
        }
    }

    /// Only one question is open at a time: a later reader waits for its answers.
    pub(super) async fn ask(&self, tower: &dyn Tower) -> Rc<Answers> {
        let mut last = self.last.lock().await;
        if let Some((at, answers)) = &*last
            && clock::now().since(*at) < FRESH
        {
            return answers.clone();
        }
        self.asked.set(self.asked.get() + 1);
        self.answers.borrow_mut().clear();
        for shard in &self.shards {
            tower.send(*shard, Command::GetMetrics { request: RequestId(self.asked.get()) });
        }
        let all_here = async {
            while self.answers.borrow().len() < self.shards.len() {
                self.complete.notified().await;
            }
        };
        // A shard that has not answered by now counts as dead, and has no answer below.
        let _ = timeout(SHARD_ANSWER_WAIT, all_here).await;
        let mut answers = std::mem::take(&mut *self.answers.borrow_mut());
        let answers: Rc<Answers> = Rc::new(self.shards.iter().map(|shard| (*shard, answers.remove(shard))).collect());
        *last = Some((clock::now(), answers.clone()));
        answers
    }
    /// The shards that do not answer.
    pub(super) async fn dead(&self, tower: &dyn Tower) -> Vec<ShardId> {
        let answers = self.ask(tower).await;
        answers.iter().filter(|(_, metrics)| metrics.is_none()).map(|(shard, _)| *shard).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers what it was asked.
    #[derive(Default)]
    struct Asked(std::sync::Mutex<Vec<(ShardId, RequestId)>>);

    impl Tower for Asked {
        fn send(&self, shard: ShardId, command: Command) {
            let Command::GetMetrics { request } = command else { panic!("only metrics are asked for") };
            self.0.lock().unwrap().push((shard, request));
        }

        fn load_permille(&self, _: ShardId) -> u32 {
            0
        }
    }

    #[test]
    fn readers_share_one_question_and_old_answers_count_for_nothing() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (scrapes, tower) = (Scrapes::new(vec![ShardId(0), ShardId(1)]), Asked::default());
        let answer = async {
            tokio::task::yield_now().await;
            let asked = tower.0.lock().unwrap().clone();
            for (shard, request) in &asked {
                scrapes.answered(*shard, RequestId(request.0 - 1), Metrics::default());
                scrapes.answered(ShardId(7), *request, Metrics::default());
                if *shard == ShardId(1) {
                    scrapes.answered(*shard, *request, Metrics::default());
                }
            }
        };
        let (dead, again, ()) =
            runtime.block_on(async { tokio::join!(scrapes.dead(&tower), scrapes.dead(&tower), answer) });
        assert_eq!((dead, again), (vec![ShardId(0)], vec![ShardId(0)]), "one shard has said nothing");
        assert_eq!(tower.0.lock().unwrap().len(), 2, "the second reader asked nobody");
    }
}
