//! The cost of a packet in `wire` alone: reading an RTP header with its extensions, a compound RTCP datagram, and
//! building transport-wide feedback.

mod brief;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use weirgate::base::id::{PayloadType, Ssrc};
use weirgate::base::seq::Seq;
use weirgate::base::time::NtpTime;
use weirgate::base::units::Bitrate;
use weirgate::wire::codec::{Codec, inspect};
use weirgate::wire::extension::{Extension, abs_send_time};
use weirgate::wire::feedback::Feedback;
use weirgate::wire::rtcp::{self, ReportBlock, Rtcp};
use weirgate::wire::rtcp_write::RtcpWriter;
use weirgate::wire::rtp::{ExtensionWriter, HeaderFields, RtpHeader, write_fixed_header};
use weirgate::wire::transport_cc::FeedbackBuilder;

/// A video packet with mid, abs-send-time and transport-wide number, written into the start of `out`.
fn write_packet(out: &mut [u8; 1200], seq: u16) -> usize {
    let (fixed, rest) = out.split_first_chunk_mut().expect("1,200 bytes hold a fixed header");
    let fields = HeaderFields {
        marker: false,
        has_padding: false,
        payload_type: PayloadType(96),
        seq: Seq(seq),
        timestamp: 90_000,
        ssrc: Ssrc(1234),
    };
    write_fixed_header(fixed, fields, true);
    let mut writer = ExtensionWriter::new(rest, false);
    writer.push(Extension::Mid.id(), b"0");
    writer.push(Extension::AbsSendTime.id(), &abs_send_time(NtpTime(1 << 40)));
    writer.push(Extension::TransportCc.id(), &seq.to_be_bytes());
    fixed.len() + writer.finish()
}

fn rtp(c: &mut Criterion) {
    let mut packet = [0xAA; 1200];
    let header_len = write_packet(&mut packet, 7);
    packet[header_len..header_len + 7].copy_from_slice(&[0x90, 0xF0, 0x92, 0x67, 9, 0xA3, 0x10]);
    let mut group = c.benchmark_group("rtp");
    group.throughput(Throughput::Elements(1));
    group.bench_function("parse header and extensions", |b| {
        b.iter(|| {
            let bytes = black_box(&packet[..]);
            let header = RtpHeader::parse(bytes).expect("the packet is valid");
            let sum: usize = header.extensions(bytes).map(|(id, value)| usize::from(id) + value.len()).sum();
            (header.seq, sum, header.payload(bytes).map(<[u8]>::len))
        });
    });
    group.bench_function("inspect a VP8 payload", |b| {
        b.iter(|| inspect(Codec::Vp8, black_box(&packet[header_len..])));
    });
    group.bench_function("write header and extensions", |b| {
        let mut out = [0; 1200];
        b.iter(|| write_packet(black_box(&mut out), black_box(7)));
    });
    group.finish();
}

fn rtcp(c: &mut Criterion) {
    let mut bytes = Vec::new();
    let mut writer = RtcpWriter::new(&mut bytes);
    writer.receiver_report(Ssrc(1), &[ReportBlock::default(); 4]);
    writer.sdes_cname(Ssrc(1), "0123456789abcdef");
    writer.nack(Ssrc(1), Ssrc(2), &[Seq(1), Seq(5), Seq(40)]);
    writer.pli(Ssrc(1), Ssrc(2));
    writer.remb(Ssrc(1), Bitrate::mbps(2), &[Ssrc(2), Ssrc(3)]);
    let mut group = c.benchmark_group("rtcp");
    group.throughput(Throughput::Elements(1));
    group.bench_function("parse a compound of five", |b| {
        b.iter(|| {
            rtcp::parse(black_box(&bytes))
                .map(|packet| match packet.expect("the compound is valid") {
                    Rtcp::ReceiverReport(report) => report.blocks().map(|block| block.jitter).sum(),
                    Rtcp::Feedback(Feedback::Nack(nack)) => nack.seqs().map(|seq| u32::from(seq.0)).sum(),
                    Rtcp::Feedback(Feedback::Remb(remb)) => remb.ssrcs().map(|ssrc| ssrc.0).sum(),
                    _ => 1,
                })
                .fold(0u32, u32::wrapping_add)
        });
    });
    group.finish();
}

fn transport_cc(c: &mut Criterion) {
    // 100 ms of 2.5 Mbit/s in frames of nine packets, 2 % lost.
    let arrivals: Vec<_> =
        (0..27u64).map(|n| (n as u16, (n % 50 != 13).then_some(1_000_000 + n / 9 * 33_000 + n % 9 * 250))).collect();
    let builder = FeedbackBuilder { sender: Ssrc(1), media: Ssrc(2), base_seq: 0, feedback_count: 1 };
    let mut out = Vec::with_capacity(1500);
    let mut group = c.benchmark_group("transport-cc");
    group.throughput(Throughput::Elements(arrivals.len() as u64));
    group.bench_function("build feedback of 27 packets", |b| {
        b.iter(|| {
            out.clear();
            builder.write(black_box(&arrivals).iter().copied(), &mut out)
        });
    });
    group.bench_function("parse feedback of 27 packets", |b| {
        b.iter(|| match rtcp::parse(black_box(&out)).next() {
            Some(Ok(Rtcp::Feedback(Feedback::TransportCc(feedback)))) => {
                feedback.packets().filter_map(|(_, arrival)| arrival).sum::<i64>()
            }
            other => panic!("{other:?}"),
        });
    });
    group.finish();
}

criterion_group! { name = benches; config = brief::brief(); targets = rtp, rtcp, transport_cc }
criterion_main!(benches);
