//! Whatever bytes a peer sends, the parsers of `wire` give a value or an error: no panic, no endless iterator, nothing
//! read outside the packet. Fed with the corpora (packets that once broke other parsers), all their truncations,
//! seeded mutations of them and of valid packets, and plain noise.

use std::collections::BTreeMap;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use weirgate::base::id::{PayloadType, Ssrc};
use weirgate::base::seq::Seq;
use weirgate::base::time::NtpTime;
use weirgate::base::units::Bitrate;
use weirgate::wire::codec::h264::SetPart;
use weirgate::wire::codec::{self, Codec};
use weirgate::wire::extension;
use weirgate::wire::feedback::Feedback;
use weirgate::wire::rtcp::{self, ReportBlock, Rtcp};
use weirgate::wire::rtcp_write::RtcpWriter;
use weirgate::wire::rtp::{ExtensionWriter, HeaderFields, RtpHeader, write_fixed_header};
use weirgate::wire::transport_cc::FeedbackBuilder;
use weirgate::wire::{Kind, classify, dependency_descriptor};

const CODECS: [Codec; 5] = [Codec::Opus, Codec::Vp8, Codec::Vp9, Codec::H264, Codec::Av1];

/// More elements than any packet of `bytes` can hold: an iterator that gives as many does not end.
fn too_many(bytes: &[u8]) -> usize {
    bytes.len() * 17 + 1
}

fn within(part: &[u8], whole: &[u8]) -> bool {
    part.is_empty()
        || whole.as_ptr_range().start <= part.as_ptr() && part.as_ptr_range().end <= whole.as_ptr_range().end
}

/// Reads everything of an RTP packet. True when it parses.
fn read_rtp(bytes: &[u8]) -> bool {
    let Ok(header) = RtpHeader::parse(bytes) else { return false };
    assert!((12..=bytes.len()).contains(&header.len()));
    let elements: Vec<_> = header.extensions(bytes).take(too_many(bytes)).collect();
    assert!(elements.len() < too_many(bytes));
    for (_, value) in elements {
        assert!(within(value, &bytes[..header.len()]));
        let _ = extension::AudioLevel::parse(value);
        let _ = extension::AbsCaptureTime::parse(value);
        let _ = (extension::transport_cc_seq(value), extension::short_name(value));
        read_descriptor(value);
    }
    if let Ok(payload) = header.payload(bytes) {
        assert!(within(payload, &bytes[header.len()..]));
        read_payload(payload);
    }
    true
}

fn read_payload(payload: &[u8]) {
    for codec in CODECS {
        let info = codec::inspect(codec, payload);
        assert_ne!(codec::size::pixels(codec, payload), Some(0));
        assert!(!info.starts_keyframe || codec == Codec::H264 || info.starts_frame, "{codec:?} {payload:?}");
    }
    let _ = codec::opus::is_dtx(payload);
    for part in codec::h264::parameter_sets(payload) {
        let (SetPart::Whole(bytes) | SetPart::Fragment { part: bytes, .. }) = part;
        assert!(within(bytes, payload));
        let _ = codec::h264::parameter_set_id(bytes);
    }
    if let Ok(descriptor) = codec::vp8::Vp8Descriptor::parse(payload) {
        assert!(usize::from(descriptor.len) <= payload.len());
    }
    if let Ok(descriptor) = codec::vp9::Vp9Descriptor::parse(payload) {
        assert!(usize::from(descriptor.len) <= payload.len());
    }
}

fn read_descriptor(value: &[u8]) {
    if let Ok(Some(structure)) = dependency_descriptor::parse_structure(value) {
        assert!(!structure.templates().is_empty() && structure.decode_targets > 0);
        for id in 0..=255 {
            let _ =
                structure.template(id).map(|template| (template.diffs().len(), template.chain_diff(usize::from(id))));
            let _ = (structure.protected_by(usize::from(id)), structure.resolutions().len());
        }
    }
}

/// The number of packets in a datagram by its headers alone, including the one that ends it.
fn headers(bytes: &[u8]) -> usize {
    let (mut rest, mut count) = (bytes, 0);
    while !rest.is_empty() {
        count += 1;
        let words = match rest {
            [first, _, high, low, ..] if first >> 6 == 2 => usize::from(u16::from_be_bytes([*high, *low])),
            _ => return count,
        };
        rest = rest.get(4 + 4 * words..).unwrap_or_default();
    }
    count
}

