//! The layers of one consumer of a layered producer: its encoding, and the spatial and temporal layers within. It puts
//! the mechanisms of `media` together; a consumer of a plain stream has none of this. `forward` calls it.

use crate::base::id::Layers;
use crate::base::seq::ExtSeq;
use crate::base::time::{Duration, Instant};
use crate::media::decode_target::{TargetFilter, Targets};
use crate::media::edit::{Change, Edit};
use crate::media::encoding_choice::{ActiveSet, Decision, EncodingSelector};
use crate::media::pictures::TemporalFilter;
use crate::media::rewrite::{Left, Rewriter, Rewritten};
use crate::media::spatial::SpatialFilter;
use crate::wire::codec::{Codec, PayloadInfo};
use crate::wire::dependency_descriptor::DescribedFrame;

/// The time that a stream with dependency descriptors may take until a frame at which one can go down.
const WAIT_BEFORE_KEYFRAME: Duration = Duration::from_millis(300);
/// After so many late keyframes an encoding is taken as it comes.
const REFUSED_MAX: u8 = 3;

#[derive(Clone)]
enum Filter {
    Temporal(TemporalFilter),
    Spatial(SpatialFilter),
    Target(TargetFilter),
}

impl Filter {
    fn new(codec: Codec) -> Filter {
        match codec {
            Codec::Vp8 | Codec::Opus => Filter::Temporal(TemporalFilter::default()),
            Codec::Vp9 => Filter::Spatial(SpatialFilter::default()),
            Codec::H264 | Codec::Av1 => Filter::Target(TargetFilter::default()),
        }
    }

    fn on_packet(
        &mut self,
        info: &PayloadInfo,
        frame: Option<(&DescribedFrame, &Targets)>,
        limit: Layers,
    ) -> Option<Edit> {
        match (self, frame) {
            (Filter::Temporal(filter), _) => {
                filter.on_packet(info, limit.temporal).map(|change| Edit { ends_picture: false, change })
            }
            (Filter::Spatial(filter), _) => filter.on_packet(info, limit),
            (Filter::Target(filter), Some((frame, targets))) => filter.on_packet(frame, targets, limit),
            (Filter::Target(_), None) => Some(Edit::default()),
        }
    }
}

/// The state of an encoding when the consumer left it.
struct Leftover {
    numbers: Left,
    filter: Filter,
}

/// The packets of the left encoding that are still wanted.
#[derive(Clone, Copy)]
struct Until {
    encoding: u8,
    epoch: u32,
    newest: ExtSeq,
}

pub struct Layered {
    /// Set by the client.
    preferred: Option<Layers>,
    /// The preferred layers, as far as bandwidth allows.
    limit: Layers,
    /// None: one encoding with layers in it.
    selector: Option<EncodingSelector>,
    filter: Filter,
    /// None: one encoding.
    leftover: Option<Box<Leftover>>,
    late: Option<Until>,
    /// The consumer gets dependency descriptors, without which nothing decodes AV1's upper spatial layers.
    described: bool,
    /// The highest temporal layer that went out.
    temporal_seen: u8,
    spatial: u8,
    /// Since when it is below its target layers.
    astray_since: Option<Instant>,
    /// Keyframes passed over because they were late.
    refused: u8,
    /// The layers that the client was told; None: none flow.
    pub told: Option<Layers>,
    /// The shard was told that the client is to be told of it.
    pub noticed: bool,
}

/// The decision about one packet of the flowing encoding.
pub struct LayerDecision {
    /// None: the packet is not for this consumer.
    pub edit: Option<Edit>,
    /// The target layers cannot be reached before a keyframe.
    pub wants_keyframe: bool,
}

impl Layered {
    pub fn new(codec: Codec, encodings: usize, described: bool) -> Layered {
        Layered {
            preferred: None,
            limit: Layers::ALL,
            selector: (encodings > 1).then(EncodingSelector::default),
            filter: Filter::new(codec),
            leftover: (encodings > 1)
                .then(|| Box::new(Leftover { numbers: Left::default(), filter: Filter::new(codec) })),
            late: None,
            described,
            temporal_seen: 0,
            spatial: 0,
            astray_since: None,
            refused: 0,
            told: None,
            noticed: false,
        }
    }

    pub fn set_preferred(&mut self, layers: Layers, allowed: Layers) {
        self.preferred = Some(layers);
        self.set_allowed(allowed);
    }

    pub fn set_allowed(&mut self, allowed: Layers) {
        self.limit = self.preferred().at_most(allowed);
    }

    /// The client's wish, whatever its bandwidth.
    pub fn preferred(&self) -> Layers {
        self.preferred.unwrap_or(Layers::ALL)
    }

    /// The most that can be sent to it, whatever its bandwidth.
    pub fn ceiling(&self) -> Layers {
        let lowest = matches!(self.filter, Filter::Target(_)) && self.selector.is_none() && !self.described;
        self.preferred().at_most(if lowest { Layers { spatial: 0, ..Layers::ALL } } else { Layers::ALL })
    }

    /// The layers that flow, as far as they have been seen.
    pub fn current(&self) -> Layers {
        Layers { spatial: self.spatial, temporal: self.temporal_seen }
    }

    /// Starts over at a keyframe.
    pub fn release(&mut self) {
        if let Some(selector) = &mut self.selector {
            selector.release();
        }
    }

    /// The encoding to begin or go on with, where that is not the present one.
    pub fn aim(&self, now: Instant, active: &ActiveSet) -> Option<u8> {
        self.selector.as_ref().and_then(|selector| selector.aim(now, active, self.limit.spatial))
    }

