//! All state of one core, and the door to the control tower. `shard` holds the arenas and the order of work; each other
//! file is one kind of input or output. Sans-IO: `net` (or the simulation) calls it with bytes, commands and `now`.

mod bandwidth;
mod binding;
mod budget;
pub mod command;
mod commons;
mod control;
mod demux;
mod drops;
mod early;
mod effort;
mod elements;
mod handshake_quota;
mod hearing;
mod incoming;
mod layers;
mod ledger;
mod life;
mod lifecycle;
mod limbo;
mod mesh;
mod news;
mod outlet;
mod overload;
mod parameter_sets;
mod paths;
mod port;
mod registry;
pub mod relay;
mod reports;
mod rivals;
mod rtcp_in;
mod settling;
#[expect(clippy::module_inception, reason = "the struct the folder is named after")]
mod shard;
mod skip;
mod stats;
mod timers;
mod wiring;

pub use drops::{Drop, Drops};
pub use ledger::PathChange;
pub use shard::{Shard, ShardSettings};
