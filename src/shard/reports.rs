//! The shard's own RTCP to one client: NACK, PLI and FIR to a publisher, transport-cc feedback or REMB, sender and
//! receiver reports, BYE; and the deadlines of all that.

use rand::Rng;

use crate::base::id::Ssrc;
use crate::base::slab::Key;
use crate::base::time::{Duration, Now};
use crate::media::nack::NackOutcome;
use crate::router::keys::{ConsumerKey, ProducerKey};
use crate::router::producer::Producer;
use crate::shard::command::Event;
use crate::shard::drops::Drop;
use crate::shard::shard::Shard;
use crate::transport::Transport;
use crate::wire::rtcp_write::RtcpWriter;
use crate::wire::transport_cc::FeedbackBuilder;

/// The sender SSRC of feedback from this end; receivers of it look at the media SSRC only.
const OWN_SSRC: Ssrc = Ssrc(1);
/// Reports of many transports fall due together, so that an otherwise idle shard wakes for several at once.
const REPORT_GRID: Duration = Duration::from_millis(20);
/// The interval of two reports, give or take a tenth.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// The same of a transport that is sent nothing but audio, and sends nothing: there is no picture to keep in step with
/// (RFC 3550 section 6.2 wants no more; libwebrtc does the same).
const REPORT_AUDIO_EVERY: Duration = Duration::from_secs(5);
/// The most that a report may come after the newest packet: a little more than it may take to the next report.
const PAUSE_MAX: Duration = Duration::from_millis(1_200);
/// The interval of two checks of the same transport.
const WAKE_GAP_MIN: Duration = Duration::from_micros(500);
/// RTCP packets are cut at this size, well below the path MTU.
const COMPOUND_MAX: usize = 1_100;

impl Shard {
    /// A deadline of this transport has come: does everything that is due, then sleeps until the next.
    pub(super) fn transport_timeout(&mut self, now: Now, key: Key<Transport>) {
        self.check_consent(now, key);
        if self.commons.registry.transports.get(key).is_none() {
            return;
        }
        self.start_as_client(now, key);
        self.expire_limbo(now, key);
        self.ask_for_missing(now, key);
        self.repeat_key_frame_requests(now, key);
        self.send_transport_feedback(now, key);
        self.send_reports(now, key);
        self.look_after_bandwidth(now, key);
        self.notice_silence(now, key);
        self.rearm(now, key);
    }

    fn rearm(&mut self, now: Now, key: Key<Transport>) {
        let Some(transport) = self.commons.registry.transports.get(key) else { return };
        let mut deadlines = vec![
            transport.consent_deadline(),
            transport.link.deadline(&transport.announcements, transport.nominated_at),
            transport.bandwidth_deadline(),
            self.commons.registry.wiring[key.slot()].limbo.deadline(),
        ];
        let patient = [transport.arrivals.next_deadline(), transport.reports_at].into_iter().flatten().min();
        for producer in &self.commons.registry.wiring[key.slot()].producers {
            let Some(producer) = self.commons.registry.producers.get(*producer) else { continue };
            deadlines.extend(producer.streams.iter().map(|stream| stream.nack.next_deadline()));
            if let Some(source) = self.commons.registry.sources.get(producer.source) {
                deadlines.extend(source.encodings.iter().map(|encoding| encoding.keyframes.next_deadline()));
            }
        }
        if let Some(entry) = self.commons.registry.peers.get(&transport.peer) {
            let producers =
                entry.producers.iter().filter_map(|producer| self.commons.registry.producers.get(*producer));
            deadlines.extend(producers.map(Producer::silence_deadline));
        }
        if let Some(next) = Shard::earliest(deadlines) {
            // A deadline that stays in the past must not keep the shard from everything else.
            self.commons.arm(key, next.max(now.mono + WAKE_GAP_MIN));
        }
        if let Some(next) = patient {
            self.commons.arm_patient(key, next.max(now.mono + WAKE_GAP_MIN));
        }
    }

    /// Seals an RTCP packet for the transport; nothing happens while it has no keys or no consent.
    pub(super) fn send_rtcp(&mut self, key: Key<Transport>, mut packet: Vec<u8>) {
        if packet.is_empty() {
            return;
        }
        let Some(transport) = self.commons.registry.transports.get_mut(key) else { return };
        let Some(path) = transport.exit() else { return };
        if !transport.admits(packet.len()) {
            return self.commons.ledger.drops.count(Drop::UnprovedPath);
        }
        let Some(up) = transport.link.up() else { return };
        if up.sealer.seal_rtcp(&mut packet).is_ok() {
            transport.traffic.packets_sent += 1;
            transport.traffic.bytes_sent += packet.len() as u64;
            if transport.traffic.packets_sent == 1 {
                self.commons.ledger.events.push_back(Event::FirstPacket { transport: transport.id, incoming: false });
            }
            self.commons.outlet.ready.push(path, &packet);
        }
    }

