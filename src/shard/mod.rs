//! All state of one core, and the door to the control tower. `shard` orders the work, with `dispatch` and `records` on
//! top of it; every other file is a machine or a mechanism that calls only those below it (the rows are in
//! ARCHITECTURE.md).
//! Sans-IO: `net` (or the simulation) calls it with bytes, commands and `now`.

mod ahead;
mod bandwidth;
mod binding;
mod budget;
mod closing;
pub mod command;
mod commons;
mod connecting;
mod creating;
mod deadlines;
mod demux;
mod dispatch;
mod drops;
mod early;
mod effort;
mod elements;
#[cfg(test)]
#[path = "fixture_tests.rs"]
mod fixture;
mod flow;
mod handshake_quota;
mod hearing;
mod incoming;
mod keyframes;
mod lane_out;
mod lanes;
mod layer_changes;
mod layers;
mod ledger;
mod limbo;
mod outlet;
mod overload;
mod parameter_sets;
mod paths;
mod plain_rtp;
mod port;
mod received;
mod records;
mod registry;
pub mod relay;
mod relaying;
mod reports;
mod resending;
mod rivals;
mod rtcp_in;
mod rtcp_out;
mod settling;
#[expect(clippy::module_inception, reason = "the struct the folder is named after")]
mod shard;
mod silence;
mod skip;
mod stats;
mod timers;
mod transport_life;
mod wiring;

pub use drops::{Drops, ShardDrop};
pub use ledger::PathChange;
pub use shard::{Shard, ShardSettings};
