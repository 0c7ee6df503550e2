//! One client: its kind, with the ICE agent, the DTLS session and the keys that belong to it, and its send queue. Owned
//! by a shard; knows nothing of producers, consumers or other transports.

pub mod bandwidth;
pub mod edits;
pub mod egress;
pub mod ice_lite;
pub mod kind;
pub mod lane;
pub mod link;
pub mod outgoing;
mod pacing;
mod packet;
pub mod plain_rtp;
pub mod proof;
pub mod queued;
mod runs;
pub mod send_buffer;
pub mod stun;
#[expect(clippy::module_inception, reason = "the struct the folder is named after")]
mod transport;
pub mod web_rtc;

pub use transport::{Traffic, Transport};
