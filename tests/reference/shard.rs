//! Two shards against a reference model: an input chooses who joins, sends, loses, pauses, closes and floods; the model
//! predicts who must get which packet and what must never arrive anywhere. It knows the commands and the clients'
//! packets, and nothing of a shard's inside. Used by the fuzz target `shard` and by `tests/reference.rs`.

use std::collections::{BTreeMap, BTreeSet};

use weirgate::base::id::{ConsumerId, Layers, Mid, PayloadType, PeerId, ProducerId, ShardId, Ssrc, TransportId};
use weirgate::base::ranking::Ranking;
use weirgate::base::seq::{ExtSeq, Seq};
use weirgate::base::time::{Duration, Instant};
use weirgate::base::units::Bitrate;
use weirgate::shard::command::{
    Closed, Command, ConsumerSpec, EncodingSpec, Event, FeedbackSpec, IceCredentials, MediaKind, ProducerSpec, Reply,
    RequestId, StatsOf,
};
use weirgate::sim::ice_client::RemoteIce;
use weirgate::wire::codec::Codec;
use weirgate::wire::extension::{Extension, ExtensionIds, ExtensionSet};
use weirgate::wire::feedback;
use weirgate::wire::rtcp::{self, ReportBlock, Rtcp};
use weirgate::wire::rtcp_write::RtcpWriter;
use weirgate::wire::rtp::{ExtensionWriter, HeaderFields, RtpHeader, write_fixed_header};

use crate::choices::Choices;
use crate::shard_rig::{RTX, Rig, SERVER, millis};

const SHARDS: usize = 2;
const PEERS: usize = 4;
const TRANSPORTS_MAX: usize = 10;
const PRODUCERS_MAX: usize = 10;
const CONSUMERS_MAX: usize = 32;
const OPS_MAX: usize = 400;
const AUDIO: PayloadType = PayloadType(111);
const VIDEO: PayloadType = PayloadType(96);
/// How long packets that were given to a transport before its consumer stood still may be on their way.
const UNDER_WAY: Duration = Duration::from_millis(20);
/// The time for which a consumer's first packets, out of the history, go ahead of live ones of the same transport.
const REPLAY_LEADS: Duration = Duration::from_millis(90);
/// The tag of packets that no producer will ever have.
const NOBODY: u32 = u32::MAX;
/// Behind a silence of this length nothing may be sent any more, a little later than RFC 7675 says.
const CONSENT: Duration = Duration::from_secs(31);

struct Transport {
    id: u64,
    peer: u64,
    shard: usize,
    client: usize,
    open: bool,
    /// Its client told something about bandwidth, or has moved: what it gets is no longer certain.
    uncertain: bool,
    mute_since: Option<Instant>,
    restarts: u64,
}

/// One packet of a producer; its place in the list is the number in its tag.
struct Made {
    at: Instant,
    seq: u16,
    timestamp: u32,
    marker: bool,
    payload: Vec<u8>,
    /// It was sent to the shard while nobody had paused the producer.
    admitted: bool,
    reached: bool,
}

struct Producer {
    id: u64,
    transport: usize,
    shard: usize,
    audio: bool,
    mid: String,
    ssrc: u32,
    open: bool,
    paused: bool,
    withheld: bool,
    told_closed: bool,
    seq: u16,
    timestamp: u32,
    rtx_seq: u16,
    made: Vec<Made>,
    /// Numbers have jumped: until this packet nothing is certain.
    wild_until: usize,
    /// The packets before which its numbers jumped.
    jumps: Vec<usize>,
    /// Not yet sent, for a late arrival.
    held: Vec<usize>,
}

struct Consumer {
    id: u64,
    transport: usize,
    producer: usize,
    ssrc: u32,
    open: bool,
    told_closed: bool,
    paused_at: Option<Instant>,
    began_at: Instant,
    /// Packets from here on could start it.
    opened_at: usize,
    primed: bool,
    last: Option<ExtSeq>,
    /// Number in the producer's list, and the timestamp it was given.
    got: BTreeMap<ExtSeq, (usize, u32)>,
    numbers: BTreeSet<usize>,
}

struct Model {
    rig: Rig,
    transports: Vec<Transport>,
    producers: Vec<Producer>,
    consumers: Vec<Consumer>,
    next: u64,
    asked: BTreeSet<u64>,
    /// Records between the shards have been lost: what is relayed is no longer certain.
    mesh_lossy: bool,
    /// To which clients have moved.
    ports: BTreeSet<u16>,
    transport_seq: u16,
    /// Packets that somebody had to get, and got.
    delivered: usize,
}

/// The number of packets that somebody had to get.
pub fn run(bytes: &[u8]) -> usize {
    let mut choices = Choices::new(bytes);
    let mut model = Model {
        rig: Rig::new(SHARDS),
        transports: Vec::new(),
        producers: Vec::new(),
        consumers: Vec::new(),
        next: 0,
        asked: BTreeSet::new(),
        mesh_lossy: false,
        ports: BTreeSet::new(),
        transport_seq: 0,
        delivered: 0,
    };
    for _ in 0..OPS_MAX {
        if choices.is_empty() {
            break;
        }
        model.act(&mut choices);
        model.listen();
    }
    model.finish()
}

