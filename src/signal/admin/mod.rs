//! The operator's requests, which the admin API brings as method, path, query and body, and their answers as JSON.
//! Nothing here knows HTTP beyond those words and the numbers of its statuses. `docs/openapi.json` describes all of it.

mod acts;
mod address;
mod operation;
mod overview;
mod problem;

pub use acts::{AdminOutcome, Emptying};
pub use address::{AdminRoute, ROUTES};
pub use operation::{Method, Operation};
pub use overview::StatsAsk;
pub use problem::Problem;
