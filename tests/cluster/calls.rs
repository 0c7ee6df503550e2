//! Calls over two nodes for real: clients of the Rust client on either.

use std::time::Duration;

use weirgate::base::units::Bitrate;
use weirgate::client::Call;
use weirgate::client::call::CallStats;
use weirgate::wire::codec::Codec;

use crate::support::{Engine, Node, Place, measured, skipped, until};

/// Five times the goals, and a busy machine.
const SOON: Duration = Duration::from_secs(20);

fn frames(stats: &CallStats) -> Vec<u64> {
    stats.receive.iter().flat_map(|receive| &receive.sinks).map(|(sink, _)| sink.frames_decoded).collect()
}

#[test]
fn a_call_goes_over_two_nodes() {
    if skipped() {
        return;
    }
    let (engine, place) = (Engine::start(), Place::new());
    let key = place.key("key");
    let [a, b] = ["a", "b"].map(|name| Node::start(name, &engine.url(), &key));
    until(SOON, "they see each other", || a.sees("alive") == ["b"] && b.sees("alive") == ["a"]);
    let mut anna = Call::connect(a.address(), "anna", "room").unwrap();
    let audio = anna.produce_audio().unwrap();
    let video = anna.produce_video(Codec::Vp8, Bitrate::kbps(1_500)).unwrap();
    let mut bob = Call::connect(b.address(), "bob", "room").unwrap();
    bob.consume(Some(&audio.id)).unwrap();
    bob.consume(Some(&video.id)).unwrap();
    let took = until(SOON, "both streams decode", || {
        let frames = frames(&bob.stats());
        frames.len() == 2 && frames.iter().all(|frames| *frames > 0)
    });
    measured("sound and picture of another node, from consume", took);
    let before = frames(&bob.stats());
    until(SOON, "three seconds of media", || {
        let now = frames(&bob.stats());
        now[0] >= before[0] + 150 && now[1] >= before[1] + 90
    });
    let received = bob.stats().receive.unwrap();
    for (stats, delays) in &received.sinks {
        measured("delay over two nodes, the least", Duration::from_micros(delays[0].into()));
        let broken = (stats.lost, stats.duplicates, stats.foreign, stats.frames_dropped);
        assert_eq!(broken, (0, 0, 0, 0), "{stats:?}");
    }
    // The other way, and a peer that leaves.
    let back = bob.produce_audio().unwrap();
    anna.consume(Some(&back.id)).unwrap();
    until(SOON, "anna hears bob", || frames(&anna.stats()).iter().any(|frames| *frames > 50));
    drop(anna);
    until(SOON, "she is gone", || bob.consume(Some(&video.id)).is_err());
}
