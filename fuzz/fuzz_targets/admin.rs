//! The admin API without its sockets: the first line of each part of the input is a method and a path with its query,
//! the rest is the body; parts are parted by a line with a dot. `$A` and `$B` stand for the ids of two peers, `$T`, `$P`
//! and `$C` for what they have. Nothing may panic, an answer must be as bounded as its page, and nothing may stay when
//! all have left.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use weirgate::base::id::{ShardId, ShardLabel};
use weirgate::base::limits::ADMIN_PAGE_MAX;
use weirgate::base::time::{Duration, Instant};
use weirgate::signal::admin::{AdminOutcome, Operation};
use weirgate::signal::{Candidate, Entrance, Hub, HubSettings, Interest, LastN, Output, SessionId};

fn settings() -> HubSettings {
    HubSettings {
        shards: vec![(ShardId(0), ShardLabel(*b"aa")), (ShardId(1), ShardLabel(*b"ab"))],
        candidates: vec![Candidate { shard: None, ip: [192, 0, 2, 1].into(), port: 40_000, priority: 1 }],
        ice_servers: Default::default(),
        fingerprint_sha256: "AB:CD".to_owned(),
        spread: Default::default(),
        last_n: LastN::Peers,
        log: Default::default(),
        quotas: Default::default(),
        returns: Default::default(),
        seed: [1; 32],
    }
}

/// The id that the reply to a request names.
fn id_of(hub: &mut Hub, session: SessionId, request: Value) -> String {
    hub.handle_text(Instant::ZERO, session, &request.to_string());
    let mut id = String::new();
    while let Some(output) = hub.poll_output() {
        let Output::Send { session: to, text, .. } = output else { continue };
        let text: Value = serde_json::from_str(&text.to_string()).expect("the hub speaks JSON");
        let found = text["data"]["id"].as_str().or(text["data"]["peerId"].as_str());
        if to == session && text["requestId"] == 1 {
            id = found.unwrap_or_default().to_owned();
        }
    }
    id
}

fn drain(hub: &mut Hub) {
    while hub.poll_output().is_some() {}
    while let Some(entry) = hub.poll_journal() {
        assert!(entry.data.is_object() && entry.data.to_string().len() < 8_192, "{entry:?}");
    }
}

fuzz_target!(|input: &[u8]| {
    let mut hub = Hub::new(settings());
    hub.set_interest(Interest::Everything);
    let sessions = ["anna", "berta"].map(|user| {
        hub.open(Instant::ZERO, [192, 0, 2, 1].into(), &Entrance::named(user, "a/room")).expect("there is room")
    });
    let ids = sessions.map(|session| id_of(&mut hub, session, json!({ "type": "subscribe", "requestId": 1 })));
    let transport = id_of(&mut hub, sessions[0], json!({ "type": "create-transport", "requestId": 1 }));
    let parameters = json!({
        "codecs": [{ "mimeType": "audio/opus", "payloadType": 111, "clockRate": 48000, "channels": 2 }],
        "encodings": [{ "ssrc": 7 }],
    });
    let produce = json!({ "kind": "audio", "rtpParameters": parameters });
    let producer = id_of(&mut hub, sessions[0], json!({ "type": "produce", "requestId": 1, "data": produce }));
    id_of(&mut hub, sessions[1], json!({ "type": "create-transport", "requestId": 1 }));
    let consume = json!({ "rtpCapabilities": { "codecs": [{
        "kind": "audio", "mimeType": "audio/opus", "preferredPayloadType": 111, "clockRate": 48000, "channels": 2,
    }] } });
    let consumer = id_of(&mut hub, sessions[1], json!({ "type": "consume", "requestId": 1, "data": consume }));
    let words =
        [("$A", &*ids[0]), ("$B", &*ids[1]), ("$T", &*transport), ("$P", &*producer), ("$C", &*consumer)];
    let mut now = Instant::ZERO;
    let text = String::from_utf8_lossy(input);
    for part in text.split("\n.\n") {
        now = now + Duration::from_secs(1);
        let part = words.iter().fold(part.to_owned(), |part, (word, id)| part.replace(word, id));
        let (line, body) = part.split_once('\n').unwrap_or((&part, ""));
        let (method, target) = line.split_once(' ').unwrap_or(("GET", line));
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        match Operation::parse(method, path, query, body.as_bytes()) {
            Ok(operation) => match hub.administer(now, &operation) {
                Ok(AdminOutcome::Look { answer, asks }) => {
                    assert!(answer.is_object() && asks.len() <= ADMIN_PAGE_MAX);
                }
                Ok(AdminOutcome::Emptying(channel)) => while !hub.empty(now, &channel) {},
                Ok(AdminOutcome::Done(_) | AdminOutcome::Ended) => {}
                Err(problem) => assert!((400..=503).contains(&problem.status) && !problem.message.is_empty()),
            },
            Err(problem) => {
                assert!((400..500).contains(&problem.status) && problem.message.len() < 1_024, "{problem}");
                assert!((problem.status == 405) == problem.allow.is_some());
            }
        }
        drain(&mut hub);
    }
    for session in sessions {
        hub.close(now, session);
    }
    drain(&mut hub);
    let counts = hub.counts();
    assert_eq!((counts.channels, counts.peers, counts.transports + counts.producers + counts.consumers), (0, 0, 0));
    assert!(counts.expected_load.iter().all(|(_, load)| *load == 0));
});
