//! The media edge: one pinned thread per shard between its core and the kernel. Sockets, clocks, system calls and
//! `unsafe` of the media tower end here; what a datagram means is the shard's business. Started and stopped by main.

//!
//! Three houses, and what they share: `udp` (both ways into the kernel), `steering` (which shard's socket gets a
//! datagram), `threads` (a shard's loop and what runs beside it).

pub mod clock;
pub mod doorbell;
mod error;
mod setup;
mod start;
pub mod steering;
pub mod threads;
mod tower;
pub mod udp;

pub use error::StartError;
pub use setup::{Birth, NetSettings, ShardSetup};
pub use start::start;
pub use steering::{SteeringInUse, SteeringMode};
pub use tower::{Door, MediaTower};
pub use udp::io::{IoInUse, IoMode};
