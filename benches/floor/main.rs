//! The floor: the cost of the goals' loads for a program that only receives, opens, copies, seals and sends. CPU time
//! of its one thread, per delivered packet; the server is measured against it. See benches/README.md.

#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

#[expect(dead_code, reason = "what other benches need of it")]
#[path = "../../tests/cpu/mod.rs"]
mod cpu;
mod generator;
mod loads;
mod packet;
mod server;
mod socket;

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use clap::Parser;
use serde_json::json;

use generator::{Generator, Seen};
use loads::{LOADS, Load};
use server::Server;

const SERVER_CPU: usize = 0;
const GENERATOR_CPU: usize = 1;

#[derive(Parser)]
#[command(about = "CPU time per delivered packet of the least program that could serve a load")]
struct Arguments {
    /// One of the loads; all when none is named.
    #[arg(long)]
    load: Option<String>,
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// The number of runs whose median is shown.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// One JSON object for each load, in place of the table.
    #[arg(long)]
    json: bool,
    /// Passed by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

struct Outcome {
    cpu: Duration,
    seen: Seen,
}

impl Outcome {
    fn cpu_nanos_per_packet(&self) -> u64 {
        self.cpu.as_nanos() as u64 / self.seen.delivered.max(1)
    }

    fn busy(&self) -> f64 {
        self.cpu.as_secs_f64() / self.seen.took.as_secs_f64()
    }

    fn packets_per_second(&self) -> f64 {
        self.seen.delivered as f64 / self.seen.took.as_secs_f64()
    }

    fn loss(&self) -> f64 {
        1.0 - self.seen.delivered as f64 / self.seen.expected.max(1) as f64
    }

    /// In microseconds; the delays are sorted.
    fn delay(&self, percent: usize) -> u64 {
        let delays = &self.seen.delays;
        delays.get(delays.len().saturating_sub(1) * percent / 100).map_or(0, |delay| delay.as_micros() as u64)
    }
}

fn pin(cpu: usize) {
    if !core_affinity::set_for_current(core_affinity::CoreId { id: cpu }) {
        eprintln!("not pinned to cpu {cpu}: the figures will spread");
    }
}

fn run(load: Load, length: Duration) -> Outcome {
    let done = AtomicU64::new(0);
    let socket = socket::loopback();
    socket.set_nonblocking(false).expect("a plain socket");
    let receivers: Vec<_> = (0..load.receivers()).map(|_| socket::loopback()).collect();
    receivers.iter().for_each(socket::stamp_arrivals);
    let sender = socket::loopback();
    let duties = socket::loopback();
    let duties_address = duties.local_addr().expect("it is bound");
    let server_address = socket.local_addr().expect("it is bound");
    let server = Server {
        openers: (0..load.publishers()).map(packet::key).collect(),
        sealers: (0..load.receivers()).map(|receiver| packet::key(1_000 + receiver)).collect(),
        addresses: receivers.iter().map(|receiver| receiver.local_addr().expect("it is bound")).collect(),
        routes: load.routes(),
        duties,
        feedback_openers: (0..load.receivers()).map(packet::feedback_key).collect(),
        frames_per_feedback: load.sends_in(generator::FEEDBACK_EVERY),
        publishers: sender.local_addr().expect("it is bound"),
        socket,
        done: &done,
    };
    let generator = Generator { load, server: server_address, duties: duties_address, sender, receivers, done: &done };
    let (cpu, mut seen) = std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            pin(SERVER_CPU);
            server.run()
        });
        let generator = scope.spawn(|| {
            pin(GENERATOR_CPU);
            generator.run(length)
        });
        let seen = generator.join().expect("it ends");
        (server.join().expect("it ends"), seen)
    });
    seen.delays.sort_unstable();
    Outcome { cpu, seen }
}

fn median(load: Load, arguments: &Arguments) -> Outcome {
    let length = Duration::from_secs_f64(arguments.seconds);
    let mut outcomes: Vec<_> = (0..arguments.runs.max(1)).map(|_| run(load, length)).collect();
    outcomes.sort_by_key(Outcome::cpu_nanos_per_packet);
    outcomes.swap_remove(outcomes.len() / 2)
}

fn print(load: &Load, outcome: &Outcome, as_json: bool) {
    let (cpu, busy, rate) = (outcome.cpu_nanos_per_packet(), outcome.busy(), outcome.packets_per_second());
    let (p50, p99, loss) = (outcome.delay(50), outcome.delay(99), outcome.loss());
    if as_json {
        let object = json!({
            "load": load.name, "cpuNanosPerPacket": cpu, "coreShare": busy, "packetsPerSecond": rate.round(),
            "delayMicrosP50": p50, "delayMicrosP99": p99, "loss": loss,
        });
        println!("{object}");
    } else {
        println!("{:20} {cpu:12} {rate:12.0} {:9.1} {p50:10} {p99:10} {:9.2}", load.name, busy * 100.0, loss * 100.0);
    }
}

fn main() {
    let arguments = Arguments::parse();
    let named = |load: &Load| arguments.load.as_deref().is_none_or(|name| name == load.name);
    let loads: Vec<_> = LOADS.into_iter().filter(named).collect();
    if loads.is_empty() {
        let names: Vec<_> = LOADS.iter().map(|load| load.name).collect();
        eprintln!("no such load; there are {}", names.join(", "));
        std::process::exit(2);
    }
    if !arguments.json {
        println!(
            "{:20} {:>12} {:>12} {:>9} {:>10} {:>10} {:>9}",
            "floor", "CPU ns/pkt", "packets/s", "core %", "p50 us", "p99 us", "loss %"
        );
    }
    for load in loads {
        print(&load, &median(load, &arguments), arguments.json);
    }
}
