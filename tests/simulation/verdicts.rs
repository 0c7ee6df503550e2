//! Why is it frozen? Each cause is brought about for real, and get-stats names it, with since when; so do the metrics.

use serde_json::{Value, json};
use weirgate::base::time::Instant;
use weirgate::base::units::Bitrate;
use weirgate::sim::script::Media;
use weirgate::sim::visitor::Subscription;
use weirgate::sim::world::{EndId, World};

use crate::shards::{Spread, spread, two};
use crate::support::{AUDIO, CLEAN, DELAY, Page, Pair, VIDEO, millis, seconds};

fn stats(world: &mut World, subscription: &Subscription) -> Value {
    world.ask(subscription.visitor, "get-stats", json!({ "consumerId": subscription.id }))
}

/// `since`: the cause happened then, and was known at the server at most `within` milliseconds later.
fn assert_verdict(world: &mut World, subscription: &Subscription, state: &str, since: Instant, within: u64) {
    let now = world.now();
    let verdict = stats(world, subscription)["verdict"].take();
    assert_eq!(verdict["state"], state, "at {now:?}: {verdict}");
    let begun = now.as_nanos() as f64 / 1e6 - verdict["sinceMs"].as_f64().expect("it says for how long");
    let late = begun - since.as_nanos() as f64 / 1e6;
    // The question itself takes a fraction of a millisecond.
    assert!((-1.0..=within as f64).contains(&late), "{state}: {late} ms after {since:?}, now {now:?}");
}

/// The metrics of a shard, without those that are 0.
fn counted(world: &mut World, shard: u16) -> Vec<(&'static str, i64)> {
    let verdicts = world.metrics(shard).verdicts;
    verdicts.into_iter().filter(|(_, count)| *count > 0).map(|(state, count)| (state.name(), count)).collect()
}

fn flows_since(world: &mut World, subscription: &Subscription, since: Instant, within: u64) {
    assert_verdict(world, subscription, "flowing", since, within);
}

#[test]
fn a_call_flows_since_it_opened() {
    let mut world = World::seeded(90);
    let alice = Page::join(&mut world, "alice", CLEAN);
    let bob = Page::join(&mut world, "bob", CLEAN);
    let asked = world.now();
    let streams = [VIDEO, AUDIO].map(|media| world.publish(&alice.send, &media));
    let seen = streams.map(|stream| world.subscribe(&bob.recv, Some(&stream.id)));
    world.run(seconds(30));
    for subscription in &seen {
        flows_since(&mut world, subscription, asked, 120);
    }
    assert_eq!(counted(&mut world, 0), [("flowing", 2)]);
}

#[test]
fn pauses_are_told_apart() {
    let mut pair = Pair::new(World::seeded(91), &VIDEO, CLEAN);
    let (world, seen) = (&mut pair.world, &pair.seen);
    let consumer = json!({ "consumerId": seen.id });
    let producer = json!({ "producerId": pair.video.id });
    let by_client = world.now();
    world.ask(seen.visitor, "pause-consumer", consumer.clone());
    world.run(seconds(3));
    assert_verdict(world, seen, "paused-by-client", by_client, 5);
    let by_publisher = world.now();
    world.ask(pair.alice.visitor, "pause-producer", producer.clone());
    world.run(seconds(3));
    assert_verdict(world, seen, "paused-by-client", by_client, 5);
    world.ask(seen.visitor, "resume-consumer", consumer);
    world.run(seconds(3));
    assert_verdict(world, seen, "producer-paused", by_publisher, 5);
    assert_eq!(counted(world, 0), [("producer-paused", 1)]);
    let back = world.now();
    world.ask(pair.alice.visitor, "resume-producer", producer);
    world.run(seconds(20));
    flows_since(world, seen, back, 120);
}

#[test]
fn a_publisher_that_falls_silent_is_the_cause_and_slow_pictures_are_none() {
    let slow = Media { frame_rate: 1, bitrate: Bitrate::kbps(50), ..VIDEO };
    for (seed, media) in [(92, VIDEO), (93, AUDIO), (94, slow)] {
        let mut pair = Pair::new(World::seeded(seed), &media, CLEAN);
        let (world, seen) = (&mut pair.world, &pair.seen);
        for _ in 0..40 {
            world.run(millis(270));
            assert_eq!(stats(world, seen)["verdict"]["state"], "flowing", "{media:?}");
        }
        let gap = u64::from(1_000 / media.frame_rate);
        let stopped = world.now() - millis(gap);
        world.source(&pair.video).set_paused(true);
        world.run(seconds(25));
        assert_verdict(world, seen, "no-packets-from-producer", stopped, gap + 30);
        let again = world.now();
        world.source(&pair.video).set_paused(false);
        world.run(seconds(25));
        flows_since(world, seen, again, gap + 60);
    }
}

