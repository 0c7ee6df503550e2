//! Streams with layers and without, judged frame by frame by model decoders: whatever happens to links, consumers and
//! publishers, every stream must arrive decodable, in order and on time.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use weirgate::base::time::{Duration, Instant};
use weirgate::base::units::Bitrate;
use weirgate::sim::decoder::{FaultKind, Strictness};
use weirgate::sim::link::LinkSettings;
use weirgate::sim::payload::Encryption;
use weirgate::sim::scalability::Scalability;
use weirgate::sim::script::Media;
use weirgate::sim::visitor::{Publication, Subscription};
use weirgate::sim::world::World;
use weirgate::wire::codec::Codec;

use crate::shards::{Spread, spread, two};
use crate::support::{CLEAN, DELAY, Page, millis, seconds};

/// The promises of forwarding about picture ids and timestamps where one stream takes over from another.
pub(crate) const PROMISED: Strictness =
    Strictness { one_numbering: false, time_slack: Duration::from_millis(100), ..Strictness::FULL };

const RIDS: &[&str] = &["r0", "r1", "r2"];

pub(crate) fn layered(codec: Codec, scalability: Scalability) -> Media {
    Media { scalability, bitrate: Bitrate::mbps(1), ..Media::video(codec) }
}

pub(crate) fn simulcast(codec: Codec, scalability: Scalability) -> Media {
    Media { rids: RIDS, ramp: millis(700), ..layered(codec, scalability) }
}

/// Everything a browser may send that is forwarded as it comes.
fn all_media() -> Vec<Media> {
    use Codec::{Av1, H264, Vp8, Vp9};
    use Scalability::{L1T1, L1T3, L1T3Sparse, L3T3, L3T3Key};
    let single = [Vp8, Vp9, H264, Av1].map(|codec| layered(codec, L1T1));
    let temporal = [(Vp8, L1T3), (Vp8, L1T3Sparse), (Vp9, L1T3), (Av1, L1T3)].map(|(codec, mode)| layered(codec, mode));
    let spatial = [(Vp9, L3T3), (Vp9, L3T3Key)].map(|(codec, mode)| layered(codec, mode));
    let several = [(Vp8, L1T1), (H264, L1T1), (Vp8, L1T3)].map(|(codec, mode)| simulcast(codec, mode));
    let encrypted = [(Vp9, L1T1), (Vp9, L3T3Key), (Av1, L1T3)];
    let encrypted = encrypted.map(|(codec, mode)| Media { encryption: Encryption::Content, ..layered(codec, mode) });
    let screen = Media { frame_rate: 1, bitrate: Bitrate::kbps(300), ..simulcast(Vp8, L1T1) };
    let all = single.into_iter().chain(temporal).chain(spatial).chain(several).chain(encrypted);
    all.chain([screen]).collect()
}

fn name(media: &Media) -> String {
    let Media { codec, scalability, frame_rate, encryption, .. } = media;
    format!(
        "{codec:?} {scalability:?} of {} encodings at {frame_rate}/s, encryption: {encryption:?}",
        media.encodings()
    )
}

/// One publisher, and those who watch; each is judged from its first packet on.
pub(crate) struct Scene {
    pub(crate) world: World,
    alice: Page,
    pub(crate) video: Publication,
    pub(crate) seen: Vec<Subscription>,
    strictness: Strictness,
    what: String,
    complaints: Vec<String>,
    joined: usize,
}

impl Scene {
    /// With `apart` Alice and Bob are on two shards.
    pub(crate) fn new(seed: u64, media: &Media, apart: bool, strictness: Strictness) -> Scene {
        let (mut world, alice, bob) = if apart {
            let Spread { mut world, alice, bob, video, .. } = spread(two(seed, seed.is_multiple_of(2)), CLEAN);
            world.source(&video).set_paused(true);
            world.run(millis(100));
            (world, alice, bob)
        } else {
            let mut world = World::seeded(seed);
            let [alice, bob] = ["alice", "bob"].map(|user| Page::join(&mut world, user, CLEAN));
            (world, alice, bob)
        };
        let strictness = Strictness { encryption: media.encryption, ..strictness };
        let video = world.publish(&alice.send, media);
        let seen = world.subscribe(&bob.recv, Some(&video.id));
        world.judge(&seen, strictness);
        // A first packet that is lost is known to nobody, and cannot be asked for.
        world.run(millis(300));
        let what = format!("seed {seed}, {}, apart: {apart}", name(media));
        Scene { world, alice, video, seen: vec![seen], strictness, what, complaints: Vec::new(), joined: 0 }
    }

    pub(crate) fn join(&mut self, link: LinkSettings) {
        self.joined += 1;
        let guest = Page::join(&mut self.world, &format!("guest {}", self.joined), CLEAN);
        let seen = self.world.subscribe(&guest.recv, Some(&self.video.id));
        self.world.judge(&seen, self.strictness);
        self.world.run(millis(300));
        self.world.end(guest.recv.end).down.settings = link;
        self.seen.push(seen);
    }

