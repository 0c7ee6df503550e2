//! The sans-IO machine that a thread drives, and the shard as such a machine.

use crate::base::buffer::{Batch, Path, Transmit};
use crate::base::id::ShardId;
use crate::base::time::{Duration, Instant, Now};
use crate::shard::command::{Command, Event};
use crate::shard::{PathChange, Shard};

/// The sans-IO machine that this thread drives: the shard, or a test double.
pub trait Core {
    /// Handles the batch; returns the number of arrivals of media, where datagrams of one sender in a row are one. It
    /// takes each slot when it comes to it, and is called again for those that a panic left.
    fn handle_batch(&mut self, now: Now, batch: &mut Batch) -> usize;
    fn handle_command(&mut self, now: Now, command: Command);
    fn handle_mesh(&mut self, now: Now, from: ShardId, waited: Duration, record: &[u8]);
    /// Called when a deadline is due, and in rounds with media: some work that is due waits for those.
    fn handle_timeout(&mut self, now: Now);
    /// Seals and transmits what is due.
    fn flush<T: Transmit>(&mut self, now: Now, out: &mut T);
    fn poll_timeout(&self) -> Option<Instant>;
    fn poll_event(&mut self) -> Option<Event>;
    /// Gives `sink` every record for other shards; it answers false when the ring is full and the record is lost.
    fn poll_mesh(&mut self, sink: &mut dyn FnMut(ShardId, &[u8]) -> bool);
    fn poll_path(&mut self) -> Option<PathChange>;
    /// The path that it reported as up belongs to another shard, and stays there for now.
    fn path_is_held(&mut self, path: Path, by: ShardId);
    /// The last call panicked: closes the object being handled.
    fn fault(&mut self, now: Now);
    fn is_stopped(&self) -> bool;
}

impl Core for Shard {
    fn handle_batch(&mut self, now: Now, batch: &mut Batch) -> usize {
        Shard::handle_batch(self, now, batch)
    }

    fn handle_command(&mut self, now: Now, command: Command) {
        Shard::handle_command(self, now, command);
    }

    fn handle_mesh(&mut self, now: Now, from: ShardId, waited: Duration, record: &[u8]) {
        Shard::handle_mesh(self, now, from, waited, record);
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
