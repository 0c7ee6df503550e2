//! Calls that go well, and calls over bad links.

use weirgate::base::time::Duration;
use weirgate::base::units::Bitrate;
use weirgate::sim::link::LinkSettings;
use weirgate::sim::script::Media;
use weirgate::sim::visitor::metric;
use weirgate::sim::world::World;
use weirgate::wire::codec::Codec;

use crate::support::{AUDIO, CLEAN, DELAY, Page, Pair, VIDEO, millis, seconds};

#[test]
fn two_people_see_and_hear_each_other() {
    for codec in [Codec::Vp8, Codec::Vp9, Codec::H264, Codec::Av1] {
        let mut world = World::seeded(1);
        let pages = ["alice", "bob"].map(|user| Page::join(&mut world, user, CLEAN));
        for page in &pages {
            world.publish(&page.send, &AUDIO);
            world.publish(&page.send, &Media::video(codec));
        }
        let subscriptions = [0, 0, 1, 1].map(|page: usize| world.subscribe(&pages[page].recv, None));
        world.run(seconds(5));
        for (at, subscription) in subscriptions.iter().enumerate() {
            let stats = world.sink(subscription);
            let wanted = if at % 2 == 0 { 240..=252 } else { 145..=151 };
            assert!(wanted.contains(&stats.frames_decoded), "{codec:?} {at}: {stats:?}");
            let clean = (stats.lost, stats.duplicates, stats.foreign, stats.nacked, stats.frames_dropped, stats.plis);
            assert_eq!(clean, (0, 0, 0, 0, 0, 0), "{codec:?} {at}: {stats:?}");
            // Both ways and one round of the shard.
            let delays = world.end(subscription.end).browser.sinks[subscription.sink].delays_us();
            assert!(
                delays.iter().all(|delay| (40_000..=41_100).contains(delay)),
                "{codec:?} {at}: {:?}",
                delays.iter().max()
            );
        }
        for page in &pages {
            let feedback = world.end(page.send.end).browser.feedback();
            assert!(feedback.transport_feedbacks > 20 && feedback.receiver_reports >= 6, "{feedback:?}");
            assert_eq!(feedback.last_fraction_lost, 0);
            assert!(world.end(page.recv.end).browser.feedback().sender_reports >= 6);
            assert_eq!(world.end(page.recv.end).browser.stray(), 0);
        }
        assert_eq!(world.astray, 0);
    }
}

#[test]
fn audio_alone_is_reported_on_less_often_until_there_is_a_picture_to_keep_in_step_with() {
    let mut world = World::seeded(8);
    let pages = ["alice", "bob"].map(|user| Page::join(&mut world, user, CLEAN));
    world.publish(&pages[0].send, &AUDIO);
    world.subscribe(&pages[1].recv, None);
    let reports = |world: &mut World, span| {
        let before = world.end(pages[1].recv.end).browser.feedback().sender_reports;
        world.run(span);
        world.end(pages[1].recv.end).browser.feedback().sender_reports - before
    };
    assert_eq!(reports(&mut world, seconds(1)), 1, "the first comes soon");
    let later = reports(&mut world, seconds(20));
    assert!((3..=5).contains(&later), "{later} in 20 s");
    world.publish(&pages[0].send, &VIDEO);
    world.subscribe(&pages[1].recv, None);
    assert_eq!(reports(&mut world, millis(500)), 2, "of both at once");
    let both = reports(&mut world, seconds(10));
    assert!((16..=24).contains(&both), "{both} in 10 s");
}

#[test]
fn four_people_in_one_channel() {
    let mut world = World::seeded(2);
    let pages: Vec<_> = (0..4).map(|n| Page::join(&mut world, &format!("user {n}"), CLEAN)).collect();
    for page in &pages {
        world.publish(&page.send, &AUDIO);
        world.publish(&page.send, &VIDEO);
    }
    let mut subscriptions = Vec::new();
    for page in &pages {
        subscriptions.extend((0..6).map(|_| world.subscribe(&page.recv, None)));
    }
    world.run(seconds(3));
    for subscription in &subscriptions {
        let stats = world.sink(subscription);
        assert!(stats.frames_decoded >= 85 && stats.lost + stats.frames_dropped + stats.duplicates == 0, "{stats:?}");
    }
    let metrics = world.metrics(0);
    assert_eq!(metric(&metrics, "consumers"), 24);
    assert!(metrics.drops.iter().all(|(_, count)| *count == 0), "{:?}", metrics.drops);
}

#[test]
fn loss_is_repaired_both_ways() {
    let lossy = LinkSettings::lossy(DELAY, 0.05);
    for codec in [Codec::Vp8, Codec::H264] {
        let mut pair = Pair::new(World::seeded(3), &Media::video(codec), lossy);
        pair.world.run(seconds(20));
        // Packets under way are given time, and nothing new is added.
        pair.world.source(&pair.video).set_paused(true);
        pair.world.run(seconds(2));
        let sent = pair.world.source(&pair.video).stats();
        let stats = pair.world.sink(&pair.seen);
        assert!(stats.repaired > 80 && sent.retransmitted > 80, "{stats:?} {sent:?}");
        assert_eq!((stats.lost, stats.frames_dropped), (0, 0), "{stats:?}");
        assert!(sent.frames - stats.frames_decoded <= 15, "all but the start: {sent:?} {stats:?}");
        // A gap costs two round trips at most twice in a row.
        assert!(stats.longest_freeze <= millis(450), "{stats:?}");
        let upstream = pair.world.end(pair.alice.send.end).up.stats();
        assert!(upstream.lost > 50, "{upstream:?}");
    }
}

