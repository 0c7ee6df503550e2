//! The life of each peer for the operator: when a line of [`super::peer_log`] is due, and its fields. Changes nothing
//! of the conversation. A shard's findings about a transport come as events, maybe after the peer itself is gone: its
//! last line waits for them, but not for long.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use rustc_hash::FxHashMap;

use crate::base::id::{PeerId, ShardId, TransportId};
use crate::base::limits::{LIVES_DUE_MAX, SOCKETS_MAX};
use crate::base::time::{Duration, Instant};
use crate::shard::command::{Closed, Connected, Event, Totals, TransportState};
use crate::signal::auth::OpenError;
use crate::signal::entrance::Entrance;
use crate::signal::ids::ExternalId;
use crate::signal::message::{Code, Refusal};
use crate::signal::owners::Owners;
use crate::signal::peer_log::{Failure, LogSettings, PeerLog, PeerTotals, Steps, Who};

/// How long the line of a connection waits for its first packets.
const FIRST_PACKETS_WAIT: Duration = Duration::from_secs(2);
/// How long the last line waits for the shard's counts.
const TOTALS_WAIT: Duration = Duration::from_secs(2);
/// Clients check several times a second as soon as they know the addresses.
const CHECK_WAIT: Duration = Duration::from_secs(10);

/// The state of one peer, until its last line.
struct PeerLife {
    who: Who,
    joined: Instant,
    /// The end of its last socket, while it has none.
    broken_at: Option<Instant>,
    /// Transports whose end its shard has not told.
    open: BTreeSet<TransportId>,
    /// Each connect-transport is for one transport: the number sent, and the number of transports reached.
    announced: u32,
    reached: u32,
    limit_told: bool,
    totals: PeerTotals,
    /// The peer is gone; its last line waits.
    left: Option<Left>,
}

struct Left {
    why: &'static str,
    stayed: Duration,
}

/// The state of one transport, until its shard tells its end.
struct Passage {
    peer: PeerId,
    external: ExternalId,
    shard: ShardId,
    made: Instant,
    steps: Steps,
    /// Not told yet.
    report: Option<Box<Connected>>,
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
    peers: BTreeMap<PeerId, PeerLife>,
    /// The number of those that have left.
    leaving: usize,
    passages: FxHashMap<TransportId, Passage>,
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

    pub(super) fn joined(&mut self, now: Instant, peer: PeerId, who: Who, remote: IpAddr) {
        self.log.joined(now, &who, remote);
        let life = PeerLife {
            who,
            joined: now,
            broken_at: None,
            open: BTreeSet::new(),
            announced: 0,
            reached: 0,
            limit_told: false,
            totals: PeerTotals::default(),
            left: None,
        };
        self.peers.insert(peer, life);
    }

    /// Logs a socket that became no peer.
    pub(super) fn kept_out(&mut self, now: Instant, remote: IpAddr, entrance: &Entrance, why: &OpenError) {
        let of_a_limit = matches!(
            why,
            OpenError::SocketsMax | OpenError::ChannelFull | OpenError::Limit { .. } | OpenError::RateLimited(_)
        );
        if of_a_limit {
            self.log.kept_out(now, &entrance.channel, &entrance.user, remote, &why.to_string());
        }
    }

    pub(super) fn left(&mut self, now: Instant, peer: PeerId, why: &'static str) {
        let Some(life) = self.peers.get_mut(&peer).filter(|life| life.left.is_none()) else { return };
        life.left = Some(Left { why, stayed: now.since(life.joined) });
        let waits = !life.open.is_empty() && self.leaving < SOCKETS_MAX;
        self.leaving += 1;
        if !(waits && self.schedule(now + TOTALS_WAIT, Due::Left(peer))) {
            self.tell_left(now, peer);
        }
    }

    /// Its socket broke, and it stays for a while.
    pub(super) fn broken(&mut self, now: Instant, peer: PeerId, why: &'static str) {
        if let Some(life) = self.peers.get_mut(&peer) {
            life.broken_at = Some(now);
            self.log.broken(now, &life.who, why);
        }
    }

    /// Another socket has taken it up.
    pub(super) fn back(&mut self, now: Instant, peer: PeerId, remote: IpAddr) {
        if let Some(life) = self.peers.get_mut(&peer) {
            let away = life.broken_at.take().map(|at| now.since(at));
            self.log.back(now, &life.who, remote, away);
        }
    }

    pub(super) fn transport_made(
        &mut self,
        now: Instant,
        id: TransportId,
        external: ExternalId,
        owner: PeerId,
        shard: ShardId,
    ) {
        let Some(life) = self.peers.get_mut(&owner) else { return };
        life.open.insert(id);
        life.totals.transports += 1;
        let steps = Steps::default();
        self.passages.insert(id, Passage { peer: owner, external, shard, made: now, steps, report: None });
    }

