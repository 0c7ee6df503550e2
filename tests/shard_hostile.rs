//! A peer with keys of its own that lies in all it sends, and strangers without any: the call beside them loses
//! nothing, nothing grows beyond its bound, each dropped datagram has its reason, and nobody is sent more than he sent.

#[expect(dead_code, reason = "what other tests need of it")]
mod shard_rig;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng};
use shard_rig::{RTX, Rig, Stream, VIDEO, at, ice, millis, producer_spec};
use stun::agent::TransactionId;
use stun::attributes::AttrType;
use stun::message::{BINDING_REQUEST, Message};
use weirgate::base::buffer::{Batch, LocalIndex, Path};
use weirgate::base::id::{Mid, PayloadType, Ssrc};
use weirgate::base::limits::{
    CHECK_BYTES_MAX, HISTORY_BYTES_MAX, LIMBO_PACKETS_MAX, REMOTE_ADDRESSES_PER_TRANSPORT_MAX,
};
use weirgate::base::seq::Seq;
use weirgate::base::time::NtpTime;
use weirgate::base::units::Bitrate;
use weirgate::shard::command::ProducerSpec;
use weirgate::sim::world::SentDatagrams;
use weirgate::transport::stun::{IntegrityKey, PRIORITY, USERNAME, finish};
use weirgate::wire::codec::Codec;
use weirgate::wire::feedback::Feedback;
use weirgate::wire::rtcp::{self, ReportBlock, Rtcp};
use weirgate::wire::rtcp_write::RtcpWriter;
use weirgate::wire::rtp::RtpHeader;

const PUBLISHED: u32 = 1_000;
const CONSUMED: u32 = 70_000;
/// Mallory's own streams, and the others' and her own that she receives.
const OWN: u32 = 5_000;
const OWN_AV1: u32 = 5_100;
const TAKEN: u32 = 90_000;

/// A call that goes on, and who is beside it.
struct Scene {
    rig: Rig,
    publisher: usize,
    viewer: usize,
    mallory: usize,
    stream: Stream,
    frames: usize,
    /// Transports and producers.
    objects: [i64; 2],
    rng: SmallRng,
}

impl Scene {
    fn new(seed: u64) -> Scene {
        let mut rig = Rig::new(1);
        let publisher = rig.connected(0, 1, 1);
        let viewer = rig.connected(0, 2, 2);
        let mallory = rig.connected(0, 3, 3);
        rig.produce(0, 1, 1, PUBLISHED);
        rig.consume(0, 1, 2, 1, 0, CONSUMED);
        rig.produce(0, 2, 3, OWN);
        let (codec, mid) = (Codec::Av1, Mid::new(b"1"));
        rig.produce_as(0, 3, 3, ProducerSpec { codec, mid, ..producer_spec(OWN_AV1) });
        for (n, producer) in (0..).zip([1, 2, 3]) {
            rig.consume(0, 2 + u64::from(n), 3, producer, 0, TAKEN + 10 * n);
        }
        rig.run(millis(10));
        let rng = SmallRng::seed_from_u64(seed);
        let stream = Stream::new(PUBLISHED);
        let mut scene = Scene { rig, publisher, viewer, mallory, stream, frames: 0, objects: [3, 3], rng };
        scene.frame(true);
        scene
    }

    fn frame(&mut self, key: bool) {
        let packet = self.stream.frame(key, 300);
        assert!(self.rig.clients[self.publisher].peer.send_rtp(&packet));
        self.rig.run(millis(5));
        self.frames += 1;
    }

    fn is_unharmed(&mut self) {
        let came = &self.rig.clients[self.viewer].rtp;
        assert_eq!(came.len(), self.frames);
        let ours = |packet: &Vec<u8>| RtpHeader::parse(packet).is_ok_and(|header| header.ssrc == Ssrc(CONSUMED));
        assert!(came.iter().all(ours), "and nothing else");
        assert_eq!([self.rig.gauge(0, "transports"), self.rig.gauge(0, "producers")], self.objects);
        let history = self.rig.gauge(0, "history_bytes");
        assert!(history <= 8 * HISTORY_BYTES_MAX as i64, "{history}");
    }

