//! The life of each peer for the operator: when a line of [`super::peer_log`] is due, and its fields. Changes nothing
//! of the conversation. A shard's findings about a transport come as events, maybe after the peer itself is gone: its
//! last line waits for them, but not for long.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use rustc_hash::FxHashMap;

use crate::base::id::{PeerId, ShardId, TransportId};
use crate::base::limits::{LIVES_DUE_MAX, SOCKETS_MAX};
use crate::base::slab::Key;
use crate::base::time::{Duration, Instant};
use crate::shard::command::{Closed, Connected, Event, Totals, TransportState};
use crate::signal::auth::OpenError;
use crate::signal::channel::Channel;
use crate::signal::hub::Hub;
use crate::signal::ids::ExternalId;
use crate::signal::message::{Code, Refusal};
use crate::signal::peer::Peer;
use crate::signal::peer_log::{Account, Failure, LogSettings, PeerLog, Steps, Who};
use crate::signal::session::SessionId;

/// How long the line of a connection waits for its first packets.
const FIRST_PACKETS_WAIT: Duration = Duration::from_secs(2);
/// How long the last line waits for the shard's counts.
const TOTALS_WAIT: Duration = Duration::from_secs(2);
/// Clients check several times a second as soon as they know the addresses.
const CHECK_WAIT: Duration = Duration::from_secs(10);

/// The state of one peer.
#[derive(Default)]
pub(super) struct Life {
    joined: Instant,
    /// Transports whose end its shard has not told.
    open: BTreeSet<TransportId>,
    /// Each connect-transport is for one transport: the number sent, and the number of transports reached.
    announced: u32,
    reached: u32,
    limit_told: bool,
    account: Account,
}

impl Life {
    pub(super) fn new(now: Instant) -> Life {
        Life { joined: now, ..Life::default() }
    }
}

/// The state of one transport, until its shard tells its end.
struct Passage {
    peer: PeerId,
    external: ExternalId,
    shard: Option<ShardId>,
    made: Instant,
    steps: Steps,
    /// Not told yet.
    report: Option<Box<Connected>>,
}

/// A peer that is gone, whose last line waits.
struct Leaving {
    who: Who,
    why: &'static str,
    stayed: Duration,
    life: Life,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Due {
    Connected(TransportId),
    /// For this transport, or for so many of the peer's.
    Check(PeerId, Option<TransportId>, u32),
    Left(PeerId),
}

#[derive(Default)]
pub(super) struct Lives {
    log: PeerLog,
    passages: FxHashMap<TransportId, Passage>,
    leaving: BTreeMap<PeerId, Leaving>,
    due: BTreeSet<(Instant, Due)>,
}

impl Lives {
    pub(super) fn new(settings: LogSettings) -> Lives {
        Lives { log: PeerLog::new(settings), ..Lives::default() }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// At the bound a line is written without waiting, or not at all.
    fn schedule(&mut self, at: Instant, due: Due) -> bool {
        self.due.len() < LIVES_DUE_MAX && self.due.insert((at, due))
    }

    pub(super) fn transport_made(
        &mut self,
        now: Instant,
        id: TransportId,
        external: ExternalId,
        owner: PeerId,
        peer: &mut Peer,
    ) {
        peer.life.open.insert(id);
        peer.life.account.transports += 1;
        let (steps, shard) = (Steps::default(), peer.shard);
        self.passages.insert(id, Passage { peer: owner, external, shard, made: now, steps, report: None });
    }

    /// connect-transport came: for all of `targets` where it named none.
    pub(super) fn announced(
        &mut self,
        now: Instant,
        owner: PeerId,
        peer: &mut Peer,
        targets: &[TransportId],
        named: bool,
    ) {
        for id in targets {
            if let Some(passage) = self.passages.get_mut(id) {
                passage.steps.announced.get_or_insert(now.since(passage.made));
            }
        }
        peer.life.announced += 1;
        let one = targets.first().copied().filter(|_| named);
        self.schedule(now + CHECK_WAIT, Due::Check(owner, one, peer.life.announced));
    }

    fn tell_connected(&mut self, now: Instant, id: TransportId, who: &Who) {
        let Some(passage) = self.passages.get_mut(&id) else { return };
        let Some(report) = passage.report.take() else { return };
        let external = passage.external.to_string();
        self.log.connected(now, who, &external, passage.shard, &report, &passage.steps);
    }

    fn tell_left(&mut self, now: Instant, peer: PeerId) {
        let Some(Leaving { who, why, stayed, life }) = self.leaving.remove(&peer) else { return };
        for id in &life.open {
            self.tell_connected(now, *id, &who);
            self.passages.remove(id);
        }
        self.log.left(now, &who, why, stayed, &life.account);
    }
}

impl Account {
    fn take_in(&mut self, totals: &Totals) {
        let all = &mut self.totals;
        all.bytes_received += totals.bytes_received;
        all.packets_received += totals.packets_received;
        all.bytes_sent += totals.bytes_sent;
        all.packets_sent += totals.packets_sent;
        all.lost_received += totals.lost_received;
        all.lost_sent += totals.lost_sent;
        let longest = [all.worst, totals.worst].into_iter().flatten().max_by_key(|(_, span)| *span);
        all.worst = longest;
    }
}

impl Hub {
    fn who(&self, id: PeerId) -> Option<Who> {
        if let Some(leaving) = self.desk.lives.leaving.get(&id) {
            return Some(leaving.who.clone());
        }
        let channel = self.channels.get(self.sessions.get(&SessionId(id.0))?.channel)?;
        Some(Who::of(channel, channel.peers.get(&id)?))
    }

