//! The arenas of one core, the order in which its work is done, and its one queue of deadlines.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::base::buffer::{Batch, Path, Transmit};
use crate::base::id::{ConsumerId, PeerId, ProducerId, ShardId, ShardLabel, ShortName, TransportId};
use crate::base::limits::{MESH_ORDERS_MAX, STUN_BESIDE_MEDIA_MAX, TRANSPORTS_PER_SHARD_MAX};
use crate::base::slab::{Key, Slab};
use crate::base::time::{Duration, Instant, Now};
use crate::router::consumer::Consumers;
use crate::router::forward::Dirty;
use crate::router::keys::{ConsumerKey, ProducerKey, SourceKey};
use crate::router::pass::ForwardCounts;
use crate::router::producer::Producers;
use crate::router::source::Sources;
use crate::secure::dtls::SecureEngine;
use crate::shard::budget::Budget;
use crate::shard::command::Event;
use crate::shard::drops::{Drop, Drops};
use crate::shard::early::Early;
use crate::shard::handshake_quota::HandshakeQuota;
use crate::shard::hearing::Hearing;
use crate::shard::layers::LayerNews;
use crate::shard::overload::Overload;
use crate::shard::paths::Paths;
use crate::shard::relay::RelayMessage;
use crate::shard::rtcp_in::Ahead;
use crate::shard::settling::Settling;
use crate::shard::stats::Counters;
use crate::shard::wiring::Wiring;
use crate::transport::Transport;
use crate::transport::egress::Exit;
use crate::transport::send_slab::SendSlab;
use crate::wire::{Kind, classify};

pub struct ShardSettings {
    pub id: ShardId,
    pub label: ShardLabel,
    /// The labels of all shards, this one too.
    pub labels: Vec<(ShardId, ShardLabel)>,
    pub seed: [u8; 32],
    /// The kernel does not steer by path: tell the other shards which paths are ours, so that they hand over.
    pub handover: bool,
}

/// A 5-tuple became ours, or ceased to be: for the kernel's steering map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PathChange {
    /// Unless another shard has it: see [`Shard::path_is_held`].
    Up(Path),
    /// The path is ours, whichever shard had it.
    Taken(Path),
    Down(Path),
}

/// One peer's objects on this shard: all its transports are here, so a producer without a transport can find its own.
#[derive(Default)]
pub(super) struct PeerEntry {
    pub transports: Vec<Key<Transport>>,
    pub producers: Vec<ProducerKey>,
}

pub struct Shard {
    pub(super) settings: ShardSettings,
    pub(super) engine: Box<dyn SecureEngine>,
    pub(super) rng: StdRng,

    pub(super) transports: Slab<Transport>,
    /// By transport slot.
    pub(super) wiring: Vec<Wiring>,
    pub(super) producers: Producers,
    pub(super) sources: Sources,
    pub(super) consumers: Consumers,

    pub(super) transport_keys: HashMap<TransportId, Key<Transport>>,
    pub(super) producer_keys: HashMap<ProducerId, ProducerKey>,
    pub(super) source_keys: HashMap<ProducerId, SourceKey>,
    pub(super) consumer_keys: HashMap<ConsumerId, ConsumerKey>,
    pub(super) peers: HashMap<PeerId, PeerEntry>,
    pub(super) ufrags: HashMap<ShortName, Key<Transport>>,
    pub(super) paths: Paths,
    /// Paths that other shards own (only where the kernel does not steer).
    pub(super) elsewhere: HashMap<Path, ShardId>,

    pub(super) early: Early,
    pub(super) handshake_quota: HandshakeQuota,

    pub(super) dirty: Dirty,
    pub(super) layer_news: LayerNews,
    pub(super) settling: Settling,
    pub(super) held: Option<Instant>,
    /// Ready datagrams (STUN, DTLS, RTCP) that wait for the next flush.
    pub(super) ready: Ready,
    pub(super) slab: SendSlab,
    timers: Timers,
    /// Deadlines of work that gains by waiting for media to wake the shard: see [`PATIENCE`].
    patient: Timers,

