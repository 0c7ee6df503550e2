//! Valid messages with one or more places changed at random: each is answered exactly once, nothing panics, and
//! nothing stays. (The fuzz target `signal_text` goes further, with coverage.)

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use weirgate::base::id::{ConsumerId, ProducerId, TransportId};
use weirgate::base::time::Duration;
use weirgate::shard::command::{Closed, Command, Event, TransportState};

use crate::world::{World, audio, connect, video};

fn places(value: &Value, path: String, found: &mut Vec<String>) {
    found.push(path.clone());
    match value {
        Value::Object(map) => {
            map.iter().for_each(|(name, value)| places(value, format!("{path}/{}", name.replace('/', "~1")), found))
        }
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(index, value)| places(value, format!("{path}/{index}"), found));
        }
        _ => {}
    }
}

fn nonsense(rng: &mut StdRng) -> Value {
    let choices = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1234),
        json!(4_294_967_295_u32),
        json!(4_294_967_296_u64),
        json!(1e300),
        json!(0.5),
        json!(""),
        json!("probator"),
        json!("é\u{0}\u{202e}"),
        json!("x".repeat(300)),
        json!([]),
        json!([[[[]]]]),
        json!({}),
        json!({ "a": { "b": [] } }),
        json!(vec![0; 100]),
    ];
    choices.choose(rng).cloned().unwrap_or_default()
}

fn mutate(rng: &mut StdRng, message: &mut Value) {
    let mut found = Vec::new();
    places(message, String::new(), &mut found);
    let target = found.choose(rng).and_then(|path| message.pointer_mut(path));
    let Some(target) = target else { return };
    match (rng.random_range(0..4), target) {
        (0, Value::Array(list)) => {
            let copy = list.clone();
            list.extend(copy);
        }
        (1, Value::Object(map)) => {
            let names: Vec<_> = map.keys().cloned().collect();
            names.choose(rng).map(|name| map.remove(name));
        }
        (_, target) => *target = nonsense(rng),
    }
}

/// One of every request, ids as placeholders.
fn messages(capabilities: &Value) -> Vec<Value> {
    let about = json!({ "transportId": "$T", "producerId": "$P", "consumerId": "$C" });
    let named = |kind: &str| json!({ "type": kind, "requestId": 1, "data": about });
    let with = |kind: &str, data: Value| json!({ "type": kind, "requestId": "a", "data": data });
    let mut all: Vec<_> = [
        "get-rtp-capabilities",
        "subscribe",
        "get-producers",
        "pause-producer",
        "resume-producer",
        "close-producer",
        "pause-consumer",
        "resume-consumer",
        "close-consumer",
        "close-transport",
        "restart-ice",
        "request-key-frame",
        "get-stats",
        "ping",
    ]
    .map(named)
    .into();
    all.push(with("get-stats", json!({ "consumerId": "$C" })));
    for _ in 0..3 {
        all.push(with("create-transport", json!({ "direction": "recv" })));
        all.push(with("create-transport", Value::Null));
        all.push(with("connect-transport", connect()));
        all.push(with("produce", audio(7, "0")));
        all.push(with("produce", video(9, "1")));
        all.push(with("consume", json!({ "rtpCapabilities": capabilities })));
        all.push(with("consume", json!({ "rtpCapabilities": capabilities, "producerId": "$P" })));
    }
    all
}

#[test]
fn changed_messages_are_each_answered_once_and_leave_nothing() {
    let mut rng = StdRng::seed_from_u64(42);
    let mut world = World::new(2);
    let mut sessions: Vec<_> = (0..4).map(|n| world.join("someone", ["one", "other"][n % 2])).collect();
    let capabilities = world.capabilities(sessions[0]);
    let messages = messages(&capabilities);
    let mut ids = [const { String::new() }; 3];
    let (mut replies, mut errors, mut asked) = (0, 0, 0);
    for round in 0..4_000_u32 {
        let session = *sessions.choose(&mut rng).unwrap();
        let mut message = messages.choose(&mut rng).cloned().unwrap();
        for _ in 0..rng.random_range(0..3) {
            mutate(&mut rng, &mut message);
        }
        world.now = world.now + Duration::from_millis(20);
        let text = message.to_string().replace("$T", &ids[0]).replace("$P", &ids[1]).replace("$C", &ids[2]);
        world.text(session, &text);
        asked += 1;
        for reply in world.heard(session) {
            let slot = match reply["type"].as_str().expect("every message has a type") {
                "transport-params" => 0,
                "producer-id" => 1,
                "consumer-params" => 2,
                "error" => {
                    errors += 1;
                    assert!(reply["data"]["message"].as_str().is_some_and(|message| message.len() < 4_096), "{reply}");
                    continue;
                }
                _ => continue,
            };
            replies += 1;
            ids[slot] = reply["data"]["id"].as_str().expect("it has an id").to_owned();
        }
        let (transport, producer) = match world.commands.last() {
            Some((_, Command::CreateTransport { transport, .. })) => (*transport, ProducerId(0)),
            Some((_, Command::Produce { producer, .. })) => (TransportId(0), *producer),
            _ => (TransportId(0), ProducerId(0)),
        };
        match rng.random_range(0..12) {
            0 => world.event(Event::TransportState { transport, state: TransportState::Connected }),
            1 => world.event(Event::TransportClosed { transport, why: Closed::TransportClosed }),
            2 => world.event(Event::ProducerClosed { producer, why: Closed::Replaced }),
            3 => world.event(Event::ProducerBound { producer, transport: TransportId(u64::from(round) / 2) }),
            4 => world.event(Event::ConsumerClosed { consumer: ConsumerId(u64::from(round)), why: Closed::Fault }),
            5 => {
                world.now = world.now + Duration::from_secs(6);
                world.hub.handle_timeout(world.now);
                world.drain();
            }
            _ => {}
        }
        world.commands.clear();
        if round % 100 == 99 {
            world.leave(sessions.remove(0));
            sessions.push(world.join("someone", ["one", "other"][rng.random_range(0..2)]));
        }
    }
    assert!(replies > 200 && errors > 200, "of {asked}: {replies} made something, {errors} were refused");
    for session in sessions {
        world.leave(session);
    }
    let counts = world.hub.counts();
    let left = counts.channels + counts.peers + counts.transports + counts.producers + counts.consumers;
    assert_eq!((left, counts.stats_pending), (0, 0));
    assert!(counts.expected_load.iter().all(|(_, load)| *load == 0));
    assert_eq!(world.disconnected, []);
}
