//! Peers that outlive their sockets, with the real server and real connections: each way to come back, each refusal, and
//! connections that a proxy cuts at drawn bytes, in either direction and in every manner: every text arrives exactly once
//! and in order, and every request is answered exactly once.
#![cfg(feature = "edge")]
#![expect(clippy::disallowed_methods, reason = "a real server on real sockets: its tests wait by the clock")]

#[path = "resume/cut.rs"]
mod cut;
#[path = "resume/mass.rs"]
mod mass;
#[path = "resume/returner.rs"]
mod returner;
mod server_process;
#[path = "resume/storm.rs"]
mod storm;

use std::collections::VecDeque;
use std::io::Write;
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use weirgate::base::limits::{PRODUCERS_PER_PEER_MAX, TRANSPORTS_PER_PEER_MAX};

use cut::{Cut, Manner, Proxy, Side};
use returner::{Returner, Socket, Way};
use server_process::ServerProcess;

const WAIT: Duration = Duration::from_secs(20);

fn setting(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(usual)
}

fn producer(n: usize) -> Value {
    json!({ "type": "produce", "data": { "kind": "audio", "appData": { "n": n }, "rtpParameters": {
        "mid": n.to_string(),
        "codecs": [{ "mimeType": "audio/opus", "payloadType": 111, "clockRate": 48000, "channels": 2 }],
        "encodings": [{ "ssrc": 1_000 + n }],
    } } })
}

/// What the client asks for, one after the other. Each transport counts: asked for twice, the last ones are refused.
fn script() -> VecDeque<Value> {
    let mut transports = 0;
    let requests = (0..150).map(|n| match n % 9 {
        0 if transports < TRANSPORTS_PER_PEER_MAX => {
            transports += 1;
            json!({ "type": "create-transport" })
        }
        4 => json!({ "type": "get-producers" }),
        _ => json!({ "type": "ping" }),
    });
    requests.collect()
}

fn cuts(rng: &mut SmallRng) -> VecDeque<Cut> {
    let manners = [Manner::Reset, Manner::Close, Manner::Reset, Manner::Close, Manner::Hole];
    let cut = |_| Cut {
        side: if rng.random_bool(0.5) { Side::Client } else { Side::Server },
        // Some within the handshake.
        bytes: if rng.random_bool(0.2) { rng.random_range(1..300) } else { rng.random_range(200..2_500) },
        manner: manners[rng.random_range(0..manners.len())],
    };
    (0..25).map(cut).collect()
}

/// One client behind the proxy, and one beside it of whose producers it hears. Returns how often it came back.
fn a_call_with_cuts(server: &ServerProcess, seed: u64) -> usize {
    let mut rng = SmallRng::seed_from_u64(seed);
    let channel = format!("room{seed}");
    let proxy = Proxy::start(server.address);
    let mut client = Returner::join(proxy.address, &format!("auth=anna&channelId={channel}"));
    proxy.cut_from_now(cuts(&mut rng));
    let mut other = Socket::open(server.address, &format!("auth=berta&channelId={channel}"), "").unwrap();
    other.ask(&json!({ "type": "create-transport" }));
    let (mut todo, total) = (script(), script().len() as u64);
    let (mut asked, mut produced) = (0, 0);
    let started = Instant::now();
    while client.replies().len() < total as usize || client.producers().len() < PRODUCERS_PER_PEER_MAX {
        assert!(started.elapsed() < WAIT, "seed {seed}: {} replies, {:?}", client.replies().len(), client.producers());
        if asked < client.replies().len() as u64 + rng.random_range(1..12)
            && let Some(mut request) = todo.pop_front()
        {
            asked += 1;
            request["requestId"] = json!(asked);
            if request["type"] == "ping" && rng.random_bool(0.3) {
                request["data"] = json!({ "received": client.received() });
            }
            client.send(request);
        }
        if produced < PRODUCERS_PER_PEER_MAX && rng.random_bool(0.3) {
            other.ask(&producer(produced));
            produced += 1;
        }
        let way = [Way::Message, Way::Subprotocol, Way::Url][rng.random_range(0..3)];
        client.turn(way);
    }
    // What comes twice comes late.
    let quiet = Instant::now();
    while quiet.elapsed() < Duration::from_millis(50) {
        client.turn(Way::Message);
    }
    assert_eq!(client.replies(), (1..=total).collect::<Vec<_>>(), "seed {seed}");
    assert_eq!(client.producers(), (0..PRODUCERS_PER_PEER_MAX as u64).collect::<Vec<_>>(), "seed {seed}");
    let errors: Vec<_> = client.heard.iter().filter(|text| text["type"] == "error").collect();
    assert!(errors.is_empty(), "seed {seed}: {errors:?}");
    let seen = other.ask(&json!({ "type": "subscribe" }));
    assert_eq!(seen["data"]["peers"].as_array().unwrap().len(), 1, "seed {seed}: it is the same peer, and alone");
    client.came_back
}

