//! The way to the shards. `main` puts the media tower behind it; tests a stand-in.

use crate::base::id::ShardId;
use crate::shard::command::Command;

pub trait Tower: Send {
    /// Must not block. A command to a shard that is gone is lost: its events say so.
    fn send(&self, shard: ShardId, command: Command);

    /// The share of its core that the shard used lately, in thousandths. A cheap look, not a question to the shard.
    fn load_permille(&self, shard: ShardId) -> u32;
}
