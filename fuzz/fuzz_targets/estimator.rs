//! The estimator of a transport: whatever was sent, told and made up before, a path without a bound carries all that is
//! wanted within five seconds.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weirgate::sim::estimator;

fuzz_target!(|bytes: &[u8]| {
    estimator::run(bytes);
});
