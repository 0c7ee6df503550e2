//! All channels and all peers, with sockets or without: the face that the server edge and the simulation use. After
//! each call, drain [`Hub::poll_output`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::json;

use crate::base::id::{PeerId, ProducerId, ShardId, TransportId};
use crate::base::limits::{MESSAGE_BYTES_MAX, PARTINGS_PER_TURN_MAX, SOCKETS_MAX, TOLD_PER_TURN_MAX};
use crate::base::slab::{Key, Slab};
use crate::base::time::Instant;
use crate::shard::command::{Event, Reply, RequestId, Speech, Stats};
use crate::signal::act::Actor;
use crate::signal::auth::{OpenError, check_name};
use crate::signal::channel::Channel;
use crate::signal::closing::{self, Ending};
use crate::signal::clustered::Clustered;
use crate::signal::counts::Counts;
use crate::signal::desk::{Desk, HubSettings};
use crate::signal::dismissal::{Dismissal, TAKEN_OVER};
use crate::signal::entering;
use crate::signal::entrance::Entrance;
use crate::signal::entry_message::EntryTag;
use crate::signal::events;
use crate::signal::ids::ExternalId;
use crate::signal::journal::{Interest, JournalEntry, Occurrence};
use crate::signal::last_n::LastN;
use crate::signal::mailbox::Overdue;
use crate::signal::members::{Member, Members};
use crate::signal::message::{self, Code, Refusal};
use crate::signal::meter::{Cost, RateDecision};
use crate::signal::peer::Peer;
use crate::signal::peer_log::Who;
use crate::signal::post::{Output, Post};
use crate::signal::quota::Holder;
use crate::signal::regrant;
use crate::signal::request;
use crate::signal::returns;
use crate::signal::revoked::{Revocation, Revoked, TooManyRevoked};
use crate::signal::rounds::Rounds;
use crate::signal::session::SessionId;
use crate::signal::tenure::Tenures;
use crate::signal::text::Text;
use crate::signal::turn::{Answer, Turn};

pub struct Hub {
    pub(super) desk: Desk,
    pub(super) channels: Slab<Channel>,
    pub(super) names: BTreeMap<Arc<str>, Key<Channel>>,
    pub(super) members: Members,
    rounds: Rounds,
    tenures: Tenures,
    revoked: Revoked,
    /// Empty without --cluster.
    pub(super) cluster: Clustered,
    messages: u64,
    disconnects: u64,
}

const NO_JOIN: OpenError = OpenError::Forbidden("this token does not grant the right to join");

/// A client is told its request's type and id even when it is rate limited, as long as reading them is cheap.
const READ_THOUGH_REFUSED_MAX: usize = 4_096;

impl Hub {
    pub fn new(settings: HubSettings) -> Hub {
        Hub {
            desk: Desk::new(settings),
            channels: Slab::default(),
            names: BTreeMap::new(),
            members: Members::default(),
            rounds: Rounds::default(),
            tenures: Tenures::default(),
            revoked: Revoked::default(),
            cluster: Clustered::default(),
            messages: 0,
            disconnects: 0,
        }
    }

    /// Tells the date, in seconds since 1970; often enough that a clock which was set is noticed.
    pub fn tell_date(&mut self, now: Instant, unix: u64) {
        self.desk.date = (now, unix);
    }

