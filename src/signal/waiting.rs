//! The texts of a channel's first peers, which wait until its other members are known: what they are answered has them in
//! it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::limits::{TEXTS_WAITING_BYTES_MAX, TEXTS_WAITING_MAX};
use crate::signal::session::SessionId;

#[derive(Default)]
pub(super) struct TextsWaiting {
    by_channel: BTreeMap<Arc<str>, Vec<(SessionId, String)>>,
    texts: usize,
    bytes: usize,
}

impl TextsWaiting {
    /// False: too much waits already.
    pub(super) fn hold(&mut self, channel: &Arc<str>, session: SessionId, text: &str) -> bool {
        if self.texts >= TEXTS_WAITING_MAX || self.bytes + text.len() > TEXTS_WAITING_BYTES_MAX {
            return false;
        }
        self.texts += 1;
        self.bytes += text.len();
        self.by_channel.entry(channel.clone()).or_default().push((session, text.to_owned()));
        true
    }

    /// In the order in which they came.
    pub(super) fn release(&mut self, channel: &str) -> Vec<(SessionId, String)> {
        let texts = self.by_channel.remove(channel).unwrap_or_default();
        self.texts -= texts.len();
        self.bytes -= texts.iter().map(|(_, text)| text.len()).sum::<usize>();
        texts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_keep_their_order_and_only_so_many_wait() {
        let (mut waiting, room, other) = (TextsWaiting::default(), Arc::from("room"), Arc::from("other"));
        assert!(waiting.hold(&room, SessionId(1), "a") && waiting.hold(&other, SessionId(2), "b"));
        assert!(waiting.hold(&room, SessionId(3), "c"));
        assert_eq!(waiting.release("room"), [(SessionId(1), "a".to_owned()), (SessionId(3), "c".to_owned())]);
        assert_eq!(waiting.release("room"), []);
        assert!(!waiting.hold(&room, SessionId(1), &"x".repeat(TEXTS_WAITING_BYTES_MAX)));
        (1..TEXTS_WAITING_MAX).for_each(|_| assert!(waiting.hold(&room, SessionId(1), "")));
        assert!(!waiting.hold(&other, SessionId(1), ""));
        waiting.release("room");
        waiting.release("other");
        assert_eq!((waiting.texts, waiting.bytes, waiting.by_channel.len()), (0, 0, 0));
    }
}
