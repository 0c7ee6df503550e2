//! One channel on two nodes: a consumer on another node than its producer, and a lane between them that loses, reorders
//! and carries small datagrams only.

use serde_json::json;
use weirgate::base::units::Bitrate;
use weirgate::sim::across::AcrossSettings;
use weirgate::sim::link::LinkSettings;
use weirgate::sim::script::Media;
use weirgate::sim::visitor::{Subscription, metric};
use weirgate::sim::world::{World, WorldSettings};
use weirgate::wire::codec::Codec;

use crate::layers::PROMISED;
use crate::shards::{Spread, spread};
use crate::support::{AUDIO, CLEAN, millis, seconds};

const WIDE: usize = 1_452;
/// What an IPv6 path with an MTU of 1,280 carries.
const NARROW: usize = 1_232;

fn nodes(seed: u64, link: LinkSettings, datagram_max: usize) -> WorldSettings {
    let across = Some(AcrossSettings { link, datagram_max });
    WorldSettings { shards: 2, across, ..WorldSettings::seeded(seed) }
}

/// Another node in the same building.
fn near(seed: u64) -> WorldSettings {
    nodes(seed, LinkSettings::clean(millis(1)), WIDE)
}

/// What the judge of the consumer's decoder found.
fn faults(world: &World, seen: &Subscription) -> Vec<String> {
    world.decoder(seen).faults().iter().map(|fault| format!("{fault:?}")).collect()
}

fn drops(world: &mut World, names: &[&str]) -> Vec<i64> {
    let metrics = [0, 1].map(|shard| world.metrics(shard));
    names.iter().map(|name| metrics.iter().map(|metrics| metric(metrics, name)).sum()).collect()
}

#[test]
fn they_see_and_hear_each_other_across_nodes() {
    let Spread { mut world, alice, video, bob, .. } = spread(near(70), CLEAN);
    let voice = world.publish(&bob.send, &AUDIO);
    let seen = world.subscribe(&bob.recv, Some(&video.id));
    world.judge(&seen, PROMISED);
    let heard = world.subscribe(&alice.recv, Some(&voice.id));
    let waited = world.wait(seconds(1), |world| world.sink(&seen).first_decoded_at.is_some());
    // As within a node, and the lane's way: two trips for its keys, one each for the order and the picture.
    assert!(waited.is_some_and(|waited| waited <= millis(20 + 34 + 20 + 20 + 8)), "{waited:?}");
    world.run(seconds(3));
    let (picture, sound) = (world.sink(&seen), world.sink(&heard));
    assert!(picture.frames_decoded >= 86 && sound.frames_decoded >= 140, "{picture:?} {sound:?}");
    assert_eq!((picture.lost, picture.nacked, picture.duplicates, picture.frames_dropped, sound.lost), (0, 0, 0, 0, 0));
    assert_eq!(faults(&world, &seen), [""; 0]);
    let own = ["lane_stranger", "lane_unopened", "lane_replayed", "lane_malformed", "lane_handle", "lane_full"];
    assert_eq!(drops(&mut world, &own), [0; 6]);
    let told = |world: &mut World, name: &str| [0, 1].map(|shard| metric(&world.metrics(shard), name));
    assert_eq!([told(&mut world, "lanes_up"), told(&mut world, "imports"), told(&mut world, "exports")], [[1, 1]; 3]);
    assert_eq!(told(&mut world, "relayed_sources"), [0, 0]);
}

#[test]
fn two_in_a_hundred_lost_and_as_many_reordered_are_made_good_in_time() {
    for (seed, datagram_max) in [(71, WIDE), (72, NARROW)] {
        let link = LinkSettings { reordering: 0.02, ..LinkSettings::lossy(millis(20), 0.02) };
        let settings = nodes(seed, link, datagram_max);
        let Spread { mut world, alice, video, bob, .. } = spread(settings, LinkSettings::clean(millis(1)));
        let voice = world.publish(&alice.send, &AUDIO);
        let seen = world.subscribe(&bob.recv, Some(&video.id));
        world.judge(&seen, PROMISED);
        let heard = world.subscribe(&bob.recv, Some(&voice.id));
        world.run(seconds(2));
        let (before, sounded) = (world.sink(&seen), world.sink(&heard));
        world.run(seconds(60));
        let (picture, sound) = (world.sink(&seen), world.sink(&heard));
        let frames = picture.frames_decoded - before.frames_decoded;
        let sounds = sound.frames_decoded - sounded.frames_decoded;
        assert!(frames as f64 >= 0.999 * 1_800.0 - 1.0, "{frames} pictures, {picture:?}");
        assert!(sounds as f64 >= 0.999 * 3_000.0 - 1.0, "{sounds} sounds, {sound:?}");
        assert_eq!((picture.duplicates, picture.frames_dropped), (0, 0), "{picture:?}");
        assert!(picture.longest_freeze <= millis(250), "{picture:?}");
        assert_eq!(faults(&world, &seen), [""; 0]);
        let sent = metric(&world.metrics(0), "lane_resent");
        assert!(sent > 50, "{sent} were sent again");
        assert_eq!(drops(&mut world, &["lane_malformed", "lane_unopened"]), [0, 0]);
    }
}

