//! Model decoders: fed with exactly what a consumer's decoder would get once packets are in order and repaired, they
//! report what it could show and name every fault that no sender may cause. Each codec's file knows its RTP payload
//! format and nothing of the SFU; `bitstream` knows the content of this world's frames. `sink` feeds them.
//!
//! Two judges look at each frame. The codec's goes by descriptors, as a browser's depacketizer must; the bitstream's by
//! the true references. They must agree wherever nothing was lost on the way.
mod av1;
mod bitstream;
mod h264;
mod model;
mod sealed;
#[cfg(test)]
mod tests;
mod vp8;
mod vp9;

use crate::base::seq::{Seq, timestamp_ahead};
use crate::base::time::{Duration, Instant, Now};
use crate::sim::payload::{Encryption, Inside};
use crate::wire::codec::Codec;
use crate::wire::rtcp::SenderReport;
use bitstream::Bitstream;
pub use model::{DecoderPacket, Fault, FaultKind, Shown, Strictness};
use model::{Found, Model, Part};

/// A frame whose packets are coming.
#[derive(Clone, Copy)]
struct Frame {
    part: Part,
    ended: bool,
}

#[derive(Clone, Copy)]
struct Picture {
    timestamp: u32,
    key: bool,
    /// Every frame of it so far was decoded.
    good: bool,
    spatial: u8,
    temporal: u8,
    inside: Option<Inside>,
}

pub struct Decoder {
    strictness: Strictness,
    clock_rate: u32,
    model: Box<dyn Model>,
    bitstream: Bitstream,
    last: Option<Seq>,
    /// Packets are missing, and no frame has started since.
    torn: bool,
    frame: Option<Frame>,
    /// Whether the frame so far could truly be decoded.
    truth: Option<bool>,
    picture: Option<Picture>,
    /// The last picture ended without its marker.
    unmarked: bool,
    /// Of the last picture, with its marker.
    closed: Option<u32>,
    last_timestamp: Option<u32>,
    /// RTP time less time of capture at the first picture that is live, in ticks.
    origin: Option<i64>,
    /// All pictures so far follow each other faster than they were captured: a replay for a joiner.
    catching_up: bool,
    started: bool,
    started_whole: bool,
    stuck: bool,
    dropped: u64,
    worst_offset: Duration,
    faults: Vec<Fault>,
    shown: Vec<Shown>,
}

/// A replay is at least this many times as fast as live.
const CATCHES_UP: i64 = 4;
/// The number of faults kept; a stream that is wrong throughout need not fill the memory.
const FAULTS_MAX: usize = 1_000;

impl Decoder {
    /// None for audio, which has nothing to judge beyond its sequence numbers.
    pub fn new(codec: Codec, clock_rate: u32, strictness: Strictness) -> Option<Decoder> {
        let model: Box<dyn Model> = match codec {
            Codec::Opus => return None,
            _ if strictness.encryption == Encryption::Payload => Box::new(sealed::Sealed),
            Codec::Vp8 => Box::new(vp8::Vp8::default()),
            Codec::Vp9 => Box::new(vp9::Vp9::default()),
            Codec::H264 => Box::new(h264::H264::default()),
            Codec::Av1 => Box::new(av1::Av1::default()),
        };
        Some(Decoder {
            strictness,
            clock_rate,
            model,
            bitstream: Bitstream::default(),
            last: None,
            torn: false,
            frame: None,
            truth: None,
            picture: None,
            unmarked: false,
            closed: None,
            last_timestamp: None,
            origin: None,
            catching_up: true,
            started: false,
            started_whole: false,
            stuck: false,
            dropped: 0,
            worst_offset: Duration::ZERO,
            faults: Vec::new(),
            shown: Vec::new(),
        })
    }

    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// All pictures that could be shown, in order.
    pub fn shown(&self) -> &[Shown] {
        &self.shown
    }

    /// Pictures that could not be shown.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Only a keyframe helps.
    pub fn stuck(&self) -> bool {
        self.stuck
    }

    #[cfg(test)]
    fn worst_offset(&self) -> Duration {
        self.worst_offset
    }

