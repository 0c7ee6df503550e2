//! Programs that speak plain RTP beside pages that speak WebRTC: media both ways over links that lose, with and without
//! SRTP, the source that is learned, and strangers at its address.

use std::net::SocketAddr;

use rand::Rng;
use weirgate::base::buffer::LocalIndex;
use weirgate::base::id::TransportId;
use weirgate::secure::srtp::SrtpProfile;
use weirgate::shard::command::{Command, PlainRtpSpec, TransportState};
use weirgate::sim::link::LinkSettings;
use weirgate::sim::plain_rtp::{ProgramSettings, RtpProgram};
use weirgate::sim::script::Media;
use weirgate::sim::visitor::metric;
use weirgate::sim::world::{World, WorldSettings};

use crate::support::{AUDIO, CLEAN, DELAY, Page, VIDEO, millis, seconds};

const PLAIN: ProgramSettings = ProgramSettings { address: true, keys: None };
const KEYED: ProgramSettings = ProgramSettings { address: false, keys: Some(SrtpProfile::AeadAes128Gcm) };
/// Of what a program sends, and of what it and a page are sent.
const SENT: u32 = 5_000;
const TO_PAGE: u32 = 7_000;
const TO_PROGRAM: u32 = 9_000;
const STRANGER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 66)), 6_666);

/// What came of one stream: pictures, packets that never came, repaired ones.
#[derive(Debug)]
struct Seen {
    frames: u64,
    lost: u64,
    repaired: u64,
}

/// A program and a page, each of which sends pictures to the other.
struct Exchange {
    world: World,
    program: RtpProgram,
    page: Page,
    at_program: usize,
    at_page: usize,
}

impl Exchange {
    fn new(settings: WorldSettings, told: ProgramSettings, link: LinkSettings) -> Exchange {
        Exchange::of(&VIDEO, settings, told, link)
    }

    fn of(media: &Media, settings: WorldSettings, told: ProgramSettings, link: LinkSettings) -> Exchange {
        let mut world = World::new(settings);
        let shards = world.shards();
        let page = Page::join(&mut world, "alice", link);
        world.publish(&page.send, media);
        // The other shard, where there is one: its media is relayed.
        let program = world.program(shards - 1, told, link);
        let (theirs, published) = (world.newest_producer(), world.program_publishes(&program, media, SENT));
        let at_program = world.program_subscribes(&program, theirs, media, TO_PROGRAM);
        let at_page = world.newest_subscribes(&page.recv, published, media, TO_PAGE);
        Exchange { world, program, page, at_program, at_page }
    }

    /// At the program, and at the page.
    fn seen(&mut self) -> [Seen; 2] {
        [(self.program.end, self.at_program), (self.page.recv.end, self.at_page)].map(|(end, sink)| {
            let stats = self.world.end(end).browser.sinks[sink].stats();
            Seen { frames: stats.frames_decoded, lost: stats.lost, repaired: stats.repaired }
        })
    }

    fn drops(&mut self, reason: &str) -> i64 {
        metric(&self.world.metrics(self.program.shard.0), reason)
    }
}

fn settings(seed: u64, shards: u16, steered: bool) -> WorldSettings {
    WorldSettings { shards, steered, ..WorldSettings::seeded(seed) }
}

#[test]
fn pictures_go_both_ways_and_what_is_lost_is_repaired() {
    let keyed = |keys| ProgramSettings { address: true, keys: Some(keys) };
    let told = [PLAIN, KEYED, keyed(SrtpProfile::Aes128CmSha1_80), keyed(SrtpProfile::AeadAes256Gcm)];
    for (seed, (told, (shards, steered))) in
        (900..).zip(told.into_iter().flat_map(|told| [(1, true), (2, true), (2, false)].map(|world| (told, world))))
    {
        let mut call = Exchange::new(settings(seed, shards, steered), told, LinkSettings::lossy(DELAY, 0.02));
        call.world.run(seconds(10));
        for seen in call.seen() {
            assert!((285..=301).contains(&seen.frames) && seen.repaired > 2, "{told:?} {shards} {steered}: {seen:?}");
            assert!(seen.lost < 5, "{told:?} {shards} {steered}: {seen:?}");
        }
        let program = call.world.end(call.program.end);
        let feedback = program.browser.feedback();
        assert!(feedback.sender_reports >= 8 && feedback.receiver_reports >= 8, "{feedback:?}");
        assert_eq!((program.browser.stray(), program.browser.endpoint.stats().refused), (0, 0));
        assert_eq!(call.drops("faults"), 0);
    }
}

