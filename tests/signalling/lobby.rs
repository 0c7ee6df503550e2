//! Channels that are locked, full, or keep comers waiting, and those who wait.

use serde_json::{Value, json};
use weirgate::base::limits::WAITING_PER_CHANNEL_MAX;
use weirgate::signal::{Act, Entrance, OpenError, SessionId};

use crate::world::{CLIENTS, World, audio};

impl World {
    fn comes(&mut self, user: &str, channel: &str) -> Result<SessionId, OpenError> {
        let session = self.hub.open(self.now, CLIENTS, &Entrance::named(user, channel));
        self.drain();
        session
    }

    /// A moderator and a member who both subscribe, in a channel with these settings.
    fn hall(set: &Value) -> (World, SessionId, SessionId) {
        let mut world = World::new(1);
        let moderator = world.moderator("moderator", "room");
        world.subscribe(moderator);
        let member = world.join("member", "room");
        world.subscribe(member);
        world.get(moderator, "set-channel", set.clone(), "ok");
        for session in [moderator, member] {
            world.heard(session);
        }
        (world, moderator, member)
    }

    fn kinds(&mut self, session: SessionId) -> Vec<String> {
        let kind = |message: &Value| {
            let reason = message.pointer("/data/reason").or(message.pointer("/data/code"));
            let reason = reason.map(|reason| format!(" {}", reason.as_str().expect("a word")));
            message["type"].as_str().expect("a type").to_owned() + &reason.unwrap_or_default()
        };
        self.heard(session).iter().map(kind).collect()
    }
}

/// Comes, and waits: the session and the peer's id.
fn waits(world: &mut World, user: &str) -> (SessionId, String) {
    let session = world.comes(user, "room").expect("it may wait");
    let told = world.heard_of(session, "waiting");
    (session, told[0]["peerId"].as_str().expect("its id").to_owned())
}

fn lock() -> Value {
    json!({ "locked": true, "waiting": true })
}

#[test]
fn a_locked_or_full_channel_lets_nobody_in_but_moderators() {
    let (mut world, moderator, member) = World::hall(&json!({ "locked": true }));
    assert_eq!(world.comes("late", "room"), Err(OpenError::Locked));
    world.moderator("another moderator", "room");
    assert!(world.comes("late", "another room").is_ok(), "another channel is its own");
    world.get(moderator, "set-channel", json!({ "locked": false, "peersMax": 3 }), "ok");
    assert_eq!(world.comes("late", "room"), Err(OpenError::ChannelFull));
    world.moderator("a third", "room");
    world.get(moderator, "set-channel", json!({ "peersMax": 5 }), "ok");
    world.heard(member);
    let late = world.comes("late", "room").expect("there is room");
    assert_eq!(world.kinds(member), ["peer-joined"]);
    assert_eq!(world.comes("later", "room"), Err(OpenError::ChannelFull));
    world.leave(late);
    world.comes("later", "room").expect("there is room again");
    world.get(moderator, "set-channel", json!({ "peersMax": 0 }), "ok");
    world.comes("last", "room").expect("there is no bound");
}

#[test]
fn what_is_set_is_told_once_and_listed_where_it_is_set() {
    let (mut world, moderator, member) = World::hall(&json!({}));
    let listed = |world: &mut World| world.get(member, "subscribe", Value::Null, "subscribed").get("channel").cloned();
    assert_eq!((world.kinds(member), listed(&mut world)), (vec![], None));
    let id = world.subscribe(moderator);
    for (data, channel) in [
        (json!({ "locked": true }), json!({ "locked": true })),
        (json!({ "waiting": true, "peersMax": 9 }), json!({ "locked": true, "waiting": true, "peersMax": 9 })),
        (json!({ "locked": false, "waiting": false, "peersMax": 0 }), json!({})),
    ] {
        for times in [1, 0] {
            world.get(moderator, "set-channel", data.clone(), "ok");
            let told = json!({ "channel": channel, "by": id });
            assert_eq!(world.heard_of(member, "channel-changed"), vec![told; times]);
        }
        let expected = Some(channel).filter(|channel| *channel != json!({}));
        assert_eq!(listed(&mut world), expected);
    }
}

