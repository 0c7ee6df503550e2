//! The whole SFU on virtual time: shards, signalling, fake browsers with ICE, key exchange and SRTP, links that lose,
//! delay and mix. One theme a file.

#[path = "simulation/calls.rs"]
mod calls;
#[path = "simulation/chaos.rs"]
mod chaos;
#[path = "simulation/cluster.rs"]
mod cluster;
#[path = "simulation/congestion.rs"]
mod congestion;
#[path = "simulation/encrypted.rs"]
mod encrypted;
#[path = "simulation/hostile.rs"]
mod hostile;
#[path = "simulation/keyframes.rs"]
mod keyframes;
#[path = "simulation/layers.rs"]
mod layers;
#[path = "simulation/meetings.rs"]
mod meetings;
#[path = "simulation/model.rs"]
mod model;
#[path = "simulation/moderation.rs"]
mod moderation;
#[path = "simulation/path_proof.rs"]
mod path_proof;
#[path = "simulation/paths.rs"]
mod paths;
#[path = "simulation/plain_rtp.rs"]
mod plain_rtp;
#[path = "simulation/preferences.rs"]
mod preferences;
#[path = "simulation/preferred.rs"]
mod preferred;
#[path = "simulation/returns.rs"]
mod returns;
#[path = "simulation/shards.rs"]
mod shards;
#[path = "simulation/speech.rs"]
mod speech;
#[path = "simulation/support.rs"]
mod support;
#[path = "simulation/verdicts.rs"]
mod verdicts;
