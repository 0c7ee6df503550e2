//! The control edge through real sockets: HTTP, WebSocket, metrics and its end, with a stand-in for the shards that
//! answers as they would. `tests/program.rs` runs the whole binary.
#![cfg(feature = "edge")]

#[path = "server/admin.rs"]
mod admin;
#[path = "server/entry.rs"]
mod entry;
#[path = "server/hostile.rs"]
mod hostile;
#[path = "server/openapi.rs"]
mod openapi;
#[path = "server/tls.rs"]
mod tls;
#[path = "server/webhooks.rs"]
mod webhooks;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tungstenite::{Message, WebSocket};
use weirgate::base::id::{ShardId, ShardLabel, TransportId};
use weirgate::base::limits::{ADMIN_CONNECTIONS_MAX, MESSAGE_BYTES_MAX};
use weirgate::server::{AuthKeys, Certificates, Server, Settings, Timing, Tower, Webhooks, start};
use weirgate::shard::command::{Command, Event, Metrics, ProducerStats, Reply, Stats, StatsOf, VerdictState};
use weirgate::signal::{Candidate, HubSettings, Origin, Origins};

const SHARDS: [ShardId; 2] = [ShardId(0), ShardId(1)];
const WAIT: Duration = Duration::from_secs(10);

/// Keeps the objects that are open on the shards, and answers as they would.
struct Standin {
    open: Arc<Mutex<BTreeSet<TransportId>>>,
    dead: Arc<Mutex<Option<ShardId>>>,
    first_load: Arc<AtomicU32>,
    /// How long the next command blocks signalling, which no tower may do.
    stall: Arc<Mutex<Duration>>,
    events: UnboundedSender<(ShardId, Event)>,
}

impl Tower for Standin {
    fn send(&self, shard: ShardId, command: Command) {
        std::thread::sleep(std::mem::take(&mut *self.stall.lock().unwrap()));
        if *self.dead.lock().unwrap() == Some(shard) {
            return;
        }
        match command {
            Command::CreateTransport { transport, .. } => assert!(self.open.lock().unwrap().insert(transport)),
            Command::CloseTransport { transport } => assert!(self.open.lock().unwrap().remove(&transport)),
            Command::GetMetrics { request } => {
                let metrics = Metrics {
                    counters: vec![("sent_packets", "Datagrams sent", 5 + u64::from(shard.0))],
                    gauges: vec![("paths", "Remote addresses that passed a check", -1)],
                    histograms: vec![],
                    verdicts: VerdictState::ALL.map(|state| (state, 2)).to_vec(),
                    drops: vec![("replayed", 0), ("unknown-ssrc", 3)],
                };
                let reply = Reply::Metrics(Box::new(metrics));
                self.events.send((shard, Event::Answer { request, reply })).unwrap();
            }
            Command::GetStats { request, of } => {
                let stats = match of {
                    StatsOf::Transport(_) => Stats::Transport(Default::default()),
                    StatsOf::Producer(_) => {
                        Stats::Producer(ProducerStats { encodings: vec![Default::default()], ..Default::default() })
                    }
                    StatsOf::Consumer(_) => Stats::Consumer(Default::default()),
                };
                let reply = Reply::Stats(Some(stats));
                self.events.send((shard, Event::Answer { request, reply })).unwrap();
            }
            _ => {}
        }
    }

    fn load_permille(&self, shard: ShardId) -> u32 {
        if shard == SHARDS[0] { self.first_load.load(Ordering::Relaxed) } else { 0 }
    }
}

struct Edge {
    server: Server,
    address: SocketAddr,
    admin: SocketAddr,
    open: Arc<Mutex<BTreeSet<TransportId>>>,
    dead: Arc<Mutex<Option<ShardId>>>,
    first_load: Arc<AtomicU32>,
    stall: Arc<Mutex<Duration>>,
}

fn edge(timing: Timing) -> Edge {
    edge_for(timing, Origins::default())
}

