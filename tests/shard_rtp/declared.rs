//! RFC 8843 section 9.2: of several producers of one peer that a packet may belong to, the one whose it is by its SSRC.

use weirgate::base::id::{Mid, PayloadType, ProducerId, Rid, Ssrc};
use weirgate::shard::command::{Closed, EncodingSpec, Event, ProducerSpec};
use weirgate::wire::extension::Extension;

use crate::shard_rig::{RTX, VIDEO, consumer_spec, producer_spec};
use crate::support::{CONSUMED, Call, MID, Rtp};

const RID: u8 = 6;
const REPAIRED: u8 = 7;
const KEYFRAME: [u8; 10] = [0x10, 0, 0, 0, 0x9d, 0x01, 0x2a, 1, 1, 1];
/// The SSRCs of the producers, each followed by that of its retransmissions.
const FIRST: u32 = 1_000;
const SECOND: u32 = 2_000;
const OF_SECOND: u32 = CONSUMED + 10;

/// Producers 1 and 2 of one peer, in this order of coming, each with a consumer.
fn two(first: ProducerSpec, second: ProducerSpec, order: [u64; 2]) -> Call {
    let mut call = Call::unproduced(1);
    for id in order {
        let spec = if id == 1 { first.clone() } else { second.clone() };
        call.rig.produce_as(0, id, 1, spec);
    }
    watch(&mut call, 1, CONSUMED);
    watch(&mut call, 2, OF_SECOND);
    call
}

fn watch(call: &mut Call, producer: u64, ssrc: u32) {
    call.rig.consume_as(0, producer, 2, producer, 0, consumer_spec(ssrc));
}

fn with_mid(ssrc: u32, mid: &[u8]) -> ProducerSpec {
    ProducerSpec { mid: Mid::new(mid), ..producer_spec(ssrc) }
}

/// Two encodings with rids, whose SSRCs are `ssrc` and the one two after it, or not said.
fn with_rids(ssrc: Option<u32>) -> ProducerSpec {
    let mut spec = producer_spec(0);
    let encoding = |at: u32, rid: &[u8]| EncodingSpec {
        ssrc: ssrc.map(|ssrc| Ssrc(ssrc + at)),
        rtx_ssrc: ssrc.map(|ssrc| Ssrc(ssrc + at + 1)),
        rid: Rid::new(rid),
    };
    spec.encodings = vec![encoding(0, b"lo"), encoding(2, b"hi")];
    spec.extensions.set(Extension::Rid, RID);
    spec.extensions.set(Extension::RepairedRid, REPAIRED);
    spec
}

/// How many packets each of the two consumers got.
fn got(call: &Call) -> [usize; 2] {
    [CONSUMED, OF_SECOND].map(|ssrc| call.heard(ssrc).len())
}

fn bound(call: &Call) -> Vec<u64> {
    let bound = |event: &Event| match event {
        Event::ProducerBound { producer, .. } => Some(producer.0),
        _ => None,
    };
    call.rig.events.iter().filter_map(bound).collect()
}

fn keyframe(call: &mut Call, ssrc: u32, elements: &[(u8, &[u8])]) {
    call.send(Rtp { ssrc, payload: &KEYFRAME, elements, ..Rtp::default() });
}

#[test]
fn an_ssrc_that_was_declared_says_more_than_a_mid_two_share() {
    for order in [[1, 2], [2, 1]] {
        for (ssrc, whose) in [(FIRST, [1, 0]), (SECOND, [0, 1])] {
            let mut call = two(producer_spec(FIRST), producer_spec(SECOND), order);
            keyframe(&mut call, ssrc, &[(MID, b"0")]);
            assert_eq!(got(&call), whose, "{ssrc}, in the order {order:?}");
        }
    }
}

#[test]
fn the_same_of_retransmissions() {
    for order in [[1, 2], [2, 1]] {
        for (ssrc, whose) in [(FIRST, 1), (SECOND, 2)] {
            let mut call = two(producer_spec(FIRST), producer_spec(SECOND), order);
            let repeated = [&500u16.to_be_bytes()[..], &KEYFRAME].concat();
            let packet = Rtp { ssrc: ssrc + 1, payload_type: RTX, payload: &repeated, ..Rtp::default() };
            call.send(Rtp { elements: &[(MID, b"0")], ..packet });
            assert_eq!(bound(&call), [whose], "{ssrc}, in the order {order:?}");
        }
    }
}