    fn dropped(&mut self) -> u64 {
        self.rig.metrics(0).drops.iter().map(|(_, count)| *count).sum()
    }

    /// How many keyframes the call's publisher was asked for.
    fn asked(&self) -> usize {
        let compounds = self.rig.clients[self.publisher].rtcp.iter();
        let packets = compounds.flat_map(|(_, compound)| rtcp::parse(compound).flatten());
        packets.filter(|packet| matches!(packet, Rtcp::Feedback(Feedback::Pli(_)))).count()
    }

    /// With some of its bytes, its length and its place in the stream changed.
    fn bend(&mut self, bytes: &mut Vec<u8>, from: usize) {
        for _ in 0..self.rng.random_range(0..6) {
            if let Some(len) = bytes.len().checked_sub(from).filter(|len| *len > 0) {
                bytes[from + self.rng.random_range(0..len)] = self.rng.random();
            }
        }
        match self.rng.random_range(0..6) {
            0 => bytes.truncate(self.rng.random_range(from..=bytes.len())),
            1 => bytes.extend((0..self.rng.random_range(0..200)).map(|_| self.rng.random::<u8>())),
            _ => {}
        }
    }
}

/// RTP as it should be, of one of her streams.
fn honest_rtp(scene: &mut Scene, own: &mut Stream) -> Vec<u8> {
    let seq = match scene.rng.random_range(0..8) {
        0 => scene.rng.random(),
        1 => own.seq.wrapping_sub(scene.rng.random_range(0..2_000)),
        _ => own.seq.wrapping_add(1),
    };
    own.seq = seq;
    own.timestamp = own.timestamp.wrapping_add(scene.rng.random_range(0..6_000));
    let payload: Vec<u8> = (0..scene.rng.random_range(0..600)).map(|_| scene.rng.random()).collect();
    let (ssrc, payload_type) = match scene.rng.random_range(0..6) {
        0 => (OWN + 1, RTX),
        1 => (PUBLISHED, VIDEO),
        2 => (scene.rng.random(), VIDEO),
        3 | 4 => (OWN_AV1, VIDEO),
        _ => (OWN, VIDEO),
    };
    own.packet(ssrc, payload_type, seq, &payload)
}

/// A header with a dependency descriptor, or a pretended one, in two-byte elements.
fn described_rtp(scene: &mut Scene, own: &mut Stream) -> Vec<u8> {
    own.seq = own.seq.wrapping_add(1);
    let mut descriptor: Vec<u8> = (0..scene.rng.random_range(0..80)).map(|_| scene.rng.random()).collect();
    if let Some(first) = descriptor.get_mut(..4) {
        // Start and end of frame, template 0, a frame number, and a structure attached.
        first.copy_from_slice(&[0xc0, 0, scene.rng.random(), 0x80]);
    }
    let mut packet = vec![0x90, 0x80 | 96];
    packet.extend(own.seq.to_be_bytes());
    packet.extend(own.timestamp.to_be_bytes());
    packet.extend(OWN_AV1.to_be_bytes());
    packet.extend([0x10, 0x00]);
    let mut elements = vec![shard_rig::DESCRIPTOR_ID, descriptor.len() as u8];
    elements.extend(descriptor);
    elements.resize(elements.len().next_multiple_of(4), 0);
    packet.extend((elements.len() as u16 / 4).to_be_bytes());
    packet.extend(elements);
    packet.extend((0..40).map(|_| scene.rng.random::<u8>()));
    packet
}

