//! One shard under full load without links and clients: publishers' frames in, as sealed datagrams; the runs for their
//! receivers out, counted. For measuring one thing alone: the cost of forwarding, and its allocations. With the
//! receivers on a second shard, it is the cost of either side of the mesh.

use crate::base::buffer::{Batch, LocalIndex, Path, Run, Transmit};
use crate::base::id::{ShardId, Ssrc};
use crate::base::limits::PACKET_BYTES_MAX;
use crate::base::seq::Seq;
use crate::base::time::{Duration, Instant};
use crate::secure::srtp::{OVERHEAD_MAX, Sealer, SrtpProfile};
use crate::shard::Shard;
use crate::shard::command::{Command, Event, MediaKind, Reply, RequestId};
use crate::sim::across::{AcrossSettings, other_end};
use crate::sim::link::LinkSettings;
use crate::sim::payload::{Encryption, Frame, packetize};
use crate::sim::script::Media;
use crate::sim::visitor::{Publication, Visitor, VisitorTransport, metric};
use crate::sim::world::{World, WorldSettings, at};
use crate::wire::codec::Codec;
use crate::wire::extension::Extension;
use crate::wire::rtp::{ExtensionWriter, FIXED_HEADER, HeaderFields, write_fixed_header};

/// A frame of 2.5 Mbit/s at 30 frames a second has 9 packets.
pub const FRAME_PACKETS: usize = 9;
const CONTENT: usize = FRAME_PACKETS * 1_100;
/// The payload of Opus at 40 kbit/s.
const AUDIO_CONTENT: usize = 92;
/// 50 audio packets come with 30 frames.
const AUDIO_PER_FRAMES: (u64, u64) = (5, 3);
/// The rig's own streams, up to four for each publisher, replace those of the set-up.
const FIRST_SSRC: u32 = 4_000_000_000;

/// The new stream is found by its mid and starts with a keyframe; after so many frames everything has its size.
const WARM_UP: usize = 300;

/// The participants.
#[derive(Clone, Copy)]
pub struct Cast {
    pub channels: usize,
    /// In each channel. They receive each other's media if `meeting`.
    pub publishers: usize,
    pub meeting: bool,
    /// In each channel, beside the publishers.
    pub watchers: usize,
    /// Beside the video.
    pub audio: bool,
    /// Encodings of the video, up to three, each with a quarter of the next one's packets; receivers get the largest.
    pub encodings: usize,
    pub profile: SrtpProfile,
}

const RIDS: [&str; 3] = ["l", "m", "h"];

impl Cast {
    pub const fn one_to(watchers: usize) -> Cast {
        let profile = SrtpProfile::AeadAes128Gcm;
        Cast { channels: 1, publishers: 1, meeting: false, watchers, audio: false, encodings: 1, profile }
    }

    fn medias(&self) -> Vec<Media> {
        let rids = if self.encodings > 1 { &RIDS[..self.encodings] } else { &[] };
        let mut medias = vec![Media { rids, ..Media::video(Codec::Vp8) }];
        medias.extend(self.audio.then(Media::audio));
        medias
    }

    /// The number of receivers of one publisher.
    pub fn receivers(&self) -> usize {
        self.watchers + if self.meeting { self.publishers - 1 } else { 0 }
    }
}

/// Counts the datagrams that would be sent.
#[derive(Default)]
pub struct Counted {
    pub runs: u64,
    pub packets: u64,
    pub bytes: u64,
}

impl Transmit for Counted {
    fn transmit(&mut self, _slab: &[u8], runs: &[Run]) {
        for run in runs {
            self.runs += 1;
            self.packets += run.packets() as u64;
            self.bytes += u64::from(run.len);
        }
    }
}

struct Publisher {
    path: Path,
    sealer: Sealer,
    /// The smallest encoding first.
    video: Vec<Stream>,
    audio: Stream,
    transport_seq: u16,
}

struct Stream {
    media: Media,
    /// Of the media's encodings.
    encoding: usize,
    content: usize,
    ssrc: u32,
    index: u64,
    frames: u32,
}

