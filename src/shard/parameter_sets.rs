//! H.264 parameter sets on their way into a source, and from a producer's home to its subscribers. A subscriber may
//! join long after the encoder sent the sets, and gets them with each IDR that needs them.

use crate::base::seq::ExtSeq;
use crate::base::time::{Instant, Now};
use crate::media::parameter_sets::ParameterSets;
use crate::router::source::{EncodingSource, Source};
use crate::shard::port::Port;
use crate::wire::codec::PayloadInfo;
use crate::wire::codec::h264::{SetPart, parameter_set_id, parameter_sets};

/// Reads the sets in a packet at the producer's home, also while the producer is paused: they will be needed. An IDR
/// without sets starts a keyframe where they were sent before.
pub(super) fn read(
    source: &mut Source,
    port: &mut Port,
    at: u8,
    (ext, timestamp, arrived): (ExtSeq, u32, Instant),
    payload: &[u8],
    info: &mut PayloadInfo,
) {
    let Some(encoding) = source.encodings.get_mut(usize::from(at)) else { return };
    if info.garbled || !encoding.is_legible() {
        return;
    }
    keep_all(encoding, ext, payload);
    let Some(sets) = &mut encoding.parameter_sets else { return };
    if !sets.on_packet(ext, timestamp, info.starts_keyframe, info.starts_idr) {
        return;
    }
    sets.used_at = arrived;
    info.starts_keyframe = true;
    if !source.subscribers.is_empty() || !source.exports.is_empty() {
        let units = joined(sets);
        port.parameter_sets(source, at, &units);
    }
}

/// Takes the sets that the home sends to a stand-in, in place of those before.
pub(super) fn take(source: &mut Source, now: Now, at: u8, mut units: &[u8]) {
    let Some(encoding) = source.encodings.get_mut(usize::from(at)) else { return };
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

fn keep_all(encoding: &mut EncodingSource, ext: ExtSeq, payload: &[u8]) {
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
            sets.keep(ext, id, unit);
        }
    }
}

/// The sets, each behind its length.
pub(super) fn joined(sets: &ParameterSets) -> Vec<u8> {
    let mut units = Vec::new();
    for unit in sets.units() {
        units.extend((unit.len() as u16).to_be_bytes());
        units.extend_from_slice(unit);
    }
    units
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{Layers, ProducerId, ShardId};
    use crate::router::source::SourceOrigin;
    use crate::shard::relay::{Feed, Record};
    use crate::wire::codec::{Codec, inspect};

    fn source() -> Source {
        let origin = SourceOrigin::Relay(ShardId(1));
        Source::new(Instant::ZERO, ProducerId(7), origin, Codec::H264, 90_000, 1, Layers::default())
    }

    const SPS: [u8; 5] = [0x67, 0x42, 0xe0, 0x1f, 0x80];
    const PPS: [u8; 4] = [0x68, 0xce, 0x38, 0x80];
    const IDR: [u8; 4] = [0x65, 0x88, 0x84, 0x00];

    #[test]
    fn an_idr_without_sets_begins_a_keyframe_by_those_that_came_before_here_and_elsewhere() {
        let (mut home, mut away, mut port) = (source(), source(), Port::default());
        home.subscribers.push(ShardId(1));
        let mut begins = |ext: u64, timestamp, payload: &[u8]| {
            let mut info = inspect(Codec::H264, payload);
            read(&mut home, &mut port, 0, (ExtSeq(ext), timestamp, Instant::ZERO), payload, &mut info);
            info.starts_keyframe
        };
        assert!(!begins(1, 0, &IDR), "nobody could decode it");
        begins(2, 90, &SPS);
        begins(3, 90, &PPS);
        begins(4, 90, &IDR);
        assert!(begins(5, 180, &IDR), "bare, and its sets are known");
        let now = Now { mono: Instant::from_nanos(5), wall: crate::base::time::NtpTime::default() };
        port.poll(&mut |_, record| {
            let Some(Record::Feed(_, Feed::ParameterSets { units, .. })) = Record::decode(record) else { panic!() };
            take(&mut away, now, 0, units);
            true
        });
        let kept: Vec<Vec<u8>> =
            away.encodings[0].parameter_sets.iter().flat_map(|sets| sets.units()).map(<[u8]>::to_vec).collect();
        assert_eq!(kept, [&SPS[..], &PPS[..]]);
    }
}
