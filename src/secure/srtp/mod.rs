//! SRTP and SRTCP of one transport: [`Sealer`] for what leaves, [`Opener`] for what comes. Both work in place.
//!
//! The room, from the ground up: `keys` (profiles, master keys, key derivation), `packet` (lengths and bounds),
//! `sha1_lanes`, `cm` (AES_CM_128_HMAC_SHA1_80, RFC 3711), `gcm` (RFC 7714), `cipher` (either, or none), `outgoing` and
//! `received_indices` (which indices were used), `sealer`, `opener`, `context` (both). A file names those before it,
//! none behind.

mod cipher;
mod cm;
mod context;
mod gcm;
mod keys;
mod opener;
mod outgoing;
mod packet;
mod received_indices;
mod sealer;
mod sha1_lanes;

pub use self::cm::DueTags;
pub use self::context::{SrtpContext, SrtpKeys};
pub use self::keys::{MasterKey, SrtpProfile};
pub use self::opener::Opener;
pub use self::outgoing::SealPlace;
pub use self::packet::{OVERHEAD_MAX, Placed, SealError};
pub use self::sealer::Sealer;
