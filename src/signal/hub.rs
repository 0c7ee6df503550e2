//! All channels and all sockets: the face that the server edge and the simulation use. After each call, drain
//! [`Hub::poll_output`].

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::json;

use crate::base::id::{PeerId, ShardId, TransportId};
use crate::base::limits::{MESSAGE_BYTES_MAX, PEERS_PER_CHANNEL_MAX, SOCKETS_MAX};
use crate::base::slab::{Key, Slab};
use crate::base::time::Instant;
use crate::shard::command::Event;
use crate::signal::auth::{OpenError, check_name};
use crate::signal::channel::{Channel, News};
use crate::signal::closing::Ending;
use crate::signal::desk::{Desk, HubSettings, Output};
use crate::signal::last_n::LastN;
use crate::signal::message::{self, Code, Refusal};
use crate::signal::meter::{Admission, Cost};
use crate::signal::peer::Peer;
use crate::signal::quota::Holder;
use crate::signal::request;
use crate::signal::session::{Session, SessionId};
use crate::signal::speech::Rounds;
use crate::signal::turn::{Answer, Turn};

/// The present counts, and the refusals since the start.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    pub channels: usize,
    pub peers: usize,
    pub transports: usize,
    /// Transports that no ICE check has come for.
    pub unchecked_transports: usize,
    pub producers: usize,
    pub consumers: usize,
    /// get-stats that wait for a shard.
    pub stats_pending: usize,
    pub messages: u64,
    /// Sockets that the hub itself ended.
    pub disconnects: u64,
    /// Every error code, also those that never happened.
    pub errors: Vec<(&'static str, u64)>,
    /// By shard, in microseconds of CPU time a second.
    pub expected_load: Vec<(ShardId, u64)>,
}

pub struct Hub {
    pub(super) desk: Desk,
    pub(super) channels: Slab<Channel>,
    pub(super) sessions: BTreeMap<SessionId, Session>,
    pub(super) rounds: Rounds,
    names: BTreeMap<String, Key<Channel>>,
    messages: u64,
    disconnects: u64,
}

/// A client is told its request's type and id even when it is rate limited, as long as reading them is cheap.
const READ_THOUGH_REFUSED_MAX: usize = 4_096;

impl Hub {
    pub fn new(settings: HubSettings) -> Hub {
        Hub {
            desk: Desk::new(settings),
            channels: Slab::default(),
            sessions: BTreeMap::new(),
            rounds: Rounds::default(),
            names: BTreeMap::new(),
            messages: 0,
            disconnects: 0,
        }
    }

    /// A socket was accepted from `remote`; `auth` and `channel` are the query's values, percent-decoded.
    pub fn open(&mut self, now: Instant, remote: IpAddr, auth: &str, channel: &str) -> Result<SessionId, OpenError> {
        check_name("auth", auth)?;
        check_name("channelId", channel)?;
        if self.sessions.len() >= SOCKETS_MAX {
            return Err(OpenError::SocketsMax);
        }
        let full = self.names.get(channel).and_then(|key| self.channels.get(*key));
        if full.is_some_and(|channel| channel.peers.len() >= PEERS_PER_CHANNEL_MAX) {
            return Err(OpenError::ChannelFull);
        }
        let holder = Holder::new(remote, auth);
        self.desk.ledger.open(now, &holder)?;
        self.desk.work = Cost::default();
        let key = match self.names.get(channel) {
            Some(key) => *key,
            None => {
                let mut new = Channel::new(channel);
                if let LastN::Fixed(n) = self.desk.settings.last_n {
                    new.set_last_n(&mut self.desk, now, Some(n));
                }
                let key = self.channels.insert(new);
                self.names.insert(channel.to_owned(), key);
                key
            }
        };
        let place = self.channels.get_mut(key).expect("a name points to a channel that lives");
        let session = SessionId(self.desk.ids.number());
        let me = PeerId(session.0);
        let peer = Peer::new(now, self.desk.ids.external(), auth, holder.clone());
        let data = json!({ "id": peer.external.to_string(), "user": auth });
        place.tell_others(&mut self.desk, me, &News::peer_joined(me), &data);
        place.peers.insert(me, peer);
        self.desk.ledger.charge(now, &holder, self.desk.work);
        self.sessions.insert(session, Session::new(now, key, holder));
        self.life_begins(now, session, remote);
        Ok(session)
    }

