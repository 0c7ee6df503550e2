//! A path must be proved: a check with another's address takes nothing from anybody and sends nobody much, and clients that
//! move, or are given an address that was another's, are followed all the same.

use std::net::SocketAddr;

use serde_json::json;
use stun::agent::TransactionId;
use stun::attributes::AttrType;
use stun::message::{BINDING_REQUEST, Message};
use weirgate::base::limits::{HANDSHAKES_BURST, UNPROVED_BYTES_MAX};
use weirgate::base::time::{Duration, Instant};
use weirgate::sim::endpoint::DtlsRole;
use weirgate::sim::ice_client::RemoteIce;
use weirgate::sim::link::LinkSettings;
use weirgate::sim::visitor::{Subscription, VisitorTransport, metric};
use weirgate::sim::world::{SERVER, World, WorldSettings};
use weirgate::transport::stun::{ICE_CONTROLLING, IntegrityKey, NOMINATION, PRIORITY, USE_CANDIDATE, USERNAME, finish};
use weirgate::wire::{Kind, classify};

use crate::support::{AUDIO, CLEAN, DELAY, Page, Pair, VIDEO, millis, seconds};

const VICTIM: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 77)), 7_777);

/// Restarts ICE as the page would, and has what it was given.
fn credentials(world: &mut World, transport: &VisitorTransport) -> RemoteIce {
    let reply = world.ask(transport.visitor, "restart-ice", json!({ "transportId": transport.id }));
    let text = |name: &str| reply["iceParameters"][name].as_str().unwrap().to_owned();
    let remote = RemoteIce { ufrag: text("usernameFragment"), pwd: text("password"), candidates: vec![SERVER] };
    let now = world.now();
    world.end(transport.end).browser.endpoint.restart_ice(now, &remote);
    world.touch(transport.end);
    world.run(millis(200));
    remote
}

fn check(remote: &RemoteIce, more: &[(u16, &[u8])]) -> Vec<u8> {
    let mut message = Message { typ: BINDING_REQUEST, transaction_id: TransactionId([7; 12]), ..Message::new() };
    message.write_header();
    message.add(AttrType(USERNAME), format!("{}:evil", remote.ufrag).as_bytes());
    message.add(AttrType(ICE_CONTROLLING), &[1; 8]);
    message.add(AttrType(PRIORITY), &u32::MAX.to_be_bytes());
    for (kind, value) in more {
        message.add(AttrType(*kind), value);
    }
    finish(&mut message, &IntegrityKey::new(&remote.pwd));
    message.raw
}

const NOMINATES: (u16, &[u8]) = (USE_CANDIDATE, &[]);

fn sum(world: &mut World, name: &str) -> i64 {
    (0..world.shards()).map(|shard| metric(&world.metrics(shard), name)).sum()
}

fn answers_with_numbers(world: &mut World, transport: &VisitorTransport) {
    world.end(transport.end).browser.arrivals = Some(Default::default());
}

fn last_picture(world: &World, subscription: &Subscription) -> Instant {
    world.sink(subscription).last_decoded_at.expect("it has seen pictures")
}

/// The time after `since` at which the pictures came back; they stay.
#[track_caller]
fn back_after(world: &mut World, subscription: &Subscription, since: Instant, at_most: Duration) -> Duration {
    let fresh = |world: &mut World| last_picture(world, subscription) > since;
    let took = world.wait(at_most, fresh).expect("the pictures come back");
    world.run(seconds(2));
    let stats = world.sink(subscription);
    let (held_back, proved) = (sum(world, "unproved_path"), sum(world, "paths_proved"));
    let age = world.now().since(last_picture(world, subscription));
    assert!(age < millis(100), "{age:?} old, {held_back} held back, {proved} proved: {stats:?}");
    took
}

/// Worlds of one shard, and of two in both ways of steering.
fn worlds(seed: u64) -> [World; 3] {
    let of = |shards, steered| World::new(WorldSettings { shards, steered, ..WorldSettings::seeded(seed) });
    [of(1, true), of(2, true), of(2, false)]
}