fn edge_for(timing: Timing, origins: Origins) -> Edge {
    edge_with(timing, origins, None)
}

fn edge_with(timing: Timing, origins: Origins, tls: Option<Certificates>) -> Edge {
    edge_of(timing, origins, tls, None)
}

fn edge_of(timing: Timing, origins: Origins, tls: Option<Certificates>, webhooks: Option<Webhooks>) -> Edge {
    edge_that_asks(timing, origins, tls, webhooks, None)
}

/// `auth`: for tokens.
fn edge_that_asks(
    timing: Timing,
    origins: Origins,
    tls: Option<Certificates>,
    webhooks: Option<Webhooks>,
    auth: Option<AuthKeys>,
) -> Edge {
    let (events, received) = unbounded_channel();
    let (open, dead, first_load) = (Arc::default(), Arc::default(), Arc::<AtomicU32>::default());
    let stall = Arc::<Mutex<Duration>>::default();
    let settings = Settings {
        listener: TcpListener::bind("127.0.0.1:0").unwrap(),
        admin: Some(TcpListener::bind("127.0.0.1:0").unwrap()),
        admin_hosts: vec!["admin.example".to_owned()],
        tls,
        origins,
        auth,
        shards: SHARDS.to_vec(),
        hub: HubSettings {
            shards: SHARDS.iter().map(|id| (*id, ShardLabel([b'a' + id.0 as u8; 2]))).collect(),
            candidates: vec![Candidate { shard: None, ip: [127, 0, 0, 1].into(), port: 40_000, priority: 1 }],
            fingerprint_sha256: "AA:BB".into(),
            spread: Default::default(),
            last_n: Default::default(),
            log: Default::default(),
            quotas: Default::default(),
            ice_servers: Default::default(),
            returns: Default::default(),
            seed: [7; 32],
        },
        tower: Box::new(Standin {
            open: Arc::clone(&open),
            dead: Arc::clone(&dead),
            first_load: Arc::clone(&first_load),
            stall: Arc::clone(&stall),
            events,
        }),
        events: received,
        timing,
        webhooks,
        cluster: None,
    };
    let server = start(settings).unwrap();
    Edge { address: server.address(), admin: server.admin_address().unwrap(), server, open, dead, first_load, stall }
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        assert!(self.head.contains("content-type: application/json"), "{}", self.head);
        serde_json::from_str(&self.body).unwrap()
    }

    fn error_code(&self) -> String {
        let json = self.json();
        assert!(json["error"]["message"].as_str().unwrap().len() > 10, "a message in words: {json}");
        json["error"]["code"].as_str().unwrap().to_owned()
    }
}

impl Edge {
    fn connect(&self) -> TcpStream {
        connect(self.address)
    }

    fn raw(&self, request: &str) -> Answer {
        self.raw_at(self.address, request)
    }

