//! Objects for the unit tests of this room, made by the mechanisms that make them for a shard, without a `Shard`.

use std::net::SocketAddr;

use rand::SeedableRng;
use rand::rngs::{SmallRng, StdRng};

use crate::base::buffer::{LocalIndex, Path, Run, Transmit};
use crate::base::id::{
    ConsumerId, Layers, Mid, PayloadType, PeerId, ProducerId, ShardId, ShardLabel, Ssrc, TransportId,
};
use crate::base::ranking::Ranking;
use crate::base::seq::{ExtSeq, Seq};
use crate::base::slab::Key;
use crate::base::time::{Duration, Instant, Now, NtpTime};
use crate::router::keys::{ConsumerKey, ProducerKey, SourceKey};
use crate::router::packet::Packet;
use crate::secure::dtls::{SecureEngine, SessionTag, Side};
use crate::secure::srtp::{MasterKey, Opener, SrtpContext, SrtpProfile};
use crate::shard::command::{ConsumerSpec, EncodingSpec, Event, FeedbackSpec, IceCredentials, MediaKind, ProducerSpec};
use crate::shard::commons::Commons;
use crate::shard::creating::{self, Of};
use crate::shard::demux::Demux;
use crate::shard::incoming::Intake;
use crate::shard::port::Port;
use crate::shard::relay::Record;
use crate::shard::shard::{Shard, ShardSettings};
use crate::sim::engine::SimEngine;
use crate::sim::ice_client::{IceClient, RemoteIce};
use crate::transport::Transport;
use crate::transport::link::{Link, Up};
use crate::wire::codec::{Codec, PayloadInfo};
use crate::wire::extension::{Extension, ExtensionIds, ExtensionSet};
use crate::wire::rtcp;
use crate::wire::rtp::{ExtensionWriter, HeaderFields, write_fixed_header};
use crate::wire::{Kind, classify};

pub(super) const HERE: ShardId = ShardId(0);
pub(super) const THERE: ShardId = ShardId(1);
const PROFILE: SrtpProfile = SrtpProfile::AeadAes128Gcm;
const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), 40_000);

#[derive(Default)]
struct Sent(Vec<Vec<u8>>);

impl Transmit for Sent {
    fn transmit(&mut self, buffer: &[u8], runs: &[Run]) {
        self.0.extend(runs.iter().flat_map(|run| run.datagrams(buffer)).map(<[u8]>::to_vec));
    }
}

pub(super) struct Fixture {
    pub commons: Commons,
    pub demux: Demux,
    pub intake: Intake,
    pub rng: StdRng,
    pub now: Now,
}

pub(super) fn path(port: u16) -> Path {
    Path::udp(LocalIndex(0), ([198, 51, 100, 1], port).into())
}

pub(super) fn engine() -> SimEngine {
    SimEngine::new(PROFILE, b"server's".to_vec(), 1)
}

/// A whole shard, for the files that order the work.
pub(super) fn shard() -> Shard {
    let labels = vec![(HERE, ShardLabel(*b"aa")), (THERE, ShardLabel(*b"bb"))];
    Shard::new(ShardSettings { id: HERE, labels, seed: [7; 32], lane: None, handover: true }, Box::new(engine()))
}

/// What a port has for other shards, in words.
pub(super) fn records(port: &mut Port) -> Vec<String> {
    let mut said = Vec::new();
    port.poll(&mut |to, record| {
        said.push(format!("{} {:?}", to.0, Record::decode(record).unwrap()));
        true
    });
    said
}

/// The keys of both directions.
pub(super) fn keys() -> MasterKey {
    MasterKey::new(PROFILE, &[7; 16], &[9; 12]).unwrap()
}

pub(super) fn video(ssrc: u32) -> ProducerSpec {
    let mut extensions = ExtensionIds::default();
    extensions.set(Extension::Mid, 4);
    extensions.set(Extension::TransportCc, 3);
    ProducerSpec {
        kind: MediaKind::Video,
        codec: Codec::Vp8,
        clock_rate: 90_000,
        payload_type: PayloadType(96),
        rtx_payload_type: Some(PayloadType(97)),
        mid: Mid::new(b"0"),
        encodings: vec![EncodingSpec { ssrc: Some(Ssrc(ssrc)), rtx_ssrc: Some(Ssrc(ssrc + 1)), rid: None }],
        ranking: Ranking::default(),
        ranked: true,
        top: Layers::default(),
        extensions,
        feedback: FeedbackSpec { nack: true, pli: true, fir: true, transport_cc: true, remb: false },
    }
}

pub(super) fn of_video(ssrc: u32) -> ConsumerSpec {
    let mut extensions = ExtensionSet::default();
    extensions.insert(Extension::TransportCc);
    ConsumerSpec {
        codec: Codec::Vp8,
        clock_rate: 90_000,
        encodings: 1,
        top: Layers::default(),
        payload_type: PayloadType(96),
        ssrc: Ssrc(ssrc),
        rtx: Some((PayloadType(97), Ssrc(ssrc + 1))),
        mid: Mid::new(b"17").unwrap(),
        cname: "cname".to_owned(),
        extensions,
        feedback: FeedbackSpec { nack: true, pli: true, fir: true, transport_cc: true, remb: false },
    }
}

