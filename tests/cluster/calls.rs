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

/// Sound from one node to the other that flows: who sends, who hears.
fn sound(a: &Node, b: &Node) -> (Call, Call) {
    let mut anna = Call::connect(a.address(), "anna", "room").unwrap();
    let audio = anna.produce_audio().unwrap();
    let mut bob = Call::connect(b.address(), "bob", "room").unwrap();
    until(SOON, "the producer is known there", || bob.consume(Some(&audio.id)).is_ok());
    until(SOON, "bob hears anna", || frames(&bob.stats()).iter().any(|frames| *frames > 10));
    (anna, bob)
}

fn more(bob: &Call, frames_more: u64) {
    let before = frames(&bob.stats())[0];
    until(SOON, "sound goes on", || frames(&bob.stats())[0] >= before + frames_more);
}

fn nothing_is_lost(bob: &Call) {
    let (sink, _) = bob.stats().receive.unwrap().sinks[0];
    assert_eq!((sink.lost, sink.duplicates, sink.frames_dropped), (0, 0, 0), "{sink:?}");
}

#[test]
fn without_the_engine_calls_go_on_and_newcomers_are_served() {
    if skipped() {
        return;
    }
    let (mut engine, place) = (Engine::start(), Place::new());
    let key = place.key("key");
    let [a, b] = ["a", "b"].map(|name| Node::start(name, &engine.url(), &key));
    until(SOON, "they see each other", || a.sees("alive") == ["b"] && b.sees("alive") == ["a"]);
    let (mut anna, bob) = sound(&a, &b);
    let video = anna.produce_video(Codec::Vp8, Bitrate::kbps(500)).unwrap();
    let mut cid = Call::connect(b.address(), "cid", "room").unwrap();
    until(SOON, "the picture is known there", || cid.consume(Some(&video.id)).is_ok());
    drop(cid);
    engine.kill();
    until(SOON, "the bus is down", || !a.bus_is_up() && !b.bus_is_up());
    more(&bob, 100);
    // What is known can be had, by who comes now.
    let mut dora = Call::connect(b.address(), "dora", "room").unwrap();
    dora.consume(Some(&video.id)).unwrap();
    until(SOON, "dora sees anna", || frames(&dora.stats()).iter().any(|frames| *frames > 10));
    let sound = dora.produce_audio().unwrap();
    more(&bob, 200);
    nothing_is_lost(&bob);
    engine.restart();
    let back = std::time::Instant::now();
    until(SOON, "anna's node is told of dora", || anna.consume(Some(&sound.id)).is_ok());
    measured("who came without the engine is known, from its start", back.elapsed());
    until(SOON, "anna hears dora", || frames(&anna.stats()).iter().any(|frames| *frames > 10));
    more(&bob, 50);
    nothing_is_lost(&bob);
}

#[test]
fn a_node_that_is_killed_takes_its_own_peers_and_nobody_elses() {
    if skipped() {
        return;
    }
    let (engine, place) = (Engine::start(), Place::new());
    let key = place.key("key");
    let [mut a, b, c] = ["a", "b", "c"].map(|name| Node::start(name, &engine.url(), &key));
    until(SOON, "all see all", || [&a, &b, &c].iter().all(|node| node.sees("alive").len() == 2));
    let (anna, bob) = sound(&a, &c);
    let mut cid = Call::connect(b.address(), "cid", "room").unwrap();
    let audio = cid.produce_audio().unwrap();
    let mut dora = Call::connect(c.address(), "dora", "room").unwrap();
    until(SOON, "the producer is known there", || dora.consume(Some(&audio.id)).is_ok());
    until(SOON, "dora hears cid", || frames(&dora.stats()).iter().any(|frames| *frames > 10));
    let ghosts = || c.metric("weirgate_cluster_ghost_producers");
    assert_eq!((ghosts(), c.metric("weirgate_cluster_ghosts")), (2, 2));
    a.child.kill().unwrap();
    let killed = std::time::Instant::now();
    a.child.wait().unwrap();
    until(SOON, "anna is gone", || ghosts() == 1);
    measured("the peers of a killed node are gone", killed.elapsed());
    more(&dora, 100);
    nothing_is_lost(&dora);
    drop((anna, bob));
}
