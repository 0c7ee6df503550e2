//! The rounds of the audible channels: each is checked at intervals until it is quiet, because a shard whose audio has
//! stopped reports nothing.

use crate::base::id::ProducerId;
use crate::base::slab::{Key, Slab};
use crate::base::time::{Duration, Instant};
use crate::shard::command::Speech;
use crate::signal::channel::Channel;
use crate::signal::post::Post;

const GAP: Duration = Duration::from_millis(300);
/// The interval of `audio-levels` for one client. With very many clients it grows, so that all together are sent 5,000
/// a second at most.
const LEVELS_GAP: Duration = Duration::from_millis(500);
const LEVELS_GAP_PER_CLIENT: Duration = Duration::from_micros(200);

#[derive(Default)]
pub(super) struct Rounds {
    /// The audible channels, in the order in which they were first heard, none twice.
    awake: Vec<Key<Channel>>,
    due: Option<Instant>,
}

impl Rounds {
    pub(super) const fn deadline(&self) -> Option<Instant> {
        self.due
    }

    /// Takes a shard's reports, each with the producer's channel. `clients`: the number, over all channels, that may be
    /// told levels.
    pub(super) fn heard(
        &mut self,
        now: Instant,
        levels: impl Iterator<Item = (Key<Channel>, ProducerId, Speech)>,
        channels: &mut Slab<Channel>,
        post: &mut Post,
        clients: usize,
    ) {
        let mut heard = Vec::new();
        for (key, producer, speech) in levels {
            let Some(channel) = channels.get_mut(key) else { continue };
            if channel.voices.heard(now, producer, speech) {
                heard.push(key);
            }
        }
        for key in heard {
            let Some(channel) = channels.get_mut(key) else { continue };
            channel.voices.observe(post, &channel.subscribers, now, levels_gap(clients));
            if !std::mem::replace(&mut channel.in_rounds, true) {
                self.awake.push(key);
            }
        }
        if !self.awake.is_empty() {
            self.due.get_or_insert(now + GAP);
        }
    }

    pub(super) fn handle_timeout(
        &mut self,
        now: Instant,
        channels: &mut Slab<Channel>,
        post: &mut Post,
        clients: usize,
    ) {
        if self.due.is_none_or(|due| due > now) {
            return;
        }
        self.awake.retain(|key| {
            let Some(channel) = channels.get_mut(*key) else { return false };
            channel.voices.observe(post, &channel.subscribers, now, levels_gap(clients));
            channel.in_rounds = !channel.voices.is_quiet(now);
            channel.in_rounds
        });
        self.due = (!self.awake.is_empty()).then_some(now + GAP);
    }
}

fn levels_gap(clients: usize) -> Duration {
    LEVELS_GAP.max(LEVELS_GAP_PER_CLIENT * clients as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::PeerId;
    use crate::signal::voice::tests::speaker;

    #[test]
    fn a_channel_is_looked_at_until_it_is_quiet_and_no_longer() {
        let (mut rounds, mut channels, mut post) = (Rounds::default(), Slab::default(), Post::default());
        let mut channel = Channel::new("room".into());
        let (id, mut now) = (ProducerId(1), Instant::ZERO + Duration::from_secs(1));
        channel.voices.add(&mut post, now, id, speaker(0));
        channel.subscribers.insert(PeerId(2));
        channel.voices.listen_where_wanted(&mut post, &channel.subscribers);
        let key = channels.insert(channel);
        let speech = Speech { level: 30, immediate: 9, medium: 5, long: 9 };
        let levels = [(key, id, speech), (key, id, speech)];
        rounds.heard(now, levels.into_iter(), &mut channels, &mut post, 1);
        assert_eq!((rounds.awake.len(), rounds.deadline()), (1, Some(now + GAP)));
        let mut looks = 0;
        while let Some(due) = rounds.deadline() {
            now = due;
            rounds.handle_timeout(now, &mut channels, &mut post, 1);
            looks += 1;
        }
        assert!((2..9).contains(&looks) && !channels.get(key).unwrap().in_rounds, "{looks}");
    }
}
