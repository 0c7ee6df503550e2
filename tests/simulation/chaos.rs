//! Links at their worst and people who change their mind all the time, many seeds; the model judges every packet.

use std::net::SocketAddr;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use weirgate::base::id::Ssrc;
use weirgate::base::time::Duration;
use weirgate::sim::link::LinkSettings;
use weirgate::sim::script::Media;
use weirgate::sim::visitor::metric;
use weirgate::sim::world::World;
use weirgate::wire::codec::Codec;

use crate::model::Model;
use crate::shards::{Spread, spread, two};
use crate::support::{CLEAN, Page, millis, seconds};

fn bad_link(rng: &mut SmallRng) -> LinkSettings {
    LinkSettings {
        jitter: millis(rng.random_range(0..8)),
        loss: rng.random_range(0.0..0.08),
        duplication: rng.random_range(0.0..0.03),
        reordering: rng.random_range(0.0..0.05),
        ..LinkSettings::clean(millis(rng.random_range(3..50)))
    }
}

/// The events in the call between two stretches of it.
#[derive(Debug)]
enum Action {
    PauseConsumer,
    PauseProducer,
    ReplaceSource,
    Jump(u16),
    AskKeyFrame,
    RestartIce,
    MoveReceiver,
    None,
}

impl Action {
    fn draw(rng: &mut SmallRng, strict: bool) -> Action {
        if strict {
            return match rng.random_range(0..3) {
                0 => Action::AskKeyFrame,
                1 => Action::RestartIce,
                _ => Action::None,
            };
        }
        match rng.random_range(0..8) {
            0 | 1 => Action::PauseConsumer,
            2 => Action::PauseProducer,
            3 => Action::ReplaceSource,
            4 => Action::Jump(rng.random_range(3_500..20_000)),
            5 => Action::AskKeyFrame,
            6 => Action::RestartIce,
            _ => Action::MoveReceiver,
        }
    }
}

fn run(seed: u64, strict: bool) {
    let mut world = World::seeded(seed);
    let alice = Page::join(&mut world, "alice", CLEAN);
    let bob = Page::join(&mut world, "bob", CLEAN);
    run_in(world, alice, bob, seed, strict);
}

fn run_in(mut world: World, alice: Page, bob: Page, seed: u64, strict: bool) {
    let mut rng = SmallRng::seed_from_u64(seed * 7_919);
    world.tap(alice.send.end);
    world.tap(bob.recv.end);
    let codec = [Codec::Vp8, Codec::Vp9, Codec::H264, Codec::Av1][seed as usize % 4];
    let mut video = world.publish(&alice.send, &Media::video(codec));
    let seen = world.subscribe(&bob.recv, Some(&video.id));
    let rtx = world.end(bob.recv.end).browser.sinks[seen.sink].config().rtx.map_or(Ssrc(0), |(_, ssrc)| ssrc);
    // A first packet that is lost is known to nobody, and cannot be asked for.
    world.run(millis(300));
    for (end, link) in
        [&alice.send, &bob.recv].into_iter().flat_map(|transport| [(transport.end, true), (transport.end, false)])
    {
        let settings = bad_link(&mut rng);
        let end = world.end(end);
        if link { end.up.settings = settings } else { end.down.settings = settings }
    }
    let (mut ssrcs, mut actions) = (vec![video.ssrc], Vec::new());
    let mut paused = (false, false);
    for _ in 0..14 {
        world.run(millis(rng.random_range(150..700)));
        let action = Action::draw(&mut rng, strict);
        println!("seed {seed} at {:?}: {action:?}", world.now());
        match action {
            Action::PauseConsumer => {
                paused.0 = !paused.0;
                let kind = if paused.0 { "pause-consumer" } else { "resume-consumer" };
                world.ask(bob.visitor, kind, json!({ "consumerId": seen.id }));
            }
            Action::PauseProducer => {
                paused.1 = !paused.1;
                let kind = if paused.1 { "pause-producer" } else { "resume-producer" };
                world.ask(alice.visitor, kind, json!({ "producerId": video.id }));
            }
            Action::ReplaceSource => {
                world.replace_source(&mut video);
                ssrcs.push(video.ssrc);
            }
            Action::Jump(by) => world.source(&video).jump(by),
            Action::AskKeyFrame => {
                world.ask(bob.visitor, "request-key-frame", json!({ "consumerId": seen.id }));
            }
            Action::RestartIce => {
                world.restart_ice(&bob.recv);
                world.restart_ice(&alice.send);
            }
            Action::MoveReceiver => {
                let port = rng.random_range(20_000..60_000u16);
                world.move_end(bob.recv.end, SocketAddr::from(([203, 0, 113, 7], port)));
            }
            Action::None => {}
        }
        actions.push(world.now());
    }
    world.ask(bob.visitor, "resume-consumer", json!({ "consumerId": seen.id }));
    world.ask(alice.visitor, "resume-producer", json!({ "producerId": video.id }));
    actions.push(world.now());
    for end in [alice.send.end, bob.recv.end] {
        let end = world.end(end);
        (end.up.settings, end.down.settings) = (CLEAN, CLEAN);
    }
    // It always ends well: missing packets are repaired or given up, and pictures flow.
    world.run(seconds(5));
    let before = world.sink(&seen);
    world.run(seconds(1));
    let after = world.sink(&seen);
    assert!((28..=31).contains(&(after.frames_decoded - before.frames_decoded)), "seed {seed}: {after:?}");
    assert_eq!(after.foreign, 0, "seed {seed}: {after:?}");
    if strict {
        assert_eq!((after.lost, after.frames_dropped), (0, 0), "seed {seed}: {after:?}");
    }
    world.source(&video).set_paused(true);
    world.run(Duration::from_secs(1));
    assert_eq!(world.end(bob.recv.end).browser.stray(), 0);
    let ends = [alice.send.end, bob.recv.end];
    let up = world.end(ends[0]).tap_up.take().expect("it is tapped");
    let down = world.end(ends[1]).tap_down.take().expect("it is tapped");
    assert_eq!((up.refused(), down.refused()), (0, 0), "seed {seed}: a number was sealed twice");
    println!("seed {seed}: {after:?}");
    // A client that moves again and again, over links that lose its reports, is sent less than all.
    let held_back: i64 = (0..world.shards()).map(|shard| metric(&world.metrics(shard), "unproved_path")).sum();
    assert!(!strict || held_back == 0, "seed {seed}: nobody moved");
    let (sent, received) = (up.heard(), down.heard());
    let held_back = held_back as usize;
    Model { sent, ssrcs: &ssrcs, received, stream: seen.ssrc, rtx, actions: &actions, held_back }.check(strict);
}

#[test]
fn bad_links_alone_lose_no_frame() {
    (100..115).for_each(|seed| run(seed, true));
}

#[test]
fn whatever_happens_streams_stay_whole() {
    (200..230).for_each(|seed| run(seed, false));
}

/// Alice and Bob on two shards.
fn apart(seed: u64) -> (World, Page, Page) {
    let Spread { mut world, alice, bob, video, .. } = spread(two(seed, seed.is_multiple_of(2)), CLEAN);
    world.source(&video).set_paused(true);
    world.run(millis(100));
    (world, alice, bob)
}

#[test]
fn across_shards_bad_links_lose_no_frame() {
    for seed in 300..306 {
        let (world, alice, bob) = apart(seed);
        run_in(world, alice, bob, seed, true);
    }
}

#[test]
fn across_shards_streams_stay_whole() {
    for seed in 400..412 {
        let (world, alice, bob) = apart(seed);
        run_in(world, alice, bob, seed, false);
    }
}
