//! Payload types that nobody agreed to in the middle of a stream: no media, and nothing that is missing.

use weirgate::base::id::{PayloadType, Ssrc};
use weirgate::shard::command::{ConsumerSpec, ProducerSpec};
use weirgate::wire::feedback::Feedback;
use weirgate::wire::rtcp::Rtcp;

use crate::shard_rig::{RTX, consumer_spec, millis, producer_spec};
use crate::support::{CONSUMED, Call, PUBLISHED, Rtp, assert_no_gap, opus};

const EVENT: PayloadType = PayloadType(126);

/// The publisher was told of no loss, and asked for nothing again.
fn assert_nothing_lost(call: &Call) {
    let blocks = call.told(|packet| match packet {
        Rtcp::ReceiverReport(report) => Some(report.blocks().collect::<Vec<_>>()),
        _ => None,
    });
    let blocks: Vec<_> = blocks.into_iter().flatten().filter(|block| block.ssrc == PUBLISHED).collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        assert_eq!((block.cumulative_lost, block.fraction_lost), (0, 0));
        assert!(block.jitter < 1_000, "the other clock is no jitter: {}", block.jitter);
    }
    let nacks = call.told(|packet| matches!(packet, Rtcp::Feedback(Feedback::Nack(_))).then_some(()));
    assert_eq!(nacks.len(), 0);
}

/// Eight telephone events in the middle of speech, in this order of arrival.
fn events(shards: usize, (produced, consumed): (ProducerSpec, ConsumerSpec), order: &[u16]) -> Call {
    let media = produced.payload_type;
    let video = produced.clock_rate == 90_000;
    let mut call = Call::new(shards, produced, consumed);
    for at in order {
        let event = (111..=118).contains(at);
        let payload: &[u8] = match (video, at) {
            (true, 100) => &[0x10, 0, 0, 0, 0x9d, 0x01, 0x2a, 1],
            (true, _) => &[0x10, 1, 2],
            (false, _) => &[0xf8, 1, 2],
        };
        call.send(Rtp {
            payload_type: if event { EVENT } else { media },
            seq: *at,
            timestamp: if event { 4_000_000 } else { u32::from(*at) * 960 },
            marker: false,
            payload: if event { &[1, 10, 0, 160] } else { payload },
            ..Rtp::default()
        });
        call.rig.run(millis(15));
    }
    call.rig.run(millis(1_500));
    call
}

#[test]
fn telephone_events_close_up_and_are_not_lost() {
    let order: Vec<u16> = (100..140).collect();
    for shards in [1, 2] {
        for (specs, media) in [(opus(), 32), ((producer_spec(PUBLISHED), consumer_spec(CONSUMED)), 32)] {
            let mut call = events(shards, specs, &order);
            let heard = call.media();
            assert_eq!(heard.len(), media);
            assert!(heard.iter().all(|heard| heard.payload.len() > 2 && heard.payload[0] != 1));
            assert_no_gap(&heard);
            assert_nothing_lost(&call);
            assert_eq!(call.drops("wrong_payload_type"), 8);
        }
    }
}

/// Its number was left for it by then.
#[test]
fn an_event_that_comes_late_is_stood_in_for_by_padding() {
    let order: Vec<u16> = (100..114).chain([115, 116, 119, 114, 117, 120, 118]).chain(121..140).collect();
    for shards in [1, 2] {
        let call = events(shards, opus(), &order);
        let heard = call.media();
        assert_no_gap(&heard);
        let (empty, media): (Vec<_>, Vec<_>) = heard.iter().partition(|heard| heard.payload.is_empty());
        assert_eq!((media.len(), empty.len()), (32, 3), "{shards} shards");
        assert!(media.iter().all(|heard| heard.payload == [0xf8, 1, 2]));
    }
}

/// The same of padding alone, which has no payload type of its own.
#[test]
fn padding_that_comes_late_leaves_no_gap_either() {
    let (produced, consumed) = opus();
    let mut call = Call::new(1, produced, consumed);
    for (seq, padding) in [(10, 0), (11, 9), (13, 0), (12, 9), (14, 0)] {
        let payload: &[u8] = if padding > 0 { &[] } else { &[0xf8, 1] };
        call.send(Rtp { seq, timestamp: u32::from(seq) * 960, payload, padding, ..Rtp::default() });
    }
    let heard = call.media();
    assert_no_gap(&heard);
    assert_eq!(heard.len(), 4);
}

/// A publisher that changes its codec without a word, and repairs that as well.
#[test]
fn another_codecs_packets_and_their_retransmissions_are_accounted_for() {
    let mut call = Call::new(1, producer_spec(PUBLISHED), consumer_spec(CONSUMED));
    let key: &[u8] = &[0x10, 0, 0, 0, 0x9d, 0x01, 0x2a, 1];
    call.send(Rtp { seq: 1, payload: key, ..Rtp::default() });
    // 2 is lost, 3 tells of it; 2 comes as a retransmission of the other codec.
    call.send(Rtp { seq: 3, payload_type: EVENT, payload: &[9, 9, 9], ..Rtp::default() });
    let nacked = call.told(|packet| match packet {
        Rtcp::Feedback(Feedback::Nack(nack)) => Some(nack.seqs().map(|seq| seq.0).collect::<Vec<_>>()),
        _ => None,
    });
    assert_eq!(nacked.concat(), [2]);
    call.send(Rtp { ssrc: PUBLISHED + 1, payload_type: PayloadType(99), payload: &[0, 2, 9, 9], ..Rtp::default() });
    call.send(Rtp { seq: 4, payload: &[0x10, 1], ..Rtp::default() });
    // One of its own repairs goes on as ever.
    call.send(Rtp { seq: 6, payload: &[0x10, 1], ..Rtp::default() });
    call.send(Rtp { ssrc: PUBLISHED + 1, payload_type: RTX, seq: 501, payload: &[0, 5, 0x10, 1], ..Rtp::default() });
    call.rig.run(millis(600));
    let nacks = call.told(|packet| match packet {
        Rtcp::Feedback(Feedback::Nack(nack)) if nack.media == Ssrc(PUBLISHED) => Some(nack.seqs().count()),
        _ => None,
    });
    assert_eq!(nacks.iter().sum::<usize>(), 2, "each was asked for once");
    let heard = call.media();
    assert_no_gap(&heard);
    assert_eq!(heard.iter().filter(|heard| !heard.payload.is_empty()).count(), 4);
}
