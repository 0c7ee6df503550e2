//! One channel: its peers, and its producers in the order they came. Nothing in it can be reached from another one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustc_hash::FxHashMap;
use serde_json::{Value, json};

use crate::base::id::{PeerId, ProducerId};
use crate::base::limits::LIST_APP_DATA_BYTES_MAX;
use crate::shard::command::MediaKind;
use crate::signal::desk::Desk;
use crate::signal::ids::ExternalId;
use crate::signal::listing::Listing;
use crate::signal::meter::Cost;
use crate::signal::ortc::{self, ConsumerCapabilities};
use crate::signal::peer::{Peer, Producer};
use crate::signal::placement::Spread;
use crate::signal::speech::Voices;
use crate::signal::text::{About, Step};

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
    listed: Listed,
}

/// The lists for clients, as they were last requested.
#[derive(Default)]
struct Listed {
    peers: Option<Arc<Listing>>,
    producers: Option<Arc<Listing>>,
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
            listed: Listed::default(),
        }
    }

    pub(super) fn producer(&self, id: ProducerId) -> Option<(PeerId, &Producer)> {
        let owner = *self.producers.get(&id)?;
        Some((owner, self.peers.get(&owner)?.producers.get(&id)?))
    }

    pub(super) fn find_producer(&self, external: &str) -> Option<ProducerId> {
        self.by_external.get(&ExternalId::parse(external)?).copied()
    }

    /// The producer for a `consume` without an id: the oldest of another peer that `me` does not consume yet, can
    /// receive, and that is not silent (a page that toggles its camera leaves dead ones behind).
    pub(super) fn oldest_receivable(
        &self,
        desk: &mut Desk,
        me: PeerId,
        capabilities: &ConsumerCapabilities,
    ) -> Option<ProducerId> {
        let consuming = &self.peers.get(&me)?.consuming;
        let mut walked = 0;
        let receivable = |id: &ProducerId, owner: &PeerId| {
            let producer = self.peers.get(owner).and_then(|peer| peer.producers.get(id));
            producer.is_some_and(|producer| !producer.silent && ortc::can_consume(&producer.plan, capabilities))
        };
        let found = self
            .producers
            .iter()
            .inspect(|_| walked += 1)
            .filter(|(id, owner)| **owner != me && !consuming.contains_key(id))
            .find(|(id, owner)| receivable(id, owner))
            .map(|(id, _)| *id);
        desk.work.add(Cost::walked(walked));
        found
    }

    /// Notifies all subscribers but `about`. The news is about entries of the lists.
    pub(super) fn tell_others(&mut self, desk: &mut Desk, about: PeerId, news: &News, data: &Value) {
        self.listed = Listed::default();
        let others = self.subscribers.iter().filter(|peer| **peer != about);
        desk.notify_all(others, news.kind, data, news.about);
    }

    pub(super) fn tell(&self, desk: &mut Desk, peer: PeerId, kind: &str, data: &Value) {
        if self.subscribers.contains(&peer) {
            desk.notify(peer, kind, data);
        }
    }

    /// All producers, oldest first.
    pub(super) fn list_producers(&mut self, desk: &mut Desk) -> Arc<Listing> {
        if let Some(listing) = &self.listed.producers {
            return listing.clone();
        }
        let mut room = LIST_APP_DATA_BYTES_MAX;
        let of = |(id, owner): (&ProducerId, &PeerId)| {
            let peer = self.peers.get(owner)?;
            let mut entry = describe_producer(peer.producers.get(id)?, &mut room);
            entry["peerId"] = json!(peer.external.to_string());
            entry["user"] = json!(peer.user);
            Some((*owner, entry.to_string()))
        };
        let listing = Arc::new(Listing::new(self.producers.iter().filter_map(of)));
        desk.work.add(Cost::listed(self.producers.len(), LIST_APP_DATA_BYTES_MAX - room));
        self.listed.producers.insert(listing).clone()
    }

    /// All peers with their producers.
    pub(super) fn list_peers(&mut self, desk: &mut Desk) -> Arc<Listing> {
        if let Some(listing) = &self.listed.peers {
            return listing.clone();
        }
        let mut room = LIST_APP_DATA_BYTES_MAX;
        let of = |(id, peer): (&PeerId, &Peer)| {
            let producers: Vec<_> =
                peer.producers.values().map(|producer| describe_producer(producer, &mut room)).collect();
            let entry = json!({ "id": peer.external.to_string(), "user": peer.user, "producers": producers });
            (*id, entry.to_string())
        };
        let listing = Arc::new(Listing::new(self.peers.iter().map(of)));
        desk.work.add(Cost::listed(self.peers.len() + self.producers.len(), LIST_APP_DATA_BYTES_MAX - room));
        self.listed.peers.insert(listing).clone()
    }
}

/// A notification's type, and which queued news it makes old.
pub(super) struct News {
    kind: &'static str,
    about: Option<About>,
}

impl News {
    pub(super) const fn peer_joined(id: PeerId) -> News {
        News::of("peer-joined", id.0, Step::Begins)
    }

    pub(super) const fn peer_left(id: PeerId) -> News {
        News::of("peer-left", id.0, Step::Ends)
    }

    pub(super) const fn new_producer(id: ProducerId) -> News {
        News::of("new-producer", id.0, Step::Begins)
    }

    pub(super) const fn producer_closed(id: ProducerId) -> News {
        News::of("producer-closed", id.0, Step::Ends)
    }

    pub(super) const fn producer_paused(id: ProducerId, paused: bool) -> News {
        News::of(if paused { "producer-paused" } else { "producer-resumed" }, id.0, Step::Changes)
    }

    pub(super) const fn last_n_changed() -> News {
        News { kind: "last-n-changed", about: Some(LAST_N) }
    }

    const fn of(kind: &'static str, thing: u64, step: Step) -> News {
        News { kind, about: Some(About { thing, step }) }
    }
}

/// The single things of a channel. Ids count from 1 and never get so far.
const LAST_N: About = About { thing: u64::MAX, step: Step::Changes };
pub(super) const ACTIVE_SPEAKER: About = About { thing: u64::MAX - 1, step: Step::Changes };
pub(super) const AUDIO_LEVELS: About = About { thing: u64::MAX - 2, step: Step::Changes };

/// `room` is the rest of the list's budget for appData, so that no list outgrows a socket's queue.
pub(super) fn describe_producer(producer: &Producer, room: &mut usize) -> Value {
    let app_data = match room.checked_sub(producer.app_data_bytes) {
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