    fn life(&mut self, id: PeerId) -> Option<&mut Life> {
        if let Some(leaving) = self.desk.lives.leaving.get_mut(&id) {
            return Some(&mut leaving.life);
        }
        let channel = self.channels.get_mut(self.sessions.get(&SessionId(id.0))?.channel)?;
        Some(&mut channel.peers.get_mut(&id)?.life)
    }

    pub(super) fn life_begins(&mut self, now: Instant, session: SessionId, remote: IpAddr) {
        if let Some(who) = self.who(PeerId(session.0)) {
            self.desk.lives.log.joined(now, &who, remote);
        }
    }

    /// A socket that became no peer.
    pub fn kept_out(&mut self, now: Instant, auth: &str, channel: &str, remote: IpAddr, why: &OpenError) {
        if !matches!(why, OpenError::BadName { .. }) {
            self.desk.lives.log.kept_out(now, channel, auth, remote, &why.to_string());
        }
    }

    /// Call while the peer is still there.
    pub(super) fn life_ends(&mut self, now: Instant, key: Key<Channel>, id: PeerId, why: &'static str) {
        let (Some(who), Some(channel)) = (self.who(id), self.channels.get_mut(key)) else { return };
        let Some(peer) = channel.peers.get_mut(&id) else { return };
        let life = std::mem::take(&mut peer.life);
        let stayed = now.since(life.joined);
        let lives = &mut self.desk.lives;
        let waits = !life.open.is_empty() && lives.leaving.len() < SOCKETS_MAX;
        lives.leaving.insert(id, Leaving { who, why, stayed, life });
        if !(waits && lives.schedule(now + TOTALS_WAIT, Due::Left(id))) {
            lives.tell_left(now, id);
        }
    }

    /// A request was refused. The first refusal of each peer by a limit has a line, and its last line has their number.
    pub(super) fn life_refused(&mut self, now: Instant, session: SessionId, refusal: &Refusal) {
        if matches!(refusal.code, Code::Limit | Code::RateLimited) {
            self.limited(now, PeerId(session.0), None, &refusal.message);
        }
    }

    fn limited(&mut self, now: Instant, peer: PeerId, transport: Option<&str>, why: &str) {
        let Some(life) = self.life(peer) else { return };
        life.account.refused += 1;
        if !std::mem::replace(&mut life.limit_told, true)
            && let Some(who) = self.who(peer)
        {
            self.desk.lives.log.failed(now, &who, transport, Failure::Limit(why));
        }
    }

