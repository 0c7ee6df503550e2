//! The lobby of a channel: whether it is locked and how many it takes, and who waits to be let in. It decides nothing
//! about who may moderate; `entering` asks it for each comer, `moderation` changes it.

use std::collections::BTreeMap;
use std::hash::Hash;

use rustc_hash::FxHashMap;
use serde_json::{Map, Value, json};

use crate::base::id::PeerId;
use crate::base::limits::WAITING_PER_CHANNEL_MAX;
use crate::signal::act::ChannelChange;
use crate::signal::ids::ExternalId;
use crate::signal::peer::Peer;
use crate::signal::quota::Holder;

#[derive(Default)]
pub(super) struct Lobby {
    locked: bool,
    /// Who comes while it is locked waits here.
    waiting: bool,
    peers_max: Option<usize>,
    /// Numbers only grow, so the order of the keys is the order in which they came.
    comers: BTreeMap<PeerId, Comer>,
}

struct Comer {
    peer: Peer,
    /// Who takes the place up.
    holder: Holder,
}

/// The way of a comer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Doorway {
    Open,
    Wait,
    Locked,
    Full,
}

impl Lobby {
    /// `inside`: the peers of the channel, without those that wait.
    pub(super) fn doorway(&self, inside: usize, moderates: bool) -> Doorway {
        if moderates || (!self.locked && self.has_room(inside)) {
            Doorway::Open
        } else if !self.locked {
            Doorway::Full
        } else if self.waiting && self.comers.len() < WAITING_PER_CHANNEL_MAX {
            Doorway::Wait
        } else {
            Doorway::Locked
        }
    }

    pub(super) fn has_room(&self, inside: usize) -> bool {
        self.peers_max.is_none_or(|max| inside < max)
    }

    /// Whether that changed anything.
    pub(super) fn change(&mut self, change: ChannelChange) -> bool {
        let before = (self.locked, self.waiting, self.peers_max);
        self.locked = change.locked.unwrap_or(self.locked);
        self.waiting = change.waiting.unwrap_or(self.waiting);
        if let Some(max) = change.peers_max {
            self.peers_max = (max > 0).then_some(max);
        }
        before != (self.locked, self.waiting, self.peers_max)
    }

    pub(super) fn is_locked(&self) -> bool {
        self.locked
    }

    /// Whether who comes to the locked channel may wait.
    pub(super) fn keeps_waiting(&self) -> bool {
        self.waiting
    }

    pub(super) fn wait(&mut self, id: PeerId, peer: Peer, holder: Holder) {
        self.comers.insert(id, Comer { peer, holder });
    }

    pub(super) fn take(&mut self, id: PeerId) -> Option<Peer> {
        self.comers.remove(&id).map(|comer| comer.peer)
    }

    /// Where all places are taken, the one that goes for a comer of this holder: the last of the address that has most
    /// of them, and among those of the comer's own address the last of such a user. None: each has its share, or there
    /// are places.
    pub(super) fn gives_way(&self, holder: &Holder) -> Option<PeerId> {
        if !self.locked || !self.waiting || self.comers.len() < WAITING_PER_CHANNEL_MAX {
            return None;
        }
        let held = || self.comers.iter().map(|(id, comer)| (*id, &comer.holder));
        let neighbours = held().filter(|(_, other)| other.network() == holder.network());
        let of_network = greedy(held().map(|(id, other)| (id, other.network())), &holder.network());
        of_network.or_else(|| greedy(neighbours.map(|(id, other)| (id, other.user())), &holder.user()))
    }

    /// Changes one that waits.
    pub(super) fn with(&mut self, id: PeerId, change: impl FnOnce(&mut Peer)) {
        if let Some(comer) = self.comers.get_mut(&id) {
            change(&mut comer.peer);
        }
    }

    pub(super) fn has(&self, id: PeerId) -> bool {
        self.comers.contains_key(&id)
    }

    pub(super) fn get(&self, id: PeerId) -> Option<&Peer> {
        self.comers.get(&id).map(|comer| &comer.peer)
    }

    pub(super) fn find(&self, external: &str) -> Option<PeerId> {
        let external = ExternalId::parse(external)?;
        self.comers().find(|(_, peer)| peer.external == external).map(|(id, _)| id)
    }

    /// Those who wait, in the order in which they came.
    pub(super) fn comers(&self) -> impl Iterator<Item = (PeerId, &Peer)> {
        self.comers.iter().map(|(id, comer)| (*id, &comer.peer))
    }

    pub(super) fn len(&self) -> usize {
        self.comers.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.comers.is_empty()
    }

    /// As clients are told. Null: all is as in the beginning.
    pub(super) fn describe(&self) -> Value {
        let mut data = Map::new();
        if self.locked {
            data.insert("locked".to_owned(), json!(true));
        }
        if self.waiting {
            data.insert("waiting".to_owned(), json!(true));
        }
        if let Some(max) = self.peers_max {
            data.insert("peersMax".to_owned(), json!(max));
        }
        if data.is_empty() { Value::Null } else { Value::Object(data) }
    }
}

