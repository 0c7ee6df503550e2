//! Each judge is fed with the output of a faultless forwarder, and finds nothing; then with streams that are broken in
//! one way each, and names it.

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::FaultKind::*;
use super::*;
use crate::base::time::NtpTime;
use crate::base::units::Bitrate;
use crate::sim::descriptor::{self, Description, DescriptorReader};
use crate::sim::scalability::{Definitions, Scalability};
use crate::sim::script::Media;
use crate::wire::extension::Extension;
use crate::wire::rtp::RtpHeader;

const MODES: [(Codec, Scalability); 11] = [
    (Codec::Vp8, Scalability::L1T1),
    (Codec::Vp9, Scalability::L1T1),
    (Codec::H264, Scalability::L1T1),
    (Codec::Av1, Scalability::L1T1),
    (Codec::Vp8, Scalability::L1T3),
    (Codec::Vp8, Scalability::L1T3Sparse),
    (Codec::Vp9, Scalability::L1T3),
    (Codec::Vp9, Scalability::L3T3),
    (Codec::Vp9, Scalability::L3T3Key),
    (Codec::Av1, Scalability::L1T3),
    (Codec::Av1, Scalability::L3T3Key),
];
const FRAME: Duration = Duration::from_nanos(33_333_334);

#[derive(Clone, Debug)]
struct Sent {
    at: Instant,
    timestamp: u32,
    marker: bool,
    payload: Vec<u8>,
    descriptor: Option<Vec<u8>>,
}

impl Sent {
    fn inside(&self) -> Inside {
        Inside::of(&self.payload).unwrap()
    }

    fn layer(&self) -> (u8, u8) {
        (self.inside().spatial, self.inside().temporal)
    }
}

fn now(at: Instant) -> Now {
    Now { mono: at, wall: NtpTime::from_unix(Duration::from_secs(1_000) + at.since(Instant::ZERO)) }
}

/// The packets of so many pictures of a source, with keyframes requested at some of them.
fn stream(codec: Codec, scalability: Scalability, seed: u64, pictures: u64, keys: &[u64]) -> Vec<Sent> {
    let media = Media { scalability, bitrate: Bitrate::mbps(1), ..Media::video(codec) };
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut source = media.start(Instant::ZERO, 0, 1, &mut rng);
    let (mut sent, mut bytes, mut transport_seq) = (Vec::new(), Vec::new(), 0);
    for picture in 0..pictures {
        if keys.contains(&picture) {
            source.request_key_frame();
        }
        let at = Instant::from_nanos(picture * FRAME.as_nanos() as u64);
        while source.poll(now(at), &mut transport_seq, &mut bytes) {
            let header = RtpHeader::parse(&bytes).unwrap();
            let id = source.config().extensions.get(Extension::DependencyDescriptor);
            let descriptor = header.extensions(&bytes).find(|(found, _)| Some(*found) == id);
            sent.push(Sent {
                at,
                timestamp: header.timestamp,
                marker: header.marker,
                payload: header.payload(&bytes).unwrap().to_vec(),
                descriptor: descriptor.map(|(_, value)| value.to_vec()),
            });
        }
    }
    sent
}

/// Judges packets that are numbered one after the other.
fn judge_as(codec: Codec, sent: &[Sent], strictness: Strictness) -> Decoder {
    let numbered = sent.iter().enumerate().map(|(at, sent)| (at as u16, sent.clone()));
    judge_numbered(codec, numbered, strictness)
}

fn judge_numbered(codec: Codec, sent: impl Iterator<Item = (u16, Sent)>, strictness: Strictness) -> Decoder {
    let mut decoder = Decoder::new(codec, 90_000, strictness).unwrap();
    for (seq, Sent { at, timestamp, marker, payload, descriptor }) in sent {
        let seq = Seq(seq.wrapping_add(65_000));
        decoder
            .feed(at, &DecoderPacket { seq, timestamp, marker, payload: &payload, descriptor: descriptor.as_deref() });
    }
    decoder
}