    /// Joins a peer without a socket. It asks by [`Hub::ask`]; notifications to it are dropped until a socket takes it
    /// up.
    pub fn join(&mut self, now: Instant, remote: IpAddr, entrance: &Entrance) -> Result<PeerId, OpenError> {
        let (user, channel) = (&*entrance.user, &*entrance.channel);
        check_name("auth", user)?;
        check_name("channelId", channel)?;
        if !entrance.grants.join {
            return Err(NO_JOIN);
        }
        self.revoked.check(now, entrance)?;
        let place = self.names.get(channel).and_then(|key| self.channels.get(*key));
        let old = returns::replaced(self.desk.settings.returns.same_user, place, user);
        let (leaves, comer) =
            (usize::from(old.is_some()), returns::waiting(self.desk.settings.returns.same_user, place, user));
        if self.members.len() >= SOCKETS_MAX + leaves {
            return Err(OpenError::SocketsMax);
        }
        let holder = Holder::new(remote, user);
        let waits = entering::waits(now, &self.desk.bans, place, (entrance, &holder), leaves)?;
        let own = old.and_then(|old| self.members.get(old)).is_some_and(|member| member.holder == holder);
        self.desk.accounts.open(now, &holder, usize::from(own))?;
        let replaced = old.filter(|_| !waits).and_then(|old| self.replace(now, old));
        let key = self.channel_named(now, channel);
        let place = self.channels.get_mut(key).expect("a name points to a channel that lives");
        let Desk { ids, post, lives, accounts, dismissals, .. } = &mut self.desk;
        post.work = Cost::JOIN;
        let (me, external) = (PeerId(ids.number()), ids.external());
        let peer = Peer::new(external, entrance);
        lives.joined(now, me, Who { channel: place.name.clone(), peer: external, user: peer.user.clone() }, remote);
        match waits {
            true => dismissals.extend(entering::wait(place, post, me, (peer, &holder))),
            false => entering::enter(place, post, me, peer, replaced),
        }
        dismissals.extend(comer.map(Dismissal::replaced));
        accounts.charge(now, &holder, post.work);
        self.members.insert(now, me, key, holder);
        self.revoked.entered(now, entrance);
        self.tenures.set(me, entrance);
        self.let_go_the_lost(now);
        Ok(me)
    }

    fn channel_named(&mut self, now: Instant, name: &str) -> Key<Channel> {
        if let Some(key) = self.names.get(name) {
            return *key;
        }
        let name: Arc<str> = name.into();
        let mut new = Channel::new(name.clone());
        if let LastN::Fixed(n) = self.desk.settings.last_n {
            new.voices.set_last_n(&mut self.desk.post, &new.subscribers, now, Some(n));
        }
        self.desk.post.journal.note(Occurrence::ChannelStarted, &name, || json!({}));
        let key = self.channels.insert(new);
        self.names.insert(name, key);
        key
    }

    /// Charges an address for a socket without a peer, which says later who it is. Err: it has to wait.
    pub fn knock(&mut self, now: Instant, remote: IpAddr) -> Result<(), OpenError> {
        self.desk.accounts.knock(now, remote, Cost::message(0))
    }

    /// Charges an address for a TLS handshake that it begins. Err: it has to wait.
    pub fn shake_hands(&mut self, now: Instant, remote: IpAddr) -> Result<(), OpenError> {
        self.desk.accounts.knock(now, remote, Cost::TLS_HANDSHAKE)
    }

    /// Charges an address for a credential that was refused.
    pub fn knocked_in_vain(&mut self, now: Instant, remote: IpAddr) {
        // It is known already that the next one waits, if it has to.
        let _ = self.desk.accounts.knock(now, remote, Cost::KNOCK_IN_VAIN);
    }

    /// Logs a socket that became no peer.
    pub fn kept_out(&mut self, now: Instant, remote: IpAddr, entrance: &Entrance, why: &OpenError) {
        self.desk.lives.kept_out(now, remote, entrance, why);
    }

    /// Ends the old peer of a user who has joined anew. Returns its id, where the others know it.
    fn replace(&mut self, now: Instant, old: PeerId) -> Option<ExternalId> {
        let channel = self.channels.get(self.members.get(old)?.channel)?;
        let replaced = channel.peers.get(&old).map(returns::seen_as)?;
        self.end_with(now, old, &Dismissal::replaced(old).refusal, TAKEN_OVER, None);
        replaced
    }

