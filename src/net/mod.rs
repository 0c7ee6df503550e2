//! The media edge: one pinned thread per shard between its core and the kernel. Sockets, clocks, system calls and
//! `unsafe` of the media tower end here; what a datagram means is the shard's business.

pub mod backend;
pub mod clock;
pub mod doorbell;
pub mod mesh;
pub mod mmsg;
pub mod plain;
pub mod poll;
pub mod udp;
