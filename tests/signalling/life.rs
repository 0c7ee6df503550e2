//! The log lines about peers, from a hub whose shards are scripted.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Once};

use serde_json::{Value, json};
use tracing_subscriber::filter::dynamic_filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use weirgate::base::buffer::{LocalIndex, Path};
use weirgate::base::id::{ShardId, TransportId};
use weirgate::base::time::Duration;
use weirgate::shard::command::{Closed, Connected, Event, HandshakeReport, Totals, TransportState, VerdictState};
use weirgate::signal::{Hub, LogSettings, PEER_LOG};

use crate::world::{CLIENTS, World, connect, settings};

/// Lines as JSON objects.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Log;

    fn make_writer(&'a self) -> Log {
        self.clone()
    }
}

impl Log {
    /// All lines so far, taken out; every one is under the one target.
    fn lines(&self) -> Vec<Value> {
        let text = String::from_utf8(std::mem::take(&mut self.0.lock().unwrap())).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
        assert!(lines.iter().all(|line| line["target"] == PEER_LOG && line["level"] == "INFO"), "{text}");
        lines
    }

    fn messages(&self) -> Vec<String> {
        self.lines().iter().map(|line| line["message"].as_str().unwrap().to_owned()).collect()
    }
}

/// A callsite that is met first while a thread without a subscriber registers it can stay off for all the others.
fn keep_callsites_on() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let nobody = tracing_subscriber::registry().with(dynamic_filter_fn(|_, _| false));
        tracing::subscriber::set_global_default(nobody).expect("no other test of this program sets one");
    });
}

