//! Addresses, consent, ICE restarts, both DTLS roles, and people who go.

use std::net::SocketAddr;

use serde_json::json;
use weirgate::base::time::Instant;
use weirgate::sim::endpoint::DtlsRole;
use weirgate::sim::link::LinkSettings;
use weirgate::sim::visitor::{Subscription, VisitorTransport, metric};
use weirgate::sim::world::World;

use crate::support::{AUDIO, CLEAN, DELAY, Page, Pair, VIDEO, millis, seconds};

fn last_picture(world: &World, subscription: &Subscription) -> Instant {
    world.sink(subscription).last_decoded_at.expect("it has seen pictures")
}

/// States of the transport that its page was told.
fn states(world: &World, transport: &VisitorTransport) -> Vec<String> {
    let inbox = world.inbox(transport.visitor);
    let told =
        inbox.iter().filter(|message| message["type"] == "transport-state" && message["data"]["id"] == transport.id);
    told.map(|message| message["data"]["state"].as_str().unwrap_or_default().to_owned()).collect()
}

/// The client is not heard any more.
fn mute(world: &mut World, transport: &VisitorTransport, muted: bool) {
    world.end(transport.end).up.settings.loss = if muted { 1.0 } else { 0.0 };
}

#[test]
fn a_client_that_is_not_heard_for_30_s_is_sent_nothing_until_it_checks_again() {
    let mut pair = Pair::new(World::seeded(20), &VIDEO, CLEAN);
    let world = &mut pair.world;
    let recv = pair.bob.recv.clone();
    world.ask(pair.bob.visitor, "subscribe", json!({}));
    mute(world, &recv, true);
    world.run(seconds(27));
    assert!(world.now().since(last_picture(world, &pair.seen)) < millis(60), "consent lasts");
    assert_eq!(states(world, &recv), [""; 0]);
    world.run(seconds(4));
    assert_eq!(states(world, &recv), ["disconnected"]);
    let sent = world.end(recv.end).down.stats().sent;
    world.run(seconds(20));
    assert_eq!(world.end(recv.end).down.stats().sent, sent, "silence");
    mute(world, &recv, false);
    let back = world.now();
    world.wait(seconds(3), |world| last_picture(world, &pair.seen) > back).expect("it is revived");
    assert_eq!(states(world, &recv), ["disconnected", "connected"]);
    world.run(seconds(2));
    let stats = world.sink(&pair.seen);
    assert_eq!((stats.lost, stats.frames_dropped), (0, 0), "{stats:?}");
    assert_eq!(metric(&world.metrics(0), "consent_lost"), 1);
}

#[test]
fn a_transport_that_stays_away_for_ten_minutes_is_closed() {
    let mut pair = Pair::new(World::seeded(21), &AUDIO, CLEAN);
    let world = &mut pair.world;
    world.source(&pair.video).set_paused(true);
    world.ask(pair.alice.visitor, "subscribe", json!({}));
    world.ask(pair.bob.visitor, "subscribe", json!({}));
    let send = pair.alice.send.clone();
    mute(world, &send, true);
    world.run(seconds(620));
    assert_eq!(states(world, &send), ["disconnected"]);
    assert_eq!(metric(&world.metrics(0), "transports"), 4);
    world.run(seconds(15));
    assert_eq!(states(world, &send), ["disconnected", "closed"]);
    let metrics = world.metrics(0);
    assert_eq!(["transports", "producers", "consumers"].map(|name| metric(&metrics, name)), [3, 0, 0]);
    assert_eq!(world.heard(pair.bob.visitor, "consumer-closed").len(), 1);
}

#[test]
fn restarting_ice_loses_nothing() {
    let mut pair = Pair::new(World::seeded(22), &VIDEO, CLEAN);
    let (send, recv) = (pair.alice.send.clone(), pair.bob.recv.clone());
    let world = &mut pair.world;
    for _ in 0..3 {
        // One page has not yet used the last parameters when it asks for others.
        world.ask(recv.visitor, "restart-ice", json!({ "transportId": recv.id }));
        world.run(seconds(1));
        world.restart_ice(&recv);
        world.restart_ice(&send);
        world.run(seconds(2));
    }
    let stats = world.sink(&pair.seen);
    assert_eq!((stats.lost, stats.frames_dropped), (0, 0), "{stats:?}");
    assert!(stats.longest_freeze <= millis(150), "{stats:?}");
    let metrics = world.metrics(0);
    assert_eq!(["dtls_handshakes", "consent_lost"].map(|name| metric(&metrics, name)), [4, 0]);
}

