//! The cost of datagrams and commands on a shard: at the maximum of every bound beside an everyday call. Times are of
//! the thread's CPU clock, each the median of many, so that other load on the machine shows little.

use std::time::Duration;

use stun::agent::TransactionId;
use stun::attributes::AttrType;
use stun::message::{BINDING_REQUEST, Message};
use weirgate::base::buffer::{Batch, DATAGRAM_MAX, LocalIndex, Path, Run, Transmit};
use weirgate::base::id::{ConsumerId, Layers, Mid, PayloadType, PeerId, ProducerId, Ssrc, TransportId};
use weirgate::base::limits::{
    CONSUMERS_PER_PEER_AND_PRODUCER_MAX, CONSUMERS_PER_PEER_MAX, ENCODINGS_MAX, INCOMING_SSRCS_PER_TRANSPORT_MAX,
    PARKED_SSRCS_PER_TRANSPORT_MAX, PRODUCERS_PER_PEER_MAX, SENT_LOG_MAX,
};
use weirgate::base::seq::Seq;
use weirgate::base::units::Bitrate;
use weirgate::shard::command::{Command, EncodingSpec, PlainRtpSpec, ProducerSpec};
use weirgate::transport::stun::{ICE_CONTROLLING, IntegrityKey, PRIORITY, USE_CANDIDATE, USERNAME, finish};
use weirgate::wire::rtcp::ReportBlock;
use weirgate::wire::rtcp_write::RtcpWriter;

mod dtls;
mod messages;

pub use dtls::dtls;
pub use messages::messages;

use crate::cpu::thread_cpu;
use crate::shard_rig::{Rig, Stream, at, ice, millis, producer_spec};

/// The number of measurements of one kind.
const COUNT: usize = 101;
/// The arrivals in everyday transport-wide feedback: of 3 Mbit/s in packets of 1,200 bytes, told every 100 ms.
const FEEDBACK_PACKETS: usize = 30;
/// Without SRTP's tag.
const PLAIN_MAX: usize = 1_450;

#[derive(Debug)]
pub struct Cost {
    pub name: &'static str,
    /// In nanoseconds.
    pub typical: f64,
    pub worst: f64,
}

impl Cost {
    pub fn ratio(&self) -> f64 {
        self.worst / self.typical
    }
}

/// In nanoseconds.
fn median(times: Vec<Duration>) -> f64 {
    crate::cpu::median(times.iter().map(|time| time.as_nanos() as f64).collect())
}

/// Lets everything that is sent go.
struct Nowhere;

impl Transmit for Nowhere {
    fn transmit(&mut self, _: &[u8], _: &[Run]) {}
}

/// The cost of the clock itself is in both and subtracted.
fn timed(work: impl FnOnce()) -> Duration {
    let start = thread_cpu();
    work();
    let end = thread_cpu();
    (end - start).saturating_sub(thread_cpu() - end)
}

/// A turn of the shard's loop, with what falls due in it.
fn turn(rig: &mut Rig, batch: &mut Batch, commands: Vec<Command>) -> Duration {
    rig.now = at(rig.now.mono + millis(1));
    let now = rig.now;
    let shard = &mut rig.shards[0];
    timed(|| {
        let media = shard.handle_batch(now, batch);
        for command in commands {
            shard.handle_command(now, command);
        }
        loop {
            if media > 0 || shard.poll_timeout().is_some_and(|due| due <= now.mono) {
                shard.handle_timeout(now);
            }
            shard.flush(now, &mut Nowhere);
            if shard.poll_timeout().is_none_or(|due| due > now.mono) {
                break;
            }
        }
        while shard.poll_event().is_some() {}
        while shard.poll_path().is_some() {}
        shard.poll_mesh(&mut |_, _| true);
    })
}

