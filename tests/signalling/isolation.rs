//! Nobody reaches another's objects: those of another channel, and those of another peer in the same channel, look
//! exactly like objects that never were.

use serde_json::{Value, json};
use weirgate::signal::SessionId;

use crate::world::{World, audio, connect, video};

struct Victim {
    session: SessionId,
    transport: String,
    producer: String,
    consumer: String,
    peer: String,
}

fn victim(world: &mut World, user: &str, channel: &str) -> Victim {
    let session = world.join(user, channel);
    let (transport, _) = world.create(session, Value::Null);
    let (producer, _) = world.produce(session, audio(1, "0"));
    let peer = world.get(session, "subscribe", Value::Null, "subscribed")["peerId"].as_str().unwrap().to_owned();
    let consumer = world.consume(session, json!({ "producerId": producer }))["id"].as_str().unwrap().to_owned();
    Victim { session, transport, producer, consumer, peer }
}

/// Every request that takes an id, with `id` in each place where one can stand.
fn requests_about(id: &str, capabilities: &Value) -> Vec<(&'static str, Value)> {
    let mut requests = Vec::new();
    for (kind, fields) in [
        ("connect-transport", &["transportId"][..]),
        ("produce", &["transportId"]),
        ("consume", &["transportId", "producerId"]),
        ("pause-producer", &["producerId"]),
        ("resume-producer", &["producerId"]),
        ("close-producer", &["producerId"]),
        ("pause-consumer", &["consumerId"]),
        ("resume-consumer", &["consumerId"]),
        ("close-consumer", &["consumerId"]),
        ("request-key-frame", &["consumerId"]),
        ("close-transport", &["transportId"]),
        ("restart-ice", &["transportId"]),
        ("get-stats", &["transportId", "producerId", "consumerId"]),
    ] {
        for field in fields {
            let mut data = match kind {
                "connect-transport" => connect(),
                "produce" => video(77, "9"),
                "consume" => json!({ "rtpCapabilities": capabilities }),
                _ => json!({}),
            };
            data[field] = json!(id);
            requests.push((kind, data));
        }
    }
    requests
}

#[test]
fn every_foreign_id_is_answered_like_one_that_never_was() {
    let mut world = World::new(2);
    let elsewhere = victim(&mut world, "victor", "their room");
    let neighbour = victim(&mut world, "nora", "our room");
    let mallory = victim(&mut world, "mallory", "our room");
    let capabilities = world.capabilities(mallory.session);
    for victim in [&elsewhere, &neighbour] {
        world.heard(victim.session);
    }
    let never = "00000000-0000-4000-8000-000000000000";
    let mut asked = 0;
    for (victim, same_channel) in [(&elsewhere, false), (&neighbour, true)] {
        for id in [&victim.transport, &victim.producer, &victim.consumer, &victim.peer] {
            let about_it = requests_about(id, &capabilities);
            for ((kind, data), (_, absent)) in about_it.into_iter().zip(requests_about(never, &capabilities)) {
                if same_channel && kind == "consume" && data["producerId"] == json!(neighbour.producer) {
                    continue;
                }
                world.take_commands();
                let reply = world.say(mallory.session, kind, data);
                assert_eq!(reply["data"]["code"], "not-found", "{kind} {reply}");
                assert_eq!(world.take_commands(), [], "{kind} reached a shard");
                assert_eq!(reply, world.say(mallory.session, kind, absent), "{kind} tells the two apart");
                asked += 1;
            }
        }
    }
    assert_eq!(asked, 2 * 4 * 16 - 1);
    for victim in [&elsewhere, &neighbour] {
        assert_eq!(world.heard(victim.session), Vec::<Value>::new(), "nobody was told of anything");
        world.get(victim.session, "pause-producer", json!({ "producerId": victim.producer }), "ok");
        world.get(victim.session, "pause-consumer", json!({ "consumerId": victim.consumer }), "ok");
        world.get(victim.session, "restart-ice", json!({ "transportId": victim.transport }), "ice-parameters");
    }
}

#[test]
fn own_ids_of_the_wrong_kind_are_not_found_either() {
    let mut world = World::new(1);
    let me = victim(&mut world, "me", "room");
    let capabilities = world.capabilities(me.session);
    let mut refused = 0;
    for id in [&me.transport, &me.producer, &me.consumer, &me.peer] {
        for (kind, data) in requests_about(id, &capabilities) {
            let field = match id {
                id if *id == me.transport => "transportId",
                id if *id == me.producer => "producerId",
                id if *id == me.consumer => "consumerId",
                _ => "none",
            };
            if data[field].is_null() {
                assert_eq!(world.refused(me.session, kind, data).0, "not-found");
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 4 * 16 - 16);
}

#[test]
fn consume_without_an_id_and_the_lists_stay_in_the_channel() {
    let mut world = World::new(1);
    victim(&mut world, "victor", "their room");
    let alice = world.join("alice", "our room");
    world.create(alice, Value::Null);
    let capabilities = world.capabilities(alice);
    assert_eq!(world.refused(alice, "consume", json!({ "rtpCapabilities": capabilities })).0, "no-producer");
    assert_eq!(world.get(alice, "get-producers", Value::Null, "producers"), json!({ "producers": [] }));
    assert_eq!(world.get(alice, "subscribe", Value::Null, "subscribed")["peers"], json!([]));
}

#[test]
fn nothing_that_happens_in_one_channel_is_heard_in_another() {
    let mut world = World::new(2);
    let listener = world.join("lisa", "quiet");
    world.get(listener, "subscribe", Value::Null, "subscribed");
    let loud = victim(&mut world, "leo", "loud");
    world.get(loud.session, "pause-producer", json!({ "producerId": loud.producer }), "ok");
    world.get(loud.session, "close-producer", json!({ "producerId": loud.producer }), "ok");
    world.leave(loud.session);
    assert_eq!(world.heard(listener), Vec::<Value>::new());
}

#[test]
fn two_sockets_of_one_user_are_two_peers() {
    let mut world = World::new(1);
    let one = victim(&mut world, "twin", "room");
    let two = victim(&mut world, "twin", "room");
    assert_ne!(one.peer, two.peer);
    assert_eq!(world.refused(two.session, "close-producer", json!({ "producerId": one.producer })).0, "not-found");
    let listed = world.get(two.session, "get-producers", Value::Null, "producers");
    assert_eq!(listed["producers"][0]["peerId"], json!(one.peer));
    assert_eq!(listed["producers"][0]["user"], "twin");
}
