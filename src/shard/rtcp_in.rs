//! RTCP from a client: reports and feedback about the streams sent to it, reports about its own. Feedback is routed by
//! media SSRC alone: receive-only browsers share sender SSRCs.

use crate::base::buffer::{Path, Slot};
use crate::base::id::Ssrc;
use crate::base::seq::Seq;
use crate::base::slab::Key;
use crate::base::time::{Duration, Instant, Now};
use crate::media::report::round_trip;
use crate::router::consumer::Reports;
use crate::router::keys::ConsumerKey;
use crate::router::verdict;
use crate::secure::Dropped;
use crate::shard::command::Event;
use crate::shard::drops::Drop;
use crate::shard::effort::{self, Effort};
use crate::shard::relay::RelayMessage;
use crate::shard::shard::Shard;
use crate::transport::Transport;
use crate::transport::queued::{PacketStore, Queued, StoredAt, Urgency};
use crate::wire::feedback::Feedback;
use crate::wire::rtcp::{self, ReportBlock, Rtcp, SenderReport};
use crate::wire::{Kind, classify};

/// After this long with a picture a consumer's first request is about a loss, and no longer about its start.
const FIRST_REQUEST_WITHIN: Duration = Duration::from_secs(3);

/// The owners of the next RTCP in a batch, one datagram and two after the present one.
#[derive(Default)]
pub(super) struct Ahead([Option<Key<Transport>>; 2]);

impl Ahead {
    /// How far ahead the prefetch looks for RTCP.
    pub(super) const BY: usize = 3;
}

impl Shard {
    /// Prefetches state for the RTCP of many receivers, which comes in a row, each about state that nothing has touched
    /// since the last of that receiver. In three steps, each of which needs the lines of the one before.
    pub(super) fn foresee_feedback(&self, ahead: &mut Ahead, slot: Option<&Slot>) {
        let far = slot.filter(|slot| classify(slot.bytes()) == Kind::Rtcp).and_then(|slot| self.paths.peek(&slot.path));
        if let Some(key) = far {
            self.commons.registry.transports.prefetch(key, Transport::HOT);
        }
        let [soon, next] = ahead.0.map(|key| key.and_then(|key| self.commons.registry.transports.get(key)));
        if let Some(transport) = next {
            transport.foresee_feedback();
        }
        if let Some(transport) = soon {
            transport.foresee_feedback_soon();
        }
        ahead.0 = [ahead.0[1], far];
    }

    /// Reports count from their arrival: round trips leave out the wait in our sockets.
    pub(super) fn handle_rtcp(&mut self, now: Now, arrived: Instant, path: Path, bytes: &mut [u8]) {
        let Some(key) = self.owner(path, bytes) else { return };
        if self.paths.is_contested(&path) {
            return self.sort_out(now, arrived, path, key, bytes);
        }
        if let Err(why) = self.take_rtcp(now, arrived, path, key, bytes) {
            self.commons.ledger.drops.secure(why);
        }
    }

    /// An error says that it is not under this transport's keys.
    pub(super) fn take_rtcp(
        &mut self,
        now: Now,
        arrived: Instant,
        path: Path,
        key: Key<Transport>,
        bytes: &mut [u8],
    ) -> Result<(), Dropped> {
        self.commons.current = Some(key);
        let Some(transport) = self.commons.registry.transports.get_mut(key) else { return Ok(()) };
        let Some(up) = transport.link.up() else {
            self.keep_early(now, arrived, path, key, bytes);
            return Ok(());
        };
        let len = up.opener.open_rtcp(bytes)?;
        if transport.bounded {
            transport.proof.heard(path, bytes.len());
        }
        transport.traffic.packets_received += 1;
        self.commons.ledger.counters.received += 1;
        transport.traffic.bytes_received += bytes.len() as u64;
        if transport.traffic.packets_received == 1 {
            self.commons.ledger.events.push_back(Event::FirstPacket { transport: transport.id, incoming: true });
        }
        let mut effort = Effort::default();
        let mut said_bye = false;
        for packet in rtcp::parse(&bytes[..len]) {
            if !effort.begin(packet.as_ref().ok()) {
                self.commons.ledger.drops.count(Drop::RtcpEffort);
                break;
            }
            match packet {
                Ok(packet) => {
                    said_bye |= matches!(packet, Rtcp::Bye(_));
                    self.handle_report(now, now.at(arrived), key, packet, &mut effort);
                }
                Err(_) => self.commons.ledger.drops.count(Drop::MalformedRtcp),
            }
        }
        if said_bye {
            self.notice_silence(now, key);
        }
        Ok(())
    }

