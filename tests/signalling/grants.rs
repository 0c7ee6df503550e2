//! What others see of a peer with a token, and what its grants leave it.

use serde_json::{Value, json};
use weirgate::signal::{Entrance, Grants, OpenError, SessionId};

use crate::world::{CLIENTS, World, audio, video};

impl World {
    fn let_in(&mut self, user: &str, name: Option<&str>, grants: Value) -> SessionId {
        let grants = Grants::read(&grants).expect("they are well-formed");
        let entrance = Entrance { name: name.map(Into::into), grants, ..Entrance::named(user, "room") };
        let session = self.hub.open(self.now, CLIENTS, &entrance).expect("let in");
        self.drain();
        session
    }
}

#[test]
fn who_may_not_join_is_no_peer() {
    let mut world = World::new(1);
    let entrance = Entrance { grants: Grants::default(), ..Entrance::named("anna", "room") };
    let refused = world.hub.open(world.now, CLIENTS, &entrance);
    assert!(matches!(refused, Err(OpenError::Forbidden(_))), "{refused:?}");
    assert_eq!((world.hub.counts().peers, world.hub.counts().channels), (0, 0));
}

#[test]
fn each_right_that_is_left_out_is_forbidden() {
    let mut world = World::new(1);
    let (_, producer, _) = world.publisher("anna", "room", 1);
    let listener = world.let_in("listener", None, json!({ "join": true, "subscribe": true }));
    let speaker = world.let_in("speaker", None, json!({ "join": true, "publish": { "kinds": ["audio"] } }));
    for session in [listener, speaker] {
        world.create(session, Value::Null);
    }
    let offered = audio(7, "0");
    let consume = json!({ "producerId": producer, "rtpCapabilities": world.capabilities(speaker) });
    assert_eq!(world.refused(listener, "produce", offered.clone()).0, "forbidden");
    for (kind, data) in [("subscribe", Value::Null), ("get-producers", Value::Null), ("consume", consume.clone())] {
        assert_eq!(world.refused(speaker, kind, data).0, "forbidden", "{kind}");
    }
    assert_eq!(world.refused(speaker, "produce", video(8, "0")).0, "forbidden");
    world.produce(speaker, offered);
    world.get(listener, "subscribe", Value::Null, "subscribed");
    world.consume(listener, json!({ "producerId": producer }));
}

#[test]
fn a_display_name_is_shown_where_there_is_one_and_a_hidden_peer_nowhere() {
    let mut world = World::new(1);
    let anna = world.join("anna", "room");
    world.get(anna, "subscribe", Value::Null, "subscribed");
    let take_part = json!({ "join": true, "publish": true, "subscribe": true });
    world.let_in("berta", Some("Berta B."), take_part.clone());
    let hidden = world.let_in(
        "recorder",
        Some("Recorder"),
        json!({ "join": true, "publish": true, "subscribe": true, "hidden": true }),
    );
    world.join("carla", "room");
    let joined = world.heard_of(anna, "peer-joined");
    let names: Vec<_> = joined.iter().map(|peer| (&peer["user"], peer.get("name"))).collect();
    assert_eq!(names, [(&json!("berta"), Some(&json!("Berta B."))), (&json!("carla"), None)]);
    for (session, others) in [(anna, vec!["berta", "carla"]), (hidden, vec!["anna", "berta", "carla"])] {
        let listed = world.get(session, "subscribe", Value::Null, "subscribed");
        let listed = listed["peers"].as_array().expect("a list");
        let users: Vec<_> = listed.iter().map(|peer| peer["user"].as_str().expect("a user")).collect();
        assert_eq!(users, others);
    }
    world.create(hidden, Value::Null);
    assert_eq!(world.refused(hidden, "produce", audio(9, "0")).0, "forbidden");
    world.leave(hidden);
    assert!(world.heard(anna).is_empty(), "it was never there");
}
