//! Programs that speak plain RTP with the simulated SFU. Signalling does not know of them: their transports, producers
//! and consumers are ordered from the shards past it. Extends `world`.

use std::net::SocketAddr;

use rand::{Rng, RngCore};

use crate::base::buffer::{Leg, LocalIndex, Path};
use crate::base::id::{ConsumerId, Layers, Mid, PeerId, ProducerId, ShardId, Ssrc, TransportId};
use crate::base::ranking::Ranking;
use crate::secure::srtp::{MasterKey, SrtpContext, SrtpKeys, SrtpProfile};
use crate::shard::command::{
    Command, ConsumerSpec, EncodingSpec, FeedbackSpec, MediaKind, PlainRtpSpec, ProducerSpec, Reply, Stats, StatsOf,
    TransportStats,
};
use crate::sim::browser::Browser;
use crate::sim::engine::SimEngine;
use crate::sim::link::{LinkModel, LinkSettings};
use crate::sim::script::Media;
use crate::sim::sink::SinkConfig;
use crate::sim::source::SourceConfig;
use crate::sim::tap::TappedEngine;
use crate::sim::visitor::VisitorTransport;
use crate::sim::world::{EndId, SERVER, World};
use crate::wire::extension::{ExtensionIds, ExtensionSet};

/// Far from the numbers that the hub counts up.
const NUMBERS: u64 = 1 << 60;

/// A program with one transport.
#[derive(Clone, Copy, Debug)]
pub struct RtpProgram {
    pub shard: ShardId,
    pub transport: TransportId,
    pub peer: PeerId,
    pub local: LocalIndex,
    pub end: EndId,
}

/// What the command that creates its transport says of a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProgramSettings {
    /// Its address; without it the shard has to learn it.
    pub address: bool,
    /// None: in the clear.
    pub keys: Option<SrtpProfile>,
}

/// An object as the shards know it: where it lives, and its number.
pub type AtShard<T> = (ShardId, T);

impl World {
    /// A program, and the transport for it at an address of its own.
    pub fn program(&mut self, shard: u16, told: ProgramSettings, link: LinkSettings) -> RtpProgram {
        let seed: u64 = self.rng().random();
        let keys = told.keys.map(|profile| {
            let mut master = || {
                let mut bytes = vec![0; profile.key_len() + profile.salt_len()];
                self.rng().fill_bytes(&mut bytes);
                let (key, salt) = bytes.split_at(profile.key_len());
                MasterKey::new(profile, key, salt).expect("both have their lengths")
            };
            SrtpKeys { profile, local: master(), remote: master() }
        });
        let theirs = keys.as_ref().map_or_else(SrtpContext::clear, |SrtpKeys { profile, local, remote }| {
            SrtpContext::new(*profile, remote, local)
        });
        let engine = TappedEngine::new(SimEngine::new(self.settings.profile, Vec::new(), seed));
        let browser = Browser::plain(self.now(), SERVER, theirs, seed);
        let end = self.add_end(browser, engine, [link, link].map(LinkModel::new));
        let number = NUMBERS + end.0 as u64;
        let local = LocalIndex(1 + self.sockets.len() as u8);
        self.ends[end.0].leg = Leg::Udp(local);
        self.sockets.insert(Leg::Udp(local), usize::from(shard));
        let (transport, peer) = (TransportId(number), PeerId(number));
        let remote = told.address.then(|| self.address(end));
        let plain = Box::new(PlainRtpSpec { local, remote, srtp: keys });
        self.command(shard, Command::CreatePlainTransport { transport, peer, plain });
        RtpProgram { shard: ShardId(shard), transport, peer, local, end }
    }