    pub(super) events: VecDeque<Event>,
    pub(super) mesh: Vec<(ShardId, Box<[u8]>)>,
    pub(super) mesh_media: MeshMedia,
    pub(super) awaited: VecDeque<Awaited>,
    pub(super) path_changes: VecDeque<PathChange>,

    pub(super) overload: Overload,
    pub(super) budget: Budget,
    pub(super) hearing: Hearing,
    pub(super) drops: Drops,
    pub(super) forwarded: ForwardCounts,
    pub(super) counters: Counters,
    /// The transport whose bytes are being handled: closed when that panics.
    pub(super) current: Option<Key<Transport>>,
    pub(super) stopped: bool,
}

/// Datagrams that are ready to leave, one after the other in one buffer.
#[derive(Default)]
pub(super) struct Ready {
    bytes: Vec<u8>,
    ends: Vec<(Path, usize)>,
}

impl Ready {
    pub(super) fn push(&mut self, path: Path, datagram: &[u8]) {
        self.bytes.extend_from_slice(datagram);
        self.ends.push((path, self.bytes.len()));
    }

    fn drain<T: Transmit>(&mut self, slab: &mut SendSlab, out: &mut T) {
        let mut start = 0;
        for (path, end) in self.ends.drain(..) {
            slab.datagram(path, &self.bytes[start..end], out);
            start = end;
        }
        self.bytes.clear();
    }
}

/// When, and the parts of a transport's key.
type Timers = BinaryHeap<Reverse<(Instant, u32, u32)>>;

/// Reports and transport-cc feedback are sent in the first round with media after they fall due, and wake the shard by
/// themselves only this much later: a wake costs several times the work in it.
const PATIENCE: Duration = Duration::from_millis(20);

/// Another shard's subscription to a producer that is not here yet.
pub(super) struct Awaited {
    pub producer: ProducerId,
    pub to: ShardId,
    pub until: Instant,
}

/// Media for other shards, gathered in one reusable buffer.
#[derive(Default)]
pub(super) struct MeshMedia {
    pub bytes: Vec<u8>,
    pub records: Vec<(ShardId, usize, usize)>,
}

impl Shard {
    pub fn new(settings: ShardSettings, engine: Box<dyn SecureEngine>, _now: Now) -> Shard {
        let rng = StdRng::from_seed(settings.seed);
        Shard {
            settings,
            engine,
            rng,
            // Moving ten thousand transports, or hashing their names anew, would keep media waiting for milliseconds.
            transports: Slab::with_capacity(TRANSPORTS_PER_SHARD_MAX),
            wiring: Vec::with_capacity(TRANSPORTS_PER_SHARD_MAX),
            producers: Slab::default(),
            sources: Slab::default(),
            consumers: Slab::default(),
            transport_keys: HashMap::with_capacity(TRANSPORTS_PER_SHARD_MAX),
            producer_keys: HashMap::new(),
            source_keys: HashMap::new(),
            consumer_keys: HashMap::new(),
            peers: HashMap::with_capacity(TRANSPORTS_PER_SHARD_MAX),
            ufrags: HashMap::with_capacity(TRANSPORTS_PER_SHARD_MAX),
            paths: Paths::with_capacity(TRANSPORTS_PER_SHARD_MAX),
            elsewhere: HashMap::new(),
            early: Early::default(),
            handshake_quota: HandshakeQuota::default(),
            dirty: Vec::new(),
            layer_news: LayerNews::default(),
            settling: Settling::default(),
            held: None,
            ready: Ready::default(),
            slab: SendSlab::default(),
            timers: Timers::new(),
            patient: Timers::new(),
            events: VecDeque::new(),
            mesh: Vec::new(),
            mesh_media: MeshMedia::default(),
            awaited: VecDeque::new(),
            path_changes: VecDeque::new(),
            overload: Overload::default(),
            budget: Budget::default(),
            hearing: Hearing::default(),
            drops: Drops::default(),
            forwarded: ForwardCounts::default(),
            counters: Counters::default(),
            current: None,
            stopped: false,
        }
    }

