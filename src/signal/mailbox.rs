//! The mailboxes: where each peer's texts go. To its socket, into a backlog until another socket takes the peer up, or
//! nowhere. [`super::post`] sends by it; `hub` says who comes and goes, and ends a peer that stayed away or missed too
//! much.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use crate::base::id::PeerId;
use crate::base::limits::{AWAY_BYTES_MAX, AWAY_PEERS_BYTES_MAX};
use crate::base::time::Instant;
use crate::signal::backlog::{Backlog, Growth};
use crate::signal::session::SessionId;
use crate::signal::text::{About, Text};

/// The overhead of each kept text.
const TEXT_OVERHEAD: usize = 64;

/// A text that a peer missed.
pub(super) type MissedText = (Text, Option<About>);

/// The way of texts to one peer.
enum Mailbox {
    Socket(SessionId),
    /// The socket is gone, and what the peer misses is kept.
    Away(Box<Missed>),
}

struct Missed {
    until: Instant,
    texts: Backlog<Text>,
    bytes: usize,
}

/// The mailboxes by peer. The keys are our own numbers. A peer that never had a socket has none, because nobody reads its
/// texts.
#[derive(Default)]
pub(super) struct Mailboxes {
    boxes: FxHashMap<PeerId, Mailbox>,
    sessions: FxHashMap<SessionId, PeerId>,
    /// The deadline of each peer that is away, after which it is let go.
    due: BTreeSet<(Instant, PeerId)>,
    /// Bytes kept for all peers together.
    kept: usize,
    /// Peers that missed more than is kept.
    lost: Vec<PeerId>,
}

impl Mailboxes {
    /// The socket for a text to this peer. Without one the text is kept, or given up.
    pub(super) fn socket_or_keep(&mut self, peer: PeerId, text: &Text, about: Option<About>) -> Option<SessionId> {
        match self.boxes.get_mut(&peer)? {
            Mailbox::Socket(session) => return Some(*session),
            Mailbox::Away(missed) => {
                let Growth { grown, given_up } = missed.texts.push(text.clone(), text.len() + TEXT_OVERHEAD, about);
                missed.bytes = missed.bytes + grown - given_up;
                self.kept = self.kept + grown - given_up;
                if missed.bytes > AWAY_BYTES_MAX {
                    self.give_up(peer);
                }
            }
        }
        while self.kept > AWAY_PEERS_BYTES_MAX {
            let bytes = |mailbox: &Mailbox| match mailbox {
                Mailbox::Socket(_) => 0,
                Mailbox::Away(missed) => missed.bytes,
            };
            let most = self.boxes.iter().map(|(peer, mailbox)| (bytes(mailbox), *peer)).max();
            let Some((_, most)) = most else { break };
            self.give_up(most);
        }
        None
    }

    fn give_up(&mut self, peer: PeerId) {
        self.forget(peer);
        self.lost.push(peer);
    }

    /// Forgets the peer. Returns the socket that it had.
    pub(super) fn forget(&mut self, peer: PeerId) -> Option<SessionId> {
        match self.boxes.remove(&peer)? {
            Mailbox::Socket(session) => {
                self.sessions.remove(&session);
                Some(session)
            }
            Mailbox::Away(missed) => {
                self.kept -= missed.bytes;
                self.due.remove(&(missed.until, peer));
                None
            }
        }
    }

    /// Makes this socket the peer's. Returns the socket that it replaces, and what the peer missed.
    pub(super) fn attach(&mut self, peer: PeerId, session: SessionId) -> (Option<SessionId>, Vec<MissedText>) {
        let missed = match self.boxes.get_mut(&peer) {
            Some(Mailbox::Away(missed)) => std::iter::from_fn(|| missed.texts.pop()).collect(),
            Some(Mailbox::Socket(_)) | None => Vec::new(),
        };
        let replaced = self.forget(peer);
        self.boxes.insert(peer, Mailbox::Socket(session));
        self.sessions.insert(session, peer);
        (replaced, missed)
    }

