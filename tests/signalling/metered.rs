//! Cost is metered, not messages; quotas; and texts for many exist once. On virtual time; where CPU time is measured,
//! it is in proportion to a control of the same run.

use std::net::IpAddr;

use serde_json::{Value, json};
use weirgate::base::limits::{
    ADDRESS_METER_SIZE, APP_DATA_BYTES_MAX, CHECK_WAIT, MESSAGE_BYTES_MAX, MESSAGES_BURST, METERED_JOIN,
    TRANSPORTS_PER_PEER_MAX, TRANSPORTS_PER_SHARD_MAX, UNCHECKED_TRANSPORTS_PER_ADDRESS_MAX,
    UNCHECKED_TRANSPORTS_PER_USER_MAX, USER_METER_SIZE,
};
use weirgate::base::time::Duration;
use weirgate::shard::command::{Command, Event, TransportState};
use weirgate::signal::{Entrance, Hub, HubSettings, OpenError, Output, Quotas, SessionId};

use crate::cpu::thread_cpu;
use crate::world::{World, audio, connect, settings, video};

fn address(last: u8) -> IpAddr {
    [192, 0, 2, last].into()
}

fn large() -> Value {
    json!("x".repeat(APP_DATA_BYTES_MAX - 2))
}

/// Sends all of it at once; returns the CPU time that took, and the number of answers that are no refusal.
fn at_once(world: &mut World, session: SessionId, text: &str, times: u32) -> (Duration, u32) {
    let before = thread_cpu();
    let mut passed = 0;
    for _ in 0..times {
        world.hub.handle_text(world.now, session, text);
        while let Some(output) = world.hub.poll_output() {
            match output {
                Output::Send { text, .. } => {
                    passed += u32::from(!text.pieces().next().is_some_and(|piece| piece.contains("rate-limited")));
                }
                Output::Disconnect { session, code, .. } => world.disconnected.push((session, code)),
                Output::Command { .. } | Output::Verify(_) => {}
            }
        }
    }
    (thread_cpu() - before, passed)
}

/// A channel with 480 producers of 16 KB appData.
fn crowded(world: &mut World) {
    for n in 0..24 {
        let publisher = world.join(&format!("publisher {n}"), "room");
        world.create(publisher, Value::Null);
        for stream in 0..20 {
            let mut data = audio(stream + 1, &stream.to_string());
            data["appData"] = large();
            world.now = world.now + Duration::from_secs(2);
            world.produce(publisher, data);
        }
    }
}

