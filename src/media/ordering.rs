//! The order of a producer's encodings by measurement, where its client states neither scale nor bitrates: by the size
//! of the pictures, and where that is hidden or equal, by bytes. Each encoding finds its place once. `router::source`
//! feeds it and drops it when the order is complete.

use crate::base::limits::ENCODINGS_MAX;
use crate::base::ranking::Ranking;
use crate::base::time::{Duration, Instant};

/// How long encodings are compared, from the first packet of the one that came last.
const WEIGHING: Duration = Duration::from_secs(5);
/// The smaller of two takes at most half of the other's bytes: a smaller difference changes no order.
const CLEARLY: u64 = 2;

#[derive(Debug)]
pub struct Ordering {
    count: usize,
    ranking: Ranking,
    /// Pixels of a picture, where they can be read.
    sizes: [Option<u32>; ENCODINGS_MAX],
    /// When the comparison began.
    bytes: [u64; ENCODINGS_MAX],
    came: [bool; ENCODINGS_MAX],
    weighed_since: Option<Instant>,
}

/// The result of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OrderFound {
    Nothing,
    Order(Ranking),
    /// The final order.
    Settled(Ranking),
}

impl Ordering {
    /// `ranking` holds until another is found.
    pub fn new(count: usize, ranking: Ranking) -> Ordering {
        Ordering {
            count: count.min(ENCODINGS_MAX),
            ranking,
            sizes: [None; ENCODINGS_MAX],
            bytes: [0; ENCODINGS_MAX],
            came: [false; ENCODINGS_MAX],
            weighed_since: None,
        }
    }

    /// `pixels`: the size of the picture that the packet starts.
    pub fn on_packet(&mut self, now: Instant, encoding: u8, bytes: usize, pixels: Option<u32>) -> OrderFound {
        let at = usize::from(encoding);
        if at >= self.count {
            return OrderFound::Nothing;
        }
        if !std::mem::replace(&mut self.came[at], true) {
            self.bytes = [0; ENCODINGS_MAX];
            self.weighed_since = Some(now);
        }
        self.bytes[at] = self.bytes[at].saturating_add(bytes as u64);
        let is_new = pixels.is_some() && self.sizes[at].is_none();
        self.sizes[at] = pixels.or(self.sizes[at]);
        let weighed = self.weighed_since.is_some_and(|since| now.since(since) >= WEIGHING);
        if !is_new && !weighed {
            return OrderFound::Nothing;
        }
        let before = self.ranking;
        self.sort(weighed);
        if self.came[..self.count].iter().all(|came| *came) && (weighed || self.tells_all()) {
            return OrderFound::Settled(self.ranking);
        }
        if weighed {
            // Until another comes.
            self.weighed_since = None;
        }
        if self.ranking == before { OrderFound::Nothing } else { OrderFound::Order(self.ranking) }
    }

    /// Whether sizes alone give the order.
    fn tells_all(&self) -> bool {
        let sizes = &self.sizes[..self.count];
        sizes.iter().enumerate().all(|(at, size)| size.is_some() && !sizes[..at].contains(size))
    }

