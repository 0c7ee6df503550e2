//! Tokens and moderators together: who waits keeps its token alive and ends with it, and a new token takes nothing back
//! that a moderator has said.

use serde_json::{Value, json};
use weirgate::base::time::Duration;
use weirgate::signal::{Entrance, Grants, Revocation, SessionId};

use crate::world::{CLIENTS, World, audio};

fn entrance(world: &World, user: &str) -> Entrance {
    Entrance { expires: Some(world.now + Duration::from_secs(60)), ..Entrance::named(user, "room") }
}

fn enters(world: &mut World, user: &str) -> SessionId {
    let entrance = entrance(world, user);
    let session = world.hub.open(world.now, CLIENTS, &entrance).expect("let in");
    world.drain();
    session
}

/// Sends its new token, and takes the reply's type or code.
fn renews(world: &mut World, session: SessionId, entrance: Entrance) -> Value {
    world.text(session, r#"{"type":"authenticate","data":{"token":"a.b.c"}}"#);
    let question = world.questions.remove(0);
    world.hub.verified(world.now, question.peer, &question.tag, Ok(entrance));
    world.drain();
    let reply = world.heard(session).pop().expect("a reply");
    if reply["type"] == "error" { reply["data"]["code"].clone() } else { reply["type"].clone() }
}

/// A moderator of a locked channel, and one that waits.
fn locked(world: &mut World) -> (SessionId, SessionId, Value) {
    let moderator = world.moderator("moderator", "room");
    world.subscribe(moderator);
    world.get(moderator, "set-channel", json!({ "locked": true, "waiting": true }), "ok");
    let comer = enters(world, "comer");
    let id = world.heard_of(comer, "waiting")[0]["peerId"].clone();
    world.heard(moderator);
    (moderator, comer, id)
}

#[test]
fn who_waits_renews_its_token_and_comes_in_with_what_the_new_one_grants() {
    let mut world = World::new(1);
    let (moderator, comer, id) = locked(&mut world);
    let other = entrance(&world, "somebody else");
    assert_eq!(renews(&mut world, comer, other), "forbidden");
    let grants = Grants { subscribe: false, ..Grants::everyday() };
    let longer = Entrance { grants, expires: Some(world.now + Duration::from_secs(600)), ..entrance(&world, "comer") };
    assert_eq!(renews(&mut world, comer, longer), "authenticated");
    assert_eq!(world.refused(comer, "create-transport", Value::Null).0, "forbidden", "it still waits");
    world.get(moderator, "admit-peer", json!({ "peerId": id }), "ok");
    world.create(comer, Value::Null);
    assert_eq!(world.refused(comer, "subscribe", Value::Null).0, "forbidden");
}

#[test]
fn who_waits_ends_with_its_token_and_with_its_revocation() {
    let mut world = World::new(1);
    let (moderator, comer, _) = locked(&mut world);
    world.now = world.hub.poll_timeout().expect("it ends");
    world.hub.handle_timeout(world.now);
    world.drain();
    assert_eq!(world.heard(comer)[0]["data"]["code"], "expired");
    let comer = enters(&mut world, "comer");
    let until = world.now + Duration::from_secs(600);
    assert_eq!(world.hub.revoke(world.now, Revocation::User("comer".into()), until), Ok(1));
    world.drain();
    assert_eq!(world.heard(comer).pop().expect("it is told")["data"]["code"], "unauthorized");
    assert_eq!((world.disconnected.len(), world.hub.counts().waiting), (2, 0));
    let reasons: Vec<_> =
        world.heard_of(moderator, "waiting-ended").iter().map(|told| told["reason"].clone()).collect();
    assert_eq!(reasons, ["left", "left"]);
}

#[test]
fn an_old_token_does_not_bring_back_what_a_moderator_has_taken() {
    let mut world = World::new(1);
    let moderator = world.moderator("moderator", "room");
    let alice = enters(&mut world, "alice");
    let id = world.subscribe(alice);
    world.create(alice, Value::Null);
    world.produce(alice, audio(1, "0"));
    world.get(moderator, "set-grants", json!({ "peerId": id, "grants": { "publish": false } }), "ok");
    world.heard(alice);
    let again = entrance(&world, "alice");
    assert_eq!(renews(&mut world, alice, again), "authenticated");
    assert_eq!(world.refused(alice, "produce", audio(1, "0")).0, "forbidden");
    world.get(moderator, "set-grants", json!({ "peerId": id, "grants": { "publish": true } }), "ok");
    world.produce(alice, audio(1, "0"));
}
