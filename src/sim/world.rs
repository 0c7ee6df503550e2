//! The whole SFU with its clients on one virtual clock: shards, the hub between them, links, fake browsers. Everything
//! happens in the order of (time, when it was decided), and all randomness comes from one seed: the same seed gives the
//! same run, datagram by datagram. Tests and benches drive it; `visitor` adds what clients say.

use std::collections::{BTreeMap, VecDeque};
use std::hash::Hasher;
use std::net::SocketAddr;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustc_hash::FxHasher;
use serde_json::Value;

use crate::base::buffer::{Batch, Leg, LocalIndex, Path, Run, Transmit};
use crate::base::id::{ProducerId, ShardId, ShardLabel, TransportId};
use crate::base::time::{Duration, Instant, Now, NtpTime};
use crate::secure::dtls::Keying;
use crate::secure::srtp::SrtpProfile;
use crate::shard::command::{Command, Event};
use crate::shard::{PathChange, Shard, ShardSettings};
use crate::signal::{Candidate, ChannelSpread, Hub, HubSettings, LastN, Output, SessionId};
use crate::sim::across::{Across, AcrossSettings, lane_local};
use crate::sim::browser::Browser;
use crate::sim::engine::SimEngine;
use crate::sim::link::LinkModel;
use crate::sim::script::fingerprint;
use crate::sim::tap::{Tap, TappedEngine};
use crate::transport::stun::peek;
use crate::wire::{Kind, classify};

pub const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), 40_000);
const CERTIFICATE: &[u8] = b"certificate of the server";
/// The delay of a command or an event through the door, and of a record over the mesh.
pub(super) const DOOR: Duration = Duration::from_micros(50);
const MESH: Duration = Duration::from_micros(20);
const BATCH: usize = 64;
/// A shard or a browser that is due again at the same instant this often has a deadline that it never clears.
const ROUNDS_MAX: usize = 10_000;

#[derive(Clone, Debug)]
pub struct WorldSettings {
    pub seed: u64,
    pub shards: u16,
    /// The kernel brings each datagram to its owner; otherwise shards hand over those of others.
    pub steered: bool,
    pub profile: SrtpProfile,
    pub spread: ChannelSpread,
    pub last_n: LastN,
    /// Each shard is a node of its own, and what crosses goes over lanes of this kind.
    pub across: Option<AcrossSettings>,
}