/// Its own handshake on its own address, and then a check that says it comes from the victim's.
#[test]
fn a_check_with_a_victim_s_address_sends_it_little() {
    for (seed, numbers) in [(401, false), (402, true)] {
        let mut pair = Pair::new(World::seeded(seed), &VIDEO, CLEAN);
        let recv = pair.bob.recv.clone();
        let world = &mut pair.world;
        if numbers {
            answers_with_numbers(world, &recv);
        }
        let remote = credentials(world, &recv);
        // How the victim's address is chosen: by priority, or by number and more often, each time at another port.
        let (before, mut asked) = (world.astray_bytes, 0);
        for (more, gap) in [(&[NOMINATES][..], seconds(2)), (&[(NOMINATION, &[0, 0, 0, 9])], millis(500))] {
            for port in 0..30u16 {
                let bytes = check(&remote, more);
                asked += bytes.len() as u64;
                world.inject(SocketAddr::new(VICTIM.ip(), 7_000 + port % 3), bytes);
                world.run(gap);
            }
        }
        let sent = world.astray_bytes - before;
        assert!(sent > 10_000, "the path is used: {sent}");
        assert!(sent <= UNPROVED_BYTES_MAX as u64 + 4 * asked, "{sent} bytes for {asked}, seed {seed}");
        // Without feedback that names numbers only the allowance holds the media back; with it the bandwidth does, too.
        assert!(numbers || sum(world, "unproved_path") > 100);
        assert_eq!(metric(&world.metrics(0), "faults"), 0);
    }
}

/// A check with the thief's own ufrag from the address of somebody who is in a call.
#[test]
fn a_check_takes_no_path_from_who_is_there() {
    for connected in [true, false] {
        for (at, mut world) in worlds(410).into_iter().enumerate() {
            world.overheard = None;
            let mut pair = Pair::new(world, &VIDEO, CLEAN);
            let world = &mut pair.world;
            let ends = [pair.alice.send.end, pair.bob.recv.end];
            let thieves: Vec<VisitorTransport> = (0..4)
                .map(|thief| {
                    let visitor = world.join(&format!("thief{thief}"), &format!("den{thief}"));
                    world.transport(visitor, "recv", CLEAN)
                })
                .collect();
            world.run(millis(if connected { 500 } else { 0 }));
            let mut remotes = Vec::new();
            for thief in &thieves {
                let reply = world.ask(thief.visitor, "restart-ice", json!({ "transportId": thief.id }));
                let text = |name: &str| reply["iceParameters"][name].as_str().unwrap().to_owned();
                remotes.push(RemoteIce { ufrag: text("usernameFragment"), pwd: text("password"), candidates: vec![] });
            }
            let (lost, frames) = (world.sink(&pair.seen).lost, world.sink(&pair.seen).frames_decoded);
            for step in 0..600 {
                for end in ends {
                    let victim = world.address(end);
                    let remote = &remotes[step % remotes.len()];
                    world.inject(victim, check(remote, &[NOMINATES]));
                    // Records of a handshake that the thief would have liked to be its own.
                    world.inject(victim, [&[22, 0xfe, 0xfd, b'H'][..], &[step as u8; 40]].concat());
                }
                world.run(millis(20));
            }
            let stats = world.sink(&pair.seen);
            assert_eq!((stats.lost, stats.frames_dropped), (lost, 0), "world {at}: {stats:?}");
            assert!(stats.longest_freeze <= millis(150), "world {at}: {stats:?}");
            assert!(stats.frames_decoded > frames + 300, "world {at}: {stats:?}");
            assert_eq!(sum(world, "faults") + sum(world, "consent_lost"), 0);
        }
    }
}

/// A NAT gives away an address whose last owner was heard a moment ago.
#[test]
fn a_newcomer_with_another_s_address_connects_at_once() {
    for (at, world) in worlds(420).into_iter().enumerate() {
        let mut pair = Pair::new(world, &VIDEO, CLEAN);
        let world = &mut pair.world;
        let mut last = pair.bob.recv.end;
        for number in 0..6u16 {
            let given = world.address(last);
            world.move_end(last, SocketAddr::from(([203, 0, 113, 9], 50_000 + number)));
            let visitor = world.join(&format!("carol{number}"), "room");
            let role = if number % 3 == 2 { DtlsRole::Server } else { DtlsRole::Client };
            let hers = world.transport_over(visitor, "recv", [CLEAN; 2], role);
            world.move_end(hers.end, given);
            let took = world.connect(&hers);
            assert!(took < millis(700), "world {at}, newcomer {number}: {took:?}");
            let seen = world.subscribe(&hers, Some(&pair.video.id));
            let since = world.now();
            back_after_first(world, &seen, since);
            last = hers.end;
        }
        world.run(seconds(3));
        assert!(world.now().since(last_picture(world, &pair.seen)) < millis(100), "who moved was followed");
    }
}