/// Reads everything of an RTCP datagram. Returns the number of packets.
fn read_rtcp(bytes: &[u8]) -> usize {
    let packets: Vec<_> = rtcp::parse(bytes).take(too_many(bytes)).collect();
    assert!(packets.len() <= bytes.len().div_ceil(4));
    assert_eq!(packets.len(), headers(bytes), "each header's length leads to the next");
    let read: Vec<_> = packets.into_iter().flatten().collect();
    for packet in &read {
        let items = match packet {
            Rtcp::SenderReport(report) => report.blocks().take(too_many(bytes)).count(),
            Rtcp::ReceiverReport(report) => report.blocks().take(too_many(bytes)).count(),
            Rtcp::Sdes(sdes) => {
                sdes.items().take(too_many(bytes)).inspect(|(_, _, text)| assert!(within(text, bytes))).count()
            }
            Rtcp::Bye(bye) => {
                assert!(bye.reason.is_none_or(|reason| within(reason, bytes)));
                bye.ssrcs().take(too_many(bytes)).count()
            }
            Rtcp::Feedback(Feedback::Nack(nack)) => nack.seqs().take(too_many(bytes)).count(),
            Rtcp::Feedback(Feedback::Fir(fir)) => fir.requests().take(too_many(bytes)).count(),
            Rtcp::Feedback(Feedback::Remb(remb)) => remb.ssrcs().take(too_many(bytes)).count(),
            Rtcp::Feedback(Feedback::TransportCc(feedback)) => {
                // Runs make it longer than its bytes, but never than its count.
                let count = usize::from(feedback.status_count);
                assert_eq!(feedback.packets().take(count + 1).count(), count);
                0
            }
            Rtcp::Feedback(Feedback::Pli(_) | Feedback::Other { .. }) | Rtcp::Other { .. } => 0,
        };
        assert!(items < too_many(bytes));
    }
    read.len()
}

fn corpus(kind: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpora").join(kind);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    files
        .map(|file| {
            let file = file.unwrap();
            (file.file_name().into_string().unwrap(), std::fs::read(file.path()).unwrap())
        })
        .collect()
}

fn valid_rtp() -> Vec<Vec<u8>> {
    // A VP8 keyframe with the long picture id, a VP9 one with its structure, and an AV1 descriptor of one layer.
    let payloads: [&[u8]; 4] = [
        &[0x90, 0xF0, 0x92, 0x67, 9, 0xA3, 0x10, 0, 0, 0x9D, 0x01, 0x2A],
        &[0xAA, 0x92, 0x67, 0x31, 5, 0x38, 1, 64, 0, 180, 2, 128, 1, 104, 1, 8, 1, 2, 0xAA],
        &[0x78, 0, 2, 0x67, 0x42, 0, 2, 0x68, 0xCE, 0, 2, 0x65, 0x88],
        &[0x20, 2, 0x0A, 0, 0x34, 0x48, 0, 0, 0, 3],
    ];
    let descriptor = [0xC0, 0, 1, 0x80, 0, 0xE4, 0x20, 0x4F, 0xE0, 0x2C, 0xE0];
    let structure = dependency_descriptor::parse_structure(&descriptor).unwrap().unwrap();
    assert_eq!(structure.resolutions(), [(640, 360)]);
    let packet = |payload: &&[u8], two_byte| {
        let mut fixed = [0; 12];
        let fields = HeaderFields {
            marker: true,
            has_padding: payload.len() == 10,
            payload_type: PayloadType(96),
            seq: Seq(1),
            timestamp: 2,
            ssrc: Ssrc(3),
        };
        write_fixed_header(&mut fixed, fields, true);
        let mut block = [0; 64];
        let mut writer = ExtensionWriter::new(&mut block, two_byte);
        for (id, value) in [(1, &b"0"[..]), (3, &[1, 2, 3]), (4, &[1, 2]), (8, &descriptor)] {
            assert!(writer.push(id, value));
        }
        let len = writer.finish();
        [&fixed[..], &block[..len], payload].concat()
    };
    payloads.iter().flat_map(|payload| [packet(payload, false), packet(payload, true)]).collect()
}

