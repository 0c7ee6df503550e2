//! Bad input and too much of it: a named error, and everything else goes on.

use serde_json::{Value, json};
use weirgate::base::limits::{
    APP_DATA_BYTES_MAX, CONSUMERS_PER_PEER_AND_PRODUCER_MAX, CONSUMERS_PER_PEER_MAX, CONSUMERS_PER_PRODUCER_MAX,
    FINGERPRINTS_PER_PEER_MAX, LIST_APP_DATA_BYTES_MAX, MESSAGE_BYTES_MAX, MESSAGES_BURST, PEERS_PER_CHANNEL_MAX,
    PRODUCERS_PER_PEER_MAX, RATE_REFUSALS_MAX, SOCKETS_MAX, STATS_PENDING_PER_PEER_MAX, TRANSPORTS_PER_PEER_MAX,
};
use weirgate::shard::command::Command;
use weirgate::signal::{Code, Entrance, Hub, NameFault, OpenError, Output};

use crate::world::{CLIENTS, World, audio, connect, settings, video};

#[test]
fn each_wrong_field_is_named_by_its_path_and_the_socket_goes_on() {
    let mut world = World::new(1);
    let (alice, _, _) = world.publisher("alice", "room", 1);
    let with = |mut data: Value, pointer: &str, value: Value| {
        *data.pointer_mut(pointer).expect("the field is there") = value;
        data
    };
    let video_with = |pointer: &str, value: Value| with(video(100, "1"), pointer, value);
    let codec = "/rtpParameters/codecs/0";
    let wrong = [
        ("create-transport", json!([]), "bad-field", "data:"),
        ("create-transport", json!({ "direction": "up" }), "bad-field", "data.direction"),
        ("connect-transport", Value::Null, "bad-field", "data.dtlsParameters"),
        ("connect-transport", json!({ "dtlsParameters": {} }), "bad-field", "data.dtlsParameters.fingerprints"),
        (
            "connect-transport",
            with(connect(), "/dtlsParameters/role", json!("boss")),
            "bad-field",
            "data.dtlsParameters.role",
        ),
        (
            "connect-transport",
            with(connect(), "/dtlsParameters/fingerprints/0/value", json!("zz")),
            "bad-field",
            "data.dtlsParameters.fingerprints[0].value",
        ),
        ("produce", Value::Null, "bad-field", "data.kind"),
        ("produce", json!({ "kind": "audio" }), "bad-field", "data.rtpParameters"),
        ("produce", with(audio(1, "0"), "/kind", json!("video")), "bad-field", "data.rtpParameters.codecs[0]"),
        ("produce", video_with("/rtpParameters/codecs", json!([])), "bad-field", "data.rtpParameters.codecs"),
        (
            "produce",
            video_with(&format!("{codec}/mimeType"), json!("video/H999")),
            "unsupported",
            "data.rtpParameters.codecs[0]",
        ),
        (
            "produce",
            video_with(&format!("{codec}/clockRate"), json!("x")),
            "bad-field",
            "data.rtpParameters.codecs[0].clockRate",
        ),
        (
            "produce",
            video_with("/rtpParameters/encodings/0/ssrc", json!(-1)),
            "bad-field",
            "data.rtpParameters.encodings[0].ssrc",
        ),
        (
            "produce",
            video_with("/rtpParameters/encodings/0/rtx/ssrc", json!(100)),
            "bad-field",
            "data.rtpParameters.encodings[0].rtx.ssrc",
        ),
        ("consume", Value::Null, "bad-field", "data.rtpCapabilities"),
        ("consume", json!({ "rtpCapabilities": { "codecs": 1 } }), "bad-field", "data.rtpCapabilities.codecs"),
        ("consume", json!({ "rtpCapabilities": {}, "paused": "no" }), "bad-field", "data.paused"),
        ("pause-producer", Value::Null, "bad-field", "data.producerId"),
        ("resume-consumer", json!({ "consumerId": 5 }), "bad-field", "data.consumerId"),
        ("get-stats", json!({}), "bad-field", "data"),
        ("be-nice", Value::Null, "unknown-type", "be-nice"),
    ];
    world.take_commands();
    for (kind, data, code, named) in wrong {
        let (found, message) = world.refused(alice, kind, data);
        assert!(found == code && message.contains(named), "{kind} {named}: {found} {message}");
    }
    assert_eq!(world.take_commands(), [], "nothing wrong reaches a shard");
    world.get(alice, "ping", Value::Null, "pong");
    let count = |world: &World, code: &str| {
        world.hub.counts().errors.iter().find(|(name, _)| *name == code).map(|(_, count)| *count)
    };
    assert_eq!(count(&world, "unknown-type"), Some(1));
    assert_eq!(world.hub.counts().errors.len(), Code::ALL.len());
}

