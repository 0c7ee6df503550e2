//! Receivers behind links that are too narrow: audio stays whole, video goes and comes back, nobody else notices.

use serde_json::{Value, json};
use weirgate::base::time::Duration;
use weirgate::base::units::Bitrate;
use weirgate::sim::decoder::Strictness;
use weirgate::sim::link::LinkSettings;
use weirgate::sim::scalability::Scalability;
use weirgate::sim::script::Media;
use weirgate::sim::visitor::{Publication, Subscription, metric};
use weirgate::sim::world::World;
use weirgate::wire::codec::Codec;

use crate::support::{AUDIO, CLEAN, DELAY, Page, VIDEO, seconds};

fn narrow(kbps: u64) -> LinkSettings {
    LinkSettings { rate: Some(Bitrate::kbps(kbps)), queue_max: Duration::from_secs(1), ..LinkSettings::clean(DELAY) }
}

/// A page that tells by transport-cc what reaches it over `link`.
fn viewer(world: &mut World, user: &str, link: LinkSettings) -> Page {
    let page = Page::join(world, user, CLEAN);
    world.ask(page.visitor, "subscribe", Value::Null);
    set_link(world, &page, link);
    world.end(page.recv.end).browser.arrivals = Some(Default::default());
    page
}

fn set_link(world: &mut World, page: &Page, link: LinkSettings) {
    world.end(page.recv.end).down.settings = link;
}

fn bandwidth(world: &mut World, page: &Page) -> u64 {
    let stats = world.ask(page.visitor, "get-stats", json!({ "transportId": page.recv.id }));
    stats["availableOutgoingBitrate"].as_u64().unwrap_or_default() / 1_000
}

fn decoded(world: &World, subscription: &Subscription) -> u64 {
    world.sink(subscription).frames_decoded
}

#[test]
fn behind_300_kbits_audio_stays_whole_and_video_pauses_until_the_link_opens() {
    for seed in 0..4 {
        let mut world = World::seeded(seed);
        let alice = Page::join(&mut world, "alice", CLEAN);
        let audio = world.publish(&alice.send, &AUDIO);
        let video = world.publish(&alice.send, &VIDEO);
        let bob = viewer(&mut world, "bob", CLEAN);
        let carol = viewer(&mut world, "carol", CLEAN);
        let heard = world.subscribe(&bob.recv, Some(&audio.id));
        let seen = world.subscribe(&bob.recv, Some(&video.id));
        let carols = world.subscribe(&carol.recv, Some(&video.id));
        world.run(seconds(5));
        assert!(decoded(&world, &seen) > 130, "seed {seed}");
        assert!(world.heard(bob.visitor, "consumer-layers-changed").is_empty(), "seed {seed}: there was enough");

        set_link(&mut world, &bob, narrow(300));
        world.run(seconds(3));
        let told = world.heard(bob.visitor, "consumer-layers-changed");
        assert_eq!(told.len(), 1, "seed {seed}: {told:?}");
        let expected = json!({ "id": seen.id, "producerId": video.id, "spatialLayer": null, "temporalLayer": null,
            "reason": "bandwidth" });
        assert_eq!(told[0], expected);
        assert!(bandwidth(&mut world, &bob) < 330, "seed {seed}");
        let (frames, packets) = (decoded(&world, &seen), world.sink(&heard));
        world.run(seconds(20));
        assert_eq!(decoded(&world, &seen), frames, "seed {seed}: paused");
        let now = world.sink(&heard);
        assert!(now.frames_decoded - packets.frames_decoded >= 990, "seed {seed}: {now:?}");
        assert_eq!(now.lost, packets.lost, "seed {seed}: not one packet of audio");
        assert!(now.lost <= 5, "seed {seed}: {now:?}");

        set_link(&mut world, &bob, CLEAN);
        let back = world.wait(seconds(15), |world| decoded(world, &seen) > frames + 30);
        assert!(back.is_some(), "seed {seed}: not back within 15 s, {} kbit/s", bandwidth(&mut world, &bob));
        let told = world.heard(bob.visitor, "consumer-layers-changed");
        assert_eq!((told.len(), &told[0]["spatialLayer"]), (1, &json!(0)), "seed {seed}: {told:?}");
        assert!(decoded(&world, &carols) > 28 * 30 && world.sink(&carols).longest_freeze < Duration::from_millis(100));
        let metrics = world.metrics(0);
        assert!(metric(&metrics, "bandwidth_probes") > 0 && metric(&metrics, "consumers_without_bandwidth") == 0);
        let stray = world.end(bob.recv.end).browser.stray();
        let padding = world.sink(&seen).padding_only;
        assert!(stray == 0 && padding > 0, "seed {seed}: probes are padding on RTX");
    }
}

