//! VP9's layers for one consumer (RFC 9628): spatial layers of one stream, predicted from each other in full or only at
//! keyframes (K-SVC), and temporal layers. Lower spatial layers always go along, so that a consumer may go down between
//! any two pictures.

use crate::base::id::Layers;
use crate::media::edit::Edit;
use crate::media::pictures::{Fate, PicturePlace, Pictures};
use crate::wire::codec::PayloadInfo;

#[derive(Clone, Debug)]
pub struct SpatialFilter {
    pictures: Pictures,
    /// At a keyframe the consumer's full target, whether the source sends so much or not.
    current: Layers,
    fresh: bool,
    /// Set by U: the temporal layer allowed from the next picture on.
    next_temporal: u8,
    /// The highest spatial layer of the newest picture so far, of the one before, and of all.
    top: u8,
    top_before: u8,
    top_ever: u8,
    /// Of the newest picture: its target spatial layer, the lowest layer with a withheld packet, and whether a packet
    /// went out with the marker.
    goal: u8,
    withheld: Option<u8>,
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
            top_ever: 0,
            goal: 0,
            withheld: None,
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
        (self.top, self.top_before, self.top_ever) = (0, 0, 0);
    }

    /// The layers up to which pictures pass, as far as there are any.
    pub fn current(&self) -> Layers {
        Layers { spatial: self.current.spatial.min(self.top_lately()), ..self.current }
    }

    /// Whether the consumer's target needs a keyframe: there are higher layers than it has.
    pub fn wants_keyframe(&self, target: Layers) -> bool {
        self.current.spatial < target.spatial.min(self.top_lately())
    }

    fn top_lately(&self) -> u8 {
        self.top.max(self.top_before)
    }

    /// The edits of the packet; None: it is not forwarded.
    pub fn on_packet(&mut self, info: &PayloadInfo, target: Layers) -> Option<Edit> {
        let Some(id) = info.picture else { return Some(Edit::default()) };
        let (number, fate) = match self.pictures.place(id) {
            PicturePlace::Newest(number) => {
                let passed_over = self.begin(info, target);
                let passes = info.temporal <= self.current.temporal;
                let fate = if passes { Fate::Passes(self.current.spatial) } else { Fate::Withheld };
                self.pictures.begin(number, fate, passed_over, info.tl0_picture_index);
                (number, self.raise(number, fate, info))
            }
            PicturePlace::Known(number, Fate::Unseen(passed)) => {
                let passes = info.temporal <= passed.temporal;
                let fate = if passes { Fate::Passes(passed.spatial) } else { Fate::Withheld };
                self.pictures.decide(number, fate);
                (number, fate)
            }
            PicturePlace::Known(number, fate) if self.pictures.is_newest(number) => {
                (number, self.raise(number, fate, info))
            }
            PicturePlace::Known(number, fate) => (number, fate),
            PicturePlace::Forgotten => return None,
        };
        let Fate::Passes(limit) = fate else { return None };
        let newest = self.pictures.is_newest(number);
        if info.spatial > limit {
            if newest {
                self.withheld = Some(self.withheld.map_or(info.spatial, |lowest| lowest.min(info.spatial)));
            }
            return None;
        }
        let ends_picture = info.ends_frame && info.spatial == limit && (!newest || self.is_last(limit, info));
        if newest {
            self.marked |= ends_picture;
        }
        Some(Edit { ends_picture, change: self.pictures.numbers(number, info.tl0_picture_index) })
    }

    /// The fate of the pictures that this newest one passes over: what held before it.
    fn begin(&mut self, info: &PayloadInfo, target: Layers) -> Fate {
        (self.top_before, self.top) = (self.top, info.spatial);
        (self.goal, self.withheld, self.marked) = (target.spatial, None, false);
        self.current.spatial = self.current.spatial.min(target.spatial);
        self.current.temporal = self.current.temporal.max(self.next_temporal).min(target.temporal);
        let passed_over = Fate::Unseen(self.current);
        self.next_temporal = 0;
        // A keyframe needs nothing from before it.
        if std::mem::take(&mut self.fresh) || !info.inter_predicted && info.spatial == 0 {
            self.current.temporal = target.temporal;
        }
        if info.switches_up && info.temporal <= self.current.temporal {
            //= RFC 9628 section 4.2, U: subsequent higher temporal layer pictures will not depend on any picture before
            // the current picture with a temporal layer above its own.
            self.next_temporal = u8::MAX;
        }
        passed_over
    }

    /// Up within the newest picture: at a keyframe to the consumer's target; else one layer, where that begins with a
    /// frame that refers to no earlier picture. Never to a layer with a withheld packet, nor behind the marker.
    fn raise(&mut self, number: u64, fate: Fate, info: &PayloadInfo) -> Fate {
        self.top = self.top.max(info.spatial);
        self.top_ever = self.top_ever.max(info.spatial);
        let Fate::Passes(limit) = fate else { return fate };
        if info.inter_predicted || self.marked {
            return fate;
        }
        let to = if info.spatial == 0 { self.goal } else { info.spatial.min(self.goal) };
        let to = self.withheld.map_or(to, |lowest| to.min(lowest.saturating_sub(1)));
        if to <= limit || info.spatial > limit.saturating_add(1) {
            return fate;
        }
        self.current.spatial = to;
        let fate = Fate::Passes(to);
        self.pictures.decide(number, fate);
        fate
    }

    /// Whether the frame of this layer, the highest that passes of the newest picture, is the picture's last for the
    /// consumer, though not for the source, whose own marker stands elsewhere. A layer above it may begin yet.
    fn is_last(&self, limit: u8, info: &PayloadInfo) -> bool {
        limit == self.goal || self.withheld.is_some() || info.inter_predicted && self.top_ever > limit
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
            starts_idr: false,
            garbled: false,
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
    fn a_picture_ends_as_it_began_though_the_target_changes_within() {
        for key in [false, true] {
            let mut filter = SpatialFilter::default();
            picture(&mut filter, 0, 0, true, ALL);
            let targets = [layers(2, 9), layers(1, 9), layers(0, 9)];
            let edits = (0..3u8).map(|s| filter.on_packet(&frame(1, s, 0, key), targets[usize::from(s)]));
            let ends: Vec<_> = edits.map(|edit| edit.map(|edit| edit.ends_picture)).collect();
            assert_eq!(ends, [Some(false), Some(false), Some(true)]);
        }
    }

    #[test]
    fn late_pictures_have_the_layers_of_their_time() {
        let mut filter = SpatialFilter::default();
        picture(&mut filter, 0, 0, true, layers(0, 9));
        assert_eq!(picture(&mut filter, 2, 0, true, ALL), [(0, false), (1, false), (2, false)]);
        assert_eq!(picture(&mut filter, 1, 0, false, ALL), [(0, true)], "from before the keyframe");
        assert_eq!(picture(&mut filter, 4, 0, false, layers(1, 9)), [(0, false), (1, true)]);
        assert_eq!(picture(&mut filter, 3, 0, true, layers(1, 9)), [(0, false), (1, true)], "a keyframe is late");
    }

    #[test]
    fn a_layer_of_which_a_packet_was_withheld_is_not_begun() {
        let mut filter = SpatialFilter::default();
        picture(&mut filter, 0, 0, true, layers(0, 9));
        assert_eq!(filter.on_packet(&frame(1, 2, 0, true), ALL), None, "out of order");
        assert!(filter.on_packet(&frame(1, 0, 0, true), ALL).is_some_and(|edit| !edit.ends_picture));
        assert!(filter.on_packet(&frame(1, 1, 0, true), ALL).is_some_and(|edit| edit.ends_picture));
        assert_eq!(filter.on_packet(&frame(1, 2, 0, true), ALL), None);
        assert!(filter.wants_keyframe(ALL));
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

    /// A decoder that keeps every frame that later ones refer to, over random targets, keyframes and both kinds of SVC.
    #[test]
    fn what_passes_can_always_be_decoded() {
        for seed in 0..200 {
            let mut rng = StdRng::seed_from_u64(seed);
            let k_svc = seed % 2 == 0;
            let mut filter = SpatialFilter::default();
            // By spatial and temporal layer: the picture last decoded there.
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
