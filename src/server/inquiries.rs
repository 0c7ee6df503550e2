//! Questions of the admin API to shards, for statistics: bounded in number and in time. [`super::admin`] asks;
//! [`super::control`] brings the answers.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::tower::Tower;
use crate::base::limits::{ADMIN_QUESTIONS_MAX, SHARD_ANSWER_WAIT};
use crate::shard::command::{Command, RequestId, Stats};
use crate::signal::admin::{Problem, StatsAsk};

/// The first number of these questions; those for metrics begin at half of it, and get nowhere near.
const REQUESTS_FROM: u64 = 3 << 62;

#[derive(Default)]
pub(super) struct Inquiries {
    asked: Cell<u64>,
    open: RefCell<BTreeMap<u64, oneshot::Sender<Option<Stats>>>>,
}

/// Takes questions back that nobody waits for any more.
struct Asked<'a> {
    of: &'a Inquiries,
    requests: Vec<u64>,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let mut open = self.of.open.borrow_mut();
        self.requests.iter().for_each(|request| _ = open.remove(request));
    }
}

impl Inquiries {
    /// False: the question was not asked here.
    pub(super) fn answered(&self, request: RequestId, stats: &mut Option<Stats>) -> bool {
        if request.0 < REQUESTS_FROM {
            return false;
        }
        if let Some(asker) = self.open.borrow_mut().remove(&request.0) {
            // One that has gone needs no answer.
            let _ = asker.send(stats.take());
        }
        true
    }

    /// The answers in the order of the questions. None: there is no such object any more.
    pub(super) async fn ask(&self, tower: &dyn Tower, asks: &[StatsAsk]) -> Result<Vec<Option<Stats>>, Problem> {
        if self.open.borrow().len() + asks.len() > ADMIN_QUESTIONS_MAX {
            return Err(Problem::new(503, "busy", "too many questions wait for the shards: try again later"));
        }
        let mut asked = Asked { of: self, requests: Vec::new() };
        let mut answers = Vec::new();
        for StatsAsk { shard, of, .. } in asks {
            let request = REQUESTS_FROM + self.asked.get();
            self.asked.set(self.asked.get() + 1);
            let (asker, answer) = oneshot::channel();
            self.open.borrow_mut().insert(request, asker);
            asked.requests.push(request);
            answers.push(answer);
            tower.send(*shard, Command::GetStats { request: RequestId(request), of: *of });
        }
        let all = async {
            let mut all = Vec::new();
            for answer in answers {
                all.push(answer.await.ok().flatten());
            }
            all
        };
        let late = || Problem::new(503, "unavailable", "a shard did not answer in time: try again later");
        timeout(SHARD_ANSWER_WAIT, all).await.map_err(|_| late())
    }
}
