//! The orders of a lane: what a subscriber wants of a holder, and what the holder says about a producer. `transport::lane`
//! delivers them in their order; this file is their bytes. An order of an unknown type is passed over.

use crate::base::limits::ENCODINGS_MAX;
use crate::base::node_id::NodeId;
use crate::base::ranking::Ranking;
use crate::base::time::NtpTime;
use crate::wire::lane::LaneHandle;
use crate::wire::lane::record::handle;
use crate::wire::{Malformed, Reader};

/// The name of a producer on every node.
pub type ProducerUuid = [u8; 16];

/// Nodes on a producer's way, and those to be avoided.
pub const PATH_MAX: usize = 4;
/// Other holders that one answer names.
pub const ELSEWHERE_MAX: usize = 3;

/// At most `N` values, kept in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Few<T, const N: usize> {
    values: [T; N],
    len: u8,
}

impl<T: Copy + Default, const N: usize> Default for Few<T, N> {
    fn default() -> Self {
        Few { values: [T::default(); N], len: 0 }
    }
}

impl<T: Copy + Default, const N: usize> Few<T, N> {
    /// As many of them as there is room for.
    pub fn of(values: impl IntoIterator<Item = T>) -> Few<T, N> {
        let mut few = Few::default();
        for (place, value) in few.values.iter_mut().zip(values) {
            *place = value;
            few.len += 1;
        }
        few
    }

    /// Their number, and each of them.
    fn parse<'a>(
        reader: &mut Reader<'a>,
        mut each: impl FnMut(&mut Reader<'a>) -> Result<T, Malformed>,
    ) -> Result<Few<T, N>, Malformed> {
        let len = reader.u8()?;
        let mut few = Few { len, ..Few::default() };
        for place in few.values.get_mut(..usize::from(len)).ok_or(TOO_MANY)? {
            *place = each(reader)?;
        }
        Ok(few)
    }

    pub fn as_slice(&self) -> &[T] {
        &self.values[..usize::from(self.len)]
    }
}

/// What a subscriber has use for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct LaneWant {
    /// A bit for each encoding.
    pub encodings: u8,
    /// The highest layers within an encoding.
    pub spatial: u8,
    pub temporal: u8,
    pub watchers: u16,
    pub children: u16,
}

/// Where one encoding stands as a feed begins.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SubscribedEncoding {
    pub epoch: u32,
    /// The newest extended number; 0: there is none yet.
    pub newest: u64,
    pub clock: Option<(NtpTime, u32)>,
}

/// Why a producer is not to be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LaneGone {
    /// Nobody of that name is here.
    Unknown,
    /// It ended.
    Closed,
    /// The holder is at a bound.
    Full,
    /// For a reason of a later version.
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(clippy::large_enum_variant, reason = "orders are few, and none of them takes the heap")]
pub enum LaneOrder<'a> {
    /// Takes the number of an order that a newer one has made pointless.
    Nothing,
    Open {
        versions: (u8, u8),
        features: u64,
        node: NodeId,
        shard: u16,
        zero: NtpTime,
    },
    Subscribe {
        handle: LaneHandle,
        producer: ProducerUuid,
        want: LaneWant,
        replay: bool,
        avoid: Few<NodeId, PATH_MAX>,
    },
    Subscribed {
        handle: LaneHandle,
        paused: bool,
        withheld: bool,
        path: Few<NodeId, PATH_MAX>,
        encodings: Few<SubscribedEncoding, ENCODINGS_MAX>,
    },
    Elsewhere {
        handle: LaneHandle,
        holders: Few<(u64, u16), ELSEWHERE_MAX>,
    },
    Gone {
        handle: LaneHandle,
        why: LaneGone,
    },
    Closed {
        handle: LaneHandle,
        why: LaneGone,
    },
    Unsubscribe {
        handle: LaneHandle,
    },
    Want {
        handle: LaneHandle,
        want: LaneWant,
    },
    /// A keyframe of this encoding, or of all that are sent. `first`: somebody has no picture yet.
    KeyFrame {
        handle: LaneHandle,
        encoding: Option<u8>,
        first: bool,
    },
    Paused {
        handle: LaneHandle,
        paused: bool,
    },
    Withheld {
        handle: LaneHandle,
        withheld: bool,
    },
    Path {
        handle: LaneHandle,
        path: Few<NodeId, PATH_MAX>,
    },
    /// The encodings that the holder leaves out, a bit each.
    Withdrawn {
        handle: LaneHandle,
        encodings: u8,
    },
    /// The layer of each encoding, where that is measured.
    Ranked {
        handle: LaneHandle,
        ranking: Ranking,
    },
    /// H.264 parameter sets of one encoding, each behind its length. `first`: in place of those before.
    ParameterSets {
        handle: LaneHandle,
        encoding: u8,
        first: bool,
        units: &'a [u8],
    },
}

