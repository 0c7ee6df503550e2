//! A list that many peers of a channel request, serialised once until something in it changes. Each reader gets it
//! without its own entries, in pieces of the one text.

use std::ops::Range;
use std::sync::Arc;

use crate::base::id::PeerId;
use crate::signal::text::{Piece, Text};

pub(super) struct Listing {
    /// The entries, commas between.
    text: Arc<str>,
    entries: Vec<(PeerId, Range<usize>)>,
}

impl Listing {
    /// From entries as JSON, each with its peer.
    pub(super) fn new(entries: impl Iterator<Item = (PeerId, String)>) -> Listing {
        let (mut text, mut places) = (String::new(), Vec::new());
        for (owner, entry) in entries {
            if !text.is_empty() {
                text.push(',');
            }
            let start = text.len();
            text.push_str(&entry);
            places.push((owner, start..text.len()));
        }
        Listing { text: text.into(), entries: places }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// All entries but those of `me`, between the two texts.
    pub(super) fn without(&self, me: PeerId, before: String, after: String) -> Text {
        let mut pieces = vec![Piece::whole(before)];
        let mut run: Option<Range<usize>> = None;
        for (owner, place) in &self.entries {
            match &mut run {
                _ if *owner == me => {
                    pieces.extend(run.take().map(|range| Piece { of: self.text.clone(), range }));
                }
                Some(run) => run.end = place.end,
                None if pieces.len() > 1 => {
                    // The comma before it, which ends the last run.
                    run = Some(place.start.saturating_sub(1)..place.end);
                }
                None => run = Some(place.clone()),
            }
        }
        pieces.extend(run.map(|range| Piece { of: self.text.clone(), range }));
        pieces.push(Piece::whole(after));
        Text::joined(pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reads_the_others() {
        let owners = [1, 2, 2, 3, 1];
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