#[test]
fn numbers_wrap_under_loss() {
    let media = Media { frame_rate: 1_000, bitrate: Bitrate::mbps(1), ..VIDEO };
    let mut pair = Pair::new(World::seeded(9), &media, LinkSettings::lossy(DELAY, 0.01));
    pair.world.run(seconds(66));
    pair.world.source(&pair.video).set_paused(true);
    pair.world.run(seconds(2));
    let (stats, sent) = (pair.world.sink(&pair.seen), pair.world.source(&pair.video).stats());
    assert!(sent.packets > 1 << 16 && stats.frames_decoded + 50 > sent.frames, "{stats:?} {sent:?}");
    assert_eq!((stats.lost, stats.frames_dropped), (0, 0), "{stats:?}");
}

#[test]
fn a_narrow_link_only_delays() {
    let narrow = LinkSettings { rate: Some(Bitrate::kbps(1_500)), ..CLEAN };
    let mut pair = Pair::new(World::seeded(8), &VIDEO, narrow);
    pair.world.run(seconds(5));
    let stats = pair.world.sink(&pair.seen);
    assert!(stats.frames_decoded > 170 && stats.lost + stats.frames_dropped == 0, "{stats:?}");
    // Packets that come one by one leave one by one: nobody waits for the end of a frame.
    let delays = pair.world.end(pair.bob.recv.end).browser.sinks[pair.seen.sink].delays_us();
    assert!(delays.iter().max().is_some_and(|delay| (60_000..130_000).contains(delay)), "{:?}", delays.iter().max());
}

#[test]
fn reordering_and_duplicates_are_no_loss() {
    let mixed = LinkSettings { jitter: millis(4), reordering: 0.03, duplication: 0.03, ..LinkSettings::clean(DELAY) };
    let mut pair = Pair::new(World::seeded(4), &VIDEO, mixed);
    pair.world.run(seconds(10));
    let stats = pair.world.sink(&pair.seen);
    assert!(stats.frames_decoded > 310 && stats.lost + stats.frames_dropped == 0, "{stats:?}");
    assert!(metric(&pair.world.metrics(0), "duplicate_rtp") > 10);
}

#[test]
fn media_that_comes_before_produce_is_not_lost() {
    let mut world = World::seeded(5);
    let alice = Page::join(&mut world, "alice", CLEAN);
    let bob = Page::join(&mut world, "bob", CLEAN);
    let mut video = world.start(&alice.send, &VIDEO);
    world.run(millis(250));
    world.produce(&mut video);
    let seen = world.subscribe(&bob.recv, Some(&video.id));
    world.run(seconds(2));
    let stats = world.sink(&seen);
    assert!(stats.first_decoded_at.is_some() && stats.frames_decoded > 50 && stats.lost == 0, "{stats:?}");
}

#[test]
fn a_hundred_joins_and_leaves_leave_nothing_behind() {
    let mut world = World::seeded(6);
    let host = Page::join(&mut world, "host", CLEAN);
    let video = world.publish(&host.send, &Media { frame_rate: 10, ..VIDEO });
    for n in 0..100 {
        let guest = Page::join(&mut world, &format!("guest {n}"), CLEAN);
        let own = world.publish(&guest.send, &AUDIO);
        let seen = world.subscribe(&guest.recv, Some(&video.id));
        let heard = world.subscribe(&host.recv, Some(&own.id));
        world.run(millis(450));
        assert!(world.sink(&seen).frames_decoded > 0 && world.sink(&heard).frames_decoded > 0, "guest {n}");
        guest.leave(&mut world);
    }
    host.leave(&mut world);
    world.run(millis(10));
    let metrics = world.metrics(0);
    let left: Vec<_> = metrics.gauges.iter().filter(|(_, _, value)| *value != 0).collect();
    assert!(left.is_empty(), "{left:?}");
    let counts = world.hub_counts();
    let held = (counts.channels, counts.peers, counts.transports, counts.producers, counts.consumers);
    assert_eq!(held, (0, 0, 0, 0, 0));
    assert!(counts.expected_load.iter().all(|(_, load)| *load == 0), "{counts:?}");
    assert_eq!(metric(&metrics, "dtls_handshakes"), 202);
}

#[test]
fn the_same_seed_gives_the_same_datagrams() {
    let run = |seed| {
        let bad = LinkSettings {
            jitter: millis(6),
            loss: 0.03,
            reordering: 0.02,
            duplication: 0.01,
            ..LinkSettings::clean(Duration::from_millis(15))
        };
        let mut world = World::seeded(seed);
        let pages: Vec<_> = (0..3).map(|n| Page::join(&mut world, &format!("user {n}"), bad)).collect();
        for page in &pages {
            world.publish(&page.send, &AUDIO);
            world.publish(&page.send, &VIDEO);
        }
        for page in &pages {
            for _ in 0..4 {
                world.subscribe(&page.recv, None);
            }
        }
        world.run(seconds(2));
        pages[1].leave(&mut world);
        world.run(seconds(1));
        world.trace()
    };
    let first = run(7);
    assert_eq!(first, run(7));
    assert_ne!(first, run(8));
}