/// Nanoseconds for one of the client's datagrams, each in a turn of its own; `write` sends the next.
fn cost(rig: &mut Rig, client: usize, mut write: impl FnMut(&mut Rig)) -> f64 {
    let mut batch = Batch::new(1);
    let times = (0..COUNT).map(|_| {
        write(rig);
        let path = Path::udp(LocalIndex(0), rig.clients[client].address);
        let datagram = rig.clients[client].peer.poll_transmit().expect("it was written");
        batch.clear();
        assert!(batch.push(path, rig.now.mono + millis(1), &datagram.bytes));
        turn(rig, &mut batch, Vec::new())
    });
    median(times.collect())
}

/// The same for commands, all in one turn: for each unit of what they are about.
fn command_cost(rig: &mut Rig, units: usize, rounds: usize, mut say: impl FnMut(usize) -> Vec<Command>) -> f64 {
    let mut batch = Batch::new(1);
    median((0..rounds).map(|round| turn(rig, &mut batch, say(round))).collect()) / units as f64
}

const VIEWER: u64 = 1_000;
const SSRC: u32 = 10_000;
const CONSUMED: u32 = 1_000_000;

/// Peers that publish, and one that takes so many consumers on one transport; nobody's packets have come.
struct Scene {
    rig: Rig,
    publishers: Vec<usize>,
    viewer: usize,
    streams: Vec<Stream>,
    consumers: usize,
}

impl Scene {
    fn new(producers: usize, consumers: usize) -> Scene {
        let mut rig = Rig::new(1);
        let peers = producers.div_ceil(PRODUCERS_PER_PEER_MAX);
        let publishers: Vec<_> = (0..peers as u64).map(|peer| rig.connected(0, 1 + peer, 1 + peer)).collect();
        let viewer = rig.connected(0, VIEWER, VIEWER);
        let ssrc = |producer: usize| SSRC + 2 * producer as u32;
        let mut streams = Vec::new();
        for producer in 0..producers {
            let peer = 1 + (producer / PRODUCERS_PER_PEER_MAX) as u64;
            let mid = Mid::new(producer.to_string().as_bytes());
            rig.produce_as(0, 1 + producer as u64, peer, ProducerSpec { mid, ..producer_spec(ssrc(producer)) });
            streams.push(Stream::new(ssrc(producer)));
        }
        for consumer in 0..consumers {
            let producer = 1 + (consumer % producers) as u64;
            rig.consume(0, 1 + consumer as u64, VIEWER, producer, 0, CONSUMED + 2 * consumer as u32);
        }
        let mut scene = Scene { rig, publishers, viewer, streams, consumers };
        scene.rig.run(millis(20));
        scene.flow(2);
        scene
    }

    fn everyday() -> Scene {
        Scene::new(2, 2)
    }

    /// As much as one peer may have, and who publishes for it as much as they may.
    fn full() -> Scene {
        let producers = CONSUMERS_PER_PEER_MAX / CONSUMERS_PER_PEER_AND_PRODUCER_MAX;
        Scene::new(producers, CONSUMERS_PER_PEER_MAX)
    }

    /// So many packets of each stream, the first of them a keyframe.
    fn flow(&mut self, packets: usize) {
        for packet in 0..packets {
            for (at, stream) in self.streams.iter_mut().enumerate() {
                let publisher = self.publishers[at / PRODUCERS_PER_PEER_MAX];
                let frame = stream.frame(packet == 0, 200);
                assert!(self.rig.clients[publisher].peer.send_rtp(&frame));
            }
            self.rig.run(millis(5));
        }
    }

    fn of_rtp(&mut self, write: impl Fn(&mut Stream) -> Vec<u8>) -> f64 {
        let (client, mut stream) = (self.publishers[0], Stream::new(SSRC));
        stream.seq = self.streams[0].seq;
        stream.timestamp = self.streams[0].timestamp;
        let nanos = cost(&mut self.rig, client, |rig| {
            let packet = write(&mut stream);
            assert!(rig.clients[client].peer.send_rtp(&packet));
        });
        self.streams[0].seq = stream.seq;
        nanos
    }

