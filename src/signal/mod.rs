//! What a channel is to its clients: JSON in, JSON out, and the commands that shards are sent. No socket, no clock.

pub mod ortc;
