//! One stream of a publisher: frames at their rate, cut into RTP packets, with keyframes on request, retransmissions
//! (RFC 4588) out of its own history and sender reports. Driven by `browser`, which seals and sends.

use std::collections::VecDeque;

use rand::Rng;
use rand::rngs::SmallRng;

use crate::base::id::{Mid, PayloadType, Rid, Ssrc};
use crate::base::seq::Seq;
use crate::base::time::{Duration, Instant, Now};
use crate::base::units::Bitrate;
use crate::sim::descriptor::{self, Description};
use crate::sim::payload::{Encryption, Frame, Inside, Layer, packetize};
use crate::sim::scalability::{Definitions, LayerFrame, Scalability};
use crate::wire::codec::Codec;
use crate::wire::extension::{AudioLevel, Extension, ExtensionIds, abs_send_time};
use crate::wire::rtcp_write::RtcpWriter;
use crate::wire::rtp::{ExtensionWriter, FIXED_HEADER, HeaderFields, write_fixed_header};

const HISTORY_PACKETS: usize = 1_024;
/// A keyframe is this many times as large as the frames between.
const KEY_FRAME_FACTOR: usize = 4;
/// Keyframes on request come no faster (Chromium's encoder: 300 ms).
const KEY_FRAME_GAP: Duration = Duration::from_millis(300);
const BEHIND_MAX: Duration = Duration::from_millis(200);

#[derive(Clone, Debug)]
pub struct SourceConfig {
    pub codec: Codec,
    pub clock_rate: u32,
    pub payload_type: PayloadType,
    pub ssrc: Ssrc,
    pub rtx: Option<(PayloadType, Ssrc)>,
    pub mid: Option<Mid>,
    pub cname: String,
    pub bitrate: Bitrate,
    /// Opus: packets a second.
    pub frame_rate: u32,
    pub extensions: ExtensionIds,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SourceStats {
    pub packets: u64,
    pub octets: u64,
    pub frames: u64,
    pub key_frames: u64,
    pub retransmitted: u64,
    /// Packets that were requested, and were no longer there or cannot be resent for want of RTX.
    pub unavailable: u64,
    pub key_frames_requested: u64,
}

#[derive(Clone)]
struct Packet {
    seq: Seq,
    timestamp: u32,
    marker: bool,
    payload: Vec<u8>,
    /// Dependency descriptor; empty without one.
    descriptor: Vec<u8>,
}

/// The layers of a source that has more than one.
struct Layers {
    mode: Scalability,
    spatial: u8,
    definitions: Definitions,
}

pub struct BrowserSource {
    config: SourceConfig,
    rid: Option<Rid>,
    started_at: Instant,
    timestamp_base: u32,
    /// At the newest frame: reports are about sent packets.
    reported_base: u32,
    next_seq: Seq,
    next_rtx_seq: Seq,
    picture_id: u16,
    tl0_pic_idx: u8,
    ready: VecDeque<Packet>,
    resend: VecDeque<Packet>,
    history: VecDeque<Packet>,
    /// Counts frame times, also those at which nothing was sent.
    frame_index: u64,
    key_wanted: bool,
    key_sent_at: Option<Instant>,
    paused: bool,
    /// The level of audio, in -dBov.
    level: u8,
    /// The first time to send: a browser starts its upper encodings as its bandwidth grows.
    silent_until: Instant,
    layers: Option<Layers>,
    encryption: Encryption,
    /// Names this start of the encoder, and the frames it has coded since.
    stream: u32,
    coded: u32,
    frame_number: u16,
    /// Pictures since the keyframe.
    position: usize,
    stats: SourceStats,
}

impl BrowserSource {
    pub fn new(now: Instant, config: SourceConfig, rng: &mut SmallRng) -> BrowserSource {
        let timestamp_base = rng.random();
        BrowserSource {
            key_wanted: config.codec.is_video(),
            config,
            rid: None,
            started_at: now,
            timestamp_base,
            reported_base: timestamp_base,
            // libwebrtc starts in the lower half, so that an early loss cannot hide a wrap from SRTP.
            next_seq: Seq(rng.random_range(1_000..32_767)),
            next_rtx_seq: Seq(rng.random_range(1_000..32_767)),
            picture_id: rng.random::<u16>() & 0x7fff,
            tl0_pic_idx: rng.random(),
            ready: VecDeque::new(),
            resend: VecDeque::new(),
            history: VecDeque::new(),
            frame_index: 0,
            key_sent_at: None,
            paused: false,
            level: 30,
            silent_until: now,
            layers: None,
            encryption: Encryption::None,
            stream: rng.random(),
            coded: 0,
            frame_number: rng.random(),
            position: 0,
            stats: SourceStats::default(),
        }
    }

