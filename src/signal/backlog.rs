//! The texts that a client has not read, in order, without those that became old unread: the folding rule of every
//! queue of texts. Bounded by its users: `mailbox` keeps one for each peer whose socket is gone, the server one for
//! each socket.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use crate::signal::text::{About, Step};

pub struct Backlog<T> {
    entries: BTreeMap<u64, Entry<T>>,
    last: u64,
    /// The place of a thing's beginning or last change.
    waiting: FxHashMap<About, u64>,
}

struct Entry<T> {
    item: T,
    cost: usize,
    about: Option<About>,
}

/// The change that one more entry made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Growth {
    pub grown: usize,
    /// The cost of the entries that became old.
    pub given_up: usize,
}

impl<T> Default for Backlog<T> {
    fn default() -> Backlog<T> {
        Backlog { entries: BTreeMap::new(), last: 0, waiting: FxHashMap::default() }
    }
}

impl<T> Backlog<T> {
    pub fn push(&mut self, item: T, cost: usize, about: Option<About>) -> Growth {
        let mut given_up = 0;
        for old in [Step::Changes, Step::Describes, Step::ChangesPresence] {
            if let Some(About { thing, step }) = about
                && (step == old || step == Step::Ends)
            {
                given_up += self.forget(About { thing, step: old });
            }
        }
        if let Some(About { thing, step: Step::Ends }) = about {
            let begun = self.forget(About { thing, step: Step::Begins });
            if begun > 0 {
                // The client has not heard of its beginning.
                return Growth { grown: 0, given_up: given_up + begun };
            }
        }
        self.last += 1;
        if let Some(about) = about.filter(|about| about.step != Step::Ends) {
            self.waiting.insert(about, self.last);
        }
        self.entries.insert(self.last, Entry { item, cost, about });
        Growth { grown: cost, given_up }
    }

    fn forget(&mut self, about: About) -> usize {
        let place = self.waiting.remove(&about);
        place.and_then(|place| self.entries.remove(&place)).map_or(0, |entry| entry.cost)
    }

    pub fn pop(&mut self) -> Option<(T, Option<About>)> {
        let (place, Entry { item, about, .. }) = self.entries.pop_first()?;
        if let Some(about) = about
            && self.waiting.get(&about) == Some(&place)
        {
            self.waiting.remove(&about);
        }
        Some((item, about))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn about(thing: u64, step: Step) -> Option<About> {
        Some(About { thing, step })
    }

    #[test]
    fn old_news_is_not_told() {
        let mut backlog = Backlog::default();
        let mut held = 0;
        let mut push = |backlog: &mut Backlog<_>, word: &'static str, about| {
            let Growth { grown, given_up } = backlog.push(word, word.len(), about);
            held = held + grown - given_up;
        };
        push(&mut backlog, "seven begins", about(7, Step::Begins));
        push(&mut backlog, "reply", None);
        push(&mut backlog, "seven changes", about(7, Step::Changes));
        push(&mut backlog, "eight changes", about(8, Step::Changes));
        push(&mut backlog, "eight changes again", about(8, Step::Changes));
        push(&mut backlog, "seven ends", about(7, Step::Ends));
        push(&mut backlog, "nine ends", about(9, Step::Ends));
        push(&mut backlog, "ten is called", about(10, Step::Describes));
        push(&mut backlog, "ten changes", about(10, Step::Changes));
        push(&mut backlog, "ten is called otherwise", about(10, Step::Describes));
        push(&mut backlog, "eleven is called", about(11, Step::Describes));
        push(&mut backlog, "eleven ends", about(11, Step::Ends));
        push(&mut backlog, "eight is away", about(8, Step::ChangesPresence));
        push(&mut backlog, "eight is back", about(8, Step::ChangesPresence));
        push(&mut backlog, "six is away", about(6, Step::ChangesPresence));
        push(&mut backlog, "six ends", about(6, Step::Ends));
        let told: Vec<_> = std::iter::from_fn(|| backlog.pop()).map(|(word, _)| word).collect();
        assert_eq!(
            told,
            [
                "reply",
                "eight changes again",
                "nine ends",
                "ten changes",
                "ten is called otherwise",
                "eleven ends",
                "eight is back",
                "six ends"
            ]
        );
        assert_eq!(held, told.iter().map(|word| word.len()).sum::<usize>());
        backlog.push("ten begins", 1, about(10, Step::Begins));
        backlog.pop();
        backlog.push("ten ends", 1, about(10, Step::Ends));
        assert!(backlog.pop().is_some(), "who was told of the beginning is told of the end");
    }

    #[test]
    fn churn_that_nobody_reads_takes_no_room() {
        let mut backlog = Backlog::default();
        for thing in 0..100_000 {
            backlog.push((), 16_384, about(thing, Step::Begins));
            assert_eq!(backlog.push((), 100, about(thing, Step::Ends)), Growth { grown: 0, given_up: 16_384 });
        }
        assert!(backlog.waiting.is_empty() && backlog.entries.is_empty());
    }
}
