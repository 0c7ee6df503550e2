//! The bans: which user may not come into which channel, and until when. They outlive the channel. `moderation` makes
//! and lifts them, `entering` asks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::base::limits::{BANS_MAX, BANS_PER_CHANNEL_MAX};
use crate::base::time::Instant;

type Users = BTreeMap<Arc<str>, Instant>;

#[derive(Default)]
pub(super) struct Bans {
    by_channel: BTreeMap<Arc<str>, Users>,
    due: BTreeSet<(Instant, Arc<str>, Arc<str>)>,
}

impl Bans {
    /// False: the channel has as many as it may have. Where all channels together have too many, the one with the most
    /// loses the one that ends first.
    pub(super) fn ban(&mut self, channel: &Arc<str>, user: &Arc<str>, until: Instant) -> bool {
        let users = self.by_channel.entry(channel.clone()).or_default();
        if users.len() >= BANS_PER_CHANNEL_MAX && !users.contains_key(user) {
            return false;
        }
        if let Some(before) = users.insert(user.clone(), until) {
            self.due.remove(&(before, channel.clone(), user.clone()));
        }
        self.due.insert((until, channel.clone(), user.clone()));
        if self.due.len() > BANS_MAX {
            let most = self.by_channel.iter().max_by_key(|(_, users)| users.len());
            let first = most.and_then(|(channel, users)| Some((channel, users.iter().min_by_key(|(_, at)| **at)?)));
            if let Some((channel, user)) = first.map(|(channel, (user, _))| (channel.clone(), user.clone())) {
                self.lift(&channel, &user);
            }
        }
        true
    }

    /// False: there is no such ban.
    pub(super) fn lift(&mut self, channel: &str, user: &str) -> bool {
        let Some((name, _)) = self.by_channel.get_key_value(channel) else { return false };
        let name = name.clone();
        let Some(users) = self.by_channel.get_mut(&name) else { return false };
        let Some((user, until)) = users.remove_entry(user) else { return false };
        if users.is_empty() {
            self.by_channel.remove(&name);
        }
        self.due.remove(&(until, name, user))
    }

    pub(super) fn holds(&self, now: Instant, channel: &str, user: &str) -> bool {
        self.by_channel.get(channel).and_then(|users| users.get(user)).is_some_and(|until| *until > now)
    }

    /// Those of a channel with their ends.
    pub(super) fn of(&self, channel: &str) -> impl Iterator<Item = (&str, Instant)> {
        self.by_channel.get(channel).into_iter().flatten().map(|(user, until)| (&**user, *until))
    }

    pub(super) fn len(&self) -> usize {
        self.due.len()
    }

    pub(super) fn channels(&self) -> usize {
        self.by_channel.len()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due.first().map(|(at, ..)| *at)
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        while let Some((_, channel, user)) = self.due.first().filter(|(at, ..)| *at <= now).cloned() {
            self.lift(&channel, &user);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Duration;

    fn after(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn a_ban_holds_for_one_user_in_one_channel_until_it_ends_or_is_lifted() {
        let mut bans = Bans::default();
        let [room, other, mallory]: [Arc<str>; 3] = ["room", "other", "mallory"].map(Arc::from);
        assert!(bans.ban(&room, &mallory, after(10)));
        assert!(bans.holds(after(9), "room", "mallory") && !bans.holds(after(10), "room", "mallory"));
        assert!(!bans.holds(after(0), "room", "alice") && !bans.holds(after(0), "other", "mallory"));
        assert!(bans.ban(&room, &mallory, after(20)), "longer");
        assert_eq!((bans.len(), bans.deadline()), (1, Some(after(20))));
        assert!(bans.lift("room", "mallory") && !bans.lift("room", "mallory") && !bans.lift("nowhere", "mallory"));
        assert!(bans.ban(&room, &mallory, after(5)) && bans.ban(&other, &mallory, after(30)));
        bans.handle_timeout(after(5));
        assert_eq!((bans.len(), bans.by_channel.len(), bans.deadline()), (1, 1, Some(after(30))));
        assert_eq!(bans.of("other").collect::<Vec<_>>(), [("mallory", after(30))]);
    }

    #[test]
    fn a_channel_that_is_full_of_bans_takes_no_more_and_a_full_list_takes_from_the_longest() {
        let mut bans = Bans::default();
        let quiet: Arc<str> = "quiet".into();
        assert!(bans.ban(&quiet, &"mallory".into(), after(1)), "ends first of all");
        for n in 0..BANS_MAX {
            let channel: Arc<str> = format!("loud {}", n / BANS_PER_CHANNEL_MAX).into();
            assert!(bans.ban(&channel, &format!("user {n}").into(), after(10 + n as u64)));
        }
        assert_eq!((bans.len(), bans.due.len()), (BANS_MAX, BANS_MAX));
        assert!(bans.holds(after(0), "quiet", "mallory"), "who bans little loses nothing by who bans much");
        let full: Arc<str> = "loud 0".into();
        let room = BANS_PER_CHANNEL_MAX - bans.of(&full).count();
        (0..room).for_each(|n| assert!(bans.ban(&full, &format!("more {n}").into(), after(900_000))));
        assert!(!bans.ban(&full, &"one more".into(), after(1)), "the channel is full");
        let known: Arc<str> = bans.of(&full).next().unwrap().0.into();
        assert!(bans.ban(&full, &known, after(999_999)), "but one of its own may become longer");
    }
}