    fn of_rtcp(&mut self, client: usize, compound: &[u8]) -> f64 {
        assert!(compound.len() <= PLAIN_MAX, "{}", compound.len());
        cost(&mut self.rig, client, |rig| assert!(rig.clients[client].peer.send_rtcp(compound.to_vec())))
    }

    fn of_raw(&mut self, client: usize, mut write: impl FnMut(&mut Rig) -> Vec<u8>) -> f64 {
        cost(&mut self.rig, client, |rig| {
            let bytes = write(rig);
            rig.clients[client].peer.send_raw(bytes);
        })
    }

    fn consumed(&self, consumer: usize) -> Ssrc {
        Ssrc(CONSUMED + 2 * (consumer % self.consumers) as u32)
    }
}

/// A packet of a stream with so many two-byte extension elements that say nothing (RFC 8285 section 4.3).
fn with_empty_elements(stream: &mut Stream, ssrc: u32, elements: u16) -> Vec<u8> {
    stream.seq = stream.seq.wrapping_add(1);
    let mut packet = vec![0x90, 96];
    packet.extend(stream.seq.to_be_bytes());
    packet.extend(stream.timestamp.to_be_bytes());
    packet.extend(ssrc.to_be_bytes());
    packet.extend([0x10, 0x00]);
    packet.extend((elements / 2).to_be_bytes());
    packet.extend((0..elements).flat_map(|_| [200, 0]));
    packet.extend([0x10, 1, 2, 3]);
    packet
}

/// RTP in the clear of somebody who is not awaited, at the address of a plain-RTP transport that awaits any of as many
/// SSRCs as one peer may have.
fn of_stranger() -> f64 {
    let mut rig = Rig::new(1);
    let (peer, local) = (1, LocalIndex(1));
    let plain = Box::new(PlainRtpSpec { local, remote: None, srtp: None });
    rig.command(0, Command::CreatePlainTransport { transport: TransportId(1), peer: PeerId(peer), plain });
    for producer in 0..PRODUCERS_PER_PEER_MAX as u32 {
        let ssrcs = (0..ENCODINGS_MAX as u32).map(|encoding| SSRC + 100 * producer + 2 * encoding);
        let encoding = |ssrc| EncodingSpec { ssrc: Some(Ssrc(ssrc)), rtx_ssrc: Some(Ssrc(ssrc + 1)), rid: None };
        let mid = Mid::new(producer.to_string().as_bytes());
        let spec = ProducerSpec { mid, encodings: ssrcs.map(encoding).collect(), ..producer_spec(SSRC) };
        rig.produce_as(0, 1 + u64::from(producer), peer, spec);
    }
    let path = Path::udp(local, ([192, 0, 2, 1], 9).into());
    let mut batch = Batch::new(1);
    let times = (0..COUNT).map(|_| {
        batch.clear();
        assert!(batch.push(path, rig.now.mono + millis(1), &Stream::new(9).frame(false, 0)));
        turn(&mut rig, &mut batch, Vec::new())
    });
    let nanos = median(times.collect());
    let drops = rig.metrics(0).drops;
    assert!(drops.contains(&("plain_source", COUNT as u64)), "{drops:?}");
    nanos
}

