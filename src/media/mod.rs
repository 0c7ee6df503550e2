//! The mechanisms of media forwarding, one a file: small machines that are fed plain values and `now`, and that know
//! nothing of packets' bytes, of sockets or of each other. `router` and `transport` put them together.

pub mod allocation;
pub mod arrival_log;
pub mod congestion;
pub mod decode_target;
pub mod edit;
pub mod encoding_choice;
pub mod history;
pub mod keyframe;
pub mod legibility;
pub mod loudness;
pub mod nack;
pub mod ordering;
pub mod pacer;
pub mod parameter_sets;
pub mod pictures;
pub mod rate;
pub mod receive;
pub mod remb;
pub mod repairs;
pub mod report;
pub mod rewrite;
pub mod sampled;
pub mod seen_window;
pub mod spatial;
