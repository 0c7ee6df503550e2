//! A list that many peers of a channel request, serialised once until something in it changes. Each reader gets it
//! without its own entries, in pieces of the one text.

use std::ops::Range;
use std::sync::Arc;

use crate::base::id::PeerId;
use crate::signal::text::{Piece, Text};

pub(super) struct Listing {
    /// The entries, commas between.
    text: Arc<str>,
    len: usize,
    /// Each peer's entries in the text, neighbours as one, by peer and place: a reader's own are found without a walk
    /// over everybody's.
    owned: Vec<(PeerId, Range<usize>)>,
}

impl Listing {
    /// From entries as JSON, each with its peer.
    pub(super) fn new(entries: impl Iterator<Item = (PeerId, String)>) -> Listing {
        let (mut text, mut len) = (String::new(), 0);
        let mut owned: Vec<(PeerId, Range<usize>)> = Vec::new();
        for (owner, entry) in entries {
            if !text.is_empty() {
                text.push(',');
            }
            let start = text.len();
            text.push_str(&entry);
            len += 1;
            match owned.last_mut() {
                Some((last, place)) if *last == owner => place.end = text.len(),
                _ => owned.push((owner, start..text.len())),
            }
        }
        owned.sort_unstable_by_key(|(owner, place)| (*owner, place.start));
        Listing { text: text.into(), len, owned }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// All entries but those of `me`, between the two texts.
    pub(super) fn without(&self, me: PeerId, before: String, after: String) -> Text {
        let first = self.owned.partition_point(|(owner, _)| *owner < me);
        let own = self.owned[first..].iter().take_while(|(owner, _)| *owner == me).map(|(_, place)| place);
        let mut pieces = vec![Piece::whole(before)];
        let mut others = |range: Range<usize>| {
            if !range.is_empty() {
                // The first goes without the comma before it.
                let comma = usize::from(pieces.len() == 1 && range.start > 0);
                pieces.push(Piece { of: self.text.clone(), range: range.start + comma..range.end });
            }
        };
        // Behind the last of the reader's own, at the comma if there is one.
        let mut from = 0;
        for place in own {
            others(from..place.start.saturating_sub(1));
            from = place.end;
        }
        others(from..self.text.len());
        pieces.push(Piece::whole(after));
        Text::joined(pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reads_the_others() {
        let owners = [1, 2, 2, 3, 1, 4, 4];
        let entries = owners.iter().enumerate().map(|(at, owner)| (PeerId(*owner), format!("\"{owner}{at}\"")));
        let listing = Listing::new(entries);
        for me in 0..5 {
            let read = listing.without(PeerId(me), "[".into(), "]".into()).to_string();
            let wanted: Vec<String> =
                owners.iter().enumerate().filter(|(_, o)| **o != me).map(|(at, o)| format!("{o}{at}")).collect();
            assert_eq!(serde_json::from_str::<Vec<String>>(&read).unwrap(), wanted, "{read}");
        }
        let empty = Listing::new(std::iter::empty());
        assert_eq!(empty.without(PeerId(1), "[".into(), "]".into()).to_string(), "[]");
    }
}
