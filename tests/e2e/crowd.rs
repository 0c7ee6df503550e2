//! A crowd joins at once, each with two transports, while a call is going on: everybody is served and the call hears
//! nothing of it. Sized for a slow machine; for figures of a fast one see docs/FIGURES.md, "Joins":
//! `CROWD_JOINS=500 CROWD_STAY=20 cargo test --release --test e2e crowd -- --nocapture`.
#![expect(clippy::disallowed_methods, reason = "tests on real sockets wait in real time")]

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::{Value, json};
use weirgate::base::buffer::DATAGRAM_MAX;
use weirgate::base::time;
use weirgate::base::units::Bitrate;
use weirgate::secure::certificate::Identity;
use weirgate::secure::dtls::{DtlsEngine, DtlsSettings};
use weirgate::sim::endpoint::{DtlsRole, Endpoint};
use weirgate::sim::ice_client::RemoteIce;
use weirgate::wire::codec::Codec;

use crate::churn::Mute;
use crate::support::{Server, frames_more, setting, within};

const JOINS: usize = 60;
const PER_CHANNEL: usize = 10;
const LANES: usize = 4;

/// What a transport of the crowd needs to know of the server.
struct Invitation {
    number: usize,
    ice: RemoteIce,
}

fn invitation(number: usize, reply: &Value) -> Invitation {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let candidate = &reply["iceCandidates"][0];
    let port = candidate["port"].as_u64().unwrap() as u16;
    let server = SocketAddr::new(candidate["ip"].as_str().unwrap().parse().unwrap(), port);
    let (ufrag, pwd) = (text(&reply["iceParameters"]["usernameFragment"]), text(&reply["iceParameters"]["password"]));
    Invitation { number, ice: RemoteIce { ufrag, pwd, candidates: vec![server] } }
}

