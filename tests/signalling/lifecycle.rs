//! Ends are whole: after a socket, a transport, a producer, or a shard is gone, nothing of it stays.

use serde_json::{Value, json};
use weirgate::base::id::{ConsumerId, ShardId};
use weirgate::base::time::Duration;
use weirgate::shard::command::{
    Closed, Command, ConsumerStats, Event, ProducerStats, Reply, RequestId, Stats, StatsOf, TransportState,
    TransportStats, VerdictState,
};
use weirgate::signal::Counts;

use crate::world::{World, audio, connect, video};

/// The counts that must be zero when nobody is there.
fn what_stays(counts: &Counts) -> [u64; 7] {
    let load = counts.expected_load.iter().map(|(_, load)| load).sum();
    let Counts { channels, peers, transports, producers, consumers, stats_pending, .. } = *counts;
    let counted = [channels, peers, transports, producers, consumers, stats_pending].map(|count| count as u64);
    [counted[0], counted[1], counted[2], counted[3], counted[4], counted[5], load]
}

#[test]
fn nothing_stays_after_a_thousand_joins_and_leaves() {
    let mut world = World::new(3);
    let capabilities = json!({ "headerExtensions": [], "codecs": [{ "kind": "audio", "mimeType": "audio/opus",
        "preferredPayloadType": 100, "clockRate": 48_000, "channels": 2, "parameters": {}, "rtcpFeedback": [] }] });
    let mut present = Vec::new();
    for round in 0..1_000_u32 {
        let channel = format!("room {}", round % 7);
        let session = world.join("visitor", &channel);
        if round % 3 == 0 {
            world.get(session, "subscribe", Value::Null, "subscribed");
        }
        let (_, sends) = world.create(session, Value::Null);
        world.create(session, json!({ "direction": "recv" }));
        world.get(session, "connect-transport", connect(), "transport-connected");
        world.connected(sends);
        let (producer, number) = world.produce(session, if round % 2 == 0 { audio(1, "0") } else { video(1, "0") });
        if round % 4 == 0 {
            world.event(Event::ProducerBound { producer: number, transport: sends });
        }
        for _ in 0..3 {
            world.say(session, "consume", json!({ "rtpCapabilities": capabilities }));
        }
        world.text(session, &json!({ "type": "get-stats", "data": { "producerId": producer } }).to_string());
        present.push(session);
        if present.len() > 10 {
            let leaver = present.remove(round as usize % present.len());
            world.leave(leaver);
        }
        world.commands.clear();
    }
    assert!(world.hub.counts().consumers > 0);
    for session in present {
        world.leave(session);
    }
    assert_eq!(what_stays(&world.hub.counts()), [0; 7]);
    // The log waits for the first check of a transport for 10 s, and for a shard's counts for 2.
    let due = world.hub.poll_timeout().unwrap();
    assert!(due <= world.now + Duration::from_secs(2), "{due:?}");
    world.hub.handle_timeout(world.now + Duration::from_secs(10));
    assert_eq!(world.hub.poll_timeout(), None);
    assert!(world.hub.poll_output().is_none());
}

#[test]
fn a_leaving_peer_takes_its_transports_and_its_unbound_producers_along() {
    let mut world = World::new(1);
    let (alice, _, unbound) = world.publisher("alice", "room", 1);
    let (_, second) = world.create(alice, Value::Null);
    let (_, bound) = world.produce(alice, video(2, "1"));
    world.event(Event::ProducerBound { producer: bound, transport: second });
    let bob = world.join("bob", "room");
    world.create(bob, Value::Null);
    world.consume(bob, json!({}));
    let Some((_, Command::Consume { consumer, .. })) = world.commands.last().cloned() else { panic!() };
    world.take_commands();
    world.leave(alice);
    let commands = world.take_commands();
    let closes_transports = |command: &&Command| matches!(command, Command::CloseTransport { .. });
    assert_eq!(commands.iter().filter(closes_transports).count(), 2);
    assert!(commands.contains(&Command::CloseProducer { producer: unbound }));
    assert!(commands.contains(&Command::CloseConsumer { consumer }));
    assert!(!commands.contains(&Command::CloseProducer { producer: bound }), "it goes with its transport");
    assert_eq!(world.hub.counts().consumers, 0);
}

