//! Carries an operator's request out: what it changes, and what the answer is. The owner of what is closed is told the
//! reason `operator`.

use serde_json::{Value, json};

use super::operation::{Operation, PeerAt, Thing, ThingKind};
use super::overview::StatsAsk;
use super::problem::Problem;
use crate::base::id::{PeerId, ShardId};
use crate::base::time::Instant;
use crate::signal::act::{Act, Actor, By};
use crate::signal::closing::{self, Ending};
use crate::signal::dismissal::Cause;
use crate::signal::hub::Hub;
use crate::signal::members::Member;
use crate::signal::removal;
use crate::signal::revoked::TooManyRevoked;

/// Peers that one call removes of a channel that is closed.
const REMOVED_AT_ONCE: usize = 4;

/// What becomes of a request.
#[derive(Clone, PartialEq, Debug)]
pub enum AdminOutcome {
    /// 200, once the shards have said what it lacks.
    Look { answer: Value, asks: Vec<StatsAsk> },
    /// 200.
    Done(Value),
    /// 204.
    Ended,
    /// The channel has more peers than one call removes: [`Hub::empty`] goes on.
    Emptying(String),
}

fn look(answer: Value) -> Result<AdminOutcome, Problem> {
    Ok(AdminOutcome::Look { answer, asks: Vec::new() })
}

impl Hub {
    /// `Document` and `Events` are the edge's: here they are nothing.
    pub fn administer(&mut self, now: Instant, operation: &Operation) -> Result<AdminOutcome, Problem> {
        match operation {
            Operation::Document | Operation::Events { .. } => Ok(AdminOutcome::Ended),
            Operation::Revoke(what, span) => match self.revoke(now, what.clone(), now + *span) {
                Ok(peers) => Ok(AdminOutcome::Done(json!({ "peers": peers }))),
                Err(TooManyRevoked) => {
                    Err(Problem::new(409, "limit", "as many are revoked as can be remembered; who was in is out"))
                }
            },
            Operation::Channels(page) => look(self.list_channels(page)),
            Operation::Channel(name) => look(self.look_at_channel(name)?),
            Operation::Change(channel, act) => {
                self.operate(now, channel, act.clone())?;
                look(self.look_at_channel(channel)?)
            }
            Operation::Act(channel, act) => self.act(now, channel, act),
            Operation::Bans(channel, page) => look(self.list_bans(now, channel, page)),
            Operation::Comers(channel, page) => look(self.list_comers(channel, page)?),
            Operation::Peers(channel, page) => look(self.list_peers(channel, page)?),
            Operation::Peer(at) => look(self.look_at_peer(at)?),
            Operation::ChangePeer(at, acts) => {
                self.peer_at(at)?;
                for act in acts {
                    self.operate(now, &at.channel, act.clone())?;
                }
                look(self.look_at_peer(at)?)
            }
            Operation::ActOnPeer(at, act) => {
                self.peer_at(at)?;
                self.act(now, &at.channel, act)
            }
            Operation::ActOnProducer(thing, act) => {
                self.look_at_thing(thing)?;
                self.act(now, &thing.of.channel, act)
            }
            Operation::Things { of, kind, page, stats } => {
                let (answer, asks) = self.list_things(of, *kind, page, *stats)?;
                Ok(AdminOutcome::Look { answer, asks })
            }
            Operation::Thing(thing) => {
                let (answer, asks) = self.look_at_thing(thing)?;
                Ok(AdminOutcome::Look { answer, asks })
            }
            Operation::CloseChannel(name) => {
                let channel = self.channel_at(name)?;
                let key = *self.names.get(&channel.name).expect("it was found by its name");
                // Nobody is told of all the others that go as well.
                if let Some(channel) = self.channels.get_mut(key) {
                    channel.subscribers.clear();
                }
                Ok(if self.empty(now, name) { AdminOutcome::Ended } else { AdminOutcome::Emptying(name.clone()) })
            }
            Operation::Move(at, shard) => self.move_peer(at, *shard),
            Operation::Close(thing) => self.close_thing(thing),
        }
    }

    /// Removes some of a channel's peers. True: none is left.
    pub fn empty(&mut self, now: Instant, name: &str) -> bool {
        let Some(channel) = self.names.get(name).and_then(|key| self.channels.get_mut(*key)) else { return true };
        let all = channel.peers.keys().copied().chain(channel.lobby.comers().map(|(id, _)| id));
        let some: Vec<PeerId> = all.take(REMOVED_AT_ONCE).collect();
        for peer in some {
            let who = (Actor::Operator, By::Operator);
            removal::dismiss(channel, &mut self.desk, who, peer, Cause::Removed, Some("the channel is closed"));
        }
        self.let_go_the_lost(now);
        self.channel_at(name).is_err()
    }

    fn act(&mut self, now: Instant, channel: &str, act: &Act) -> Result<AdminOutcome, Problem> {
        self.operate(now, channel, act.clone())?;
        Ok(AdminOutcome::Ended)
    }

    /// A peer cannot take its keys to another shard: its transports end, and those that it makes anew are there.
    fn move_peer(&mut self, at: &PeerAt, to: ShardId) -> Result<AdminOutcome, Problem> {
        let (id, ..) = self.peer_at(at)?;
        let Some(Member { channel: key, .. }) = self.members.get(id) else { return Err(Problem::not_found("peer")) };
        let Some(channel) = self.channels.get_mut(*key) else { return Err(Problem::not_found("channel")) };
        let from = channel.peers.get(&id).and_then(|peer| peer.shard);
        if from == Some(to) {
            return Err(Problem::new(409, "wrong-step", "body.shard: the peer is there already"));
        }
        if !self.desk.placement.place_on(&mut channel.spread, to) {
            return Err(Problem::bad_field("body.shard", "there is no such shard"));
        }
        closing::close_all(channel, &mut self.desk, id, Ending::Moved);
        if let Some(from) = from {
            self.desk.placement.remove(&mut channel.spread, from);
        }
        if let Some(peer) = channel.peers.get_mut(&id) {
            peer.shard = Some(to);
        }
        Ok(AdminOutcome::Done(json!({ "id": at.peer, "shard": to.0 })))
    }

    fn close_thing(&mut self, thing: &Thing) -> Result<AdminOutcome, Problem> {
        let (id, _, peer) = self.peer_at(&thing.of)?;
        let (transport, producer, consumer) =
            (peer.transport(&thing.id), peer.producer(&thing.id), peer.consumer(&thing.id));
        let key = self.members.get(id).map(|member| member.channel);
        let Some(channel) = key.and_then(|key| self.channels.get_mut(key)) else {
            return Err(Problem::not_found("channel"));
        };
        let desk = &mut self.desk;
        match (thing.kind, transport, producer, consumer) {
            (ThingKind::Transport, Some(id), ..) => closing::close_transport(channel, desk, id, Ending::Operator),
            (ThingKind::Producer, _, Some(id), _) => closing::close_producer(channel, desk, id, Ending::Operator),
            (ThingKind::Consumer, .., Some(id)) => closing::close_consumer(channel, desk, id, Ending::Operator),
            (ThingKind::Transport, ..) => return Err(Problem::not_found("transport of this peer")),
            (ThingKind::Producer, ..) => return Err(Problem::not_found("producer of this peer")),
            (ThingKind::Consumer, ..) => return Err(Problem::not_found("consumer of this peer")),
        }
        Ok(AdminOutcome::Ended)
    }
}
