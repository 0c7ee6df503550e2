//! The parameter sets that a decoder needs before an H.264 picture: an encoder may send them once (RFC 6184 section
//! 8.4), and a later joiner starts at an IDR all the same.

use weirgate::base::id::{ProducerId, Ssrc};
use weirgate::base::seq::Seq;
use weirgate::shard::command::{Command, ConsumerSpec, EncodingSpec, ProducerSpec};
use weirgate::wire::codec::Codec;

use crate::shard_rig::{consumer_spec, millis, producer_spec};
use crate::support::{CONSUMED, Call, Heard, PUBLISHED, Rtp, assert_no_gap};

const SPS: &[u8] = &[0x67, 0x42, 0xC0, 0x1F, 0x8C, 1, 2, 3, 4, 5, 6, 7];
const PPS: &[u8] = &[0x68, 0xCE, 0x3C, 0x80];
const DELTA: &[u8] = &[0x41, 0x9A, 7, 7];
/// The first and the last fragment of an IDR.
const IDR: [&[u8]; 2] = [&[0x7C, 0x85, 0x88, 1, 1], &[0x7C, 0x45, 2, 2]];

fn specs() -> (ProducerSpec, ConsumerSpec) {
    let (mut produced, mut consumed) = (producer_spec(PUBLISHED), consumer_spec(CONSUMED));
    (produced.codec, consumed.codec) = (Codec::H264, Codec::H264);
    (produced, consumed)
}

/// Every way to send both sets, as payloads.
fn ways() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let aggregated = |units: &[&[u8]]| {
        let sized = units.iter().flat_map(|unit| [&(unit.len() as u16).to_be_bytes()[..], unit].concat());
        [0x78].into_iter().chain(sized).collect::<Vec<u8>>()
    };
    let fragment = |first: bool, last: bool, part: &[u8]| {
        [&[0x7C, u8::from(first) << 7 | u8::from(last) << 6 | 7][..], part].concat()
    };
    let fragments = vec![
        fragment(true, false, &SPS[1..5]),
        fragment(false, false, &SPS[5..9]),
        fragment(false, true, &SPS[9..]),
        PPS.to_vec(),
    ];
    vec![
        ("one by one", vec![SPS.to_vec(), PPS.to_vec()]),
        ("the picture's first", vec![PPS.to_vec(), SPS.to_vec()]),
        ("together", vec![aggregated(&[SPS, PPS])]),
        ("behind a delimiter", vec![aggregated(&[&[0x09, 0x10], SPS, PPS])]),
        ("in two", vec![aggregated(&[SPS]), aggregated(&[&[0x06, 1], PPS])]),
        ("in fragments", fragments),
    ]
}

struct Encoder {
    seq: u16,
    timestamp: u32,
    ssrc: u32,
}

impl Encoder {
    fn new() -> Encoder {
        Encoder { seq: 500, timestamp: 90_000, ssrc: PUBLISHED }
    }

    /// One picture, sent packet by packet.
    fn picture(&mut self, call: &mut Call, payloads: &[&[u8]]) {
        self.timestamp += 3_000;
        for (at, payload) in payloads.iter().enumerate() {
            self.seq += 1;
            let (seq, timestamp, ssrc) = (self.seq, self.timestamp, self.ssrc);
            let marker = at + 1 == payloads.len();
            call.send(Rtp { ssrc, seq, timestamp, marker, payload, ..Rtp::default() });
        }
    }

    fn start(&mut self, call: &mut Call, sets: &[Vec<u8>]) {
        let payloads: Vec<&[u8]> = sets.iter().map(Vec::as_slice).chain(IDR).collect();
        self.picture(call, &payloads);
    }

    fn deltas(&mut self, call: &mut Call, count: usize) {
        (0..count).for_each(|_| self.picture(call, &[DELTA]));
    }
}

fn payloads(heard: &[Heard]) -> Vec<&[u8]> {
    heard.iter().map(|heard| &heard.payload[..]).collect()
}

/// Both sets and an IDR, in one row, at one moment, and what follows.
fn assert_starts_well(heard: &[Heard], what: &str) {
    assert!(heard.len() >= 4, "{what}: {heard:?}");
    assert_eq!(payloads(&heard[..4]), [SPS, PPS, IDR[0], IDR[1]], "{what}");
    assert!(heard[..4].iter().all(|packet| packet.timestamp == heard[0].timestamp), "{what}: {heard:?}");
    assert_eq!(heard[..4].iter().map(|packet| packet.marker).collect::<Vec<_>>(), [false, false, false, true]);
    for pair in heard.windows(2) {
        assert_eq!(pair[1].seq, pair[0].seq + 1, "{what}");
    }
}

