//! Two shards against their reference model: see `tests/reference/shard.rs`.
#![no_main]

#[path = "../../tests/reference/choices.rs"]
mod choices;
#[path = "../../tests/reference/shard.rs"]
mod shard;
#[path = "../../tests/shard_rig/mod.rs"]
#[expect(dead_code, reason = "tests use the rest of the rig")]
mod shard_rig;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    shard::run(input);
});