    pub fn select(&mut self, now: Instant, encoding: u8, starts: bool, active: &ActiveSet) -> Decision {
        match &mut self.selector {
            Some(selector) => selector.on_packet(now, encoding, starts, active, self.limit.spatial),
            None => Decision::Forward,
        }
    }

    /// Called before it is attached anew; `before` is the encoding that flowed until now, and its epoch.
    pub fn leave(&mut self, before: Option<(u8, u32)>, rewriter: &mut Rewriter) {
        self.late = None;
        if let (Some((encoding, epoch)), Some(leftover)) = (before, &mut self.leftover) {
            leftover.filter.clone_from(&self.filter);
            let newest = rewriter.leave(&mut leftover.numbers);
            self.late = newest.map(|newest| Until { encoding, epoch, newest });
        }
    }

    /// Whether the packet may be a missing one of the previous encoding.
    pub fn awaits(&self, encoding: u8, epoch: u32, ext: ExtSeq) -> bool {
        let is_of = |until: Until| until.encoding == encoding && until.epoch == epoch && ext <= until.newest;
        self.late.is_some_and(is_of)
    }

    /// Such a packet, as it would have gone out then: receivers that wait for its number need not give it up.
    pub fn late(
        &mut self,
        rewriter: &mut Rewriter,
        ext: ExtSeq,
        timestamp: u32,
        info: &PayloadInfo,
        frame: Option<(&DescribedFrame, &Targets)>,
    ) -> Option<(Rewritten, Edit)> {
        let limit = self.filter_limit();
        let leftover = self.leftover.as_deref_mut()?;
        let rewritten = rewriter.late(&mut leftover.numbers, ext, timestamp)?;
        // A descriptor would be read by the structure of the flowing encoding.
        let edit = if self.described { None } else { leftover.filter.on_packet(info, frame, limit) };
        Some((rewritten, edit.unwrap_or(Edit { change: Change::Hollow, ..Edit::default() })))
    }

    /// Attached to the encoding of this layer: the next packet starts a keyframe of it.
    pub fn attach(&mut self, layer: u8) {
        match &mut self.filter {
            Filter::Temporal(filter) => filter.rebase(),
            Filter::Spatial(filter) => filter.rebase(),
            Filter::Target(filter) => filter.rebase(),
        }
        self.spatial = if self.selector.is_some() { layer } else { 0 };
        self.temporal_seen = 0;
        self.astray_since = None;
        self.refused = 0;
    }

    /// Another order of the encodings was found: the flowing one is this layer of them.
    pub fn ranked(&mut self, layer: u8) {
        if self.selector.is_some() {
            self.spatial = layer;
        }
    }

    /// Passes over this keyframe, which is late. False: take it all the same.
    pub fn refuse_keyframe(&mut self) -> bool {
        self.refused = self.refused.saturating_add(1);
        self.refused <= REFUSED_MAX
    }

    /// `frame` is read from the packet's dependency descriptor; an unreadable one leaves the packet as it is.
    pub fn pass(
        &mut self,
        now: Instant,
        info: &PayloadInfo,
        frame: Option<(&DescribedFrame, &Targets)>,
    ) -> LayerDecision {
        let limit = self.filter_limit();
        let simulcast = self.selector.is_some();
        let mut spatial = self.spatial;
        let edit = self.filter.on_packet(info, frame, limit);
        let wants_keyframe = match (&self.filter, frame) {
            (Filter::Spatial(filter), _) => {
                spatial = filter.current().spatial;
                filter.wants_keyframe(limit)
            }
            (Filter::Target(filter), Some((_, targets))) => {
                spatial = filter.current().map_or(spatial, |target| targets.layers(target).spatial);
                let astray = filter.wants_keyframe(targets, limit);
                let since = if astray { *self.astray_since.get_or_insert(now) } else { now };
                if !astray {
                    self.astray_since = None;
                }
                let higher = limit.spatial > spatial && targets.top().spatial > spatial;
                astray && (higher || now.since(since) >= WAIT_BEFORE_KEYFRAME)
            }
            (Filter::Temporal(_), _) | (Filter::Target(_), None) => false,
        };
        if !simulcast {
            self.spatial = spatial;
        }
        self.temporal_seen = self.temporal_seen.min(limit.temporal);
        if edit.is_some() {
            let temporal = frame.map_or(info.temporal, |(frame, _)| frame.temporal);
            self.temporal_seen = self.temporal_seen.max(temporal.min(limit.temporal));
        }
        LayerDecision { edit, wants_keyframe }
    }

    /// Layers within the flowing encoding.
    fn filter_limit(&self) -> Layers {
        let spatial = match self.filter {
            Filter::Target(_) if !self.described => 0,
            _ if self.selector.is_some() => u8::MAX,
            _ => self.limit.spatial,
        };
        Layers { spatial, ..self.limit }
    }

    /// Whether the flowing layers are not those that the client was told last. True once, until it is told.
    pub fn has_changed(&mut self) -> bool {
        self.told != Some(self.current()) && !std::mem::replace(&mut self.noticed, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_descriptors_av1_has_its_lowest_spatial_layer_at_most() {
        let spatial = |codec, encodings, described| Layered::new(codec, encodings, described).ceiling().spatial;
        assert_eq!(spatial(Codec::Av1, 1, false), 0);
        assert_eq!(spatial(Codec::Av1, 1, true), u8::MAX);
        assert_eq!(spatial(Codec::Av1, 3, false), u8::MAX, "encodings are streams of their own");
        assert_eq!(spatial(Codec::Vp9, 1, false), u8::MAX);
        let mut layered = Layered::new(Codec::Av1, 1, false);
        layered.set_preferred(Layers { spatial: 2, temporal: 1 }, Layers::ALL);
        assert_eq!(layered.ceiling(), Layers { spatial: 0, temporal: 1 });
    }
}
