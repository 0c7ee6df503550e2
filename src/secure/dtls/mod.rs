//! DTLS sessions as sans-IO machines: datagrams and the time go in; datagrams, keys, application data and the end come out.
//!
//! The room, from the ground up: `session` (what a session is to its owner), `record` (the frame of records), `message` and
//! `reassembly` (handshake messages), `gate` (what a library gets to see, and when), `library` (what a library has to be),
//! `gcm_records`, `memory_socket` and `webrtc_engine` (the first library), `ring_provider` and `dimpl_engine` (the second),
//! `settled` (a session after its handshake), `opening` (one before), `engine`. A file names those before it, none behind.
//!
//! One engine per thread that does handshakes; `transport` opens a session when a path has passed ICE, compares the
//! certificate in [`Keying`] with the announced fingerprints, and only then uses the keys.

mod dimpl_engine;
mod engine;
pub mod gate;
mod gcm_records;
mod library;
mod memory_socket;
mod message;
mod opening;
mod reassembly;
mod record;
mod ring_provider;
mod session;
mod settled;
mod webrtc_engine;

pub use self::engine::{DtlsEngine, DtlsSettings};
pub use self::opening::DtlsSession;
pub use self::record::{HANDSHAKE_FAILURE, is_client_hello};
pub use self::session::{ClosedBy, Keying, SecureEngine, SecureOutput, SecureSession, SessionTag, Side};
pub use self::settled::Settled;
