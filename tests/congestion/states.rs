//! From whatever state: drawn histories of the estimator, each followed by a path without a bound.

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use weirgate::base::time::Duration;
use weirgate::sim::estimator::{HEALS_WITHIN, run};

/// So many histories; WEIRGATE_SEEDS asks for more.
const STATES: u64 = 300;

#[test]
fn from_any_state_a_path_without_a_bound_carries_all_within_five_seconds() {
    let states = std::env::var("WEIRGATE_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(STATES);
    let mut took: Vec<_> = (0..states).map(from_drawn_state).collect();
    took.sort();
    let [median, worst] = [took[took.len() / 2], took[took.len() - 1]];
    println!("{states} states: all flows after {median:?} in the median, {worst:?} at worst");
    assert!(worst <= HEALS_WITHIN && median < Duration::from_secs(3), "{median:?}, {worst:?}");
}

fn from_drawn_state(seed: u64) -> Duration {
    let mut bytes = [0; 96];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    let told = std::panic::catch_unwind(|| run(&bytes));
    told.unwrap_or_else(|_| panic!("seed {seed}"))
}
