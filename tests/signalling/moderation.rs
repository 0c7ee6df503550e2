//! Moderators who remove, ban, give and take rights and rename; who may not, and what a hostile one cannot do.

use serde_json::{Value, json};
use weirgate::base::limits::{BANS_PER_CHANNEL_MAX, MESSAGES_BURST, NAME_BYTES_MAX};
use weirgate::base::time::Duration;
use weirgate::shard::command::{Command, Event, MediaKind};
use weirgate::signal::{Act, Entrance, OpenError, SessionId};

use crate::world::{CLIENTS, World, audio, video};

fn types(world: &mut World, session: SessionId) -> Vec<Value> {
    world.heard(session).into_iter().map(|message| message["type"].clone()).collect()
}

/// A moderator and two others who subscribe, with their ids.
fn room(world: &mut World) -> [(SessionId, String); 3] {
    let moderator = world.moderator("moderator", "room");
    let sessions = [moderator, world.join("alice", "room"), world.join("bob", "room")];
    let room = sessions.map(|session| (session, world.subscribe(session)));
    for session in sessions {
        world.heard(session);
    }
    room
}

const ACTS: [&str; 13] = [
    "mute-producer",
    "unmute-producer",
    "stop-producer",
    "mute-peer",
    "unmute-peer",
    "remove-peer",
    "unban",
    "set-channel",
    "admit-peer",
    "turn-away-peer",
    "set-grants",
    "rename",
    "set-app-data",
];

fn data(peer: &str, producer: &str) -> Value {
    json!({ "peerId": peer, "producerId": producer, "user": "bob", "grants": {}, "locked": true, "name": "x" })
}

#[test]
fn who_has_no_right_changes_nothing_and_learns_nothing() {
    let mut world = World::new(1);
    let (bob, producer, _) = world.publisher("bob", "room", 1);
    let peer = world.subscribe(bob);
    let mallory = world.join("mallory", "room");
    world.subscribe(mallory);
    world.heard(bob);
    world.take_commands();
    for kind in ACTS {
        let there = world.refused(mallory, kind, data(&peer, &producer));
        let not_there = world.refused(mallory, kind, data("nobody", "nothing"));
        assert_eq!((there.0.as_str(), &there), ("forbidden", &not_there), "{kind}");
    }
    assert_eq!((world.heard(bob), world.take_commands()), (vec![], vec![]));
    assert!(world.join("late", "room") != mallory, "it is not locked");
}

#[test]
fn a_moderator_reaches_its_own_channel_alone() {
    let mut world = World::new(1);
    let (bob, producer, _) = world.publisher("bob", "another room", 1);
    let peer = world.subscribe(bob);
    let moderator = world.moderator("moderator", "room");
    world.take_commands();
    for kind in ACTS.into_iter().filter(|kind| *kind != "set-channel") {
        let there = world.refused(moderator, kind, data(&peer, &producer));
        let nowhere = world.refused(moderator, kind, data("nobody", "nothing"));
        assert_eq!((there.0.as_str(), &there), ("not-found", &nowhere), "{kind}");
    }
    world.get(moderator, "set-channel", json!({ "locked": true, "peersMax": 1 }), "ok");
    world.join("late", "another room");
    assert_eq!((types(&mut world, bob), world.take_commands()), (vec![json!("peer-joined")], vec![]));
}