#[test]
fn what_is_not_json_and_what_is_not_text_are_errors() {
    let mut world = World::new(1);
    let alice = world.join("alice", "room");
    for text in ["", "{", "[]", "\"x\"", "{\"type\":\"ping\"} x", &"[".repeat(100_000)] {
        world.text(alice, text);
        let heard = world.heard(alice);
        assert_eq!(heard[0]["data"]["code"], "bad-json");
        assert_eq!(heard[0]["data"]["request"], Value::Null);
    }
    world.hub.handle_binary(world.now, alice, 3);
    world.drain();
    assert_eq!(world.heard_of(alice, "error")[0]["code"], "not-text");
    assert_eq!(world.disconnected, []);
}

#[test]
fn a_message_that_is_too_long_ends_the_socket() {
    let mut world = World::new(1);
    let (alice, _, _) = world.publisher("alice", "room", 1);
    world.text(alice, &" ".repeat(MESSAGE_BYTES_MAX + 1));
    assert_eq!(world.disconnected, [(alice, 1009)]);
    let counts = world.hub.counts();
    assert_eq!((counts.peers, counts.producers, counts.disconnects), (0, 0, 1));
    world.leave(alice);
    world.text(alice, "{}");
    assert_eq!(world.heard(alice), Vec::<Value>::new());
}

#[test]
fn a_flood_is_refused_then_cut_off_and_its_neighbour_unharmed() {
    let mut world = World::new(1);
    let mallory = world.join("mallory", "room");
    let alice = world.join("alice", "room");
    let now = world.now;
    let ping = r#"{"type":"ping","requestId":3}"#;
    for _ in 0..MESSAGES_BURST + RATE_REFUSALS_MAX {
        world.hub.handle_text(now, mallory, ping);
    }
    world.drain();
    let heard = world.heard(mallory);
    assert_eq!(heard[MESSAGES_BURST as usize - 1]["type"], "pong");
    let refused = &heard[MESSAGES_BURST as usize];
    assert_eq!((&refused["data"]["code"], &refused["requestId"]), (&json!("rate-limited"), &json!(3)));
    assert_eq!(world.disconnected, []);
    world.hub.handle_binary(now, mallory, 3);
    world.drain();
    assert_eq!(world.disconnected, [(mallory, 1008)]);
    world.get(alice, "ping", Value::Null, "pong");
}

