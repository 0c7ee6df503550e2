//! The arenas of one core, the order in which its work is done, and its one queue of deadlines.

use std::collections::{HashMap, VecDeque};

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::base::buffer::{Batch, Path, Transmit};
use crate::base::id::{ShardId, ShardLabel, ShortName};
use crate::base::limits::{STUN_BESIDE_MEDIA_MAX, TRANSPORTS_PER_SHARD_MAX};
use crate::base::slab::Key;
use crate::base::time::{Instant, Now};
use crate::router::pass::ForwardCounts;
use crate::secure::dtls::SecureEngine;
use crate::shard::budget::Budget;
use crate::shard::command::Event;
use crate::shard::drops::{Drop, Drops};
use crate::shard::early::Early;
use crate::shard::handshake_quota::HandshakeQuota;
use crate::shard::hearing::Hearing;
use crate::shard::layers::LayerNews;
use crate::shard::outlet::{Leaving, Outlet};
use crate::shard::overload::Overload;
use crate::shard::paths::Paths;
use crate::shard::port::Port;
use crate::shard::registry::Registry;
use crate::shard::rtcp_in::Ahead;
use crate::shard::settling::Settling;
use crate::shard::stats::Counters;
use crate::shard::timers::{Timers, Wake};
use crate::transport::Transport;
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

pub struct Shard {
    pub(super) settings: ShardSettings,
    pub(super) engine: Box<dyn SecureEngine>,
    pub(super) rng: StdRng,

    pub(super) registry: Registry,
    pub(super) ufrags: HashMap<ShortName, Key<Transport>>,
    pub(super) paths: Paths,
    /// Paths that other shards own (only where the kernel does not steer).
    pub(super) elsewhere: HashMap<Path, ShardId>,

    pub(super) early: Early,
    pub(super) handshake_quota: HandshakeQuota,

    pub(super) layer_news: LayerNews,
    pub(super) settling: Settling,
    pub(super) outlet: Outlet,
    pub(super) timers: Timers,
    pub(super) port: Port,

    pub(super) events: VecDeque<Event>,
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

impl Shard {
    pub fn new(settings: ShardSettings, engine: Box<dyn SecureEngine>, _now: Now) -> Shard {
        let rng = StdRng::from_seed(settings.seed);
        Shard {
            settings,
            engine,
            rng,
            registry: Registry::default(),
            ufrags: HashMap::with_capacity(TRANSPORTS_PER_SHARD_MAX),
            paths: Paths::with_capacity(TRANSPORTS_PER_SHARD_MAX),
            elsewhere: HashMap::new(),
            early: Early::default(),
            handshake_quota: HandshakeQuota::default(),
            layer_news: LayerNews::default(),
            settling: Settling::default(),
            outlet: Outlet::default(),
            timers: Timers::default(),
            port: Port::default(),
            events: VecDeque::new(),
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
        for wake in [Wake::Prompt, Wake::Patient] {
            while let Some((at, key)) = self.timers.pop_due(wake, now.mono) {
                let Some(transport) = self.registry.transports.get_mut(key) else { continue };
                let armed = match wake {
                    Wake::Prompt => &mut transport.armed,
                    Wake::Patient => &mut transport.armed_patient,
                };
                if armed.take_if(|armed| *armed == at).is_none() {
                    continue;
                }
                self.current = Some(key);
                self.transport_timeout(now, key);
            }
        }
        self.current = None;
        self.port.give_up_awaited(now.mono);
        self.tell_layers(now);
    }

    /// Schedules the transport no later than `at`.
    pub(super) fn arm(&mut self, key: Key<Transport>, at: Instant) {
        if let Some(transport) = self.registry.transports.get_mut(key) {
            self.timers.arm(Wake::Prompt, &mut transport.armed, key, at);
        }
    }

    /// The same for work that can wait for media.
    pub(super) fn arm_patient(&mut self, key: Key<Transport>, at: Instant) {
        if let Some(transport) = self.registry.transports.get_mut(key) {
            self.timers.arm(Wake::Patient, &mut transport.armed_patient, key, at);
        }
    }

    /// Does the settling, seals what is due and hands it on; then takes the results of handshakes.
    pub fn flush<T: Transmit>(&mut self, now: Now, out: &mut T) {
        self.settle(now);
        let leaving = Leaving {
            transports: &mut self.registry.transports,
            sources: &self.registry.sources,
            drops: &mut self.drops,
            events: &mut self.events,
            rng: &mut self.rng,
            current: &mut self.current,
        };
        self.outlet.flush(now, leaving, out);
        self.outlet.slab.finish(out);
        self.pump_handshakes(now);
        self.outlet.finish(out);
        self.current = None;
    }

    /// The next moment at which something must be done without any input.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let unsettled = (!self.settling.is_empty()).then_some(Instant::ZERO);
        let (handshakes, news) = (self.engine.next_deadline(), self.layer_news.due());
        let others = [self.timers.next(), self.outlet.next_deadline(), self.port.next_deadline()];
        [unsettled, handshakes, news].into_iter().chain(others).flatten().min()
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    pub fn poll_path(&mut self) -> Option<PathChange> {
        self.path_changes.pop_front()
    }

    /// Gives every record for another shard to `sink`, which says whether there was room for it.
    pub fn poll_mesh(&mut self, sink: &mut dyn FnMut(ShardId, &[u8]) -> bool) {
        let lost = self.port.poll(sink);
        self.drops.add(Drop::MeshFull, lost);
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    pub(super) fn send_counts(&self) -> crate::transport::send_slab::SendCounts {
        self.outlet.slab.counts
    }
}
