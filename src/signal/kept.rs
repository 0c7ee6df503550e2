//! The conversation with a peer that may come back: how many texts it was sent and how many of its own were taken,
//! counted from its first token on, and the sent ones that it has not acknowledged, to be sent again.

use std::collections::VecDeque;

use crate::base::limits::UNACKNOWLEDGED_BYTES_MAX;
use crate::signal::text::{TEXT_OVERHEAD, Text};

#[derive(Default)]
pub(super) struct Kept {
    /// Oldest first; the last is number `sent`.
    texts: VecDeque<Text>,
    bytes: usize,
    sent: u64,
    taken: u64,
}

/// Why a client's count of what it received is of no use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum CountFault {
    /// More than it was sent.
    TooHigh,
    /// What it misses is kept no more.
    NotKept,
}

impl Kept {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number of the client's messages that were taken.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    pub(super) fn took(&mut self) {
        self.taken += 1;
    }

    /// A text goes to a socket. Beyond the bound the oldest are given up.
    pub(super) fn send(&mut self, text: Text) {
        self.sent += 1;
        self.bytes += text.len() + TEXT_OVERHEAD;
        self.texts.push_back(text);
        while self.bytes > UNACKNOWLEDGED_BYTES_MAX {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some(text) = self.texts.pop_front() {
            self.bytes -= text.len() + TEXT_OVERHEAD;
        }
    }

    /// The number of kept texts that come after so many received ones.
    fn after(&self, received: u64) -> Result<usize, CountFault> {
        let missing = self.sent.checked_sub(received).ok_or(CountFault::TooHigh)?;
        let missing = usize::try_from(missing).map_err(|_| CountFault::NotKept)?;
        if missing > self.texts.len() { Err(CountFault::NotKept) } else { Ok(missing) }
    }

    /// The client has received so many in all. Old news changes nothing.
    pub(super) fn acknowledge(&mut self, received: u64) -> Result<(), CountFault> {
        match self.after(received) {
            Ok(missing) => {
                while self.texts.len() > missing {
                    self.drop_first();
                }
                Ok(())
            }
            Err(CountFault::NotKept) => Ok(()),
            Err(fault) => Err(fault),
        }
    }

    /// Whether everything after so many received texts can be sent again.
    pub(super) fn reaches(&self, received: u64) -> Result<(), CountFault> {
        self.after(received).map(|_| ())
    }

    /// What is kept, to be sent again.
    pub(super) fn again(&self) -> impl Iterator<Item = &Text> {
        self.texts.iter()
    }

    pub(super) fn give_up(&mut self) {
        self.texts = VecDeque::new();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(n: usize) -> Text {
        format!("text {n}").into()
    }

    fn again(kept: &Kept) -> Vec<String> {
        kept.again().map(ToString::to_string).collect()
    }

    #[test]
    fn what_was_not_acknowledged_is_sent_again_in_order() {
        let mut kept = Kept::default();
        (1..=5).for_each(|n| kept.send(text(n)));
        assert_eq!((kept.reaches(0), kept.reaches(5), kept.reaches(6)), (Ok(()), Ok(()), Err(CountFault::TooHigh)));
        assert_eq!(kept.acknowledge(3), Ok(()));
        assert_eq!(kept.acknowledge(1), Ok(()), "an old count is no fault");
        assert_eq!(again(&kept), ["text 4", "text 5"]);
        assert_eq!((kept.reaches(2), kept.reaches(u64::MAX)), (Err(CountFault::NotKept), Err(CountFault::TooHigh)));
        assert_eq!(kept.acknowledge(6), Err(CountFault::TooHigh));
        kept.acknowledge(5).unwrap();
        assert_eq!((again(&kept).len(), kept.bytes()), (0, 0));
    }

    #[test]
    fn a_client_that_acknowledges_nothing_has_the_latest_kept() {
        let mut kept = Kept::default();
        let long = "x".repeat(UNACKNOWLEDGED_BYTES_MAX / 4);
        (0..100).for_each(|_| kept.send(long.clone().into()));
        assert!(kept.bytes() <= UNACKNOWLEDGED_BYTES_MAX && kept.texts.len() == 3);
        assert_eq!((kept.reaches(97), kept.reaches(96)), (Ok(()), Err(CountFault::NotKept)));
        kept.send("x".repeat(UNACKNOWLEDGED_BYTES_MAX).into());
        assert_eq!((kept.bytes(), kept.reaches(101)), (0, Ok(())));
        kept.send(text(1));
        kept.give_up();
        assert_eq!((kept.bytes(), kept.reaches(102), kept.reaches(101)), (0, Ok(()), Err(CountFault::NotKept)));
    }
}
