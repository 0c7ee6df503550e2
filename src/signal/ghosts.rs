//! The peers of other nodes in a channel: they come, change and go by what their node tells, and the peers here hear of them
//! as of each other. What a node tells is about its own peers, or it is refused.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::base::id::{PeerId, ProducerId};
use crate::base::limits::{GHOST_PRODUCERS_PER_CHANNEL_MAX, GHOSTS_PER_CHANNEL_MAX, PRODUCERS_PER_PEER_MAX};
use crate::base::node_id::NodeId;
use crate::base::time::{Duration, Instant};
use crate::signal::act::{Actor, By};
use crate::signal::channel::Channel;
use crate::signal::closing::{self, Ending};
use crate::signal::cluster::{GhostEntry, ProducerEntry, RosterOp};
use crate::signal::desk::Desk;
use crate::signal::dismissal::Cause;
use crate::signal::ids::ExternalId;
use crate::signal::lobby::Doorway;
use crate::signal::news::News;
use crate::signal::peer::{FromAbroad, Peer, Producer};
use crate::signal::{chat, moderation, pausing, producing, profile, removal};

/// The actor of what another node tells. None: it names a peer that is none of that node's.
pub(super) fn actor(channel: &Channel, node: NodeId, by: By) -> Option<Actor> {
    match by {
        By::Operator => Some(Actor::Operator),
        By::Hidden => Some(Actor::Hidden),
        By::Peer(external) => owned(channel, node, external).map(Actor::Peer),
    }
}

/// The ghost of this node that is called so.
fn owned(channel: &Channel, node: NodeId, external: ExternalId) -> Option<PeerId> {
    let id = channel.peer_named(external)?;
    (channel.peers.get(&id)?.place.node() == Some(node)).then_some(id)
}

fn owned_producer(channel: &Channel, node: NodeId, external: ExternalId) -> Option<ProducerId> {
    let id = *channel.by_external.get(&external)?;
    let owner = channel.producers.get(&id)?;
    (channel.peers.get(owner)?.place.node() == Some(node)).then_some(id)
}

/// All that the node has: what is not in it has ended.
pub(super) fn roster(
    now: Instant,
    channel: &mut Channel,
    desk: &mut Desk,
    node: NodeId,
    told: Vec<RosterOp>,
    joining: bool,
) {
    let (mut peers, mut producers) = (BTreeSet::new(), BTreeSet::new());
    for told in &told {
        match told {
            RosterOp::Peer { entry, .. } => _ = peers.insert(entry.id),
            RosterOp::Producer(entry) => _ = producers.insert(entry.id),
            _ => {}
        }
    }
    for ghost in channel.abroad.as_ref().map(|abroad| abroad.of_node(node)).unwrap_or_default() {
        let Some(peer) = channel.peers.get(&ghost) else { continue };
        if !peers.contains(&peer.external) {
            end(channel, desk, ghost, None);
            continue;
        }
        let ended = peer.producers.iter().filter(|(_, producer)| !producers.contains(&producer.external));
        for producer in ended.map(|(id, _)| *id).collect::<Vec<_>>() {
            closing::close_producer(channel, desk, producer, Ending::Abroad { reason: "closed", by: None });
        }
    }
    // A ban that was lifted meanwhile must not come back: only who comes new to the channel learns those that hold.
    let holds = |told: &RosterOp| joining || !matches!(told, RosterOp::Banned { .. });
    for told in told.into_iter().filter(holds) {
        happened(now, channel, desk, node, told);
    }
}

/// Something happened at the node, or is so there.
pub(super) fn happened(now: Instant, channel: &mut Channel, desk: &mut Desk, node: NodeId, told: RosterOp) {
    let taken = match told {
        RosterOp::Peer { entry, replaces, by } => peer(channel, desk, node, entry, replaces, by),
        RosterOp::PeerEnded { id, parting } => owned(channel, node, id).map(|id| {
            end(channel, desk, id, parting.map(|parting| parting.describe()));
        }),
        RosterOp::Away { id, away } => owned(channel, node, id).map(|id| channel.tell_away(&mut desk.post, id, away)),
        RosterOp::Producer(entry) => producer(channel, desk, node, *entry),
        RosterOp::ProducerEnded { id, reason, by } => owned_producer(channel, node, id).map(|id| {
            closing::close_producer(channel, desk, id, Ending::Abroad { reason, by });
        }),
        RosterOp::Paused { id, pause, by } => {
            owned_producer(channel, node, id).map(|id| pausing::change(channel, desk, id, by, |_| pause))
        }
        RosterOp::Silent { id, silent } => owned_producer(channel, node, id)
            .and_then(|id| channel.producer_mut(id))
            .map(|producer| producer.silent = silent),
        RosterOp::Said { from, to, data } => actor(channel, node, from).map(|_| {
            chat::deliver(channel, desk, from, to, &data);
        }),
        RosterOp::Settings { settings, by } => {
            moderation::agree(now, channel, desk, settings, by.unwrap_or(By::Operator));
            Some(())
        }
        RosterOp::Banned { user, seconds, by, notice } => actor(channel, node, by).map(|actor| {
            let ban = now + Duration::from_secs(seconds);
            removal::ban(channel, desk, (actor, by), &user, notice.as_deref(), ban);
        }),
        RosterOp::Unbanned { user } => {
            desk.bans.lift(&channel.name, &user);
            Some(())
        }
    };
    if taken.is_none() {
        desk.ghosts.refused += 1;
    }
}

