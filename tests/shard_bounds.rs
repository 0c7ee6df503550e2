//! The things that a peer's bytes, a full mesh or bad timing must not do to a shard: spin, grow, amplify, go silent for
//! ever.

#[expect(dead_code, reason = "what other tests need of it")]
mod shard_rig;

use shard_rig::{RTX, Rig, Stream, announcement, millis};
use stun::agent::TransactionId;
use stun::attributes::AttrType;
use stun::message::{BINDING_REQUEST, Message};
use weirgate::base::buffer::{Batch, LocalIndex, Path};
use weirgate::base::id::{ConsumerId, Layers, ProducerId, Ssrc, TransportId};
use weirgate::base::limits::{
    CONSUMERS_PER_PRODUCER_MAX, CONSUMERS_PER_TRANSPORT_MAX, RESENT_BURST_MAX, SETTLED_PER_TURN_MAX,
};
use weirgate::base::seq::Seq;
use weirgate::base::time::Instant;
use weirgate::base::units::Bitrate;
use weirgate::secure::SecureDrop;
use weirgate::secure::dtls::{SecureEngine, SecureOutput, SecureSession, SessionTag, Side};
use weirgate::shard::command::{Closed, Command, Event, TransportState};
use weirgate::sim::engine::SimEngine;
use weirgate::transport::stun::{IntegrityKey, PRIORITY, USE_CANDIDATE, USERNAME, finish};
use weirgate::wire::feedback::Feedback;
use weirgate::wire::rtcp::{self, Rtcp};
use weirgate::wire::rtcp_write::RtcpWriter;
use weirgate::wire::rtp::RtpHeader;

const PUBLISHED: u32 = 1_000;
const CONSUMED: u32 = 70_000;

/// Transport 1 of peer 1 publishes producer 1, transport 2 of peer 2 consumes it; a keyframe has passed.
fn call(consumer_shard: usize) -> (Rig, usize, usize, Stream) {
    let mut rig = Rig::new(consumer_shard + 1);
    let publisher = rig.connected(0, 1, 1);
    let viewer = rig.connected(consumer_shard, 2, 2);
    rig.produce(0, 1, 1, PUBLISHED);
    rig.consume(consumer_shard, 1, 2, 1, 0, CONSUMED);
    let mut stream = Stream::new(PUBLISHED);
    rig.run(millis(10));
    send(&mut rig, publisher, &mut stream, true);
    assert_eq!(rig.clients[viewer].rtp.len(), 1);
    (rig, publisher, viewer, stream)
}

fn send(rig: &mut Rig, publisher: usize, stream: &mut Stream, key: bool) {
    let packet = stream.frame(key, 300);
    assert!(rig.clients[publisher].peer.send_rtp(&packet));
    rig.run(millis(5));
}

fn pli(rig: &mut Rig, viewer: usize) {
    let mut compound = Vec::new();
    RtcpWriter::new(&mut compound).pli(Ssrc(1), Ssrc(CONSUMED));
    assert!(rig.clients[viewer].peer.send_rtcp(compound));
}

/// How many PLIs the publisher has got.
fn plis(rig: &Rig, publisher: usize) -> usize {
    let compounds = rig.clients[publisher].rtcp.iter();
    let packets = compounds.flat_map(|(_, compound)| rtcp::parse(compound).flatten());
    packets.filter(|packet| matches!(packet, Rtcp::Feedback(Feedback::Pli(_)))).count()
}

fn has_ssrc(packet: &[u8], ssrc: u32) -> bool {
    RtpHeader::parse(packet).is_ok_and(|header| header.ssrc == Ssrc(ssrc))
}

#[test]
fn transport_feedback_of_a_producer_that_is_gone_does_not_spin() {
    let (mut rig, publisher, _, mut stream) = call(0);
    rig.command(0, Command::CloseProducer { producer: ProducerId(1) });
    for _ in 0..100 {
        // The page goes on sending; its packets carry transport-wide numbers.
        send(&mut rig, publisher, &mut stream, false);
        assert!(rig.shards[0].poll_timeout().is_none_or(|due| due > rig.now.mono));
    }
    assert_eq!(rig.gauge(0, "producers"), 0);
}

/// The number of arrivals decides whether packets wait for each other: a frame wakes the shard once by itself, too.
#[test]
fn the_packets_of_a_frame_are_one_arrival_and_feedback_is_none() {
    let mut rig = Rig::new(1);
    let mut batch = Batch::new(16);
    let mut arrivals = |datagrams: &[(u16, u8)]| {
        batch.clear();
        for (port, second) in datagrams {
            let path = Path::udp(LocalIndex(0), ([192, 0, 2, 1], *port).into());
            assert!(batch.push(path, rig.now.mono, &[0x80, *second, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1]));
        }
        rig.shards[0].handle_batch(rig.now, &mut batch)
    };
    let (rtp, rtcp) = (96, 201);
    assert_eq!(arrivals(&[(1, rtp); 9]), 1);
    assert_eq!(arrivals(&[(1, rtp), (1, rtp), (2, rtp), (1, rtp)]), 3);
    assert_eq!(arrivals(&[(1, rtp), (3, rtcp), (1, rtp)]), 1);
    assert_eq!(arrivals(&[(3, rtcp), (4, rtcp)]), 0);
}

