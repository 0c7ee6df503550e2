//! The binary as it is shipped, on several cores and over real sockets, with the Rust client at every end: faults that
//! only show where kernel, threads and shards meet. `tests/client.rs` has the plain call, the simulation has bad
//! networks.
#![cfg(feature = "edge")]

#[path = "e2e/churn.rs"]
mod churn;
#[path = "e2e/crowd.rs"]
mod crowd;
#[path = "e2e/full_rate.rs"]
mod full_rate;
#[path = "e2e/hostile.rs"]
mod hostile;
#[path = "e2e/idle.rs"]
mod idle;
#[path = "e2e/inherited.rs"]
mod inherited;
#[path = "e2e/io.rs"]
mod io;
#[path = "e2e/moves.rs"]
mod moves;
#[path = "e2e/roles.rs"]
mod roles;
#[path = "e2e/shards.rs"]
mod shards;
#[path = "e2e/soak.rs"]
mod soak;
#[path = "e2e/soak_attacks.rs"]
mod soak_attacks;
#[path = "e2e/steering.rs"]
mod steering;
#[path = "e2e/support.rs"]
mod support;
#[path = "e2e/told.rs"]
mod told;
