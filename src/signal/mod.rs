//! Signalling without a socket: JSON text in, JSON text and commands for shards out; shards' events come in and leave
//! as notifications. [`Hub`] is the whole of it and the only way in.

pub mod admin;
mod auth;
mod backlog;
mod channel;
mod closing;
mod desk;
mod entrance;
mod events;
mod fields;
#[cfg(test)]
#[path = "fixture_tests.rs"]
pub(crate) mod fixture;
mod get_stats;
mod grants;
mod hub;
mod ids;
mod journal;
mod last_n;
mod listing;
mod mailbox;
mod members;
mod message;
mod meter;
mod news;
mod origin;
pub mod ortc;
mod owners;
mod peer;
mod peer_life;
mod peer_log;
mod permission;
mod placement;
mod post;
mod quota;
mod request;
mod rounds;
mod salvage;
mod session;
mod speech;
mod text;
mod turn;
mod voice;

pub use auth::{NameFault, OpenError};
pub use backlog::{Backlog, Growth};
pub use desk::{Candidate, HubSettings};
pub use entrance::{Entrance, TokenId};
pub use grants::{Grants, Publish};
pub use hub::{Counts, Hub};
pub use journal::{Interest, JournalEntry, Occurrence};
pub use last_n::LastN;
pub use message::Code;
pub use origin::{Origin, OriginFault, Origins};
pub use peer_log::{LogSettings, TARGET as PEER_LOG};
pub use placement::ChannelSpread;
pub use post::Output;
pub use quota::Quotas;
pub use session::SessionId;
pub use text::{About, Step, Text};
