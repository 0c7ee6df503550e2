//! The binary as it is shipped, on real sockets, with the Rust client at both ends of a call.

#![cfg(feature = "edge")]
#![expect(clippy::disallowed_methods, reason = "a real server on real sockets: its tests wait by the clock")]

mod server_process;

use std::thread::sleep;
use std::time::{Duration, Instant};

use weirgate::base::units::Bitrate;
use weirgate::client::Call;
use weirgate::client::call::CallStats;
use weirgate::wire::codec::Codec;

use server_process::ServerProcess;

fn join(server: &ServerProcess, user: &str) -> Call {
    Call::connect(server.address, user, "room").unwrap()
}

fn within(limit: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}");
        sleep(Duration::from_millis(20));
    }
}

fn frames(stats: &CallStats) -> Vec<u64> {
    stats.receive.iter().flat_map(|receive| &receive.sinks).map(|(sink, _)| sink.frames_decoded).collect()
}

#[test]
fn audio_and_video_go_one_way_without_loss() {
    let server = ServerProcess::start();
    for codec in [Codec::Vp8, Codec::Vp9, Codec::H264, Codec::Av1] {
        let mut alice = join(&server, "alice");
        let audio = alice.produce_audio().unwrap();
        let video = alice.produce_video(codec, Bitrate::kbps(1_500)).unwrap();
        let mut bob = join(&server, "bob");
        bob.consume(Some(&audio.id)).unwrap();
        bob.consume(Some(&video.id)).unwrap();
        within(Duration::from_secs(30), "both streams decode", || {
            let frames = frames(&bob.stats());
            frames.len() == 2 && frames.iter().all(|frames| *frames > 0)
        });
        // Compared with the packets sent, not with the clock: on a busy machine both ends run late alike.
        let (sent_before, before) = (alice.stats().send.unwrap(), frames(&bob.stats()));
        within(Duration::from_secs(30), "three seconds of media", || {
            let now = frames(&bob.stats());
            now[0] >= before[0] + 150 && now[1] >= before[1] + 90
        });
        let (sent, received) = (alice.stats().send.unwrap(), bob.stats().receive.unwrap());
        for transport in [&sent, &received] {
            assert!(transport.connected && transport.fingerprint_right == Some(true), "{codec:?} {transport:?}");
            assert_eq!(transport.srtp_profile, Some("AEAD_AES_128_GCM"));
            let seen = transport.endpoint.seen;
            assert!(seen.compared > 2 && seen.disputed == 0, "another SRTP sees the same: {seen:?}");
        }
        for (index, (stats, delays)) in received.sinks.iter().enumerate() {
            let broken = (stats.lost, stats.duplicates, stats.foreign, stats.frames_dropped);
            assert_eq!(broken, (0, 0, 0, 0), "{codec:?} {stats:?}");
            let made = sent.sources[index].frames - sent_before.sources[index].frames;
            let shown = stats.frames_decoded - before[index];
            assert!(shown + 15 >= made, "{codec:?}: {made} frames sent, {shown} decoded");
            assert!(delays[0] < 50_000, "{codec:?}: {} us at best", delays[0]);
        }
        assert_eq!(received.stray, 0, "{codec:?}");
        assert!(sent.feedback.receiver_reports > 0, "{codec:?} {:?}", sent.feedback);
    }
}

#[test]
fn media_goes_on_over_an_ice_restart() {
    let server = ServerProcess::start();
    let mut alice = join(&server, "alice");
    let video = alice.produce_video(Codec::Vp8, Bitrate::kbps(500)).unwrap();
    let mut bob = join(&server, "bob");
    bob.consume(Some(&video.id)).unwrap();
    within(Duration::from_secs(30), "video decodes", || frames(&bob.stats()).iter().any(|frames| *frames > 10));
    let key_frames = |stats: &CallStats| stats.receive.as_ref().unwrap().sinks[0].0.key_frames_decoded;
    let began = key_frames(&bob.stats());
    alice.restart_ice().unwrap();
    bob.restart_ice().unwrap();
    let before = frames(&bob.stats())[0];
    within(Duration::from_secs(30), "three seconds of video", || frames(&bob.stats())[0] >= before + 90);
    let received = bob.stats().receive.unwrap();
    let (seen, _) = &received.sinks[0];
    assert!(received.connected && seen.key_frames_decoded == began, "no new start: {seen:?}");
    assert_eq!((seen.lost, seen.frames_dropped), (0, 0), "{seen:?}");
}

#[test]
fn channels_are_apart_and_refusals_are_named() {
    let server = ServerProcess::start();
    let mut alice = join(&server, "alice");
    let video = alice.produce_video(Codec::Vp8, Bitrate::kbps(500)).unwrap();
    let mut eve = Call::connect(server.address, "eve", "elsewhere").unwrap();
    let refused = eve.consume(Some(&video.id)).unwrap_err().to_string();
    assert!(refused.contains("(not-found)"), "{refused}");
    let refused = eve.consume(None).unwrap_err().to_string();
    assert!(refused.contains("(no-producer)"), "{refused}");
}
