//! A list in as many messages as it takes: cut where a message would be too long, and put together again once all parts
//! have come.

use crate::base::limits::{BUS_MESSAGE_BYTES_MAX, ROSTER_PAGES_MAX};

/// Of a message, what is not its list.
const ENVELOPE: usize = 24 * 1024;

/// Entries as JSON, cut into pages; at least one. An entry that no page can hold is left out.
pub(super) fn cut(entries: Vec<String>) -> Vec<Vec<String>> {
    let most = BUS_MESSAGE_BYTES_MAX - ENVELOPE;
    let mut pages = vec![Vec::new()];
    let mut bytes = 0;
    for entry in entries.into_iter().filter(|entry| entry.len() < most) {
        bytes += entry.len() + 1;
        if bytes > most {
            pages.push(Vec::new());
            bytes = entry.len() + 1;
        }
        if let Some(page) = pages.last_mut() {
            page.push(entry);
        }
    }
    pages
}

/// The pages of one list, as they come.
#[derive(Debug)]
pub(super) struct Assembly<T> {
    number: u64,
    pages: Vec<Option<Vec<T>>>,
}

impl<T> Assembly<T> {
    /// Takes a page of the list with this number, into the one that is begun or in place of it. Returns the list when it is
    /// whole.
    pub(super) fn take(
        begun: &mut Option<Assembly<T>>,
        number: u64,
        page: usize,
        of: usize,
        list: Vec<T>,
    ) -> Option<Vec<T>> {
        if page >= of || of > ROSTER_PAGES_MAX {
            return None;
        }
        match begun {
            Some(other) if other.number > number => return None,
            Some(same) if same.number == number && same.pages.len() == of => {}
            _ => *begun = Some(Assembly { number, pages: std::iter::repeat_with(|| None).take(of).collect() }),
        }
        let pages = &mut begun.as_mut()?.pages;
        pages[page] = Some(list);
        if pages.iter().any(Option::is_none) {
            return None;
        }
        begun.take().map(|whole| whole.pages.into_iter().flatten().flatten().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_cut_where_a_message_would_be_too_long() {
        assert_eq!(cut(vec![]), [Vec::<String>::new()]);
        let entry = |bytes: usize| "x".repeat(bytes);
        let entries: Vec<_> = (0..100).map(|n| entry(n * 200)).chain([entry(BUS_MESSAGE_BYTES_MAX)]).collect();
        let pages = cut(entries.clone());
        assert!(pages.len() > 3);
        for page in &pages {
            assert!(page.iter().map(|entry| entry.len() + 1).sum::<usize>() <= BUS_MESSAGE_BYTES_MAX - ENVELOPE);
        }
        assert_eq!(pages.concat(), entries[..100], "the order stays, and one was too long");
    }

    #[test]
    fn pages_of_one_number_make_the_list_in_any_order() {
        let mut begun = None;
        assert_eq!(Assembly::take(&mut begun, 7, 1, 2, vec![3]), None);
        assert_eq!(Assembly::take(&mut begun, 7, 1, 2, vec![3]), None, "it comes twice");
        assert_eq!(Assembly::take(&mut begun, 6, 0, 2, vec![9]), None, "of an older list");
        assert_eq!(Assembly::take(&mut begun, 7, 0, 2, vec![1, 2]), Some(vec![1, 2, 3]));
        assert!(begun.is_none());
        assert_eq!(Assembly::take(&mut begun, 8, 0, 2, vec![1]), None);
        assert_eq!(Assembly::take(&mut begun, 9, 0, 2, vec![2]), None, "a newer list takes its place");
        assert_eq!(Assembly::take(&mut begun, 9, 1, 2, vec![3]), Some(vec![2, 3]));
        for (page, of) in [(0, 0), (2, 2), (0, ROSTER_PAGES_MAX + 1)] {
            assert_eq!(Assembly::take(&mut begun, 9, page, of, vec![1]), None, "{page} of {of}");
        }
        assert!(begun.is_none());
    }
}