    /// connect-transport came: for all of `targets` where it named none.
    pub(super) fn announced(&mut self, now: Instant, owner: PeerId, targets: &[TransportId], named: bool) {
        for id in targets {
            if let Some(passage) = self.passages.get_mut(id) {
                passage.steps.announced.get_or_insert(now.since(passage.made));
            }
        }
        let Some(life) = self.peers.get_mut(&owner) else { return };
        life.announced += 1;
        let announced = life.announced;
        let one = targets.first().copied().filter(|_| named);
        self.schedule(now + CHECK_WAIT, Due::Check(owner, one, announced));
    }

    /// A request was refused. The first refusal of each peer by a limit has a line, and its last line has their number.
    pub(super) fn refused(&mut self, now: Instant, peer: PeerId, refusal: &Refusal) {
        if matches!(refusal.code, Code::Limit | Code::RateLimited) {
            self.limited(now, peer, None, &refusal.message);
        }
    }

    fn limited(&mut self, now: Instant, peer: PeerId, transport: Option<&str>, why: &str) {
        let Some(life) = self.peers.get_mut(&peer) else { return };
        life.totals.refused += 1;
        if !std::mem::replace(&mut life.limit_told, true) {
            self.log.failed(now, &life.who, transport, Failure::Limit(why));
        }
    }

    /// The meaning of an event for the log; call before it changes anything.
    pub(super) fn event(&mut self, now: Instant, event: &Event, owners: &Owners) {
        match event {
            Event::TransportState { transport, state } => self.state_came(now, *transport, *state),
            Event::TransportConnected { transport, report } => self.connected(now, *transport, report),
            Event::FirstPacket { transport, incoming } => {
                let Some(passage) = self.passages.get_mut(transport) else { return };
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
                if let Some(passage) = self.passages.get(transport) {
                    let (owner, external) = (passage.peer, passage.external.to_string());
                    self.limited(now, owner, Some(&external), what);
                }
                // The shard never had it.
                self.transport_ended(now, *transport, &Totals::default());
            }
            Event::ProducerClosed { why: Closed::Limit(what), .. }
            | Event::ConsumerClosed { why: Closed::Limit(what), .. } => {
                if let Some(owner) = owners.of(event) {
                    self.limited(now, owner, None, what);
                }
            }
            _ => {}
        }
    }

    fn connected(&mut self, now: Instant, id: TransportId, report: &Connected) {
        let Some(passage) = self.passages.get_mut(&id) else { return };
        passage.steps.connected.get_or_insert(now.since(passage.made));
        passage.report = Some(Box::new(report.clone()));
        if let Some(life) = self.peers.get_mut(&passage.peer) {
            life.totals.connected += 1;
        }
        if !self.schedule(now + FIRST_PACKETS_WAIT, Due::Connected(id)) {
            self.tell_connected(now, id);
        }
    }

    fn state_came(&mut self, now: Instant, id: TransportId, state: TransportState) {
        let Some(passage) = self.passages.get_mut(&id) else { return };
        let reached = !matches!(state, TransportState::New | TransportState::Closed);
        if reached && passage.steps.checked.is_none() {
            passage.steps.checked = Some(now.since(passage.made));
            if let Some(life) = self.peers.get_mut(&passage.peer) {
                life.reached += 1;
            }
        }
        if state == TransportState::Disconnected {
            self.failed(now, id, Failure::Silent);
        }
    }

    fn failed(&mut self, now: Instant, id: TransportId, failure: Failure<'_>) {
        let Some(passage) = self.passages.get(&id) else { return };
        let Some(life) = self.peers.get(&passage.peer) else { return };
        self.log.failed(now, &life.who, Some(&passage.external.to_string()), failure);
    }

    fn tell_connected(&mut self, now: Instant, id: TransportId) {
        let Some(passage) = self.passages.get_mut(&id) else { return };
        let Some(life) = self.peers.get(&passage.peer) else { return };
        let Some(report) = passage.report.take() else { return };
        let external = passage.external.to_string();
        self.log.connected(now, &life.who, &external, passage.shard, &report, &passage.steps);
    }

    fn transport_ended(&mut self, now: Instant, id: TransportId, totals: &Totals) {
        self.tell_connected(now, id);
        let Some(Passage { peer: owner, .. }) = self.passages.remove(&id) else { return };
        let Some(life) = self.peers.get_mut(&owner) else { return };
        life.totals.take_in(totals);
        life.open.remove(&id);
        if life.open.is_empty() && life.left.is_some() {
            self.tell_left(now, owner);
        }
    }

