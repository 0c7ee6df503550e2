//! The shard's own RTCP to one client: NACK, PLI and FIR to a publisher, transport-cc feedback or REMB, sender and
//! receiver reports, BYE.

use rand::Rng;
use rand::rngs::StdRng;

use crate::base::id::Ssrc;
use crate::base::slab::Key;
use crate::base::time::{Duration, Now};
use crate::media::nack::NackOutcome;
use crate::router::keys::ConsumerKey;
use crate::router::producer::Producer;
use crate::shard::commons::Commons;
use crate::shard::keyframes;
use crate::shard::rtcp_out::{self, OWN_SSRC};
use crate::shard::stats;
use crate::transport::Transport;
use crate::wire::rtcp_write::RtcpWriter;
use crate::wire::transport_cc::FeedbackBuilder;

/// Reports of many transports fall due together, so that an otherwise idle shard wakes for several at once.
const REPORT_GRID: Duration = Duration::from_millis(20);
/// The interval of two reports, give or take a tenth.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// The same of a transport that is sent nothing but audio, and sends nothing: there is no picture to keep in step with
/// (RFC 3550 section 6.2 wants no more; libwebrtc does the same).
const REPORT_AUDIO_EVERY: Duration = Duration::from_secs(5);
/// The most that a report may come after the newest packet: a little more than it may take to the next report.
const PAUSE_MAX: Duration = Duration::from_millis(1_200);
/// RTCP packets are cut at this size, well below the path MTU.
const COMPOUND_MAX: usize = 1_100;

pub(super) fn ask_for_missing(commons: &mut Commons, now: Now, key: Key<Transport>) {
    let rtt = commons.registry.round_trip_to(key).unwrap_or(Producer::ROUND_TRIP_DEFAULT);
    let mut packet = Vec::new();
    let mut missing = Vec::new();
    for producer_key in commons.registry.wiring[key.slot()].producers.clone() {
        let Some(producer) = commons.registry.producers.get_mut(producer_key) else { continue };
        let source = producer.source;
        let mut gave_up = None;
        for (at, stream) in producer.streams.iter_mut().enumerate() {
            missing.clear();
            if stream.nack.poll(now.mono, rtt, &mut missing) == NackOutcome::GaveUp {
                gave_up = Some(at as u8);
            }
            if let (Some(ssrc), false) = (stream.ssrc, missing.is_empty()) {
                stream.nacks_sent += 1;
                stream.nacked_packets += missing.len() as u64;
                RtcpWriter::new(&mut packet).nack(OWN_SSRC, ssrc, &missing);
            }
        }
        if let Some(encoding) = gave_up {
            keyframes::request(commons, now, source, Some(encoding), false);
        }
    }
    rtcp_out::send(commons, key, packet);
}

pub(super) fn send_transport_feedback(commons: &mut Commons, now: Now, key: Key<Transport>) {
    // The log may have something to tell after the last producer is gone. It is told all the same, or the log would
    // stay due for ever; senders go by the numbers, not by the SSRC.
    let media_ssrc = any_incoming_ssrc(commons, key).unwrap_or(OWN_SSRC);
    let Some(transport) = commons.registry.transports.get_mut(key) else { return };
    let mut packets = Vec::new();
    while let Some(window) = transport.arrivals.poll(now.mono) {
        // One packet is enough unless two arrivals lie too far apart for it; the rest goes into the next.
        let mut taken = 0;
        while taken < window.len() {
            let mut rest = window.packets().skip(taken).peekable();
            let Some((base_seq, _)) = rest.peek().copied() else { break };
            let feedback_count = transport.feedback_count;
            let builder = FeedbackBuilder { sender: OWN_SSRC, media: media_ssrc, base_seq, feedback_count };
            let mut packet = Vec::new();
            let written = builder.write(rest, &mut packet);
            if written == 0 {
                break;
            }
            transport.feedback_count = feedback_count.wrapping_add(1);
            taken += written;
            packets.push(packet);
        }
    }
    for packet in packets {
        rtcp_out::send(commons, key, packet);
    }
}

fn any_incoming_ssrc(commons: &Commons, key: Key<Transport>) -> Option<Ssrc> {
    let producers = &commons.registry.wiring[key.slot()].producers;
    producers
        .iter()
        .filter_map(|key| commons.registry.producers.get(*key))
        .flat_map(|p| &p.streams)
        .find_map(|s| s.ssrc)
}

