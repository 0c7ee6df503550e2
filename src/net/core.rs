//! The shard as the core of its thread.

use super::shard_thread::Core;
use crate::base::buffer::{Batch, Path, Transmit};
use crate::base::id::ShardId;
use crate::base::time::{Instant, Now};
use crate::shard::command::{Command, Event};
use crate::shard::{PathChange, Shard};

impl Core for Shard {
    fn handle_batch(&mut self, now: Now, batch: &mut Batch) -> usize {
        Shard::handle_batch(self, now, batch)
    }

    fn handle_command(&mut self, now: Now, command: Command) {
        Shard::handle_command(self, now, command);
    }

    fn handle_mesh(&mut self, now: Now, from: ShardId, record: &[u8]) {
        Shard::handle_mesh(self, now, from, record);
    }

    fn handle_timeout(&mut self, now: Now) {
        Shard::handle_timeout(self, now);
    }

    fn flush<T: Transmit>(&mut self, now: Now, out: &mut T) {
        Shard::flush(self, now, out);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        Shard::poll_timeout(self)
    }

    fn poll_event(&mut self) -> Option<Event> {
        Shard::poll_event(self)
    }

    fn poll_mesh(&mut self, sink: &mut dyn FnMut(ShardId, &[u8]) -> bool) {
        Shard::poll_mesh(self, sink);
    }

    fn poll_path(&mut self) -> Option<PathChange> {
        Shard::poll_path(self)
    }

    fn path_is_held(&mut self, path: Path, by: ShardId) {
        Shard::path_is_held(self, path, by);
    }

    fn fault(&mut self, now: Now) {
        Shard::fault(self, now);
    }

    fn is_stopped(&self) -> bool {
        Shard::is_stopped(self)
    }
}
