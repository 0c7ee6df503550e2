//! The mailboxes: where each peer's texts go. To its socket, into a backlog until another socket takes the peer up, or
//! nowhere. [`super::post`] sends by it; `hub` says who comes and goes, tells who is away, and ends a peer that stayed
//! away or missed too much. A peer that may come back on another socket has beside it what its connection may have
//! lost.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use crate::base::id::PeerId;
use crate::base::limits::{AWAY_BYTES_MAX, AWAY_PEERS_BYTES_MAX, AWAY_TOLD_AFTER};
use crate::base::time::{Duration, Instant};
use crate::signal::backlog::{Backlog, Growth};
use crate::signal::heaviest::{Heaviest, Weight};
use crate::signal::kept::{CountFault, Kept};
use crate::signal::pinging::Pinging;
use crate::signal::resume_token::GoodTokens;
use crate::signal::said::{Audience, Said};
use crate::signal::session::SessionId;
use crate::signal::text::{About, TEXT_OVERHEAD, Text};

/// A text that a peer missed.
pub(super) type MissedText = (Text, Option<About>);

struct Mailbox {
    way: Way,
    /// None: it has no token.
    returning: Option<Box<Returning>>,
    /// When it is told what it was not told while it was away.
    late: Option<Instant>,
}

/// The way of texts to one peer.
enum Way {
    Socket(SessionId),
    /// The socket is gone, and what the peer misses is kept.
    Away(Box<Away>),
}

struct Away {
    until: Instant,
    /// The next of: to tell that it is away, to let it go.
    next: Instant,
    told: bool,
    texts: Backlog<Text>,
    bytes: usize,
    said: Said,
}

/// What there is of a peer that may come back by a token.
#[derive(Default)]
struct Returning {
    tokens: GoodTokens,
    kept: Kept,
    pinging: Pinging,
}

impl Mailbox {
    fn weight(&self) -> Weight {
        let (missed, away) = if let Way::Away(away) = &self.way { (away.bytes, true) } else { (0, false) };
        Weight { bytes: missed + self.returning.as_ref().map_or(0, |returning| returning.kept.bytes()), away }
    }
}

/// The mailboxes by peer. The keys are our own numbers. A peer that never had a socket has none, because nobody reads its
/// texts.
#[derive(Default)]
pub(super) struct Mailboxes {
    boxes: FxHashMap<PeerId, Mailbox>,
    sessions: FxHashMap<SessionId, PeerId>,
    /// The next deadline of each peer that is away.
    due: BTreeSet<(Instant, PeerId)>,
    /// The same of those that are back.
    late: BTreeSet<(Instant, PeerId)>,
    /// Whose time ended by then is to be let go.
    over: Option<Instant>,
    /// Bytes kept for all peers together.
    kept: usize,
    heaviest: Heaviest,
    /// Peers that missed more than is kept.
    lost: Vec<PeerId>,
}

/// A peer whose time has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Overdue {
    /// The others are to be told that it is away.
    Away(PeerId),
    /// It stayed away for too long.
    Gone(PeerId),
    /// It is back for long enough to be told who is away.
    Late(PeerId),
}

/// What the next socket of a peer finds.
#[derive(PartialEq, Debug)]
pub(super) struct Attached {
    pub(super) replaced: Option<SessionId>,
    pub(super) missed: Vec<MissedText>,
    /// The others were told that it is away.
    pub(super) was_told: bool,
    /// Messages of others that were not kept for it.
    pub(super) left_out: u64,
}

/// Why a token does not take its peer up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ResumeFault {
    /// It was used, or there was none.
    Used,
    /// Its time is over.
    Gone,
    Count(CountFault),
}