#[test]
fn a_flood_of_nacks_gets_little_more_than_was_sent() {
    let (mut rig, publisher, viewer, mut stream) = call(0);
    for _ in 0..200 {
        send(&mut rig, publisher, &mut stream, false);
    }
    let sent = rig.clients[viewer].rtp.len();
    let seqs: Vec<Seq> = rig.clients[viewer].rtp.iter().map(|packet| RtpHeader::parse(packet).unwrap().seq).collect();
    for _ in 0..100 {
        let mut compound = Vec::new();
        RtcpWriter::new(&mut compound).nack(Ssrc(1), Ssrc(CONSUMED), &seqs);
        rig.clients[viewer].peer.send_rtcp(compound);
        rig.run(millis(50));
    }
    let resent = rig.clients[viewer].rtp.iter().filter(|packet| has_ssrc(packet, CONSUMED + 1)).count();
    assert!(resent >= 200, "each packet was resent once at least: {resent}");
    assert!(resent <= RESENT_BURST_MAX as usize + sent, "{resent}");
}

#[test]
fn a_shard_that_is_behind_its_sockets_resends_nothing_until_it_has_caught_up() {
    let (mut rig, publisher, viewer, mut stream) = call(0);
    send(&mut rig, publisher, &mut stream, false);
    let seq = RtpHeader::parse(rig.clients[viewer].rtp.last().expect("it came")).unwrap().seq;
    for (waited, resent) in [(millis(100), 0), (millis(1), 1)] {
        rig.waited = waited;
        for _ in 0..3 {
            let packet = stream.frame(false, 100);
            assert!(rig.clients[publisher].peer.send_rtp(&packet));
        }
        let mut compound = Vec::new();
        RtcpWriter::new(&mut compound).nack(Ssrc(1), Ssrc(CONSUMED), &[seq]);
        rig.clients[viewer].peer.send_rtcp(compound);
        rig.run(millis(10));
        let repeats = rig.clients[viewer].rtp.iter().filter(|packet| has_ssrc(packet, CONSUMED + 1)).count();
        assert_eq!(repeats, resent, "{waited:?} behind");
    }
}

#[test]
fn a_queue_that_stands_is_shed_and_ends_with_a_keyframe_instead_of_nacks() {
    let (mut rig, publisher, viewer, mut stream) = call(0);
    rig.run(millis(3_000));
    let (had, asked) = (rig.clients[viewer].rtp.len(), plis(&rig, publisher));
    let shed = |rig: &mut Rig| rig.metrics(0).drops.iter().find(|(why, _)| *why == "shed").map(|(_, count)| *count);
    rig.late = millis(300);
    for _ in 0..200 {
        send(&mut rig, publisher, &mut stream, false);
    }
    let passed = rig.clients[viewer].rtp.len() - had;
    assert!((90..=110).contains(&passed), "half a second of it is taken for a burst: {passed}");
    assert_eq!(shed(&mut rig), Some(200 - passed as u64));
    rig.late = millis(0);
    for _ in 0..20 {
        send(&mut rig, publisher, &mut stream, false);
    }
    assert_eq!(rig.clients[viewer].rtp.len() - had, passed + 20, "what is fresh passes");
    assert_eq!(shed(&mut rig), Some(200 - passed as u64));
    assert_eq!(plis(&rig, publisher), asked + 1);
    let compounds = rig.clients[publisher].rtcp.iter();
    let nacks = compounds
        .flat_map(|(_, compound)| rtcp::parse(compound).flatten())
        .filter(|packet| matches!(packet, Rtcp::Feedback(Feedback::Nack(_))));
    assert_eq!(nacks.count(), 0, "nobody sends again what was too much");
}

#[test]
fn the_first_pli_of_a_consumer_is_passed_on_and_later_ones_wait_their_turn() {
    let (mut rig, publisher, viewer, mut stream) = call(0);
    let before = plis(&rig, publisher);
    rig.run(millis(180));
    pli(&mut rig, viewer);
    rig.run(millis(5));
    assert_eq!(plis(&rig, publisher), before + 1, "less than 500 ms after a keyframe that the page could not use");
    send(&mut rig, publisher, &mut stream, true);
    for _ in 0..10 {
        pli(&mut rig, viewer);
        rig.run(millis(10));
    }
    assert_eq!(plis(&rig, publisher), before + 1);
    rig.run(millis(500));
    assert_eq!(plis(&rig, publisher), before + 2, "merged, not forgotten");
}

