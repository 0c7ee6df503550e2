//! The whole shard without sockets: the most packets that a core could forward if the kernel were free. Batches of
//! sealed datagrams in, runs of sealed datagrams out; CPU time per delivered packet, and how much of it is sealing.

#[path = "../tests/cpu/mod.rs"]
mod cpu;

use std::time::Duration;

use weirgate::secure::srtp::{DueTags, MasterKey, OVERHEAD_MAX, Placed, SealPlace, Sealer, SrtpProfile};
use weirgate::sim::rig::{Cast, FRAME_PACKETS, Rig};

use cpu::{median, thread_cpu};

/// On the rig's clock, so that a whole measurement stays within consent.
const STEP: Duration = Duration::from_nanos(500);
const ROUNDS: usize = 3;
const PACKETS_PER_ROUND: u64 = 200_000;
const VIDEO: Cast = Cast::one_to(1);

const CASTS: [(&str, Cast); 9] = [
    ("1 to 1, video", VIDEO),
    ("1 to 10, video", Cast::one_to(10)),
    ("1 to 100, video", Cast::one_to(100)),
    ("1 to 1, video and audio", Cast { audio: true, ..Cast::one_to(1) }),
    ("1 to 10, video and audio", Cast { audio: true, ..Cast::one_to(10) }),
    ("1 to 100, video and audio", Cast { audio: true, ..Cast::one_to(100) }),
    ("8 to 50, video and audio", Cast { audio: true, publishers: 8, ..Cast::one_to(50) }),
    ("4 meetings of 4", Cast { channels: 4, publishers: 4, meeting: true, watchers: 0, audio: true, ..VIDEO }),
    ("1 to 100, AES_CM", Cast { audio: true, profile: SrtpProfile::Aes128CmSha1_80, ..Cast::one_to(100) }),
];

/// The cost of one reading of the clock: it is subtracted, because it would show in a short batch.
fn clock_cost() -> Duration {
    const READINGS: u32 = 10_000;
    let start = thread_cpu();
    (0..READINGS).for_each(|_| {
        thread_cpu();
    });
    (thread_cpu() - start) / READINGS
}

/// Nanoseconds per delivered packet.
fn forward(rig: &mut Rig, clock_cost: Duration) -> f64 {
    let (before, mut spent) = (rig.sent.packets, Duration::ZERO);
    while rig.sent.packets - before < PACKETS_PER_ROUND {
        rig.next_frame();
        let start = thread_cpu();
        rig.deliver();
        spent += (thread_cpu() - start).saturating_sub(clock_cost);
    }
    spent.as_nanos() as f64 / (rig.sent.packets - before) as f64
}

/// Nanoseconds to seal a packet of the rig's mean length, in a run of eight.
fn seal(profile: SrtpProfile, len: usize) -> f64 {
    const HEADER: usize = 12;
    const RUN: usize = 8;
    let (key, salt) = (vec![1; profile.key_len()], vec![2; profile.salt_len()]);
    let master = MasterKey::new(profile, &key, &salt).expect("the lengths are the profile's");
    let mut sealer = Sealer::new(profile, &master);
    let (stride, mut place, mut due) = (len + OVERHEAD_MAX, SealPlace::default(), DueTags::default());
    let mut buffer = vec![0; RUN * stride];
    let start = thread_cpu();
    for index in 0..PACKETS_PER_ROUND {
        let start = index as usize % RUN * stride;
        buffer[start + 2..start + 4].copy_from_slice(&(index as u16).to_be_bytes());
        let packet = Placed { start, header_len: HEADER, len };
        sealer.seal_in_buffer(&mut place, index, packet, &mut buffer, &mut due).expect("each number is used once");
    }
    due.write(&mut buffer);
    (thread_cpu() - start).as_nanos() as f64 / PACKETS_PER_ROUND as f64
}

fn main() {
    let clock_cost = clock_cost();
    println!(
        "{:26} {:>12} {:>12} {:>12} {:>10} {:>8}",
        "shard, without sockets", "CPU ns/pkt", "packets/s", "seal ns/pkt", "of it %", "run"
    );
    for (name, cast) in CASTS {
        let mut rig = Rig::of(cast, STEP);
        let cost = median((0..ROUNDS).map(|_| forward(&mut rig, clock_cost)).collect());
        assert_eq!(rig.sent.packets, rig.expected, "every packet goes to everyone");
        let len = (rig.sent.bytes / rig.sent.packets) as usize - cast.profile.tag_len();
        let seal = median((0..ROUNDS).map(|_| seal(cast.profile, len)).collect());
        let run = rig.sent.packets as f64 / rig.sent.runs as f64;
        println!("{name:26} {cost:12.0} {:12.0} {seal:12.0} {:10.0} {run:8.1}", 1e9 / cost, seal / cost * 100.0);
    }
    println!("one thread, a frame of {FRAME_PACKETS} packets and the audio with it at a time; medians of {ROUNDS}");
}
