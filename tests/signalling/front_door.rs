//! Hostile ways around the door: tokens that were used, lobbies that are filled by one, users that come twice.

use std::net::IpAddr;

use serde_json::{Value, json};
use weirgate::base::limits::{
    APP_DATA_BYTES_MAX, PARTINGS_PER_TURN_MAX, PRODUCERS_PER_PEER_MAX, SAID_BYTES_MAX, WAITING_PER_CHANNEL_MAX,
};
use weirgate::base::time::{Duration, Instant};
use weirgate::signal::{
    Entrance, Hub, HubSettings, OpenError, ResumeError, ReturnSettings, Revocation, SameUser, SessionId,
};

use crate::world::{CLIENTS, World, audio, settings};

fn address(last: u8) -> IpAddr {
    [198, 51, 100, last].into()
}

fn returning(same_user: SameUser) -> World {
    let returns = ReturnSettings { key: [5; 32], grace: Duration::from_secs(15), same_user };
    let mut world = World::new(1);
    world.hub = Hub::new(HubSettings { returns, ..settings(1) });
    world
}

fn comes(world: &mut World, from: u8, user: &str) -> Result<SessionId, OpenError> {
    let session = world.hub.open(world.now, address(from), &Entrance::named(user, "room"));
    world.drain();
    session
}

fn lock(world: &mut World) -> SessionId {
    let moderator = world.moderator("moderator", "room");
    world.subscribe(moderator);
    world.get(moderator, "set-channel", json!({ "locked": true, "waiting": true }), "ok");
    world.heard(moderator);
    moderator
}

#[test]
fn a_used_token_is_of_no_use_against_its_peer() {
    let mut world = returning(SameUser::Keep);
    let anna = comes(&mut world, 1, "anna").expect("let in");
    let reply = world.get(anna, "subscribe", json!({ "resume": true }), "subscribed");
    let used = reply["resume"].as_str().expect("it was asked for").to_owned();
    let back = world.hub.resume(world.now, address(1), &used, Some(1)).expect("it is good");
    world.drain();
    let next = world.heard(back)[0]["data"]["resume"].as_str().expect("the next").to_owned();
    world.get(back, "ping", Value::Null, "pong");
    // Somebody has found it in a log.
    for _ in 0..2_000 {
        let tried = world.hub.resume(world.now, address(2), &used, None);
        world.drain();
        assert_eq!(tried, Err(ResumeError::Unauthorized));
    }
    world.get(back, "ping", Value::Null, "pong");
    assert_eq!(world.disconnected, [(anna, 4409)]);
    world.hub.broken(world.now, back, "lost");
    world.drain();
    assert!(world.hub.resume(world.now, address(1), &next, None).is_ok());
}

#[test]
fn one_address_does_not_fill_a_lobby_and_one_user_not_its_address() {
    let mut world = World::new(1);
    let moderator = lock(&mut world);
    // A stranger takes every place, under many names.
    let stranger: Vec<SessionId> = (0..WAITING_PER_CHANNEL_MAX)
        .map(|n| comes(&mut world, 1, &format!("name {n}")).expect("there is a place"))
        .collect();
    assert_eq!(comes(&mut world, 1, "one more"), Err(OpenError::Locked));
    world.heard(moderator);
    let guest = comes(&mut world, 2, "guest").expect("a place is made");
    let id = world.heard_of(guest, "waiting")[0]["peerId"].clone();
    let last = *stranger.last().expect("there are many");
    assert_eq!(world.disconnected, [(last, 4403)]);
    assert_eq!(world.heard_of(last, "error")[0]["code"], "locked");
    let told: Vec<Value> = world.heard_of(moderator, "waiting-ended");
    assert_eq!((told.len(), &told[0]["reason"], told[0].get("by")), (1, &json!("crowded"), None));
    assert_eq!(world.hub.counts().waiting, WAITING_PER_CHANNEL_MAX);
    assert_eq!(comes(&mut world, 1, "again"), Err(OpenError::Locked), "it does not take the place back");
    world.get(moderator, "admit-peer", json!({ "peerId": id }), "ok");
    world.create(guest, Value::Null);
    // Behind one address, as a proxy's, by user.
    let mut world = World::new(1);
    lock(&mut world);
    for _ in 0..WAITING_PER_CHANNEL_MAX {
        comes(&mut world, 1, "stranger").expect("there is a place");
    }
    assert_eq!(comes(&mut world, 1, "stranger"), Err(OpenError::Locked));
    assert!(comes(&mut world, 1, "guest").is_ok());
    assert_eq!((world.disconnected.len(), world.hub.counts().waiting), (1, WAITING_PER_CHANNEL_MAX));
}

