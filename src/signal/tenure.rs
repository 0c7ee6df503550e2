//! Until when each peer may stay, and by which token: what ends a peer when its token does.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::base::id::PeerId;
use crate::base::time::Instant;
use crate::signal::entrance::Entrance;

struct Tenure {
    expires: Option<Instant>,
    jti: Option<Arc<str>>,
}

/// Of the peers that came with a token. The keys are our own numbers.
#[derive(Default)]
pub(super) struct Tenures {
    of: FxHashMap<PeerId, Tenure>,
    due: BTreeSet<(Instant, PeerId)>,
}

impl Tenures {
    /// In place of what the peer had.
    pub(super) fn set(&mut self, peer: PeerId, entrance: &Entrance) {
        self.remove(peer);
        let jti = entrance.token.as_ref().map(|token| token.jti.clone());
        if entrance.expires.is_none() && jti.is_none() {
            return;
        }
        self.due.extend(entrance.expires.map(|expires| (expires, peer)));
        self.of.insert(peer, Tenure { expires: entrance.expires, jti });
    }

    pub(super) fn remove(&mut self, peer: PeerId) {
        if let Some(expires) = self.of.remove(&peer).and_then(|tenure| tenure.expires) {
            self.due.remove(&(expires, peer));
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due.first().map(|(expires, _)| *expires)
    }

    /// A peer whose token has expired.
    pub(super) fn overdue(&self, now: Instant) -> Option<PeerId> {
        self.due.first().filter(|(expires, _)| *expires <= now).map(|(_, peer)| *peer)
    }

    /// The peers that are here by this token. Walks over all of them.
    pub(super) fn by_token(&self, jti: &str) -> Vec<PeerId> {
        let by = self.of.iter().filter(|(_, tenure)| tenure.jti.as_deref() == Some(jti));
        let mut peers: Vec<_> = by.map(|(peer, _)| *peer).collect();
        peers.sort_unstable();
        peers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Duration;
    use crate::signal::entrance::TokenId;

    #[test]
    fn the_next_to_go_is_known_and_a_new_token_counts_alone() {
        let (mut tenures, start) = (Tenures::default(), Instant::ZERO);
        let entrance = |seconds: u64, jti: &str| Entrance {
            expires: Some(start + Duration::from_secs(seconds)),
            token: Some(TokenId { jti: jti.into(), once: false }),
            ..Entrance::named("anna", "room")
        };
        tenures.set(PeerId(1), &entrance(10, "a"));
        tenures.set(PeerId(2), &entrance(5, "b"));
        tenures.set(PeerId(3), &Entrance::named("anna", "room"));
        assert_eq!(tenures.deadline(), Some(start + Duration::from_secs(5)));
        assert_eq!(tenures.overdue(start + Duration::from_millis(4_999)), None);
        assert_eq!(tenures.overdue(start + Duration::from_secs(5)), Some(PeerId(2)));
        tenures.set(PeerId(2), &entrance(20, "a"));
        assert_eq!((tenures.by_token("a"), tenures.by_token("b")), (vec![PeerId(1), PeerId(2)], vec![]));
        assert_eq!(tenures.deadline(), Some(start + Duration::from_secs(10)));
        [1, 2, 3].into_iter().for_each(|peer| tenures.remove(PeerId(peer)));
        assert!(tenures.deadline().is_none() && tenures.of.is_empty());
    }
}
