//! A moderator's mutes: what is withheld, who is told, and that no owner comes around one.

use serde_json::{Value, json};
use weirgate::base::id::ProducerId;
use weirgate::base::limits::PRODUCERS_PER_PEER_MAX;
use weirgate::base::time::Duration;
use weirgate::shard::command::Command;
use weirgate::signal::{Act, Entrance, SessionId};

use crate::world::{CLIENTS, World, audio, video};

/// A moderator, a publisher with a camera, and somebody who watches it; all of them subscribe.
struct Call {
    world: World,
    moderator: SessionId,
    moderator_id: String,
    alice: SessionId,
    alice_id: String,
    bob: SessionId,
    camera: String,
    number: ProducerId,
    consumer: String,
}

fn call() -> Call {
    let mut world = World::new(1);
    let moderator = world.moderator("moderator", "room");
    let moderator_id = world.subscribe(moderator);
    let alice = world.join("alice", "room");
    let alice_id = world.subscribe(alice);
    world.create(alice, Value::Null);
    let (camera, number) = world.produce(alice, video(10, "0"));
    let bob = world.join("bob", "room");
    world.subscribe(bob);
    world.create(bob, Value::Null);
    let consumer = world.consume(bob, json!({}))["id"].as_str().expect("an id").to_owned();
    for session in [moderator, alice, bob] {
        world.heard(session);
    }
    world.take_commands();
    Call { world, moderator, moderator_id, alice, alice_id, bob, camera, number, consumer }
}

impl Call {
    fn moderate(&mut self, kind: &str, data: Value) {
        let moderator = self.moderator;
        self.world.get(moderator, kind, data, "ok");
    }

    fn mute(&mut self, kind: &str) -> Value {
        let (moderator, id) = (self.moderator, json!({ "producerId": self.camera }));
        self.world.get(moderator, kind, id, "ok")
    }

    fn owner(&mut self, kind: &str) {
        let (alice, id) = (self.alice, json!({ "producerId": self.camera }));
        self.world.get(alice, kind, id, "ok");
    }

    fn told(&mut self, session: SessionId) -> Vec<(String, Value)> {
        let kind = |message: &Value| message["type"].as_str().expect("a type").to_owned();
        self.world.heard(session).into_iter().map(|message| (kind(&message), message["data"].clone())).collect()
    }
}

#[test]
fn a_muted_producer_is_withheld_until_it_is_let_go_and_everybody_knows() {
    let mut call = call();
    let (by, id, peer) = (json!(call.moderator_id), json!(call.camera), json!(call.alice_id));
    for (again, request) in [(false, "mute-producer"), (true, "mute-producer")] {
        assert_eq!(call.mute(request), json!({ "request": request, "id": id }));
        if again {
            assert_eq!(call.world.take_commands(), []);
            for session in [call.alice, call.bob] {
                assert_eq!(call.told(session), []);
            }
            continue;
        }
        assert_eq!(call.world.take_commands(), [Command::PauseProducer { producer: call.number }]);
        let muted = json!({ "producerId": id, "by": by });
        assert_eq!(call.told(call.alice), [("producer-muted".to_owned(), muted)]);
        let paused = json!({ "id": id, "peerId": peer, "muted": true, "by": by });
        let consumer = json!({ "id": call.consumer, "producerId": id, "paused": false });
        let expected = [("producer-paused".to_owned(), paused.clone()), ("consumer-paused".to_owned(), consumer)];
        assert_eq!(call.told(call.bob), expected);
        assert_eq!(call.told(call.moderator), [("producer-paused".to_owned(), paused)]);
    }
    let (alice, bob) = (call.alice, call.bob);
    let listed = call.world.get(bob, "get-producers", Value::Null, "producers");
    assert_eq!((&listed["producers"][0]["paused"], &listed["producers"][0]["muted"]), (&json!(true), &json!(true)));
    let late = call.world.join("late", "room");
    call.world.create(late, Value::Null);
    assert_eq!(call.world.consume(late, json!({}))["producerPaused"], true);
    call.world.take_commands();
    call.told(alice);

    call.mute("unmute-producer");
    assert_eq!(call.world.take_commands(), [Command::ResumeProducer { producer: call.number }]);
    assert_eq!(call.told(alice), [("producer-unmuted".to_owned(), json!({ "producerId": id, "by": by }))]);
    let kinds: Vec<_> = call.told(bob).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["peer-joined", "producer-resumed", "consumer-resumed"]);
    let listed = call.world.get(bob, "get-producers", Value::Null, "producers");
    assert_eq!((&listed["producers"][0]["paused"], listed["producers"][0].get("muted")), (&json!(false), None));
    call.mute("unmute-producer");
    assert_eq!((call.world.take_commands(), call.told(alice)), (vec![], vec![]), "let go once");
}

