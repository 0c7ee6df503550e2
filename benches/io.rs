//! The backends side by side, in CPU nanoseconds: receiving bursts of single and of joined datagrams, sending single
//! datagrams and runs, and waking up. Own loop instead of criterion: only the measured thread's CPU time counts, and
//! the rounds alternate, so that both meet the same machine. Prints medians.

#[path = "../tests/cpu/mod.rs"]
mod cpu;

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::Socket;
use weirgate::base::buffer::{Batch, LocalIndex, Path, Run};
use weirgate::base::time::{Duration, Instant};
use weirgate::net::clock::Clock;
use weirgate::net::doorbell::Doorbell;
use weirgate::net::udp::backend::{Backend, RECEIVE_BATCH_MAX};
use weirgate::net::udp::plain::PlainBackend;
use weirgate::net::udp::ring::RingBackend;
use weirgate::net::udp::socket::{Sharing, bind, local_address, run_datagrams_max};

use cpu::{median, thread_cpu};

const DATAGRAM: usize = 1_200;
/// Datagrams of a video frame.
const FRAME: usize = 9;
const ROUNDS: usize = 7;
const TURNS: usize = 400;

struct Bench {
    backend: Box<dyn Backend>,
    address: SocketAddr,
    bell: Doorbell,
}

type Make = fn(Vec<Socket>, Doorbell) -> Box<dyn Backend>;

const BACKENDS: [(&str, Make); 2] = [
    ("plain", |sockets, bell| {
        Box::new(PlainBackend::new(sockets, Vec::new(), bell, run_datagrams_max()).expect("an epoll"))
    }),
    ("ring", |sockets, bell| match RingBackend::new(sockets, Vec::new(), bell, run_datagrams_max()) {
        Ok(backend) => Box::new(backend),
        Err((error, ..)) => panic!("no ring to compare with: {error}"),
    }),
];

fn bench(make: Make) -> Bench {
    let socket = bind(SocketAddr::from(([127, 0, 0, 1], 0)), Sharing::Alone).expect("loopback is there");
    let address = local_address(&socket).expect("it is bound");
    let bell = Doorbell::new().expect("an eventfd");
    Bench { backend: make(vec![socket], bell.clone()), address, bell }
}

/// The CPU time of this thread so far, in nanoseconds.
fn cpu() -> u64 {
    thread_cpu().as_nanos() as u64
}

/// Takes `count` datagrams.
fn take(backend: &mut dyn Backend, batch: &mut Batch, count: usize) {
    let mut taken = 0;
    while taken < count {
        backend.wait(None);
        batch.clear();
        taken += backend.receive(batch);
    }
}

/// A burst arrives and is received: (receiving alone, with the sender's part) per datagram. Datagrams of `run` at once
/// come from one GSO send.
fn receive(make: Make, burst: usize, run: usize) -> [f64; 2] {
    let Bench { mut backend, address, .. } = bench(make);
    let mut sender = bench(BACKENDS[0].1).backend;
    let buffer = vec![0x80; burst * DATAGRAM];
    let path = Path::udp(LocalIndex(0), address);
    let len = (run * DATAGRAM) as u32;
    let runs: Vec<_> = (0..(burst / run) as u32)
        .map(|n| Run { path, start: n * len, len, segment: DATAGRAM as u16, oldest: None })
        .collect();
    let mut batch = Batch::new(RECEIVE_BATCH_MAX);
    let (mut alone, start) = (0, cpu());
    for _ in 0..TURNS {
        sender.transmit(&buffer, &runs);
        sender.wait(Some(Instant::ZERO));
        let before = cpu();
        take(&mut *backend, &mut batch, burst);
        alone += cpu() - before;
    }
    let datagrams = (TURNS * burst) as f64;
    [alone as f64 / datagrams, (cpu() - start) as f64 / datagrams]
}