impl Mailboxes {
    /// The socket for a text to this peer, and the rule that makes it old on its way. Without a socket the text is kept,
    /// or given up.
    pub(super) fn socket_or_keep(
        &mut self,
        peer: PeerId,
        text: &Text,
        about: Option<About>,
    ) -> Option<(SessionId, Option<About>)> {
        let mailbox = self.boxes.get_mut(&peer)?;
        let before = mailbox.weight();
        let (mut route, mut too_much) = (None, false);
        match (&mut mailbox.way, &mut mailbox.returning) {
            (Way::Socket(session), None) => return Some((*session, about)),
            (Way::Socket(session), Some(returning)) => {
                returning.kept.send(text.clone());
                // Its client counts what comes: nothing may be left out.
                route = Some((*session, None));
            }
            // It is about to be let go, and reads nothing any more.
            (Way::Away(away), _) if self.over.is_some_and(|over| away.until <= over) => return None,
            (Way::Away(away), _) => {
                let Growth { grown, given_up } = away.texts.push(text.clone(), text.len() + TEXT_OVERHEAD, about);
                away.bytes = away.bytes + grown - given_up;
                too_much = away.bytes > AWAY_BYTES_MAX;
            }
        }
        let now = mailbox.weight();
        self.account(peer, before, now);
        if too_much {
            self.let_go(peer);
        }
        self.keep_within();
        route
    }

    /// Whether a message of another is for this peer. One that is away is kept some of them.
    pub(super) fn takes_message(&mut self, peer: PeerId, bytes: usize, audience: Audience) -> bool {
        match self.boxes.get_mut(&peer).map(|mailbox| &mut mailbox.way) {
            Some(Way::Away(away)) => away.said.takes(bytes + TEXT_OVERHEAD, audience, self.kept),
            _ => true,
        }
    }

    /// It is away, and has missed half of what is kept for it.
    pub(super) fn has_missed_much(&self, peer: PeerId) -> bool {
        let way = self.boxes.get(&peer).map(|mailbox| &mailbox.way);
        matches!(way, Some(Way::Away(away)) if away.bytes > AWAY_BYTES_MAX / 2)
    }

    fn account(&mut self, peer: PeerId, before: Weight, now: Weight) {
        self.kept = self.kept + now.bytes - before.bytes;
        self.heaviest.changed(peer, before, now);
    }

    /// Who has most gives up: one with a socket what is kept of the past, one without is let go.
    fn keep_within(&mut self) {
        while self.kept > AWAY_PEERS_BYTES_MAX {
            let Some(peer) = self.heaviest.one() else { break };
            match self.boxes.get_mut(&peer) {
                Some(Mailbox { way: Way::Socket(_), returning: Some(returning), .. }) => {
                    let before = Weight { bytes: returning.kept.bytes(), away: false };
                    returning.kept.give_up();
                    self.account(peer, before, Weight::NONE);
                }
                _ => self.let_go(peer),
            }
        }
    }

    fn let_go(&mut self, peer: PeerId) {
        self.forget(peer);
        self.lost.push(peer);
    }

    /// Forgets the peer. Returns the socket that it had.
    pub(super) fn forget(&mut self, peer: PeerId) -> Option<SessionId> {
        let mailbox = self.boxes.remove(&peer)?;
        self.account(peer, mailbox.weight(), Weight::NONE);
        if let Some(at) = mailbox.late {
            self.late.remove(&(at, peer));
        }
        match mailbox.way {
            Way::Socket(session) => {
                self.sessions.remove(&session);
                Some(session)
            }
            Way::Away(away) => {
                self.due.remove(&(away.next, peer));
                None
            }
        }
    }