/// The last of whoever holds most, where that is two more than `own` holds: one less and one more leave it no worse off.
fn greedy<K: Hash + Eq + Copy>(held: impl Iterator<Item = (PeerId, K)>, own: &K) -> Option<PeerId> {
    let mut shares: FxHashMap<K, (usize, PeerId)> = FxHashMap::default();
    for (id, key) in held {
        let (count, last) = shares.entry(key).or_insert((0, id));
        (*count, *last) = (*count + 1, id.max(*last));
    }
    let had = shares.get(own).map_or(0, |(count, _)| *count);
    shares.into_values().max().filter(|(most, _)| *most >= had + 2).map(|(_, last)| last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::entrance::Entrance;
    use crate::signal::ids::Ids;

    const LOCK: ChannelChange = ChannelChange { locked: Some(true), waiting: None, peers_max: None };
    const WAIT: ChannelChange = ChannelChange { locked: None, waiting: Some(true), peers_max: None };

    fn holder(last: u8, user: &str) -> Holder {
        Holder::new([198, 51, 100, last].into(), user)
    }

    #[test]
    fn who_takes_most_places_gives_one_to_who_has_fewer() {
        let (mut lobby, mut ids, mut id) = (Lobby::default(), Ids::new([1; 32]), 0);
        let mut come = |lobby: &mut Lobby, holder: Holder| {
            id += 1;
            lobby.wait(PeerId(id), Peer::new(ids.external(), &Entrance::named("comer", "room")), holder);
        };
        lobby.change(LOCK);
        come(&mut lobby, holder(9, "first"));
        assert_eq!(lobby.gives_way(&holder(1, "a")), None, "nobody may wait");
        lobby.change(WAIT);
        assert_eq!(lobby.gives_way(&holder(1, "a")), None, "there are places");
        for n in 1..WAITING_PER_CHANNEL_MAX {
            come(&mut lobby, holder(1, if n % 3 == 0 { "b" } else { "a" }));
        }
        let last = PeerId(WAITING_PER_CHANNEL_MAX as u64);
        assert_eq!(lobby.gives_way(&holder(2, "a")), Some(last), "of the address that has most");
        assert_eq!(lobby.gives_way(&holder(1, "b")), Some(PeerId(last.0 - 1)), "of the user that has most at its own");
        assert_eq!(lobby.gives_way(&holder(1, "a")), None);
        let mut each = Lobby::default();
        each.change(LOCK);
        each.change(WAIT);
        (0..WAITING_PER_CHANNEL_MAX as u8).for_each(|n| come(&mut each, holder(n, "a")));
        assert_eq!(each.gives_way(&holder(200, "a")), None, "each has its share");
        assert_eq!(each.gives_way(&holder(1, "b")), None);
    }

    #[test]
    fn a_comer_finds_the_door_open_locked_or_full() {
        let mut lobby = Lobby::default();
        assert_eq!(lobby.doorway(9, false), Doorway::Open);
        assert!(lobby.change(ChannelChange { peers_max: Some(9), ..Default::default() }));
        assert_eq!([8, 9].map(|inside| lobby.doorway(inside, false)), [Doorway::Open, Doorway::Full]);
        assert!(lobby.change(LOCK) && !lobby.change(LOCK));
        assert_eq!([8, 9].map(|inside| lobby.doorway(inside, false)), [Doorway::Locked; 2]);
        assert!(lobby.change(WAIT));
        assert_eq!([8, 9].map(|inside| lobby.doorway(inside, false)), [Doorway::Wait; 2], "there may be room later");
        assert_eq!(lobby.doorway(9, true), Doorway::Open, "a moderator comes in");
        assert_eq!(lobby.describe(), json!({ "locked": true, "waiting": true, "peersMax": 9 }));
        let undo = ChannelChange { locked: Some(false), waiting: Some(false), peers_max: Some(0) };
        assert!(lobby.change(undo) && lobby.describe().is_null());
    }

    #[test]
    fn those_who_wait_keep_their_order_and_are_bounded() {
        let (mut lobby, mut ids) = (Lobby::default(), Ids::new([1; 32]));
        lobby.change(LOCK);
        lobby.change(WAIT);
        for n in (0..WAITING_PER_CHANNEL_MAX as u64).rev() {
            assert_eq!(lobby.doorway(1, false), Doorway::Wait);
            lobby.wait(PeerId(n), Peer::new(ids.external(), &Entrance::named("comer", "room")), holder(1, "comer"));
        }
        assert_eq!(lobby.doorway(1, false), Doorway::Locked);
        assert_eq!(lobby.comers().next().map(|(id, _)| id), Some(PeerId(0)));
        let last = lobby.comers().last().unwrap().1.external.to_string();
        let found = lobby.find(&last).unwrap();
        assert!(lobby.has(found) && lobby.take(found).is_some() && lobby.take(found).is_none());
        assert_eq!((lobby.find(&last), lobby.len()), (None, WAITING_PER_CHANNEL_MAX - 1));
    }
}
