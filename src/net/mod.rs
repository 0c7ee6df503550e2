//! The media edge: one pinned thread per shard between its core and the kernel. Sockets, clocks, system calls and
//! `unsafe` of the media tower end here; what a datagram means is the shard's business. Started and stopped by main.
//!
//! Three rooms, and the files that they share: `udp` (both ways into the kernel), `steering` (the choice of the shard's
//! socket for a datagram), `threads` (a shard's loop and the threads beside it).

pub mod clock;
pub mod doorbell;
mod error;
mod inherited;
mod setup;
mod start;
pub mod steering;
pub mod threads;
mod tower;
pub mod udp;

pub use error::StartError;
pub use inherited::{InheritError, Inherited};
pub use setup::{Birth, NetSettings, ShardSetup};
pub use start::start;
pub use steering::{SteeringInUse, SteeringMode};
pub use tower::{Door, MediaTower};
pub use udp::io::{IoInUse, IoMode};
