//! Webhooks against real servers: what they are told, in which order, and what becomes of those that do not answer as
//! they should.
#![expect(clippy::disallowed_methods, reason = "it waits for real sockets")]

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use serde_json::{Value, json};
use tokio_rustls::rustls;
use weirgate::server::{Timing, WebhookSettings, WebhookTiming, Webhooks};
use weirgate::signal::Origins;

use super::{Edge, WAIT, edge_of};

const SECRET: [u8; 32] = [7; 32];

/// A request as a hook reads it.
#[derive(Clone, Debug)]
struct Told {
    head: String,
    body: String,
}

impl Told {
    fn header(&self, name: &str) -> &str {
        let found = self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        found.unwrap_or_else(|| panic!("no {name} in {}", self.head))
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn kind(&self) -> String {
        self.json()["type"].as_str().unwrap().to_owned()
    }

    fn is_signed_by(&self, secret: &[u8]) -> bool {
        let signed = format!("{}.{}.{}", self.header("webhook-id"), self.header("webhook-timestamp"), self.body);
        let wanted = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
        self.header("webhook-signature").split(' ').any(|one| one == format!("v1,{}", STANDARD.encode(wanted)))
    }
}

const OK: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

type Heard = Arc<Mutex<Vec<Told>>>;

/// A hook, which does with each of its connections what it is told to.
struct Hook {
    address: SocketAddr,
    heard: Heard,
    connections: Arc<AtomicUsize>,
}

impl Hook {
    /// `answer` writes its answer to each request, the first of which is 0; false: it wants no more on this connection.
    fn start(answer: impl Fn(&mut TcpStream, usize, &Told) -> bool + Send + Sync + 'static) -> Hook {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (heard, connections) = (Heard::default(), Arc::<AtomicUsize>::default());
        let (all, opened, answer) = (heard.clone(), connections.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                opened.fetch_add(1, Ordering::Relaxed);
                let (mut stream, all, answer) = (stream.unwrap(), all.clone(), answer.clone());
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(stream.try_clone().unwrap());
                    while let Some(told) = read(&mut reader) {
                        let number = {
                            let mut all = all.lock().unwrap();
                            all.push(told.clone());
                            all.len() - 1
                        };
                        if !answer(&mut stream, number, &told) {
                            break;
                        }
                    }
                });
            }
        });
        Hook { address, heard, connections }
    }

    fn url(&self) -> String {
        format!("http://{}/hook?x=1", self.address)
    }

    fn heard(&self) -> Vec<Told> {
        self.heard.lock().unwrap().clone()
    }

    fn await_heard(&self, number: usize) -> Vec<Told> {
        let start = Instant::now();
        while self.heard().len() < number {
            assert!(start.elapsed() < WAIT, "{} of {number}: {:#?}", self.heard().len(), self.heard());
            std::thread::sleep(Duration::from_millis(5));
        }
        self.heard()
    }
}

fn read(reader: &mut impl BufRead) -> Option<Told> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Told { head: head.replace("\r\n", "\n"), body: String::from_utf8(body).unwrap() })
}

fn file(name: &str, text: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    std::fs::write(&path, text).unwrap();
    path
}

fn secret(bytes: &[u8]) -> String {
    format!("whsec_{}\n", STANDARD.encode(bytes))
}

const QUICK: WebhookTiming = WebhookTiming {
    answer_wait: Duration::from_millis(200),
    attempts: 4,
    age: Duration::from_secs(60),
    first_wait: Duration::from_millis(20),
    last_wait: Duration::from_millis(50),
};

fn edge_telling(urls: &[String], timing: WebhookTiming, name: &str, ca: Option<PathBuf>) -> Edge {
    let urls = urls.iter().map(|url| url.parse().unwrap()).collect();
    let settings = WebhookSettings { urls, secret: file(name, &secret(&SECRET)), ca };
    let webhooks = Webhooks::load(settings, timing).unwrap_or_else(|fault| panic!("{fault}"));
    edge_of(Timing::default(), Origins::default(), None, Some(webhooks))
}

/// A call of one, from its channel's start to its end.
fn short_call(edge: &Edge, channel: &str) {
    let mut anna = edge.socket("anna", channel);
    anna.id_of("create-transport", json!({}));
    anna.id_of("produce", json!({ "kind": "audio", "rtpParameters": super::admin::opus(7), "appData": { "b": 2 } }));
}

