//! The lanes of one shard to shards of other nodes: who they are, the handshake, what is imported here and exported from
//! here, and what their orders and records mean. A lane itself is `transport::lane`.

mod handshake;
mod holder;
mod landing;
#[expect(clippy::module_inception, reason = "the struct the folder is named after")]
mod lanes;
mod nodes;
mod slot;
mod turn;

pub(super) use handshake::lane_of;
pub(super) use lanes::{LaneTotals, Lanes, Work};