#[test]
fn every_text_arrives_once_and_in_order_wherever_the_connection_is_cut() {
    let server = ServerProcess::start();
    let (from, count) = (setting("WEIRGATE_SEED_FROM", 0), setting("WEIRGATE_SEEDS", 16));
    let mut cuts = 0;
    for seed in from..from + count {
        cuts += a_call_with_cuts(&server, seed);
    }
    println!("{cuts} returns in {count} calls");
    assert!(cuts as u64 > 10 * count, "{cuts}");
}

fn joined(server: &ServerProcess, user: &str) -> (Socket, String) {
    let mut socket = Socket::open(server.address, &format!("auth={user}&channelId=room"), "").unwrap();
    let token = socket.ask(&json!({ "type": "subscribe", "data": { "resume": true } }))["data"]["resume"].clone();
    (socket, token.as_str().expect("a token").to_owned())
}

#[test]
fn each_way_leads_back_and_each_token_is_good_once() {
    let server = ServerProcess::start();
    let (first, mut token) = joined(&server, "anna");
    first.reset();
    let mut used = Vec::new();
    for way in [Way::Message, Way::Subprotocol, Way::Url] {
        let (mut socket, resumed) = Socket::resume(server.address, way, &token, Some(1 + used.len() as u64)).unwrap();
        assert_eq!(resumed["data"]["received"], 1 + used.len());
        assert_eq!(socket.ask(&json!({ "type": "ping" }))["type"], "pong");
        for spent in used.iter().chain([&token]) {
            for way in [Way::Message, Way::Subprotocol, Way::Url] {
                assert_eq!(Socket::refused(server.address, way, spent, None), ("unauthorized".to_owned(), 4401));
            }
        }
        used.push(std::mem::replace(&mut token, resumed["data"]["resume"].as_str().unwrap().to_owned()));
        socket.reset();
    }
    let forged = token.chars().rev().collect::<String>();
    for bad in [forged.as_str(), "x", &token.to_uppercase(), &"0".repeat(token.len())] {
        assert_eq!(
            Socket::refused(server.address, Way::Message, bad, None),
            ("unauthorized".to_owned(), 4401),
            "{bad}"
        );
    }
    assert_eq!(Socket::refused(server.address, Way::Message, &token, Some(u64::MAX)).0, "unauthorized");
    assert_eq!(
        Socket::refused(server.address, Way::Url, &token, None),
        ("expired".to_owned(), 4401),
        "it ended by that"
    );
}

#[test]
fn a_close_frame_ends_the_peer_at_once_and_a_reset_does_not() {
    let server = ServerProcess::start_with(&["--resume-grace", "3s"]);
    let (mut watcher, _) = joined(&server, "watcher");
    let (closed, token) = joined(&server, "closed");
    assert_eq!(watcher.hear()["type"], "peer-joined");
    closed.close();
    assert_eq!(watcher.hear()["type"], "peer-left");
    assert_eq!(Socket::refused(server.address, Way::Message, &token, None).0, "expired");

    let (gone, token) = joined(&server, "gone");
    assert_eq!(watcher.hear()["type"], "peer-joined");
    let since = Instant::now();
    gone.reset();
    assert_eq!(watcher.hear()["type"], "peer-away");
    assert!(since.elapsed() > Duration::from_millis(1_900));
    let back = Socket::resume(server.address, Way::Message, &token, None).unwrap();
    assert_eq!(watcher.hear()["type"], "peer-back");
    back.0.reset();
    let told: Vec<_> = (0..2).map(|_| watcher.hear()["type"].clone()).collect();
    assert_eq!(told, ["peer-away", "peer-left"]);
    let next = back.1["data"]["resume"].as_str().unwrap();
    assert_eq!(Socket::refused(server.address, Way::Message, next, None).0, "expired");
}

#[test]
fn a_client_that_pinged_every_second_and_falls_silent_is_away_and_its_socket_ends() {
    let server = ServerProcess::start();
    let (mut watcher, _) = joined(&server, "watcher");
    let proxy = Proxy::start(server.address);
    let mut client = Socket::open(proxy.address, "auth=anna&channelId=room", "").unwrap();
    client.ask(&json!({ "type": "subscribe", "data": { "resume": true } }));
    assert_eq!(watcher.hear()["type"], "peer-joined");
    for _ in 0..6 {
        sleep(Duration::from_millis(900));
        client.ask(&json!({ "type": "ping" }));
    }
    let since = Instant::now();
    proxy.hole_now();
    assert_eq!(watcher.hear()["type"], "peer-away");
    // Two seconds until it is broken, and two until it is told.
    let told = since.elapsed();
    assert!(told > Duration::from_millis(3_000) && told < Duration::from_millis(20_000), "{told:?}");
}

#[test]
fn a_client_whose_page_is_held_up_is_not_away() {
    let server = ServerProcess::start();
    let (mut watcher, _) = joined(&server, "watcher");
    let (mut client, _) = joined(&server, "anna");
    assert_eq!(watcher.hear()["type"], "peer-joined");
    for _ in 0..6 {
        sleep(Duration::from_millis(900));
        client.ask(&json!({ "type": "ping" }));
    }
    // It says nothing, but answers the pings of the server's, as a browser does by itself.
    client.only_answers_for(Duration::from_secs(8));
    assert_eq!(client.ask(&json!({ "type": "ping" }))["type"], "pong");
    assert_eq!(watcher.ask(&json!({ "type": "ping" }))["type"], "pong", "it was told nothing");
}