fn judge(codec: Codec, sent: &[Sent]) -> Decoder {
    judge_as(codec, sent, Strictness::FULL)
}

fn kinds(decoder: &Decoder) -> Vec<FaultKind> {
    let mut kinds: Vec<_> = decoder.faults().iter().map(|fault| fault.kind).collect();
    kinds.sort();
    kinds.dedup();
    kinds
}

#[track_caller]
fn assert_finds(decoder: &Decoder, wanted: &[FaultKind], what: &str) {
    let found = kinds(decoder);
    assert!(wanted.iter().all(|kind| found.contains(kind)), "{what}: {found:?} lacks one of {wanted:?}");
}

#[track_caller]
fn assert_clean(decoder: &Decoder, what: &str) {
    assert!(decoder.faults().is_empty(), "{what}: {:?}", &decoder.faults()[..decoder.faults().len().min(4)]);
    assert_eq!((decoder.dropped(), decoder.stuck()), (0, false), "{what}");
}

/// The packets of picture `picture` of a stream from its start.
fn of_picture(sent: &Sent, picture: u64) -> bool {
    let captured = sent.inside().captured_at.as_nanos();
    captured / 33_333_333 == picture
}

#[test]
fn a_whole_stream_has_no_fault() {
    for (codec, mode) in MODES {
        let decoder = judge(codec, &stream(codec, mode, 1, 100, &[40, 71]));
        assert_clean(&decoder, &format!("{codec:?} {mode:?}"));
        assert_eq!(decoder.shown().len(), 100);
        assert_eq!(decoder.shown().iter().filter(|shown| shown.key).count(), 3);
        let top = if codec == Codec::Av1 && mode == Scalability::L1T1 { 0 } else { mode.spatial_layers() - 1 };
        assert!(decoder.shown().iter().all(|shown| shown.spatial == top), "{codec:?} {mode:?}");
        assert_eq!((decoder.switches().count(), decoder.freezes(Duration::from_millis(34)).count()), (0, 0));
        assert!(decoder.worst_offset() < Duration::from_micros(50));
    }
}

#[test]
fn a_picture_left_out_behind_the_receivers_back_is_named() {
    for (codec, mode) in MODES {
        let mut sent = stream(codec, mode, 2, 60, &[]);
        // Pictures whose number can be divided by eight are of the lowest layer everywhere.
        sent.retain(|sent| !of_picture(sent, 24));
        let decoder = judge(codec, &sent);
        assert_finds(&decoder, &[MissingReference], &format!("{codec:?} {mode:?}"));
        assert!(decoder.stuck() && decoder.dropped() > 20, "{codec:?} {mode:?}");
        let own = match codec {
            Codec::Vp8 => &[NumberGap, Tl0][..],
            Codec::Vp9 => &[NumberGap, Tl0],
            Codec::Av1 if mode != Scalability::L1T1 => &[BrokenChain],
            _ => &[],
        };
        assert_finds(&decoder, own, &format!("{codec:?} {mode:?}"));
        assert!(decoder.freezes(Duration::from_millis(50)).count() == 0 || mode != Scalability::L1T1);
    }
}

#[test]
fn a_packet_left_out_is_named_wherever_it_was() {
    for (codec, mode) in MODES {
        let sent = stream(codec, mode, 3, 30, &[]);
        let places: Vec<usize> = (0..sent.len()).filter(|at| of_picture(&sent[*at], 16)).collect();
        assert!(places.len() >= 3);
        for place in places {
            let mut sent = sent.clone();
            let whole_frame = sent.remove(place).inside().count == 1;
            let found = kinds(&judge(codec, &sent));
            let named = [Cut, Mixed, NoMarker, WrongEnd].iter().any(|kind| found.contains(kind))
                || whole_frame && found.contains(&MissingReference);
            assert!(named, "{codec:?} {mode:?} {place}: {found:?}");
        }
    }
}