#[test]
fn there_is_one_peer_of_each_user_also_behind_a_lobby() {
    let mut world = returning(SameUser::Replace);
    let old = comes(&mut world, 1, "anna").expect("let in");
    let old_id = world.subscribe(old);
    let moderator = lock(&mut world);
    // Her connection is broken, and she has no token.
    let first = comes(&mut world, 1, "anna").expect("she may wait");
    assert_eq!(world.disconnected, [], "she is not in yet");
    let second = comes(&mut world, 1, "anna").expect("she may wait");
    assert_eq!(world.disconnected, [(first, 4409)]);
    assert_eq!(world.heard_of(first, "error")[0]["code"], "replaced");
    assert_eq!(world.hub.counts().waiting, 1);
    let id = world.heard_of(second, "waiting")[0]["peerId"].clone();
    world.get(moderator, "set-channel", json!({ "peersMax": 2 }), "ok");
    world.heard(moderator);
    world.get(moderator, "admit-peer", json!({ "peerId": id }), "ok");
    assert_eq!(world.disconnected, [(first, 4409), (old, 4409)]);
    assert_eq!(world.heard_of(old, "error")[0]["code"], "replaced");
    let joined = world.heard(moderator);
    let joined: Vec<&Value> = joined.iter().filter(|message| message["type"] == "peer-joined").collect();
    assert_eq!(joined[0]["data"]["replaces"], json!(old_id));
    assert_eq!((world.hub.counts().peers, world.hub.counts().waiting), (2, 0));
    // One that waits alone keeps its channel and its lock.
    world.leave(moderator);
    world.leave(second);
    let mut world = returning(SameUser::Replace);
    let moderator = lock(&mut world);
    comes(&mut world, 1, "anna").expect("she may wait");
    world.leave(moderator);
    let anna = comes(&mut world, 1, "anna").expect("she may wait");
    assert_eq!(world.heard_of(anna, "waiting").len(), 1);
    assert_eq!((world.hub.counts().peers, world.hub.counts().waiting), (1, 1));
}

#[test]
fn who_may_neither_publish_nor_subscribe_says_nothing_by_its_name_or_app_data() {
    let mut world = World::new(1);
    let moderator = world.moderator("moderator", "room");
    world.subscribe(moderator);
    let mallory = world.join("mallory", "room");
    let id = world.subscribe(mallory);
    world.get(mallory, "rename", json!({ "name": "Mallory" }), "ok");
    world.get(mallory, "set-app-data", json!({ "appData": "hello" }), "ok");
    let silenced = json!({ "peerId": id, "grants": { "publish": false, "subscribe": false } });
    world.get(moderator, "set-grants", silenced, "ok");
    world.heard(moderator);
    for (kind, data) in [
        ("send-message", json!({ "data": "hello" })),
        ("set-app-data", json!({ "appData": "hello again" })),
        ("rename", json!({ "name": "hello again" })),
        ("rename", json!({ "peerId": id, "name": "hello again" })),
    ] {
        assert_eq!(world.refused(mallory, kind, data).0, "forbidden", "{kind}");
    }
    assert_eq!(world.heard(moderator), Vec::<Value>::new());
}

/// Somebody with a token whose connection has just broken.
fn away(world: &mut World) -> String {
    let anna = comes(world, 1, "anna").expect("let in");
    let reply = world.get(anna, "subscribe", json!({ "resume": true }), "subscribed");
    world.hub.broken(world.now, anna, "lost");
    world.drain();
    reply["resume"].as_str().expect("it was asked for").to_owned()
}