    /// Tells the others of the peer, or it of the others, at the expense of its account, as its joining was.
    pub(super) fn tell(&mut self, now: Instant, peer: PeerId, tells: impl FnOnce(&mut Channel, &mut Post)) {
        let Some(member) = self.members.get(peer) else { return };
        let Some(channel) = self.channels.get_mut(member.channel) else { return };
        let before = std::mem::take(&mut self.desk.post.work);
        tells(channel, &mut self.desk.post);
        let work = std::mem::replace(&mut self.desk.post.work, before);
        self.desk.accounts.charge(now, &member.holder, work);
    }

    /// Tells who is away and who is gone, and those that are back who of the others is. Many may be due at one moment, and
    /// each is news for many: the rest has the next turn, as the deadline says.
    fn tell_of_the_away(&mut self, now: Instant) {
        let full = self.desk.post.output.len() + TOLD_PER_TURN_MAX;
        for _ in 0..PARTINGS_PER_TURN_MAX {
            if self.desk.post.output.len() >= full {
                break;
            }
            let Some(overdue) = self.desk.post.mailboxes.overdue(now) else { break };
            match overdue {
                Overdue::Away(peer) => self.tell(now, peer, |channel, post| channel.tell_away(post, peer, true)),
                Overdue::Gone(peer) => self.remove(now, peer, "away for too long"),
                Overdue::Late(peer) => self.tell(now, peer, |channel, post| channel.tell_presence(post, peer)),
            }
        }
    }

    /// The peer that has this socket.
    pub fn peer_of(&self, session: SessionId) -> Option<PeerId> {
        self.desk.post.mailboxes.peer_of(session)
    }

    pub fn handle_text(&mut self, now: Instant, session: SessionId, text: &str) {
        let Some(peer) = self.peer_of(session) else { return self.messages += 1 };
        let reply = self.answer(now, peer, text);
        self.desk.post.mailboxes.took(peer);
        if let Some(reply) = reply {
            self.desk.post.reply(peer, reply);
        }
        self.let_go_the_lost(now);
    }

    /// Takes a request of a peer and returns the reply, whether or not it has a socket. None: the reply comes later, to
    /// the peer's socket, or the peer is gone.
    pub fn ask(&mut self, now: Instant, peer: PeerId, text: &str) -> Option<Text> {
        let reply = self.answer(now, peer, text);
        self.let_go_the_lost(now);
        reply
    }

    fn answer(&mut self, now: Instant, peer: PeerId, text: &str) -> Option<Text> {
        self.messages += 1;
        if text.len() > MESSAGE_BYTES_MAX {
            self.disconnect(now, peer, 1009, "a message is at most 256 KiB");
            return None;
        }
        match self.admit(now, peer, Cost::message(text.len()))? {
            RateDecision::Pass => {}
            RateDecision::Refuse(wait) => {
                let parsed = (text.len() <= READ_THOUGH_REFUSED_MAX).then(|| request::parse(text));
                let (tag, kind) = parsed.map_or((None, None), |parsed| (parsed.tag, parsed.kind));
                let refusal = Refusal::rate_limited(wait);
                self.desk.lives.refused(now, peer, &refusal);
                return Some(self.desk.post.refusal(&refusal, kind.as_deref(), tag.as_ref()).into());
            }
            RateDecision::Disconnect => return None,
        }
        let request::Parsed { tag, kind, request } = request::parse(text);
        let member = self.members.get(peer)?;
        let channel = self.channels.get_mut(member.channel)?;
        self.desk.post.work = Cost::default();
        let mut turn = Turn { now, me: peer, holder: &member.holder, channel, desk: &mut self.desk };
        let reply = match request.and_then(|request| turn.take(request, tag.as_ref())) {
            Ok(Answer::Now { kind, data }) => Some(message::reply(kind, tag.as_ref(), &data).into()),
            Ok(Answer::WithToken { kind, data, token }) => {
                Some(message::reply_with_token(kind, tag.as_ref(), &data, &token).into())
            }
            Ok(Answer::Listed { kind, before, listing, after }) => {
                let before = message::reply_head(kind, tag.as_ref()) + &before;
                let text = listing.without(peer, before, after + "}");
                self.desk.post.work.add(Cost::told(1, text.len()));
                self.desk.post.work.add(Cost::walked(listing.len()));
                Some(text)
            }
            Ok(Answer::Later) => None,
            Err(refusal) => {
                self.desk.lives.refused(now, peer, &refusal);
                Some(self.desk.post.refusal(&refusal, kind.as_deref(), tag.as_ref()).into())
            }
        };
        let said = std::mem::take(&mut self.desk.post.said);
        self.desk.accounts.charge_said(now, &member.holder, said);
        self.members.charge(now, &mut self.desk.accounts, peer, self.desk.post.work);
        reply
    }

