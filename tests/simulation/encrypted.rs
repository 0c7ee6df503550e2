//! Streams that are encrypted end to end: with their keyframes hidden, or their whole payloads. Pictures pass, start
//! when they can, and encrypted bytes arrive untouched.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use weirgate::base::time::{Duration, Instant};
use weirgate::sim::decoder::{FaultKind, Strictness};
use weirgate::sim::payload::Encryption;
use weirgate::sim::scalability::Scalability;
use weirgate::sim::script::Media;
use weirgate::wire::codec::Codec;

use crate::layers::{Chaos, PROMISED, Scene, bad_link, for_all, layered, simulcast};
use crate::preferred::prefer;
use crate::support::{CLEAN, millis, seconds};

/// From the subscription to the first picture, where keyframes are known to be hidden: up to the publisher and back, if
/// it has just been asked half a second later.
const KNOWN: Duration = Duration::from_millis(800);
/// And where that must be found out first.
const FOUND_OUT: Duration = Duration::from_millis(1_500);

/// Keyframes that cannot be told from other frames.
fn hidden() -> Vec<Media> {
    use Codec::{Av1, H264, Vp8, Vp9};
    use Encryption::{Content, Payload};
    use Scalability::{L1T1, L1T3, L3T3};
    let single = [(Vp8, L1T1, Content), (H264, L1T1, Content), (Av1, L1T1, Content), (Vp8, L1T3, Content)];
    let whole = [(Vp8, L1T1, Payload), (Vp8, L1T3, Payload), (Vp9, L1T1, Payload), (Vp9, L3T3, Payload)];
    let several = [(Vp8, Content), (H264, Content), (Vp8, Payload), (Vp9, Payload)];
    let one = single.into_iter().chain(whole);
    let one = one.map(|(codec, mode, encryption)| Media { encryption, ..layered(codec, mode) });
    let several = several.map(|(codec, encryption)| Media { encryption, ..simulcast(codec, L1T1) });
    one.chain(several).collect()
}

fn seeds(first: u64, count: usize) -> impl Iterator<Item = (u64, Media)> {
    (first..).zip(hidden().into_iter().cycle()).take(count)
}

/// The price of starting, or of going over to another encoding, at any frame, until the next keyframe; and of noise in
/// the place of layers, until it is recognised.
fn by_start(media: &Media) -> Vec<FaultKind> {
    let layers = media.scalability != Scalability::L1T1 || media.encodings() > 1;
    let noise: &[FaultKind] = if media.encryption == Encryption::Payload && layers {
        &[FaultKind::Unreadable, FaultKind::Cut, FaultKind::Mixed, FaultKind::WrongEnd]
    } else {
        &[]
    };
    [&[FaultKind::BadStart, FaultKind::MissingReference, FaultKind::UpWithoutSync], noise].concat()
}

/// Where a plain stream starts over it does so with its own picture ids, and not at a keyframe.
const BY_RESTART: &[FaultKind] =
    &[FaultKind::Truncated, FaultKind::Cut, FaultKind::NumberGap, FaultKind::NumberBack, FaultKind::Tl0];
/// The network's part of it: a start whose first packet is repaired too late.
const BY_NETWORK: &[FaultKind] =
    &[FaultKind::Gap, FaultKind::Cut, FaultKind::OffTime, FaultKind::StepBack, FaultKind::Truncated];

impl Scene {
    fn first_shown(&self, at: usize) -> Option<Instant> {
        self.world.decoder(&self.seen[at]).shown().first().map(|shown| shown.at)
    }

    /// One more joins, and is shown something in time.
    fn join_within(&mut self, limit: Duration) {
        let (at, from) = (self.seen.len(), self.world.now());
        self.join(CLEAN);
        self.world.run(limit);
        let took = self.first_shown(at).map(|shown| shown.since(from));
        self.expect(
            took.is_some_and(|took| took <= limit),
            &format!("receiver {at} is shown something after {took:?}"),
        );
    }

    fn set_encryption(&mut self, encryption: Encryption) {
        let Scene { world, video, .. } = self;
        (0..video.media.encodings()).for_each(|at| world.encoding(video, at).set_encryption(encryption));
    }

    fn keyframes_asked(&mut self) -> u64 {
        let Scene { world, video, .. } = self;
        (0..video.media.encodings()).map(|at| world.encoding(video, at).stats().key_frames_requested).sum()
    }
}

