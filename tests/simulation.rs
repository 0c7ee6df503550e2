//! The whole SFU on virtual time: shards, signalling, fake browsers with ICE, key exchange and SRTP, links that lose,
//! delay and mix. One theme a file.

#[path = "simulation/calls.rs"]
mod calls;
#[path = "simulation/support.rs"]
mod support;