const CALL: [&str; 6] =
    ["channel.started", "peer.joined", "producer.created", "producer.closed", "peer.left", "channel.ended"];

#[test]
fn a_call_is_told_in_its_order_and_signed() {
    let hook = Hook::start(|stream, _, _| stream.write_all(OK).is_ok());
    let edge = edge_telling(&[hook.url()], WebhookTiming::default(), "told", None);
    short_call(&edge, "a+room");
    let heard = hook.await_heard(CALL.len());
    assert_eq!(heard.iter().map(Told::kind).collect::<Vec<_>>(), CALL);
    let mut ids: Vec<&str> = heard.iter().map(|told| told.header("webhook-id")).collect();
    ids.dedup();
    assert_eq!(ids.len(), CALL.len());
    for told in &heard {
        assert!(told.head.starts_with("POST /hook?x=1 HTTP/1.1\n"), "{}", told.head);
        assert_eq!(told.header("host"), hook.address.to_string());
        assert_eq!(told.header("content-type"), "application/json");
        assert!(told.is_signed_by(&SECRET) && !told.is_signed_by(&[8; 32]));
        let json = told.json();
        assert_eq!(json["data"]["channel"], "a room");
        assert!(json["timestamp"].as_str().unwrap().contains('T') && json["data"].get("appData").is_none(), "{json}");
    }
    assert_eq!((&heard[1].json()["data"]["user"], &heard[2].json()["data"]["kind"]), (&json!("anna"), &json!("audio")));
    edge.await_metric("weirgate_webhook_events_total{outcome=\"delivered\"}", CALL.len() as f64);
    edge.await_metric("weirgate_webhook_events_waiting", 0.0);
    assert!(hook.connections.load(Ordering::Relaxed) <= 2, "a connection is used again");
}

#[test]
fn failures_keep_the_order_of_a_channel_and_do_not_hold_up_another() {
    // Each event of one channel fails twice.
    let attempts = Mutex::new(std::collections::BTreeMap::<String, u32>::new());
    let hook = Hook::start(move |stream, _, told| {
        let mut attempts = attempts.lock().unwrap();
        let failures = attempts.entry(told.header("webhook-id").to_owned()).or_default();
        *failures += 1;
        let bad = told.json()["data"]["channel"] == "bad" && *failures <= 2;
        let answer: &[u8] = if bad { b"HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\nno" } else { OK };
        stream.write_all(answer).is_ok()
    });
    let edge = edge_telling(&[hook.url()], QUICK, "order", None);
    short_call(&edge, "bad");
    short_call(&edge, "good");
    let heard = hook.await_heard(4 * CALL.len());
    let of = |channel: &str| {
        let told = heard.iter().filter(|told| told.json()["data"]["channel"] == channel);
        told.map(Told::kind).collect::<Vec<_>>()
    };
    assert_eq!(of("good"), CALL);
    let thrice: Vec<&str> = CALL.iter().flat_map(|kind| [*kind; 3]).collect();
    assert_eq!(of("bad"), thrice, "the next waits until the one before it is through");
    let last_of_good = heard.iter().rposition(|told| told.json()["data"]["channel"] == "good").unwrap();
    let last_of_bad = heard.iter().rposition(|told| told.json()["data"]["channel"] == "bad").unwrap();
    assert!(last_of_good < last_of_bad);
    edge.await_metric("weirgate_webhook_failures_total{why=\"status\"}", 2.0 * CALL.len() as f64);
    edge.await_metric("weirgate_webhook_events_total{outcome=\"attempts\"}", 0.0);
}

/// What a hook must not be able to do: whatever it does, calls go on, and each event is given up after its attempts.
fn assert_harmless(name: &str, url: String, failures: &str) {
    let edge = edge_telling(&[url], QUICK, name, None);
    let mut caller = edge.socket("caller", "call");
    let start = Instant::now();
    let mut pings = 0;
    short_call(&edge, "room");
    let given_up = "weirgate_webhook_events_total{outcome=\"attempts\"}";
    let mut seen = 0.0;
    // Those of the short call, and two of the caller's own.
    while seen < CALL.len() as f64 + 2.0 {
        assert!(start.elapsed() < 6 * WAIT, "{name}: {seen} given up");
        let asked = Instant::now();
        assert_eq!(caller.ask(json!({ "type": "ping" }))["type"], "pong");
        assert!(asked.elapsed() < WAIT / 10, "{name}: a call waits for a hook: {:?}", asked.elapsed());
        pings += 1;
        std::thread::sleep(Duration::from_millis(10));
        seen = edge.metric(given_up);
    }
    let failed = edge.metric(&format!("weirgate_webhook_failures_total{{why=\"{failures}\"}}"));
    assert_eq!(failed, 4.0 * seen, "{name}: each was tried four times");
    assert!(pings > 3 && edge.metric("weirgate_webhook_events_waiting") == 0.0, "{name}");
    let stop = Instant::now();
    edge.server.stop().unwrap();
    assert!(stop.elapsed() < WAIT, "{name}: {:?}", stop.elapsed());
}