#[test]
fn nobody_is_asked_for_a_keyframe_that_nobody_waits_for() {
    let (mut rig, publisher, viewer, _) = call(0);
    pli(&mut rig, viewer);
    rig.run(millis(5));
    rig.command(0, Command::PauseProducer { producer: ProducerId(1) });
    rig.run(millis(400));
    let before = plis(&rig, publisher);
    rig.run(millis(3_000));
    assert_eq!(plis(&rig, publisher), before);
}

#[test]
fn a_viewer_elsewhere_that_missed_the_keyframe_asks_again() {
    let mut rig = Rig::new(2);
    let publisher = rig.connected(0, 1, 1);
    let viewer = rig.connected(1, 2, 2);
    rig.produce(0, 1, 1, PUBLISHED);
    rig.consume(1, 1, 2, 1, 0, CONSUMED);
    rig.run(millis(10));
    // The ring was full when the keyframe came: relayed media (6) is lost, and its home takes it for delivered.
    rig.mesh_loses = Some(6);
    let mut stream = Stream::new(PUBLISHED);
    send(&mut rig, publisher, &mut stream, true);
    rig.mesh_loses = None;
    let before = plis(&rig, publisher);
    for _ in 0..200 {
        send(&mut rig, publisher, &mut stream, false);
    }
    let asked = plis(&rig, publisher) - before;
    assert!((1..=5).contains(&asked), "{asked} in a second");
    send(&mut rig, publisher, &mut stream, true);
    assert_eq!(rig.clients[viewer].rtp.len(), 1);
}

#[test]
fn a_relay_asked_for_before_its_producer_came_is_served_when_it_comes() {
    let mut rig = Rig::new(2);
    let publisher = rig.connected(0, 1, 1);
    let viewer = rig.connected(1, 2, 2);
    rig.consume(1, 1, 2, 1, 0, CONSUMED);
    rig.run(millis(50));
    rig.produce(0, 1, 1, PUBLISHED);
    rig.run(millis(5));
    send(&mut rig, publisher, &mut Stream::new(PUBLISHED), true);
    assert_eq!(rig.clients[viewer].rtp.len(), 1);
    // One that never comes ends its consumers.
    rig.consume(1, 2, 2, 99, 0, CONSUMED + 10);
    rig.run(millis(900));
    assert_eq!(rig.gauge(1, "consumers"), 2);
    rig.run(millis(200));
    assert_eq!((rig.gauge(1, "consumers"), rig.gauge(1, "relayed_sources")), (1, 1));
}

#[test]
fn orders_between_shards_survive_a_full_ring() {
    let mut rig = Rig::new(2);
    let publisher = rig.connected(0, 1, 1);
    let viewer = rig.connected(1, 2, 2);
    rig.produce(0, 1, 1, PUBLISHED);
    rig.mesh_has_room = false;
    rig.consume(1, 1, 2, 1, 0, CONSUMED);
    rig.run(millis(100));
    rig.mesh_has_room = true;
    rig.run(millis(5));
    send(&mut rig, publisher, &mut Stream::new(PUBLISHED), true);
    assert_eq!(rig.clients[viewer].rtp.len(), 1);
}

#[test]
fn a_relay_whose_end_was_lost_ends_with_the_next_packet() {
    let (mut rig, publisher, _, mut stream) = call(1);
    // Unsubscribe (4) is lost.
    rig.mesh_loses = Some(4);
    rig.command(1, Command::CloseTransport { transport: TransportId(2) });
    rig.run(millis(10));
    rig.mesh_loses = None;
    send(&mut rig, publisher, &mut stream, false);
    rig.run(millis(10));
    let crossed = rig.relayed;
    send(&mut rig, publisher, &mut stream, false);
    assert_eq!((rig.relayed, rig.gauge(1, "relayed_sources")), (crossed, 0));
}

#[test]
fn retransmissions_of_the_past_do_not_restart_a_stream() {
    let (mut rig, publisher, viewer, mut stream) = call(0);
    for _ in 0..50 {
        send(&mut rig, publisher, &mut stream, false);
    }
    let before = rig.clients[viewer].rtp.len();
    rig.run(millis(600));
    // A browser probes with what it sent long ago while it has nothing new to send.
    for back in 0..60u16 {
        let osn = stream.seq.wrapping_sub(5_000).wrapping_add(back);
        let payload = [&osn.to_be_bytes()[..], &[0x10, 1, 2, 3]].concat();
        let packet = stream.packet(PUBLISHED + 1, RTX, 100 + back, &payload);
        rig.clients[publisher].peer.send_rtp(&packet);
        rig.run(millis(5));
    }
    send(&mut rig, publisher, &mut stream, false);
    assert_eq!(rig.clients[viewer].rtp.len(), before + 1, "it goes on without a keyframe");
}

