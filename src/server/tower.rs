//! The way to the shards. `main` puts the media tower behind it; tests a stand-in.

use crate::base::id::ShardId;
use crate::shard::command::Command;

pub trait Tower: Send {
    /// Sends a command, without blocking. One to a shard that is gone is lost: its events say so.
    fn send(&self, shard: ShardId, command: Command);

    /// The share of its core that the shard used lately, in thousandths: a cheap read, not a question to the shard.
    fn load_permille(&self, shard: ShardId) -> u32;
}
