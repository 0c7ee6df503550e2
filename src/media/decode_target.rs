//! The decode target of one consumer of a stream with dependency descriptors (AV1 RTP specification, appendix A): the
//! highest within its limits, changed where a frame allows it. A frame that refers to others is forwarded only with
//! them, as far as the descriptors name them.

use crate::base::id::Layers;
use crate::media::edit::{Change, Edit};
use crate::wire::dependency_descriptor::{DECODE_TARGETS_MAX, DescribedFrame, Indication, Structure};

/// Frames back from the newest that can still be told apart. A frame with older references is no place to switch.
const KEPT: u64 = 256;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// No packet of it has come. It belongs to the decode target that held when it was due.
    Unseen(Option<u8>),
    Withheld,
    /// Forwarded for this decode target, whichever holds when its last packet comes.
    Passes(u8),
}

/// The layers of each decode target: those of its highest frame.
#[derive(Clone, Debug)]
pub struct Targets {
    layers: [Layers; DECODE_TARGETS_MAX],
    count: u8,
    active: u32,
}

impl Targets {
    pub fn of(structure: &Structure) -> Targets {
        let mut layers = [Layers::default(); DECODE_TARGETS_MAX];
        let count = usize::from(structure.decode_targets).min(DECODE_TARGETS_MAX);
        for (at, layers) in layers[..count].iter_mut().enumerate() {
            for template in structure.templates() {
                if template.indication(at) != Indication::NotPresent {
                    layers.spatial = layers.spatial.max(template.spatial);
                    layers.temporal = layers.temporal.max(template.temporal);
                }
            }
        }
        Targets { layers, count: count as u8, active: structure.active_decode_targets }
    }

    pub fn set_active(&mut self, active: u32) {
        self.active = active;
    }

    pub fn layers(&self, target: u8) -> Layers {
        self.layers.get(usize::from(target)).copied().unwrap_or_default()
    }

    /// The highest target, active or not.
    pub fn top(&self) -> Layers {
        self.layers[..usize::from(self.count)].iter().copied().max_by_key(rank).unwrap_or_default()
    }

    fn is_active(&self, target: usize) -> bool {
        self.active >> target & 1 == 1
    }

    /// The highest active target within `limit`; the lowest active one where none is.
    fn choose(&self, limit: Layers) -> Option<u8> {
        let active = || (0..usize::from(self.count)).filter(|target| self.is_active(*target));
        let within = |target: &usize| self.layers[*target] == self.layers[*target].at_most(limit);
        let best = active().filter(within).max_by_key(|target| rank(&self.layers[*target]));
        best.or_else(|| active().min_by_key(|target| rank(&self.layers[*target]))).map(|target| target as u8)
    }

    /// The targets that a receiver of `target` can decode.
    fn active_within(&self, target: u8) -> u32 {
        let limit = self.layers(target);
        let within = |at: &usize| self.is_active(*at) && self.layers[*at] == self.layers[*at].at_most(limit);
        (0..usize::from(self.count)).filter(within).fold(0, |mask, at| mask | 1 << at)
    }
}

fn rank(layers: &Layers) -> (u8, u8) {
    (layers.spatial, layers.temporal)
}

#[derive(Clone, Debug)]
pub struct TargetFilter {
    current: Option<u8>,
    newest: Option<u64>,
    kept: [Fate; KEPT as usize],
    fresh: bool,
    number_shift: u16,
    /// The newest frame number in the consumer's numbering.
    last: Option<u16>,
}

impl Default for TargetFilter {
    fn default() -> Self {
        let kept = [Fate::Unseen(None); KEPT as usize];
        TargetFilter { current: None, newest: None, kept, fresh: true, number_shift: 0, last: None }
    }
}

impl TargetFilter {
    /// The next packet starts a keyframe with its structure, of this or another stream.
    pub fn rebase(&mut self) {
        self.newest = None;
        self.fresh = true;
    }

    pub fn current(&self) -> Option<u8> {
        self.current
    }

    /// The consumer is below its target, and a frame without references is the surest way up.
    pub fn wants_keyframe(&self, targets: &Targets, limit: Layers) -> bool {
        let aim = targets.choose(limit);
        let spatial = |target: Option<u8>| target.map(|target| targets.layers(target).spatial);
        aim != self.current && spatial(aim) != spatial(self.current)
    }