#[test]
fn who_joins_while_the_publisher_hears_no_request_waits_for_a_keyframe() {
    let mut pair = Pair::new(World::seeded(95), &VIDEO, CLEAN);
    let world = &mut pair.world;
    let send = pair.alice.send.end;
    world.end(send).down.settings.loss = 1.0;
    let carol = Page::join(world, "carol", CLEAN);
    let joined = world.now();
    let late = world.subscribe(&carol.recv, Some(&pair.video.id));
    world.run(seconds(4));
    assert_verdict(world, &late, "waiting-keyframe", joined, 5);
    assert_eq!(counted(world, 0), [("flowing", 1), ("waiting-keyframe", 1)]);
    world.end(send).down.settings.loss = 0.0;
    let heard = world.now();
    world.run(seconds(3));
    flows_since(world, &late, heard, 700);
}

#[test]
fn a_receiver_whose_picture_broke_waits_for_the_keyframe_it_asks_for() {
    let mut pair = Pair::new(World::seeded(96), &VIDEO, CLEAN);
    let world = &mut pair.world;
    world.end(pair.alice.send.end).down.settings.loss = 1.0;
    let (bob, broken) = (pair.bob.recv.end, world.now());
    // Longer than what may be asked for again.
    world.end(bob).down.settings.loss = 1.0;
    world.run(millis(1_500));
    world.end(bob).down.settings.loss = 0.0;
    world.run(seconds(4));
    let plis = world.sink(&pair.seen).plis;
    assert!(plis > 1, "it asks again and again: {plis}");
    assert_verdict(world, &pair.seen, "waiting-keyframe", broken, 3_500);
    world.end(pair.alice.send.end).down.settings.loss = 0.0;
    let heard = world.now();
    world.run(seconds(4));
    flows_since(world, &pair.seen, heard, 700);
}

fn lose_all(world: &mut World, end: EndId, lost: bool) {
    let end = world.end(end);
    (end.up.settings.loss, end.down.settings.loss) = if lost { (1.0, 1.0) } else { (0.0, 0.0) };
}

#[test]
fn a_dead_path_is_not_acknowledged_first_and_down_when_consent_has_run_out() {
    let mut pair = Pair::new(World::seeded(97), &VIDEO, CLEAN);
    let (world, seen) = (&mut pair.world, &pair.seen);
    let end = pair.bob.recv.end;
    world.run(seconds(5));
    let died = world.now();
    lose_all(world, end, true);
    world.run(seconds(10));
    // Its last report was up to a second old.
    assert_verdict(world, seen, "not-acknowledged", died - millis(1_000), 1_030);
    world.run(seconds(40));
    // Consent is given anew every few seconds, and lasts for 30.
    assert_verdict(world, seen, "transport-down", died + seconds(24), 6_100);
    let transport = world.ask(seen.visitor, "get-stats", json!({ "transportId": pair.bob.recv.id }));
    assert_eq!(
        [&transport["state"], &transport["iceState"], &transport["dtlsState"]],
        ["disconnected", "disconnected", "connected"]
    );
    lose_all(world, end, false);
    let back = world.now();
    world.run(seconds(20));
    flows_since(world, seen, back, 5_200);
}

#[test]
fn a_receiver_that_reports_nothing_about_a_stream_does_not_acknowledge_it() {
    for (seed, media, patience) in [(98, VIDEO, 6), (99, AUDIO, 17)] {
        let mut pair = Pair::new(World::seeded(seed), &media, CLEAN);
        let (world, seen) = (&mut pair.world, &pair.seen);
        world.run(seconds(5));
        // A page that let go of the consumer without a word: its transport lives on.
        let forgotten = world.now();
        world.end(seen.end).browser.sinks.clear();
        world.run(seconds(patience));
        assert_verdict(world, seen, "not-acknowledged", forgotten - millis(1_000), 1_030);
        world.run(seconds(60));
        assert_verdict(world, seen, "not-acknowledged", forgotten - millis(1_000), 1_030);
    }
}

#[test]
fn before_the_transport_connects_that_is_the_cause() {
    let mut pair = Pair::new(World::seeded(100), &VIDEO, CLEAN);
    let world = &mut pair.world;
    let carol = world.join("carol", "room");
    let made = world.now();
    let recv = world.transport(carol, "recv", CLEAN);
    world.end(recv.end).up.settings.loss = 1.0;
    let late = world.subscribe(&recv, Some(&pair.video.id));
    world.run(seconds(2));
    assert_verdict(world, &late, "transport-down", made, 5);
    world.end(recv.end).up.settings.loss = 0.0;
    world.connect(&recv);
    let connected = world.now();
    world.run(seconds(2));
    flows_since(world, &late, connected, 150);
}

