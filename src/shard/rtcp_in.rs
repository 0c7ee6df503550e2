//! RTCP from a client: reports and feedback about the streams sent to it, reports about its own. Feedback is routed by
//! media SSRC alone: receive-only browsers share sender SSRCs.

use crate::base::buffer::Path;
use crate::base::id::Ssrc;
use crate::base::slab::Key;
use crate::base::time::{Duration, Instant, Now};
use crate::media::report::round_trip;
use crate::router::consumer::Reports;
use crate::router::keys::ConsumerKey;
use crate::router::verdict;
use crate::secure::SecureDrop;
use crate::shard::bandwidth;
use crate::shard::command::Event;
use crate::shard::commons::Commons;
use crate::shard::demux::Demux;
use crate::shard::drops::ShardDrop;
use crate::shard::effort::{self, Effort};
use crate::shard::keyframes;
use crate::shard::relay::Feed;
use crate::shard::resending;
use crate::shard::silence;
use crate::transport::Transport;
use crate::wire::feedback::Feedback;
use crate::wire::rtcp::{self, ReportBlock, Rtcp, SenderReport};

/// After this long with a picture a consumer's first request is about a loss, and no longer about its start.
const FIRST_REQUEST_WITHIN: Duration = Duration::from_secs(3);

/// The result of taking a datagram of RTCP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(super) enum RtcpTaken {
    Whole,
    /// Its transport has no keys yet.
    Early,
}

/// One datagram of RTCP being read: the parts of the shard that it acts on, and what it may still cost.
pub(super) struct Reading<'a> {
    pub(super) commons: &'a mut Commons,
    pub(super) demux: &'a mut Demux,
    pub(super) now: Now,
    pub(super) key: Key<Transport>,
    /// The shard is behind its sockets, and leaves out what can wait.
    pub(super) behind: bool,
    pub(super) effort: Effort,
}