#[test]
fn another_socket_with_the_token_takes_over_from_one_that_looks_alive() {
    let server = ServerProcess::start();
    let (mut old, token) = joined(&server, "anna");
    let (mut new, resumed) = Socket::resume(server.address, Way::Subprotocol, &token, Some(1)).unwrap();
    assert_eq!(old.close_code(), 4409);
    assert_eq!(new.ask(&json!({ "type": "ping" }))["type"], "pong");
    assert_eq!(Socket::refused(server.address, Way::Message, &token, Some(1)).0, "unauthorized");
    // Two that fight over one peer: the one that has the latest token wins, and the other is told.
    let next = resumed["data"]["resume"].as_str().unwrap();
    let (_newer, _) = Socket::resume(server.address, Way::Url, next, Some(2)).unwrap();
    assert_eq!(new.close_code(), 4409);
}

#[test]
fn without_grace_there_are_no_tokens_and_with_replace_there_is_one_of_each_user() {
    let server = ServerProcess::start_with(&["--resume-grace", "0"]);
    let mut socket = Socket::open(server.address, "auth=anna&channelId=room", "").unwrap();
    let reply = socket.ask(&json!({ "type": "get-rtp-capabilities", "data": { "resume": true } }));
    assert_eq!(reply.get("resume"), Some(&Value::Null));
    let plain = socket.ask(&json!({ "type": "get-rtp-capabilities" }));
    assert_eq!(plain.as_object().unwrap().len(), 2, "a strict client sees nothing new");

    let server = ServerProcess::start_with(&["--same-user", "replace"]);
    let (mut watcher, _) = joined(&server, "watcher");
    let (mut old, _) = joined(&server, "anna");
    let joined_first = watcher.hear();
    let (_new, _) = joined(&server, "anna");
    assert_eq!(old.hear()["data"]["code"], "replaced");
    assert_eq!(old.close_code(), 4409);
    let told: Vec<_> = (0..2).map(|_| watcher.hear()).collect();
    assert_eq!([&told[0]["type"], &told[1]["type"]], ["peer-left", "peer-joined"]);
    assert_eq!(told[1]["data"]["replaces"], joined_first["data"]["id"]);
}

/// In KiB.
fn resident(server: &ServerProcess) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has it");
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn sockets_without_a_peer_keep_no_long_message() {
    const SOCKETS: usize = 300;
    // The beginning of one that is as long as a message of a peer may be.
    let mut long = vec![0x81, 0xff, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0];
    long.resize(250 * 1024, b'a');
    for query in ["resume", "resume=abc"] {
        let server = ServerProcess::start();
        let before = resident(&server);
        let (mut sockets, mut most) = (Vec::new(), 0);
        for _ in 0..SOCKETS {
            let mut socket = TcpStream::connect(server.address).unwrap();
            let head = "Host: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                        Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==";
            write!(socket, "GET /socket?{query} HTTP/1.1\r\n{head}\r\n\r\n").unwrap();
            socket.set_nonblocking(true).unwrap();
            sockets.push((socket, 0));
        }
        for _ in 0..20 {
            for (socket, sent) in &mut sockets {
                while let Ok(more @ 1..) = socket.write(&long[*sent..]) {
                    *sent += more;
                }
            }
            sleep(Duration::from_millis(20));
            most = most.max(resident(&server));
        }
        let kept = most.saturating_sub(before) / SOCKETS;
        println!("{query}: {kept} KiB a socket");
        assert!(kept < 110, "{query}: {kept} KiB a socket");
    }
}

#[test]
fn a_hostile_resume_costs_its_sender_and_nobody_else() {
    let server = ServerProcess::start();
    let (mut watcher, _) = joined(&server, "watcher");
    // First messages that are no resume, or never end, or never come.
    for text in ["{}", "", "[]", r#"{"type":"resume"}"#, r#"{"type":"resume","data":{"token":7}}"#] {
        let mut socket = Socket::open(server.address, "resume", "").unwrap();
        socket.say(text);
        assert_eq!(socket.hear()["data"]["code"], "unauthorized", "{text:?}");
    }
    let mut silent: Vec<TcpStream> = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(server.address).unwrap());
    }
    // One client that resumes itself as fast as it can is slowed down, and in the end joins anew.
    let (first, mut token) = joined(&server, "looper");
    assert_eq!(watcher.hear()["type"], "peer-joined");
    drop(first);
    let mut back = 0;
    let refused = loop {
        match Socket::resume(server.address, Way::Url, &token, None) {
            Ok((socket, resumed)) => {
                token = resumed["data"]["resume"].as_str().unwrap().to_owned();
                back += 1;
                drop(socket);
            }
            Err(refused) => break refused,
        }
        assert!(back < 5_000);
    };
    println!("slowed down after {back} returns: {refused}");
    assert_eq!(watcher.ask(&json!({ "type": "ping" }))["type"], "pong");
}
