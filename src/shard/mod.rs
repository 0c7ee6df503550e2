//! All that one core owns, and the door to the control tower.

pub mod command;