/// Sends sender reports for what the client receives and receiver reports for what it sends, in compounds that start
/// with a report (RFC 3550 section 6.1), at random intervals, so that reports do not fall into step (section 6.2).
pub(super) fn send_reports(commons: &mut Commons, rng: &mut StdRng, now: Now, key: Key<Transport>) {
    let Some(transport) = commons.registry.transports.get_mut(key) else { return };
    if !transport.is_open() {
        transport.reports_at = None;
        return;
    }
    if transport.reports_at.is_some_and(|at| at > now.mono) {
        return;
    }
    let produces = commons.registry.peers.get(&transport.peer).is_some_and(|entry| !entry.producers.is_empty());
    if !produces && commons.registry.wiring[key.slot()].consumers.is_empty() {
        transport.reports_at = None;
        return;
    }
    let wiring = &commons.registry.wiring[key.slot()];
    let is_video =
        |key: &ConsumerKey| commons.registry.consumers.get(*key).is_some_and(|consumer| consumer.codec.is_video());
    let audio_alone = wiring.producers.is_empty() && !wiring.consumers.iter().any(is_video);
    let every = if audio_alone { REPORT_AUDIO_EVERY } else { REPORT_EVERY };
    let wait = every * rng.random_range(90..110) / 100;
    transport.reports_at = Some((now.mono + wait).round_up(REPORT_GRID));
    stats::look_at_rates(&mut commons.registry, now, key);
    commons.registry.note_verdicts(now.mono, key);
    if !send_sender_reports(commons, rng, now, key)
        && let Some(transport) = commons.registry.transports.get_mut(key)
    {
        transport.reports_at = transport.reports_at.map(|at| at.min((now.mono + REPORT_EVERY).round_up(REPORT_GRID)));
    }
    send_receiver_reports(commons, now, key);
}

/// Sends reports on streams with packets since their last report (RFC 3550 section 6.4). False: one was held back,
/// because its publisher's report and its packets disagree.
fn send_sender_reports(commons: &mut Commons, rng: &mut StdRng, now: Now, key: Key<Transport>) -> bool {
    let mut packet = Vec::new();
    let mut packets = Vec::new();
    let mut complete = true;
    for consumer in &commons.registry.wiring[key.slot()].consumers {
        let Some(consumer) = commons.registry.consumers.get_mut(*consumer) else { continue };
        let Some(encoding) = consumer.attached() else { continue };
        if consumer.codec.is_video() && commons.registry.transports.get(key).is_some_and(|t| t.egress.is_replaying()) {
            continue;
        }
        let Some(transport) = commons.registry.transports.get_mut(key) else { continue };
        let Some(outgoing) = transport.outgoing.get(consumer.outgoing) else { continue };
        // The count of this SSRC alone: retransmissions have their own.
        let count = outgoing.sent.packets - outgoing.sent.retransmitted;
        let (Some(offset), true) = (consumer.rewriter.timestamp_offset(), count > consumer.reports.packets_told) else {
            continue;
        };
        let encoding = commons
            .registry
            .sources
            .get_mut(consumer.source)
            .and_then(|source| source.encodings.get_mut(usize::from(encoding)));
        // The clock of a stream that stands still is unknown.
        let Some(clock) = encoding.map(|encoding| &mut encoding.clock).filter(|clock| clock.runs(now.mono, PAUSE_MAX))
        else {
            continue;
        };
        let Some((ntp, timestamp)) = clock.rtp_at(now) else {
            complete = false;
            continue;
        };
        consumer.reports.packets_told = count;
        let timestamp = timestamp.wrapping_add(offset);
        let ntp = transport.kind.report_time(ntp, rng);
        let count = count as u32;
        let octets = outgoing.sent.octets as u32;
        RtcpWriter::new(&mut packet).sender_report(outgoing.ssrc, ntp, timestamp, count, octets, &[]);
        RtcpWriter::new(&mut packet).sdes_cname(outgoing.ssrc, &outgoing.cname);
        if packet.len() > COMPOUND_MAX - 128 {
            packets.push(std::mem::take(&mut packet));
        }
    }
    packets.push(packet);
    for packet in packets {
        rtcp_out::send(commons, key, packet);
    }
    complete
}