/// A producer whose stream began with these sets, two hundred and fifty pictures ago; and what to consume it with.
fn under_way(sets: &[Vec<u8>]) -> (Call, Encoder, ConsumerSpec) {
    let (produced, consumed) = specs();
    let mut call = Call::unproduced(1);
    call.produce(produced);
    let mut encoder = Encoder::new();
    encoder.start(&mut call, sets);
    encoder.deltas(&mut call, 250);
    (call, encoder, consumed)
}

#[test]
fn a_joiner_starts_at_an_idr_with_the_sets_that_were_sent_once() {
    for shards in [1, 2] {
        for (way, sets) in ways() {
            let what = format!("{way}, {shards} shards");
            let (produced, consumed) = specs();
            let mut call = Call::unproduced(shards);
            call.produce(produced);
            let mut encoder = Encoder::new();
            encoder.start(&mut call, &sets);
            // Older than what a joiner is served from the history.
            encoder.deltas(&mut call, 250);
            call.consume(consumed);
            encoder.deltas(&mut call, 20);
            assert_eq!(call.media().len(), 0, "{what}");
            encoder.picture(&mut call, &IDR);
            encoder.deltas(&mut call, 3);
            let media = call.media();
            assert_starts_well(&media, &what);
            assert_eq!(payloads(&media[4..]), [DELTA; 3]);
            // The next IDR needs nothing in front: this decoder has it.
            encoder.picture(&mut call, &IDR);
            assert_eq!(payloads(&call.media()[7..]), IDR, "{what}");
            assert!(call.plis() <= 3, "{what}: {}", call.plis());
        }
    }
}

#[test]
fn the_sets_can_be_asked_for_again() {
    let (mut call, mut encoder, consumed) = under_way(&ways()[0].1);
    call.consume(consumed);
    encoder.deltas(&mut call, 2);
    encoder.picture(&mut call, &IDR);
    let media = call.media();
    let seqs: Vec<Seq> = media.iter().map(|heard| Seq(heard.seq)).collect();
    call.ask_again(&seqs);
    let repairs = call.repairs();
    assert_eq!(repairs.len(), 4);
    for (repair, original) in repairs.iter().zip(&media) {
        assert_eq!(repair.payload[..2], original.seq.to_be_bytes());
        assert_eq!((&repair.payload[2..], repair.timestamp), (&original.payload[..], original.timestamp));
    }
    // Once they have changed, what was sent before is gone.
    let changed = [SPS, &[9]].concat();
    encoder.picture(&mut call, &[&changed, PPS, IDR[0], IDR[1]]);
    call.rig.run(millis(50));
    call.ask_again(&seqs[..1]);
    assert_eq!(call.repairs().len(), 4);
}

#[test]
fn a_joiner_that_is_served_from_the_history_is_given_them_too() {
    let (mut call, mut encoder, consumed) = under_way(&ways()[2].1);
    encoder.picture(&mut call, &IDR);
    encoder.deltas(&mut call, 10);
    let before = call.plis();
    call.consume(consumed);
    call.rig.run(millis(100));
    encoder.deltas(&mut call, 1);
    let media = call.media();
    assert_starts_well(&media, "replayed");
    assert_eq!((media.len(), call.plis()), (15, before));
    let seqs: Vec<Seq> = media.iter().take(2).map(|heard| Seq(heard.seq)).collect();
    call.ask_again(&seqs);
    for (repair, original) in call.repairs().iter().zip(&media) {
        assert_eq!((&repair.payload[2..], repair.timestamp), (&original.payload[..], original.timestamp));
    }
}

/// Numbers and timestamps go on over pauses: the sets take the numbers before the IDR's.
#[test]
fn one_who_pauses_and_resumes_goes_on_without_a_gap() {
    let (produced, consumed) = specs();
    let mut call = Call::new(1, produced, consumed);
    let mut encoder = Encoder::new();
    encoder.start(&mut call, &ways()[0].1);
    encoder.deltas(&mut call, 5);
    for _ in 0..3 {
        let consumer = weirgate::base::id::ConsumerId(1);
        call.rig.command(0, Command::PauseConsumer { consumer });
        encoder.deltas(&mut call, 300);
        call.rig.command(0, Command::ResumeConsumer { consumer });
        encoder.picture(&mut call, &IDR);
        encoder.deltas(&mut call, 2);
    }
    let media = call.media();
    assert_no_gap(&media);
    assert_eq!(media.len(), 9 + 3 * 6);
    assert_eq!(payloads(&media[9..13]), [SPS, PPS, IDR[0], IDR[1]]);
    for pair in media.windows(2) {
        assert!(pair[1].timestamp.wrapping_sub(pair[0].timestamp) < 400_000, "never back");
    }
}