#[test]
fn a_gap_is_one_fault_and_excuses_what_follows_until_a_keyframe() {
    for (codec, mode) in MODES {
        let sent = stream(codec, mode, 4, 90, &[50]);
        for left_out in [24, 25, 26, 27] {
            let numbered = sent.iter().cloned().enumerate().map(|(at, sent)| (at as u16, sent));
            // All of its packets but the first.
            let mut first = true;
            let numbered = numbered
                .filter(|(_, sent)| !of_picture(sent, left_out) || std::mem::take(&mut first))
                .collect::<Vec<_>>();
            let decoder = judge_numbered(codec, numbered.into_iter(), Strictness::FULL);
            let what = format!("{codec:?} {mode:?} {left_out}: {:?}", decoder.faults().first());
            assert_eq!(kinds(&decoder), [Gap], "{what} {:?}", decoder.faults());
            assert!(decoder.dropped() >= 1 && !decoder.stuck(), "{what}");
            let late = decoder.shown().iter().filter(|shown| shown.at >= Instant::ZERO + FRAME * 51);
            assert!(late.count() >= 38, "{what}");
        }
    }
}

#[test]
fn what_comes_again_or_goes_back_is_named() {
    for (codec, mode) in MODES {
        let sent = stream(codec, mode, 5, 40, &[]);
        let picture: Vec<Sent> = sent.iter().filter(|sent| of_picture(sent, 24)).cloned().collect();
        let after = sent.iter().rposition(|sent| of_picture(sent, 24)).unwrap() + 1;
        let mut again = sent.clone();
        again.splice(after..after, picture.clone());
        let what = format!("{codec:?} {mode:?}");
        assert_finds(&judge(codec, &again), &[Repeat], &what);
        // A picture later, and with a timestamp of its own.
        let later = sent.iter().rposition(|sent| of_picture(sent, 25)).unwrap() + 1;
        let mut back = sent.clone();
        back.splice(later..later, picture.into_iter().map(|sent| Sent { timestamp: sent.timestamp + 4_000, ..sent }));
        assert_finds(&judge(codec, &back), &[Repeat, StepBack, OffTime], &what);
        let twice =
            sent.iter().enumerate().flat_map(|(at, sent)| [(at as u16, sent.clone()), (at as u16, sent.clone())]);
        assert_finds(&judge_numbered(codec, twice, Strictness::FULL), &[SequenceBack], &what);
    }
}

#[test]
fn markers_that_are_missing_or_misplaced_are_named() {
    for (codec, mode) in MODES {
        let sent = stream(codec, mode, 6, 20, &[]);
        let what = format!("{codec:?} {mode:?}");
        let mut without = sent.clone();
        without.iter_mut().filter(|sent| of_picture(sent, 8)).for_each(|sent| sent.marker = false);
        assert_finds(&judge(codec, &without), &[NoMarker], &what);
        let mut early = sent.clone();
        let first = early.iter_mut().find(|sent| of_picture(sent, 8)).unwrap();
        first.marker = true;
        assert_finds(&judge(codec, &early), &[WrongEnd], &what);
    }
}

#[test]
fn timestamps_that_leave_the_clock_are_named() {
    for (codec, mode) in MODES {
        let sent = stream(codec, mode, 7, 40, &[]);
        let what = format!("{codec:?} {mode:?}");
        let moved = |by: i32| {
            let mut sent = sent.clone();
            sent.iter_mut().skip(60).for_each(|sent| sent.timestamp = sent.timestamp.wrapping_add_signed(by));
            judge(codec, &sent)
        };
        assert_finds(&moved(900), &[OffTime], &what);
        assert_finds(&moved(-90_000), &[TimestampBack, OffTime], &what);
        assert!(moved(900).worst_offset() == Duration::from_millis(10), "{what}");
    }
}

#[test]
fn a_start_that_no_decoder_can_start_with_is_named() {
    for (codec, mode) in MODES {
        let sent = stream(codec, mode, 8, 40, &[]);
        let what = format!("{codec:?} {mode:?}");
        let at = sent.iter().position(|sent| of_picture(sent, 3)).unwrap();
        assert_finds(&judge(codec, &sent[at..]), &[BadStart], &what);
        // H.264 could start behind its parameter sets, if it had others.
        let kind = if codec == Codec::H264 { Cut } else { BadStart };
        assert_finds(&judge(codec, &sent[1..]), &[kind], &what);
        assert_finds(&judge(Codec::Vp9, &stream(Codec::Av1, mode, 8, 2, &[])), &[Unreadable], &what);
    }
}

