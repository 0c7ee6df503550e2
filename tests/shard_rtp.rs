//! RTP and RTCP as other products send it: the inputs of their users' reports, each with the right outcome, and with
//! the others of its kind. Every packet is written by hand. One theme a file.

#[expect(dead_code, reason = "other tests drive it in other ways")]
mod shard_rig;

#[path = "shard_rtp/agreed.rs"]
mod agreed;
#[path = "shard_rtp/compounds.rs"]
mod compounds;
#[path = "shard_rtp/declared.rs"]
mod declared;
#[path = "shard_rtp/early.rs"]
mod early;
#[path = "shard_rtp/foreign.rs"]
mod foreign;
#[path = "shard_rtp/names.rs"]
mod names;
#[path = "shard_rtp/parameter_sets.rs"]
mod parameter_sets;
#[path = "shard_rtp/remb.rs"]
mod remb;
#[path = "shard_rtp/reports.rs"]
mod reports;
#[path = "shard_rtp/support.rs"]
mod support;
