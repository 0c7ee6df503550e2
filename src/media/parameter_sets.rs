//! The parameter sets of one H.264 stream: an encoder may send them once, and a later joiner cannot decode an IDR
//! without them. Kept by kind and id, few and small, as the sender made them. It also tells an IDR without sets in
//! front from one that has them. `wire` reads the payload; `router` decides who must be sent them.

use crate::base::limits::{PARAMETER_SET_BYTES_MAX, PARAMETER_SETS_BYTES_MAX, PARAMETER_SETS_MAX};
use crate::base::seq::ExtSeq;
use crate::base::time::Instant;
use crate::wire::codec::h264::SetId;

#[derive(Debug)]
struct Kept {
    set: SetId,
    /// The last packet that carried it.
    from: ExtSeq,
    unit: Box<[u8]>,
}

/// The newest packet, and the state of its picture.
#[derive(Clone, Copy, Debug)]
struct Newest {
    ext: ExtSeq,
    timestamp: u32,
    /// Nothing of the picture is missing so far, and none of it was a sequence parameter set.
    bare: bool,
}

#[derive(Debug, Default)]
pub struct ParameterSets {
    /// In the order that a decoder needs.
    kept: Vec<Kept>,
    /// Counts changes.
    version: u32,
    /// A set that comes in fragments, and the packet that continues it.
    fragments: Option<(ExtSeq, Vec<u8>)>,
    newest: Option<Newest>,
    /// When the newest IDR came that may need the sets in front.
    pub used_at: Instant,
}

impl ParameterSets {
    /// True when the stored sets changed. A late packet never replaces a newer set.
    pub fn keep(&mut self, from: ExtSeq, set: SetId, unit: &[u8]) -> bool {
        if unit.len() > PARAMETER_SET_BYTES_MAX {
            return false;
        }
        let at = match self.kept.binary_search_by_key(&set, |kept| kept.set) {
            Ok(at) => {
                let kept = &mut self.kept[at];
                if kept.from > from {
                    return false;
                }
                kept.from = from;
                if *kept.unit == *unit {
                    return false;
                }
                self.kept.remove(at);
                at
            }
            Err(at) => at,
        };
        self.kept.insert(at, Kept { set, from, unit: unit.into() });
        while self.kept.len() > PARAMETER_SETS_MAX || self.bytes() > PARAMETER_SETS_BYTES_MAX {
            let oldest = (0..self.kept.len()).min_by_key(|at| self.kept[*at].from).unwrap_or(0);
            self.kept.remove(oldest);
        }
        self.version = self.version.wrapping_add(1);
        true
    }

    /// One fragment of a set (RFC 6184 section 5.8). Returns the whole set when it is complete.
    pub fn fragment(&mut self, ext: ExtSeq, head: u8, starts: bool, ends: bool, part: &[u8]) -> Option<Vec<u8>> {
        let mut unit = match self.fragments.take() {
            _ if starts => vec![head],
            Some((next, unit)) if next == ext => unit,
            _ => return None,
        };
        if unit.len() + part.len() > PARAMETER_SET_BYTES_MAX {
            return None;
        }
        unit.extend_from_slice(part);
        if ends {
            return Some(unit);
        }
        self.fragments = Some((ext.next(), unit));
        None
    }

    /// Takes each packet of the stream. True: it starts an IDR, a decoder needs these sets before it, and nothing on
    /// the way is about to bring them.
    pub fn on_packet(&mut self, ext: ExtSeq, timestamp: u32, has_sequence_set: bool, starts_idr: bool) -> bool {
        if self.newest.is_some_and(|newest| ext <= newest.ext) {
            return false;
        }
        let bare = match self.newest {
            Some(before) if before.ext.next() != ext => false,
            Some(before) if before.timestamp == timestamp => before.bare,
            Some(_) => true,
            None => false,
        };
        let bare = bare && !has_sequence_set;
        let needs = bare && starts_idr && self.is_complete();
        self.newest = Some(Newest { ext, timestamp, bare: bare && !starts_idr });
        needs
    }

    /// A number without media.
    pub fn on_skipped(&mut self, ext: ExtSeq) {
        if let Some(newest) = self.newest.as_mut().filter(|newest| newest.ext.next() == ext) {
            newest.ext = ext;
        }
    }

    /// The stream restarts its numbering; its encoder is the same.
    pub fn on_restart(&mut self) {
        (self.newest, self.fragments) = (None, None);
    }

    /// A sequence parameter set, and a picture parameter set.
    fn is_complete(&self) -> bool {
        self.kept.first().map(|first| first.set.kind) != self.kept.last().map(|last| last.set.kind)
    }

    /// The names of all sets, by which [`ParameterSets::unit`] finds them until they change.
    pub fn names(&self) -> impl ExactSizeIterator<Item = u64> + use<> {
        let version = u64::from(self.version) << 8;
        (0..self.kept.len() as u8).map(move |place| version | u64::from(place))
    }

    pub fn unit(&self, name: u64) -> Option<&[u8]> {
        let kept = self.kept.get(usize::from(name as u8)).filter(|_| name >> 8 == u64::from(self.version))?;
        Some(&kept.unit)
    }

    pub fn units(&self) -> impl Iterator<Item = &[u8]> {
        self.kept.iter().map(|kept| &*kept.unit)
    }

