//! A node among others: who lives, what they say of themselves, and how messages between them are sealed. [`ClusterNode`]
//! is the whole of it; the hub has one where the server runs with `--cluster`, and none elsewhere.

mod bus_counts;
mod bus_life;
mod channel_hash;
mod channel_messages;
mod heard;
mod keys;
mod lane_view;
mod messages;
mod node;
mod node_lanes;
mod nodes;
mod numbers;
mod own_state;
mod pages;
mod retry;
mod seal;
mod span;
mod span_news;
mod spans;
mod speaks;
mod subjects;
mod told;
mod view;

pub use bus_counts::BusCounts;
pub use channel_messages::{ChannelMessage, HeldList};
pub use keys::{ClusterKeys, KeysFault};
pub use messages::{BusMessage, NodeHello, NodeLoad, NodeState, Unread, read, write};
pub use node::{BusEvent, BusOutput, ClusterNode, ClusterSettings, NodeProfile};
pub use node_lanes::NodeLanes;
pub use nodes::{LaneChange, LaneNews, Liveness, NodeNews};
pub use own_state::SocketsInUse;
pub use seal::{BusSeal, OpenedMessage, Unopened};
pub(in crate::signal) use span_news::SpanNews;
pub use spans::SpanCounts;
pub(in crate::signal) use spans::Spans;
pub use speaks::{Apart, Speaks};
pub use subjects::is_cluster_name;
pub(in crate::signal) use told::{ChannelSettings, GhostEntry, Parting, ProducerEntry, RosterOp};
