//! Which of the newest 1,024 packets of one stream have been seen: a bit each, by extended sequence number. It decides
//! nothing: `receive` (duplicates) and `rewrite` (at most once) do.

use crate::base::seq::ExtSeq;

const WORDS: usize = 16;

/// How many packets back from the newest can still be told apart.
pub const WINDOW: i64 = WORDS as i64 * 64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// Ahead of everything before it.
    Newest,
    /// Behind the newest and not seen yet.
    Late,
    Duplicate,
    /// Behind the window: nobody knows.
    TooOld,
}

#[derive(Clone, Debug)]
#[repr(C)]
pub struct SeenWindow {
    highest: ExtSeq,
    bits: [u64; WORDS],
}

impl SeenWindow {
    /// A window in which only `first` has been seen.
    pub fn starting_at(first: ExtSeq) -> SeenWindow {
        let mut window = SeenWindow { highest: first, bits: [0; WORDS] };
        window.set(first);
        window
    }

    pub fn highest(&self) -> ExtSeq {
        self.highest
    }

    /// Marks `ext` as seen and says how it stands to the others.
    pub fn insert(&mut self, ext: ExtSeq) -> Seen {
        let ahead = ext.distance_from(self.highest);
        if ahead > 0 {
            if ahead >= WINDOW {
                self.bits = [0; WORDS];
            } else {
                for passed in self.highest.0 + 1..ext.0 {
                    let (word, bit) = Self::place(ExtSeq(passed));
                    self.bits[word] &= !bit;
                }
            }
            self.highest = ext;
            self.set(ext);
            return Seen::Newest;
        }
        if ahead <= -WINDOW {
            return Seen::TooOld;
        }
        let (word, bit) = Self::place(ext);
        if self.bits[word] & bit != 0 {
            return Seen::Duplicate;
        }
        self.bits[word] |= bit;
        Seen::Late
    }

    fn set(&mut self, ext: ExtSeq) {
        let (word, bit) = Self::place(ext);
        self.bits[word] |= bit;
    }

    fn place(ext: ExtSeq) -> (usize, u64) {
        ((ext.0 / 64) as usize % WORDS, 1 << (ext.0 % 64))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn agrees_with_a_set_over_random_walks() {
        for seed in 0..20 {
            let mut rng = StdRng::seed_from_u64(seed);
            let first = ExtSeq(rng.random_range(1 << 16..1 << 20));
            let mut window = SeenWindow::starting_at(first);
            let mut seen = BTreeSet::from([first]);
            for _ in 0..3_000 {
                let step = match rng.random_range(0..50) {
                    0 => rng.random_range(-1_100..3_000),
                    _ => rng.random_range(-40..40),
                };
                let highest = window.highest();
                let ext = ExtSeq(highest.0.saturating_add_signed(step));
                let expected = if ext > highest {
                    Seen::Newest
                } else if step <= -WINDOW {
                    Seen::TooOld
                } else if seen.contains(&ext) {
                    Seen::Duplicate
                } else {
                    Seen::Late
                };
                assert_eq!(window.insert(ext), expected, "seed {seed}, {ext:?} after {highest:?}");
                seen.insert(ext);
            }
        }
    }
}
