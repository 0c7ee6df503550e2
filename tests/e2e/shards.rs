//! One channel on two shards (`--spread always`): a peer's streams from the other shard cross the mesh.

use serde_json::json;
use weirgate::base::units::Bitrate;
use weirgate::client::Call;
use weirgate::client::call::CallStream;
use weirgate::sim::source::SourceStats;
use weirgate::wire::codec::Codec;

use crate::support::{Server, frames_more, sink, skipped, told, within};

/// None where this process may use one cpu only.
fn two_shards() -> Option<Server> {
    let command = || std::process::Command::new(env!("CARGO_BIN_EXE_weirgate"));
    match Server::spawn(command, &["--cores", "2", "--spread", "always"]) {
        Ok(server) => Some(server),
        Err(said) if said.contains("--cores has a wrong value") => {
            skipped("two shards need two cpus");
            None
        }
        Err(said) => panic!("{said}"),
    }
}

struct Pair {
    alice: Call,
    bob: Call,
    audio: CallStream,
    video: CallStream,
    heard: CallStream,
    seen: CallStream,
}

/// Alice, the first to come, sends from shard 0; Bob, the second, watches on shard 1.
fn across(server: &Server, codec: Codec) -> Pair {
    let mut alice = server.join("alice");
    let audio = alice.produce_audio().unwrap();
    let video = alice.produce_video(codec, Bitrate::kbps(600)).unwrap();
    let mut bob = server.join("bob");
    bob.signalling().request("subscribe", json!({})).unwrap();
    let heard = bob.consume(Some(&audio.id)).unwrap();
    let seen = bob.consume(Some(&video.id)).unwrap();
    server.until("senders on shard 0, receivers on shard 1", |metrics| {
        let on = |shard| ["producers", "consumers", "relayed_sources"].map(|name| metrics.of_shard(name, shard));
        (on(0), on(1)) == ([2, 0, 0], [0, 2, 2])
    });
    Pair { alice, bob, audio, video, heard, seen }
}

fn sent(call: &Call, stream: &CallStream) -> SourceStats {
    call.stats().send.unwrap().sources[stream.index]
}

fn whole(call: &Call, stream: &CallStream) {
    let stats = sink(call, stream);
    let broken = (stats.lost, stats.duplicates, stats.foreign, stats.frames_dropped);
    assert_eq!(broken, (0, 0, 0, 0), "{stats:?}");
}

#[test]
fn audio_and_video_cross_and_late_joiners_start_at_a_keyframe() {
    let Some(server) = two_shards() else { return };
    let pair = across(&server, Codec::Vp8);
    frames_more(&pair.bob, &pair.seen, 30);
    frames_more(&pair.bob, &pair.heard, 50);
    let asked = sent(&pair.alice, &pair.video).key_frames_requested;

    // Carol comes to shard 0 and Dave to shard 1, both into the middle of the stream.
    let mut late: Vec<Call> = ["carol", "dave"].map(|user| server.join(user)).into();
    let seen: Vec<CallStream> = late.iter_mut().map(|call| call.consume(Some(&pair.video.id)).unwrap()).collect();
    server.until("one on each shard", |metrics| {
        (metrics.of_shard("consumers", 0), metrics.of_shard("consumers", 1)) == (1, 3)
    });
    for (call, seen) in late.iter().zip(&seen) {
        let stats = frames_more(call, seen, 30);
        assert!(stats.key_frames_decoded >= 1, "{stats:?}");
        whole(call, seen);
    }
    assert!(sent(&pair.alice, &pair.video).key_frames_requested > asked, "a joiner asks the publisher");
    whole(&pair.bob, &pair.seen);
    whole(&pair.bob, &pair.heard);
    let metrics = server.metrics();
    assert_eq!((metrics.dropped("mesh_full"), metrics.dropped("mesh_unfit")), (0, 0));
    assert_eq!(metrics.dropped("malformed_relay"), 0);

    // A peer that leaves removes its own streams, and only those.
    drop(late);
    drop(pair.bob);
    // A shard that is late with its answer has no rows at all.
    server.until("nobody is left to relay to", |metrics| {
        (metrics.sum("relayed_sources"), metrics.sum("consumers"), metrics.sum("shard_up")) == (0, 0, 2)
    });
    let crossed = || server.until("both shards", |metrics| metrics.sum("shard_up") == 2).sum("mesh_records_sent_total");
    within("a second of audio of which nothing crosses", || {
        let (before, packets) = (crossed(), sent(&pair.alice, &pair.audio).packets);
        within("a second of audio", || (sent(&pair.alice, &pair.audio).packets > packets + 50).then_some(()));
        (crossed() == before).then_some(())
    });
    server.stop();
}

