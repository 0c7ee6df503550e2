//! One stream of a receiver: reorders packets, requests missing ones (RFC 4585) and keyframes when it cannot decode,
//! reports, and knows what a decoder would have shown. Driven by `browser`.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::id::{PayloadType, Ssrc};
use crate::base::seq::{ExtSeq, Seq};
use crate::base::time::{Duration, Instant, Now};
use crate::sim::decoder::{Decoder, DecoderPacket, Strictness};
use crate::sim::payload::{Inside, PayloadReading, read, stamp};
use crate::sim::receiver_reports::{ReceiverReports, StreamCounts};
use crate::wire::codec::Codec;
use crate::wire::extension::Extension;
use crate::wire::rtcp::{ReportBlock, SenderReport};
use crate::wire::rtcp_write::RtcpWriter;
use crate::wire::rtp::RtpHeader;

/// The interval of two requests for the same packet, and the number of requests. Without NACK a packet is given up
/// after one such interval.
const NACK_GAP: Duration = Duration::from_millis(100);
const NACKS_MAX: u32 = 10;
/// Packets given up that are remembered, so that their late arrival is no duplicate.
const GIVEN_UP_MAX: usize = 1_024;
/// A jump beyond this is a new start of the source, not loss.
const JUMP_MAX: i64 = 3_000;
const PLI_GAP: Duration = Duration::from_millis(300);
const REPORT_GAP: Duration = Duration::from_secs(1);
const DELAYS_MAX: usize = 200_000;

#[derive(Clone, Debug)]
pub struct SinkConfig {
    pub codec: Codec,
    pub clock_rate: u32,
    pub payload_type: PayloadType,
    pub ssrc: Ssrc,
    pub rtx: Option<(PayloadType, Ssrc)>,
    pub nack: bool,
    /// The publisher is one of ours: its payloads end with the moment they were made.
    pub stamped: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SinkStats {
    /// On the media SSRC, duplicates included.
    pub packets: u64,
    pub octets: u64,
    pub duplicates: u64,
    /// Packets restored from RTX, and those of them that had come already.
    pub repaired: u64,
    pub repaired_late: u64,
    pub nacked: u64,
    /// Given up.
    pub lost: u64,
    pub padding_only: u64,
    /// Packets not of the announced payload type or codec.
    pub foreign: u64,
    pub frames_decoded: u64,
    pub key_frames_decoded: u64,
    /// Complete or not, frames that no decoder could have used.
    pub frames_dropped: u64,
    pub plis: u64,
    /// Longest time between two decoded frames.
    pub longest_freeze: Duration,
    pub first_decoded_at: Option<Instant>,
    pub last_decoded_at: Option<Instant>,
}

/// A packet that waits for those before it.
struct Waiting {
    timestamp: u32,
    marker: bool,
    /// None: padding only, or not readable.
    reading: Option<PayloadReading>,
    /// For the decoder, where there is one.
    payload: Vec<u8>,
    descriptor: Option<Vec<u8>>,
}

#[derive(Clone, Copy)]
struct Missing {
    since: Instant,
    asked_at: Option<Instant>,
    asked: u32,
}

/// The frame whose packets are being fed to the decoder.
struct Current {
    timestamp: u32,
    key: bool,
    whole: bool,
    picture_id: Option<u16>,
}

pub struct BrowserSink {
    config: SinkConfig,
    closed: bool,
    first: Option<ExtSeq>,
    highest: ExtSeq,
    /// The next packet in order.
    next: ExtSeq,
    waiting: BTreeMap<ExtSeq, Waiting>,
    missing: BTreeMap<ExtSeq, Missing>,
    given_up: BTreeSet<ExtSeq>,
    current: Option<Current>,
    decodable: bool,
    /// A frame could not be decoded, and none since: only a keyframe helps.
    broken: bool,
    last_picture_id: Option<u16>,
    pli_at: Option<Instant>,
    report_at: Instant,
    reports: ReceiverReports,
    received: u64,
    jitter: f64,
    transit: Option<i64>,
    delays_us: Vec<u32>,
    /// A stricter judge of decodability; its verdict goes before the sink's own.
    decoder: Option<Box<Decoder>>,
    stats: SinkStats,
}

impl BrowserSink {
    pub fn new(now: Instant, config: SinkConfig) -> BrowserSink {
        BrowserSink {
            config,
            closed: false,
            first: None,
            highest: ExtSeq(0),
            next: ExtSeq(0),
            waiting: BTreeMap::new(),
            missing: BTreeMap::new(),
            given_up: BTreeSet::new(),
            current: None,
            decodable: false,
            broken: false,
            last_picture_id: None,
            pli_at: None,
            report_at: now + REPORT_GAP,
            reports: ReceiverReports::default(),
            received: 0,
            jitter: 0.0,
            transit: None,
            delays_us: Vec::new(),
            decoder: None,
            stats: SinkStats::default(),
        }
    }