fn honest_rtcp(scene: &mut Scene) -> Vec<u8> {
    let mut compound = Vec::new();
    for _ in 0..scene.rng.random_range(1..5) {
        let mine = [OWN, OWN + 1, OWN_AV1, TAKEN, TAKEN + 10, TAKEN + 20, CONSUMED, PUBLISHED];
        let ssrc = Ssrc(mine[scene.rng.random_range(0..mine.len())]);
        let number: u32 = scene.rng.random();
        let mut writer = RtcpWriter::new(&mut compound);
        match scene.rng.random_range(0..9) {
            0 => writer.sender_report(ssrc, NtpTime(u64::from(number) << 20), number, number, number, &[]),
            1 => {
                let lost = number as i32 >> 8;
                let block = ReportBlock {
                    ssrc: ssrc.0,
                    cumulative_lost: lost,
                    highest_seq: number,
                    last_sr: number,
                    ..ReportBlock::default()
                };
                writer.receiver_report(Ssrc(1), &[block]);
            }
            2 => writer.bye(&[ssrc]),
            3 => writer.nack(Ssrc(1), ssrc, &(0..40).map(|n| Seq(n * 7)).collect::<Vec<_>>()),
            4 => writer.pli(Ssrc(1), ssrc),
            5 => writer.fir(Ssrc(1), ssrc, number as u8),
            6 => writer.remb(Ssrc(1), Bitrate(u64::from(number) << 8), &[ssrc]),
            7 => writer.sdes_cname(ssrc, "somebody else's name"),
            _ => {
                let (base, count) = (number as u16, (number >> 16) as u16 % 9_000);
                compound.extend([0x8f, 205, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0]);
                compound.extend([base, count].map(u16::to_be_bytes).concat());
                compound.extend(number.to_be_bytes());
                compound.extend([(number & 0x7fff) as u16, 0x1fff].map(u16::to_be_bytes).concat());
            }
        }
    }
    compound
}

#[test]
fn a_peer_that_lies_in_rtp_and_descriptors_harms_nobody() {
    let mut scene = Scene::new(1);
    let mut own = Stream::new(OWN);
    let mut sent = 0;
    for round in 0..400 {
        for _ in 0..25 {
            let mut packet = match scene.rng.random_range(0..3) {
                0 => described_rtp(&mut scene, &mut own),
                _ => honest_rtp(&mut scene, &mut own),
            };
            // The first twelve bytes are what it is sealed by.
            scene.bend(&mut packet, 12);
            sent += u64::from(scene.rig.clients[scene.mallory].peer.send_rtp(&packet));
        }
        scene.frame(round % 100 == 0);
    }
    assert!(sent > 3_000, "much of it could be sealed: {sent}");
    scene.is_unharmed();
    assert!(scene.dropped() > 500, "{}", scene.dropped());
    // No consumer of her stream was sent more packets than she sent, and padding where one had to be taken back.
    let taken = scene.rig.clients[scene.mallory].rtp.len();
    assert!(taken as u64 <= 2 * sent + scene.frames as u64, "{taken} of {sent}");
}

#[test]
fn a_peer_that_lies_in_rtcp_harms_nobody() {
    let mut scene = Scene::new(2);
    let asked = scene.asked();
    for round in 0..400 {
        for _ in 0..25 {
            let mut compound = honest_rtcp(&mut scene);
            if scene.rng.random() {
                scene.bend(&mut compound, 8);
            }
            compound.resize(compound.len().next_multiple_of(4), 0);
            scene.rig.clients[scene.mallory].peer.send_rtcp(compound);
        }
        scene.frame(round % 100 == 0);
    }
    scene.is_unharmed();
    assert!(scene.dropped() > 500, "{}", scene.dropped());
    // She takes the stream too, and may ask for keyframes of it: about once a second in those two.
    assert!(scene.asked() - asked <= 6, "{}", scene.asked() - asked);
    let resent = scene.rig.clients[scene.mallory].rtp.len();
    assert!(resent <= 2 * scene.frames + 600, "{resent}");
}

