//! Shards driven by hand: commands, clients whose every packet a test writes itself, records between shards that a test
//! may withhold. For behaviour that the simulation's well-behaved browsers never show.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rand::SeedableRng;
use rand::rngs::SmallRng;
use sha2::{Digest, Sha256};
use weirgate::base::buffer::{Batch, Leg, LocalIndex, Path};
use weirgate::base::id::{
    ConsumerId, Layers, Mid, PayloadType, PeerId, ProducerId, ShardId, ShardLabel, Ssrc, TransportId,
};
use weirgate::base::ranking::Ranking;
use weirgate::base::seq::Seq;
use weirgate::base::time::{Duration, Instant, Now, NtpTime};
use weirgate::secure::dtls::SecureEngine;
use weirgate::secure::srtp::SrtpProfile;
use weirgate::shard::command::{
    Announcement, Command, ConsumerSpec, EncodingSpec, Event, FeedbackSpec, Fingerprint, HashAlgorithm, IceCredentials,
    MediaKind, Metrics, ProducerSpec, RemoteDtlsRole, Reply, RequestId,
};
use weirgate::shard::{PathChange, Shard, ShardSettings};
use weirgate::sim::endpoint::{DtlsRole, Endpoint, ReceivedDatagram};
use weirgate::sim::engine::SimEngine;
use weirgate::sim::ice_client::RemoteIce;
use weirgate::sim::world::SentDatagrams;
use weirgate::wire::codec::Codec;
use weirgate::wire::extension::{Extension, ExtensionIds, ExtensionSet};
use weirgate::wire::rtp::{ExtensionWriter, HeaderFields, write_fixed_header};
use weirgate::wire::{Kind, classify};

pub const PROFILE: SrtpProfile = SrtpProfile::AeadAes128Gcm;
pub const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), 40_000);
pub const VIDEO: PayloadType = PayloadType(96);
pub const RTX: PayloadType = PayloadType(97);
pub const AUDIO: PayloadType = PayloadType(111);
/// The id of a publisher's dependency descriptor.
pub const DESCRIPTOR_ID: u8 = 12;
const STEP: Duration = Duration::from_millis(5);

/// One client's end of one transport, and all it was sent.
pub struct Client {
    pub peer: Endpoint,
    engine: SimEngine,
    pub address: SocketAddr,
    /// By which its datagrams reach the shard, and the only one by which it is reached.
    pub leg: Leg,
    shard: usize,
    pub rtp: Vec<Vec<u8>>,
    /// With the time of arrival.
    pub rtcp: Vec<(Instant, Vec<u8>)>,
    /// Receives and sends nothing.
    pub mute: bool,
    /// RTP and RTCP that did not open, though the keys are there: above all what was sealed twice under one number.
    pub unopened: usize,
    /// Datagrams that were sent to it, also while it was mute.
    pub reached: usize,
}

pub struct Rig {
    pub shards: Vec<Shard>,
    pub clients: Vec<Client>,
    pub now: Now,
    pub events: Vec<Event>,
    pub paths: Vec<PathChange>,
    /// False: the rings between the shards are full.
    pub mesh_has_room: bool,
    /// Loses every relay record of this kind (its first byte).
    pub mesh_loses: Option<u8>,
    /// Media packets that crossed.
    pub relayed: usize,
    /// The spacing of the datagrams of one batch: the shard was kept from its core.
    pub waited: Duration,
    /// The time that the last of them had lain in the socket.
    pub late: Duration,
    /// How many panics were caught, as `net` does; None: they go through.
    pub panics: Option<usize>,
    batch: Batch,
    pub mesh: Box<dyn Mesh>,
}

/// The carrier of records between shards.
pub trait Mesh {
    fn push(&mut self, from: usize, to: ShardId, now: Instant, record: &[u8]);
    /// All that has come for this shard: from whom, and when it left.
    fn pop(&mut self, at: usize, take: &mut dyn FnMut(ShardId, Instant, &[u8]));
}

/// A record: from whom, to whom, when it left, and its bytes.
#[derive(Default)]
struct Queue(Vec<(ShardId, usize, Instant, Vec<u8>)>);