/// The rate of the subscription in kbit/s over the next seconds.
fn rate(world: &mut World, seen: &Subscription, span: u64) -> u64 {
    let before = world.sink(seen).octets;
    world.run(seconds(span));
    (world.sink(seen).octets - before) * 8 / span / 1_000
}

/// The spatial layers that the page was told since the last call.
fn told_layers(world: &mut World, page: &Page) -> Vec<Value> {
    let told = world.heard(page.visitor, "consumer-layers-changed");
    told.into_iter().map(|mut told| told["spatialLayer"].take()).collect()
}

#[test]
fn simulcast_goes_down_to_the_encoding_that_fits_and_up_again() {
    let media = Media { rids: &["l", "m", "h"], bitrate: Bitrate::kbps(1_600), ..Media::video(Codec::Vp8) };
    let mut world = World::seeded(3);
    let alice = Page::join(&mut world, "alice", CLEAN);
    let audio = world.publish(&alice.send, &AUDIO);
    let video = world.publish(&alice.send, &media);
    let bob = viewer(&mut world, "bob", CLEAN);
    let heard = world.subscribe(&bob.recv, Some(&audio.id));
    let seen = world.subscribe(&bob.recv, Some(&video.id));
    world.run(seconds(5));
    assert!(rate(&mut world, &seen, 5) > 1_200, "the highest");
    assert_eq!(told_layers(&mut world, &bob).last(), Some(&json!(2)));
    set_link(&mut world, &bob, narrow(300));
    world.run(seconds(3));
    let low = rate(&mut world, &seen, 10);
    assert!((80..180).contains(&low), "the lowest has 100 kbit/s: {low}");
    let told = told_layers(&mut world, &bob);
    assert!(told.contains(&json!(0)) && !told.contains(&json!(2)), "{told:?}");
    set_link(&mut world, &bob, CLEAN);
    world.run(seconds(15));
    assert!(rate(&mut world, &seen, 5) > 1_200, "and back");
    assert_eq!(told_layers(&mut world, &bob).last(), Some(&json!(2)));
    // Five times what the link carries fills its queue before any feedback tells of it.
    assert!(world.sink(&heard).lost <= 60, "{:?}", world.sink(&heard));
}

#[test]
fn svc_goes_down_to_the_layers_that_fit_without_a_freeze_and_up_again() {
    for (seed, scalability) in (8..).zip([Scalability::L3T3, Scalability::L3T3Key]) {
        let media = Media { scalability, bitrate: Bitrate::kbps(1_600), ..Media::video(Codec::Vp9) };
        let mut world = World::seeded(seed);
        let alice = Page::join(&mut world, "alice", CLEAN);
        let video = world.publish(&alice.send, &media);
        let bob = viewer(&mut world, "bob", CLEAN);
        let seen = world.subscribe(&bob.recv, Some(&video.id));
        world.judge(&seen, Strictness::FULL);
        world.run(seconds(5));
        assert!(rate(&mut world, &seen, 5) > 1_200, "{scalability:?}: all of it");
        assert_eq!(told_layers(&mut world, &bob).last(), Some(&json!(2)));
        set_link(&mut world, &bob, narrow(700));
        world.run(seconds(5));
        let (frames, low) = (decoded(&world, &seen), rate(&mut world, &seen, 10));
        assert!((60..700).contains(&low), "{scalability:?}: {low}");
        // The lowest of three temporal layers has a quarter of the pictures.
        let frames = decoded(&world, &seen) - frames;
        assert!(frames >= 70, "{scalability:?}: it flows on: {frames} in 10 s");
        let told = world.heard(bob.visitor, "consumer-layers-changed");
        let last = told.last().expect("it was told");
        assert!((&last["spatialLayer"], &last["temporalLayer"]) != (&json!(2), &json!(2)), "{told:?}");
        set_link(&mut world, &bob, CLEAN);
        world.run(seconds(15));
        assert!(rate(&mut world, &seen, 5) > 1_200, "{scalability:?}: and back");
        assert_eq!(told_layers(&mut world, &bob).last(), Some(&json!(2)));
        // Whether those that the full link lost could be repaired in time is not judged here.
        let faults: Vec<_> = world.decoder(&seen).faults().iter().collect();
        assert!(faults.is_empty(), "{scalability:?}: {faults:?}");
    }
}

