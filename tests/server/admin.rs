//! The admin API: who may ask, what it shows and what it does, and the event stream.
#![expect(clippy::disallowed_methods, reason = "it waits for real sockets")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weirgate::base::limits::{ADMIN_BODY_BYTES_MAX, ADMIN_PAGE_MAX, EVENT_LISTENERS_MAX};
use weirgate::server::{AuthKeys, Timing};
use weirgate::signal::Origins;
use weirgate::token::Signer;

use super::{Answer, Edge, Socket, WAIT, connect, edge, edge_that_asks};

impl Edge {
    /// On the admin listener, with further headers and a body.
    pub(super) fn call(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let host = if headers.contains("Host:") { "" } else { "Host: localhost\r\n" };
        let head = format!("{method} {path} HTTP/1.1\r\n{host}Connection: close\r\n{headers}{length}\r\n{body}");
        self.raw_at(self.admin, &head)
    }

    pub(super) fn look(&self, path: &str) -> Value {
        let answer = self.call("GET", path, "", "");
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.json()
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> Answer {
        self.call("POST", path, "Content-Type: application/json\r\n", &body.to_string())
    }
}

pub(super) fn opus(ssrc: u32) -> Value {
    json!({
        "codecs": [{ "mimeType": "audio/opus", "payloadType": 111, "clockRate": 48000, "channels": 2 }],
        "encodings": [{ "ssrc": ssrc }],
    })
}

impl Socket {
    /// The reply, after all that comes before it.
    pub(super) fn reply(&mut self, message: &Value) -> Value {
        self.say(message.to_string());
        loop {
            let heard = self.hear();
            if heard["requestId"] == message["requestId"] {
                return heard;
            }
        }
    }