impl Stream {
    fn new(media: Media, encoding: usize, ssrc: u32) -> Stream {
        let quarters = (media.encodings() - 1 - encoding) as u32;
        let content = if media.codec.is_video() { CONTENT / 4usize.pow(quarters) } else { AUDIO_CONTENT };
        Stream { media, encoding, content, ssrc, index: 1_000, frames: 0 }
    }

    /// The payloads of the next frame, or of the next audio packet.
    fn next_frame(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let frame = Frame {
            key: self.frames == 0,
            picture_id: self.frames as u16 & 0x7fff,
            tl0_pic_idx: self.frames as u8,
            len: self.content,
            made_at: now,
            layer: None,
            inside: None,
            encryption: Encryption::None,
        };
        self.frames += 1;
        packetize(self.media.codec, frame)
    }

    /// A packet in the clear, and how long its header is.
    fn packet(&mut self, payload: &[u8], last: bool, transport_seq: u16) -> (Vec<u8>, usize) {
        let mut packet = vec![0; FIXED_HEADER + 64];
        let (header, block) = packet.split_at_mut(FIXED_HEADER);
        let mut extensions = ExtensionWriter::new(block, false);
        let config = self.media.source(self.encoding, self.ssrc);
        let mut push = |extension, value: &[u8]| {
            if let Some(id) = config.extensions.get(extension) {
                extensions.push(id, value);
            }
        };
        push(Extension::Mid, self.media.mid.as_bytes());
        if let Some(rid) = self.media.rid(self.encoding) {
            push(Extension::Rid, rid.as_bytes());
        }
        push(Extension::TransportCc, &transport_seq.to_be_bytes());
        let header_len = FIXED_HEADER + extensions.finish();
        let fields = HeaderFields {
            marker: last && self.media.codec.is_video(),
            has_padding: false,
            payload_type: config.payload_type,
            seq: Seq(self.index as u16),
            timestamp: self.frames.wrapping_mul(config.clock_rate / self.media.frame_rate),
            ssrc: Ssrc(self.ssrc),
        };
        if let Some(header) = header.first_chunk_mut() {
            write_fixed_header(header, fields, true);
        }
        packet.truncate(header_len);
        packet.extend_from_slice(payload);
        (packet, header_len)
    }
}

impl Publisher {
    fn push_frame(&mut self, now: Instant, kind: MediaKind, batch: &mut Batch) {
        let streams = match kind {
            MediaKind::Audio => std::slice::from_mut(&mut self.audio),
            MediaKind::Video => &mut self.video,
        };
        for stream in streams {
            let payloads = stream.next_frame(now);
            for (at, payload) in payloads.iter().enumerate() {
                let last = at + 1 == payloads.len();
                let (mut packet, header_len) = stream.packet(payload, last, self.transport_seq);
                self.transport_seq = self.transport_seq.wrapping_add(1);
                let plain = packet.len();
                packet.resize(plain + OVERHEAD_MAX, 0);
                let sealed = self.sealer.seal_rtp(stream.index, &mut packet, header_len, plain);
                stream.index += 1;
                batch.push(self.path, now, &packet[..sealed.expect("each number is used once")]);
            }
        }
    }
}

pub struct Rig {
    pub shard: Shard,
    pub sent: Counted,
    /// The packets taken in that receivers are to get, by the number of these.
    pub expected: u64,
    cast: Cast,
    now: Instant,
    /// Between two frames.
    step: Duration,
    publishers: Vec<Publisher>,
    frames: u64,
    batch: Batch,
}

impl Rig {
    /// One publisher of video. `step` is the duration of a frame on the rig's clock: consent, which ends after 30 s, is
    /// not renewed.
    pub fn new(receivers: usize, step: Duration) -> Rig {
        Rig::of(Cast::one_to(receivers), step)
    }

