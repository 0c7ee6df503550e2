//! A sliding window over packet indices (RFC 3711 section 3.3.2): which of the newest [`ReplayWindow::WIDTH`] were
//! seen. It guards what comes in against replay, and what goes out against a second use of one index.

/// Words of the bitmap.
const WORDS: usize = ReplayWindow::WIDTH / 64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    New,
    Already,
    /// Behind the window: nobody remembers whether it was seen.
    Unknown,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplayWindow {
    highest: u64,
    /// A ring: the bit of `index` is at `index % WIDTH`, valid for the newest WIDTH indices.
    bits: [u64; WORDS],
}

impl ReplayWindow {
    pub const WIDTH: usize = 1_024;

    /// A window whose first index has just been seen.
    pub fn starting_at(first: u64) -> ReplayWindow {
        let mut window = ReplayWindow { highest: first, bits: [0; WORDS] };
        window.set(first);
        window
    }

    /// A window for which everything up to `highest` counts as seen.
    pub fn closed_up_to(highest: u64) -> ReplayWindow {
        ReplayWindow { highest, bits: [u64::MAX; WORDS] }
    }

    pub fn highest(&self) -> u64 {
        self.highest
    }

    pub fn check(&self, index: u64) -> Seen {
        if index > self.highest {
            Seen::New
        } else if self.highest - index >= Self::WIDTH as u64 {
            Seen::Unknown
        } else if self.bits[word(index)] & bit(index) != 0 {
            Seen::Already
        } else {
            Seen::New
        }
    }

    /// Marks an index for which [`ReplayWindow::check`] said [`Seen::New`].
    pub fn commit(&mut self, index: u64) {
        if index > self.highest {
            let skipped = index - self.highest - 1;
            if skipped >= Self::WIDTH as u64 {
                self.bits = [0; WORDS];
            } else {
                (self.highest + 1..index).for_each(|missing| self.bits[word(missing)] &= !bit(missing));
            }
            self.highest = index;
        }
        self.set(index);
    }

    fn set(&mut self, index: u64) {
        self.bits[word(index)] |= bit(index);
    }
}

fn word(index: u64) -> usize {
    (index as usize % ReplayWindow::WIDTH) / 64
}

fn bit(index: u64) -> u64 {
    1 << (index % 64)
}

const _: () = assert!(ReplayWindow::WIDTH.is_multiple_of(64));

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};
    use std::collections::BTreeSet;

    #[test]
    fn it_agrees_with_a_set_that_forgets_nothing() {
        let mut rng = StdRng::seed_from_u64(5);
        let start = 70_000u64;
        let mut window = ReplayWindow::starting_at(start);
        let mut seen = BTreeSet::from([start]);
        for _ in 0..200_000 {
            let highest = *seen.last().unwrap();
            let index = match rng.random_range(0..100) {
                0 => highest + rng.random_range(0..5_000),
                1..10 => highest.saturating_sub(rng.random_range(0..2_000)),
                _ => (highest + rng.random_range(0..6)).saturating_sub(rng.random_range(0..6)),
            };
            let expected = if highest >= index && highest - index >= 1_024 {
                Seen::Unknown
            } else if seen.contains(&index) {
                Seen::Already
            } else {
                Seen::New
            };
            assert_eq!(window.check(index), expected, "{index} at {highest}");
            if expected == Seen::New {
                window.commit(index);
                seen.insert(index);
            }
            assert_eq!(window.highest(), *seen.last().unwrap());
        }
    }

    #[test]
    fn a_closed_window_admits_only_what_is_newer() {
        let mut window = ReplayWindow::closed_up_to(10);
        assert_eq!(window.check(10), Seen::Already);
        assert_eq!(window.check(0), Seen::Already);
        assert_eq!(window.check(12), Seen::New);
        window.commit(12);
        assert_eq!(window.check(11), Seen::New);
        assert_eq!(window.check(u64::MAX), Seen::New);
    }
}