    fn handle_report(&mut self, now: Now, then: Now, key: Key<Transport>, packet: Rtcp<'_>, effort: &mut Effort) {
        if self.commons.registry.transports.get(key).is_some_and(|transport| transport.bounded) {
            self.weigh(now, key, &packet);
        }
        match packet {
            Rtcp::SenderReport(report) => {
                self.sender_report(then, key, &report, effort);
                for block in report.blocks() {
                    self.report_block(then, key, &block);
                }
            }
            Rtcp::ReceiverReport(report) => {
                for block in report.blocks() {
                    self.report_block(then, key, &block);
                }
            }
            Rtcp::Bye(bye) => {
                for ssrc in bye.ssrcs() {
                    self.bye(key, ssrc);
                }
            }
            Rtcp::Feedback(feedback) => self.feedback(now, key, feedback, effort),
            Rtcp::Sdes(_) | Rtcp::Other { .. } => {}
        }
    }

    fn sender_report(&mut self, now: Now, key: Key<Transport>, report: &SenderReport<'_>, effort: &mut Effort) {
        let Some(route) = self.commons.registry.wiring[key.slot()].route(report.ssrc) else { return };
        let Some(transport) = self.commons.registry.transports.get_mut(key) else { return };
        let Some(producer) = self.commons.registry.producers.get_mut(route.producer) else { return };
        let (id, source_key) = (producer.id, producer.source);
        let Some(stream) = producer.streams.get_mut(usize::from(route.stream)) else { return };
        if route.rtx {
            return;
        }
        stream.receiver.on_sender_report(now, report.ntp, report.rtp_timestamp);
        let Some(source) = self.commons.registry.sources.get_mut(source_key) else { return };
        let Some(encoding) = source.encodings.get_mut(usize::from(route.stream)) else { return };
        encoding.clock.on_sender_report(now, report.ntp, report.rtp_timestamp, &mut transport.clock);
        let Some((ntp, rtp_timestamp)) = encoding.clock.mapping() else { return };
        if !effort.take(effort::RELAY * source.relays.len() as u32) {
            return self.commons.ledger.drops.count(Drop::RtcpEffort);
        }
        for shard in source.relays.clone() {
            let message = RelayMessage::Clock { producer: id, encoding: route.stream, ntp, rtp_timestamp };
            self.send_relay(shard, &message);
        }
    }

    fn report_block(&mut self, now: Now, key: Key<Transport>, block: &ReportBlock) {
        let Some(consumer_key) = self.acknowledge(key, Ssrc(block.ssrc)) else { return };
        let Some(consumer) = self.commons.registry.consumers.get_mut(consumer_key) else { return };
        let is_media = self
            .commons
            .registry
            .transports
            .get(key)
            .and_then(|transport| transport.outgoing.get(consumer.outgoing))
            .is_some_and(|outgoing| outgoing.ssrc == Ssrc(block.ssrc));
        if !is_media {
            return;
        }
        if let Some(source) = self.commons.registry.sources.get(consumer.source) {
            let keyframe = verdict::last_keyframe(consumer, source);
            let stood_still = verdict::unheard(now.mono, consumer, source).is_some();
            consumer.reports.on_highest(now.mono, block.highest_seq, keyframe, stood_still);
        }
        consumer.reports.jitter = block.jitter;
        consumer.reports.packets_lost = i64::from(block.cumulative_lost);
        consumer.reports.fraction_lost = f64::from(block.fraction_lost) / 256.0;
        if let Some(rtt) = round_trip(now.wall, block.last_sr, block.delay_since_last_sr) {
            consumer.reports.round_trip = Some(rtt);
            if let Some(transport) = self.commons.registry.transports.get_mut(key) {
                transport.round_trip = Some(rtt);
            }
        }
    }

