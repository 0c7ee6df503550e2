//! The pictures of one VP8 or VP9 stream for one consumer: which of the newest are withheld, and the numbers of the
//! others. The numbers are continuous over switches of encodings and over withheld pictures, while genuine loss stays
//! visible (RFC 7741 section 4.2). For VP8 it also chooses temporal layers; for VP9 `spatial` does.

use crate::base::id::Layers;
use crate::media::edit::Change;
use crate::wire::codec::{PayloadInfo, PictureId};

/// Pictures back from the newest that can still be told apart: two seconds.
const KEPT: u64 = 64;

/// The decision about one picture.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// No packet of it has come; these layers passed when it was due.
    Unseen(Layers),
    Withheld,
    /// Its layers up to this spatial one pass.
    Passes(u8),
}

#[derive(Clone, Copy, Debug)]
struct Picture {
    fate: Fate,
    /// Outgoing less source number.
    shift: u64,
}

/// The place of a packet's picture. The number is the publisher's, unwrapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PicturePlace {
    /// Ahead of all before it.
    Newest(u64),
    Known(u64, Fate),
    /// From before what is remembered.
    Forgotten,
}

#[derive(Clone, Debug)]
pub struct Pictures {
    newest: Option<u64>,
    kept: [Picture; KEPT as usize],
    /// Whether withheld pictures leave no gap.
    closes_up: bool,
    shift: u64,
    tl0_shift: u8,
    /// TL0PICIDX of the newest, in the publisher's numbering.
    newest_tl0: Option<u8>,
    /// The newest numbers that went out, in the consumer's numbering. When the source changes, pictures behind them
    /// that have not come will not be missed by sequence number either.
    last: Option<(u64, u8)>,
}

impl Pictures {
    /// VP8's, without gaps.
    fn closing_up() -> Pictures {
        Pictures { closes_up: true, ..Pictures::keeping_gaps() }
    }

    /// VP9's refer to each other by number, so that withheld ones leave theirs unused.
    pub fn keeping_gaps() -> Pictures {
        let kept = [Picture { fate: Fate::Unseen(Layers::default()), shift: 0 }; KEPT as usize];
        Pictures { newest: None, kept, closes_up: false, shift: 0, tl0_shift: 0, newest_tl0: None, last: None }
    }

    /// The next picture follows the last one that went out, whatever its own number.
    pub fn rebase(&mut self) {
        self.newest = None;
    }

    pub fn place(&self, id: PictureId) -> PicturePlace {
        let Some(newest) = self.newest else { return PicturePlace::Newest(1 << 16 | u64::from(id.value)) };
        let circle = if id.wide { 1 << 15 } else { 1 << 7 };
        let ahead = u64::from(id.value).wrapping_sub(newest) & (circle - 1);
        if ahead == 0 {
            return PicturePlace::Known(newest, self.picture(newest).fate);
        }
        if ahead < circle / 2 {
            return PicturePlace::Newest(newest + ahead);
        }
        match newest.checked_sub(circle - ahead) {
            Some(number) if newest - number < KEPT => PicturePlace::Known(number, self.picture(number).fate),
            _ => PicturePlace::Forgotten,
        }
    }

    /// Base layer pictures since the newest, as far as another's index tells.
    fn base_pictures_until(&self, tl0_picture_index: Option<u8>) -> Option<u8> {
        self.newest?;
        Some(tl0_picture_index?.wrapping_sub(self.newest_tl0?))
    }

    /// The first packet of a newest picture is here. The pictures that it passes over may still come, and keep their
    /// numbers unless they are known to be withheld.
    pub fn begin(&mut self, number: u64, fate: Fate, passed_over: Fate, tl0_picture_index: Option<u8>) {
        match self.newest {
            None => {
                let (last, last_tl0) = self.last.unwrap_or((number.wrapping_sub(1), 0));
                self.shift = last.wrapping_add(1).wrapping_sub(number);
                if let (Some(_), Some(tl0)) = (self.last, tl0_picture_index) {
                    self.tl0_shift = last_tl0.wrapping_add(1).wrapping_sub(tl0);
                }
                self.kept.fill(Picture { fate: passed_over, shift: self.shift });
            }
            Some(newest) => {
                for passed in (newest + 1..number).rev().take(KEPT as usize) {
                    self.kept[(passed % KEPT) as usize] = Picture { fate: passed_over, shift: self.shift };
                }
                if passed_over == Fate::Withheld && self.closes_up {
                    self.shift = self.shift.wrapping_sub(number - newest - 1);
                }
            }
        }
        self.newest = Some(number);
        self.kept[(number % KEPT) as usize] = Picture { fate, shift: self.shift };
        if fate == Fate::Withheld && self.closes_up {
            self.shift = self.shift.wrapping_sub(1);
        }
        self.newest_tl0 = tl0_picture_index;
    }

    /// Numbers of a picture that has one already.
    pub fn decide(&mut self, number: u64, fate: Fate) {
        self.kept[(number % KEPT) as usize].fate = fate;
    }

