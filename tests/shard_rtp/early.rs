//! Packets before `produce`: probes for bandwidth, media, and a hostile peer's use of the room they wait in.
#![expect(clippy::disallowed_methods, reason = "what packets cost is measured")]

use std::collections::BTreeSet;
use std::time::Instant;

use weirgate::base::id::{Mid, ProducerId};
use weirgate::shard::command::Command;
use weirgate::wire::feedback::Feedback;
use weirgate::wire::rtcp::Rtcp;

use crate::shard_rig::{consumer_spec, millis, producer_spec};
use crate::support::{CONSUMED, Call, MID, PUBLISHED, Rtp, TRANSPORT_CC};

const KEYFRAME: [u8; 10] = [0x10, 0, 0, 0, 0x9d, 0x01, 0x2a, 1, 1, 1];
/// An SSRC that never has a producer.
const NOBODYS: u32 = 55;

/// The transport-wide numbers that feedback says have come.
fn acknowledged(call: &Call) -> BTreeSet<u16> {
    let came = |packet: Rtcp<'_>| match packet {
        Rtcp::Feedback(Feedback::TransportCc(feedback)) => {
            Some(feedback.packets().filter(|(_, at)| at.is_some()).map(|(seq, _)| seq).collect::<Vec<_>>())
        }
        _ => None,
    };
    call.told(came).into_iter().flatten().collect()
}

fn numbered(call: &mut Call, number: u16, packet: Rtp<'_>) {
    let number = number.to_be_bytes();
    let elements = [packet.elements, &[(MID, b"0"), (TRANSPORT_CC, &number)]].concat();
    let packet = Rtp { elements: &elements, ..packet }.bytes();
    assert!(call.rig.clients[call.publisher].peer.send_rtp(&packet));
}

fn probe(call: &mut Call, number: u16) {
    numbered(call, number, Rtp { ssrc: NOBODYS, seq: number, padding: 255, ..Rtp::default() });
}

#[test]
fn probes_before_produce_are_acknowledged_and_take_no_room_from_media() {
    let mut call = Call::unproduced(1);
    for number in 0..90 {
        probe(&mut call, number);
        call.rig.run(millis(if number == 20 { 50 } else { 1 }));
    }
    numbered(&mut call, 90, Rtp { payload: &KEYFRAME, ..Rtp::default() });
    call.rig.run(millis(20));
    call.produce(producer_spec(PUBLISHED));
    call.consume(consumer_spec(CONSUMED));
    // And probes go on, on an SSRC that is nobody's still.
    for number in 91..120 {
        probe(&mut call, number);
    }
    call.rig.run(millis(300));
    assert_eq!(acknowledged(&call), (0..120).collect());
    assert_eq!(call.media().iter().map(|heard| &heard.payload[..]).collect::<Vec<_>>(), [KEYFRAME]);
    assert_eq!((call.drops("unknown_ssrc"), call.drops("padding_only")), (0, 119));
}

#[test]
fn media_that_nobody_takes_is_acknowledged_too() {
    let mut call = Call::new(1, producer_spec(PUBLISHED), consumer_spec(CONSUMED));
    numbered(&mut call, 0, Rtp { payload: &KEYFRAME, ..Rtp::default() });
    for number in 1..100 {
        let packet = Rtp { ssrc: NOBODYS, seq: number, payload: &[1, 2, 3], ..Rtp::default() };
        numbered(&mut call, number, Rtp { payload_type: weirgate::base::id::PayloadType(60), ..packet });
    }
    call.rig.run(millis(900));
    assert_eq!(acknowledged(&call), (0..100).collect());
    assert_eq!(call.drops("unknown_ssrc"), 99);
}

#[test]
fn what_waits_is_let_go_when_its_time_is_over_whether_more_comes_or_not() {
    let mut call = Call::unproduced(1);
    for number in 0..64 {
        numbered(&mut call, number, Rtp { seq: number, payload: &[0x10, 1], ..Rtp::default() });
    }
    call.rig.run(millis(480));
    assert_eq!(call.drops("unknown_ssrc"), 0);
    call.rig.run(millis(60));
    assert_eq!(call.drops("unknown_ssrc"), 64);
    // The numbers wait a little longer, and a producer that comes now finds no media but is told of all.
    call.produce(producer_spec(PUBLISHED));
    numbered(&mut call, 64, Rtp { seq: 64, payload: &[0x10, 1], ..Rtp::default() });
    call.rig.run(millis(300));
    assert_eq!(acknowledged(&call), (0..65).collect());
}

/// Seconds of this process for so many packets of one kind through the whole shard.
fn cost(call: &mut Call, packets: impl Iterator<Item = Vec<u8>>) -> f64 {
    let packets: Vec<_> = packets.collect();
    for packet in &packets {
        assert!(call.rig.clients[call.publisher].peer.send_rtp(packet));
    }
    let before = Instant::now();
    call.rig.run(millis(5));
    before.elapsed().as_secs_f64() / packets.len() as f64
}

/// 950 empty elements in the two-byte form.
fn crammed(ssrc: u32, seq: u16) -> Vec<u8> {
    let mut packet = vec![0x90, 96];
    packet.extend(seq.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend(ssrc.to_be_bytes());
    packet.extend([0x10, 0, 1, 219]);
    packet.extend((0..950u16).flat_map(|at| [1 + (at % 255) as u8, 0]));
    packet.extend([1, 2, 3, 4]);
    packet
}

/// Against a packet of the same length of a producer that is known, in the same run.
#[test]
fn a_packet_of_nobody_costs_what_its_length_deserves_however_many_producers_there_are() {
    let mut call = Call::new(1, producer_spec(PUBLISHED), consumer_spec(CONSUMED));
    call.send(Rtp { payload: &KEYFRAME, ..Rtp::default() });
    for producer in 2..64 {
        let mut spec = producer_spec(producer as u32 * 1_000);
        spec.mid = Mid::new(format!("m{producer}").as_bytes());
        let (producer, peer) = (ProducerId(producer), weirgate::base::id::PeerId(1));
        let spec = Box::new(spec);
        call.rig.command(0, Command::Produce { producer, peer, transport: None, spec, paused: false });
    }
    let mut seq = 500;
    let (mut ordinary, mut hostile) = (f64::MAX, f64::MAX);
    for round in 0..10 {
        let known = (0..100).map(|_| {
            seq += 1;
            Rtp { seq, payload: &[0x11; 1_900], ..Rtp::default() }.bytes()
        });
        ordinary = ordinary.min(cost(&mut call, known));
        let unknown = (0..100).map(|at| crammed(9_000_000 + round * 100 + at, 1));
        hostile = hostile.min(cost(&mut call, unknown));
    }
    for seq in 2..66 {
        assert!(call.rig.clients[call.publisher].peer.send_rtp(&crammed(9_000_000, seq)));
    }
    call.rig.run(millis(5));
    let before = Instant::now();
    let mut spec = producer_spec(64_000);
    spec.mid = Mid::new(b"new");
    let (producer, peer, spec) = (ProducerId(64), weirgate::base::id::PeerId(1), Box::new(spec));
    call.rig.command(0, Command::Produce { producer, peer, transport: None, spec, paused: false });
    let produce = before.elapsed().as_secs_f64();
    assert!(hostile < 20.0 * ordinary, "{:.1} µs against {:.1} µs", hostile * 1e6, ordinary * 1e6);
    assert!(produce < 64.0 * 20.0 * ordinary, "{:.1} µs against {:.1} µs", produce * 1e6, ordinary * 1e6);
}
