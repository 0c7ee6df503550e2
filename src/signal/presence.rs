//! Which peers of a channel have not been told who is away and who is back, and of whom they are to be told once they are
//! told again. Kept for all of them together: what each missed is what changed since it parted, and who went away and came
//! back meanwhile is no news. [`super::channel`] says who parts and what changes, `hub` when it is told.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;

use crate::base::id::PeerId;

#[derive(Default)]
pub(super) struct Absences {
    /// By number, in the order of time. One begins where a peer parts, unless nothing has changed since the last began.
    stretches: BTreeMap<u64, Stretch>,
    last: u64,
    /// The peers that are told nothing, each with the first stretch that it missed. The keys are our own numbers.
    unaware: FxHashMap<PeerId, u64>,
}

#[derive(Default)]
struct Stretch {
    /// How many peers parted at its beginning.
    parted: usize,
    /// The peers that went away or came back, an odd number of times.
    changed: BTreeSet<PeerId>,
}

impl Stretch {
    fn toggle(&mut self, peer: PeerId) {
        if !self.changed.remove(&peer) {
            self.changed.insert(peer);
        }
    }
}

impl Absences {
    /// The peer is told nothing from now on. Of one that is told nothing already nothing changes.
    pub(super) fn parts(&mut self, peer: PeerId) {
        if self.unaware.contains_key(&peer) {
            return;
        }
        if self.stretches.last_key_value().is_none_or(|(_, stretch)| !stretch.changed.is_empty()) {
            self.last += 1;
        }
        self.stretches.entry(self.last).or_default().parted += 1;
        self.unaware.insert(peer, self.last);
    }

    pub(super) fn is_aware(&self, peer: PeerId) -> bool {
        !self.unaware.contains_key(&peer)
    }

    /// The peer went away, or came back.
    pub(super) fn changed(&mut self, peer: PeerId) {
        if let Some(mut stretch) = self.stretches.last_entry() {
            stretch.get_mut().toggle(peer);
        }
    }

    /// The peer is told again: the others that are not what they were when it parted.
    pub(super) fn told(&mut self, peer: PeerId) -> BTreeSet<PeerId> {
        let mut missed = Stretch::default();
        let Some(from) = self.unaware.remove(&peer) else { return missed.changed };
        for stretch in self.stretches.range(from..).map(|(_, stretch)| stretch) {
            stretch.changed.iter().for_each(|other| missed.toggle(*other));
        }
        self.leave(from);
        missed.changed
    }

    /// The peer was given a list that says who is away.
    pub(super) fn listed(&mut self, peer: PeerId) {
        if let Some(from) = self.unaware.remove(&peer) {
            self.leave(from);
            self.parts(peer);
        }
    }

    /// One less parted at the beginning of this stretch. After the last it is one with the stretch before.
    fn leave(&mut self, from: u64) {
        let Some(stretch) = self.stretches.get_mut(&from) else { return };
        stretch.parted -= 1;
        if stretch.parted > 0 {
            return;
        }
        let changed = self.stretches.remove(&from).unwrap_or_default().changed;
        if let Some((_, before)) = self.stretches.range_mut(..from).next_back() {
            changed.into_iter().for_each(|other| before.toggle(other));
        }
    }

    /// The peer is gone.
    pub(super) fn gone(&mut self, peer: PeerId) {
        self.told(peer);
        for stretch in self.stretches.values_mut() {
            stretch.changed.remove(&peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(numbers: &[u64]) -> BTreeSet<PeerId> {
        numbers.iter().map(|number| PeerId(*number)).collect()
    }

    #[test]
    fn each_is_told_what_changed_since_it_parted_and_not_what_changed_back() {
        let mut presence = Absences::default();
        presence.changed(PeerId(9));
        presence.parts(PeerId(1));
        presence.changed(PeerId(7));
        presence.parts(PeerId(2));
        presence.parts(PeerId(2));
        presence.changed(PeerId(7));
        presence.changed(PeerId(8));
        assert_eq!([1, 2, 3].map(|peer| presence.is_aware(PeerId(peer))), [false, false, true]);
        assert_eq!((presence.told(PeerId(2)), presence.told(PeerId(2))), (peers(&[7, 8]), peers(&[])));
        assert_eq!(presence.told(PeerId(1)), peers(&[8]));
        assert!(presence.stretches.is_empty() && presence.unaware.is_empty());
    }

    #[test]
    fn who_is_gone_is_no_news_and_a_list_is_as_good_as_being_told() {
        let mut presence = Absences::default();
        presence.parts(PeerId(1));
        [7, 8].into_iter().for_each(|peer| presence.changed(PeerId(peer)));
        presence.listed(PeerId(1));
        presence.listed(PeerId(5));
        presence.changed(PeerId(6));
        presence.changed(PeerId(8));
        presence.gone(PeerId(6));
        assert_eq!((presence.told(PeerId(1)), presence.is_aware(PeerId(5))), (peers(&[8]), true));
        presence.parts(PeerId(1));
        presence.gone(PeerId(1));
        assert!(presence.stretches.is_empty() && presence.unaware.is_empty());
    }

    /// Against a picture of its own for each.
    #[test]
    fn what_each_knows_adds_up_whoever_parts_and_changes() {
        const PEERS: u64 = 12;
        let (mut presence, mut away) = (Absences::default(), BTreeSet::new());
        let mut known: Vec<BTreeSet<PeerId>> = vec![BTreeSet::new(); PEERS as usize];
        let mut drawn = 1_u64;
        for _ in 0..20_000 {
            drawn = drawn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (at, peer) = ((drawn >> 40) % PEERS, PeerId((drawn >> 40) % PEERS));
            match (drawn >> 33) % 5 {
                0 => presence.parts(peer),
                1 => {
                    let was_aware = presence.is_aware(peer);
                    let told = presence.told(peer);
                    assert!(told.is_empty() || !was_aware);
                    known[at as usize] = known[at as usize].symmetric_difference(&told).copied().collect();
                    assert_eq!(known[at as usize], away);
                }
                _ => {
                    presence.changed(peer);
                    away = away.symmetric_difference(&peers(&[peer.0])).copied().collect();
                    for (at, known) in known.iter_mut().enumerate() {
                        if presence.is_aware(PeerId(at as u64)) {
                            known.clone_from(&away);
                        }
                    }
                }
            }
            let all: usize = presence.stretches.values().map(|stretch| stretch.changed.len()).sum();
            assert!(presence.stretches.len() <= PEERS as usize && all <= (PEERS * PEERS) as usize);
        }
    }
}
