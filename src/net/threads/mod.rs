//! A shard's thread and the threads beside it: the loop, its guard against panics, the rings to other shards, the pool
//! for handshakes, the pulse that watches all of them.

mod executor;
mod guard;
pub mod handshakes;
pub mod mesh;
mod moderation;
pub(in crate::net) mod pulse;
pub mod shard_core;
mod shard_thread;
pub(in crate::net) mod small_pages;
pub(in crate::net) mod spawn;
