//! Criterion's settings for benches that are short, so that all of them together take minutes; --measurement-time makes
//! one longer.

use std::time::Duration;

use criterion::Criterion;

pub fn brief() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}
