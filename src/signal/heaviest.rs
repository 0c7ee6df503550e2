//! The peers by what is kept for them, in classes of about the same size, to find one of those with the most at once.

use std::collections::BTreeSet;

use crate::base::id::PeerId;

/// Peers with less are not looked for: what all of them keep together is little.
const LIGHT: usize = 1_024;

#[derive(Default)]
pub(super) struct Heaviest {
    /// By the number of binary digits of the size; those with a socket, and those without.
    classes: Vec<[BTreeSet<PeerId>; 2]>,
}

/// What is kept for a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Weight {
    pub(super) bytes: usize,
    /// It has no socket.
    pub(super) away: bool,
}

impl Weight {
    /// Nothing is kept.
    pub(super) const NONE: Weight = Weight { bytes: 0, away: false };

    fn place(self) -> Option<(usize, usize)> {
        Some((class(self.bytes)?, usize::from(self.away)))
    }
}

fn class(bytes: usize) -> Option<usize> {
    (bytes >= LIGHT).then(|| (bytes / LIGHT).ilog2() as usize)
}

impl Heaviest {
    /// A peer has so much now.
    pub(super) fn changed(&mut self, peer: PeerId, before: Weight, now: Weight) {
        let (before, now) = (before.place(), now.place());
        if before == now {
            return;
        }
        if let Some((class, way)) = before
            && let Some(class) = self.classes.get_mut(class)
        {
            class[way].remove(&peer);
        }
        if let Some((class, way)) = now {
            let classes = self.classes.len().max(class + 1);
            self.classes.resize_with(classes, Default::default);
            self.classes[class][way].insert(peer);
        }
    }

    /// One that nobody has twice as much as; with a socket if there is one, because it loses nothing yet. None: all are
    /// light.
    pub(super) fn one(&self) -> Option<PeerId> {
        self.classes.iter().rev().find_map(|class| class.iter().find_map(BTreeSet::first).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_is_found_has_at_least_half_of_what_any_has() {
        let mut heaviest = Heaviest::default();
        let mut sizes = [0_usize; 50];
        let mut drawn = 1_u64;
        for _ in 0..10_000 {
            drawn = drawn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (peer, size) = ((drawn >> 40) as usize % 50, (drawn >> 20) as usize % (1 << (drawn >> 59)));
            let weight = |bytes| Weight { bytes, away: peer % 2 == 0 };
            heaviest.changed(PeerId(peer as u64), weight(std::mem::replace(&mut sizes[peer], size)), weight(size));
            let most = sizes.iter().copied().max().unwrap_or_default();
            match heaviest.one() {
                Some(one) => assert!(2 * sizes[one.0 as usize] > most, "{sizes:?}"),
                None => assert!(most < LIGHT, "{sizes:?}"),
            }
        }
    }

    #[test]
    fn of_the_same_class_one_with_a_socket_comes_first() {
        let (mut heaviest, weight) = (Heaviest::default(), |bytes, away| Weight { bytes, away });
        heaviest.changed(PeerId(1), Weight::NONE, weight(5 * LIGHT, true));
        heaviest.changed(PeerId(2), Weight::NONE, weight(4 * LIGHT, false));
        assert_eq!(heaviest.one(), Some(PeerId(2)));
        heaviest.changed(PeerId(2), weight(4 * LIGHT, false), weight(4 * LIGHT, true));
        assert_eq!(heaviest.one(), Some(PeerId(1)));
        heaviest.changed(PeerId(3), Weight::NONE, weight(3 * LIGHT, false));
        assert_eq!(heaviest.one(), Some(PeerId(1)), "it has more");
        heaviest.changed(PeerId(1), weight(5 * LIGHT, true), Weight::NONE);
        heaviest.changed(PeerId(2), weight(4 * LIGHT, true), Weight::NONE);
        assert_eq!(heaviest.one(), Some(PeerId(3)));
    }
}