fn send_receiver_reports(commons: &mut Commons, now: Now, key: Key<Transport>) {
    let mut blocks = Vec::new();
    for producer in commons.registry.wiring[key.slot()].producers.clone() {
        let Some(producer) = commons.registry.producers.get_mut(producer) else { continue };
        for stream in &mut producer.streams {
            let Some(block) = stream.ssrc.and_then(|ssrc| stream.receiver.report_block(now, ssrc)) else {
                continue;
            };
            stream.fraction_lost = block.fraction_lost;
            blocks.push(block);
        }
    }
    let Some(transport) = commons.registry.transports.get_mut(key) else { return };
    let remb = transport.remb.as_mut().and_then(|remb| {
        let worst = blocks.iter().map(|block| block.fraction_lost).max().unwrap_or(0);
        remb.on_loss(f64::from(worst) / 256.0);
        remb.poll(now.mono)
    });
    let remb = match (remb, transport.max_incoming) {
        (Some(allowed), Some(max)) => Some(allowed.min(max)),
        (allowed, max) => allowed.or(max),
    };
    let ssrcs: Vec<Ssrc> = blocks.iter().map(|block| Ssrc(block.ssrc)).collect();
    // At most 31 blocks fit the count field (RFC 3550 section 6.4.2).
    for (at, blocks) in blocks.chunks(31).enumerate() {
        let mut packet = Vec::new();
        RtcpWriter::new(&mut packet).receiver_report(OWN_SSRC, blocks);
        if let (0, Some(bitrate)) = (at, remb) {
            RtcpWriter::new(&mut packet).remb(OWN_SSRC, bitrate, &ssrcs[..ssrcs.len().min(31)]);
        }
        rtcp_out::send(commons, key, packet);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::seq::ExtSeq;
    use crate::shard::fixture::{Fixture, HERE, video};

    #[test]
    fn gaps_are_asked_for_and_given_up_for_a_keyframe() {
        let mut fixture = Fixture::new();
        let key = fixture.connected(1);
        let producer = fixture.producer(7, 1, video(100));
        let stream = fixture.commons.registry.stream_mut(producer, 0).unwrap();
        stream.nack.on_gap(ExtSeq(10), ExtSeq(12), fixture.now.mono);
        let mut asked = Vec::new();
        for _ in 0..100 {
            fixture.wait(50);
            ask_for_missing(&mut fixture.commons, fixture.now, key);
            asked.extend(fixture.rtcp());
        }
        assert!(asked[0].contains("Nack"), "{asked:?}");
        assert!(asked.iter().any(|packet| packet.contains("Pli")), "{asked:?}");
        let nacks = asked.iter().filter(|packet| packet.contains("Nack")).count();
        let stream = fixture.commons.registry.stream_mut(producer, 0).unwrap();
        assert_eq!((stream.nacks_sent, stream.nacked_packets), (nacks as u64, 2 * nacks as u64));
    }

    #[test]
    fn feedback_is_told_also_when_its_last_producer_is_gone() {
        let mut fixture = Fixture::new();
        let key = fixture.connected(1);
        (10..13).for_each(|seq| fixture.commons.note_arrival(fixture.now.mono, key, seq));
        fixture.wait(200);
        send_transport_feedback(&mut fixture.commons, fixture.now, key);
        let told = fixture.rtcp();
        assert!(told.len() == 1 && told[0].contains("TransportCc"), "{told:?}");
        assert_eq!(fixture.commons.registry.transports.get(key).unwrap().arrivals.next_deadline(), None);
    }

    #[test]
    fn reports_come_once_a_second_and_audio_alone_waits_for_five() {
        let mut fixture = Fixture::new();
        let (publisher, idle) = (fixture.connected(1), fixture.connected(2));
        fixture.producer(7, 1, video(100));
        let next = |fixture: &mut Fixture, key| {
            let Fixture { commons, rng, now, .. } = fixture;
            commons.registry.transports.get_mut(key).unwrap().reports_at = Some(now.mono);
            send_reports(commons, rng, *now, key);
            commons.registry.transports.get(key).unwrap().reports_at.map(|at| at.since(now.mono))
        };
        let wait = next(&mut fixture, publisher).unwrap();
        assert!(wait >= REPORT_EVERY * 9 / 10 && wait <= REPORT_EVERY * 11 / 10 + REPORT_GRID, "{wait:?}");
        assert_eq!(next(&mut fixture, idle), None, "nothing on it");
        fixture.consumer(3, 2, 7, HERE);
        assert!(next(&mut fixture, idle).is_some_and(|wait| wait < REPORT_AUDIO_EVERY * 9 / 10));
        for (_, consumer) in fixture.commons.registry.consumers.iter_mut() {
            consumer.codec = crate::wire::codec::Codec::Opus;
        }
        assert!(next(&mut fixture, idle).is_some_and(|wait| wait >= REPORT_AUDIO_EVERY * 9 / 10));
    }
}