/// Media packets of publishers.
pub fn rtp() -> Vec<Cost> {
    let typical = Scene::everyday().of_rtp(|stream| stream.frame(false, 1_100));
    let mut scene = Scene::full();
    // As many SSRCs as are kept of one transport, beside those that have streams.
    let publisher = scene.publishers[0];
    for strange in 0..(INCOMING_SSRCS_PER_TRANSPORT_MAX + PARKED_SSRCS_PER_TRANSPORT_MAX / 2) as u32 {
        let packet = Stream::new(SSRC).packet(3_000_000 + strange, PayloadType(50), 1, b"strange");
        assert!(scene.rig.clients[publisher].peer.send_rtp(&packet));
        if strange % 200 == 0 {
            scene.rig.run(millis(5));
        }
    }
    scene.flow(1);
    let strangest = 2_999_999;
    let mut costs = Vec::new();
    let mut add = |name, worst| costs.push(Cost { name, typical, worst });
    add("RTP, 1,400 bytes", scene.of_rtp(|stream| stream.frame(false, 1_400)));
    add("RTP, 700 extension elements", scene.of_rtp(|stream| with_empty_elements(stream, SSRC, 700)));
    add(
        "RTP of an unknown SSRC",
        scene.of_rtp(|stream| {
            stream.seq = stream.seq.wrapping_add(1);
            stream.packet(strangest, PayloadType(50), stream.seq, &[1; 1_100])
        }),
    );
    add(
        "RTP of padding alone",
        scene.of_rtp(|stream| {
            let mut packet = stream.frame(false, 0);
            let header = packet.len() - 2;
            packet.truncate(header);
            packet[0] |= 0x20;
            packet.resize(header + 255, 255);
            packet
        }),
    );
    add(
        "RTX of what came long ago",
        scene.of_rtp(|stream| {
            stream.seq = stream.seq.wrapping_add(1);
            stream.packet(SSRC + 1, PayloadType(97), stream.seq, &[stream.seq.to_be_bytes(), [0x10, 1]].concat())
        }),
    );
    let client = scene.publishers[0];
    let mut forged = Stream::new(4_000_000_000).frame(false, PLAIN_MAX);
    forged.extend([7; 16]);
    add("RTP, forged", scene.of_raw(client, |_| forged.clone()));
    add("RTP that is none", scene.of_raw(client, |_| vec![0xff; PLAIN_MAX]));
    add("RTP of a stranger to plain RTP", of_stranger());
    costs
}