#[test]
fn one_that_hangs_is_given_up() {
    let hook = Hook::start(|_, _, _| {
        std::thread::sleep(WAIT);
        false
    });
    assert_harmless("hangs", hook.url(), "timeout");
}

#[test]
fn one_that_answers_byte_by_byte_is_given_up() {
    let hook = Hook::start(|stream, _, _| {
        let head = b"HTTP/1.1 200 OK\r\nx: ".iter().chain(std::iter::repeat_n(&b'x', 10_000));
        head.into_iter().all(|byte| {
            std::thread::sleep(Duration::from_millis(20));
            stream.write_all(&[*byte]).is_ok()
        })
    });
    assert_harmless("slow", hook.url(), "timeout");
}

#[test]
fn a_redirect_is_not_followed() {
    let elsewhere = Hook::start(|stream, _, _| stream.write_all(OK).is_ok());
    let location = elsewhere.url();
    let hook = Hook::start(move |stream, number, _| {
        let status = [301, 302, 307, 308][number % 4];
        write!(stream, "HTTP/1.1 {status} Go\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n").is_ok()
    });
    assert_harmless("redirects", hook.url(), "status");
    assert_eq!(elsewhere.connections.load(Ordering::Relaxed), 0);
}

#[test]
fn one_that_resets_or_speaks_no_http_is_given_up() {
    let hook = Hook::start(|stream, number, _| match number % 3 {
        0 => {
            // Unread bytes or this option make the end a reset.
            socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO)).unwrap();
            stream.shutdown(std::net::Shutdown::Both).is_err()
        }
        1 => {
            let _ = stream.write_all(b"SSH-2.0-OpenSSH_10.0\r\n");
            false
        }
        // A head without end.
        _ => (0..4_000).all(|_| stream.write_all(b"HTTP/1.1 200 OK\r\nx: 012345678901234567890123456789\r\n").is_ok()),
    });
    assert_harmless("resets", hook.url(), "http");
}

#[test]
fn nobody_there_and_no_such_name_are_given_up() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_harmless("nobody", format!("http://{free}/"), "connect");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_harmless("accepts-nobody", format!("http://{}/", silent.local_addr().unwrap()), "timeout");
}

#[test]
fn a_name_that_leads_nowhere_is_given_up() {
    let edge = edge_telling(&["http://hook.invalid/".to_owned()], QUICK, "no-name", None);
    short_call(&edge, "room");
    let start = Instant::now();
    // A resolver may say so, or say nothing.
    while edge.metric("weirgate_webhook_events_total{outcome=\"attempts\"}") < CALL.len() as f64 {
        assert!(start.elapsed() < 6 * WAIT);
        std::thread::sleep(Duration::from_millis(20));
    }
    let failed = |why| edge.metric(&format!("weirgate_webhook_failures_total{{why=\"{why}\"}}"));
    assert_eq!(failed("name") + failed("timeout"), 4.0 * CALL.len() as f64);
}

#[test]
fn a_body_without_end_is_read_no_further() {
    let written = Arc::<AtomicUsize>::default();
    let counted = written.clone();
    let hook = Hook::start(move |stream, _, _| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[b'x'; 4_096]).is_ok() {
            counted.fetch_add(4_096, Ordering::Relaxed);
        }
        false
    });
    let edge = edge_telling(&[hook.url()], QUICK, "endless", None);
    short_call(&edge, "room");
    hook.await_heard(CALL.len());
    edge.await_metric("weirgate_webhook_events_total{outcome=\"delivered\"}", CALL.len() as f64);
    // What the sockets' buffers hold on both sides is written, and no more.
    let taken = written.load(Ordering::Relaxed);
    assert!(taken < CALL.len() * 16 * 1024 * 1024, "{taken}");
}

