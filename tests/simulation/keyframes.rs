//! The beginning, the end and the return of pictures: joining late, pauses, publishers that start over, several
//! encodings.

use std::collections::VecDeque;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use weirgate::base::time::Duration;
use weirgate::base::units::Bitrate;
use weirgate::sim::link::LinkSettings;
use weirgate::sim::scalability::Scalability;
use weirgate::sim::script::Media;
use weirgate::sim::tap::Overheard;
use weirgate::sim::visitor::{Subscription, metric};
use weirgate::sim::world::World;
use weirgate::wire::codec::Codec;

use crate::layers::{PROMISED, Scene, for_all, layered, simulcast};
use crate::support::{CLEAN, Page, Pair, VIDEO, millis, seconds};

/// The packets that the receiver was sent on the media SSRC.
fn sent_to(world: &mut World, subscription: &Subscription) -> Vec<Overheard> {
    let tap = world.end(subscription.end).tap_down.as_ref().expect("it is tapped");
    assert_eq!(tap.refused(), 0);
    tap.heard().iter().filter(|heard| heard.ssrc == subscription.ssrc).cloned().collect()
}

/// One number after the other, one time after the other.
fn assert_without_gap(packets: &[Overheard]) {
    assert!(packets.len() > 50);
    for pair in packets.windows(2) {
        assert_eq!(pair[1].seq.ahead_of(pair[0].seq), 1, "{:?}", pair[1].sent_at);
        let ahead = pair[1].timestamp.wrapping_sub(pair[0].timestamp) as i32;
        let new_frame = pair[0].marker;
        assert!(if new_frame { ahead > 0 } else { ahead == 0 }, "{ahead} at {:?}", pair[1].sent_at);
    }
}

#[test]
fn a_late_joiner_gets_a_picture_within_a_round_trip_and_the_source_is_asked_once() {
    for codec in [Codec::Vp8, Codec::Vp9, Codec::H264, Codec::Av1] {
        let mut pair = Pair::new(World::seeded(10), &Media::video(codec), CLEAN);
        let world = &mut pair.world;
        world.run(seconds(2));
        let carol = Page::join(world, "carol", CLEAN);
        let dave = Page::join(world, "dave", CLEAN);
        let before = world.source(&pair.video).stats();
        let seen = [&carol, &dave].map(|page| world.subscribe(&page.recv, Some(&pair.video.id)));
        for subscription in &seen {
            let waited = world.wait(seconds(1), |world| world.sink(subscription).first_decoded_at.is_some());
            // Up to the publisher and back, its next frame, down to the receiver.
            assert!(waited.is_some_and(|waited| waited <= millis(20 + 34 + 20 + 20 + 2)), "{codec:?} {waited:?}");
        }
        world.run(seconds(3));
        let after = world.source(&pair.video).stats();
        assert_eq!(after.key_frames_requested - before.key_frames_requested, 1, "{codec:?}: one request for both");
        assert_eq!(after.key_frames - before.key_frames, 1);
        let stats = world.sink(&seen[1]);
        assert_eq!((stats.lost, stats.frames_dropped, stats.plis), (0, 0, 0), "{stats:?}");
    }
}

#[test]
fn a_keyframe_whose_start_is_repaired_late_is_forwarded_whole() {
    let mut world = World::seeded(18);
    let alice = Page::join(&mut world, "alice", CLEAN);
    let video = world.publish(&alice.send, &VIDEO);
    world.end(alice.send.end).up.settings.loss = 0.15;
    for n in 0..40 {
        let guest = Page::join(&mut world, &format!("guest {n}"), CLEAN);
        let seen = world.subscribe(&guest.recv, Some(&video.id));
        world.run(millis(700));
        let stats = world.sink(&seen);
        assert!(stats.frames_decoded >= 8 && stats.lost + stats.frames_dropped + stats.plis == 0, "{n}: {stats:?}");
        guest.leave(&mut world);
    }
    let metrics = world.metrics(0);
    assert_eq!(metric(&metrics, "egress_full"), 0);
    assert!(metric(&metrics, "key_frames_requested") < 120);
}

#[test]
fn who_consumes_before_connecting_gets_the_picture_when_connected() {
    let mut pair = Pair::new(World::seeded(11), &VIDEO, CLEAN);
    let world = &mut pair.world;
    let carol = world.join("carol", "room");
    let recv = world.transport(carol, "recv", CLEAN);
    let seen = world.subscribe(&recv, Some(&pair.video.id));
    world.connect(&recv);
    let waited = world.wait(seconds(1), |world| world.sink(&seen).first_decoded_at.is_some());
    assert!(waited.is_some_and(|waited| waited <= millis(100)), "{waited:?}");
}