/// 24 bytes: so many packets from this one on are lost.
fn told_lost(base: u16, count: u16) -> Vec<u8> {
    let mut packet = vec![0x8f, 205, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0];
    packet.extend(base.to_be_bytes());
    packet.extend(count.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend(count.min(0x1fff).to_be_bytes());
    packet.extend([0, 0]);
    packet
}

/// As many of them as a datagram has room for.
fn filled(mut write: impl FnMut(usize, &mut RtcpWriter<'_>)) -> Vec<u8> {
    let mut all = Vec::new();
    for at in 0.. {
        let mut one = Vec::new();
        write(at, &mut RtcpWriter::new(&mut one));
        if all.len() + one.len() > PLAIN_MAX {
            break;
        }
        all.extend(one);
    }
    all
}

/// A feedback message of format and type with this body behind its SSRCs.
fn feedback(format: u8, packet_type: u8, media: u32, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x80 | format, packet_type];
    packet.extend((body.len() as u16 / 4 + 2).to_be_bytes());
    packet.extend([0, 0, 0, 1]);
    packet.extend(media.to_be_bytes());
    packet.extend(body);
    packet
}

/// Transport-wide feedback that so many packets arrived, in status vectors of small deltas (section 3.1.4 of the draft).
fn arrived(count: u16) -> Vec<u8> {
    let mut came = [&[0, 0][..], &count.to_be_bytes(), &[0, 0, 1, 0]].concat();
    came.extend([0xbf, 0xff].repeat(usize::from(count.div_ceil(14))));
    came.resize(came.len() + usize::from(count), 1);
    came.resize(came.len().next_multiple_of(4), 0);
    feedback(15, 205, 0, &came)
}

fn typical_rtcp(scene: &Scene) -> Vec<u8> {
    let mut compound = Vec::new();
    let block = ReportBlock { ssrc: scene.consumed(0).0, highest_seq: 5, ..ReportBlock::default() };
    RtcpWriter::new(&mut compound).receiver_report(Ssrc(1), &[block]);
    RtcpWriter::new(&mut compound).nack(Ssrc(1), scene.consumed(0), &[Seq(1)]);
    compound
}

/// Reports and feedback, from who receives as much as it may.
pub fn rtcp() -> Vec<Cost> {
    let mut everyday = Scene::everyday();
    let compound = typical_rtcp(&everyday);
    let viewer_of_everyday = everyday.viewer;
    let typical = everyday.of_rtcp(viewer_of_everyday, &compound);
    let mut scene = Scene::full();
    let mut costs = Vec::new();
    let viewer = scene.viewer;
    // The log of what was sent is full.
    scene.flow(SENT_LOG_MAX / CONSUMERS_PER_PEER_MAX);
    let ssrcs: Vec<Ssrc> = (0..CONSUMERS_PER_PEER_MAX).map(|consumer| scene.consumed(consumer)).collect();
    let nth = |at: usize| ssrcs[ssrcs.len() - 1 - at % ssrcs.len()];
    let blocks = |at: usize, count: usize| -> Vec<ReportBlock> {
        let ssrc = |n| nth(31 * at + n).0;
        (0..count).map(|n| ReportBlock { ssrc: ssrc(n), highest_seq: 9, ..ReportBlock::default() }).collect()
    };
    let entries = |entry: &dyn Fn(usize) -> Vec<u8>, len: usize| -> Vec<u8> {
        (0..(PLAIN_MAX - 12) / len).flat_map(entry).collect()
    };
    let fir = entries(&|at| [&nth(at).0.to_be_bytes()[..], &[at as u8, 0, 0, 0]].concat(), 8);
    let everything = entries(&|at| [(at as u16 * 17).to_be_bytes(), [0xff; 2]].concat(), 4);
    let all_lost = told_lost(0, 8_191).repeat(PLAIN_MAX / 24);
    let each_lost = told_lost(0, 1).repeat(PLAIN_MAX / 24);
    let kinds: Vec<(&'static str, Vec<u8>)> = vec![
        ("RR, 57 blocks", filled(|at, to| to.receiver_report(Ssrc(1), &blocks(at, if at == 0 { 31 } else { 25 })))),
        ("SDES", filled(|at, to| to.sdes_cname(nth(at), "x"))),
        ("BYE of 31 sources", filled(|at, to| to.bye(&ssrcs[31 * at..31 * (at + 1)]))),
        ("BYE of nobody", [0x80, 203, 0, 0].repeat(PLAIN_MAX / 4)),
        ("APP and XR without content", [0x80, 204, 0, 0, 0x80, 207, 0, 0].repeat(PLAIN_MAX / 8)),
        ("PLI for each consumer", filled(|at, to| to.pli(Ssrc(1), nth(at)))),
        ("PLI for one", filled(|_, to| to.pli(Ssrc(1), nth(0)))),
        ("FIR for each consumer", feedback(4, 206, 0, &fir)),
        ("NACK of everything", feedback(1, 205, nth(0).0, &everything)),
        ("NACK, many", filled(|at, to| to.nack(Ssrc(1), nth(at), &(0..17).map(Seq).collect::<Vec<_>>()))),
        ("REMB, many", filled(|at, to| to.remb(Ssrc(1), Bitrate(50_000_000 + at as u64 * 9_000_000), &[]))),
        ("a compound of everything", {
            let mut compound = filled(|_, to| to.receiver_report(Ssrc(1), &blocks(0, 10)));
            compound.truncate(248);
            compound.extend(feedback(1, 205, nth(0).0, &everything[..400]));
            compound.extend(feedback(4, 206, 0, &fir[..400]));
            compound.extend(told_lost(0, 4_000));
            compound
        }),
        ("RTCP that is none", vec![0xff; PLAIN_MAX]),
    ];
    for (name, compound) in kinds {
        costs.push(Cost { name, typical, worst: scene.of_rtcp(viewer, &compound) });
    }
    everyday.flow(FEEDBACK_PACKETS / everyday.streams.len());
    let typical_feedback = everyday.of_rtcp(viewer_of_everyday, &arrived(FEEDBACK_PACKETS as u16));
    for (name, compound) in [
        ("transport-cc, 8,191 lost, 60 times", all_lost),
        ("transport-cc, one lost, 60 times", each_lost),
        ("transport-cc, 900 arrived", arrived(900)),
    ] {
        costs.push(Cost { name, typical: typical_feedback, worst: scene.of_rtcp(viewer, &compound) });
    }
    let publisher = scene.publishers[0];
    let reports = filled(|at, to| {
        let ssrc = Ssrc(SSRC + 2 * (at % PRODUCERS_PER_PEER_MAX) as u32);
        to.sender_report(ssrc, weirgate::base::time::NtpTime(1 << 40), at as u32, 1, 1, &[]);
    });
    costs.push(Cost { name: "SR, many", typical, worst: scene.of_rtcp(publisher, &reports) });
    let byes = filled(|at, to| to.bye(&[Ssrc(SSRC + 2 * (at % PRODUCERS_PER_PEER_MAX) as u32); 31]));
    costs.push(Cost { name: "BYE of streams", typical, worst: scene.of_rtcp(publisher, &byes) });
    costs
}

/// A binding request to this transport, with so many attributes that nobody knows and may be passed over.
fn check(transport: u64, password: &str, nominates: bool, unknown: usize) -> Vec<u8> {
    let mut message = Message { typ: BINDING_REQUEST, transaction_id: TransactionId([7; 12]), ..Message::new() };
    message.write_header();
    // Beside the four bytes of its header.
    let value = if unknown < 64 { 28 } else { 0 };
    (0..unknown).for_each(|_| message.add(AttrType(0x9000), &[0; 28][..value]));
    message.add(AttrType(USERNAME), format!("{}:them", ice(0, transport).ufrag).as_bytes());
    message.add(AttrType(ICE_CONTROLLING), &[1; 8]);
    message.add(AttrType(PRIORITY), &[110, 0, 0, 255]);
    if nominates {
        message.add(AttrType(USE_CANDIDATE), &[]);
    }
    finish(&mut message, &IntegrityKey::new(password));
    assert!(message.raw.len() <= DATAGRAM_MAX);
    message.raw
}

/// Connectivity checks, for a transport with as many consumers as there may be.
pub fn stun() -> Vec<Cost> {
    let password = |transport| ice(0, transport).pwd;
    let mut everyday = Scene::everyday();
    let viewer = everyday.viewer;
    let typical = everyday.of_raw(viewer, |_| check(VIEWER, &password(VIEWER), true, 0));
    let mut scene = Scene::full();
    let viewer = scene.viewer;
    let mut costs = Vec::new();
    let mut add = |name, worst| costs.push(Cost { name, typical, worst });
    add("check", scene.of_raw(viewer, |_| check(VIEWER, &password(VIEWER), false, 0)));
    add("check, 2 kB", scene.of_raw(viewer, |_| check(VIEWER, &password(VIEWER), false, 58)));
    add("check of 480 attributes", scene.of_raw(viewer, |_| check(VIEWER, &password(VIEWER), false, 480)));
    add("check under a wrong password", scene.of_raw(viewer, |_| check(VIEWER, "wrong", false, 0)));
    add("the same, 2 kB", scene.of_raw(viewer, |_| check(VIEWER, "wrong", false, 58)));
    add("check for nobody", scene.of_raw(viewer, |_| check(77_777, "wrong", false, 58)));
    let home = scene.rig.clients[viewer].address;
    let mut hop = 0;
    let mut port = |rig: &mut Rig, ports: u16| {
        hop = (hop + 1) % ports;
        rig.clients[viewer].address.set_port(20_000 + hop);
    };
    add(
        "nomination of one path and another",
        scene.of_raw(viewer, |rig| {
            port(rig, 2);
            check(VIEWER, &password(VIEWER), true, 0)
        }),
    );
    add(
        "nomination of ever new paths",
        scene.of_raw(viewer, |rig| {
            port(rig, 1_000);
            check(VIEWER, &password(VIEWER), true, 0)
        }),
    );
    scene.rig.clients[viewer].address = home;
    costs
}

/// Signalling's commands: for each consumer that they are about.
pub fn commands() -> Vec<Cost> {
    let mut costs = Vec::new();
    let consumers = CONSUMERS_PER_PEER_MAX;
    let sized = |consumers: usize| {
        let mut scene = Scene::new(1, consumers);
        let (transport, outgoing) = (TransportId(VIEWER), Some(Bitrate::mbps(1_000)));
        scene.rig.command(0, Command::SetMaxBitrate { transport, incoming: None, outgoing });
        scene.rig.run(millis(5));
        scene.rig
    };
    let mut compare = |name, rounds: usize, say: &dyn Fn(usize, usize) -> Vec<Command>| {
        let of = |size: usize| command_cost(&mut sized(size), size, rounds, |round| say(round, size));
        costs.push(Cost { name, typical: of(8), worst: of(consumers) });
    };
    let producer = ProducerId(1);
    let each = |size: usize, command: &dyn Fn(ConsumerId) -> Command| -> Vec<Command> {
        (1..=size as u64).map(|n| command(ConsumerId(n))).collect()
    };
    compare("pause-producer and resume, a consumer", 21, &|_, _| {
        vec![Command::PauseProducer { producer }, Command::ResumeProducer { producer }]
    });
    compare("pause-producer or resume, a consumer", 22, &|round, _| match round % 2 {
        0 => vec![Command::PauseProducer { producer }],
        _ => vec![Command::ResumeProducer { producer }],
    });
    compare("pause-consumer and resume, for each", 11, &|_, size| {
        let mut all = each(size, &|consumer| Command::PauseConsumer { consumer });
        all.extend(each(size, &|consumer| Command::ResumeConsumer { consumer }));
        all
    });
    compare("set-priority, for each", 11, &|round, size| {
        each(size, &|consumer| Command::SetPriority { consumer, priority: 1 + round as u8 })
    });
    compare("set-preferred-layers, for each", 11, &|round, size| {
        let layers = Layers { spatial: round as u8 % 2, temporal: 0 };
        each(size, &|consumer| Command::SetPreferredLayers { consumer, layers })
    });
    compare("set-max-bitrate, a consumer", 11, &|round, _| {
        let outgoing = Some(Bitrate::mbps(100 + round as u64));
        vec![Command::SetMaxBitrate { transport: TransportId(VIEWER), incoming: None, outgoing }]
    });
    // The first round does it all: one measurement for each scene.
    compare("close-producer, a consumer", 1, &|_, _| vec![Command::CloseProducer { producer }]);
    compare("close-transport, a consumer", 1, &|_, _| vec![Command::CloseTransport { transport: TransportId(VIEWER) }]);
    compare("close-transport of the publisher, a consumer", 1, &|_, _| {
        vec![Command::CloseTransport { transport: TransportId(1) }]
    });
    compare("restart-ice", 11, &|round, _| {
        vec![Command::RestartIce { transport: TransportId(VIEWER), ice: ice(0, VIEWER + 1 + round as u64) }]
    });
    costs.push(Cost { name: "create-transport at a peer with many", ..created() });
    costs
}

/// A peer's transports, one more in a shard with many.
fn created() -> Cost {
    let create = |rig: &mut Rig, from: u64| {
        command_cost(rig, 1, 21, |round| {
            let transport = from + round as u64;
            let (peer, ice) = (PeerId(7), ice(0, transport));
            vec![Command::CreateTransport { transport: TransportId(transport), peer, ice }]
        })
    };
    let typical = create(&mut Rig::new(1), 50_000);
    let mut rig = Rig::new(1);
    for transport in 0..8_000 {
        rig.command(
            0,
            Command::CreateTransport { transport: TransportId(transport), peer: PeerId(7), ice: ice(0, transport) },
        );
    }
    Cost { name: "", typical, worst: create(&mut rig, 50_000) }
}
