//! The peers by what is kept for them, in classes of about the same size, to find one of those with the most at once.

use std::collections::BTreeSet;

use crate::base::id::PeerId;

/// Peers with less are not looked for: what all of them keep together is little.
const LIGHT: usize = 1_024;

#[derive(Default)]
pub(super) struct Heaviest {
    /// By the number of binary digits of the size.
    classes: Vec<BTreeSet<PeerId>>,
}

fn class(bytes: usize) -> Option<usize> {
    (bytes >= LIGHT).then(|| (bytes / LIGHT).ilog2() as usize)
}

impl Heaviest {
    /// A peer has so many bytes now.
    pub(super) fn changed(&mut self, peer: PeerId, before: usize, now: usize) {
        let (before, now) = (class(before), class(now));
        if before == now {
            return;
        }
        if let Some(class) = before.and_then(|class| self.classes.get_mut(class)) {
            class.remove(&peer);
        }
        if let Some(class) = now {
            let classes = self.classes.len().max(class + 1);
            self.classes.resize_with(classes, BTreeSet::new);
            self.classes[class].insert(peer);
        }
    }

    /// One that nobody has twice as much as. None: all are light.
    pub(super) fn one(&self) -> Option<PeerId> {
        self.classes.iter().rev().find_map(|class| class.first().copied())
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
            heaviest.changed(PeerId(peer as u64), std::mem::replace(&mut sizes[peer], size), size);
            let most = sizes.iter().copied().max().unwrap_or_default();
            match heaviest.one() {
                Some(one) => assert!(2 * sizes[one.0 as usize] > most, "{sizes:?}"),
                None => assert!(most < LIGHT, "{sizes:?}"),
            }
        }
    }
}