fn back_after_first(world: &mut World, seen: &Subscription, since: Instant) {
    let decoded = |world: &mut World| world.sink(seen).last_decoded_at.is_some_and(|at| at > since);
    world.wait(seconds(1), decoded).expect("it has a picture");
}

/// Connected long ago, and its new address was another's a moment ago: what it says of what it is sent there proves it.
#[test]
fn who_moves_to_another_s_address_is_followed() {
    for numbers in [true, false] {
        for (at, world) in worlds(430).into_iter().enumerate() {
            let mut pair = Pair::new(world, &VIDEO, CLEAN);
            let world = &mut pair.world;
            if numbers {
                answers_with_numbers(world, &pair.bob.recv);
            }
            for number in 0..4 {
                // In a channel of its own, so that it may be on another shard.
                let stranger = Page::join_in(world, &format!("stranger{number}"), &format!("other{number}"), CLEAN);
                let given = world.address(stranger.recv.end);
                world.move_end(stranger.recv.end, SocketAddr::from(([203, 0, 113, 8], 51_000 + number)));
                world.move_end(pair.bob.recv.end, given);
                let moved = world.now();
                world.end(pair.bob.recv.end).browser.endpoint.recheck(moved);
                world.touch(pair.bob.recv.end);
                let took = back_after(world, &pair.seen, moved + DELAY, seconds(2));
                assert!(took < millis(600), "world {at}, move {number}, {numbers}: {took:?}");
            }
            assert!(sum(world, "paths_proved") >= 4, "world {at}");
        }
    }
}

/// Wi-Fi to mobile and back.
#[test]
fn who_moves_gets_all_of_it_from_the_first_feedback_on() {
    for numbers in [true, false] {
        let mut pair = Pair::new(World::seeded(440), &VIDEO, CLEAN);
        let world = &mut pair.world;
        let voice = world.publish(&pair.alice.send, &AUDIO);
        let heard = world.subscribe(&pair.bob.recv, Some(&voice.id));
        if numbers {
            answers_with_numbers(world, &pair.bob.recv);
        }
        world.run(seconds(2));
        for number in 0..5 {
            let before = [world.sink(&pair.seen).lost, world.sink(&heard).lost];
            world.move_end(pair.bob.recv.end, SocketAddr::from(([203, 0, 113, 8], 52_000 + number)));
            let moved = world.now();
            world.end(pair.bob.recv.end).browser.endpoint.recheck(moved);
            world.touch(pair.bob.recv.end);
            let took = back_after(world, &pair.seen, moved + DELAY, seconds(3));
            assert!(took < millis(200), "{took:?}");
            // Packets on their way to the old address are lost, and resent.
            let after = [world.sink(&pair.seen).lost, world.sink(&heard).lost];
            assert!(after[0] == before[0] && after[1] - before[1] <= 5, "{before:?} {after:?}");
        }
        assert_eq!(sum(world, "paths_proved"), 5);
        assert_eq!(sum(world, "unproved_path"), 0, "nothing of a call is held back");
    }
}

#[test]
fn who_only_sends_and_moves_goes_on() {
    let mut pair = Pair::new(World::seeded(450), &VIDEO, CLEAN);
    let world = &mut pair.world;
    for number in 0..3 {
        world.move_end(pair.alice.send.end, SocketAddr::from(([203, 0, 113, 8], 53_000 + number)));
        let moved = world.now();
        world.end(pair.alice.send.end).browser.endpoint.recheck(moved);
        world.touch(pair.alice.send.end);
        assert!(back_after(world, &pair.seen, moved + DELAY, seconds(1)) < millis(200));
        world.run(seconds(20));
    }
    assert_eq!(sum(world, "unproved_path"), 0, "what it is told of its stream fits");
    assert!(world.end(pair.alice.send.end).browser.feedback().receiver_reports > 40);
}

