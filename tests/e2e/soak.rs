//! The program under everything at once: calls that must lose nothing, ten joins and leaves a second, and hostile peers
//! of every kind beside them. SOAK_SECONDS of it (20 by default, a smoke test; 1800 for a soak), at
//! SOAK_PERMILLE of the attacks' full rates.
#![expect(clippy::disallowed_methods, reason = "a soak goes by real time")]

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::churn::STATES;
use crate::hostile::Quarry;
use crate::soak_attacks::{Attack, Line, Stage, connect_from};
use crate::support::{Server, program, setting, two_free_ports};

const JOINS_A_SECOND: f64 = 10.0;
/// The number that are there at the same time.
const LANES: usize = 5;
const VISITOR: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 33);
/// Memory that may come and go however long it runs: that of the present sockets and threads.
const SLACK_KIB: u64 = 4_096;

fn seconds() -> u64 {
    setting("SOAK_SECONDS", 20) as u64
}

/// Calls that measure themselves: `weirgate load` counts every packet that it sent and that came.
pub(crate) fn honest_calls(server: SocketAddr, seconds: u64) -> Child {
    let video = if cfg!(debug_assertions) { "200" } else { "1000" };
    let args = ["--channels", "2", "--peers", "3", "--video", video, "--warmup", "1", "--json", "-"];
    program()
        .args(["load", "--url", &format!("ws://{server}/socket"), "--duration", &seconds.to_string()])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("the program runs")
}

/// One client that comes, sends a page's messages, and leaves. None: it was refused, or not answered.
fn visit(server: SocketAddr, number: usize) -> Option<()> {
    let stream = connect_from(VISITOR, server).ok()?;
    let mut line = Line::open(stream, server, &format!("guest{number}"), &format!("lane{}", number % LANES))?;
    let capabilities = line.ask("get-rtp-capabilities", json!({}))?;
    line.ask("subscribe", Value::Null)?;
    line.ask("create-transport", json!({}))?;
    let fingerprint = json!({ "algorithm": "sha-256", "value": vec!["AB"; 32].join(":") });
    line.ask("connect-transport", json!({ "dtlsParameters": { "role": "client", "fingerprints": [fingerprint] } }))?;
    let rtp = json!({
        "mid": "0",
        "codecs": [{ "mimeType": "audio/opus", "payloadType": 111, "clockRate": 48000, "channels": 2 }],
        "encodings": [{ "ssrc": 100_000 + number }],
    });
    let producer = line.ask("produce", json!({ "kind": "audio", "rtpParameters": rtp }))?["id"].clone();
    line.ask("consume", json!({ "rtpCapabilities": capabilities, "producerId": producer }))?;
    Some(())
}

fn visits(stage: &Stage, lane: usize, came: &AtomicUsize, refused: &AtomicUsize) {
    let gap = Duration::from_secs_f64(LANES as f64 / JOINS_A_SECOND);
    for n in 0.. {
        let started = Instant::now();
        if stage.stop.load(Ordering::Relaxed) {
            return;
        }
        came.fetch_add(1, Ordering::Relaxed);
        let done = visit(stage.server, n * LANES + lane);
        refused.fetch_add(usize::from(done.is_none()), Ordering::Relaxed);
        std::thread::sleep(gap.saturating_sub(started.elapsed()));
    }
}

fn median(values: &[u64]) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// Resident memory over the time: after the first quarter it may not grow.
fn is_flat(resident: &[u64]) {
    let quarter = (resident.len() / 4).max(1);
    let (early, late) = (&resident[quarter..2 * quarter], &resident[resident.len() - quarter..]);
    let (early, late) = (median(early), median(late));
    println!(
        "resident: {early} KiB after the first quarter, {late} KiB in the last, at most {:?}",
        resident.iter().max()
    );
    assert!(late <= early + early / 20 + SLACK_KIB, "memory grew: {early} KiB, then {late} KiB");
}

#[test]
fn calls_lose_nothing_while_others_come_go_and_do_their_worst() {
    let seconds = seconds();
    let server = Server::start(&["--spread", "always"]);
    // The memory of a first client stays.
    visit(server.address, 0).expect("the first one is let in");
    server.until("nobody", |metrics| metrics.sum("sockets") == 0);
    let descriptors = server.descriptors();
    let stage = Stage { server: server.address, stop: AtomicBool::new(false) };
    let attacks = Attack::all();
    let (came, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let mut resident = Vec::new();
    let calls = honest_calls(server.address, seconds);
    let quarry = Quarry::talk(&server);
    let outcome = std::thread::scope(|scope| {
        for attack in &attacks {
            scope.spawn(|| attack.run(&stage));
        }
        for lane in 0..LANES {
            let (stage, came, refused) = (&stage, &came, &refused);
            scope.spawn(move || visits(stage, lane, came, refused));
        }
        let until = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < until {
            std::thread::sleep(Duration::from_millis(500));
            resident.push(server.resident_kib());
        }
        let outcome = calls.wait_with_output().expect("the load ends");
        stage.stop.store(true, Ordering::Relaxed);
        outcome
    });
    for attack in &attacks {
        println!("{}: {} times", attack.name, attack.done.load(Ordering::Relaxed));
    }
    println!("{came:?} came and went, {refused:?} were refused");
    let report: Value = serde_json::from_slice(&outcome.stdout).expect("the load reports");
    println!("{:#}", report["measured"]);
    let lost = report["measured"]["lost_packets"].as_u64().expect("it was measured");
    assert_eq!((lost, outcome.status.code()), (0, Some(0)), "the calls beside it lost packets: {}", server.log());
    quarry.is_unharmed();
    drop(quarry);
    assert_eq!(refused.load(Ordering::Relaxed), 0, "honest joins were refused");
    assert!(came.load(Ordering::Relaxed) > seconds as usize, "there was little coming and going");
    for attack in &attacks {
        assert!(attack.done.load(Ordering::Relaxed) > 0, "nobody ever did: {}", attack.name);
    }
    is_flat(&resident);
    server.until("nothing", |metrics| metrics.gauges().all(|name| metrics.sum(name) == 0 || STATES.contains(&name)));
    server.until("as many descriptors as before", |_| server.descriptors() <= descriptors);
    server.stop();
}

/// The clients of a server that is killed find its successor at the same addresses, with nothing left of what they had.
#[test]
fn after_kill_9_whoever_comes_again_has_a_call() {
    let (listen, media) = (two_free_ports(), two_free_ports().to_string());
    let server = Server::start_at(listen, &media, &[]);
    let started = Instant::now();
    let quarry = Quarry::talk(&server);
    let first = started.elapsed();
    server.kill();
    let server = Server::start_at(listen, &media, &[]);
    let gone = quarry.alice.signalling().request("ping", Value::Null);
    assert!(gone.is_err(), "its socket ended with the first server: {gone:?}");
    drop(quarry);
    let started = Instant::now();
    let again = Quarry::talk(&server);
    let second = started.elapsed();
    again.is_unharmed();
    println!("a call after {first:?}, and after the kill after {second:?}");
    assert!(second <= first * 5, "{first:?} at first, {second:?} after the kill");
    drop(again);
    server.stop();
}
