//! What is told to the peers of other nodes: the news of a channel in the form that goes over the bus, and all that is in
//! it.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::base::id::{PeerId, ProducerId, ShardId};
use crate::base::limits::ROSTER_APP_DATA_BYTES_MAX;
use crate::signal::act::By;
use crate::signal::cluster::{GhostEntry, Parting, ProducerEntry, RosterOp};
use crate::signal::ids::ExternalId;
use crate::signal::news::News;
use crate::signal::peer::{Peer, Producer};

fn text<'a>(data: &'a Value, name: &str) -> Option<&'a str> {
    data.get(name).and_then(Value::as_str)
}

fn id(data: &Value, name: &str) -> Option<ExternalId> {
    ExternalId::parse(text(data, name)?)
}

/// None: it is not news of a peer, or nothing that others need.
pub(super) fn of(peers: &BTreeMap<PeerId, Peer>, about: PeerId, news: &News, data: &Value) -> Option<RosterOp> {
    let by = text(data, "by").and_then(By::parse);
    let producer = || {
        let peer = peers.get(&about)?;
        Some((peer, peer.producers.get(&ProducerId(news.about?.thing))?))
    };
    match news.kind {
        "peer-joined" | "peer-updated" => {
            Some(RosterOp::Peer { entry: peer_entry(peers.get(&about)?), replaces: id(data, "replaces"), by })
        }
        "peer-left" => Some(RosterOp::PeerEnded { id: id(data, "id")?, parting: Parting::of(data) }),
        "peer-away" => Some(RosterOp::Away { id: id(data, "id")?, away: true }),
        "peer-back" => Some(RosterOp::Away { id: id(data, "id")?, away: false }),
        "new-producer" => producer().and_then(|(peer, producer)| producer_entry(peer, producer)),
        "producer-closed" => {
            Some(RosterOp::ProducerEnded { id: id(data, "id")?, reason: RosterOp::reason(text(data, "reason")?), by })
        }
        "producer-paused" | "producer-resumed" => {
            producer().map(|(_, producer)| RosterOp::Paused { id: producer.external, pause: producer.pause, by })
        }
        _ => None,
    }
}

pub(super) fn peer_entry(peer: &Peer) -> GhostEntry {
    GhostEntry {
        id: peer.external,
        user: peer.user.clone(),
        name: peer.name.clone(),
        app_data: peer.app_data.clone(),
        away: peer.away,
        moderates: peer.grants.moderate,
    }
}

fn producer_entry(peer: &Peer, producer: &Producer) -> Option<RosterOp> {
    let mut plan = producer.plan.clone();
    plan.cname = peer.cname.clone()?;
    let shard: ShardId = peer.place.shard()?;
    Some(RosterOp::Producer(Box::new(ProducerEntry {
        id: producer.external,
        peer: peer.external,
        shard,
        plan,
        app_data: producer.app_data.clone(),
        pause: producer.pause,
        silent: producer.silent,
    })))
}

/// All peers of this node that others may know of, then their producers, oldest first.
pub(super) fn all(peers: &BTreeMap<PeerId, Peer>, producers: &BTreeMap<ProducerId, PeerId>) -> Vec<String> {
    let mut room = ROSTER_APP_DATA_BYTES_MAX;
    let mut fits = |bytes: usize| room.checked_sub(bytes).map(|rest| room = rest).is_some();
    let shown = |peer: &&Peer| peer.place.node().is_none() && !peer.grants.hidden;
    let mut all = Vec::new();
    for peer in peers.values().filter(shown) {
        let mut entry = peer_entry(peer);
        if !fits(peer.app_data_bytes) {
            entry.app_data = Value::Null;
        }
        all.push(RosterOp::Peer { entry, replaces: None, by: None }.write());
    }
    for (id, owner) in producers {
        let Some(peer) = peers.get(owner).filter(shown) else { continue };
        let Some(producer) = peer.producers.get(id) else { continue };
        let Some(RosterOp::Producer(mut entry)) = producer_entry(peer, producer) else { continue };
        if !fits(producer.app_data_bytes) {
            entry.app_data = Value::Null;
        }
        all.push(RosterOp::Producer(entry).write());
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::signal::fixture::{ANNA, BERTA, CAMERA, call};

    #[test]
    fn the_news_of_a_channel_are_told_and_what_is_of_no_peer_is_not() {
        let (mut channel, _) = call();
        channel.peers.get_mut(&ANNA).unwrap().cname = Some("anna".into());
        let (anna, camera) = (channel.peers[&ANNA].external, channel.producer(CAMERA).unwrap().1.external);
        let gone = json!({ "id": anna.to_string(), "user": "anna", "reason": "removed", "by": "operator" });
        let closed = json!({ "id": camera.to_string(), "reason": "stopped", "by": "moderator" });
        let told = |news: News, data: Value| of(&channel.peers, ANNA, &news, &data);
        let Some(RosterOp::Peer { entry, replaces: None, by: None }) = told(News::peer_joined(ANNA), json!({})) else {
            panic!("it is told")
        };
        assert_eq!((entry.id, &*entry.user, entry.moderates), (anna, "anna", false));
        let Some(RosterOp::Producer(entry)) = told(News::new_producer(CAMERA), json!({})) else { panic!("it is told") };
        assert_eq!((entry.id, entry.peer, entry.plan.cname.as_str()), (camera, anna, "anna"));
        let parting = Parting { reason: "removed".into(), by: By::Operator, message: None };
        assert_eq!(told(News::peer_left(ANNA), gone), Some(RosterOp::PeerEnded { id: anna, parting: Some(parting) }));
        let by = Some(By::Hidden);
        assert_eq!(
            told(News::producer_closed(CAMERA), closed),
            Some(RosterOp::ProducerEnded { id: camera, reason: "stopped", by })
        );
        let data = json!({ "id": anna.to_string() });
        assert_eq!(told(News::peer_away(ANNA, true), data), Some(RosterOp::Away { id: anna, away: true }));
        assert_eq!(told(News::active_speaker(), json!({})), None);
        assert!(told(News::producer_paused(CAMERA, true), json!({})).is_some());
    }

    #[test]
    fn all_is_without_ghosts_and_those_that_nobody_may_know_of() {
        let (mut channel, _) = call();
        let listed = |channel: &crate::signal::channel::Channel| all(&channel.peers, &channel.producers).len();
        channel.peers.get_mut(&ANNA).unwrap().cname = Some("anna".into());
        assert_eq!(listed(&channel), 3);
        channel.peers.get_mut(&BERTA).unwrap().grants.hidden = true;
        assert_eq!(listed(&channel), 2);
    }
}