    pub(crate) fn set_links(&mut self, mut link: impl FnMut() -> LinkSettings) {
        let ends: Vec<_> = self.seen.iter().map(|seen| seen.end).chain([self.alice.send.end]).collect();
        for end in ends {
            let end = self.world.end(end);
            (end.up.settings, end.down.settings) = (link(), link());
        }
    }

    /// No fault but of the kinds that the events can cause.
    pub(crate) fn check(&mut self, tolerated: &[FaultKind]) {
        for (at, seen) in self.seen.iter().enumerate() {
            let faults = self.world.decoder(seen).faults().iter().filter(|fault| !tolerated.contains(&fault.kind));
            let faults: Vec<_> = faults.take(3).collect();
            if !faults.is_empty() {
                self.complaints.push(format!("{}, receiver {at}: {faults:?}", self.what));
            }
        }
    }

    /// After `within`, everyone sees every picture.
    pub(crate) fn check_flow(&mut self, within: Duration) {
        let rate = u64::from(self.video.media.frame_rate);
        self.world.run(within);
        let from = self.world.now();
        self.world.run(seconds(2));
        for (at, seen) in self.seen.iter().enumerate() {
            let shown = self.world.decoder(seen).shown().iter().filter(|shown| shown.at >= from).count() as u64;
            if !(2 * rate - 1..=2 * rate + 1).contains(&shown) {
                let stats = self.world.sink(seen);
                self.complaints.push(format!("{}, receiver {at}: {shown} pictures, {stats:?}", self.what));
            }
        }
    }

    pub(crate) fn expect(&mut self, holds: bool, what: &str) {
        if !holds {
            self.complaints.push(format!("{}: {what}", self.what));
        }
    }

    /// The longest time in which receiver `at` was shown nothing new since `from`.
    pub(crate) fn longest_freeze(&self, at: usize, from: Instant) -> Duration {
        let decoder = self.world.decoder(&self.seen[at]);
        let freezes = decoder.freezes(Duration::ZERO).filter(|(start, _)| *start >= from);
        freezes.map(|(start, end)| end.since(start)).max().unwrap_or_default()
    }
}

pub(crate) fn bad_link(rng: &mut SmallRng) -> LinkSettings {
    LinkSettings {
        jitter: millis(rng.random_range(0..8)),
        loss: rng.random_range(0.0..0.08),
        duplication: rng.random_range(0.0..0.03),
        reordering: rng.random_range(0.0..0.05),
        ..LinkSettings::clean(millis(rng.random_range(3..50)))
    }
}

/// The events in the call between two stretches of it.
#[derive(Clone, Copy, Debug)]
enum Action {
    PauseConsumer,
    PauseProducer,
    ReplaceSource,
    Jump(u16),
    ToggleEncoding(usize),
    SpatialLayers(u8),
    AskKeyFrame,
    RestartIce,
    Join,
}

impl Action {
    fn draw(rng: &mut SmallRng) -> Action {
        match rng.random_range(0..9) {
            0 => Action::PauseConsumer,
            1 => Action::PauseProducer,
            2 => Action::ReplaceSource,
            3 => Action::Jump(rng.random_range(3_500..20_000)),
            4 | 5 => Action::ToggleEncoding(rng.random_range(0..3)),
            6 => Action::SpatialLayers(rng.random_range(1..4)),
            7 => {
                if rng.random() {
                    Action::AskKeyFrame
                } else {
                    Action::RestartIce
                }
            }
            _ => Action::Join,
        }
    }
}

/// A call to which all sorts of things happen.
pub(crate) struct Chaos {
    pub(crate) scene: Scene,
    rng: SmallRng,
    consumer_paused: bool,
    producer_paused: bool,
    /// Encodings that are switched off.
    off: [bool; 3],
}

impl Chaos {
    pub(crate) fn new(seed: u64, media: &Media, apart: bool, strictness: Strictness) -> Chaos {
        let rng = SmallRng::seed_from_u64(seed * 7_919);
        let scene = Scene::new(seed, media, apart, strictness);
        Chaos { scene, rng, consumer_paused: false, producer_paused: false, off: [false; 3] }
    }

    fn act(&mut self, action: Action) {
        let Scene { world, alice, video, seen, .. } = &mut self.scene;
        println!("{:?}: {action:?}", world.now());
        match action {
            Action::PauseConsumer => {
                self.consumer_paused = !self.consumer_paused;
                let kind = if self.consumer_paused { "pause-consumer" } else { "resume-consumer" };
                world.ask(seen[0].visitor, kind, json!({ "consumerId": seen[0].id }));
            }
            Action::PauseProducer => {
                self.producer_paused = !self.producer_paused;
                let kind = if self.producer_paused { "pause-producer" } else { "resume-producer" };
                world.ask(alice.visitor, kind, json!({ "producerId": video.id }));
            }
            Action::ReplaceSource => {
                world.replace_source(video);
                self.off = [false; 3];
            }
            Action::Jump(by) => (0..video.sources.len()).for_each(|at| world.encoding(video, at).jump(by)),
            Action::ToggleEncoding(at) if at < video.sources.len() => {
                self.off[at] = !self.off[at];
                let alive = self.off[..video.sources.len()].contains(&false);
                self.off[at] &= alive;
                world.encoding(video, at).set_active(!self.off[at]);
            }
            Action::SpatialLayers(count) => world.source(video).set_spatial_layers(count),
            Action::AskKeyFrame => {
                world.ask(seen[0].visitor, "request-key-frame", json!({ "consumerId": seen[0].id }));
            }
            Action::RestartIce => world.restart_ice(&alice.send),
            Action::Join if seen.len() < 3 && !self.producer_paused => self.scene.join(CLEAN),
            Action::ToggleEncoding(_) | Action::Join => {}
        }
    }