fn logged(addresses: bool, test: impl FnOnce(&mut World, &Log)) {
    keep_callsites_on();
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().json().flatten_event(true).with_writer(log.clone()).finish();
    tracing::subscriber::with_default(subscriber, || {
        let mut world = World::new(1);
        let local = vec![(ShardId(0), vec![at("192.0.2.9:40000"), at("[2001:db8::9]:40000")])];
        world.hub = Hub::new(weirgate::signal::HubSettings { log: LogSettings { addresses, local }, ..settings(1) });
        test(&mut world, &log);
    });
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn report(handshake: u64) -> Box<Connected> {
    let path = Path::udp(LocalIndex(1), at("[2001:db8::7]:5004"));
    let (suite, took) = ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", Duration::from_millis(handshake));
    Box::new(Connected { path, handshake: Some(HandshakeReport { suite, took }), srtp: Some("AEAD_AES_128_GCM") })
}

fn totals(packets: u64, worst: Option<(VerdictState, u64)>) -> Box<Totals> {
    let worst = worst.map(|(verdict, seconds)| (verdict, Duration::from_secs(seconds)));
    let (bytes_received, bytes_sent) = (100 * packets, 200 * packets);
    let (packets_received, packets_sent, lost_received, lost_sent) = (packets, 2 * packets, 3, -1);
    Box::new(Totals { bytes_received, packets_received, bytes_sent, packets_sent, lost_received, lost_sent, worst })
}

fn wait(world: &mut World, millis: u64) {
    world.now = world.now + Duration::from_millis(millis);
    while world.hub.poll_timeout().is_some_and(|due| due <= world.now) {
        world.hub.handle_timeout(world.now);
    }
    world.drain();
}

/// A handshake that ends 300 ms after the first check, which comes 100 ms after the announcement.
fn connected(world: &mut World, transport: TransportId) {
    wait(world, 100);
    world.event(Event::TransportState { transport, state: TransportState::Connecting });
    wait(world, 300);
    world.event(Event::TransportState { transport, state: TransportState::Connected });
    world.event(Event::TransportConnected { transport, report: report(280) });
}

#[test]
fn a_life_is_three_lines() {
    logged(true, |world, log| {
        let anna = world.join("anna", "room");
        let joined = log.lines().remove(0);
        assert_eq!(
            (&joined["message"], &joined["user"], &joined["channel"]),
            (&json!("joined"), &json!("anna"), &json!("room"))
        );
        assert_eq!(joined["remote"], CLIENTS.to_string());
        let peer = joined["peer"].clone();
        assert_eq!(peer.as_str().unwrap().len(), 36);

        let (external, transport) = world.create(anna, Value::Null);
        world.get(anna, "connect-transport", connect(), "transport-connected");
        connected(world, transport);
        assert!(log.lines().is_empty(), "it waits for the first packets");
        wait(world, 50);
        world.event(Event::FirstPacket { transport, incoming: true });
        wait(world, 50);
        world.event(Event::FirstPacket { transport, incoming: false });
        let line = log.lines().remove(0);
        let expected = json!({
            "message": "connected", "channel": "room", "user": "anna", "peer": peer, "transport": external,
            "local": "[2001:db8::9]:40000", "remote": "[2001:db8::7]:5004",
            "dtls": "DTLS 1.2 TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "srtp": "AEAD_AES_128_GCM",
            "announced_ms": 20, "checked_ms": 120, "connected_ms": 420, "handshake_ms": 280,
            "first_in_ms": 470, "first_out_ms": 520,
        });
        for (field, value) in expected.as_object().unwrap() {
            assert_eq!(&line[field], value, "{field} of {line}");
        }

        wait(world, 60_000);
        world.hub.leave(world.now, anna, "silent");
        world.drain();
        assert!(log.lines().is_empty(), "it waits for what the shard has counted");
        world.event(Event::TransportEnded { transport, totals: totals(10, Some((VerdictState::NoBandwidth, 7))) });
        let line = log.lines().remove(0);
        let expected = json!({
            "message": "left", "channel": "room", "user": "anna", "peer": peer, "why": "silent", "seconds": 60,
            "transports": 1, "connected": 1, "bytes_in": 1000, "bytes_out": 2000, "packets_in": 10, "packets_out": 20,
            "lost_in": 3, "lost_out": -1, "refused": 0, "worst": "no-bandwidth", "worst_seconds": 7,
        });
        for (field, value) in expected.as_object().unwrap() {
            assert_eq!(&line[field], value, "{field} of {line}");
        }
        wait(world, 60_000);
        assert!(log.lines().is_empty() && world.hub.poll_timeout().is_none(), "nothing waits any more");
    });
}

#[test]
fn transports_of_one_peer_are_summed_whenever_they_end() {
    logged(true, |world, log| {
        let anna = world.join("anna", "room");
        let (first, one) = world.create(anna, Value::Null);
        let (_, two) = world.create(anna, Value::Null);
        world.get(anna, "close-transport", json!({ "transportId": first }), "ok");
        world.event(Event::TransportEnded { transport: one, totals: totals(1, Some((VerdictState::NoPackets, 9))) });
        world.leave(anna);
        world.event(Event::TransportEnded { transport: two, totals: totals(2, Some((VerdictState::NoBandwidth, 2))) });
        let line = log.lines().pop().unwrap();
        assert_eq!((&line["message"], &line["transports"], &line["connected"]), (&json!("left"), &json!(2), &json!(0)));
        assert_eq!((&line["packets_in"], &line["worst"]), (&json!(3), &json!("no-packets-from-producer")));
    });
}

#[test]
fn no_line_waits_for_ever() {
    logged(true, |world, log| {
        // No packet ever comes.
        let anna = world.join("anna", "room");
        let (_, transport) = world.create(anna, Value::Null);
        world.get(anna, "connect-transport", connect(), "transport-connected");
        connected(world, transport);
        wait(world, 2_000);
        let line = log.lines().pop().unwrap();
        assert_eq!((&line["message"], &line["first_in_ms"]), (&json!("connected"), &Value::Null));
        // The shard is gone.
        world.leave(anna);
        assert!(log.lines().is_empty());
        wait(world, 2_000);
        assert_eq!(log.messages(), ["left"]);
        world.event(Event::TransportEnded { transport, totals: totals(1, None) });
        assert!(log.lines().is_empty(), "once is enough");

        // A client that leaves before the line of its connection is due has it all the same, and before the last one.
        let berta = world.join("berta", "room");
        let (_, transport) = world.create(berta, Value::Null);
        connected(world, transport);
        world.leave(berta);
        world.event(Event::TransportEnded { transport, totals: totals(1, None) });
        assert_eq!(log.messages(), ["joined", "connected", "left"]);

        // The process ends.
        let carla = world.join("carla", "room");
        world.create(carla, Value::Null);
        world.leave(carla);
        world.hub.end_log(world.now);
        assert_eq!(log.messages(), ["joined", "left"]);
    });
}

#[test]
fn what_goes_wrong_on_the_way_has_a_line_each() {
    logged(true, |world, log| {
        let anna = world.join("anna", "room");
        let (external, transport) = world.create(anna, Value::Null);
        let mut named = connect();
        named["transportId"] = json!(external);
        world.get(anna, "connect-transport", named, "transport-connected");
        log.lines();
        wait(world, 10_000);
        let line = log.lines().remove(0);
        assert!(line["message"].as_str().unwrap().starts_with("no check came"), "{line}");
        assert_eq!((&line["transport"], &line["waited_ms"]), (&json!(external), &json!(10_000)));

        world.event(Event::TransportState { transport, state: TransportState::Connecting });
        let why = "the certificate is not the one that connect-transport announced".to_owned();
        world.event(Event::HandshakeFailed { transport, why: why.clone() });
        world.event(Event::TransportState { transport, state: TransportState::Failed });
        let line = log.lines().remove(0);
        assert_eq!(
            (&line["message"], &line["why"], &line["transport"]),
            (&json!("handshake refused"), &json!(why), &json!(external))
        );

        world.event(Event::TransportState { transport, state: TransportState::Disconnected });
        assert!(log.messages()[0].starts_with("fell silent"));
    });
}

#[test]
fn without_a_name_the_checks_of_as_many_transports_as_were_announced_are_awaited() {
    logged(true, |world, log| {
        let anna = world.join("anna", "room");
        let (_, first) = world.create(anna, Value::Null);
        world.create(anna, Value::Null);
        // mediasoup-client connects what it receives on only when there is something to receive.
        world.get(anna, "connect-transport", connect(), "transport-connected");
        connected(world, first);
        wait(world, 60_000);
        assert_eq!(log.messages(), ["joined", "connected"], "the other was never announced");
        world.get(anna, "connect-transport", connect(), "transport-connected");
        wait(world, 10_000);
        assert!(log.messages().remove(0).starts_with("no check came"));
    });
}

#[test]
fn a_limit_has_a_line_for_each_peer_and_a_number() {
    logged(true, |world, log| {
        let anna = world.join("anna", "room");
        for _ in 0..20 {
            world.say(anna, "create-transport", Value::Null);
        }
        let lines = log.lines();
        assert_eq!(lines.len(), 2, "joined, and one refusal");
        assert_eq!(lines[1]["message"], "refused by a limit");
        assert!(lines[1]["why"].as_str().unwrap().contains("transports a peer"), "{}", lines[1]);
        world.leave(anna);
        wait(world, 2_000);
        assert_eq!(log.lines()[0]["refused"], 4);

        let berta = world.join("berta", "room");
        let (external, transport) = world.create(berta, Value::Null);
        world.event(Event::TransportClosed { transport, why: Closed::Limit("transports per shard") });
        let line = log.lines().pop().unwrap();
        assert_eq!((&line["why"], &line["transport"]), (&json!("transports per shard"), &json!(external)));
        world.leave(berta);
        assert_eq!(log.messages(), ["left"], "its shard never had the transport");
    });
}

#[test]
fn addresses_can_be_left_out() {
    logged(false, |world, log| {
        let anna = world.join("anna", "room");
        let (_, transport) = world.create(anna, Value::Null);
        world.get(anna, "connect-transport", connect(), "transport-connected");
        connected(world, transport);
        world.leave(anna);
        wait(world, 2_000);
        let lines = log.lines();
        assert_eq!(lines.len(), 3);
        let text = format!("{lines:?}");
        assert!(!text.contains(&CLIENTS.to_string()) && !text.contains("2001:db8::7"), "{text}");
        assert!(text.contains("2001:db8::9"), "our own may stand there: {text}");
    });
}

#[test]
fn names_are_escaped() {
    logged(true, |world, log| {
        world.join("a\u{202e}b INFO left", "caf\u{e9} \"x\"");
        let line = log.lines().remove(0);
        assert_eq!(line["user"], "a\\u{202e}b INFO left");
        assert_eq!(line["channel"], "caf\u{e9} \"x\"");
    });
}

#[test]
fn a_flood_of_peers_fills_no_disk() {
    logged(true, |world, log| {
        for n in 0..10_000 {
            let session = world.join(&format!("user-{n}"), "room");
            world.leave(session);
        }
        let flood = log.lines().len();
        assert!((1_000..=5_000).contains(&flood), "{flood}");
        wait(world, 1_000);
        world.join("anna", "room");
        let lines = log.lines();
        assert_eq!(lines[0]["left_out"], 20_000 - flood);
        assert_eq!(lines[1]["message"], "joined");
    });
}