    fn bytes(&self) -> usize {
        self.units().map(<[u8]>::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPS: SetId = SetId { kind: 7, id: 0 };
    const PPS: SetId = SetId { kind: 8, id: 0 };

    fn complete() -> ParameterSets {
        let mut sets = ParameterSets::default();
        assert!(sets.keep(ExtSeq(100), PPS, b"pps") && sets.keep(ExtSeq(100), SPS, b"sps"));
        sets
    }

    #[test]
    fn sets_are_kept_by_kind_and_id_and_the_newest_of_each_counts() {
        let mut sets = complete();
        assert_eq!(sets.units().collect::<Vec<_>>(), [b"sps", b"pps"]);
        let names: Vec<_> = sets.names().collect();
        assert_eq!(names.iter().map(|name| sets.unit(*name).unwrap()).collect::<Vec<_>>(), [b"sps", b"pps"]);
        assert!(!sets.keep(ExtSeq(110), SPS, b"sps"), "the same again");
        assert!(!sets.keep(ExtSeq(105), SPS, b"old"), "late");
        assert!(sets.unit(names[1]).is_some());
        assert!(sets.keep(ExtSeq(111), SPS, b"new"));
        assert!(sets.unit(names[1]).is_none(), "it may belong to what was before");
        assert_eq!(sets.units().collect::<Vec<_>>(), [b"new", b"pps"]);
    }

    #[test]
    fn they_are_few_and_small_and_the_oldest_goes_first() {
        let mut sets = complete();
        assert!(!sets.keep(ExtSeq(101), SetId { id: 1, ..SPS }, &[0; PARAMETER_SET_BYTES_MAX + 1]));
        for id in 1..=255 {
            sets.keep(ExtSeq(u64::from(id) + 200), SetId { id, ..PPS }, &[id; 100]);
            assert!(sets.names().len() <= PARAMETER_SETS_MAX && sets.bytes() <= PARAMETER_SETS_BYTES_MAX);
        }
        assert_eq!(sets.units().last().unwrap()[0], 255);
        let mut sets = complete();
        for id in 1..4 {
            sets.keep(ExtSeq(u64::from(id) + 200), SetId { id, ..PPS }, &[id; PARAMETER_SET_BYTES_MAX]);
            assert!(sets.bytes() <= PARAMETER_SETS_BYTES_MAX);
        }
    }

    #[test]
    fn fragments_in_a_row_make_a_set() {
        let mut sets = ParameterSets::default();
        let e = |n: u64| ExtSeq(70_000 + n);
        assert_eq!(sets.fragment(e(0), 0x67, true, false, b"ab"), None);
        assert_eq!(sets.fragment(e(1), 0x67, false, false, b"cd"), None);
        assert_eq!(sets.fragment(e(2), 0x67, false, true, b"e").unwrap(), b"\x67abcde");
        assert_eq!(sets.fragment(e(3), 0x67, false, true, b"e"), None, "without a beginning");
        assert_eq!(sets.fragment(e(4), 0x67, true, false, b"ab"), None);
        assert_eq!(sets.fragment(e(6), 0x67, false, true, b"e"), None, "one is missing");
        assert_eq!(sets.fragment(e(7), 0x67, true, false, &[1; PARAMETER_SET_BYTES_MAX]), None);
        assert_eq!(sets.fragment(e(8), 0x67, false, true, b"e"), None, "too long");
    }

    #[test]
    fn an_idr_needs_them_where_its_picture_has_none_in_front() {
        let e = |n: u64| ExtSeq(70_000 + n);
        let after = |sets: &mut ParameterSets, packets: &[(u64, u32, bool, bool)]| {
            packets.iter().fold(false, |_, (n, at, has, idr)| sets.on_packet(e(*n), *at, *has, *idr))
        };
        let picture = [(0, 1, false, false), (1, 1, false, false)];
        let follow = |more: &[(u64, u32, bool, bool)]| after(&mut complete(), &[&picture, more].concat());
        assert!(follow(&[(2, 2, false, true)]));
        assert!(follow(&[(2, 2, false, false), (3, 2, false, true)]), "behind a delimiter");
        assert!(!follow(&[(2, 2, true, false), (3, 2, false, false), (4, 2, false, true)]), "it has its own");
        assert!(!follow(&[(3, 2, false, true)]), "its own may be missing");
        assert!(!follow(&[(2, 2, false, true), (3, 2, false, true)]), "once a picture");
        assert!(!follow(&[(2, 2, false, false), (1, 2, false, true)]), "late");
        assert!(!after(&mut complete(), &[(0, 1, false, true)]), "nothing is known of what was before");
        let mut first = ParameterSets::default();
        first.keep(e(0), SPS, b"sps");
        assert!(!after(&mut first, &[(0, 1, false, false), (1, 2, false, true)]), "half of them is nothing");
        let mut sets = complete();
        after(&mut sets, &picture);
        sets.on_skipped(e(2));
        sets.on_skipped(e(9));
        assert!(sets.on_packet(e(3), 2, false, true), "padding is nothing that is missing");
        sets.on_restart();
        assert!(!sets.on_packet(ExtSeq(200_000), 3, false, true));
        assert!(sets.on_packet(ExtSeq(200_001), 4, false, true), "they are still there");
    }
}