    /// The meaning of an event for the log; call before it changes anything.
    pub(super) fn life_goes_on(&mut self, now: Instant, event: &Event) {
        match event {
            Event::TransportState { transport, state } => self.state_came(now, *transport, *state),
            Event::TransportConnected { transport, report } => {
                let lives = &mut self.desk.lives;
                let Some(passage) = lives.passages.get_mut(transport) else { return };
                passage.steps.connected.get_or_insert(now.since(passage.made));
                passage.report = Some(report.clone());
                let owner = passage.peer;
                let waits = lives.schedule(now + FIRST_PACKETS_WAIT, Due::Connected(*transport));
                if let Some(life) = self.life(owner) {
                    life.account.connected += 1;
                }
                if !waits {
                    self.tell_connected(now, *transport);
                }
            }
            Event::FirstPacket { transport, incoming } => {
                let Some(passage) = self.desk.lives.passages.get_mut(transport) else { return };
                let steps = &mut passage.steps;
                let step = if *incoming { &mut steps.first_in } else { &mut steps.first_out };
                step.get_or_insert(now.since(passage.made));
                if steps.first_in.is_some() && steps.first_out.is_some() {
                    self.tell_connected(now, *transport);
                }
            }
            Event::HandshakeFailed { transport, why } => {
                self.failed(now, *transport, Failure::Handshake(why));
            }
            Event::TransportEnded { transport, totals } => self.transport_ended(now, *transport, totals),
            Event::TransportClosed { transport, why: Closed::Limit(what) } => {
                if let Some(passage) = self.desk.lives.passages.get(transport) {
                    let (owner, external) = (passage.peer, passage.external.to_string());
                    self.limited(now, owner, Some(&external), what);
                }
                // The shard never had it.
                self.transport_ended(now, *transport, &Totals::default());
            }
            Event::ProducerClosed { producer, why: Closed::Limit(what) } => {
                if let Some(&owner) = self.desk.owners.producers.get(producer) {
                    self.limited(now, owner, None, what);
                }
            }
            Event::ConsumerClosed { consumer, why: Closed::Limit(what) } => {
                if let Some(&owner) = self.desk.owners.consumers.get(consumer) {
                    self.limited(now, owner, None, what);
                }
            }
            _ => {}
        }
    }

    fn state_came(&mut self, now: Instant, id: TransportId, state: TransportState) {
        let Some(passage) = self.desk.lives.passages.get_mut(&id) else { return };
        let owner = passage.peer;
        let reached = !matches!(state, TransportState::New | TransportState::Closed);
        if reached && passage.steps.checked.is_none() {
            passage.steps.checked = Some(now.since(passage.made));
            if let Some(life) = self.life(owner) {
                life.reached += 1;
            }
        }
        if state == TransportState::Disconnected {
            self.failed(now, id, Failure::Silent);
        }
    }

    fn failed(&mut self, now: Instant, id: TransportId, failure: Failure<'_>) {
        let Some(passage) = self.desk.lives.passages.get(&id) else { return };
        let (owner, external) = (passage.peer, passage.external.to_string());
        let Some(who) = self.who(owner) else { return };
        self.desk.lives.log.failed(now, &who, Some(&external), failure);
    }

    fn tell_connected(&mut self, now: Instant, id: TransportId) {
        let Some(passage) = self.desk.lives.passages.get(&id).filter(|passage| passage.report.is_some()) else {
            return;
        };
        let owner = passage.peer;
        let Some(who) = self.who(owner) else { return };
        self.desk.lives.tell_connected(now, id, &who);
    }

    fn transport_ended(&mut self, now: Instant, id: TransportId, totals: &Totals) {
        let Some(owner) = self.desk.lives.passages.get(&id).map(|passage| passage.peer) else { return };
        self.tell_connected(now, id);
        self.desk.lives.passages.remove(&id);
        let Some(life) = self.life(owner) else { return };
        life.account.take_in(totals);
        life.open.remove(&id);
        let last = life.open.is_empty();
        // Does nothing as long as the peer is there.
        if last {
            self.desk.lives.tell_left(now, owner);
        }
    }

    pub(super) fn lives_due(&mut self, now: Instant) {
        while let Some(&(at, due)) = self.desk.lives.due.first().filter(|(at, _)| *at <= now) {
            self.desk.lives.due.remove(&(at, due));
            match due {
                Due::Connected(transport) => self.tell_connected(now, transport),
                Due::Left(peer) => self.desk.lives.tell_left(now, peer),
                Due::Check(peer, transport, needed) => self.check_due(now, peer, transport, needed),
            }
        }
    }

    fn check_due(&mut self, now: Instant, peer: PeerId, transport: Option<TransportId>, needed: u32) {
        let lives = &self.desk.lives;
        let unreached =
            |id: &TransportId| lives.passages.get(id).is_some_and(|passage| passage.steps.checked.is_none());
        let external = transport.filter(unreached).map(|id| lives.passages[&id].external.to_string());
        // A leaving peer needs no advice.
        if self.desk.lives.leaving.contains_key(&peer) {
            return;
        }
        let (Some(who), Some(life)) = (self.who(peer), self.life(peer)) else { return };
        let missing = match transport {
            Some(_) => external.is_some(),
            None => life.reached < needed && !life.open.is_empty(),
        };
        if missing {
            self.desk.lives.log.failed(now, &who, external.as_deref(), Failure::NoCheck(CHECK_WAIT));
        }
    }

    /// The last lines of those who left a moment ago, for a process that ends.
    pub fn end_log(&mut self, now: Instant) {
        let leaving: Vec<_> = self.desk.lives.leaving.keys().copied().collect();
        for peer in leaving {
            self.desk.lives.tell_left(now, peer);
        }
    }
}
