//! A client comes back by its token: it gets what its connection lost and what it missed, in order, nothing twice and
//! nothing lost; others hear that it is away only when it stays away, and a token is good once.

use std::net::IpAddr;

use serde_json::{Value, json};
use weirgate::base::limits::MESSAGES_BURST;
use weirgate::base::time::Duration;
use weirgate::signal::{
    Entrance, Hub, HubSettings, Interest, Quotas, ResumeError, ReturnSettings, SameUser, SessionId,
};

use crate::world::{CLIENTS, World, audio, settings};

const GRACE: Duration = Duration::from_secs(15);
const ELSEWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 9));

fn returning(same_user: SameUser) -> World {
    let returns = ReturnSettings { key: [5; 32], grace: GRACE, same_user };
    of(HubSettings { returns, ..settings(1) })
}

fn of(settings: HubSettings) -> World {
    let mut world = World::new(1);
    world.hub = Hub::new(settings);
    world
}

fn kinds(messages: &[Value]) -> Vec<&str> {
    messages.iter().map(|message| message["type"].as_str().expect("each has a type")).collect()
}

impl World {
    fn token(&mut self, session: SessionId) -> String {
        let reply = self.get(session, "subscribe", json!({ "resume": true }), "subscribed");
        reply["resume"].as_str().expect("it was asked for").to_owned()
    }

    fn breaks(&mut self, session: SessionId) {
        self.hub.broken(self.now, session, "lost");
        self.drain();
    }

    fn later(&mut self, time: Duration) {
        self.now = self.now + time;
        self.hub.handle_timeout(self.now);
        while self.hub.poll_timeout().is_some_and(|due| due <= self.now) {
            self.hub.handle_timeout(self.now);
        }
        self.drain();
    }

    fn comes_back(&mut self, token: &str, received: Option<u64>) -> Result<SessionId, ResumeError> {
        let session = self.hub.resume(self.now, CLIENTS, token, received);
        self.drain();
        session
    }
}

#[test]
fn only_who_asks_is_given_a_token_and_only_where_peers_may_come_back() {
    let mut world = returning(SameUser::Keep);
    let anna = world.join("anna", "room");
    for data in [Value::Null, json!({ "resume": false }), json!({ "resume": null })] {
        assert_eq!(world.get(anna, "subscribe", data.clone(), "subscribed").get("resume"), None);
        assert_eq!(world.say(anna, "get-rtp-capabilities", data).get("resume"), None);
    }
    world.breaks(anna);
    assert_eq!(world.hub.counts().peers, 0, "who has no token lives as long as its socket");
    let anna = world.join("anna", "room");
    let reply = world.say(anna, "get-rtp-capabilities", json!({ "resume": true }));
    assert!(reply["resume"].is_string() && reply["data"].get("resume").is_none(), "beside its data");
    world.breaks(anna);
    assert_eq!((world.hub.counts().peers, world.hub.counts().away), (1, 1));

    let mut world = World::new(1);
    let anna = world.join("anna", "room");
    let reply = world.get(anna, "subscribe", json!({ "resume": true }), "subscribed");
    assert_eq!(reply.get("resume"), Some(&Value::Null), "nobody comes back here");
    world.breaks(anna);
    assert_eq!(world.hub.counts().peers, 0);
}

#[test]
fn what_the_connection_lost_and_what_was_missed_come_in_order_after_the_next_token() {
    let mut world = returning(SameUser::Keep);
    let anna = world.join("anna", "room");
    let token = world.token(anna);
    for n in 1..=3 {
        world.text(anna, &json!({ "type": "ping", "requestId": n }).to_string());
    }
    // The subscribed and the first pong arrived.
    world.breaks(anna);
    let berta = world.join("berta", "room");
    let carl = world.join("carl", "room");
    world.leave(carl);
    let back = world.comes_back(&token, Some(2)).expect("it is good");
    let mut heard = world.heard(back);
    let resumed = heard.remove(0);
    assert_eq!((&resumed["type"], &resumed["data"]["received"]), (&json!("resumed"), &json!(4)));
    let told: Vec<_> = heard.iter().map(|text| (text["type"].clone(), text["requestId"].clone())).collect();
    let expected = [("pong", json!(2)), ("pong", json!(3)), ("peer-joined", Value::Null)];
    assert_eq!(told, expected.map(|(kind, tag)| (json!(kind), tag)));
    // 4 + 1 texts in all; the next ones count on.
    world.leave(berta);
    let next = resumed["data"]["resume"].as_str().unwrap().to_owned();
    world.breaks(back);
    let again = world.comes_back(&next, Some(5)).expect("it is good");
    assert_eq!(kinds(&world.heard(again)), ["resumed", "peer-left"]);
}

