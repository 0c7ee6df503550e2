//! Carries an operator's request out: what it changes, and what the answer is. The owner of what is closed is told the
//! reason `operator`, or `stopped` where moderators do the same.

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
use crate::signal::place::PeerPlace;
use crate::signal::removal;
use crate::signal::revoked::TooManyRevoked;

/// Peers that one call removes of a channel that is closed.
const REMOVED_AT_ONCE: usize = 4;

/// A channel that is being closed, and the last of the peers that it had then: who comes meanwhile stays.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Emptying {
    channel: String,
    last: PeerId,
}

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
    Emptying(Emptying),
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
                let key = self.names.get(name.as_str()).and_then(|key| self.channels.get_mut(*key));
                let channel = key.ok_or_else(|| Problem::not_found("channel"))?;
                // Nobody is told of all the others that go as well.
                channel.subscribers.clear();
                let last = channel.all().map(|(id, _)| id).max().unwrap_or(PeerId(0));
                let emptying = Emptying { channel: name.clone(), last };
                Ok(if self.empty(now, &emptying) { AdminOutcome::Ended } else { AdminOutcome::Emptying(emptying) })
            }
            Operation::Move(at, shard) => self.move_peer(at, *shard),
            Operation::Close(thing) => self.close_thing(now, thing),
        }
    }

    /// Removes some of a channel's peers. True: none is left of those that it had.
    pub fn empty(&mut self, now: Instant, emptying: &Emptying) -> bool {
        let key = self.names.get(emptying.channel.as_str());
        let Some(channel) = key.and_then(|key| self.channels.get_mut(*key)) else { return true };
        let had = channel
            .all()
            .filter(|(_, peer)| peer.place.node().is_none())
            .map(|(id, _)| id)
            .filter(|id| *id <= emptying.last);
        let some: Vec<PeerId> = had.take(REMOVED_AT_ONCE + 1).collect();
        for &peer in some.iter().take(REMOVED_AT_ONCE) {
            let who = (Actor::Operator, By::Operator);
            removal::dismiss(channel, &mut self.desk, who, peer, Cause::Removed, Some("the channel is closed"));
        }
        self.let_go_the_lost(now);
        some.len() <= REMOVED_AT_ONCE
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
        let from = channel.peers.get(&id).and_then(|peer| peer.place.shard());
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
            peer.place = PeerPlace::Here(Some(to));
        }
        Ok(AdminOutcome::Done(json!({ "id": at.peer, "shard": to.0 })))
    }

    fn close_thing(&mut self, now: Instant, thing: &Thing) -> Result<AdminOutcome, Problem> {
        self.look_at_thing(thing)?;
        let (id, _, peer) = self.peer_at(&thing.of)?;
        let (transport, consumer) = (peer.transport(&thing.id), peer.consumer(&thing.id));
        let key = self.members.get(id).map(|member| member.channel);
        let Some(channel) = key.and_then(|key| self.channels.get_mut(key)) else {
            return Err(Problem::not_found("channel"));
        };
        let desk = &mut self.desk;
        match thing.kind {
            ThingKind::Transport => {
                transport.into_iter().for_each(|id| closing::close_transport(channel, desk, id, Ending::Operator));
            }
            ThingKind::Consumer => {
                consumer.into_iter().for_each(|id| closing::close_consumer(channel, desk, id, Ending::Operator));
            }
            ThingKind::Producer => {
                return self.act(now, &thing.of.channel, &Act::StopProducer { producer: thing.id.clone() });
            }
        }
        Ok(AdminOutcome::Ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::entrance::Entrance;
    use crate::signal::fixture::settings;

    #[test]
    fn who_comes_while_a_channel_is_closed_stays() {
        let (mut hub, now) = (Hub::new(settings()), Instant::ZERO);
        let join = |hub: &mut Hub, user: &str| {
            hub.join(now, [127, 0, 0, 1].into(), &Entrance::named(user, "room")).expect("there is room");
        };
        (0..3 * REMOVED_AT_ONCE).for_each(|n| join(&mut hub, &format!("u{n}")));
        let closed = hub.administer(now, &Operation::CloseChannel("room".into()));
        let Ok(AdminOutcome::Emptying(emptying)) = closed else { panic!("{closed:?}") };
        join(&mut hub, "late");
        let mut calls = 1;
        while !hub.empty(now, &emptying) {
            calls += 1;
        }
        assert_eq!((calls, hub.counts().peers), (2, 1));
        let left =
            hub.channel_at("room").map(|channel| channel.peers.values().map(|peer| peer.user.to_string()).collect());
        assert_eq!(left, Ok(vec!["late".to_owned()]));
    }
}