    pub fn of(cast: Cast, step: Duration) -> Rig {
        let (mut rig, _) = Rig::set_up(cast, step, 1);
        // The new streams are found by their mids and start with a keyframe; then everything has its size.
        for _ in 0..WARM_UP * rig.publishers.len() {
            rig.next_frame();
            rig.deliver();
            rig.tick();
        }
        (rig.sent, rig.expected) = (Counted::default(), 0);
        rig
    }

    /// With two shards, the second has all receivers.
    fn set_up(cast: Cast, step: Duration, shards: u16) -> (Rig, Option<Shard>) {
        Rig::set_up_in(cast, step, WorldSettings { profile: cast.profile, shards, ..WorldSettings::seeded(1) })
    }

    fn set_up_in(cast: Cast, step: Duration, settings: WorldSettings) -> (Rig, Option<Shard>) {
        let mut world = World::new(settings);
        let mut sends = Vec::new();
        for channel in 0..cast.channels {
            sends.extend(set_up_channel(&mut world, &cast, &format!("room {channel}")));
        }
        // Long enough for reports, after which MID is not sent any more, and for keyframe requests to be over.
        world.run(Duration::from_secs(3));
        for publication in sends.iter().flat_map(|(_, publications)| publications) {
            world.source(publication).set_paused(true);
        }
        world.run(Duration::from_millis(100));
        let publishers: Vec<_> = sends
            .iter()
            .zip(0..)
            .map(|((transport, _), number)| publisher(&mut world, &cast, transport, number))
            .collect();
        let now = world.now();
        let mut shards = world.into_shards();
        let rig = Rig {
            now,
            shard: shards.next().expect("a world has a shard"),
            sent: Counted::default(),
            expected: 0,
            cast,
            step,
            publishers,
            frames: 0,
            batch: Batch::new(2 * FRAME_PACKETS + 8),
        };
        (rig, shards.next())
    }

    /// Seals the next publisher's next frame into the batch, and what audio it has by then.
    pub fn next_frame(&mut self) {
        self.now = self.now + self.step;
        self.batch.clear();
        let count = self.publishers.len() as u64;
        let (round, publisher) = (self.frames / count, &mut self.publishers[(self.frames % count) as usize]);
        self.frames += 1;
        publisher.push_frame(self.now, MediaKind::Video, &mut self.batch);
        // Nobody gets the smaller encodings.
        let spare = self.batch.len().saturating_sub(FRAME_PACKETS);
        let (packets, frames) = AUDIO_PER_FRAMES;
        let owed = |round| if self.cast.audio { round * packets / frames } else { 0 };
        for _ in owed(round)..owed(round + 1) {
            publisher.push_frame(self.now, MediaKind::Audio, &mut self.batch);
        }
        self.expected += ((self.batch.len() - spare) * self.cast.receivers()) as u64;
    }

    /// The measured part: a batch through the shard and out.
    pub fn deliver(&mut self) {
        let now = at(self.now);
        self.shard.handle_batch(now, &mut self.batch);
        self.shard.flush(now, &mut self.sent);
    }

    /// The other due work: reports and feedback.
    pub fn tick(&mut self) {
        let now = at(self.now);
        while self.shard.poll_timeout().is_some_and(|due| due <= now.mono) {
            self.shard.handle_timeout(now);
            self.shard.flush(now, &mut self.sent);
        }
        while self.shard.poll_event().is_some() {}
        while self.shard.poll_path().is_some() {}
        self.shard.poll_mesh(&mut |_, _| true);
    }
}

