//! The cost of sending a datagram of 1,250 bytes over loopback: one by one, with sendmmsg, and in UDP GSO runs. The
//! receiver is never read, so that its queue is full and the sender pays for the whole way but not for reading.

mod brief;

use std::hint::black_box;
use std::net::{SocketAddr, UdpSocket};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use weirgate::base::buffer::{LocalIndex, Path, Run, Transmit};
use weirgate::net::doorbell::Doorbell;
use weirgate::net::udp::plain::PlainBackend;
use weirgate::net::udp::socket::{Sharing, bind, run_datagrams_max};

const DATAGRAM: usize = 1_250;

fn backend(run_max: usize) -> PlainBackend {
    let socket = bind(SocketAddr::from(([127, 0, 0, 1], 0)), Sharing::Alone).expect("loopback is there");
    let bell = Doorbell::new().expect("an eventfd");
    PlainBackend::new(vec![socket], Vec::new(), bell, run_max).expect("an epoll descriptor")
}

fn runs(remote: SocketAddr, runs: u32, datagrams: u32) -> Vec<Run> {
    let path = Path::udp(LocalIndex(0), remote);
    let len = datagrams * DATAGRAM as u32;
    (0..runs).map(|n| Run { path, start: n * len, len, segment: DATAGRAM as u16, oldest: None }).collect()
}

fn egress(criterion: &mut Criterion) {
    let receiver = UdpSocket::bind("127.0.0.1:0").expect("loopback is there");
    let remote = receiver.local_addr().expect("it is bound");
    let buffer = vec![0x80; 64 * DATAGRAM];
    let mut group = criterion.benchmark_group("egress");

    let sender = UdpSocket::bind("127.0.0.1:0").expect("loopback is there");
    group.throughput(Throughput::Elements(1));
    group.bench_function("sendto", |bench| bench.iter(|| sender.send_to(black_box(&buffer[..DATAGRAM]), remote)));

    let (mut plain, singles) = (backend(1), runs(remote, 32, 1));
    group.throughput(Throughput::Elements(32));
    group.bench_function("sendmmsg 32", |bench| bench.iter(|| plain.transmit(black_box(&buffer), &singles)));

    let run_max = run_datagrams_max();
    if run_max == 1 {
        eprintln!("skipped: this kernel has no UDP GSO");
        return;
    }
    for datagrams in [4, 8, 9] {
        let (mut plain, run) = (backend(run_max), runs(remote, 1, datagrams));
        group.throughput(Throughput::Elements(u64::from(datagrams)));
        group.bench_function(format!("GSO run of {datagrams}"), |bench| {
            bench.iter(|| plain.transmit(black_box(&buffer), &run));
        });
    }
    group.finish();
}

criterion_group! { name = benches; config = brief::brief(); targets = egress }
criterion_main!(benches);
