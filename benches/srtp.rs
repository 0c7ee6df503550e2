//! The cost of sealing and opening one packet: ours and webrtc-srtp, at the size of a video and of an audio packet.

mod brief;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use webrtc_srtp::context::Context;
use webrtc_srtp::protection_profile::ProtectionProfile;
use weirgate::base::id::Ssrc;
use weirgate::base::seq::Seq;
use weirgate::secure::srtp::{DueTags, MasterKey, OVERHEAD_MAX, Opener, Placed, SealPlace, Sealer, SrtpProfile};

const HEADER_LEN: usize = 12;
const SSRC: u32 = 0x1234_5678;
/// Indices grow by one per packet; the receiver must see each once.
const FIRST: u64 = 1_000;
/// Packets of a frame, as they leave together.
const RUN: u64 = 8;

fn packet(index: u64, len: usize) -> Vec<u8> {
    let mut packet = vec![0x80, 96];
    packet.extend((index as u16).to_be_bytes());
    packet.extend([0; 4]);
    packet.extend(SSRC.to_be_bytes());
    packet.resize(len, 0xAB);
    packet
}

fn bench(c: &mut Criterion) {
    for (profile, theirs) in [
        (SrtpProfile::AeadAes128Gcm, ProtectionProfile::AeadAes128Gcm),
        (SrtpProfile::AeadAes256Gcm, ProtectionProfile::AeadAes256Gcm),
        (SrtpProfile::Aes128CmSha1_80, ProtectionProfile::Aes128CmHmacSha1_80),
    ] {
        let (key, salt) = (vec![1; profile.key_len()], vec![2; profile.salt_len()]);
        let master = MasterKey::new(profile, &key, &salt).expect("the lengths are the profile's");
        let context = || Context::new(&key, &salt, theirs, None, None).expect("the lengths are the profile's");
        for len in [1_200, 172] {
            let mut group = c.benchmark_group(format!("srtp/{}/{len}", profile.name()));
            group.throughput(Throughput::Elements(1));
            group.bench_function("seal", |b| {
                let mut sealer = Sealer::new(profile, &master);
                let mut index = FIRST;
                let mut buffer = packet(index, len);
                buffer.resize(len + OVERHEAD_MAX, 0);
                b.iter(|| {
                    index += 1;
                    buffer[2..4].copy_from_slice(&(index as u16).to_be_bytes());
                    black_box(sealer.seal_rtp(index, &mut buffer, HEADER_LEN, len)).expect("a new index")
                });
            });
            group.throughput(Throughput::Elements(RUN));
            group.bench_function("seal a run of 8", |b| {
                let mut sealer = Sealer::new(profile, &master);
                let mut index = FIRST;
                let stride = len + profile.tag_len();
                let mut buffer: Vec<u8> = (0..RUN).flat_map(|_| packet(index, stride)).collect();
                let (mut place, mut due) = (SealPlace::default(), DueTags::default());
                b.iter(|| {
                    for start in (0..buffer.len()).step_by(stride) {
                        index += 1;
                        buffer[start + 2..start + 4].copy_from_slice(&(index as u16).to_be_bytes());
                        let packet = Placed { start, header_len: HEADER_LEN, len };
                        let sealed = sealer.seal_in_buffer(&mut place, index, packet, &mut buffer, &mut due);
                        black_box(sealed).expect("a new index");
                    }
                    due.write(black_box(&mut buffer));
                });
            });
            group.throughput(Throughput::Elements(1));
            group.bench_function("seal, webrtc-srtp", |b| {
                let mut context = context();
                let mut index = FIRST;
                let mut plain = packet(index, len);
                b.iter(|| {
                    index += 1;
                    plain[2..4].copy_from_slice(&(index as u16).to_be_bytes());
                    black_box(context.encrypt_rtp(&plain)).expect("a packet")
                });
            });
            let sealed = |sealer: &mut Sealer, index: u64| {
                let mut buffer = packet(index, len);
                buffer.resize(len + OVERHEAD_MAX, 0);
                let len = sealer.seal_rtp(index, &mut buffer, HEADER_LEN, len).expect("a new index");
                buffer.truncate(len);
                buffer
            };
            group.bench_function("open", |b| {
                let (mut sealer, mut opener) = (Sealer::new(profile, &master), Opener::new(profile, &master));
                let mut index = FIRST;
                b.iter_batched(
                    || {
                        index += 1;
                        (Seq(index as u16), sealed(&mut sealer, index))
                    },
                    |(seq, mut packet)| {
                        black_box(opener.open_rtp(HEADER_LEN, Ssrc(SSRC), seq, &mut packet)).expect("a good tag");
                        packet
                    },
                    BatchSize::SmallInput,
                );
            });
            group.bench_function("open, webrtc-srtp", |b| {
                let (mut sealer, mut context) = (Sealer::new(profile, &master), context());
                let mut index = FIRST;
                b.iter_batched(
                    || {
                        index += 1;
                        sealed(&mut sealer, index)
                    },
                    |packet| black_box(context.decrypt_rtp(&packet)).expect("a good tag"),
                    BatchSize::SmallInput,
                );
            });
            group.finish();
        }
    }
}

criterion_group! { name = benches; config = brief::brief(); targets = bench }
criterion_main!(benches);