#[test]
fn an_owner_who_does_not_subscribe_is_told_of_the_mute() {
    let mut world = World::new(1);
    let (alice, camera, _) = world.publisher("alice", "room", 1);
    let moderator = world.moderator("moderator", "room");
    world.get(moderator, "mute-producer", json!({ "producerId": camera }), "ok");
    assert_eq!(world.heard_of(alice, "producer-muted").len(), 1);
    world.get(moderator, "unmute-producer", json!({ "producerId": camera }), "ok");
    assert_eq!(world.heard_of(alice, "producer-unmuted").len(), 1);
    world.get(moderator, "stop-producer", json!({ "producerId": camera }), "ok");
    let closed = world.heard_of(alice, "producer-closed");
    assert_eq!((closed.len(), &closed[0]["reason"]), (1, &json!("stopped")));
}

#[test]
fn an_owners_wish_is_kept_beside_the_mute_and_ends_nothing_of_it() {
    let mut call = call();
    call.mute("mute-producer");
    call.world.take_commands();
    for session in [call.alice, call.bob] {
        call.told(session);
    }
    for request in ["resume-producer", "pause-producer", "resume-producer", "pause-producer"] {
        call.owner(request);
        assert_eq!((call.world.take_commands(), call.told(call.bob)), (vec![], vec![]), "{request}");
    }
    call.mute("unmute-producer");
    assert_eq!(call.world.take_commands(), [], "its owner still wants it paused");
    let told = call.told(call.bob);
    assert_eq!((told.len(), told[0].0.as_str(), told[0].1.get("muted")), (1, "producer-paused", None));
    call.owner("resume-producer");
    assert_eq!(call.world.take_commands(), [Command::ResumeProducer { producer: call.number }]);
}

/// Whether the next producer of this kind and source begins muted.
fn begins_muted(call: &mut Call, mut data: Value, source: &str) -> bool {
    data["appData"] = json!({ "source": source });
    let alice = call.alice;
    let reply = call.world.get(alice, "produce", data, "producer-id");
    let command = call.world.commands.iter().rev().find_map(|(_, command)| match command {
        Command::Produce { paused, .. } => Some(*paused),
        _ => None,
    });
    let news = call.world.heard_of(call.bob, "new-producer");
    let news = news.last().expect("the others are told");
    let muted = reply.get("muted").is_some();
    assert_eq!((command, &news["paused"], news.get("muted").is_some()), (Some(muted), &json!(muted), muted));
    muted
}

#[test]
fn who_closes_and_produces_again_does_not_come_around_a_mute() {
    let mut call = call();
    call.mute("mute-producer");
    call.owner("close-producer");
    assert!(begins_muted(&mut call, video(20, "1"), "camera"), "though it is another producer");
    assert!(begins_muted(&mut call, video(30, "2"), "a new word"), "a source is the client's own word");
    assert!(!begins_muted(&mut call, audio(40, "3"), "camera"), "another kind");
    let alice = call.alice;
    // The one that replaces it, too.
    assert!(begins_muted(&mut call, video(30, "2"), "a new word"));
    let listed = call.world.get(call.bob, "get-producers", Value::Null, "producers");
    let ids: Vec<_> = listed["producers"].as_array().unwrap().iter().map(|entry| entry["id"].clone()).collect();
    // The new camera carries the mute of the old one on: with it, all is let go.
    for id in &ids {
        call.moderate("unmute-producer", json!({ "producerId": id }));
        call.world.get(alice, "close-producer", json!({ "producerId": id }), "ok");
    }
    assert!(begins_muted(&mut call, video(50, "5"), "camera"), "the first had no source, and nobody let it go");
    let peer = call.alice_id.clone();
    call.moderate("unmute-peer", json!({ "peerId": peer }));
    assert!(!begins_muted(&mut call, video(60, "6"), "camera"));
}

