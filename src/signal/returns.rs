//! Coming back on another socket: the operator's settings, the tokens, and what became of each try. `hub` gives the peer
//! its new socket; [`super::mailbox`] knows what it missed.

use serde_json::{Value, json};

use crate::base::id::PeerId;
use crate::base::time::{Duration, Instant};
use crate::signal::auth::OpenError;
use crate::signal::channel::Channel;
use crate::signal::desk::Desk;
use crate::signal::ids::ExternalId;
use crate::signal::kept::CountFault;
use crate::signal::mailbox::ResumeFault;
use crate::signal::members::Members;
use crate::signal::meter::{Cost, RateDecision};
use crate::signal::peer::Peer;
use crate::signal::resume_token::ResumeTicket;
use crate::signal::return_settings::{ResumeOutcome, SameUser};

/// Why a token takes no peer up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResumeError {
    /// It was never given out here, or it was used.
    Unauthorized,
    /// Its peer is gone.
    Gone,
    /// What the client misses is kept no more: its peer ends.
    NotKept,
    /// The client says that it received more than it was sent: its peer ends.
    WrongCount,
    /// The address or the peer caused too much lately; it may try again after this time.
    RateLimited(Duration),
}

impl ResumeError {
    /// Why the peer of the token ends with it.
    pub(super) const fn ends_peer(&self) -> Option<&'static str> {
        match self {
            ResumeError::NotKept => Some("missed too much while it was away"),
            ResumeError::WrongCount => Some("counts more than it was sent"),
            ResumeError::Unauthorized | ResumeError::Gone | ResumeError::RateLimited(_) => None,
        }
    }

    pub(super) const fn outcome(&self) -> ResumeOutcome {
        match self {
            ResumeError::Unauthorized => ResumeOutcome::Unauthorized,
            ResumeError::Gone => ResumeOutcome::Gone,
            ResumeError::NotKept => ResumeOutcome::NotKept,
            ResumeError::WrongCount => ResumeOutcome::WrongCount,
            ResumeError::RateLimited(_) => ResumeOutcome::RateLimited,
        }
    }
}

impl From<ResumeError> for OpenError {
    fn from(error: ResumeError) -> OpenError {
        match error {
            ResumeError::Unauthorized => {
                OpenError::Unauthorized("this token was used already, or is none of this server")
            }
            ResumeError::WrongCount => OpenError::Unauthorized("data.received is more than was sent"),
            ResumeError::Gone => OpenError::NotResumed("the peer of this token is gone: join anew"),
            ResumeError::NotKept => OpenError::NotResumed("what was missed is kept no more: join anew"),
            ResumeError::RateLimited(wait) => OpenError::RateLimited(wait),
        }
    }
}

/// The peer that ends because its user joins the channel anew.
pub(super) fn replaced(same_user: SameUser, channel: Option<&Channel>, user: &str) -> Option<PeerId> {
    channel.filter(|_| same_user == SameUser::Replace)?.latest.get(user).copied()
}

/// The same of one that waits to be let in.
pub(super) fn waiting(same_user: SameUser, channel: Option<&Channel>, user: &str) -> Option<PeerId> {
    let mut comers = channel.filter(|_| same_user == SameUser::Replace)?.lobby.comers();
    comers.find(|(_, peer)| *peer.user == *user).map(|(id, _)| id)
}

/// The id under which the others know a peer. None: it is hidden.
pub(super) fn seen_as(peer: &Peer) -> Option<ExternalId> {
    Some(peer.external).filter(|_| !peer.grants.hidden)
}

/// The peer's next token, as it is told its client; null where peers live as long as their sockets.
pub(super) fn token(desk: &mut Desk, peer: PeerId) -> Value {
    if desk.settings.returns.grace.is_zero() {
        return Value::Null;
    }
    let Some(number) = desk.post.mailboxes.next_token(peer) else { return Value::Null };
    let nonce = desk.ids.nonce();
    json!(desk.sealer.seal(nonce, ResumeTicket { peer, number }))
}