#[test]
fn a_picture_beyond_repair_is_asked_for_anew_in_both_directions() {
    let media = Media { repair: false, ..VIDEO };
    let mut call = Exchange::of(&media, settings(915, 1, true), PLAIN, LinkSettings::lossy(DELAY, 0.02));
    call.world.run(seconds(10));
    for (sends, (sees, sink)) in [
        (call.page.send.end, (call.program.end, call.at_program)),
        (call.program.end, (call.page.recv.end, call.at_page)),
    ] {
        let asked = call.world.end(sees).browser.sinks[sink].stats().plis;
        let heard = call.world.end(sends).browser.sources[0].stats();
        assert!(asked > 0 && heard.key_frames_requested > 0 && heard.key_frames > 1, "{asked} {heard:?}");
    }
}

#[test]
fn audio_needs_no_repair_to_go_both_ways() {
    let mut world = World::seeded(920);
    let page = Page::join(&mut world, "alice", CLEAN);
    world.publish(&page.send, &AUDIO);
    let program = world.program(0, PLAIN, CLEAN);
    let (theirs, ours) = (world.newest_producer(), world.program_publishes(&program, &AUDIO, SENT));
    let heard = world.program_subscribes(&program, theirs, &AUDIO, TO_PROGRAM);
    let at_page = world.newest_subscribes(&page.recv, ours, &AUDIO, TO_PAGE);
    world.run(seconds(5));
    for (end, sink) in [(program.end, heard), (page.recv.end, at_page)] {
        let stats = world.end(end).browser.sinks[sink].stats();
        assert!((240..=252).contains(&stats.frames_decoded) && stats.lost == 0, "{stats:?}");
    }
}

#[test]
fn its_traffic_is_counted_and_it_has_neither_ice_nor_dtls() {
    let mut call = Exchange::new(settings(930, 1, true), PLAIN, CLEAN);
    call.world.run(seconds(5));
    let stats = call.world.program_stats(&call.program).expect("it is there");
    assert_eq!((stats.state, stats.ice_state, stats.dtls_state), (TransportState::Connected, None, None));
    assert_eq!((stats.nominated, stats.srtp_profile), (false, None));
    let path = stats.path.expect("it was told");
    assert_eq!((path.leg.local(), path.remote), (call.program.local, call.world.address(call.program.end)));
    let counted = call.world.end(call.program.end).browser.endpoint.stats();
    // Some are under way.
    let about = |count: u64, of: u64| (of - 30..=of + 30).contains(&count);
    assert!(about(stats.packets_received, counted.datagrams_sent), "{stats:?} {counted:?}");
    assert!(about(stats.packets_sent, counted.datagrams_received), "{stats:?} {counted:?}");
    assert!(stats.recv_bitrate > 600_000 && stats.send_bitrate > 600_000, "{stats:?}");
}

#[test]
fn a_stranger_at_its_address_is_not_heard() {
    for (seed, told) in [(940, PLAIN), (941, ProgramSettings { address: false, keys: None }), (942, KEYED)] {
        let mut call = Exchange::new(settings(seed, 1, true), told, CLEAN);
        call.world.overheard = Some(Vec::new());
        call.world.run(seconds(2));
        let recorded = call.world.overheard.take().expect("somebody listened");
        let ours = call.world.address(call.program.end);
        let replayed: Vec<_> = recorded.into_iter().filter(|(path, _)| path.remote == ours).collect();
        let (count, [before, _]) = (replayed.len() as i64, call.seen());
        assert!(count > 100);
        let reached = call.world.astray_bytes;
        for (_, bytes) in replayed {
            call.world.inject_for(&call.program, STRANGER, bytes);
        }
        call.world.run(seconds(2));
        assert_eq!(call.drops("plain_source"), count, "{told:?}");
        assert_eq!(call.world.astray_bytes, reached, "{told:?}: nothing goes to the stranger");
        let [after, _] = call.seen();
        assert!(after.frames >= before.frames + 55, "{told:?}: {after:?}");
        let stats = call.world.program_stats(&call.program).expect("it is there");
        assert_eq!(stats.path.map(|path| path.remote), Some(ours), "{told:?}");
    }
}

