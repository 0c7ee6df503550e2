//! What a moderator does to media: a muted producer reaches nobody, whatever its owner sends and asks, and goes on as
//! after a pause of its own.

use serde_json::{Value, json};
use weirgate::base::time::Duration;
use weirgate::signal::Entrance;
use weirgate::sim::visitor::{Subscription, Visitor};
use weirgate::sim::world::World;

use crate::shards::{Spread, spread, two};
use crate::support::{AUDIO, CLEAN, Page, VIDEO, millis, seconds};

fn moderator(world: &mut World) -> Visitor {
    let mut entrance = Entrance::named("moderator", "room");
    entrance.grants.moderate = true;
    world.come_in(&entrance)
}

fn packets(world: &mut World, all: &[Subscription]) -> Vec<u64> {
    all.iter().map(|subscription| world.sink(subscription).packets).collect()
}

/// How long the slowest waits for its next picture.
fn wait_for_pictures(world: &mut World, all: &[Subscription]) -> Duration {
    let before: Vec<_> = all.iter().map(|subscription| world.sink(subscription).last_decoded_at).collect();
    let waited = world.wait(seconds(2), |world| {
        all.iter().zip(&before).all(|(subscription, before)| world.sink(subscription).last_decoded_at > *before)
    });
    waited.expect("pictures come")
}

#[test]
fn a_muted_producer_reaches_nobody_and_goes_on_with_a_keyframe_as_after_a_pause() {
    for seed in 0..4 {
        let Spread { mut world, alice, video, bob, fillers } = spread(two(700 + seed, seed % 2 == 0), CLEAN);
        let moderator = moderator(&mut world);
        let id = json!({ "producerId": video.id });
        let near = world.subscribe(&fillers[0].recv, Some(&video.id));
        let far = world.subscribe(&bob.recv, Some(&video.id));
        let mut watching = vec![near, far];
        world.run(seconds(1));

        world.ask(alice.visitor, "pause-producer", id.clone());
        world.run(millis(500));
        world.ask(alice.visitor, "resume-producer", id.clone());
        let control = wait_for_pictures(&mut world, &watching);

        world.ask(moderator, "mute-producer", id.clone());
        world.run(millis(100));
        let muted = packets(&mut world, &watching);
        // Who comes late, and a client that neither stops sending nor takes no for an answer.
        watching.push(world.subscribe(&fillers[1].recv, Some(&video.id)));
        for _ in 0..4 {
            world.run(millis(300));
            for kind in ["pause-producer", "resume-producer"] {
                world.ask(alice.visitor, kind, id.clone());
            }
            let consumer = json!({ "consumerId": watching[0].id });
            world.ask(watching[0].visitor, "request-key-frame", consumer);
        }
        assert_eq!(packets(&mut world, &watching), [muted, vec![0]].concat(), "seed {seed}");
        world.ask(moderator, "unmute-producer", id);
        let waited = wait_for_pictures(&mut world, &watching);
        assert!(waited <= control + millis(5), "seed {seed}: {waited:?}, after a pause {control:?}");
        world.run(seconds(1));
        for subscription in &watching {
            let stats = world.sink(subscription);
            assert_eq!((stats.lost, stats.nacked, stats.frames_dropped), (0, 0, 0), "seed {seed}: {stats:?}");
        }
    }
}

#[test]
fn who_produces_anew_is_not_heard_until_it_is_let_go() {
    let mut world = World::seeded(710);
    let alice = Page::join(&mut world, "alice", CLEAN);
    let bob = Page::join(&mut world, "bob", CLEAN);
    let voice = world.publish(&alice.send, &AUDIO);
    let heard = world.subscribe(&bob.recv, Some(&voice.id));
    world.run(millis(500));
    assert!(world.sink(&heard).packets > 10);
    let moderator = moderator(&mut world);
    world.ask(moderator, "mute-producer", json!({ "producerId": voice.id }));
    world.ask(alice.visitor, "close-producer", json!({ "producerId": voice.id }));
    let again = world.publish(&alice.send, &AUDIO);
    let picture = world.publish(&alice.send, &VIDEO);
    let [heard, seen] = [&again, &picture].map(|published| world.subscribe(&bob.recv, Some(&published.id)));
    world.run(seconds(1));
    assert_eq!(world.sink(&heard).packets, 0);
    assert!(world.sink(&seen).frames_decoded > 20, "what is not muted goes on");
    world.ask(moderator, "unmute-producer", json!({ "producerId": again.id }));
    world.run(seconds(1));
    assert!(world.sink(&heard).packets > 40);
}

#[test]
fn a_right_that_is_taken_ends_the_media_and_a_removed_peer_sends_and_gets_nothing() {
    let mut world = World::seeded(711);
    let alice = Page::join(&mut world, "alice", CLEAN);
    let bob = Page::join(&mut world, "bob", CLEAN);
    let moderator = moderator(&mut world);
    let peer =
        |world: &mut World, page: &Page| -> Value { world.ask(page.visitor, "subscribe", json!({}))["peerId"].take() };
    let (voice, song) = (world.publish(&alice.send, &AUDIO), world.publish(&bob.send, &AUDIO));
    let heard = world.subscribe(&bob.recv, Some(&voice.id));
    let sung = world.subscribe(&alice.recv, Some(&song.id));
    world.run(millis(500));
    let (alice_id, bob_id) = (peer(&mut world, &alice), peer(&mut world, &bob));
    world.ask(moderator, "set-grants", json!({ "peerId": alice_id, "grants": { "publish": false } }));
    world.run(millis(100));
    let before = packets(&mut world, &[heard.clone(), sung.clone()]);
    world.run(seconds(1));
    let after = packets(&mut world, &[heard, sung.clone()]);
    assert!(after[0] == before[0] && after[1] > before[1] + 40, "{before:?} {after:?}");
    world.ask(moderator, "remove-peer", json!({ "peerId": bob_id }));
    world.run(millis(100));
    let before = world.sink(&sung).packets;
    world.run(seconds(1));
    assert_eq!(world.sink(&sung).packets, before);
}