impl Model {
    fn act(&mut self, choices: &mut Choices<'_>) {
        // Mostly media: destruction leaves little to predict.
        match WHAT[choices.of(WHAT.len())] {
            0 => self.join(choices),
            1 => self.produce(choices),
            2 => self.consume(choices),
            4 => {
                if let Some(producer) = choices.one(self.producers.len()) {
                    let what = choices.byte();
                    let fate = if what & 0x80 == 0 { 0 } else { what >> 3 };
                    self.media(producer, what & 1 == 1, usize::from(what >> 1 & 3) + 1, fate);
                }
            }
            12 => self.stray(choices),
            13 => self.repair(choices),
            14 => self.jump(choices),
            15 => self.pause_producer(choices),
            16 => self.pause_consumer(choices),
            17 => self.close_consumer(choices),
            18 => self.close_producer(choices),
            19 => self.close_transport(choices),
            20 => self.nack(choices),
            21 => self.report(choices),
            22 => self.bandwidth(choices),
            23 => self.garbage(choices),
            24 => self.restart_ice(choices),
            25 => self.moved(choices),
            26 => self.mute(choices),
            27 => self.mesh(choices),
            28 => self.ask(choices),
            29 => self.withhold(choices),
            30 => self.wish(choices),
            _ => self.wait(choices),
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn join(&mut self, choices: &mut Choices<'_>) {
        if self.transports.len() == TRANSPORTS_MAX {
            return;
        }
        let (id, peer) = (self.number(), choices.of(PEERS) as u64);
        // All transports of a peer are on one shard.
        let shard = peer as usize % SHARDS;
        let client = self.rig.connected(shard, id, peer);
        let (uncertain, mute_since) = (false, None);
        self.transports.push(Transport { id, peer, shard, client, open: true, uncertain, mute_since, restarts: 0 });
    }

    fn produce(&mut self, choices: &mut Choices<'_>) {
        let Some(transport) = choices.one(self.transports.len()) else { return };
        let what = choices.byte();
        let Transport { id: transport_id, peer, shard, open, .. } = self.transports[transport];
        if self.producers.len() == PRODUCERS_MAX || !open {
            return;
        }
        let id = self.number();
        let (audio, paused, named) = (what & 1 == 1, what & 0x82 == 0x82, what & 4 == 4);
        let ssrc = 1_000 * id as u32;
        // One in eight takes the place of an older one, of which nothing is on its way any more.
        let now = self.rig.now.mono;
        let at_rest = |old: &Producer| old.made.last().is_none_or(|last| now.since(last.at) > Duration::from_secs(1));
        let older = self.producers.iter().rev().find(|old| old.transport == transport && at_rest(old));
        let mid = older.filter(|_| what >> 3 & 7 == 7).map_or_else(|| format!("m{id}"), |old| old.mid.clone());
        let mut ids = ExtensionIds::default();
        ids.set(Extension::Mid, 4);
        ids.set(Extension::TransportCc, 3);
        let spec = ProducerSpec {
            kind: if audio { MediaKind::Audio } else { MediaKind::Video },
            codec: if audio { Codec::Opus } else { Codec::Vp8 },
            clock_rate: if audio { 48_000 } else { 90_000 },
            payload_type: if audio { AUDIO } else { VIDEO },
            rtx_payload_type: (!audio).then_some(RTX),
            mid: Mid::new(mid.as_bytes()),
            encodings: vec![EncodingSpec {
                ssrc: Some(Ssrc(ssrc)),
                rtx_ssrc: (!audio).then_some(Ssrc(ssrc + 1)),
                rid: None,
            }],
            ranking: Ranking::default(),
            ranked: true,
            top: Layers::default(),
            extensions: ids,
            feedback: FEEDBACK,
        };
        self.rig.command(
            shard,
            Command::Produce {
                producer: ProducerId(id),
                peer: PeerId(peer),
                transport: named.then_some(TransportId(transport_id)),
                spec: Box::new(spec),
                paused,
            },
        );
        self.producers.push(Producer {
            id,
            transport,
            shard,
            audio,
            mid,
            ssrc,
            open: true,
            paused,
            withheld: false,
            told_closed: false,
            seq: 0xfff0u16.wrapping_add(u16::from(choices.byte())),
            timestamp: u32::from(choices.byte()) << 24,
            rtx_seq: 100,
            made: Vec::new(),
            wild_until: 0,
            jumps: Vec::new(),
            held: Vec::new(),
        });
    }

    fn consume(&mut self, choices: &mut Choices<'_>) {
        let Some(transport) = choices.one(self.transports.len()) else { return };
        let Some(producer) = choices.one(self.producers.len()) else { return };
        let paused = choices.of(8) == 7;
        if self.consumers.len() == CONSUMERS_MAX || !self.transports[transport].open || !self.producers[producer].open {
            return;
        }
        let id = self.number();
        let ssrc = 1_000_000 + 2 * id as u32;
        let Producer { audio, shard: home, id: producer_id, .. } = self.producers[producer];
        let mut extensions = ExtensionSet::default();
        for extension in [Extension::Mid, Extension::TransportCc] {
            extensions.insert(extension);
        }
        let spec = ConsumerSpec {
            codec: if audio { Codec::Opus } else { Codec::Vp8 },
            clock_rate: if audio { 48_000 } else { 90_000 },
            encodings: 1,
            top: Layers::default(),
            payload_type: if audio { AUDIO } else { VIDEO },
            ssrc: Ssrc(ssrc),
            rtx: (!audio).then_some((RTX, Ssrc(ssrc + 1))),
            mid: Mid::new(format!("{id}").as_bytes()).expect("short"),
            cname: "cname".to_owned(),
            extensions,
            feedback: FEEDBACK,
        };
        let shard = self.transports[transport].shard;
        self.rig.command(
            shard,
            Command::Consume {
                consumer: ConsumerId(id),
                transport: TransportId(self.transports[transport].id),
                producer: ProducerId(producer_id),
                home: ShardId(home as u16),
                spec: Box::new(spec),
                paused,
            },
        );
        self.consumers.push(Consumer {
            id,
            transport,
            producer,
            ssrc,
            open: true,
            told_closed: false,
            paused_at: paused.then_some(self.rig.now.mono),
            began_at: self.rig.now.mono,
            opened_at: self.producers[producer].made.len(),
            primed: false,
            last: None,
            got: BTreeMap::new(),
            numbers: BTreeSet::new(),
        });
        self.rig.run(millis(1));
    }

    /// One frame of so many packets; `fate` has the fate of each, two bits.
    fn media(&mut self, at: usize, key: bool, packets: usize, fate: u8) {
        let first = self.producers[at].made.len();
        let packets = if self.producers[at].audio { 1 } else { packets };
        let step = if self.producers[at].audio { 960 } else { 3_000 };
        self.producers[at].timestamp = self.producers[at].timestamp.wrapping_add(step);
        for n in 0..packets {
            let number = self.make(at, key, n == 0, n + 1 == packets);
            match if n < 2 { fate >> (2 * n) & 3 } else { 0 } {
                2 => {}
                3 if self.producers[at].held.len() < 8 => self.producers[at].held.push(number),
                fate => {
                    self.send(at, number);
                    if fate == 1 && key {
                        // Twice.
                        self.send(at, number);
                    }
                }
            }
        }
        self.rig.run(millis(5));
        self.listen();
        self.expect_delivery(at, first);
        if key {
            for held in std::mem::take(&mut self.producers[at].held) {
                self.send(at, held);
            }
            self.rig.run(millis(1));
        }
    }

    fn make(&mut self, at: usize, key: bool, first: bool, last: bool) -> usize {
        let now = self.rig.now.mono;
        let producer = &mut self.producers[at];
        let number = producer.made.len();
        let mut payload = match (producer.audio, first, key) {
            (true, ..) => vec![0xfc; 40],
            // VP8: start of partition 0, then the frame tag, whose lowest bit is 0 for keyframes, and their start code.
            (_, true, true) => vec![0x10, 0, 0, 0, 0x9d, 0x01, 0x2a],
            (_, true, false) => vec![0x10, 1],
            (_, false, _) => vec![0, 0xab],
        };
        payload.resize(payload.len() + 16 * (number % 5), 0xab);
        payload.extend((at as u32).to_be_bytes());
        payload.extend((number as u32).to_be_bytes());
        producer.seq = producer.seq.wrapping_add(1);
        let (seq, timestamp, marker) = (producer.seq, producer.timestamp, last || producer.audio);
        producer.made.push(Made { at: now, seq, timestamp, marker, payload, admitted: false, reached: false });
        number
    }

    fn send(&mut self, at: usize, number: usize) {
        if self.is_inherited(at) {
            return;
        }
        let Producer { transport, audio, ssrc, paused, withheld, open, .. } = self.producers[at];
        let client = self.transports[transport].client;
        let made = &self.producers[at].made[number];
        let payload_type = if audio { AUDIO } else { VIDEO };
        let header = Header { payload_type, seq: made.seq, timestamp: made.timestamp, ssrc, marker: made.marker };
        let (payload, mid) = (made.payload.clone(), self.producers[at].mid.clone());
        let sent = self.send_packet(client, &header, &mid, &payload);
        let made = &mut self.producers[at].made[number];
        made.reached |= sent;
        made.admitted |= sent && !paused && !withheld && open;
    }

    /// A page that gives a mid to another stream sends no more of the one before: its packets would pass for that.
    fn is_inherited(&self, at: usize) -> bool {
        let Producer { transport, open, ref mid, .. } = self.producers[at];
        let mut others = self.producers.iter().enumerate().filter(|(other, _)| *other != at);
        others.any(|(n, other)| other.transport == transport && other.mid == *mid && (n > at || !open && other.open))
    }

    /// False: a client that hears nothing says nothing, and one whose ICE starts over has nowhere to send to.
    fn send_packet(&mut self, client: usize, header: &Header, mid: &str, payload: &[u8]) -> bool {
        self.transport_seq = self.transport_seq.wrapping_add(1);
        let packet = header.packet(mid, self.transport_seq, payload);
        let client = &mut self.rig.clients[client];
        !client.mute && client.peer.send_rtp(&packet)
    }

    /// A certain receiver of the stream has all of its packets from `first` on that reached the shard.
    fn expect_delivery(&mut self, at: usize, first: usize) {
        let waits = self.missing(at, first).iter().any(|(consumer, _)| self.waits_for_a_replay(*consumer));
        if waits {
            self.rig.run(REPLAY_LEADS);
            self.listen();
        }
        if let Some((consumer, number)) = self.missing(at, first).first() {
            panic!("consumer {} did not get packet {number} of producer {at}", self.consumers[*consumer].id);
        }
        self.delivered += self.due(at, first).len() * self.certain(at, first).len();
    }

    fn waits_for_a_replay(&self, consumer: usize) -> bool {
        let (now, transport) = (self.rig.now.mono, self.consumers[consumer].transport);
        let mut others =
            self.consumers.iter().filter(|other| other.transport == transport && other.paused_at.is_none());
        others.any(|other| now.since(other.began_at) <= REPLAY_LEADS)
    }

    /// The consumers that certainly get all packets from `first` on.
    fn certain(&self, at: usize, first: usize) -> Vec<usize> {
        let producer = &self.producers[at];
        let from = &self.transports[producer.transport];
        if !producer.open || producer.wild_until > first || !from.open || from.uncertain || from.mute_since.is_some() {
            return Vec::new();
        }
        let is_certain = |consumer: &Consumer| {
            let to = &self.transports[consumer.transport];
            let relayed = to.shard != producer.shard;
            let hears = to.open && !to.uncertain && to.mute_since.is_none();
            consumer.open && consumer.paused_at.is_none() && hears && !(relayed && self.mesh_lossy)
        };
        let of_it = |consumer: &&Consumer| consumer.producer == at && consumer.primed;
        let all = self.consumers.iter().enumerate();
        all.filter(|(_, consumer)| of_it(consumer) && is_certain(consumer)).map(|(n, _)| n).collect()
    }

    /// The packets from `first` on that reached the shard.
    fn due(&self, at: usize, first: usize) -> Vec<usize> {
        let Producer { made, held, .. } = &self.producers[at];
        (first..made.len()).filter(|number| made[*number].admitted && !held.contains(number)).collect()
    }

    /// The consumers that miss a packet which they had to get, and the packet's number.
    fn missing(&self, at: usize, first: usize) -> Vec<(usize, usize)> {
        let due = self.due(at, first);
        let of = |consumer: usize| {
            let missing = due.iter().filter(move |number| !self.consumers[consumer].numbers.contains(number));
            missing.map(move |number| (consumer, *number))
        };
        self.certain(at, first).into_iter().flat_map(of).collect()
    }

    /// Packets of no producer, forged or authentic.
    fn stray(&mut self, choices: &mut Choices<'_>) {
        let Some(transport) = choices.one(self.transports.len()) else { return };
        let how = choices.byte();
        let Transport { client, .. } = self.transports[transport];
        let payload = [&[0x10, 0, 0, 0, 0x9d, 0x01, 0x2a][..], &NOBODY.to_be_bytes(), &[0; 4]].concat();
        // A known stream's, if it was not forged.
        let ssrc = self.producers.get(usize::from(how >> 4)).map_or(77, |producer| producer.ssrc);
        let header = Header { payload_type: VIDEO, seq: choices.word(), timestamp: 1, ssrc, marker: true };
        let address = self.rig.clients[client].address;
        match how & 3 {
            0 => drop(self.send_packet(client, &Header { ssrc: 78, ..header }, "nobody", &payload)),
            1 if !self.rig.clients[client].mute => {
                let forged = header.packet("m1", 9, &payload);
                self.rig.clients[client].peer.send_raw(forged);
            }
            // Another's stream, under one's own keys.
            2 if self.producers.iter().all(|own| own.ssrc != ssrc || own.transport != transport) => {
                let peer = self.transports[transport].peer;
                if self.producers.iter().all(|own| own.ssrc != ssrc || self.transports[own.transport].peer != peer) {
                    self.send_packet(client, &header, "nobody", &payload);
                }
            }
            _ => {
                let mut packet = header.packet("m1", 9, &payload);
                packet.truncate(usize::from(choices.byte()).max(1));
                self.rig.inject(self.transports[transport].shard, address, &packet);
            }
        }
        self.rig.run(millis(1));
    }

    /// Lost or held packets come as a retransmission.
    fn repair(&mut self, choices: &mut Choices<'_>) {
        let Some(at) = choices.one(self.producers.len()).filter(|at| !self.is_inherited(*at)) else { return };
        let producer = &mut self.producers[at];
        let missing: Vec<usize> =
            (0..producer.made.len()).rev().take(50).filter(|number| !producer.made[*number].reached).collect();
        let Some(number) = choices.one(missing.len()).map(|which| missing[which]) else { return };
        if producer.audio {
            return;
        }
        producer.held.retain(|held| *held != number);
        producer.rtx_seq = producer.rtx_seq.wrapping_add(1);
        let paused = producer.paused || producer.withheld || !producer.open;
        let made = &producer.made[number];
        let payload = [&made.seq.to_be_bytes()[..], &made.payload].concat();
        let (seq, ssrc) = (producer.rtx_seq, producer.ssrc + 1);
        let header = Header { payload_type: RTX, seq, timestamp: made.timestamp, ssrc, marker: made.marker };
        let (client, mid) = (self.transports[producer.transport].client, producer.mid.clone());
        let sent = self.send_packet(client, &header, &mid, &payload);
        let made = &mut self.producers[at].made[number];
        made.reached |= sent;
        made.admitted |= sent && !paused;
        self.rig.run(millis(5));
    }

    fn jump(&mut self, choices: &mut Choices<'_>) {
        let Some(at) = choices.one(self.producers.len()) else { return };
        let producer = &mut self.producers[at];
        producer.seq = producer.seq.wrapping_add(choices.word());
        producer.wild_until = producer.made.len() + 6;
        producer.jumps.push(producer.made.len());
        producer.held.clear();
        self.unprime(at);
    }

    fn unprime(&mut self, producer: usize) {
        let made = self.producers[producer].made.len();
        for consumer in self.consumers.iter_mut().filter(|consumer| consumer.producer == producer) {
            (consumer.primed, consumer.opened_at) = (false, made);
        }
    }

    fn pause_producer(&mut self, choices: &mut Choices<'_>) {
        let Some(at) = choices.one(self.producers.len()) else { return };
        let Producer { id, shard, paused, .. } = self.producers[at];
        let producer = ProducerId(id);
        self.rig.command(
            shard,
            if paused { Command::ResumeProducer { producer } } else { Command::PauseProducer { producer } },
        );
        self.producers[at].paused = !paused;
        self.unprime(at);
        self.rig.run(millis(1));
    }

    fn withhold(&mut self, choices: &mut Choices<'_>) {
        let Some(at) = choices.one(self.producers.len()) else { return };
        let withheld = !self.producers[at].withheld;
        let producer = ProducerId(self.producers[at].id);
        self.rig.command(self.producers[at].shard, Command::Withhold { producer, withheld });
        self.producers[at].withheld = withheld;
        self.unprime(at);
        self.rig.run(millis(1));
    }

    fn pause_consumer(&mut self, choices: &mut Choices<'_>) {
        let Some(at) = choices.one(self.consumers.len()) else { return };
        let now = self.rig.now.mono;
        let made = self.producers[self.consumers[at].producer].made.len();
        let consumer = &mut self.consumers[at];
        let id = ConsumerId(consumer.id);
        let shard = self.transports[consumer.transport].shard;
        let paused = consumer.paused_at.is_some();
        (consumer.paused_at, consumer.began_at) = ((!paused).then_some(now), now);
        (consumer.primed, consumer.opened_at) = (false, made);
        self.rig.command(
            shard,
            match paused {
                true => Command::ResumeConsumer { consumer: id },
                false => Command::PauseConsumer { consumer: id },
            },
        );
        self.rig.run(millis(1));
    }

    fn close_consumer(&mut self, choices: &mut Choices<'_>) {
        let Some(at) = choices.one(self.consumers.len()) else { return };
        let consumer = ConsumerId(self.consumers[at].id);
        // Packets that had been given to its transport are gone with it.
        self.consumers[at].open = false;
        self.rig.command(self.transports[self.consumers[at].transport].shard, Command::CloseConsumer { consumer });
    }

    fn close_producer(&mut self, choices: &mut Choices<'_>) {
        let Some(at) = choices.one(self.producers.len()) else { return };
        let producer = ProducerId(self.producers[at].id);
        self.rig.command(self.producers[at].shard, Command::CloseProducer { producer });
        self.producer_ends(at);
    }

    fn producer_ends(&mut self, at: usize) {
        self.producers[at].open = false;
        self.unprime(at);
    }

    fn close_transport(&mut self, choices: &mut Choices<'_>) {
        let Some(at) = choices.one(self.transports.len()).filter(|at| self.transports[*at].open) else { return };
        self.end_transport(at);
    }

    fn end_transport(&mut self, at: usize) {
        let Transport { id, shard, peer, .. } = self.transports[at];
        self.rig.command(shard, Command::CloseTransport { transport: TransportId(id) });
        self.transports[at].open = false;
        for consumer in self.consumers.iter_mut().filter(|consumer| consumer.transport == at) {
            consumer.open = false;
        }
        let last = self.transports.iter().all(|other| !other.open || other.peer != peer);
        for producer in 0..self.producers.len() {
            let on = self.producers[producer].transport;
            if on == at || last && self.transports[on].peer == peer {
                self.producer_ends(producer);
            }
        }
        self.rig.run(millis(1));
        let client = self.transports[at].client;
        self.rig.clients[client].rtp.clear();
    }

    fn nack(&mut self, choices: &mut Choices<'_>) {
        let Some(at) = choices.one(self.consumers.len()) else { return };
        let Consumer { transport, ssrc, ref got, .. } = self.consumers[at];
        let known: Vec<Seq> = got.keys().rev().take(1 + choices.of(40)).map(|ext| ext.seq()).collect();
        let seqs = match choices.of(4) {
            0 => (0..20).map(|n| Seq(choices.word().wrapping_add(n))).collect(),
            _ => known,
        };
        let client = self.transports[transport].client;
        self.rtcp(client, |writer| writer.nack(Ssrc(1), Ssrc(ssrc), &seqs));
    }

    fn rtcp(&mut self, client: usize, write: impl FnOnce(&mut RtcpWriter<'_>)) {
        let mut compound = Vec::new();
        write(&mut RtcpWriter::new(&mut compound));
        self.send_rtcp(client, compound);
    }

    fn send_rtcp(&mut self, client: usize, compound: Vec<u8>) {
        if !self.rig.clients[client].mute && !compound.is_empty() {
            self.rig.clients[client].peer.send_rtcp(compound);
            self.rig.run(millis(1));
        }
    }

    fn report(&mut self, choices: &mut Choices<'_>) {
        let Some(at) = choices.one(self.consumers.len()) else { return };
        let Consumer { transport, ssrc, last, .. } = self.consumers[at];
        let client = self.transports[transport].client;
        match choices.of(3) {
            0 => self.rtcp(client, |writer| writer.pli(Ssrc(1), Ssrc(ssrc))),
            1 => self.rtcp(client, |writer| writer.fir(Ssrc(1), Ssrc(ssrc), 1)),
            _ => {
                let block = ReportBlock {
                    ssrc,
                    fraction_lost: choices.byte(),
                    cumulative_lost: i32::from(choices.byte()),
                    highest_seq: last.map_or(0, |last| last.0 as u32),
                    jitter: 0,
                    last_sr: 0,
                    delay_since_last_sr: 0,
                };
                self.rtcp(client, |writer| writer.receiver_report(Ssrc(1), &[block]));
            }
        }
    }

    /// After this its estimate may hold anything back.
    fn bandwidth(&mut self, choices: &mut Choices<'_>) {
        let Some(at) = choices.one(self.transports.len()) else { return };
        self.transports[at].uncertain = true;
        let Transport { client, shard, id, .. } = self.transports[at];
        let rate = Bitrate(u64::from(choices.word()) * 50);
        match choices.of(3) {
            0 => self.rtcp(client, |writer| writer.remb(Ssrc(1), rate, &[])),
            1 => {
                let command =
                    Command::SetMaxBitrate { transport: TransportId(id), incoming: Some(rate), outgoing: Some(rate) };
                self.rig.command(shard, command);
            }
            _ => {
                let len = usize::from(choices.word() % 120);
                let body = choices.take(len);
                let padded = body.len().next_multiple_of(4);
                let mut packet = vec![0x8f, 205, 0, (padded / 4 + 2) as u8, 0, 0, 0, 1, 0, 0, 0, 0];
                packet.extend_from_slice(body);
                packet.resize(12 + padded, 0);
                self.send_rtcp(client, packet);
            }
        }
    }

    /// Any bytes at all, sealed or not.
    fn garbage(&mut self, choices: &mut Choices<'_>) {
        let Some(at) = choices.one(self.transports.len()) else { return };
        let how = choices.byte();
        let len = usize::from(choices.byte());
        let bytes = choices.take(len).to_vec();
        if bytes.len() < 8 {
            return;
        }
        let Transport { client, shard, .. } = self.transports[at];
        match how & 1 {
            0 => {
                let address = self.rig.clients[client].address;
                // A hello of its own would be a new session's.
                if !(20..64).contains(&bytes[0]) {
                    self.rig.inject(shard, address, &bytes);
                }
            }
            _ => {
                self.transports[at].uncertain = true;
                // Its own streams may have ended in it.
                for producer in 0..self.producers.len() {
                    if self.producers[producer].transport == at {
                        self.unprime(producer);
                    }
                }
                let mut bytes = bytes;
                bytes[0] = bytes[0] & 0x3f | 0x80;
                bytes[1] = 200 + bytes[1] % 8;
                self.send_rtcp(client, bytes);
            }
        }
        self.rig.run(millis(1));
    }

    fn restart_ice(&mut self, choices: &mut Choices<'_>) {
        let Some(at) = choices.one(self.transports.len()).filter(|at| self.transports[*at].open) else { return };
        let transport = &mut self.transports[at];
        transport.restarts += 1;
        let label = char::from(b'a' + transport.shard as u8);
        let Transport { id, restarts, shard, client, .. } = *transport;
        let ice = IceCredentials { ufrag: format!("{label}{label}{id:05}r{restarts:02}"), pwd: format!("{id:024}") };
        let remote = RemoteIce { ufrag: ice.ufrag.clone(), pwd: ice.pwd.clone(), candidates: vec![SERVER] };
        self.rig.command(shard, Command::RestartIce { transport: TransportId(id), ice });
        let now = self.rig.now.mono;
        self.rig.clients[client].peer.restart_ice(now, &remote);
        self.rig.run(millis(10));
    }

    /// The client's address changes; it may take another's that left, never one that is in use.
    fn moved(&mut self, choices: &mut Choices<'_>) {
        let Some(at) = choices.one(self.transports.len()).filter(|at| self.transports[*at].open) else { return };
        let port = 30_000 + u16::from(choices.byte());
        let now = self.rig.now.mono;
        let Transport { client, .. } = self.transports[at];
        let mut address = self.rig.clients[client].address;
        address.set_port(port);
        // What is under way to who had an address before would reach who has it now.
        if !self.ports.insert(port) {
            return;
        }
        self.transports[at].uncertain = true;
        self.rig.clients[client].address = address;
        self.rig.clients[client].peer.recheck(now);
        self.rig.run(millis(10));
    }

    fn mute(&mut self, choices: &mut Choices<'_>) {
        let Some(at) = choices.one(self.transports.len()) else { return };
        let transport = &mut self.transports[at];
        transport.uncertain = true;
        let client = &mut self.rig.clients[transport.client];
        client.mute = transport.mute_since.is_none();
        transport.mute_since = client.mute.then_some(self.rig.now.mono);
        self.rig.run(millis(10));
    }

    fn mesh(&mut self, choices: &mut Choices<'_>) {
        self.rig.mesh_has_room = choices.yes();
        if !self.rig.mesh_has_room {
            self.mesh_lossy = true;
            (0..self.producers.len()).for_each(|producer| self.unprime(producer));
        }
    }

    fn ask(&mut self, choices: &mut Choices<'_>) {
        let request = self.number();
        let of = match choices.of(3) {
            0 => StatsOf::Transport(TransportId(u64::from(choices.byte()))),
            1 => StatsOf::Producer(ProducerId(u64::from(choices.byte()))),
            _ => StatsOf::Consumer(ConsumerId(u64::from(choices.byte()))),
        };
        self.asked.insert(request);
        self.rig.command(choices.of(SHARDS), Command::GetStats { request: RequestId(request), of });
    }

    /// Requests that only change how a consumer is served.
    fn wish(&mut self, choices: &mut Choices<'_>) {
        let Some(at) = choices.one(self.consumers.len()) else { return };
        let (consumer, transport) = (ConsumerId(self.consumers[at].id), self.consumers[at].transport);
        let shard = self.transports[transport].shard;
        let command = match choices.of(3) {
            0 => Command::RequestKeyFrame { consumer },
            1 => Command::SetPriority { consumer, priority: choices.byte().max(1) },
            _ => {
                let layers = Layers { spatial: choices.byte(), temporal: choices.byte() };
                Command::SetPreferredLayers { consumer, layers }
            }
        };
        self.rig.command(shard, command);
    }

    fn wait(&mut self, choices: &mut Choices<'_>) {
        let (span, step) = match choices.of(8) {
            0 | 1 => (1, 1),
            2 | 3 => (40, 5),
            4 => (300, 20),
            5 => (1_100, 100),
            6 => (11_000, 500),
            _ => (33_000, 1_000),
        };
        self.rig.run_by(millis(span), millis(step));
        self.listen();
        // A client that has been silent for this long is sent nothing.
        let now = self.rig.now.mono;
        for transport in &self.transports {
            let silent = transport.mute_since.is_some_and(|since| now.since(since) > CONSENT);
            let reached = &mut self.rig.clients[transport.client].reached;
            if silent && span > 30_000 {
                *reached = 0;
            }
        }
        if span > 30_000 {
            self.rig.run(millis(300));
            for transport in &self.transports {
                let silent = transport.mute_since.is_some_and(|since| now.since(since) > CONSENT);
                let reached = self.rig.clients[transport.client].reached;
                assert!(!silent || reached == 0, "transport {} lost its consent, and was sent more", transport.id);
            }
        }
    }
}

/// The meaning of one byte of an input.
const WHAT: [u8; 128] = {
    let mut what = [4; 128];
    let few = [
        0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 12, 13, 13, 14, 15,
        15, 16, 16, 17, 18, 19, 20, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 31, 31,
    ];
    let mut at = 0;
    while at < few.len() {
        what[2 * at] = few[at];
        at += 1;
    }
    what
};

const FEEDBACK: FeedbackSpec = FeedbackSpec { nack: true, pli: true, fir: true, transport_cc: true, remb: true };

struct Header {
    payload_type: PayloadType,
    seq: u16,
    timestamp: u32,
    ssrc: u32,
    marker: bool,
}

impl Header {
    fn packet(&self, mid: &str, transport_seq: u16, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 64];
        let (fixed, rest) = packet.split_at_mut(12);
        let fields = HeaderFields {
            marker: self.marker,
            has_padding: false,
            payload_type: self.payload_type,
            seq: Seq(self.seq),
            timestamp: self.timestamp,
            ssrc: Ssrc(self.ssrc),
        };
        write_fixed_header(fixed.try_into().expect("12 bytes"), fields, true);
        let mut writer = ExtensionWriter::new(rest, false);
        writer.push(4, mid.as_bytes());
        writer.push(3, &transport_seq.to_be_bytes());
        let header = 12 + writer.finish();
        packet.truncate(header);
        packet.extend_from_slice(payload);
        packet
    }
}

/// Judges the received packets.
impl Model {
    fn listen(&mut self) {
        for at in 0..self.transports.len() {
            let client = &mut self.rig.clients[self.transports[at].client];
            assert_eq!(client.unopened, 0, "transport {}: a number was sealed twice", self.transports[at].id);
            let (packets, compounds) = (std::mem::take(&mut client.rtp), std::mem::take(&mut client.rtcp));
            for packet in packets {
                self.heard(at, &packet);
            }
            for (_, compound) in compounds {
                self.heard_rtcp(at, &compound);
            }
        }
        self.heard_events();
    }

    fn heard(&mut self, at: usize, packet: &[u8]) {
        let header = RtpHeader::parse(packet).expect("a shard sends RTP");
        let payload = header.payload(packet).expect("with a payload, or padding that is whole");
        assert!(self.transports[at].open, "transport {at} is closed");
        let ssrc = header.ssrc.0;
        let of = self.consumers.iter().position(|consumer| consumer.transport == at && consumer.ssrc == ssrc & !1);
        let of = of.unwrap_or_else(|| panic!("transport {at} was sent {ssrc}, of which nobody has told it"));
        let now = self.rig.now.mono;
        let consumer = &mut self.consumers[of];
        let id = consumer.id;
        assert!(consumer.open, "consumer {id} is closed");
        let producer = &self.producers[consumer.producer];
        if ssrc & 1 == 1 {
            // Without a payload it is a probe (RFC 4588 has none).
            let Some((osn, original)) = payload.split_first_chunk::<2>() else { return };
            let osn = Seq(u16::from_be_bytes(*osn));
            let first = consumer.got.iter().rev().find(|(ext, _)| ext.seq() == osn);
            let (_, (number, timestamp)) = first.unwrap_or_else(|| panic!("{osn:?} is sent again, but never was"));
            assert_eq!(original, producer.made[*number].payload, "consumer {id}: {osn:?} has two contents");
            assert_eq!(header.timestamp, *timestamp, "consumer {id}: {osn:?}");
            return;
        }
        let (_, tag) = payload.split_last_chunk::<8>().expect("every packet has a tag");
        let [of_producer, number] =
            [&tag[..4], &tag[4..]].map(|half| u32::from_be_bytes(half.try_into().expect("four bytes")) as usize);
        assert_eq!(of_producer, consumer.producer, "consumer {id} got a packet of another producer");
        let made = &producer.made[number];
        assert_eq!(payload, made.payload, "consumer {id}: packet {number} was changed");
        assert_eq!(header.marker, made.marker, "consumer {id}: packet {number}");
        assert!(made.admitted, "consumer {id} got packet {number}, which was sent while its producer was paused");
        // While the rings between shards have no room, others do not hear of its end, and serve from their history.
        let unheard = self.mesh_lossy && self.transports[at].shard != producer.shard;
        assert!(producer.open || unheard, "consumer {id} got packet {number}, and its producer is closed");
        if let Some(paused) = consumer.paused_at {
            let fine = made.at <= paused && now.since(paused) <= UNDER_WAY;
            assert!(fine || self.transports[at].uncertain, "consumer {id} is paused, and got packet {number}");
        }
        assert!(consumer.numbers.insert(number), "consumer {id} got packet {number} twice");
        let ext = consumer.last.map_or(ExtSeq::first(header.seq), |last| last.nearest(header.seq));
        consumer.last = Some(consumer.last.map_or(ext, |last| last.max(ext)));
        let before = consumer.got.insert(ext, (number, header.timestamp));
        assert!(before.is_none(), "consumer {id}: {:?} was used twice", header.seq);
        let (lower, higher) = (consumer.got.range(..ext).next_back(), consumer.got.range(ext.next()..).next());
        // Numbers that jump back a little look like those of packets that come late.
        let apart = |other: usize| producer.jumps.iter().any(|jump| (other < *jump) != (number < *jump));
        if let Some((_, (lower, timestamp))) = lower.filter(|(_, (lower, _))| !apart(*lower)) {
            assert!(*lower < number, "consumer {id}: packet {number} comes after {lower}");
            let ahead = header.timestamp.wrapping_sub(*timestamp) as i32;
            let same = made.timestamp == producer.made[*lower].timestamp;
            let fine = if same { ahead == 0 } else { ahead > 0 };
            assert!(fine, "consumer {id}: time goes by {ahead} from packet {lower} to {number}");
        }
        if let Some((_, (higher, _))) = higher.filter(|(_, (higher, _))| !apart(*higher)) {
            assert!(*higher > number, "consumer {id}: packet {number} comes before {higher}");
        }
        let key = producer.audio || payload[0] == 0x10 && payload[1] & 1 == 0;
        consumer.primed |= key && number >= consumer.opened_at.max(producer.wild_until);
    }

    fn heard_rtcp(&self, at: usize, compound: &[u8]) {
        for packet in rtcp::parse(compound) {
            match packet.expect("a shard sends RTCP that can be read") {
                Rtcp::SenderReport(report) => {
                    let ours = |consumer: &Consumer| consumer.transport == at && Ssrc(consumer.ssrc) == report.ssrc;
                    assert!(self.consumers.iter().any(ours), "a report about {:?}", report.ssrc);
                }
                Rtcp::ReceiverReport(report) => {
                    assert!(report.blocks().all(|block| self.sends(at, block.ssrc).is_some()));
                }
                Rtcp::Feedback(feedback::Feedback::Pli(pli)) => {
                    let asked = self.sends(at, pli.media.0).unwrap_or_else(|| panic!("{:?} is another's", pli.media));
                    assert!(!asked.audio, "audio has no keyframes");
                }
                Rtcp::Feedback(feedback::Feedback::Nack(nack)) => {
                    let producer = self.sends(at, nack.media.0).expect("it asks who sends");
                    for seq in nack.seqs().filter(|_| producer.jumps.is_empty()) {
                        let made = producer.made.iter().rev().find(|made| made.seq == seq.0);
                        let made = made.unwrap_or_else(|| panic!("{seq:?} was never sent, and is asked for again"));
                        let (id, mid, closed) = (producer.id, &producer.mid, !producer.open);
                        assert!(
                            !made.reached,
                            "{seq:?} of {id}, {mid}, closed: {closed}, came, and is asked for again"
                        );
                    }
                }
                _ => {}
            }
        }
    }

    /// The producer of the stream that this transport's client sends under that name.
    fn sends(&self, at: usize, ssrc: u32) -> Option<&Producer> {
        self.producers.iter().find(|producer| producer.transport == at && producer.ssrc == ssrc & !1)
    }

    fn heard_events(&mut self) {
        // Objects that end with a producer are reported before it.
        let (producers, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.rig.events)
            .into_iter()
            .partition(|event| matches!(event, Event::ProducerClosed { .. }));
        for event in producers.into_iter().chain(others) {
            match event {
                Event::Answer { request, reply } => {
                    assert!(self.asked.remove(&request.0), "{request:?} is answered, and was not asked");
                    assert!(matches!(reply, Reply::Stats(_)));
                }
                Event::ProducerClosed { producer, why } => {
                    let at = self.producers.iter().position(|known| known.id == producer.0).expect("it is known");
                    let told = &mut self.producers[at].told_closed;
                    assert!(!std::mem::replace(told, true), "{producer:?} closed twice");
                    assert!(why == Closed::Replaced || why == Closed::TransportClosed, "{producer:?}: {why:?}");
                    let place = (self.producers[at].transport, self.producers[at].mid.clone());
                    let mut others = self.producers.iter().enumerate().filter(|(other, _)| *other != at);
                    let other = others.any(|(_, other)| (other.transport, &other.mid) == (place.0, &place.1));
                    assert!(
                        other || !self.transports[place.0].open || self.long_silent(place.0),
                        "{producer:?} was not replaced"
                    );
                    self.producer_ends(at);
                }
                Event::ConsumerClosed { consumer, why } => {
                    let at = self.consumers.iter().position(|known| known.id == consumer.0).expect("it is known");
                    let consumer = &mut self.consumers[at];
                    assert!(!std::mem::replace(&mut consumer.told_closed, true), "{} closed twice", consumer.id);
                    consumer.open = false;
                    let (producer, transport) = (consumer.producer, consumer.transport);
                    match why {
                        Closed::ProducerClosed => assert!(!self.producers[producer].open, "consumer {at}: {why:?}"),
                        Closed::TransportClosed => {
                            assert!(!self.transports[transport].open || self.long_silent(transport));
                        }
                        _ => panic!("consumer {at}: {why:?}"),
                    }
                }
                Event::TransportClosed { transport, why } => {
                    let at = self.transports.iter().position(|known| known.id == transport.0).expect("it is known");
                    assert!(self.transports[at].open && self.long_silent(at), "{transport:?}: {why:?}");
                    self.transports[at].open = false;
                    for consumer in self.consumers.iter_mut().filter(|consumer| consumer.transport == at) {
                        consumer.open = false;
                    }
                }
                Event::ProducerBound { producer, transport } => {
                    let known = self.producers.iter().find(|known| known.id == producer.0).expect("it is known");
                    assert_eq!(self.transports[known.transport].id, transport.0, "{producer:?} is bound elsewhere");
                }
                Event::ShardRestarted { .. } => panic!("a shard lost everything"),
                _ => {}
            }
        }
    }

    fn long_silent(&self, transport: usize) -> bool {
        let now = self.rig.now.mono;
        self.transports[transport].mute_since.is_some_and(|since| now.since(since) > Duration::from_secs(600))
    }

    /// Everybody leaves, and nothing stays.
    fn finish(mut self) -> usize {
        self.rig.mesh_has_room = true;
        self.rig.run(millis(50));
        self.listen();
        for at in 0..self.transports.len() {
            if self.transports[at].open {
                self.end_transport(at);
                self.listen();
            }
        }
        self.rig.run(millis(50));
        self.listen();
        assert!(self.asked.is_empty(), "not answered: {:?}", self.asked);
        for consumer in &self.consumers {
            assert!(!consumer.open || consumer.told_closed, "consumer {} outlives its transport", consumer.id);
        }
        const NOTHING: [&str; 8] = [
            "transports",
            "producers",
            "consumers",
            "relayed_sources",
            "peers",
            "paths",
            "history_bytes",
            "dtls_waiting",
        ];
        for shard in 0..SHARDS {
            for name in NOTHING {
                assert_eq!(self.rig.gauge(shard, name), 0, "{name} of shard {shard}");
            }
            assert_eq!(self.rig.counter(shard, "faults"), 0);
        }
        self.delivered
    }
}