    /// Media first; then STUN within its budget, and DTLS, which the engine must not work on at once: one step of a
    /// handshake takes as long as a thousand packets. Returns the number of arrivals of media: datagrams of one sender
    /// in a row, such as a frame, are one. After a panic it may be called again with the same batch, for the rest of
    /// it.
    pub fn handle_batch(&mut self, now: Now, batch: &mut Batch) -> usize {
        let (mut arrivals, mut sender) = (0, None);
        // Where no media waits, checks delay none.
        let mut stun_budget = usize::MAX;
        let slots = batch.slots_mut();
        let mut ahead = Ahead::default();
        for at in 0..slots.len() {
            self.foresee_feedback(&mut ahead, slots.get(at + Ahead::BY));
            let slot = &mut slots[at];
            let path = slot.path;
            match classify(slot.bytes()) {
                Kind::Rtp if slot.take() => {
                    arrivals += usize::from(sender.replace(path) != Some(path));
                    stun_budget = STUN_BESIDE_MEDIA_MAX;
                    if self.overload.on_media(now.mono.since(slot.arrived)) && self.is_video(path, slot.bytes()) {
                        self.drops.count(Drop::Shed);
                        continue;
                    }
                    self.handle_rtp(now, slot.arrived.min(now.mono), path, slot.bytes_mut());
                }
                Kind::Rtcp if slot.take() => self.handle_rtcp(now, slot.arrived, path, slot.bytes_mut()),
                _ => {}
            }
        }
        self.overload.end_batch(now.mono);
        for slot in batch.slots_mut() {
            if !slot.take() {
                continue;
            }
            match classify(slot.bytes()) {
                Kind::Stun if stun_budget == 0 => self.drops.count(Drop::StunBudget),
                Kind::Stun => {
                    stun_budget -= 1;
                    self.handle_stun(now, slot.path, slot.bytes());
                }
                Kind::Dtls => self.handle_dtls(now, slot.path, slot.bytes()),
                Kind::Unknown => self.drops.count(Drop::UnknownProtocol),
                Kind::Rtp | Kind::Rtcp => {}
            }
        }
        self.current = None;
        arrivals
    }