    pub fn config(&self) -> &SourceConfig {
        &self.config
    }

    pub fn stats(&self) -> SourceStats {
        self.stats
    }

    /// One encoding of several: its packets say which (RFC 8852).
    pub fn set_rid(&mut self, rid: Rid) {
        self.rid = Some(rid);
    }

    /// The name of its packets' content.
    pub fn stream(&self) -> u32 {
        self.stream
    }

    /// Call before the first frame.
    pub fn set_scalability(&mut self, mode: Scalability) {
        let spatial = mode.spatial_layers();
        let layered = mode != Scalability::L1T1;
        self.layers = layered.then(|| Layers { mode, spatial, definitions: Definitions::new(mode, spatial) });
    }

    /// Sends only this many of the spatial layers from the next picture on, which is a keyframe.
    pub fn set_spatial_layers(&mut self, count: u8) {
        if let Some(layers) = &mut self.layers {
            layers.spatial = count.clamp(1, layers.mode.spatial_layers());
            layers.definitions = Definitions::new(layers.mode, layers.spatial);
            (self.key_wanted, self.key_sent_at) = (true, None);
        }
    }

    /// From the next frame on.
    pub fn set_encryption(&mut self, encryption: Encryption) {
        self.encryption = encryption;
    }

    pub fn set_silent_until(&mut self, at: Instant) {
        self.silent_until = at;
    }

    /// Switches the encoder off, or on again, when it begins with a keyframe.
    pub fn set_active(&mut self, active: bool) {
        if active && self.paused {
            (self.key_wanted, self.key_sent_at) = (self.config.codec.is_video(), None);
        }
        self.paused = !active;
    }

    /// The encoder starts over on the same SSRC: the numbering jumps, and a keyframe comes first.
    pub fn jump(&mut self, by: u16) {
        self.next_seq = Seq(self.next_seq.0.wrapping_add(by));
        self.timestamp_base = self.timestamp_base.wrapping_add(u32::from(by) * 90);
        self.stream = self.stream.wrapping_mul(0x9e37_79b1).wrapping_add(1);
        self.coded = 0;
        self.ready.clear();
        self.resend.clear();
        self.history.clear();
        (self.key_wanted, self.key_sent_at) = (self.config.codec.is_video(), None);
    }

    pub fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// The level that an audio source states, in -dBov.
    pub fn set_level(&mut self, level: u8) {
        self.level = level;
    }

    pub fn request_key_frame(&mut self) {
        self.stats.key_frames_requested += 1;
        self.key_wanted = self.config.codec.is_video();
    }

    /// Queues retransmissions of the packets that are still there.
    pub fn handle_nack(&mut self, seqs: impl Iterator<Item = Seq>) {
        for seq in seqs {
            match self.history.iter().find(|packet| packet.seq == seq) {
                Some(packet) if self.config.rtx.is_some() => self.resend.push_back(packet.clone()),
                _ => self.stats.unavailable += 1,
            }
        }
    }

    pub fn deadline(&self) -> Instant {
        if self.resend.is_empty() && self.ready.is_empty() { self.frame_at(self.frame_index) } else { Instant::ZERO }
    }

    fn frame_at(&self, index: u64) -> Instant {
        let nanos = u128::from(index) * 1_000_000_000 / u128::from(self.config.frame_rate.max(1));
        self.started_at + Duration::from_nanos(nanos as u64)
    }

    fn ticks_at(&self, at: Instant) -> u32 {
        (at.since(self.started_at).as_nanos() * u128::from(self.config.clock_rate) / 1_000_000_000) as u32
    }