#[test]
fn causes_are_known_on_the_shard_of_the_receiver() {
    let Spread { mut world, alice, video, bob, .. } = spread(two(101, true), CLEAN);
    let seen = world.subscribe(&bob.recv, Some(&video.id));
    world.run(seconds(10));
    assert_eq!(stats(&mut world, &seen)["verdict"]["state"], "flowing");
    let paused = world.now();
    world.ask(alice.visitor, "pause-producer", json!({ "producerId": video.id }));
    world.run(seconds(4));
    assert_verdict(&mut world, &seen, "producer-paused", paused, 10);
    let back = world.now();
    world.ask(alice.visitor, "resume-producer", json!({ "producerId": video.id }));
    world.run(seconds(4));
    flows_since(&mut world, &seen, back, 120);
    let stopped = world.now() - DELAY;
    world.source(&video).set_paused(true);
    world.run(seconds(4));
    assert_verdict(&mut world, &seen, "no-packets-from-producer", stopped, 60);
    assert_eq!([0, 1].map(|shard| counted(&mut world, shard)), [vec![], vec![("no-packets-from-producer", 1)]]);
}

/// Numbers made of counters are checked where their ends are known: the simulated browsers count too.
#[test]
fn the_numbers_of_get_stats_are_those_of_the_browsers() {
    let mut world = World::seeded(102);
    let alice = Page::join(&mut world, "alice", CLEAN);
    let bob = Page::join(&mut world, "bob", CLEAN);
    let video = world.publish(&alice.send, &VIDEO);
    let seen = world.subscribe(&bob.recv, Some(&video.id));
    for end in [alice.send.end, bob.recv.end] {
        let end = world.end(end);
        (end.up.settings.loss, end.down.settings.loss) = (0.03, 0.03);
    }
    world.run(seconds(20));
    let sent = world.source(&video).stats();
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{value} is no number"));
    let producer = world.ask(alice.visitor, "get-stats", json!({ "producerId": video.id }));
    let encoding = &producer["encodings"][0];
    assert!((number(&encoding["framesPerSecond"]) - 30.0).abs() < 3.0, "{encoding}");
    assert!((number(&encoding["framesReceived"]) - sent.frames as f64).abs() < 5.0, "{encoding} {sent:?}");
    assert!((600_000.0..950_000.0).contains(&number(&encoding["bitrate"])), "{encoding}");
    assert!(number(&encoding["packetsRepaired"]) > 20.0, "{encoding}");
    assert!(number(&encoding["packetsRetransmitted"]) >= number(&encoding["packetsRepaired"]), "{encoding}");
    assert!(number(&encoding["nackPacketCount"]) >= number(&encoding["packetsRepaired"]), "{encoding}");
    assert!(number(&encoding["lastPacketMs"]) < 40.0, "{encoding}");
    let consumer = stats(&mut world, &seen);
    let sink = world.sink(&seen);
    assert!((600_000.0..950_000.0).contains(&number(&consumer["bitrate"])), "{consumer}");
    assert!(number(&consumer["nackPacketCount"]) > 20.0, "{consumer} {sink:?}");
    assert!(number(&consumer["nackPacketCount"]) <= sink.nacked as f64, "{consumer} {sink:?}");
    assert!(number(&consumer["bytesRetransmitted"]) > 100.0 * number(&consumer["packetsRetransmitted"]), "{consumer}");
    assert!(number(&consumer["lastAcknowledgedMs"]) < 3_100.0, "{consumer}");
    assert_eq!(consumer["ssrc"], seen.ssrc.0);
    for (transport, bits) in [(&alice.send, "recvBitrate"), (&bob.recv, "sendBitrate")] {
        let stats = world.ask(transport.visitor, "get-stats", json!({ "transportId": transport.id }));
        assert!((600_000.0..1_000_000.0).contains(&number(&stats[bits])), "{stats}");
        assert_eq!([&stats["iceState"], &stats["dtlsState"]], ["completed", "connected"]);
        assert_eq!(stats["selectedCandidatePairChanges"], 1, "{stats}");
        assert_eq!(stats["selectedCandidatePair"]["nominated"], true);
    }
    // Times are those of the wall clock.
    let at = weirgate::sim::world::at(world.now()).wall.unix_millis();
    assert!((at - number(&consumer["timestamp"])).abs() < 50.0, "{at} {consumer}");
}
