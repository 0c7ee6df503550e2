//! A peer outlives its socket: it stays for a while, its media goes on, and another socket takes it up with everything it
//! owns and gets what it missed, in order.

use serde_json::{Value, json};
use weirgate::base::limits::{
    APP_DATA_BYTES_MAX, AWAY_BYTES_MAX, AWAY_SAID_BYTES_MAX, PRODUCERS_PER_PEER_MAX, SAID_BYTES_MAX,
};
use weirgate::base::time::Duration;
use weirgate::shard::command::{Command, Event, Reply, Stats, TransportState, TransportStats};
use weirgate::signal::SessionId;

use crate::world::{World, audio};

const STAYS: Duration = Duration::from_secs(15);

fn kinds(messages: &[Value]) -> Vec<&str> {
    messages.iter().map(|message| message["type"].as_str().expect("each has a type")).collect()
}

impl World {
    fn subscriber(&mut self, user: &str) -> SessionId {
        let session = self.join(user, "room");
        self.get(session, "subscribe", Value::Null, "subscribed");
        session
    }

    fn passes(&mut self, time: Duration) {
        self.now = self.now + time;
        self.hub.handle_timeout(self.now);
        self.drain();
    }
}

#[test]
fn another_socket_takes_the_peer_up_with_all_it_owns_and_gets_what_it_missed_in_order() {
    let mut world = World::new(1);
    let (anna, produced, _) = world.publisher("anna", "room", 1);
    world.get(anna, "subscribe", Value::Null, "subscribed");
    let (transport, number) = world.create(anna, Value::Null);
    let berta = world.subscriber("berta");
    world.create(berta, Value::Null);
    world.consume(berta, json!({ "producerId": produced }));
    world.text(anna, &json!({ "type": "get-stats", "requestId": 7, "data": { "transportId": transport } }).to_string());
    let Some(Command::GetStats { request, .. }) = world.take_commands().pop() else { panic!("the shard is asked") };
    world.heard(anna);
    world.heard(berta);

    let peer = world.hub.detach(world.now, anna, STAYS).expect("it is open");
    assert_eq!((world.hub.peer_of(anna), world.hub.detach(world.now, anna, STAYS)), (None, None));
    world.text(anna, r#"{"type":"close-producer"}"#);
    world.hub.close(world.now, anna);
    world.event(Event::TransportState { transport: number, state: TransportState::Connecting });
    let stats = Stats::Transport(TransportStats::default());
    world.event(Event::Answer { request, reply: Reply::Stats(Some(stats)) });
    let (carl, heard_of, _) = world.publisher("carl", "room", 2);
    world.get(carl, "pause-producer", json!({ "producerId": heard_of }), "ok");
    let dora = world.join("dora", "room");
    world.leave(dora);
    world.connected(number);
    assert_eq!((world.heard(anna), world.hub.counts().peers), (vec![], 3), "an old socket is told nothing");
    let others = world.heard(berta);
    let of_anna = |message: &&Value| message["data"]["user"] == "anna" || message["type"] == "consumer-closed";
    assert_eq!(others.iter().filter(of_anna).count(), 0, "{others:?}");
    let told_shards = world.take_commands();
    let ended = |command: &Command| matches!(command, Command::CloseTransport { .. } | Command::CloseProducer { .. });
    assert!(!told_shards.iter().any(ended), "its media goes on: {told_shards:?}");

    world.passes(STAYS / 2);
    let next = world.hub.attach(world.now, peer).expect("it is there");
    world.drain();
    let missed = world.heard(next);
    let expected = ["transport-state", "stats", "peer-joined", "new-producer", "producer-paused", "transport-state"];
    assert_eq!(kinds(&missed), expected, "dora came and went unseen");
    assert_eq!((&missed[1]["requestId"], &missed[5]["data"]["state"]), (&json!(7), &json!("connected")));
    world.get(next, "pause-producer", json!({ "producerId": produced }), "ok");
    world.get(next, "restart-ice", json!({ "transportId": transport }), "ice-parameters");
    assert!(kinds(&world.heard(berta)).contains(&"producer-paused"));
    world.passes(2 * STAYS);
    assert_eq!(world.hub.counts().peers, 3, "it is back, and stays");
    world.leave(next);
    assert!(kinds(&world.heard(berta)).contains(&"peer-left"));
}

#[test]
fn who_does_not_come_back_in_time_is_gone() {
    let mut world = World::new(1);
    let (anna, _, _) = world.publisher("anna", "room", 1);
    let berta = world.subscriber("berta");
    let peer = world.hub.detach(world.now, anna, STAYS).expect("it is open");
    let due = world.hub.poll_timeout().expect("it ends some day");
    assert!(due <= world.now + STAYS, "{due:?}");
    world.passes(STAYS - Duration::from_millis(1));
    assert_eq!((kinds(&world.heard(berta)), world.hub.counts().peers), (vec!["peer-away"], 2));
    world.passes(Duration::from_millis(1));
    assert_eq!(kinds(&world.heard(berta)), ["producer-closed", "peer-left"]);
    assert_eq!((world.hub.attach(world.now, peer), world.hub.counts().peers), (None, 1));
}

#[test]
fn a_socket_that_is_still_open_gives_way_and_can_do_nothing_more() {
    let mut world = World::new(1);
    let (anna, _, _) = world.publisher("anna", "room", 1);
    let peer = world.hub.peer_of(anna).expect("it is open");
    let next = world.hub.attach(world.now, peer).expect("it is there");
    world.drain();
    assert_eq!(world.disconnected, [(anna, 4409)]);
    world.hub.close(world.now, anna);
    world.text(anna, r#"{"type":"create-transport"}"#);
    assert_eq!((world.heard(anna), world.hub.counts().transports), (vec![], 1));
    world.create(next, Value::Null);
    assert_eq!(world.hub.counts().disconnects, 0, "it is no misbehaviour");
}

#[test]
fn twenty_sockets_one_after_the_other_are_one_peer() {
    let mut world = World::new(1);
    let (mut anna, produced, _) = world.publisher("anna", "room", 1);
    world.get(anna, "subscribe", Value::Null, "subscribed");
    let berta = world.subscriber("berta");
    for n in 0..20 {
        let peer = world.hub.detach(world.now, anna, STAYS).expect("it is open");
        let visitor = world.join(&format!("visitor {n}"), "room");
        anna = world.hub.attach(world.now, peer).expect("it is there");
        world.drain();
        assert_eq!(kinds(&world.heard(anna)), ["peer-joined"]);
        world.leave(visitor);
        assert_eq!(kinds(&world.heard(anna)), ["peer-left"]);
    }
    let listed = world.get(berta, "get-producers", Value::Null, "producers");
    assert_eq!(listed["producers"][0]["id"], json!(produced));
    let of_anna = |message: &Value| message["data"]["user"] == "anna";
    assert!(!world.heard(berta).iter().any(of_anna), "nobody saw it go");
}

/// A microphone whose notification is as large as one may be.
fn large(ssrc: u32) -> Value {
    let mut data = audio(ssrc, &ssrc.to_string());
    data["appData"] = json!("x".repeat(APP_DATA_BYTES_MAX - 2));
    data
}

#[test]
fn who_misses_more_than_is_kept_is_gone_and_churn_is_not_missed() {
    let mut world = World::new(1);
    let (anna, _, _) = world.publisher("anna", "room", 1);
    world.get(anna, "subscribe", Value::Null, "subscribed");
    let berta = world.subscriber("berta");
    let peer = world.hub.detach(world.now, anna, Duration::from_secs(3_600)).expect("it is open");
    let carl = world.join("carl", "room");
    world.create(carl, Value::Null);
    for _ in 0..2 * AWAY_BYTES_MAX / APP_DATA_BYTES_MAX {
        world.now = world.now + Duration::from_secs(1);
        // Each replaces the one before.
        world.produce(carl, large(1));
    }
    assert_eq!(world.hub.counts().peers, 3);
    world.heard(berta);
    let mut heard = Vec::new();
    for n in 0..40 {
        let dora = world.join(&format!("dora {n}"), "room");
        world.create(dora, Value::Null);
        for m in 0..PRODUCERS_PER_PEER_MAX as u32 {
            world.produce(dora, large(2 + m));
        }
        heard.extend(world.heard(berta));
        if heard.iter().any(|message| message["type"] == "peer-left") {
            break;
        }
    }
    let left: Vec<_> = heard.iter().filter(|message| message["type"] == "peer-left").collect();
    assert_eq!((left.len(), &left[0]["data"]["user"]), (1, &json!("anna")));
    assert_eq!(world.hub.attach(world.now, peer), None);
}

#[test]
fn what_is_said_to_who_is_away_ends_nobody_and_it_knows_how_much_it_missed() {
    let mut world = World::new(1);
    let anna = world.subscriber("anna");
    let id = world.subscribe(anna);
    let peer = world.hub.detach(world.now, anna, Duration::from_secs(3_600)).expect("it is open");
    let (carl, said) = (world.join("carl", "room"), 4 * AWAY_BYTES_MAX / SAID_BYTES_MAX);
    for n in 0..said {
        world.now = world.now + Duration::from_secs(1);
        let long = "x".repeat(SAID_BYTES_MAX - 100);
        world.get(carl, "send-message", json!({ "data": [n, long] }), "ok");
    }
    let alone = json!({ "peerId": id, "data": "x".repeat(SAID_BYTES_MAX - 2) });
    assert_eq!(world.refused(carl, "send-message", alone).0, "limit");
    world.get(carl, "send-message", json!({ "data": "as short as it is" }), "ok");
    let next = world.hub.attach(world.now, peer).expect("it is there");
    world.drain();
    let mut heard = world.heard(next);
    let missed = heard.pop().expect("it is told");
    assert_eq!(heard.remove(0)["type"], "peer-joined");
    let kept: Vec<_> = heard.iter().map(|message| message["data"]["data"][0].as_u64().expect("its number")).collect();
    assert_eq!(kept, (0..kept.len() as u64).collect::<Vec<_>>());
    assert!((AWAY_SAID_BYTES_MAX / SAID_BYTES_MAX - 1..=AWAY_SAID_BYTES_MAX / SAID_BYTES_MAX).contains(&kept.len()));
    assert_eq!(missed, json!({ "type": "messages-missed", "data": { "count": said + 1 - kept.len() } }));
    world.get(carl, "send-message", json!({ "data": 1 }), "ok");
    assert_eq!(kinds(&world.heard(next)), ["message"]);
}