#[test]
fn who_waits_sees_nothing_may_nothing_and_is_seen_by_moderators_alone() {
    let (mut world, moderator, member) = World::hall(&lock());
    let (comer, id) = waits(&mut world, "comer");
    assert_eq!(world.heard_of(moderator, "peer-waiting"), [json!({ "id": id, "user": "comer" })]);
    for (kind, data) in [
        ("get-rtp-capabilities", Value::Null),
        ("create-transport", Value::Null),
        ("subscribe", Value::Null),
        ("get-producers", Value::Null),
        ("produce", audio(1, "0")),
        ("send-message", json!({ "data": 1 })),
        ("rename", json!({ "name": "x" })),
        ("admit-peer", json!({ "peerId": id })),
        ("get-stats", json!({ "transportId": "x" })),
    ] {
        assert_eq!(world.refused(comer, kind, data).0, "forbidden", "{kind}");
    }
    world.get(comer, "ping", Value::Null, "pong");
    world.get(member, "send-message", json!({ "data": "secret" }), "ok");
    world.get(moderator, "rename", json!({ "name": "M" }), "ok");
    let newcomer = world.moderator("a second moderator", "room");
    let listed = world.get(newcomer, "subscribe", Value::Null, "subscribed");
    assert_eq!(listed["waiting"], json!([{ "id": id, "user": "comer" }]));
    assert_eq!(world.get(member, "subscribe", Value::Null, "subscribed").get("waiting"), None);
    world.leave(newcomer);
    assert_eq!(world.heard(comer), Vec::<Value>::new());
    for kind in ["mute-peer", "set-grants"] {
        let data = json!({ "peerId": id, "grants": { "moderate": true } });
        assert_eq!(world.refused(moderator, kind, data).0, "not-found", "{kind}: it is not inside");
    }
    world.heard(member);
    world.leave(comer);
    assert_eq!(world.heard_of(moderator, "waiting-ended"), [json!({ "id": id, "user": "comer", "reason": "left" })]);
    assert_eq!((world.heard(member), world.hub.counts().waiting), (vec![], 0));
}

#[test]
fn who_is_admitted_is_a_peer_like_any_other_on_the_same_socket() {
    let (mut world, moderator, member) = World::hall(&lock());
    let (comer, id) = waits(&mut world, "comer");
    world.heard(moderator);
    assert_eq!(world.refused(member, "admit-peer", json!({ "peerId": id })).0, "forbidden");
    world.get(moderator, "admit-peer", json!({ "peerId": id }), "ok");
    assert_eq!(world.heard_of(comer, "admitted"), [json!({ "peerId": id })]);
    assert_eq!(world.kinds(moderator), ["waiting-ended admitted", "peer-joined"]);
    assert_eq!(world.heard_of(member, "peer-joined"), [json!({ "id": id, "user": "comer" })]);
    for kind in ["admit-peer", "turn-away-peer"] {
        assert_eq!(world.refused(moderator, kind, json!({ "peerId": id })).0, "not-found", "{kind} twice");
    }
    assert_eq!(world.subscribe(comer), id);
    world.create(comer, Value::Null);
    world.produce(comer, audio(1, "0"));
    assert_eq!(world.kinds(member), ["new-producer"]);
    world.leave(comer);
    assert_eq!(world.kinds(member), ["producer-closed peer-left", "peer-left"]);
}