    pub(super) fn id_of(&mut self, kind: &str, data: Value) -> String {
        let reply = self.reply(&json!({ "type": kind, "requestId": 1, "data": data }));
        reply["data"]["id"].as_str().unwrap_or_else(|| panic!("{reply}")).to_owned()
    }
}

/// Anna sends, Berta receives it.
pub(super) struct Call {
    pub(super) anna: Socket,
    pub(super) berta: Socket,
    pub(super) of_anna: String,
    pub(super) of_berta: String,
    pub(super) transport: String,
    pub(super) producer: String,
    pub(super) consumer: String,
}

pub(super) fn call(edge: &Edge, channel: &str) -> Call {
    let (mut anna, mut berta) = (edge.socket("anna", channel), edge.socket("berta", channel));
    let mut ids = [&mut anna, &mut berta].map(|socket| {
        let reply = socket.reply(&json!({ "type": "subscribe", "requestId": 0 }));
        format!("/v1/channels/{channel}/peers/{}", reply["data"]["peerId"].as_str().unwrap())
    });
    let transport = anna.id_of("create-transport", json!({}));
    let producer = anna.id_of("produce", json!({ "kind": "audio", "rtpParameters": opus(7), "appData": { "a": 1 } }));
    berta.id_of("create-transport", json!({}));
    let capabilities = berta.reply(&json!({ "type": "get-rtp-capabilities", "requestId": 2 }))["data"].clone();
    let consumer = berta.id_of("consume", json!({ "producerId": producer, "rtpCapabilities": capabilities }));
    let [of_anna, of_berta] = std::mem::take(&mut ids);
    Call { anna, berta, of_anna, of_berta, transport, producer, consumer }
}

#[test]
fn channels_peers_and_what_they_have_are_shown_with_verdicts_and_statistics() {
    let edge = edge(Timing::default());
    let made = call(&edge, "room");
    let channels = edge.look("/v1/channels");
    assert_eq!(channels, json!({ "channels": [{ "name": "room", "peers": 2, "producers": 1 }], "next": null }));
    let channel = edge.look("/v1/channels/room");
    assert_eq!((&channel["transports"], &channel["consumers"]), (&json!(2), &json!(1)));
    assert_eq!(channel["shards"], json!([{ "shard": 0, "peers": 2 }]));
    let peers = edge.look("/v1/channels/room/peers");
    let users: Vec<&str> =
        peers["peers"].as_array().unwrap().iter().map(|peer| peer["user"].as_str().unwrap()).collect();
    assert_eq!(users, ["anna", "berta"]);
    let anna = edge.look(&made.of_anna);
    assert_eq!((&anna["user"], &anna["shard"], &anna["producers"]), (&json!("anna"), &json!(0), &json!(1)));
    assert_eq!(anna["grants"]["publish"], true);

    let producers = edge.look(&format!("{}/producers", made.of_anna));
    assert_eq!(producers["producers"][0]["id"], json!(made.producer));
    assert!(producers["producers"][0].get("stats").is_none() && producers["producers"][0].get("appData").is_none());
    let producer = edge.look(&format!("{}/producers/{}", made.of_anna, made.producer));
    assert_eq!((&producer["appData"], &producer["stats"]["of"]), (&json!({ "a": 1 }), &json!("producer")));
    let consumers = edge.look(&format!("{}/consumers?stats=true", made.of_berta));
    let consumer = &consumers["consumers"][0];
    assert_eq!((&consumer["id"], &consumer["producerId"]), (&json!(made.consumer), &json!(made.producer)));
    assert!(
        consumer["stats"]["verdict"]["state"].is_string() && consumer["stats"]["id"] == consumer["id"],
        "{consumer}"
    );
    let transport = edge.look(&format!("{}/transports/{}", made.of_anna, made.transport));
    assert_eq!((&transport["state"], &transport["stats"]["of"]), (&json!("new"), &json!("transport")));
}

#[test]
fn a_shard_that_says_nothing_is_not_waited_for_and_does_not_hold_up_the_rest() {
    let edge = edge(Timing::default());
    let made = call(&edge, "room");
    *edge.dead.lock().unwrap() = Some(super::SHARDS[0]);
    let path = format!("{}/producers/{}", made.of_anna, made.producer);
    std::thread::scope(|scope| {
        let late: Vec<_> = (0..20).map(|_| scope.spawn(|| edge.call("GET", &path, "", ""))).collect();
        assert_eq!(edge.look("/v1/channels/room")["peers"], 2);
        for late in late {
            let late = late.join().unwrap();
            assert_eq!((late.status, late.error_code().as_str()), (503, "unavailable"));
            assert!(late.head.contains("retry-after: "));
        }
    });
}

#[test]
fn lists_come_in_pages_that_are_all_of_them_once() {
    let edge = edge(Timing::default());
    let names: Vec<String> = (0..23).map(|n| format!("room {n:02}/%")).collect();
    let _sockets: Vec<Socket> = (0..23).map(|n| edge.socket("anna", &format!("room%20{n:02}%2F%25"))).collect();
    let (mut seen, mut path) = (Vec::new(), "/v1/channels?limit=5".to_owned());
    loop {
        let page = edge.look(&path);
        let listed = page["channels"].as_array().unwrap();
        assert!((1..=5).contains(&listed.len()));
        seen.extend(listed.iter().map(|channel| channel["name"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        let next = next.replace('%', "%25").replace(' ', "+").replace('/', "%2F");
        path = format!("/v1/channels?limit=5&cursor={next}");
    }
    assert_eq!(seen, names);
    assert_eq!(edge.look("/v1/channels/room%2007%2F%25")["name"], "room 07/%");
    let members: Vec<Socket> = (0..7).map(|n| edge.socket(&format!("u{n}"), "hall")).collect();
    let first = edge.look("/v1/channels/hall/peers?limit=4");
    let rest = edge.look(&format!("/v1/channels/hall/peers?limit=4&cursor={}", first["next"].as_str().unwrap()));
    assert_eq!((first["peers"].as_array().unwrap().len(), rest["peers"].as_array().unwrap().len()), (4, 3));
    assert_eq!((rest["peers"][0]["user"].as_str(), rest["next"].as_str()), (Some("u4"), None));
    drop(members);
}

#[test]
fn what_the_operator_closes_is_closed_for_everybody_with_the_reason() {
    let edge = edge(Timing::default());
    let mut made = call(&edge, "room");
    let ends = |path: String| {
        let answer = edge.call("DELETE", &path, "", "");
        assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{path}");
        assert_eq!(edge.call("DELETE", &path, "", "").status, 404, "{path} is gone");
    };
    ends(format!("{}/consumers/{}", made.of_berta, made.consumer));
    let heard = made.berta.hear();
    assert_eq!((&heard["type"], &heard["data"]["reason"]), (&json!("consumer-closed"), &json!("operator")));
    ends(format!("{}/producers/{}", made.of_anna, made.producer));
    let told = |socket: &mut Socket, kind: &str| {
        let heard = std::iter::from_fn(|| Some(socket.hear())).find(|heard| heard["type"] == kind);
        heard.unwrap()["data"]["reason"].clone()
    };
    assert_eq!(told(&mut made.anna, "producer-closed"), "stopped");
    assert_eq!(told(&mut made.berta, "producer-closed"), "stopped");
    ends(format!("{}/transports/{}", made.of_anna, made.transport));
    assert_eq!(told(&mut made.anna, "transport-state"), "operator");
    assert_eq!(edge.open.lock().unwrap().len(), 1, "Berta's is open on the shard");
    ends(made.of_anna.clone());
    assert_eq!(made.anna.close_code(), 4403);
    ends("/v1/channels/room".to_owned());
    assert_eq!(made.berta.close_code(), 4403);
    assert!(edge.open.lock().unwrap().is_empty());
    edge.await_metric("weirgate_signalling_peers", 0.0);
}

#[test]
fn a_large_channel_ends_without_holding_up_another() {
    let edge = edge(Timing::default());
    let mut large: Vec<Socket> = (0..300).map(|n| edge.socket(&format!("u{n}"), "large")).collect();
    large.iter_mut().for_each(|socket| assert_eq!(socket.ask(json!({ "type": "subscribe" }))["type"], "subscribed"));
    let mut other = edge.socket("anna", "small");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let ending = scope.spawn(|| {
            let answer = edge.call("DELETE", "/v1/channels/large", "", "");
            done.store(true, Ordering::Relaxed);
            answer.status
        });
        while !done.load(Ordering::Relaxed) {
            assert_eq!(other.ask(json!({ "type": "ping" }))["type"], "pong");
            // Within the rate of a peer.
            std::thread::sleep(Duration::from_millis(25));
        }
        assert_eq!(ending.join().unwrap(), 204);
    });
    for socket in &mut large {
        assert_eq!(socket.close_code(), 4403);
    }
    assert_eq!(edge.look("/v1/channels")["channels"], json!([{ "name": "small", "peers": 1, "producers": 0 }]));
}

#[test]
fn a_peer_that_is_moved_makes_its_transports_on_the_other_shard() {
    let edge = edge(Timing::default());
    let mut made = call(&edge, "room");
    let path = format!("{}/move", made.of_anna);
    assert_eq!(edge.post(&path, &json!({ "shard": 0 })).error_code(), "wrong-step");
    assert_eq!(edge.post(&path, &json!({ "shard": 9 })).error_code(), "bad-field");
    let moved = edge.post(&path, &json!({ "shard": 1 }));
    assert_eq!((moved.status, moved.json()["shard"].as_u64()), (200, Some(1)));
    let reasons: Vec<Value> = (0..2)
        .map(|_| std::iter::from_fn(|| Some(made.anna.hear())).find(|heard| heard["data"]["reason"].is_string()))
        .map(|heard| heard.unwrap()["data"]["reason"].clone())
        .collect();
    assert_eq!(reasons, ["moved", "moved"], "its producer and its transport");
    made.anna.id_of("create-transport", json!({}));
    assert_eq!(
        edge.look("/v1/channels/room")["shards"],
        json!([{ "shard": 0, "peers": 1 }, { "shard": 1, "peers": 1 }])
    );
    drop(made);
    edge.await_metric("weirgate_signalling_peers", 0.0);
    for shard in 0..2 {
        assert_eq!(edge.metric(&format!("weirgate_shard_expected_load{{shard=\"{shard}\"}}")), 0.0);
    }
}

#[test]
fn what_is_wrong_with_a_request_is_said_with_the_right_status() {
    let edge = edge(Timing { head_wait: Duration::from_millis(300), ..Timing::default() });
    let status = |answer: Answer| (answer.status, answer.error_code());
    let get = |path: &str| status(edge.call("GET", path, "", ""));
    assert_eq!(get("/v1"), (404, "not-found".into()));
    assert_eq!(get("/v1/nothing"), (404, "not-found".into()));
    assert_eq!(get("/v1/channels/none"), (404, "not-found".into()));
    assert_eq!(get("/v1/channels?limit=x"), (400, "bad-field".into()));
    assert_eq!(get(&format!("/v1/channels?limit={}", ADMIN_PAGE_MAX + 1)), (400, "bad-field".into()));
    assert_eq!(get("/v1/channels/%ff"), (400, "bad-field".into()));
    let refused = edge.call("PUT", "/v1/channels/none", "", "");
    assert!(refused.head.contains("allow: get, head, patch, delete\r\n"), "{}", refused.head);
    assert_eq!(status(refused), (405, "method-not-allowed".into()));
    let head = edge.call("HEAD", "/v1/channels", "", "");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert!(head.head.contains("content-length: 27"), "{}", head.head);

    let to = "/v1/channels/none/peers/none/move";
    assert_eq!(status(edge.call("POST", to, "", "{\"shard\":1}")), (415, "unsupported-media-type".into()));
    assert_eq!(
        status(edge.call("POST", to, "Content-Type: text/plain\r\n", "{}")),
        (415, "unsupported-media-type".into())
    );
    let json = "Content-Type: application/json; charset=utf-8\r\n";
    assert_eq!(status(edge.call("POST", to, json, "{\"shard\":")), (400, "bad-json".into()));
    assert_eq!(status(edge.call("POST", to, json, "{\"shard\":1}")), (404, "not-found".into()));
    assert_eq!(status(edge.call("GET", "/v1/channels", "", "{}")), (400, "bad-field".into()));
    let long = " ".repeat(ADMIN_BODY_BYTES_MAX + 1);
    assert_eq!(status(edge.call("POST", to, json, &long)), (413, "body-too-long".into()));
    let chunked = "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n";
    let chunk = format!("{:x}\r\n{long}\r\n0\r\n\r\n", long.len());
    let head = format!("POST {to} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{chunked}\r\n{chunk}");
    assert_eq!(status(edge.raw_at(edge.admin, &head)), (413, "body-too-long".into()));
    let slow =
        format!("POST {to} HTTP/1.1\r\nHost: localhost\r\n{json}Content-Length: 9\r\nConnection: close\r\n\r\n{{");
    assert_eq!(status(edge.raw_at(edge.admin, &slow)), (408, "body-late".into()));
}

#[test]
fn no_page_of_a_browser_drives_it() {
    let edge = edge(Timing::default());
    let _anna = edge.socket("anna", "room");
    let delete = |headers: &str| {
        let answer = edge.call("DELETE", "/v1/channels/room", headers, "");
        (answer.status, answer.error_code())
    };
    for host in ["evil.example", "evil.example:4444", "127.0.0.1.evil.example", ""] {
        assert_eq!(delete(&format!("Host: {host}\r\n")), (403, "host-refused".into()), "{host}");
    }
    for origin in ["https://evil.example", "null", "http://127.0.0.1:4444", "http://localhost"] {
        assert_eq!(delete(&format!("Origin: {origin}\r\n")), (403, "origin-refused".into()), "{origin}");
    }
    for site in ["cross-site", "same-site", "same-origin"] {
        let page = format!("Sec-Fetch-Site: {site}\r\n");
        assert_eq!(delete(&page), (403, "origin-refused".into()), "{site}");
        assert_eq!(edge.call("GET", "/v1/channels", &page, "").status, 403, "{site}");
    }
    let preflight = edge.call("OPTIONS", "/v1/channels/room", "Origin: https://evil.example\r\n", "");
    assert!(preflight.status == 403 && !preflight.head.contains("access-control"), "{}", preflight.head);
    assert_eq!(edge.look("/v1/channels/room")["peers"], 1, "nobody has closed it");
    let public = edge.request("GET", "/v1/channels", "");
    assert_eq!((public.status, public.error_code().as_str()), (404, "not-found"), "on the public listener");
    for host in ["admin.example", "127.0.0.1", "[::1]:1", "Localhost:4444"] {
        assert_eq!(edge.call("GET", "/v1/channels", &format!("Host: {host}\r\n"), "").status, 200, "{host}");
    }
}

/// A stream of events.
pub(super) struct Listener(BufReader<TcpStream>);

impl Listener {
    pub(super) fn open(edge: &Edge, path: &str, headers: &str) -> Listener {
        Listener::open_at(edge.admin, path, headers)
    }

    fn open_at(address: std::net::SocketAddr, path: &str, headers: &str) -> Listener {
        let mut stream = connect(address);
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n").unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
        }
        let head = head.to_lowercase();
        assert!(head.starts_with("http/1.1 200") && head.contains("content-type: text/event-stream"), "{head}");
        Listener(reader)
    }

    /// One line of the stream, chunks undone. None: it has ended.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.0.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let text = line.trim_end();
            let is_size = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            if text == "0" {
                return None;
            }
            if !is_size && !text.is_empty() {
                return Some(text.to_owned());
            }
        }
    }

    /// The next event: id, type, data.
    pub(super) fn next(&mut self) -> Option<(String, String, Value)> {
        let (mut id, mut kind) = (String::new(), String::new());
        loop {
            let line = self.line()?;
            if let Some(rest) = line.strip_prefix("id: ") {
                id = rest.to_owned();
            } else if let Some(rest) = line.strip_prefix("event: ") {
                kind = rest.to_owned();
            } else if let Some(rest) = line.strip_prefix("data: ") {
                return Some((id, kind, serde_json::from_str(rest).unwrap()));
            }
        }
    }
}

