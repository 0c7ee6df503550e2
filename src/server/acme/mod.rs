//! A certificate of a public authority, obtained and renewed by ACME (RFC 8555), on a thread of its own. Names are proved
//! by TLS-ALPN-01 (RFC 8737), on the public listener itself.

mod challenges;
mod fault;
mod https;
mod keeper;
mod kept;
mod order;
mod schedule;
mod settings;

pub(super) use challenges::PROTOCOL;
pub(super) use fault::{AcmeFault, AcmeWhy};
pub(super) use keeper::{Keeper, Orders};
pub use settings::AcmeSettings;