/// `runs` runs of `run` datagrams leave at once, to receivers that are never read: the sender pays for the whole way
/// but not for reading. Per datagram.
fn send(make: Make, runs: usize, run: usize) -> [f64; 2] {
    let mut backend = bench(make).backend;
    let receivers: Vec<_> = (0..runs).map(|_| UdpSocket::bind("127.0.0.1:0").expect("loopback is there")).collect();
    let buffer = vec![0x80; run * DATAGRAM];
    let len = buffer.len() as u32;
    let to = |socket: &UdpSocket| Path::udp(LocalIndex(0), socket.local_addr().expect("it is bound"));
    let runs: Vec<_> = receivers
        .iter()
        .map(|socket| Run { path: to(socket), start: 0, len, segment: DATAGRAM as u16, oldest: None })
        .collect();
    let mut turn = || {
        backend.transmit(&buffer, &runs);
        // What is staged leaves with the wait.
        backend.wait(Some(Instant::ZERO));
    };
    (0..20).for_each(|_| turn());
    let start = cpu();
    (0..TURNS).for_each(|_| turn());
    [(cpu() - start) as f64 / (TURNS * runs.len() * run) as f64, f64::NAN]
}

/// Another thread sends a datagram to the sleeping backend, which answers it, and so on. Per turn: (CPU of the
/// backend's thread, time).
fn ping_pong(make: Make) -> [f64; 2] {
    let Bench { mut backend, address, .. } = bench(make);
    let peer = UdpSocket::bind("127.0.0.1:0").expect("loopback is there");
    let path = Path::udp(LocalIndex(0), peer.local_addr().expect("it is bound"));
    let run = [Run { path, start: 0, len: 100, segment: 100, oldest: None }];
    let mut batch = Batch::new(RECEIVE_BATCH_MAX);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..TURNS * 5 {
                peer.send_to(&[7; 100], address).expect("loopback takes it");
                peer.recv(&mut [0; 200]).expect("an answer");
            }
        });
        let (start, time) = (cpu(), Clock::process().mono());
        for _ in 0..TURNS * 5 {
            take(&mut *backend, &mut batch, 1);
            backend.transmit(&[7; 100], &run);
        }
        backend.wait(Some(Instant::ZERO));
        let turns = (TURNS * 5) as f64;
        [(cpu() - start) as f64 / turns, Clock::process().mono().since(time).as_nanos() as f64 / turns]
    })
}

/// Another thread rings the sleeping backend's bell whenever it sleeps. Per wake: CPU of the backend's thread.
fn bell(make: Make) -> [f64; 2] {
    let Bench { mut backend, bell, .. } = bench(make);
    let done = AtomicBool::new(false);
    let mut batch = Batch::new(RECEIVE_BATCH_MAX);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                bell.ring();
                std::thread::sleep(Duration::from_micros(20)); // enough for it to fall asleep
            }
        });
        let start = cpu();
        for _ in 0..TURNS * 5 {
            bell.park();
            backend.wait(None);
            bell.unpark();
            backend.receive(&mut batch);
        }
        done.store(true, Ordering::Relaxed);
        [(cpu() - start) as f64 / (TURNS * 5) as f64, f64::NAN]
    })
}

/// The measurement: its name, and its one or two figures.
type Case = (&'static str, fn(Make) -> [f64; 2]);

const CASES: [Case; 9] = [
    ("receive, bursts of 64 single datagrams (second: with sending)", |make| receive(make, 64, 1)),
    ("receive, bursts of 9 single datagrams", |make| receive(make, 9, 1)),
    ("receive, 1 datagram at a time", |make| receive(make, 1, 1)),
    ("receive, 7 GSO runs of 9", |make| receive(make, 7 * FRAME, FRAME)),
    ("send, 32 single datagrams at once", |make| send(make, 32, 1)),
    ("send, 1 datagram at once", |make| send(make, 1, 1)),
    ("send, 32 GSO runs of 9 at once", |make| send(make, 32, FRAME)),
    ("woken by a datagram and answering (second: time)", ping_pong),
    ("woken by the bell", bell),
];

fn main() {
    for (what, measure) in CASES {
        let mut figures = BACKENDS.map(|_| [vec![], vec![]]);
        for _ in 0..ROUNDS {
            for ((_, make), figures) in BACKENDS.iter().zip(&mut figures) {
                let [first, second] = measure(*make);
                figures[0].push(first);
                figures[1].push(second);
            }
        }
        println!("{what}:");
        for ((name, _), [first, second]) in BACKENDS.iter().zip(figures) {
            let (first, second) = (median(first), median(second));
            let second = if second.is_nan() { String::new() } else { format!("  ({second:.0})") };
            println!("  {name:6} {first:8.0} ns{second}");
        }
    }
}
