//! What the hub counts, for `/metrics` and for tests.

use crate::base::id::ShardId;

/// The present counts, and the refusals since the start.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    pub channels: usize,
    pub peers: usize,
    /// Those of the peers that wait to be let in.
    pub waiting: usize,
    pub bans: usize,
    pub transports: usize,
    /// Transports that no ICE check has come for.
    pub unchecked_transports: usize,
    pub producers: usize,
    pub consumers: usize,
    /// get-stats that wait for a shard.
    pub stats_pending: usize,
    /// Peers without the socket that they had.
    pub away: usize,
    /// Tries to come back by a token, by what became of them.
    pub resumes: Vec<(&'static str, u64)>,
    pub messages: u64,
    /// Sockets that the hub itself ended.
    pub disconnects: u64,
    /// Every error code, also those that never happened.
    pub errors: Vec<(&'static str, u64)>,
    /// By shard, in microseconds of CPU time a second.
    pub expected_load: Vec<(ShardId, u64)>,
}
