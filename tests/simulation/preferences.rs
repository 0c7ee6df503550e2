//! Layers at a client's request: the flowing ones, and the notifications to it and the publisher.

use serde_json::{Value, json};
use weirgate::base::units::Bitrate;
use weirgate::sim::link::LinkSettings;
use weirgate::sim::scalability::Scalability;
use weirgate::sim::script::{EncodingListing, Media};
use weirgate::sim::visitor::{Subscription, Visitor, metric};
use weirgate::sim::world::{World, WorldSettings};
use weirgate::wire::codec::Codec;

use crate::support::{CLEAN, Page, VIDEO, millis, seconds};

fn simulcast() -> Media {
    Media { rids: &["r0", "r1", "r2"], bitrate: Bitrate::mbps(1), ..VIDEO }
}

/// A room on one shard, or with all but the publisher on a second one.
fn room(shards: u16, seed: u64) -> (World, Page) {
    let mut world = World::new(WorldSettings { shards, ..WorldSettings::seeded(seed) });
    let alice = Page::join(&mut world, "alice", CLEAN);
    if shards > 1 {
        for n in 0..2 {
            Page::join(&mut world, &format!("filler {n}"), CLEAN);
        }
        world.measured_load(0, 1_000);
    }
    (world, alice)
}

fn prefer(world: &mut World, visitor: Visitor, seen: &Subscription, spatial: u8) {
    let data = json!({ "consumerId": seen.id, "spatialLayer": spatial });
    assert_eq!(world.say(visitor, "set-preferred-layers", data)["type"], "ok");
}

/// Bits a second that the receiver gets over two seconds.
fn rate(world: &mut World, seen: &Subscription) -> u64 {
    let before = world.sink(seen).octets;
    world.run(seconds(2));
    (world.sink(seen).octets - before) * 4
}

fn spatial(told: &[Value]) -> Vec<Option<u64>> {
    told.iter().map(|data| data["spatialLayer"].as_u64()).collect()
}

#[test]
fn a_preference_moves_the_receiver_down_and_up_without_a_hole() {
    for shards in [1, 2] {
        let (mut world, alice) = room(shards, 5);
        let bob = Page::join(&mut world, "bob", CLEAN);
        world.say(bob.visitor, "subscribe", Value::Null);
        let video = world.publish(&alice.send, &simulcast());
        let seen = world.subscribe(&bob.recv, Some(&video.id));
        world.run(seconds(4));
        assert_eq!(metric(&world.metrics(shards - 1), "relayed_sources"), i64::from(shards - 1));
        let highest = rate(&mut world, &seen);
        world.heard(bob.visitor, "consumer-layers-changed");
        let mut rates = vec![highest];
        for wanted in [0, 1, 0, 2, 1, 2] {
            prefer(&mut world, bob.visitor, &seen, wanted);
            world.run(seconds(1));
            let told = spatial(&world.heard(bob.visitor, "consumer-layers-changed"));
            assert_eq!(told, [Some(u64::from(wanted))], "{shards} shards");
            rates.push(rate(&mut world, &seen));
        }
        assert!(rates.iter().all(|rate| *rate > 10_000), "{rates:?}");
        assert!(rates[1] * 2 < rates[2] && rates[2] * 2 < rates[0], "{rates:?}");
        let stats = world.sink(&seen);
        assert_eq!((stats.lost, stats.nacked, stats.frames_dropped, stats.plis), (0, 0, 0, 0), "{stats:?}");
        assert_eq!(stats.key_frames_decoded, 2 + 6, "one for each switch: {stats:?}");
        assert!(stats.longest_freeze < millis(150), "{stats:?}");
    }
}