#[test]
fn twenty_thousand_ssrcs_are_a_bounded_number_of_streams() {
    let mut scene = Scene::new(3);
    let mallories: Vec<usize> = (0..5).map(|n| scene.rig.connected(0, 10 + n, 10 + n)).collect();
    for n in 0..5 {
        scene.rig.produce(0, 10 + n, 10 + n, OWN + 10 * n as u32);
    }
    scene.objects = [8, 8];
    let mut own = Stream::new(OWN);
    let before = scene.dropped();
    // As many as one client can seal for, on each of five transports.
    for n in 0..4_000 {
        for mallory in &mallories {
            // One is found by its mid and takes the place of the one before; the next is nobody's.
            let payload_type = if n % 2 == 0 { VIDEO } else { PayloadType(50) };
            let packet = own.packet(1_000_000 + n, payload_type, 1, &[0x10, 1, 2, 3]);
            assert!(scene.rig.clients[*mallory].peer.send_rtp(&packet));
        }
        if n % 20 == 19 {
            scene.frame(n % 400 == 19);
        }
    }
    scene.is_unharmed();
    let dropped = scene.dropped() - before;
    assert!(dropped >= 5 * (2_000 - LIMBO_PACKETS_MAX as u64), "{dropped}");
    // Every holder of a stream still has one.
    let packet = own.packet(1_003_998, VIDEO, 2, &[0x10, 1, 2, 3]);
    let received = |rig: &mut Rig| rig.gauge(0, "open_transports_received_packets");
    let had = received(&mut scene.rig);
    assert!(scene.rig.clients[mallories[0]].peer.send_rtp(&packet));
    scene.frame(true);
    assert_eq!(received(&mut scene.rig), had + 2);
    scene.is_unharmed();
}

/// A binding request to Mallory's transport.
fn check(password: Option<&str>, padding: usize) -> Vec<u8> {
    let mut message = Message { typ: BINDING_REQUEST, transaction_id: TransactionId([7; 12]), ..Message::new() };
    message.write_header();
    message.add(AttrType(USERNAME), format!("{}:them", ice(0, 3).ufrag).as_bytes());
    message.add(AttrType(PRIORITY), &[110, 0, 0, 255]);
    if padding > 0 {
        message.add(AttrType(0x9000), &vec![1; padding]);
    }
    match password {
        Some(password) => finish(&mut message, &IntegrityKey::new(password)),
        None => message.write_header(),
    }
    message.raw
}

#[test]
fn who_does_not_know_the_password_is_not_answered_and_who_does_gets_no_more_than_he_sent() {
    let mut scene = Scene::new(4);
    let pwd = ice(0, 3).pwd;
    let truth = check(Some(&pwd), 0);
    // Padding has a header of four bytes.
    let longest = CHECK_BYTES_MAX - truth.len() - 4;
    let mut cut = truth.clone();
    cut[40] ^= 1;
    // Each with how many bytes more than it has may come back.
    let requests: Vec<(&str, Vec<u8>, Option<usize>)> = vec![
        ("without a code", check(None, 0), None),
        ("under a guess", check(Some("guess"), 0), None),
        ("under a guess, as long as may be", check(Some("guess"), longest), None),
        ("changed on the way", cut, None),
        ("an indication", [&[0x00, 0x11][..], &truth[2..]].concat(), None),
        ("a response", [&[0x01, 0x01][..], &truth[2..]].concat(), None),
        ("the truth", truth, Some(16)),
        ("the truth, as long as may be", check(Some(&pwd), longest), Some(0)),
        ("the truth, longer", check(Some(&pwd), longest + 4), None),
    ];
    let mut batch = Batch::new(64);
    for (what, request, more) in requests {
        let mut answers = Vec::new();
        for n in 0..500u16 {
            batch.clear();
            let remote = ([203, 0, 113, n as u8], 1_024 + n).into();
            assert!(batch.push(Path::udp(LocalIndex(0), remote), scene.rig.now.mono, &request));
            let mut sent = SentDatagrams::default();
            scene.rig.shards[0].handle_batch(scene.rig.now, &mut batch);
            scene.rig.shards[0].flush(scene.rig.now, &mut sent);
            answers.extend(sent.0.into_iter().filter(|(to, _)| to.remote == remote));
        }
        match more {
            None => assert!(answers.is_empty(), "{what}"),
            Some(more) => {
                assert_eq!(answers.len(), 500, "{what}: one each");
                assert!(answers.iter().all(|(_, answer)| answer.len() <= request.len() + more), "{what}");
            }
        }
        let now = at(scene.rig.now.mono + millis(5));
        scene.rig.now = now;
        scene.frame(false);
    }
    assert!(scene.rig.gauge(0, "paths") <= 2 + REMOTE_ADDRESSES_PER_TRANSPORT_MAX as i64);
    scene.is_unharmed();
}