#[test]
fn a_restart_revives_a_client_whose_consent_ran_out() {
    let mut pair = Pair::new(World::seeded(23), &VIDEO, CLEAN);
    let recv = pair.bob.recv.clone();
    let world = &mut pair.world;
    mute(world, &recv, true);
    world.run(seconds(35));
    mute(world, &recv, false);
    world.restart_ice(&recv);
    let back = world.now();
    let waited = world.wait(seconds(1), |world| last_picture(world, &pair.seen) > back);
    assert!(waited.is_some_and(|waited| waited < millis(200)), "{waited:?}");
}

#[test]
fn a_client_that_moves_is_followed_and_its_old_address_may_be_another_s() {
    let mut pair = Pair::new(World::seeded(24), &VIDEO, CLEAN);
    let world = &mut pair.world;
    let (send, recv) = (pair.alice.send.end, pair.bob.recv.end);
    let old = world.address(recv);
    for (end, port) in [(recv, 50_001), (send, 50_002)] {
        world.move_end(end, SocketAddr::from(([203, 0, 113, 9], port)));
        let moved = world.now();
        // A browser behind such a NAT notices nothing: its next check of consent tells.
        let wait = seconds(3);
        world.wait(wait, |world| last_picture(world, &pair.seen) > moved + millis(600)).expect("followed");
        world.run(seconds(3));
        assert!(world.now().since(last_picture(world, &pair.seen)) < millis(100));
    }
    // A NAT gives Bob's first address to a newcomer.
    let carol = world.join("carol", "room");
    let hers = world.transport(carol, "recv", CLEAN);
    world.move_end(hers.end, old);
    world.connect(&hers);
    let seen = world.subscribe(&hers, Some(&pair.video.id));
    world.run(seconds(3));
    for subscription in [&pair.seen, &seen] {
        assert!(world.now().since(last_picture(world, subscription)) < millis(100));
        assert_eq!(world.end(subscription.end).browser.stray(), 0);
    }
    assert_eq!(world.end(hers.end).browser.endpoint.stats().refused, 0, "nothing under another's keys");
}

#[test]
fn who_leaves_takes_along_what_others_watched() {
    let mut pair = Pair::new(World::seeded(25), &VIDEO, CLEAN);
    let world = &mut pair.world;
    let voice = world.publish(&pair.alice.send, &AUDIO);
    let heard = world.subscribe(&pair.bob.recv, Some(&voice.id));
    world.ask(pair.bob.visitor, "subscribe", json!({}));
    world.run(seconds(1));
    pair.alice.leave(world);
    world.run(millis(100));
    let mut closed: Vec<_> = world.heard(pair.bob.visitor, "consumer-closed");
    closed.sort_by_key(|data| data["id"].to_string());
    let mut wanted = vec![pair.seen.id.clone(), heard.id.clone()];
    wanted.sort();
    let ids: Vec<_> = closed.iter().map(|data| data["id"].as_str().unwrap_or_default()).collect();
    assert_eq!(ids, wanted);
    let metrics = world.metrics(0);
    let left = ["transports", "producers", "consumers", "paths"].map(|name| metric(&metrics, name));
    assert_eq!(left, [2, 0, 0, 2]);
    assert_eq!(world.end(pair.bob.recv.end).browser.feedback().byes, 2);
}

#[test]
fn a_client_that_insists_on_being_the_dtls_server_is_called() {
    let mut world = World::seeded(26);
    let alice = world.join("alice", "room");
    let send = world.transport_over(alice, "send", [CLEAN; 2], DtlsRole::Server);
    assert!(world.connect(&send) < millis(300));
    let video = world.publish(&send, &VIDEO);
    let bob = Page::join(&mut world, "bob", CLEAN);
    let seen = world.subscribe(&bob.recv, Some(&video.id));
    world.run(seconds(1));
    assert!(world.sink(&seen).frames_decoded > 20);
}

#[test]
fn everybody_connects_over_links_that_lose_a_third() {
    for seed in 30..50 {
        let mut world = World::seeded(seed);
        let role = if seed % 2 == 0 { DtlsRole::Client } else { DtlsRole::Server };
        let visitor = world.join("alice", "room");
        let transport = world.transport_over(visitor, "send", [LinkSettings::lossy(DELAY, 0.33); 2], role);
        let took = world.connect(&transport);
        assert!(took < seconds(3), "seed {seed}: {took:?}");
    }
}
