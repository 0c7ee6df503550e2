//! The receive window of one stream: which of the newest 1,024 packets have been seen, a bit each, by extended sequence
//! number. It decides nothing: `receive` (duplicates) and `rewrite` (at most once) do.

use crate::base::seq::ExtSeq;
use crate::base::window::{Seen, Window};

/// How far back from the newest packets can still be told apart.
pub const WINDOW: i64 = Window::WIDTH as i64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Ahead of everything before it.
    Newest,
    /// Behind the newest and not seen yet.
    Late,
    Duplicate,
    /// Behind the window: unknown.
    TooOld,
}

#[derive(Clone, Debug)]
pub struct SeenWindow(Window);

impl SeenWindow {
    /// A window in which only `first` has been seen.
    pub fn starting_at(first: ExtSeq) -> SeenWindow {
        SeenWindow(Window::starting_at(first.0))
    }

    pub fn highest(&self) -> ExtSeq {
        ExtSeq(self.0.highest())
    }

    /// Marks `ext` as seen and returns how it stands to the others.
    #[inline]
    pub fn insert(&mut self, ext: ExtSeq) -> Standing {
        let is_newest = ext > self.highest();
        match self.0.check(ext.0) {
            Seen::Already => return Standing::Duplicate,
            Seen::Unknown => return Standing::TooOld,
            Seen::New => self.0.commit(ext.0),
        }
        if is_newest { Standing::Newest } else { Standing::Late }
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
                    Standing::Newest
                } else if step <= -WINDOW {
                    Standing::TooOld
                } else if seen.contains(&ext) {
                    Standing::Duplicate
                } else {
                    Standing::Late
                };
                assert_eq!(window.insert(ext), expected, "seed {seed}, {ext:?} after {highest:?}");
                seen.insert(ext);
            }
        }
    }
}
