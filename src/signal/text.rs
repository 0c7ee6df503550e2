//! A text on its way to a socket, in pieces that may be shared: a text for many exists once. The writer writes the
//! pieces one after the other.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// The overhead of each kept text.
pub(super) const TEXT_OVERHEAD: usize = 64;

/// Cheap to clone.
#[derive(Clone)]
pub struct Text(Inner);

#[derive(Clone)]
enum Inner {
    Whole(Arc<str>),
    Pieces(Arc<[Piece]>),
}

/// A part of a text that others may hold too.
#[derive(Clone)]
pub(super) struct Piece {
    pub(super) of: Arc<str>,
    pub(super) range: Range<usize>,
}

impl Piece {
    pub(super) fn whole(text: String) -> Piece {
        let of: Arc<str> = text.into();
        Piece { range: 0..of.len(), of }
    }

    fn as_str(&self) -> &str {
        self.of.get(self.range.clone()).unwrap_or_default()
    }
}

impl Text {
    pub(super) fn joined(pieces: Vec<Piece>) -> Text {
        Text(Inner::Pieces(pieces.into()))
    }

    pub fn pieces(&self) -> impl Iterator<Item = &str> {
        let (whole, pieces): (Option<&str>, &[Piece]) = match &self.0 {
            Inner::Whole(text) => (Some(text), &[]),
            Inner::Pieces(pieces) => (None, pieces),
        };
        whole.into_iter().chain(pieces.iter().map(Piece::as_str))
    }

    /// In bytes.
    pub fn len(&self) -> usize {
        self.pieces().map(str::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<String> for Text {
    fn from(text: String) -> Text {
        Text(Inner::Whole(text.into()))
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pieces().try_for_each(|piece| f.write_str(piece))
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Text) -> bool {
        self.to_string() == other.to_string()
    }
}

/// The subject of a notification, for the queue: unread news that is old by now need not be told.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct About {
    /// A number that names one thing only.
    pub thing: u64,
    pub step: Step,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Step {
    /// The thing exists from now on.
    Begins,
    /// Its state is this now: what an earlier one said is old.
    Changes,
    /// The same of what it is called and carries, which has nothing to do with its state.
    Describes,
    /// The same of another part of its state: whether it is reached now.
    ChangesPresence,
    /// The thing is gone: earlier news of it does not matter, and one that nobody heard of need not be mentioned.
    Ends,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_read_as_one_text() {
        let shared: Arc<str> = "a,b,c".into();
        let cut = |range| Piece { of: shared.clone(), range };
        let text = Text::joined(vec![Piece::whole("[".into()), cut(0..2), cut(4..5), Piece::whole("]".into())]);
        assert_eq!((text.to_string().as_str(), text.len()), ("[a,c]", 5));
        assert_eq!(text, Text::from("[a,c]".to_owned()));
    }
}