/// Joins everybody, publishes, and consumes everything; returns the publishers' transports and their streams.
fn set_up_channel(world: &mut World, cast: &Cast, channel: &str) -> Vec<(VisitorTransport, Vec<Publication>)> {
    let clean = LinkSettings::clean(Duration::from_millis(1));
    let medias = cast.medias();
    let mut sends = Vec::new();
    for number in 0..cast.publishers {
        let visitor = world.join(&format!("publisher {number} of {channel}"), channel);
        let transport = world.transport(visitor, "send", clean);
        world.tap(transport.end);
        world.connect(&transport);
        let publications: Vec<_> = medias.iter().map(|media| world.publish(&transport, media)).collect();
        sends.push((transport, publications));
    }
    // Where there is another shard, the receivers go there.
    world.measured_load(0, 1_000);
    let watchers = (0..cast.watchers).map(|number| world.join(&format!("watcher {number} of {channel}"), channel));
    let mut takers: Vec<Visitor> = watchers.collect();
    if cast.meeting {
        takers.extend(sends.iter().map(|(transport, _)| transport.visitor));
    }
    for taker in takers {
        let transport = world.transport(taker, "recv", clean);
        world.connect(&transport);
        let others = sends.iter().filter(|(send, _)| send.visitor != taker);
        for publication in others.flat_map(|(_, publications)| publications) {
            world.subscribe(&transport, Some(&publication.id));
        }
    }
    sends
}

fn publisher(world: &mut World, cast: &Cast, transport: &VisitorTransport, number: u32) -> Publisher {
    let keying = world.end(transport.end).keying().expect("it is connected");
    let ssrc = FIRST_SSRC + 4 * number;
    let video = cast.medias().swap_remove(0);
    Publisher {
        path: Path::udp(LocalIndex(0), world.address(transport.end)),
        sealer: Sealer::new(keying.profile, &keying.local),
        video: (0..video.encodings()).zip(ssrc..).map(|(at, ssrc)| Stream::new(video.clone(), at, ssrc)).collect(),
        audio: Stream::new(Media::audio(), 0, ssrc + 3),
        transport_seq: 0,
    }
}

const HOME: ShardId = ShardId(0);
const AWAY: ShardId = ShardId(1);

/// The publisher on one shard, all receivers on another.
pub struct RelayRig {
    pub home: Rig,
    away: Shard,
    pub delivered: Counted,
    /// Stands for the ring: records, and where each ends.
    ring: (Vec<u8>, Vec<usize>),
}

impl RelayRig {
    pub fn new(receivers: usize, step: Duration) -> RelayRig {
        let (home, away) = Rig::set_up(Cast::one_to(receivers), step, 2);
        let away = away.expect("two shards were asked for");
        let mut rig = RelayRig { home, away, delivered: Counted::default(), ring: Default::default() };
        for _ in 0..WARM_UP {
            rig.home.next_frame();
            rig.cross();
            rig.tick();
        }
        rig.delivered = Counted::default();
        rig
    }

    /// A frame all the way.
    pub fn cross(&mut self) {
        let (mut bytes, mut ends) = std::mem::take(&mut self.ring);
        self.leave(|record| {
            bytes.extend_from_slice(record);
            ends.push(bytes.len());
            true
        });
        let mut start = 0;
        for end in ends.drain(..) {
            self.arrive(&bytes[start..end]);
            start = end;
        }
        bytes.clear();
        self.ring = (bytes, ends);
        self.deliver();
    }

    /// The home's part: a batch in, records for the other shard into `ring`.
    pub fn leave(&mut self, mut ring: impl FnMut(&[u8]) -> bool) {
        let now = at(self.home.now);
        self.home.shard.handle_batch(now, &mut self.home.batch);
        self.home.shard.poll_mesh(&mut |_, record| ring(record));
        self.home.shard.flush(now, &mut self.home.sent);
    }

    /// The other shard's part: a record that came out of the ring.
    pub fn arrive(&mut self, record: &[u8]) {
        self.away.handle_mesh(at(self.home.now), HOME, Duration::ZERO, record);
    }

    /// The runs to the receivers, after the batch's last record.
    pub fn deliver(&mut self) {
        self.away.flush(at(self.home.now), &mut self.delivered);
    }