    pub fn config(&self) -> &SinkConfig {
        &self.config
    }

    /// The page removes its media section: later packets belong to none, and nothing is reported about them.
    pub fn close(&mut self) {
        self.closed = true;
        self.report_at = Instant::from_nanos(u64::MAX);
        self.missing.clear();
        self.broken = false;
    }

    /// Call before the first packet.
    pub fn set_decoder(&mut self, strictness: Strictness) {
        self.decoder = Decoder::new(self.config.codec, self.config.clock_rate, strictness).map(Box::new);
    }

    pub fn decoder(&self) -> Option<&Decoder> {
        self.decoder.as_deref()
    }

    pub fn stats(&self) -> SinkStats {
        self.stats
    }

    /// Microseconds from the making of each packet to its arrival, in order of arrival; the first 200,000.
    pub fn delays_us(&self) -> &[u32] {
        &self.delays_us
    }

    /// One decrypted packet; false when it belongs to another stream.
    pub fn handle_rtp(&mut self, now: Instant, header: &RtpHeader, packet: &[u8]) -> bool {
        if self.closed {
            return false;
        }
        if header.ssrc == self.config.ssrc {
            self.stats.packets += 1;
            let Ok(payload) = header.payload(packet) else {
                self.stats.foreign += 1;
                return true;
            };
            self.stats.octets += payload.len() as u64;
            if header.payload_type == self.config.payload_type {
                self.count_jitter(now, header.timestamp);
                self.take(now, header.seq, header, packet, payload);
            } else {
                self.stats.foreign += 1;
            }
            return true;
        }
        match self.config.rtx {
            Some((payload_type, ssrc)) if header.ssrc == ssrc => {
                match (header.payload_type == payload_type, header.payload(packet).ok()) {
                    // RFC 4588 section 4; an empty one is a probe.
                    (true, Some([high, low, payload @ ..])) => {
                        let original = Seq(u16::from_be_bytes([*high, *low]));
                        if self.first.is_none() || !self.take(now, original, header, packet, payload) {
                            self.stats.repaired_late += 1;
                        } else {
                            self.stats.repaired += 1;
                        }
                    }
                    (true, Some([])) => self.stats.padding_only += 1,
                    _ => self.stats.foreign += 1,
                }
                true
            }
            _ => false,
        }
    }

    /// False when it had come already, or was given up.
    fn take(&mut self, now: Instant, seq: Seq, header: &RtpHeader, packet: &[u8], payload: &[u8]) -> bool {
        let direct = header.ssrc == self.config.ssrc;
        let mut at = if self.first.is_none() { ExtSeq::first(seq) } else { self.highest.nearest(seq) };
        if self.first.is_some() && at.distance_from(self.highest).abs() > JUMP_MAX {
            self.restart();
            at = ExtSeq::first(seq);
        }
        if self.first.is_none() {
            (self.first, self.highest, self.next) = (Some(at), at, at);
        }
        if at < self.next || self.waiting.contains_key(&at) {
            if direct && !self.given_up.remove(&at) {
                self.stats.duplicates += 1;
            }
            return false;
        }
        if direct {
            self.received += 1;
        }
        let reading = if payload.is_empty() {
            self.stats.padding_only += 1;
            None
        } else {
            let reading = read(self.config.codec, payload);
            self.stats.foreign += u64::from(reading.is_none());
            if self.config.stamped
                && direct
                && self.delays_us.len() < DELAYS_MAX
                && let Some(made_at) = stamp(payload)
            {
                self.delays_us.push(now.since(made_at).as_micros().min(u128::from(u32::MAX)) as u32);
            }
            reading
        };
        for gap in self.highest.0 + 1..at.0 {
            self.missing.insert(ExtSeq(gap), Missing { since: now, asked_at: None, asked: 0 });
        }
        self.missing.remove(&at);
        self.highest = self.highest.max(at);
        let judged = self.decoder.is_some();
        let descriptor =
            header.extensions(packet).find(|(id, _)| judged && *id == Extension::DependencyDescriptor.id());
        let waiting = Waiting {
            timestamp: header.timestamp,
            marker: header.marker,
            reading,
            payload: if judged { payload.to_vec() } else { Vec::new() },
            descriptor: descriptor.map(|(_, value)| value.to_vec()),
        };
        self.waiting.insert(at, waiting);
        self.advance(now);
        true
    }