/// Datagrams for an address whose source is awaited.
fn noise(call: &mut Exchange) -> Vec<Vec<u8>> {
    let rtp = |ssrc: u32| {
        let mut packet = vec![0x80, 96, 0, 1, 0, 0, 0, 0];
        packet.extend(ssrc.to_be_bytes());
        packet.extend([0x55; 40]);
        packet
    };
    let compound = [&[0x80, 201, 0, 1][..], &[0, 0, 0, 9]].concat();
    let mut noise =
        vec![rtp(SENT + 7), rtp(TO_PROGRAM), compound, vec![0x80], vec![0xbf; 1_200], vec![0x80, 200, 0, 0]];
    noise.extend((0..500u32).map(|round| {
        let rng = call.world.rng();
        let mut bytes: Vec<u8> = (0..round % 90 + 1).map(|_| rng.random()).collect();
        bytes[0] = 0x80 | bytes[0] & 0x3f;
        bytes
    }));
    noise
}

#[test]
fn nobody_but_its_source_becomes_the_one_that_is_awaited() {
    for (seed, told) in [(950, ProgramSettings { address: false, keys: None }), (951, KEYED)] {
        let mut call = Exchange::new(settings(seed, 1, true), told, CLEAN);
        // The command, and not yet the first packet.
        call.world.run(DELAY / 2);
        let noise = noise(&mut call);
        let count = noise.len() as i64;
        for bytes in noise {
            call.world.inject_for(&call.program, STRANGER, bytes);
        }
        call.world.run(DELAY / 4);
        let stats = call.world.program_stats(&call.program).expect("it is there");
        assert_eq!((stats.state, stats.path, stats.packets_received), (TransportState::New, None, 0), "{told:?}");
        let reasons = [
            "unknown_protocol",
            "plain_source",
            "srtp_too_short",
            "srtp_bad_tag",
            "srtcp_unencrypted",
            "malformed_rtp",
        ];
        let dropped: Vec<_> = reasons.iter().map(|reason| call.drops(reason)).collect();
        assert_eq!(dropped.iter().sum::<i64>(), count, "{told:?}: {dropped:?}");
        call.world.run(seconds(3));
        assert_eq!(call.world.astray_bytes, 0, "{told:?}");
        for seen in call.seen() {
            assert!(seen.frames > 80, "{told:?}: {seen:?}");
        }
    }
}

/// In the clear anybody may write what its source writes, down to the address.
#[test]
fn noise_in_its_source_s_name_harms_nobody_else() {
    let mut call = Exchange::new(settings(955, 1, true), PLAIN, CLEAN);
    call.world.overheard = Some(Vec::new());
    call.world.run(seconds(2));
    let recorded = call.world.overheard.take().expect("somebody listened");
    let ours = call.world.address(call.program.end);
    let mut forged: Vec<Vec<u8>> =
        recorded.into_iter().filter(|(path, _)| path.remote == ours).map(|(_, bytes)| bytes).collect();
    for bytes in &mut forged {
        for _ in 0..3 {
            let at = call.world.rng().random_range(0..bytes.len().min(40));
            bytes[at] = call.world.rng().random();
        }
    }
    forged.extend(noise(&mut call));
    let [before, _] = call.seen();
    for (round, bytes) in forged.into_iter().cycle().take(5_000).enumerate() {
        call.world.inject_for(&call.program, ours, bytes);
        if round % 10 == 0 {
            call.world.run(millis(2));
        }
    }
    call.world.run(seconds(1));
    let [after, _] = call.seen();
    assert!(after.frames >= before.frames + 55 && after.lost == 0, "{before:?} {after:?}");
    assert!(call.drops("malformed_rtp") + call.drops("malformed_rtcp") + call.drops("unknown_ssrc") > 100);
    assert_eq!(call.drops("faults"), 0);
}