    /// The edits of the packet; None: it is not forwarded.
    pub fn on_packet(&mut self, frame: &DescribedFrame, targets: &Targets, limit: Layers) -> Option<Edit> {
        let number = self.extend(frame.mandatory.frame_number);
        let fate = match self.newest {
            Some(newest) if number <= newest && newest - number >= KEPT => return None,
            Some(newest) if number <= newest => match self.kept[(number % KEPT) as usize] {
                Fate::Unseen(target) => judge(target, frame),
                known => known,
            },
            _ => {
                self.advance(number);
                self.follow(number, frame, targets, limit);
                judge(self.current, frame)
            }
        };
        self.kept[(number % KEPT) as usize] = fate;
        let Fate::Passes(target) = fate else { return None };
        let top = targets.layers(target).spatial;
        Some(Edit {
            ends_picture: frame.mandatory.end_of_frame && frame.spatial == top && top < targets.top().spatial,
            change: Change::Frame {
                number_shift: self.number_shift,
                targets: targets.count,
                active: targets.active_within(target),
            },
        })
    }

    fn extend(&self, number: u16) -> u64 {
        let newest = self.newest.unwrap_or(1 << 16 | u64::from(number));
        newest.saturating_add_signed(i64::from(number.wrapping_sub(newest as u16) as i16))
    }

    fn advance(&mut self, number: u64) {
        match self.newest {
            None => {
                self.kept.fill(Fate::Unseen(None));
                // Never backwards: a receiver drops a keyframe that is older than its last structure.
                let shifted = (number as u16).wrapping_add(self.number_shift);
                if let Some(last) = self.last
                    && shifted.wrapping_sub(last) as i16 <= 0
                {
                    self.number_shift = last.wrapping_add(1).wrapping_sub(number as u16);
                }
            }
            Some(newest) => {
                for passed in (newest + 1..number).rev().take(KEPT as usize) {
                    self.kept[(passed % KEPT) as usize] = Fate::Unseen(self.current);
                }
            }
        }
        self.newest = Some(number);
        self.last = Some((number as u16).wrapping_add(self.number_shift));
    }

    /// Changes the decode target where the frame allows it: all later frames of the new target can be decoded if this
    /// frame can, and it can if its references were forwarded.
    fn follow(&mut self, number: u64, frame: &DescribedFrame, targets: &Targets, limit: Layers) {
        if std::mem::take(&mut self.fresh) || frame.mandatory.has_structure {
            // Targets of another structure are other targets.
            self.current = None;
        }
        let Some(aim) = targets.choose(limit).filter(|aim| Some(*aim) != self.current) else { return };
        let went_out = |diff: &u16| {
            let diff = u64::from(*diff);
            let passes = || matches!(self.kept[((number - diff) % KEPT) as usize], Fate::Passes(_));
            diff < KEPT && diff <= number && passes()
        };
        let switches = match frame.indication(usize::from(aim)) {
            Indication::Switch => frame.diffs().iter().all(went_out),
            Indication::NotPresent => false,
            _ => frame.is_keyframe(),
        };
        if switches {
            self.current = Some(aim);
        }
    }
}