#[test]
fn a_client_that_does_not_count_gets_what_was_queued_after_the_break() {
    let mut world = returning(SameUser::Keep);
    let anna = world.join("anna", "room");
    let token = world.token(anna);
    world.text(anna, r#"{"type":"ping"}"#);
    world.breaks(anna);
    world.join("berta", "room");
    let back = world.comes_back(&token, None).expect("it is good");
    assert_eq!(kinds(&world.heard(back)), ["resumed", "peer-joined"]);
}

#[test]
fn others_are_told_after_two_seconds_and_only_then_that_it_is_back() {
    let mut world = returning(SameUser::Keep);
    let anna = world.join("anna", "room");
    let id = world.get(anna, "subscribe", Value::Null, "subscribed")["peerId"].clone();
    let mut token = world.token(anna);
    let berta = world.join("berta", "room");
    world.get(berta, "subscribe", Value::Null, "subscribed");
    let mut session = anna;
    for (away, expected) in [(1_900, vec![]), (2_100, vec!["peer-away", "peer-back"]), (100, vec![])] {
        world.breaks(session);
        world.later(Duration::from_millis(away));
        let heard = world.heard(berta);
        if expected.is_empty() {
            assert_eq!(world.get(berta, "subscribe", Value::Null, "subscribed")["peers"][0].get("away"), None);
        } else {
            assert_eq!(world.get(berta, "subscribe", Value::Null, "subscribed")["peers"][0]["away"], true);
        }
        session = world.comes_back(&token, None).expect("it is good");
        token = world.heard(session)[0]["data"]["resume"].as_str().unwrap().to_owned();
        let told: Vec<_> = heard.into_iter().chain(world.heard(berta)).collect();
        assert_eq!(kinds(&told), expected, "{away} ms");
        assert!(told.iter().all(|news| news["data"] == json!({ "id": id })));
        assert_eq!(world.get(berta, "subscribe", Value::Null, "subscribed")["peers"][0].get("away"), None);
    }
    world.heard(berta);
    world.hub.set_interest(Interest::Everything);
    world.breaks(session);
    world.later(Duration::from_secs(2));
    world.later(GRACE - Duration::from_secs(2));
    assert_eq!(kinds(&world.heard(berta)), ["peer-away", "peer-left"]);
    assert_eq!(world.comes_back(&token, None), Err(ResumeError::Gone));
    assert_eq!((world.hub.counts().peers, world.hub.counts().away), (1, 0));
    let noted: Vec<_> = std::iter::from_fn(|| world.hub.poll_journal()).map(|entry| entry.what.name()).collect();
    assert_eq!(noted, ["peer.away", "peer.left"]);
}

#[test]
fn a_token_is_good_once_but_an_answer_may_be_lost() {
    let mut world = returning(SameUser::Keep);
    let anna = world.join("anna", "room");
    let token = world.token(anna);
    let first = world.comes_back(&token, Some(1)).expect("the old socket looks alive");
    assert_eq!(world.disconnected, [(anna, 4409)]);
    assert_eq!(kinds(&world.heard(first)), ["resumed"]);
    // The answer never arrived.
    world.breaks(first);
    let second = world.comes_back(&token, Some(1)).expect("nothing was said on the socket that it opened");
    let next = world.heard(second)[0]["data"]["resume"].as_str().unwrap().to_owned();
    world.text(second, r#"{"type":"ping"}"#);
    assert_eq!(world.comes_back(&token, Some(1)), Err(ResumeError::Unauthorized));
    assert_eq!((world.heard(second).len(), world.disconnected.len()), (1, 1), "nobody was disturbed");
    assert!(world.comes_back(&next, Some(2)).is_ok());
    let outcomes = world.hub.counts().resumes;
    let count = |name: &str| outcomes.iter().find(|(known, _)| *known == name).map(|(_, count)| *count);
    assert_eq!([count("resumed"), count("taken-over"), count("unauthorized")], [Some(1), Some(2), Some(1)]);
}

#[test]
fn a_token_of_another_process_another_peer_or_nobody_takes_nobody_up() {
    let (mut world, mut other) = (returning(SameUser::Keep), returning(SameUser::Keep));
    other.hub = Hub::new(HubSettings {
        returns: ReturnSettings { key: [6; 32], grace: GRACE, same_user: SameUser::Keep },
        ..settings(1)
    });
    let (anna, there) = (world.join("anna", "room"), other.join("anna", "room"));
    let (token, foreign) = (world.token(anna), other.token(there));
    for forged in ["", "x", &foreign, &token.to_uppercase(), &format!("{token} ")] {
        assert_eq!(world.comes_back(forged, None), Err(ResumeError::Unauthorized), "{forged}");
    }
    let berta = world.join("berta", "another room");
    let of_berta = world.token(berta);
    world.leave(anna);
    assert_eq!(world.comes_back(&token, None), Err(ResumeError::Gone), "a closed socket ends its peer at once");
    let back = world.comes_back(&of_berta, None).expect("it is good");
    world.heard(back);
    world.join("carl", "room");
    assert_eq!(world.heard(back).len(), 0, "its channel is its own");
}

#[test]
fn a_count_that_cannot_be_right_or_reached_ends_the_peer() {
    for (received, expected) in [(3, ResumeError::WrongCount), (u64::MAX, ResumeError::WrongCount)] {
        let mut world = returning(SameUser::Keep);
        let (anna, berta) = (world.join("anna", "room"), world.join("berta", "room"));
        let token = world.token(anna);
        world.get(berta, "subscribe", Value::Null, "subscribed");
        world.text(anna, r#"{"type":"ping"}"#);
        world.heard(berta);
        assert_eq!(world.comes_back(&token, Some(received)), Err(expected));
        assert_eq!((world.hub.counts().peers, kinds(&world.heard(berta))), (1, vec!["peer-left"]));
    }
    let mut world = returning(SameUser::Keep);
    let anna = world.join("anna", "room");
    let token = world.token(anna);
    world.get(anna, "ping", json!({ "received": 1 }), "pong");
    assert_eq!(world.refused(anna, "ping", json!({ "received": 9 })).0, "bad-field");
    world.breaks(anna);
    assert_eq!(world.comes_back(&token, Some(0)), Err(ResumeError::NotKept));
    assert_eq!(world.hub.counts().peers, 0);
}

#[test]
fn who_is_away_counts_for_its_address_until_it_ends() {
    let quotas = Quotas { sockets_per_address: 3, sockets_per_user: 100 };
    let returns = ReturnSettings { key: [5; 32], grace: GRACE, same_user: SameUser::Keep };
    let mut world = of(HubSettings { returns, quotas, ..settings(1) });
    for n in 0..3 {
        let entrance = Entrance::named(&format!("user {n}"), "room");
        let session = world.hub.open(world.now, ELSEWHERE, &entrance).expect("there is room");
        world.drain();
        world.token(session);
        world.breaks(session);
    }
    let anew = Entrance::named("user 3", "room");
    assert!(world.hub.open(world.now, ELSEWHERE, &anew).is_err());
    world.later(GRACE);
    assert!(world.hub.open(world.now, ELSEWHERE, &anew).is_ok());
}

#[test]
fn a_client_that_comes_back_in_a_loop_is_stopped_and_then_ended() {
    let mut world = returning(SameUser::Keep);
    let anna = world.join("anna", "room");
    let token = world.token(anna);
    let (mut back, mut waited) = (0, 0);
    let ended = loop {
        match world.comes_back(&token, Some(1)) {
            Ok(_) => back += 1,
            Err(ResumeError::RateLimited(wait)) => {
                assert!(wait > Duration::ZERO);
                waited += 1;
            }
            Err(other) => break other,
        }
    };
    assert!(back <= MESSAGES_BURST as usize && waited >= 100, "{back} {waited}");
    assert_eq!((ended, world.hub.counts().peers), (ResumeError::NotKept, 0));
}

#[test]
fn media_goes_on_while_a_peer_is_away_and_twenty_breaks_are_seen_by_nobody() {
    let mut world = returning(SameUser::Keep);
    let (anna, produced, _) = world.publisher("anna", "room", 1);
    let mut token = world.token(anna);
    let berta = world.join("berta", "room");
    world.get(berta, "subscribe", Value::Null, "subscribed");
    world.create(berta, Value::Null);
    world.consume(berta, json!({ "producerId": produced }));
    let (mut session, mut received) = (anna, 1);
    world.heard(anna);
    world.take_commands();
    for n in 0..20 {
        world.text(session, r#"{"type":"ping"}"#);
        received += 1 + world.heard(session).len() as u64 - 1;
        world.breaks(session);
        world.later(Duration::from_millis(90 * n));
        session = world.comes_back(&token, Some(received)).expect("it is good");
        token = world.heard(session).remove(0)["data"]["resume"].as_str().unwrap().to_owned();
    }
    assert_eq!((world.heard(berta), world.take_commands()), (vec![], vec![]));
    world.get(session, "pause-producer", json!({ "producerId": produced }), "ok");
}

#[test]
fn a_user_who_joins_anew_replaces_its_old_self_where_the_operator_says_so() {
    let mut world = returning(SameUser::Replace);
    let (anna, _, _) = world.publisher("anna", "room", 1);
    let old = world.get(anna, "subscribe", Value::Null, "subscribed")["peerId"].clone();
    let token = world.token(anna);
    let berta = world.join("berta", "room");
    world.get(berta, "subscribe", Value::Null, "subscribed");
    world.heard(anna);
    let elsewhere = world.join("anna", "another room");
    let new = world.join("anna", "room");
    let last = world.heard(anna);
    assert_eq!((kinds(&last), &last[0]["data"]["code"]), (vec!["error"], &json!("replaced")));
    assert_eq!(world.disconnected, [(anna, 4409)]);
    let heard = world.heard(berta);
    assert_eq!(kinds(&heard), ["producer-closed", "peer-left", "peer-joined"]);
    assert_eq!(heard[2]["data"]["replaces"], old);
    assert_eq!(world.comes_back(&token, None), Err(ResumeError::Gone));
    world.get(elsewhere, "ping", Value::Null, "pong");
    world.get(new, "ping", Value::Null, "pong");
    // One that is away.
    world.token(new);
    world.breaks(new);
    world.heard(berta);
    world.join("anna", "room");
    assert_eq!(kinds(&world.heard(berta)), ["peer-left", "peer-joined"]);
    assert_eq!(world.hub.counts().peers, 3);
    // The last of a channel.
    world.join("anna", "another room");
    assert_eq!((world.hub.counts().peers, world.hub.counts().channels), (3, 2));
}

#[test]
fn a_user_at_its_bound_of_sockets_may_replace_itself() {
    let quotas = Quotas { sockets_per_address: 1, sockets_per_user: 1 };
    let returns = ReturnSettings { key: [5; 32], grace: GRACE, same_user: SameUser::Replace };
    let mut world = of(HubSettings { returns, quotas, ..settings(1) });
    for _ in 0..3 {
        assert!(world.hub.open(world.now, ELSEWHERE, &Entrance::named("anna", "room")).is_ok());
    }
    assert!(world.hub.open(world.now, ELSEWHERE, &Entrance::named("berta", "room")).is_err());
    assert_eq!(world.hub.counts().peers, 1);
}

#[test]
fn pings_every_second_make_silence_a_break_and_only_of_who_may_come_back() {
    let mut world = returning(SameUser::Keep);
    let (anna, berta) = (world.join("anna", "room"), world.join("berta", "room"));
    world.token(anna);
    for _ in 0..3 {
        world.later(Duration::from_secs(1));
        world.get(anna, "ping", Value::Null, "pong");
        world.get(berta, "ping", Value::Null, "pong");
    }
    assert_eq!([anna, berta].map(|session| world.hub.pings_regularly(session)), [true, false]);
    world.later(Duration::from_secs(20));
    world.get(anna, "ping", Value::Null, "pong");
    assert!(!world.hub.pings_regularly(anna));
}

#[test]
fn who_is_away_when_the_server_ends_ends_too() {
    let mut world = returning(SameUser::Keep);
    for n in 0..3 {
        let session = world.join(&format!("user {n}"), "room");
        world.create(session, Value::Null);
        world.produce(session, audio(n + 1, "0"));
        world.token(session);
        world.breaks(session);
    }
    world.hub.end_away(world.now, "shutdown");
    let counts = world.hub.counts();
    assert_eq!((counts.peers, counts.transports, counts.away), (0, 0, 0));
}

#[test]
fn going_away_and_coming_back_is_paid_by_the_account_that_does_it() {
    let mut world = returning(SameUser::Keep);
    let subscribers: Vec<_> = (0..400).map(|n| world.join(&format!("user {n}"), "room")).collect();
    for session in subscribers {
        world.get(session, "subscribe", Value::Null, "subscribed");
    }
    let entrance = Entrance::named("anna", "room");
    let mut peers: Vec<(SessionId, String)> = Vec::new();
    for _ in 0..60 {
        world.later(Duration::from_secs(1));
        let session = world.hub.open(world.now, ELSEWHERE, &entrance).expect("there is room");
        world.drain();
        peers.push((session, world.token(session)));
    }
    // All of them, as often as others can be told of it.
    let mut rounds = 0;
    let refused = 'rounds: loop {
        peers.iter().for_each(|(session, _)| world.breaks(*session));
        world.later(Duration::from_secs(2));
        for (session, token) in &mut peers {
            match world.comes_back(token, None) {
                Ok(next) => *session = next,
                Err(refused) => break 'rounds refused,
            }
            let resumed = &world.heard(*session)[0];
            *token = resumed["data"]["resume"].as_str().expect("the next").to_owned();
        }
        rounds += 1;
        assert!(rounds < 100);
    };
    assert!(matches!(refused, ResumeError::RateLimited(_)) && rounds > 0, "{refused:?} after {rounds}");
}
