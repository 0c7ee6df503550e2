//! Who may come in, at the whole binary with `--auth token`: every way in, every claim left out, forged, expired,
//! replayed; the end of a token; and that nobody ever sees one.
#![cfg(feature = "edge")]
#![expect(clippy::disallowed_methods, reason = "the real binary: its tests wait by the clock")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ring::rand::SystemRandom;
use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::http::HeaderValue;
use tungstenite::{Message, WebSocket};
use weirgate::token::Signer;

const WAIT: Duration = Duration::from_secs(20);
const SECRET: &[u8] = b"a secret of more than 32 bytes, for tests alone\n";

struct Server {
    child: Child,
    address: SocketAddr,
    admin: SocketAddr,
    log: Arc<Mutex<String>>,
    folder: PathBuf,
}

impl Server {
    fn start(test: &str, args: &[&str]) -> Server {
        let folder = std::env::temp_dir().join(format!("weirgate-identity-{test}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let key = folder.join("key");
        fs::write(&key, SECRET).unwrap();
        let media = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_weirgate"));
        command.args(["--cores", "1", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        command.args(["--rtc-listen", &media, "--auth", "token", "--auth-leeway", "0", "--log", "trace"]).args(args);
        command.arg("--auth-key").arg(&key);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WEIRGATE_")) {
            command.env_remove(name);
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut banner = String::new();
        while !banner.contains("  stop ") {
            assert!(out.read_line(&mut banner).unwrap() > 0, "it did not start: {banner}");
        }
        let at = |word: &str| -> SocketAddr {
            let line = banner.lines().find(|line| line.trim_start().starts_with(word)).unwrap();
            line.split("://").nth(1).unwrap().split('/').next().unwrap().parse().unwrap()
        };
        let log = Arc::<Mutex<String>>::default();
        let errors = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn({
            let log = Arc::clone(&log);
            move || errors.lines().map_while(Result::ok).for_each(|line| *log.lock().unwrap() += &(line + "\n"))
        });
        let console = banner.lines().find(|line| line.trim_start().starts_with("console")).unwrap();
        assert!(console.ends_with("/?auth=TOKEN"), "the address that is named lets nobody in: {console}");
        Server { child, address: at("console"), admin: at("admin"), log, folder }
    }

    fn logged(&self, part: &str) {
        let started = Instant::now();
        while !self.log.lock().unwrap().contains(part) {
            assert!(started.elapsed() < WAIT, "no {part:?} in\n{}", self.log.lock().unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn metrics(&self) -> String {
        get(self.admin, "/metrics", "").1
    }

    /// A socket at this query, with these subprotocols.
    fn socket(&self, query: &str, protocols: &str) -> Socket {
        let mut request = format!("ws://{}/socket?{query}", self.address).into_client_request().unwrap();
        if !protocols.is_empty() {
            let value = HeaderValue::from_str(protocols).unwrap();
            request.headers_mut().insert("sec-websocket-protocol", value);
        }
        let stream = connect(self.address);
        let (socket, answer) = tungstenite::client(request, stream).unwrap();
        let selected = answer.headers().get("sec-websocket-protocol").map(HeaderValue::as_bytes);
        assert_eq!(selected, (!protocols.is_empty()).then_some(&b"weirgate"[..]));
        Socket(socket)
    }

    fn enter(&self, token: &str) -> Socket {
        self.socket(&format!("auth={token}&channelId=room"), "")
    }

    /// The verdict on a token: None, it is let in; or the code and the close.
    fn verdict(&self, token: &str) -> Option<(String, u16)> {
        self.enter(token).verdict()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(WAIT)).unwrap();
    stream
}

/// Status and whole answer.
fn get(address: SocketAddr, path: &str, headers: &str) -> (u16, String) {
    let mut stream = connect(address);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n{headers}\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
}

struct Socket(WebSocket<TcpStream>);

impl Socket {
    fn say(&mut self, message: &Value) {
        self.0.send(Message::text(message.to_string())).unwrap();
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

    fn ask(&mut self, kind: &str, data: Value) -> Value {
        self.say(&json!({ "type": kind, "data": data }));
        self.hear()
    }

    fn close_code(&mut self) -> u16 {
        match self.0.read().unwrap() {
            Message::Close(frame) => frame.expect("a code is given").code.into(),
            other => panic!("one error and no more: {other:?}"),
        }
    }

    /// The one error and the close code after it.
    fn turned_away(&mut self) -> (String, u16) {
        let error = self.hear();
        assert_eq!(error["type"], "error", "{error}");
        assert_eq!(error["data"].get("request"), Some(&Value::Null), "{error}");
        (error["data"]["code"].as_str().unwrap().to_owned(), self.close_code())
    }

    fn verdict(&mut self) -> Option<(String, u16)> {
        // A socket that is closing takes a message or does not.
        let _ = self.0.send(Message::text(r#"{"type":"ping"}"#));
        let first = self.hear();
        if first["type"] == "pong" {
            return None;
        }
        assert_eq!(first["type"], "error", "{first}");
        Some((first["data"]["code"].as_str().unwrap().to_owned(), self.close_code()))
    }
}

fn unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn claims(user: &str) -> Value {
    json!({
        "sub": user, "channel": "room", "exp": unix() + 600,
        "grants": { "join": true, "publish": true, "subscribe": true },
    })
}

/// One claim set, or left out where it is null.
fn with(name: &str, value: Value) -> Value {
    let mut claims = claims("anna");
    match value {
        Value::Null => _ = claims.as_object_mut().unwrap().remove(name),
        value => claims[name] = value,
    }
    claims
}

fn signed(key: &[u8], alg: &str, claims: &Value) -> String {
    let signer = Signer::read(key).unwrap();
    signer.sign(&json!({ "alg": alg }), claims, &SystemRandom::new()).unwrap()
}

fn token(claims: &Value) -> String {
    signed(SECRET, "HS256", claims)
}

fn refused(code: &str) -> Option<(String, u16)> {
    Some((code.to_owned(), if matches!(code, "unauthorized" | "expired") { 4401 } else { 4403 }))
}

fn sample(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/token").join(name)).unwrap()
}

#[test]
fn every_way_in_lets_in_and_the_five_messages_are_the_same_on_each() {
    let server = Server::start("ways", &[]);
    let named = {
        let mut named = claims("anna");
        named["name"] = json!("Anna A.");
        token(&named)
    };
    let mut by_url = server.enter(&named);
    let mut by_protocol =
        server.socket("channelId=room", &format!("weirgate, weirgate.auth.{}", token(&claims("berta"))));
    let mut by_message = server.socket("channelId=room", "weirgate");
    by_message.say(&json!({ "type": "authenticate", "requestId": 7, "data": { "token": token(&claims("carla")) } }));
    let welcome = by_message.hear();
    assert_eq!((&welcome["type"], &welcome["requestId"]), (&json!("authenticated"), &json!(7)));
    assert!((590..=600).contains(&welcome["data"]["expiresIn"].as_u64().unwrap()), "{welcome}");
    for socket in [&mut by_url, &mut by_protocol, &mut by_message] {
        for (kind, reply) in [
            ("get-rtp-capabilities", "rtp-capabilities"),
            ("create-transport", "transport-params"),
            ("subscribe", "subscribed"),
        ] {
            let answer = socket.ask(kind, Value::Null);
            assert_eq!(answer["type"], reply, "{answer}");
        }
    }
    let listed = by_message.ask("subscribe", Value::Null);
    let seen = |user: &str| listed["data"]["peers"].as_array().unwrap().iter().find(|peer| peer["user"] == user);
    assert_eq!(seen("anna").unwrap()["name"], "Anna A.");
    assert_eq!(seen("berta").unwrap().get("name"), None);
}

#[test]
fn each_claim_left_out_each_grant_left_out_and_whatever_is_forged_stays_out() {
    let server = Server::start("claims", &[]);
    assert_eq!(server.verdict(&token(&claims("anna"))), None);
    for claim in ["sub", "exp", "channel", "grants"] {
        assert_eq!(server.verdict(&token(&with(claim, Value::Null))), refused("unauthorized"), "{claim}");
    }
    let now = unix();
    for (claim, value, code) in [
        ("channel", json!("else"), "forbidden"),
        ("channel", json!(["a", "roo"]), "forbidden"),
        ("grants", json!({ "publish": true, "subscribe": true, "moderate": true }), "forbidden"),
        ("exp", json!(now - 1), "expired"),
        ("exp", json!((now + 600).to_string()), "unauthorized"),
        ("nbf", json!(now + 300), "unauthorized"),
        ("aud", json!("another service"), "unauthorized"),
    ] {
        assert_eq!(server.verdict(&token(&with(claim, value.clone()))), refused(code), "{claim} {value}");
    }
    for value in [json!("*"), json!("r*m"), json!(["x", "room"])] {
        assert_eq!(server.verdict(&token(&with("channel", value))), None);
    }
    let good = token(&claims("anna"));
    let (message, signature) = good.rsplit_once('.').unwrap();
    let payload = message.split_once('.').unwrap().1;
    let none = "eyJhbGciOiJub25lIn0";
    for forged in [
        "anna".to_owned(),
        message.to_owned(),
        format!("{message}."),
        format!("{none}.{payload}."),
        format!("{none}.{payload}.{signature}"),
        format!("{good}="),
        format!("{}.{}", token(&claims("berta")).rsplit_once('.').unwrap().0, signature),
        signed(b"another secret of more than 32 bytes, for tests", "HS256", &claims("anna")),
        signed(&sample("rsa.pem"), "RS256", &claims("anna")),
        signed(&sample("ed.pem"), "EdDSA", &claims("anna")),
        "x".repeat(8_193),
    ] {
        assert_eq!(server.verdict(&forged), refused("unauthorized"), "{forged}");
    }
    for (right, kind) in [("publish", "produce"), ("subscribe", "subscribe"), ("subscribe", "consume")] {
        let mut grants = json!({ "join": true, "publish": true, "subscribe": true });
        grants[right] = json!(false);
        let mut socket = server.enter(&token(&with("grants", grants)));
        let data = json!({ "kind": "audio", "rtpParameters": {}, "rtpCapabilities": {} });
        assert_eq!(socket.ask(kind, data)["data"]["code"], "forbidden", "{kind}");
    }
}

#[test]
fn keys_of_each_kind_are_taken_together_and_read_again_when_they_change() {
    let folder = std::env::temp_dir().join(format!("weirgate-identity-more-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let more = folder.join("more.pem");
    fs::write(&more, sample("rsa.pub.pem")).unwrap();
    let server = Server::start("keys", &["--auth-key", more.to_str().unwrap()]);
    let by_rsa = signed(&sample("rsa.pem"), "RS256", &claims("anna"));
    let by_ed = signed(&sample("ed.pem"), "EdDSA", &claims("anna"));
    assert_eq!(server.verdict(&token(&claims("anna"))), None);
    assert_eq!([server.verdict(&by_rsa), server.verdict(&by_ed)], [None, refused("unauthorized")]);
    // A file that is of no use changes nothing.
    fs::write(&more, "short").unwrap();
    server.logged("the keys in use stay");
    assert_eq!(server.verdict(&by_rsa), None);
    fs::write(&more, sample("ed.pub.pem")).unwrap();
    server.logged("the keys that were just read");
    assert_eq!([server.verdict(&by_rsa), server.verdict(&by_ed)], [refused("unauthorized"), None]);
    let before = server.log.lock().unwrap().matches("the keys that were just read").count();
    assert!(Command::new("kill").args(["-HUP", &server.child.id().to_string()]).status().unwrap().success());
    let started = Instant::now();
    while server.log.lock().unwrap().matches("the keys that were just read").count() == before {
        assert!(started.elapsed() < WAIT, "SIGHUP reads them");
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = fs::remove_dir_all(&folder);
}

#[test]
fn a_token_for_one_entrance_is_refused_the_second_time() {
    let server = Server::start("once", &[]);
    let mut once = claims("anna");
    (once["jti"], once["once"]) = (json!("7"), json!(true));
    let once = token(&once);
    let mut first = server.enter(&once);
    assert_eq!(first.verdict(), None);
    assert_eq!(server.verdict(&once), refused("unauthorized"));
    drop(first);
    assert_eq!(server.verdict(&once), refused("unauthorized"));
    assert_eq!(server.verdict(&token(&claims("anna"))), None);
}

#[test]
fn a_peer_ends_when_its_token_does_unless_it_brings_a_new_one() {
    let server = Server::start("expiry", &[]);
    let until = |exp: u64| token(&with("exp", json!(exp)));
    let exp = unix() + 3;
    let (mut stays, mut goes) = (server.enter(&until(exp)), server.enter(&until(exp)));
    let other = stays.ask("authenticate", json!({ "token": token(&claims("berta")) }));
    assert_eq!(other["data"]["code"], "forbidden", "another user's");
    let elsewhere = stays.ask("authenticate", json!({ "token": token(&with("channel", json!("else"))) }));
    assert_eq!(elsewhere["data"]["code"], "forbidden");
    let past = stays.ask("authenticate", json!({ "token": until(unix() - 10) }));
    assert_eq!(past["data"]["code"], "expired");
    let renewed = stays.ask("authenticate", json!({ "token": token(&claims("anna")) }));
    assert_eq!(renewed["type"], "authenticated", "{renewed}");
    assert_eq!(goes.turned_away(), ("expired".to_owned(), 4401));
    let late = unix();
    assert!((exp..exp + 5).contains(&late), "{late} and not {exp}");
    assert_eq!(stays.ask("ping", Value::Null)["type"], "pong");
    assert_eq!(server.verdict(&until(exp)), refused("expired"));
}

#[test]
fn plain_http_gets_a_status_in_place_of_a_socket() {
    let server = Server::start("http", &[]);
    let good = token(&claims("anna"));
    for (query, status, code) in [
        ("channelId=room".to_owned(), 401, "unauthorized"),
        ("auth=x.y.z&channelId=room".to_owned(), 401, "unauthorized"),
        (format!("auth={}&channelId=room", token(&with("exp", json!(1)))), 401, "expired"),
        (format!("auth={good}&channelId=else"), 403, "forbidden"),
        (format!("auth={good}"), 400, "missing-channel-id"),
        (format!("auth={good}&channelId=room"), 426, "upgrade-required"),
    ] {
        let (got, answer) = get(server.address, &format!("/socket?{query}"), "");
        assert_eq!(got, status, "{query}: {answer}");
        assert!(answer.contains(&format!("\"code\":\"{code}\"")), "{answer}");
        assert_eq!(answer.to_lowercase().contains("www-authenticate: bearer"), status == 401, "{answer}");
    }
    let (status, _) = get(server.address, "/socket?channelId=room", "Sec-WebSocket-Protocol: weirgate.auth.a.b.c\r\n");
    assert_eq!(status, 401);
}

/// The first message has to come, and to be the right one.
#[test]
fn a_socket_without_a_token_waits_for_five_seconds_and_no_longer() {
    let server = Server::start("wait", &[]);
    let began = Instant::now();
    let mut silent = server.socket("channelId=room", "");
    let mut wrong = server.socket("channelId=room", "");
    wrong.say(&json!({ "type": "get-rtp-capabilities" }));
    assert_eq!(wrong.turned_away(), ("unauthorized".to_owned(), 4401));
    let mut forged = server.socket("channelId=room", "");
    forged.say(&json!({ "type": "authenticate", "data": { "token": "a.b.c" } }));
    assert_eq!(forged.turned_away(), ("unauthorized".to_owned(), 4401));
    assert_eq!(silent.turned_away(), ("unauthorized".to_owned(), 4401));
    assert!(began.elapsed() > Duration::from_millis(4_900), "{:?}", began.elapsed());
    assert!(server.metrics().contains("weirgate_entries_refused_total{code=\"unauthorized\"} 3"));
}

#[test]
fn nobody_ever_sees_a_token() {
    let server = Server::start("secrecy", &[]);
    let mut tokens = Vec::new();
    let mut make = |claims: &Value| {
        tokens.push(token(claims));
        tokens.last().unwrap().clone()
    };
    let mut watcher = server.enter(&make(&claims("watcher")));
    let mut told = vec![watcher.ask("subscribe", Value::Null).to_string()];
    let mut by_url = server.enter(&make(&claims("anna")));
    let mut by_protocol =
        server.socket("channelId=room", &format!("weirgate, weirgate.auth.{}", make(&claims("berta"))));
    let mut by_message = server.socket("channelId=room", "");
    told.push(by_message.ask("authenticate", json!({ "token": make(&claims("carla")) })).to_string());
    told.push(by_url.ask("authenticate", json!({ "token": make(&claims("anna")) })).to_string());
    // Refused by each way, and where it does not belong.
    let bad = make(&with("exp", json!(1)));
    for query in [format!("auth={bad}&channelId=room"), format!("auth={bad}&channelId={bad}"), format!("resume={bad}")]
    {
        let mut socket = server.socket(&query, "");
        told.push(format!("{:?}", socket.verdict()));
    }
    let mut socket = server.socket("channelId=room", &format!("weirgate, weirgate.auth.{bad}"));
    told.push(format!("{:?}", socket.turned_away()));
    let mut socket = server.socket("channelId=room", "");
    told.push(socket.ask("authenticate", json!({ "token": [bad] })).to_string());
    told.push(by_url.ask("authenticate", json!({ "token": bad })).to_string());
    told.push(by_url.ask("produce", json!({ "token": bad })).to_string());
    told.push(get(server.address, &format!("/socket?auth={bad}&channelId=room"), "").1);
    told.push(get(server.address, &format!("/{bad}"), &format!("Authorization: Bearer {bad}\r\n")).1);
    for socket in [&mut by_url, &mut by_protocol, &mut by_message] {
        told.push(socket.ask("subscribe", Value::Null).to_string());
    }
    watcher.say(&json!({ "type": "ping" }));
    while !told.last().unwrap().contains("pong") {
        told.push(watcher.hear().to_string());
    }
    assert!(told.concat().contains("carla"));
    server.logged("credential was refused");
    server.logged("joined");
    let everything = told.concat() + &server.metrics() + &server.log.lock().unwrap();
    for token in &tokens {
        for part in token.split('.') {
            // All headers are alike, and say nothing of anybody.
            if let Some(at) = everything.find(part).filter(|_| part != token.split('.').next().unwrap()) {
                panic!("a part of a token: …{}…", &everything[at.saturating_sub(200)..at + part.len()]);
            }
        }
    }
    let secret = std::str::from_utf8(SECRET).unwrap().trim();
    assert!(!everything.contains(secret));
}

#[test]
fn the_subcommand_makes_a_token_that_opens_the_door() {
    let server = Server::start("mint", &[]);
    let key = server.folder.join("key");
    let made = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weirgate"));
        command.args(["token", "--user", "anna", "--channel", "room", "--key"]).arg(&key).args(args);
        let output = command.output().unwrap();
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.lines().count(), 1);
        text.trim().to_owned()
    };
    assert_eq!(server.verdict(&made(&[])), None);
    assert_eq!(server.verdict(&made(&["--grant", "publish,subscribe"])), refused("forbidden"));
    assert_eq!(server.verdict(&made(&["--ttl", "0"])), refused("expired"));
    let mut listener = server.enter(&made(&["--grant", "join,subscribe,publish:video", "--name", "Anna"]));
    let produce = |kind: &str| json!({ "kind": kind, "rtpParameters": {} });
    assert_eq!(listener.ask("produce", produce("audio"))["data"]["code"], "forbidden");
    assert_eq!(listener.ask("produce", produce("video"))["data"]["code"], "wrong-step");
    let once = made(&["--once", "--jti", "1"]);
    assert_eq!([server.verdict(&once), server.verdict(&once)], [None, refused("unauthorized")]);
}
