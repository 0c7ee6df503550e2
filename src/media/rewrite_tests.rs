//! Tests of the numbering.

use std::collections::{BTreeMap, BTreeSet};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::*;

fn at(millis: u64) -> Instant {
    Instant::from_nanos(millis * 1_000_000)
}

fn rewriter() -> Rewriter {
    Rewriter::new(2_000, 50, 90_000, true)
}

fn index(rewritten: Option<Rewritten>) -> Option<u64> {
    rewritten.map(|rewritten| rewritten.index)
}

#[test]
fn loss_stays_a_gap_and_skips_do_not() {
    let mut r = rewriter();
    let e = |n: u64| ExtSeq(65_530 + n);
    assert_eq!(r.forward(at(0), e(0), 7), Some(Rewritten { index: 2_000, timestamp: 50 }));
    assert_eq!(index(r.forward(at(0), e(0), 7)), None, "at most once");
    assert_eq!(index(r.forward(at(0), e(3), 7)), Some(2_003));
    assert_eq!(r.skip(e(4)), None);
    assert_eq!(r.skip(e(5)), None);
    assert_eq!(index(r.forward(at(0), e(8), 7)), Some(2_006), "6 and 7 are missing");
    assert_eq!(index(r.forward(at(0), e(2), 7)), Some(2_002), "late, before the skips");
    assert_eq!(index(r.forward(at(0), e(6), 7)), Some(2_004), "late, after the skips");
    assert_eq!(r.skip(e(1)), Some(2_001), "its number is lost: later ones went out");
    assert_eq!(index(r.forward(at(0), e(1), 7)), None);
    assert_eq!(index(r.forward(at(0), ExtSeq(65_529), 7)), None, "from before the base");
    assert_eq!(r.source_of(Seq(2_004)).unwrap().ext, e(6));
    assert_eq!(r.source_of(Seq(2_005)), None);
    assert_eq!(r.source_of(Seq(2_007)), None);
}

#[test]
fn what_goes_in_front_of_a_base_has_numbers_and_the_same_timestamp() {
    let mut r = rewriter();
    assert_eq!(r.lead(at(0), ExtSeq(70_000), 7, 512, 0), None, "nothing");
    assert_eq!(r.lead(at(0), ExtSeq(70_000), 7, 512, 2), Some(Rewritten { index: 2_000, timestamp: 50 }));
    assert_eq!(r.lead(at(0), ExtSeq(70_000), 7, 512, 2), None, "the base has begun");
    assert_eq!(r.forward(at(0), ExtSeq(70_000), 7), Some(Rewritten { index: 2_002, timestamp: 50 }));
    assert_eq!(r.forward(at(0), ExtSeq(70_001), 8), Some(Rewritten { index: 2_003, timestamp: 51 }));
    for late in [69_997, 69_998, 69_999] {
        assert_eq!(r.forward(at(0), ExtSeq(late), 7), None, "{late} is from before");
    }
    let sent = |r: &Rewriter, seq| r.source_of(Seq(seq)).map(|entry| (entry.led, entry.timestamp(8)));
    assert_eq!((sent(&r, 2_000), sent(&r, 2_001)), (Some((Some(512), 50)), Some((Some(513), 50))));
    assert_eq!((sent(&r, 2_002), sent(&r, 2_003)), (Some((None, 51)), Some((None, 51))));
    // Anew at the very next packet, whose number in front is one that went out as the source's.
    r.rebase(0);
    assert_eq!(index(r.lead(at(20), ExtSeq(70_001), 9, 512, 2)), None, "it went out before");
    let next = r.lead(at(20), ExtSeq(70_002), 1_807, 768, 2).unwrap();
    assert_eq!(
        (next, index(r.forward(at(20), ExtSeq(70_002), 1_807))),
        (Rewritten { index: 2_004, timestamp: 1_850 }, Some(2_006))
    );
    assert_eq!((sent(&r, 2_001).unwrap().0, sent(&r, 2_003).unwrap().0), (Some(513), None));
    assert_eq!(sent(&r, 2_005), Some((Some(769), 1_850)));
}

