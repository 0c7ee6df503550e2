//! VP9's layers for one consumer (RFC 9628): spatial layers of one stream, in full or only between keyframes predicted
//! from each other (K-SVC), and temporal ones. Lower spatial layers always go along, so that one may go down between
//! any two pictures.

use crate::base::id::Layers;
use crate::media::edit::Edit;
use crate::media::pictures::{Fate, Pictures, Place};
use crate::wire::codec::PayloadInfo;

#[derive(Debug)]
pub struct SpatialFilter {
    pictures: Pictures,
    current: Layers,
    fresh: bool,
    /// Set by U: what the temporal layer may be from the next picture on.
    next_temporal: u8,
    /// The highest spatial layer of the newest picture so far, and of the one before.
    top: u8,
    top_before: u8,
    /// A packet of the newest picture went out with the marker.
    marked: bool,
}

impl Default for SpatialFilter {
    fn default() -> Self {
        SpatialFilter {
            pictures: Pictures::keeping_gaps(),
            current: Layers::default(),
            fresh: true,
            next_temporal: 0,
            top: 0,
            top_before: 0,
            marked: false,
        }
    }
}

impl SpatialFilter {
    /// The next packet starts a keyframe, of this or another stream.
    pub fn rebase(&mut self) {
        self.pictures.rebase();
        self.fresh = true;
        self.current.spatial = 0;
        self.top_before = 0;
    }

    /// The layers up to which pictures pass.
    pub fn current(&self) -> Layers {
        self.current
    }

    /// Whether a keyframe is needed to get where the consumer should be: there are higher layers than it has.
    pub fn wants_keyframe(&self, target: Layers) -> bool {
        self.current.spatial < target.spatial.min(self.top.max(self.top_before))
    }

    /// How the packet goes out; None: it does not.
    pub fn on_packet(&mut self, info: &PayloadInfo, target: Layers) -> Option<Edit> {
        let Some(id) = info.picture else { return Some(Edit::default()) };
        let (number, fate) = match self.pictures.place(id) {
            Place::Newest(number) => {
                self.begin(info, target);
                let passes = info.temporal <= self.current.temporal;
                let fate = if passes { Fate::Passes(self.current.spatial) } else { Fate::Withheld };
                self.pictures.begin(number, fate, info.tl0_picture_index);
                (number, self.raise(number, fate, info, target))
            }
            Place::Known(number, Fate::Unseen) => {
                let passes = info.temporal <= self.current.temporal;
                let fate = if passes { Fate::Passes(self.current.spatial) } else { Fate::Withheld };
                self.pictures.decide(number, fate);
                (number, fate)
            }
            Place::Known(number, fate) if self.pictures.is_newest(number) => {
                self.top = self.top.max(info.spatial);
                (number, self.raise(number, fate, info, target))
            }
            Place::Known(number, fate) => (number, fate),
            Place::Forgotten => return None,
        };
        let Fate::Passes(limit) = fate else { return None };
        if info.spatial > limit {
            return None;
        }
        let ends_picture = info.ends_frame && self.is_last(limit, info, target);
        if self.pictures.is_newest(number) {
            self.marked |= ends_picture;
        }
        Some(Edit { ends_picture, change: self.pictures.numbers(number, info.tl0_picture_index) })
    }

    fn begin(&mut self, info: &PayloadInfo, target: Layers) {
        (self.top_before, self.top) = (self.top, info.spatial);
        self.marked = false;
        self.current.spatial = self.current.spatial.min(target.spatial);
        // A keyframe needs nothing from before it.
        if std::mem::take(&mut self.fresh) || info.starts_keyframe {
            self.next_temporal = u8::MAX;
        }
        self.current.temporal = self.current.temporal.max(self.next_temporal).min(target.temporal);
        self.next_temporal = 0;
        if info.switches_up && info.temporal <= self.current.temporal {
            //= RFC 9628 section 4.2, U: subsequent higher temporal layer pictures will not depend on any picture before
            // the current picture with a temporal layer above its own.
            self.next_temporal = u8::MAX;
        }
    }