impl Mesh for Queue {
    fn push(&mut self, from: usize, to: ShardId, now: Instant, record: &[u8]) {
        self.0.push((ShardId(from as u16), usize::from(to.0), now, record.to_vec()));
    }

    fn pop(&mut self, at: usize, take: &mut dyn FnMut(ShardId, Instant, &[u8])) {
        for (from, _, left, record) in self.0.extract_if(.., |(_, to, ..)| *to == at) {
            take(from, left, &record);
        }
    }
}

pub fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub fn at(mono: Instant) -> Now {
    Now { mono, wall: NtpTime::from_unix(Duration::from_secs(1_700_000_000) + Duration::from_nanos(mono.as_nanos())) }
}

pub fn ice(shard: usize, transport: u64) -> IceCredentials {
    let label = char::from(b'a' + shard as u8);
    IceCredentials { ufrag: format!("{label}{label}{transport:08}"), pwd: format!("{transport:024}") }
}

fn certificate(transport: u64) -> Vec<u8> {
    format!("certificate of the client of transport {transport}").into_bytes()
}

pub fn announcement(transport: u64, certain: bool) -> Announcement {
    let value = Sha256::digest(certificate(transport)).to_vec();
    let fingerprints = vec![Fingerprint { algorithm: HashAlgorithm::Sha256, value }];
    Announcement { fingerprints, role: RemoteDtlsRole::ClientOrAuto, certain }
}

impl Rig {
    pub fn new(shards: usize) -> Rig {
        Rig::with_engines(shards, |shard| Box::new(SimEngine::new(PROFILE, b"server's".to_vec(), shard as u64)))
    }

    pub fn with_engines(shards: usize, engine: impl Fn(usize) -> Box<dyn SecureEngine>) -> Rig {
        let now = at(Instant::ZERO + Duration::from_secs(1));
        let label = |shard: usize| ShardLabel([b'a' + shard as u8; 2]);
        let labels: Vec<_> = (0..shards).map(|shard| (ShardId(shard as u16), label(shard))).collect();
        let shard = |at: usize| {
            let id = ShardId(at as u16);
            let settings = ShardSettings { id, labels: labels.clone(), seed: [7; 32], lane: None, handover: false };
            Shard::new(settings, engine(at))
        };
        Rig {
            mesh: Box::new(Queue::default()),
            shards: (0..shards).map(shard).collect(),
            clients: Vec::new(),
            now,
            events: Vec::new(),
            paths: Vec::new(),
            mesh_has_room: true,
            mesh_loses: None,
            relayed: 0,
            waited: Duration::ZERO,
            late: Duration::ZERO,
            panics: None,
            batch: Batch::new(256),
        }
    }

    pub fn command(&mut self, shard: usize, command: Command) {
        self.shards[shard].handle_command(self.now, command);
    }

    /// A transport with its client's end, whose number is the answer; nothing is announced yet.
    pub fn client(&mut self, shard: usize, transport: u64, peer: u64) -> usize {
        let local = ice(shard, transport);
        let remote = RemoteIce { ufrag: local.ufrag.clone(), pwd: local.pwd.clone(), candidates: vec![SERVER] };
        self.command(
            shard,
            Command::CreateTransport { transport: TransportId(transport), peer: PeerId(peer), ice: local },
        );
        let rng = SmallRng::seed_from_u64(transport);
        self.clients.push(Client {
            peer: Endpoint::new(self.now.mono, &remote, DtlsRole::Client, rng),
            engine: SimEngine::new(PROFILE, certificate(transport), transport),
            address: SocketAddr::from(([198, 51, 100, 1], 10_000 + transport as u16)),
            leg: Leg::Udp(LocalIndex(0)),
            shard,
            rtp: Vec::new(),
            rtcp: Vec::new(),
            mute: false,
            unopened: 0,
            reached: 0,
        });
        self.clients.len() - 1
    }