#[test]
fn what_happens_is_streamed_as_it_happens() {
    let edge = edge(Timing::default());
    let mut all = Listener::open(&edge, "/v1/events", "");
    let mut other = Listener::open(&edge, "/v1/events?channel=other", "");
    edge.await_metric("weirgate_event_listeners", 2.0);
    let mut made = call(&edge, "room");
    made.anna.reply(&json!({ "type": "close-transport", "requestId": 5, "data": { "transportId": made.transport } }));
    made.anna.0.close(None).unwrap();
    drop(made.berta);
    let mut seen = Vec::new();
    while seen.last().is_none_or(|last| last != "channel.ended") {
        let (_, kind, data) = all.next().unwrap();
        assert_eq!((data["type"].as_str(), data["data"]["channel"].as_str()), (Some(kind.as_str()), Some("room")));
        assert!(data["timestamp"].as_str().unwrap().ends_with('Z'));
        seen.push(kind);
    }
    let expected = [
        "channel.started",
        "peer.joined",
        "peer.joined",
        "transport.created",
        "producer.created",
        "transport.created",
        "consumer.created",
        "transport.closed",
        "consumer.closed",
        "producer.closed",
        "peer.left",
        "transport.closed",
        "peer.left",
        "channel.ended",
    ];
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names
    };
    assert_eq!(sorted(seen.clone()), sorted(expected.map(str::to_owned).into()), "{seen:?}");
    assert_eq!(seen[..7], expected[..7]);
    drop(edge.socket("carla", "other"));
    let kinds: Vec<String> = (0..4).map(|_| other.next().unwrap().1).collect();
    assert_eq!(kinds, ["channel.started", "peer.joined", "peer.left", "channel.ended"], "of that channel alone");
}

