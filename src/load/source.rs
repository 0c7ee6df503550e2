//! One published stream: frames at their rate, cut into packets of one length, written straight into the buffer they
//! are sealed in. `media` seals and sends them, at the times that `due` says.

use std::ops::Range;

use crate::base::id::Ssrc;
use crate::base::seq::{ExtSeq, Seq};
use crate::base::time::{Duration, Instant, Now};
use crate::load::payload::{self, FramePlace, PAYLOAD_MAX, PAYLOAD_MIN, PacketLabel};
use crate::load::repair::SentPackets;
use crate::net::udp::stamped::UnixNanos;
use crate::sim::source::SourceConfig;
use crate::wire::extension::{AudioLevel, Extension, abs_send_time};
use crate::wire::rtcp_write::RtcpWriter;
use crate::wire::rtp::{ExtensionWriter, FIXED_HEADER, HeaderFields, write_fixed_header};

/// Keyframes on request come no faster (Chromium's encoder).
const KEY_FRAME_GAP: Duration = Duration::from_millis(300);
/// A source that is later than this leaves frames out instead of catching up.
const BEHIND_MAX: Duration = Duration::from_millis(200);
/// Payloads of Opus at 50 kbit/s or so, cycled through.
const OPUS_BYTES: Range<usize> = 120..161;
/// Room for the extensions, which take some 24 bytes.
const EXTENSIONS_MAX: usize = 64;

/// The counters while no window is open.
const CLOSED: Range<u64> = u64::MAX..u64::MAX;

/// The packets of a frame, and their times.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Rhythm {
    pub frame_gap: Duration,
    pub packets: usize,
    /// The length of each packet of a video frame.
    pub payload_bytes: usize,
    /// Between packets of one frame.
    pub spacing: Duration,
}

impl Rhythm {
    pub fn video(kbit: u32, fps: u32, spacing: Duration) -> Rhythm {
        let fps = fps.max(1);
        let frame = (kbit as usize * 1_000 / 8 / fps as usize).max(1);
        let packets = frame.div_ceil(PAYLOAD_MAX);
        let payload_bytes = (frame / packets).max(PAYLOAD_MIN);
        Rhythm { frame_gap: Duration::from_secs(1) / fps, packets, payload_bytes, spacing }
    }

    pub fn audio(packets_a_second: u32) -> Rhythm {
        let frame_gap = Duration::from_secs(1) / packets_a_second.max(1);
        Rhythm { frame_gap, packets: 1, payload_bytes: 0, spacing: Duration::ZERO }
    }
}

/// A packet in plain text at the start of a buffer.
pub struct WrittenPacket {
    pub header_len: usize,
    pub len: usize,
    /// For the sealer: rollover counter and sequence number.
    pub srtp_index: u64,
}

pub struct LoadSource {
    pub config: SourceConfig,
    rhythm: Rhythm,
    /// Among all streams of the run: the label of its packets.
    stream: u32,
    /// Its publisher, in the order in which publishers are switched on.
    pub publisher: usize,
    pub transport: usize,
    pub active: bool,
    /// A report of the server named it: it knows the SSRC, and the MID need not be said again.
    pub acknowledged: bool,
    started_at: Instant,
    timestamp_base: u32,
    frame_at: Instant,
    due: Instant,
    /// The next packet's place in its frame.
    position: usize,
    next_index: u64,
    next_seq: ExtSeq,
    picture_id: u16,
    key: bool,
    key_wanted: bool,
    key_sent_at: Option<Instant>,
    octets: u64,
    /// The history for retransmission, where packets are lost on purpose.
    pub history: Option<SentPackets>,
    /// Frames left out because the generator was late.
    pub late_frames: u64,
    /// The packets that are being counted, by index.
    pub window: Range<u64>,
}

impl LoadSource {
    /// `phase` (0 to 1) is where in its first interval it starts, so that streams do not beat together.
    pub fn new(now: Instant, config: SourceConfig, rhythm: Rhythm, stream: u32, phase: f64, seq: Seq) -> LoadSource {
        let started_at = now + rhythm.frame_gap.mul_f64(phase);
        LoadSource {
            rhythm,
            stream,
            publisher: 0,
            transport: 0,
            active: true,
            acknowledged: false,
            started_at,
            timestamp_base: config.ssrc.0.rotate_left(16),
            frame_at: started_at,
            due: started_at,
            position: 0,
            next_index: 0,
            next_seq: ExtSeq::first(seq),
            picture_id: 0,
            key: false,
            key_wanted: true,
            key_sent_at: None,
            octets: 0,
            history: None,
            late_frames: 0,
            window: CLOSED,
            config,
        }
    }

    pub fn due(&self) -> Instant {
        self.due
    }

    pub fn set_active(&mut self, active: bool) {
        self.key_wanted |= active && !self.active;
        self.active = active;
    }

    pub fn request_key_frame(&mut self) {
        self.key_wanted = true;
    }

    pub fn open_window(&mut self) {
        self.window = self.next_index..u64::MAX;
        self.late_frames = 0;
    }

    pub fn close_window(&mut self) {
        self.window.end = self.next_index;
    }

