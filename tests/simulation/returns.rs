//! People who leave and come back to somebody who was alone meanwhile: a first join shows how soon a picture can be
//! seen. And links that go through all kinds of trouble before they are wide again. WEIRGATE_SEEDS asks for more of
//! both.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use weirgate::base::time::Duration;
use weirgate::base::units::Bitrate;
use weirgate::sim::link::LinkSettings;
use weirgate::sim::script::Media;
use weirgate::sim::visitor::{Publication, Subscription};
use weirgate::sim::world::World;
use weirgate::wire::codec::Codec;

use crate::support::{AUDIO, CLEAN, Page, VIDEO, millis, seconds};

const MEETINGS: u64 = 16;
const TROUBLES: u64 = 16;
const DEAD_LINKS: u64 = 4;
/// A return is as quick as a first join: by so much, and what a picture or two take.
const AS_THE_FIRST: u32 = 3;
const PICTURES: Duration = Duration::from_millis(150);
const HEALS_WITHIN: u64 = 5;

fn seeds(usual: u64) -> u64 {
    std::env::var("WEIRGATE_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(usual)
}

fn watcher(world: &mut World, link: LinkSettings) -> Page {
    let page = Page::join(world, "bob", link);
    world.ask(page.visitor, "subscribe", Value::Null);
    world.end(page.recv.end).browser.arrivals = Some(Default::default());
    page
}

fn available(world: &mut World, page: &Page) -> Option<u64> {
    let stats = world.ask(page.visitor, "get-stats", json!({ "transportId": page.recv.id }));
    stats["availableOutgoingBitrate"].as_u64()
}

/// The newcomer, Bob's view of it, and the time to the first picture.
struct Visit {
    alice: Page,
    seen: [Subscription; 2],
    took: Duration,
}

impl Visit {
    fn begin(world: &mut World, bob: &Page, link: LinkSettings) -> Option<Visit> {
        let alice = Page::join(world, "alice", link);
        let [audio, video]: [Publication; 2] = [&AUDIO, &VIDEO].map(|media| world.publish(&alice.send, media));
        let seen = [&audio, &video].map(|publication| world.subscribe(&bob.recv, Some(&publication.id)));
        let shown = |world: &mut World| world.sink(&seen[1]).first_decoded_at.is_some();
        let took = world.wait(seconds(20), shown)?;
        Some(Visit { alice, seen, took })
    }

    /// The page closes what it is told is gone, while packets are still on their way.
    fn end(self, world: &mut World) {
        self.alice.leave(world);
        world.run(millis(1));
        self.seen.iter().for_each(|seen| world.remove_sink(seen));
    }
}

/// From two seconds to some minutes, mostly short.
fn alone(rng: &mut StdRng) -> Duration {
    if rng.random_bool(0.15) { seconds(rng.random_range(60..240)) } else { millis(rng.random_range(2_000..40_000)) }
}

#[test]
fn who_comes_back_is_seen_as_soon_as_at_first() {
    let (mut first, mut later) = (Vec::new(), Vec::new());
    for seed in 0..seeds(MEETINGS) {
        let rng = &mut StdRng::seed_from_u64(seed);
        let mut world = World::seeded(seed);
        let link = LinkSettings {
            jitter: millis(rng.random_range(0..10)),
            ..LinkSettings::clean(millis(rng.random_range(2..80)))
        };
        let bob = watcher(&mut world, link);
        // He sends himself, or only watches.
        if seed % 2 == 0 {
            for media in [&AUDIO, &VIDEO] {
                world.publish(&bob.send, media);
            }
        }
        let mut visit = Visit::begin(&mut world, &bob, link).unwrap_or_else(|| panic!("seed {seed}: never seen"));
        let control = visit.took;
        first.push(control);
        for nth in 0..rng.random_range(2..4) {
            world.run(millis(rng.random_range(200..5_000)));
            visit.end(&mut world);
            world.run(seconds(1));
            let before = available(&mut world, &bob);
            let alone = alone(rng);
            world.run(alone);
            assert_eq!(available(&mut world, &bob), before, "seed {seed}: nothing was told in {alone:?} alone");
            let what = format!("seed {seed}, return {nth} after {alone:?}, first {control:?}, {before:?} bit/s");
            visit = Visit::begin(&mut world, &bob, link).unwrap_or_else(|| panic!("{what}: never seen"));
            assert!(visit.took <= control * AS_THE_FIRST + PICTURES, "{what}: {:?}", visit.took);
            later.push(visit.took);
        }
    }
    first.sort();
    later.sort();
    let of = |took: &[Duration]| (took.len(), took[took.len() / 2], took[took.len() - 1]);
    println!("first joins (how many, median, worst): {:?}; returns: {:?}", of(&first), of(&later));
}

/// The way to Bob, or from him, is bad in one of many ways for a while; or what flows on it changes.
fn trouble(
    world: &mut World,
    rng: &mut StdRng,
    bob: &Page,
    alice: &Page,
    videos: &[Publication],
    seen: &[Subscription],
) {
    let rate = [30, 60, 100, 300, 1_000][rng.random_range(0..5)];
    let link = LinkSettings {
        rate: rng.random_bool(0.6).then(|| Bitrate::kbps(rate)),
        queue_max: millis([50, 250, 1_000][rng.random_range(0..3)]),
        loss: [0.0, 0.0, 0.1, 0.5, 1.0][rng.random_range(0..5)],
        jitter: millis([0, 5, 40][rng.random_range(0..3)]),
        ..LinkSettings::clean(millis([5, 40, 100][rng.random_range(0..3)]))
    };
    let at = rng.random_range(0..videos.len());
    match rng.random_range(0..6) {
        0..=2 => world.end(bob.recv.end).down.settings = link,
        3 => world.end(bob.recv.end).up.settings = LinkSettings { loss: 1.0, ..CLEAN },
        4 => {
            world.ask(alice.visitor, "pause-producer", json!({ "producerId": videos[at].id }));
        }
        _ => {
            world.ask(bob.visitor, "pause-consumer", json!({ "consumerId": seen[at].id }));
        }
    }
    world.run(millis(rng.random_range(200..6_000)));
    world.ask(alice.visitor, "resume-producer", json!({ "producerId": videos[at].id }));
    world.ask(bob.visitor, "resume-consumer", json!({ "consumerId": seen[at].id }));
    if rng.random_bool(0.5) {
        let end = world.end(bob.recv.end);
        (end.up.settings, end.down.settings) = (CLEAN, CLEAN);
    }
}

#[test]
fn after_all_kinds_of_trouble_a_wide_link_is_full_within_five_seconds() {
    let layered = Media { rids: &["l", "m", "h"], bitrate: Bitrate::kbps(1_600), ..Media::video(Codec::Vp8) };
    for seed in 0..seeds(TROUBLES) {
        let rng = &mut StdRng::seed_from_u64(seed);
        let mut world = World::seeded(seed);
        let alice = Page::join(&mut world, "alice", CLEAN);
        world.publish(&alice.send, &AUDIO);
        let videos = [&layered, &Media { mid: "2", ..VIDEO }].map(|media| world.publish(&alice.send, media));
        let bob = watcher(&mut world, CLEAN);
        let heard = world.subscribe(&bob.recv, None);
        let seen = [0, 1].map(|at: usize| world.subscribe(&bob.recv, Some(&videos[at].id)));
        world.run(millis(rng.random_range(100..4_000)));
        for _ in 0..rng.random_range(1..5) {
            trouble(&mut world, rng, &bob, &alice, &videos, &seen);
        }
        let end = world.end(bob.recv.end);
        (end.up.settings, end.down.settings) = (CLEAN, CLEAN);
        world.run(seconds(HEALS_WITHIN));
        let before = seen.each_ref().map(|seen| world.sink(seen));
        world.run(seconds(3));
        let now = seen.each_ref().map(|seen| world.sink(seen));
        let rates = [0, 1].map(|at: usize| (now[at].octets - before[at].octets) * 8 / 3_000);
        let frames = [0, 1].map(|at: usize| now[at].frames_decoded - before[at].frames_decoded);
        let what = format!("seed {seed}: {rates:?} kbit/s, {frames:?} frames, {:?}", available(&mut world, &bob));
        assert!(rates[0] > 1_000 && rates[1] > 500, "{what}");
        assert!(frames.iter().all(|frames| *frames >= 80), "{what}");
        assert!(world.sink(&heard).frames_decoded > 0, "{what}");
    }
}

/// Nothing passes either way, for as long as a lift or a tunnel takes.
#[test]
fn after_a_dead_link_the_picture_is_back_within_five_seconds() {
    let mut took = Vec::new();
    for seed in 0..seeds(DEAD_LINKS) {
        let rng = &mut StdRng::seed_from_u64(seed);
        let mut world = World::seeded(seed);
        let link = LinkSettings::clean(millis(rng.random_range(2..100)));
        let bob = watcher(&mut world, link);
        let visit = Visit::begin(&mut world, &bob, link).unwrap_or_else(|| panic!("seed {seed}: never seen"));
        let lose = |world: &mut World, loss: f64| {
            let end = world.end(bob.recv.end);
            (end.up.settings.loss, end.down.settings.loss) = (loss, loss);
        };
        for away in [1, 3, 10, 40] {
            world.run(millis(rng.random_range(3_000..8_000)));
            lose(&mut world, 1.0);
            world.run(seconds(away));
            lose(&mut world, 0.0);
            // What was on its way then is no sign of life.
            let back = world.now() + link.delay;
            let shown = |world: &mut World| world.sink(&visit.seen[1]).last_decoded_at.is_some_and(|at| at > back);
            let after = world.wait(seconds(HEALS_WITHIN), shown);
            took.push(after.unwrap_or_else(|| panic!("seed {seed}, {:?}: dark after {away} s", link.delay)));
        }
    }
    took.sort();
    println!("back after (median, worst): {:?}, {:?}", took[took.len() / 2], took[took.len() - 1]);
}
