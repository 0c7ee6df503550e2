//! One channel: its peers, and its producers in the order they came. Nothing in it can be reached from another one.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;
use serde_json::{Value, json};

use crate::base::id::{PeerId, ProducerId};
use crate::base::limits::LIST_APP_DATA_BYTES_MAX;
use crate::shard::command::MediaKind;
use crate::signal::desk::Desk;
use crate::signal::ids::ExternalId;
use crate::signal::ortc::{self, ConsumerCapabilities};
use crate::signal::peer::{Peer, Producer};
use crate::signal::placement::Spread;
use crate::signal::speech::Voices;

pub(super) struct Channel {
    pub(super) name: String,
    pub(super) peers: BTreeMap<PeerId, Peer>,
    pub(super) subscribers: BTreeSet<PeerId>,
    /// Numbers only grow, so the order of the keys is the order of age.
    pub(super) producers: BTreeMap<ProducerId, PeerId>,
    /// The keys are our own random ids.
    pub(super) by_external: FxHashMap<ExternalId, ProducerId>,
    pub(super) spread: Spread,
    pub(super) voices: Voices,
}

impl Channel {
    pub(super) fn new(name: &str) -> Channel {
        Channel {
            name: name.to_owned(),
            peers: BTreeMap::new(),
            subscribers: BTreeSet::new(),
            producers: BTreeMap::new(),
            by_external: FxHashMap::default(),
            spread: Spread::default(),
            voices: Voices::default(),
        }
    }

    pub(super) fn producer(&self, id: ProducerId) -> Option<(PeerId, &Producer)> {
        let owner = *self.producers.get(&id)?;
        Some((owner, self.peers.get(&owner)?.producers.get(&id)?))
    }

    pub(super) fn find_producer(&self, external: &str) -> Option<ProducerId> {
        self.by_external.get(&ExternalId::parse(external)?).copied()
    }

    /// What `consume` without an id gives: the oldest producer of another peer that `me` does not consume yet, can
    /// receive, and that is not silent (a page that toggles its camera leaves dead ones behind).
    pub(super) fn oldest_receivable(&self, me: PeerId, capabilities: &ConsumerCapabilities) -> Option<ProducerId> {
        let consuming = &self.peers.get(&me)?.consuming;
        let receivable = |id: &ProducerId, owner: &PeerId| {
            let producer = self.peers.get(owner).and_then(|peer| peer.producers.get(id));
            producer.is_some_and(|producer| !producer.silent && ortc::can_consume(&producer.plan, capabilities))
        };
        self.producers
            .iter()
            .filter(|(id, owner)| **owner != me && !consuming.contains_key(id))
            .find(|(id, owner)| receivable(id, owner))
            .map(|(id, _)| *id)
    }

    /// Tells all who subscribed, but not `about`.
    pub(super) fn tell_others(&self, desk: &mut Desk, about: PeerId, kind: &str, data: &Value) {
        for &peer in self.subscribers.iter().filter(|peer| **peer != about) {
            desk.notify(peer, kind, data);
        }
    }

    pub(super) fn tell(&self, desk: &mut Desk, peer: PeerId, kind: &str, data: &Value) {
        if self.subscribers.contains(&peer) {
            desk.notify(peer, kind, data);
        }
    }

    /// All producers but those of `me`, oldest first.
    pub(super) fn list_producers(&self, me: PeerId) -> Vec<Value> {
        let mut room = LIST_APP_DATA_BYTES_MAX;
        let others = self.producers.iter().filter(|(_, owner)| **owner != me);
        let of = |(id, owner): (&ProducerId, &PeerId)| {
            let peer = self.peers.get(owner)?;
            let mut entry = describe_producer(peer.producers.get(id)?, &mut room);
            entry["peerId"] = json!(peer.external.to_string());
            entry["user"] = json!(peer.user);
            Some(entry)
        };
        others.filter_map(of).collect()
    }

    /// All peers but `me`, with their producers.
    pub(super) fn list_peers(&self, me: PeerId) -> Vec<Value> {
        let mut room = LIST_APP_DATA_BYTES_MAX;
        let mut list = Vec::new();
        for (_, peer) in self.peers.iter().filter(|(id, _)| **id != me) {
            let producers: Vec<_> =
                peer.producers.values().map(|producer| describe_producer(producer, &mut room)).collect();
            list.push(json!({ "id": peer.external.to_string(), "user": peer.user, "producers": producers }));
        }
        list
    }
}

/// `room` is what the list may still spend on appData, so that no list outgrows a socket's queue.
pub(super) fn describe_producer(producer: &Producer, room: &mut usize) -> Value {
    let app_data = match room.checked_sub(producer.app_data.to_string().len()) {
        Some(rest) => {
            *room = rest;
            &producer.app_data
        }
        None => &Value::Null,
    };
    json!({
        "id": producer.external.to_string(),
        "kind": kind_name(producer.plan.kind),
        "type": producer.plan.r#type.name(),
        "paused": producer.paused,
        "appData": app_data,
    })
}

pub(super) const fn kind_name(kind: MediaKind) -> &'static str {
    match kind {
        MediaKind::Audio => "audio",
        MediaKind::Video => "video",
    }
}
