//! Bytes to views and back, without state: a view is checked once, and after that no accessor can fail.

pub mod codec;
pub mod extension;