#[test]
fn hidden_keyframes_are_waited_for_once_and_pictures_start_all_the_same() {
    for_all(seeds(2_000, 48), |seed, media| {
        let mut scene = Scene::new(seed, media, seed.is_multiple_of(2), PROMISED);
        let from = scene.world.now();
        scene.world.run(FOUND_OUT);
        let shown = scene.first_shown(0);
        scene.expect(shown.is_some_and(|at| at <= from + FOUND_OUT), &format!("first shown at {shown:?}"));
        scene.check_flow(seconds(4));
        let (asked, joins) = (scene.keyframes_asked(), 3);
        for _ in 0..joins {
            scene.join_within(KNOWN);
            scene.world.run(seconds(1));
        }
        // Once at the start, and by the receiver that cannot decode yet; again for a higher encoding.
        let asked = scene.keyframes_asked() - asked;
        let most = joins * 3 * media.encodings() as u64;
        scene.expect(asked <= most, &format!("{asked} keyframes asked for by {joins} joins"));
        scene.check_flow(seconds(1));
        scene.check(&by_start(media));
        scene
    });
}

#[test]
fn a_page_that_turns_encryption_on_and_off_does_not_keep_joiners_waiting() {
    // AV1's descriptors are never encrypted in browsers; nothing in them tells of encryption.
    let turned = |media: &Media| media.encryption == Encryption::Content && media.codec != Codec::Av1;
    let kinds = hidden().into_iter().filter(turned);
    for_all((2_200..).zip(kinds.cycle()).take(36), |seed, media| {
        let mut scene = Scene::new(seed, media, seed.is_multiple_of(2), PROMISED);
        scene.set_encryption(Encryption::None);
        scene.world.run(seconds(4));
        scene.join_within(KNOWN);
        scene.set_encryption(Encryption::Content);
        scene.world.run(millis(seed * 37 % 1_000));
        scene.join_within(FOUND_OUT);
        scene.join_within(KNOWN);
        scene.set_encryption(Encryption::None);
        scene.world.run(millis(seed * 53 % 1_000));
        scene.join_within(KNOWN);
        scene.check_flow(seconds(1));
        scene.check(&by_start(media));
        scene
    });
}

#[test]
fn who_watches_while_encryption_is_turned_on_misses_nothing() {
    let kinds = hidden().into_iter().filter(|media| media.encryption == Encryption::Content);
    for_all((2_300..).zip(kinds.cycle()).take(24), |seed, media| {
        let mut scene = Scene::new(seed, media, seed.is_multiple_of(2), PROMISED);
        scene.set_encryption(Encryption::None);
        scene.world.run(seconds(5));
        let from = scene.world.now();
        for encryption in [Encryption::Content, Encryption::None, Encryption::Content] {
            scene.set_encryption(encryption);
            scene.world.run(seconds(2));
        }
        let froze = scene.longest_freeze(0, from);
        scene.expect(froze <= millis(70), &format!("a freeze of {froze:?}"));
        scene.check_flow(millis(100));
        scene.check(&by_start(media));
        scene
    });
}

#[test]
fn encodings_with_hidden_keyframes_are_switched_when_asked() {
    let kinds = hidden().into_iter().filter(|media| media.encodings() > 1);
    for_all((2_400..).zip(kinds.cycle()).take(24), |seed, media| {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut scene = Scene::new(seed, media, seed.is_multiple_of(2), PROMISED);
        scene.world.run(seconds(5));
        let from = scene.world.now();
        for _ in 0..6 {
            let (spatial, temporal) = scene.draw(&mut rng);
            prefer(&mut scene.world, &scene.seen[0], spatial, temporal);
            scene.check_choice(0, (spatial, temporal));
        }
        let froze = scene.longest_freeze(0, from);
        scene.expect(froze <= KNOWN, &format!("a freeze of {froze:?}"));
        scene.check(&by_start(media));
        scene
    });
}

#[test]
fn bad_links_take_no_more_from_encrypted_streams_than_a_keyframe_brings_back() {
    for_all(seeds(2_500, 48), |seed, media| {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut scene = Scene::new(seed, media, seed.is_multiple_of(3), PROMISED);
        scene.set_links(|| bad_link(&mut rng));
        scene.world.run(seconds(4));
        for _ in 0..2 {
            scene.join(CLEAN);
            scene.world.run(millis(rng.random_range(0..2_000)));
        }
        scene.set_links(|| CLEAN);
        scene.check_flow(seconds(4));
        scene.check(&[&by_start(media), BY_NETWORK].concat());
        scene
    });
}

#[test]
fn whatever_happens_encrypted_streams_go_on() {
    for_all(seeds(2_600, 48), |seed, media| {
        let strictness = Strictness { rough_start: true, ..PROMISED };
        let mut chaos = Chaos::new(seed, media, seed.is_multiple_of(3), strictness);
        chaos.stretch(14);
        chaos.settle();
        chaos.scene.check_flow(seconds(5));
        chaos.scene.check(&[&by_start(media), BY_RESTART].concat());
        chaos.scene
    });
}