#[test]
fn who_comes_back_hears_what_it_missed_and_the_end_is_an_end() {
    let edge = edge(Timing { connection_max: Duration::from_millis(200), ..Timing::default() });
    let mut listener = Listener::open(&edge, "/v1/events", "");
    edge.await_metric("weirgate_event_listeners", 1.0);
    std::thread::sleep(Duration::from_millis(500));
    let anna = edge.socket("anna", "room");
    let heard: Vec<_> = (0..2).map(|_| listener.next().expect("it lasts longer than other answers")).collect();
    drop(listener);
    drop(anna);
    edge.await_metric("weirgate_signalling_peers", 0.0);
    let last = format!("Last-Event-ID: {}\r\n", heard[0].0);
    let mut again = Listener::open(&edge, "/v1/events", &last);
    assert_eq!(again.next().as_ref(), Some(&heard[1]), "the same as it was");
    assert_eq!([again.next().unwrap().1, again.next().unwrap().1], ["peer.left", "channel.ended"]);
    let mut lost = Listener::open(&edge, "/v1/events", "Last-Event-ID: 1-1\r\n");
    let (_, kind, data) = lost.next().unwrap();
    assert_eq!((kind.as_str(), data), ("missed", json!({ "missed": null })));
    let _more: Vec<Listener> = (2..EVENT_LISTENERS_MAX).map(|_| Listener::open(&edge, "/v1/events", "")).collect();
    let refused = edge.call("GET", "/v1/events", "", "");
    assert_eq!((refused.status, refused.error_code().as_str()), (503, "busy"));
    assert_eq!(edge.call("HEAD", "/v1/events", "", "").status, 200, "which listens to nothing");
    let stopping = std::thread::spawn(move || edge.server.stop());
    assert!(again.next().is_none() && lost.next().is_none());
    stopping.join().unwrap().unwrap();
}