#[test]
fn objects_of_a_peer_are_bounded() {
    let mut world = World::new(1);
    let (_, producer, _) = world.publisher("bob", "room", 1);
    let alice = world.join("alice", "room");
    for _ in 0..TRANSPORTS_PER_PEER_MAX {
        world.create(alice, Value::Null);
    }
    assert_eq!(world.refused(alice, "create-transport", Value::Null).0, "limit");
    for n in 0..PRODUCERS_PER_PEER_MAX as u32 {
        world.produce(alice, audio(n + 1, &n.to_string()));
    }
    assert_eq!(world.refused(alice, "produce", audio(9_999, "x")).0, "limit");
    world.produce(alice, audio(1, "x"));
    let mut producers = vec![producer];
    while producers.len() * CONSUMERS_PER_PEER_AND_PRODUCER_MAX < CONSUMERS_PER_PEER_MAX {
        let (peer, _, _) = world.publisher("p", "room", 1);
        let more = (2..=PRODUCERS_PER_PEER_MAX as u32).map(|n| world.produce(peer, audio(n, &n.to_string())).0);
        producers.extend(more);
    }
    let capabilities = world.capabilities(alice);
    let consume = |at: usize| json!({ "rtpCapabilities": &capabilities, "producerId": &producers[at] });
    for n in 0..CONSUMERS_PER_PEER_MAX {
        world.get(alice, "consume", consume(n / CONSUMERS_PER_PEER_AND_PRODUCER_MAX), "consumer-params");
    }
    assert_eq!(world.refused(alice, "consume", consume(producers.len() - 1)).0, "limit");
    for _ in 0..STATS_PENDING_PER_PEER_MAX {
        world.text(alice, &json!({ "type": "get-stats", "data": { "producerId": "" } }).to_string());
    }
    assert_eq!(world.hub.counts().stats_pending, 0);
    let own = world.produce(alice, audio(1, "x")).0;
    for _ in 0..STATS_PENDING_PER_PEER_MAX {
        world.text(alice, &json!({ "type": "get-stats", "data": { "producerId": own } }).to_string());
    }
    assert_eq!(world.refused(alice, "get-stats", json!({ "producerId": own })).0, "limit");
}

#[test]
fn nobody_consumes_one_producer_over_and_over() {
    let mut world = World::new(1);
    let (_, producer, _) = world.publisher("bob", "room", 1);
    let (alice, own, _) = world.publisher("alice", "room", 2);
    let (carol, _, _) = world.publisher("carol", "room", 3);
    for id in [&producer, &own] {
        let consume = json!({ "producerId": id });
        let consumers: Vec<_> = (0..CONSUMERS_PER_PEER_AND_PRODUCER_MAX)
            .map(|_| world.consume(alice, consume.clone())["id"].as_str().expect("it has an id").to_owned())
            .collect();
        let mut once_more = consume.clone();
        once_more["rtpCapabilities"] = world.capabilities(alice);
        let before = world.take_commands().len();
        assert!(before > 0);
        let (code, message) = world.refused(alice, "consume", once_more.clone());
        assert!(code == "limit" && message.contains("of one producer"), "{code}: {message}");
        assert_eq!(world.take_commands(), []);
        // Others are not touched, and who closes one may have another.
        world.consume(carol, consume);
        world.get(alice, "close-consumer", json!({ "consumerId": consumers[0] }), "ok");
        world.get(alice, "consume", once_more.clone(), "consumer-params");
        assert_eq!(world.refused(alice, "consume", once_more).0, "limit");
    }
    // Without an id: a producer that it consumes already is not offered, however often it does.
    let mut any = json!({});
    any["rtpCapabilities"] = world.capabilities(alice);
    let given = world.get(alice, "consume", any.clone(), "consumer-params");
    assert_ne!(given["producerId"], json!(producer));
    assert_eq!(world.refused(alice, "consume", any).0, "no-producer");
}

#[test]
fn consumers_of_one_producer_are_bounded() {
    let mut world = World::new(1);
    let (_, producer, _) = world.publisher("bob", "room", 1);
    let mut consumers = 0;
    let mut message = String::new();
    while consumers < CONSUMERS_PER_PRODUCER_MAX {
        let alice = world.join("alice", "room");
        let (_, transport) = world.create(alice, Value::Null);
        world.connected(transport);
        if message.is_empty() {
            world.consume(alice, json!({ "producerId": producer }));
            let mut codecs = world.capabilities(alice);
            codecs["codecs"].as_array_mut().expect("there are codecs").truncate(1);
            let consume = json!({ "producerId": producer, "rtpCapabilities": codecs });
            message = json!({ "type": "consume", "data": consume }).to_string();
            consumers += 1;
        }
        while consumers < CONSUMERS_PER_PRODUCER_MAX && world.hub_consumes(alice, &message) {
            consumers += 1;
        }
    }
    let (alice, _, _) = world.publisher("alice", "room", 2);
    assert!(!world.hub_consumes(alice, &message));
    let (code, text) =
        world.refused(alice, "consume", serde_json::from_str::<Value>(&message).expect("it is JSON")["data"].take());
    assert!(code == "limit" && text.contains("consumers a producer"), "{code}: {text}");
}

