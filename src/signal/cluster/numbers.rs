//! The numbers of what one member tells of one channel: what comes next is taken, what came already is not, and what comes
//! too early waits until the whole is known.

use std::collections::BTreeMap;

use crate::base::limits::TOLD_WAITING_MAX;

#[derive(Debug)]
pub(super) struct Numbers<T> {
    /// None: nothing is known of it.
    last: Option<u64>,
    /// What came before the one before it.
    waiting: BTreeMap<u64, T>,
    /// The highest that was heard of.
    newest: u64,
}

#[derive(PartialEq, Eq, Debug)]
pub(super) enum Taken<T> {
    /// This is next, and what had waited for it.
    Next(Vec<T>),
    /// It was known.
    Old,
    /// Something is missing before it: the whole is wanted.
    Gap,
}

impl<T> Default for Numbers<T> {
    fn default() -> Numbers<T> {
        Numbers { last: None, waiting: BTreeMap::new(), newest: 0 }
    }
}

impl<T> Numbers<T> {
    pub(super) const fn is_known(&self) -> bool {
        self.last.is_some()
    }

    pub(super) fn take(&mut self, number: u64, told: T) -> Taken<T> {
        if self.last.is_some_and(|last| number <= last) {
            return Taken::Old;
        }
        self.newest = self.newest.max(number);
        if self.waiting.len() < TOLD_WAITING_MAX {
            self.waiting.insert(number, told);
        }
        match self.next() {
            next if next.is_empty() => Taken::Gap,
            next => Taken::Next(next),
        }
    }

    fn next(&mut self) -> Vec<T> {
        let mut next = Vec::new();
        while let Some(last) = self.last
            && let Some(told) = self.waiting.remove(&(last + 1))
        {
            self.last = Some(last + 1);
            next.push(told);
        }
        next
    }

    /// It says that it is there. Whether something is missing here.
    pub(super) fn is_behind(&mut self, number: u64) -> bool {
        self.newest = self.newest.max(number);
        self.last.is_none_or(|last| last < self.newest)
    }

    /// Whether the end at this number is its latest word.
    pub(super) fn ends(&self, number: u64) -> bool {
        self.last.is_none_or(|last| last <= number)
    }

    /// All that it had at this number is known. Returns what comes after it; None: that is older than what is known.
    pub(super) fn whole(&mut self, number: u64) -> Option<Vec<T>> {
        if self.last.is_some_and(|last| last > number) {
            return None;
        }
        self.last = Some(number);
        self.newest = self.newest.max(number);
        self.waiting.retain(|waiting, _| *waiting > number);
        Some(self.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_next_is_taken_once_and_in_order() {
        let mut numbers = Numbers::default();
        assert!(!numbers.is_known());
        assert_eq!(numbers.whole(4), Some(vec![]));
        assert_eq!(numbers.take(5, "e"), Taken::Next(vec!["e"]));
        assert_eq!(numbers.take(5, "e"), Taken::Old);
        assert_eq!(numbers.take(7, "g"), Taken::Gap);
        assert_eq!(numbers.take(8, "h"), Taken::Gap);
        assert_eq!(numbers.take(6, "f"), Taken::Next(vec!["f", "g", "h"]));
        assert!(!numbers.is_behind(8));
    }

    #[test]
    fn the_whole_mends_a_gap_and_what_waited_follows() {
        let mut numbers = Numbers::default();
        assert_eq!(numbers.take(3, "c"), Taken::Gap, "nothing is known of it");
        assert_eq!(numbers.take(5, "e"), Taken::Gap);
        assert_eq!(numbers.take(6, "f"), Taken::Gap);
        assert_eq!(numbers.whole(4), Some(vec!["e", "f"]));
        assert_eq!(numbers.whole(3), None, "an older one came late");
        assert_eq!(numbers.whole(6), Some(vec![]), "asked twice");
        assert!(!numbers.is_behind(6) && numbers.is_behind(7));
        assert_eq!(numbers.whole(6), Some(vec![]));
        assert!(numbers.is_behind(6), "it was heard of 7");
        assert!(numbers.ends(6) && numbers.ends(9) && !numbers.ends(5));
    }

    #[test]
    fn little_waits_and_the_newest_number_is_known_all_the_same() {
        let mut numbers = Numbers::default();
        numbers.whole(0);
        let last = TOLD_WAITING_MAX as u64 + 10;
        for number in 2..=last {
            assert_eq!(numbers.take(number, number), Taken::Gap);
        }
        assert_eq!(numbers.waiting.len(), TOLD_WAITING_MAX);
        let took = numbers.take(1, 1);
        assert_eq!(took, Taken::Gap, "no room for it: the whole is asked for");
        assert!(numbers.is_behind(0));
        assert_eq!(numbers.whole(last), Some(vec![]));
        assert!(!numbers.is_behind(0) && numbers.waiting.is_empty());
    }
}
