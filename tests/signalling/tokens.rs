//! Peers that came by a token: their end with it, its renewal on the open socket, and its revocation.

use serde_json::{Value, json};
use weirgate::base::time::Duration;
use weirgate::signal::{Entrance, EntryMessage, Grants, OpenError, Revocation, SessionId, TokenId};

use crate::world::{CLIENTS, World, audio};

fn entrance(world: &World, user: &str, jti: &str, seconds: u64) -> Entrance {
    Entrance {
        expires: Some(world.now + Duration::from_secs(seconds)),
        token: Some(TokenId { jti: jti.into(), once: false }),
        ..Entrance::named(user, "room")
    }
}

fn open(world: &mut World, entrance: &Entrance) -> Result<SessionId, OpenError> {
    let opened = world.hub.open(world.now, CLIENTS, entrance);
    world.drain();
    opened
}

impl World {
    /// Sends `authenticate`, has the edge find this, and takes the reply.
    fn renew(&mut self, session: SessionId, says: Result<Entrance, OpenError>) -> Value {
        self.heard(session);
        self.text(session, r#"{"type":"authenticate","requestId":1,"data":{"token":"a.b.c"}}"#);
        assert!(self.heard(session).is_empty(), "nobody knows yet what it says");
        let question = self.questions.remove(0);
        assert_eq!((question.token.expose(), &*question.channel), ("a.b.c", "room"));
        self.hub.verified(self.now, question.peer, &question.tag, says);
        self.drain();
        let mut heard = self.heard(session);
        let reply = heard.pop().expect("a reply");
        assert_eq!(reply["requestId"], 1, "{reply}");
        self.inbox.insert(session, heard.into());
        reply
    }
}

/// The deadline of the hub comes, and with it whatever is due.
fn at_the_deadline(world: &mut World) {
    world.now = world.hub.poll_timeout().expect("something is due");
    world.hub.handle_timeout(world.now);
    world.drain();
}

#[test]
fn a_peer_ends_with_its_token_and_is_told() {
    let mut world = World::new(1);
    let other = world.join("other", "room");
    world.get(other, "subscribe", Value::Null, "subscribed");
    let anna = entrance(&world, "anna", "1", 60);
    let session = open(&mut world, &anna).unwrap();
    assert_eq!(world.hub.poll_timeout(), anna.expires);
    at_the_deadline(&mut world);
    let told = world.heard(session);
    assert_eq!(told.len(), 1);
    assert_eq!((&told[0]["type"], &told[0]["data"]["code"]), (&json!("error"), &json!("expired")));
    assert_eq!(told[0]["data"]["request"], Value::Null);
    assert_eq!(world.disconnected, [(session, 4401)]);
    assert_eq!(world.heard_of(other, "peer-left").len(), 1);
    assert_eq!((world.hub.counts().peers, world.hub.poll_timeout()), (1, None));
}

#[test]
fn a_new_token_for_the_same_user_and_channel_renews() {
    let mut world = World::new(1);
    let first = entrance(&world, "anna", "1", 60);
    let session = open(&mut world, &first).unwrap();
    world.create(session, Value::Null);
    let (producer, _) = world.produce(session, audio(7, "0"));
    world.get(session, "subscribe", Value::Null, "subscribed");
    let mut second = entrance(&world, "anna", "2", 3_600);
    second.grants = Grants { publish: Default::default(), ..Grants::everyday() };
    let reply = world.renew(session, Ok(second.clone()));
    assert_eq!((&reply["type"], &reply["data"]["expiresIn"]), (&json!("authenticated"), &json!(3_599)));
    assert_eq!(world.hub.poll_timeout().max(second.expires), second.expires);
    let closed = world.heard_of(session, "producer-closed");
    assert_eq!((&closed[0]["id"], &closed[0]["reason"]), (&json!(producer), &json!("forbidden")));
    assert_eq!(world.refused(session, "produce", audio(8, "1")).0, "forbidden");
    let (now, later) = (world.now, world.now + Duration::from_secs(3_600));
    assert_eq!(world.hub.revoke(now, Revocation::Token("1".into()), later), Ok(0), "it is in by the second");
    assert_eq!(world.hub.revoke(now, Revocation::Token("2".into()), later), Ok(1));
}

#[test]
fn a_token_of_another_or_a_refused_one_renews_nothing() {
    let mut world = World::new(1);
    let first = entrance(&world, "anna", "1", 60);
    let session = open(&mut world, &first).unwrap();
    let elsewhere = Entrance { channel: "elsewhere".into(), ..entrance(&world, "anna", "2", 99) };
    let mut no_entry = entrance(&world, "anna", "2", 99);
    no_entry.grants.join = false;
    for (says, code) in [
        (Ok(entrance(&world, "berta", "2", 99)), "forbidden"),
        (Ok(elsewhere), "forbidden"),
        (Ok(no_entry), "forbidden"),
        (Err(OpenError::Expired), "expired"),
        (Err(OpenError::Unauthorized("no")), "unauthorized"),
    ] {
        let reply = world.renew(session, says);
        assert_eq!((&reply["data"]["code"], &reply["data"]["request"]), (&json!(code), &json!("authenticate")));
        assert_eq!(world.hub.poll_timeout(), first.expires, "{code}");
    }
    let later = world.now + Duration::from_secs(60);
    world.hub.revoke(world.now, Revocation::Token("3".into()), later).unwrap();
    let revoked = entrance(&world, "anna", "3", 99);
    assert_eq!(world.renew(session, Ok(revoked))["data"]["code"], "unauthorized");
}

#[test]
fn what_is_revoked_ends_at_once_and_lets_nobody_in() {
    let mut world = World::new(1);
    let [one, two] = ["1", "2"].map(|jti| entrance(&world, "anna", jti, 600));
    let other = entrance(&world, "berta", "3", 600);
    let [first, second, berta] = [&one, &two, &other].map(|entrance| open(&mut world, entrance).unwrap());
    let (now, later) = (world.now, world.now + Duration::from_secs(100));
    assert_eq!(world.hub.revoke(now, Revocation::Token("1".into()), later), Ok(1));
    world.drain();
    assert_eq!(world.heard(first)[0]["data"]["code"], "unauthorized");
    assert_eq!(world.disconnected, [(first, 4401)]);
    assert!(matches!(open(&mut world, &one), Err(OpenError::Unauthorized(_))));
    assert_eq!(world.hub.revoke(now, Revocation::User("anna".into()), later), Ok(1));
    world.drain();
    assert_eq!(world.disconnected, [(first, 4401), (second, 4401)]);
    for jti in ["2", "4"] {
        let entrance = entrance(&world, "anna", jti, 600);
        assert!(matches!(open(&mut world, &entrance), Err(OpenError::Unauthorized(_))), "{jti}");
    }
    world.get(berta, "ping", Value::Null, "pong");
    world.now = later;
    assert!(open(&mut world, &one).is_ok());
}

#[test]
fn a_token_for_one_entrance_is_used_by_who_came_in_and_by_nobody_else() {
    let mut world = World::new(1);
    let once = Entrance {
        token: Some(TokenId { jti: "1".into(), once: true }),
        grants: Grants { join: false, ..Grants::everyday() },
        ..entrance(&world, "anna", "1", 60)
    };
    assert!(matches!(open(&mut world, &once), Err(OpenError::Forbidden(_))));
    let once = Entrance { grants: Grants::everyday(), ..once };
    let session = open(&mut world, &once).expect("nobody has come in by it");
    for _ in 0..2 {
        assert!(matches!(open(&mut world, &once), Err(OpenError::Unauthorized(_))));
    }
    assert_eq!(world.renew(session, Ok(once.clone()))["data"]["code"], "unauthorized");
    world.leave(session);
    assert!(matches!(open(&mut world, &once), Err(OpenError::Unauthorized(_))), "not after it has left either");
}

#[test]
fn a_first_message_to_somebody_who_is_in_already_changes_nothing() {
    let mut world = World::new(1);
    let anna = world.join("anna", "room");
    assert_eq!(world.refused(anna, "resume", json!({ "token": "x" })).0, "wrong-step");
    assert_eq!(world.refused(anna, "authenticate", json!({})).0, "bad-field");
    assert!(EntryMessage::parse(r#"{"type":"subscribe"}"#).is_none());
}

#[test]
fn a_flood_of_bad_tokens_on_an_open_socket_is_slowed_down() {
    let mut world = World::new(1);
    let anna = entrance(&world, "anna", "1", 600);
    let session = open(&mut world, &anna).unwrap();
    let mut answered = 0;
    loop {
        world.hub.handle_text(world.now, session, r#"{"type":"authenticate","data":{"token":"a.b.c"}}"#);
        world.drain();
        let Some(question) = world.questions.pop() else { break };
        answered += 1;
        world.hub.verified(world.now, question.peer, &question.tag, Err(OpenError::Unauthorized("no")));
        world.drain();
    }
    assert!(answered <= 10, "{answered} signatures at once");
    assert_eq!(world.heard(session).last().unwrap()["data"]["code"], "rate-limited");
}
