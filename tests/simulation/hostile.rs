//! Strangers and eavesdroppers: whatever they send, with whatever return address, calls go on and nothing grows.

use std::net::SocketAddr;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use weirgate::sim::visitor::metric;
use weirgate::sim::world::{World, WorldSettings};
use weirgate::wire::{Kind, classify};

use crate::support::{CLEAN, Pair, VIDEO, millis, seconds};

fn garbage(rng: &mut SmallRng) -> Vec<u8> {
    let mut bytes = vec![0; rng.random_range(0..300)];
    rng.fill(&mut bytes[..]);
    // A first byte of each kind (RFC 7983).
    if let Some(first) = bytes.first_mut() {
        *first = [0, 1, 20, 22, 63, 128, 144, 191, 255][rng.random_range(0..9)];
    }
    bytes
}

/// A datagram that was overheard, as it was or changed.
fn forged(rng: &mut SmallRng, overheard: &[u8]) -> Vec<u8> {
    let mut bytes = overheard.to_vec();
    // A whole check from elsewhere is the client's, for all that anybody can tell: that has its own test.
    let first = u32::from(classify(overheard) == Kind::Stun);
    match rng.random_range(first..4) {
        0 => {}
        1 => bytes.truncate(rng.random_range(0..bytes.len())),
        2 => {
            let at = rng.random_range(0..bytes.len());
            bytes[at] ^= 1 << rng.random_range(0..8);
        }
        _ => bytes.extend(garbage(rng)),
    }
    bytes
}

#[test]
fn garbage_replays_and_forgeries_harm_nobody() {
    for steered in [true, false] {
        let settings = WorldSettings { shards: 2, steered, ..WorldSettings::seeded(70) };
        let mut world = World::new(settings);
        world.overheard = Some(Vec::new());
        let mut pair = Pair::new(world, &VIDEO, CLEAN);
        let world = &mut pair.world;
        let before = metric(&world.metrics(0), "transports");
        let mut rng = SmallRng::seed_from_u64(71);
        let ends = [&pair.alice.send, &pair.alice.recv, &pair.bob.send, &pair.bob.recv].map(|transport| transport.end);
        for _ in 0..2_000 {
            world.run(millis(2));
            let stranger = SocketAddr::from(([203, 0, 113, rng.random()], rng.random_range(1_024..60_000)));
            let spoofed = world.address(ends[rng.random_range(0..4)]);
            let from = if rng.random() { stranger } else { spoofed };
            let overheard = world.overheard.as_ref().filter(|all| !all.is_empty());
            let bytes = match overheard.filter(|_| rng.random_bool(0.7)) {
                Some(all) => {
                    let at = rng.random_range(0..all.len());
                    forged(&mut rng, &all[at].1)
                }
                None => garbage(&mut rng),
            };
            world.inject(from, bytes);
        }
        world.run(seconds(4));
        let stats = world.sink(&pair.seen);
        assert!(world.now().since(stats.last_decoded_at.unwrap()) < millis(100), "{stats:?}");
        assert_eq!((stats.frames_dropped, stats.lost, stats.foreign), (0, 0, 0), "{stats:?}");
        let metrics = [0, 1].map(|shard| world.metrics(shard));
        let sum = |name: &str| -> i64 { metrics.iter().map(|metrics| metric(metrics, name)).sum() };
        assert_eq!(sum("transports"), before);
        assert!(sum("paths") <= 4 * 8, "{}", sum("paths"));
        assert_eq!(sum("faults") + sum("consent_lost"), 0);
        let dropped: i64 = metrics.iter().flat_map(|metrics| &metrics.drops).map(|(_, count)| *count as i64).sum();
        assert!(dropped > 500, "each has a reason: {dropped}");
    }
}

#[test]
fn an_overheard_check_does_not_take_the_media_away() {
    let mut world = World::seeded(72);
    world.overheard = Some(Vec::new());
    let mut pair = Pair::new(world, &VIDEO, CLEAN);
    let world = &mut pair.world;
    let victim = world.address(pair.bob.recv.end);
    let checks: Vec<_> = world.overheard.take().unwrap_or_default();
    let thief = SocketAddr::from(([203, 0, 113, 66], 6_666));
    for (_, check) in checks.iter().filter(|(path, bytes)| path.remote == victim && classify(bytes) == Kind::Stun) {
        world.inject(thief, check.clone());
    }
    world.run(seconds(10));
    let stats = world.sink(&pair.seen);
    // The client's own checks take it back, if it was away at all.
    assert!(world.now().since(stats.last_decoded_at.unwrap()) < millis(100), "{stats:?}");
    assert!(stats.longest_freeze <= seconds(3), "{stats:?}");
}
