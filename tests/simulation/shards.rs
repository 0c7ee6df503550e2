//! One channel on two shards: a consumer on another shard than its producer, steered by the kernel or handed over.

use serde_json::json;
use weirgate::signal::ChannelSpread;
use weirgate::sim::link::LinkSettings;
use weirgate::sim::visitor::{Publication, metric};
use weirgate::sim::world::{World, WorldSettings};

use crate::support::{AUDIO, CLEAN, DELAY, Page, VIDEO, millis, seconds};

pub(crate) struct Spread {
    pub(crate) world: World,
    /// On the first shard.
    pub(crate) alice: Page,
    pub(crate) video: Publication,
    pub(crate) fillers: Vec<Page>,
    /// On the second.
    pub(crate) bob: Page,
}

/// Everyone goes where the channel is, until that shard is busy.
pub(crate) fn spread(settings: WorldSettings, link: LinkSettings) -> Spread {
    let mut world = World::new(settings);
    let alice = Page::join(&mut world, "alice", link);
    let video = world.publish(&alice.send, &VIDEO);
    let fillers: Vec<_> = (0..2).map(|n| Page::join(&mut world, &format!("filler {n}"), CLEAN)).collect();
    world.measured_load(0, 1_000);
    let bob = Page::join(&mut world, "bob", link);
    assert_eq!([0, 1].map(|shard| metric(&world.metrics(shard), "transports")), [6, 2], "Bob is elsewhere");
    world.run(seconds(1));
    Spread { world, alice, video, fillers, bob }
}

pub(crate) fn two(seed: u64, steered: bool) -> WorldSettings {
    WorldSettings { shards: 2, steered, ..WorldSettings::seeded(seed) }
}

#[test]
fn they_see_and_hear_each_other_across_shards() {
    for steered in [true, false] {
        let Spread { mut world, alice, video, bob, .. } = spread(two(60, steered), CLEAN);
        let voice = world.publish(&bob.send, &AUDIO);
        let seen = world.subscribe(&bob.recv, Some(&video.id));
        let heard = world.subscribe(&alice.recv, Some(&voice.id));
        let waited = world.wait(seconds(1), |world| world.sink(&seen).first_decoded_at.is_some());
        assert!(waited.is_some_and(|waited| waited <= millis(20 + 34 + 20 + 20 + 2)), "{waited:?}");
        world.run(seconds(3));
        let (picture, sound) = (world.sink(&seen), world.sink(&heard));
        assert!(picture.frames_decoded >= 88 && sound.frames_decoded >= 145, "{picture:?} {sound:?}");
        assert_eq!((picture.lost, picture.nacked, picture.frames_dropped, sound.lost), (0, 0, 0, 0));
        let settled = [0, 1].map(|shard| world.metrics(shard));
        assert_eq!([0, 1].map(|shard| metric(&settled[shard], "relayed_sources")), [1, 1]);
        let handed = |world: &mut World| -> i64 {
            (0..2).map(|shard| metric(&world.metrics(shard), "handed_over_datagrams")).sum()
        };
        let before = handed(&mut world);
        world.run(seconds(1));
        let after = handed(&mut world);
        if steered {
            assert_eq!(after, 0, "the kernel brings each datagram to its owner");
        } else {
            assert!(after > before + 50, "half of the ports come out elsewhere: {before} {after}");
        }
        let drops: i64 =
            settled.iter().map(|metrics| metric(metrics, "unknown_path") + metric(metrics, "mesh_full")).sum();
        assert_eq!(drops, 0);
    }
}

#[test]
fn loss_is_repaired_across_shards() {
    let lossy = LinkSettings::lossy(DELAY, 0.05);
    let Spread { mut world, video, bob, .. } = spread(two(61, true), lossy);
    let seen = world.subscribe(&bob.recv, Some(&video.id));
    world.run(seconds(10));
    world.source(&video).set_paused(true);
    world.run(seconds(2));
    let (stats, sent) = (world.sink(&seen), world.source(&video).stats());
    assert!(stats.repaired > 30 && sent.retransmitted > 30, "{stats:?} {sent:?}");
    assert_eq!((stats.lost, stats.frames_dropped), (0, 0), "{stats:?}");
}