#[test]
fn a_node_gets_a_producer_once_however_many_watch_it_there() {
    let Spread { mut world, video, bob, .. } = spread(near(73), CLEAN);
    let sent = |world: &mut World| {
        // As on the publisher's wire, with the fixed headers.
        let media = |world: &mut World| {
            let stats = world.source(&video).stats();
            stats.octets + 12 * stats.packets
        };
        let before = (world.lane_bytes(0, 1), media(world));
        world.run(seconds(5));
        let (lane, media) = (world.lane_bytes(0, 1) - before.0, media(world) - before.1);
        lane as f64 / media as f64
    };
    let first = world.subscribe(&bob.recv, Some(&video.id));
    world.run(seconds(1));
    let alone = sent(&mut world);
    for _ in 0..2 {
        world.subscribe(&bob.recv, Some(&video.id));
    }
    world.run(seconds(1));
    let together = sent(&mut world);
    assert!((0.9..=1.05).contains(&alone) && (together - alone).abs() < 0.02, "{alone} {together}");
    assert!(world.sink(&first).frames_decoded > 300);
}

#[test]
fn only_encodings_that_somebody_wants_cross() {
    let simulcast = Media { rids: &["l", "m", "h"], bitrate: Bitrate::kbps(300), ..Media::video(Codec::Vp8) };
    let Spread { mut world, alice, bob, .. } = spread(near(74), CLEAN);
    let video = world.publish(&alice.send, &simulcast);
    let seen = world.subscribe(&bob.recv, Some(&video.id));
    world.run(seconds(3));
    let rate = |world: &mut World| {
        let before = world.lane_bytes(0, 1);
        world.run(seconds(2));
        world.lane_bytes(0, 1) - before
    };
    let all = rate(&mut world);
    let layers = json!({ "consumerId": seen.id, "spatialLayer": 0 });
    world.ask(bob.visitor, "set-preferred-layers", layers);
    world.run(seconds(5));
    let lowest = rate(&mut world);
    assert!(lowest * 3 < all, "{lowest} of {all} bytes");
    let before = world.sink(&seen);
    world.ask(bob.visitor, "set-preferred-layers", json!({ "consumerId": seen.id, "spatialLayer": 2 }));
    world.run(seconds(2));
    let again = rate(&mut world);
    assert!(again * 10 > all * 9, "{again} of {all} bytes");
    let stats = world.sink(&seen);
    assert!(stats.frames_decoded >= before.frames_decoded + 100 && stats.frames_dropped == 0, "{stats:?}");
}

#[test]
fn pauses_restarts_and_ends_cross_nodes_and_nothing_stays_behind() {
    let Spread { mut world, alice, mut video, fillers, bob } = spread(near(75), CLEAN);
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
    assert_eq!([0, 1].map(|shard| metric(&world.metrics(shard), "lanes_up")), [1, 1], "for a while");
    world.run(seconds(62));
    for shard in 0..2 {
        let metrics = world.metrics(shard);
        let left: Vec<_> = metrics.gauges.iter().filter(|(_, _, value)| *value != 0).collect();
        assert!(left.is_empty(), "shard {shard}: {left:?}");
    }
}

#[test]
fn who_is_cut_off_sees_again_when_the_path_is_back() {
    for down in [millis(500), seconds(8)] {
        let Spread { mut world, video, bob, .. } = spread(near(76), CLEAN);
        let seen = world.subscribe(&bob.recv, Some(&video.id));
        world.judge(&seen, PROMISED);
        world.run(seconds(2));
        let before = world.sink(&seen);
        assert!(before.frames_decoded > 40, "{before:?}");
        let cut = |world: &mut World, loss| {
            world.lane_link(0, 1).settings.loss = loss;
            world.lane_link(1, 0).settings.loss = loss;
        };
        cut(&mut world, 1.0);
        world.run(down);
        let dead = metric(&world.metrics(1), "lanes_up") == 0;
        assert_eq!(dead, down > seconds(1), "nothing is heard for a second");
        let standing = world.sink(&seen);
        cut(&mut world, 0.0);
        // The next attempt may be a while off.
        let back = world.wait(seconds(11), |world| world.sink(&seen).frames_decoded > standing.frames_decoded + 30);
        assert!(back.is_some(), "{down:?}: {:?}", world.sink(&seen));
        let stats = world.sink(&seen);
        assert_eq!(stats.duplicates, 0, "{down:?}: {stats:?}");
        // What was lost meanwhile is too old to be sent again.
        assert!(faults(&world, &seen).iter().all(|fault| fault.contains("Gap")), "{down:?}");
    }
}

#[test]
fn a_producer_that_nobody_knows_is_gone_and_one_that_is_dropped_is_let_go() {
    let Spread { mut world, video, bob, .. } = spread(near(77), CLEAN);
    let seen = world.subscribe(&bob.recv, Some(&video.id));
    world.run(seconds(1));
    assert!(world.sink(&seen).frames_decoded > 20);
    world.drop_imports(1);
    world.run(millis(100));
    let exports = |world: &mut World| metric(&world.metrics(0), "exports");
    assert_eq!((exports(&mut world), metric(&world.metrics(1), "imports")), (0, 0));
    let before = world.lane_bytes(0, 1);
    world.run(seconds(1));
    assert!(world.lane_bytes(0, 1) - before < 200, "nothing is sent that nobody has");
}

#[test]
fn the_same_seed_gives_the_same_run_across_nodes() {
    let run = || {
        let link = LinkSettings { reordering: 0.05, duplication: 0.02, ..LinkSettings::lossy(millis(20), 0.05) };
        let Spread { mut world, video, bob, .. } = spread(nodes(78, link, NARROW), CLEAN);
        let seen = world.subscribe(&bob.recv, Some(&video.id));
        world.run(seconds(10));
        (world.trace(), world.lane_bytes(0, 1), world.sink(&seen).frames_decoded)
    };
    let first = run();
    assert_eq!(first, run());
    assert!(first.2 > 280, "{first:?}");
}
