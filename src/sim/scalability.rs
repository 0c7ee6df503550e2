//! The dependencies of an encoder's frames: the scalability modes of the simulation's sources. A schedule has the
//! references of each frame; `payload` and `descriptor` write them on the wire, each in its codec's way. Nothing here
//! reads a packet.

use std::collections::BTreeSet;

/// Named as in the WebRTC-SVC specification.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Scalability {
    #[default]
    L1T1,
    L1T3,
    /// As L1T3, but one may go up to a higher frame rate at every eighth picture only.
    L1T3Sparse,
    L3T3,
    /// Spatial layers refer to each other at keyframes only.
    L3T3Key,
}

/// One picture of the repeating pattern.
struct Slot {
    temporal: u8,
    /// The pictures it refers to, counted back.
    refs: &'static [u8],
}

const fn slot(temporal: u8, refs: &'static [u8]) -> Slot {
    Slot { temporal, refs }
}

const PLAIN: &[Slot] = &[slot(0, &[1])];
const THREE: &[Slot] = &[slot(0, &[4]), slot(2, &[1]), slot(1, &[2]), slot(2, &[1])];
const SPARSE: &[Slot] = &[
    slot(0, &[4]),
    slot(2, &[1]),
    slot(1, &[2]),
    slot(2, &[1]),
    slot(0, &[4]),
    slot(2, &[1, 2]),
    slot(1, &[2, 4]),
    slot(2, &[1, 2]),
];

/// One layer's frame of one picture.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LayerFrame {
    /// Of the whole picture: nothing before it is needed any more.
    pub key: bool,
    pub spatial: u8,
    pub temporal: u8,
    /// Refers to earlier pictures.
    pub inter_picture: bool,
    /// Refers to the spatial layer below, of the same picture.
    pub inter_layer: bool,
    /// A higher spatial layer of the same picture refers to it.
    pub needed_above: bool,
    /// Refers to the lowest temporal layer only.
    pub base_only: bool,
    /// Pictures of higher temporal layers after this one need no such picture from before it.
    pub switch_up: bool,
    /// The highest spatial layer of its picture.
    pub top: bool,
    /// The frames it refers to, counted back in coded frames.
    pub refs: Vec<u8>,
}

impl Scalability {
    /// As a page announces it; nothing for a stream without layers.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Scalability::L1T1 => None,
            Scalability::L1T3 | Scalability::L1T3Sparse => Some("L1T3"),
            Scalability::L3T3 => Some("L3T3"),
            Scalability::L3T3Key => Some("L3T3_KEY"),
        }
    }

    pub fn spatial_layers(self) -> u8 {
        match self {
            Scalability::L1T1 | Scalability::L1T3 | Scalability::L1T3Sparse => 1,
            Scalability::L3T3 | Scalability::L3T3Key => 3,
        }
    }

    pub fn temporal_layers(self) -> u8 {
        if self == Scalability::L1T1 { 1 } else { 3 }
    }

    fn pattern(self) -> &'static [Slot] {
        match self {
            Scalability::L1T1 => PLAIN,
            Scalability::L1T3 | Scalability::L3T3 | Scalability::L3T3Key => THREE,
            Scalability::L1T3Sparse => SPARSE,
        }
    }

    pub fn period(self) -> usize {
        self.pattern().len()
    }

    fn at(self, picture: usize) -> &'static Slot {
        &self.pattern()[picture % self.period()]
    }

    pub fn temporal(self, picture: usize) -> u8 {
        self.at(picture).temporal
    }

    /// The pictures that one refers to, counted back; those of the first picture of the pattern, once it comes round.
    pub fn refs(self, picture: usize) -> &'static [u8] {
        self.at(picture).refs
    }

    /// RFC 9628 section 4.2, U.
    pub fn switches_up(self, picture: usize) -> bool {
        let picture = picture + self.period();
        (picture + 1..=picture + 2 * self.period()).filter(|later| self.temporal(*later) > self.temporal(picture)).all(
            |later| {
                let needed = self.refs(later).iter().map(|back| later - usize::from(*back));
                needed.filter(|needed| *needed < picture).all(|needed| self.temporal(needed) <= self.temporal(picture))
            },
        )
    }

    fn inter_layer(self, picture: usize) -> bool {
        self == Scalability::L3T3 || self == Scalability::L3T3Key && picture == 0
    }

    /// The frames of a picture, `picture` counted from the keyframe before it, with `layers` spatial layers.
    pub fn frames(self, picture: usize, layers: u8) -> Vec<LayerFrame> {
        let slot = self.at(picture);
        (0..layers)
            .map(|spatial| {
                let inter_layer = spatial > 0 && self.inter_layer(picture);
                let back = if picture == 0 { &[][..] } else { slot.refs };
                let mut refs: Vec<u8> = back.iter().map(|back| back * layers).collect();
                refs.extend(inter_layer.then_some(1));
                LayerFrame {
                    key: picture == 0,
                    spatial,
                    temporal: slot.temporal,
                    inter_picture: picture > 0,
                    inter_layer,
                    needed_above: spatial + 1 < layers && self.inter_layer(picture),
                    base_only: back.iter().all(|back| self.temporal(picture - usize::from(*back)) == 0)
                        && (picture == 0 || slot.temporal > 0),
                    switch_up: self.switches_up(picture),
                    top: spatial + 1 == layers,
                    refs,
                }
            })
            .collect()
    }
}