impl Reading<'_> {
    /// Opens and reads the datagram. Err: it is not sealed with this transport's keys.
    pub(super) fn take(mut self, arrived: Instant, path: Path, bytes: &mut [u8]) -> Result<RtcpTaken, SecureDrop> {
        let Reading { commons, now, key, .. } = &mut self;
        let (now, key) = (*now, *key);
        commons.current = Some(key);
        let Some(transport) = commons.registry.transports.get_mut(key) else { return Ok(RtcpTaken::Whole) };
        let Some(opener) = transport.kind.opener() else { return Ok(RtcpTaken::Early) };
        let len = opener.open_rtcp(bytes)?;
        transport.kind.heard(path, bytes.len());
        transport.traffic.packets_received += 1;
        commons.ledger.counters.received += 1;
        transport.traffic.bytes_received += bytes.len() as u64;
        if transport.traffic.packets_received == 1 {
            commons.ledger.events.push_back(Event::FirstPacket { transport: transport.id, incoming: true });
        }
        let mut said_bye = false;
        for packet in rtcp::parse(&bytes[..len]) {
            if !self.effort.begin(packet.as_ref().ok()) {
                self.commons.ledger.drops.count(ShardDrop::RtcpEffort);
                break;
            }
            match packet {
                Ok(packet) => {
                    said_bye |= matches!(packet, Rtcp::Bye(_));
                    self.packet(now.at(arrived), packet);
                }
                Err(_) => self.commons.ledger.drops.count(ShardDrop::MalformedRtcp),
            }
        }
        if said_bye {
            silence::notice(self.commons, now, key);
        }
        Ok(RtcpTaken::Whole)
    }

    /// Acts on one packet. Reports count from their arrival, `then`: round trips leave out the wait in our sockets.
    fn packet(&mut self, then: Now, packet: Rtcp<'_>) {
        if self.commons.registry.transports.get(self.key).is_some_and(|transport| transport.kind.is_bounded()) {
            self.demux.weigh(self.commons, self.now, self.key, &packet);
        }
        match packet {
            Rtcp::SenderReport(report) => {
                self.sender_report(then, &report);
                for block in report.blocks() {
                    self.report_block(then, &block);
                }
            }
            Rtcp::ReceiverReport(report) => {
                for block in report.blocks() {
                    self.report_block(then, &block);
                }
            }
            Rtcp::Bye(bye) => {
                for ssrc in bye.ssrcs() {
                    self.bye(ssrc);
                }
            }
            Rtcp::Feedback(feedback) => self.feedback(feedback),
            Rtcp::Sdes(_) | Rtcp::Other { .. } => {}
        }
    }

    fn sender_report(&mut self, then: Now, report: &SenderReport<'_>) {
        let Some(route) = self.commons.registry.wiring[self.key.slot()].route(report.ssrc) else { return };
        let Some(transport) = self.commons.registry.transports.get_mut(self.key) else { return };
        let Some(producer) = self.commons.registry.producers.get_mut(route.producer) else { return };
        let source_key = producer.source;
        let Some(stream) = producer.streams.get_mut(usize::from(route.stream)) else { return };
        if route.rtx {
            return;
        }
        stream.receiver.on_sender_report(then, report.ntp, report.rtp_timestamp);
        let Some(source) = self.commons.registry.sources.get_mut(source_key) else { return };
        let Some(encoding) = source.encodings.get_mut(usize::from(route.stream)) else { return };
        encoding.clock.on_sender_report(then, report.ntp, report.rtp_timestamp, &mut transport.clock);
        let Some((ntp, rtp_timestamp)) = encoding.clock.mapping() else { return };
        if !self.effort.take(effort::RELAY * (source.subscribers.len() + source.exports.len()) as u32) {
            return self.commons.ledger.drops.count(ShardDrop::RtcpEffort);
        }
        self.commons.port.feed_all(source, Feed::Clock { encoding: route.stream, ntp, rtp_timestamp });
    }

    fn report_block(&mut self, then: Now, block: &ReportBlock) {
        let Some(consumer_key) = self.acknowledge(Ssrc(block.ssrc)) else { return };
        let Some(consumer) = self.commons.registry.consumers.get_mut(consumer_key) else { return };
        let is_media = self
            .commons
            .registry
            .transports
            .get(self.key)
            .and_then(|transport| transport.outgoing.get(consumer.outgoing))
            .is_some_and(|outgoing| outgoing.ssrc == Ssrc(block.ssrc));
        if !is_media {
            return;
        }
        if let Some(source) = self.commons.registry.sources.get(consumer.source) {
            let keyframe = verdict::last_keyframe(consumer, source);
            let stood_still = verdict::unheard(then.mono, consumer, source).is_some();
            consumer.reports.on_highest(then.mono, block.highest_seq, keyframe, stood_still);
        }
        consumer.reports.jitter = block.jitter;
        consumer.reports.packets_lost = i64::from(block.cumulative_lost);
        consumer.reports.fraction_lost = f64::from(block.fraction_lost) / 256.0;
        if let Some(rtt) = round_trip(then.wall, block.last_sr, block.delay_since_last_sr) {
            consumer.reports.round_trip = Some(rtt);
            if let Some(transport) = self.commons.registry.transports.get_mut(self.key) {
                transport.round_trip = Some(rtt);
            }
        }
    }

    /// The consumer of one of our SSRCs. A receiver that names the SSRC knows its media section.
    fn acknowledge(&mut self, ssrc: Ssrc) -> Option<ConsumerKey> {
        let consumer_key = self.commons.registry.wiring[self.key.slot()].consumer_of(ssrc)?;
        let consumer = self.commons.registry.consumers.get(consumer_key)?;
        let outgoing = self.commons.registry.transports.get_mut(self.key)?.outgoing.get_mut(consumer.outgoing)?;
        outgoing.acknowledged |= outgoing.ssrc == ssrc;
        Some(consumer_key)
    }

    fn bye(&mut self, ssrc: Ssrc) {
        let Some(route) = self.commons.registry.wiring[self.key.slot()].route(ssrc) else { return };
        if let Some(stream) = self.commons.registry.stream_mut(route.producer, route.stream)
            && !route.rtx
        {
            stream.said_bye = true;
        }
    }

    fn feedback(&mut self, feedback: Feedback<'_>) {
        match feedback {
            Feedback::Nack(nack) => {
                let Some(consumer) = self.acknowledge(nack.media) else { return };
                let packets = nack.len();
                self.count_feedback(consumer, |reports| {
                    reports.nacks += 1;
                    reports.nacked_packets += packets;
                });
                // Resending is the work that can wait, and repairs would come late. Receivers ask again.
                if self.behind {
                    return self.commons.ledger.drops.count(ShardDrop::NackBehind);
                }
                for seq in nack.seqs() {
                    if !self.effort.take(effort::NACKED) {
                        return self.commons.ledger.drops.count(ShardDrop::RtcpEffort);
                    }
                    resending::resend(self.commons, self.now, self.key, consumer, seq);
                }
            }
            Feedback::Pli(pli) => {
                self.key_frame_wanted(pli.media, |reports| reports.plis += 1);
            }
            Feedback::Fir(fir) => {
                for (ssrc, _) in fir.requests() {
                    if !self.key_frame_wanted(ssrc, |reports| reports.firs += 1) {
                        return;
                    }
                }
            }
            Feedback::TransportCc(feedback) => bandwidth::on_feedback(self.commons, self.now, self.key, &feedback),
            Feedback::Remb(remb) => bandwidth::on_remb(self.commons, self.now, self.key, remb.bitrate),
            Feedback::Other { .. } => {}
        }
    }

    /// A PLI, or an entry of a FIR. False: the datagram has asked for enough.
    fn key_frame_wanted(&mut self, media: Ssrc, count: impl FnOnce(&mut Reports)) -> bool {
        if !self.effort.take(effort::REQUEST) {
            self.commons.ledger.drops.count(ShardDrop::RtcpEffort);
            return false;
        }
        if let Some(consumer) = self.acknowledge(media) {
            let first = self.is_first_request(consumer);
            self.count_feedback(consumer, count);
            self.note_request(consumer);
            keyframes::ask_for_consumer(self.commons, self.now, consumer, first);
        }
        true
    }

    /// The receiver's own first request is never rate limited: it may well have dropped the keyframe that was requested
    /// when the consumer opened, because its page had not applied the answer yet.
    fn is_first_request(&self, key: ConsumerKey) -> bool {
        self.commons.registry.consumers.get(key).is_some_and(|consumer| {
            let is_new = consumer.opened.is_none_or(|opened| self.now.mono.since(opened) <= FIRST_REQUEST_WITHIN);
            is_new && consumer.reports.plis + consumer.reports.firs == 0
        })
    }

    fn note_request(&mut self, key: ConsumerKey) {
        if let Some(consumer) = self.commons.registry.consumers.get_mut(key)
            && let Some(source) = self.commons.registry.sources.get(consumer.source)
        {
            let keyframe = verdict::last_keyframe(consumer, source);
            consumer.reports.asks(self.now.mono, keyframe);
        }
    }

    fn count_feedback(&mut self, key: ConsumerKey, count: impl FnOnce(&mut Reports)) {
        if let Some(consumer) = self.commons.registry.consumers.get_mut(key) {
            count(&mut consumer.reports);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{ProducerId, TransportId};
    use crate::base::seq::Seq;
    use crate::secure::srtp::{Sealer, SrtpProfile};
    use crate::shard::fixture::{Fixture, HERE, keys, path, video};
    use crate::shard::wiring::Route;
    use crate::wire::rtcp_write::RtcpWriter;

    fn take(fixture: &mut Fixture, key: Key<Transport>, plain: &[u8]) -> Result<RtcpTaken, SecureDrop> {
        let mut bytes = plain.to_vec();
        Sealer::new(SrtpProfile::AeadAes128Gcm, &keys()).seal_rtcp(&mut bytes).unwrap();
        let Fixture { commons, demux, now, .. } = fixture;
        let reading = Reading { commons, demux, now: *now, key, behind: false, effort: Effort::default() };
        let arrived = now.mono;
        reading.take(arrived, path(1), &mut bytes)
    }

    /// A publisher on one transport, and its consumer, whose SSRC is 3,000, on another.
    fn watched() -> (Fixture, Key<Transport>, ConsumerKey) {
        let mut fixture = Fixture::new();
        fixture.connected(1);
        let watcher = fixture.connected(2);
        fixture.producer(7, 1, video(100));
        let consumer = fixture.consumer(3, 2, 7, HERE);
        (fixture, watcher, consumer)
    }

    #[test]
    fn feedback_finds_its_consumer_by_the_media_ssrc() {
        let (mut fixture, watcher, consumer) = watched();
        let mut packet = Vec::new();
        RtcpWriter::new(&mut packet).receiver_report(Ssrc(1), &[]);
        RtcpWriter::new(&mut packet).pli(Ssrc(1), Ssrc(3_000));
        RtcpWriter::new(&mut packet).pli(Ssrc(1), Ssrc(4_000));
        RtcpWriter::new(&mut packet).nack(Ssrc(1), Ssrc(3_000), &[Seq(1), Seq(2)]);
        assert_eq!(take(&mut fixture, watcher, &packet), Ok(RtcpTaken::Whole));
        let reports = &fixture.commons.registry.consumers.get(consumer).unwrap().reports;
        assert_eq!((reports.plis, reports.nacks, reports.nacked_packets), (1, 1, 2));
        assert!(fixture.events().iter().any(|event| matches!(event, Event::FirstPacket { incoming: true, .. })));
    }

    #[test]
    fn one_datagram_asks_for_only_so_much() {
        let (mut fixture, watcher, consumer) = watched();
        let mut packet = Vec::new();
        (0..300).for_each(|_| RtcpWriter::new(&mut packet).pli(Ssrc(1), Ssrc(3_000)));
        assert_eq!(take(&mut fixture, watcher, &packet), Ok(RtcpTaken::Whole));
        let plis = fixture.commons.registry.consumers.get(consumer).unwrap().reports.plis;
        assert!(plis > 10 && plis < 300, "{plis}");
        assert_eq!(fixture.commons.ledger.drops.of(ShardDrop::RtcpEffort), 1);
    }

    #[test]
    fn a_bye_makes_its_producer_silent_at_once() {
        let (mut fixture, ..) = watched();
        let producer = fixture.commons.registry.producer_keys[&ProducerId(7)];
        let publisher = fixture.commons.registry.transport_keys[&TransportId(1)];
        let route = Route { producer, stream: 0, rtx: false };
        fixture.commons.registry.wiring[publisher.slot()].add_route(Ssrc(100), route);
        let mut packet = Vec::new();
        RtcpWriter::new(&mut packet).receiver_report(Ssrc(1), &[]);
        RtcpWriter::new(&mut packet).bye(&[Ssrc(100)]);
        assert_eq!(take(&mut fixture, publisher, &packet), Ok(RtcpTaken::Whole));
        let silent = |event: &Event| matches!(event, Event::ProducerSilent { silent: true, .. });
        assert!(fixture.events().iter().any(silent));
    }

    #[test]
    fn without_keys_it_is_early() {
        let mut fixture = Fixture::new();
        let key = fixture.transport(1);
        assert_eq!(take(&mut fixture, key, &[0x80, 201, 0, 1, 0, 0, 0, 1]), Ok(RtcpTaken::Early));
    }
}