    pub fn handle_binary(&mut self, now: Instant, session: SessionId, bytes: usize) {
        self.messages += 1;
        let Some(peer) = self.peer_of(session) else { return };
        if let Some(RateDecision::Pass | RateDecision::Refuse(_)) = self.admit(now, peer, Cost::message(bytes)) {
            let refusal = Refusal::new(Code::NotText, "binary frames mean nothing here: send JSON as text");
            let text = self.desk.post.refusal(&refusal, None, None);
            self.desk.post.reply(peer, text);
        }
        self.let_go_the_lost(now);
    }

    /// A ping or a pong came. It is answered by nothing but a refusal when there are too many.
    pub fn handle_control(&mut self, now: Instant, session: SessionId, bytes: usize) {
        if let Some(peer) = self.peer_of(session) {
            self.admit(now, peer, Cost::message(bytes));
            self.let_go_the_lost(now);
        }
    }

    /// Bytes came beside a message: the overhead of its frames.
    pub fn handle_overhead(&mut self, now: Instant, session: SessionId, bytes: usize) {
        if let Some(peer) = self.peer_of(session) {
            self.members.charge(now, &mut self.desk.accounts, peer, Cost::read(bytes));
        }
    }

    /// Whether the peer may ask for this now. One that is refused for too long is disconnected; None: it is gone.
    fn admit(&mut self, now: Instant, peer: PeerId, cost: Cost) -> Option<RateDecision> {
        let admission = self.members.admit(now, &mut self.desk.accounts, peer, cost)?;
        if admission == RateDecision::Disconnect {
            self.disconnect(now, peer, 1008, "too many messages for too long");
        }
        Some(admission)
    }

    /// Ends a socket and its peer. After [`Output::Disconnect`] the call changes nothing.
    pub fn close(&mut self, now: Instant, session: SessionId) {
        self.leave(now, session, "closed");
    }

    /// Ends a socket and its peer; `why` is for the log.
    pub fn leave(&mut self, now: Instant, session: SessionId, why: &'static str) {
        if let Some(peer) = self.peer_of(session) {
            self.end(now, peer, why);
        }
    }

    /// Ends a peer, with a socket or without; `why` is for the log.
    pub fn end(&mut self, now: Instant, peer: PeerId, why: &'static str) {
        self.remove(now, peer, why);
        self.let_go_the_lost(now);
    }

    pub(super) fn remove(&mut self, now: Instant, peer: PeerId, why: &'static str) {
        self.remove_at_expense(now, peer, why, None);
    }

