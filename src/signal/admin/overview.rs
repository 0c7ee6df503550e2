//! Looks at channels, peers and their objects for the operator: in pages, each with the name of the next, so that no
//! answer grows with the server. Changes nothing. What only a shard knows is asked for by the edge, and put in its place.

use std::collections::BTreeMap;
use std::ops::Bound;

use serde_json::{Value, json};

use super::operation::{Page, PeerAt, Thing, ThingKind};
use super::problem::Problem;
use crate::base::id::{ConsumerId, PeerId, ProducerId, ShardId, TransportId};
use crate::base::time::Instant;
use crate::shard::command::{Stats, StatsOf};
use crate::signal::channel::{Channel, describe_producer};
use crate::signal::get_stats;
use crate::signal::hub::Hub;
use crate::signal::peer::{Consumer, Peer, Producer, Transport};
use crate::signal::request::Direction;

/// A question for a shard, whose answer belongs into an answer of ours.
#[derive(Clone, PartialEq, Debug)]
pub struct StatsAsk {
    pub shard: ShardId,
    pub of: StatsOf,
    /// Where the statistics belong (RFC 6901).
    pointer: String,
    id: String,
    /// Of a producer: the transport's id.
    transport: Option<String>,
}

impl StatsAsk {
    pub fn put(&self, answer: &mut Value, stats: &Stats) {
        if let Some(place) = answer.pointer_mut(&self.pointer) {
            *place = get_stats::to_json(&self.id, stats, self.transport.clone());
        }
    }
}

/// An answer, and what it lacks.
pub(super) type Look = (Value, Vec<StatsAsk>);

impl Hub {
    pub(super) fn channel_at(&self, name: &str) -> Result<&Channel, Problem> {
        let found = self.names.get(name).and_then(|key| self.channels.get(*key));
        found.ok_or_else(|| Problem::not_found("channel"))
    }

    pub(super) fn peer_at(&self, at: &PeerAt) -> Result<(PeerId, &Channel, &Peer), Problem> {
        let channel = self.channel_at(&at.channel)?;
        let found = channel.find_peer(&at.peer).and_then(|id| Some((id, channel, channel.peers.get(&id)?)));
        found.ok_or_else(|| Problem::not_found("peer in this channel"))
    }

    pub(super) fn list_channels(&self, page: &Page) -> Value {
        let from = page.after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut names = self.names.range::<str, _>((from, Bound::Unbounded));
        let listed: Vec<_> = names.by_ref().take(page.limit).collect();
        let next = names.next().and(listed.last()).map(|(name, _)| name.to_string());
        let channels = listed.iter().filter_map(|(_, key)| self.channels.get(**key)).map(describe_channel);
        json!({ "channels": channels.collect::<Vec<_>>(), "next": next })
    }

    pub(super) fn look_at_channel(&self, name: &str) -> Result<Value, Problem> {
        let channel = self.channel_at(name)?;
        let mut look = describe_channel(channel);
        let mut shards: BTreeMap<u16, usize> = BTreeMap::new();
        let (mut transports, mut consumers) = (0, 0);
        for peer in channel.peers.values() {
            transports += peer.transports.len();
            consumers += peer.consumers.len();
            if let Some(shard) = peer.shard {
                *shards.entry(shard.0).or_default() += 1;
            }
        }
        let shards = shards.iter().map(|(shard, peers)| json!({ "shard": shard, "peers": peers }));
        look["transports"] = json!(transports);
        look["consumers"] = json!(consumers);
        look["shards"] = shards.collect();
        let door = channel.lobby.describe();
        look["locked"] = json!(channel.lobby.is_locked());
        look["waiting"] = json!(channel.lobby.keeps_waiting());
        look["peersMax"] = json!(door.get("peersMax"));
        look["peersWaiting"] = json!(channel.lobby.len());
        look["lastN"] = json!(channel.voices.last_n());
        Ok(look)
    }

    /// Bans outlive their channel.
    pub(super) fn list_bans(&self, now: Instant, channel: &str, page: &Page) -> Value {
        let after = page.after.as_deref();
        let mut bans = self.bans(channel).skip_while(|(user, _)| after.is_some_and(|after| *user <= after));
        let listed: Vec<_> = bans.by_ref().take(page.limit).collect();
        let next = bans.next().and(listed.last()).map(|(user, _)| user.to_string());
        let ban = |(user, until): &(&str, Instant)| json!({ "user": user, "secondsLeft": until.since(now).as_secs() });
        json!({ "bans": listed.iter().map(ban).collect::<Vec<_>>(), "next": next })
    }