#[test]
fn who_is_removed_is_told_once_and_may_come_again_as_another_peer() {
    let mut world = World::new(1);
    let [(moderator, by), (alice, id), (bob, _)] = room(&mut world);
    world.create(alice, Value::Null);
    world.produce(alice, audio(1, "0"));
    world.heard(bob);
    let remove = json!({ "peerId": id, "reason": "be kind" });
    assert_eq!(world.get(moderator, "remove-peer", remove.clone(), "ok")["id"], json!(id));
    let told = world.heard(alice);
    assert_eq!(told.len(), 1);
    assert_eq!((&told[0]["type"], &told[0]["data"]["code"]), (&json!("error"), &json!("removed")));
    assert_eq!(told[0]["data"]["request"], Value::Null);
    assert_eq!(told[0]["data"]["message"], "a moderator has removed this peer from the channel: be kind");
    assert_eq!(world.disconnected, [(alice, 4403)]);
    let left = json!({ "id": id, "user": "alice", "reason": "removed", "by": by, "message": "be kind" });
    let heard = world.heard(bob);
    assert_eq!((&heard[0]["data"]["reason"], &heard[1]["data"]), (&json!("peer-left"), &left));
    assert_eq!(world.refused(moderator, "remove-peer", remove).0, "not-found");
    world.text(alice, r#"{"type":"ping"}"#);
    assert_eq!((world.heard(alice), world.hub.counts().transports), (vec![], 0));
    let again = world.join("alice", "room");
    assert_ne!(world.subscribe(again), id);
    let left = world.heard_of(bob, "peer-left");
    assert_eq!(left, [] as [Value; 0]);
    world.leave(again);
    assert_eq!(world.heard_of(bob, "peer-left")[0].get("reason"), None, "it went by itself");
}

#[test]
fn a_ban_holds_in_its_channel_until_it_ends_or_is_lifted_and_outlives_the_channel() {
    let mut world = World::new(1);
    let [(moderator, _), (alice, id), (bob, _)] = room(&mut world);
    let twin = world.join("alice", "room");
    world.heard(bob);
    world.get(moderator, "remove-peer", json!({ "peerId": id, "banSeconds": 60 }), "ok");
    for session in [alice, twin] {
        let told = world.heard(session);
        assert_eq!(told.last().unwrap()["data"]["code"], "banned");
    }
    assert_eq!(world.disconnected.len(), 2, "all peers of the user");
    let reasons: Vec<_> = world.heard_of(bob, "peer-left").iter().map(|left| left["reason"].clone()).collect();
    assert_eq!(reasons, ["banned", "banned"]);
    let comes = |world: &mut World, user: &str, channel: &str| {
        let session = world.hub.open(world.now, CLIENTS, &Entrance::named(user, channel));
        world.drain();
        session.map(|session| world.leave(session))
    };
    assert_eq!(comes(&mut world, "alice", "room"), Err(OpenError::Banned));
    assert_eq!(comes(&mut world, "alice", "another room"), Ok(()));
    assert_eq!(comes(&mut world, "alicia", "room"), Ok(()));
    world.leave(moderator);
    world.leave(bob);
    assert_eq!((world.hub.counts().channels, world.hub.counts().bans), (0, 1));
    assert_eq!(comes(&mut world, "alice", "room"), Err(OpenError::Banned), "the channel is empty");
    let due = world.hub.poll_timeout().expect("the ban ends");
    world.now = due;
    world.hub.handle_timeout(due);
    assert_eq!((comes(&mut world, "alice", "room"), world.hub.counts().bans), (Ok(()), 0));

    let [(moderator, _), (_, id), _] = room(&mut world);
    world.get(moderator, "remove-peer", json!({ "peerId": id, "banSeconds": 60 }), "ok");
    assert_eq!(world.refused(moderator, "unban", json!({ "user": "bob" })).0, "not-found");
    world.get(moderator, "unban", json!({ "user": "alice" }), "ok");
    assert_eq!(comes(&mut world, "alice", "room"), Ok(()));
    assert_eq!(world.refused(moderator, "unban", json!({ "user": "alice" })).0, "not-found");
}

#[test]
fn who_is_removed_while_it_is_away_does_not_come_back() {
    for ban in [Value::Null, json!(60)] {
        let mut world = World::new(1);
        let [(moderator, _), (alice, id), (bob, _)] = room(&mut world);
        let peer = world.hub.detach(world.now, alice, Duration::from_secs(60)).expect("she had a socket");
        world.get(moderator, "remove-peer", json!({ "peerId": id, "banSeconds": ban }), "ok");
        assert_eq!((world.hub.attach(world.now, peer), world.disconnected.len()), (None, 0));
        assert_eq!(types(&mut world, bob), ["peer-left"]);
        let banned = world.hub.open(world.now, CLIENTS, &Entrance::named("alice", "room"));
        assert_eq!(banned.is_err(), !ban.is_null());
    }
}

#[test]
fn a_moderator_may_remove_itself_and_another_one() {
    let mut world = World::new(1);
    let [(moderator, id), ..] = room(&mut world);
    let second = world.moderator("second", "room");
    let second_id = world.subscribe(second);
    world.get(moderator, "remove-peer", json!({ "peerId": second_id }), "ok");
    assert!(world.disconnected.contains(&(second, 4403)));
    world.text(moderator, &json!({ "type": "remove-peer", "data": { "peerId": id } }).to_string());
    let kinds = types(&mut world, moderator);
    assert_eq!(kinds[kinds.len() - 2..], ["ok", "error"], "the reply, and then why it is over");
}

#[test]
fn grants_take_effect_at_once() {
    let mut world = World::new(1);
    let [(moderator, by), (alice, id), (bob, _)] = room(&mut world);
    for session in [alice, bob] {
        world.create(session, Value::Null);
    }
    let (microphone, _) = world.produce(alice, audio(1, "0"));
    let (camera, number) = world.produce(alice, video(10, "1"));
    let consumer = world.consume(bob, json!({ "producerId": camera }))["id"].clone();
    let (sings, _) = world.produce(bob, audio(5, "0"));
    let heard = world.consume(alice, json!({ "producerId": sings }))["id"].clone();
    for session in [alice, bob] {
        world.heard(session);
    }
    world.take_commands();
    let set = |grants: Value| json!({ "peerId": id, "grants": grants });
    world.get(moderator, "set-grants", set(json!({ "publish": { "kinds": ["audio"] } })), "ok");
    let told = world.heard(alice);
    let grants = json!({ "join": true, "publish": { "kinds": ["audio"] }, "subscribe": true, "moderate": false,
        "hidden": false });
    assert_eq!(told[0], json!({ "type": "grants-changed", "data": { "grants": grants, "by": by } }));
    let closed = json!({ "id": camera, "peerId": id, "reason": "forbidden" });
    assert_eq!(told[1..], [json!({ "type": "producer-closed", "data": closed })]);
    let gone = json!({ "id": consumer, "producerId": camera, "reason": "producer-closed" });
    assert_eq!(world.heard_of(bob, "consumer-closed"), [gone]);
    assert!(world.take_commands().contains(&Command::CloseProducer { producer: number }));
    assert_eq!(world.refused(alice, "produce", video(20, "2")).0, "forbidden");
    let listed = world.get(bob, "get-producers", Value::Null, "producers");
    assert_eq!(listed["producers"][0]["id"], json!(microphone), "what is still granted goes on");

    world.get(moderator, "set-grants", set(json!({ "subscribe": false })), "ok");
    let told = world.heard(alice);
    let closed = json!({ "id": heard, "producerId": sings, "reason": "forbidden" });
    assert_eq!((told.len(), &told[1]["data"]), (2, &closed));
    for (kind, data) in [("subscribe", Value::Null), ("consume", json!({ "rtpCapabilities": {} }))] {
        assert_eq!(world.refused(alice, kind, data).0, "forbidden");
    }
    world.get(bob, "pause-producer", json!({ "producerId": sings }), "ok");
    assert_eq!(world.heard(alice), Vec::<Value>::new());

    world.get(moderator, "set-grants", set(json!({ "moderate": true, "subscribe": true, "publish": true })), "ok");
    world.produce(alice, video(30, "3"));
    world.get(bob, "resume-producer", json!({ "producerId": sings }), "ok");
    assert_eq!(world.heard_of(alice, "producer-resumed").len(), 0, "she has to subscribe again");
    world.get(alice, "set-grants", json!({ "peerId": by, "grants": { "moderate": false } }), "ok");
    assert_eq!(world.refused(moderator, "set-channel", json!({ "locked": true })).0, "forbidden");
    world.heard(alice);
    world.get(alice, "set-grants", set(json!({ "moderate": true })), "ok");
    assert_eq!(world.heard(alice), Vec::<Value>::new(), "nothing changed");
}

#[test]
fn a_right_that_is_taken_while_a_producer_is_on_its_way_ends_it() {
    let mut world = World::new(1);
    let [(moderator, _), (alice, id), _] = room(&mut world);
    let (_, transport) = world.create(alice, Value::Null);
    // Its packets have not come: it has no transport yet.
    let (producer, number) = world.produce(alice, audio(1, "0"));
    world.get(moderator, "set-grants", json!({ "peerId": id, "grants": { "publish": false } }), "ok");
    assert_eq!(world.heard_of(alice, "producer-closed")[0]["id"], json!(producer));
    world.take_commands();
    // The shard's word about it comes late.
    world.event(Event::ProducerBound { producer: number, transport });
    world.event(Event::ProducerSilent { producer: number, silent: true });
    assert_eq!((world.take_commands(), world.hub.counts().producers), (vec![], 0));
    assert_eq!(world.refused(alice, "produce", audio(2, "1")).0, "forbidden");
}

#[test]
fn what_cannot_be_given_is_refused_by_its_name() {
    let mut world = World::new(1);
    let [(moderator, _), (alice, id), _] = room(&mut world);
    for (grants, path) in [
        (json!({ "hidden": true }), "data.grants.hidden"),
        (json!({ "join": false }), "data.grants.join"),
        (json!({ "sing": true }), "data.grants"),
        (json!({ "publish": { "kinds": ["smell"] } }), "data.grants.publish.kinds"),
    ] {
        let (code, message) = world.refused(moderator, "set-grants", json!({ "peerId": id, "grants": grants }));
        assert!(code == "bad-field" && message.starts_with(path), "{message}");
    }
    assert_eq!(world.heard(alice), Vec::<Value>::new());
}

#[test]
fn a_name_and_app_data_are_the_peers_own_until_they_are_given() {
    let mut world = World::new(1);
    let [(moderator, by), (alice, id), (bob, _)] = room(&mut world);
    let mut expected = json!({ "id": id, "user": "alice", "name": "Alice A." });
    assert_eq!(world.get(alice, "rename", json!({ "name": "Alice A." }), "ok")["id"], json!(id));
    world.get(alice, "rename", json!({ "name": "Alice A.", "peerId": id }), "ok");
    assert_eq!(world.heard_of(bob, "peer-updated"), [expected.clone()], "told once");
    world.get(alice, "set-app-data", json!({ "appData": { "hand": "up" } }), "ok");
    expected["appData"] = json!({ "hand": "up" });
    assert_eq!(world.heard_of(bob, "peer-updated"), [expected.clone()]);
    assert_eq!(world.heard(alice), Vec::<Value>::new(), "the reply is enough");
    let listed = world.get(bob, "subscribe", Value::Null, "subscribed");
    let mut entry = listed["peers"].as_array().unwrap().iter().find(|peer| peer["id"] == json!(id)).unwrap().clone();
    entry.as_object_mut().unwrap().remove("producers");
    assert_eq!(entry, expected);
    world.heard(bob);

    world.get(moderator, "rename", json!({ "peerId": id, "name": "A." }), "ok");
    (expected["name"], expected["by"]) = (json!("A."), json!(by));
    for session in [alice, bob] {
        assert_eq!(world.heard_of(session, "peer-updated"), [expected.clone()]);
    }
    assert_eq!(world.refused(alice, "rename", json!({ "name": "Alice" })).0, "forbidden", "it was given");
    world.get(moderator, "rename", json!({ "name": "M." }), "ok");
    world.get(moderator, "rename", json!({}), "ok");
    let told = world.heard_of(bob, "peer-updated");
    assert_eq!((&told[0]["name"], told[1].get("name")), (&json!("M."), None));

    let entrance = Entrance { name: Some("Token T.".into()), ..Entrance::named("token", "room") };
    let token = world.hub.open(world.now, CLIENTS, &entrance).unwrap();
    world.drain();
    assert_eq!(world.refused(token, "rename", json!({ "name": "x" })).0, "forbidden");
    world.get(token, "set-app-data", json!({ "appData": 7 }), "ok");
}

#[test]
fn names_are_checked_as_user_names_are() {
    let mut world = World::new(1);
    let alice = world.join("alice", "room");
    for name in ["", " ", "two\nlines", "\u{200b}", "\u{1b}[31m", &"x".repeat(NAME_BYTES_MAX + 1)] {
        let (code, message) = world.refused(alice, "rename", json!({ "name": name }));
        assert!(code == "bad-field" && message.starts_with("data.name: "), "{message}");
    }
    world.get(alice, "rename", json!({ "name": "Zoë 🎥" }), "ok");
}

/// What all sockets are told, in bytes, by who asks this as often as it may at once.
fn told(world: &mut World, session: SessionId, ask: impl Fn(u32) -> Value) -> usize {
    let mut bytes = 0;
    for n in 0..MESSAGES_BURST {
        world.hub.handle_text(world.now, session, &ask(n).to_string());
        while let Some(output) = world.hub.poll_output() {
            if let weirgate::signal::Output::Send { text, .. } = output {
                bytes += text.len();
            }
        }
    }
    bytes
}

#[test]
fn what_a_moderator_tells_many_costs_it_as_any_other_news() {
    let mut world = World::new(1);
    let listeners: Vec<_> = (0..200).map(|n| world.join(&format!("listener {n}"), "room")).collect();
    let ids: Vec<_> = listeners.iter().map(|session| world.subscribe(*session)).collect();
    let mut tell = |ask: &dyn Fn(u32) -> Value| {
        let moderator = world.moderator("moderator", "room");
        let bytes = told(&mut world, moderator, ask);
        world.leave(moderator);
        bytes
    };
    let ask = |kind: &str, data: Value| json!({ "type": kind, "data": data });
    let long = "x".repeat(8_000);
    let updates = tell(&|n| ask("set-app-data", json!({ "appData": [n, long] })));
    for (name, bytes) in [
        ("rename", tell(&|n| ask("rename", json!({ "name": format!("name {n}") })))),
        ("rename another", tell(&|n| ask("rename", json!({ "name": format!("name {n}"), "peerId": ids[0] })))),
        ("set-channel", tell(&|n| ask("set-channel", json!({ "peersMax": 1_000 + n })))),
        ("remove-peer", tell(&|n| ask("remove-peer", json!({ "peerId": ids[1 + n as usize % 199] })))),
    ] {
        assert!(bytes < 2 * updates, "{name}: {bytes}, and {updates} by appData");
    }
    assert!(updates < 20_000_000, "{updates}");
}

#[test]
fn a_hostile_moderator_fills_the_bans_of_its_own_channel_alone() {
    let mut world = World::new(1);
    let moderator = world.moderator("moderator", "room");
    world.subscribe(moderator);
    for n in 0..=BANS_PER_CHANNEL_MAX {
        world.join(&format!("user {n}"), "room");
        let id = world.heard_of(moderator, "peer-joined").last().expect("it came")["id"].clone();
        world.now = world.now + Duration::from_secs(1);
        let reply = world.say(moderator, "remove-peer", json!({ "peerId": id, "banSeconds": 100_000 }));
        match n < BANS_PER_CHANNEL_MAX {
            true => assert_eq!(reply["type"], "ok", "{reply}"),
            false => assert_eq!(reply["data"]["code"], "limit", "{reply}"),
        }
    }
    assert_eq!(world.hub.bans("room").count(), BANS_PER_CHANNEL_MAX);
    let other = world.moderator("other", "another room");
    world.subscribe(other);
    world.join("bob", "another room");
    let id = world.heard_of(other, "peer-joined")[0]["id"].clone();
    world.get(other, "remove-peer", json!({ "peerId": id, "banSeconds": 60 }), "ok");
    assert_eq!(world.hub.bans("another room").map(|(user, _)| user.to_owned()).collect::<Vec<_>>(), ["bob"]);
}

#[test]
fn the_operator_gives_the_first_right_where_nobody_has_one() {
    let mut world = World::new(1);
    let alice = world.join("alice", "room");
    let id = world.subscribe(alice);
    assert_eq!(world.refused(alice, "set-channel", json!({ "locked": true })).0, "forbidden");
    let act = |kind: &str, data: Value| Act::parse(kind, data).expect("it is well-formed");
    let operate = |world: &mut World, act| {
        let done = world.hub.operate(world.now, "room", act).map_err(|refusal| refusal.code.name());
        world.drain();
        done
    };
    let give = act("set-grants", json!({ "peerId": id, "grants": { "moderate": true } }));
    assert_eq!(operate(&mut world, give), Ok(json!({ "request": "set-grants", "id": id })));
    assert_eq!(world.heard_of(alice, "grants-changed")[0]["by"], "operator");
    world.get(alice, "set-channel", json!({ "locked": true }), "ok");
    assert_eq!(operate(&mut world, act("rename", json!({ "name": "x" }))), Err("bad-field"), "whose name?");
    assert_eq!(operate(&mut world, act("unban", json!({ "user": "x" }))), Err("not-found"));
    let mute = act("mute-peer", json!({ "peerId": id, "kinds": ["audio"] }));
    assert!(matches!(&mute, Act::MutePeer { kinds, .. } if kinds == &[MediaKind::Audio]));
    assert!(operate(&mut world, mute).is_ok());
    let remove = act("remove-peer", json!({ "peerId": id, "banSeconds": 9 }));
    assert!(operate(&mut world, remove).is_ok());
    assert_eq!(world.disconnected, [(alice, 4403)]);
    assert_eq!(operate(&mut world, act("set-channel", json!({ "locked": false }))), Err("not-found"), "it has ended");
    assert_eq!(operate(&mut world, act("unban", json!({ "user": "alice" }))), Ok(json!({ "request": "unban" })));
}