    pub fn connected(&mut self, shard: usize, transport: u64, peer: u64) -> usize {
        let client = self.client(shard, transport, peer);
        let announcement = announcement(transport, true);
        self.command(shard, Command::Announce { transport: TransportId(transport), announcement });
        self.run(millis(20));
        assert!(self.clients[client].peer.is_connected());
        client
    }

    /// Lets time pass, in steps; everything that is sent arrives at once.
    pub fn run(&mut self, span: Duration) {
        self.run_by(span, STEP);
    }

    pub fn run_by(&mut self, span: Duration, step: Duration) {
        let end = self.now.mono + span;
        self.exchange();
        while self.now.mono < end {
            self.now = at((self.now.mono + step).min(end));
            self.exchange();
        }
    }

    fn exchange(&mut self) {
        let mut rounds = 0;
        while self.round() {
            rounds += 1;
            assert!(rounds < 1_000, "somebody never comes to rest");
        }
    }

    /// True: something was passed on.
    fn round(&mut self) -> bool {
        let mut moved = false;
        for at in 0..self.shards.len() {
            self.batch.clear();
            for client in self.clients.iter_mut().filter(|client| client.shard == at && !client.mute) {
                client.peer.handle_timeout(self.now.mono, &mut client.engine);
                let path = Path { leg: client.leg, remote: client.address };
                while self.batch.room() > 0
                    && let Some(datagram) = client.peer.poll_transmit()
                {
                    self.batch.push(path, self.now.mono, &datagram.bytes);
                }
            }
            moved |= !self.batch.is_empty();
            for (younger, slot) in (0u32..).zip(self.batch.slots_mut().iter_mut().rev()) {
                slot.arrived = self.now.mono - self.late - self.waited * younger;
            }
            let shard = &mut self.shards[at];
            let media = match &mut self.panics {
                None => shard.handle_batch(self.now, &mut self.batch),
                Some(panics) => caught(shard, self.now, &mut self.batch, panics),
            };
            if media > 0 || shard.poll_timeout().is_some_and(|due| due <= self.now.mono) {
                shard.handle_timeout(self.now);
            }
            let mut sent = SentDatagrams::default();
            shard.flush(self.now, &mut sent);
            self.events.extend(std::iter::from_fn(|| shard.poll_event()));
            self.paths.extend(std::iter::from_fn(|| shard.poll_path()));
            let (room, loses, mesh) = (self.mesh_has_room, self.mesh_loses, &mut self.mesh);
            let mut records = 0;
            shard.poll_mesh(&mut |to, record| {
                if room && loses != record.first().copied() {
                    mesh.push(at, to, self.now.mono, record);
                    records += 1;
                }
                room
            });
            moved |= !sent.0.is_empty() || records > 0;
            for (path, mut datagram) in sent.0 {
                self.deliver(path, &mut datagram);
            }
            let Rig { shards, mesh, now, relayed, .. } = self;
            for (at, shard) in shards.iter_mut().enumerate() {
                mesh.pop(at, &mut |from, left, record| {
                    *relayed += usize::from(record.first() == Some(&6));
                    shard.handle_mesh(*now, from, now.mono.since(left), record);
                });
            }
        }
        moved
    }

    /// Sends the client's own traffic that is due.
    pub fn checks_due(&mut self, client: usize) -> Vec<Vec<u8>> {
        let Client { peer, engine, .. } = &mut self.clients[client];
        peer.handle_timeout(self.now.mono, engine);
        std::iter::from_fn(|| peer.poll_transmit()).map(|datagram| datagram.bytes).collect()
    }

    pub fn deliver(&mut self, path: Path, datagram: &mut [u8]) {
        let now = self.now.mono;
        for client in self.clients.iter_mut().filter(|client| (client.leg, client.address) == (path.leg, path.remote)) {
            client.reached += 1;
            if client.mute {
                continue;
            }
            let media = client.peer.is_connected() && matches!(classify(datagram), Kind::Rtp | Kind::Rtcp);
            match client.peer.handle_datagram(now, &mut client.engine, SERVER, datagram) {
                ReceivedDatagram::Rtp(_, packet) => client.rtp.push(packet.to_vec()),
                ReceivedDatagram::Rtcp(compound) => client.rtcp.push((now, compound.to_vec())),
                ReceivedDatagram::Taken => {}
                ReceivedDatagram::Refused(_) => client.unopened += usize::from(media),
            }
        }
    }

