//! The control edge: one thread with its own runtime that speaks HTTP and WebSocket, owns the [`crate::signal::Hub`]
//! and talks with the shards through [`Tower`]. It never touches a media packet and decides nothing about channels.
//! `main` starts and stops it.

mod clock;
mod connections;
pub mod console;
mod control;
mod frames;
mod heard;
mod http;
mod metrics;
mod outbox;
mod own_words;
mod paced;
mod posting;
mod query;
mod runtime;
mod seldom;
mod websocket;

pub use control::Tower;
pub use runtime::{Server, Settings, Timing, start};