    fn raw_at(&self, address: SocketAddr, request: &str) -> Answer {
        let mut stream = connect(address);
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {answer:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    fn request(&self, method: &str, path: &str, headers: &str) -> Answer {
        self.raw(&format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{headers}\r\n"))
    }

    fn get(&self, path: &str) -> Answer {
        self.request("GET", path, "")
    }

    /// On the admin listener.
    fn ask(&self, method: &str, path: &str) -> Answer {
        self.raw_at(self.admin, &format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"))
    }

    fn open_from(&self, host: &str, origins: &[&str]) -> Answer {
        let origins: String = origins.iter().map(|origin| format!("Origin: {origin}\r\n")).collect();
        let mut stream = self.connect();
        let path = "/socket?auth=a&channelId=c";
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\n{origins}{HANDSHAKE}\r\n").unwrap();
        let mut head = String::new();
        let mut stream = BufReader::new(stream);
        while !head.ends_with("\r\n\r\n") {
            assert!(stream.read_line(&mut head).unwrap() > 0, "no head: {head}");
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length =
            head.to_lowercase().split("content-length: ").nth(1).map(|rest| rest.split('\r').next().unwrap().parse());
        let mut body = vec![0; length.filter(|_| status != 101).map_or(0, Result::unwrap)];
        stream.read_exact(&mut body).unwrap();
        Answer { status, head: head.to_lowercase(), body: String::from_utf8(body).unwrap() }
    }

    fn socket(&self, user: &str, channel: &str) -> Socket {
        let url = format!("ws://{}/socket?auth={user}&channelId={channel}", self.address);
        let (socket, answer) = tungstenite::client(url, self.connect()).unwrap();
        assert_eq!(answer.status(), 101);
        Socket(socket)
    }

    fn metric(&self, sample: &str) -> f64 {
        let page = self.ask("GET", "/metrics").body;
        let line = page.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {sample} in {page}")).parse().unwrap()
    }

    /// Asks until it is so; the effects of a socket's end come a moment after it.
    fn await_metric(&self, sample: &str, wanted: f64) {
        let mut last = f64::NAN;
        for _ in 0..40 {
            last = self.metric(sample);
            if last == wanted {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{sample} is {last}, not {wanted}");
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(WAIT)).unwrap();
    stream.set_write_timeout(Some(WAIT)).unwrap();
    stream
}

struct Socket(WebSocket<TcpStream>);

impl Socket {
    fn say(&mut self, text: impl Into<String>) {
        self.0.send(Message::text(text.into())).unwrap();
    }

    fn hear(&mut self) -> Value {
        loop {
            match self.0.read().unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    fn ask(&mut self, message: Value) -> Value {
        self.say(message.to_string());
        self.hear()
    }

    /// The code of the close frame that comes next.
    fn close_code(&mut self) -> u16 {
        loop {
            match self.0.read() {
                Ok(Message::Close(frame)) => return frame.expect("a code is given").code.into(),
                Ok(_) => {}
                Err(error) => panic!("no close frame: {error}"),
            }
        }
    }
}

const HANDSHAKE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[test]
fn who_does_not_say_who_and_where_gets_400_and_json() {
    let edge = edge(Timing::default());
    for (query, code) in [
        ("", "missing-auth"),
        ("?channelId=c", "missing-auth"),
        ("?auth=&channelId=c", "missing-auth"),
        ("?auth=a", "missing-channel-id"),
        ("?auth=a&channelId=", "missing-channel-id"),
        ("?auth=%zz&channelId=c", "bad-auth"),
        ("?auth=a&auth=b&channelId=c", "bad-auth"),
        ("?auth=a%0A&channelId=c", "bad-name"),
    ] {
        let answer = edge.request("GET", &format!("/socket{query}"), HANDSHAKE);
        assert_eq!((answer.status, answer.error_code().as_str()), (400, code), "{query}");
    }
    let long = format!("/socket?auth={}&channelId=c", "a".repeat(300));
    assert_eq!(edge.request("GET", &long, HANDSHAKE).status, 400);
    assert_eq!(edge.metric("weirgate_sockets_opened_total"), 0.0);
    assert_eq!(edge.metric("weirgate_http_responses_total{code=\"400\"}"), 9.0);
}

#[test]
fn a_request_that_is_no_websocket_is_told_how_to_make_one() {
    let edge = edge(Timing::default());
    let path = "/socket?auth=a&channelId=c";
    let plain = edge.get(path);
    assert_eq!((plain.status, plain.error_code().as_str()), (426, "upgrade-required"));
    assert!(plain.head.contains("upgrade: websocket"), "{}", plain.head);
    let old = edge.request("GET", path, &HANDSHAKE.replace(": 13", ": 8"));
    assert_eq!((old.status, old.error_code().as_str()), (426, "websocket-version"));
    assert!(old.head.contains("sec-websocket-version: 13"), "{}", old.head);
    let short = edge.request("GET", path, &HANDSHAKE.replace("dGhlIHNhbXBsZSBub25jZQ==", "AAAA"));
    assert_eq!((short.status, short.error_code().as_str()), (400, "bad-handshake"));
    let posted = edge.request("POST", path, HANDSHAKE);
    assert_eq!((posted.status, posted.error_code().as_str()), (405, "method-not-allowed"));
}

#[test]
fn pages_are_served_with_their_guards() {
    let edge = edge(Timing::default());
    let page = edge.get("/");
    assert_eq!(page.status, 200);
    assert!(page.head.contains("content-type: text/html") && page.body.contains("<!doctype html>"), "{}", page.head);
    assert!(page.head.contains("content-security-policy: default-src 'self'"), "{}", page.head);
    assert!(page.head.contains("x-content-type-options: nosniff"), "{}", page.head);
    let head = edge.request("HEAD", "/", "");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    let missing = edge.get("/../etc/passwd");
    assert_eq!((missing.status, missing.error_code().as_str()), (404, "not-found"));
    let deleted = edge.ask("DELETE", "/metrics");
    assert_eq!(deleted.status, 405);
    assert!(deleted.head.contains("allow: get, head"), "{}", deleted.head);
    let large = edge.request("GET", "/", &format!("X: {}\r\n", "x".repeat(40_000)));
    assert_eq!(large.status, 431);
}

#[test]
fn bad_messages_are_answered_and_the_socket_goes_on() {
    let edge = edge(Timing::default());
    let mut socket = edge.socket("anna", "room");
    socket.say("{not json");
    assert_eq!(socket.hear()["type"], "error");
    socket.0.send(Message::binary(vec![1, 2, 3])).unwrap();
    let binary = socket.hear();
    assert_eq!((&binary["type"], &binary["data"]["code"]), (&json!("error"), &json!("not-text")));
    let pong = socket.ask(json!({ "type": "ping", "requestId": 7 }));
    assert_eq!((&pong["type"], &pong["requestId"]), (&json!("pong"), &json!(7)));
}

#[test]
fn a_message_over_the_bound_closes_with_1009() {
    let edge = edge(Timing::default());
    let mut socket = edge.socket("anna", "room");
    // It is told even though it is still sending: the server reads the rest away before it closes.
    let _ = socket.0.send(Message::text("x".repeat(300 * 1024)));
    assert_eq!(socket.close_code(), 1009);
    edge.await_metric("weirgate_sockets_closed_total{why=\"message-too-long\"}", 1.0);
    let mut other = edge.socket("berta", "room");
    other.say(format!("\"{}\"", "x".repeat(MESSAGE_BYTES_MAX - 2)));
    assert_eq!(other.hear()["type"], "error", "the largest message is read");
}

#[test]
fn text_that_is_no_utf8_closes_with_1007() {
    let edge = edge(Timing::default());
    let mut socket = edge.socket("anna", "room");
    // A masked text frame with the mask 0 and the one byte 0xff (RFC 6455 section 5.2).
    socket.0.get_mut().write_all(&[0x81, 0x81, 0, 0, 0, 0, 0xff]).unwrap();
    assert_eq!(socket.close_code(), 1007);
}

#[test]
fn the_messages_sent_with_the_handshake_are_not_lost() {
    let edge = edge(Timing::default());
    let mut stream = edge.connect();
    let mut bytes = format!("GET /socket?auth=a&channelId=c HTTP/1.1\r\nHost: t\r\n{HANDSHAKE}\r\n").into_bytes();
    bytes.extend([0x81, 0x80 | 15, 0, 0, 0, 0]);
    bytes.extend(b"{\"type\":\"ping\"}");
    stream.write_all(&bytes).unwrap();
    let mut received = Vec::new();
    while !received.ends_with(b"}") {
        let mut buffer = [0; 1024];
        let read = stream.read(&mut buffer).unwrap();
        assert!(read > 0, "closed after {}", String::from_utf8_lossy(&received));
        received.extend(&buffer[..read]);
    }
    let text = String::from_utf8_lossy(&received);
    assert!(text.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") && text.contains("\"pong\""), "{text}");
}

#[test]
fn a_silent_socket_is_found_dead_and_a_listening_one_is_kept() {
    let timing = Timing {
        ping_interval: Duration::from_millis(100),
        silence_max: Duration::from_millis(600),
        ..Timing::default()
    };
    let edge = edge(timing);
    let silent = edge.socket("silent", "room");
    let mut listening = edge.socket("listening", "room");
    listening.0.get_mut().set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    // Reading answers the pings.
    for _ in 0..40 {
        match listening.0.read() {
            Ok(_) => {}
            Err(tungstenite::Error::Io(error)) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
            Err(error) => panic!("the socket that answers pings was closed: {error}"),
        }
        listening.0.flush().unwrap();
    }
    assert_eq!(edge.metric("weirgate_sockets_closed_total{why=\"silent\"}"), 1.0);
    assert_eq!(edge.metric("weirgate_sockets"), 1.0);
    drop(silent);
}

#[test]
fn a_request_that_never_ends_is_cut_off() {
    let timing = Timing { head_wait: Duration::from_millis(200), ..Timing::default() };
    let edge = edge(timing);
    let mut slow = edge.connect();
    slow.write_all(b"GET / HTTP/1.1\r\nHost: t\r\n").unwrap();
    let mut idle = edge.connect();
    let mut nothing = Vec::new();
    slow.read_to_end(&mut nothing).unwrap();
    idle.read_to_end(&mut nothing).unwrap();
    assert!(!String::from_utf8_lossy(&nothing).contains("200 OK"));
    edge.await_metric("weirgate_http_connections", 0.0);
}

#[test]
fn a_page_of_another_origin_is_refused_by_name_and_every_other_client_is_let_in() {
    let edge = edge(Timing::default());
    for (host, origins) in [
        ("sfu.example", &[][..]),
        ("sfu.example", &["https://sfu.example"]),
        ("192.0.2.7:4443", &["http://192.0.2.7:4443"]),
        ("sfu.example", &["http://localhost:3000"]),
        ("sfu.example", &["http://127.9.9.9:1"]),
        ("sfu.example", &["http://[::1]:8080"]),
    ] {
        assert_eq!(edge.open_from(host, origins).status, 101, "{origins:?} at {host}");
    }
    let refused = [
        ("sfu.example", &["https://evil.example"][..]),
        ("sfu.example", &["null"]),
        ("sfu.example", &["file://"]),
        ("sfu.example", &["http://sfu.example:8080"]),
        ("sfu.example", &["http://localhost.evil.example"]),
        ("sfu.example", &["https://sfu.example", "https://evil.example"]),
        ("sfu.example", &["https://\u{fc}vil.example"]),
    ];
    for (host, origins) in refused {
        let answer = edge.open_from(host, origins);
        assert_eq!((answer.status, answer.error_code().as_str()), (403, "origin-refused"), "{origins:?}");
        assert!(answer.body.contains("--allow-origin"), "{}", answer.body);
    }
    let named = edge.open_from("sfu.example", &["https://Evil.example:443"]).json();
    let message = named["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("\"https://Evil.example:443\"") && message.ends_with("--allow-origin https://evil.example")
    );
    let long = edge.open_from("sfu.example", &[&format!("https://{}", "e".repeat(9_000))]);
    assert!(long.status == 403 && long.body.len() < 1_000, "{}", long.body.len());
    let all = refused.len() as f64 + 2.0;
    assert_eq!(edge.metric("weirgate_origins_refused_total"), all);
    assert_eq!(edge.metric("weirgate_http_responses_total{code=\"403\"}"), all);
    assert_eq!(edge.metric("weirgate_sockets_opened_total"), 6.0);
}

#[test]
fn the_operator_lets_in_one_origin_or_all() {
    let one = Origins { listed: vec![Origin::parse("https://meet.example").unwrap()], ..Origins::default() };
    let edge = edge_for(Timing::default(), one);
    assert_eq!(edge.open_from("sfu.example", &["https://meet.example"]).status, 101);
    assert_eq!(edge.open_from("sfu.example", &["http://meet.example"]).status, 403);
    let edge = edge_for(Timing::default(), Origins { any: true, ..Origins::default() });
    for origin in ["https://evil.example", "null"] {
        assert_eq!(edge.open_from("sfu.example", &[origin]).status, 101);
    }
}

#[test]
fn what_is_for_the_operator_is_on_the_admin_listener_alone() {
    let edge = edge(Timing::default());
    let metrics = edge.get("/metrics");
    assert_eq!((metrics.status, metrics.error_code().as_str()), (404, "not-found"));
    assert!(metrics.body.contains("--admin-listen"), "{}", metrics.body);
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert_eq!(edge.ask("GET", path).status, 200, "{path}");
    }
    for path in ["/", "/main.js", "/socket?auth=a&channelId=c", "/admin"] {
        let missing = edge.ask("GET", path);
        assert_eq!((missing.status, missing.error_code().as_str()), (404, "not-found"), "{path}");
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(edge.get(path).status, 200, "{path}");
    }
}

#[test]
fn the_listeners_have_bounds_of_their_own() {
    let edge = edge(Timing::default());
    let idle: Vec<_> = (0..ADMIN_CONNECTIONS_MAX).map(|_| connect(edge.admin)).collect();
    // One more is served, and the oldest that asks nothing goes for it: nobody is shut out by idle ones.
    assert_eq!(edge.ask("GET", "/readyz").status, 200);
    assert!(matches!((&idle[0]).read(&mut [0; 1]), Ok(0) | Err(_)));
    assert_eq!(edge.get("/readyz").status, 200, "whom the public listener serves is not touched");
    drop(idle);
    let public: Vec<_> = (0..2 * ADMIN_CONNECTIONS_MAX).map(|_| edge.connect()).collect();
    edge.await_metric("weirgate_http_connections", public.len() as f64);
}

#[test]
fn metrics_parse_and_hold_every_reason() {
    let edge = edge(Timing::default());
    let answer = edge.ask("GET", "/metrics");
    assert!(answer.head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{}", answer.head);
    let lines: Vec<&str> = answer.body.lines().collect();
    assert_eq!(lines.last(), Some(&"# EOF"));
    let mut families = BTreeSet::new();
    for line in &lines[..lines.len() - 1] {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (keyword, name) = (words.next().unwrap(), words.next().unwrap());
            match keyword {
                "TYPE" => assert!(matches!(words.next(), Some("counter" | "gauge")), "{line}"),
                "HELP" => assert!(families.insert(name.to_owned()), "{name} stands twice"),
                _ => panic!("{line}"),
            }
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').unwrap();
        value.parse::<f64>().unwrap_or_else(|_| panic!("{line}"));
        let name = sample.split('{').next().unwrap();
        let family = name.strip_suffix("_total").unwrap_or(name);
        assert!(families.contains(family) && name.starts_with("weirgate_"), "{line}");
    }
    for sample in [
        "weirgate_consumer_verdicts{shard=\"1\",verdict=\"waiting-keyframe\"} 2",
        "weirgate_dropped_packets_total{shard=\"0\",why=\"replayed\"} 0",
        "weirgate_dropped_packets_total{shard=\"1\",why=\"unknown-ssrc\"} 3",
        "weirgate_sent_packets_total{shard=\"1\"} 6",
        "weirgate_paths{shard=\"0\"} -1",
        "weirgate_shard_up{shard=\"1\"} 1",
        "weirgate_sockets_closed_total{why=\"reads-too-slowly\"} 0",
        "weirgate_signalling_channels 0",
        "weirgate_signalling_errors_total{code=\"not-text\"} 0",
    ] {
        assert!(lines.contains(&sample), "{sample} is missing in {}", answer.body);
    }
}

#[test]
fn health_is_lost_with_a_shard() {
    let edge = edge(Timing::default());
    let well = edge.get("/healthz");
    assert_eq!((well.status, &well.json()["status"]), (200, &json!("ok")));
    let ready = edge.get("/readyz");
    assert_eq!((ready.status, &ready.json()["status"]), (200, &json!("ready")));
    *edge.dead.lock().unwrap() = Some(ShardId(1));
    std::thread::sleep(Duration::from_millis(300));
    let ill = edge.get("/healthz");
    assert_eq!((ill.status, &ill.json()["deadShards"]), (503, &json!([1])));
    assert_eq!(edge.get("/readyz").status, 503);
    assert_eq!(edge.metric("weirgate_shard_up{shard=\"1\"}"), 0.0);
    assert_eq!(edge.metric("weirgate_shard_up{shard=\"0\"}"), 1.0);
}

#[test]
fn who_joins_keeps_off_a_shard_that_is_busy() {
    let edge = edge(Timing::default());
    let load = |shard: u16| edge.metric(&format!("weirgate_shard_expected_load{{shard=\"{shard}\"}}"));
    let mut first = edge.socket("user", "room");
    first.ask(json!({ "type": "create-transport" }));
    assert!(load(0) > 0.0 && load(1) == 0.0, "the first shard is as good as the other");
    edge.first_load.store(1_000, Ordering::Relaxed);
    // It is looked at about once a second.
    let on_second = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        let mut other = edge.socket("user", "room");
        other.ask(json!({ "type": "create-transport" }));
        load(1) > 0.0
    });
    assert!(on_second);
}

#[test]
fn a_thousand_joins_and_leaves_leave_nothing_behind() {
    let edge = edge(Timing::default());
    for round in 0..100 {
        let mut sockets: Vec<Socket> = (0..10).map(|n| edge.socket(&format!("u{n}"), &format!("c{}", n % 3))).collect();
        for (n, socket) in sockets.iter_mut().enumerate() {
            let reply = socket.ask(json!({ "type": "create-transport", "requestId": n }));
            assert_eq!(reply["type"], "transport-params", "{reply}");
        }
        for (n, mut socket) in sockets.into_iter().enumerate() {
            // Some say goodbye, some vanish.
            if (n + round) % 2 == 0 {
                socket.0.close(None).unwrap();
                while socket.0.read().is_ok() {}
            }
        }
    }
    edge.await_metric("weirgate_sockets", 0.0);
    assert_eq!(edge.metric("weirgate_sockets_opened_total"), 1000.0);
    assert_eq!(edge.metric("weirgate_sockets_closed_total{why=\"left\"}"), 500.0);
    assert_eq!(edge.metric("weirgate_sockets_closed_total{why=\"lost\"}"), 500.0);
    for gauge in ["channels", "peers", "transports", "producers", "consumers"] {
        assert_eq!(edge.metric(&format!("weirgate_signalling_{gauge}")), 0.0, "{gauge}");
    }
    assert!(edge.open.lock().unwrap().is_empty(), "every transport was closed on its shard");
    edge.await_metric("weirgate_http_connections", 0.0);
}

#[test]
fn the_end_says_goodbye_to_every_socket() {
    let edge = edge(Timing::default());
    let mut sockets: Vec<Socket> = (0..3).map(|n| edge.socket(&format!("u{n}"), "room")).collect();
    assert_eq!(sockets[0].ask(json!({ "type": "create-transport" }))["type"], "transport-params");
    let idle = edge.connect();
    let open = edge.open;
    let stopping = std::thread::spawn(move || edge.server.stop());
    for socket in &mut sockets {
        assert_eq!(socket.close_code(), 1001);
    }
    drop(sockets);
    stopping.join().unwrap().expect("the thread ends without a fault");
    assert!(open.lock().unwrap().is_empty());
    drop(idle);
}