    /// Leaves out frames while it is switched off, and those it is too late for.
    pub fn skip(&mut self, now: Instant) {
        while self.position == 0 && self.due <= now {
            let late = now.since(self.due) > BEHIND_MAX;
            if self.active && !late {
                return;
            }
            self.late_frames += u64::from(self.active);
            self.frame_at = self.frame_at + self.rhythm.frame_gap;
            self.due = self.frame_at;
        }
    }

    /// Writes the packet that is due.
    pub fn write(&mut self, now: Now, sent_at: UnixNanos, transport_seq: &mut u16, out: &mut [u8]) -> WrittenPacket {
        let video = self.config.codec.is_video();
        if self.position == 0 {
            let rested = self.key_sent_at.is_none_or(|at| now.mono.since(at) >= KEY_FRAME_GAP);
            self.key = video && self.key_wanted && rested;
            if self.key {
                self.key_wanted = false;
                self.key_sent_at = Some(now.mono);
            }
            self.picture_id = (self.picture_id + 1) & 0x7fff;
        }
        let first = self.position == 0;
        let last = self.position + 1 == self.rhythm.packets;
        let payload_bytes = if video {
            self.rhythm.payload_bytes
        } else {
            OPUS_BYTES.start + (self.next_index * 7) as usize % OPUS_BYTES.len()
        };
        let marker = video && last;
        let timestamp = self.timestamp_at(self.frame_at);
        let fields = HeaderFields {
            marker,
            has_padding: false,
            payload_type: self.config.payload_type,
            seq: self.next_seq.seq(),
            timestamp,
            ssrc: self.config.ssrc,
        };
        let header_len = self.write_header(now, fields, transport_seq, out);
        let len = header_len + payload_bytes;
        let label = PacketLabel { stream: self.stream, index: self.next_index, sent_at };
        let place =
            FramePlace { key: self.key, first, picture_id: self.picture_id, tl0_pic_idx: self.picture_id as u8 };
        payload::write(self.config.codec, place, label, &mut out[header_len..len]);
        if let Some(history) = &mut self.history {
            history.keep(self.next_seq, timestamp, marker, &out[header_len..len]);
        }
        // RFC 3711 section 3.3.1: the rollover counter starts at 0, an extended number one round further.
        let written = WrittenPacket { header_len, len, srtp_index: self.next_seq.0 - (1 << 16) };
        self.next_seq = self.next_seq.next();
        self.next_index += 1;
        self.octets += payload_bytes as u64;
        if last {
            self.position = 0;
            self.frame_at = self.frame_at + self.rhythm.frame_gap;
            self.due = self.frame_at;
        } else {
            self.position += 1;
            self.due = self.due + self.rhythm.spacing;
        }
        written
    }

    /// Writes a retransmission, on the repair stream.
    pub fn write_repair(
        &mut self,
        now: Now,
        seq: Seq,
        transport_seq: &mut u16,
        out: &mut [u8],
    ) -> Option<WrittenPacket> {
        let (payload_type, ssrc) = self.config.rtx?;
        let mut history = self.history.take();
        let written = history.as_mut().and_then(|history| history.resend(seq)).map(|(sent, repair_seq)| {
            let (marker, timestamp, seq_of_repair) = (sent.marker, sent.timestamp, repair_seq.seq());
            let fields = HeaderFields { marker, has_padding: false, payload_type, seq: seq_of_repair, timestamp, ssrc };
            let header_len = self.write_header(now, fields, transport_seq, out);
            // RFC 4588 section 4: the original sequence number, then the original payload.
            out[header_len..header_len + 2].copy_from_slice(&seq.0.to_be_bytes());
            let len = header_len + 2 + sent.payload.len();
            out[header_len + 2..len].copy_from_slice(&sent.payload);
            WrittenPacket { header_len, len, srtp_index: repair_seq.0 - (1 << 16) }
        });
        self.history = history;
        written
    }

    fn write_header(&self, now: Now, fields: HeaderFields, transport_seq: &mut u16, out: &mut [u8]) -> usize {
        let (header, block) = out.split_at_mut(FIXED_HEADER);
        let mut extensions = ExtensionWriter::new(&mut block[..EXTENSIONS_MAX], false);
        let mut push = |extension, value: &[u8]| {
            if let Some(id) = self.config.extensions.get(extension) {
                extensions.push(id, value);
            }
        };
        if let Some(mid) = self.config.mid.as_ref().filter(|_| !self.acknowledged) {
            push(Extension::Mid, mid.as_bytes());
        }
        push(Extension::AbsSendTime, &abs_send_time(now.wall));
        push(Extension::TransportCc, &transport_seq.to_be_bytes());
        *transport_seq = transport_seq.wrapping_add(1);
        push(Extension::AudioLevel, &AudioLevel { voice: true, level: 30 }.to_bytes());
        let len = extensions.finish();
        if let Some(header) = header.first_chunk_mut() {
            write_fixed_header(header, fields, len > 0);
        }
        FIXED_HEADER + len
    }