/// The peer has our keys before we have its: its first packets wait for them.
#[test]
fn media_that_overtakes_the_end_of_the_handshake_is_not_lost() {
    let hasty = LinkSettings { reordering: 0.5, reorder_by: millis(40), ..CLEAN };
    for (seed, role) in (460..480).zip([DtlsRole::Server, DtlsRole::Client].into_iter().cycle()) {
        let mut world = World::seeded(seed);
        let bob = Page::join(&mut world, "bob", CLEAN);
        let alice = world.join("alice", "room");
        let send = world.transport_over(alice, "send", [hasty, CLEAN], role);
        let mut video = world.start(&send, &VIDEO);
        world.produce(&mut video);
        let seen = world.subscribe(&bob.recv, Some(&video.id));
        world.connect(&send);
        world.end(send.end).up.settings = CLEAN;
        world.run(seconds(2));
        let stats = world.sink(&seen);
        assert_eq!(sum(&mut world, "no_keys"), 0, "seed {seed}");
        assert_eq!(stats.lost, 0, "seed {seed}: {stats:?}");
        assert!(stats.frames_decoded > 50, "seed {seed}: {stats:?}");
    }
}

/// A client that never finishes its handshake keeps nobody's media waiting, and little of its own.
#[test]
fn what_waits_for_keys_is_bounded() {
    let mut pair = Pair::new(World::seeded(481), &VIDEO, CLEAN);
    let world = &mut pair.world;
    let visitor = world.join("mallory", "room");
    let recv = world.transport(visitor, "recv", CLEAN);
    world.run(millis(1));
    let address = world.address(recv.end);
    let mut said = 0;
    while said < 3_000 {
        world.run(millis(1));
        // Never its Finished.
        world.end(recv.end).up.settings.loss = if said > 100 { 1.0 } else { 0.0 };
        for _ in 0..10 {
            said += 1;
            world.inject(address, [&[0x80, 96, 0, said as u8][..], &[0; 8], &[7; 300]].concat());
        }
    }
    world.run(seconds(1));
    assert!(sum(world, "no_keys") > 2_000);
    let stats = world.sink(&pair.seen);
    assert_eq!((stats.lost, stats.frames_dropped), (0, 0));
}

/// Transports come and go, each with the beginning of a handshake: an address has its share of the threads that do them.
#[test]
fn handshakes_are_counted_by_address() {
    handshakes_are_counted(490, DtlsRole::Client);
}

/// Whoever lets us begin costs as much.
#[test]
fn handshakes_in_which_we_are_the_client_are_counted_too() {
    handshakes_are_counted(491, DtlsRole::Server);
}

fn handshakes_are_counted(seed: u64, role: DtlsRole) {
    let mut world = World::seeded(seed);
    let gang: Vec<_> = (0..20).map(|number| world.join(&format!("mallory{number}"), "den")).collect();
    let mut begun = 0;
    while sum(&mut world, "handshake_quota") < 10 {
        let mut transports = Vec::new();
        for visitor in &gang {
            begun += 1;
            assert!(begun < 5 * HANDSHAKES_BURST as u16, "nothing is refused");
            let transport = world.transport_over(*visitor, "recv", [CLEAN; 2], role);
            world.move_end(transport.end, SocketAddr::from(([203, 0, 113, 66], 1_024 + begun)));
            transports.push(transport);
        }
        world.run(millis(250));
        for transport in transports {
            world.ask(transport.visitor, "close-transport", json!({ "transportId": transport.id }));
        }
    }
    assert!(begun > HANDSHAKES_BURST as u16);
    let alice = world.join("alice", "room");
    let send = world.transport(alice, "send", CLEAN);
    assert!(world.connect(&send) < millis(300), "others are not touched");
}

#[test]
fn an_overheard_check_from_elsewhere_costs_little_and_the_client_gets_its_media_back() {
    let mut world = World::seeded(495);
    world.overheard = Some(Vec::new());
    let mut pair = Pair::new(world, &VIDEO, CLEAN);
    let world = &mut pair.world;
    let victim = world.address(pair.bob.recv.end);
    let checks = world.overheard.take().unwrap_or_default();
    let before = world.astray_bytes;
    for (_, check) in checks.iter().filter(|(path, bytes)| path.remote == victim && classify(bytes) == Kind::Stun) {
        world.inject(VICTIM, check.clone());
    }
    world.run(seconds(10));
    assert!(world.astray_bytes - before <= 2 * UNPROVED_BYTES_MAX as u64);
    assert!(world.now().since(last_picture(world, &pair.seen)) < millis(100));
}
