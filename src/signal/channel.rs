//! One channel: its peers, and its producers in the order they came. Nothing in it can be reached from another one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustc_hash::FxHashMap;
use serde_json::{Value, json};

use crate::base::id::{PeerId, ProducerId};
use crate::base::limits::LIST_APP_DATA_BYTES_MAX;
use crate::signal::ids::ExternalId;
use crate::signal::journal::Occurrence;
use crate::signal::listing::Listing;
use crate::signal::lobby::Lobby;
use crate::signal::meter::Cost;
use crate::signal::mutes::{Muted, Mutes};
use crate::signal::news::News;
use crate::signal::ortc::kind_name;
use crate::signal::ortc::{self, ConsumerCapabilities};
use crate::signal::peer::{Peer, Producer};
use crate::signal::placement::Spread;
use crate::signal::post::Post;
use crate::signal::presence::Absences;
use crate::signal::speech::Voices;

pub(super) struct Channel {
    pub(super) name: Arc<str>,
    pub(super) peers: BTreeMap<PeerId, Peer>,
    /// The latest peer of each user.
    pub(super) latest: BTreeMap<Arc<str>, PeerId>,
    pub(super) subscribers: BTreeSet<PeerId>,
    /// Numbers only grow, so the order of the keys is the order of age.
    pub(super) producers: BTreeMap<ProducerId, PeerId>,
    /// The keys are our own random ids.
    pub(super) by_external: FxHashMap<ExternalId, ProducerId>,
    peers_by_external: FxHashMap<ExternalId, PeerId>,
    pub(super) lobby: Lobby,
    pub(super) mutes: BTreeMap<Muted, Mutes>,
    pub(super) spread: Spread,
    pub(super) voices: Voices,
    pub(super) presence: Absences,
    /// Whether `rounds` looks at its voices.
    pub(super) in_rounds: bool,
    listed: Listed,
}

/// The lists for clients, as they were last requested.
#[derive(Default)]
struct Listed {
    peers: Option<Arc<Listing>>,
    producers: Option<Arc<Listing>>,
}

impl Channel {
    pub(super) fn new(name: Arc<str>) -> Channel {
        Channel {
            name,
            peers: BTreeMap::new(),
            latest: BTreeMap::new(),
            subscribers: BTreeSet::new(),
            producers: BTreeMap::new(),
            by_external: FxHashMap::default(),
            peers_by_external: FxHashMap::default(),
            lobby: Lobby::default(),
            mutes: BTreeMap::new(),
            spread: Spread::default(),
            voices: Voices::default(),
            presence: Absences::default(),
            in_rounds: false,
            listed: Listed::default(),
        }
    }

    pub(super) fn insert(&mut self, id: PeerId, peer: Peer) {
        self.peers_by_external.insert(peer.external, id);
        self.latest.insert(peer.user.clone(), id);
        self.peers.insert(id, peer);
    }

    pub(super) fn remove(&mut self, id: PeerId) -> Option<Peer> {
        let peer = self.peers.remove(&id)?;
        self.presence.gone(id);
        self.peers_by_external.remove(&peer.external);
        if self.latest.get(&peer.user) == Some(&id) {
            self.latest.remove(&peer.user);
        }
        self.mutes.remove(&Muted::Peer(id));
        Some(peer)
    }

    /// Those inside, and those that wait.
    pub(super) fn all(&self) -> impl Iterator<Item = (PeerId, &Peer)> {
        self.peers.iter().map(|(id, peer)| (*id, peer)).chain(self.lobby.comers())
    }

    pub(super) fn find_peer(&self, external: &str) -> Option<PeerId> {
        self.peers_by_external.get(&ExternalId::parse(external)?).copied()
    }

    pub(super) fn producer(&self, id: ProducerId) -> Option<(PeerId, &Producer)> {
        let owner = *self.producers.get(&id)?;
        Some((owner, self.peers.get(&owner)?.producers.get(&id)?))
    }

    pub(super) fn producer_mut(&mut self, id: ProducerId) -> Option<&mut Producer> {
        self.peers.get_mut(self.producers.get(&id)?)?.producers.get_mut(&id)
    }

    pub(super) fn find_producer(&self, external: &str) -> Option<ProducerId> {
        self.by_external.get(&ExternalId::parse(external)?).copied()
    }

    /// The producer for a `consume` without an id: the oldest of another peer that `me` does not consume yet, can
    /// receive, and that is not silent (a page that toggles its camera leaves dead ones behind).
    pub(super) fn oldest_receivable(
        &self,
        work: &mut Cost,
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
        work.add(Cost::walked(walked));
        found
    }

    /// Notifies all subscribers but `about`. The news is about entries of the lists.
    pub(super) fn tell_others(&mut self, post: &mut Post, about: PeerId, news: &News, data: &Value) {
        self.listed = Listed::default();
        let others = self.subscribers.iter().filter(|peer| **peer != about);
        post.notify_all(others, news, data);
    }

