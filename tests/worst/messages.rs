//! The cost of requests at the hub: in a channel of a thousand producers, from a peer that has all it may have, beside
//! the same request between two.

use serde_json::{Value, json};
use weirgate::base::limits::{
    APP_DATA_BYTES_MAX, CONSUMERS_PER_PEER_AND_PRODUCER_MAX, CONSUMERS_PER_PEER_MAX, MESSAGE_BYTES_MAX,
    PRODUCERS_PER_PEER_MAX, SAID_BYTES_MAX, TRANSPORTS_PER_PEER_MAX,
};
use weirgate::base::time::Duration;
use weirgate::signal::SessionId;

#[expect(dead_code, reason = "what other tests need of it")]
#[path = "../signalling/world.rs"]
mod world;

use self::world::{World, audio, connect, video};
use super::{Cost, median, timed};

const ROUNDS: usize = 31;

/// A channel, and one peer in it.
struct Hall {
    world: World,
    me: SessionId,
    transport: String,
    producer: String,
    consumer: String,
    /// Another peer's producer, which the peer does not consume as often as it may.
    other: String,
    capabilities: Value,
}

impl Hall {
    fn new(peers: u32, producers: u32, full: bool) -> Hall {
        let mut world = World::new(2);
        let mut others = Vec::new();
        for _ in 0..peers {
            let peer = world.join("somebody", "room");
            let (_, transport) = world.create(peer, Value::Null);
            world.connected(transport);
            others.extend((0..producers).map(|n| {
                let mut data = audio(1 + n, &n.to_string());
                data["appData"] = json!("x".repeat(1_000));
                world.produce(peer, data).0
            }));
        }
        let me = world.moderator("me", "room");
        let transports = if full { TRANSPORTS_PER_PEER_MAX - 1 } else { 1 };
        let transport = (0..transports).map(|_| world.create(me, Value::Null).0).last().expect("one at least");
        let own = if full { PRODUCERS_PER_PEER_MAX as u32 - 1 } else { 1 };
        let producer = (0..own).map(|n| world.produce(me, video(10_000 + 2 * n, &n.to_string())).0).last();
        let capabilities = world.capabilities(me);
        let consumers = if full { CONSUMERS_PER_PEER_MAX - 1 } else { 1 };
        let mut consumer = String::new();
        for n in 0..consumers {
            let id = &others[n / CONSUMERS_PER_PEER_AND_PRODUCER_MAX];
            let data = json!({ "producerId": id, "rtpCapabilities": &capabilities, "transportId": &transport });
            let reply = world.get(me, "consume", data, "consumer-params");
            consumer = reply["id"].as_str().expect("it has an id").to_owned();
        }
        let producer = producer.expect("one at least");
        let other = others.pop().expect("somebody is there");
        Hall { world, me, transport, producer, consumer, other, capabilities }
    }

    /// Nanoseconds of one such request; messages of `after` are not counted.
    fn cost(&mut self, mut ask: impl FnMut(&Hall, usize) -> String, after: impl Fn(&mut Hall, &[Value])) -> f64 {
        let times = (0..ROUNDS).map(|round| {
            self.world.heard(self.me);
            self.world.now = self.world.now + Duration::from_secs(60);
            let text = ask(self, round);
            let (hub, now, me) = (&mut self.world.hub, self.world.now, self.me);
            // The reading of the last reply, here in the test, has emptied the caches: by its length, not by the hub's work.
            hub.handle_text(now, me, &said("ping", Value::Null));
            let took = timed(|| hub.handle_text(now, me, &text));
            self.world.drain();
            self.world.take_commands();
            let heard = self.world.heard(self.me);
            after(self, &heard);
            took
        });
        median(times.collect())
    }
}

fn said(kind: &str, data: Value) -> String {
    json!({ "type": kind, "data": data }).to_string()
}

type Ask = Box<dyn Fn(&Hall, usize) -> String>;
type After = Box<dyn Fn(&mut Hall, &[Value])>;

fn nothing(_: &mut Hall, _: &[Value]) {}

/// Closes what the reply made.
fn close(request: &'static str, field: &'static str, made: &'static str) -> After {
    Box::new(move |hall, heard| {
        let reply = heard.iter().find(|message| message["type"] == made).expect("it was made");
        let me = hall.me;
        hall.world.get(me, request, json!({ field: &reply["data"]["id"] }), "ok");
        hall.world.take_commands();
    })
}

