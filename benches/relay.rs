//! The cost of a packet that crosses to another shard, beside its delivery there: a frame of nine packets through the
//! home, the ring and the other shard, per packet that crosses. On one thread, so that no cache line travels and no
//! thread is woken.

#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use weirgate::base::id::ShardId;
use weirgate::base::limits::MESH_RING_BYTES;
use weirgate::net::doorbell::Doorbell;
use weirgate::net::threads::mesh;
use weirgate::sim::rig::{FRAME_PACKETS, RelayRig, Rig};

/// On the rig's clock, so that a whole measurement stays within consent.
const STEP: Duration = Duration::from_nanos(500);

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("relay");
    group.throughput(Throughput::Elements(FRAME_PACKETS as u64));
    let bells = [0, 1].map(|shard| (ShardId(shard), Doorbell::new().expect("an eventfd")));
    let mut ends = mesh::build(&bells, MESH_RING_BYTES);
    let (mut receiver, mut sender) = (ends.remove(1).receiver, ends.remove(0).sender);
    let mut rig = RelayRig::new(10, STEP);
    // The measured one of the three parts of the way.
    for (part, name) in ["home: receive, store, into the ring", "out of the ring, store, fan out to 10", "send to 10"]
        .iter()
        .enumerate()
    {
        group.bench_function(*name, |b| {
            b.iter_custom(|frames| {
                let mut spent = [Duration::ZERO; 3];
                for _ in 0..frames {
                    rig.home.next_frame();
                    let start = Instant::now();
                    rig.leave(|record| sender.push(ShardId(1), weirgate::base::time::Instant::ZERO, record));
                    sender.ring();
                    let left = Instant::now();
                    receiver.pop(usize::MAX, |_, _, record| rig.arrive(record));
                    let arrived = Instant::now();
                    rig.deliver();
                    spent[0] += left - start;
                    spent[1] += arrived - left;
                    spent[2] += arrived.elapsed();
                }
                spent[part]
            });
        });
    }
    assert_eq!(sender.counters().refused_full, 0);
    let mut alone = Rig::new(0, STEP);
    group.bench_function("receive and store alone", |b| {
        b.iter_custom(|frames| {
            let mut spent = Duration::ZERO;
            for _ in 0..frames {
                alone.next_frame();
                let start = Instant::now();
                alone.deliver();
                spent += start.elapsed();
            }
            spent
        });
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