#[test]
fn a_closed_transport_takes_what_it_carried_and_leaves_the_rest() {
    let mut world = World::new(1);
    world.publisher("bob", "room", 9);
    let alice = world.join("alice", "room");
    let (sends, sends_number) = world.create(alice, Value::Null);
    world.create(alice, json!({ "direction": "recv" }));
    let (gone, number) = world.produce(alice, audio(1, "0"));
    let (stays, _) = world.produce(alice, video(2, "1"));
    world.event(Event::ProducerBound { producer: number, transport: sends_number });
    let on_other = world.consume(alice, json!({}))["id"].clone();
    world.get(alice, "close-transport", json!({ "transportId": sends }), "ok");
    assert_eq!(world.refused(alice, "close-transport", json!({ "transportId": sends })).0, "not-found");
    assert_eq!(world.refused(alice, "pause-producer", json!({ "producerId": gone })).0, "not-found");
    world.get(alice, "pause-producer", json!({ "producerId": stays }), "ok");
    world.get(alice, "pause-consumer", json!({ "consumerId": on_other }), "ok");
}

#[test]
fn a_repeated_ssrc_or_mid_replaces_the_old_producer() {
    let mut world = World::new(1);
    let bob = world.join("bob", "room");
    let (transport, _) = world.create(bob, Value::Null);
    let (other, _) = world.create(bob, Value::Null);
    let on = |transport: &str, mut data: Value| {
        data["transportId"] = json!(transport);
        data
    };
    let (_, first) = world.produce(bob, video(10, "0"));
    world.take_commands();
    // The old one's RTX ssrc is the new one's ssrc.
    world.produce(bob, audio(11, "1"));
    assert_eq!(world.take_commands()[0], Command::CloseProducer { producer: first });
    assert_eq!(world.hub.counts().producers, 1);

    let (_, second) = world.produce(bob, on(&transport, video(20, "5")));
    world.produce(bob, on(&other, video(30, "5")));
    assert_eq!(world.hub.counts().producers, 3, "the same mid on another transport is another one's");
    world.take_commands();
    world.produce(bob, on(&transport, video(40, "5")));
    assert_eq!(world.take_commands()[0], Command::CloseProducer { producer: second });
    assert_eq!(world.hub.counts().producers, 3);
    world.produce(bob, on(&transport, video(30, "6")));
    assert_eq!(world.hub.counts().producers, 4, "an ssrc belongs to a transport where both are known");
}

#[test]
fn ssrcs_and_mids_of_a_transport_never_come_again() {
    let mut world = World::new(1);
    let (_, producer, _) = world.publisher("bob", "room", 1);
    let alice = world.join("alice", "room");
    world.create(alice, Value::Null);
    let mut ssrcs = std::collections::BTreeSet::new();
    for round in 0..300 {
        let consumer = world.consume(alice, json!({ "producerId": producer }));
        assert_eq!(consumer["rtpParameters"]["mid"], json!(round.to_string()));
        let ssrc = consumer["rtpParameters"]["encodings"][0]["ssrc"].as_u64().unwrap();
        assert!(ssrcs.insert(ssrc) && ssrc != 0 && ssrc != 1234);
        world.get(alice, "close-consumer", json!({ "consumerId": consumer["id"] }), "ok");
    }
}

#[test]
fn a_restarted_shard_is_cleaned_and_can_be_used_again() {
    let mut world = World::new(1);
    let (alice, producer, number) = world.publisher("alice", "room", 1);
    world.get(alice, "subscribe", Value::Null, "subscribed");
    world.take_commands();
    world.event(Event::ShardRestarted { shard: ShardId(0) });
    let heard = world.heard(alice);
    let told = |kind: &str| heard.iter().find(|message| message["type"] == kind).map(|message| message["data"].clone());
    assert_eq!(told("producer-closed").unwrap()["id"], json!(producer));
    assert_eq!(told("transport-state").unwrap()["reason"], "fault");
    assert!(world.take_commands().contains(&Command::CloseProducer { producer: number }));
    let counts = world.hub.counts();
    assert_eq!((counts.peers, counts.transports, counts.producers), (1, 0, 0));
    world.create(alice, Value::Null);
    world.produce(alice, audio(1, "0"));
}