/// The peer that the token takes up; or why there is none, and the peer that ends by that.
pub(super) fn admit(
    desk: &mut Desk,
    members: &mut Members,
    now: Instant,
    token: &str,
    received: Option<u64>,
) -> Result<PeerId, (ResumeError, Option<PeerId>)> {
    let ticket = desk.sealer.open(token).ok_or((ResumeError::Unauthorized, None))?;
    let peer = ticket.peer;
    if members.get(peer).is_some() && !desk.post.mailboxes.takes(peer, ticket.number) {
        // Whoever has it may have found it in a log: the peer pays nothing for it.
        return Err((ResumeError::Unauthorized, None));
    }
    match members.admit(now, &mut desk.accounts, peer, Cost::message(token.len())) {
        None => return Err((ResumeError::Gone, None)),
        Some(RateDecision::Refuse(wait)) => return Err((ResumeError::RateLimited(wait), None)),
        // Its client comes back again and again instead of waiting.
        Some(RateDecision::Disconnect) => return Err((ResumeError::NotKept, Some(peer))),
        Some(RateDecision::Pass) => {}
    }
    let used = desk.post.mailboxes.use_token(peer, ticket.number, received);
    used.map(|()| peer).map_err(|fault| match fault {
        ResumeFault::Used => (ResumeError::Unauthorized, None),
        ResumeFault::Gone => (ResumeError::Gone, None),
        ResumeFault::Count(CountFault::NotKept) => (ResumeError::NotKept, Some(peer)),
        ResumeFault::Count(CountFault::TooHigh) => (ResumeError::WrongCount, Some(peer)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::MESSAGES_BURST;
    use crate::base::slab::Slab;
    use crate::signal::channel::Channel;
    use crate::signal::fixture::settings;
    use crate::signal::quota::Holder;
    use crate::signal::return_settings::ReturnSettings;
    use crate::signal::session::SessionId;

    const PEER: PeerId = PeerId(7);

    fn desk() -> (Desk, Members) {
        let returns = ReturnSettings { grace: Duration::from_secs(15), ..ReturnSettings::default() };
        let mut desk = Desk::new(crate::signal::desk::HubSettings { returns, ..settings() });
        let mut members = Members::default();
        let channel = Slab::default().insert(Channel::new("room".into()));
        members.insert(Instant::ZERO, PEER, channel, Holder::new([192, 0, 2, 1].into(), "anna"));
        desk.post.mailboxes.attach(PEER, SessionId(1));
        (desk, members)
    }

    #[test]
    fn each_fault_has_its_answer_and_only_a_broken_count_ends_the_peer() {
        let (mut desk, mut members) = desk();
        let good = token(&mut desk, PEER).as_str().unwrap().to_owned();
        let mut tried = |token: &str, received| admit(&mut desk, &mut members, Instant::ZERO, token, received);
        assert_eq!(tried("x", None), Err((ResumeError::Unauthorized, None)));
        assert_eq!(tried(&good, Some(5)), Err((ResumeError::WrongCount, Some(PEER))));
        assert_eq!(tried(&good, None), Ok(PEER));
        desk.post.mailboxes.took(PEER);
        let mut tried = |token: &str| admit(&mut desk, &mut members, Instant::ZERO, token, None);
        assert_eq!(tried(&good), Err((ResumeError::Unauthorized, None)), "used");
        members.remove(PEER);
        let next = token(&mut desk, PEER).as_str().unwrap().to_owned();
        let tried = admit(&mut desk, &mut members, Instant::ZERO, &next, None);
        assert_eq!(tried, Err((ResumeError::Gone, None)));
    }

    #[test]
    fn a_peer_that_comes_back_in_a_loop_is_stopped() {
        let (mut desk, mut members) = desk();
        let good = token(&mut desk, PEER).as_str().unwrap().to_owned();
        let mut back = 0;
        let mut last = Ok(PEER);
        while !matches!(last, Err((_, Some(PEER)))) {
            last = admit(&mut desk, &mut members, Instant::ZERO, &good, None);
            back += usize::from(last.is_ok());
        }
        assert_eq!(back, MESSAGES_BURST as usize);
    }

    #[test]
    fn where_nobody_may_come_back_there_is_no_token() {
        let (mut desk, _) = desk();
        desk.settings.returns.grace = Duration::ZERO;
        assert_eq!(token(&mut desk, PEER), Value::Null);
        assert!(!desk.post.mailboxes.may_return(PEER));
    }
}
