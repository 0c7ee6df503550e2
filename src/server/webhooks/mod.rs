//! Webhooks: what happens in channels, told to the operator's own servers, signed, and in order for each channel. A
//! thread of its own with its own runtime does all of it. Calls and the signalling thread never wait for it: what does
//! not fit its bounds is given up, counted and logged.

mod client;
mod counts;
mod delivery;
mod queue;
mod secret;
mod thread;

pub(super) use counts::HookCounts;
pub use delivery::WebhookTiming;
pub use secret::WebhookFault;
pub(super) use thread::{HookMouth, Hooks};
pub use thread::{WebhookSettings, Webhooks};