#[test]
fn who_reads_no_events_is_let_go_and_costs_the_others_nothing() {
    let edge = edge(Timing::default());
    let mut reads = Listener::open(&edge, "/v1/events", "");
    let mut deaf = Listener::open(&edge, "/v1/events", "");
    let mut chatty = edge.socket("anna", "room");
    let mut alive = true;
    let start = Instant::now();
    let mut rounds = 0;
    let heard = std::thread::spawn(move || {
        let mut last = 0;
        while let Some((id, kind, _)) = reads.next() {
            assert_ne!(kind, "missed");
            let number: u64 = id.split('-').nth(1).unwrap().parse().unwrap();
            assert!(last == 0 || number == last + 1, "{number} after {last}");
            last = number;
        }
        last
    });
    while alive && start.elapsed() < 20 * WAIT {
        for _ in 0..50 {
            let transport = chatty.id_of("create-transport", json!({}));
            let close = json!({ "type": "close-transport", "requestId": 3, "data": { "transportId": transport } });
            chatty.reply(&close);
        }
        rounds += 1;
        // Other users share the rate that one may have.
        chatty = edge.socket(&format!("u{rounds}"), "room");
        alive = edge.metric("weirgate_event_listeners") == 2.0;
    }
    assert!(!alive, "{rounds}");
    let mut rest = Vec::new();
    let _ = deaf.0.read_to_end(&mut rest);
    edge.server.stop().unwrap();
    assert!(heard.join().unwrap() > 16_000);
}

