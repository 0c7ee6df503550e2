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
        let mut attached = Attached { replaced: None, missed: Vec::new(), was_told: false };
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
                attached.was_told = away.told;
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
        let away = Away { until, next, told: false, texts: Backlog::default(), bytes: 0 };
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
mod tests {
    use super::*;
    use crate::signal::text::Step;

    const ANNA: PeerId = PeerId(1);
    const STAYS: Duration = Duration::from_secs(15);
    const SOON: Instant = Instant::ZERO;

    fn text(length: usize) -> Text {
        "x".repeat(length).into()
    }

    fn lengths(attached: &Attached) -> Vec<usize> {
        attached.missed.iter().map(|(text, _)| text.len()).collect()
    }

    fn at(seconds: u64) -> Instant {
        SOON + Duration::from_secs(seconds)
    }

    #[test]
    fn who_is_away_gets_later_what_it_missed_and_who_never_was_there_gets_nothing() {
        let mut mail = Mailboxes::default();
        let berta = PeerId(2);
        let nothing = Attached { replaced: None, missed: vec![], was_told: false };
        assert_eq!(mail.attach(ANNA, SessionId(5)), nothing);
        let about = Some(About { thing: 9, step: Step::Changes });
        assert_eq!(mail.socket_or_keep(ANNA, &text(1), about), Some((SessionId(5), about)));
        assert_eq!(mail.socket_or_keep(berta, &text(1), None), None);
        let detached = [(); 2].map(|()| mail.detach(SOON, SessionId(5), STAYS));
        assert_eq!((detached, mail.peer_of(SessionId(5)), mail.away()), ([Some(ANNA), None], None, 1));
        for (length, about) in [(2, None), (3, about), (4, None), (5, about)] {
            assert_eq!(mail.socket_or_keep(ANNA, &text(length), about), None);
        }
        let attached = mail.attach(ANNA, SessionId(6));
        assert_eq!((attached.replaced, lengths(&attached), mail.kept, mail.deadline()), (None, vec![2, 4, 5], 0, None));
        let replaced = mail.attach(ANNA, SessionId(7)).replaced;
        assert_eq!(replaced, Some(SessionId(6)), "taken up while the old socket is open");
        assert_eq!((mail.peer_of(SessionId(6)), mail.peer_of(SessionId(7))), (None, Some(ANNA)));
        assert_eq!((mail.forget(ANNA), mail.sessions.len(), mail.boxes.len()), (Some(SessionId(7)), 0, 0));
    }

    #[test]
    fn others_are_told_after_two_seconds_and_it_is_gone_after_its_time() {
        let mut mail = Mailboxes::default();
        mail.attach(ANNA, SessionId(5));
        mail.detach(SOON, SessionId(5), STAYS);
        assert_eq!((mail.deadline(), mail.overdue(at(1))), (Some(at(2)), None));
        assert_eq!((mail.overdue(at(2)), mail.overdue(at(2))), (Some(Overdue::Away(ANNA)), None));
        assert!(mail.attach(ANNA, SessionId(6)).was_told);
        mail.detach(at(2), SessionId(6), Duration::from_secs(1));
        assert_eq!(mail.overdue(at(3)), Some(Overdue::Gone(ANNA)), "too short to be told");
        mail.forget(ANNA);
        assert_eq!((mail.overdue(at(99)), mail.away()), (None, 0));
    }

    #[test]
    fn who_is_back_is_told_after_two_seconds_unless_it_breaks_again() {
        let mut mail = Mailboxes::default();
        mail.tell_late(SOON, ANNA);
        mail.attach(ANNA, SessionId(5));
        mail.tell_late(SOON, ANNA);
        mail.tell_late(at(1), ANNA);
        assert_eq!((mail.deadline(), mail.overdue(at(2))), (Some(at(3)), None));
        assert_eq!(
            (mail.overdue(at(3)), mail.overdue(at(3)), mail.deadline()),
            (Some(Overdue::Late(ANNA)), None, None)
        );
        for ends in [
            |mail: &mut Mailboxes| _ = mail.detach(at(3), SessionId(5), Duration::from_secs(60)),
            |mail: &mut Mailboxes| _ = mail.attach(ANNA, SessionId(6)),
            |mail: &mut Mailboxes| _ = mail.forget(ANNA),
        ] {
            mail.tell_late(at(3), ANNA);
            ends(&mut mail);
            assert!(mail.late.is_empty());
        }
    }

    #[test]
    fn whose_time_is_over_has_nothing_kept_and_is_taken_up_no_more() {
        let mut mail = Mailboxes::default();
        for peer in [1, 2, 3] {
            mail.attach(PeerId(peer), SessionId(peer));
            mail.next_token(PeerId(peer));
            mail.detach(at(peer / 3), SessionId(peer), STAYS);
        }
        (0..4).for_each(|_| _ = mail.overdue(at(15)));
        assert_eq!((mail.overdue(at(15)), mail.is_over(PeerId(2))), (Some(Overdue::Gone(ANNA)), true));
        (1..=3).for_each(|peer| _ = mail.socket_or_keep(PeerId(peer), &text(100), None));
        assert_eq!((mail.kept, mail.is_over(PeerId(3))), (100 + TEXT_OVERHEAD, false));
        let used = [2, 3].map(|peer| mail.use_token(PeerId(peer), 1, None));
        assert_eq!(used, [Err(ResumeFault::Gone), Ok(())]);
    }