    /// Writes the next packet that is due, in plain text; false when none is. `transport_seq` counts the transport's
    /// packets for transport-wide feedback.
    pub fn poll(&mut self, now: Now, transport_seq: &mut u16, out: &mut Vec<u8>) -> bool {
        // A source that was polled late does not catch up.
        if now.mono.since(self.frame_at(self.frame_index)) > BEHIND_MAX {
            let rate = u128::from(self.config.frame_rate);
            self.frame_index = (now.mono.since(self.started_at).as_nanos() * rate / 1_000_000_000) as u64;
        }
        while self.ready.is_empty() && self.frame_at(self.frame_index) <= now.mono {
            self.make_frame(now.mono);
        }
        if let (Some(packet), Some((payload_type, ssrc))) = (self.resend.pop_front(), self.config.rtx) {
            let seq = self.next_rtx_seq;
            self.next_rtx_seq = Seq(seq.0.wrapping_add(1));
            self.stats.retransmitted += 1;
            self.write(now, transport_seq, out, &packet, (payload_type, ssrc, seq));
            // RFC 4588 section 4: the original sequence number, then the original payload.
            out.extend_from_slice(&packet.seq.0.to_be_bytes());
            out.extend_from_slice(&packet.payload);
            return true;
        }
        let Some(packet) = self.ready.pop_front() else { return false };
        let sent_as = (self.config.payload_type, self.config.ssrc, packet.seq);
        self.write(now, transport_seq, out, &packet, sent_as);
        out.extend_from_slice(&packet.payload);
        self.stats.packets += 1;
        self.stats.octets += packet.payload.len() as u64;
        if self.history.len() == HISTORY_PACKETS {
            self.history.pop_front();
        }
        self.history.push_back(packet);
        true
    }

    fn make_frame(&mut self, now: Instant) {
        let captured_at = self.frame_at(self.frame_index);
        self.frame_index += 1;
        if self.paused || captured_at < self.silent_until {
            return;
        }
        self.stats.frames += 1;
        self.reported_base = self.timestamp_base;
        let rested = self.key_sent_at.is_none_or(|at| now.since(at) >= KEY_FRAME_GAP);
        let key = self.key_wanted && rested;
        if key {
            self.key_wanted = false;
            self.key_sent_at = Some(now);
            self.stats.key_frames += 1;
        }
        let mean = (self.config.bitrate.bps() / 8 / u64::from(self.config.frame_rate.max(1))) as usize;
        let len = (mean * if key { KEY_FRAME_FACTOR } else { 1 }).max(1);
        self.position = if key { 0 } else { self.position + 1 };
        self.picture_id = (self.picture_id + 1) & 0x7fff;
        let (mode, spatial) =
            self.layers.as_ref().map_or((Scalability::L1T1, 1), |layers| (layers.mode, layers.spatial));
        self.tl0_pic_idx = self.tl0_pic_idx.wrapping_add(u8::from(mode.temporal(self.position) == 0));
        let timestamp = self.timestamp_base.wrapping_add(self.ticks_at(captured_at));
        let weights = (1usize << spatial) - 1;
        for frame in mode.frames(self.position, spatial) {
            let len = (len << frame.spatial) / weights;
            self.code(now, captured_at, timestamp, frame, len);
        }
    }

    /// One layer's frame.
    fn code(&mut self, now: Instant, captured_at: Instant, timestamp: u32, frame: LayerFrame, len: usize) {
        let video = self.config.codec.is_video();
        let mut refs = [0; 3];
        refs.iter_mut().zip(&frame.refs).for_each(|(place, back)| *place = *back);
        let inside = Inside {
            stream: self.stream,
            frame: self.coded,
            captured_at,
            key: frame.key,
            spatial: frame.spatial,
            temporal: frame.temporal,
            refs,
            index: 0,
            count: 0,
        };
        let layer = self.layers.as_ref().map(|layers| Layer {
            mode: layers.mode,
            spatial_layers: layers.spatial,
            frame: frame.clone(),
        });
        let (key, encryption) = (frame.key, self.encryption);
        let (picture_id, tl0_pic_idx) = (self.picture_id, self.tl0_pic_idx);
        let inside = video.then_some(inside);
        let coded = Frame { key, picture_id, tl0_pic_idx, len, made_at: now, layer, inside, encryption };
        let payloads = packetize(self.config.codec, coded);
        let last = payloads.len() - 1;
        for (index, payload) in payloads.into_iter().enumerate() {
            let seq = self.next_seq;
            self.next_seq = Seq(seq.0.wrapping_add(1));
            let marker = video && frame.top && index == last;
            let descriptor = self.describe(&frame, index == 0, index == last);
            self.ready.push_back(Packet { seq, timestamp, marker, payload, descriptor });
        }
        self.coded += 1;
        self.frame_number = self.frame_number.wrapping_add(1);
    }