    /// A producer of VP8 with RTX: `ssrc` and the one after it.
    pub fn produce(&mut self, shard: usize, producer: u64, peer: u64, ssrc: u32) {
        self.produce_as(shard, producer, peer, producer_spec(ssrc));
    }

    pub fn produce_as(&mut self, shard: usize, producer: u64, peer: u64, spec: ProducerSpec) {
        let (producer, peer, spec) = (ProducerId(producer), PeerId(peer), Box::new(spec));
        self.command(shard, Command::Produce { producer, peer, transport: None, spec, paused: false });
    }

    pub fn consume(&mut self, shard: usize, consumer: u64, transport: u64, producer: u64, home: usize, ssrc: u32) {
        self.consume_as(shard, consumer, transport, producer, home, consumer_spec(ssrc));
    }

    pub fn consume_as(
        &mut self,
        shard: usize,
        consumer: u64,
        transport: u64,
        producer: u64,
        home: usize,
        spec: ConsumerSpec,
    ) {
        self.command(
            shard,
            Command::Consume {
                consumer: ConsumerId(consumer),
                transport: TransportId(transport),
                producer: ProducerId(producer),
                home: ShardId(home as u16),
                spec: Box::new(spec),
                paused: false,
            },
        );
    }

    pub fn metrics(&mut self, shard: usize) -> Metrics {
        self.command(shard, Command::GetMetrics { request: RequestId(9) });
        let events = std::iter::from_fn(|| self.shards[shard].poll_event()).collect::<Vec<_>>();
        let mut found = None;
        for event in events {
            match event {
                Event::Answer { reply: Reply::Metrics(metrics), .. } => found = Some(*metrics),
                other => self.events.push(other),
            }
        }
        found.expect("metrics are answered at once")
    }

    pub fn counter(&mut self, shard: usize, name: &str) -> u64 {
        let metrics = self.metrics(shard);
        metrics.counters.iter().find(|(known, ..)| *known == name).map(|(_, _, value)| *value).expect("it exists")
    }

    /// A datagram from somewhere arrives by itself.
    pub fn inject(&mut self, shard: usize, from: SocketAddr, bytes: &[u8]) {
        self.inject_by(shard, Path::udp(LocalIndex(0), from), bytes);
    }

    pub fn inject_by(&mut self, shard: usize, path: Path, bytes: &[u8]) {
        self.batch.clear();
        self.batch.push(path, self.now.mono, bytes);
        self.shards[shard].handle_batch(self.now, &mut self.batch);
        self.batch.clear();
    }

    pub fn gauge(&mut self, shard: usize, name: &str) -> i64 {
        let metrics = self.metrics(shard);
        metrics.gauges.iter().find(|(known, ..)| *known == name).map(|(_, _, value)| *value).expect("it exists")
    }
}

/// A batch as `net` has it handled.
fn caught(shard: &mut Shard, now: Now, batch: &mut Batch, panics: &mut usize) -> usize {
    loop {
        match catch_unwind(AssertUnwindSafe(|| shard.handle_batch(now, batch))) {
            Ok(media) => return media,
            Err(_) => {
                *panics += 1;
                shard.fault(now);
            }
        }
    }
}

/// Opus.
pub fn audio_producer_spec(ssrc: u32) -> ProducerSpec {
    ProducerSpec {
        kind: MediaKind::Audio,
        codec: Codec::Opus,
        clock_rate: 48_000,
        payload_type: AUDIO,
        rtx_payload_type: None,
        mid: Mid::new(b"a"),
        encodings: vec![EncodingSpec { ssrc: Some(Ssrc(ssrc)), rtx_ssrc: None, rid: None }],
        feedback: FeedbackSpec { nack: false, pli: false, fir: false, transport_cc: true, remb: false },
        ..producer_spec(ssrc)
    }
}