    /// Takes a peer out of its channel, which ends with the last. `payer` pays for the news of it, or the peer's own account.
    fn remove_at_expense(&mut self, now: Instant, peer: PeerId, why: &'static str, payer: Option<PeerId>) {
        let Some(Member { channel: key, holder, .. }) = self.members.remove(peer) else { return };
        self.desk.lives.left(now, peer, why);
        self.tenures.remove(peer);
        self.desk.post.mailboxes.forget(peer);
        self.desk.post.work = Cost::default();
        self.desk.post.journal.leaving = why;
        if let Some(channel) = self.channels.get_mut(key) {
            if !entering::stop_waiting(channel, &mut self.desk.post, peer) {
                closing::remove_peer(channel, &mut self.desk, peer);
            }
            if channel.peers.is_empty() && channel.lobby.is_empty() {
                self.desk.post.journal.note(Occurrence::ChannelEnded, &channel.name, || json!({}));
                self.names.remove(&channel.name);
                self.channels.remove(key);
            }
        }
        match payer {
            Some(payer) => self.members.charge(now, &mut self.desk.accounts, payer, self.desk.post.work),
            None => self.desk.accounts.charge(now, &holder, self.desk.post.work),
        }
        self.desk.accounts.close(now, &holder);
    }

    /// Ends the peers that have to go, and those that missed too much. Each that goes is news for others, of whom one may
    /// miss too much by that.
    pub(super) fn let_go_the_lost(&mut self, now: Instant) {
        loop {
            if let Some(gone) = self.desk.dismissals.pop_front() {
                let payer = match gone.actor {
                    Actor::Peer(moderator) => Some(moderator),
                    Actor::Operator => None,
                };
                self.end_with(now, gone.peer, &gone.refusal, gone.close_code(), payer);
            } else if let Some(peer) = self.desk.post.mailboxes.poll_lost() {
                self.remove(now, peer, "missed too much while it was away");
            } else {
                break;
            }
        }
    }

    /// Ends a peer whose way in is good no more.
    fn put_out(&mut self, now: Instant, peer: PeerId, why: &OpenError) {
        let refusal = Refusal::new(why.as_code(), why.to_string());
        self.end_with(now, peer, &refusal, why.close_code().unwrap_or(1008), None);
    }

    /// Ends a peer and tells it why.
    fn end_with(&mut self, now: Instant, peer: PeerId, refusal: &Refusal, code: u16, payer: Option<PeerId>) {
        if self.members.get(peer).is_none() {
            return;
        }
        let text = self.desk.post.refusal(refusal, None, None);
        self.desk.post.reply(peer, text);
        if let Some(session) = self.desk.post.mailboxes.forget(peer) {
            self.disconnects += 1;
            self.desk.post.output.push_back(Output::Disconnect { session, code, reason: refusal.code.name() });
        }
        self.remove_at_expense(now, peer, refusal.code.name(), payer);
    }

    pub(super) fn disconnect(&mut self, now: Instant, peer: PeerId, code: u16, reason: &'static str) {
        if let Some(session) = self.desk.post.mailboxes.forget(peer) {
            self.disconnects += 1;
            self.desk.post.output.push_back(Output::Disconnect { session, code, reason });
        }
        self.remove(now, peer, reason);
    }

    /// What the token of an [`Output::Verify`] says. A way in for the same user to the same channel renews the peer's.
    pub fn verified(&mut self, now: Instant, peer: PeerId, tag: &EntryTag, says: Result<Entrance, OpenError>) {
        self.desk.post.work = Cost::default();
        let reply = match says.and_then(|entrance| self.renew(now, peer, entrance)) {
            Ok(expires) => tag.authenticated(now, expires),
            Err(why) => {
                self.desk.post.work.add(Cost::KNOCK_IN_VAIN);
                let refusal = Refusal::new(why.as_code(), why.to_string());
                self.desk.lives.refused(now, peer, &refusal);
                self.desk.post.refusal(&refusal, Some("authenticate"), tag.0.as_ref())
            }
        };
        self.desk.post.reply(peer, reply);
        self.members.charge(now, &mut self.desk.accounts, peer, self.desk.post.work);
        self.let_go_the_lost(now);
    }