    /// Makes this socket the peer's, and gives it what the last one was given and was not acknowledged, and what the peer
    /// missed since.
    pub(super) fn attach(&mut self, peer: PeerId, session: SessionId) -> Attached {
        let mut attached = Attached { replaced: None, missed: Vec::new(), was_told: false, left_out: 0 };
        let old = self.boxes.remove(&peer);
        let before = old.as_ref().map_or(Weight::NONE, Mailbox::weight);
        if let Some(at) = old.as_ref().and_then(|old| old.late) {
            self.late.remove(&(at, peer));
        }
        let (way, mut returning) = old.map_or((None, None), |old| (Some(old.way), old.returning));
        if let Some(returning) = &mut returning {
            returning.pinging = Pinging::default();
            attached.missed.extend(returning.kept.again().map(|text| (text.clone(), None)));
        }
        match way {
            None => {}
            Some(Way::Socket(old)) => {
                self.sessions.remove(&old);
                attached.replaced = Some(old);
            }
            Some(Way::Away(mut away)) => {
                self.due.remove(&(away.next, peer));
                (attached.was_told, attached.left_out) = (away.told, away.said.left_out());
                while let Some((text, about)) = away.texts.pop() {
                    let counted = returning.as_mut().map(|returning| returning.kept.send(text.clone()));
                    attached.missed.push((text, about.filter(|_| counted.is_none())));
                }
            }
        }
        let mailbox = Mailbox { way: Way::Socket(session), returning, late: None };
        self.account(peer, before, mailbox.weight());
        self.boxes.insert(peer, mailbox);
        self.sessions.insert(session, peer);
        self.keep_within();
        attached
    }

    /// Parts the peer from its socket; what it misses is kept for this time.
    pub(super) fn detach(&mut self, now: Instant, session: SessionId, stays: Duration) -> Option<PeerId> {
        let peer = self.sessions.remove(&session)?;
        let mailbox = self.boxes.get_mut(&peer)?;
        let before = mailbox.weight();
        let until = now + stays;
        let next = until.min(now + AWAY_TOLD_AFTER);
        let away = Away { until, next, told: false, texts: Backlog::default(), bytes: 0, said: Said::default() };
        mailbox.way = Way::Away(Box::new(away));
        if let Some(at) = mailbox.late.take() {
            self.late.remove(&(at, peer));
        }
        let parted = mailbox.weight();
        self.account(peer, before, parted);
        self.due.insert((next, peer));
        Some(peer)
    }

    /// The peer is back, and in a while [`Overdue::Late`]: a break that is shorter is told to nobody.
    pub(super) fn tell_late(&mut self, now: Instant, peer: PeerId) {
        let Some(mailbox) = self.boxes.get_mut(&peer) else { return };
        let at = now + AWAY_TOLD_AFTER;
        if let Some(before) = mailbox.late.replace(at) {
            self.late.remove(&(before, peer));
        }
        self.late.insert((at, peer));
    }

    /// It is away, and its time is over: it is about to be let go.
    pub(super) fn is_over(&self, peer: PeerId) -> bool {
        let way = self.boxes.get(&peer).map(|mailbox| &mailbox.way);
        matches!(way, Some(Way::Away(away)) if self.over.is_some_and(|over| away.until <= over))
    }

    pub(super) fn peer_of(&self, session: SessionId) -> Option<PeerId> {
        self.sessions.get(&session).copied()
    }

    /// The peers that have no socket now, and had one.
    pub(super) fn away(&self) -> usize {
        self.due.len()
    }

    /// One that is away, to be let go before its time.
    pub(super) fn one_away(&self) -> Option<PeerId> {
        self.due.first().map(|(_, peer)| *peer)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.next_due().map(|(at, _)| at)
    }

    fn next_due(&self) -> Option<(Instant, PeerId)> {
        self.due.first().into_iter().chain(self.late.first()).min().copied()
    }

    /// A peer whose time has come; who is gone is asked for until it is forgotten.
    pub(super) fn overdue(&mut self, now: Instant) -> Option<Overdue> {
        let (at, peer) = self.next_due().filter(|(at, _)| *at <= now)?;
        if self.late.remove(&(at, peer)) {
            if let Some(mailbox) = self.boxes.get_mut(&peer) {
                mailbox.late = None;
            }
            return Some(Overdue::Late(peer));
        }
        match self.boxes.get_mut(&peer).map(|mailbox| &mut mailbox.way) {
            Some(Way::Away(away)) if !away.told && away.next < away.until => {
                (away.told, away.next) = (true, away.until);
                let next = away.next;
                self.due.remove(&(at, peer));
                self.due.insert((next, peer));
                Some(Overdue::Away(peer))
            }
            _ => {
                self.over = self.over.max(Some(now));
                Some(Overdue::Gone(peer))
            }
        }
    }

