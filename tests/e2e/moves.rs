//! Clients whose address changes under a call: media goes on, and no path of the old address stays behind.

use weirgate::base::limits::REMOTE_ADDRESSES_PER_TRANSPORT_MAX;
use weirgate::base::units::Bitrate;
use weirgate::client::Call;
use weirgate::client::call::CallStream;
use weirgate::wire::codec::Codec;

use crate::support::{Server, all_more, both_connected, sink};

/// Both speak and see each other, each on a shard of its own where there are two.
struct Pair {
    calls: Vec<(Call, CallStream, CallStream)>,
}

impl Pair {
    fn talk(server: &Server) -> Pair {
        let mut calls = vec![server.join("alice"), server.join("bob")];
        let sent: Vec<CallStream> =
            calls.iter_mut().map(|call| call.produce_video(Codec::Vp8, Bitrate::kbps(400)).unwrap()).collect();
        let seen: Vec<CallStream> =
            calls.iter_mut().zip(sent.iter().rev()).map(|(call, sent)| call.consume(Some(&sent.id)).unwrap()).collect();
        let pair = Pair { calls: calls.into_iter().zip(sent).zip(seen).map(|((c, s), t)| (c, s, t)).collect() };
        pair.go_on(10);
        pair
    }

    fn go_on(&self, frames: u64) {
        all_more(self.calls.iter().map(|(call, _, seen)| (call, seen)), frames);
    }

    /// Everything that was under way to an old address has been resent, and nobody had to start anew.
    fn nothing_is_missing(&self) {
        for (call, _, seen) in &self.calls {
            let stats = sink(call, seen);
            assert_eq!((stats.lost, stats.frames_dropped, stats.foreign), (0, 0, 0), "{stats:?}");
        }
    }
}

/// The kernel steers the paths that the shards know, and no others.
fn maps_agree(server: &Server) {
    let steered = server.banner.contains("steering    bpf");
    server.until("the same paths in kernel and shards", |metrics| {
        metrics.sum("transports") == 4 && (!steered || metrics.sum("steering_paths") == metrics.sum("paths"))
    });
}

#[test]
fn media_follows_a_client_to_new_addresses() {
    for steering in ["auto", "handover"] {
        let server = Server::start(&["--spread", "always", "--steering", steering]);
        let pair = Pair::talk(&server);
        maps_agree(&server);
        for round in 0..3 {
            let (mover, _, _) = &pair.calls[round % 2];
            mover.change_address();
            pair.go_on(20);
        }
        pair.nothing_is_missing();
        maps_agree(&server);
        drop(pair);
        server.until("no path", |metrics| metrics.sum("paths") == 0 && metrics.sum("transports") == 0);
        server.stop();
    }
}

#[test]
fn more_addresses_than_a_transport_keeps_push_out_the_oldest() {
    let server = Server::start(&["--cores", "1"]);
    let pair = Pair::talk(&server);
    let (mover, _, _) = &pair.calls[0];
    for _ in 0..12 {
        mover.change_address();
        pair.go_on(3);
    }
    pair.go_on(30);
    pair.nothing_is_missing();
    maps_agree(&server);
    let paths = server.metrics().sum("paths");
    assert_eq!(paths, (2 * REMOTE_ADDRESSES_PER_TRANSPORT_MAX + 2) as i64);
    server.stop();
}

#[test]
fn a_restart_of_ice_from_a_new_address_takes_the_media_along() {
    let server = Server::start(&["--spread", "always"]);
    let pair = Pair::talk(&server);
    let handshakes = server.metrics().sum("dtls_handshakes_total");
    for (call, _, _) in &pair.calls {
        call.change_address();
        call.restart_ice().unwrap();
    }
    pair.go_on(60);
    pair.nothing_is_missing();
    assert!(pair.calls.iter().all(|(call, _, _)| both_connected(&call.stats())));
    assert_eq!(server.metrics().sum("dtls_handshakes_total"), handshakes, "the keys stay");
    server.stop();
}