#[test]
fn who_is_turned_away_or_removed_while_it_waits_is_told_and_gone() {
    let (mut world, moderator, member) = World::hall(&lock());
    for (kind, code, reason) in [("turn-away-peer", "removed", "turned-away"), ("remove-peer", "removed", "removed")] {
        let (comer, id) = waits(&mut world, "comer");
        world.heard(moderator);
        world.get(moderator, kind, json!({ "peerId": id, "reason": "not today" }), "ok");
        let heard = world.heard(comer);
        assert_eq!(
            (heard.len(), &heard[0]["data"]["code"], &heard[0]["data"]["request"]),
            (1, &json!(code), &Value::Null)
        );
        assert!(heard[0]["data"]["message"].as_str().unwrap().ends_with(": not today"));
        assert_eq!(world.disconnected.pop(), Some((comer, 4403)));
        let told = world.heard_of(moderator, "waiting-ended");
        assert_eq!((&told[0]["reason"], &told[0]["message"]), (&json!(reason), &json!("not today")));
        world.text(comer, r#"{"type":"ping"}"#);
        assert_eq!(world.heard(comer), Vec::<Value>::new());
    }
    assert_eq!(world.heard(member), Vec::<Value>::new(), "it was never inside");
    let (_, id) = waits(&mut world, "comer");
    world.get(moderator, "remove-peer", json!({ "peerId": id, "banSeconds": 60 }), "ok");
    assert_eq!(world.comes("comer", "room"), Err(OpenError::Banned));
}

#[test]
fn an_opened_channel_lets_those_in_who_wait_in_their_order_while_there_is_room() {
    let (mut world, moderator, _) = World::hall(&json!({ "locked": true, "waiting": true, "peersMax": 4 }));
    let comers: Vec<_> = ["one", "two", "three"].map(|user| waits(&mut world, user)).into();
    world.heard(moderator);
    world.get(moderator, "set-channel", json!({ "locked": false }), "ok");
    let outcomes: Vec<_> = comers.iter().map(|(session, _)| world.kinds(*session)).collect();
    assert_eq!(outcomes, [vec!["admitted"], vec!["admitted"], vec!["error full"]]);
    assert_eq!(world.disconnected, [(comers[2].0, 4403)]);
    let joined: Vec<_> = world.heard_of(moderator, "peer-joined").iter().map(|peer| peer["user"].clone()).collect();
    assert_eq!(joined, ["one", "two"]);
}

#[test]
fn a_channel_that_is_full_admits_nobody_until_its_bound_is_raised() {
    let (mut world, moderator, _) = World::hall(&json!({ "locked": true, "waiting": true, "peersMax": 2 }));
    let (comer, id) = waits(&mut world, "comer");
    assert_eq!(world.refused(moderator, "admit-peer", json!({ "peerId": id })).0, "limit");
    world.get(moderator, "set-channel", json!({ "peersMax": 3 }), "ok");
    world.get(moderator, "admit-peer", json!({ "peerId": id }), "ok");
    assert_eq!(world.kinds(comer), ["admitted"]);
}

#[test]
fn where_nobody_may_wait_any_more_those_who_do_are_sent_away() {
    let (mut world, moderator, _) = World::hall(&lock());
    let (comer, _) = waits(&mut world, "comer");
    world.get(moderator, "set-channel", json!({ "waiting": false }), "ok");
    assert_eq!(world.kinds(comer), ["error locked"]);
    assert_eq!(world.disconnected, [(comer, 4403)]);
    assert_eq!(world.comes("another", "room"), Err(OpenError::Locked));
}

#[test]
fn those_who_wait_are_bounded() {
    let (mut world, _, _) = World::hall(&lock());
    for n in 0..WAITING_PER_CHANNEL_MAX {
        waits(&mut world, &format!("comer {n}"));
    }
    assert_eq!(world.comes("one more", "room"), Err(OpenError::Locked));
    assert_eq!(world.hub.counts().waiting, WAITING_PER_CHANNEL_MAX);
}

#[test]
fn a_lock_ends_with_the_channel_and_the_channel_not_while_somebody_waits() {
    let (mut world, moderator, member) = World::hall(&lock());
    let (comer, id) = waits(&mut world, "comer");
    world.leave(moderator);
    world.leave(member);
    waits(&mut world, "another");
    let moderator = world.moderator("moderator", "room");
    let listed = world.get(moderator, "subscribe", Value::Null, "subscribed");
    assert_eq!(listed["waiting"].as_array().map(Vec::len), Some(2));
    world.get(moderator, "admit-peer", json!({ "peerId": id }), "ok");
    world.leave(moderator);
    world.leave(comer);
    assert_eq!(world.hub.counts().channels, 1);
    let last = world.hub.operate(world.now, "room", Act::parse("set-channel", json!({ "waiting": false })).unwrap());
    assert!(last.is_ok());
    world.drain();
    assert_eq!((world.hub.counts().channels, world.hub.counts().peers), (0, 0), "nobody is left");
    let first = world.comes("comer", "room").expect("it is a new channel");
    assert_eq!(world.kinds(first), Vec::<String>::new());
}

#[test]
fn a_moderators_right_that_comes_late_brings_the_news_and_taken_away_ends_them() {
    let (mut world, moderator, member) = World::hall(&lock());
    let member_id = world.subscribe(member);
    let (_, id) = waits(&mut world, "comer");
    world.heard(member);
    let grants = |moderate: bool| json!({ "peerId": member_id, "grants": { "moderate": moderate } });
    world.get(moderator, "set-grants", grants(true), "ok");
    assert_eq!(world.heard_of(member, "peer-waiting"), [json!({ "id": id, "user": "comer" })]);
    waits(&mut world, "another");
    assert_eq!(world.kinds(member), ["peer-waiting"]);
    world.get(moderator, "set-grants", grants(false), "ok");
    world.heard(member);
    waits(&mut world, "a third");
    assert_eq!(world.heard(member), Vec::<Value>::new());
}

#[test]
fn who_waits_pays_for_its_messages_and_may_be_put_out() {
    let (mut world, _, _) = World::hall(&lock());
    let (comer, _) = waits(&mut world, "comer");
    for _ in 0..1_000 {
        world.hub.handle_text(world.now, comer, r#"{"type":"subscribe"}"#);
    }
    world.drain();
    assert!(world.disconnected.contains(&(comer, 1008)));
    assert_eq!(world.hub.counts().waiting, 0);
}