    /// The consumer of one of our SSRCs. A receiver that names the SSRC knows its media section.
    fn acknowledge(&mut self, key: Key<Transport>, ssrc: Ssrc) -> Option<ConsumerKey> {
        let consumer_key = self.commons.registry.wiring[key.slot()].consumer_of(ssrc)?;
        let consumer = self.commons.registry.consumers.get(consumer_key)?;
        let outgoing = self.commons.registry.transports.get_mut(key)?.outgoing.get_mut(consumer.outgoing)?;
        outgoing.acknowledged |= outgoing.ssrc == ssrc;
        Some(consumer_key)
    }

    fn bye(&mut self, key: Key<Transport>, ssrc: Ssrc) {
        let Some(route) = self.commons.registry.wiring[key.slot()].route(ssrc) else { return };
        if let Some(stream) = self.stream_mut(route.producer, route.stream)
            && !route.rtx
        {
            stream.said_bye = true;
        }
    }

    fn feedback(&mut self, now: Now, key: Key<Transport>, feedback: Feedback<'_>, effort: &mut Effort) {
        match feedback {
            Feedback::Nack(nack) => {
                let Some(consumer) = self.acknowledge(key, nack.media) else { return };
                let packets = nack.len();
                self.count_feedback(consumer, |reports| {
                    reports.nacks += 1;
                    reports.nacked_packets += packets;
                });
                // Resending is the work that can wait, and repairs would come late. Receivers ask again.
                if self.overload.is_behind() {
                    return self.commons.ledger.drops.count(Drop::NackBehind);
                }
                for seq in nack.seqs() {
                    if !effort.take(effort::NACKED) {
                        return self.commons.ledger.drops.count(Drop::RtcpEffort);
                    }
                    self.retransmit(now, key, consumer, seq);
                }
            }
            Feedback::Pli(pli) => {
                self.key_frame_wanted(now, key, pli.media, effort, |reports| reports.plis += 1);
            }
            Feedback::Fir(fir) => {
                for (ssrc, _) in fir.requests() {
                    if !self.key_frame_wanted(now, key, ssrc, effort, |reports| reports.firs += 1) {
                        return;
                    }
                }
            }
            Feedback::TransportCc(feedback) => self.transport_feedback(now, key, &feedback),
            Feedback::Remb(remb) => self.remb(now, key, remb.bitrate),
            Feedback::Other { .. } => {}
        }
    }

    /// A PLI, or an entry of a FIR. False: the datagram has asked for enough.
    fn key_frame_wanted(
        &mut self,
        now: Now,
        key: Key<Transport>,
        media: Ssrc,
        effort: &mut Effort,
        count: impl FnOnce(&mut Reports),
    ) -> bool {
        if !effort.take(effort::REQUEST) {
            self.commons.ledger.drops.count(Drop::RtcpEffort);
            return false;
        }
        if let Some(consumer) = self.acknowledge(key, media) {
            let first = self.is_first_request(now, consumer);
            self.count_feedback(consumer, count);
            self.note_request(now, consumer);
            self.ask_key_frame(now, consumer, first);
        }
        true
    }