#[test]
fn fingerprints_of_a_transport_are_bounded() {
    let mut world = World::new(1);
    let alice = world.join("alice", "room");
    world.create(alice, Value::Null);
    for _ in 0..FINGERPRINTS_PER_PEER_MAX {
        world.get(alice, "connect-transport", connect(), "transport-connected");
    }
    assert_eq!(world.refused(alice, "connect-transport", connect()).0, "limit");
}

#[test]
fn a_list_spends_a_bounded_amount_on_app_data() {
    let mut world = World::new(1);
    let large = json!("x".repeat(APP_DATA_BYTES_MAX - 2));
    for n in 0..40 {
        let (peer, _, _) = world.publisher("p", "room", n + 1);
        let mut data = audio(1_000, "1");
        data["appData"] = large.clone();
        world.produce(peer, data);
    }
    let alice = world.join("alice", "room");
    let list = world.get(alice, "get-producers", Value::Null, "producers");
    let list = list["producers"].as_array().unwrap();
    assert_eq!(list.len(), 80);
    let carried = list.iter().filter(|producer| producer["appData"] == large).count();
    assert!(carried > 0 && carried * APP_DATA_BYTES_MAX <= LIST_APP_DATA_BYTES_MAX);
    assert!(list.last().unwrap()["appData"].is_null());
}

#[test]
fn doors_close_when_the_house_is_full() {
    let mut hub = Hub::new(settings(1));
    let now = Default::default();
    let empty = |parameter| Err(OpenError::BadName { parameter, fault: NameFault::Empty });
    assert_eq!(hub.open(now, CLIENTS, &Entrance::named("", "room")), empty("auth"));
    assert_eq!(hub.open(now, CLIENTS, &Entrance::named("alice", " ")), empty("channelId"));
    for n in 0..SOCKETS_MAX {
        hub.open(now, CLIENTS, &Entrance::named("user", &format!("room {}", n / PEERS_PER_CHANNEL_MAX)))
            .expect("there is room");
        if n == PEERS_PER_CHANNEL_MAX {
            assert_eq!(hub.open(now, CLIENTS, &Entrance::named("user", "room 0")), Err(OpenError::ChannelFull));
        }
    }
    assert_eq!(hub.open(now, CLIENTS, &Entrance::named("user", "another")), Err(OpenError::SocketsMax));
    assert!(hub.poll_output().is_none(), "nobody subscribed");
}

#[test]
fn a_hub_without_shards_says_so() {
    let mut world = World::new(0);
    let alice = world.join("alice", "room");
    assert_eq!(world.refused(alice, "create-transport", Value::Null).0, "unavailable");
}

#[test]
fn the_same_seed_and_script_give_the_same_outputs() {
    let script = || {
        let mut world = World::new(2);
        let (_, _, _) = world.publisher("bob", "room", 1);
        let alice = world.join("alice", "room");
        world.hub.handle_text(world.now, alice, r#"{"type":"create-transport"}"#);
        world.hub.handle_text(world.now, alice, r#"{"type":"subscribe"}"#);
        std::iter::from_fn(|| world.hub.poll_output()).collect::<Vec<Output>>()
    };
    let outputs = script();
    assert_eq!(outputs, script());
    assert!(
        outputs.iter().any(|output| matches!(output, Output::Command { command: Command::CreateTransport { .. }, .. }))
    );
}