    /// A peer that cannot be taken up any more, because it missed too much.
    pub(super) fn poll_lost(&mut self) -> Option<PeerId> {
        self.lost.pop()
    }
}

/// Coming back by a token.
impl Mailboxes {
    fn returning(&mut self, peer: PeerId) -> Option<&mut Returning> {
        self.boxes.get_mut(&peer)?.returning.as_deref_mut()
    }

    /// From now on the peer may come back. Returns the number of its next token; None: it has no socket to lose.
    pub(super) fn next_token(&mut self, peer: PeerId) -> Option<u64> {
        let mailbox = self.boxes.get_mut(&peer)?;
        Some(mailbox.returning.get_or_insert_default().tokens.next())
    }

    pub(super) fn may_return(&self, peer: PeerId) -> bool {
        self.boxes.get(&peer).is_some_and(|mailbox| mailbox.returning.is_some())
    }

    /// A text of the client was taken.
    pub(super) fn took(&mut self, peer: PeerId) {
        if let Some(returning) = self.returning(peer) {
            returning.kept.took();
            returning.tokens.confirmed();
        }
    }

    /// The number of the client's texts that were taken.
    pub(super) fn taken(&mut self, peer: PeerId) -> u64 {
        self.returning(peer).map_or(0, |returning| returning.kept.taken())
    }

    /// Its client pinged, and maybe says how many texts it has received.
    pub(super) fn pinged(&mut self, now: Instant, peer: PeerId, received: Option<u64>) -> Result<(), CountFault> {
        let Some(returning) = self.returning(peer) else { return Ok(()) };
        returning.pinging.came(now);
        received.map_or(Ok(()), |received| self.acknowledged(peer, received))
    }

    pub(super) fn pings_regularly(&self, peer: PeerId) -> bool {
        let returning = self.boxes.get(&peer).and_then(|mailbox| mailbox.returning.as_ref());
        returning.is_some_and(|returning| returning.pinging.is_regular())
    }

    /// Whether the peer's token with this number is good.
    pub(super) fn takes(&self, peer: PeerId, number: u64) -> bool {
        let returning = self.boxes.get(&peer).and_then(|mailbox| mailbox.returning.as_ref());
        returning.is_some_and(|returning| returning.tokens.admits(number))
    }

    /// The peer's token with this number is used, by a client that has received so many texts. None: it does not count.
    pub(super) fn use_token(&mut self, peer: PeerId, number: u64, received: Option<u64>) -> Result<(), ResumeFault> {
        if self.is_over(peer) {
            return Err(ResumeFault::Gone);
        }
        let returning = self.returning(peer).ok_or(ResumeFault::Used)?;
        if !returning.tokens.admits(number) {
            return Err(ResumeFault::Used);
        }
        if let Some(received) = received {
            returning.kept.reaches(received).map_err(ResumeFault::Count)?;
        }
        returning.tokens.used(number);
        match received {
            Some(received) => self.acknowledged(peer, received).map_err(ResumeFault::Count),
            None => {
                self.forget_sent(peer);
                Ok(())
            }
        }
    }

    fn acknowledged(&mut self, peer: PeerId, received: u64) -> Result<(), CountFault> {
        let Some(mailbox) = self.boxes.get_mut(&peer) else { return Ok(()) };
        let before = mailbox.weight();
        let result = mailbox.returning.as_deref_mut().map_or(Ok(()), |returning| returning.kept.acknowledge(received));
        let now = mailbox.weight();
        self.account(peer, before, now);
        result
    }

    /// Its client does not count: what its last socket may have lost is lost.
    pub(super) fn forget_sent(&mut self, peer: PeerId) {
        let Some(mailbox) = self.boxes.get_mut(&peer) else { return };
        let before = mailbox.weight();
        if let Some(returning) = mailbox.returning.as_deref_mut() {
            returning.kept.give_up();
        }
        let now = mailbox.weight();
        self.account(peer, before, now);
    }
}

#[cfg(test)]
#[path = "mailbox_tests.rs"]
mod tests;
