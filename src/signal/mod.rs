//! Signalling without a socket: JSON text in, JSON text and commands for shards out; shards' events come in and leave
//! as notifications. [`Hub`] is the whole of it and the only way in.

mod auth;
mod channel;
mod closing;
mod desk;
mod events;
mod fields;
mod hub;
mod ids;
mod last_n;
mod life;
mod listing;
mod message;
mod meter;
mod origin;
pub mod ortc;
mod peer;
mod peer_log;
mod placement;
mod quota;
mod request;
mod salvage;
mod session;
mod speech;
mod stats;
mod text;
mod turn;

pub use auth::{NameFault, OpenError};
pub use desk::{Candidate, HubSettings, Output};
pub use hub::{Counts, Hub};
pub use last_n::LastN;
pub use message::Code;
pub use origin::{Origin, OriginFault, Origins};
pub use peer_log::{LogSettings, TARGET as PEER_LOG};
pub use placement::ChannelSpread;
pub use quota::Quotas;
pub use session::SessionId;
pub use text::{About, Step, Text};