/// Two sources one after the other, as a forwarder that changes only RTP headers would join them.
fn joined(codec: Codec, mode: Scalability, at_key: bool) -> Vec<Sent> {
    let (first, second) =
        (stream(codec, mode, 9, 20, &[]), stream(codec, mode, 10, 40, if at_key { &[20] } else { &[] }));
    let shift = first[0].timestamp.wrapping_sub(second[0].timestamp);
    let rest = second.into_iter().filter(|sent| sent.inside().captured_at.as_nanos() / 33_333_333 >= 20);
    let rest = rest.map(|sent| Sent { timestamp: sent.timestamp.wrapping_add(shift), ..sent });
    first.into_iter().chain(rest).collect()
}

#[test]
fn another_source_begins_with_a_keyframe_and_goes_on_with_the_numbers() {
    let jumps = Strictness { one_numbering: false, ..Strictness::FULL };
    for (codec, mode) in MODES {
        let what = format!("{codec:?} {mode:?}");
        let switched = judge_as(codec, &joined(codec, mode, true), jumps);
        assert_clean(&switched, &what);
        assert_eq!((switched.switches().count(), switched.shown().len()), (1, 40));
        let between = judge_as(codec, &joined(codec, mode, false), jumps);
        assert_finds(&between, &[MissingReference], &what);
        assert_eq!(between.shown().len(), 20, "{what}");
        if codec != Codec::H264 && (codec, mode) != (Codec::Av1, Scalability::L1T1) {
            let strict = kinds(&judge(codec, &joined(codec, mode, true)));
            let named = [NumberGap, NumberBack, Tl0].iter().any(|kind| strict.contains(kind));
            // AV1's numbers may leave gaps: half of all jumps are forward ones.
            assert!(named || codec == Codec::Av1, "{what}: {strict:?}");
        }
    }
}

/// Leaves out frames, and puts the marker where a picture now ends.
fn thinned(sent: &[Sent], keep: impl Fn(u64, (u8, u8)) -> bool) -> Vec<Sent> {
    let picture = |sent: &Sent| sent.inside().captured_at.as_nanos() / 33_333_333;
    let mut kept: Vec<Sent> = sent.iter().filter(|sent| keep(picture(sent), sent.layer())).cloned().collect();
    for at in 0..kept.len() {
        kept[at].marker = kept.get(at + 1).is_none_or(|next| next.timestamp != kept[at].timestamp);
    }
    kept
}

/// Gives VP8 pictures the numbers of one stream.
fn closed(mut sent: Vec<Sent>) -> Vec<Sent> {
    let id = |sent: &Sent| u16::from_be_bytes([sent.payload[2], sent.payload[3]]) & 0x7fff;
    let mut next = id(&sent[0]);
    for sent in &mut sent {
        sent.payload[2..4].copy_from_slice(&(next | 0x8000).to_be_bytes());
        next = (next + u16::from(sent.marker)) & 0x7fff;
    }
    sent
}

#[test]
fn vp8_temporal_layers_come_and_go_where_the_frames_allow_it() {
    for mode in [Scalability::L1T3, Scalability::L1T3Sparse] {
        let sent = stream(Codec::Vp8, mode, 11, 64, &[]);
        let lowest = thinned(&sent, |_, (_, temporal)| temporal == 0);
        assert_clean(&judge(Codec::Vp8, &closed(lowest.clone())), "the lowest alone");
        assert_finds(&judge(Codec::Vp8, &lowest), &[NumberGap], "picture ids with holes");
        // Down at any time, up where a frame refers to the lowest layer alone.
        let between = |from: u64, to: u64| {
            let thin = thinned(&sent, |picture, (_, t)| t == 0 || !(from..to).contains(&picture));
            judge(Codec::Vp8, &closed(thin))
        };
        assert_clean(&between(20, 40), "up at a frame with Y");
        if mode == Scalability::L1T3Sparse {
            assert_finds(&between(20, 37), &[UpWithoutSync, MissingReference], "up at any frame");
        }
        let mut counted = closed(sent.clone());
        counted.iter_mut().skip(50).for_each(|sent| sent.payload[4] = sent.payload[4].wrapping_add(1));
        assert_finds(&judge(Codec::Vp8, &counted), &[Tl0], "TL0PICIDX jumps");
    }
}

