//! docs/PROTOCOL.md against the hub: its requests are understood, and its server messages have the fields that the
//! hub's own have, for every type there is.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use weirgate::base::buffer::{LocalIndex, Path};
use weirgate::base::id::ShardId;
use weirgate::base::limits::{
    AWAY_SAID_BYTES_MAX, CONSUMERS_PER_PEER_AND_PRODUCER_MAX, CONSUMERS_PER_PEER_MAX, CONSUMERS_PER_PRODUCER_MAX,
    MESSAGES_BURST, PRODUCERS_PER_PEER_MAX, SAID_BYTES_MAX, TRANSPORTS_PER_PEER_MAX,
};
use weirgate::base::ranking::Ranking;
use weirgate::base::time::Duration;
use weirgate::shard::command::{
    Closed, Command, ConsumerStats, EncodingStats, Event, ProducerStats, Reply, Speech, Stats, StatsOf, TransportStats,
    VerdictState,
};
use weirgate::signal::{Act, Code, Entrance, Hub, HubSettings, ReturnSettings, SessionId};

use crate::world::{CLIENTS, World, audio, connect, settings, video};

const DOCUMENT: &str = include_str!("../../docs/PROTOCOL.md");

fn blocks(of: &str) -> Vec<Value> {
    let fence = format!("```json {of}\n");
    let texts = DOCUMENT.split(fence.as_str()).skip(1).map(|rest| rest.split("```").next().unwrap_or_default());
    texts.map(|text| serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))).collect()
}

#[test]
fn every_documented_request_is_understood() {
    let requests = blocks("client");
    assert!(requests.len() > 15);
    for request in requests {
        let mut world = World::new(1);
        world.publisher("bob", "room", 1);
        let alice = world.moderator("alice", "room");
        if request["type"] != "create-transport" {
            world.create(alice, Value::Null);
        }
        world.heard(alice);
        world.text(alice, &request.to_string());
        let reply = world.heard(alice).remove(0);
        let code = &reply["data"]["code"];
        assert!(reply["type"] != "error" || code == "not-found", "{request} {reply}");
    }
}

/// Every way to a field of an object within `value`, as JSON pointers.
fn fields_of(value: &Value, path: &str, found: &mut Vec<String>) {
    let inner: Vec<(String, &Value)> = match value {
        Value::Object(object) => object.iter().map(|(name, value)| (format!("{path}/{name}"), value)).collect(),
        Value::Array(list) => list.iter().enumerate().map(|(at, value)| (format!("{path}/{at}"), value)).collect(),
        _ => vec![],
    };
    for (path, inner) in inner {
        fields_of(inner, &path, found);
        if value.is_object() {
            found.push(path);
        }
    }
}

#[test]
fn null_counts_as_absent_in_every_field_of_every_request() {
    let reply = |request: &Value| {
        let mut world = World::new(1);
        world.publisher("bob", "room", 1);
        let alice = world.moderator("alice", "room");
        world.create(alice, Value::Null);
        world.heard(alice);
        world.text(alice, &request.to_string());
        world.heard(alice)
    };
    let mut requests = blocks("client");
    for (kind, data) in [("produce", video(7, "0")), ("produce", audio(7, "0")), ("connect-transport", connect())] {
        requests.push(json!({ "type": kind, "requestId": "r", "data": data }));
    }
    for request in requests {
        let mut paths = Vec::new();
        fields_of(&request, "", &mut paths);
        for path in paths {
            let (parent, name) = path.rsplit_once('/').unwrap();
            let (mut null, mut absent) = (request.clone(), request.clone());
            *null.pointer_mut(&path).unwrap() = Value::Null;
            absent.pointer_mut(parent).and_then(Value::as_object_mut).unwrap().remove(name);
            assert_eq!(reply(&null), reply(&absent), "{path} of {request}");
        }
    }
}

/// So that the fuzzer begins beyond what it would have to guess.
#[test]
fn every_documented_request_is_in_a_seed_of_the_fuzzer() {
    let seeds = ["all", "five", "layers-and-speech", "moderation"];
    let seeds = seeds.map(|name| format!("{}/fuzz/seeds/signal_text/{name}", env!("CARGO_MANIFEST_DIR")));
    let lines = seeds.map(|path| std::fs::read_to_string(path).expect("the seeds are in the tree")).concat();
    for request in blocks("client") {
        assert!(lines.contains(&format!("{{\"type\":{}", request["type"])), "{}", request["type"]);
    }
}

#[test]
fn every_error_code_is_documented() {
    for code in Code::ALL {
        assert!(DOCUMENT.contains(&format!("| `{}` |", code.name())), "{}", code.name());
    }
}