/// What is asked, and what follows it.
fn requests() -> Vec<(&'static str, Ask, After)> {
    let request = |name, kind: &'static str, data: fn(&Hall, usize) -> Value| -> (&'static str, Ask, After) {
        (name, Box::new(move |hall, round| said(kind, data(hall, round))), Box::new(nothing))
    };
    let consume = |hall: &Hall| json!({ "producerId": &hall.other, "rtpCapabilities": &hall.capabilities });
    let consumes: Ask = Box::new(move |hall, _| said("consume", consume(hall)));
    vec![
        request("ping", "ping", |_, _| Value::Null),
        request("get-rtp-capabilities", "get-rtp-capabilities", |_, _| Value::Null),
        request("connect-transport", "connect-transport", |hall, _| {
            let mut data = connect();
            data["transportId"] = json!(&hall.transport);
            data
        }),
        request("restart-ice", "restart-ice", |hall, _| json!({ "transportId": &hall.transport })),
        request(
            "set-max-bitrate",
            "set-max-bitrate",
            |hall, round| json!({ "transportId": &hall.transport, "maxOutgoingBitrate": 100_000 + round }),
        ),
        request("set-priority", "set-priority", |hall, _| json!({ "consumerId": &hall.consumer, "priority": 7 })),
        request("request-key-frame", "request-key-frame", |hall, _| json!({ "consumerId": &hall.consumer })),
        request("pause-consumer", "pause-consumer", |hall, _| json!({ "consumerId": &hall.consumer })),
        request("resume-consumer", "resume-consumer", |hall, _| json!({ "consumerId": &hall.consumer })),
        request(
            "set-preferred-layers",
            "set-preferred-layers",
            |hall, _| json!({ "consumerId": &hall.consumer, "spatialLayer": 0 }),
        ),
        request("get-stats", "get-stats", |hall, _| json!({ "consumerId": &hall.consumer })),
        request("get-stats of nothing", "get-stats", |_, _| json!({ "consumerId": "nothing" })),
        (
            "create-transport",
            Box::new(|_, _| said("create-transport", Value::Null)),
            close("close-transport", "transportId", "transport-params"),
        ),
        ("consume", consumes, close("close-consumer", "consumerId", "consumer-params")),
        request("consume of whatever, where nothing fits", "consume", |hall, _| {
            let mut capabilities = hall.capabilities.clone();
            capabilities["codecs"].as_array_mut().expect("there are codecs").retain(|codec| codec["kind"] == "video");
            json!({ "rtpCapabilities": capabilities })
        }),
        request("pause-producer", "pause-producer", |hall, _| json!({ "producerId": &hall.producer })),
        request("resume-producer", "resume-producer", |hall, _| json!({ "producerId": &hall.producer })),
        request("produce, replacing, with 16 kB", "produce", |_, _| {
            let mut data = video(10_000, "0");
            data["appData"] = json!("x".repeat(APP_DATA_BYTES_MAX - 2));
            data
        }),
        request("mute-producer", "mute-producer", |hall, _| json!({ "producerId": &hall.other })),
        request("unmute-producer", "unmute-producer", |hall, _| json!({ "producerId": &hall.other })),
        request("rename", "rename", |_, round| json!({ "name": format!("name {round}") })),
        request("set-app-data with 16 kB", "set-app-data", |_, round| {
            let long = "x".repeat(APP_DATA_BYTES_MAX - 12);
            json!({ "appData": [round, long] })
        }),
        request("send-message with 16 kB", "send-message", |_, _| json!({ "data": "x".repeat(SAID_BYTES_MAX - 2) })),
        request("send-message to nobody", "send-message", |_, _| json!({ "data": 1, "peerId": "nobody" })),
        request("set-channel", "set-channel", |_, round| json!({ "peersMax": 1_000 + round })),
        request("get-producers", "get-producers", |_, _| Value::Null),
        request("subscribe", "subscribe", |_, _| Value::Null),
    ]
}

pub fn messages() -> Vec<Cost> {
    let mut small = Hall::new(2, 2, false);
    let mut full = Hall::new(60, 20, true);
    let mut costs = Vec::new();
    for (name, ask, after) in requests() {
        let [typical, worst] = [&mut small, &mut full].map(|hall| hall.cost(&ask, &after));
        costs.push(Cost { name, typical, worst });
    }
    // By the byte: whatever it is, it is no longer than a message may be.
    let garbage = ["[".repeat(MESSAGE_BYTES_MAX), format!("\"{}", "\\u0000".repeat(MESSAGE_BYTES_MAX / 6))];
    for (name, text) in ["256 kB of brackets, a kB", "256 kB of escapes, a kB"].into_iter().zip(garbage) {
        let typical =
            small.cost(|hall, _| said("consume", json!({ "producerId": &hall.other, "rtpCapabilities": 1 })), nothing);
        let worst = small.cost(|_, _| text.clone(), nothing) / (text.len() / 1_024) as f64;
        costs.push(Cost { name, typical, worst });
    }
    costs
}
