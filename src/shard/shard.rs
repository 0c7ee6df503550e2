//! The state of one core, and the order in which its work is done. The mechanisms that it calls do the work; none calls
//! back. A mechanism returns what it cannot do itself.

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::base::buffer::{Batch, DATAGRAM_MAX, LocalIndex, Path, Transmit};
use crate::base::id::{ShardId, ShardLabel};
use crate::base::limits::{SETTLED_PER_TURN_MAX, STUN_BESIDE_MEDIA_MAX};
use crate::base::slab::Key;
use crate::base::time::{Instant, Now};
use crate::router::keys::ProducerKey;
use crate::secure::SecureDrop;
use crate::secure::dtls::SecureEngine;
use crate::shard::ahead::Ahead;
use crate::shard::bandwidth;
use crate::shard::binding;
use crate::shard::closing;
use crate::shard::command::{Closed, Event};
use crate::shard::commons::Commons;
use crate::shard::connecting::{self, Connecting, SetupStep};
use crate::shard::deadlines;
use crate::shard::demux::{Demux, Owner};
use crate::shard::drops::ShardDrop;
use crate::shard::early::{Early, EarlyPacket};
use crate::shard::effort::Effort;
use crate::shard::flow;
use crate::shard::incoming::{self, Intake, RtpTaken};
use crate::shard::keyframes;
use crate::shard::lanes::{Lanes, Work, lane_of};
use crate::shard::layers;
use crate::shard::ledger::PathChange;
use crate::shard::limbo::Waiting;
use crate::shard::outlet::Leaving;
use crate::shard::paths::Rival;
use crate::shard::plain_rtp;
use crate::shard::received::Received;
use crate::shard::relay::Handover;
use crate::shard::reports;
use crate::shard::rtcp_in::{Reading, RtcpTaken};
use crate::shard::silence;
use crate::shard::timers::Wake;
use crate::transport::Transport;
use crate::transport::link::Link;
use crate::wire::rtp::RtpHeader;
use crate::wire::{Kind, classify};

pub struct ShardSettings {
    pub id: ShardId,
    /// The labels of all shards, this one too: a ufrag begins with the label of its own.
    pub labels: Vec<(ShardId, ShardLabel)>,
    pub seed: [u8; 32],
    /// Where the datagrams of lanes to other nodes arrive; None: this shard has no lanes.
    pub lane: Option<LocalIndex>,
    /// The kernel does not steer by path: tell the other shards which paths are ours, so that they hand over.
    pub handover: bool,
}

pub struct Shard {
    pub(super) commons: Commons,
    pub(super) demux: Demux,
    pub(super) connecting: Connecting,
    pub(super) intake: Intake,
    pub(super) lanes: Lanes,
    early: Early,
    pub(super) rng: StdRng,
    pub(super) stopped: bool,
}

impl Shard {
    pub fn new(settings: ShardSettings, engine: Box<dyn SecureEngine>) -> Shard {
        let ShardSettings { id, labels, seed, lane, handover } = settings;
        Shard {
            commons: Commons::default(),
            demux: Demux::new(id, labels, handover),
            connecting: Connecting::new(engine),
            intake: Intake::default(),
            lanes: Lanes::new(lane, id),
            early: Early::default(),
            rng: StdRng::from_seed(seed),
            stopped: false,
        }
    }