/// A TLS server for one certificate; answers each request.
fn tls_hook(names: &[&str]) -> (SocketAddr, String, Arc<AtomicUsize>) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let builder = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let config = Arc::new(builder.with_single_cert(vec![cert.der().clone()], key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let heard = Arc::<AtomicUsize>::default();
    let count = heard.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (config, count) = (config.clone(), count.clone());
            std::thread::spawn(move || {
                let session = rustls::ServerConnection::new(config).unwrap();
                let mut reader = BufReader::new(rustls::StreamOwned::new(session, stream.unwrap()));
                while read(&mut reader).is_some() {
                    count.fetch_add(1, Ordering::Relaxed);
                    reader.get_mut().write_all(OK).unwrap();
                }
            });
        }
    });
    (address, cert.pem(), heard)
}

#[test]
fn https_asks_for_a_certificate_that_is_trusted_and_of_that_name() {
    let (address, pem, heard) = tls_hook(&["localhost"]);
    let url = format!("https://localhost:{}/", address.port());
    let ca = file("ca", &pem);
    let edge = edge_telling(std::slice::from_ref(&url), QUICK, "trusted", Some(ca.clone()));
    short_call(&edge, "room");
    edge.await_metric("weirgate_webhook_events_total{outcome=\"delivered\"}", CALL.len() as f64);
    assert_eq!(heard.load(Ordering::Relaxed), CALL.len());
    drop(edge);

    let other = format!("https://{address}/");
    for (name, url, ca) in [("stranger", url, tls_hook(&["localhost"]).1), ("other-name", other, pem)] {
        let edge = edge_telling(&[url], QUICK, name, Some(file(&format!("ca-{name}"), &ca)));
        short_call(&edge, "room");
        edge.await_metric("weirgate_webhook_failures_total{why=\"tls\"}", 4.0 * CALL.len() as f64);
    }
    assert_eq!(heard.load(Ordering::Relaxed), CALL.len(), "nothing was told to whom it could not trust");
    let plain = Hook::start(|_, _, _| false);
    let edge = edge_telling(&[format!("https://{}/", plain.address)], QUICK, "plain", Some(ca));
    short_call(&edge, "room");
    edge.await_metric("weirgate_webhook_events_total{outcome=\"attempts\"}", CALL.len() as f64);
}

#[test]
fn the_secret_changes_with_its_file_and_when_somebody_asks() {
    let hook = Hook::start(|stream, _, _| stream.write_all(OK).is_ok());
    let edge = edge_telling(&[hook.url()], QUICK, "rotated", None);
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("rotated-{}", std::process::id()));
    let signed_by = |channel: &str, secrets: [bool; 2]| {
        let before = hook.heard().len();
        drop(edge.socket("anna", channel));
        let told = hook.await_heard(before + 1)[before].clone();
        [told.is_signed_by(&SECRET), told.is_signed_by(&[9; 24])] == secrets
    };
    assert!(signed_by("one", [true, false]));
    let both = secret(&SECRET) + &secret(&[9; 24]);
    std::fs::write(&path, both).unwrap();
    let start = Instant::now();
    while !signed_by("two", [true, true]) {
        assert!(start.elapsed() < WAIT, "a change is found by itself");
        std::thread::sleep(Duration::from_millis(100));
    }
    std::fs::write(&path, "nonsense").unwrap();
    let reload = edge.server.reload();
    reload.ask();
    std::thread::sleep(Duration::from_millis(300));
    assert!(signed_by("three", [true, true]), "what cannot be used changes nothing");
    std::fs::write(&path, secret(&[9; 24])).unwrap();
    reload.ask();
    let start = Instant::now();
    while !signed_by("four", [false, true]) {
        assert!(start.elapsed() < WAIT);
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn the_last_words_are_told_and_one_that_hangs_does_not_keep_the_server() {
    let (good, bad) = (Hook::start(|stream, _, _| stream.write_all(OK).is_ok()), Hook::start(|_, _, _| true));
    let edge = edge_telling(&[good.url(), bad.url()], WebhookTiming::default(), "end", None);
    let anna = edge.socket("anna", "room");
    good.await_heard(2);
    let start = Instant::now();
    let stopping = std::thread::spawn(move || edge.server.stop());
    drop(anna);
    stopping.join().unwrap().unwrap();
    assert!(start.elapsed() < WAIT, "{:?}", start.elapsed());
    let kinds: Vec<String> = good.await_heard(4).iter().map(Told::kind).collect();
    assert_eq!(kinds, ["channel.started", "peer.joined", "peer.left", "channel.ended"]);
}