    pub(super) fn list_comers(&self, name: &str, page: &Page) -> Result<Value, Problem> {
        let comers: BTreeMap<PeerId, &Peer> = self.channel_at(name)?.lobby.comers().collect();
        let (comers, next) = part(&comers, page, PeerId, |id| id.0)?;
        let comers: Vec<Value> = comers.iter().map(|(_, peer)| peer.introduce()).collect();
        Ok(json!({ "peers": comers, "next": next }))
    }

    pub(super) fn list_peers(&self, name: &str, page: &Page) -> Result<Value, Problem> {
        let channel = self.channel_at(name)?;
        let (peers, next) = part(&channel.peers, page, PeerId, |id| id.0)?;
        let peers: Vec<Value> = peers.iter().map(|(_, peer)| describe_peer(peer)).collect();
        Ok(json!({ "peers": peers, "next": next }))
    }

    pub(super) fn look_at_peer(&self, at: &PeerAt) -> Result<Value, Problem> {
        let (_, _, peer) = self.peer_at(at)?;
        let mut look = describe_peer(peer);
        look["appData"] = peer.app_data.clone();
        Ok(look)
    }

    pub(super) fn list_things(&self, at: &PeerAt, kind: ThingKind, page: &Page, stats: bool) -> Result<Look, Problem> {
        let (_, _, peer) = self.peer_at(at)?;
        let (name, (mut entries, next)) = match kind {
            ThingKind::Transport => ("transports", described(peer, &peer.transports, page, TransportId, |id| id.0)?),
            ThingKind::Producer => ("producers", described(peer, &peer.producers, page, ProducerId, |id| id.0)?),
            ThingKind::Consumer => ("consumers", described(peer, &peer.consumers, page, ConsumerId, |id| id.0)?),
        };
        let mut asks = Vec::new();
        if stats && let Some(shard) = peer.shard {
            for (place, (of, entry)) in entries.iter_mut().enumerate() {
                asks.push(ask(shard, *of, entry, &format!("/{name}/{place}")));
            }
        }
        let entries: Vec<Value> = entries.into_iter().map(|(_, entry)| entry).collect();
        Ok((json!({ name: entries, "next": next }), asks))
    }

    pub(super) fn look_at_thing(&self, thing: &Thing) -> Result<Look, Problem> {
        let (_, _, peer) = self.peer_at(&thing.of)?;
        let (of, mut entry) = match thing.kind {
            ThingKind::Transport => {
                let id = peer.transport(&thing.id).ok_or_else(|| Problem::not_found("transport of this peer"))?;
                peer.transports[&id].describe(peer, id)
            }
            ThingKind::Producer => {
                let id = peer.producer(&thing.id).ok_or_else(|| Problem::not_found("producer of this peer"))?;
                let (of, mut entry) = peer.producers[&id].describe(peer, id);
                entry["appData"] = peer.producers[&id].app_data.clone();
                (of, entry)
            }
            ThingKind::Consumer => {
                let id = peer.consumer(&thing.id).ok_or_else(|| Problem::not_found("consumer of this peer"))?;
                peer.consumers[&id].describe(peer, id)
            }
        };
        let asks = peer.shard.map(|shard| ask(shard, of, &mut entry, "")).into_iter().collect();
        Ok((entry, asks))
    }
}

fn describe_channel(channel: &Channel) -> Value {
    json!({ "name": &*channel.name, "peers": channel.peers.len(), "producers": channel.producers.len() })
}

fn describe_peer(peer: &Peer) -> Value {
    let mut entry = peer.introduce();
    entry["grants"] = peer.grants.describe();
    entry["shard"] = json!(peer.shard.map(|shard| shard.0));
    entry["transports"] = json!(peer.transports.len());
    entry["producers"] = json!(peer.producers.len());
    entry["consumers"] = json!(peer.consumers.len());
    entry
}

/// What a peer has, for a list.
trait Described<K> {
    fn describe(&self, peer: &Peer, id: K) -> (StatsOf, Value);
}

