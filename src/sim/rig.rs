//! One shard under full load without links and clients: one publisher's frames in, as sealed datagrams; the runs for its
//! receivers out, counted. For what must be measured alone: the cost of forwarding, and its allocations. With the
//! receivers on a second shard, it is the cost of either side of the mesh.

use crate::base::buffer::{Batch, LocalIndex, Path, Run, Transmit};
use crate::base::id::{ShardId, Ssrc};
use crate::base::seq::Seq;
use crate::base::time::{Duration, Instant};
use crate::secure::srtp::{OVERHEAD_MAX, Sealer};
use crate::shard::Shard;
use crate::sim::link::LinkSettings;
use crate::sim::payload::{Frame, packetize};
use crate::sim::script::Media;
use crate::sim::world::{World, WorldSettings, at};
use crate::wire::codec::Codec;
use crate::wire::extension::Extension;
use crate::wire::rtp::{ExtensionWriter, FIXED_HEADER, HeaderFields, write_fixed_header};

/// A frame of 2.5 Mbit/s at 30 frames a second has 9 packets.
pub const FRAME_PACKETS: usize = 9;
/// The new stream is found by its mid and starts with a keyframe; after so many frames everything has its size.
const WARM_UP: usize = 300;
const CONTENT: usize = FRAME_PACKETS * 1_100;
/// The rig's own stream takes the place of the one that set it up.
const SSRC: Ssrc = Ssrc(4_000_000_000);

/// Counts what would be sent.
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

pub struct Rig {
    pub shard: Shard,
    pub sent: Counted,
    now: Instant,
    /// Between two frames.
    step: Duration,
    path: Path,
    sealer: Sealer,
    index: u64,
    frames: u32,
    transport_seq: u16,
    batch: Batch,
}

impl Rig {
    /// `step` is what a frame takes on the rig's clock: nobody checks consent, which ends after 30 s of it.
    pub fn new(receivers: usize, step: Duration) -> Rig {
        let (mut rig, _) = Rig::set_up(receivers, step, 1);
        for _ in 0..WARM_UP {
            rig.next_frame();
            rig.deliver();
            rig.tick();
        }
        rig.sent = Counted::default();
        rig
    }

    fn set_up(receivers: usize, step: Duration, shards: u16) -> (Rig, Option<Shard>) {
        let clean = LinkSettings::clean(Duration::from_millis(1));
        let mut world = World::new(WorldSettings { shards, ..WorldSettings::seeded(1) });
        let publisher = world.join("publisher", "room");
        let send = world.transport(publisher, "send", clean);
        world.tap(send.end);
        world.connect(&send);
        let video = world.publish(&send, &Media::video(Codec::Vp8));
        // Where there is another, the receivers go there.
        world.measured_load(0, 1_000);
        for n in 0..receivers {
            let watcher = world.join(&format!("watcher {n}"), "room");
            let recv = world.transport(watcher, "recv", clean);
            world.connect(&recv);
            world.subscribe(&recv, Some(&video.id));
        }
        // Long enough for reports, after which MID is not sent any more, and for keyframe requests to be over.
        world.run(Duration::from_secs(3));
        world.source(&video).set_paused(true);
        world.run(Duration::from_millis(100));
        let keying = world.end(send.end).keying().expect("it is connected");
        let path = Path { local: LocalIndex(0), remote: world.address(send.end) };
        let sealer = Sealer::new(keying.profile, &keying.local);
        let now = world.now();
        let mut shards = world.into_shards();
        let rig = Rig {
            sealer,
            now,
            shard: shards.next().expect("a world has a shard"),
            sent: Counted::default(),
            step,
            path,
            index: 1_000,
            frames: 0,
            transport_seq: 0,
            batch: Batch::new(FRAME_PACKETS + 8),
        };
        (rig, shards.next())
    }

    /// Seals the next frame into the batch.
    pub fn next_frame(&mut self) {
        self.now = self.now + self.step;
        let frame = Frame {
            key: self.frames == 0,
            picture_id: self.frames as u16 & 0x7fff,
            tl0_pic_idx: self.frames as u8,
            len: CONTENT,
            made_at: self.now,
        };
        self.frames += 1;
        let payloads = packetize(Codec::Vp8, frame);
        let last = payloads.len() - 1;
        let mut packet = Vec::new();
        self.batch.clear();
        for (at, payload) in payloads.into_iter().enumerate() {
            packet.clear();
            packet.resize(FIXED_HEADER + 64, 0);
            let (header, block) = packet.split_at_mut(FIXED_HEADER);
            let mut extensions = ExtensionWriter::new(block, false);
            let media = Media::video(Codec::Vp8);
            let config = media.source(0, SSRC.0);
            let mut push = |extension, value: &[u8]| {
                if let Some(id) = config.extensions.get(extension) {
                    extensions.push(id, value);
                }
            };
            push(Extension::Mid, media.mid.as_bytes());
            push(Extension::TransportCc, &self.transport_seq.to_be_bytes());
            let len = FIXED_HEADER + extensions.finish();
            self.transport_seq = self.transport_seq.wrapping_add(1);
            let fields = HeaderFields {
                marker: at == last,
                has_padding: false,
                payload_type: config.payload_type,
                seq: Seq(self.index as u16),
                timestamp: self.frames.wrapping_mul(3_000),
                ssrc: SSRC,
            };
            if let Some(header) = header.first_chunk_mut() {
                write_fixed_header(header, fields, true);
            }
            packet.truncate(len);
            packet.extend_from_slice(&payload);
            let plain = packet.len();
            packet.resize(plain + OVERHEAD_MAX, 0);
            let sealed = self.sealer.seal_rtp(self.index, &mut packet, len, plain).expect("each number is used once");
            self.index += 1;
            self.batch.push(self.path, self.now, &packet[..sealed]);
        }
    }

    /// What is measured: a batch through the shard and out.
    pub fn deliver(&mut self) {
        let now = at(self.now);
        self.shard.handle_batch(now, &mut self.batch);
        self.shard.flush(now, &mut self.sent);
    }

    /// What is due besides: reports and feedback.
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
        let (home, away) = Rig::set_up(receivers, step, 2);
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
        self.away.handle_mesh(at(self.home.now), HOME, record);
    }

    /// And the runs to the receivers, after the batch's last record.
    pub fn deliver(&mut self) {
        self.away.flush(at(self.home.now), &mut self.delivered);
    }

    /// What is due besides, on both.
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
            home.shard.handle_mesh(now, AWAY, record);
            true
        });
        home.shard.poll_mesh(&mut |_, record| {
            away.handle_mesh(now, HOME, record);
            true
        });
        home.tick();
    }
}