#[test]
fn what_was_missing_of_a_base_that_was_left_has_its_number() {
    let mut r = rewriter();
    let mut left = Left::default();
    for ext in [100, 101, 104, 106] {
        r.forward(at(0), ExtSeq(ext), 7).unwrap();
    }
    assert_eq!(r.skip(ExtSeq(105)), Some(2_005));
    assert_eq!(r.leave(&mut left), Some(ExtSeq(106)));
    r.rebase(1);
    assert_eq!(index(r.forward(at(20), ExtSeq(9_000), 5)), Some(2_007));
    assert_eq!(r.late(&mut left, ExtSeq(103), 8), Some(Rewritten { index: 2_003, timestamp: 51 }));
    assert_eq!((r.source_of(Seq(2_003)).unwrap().ext, r.source_of(Seq(2_002))), (ExtSeq(103), None));
    for gone in [103, 105, 106, 107, 99] {
        assert_eq!(r.late(&mut left, ExtSeq(gone), 8), None, "{gone}");
    }
    for ext in 9_001..9_000 + SENT_MAX as u64 {
        r.forward(at(20), ExtSeq(ext), 5).unwrap();
    }
    assert_eq!(r.late(&mut left, ExtSeq(102), 8), None, "nobody can ask for it");
}

/// The packets of a picture are late, the next picture was skipped, and another base has begun: it has their numbers.
#[test]
fn what_was_missing_before_a_skip_has_no_number_of_the_next_base() {
    let mut r = rewriter();
    let mut left = Left::default();
    for ext in [100, 102] {
        r.forward(at(0), ExtSeq(ext), 7).unwrap();
    }
    assert_eq!(r.skip(ExtSeq(105)), None);
    r.leave(&mut left);
    r.rebase(1);
    assert_eq!(r.late(&mut left, ExtSeq(104), 8), None);
    for (ext, number) in [(9_000, 2_003), (9_001, 2_004)] {
        assert_eq!(index(r.forward(at(20), ExtSeq(ext), 5)), Some(number));
    }
    assert_eq!(r.late(&mut left, ExtSeq(103), 8), None);
    assert_eq!(index(r.late(&mut left, ExtSeq(101), 7)), Some(2_001), "and this one its own");
    let sent = r.source_of(Seq(2_003)).unwrap();
    assert_eq!((sent.ext, sent.encoding), (ExtSeq(9_000), 1));
}

#[test]
fn a_stream_that_is_not_asked_for_remembers_nothing_and_counts_alike() {
    let (mut r, mut silent) = (rewriter(), Rewriter::new(2_000, 50, 90_000, false));
    for ext in [10, 11, 14, 12, 900, 20] {
        assert_eq!(r.forward(at(0), ExtSeq(ext), 7), silent.forward(at(0), ExtSeq(ext), 7));
    }
    assert!(r.source_of(Seq(2_001)).is_some() && silent.source_of(Seq(2_001)).is_none());
    assert!(silent.sent.is_none());
}

#[test]
fn a_number_given_back_is_not_used_by_the_next_base() {
    let mut r = rewriter();
    assert_eq!(index(r.forward(at(0), ExtSeq(10), 0)), Some(2_000));
    assert_eq!((r.skip(ExtSeq(13)), r.skip(ExtSeq(12))), (None, Some(2_002)));
    r.rebase(1);
    assert_eq!(index(r.forward(at(1), ExtSeq(900), 0)), Some(2_003));
}

#[test]
fn a_switch_goes_on_where_the_last_source_ended() {
    let mut r = rewriter();
    r.forward(at(0), ExtSeq(100), 4_000_000_000).unwrap();
    r.rebase(1);
    assert_eq!(r.timestamp_offset(), None);
    let first = r.forward(at(100), ExtSeq(7), 1_000_000).unwrap();
    assert_eq!(first, Rewritten { index: 2_001, timestamp: 50 + 9_000 });
    assert_eq!(r.timestamp_offset(), Some(9_050u32.wrapping_sub(1_000_000)));
    r.rebase(2);
    let at_once = r.forward(at(100), ExtSeq(100), 77).unwrap();
    assert_eq!(at_once, Rewritten { index: 2_002, timestamp: 9_050 + 1_800 });
    let sent: Vec<_> = (2_000..2_003).map(|seq| r.source_of(Seq(seq)).unwrap()).collect();
    assert_eq!(sent.iter().map(|s| (s.ext.0, s.encoding)).collect::<Vec<_>>(), [(100, 0), (7, 1), (100, 2)]);
    assert_eq!(r.last_timestamp(), Some(10_850));
}

