//! The tasks of the signalling thread, counted by kind, so that an end can wait for all of them.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;

#[derive(Clone, Copy)]
pub(super) enum Task {
    Http,
    /// HTTP on the admin listener.
    Admin,
    Socket,
    /// A WebSocket that has no peer yet, or gets none.
    Entry,
}

#[derive(Default)]
pub(super) struct Tasks {
    counts: [Cell<usize>; 4],
    ended: Notify,
}

impl Tasks {
    /// Counts a task for as long as the returned guard lives.
    pub(super) fn begin(self: &Rc<Self>, task: Task) -> Running {
        let count = &self.counts[task as usize];
        count.set(count.get() + 1);
        Running { tasks: self.clone(), task }
    }

    /// The number of tasks of a kind.
    pub(super) fn of(&self, task: Task) -> usize {
        self.counts[task as usize].get()
    }

    /// Waits until none is left.
    pub(super) async fn none_left(&self) {
        while self.counts.iter().any(|count| count.get() > 0) {
            self.ended.notified().await;
        }
    }
}

pub(super) struct Running {
    tasks: Rc<Tasks>,
    task: Task,
}

impl Running {
    /// Counts as another kind from now on.
    pub(super) fn becomes(&mut self, task: Task) {
        *self = self.tasks.begin(task);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let count = &self.tasks.counts[self.task as usize];
        count.set(count.get() - 1);
        self.tasks.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_waits_for_tasks_of_every_kind() {
        let tasks = Rc::new(Tasks::default());
        let mut running = vec![tasks.begin(Task::Http), tasks.begin(Task::Socket), tasks.begin(Task::Socket)];
        assert_eq!([Task::Http, Task::Admin, Task::Socket].map(|task| tasks.of(task)), [1, 0, 2]);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let one_by_one = async {
            let mut left = Vec::new();
            while let Some(last) = running.pop() {
                tokio::task::yield_now().await;
                drop(last);
                left.push(running.len());
            }
            left
        };
        let all = async {
            tokio::select! {
                biased;
                () = tasks.none_left() => panic!("three are running"),
                left = one_by_one => left,
            }
        };
        assert_eq!(runtime.block_on(all), [2, 1, 0]);
        runtime.block_on(tasks.none_left());
    }
}
