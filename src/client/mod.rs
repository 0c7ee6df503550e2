//! A light WebRTC client on real sockets, for tests, benches and load: signalling on one thread, one thread for each
//! transport, the rest is the fake browser of `sim`. It knows the server only by its protocol.

pub mod call;
pub mod media_thread;
pub mod parameters;
pub mod signalling;
pub mod witness;

pub use call::{Call, CallError};