    fn renew(&mut self, now: Instant, peer: PeerId, entrance: Entrance) -> Result<Option<Instant>, OpenError> {
        let channel = self.members.get(peer).and_then(|member| self.channels.get_mut(member.channel));
        let Some(channel) = channel else { return Err(OpenError::Unauthorized("this peer is gone")) };
        let known = channel.peers.get(&peer).or_else(|| channel.lobby.get(peer));
        let same_user = known.is_some_and(|peer| peer.user == entrance.user);
        if !same_user || channel.name != entrance.channel {
            return Err(OpenError::Forbidden("this token is for another user or channel than this peer's"));
        }
        if !entrance.grants.join {
            return Err(NO_JOIN);
        }
        self.revoked.check(now, &entrance)?;
        self.revoked.entered(now, &entrance);
        self.tenures.set(peer, &entrance);
        regrant::renew(channel, &mut self.desk, peer, &entrance.grants);
        Ok(entrance.expires)
    }

    /// A token is used where no peer comes of it: it must not be revoked, nor used up.
    pub fn use_way(&mut self, now: Instant, way: &Entrance) -> Result<(), OpenError> {
        self.revoked.check(now, way)?;
        self.revoked.entered(now, way);
        Ok(())
    }

    /// Lets nobody in by this until then, and ends the peers that are in by it, which hear nothing of each other; how
    /// many that were. When there is no room to remember it, they end all the same.
    pub fn revoke(&mut self, now: Instant, what: Revocation, until: Instant) -> Result<usize, TooManyRevoked> {
        let by_user = |user: &Arc<str>| {
            let peers = self.channels.iter().flat_map(|(_, channel)| channel.all());
            peers.filter(|(_, peer)| peer.user == *user).map(|(id, _)| id).collect()
        };
        let peers: Vec<PeerId> = match &what {
            Revocation::Token(jti) => self.tenures.by_token(jti),
            Revocation::User(user) => by_user(user),
        };
        for peer in &peers {
            let channel = self.members.get(*peer).and_then(|member| self.channels.get_mut(member.channel));
            channel.into_iter().for_each(|channel| channel.hush(*peer));
        }
        for peer in &peers {
            self.put_out(now, *peer, &OpenError::Unauthorized("this token was revoked"));
        }
        self.let_go_the_lost(now);
        self.revoked.revoke(now, what, until).map(|()| peers.len())
    }

    /// Which shard says it does not matter: every event names its object, and no object's number is used twice.
    pub fn handle_event(&mut self, now: Instant, event: Event) {
        self.desk.lives.event(now, &event, &self.desk.owners);
        match &event {
            Event::Answer { request, reply: Reply::Stats(stats) } => self.stats_came(*request, stats.as_ref()),
            Event::Speech { levels } => self.speech_came(now, levels),
            Event::ShardRestarted { shard } => {
                self.desk.post.journal.note_elsewhere(Occurrence::ShardRestarted, || json!({ "shard": shard.0 }));
                for (_, channel) in self.channels.iter_mut() {
                    let there = channel.peers.iter().filter(|(_, peer)| peer.shard == Some(*shard));
                    let there: Vec<_> = there.map(|(id, _)| *id).collect();
                    for peer in there {
                        closing::shard_lost(channel, &mut self.desk, peer);
                    }
                }
            }
            event => {
                let owner = self.desk.owners.of(event);
                let key = owner.and_then(|owner| self.members.get(owner)).map(|member| member.channel);
                if let Some(channel) = key.and_then(|key| self.channels.get_mut(key)) {
                    events::take(channel, &mut self.desk, event);
                }
            }
        }
        self.let_go_the_lost(now);
    }

    fn stats_came(&mut self, request: RequestId, stats: Option<&Stats>) {
        let Desk { stats: questions, post, .. } = &mut self.desk;
        let Some(asker) = questions.asker(request) else { return };
        let transport = match stats {
            Some(Stats::Producer(stats)) => stats.transport,
            _ => None,
        };
        let external = transport.and_then(|transport| {
            let channel = self.channels.get(self.members.get(asker)?.channel)?;
            Some(channel.peers.get(&asker)?.transports.get(&transport)?.external.to_string())
        });
        questions.answered(post, request, stats, external);
    }

