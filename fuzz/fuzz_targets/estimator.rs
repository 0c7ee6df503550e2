//! The estimator of a transport: after whatever was sent, acknowledged and invented before, a path without a bound
//! carries all that is wanted within five seconds.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weirgate::sim::estimator;

fuzz_target!(|bytes: &[u8]| {
    estimator::run(bytes);
});