pub fn audio_consumer_spec(ssrc: u32) -> ConsumerSpec {
    ConsumerSpec {
        codec: Codec::Opus,
        clock_rate: 48_000,
        payload_type: AUDIO,
        rtx: None,
        feedback: FeedbackSpec { nack: false, pli: false, fir: false, transport_cc: true, remb: false },
        ..consumer_spec(ssrc)
    }
}

/// VP8 with RTX: `ssrc` and the one after it.
pub fn producer_spec(ssrc: u32) -> ProducerSpec {
    ProducerSpec {
        kind: MediaKind::Video,
        codec: Codec::Vp8,
        clock_rate: 90_000,
        payload_type: VIDEO,
        rtx_payload_type: Some(RTX),
        mid: Mid::new(b"0"),
        encodings: vec![EncodingSpec { ssrc: Some(Ssrc(ssrc)), rtx_ssrc: Some(Ssrc(ssrc + 1)), rid: None }],
        ranking: Ranking::default(),
        ranked: true,
        top: Layers::default(),
        extensions: extension_ids(),
        feedback: FeedbackSpec { nack: true, pli: true, fir: true, transport_cc: true, remb: false },
    }
}

pub fn consumer_spec(ssrc: u32) -> ConsumerSpec {
    let mut extensions = ExtensionSet::default();
    for extension in [Extension::Mid, Extension::AbsSendTime, Extension::TransportCc] {
        extensions.insert(extension);
    }
    ConsumerSpec {
        codec: Codec::Vp8,
        clock_rate: 90_000,
        encodings: 1,
        top: Layers::default(),
        payload_type: VIDEO,
        ssrc: Ssrc(ssrc),
        rtx: Some((RTX, Ssrc(ssrc + 1))),
        mid: Mid::new(b"17").expect("short"),
        cname: "cname".to_owned(),
        extensions,
        feedback: FeedbackSpec { nack: true, pli: true, fir: true, transport_cc: true, remb: false },
    }
}

fn extension_ids() -> ExtensionIds {
    let mut ids = ExtensionIds::default();
    ids.set(Extension::Mid, 4);
    ids.set(Extension::TransportCc, 3);
    ids.set(Extension::DependencyDescriptor, DESCRIPTOR_ID);
    ids
}

/// A publisher's packets, one a frame.
pub struct Stream {
    pub ssrc: u32,
    pub seq: u16,
    pub timestamp: u32,
    transport_seq: u16,
}

impl Stream {
    pub fn new(ssrc: u32) -> Stream {
        Stream { ssrc, seq: 500, timestamp: 90_000, transport_seq: 0 }
    }

    /// The next frame, whose packet is `len` bytes long.
    pub fn frame(&mut self, key: bool, len: usize) -> Vec<u8> {
        self.seq = self.seq.wrapping_add(1);
        self.timestamp = self.timestamp.wrapping_add(3_000);
        // VP8: start of partition 0, then the frame tag, whose lowest bit is 0 for keyframes, and their start code.
        let payload: &[u8] = if key { &[0x10, 0, 0, 0, 0x9d, 0x01, 0x2a] } else { &[0x10, 1] };
        let mut packet = self.packet(self.ssrc, VIDEO, self.seq, payload);
        packet.resize(len.max(packet.len()), 0xab);
        packet
    }

    pub fn packet(&mut self, ssrc: u32, payload_type: PayloadType, seq: u16, payload: &[u8]) -> Vec<u8> {
        self.transport_seq = self.transport_seq.wrapping_add(1);
        let mut packet = vec![0; 64];
        let (fixed, rest) = packet.split_at_mut(12);
        let fields = HeaderFields {
            marker: true,
            has_padding: false,
            payload_type,
            seq: Seq(seq),
            timestamp: self.timestamp,
            ssrc: Ssrc(ssrc),
        };
        write_fixed_header(fixed.try_into().expect("12 bytes"), fields, true);
        let mut writer = ExtensionWriter::new(rest, false);
        writer.push(4, b"0");
        writer.push(3, &self.transport_seq.to_be_bytes());
        let header = 12 + writer.finish();
        packet.truncate(header);
        packet.extend_from_slice(payload);
        packet
    }
}