#[test]
fn switches_at_the_same_picture_do_not_add_up() {
    let mut r = rewriter();
    r.forward(at(0), ExtSeq(100), 5_000).unwrap();
    for n in 1..=20u8 {
        // The encoding goes on, and the other's keyframe shows the same picture.
        let shown = r.forward(at(0), ExtSeq(100 + u64::from(n)), 5_000 + u32::from(n) * 3_000).unwrap();
        assert_eq!(shown.timestamp, 50 + u32::from(n) * 3_000, "switch {n}");
        assert!(!r.would_step_back(0, 5_000 + u32::from(n) * 3_000));
        assert!(r.would_step_back(0, 5_000 + u32::from(n) * 3_000 - 3_000), "that was shown");
        r.rebase_aligned(n, 0);
        let first = r.forward(at(0), ExtSeq(100 + u64::from(n)), 5_000 + u32::from(n) * 3_000).unwrap();
        assert_eq!(first.timestamp, shown.timestamp + 90, "switch {n}");
        assert_eq!(
            r.source_of(Seq(first.index as u16)).unwrap().timestamp(5_000 + u32::from(n) * 3_000),
            first.timestamp
        );
    }
}

#[test]
fn a_pause_keeps_the_offset_of_a_steady_source() {
    let mut r = rewriter();
    r.forward(at(0), ExtSeq(100), 1_000).unwrap();
    let offset = r.timestamp_offset();
    r.rebase(0);
    assert_eq!(index(r.forward(at(9_990), ExtSeq(100), 1_000)), None, "offered before");
    let next = r.forward(at(10_010), ExtSeq(500), 1_000 + 900_000).unwrap();
    assert_eq!((next.index, next.timestamp), (2_001, 50 + 900_000));
    assert_eq!(r.timestamp_offset(), offset);
    // One whose clock stood still meanwhile does not.
    r.rebase(0);
    let next = r.forward(at(20_010), ExtSeq(501), 1_000 + 903_000).unwrap();
    assert_eq!(next.timestamp, 50 + 900_000 + 900_000);
}

#[test]
fn a_far_jump_is_a_rebase_of_its_own() {
    let mut r = rewriter();
    r.forward(at(0), ExtSeq(70_000), 0).unwrap();
    let jumped = r.forward(at(20), ExtSeq(200_000), 0x8000_0000).unwrap();
    assert_eq!((jumped.index, jumped.timestamp), (2_001, 50 + 1_800));
}

#[test]
fn what_is_replayed_ends_at_live_and_is_known_again() {
    let mut r = rewriter();
    let replayed = Replayed { until: ExtSeq(130), timestamp: 90_000 };
    r.rebase_replayed(0, replayed);
    let source = |n: u64| 90_000 - (130 - n as u32) * 3_000;
    let out: Vec<_> =
        (100..=130).map(|n| r.forward(at(5_000), ExtSeq(n), replayed.squeeze(source(n))).unwrap()).collect();
    assert!(out.windows(2).all(|pair| pair[1].index == pair[0].index + 1));
    assert!(out.windows(2).all(|pair| (187..=188).contains(&(pair[1].timestamp - pair[0].timestamp))));
    let live = r.forward(at(5_020), ExtSeq(131), 93_000).unwrap();
    assert_eq!((live.index, live.timestamp), (out[30].index + 1, out[30].timestamp + 3_000));
    for (n, sent) in (100..).zip(&out) {
        let entry = r.source_of(Seq(sent.index as u16)).unwrap();
        assert_eq!((entry.ext, entry.is_replayed(), entry.timestamp(source(n))), (ExtSeq(n), true, sent.timestamp));
    }
    let entry = r.source_of(Seq(live.index as u16)).unwrap();
    assert_eq!((entry.is_replayed(), entry.timestamp(93_000)), (false, live.timestamp));
}

#[test]
fn a_silence_of_days_does_not_go_back() {
    let mut r = rewriter();
    r.forward(at(0), ExtSeq(1), 0).unwrap();
    r.rebase(0);
    let next = r.forward(at(7 * 86_400_000), ExtSeq(2), 3_000_000_000).unwrap();
    assert!(timestamp_ahead(next.timestamp, 50) > 0);
}