/// The node has none of the channel any more. `fault`: it is dead.
pub(super) fn gone(channel: &mut Channel, desk: &mut Desk, node: NodeId, fault: bool) {
    let ghosts = channel.abroad.as_ref().map(|abroad| abroad.of_node(node)).unwrap_or_default();
    for ghost in ghosts {
        if fault && let Some(peer) = channel.peers.get(&ghost) {
            for producer in peer.producers.keys().copied().collect::<Vec<_>>() {
                closing::close_producer(channel, desk, producer, Ending::Abroad { reason: "fault", by: None });
            }
        }
        end(channel, desk, ghost, None);
    }
}

/// The channel ends here: nobody is left to be told.
pub(super) fn forget(channel: &mut Channel, desk: &mut Desk) {
    let ghosts: Vec<_> = channel.abroad.iter().flat_map(|abroad| abroad.ghosts.keys().copied()).collect();
    ghosts.into_iter().for_each(|ghost| end(channel, desk, ghost, None));
}

fn end(channel: &mut Channel, desk: &mut Desk, ghost: PeerId, parting: Option<Value>) {
    if let Some(peer) = channel.peers.get_mut(&ghost) {
        peer.parting = parting;
    }
    closing::remove_peer(channel, desk, ghost);
    if let Some(abroad) = &mut channel.abroad
        && abroad.ghosts.remove(&ghost).is_some()
    {
        desk.ghosts.peers -= 1;
    }
}

fn peer(
    channel: &mut Channel,
    desk: &mut Desk,
    node: NodeId,
    entry: GhostEntry,
    replaces: Option<ExternalId>,
    by: Option<By>,
) -> Option<()> {
    if channel.peer_named(entry.id).is_some() {
        let id = owned(channel, node, entry.id)?;
        if let Some(peer) = channel.peers.get_mut(&id) {
            peer.grants.moderate = entry.moderates;
        }
        profile::is_now(channel, desk, id, entry.name, entry.app_data, by);
        channel.tell_away(&mut desk.post, id, entry.away);
        return Some(());
    }
    let abroad = channel.abroad.get_or_insert_default();
    if abroad.ghosts.len() >= GHOSTS_PER_CHANNEL_MAX {
        return None;
    }
    let id = PeerId(desk.ids.number());
    abroad.ghosts.insert(id, node);
    desk.ghosts.peers += 1;
    let away = entry.away;
    let peer = Peer::ghost(node, entry);
    let mut data = peer.describe();
    if let Some(replaces) = replaces {
        data["replaces"] = json!(replaces.to_string());
    }
    channel.insert(id, peer);
    channel.tell_others(&mut desk.post, id, &News::peer_joined(id), &data);
    channel.tell_away(&mut desk.post, id, away);
    Some(())
}

fn producer(channel: &mut Channel, desk: &mut Desk, node: NodeId, entry: ProducerEntry) -> Option<()> {
    let owner = owned(channel, node, entry.peer)?;
    if channel.by_external.contains_key(&entry.id) {
        let id = owned_producer(channel, node, entry.id)?;
        channel.producer_mut(id)?.silent = entry.silent;
        pausing::change(channel, desk, id, None, |_| entry.pause);
        return Some(());
    }
    let abroad = channel.abroad.as_mut()?;
    let peer = channel.peers.get_mut(&owner)?;
    if abroad.producers >= GHOST_PRODUCERS_PER_CHANNEL_MAX || peer.producers.len() >= PRODUCERS_PER_PEER_MAX {
        return None;
    }
    abroad.producers += 1;
    desk.ghosts.producers += 1;
    peer.cname.get_or_insert_with(|| entry.plan.cname.clone());
    let producer = Producer {
        external: entry.id,
        app_data_bytes: entry.app_data.to_string().len(),
        app_data: entry.app_data,
        pause: entry.pause,
        silent: entry.silent,
        transport: None,
        abroad: Some(FromAbroad { shard: entry.shard, imported: false }),
        consumers: Default::default(),
        plan: entry.plan,
    };
    let id = ProducerId(desk.ids.number());
    producing::announce(channel, desk, owner, id, producer);
    Some(())
}

/// The first peers of a channel have come before what moderators elsewhere have set was known here. Who may not be in it
/// goes; who has to wait is returned.
pub(super) fn judge(now: Instant, channel: &mut Channel, desk: &mut Desk) -> Vec<PeerId> {
    let mut waits = Vec::new();
    let here: Vec<PeerId> =
        channel.peers.iter().filter(|(_, peer)| peer.place.node().is_none()).map(|(id, _)| *id).collect();
    let mut inside = channel.peers.len() - here.len();
    for id in here {
        let Some(peer) = channel.peers.get(&id) else { continue };
        let banned = desk.bans.holds(now, &channel.name, &peer.user);
        let cause = match channel.lobby.doorway(inside, peer.grants.moderate) {
            _ if banned => Cause::Banned,
            Doorway::Open => {
                inside += 1;
                continue;
            }
            Doorway::Wait => {
                waits.push(id);
                continue;
            }
            Doorway::Locked => Cause::Locked,
            Doorway::Full => Cause::Full,
        };
        removal::dismiss(channel, desk, (Actor::Operator, By::Operator), id, cause, None);
    }
    waits
}

#[cfg(test)]
#[path = "ghosts_tests.rs"]
mod tests;