#[test]
fn a_publisher_that_starts_over_with_new_ssrcs_leaves_no_gap() {
    for codec in [Codec::Vp8, Codec::Opus] {
        let media = if codec.is_video() { VIDEO } else { Media::audio() };
        let mut world = World::seeded(12);
        let alice = Page::join(&mut world, "alice", CLEAN);
        let bob = Page::join(&mut world, "bob", CLEAN);
        world.tap(bob.recv.end);
        let mut stream = world.publish(&alice.send, &media);
        let seen = world.subscribe(&bob.recv, Some(&stream.id));
        for _ in 0..4 {
            world.run(seconds(1));
            world.replace_source(&mut stream);
        }
        world.run(seconds(1));
        let stats = world.sink(&seen);
        assert_eq!((stats.lost, stats.nacked, stats.frames_dropped), (0, 0, 0), "{codec:?} {stats:?}");
        assert!(stats.frames_decoded > if codec.is_video() { 140 } else { 235 }, "{codec:?} {stats:?}");
        assert!(stats.longest_freeze <= millis(70), "{codec:?} {stats:?}");
        let sent = sent_to(&mut world, &seen);
        if codec.is_video() {
            assert_without_gap(&sent);
        } else {
            assert!(sent.windows(2).all(|pair| pair[1].seq.ahead_of(pair[0].seq) == 1));
        }
    }
}

#[test]
fn numbers_that_jump_on_the_same_ssrc_leave_no_gap() {
    let mut pair = Pair::new(World::seeded(13), &VIDEO, CLEAN);
    let world = &mut pair.world;
    let bob = pair.seen.end;
    world.tap(bob);
    for by in [3_500, 9_000, 20_000] {
        world.run(seconds(1));
        world.source(&pair.video).jump(by);
        world.run(seconds(1));
        let stats = world.sink(&pair.seen);
        // The first packets must confirm the jump, so that keyframe is lost and another one asked for.
        assert!(stats.longest_freeze <= millis(600), "{by}: {stats:?}");
        assert!(world.now().since(stats.last_decoded_at.unwrap()) < millis(60), "{by}: {stats:?}");
        assert_eq!((stats.lost, stats.nacked), (0, 0), "{by}: {stats:?}");
    }
    assert_without_gap(&sent_to(world, &pair.seen));
}

#[test]
fn a_paused_consumer_gets_nothing_and_goes_on_without_a_gap() {
    let mut pair = Pair::new(World::seeded(14), &VIDEO, CLEAN);
    let world = &mut pair.world;
    world.tap(pair.seen.end);
    for _ in 0..3 {
        world.ask(pair.seen.visitor, "pause-consumer", json!({ "consumerId": pair.seen.id }));
        world.run(millis(100));
        let before = world.sink(&pair.seen);
        world.run(seconds(1));
        assert_eq!(world.sink(&pair.seen).packets, before.packets);
        let asked = world.source(&pair.video).stats().key_frames_requested;
        world.ask(pair.seen.visitor, "resume-consumer", json!({ "consumerId": pair.seen.id }));
        let waited =
            world.wait(seconds(1), |world| world.sink(&pair.seen).key_frames_decoded > before.key_frames_decoded);
        assert!(waited.is_some_and(|waited| waited <= millis(100)), "{waited:?}");
        world.run(seconds(1));
        assert_eq!(world.source(&pair.video).stats().key_frames_requested - asked, 1);
    }
    let stats = world.sink(&pair.seen);
    assert_eq!((stats.lost, stats.nacked, stats.frames_dropped), (0, 0, 0), "{stats:?}");
    assert_without_gap(&sent_to(world, &pair.seen));
}