fn judge(target: Option<u8>, frame: &DescribedFrame) -> Fate {
    let present = |target: &u8| frame.indication(usize::from(*target)) != Indication::NotPresent;
    target.filter(present).map_or(Fate::Withheld, Fate::Passes)
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;
    use crate::wire::dependency_descriptor::tests::written;
    use crate::wire::dependency_descriptor::{parse_frame, parse_structure};

    const ALL: Layers = Layers::ALL;

    fn layers(spatial: u8, temporal: u8) -> Layers {
        Layers { spatial, temporal }
    }

    /// Three spatial and three temporal layers: pictures 0 2 1 2, decode target `3 * spatial + temporal`.
    struct Encoder {
        k_svc: bool,
        picture: u32,
        since_key: u32,
        first_number: u16,
        structure: Option<Box<Structure>>,
    }

    impl Encoder {
        fn new(k_svc: bool, first_number: u16) -> Encoder {
            Encoder { k_svc, picture: 0, since_key: 0, first_number, structure: None }
        }

        fn indication(&self, spatial: u32, temporal: u32, key: bool, target: u32) -> u32 {
            let (to_spatial, to_temporal) = (target / 3, target % 3);
            let present = temporal <= to_temporal
                && if self.k_svc && !key { spatial == to_spatial } else { spatial <= to_spatial };
            match (present, temporal) {
                (false, _) => 0,
                (true, 0) if key || spatial == to_spatial => 2,
                (true, 1) if spatial == to_spatial && to_temporal == 2 => 2,
                (true, t) if t == to_temporal => 1,
                _ => 3,
            }
        }

        /// The frames of the next picture.
        fn picture(&mut self, key: bool) -> Vec<(Vec<u8>, DescribedFrame)> {
            self.since_key = if key { 0 } else { self.since_key + 1 };
            let temporal = [0, 2, 1, 2][self.since_key as usize % 4];
            let back = [4, 1, 2, 1][self.since_key as usize % 4] * 3;
            let frames = (0..3).map(|spatial| {
                let attached = key && spatial == 0;
                let number = (self.first_number as u32 + self.picture * 3 + spatial) & 0xFFFF;
                let mut bits = vec![(3, 2), (spatial * 3 + temporal, 6), (number, 16)];
                bits.extend([(u32::from(attached), 1), (0, 1), (1, 1), (1, 1), (0, 1)]);
                if attached {
                    bits.extend([(0, 6), (8, 5)]);
                    bits.extend([1, 1, 2, 1, 1, 2, 1, 1, 3].map(|next| (next, 2)));
                    for template in 0..9 {
                        bits.extend((0..9).map(|to| (self.indication(template / 3, template % 3, false, to), 2)));
                    }
                    // No references, no chains, no resolutions.
                    bits.extend([(0, 9), (0, 3), (0, 1)]);
                }
                bits.extend((0..9).map(|target| (self.indication(spatial, temporal, key, target), 2)));
                let below = spatial > 0 && (key || !self.k_svc);
                let diffs = [(!key).then_some(back), below.then_some(1)];
                bits.extend(diffs.into_iter().flatten().flat_map(|diff| [(1, 2), (diff - 1, 4)]));
                bits.push((0, 2));
                let value = written(&bits);
                if let Some(structure) = parse_structure(&value).unwrap() {
                    self.structure = Some(Box::new(structure));
                }
                let frame = parse_frame(&value, self.structure.as_ref().unwrap()).unwrap();
                (value, frame)
            });
            let frames = frames.collect();
            self.picture += 1;
            frames
        }

        fn targets(&self) -> Targets {
            Targets::of(self.structure.as_ref().unwrap())
        }
    }

    /// The spatial layers that are forwarded, the last with whether it ends the picture.
    fn passed(filter: &mut TargetFilter, encoder: &mut Encoder, key: bool, limit: Layers) -> Vec<(u8, bool)> {
        let frames = encoder.picture(key);
        let targets = encoder.targets();
        let edits = frames.iter().map(|(_, frame)| (frame.spatial, filter.on_packet(frame, &targets, limit)));
        edits.filter_map(|(spatial, edit)| Some((spatial, edit?.ends_picture))).collect()
    }

    #[test]
    fn targets_are_known_by_their_layers() {
        let mut encoder = Encoder::new(false, 0);
        encoder.picture(true);
        let mut targets = encoder.targets();
        assert_eq!((targets.layers(5), targets.top()), (layers(1, 2), layers(2, 2)));
        assert_eq!(
            (targets.choose(ALL), targets.choose(layers(1, 9)), targets.choose(layers(9, 0))),
            (Some(8), Some(5), Some(6))
        );
        targets.set_active(0b000_110_110);
        assert_eq!((targets.choose(ALL), targets.choose(layers(0, 0))), (Some(5), Some(1)), "what is sent");
        assert_eq!(targets.active_within(4), 0b10_010);
    }

    #[test]
    fn starts_at_a_keyframe_and_changes_where_frames_allow_it() {
        let (mut filter, mut encoder) = (TargetFilter::default(), Encoder::new(false, 65_530));
        encoder.picture(true);
        assert_eq!(passed(&mut filter, &mut encoder, false, ALL), [], "no keyframe yet");
        assert_eq!(passed(&mut filter, &mut encoder, true, ALL), [(0, false), (1, false), (2, false)]);
        let mut run = |limit, count| -> Vec<Vec<(u8, bool)>> {
            (0..count).map(|_| passed(&mut filter, &mut encoder, false, limit)).collect()
        };
        run(ALL, 3);
        let below = [(0, false), (1, true)];
        assert_eq!(run(layers(1, 0), 4), [below.to_vec(), vec![], vec![], vec![]], "down at a base picture");
        assert_eq!(run(layers(1, 2), 4), [below; 4], "up in time there too");
        assert_eq!(run(ALL, 4), [below; 4], "up in space not without a keyframe");
        let targets = encoder.targets();
        assert!(filter.wants_keyframe(&targets, ALL) && !filter.wants_keyframe(&targets, layers(1, 2)));
    }

    #[test]
    fn late_frames_are_of_the_decode_target_of_their_time() {
        for k_svc in [false, true] {
            let (mut filter, mut encoder) = (TargetFilter::default(), Encoder::new(k_svc, 7));
            passed(&mut filter, &mut encoder, true, ALL);
            let late = encoder.picture(false).remove(2).1;
            let cut = encoder.picture(false).remove(2).1;
            let targets = encoder.targets();
            let mut masks = |frame: &DescribedFrame, limit| -> Option<u32> {
                match filter.on_packet(frame, &targets, limit)?.change {
                    Change::Frame { active, .. } => Some(active),
                    other => panic!("{other:?}"),
                }
            };
            assert_eq!(masks(&cut, ALL), Some(0x1FF));
            for (_, frame) in encoder.picture(true) {
                masks(&frame, layers(0, 2));
            }
            assert_eq!((masks(&cut, layers(0, 2)), masks(&late, layers(0, 2))), (Some(0x1FF), Some(0x1FF)));
            assert_eq!(masks(&encoder.picture(false)[0].1, layers(0, 2)), Some(0b111));
        }
    }

    #[test]
    fn numbers_stay_and_never_go_back() {
        let (mut filter, mut encoder) = (TargetFilter::default(), Encoder::new(false, 100));
        let shift = |filter: &mut TargetFilter, encoder: &mut Encoder, key| {
            let frame = encoder.picture(key).remove(0).1;
            match filter.on_packet(&frame, &encoder.targets(), ALL).unwrap().change {
                Change::Frame { number_shift, targets: 9, active: 0x1FF } => number_shift,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(shift(&mut filter, &mut encoder, true), 0);
        filter.rebase();
        encoder.picture += 1_000;
        assert_eq!(shift(&mut filter, &mut encoder, true), 0, "a pause leaves a gap");
        filter.rebase();
        encoder.picture = 0;
        assert_eq!(shift(&mut filter, &mut encoder, true), 3_004, "one past the newest");
        assert_eq!(shift(&mut filter, &mut encoder, false), 3_004);
    }

    #[test]
    fn what_passes_can_always_be_decoded() {
        for seed in 0..200 {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut encoder = Encoder::new(seed % 2 == 0, rng.random());
            let mut filter = TargetFilter::default();
            let mut decoded = std::collections::BTreeSet::new();
            let (mut limit, mut number) = (ALL, 0u32);
            let mut reached = 0;
            for n in 0..600 {
                let key = n == 0 || rng.random_range(0..30) == 0;
                if rng.random_range(0..20) == 0 {
                    limit = layers(rng.random_range(0..4), rng.random_range(0..4));
                }
                let frames = encoder.picture(key);
                let targets = encoder.targets();
                for (_, frame) in &frames {
                    if filter.on_packet(frame, &targets, limit).is_some() {
                        let whole = frame.diffs().iter().all(|diff| decoded.contains(&(number - u32::from(*diff))));
                        assert!(whole, "seed {seed}: {number} without what it refers to");
                        decoded.insert(number);
                    }
                    number += 1;
                }
                if key {
                    let at = filter.current().map(|target| targets.layers(target));
                    assert_eq!(at, Some(layers(2, 2).at_most(limit)), "seed {seed}");
                    reached += 1;
                }
            }
            assert!(reached > 5);
        }
    }
}