fn valid_rtcp() -> Vec<u8> {
    let mut out = Vec::new();
    let block = ReportBlock { ssrc: 7, ..ReportBlock::default() };
    let mut writer = RtcpWriter::new(&mut out);
    writer.sender_report(Ssrc(1), NtpTime(2), 3, 4, 5, &[block, block]);
    writer.receiver_report(Ssrc(1), &[block]);
    writer.sdes_cname(Ssrc(1), "name");
    writer.nack(Ssrc(1), Ssrc(2), &[Seq(65_535), Seq(3), Seq(900)]);
    writer.pli(Ssrc(1), Ssrc(2));
    writer.fir(Ssrc(1), Ssrc(2), 3);
    writer.remb(Ssrc(1), Bitrate::mbps(2), &[Ssrc(2), Ssrc(3)]);
    writer.bye(&[Ssrc(1)]);
    let builder = FeedbackBuilder { sender: Ssrc(1), media: Ssrc(2), base_seq: 65_530, feedback_count: 1 };
    let arrivals = (0..80u16).map(|n| (65_530u16.wrapping_add(n), (n % 5 != 1).then_some(u64::from(n % 9) * 40_000)));
    assert_eq!(builder.write(arrivals, &mut out), 80);
    out
}

/// Flips, cuts, repeats and overwrites; often in the length fields at the front.
fn mutate(rng: &mut StdRng, seed: &[u8]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..rng.random_range(1..6) {
        let at = if bytes.is_empty() { 0 } else { rng.random_range(0..bytes.len()) };
        match rng.random_range(0..6) {
            0 => bytes.truncate(at),
            1 => bytes.extend((0..rng.random_range(1..24)).map(|_| rng.random::<u8>()).collect::<Vec<_>>()),
            2 if !bytes.is_empty() => bytes[at] ^= 1 << rng.random_range(0..8),
            3 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7F, 0x80, 0xFF][rng.random_range(0..5)],
            4 if !bytes.is_empty() => {
                bytes.remove(at);
            }
            _ => bytes.insert(at, rng.random()),
        }
    }
    bytes
}

fn read_everything(bytes: &[u8]) {
    // In a box of its own length, so that a read past the end would be one past an allocation.
    let bytes = bytes.to_vec().into_boxed_slice();
    let kind = classify(&bytes);
    assert!(kind == Kind::Unknown || bytes.len() >= 8);
    read_rtp(&bytes);
    read_rtcp(&bytes);
    read_payload(&bytes);
    read_descriptor(&bytes);
}

#[test]
fn the_corpora_and_all_their_truncations_are_read_or_refused() {
    for kind in ["rtp", "rtcp", "stun"] {
        let files = corpus(kind);
        assert!(!files.is_empty(), "{kind}");
        for bytes in files.values() {
            for cut in 0..=bytes.len() {
                read_everything(&bytes[..cut]);
            }
        }
    }
}

#[test]
fn what_is_valid_in_the_corpora_is_read() {
    let rtp = corpus("rtp");
    for name in ["rtp-0", "rtp-2", "rtp-4"] {
        assert!(read_rtp(&rtp[name]) && classify(&rtp[name]) == Kind::Rtp, "{name}");
    }
    let rtcp = corpus("rtcp");
    for (name, packets) in [("sr-sdes.rtcp", 2), ("rr-sdes-bye.rtcp", 3), ("remb.rtcp", 1), ("nacks.bin", 1)] {
        assert_eq!(read_rtcp(&rtcp[name]), packets, "{name}");
    }
    assert!(corpus("stun").values().filter(|bytes| classify(bytes) == Kind::Stun).count() > 5);
}

#[test]
fn mutations_and_noise_are_read_or_refused() {
    let mut rng = StdRng::seed_from_u64(7983);
    let mut seeds: Vec<_> = ["rtp", "rtcp", "stun"].into_iter().flat_map(|kind| corpus(kind).into_values()).collect();
    seeds.extend(valid_rtp());
    seeds.push(valid_rtcp());
    for round in 0..400 {
        for seed in &seeds {
            read_everything(&mutate(&mut rng, seed));
        }
        let noise: Vec<u8> = (0..round).map(|_| rng.random()).collect();
        read_everything(&noise);
    }
}

#[test]
fn valid_packets_are_read_whole_and_their_truncations_never_panic() {
    for packet in valid_rtp() {
        assert!(read_rtp(&packet));
        for cut in 0..packet.len() {
            read_everything(&packet[..cut]);
        }
    }
    let bytes = valid_rtcp();
    assert_eq!(read_rtcp(&bytes), 9);
    for cut in 0..bytes.len() {
        read_everything(&bytes[..cut]);
    }
}