#[test]
fn a_paused_producer_is_silent_for_all_and_goes_on_without_a_gap() {
    let mut pair = Pair::new(World::seeded(15), &VIDEO, CLEAN);
    let world = &mut pair.world;
    world.tap(pair.seen.end);
    world.ask(pair.bob.visitor, "subscribe", json!({}));
    world.ask(pair.alice.visitor, "pause-producer", json!({ "producerId": pair.video.id }));
    world.run(millis(100));
    let before = world.sink(&pair.seen);
    // A new joiner is told, and waits.
    let carol = Page::join(world, "carol", CLEAN);
    let late = world.subscribe(&carol.recv, Some(&pair.video.id));
    world.run(seconds(2));
    assert_eq!((world.sink(&pair.seen).packets, world.sink(&late).packets), (before.packets, 0));
    world.ask(pair.alice.visitor, "resume-producer", json!({ "producerId": pair.video.id }));
    for subscription in [&pair.seen, &late] {
        let waited = world.wait(seconds(1), |world| world.sink(subscription).last_decoded_at > before.last_decoded_at);
        assert!(waited.is_some_and(|waited| waited <= millis(100)), "{waited:?}");
    }
    world.run(seconds(1));
    let stats = world.sink(&pair.seen);
    assert_eq!((stats.lost, stats.nacked, stats.frames_dropped), (0, 0, 0), "{stats:?}");
    assert_without_gap(&sent_to(world, &pair.seen));
    let told: Vec<_> = ["producer-paused", "producer-resumed"]
        .iter()
        .map(|kind| world.inbox(pair.bob.visitor).iter().filter(|message| message["type"] == *kind).count())
        .collect();
    assert_eq!(told, [1, 1]);
}

#[test]
fn a_producer_with_the_same_mid_replaces_the_one_before() {
    let mut pair = Pair::new(World::seeded(16), &VIDEO, CLEAN);
    let world = &mut pair.world;
    world.ask(pair.bob.visitor, "subscribe", json!({}));
    // A page that closes its producer without a word, and publishes anew in the same media section.
    let old = pair.video.sources[0];
    world.end(pair.video.end).browser.sources[old].set_paused(true);
    let newer = world.publish(&pair.alice.send, &VIDEO);
    world.run(millis(200));
    let told: Vec<_> = world.heard(pair.bob.visitor, "consumer-closed");
    assert_eq!(told.len(), 1, "{told:?}");
    let seen = world.subscribe(&pair.bob.recv, None);
    assert_eq!(seen.producer, newer.id);
    world.run(seconds(1));
    assert!(world.sink(&seen).frames_decoded > 20);
}

#[test]
fn of_three_encodings_one_is_forwarded_whole_and_it_moves_up_once() {
    let media = Media { rids: &["r0", "r1", "r2"], bitrate: Bitrate::mbps(1), ..VIDEO };
    for resends in [true, false] {
        let media = Media { repair: resends, ..media.clone() };
        let mut world = World::seeded(17);
        let alice = Page::join(&mut world, "alice", CLEAN);
        let bob = Page::join(&mut world, "bob", CLEAN);
        world.tap(bob.recv.end);
        let video = world.publish(&alice.send, &media);
        let seen = world.subscribe(&bob.recv, Some(&video.id));
        world.run(seconds(5));
        let stats = world.sink(&seen);
        assert_eq!((stats.lost, stats.nacked, stats.frames_dropped, stats.plis), (0, 0, 0, 0), "{stats:?}");
        assert_eq!(stats.key_frames_decoded, 2, "the first, and one to move up with: {stats:?}");
        assert!(stats.frames_decoded >= 140, "{stats:?}");
        let before = stats.octets;
        world.run(seconds(2));
        let rate = (world.sink(&seen).octets - before) * 4;
        assert!((900_000..1_150_000).contains(&rate), "the highest, and nothing else: {rate} bit/s");
        assert_without_gap(&sent_to(&mut world, &seen));
        // The highest stops: the receiver is moved to what is left.
        let highest = video.sources[2];
        world.end(video.end).browser.sources[highest].set_paused(true);
        world.run(seconds(4));
        let stats = world.sink(&seen);
        assert!(world.now().since(stats.last_decoded_at.unwrap()) < millis(100), "{stats:?}");
    }
}

#[test]
fn packets_of_the_old_ssrc_that_come_after_the_new_one_turn_nothing_back() {
    const REPLACED: i64 = 20;
    let mut asked_in_all = 0;
    let seeds = 19..27;
    for seed in seeds.clone() {
        let mut world = World::seeded(seed);
        let alice = Page::join(&mut world, "alice", CLEAN);
        let bob = Page::join(&mut world, "bob", CLEAN);
        let mut video = world.publish(&alice.send, &VIDEO);
        let seen = world.subscribe(&bob.recv, Some(&video.id));
        world.run(seconds(1));
        let up = &mut world.end(alice.send.end).up.settings;
        (up.reordering, up.reorder_by) = (0.3, millis(60));
        for _ in 0..REPLACED {
            world.replace_source(&mut video);
            world.run(millis(700));
        }
        let metrics = world.metrics(0);
        let asked = metric(&metrics, "key_frames_requested");
        assert!(asked < REPLACED, "each stream begins with a keyframe: {asked}, seed {seed}");
        asked_in_all += asked;
        // Packets of the old stream that were under way are lost: the receiver gives them up in its own time.
        let stats = world.sink(&seen);
        assert!(stats.longest_freeze <= millis(1_500) && stats.frames_decoded > 380, "seed {seed}: {stats:?}");
    }
    assert!(asked_in_all < REPLACED * seeds.count() as i64 / 2, "for less than half of them: {asked_in_all}");
}