#[test]
fn who_prefers_little_takes_nothing_from_the_others() {
    let media = Media { rids: &["l", "m", "h"], bitrate: Bitrate::kbps(1_600), ..Media::video(Codec::Vp8) };
    let mut world = World::seeded(9);
    let alice = Page::join(&mut world, "alice", CLEAN);
    let large = world.publish(&alice.send, &media);
    let plain = world.publish(&alice.send, &Media { mid: "2", ..VIDEO });
    let bob = viewer(&mut world, "bob", CLEAN);
    let [large, plain] = [&large, &plain].map(|video| world.subscribe(&bob.recv, Some(&video.id)));
    world.ask(bob.visitor, "set-preferred-layers", json!({ "consumerId": large.id, "spatialLayer": 0 }));
    world.ask(bob.visitor, "set-priority", json!({ "consumerId": large.id, "priority": 200 }));
    world.run(seconds(5));
    for kbps in [1_400, 1_100] {
        set_link(&mut world, &bob, narrow(kbps));
        world.run(seconds(20));
        let before = [&large, &plain].map(|seen| decoded(&world, seen));
        assert!((80..180).contains(&rate(&mut world, &large, 10)));
        let frames = [&large, &plain].map(|seen| decoded(&world, seen));
        assert!(frames[0] - before[0] > 290 && frames[1] - before[1] > 290, "{kbps}: {before:?} {frames:?}");
    }
}

#[test]
fn what_does_not_fit_goes_down_in_frame_rate_before_it_pauses() {
    let media = Media { scalability: Scalability::L1T3, ..VIDEO };
    let mut world = World::seeded(10);
    let alice = Page::join(&mut world, "alice", CLEAN);
    let video = world.publish(&alice.send, &media);
    let bob = viewer(&mut world, "bob", CLEAN);
    let seen = world.subscribe(&bob.recv, Some(&video.id));
    world.judge(&seen, Strictness::FULL);
    world.run(seconds(5));
    assert!(rate(&mut world, &seen, 5) > 600, "all of it");
    set_link(&mut world, &bob, narrow(500));
    world.run(seconds(5));
    let before = decoded(&world, &seen);
    let low = rate(&mut world, &seen, 10);
    let frames = decoded(&world, &seen) - before;
    assert!((120..500).contains(&low) && (70..200).contains(&frames), "{low} kbit/s, {frames} frames in 10 s");
    let told = world.heard(bob.visitor, "consumer-layers-changed");
    let last = told.last().expect("it was told");
    assert!(last["spatialLayer"] == 0 && last["temporalLayer"].as_u64() < Some(2), "{told:?}");
    set_link(&mut world, &bob, CLEAN);
    world.run(seconds(15));
    assert!(rate(&mut world, &seen, 5) > 600, "and back");
    let faults: Vec<_> = world.decoder(&seen).faults().iter().collect();
    assert!(faults.is_empty(), "{faults:?}");
}

/// Two videos of Alice's, and Bob who watches both over a path that has room for one.
struct TwoVideos {
    world: World,
    alice: Page,
    first: Publication,
    seen: [Subscription; 2],
}

fn two_videos_for_one(seed: u64, preferred: usize) -> TwoVideos {
    let mut world = World::seeded(seed);
    let alice = Page::join(&mut world, "alice", CLEAN);
    let first = world.publish(&alice.send, &VIDEO);
    let second = world.publish(&alice.send, &Media { mid: "2", ..VIDEO });
    let bob = viewer(&mut world, "bob", CLEAN);
    let seen = [&first, &second].map(|video| world.subscribe(&bob.recv, Some(&video.id)));
    world.ask(bob.visitor, "set-priority", json!({ "consumerId": seen[preferred].id, "priority": 10 }));
    world.run(seconds(3));
    set_link(&mut world, &bob, narrow(1_000));
    world.run(seconds(10));
    TwoVideos { world, alice, first, seen }
}

#[test]
fn a_producer_that_pauses_leaves_its_share_to_the_others_until_it_resumes() {
    let TwoVideos { mut world, alice, first, seen } = two_videos_for_one(11, 0);
    let share = |world: &mut World| {
        let before = seen.each_ref().map(|seen| decoded(world, seen));
        world.run(seconds(5));
        [0, 1].map(|at: usize| decoded(world, &seen[at]) - before[at])
    };
    let frames = share(&mut world);
    assert!(frames[0] > 140 && frames[1] == 0, "one fits, the first: {frames:?}");
    world.ask(alice.visitor, "pause-producer", json!({ "producerId": first.id }));
    let passes = decoded(&world, &seen[1]);
    let taken = world.wait(seconds(4), |world| decoded(world, &seen[1]) > passes + 15);
    assert!(taken.is_some(), "the other has not got its share");
    world.ask(alice.visitor, "resume-producer", json!({ "producerId": first.id }));
    world.run(seconds(8));
    let frames = share(&mut world);
    assert!(frames[0] > 140 && frames[1] == 0, "the first has it back: {frames:?}");
}

