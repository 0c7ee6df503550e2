//! A shard's events about a transport's life, for the log: how it was connected, its first packets, its end.

#[expect(dead_code, reason = "what other tests need of it")]
mod shard_rig;

use shard_rig::{Rig, Stream, announcement, millis};
use weirgate::base::id::{ProducerId, TransportId};
use weirgate::base::time::Duration;
use weirgate::shard::command::{Command, Event, Totals, VerdictState};

const PUBLISHED: u32 = 1_000;

fn send(rig: &mut Rig, publisher: usize, stream: &mut Stream, key: bool, arrives: bool) {
    let packet = stream.frame(key, 300);
    if arrives {
        assert!(rig.clients[publisher].peer.send_rtp(&packet));
    }
    rig.run(millis(20));
}

fn totals(rig: &Rig, transport: u64) -> Option<Totals> {
    rig.events.iter().find_map(|event| match event {
        Event::TransportEnded { transport: TransportId(id), totals } if *id == transport => Some(*totals.clone()),
        _ => None,
    })
}

fn firsts(rig: &Rig, transport: u64, incoming: bool) -> usize {
    let first = Event::FirstPacket { transport: TransportId(transport), incoming };
    rig.events.iter().filter(|event| **event == first).count()
}

#[test]
fn how_it_was_connected_and_its_first_packets_are_told_once() {
    let mut rig = Rig::new(1);
    let publisher = rig.connected(0, 1, 1);
    let reports: Vec<_> = rig
        .events
        .iter()
        .filter_map(|event| match event {
            Event::TransportConnected { transport: TransportId(1), report } => Some(report.clone()),
            _ => None,
        })
        .collect();
    let [report] = &reports[..] else { panic!("{reports:?}") };
    assert_eq!(report.path.remote, rig.clients[publisher].address);
    let handshake = report.handshake.expect("it had one");
    assert_eq!((handshake.suite, report.srtp), ("simulated", Some("AEAD_AES_128_GCM")));
    assert!(handshake.took < Duration::from_millis(20), "{report:?}");

    rig.connected(0, 2, 2);
    rig.produce(0, 1, 1, PUBLISHED);
    rig.consume(0, 1, 2, 1, 0, 70_000);
    assert_eq!((firsts(&rig, 1, true), firsts(&rig, 2, false)), (0, 0));
    let mut stream = Stream::new(PUBLISHED);
    for round in 0..100 {
        send(&mut rig, publisher, &mut stream, round == 0, true);
    }
    // Media to the viewer; reports and feedback to the publisher.
    for (transport, incoming) in [(1, true), (1, false), (2, false)] {
        assert_eq!(firsts(&rig, transport, incoming), 1, "{transport} {incoming}");
    }
}

#[test]
fn what_it_came_to_is_told_when_it_ends_whoever_ends_it() {
    let mut rig = Rig::new(1);
    let publisher = rig.connected(0, 1, 1);
    rig.connected(0, 2, 2);
    rig.produce(0, 1, 1, PUBLISHED);
    rig.consume(0, 1, 2, 1, 0, 70_000);
    let mut stream = Stream::new(PUBLISHED);
    for round in 0..200 {
        send(&mut rig, publisher, &mut stream, round == 0, round % 10 != 5);
    }
    // The publisher falls silent, and nobody wanted that.
    rig.run(millis(7_000));
    assert!(totals(&rig, 1).is_none() && totals(&rig, 2).is_none());
    rig.command(0, Command::CloseProducer { producer: ProducerId(1) });
    rig.command(0, Command::CloseTransport { transport: TransportId(1) });
    rig.command(0, Command::Shutdown);
    rig.run(millis(5));

    let sender = totals(&rig, 1).expect("signalling closed it");
    assert!(sender.packets_received >= 180 && sender.bytes_received > 180 * 300, "{sender:?}");
    assert_eq!((sender.lost_received, sender.worst), (20, None), "though its producer was closed before");
    let viewer = totals(&rig, 2).expect("the shard closed it");
    assert!(viewer.packets_sent >= 180 && viewer.bytes_sent > 180 * 300, "{viewer:?}");
    let (verdict, span) = viewer.worst.expect("nothing came for 7 s");
    assert_eq!(verdict, VerdictState::NoPackets);
    assert!((6..=7).contains(&span.as_secs()), "{span:?}");
    assert_eq!(rig.gauge(0, "transports"), 0);
}

#[test]
fn a_refused_handshake_says_why() {
    let mut rig = Rig::new(1);
    rig.client(0, 1, 1);
    rig.command(0, Command::Announce { transport: TransportId(1), announcement: announcement(77, true) });
    rig.run(millis(100));
    let why = "the certificate is not the one that connect-transport announced".to_owned();
    assert!(rig.events.contains(&Event::HandshakeFailed { transport: TransportId(1), why }), "{:?}", rig.events);
    assert_eq!(firsts(&rig, 1, true) + firsts(&rig, 1, false), 0);
    rig.command(0, Command::CloseTransport { transport: TransportId(1) });
    rig.run(millis(5));
    assert_eq!(totals(&rig, 1), Some(Totals::default()));
}