    pub fn is_newest(&self, number: u64) -> bool {
        self.newest == Some(number)
    }

    /// Numbers of a picture that passes.
    pub fn numbers(&mut self, number: u64, tl0_picture_index: Option<u8>) -> Change {
        let out = number.wrapping_add(self.picture(number).shift);
        let tl0_picture_index = tl0_picture_index.unwrap_or(0).wrapping_add(self.tl0_shift);
        if self.last.is_none_or(|(last, _)| last <= out) {
            self.last = Some((out, tl0_picture_index));
        }
        Change::Picture { picture: out as u16 & 0x7FFF, tl0_picture_index }
    }

    fn picture(&self, number: u64) -> Picture {
        self.kept[(number % KEPT) as usize]
    }
}

/// VP8's temporal layers for one consumer.
#[derive(Clone, Debug)]
pub struct TemporalFilter {
    pictures: Pictures,
    current: u8,
    fresh: bool,
}

impl Default for TemporalFilter {
    fn default() -> Self {
        TemporalFilter { pictures: Pictures::closing_up(), current: u8::MAX, fresh: true }
    }
}

impl TemporalFilter {
    /// The next packet starts a keyframe, of this or another encoding.
    pub fn rebase(&mut self) {
        self.pictures.rebase();
        self.fresh = true;
    }

    /// The edits of the packet; None: it is not forwarded. Without picture ids pictures cannot be told apart, and all
    /// of them pass.
    pub fn on_packet(&mut self, info: &PayloadInfo, target: u8) -> Option<Change> {
        let Some(id) = info.picture else { return Some(Change::Nothing) };
        let (number, passes) = match self.pictures.place(id) {
            PicturePlace::Newest(number) => {
                let bases = self.pictures.base_pictures_until(info.tl0_picture_index);
                let all_upper = bases == Some(u8::from(info.temporal == 0));
                let passed_over = match self.current {
                    0 if all_upper => Fate::Withheld,
                    temporal => Fate::Unseen(Layers { spatial: 0, temporal }),
                };
                self.follow(info, target);
                let passes = info.temporal <= self.current;
                let fate = if passes { Fate::Passes(0) } else { Fate::Withheld };
                self.pictures.begin(number, fate, passed_over, info.tl0_picture_index);
                (number, passes)
            }
            PicturePlace::Known(number, Fate::Unseen(passed)) => {
                // A number that is never used is a hole: a picture that needs the base layer alone may fill it.
                let passes = info.temporal <= passed.temporal || info.switches_up;
                self.pictures.decide(number, if passes { Fate::Passes(0) } else { Fate::Withheld });
                (number, passes)
            }
            PicturePlace::Known(number, fate) => (number, fate != Fate::Withheld),
            PicturePlace::Forgotten => return None,
        };
        passes.then(|| self.pictures.numbers(number, info.tl0_picture_index))
    }