#[test]
fn a_check_or_a_handshake_at_its_address_finds_nobody() {
    let mut call = Exchange::new(settings(960, 1, true), PLAIN, CLEAN);
    call.world.overheard = Some(Vec::new());
    // A page's own checks and hello: right in all but where they arrive.
    let page = Page::join(&mut call.world, "mallory", CLEAN);
    let recorded = call.world.overheard.take().expect("somebody listened");
    let theirs = [page.send.end, page.recv.end].map(|end| call.world.address(end));
    let mut setting_up: Vec<_> = recorded.into_iter().filter(|(path, _)| theirs.contains(&path.remote)).collect();
    setting_up.truncate(4);
    let (ours, count) = (call.world.address(call.program.end), setting_up.len() as i64);
    let before = call.drops("unknown_protocol") + call.drops("plain_source");
    for (path, bytes) in setting_up {
        for from in [path.remote, ours] {
            call.world.inject_for(&call.program, from, bytes.clone());
        }
    }
    call.world.run(seconds(2));
    assert_eq!(call.drops("unknown_protocol") + call.drops("plain_source") - before, 2 * count);
    let stats = call.world.program_stats(&call.program).expect("it is there");
    assert_eq!(stats.path.map(|path| path.remote), Some(ours));
    assert!(call.seen().iter().all(|seen| seen.frames > 50));
}

#[test]
fn it_ends_with_all_that_is_on_it_and_leaves_its_address_to_the_next() {
    let mut call = Exchange::new(settings(970, 1, true), PLAIN, CLEAN);
    call.world.run(seconds(2));
    let (transport, shard) = (call.program.transport, call.program.shard.0);
    let gauge = |call: &mut Exchange, name| metric(&call.world.metrics(shard), name);
    let before = ["transports", "producers", "consumers", "paths"].map(|name| gauge(&mut call, name));
    call.world.command(shard, Command::CloseTransport { transport });
    call.world.run(seconds(1));
    let after = ["transports", "producers", "consumers", "paths"].map(|name| gauge(&mut call, name));
    // Its producer had a consumer at the page, and it had one of the page's.
    assert_eq!(before.map(|count| count - 1), [after[0], after[1], after[2] + 1, after[3]]);
    assert_eq!(call.world.program_stats(&call.program), None);
    let sent = call.world.end(call.program.end).browser.endpoint.stats().datagrams_received;
    call.world.run(seconds(1));
    assert!(call.drops("unknown_path") > 50, "it goes on sending");
    assert_eq!(
        call.world.end(call.program.end).browser.endpoint.stats().datagrams_received,
        sent,
        "and is sent nothing"
    );
    order_next(&mut call);
    call.world.run(seconds(1));
    let next = RtpProgram { transport: NEXT, ..call.program };
    assert_eq!(call.world.program_stats(&next).map(|stats| stats.state), Some(TransportState::Connected));
}

const NEXT: TransportId = TransportId(1 << 61);

/// Another transport at the program's address, and one at the address of the pages.
fn order_next(call: &mut Exchange) {
    let (shard, peer) = (call.program.shard.0, call.program.peer);
    for (transport, local) in [(NEXT, call.program.local), (TransportId(NEXT.0 + 1), LocalIndex(0))] {
        let remote = Some(call.world.address(call.program.end));
        let plain = Box::new(PlainRtpSpec { local, remote, srtp: None });
        call.world.command(shard, Command::CreatePlainTransport { transport, peer, plain });
    }
}

#[test]
fn no_two_transports_share_an_address() {
    let mut call = Exchange::new(settings(980, 1, true), PLAIN, CLEAN);
    call.world.run(seconds(1));
    let count = metric(&call.world.metrics(0), "transports");
    order_next(&mut call);
    call.world.run(seconds(1));
    assert_eq!(metric(&call.world.metrics(0), "transports"), count);
    assert!(call.seen().iter().all(|seen| seen.frames > 50), "the one that was there goes on");
}
