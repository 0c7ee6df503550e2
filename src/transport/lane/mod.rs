//! One end of a lane between two shards of different nodes, from its keys on: many records a datagram, numbers, feedback,
//! what is lost sent again, orders in their sequence, parts, the other end's clock, the size of datagrams. Owned by
//! `shard::lanes`, which knows what records mean and makes the handshake; knows no producer and no node.

mod arrivals;
mod item;
#[expect(clippy::module_inception, reason = "the struct the folder is named after")]
mod lane;
mod offset;
mod orders;
mod packing;
mod parts;
mod sent;
mod size;

pub use item::{LaneItem, LanePacket};
pub use lane::{Lane, LaneCounts, LaneHeard};
pub use orders::Supersedes;