    /// Feeds the decoder all packets in order. A decoder that needs a keyframe does not wait for packets missing before
    /// one.
    fn advance(&mut self, now: Instant) {
        if self.broken
            && let Some(start) = self.whole_key_frame()
        {
            let later = self.missing.split_off(&start);
            for (at, _) in std::mem::replace(&mut self.missing, later) {
                self.lose(at);
            }
            self.waiting = self.waiting.split_off(&start);
            self.next = start;
        }
        while let Some(packet) = self.waiting.remove(&self.next) {
            let at = self.next;
            self.next = at.next();
            self.feed(now, at.seq(), packet);
        }
    }

    /// Where the first keyframe starts that is here from its first packet to its marker.
    fn whole_key_frame(&self) -> Option<ExtSeq> {
        let starts = |packet: &Waiting| match Inside::of(&packet.payload) {
            Some(inside) => inside.key && inside.spatial == 0 && inside.index == 0,
            None => packet.reading.is_some_and(|reading| reading.starts_frame && reading.key),
        };
        let (&start, _) = self.waiting.iter().find(|(_, packet)| starts(packet))?;
        let mut at = start;
        while !self.waiting.get(&at)?.marker {
            at = at.next();
        }
        Some(start)
    }

    fn lose(&mut self, at: ExtSeq) {
        self.stats.lost += 1;
        self.given_up.insert(at);
        if self.given_up.len() > GIVEN_UP_MAX {
            self.given_up.pop_first();
        }
    }

    fn restart(&mut self) {
        self.first = None;
        self.waiting.clear();
        self.missing.clear();
        self.given_up.clear();
        self.reports.start_over();
        self.received = 0;
        self.skip();
    }

    /// A packet is missing for ever: everything that depends on it cannot be decoded.
    fn skip(&mut self) {
        self.stats.frames_dropped += u64::from(self.current.take().is_some());
        (self.decodable, self.broken) = (false, true);
        self.last_picture_id = None;
    }

    fn feed(&mut self, now: Instant, seq: Seq, packet: Waiting) {
        if let Some(decoder) = &mut self.decoder {
            let (shown, dropped) = (decoder.shown().len(), decoder.dropped());
            let Waiting { timestamp, marker, .. } = packet;
            let descriptor = packet.descriptor.as_deref();
            decoder.feed(now, &DecoderPacket { seq, timestamp, marker, payload: &packet.payload, descriptor });
            self.broken = decoder.stuck();
            self.stats.frames_dropped += decoder.dropped() - dropped;
            if let Some(shown) = decoder.shown().get(shown).copied() {
                self.decoded(now, shown.key);
            }
            return;
        }
        let Some(reading) = packet.reading else { return };
        if !self.config.codec.is_video() {
            self.decoded(now, false);
            return;
        }
        match &mut self.current {
            Some(current) if current.timestamp == packet.timestamp => {
                current.key |= reading.key;
                current.whole &= reading.picture_id == current.picture_id;
            }
            other => {
                // A frame without its marker was cut off by its publisher.
                let cut = other.is_some();
                let (key, picture_id) = (reading.key, reading.picture_id);
                *other = Some(Current { timestamp: packet.timestamp, key, whole: reading.starts_frame, picture_id });
                if cut {
                    self.stats.frames_dropped += 1;
                    (self.decodable, self.broken) = (false, true);
                }
            }
        }
        if !packet.marker {
            return;
        }
        let Some(frame) = self.current.take() else { return };
        let follows = match (self.last_picture_id, frame.picture_id) {
            (Some(last), Some(this)) => this == (last + 1) & if last > 0x7f { 0x7fff } else { 0xffff },
            _ => true,
        };
        self.decodable = frame.whole && (frame.key || self.decodable && follows);
        self.broken = !self.decodable;
        self.last_picture_id = frame.picture_id;
        if self.decodable {
            self.decoded(now, frame.key);
        } else {
            self.stats.frames_dropped += 1;
        }
    }