fn patch(edge: &Edge, path: &str, body: &Value) -> Answer {
    edge.call("PATCH", path, "Content-Type: application/json\r\n", &body.to_string())
}

/// The first of this type that a socket hears.
fn heard(socket: &mut Socket, kind: &str) -> Value {
    std::iter::from_fn(|| Some(socket.hear())).find(|heard| heard["type"] == kind).unwrap()["data"].clone()
}

#[test]
fn the_operator_mutes_speaks_renames_and_takes_rights() {
    let edge = edge(Timing::default());
    let mut made = call(&edge, "room");
    let producer = format!("{}/producers/{}", made.of_anna, made.producer);
    assert_eq!(patch(&edge, &producer, &json!({ "muted": true })).status, 204);
    assert_eq!(heard(&mut made.anna, "producer-muted")["by"], "operator");
    assert_eq!(heard(&mut made.berta, "producer-paused")["muted"], true);
    assert_eq!(edge.look(&format!("{}/producers", made.of_anna))["producers"][0]["muted"], true);
    assert_eq!(edge.post(&format!("{}/unmute", made.of_anna), &json!({ "kinds": ["audio"] })).status, 204);
    assert_eq!(heard(&mut made.anna, "producer-unmuted")["by"], "operator");
    assert_eq!(edge.post("/v1/channels/room/messages", &json!({ "data": ["all"] })).status, 204);
    assert_eq!(edge.post(&format!("{}/messages", made.of_berta), &json!({ "data": 7 })).status, 204);
    assert_eq!(heard(&mut made.anna, "message"), json!({ "from": "operator", "data": ["all"] }));
    let told: Vec<Value> = (0..2).map(|_| heard(&mut made.berta, "message")["data"].clone()).collect();
    assert_eq!(told, [json!(["all"]), json!(7)]);

    let change = json!({ "name": "Anna B.", "appData": { "hand": true }, "grants": { "publish": false } });
    let changed = patch(&edge, &made.of_anna, &change).json();
    assert_eq!((&changed["name"], &changed["appData"]), (&json!("Anna B."), &json!({ "hand": true })));
    assert_eq!(
        changed["grants"],
        json!({
            "join": true, "publish": false, "subscribe": true, "moderate": false, "hidden": false
        })
    );
    assert_eq!(edge.look(&format!("{}/producers", made.of_anna))["producers"], json!([]), "she may not publish");
    let fault = |path: &str, body: Value| {
        let answer = patch(&edge, path, &body);
        (answer.status, answer.json()["error"]["message"].as_str().unwrap().split(':').next().unwrap().to_owned())
    };
    assert_eq!(fault(&made.of_anna, json!({})), (400, "body".into()));
    assert_eq!(fault(&made.of_anna, json!({ "name": "a\nb" })), (400, "body.name".into()));
    assert_eq!(
        fault(&made.of_anna, json!({ "name": "Anna", "grants": { "sing": true } })),
        (400, "body.grants".into())
    );
    assert_eq!(edge.look(&made.of_anna)["name"], "Anna B.", "all of it or nothing");
    assert_eq!(fault(&made.of_anna, json!({ "role": 1 })), (400, "body.role".into()));
    assert_eq!(fault("/v1/channels/room", json!({ "locked": 1 })), (400, "body.locked".into()));
    assert_eq!(patch(&edge, "/v1/channels/none", &json!({ "locked": true })).status, 404);
}

