//! All channels and all sockets: the face that the server edge and the simulation use. After each call, drain
//! [`Hub::poll_output`].

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::json;

use crate::base::id::{PeerId, ShardId};
use crate::base::limits::{MESSAGE_BYTES_MAX, PEERS_PER_CHANNEL_MAX, SOCKETS_MAX};
use crate::base::slab::{Key, Slab};
use crate::base::time::Instant;
use crate::shard::command::Event;
use crate::signal::auth::{OpenError, check_name};
use crate::signal::channel::Channel;
use crate::signal::desk::{Desk, HubSettings, Output};
use crate::signal::last_n::LastN;
use crate::signal::message::{self, Code, Refusal};
use crate::signal::peer::Peer;
use crate::signal::request;
use crate::signal::session::{Admission, Session, SessionId};
use crate::signal::speech::Rounds;
use crate::signal::turn::{Answer, Turn};

/// How much there is, and what was refused since the start.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    pub channels: usize,
    pub peers: usize,
    pub transports: usize,
    pub producers: usize,
    pub consumers: usize,
    /// get-stats that wait for a shard.
    pub stats_pending: usize,
    pub messages: u64,
    /// Sockets that the hub itself ended.
    pub disconnects: u64,
    /// Every error code there is, also those that never happened.
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

/// A client is told its request's type and id even when it speaks too fast, as long as reading them is cheap.
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
        if place.peers.len() >= PEERS_PER_CHANNEL_MAX {
            return Err(OpenError::ChannelFull);
        }
        let session = SessionId(self.desk.ids.number());
        let me = PeerId(session.0);
        let peer = Peer::new(now, self.desk.ids.external(), auth);
        place.tell_others(&mut self.desk, me, "peer-joined", &json!({ "id": peer.external.to_string(), "user": auth }));
        place.peers.insert(me, peer);
        self.sessions.insert(session, Session::new(now, key, remote));
        self.life_begins(now, session, remote);
        Ok(session)
    }

    /// Where a socket comes from.
    pub fn remote(&self, session: SessionId) -> Option<IpAddr> {
        self.sessions.get(&session).map(|session| session.remote)
    }

    pub fn handle_text(&mut self, now: Instant, session: SessionId, text: &str) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        self.messages += 1;
        if text.len() > MESSAGE_BYTES_MAX {
            return self.disconnect(now, session, 1009, "a message is at most 256 KiB");
        }
        let key = state.channel;
        match state.admit(now) {
            Admission::Pass => {}
            Admission::Refuse => {
                let refusal = Refusal::new(Code::RateLimited, "too many messages: slow down");
                let parsed = (text.len() <= READ_THOUGH_REFUSED_MAX).then(|| request::parse(text));
                let (tag, kind) = parsed.map_or((None, None), |parsed| (parsed.tag, parsed.kind));
                self.life_refused(now, session, &refusal);
                return self.desk.refuse(session, &refusal, kind.as_deref(), tag.as_ref());
            }
            Admission::Disconnect => return self.disconnect(now, session, 1008, "too many messages for too long"),
        }
        let request::Parsed { tag, kind, request } = request::parse(text);
        let Some(channel) = self.channels.get_mut(key) else { return };
        let mut turn = Turn { now, me: PeerId(session.0), channel, desk: &mut self.desk };
        match request.and_then(|request| turn.take(request, tag.as_ref())) {
            Ok(Answer::Now { kind, data }) => self.desk.send(session, message::reply(kind, tag.as_ref(), &data)),
            Ok(Answer::Later) => {}
            Err(refusal) => {
                self.life_refused(now, session, &refusal);
                self.desk.refuse(session, &refusal, kind.as_deref(), tag.as_ref());
            }
        }
    }

    pub fn handle_binary(&mut self, now: Instant, session: SessionId) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        self.messages += 1;
        if state.admit(now) == Admission::Disconnect {
            return self.disconnect(now, session, 1008, "too many messages for too long");
        }
        let refusal = Refusal::new(Code::NotText, "binary frames mean nothing here: send JSON as text");
        self.desk.refuse(session, &refusal, None, None);
    }

    /// The socket is gone. Also to be called after [`Output::Disconnect`], where it changes nothing any more.
    pub fn close(&mut self, now: Instant, session: SessionId) {
        self.leave(now, session, "closed");
    }

    /// The same; `why` is for the log.
    pub fn leave(&mut self, now: Instant, session: SessionId, why: &'static str) {
        let Some(state) = self.sessions.get(&session) else { return };
        let key = state.channel;
        self.life_ends(now, key, PeerId(session.0), why);
        if let Some(channel) = self.channels.get_mut(key) {
            channel.remove_peer(&mut self.desk, PeerId(session.0));
            if channel.peers.is_empty() {
                self.names.remove(&channel.name);
                self.channels.remove(key);
            }
        }
        self.sessions.remove(&session);
    }

    fn disconnect(&mut self, now: Instant, session: SessionId, code: u16, reason: &'static str) {
        self.disconnects += 1;
        self.desk.output.push_back(Output::Disconnect { session, code, reason });
        self.leave(now, session, reason);
    }

    /// `_shard` needs no check: every event names its object, and no object's number is used twice.
    pub fn handle_event(&mut self, now: Instant, _shard: ShardId, event: Event) {
        self.event(now, event);
    }

    /// The share of its core that a shard used lately, in thousandths. What nobody has told counts as idle.
    pub fn measured_load(&mut self, shard: ShardId, permille: u32) {
        self.desk.placement.measured(shard, permille);
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.desk.output.pop_front()
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.desk.stats.deadline(), self.desk.lives.deadline(), self.rounds.due].into_iter().flatten().min()
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.desk.stats_timeout(now);
        self.lives_due(now);
        self.speech_round(now);
    }

    pub fn counts(&self) -> Counts {
        let owners = &self.desk.owners;
        let count = |code: Code| self.desk.refusals.get(&code).copied().unwrap_or_default();
        Counts {
            channels: self.channels.len(),
            peers: self.sessions.len(),
            transports: owners.transports.len(),
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