#[test]
fn vp9_layers_come_and_go_where_the_frames_allow_it() {
    for mode in [Scalability::L3T3, Scalability::L3T3Key] {
        let what = format!("{mode:?}");
        let sent = stream(Codec::Vp9, mode, 12, 64, &[40]);
        let judged = |keep: &dyn Fn(u64, (u8, u8)) -> bool| judge(Codec::Vp9, &thinned(&sent, keep));
        for spatial in 0..3 {
            for temporal in 0..3 {
                let decoder = judged(&|_, (s, t)| s <= spatial && t <= temporal);
                assert_clean(&decoder, &format!("{what} {spatial} {temporal}"));
                assert!(decoder.shown().iter().all(|shown| shown.spatial == spatial && shown.temporal <= temporal));
            }
        }
        let down_and_up = judged(&|picture, (s, _)| s == 0 || !(17..40).contains(&picture));
        assert_clean(&down_and_up, &format!("{what}: up at a keyframe"));
        assert_eq!(down_and_up.switches().map(|shown| shown.spatial).collect::<Vec<_>>(), [0, 2]);
        assert_finds(
            &judged(&|picture, (s, _)| s < 2 || !(17..30).contains(&picture)),
            &[MissingReference],
            "up between",
        );
        assert_finds(
            &judged(&|picture, (s, _)| s != 1 || picture != 0),
            &[MissingReference],
            "a layer between left out",
        );
        let unmarked: Vec<Sent> = sent.iter().filter(|sent| sent.layer().0 < 2).cloned().collect();
        assert_finds(&judge(Codec::Vp9, &unmarked), &[NoMarker], "no marker on the layer that is now the last");
        let mut unended = thinned(&sent, |_, _| true);
        unended.iter_mut().filter(|sent| of_picture(sent, 9)).for_each(|sent| sent.payload[0] &= !0x04);
        assert_finds(&judge(Codec::Vp9, &unended), &[WrongEnd], "no end of a layer's frame");
    }
    let sent = stream(Codec::Vp9, Scalability::L1T3, 12, 64, &[]);
    let mut renumbered = thinned(&sent, |_, (_, temporal)| temporal < 2);
    let mut next = u16::from_be_bytes([renumbered[0].payload[1], renumbered[0].payload[2]]) & 0x7fff;
    for sent in &mut renumbered {
        sent.payload[1..3].copy_from_slice(&(next | 0x8000).to_be_bytes());
        next = (next + u16::from(sent.marker)) & 0x7fff;
    }
    assert_finds(&judge(Codec::Vp9, &renumbered), &[Misplaced], "picture ids closed over the group of pictures");
}

/// Writes an active decode target mask into each descriptor.
fn masked(sent: &[Sent], mode: Scalability, mask: u32) -> Vec<Sent> {
    let definitions = Definitions::new(mode, mode.spatial_layers());
    let mut reader = DescriptorReader::default();
    let masked = |sent: &Sent| {
        let read = reader.read(sent.descriptor.as_ref().unwrap()).unwrap();
        let of = Description {
            starts_frame: read.starts_frame,
            ends_frame: read.ends_frame,
            number: read.number,
            frame: &read.frame,
            in_full: false,
            attach: read.attached,
            active: Some(mask),
        };
        Sent { descriptor: Some(descriptor::write(&definitions, &of)), ..sent.clone() }
    };
    sent.iter().map(masked).collect()
}