    /// The program starts to send; its SSRCs are `ssrc` and the one after it.
    pub fn program_publishes(&mut self, program: &RtpProgram, media: &Media, ssrc: u32) -> AtShard<ProducerId> {
        // No header extension is agreed upon.
        let config = SourceConfig { mid: None, extensions: ExtensionIds::default(), ..media.source(0, ssrc) };
        let spec = Box::new(ProducerSpec {
            kind: kind(media),
            codec: config.codec,
            clock_rate: config.clock_rate,
            payload_type: config.payload_type,
            rtx_payload_type: config.rtx.map(|(payload_type, _)| payload_type),
            mid: None,
            encodings: vec![EncodingSpec {
                ssrc: Some(config.ssrc),
                rtx_ssrc: config.rtx.map(|(_, ssrc)| ssrc),
                rid: None,
            }],
            ranking: Ranking::default(),
            ranked: true,
            top: Layers::default(),
            extensions: ExtensionIds::default(),
            feedback: feedback(media),
        });
        let now = self.now();
        self.end(program.end).browser.add_source(now, config);
        self.touch(program.end);
        let producer = ProducerId(NUMBERS + u64::from(ssrc));
        let (peer, transport) = (program.peer, Some(program.transport));
        self.command(program.shard.0, Command::Produce { producer, peer, transport, spec, paused: false });
        (program.shard, producer)
    }

    /// The program gets what this producer sends. Returns the place of its sink.
    pub fn program_subscribes(
        &mut self,
        program: &RtpProgram,
        to: AtShard<ProducerId>,
        media: &Media,
        ssrc: u32,
    ) -> usize {
        self.forward(to, (program.shard, program.transport), program.end, media, ssrc)
    }

    /// A page gets what a program sends, on the transport that signalling made last.
    pub fn newest_subscribes(
        &mut self,
        page: &VisitorTransport,
        to: AtShard<ProducerId>,
        media: &Media,
        ssrc: u32,
    ) -> usize {
        let transport = self.newest.transport.expect("signalling has made one");
        self.forward(to, transport, page.end, media, ssrc)
    }

    /// The producer that signalling made last.
    pub fn newest_producer(&self) -> AtShard<ProducerId> {
        self.newest.producer.expect("signalling has made one")
    }

    /// The shard's statistics of the program's transport; None: there is none any more.
    pub fn program_stats(&mut self, program: &RtpProgram) -> Option<TransportStats> {
        let of = StatsOf::Transport(program.transport);
        match self.ask_shard(program.shard.0, |request| Command::GetStats { request, of }) {
            Reply::Stats(Some(Stats::Transport(stats))) => Some(stats),
            _ => None,
        }
    }

    /// Delivers a datagram to the program's address, from anywhere.
    pub fn inject_for(&mut self, program: &RtpProgram, from: SocketAddr, bytes: Vec<u8>) {
        self.inject_by(Path::udp(program.local, from), bytes);
    }

    fn forward(
        &mut self,
        (home, producer): AtShard<ProducerId>,
        (shard, transport): AtShard<TransportId>,
        end: EndId,
        media: &Media,
        ssrc: u32,
    ) -> usize {
        let SourceConfig { codec, clock_rate, payload_type, rtx, .. } = media.source(0, ssrc);
        let spec = Box::new(ConsumerSpec {
            codec,
            clock_rate,
            encodings: 1,
            top: Layers::default(),
            payload_type,
            ssrc: Ssrc(ssrc),
            rtx,
            mid: Mid::new(b"p").expect("short"),
            cname: "a program".to_owned(),
            extensions: ExtensionSet::default(),
            feedback: feedback(media),
        });
        let consumer = ConsumerId(NUMBERS + u64::from(ssrc));
        self.command(shard.0, Command::Consume { consumer, transport, producer, home, spec, paused: false });
        let nack = rtx.is_some();
        let config = SinkConfig { codec, clock_rate, payload_type, ssrc: Ssrc(ssrc), rtx, nack, stamped: true };
        let now = self.now();
        let sink = self.end(end).browser.add_sink(now, config);
        self.touch(end);
        sink
    }
}

fn kind(media: &Media) -> MediaKind {
    if media.codec.is_video() { MediaKind::Video } else { MediaKind::Audio }
}

fn feedback(media: &Media) -> FeedbackSpec {
    let video = media.codec.is_video();
    FeedbackSpec { nack: media.repair, pli: video, fir: video, transport_cc: false, remb: false }
}
