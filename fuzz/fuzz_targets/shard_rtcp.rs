//! RTCP compounds against a shard with state: see `tests/reference/rtcp.rs`.
#![no_main]

#[path = "../../tests/reference/choices.rs"]
mod choices;
#[path = "../../tests/reference/rtcp.rs"]
mod rtcp;
#[path = "../../tests/shard_rig/mod.rs"]
#[expect(dead_code, reason = "tests use the rest of the rig")]
mod shard_rig;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    rtcp::run(input);
});
