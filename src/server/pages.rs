//! The page of metrics as it was last made. A page that is asked for too often is given again.

use std::cell::RefCell;
use std::time::Duration;

use hyper::body::Bytes;

use crate::base::time::Instant;

const SPAN: Duration = Duration::from_millis(250);
/// Pages that are made anew within [`SPAN`].
const PER_SPAN: u32 = 8;

#[derive(Default)]
pub(super) struct Pages(RefCell<Kept>);

/// The pages made in the span that began then.
#[derive(Default)]
struct Kept {
    since: Instant,
    made: u32,
    last: Bytes,
}

impl Pages {
    pub(super) fn page(&self, now: Instant, make: impl FnOnce() -> Bytes) -> Bytes {
        let mut kept = self.0.borrow_mut();
        if now.since(kept.since) >= SPAN {
            (kept.since, kept.made) = (now, 0);
        }
        if kept.made < PER_SPAN {
            kept.made += 1;
            kept.last = make();
        }
        kept.last.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_without_patience_gets_the_last_page_again() {
        let (pages, mut made) = (Pages::default(), 0_u32);
        let mut read = |now| {
            pages.page(now, || {
                made += 1;
                made.to_string().into()
            })
        };
        let start = Instant::ZERO + Duration::from_secs(9);
        let first: Vec<Bytes> = (0..100).map(|_| read(start)).collect();
        assert_eq!((&first[PER_SPAN as usize - 1][..], &first[99][..]), (&b"8"[..], &b"8"[..]));
        assert_eq!(read(start + SPAN), "9");
    }
}