    /// Does all that is due by `now`. Call when [`Shard::poll_timeout`] says so, and in rounds with media.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some((at, key)) = pop_due(&mut self.timers, now.mono) {
            match self.transports.get_mut(key) {
                Some(transport) if transport.armed == Some(at) => transport.armed = None,
                _ => continue,
            }
            self.current = Some(key);
            self.transport_timeout(now, key);
        }
        while let Some((at, key)) = pop_due(&mut self.patient, now.mono) {
            match self.transports.get_mut(key) {
                Some(transport) if transport.armed_patient == Some(at) => transport.armed_patient = None,
                _ => continue,
            }
            self.current = Some(key);
            self.transport_timeout(now, key);
        }
        self.current = None;
        self.give_up_awaited(now);
        self.tell_layers(now);
    }

    /// Schedules the transport no later than `at`.
    pub(super) fn arm(&mut self, key: Key<Transport>, at: Instant) {
        let Some(transport) = self.transports.get_mut(key) else { return };
        if transport.armed.is_some_and(|armed| armed <= at) {
            return;
        }
        transport.armed = Some(at);
        let (slot, generation) = key.to_parts();
        self.timers.push(Reverse((at, slot, generation)));
    }

    /// The same for work that can wait for media.
    pub(super) fn arm_patient(&mut self, key: Key<Transport>, at: Instant) {
        let Some(transport) = self.transports.get_mut(key) else { return };
        if transport.armed_patient.is_some_and(|armed| armed <= at) {
            return;
        }
        transport.armed_patient = Some(at);
        let (slot, generation) = key.to_parts();
        self.patient.push(Reverse((at, slot, generation)));
    }

    /// Does the settling, seals what is due and hands it on; then takes the results of handshakes.
    pub fn flush<T: Transmit>(&mut self, now: Now, out: &mut T) {
        self.settle(now);
        self.flush_media(now, out);
        self.slab.finish(out);
        self.pump_handshakes(now);
        self.ready.drain(&mut self.slab, out);
        self.slab.finish(out);
        self.current = None;
    }

    fn flush_media<T: Transmit>(&mut self, now: Now, out: &mut T) {
        self.ready.drain(&mut self.slab, out);
        self.held = None;
        let mut still_held = 0;
        for at in 0..self.dirty.len() {
            let key = self.dirty[at];
            if let Some(next) = self.dirty.get(at + 1).and_then(|next| self.transports.get(*next)) {
                next.foresee_flush();
            }
            self.current = Some(key);
            let Some(transport) = self.transports.get_mut(key) else { continue };
            let Some(due) = transport.egress.due() else { continue };
            if due > now.mono {
                self.held = Some(self.held.map_or(due, |earlier| earlier.min(due)));
                self.dirty[still_held] = key;
                still_held += 1;
                continue;
            }
            let Some(path) = transport.exit() else {
                self.drops.add(Drop::NoConsent, transport.egress.len() as u64);
                transport.egress.clear();
                continue;
            };
            let Some(up) = transport.link.up() else {
                transport.egress.clear();
                continue;
            };
            if transport.bounded {
                transport.proof.draw(now.mono, &mut transport.egress.log, &mut self.rng);
            }
            let room = if transport.bounded { transport.proof.room() } else { usize::MAX };
            let exit = Exit { path, room, sealer: &mut up.sealer, outgoing: &mut transport.outgoing };
            let before = self.slab.counts.packets;
            // Send times that lag behind would look like a queue on the path to the receiver of feedback.
            let leaves = out.now().map_or(now, |at| now.advanced_to(at));
            let bytes = transport.egress.flush(leaves, exit, &self.sources, &mut self.slab, out);
            transport.traffic.bytes_sent += bytes;
            let first = transport.traffic.packets_sent == 0 && bytes > 0;
            transport.traffic.packets_sent += self.slab.counts.packets - before;
            if first {
                self.events.push_back(Event::FirstPacket { transport: transport.id, incoming: false });
            }
            if transport.bounded {
                transport.proof.sent(&transport.egress.log);
                transport.proof.spend(bytes as usize);
            }
            // The pacer holds some back, or a probe goes on.
            if let Some(due) = transport.egress.due() {
                self.held = Some(self.held.map_or(due, |earlier| earlier.min(due)));
                self.dirty[still_held] = key;
                still_held += 1;
            }
        }
        self.dirty.truncate(still_held);
    }

    /// The next moment at which something must be done without any input.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let timer = self.timers.peek().map(|Reverse((at, ..))| *at);
        let handshakes = self.engine.next_deadline();
        let awaited = self.awaited.front().map(|relay| relay.until);
        let patient = self.patient.peek().map(|Reverse((at, ..))| *at + PATIENCE);
        let unsettled = (!self.settling.is_empty()).then_some(Instant::ZERO);
        [timer, patient, self.held, handshakes, awaited, self.layer_news.due(), unsettled].into_iter().flatten().min()
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    pub fn poll_path(&mut self) -> Option<PathChange> {
        self.path_changes.pop_front()
    }

    /// Gives every record for another shard to `sink`, which says whether there was room for it. Orders that found none
    /// wait for the next call, in their order (a lost one would leave a relay dead or running for ever); media does not.
    pub fn poll_mesh(&mut self, sink: &mut dyn FnMut(ShardId, &[u8]) -> bool) {
        let mut full: Vec<ShardId> = Vec::new();
        let mut waiting = 0;
        self.mesh.retain(|(to, record)| {
            if !full.contains(to) && sink(*to, record) {
                return false;
            }
            if RelayMessage::is_datagram(record) || waiting >= MESH_ORDERS_MAX {
                self.drops.count(Drop::MeshFull);
                return false;
            }
            if !full.contains(to) {
                full.push(*to);
            }
            waiting += 1;
            true
        });
        for (to, start, end) in self.mesh_media.records.drain(..) {
            if !sink(to, &self.mesh_media.bytes[start..end]) {
                self.drops.count(Drop::MeshFull);
            }
        }
        self.mesh_media.bytes.clear();
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    pub(super) fn send_counts(&self) -> crate::transport::send_slab::SendCounts {
        self.slab.counts
    }
}

fn pop_due(timers: &mut Timers, now: Instant) -> Option<(Instant, Key<Transport>)> {
    let Reverse((at, slot, generation)) = timers.peek().copied().filter(|Reverse((at, ..))| *at <= now)?;
    timers.pop();
    Some((at, Key::from_parts(slot, generation)))
}