    /// One spatial layer up, where its frame refers to no earlier picture: at a keyframe, or where the layer begins.
    fn raise(&mut self, number: u64, fate: Fate, info: &PayloadInfo, target: Layers) -> Fate {
        let Fate::Passes(limit) = fate else { return fate };
        let next = info.spatial == limit.saturating_add(1) && info.spatial <= target.spatial;
        if !next || info.inter_predicted || self.marked {
            return fate;
        }
        self.current.spatial = info.spatial;
        let fate = Fate::Passes(info.spatial);
        self.pictures.decide(number, fate);
        fate
    }

    /// Whether this layer's frame is the last of its picture for the consumer, though not for the source, whose own
    /// marker stands otherwise. At a keyframe one may still move up within the picture.
    fn is_last(&self, limit: u8, info: &PayloadInfo, target: Layers) -> bool {
        let for_now = info.inter_predicted && info.spatial == limit && self.top.max(self.top_before) > limit;
        info.spatial == target.spatial || for_now
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;
    use crate::media::edit::Change;
    use crate::wire::codec::PictureId;

    const ALL: Layers = Layers::ALL;

    fn layers(spatial: u8, temporal: u8) -> Layers {
        Layers { spatial, temporal }
    }

    /// A layer frame of one packet.
    fn frame(picture: u16, spatial: u8, temporal: u8, key: bool) -> PayloadInfo {
        PayloadInfo {
            starts_keyframe: key && spatial == 0,
            starts_frame: true,
            ends_frame: true,
            spatial,
            temporal,
            switches_up: temporal == 0,
            inter_predicted: !key,
            picture: Some(PictureId { value: picture & 0x7FFF, wide: true, offset: 1 }),
            tl0_picture_index: None,
        }
    }

    /// The spatial layers of a picture of three that pass, and which of them end it.
    fn picture(filter: &mut SpatialFilter, n: u16, temporal: u8, key: bool, target: Layers) -> Vec<(u8, bool)> {
        let edits = (0..3).map(|spatial| (spatial, filter.on_packet(&frame(n, spatial, temporal, key), target)));
        edits.filter_map(|(spatial, edit)| Some((spatial, edit?.ends_picture))).collect()
    }

    #[test]
    fn all_layers_pass_and_the_sources_marker_stands() {
        let mut filter = SpatialFilter::default();
        for n in 0..5 {
            assert_eq!(picture(&mut filter, n, 0, n == 0, ALL), [(0, false), (1, false), (2, false)]);
        }
        assert!(!filter.wants_keyframe(ALL));
    }

    #[test]
    fn down_at_any_picture_and_up_at_a_keyframe() {
        let mut filter = SpatialFilter::default();
        picture(&mut filter, 0, 0, true, ALL);
        picture(&mut filter, 1, 0, false, ALL);
        assert_eq!(picture(&mut filter, 2, 0, false, layers(1, 9)), [(0, false), (1, true)]);
        assert_eq!(picture(&mut filter, 3, 0, false, layers(0, 9)), [(0, true)]);
        assert!(!filter.wants_keyframe(layers(0, 9)));
        assert_eq!(picture(&mut filter, 4, 0, false, layers(1, 9)), [(0, true)]);
        assert!(filter.wants_keyframe(layers(1, 9)));
        assert_eq!(picture(&mut filter, 5, 0, true, layers(1, 9)), [(0, false), (1, true)]);
        assert!(!filter.wants_keyframe(layers(1, 9)));
    }

    #[test]
    fn a_layer_that_begins_from_the_one_below_is_taken_without_a_keyframe() {
        let mut filter = SpatialFilter::default();
        for n in 0..3 {
            assert!(filter.on_packet(&frame(n, 0, 0, n == 0), ALL).is_some_and(|edit| !edit.ends_picture));
        }
        assert!(filter.on_packet(&frame(3, 0, 0, false), ALL).is_some());
        assert!(filter.on_packet(&frame(3, 1, 0, true), ALL).is_some());
        assert_eq!(filter.current().spatial, 1);
    }

    #[test]
    fn temporal_layers_rise_after_a_switching_point_and_fall_at_once() {
        let mut filter = SpatialFilter::default();
        let pattern = [0, 2, 1, 2];
        let mut passed = |range: std::ops::Range<u16>, target| -> Vec<u16> {
            let temporal = |n: u16| pattern[usize::from(n % 4)];
            range.filter(|n| !picture(&mut filter, *n, temporal(*n), *n == 0, target).is_empty()).collect()
        };
        assert_eq!(passed(0..6, layers(2, 2)), [0, 1, 2, 3, 4, 5]);
        assert_eq!(passed(6..13, layers(2, 0)), [8, 12]);
        assert_eq!(passed(13..20, layers(2, 2)), [13, 14, 15, 16, 17, 18, 19], "from a switching point on");
    }

    #[test]
    fn another_encoding_goes_on_with_the_numbers() {
        let mut filter = SpatialFilter::default();
        filter.on_packet(&frame(7, 0, 0, true), ALL);
        filter.rebase();
        let edit = filter.on_packet(&frame(900, 0, 0, true), ALL).unwrap();
        assert_eq!(edit.change, Change::Picture { picture: 8, tl0_picture_index: 0 });
        let edit = filter.on_packet(&frame(902, 0, 0, false), ALL).unwrap();
        assert_eq!(edit.change, Change::Picture { picture: 10, tl0_picture_index: 0 });
    }

    /// A decoder that has all that its frames refer to, over random targets, keyframes and both kinds of SVC.
    #[test]
    fn what_passes_can_always_be_decoded() {
        for seed in 0..200 {
            let mut rng = StdRng::seed_from_u64(seed);
            let k_svc = seed % 2 == 0;
            let mut filter = SpatialFilter::default();
            // By spatial layer and temporal layer: the picture last decoded there.
            let mut decoded = [[None::<u16>; 3]; 3];
            let mut sent = [[None::<u16>; 3]; 3];
            let mut target = ALL;
            let mut top_picture = 0;
            for n in 0..2_000u16 {
                if rng.random_range(0..20) == 0 {
                    target = layers(rng.random_range(0..4), rng.random_range(0..3));
                }
                let key = n == 0 || rng.random_range(0..60) == 0;
                let temporal = if key { 0 } else { [0u8, 2, 1, 2][usize::from(n % 4)] };
                let (mut below, mut ended) = (false, false);
                for spatial in 0..3u8 {
                    let (s, t) = (usize::from(spatial), usize::from(temporal));
                    let passes = filter.on_packet(&frame(n, spatial, temporal, key), target);
                    // The newest of the same spatial layer that is not above its temporal one.
                    let needed = sent[s][..=t].iter().flatten().max().copied();
                    if let Some(edit) = passes {
                        assert!(spatial <= target.spatial && !ended, "seed {seed}");
                        ended = edit.ends_picture;
                        let inter = key || decoded[s][..=t].iter().flatten().max().copied() == needed;
                        let from_below = spatial == 0 || below || (k_svc && !key);
                        assert!(inter && from_below, "seed {seed} picture {n} layer {spatial}.{temporal}");
                        if key {
                            decoded[s] = [None; 3];
                        }
                        decoded[s][t] = Some(n);
                        top_picture = spatial;
                    }
                    below = passes.is_some();
                    if key {
                        sent[s] = [None; 3];
                    }
                    sent[s][t] = Some(n);
                }
                let full = top_picture == 2 || decoded[0].iter().flatten().max() != Some(&n);
                assert!(ended || full, "seed {seed} picture {n}: no marker");
            }
        }
    }
}