#[test]
fn the_mute_of_one_source_is_let_go_with_the_last_of_that_source() {
    let mut call = call();
    let alice = call.alice;
    call.mute("mute-producer");
    call.owner("close-producer");
    // The mute was of a camera without a source.
    let (again, _) = call.world.produce(alice, video(70, "7"));
    call.moderate("unmute-producer", json!({ "producerId": again }));
    assert!(!begins_muted(&mut call, video(80, "8"), "camera"));
}

#[test]
fn a_whole_peer_is_muted_in_the_kinds_named_and_stays_so() {
    let mut call = call();
    let peer = call.alice_id.clone();
    let alice = call.alice;
    let (_, microphone) = call.world.produce(alice, audio(90, "9"));
    call.world.take_commands();
    call.moderate("mute-peer", json!({ "peerId": peer, "kinds": ["audio"] }));
    assert_eq!(call.world.take_commands(), [Command::PauseProducer { producer: microphone }]);
    call.moderate("mute-peer", json!({ "peerId": peer }));
    assert_eq!(call.world.take_commands(), [Command::PauseProducer { producer: call.number }]);
    call.mute("unmute-producer");
    assert_eq!(call.world.take_commands(), [Command::ResumeProducer { producer: call.number }]);
    assert!(begins_muted(&mut call, video(91, "10"), "camera"), "the peer is not let go");
    call.world.take_commands();
    call.moderate("unmute-peer", json!({ "peerId": peer, "kinds": ["video"] }));
    assert_eq!(call.world.take_commands().len(), 1);
    assert!(begins_muted(&mut call, audio(92, "11"), "") && !begins_muted(&mut call, video(93, "12"), ""));
}

#[test]
fn a_mute_ends_with_the_peer_unless_a_token_says_who_comes_again() {
    for proven in [false, true] {
        let mut world = World::new(1);
        let moderator = world.moderator("moderator", "room");
        let come = |world: &mut World| {
            let expires = proven.then(|| world.now + Duration::from_secs(3_600));
            let entrance = Entrance { expires, ..Entrance::named("alice", "room") };
            let session = world.hub.open(world.now, CLIENTS, &entrance).expect("let in");
            world.drain();
            world.create(session, Value::Null);
            session
        };
        let first = come(&mut world);
        let (camera, _) = world.produce(first, video(1, "0"));
        world.get(moderator, "mute-producer", json!({ "producerId": camera }), "ok");
        world.leave(first);
        let again = come(&mut world);
        let reply = world.get(again, "produce", video(1, "0"), "producer-id");
        assert_eq!(reply.get("muted").is_some(), proven);
        // A channel that ended is forgotten.
        world.leave(again);
        world.leave(moderator);
        let again = come(&mut world);
        assert_eq!(world.get(again, "produce", video(1, "0"), "producer-id").get("muted"), None);
    }
}