    #[test]
    fn who_counts_gets_what_its_connection_lost_and_what_it_missed() {
        let mut mail = Mailboxes::default();
        assert_eq!(mail.next_token(ANNA), None);
        mail.attach(ANNA, SessionId(5));
        let first = mail.next_token(ANNA).unwrap();
        let about = Some(About { thing: 9, step: Step::Changes });
        for length in [1, 2, 3] {
            assert_eq!(mail.socket_or_keep(ANNA, &text(length), about), Some((SessionId(5), None)), "none is left out");
        }
        mail.pinged(SOON, ANNA, Some(1)).unwrap();
        mail.detach(SOON, SessionId(5), STAYS);
        for length in [4, 5] {
            mail.socket_or_keep(ANNA, &text(length), about);
        }
        let count = |fault| Err(ResumeFault::Count(fault));
        assert_eq!(mail.use_token(ANNA, first, Some(0)), count(CountFault::NotKept));
        assert_eq!(mail.use_token(ANNA, first, Some(4)), count(CountFault::TooHigh));
        assert_eq!(mail.use_token(ANNA, first + 1, Some(2)), Err(ResumeFault::Used));
        assert_eq!(mail.use_token(ANNA, first, Some(2)), Ok(()));
        assert_eq!(lengths(&mail.attach(ANNA, SessionId(6))), [3, 5]);
        // Nothing of it arrived, the next token included.
        mail.detach(SOON, SessionId(6), STAYS);
        assert_eq!(mail.use_token(ANNA, first, Some(2)), Ok(()));
        assert_eq!(lengths(&mail.attach(ANNA, SessionId(7))), [3, 5]);
        mail.took(ANNA);
        assert_eq!(mail.use_token(ANNA, first, Some(4)), Err(ResumeFault::Used), "it had the next token");
        assert_eq!(mail.use_token(ANNA, first + 1, None), Ok(()));
        assert_eq!((mail.attach(ANNA, SessionId(8)).missed, mail.kept, mail.taken(ANNA)), (vec![], 0, 1));
    }

    #[test]
    fn what_is_kept_is_bounded_for_each_and_for_all() {
        let mut mail = Mailboxes::default();
        let away = |mail: &mut Mailboxes, peer, text: &Text| {
            mail.attach(PeerId(peer), SessionId(peer));
            mail.detach(SOON, SessionId(peer), STAYS);
            mail.socket_or_keep(PeerId(peer), text, None);
        };
        away(&mut mail, 1, &text(AWAY_BYTES_MAX));
        assert_eq!((mail.poll_lost(), mail.kept, mail.boxes.len(), mail.due.len()), (Some(ANNA), 0, 0, 0));

        let many = 2 + (AWAY_PEERS_BYTES_MAX / AWAY_BYTES_MAX) as u64;
        let long = text(AWAY_BYTES_MAX - 2 * TEXT_OVERHEAD);
        (1..=many).for_each(|peer| away(&mut mail, peer, &long));
        let lost: Vec<_> = std::iter::from_fn(|| mail.poll_lost()).collect();
        assert!(!lost.is_empty() && mail.kept <= AWAY_PEERS_BYTES_MAX, "{lost:?}");
        assert_eq!(lost.len() + mail.boxes.len(), many as usize);
    }

    #[test]
    fn who_is_away_stays_while_those_with_sockets_have_as_much_that_they_do_not_acknowledge() {
        let mut mail = Mailboxes::default();
        let long = text(AWAY_BYTES_MAX / 2 + 9);
        mail.attach(ANNA, SessionId(1));
        mail.detach(SOON, SessionId(1), STAYS);
        mail.socket_or_keep(ANNA, &long, None);
        for peer in 2..3 * (AWAY_PEERS_BYTES_MAX / AWAY_BYTES_MAX) as u64 {
            mail.attach(PeerId(peer), SessionId(peer));
            mail.next_token(PeerId(peer));
            mail.socket_or_keep(PeerId(peer), &long, None);
            assert!(mail.kept <= AWAY_PEERS_BYTES_MAX);
        }
        assert_eq!((mail.poll_lost(), lengths(&mail.attach(ANNA, SessionId(1)))), (None, vec![long.len()]));
    }

    #[test]
    fn who_acknowledges_nothing_loses_its_past_and_costs_nobody_else_anything() {
        let mut mail = Mailboxes::default();
        let long = text(AWAY_BYTES_MAX / 2);
        mail.attach(ANNA, SessionId(1));
        mail.detach(SOON, SessionId(1), STAYS);
        mail.socket_or_keep(ANNA, &text(9), None);
        for peer in 2..2 * (AWAY_PEERS_BYTES_MAX / AWAY_BYTES_MAX) as u64 {
            mail.attach(PeerId(peer), SessionId(peer));
            mail.next_token(PeerId(peer));
            for _ in 0..5 {
                assert!(mail.socket_or_keep(PeerId(peer), &long, None).is_some());
            }
            assert!(mail.kept <= AWAY_PEERS_BYTES_MAX);
        }
        assert_eq!((mail.poll_lost(), lengths(&mail.attach(ANNA, SessionId(1)))), (None, vec![9]));
    }
}