    /// The other due work, on both.
    pub fn tick(&mut self) {
        let now = at(self.home.now);
        let RelayRig { home, away, .. } = self;
        while away.poll_timeout().is_some_and(|due| due <= now.mono) {
            away.handle_timeout(now);
            away.flush(now, &mut self.delivered);
        }
        while away.poll_event().is_some() {}
        while away.poll_path().is_some() {}
        away.poll_mesh(&mut |_, record| {
            home.shard.handle_mesh(now, AWAY, Duration::ZERO, record);
            true
        });
        home.shard.poll_mesh(&mut |_, record| {
            away.handle_mesh(now, HOME, Duration::ZERO, record);
            true
        });
        home.tick();
    }
}

/// Datagrams of a lane between the publisher's node and that of all receivers.
#[derive(Default)]
pub struct LaneDatagrams(pub Vec<(Path, Vec<u8>)>);

impl Transmit for LaneDatagrams {
    fn transmit(&mut self, buffer: &[u8], runs: &[Run]) {
        for run in runs.iter().filter(|run| run.path.leg.local() != LocalIndex(0)) {
            self.0.extend(run.datagrams(buffer).map(|datagram| (run.path, datagram.to_vec())));
        }
    }
}

/// The publisher on one node, all receivers on another.
pub struct LaneRig {
    pub home: Rig,
    away: Shard,
    batch: Batch,
}

impl LaneRig {
    pub fn new(receivers: usize, step: Duration) -> LaneRig {
        let cast = Cast::one_to(receivers);
        let link = LinkSettings::clean(Duration::from_millis(1));
        let across = Some(AcrossSettings { link, datagram_max: PACKET_BYTES_MAX });
        let settings = WorldSettings { profile: cast.profile, shards: 2, across, ..WorldSettings::seeded(1) };
        let (home, away) = Rig::set_up_in(cast, step, settings);
        let away = away.expect("two shards were asked for");
        let mut rig = LaneRig { home, away, batch: Batch::new(4 * FRAME_PACKETS) };
        for _ in 0..WARM_UP {
            rig.home.next_frame();
            let mut lane = LaneDatagrams::default();
            rig.leave(&mut lane);
            rig.load(&lane);
            rig.arrive();
            rig.tick();
        }
        rig
    }

    /// The sending node's part: a batch in, the lane's datagrams out.
    pub fn leave<T: Transmit>(&mut self, out: &mut T) {
        let now = at(self.home.now);
        self.home.shard.handle_batch(now, &mut self.home.batch);
        self.home.shard.flush(now, out);
    }

    /// Puts datagrams of the lane into the other node's batch.
    pub fn load(&mut self, lane: &LaneDatagrams) {
        self.batch.clear();
        for (path, datagram) in &lane.0 {
            let (to, from) = other_end(*path);
            self.batch.push(Path::udp(to, from), self.home.now, datagram);
        }
    }

    /// The landing node's part: the batch, opened and published.
    pub fn arrive(&mut self) {
        self.away.handle_batch(at(self.home.now), &mut self.batch);
    }

    /// The other due work, on both.
    pub fn tick(&mut self) {
        let now = at(self.home.now);
        let (mut sent, mut answers) = (LaneDatagrams::default(), Batch::new(64));
        self.away.handle_timeout(now);
        self.away.flush(now, &mut sent);
        for (path, datagram) in &sent.0 {
            let (to, from) = other_end(*path);
            answers.push(Path::udp(to, from), now.mono, datagram);
        }
        self.home.shard.handle_batch(now, &mut answers);
        while self.away.poll_event().is_some() {}
        while self.away.poll_path().is_some() {}
        self.home.tick();
    }

    /// The records that the other node's stand-in took so far, and those that the home has sent.
    pub fn records(&mut self) -> (i64, i64) {
        let request = RequestId(u64::MAX);
        let counted = |shard: &mut Shard, name: &str| {
            shard.handle_command(at(self.home.now), Command::GetMetrics { request });
            let mut found = None;
            while let Some(event) = shard.poll_event() {
                if let Event::Answer { reply: Reply::Metrics(metrics), .. } = event {
                    found = Some(metric(&metrics, name));
                }
            }
            found.expect("it was asked for")
        };
        (counted(&mut self.away, "lane_received_records"), counted(&mut self.home.shard, "lane_sent_records"))
    }
}