    fn speech_came(&mut self, now: Instant, levels: &[(ProducerId, Speech)]) {
        let Hub { desk, channels, members, rounds, .. } = self;
        let levels = levels.iter().filter_map(|(producer, speech)| {
            let owner = desk.owners.producers.get(producer)?;
            Some((members.get(*owner)?.channel, *producer, *speech))
        });
        rounds.heard(now, levels, channels, &mut desk.post, members.len());
    }

    /// The share of its core that a shard used lately, in thousandths. An unreported shard counts as idle.
    pub fn measured_load(&mut self, shard: ShardId, permille: u32) {
        self.desk.placement.measured(shard, permille);
    }

    /// How much the readers of [`Hub::poll_journal`] want from now on.
    pub fn set_interest(&mut self, interest: Interest) {
        self.desk.post.journal.set_interest(interest);
    }

    /// Drained after each call, as [`Hub::poll_output`] is.
    pub fn poll_journal(&mut self) -> Option<JournalEntry> {
        self.desk.post.journal.poll()
    }

    pub fn poll_output(&mut self) -> Option<Output> {
        self.desk.post.output.pop_front()
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let Desk { stats, lives, accounts, post, bans, .. } = &self.desk;
        let own = [stats.deadline(), lives.deadline(), accounts.deadline(), post.mailboxes.deadline()];
        let others = [bans.deadline(), self.rounds.deadline(), self.tenures.deadline(), self.cluster.deadline()];
        own.into_iter().chain(others).flatten().min()
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.desk.stats.handle_timeout(&mut self.desk.post, now);
        self.desk.lives.handle_timeout(now);
        self.desk.bans.handle_timeout(now);
        self.cluster.handle_timeout(now, &self.desk.placement, self.members.len(), self.channels.len());
        self.rounds.handle_timeout(now, &mut self.channels, &mut self.desk.post, self.members.len());
        // Many may be due at one moment, and each is news for many: the rest has the next turn, as the deadline says.
        for _ in 0..PARTINGS_PER_TURN_MAX {
            let Some(peer) = self.tenures.overdue(now) else { break };
            self.put_out(now, peer, &OpenError::Expired);
        }
        while let Some(transport) = self.desk.accounts.overdue(now) {
            self.unchecked(transport);
        }
        self.tell_of_the_away(now);
        self.let_go_the_lost(now);
    }

    fn unchecked(&mut self, transport: TransportId) {
        let owner = self.desk.owners.transports.get(&transport).and_then(|owner| self.members.get(*owner));
        if let Some(channel) = owner.and_then(|owner| self.channels.get_mut(owner.channel)) {
            closing::close_transport(channel, &mut self.desk, transport, Ending::Unchecked);
        }
        self.desk.accounts.transport_settled(transport);
    }

    /// Writes the last lines of peers that left a moment ago, for a process that ends.
    pub fn end_log(&mut self, now: Instant) {
        self.desk.lives.end(now);
    }

    pub fn counts(&self) -> Counts {
        let owners = &self.desk.owners;
        let count = |code: Code| self.desk.post.refusals.get(&code).copied().unwrap_or_default();
        Counts {
            channels: self.channels.len(),
            peers: self.members.len(),
            waiting: self.channels.iter().map(|(_, channel)| channel.lobby.len()).sum(),
            bans: self.desk.bans.len(),
            transports: owners.transports.len(),
            unchecked_transports: self.desk.accounts.unchecked(),
            producers: owners.producers.len(),
            consumers: owners.consumers.len(),
            stats_pending: self.desk.stats.len(),
            away: self.desk.post.mailboxes.away(),
            resumes: self.desk.resumes.all(),
            messages: self.messages,
            disconnects: self.disconnects,
            errors: Code::ALL.iter().map(|&code| (code.name(), count(code))).collect(),
            expected_load: self.desk.placement.expected().collect(),
        }
    }
}