#[test]
fn a_users_mute_is_let_go_with_the_last_of_its_peers() {
    let mut world = World::new(1);
    let moderator = world.moderator("moderator", "room");
    let come = |world: &mut World| {
        let expires = Some(world.now + Duration::from_secs(3_600));
        let entrance = Entrance { expires, ..Entrance::named("alice", "room") };
        let session = world.hub.open(world.now, CLIENTS, &entrance).expect("let in");
        world.drain();
        world.create(session, Value::Null);
        session
    };
    let [one, two] = [(); 2].map(|()| come(&mut world));
    let [first, second] = [(one, 1), (two, 2)].map(|(session, ssrc)| world.produce(session, audio(ssrc, "0")).0);
    for id in [&first, &second] {
        world.get(moderator, "mute-producer", json!({ "producerId": id }), "ok");
    }
    for (id, muted) in [(first, true), (second, false)] {
        world.get(moderator, "unmute-producer", json!({ "producerId": id }), "ok");
        let third = come(&mut world);
        let reply = world.get(third, "produce", audio(3, "0"), "producer-id");
        assert_eq!(reply.get("muted").is_some(), muted);
        world.leave(third);
    }
}

#[test]
fn a_moderator_and_an_owner_who_cross_leave_nothing_behind() {
    let mut call = call();
    call.owner("close-producer");
    let id = json!({ "producerId": call.camera });
    for kind in ["mute-producer", "unmute-producer", "stop-producer"] {
        assert_eq!(call.world.refused(call.moderator, kind, id.clone()).0, "not-found", "{kind}");
    }
    assert!(!begins_muted(&mut call, video(20, "1"), "camera"), "nothing was muted");
}

#[test]
fn what_a_moderator_stops_is_closed_for_all_and_may_come_again() {
    let mut call = call();
    let (by, id, peer) = (call.moderator_id.clone(), call.camera.clone(), call.alice_id.clone());
    call.moderate("stop-producer", json!({ "producerId": id }));
    let closed = json!({ "id": id, "peerId": peer, "reason": "stopped", "by": by });
    assert_eq!(call.told(call.alice), [("producer-closed".to_owned(), closed.clone())]);
    let consumer = json!({ "id": call.consumer, "producerId": id, "reason": "producer-closed" });
    assert_eq!(call.told(call.bob), [("consumer-closed".to_owned(), consumer), ("producer-closed".to_owned(), closed)]);
    assert!(call.world.take_commands().contains(&Command::CloseProducer { producer: call.number }));
    assert!(!begins_muted(&mut call, video(20, "1"), "camera"));
}

#[test]
fn a_mute_of_all_that_a_peer_may_have_is_paid_for() {
    let mut world = World::new(1);
    let moderator = world.moderator("moderator", "room");
    let alice = world.join("alice", "room");
    let peer = world.subscribe(alice);
    world.create(alice, Value::Null);
    for n in 0..PRODUCERS_PER_PEER_MAX as u32 {
        world.produce(alice, audio(10 + n, &n.to_string()));
    }
    for n in 0..200 {
        let listener = world.join(&format!("listener {n}"), "room");
        world.subscribe(listener);
    }
    let mut passed = 0;
    for n in 0..100 {
        let kind = if n % 2 == 0 { "mute-peer" } else { "unmute-peer" };
        let reply = world.say(moderator, kind, json!({ "peerId": peer }));
        if reply["type"] == "error" {
            assert_eq!(reply["data"]["code"], "rate-limited");
            break;
        }
        passed += 1;
    }
    assert!((1..=3).contains(&passed), "{passed} times 64 news for 200 peers at once");
}

#[test]
fn the_operator_does_the_same_without_being_there() {
    let mut call = call();
    let id = call.camera.clone();
    let act = |kind: &str, data: Value| Act::parse(kind, data).expect("it is well-formed");
    let mute = act("mute-producer", json!({ "producerId": id }));
    let done = call.world.hub.operate(call.world.now, "room", mute.clone());
    assert_eq!(done, Ok(json!({ "request": "mute-producer", "id": id })));
    call.world.drain();
    assert_eq!(call.told(call.alice)[0].1["by"], "operator");
    assert_eq!(call.told(call.bob)[0].1["by"], "operator");
    let elsewhere = call.world.hub.operate(call.world.now, "elsewhere", mute);
    assert_eq!(elsewhere.map_err(|refusal| refusal.code.name()), Err("not-found"));
}
