//! The ground both towers stand on: plain values and containers. Names no other folder of this crate.

pub mod buffer;
pub mod histogram;
pub mod id;
pub mod limits;
pub mod node_id;
pub mod prefetch;
pub mod ranking;
pub mod secret;
pub mod seq;
pub mod slab;
pub mod time;
pub mod units;
pub mod window;
