//! The notifications of subscribers, and that nobody else gets any.

use serde_json::{Value, json};
use weirgate::shard::command::{Closed, Command, Event, TransportState};

use crate::world::{World, audio, video};

#[test]
fn a_subscriber_sees_who_is_there_and_then_what_changes() {
    let mut world = World::new(1);
    let (alice, first, _) = world.publisher("alice", "room", 1);
    let bob = world.join("bob", "room");
    let snapshot = world.get(bob, "subscribe", Value::Null, "subscribed");
    let peer = &snapshot["peers"][0];
    assert_eq!((&peer["user"], snapshot["peers"].as_array().unwrap().len()), (&json!("alice"), 1));
    let producer = json!({ "id": first, "kind": "audio", "type": "simple", "paused": false, "appData": Value::Null });
    assert_eq!(peer["producers"], json!([producer]));
    let alice_id = peer["id"].clone();

    let carol = world.join("carol", "room");
    assert_eq!(world.heard_of(bob, "peer-joined")[0]["user"], "carol");

    let mut with_data = video(5, "1");
    with_data["appData"] = json!({ "source": "screen" });
    with_data["paused"] = json!(true);
    let (second, _) = world.produce(alice, with_data);
    let news = world.heard_of(bob, "new-producer");
    assert_eq!(
        news[0],
        json!({ "id": second, "peerId": alice_id, "user": "alice", "kind": "video", "type": "simple",
        "paused": true, "appData": { "source": "screen" } })
    );

    for (request, notification) in [("resume-producer", "producer-resumed"), ("pause-producer", "producer-paused")] {
        world.get(alice, request, json!({ "producerId": second }), "ok");
        world.get(alice, request, json!({ "producerId": second }), "ok");
        assert_eq!(world.heard_of(bob, notification), [json!({ "id": second, "peerId": alice_id })], "told once");
    }

    world.get(alice, "close-producer", json!({ "producerId": second }), "ok");
    assert_eq!(
        world.heard_of(bob, "producer-closed"),
        [json!({ "id": second, "peerId": alice_id, "reason": "closed" })]
    );
    world.leave(carol);
    assert_eq!(world.heard_of(bob, "peer-left")[0]["user"], "carol");
    world.leave(alice);
    let heard: Vec<_> = world.heard(bob).into_iter().map(|message| message["type"].clone()).collect();
    assert_eq!(heard, ["producer-closed", "peer-left"]);
}

#[test]
fn a_consumers_owner_is_told_of_its_producers_pauses_and_end() {
    let mut world = World::new(1);
    let (alice, producer, _) = world.publisher("alice", "room", 1);
    let bob = world.join("bob", "room");
    world.get(bob, "subscribe", Value::Null, "subscribed");
    world.create(bob, Value::Null);
    let consumer = world.consume(bob, json!({ "paused": true }));
    assert_eq!(consumer["paused"], true);
    let Some((_, Command::Consume { paused: true, .. })) = world.commands.last() else { panic!() };

    world.get(alice, "pause-producer", json!({ "producerId": producer }), "ok");
    assert_eq!(
        world.heard_of(bob, "consumer-paused"),
        [json!({ "id": consumer["id"], "producerId": producer, "paused": true })]
    );
    world.get(bob, "resume-consumer", json!({ "consumerId": consumer["id"] }), "ok");
    assert!(matches!(world.commands.last(), Some((_, Command::ResumeConsumer { .. }))));
    world.get(alice, "resume-producer", json!({ "producerId": producer }), "ok");
    assert_eq!(
        world.heard_of(bob, "consumer-resumed"),
        [json!({ "id": consumer["id"], "producerId": producer, "paused": false })]
    );
    world.get(alice, "close-producer", json!({ "producerId": producer }), "ok");
    assert_eq!(
        world.heard_of(bob, "consumer-closed"),
        [json!({ "id": consumer["id"], "producerId": producer, "reason": "producer-closed" })]
    );
}

#[test]
fn a_pause_reaches_the_shard_once() {
    let mut world = World::new(1);
    let (alice, producer, number) = world.publisher("alice", "room", 1);
    world.take_commands();
    for request in ["pause-producer", "pause-producer", "resume-producer", "resume-producer"] {
        let reply = world.get(alice, request, json!({ "producerId": producer }), "ok");
        assert_eq!(reply, json!({ "request": request, "id": producer }));
    }
    assert_eq!(
        world.take_commands(),
        [Command::PauseProducer { producer: number }, Command::ResumeProducer { producer: number }]
    );
}