    fn timestamp_at(&self, at: Instant) -> u32 {
        let ticks = at.since(self.started_at).as_nanos() * u128::from(self.config.clock_rate) / 1_000_000_000;
        self.timestamp_base.wrapping_add(ticks as u32)
    }

    /// Sender report and name (RFC 3550 sections 6.4.1 and 6.5.1); nothing before the first packet.
    pub fn write_report(&self, now: Now, writer: &mut RtcpWriter<'_>) {
        if self.next_index == 0 || !self.active {
            return;
        }
        let (packets, octets) = (self.next_index as u32, self.octets as u32);
        writer.sender_report(self.config.ssrc, now.wall, self.timestamp_at(now.mono), packets, octets, &[]);
        writer.sdes_cname(self.config.ssrc, &self.config.cname);
    }

    pub fn ssrc(&self) -> Ssrc {
        self.config.ssrc
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{Mid, PayloadType};
    use crate::base::units::Bitrate;
    use crate::client::parameters::extension_ids;
    use crate::wire::codec::Codec;
    use crate::wire::rtp::RtpHeader;

    fn config(codec: Codec) -> SourceConfig {
        SourceConfig {
            codec,
            clock_rate: if codec.is_video() { 90_000 } else { 48_000 },
            payload_type: PayloadType(120),
            ssrc: Ssrc(77),
            rtx: None,
            mid: Mid::new(b"0"),
            cname: "name".into(),
            bitrate: Bitrate::kbps(0),
            frame_rate: 30,
            extensions: extension_ids(codec),
        }
    }

    fn at(millis: u64) -> Now {
        Now { mono: Instant::from_nanos(millis * 1_000_000), ..Now::default() }
    }

    /// Everything due at `now`: header, label, length.
    fn drain(source: &mut LoadSource, now: Now) -> Vec<(RtpHeader, PacketLabel, usize)> {
        let mut packets = Vec::new();
        let (mut buffer, mut transport_seq) = ([0; 2_048], 0);
        source.skip(now.mono);
        while source.due() <= now.mono {
            let written = source.write(now, 5, &mut transport_seq, &mut buffer);
            let header = RtpHeader::parse(&buffer[..written.len]).unwrap();
            assert_eq!((header.len(), header.seq.0), (written.header_len, written.srtp_index as u16));
            let label = payload::read(header.payload(&buffer[..written.len]).unwrap()).unwrap();
            packets.push((header, label, written.len));
            source.skip(now.mono);
        }
        packets
    }

    #[test]
    fn the_default_video_is_thirty_frames_of_nine_packets_of_one_length() {
        let rhythm = Rhythm::video(2_500, 30, Duration::ZERO);
        let mut source = LoadSource::new(at(0).mono, config(Codec::Vp8), rhythm, 3, 0.0, Seq(65_530));
        let mut packets = Vec::new();
        (0..1_000).for_each(|millis| packets.extend(drain(&mut source, at(millis))));
        assert_eq!(packets.len(), 30 * 9);
        assert!(packets.iter().all(|(_, _, len)| *len == packets[0].2 && (1_170..1_200).contains(len)));
        for (index, (header, label, _)) in packets.iter().enumerate() {
            assert_eq!((label.stream, label.index, label.sent_at), (3, index as u64, 5));
            assert_eq!(header.seq, Seq(65_530u16.wrapping_add(index as u16)));
            assert_eq!(header.marker, index % 9 == 8);
        }
        assert_eq!(packets[9].0.timestamp.wrapping_sub(packets[0].0.timestamp), 2_999);
    }

    #[test]
    fn spacing_pulls_a_frame_apart() {
        let rhythm = Rhythm::video(2_500, 30, Duration::from_millis(1));
        let mut source = LoadSource::new(at(0).mono, config(Codec::Vp8), rhythm, 0, 0.5, Seq(1));
        let counts: Vec<_> = (0..33).map(|millis| drain(&mut source, at(millis)).len()).collect();
        assert_eq!(counts.iter().sum::<usize>(), 9);
        assert_eq!(counts.iter().position(|count| *count == 1), Some(17), "half an interval, then one each");
        assert!(counts.iter().all(|count| *count <= 1));
    }

    #[test]
    fn audio_is_small_and_counts_on_while_it_is_switched_off() {
        let mut source = LoadSource::new(at(0).mono, config(Codec::Opus), Rhythm::audio(50), 0, 0.0, Seq(1));
        assert_eq!((0..200).map(|millis| drain(&mut source, at(millis)).len()).sum::<usize>(), 10);
        source.set_active(false);
        source.open_window();
        assert!((200..400).all(|millis| drain(&mut source, at(millis)).is_empty()));
        source.set_active(true);
        let packets: Vec<_> = (400..600).flat_map(|millis| drain(&mut source, at(millis))).collect();
        assert_eq!((packets.len(), packets[0].1.index, source.late_frames), (10, 10, 0));
        source.close_window();
        assert_eq!(source.window, 10..20);
        assert!(packets.iter().all(|(_, _, len)| (130..200).contains(len)));
        assert!(drain(&mut source, at(900)).len() <= 11 && source.late_frames > 0, "no catching up");
    }
}