    /// The origin of a socket.
    pub fn remote(&self, session: SessionId) -> Option<IpAddr> {
        self.sessions.get(&session).map(|session| session.holder.remote)
    }

    pub fn handle_text(&mut self, now: Instant, session: SessionId, text: &str) {
        self.messages += 1;
        if text.len() > MESSAGE_BYTES_MAX {
            return self.disconnect(now, session, 1009, "a message is at most 256 KiB");
        }
        match self.admit(now, session, Cost::message(text.len())) {
            Some(Admission::Pass) => {}
            Some(Admission::Refuse(wait)) => {
                let parsed = (text.len() <= READ_THOUGH_REFUSED_MAX).then(|| request::parse(text));
                let (tag, kind) = parsed.map_or((None, None), |parsed| (parsed.tag, parsed.kind));
                let refusal = Refusal::rate_limited(wait);
                self.life_refused(now, session, &refusal);
                return self.desk.refuse(session, &refusal, kind.as_deref(), tag.as_ref());
            }
            Some(Admission::Disconnect) | None => return,
        }
        let request::Parsed { tag, kind, request } = request::parse(text);
        let Some(state) = self.sessions.get(&session) else { return };
        let Some(channel) = self.channels.get_mut(state.channel) else { return };
        self.desk.work = Cost::default();
        let mut turn = Turn { now, me: PeerId(session.0), channel, desk: &mut self.desk };
        match request.and_then(|request| turn.take(request, tag.as_ref())) {
            Ok(Answer::Now { kind, data }) => self.desk.send(session, message::reply(kind, tag.as_ref(), &data)),
            Ok(Answer::Listed { kind, before, listing, after }) => {
                let before = message::reply_head(kind, tag.as_ref()) + &before;
                let text = listing.without(PeerId(session.0), before, after + "}");
                self.desk.work.add(Cost::told(1, text.len()));
                self.desk.work.add(Cost::walked(listing.len()));
                self.desk.send(session, text);
            }
            Ok(Answer::Later) => {}
            Err(refusal) => {
                self.life_refused(now, session, &refusal);
                self.desk.refuse(session, &refusal, kind.as_deref(), tag.as_ref());
            }
        }
        self.charge(now, session, self.desk.work);
    }

    pub fn handle_binary(&mut self, now: Instant, session: SessionId, bytes: usize) {
        self.messages += 1;
        if let Some(Admission::Pass | Admission::Refuse(_)) = self.admit(now, session, Cost::message(bytes)) {
            let refusal = Refusal::new(Code::NotText, "binary frames mean nothing here: send JSON as text");
            self.desk.refuse(session, &refusal, None, None);
        }
    }

    /// A ping or a pong came. It is answered by nothing but a refusal when there are too many.
    pub fn handle_control(&mut self, now: Instant, session: SessionId, bytes: usize) {
        self.admit(now, session, Cost::message(bytes));
    }

    /// Bytes came beside a message: the overhead of its frames.
    pub fn handle_overhead(&mut self, now: Instant, session: SessionId, bytes: usize) {
        self.charge(now, session, Cost::read(bytes));
    }