    /// Times of over `limit` in which nothing new was shown.
    pub fn freezes(&self, limit: Duration) -> impl Iterator<Item = (Instant, Instant)> + '_ {
        let pairs = self.shown.windows(2).map(|pair| (pair[0].at, pair[1].at));
        pairs.filter(move |(from, to)| to.since(*from) > limit)
    }

    /// Where the stream or the spatial layer changes: the first picture of each.
    pub fn switches(&self) -> impl Iterator<Item = &Shown> + '_ {
        let what = |shown: &Shown| (shown.inside.map(|inside| inside.stream), shown.spatial);
        self.shown.windows(2).filter(move |pair| what(&pair[0]) != what(&pair[1])).map(|pair| &pair[1])
    }

    fn fault(&mut self, now: Instant, (kind, detail): Found) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(Fault { at: now, seq: self.last.unwrap_or_default(), kind, detail });
        }
    }

    /// The next packet that is there.
    pub fn feed(&mut self, now: Instant, packet: &DecoderPacket<'_>) {
        if !self.follow(now, packet) {
            return;
        }
        if packet.payload.is_empty() {
            return;
        }
        self.begin_picture(now, packet);
        let opens = self.picture.is_none();
        let inside = Inside::of(packet.payload);
        let part = match self.model.read(packet, opens, &self.strictness) {
            Ok(part) => part,
            Err(found) => return self.refuse(now, packet, found),
        };
        if std::mem::take(&mut self.unmarked) {
            let kind = if part.starts && part.key { FaultKind::Truncated } else { FaultKind::NoMarker };
            self.fault(now, (kind, "the next picture begins".into()));
        }
        if !self.assemble(now, packet, part, inside) {
            return;
        }
        let mut found = Vec::new();
        if !self.started_whole && self.strictness.rough_start && inside.is_some_and(|inside| inside.index > 0) {
            self.bitstream.lost();
        }
        self.started_whole = true;
        if let Some(good) = self.bitstream.take(packet.payload, &mut found) {
            self.truth = Some(self.truth.unwrap_or(true) && good);
        }
        let ends = part.ends.unwrap_or(packet.marker);
        if ends {
            self.finish_frame(part, &mut found);
        }
        if packet.marker {
            if !ends {
                found.push((FaultKind::WrongEnd, "the marker is on a packet that ends no frame".into()));
            }
            self.finish_picture(now, &mut found);
        }
        for found in found {
            self.fault(now, found);
        }
    }

    /// The packet is useless, and so is its frame.
    fn refuse(&mut self, now: Instant, packet: &DecoderPacket<'_>, found: Found) {
        self.stuck = true;
        self.frame = None;
        self.open_picture(packet.timestamp).good = false;
        if packet.marker {
            self.drop_picture();
            self.closed = Some(packet.timestamp);
        }
        self.fault(now, found);
    }

    fn open_picture(&mut self, timestamp: u32) -> &mut Picture {
        let begun = Picture { timestamp, key: false, good: true, spatial: 0, temporal: 0, inside: None };
        self.picture.get_or_insert(begun)
    }

    /// RFC 3550 section 5.1: one after the other. False for a packet that is to be ignored.
    fn follow(&mut self, now: Instant, packet: &DecoderPacket<'_>) -> bool {
        let ahead = self.last.map_or(1, |last| packet.seq.ahead_of(last));
        if ahead <= 0 {
            self.fault(now, (FaultKind::SequenceBack, format!("{:?} comes {} behind", packet.seq, -ahead)));
            return false;
        }
        self.last = Some(packet.seq);
        if ahead > 1 {
            self.fault(now, (FaultKind::Gap, format!("{} are missing", ahead - 1)));
            self.torn = true;
            self.frame = None;
            self.model.lost();
            self.bitstream.lost();
            if let Some(picture) = &mut self.picture {
                picture.good = false;
            }
        }
        true
    }

    fn begin_picture(&mut self, now: Instant, packet: &DecoderPacket<'_>) {
        if let Some(picture) = self.picture
            && picture.timestamp != packet.timestamp
        {
            if !self.torn {
                self.unmarked = true;
                self.bitstream.abandon();
            }
            self.drop_picture();
        }
        if self.picture.is_none() && self.closed == Some(packet.timestamp) {
            self.fault(now, (FaultKind::WrongEnd, "the picture goes on behind its marker".into()));
        }
    }

    fn drop_picture(&mut self) {
        self.dropped += u64::from(self.picture.take().is_some());
        self.frame = None;
        self.stuck = true;
    }

    /// Whether the packet belongs to a frame whose start is there.
    fn assemble(&mut self, now: Instant, packet: &DecoderPacket<'_>, part: Part, inside: Option<Inside>) -> bool {
        let opens = self.picture.is_none();
        let held = self.frame;
        let picture = self.open_picture(packet.timestamp);
        picture.inside = picture.inside.or(inside);
        match (held, part.starts) {
            (None, false) => {
                picture.good = false;
                if packet.marker {
                    self.drop_picture();
                    self.closed = Some(packet.timestamp);
                }
                let kind = if self.started { FaultKind::Cut } else { FaultKind::BadStart };
                let excused = self.torn || !self.started && self.strictness.rough_start;
                if !excused {
                    self.fault(now, (kind, "a frame without its start".into()));
                }
                return false;
            }
            (Some(frame), true) if !frame.ended => {
                picture.good = false;
                self.fault(now, (FaultKind::Cut, "a frame without its end".into()));
            }
            (Some(frame), false) if frame.ended => {
                picture.good = false;
                self.fault(now, (FaultKind::WrongEnd, "a frame goes on behind its end".into()));
            }
            _ => {}
        }
        if part.starts {
            if opens && !self.started && !part.key && !self.strictness.rough_start {
                self.fault(now, (FaultKind::BadStart, "the first picture is no keyframe".into()));
            }
            self.started = true;
            self.torn = false;
            self.frame = Some(Frame { part, ended: false });
        }
        true
    }

    fn finish_frame(&mut self, part: Part, found: &mut Vec<Found>) {
        let truth = self.truth.take();
        let Some(frame) = &mut self.frame else { return };
        frame.ended = true;
        let first = frame.part;
        let mut said = Vec::new();
        self.model.judge(&self.strictness, &mut said);
        let good = truth.unwrap_or(said.is_empty());
        found.extend(said);
        if let Some(picture) = &mut self.picture {
            picture.good &= good;
            picture.key |= first.key;
            picture.spatial = picture.spatial.max(part.spatial);
            picture.temporal = picture.temporal.max(part.temporal);
        }
    }

    fn finish_picture(&mut self, now: Instant, found: &mut Vec<Found>) {
        let Some(picture) = self.picture.take() else { return };
        self.frame = None;
        self.closed = Some(picture.timestamp);
        self.model.end_picture(picture.spatial, found);
        if let Some(last) = self.last_timestamp.replace(picture.timestamp)
            && timestamp_ahead(picture.timestamp, last) <= 0
        {
            found.push((FaultKind::TimestampBack, format!("{} ticks", timestamp_ahead(picture.timestamp, last))));
        }
        if let Some(inside) = picture.inside {
            self.check_time(&picture, inside, found);
        }
        if !picture.good {
            self.dropped += 1;
            // A picture without references to it is no loss.
            self.stuck |= picture.temporal == 0 || !self.started;
            return;
        }
        self.stuck &= picture.temporal > 0;
        let Picture { timestamp, key, spatial, temporal, inside, .. } = picture;
        self.shown.push(Shown { at: now, timestamp, key, spatial, temporal, inside });
    }

    fn ticks(&self, at: Instant) -> i64 {
        (u128::from(at.as_nanos()) * u128::from(self.clock_rate) / 1_000_000_000) as i64
    }

    fn check_time(&mut self, picture: &Picture, inside: Inside, found: &mut Vec<Found>) {
        if let Some(before) = self.shown.last().and_then(|shown| shown.inside) {
            let slack = if before.stream == inside.stream { Duration::ZERO } else { self.strictness.time_slack };
            if inside.captured_at + slack <= before.captured_at {
                let by = before.captured_at.since(inside.captured_at);
                found.push((FaultKind::StepBack, format!("captured {by:?} before the last picture")));
            }
        }
        let expected = self.ticks(inside.captured_at);
        if let Some(before) = self.shown.last().filter(|_| self.catching_up)
            && let Some(captured) = before.inside
        {
            let ahead = i64::from(timestamp_ahead(picture.timestamp, before.timestamp));
            self.catching_up = ahead * CATCHES_UP < expected - self.ticks(captured.captured_at);
            if self.catching_up {
                self.origin = None;
            }
        }
        let origin = *self.origin.get_or_insert(i64::from(picture.timestamp) - expected);
        let off = timestamp_ahead(picture.timestamp, (expected + origin) as u32);
        let offset = Duration::from_nanos(u64::from(off.unsigned_abs()) * 1_000_000_000 / u64::from(self.clock_rate));
        self.worst_offset = self.worst_offset.max(offset);
        if offset > self.strictness.time_slack {
            found.push((FaultKind::OffTime, format!("{off} ticks from its time of capture")));
        }
    }

    /// RFC 3550 section 6.4.1: the same moment in both clocks, by the pictures.
    pub fn handle_sender_report(&mut self, now: Now, report: &SenderReport<'_>) {
        let Some(last) = self.shown.last().copied().filter(|_| !self.catching_up) else { return };
        let Some(inside) = last.inside else { return };
        let captured = now.at(inside.captured_at).wall;
        let ahead = report.ntp.nanos_since(captured) as i128 * i128::from(self.clock_rate) / 1_000_000_000;
        let expected = last.timestamp.wrapping_add(ahead as u32);
        let off = timestamp_ahead(report.rtp_timestamp, expected);
        let slack = self.strictness.report_slack.as_nanos() * u128::from(self.clock_rate) / 1_000_000_000;
        if u128::from(off.unsigned_abs()) > slack {
            self.fault(now.mono, (FaultKind::ReportAstray, format!("{off} ticks")));
        }
    }
}