#[test]
fn av1_layers_come_and_go_where_the_descriptors_allow_it() {
    let mode = Scalability::L3T3Key;
    let sent = stream(Codec::Av1, mode, 13, 64, &[40]);
    for spatial in 0..3u8 {
        for temporal in 0..3u8 {
            let what = format!("{spatial} {temporal}");
            let thin = thinned(&sent, |_, (s, t)| s <= spatial && t <= temporal);
            let mask =
                (0..9u32).filter(|target| target / 3 <= u32::from(spatial)).fold(0, |mask, target| mask | 1 << target);
            assert_clean(&judge(Codec::Av1, &masked(&thin, mode, mask)), &what);
            if spatial < 2 {
                assert_finds(&judge(Codec::Av1, &thin), &[MissingLayer], &what);
                assert_finds(&judge(Codec::Av1, &masked(&sent, mode, mask)), &[InactiveLayer], &what);
            }
        }
    }
    let up_between = thinned(&sent, |picture, (s, _)| s < 2 || !(17..30).contains(&picture));
    assert_finds(
        &judge(Codec::Av1, &up_between),
        &[MissingReference, BrokenChain, MissingLayer],
        "up between keyframes",
    );
    let mut bare = sent.clone();
    bare.iter_mut().take(3).for_each(|sent| sent.descriptor.as_mut().unwrap().truncate(3));
    assert_finds(&judge(Codec::Av1, &bare), &[BadStart], "no structure");

    let sent = stream(Codec::Av1, Scalability::L1T3, 13, 64, &[]);
    let mut renumbered = thinned(&sent, |_, (_, temporal)| temporal < 2);
    let mut next = 7u16;
    for sent in &mut renumbered {
        sent.descriptor.as_mut().unwrap()[1..3].copy_from_slice(&next.to_be_bytes());
        next += u16::from(sent.marker);
    }
    assert_finds(&judge(Codec::Av1, &renumbered), &[MissingReference], "frame numbers closed over gaps");
    let mut backwards = sent.clone();
    let half = backwards.len() / 2;
    for sent in &mut backwards[half..] {
        let number = sent.descriptor.as_mut().unwrap();
        let back = u16::from_be_bytes([number[1], number[2]]).wrapping_sub(1_000);
        number[1..3].copy_from_slice(&back.to_be_bytes());
    }
    assert_finds(&judge(Codec::Av1, &backwards), &[NumberBack], "frame numbers go back");
}

#[test]
fn packets_of_two_frames_in_one_are_named() {
    for (codec, mode) in MODES {
        let sent = stream(codec, mode, 14, 30, &[]);
        let other = stream(codec, mode, 15, 30, &[]);
        let place = sent.iter().position(|sent| of_picture(sent, 16)).unwrap() + 1;
        let mut mixed = sent.clone();
        let foreign = other.iter().filter(|sent| of_picture(sent, 16)).nth(1).unwrap().clone();
        mixed.insert(place, Sent { timestamp: sent[place].timestamp, ..foreign });
        let found = kinds(&judge(codec, &mixed));
        assert!(found.iter().any(|kind| [Mixed, Cut].contains(kind)), "{codec:?} {mode:?}: {found:?}");
    }
}

#[test]
fn a_sender_report_of_another_clock_is_named() {
    let sent = stream(Codec::Vp8, Scalability::L1T1, 16, 10, &[]);
    let report = |off: u32| {
        let mut decoder = judge(Codec::Vp8, &sent);
        let last = sent.last().unwrap();
        let at = now(last.at);
        let mut bytes = Vec::new();
        let mut writer = crate::wire::rtcp_write::RtcpWriter::new(&mut bytes);
        writer.sender_report(crate::base::id::Ssrc(1), at.wall, last.timestamp.wrapping_add(off), 1, 1, &[]);
        for packet in crate::wire::rtcp::parse(&bytes).flatten() {
            if let crate::wire::rtcp::Rtcp::SenderReport(report) = packet {
                decoder.handle_sender_report(at, &report);
            }
        }
        kinds(&decoder)
    };
    assert_eq!((report(0), report(9_900)), (vec![], vec![ReportAstray]));
}