#[test]
fn encodings_over_bad_links_are_forwarded_whole() {
    let media = Media { rids: &["r0", "r1", "r2"], bitrate: Bitrate::mbps(1), ..VIDEO };
    for seed in 80..88 {
        let mut world = World::seeded(seed);
        let alice = Page::join(&mut world, "alice", CLEAN);
        let bob = Page::join(&mut world, "bob", CLEAN);
        let video = world.publish(&alice.send, &media);
        let seen = world.subscribe(&bob.recv, Some(&video.id));
        world.run(millis(300));
        for end in [alice.send.end, bob.recv.end] {
            let end = world.end(end);
            for link in [&mut end.up.settings, &mut end.down.settings] {
                (link.loss, link.reordering, link.duplication) = (0.04, 0.02, 0.01);
            }
        }
        world.run(seconds(8));
        let stats = world.sink(&seen);
        assert!(world.now().since(stats.last_decoded_at.unwrap()) < millis(500), "seed {seed}: {stats:?}");
        assert_eq!((stats.frames_dropped, stats.plis), (0, 0), "seed {seed}: {stats:?}");
        assert_eq!(stats.lost, 0, "seed {seed}: {stats:?}");
        assert_eq!(stats.key_frames_decoded, 2, "seed {seed}: {stats:?}");
    }
}

/// The cost and the time of a hundred joins.
struct Joins {
    /// Keyframes asked of the publisher.
    asked: u64,
    from_history: i64,
    /// For the first picture, sorted.
    waited: Vec<Duration>,
}

/// A guest stays while so many others join.
const STAY: usize = 15;

/// One joins every 100 ms, about, behind a link of its own.
fn a_hundred_join(scene: &mut Scene, seed: u64, apart: bool, link: LinkSettings) -> Joins {
    let mut rng = SmallRng::seed_from_u64(seed);
    let world = &mut scene.world;
    let asked = |world: &mut World| -> u64 {
        let encodings = 0..scene.video.sources.len();
        encodings.map(|at| world.encoding(&scene.video, at).stats().key_frames_requested).sum()
    };
    let asked_before = asked(world);
    let mut guests = VecDeque::new();
    let (mut waited, mut faults) = (Vec::new(), Vec::new());
    for n in 0..100 + STAY {
        if n < 100 {
            let guest = world.join(&format!("guest {n}"), "room");
            let recv = world.transport(guest, "recv", CLEAN);
            world.connect(&recv);
            let joined = world.now();
            let seen = world.subscribe(&recv, Some(&scene.video.id));
            world.judge(&seen, PROMISED);
            guests.push_back((guest, recv, seen, joined, false));
        }
        let next = world.now() + millis(rng.random_range(20..180));
        if n < 100
            && let Some((_, recv, seen, _, begun)) = guests.back_mut()
        {
            // A first packet that is lost is known to nobody, and cannot be asked for.
            *begun = world.wait(next.since(world.now()), |world| world.sink(seen).packets > 0).is_some();
            world.end(recv.end).down.settings = link;
        }
        world.run(next.since(world.now()));
        if n >= STAY {
            let (guest, recv, seen, joined, begun) = guests.pop_front().unwrap();
            waited.push(world.sink(&seen).first_decoded_at.map_or(Duration::MAX, |at| at.since(joined)));
            let judged = if begun || link == CLEAN { 2 } else { 0 };
            faults.extend(world.decoder(&seen).faults().iter().take(judged).cloned());
            world.leave(guest, &[recv.end]);
        }
    }
    waited.sort();
    let asked = asked(world) - asked_before;
    let from_history = (0..=u16::from(apart)).map(|shard| metric(&world.metrics(shard), "replays")).sum();
    scene.expect(faults.is_empty(), &format!("guests saw {faults:?}"));
    Joins { asked, from_history, waited }
}