#[test]
fn what_one_user_says_at_once_ends_nobody_who_is_away() {
    let long = "x".repeat(SAID_BYTES_MAX.min(APP_DATA_BYTES_MAX) - 9);
    let produce = |n: u32| {
        let mut data = audio(n + 1, &n.to_string());
        data["appData"] = json!(long);
        json!({ "type": "produce", "data": data }).to_string()
    };
    let say = |n: u32| json!({ "type": "send-message", "data": { "data": format!("{n} {long}") } }).to_string();
    let texts: [&dyn Fn(u32) -> String; 2] = [&produce, &say];
    for text in texts {
        let mut world = returning(SameUser::Keep);
        let token = away(&mut world);
        // As many sockets as make a user's own account the bound.
        let sockets: Vec<SessionId> = (0..12).map(|_| comes(&mut world, 2, "mallory").expect("let in")).collect();
        let mut taken = 0;
        for mallory in &sockets {
            world.create(*mallory, Value::Null);
        }
        for mallory in sockets {
            for n in 0..PRODUCERS_PER_PEER_MAX as u32 {
                world.hub.handle_text(world.now, mallory, &text(n));
            }
            world.drain();
            taken += world.heard(mallory).iter().filter(|reply| reply["type"] != "error").count();
        }
        assert!(taken > 10, "{taken}");
        let back = world.hub.resume(world.now, address(1), &token, Some(1)).expect("she is still there");
        world.drain();
        assert!(world.heard(back).len() > taken);
    }
}

/// Outputs of the hub until there are none.
fn outputs(world: &mut World) -> usize {
    std::iter::from_fn(|| world.hub.poll_output()).count()
}

/// A full room, whose peers all came by one application's tokens.
fn full_room(world: &mut World, peers: usize, expires: Instant) {
    for n in 0..peers {
        let entrance = Entrance { expires: Some(expires), ..Entrance::named("viewer", "room") };
        let session = world.hub.open(world.now, CLIENTS, &entrance).expect("let in");
        world.hub.handle_text(world.now, session, r#"{"type":"subscribe","data":{"resume":true}}"#);
        assert!(outputs(world) < 2 * n + 4);
    }
}

#[test]
fn those_whose_time_ends_at_once_end_a_few_at_a_time() {
    const PEERS: usize = 600;
    let mut world = returning(SameUser::Keep);
    let end = Instant::ZERO + Duration::from_secs(60);
    full_room(&mut world, PEERS, end);
    world.now = end;
    let mut turns = 0;
    while world.hub.poll_timeout().is_some_and(|due| due <= end) {
        world.hub.handle_timeout(world.now);
        let told = outputs(&mut world);
        assert!(told <= (PARTINGS_PER_TURN_MAX + 1) * PEERS, "{told}");
        turns += 1;
    }
    assert_eq!(world.hub.counts().peers, 0);
    assert!(turns >= PEERS / PARTINGS_PER_TURN_MAX, "{turns}");
}

#[test]
fn those_who_are_put_out_together_hear_nothing_of_each_other() {
    const PEERS: usize = 600;
    let end = Instant::ZERO + Duration::from_secs(3_600);
    let ban = |world: &mut World| {
        let moderator = world.moderator("moderator", "room");
        let listed = world.get(moderator, "subscribe", Value::Null, "subscribed");
        let id = listed["peers"][0]["id"].clone();
        outputs(world);
        let text = json!({ "type": "remove-peer", "data": { "peerId": id, "banSeconds": 60 } }).to_string();
        world.hub.handle_text(world.now, moderator, &text);
    };
    let revoke = |world: &mut World| {
        let revoked = world.hub.revoke(world.now, Revocation::User("viewer".into()), end);
        assert_eq!(revoked, Ok(PEERS));
    };
    let ways: [&dyn Fn(&mut World); 2] = [&ban, &revoke];
    for (put_out, left) in ways.into_iter().zip([1, 0]) {
        let mut world = returning(SameUser::Keep);
        full_room(&mut world, PEERS, end);
        put_out(&mut world);
        let told = outputs(&mut world);
        assert_eq!(world.hub.counts().peers, left);
        assert!(told < 5 * PEERS, "{told}");
    }
}