/// Listed h, m, l, as the W3C's example has it, and with OBS' rids.
#[test]
fn layer_0_is_the_smallest_whatever_the_order_of_the_list() {
    for (shards, scaled) in [(1, true), (2, true), (1, false), (2, false)] {
        let (mut world, alice) = room(shards, 9);
        let what = format!("{shards} shards, scaled: {scaled}");
        let bob = Page::join(&mut world, "bob", CLEAN);
        world.say(bob.visitor, "subscribe", Value::Null);
        world.say(alice.visitor, "subscribe", Value::Null);
        let media =
            Media { rids: &["2", "1", "0"], listing: EncodingListing { largest_first: true, scaled }, ..simulcast() };
        let video = world.publish(&alice.send, &media);
        let seen = world.subscribe(&bob.recv, Some(&video.id));
        // Where nothing is stated and pictures are alike it takes 5 s to measure the rate of each.
        world.run(seconds(if scaled { 3 } else { 8 }));
        assert!(rate(&mut world, &seen) > 800_000, "without a limit it gets the largest: {what}");
        assert_eq!(spatial(&world.heard(bob.visitor, "consumer-layers-changed")).last(), Some(&Some(2)), "{what}");
        let mut rates = Vec::new();
        for wanted in [0, 1, 2, 0] {
            prefer(&mut world, bob.visitor, &seen, wanted);
            world.run(seconds(1));
            let told = spatial(&world.heard(bob.visitor, "consumer-layers-changed"));
            assert_eq!(told, [Some(u64::from(wanted))], "{what}");
            rates.push(rate(&mut world, &seen));
        }
        assert!(rates[0] * 2 < rates[1] && rates[1] * 2 < rates[2] && rates[3] * 2 < rates[1], "{what}: {rates:?}");
        world.run(seconds(4));
        let told = world.heard(alice.visitor, "producer-layers");
        let told = told.last().expect("nobody watches the upper two");
        assert_eq!(told["spatialLayers"], json!([true, false, false]), "{what}");
        let encoding = |rid: &str, layer: u8| json!({ "rid": rid, "spatialLayer": layer, "wanted": layer == 0 });
        assert_eq!(told["encodings"], json!([encoding("2", 2), encoding("1", 1), encoding("0", 0)]), "{what}");
        // A page that follows the notification keeps the one that is watched.
        for at in 0..2 {
            world.encoding(&video, at).set_active(false);
        }
        let before = world.sink(&seen).frames_decoded;
        world.run(seconds(5));
        let stats = world.sink(&seen);
        assert!(stats.frames_decoded - before >= 149, "{what}: {stats:?}");
        assert_eq!((stats.lost, stats.nacked, stats.frames_dropped, stats.plis), (0, 0, 0, 0), "{what}: {stats:?}");
        assert!(stats.longest_freeze < millis(150), "{what}: {stats:?}");
    }
}

#[test]
fn behind_a_narrow_path_the_middle_one_flows_whatever_the_order_of_the_list() {
    let narrow = LinkSettings { rate: Some(Bitrate::kbps(600)), queue_max: millis(300), ..CLEAN };
    for (largest_first, scaled) in [(false, true), (true, true), (true, false)] {
        let (mut world, alice) = room(1, 10);
        let bob = Page::join(&mut world, "bob", narrow);
        world.end(bob.recv.end).browser.arrivals = Some(Default::default());
        world.say(bob.visitor, "subscribe", Value::Null);
        let video =
            world.publish(&alice.send, &Media { listing: EncodingListing { largest_first, scaled }, ..simulcast() });
        let seen = world.subscribe(&bob.recv, Some(&video.id));
        world.run(seconds(20));
        let told = world.heard(bob.visitor, "consumer-layers-changed");
        let rate = rate(&mut world, &seen);
        let what = format!("largest first: {largest_first}, scaled: {scaled}: {rate}, {:?}", spatial(&told));
        assert!((200_000..300_000).contains(&rate) && spatial(&told).last() == Some(&Some(1)), "{what}");
    }
}

#[test]
fn a_publisher_hears_which_encodings_are_watched() {
    for shards in [1, 2] {
        let (mut world, alice) = room(shards, 6);
        world.say(alice.visitor, "subscribe", Value::Null);
        let bob = Page::join(&mut world, "bob", CLEAN);
        let carol = Page::join(&mut world, "carol", CLEAN);
        let video = world.publish(&alice.send, &simulcast());
        let layers = |world: &mut World| -> Vec<Value> {
            let told = world.heard(alice.visitor, "producer-layers");
            assert!(told.iter().all(|data| data["id"] == video.id.as_str()));
            told.into_iter().map(|data| data["spatialLayers"].clone()).collect()
        };
        world.run(seconds(5));
        assert_eq!(layers(&mut world), [json!([false, false, false])], "nobody, for 3 s");
        let first = world.subscribe(&bob.recv, Some(&video.id));
        world.run(millis(400));
        assert_eq!(layers(&mut world), [json!([true, true, true])], "at once");
        let second = world.subscribe(&carol.recv, Some(&video.id));
        prefer(&mut world, bob.visitor, &first, 0);
        world.run(seconds(5));
        assert!(layers(&mut world).is_empty(), "the other wants all of them");
        prefer(&mut world, carol.visitor, &second, 1);
        world.run(seconds(2));
        prefer(&mut world, carol.visitor, &second, 2);
        world.run(seconds(2));
        assert!(layers(&mut world).is_empty(), "not for so short");
        prefer(&mut world, carol.visitor, &second, 1);
        world.run(seconds(5));
        assert_eq!(layers(&mut world), [json!([true, true, false])]);
        world.say(carol.visitor, "pause-consumer", json!({ "consumerId": second.id }));
        world.run(seconds(5));
        assert_eq!(layers(&mut world), [json!([true, false, false])]);
        bob.leave(&mut world);
        world.run(seconds(5));
        assert_eq!(layers(&mut world), [json!([false, false, false])], "{shards} shards");
    }
}

