//! The control edge: one thread with its own runtime that speaks HTTP and WebSocket, owns the [`crate::signal::Hub`]
//! and talks with the shards through [`Tower`]. It never touches a media packet and decides nothing about channels.
//! `main` starts and stops it.

mod admin;
mod answer;
mod auth;
mod browsers;
mod certificates;
mod clock;
mod connections;
pub mod console;
mod control;
mod counters;
mod duty;
mod end;
mod entry;
mod event_body;
mod event_log;
mod first_message;
mod frames;
mod headers;
mod heard;
mod http;
mod inquiries;
mod metrics;
mod outbox;
mod own_words;
mod paced;
mod pages;
mod posting;
mod query;
mod reception;
mod refusal;
mod runtime;
mod scrapes;
mod seldom;
mod self_signed;
mod sign_of_life;
mod sockets;
mod streaming;
mod subprotocol;
mod tasks;
mod timing;
mod tls;
mod tower;
mod turnstile;
mod watched;
mod webhooks;
mod websocket;

pub use auth::AuthKeys;
pub use certificates::{CertificateFiles, Certificates, TlsFault};
pub use runtime::{Server, Settings, start};
pub use timing::Timing;
pub use tower::Tower;
pub use watched::Reload;
pub use webhooks::{WebhookFault, WebhookSettings, WebhookTiming, Webhooks};
