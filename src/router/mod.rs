//! From one producer to its consumers: the objects (`producer`, `source`, `consumer`) and the hot loop (`forward`).
//! Called by `shard`, which owns the arenas; knows nothing of datagrams or commands.

mod admission;
pub mod consumer;
pub mod forward;
pub mod keys;
pub mod layered;
pub mod packet;
pub mod pass;
pub mod producer;
pub mod replay;
pub mod source;
pub mod spec;
pub mod stream;
pub mod verdict;