const NOTHING: u8 = 0;
const OPEN: u8 = 1;
const SUBSCRIBE: u8 = 2;
const SUBSCRIBED: u8 = 3;
const ELSEWHERE: u8 = 4;
const GONE: u8 = 5;
const CLOSED: u8 = 6;
const UNSUBSCRIBE: u8 = 7;
const WANT: u8 = 8;
const KEY_FRAME: u8 = 9;
const PAUSED: u8 = 10;
const WITHHELD: u8 = 11;
const PATH: u8 = 12;
const WITHDRAWN: u8 = 13;
const RANKED: u8 = 14;
const PARAMETER_SETS: u8 = 15;

const ANY_ENCODING: u8 = u8::MAX;
const OTHER_WHY: u8 = 3;

/// The order as the body of its record.
pub fn order_bytes(order: &LaneOrder<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    order.encode(&mut out);
    out
}

impl<'a> LaneOrder<'a> {
    /// None: of a type that is unknown here.
    pub fn parse(body: &'a [u8]) -> Result<Option<LaneOrder<'a>>, Malformed> {
        let mut reader = Reader::new(body, "order cut short");
        let kind = reader.u8()?;
        Ok(Some(match kind {
            NOTHING => LaneOrder::Nothing,
            OPEN => LaneOrder::Open {
                versions: (reader.u8()?, reader.u8()?),
                features: reader.u64()?,
                node: NodeId(reader.u64()?),
                shard: reader.u16()?,
                zero: NtpTime(reader.u64()?),
            },
            SUBSCRIBE..=PARAMETER_SETS => {
                let handle = handle(&mut reader)?;
                LaneOrder::about(kind, handle, &mut reader)?
            }
            _ => return Ok(None),
        }))
    }

    /// An order about one handle, after it.
    fn about(kind: u8, handle: LaneHandle, reader: &mut Reader<'a>) -> Result<LaneOrder<'a>, Malformed> {
        Ok(match kind {
            SUBSCRIBE => {
                let mut producer = [0; 16];
                producer.copy_from_slice(reader.take(16)?);
                let (want, replay) = (want(reader)?, reader.u8()? != 0);
                LaneOrder::Subscribe { handle, producer, want, replay, avoid: nodes(reader)? }
            }
            SUBSCRIBED => {
                let flags = reader.u8()?;
                let path = nodes(reader)?;
                let encodings = Few::parse(reader, SubscribedEncoding::parse)?;
                LaneOrder::Subscribed { handle, paused: flags & 1 != 0, withheld: flags & 2 != 0, path, encodings }
            }
            ELSEWHERE => {
                let holders = Few::parse(reader, |reader| Ok((reader.u64()?, reader.u16()?)))?;
                LaneOrder::Elsewhere { handle, holders }
            }
            GONE => LaneOrder::Gone { handle, why: LaneGone::from_byte(reader.u8()?) },
            CLOSED => LaneOrder::Closed { handle, why: LaneGone::from_byte(reader.u8()?) },
            UNSUBSCRIBE => LaneOrder::Unsubscribe { handle },
            WANT => LaneOrder::Want { handle, want: want(reader)? },
            KEY_FRAME => {
                let encoding = Some(reader.u8()?).filter(|encoding| *encoding != ANY_ENCODING);
                LaneOrder::KeyFrame { handle, encoding, first: reader.u8()? != 0 }
            }
            PAUSED => LaneOrder::Paused { handle, paused: reader.u8()? != 0 },
            WITHHELD => LaneOrder::Withheld { handle, withheld: reader.u8()? != 0 },
            PATH => LaneOrder::Path { handle, path: nodes(reader)? },
            WITHDRAWN => LaneOrder::Withdrawn { handle, encodings: reader.u8()? },
            RANKED => {
                let mut layers = [0; ENCODINGS_MAX];
                layers.copy_from_slice(reader.take(ENCODINGS_MAX)?);
                let ranking = Ranking::smallest_first(layers).ok_or(Malformed("no order of encodings"))?;
                LaneOrder::Ranked { handle, ranking }
            }
            _ => {
                let (encoding, first) = (reader.u8()?, reader.u8()? != 0);
                LaneOrder::ParameterSets { handle, encoding, first, units: reader.take_rest() }
            }
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let mut about = |kind: u8, handle: LaneHandle| {
            out.push(kind);
            out.extend(handle.to_bytes());
        };
        match *self {
            LaneOrder::Nothing => out.push(NOTHING),
            LaneOrder::Open { versions: (from, to), features, node, shard, zero } => {
                out.extend([OPEN, from, to]);
                out.extend(features.to_be_bytes());
                out.extend(node.to_be_bytes());
                out.extend(shard.to_be_bytes());
                out.extend(zero.0.to_be_bytes());
            }
            LaneOrder::Subscribe { handle, producer, want, replay, avoid } => {
                about(SUBSCRIBE, handle);
                out.extend(producer);
                want.encode(out);
                out.push(u8::from(replay));
                encode_nodes(&avoid, out);
            }
            LaneOrder::Subscribed { handle, paused, withheld, path, encodings } => {
                about(SUBSCRIBED, handle);
                out.push(u8::from(paused) | u8::from(withheld) << 1);
                encode_nodes(&path, out);
                out.push(encodings.len);
                encodings.as_slice().iter().for_each(|encoding| encoding.encode(out));
            }
            LaneOrder::Unsubscribe { handle } => about(UNSUBSCRIBE, handle),
            LaneOrder::Want { handle, want } => {
                about(WANT, handle);
                want.encode(out);
            }
            LaneOrder::KeyFrame { handle, encoding, first } => {
                about(KEY_FRAME, handle);
                out.extend([encoding.unwrap_or(ANY_ENCODING), u8::from(first)]);
            }
            _ => self.encode_told(out),
        }
    }

    /// What a holder says about a producer.
    fn encode_told(&self, out: &mut Vec<u8>) {
        let mut about = |kind: u8, handle: LaneHandle| {
            out.push(kind);
            out.extend(handle.to_bytes());
        };
        match *self {
            LaneOrder::Elsewhere { handle, holders } => {
                about(ELSEWHERE, handle);
                out.push(holders.len);
                for (node, shard) in holders.as_slice() {
                    out.extend(node.to_be_bytes());
                    out.extend(shard.to_be_bytes());
                }
            }
            LaneOrder::Gone { handle, why } => {
                about(GONE, handle);
                out.push(why.to_byte());
            }
            LaneOrder::Closed { handle, why } => {
                about(CLOSED, handle);
                out.push(why.to_byte());
            }
            LaneOrder::Paused { handle, paused } => {
                about(PAUSED, handle);
                out.push(u8::from(paused));
            }
            LaneOrder::Withheld { handle, withheld } => {
                about(WITHHELD, handle);
                out.push(u8::from(withheld));
            }
            LaneOrder::Path { handle, path } => {
                about(PATH, handle);
                encode_nodes(&path, out);
            }
            LaneOrder::Withdrawn { handle, encodings } => {
                about(WITHDRAWN, handle);
                out.push(encodings);
            }
            LaneOrder::Ranked { handle, ranking } => {
                about(RANKED, handle);
                out.extend(ranking.encodings());
            }
            LaneOrder::ParameterSets { handle, encoding, first, units } => {
                about(PARAMETER_SETS, handle);
                out.extend([encoding, u8::from(first)]);
                out.extend_from_slice(units);
            }
            LaneOrder::Nothing
            | LaneOrder::Open { .. }
            | LaneOrder::Subscribe { .. }
            | LaneOrder::Subscribed { .. }
            | LaneOrder::Unsubscribe { .. }
            | LaneOrder::Want { .. }
            | LaneOrder::KeyFrame { .. } => debug_assert!(false, "these have been written"),
        }
    }
}

const TOO_MANY: Malformed = Malformed("order with a list that is too long");

impl LaneGone {
    fn from_byte(byte: u8) -> LaneGone {
        match byte {
            0 => LaneGone::Unknown,
            1 => LaneGone::Closed,
            2 => LaneGone::Full,
            _ => LaneGone::Other,
        }
    }

    fn to_byte(self) -> u8 {
        match self {
            LaneGone::Unknown => 0,
            LaneGone::Closed => 1,
            LaneGone::Full => 2,
            LaneGone::Other => OTHER_WHY,
        }
    }
}

impl LaneWant {
    fn encode(self, out: &mut Vec<u8>) {
        out.extend([self.encodings, self.spatial, self.temporal]);
        out.extend(self.watchers.to_be_bytes());
        out.extend(self.children.to_be_bytes());
    }
}

fn want(reader: &mut Reader<'_>) -> Result<LaneWant, Malformed> {
    let (encodings, spatial, temporal) = (reader.u8()?, reader.u8()?, reader.u8()?);
    Ok(LaneWant { encodings, spatial, temporal, watchers: reader.u16()?, children: reader.u16()? })
}

impl SubscribedEncoding {
    fn parse(reader: &mut Reader<'_>) -> Result<SubscribedEncoding, Malformed> {
        let (epoch, newest) = (reader.u32()?, reader.u64()?);
        let (known, ntp, timestamp) = (reader.u8()? != 0, NtpTime(reader.u64()?), reader.u32()?);
        Ok(SubscribedEncoding { epoch, newest, clock: known.then_some((ntp, timestamp)) })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let (ntp, timestamp) = self.clock.unwrap_or_default();
        out.extend(self.epoch.to_be_bytes());
        out.extend(self.newest.to_be_bytes());
        out.push(u8::from(self.clock.is_some()));
        out.extend(ntp.0.to_be_bytes());
        out.extend(timestamp.to_be_bytes());
    }
}

fn nodes(reader: &mut Reader<'_>) -> Result<Few<NodeId, PATH_MAX>, Malformed> {
    Few::parse(reader, |reader| Ok(NodeId(reader.u64()?)))
}

fn encode_nodes(nodes: &Few<NodeId, PATH_MAX>, out: &mut Vec<u8>) {
    out.push(nodes.len);
    nodes.as_slice().iter().for_each(|node| out.extend(node.to_be_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples() -> Vec<LaneOrder<'static>> {
        let handle = LaneHandle { index: 513, generation: 4 };
        let want = LaneWant { encodings: 5, spatial: 1, temporal: 2, watchers: 300, children: 4 };
        let path = Few::of([NodeId(1), NodeId(u64::MAX)]);
        let encoding = SubscribedEncoding { epoch: 9, newest: 1 << 40, clock: Some((NtpTime(5), 6)) };
        vec![
            LaneOrder::Nothing,
            LaneOrder::Open { versions: (1, 2), features: 3, node: NodeId(4), shard: 5, zero: NtpTime(6) },
            LaneOrder::Subscribe { handle, producer: [7; 16], want, replay: true, avoid: path },
            LaneOrder::Subscribed {
                handle,
                paused: true,
                withheld: false,
                path,
                encodings: Few::of([encoding, SubscribedEncoding::default()]),
            },
            LaneOrder::Elsewhere { handle, holders: Few::of([(1, 2), (3, 4)]) },
            LaneOrder::Gone { handle, why: LaneGone::Full },
            LaneOrder::Closed { handle, why: LaneGone::Closed },
            LaneOrder::Unsubscribe { handle },
            LaneOrder::Want { handle, want },
            LaneOrder::KeyFrame { handle, encoding: None, first: true },
            LaneOrder::KeyFrame { handle, encoding: Some(2), first: false },
            LaneOrder::Paused { handle, paused: true },
            LaneOrder::Withheld { handle, withheld: true },
            LaneOrder::Path { handle, path },
            LaneOrder::Withdrawn { handle, encodings: 6 },
            LaneOrder::Ranked { handle, ranking: Ranking::smallest_first([2, 0, 1]).unwrap() },
            LaneOrder::ParameterSets { handle, encoding: 1, first: true, units: &[0, 2, 0x67, 0x42] },
        ]
    }

    #[test]
    fn every_order_is_read_as_it_was_written_and_an_unknown_one_is_nothing() {
        for order in examples() {
            assert_eq!(LaneOrder::parse(&order_bytes(&order)), Ok(Some(order)));
        }
        assert_eq!(LaneOrder::parse(&[200, 1, 2]), Ok(None));
        assert!(LaneOrder::parse(&[]).is_err());
    }

    #[test]
    fn no_truncation_or_mutation_panics() {
        for order in examples() {
            let bytes = order_bytes(&order);
            for len in 0..bytes.len() {
                drop(format!("{:?}", LaneOrder::parse(&bytes[..len])));
            }
            for at in 0..bytes.len() {
                for value in [0, 1, 8, 127, 255] {
                    let mut bad = bytes.clone();
                    bad[at] = value;
                    drop(format!("{:?}", LaneOrder::parse(&bad)));
                }
            }
        }
    }

    #[test]
    fn a_list_keeps_what_fits() {
        let few: Few<u8, 3> = Few::of(1..9);
        assert_eq!(few.as_slice(), [1, 2, 3]);
    }
}