#[test]
fn what_a_shard_ends_is_told_to_its_owner_too() {
    let mut world = World::new(1);
    let alice = world.join("alice", "room");
    world.get(alice, "subscribe", Value::Null, "subscribed");
    let (external, transport) = world.create(alice, Value::Null);
    let (producer, number) = world.produce(alice, audio(1, "0"));
    world.event(Event::TransportState { transport, state: TransportState::Connecting });
    world.event(Event::TransportState { transport, state: TransportState::Connecting });
    assert_eq!(world.heard_of(alice, "transport-state"), [json!({ "id": external, "state": "connecting" })]);

    world.event(Event::ProducerClosed { producer: number, why: Closed::Limit("sources") });
    assert_eq!(world.heard_of(alice, "producer-closed")[0]["reason"], "limit");
    assert_eq!(world.refused(alice, "pause-producer", json!({ "producerId": producer })).0, "not-found");

    let consumed = world.produce(alice, audio(2, "0")).0;
    world.consume(alice, json!({ "producerId": consumed }));
    let Some((_, Command::Consume { consumer, .. })) = world.commands.last().cloned() else { panic!() };
    world.take_commands();
    world.event(Event::ConsumerClosed { consumer, why: Closed::Fault });
    assert_eq!(world.heard_of(alice, "consumer-closed")[0]["reason"], "fault");
    assert_eq!(world.take_commands(), [], "the shard knows");

    world.event(Event::TransportClosed { transport, why: Closed::TransportClosed });
    assert_eq!(
        world.heard_of(alice, "transport-state"),
        [json!({ "id": external, "state": "closed", "reason": "transport-closed" })]
    );
    assert_eq!(world.take_commands(), []);
}

#[test]
fn a_replaced_producer_is_told_as_such() {
    let mut world = World::new(1);
    let (alice, old, _) = world.publisher("alice", "room", 1);
    let bob = world.join("bob", "room");
    world.get(bob, "subscribe", Value::Null, "subscribed");
    let (new, _) = world.produce(alice, audio(1, "0"));
    let heard = world.heard(bob);
    assert_eq!((&heard[0]["type"], &heard[0]["data"]["id"]), (&json!("producer-closed"), &json!(old)));
    assert_eq!(heard[0]["data"]["reason"], "replaced");
    assert_eq!((&heard[1]["type"], &heard[1]["data"]["id"]), (&json!("new-producer"), &json!(new)));
}

#[test]
fn who_never_subscribes_gets_replies_only() {
    let mut world = World::new(1);
    let quiet = world.join("quiet", "room");
    world.create(quiet, Value::Null);
    let (alice, producer, number) = world.publisher("alice", "room", 1);
    world.consume(quiet, json!({}));
    world.get(alice, "pause-producer", json!({ "producerId": producer }), "ok");
    world.event(Event::ProducerClosed { producer: number, why: Closed::Fault });
    world.leave(alice);
    assert_eq!(world.heard(quiet), Vec::<Value>::new());
}

#[test]
fn request_ids_come_back_and_ping_is_answered() {
    let mut world = World::new(1);
    let alice = world.join("alice", "room");
    for tag in [json!(7), json!(-1.5), json!("seven")] {
        world.text(alice, &json!({ "type": "ping", "requestId": tag }).to_string());
        assert_eq!(world.heard(alice), [json!({ "type": "pong", "requestId": tag })]);
    }
    world.text(alice, r#"{"type":"nonsense","requestId":"x"}"#);
    let error = world.heard(alice).remove(0);
    assert_eq!((&error["requestId"], &error["data"]["request"]), (&json!("x"), &json!("nonsense")));
}

#[test]
fn restart_ice_needs_a_name_only_where_there_are_several_transports() {
    let mut world = World::new(1);
    let alice = world.join("alice", "room");
    assert_eq!(world.refused(alice, "restart-ice", Value::Null).0, "wrong-step");
    let (external, transport) = world.create(alice, Value::Null);
    let reply = world.get(alice, "restart-ice", Value::Null, "ice-parameters");
    assert_eq!(reply["id"], json!(external));
    let Some((_, Command::RestartIce { transport: restarted, ice })) = world.commands.last() else { panic!() };
    assert_eq!((*restarted, &reply["iceParameters"]["usernameFragment"]), (transport, &json!(ice.ufrag)));
    world.create(alice, Value::Null);
    assert_eq!(world.refused(alice, "restart-ice", Value::Null).0, "bad-field");
}
