//! A peer that has no socket, as one that came by HTTP or lives on another node: it asks and is answered, the others hear
//! of it and consume it, and it ends.

use serde_json::{Value, json};
use weirgate::base::id::PeerId;
use weirgate::base::limits::{MESSAGES_BURST, RATE_REFUSALS_MAX};
use weirgate::shard::command::Command;
use weirgate::signal::{Entrance, OpenError};

use crate::world::{CLIENTS, World, audio, connect};

impl World {
    fn without_socket(&mut self, user: &str) -> PeerId {
        let peer = self.hub.join(self.now, CLIENTS, &Entrance::named(user, "room")).expect("let in");
        self.drain();
        peer
    }

    fn ask(&mut self, peer: PeerId, kind: &str, data: Value) -> Value {
        let request = json!({ "type": kind, "requestId": 5, "data": data }).to_string();
        let reply = self.hub.ask(self.now, peer, &request).expect("it is answered at once");
        self.drain();
        let reply: Value = serde_json::from_str(&reply.to_string()).expect("the hub speaks JSON");
        assert_eq!(reply["requestId"], 5);
        reply
    }
}

#[test]
fn others_are_told_of_its_producer_and_consume_it() {
    let mut world = World::new(1);
    let berta = world.join("berta", "room");
    world.get(berta, "subscribe", Value::Null, "subscribed");
    world.create(berta, Value::Null);
    let camera = world.without_socket("camera");
    assert_eq!(world.ask(camera, "produce", audio(1, "0"))["data"]["code"], "wrong-step");
    let transport = world.ask(camera, "create-transport", json!({ "direction": "send" }));
    assert_eq!(transport["type"], "transport-params");
    let mut announced = connect();
    announced["transportId"] = transport["data"]["id"].clone();
    assert_eq!(world.ask(camera, "connect-transport", announced)["type"], "transport-connected");
    let produced = world.ask(camera, "produce", audio(1, "0"));
    let told = world.heard(berta);
    let kinds: Vec<_> = told.iter().map(|message| message["type"].as_str().expect("each has a type")).collect();
    assert_eq!(kinds, ["peer-joined", "new-producer"]);
    let (joined, new) = (&told[0]["data"], &told[1]["data"]);
    assert_eq!(
        (&joined["user"], &new["id"], &new["peerId"]),
        (&json!("camera"), &produced["data"]["id"], &joined["id"])
    );

    let consumed = world.consume(berta, json!({ "producerId": produced["data"]["id"] }));
    assert_eq!(consumed["peerId"], joined["id"]);
    let listed = world.get(berta, "get-producers", Value::Null, "producers");
    assert_eq!(listed["producers"][0]["user"], "camera");

    world.take_commands();
    world.hub.end(world.now, camera, "it asked to end");
    world.drain();
    let told = world.heard_of(berta, "peer-left");
    assert_eq!((told.len(), &told[0]["user"]), (1, &json!("camera")));
    let commands = world.take_commands();
    assert!(commands.iter().any(|command| matches!(command, Command::CloseTransport { .. })), "{commands:?}");
    assert!(world.hub.ask(world.now, camera, r#"{"type":"ping"}"#).is_none());
    assert_eq!((world.hub.counts().peers, world.hub.counts().transports), (1, 1));
}

#[test]
fn it_is_bounded_and_metered_like_anybody() {
    let mut world = World::new(1);
    let remote = [192, 0, 2, 1].into();
    let mut peers = Vec::new();
    let refused = loop {
        match world.hub.join(world.now, remote, &Entrance::named("anna", "room")) {
            Ok(peer) => peers.push(peer),
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, OpenError::Limit { max, .. } if max == peers.len()), "{refused:?}");
    let flood = peers[0];
    let ask = |world: &mut World| world.hub.ask(world.now, flood, r#"{"type":"ping"}"#);
    let answers: Vec<_> = std::iter::from_fn(|| ask(&mut world)).map(|reply| reply.to_string()).collect();
    let pongs = answers.iter().filter(|reply| reply.contains("pong")).count() as u32;
    assert_eq!((pongs, answers.len() as u32 - pongs), (MESSAGES_BURST, RATE_REFUSALS_MAX));
    world.drain();
    assert_eq!(
        (world.disconnected.len(), world.hub.counts().peers),
        (0, peers.len() - 1),
        "there is no socket to close"
    );
}

#[test]
fn a_socket_may_take_it_up_and_finds_what_it_owns() {
    let mut world = World::new(1);
    let camera = world.without_socket("camera");
    let produced = {
        world.ask(camera, "create-transport", Value::Null);
        world.ask(camera, "subscribe", Value::Null);
        world.ask(camera, "produce", audio(1, "0"))["data"]["id"].clone()
    };
    world.join("berta", "room");
    let session = world.hub.attach(world.now, camera).expect("it is there");
    world.drain();
    assert_eq!(world.heard(session), Vec::<Value>::new(), "nobody kept what nobody was to read");
    world.get(session, "pause-producer", json!({ "producerId": produced }), "ok");
    world.join("carl", "room");
    assert_eq!(world.heard_of(session, "peer-joined").len(), 1);
}