    /// Whether the client may send this now. A client that is refused for too long is disconnected; None: the session
    /// has ended.
    fn admit(&mut self, now: Instant, session: SessionId, cost: Cost) -> Option<Admission> {
        let state = self.sessions.get_mut(&session)?;
        let others_wait = self.desk.ledger.wait(now, &state.holder);
        let admission = state.meter.admit(now, cost, others_wait);
        match admission {
            Admission::Pass => self.desk.ledger.charge(now, &state.holder, cost),
            Admission::Refuse(_) => {}
            Admission::Disconnect => self.disconnect(now, session, 1008, "too many messages for too long"),
        }
        Some(admission)
    }

    fn charge(&mut self, now: Instant, session: SessionId, cost: Cost) {
        if let Some(state) = self.sessions.get_mut(&session) {
            state.meter.charge(cost);
            self.desk.ledger.charge(now, &state.holder, cost);
        }
    }

    /// The socket is gone. Call it after [`Output::Disconnect`] as well, where it changes nothing any more.
    pub fn close(&mut self, now: Instant, session: SessionId) {
        self.leave(now, session, "closed");
    }

    /// The same; `why` is for the log.
    pub fn leave(&mut self, now: Instant, session: SessionId, why: &'static str) {
        let Some(key) = self.sessions.get(&session).map(|state| state.channel) else { return };
        self.life_ends(now, key, PeerId(session.0), why);
        let Some(Session { holder, .. }) = self.sessions.remove(&session) else { return };
        self.desk.work = Cost::default();
        if let Some(channel) = self.channels.get_mut(key) {
            channel.remove_peer(&mut self.desk, PeerId(session.0));
            if channel.peers.is_empty() {
                self.names.remove(&channel.name);
                self.channels.remove(key);
            }
        }
        self.desk.ledger.charge(now, &holder, self.desk.work);
        self.desk.ledger.close(now, &holder);
    }

    fn disconnect(&mut self, now: Instant, session: SessionId, code: u16, reason: &'static str) {
        if self.sessions.contains_key(&session) {
            self.disconnects += 1;
            self.desk.output.push_back(Output::Disconnect { session, code, reason });
            self.leave(now, session, reason);
        }
    }

    /// `_shard` needs no check: every event names its object, and no object's number is used twice.
    pub fn handle_event(&mut self, now: Instant, _shard: ShardId, event: Event) {
        self.event(now, event);
    }

    /// The share of its core that a shard used lately, in thousandths. An unreported shard counts as idle.
    pub fn measured_load(&mut self, shard: ShardId, permille: u32) {
        self.desk.placement.measured(shard, permille);
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.desk.output.pop_front()
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let desk = &self.desk;
        let own = [desk.stats.deadline(), desk.lives.deadline(), desk.ledger.deadline()];
        own.into_iter().chain([self.rounds.due]).flatten().min()
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.desk.stats_timeout(now);
        self.lives_due(now);
        self.speech_round(now);
        while let Some(transport) = self.desk.ledger.overdue(now) {
            self.unchecked(transport);
        }
    }

    fn unchecked(&mut self, transport: TransportId) {
        let owner = self.desk.owners.transports.get(&transport).map(|owner| SessionId(owner.0));
        let channel = owner.and_then(|owner| self.channels.get_mut(self.sessions.get(&owner)?.channel));
        if let Some(channel) = channel {
            channel.close_transport(&mut self.desk, transport, Ending::Unchecked);
        }
        self.desk.ledger.transport_settled(transport);
    }

    pub fn counts(&self) -> Counts {
        let owners = &self.desk.owners;
        let count = |code: Code| self.desk.refusals.get(&code).copied().unwrap_or_default();
        Counts {
            channels: self.channels.len(),
            peers: self.sessions.len(),
            transports: owners.transports.len(),
            unchecked_transports: self.desk.ledger.unchecked(),
            producers: owners.producers.len(),
            consumers: owners.consumers.len(),
            stats_pending: self.desk.stats.len(),
            messages: self.messages,
            disconnects: self.disconnects,
            errors: Code::ALL.iter().map(|&code| (code.name(), count(code))).collect(),
            expected_load: self.desk.placement.expected().collect(),
        }
    }
}