impl WorldSettings {
    pub const fn seeded(seed: u64) -> WorldSettings {
        WorldSettings {
            seed,
            shards: 1,
            steered: true,
            profile: SrtpProfile::AeadAes128Gcm,
            spread: ChannelSpread::Auto,
            last_n: LastN::Peers,
            across: None,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct EndId(pub usize);

pub(super) enum Happening {
    ToServer { path: Path, bytes: Vec<u8> },
    ToClient { to: SocketAddr, bytes: Vec<u8> },
    Command { shard: usize, command: Command },
    Event(Event),
    Mesh { from: usize, to: usize, record: Vec<u8> },
    WakeShard(usize),
    WakeEnd(EndId),
    WakeHub,
}

pub(super) struct ShardPlace {
    pub(super) shard: Shard,
    batch: Batch,
    touched: bool,
    wake: Option<Instant>,
}

/// A client's end of one transport.
pub struct End {
    pub browser: Browser,
    pub(super) engine: TappedEngine,
    pub(super) address: SocketAddr,
    /// Of the server's: where its datagrams arrive.
    pub(super) leg: Leg,
    pub up: LinkModel,
    pub down: LinkModel,
    pub tap_up: Option<Tap>,
    pub tap_down: Option<Tap>,
    pub(super) open: bool,
    touched: bool,
    wake: Option<Instant>,
}

impl End {
    /// The keys of its transport, once it is connected.
    pub fn keying(&self) -> Option<Keying> {
        self.engine.keys().borrow().clone()
    }
}

/// What the hub ordered last, under its own numbers, and where.
#[derive(Default)]
pub(super) struct Newest {
    pub transport: Option<(ShardId, TransportId)>,
    pub producer: Option<(ShardId, ProducerId)>,
}

pub struct World {
    pub(super) settings: WorldSettings,
    now: Instant,
    queue: BTreeMap<(Instant, u64), Happening>,
    decided: u64,
    pub(super) hub: Hub,
    pub(super) newest: Newest,
    hub_wake: Option<Instant>,
    pub(super) places: Vec<ShardPlace>,
    pub(super) ends: Vec<End>,
    addresses: BTreeMap<SocketAddr, EndId>,
    /// Former addresses: datagrams to them are lost, but were sent.
    moved_from: BTreeMap<SocketAddr, EndId>,
    /// The kernel's map of paths, where it steers.
    paths: BTreeMap<Path, usize>,
    /// Sockets that one shard alone has.
    pub(super) sockets: BTreeMap<Leg, usize>,
    pub(super) inboxes: BTreeMap<SessionId, VecDeque<Value>>,
    pub(super) rng: SmallRng,
    pub across: Option<Across>,
    trace: FxHasher,
    /// Everything that clients sent, as an eavesdropper has it; None: nobody listens.
    pub overheard: Option<Vec<(Path, Vec<u8>)>>,
    /// Datagrams for no one: the client has moved or left, or the path was never up.
    pub astray: u64,
    /// Bytes that the shards sent to addresses of nobody.
    pub astray_bytes: u64,
}

/// What a shard sends, datagram by datagram.
#[derive(Default)]
pub struct SentDatagrams(pub Vec<(Path, Vec<u8>)>);

impl Transmit for SentDatagrams {
    fn transmit(&mut self, buffer: &[u8], runs: &[Run]) {
        for run in runs {
            self.0.extend(run.datagrams(buffer).map(|datagram| (run.path, datagram.to_vec())));
        }
    }
}

fn label(shard: u16) -> ShardLabel {
    ShardLabel([b'a' + (shard / 26) as u8, b'a' + (shard % 26) as u8])
}

impl World {
    pub fn new(settings: WorldSettings) -> World {
        let mut rng = SmallRng::seed_from_u64(settings.seed);
        let labels: Vec<_> = (0..settings.shards).map(|shard| (ShardId(shard), label(shard))).collect();
        let candidate = Candidate { shard: None, ip: SERVER.ip(), port: SERVER.port(), priority: 2_130_706_431 };
        let hub = Hub::new(HubSettings {
            shards: labels.clone(),
            candidates: vec![candidate],
            fingerprint_sha256: fingerprint(CERTIFICATE),
            spread: settings.spread,
            last_n: settings.last_n,
            log: Default::default(),
            quotas: Default::default(),
            ice_servers: Default::default(),
            returns: Default::default(),
            seed: rng.random(),
        });
        let start = Instant::ZERO + Duration::from_secs(1);
        let lane = |shard| settings.across.map(|_| lane_local(shard));
        let places = labels.iter().map(|(id, _)| {
            let (labels, handover) = (labels.clone(), !settings.steered);
            let shard_settings = ShardSettings { id: *id, labels, seed: rng.random(), lane: lane(*id), handover };
            let engine = SimEngine::new(settings.profile, CERTIFICATE.to_vec(), rng.random());
            let shard = Shard::new(shard_settings, Box::new(engine));
            ShardPlace { shard, batch: Batch::new(BATCH), touched: false, wake: None }
        });
        let mut world = World {
            places: places.collect(),
            hub,
            newest: Newest::default(),
            hub_wake: None,
            settings,
            now: start,
            queue: BTreeMap::new(),
            decided: 0,
            ends: Vec::new(),
            addresses: BTreeMap::new(),
            moved_from: BTreeMap::new(),
            paths: BTreeMap::new(),
            sockets: BTreeMap::new(),
            inboxes: BTreeMap::new(),
            across: None,
            rng,
            trace: FxHasher::default(),
            overheard: None,
            astray: 0,
            astray_bytes: 0,
        };
        world.join_nodes();
        world
    }

    pub fn seeded(seed: u64) -> World {
        World::new(WorldSettings::seeded(seed))
    }

    pub fn now(&self) -> Instant {
        self.now
    }

    pub fn rng(&mut self) -> &mut SmallRng {
        &mut self.rng
    }

    /// A digest of every datagram so far, with its time, its way and its fate.
    pub fn trace(&self) -> u64 {
        self.trace.finish()
    }

    pub fn shards(&self) -> u16 {
        self.settings.shards
    }

    pub fn end(&mut self, end: EndId) -> &mut End {
        &mut self.ends[end.0]
    }

    pub fn run(&mut self, span: Duration) {
        let until = self.now + span;
        self.run_until(until, |_| false);
    }

    /// Runs until `done`, which is asked after every instant at which something happened; returns how long it took, or
    /// None when it did not happen within `at_most`.
    pub fn wait(&mut self, at_most: Duration, done: impl FnMut(&mut World) -> bool) -> Option<Duration> {
        let start = self.now;
        self.run_until(start + at_most, done).then(|| self.now.since(start))
    }

    fn run_until(&mut self, until: Instant, mut done: impl FnMut(&mut World) -> bool) -> bool {
        // An action from outside may have made something due.
        self.settle();
        while !done(self) {
            match self.queue.first_key_value() {
                Some((&(next, _), _)) if next <= until => self.now = next.max(self.now),
                _ => {
                    self.now = until;
                    return false;
                }
            }
            while let Some(entry) = self.queue.first_entry() {
                if entry.key().0 > self.now {
                    break;
                }
                let happening = entry.remove();
                self.happen(happening);
            }
            self.settle();
        }
        true
    }

    pub(super) fn decide(&mut self, at: Instant, happening: Happening) {
        self.decided += 1;
        self.queue.insert((at, self.decided), happening);
    }

    fn happen(&mut self, happening: Happening) {
        let now = at(self.now);
        match happening {
            Happening::ToServer { path, bytes } => match self.receiver(path, &bytes) {
                Some(shard) => {
                    if !self.places[shard].batch.push(path, now.mono, &bytes) {
                        self.run_shard(shard);
                        self.places[shard].batch.push(path, now.mono, &bytes);
                    }
                    self.places[shard].touched = true;
                }
                None => self.astray += 1,
            },
            Happening::ToClient { to, mut bytes } => match self.addresses.get(&to).map(|end| &mut self.ends[end.0]) {
                Some(end) if end.open => {
                    end.browser.handle_datagram(now, &mut end.engine, SERVER, &mut bytes);
                    end.touched = true;
                }
                _ => self.astray += 1,
            },
            Happening::Command { shard, command } => {
                self.places[shard].shard.handle_command(now, command);
                self.places[shard].touched = true;
            }
            Happening::Event(event) => {
                self.hub.handle_event(self.now, event);
                self.drain_hub();
            }
            Happening::Mesh { from, to, record } => {
                self.places[to].shard.handle_mesh(now, ShardId(from as u16), MESH, &record);
                self.places[to].touched = true;
            }
            Happening::WakeShard(shard) => {
                self.places[shard].wake = None;
                self.places[shard].touched = true;
            }
            Happening::WakeEnd(end) => {
                self.ends[end.0].wake = None;
                self.ends[end.0].touched = true;
            }
            Happening::WakeHub => {
                self.hub_wake = None;
                self.hub.handle_timeout(self.now);
                self.drain_hub();
            }
        }
    }

    /// The shard whose socket a datagram leaves by.
    fn receiver(&self, path: Path, bytes: &[u8]) -> Option<usize> {
        if let Some(shard) = self.sockets.get(&path.leg) {
            return Some(*shard);
        }
        if !self.settings.steered {
            return Some(usize::from(path.remote.port()) % self.places.len());
        }
        if classify(bytes) != Kind::Stun {
            return self.paths.get(&path).copied();
        }
        let ufrag = peek(bytes).ok()?.local_ufrag?;
        (0..self.settings.shards).find(|shard| ufrag.starts_with(&label(*shard).0)).map(usize::from)
    }

    /// Lets everyone who was touched act.
    fn settle(&mut self) {
        for shard in 0..self.places.len() {
            if std::mem::take(&mut self.places[shard].touched) {
                self.run_shard(shard);
            }
        }
        for end in 0..self.ends.len() {
            if std::mem::take(&mut self.ends[end].touched) {
                self.run_end(EndId(end));
            }
        }
    }

    /// One round of a shard's loop as `net` runs it, and more while it is due again at once.
    fn run_shard(&mut self, at_shard: usize) {
        let now = at(self.now);
        let mut sent = SentDatagrams::default();
        for _ in 0..ROUNDS_MAX {
            let ShardPlace { shard, batch, .. } = &mut self.places[at_shard];
            let media = shard.handle_batch(now, batch);
            batch.clear();
            if media > 0 || shard.poll_timeout().is_some_and(|due| due <= now.mono) {
                shard.handle_timeout(now);
            }
            shard.flush(now, &mut sent);
            while let Some(change) = shard.poll_path() {
                let (PathChange::Up(path) | PathChange::Taken(path) | PathChange::Down(path)) = change;
                let other = self.paths.get(&path).copied().filter(|other| *other != at_shard);
                match (change, other) {
                    (PathChange::Up(_), Some(other)) => shard.path_is_held(path, ShardId(other as u16)),
                    (PathChange::Up(_), None) | (PathChange::Taken(_), _) => drop(self.paths.insert(path, at_shard)),
                    (PathChange::Down(_), None) => drop(self.paths.remove(&path)),
                    (PathChange::Down(_), Some(_)) => {}
                }
            }
            let events: Vec<_> = std::iter::from_fn(|| shard.poll_event()).collect();
            let mut records = Vec::new();
            shard.poll_mesh(&mut |to, record| {
                records.push((usize::from(to.0), record.to_vec()));
                true
            });
            let due = shard.poll_timeout();
            for event in events {
                self.decide(self.now + DOOR, Happening::Event(event));
            }
            for (to, record) in records {
                assert!(self.across.is_none(), "nodes have no mesh between them");
                self.decide(self.now + MESH, Happening::Mesh { from: at_shard, to, record });
            }
            for (path, bytes) in std::mem::take(&mut sent.0) {
                self.send_down(path, bytes);
            }
            if due.is_none_or(|due| due > self.now) {
                self.wake_shard_at(at_shard, due);
                return;
            }
        }
        panic!("shard {at_shard} is due again and again at {:?}", self.now);
    }

    fn wake_shard_at(&mut self, shard: usize, due: Option<Instant>) {
        let Some(due) = due else { return };
        if self.places[shard].wake.is_none_or(|wake| due < wake) {
            self.places[shard].wake = Some(due);
            self.decide(due, Happening::WakeShard(shard));
        }
    }

    pub(super) fn run_end(&mut self, id: EndId) {
        let now = at(self.now);
        for _ in 0..ROUNDS_MAX {
            let end = &mut self.ends[id.0];
            if !end.open {
                return;
            }
            if end.browser.deadline(&end.engine).is_some_and(|due| due <= now.mono) {
                end.browser.handle_timeout(now, &mut end.engine);
            }
            let mut sent = Vec::new();
            while let Some(datagram) = end.browser.poll_transmit() {
                sent.push(datagram.bytes);
            }
            let due = end.browser.deadline(&end.engine);
            for bytes in sent {
                self.send_up(id, bytes);
            }
            let end = &mut self.ends[id.0];
            if due.is_none_or(|due| due > self.now) {
                if let Some(due) = due.filter(|due| end.wake.is_none_or(|wake| *due < wake)) {
                    end.wake = Some(due);
                    self.decide(due, Happening::WakeEnd(id));
                }
                return;
            }
        }
        panic!("end {id:?} is due again and again at {:?}", self.now);
    }

    fn send_up(&mut self, id: EndId, bytes: Vec<u8>) {
        let end = &mut self.ends[id.0];
        let arrivals = end.up.send(self.now, bytes.len(), &mut self.rng);
        if let Some(tap) = &mut end.tap_up {
            tap.listen(self.now, arrivals[0], &bytes);
        }
        let path = Path { leg: end.leg, remote: end.address };
        self.note(b'u', path.remote, &bytes, arrivals);
        if let Some(overheard) = &mut self.overheard {
            overheard.push((path, bytes.clone()));
        }
        for arrival in arrivals.into_iter().flatten() {
            self.decide(arrival, Happening::ToServer { path, bytes: bytes.clone() });
        }
    }

    /// Tells the nodes of each other, where shards are nodes.
    fn join_nodes(&mut self) {
        let Some(settings) = self.settings.across else { return };
        let across = Across::new(settings, self.settings.shards, CERTIFICATE);
        for shard in 0..self.places.len() {
            self.sockets.insert(Leg::Udp(lane_local(ShardId(shard as u16))), shard);
            self.decide(self.now + DOOR, Happening::Command { shard, command: across.nodes(shard) });
        }
        self.across = Some(across);
    }

    fn send_across(&mut self, path: Path, bytes: &[u8]) {
        let Some(across) = &mut self.across else { return };
        let sent = across.send(self.now, path, bytes.len(), &mut self.rng);
        let Some((path, arrivals)) = sent else { return };
        for arrival in arrivals.into_iter().flatten() {
            self.decide(arrival, Happening::ToServer { path, bytes: bytes.to_vec() });
        }
    }

    fn send_down(&mut self, path: Path, bytes: Vec<u8>) {
        if self.across.is_some() && path.leg != Leg::Udp(LocalIndex(0)) {
            return self.send_across(path, &bytes);
        }
        let Some(end) = self.addresses.get(&path.remote).map(|end| &mut self.ends[end.0]) else {
            self.astray += 1;
            self.astray_bytes += bytes.len() as u64;
            if let Some(end) = self.moved_from.get(&path.remote)
                && let Some(tap) = &mut self.ends[end.0].tap_down
            {
                tap.listen(self.now, None, &bytes);
            }
            return;
        };
        let arrivals = end.down.send(self.now, bytes.len(), &mut self.rng);
        if let Some(tap) = &mut end.tap_down {
            tap.listen(self.now, arrivals[0], &bytes);
        }
        self.note(b'd', path.remote, &bytes, arrivals);
        for arrival in arrivals.into_iter().flatten() {
            self.decide(arrival, Happening::ToClient { to: path.remote, bytes: bytes.clone() });
        }
    }

    fn note(&mut self, way: u8, remote: SocketAddr, bytes: &[u8], arrivals: [Option<Instant>; 2]) {
        self.trace.write_u8(way);
        self.trace.write_u64(self.now.as_nanos());
        self.trace.write_u16(remote.port());
        for arrival in arrivals {
            self.trace.write_u64(arrival.map_or(0, Instant::as_nanos));
        }
        self.trace.write(bytes);
    }

    /// Carries out the hub's outputs.
    pub(super) fn drain_hub(&mut self) {
        while let Some(output) = self.hub.poll_output() {
            match output {
                Output::Send { session, text, .. } => {
                    let message = serde_json::from_str(&text.to_string()).expect("the hub speaks JSON");
                    self.inboxes.entry(session).or_default().push_back(message);
                }
                // A moderator has put it out; what it was told last stays in its inbox.
                Output::Disconnect { code: 4403, .. } => {}
                Output::Verify(question) => panic!("nobody sends a token here: {question:?}"),
                Output::Disconnect { session, code, reason } => panic!("{session:?} is cut off: {code} {reason}"),
                Output::Command { shard, command } => {
                    match &command {
                        Command::CreateTransport { transport, .. } => self.newest.transport = Some((shard, *transport)),
                        Command::Produce { producer, .. } => self.newest.producer = Some((shard, *producer)),
                        _ => {}
                    }
                    let commands = match &mut self.across {
                        Some(across) => across.commands(shard, command),
                        None => vec![command],
                    };
                    for command in commands {
                        self.decide(self.now + DOOR, Happening::Command { shard: usize::from(shard.0), command });
                    }
                }
            }
        }
        if let Some(due) = self.hub.poll_timeout()
            && self.hub_wake.is_none_or(|wake| due < wake)
        {
            self.hub_wake = Some(due);
            self.decide(due, Happening::WakeHub);
        }
    }

    pub(super) fn add_end(&mut self, browser: Browser, engine: TappedEngine, links: [LinkModel; 2]) -> EndId {
        let id = EndId(self.ends.len());
        let [up, down] = links;
        let address = SocketAddr::from(([198, 51, 100, 1], 1_024 + id.0 as u16));
        self.addresses.insert(address, id);
        self.ends.push(End {
            browser,
            engine,
            address,
            leg: Leg::Udp(LocalIndex(0)),
            up,
            down,
            tap_up: None,
            tap_down: None,
            open: true,
            touched: true,
            wake: None,
        });
        id
    }

    pub fn address(&self, id: EndId) -> SocketAddr {
        self.ends[id.0].address
    }

    /// The shards alone, in their present state.
    pub fn into_shards(self) -> impl Iterator<Item = Shard> {
        self.places.into_iter().map(|place| place.shard)
    }

    /// The client's NAT gives it another address: datagrams to the old one are lost.
    pub fn move_end(&mut self, id: EndId, address: SocketAddr) {
        self.addresses.remove(&self.ends[id.0].address);
        self.moved_from.insert(self.ends[id.0].address, id);
        self.addresses.insert(address, id);
        self.ends[id.0].address = address;
    }

    /// Call after its browser was changed from outside, so that it acts.
    pub fn touch(&mut self, id: EndId) {
        self.ends[id.0].touched = true;
    }
}

/// The clocks at a moment of the world.
pub fn at(mono: Instant) -> Now {
    const START: Duration = Duration::from_secs(1_790_000_000);
    Now { mono, wall: NtpTime::from_unix(START + Duration::from_nanos(mono.as_nanos())) }
}