    /// Parts the peer from its socket; what it misses is kept until `until`.
    pub(super) fn detach(&mut self, session: SessionId, until: Instant) -> Option<PeerId> {
        let peer = self.sessions.remove(&session)?;
        let missed = Missed { until, texts: Backlog::default(), bytes: 0 };
        self.boxes.insert(peer, Mailbox::Away(Box::new(missed)));
        self.due.insert((until, peer));
        Some(peer)
    }

    pub(super) fn peer_of(&self, session: SessionId) -> Option<PeerId> {
        self.sessions.get(&session).copied()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// A peer that was away for too long.
    pub(super) fn overdue(&self, now: Instant) -> Option<PeerId> {
        self.due.first().filter(|(at, _)| *at <= now).map(|(_, peer)| *peer)
    }

    /// A peer that cannot be taken up any more, because it missed too much.
    pub(super) fn poll_lost(&mut self) -> Option<PeerId> {
        self.lost.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::text::Step;

    fn text(length: usize) -> Text {
        "x".repeat(length).into()
    }

    const SOON: Instant = Instant::ZERO;

    #[test]
    fn who_is_away_gets_later_what_it_missed_and_who_never_was_there_gets_nothing() {
        let mut mail = Mailboxes::default();
        let (anna, berta) = (PeerId(1), PeerId(2));
        assert_eq!(mail.attach(anna, SessionId(5)), (None, vec![]));
        assert_eq!(mail.socket_or_keep(anna, &text(1), None), Some(SessionId(5)));
        assert_eq!(mail.socket_or_keep(berta, &text(1), None), None);
        assert_eq!((mail.detach(SessionId(5), SOON), mail.detach(SessionId(5), SOON)), (Some(anna), None));
        assert_eq!((mail.overdue(SOON), mail.peer_of(SessionId(5))), (Some(anna), None));
        let about = Some(About { thing: 9, step: Step::Changes });
        for (length, about) in [(2, None), (3, about), (4, None), (5, about)] {
            assert_eq!(mail.socket_or_keep(anna, &text(length), about), None);
        }
        let (replaced, missed) = mail.attach(anna, SessionId(6));
        let lengths: Vec<_> = missed.iter().map(|(text, _)| text.len()).collect();
        assert_eq!((replaced, lengths, mail.kept, mail.deadline()), (None, vec![2, 4, 5], 0, None));
        assert_eq!(mail.attach(anna, SessionId(7)).0, Some(SessionId(6)), "taken up while the old socket is open");
        assert_eq!((mail.peer_of(SessionId(6)), mail.peer_of(SessionId(7))), (None, Some(anna)));
        assert_eq!((mail.forget(anna), mail.sessions.len(), mail.boxes.len()), (Some(SessionId(7)), 0, 0));
    }

    #[test]
    fn what_is_kept_is_bounded_for_each_and_for_all() {
        let mut mail = Mailboxes::default();
        let away = |mail: &mut Mailboxes, peer, text: &Text| {
            mail.attach(PeerId(peer), SessionId(peer));
            mail.detach(SessionId(peer), SOON);
            mail.socket_or_keep(PeerId(peer), text, None);
        };
        away(&mut mail, 1, &text(AWAY_BYTES_MAX));
        assert_eq!((mail.poll_lost(), mail.kept, mail.boxes.len(), mail.due.len()), (Some(PeerId(1)), 0, 0, 0));

        let many = 2 + (AWAY_PEERS_BYTES_MAX / AWAY_BYTES_MAX) as u64;
        let long = text(AWAY_BYTES_MAX - 2 * TEXT_OVERHEAD);
        (1..=many).for_each(|peer| away(&mut mail, peer, &long));
        let lost: Vec<_> = std::iter::from_fn(|| mail.poll_lost()).collect();
        assert!(!lost.is_empty() && mail.kept <= AWAY_PEERS_BYTES_MAX, "{lost:?}");
        assert_eq!(lost.len() + mail.boxes.len(), many as usize);
    }
}
