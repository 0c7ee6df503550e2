//! What the others say to a peer that is away, by [`super::chat`]: a share of what is kept for it, so that nobody ends it by
//! talking. The first message to all that has no room is left out with all that follow, and the peer is told how many those
//! were: it has everything up to a point, and knows of the rest.

use crate::base::limits::{AWAY_PEERS_BYTES_MAX, AWAY_SAID_BYTES_MAX};

#[derive(Default)]
pub(super) struct Said {
    bytes: usize,
    left_out: u64,
}

/// Whom a message is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Audience {
    All,
    One,
}

impl Said {
    /// Whether the message is kept. `all`: the bytes that are kept for all peers. What is said to it alone and is not kept is
    /// refused to the sender, and so not counted.
    pub(super) fn takes(&mut self, bytes: usize, audience: Audience, all: usize) -> bool {
        let fits = self.bytes + bytes <= AWAY_SAID_BYTES_MAX && all + bytes <= AWAY_PEERS_BYTES_MAX / 2;
        let keeps = fits && (audience == Audience::One || self.left_out == 0);
        match keeps {
            true => self.bytes += bytes,
            false => self.left_out += u64::from(audience == Audience::All),
        }
        keeps
    }

    pub(super) fn left_out(&self) -> u64 {
        self.left_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_the_first_that_has_no_room_all_are_left_out_and_counted() {
        let mut said = Said::default();
        let half = AWAY_SAID_BYTES_MAX / 2;
        assert_eq!([half, half + 1, 1].map(|bytes| said.takes(bytes, Audience::All, 0)), [true, false, false]);
        assert_eq!((said.takes(half, Audience::One, 0), said.takes(1, Audience::One, 0)), (true, false));
        assert_eq!(said.left_out(), 2, "who says something to it alone is refused");
    }

    #[test]
    fn what_is_said_takes_half_of_what_is_kept_for_all_and_no_more() {
        let mut said = Said::default();
        assert!(said.takes(5, Audience::All, AWAY_PEERS_BYTES_MAX / 2 - 5));
        assert!(!said.takes(5, Audience::All, AWAY_PEERS_BYTES_MAX / 2 - 4));
    }
}