#[test]
fn the_operator_removes_bans_locks_and_lets_in() {
    let edge = edge(Timing::default());
    let mut made = call(&edge, "room");
    let answer = edge.call("DELETE", &format!("{}?reason=be+kind&banSeconds=60", made.of_anna), "", "");
    assert_eq!(answer.status, 204, "{}", answer.body);
    let told = heard(&mut made.anna, "error");
    assert_eq!(told["code"], "banned");
    assert!(told["message"].as_str().unwrap().ends_with(": be kind"), "{told}");
    assert_eq!(made.anna.close_code(), 4403);
    let bans = edge.look("/v1/channels/room/bans");
    assert_eq!(bans["bans"][0]["user"], "anna");
    assert!((1..=60).contains(&bans["bans"][0]["secondsLeft"].as_u64().unwrap()), "{bans}");
    let lift = || edge.call("DELETE", "/v1/channels/room/bans/anna", "", "").status;
    assert_eq!((lift(), lift()), (204, 404));
    let fault = |query: &str| {
        let answer = edge.call("DELETE", &format!("{}{query}", made.of_berta), "", "");
        (answer.status, answer.json()["error"]["message"].as_str().unwrap().split(':').next().unwrap().to_owned())
    };
    assert_eq!(fault("?banSeconds=x"), (400, "query.banSeconds".into()));
    assert_eq!(fault("?banSeconds=0"), (400, "query.banSeconds".into()));
    assert_eq!(fault("?because=x"), (400, "query.because".into()));

    let locked = patch(&edge, "/v1/channels/room", &json!({ "locked": true, "waiting": true, "peersMax": 9 })).json();
    assert_eq!([&locked["locked"], &locked["waiting"], &locked["peersMax"]], [&json!(true), &json!(true), &json!(9)]);
    let mut comers = [edge.socket("carla", "room"), edge.socket("dora", "room")];
    let ids: Vec<Value> = comers.iter_mut().map(|comer| heard(comer, "waiting")["peerId"].clone()).collect();
    let listed = edge.look("/v1/channels/room/waiting?limit=1");
    assert_eq!((&listed["peers"][0]["id"], listed["next"].is_string()), (&ids[0], true));
    let of = |id: &Value| format!("/v1/channels/room/waiting/{}", id.as_str().unwrap());
    assert_eq!(edge.post(&format!("{}/admit", of(&ids[0])), &json!({})).status, 204);
    heard(&mut comers[0], "admitted");
    assert_eq!(edge.call("DELETE", &format!("{}?reason=no+room", of(&ids[1])), "", "").status, 204);
    assert!(heard(&mut comers[1], "error")["message"].as_str().unwrap().contains("no room"));
    assert_eq!(edge.call("DELETE", &of(&ids[1]), "", "").status, 404);
    let channel = edge.look("/v1/channels/room");
    assert_eq!((&channel["peers"], &channel["peersWaiting"]), (&json!(2), &json!(0)));
}

/// Requests that the public listener answers within this time, one after the other on one connection.
fn answered_within(edge: &Edge, span: Duration) -> usize {
    let mut stream = BufReader::new(connect(edge.address));
    let (start, mut answered) = (Instant::now(), 0);
    while start.elapsed() < span {
        // No path of the server's, so that no shard is asked.
        stream.get_mut().write_all(b"GET /nothing HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
        let (mut line, mut length) = (String::new(), 0);
        while line != "\r\n" {
            line.clear();
            stream.read_line(&mut line).unwrap();
            let stated = line.to_lowercase().strip_prefix("content-length: ").map(|rest| rest.trim().parse().unwrap());
            length = stated.unwrap_or(length);
        }
        stream.read_exact(&mut vec![0; length]).unwrap();
        answered += 1;
    }
    answered
}

/// The requests that others have answered in a second, alone and beside readers without end.
fn beside_readers(edge: &Edge) -> (usize, usize) {
    let span = Duration::from_secs(1);
    let alone = answered_within(edge, span);
    let done = AtomicBool::new(false);
    let beside = std::thread::scope(|scope| {
        let reader = |channel: usize| {
            let (edge, done) = (&edge, &done);
            move || {
                let mut read = 0;
                while !done.load(Ordering::Relaxed) {
                    let path = format!("/v1/channels/c{channel}/peers?limit={ADMIN_PAGE_MAX}");
                    read += edge.call("GET", &path, "", "").body.len();
                }
                read
            }
        };
        let readers: Vec<_> = (0..3).map(|channel| scope.spawn(reader(channel))).collect();
        let beside = answered_within(edge, span);
        done.store(true, Ordering::Relaxed);
        assert!(readers.into_iter().map(|reader| reader.join().unwrap()).sum::<usize>() > 0);
        beside
    });
    (alone, beside)
}

#[test]
fn who_reads_all_of_it_without_end_leaves_the_thread_to_the_others() {
    let edge = edge(Timing::default());
    let _sockets: Vec<Socket> = (0..600).map(|n| edge.socket(&format!("u{n}"), &format!("c{}", n % 3))).collect();
    // Another program may take the machine's time in either second.
    let rounds: Vec<(usize, usize)> = (0..3).map(|_| beside_readers(&edge)).collect();
    assert!(rounds.iter().any(|(alone, beside)| beside * 2 > *alone), "alone and beside readers: {rounds:?}");
}

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

/// An edge that lets nobody in without a token.
pub(super) fn edge_of_tokens() -> Edge {
    let path = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("admin-key-{}", std::process::id()));
    std::fs::write(&path, SECRET).unwrap();
    let keys = AuthKeys::load(vec![path], Duration::from_secs(5)).map_err(|fault| fault.what).unwrap();
    edge_that_asks(Timing::default(), Origins::default(), None, None, Some(keys))
}

fn signed(claims: Value) -> String {
    let header = json!({ "alg": "HS256", "typ": "JWT" });
    Signer::read(SECRET).unwrap().sign(&header, &claims, &ring::rand::SystemRandom::new()).unwrap()
}

