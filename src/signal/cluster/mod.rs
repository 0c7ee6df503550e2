//! A node among others: who lives, what they say of themselves, and how messages between them are sealed. [`ClusterNode`]
//! is the whole of it; the hub has one where the server runs with `--cluster`, and none elsewhere.

mod bus_counts;
mod bus_life;
mod keys;
mod messages;
mod node;
mod nodes;
mod own_state;
mod seal;
mod speaks;
mod subjects;
mod view;

pub use bus_counts::BusCounts;
pub use keys::{ClusterKeys, KeysFault};
pub use messages::{BusMessage, NodeHello, NodeLoad, NodeState, Unread, read, write};
pub use node::{BusEvent, BusOutput, ClusterNode, ClusterSettings, NodeProfile};
pub use nodes::{LaneChange, LaneNews, Liveness, NodeNews};
pub use own_state::SocketsInUse;
pub use seal::{BusSeal, OpenedMessage, Unopened};
pub use speaks::{Apart, Speaks};
pub use subjects::is_cluster_name;
