//! `send-message`: to whom, in which order, and for which price.

use serde_json::{Value, json};
use weirgate::base::limits::{AWAY_BYTES_MAX, MESSAGES_BURST, SAID_BYTES_MAX};
use weirgate::base::time::Duration;
use weirgate::signal::{Act, Entrance, Grants, Output, SessionId};

use crate::world::{CLIENTS, World};

fn said(world: &mut World, session: SessionId) -> Vec<Value> {
    world.heard_of(session, "message")
}

#[test]
fn a_message_reaches_all_others_that_subscribe_or_one_of_them() {
    let mut world = World::new(1);
    let [alice, bob, carol, silent] = ["alice", "bob", "carol", "silent"].map(|user| world.join(user, "room"));
    let stranger = world.join("stranger", "another room");
    let [alice_id, bob_id, _, stranger_id] = [alice, bob, carol, stranger].map(|session| world.subscribe(session));
    for session in [alice, bob, carol, silent, stranger] {
        world.heard(session);
    }
    let data = json!({ "text": "hello", "n": [1, 2.5, null] });
    assert_eq!(world.get(alice, "send-message", json!({ "data": data }), "ok"), json!({ "request": "send-message" }));
    for session in [bob, carol] {
        assert_eq!(said(&mut world, session), [json!({ "from": alice_id, "data": data })]);
    }
    world.get(alice, "send-message", json!({ "data": false, "peerId": bob_id }), "ok");
    assert_eq!(said(&mut world, bob), [json!({ "from": alice_id, "to": bob_id, "data": false })]);
    for session in [alice, carol, silent, stranger] {
        assert_eq!(world.heard(session), Vec::<Value>::new());
    }
    for id in [&stranger_id, "nobody"] {
        assert_eq!(world.refused(alice, "send-message", json!({ "data": 1, "peerId": id })).0, "not-found");
    }
    world.get(silent, "send-message", json!({ "data": 1 }), "ok");
    assert_eq!(said(&mut world, bob).len(), 1);
    let reply = world.get(silent, "get-producers", Value::Null, "producers");
    assert_eq!(reply["producers"], json!([]));
}

#[test]
fn who_has_not_subscribed_is_told_nothing_and_its_sender_learns_that() {
    let mut world = World::new(1);
    let alice = world.join("alice", "room");
    world.subscribe(alice);
    let silent = world.join("silent", "room");
    let id = world.heard_of(alice, "peer-joined")[0]["id"].clone();
    assert_eq!(world.refused(alice, "send-message", json!({ "data": 1, "peerId": id })).0, "unavailable");
    assert_eq!(world.heard(silent), Vec::<Value>::new());
}

#[test]
fn all_see_one_order_and_the_reply_is_the_senders_place_in_it() {
    let mut world = World::new(1);
    let peers = ["alice", "bob", "carol"].map(|user| world.join(user, "room"));
    let ids = peers.map(|session| world.subscribe(session));
    for session in peers {
        world.heard(session);
    }
    for n in 0..30 {
        let text = json!({ "type": "send-message", "data": { "data": n } }).to_string();
        world.text(peers[n % 3], &text);
    }
    for (at, session) in peers.into_iter().enumerate() {
        let mut order = Vec::new();
        for message in world.heard(session) {
            match message["type"].as_str() {
                // Its own are every third, and come where the others see them.
                Some("ok") => order.push(order.len() as u64),
                _ => {
                    let n = message["data"]["data"].as_u64().unwrap();
                    assert_eq!(message["data"]["from"], ids[n as usize % 3]);
                    order.push(n);
                }
            }
        }
        assert_eq!(order, (0..30).collect::<Vec<_>>(), "peer {at}");
    }
}