    fn decoded(&mut self, now: Instant, key: bool) {
        self.stats.frames_decoded += 1;
        self.stats.key_frames_decoded += u64::from(key);
        self.stats.first_decoded_at.get_or_insert(now);
        if let Some(last) = self.stats.last_decoded_at.replace(now) {
            self.stats.longest_freeze = self.stats.longest_freeze.max(now.since(last));
        }
    }

    /// RFC 3550 appendix A.8.
    fn count_jitter(&mut self, now: Instant, timestamp: u32) {
        let arrived = now.as_nanos() as i128 * i128::from(self.config.clock_rate) / 1_000_000_000;
        let transit = i64::from((arrived as u32).wrapping_sub(timestamp) as i32);
        if let Some(last) = self.transit.replace(transit) {
            self.jitter += ((transit - last).unsigned_abs() as f64 - self.jitter) / 16.0;
        }
    }

    pub fn handle_sender_report(&mut self, now: Now, report: &SenderReport<'_>) {
        if report.ssrc == self.config.ssrc {
            self.reports.on_sender_report(now.mono, report.ntp);
            if let Some(decoder) = &mut self.decoder {
                decoder.handle_sender_report(now, report);
            }
        }
    }

    pub fn deadline(&self) -> Instant {
        let nack = self.missing.values().map(|missing| self.due(missing)).min();
        let pli = self.broken.then(|| self.pli_at.map_or(Instant::ZERO, |at| at + PLI_GAP));
        [nack, pli].into_iter().flatten().fold(self.report_at, Instant::min)
    }

    /// When a missing packet is requested again, or given up.
    fn due(&self, missing: &Missing) -> Instant {
        match missing.asked_at {
            Some(at) => at + NACK_GAP,
            None if self.config.nack => missing.since,
            None => missing.since + NACK_GAP,
        }
    }

    /// Sends what is due now: NACK, PLI, receiver report.
    pub fn write_rtcp(&mut self, now: Now, own: Ssrc, writer: &mut RtcpWriter<'_>) {
        self.give_up(now.mono);
        let due: Vec<ExtSeq> =
            self.missing.iter().filter(|(_, missing)| self.due(missing) <= now.mono).map(|(at, _)| *at).collect();
        let mut wanted = Vec::new();
        for at in due {
            if let Some(missing) = self.missing.get_mut(&at).filter(|missing| missing.asked < NACKS_MAX) {
                missing.asked_at = Some(now.mono);
                missing.asked += 1;
                wanted.push(at.seq());
            }
        }
        if !wanted.is_empty() {
            self.stats.nacked += wanted.len() as u64;
            writer.nack(own, self.config.ssrc, &wanted);
        }
        if self.broken && self.pli_at.is_none_or(|at| now.mono.since(at) >= PLI_GAP) {
            self.pli_at = Some(now.mono);
            self.stats.plis += 1;
            writer.pli(own, self.config.ssrc);
        }
        if now.mono >= self.report_at {
            self.report_at = now.mono + REPORT_GAP;
            if let Some(block) = self.report(now.mono) {
                writer.receiver_report(own, &[block]);
            }
        }
    }

    /// Gives up the first packets in order that were requested often enough; one behind a packet that is still being
    /// requested waits with it.
    fn give_up(&mut self, now: Instant) {
        while let Some((&at, missing)) = self.missing.first_key_value() {
            let asked_enough = !self.config.nack || missing.asked == NACKS_MAX;
            if !asked_enough || self.due(missing) > now {
                return;
            }
            self.missing.remove(&at);
            self.lose(at);
            self.next = at.next();
            if self.config.codec.is_video() {
                self.skip();
            }
            self.advance(now);
        }
    }

    fn report(&mut self, now: Instant) -> Option<ReportBlock> {
        let (highest, packets, jitter) = (self.highest, self.received, self.jitter as u32);
        let stream = StreamCounts { first: self.first?, highest, packets, jitter };
        Some(self.reports.block(now, self.config.ssrc, stream))
    }
}