/// How much a decode target needs a frame (AV1 RTP specification, appendix A.8.3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Indication {
    NotPresent,
    Discardable,
    Switch,
    Required,
}

/// The dependency descriptor's fields of a frame.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Definition {
    pub spatial: u8,
    pub temporal: u8,
    /// Decode target `spatial * temporal layers + temporal`.
    pub indications: Vec<Indication>,
    pub diffs: Vec<u16>,
    /// One chain for each spatial layer: how many frames back its previous frame lies, 0 for none.
    pub chain_diffs: Vec<u8>,
}

/// A mode with so many of its spatial layers, its frames numbered from the keyframe on.
#[derive(Clone, Copy)]
struct Numbered {
    mode: Scalability,
    layers: usize,
}

impl Numbered {
    fn split(self, frame: usize) -> (usize, u8) {
        (frame / self.layers, (frame % self.layers) as u8)
    }

    fn refs(self, frame: usize) -> Vec<usize> {
        let (picture, spatial) = self.split(frame);
        let frames = self.mode.frames(picture, self.layers as u8);
        frames[usize::from(spatial)].refs.iter().map(|back| frame - usize::from(*back)).collect()
    }

    fn serves(self, frame: usize, spatial: u8) -> bool {
        let (picture, own) = self.split(frame);
        own == spatial || own < spatial && self.mode.inter_layer(picture)
    }

    fn in_target(self, frame: usize, spatial: u8, temporal: u8) -> bool {
        self.mode.temporal(self.split(frame).0) <= temporal && self.serves(frame, spatial)
    }

    fn indication(self, frame: usize, spatial: u8, temporal: u8) -> Indication {
        if !self.in_target(frame, spatial, temporal) {
            return Indication::NotPresent;
        }
        let ahead = frame + 1..frame + 1 + 2 * self.mode.period() * self.layers;
        let later: Vec<usize> = ahead.filter(|later| self.in_target(*later, spatial, temporal)).collect();
        if !later.iter().any(|later| self.refs(*later).contains(&frame)) {
            return Indication::Discardable;
        }
        let mut had = BTreeSet::from([frame]);
        let mut open = vec![frame];
        while let Some(next) = open.pop() {
            open.extend(self.refs(next).into_iter().filter(|needed| had.insert(*needed)));
        }
        for later in later {
            if !self.refs(later).iter().all(|needed| had.contains(needed)) {
                return Indication::Required;
            }
            had.insert(later);
        }
        Indication::Switch
    }