#[test]
fn a_producer_that_never_sends_falls_silent_though_its_transport_never_connects() {
    let mut rig = Rig::new(1);
    rig.client(0, 1, 1);
    rig.clients.clear();
    rig.produce(0, 1, 1, PUBLISHED);
    rig.run(millis(9_900));
    let silent = Event::ProducerSilent { producer: ProducerId(1), silent: true };
    assert!(!rig.events.contains(&silent));
    rig.run(millis(200));
    assert_eq!(rig.events.iter().filter(|event| **event == silent).count(), 1);
}

#[test]
fn a_wrong_certificate_never_gets_keys() {
    let mut rig = Rig::new(1);
    let client = rig.client(0, 1, 1);
    rig.command(0, Command::Announce { transport: TransportId(1), announcement: announcement(77, true) });
    rig.produce(0, 1, 1, PUBLISHED);
    rig.run(millis(100));
    assert!(rig.clients[client].peer.is_connected(), "the client takes itself for connected");
    let failed = Event::TransportState { transport: TransportId(1), state: TransportState::Failed };
    assert!(rig.events.contains(&failed));
    let packet = Stream::new(PUBLISHED).frame(true, 300);
    rig.clients[client].peer.send_rtp(&packet);
    rig.run(millis(5));
    let no_keys = rig.metrics(0).drops.iter().find(|(name, _)| *name == "no_keys").map(|(_, count)| *count);
    assert_eq!(no_keys, Some(1));
    // A right announcement afterwards does not bring back what was refused.
    rig.command(0, Command::Announce { transport: TransportId(1), announcement: announcement(1, true) });
    rig.run(millis(100));
    let connected = Event::TransportState { transport: TransportId(1), state: TransportState::Connected };
    assert!(!rig.events.contains(&connected));
}

#[test]
fn an_announcement_may_come_five_seconds_after_the_handshake_and_is_anybodys_who_shows_the_certificate() {
    let connected =
        |transport| Event::TransportState { transport: TransportId(transport), state: TransportState::Connected };
    let mut rig = Rig::new(1);
    rig.client(0, 1, 1);
    rig.client(0, 2, 1);
    rig.run(millis(4_800));
    // Without a transport id: told to both; the certificate says whose it is.
    for transport in [1, 2] {
        rig.command(0, Command::Announce { transport: TransportId(transport), announcement: announcement(2, false) });
    }
    rig.run(millis(50));
    assert!(rig.events.contains(&connected(2)) && !rig.events.contains(&connected(1)));
    rig.run(millis(500));
    let failed = Event::TransportState { transport: TransportId(1), state: TransportState::Failed };
    assert!(rig.events.contains(&failed), "nobody announced the other one");
}

#[test]
fn a_transport_whose_address_went_to_another_flows_again_from_its_new_one() {
    let (mut rig, publisher, viewer, mut stream) = call(0);
    let stolen = rig.clients[viewer].address;
    // A NAT gives the viewer's port to somebody else, who passes a check; the viewer comes from elsewhere later.
    let other = rig.client(0, 3, 3);
    rig.clients[viewer].address.set_port(1);
    rig.clients[other].address = stolen;
    rig.run(millis(10));
    assert!(rig.clients[other].peer.is_connected() || rig.gauge(0, "paths") >= 2);
    for _ in 0..3 {
        send(&mut rig, publisher, &mut stream, false);
    }
    rig.run(millis(3_000));
    let before = rig.clients[viewer].rtp.len();
    send(&mut rig, publisher, &mut stream, true);
    send(&mut rig, publisher, &mut stream, false);
    assert_eq!(rig.clients[viewer].rtp.len(), before + 2);
    let misled = rig.clients[other].rtp.len();
    assert_eq!(misled, 0, "nothing went to the one that has the address now");
}

#[test]
fn packets_as_large_as_browsers_send_stay_below_the_ipv6_minimum_and_larger_ones_still_pass() {
    let (mut rig, publisher, viewer, mut stream) = call(0);
    for (len, most) in [(1_200, 1_232 - 16), (1_400, 1_452)] {
        let packet = stream.frame(false, len);
        assert!(rig.clients[publisher].peer.send_rtp(&packet));
        rig.run(millis(10));
        let last = rig.clients[viewer].rtp.last().expect("it came");
        assert!(last.len() > 1_000 && last.len() <= most, "{len} became {}", last.len());
    }
    assert_eq!(rig.clients[viewer].rtp.len(), 3);
    // Asked for again it is 2 bytes longer.
    let seq = RtpHeader::parse(&rig.clients[viewer].rtp[1]).unwrap().seq;
    let mut compound = Vec::new();
    RtcpWriter::new(&mut compound).nack(Ssrc(1), Ssrc(CONSUMED), &[seq]);
    rig.clients[viewer].peer.send_rtcp(compound);
    rig.run(millis(10));
    let resent = rig.clients[viewer].rtp.last().expect("it came");
    assert!(has_ssrc(resent, CONSUMED + 1) && resent.len() <= 1_232 - 16, "{}", resent.len());
}

