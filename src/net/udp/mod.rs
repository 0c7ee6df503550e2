//! Datagrams between a shard and the kernel: sockets, batches in and out, by plain system calls or by a ring.

pub mod addresses;
pub mod backend;
pub(in crate::net) mod bound;
mod incoming;
pub mod io;
mod joined;
mod message;
mod mmsg;
pub mod plain;
pub mod poll;
mod quiet;
pub mod ring;
pub mod socket;
pub mod stamped;
mod tally;
mod transmitter;