    /// Handles a batch: media first, then STUN within its budget, and DTLS, which the engine must not work on at once,
    /// because one step of a handshake takes as long as a thousand packets. Returns the number of arrivals of media:
    /// datagrams of one sender in a row, such as a frame, count as one. After a panic it may be called again with the
    /// same batch, for the rest of it.
    pub fn handle_batch(&mut self, now: Now, batch: &mut Batch) -> usize {
        let (mut arrivals, mut sender) = (0, None);
        // Without media there is nothing that checks could delay.
        let mut stun_budget = usize::MAX;
        let slots = batch.slots_mut();
        let mut ahead = Ahead::default();
        for at in 0..slots.len() {
            ahead.prefetch(&self.demux.paths, &self.commons.registry.transports, slots.get(at + Ahead::BY));
            let slot = &mut slots[at];
            let path = slot.path;
            match classify(slot.bytes()) {
                Kind::Rtp if slot.take() => {
                    arrivals += usize::from(sender.replace(path) != Some(path));
                    stun_budget = STUN_BESIDE_MEDIA_MAX;
                    if self.intake.overload.on_media(now.mono.since(slot.arrived)) && self.is_video(path, slot.bytes())
                    {
                        self.commons.ledger.drops.count(ShardDrop::Shed);
                        continue;
                    }
                    self.handle_media(now, Kind::Rtp, slot.arrived.min(now.mono), path, slot.bytes_mut());
                }
                Kind::Rtcp if slot.take() => {
                    self.handle_media(now, Kind::Rtcp, slot.arrived, path, slot.bytes_mut());
                }
                _ if self.lanes.takes(path) && slot.take() => {
                    arrivals += usize::from(sender.replace(path) != Some(path));
                    self.handle_lane(now, slot.arrived.min(now.mono), path, slot.bytes_mut());
                }
                _ => {}
            }
        }
        self.intake.overload.end_batch(now.mono);
        for slot in batch.slots_mut() {
            if !slot.take() {
                continue;
            }
            match classify(slot.bytes()) {
                Kind::Stun if stun_budget == 0 => self.commons.ledger.drops.count(ShardDrop::StunBudget),
                Kind::Stun => {
                    stun_budget -= 1;
                    self.handle_stun(now, slot.path, slot.bytes());
                }
                Kind::Dtls => self.handle_dtls(now, slot.path, slot.bytes()),
                Kind::Unknown => self.commons.ledger.drops.count(ShardDrop::UnknownProtocol),
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
        layers::tell(&mut self.commons, now);
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
        self.run_lanes(now, out);
        self.commons.outlet.buffer.finish(out);
        self.pump_handshakes(now);
        self.commons.outlet.finish(out);
        self.commons.current = None;
    }

    /// Does the work that commands and feedback have noted.
    fn settle(&mut self, now: Now) {
        let commons = &mut self.commons;
        if commons.settling.is_empty() {
            return;
        }
        commons.settling.spread(&mut commons.registry);
        let mut left = SETTLED_PER_TURN_MAX;
        while left > 0
            && let Some(key) = commons.settling.next_transport()
        {
            commons.current = Some(key);
            left = left.saturating_sub(1 + bandwidth::settle(commons, now, key));
        }
        while left > 0
            && let Some(key) = commons.settling.next_consumer()
        {
            commons.current = commons.registry.consumers.get(key).map(|consumer| consumer.transport);
            flow::reopen(commons, now, key);
            left -= 1;
        }
        commons.current = None;
    }

    /// Does everything on this transport that is due, and arms it for its next deadline.
    fn transport_timeout(&mut self, now: Now, key: Key<Transport>) {
        connecting::check_consent(&mut self.commons, &mut self.demux, now, key);
        if self.commons.registry.transports.get(key).is_none() {
            return;
        }
        self.start_as_client(now, key);
        let Shard { commons, rng, .. } = self;
        binding::expire_limbo(commons, now, key);
        reports::ask_for_missing(commons, now, key);
        keyframes::repeat(commons, now, key);
        reports::send_transport_feedback(commons, now, key);
        reports::send_reports(commons, rng, now, key);
        bandwidth::look_after(commons, now, key);
        silence::notice(commons, now, key);
        deadlines::rearm(commons, now.mono, key);
    }

    /// The next moment at which work is due without any input.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let Commons { settling, layer_changes, timers, outlet, port, .. } = &self.commons;
        let unsettled = (!settling.is_empty()).then_some(Instant::ZERO);
        let others = [timers.next(), outlet.next_deadline(), port.next_deadline(), self.lanes.next_deadline()];
        [unsettled, self.connecting.next_deadline(), layer_changes.due()].into_iter().chain(others).flatten().min()
    }

    fn handle_lane(&mut self, now: Now, arrived: Instant, path: Path, bytes: &mut [u8]) {
        let Shard { commons, intake, connecting, lanes, .. } = self;
        let mut work = Work { commons, intake, engine: connecting.engine(), now };
        lanes.take(&mut work, arrived, path, bytes);
    }

    fn run_lanes<T: Transmit>(&mut self, now: Now, out: &mut T) {
        let Shard { commons, intake, connecting, lanes, .. } = self;
        lanes.run(&mut Work { commons, intake, engine: connecting.engine(), now }, out);
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
        self.commons.ledger.drops.add(ShardDrop::MeshFull, lost);
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Notes that another shard holds this path. That shard decides whether its own owner keeps it.
    pub fn path_is_held(&mut self, path: Path, by: ShardId) {
        self.demux.path_is_held(&mut self.commons, path, by);
    }

    /// Closes the transport whose bytes were being handled when a panic was caught; nothing else is harmed.
    pub fn fault(&mut self, now: Now) {
        let Shard { commons, demux, .. } = self;
        commons.ledger.counters.faults += 1;
        commons.outlet.buffer.after_fault();
        if let Some(key) = commons.current.take() {
            closing::close_transport(commons, demux, now, key, Some(Closed::Fault));
        }
    }

    /// Hands a datagram over when another shard owns its path, and drops one of nobody.
    fn not_ours(&mut self, owner: Owner, path: Path, datagram: &[u8]) {
        let why = match owner {
            Owner::At(shard) => return self.hand_over(shard, path, datagram),
            Owner::Stranger(_) => ShardDrop::PlainSource,
            Owner::Here(_) | Owner::Nobody => ShardDrop::UnknownPath,
        };
        self.commons.ledger.drops.count(why);
    }

    fn hand_over(&mut self, to: ShardId, path: Path, datagram: &[u8]) {
        self.commons.ledger.counters.handed_over += 1;
        self.commons.port.hand_over(to, Handover::Datagram { path, bytes: datagram });
    }

    /// Handles a datagram of RTP or RTCP.
    fn handle_media(&mut self, now: Now, kind: Kind, arrived: Instant, path: Path, bytes: &mut [u8]) {
        let key = match self.demux.owner(&path) {
            Owner::Here(key) => key,
            Owner::Stranger(key) => return self.take_from_stranger(now, kind, arrived, path, key, bytes),
            owner => return self.not_ours(owner, path, bytes),
        };
        if self.demux.paths.is_contested(&path) {
            return self.sort_out(now, kind, arrived, path, key, bytes);
        }
        if let Err(why) = self.take_media(now, kind, arrived, path, key, bytes) {
            self.commons.ledger.drops.secure(why);
        }
    }

    /// Takes a datagram of media that may be the first of a plain-RTP transport's source.
    fn take_from_stranger(
        &mut self,
        now: Now,
        kind: Kind,
        arrived: Instant,
        path: Path,
        key: Key<Transport>,
        bytes: &mut [u8],
    ) {
        if !plain_rtp::is_awaited(&self.commons, key, kind, bytes) {
            return self.commons.ledger.drops.count(ShardDrop::PlainSource);
        }
        match self.take_media(now, kind, arrived, path, key, bytes) {
            Ok(()) => plain_rtp::look_at_source(&mut self.commons, &mut self.demux, now, key, path),
            Err(why) => self.commons.ledger.drops.secure(why),
        }
    }

    /// Takes a datagram of media for a transport. Err: it is not sealed with this transport's keys.
    fn take_media(
        &mut self,
        now: Now,
        kind: Kind,
        arrived: Instant,
        path: Path,
        key: Key<Transport>,
        bytes: &mut [u8],
    ) -> Result<(), SecureDrop> {
        debug_assert!(matches!(kind, Kind::Rtp | Kind::Rtcp), "sorted by its first byte");
        let early = if kind == Kind::Rtp {
            match self.intake.take_rtp(&mut self.commons, now, arrived, path, key, bytes)? {
                RtpTaken::Whole => false,
                RtpTaken::Early => true,
                RtpTaken::Unrouted(header, len) => {
                    self.take_unrouted(now, arrived, key, &header, &bytes[..len]);
                    false
                }
            }
        } else {
            let behind = self.intake.overload.is_behind();
            let Shard { commons, demux, .. } = self;
            let reading = Reading { commons, demux, now, key, behind, effort: Effort::default() };
            reading.take(arrived, path, bytes)? == RtcpTaken::Early
        };
        if early {
            let Commons { registry, ledger, .. } = &mut self.commons;
            let packet = EarlyPacket { path, arrived, bytes: (&*bytes).into() };
            self.early.keep(registry, &mut ledger.drops, now, key, packet);
        }
        Ok(())
    }

    /// Takes a decrypted packet whose SSRC has no route yet.
    fn take_unrouted(&mut self, now: Now, arrived: Instant, key: Key<Transport>, header: &RtpHeader, packet: &[u8]) {
        let Shard { commons, intake, .. } = self;
        let Some(route) = binding::find(commons, now, arrived, key, header, packet) else { return };
        let Some(transport) = commons.registry.transports.get(key) else { return };
        let received = Received::read(transport, route, arrived, header, packet);
        intake.receive(commons, now, key, &received);
    }

    /// Takes the packets of a new producer out of limbo.
    pub(super) fn leave_limbo(&mut self, now: Now, key: Key<Transport>, producer: ProducerKey) {
        let Shard { commons, intake, .. } = self;
        let mut waiting = binding::take_limbo(commons, now, key);
        waiting.retain(|Waiting { arrived, packet }| {
            let Ok(header) = RtpHeader::parse(packet) else { return false };
            let Some(route) = binding::place(commons, now, key, producer, &header, packet) else { return true };
            let Some(transport) = commons.registry.transports.get(key) else { return false };
            let received = Received::read(transport, route, *arrived, &header, packet);
            intake.receive(commons, now, key, &received);
            false
        });
        commons.registry.wiring[key.slot()].limbo.put_back(waiting);
    }

    /// Whether a datagram is RTP of a known video producer, by its SSRC alone and without opening it.
    fn is_video(&mut self, path: Path, bytes: &[u8]) -> bool {
        let owner = self.demux.paths.owner(&path);
        owner.is_some_and(|key| incoming::is_video(&self.commons.registry, key, bytes))
    }

    fn handle_stun(&mut self, now: Now, path: Path, datagram: &[u8]) {
        let Shard { commons, demux, connecting, .. } = self;
        if let Some((key, SetupStep::Keys)) = connecting.take_stun(commons, demux, now, path, datagram) {
            self.take_early(now, key);
        }
    }

    fn handle_dtls(&mut self, now: Now, path: Path, datagram: &[u8]) {
        let owner = self.demux.owner(&path);
        let Owner::Here(key) = owner else { return self.not_ours(owner, path, datagram) };
        if let Err(why) = self.take_dtls(now, path, key, datagram) {
            self.try_rivals(now, Kind::Dtls, now.mono, path, datagram, why);
        }
    }

    /// Takes a datagram of DTLS for a transport. Err: it does not belong to this transport's session.
    fn take_dtls(&mut self, now: Now, path: Path, key: Key<Transport>, datagram: &[u8]) -> Result<(), SecureDrop> {
        let Shard { commons, demux, connecting, .. } = self;
        let (step, taken) = connecting.take_dtls(commons, demux, now, path, key, datagram);
        if step == SetupStep::Keys {
            self.take_early(now, key);
        }
        taken
    }

    pub(super) fn start_as_client(&mut self, now: Now, key: Key<Transport>) {
        let Shard { commons, demux, connecting, .. } = self;
        if connecting.start_as_client(commons, demux, now, key) == SetupStep::Keys {
            self.take_early(now, key);
        }
    }

    /// Lets the engine do what is due, and collects the results of the sessions that it names.
    fn pump_handshakes(&mut self, now: Now) {
        if !self.connecting.pump(&mut self.commons, now) {
            return;
        }
        while let Some(tag) = self.connecting.next_ready() {
            if let Some(lane) = lane_of(tag) {
                let Shard { commons, intake, connecting, lanes, .. } = self;
                lanes.poll_session(&mut Work { commons, intake, engine: connecting.engine(), now }, lane);
                continue;
            }
            let key = connecting::transport_of(tag);
            self.commons.current = Some(key);
            if connecting::poll_link(&mut self.commons, &mut self.demux, now, key) == SetupStep::Keys {
                self.take_early(now, key);
            }
        }
    }

    /// Takes in the packets that came before their keys, which are there now.
    fn take_early(&mut self, now: Now, key: Key<Transport>) {
        let Commons { registry, ledger, .. } = &mut self.commons;
        for EarlyPacket { path, arrived, bytes } in self.early.take(registry, &mut ledger.drops, now, key) {
            let mut buffer = [0; DATAGRAM_MAX];
            let Some(copy) = buffer.get_mut(..bytes.len()) else { continue };
            copy.copy_from_slice(&bytes);
            let kind = classify(copy);
            if let Err(why) = self.take_media(now, kind, arrived, path, key, copy) {
                self.commons.ledger.drops.secure(why);
            }
        }
    }

    /// Takes a datagram that another shard got in our place. It is never handed over again: two shards that disagree
    /// must not play ping-pong.
    pub(super) fn take_handed_over(&mut self, now: Now, path: Path, datagram: &[u8]) {
        self.commons.ledger.counters.taken_over += 1;
        let kind = classify(datagram);
        if kind == Kind::Stun {
            return self.handle_stun(now, path, datagram);
        }
        let Some(key) = self.demux.paths.owner(&path) else {
            return self.commons.ledger.drops.count(ShardDrop::UnknownPath);
        };
        let mut buffer = [0; DATAGRAM_MAX];
        let Some(copy) = buffer.get_mut(..datagram.len()) else { return };
        copy.copy_from_slice(datagram);
        let taken = match kind {
            Kind::Dtls => self.take_dtls(now, path, key, datagram),
            Kind::Rtp | Kind::Rtcp => self.take_media(now, kind, now.mono, path, key, copy),
            Kind::Stun | Kind::Unknown => return self.commons.ledger.drops.count(ShardDrop::UnknownProtocol),
        };
        match taken {
            // Its holder has tried it before.
            Err(why) if self.demux.paths.holder(&path).is_some() => self.commons.ledger.drops.secure(why),
            Err(why) => self.try_rivals(now, kind, now.mono, path, datagram, why),
            Ok(()) => {}
        }
    }

    /// Gives media on a path with rivals to the transport whose keys open it.
    fn sort_out(
        &mut self,
        now: Now,
        kind: Kind,
        arrived: Instant,
        path: Path,
        owner: Key<Transport>,
        bytes: &mut [u8],
    ) {
        let mut buffer = [0; DATAGRAM_MAX];
        let Some(kept) = buffer.get_mut(..bytes.len()) else { return };
        kept.copy_from_slice(bytes);
        if let Err(why) = self.take_media(now, kind, arrived, path, owner, bytes) {
            self.try_rivals(now, kind, arrived, path, kept, why);
        }
    }

    /// Tries the rivals for a datagram that the owner of the path could not read.
    fn try_rivals(&mut self, now: Now, kind: Kind, arrived: Instant, path: Path, bytes: &[u8], why: SecureDrop) {
        let rivals = self.demux.paths.rivals(&path);
        for rival in &rivals {
            let taken = match rival {
                Rival::Here(key) => self.give_rival(now, kind, arrived, path, *key, bytes),
                Rival::At(shard) if kind == Kind::Dtls || rivals.len() == 1 => {
                    self.hand_over(*shard, path, bytes);
                    true
                }
                Rival::At(_) => false,
            };
            if taken {
                return;
            }
        }
        self.commons.ledger.drops.secure(why);
    }

    fn give_rival(
        &mut self,
        now: Now,
        kind: Kind,
        arrived: Instant,
        path: Path,
        key: Key<Transport>,
        bytes: &[u8],
    ) -> bool {
        let transports = &self.commons.registry.transports;
        let web_rtc = transports.get(key).and_then(|transport| transport.kind.web_rtc());
        let Some(web_rtc) = web_rtc.filter(|web_rtc| web_rtc.ice.is_valid_path(path)) else { return false };
        self.commons.current = Some(key);
        match (&web_rtc.link, kind) {
            (Link::Idle | Link::Handshaking(_) | Link::Unannounced(_), Kind::Dtls) => {
                self.take_dtls(now, path, key, bytes).is_ok()
            }
            (Link::Up(_), Kind::Rtp | Kind::Rtcp) => {
                let mut buffer = [0; DATAGRAM_MAX];
                let Some(copy) = buffer.get_mut(..bytes.len()) else { return false };
                copy.copy_from_slice(bytes);
                self.take_media(now, kind, arrived, path, key, copy).is_ok()
            }
            _ => false,
        }
    }
}
