//! The layer of each encoding of a producer. An encoding is known by its place in the client's list, which means
//! nothing; layer 0 is the smallest of them. `signal` reads the order from the client's parameters; otherwise `media`
//! measures it.

use std::array;

use crate::base::limits::ENCODINGS_MAX;

/// One to one. By default the order of the list: browsers without instructions put the smallest first (W3C WebRTC,
/// `addTransceiver`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ranking {
    /// Encodings, the smallest first.
    encodings: [u8; ENCODINGS_MAX],
    /// By encoding.
    layers: [u8; ENCODINGS_MAX],
}

impl Default for Ranking {
    fn default() -> Ranking {
        let listed = array::from_fn(|at| at as u8);
        Ranking { encodings: listed, layers: listed }
    }
}

impl Ranking {
    /// Encodings, the smallest first; unnamed ones follow in the order of the list. None: one is named twice, or does
    /// not exist.
    pub fn smallest_first(order: impl IntoIterator<Item = u8>) -> Option<Ranking> {
        let mut ranking = Ranking::default();
        for (layer, encoding) in order.into_iter().enumerate() {
            let place = ranking.encodings.iter().position(|other| *other == encoding)?;
            if place < layer {
                return None;
            }
            // Encodings that it passes keep their order.
            ranking.encodings[layer..=place].rotate_right(1);
        }
        for (layer, encoding) in ranking.encodings.into_iter().enumerate() {
            ranking.layers[usize::from(encoding)] = layer as u8;
        }
        Some(ranking)
    }

    pub fn encodings(&self) -> [u8; ENCODINGS_MAX] {
        self.encodings
    }

    /// The layer of `encoding`; an impossible one is above all.
    pub fn layer(&self, encoding: u8) -> u8 {
        self.layers.get(usize::from(encoding)).copied().unwrap_or(encoding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_one_to_one_whatever_is_named() {
        let ranking = Ranking::smallest_first([2, 1, 0]).unwrap();
        assert_eq!(ranking.encodings(), [2, 1, 0, 3, 4, 5, 6, 7]);
        assert_eq!([0, 1, 2, 3, 7, 8, 255].map(|encoding| ranking.layer(encoding)), [2, 1, 0, 3, 7, 8, 255]);
        let some = Ranking::smallest_first([5]).unwrap();
        assert_eq!(some.encodings(), [5, 0, 1, 2, 3, 4, 6, 7]);
        for encoding in 0..8 {
            assert_eq!(some.encodings()[usize::from(some.layer(encoding))], encoding);
        }
        assert_eq!(Ranking::smallest_first([]), Some(Ranking::default()));
    }

    #[test]
    fn what_is_named_twice_or_is_none_is_no_ranking() {
        for order in [&[0, 0][..], &[1, 0, 1], &[8], &[255], &[0, 1, 2, 3, 4, 5, 6, 7, 0]] {
            assert_eq!(Ranking::smallest_first(order.iter().copied()), None, "{order:?}");
        }
    }
}
