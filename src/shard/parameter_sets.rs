//! H.264 parameter sets on their way into a source, and from a producer's home to the shards that watch it: those may have
//! joined long after the encoder sent them.

use crate::base::seq::ExtSeq;
use crate::base::slab::Key;
use crate::base::time::{Instant, Now};
use crate::media::parameter_sets::ParameterSets;
use crate::router::source::{EncodingSource, Source};
use crate::shard::relay::RelayMessage;
use crate::shard::shard::Shard;
use crate::wire::codec::PayloadInfo;
use crate::wire::codec::h264::{SetPart, parameter_set_id, parameter_sets};

impl Shard {
    /// A packet of a producer at its home, also while it is paused: the sets in it will be needed. An IDR that comes
    /// without any starts a keyframe where they were sent before.
    pub(super) fn read_parameter_sets(
        &mut self,
        key: Key<Source>,
        at: u8,
        (ext, timestamp, arrived): (ExtSeq, u32, Instant),
        payload: &[u8],
        info: &mut PayloadInfo,
    ) {
        let Some(source) = self.sources.get_mut(key) else { return };
        let Some(encoding) = source.encodings.get_mut(usize::from(at)) else { return };
        if info.garbled || !encoding.is_legible() {
            return;
        }
        let changed = keep_all(encoding, ext, payload);
        if let Some(sets) = &mut encoding.parameter_sets
            && sets.on_packet(ext, timestamp, info.starts_keyframe, info.starts_idr)
        {
            sets.used_at = arrived;
            info.starts_keyframe = true;
        }
        if changed {
            for shard in source.relays.clone() {
                self.relay_parameter_sets(key, at, shard);
            }
        }
    }

    fn relay_parameter_sets(&mut self, key: Key<Source>, at: u8, to: crate::base::id::ShardId) {
        let Some(source) = self.sources.get(key) else { return };
        let sets = source.encodings.get(usize::from(at)).and_then(|encoding| encoding.parameter_sets.as_deref());
        let Some(sets) = sets else { return };
        let (producer, units) = (source.producer, joined(sets));
        self.send_relay(to, &RelayMessage::ParameterSets { producer, encoding: at, units: &units });
    }

    /// All there are, to a shard that begins to watch.
    pub(super) fn relay_all_parameter_sets(&mut self, key: Key<Source>, to: crate::base::id::ShardId) {
        let encodings = self.sources.get(key).map_or(0, |source| source.encodings.len());
        for at in 0..encodings as u8 {
            self.relay_parameter_sets(key, at, to);
        }
    }

    /// At a shard that watches: these have taken the place of those before.
    pub(super) fn take_parameter_sets(&mut self, now: Now, key: Key<Source>, at: u8, mut units: &[u8]) {
        let source = self.sources.get_mut(key);
        let Some(encoding) = source.and_then(|source| source.encodings.get_mut(usize::from(at))) else { return };
        let sets = encoding.parameter_sets.get_or_insert_default();
        sets.used_at = now.mono;
        while let Some((len, rest)) = units.split_first_chunk() {
            let Some((unit, rest)) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len))) else { return };
            if let Some(id) = parameter_set_id(unit) {
                sets.keep(ExtSeq::default(), id, unit);
            }
            units = rest;
        }
    }
}

/// True when one is new.
fn keep_all(encoding: &mut EncodingSource, ext: ExtSeq, payload: &[u8]) -> bool {
    let mut changed = false;
    for part in parameter_sets(payload) {
        let sets = encoding.parameter_sets.get_or_insert_default();
        let whole;
        let unit = match part {
            SetPart::Whole(unit) => unit,
            SetPart::Fragment { head, starts, ends, part } => {
                let Some(unit) = sets.fragment(ext, head, starts, ends, part) else { continue };
                whole = unit;
                &whole
            }
        };
        if let Some(id) = parameter_set_id(unit) {
            changed |= sets.keep(ext, id, unit);
        }
    }
    changed
}

/// Each behind its length.
fn joined(sets: &ParameterSets) -> Vec<u8> {
    let mut units = Vec::new();
    for unit in sets.units() {
        units.extend((unit.len() as u16).to_be_bytes());
        units.extend_from_slice(unit);
    }
    units
}
