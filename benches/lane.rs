//! The cost of a packet that crosses to another node: a frame of nine packets, per packet, on the sending shard and on the
//! landing shard, beside the floor of sealing and sending one datagram of that size. All in one run on one thread: the
//! figures of interest are differences and ratios, which are printed at the end.

#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use weirgate::base::buffer::{LocalIndex, Path, Run, Transmit};
use weirgate::net::doorbell::Doorbell;
use weirgate::net::udp::plain::PlainBackend;
use weirgate::net::udp::socket::{Sharing, bind, run_datagrams_max};
use weirgate::secure::dtls::Keying;
use weirgate::secure::lane::LaneKeys;
use weirgate::secure::srtp::{MasterKey, SrtpProfile};
use weirgate::sim::rig::{FRAME_PACKETS, LaneDatagrams, LaneRig, Rig};

/// On the rig's clock, so that a whole measurement stays within consent.
const STEP: Duration = Duration::from_nanos(500);
/// A packet of the frame on a lane.
const DATAGRAM: usize = 1_152;

/// Sends the runs of lanes over loopback, and keeps their datagrams.
struct Wire {
    backend: PlainBackend,
    remote: SocketAddr,
    runs: Vec<Run>,
    kept: LaneDatagrams,
}

impl Transmit for Wire {
    fn transmit(&mut self, buffer: &[u8], runs: &[Run]) {
        self.kept.transmit(buffer, runs);
        let path = Path::udp(LocalIndex(0), self.remote);
        self.runs.clear();
        self.runs
            .extend(runs.iter().filter(|run| run.path.leg.local() != LocalIndex(0)).map(|run| Run { path, ..*run }));
        self.backend.transmit(buffer, &self.runs);
    }
}

fn keys() -> LaneKeys {
    let profile = SrtpProfile::AeadAes128Gcm;
    let key = || MasterKey::new(profile, &[7; 16], &[9; 12]).expect("the lengths of the profile");
    let keying = Keying { profile, suite: "bench", local: key(), remote: key(), peer_certificate: Vec::new() };
    LaneKeys::new(&keying, 0)
}

/// The parts of the way, in the order of [`NAMES`].
fn round(rig: &mut LaneRig, alone: &mut Rig, wire: &mut Wire, floor: &mut (LaneKeys, Vec<u8>)) -> [Duration; 4] {
    rig.home.next_frame();
    alone.next_frame();
    wire.kept.0.clear();
    let start = Instant::now();
    rig.leave(wire);
    let left = Instant::now();
    rig.load(&wire.kept);
    let loaded = Instant::now();
    rig.arrive();
    let arrived = Instant::now();
    alone.deliver();
    let stored = Instant::now();
    rig.tick();
    let (keys, buffer) = floor;
    wire.kept.0.clear();
    let sealing = Instant::now();
    for datagram in buffer.chunks_mut(DATAGRAM) {
        keys.sealer.seal(datagram);
    }
    let path = Path::udp(LocalIndex(1), wire.remote);
    wire.transmit(buffer, &[Run { path, start: 0, len: buffer.len() as u32, segment: DATAGRAM as u16, oldest: None }]);
    let sealed = sealing.elapsed();
    [left - start, arrived - loaded, stored - arrived, sealed]
}

const NAMES: [&str; 4] = [
    "sending shard: receive, store, pack, seal, send",
    "landing shard: open, store",
    "receive and store alone",
    "floor: seal and send one datagram each",
];

fn bench(c: &mut Criterion) {
    let receiver = UdpSocket::bind("127.0.0.1:0").expect("loopback is there");
    let socket = bind(SocketAddr::from(([127, 0, 0, 1], 0)), Sharing::Alone).expect("loopback is there");
    let bell = Doorbell::new().expect("an eventfd");
    let backend = PlainBackend::new(vec![socket], Vec::new(), bell, run_datagrams_max()).expect("an epoll descriptor");
    let remote = receiver.local_addr().expect("it is bound");
    let mut wire = Wire { backend, remote, runs: Vec::new(), kept: LaneDatagrams::default() };
    let (mut rig, mut alone) = (LaneRig::new(1, STEP), Rig::new(0, STEP));
    let mut floor = (keys(), vec![0x55; FRAME_PACKETS * DATAGRAM]);
    let mut all = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
    let mut group = c.benchmark_group("lane");
    group.throughput(Throughput::Elements(FRAME_PACKETS as u64));
    for (part, name) in NAMES.iter().enumerate() {
        group.bench_function(*name, |b| {
            b.iter_custom(|frames| {
                let mut spent = Duration::ZERO;
                for _ in 0..frames {
                    let times = round(&mut rig, &mut alone, &mut wire, &mut floor);
                    spent += times[part];
                    all.iter_mut().zip(times).for_each(|(all, time)| all.push(time));
                }
                spent
            });
        });
    }
    group.finish();
    let (landed, sent) = rig.records();
    assert!(landed * 10 > sent * 9, "{landed} of {sent} records landed");
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2].as_nanos() as f64 / FRAME_PACKETS as f64
    };
    let [sending, landing, storing, floor] = all.each_mut().map(median);
    println!(
        "a packet, medians: sending shard +{:.0} ns, landing shard {landing:.0} ns, of which storing and reading as at home is in {storing:.0} ns; floor {floor:.0} ns",
        sending - storing
    );
    println!(
        "sending over the floor: {:.0} ns, {:.2} times it",
        sending - storing - floor,
        (sending - storing) / floor
    );
}

criterion_group!(benches, bench);
criterion_main!(benches);