#[test]
fn what_is_watched_follows_the_pauses_and_ends_of_consumers() {
    let svc = Media { scalability: Scalability::L3T3, bitrate: Bitrate::mbps(1), ..Media::video(Codec::Vp9) };
    for (shards, media) in [(1, simulcast()), (2, simulcast()), (1, svc.clone()), (2, svc)] {
        let (mut world, alice) = room(shards, 7);
        let what = format!("{shards} shards, {:?}", media.codec);
        world.say(alice.visitor, "subscribe", Value::Null);
        let bob = Page::join(&mut world, "bob", CLEAN);
        let carol = Page::join(&mut world, "carol", CLEAN);
        let video = world.publish(&alice.send, &media);
        let told = |world: &mut World, after| -> Vec<Value> {
            world.run(after);
            let told = world.heard(alice.visitor, "producer-layers");
            told.into_iter().map(|data| data["spatialLayers"].clone()).collect()
        };
        let [none, lowest, all] = [0, 1, 3].map(|count| json!([count > 0, count > 1, count > 2]));
        let first = world.subscribe(&bob.recv, Some(&video.id));
        assert!(
            told(&mut world, seconds(4)).is_empty(),
            "all are taken to be wanted until it is told otherwise: {what}"
        );
        let order = |world: &mut World, visitor, kind: &str, id: &str| {
            assert_eq!(world.say(visitor, kind, json!({ "consumerId": id }))["type"], "ok", "{kind}");
        };
        order(&mut world, bob.visitor, "pause-consumer", &first.id);
        assert!(told(&mut world, seconds(2)).is_empty(), "not for so short: {what}");
        order(&mut world, bob.visitor, "resume-consumer", &first.id);
        assert!(told(&mut world, seconds(5)).is_empty(), "{what}");
        order(&mut world, bob.visitor, "pause-consumer", &first.id);
        assert_eq!(told(&mut world, seconds(5)), std::slice::from_ref(&none), "paused: {what}");
        order(&mut world, bob.visitor, "resume-consumer", &first.id);
        assert_eq!(told(&mut world, millis(400)), std::slice::from_ref(&all), "resumed, at once: {what}");
        let second = world.subscribe(&carol.recv, Some(&video.id));
        prefer(&mut world, carol.visitor, &second, 0);
        assert!(told(&mut world, seconds(5)).is_empty(), "{what}");
        order(&mut world, bob.visitor, "close-consumer", &first.id);
        assert_eq!(told(&mut world, seconds(5)), std::slice::from_ref(&lowest), "the other wants one: {what}");
        order(&mut world, carol.visitor, "close-consumer", &second.id);
        assert_eq!(told(&mut world, seconds(5)), std::slice::from_ref(&none), "nobody is left: {what}");
        world.subscribe(&bob.recv, Some(&video.id));
        assert_eq!(told(&mut world, millis(400)), std::slice::from_ref(&all), "{what}");
    }
}

#[test]
fn a_shared_screen_keeps_its_encoding_at_a_frame_a_second_and_leaves_it_once_it_has_stopped() {
    for shards in [1, 2] {
        let (mut world, alice) = room(shards, 8);
        let bob = Page::join(&mut world, "bob", CLEAN);
        world.say(bob.visitor, "subscribe", Value::Null);
        let video = world.publish(&alice.send, &Media { frame_rate: 1, bitrate: Bitrate::kbps(300), ..simulcast() });
        let seen = world.subscribe(&bob.recv, Some(&video.id));
        world.run(seconds(6));
        let told = |world: &mut World| spatial(&world.heard(bob.visitor, "consumer-layers-changed"));
        assert_eq!(told(&mut world).last(), Some(&Some(2)), "{shards} shards");
        let before = world.sink(&seen).frames_decoded;
        world.run(seconds(60));
        assert!(told(&mut world).is_empty(), "{shards} shards");
        assert_eq!(world.sink(&seen).frames_decoded - before, 60);
        world.encoding(&video, 2).set_active(false);
        // Nothing comes of a stopped encoding while the others begin eight frames, four each.
        world.run(seconds(7));
        assert_eq!(told(&mut world), [Some(1)], "{shards} shards");
        let before = world.sink(&seen).frames_decoded;
        world.run(seconds(10));
        assert_eq!(world.sink(&seen).frames_decoded - before, 10);
        world.encoding(&video, 2).set_active(true);
        world.run(seconds(5));
        assert_eq!(told(&mut world), [Some(2)], "{shards} shards: it came back");
    }
}
