//! The operator's acts, which the admin API brings: what a moderator may do, in any channel and without being in it.

use serde_json::Value;

use crate::base::time::Instant;
use crate::signal::act::{Act, Actor};
use crate::signal::hub::Hub;
use crate::signal::message::Refusal;
use crate::signal::meter::Cost;
use crate::signal::moderation;

impl Hub {
    /// Does it in the channel of this name, and returns what a peer's reply would hold ([`Act::parse`] reads one from a
    /// request's JSON). A ban can be lifted where nobody is.
    pub fn operate(&mut self, now: Instant, channel: &str, act: Act) -> Result<Value, Refusal> {
        if let Act::Unban { user } = &act {
            let lifted = self.desk.bans.lift(channel, user);
            return if lifted { Ok(serde_json::json!({ "request": act.name() })) } else { Err(moderation::no_ban()) };
        }
        let key = self.names.get(channel).copied();
        let place = key.and_then(|key| self.channels.get_mut(key)).ok_or_else(|| Refusal::not_found("channelId"))?;
        self.desk.post.work = Cost::default();
        let done = moderation::take(now, place, &mut self.desk, Actor::Operator, act);
        self.let_go_the_lost(now);
        done
    }

    /// The users that are banned from a channel, and until when.
    pub fn bans(&self, channel: &str) -> impl Iterator<Item = (&str, Instant)> {
        self.desk.bans.of(channel)
    }
}
