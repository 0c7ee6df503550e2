//! The legs of paths: the same client at the same address by UDP, and over connections of TCP (RFC 6544). The edge that
//! accepts connections and frames what goes over them is played by the rig.

#[expect(dead_code, reason = "what other tests need of it")]
mod shard_rig;

use shard_rig::{Rig, Stream, millis};
use weirgate::base::buffer::{ConnectionId, Leg, LocalIndex, Path};
use weirgate::base::id::TransportId;
use weirgate::shard::PathChange;
use weirgate::shard::command::{Command, Event, Reply, RequestId, Stats, StatsOf, TransportStats};

const PUBLISHED: u32 = 1_000;
const UDP: Leg = Leg::Udp(LocalIndex(0));

const fn tcp(connection: u32) -> Leg {
    Leg::Tcp(LocalIndex(0), ConnectionId(connection))
}

/// A publisher by UDP, transport 1, and a viewer of it by this leg, transport 2: who they are.
fn call(viewers: Leg) -> (Rig, usize, usize) {
    let mut rig = Rig::new(2);
    let publisher = rig.connected(0, 1, 1);
    let viewer = rig.client(0, 2, 2);
    rig.clients[viewer].leg = viewers;
    let announcement = shard_rig::announcement(2, true);
    rig.command(0, Command::Announce { transport: TransportId(2), announcement });
    rig.run(millis(20));
    assert!(rig.clients[viewer].peer.is_connected());
    rig.produce(0, 1, 1, PUBLISHED);
    rig.consume(0, 1, 2, 1, 0, 70_000);
    (rig, publisher, viewer)
}

fn send(rig: &mut Rig, publisher: usize, stream: &mut Stream, frames: usize) {
    for frame in 0..frames {
        let packet = stream.frame(frame == 0, 300);
        assert!(rig.clients[publisher].peer.send_rtp(&packet));
        rig.run(millis(20));
    }
}

fn stats(rig: &mut Rig, transport: u64) -> TransportStats {
    let of = StatsOf::Transport(TransportId(transport));
    rig.command(0, Command::GetStats { request: RequestId(3), of });
    rig.run(millis(5));
    let answer = rig.events.iter().rev().find_map(|event| match event {
        Event::Answer { reply: Reply::Stats(Some(Stats::Transport(stats))), .. } => Some(stats.clone()),
        _ => None,
    });
    answer.expect("an answer")
}

/// Moves the client to another leg at the same address, as a browser whose other candidate has failed.
fn move_to(rig: &mut Rig, client: usize, leg: Leg) {
    rig.clients[client].leg = leg;
    let now = rig.now.mono;
    rig.clients[client].peer.recheck(now);
    rig.run(millis(20));
}

#[test]
fn a_check_over_a_connection_nominates_it_and_media_leaves_by_it() {
    let (mut rig, publisher, viewer) = call(tcp(7));
    let path = Path { leg: tcp(7), remote: rig.clients[viewer].address };
    assert!(rig.paths.contains(&PathChange::Up(path)), "the edge is told: {:?}", rig.paths);
    let seen = stats(&mut rig, 2);
    assert_eq!((seen.path, seen.nominated), (Some(path), true));
    send(&mut rig, publisher, &mut Stream::new(PUBLISHED), 50);
    // The rig delivers to a client by its own leg and no other.
    assert_eq!(rig.clients[viewer].rtp.len(), 50);
    assert_eq!(rig.clients[viewer].unopened, 0);
    rig.command(0, Command::CloseTransport { transport: TransportId(2) });
    rig.run(millis(5));
    assert!(rig.paths.contains(&PathChange::Down(path)));
}

#[test]
fn the_legs_of_one_pair_of_addresses_are_two_paths() {
    let (mut rig, publisher, viewer) = call(UDP);
    let mut stream = Stream::new(PUBLISHED);
    send(&mut rig, publisher, &mut stream, 10);
    let remote = rig.clients[viewer].address;
    // Two connections from the very port that also speaks UDP.
    for (leg, seen) in [(tcp(7), 20), (tcp(8), 30), (UDP, 40)] {
        move_to(&mut rig, viewer, leg);
        assert_eq!(stats(&mut rig, 2).path, Some(Path { leg, remote }));
        send(&mut rig, publisher, &mut stream, 10);
        assert_eq!(rig.clients[viewer].rtp.len(), seen, "{leg:?}");
    }
    let up = |leg| rig.paths.iter().filter(|change| **change == PathChange::Up(Path { leg, remote })).count();
    assert_eq!((up(UDP), up(tcp(7)), up(tcp(8))), (1, 1, 1));
}

#[test]
fn another_transport_on_another_connection_from_there_is_another_path() {
    let (mut rig, publisher, viewer) = call(tcp(7));
    let (address, other) = (rig.clients[viewer].address, rig.client(0, 3, 3));
    (rig.clients[other].address, rig.clients[other].leg) = (address, tcp(8));
    let announcement = shard_rig::announcement(3, true);
    rig.command(0, Command::Announce { transport: TransportId(3), announcement });
    rig.run(millis(20));
    assert!(rig.clients[other].peer.is_connected());
    send(&mut rig, publisher, &mut Stream::new(PUBLISHED), 20);
    assert_eq!((rig.clients[viewer].rtp.len(), rig.clients[other].rtp.len()), (20, 0));
    assert_eq!(rig.counter(0, "handed_over_datagrams"), 0);
}

/// What arrives of 300 packets after a viewer by UDP has moved to this leg and port. It reports nothing.
fn arrive_after_a_move_to(leg: Leg, port: u16) -> usize {
    let (mut rig, publisher, viewer) = call(UDP);
    rig.clients[viewer].address.set_port(port);
    move_to(&mut rig, viewer, leg);
    let mut stream = Stream::new(PUBLISHED);
    for frame in 0..300 {
        let packet = stream.frame(frame == 0, 1_100);
        assert!(rig.clients[publisher].peer.send_rtp(&packet));
        rig.run(millis(5));
    }
    rig.clients[viewer].rtp.len()
}

#[test]
fn a_connection_proves_its_address_by_itself() {
    assert_eq!(arrive_after_a_move_to(tcp(7), 9_999), 300);
    let unproved = arrive_after_a_move_to(UDP, 9_999);
    assert!((1..250).contains(&unproved), "{unproved} to an address that anybody may have named");
}

#[test]
fn a_check_for_another_shard_does_not_leave_the_one_with_the_connection() {
    let mut rig = Rig::new(2);
    let elsewhere = rig.client(1, 2, 2);
    let check = rig.checks_due(elsewhere).remove(0);
    let remote: std::net::SocketAddr = ([198, 51, 100, 9], 9).into();
    rig.inject_by(0, Path { leg: tcp(7), remote }, &check);
    assert_eq!((rig.counter(0, "handed_over_datagrams"), drops(&mut rig, "unknown_ufrag")), (0, 1));
    rig.inject_by(0, Path { leg: UDP, remote }, &check);
    assert_eq!((rig.counter(0, "handed_over_datagrams"), drops(&mut rig, "unknown_ufrag")), (1, 1));
}

fn drops(rig: &mut Rig, reason: &str) -> u64 {
    rig.metrics(0).drops.iter().find(|(known, _)| *known == reason).expect("it exists").1
}