    fn define(self, frame: usize) -> Definition {
        let (picture, spatial) = self.split(frame);
        let targets = (0..self.layers as u8).flat_map(|s| (0..self.mode.temporal_layers()).map(move |t| (s, t)));
        let in_chain = |frame: &usize, chain: u8| self.in_target(*frame, chain, 0);
        Definition {
            spatial,
            temporal: self.mode.temporal(picture),
            indications: targets.map(|(s, t)| self.indication(frame, s, t)).collect(),
            diffs: self.refs(frame).iter().map(|needed| (frame - needed) as u16).collect(),
            chain_diffs: (0..self.layers as u8)
                .map(|chain| (0..frame).rev().find(|before| in_chain(before, chain)).map_or(0, |at| (frame - at) as u8))
                .collect(),
        }
    }
}

/// All definitions that a mode has with so many spatial layers, in the order that templates need.
#[derive(Clone, Debug)]
pub struct Definitions {
    /// One for each frame of the first pictures: one round of the pattern after a keyframe, and the round that repeats.
    frames: Vec<Definition>,
    layers: usize,
    period: usize,
    pub templates: Vec<Definition>,
}

impl Definitions {
    pub fn new(mode: Scalability, layers: u8) -> Definitions {
        let numbered = Numbered { mode, layers: usize::from(layers) };
        let frames: Vec<_> = (0..2 * mode.period() * usize::from(layers)).map(|frame| numbered.define(frame)).collect();
        let distinct: BTreeSet<Definition> = frames.iter().cloned().collect();
        let templates = distinct.into_iter().collect();
        Definitions { frames, layers: usize::from(layers), period: mode.period(), templates }
    }

    pub fn of(&self, picture: usize, spatial: u8) -> &Definition {
        let round = if picture < self.period { picture } else { picture % self.period + self.period };
        &self.frames[round * self.layers + usize::from(spatial)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_pattern_switches_up_anywhere_and_the_sparse_one_every_eighth_picture() {
        let ups = |mode: Scalability| (0..8).map(|picture| mode.switches_up(picture)).collect::<Vec<_>>();
        assert_eq!(ups(Scalability::L1T3), [true; 8]);
        let sparse = ups(Scalability::L1T3Sparse);
        assert!(sparse[0] && !sparse[4], "{sparse:?}");
        let base_only = |mode: Scalability| (0..8).map(|at| mode.frames(at, 1)[0].base_only).collect::<Vec<_>>();
        assert_eq!(base_only(Scalability::L1T3), [true, true, true, false, false, true, true, false]);
        assert_eq!(base_only(Scalability::L1T3Sparse), [true, true, true, false, false, false, false, false]);
    }

    #[test]
    fn references_stay_behind_their_keyframe() {
        for mode in [Scalability::L1T1, Scalability::L1T3, Scalability::L1T3Sparse, Scalability::L3T3Key] {
            for picture in 0..20 {
                let layers = mode.spatial_layers();
                for frame in mode.frames(picture, layers) {
                    let number = picture * usize::from(layers) + usize::from(frame.spatial);
                    assert!(frame.refs.iter().all(|back| usize::from(*back) <= number), "{mode:?} {picture}");
                }
            }
        }
    }

    #[test]
    fn definitions_fit_templates_and_name_their_chains() {
        for mode in [Scalability::L1T3, Scalability::L1T3Sparse, Scalability::L3T3, Scalability::L3T3Key] {
            let all = Definitions::new(mode, mode.spatial_layers());
            assert!(all.templates.len() <= 64, "{mode:?}");
            for template in &all.templates {
                assert!(template.diffs.iter().all(|diff| (1..=16).contains(diff)), "{template:?}");
                assert!(template.chain_diffs.iter().all(|diff| *diff < 16), "{template:?}");
            }
            assert!(all.of(0, 0).indications.iter().all(|indication| *indication == Indication::Switch));
        }
        let key = Definitions::new(Scalability::L3T3Key, 3);
        // The second picture of the highest layer: for its own targets alone.
        assert_eq!(key.of(4, 2).indications[..6], [Indication::NotPresent; 6]);
        assert_eq!(key.of(4, 2).chain_diffs, [2, 1, 12]);
    }
}
