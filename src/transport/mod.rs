//! One client's way in and out.

pub mod ice_lite;
pub mod stun;