#[test]
fn sets_that_came_while_the_producer_was_paused_are_known() {
    let (produced, consumed) = specs();
    let mut call = Call::new(1, produced, consumed);
    let producer = ProducerId(1);
    call.rig.command(0, Command::PauseProducer { producer });
    let mut encoder = Encoder::new();
    encoder.start(&mut call, &ways()[0].1);
    encoder.deltas(&mut call, 5);
    call.rig.command(0, Command::ResumeProducer { producer });
    encoder.deltas(&mut call, 5);
    encoder.picture(&mut call, &IDR);
    assert_starts_well(&call.media(), "paused");
}

/// Where something before the IDR is missing it may be newer sets: those are waited for.
#[test]
fn an_idr_behind_a_gap_waits_for_what_is_missing() {
    let (mut call, mut encoder, consumed) = under_way(&ways()[0].1);
    call.consume(consumed);
    let newer = [SPS, &[9]].concat();
    let missing = encoder.seq + 1;
    encoder.seq += 1;
    encoder.picture(&mut call, &[PPS, IDR[0], IDR[1]]);
    assert_eq!(call.media().len(), 0);
    call.send(Rtp { seq: missing, timestamp: encoder.timestamp, marker: false, payload: &newer, ..Rtp::default() });
    assert_eq!(payloads(&call.media()), [&newer[..], PPS, IDR[0], IDR[1]], "repaired, it starts by itself");
}

/// Half of them, none, or noise: nothing is made up.
#[test]
fn without_both_sets_or_under_encryption_nothing_is_put_in_front() {
    for sets in [vec![SPS.to_vec()], vec![PPS.to_vec()], vec![]] {
        let (mut call, mut encoder, consumed) = under_way(&sets);
        call.consume(consumed);
        encoder.deltas(&mut call, 2);
        encoder.picture(&mut call, &IDR);
        assert_eq!(call.media().len(), 0, "{sets:?}");
    }
    let (produced, consumed) = specs();
    let mut call = Call::unproduced(1);
    call.produce(produced);
    let mut encoder = Encoder::new();
    encoder.start(&mut call, &ways()[0].1);
    // Noise, as a whole frame's encryption leaves it: units with the forbidden bit among them.
    for at in 0..300u32 {
        let noise: Vec<u8> =
            (0..40u32).map(|byte| (at.wrapping_mul(2_654_435_761).wrapping_add(byte * 97) >> 7) as u8).collect();
        encoder.picture(&mut call, &[&noise]);
    }
    call.consume(consumed);
    for at in 0..300u32 {
        let noise = [(at.wrapping_mul(2_654_435_761) >> 9) as u8 | 0x80, 1, 2, 3];
        encoder.picture(&mut call, &[&noise]);
        encoder.picture(&mut call, &[&[0x65, 0x88, 1]]);
    }
    assert!(payloads(&call.media()).iter().all(|payload| *payload != SPS && *payload != PPS));
}

/// A switch to another encoding is a start as well, with that one's sets.
#[test]
fn a_switch_of_encodings_brings_the_others_sets() {
    let (mut produced, mut consumed) = specs();
    let encoding = |ssrc| EncodingSpec { ssrc: Some(Ssrc(ssrc)), rtx_ssrc: None, rid: None };
    produced.encodings = vec![encoding(PUBLISHED), encoding(PUBLISHED + 100)];
    produced.top.spatial = 1;
    (consumed.encodings, consumed.top.spatial) = (2, 1);
    let mut call = Call::new(1, produced, consumed);
    let consumer = weirgate::base::id::ConsumerId(1);
    let layers = |spatial| weirgate::base::id::Layers { spatial, temporal: 0 };
    call.rig.command(0, Command::SetPreferredLayers { consumer, layers: layers(0) });
    let other = [&SPS[..11], &[99]].concat();
    let (mut low, mut high) = (Encoder::new(), Encoder { ssrc: PUBLISHED + 100, seq: 9_000, timestamp: 5_000 });
    low.start(&mut call, &[SPS.to_vec(), PPS.to_vec()]);
    high.start(&mut call, &[other.clone(), PPS.to_vec()]);
    for _ in 0..150 {
        low.deltas(&mut call, 1);
        high.deltas(&mut call, 1);
    }
    let before = call.media().len();
    assert_eq!(before, 154, "the low one flows");
    call.rig.command(0, Command::SetPreferredLayers { consumer, layers: layers(1) });
    high.picture(&mut call, &IDR);
    high.deltas(&mut call, 2);
    let media = call.media();
    assert_eq!(payloads(&media[before..]), [&other[..], PPS, IDR[0], IDR[1], DELTA, DELTA]);
    assert_no_gap(&media);
}
