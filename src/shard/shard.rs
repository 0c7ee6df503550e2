//! The arenas of one core, the order in which its work is done, and its one queue of deadlines.

use std::collections::HashMap;

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::base::buffer::{Batch, Path, Transmit};
use crate::base::id::{ShardId, ShardLabel, ShortName};
use crate::base::limits::{SETTLED_PER_TURN_MAX, STUN_BESIDE_MEDIA_MAX, TRANSPORTS_PER_SHARD_MAX};
use crate::base::slab::Key;
use crate::base::time::{Instant, Now};
use crate::secure::dtls::SecureEngine;
use crate::shard::budget::Budget;
use crate::shard::command::Event;
use crate::shard::commons::Commons;
use crate::shard::drops::Drop;
use crate::shard::early::Early;
use crate::shard::handshake_quota::HandshakeQuota;
use crate::shard::hearing::Hearing;
use crate::shard::ledger::PathChange;
use crate::shard::outlet::Leaving;
use crate::shard::overload::Overload;
use crate::shard::paths::Paths;
use crate::shard::rtcp_in::Ahead;
use crate::shard::timers::Wake;
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

pub struct Shard {
    pub(super) settings: ShardSettings,
    pub(super) engine: Box<dyn SecureEngine>,
    pub(super) rng: StdRng,
    pub(super) commons: Commons,

    pub(super) ufrags: HashMap<ShortName, Key<Transport>>,
    pub(super) paths: Paths,
    /// Paths that other shards own (only where the kernel does not steer).
    pub(super) elsewhere: HashMap<Path, ShardId>,

    pub(super) early: Early,
    pub(super) handshake_quota: HandshakeQuota,
    pub(super) overload: Overload,
    pub(super) budget: Budget,
    pub(super) hearing: Hearing,
    pub(super) stopped: bool,
}

impl Shard {
    pub fn new(settings: ShardSettings, engine: Box<dyn SecureEngine>, _now: Now) -> Shard {
        let rng = StdRng::from_seed(settings.seed);
        Shard {
            settings,
            engine,
            rng,
            commons: Commons::default(),
            ufrags: HashMap::with_capacity(TRANSPORTS_PER_SHARD_MAX),
            paths: Paths::with_capacity(TRANSPORTS_PER_SHARD_MAX),
            elsewhere: HashMap::new(),
            early: Early::default(),
            handshake_quota: HandshakeQuota::default(),
            overload: Overload::default(),
            budget: Budget::default(),
            hearing: Hearing::default(),
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
                        self.commons.ledger.drops.count(Drop::Shed);
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
                Kind::Stun if stun_budget == 0 => self.commons.ledger.drops.count(Drop::StunBudget),
                Kind::Stun => {
                    stun_budget -= 1;
                    self.handle_stun(now, slot.path, slot.bytes());
                }
                Kind::Dtls => self.handle_dtls(now, slot.path, slot.bytes()),
                Kind::Unknown => self.commons.ledger.drops.count(Drop::UnknownProtocol),
                Kind::Rtp | Kind::Rtcp => {}
            }
        }
        self.commons.current = None;
        arrivals
    }

    /// Does all that is due by `now`. Call when [`Shard::poll_timeout`] says so, and in rounds with media.
    pub fn handle_timeout(&mut self, now: Now) {
        for wake in [Wake::Prompt, Wake::Patient] {
            while let Some((at, key)) = self.commons.timers.pop_due(wake, now.mono) {
                let Some(transport) = self.commons.registry.transports.get_mut(key) else { continue };
                let armed = match wake {
                    Wake::Prompt => &mut transport.armed,
                    Wake::Patient => &mut transport.armed_patient,
                };
                if armed.take_if(|armed| *armed == at).is_none() {
                    continue;
                }
                self.commons.current = Some(key);
                self.transport_timeout(now, key);
            }
        }
        self.commons.current = None;
        self.commons.port.give_up_awaited(now.mono);
        self.tell_layers(now);
    }

    /// Does the settling, seals what is due and hands it on; then takes the results of handshakes.
    pub fn flush<T: Transmit>(&mut self, now: Now, out: &mut T) {
        self.settle(now);
        let Commons { registry, outlet, ledger, current, .. } = &mut self.commons;
        let leaving = Leaving {
            transports: &mut registry.transports,
            sources: &registry.sources,
            drops: &mut ledger.drops,
            events: &mut ledger.events,
            rng: &mut self.rng,
            current,
        };
        outlet.flush(now, leaving, out);
        outlet.slab.finish(out);
        self.pump_handshakes(now);
        self.commons.outlet.finish(out);
        self.commons.current = None;
    }

    /// Does what commands and feedback have left to be done.
    fn settle(&mut self, now: Now) {
        if self.commons.settling.is_empty() {
            return;
        }
        self.commons.settling.spread(&mut self.commons.registry);
        let mut left = SETTLED_PER_TURN_MAX;
        while left > 0
            && let Some(key) = self.commons.settling.next_transport()
        {
            self.commons.current = Some(key);
            left = left.saturating_sub(1 + self.share_now(now, key));
        }
        while left > 0
            && let Some(key) = self.commons.settling.next_consumer()
        {
            self.commons.current = self.commons.registry.consumers.get(key).map(|consumer| consumer.transport);
            self.reopen(now, key);
            left -= 1;
        }
        self.commons.current = None;
    }

    /// The next moment at which something must be done without any input.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let unsettled = (!self.commons.settling.is_empty()).then_some(Instant::ZERO);
        let (handshakes, news) = (self.engine.next_deadline(), self.commons.news.due());
        let others =
            [self.commons.timers.next(), self.commons.outlet.next_deadline(), self.commons.port.next_deadline()];
        [unsettled, handshakes, news].into_iter().chain(others).flatten().min()
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.commons.ledger.events.pop_front()
    }

    pub fn poll_path(&mut self) -> Option<PathChange> {
        self.commons.ledger.path_changes.pop_front()
    }

    /// Gives every record for another shard to `sink`, which says whether there was room for it.
    pub fn poll_mesh(&mut self, sink: &mut dyn FnMut(ShardId, &[u8]) -> bool) {
        let lost = self.commons.port.poll(sink);
        self.commons.ledger.drops.add(Drop::MeshFull, lost);
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    pub(super) fn send_counts(&self) -> crate::transport::send_slab::SendCounts {
        self.commons.outlet.slab.counts
    }
}