/// The publisher's feedback about its packets: transport-wide number and arrival in ticks of 250 µs.
fn told(rig: &Rig, publisher: usize) -> Vec<(u16, Option<i64>)> {
    let compounds = rig.clients[publisher].rtcp.iter();
    let packets = compounds.flat_map(|(_, compound)| rtcp::parse(compound).flatten());
    let feedbacks = packets.filter_map(|packet| match packet {
        Rtcp::Feedback(Feedback::TransportCc(feedback)) => Some(feedback),
        _ => None,
    });
    let arrivals = feedbacks.flat_map(|feedback| {
        let reference = i64::from(feedback.reference_time) * 256;
        let absolute = |(seq, ticks): (u16, Option<i64>)| (seq, ticks.map(|ticks| reference + ticks));
        feedback.packets().map(absolute).collect::<Vec<_>>()
    });
    arrivals.collect()
}

/// All of these, in order, and so many ticks apart.
fn assert_told(told: &[(u16, Option<i64>)], seqs: std::ops::RangeInclusive<u16>, apart: i64) {
    assert!(told.iter().map(|(seq, _)| *seq).eq(seqs), "{told:?}");
    let arrivals: Option<Vec<i64>> = told.iter().map(|(_, arrival)| *arrival).collect();
    let arrivals = arrivals.expect("none is missing");
    assert!(arrivals.windows(2).all(|pair| pair[1] - pair[0] == apart), "{told:?}");
}

#[test]
fn feedback_tells_when_packets_came_though_the_shard_took_them_at_once() {
    let (mut rig, publisher, _, mut stream) = call(0);
    rig.run(millis(300));
    let before = told(&rig, publisher).len();
    rig.waited = millis(6);
    for _ in 0..5 {
        let packet = stream.frame(false, 1_100);
        assert!(rig.clients[publisher].peer.send_rtp(&packet));
    }
    rig.run(millis(300));
    assert_told(&told(&rig, publisher)[before..], 2..=6, 24);
}

#[test]
fn feedback_tells_of_packets_that_came_before_their_producer() {
    let mut rig = Rig::new(1);
    let publisher = rig.connected(0, 1, 1);
    let mut stream = Stream::new(PUBLISHED);
    let mut send = |rig: &mut Rig| {
        let packet = stream.frame(true, 1_100);
        assert!(rig.clients[publisher].peer.send_rtp(&packet));
        rig.run(millis(20));
    };
    (0..10).for_each(|_| send(&mut rig));
    assert_eq!(told(&rig, publisher), [], "nobody knows yet which extension has the number");
    rig.produce(0, 1, 1, PUBLISHED);
    rig.run(millis(5));
    assert_told(&told(&rig, publisher), 1..=10, 80);

    // Once it is known, no other stream's packets wait for their producer to be told of.
    let before = told(&rig, publisher).len();
    for seq in 0..10 {
        let packet = stream.packet(PUBLISHED + 100, RTX, seq, b"whatever");
        assert!(rig.clients[publisher].peer.send_rtp(&packet));
        rig.run(millis(20));
    }
    rig.run(millis(300));
    assert_told(&told(&rig, publisher)[before..], 11..=20, 80);
}