    /// The receiver's own first request is never rate limited: it may well have dropped the keyframe that was requested
    /// when the consumer opened, because its page had not applied the answer yet.
    fn is_first_request(&self, now: Now, key: ConsumerKey) -> bool {
        self.commons.registry.consumers.get(key).is_some_and(|consumer| {
            let is_new = consumer.opened.is_none_or(|opened| now.mono.since(opened) <= FIRST_REQUEST_WITHIN);
            is_new && consumer.reports.plis + consumer.reports.firs == 0
        })
    }

    fn note_request(&mut self, now: Now, key: ConsumerKey) {
        if let Some(consumer) = self.commons.registry.consumers.get_mut(key)
            && let Some(source) = self.commons.registry.sources.get(consumer.source)
        {
            let keyframe = verdict::last_keyframe(consumer, source);
            consumer.reports.asks(now.mono, keyframe);
        }
    }

    fn count_feedback(&mut self, key: ConsumerKey, count: impl FnOnce(&mut Reports)) {
        if let Some(consumer) = self.commons.registry.consumers.get_mut(key) {
            count(&mut consumer.reports);
        }
    }

    /// RFC 4588: on its own SSRC and numbers, so no packet is ever sealed twice under one (key, IV). Without RTX the
    /// consumer was never told that it may ask.
    fn retransmit(&mut self, now: Now, key: Key<Transport>, consumer_key: ConsumerKey, seq: Seq) {
        let Some(consumer) = self.commons.registry.consumers.get_mut(consumer_key) else { return };
        if !consumer.nack {
            return;
        }
        let Some(entry) = consumer.rewriter.source_of(seq) else {
            self.commons.ledger.counters.nacks_unanswered += 1;
            return;
        };
        let interval = consumer.resend_interval();
        if !consumer.resent.admit(now.mono, seq, interval) {
            return;
        }
        let encoding = entry.source_epoch as u8;
        let (slot, generation) = consumer.source.to_parts();
        let (Some(source), Some(transport)) =
            (self.commons.registry.sources.get(consumer.source), self.commons.registry.transports.get_mut(key))
        else {
            return;
        };
        let history = source.encodings.get(usize::from(encoding)).map(|encoding| &encoding.history);
        let at = StoredAt { slot, generation, encoding, ext: entry.ext };
        let at = entry.led.map_or(at, |name| at.parameter_set(name));
        let stored = match (entry.led, entry.is_replayed()) {
            (Some(_), _) => self.commons.registry.sources.stored(at),
            // However old, it has just been sent.
            (None, true) => history.and_then(|history| history.get(entry.ext)),
            (None, false) => history.and_then(|history| history.get_fresh(now.mono, entry.ext)),
        };
        let mut room = |bytes| match transport.bandwidth.as_mut().and_then(|bandwidth| bandwidth.repairs.as_mut()) {
            Some(repairs) => repairs.admit(now.mono, bytes),
            None => true,
        };
        let Some(stored) = stored.filter(|stored| room(stored.bytes.len())) else {
            match stored {
                Some(_) => self.commons.ledger.drops.count(Drop::BeyondBandwidth),
                None => self.commons.ledger.counters.nacks_unanswered += 1,
            }
            // It waits in vain: later packets depend on it, but for a keyframe.
            let lost = history.and_then(|history| history.get(entry.ext)).map(|lost| lost.header.arrival);
            let keyframe = verdict::last_keyframe(consumer, source);
            if keyframe.is_some() && lost > keyframe {
                self.ask_key_frame(now, consumer_key, false);
            }
            return;
        };
        let queued = Queued {
            outgoing: consumer.outgoing,
            at,
            index: entry.index,
            timestamp: entry.timestamp(stored.header.timestamp),
            retransmission: true,
        };
        let was_empty = transport.egress.is_empty();
        if !transport.egress.push(now.mono, queued, Urgency::Now) {
            self.commons.ledger.drops.count(Drop::EgressFull);
        } else if was_empty {
            self.commons.outlet.dirty.push(key);
        }
    }
}