    fn describe(&self, frame: &LayerFrame, starts_frame: bool, ends_frame: bool) -> Vec<u8> {
        let Some(layers) = &self.layers else { return Vec::new() };
        if self.config.extensions.get(Extension::DependencyDescriptor).is_none() {
            return Vec::new();
        }
        let attach = frame.key && frame.spatial == 0 && starts_frame;
        let targets = u32::from(layers.spatial * layers.mode.temporal_layers());
        descriptor::write(
            &layers.definitions,
            &Description {
                starts_frame,
                ends_frame,
                number: self.frame_number,
                frame: layers.definitions.of(self.position, frame.spatial),
                in_full: self.coded % 7 == 3,
                attach,
                active: attach.then_some(u32::MAX >> (u32::BITS - targets)),
            },
        )
    }

    /// The header for sending or resending a packet.
    fn write(
        &self,
        now: Now,
        transport_seq: &mut u16,
        out: &mut Vec<u8>,
        packet: &Packet,
        (payload_type, ssrc, seq): (PayloadType, Ssrc, Seq),
    ) {
        let Packet { timestamp, marker, descriptor, .. } = packet;
        let (timestamp, marker) = (*timestamp, *marker);
        let fields = HeaderFields { marker, has_padding: false, payload_type, seq, timestamp, ssrc };
        out.clear();
        out.resize(FIXED_HEADER + 64 + descriptor.len().next_multiple_of(4), 0);
        let ids = &self.config.extensions;
        let (header, block) = out.split_at_mut(FIXED_HEADER);
        let two_byte = !descriptor.is_empty() && ExtensionWriter::needs_two_byte(1, descriptor.len());
        let mut extensions = ExtensionWriter::new(block, two_byte);
        let mut push = |extension, value: &[u8]| {
            if let Some(id) = ids.get(extension) {
                extensions.push(id, value);
            }
        };
        if let Some(mid) = &self.config.mid {
            push(Extension::Mid, mid.as_bytes());
        }
        if let Some(rid) = &self.rid {
            let media = fields.ssrc == self.config.ssrc;
            push(if media { Extension::Rid } else { Extension::RepairedRid }, rid.as_bytes());
        }
        push(Extension::AbsSendTime, &abs_send_time(now.wall));
        if ids.get(Extension::TransportCc).is_some() {
            push(Extension::TransportCc, &transport_seq.to_be_bytes());
            *transport_seq = transport_seq.wrapping_add(1);
        }
        if !self.config.codec.is_video() {
            push(Extension::AudioLevel, &AudioLevel { voice: true, level: self.level }.to_bytes());
        }
        if !descriptor.is_empty() {
            push(Extension::DependencyDescriptor, descriptor);
        }
        let len = extensions.finish();
        if let Some(header) = header.first_chunk_mut() {
            write_fixed_header(header, fields, len > 0);
        }
        out.truncate(FIXED_HEADER + len);
    }

    /// Sender report and name (RFC 3550 sections 6.4.1 and 6.5.1); nothing before the first packet.
    pub fn write_report(&self, now: Now, writer: &mut RtcpWriter<'_>) {
        if self.stats.packets == 0 {
            return;
        }
        let (packets, octets) = (self.stats.packets as u32, self.stats.octets as u32);
        let timestamp = self.reported_base.wrapping_add(self.ticks_at(now.mono));
        writer.sender_report(self.config.ssrc, now.wall, timestamp, packets, octets, &[]);
        writer.sdes_cname(self.config.ssrc, &self.config.cname);
    }
}