    /// The peer's connection is broken, or it is back on another. Of one that was not told to be away nothing is told: it
    /// was let in meanwhile. Who has lost its own connection is told later.
    pub(super) fn tell_away(&mut self, post: &mut Post, id: PeerId, away: bool) {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.away != away) else { return };
        peer.away = away;
        self.presence.changed(id);
        let occurrence = if away { Occurrence::PeerAway } else { Occurrence::PeerBack };
        post.journal.note(occurrence, &self.name, || peer.introduce());
        if !peer.grants.hidden {
            self.listed = Listed::default();
            let others = self.subscribers.iter().filter(|other| **other != id && self.presence.is_aware(**other));
            post.notify_all(others, &News::peer_away(id, away), &json!({ "id": peer.external.to_string() }));
        }
    }

    /// Tells a peer that is back who of the others went away and who came back, while nobody told it.
    pub(super) fn tell_presence(&mut self, post: &mut Post, id: PeerId) {
        let changed = self.presence.told(id);
        post.work.add(Cost::walked(changed.len()));
        if !self.subscribers.contains(&id) {
            return;
        }
        for other in changed.into_iter().filter(|other| *other != id) {
            if let Some(peer) = self.peers.get(&other).filter(|peer| !peer.grants.hidden) {
                let data = json!({ "id": peer.external.to_string() });
                post.notify_all([id].iter(), &News::peer_away(other, peer.away), &data);
            }
        }
    }

    /// The peer is told what happens from now on, and is given a list of who is there.
    pub(super) fn subscribe(&mut self, peer: PeerId) {
        self.subscribers.insert(peer);
        self.presence.listed(peer);
    }

    /// A peer that has to go is told nothing of the others any more.
    pub(super) fn hush(&mut self, peer: PeerId) {
        self.subscribers.remove(&peer);
    }

    pub(super) fn tell(&self, post: &mut Post, peer: PeerId, kind: &str, data: &Value) {
        if self.subscribers.contains(&peer) {
            post.notify(peer, kind, data);
        }
    }

    /// All producers, oldest first.
    pub(super) fn list_producers(&mut self, work: &mut Cost) -> Arc<Listing> {
        if let Some(listing) = &self.listed.producers {
            return listing.clone();
        }
        let mut room = LIST_APP_DATA_BYTES_MAX;
        let of = |(id, owner): (&ProducerId, &PeerId)| {
            let peer = self.peers.get(owner)?;
            let mut entry = describe_producer(peer.producers.get(id)?, &mut room);
            entry["peerId"] = json!(peer.external.to_string());
            entry["user"] = json!(&*peer.user);
            Some((*owner, entry.to_string()))
        };
        let listing = Arc::new(Listing::new(self.producers.iter().filter_map(of)));
        work.add(Cost::listed(self.producers.len(), LIST_APP_DATA_BYTES_MAX - room));
        self.listed.producers.insert(listing).clone()
    }

    /// All peers that others may know of, with their producers.
    pub(super) fn list_peers(&mut self, work: &mut Cost) -> Arc<Listing> {
        if let Some(listing) = &self.listed.peers {
            return listing.clone();
        }
        let mut room = LIST_APP_DATA_BYTES_MAX;
        let of = |(id, peer): (&PeerId, &Peer)| {
            let producers: Vec<_> =
                peer.producers.values().map(|producer| describe_producer(producer, &mut room)).collect();
            let mut entry = peer.describe();
            match room.checked_sub(peer.app_data_bytes) {
                Some(rest) => room = rest,
                None => _ = entry.as_object_mut().map(|entry| entry.remove("appData")),
            }
            entry["producers"] = json!(producers);
            if peer.away {
                entry["away"] = json!(true);
            }
            (*id, entry.to_string())
        };
        let listing = Arc::new(Listing::new(self.peers.iter().filter(|(_, peer)| !peer.grants.hidden).map(of)));
        work.add(Cost::listed(self.peers.len() + self.producers.len(), LIST_APP_DATA_BYTES_MAX - room));
        self.listed.peers.insert(listing).clone()
    }
}

/// `room` is the rest of the list's budget for appData, so that no list outgrows a socket's queue.
pub(super) fn describe_producer(producer: &Producer, room: &mut usize) -> Value {
    let app_data = match room.checked_sub(producer.app_data_bytes) {
        Some(rest) => {
            *room = rest;
            &producer.app_data
        }
        None => &Value::Null,
    };
    let mut data = json!({
        "id": producer.external.to_string(),
        "kind": kind_name(producer.plan.kind),
        "type": producer.plan.r#type.name(),
        "paused": producer.pause.holds(),
        "appData": app_data,
    });
    if producer.pause.muted {
        data["muted"] = json!(true);
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::entrance::Entrance;
    use crate::signal::ids::Ids;
    use crate::signal::post::Output;
    use crate::signal::session::SessionId;

    #[test]
    fn a_list_is_made_once_until_there_is_news() {
        let (mut channel, mut post, mut ids) = (Channel::new("room".into()), Post::default(), Ids::new([1; 32]));
        for (peer, user) in [(PeerId(1), "anna"), (PeerId(2), "berta")] {
            channel.insert(peer, Peer::new(ids.external(), &Entrance::named(user, "room")));
            post.mailboxes.attach(peer, SessionId(peer.0));
            channel.subscribers.insert(peer);
        }
        let (first, work) = (channel.list_peers(&mut post.work), post.work);
        assert!(
            Arc::ptr_eq(&first, &channel.list_peers(&mut post.work)) && post.work == work && work != Cost::default()
        );
        channel.tell_others(&mut post, PeerId(2), &News::peer_joined(PeerId(2)), &json!({}));
        assert!(!Arc::ptr_eq(&first, &channel.list_peers(&mut post.work)));
        assert!(matches!(post.output.pop_front(), Some(Output::Send { session: SessionId(1), .. })));
        assert!(post.output.is_empty(), "who it is about is not told");
    }
}
