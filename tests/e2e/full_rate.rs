//! Attacks that once stopped a server, each alone beside calls that count what they lose: at a share of the rate at which
//! they did it, or at all of it with ATTACK_PERMILLE=1000 and a release build as E2E_PROGRAM.
#![expect(clippy::disallowed_methods, reason = "attacks on real sockets are paced in real time")]

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weirgate::client::Call;

use crate::hostile::{address_of, check, long_check};
use crate::soak::honest_calls;
use crate::soak_attacks::{HOSTILE, Line, Stage, audio, connected};
use crate::support::{Metrics, Server, setting};

const SECONDS: u64 = 6;
/// An honest client waits for an answer, beside an attack: five times the goal, or what it waits alone.
const ANSWER_MAX: Duration = Duration::from_millis(250);
const SLACK_KIB: u64 = 16 * 1_024;

fn seconds() -> u64 {
    setting("ATTACK_SECONDS", SECONDS as usize) as u64
}

fn share() -> f64 {
    setting("ATTACK_PERMILLE", if cfg!(debug_assertions) { 20 } else { 200 }) as f64 / 1_000.0
}

/// Times of one who asks and is answered, ten times a second.
fn answers(honest: &mut Line, span: Duration) -> Vec<Duration> {
    let (began, mut times) = (Instant::now(), Vec::new());
    while began.elapsed() < span {
        let asked = Instant::now();
        assert!(honest.ask("ping", Value::Null).is_some(), "nobody honest is put out");
        times.push(asked.elapsed());
        std::thread::sleep(Duration::from_millis(100).saturating_sub(asked.elapsed()));
    }
    times.sort();
    times
}

/// Calls and an honest client for as long as the attack is carried on; what the metrics say before it and after it.
fn beside(server: &Server, what: &str, attack: impl Fn(&Stage) + Sync) -> (Metrics, Metrics) {
    let stage = Stage { server: server.address, stop: AtomicBool::new(false) };
    let mut honest = stage.socket("honest", "quiet").expect("it is let in");
    let alone = answers(&mut honest, Duration::from_secs(1));
    let calls = honest_calls(server.address, seconds());
    std::thread::sleep(Duration::from_secs(1));
    let (before, resident, cpu) = (server.metrics(), server.resident_kib(), server.cpu());
    let mut highest = resident;
    let (times, outcome) = std::thread::scope(|scope| {
        scope.spawn(|| attack(&stage));
        let watch = scope.spawn(|| answers(&mut honest, Duration::from_secs(seconds())));
        while !watch.is_finished() {
            highest = highest.max(server.resident_kib());
            std::thread::sleep(Duration::from_millis(200));
        }
        let outcome = calls.wait_with_output().expect("the load ends");
        stage.stop.store(true, Ordering::Relaxed);
        (watch.join().expect("it was answered"), outcome)
    });
    let (cpu, after) = (server.cpu() - cpu, server.metrics());
    let report: Value = serde_json::from_slice(&outcome.stdout).expect("the load reports");
    let measured = &report["measured"];
    println!(
        "{what}: lost {} of {}; {cpu:?} of CPU; an answer took {:?} in the middle and {:?} at most, {:?} and {:?} alone; \
         {resident} KiB, {highest} at most, {} after",
        measured["lost_packets"],
        measured["delivered_packets"],
        times[times.len() / 2],
        times[times.len() - 1],
        alone[alone.len() / 2],
        alone[alone.len() - 1],
        server.resident_kib(),
    );
    assert_eq!(measured["lost_packets"], 0, "the calls beside it lost packets: {measured:#}\n{}", server.log());
    assert!(
        times[times.len() / 2] < ANSWER_MAX.max(5 * alone[alone.len() / 2]),
        "{times:?} beside it, {alone:?} alone"
    );
    assert!(highest <= resident + resident / 2 + 4 * SLACK_KIB, "memory: {resident} KiB, {highest} KiB beside it");
    (before, after)
}

/// A channel of many producers with as much appData as there may be, by several peers.
fn full_of_producers(stage: &Stage, producers: usize) -> Vec<Line> {
    let mut peers = Vec::new();
    for peer in 0..producers.div_ceil(60) {
        let mut line = stage.socket(&format!("publisher{peer}"), "lists").expect("it is let in");
        line.ask("create-transport", json!({})).expect("it has room");
        for n in 60 * peer..producers.min(60 * (peer + 1)) {
            let mut data = audio(50_000 + n as u32, &format!("{n}"));
            data["appData"] = json!("x".repeat(16_000));
            while line.ask("produce", data.clone()).is_none() {
                // It was told to go slower.
                std::thread::sleep(Duration::from_millis(200));
            }
        }
        peers.push(line);
    }
    peers
}