/// Single streams, several encodings, layers.
fn joinable() -> Vec<Media> {
    use Codec::{Av1, H264, Vp8, Vp9};
    use Scalability::{L1T1, L1T3, L3T3, L3T3Key};
    let single = [Vp8, H264, Vp9, Av1].map(|codec| layered(codec, L1T1));
    let several =
        [(Vp8, L1T1), (H264, L1T1), (Vp9, L1T1), (Av1, L1T1), (Vp8, L1T3)].map(|(codec, mode)| simulcast(codec, mode));
    let layers = [(Vp8, L1T3), (Vp9, L1T3), (Vp9, L3T3), (Vp9, L3T3Key), (Av1, L1T3), (Av1, L3T3)];
    let layers = layers.map(|(codec, mode)| layered(codec, mode));
    single.into_iter().chain(several).chain(layers).collect()
}

#[test]
fn joiners_are_served_from_the_history_and_the_publisher_is_asked_once_a_second() {
    for_all((800..).zip(joinable()), |seed, media| {
        let apart = seed % 2 == 1;
        let mut scene = Scene::new(seed, media, apart, PROMISED);
        scene.world.run(seconds(3));
        let joins = a_hundred_join(&mut scene, seed, apart, CLEAN);
        let few = joins.asked <= 20 && joins.from_history >= 75;
        scene.expect(few, &format!("asked {} times, {} from the history", joins.asked, joins.from_history));
        let soon = joins.waited[50] <= millis(30) && joins.waited[99] <= millis(100);
        scene.expect(soon, &format!("the first picture after {:?}", &joins.waited[90..]));
        scene
    });
}

#[test]
fn joiners_on_bad_links_are_served_whole() {
    for_all((820..).zip(joinable()), |seed, media| {
        let mut scene = Scene::new(seed, media, false, PROMISED);
        scene.world.run(seconds(3));
        let link = LinkSettings { loss: 0.03, reordering: 0.03, ..CLEAN };
        scene.world.end(scene.video.end).up.settings = link;
        let joins = a_hundred_join(&mut scene, seed, false, link);
        let few = joins.asked <= 40 && joins.from_history >= 60;
        scene.expect(few, &format!("asked {} times, {} from the history", joins.asked, joins.from_history));
        let soon = joins.waited[50] <= millis(40) && joins.waited[99] <= millis(1_500);
        scene.expect(soon, &format!("the first picture after {:?}", &joins.waited[90..]));
        scene
    });
}

#[test]
fn what_is_replayed_is_spread_and_goes_over_into_live_without_a_gap() {
    for (seed, media) in (840..).zip(joinable().into_iter().filter(|media| media.scalability == Scalability::L1T1)) {
        let mut pair = Pair::new(World::seeded(seed), &media, CLEAN);
        let world = &mut pair.world;
        world.run(seconds(2));
        let carol = Page::join(world, "carol", CLEAN);
        world.tap(carol.recv.end);
        world.ask(pair.seen.visitor, "request-key-frame", json!({ "consumerId": pair.seen.id }));
        world.run(millis(960));
        let joined = world.now();
        let seen = world.subscribe(&carol.recv, Some(&pair.video.id));
        world.run(seconds(3));
        assert_eq!(metric(&world.metrics(0), "replays"), 1, "{media:?}");
        let sent = sent_to(world, &seen);
        assert_without_gap(&sent);
        // 27 pictures in the time of two.
        let at_once = |within: Duration| sent.iter().filter(|heard| heard.sent_at < joined + within).count();
        let all = at_once(millis(66));
        assert!(all > 60 && at_once(millis(5)) <= all / 4 && at_once(millis(30)) <= all * 3 / 4, "{media:?}");
        let stats = world.sink(&seen);
        assert_eq!((stats.lost, stats.frames_dropped, stats.plis), (0, 0, 0), "{stats:?}");
    }
}

#[test]
fn who_was_not_ready_for_the_replay_is_given_a_keyframe_at_once() {
    let mut pair = Pair::new(World::seeded(850), &VIDEO, CLEAN);
    let world = &mut pair.world;
    let carol = Page::join(world, "carol", CLEAN);
    world.ask(pair.seen.visitor, "request-key-frame", json!({ "consumerId": pair.seen.id }));
    world.run(millis(150));
    world.end(carol.recv.end).down.settings.loss = 1.0;
    let seen = world.subscribe(&carol.recv, Some(&pair.video.id));
    world.run(millis(200));
    assert_eq!(metric(&world.metrics(0), "replays"), 1);
    world.end(carol.recv.end).down.settings.loss = 0.0;
    let waited = world.wait(seconds(1), |world| world.sink(&seen).first_decoded_at.is_some());
    // The next picture, a PLI all the way up, the keyframe all the way down.
    assert!(waited.is_some_and(|waited| waited <= millis(34 + 40 + 34 + 40)), "{waited:?}");
}