/// All transports of the crowd, on one thread: each has a socket, connects, keeps its consent and takes no media.
fn attend(invitations: Receiver<Invitation>, identity: Identity, connected: &AtomicUsize) {
    let mut engine = DtlsEngine::new(identity, DtlsSettings::default(), std::time::Instant::now()).unwrap();
    let mut members: Vec<(UdpSocket, Endpoint)> = Vec::new();
    let start = Instant::now();
    let mut bytes = [0; DATAGRAM_MAX];
    loop {
        loop {
            match invitations.try_recv() {
                Ok(Invitation { number, ice }) => {
                    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                    socket.set_nonblocking(true).unwrap();
                    let rng = SmallRng::seed_from_u64(number as u64);
                    let now = time::Instant::ZERO + start.elapsed();
                    members.push((socket, Endpoint::new(now, &ice, DtlsRole::Client, rng)));
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return,
            }
        }
        let mut moved = false;
        let mut up = 0;
        for (socket, peer) in &mut members {
            let now = time::Instant::ZERO + start.elapsed();
            while let Ok((len, from)) = socket.recv_from(&mut bytes) {
                peer.handle_datagram(now, &mut engine, from, &mut bytes[..len]);
                moved = true;
            }
            peer.handle_timeout(now, &mut engine);
            while let Some(datagram) = peer.poll_transmit() {
                let _ = socket.send_to(&datagram.bytes, datagram.to);
                moved = true;
            }
            up += usize::from(peer.is_connected());
        }
        connected.store(up, Ordering::Relaxed);
        if !moved {
            std::thread::sleep(Duration::from_millis(if up == members.len() { 20 } else { 1 }));
        }
    }
}

#[test]
fn a_crowd_that_joins_at_once_is_served_and_disturbs_nobody() {
    let joins = setting("CROWD_JOINS", JOINS);
    let stay = Duration::from_secs(setting("CROWD_STAY", 0) as u64);
    // For figures one core is the shard's, and the other the crowd's.
    let server = if stay.is_zero() { Server::start(&[]) } else { Server::start(&["--cores", "1"]) };
    if !stay.is_zero() {
        assert!(core_affinity::set_for_current(core_affinity::CoreId { id: 1 }));
    }
    let mut speaker = server.join("speaker");
    speaker.produce_video(Codec::Vp8, Bitrate::kbps(300)).unwrap();
    let mut listener = server.join("listener");
    let heard = listener.consume(None).unwrap();
    frames_more(&listener, &heard, 30);
    if !stay.is_zero() {
        // The start is not measured: the longest round covers fifteen seconds.
        std::thread::sleep(Duration::from_secs(16));
    }
    let before = server.metrics();
    let (resident, cpu) = (server.resident_kib(), server.cpu());
    let delays_before = listener.stats().receive.unwrap().sinks[heard.index].1.len();

    let identity = Identity::generate().unwrap();
    let fingerprint = json!({ "algorithm": "sha-256", "value": identity.fingerprint_sha256() });
    let (sender, invitations) = channel();
    let connected = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| attend(invitations, identity, &connected));
        let started = Instant::now();
        let lane = |lane: usize| {
            let (server, fingerprint, sender) = (server.address, &fingerprint, sender.clone());
            move || -> Vec<Mute> {
                let join = |number: usize| {
                    let channel = format!("crowd{}", number / PER_CHANNEL);
                    let mut member = Mute::join(server, &format!("member{number}"), &channel);
                    for direction in ["send", "recv"] {
                        let reply = member.ask("create-transport", json!({ "direction": direction }));
                        sender.send(invitation(2 * number + usize::from(direction == "recv"), &reply)).unwrap();
                        let dtls = json!({ "role": "client", "fingerprints": [fingerprint] });
                        member.ask("connect-transport", json!({ "transportId": reply["id"], "dtlsParameters": dtls }));
                    }
                    member
                };
                (0..joins).filter(|number| number % LANES == lane).map(join).collect()
            }
        };
        let lanes: Vec<_> = (0..LANES).map(|number| scope.spawn(lane(number))).collect();
        let crowd: Vec<Mute> = lanes.into_iter().flat_map(|lane| lane.join().unwrap()).collect();
        let joined = started.elapsed();
        within("everybody", || (connected.load(Ordering::Relaxed) == 2 * joins).then_some(()));
        let all_up = started.elapsed();
        let served = server.until("every handshake", |metrics| {
            metrics.sum("dtls_handshakes_total") - before.sum("dtls_handshakes_total") == 2 * joins as i64
        });
        assert_eq!(served.sum("transports"), before.sum("transports") + 2 * joins as i64);
        let sink = frames_more(&listener, &heard, 30);
        assert_eq!(sink.lost, 0, "{sink:?}");
        let delays = &listener.stats().receive.unwrap().sinks[heard.index].1;
        let at = |share: usize| delays[(delays.len() - 1) * share / 1_000];
        println!("{joins} joins: signalling {joined:?}, all {} transports connected after {all_up:?}", 2 * joins);
        println!(
            "the call's delays ({delays_before} packets before, {} with the crowd's): p50 {} p99 {} max {} µs",
            delays.len(),
            at(500),
            at(990),
            at(1_000)
        );
        println!("dropped: {:?}", served.dropped_since(&before));
        println!(
            "server: {:?} of cpu, {} KiB more",
            server.cpu() - cpu,
            server.resident_kib().saturating_sub(resident)
        );
        if !stay.is_zero() {
            std::thread::sleep(Duration::from_secs(2));
            let after = server.metrics();
            let slow = after.sum("shard_slow_rounds_total") - before.sum("shard_slow_rounds_total");
            println!("longest round: {} µs, {slow} over 1 ms", after.sum("shard_longest_round_us"));
            let (cpu, since) = (server.cpu(), Instant::now());
            std::thread::sleep(stay);
            let (used, stayed) = (server.cpu() - cpu, since.elapsed());
            let idle = server.metrics();
            let checks = idle.sum("stun_answered_total") - after.sum("stun_answered_total");
            let slow = idle.sum("shard_slow_rounds_total") - after.sum("shard_slow_rounds_total");
            println!("idle for {stayed:?}: {used:?} of cpu, {checks} checks, {slow} rounds over 1 ms");
            println!("{} KiB resident; dropped: {:?}", server.resident_kib(), idle.dropped_since(&after));
        }
        drop(crowd);
        drop(sender);
    });
    drop(listener);
    drop(speaker);
    server.until("nobody", |metrics| metrics.sum("transports") == 0);
    server.stop();
}
