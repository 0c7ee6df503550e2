//! The settings of the media edge, and the arguments for each core.

use std::net::SocketAddr;

use socket2::Socket;
use tokio::sync::mpsc::UnboundedSender;

use crate::base::buffer::LocalIndex;
use crate::base::id::{ShardId, ShardLabel};
use crate::base::time::Duration;
use crate::net::doorbell::Doorbell;
use crate::net::steering::{SteeringInUse, SteeringMode};
use crate::net::udp::io::IoMode;
use crate::shard::command::Event;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShardSetup {
    pub id: ShardId,
    pub label: ShardLabel,
    /// The CPU it is pinned to.
    pub core: usize,
}

pub struct NetSettings {
    pub shards: Vec<ShardSetup>,
    /// Bound by every shard, in the order of `LocalIndex`; wildcards are expanded already ([`expand`](crate::net::udp::addresses::expand)).
    pub addresses: Vec<SocketAddr>,
    /// Sockets to use in place of those that would be bound: where there are any, `addresses` means nothing.
    pub inherited: Vec<Socket>,
    /// Where the first shard's lanes to other nodes arrive; each further shard has the next port, or any with port 0.
    /// None: this node is in no cluster.
    pub lanes: Option<SocketAddr>,
    pub steering: SteeringMode,
    /// The longest that a packet may wait for others while its shard is busy; zero: never.
    pub coalesce_max: Duration,
    pub io: IoMode,
    pub events: UnboundedSender<(ShardId, Event)>,
}

/// The arguments for building a shard's core.
#[derive(Clone, Debug)]
pub struct Birth {
    pub setup: ShardSetup,
    /// All shards, this one among them.
    pub labels: Vec<(ShardId, ShardLabel)>,
    pub steering: SteeringInUse,
    /// The local end of its lanes, where there are any.
    pub lane: Option<LocalIndex>,
    /// Wakes this shard's thread: for threads that work for it.
    pub bell: Doorbell,
    /// 0 at the start, one more at each restart of this shard: a seed must not be used twice.
    pub generation: u32,
}