/// In order and with loss: the gaps going out are exactly the losses. Sequence numbers and timestamps wrap.
#[test]
fn without_reorder_every_gap_is_a_loss() {
    for seed in 0..5 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut r = Rewriter::new(rng.random_range(1_000..=32_767), rng.random(), 90_000, true);
        let (mut ext, mut timestamp, mut ms) = (rng.random_range(1 << 16..1 << 17), rng.random::<u32>(), 0);
        let (mut previous, mut lost, mut encoding): (Option<Rewritten>, _, _) = (None, 0, 0);
        for _ in 0..80_000 {
            (ext, timestamp, ms) = (ext + 1, timestamp.wrapping_add(30_000), ms + 333);
            match rng.random_range(0..100) {
                // Before the first packet of a base nothing can be missed.
                0..3 => lost += u64::from(r.timestamp_offset().is_some()),
                3..6 => assert_eq!(r.skip(ExtSeq(ext)), None),
                6 if rng.random_range(0..10) == 0 => {
                    encoding = u8::wrapping_add(encoding, 1);
                    r.rebase(encoding);
                    (ext, timestamp, lost) = (rng.random_range(1 << 16..1 << 40), rng.random(), 0);
                }
                _ => {
                    let out = r.forward(at(ms), ExtSeq(ext), timestamp).unwrap();
                    if let Some(previous) = previous {
                        assert_eq!(out.index - previous.index - 1, lost, "seed {seed} at {ext}");
                        assert!(timestamp_ahead(out.timestamp, previous.timestamp) > 0);
                    }
                    let sent = r.source_of(Seq(out.index as u16)).unwrap();
                    assert_eq!((sent.ext.0, sent.index, sent.encoding), (ext, out.index, encoding));
                    assert_eq!(sent.timestamp(timestamp), out.timestamp);
                    (previous, lost) = (Some(out), 0);
                }
            }
        }
    }
}

/// Loss, reorder, repeats, skips and rebases: each number goes out once, in the order of the source, and unused numbers
/// are exactly those lost or returned.
#[test]
fn agrees_with_a_model_over_everything_at_once() {
    for seed in 0..10 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut r = Rewriter::new(1_000, rng.random(), 48_000, true);
        // Returned numbers too: padding goes out under them.
        let mut all: BTreeMap<u64, Option<(u8, u64)>> = BTreeMap::new();
        for encoding in 0..20 {
            r.rebase(encoding);
            let start: u64 = rng.random_range(1 << 16..1 << 33);
            let stamp: u32 = rng.random();
            let mut wire: Vec<u64> = (start..start + rng.random_range(1..3_000)).collect();
            wire.chunks_mut(24).for_each(|chunk| chunk.shuffle(&mut rng));
            let skipped: BTreeSet<u64> = wire.iter().copied().filter(|_| rng.random_range(0..20) == 0).collect();
            let (mut out, mut holes, mut early) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
            let mut offered = BTreeSet::new();
            let mut base = None;
            for (n, ext) in wire.into_iter().enumerate() {
                if rng.random_range(0..20) == 0 {
                    continue;
                }
                for copy in 0..rng.random_range(1..3) {
                    if skipped.contains(&ext) {
                        let hole = r.skip(ExtSeq(ext));
                        assert!(hole.is_none() || copy == 0);
                        if let Some(hole) = hole {
                            assert!(all.insert(hole, Some((encoding, ext))).is_none(), "a number twice");
                            holes.insert(ext);
                        }
                        if base.is_none() {
                            early.insert(ext);
                        }
                    } else {
                        let now = at(u64::from(encoding) * 10_000 + n as u64);
                        let timestamp = stamp.wrapping_add(ext as u32);
                        let rewritten = r.forward(now, ExtSeq(ext), timestamp);
                        let base = *base.get_or_insert(ext);
                        let expected = ext >= base && !out.contains_key(&ext);
                        assert_eq!(rewritten.is_some(), expected, "seed {seed}, {ext} copy {copy}");
                        if let Some(rewritten) = rewritten {
                            assert!(all.insert(rewritten.index, Some((encoding, ext))).is_none(), "a number twice");
                            out.insert(ext, rewritten);
                            let delta = (ext as u32).wrapping_sub(base as u32);
                            assert_eq!(rewritten.timestamp, out[&base].timestamp.wrapping_add(delta));
                        }
                    }
                    offered.insert(ext);
                }
            }
            let Some(base) = base else { continue };
            assert!(out.values().is_sorted_by_key(|rewritten| rewritten.index), "the order is the source's");
            let highest = *out.keys().next_back().unwrap();
            let lost = (base..=highest).filter(|ext| !offered.contains(ext)).count() as u64;
            let span = out[&highest].index - out[&base].index + 1;
            // Packets that are skipped before the base is known cannot close up.
            let unused = holes.union(&early).filter(|ext| (base..highest).contains(ext)).count() as u64;
            assert_eq!(span, out.len() as u64 + unused + lost, "seed {seed}");
            assert!(r.last.is_some_and(|last| last.index.get() >= out[&highest].index));
            for (index, expected) in all.iter().rev().take(600) {
                let sent = r.source_of(Seq(*index as u16));
                assert_eq!(sent.map(|sent| (sent.encoding, sent.ext.0)), *expected, "seed {seed}");
                assert!(sent.is_none_or(|sent| sent.index == *index));
            }
        }
    }
}
