//! Consumers that choose their layers: up and down at random, on good links and bad, with all else that happens to a
//! call. Judged as strictly as the model decoders can: one numbering throughout, timestamps that stay with the capture.

use std::collections::BTreeSet;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use weirgate::base::time::{Duration, Instant};
use weirgate::base::units::Bitrate;
use weirgate::sim::decoder::{FaultKind, Strictness};
use weirgate::sim::scalability::Scalability;
use weirgate::sim::script::Media;
use weirgate::sim::visitor::Subscription;
use weirgate::sim::world::World;
use weirgate::wire::codec::Codec;

use crate::layers::{Chaos, Scene, bad_link, for_all, simulcast};
use crate::support::{CLEAN, millis, seconds};

/// A client's request for no more than these layers.
pub(crate) fn prefer(world: &mut World, seen: &Subscription, spatial: u8, temporal: u8) {
    let layers = json!({ "consumerId": seen.id, "spatialLayer": spatial, "temporalLayer": temporal });
    world.ask(seen.visitor, "set-preferred-layers", layers);
}

/// Everything that has layers to choose from.
fn layered() -> Vec<Media> {
    use Codec::{Av1, H264, Vp8, Vp9};
    use Scalability::{L1T1, L1T3, L1T3Sparse, L3T3, L3T3Key};
    let several = [(Vp8, L1T1), (H264, L1T1), (Vp9, L1T1), (Av1, L1T1), (Vp8, L1T3), (Vp8, L1T3Sparse)];
    let single = [(Vp8, L1T3), (Vp9, L3T3), (Vp9, L3T3Key), (Av1, L1T3), (Av1, L3T3Key)];
    let single =
        single.map(|(codec, scalability)| Media { scalability, bitrate: Bitrate::mbps(1), ..Media::video(codec) });
    several.into_iter().map(|(codec, mode)| simulcast(codec, mode)).chain(single).collect()
}

fn seeds(first: u64, count: usize) -> impl Iterator<Item = (u64, Media)> {
    (first..).zip(layered().into_iter().cycle()).take(count)
}

/// Spatial layers, which are encodings where there are several, and temporal layers.
fn layers_of(media: &Media) -> (u8, u8) {
    let spatial = media.scalability.spatial_layers().max(media.encodings() as u8);
    (spatial, media.scalability.temporal_layers())
}

impl Scene {
    pub(crate) fn draw(&self, rng: &mut SmallRng) -> (u8, u8) {
        let (spatial, temporal) = layers_of(&self.video.media);
        (rng.random_range(0..spatial), rng.random_range(0..temporal))
    }

    /// The layers shown to receiver `at` since `from`: spatial layers or encodings, and temporal layers.
    fn shown(&mut self, at: usize, from: Instant) -> (BTreeSet<u8>, BTreeSet<u8>) {
        let streams: Vec<u32> =
            (0..self.video.media.encodings()).map(|at| self.world.encoding(&self.video, at).stream()).collect();
        let decoder = self.world.decoder(&self.seen[at]);
        let since = || decoder.shown().iter().filter(|shown| shown.at >= from);
        let spatial = since().map(|shown| {
            let stream = shown.inside.map(|inside| inside.stream);
            let encoding = streams.iter().position(|known| Some(*known) == stream);
            if streams.len() > 1 { encoding.map_or(u8::MAX, |encoding| encoding as u8) } else { shown.spatial }
        });
        let temporal = since().filter_map(|shown| shown.inside).map(|inside| inside.temporal);
        (spatial.collect(), temporal.collect())
    }

    /// Within a second and a half of a choice, nothing but what was chosen is shown.
    pub(crate) fn check_choice(&mut self, at: usize, (spatial, temporal): (u8, u8)) {
        self.world.run(millis(1_500));
        let from = self.world.now();
        self.world.run(seconds(1));
        let shown = self.shown(at, from);
        let wanted = (BTreeSet::from([spatial]), (0..=temporal).collect());
        self.expect(shown == wanted, &format!("receiver {at} chose {spatial}.{temporal}, and is shown {shown:?}"));
    }
}

#[test]
fn each_choice_is_what_is_shown() {
    for_all(seeds(900, layered().len()), |seed, media| {
        let mut scene = Scene::new(seed, media, seed.is_multiple_of(2), Strictness::FULL);
        scene.join(CLEAN);
        // All encodings are there and have proved steady.
        scene.world.run(seconds(4));
        let (spatial, temporal) = layers_of(media);
        let all = (0..spatial).flat_map(|s| (0..temporal).map(move |t| (s, t)));
        for choice in all.clone().chain(all.rev()).chain([(spatial - 1, temporal - 1), (0, 0), (spatial - 1, 0)]) {
            prefer(&mut scene.world, &scene.seen[0], choice.0, choice.1);
            scene.check_choice(0, choice);
        }
        scene.check(&[]);
        let other = scene.shown(1, scene.world.now() - seconds(5));
        let wanted = (BTreeSet::from([spatial - 1]), (0..temporal).collect());
        scene.expect(other == wanted, &format!("the other receiver is shown {other:?}"));
        scene
    });
}

