//! The cost of one packet from its sealed datagram to the sealed datagrams for its receivers, without sockets: a frame
//! of nine packets through a shard, per packet delivered.

#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

mod brief;

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use weirgate::sim::rig::{FRAME_PACKETS, Rig};

/// On the rig's clock, so that a whole measurement stays within consent.
const STEP: Duration = Duration::from_nanos(500);

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("forward");
    for receivers in [1, 10, 100] {
        let mut rig = Rig::new(receivers, STEP);
        group.throughput(Throughput::Elements((FRAME_PACKETS * receivers) as u64));
        group.bench_function(format!("1 to {receivers}"), |b| {
            b.iter_custom(|frames| {
                let mut spent = Duration::ZERO;
                for _ in 0..frames {
                    rig.next_frame();
                    let start = Instant::now();
                    rig.deliver();
                    spent += start.elapsed();
                }
                spent
            });
        });
        assert_eq!(rig.sent.packets % (FRAME_PACKETS * receivers) as u64, 0, "every packet goes to everyone");
    }
    group.finish();
}

criterion_group! { name = benches; config = brief::brief(); targets = bench }
criterion_main!(benches);