#[test]
fn who_sends_no_feedback_and_who_has_room_is_not_held_back() {
    let mut world = World::seeded(5);
    let alice = Page::join(&mut world, "alice", CLEAN);
    let video = world.publish(&alice.send, &Media { bitrate: Bitrate::kbps(3_000), ..VIDEO });
    let bob = viewer(&mut world, "bob", CLEAN);
    let carol = Page::join(&mut world, "carol", CLEAN);
    let seen = [&bob, &carol].map(|page| world.subscribe(&page.recv, Some(&video.id)));
    world.run(seconds(30));
    for subscription in &seen {
        let stats = world.sink(subscription);
        assert!(stats.frames_decoded > 29 * 30 && stats.longest_freeze < Duration::from_millis(60), "{stats:?}");
        assert_eq!(stats.lost + stats.frames_dropped, 0, "{stats:?}");
    }
    assert!(bandwidth(&mut world, &bob) > 3_000);
    assert_eq!(bandwidth(&mut world, &carol), 0, "nothing is known of it");
}

#[test]
fn priority_decides_who_is_seen_where_not_all_can_be() {
    let TwoVideos { mut world, seen, .. } = two_videos_for_one(6, 1);
    let before = seen.each_ref().map(|seen| decoded(&world, seen));
    world.run(seconds(10));
    let frames = [0, 1].map(|at: usize| decoded(&world, &seen[at]) - before[at]);
    assert!(frames[0] == 0 && frames[1] > 280, "{frames:?}");
}

#[test]
fn a_client_bounds_what_it_is_sent_and_what_it_sends() {
    let mut world = World::seeded(7);
    let alice = Page::join(&mut world, "alice", CLEAN);
    let video = world.publish(&alice.send, &VIDEO);
    let bob = Page::join(&mut world, "bob", CLEAN);
    world.ask(bob.visitor, "subscribe", Value::Null);
    let seen = world.subscribe(&bob.recv, Some(&video.id));
    world.run(seconds(3));
    let bound = |rate: u64| json!({ "transportId": bob.recv.id, "maxOutgoingBitrate": rate });
    world.ask(bob.visitor, "set-max-bitrate", bound(400_000));
    world.run(seconds(1));
    let frames = decoded(&world, &seen);
    assert_eq!(world.heard(bob.visitor, "consumer-layers-changed").len(), 1);
    world.run(seconds(5));
    assert!(decoded(&world, &seen) <= frames + 1, "700 kbit/s do not fit into 400");
    world.ask(bob.visitor, "set-max-bitrate", bound(0));
    world.run(seconds(2));
    assert!(decoded(&world, &seen) > frames + 50);

    let data = json!({ "transportId": alice.send.id, "maxIncomingBitrate": 250_000 });
    world.ask(alice.visitor, "set-max-bitrate", data);
    world.run(seconds(2));
    let told = world.end(alice.send.end).browser.feedback().remb.expect("REMB says it");
    assert!((249_000..=250_000).contains(&told.bps()), "{told:?}");
}

#[test]
fn what_a_short_queue_loses_is_not_resent_until_it_is_full_for_good() {
    let near = LinkSettings::clean(Duration::from_millis(1));
    let short = LinkSettings { queue_max: Duration::from_millis(250), rate: Some(Bitrate::kbps(300)), ..near };
    let media = Media { rids: &["l", "h"], bitrate: Bitrate::kbps(600), frame_rate: 15, ..Media::video(Codec::Vp8) };
    for seed in 0..8 {
        let mut world = World::seeded(seed);
        let alice = Page::join(&mut world, "alice", near);
        let audio = world.publish(&alice.send, &AUDIO);
        let video = world.publish(&alice.send, &media);
        let bob = viewer(&mut world, "bob", near);
        let heard = world.subscribe(&bob.recv, Some(&audio.id));
        let seen = world.subscribe(&bob.recv, Some(&video.id));
        world.run(seconds(8));
        set_link(&mut world, &bob, short);
        let before = world.sink(&heard).lost;
        world.run(seconds(3));
        let (lost, frames) = (world.sink(&heard).lost - before, decoded(&world, &seen));
        world.run(seconds(6));
        let (later, frames) = (world.sink(&heard).lost - before - lost, decoded(&world, &seen) - frames);
        // Some while the queue is full, none when the smaller picture flows.
        assert!(lost <= 15 && later <= 2, "seed {seed}: {lost} packets of audio, then {later}");
        assert!(frames >= 80, "seed {seed}: {frames} frames in 6 s");
        let given_up = world.metrics(0).drops.iter().any(|(why, count)| *why == "overtaken" && *count > 0);
        assert!(given_up, "seed {seed}: all that was asked for was resent");
    }
}
