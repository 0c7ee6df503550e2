//! The control edge's one reader of the clock.

use std::sync::LazyLock;
use std::time::SystemTime;

use crate::base::time::Instant;

static START: LazyLock<tokio::time::Instant> = LazyLock::new(tokio::time::Instant::now);

pub(super) fn now() -> Instant {
    let elapsed = START.elapsed();
    Instant::ZERO + elapsed
}

/// The same moment on the runtime's timers.
pub(super) fn at(instant: Instant) -> tokio::time::Instant {
    *START + instant.since(Instant::ZERO)
}

/// The date, for certificates.
#[expect(clippy::disallowed_methods, reason = "this edge's reader of the clock")]
pub(super) fn wall() -> SystemTime {
    SystemTime::now()
}
