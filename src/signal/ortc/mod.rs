//! ORTC negotiation: a publisher's parameters, mapped to the router's, mapped to those of a receiver.
//!
//! Pure functions over JSON values; the rules are those of mediasoup, so that every mediasoup-client works, and where
//! they differ `tests/ortc_differential.rs` names the difference. Nothing here knows channels, peers or ids: a
//! client's turn calls [`plan_producer`] for `produce` and [`plan_consumer`] for `consume`, and sends the plans' specs to
//! a shard.
//!
//! A publisher's packets keep the browser's own payload types and extension ids; a consumer's are the router's, because
//! mediasoup-client looks its codec up by them.

mod capabilities;
mod codec_match;
mod consumer;
mod error;
mod h264;
mod kind;
mod parse;
mod producer;
mod read;
mod types;

pub use capabilities::{RouterCodec, router_capabilities};
pub use consumer::{ConsumerIdentity, ConsumerPlan, can_consume, plan_consumer};
pub use error::OrtcError;
pub(super) use kind::{kind_name, kind_named};
pub use parse::{ConsumerCapabilities, parse_capabilities};
pub use producer::{ProducerPlan, ProducerType, plan_producer};
pub use types::*;