/// A decrypted packet of RTP, under this mid.
pub(super) fn rtp(ssrc: u32, payload_type: u8, seq: u16, mid: Option<&[u8]>, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 64];
    let (fixed, rest) = packet.split_at_mut(12);
    let (ssrc, seq, payload_type) = (Ssrc(ssrc), Seq(seq), PayloadType(payload_type));
    let fields = HeaderFields { marker: true, has_padding: false, payload_type, seq, timestamp: 90_000, ssrc };
    write_fixed_header(fixed.try_into().unwrap(), fields, mid.is_some());
    let extension = mid.map_or(0, |mid| {
        let mut writer = ExtensionWriter::new(rest, false);
        writer.push(4, mid);
        writer.finish()
    });
    packet.truncate(12 + extension);
    packet.extend_from_slice(payload);
    packet
}

impl Fixture {
    pub(super) fn new() -> Fixture {
        let labels = vec![(HERE, ShardLabel(*b"aa")), (THERE, ShardLabel(*b"bb"))];
        let mono = Instant::from_nanos(1_000_000_000);
        Fixture {
            commons: Commons::default(),
            demux: Demux::new(HERE, labels, false),
            intake: Intake::default(),
            rng: StdRng::seed_from_u64(7),
            now: Now { mono, wall: NtpTime::from_unix(Duration::from_secs(1_700_000_000)) },
        }
    }

    pub(super) fn wait(&mut self, millis: u64) {
        self.now = self.now.advanced_to(self.now.mono + Duration::from_millis(millis));
    }

    /// A transport of a peer of the same number.
    pub(super) fn transport(&mut self, id: u64) -> Key<Transport> {
        let ice = IceCredentials { ufrag: format!("aa{id:06}"), pwd: format!("{id:024}") };
        let (commons, demux) = (&mut self.commons, &mut self.demux);
        creating::transport(commons, demux, self.now, TransportId(id), PeerId(id), ice).unwrap();
        commons.registry.transport_keys[&TransportId(id)]
    }

    /// A check for the transport, as its client makes it.
    pub(super) fn check(&self, id: u64) -> Vec<u8> {
        let remote = RemoteIce { ufrag: format!("aa{id:06}"), pwd: format!("{id:024}"), candidates: vec![SERVER] };
        let mut client = IceClient::new(self.now.mono, &remote, SmallRng::seed_from_u64(id));
        client.poll_transmit(self.now.mono).unwrap().1
    }

    /// The transport has a path, and keys: [`keys`] both ways.
    pub(super) fn connect(&mut self, key: Key<Transport>, path: Path) {
        let id = self.commons.registry.transports.get(key).unwrap().id.0;
        let check = self.check(id);
        let web_rtc = self.commons.registry.web_rtc(key).unwrap();
        web_rtc.ice.handle(self.now.mono, path, &check, &mut Vec::new()).unwrap();
        let session = engine().open(self.now.mono, Side::Server, SessionTag(id));
        let srtp = SrtpContext::new(PROFILE, &keys(), &keys());
        web_rtc.link = Link::Up(Box::new(Up { srtp, session }));
        self.demux.claim(&mut self.commons, self.now, path, key);
    }

    pub(super) fn connected(&mut self, id: u64) -> Key<Transport> {
        let key = self.transport(id);
        self.connect(key, path(1_000 + id as u16));
        key
    }

    /// A producer of the peer with this transport.
    pub(super) fn producer(&mut self, id: u64, transport: u64, spec: ProducerSpec) -> ProducerKey {
        let (peer, transport) = (PeerId(transport), Some(TransportId(transport)));
        creating::producer(&mut self.commons, self.now, (ProducerId(id), peer), transport, Box::new(spec), false)
            .unwrap()
    }

    pub(super) fn source(&self, of: u64) -> SourceKey {
        self.commons.registry.source_keys[&ProducerId(of)]
    }

    pub(super) fn consumer(&mut self, id: u64, transport: u64, of: u64, home: ShardId) -> ConsumerKey {
        let of = Of { producer: ProducerId(of), home, here: HERE };
        let (ids, spec) = ((ConsumerId(id), TransportId(transport)), of_video(1_000 * id as u32));
        creating::consumer(&mut self.commons, &mut self.rng, self.now, ids, of, spec, false).unwrap();
        self.commons.registry.consumer_keys[&ConsumerId(id)]
    }

    /// A packet of the producer's one encoding reaches its source.
    pub(super) fn publish(&mut self, of: u64, ext: u64, starts_keyframe: bool) {
        let info = PayloadInfo { starts_keyframe, starts_frame: true, ..PayloadInfo::default() };
        let (timestamp, arrived) = (3_000 * ext as u32, self.now.mono);
        let packet = Packet { encoding: 0, ext: ExtSeq(ext), arrived, timestamp, marker: true, legible: true, info };
        let source = self.source(of);
        self.intake.publish(&mut self.commons, self.now, source, packet, [&[], &[], &[1; 100]]);
    }

    /// What has been said to other shards since the last call.
    pub(super) fn said(&mut self) -> Vec<String> {
        records(&mut self.commons.port)
    }

    /// The RTCP that is ready to leave, in words.
    pub(super) fn rtcp(&mut self) -> Vec<String> {
        let (mut opener, mut sent) = (Opener::new(PROFILE, &keys()), Sent::default());
        self.commons.outlet.finish(&mut sent);
        let mut words = Vec::new();
        for mut datagram in sent.0 {
            if classify(&datagram) == Kind::Rtcp {
                let len = opener.open_rtcp(&mut datagram).unwrap();
                words.extend(rtcp::parse(&datagram[..len]).map(|packet| format!("{:?}", packet.unwrap())));
            }
        }
        words
    }

    pub(super) fn events(&mut self) -> Vec<Event> {
        self.commons.ledger.events.drain(..).collect()
    }

    pub(super) fn requests(&self) -> u64 {
        self.commons.ledger.counters.key_frames_requested
    }
}
