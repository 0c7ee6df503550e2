//! Reference models of a shard, of the hub and of the parts below them, run on inputs that a fuzzer found worth keeping
//! and on drawn ones; inputs that once failed have a name in `findings`. The same models are the fuzz targets.

#[path = "reference/choices.rs"]
mod choices;
#[path = "reference/findings.rs"]
mod findings;
#[path = "reference/flights.rs"]
mod flights;
#[path = "reference/hub.rs"]
mod hub;
#[path = "reference/rtcp.rs"]
mod rtcp;
#[path = "reference/shard.rs"]
mod shard;
#[expect(dead_code, reason = "what other tests need of it")]
mod shard_rig;

use std::panic::{RefUnwindSafe, catch_unwind};
use std::path::Path;

use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

/// Every kept input of one target.
fn kept(target: &str, run: impl Fn(&[u8]) -> usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut inputs: Vec<_> = std::fs::read_dir(&folder).expect("the target has seeds").flatten().collect();
    inputs.sort_by_key(std::fs::DirEntry::file_name);
    assert!(!inputs.is_empty());
    for input in inputs {
        println!("{target}: {:?}", input.file_name());
        run(&std::fs::read(input.path()).expect("it can be read"));
    }
}

/// Inputs drawn from seeds; WEIRGATE_SEEDS of them, else `count`, from WEIRGATE_SEED_FROM on. In each the model predicted something.
fn drawn(name: &str, count: u64, run: impl Fn(&[u8]) -> usize + RefUnwindSafe) {
    let setting = |name, usual| std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(usual);
    let (from, count) = (setting("WEIRGATE_SEED_FROM", 0), setting("WEIRGATE_SEEDS", count));
    let mut foretold = 0;
    let failed: Vec<u64> = (from..from + count)
        .filter(|seed| {
            let mut rng = SmallRng::seed_from_u64(*seed);
            let mut bytes = vec![0; rng.random_range(100..1_500)];
            rng.fill_bytes(&mut bytes);
            let outcome = catch_unwind(|| run(&bytes));
            let failed = outcome.is_err();
            foretold += outcome.unwrap_or_default();
            if failed {
                println!("{name}: that was seed {seed}");
            }
            failed
        })
        .collect();
    assert!(failed.is_empty(), "{name}: seeds {failed:?}");
    assert!(foretold as u64 > 2 * count, "{name}: {foretold} things foretold of {count} inputs");
    println!("{name}: {foretold} things foretold of {count} inputs");
}

#[test]
fn a_shard_does_what_its_model_says() {
    drawn("shard", 60, shard::run);
}

#[test]
fn the_hub_says_what_its_model_says() {
    drawn("hub", 60, hub::run);
}

#[test]
fn rtcp_of_one_watcher_harms_no_other() {
    drawn("shard_rtcp", 40, rtcp::run);
}

#[test]
fn the_gate_passes_on_whole_messages_in_order() {
    drawn("dtls_flights", 300, flights::run);
}

#[test]
fn inputs_that_were_kept_hold() {
    kept("shard", shard::run);
    kept("hub", hub::run);
    kept("shard_rtcp", rtcp::run);
    kept("dtls_flights", flights::run);
}