#[test]
fn stats_are_asked_of_the_shard_and_come_back_under_the_request_id() {
    let mut world = World::new(1);
    let alice = world.join("alice", "room");
    let (transport, transport_number) = world.create(alice, Value::Null);
    let (producer, number) = world.produce(alice, audio(1, "0"));
    let consumer = world.consume(alice, json!({ "producerId": producer }))["id"].clone();
    let Some((_, Command::Consume { consumer: consumer_number, .. })) = world.commands.last().cloned() else {
        panic!()
    };
    let ask = |world: &mut World, tag: u32, data: Value| -> (RequestId, StatsOf) {
        world.heard(alice);
        world.text(alice, &json!({ "type": "get-stats", "requestId": tag, "data": data }).to_string());
        assert_eq!(world.heard(alice), Vec::<Value>::new());
        match world.commands.last() {
            Some((_, Command::GetStats { request, of })) => (*request, *of),
            other => panic!("{other:?}"),
        }
    };
    let answers = [
        (
            json!({ "transportId": transport }),
            StatsOf::Transport(transport_number),
            Stats::Transport(TransportStats { bytes_sent: 5, ..Default::default() }),
            "bytesSent",
            json!(5),
        ),
        (
            json!({ "producerId": producer }),
            StatsOf::Producer(number),
            Stats::Producer(ProducerStats { transport: Some(transport_number), ..Default::default() }),
            "transportId",
            json!(transport),
        ),
        (
            json!({ "consumerId": consumer }),
            StatsOf::Consumer(consumer_number),
            Stats::Consumer(ConsumerStats {
                verdict: VerdictState::NotAcknowledged,
                verdict_for: Duration::from_micros(6_500),
                ..Default::default()
            }),
            "verdict",
            json!({ "state": "not-acknowledged", "sinceMs": 6.5 }),
        ),
    ];
    for (tag, (data, expected, stats, field, value)) in answers.into_iter().enumerate() {
        let (request, of) = ask(&mut world, tag as u32, data.clone());
        assert_eq!(of, expected);
        // A metrics answer under the same number is somebody else's.
        world.event(Event::Answer { request, reply: Reply::Metrics(Box::default()) });
        world.event(Event::Answer { request, reply: Reply::Stats(Some(stats)) });
        world.event(Event::Answer { request, reply: Reply::Stats(None) });
        let heard = world.heard(alice);
        assert_eq!(heard.len(), 1);
        assert_eq!((&heard[0]["type"], &heard[0]["requestId"]), (&json!("stats"), &json!(tag)));
        assert_eq!(heard[0]["data"][field], value);
        let id = data.as_object().unwrap().values().next().unwrap();
        assert_eq!(&heard[0]["data"]["id"], id);
    }

    let (request, _) = ask(&mut world, 7, json!({ "producerId": producer }));
    world.event(Event::ProducerClosed { producer: number, why: Closed::Fault });
    world.event(Event::Answer { request, reply: Reply::Stats(None) });
    let heard = world.heard(alice);
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert_eq!((&heard[0]["data"]["code"], &heard[0]["requestId"]), (&json!("not-found"), &json!(7)));

    ask(&mut world, 8, json!({ "transportId": transport }));
    let deadline = world.hub.poll_timeout().unwrap();
    assert!(deadline > world.now && deadline <= world.now + Duration::from_secs(10));
    world.hub.handle_timeout(deadline);
    world.drain();
    assert_eq!(world.heard_of(alice, "error")[0]["code"], "unavailable");
    assert_eq!(world.hub.poll_timeout(), None);
}

#[test]
fn events_about_what_is_gone_change_nothing() {
    let mut world = World::new(1);
    let (alice, _, producer) = world.publisher("alice", "room", 1);
    let (_, transport) = world.create(alice, Value::Null);
    let bob = world.join("bob", "room");
    world.get(bob, "subscribe", Value::Null, "subscribed");
    world.leave(alice);
    world.heard(bob);
    world.take_commands();
    let before = world.hub.counts();
    for event in [
        Event::TransportState { transport, state: TransportState::Connected },
        Event::TransportClosed { transport, why: Closed::TransportClosed },
        Event::ProducerBound { producer, transport },
        Event::ProducerSilent { producer, silent: true },
        Event::ProducerClosed { producer, why: Closed::TransportClosed },
        Event::ConsumerClosed { consumer: ConsumerId(99), why: Closed::ProducerClosed },
        Event::Answer { request: RequestId(1), reply: Reply::Stats(None) },
    ] {
        world.event(event);
    }
    assert_eq!(world.hub.counts(), before);
    assert_eq!((world.take_commands(), world.heard(bob)), (vec![], vec![]));
}