    /// Swaps neighbours where one is known to be the smaller; the rest keeps its order.
    fn sort(&mut self, weighed: bool) {
        let mut encodings = self.ranking.encodings();
        for _ in 1..self.count {
            for at in 1..self.count {
                let (lower, upper) = (usize::from(encodings[at - 1]), usize::from(encodings[at]));
                let misplaced = match (self.sizes[lower], self.sizes[upper]) {
                    (Some(lower), Some(upper)) if lower != upper => lower > upper,
                    _ => weighed && self.bytes[upper] > 0 && self.bytes[lower] / CLEARLY > self.bytes[upper],
                };
                if misplaced {
                    encodings.swap(at - 1, at);
                }
            }
        }
        self.ranking = Ranking::smallest_first(encodings).unwrap_or(self.ranking);
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    fn order(first: [u8; 3]) -> Ranking {
        Ranking::smallest_first(first).unwrap()
    }

    /// The rankings found in `seconds` of packets every 20 ms: each encoding's bytes, and the pixels in its first
    /// packet.
    fn run(
        ordering: &mut Ordering,
        from: u64,
        seconds: u64,
        encodings: &[(u8, usize, Option<u32>)],
    ) -> Vec<OrderFound> {
        let mut found = Vec::new();
        for ms in (from * 1_000..(from + seconds) * 1_000).step_by(20) {
            for (encoding, bytes, pixels) in encodings {
                let pixels = pixels.filter(|_| ms == from * 1_000);
                found.push(ordering.on_packet(at(ms), *encoding, *bytes, pixels));
            }
        }
        found.retain(|found| *found != OrderFound::Nothing);
        found
    }

    #[test]
    fn sizes_tell_at_once() {
        let mut ordering = Ordering::new(3, Ranking::default());
        let found = run(&mut ordering, 0, 1, &[(0, 900, Some(900)), (1, 300, Some(300)), (2, 100, Some(100))]);
        assert_eq!(found, [OrderFound::Order(order([1, 0, 2])), OrderFound::Settled(order([2, 1, 0]))]);
        let mut listed = Ordering::new(3, Ranking::default());
        let found = run(&mut listed, 0, 1, &[(0, 9, Some(100)), (1, 9, Some(300)), (2, 9, Some(900))]);
        assert_eq!(found, [OrderFound::Settled(Ranking::default())], "whatever they take");
    }

    #[test]
    fn where_sizes_are_hidden_or_alike_what_they_take_tells_after_a_while() {
        for pixels in [None, Some(640 * 480)] {
            let mut ordering = Ordering::new(3, Ranking::default());
            let encodings = [(0, 900, pixels), (1, 300, pixels), (2, 100, pixels)];
            assert!(run(&mut ordering, 0, 5, &encodings).is_empty(), "not before");
            assert_eq!(run(&mut ordering, 5, 1, &encodings)[0], OrderFound::Settled(order([2, 1, 0])));
        }
    }

    #[test]
    fn what_takes_about_as_much_stays_where_it_is() {
        let mut ordering = Ordering::new(2, Ranking::default());
        assert_eq!(
            run(&mut ordering, 0, 6, &[(0, 190, None), (1, 100, None)])[0],
            OrderFound::Settled(Ranking::default())
        );
    }

    #[test]
    fn an_encoding_that_comes_later_finds_its_place_later() {
        let mut ordering = Ordering::new(3, Ranking::default());
        let found = run(&mut ordering, 0, 8, &[(1, 300, None), (2, 100, None)]);
        assert_eq!(found, [OrderFound::Order(order([0, 2, 1]))]);
        let found = run(&mut ordering, 8, 6, &[(1, 300, None), (2, 100, None), (0, 900, None)]);
        assert_eq!(found[0], OrderFound::Settled(order([2, 1, 0])));
    }

    #[test]
    fn one_that_never_comes_leaves_the_others_in_order() {
        let mut ordering = Ordering::new(3, Ranking::default());
        let found = run(&mut ordering, 0, 60, &[(0, 300, Some(9)), (1, 100, Some(4))]);
        assert_eq!(found, [OrderFound::Order(order([1, 0, 2]))]);
    }

    #[test]
    fn whatever_comes_it_stays_one_to_one() {
        let mut rng = StdRng::seed_from_u64(4);
        for count in 0..=ENCODINGS_MAX + 1 {
            let mut ordering = Ordering::new(count, Ranking::default());
            for step in 0..5_000 {
                let pixels = rng.random_bool(0.1).then(|| rng.random_range(0..4));
                let bytes = rng.random_range(0..1_200);
                let found = ordering.on_packet(at(step * 10), rng.random_range(0..12), bytes, pixels);
                if let OrderFound::Order(ranking) | OrderFound::Settled(ranking) = found {
                    let mut encodings = ranking.encodings();
                    encodings.sort_unstable();
                    assert_eq!(encodings, [0, 1, 2, 3, 4, 5, 6, 7]);
                }
            }
        }
    }
}