#[test]
fn pauses_restarts_and_ends_cross_shards() {
    let Spread { mut world, alice, mut video, fillers, bob } = spread(two(62, true), CLEAN);
    let seen = world.subscribe(&bob.recv, Some(&video.id));
    world.ask(bob.visitor, "subscribe", json!({}));
    world.run(seconds(1));

    world.ask(alice.visitor, "pause-producer", json!({ "producerId": video.id }));
    world.run(millis(100));
    let paused = world.sink(&seen);
    world.run(seconds(1));
    assert_eq!(world.sink(&seen).packets, paused.packets);
    world.ask(alice.visitor, "resume-producer", json!({ "producerId": video.id }));
    world.wait(millis(150), |world| world.sink(&seen).last_decoded_at > paused.last_decoded_at).expect("resumed");

    world.run(seconds(1));
    world.ask(bob.visitor, "pause-consumer", json!({ "consumerId": seen.id }));
    world.run(seconds(1));
    let paused = world.sink(&seen);
    world.ask(bob.visitor, "resume-consumer", json!({ "consumerId": seen.id }));
    world.wait(millis(150), |world| world.sink(&seen).last_decoded_at > paused.last_decoded_at).expect("resumed");

    world.run(seconds(1));
    world.replace_source(&mut video);
    world.run(seconds(1));
    world.source(&video).jump(7_000);
    world.run(seconds(1));
    let stats = world.sink(&seen);
    assert_eq!((stats.lost, stats.nacked, stats.frames_dropped), (0, 0, 0), "{stats:?}");
    assert!(world.now().since(stats.last_decoded_at.unwrap()) < millis(100), "{stats:?}");

    alice.leave(&mut world);
    world.run(millis(100));
    assert_eq!(world.heard(bob.visitor, "consumer-closed").len(), 1);
    bob.leave(&mut world);
    fillers.iter().for_each(|filler| filler.leave(&mut world));
    world.run(millis(100));
    for shard in 0..2 {
        let metrics = world.metrics(shard);
        let left: Vec<_> = metrics.gauges.iter().filter(|(_, _, value)| *value != 0).collect();
        assert!(left.is_empty(), "shard {shard}: {left:?}");
    }
}

#[test]
fn who_stops_watching_across_shards_stops_the_relay() {
    let Spread { mut world, video, bob, .. } = spread(two(63, true), CLEAN);
    for _ in 0..3 {
        let seen = world.subscribe(&bob.recv, Some(&video.id));
        world.run(seconds(1));
        assert!(world.sink(&seen).frames_decoded > 20);
        world.ask(bob.visitor, "close-consumer", json!({ "consumerId": seen.id }));
        world.run(millis(100));
        assert_eq!(metric(&world.metrics(1), "relayed_sources"), 0);
        let before = world.end(bob.recv.end).down.stats().sent;
        world.run(millis(500));
        assert!(world.end(bob.recv.end).down.stats().sent - before <= 3, "checks and reports at most");
    }
}

#[test]
fn four_people_on_four_shards_and_nothing_stays_behind() {
    for steered in [true, false] {
        let spread = ChannelSpread::Always;
        let mut world = World::new(WorldSettings { shards: 4, steered, spread, ..WorldSettings::seeded(64) });
        for round in 0..5 {
            let pages: Vec<_> = (0..4).map(|n| Page::join(&mut world, &format!("user {n}"), CLEAN)).collect();
            for page in &pages {
                world.publish(&page.send, &AUDIO);
                world.publish(&page.send, &VIDEO);
            }
            let each = pages.iter().flat_map(|page| [&page.recv; 6]);
            let subscriptions: Vec<_> = each.map(|recv| world.subscribe(recv, None)).collect();
            world.run(seconds(1));
            for subscription in &subscriptions {
                let stats = world.sink(subscription);
                assert!(stats.frames_decoded >= 24 && stats.lost + stats.frames_dropped == 0, "{round}: {stats:?}");
            }
            let relayed: Vec<_> = (0..4).map(|shard| metric(&world.metrics(shard), "relayed_sources")).collect();
            assert_eq!(relayed, [6; 4], "everyone is alone on a shard");
            pages.iter().for_each(|page| page.leave(&mut world));
            world.run(millis(100));
            for shard in 0..4 {
                let metrics = world.metrics(shard);
                let left: Vec<_> = metrics.gauges.iter().filter(|(_, _, value)| *value != 0).collect();
                assert!(left.is_empty(), "round {round}, shard {shard}: {left:?}");
            }
        }
    }
}