#[test]
fn the_same_of_rids() {
    for order in [[1, 2], [2, 1]] {
        for (at, rid) in [(0, b"lo"), (2, b"hi")] {
            let kinds: [(u32, u8, PayloadType); 2] = [(0, RID, VIDEO), (1, REPAIRED, RTX)];
            for (rtx, element, payload_type) in kinds {
                let mut call = two(with_rids(Some(FIRST)), with_rids(None), order);
                let payload = [&500u16.to_be_bytes()[..], &KEYFRAME].concat();
                let packet = Rtp { ssrc: FIRST + at + rtx, payload_type, payload: &payload, ..Rtp::default() };
                call.send(Rtp { elements: &[(MID, b"0"), (element, rid)], ..packet });
                assert_eq!(bound(&call), [1], "{rid:?}, in the order {order:?}");
                // Of an SSRC that nobody declared, the newest with that name.
                let mut call = two(with_rids(Some(FIRST)), with_rids(None), order);
                let packet = Rtp { ssrc: 77, payload_type, payload: &payload, ..Rtp::default() };
                call.send(Rtp { elements: &[(MID, b"0"), (element, rid)], ..packet });
                assert_eq!(bound(&call), [order[1]], "{rid:?}, in the order {order:?}");
            }
        }
    }
}

#[test]
fn a_mid_of_another_producer_says_more_than_what_was_declared() {
    for order in [[1, 2], [2, 1]] {
        let mut call = two(with_mid(FIRST, b"0"), with_mid(SECOND, b"1"), order);
        keyframe(&mut call, FIRST, &[(MID, b"1")]);
        assert_eq!(got(&call), [0, 1], "in the order {order:?}");
        // One that nobody has says nothing.
        let mut call = two(with_mid(FIRST, b"0"), with_mid(SECOND, b"1"), order);
        keyframe(&mut call, FIRST, &[(MID, b"9")]);
        assert_eq!(got(&call), [1, 0], "in the order {order:?}");
    }
}

#[test]
fn both_can_follow_each_other() {
    let mut call = two(producer_spec(FIRST), producer_spec(SECOND), [1, 2]);
    keyframe(&mut call, FIRST, &[(MID, b"0")]);
    keyframe(&mut call, SECOND, &[(MID, b"0")]);
    assert_eq!((got(&call), bound(&call)), ([1, 1], vec![1, 2]));
    let replaced =
        |event: &Event| matches!(event, Event::ProducerClosed { producer: ProducerId(1), why: Closed::Replaced });
    assert!(call.rig.events.iter().any(replaced), "one mid is one stream");
    // What comes late of the first is nobody's.
    call.send(Rtp { ssrc: FIRST, seq: 501, payload: &KEYFRAME, elements: &[(MID, b"0")], ..Rtp::default() });
    assert_eq!(got(&call), [1, 1]);
}

/// A page that gives a mid to its next stream sends before it says so.
#[test]
fn media_that_came_before_its_producer_and_was_taken_by_mid_goes_to_it() {
    for shared in [Some(&b"0"[..]), None] {
        let mut call = Call::unproduced(1);
        let (first, second) = match shared {
            Some(_) => (producer_spec(FIRST), producer_spec(SECOND)),
            // By a rid alone.
            None => {
                let (mut first, mut second) = (with_rids(None), with_rids(Some(SECOND)));
                (first.mid, second.mid) = (None, None);
                (first, second)
            }
        };
        let rid: (u8, &[u8]) = (RID, b"lo");
        let elements: &[(u8, &[u8])] = if shared.is_some() { &[(MID, b"0")] } else { &[rid] };
        call.rig.produce_as(0, 1, 1, first);
        watch(&mut call, 1, CONSUMED);
        keyframe(&mut call, SECOND, elements);
        assert_eq!(bound(&call), [1]);
        call.rig.produce_as(0, 2, 1, second);
        watch(&mut call, 2, OF_SECOND);
        call.send(Rtp { ssrc: SECOND, seq: 501, timestamp: 93_000, payload: &KEYFRAME, elements, ..Rtp::default() });
        assert_eq!((bound(&call), got(&call)[1]), (vec![1, 2], 1), "{shared:?}");
    }
}