    /// Down between any two pictures. Up by one layer at a picture of it that needs the base layer alone (RFC 7741
    /// section 4.2, Y), because the next layer's pictures may need those of this one.
    fn follow(&mut self, info: &PayloadInfo, target: u8) {
        if std::mem::take(&mut self.fresh) || info.starts_keyframe {
            self.current = target;
            return;
        }
        self.current = self.current.min(target);
        if info.switches_up && info.temporal <= target && info.temporal == self.current.saturating_add(1) {
            self.current = info.temporal;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

    use super::*;

    fn info(picture: u64, temporal: u8, tl0: u64, sync: bool) -> PayloadInfo {
        PayloadInfo {
            starts_frame: true,
            temporal,
            switches_up: sync,
            picture: Some(PictureId { value: picture as u16 & 0x7FFF, wide: true, offset: 2 }),
            tl0_picture_index: Some(tl0 as u8),
            ..PayloadInfo::default()
        }
    }

    /// Picture `n` of Chromium's three layers: 0 2 1 2; the first two upper ones of a group need the base alone.
    fn picture(n: u64) -> PayloadInfo {
        let temporal = [0, 2, 1, 2][n as usize % 4];
        info(n, temporal, n / 4, matches!(n % 4, 1 | 2))
    }

    fn numbers(change: Option<Change>) -> Option<(u16, u8)> {
        match change? {
            Change::Picture { picture, tl0_picture_index } => Some((picture, tl0_picture_index)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn withheld_pictures_close_up_and_base_layer_indices_stay() {
        let mut filter = TemporalFilter::default();
        let out: Vec<_> = (100..112).filter_map(|n| numbers(filter.on_packet(&picture(n), 1))).collect();
        assert_eq!(out, [(100, 25), (101, 25), (102, 26), (103, 26), (104, 27), (105, 27)]);
        assert_eq!(filter.current, 1);
    }

    #[test]
    fn goes_down_at_once_and_up_a_layer_at_a_time_where_the_layer_starts_anew() {
        let mut filter = TemporalFilter::default();
        let mut passed = |range: std::ops::Range<u64>, target| -> Vec<u64> {
            range.filter(|n| filter.on_packet(&picture(*n), target).is_some()).collect()
        };
        assert_eq!(passed(0..5, 2), [0, 1, 2, 3, 4]);
        assert_eq!(passed(5..12, 0), [8]);
        assert_eq!(passed(12..20, 2), [12, 14, 16, 17, 18, 19], "a 1 that needs the base alone, then such a 2");
    }

    #[test]
    fn another_encoding_goes_on_where_the_last_ended() {
        let mut filter = TemporalFilter::default();
        for n in 0x7FFE..0x8002 {
            filter.on_packet(&picture(n), 9);
        }
        filter.rebase();
        let first = PayloadInfo { starts_keyframe: true, ..info(500, 0, 77, false) };
        assert_eq!(numbers(filter.on_packet(&first, 9)), Some((2, 1)), "0x8001 is 1 on the wire, its index 0");
        assert_eq!(numbers(filter.on_packet(&info(501, 0, 78, false), 9)), Some((3, 2)));
        let lost = numbers(filter.on_packet(&info(504, 0, 80, false), 9));
        assert_eq!(lost, Some((6, 4)), "what was lost stays visible");
        assert_eq!(numbers(filter.on_packet(&info(502, 0, 79, false), 9)), Some((4, 3)), "and has its place");
    }

    #[test]
    fn what_is_missing_before_a_withheld_picture_leaves_no_gap_at_a_switch() {
        let mut filter = TemporalFilter::default();
        assert_eq!(numbers(filter.on_packet(&picture(100), 0)), Some((100, 25)));
        assert_eq!(filter.on_packet(&picture(105), 0), None, "104 may come yet");
        filter.rebase();
        let first = PayloadInfo { starts_keyframe: true, ..info(500, 0, 77, false) };
        assert_eq!(numbers(filter.on_packet(&first, 0)), Some((101, 26)));
    }

    #[test]
    fn late_pictures_leave_no_hole_where_that_can_be_known() {
        let mut filter = TemporalFilter::default();
        let mut out = |n, target| numbers(filter.on_packet(&picture(n), target)).map(|(picture, _)| picture);
        assert_eq!((out(100, 0), out(104, 0)), (Some(100), Some(101)), "no base picture is missing: no place is kept");
        assert_eq!((out(102, 0), out(109, 0)), (None, None));
        assert_eq!(out(106, 0), Some(103), "one that needs the base alone has its place");
        assert_eq!((out(107, 0), out(108, 0)), (None, Some(105)), "another might need what was withheld");
        assert_eq!(out(112, 0), Some(106));
    }

    #[test]
    fn without_picture_ids_everything_passes() {
        let mut filter = TemporalFilter::default();
        let bare = PayloadInfo { temporal: 2, ..PayloadInfo::default() };
        assert_eq!(filter.on_packet(&bare, 0), Some(Change::Nothing));
        let short = |value| PictureId { value, wide: false, offset: 2 };
        let unseen = Fate::Unseen(Layers::default());
        let mut pictures = Pictures::closing_up();
        pictures.begin((1 << 16) + 126, Fate::Passes(0), unseen, None);
        assert_eq!(pictures.place(short(1)), PicturePlace::Newest((1 << 16) + 129));
        assert_eq!(pictures.place(short(120)), PicturePlace::Known((1 << 16) + 120, unseen));
    }

    #[test]
    fn any_order_of_packets_gives_one_number_a_picture_in_their_order() {
        for seed in 0..60 {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut filter = TemporalFilter::default();
            let mut out: BTreeMap<u64, (u64, u16)> = BTreeMap::new();
            // Each picture of two packets, some of them late by a few pictures, some lost.
            let start = rng.random_range(0..1u64 << 15);
            let mut packets: Vec<u64> = (start..start + 3_000).flat_map(|n| [n, n]).collect();
            for window in packets.chunks_mut(9) {
                if rng.random_range(0..4) == 0 {
                    window.shuffle(&mut rng);
                }
            }
            let (mut target, mut passed_layers) = (2, BTreeMap::new());
            for n in packets {
                if rng.random_range(0..50) == 0 {
                    target = rng.random_range(0..3);
                }
                if rng.random_range(0..20) == 0 {
                    continue;
                }
                let picture = picture(n);
                if let Some((number, _)) = numbers(filter.on_packet(&picture, target)) {
                    let known = out.entry(n).or_insert((n, number));
                    assert_eq!(known.1, number, "seed {seed}: one number a picture");
                    passed_layers.insert(n, picture.temporal);
                }
            }
            let sent: Vec<_> = out.values().collect();
            for pair in sent.windows(2) {
                let step = pair[1].1.wrapping_sub(pair[0].1) & 0x7FFF;
                let between = pair[1].0 - pair[0].0;
                assert!((1..=between).contains(&u64::from(step)), "seed {seed}: {step} for {between}");
            }
        }
    }
}