/// Feedback of 24 bytes: so many packets from number 0 on are lost.
fn told_of_lost(count: u16) -> Vec<u8> {
    let mut packet = vec![0x8f, 205, 0, 5, 0, 0, 0, 1];
    packet.extend(CONSUMED.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(count.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend(count.min(0x1fff).to_be_bytes());
    packet.extend([0, 0]);
    packet
}

fn counter(rig: &mut Rig, name: &str) -> u64 {
    rig.metrics(0).counters.iter().find(|(known, ..)| *known == name).map(|(.., count)| *count).expect("it exists")
}

fn dropped(rig: &mut Rig, why: &str) -> u64 {
    rig.metrics(0).drops.iter().find(|(known, _)| *known == why).map(|(_, count)| *count).expect("it exists")
}

#[test]
fn a_datagram_of_many_feedbacks_is_read_as_far_as_its_effort_goes() {
    let (mut rig, publisher, viewer, mut stream) = call(0);
    let send_compound = |rig: &mut Rig, compound: Vec<u8>| {
        assert!(rig.clients[viewer].peer.send_rtcp(compound));
        rig.run(millis(5));
    };
    // As the attack had it, and what a client may well say.
    for (told, times, read, cut) in [(8_191, 58, 0, 1), (900, 58, 2, 1), (100, 10, 10, 0), (1_900, 1, 1, 0)] {
        let before = (counter(&mut rig, "transport_feedback"), dropped(&mut rig, "rtcp_effort"));
        send_compound(&mut rig, told_of_lost(told).repeat(times));
        let after = (counter(&mut rig, "transport_feedback"), dropped(&mut rig, "rtcp_effort"));
        assert_eq!((after.0 - before.0, after.1 - before.1), (read, cut), "{times} times {told} packets");
    }
    // A request for everything asks for no more than is kept, and the call goes on.
    let everything: Vec<u8> = (0..320u16).flat_map(|n| [(n * 17).to_be_bytes(), [0xff; 2]].concat()).collect();
    let mut nack = vec![0x81, 205];
    nack.extend((everything.len() as u16 / 4 + 2).to_be_bytes());
    nack.extend([0, 0, 0, 1]);
    nack.extend(CONSUMED.to_be_bytes());
    nack.extend(everything);
    let before = dropped(&mut rig, "rtcp_effort");
    send_compound(&mut rig, nack);
    assert_eq!(dropped(&mut rig, "rtcp_effort") - before, 1);
    let had = rig.clients[viewer].rtp.len();
    send(&mut rig, publisher, &mut stream, false);
    assert_eq!(rig.clients[viewer].rtp.len(), had + 1);
}

#[test]
fn a_fir_for_everybody_asks_each_publisher_once() {
    let (mut rig, publisher, viewer, _) = call(0);
    let before = plis(&rig, publisher);
    let entries: Vec<u8> = (0..170u8).flat_map(|n| [&CONSUMED.to_be_bytes()[..], &[n, 0, 0, 0]].concat()).collect();
    let mut fir = vec![0x84, 206];
    fir.extend((entries.len() as u16 / 4 + 2).to_be_bytes());
    fir.extend([0, 0, 0, 1, 0, 0, 0, 0]);
    fir.extend(entries);
    for _ in 0..20 {
        assert!(rig.clients[viewer].peer.send_rtcp(fir.clone()));
        rig.run(millis(5));
    }
    assert!(plis(&rig, publisher) - before <= 2, "{}", plis(&rig, publisher) - before);
    assert_eq!(dropped(&mut rig, "rtcp_effort"), 20);
}

#[test]
fn feedback_finds_its_consumer_among_a_thousand_and_no_longer_when_it_is_gone() {
    let (mut rig, publisher, viewer, mut stream) = call(0);
    for n in 0..1_000 {
        rig.consume(0, 10 + n, 2, 1, 0, 100_000 + 2 * n as u32);
    }
    send(&mut rig, publisher, &mut stream, true);
    rig.run(millis(1_500));
    let ask = |rig: &mut Rig, ssrc: u32| {
        let before = plis(rig, publisher);
        let mut compound = Vec::new();
        RtcpWriter::new(&mut compound).pli(Ssrc(1), Ssrc(ssrc));
        assert!(rig.clients[viewer].peer.send_rtcp(compound));
        rig.run(millis(1_500));
        plis(rig, publisher) - before
    };
    for ssrc in [CONSUMED, 100_000, 101_000, 101_998] {
        assert!(ask(&mut rig, ssrc) >= 1, "{ssrc}");
        send(&mut rig, publisher, &mut stream, true);
    }
    assert_eq!(ask(&mut rig, 99_999), 0);
    rig.command(0, Command::CloseConsumer { consumer: ConsumerId(10 + 500) });
    assert_eq!(ask(&mut rig, 101_000), 0);
}

/// A publisher, and watchers on as many transports with so many consumers on each, all of one producer and with a bound,
/// so that bandwidth is shared out.
fn crowd(watchers: u64, each: u64) -> Rig {
    let mut rig = Rig::new(1);
    rig.connected(0, 1, 1);
    rig.produce(0, 1, 1, PUBLISHED);
    for watcher in 0..watchers {
        let transport = 2 + watcher;
        rig.connected(0, transport, transport);
        for n in 0..each {
            let id = 1 + watcher * each + n;
            rig.consume(0, id, transport, 1, 0, CONSUMED + 2 * id as u32);
        }
        let (transport, outgoing) = (TransportId(transport), Some(Bitrate::mbps(1_000)));
        rig.command(0, Command::SetMaxBitrate { transport, incoming: None, outgoing });
    }
    rig.run(millis(10));
    rig
}

#[test]
fn consumers_of_a_transport_and_of_a_producer_are_bounded() {
    let refused = |rig: &Rig, what| {
        let limit =
            |event: &&Event| matches!(event, Event::ConsumerClosed { why: Closed::Limit(why), .. } if *why == what);
        rig.events.iter().filter(limit).count()
    };
    let mut rig = crowd(1, CONSUMERS_PER_TRANSPORT_MAX as u64 + 3);
    assert_eq!(rig.gauge(0, "consumers"), CONSUMERS_PER_TRANSPORT_MAX as i64);
    assert_eq!(refused(&rig, "consumers of one transport"), 3);
    let mut rig = crowd(10, CONSUMERS_PER_PRODUCER_MAX as u64 / 10 + 1);
    assert_eq!(rig.gauge(0, "consumers"), CONSUMERS_PER_PRODUCER_MAX as i64);
    assert_eq!(refused(&rig, "consumers of one producer"), 10);
}

/// More than one turn may look at: it is done in several, and nobody is forgotten.
#[test]
fn a_crowd_that_is_resumed_flows_to_the_last() {
    let mut rig = crowd(10, 600);
    const { assert!(10 * 600 > SETTLED_PER_TURN_MAX) };
    let mut stream = Stream::new(PUBLISHED);
    for paused in [true, false] {
        rig.command(
            0,
            match paused {
                true => Command::PauseProducer { producer: ProducerId(1) },
                false => Command::ResumeProducer { producer: ProducerId(1) },
            },
        );
        rig.run(millis(50));
        rig.clients.iter_mut().for_each(|client| client.rtp.clear());
        send(&mut rig, 0, &mut stream, true);
        let got: Vec<_> = rig.clients[1..].iter().map(|client| client.rtp.len()).collect();
        assert_eq!(got, [if paused { 0 } else { 600 }; 10]);
    }
}

#[test]
fn a_consumer_flows_with_the_share_it_has_when_the_turn_ends() {
    let mut rig = crowd(2, 1);
    let mut stream = Stream::new(PUBLISHED);
    let consumer = |n| ConsumerId(n);
    // Of several values in one turn the last one holds.
    rig.command(0, Command::PauseConsumer { consumer: consumer(1) });
    rig.command(0, Command::ResumeConsumer { consumer: consumer(1) });
    rig.command(0, Command::PauseConsumer { consumer: consumer(2) });
    rig.command(0, Command::SetPriority { consumer: consumer(1), priority: 9 });
    rig.command(0, Command::SetPreferredLayers { consumer: consumer(1), layers: Layers::default() });
    rig.run(millis(5));
    send(&mut rig, 0, &mut stream, true);
    assert_eq!([1, 2].map(|client| rig.clients[client].rtp.len()), [1, 0]);
    rig.command(0, Command::PauseConsumer { consumer: consumer(1) });
    rig.command(0, Command::ResumeConsumer { consumer: consumer(2) });
    rig.command(0, Command::CloseConsumer { consumer: consumer(2) });
    rig.run(millis(5));
    send(&mut rig, 0, &mut stream, true);
    assert_eq!([1, 2].map(|client| rig.clients[client].rtp.len()), [1, 0]);
}

#[test]
fn a_path_that_changes_leaves_consumers_alone_as_long_as_there_is_one() {
    let (mut rig, publisher, viewer, mut stream) = call(0);
    rig.run(millis(3_000));
    let before = plis(&rig, publisher);
    let home = rig.clients[viewer].address;
    for hop in 0..20u16 {
        // The same client from another port, which is nominated.
        rig.clients[viewer].address.set_port(20_000 + hop);
        let now = rig.now.mono;
        rig.clients[viewer].peer.recheck(now);
        rig.run(millis(100));
        send(&mut rig, publisher, &mut stream, false);
    }
    assert_ne!(rig.clients[viewer].address, home);
    assert_eq!(rig.clients[viewer].rtp.len(), 21, "every packet came, each by the newest way");
    assert_eq!(plis(&rig, publisher), before, "nobody needs a keyframe");
}

/// An engine whose sessions panic at a word.
struct Touchy(SimEngine);

struct TouchySession(Box<dyn SecureSession>);

const WORD: &[u8] = b"panic";

impl SecureEngine for Touchy {
    fn open(&mut self, now: Instant, side: Side, tag: SessionTag) -> Box<dyn SecureSession> {
        Box::new(TouchySession(self.0.open(now, side, tag)))
    }
    fn pump(&mut self, now: Instant) {
        self.0.pump(now);
    }
    fn ready(&mut self) -> Option<SessionTag> {
        self.0.ready()
    }
    fn next_deadline(&self) -> Option<Instant> {
        self.0.next_deadline()
    }
}

impl SecureSession for TouchySession {
    fn handle_datagram(&mut self, now: Instant, bytes: &[u8]) -> Result<(), SecureDrop> {
        assert!(!bytes.ends_with(WORD), "the word was said");
        self.0.handle_datagram(now, bytes)
    }
    fn poll(&mut self) -> Option<SecureOutput> {
        self.0.poll()
    }
    fn close(&mut self) {
        self.0.close();
    }
}

/// Whoever makes a shard panic loses his transport, and nobody loses a packet: not on other shards, not on his own, not
/// from the batch that he spoiled.
#[test]
fn a_panic_takes_the_transport_that_caused_it_and_nothing_else() {
    let mut rig = Rig::with_engines(2, |shard| {
        Box::new(Touchy(SimEngine::new(shard_rig::PROFILE, b"server's".to_vec(), shard as u64)))
    });
    rig.panics = Some(0);
    // One publisher on each shard, with a viewer on either.
    let publishers = [0, 1].map(|shard| rig.connected(shard, 1 + shard as u64, 1 + shard as u64));
    let viewers = [0, 1].map(|shard| rig.connected(shard, 11 + shard as u64, 11 + shard as u64));
    for home in 0..2 {
        rig.produce(home, 1 + home as u64, 1 + home as u64, PUBLISHED + 10 * home as u32);
        for shard in 0..2 {
            let consumer = 1 + (2 * home + shard) as u64;
            rig.consume(shard, consumer, 11 + shard as u64, 1 + home as u64, home, CONSUMED + 10 * consumer as u32);
        }
    }
    rig.run(millis(20));
    let mut streams = [Stream::new(PUBLISHED), Stream::new(PUBLISHED + 10)];
    // Before all others in each batch, because the rig asks its clients in their order.
    let mallories: Vec<_> = (0..5).map(|n| rig.client(0, 100 + n, 100 + n)).collect();
    rig.run(millis(20));
    for round in 0..50 {
        for (publisher, stream) in publishers.iter().zip(&mut streams) {
            let packet = stream.frame(round == 0, 300);
            assert!(rig.clients[*publisher].peer.send_rtp(&packet));
        }
        if let (0, Some(mallory)) = (round % 10, mallories.get(round / 10)) {
            let datagram = [&[22; 32][..], WORD].concat();
            rig.clients[*mallory].peer.send_raw(datagram.clone());
            rig.clients[*mallory].peer.send_raw(datagram);
        }
        rig.run(millis(20));
    }
    assert_eq!(rig.panics, Some(5), "one for each of them: the second datagram finds nobody");
    let is_fault = |event: &&Event| matches!(event, Event::TransportClosed { why: Closed::Fault, .. });
    assert_eq!(rig.events.iter().filter(is_fault).count(), 5);
    for viewer in viewers {
        assert_eq!(rig.clients[viewer].rtp.len(), 2 * 50);
    }
    assert_eq!([rig.gauge(0, "transports"), rig.gauge(1, "transports")], [2, 2]);
    assert_eq!(counter(&mut rig, "faults"), 5);
}

/// A client with a thousand consumers that nominates another path with every check: its consumers are not asked each time.
#[test]
#[expect(clippy::disallowed_methods, reason = "CPU time is what it is about")]
fn a_check_costs_the_same_however_many_consumers_there_are() {
    let (mut rig, ..) = call(0);
    for consumer in 2..1_001 {
        rig.consume(0, consumer, 2, 1, 0, CONSUMED + 2 * consumer as u32);
    }
    rig.run(millis(10));
    let check = nominating("aa00000002", "000000000000000000000002");
    let mut batch = Batch::new(8);
    let mut cost = |ports: [u16; 2]| {
        let started = std::time::Instant::now();
        for step in 0..400 {
            let remote = ([203, 0, 113, 5], ports[step % 2]).into();
            batch.clear();
            batch.push(Path::udp(LocalIndex(0), remote), rig.now.mono, &check);
            rig.shards[0].handle_batch(rig.now, &mut batch);
        }
        started.elapsed()
    };
    cost([1, 2]);
    let (moving, resting) = (cost([1, 2]), cost([3, 3]));
    assert!(moving < resting * 4, "{moving:?} against {resting:?}");
    let changes = rig.metrics(0);
    assert!(changes.counters.iter().any(|(name, _, count)| *name == "stun_answered" && *count > 1_200));
}

fn nominating(ufrag: &str, pwd: &str) -> Vec<u8> {
    let mut message = Message { typ: BINDING_REQUEST, transaction_id: TransactionId([7; 12]), ..Message::new() };
    message.write_header();
    message.add(AttrType(USERNAME), format!("{ufrag}:far").as_bytes());
    message.add(AttrType(PRIORITY), &[255; 4]);
    message.add(AttrType(USE_CANDIDATE), &[]);
    finish(&mut message, &IntegrityKey::new(pwd));
    message.raw
}