fn external(peer: &Peer, transport: TransportId) -> Option<String> {
    peer.transports.get(&transport).map(|transport| transport.external.to_string())
}

impl Described<TransportId> for Transport {
    fn describe(&self, _: &Peer, id: TransportId) -> (StatsOf, Value) {
        let direction = self.direction.map(|direction| match direction {
            Direction::Send => "send",
            Direction::Receive => "recv",
        });
        let entry = json!({ "id": self.external.to_string(), "direction": direction, "state": self.state.name() });
        (StatsOf::Transport(id), entry)
    }
}

impl Described<ProducerId> for Producer {
    fn describe(&self, peer: &Peer, id: ProducerId) -> (StatsOf, Value) {
        // No appData in lists.
        let mut entry = describe_producer(self, &mut 0);
        if let Some(entry) = entry.as_object_mut() {
            entry.remove("appData");
        }
        entry["muted"] = json!(self.pause.muted);
        entry["silent"] = json!(self.silent);
        entry["transportId"] = json!(self.transport.and_then(|transport| external(peer, transport)));
        entry["consumers"] = json!(self.consumers.len());
        (StatsOf::Producer(id), entry)
    }
}

impl Described<ConsumerId> for Consumer {
    fn describe(&self, peer: &Peer, id: ConsumerId) -> (StatsOf, Value) {
        let entry = json!({
            "id": self.external.to_string(),
            "producerId": self.producer_external.to_string(),
            "transportId": external(peer, self.transport),
            "paused": self.paused,
        });
        (StatsOf::Consumer(id), entry)
    }
}

type Entries<V> = (Vec<V>, Option<String>);

/// The page's part of a map, and where the next begins.
fn part<'a, K: Copy + Ord, V>(
    all: &'a BTreeMap<K, V>,
    page: &Page,
    key: impl Fn(u64) -> K,
    number: impl Fn(K) -> u64,
) -> Result<Entries<(K, &'a V)>, Problem> {
    let from = match &page.after {
        None => Bound::Unbounded,
        Some(cursor) => match u64::from_str_radix(cursor, 16) {
            Ok(number) => Bound::Excluded(key(number)),
            Err(_) => return Err(Problem::bad_field("query.cursor", "not what `next` of a page said")),
        },
    };
    let mut rest = all.range((from, Bound::Unbounded)).map(|(key, value)| (*key, value));
    let listed: Vec<(K, &V)> = rest.by_ref().take(page.limit).collect();
    let next = rest.next().and(listed.last()).map(|(key, _)| format!("{:x}", number(*key)));
    Ok((listed, next))
}

fn described<K: Copy + Ord, V: Described<K>>(
    peer: &Peer,
    all: &BTreeMap<K, V>,
    page: &Page,
    key: impl Fn(u64) -> K,
    number: impl Fn(K) -> u64,
) -> Result<Entries<(StatsOf, Value)>, Problem> {
    let (listed, next) = part(all, page, key, number)?;
    Ok((listed.iter().map(|(id, thing)| thing.describe(peer, *id)).collect(), next))
}

/// Leaves a place in the entry for the shard's answer.
fn ask(shard: ShardId, of: StatsOf, entry: &mut Value, at: &str) -> StatsAsk {
    let text = |name: &str| entry[name].as_str().map(str::to_owned);
    let (id, transport) = (text("id").unwrap_or_default(), text("transportId"));
    entry["stats"] = Value::Null;
    StatsAsk { shard, of, pointer: format!("{at}/stats"), id, transport }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_all_of_it_once() {
        let all: BTreeMap<PeerId, u64> = (1..=10).map(|n| (PeerId(17 * n), n)).collect();
        for limit in 1..=11 {
            let (mut page, mut seen) = (Page { after: None, limit }, Vec::new());
            loop {
                let (listed, next) = part(&all, &page, PeerId, |id| id.0).unwrap();
                assert!(!listed.is_empty() && listed.len() <= limit);
                seen.extend(listed.iter().map(|(_, value)| **value));
                let Some(next) = next else { break };
                page.after = Some(next);
            }
            assert_eq!(seen, (1..=10).collect::<Vec<_>>(), "{limit}");
        }
        let page = Page { after: Some("no number".into()), limit: 1 };
        assert_eq!(part(&all, &page, PeerId, |id| id.0).unwrap_err().status, 400);
    }
}