#[test]
fn who_takes_no_part_sends_nothing() {
    let mut world = World::new(1);
    let alice = world.join("alice", "room");
    world.subscribe(alice);
    for (grants, may) in [
        (json!({ "join": true }), false),
        (json!({ "join": true, "subscribe": true }), true),
        (json!({ "join": true, "publish": { "kinds": ["audio"] } }), true),
        (json!({ "join": true, "moderate": true }), true),
        (json!({ "join": true, "subscribe": true, "hidden": true }), false),
        (json!({ "join": true, "moderate": true, "hidden": true }), true),
    ] {
        let grants = Grants::read(&grants).unwrap();
        let entrance = Entrance { grants: grants.clone(), ..Entrance::named("somebody", "room") };
        let session = world.hub.open(world.now, CLIENTS, &entrance).unwrap();
        world.drain();
        world.heard(alice);
        let reply = world.say(session, "send-message", json!({ "data": 1 }));
        assert_eq!(reply["type"] == "ok", may, "{grants:?}: {reply}");
        let told = said(&mut world, alice);
        assert_eq!(told.len(), usize::from(may));
        if grants.hidden && may {
            assert_eq!(told[0]["from"], "moderator", "nobody is shown who it is");
        }
    }
}

#[test]
fn messages_are_bounded_and_dearer_than_what_queues_may_leave_out() {
    let mut world = World::new(1);
    let [alice, bob, mallory] = ["alice", "bob", "mallory"].map(|user| world.join(user, "room"));
    for session in [alice, bob] {
        world.subscribe(session);
    }
    let long = json!({ "data": "x".repeat(SAID_BYTES_MAX - 1) });
    assert_eq!(world.refused(mallory, "send-message", long).0, "limit");
    assert_eq!(world.refused(mallory, "send-message", json!({})).0, "bad-field");
    for length in [1, 1_000, SAID_BYTES_MAX - 2] {
        let session = world.join("mallory", "room");
        let text = json!({ "type": "send-message", "data": { "data": "x".repeat(length) } }).to_string();
        let mut bytes = 0;
        for _ in 0..MESSAGES_BURST {
            world.hub.handle_text(world.now, session, &text);
            while let Some(output) = world.hub.poll_output() {
                if let Output::Send { session, text, about } = output
                    && session == bob
                    && text.to_string().starts_with(r#"{"type":"message""#)
                {
                    assert_eq!(about, None, "it is delivered");
                    bytes += text.len();
                }
            }
        }
        assert!((1_000..AWAY_BYTES_MAX / 2).contains(&bytes), "{bytes} bytes at once in messages of {length}");
    }
}

#[test]
fn who_is_away_gets_its_messages_when_it_is_back() {
    let mut world = World::new(1);
    let [alice, bob] = ["alice", "bob"].map(|user| world.join(user, "room"));
    for session in [alice, bob] {
        world.subscribe(session);
    }
    let peer = world.hub.detach(world.now, bob, Duration::from_secs(10)).expect("he had a socket");
    for n in 0..3 {
        world.get(alice, "send-message", json!({ "data": n }), "ok");
    }
    let again = world.hub.attach(world.now, peer).expect("he is there");
    world.drain();
    let data: Vec<_> = said(&mut world, again).iter().map(|message| message["data"].clone()).collect();
    assert_eq!(data, [json!(0), json!(1), json!(2)]);
}

#[test]
fn the_operator_speaks_in_any_channel() {
    let mut world = World::new(1);
    let [alice, bob] = [("alice", "room"), ("bob", "another room")].map(|(user, channel)| world.join(user, channel));
    let id = world.subscribe(alice);
    world.subscribe(bob);
    let data = json!({ "peerId": id, "data": "closing soon" });
    let act = Act::parse("send-message", data).unwrap();
    assert!(world.hub.operate(world.now, "room", act.clone()).is_ok());
    world.drain();
    assert_eq!(said(&mut world, alice), [json!({ "from": "operator", "to": id, "data": "closing soon" })]);
    let refused = world.hub.operate(world.now, "another room", act).unwrap_err();
    assert_eq!((refused.code.name(), said(&mut world, bob)), ("not-found", vec![]));
}
