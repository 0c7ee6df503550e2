//! A call over each backend.

use weirgate::base::units::Bitrate;
use weirgate::net::udp::ring;
use weirgate::wire::codec::Codec;

use crate::support::{Server, frames_more, sink, skipped};

fn a_call_over(io: &str) {
    let server = Server::start(&["--cores", "1", "--io", io]);
    assert!(server.banner.contains(&format!("  io          {io}: ")), "{}", server.banner);
    let mut alice = server.join("alice");
    let video = alice.produce_video(Codec::Vp8, Bitrate::kbps(2_000)).unwrap();
    let mut bob = server.join("bob");
    let seen = bob.consume(Some(&video.id)).unwrap();
    frames_more(&bob, &seen, 60);
    let stats = sink(&bob, &seen);
    assert_eq!((stats.lost, stats.duplicates, stats.foreign), (0, 0, 0), "{stats:?}");
    let metrics = server.metrics();
    assert_eq!(metrics.sum("shard_on_ring"), i64::from(io == "ring"));
    assert_eq!(metrics.sum("udp_receive_failed_total"), 0);
    server.stop();
}

#[test]
fn a_call_over_the_ring() {
    match ring::probe() {
        Ok(()) => a_call_over("ring"),
        Err(why) => skipped(&format!("the ring: {why}")),
    }
}

#[test]
fn a_call_over_plain_system_calls() {
    a_call_over("plain");
}
