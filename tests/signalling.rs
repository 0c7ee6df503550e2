//! The signalling hub, driven by scripted clients: no sockets, no shards, virtual time.

#[path = "signalling/bounds.rs"]
mod bounds;
#[expect(dead_code, reason = "what benches need of it")]
mod cpu;
#[path = "signalling/five_messages.rs"]
mod five_messages;
#[path = "signalling/front_door.rs"]
mod front_door;
#[path = "signalling/grants.rs"]
mod grants;
#[path = "signalling/hostile.rs"]
mod hostile;
#[path = "signalling/isolation.rs"]
mod isolation;
#[path = "signalling/life.rs"]
mod life;
#[path = "signalling/lifecycle.rs"]
mod lifecycle;
#[path = "signalling/lobby.rs"]
mod lobby;
#[path = "signalling/lobby_tokens.rs"]
mod lobby_tokens;
#[path = "signalling/mass_break.rs"]
mod mass_break;
#[path = "signalling/messages.rs"]
mod messages;
#[path = "signalling/metered.rs"]
mod metered;
#[path = "signalling/moderation.rs"]
mod moderation;
#[path = "signalling/mutes.rs"]
mod mutes;
#[path = "signalling/notifications.rs"]
mod notifications;
#[path = "signalling/protocol_doc.rs"]
mod protocol_doc;
#[path = "signalling/resumed.rs"]
mod resumed;
#[path = "signalling/socketless.rs"]
mod socketless;
#[path = "signalling/speech.rs"]
mod speech;
#[path = "signalling/taken_up.rs"]
mod taken_up;
#[path = "signalling/tokens.rs"]
mod tokens;
#[path = "signalling/world.rs"]
mod world;
