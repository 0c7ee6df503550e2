//! Weirgate, a selective forwarding unit (SFU) for WebRTC.
//!
//! Two towers on one ground. The media tower (`net` → `shard` → `router` → `transport` → `media` → `secure` → `wire`)
//! moves packets, one shard per core; the control tower (`server` → `signal`) speaks JSON with clients. They meet in
//! `main`, and [`shard::command`] is the only door between them. Everything but `net`, `server`, `client`, `load`,
//! `config` and `main` is sans-IO: bytes, commands and `now` go in; datagrams, events and the next deadline come out.
//! `tests/tidy/main.rs` enforces both rules; `docs/ARCHITECTURE.md` follows a packet and a message through the code.

pub mod base;
pub mod media;
pub mod router;
pub mod secure;
pub mod shard;
pub mod signal;
pub mod sim;
pub mod token;
pub mod transport;
pub mod wire;

#[cfg(feature = "load")]
pub mod client;
#[cfg(feature = "edge")]
pub mod config;
#[cfg(feature = "load")]
pub mod load;
#[cfg(feature = "edge")]
pub mod net;
#[cfg(feature = "edge")]
pub mod server;
