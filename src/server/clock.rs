//! The control edge's one reader of the clock.

use std::sync::LazyLock;
use std::time::SystemTime;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

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

/// The date and time, as RFC 3339 writes them.
pub(super) fn timestamp() -> String {
    // No year that a clock of ours shows is without a form.
    OffsetDateTime::from(wall()).format(&Rfc3339).unwrap_or_default()
}

pub(super) fn unix_seconds() -> u64 {
    wall().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The date, for certificates.
#[expect(clippy::disallowed_methods, reason = "this edge's reader of the clock")]
pub(super) fn wall() -> SystemTime {
    SystemTime::now()
}