#[test]
fn loss_on_either_side_of_the_crossing_is_repaired() {
    let Some(server) = two_shards() else { return };
    let pair = across(&server, Codec::H264);
    frames_more(&pair.bob, &pair.seen, 5);
    pair.alice.lose(50);
    pair.bob.lose(50);
    frames_more(&pair.bob, &pair.seen, 75);
    pair.alice.lose(0);
    pair.bob.lose(0);
    frames_more(&pair.bob, &pair.seen, 45);
    let stats = sink(&pair.bob, &pair.seen);
    let (upstream, downstream) = (pair.alice.stats().send.unwrap(), pair.bob.stats().receive.unwrap());
    assert!(upstream.lost_on_purpose > 0 && downstream.lost_on_purpose > 0);
    assert!(upstream.sources[pair.video.index].retransmitted > 0, "{upstream:?}");
    assert!(stats.repaired > 0, "{stats:?}");
    assert_eq!((stats.lost, stats.frames_dropped), (0, 0), "{stats:?}");
    server.stop();
}

#[test]
fn a_request_for_a_keyframe_crosses() {
    let Some(server) = two_shards() else { return };
    let pair = across(&server, Codec::Vp8);
    frames_more(&pair.bob, &pair.seen, 20);
    for _ in 0..2 {
        let (asked, got) = (sent(&pair.alice, &pair.video), sink(&pair.bob, &pair.seen));
        pair.bob.signalling().request("request-key-frame", json!({ "consumerId": pair.seen.id })).unwrap();
        within("a keyframe", || {
            let now = sink(&pair.bob, &pair.seen);
            (now.key_frames_decoded > got.key_frames_decoded).then_some(())
        });
        let now = sent(&pair.alice, &pair.video);
        assert!(now.key_frames_requested > asked.key_frames_requested, "{asked:?} {now:?}");
    }
    whole(&pair.bob, &pair.seen);
    server.stop();
}

#[test]
fn pauses_on_either_side_stop_the_stream_and_resumes_bring_it_back_whole() {
    let Some(server) = two_shards() else { return };
    let pair = across(&server, Codec::Vp8);
    let order = |call: &Call, what: &str, field: &str, id: &str| {
        call.signalling().request(what, json!({ field: id })).unwrap();
    };
    frames_more(&pair.bob, &pair.seen, 20);
    for (pause, resume, field) in
        [("pause-producer", "resume-producer", "producerId"), ("pause-consumer", "resume-consumer", "consumerId")]
    {
        let (caller, id) = match field {
            "producerId" => (&pair.alice, &pair.video.id),
            _ => (&pair.bob, &pair.seen.id),
        };
        order(caller, pause, field, id);
        if field == "producerId" {
            assert_eq!(told(&pair.bob, "producer-paused")["id"], *id);
        }
        // The audio is the clock: packets under way arrive within its first packets.
        frames_more(&pair.bob, &pair.heard, 10);
        let paused = sink(&pair.bob, &pair.seen);
        frames_more(&pair.bob, &pair.heard, 50);
        assert_eq!(sink(&pair.bob, &pair.seen).packets, paused.packets, "{pause}");
        order(caller, resume, field, id);
        if field == "producerId" {
            assert_eq!(told(&pair.bob, "producer-resumed")["id"], *id);
        }
        let stats = frames_more(&pair.bob, &pair.seen, 30);
        assert!(stats.key_frames_decoded > paused.key_frames_decoded, "{resume} starts at a keyframe: {stats:?}");
        // A pause may cut the frame that is under way.
        assert!(stats.frames_dropped <= paused.frames_dropped + 1, "{stats:?}");
        assert_eq!((stats.lost, stats.duplicates, stats.foreign), (0, 0, 0), "{stats:?}");
    }
    whole(&pair.bob, &pair.heard);
    server.stop();
}

#[test]
fn what_ends_on_one_shard_ends_on_the_other() {
    let Some(server) = two_shards() else { return };
    let pair = across(&server, Codec::Vp8);
    frames_more(&pair.bob, &pair.seen, 10);

    pair.alice.signalling().request("close-producer", json!({ "producerId": pair.video.id })).unwrap();
    assert_eq!(told(&pair.bob, "consumer-closed")["id"], pair.seen.id);
    server.until("the audio alone", |metrics| {
        (metrics.sum("consumers"), metrics.sum("relayed_sources"), metrics.sum("producers")) == (1, 1, 1)
    });
    frames_more(&pair.bob, &pair.heard, 50);
    whole(&pair.bob, &pair.heard);
    let byes = pair.bob.stats().receive.unwrap().feedback.byes;
    assert!(byes > 0, "the receiver is told in RTCP too");

    let Pair { alice, bob, heard, .. } = pair;
    drop(alice);
    assert_eq!(told(&bob, "consumer-closed")["id"], heard.id);
    let empty = server.until("nothing", |metrics| metrics.sum("consumers") + metrics.sum("relayed_sources") == 0);
    assert_eq!(empty.sum("signalling_consumers"), 0);
    server.stop();
}