#[test]
fn the_documented_bounds_are_the_real_ones() {
    let sentence = format!(
        "at most {TRANSPORTS_PER_PEER_MAX} transports, {PRODUCERS_PER_PEER_MAX} producers and {},{:03} consumers",
        CONSUMERS_PER_PEER_MAX / 1_000,
        CONSUMERS_PER_PEER_MAX % 1_000
    );
    assert!(DOCUMENT.contains(&sentence), "{sentence}");
    let of_one = format!(
        "it consumes one producer at most {CONSUMERS_PER_PEER_AND_PRODUCER_MAX} times, and all peers together {},000 times",
        CONSUMERS_PER_PRODUCER_MAX / 1_000
    );
    assert!(DOCUMENT.replace('\n', " ").contains(&of_one), "{of_one}");
}

#[test]
fn every_verdict_is_documented_in_the_order_in_which_they_are_looked_for() {
    let table = DOCUMENT.split("| `state` |").nth(1).expect("a table of verdicts");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with("| `"));
    let documented: Vec<_> = rows.map(|row| row.split('`').nth(1).unwrap_or_default()).collect();
    let mut expected: Vec<_> = VerdictState::ALL.iter().map(|state| state.name()).collect();
    expected.rotate_left(1);
    assert_eq!(documented, expected);
}

/// By type (and, for stats, by object): the fields of `data`, over all examples.
fn fields<'a>(messages: impl IntoIterator<Item = &'a Value>) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for message in messages {
        let data = &message["data"];
        let kind = message["type"].as_str().expect("every message has a type");
        let kind = format!("{kind} {}", data["of"].as_str().unwrap_or_default());
        let names = found.entry(kind).or_default();
        let mut add = |prefix: &str, value: &Value| {
            names
                .extend(value.as_object().into_iter().flat_map(|map| map.keys()).map(|name| format!("{prefix}{name}")));
        };
        add("", data);
        for list in ["peers", "producers", "encodings", "iceCandidates", "fingerprints", "levels", "waiting"] {
            add(&format!("{list}."), &data[list][0]);
        }
        add("peers.producers.", &data["peers"][0]["producers"][0]);
        for object in ["iceParameters", "verdict", "selectedCandidatePair", "activeSpeaker", "channel", "grants"] {
            add(&format!("{object}."), &data[object]);
        }
    }
    found
}