    /// Everything is on again, and the links are good.
    pub(crate) fn settle(&mut self) {
        let Scene { world, alice, video, seen, .. } = &mut self.scene;
        world.ask(seen[0].visitor, "resume-consumer", json!({ "consumerId": seen[0].id }));
        world.ask(alice.visitor, "resume-producer", json!({ "producerId": video.id }));
        (0..video.sources.len()).for_each(|at| world.encoding(video, at).set_active(true));
        world.source(video).set_spatial_layers(u8::MAX);
        self.scene.set_links(|| CLEAN);
    }

    /// So many things happen, one after the other.
    pub(crate) fn stretch(&mut self, actions: usize) {
        for _ in 0..actions {
            self.scene.world.run(millis(self.rng.random_range(150..900)));
            let action = Action::draw(&mut self.rng);
            self.act(action);
        }
    }
}

/// Runs all, and reports all faults.
pub(crate) fn for_all(cases: impl Iterator<Item = (u64, Media)>, run: impl Fn(u64, &Media) -> Scene) {
    let mut count = 0;
    let complaints = cases.flat_map(|(seed, media)| {
        count += 1;
        run(seed, &media).complaints
    });
    let complaints: Vec<_> = complaints.collect();
    assert!(complaints.is_empty(), "{} complaints in {count} runs:\n{}", complaints.len(), complaints.join("\n"));
}

/// Every kind of stream in turn.
fn seeds(first: u64, count: usize) -> impl Iterator<Item = (u64, Media)> {
    (first..).zip(all_media().into_iter().cycle()).take(count)
}

#[test]
fn clean_links_bring_every_picture_of_every_kind() {
    for apart in [false, true] {
        for_all(seeds(500, all_media().len()), |seed, media| {
            let mut scene = Scene::new(seed, media, apart, PROMISED);
            scene.join(CLEAN);
            scene.check_flow(seconds(5));
            scene.check(&[]);
            let longest = Duration::from_secs(1) / media.frame_rate + millis(70);
            let froze = scene.longest_freeze(0, Instant::ZERO);
            scene.expect(froze <= longest, &format!("a freeze of {froze:?}"));
            let switches = scene.world.decoder(&scene.seen[0]).switches().count();
            scene.expect(switches < media.encodings(), &format!("{switches} switches"));
            scene
        });
    }
}

/// The faults that loss alone may cause. Encodings are joined by their arrival: a late repair of a keyframe to move up
/// with is shown late, and a picture of the encoding before, whose last packets had not come, has none of them.
fn by_network(media: &Media) -> &'static [FaultKind] {
    if media.encodings() > 1 { &[FaultKind::Truncated, FaultKind::OffTime, FaultKind::StepBack] } else { &[] }
}

#[test]
fn bad_links_cost_no_frame_of_any_kind() {
    for_all(seeds(600, 32), |seed, media| {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut scene = Scene::new(seed, media, seed.is_multiple_of(3), PROMISED);
        scene.set_links(|| bad_link(&mut rng));
        scene.world.run(seconds(6));
        scene.join(LinkSettings::lossy(DELAY, 0.03));
        scene.world.run(seconds(2));
        scene.set_links(|| CLEAN);
        scene.check_flow(seconds(3));
        scene.check(by_network(media));
        scene
    });
}

#[test]
fn whatever_happens_on_good_links_nothing_is_missing() {
    for_all(seeds(700, 32), |seed, media| {
        let mut chaos = Chaos::new(seed, media, seed.is_multiple_of(3), PROMISED);
        chaos.stretch(14);
        chaos.settle();
        chaos.scene.check_flow(seconds(5));
        chaos.scene.check(&[]);
        chaos.scene
    });
}

#[test]
fn whatever_happens_on_bad_links_only_the_network_loses() {
    for_all(seeds(800, 32), |seed, media| {
        let mut chaos = Chaos::new(seed, media, seed.is_multiple_of(3), PROMISED);
        let mut rng = SmallRng::seed_from_u64(seed);
        chaos.scene.set_links(|| bad_link(&mut rng));
        chaos.stretch(14);
        chaos.settle();
        chaos.scene.check_flow(seconds(5));
        // Packets that were missing when a publisher starts over, or somebody pauses, are not repaired any more.
        chaos.scene.check(&[by_network(media), &[FaultKind::Gap, FaultKind::Truncated]].concat());
        chaos.scene
    });
}