/// Twenty sockets, each with 400 requests in one write, and again when they are put out.
fn ask_for_lists(stage: &Stage, request: &str, put_out: &AtomicU64) {
    let message = format!("{{\"type\":\"{request}\"}}");
    let mut frame = vec![0x81, 0x80 | message.len() as u8, 0, 0, 0, 0];
    frame.extend(message.as_bytes());
    let burst = frame.repeat(400);
    std::thread::scope(|scope| {
        for asker in 0..20 {
            let burst = &burst;
            scope.spawn(move || {
                while !stage.is_closed() {
                    let Some(mut line) = stage.socket(&format!("lister{asker}"), "lists") else { continue };
                    let stream = line.0.get_mut();
                    let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
                    let _ = stream.write_all(burst);
                    let mut buffer = vec![0; 64 * 1024];
                    while !stage.is_closed() && stream.read(&mut buffer).is_ok_and(|read| read > 0) {}
                    put_out.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_secs_f64(0.05 / share()).min(Duration::from_secs(1)));
                }
            });
        }
    });
}

#[test]
fn lists_asked_for_by_twenty_at_once_hold_up_nobody() {
    for request in ["get-producers", "subscribe"] {
        let server = Server::start(&["--cores", "1"]);
        let stage = Stage { server: server.address, stop: AtomicBool::new(false) };
        let publishers = full_of_producers(&stage, (480.0 * share().max(0.1)) as usize);
        let rounds = AtomicU64::new(0);
        let (before, after) = beside(&server, request, |stage| ask_for_lists(stage, request, &rounds));
        let refused = after.labelled("signalling_errors_total", "rate-limited")
            - before.labelled("signalling_errors_total", "rate-limited");
        println!("{refused} requests refused as rate-limited, {rounds:?} bursts");
        assert!(refused > 0, "a counter tells of it");
        drop(publishers);
        server.until("nothing held", |metrics| metrics.sum("sockets_held_bytes") == 0 && metrics.sum("sockets") == 0);
        server.stop();
    }
}

/// Paces whatever is done by its share of a full rate, in this thread.
fn at_rate(stage: &Stage, a_second: f64, mut act: impl FnMut()) {
    let (began, mut times) = (Instant::now(), 0.0);
    while !stage.is_closed() {
        // On a machine that is too busy for it, at the rate that it has time for.
        while times <= began.elapsed().as_secs_f64() * a_second * share() && !stage.is_closed() {
            act();
            times += 1.0;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn feedback_of_a_hundred_thousand_packets_a_datagram_is_cut_short() {
    let server = Server::start(&["--cores", "1"]);
    let mut compound = Vec::new();
    for n in 0..84u8 {
        // 8,191 packets that were not received, in one chunk.
        compound.extend([0x8f, 205, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0, 0, n, 0x1f, 0xff, 0, 0, 0, n, 0x1f, 0xff, 0, 0]);
    }
    let sent = AtomicU64::new(0);
    let (before, after) = beside(&server, "feedback", |stage| {
        let call: Call = connected(stage, "flooder").expect("it is let in");
        at_rate(stage, 3_000.0, || {
            call.seal(&compound);
            sent.fetch_add(1, Ordering::Relaxed);
        });
    });
    let cut = after.dropped("rtcp_effort") - before.dropped("rtcp_effort");
    println!("{sent:?} datagrams, {cut} cut short");
    assert!(cut as u64 >= sent.load(Ordering::Relaxed) / 2, "{sent:?} were sent, {cut} counted");
    server.stop();
}

#[test]
fn checks_under_a_wrong_password_take_nothing_from_calls() {
    let server = Server::start(&["--cores", "1"]);
    let sent = AtomicU64::new(0);
    let (before, after) = beside(&server, "wrong passwords", |stage| {
        let mut line = stage.socket("guesser", "hostile").expect("it is let in");
        let transport = line.ask("create-transport", json!({})).expect("it has room");
        let name = format!("{}:x", transport["iceParameters"]["usernameFragment"].as_str().expect("it has a name"));
        let requests = [check(&name, Some("guessed")), long_check(&name, 760), long_check(&name, 2_000)];
        let socket = UdpSocket::bind((HOSTILE, 0)).expect("a port is free");
        let to = address_of(&transport);
        let mut n = 0;
        at_rate(stage, 25_000.0, || {
            n += 1;
            if socket.send_to(&requests[n % requests.len()], to).is_ok() {
                sent.fetch_add(1, Ordering::Relaxed);
            }
        });
    });
    let dropped = after.dropped_since(&before);
    println!("{sent:?} checks, {dropped:?}");
    assert!(dropped.get("stun_bad_integrity").is_some_and(|dropped| *dropped > 0), "{dropped:?}");
    server.stop();
}
