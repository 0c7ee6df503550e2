//! Tokens and users that are let in no more, each until a time at which its tokens have expired anyway; and the tokens
//! for one entrance that were used.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::base::limits::{REVOKED_MAX, TOKENS_ONCE_MAX};
use crate::base::time::Instant;
use crate::signal::auth::OpenError;
use crate::signal::entrance::Entrance;

/// What is revoked.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Revocation {
    /// The token with this `jti`.
    Token(Arc<str>),
    /// Every token of this user (`sub`).
    User(Arc<str>),
}

/// There are as many already as are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooManyRevoked;

/// Names, each forgotten at its time.
struct Timed<T> {
    until: BTreeMap<T, Instant>,
    due: BTreeSet<(Instant, T)>,
    max: usize,
}

impl<T: Ord + Clone> Timed<T> {
    fn new(max: usize) -> Timed<T> {
        Timed { until: BTreeMap::new(), due: BTreeSet::new(), max }
    }

    fn forget(&mut self, now: Instant) {
        while self.due.first().is_some_and(|(until, _)| *until <= now) {
            if let Some((_, name)) = self.due.pop_first() {
                self.until.remove(&name);
            }
        }
    }

    /// False: there is no room.
    fn insert(&mut self, now: Instant, name: T, until: Instant) -> bool {
        self.forget(now);
        let before = self.until.get(&name).copied();
        if before.is_none() && self.until.len() >= self.max {
            return false;
        }
        if before.is_some_and(|before| before >= until) || until <= now {
            return true;
        }
        if let Some(before) = before {
            self.due.remove(&(before, name.clone()));
        }
        self.due.insert((until, name.clone()));
        self.until.insert(name, until);
        true
    }

    fn holds(&self, now: Instant, name: &T) -> bool {
        self.until.get(name).is_some_and(|until| *until > now)
    }
}

pub(super) struct Revoked {
    named: Timed<Revocation>,
    used: Timed<Arc<str>>,
}

impl Default for Revoked {
    fn default() -> Revoked {
        Revoked { named: Timed::new(REVOKED_MAX), used: Timed::new(TOKENS_ONCE_MAX) }
    }
}

impl Revoked {
    pub(super) fn revoke(&mut self, now: Instant, what: Revocation, until: Instant) -> Result<(), TooManyRevoked> {
        if self.named.insert(now, what, until) { Ok(()) } else { Err(TooManyRevoked) }
    }

    /// Whether this way in is still open.
    pub(super) fn check(&self, now: Instant, entrance: &Entrance) -> Result<(), OpenError> {
        let revoked = |what: &Revocation| self.named.holds(now, what);
        let token = entrance.token.as_ref();
        if revoked(&Revocation::User(entrance.user.clone()))
            || token.is_some_and(|token| revoked(&Revocation::Token(token.jti.clone())))
        {
            return Err(OpenError::Unauthorized("this token was revoked"));
        }
        match token.filter(|token| token.once) {
            Some(token) if self.used.holds(now, &token.jti) => {
                Err(OpenError::Unauthorized("this token was for one entrance, and has been used"))
            }
            Some(_) if self.used.until.len() >= TOKENS_ONCE_MAX => Err(OpenError::Unauthorized(
                "too many tokens for one entrance are in use: none can be remembered now, try again later",
            )),
            _ => Ok(()),
        }
    }

    /// It was let in by this.
    pub(super) fn entered(&mut self, now: Instant, entrance: &Entrance) {
        self.used.forget(now);
        if let (Some(token), Some(expires)) = (entrance.token.as_ref().filter(|token| token.once), entrance.expires) {
            self.used.insert(now, token.jti.clone(), expires);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Duration;
    use crate::signal::entrance::TokenId;

    fn entrance(user: &str, jti: &str, once: bool, expires: Instant) -> Entrance {
        let token = Some(TokenId { jti: jti.into(), once });
        Entrance { expires: Some(expires), token, ..Entrance::named(user, "room") }
    }

    #[test]
    fn a_token_or_a_user_is_shut_out_for_a_time() {
        let (mut revoked, start) = (Revoked::default(), Instant::ZERO);
        let at = |seconds| start + Duration::from_secs(seconds);
        revoked.revoke(start, Revocation::Token("1".into()), at(10)).unwrap();
        revoked.revoke(start, Revocation::User("berta".into()), at(20)).unwrap();
        let open = |revoked: &Revoked, now, user, jti| revoked.check(now, &entrance(user, jti, false, at(99))).is_ok();
        assert_eq!(
            [("anna", "1"), ("anna", "2"), ("berta", "3")].map(|(user, jti)| open(&revoked, start, user, jti)),
            [false, true, false]
        );
        assert!(open(&revoked, at(10), "anna", "1") && !open(&revoked, at(19), "berta", "3"));
        revoked.revoke(at(5), Revocation::User("berta".into()), at(6)).unwrap();
        assert!(!open(&revoked, at(19), "berta", "3"), "a shorter one takes nothing back");
        revoked.revoke(at(20), Revocation::Token("4".into()), at(30)).unwrap();
        assert_eq!(revoked.named.until.len(), 1, "the others are forgotten");
    }

    #[test]
    fn a_token_for_one_entrance_opens_once() {
        let (mut revoked, start) = (Revoked::default(), Instant::ZERO);
        let later = start + Duration::from_secs(60);
        let once = entrance("anna", "1", true, later);
        assert_eq!(revoked.check(start, &once), Ok(()));
        revoked.entered(start, &once);
        assert!(matches!(revoked.check(start, &once), Err(OpenError::Unauthorized(_))));
        assert_eq!(revoked.check(start, &entrance("anna", "2", true, later)), Ok(()));
        let often = entrance("anna", "3", false, later);
        revoked.entered(start, &often);
        assert_eq!(revoked.check(start, &often), Ok(()));
        revoked.entered(later, &often);
        assert!(revoked.used.until.is_empty(), "it has expired, and is forgotten");
    }

    #[test]
    fn neither_list_grows_without_a_bound() {
        let (mut revoked, start) = (Revoked::default(), Instant::ZERO);
        let later = start + Duration::from_secs(60);
        let token = |n: usize| Revocation::Token(n.to_string().into());
        for n in 0..REVOKED_MAX {
            revoked.revoke(start, token(n), later).unwrap();
        }
        assert_eq!(revoked.revoke(start, token(REVOKED_MAX), later), Err(TooManyRevoked));
        assert_eq!(revoked.revoke(start, token(7), later + Duration::from_secs(1)), Ok(()), "it is there");
        assert_eq!(revoked.revoke(later, token(REVOKED_MAX), later + Duration::from_secs(1)), Ok(()));
        for n in 0..TOKENS_ONCE_MAX {
            revoked.entered(start, &entrance("anna", &n.to_string(), true, later));
        }
        assert!(revoked.check(start, &entrance("anna", "new", true, later)).is_err());
        assert!(revoked.check(start, &entrance("anna", "new", false, later)).is_ok());
    }
}