fn bearer(claims: Value) -> String {
    format!("Authorization: Bearer {}\r\n", signed(claims))
}

/// Seconds since 1970, so much later.
fn later(seconds: u64) -> u64 {
    #[expect(clippy::disallowed_methods, reason = "tokens end by the wall clock")]
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + seconds
}

#[test]
fn a_token_for_it_opens_it_on_the_public_listener() {
    let edge = edge_of_tokens();
    let everyday = json!({ "join": true, "publish": true, "subscribe": true });
    let of_anna = json!({ "sub": "anna", "channel": "*", "grants": everyday, "exp": later(600), "jti": "a1" });
    let boss = json!({ "sub": "boss", "admin": true, "exp": later(600) });
    let mut anna = edge.socket(&signed(of_anna.clone()), "room");
    let ask = |headers: &str| edge.request("GET", "/v1/channels/room", headers);
    let shown = ask(&bearer(boss.clone()));
    assert_eq!((shown.status, shown.json()["peers"].as_u64()), (200, Some(1)));
    // An API for programs may be asked from anywhere; the page of another origin is told by no header that it may read.
    let page = ask(&format!("{}Origin: https://dashboard.example\r\n", bearer(boss.clone())));
    assert!(page.status == 200 && !page.head.contains("access-control"), "{}", page.head);
    let with = |name: &str, value: Value| {
        let mut claims = boss.clone();
        claims[name] = value;
        bearer(claims)
    };
    let mut forged = bearer(boss.clone());
    forged.replace_range(forged.len() - 6..forged.len() - 4, "__");
    for (headers, status, code) in [
        (String::new(), 401, "unauthorized"),
        ("Authorization: Basic Ym9zczpib3Nz\r\n".to_owned(), 401, "unauthorized"),
        ("Authorization: Bearer\r\n".to_owned(), 401, "unauthorized"),
        (forged, 401, "unauthorized"),
        (with("exp", json!(1)), 401, "expired"),
        (with("admin", json!("true")), 401, "unauthorized"),
        (with("admin", json!(false)), 401, "unauthorized"),
        (bearer(of_anna), 403, "forbidden"),
    ] {
        let refused = ask(&headers);
        assert_eq!((refused.status, refused.error_code().as_str()), (status, code), "{headers}");
    }
    // It opens no channel.
    assert_eq!(edge.enter(&format!("auth={}&channelId=room", signed(boss.clone())), "").0.turned_away().1, 4403);

    let mut guest = Listener::open_at(edge.address, "/v1/events", &with("jti", json!("b1")));
    let mut short = Listener::open_at(edge.address, "/v1/events", &with("exp", json!(later(0))));
    let revoke = |body: Value| {
        let headers = format!("{}Content-Type: application/json\r\n", bearer(boss.clone()));
        let body = body.to_string();
        let length = format!("Content-Length: {}\r\n", body.len());
        let head = "POST /v1/revocations HTTP/1.1\r\nHost: a\r\nConnection: close\r\n";
        edge.raw(&format!("{head}{headers}{length}\r\n{body}"))
    };
    assert_eq!(revoke(json!({ "jti": "a1", "seconds": 60 })).json(), json!({ "peers": 1 }));
    assert_eq!(anna.turned_away(), ("unauthorized".to_owned(), 4401));
    while guest.next().is_some() {}
    assert_eq!(revoke(json!({ "jti": "b1", "seconds": 60 })).json(), json!({ "peers": 0 }));
    assert_eq!(ask(&with("jti", json!("b1"))).status, 401);
    for bad in [
        json!({ "seconds": 1 }),
        json!({ "jti": "a", "user": "b", "seconds": 1 }),
        json!({ "jti": "" , "seconds": 1 }),
        json!({ "user": "b", "seconds": 0 }),
        json!({ "user": "b" }),
    ] {
        assert_eq!(revoke(bad.clone()).status, 400, "{bad}");
    }
    let start = Instant::now();
    while short.next().is_some() {}
    assert!(start.elapsed() < WAIT, "it ends with its token, and the leeway");
    assert_eq!(revoke(json!({ "user": "boss", "seconds": 60 })).status, 200, "by itself");
    assert_eq!(ask(&bearer(boss.clone())).status, 401);
}

#[test]
fn without_tokens_the_public_listener_knows_nothing_of_it() {
    let edge = edge(Timing::default());
    let refused = edge.request("GET", "/v1/channels", &bearer(json!({ "sub": "a", "admin": true, "exp": later(9) })));
    assert_eq!((refused.status, refused.error_code().as_str()), (404, "not-found"));
    assert!(refused.body.contains("--admin-listen"), "{}", refused.body);
}