    /// An SSRC of ours ends (RFC 3550 section 6.6), so that the receiver can let go of its decoder.
    pub(super) fn send_bye(&mut self, key: Key<Transport>, ssrc: Ssrc) {
        let mut packet = Vec::new();
        RtcpWriter::new(&mut packet).receiver_report(ssrc, &[]);
        RtcpWriter::new(&mut packet).bye(&[ssrc]);
        self.send_rtcp(key, packet);
    }

    /// To the client of this transport. Only what it receives is measured: where it sends alone, its peer's other
    /// transports tell, which lead to the same place.
    pub(super) fn round_trip_to(&self, key: Key<Transport>) -> Option<Duration> {
        let transport = self.commons.registry.transports.get(key)?;
        let siblings =
            || self.commons.registry.peers.get(&transport.peer).into_iter().flat_map(|entry| &entry.transports);
        transport.round_trip.or_else(|| {
            siblings()
                .filter_map(|key| self.commons.registry.transports.get(*key))
                .filter_map(|transport| transport.round_trip)
                .min()
        })
    }

    fn ask_for_missing(&mut self, now: Now, key: Key<Transport>) {
        let rtt = self.round_trip_to(key).unwrap_or(Producer::ROUND_TRIP_DEFAULT);
        let mut packet = Vec::new();
        let mut missing = Vec::new();
        for producer_key in self.commons.registry.wiring[key.slot()].producers.clone() {
            let Some(producer) = self.commons.registry.producers.get_mut(producer_key) else { continue };
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
                self.request_key_frame(now, source, Some(encoding), false);
            }
        }
        self.send_rtcp(key, packet);
    }

    fn repeat_key_frame_requests(&mut self, now: Now, key: Key<Transport>) {
        for producer_key in self.commons.registry.wiring[key.slot()].producers.clone() {
            let Some(source_key) = self.commons.registry.producers.get(producer_key).map(|producer| producer.source)
            else {
                continue;
            };
            let Some(source) = self.commons.registry.sources.get_mut(source_key) else { continue };
            let idle = source.is_unused() || source.paused;
            let mut due = [false; crate::base::limits::ENCODINGS_MAX];
            for (at, (due, encoding)) in due.iter_mut().zip(&mut source.encodings).enumerate() {
                // One that sends nothing has no keyframe to give either; when it begins again it begins with one, or
                // the consumers that wait for it ask anew.
                let stopped = encoding.newest.is_some() && !source.active.is_sending(now.mono, at as u8);
                if idle || stopped {
                    encoding.keyframes.cancel();
                }
                *due = encoding.keyframes.poll(now.mono);
            }
            for (at, _) in due.iter().enumerate().filter(|(_, due)| **due) {
                self.send_key_frame_request(producer_key, at as u8);
            }
        }
    }

    /// PLI, or FIR where only that is negotiated (RFC 5104 section 4.3.1).
    pub(super) fn send_key_frame_request(&mut self, producer_key: ProducerKey, stream: u8) {
        let Some(producer) = self.commons.registry.producers.get_mut(producer_key) else { return };
        let (Some(transport), feedback) = (producer.transport, producer.spec.feedback) else { return };
        let Some(stream) = producer.streams.get_mut(usize::from(stream)) else { return };
        let Some(ssrc) = stream.ssrc else { return };
        let mut packet = Vec::new();
        if feedback.pli {
            stream.plis_sent += 1;
            RtcpWriter::new(&mut packet).pli(OWN_SSRC, ssrc);
        } else if feedback.fir {
            stream.firs_sent += 1;
            stream.fir_sequence = stream.fir_sequence.wrapping_add(1);
            RtcpWriter::new(&mut packet).fir(OWN_SSRC, ssrc, stream.fir_sequence);
        }
        self.commons.ledger.counters.key_frames_requested += u64::from(!packet.is_empty());
        self.send_rtcp(transport, packet);
    }

    fn send_transport_feedback(&mut self, now: Now, key: Key<Transport>) {
        // Its last producer may be gone while the log still has something to tell: it is told all the same (senders go
        // by the numbers, not by the SSRC), or the log would stay due for ever.
        let media_ssrc = self.any_incoming_ssrc(key).unwrap_or(OWN_SSRC);
        let Some(transport) = self.commons.registry.transports.get_mut(key) else { return };
        let mut packets = Vec::new();
        while let Some(window) = transport.arrivals.poll(now.mono) {
            // One packet, unless two arrivals lie too far apart for it: what it could not take goes into the next.
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
            self.send_rtcp(key, packet);
        }
    }

    fn any_incoming_ssrc(&self, key: Key<Transport>) -> Option<Ssrc> {
        let producers = &self.commons.registry.wiring[key.slot()].producers;
        producers
            .iter()
            .filter_map(|key| self.commons.registry.producers.get(*key))
            .flat_map(|p| &p.streams)
            .find_map(|s| s.ssrc)
    }

    /// Sender reports for what it receives, receiver reports for what it sends, in compounds that start with a report
    /// (RFC 3550 section 6.1), spread by chance (section 6.2 wants them not in step).
    fn send_reports(&mut self, now: Now, key: Key<Transport>) {
        let Some(transport) = self.commons.registry.transports.get_mut(key) else { return };
        if !transport.is_open() {
            transport.reports_at = None;
            return;
        }
        if transport.reports_at.is_some_and(|at| at > now.mono) {
            return;
        }
        let produces =
            self.commons.registry.peers.get(&transport.peer).is_some_and(|entry| !entry.producers.is_empty());
        if !produces && self.commons.registry.wiring[key.slot()].consumers.is_empty() {
            transport.reports_at = None;
            return;
        }
        let wiring = &self.commons.registry.wiring[key.slot()];
        let is_video = |key: &ConsumerKey| {
            self.commons.registry.consumers.get(*key).is_some_and(|consumer| consumer.codec.is_video())
        };
        let audio_alone = wiring.producers.is_empty() && !wiring.consumers.iter().any(is_video);
        let every = if audio_alone { REPORT_AUDIO_EVERY } else { REPORT_EVERY };
        let wait = every * self.rng.random_range(90..110) / 100;
        transport.reports_at = Some((now.mono + wait).round_up(REPORT_GRID));
        self.look_at_rates(now, key);
        self.commons.registry.note_verdicts(now.mono, key);
        if !self.send_sender_reports(now, key)
            && let Some(transport) = self.commons.registry.transports.get_mut(key)
        {
            transport.reports_at =
                transport.reports_at.map(|at| at.min((now.mono + REPORT_EVERY).round_up(REPORT_GRID)));
        }
        self.send_receiver_reports(now, key);
    }

    /// Reports on streams with packets sent since their last report (RFC 3550 section 6.4). False: one was held back,
    /// because its publisher's report and its packets disagree.
    fn send_sender_reports(&mut self, now: Now, key: Key<Transport>) -> bool {
        let mut packet = Vec::new();
        let mut packets = Vec::new();
        let mut complete = true;
        for consumer in &self.commons.registry.wiring[key.slot()].consumers {
            let Some(consumer) = self.commons.registry.consumers.get_mut(*consumer) else { continue };
            let Some(encoding) = consumer.attached() else { continue };
            if consumer.codec.is_video()
                && self.commons.registry.transports.get(key).is_some_and(|t| t.egress.is_replaying())
            {
                continue;
            }
            let Some(transport) = self.commons.registry.transports.get_mut(key) else { continue };
            let Some(outgoing) = transport.outgoing.get(consumer.outgoing) else { continue };
            // Of this SSRC alone: retransmissions have their own.
            let count = outgoing.sent.packets - outgoing.sent.retransmitted;
            let (Some(offset), true) = (consumer.rewriter.timestamp_offset(), count > consumer.reports.packets_told)
            else {
                continue;
            };
            let encoding = self
                .commons
                .registry
                .sources
                .get_mut(consumer.source)
                .and_then(|source| source.encodings.get_mut(usize::from(encoding)));
            // The clock of a stream that stands still is unknown.
            let Some(clock) =
                encoding.map(|encoding| &mut encoding.clock).filter(|clock| clock.runs(now.mono, PAUSE_MAX))
            else {
                continue;
            };
            let Some((ntp, timestamp)) = clock.rtp_at(now) else {
                complete = false;
                continue;
            };
            consumer.reports.packets_told = count;
            let timestamp = timestamp.wrapping_add(offset);
            let ntp = transport.proof.report(ntp, &mut self.rng);
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
            self.send_rtcp(key, packet);
        }
        complete
    }

    fn send_receiver_reports(&mut self, now: Now, key: Key<Transport>) {
        let mut blocks = Vec::new();
        for producer in self.commons.registry.wiring[key.slot()].producers.clone() {
            let Some(producer) = self.commons.registry.producers.get_mut(producer) else { continue };
            for stream in &mut producer.streams {
                let Some(block) = stream.ssrc.and_then(|ssrc| stream.receiver.report_block(now, ssrc)) else {
                    continue;
                };
                stream.fraction_lost = block.fraction_lost;
                blocks.push(block);
            }
        }
        let Some(transport) = self.commons.registry.transports.get_mut(key) else { return };
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
            self.send_rtcp(key, packet);
        }
    }

    /// Notices the silence of all producers of this peer, also of those that have not found their transport.
    pub(super) fn notice_silence(&mut self, now: Now, key: Key<Transport>) {
        let Some(entry) = self
            .commons
            .registry
            .transports
            .get(key)
            .and_then(|transport| self.commons.registry.peers.get(&transport.peer))
        else {
            return;
        };
        for producer in entry.producers.clone() {
            if let Some(producer) = self.commons.registry.producers.get_mut(producer)
                && producer.falls_silent(now.mono)
            {
                self.commons.ledger.events.push_back(Event::ProducerSilent { producer: producer.id, silent: true });
            }
        }
    }
}
