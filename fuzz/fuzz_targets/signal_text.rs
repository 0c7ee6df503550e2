//! The signalling hub fed with text: each line of the input is one client's message, or an event of a shard. Ids that a
//! fuzzer cannot guess stand as `$T`, `$P`, `$C` (the last transport, producer, consumer that was given to anybody), `$Q`
//! and `$W` (the peer that last subscribed, the last that was told to wait), so that it reaches past "not-found"; `$R` is
//! the last resume token, for a line that comes back. The first peer is a moderator. Nothing may panic, every answer must
//! be JSON with a type, and nothing may stay when all have left.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use weirgate::base::id::{ConsumerId, ProducerId, ShardId, ShardLabel, TransportId};
use weirgate::base::time::{Duration, Instant};
use weirgate::shard::command::{Closed, Command, Event, Reply, RequestId, Speech, TransportState};
use weirgate::signal::{Candidate, Entrance, Hub, HubSettings, LastN, Output, ReturnSettings, SessionId};

#[derive(Default)]
struct Seen {
    transport: String,
    producer: String,
    consumer: String,
    /// The last resume token.
    token: String,
    peer: String,
    waiting: String,
    numbers: (u64, u64, u64, u64),
}

const SESSIONS_MAX: usize = 16;

fn settings() -> HubSettings {
    HubSettings {
        shards: vec![(ShardId(0), ShardLabel(*b"aa")), (ShardId(1), ShardLabel(*b"ab"))],
        candidates: vec![Candidate { shard: None, ip: [192, 0, 2, 1].into(), port: 40_000, priority: 1 }],
        fingerprint_sha256: "AB:CD".to_owned(),
        spread: Default::default(),
        last_n: LastN::Peers,
        log: Default::default(),
        quotas: Default::default(),
        ice_servers: Default::default(),
        returns: ReturnSettings { grace: Duration::from_secs(15), ..Default::default() },
        seed: [1; 32],
    }
}

fn drain(hub: &mut Hub, seen: &mut Seen) {
    while let Some(output) = hub.poll_output() {
        match output {
            Output::Send { text, .. } => {
                let message: Value = serde_json::from_str(&text.to_string()).expect("the hub speaks JSON");
                let kind = message["type"].as_str().expect("every message has a type");
                let id = message["data"]["id"].as_str().unwrap_or_default().to_owned();
                if let Some(token) = message["resume"].as_str().or(message["data"]["resume"].as_str()) {
                    seen.token = token.to_owned();
                }
                let peer = message["data"]["peerId"].as_str().unwrap_or_default().to_owned();
                match kind {
                    "transport-params" => seen.transport = id,
                    "producer-id" => seen.producer = id,
                    "consumer-params" => seen.consumer = id,
                    "subscribed" => seen.peer = peer,
                    "waiting" => seen.waiting = peer,
                    _ => {}
                }
            }
            Output::Command { command, .. } => match command {
                Command::CreateTransport { transport, .. } => seen.numbers.0 = transport.0,
                Command::Produce { producer, .. } => seen.numbers.1 = producer.0,
                Command::Consume { consumer, .. } => seen.numbers.2 = consumer.0,
                Command::GetStats { request, .. } => seen.numbers.3 = request.0,
                _ => {}
            },
            Output::Disconnect { .. } | Output::Verify(_) => {}
        }
    }
}

fn event(which: u8, seen: &Seen) -> Event {
    let (transport, producer, consumer, request) = seen.numbers;
    let (transport, producer, consumer) = (TransportId(transport), ProducerId(producer), ConsumerId(consumer));
    // From '0' on.
    match which.wrapping_sub(b'0') % 14 {
        0 => Event::TransportState { transport, state: TransportState::Connected },
        1 => Event::TransportState { transport, state: TransportState::Failed },
        2 => Event::TransportClosed { transport, why: Closed::Fault },
        3 => Event::ProducerBound { producer, transport },
        4 => Event::ProducerClosed { producer, why: Closed::Replaced },
        5 => Event::ProducerSilent { producer, silent: true },
        6 => Event::ProducerSilent { producer, silent: false },
        7 => Event::ConsumerClosed { consumer, why: Closed::ProducerClosed },
        8 => Event::Answer { request: RequestId(request), reply: Reply::Stats(None) },
        9 => Event::ConsumerLayers { consumer, layers: None, by_bandwidth: true },
        10 => Event::ProducerLayers { producer, watched: 1, of: 2, ranking: Default::default() },
        11 => Event::Speech { levels: vec![(producer, Speech { level: 20, immediate: 13, medium: 5, long: 10 })] },
        12 => Event::Speech { levels: vec![(producer, Speech::SILENCE)] },
        _ => Event::ShardRestarted { shard: ShardId(0) },
    }
}

fuzz_target!(|input: &[u8]| {
    let mut hub = Hub::new(settings());
    let mut seen = Seen::default();
    let mut now = Instant::ZERO;
    let join = |hub: &mut Hub, name: &str, channel: &str| -> SessionId {
        let mut entrance = Entrance::named(name, channel);
        entrance.grants.moderate = name == "alice";
        hub.open(now, [192, 0, 2, 1].into(), &entrance).expect("there is room for three")
    };
    let mut sessions =
        vec![join(&mut hub, "alice", "room"), join(&mut hub, "bob", "room"), join(&mut hub, "carol", "another room")];
    for line in input.split(|byte| *byte == b'\n') {
        now = now + Duration::from_millis(20);
        let Some((&first, rest)) = line.split_first() else { continue };
        match first {
            b'!' => hub.handle_event(now, event(rest.first().copied().unwrap_or_default(), &seen)),
            b'#' => hub.handle_timeout(now + Duration::from_secs(60)),
            // Whether it is let in is the moderator's matter.
            b'+' if sessions.len() < SESSIONS_MAX => {
                sessions.extend(hub.open(now, [192, 0, 2, 1].into(), &Entrance::named("dora", "room")));
            }
            b'~' => hub.close(now, sessions[usize::from(rest.first().copied().unwrap_or_default()) % sessions.len()]),
            b'^' => {
                let which = usize::from(rest.first().copied().unwrap_or_default()) % sessions.len();
                hub.broken(now, sessions[which], "lost");
            }
            // The count in one byte, and the token.
            b'%' => {
                let (count, token) = rest.split_first().unwrap_or((&0, b""));
                let token = String::from_utf8_lossy(token).replace("$R", &seen.token);
                let received = count.checked_sub(b'0').map(u64::from);
                sessions.extend(hub.resume(now, [192, 0, 2, 2].into(), &token, received));
            }
            _ => {
                let text = String::from_utf8_lossy(rest);
                let text =
                    text.replace("$T", &seen.transport).replace("$P", &seen.producer).replace("$C", &seen.consumer);
                let text = text.replace("$Q", &seen.peer).replace("$W", &seen.waiting);
                hub.handle_text(now, sessions[usize::from(first) % sessions.len()], &text);
            }
        }
        drain(&mut hub, &mut seen);
    }
    for session in sessions {
        hub.close(now, session);
    }
    hub.end_away(now, "ended");
    drain(&mut hub, &mut seen);
    let counts = hub.counts();
    let left = counts.transports + counts.producers + counts.consumers + counts.stats_pending;
    assert_eq!((counts.channels, counts.peers, left), (0, 0, 0));
    assert!(counts.expected_load.iter().all(|(_, load)| *load == 0));
});