#[test]
fn lists_asked_for_without_end_cost_no_more_than_small_messages() {
    let mut world = World::new(1);
    crowded(&mut world);
    let [calm, list, all] = ["calm", "list", "all"].map(|user| world.join(user, "room"));
    let (pings, passed) = at_once(&mut world, calm, r#"{"type":"ping"}"#, MESSAGES_BURST);
    assert_eq!(passed, MESSAGES_BURST);
    for (session, kind) in [(list, "get-producers"), (all, "subscribe")] {
        let (lists, passed) = at_once(&mut world, session, &json!({ "type": kind }).to_string(), MESSAGES_BURST);
        assert!((3..=20).contains(&passed), "{passed} of {MESSAGES_BURST} {kind} were answered");
        assert!(world.disconnected.contains(&(session, 1008)), "who goes on is put out");
        assert!(lists < 20 * pings, "{kind}: {lists:?}, against {pings:?} for as many pings");
    }
}

#[test]
fn a_list_is_made_once_for_all_until_something_changes() {
    let mut world = World::new(1);
    crowded(&mut world);
    let askers: Vec<SessionId> = (0..50).map(|n| world.join(&format!("asker {n}"), "room")).collect();
    let ask = |world: &mut World, session| at_once(world, session, r#"{"type":"get-producers"}"#, 1).0;
    let first = ask(&mut world, askers[0]);
    let later = askers[1..].iter().map(|session| ask(&mut world, *session)).min().unwrap();
    assert!(later * 5 < first, "{first:?} for the first, {later:?} for one that came after");
    let of = |world: &mut World, session| {
        world.get(session, "get-producers", Value::Null, "producers")["producers"].as_array().unwrap().len()
    };
    assert_eq!(of(&mut world, askers[0]), 480);
    world.create(askers[1], Value::Null);
    let (own, _) = world.produce(askers[1], audio(7, "0"));
    assert_eq!((of(&mut world, askers[0]), of(&mut world, askers[1])), (481, 480), "each without its own");
    let listed = world.get(askers[0], "get-producers", Value::Null, "producers");
    assert_eq!(listed["producers"][480]["paused"], false);
    world.get(askers[1], "pause-producer", json!({ "producerId": own }), "ok");
    let listed = world.get(askers[0], "get-producers", Value::Null, "producers");
    assert_eq!(listed["producers"][480]["paused"], true);
    world.leave(askers[1]);
    assert_eq!(of(&mut world, askers[0]), 480);
}

#[test]
fn a_refusal_says_when_to_come_again_and_it_is_true() {
    let mut world = World::new(1);
    crowded(&mut world);
    let alice = world.join("alice", "room");
    let refusal = loop {
        let reply = world.say(alice, "get-producers", Value::Null);
        if reply["type"] == "error" {
            break reply;
        }
    };
    assert_eq!(refusal["data"]["code"], "rate-limited");
    let wait = refusal["data"]["retryAfterMs"].as_u64().expect("a hint is given");
    world.now = world.now + Duration::from_millis(wait);
    world.get(alice, "ping", Value::Null, "pong");
    assert_eq!(world.disconnected, []);
}

#[test]
fn the_longest_messages_cost_by_their_bytes() {
    let mut world = World::new(1);
    let [alice, mallory] = ["alice", "mallory"].map(|user| world.join(user, "room"));
    let start = r#"{"type":"ping","data":{"x":["#;
    let text = format!("{start}{}0]}}}}", "0,".repeat((MESSAGE_BYTES_MAX - start.len() - 8) / 2));
    let (_, passed) = at_once(&mut world, mallory, &text, 100);
    assert!((1..=10).contains(&passed), "{passed} of 100 were read");
    world.now = world.now + Duration::from_secs(20);
    let mut passed = 0;
    for _ in 0..1_000 {
        world.now = world.now + Duration::from_millis(100);
        passed += at_once(&mut world, mallory, &text, 1).1;
        if !world.disconnected.is_empty() {
            break;
        }
    }
    assert!(passed <= 100, "in 100 s {passed} messages of 256 KiB");
    world.get(alice, "ping", Value::Null, "pong");
}

#[test]
fn json_that_is_made_to_be_slow_is_no_slower_than_its_length() {
    let of = |unit: &str| format!("{{\"type\":\"ping\",\"data\":{{\"x\":[{}0]}}}}", unit.repeat(200_000 / unit.len()));
    // As many values as a message may have.
    let plain = of("1234567890123,");
    let mut world = World::new(1);
    let mut took = |text: &str| {
        // Twice, by fresh sessions: the first may find cold code.
        let mut once = || {
            let session = world.join("mallory", "room");
            let took = at_once(&mut world, session, text, 3).0;
            world.leave(session);
            took
        };
        once().min(once())
    };
    let control = took(&plain);
    for bomb in [
        of("[[[[[[[[[[0]]]]]]]]]],"),
        of("{},"),
        of("[],"),
        of("\"\\u0000\\ud83d\\ude00\","),
        of("1e-300,"),
        of("123456789012345678901234567890,"),
        of("{\"a\":1,\"a\":2},"),
        "[".repeat(200_000),
        "{\"a\":".repeat(40_000),
        format!("{{\"type\":\"ping\",\"requestId\":{}}}", "9".repeat(200_000)),
        format!("\"{}\"", "\\\"".repeat(100_000)),
        format!("{{\"requestId\":{}", "\"\\".repeat(100_000)),
    ] {
        let took = took(&bomb);
        assert!(took < 20 * control, "{took:?} against {control:?} for {}", &bomb[..40]);
    }
}

#[test]
fn who_is_refused_learns_for_which_request() {
    let mut world = World::new(1);
    let alice = world.join("alice", "room");
    for text in [
        r#"{"type":"produce","requestId":7,"data":{"appData":"half a pair \ud83d"}}"#.to_owned(),
        r#"{"type":"ping","data":{"x":1e999},"requestId":7}"#.to_owned(),
        format!(r#"{{"requestId":7,"x":{}"#, "[".repeat(99)),
        r#"{"type":"ping","requestId":7"#.to_owned(),
    ] {
        world.text(alice, &text);
        let heard = world.heard(alice);
        assert_eq!((&heard[0]["data"]["code"], &heard[0]["requestId"]), (&json!("bad-json"), &json!(7)), "{text}");
    }
}

#[test]
fn who_replaces_a_producer_without_end_tells_members_no_more_than_a_slow_link_carries() {
    for members in [1, 10] {
        let mut world = World::new(1);
        let mallory = world.join("mallory", "room");
        world.create(mallory, Value::Null);
        let members: Vec<_> = (0..members).map(|n| world.join(&format!("member {n}"), "room")).collect();
        for member in &members {
            world.get(*member, "subscribe", Value::Null, "subscribed");
        }
        let mut data = audio(1, "0");
        data["appData"] = large();
        let produce = json!({ "type": "produce", "data": data }).to_string();
        let mut told = 0;
        for _ in 0..30 * 50 {
            world.now = world.now + Duration::from_millis(20);
            world.hub.handle_text(world.now, mallory, &produce);
            while let Some(output) = world.hub.poll_output() {
                if let Output::Send { session, text, .. } = output
                    && session == members[0]
                {
                    told += text.len();
                }
            }
        }
        let rate = told * 8 / 30;
        assert!((1_000..2_500_000).contains(&rate), "{} members: {rate} bits a second to each", members.len());
    }
}

#[test]
fn what_an_address_and_a_user_cost_together_is_bounded_and_others_are_not_touched() {
    let mut world = World::new(1);
    let join = |world: &mut World, last: u8, user: &str| {
        let session = world.hub.open(world.now, address(last), &Entrance::named(user, "room")).expect("let in");
        world.drain();
        session
    };
    let ping = r#"{"type":"ping"}"#;
    let other = join(&mut world, 2, "mallory");
    let passed = |world: &mut World, user: fn(u32) -> String| {
        let sessions: Vec<_> = (0..90).map(|n| join(world, 1, &user(n))).collect();
        let passed: u32 = sessions.iter().map(|session| at_once(world, *session, ping, MESSAGES_BURST).1).sum();
        sessions.iter().for_each(|session| world.leave(*session));
        passed
    };
    let of_one_user = passed(&mut world, |_| "mallory".to_owned());
    assert!(of_one_user <= 9 * MESSAGES_BURST, "{of_one_user} messages of one user at once");
    world.now = world.now + Duration::from_secs(60);
    let of_many = passed(&mut world, |n| format!("mallory {n}"));
    assert!(
        (30 * MESSAGES_BURST..=41 * MESSAGES_BURST).contains(&of_many),
        "{of_many} messages of one address at once"
    );
    let untouched = at_once(&mut world, other, ping, MESSAGES_BURST).1;
    assert_eq!(untouched, MESSAGES_BURST, "the same name elsewhere");
}

#[test]
fn who_joins_channels_where_nobody_is_pays_for_each() {
    let mut world = World::new(1);
    let joins = |world: &mut World, last: u8, user: &dyn Fn(u32) -> String| {
        let mut joined = 0;
        let refused = loop {
            let entrance = Entrance::named(&user(joined), &format!("room {joined}"));
            match world.hub.open(world.now, address(last), &entrance) {
                Ok(session) => world.leave(session),
                Err(refused) => break refused,
            }
            joined += 1;
            assert!(joined < 100_000, "it goes on for ever");
        };
        assert_eq!((refused.code(), refused.http_status()), ("rate-limited", 429));
        joined
    };
    let most = |sockets: u32| sockets * MESSAGES_BURST / METERED_JOIN as u32;
    let of_one_user = joins(&mut world, 1, &|_| "mallory".to_owned());
    assert_eq!(of_one_user, most(USER_METER_SIZE));
    let of_an_address = joins(&mut world, 2, &|n| format!("mallory {n}"));
    assert_eq!(of_an_address, most(ADDRESS_METER_SIZE));
    assert!(
        world.hub.open(world.now, address(3), &Entrance::named("mallory", "room")).is_ok(),
        "the same name elsewhere"
    );
}

#[test]
fn sockets_of_one_address_and_of_one_user_are_bounded() {
    let quotas = Quotas { sockets_per_address: 10, sockets_per_user: 4 };
    let mut hub = Hub::new(HubSettings { quotas, ..settings(1) });
    let now = Default::default();
    let mut open = |last: u8, user: &str| hub.open(now, address(last), &Entrance::named(user, "room"));
    for _ in 0..4 {
        open(1, "anna").expect("let in");
    }
    let refused = open(1, "anna").unwrap_err();
    assert_eq!((refused.code(), refused.http_status()), ("limit", 429));
    for n in 0..6 {
        open(1, &format!("berta {n}")).expect("let in");
    }
    assert!(matches!(open(1, "carla"), Err(OpenError::Limit { max: 10, .. })));
    open(2, "anna").expect("somebody else");
}

#[test]
fn transports_that_nobody_checks_are_bounded_by_user_and_by_address() {
    let mut world = World::new(1);
    let mut made = 0;
    let mut limited = 0;
    let open = |world: &mut World, last: u8, user: &str| {
        let session = world.hub.open(world.now, address(last), &Entrance::named(user, "room")).expect("let in");
        world.drain();
        session
    };
    let mut sessions = Vec::new();
    for user in 0..20 {
        for _ in 0..10 {
            let session = open(&mut world, 1, &format!("mallory {user}"));
            sessions.push(session);
            for _ in 0..TRANSPORTS_PER_PEER_MAX {
                let reply = world.say(session, "create-transport", Value::Null);
                match reply["type"].as_str() {
                    Some("transport-params") => made += 1,
                    _ => {
                        assert_eq!(reply["data"]["code"], "limit", "{reply}");
                        limited += 1;
                    }
                }
            }
            if user == 0 {
                assert!(made <= UNCHECKED_TRANSPORTS_PER_USER_MAX);
            }
        }
    }
    assert_eq!(made, UNCHECKED_TRANSPORTS_PER_ADDRESS_MAX);
    assert!(limited > 1_000);
    assert_eq!(world.hub.counts().unchecked_transports, made);
    let honest = open(&mut world, 2, "mallory 0");
    world.create(honest, Value::Null);
    // One that is checked makes room, and so does one that ends.
    let Some((_, Command::CreateTransport { transport, .. })) = world.commands.first().cloned() else { panic!() };
    world.event(Event::TransportState { transport, state: TransportState::Connecting });
    for session in sessions {
        world.leave(session);
    }
    assert_eq!(world.hub.counts().unchecked_transports, 1);
    let again = open(&mut world, 1, "mallory 0");
    world.create(again, Value::Null);
}

#[test]
fn a_shard_that_is_full_is_a_limit_to_who_asks() {
    let mut world = World::new(1);
    for _ in 0..TRANSPORTS_PER_SHARD_MAX / TRANSPORTS_PER_PEER_MAX {
        let session = world.join("somebody", "room");
        for _ in 0..TRANSPORTS_PER_PEER_MAX {
            let (_, transport) = world.create(session, Value::Null);
            world.connected(transport);
            world.commands.clear();
        }
    }
    let late = world.join("late", "room");
    assert_eq!(world.refused(late, "create-transport", Value::Null).0, "limit");
    assert_eq!(world.take_commands(), []);
}

#[test]
fn a_transport_that_is_announced_and_never_checked_ends() {
    let mut world = World::new(1);
    let alice = world.join("alice", "room");
    world.get(alice, "subscribe", Value::Null, "subscribed");
    let (id, number) = world.create(alice, Value::Null);
    let mut named = connect();
    named["transportId"] = json!(id);
    world.get(alice, "connect-transport", named, "transport-connected");
    let ends = world.now + CHECK_WAIT;
    // The log looks at it before.
    while world.now < ends {
        assert_eq!(world.heard_of(alice, "transport-state"), [] as [Value; 0]);
        world.now = world.hub.poll_timeout().expect("it is looked at");
        world.hub.handle_timeout(world.now);
        world.drain();
    }
    assert_eq!(world.now, ends);
    let told = world.heard_of(alice, "transport-state");
    assert_eq!(told, [json!({ "id": id, "state": "closed", "reason": "no-check" })]);
    assert!(world.take_commands().contains(&Command::CloseTransport { transport: number }));
    assert_eq!((world.hub.counts().transports, world.hub.counts().unchecked_transports), (0, 0));

    // One that is checked in time stays.
    let (_, number) = world.create(alice, Value::Null);
    world.get(alice, "connect-transport", connect(), "transport-connected");
    world.event(Event::TransportState { transport: number, state: TransportState::Connecting });
    let long_after = world.now + CHECK_WAIT * 2;
    while let Some(due) = world.hub.poll_timeout().filter(|due| *due < long_after) {
        world.now = due;
        world.hub.handle_timeout(due);
        world.drain();
    }
    assert_eq!(world.hub.poll_timeout(), None, "only the log had something to look at");
    assert_eq!(world.hub.counts().transports, 1);
}

#[test]
fn a_strict_client_that_first_consumes_after_an_hour_alone_works() {
    let mut world = World::new(1);
    let alice = world.join("alice", "room");
    world.get(alice, "subscribe", Value::Null, "subscribed");
    let (_, sending) = world.create(alice, Value::Null);
    let (_, receiving) = world.create(alice, Value::Null);
    // The five messages name no transport: this is for the one that is checked now, whichever that is.
    world.get(alice, "connect-transport", connect(), "transport-connected");
    world.event(Event::TransportState { transport: sending, state: TransportState::Connecting });
    world.connected(sending);
    world.produce(alice, video(1, "0"));
    for _ in 0..3_600 {
        world.now = world.now + Duration::from_secs(1);
        world.hub.handle_timeout(world.now);
        world.drain();
    }
    assert_eq!(world.hub.counts().transports, 2);
    world.publisher("bob", "room", 9);
    world.consume(alice, json!({}));
    let Some((_, Command::Consume { transport, .. })) = world.commands.last() else { panic!() };
    assert_eq!(*transport, receiving);
    world.get(alice, "connect-transport", connect(), "transport-connected");
    world.event(Event::TransportState { transport: receiving, state: TransportState::Connecting });
    world.connected(receiving);
    assert!(world.heard_of(alice, "transport-state").iter().all(|told| told["state"] != "closed"));
}