/// One conversation in which the hub sends everything it can.
fn everything_the_hub_says() -> Vec<Value> {
    let mut world = World::new(1);
    let returns = ReturnSettings { grace: Duration::from_secs(15), ..Default::default() };
    world.hub = Hub::new(HubSettings { returns, ..settings(1) });
    let (alice, producer, producer_number) = world.publisher("alice", "room", 1);
    let bob = world.moderator("bob", "room");
    let mut said = vec![world.say(bob, "get-rtp-capabilities", Value::Null)];
    let mut say = |world: &mut World, kind: &str, data: Value| {
        let reply = world.say(bob, kind, data);
        said.push(reply.clone());
        said.extend(world.heard(bob));
        reply["data"]["id"].clone()
    };
    say(&mut world, "subscribe", Value::Null);
    say(&mut world, "get-producers", Value::Null);
    say(&mut world, "nonsense", Value::Null);
    let transport = say(&mut world, "create-transport", Value::Null);
    let Some((_, Command::CreateTransport { transport: number, .. })) = world.commands.last().cloned() else {
        panic!()
    };
    say(&mut world, "connect-transport", connect());
    let own = say(&mut world, "produce", audio(1, "0"));
    let capabilities = world.capabilities(bob);
    let consumer = say(&mut world, "consume", json!({ "rtpCapabilities": capabilities }));
    say(&mut world, "restart-ice", Value::Null);
    say(&mut world, "ping", Value::Null);
    say(&mut world, "set-last-n", json!({ "n": 5 }));
    say(&mut world, "pause-consumer", json!({ "consumerId": consumer }));
    for data in [json!({ "transportId": transport }), json!({ "producerId": own }), json!({ "consumerId": consumer })] {
        world.text(bob, &json!({ "type": "get-stats", "data": data }).to_string());
        let Some((_, Command::GetStats { request, of })) = world.commands.last() else { panic!() };
        let stats = match of {
            StatsOf::Transport(_) => {
                let path = Some(Path::udp(LocalIndex(0), ([198, 51, 100, 7], 52_044).into()));
                Stats::Transport(TransportStats { path, ..Default::default() })
            }
            StatsOf::Producer(_) => {
                Stats::Producer(ProducerStats { encodings: vec![EncodingStats::default()], ..Default::default() })
            }
            StatsOf::Consumer(_) => Stats::Consumer(ConsumerStats::default()),
        };
        world.event(Event::Answer { request: *request, reply: Reply::Stats(Some(stats)) });
    }
    let Some(consumer_number) = world.commands.iter().rev().find_map(|(_, command)| match command {
        Command::Consume { consumer, .. } => Some(*consumer),
        _ => None,
    }) else {
        panic!()
    };
    world.event(Event::ConsumerLayers { consumer: consumer_number, layers: None, by_bandwidth: true });
    let Some(own_number) = world.commands.iter().rev().find_map(|(_, command)| match command {
        Command::Produce { producer, .. } => Some(*producer),
        _ => None,
    }) else {
        panic!()
    };
    world.event(Event::ProducerLayers { producer: own_number, watched: 1, of: 2, ranking: Ranking::default() });
    said.extend(moderated(&mut world, bob, alice, &own));
    let carol = world.join("carol", "room");
    world.create(carol, Value::Null);
    world.produce(carol, audio(5, "0"));
    let token = world.get(carol, "subscribe", json!({ "resume": true }), "subscribed")["resume"].clone();
    world.hub.broken(world.now, carol, "lost");
    for _ in 0..=AWAY_SAID_BYTES_MAX / SAID_BYTES_MAX {
        let act = Act::parse("send-message", json!({ "data": "x".repeat(SAID_BYTES_MAX - 2) }));
        world.hub.operate(world.now, "room", act.expect("it is well-formed")).expect("it is done");
    }
    world.now = world.now + Duration::from_secs(2);
    world.hub.handle_timeout(world.now);
    let carol = world.hub.resume(world.now, CLIENTS, token.as_str().unwrap(), None).expect("it is good");
    world.drain();
    said.extend(world.heard(carol));
    world.leave(carol);
    world.get(alice, "set-last-n", json!({ "n": 6 }), "last-n");
    let speech = Speech { level: 30, immediate: 9, medium: 5, long: 9 };
    world.now = world.now + Duration::from_secs(1);
    world.event(Event::Speech { levels: vec![(producer_number, speech)] });
    for request in ["pause-producer", "resume-producer", "close-producer"] {
        world.get(alice, request, json!({ "producerId": producer }), "ok");
    }
    world.event(Event::ProducerClosed { producer: producer_number, why: Closed::Fault });
    world.connected(number);
    world.event(Event::TransportClosed { transport: number, why: Closed::TransportClosed });
    world.event(Event::ShardRestarted { shard: ShardId(0) });
    for _ in 0..=MESSAGES_BURST {
        world.hub.handle_text(world.now, bob, r#"{"type":"ping"}"#);
    }
    world.drain();
    said.extend(world.heard(bob));
    said
}

/// What moderators cause, as it is told to Bob, who is one, and to those who come.
fn moderated(world: &mut World, bob: SessionId, alice: SessionId, own: &Value) -> Vec<Value> {
    let operate = |world: &mut World, kind: &str, data: Value| {
        let act = Act::parse(kind, data).expect("it is well-formed");
        world.hub.operate(world.now, "room", act).expect("it is done");
        world.drain();
    };
    let mut told: Vec<Value> = world.heard(bob);
    let [bob_id, alice_id] = [bob, alice].map(|session| world.subscribe(session));
    for name in ["Alice A.", "A."] {
        operate(world, "rename", json!({ "peerId": alice_id, "name": name }));
        world.get(alice, "set-app-data", json!({ "appData": 7 }), "ok");
    }
    operate(world, "send-message", json!({ "peerId": bob_id, "data": "hello" }));
    for kind in ["mute-producer", "unmute-producer"] {
        operate(world, kind, json!({ "producerId": own }));
    }
    for kind in ["mute-peer", "unmute-peer", "mute-peer"] {
        operate(world, kind, json!({ "peerId": alice_id }));
    }
    told.push(world.say(alice, "produce", audio(77, "7")));
    operate(world, "set-grants", json!({ "peerId": bob_id, "grants": { "publish": { "kinds": ["audio"] } } }));
    operate(world, "set-channel", json!({ "locked": true, "waiting": true, "peersMax": 20 }));
    let entrance = Entrance { name: Some("Carol C.".into()), ..Entrance::named("carol", "room") };
    for kind in ["turn-away-peer", "admit-peer"] {
        let comer = world.hub.open(world.now, CLIENTS, &entrance).expect("she may wait");
        world.drain();
        let id = world.inbox[&comer][0]["data"]["peerId"].clone();
        told.extend(world.heard(bob));
        told.push(world.say(bob, "subscribe", Value::Null));
        operate(world, kind, json!({ "peerId": id, "reason": "not today" }));
        told.extend(world.heard(comer));
        if kind == "admit-peer" {
            operate(world, "remove-peer", json!({ "peerId": id, "reason": "be kind" }));
        }
    }
    operate(world, "stop-producer", json!({ "producerId": own }));
    operate(world, "unmute-peer", json!({ "peerId": alice_id }));
    operate(world, "set-channel", json!({ "locked": false, "waiting": false, "peersMax": 0 }));
    told.extend(world.heard(bob));
    told
}

#[test]
fn server_messages_have_the_documented_fields_and_no_others() {
    let (documented, mut said) = (fields(&blocks("server")), fields(&everything_the_hub_says()));
    assert_eq!(documented.keys().collect::<Vec<_>>(), said.keys().collect::<Vec<_>>());
    for (kind, names) in documented {
        assert_eq!(Some(names), said.remove(&kind), "{kind}");
    }
}