    fn tell_left(&mut self, now: Instant, peer: PeerId) {
        let gone = self.peers.get(&peer).filter(|life| life.left.is_some());
        let open: Vec<_> = gone.iter().flat_map(|life| &life.open).copied().collect();
        for id in open {
            self.tell_connected(now, id);
            self.passages.remove(&id);
        }
        if let Some(PeerLife { who, left: Some(Left { why, stayed }), totals, .. }) = self.peers.remove(&peer) {
            self.leaving -= 1;
            self.log.left(now, &who, why, stayed, &totals);
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, due)) = self.due.first().filter(|(at, _)| *at <= now) {
            self.due.remove(&(at, due));
            match due {
                Due::Connected(transport) => self.tell_connected(now, transport),
                Due::Left(peer) => self.tell_left(now, peer),
                Due::Check(peer, transport, needed) => self.check_due(now, peer, transport, needed),
            }
        }
    }

    fn check_due(&mut self, now: Instant, peer: PeerId, transport: Option<TransportId>, needed: u32) {
        // A leaving peer needs no advice.
        let Some(life) = self.peers.get(&peer).filter(|life| life.left.is_none()) else { return };
        let unreached = |id: TransportId| {
            let passage = self.passages.get(&id).filter(|passage| passage.steps.checked.is_none())?;
            Some(passage.external.to_string())
        };
        let external = transport.and_then(unreached);
        let missing = match transport {
            Some(_) => external.is_some(),
            None => life.reached < needed && !life.open.is_empty(),
        };
        if missing {
            self.log.failed(now, &life.who, external.as_deref(), Failure::NoCheck(CHECK_WAIT));
        }
    }

    /// Writes the last lines of peers that left a moment ago, for a process that ends.
    pub(super) fn end(&mut self, now: Instant) {
        let leaving: Vec<_> = self.peers.iter().filter(|(_, life)| life.left.is_some()).map(|(id, _)| *id).collect();
        for peer in leaving {
            self.tell_left(now, peer);
        }
    }
}

impl PeerTotals {
    fn take_in(&mut self, totals: &Totals) {
        let all = &mut self.media;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::ids::Ids;

    const PEER: PeerId = PeerId(1);
    const TRANSPORT: TransportId = TransportId(2);

    fn joined() -> Lives {
        let (mut lives, mut ids) = (Lives::default(), Ids::new([1; 32]));
        let who = Who { channel: "room".into(), peer: ids.external(), user: "anna".into() };
        lives.joined(Instant::ZERO, PEER, who, [192, 0, 2, 1].into());
        lives.transport_made(Instant::ZERO, TRANSPORT, ids.external(), PEER, ShardId(0));
        lives
    }

    #[test]
    fn who_left_is_remembered_until_the_shard_has_told_the_end_or_two_seconds() {
        for told in [false, true] {
            let mut lives = joined();
            lives.left(Instant::ZERO, PEER, "left");
            lives.left(Instant::ZERO, PEER, "left twice");
            assert_eq!((lives.leaving, lives.deadline()), (1, Some(Instant::ZERO + TOTALS_WAIT)));
            if told {
                let ended = Event::TransportEnded { transport: TRANSPORT, totals: Box::default() };
                lives.event(Instant::ZERO, &ended, &Owners::default());
            } else {
                lives.handle_timeout(Instant::ZERO + TOTALS_WAIT);
            }
            assert_eq!((lives.peers.len(), lives.passages.len(), lives.leaving), (0, 0, 0));
        }
    }

    #[test]
    fn who_has_no_transport_open_is_forgotten_at_once() {
        let mut lives = joined();
        let ended = Event::TransportEnded { transport: TRANSPORT, totals: Box::default() };
        lives.event(Instant::ZERO, &ended, &Owners::default());
        assert_eq!((lives.peers.len(), lives.passages.len()), (1, 0));
        lives.left(Instant::ZERO, PEER, "left");
        assert_eq!((lives.peers.len(), lives.leaving), (0, 0));
    }

    #[test]
    fn refusals_by_a_limit_are_counted_in_the_last_line() {
        let mut lives = joined();
        lives.refused(Instant::ZERO, PEER, &Refusal::limit("transports a peer", 4));
        lives.refused(Instant::ZERO, PEER, &Refusal::not_found("data.producerId"));
        let limited = Event::TransportClosed { transport: TRANSPORT, why: Closed::Limit("paths") };
        lives.event(Instant::ZERO, &limited, &Owners::default());
        assert_eq!(lives.peers[&PEER].totals.refused, 2);
    }
}