#[test]
fn choices_at_random_leave_no_hole_and_no_freeze() {
    for_all(seeds(1_000, 22), |seed, media| {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut scene = Scene::new(seed, media, seed.is_multiple_of(3), Strictness::FULL);
        scene.join(CLEAN);
        scene.world.run(seconds(3));
        let from = scene.world.now();
        for _ in 0..25 {
            for at in 0..2 {
                let (spatial, temporal) = scene.draw(&mut rng);
                prefer(&mut scene.world, &scene.seen[at], spatial, temporal);
            }
            scene.world.run(millis(rng.random_range(20..900)));
        }
        for at in 0..2 {
            // The lowest temporal layer alone has every fourth picture.
            let froze = scene.longest_freeze(at, from);
            scene.expect(
                froze <= Duration::from_secs(4) / media.frame_rate + millis(100),
                &format!("a freeze of {froze:?}"),
            );
            let choice = scene.draw(&mut rng);
            prefer(&mut scene.world, &scene.seen[at], choice.0, choice.1);
            scene.check_choice(at, choice);
        }
        scene.check(&[]);
        scene
    });
}

#[test]
fn choices_on_bad_links_lose_only_what_the_network_loses() {
    for_all(seeds(1_100, 44), |seed, media| {
        let mut rng = SmallRng::seed_from_u64(seed);
        // A switch may fall between a lost packet and its repair.
        let strictness = Strictness { time_slack: millis(20), ..Strictness::FULL };
        let mut scene = Scene::new(seed, media, seed.is_multiple_of(3), strictness);
        scene.world.run(seconds(3));
        scene.set_links(|| bad_link(&mut rng));
        for _ in 0..25 {
            let (spatial, temporal) = scene.draw(&mut rng);
            prefer(&mut scene.world, &scene.seen[0], spatial, temporal);
            scene.world.run(millis(rng.random_range(20..900)));
        }
        scene.set_links(|| CLEAN);
        let choice = scene.draw(&mut rng);
        prefer(&mut scene.world, &scene.seen[0], choice.0, choice.1);
        scene.world.run(seconds(2));
        scene.check_choice(0, choice);
        scene.check(&[&[FaultKind::Truncated], late_upper_layers(media)].concat());
        scene
    });
}

/// A VP8 picture that came late from the publisher has its picture id by then, whatever its layer, and is withheld if it
/// is of an upper layer that the receiver is not to have: its sequence number is filled with padding, its picture id
/// stays unused. Pictures that need the lowest layer alone (Y) are forwarded even so, and where TL0PICIDX tells beforehand
/// that all missing pictures are of upper layers, no id is kept for them; for the rest nobody knows in time. Upper layers
/// lose pictures by it until the next one with Y, the lowest none.
fn late_upper_layers(media: &Media) -> &'static [FaultKind] {
    let layered = media.codec == Codec::Vp8 && media.scalability.temporal_layers() > 1;
    if layered { &[FaultKind::NumberGap] } else { &[] }
}

#[test]
fn choices_in_a_call_where_everything_happens() {
    for_all(seeds(1_200, 22), |seed, media| {
        // Another encoder's clock is known from its first report on.
        let strictness = Strictness { time_slack: millis(100), ..Strictness::FULL };
        let mut chaos = Chaos::new(seed, media, seed.is_multiple_of(3), strictness);
        let mut rng = SmallRng::seed_from_u64(seed);
        for _ in 0..4 {
            chaos.stretch(4);
            let (spatial, temporal) = chaos.scene.draw(&mut rng);
            let seen = rng.random_range(0..chaos.scene.seen.len());
            prefer(&mut chaos.scene.world, &chaos.scene.seen[seen], spatial, temporal);
        }
        chaos.settle();
        let (spatial, temporal) = layers_of(media);
        chaos.scene.world.run(seconds(5));
        for seen in 0..chaos.scene.seen.len() {
            prefer(&mut chaos.scene.world, &chaos.scene.seen[seen], spatial - 1, temporal - 1);
        }
        chaos.scene.check_flow(seconds(2));
        chaos.scene.check(&[]);
        chaos.scene
    });
}
