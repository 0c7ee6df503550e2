//! The speech observer of a channel: gathers the shards' reports of its audio producers, elects the dominant speaker,
//! and tells the audience both. One observer a channel, whichever shards its peers are on. Levels are measured in
//! the media tower; `last_n` decides from the same reports who is forwarded; `rounds` calls while somebody is heard.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::base::id::{PeerId, ProducerId};
use crate::base::time::{Duration, Instant};
use crate::shard::command::{Command, Speech};
use crate::signal::last_n;
use crate::signal::news::News;
use crate::signal::post::Post;
use crate::signal::voice::{Speaker, Voice};

/// How long an active speaker stays at least.
const ACTIVE_MIN: Duration = Duration::from_millis(250);
/// The loudest that one `audio-levels` lists.
const LEVELS_MAX: usize = 16;
/// A smaller change, in dB, is not worth a message.
const LEVEL_STEP: u8 = 3;

/// The state of a channel's speakers.
#[derive(Default)]
pub(super) struct Voices {
    known: BTreeMap<ProducerId, Voice>,
    last_n: Option<usize>,
    active: Option<ProducerId>,
    /// The shards were told to listen.
    listening: bool,
    /// Something was heard since the last check.
    fresh: bool,
    /// The time of the latest report.
    now: Instant,
    elected_at: Option<Instant>,
    levels_at: Instant,
    /// The levels last told to subscribers, loudest first.
    levels: Vec<(ProducerId, u8)>,
}

/// The likelihood that a source with `active` active units out of `of` speaks, relative to that it does not (Volfin and
/// Cohen, equations 5 to 7, with a fair coin for the noise); `rate` is that of the exponential distribution over
/// speakers.
fn likelihood(active: u8, of: u8, rate: f64) -> f64 {
    const LEAST: f64 = 1e-10;
    let active = active.min(of);
    let choices: f64 = (1..=active).map(|k| (f64::from(of - active + k) / f64::from(k)).ln()).sum();
    let score = choices - f64::from(of) * 2f64.ln() - rate.ln() + rate * f64::from(active);
    score.max(LEAST)
}

fn scores(speech: &Speech) -> [f64; 3] {
    [
        likelihood(speech.immediate, Speech::IMMEDIATE_MAX, 0.78),
        likelihood(speech.medium, Speech::MEDIUM_MAX, 24.0),
        likelihood(speech.long, Speech::LONG_MAX, 47.0),
    ]
}

/// Whether `challenger` takes over from `dominant`: it is louder by far now and in the last tenth of a second, so the
/// other has stopped, and it has spoken more of the last second. That takes a least part of the second, so that a cough
/// takes nothing even from silence.
fn dominates(challenger: &Speech, dominant: &Speech) -> bool {
    const LEAST_LONG: u8 = 4;
    const LEAST_RATIO: [f64; 3] = [3.0, 2.0, 0.0];
    if challenger.long < LEAST_LONG {
        return false;
    }
    let (ours, theirs) = (scores(challenger), scores(dominant));
    let ratios = ours.iter().zip(theirs).map(|(ours, theirs)| (ours / theirs).ln());
    ratios.zip(LEAST_RATIO).all(|(ratio, least)| ratio > least)
}

/// `audience` are the subscribers of the channel, who are told.
impl Voices {
    pub(super) fn add(&mut self, post: &mut Post, now: Instant, id: ProducerId, of: Speaker) {
        self.now = self.now.max(now);
        self.known.insert(id, Voice::new(now, of));
        if self.listening {
            post.command(of.shard, Command::Listen { producer: id, listen: true });
        }
        self.choose(post);
    }

    pub(super) fn remove(&mut self, post: &mut Post, audience: &BTreeSet<PeerId>, id: ProducerId) {
        if self.known.remove(&id).is_none() {
            return;
        }
        if self.active == Some(id) {
            self.active = None;
            self.tell_active(post, audience);
        }
        self.choose(post);
    }

    /// Call when that may have changed: shards listen only where somebody wants to know.
    pub(super) fn listen_where_wanted(&mut self, post: &mut Post, audience: &BTreeSet<PeerId>) {
        let listen = !audience.is_empty() || self.last_n.is_some();
        if std::mem::replace(&mut self.listening, listen) != listen {
            for (&producer, voice) in &self.known {
                post.command(voice.of.shard, Command::Listen { producer, listen });
            }
        }
    }

    pub(super) fn set_last_n(&mut self, post: &mut Post, audience: &BTreeSet<PeerId>, now: Instant, n: Option<usize>) {
        self.now = self.now.max(now);
        self.last_n = n;
        self.listen_where_wanted(post, audience);
        self.choose(post);
    }

    pub(super) const fn last_n(&self) -> Option<usize> {
        self.last_n
    }

    /// The data of `active-speaker`.
    pub(super) fn active_speaker(&self) -> Value {
        let active = self.active.and_then(|id| self.known.get(&id)).map(|voice| voice.of);
        json!({
            "producerId": active.map(|of| of.producer.to_string()),
            "peerId": active.map(|of| of.peer.to_string()),
        })
    }

    /// Takes a shard's report of a producer. True when the channel is to be checked.
    pub(super) fn heard(&mut self, now: Instant, id: ProducerId, speech: Speech) -> bool {
        let Some(voice) = self.known.get_mut(&id).filter(|_| self.listening) else { return false };
        voice.told(now, speech);
        self.now = self.now.max(now);
        !std::mem::replace(&mut self.fresh, true)
    }

    pub(super) fn observe(&mut self, post: &mut Post, audience: &BTreeSet<PeerId>, now: Instant, levels_gap: Duration) {
        self.fresh = false;
        self.now = self.now.max(now);
        self.choose(post);
        self.elect(post, audience, now);
        if now.since(self.levels_at) >= levels_gap {
            self.tell_levels(post, audience, now);
        }
    }

    pub(super) fn is_quiet(&self, now: Instant) -> bool {
        self.levels.is_empty() && self.known.values().all(|voice| !voice.speech(now).is_audible())
    }

    fn choose(&mut self, post: &mut Post) {
        for (producer, forwarded) in last_n::choose(&mut self.known, self.last_n, self.active, self.now) {
            if let Some(voice) = self.known.get(&producer) {
                post.command(voice.of.shard, Command::Withhold { producer, withheld: !forwarded });
            }
        }
    }

    fn elect(&mut self, post: &mut Post, audience: &BTreeSet<PeerId>, now: Instant) {
        if self.elected_at.is_some_and(|at| now.since(at) < ACTIVE_MIN) {
            return;
        }
        let dominant = self.active.and_then(|id| self.known.get(&id));
        let dominant = dominant.map_or(Speech::SILENCE, |voice| voice.speech(now));
        let challengers = self.known.iter().filter(|(id, _)| self.active != Some(**id));
        let elected = challengers
            .map(|(id, voice)| (*id, voice.speech(now)))
            .filter(|(_, speech)| dominates(speech, &dominant))
            .max_by_key(|(_, speech)| (speech.long, speech.medium, speech.immediate, 127 - speech.level));
        if let Some((id, _)) = elected {
            self.active = Some(id);
            self.elected_at = Some(now);
            self.tell_active(post, audience);
        }
    }

    fn tell_active(&self, post: &mut Post, audience: &BTreeSet<PeerId>) {
        post.notify_all(audience.iter(), &News::active_speaker(), &self.active_speaker());
    }

    fn tell_levels(&mut self, post: &mut Post, audience: &BTreeSet<PeerId>, now: Instant) {
        let levels = self.audible(now);
        if !self.differs(&levels) {
            return;
        }
        let entry = |(id, level): &(ProducerId, u8)| {
            let Speaker { producer, peer, .. } = self.known.get(id)?.of;
            let (producer, peer) = (producer.to_string(), peer.to_string());
            Some(json!({ "producerId": producer, "peerId": peer, "volume": -i32::from(*level) }))
        };
        let data = json!({ "levels": levels.iter().filter_map(entry).collect::<Vec<_>>() });
        post.notify_all(audience.iter(), &News::audio_levels(), &data);
        self.levels = levels;
        self.levels_at = now;
    }

    fn audible(&self, now: Instant) -> Vec<(ProducerId, u8)> {
        let levels = self.known.iter().map(|(id, voice)| (*id, voice.speech(now).level));
        let mut audible: Vec<_> = levels.filter(|(_, level)| *level <= Speech::AUDIBLE).collect();
        audible.sort_by_key(|(id, level)| (*level, *id));
        audible.truncate(LEVELS_MAX);
        audible
    }

    fn differs(&self, levels: &[(ProducerId, u8)]) -> bool {
        let known = |id| self.levels.iter().find(|(known, _)| *known == id).map(|(_, level)| *level);
        levels.len() != self.levels.len()
            || levels.iter().any(|(id, level)| known(*id).is_none_or(|known| known.abs_diff(*level) >= LEVEL_STEP))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speech(immediate: u8, medium: u8, long: u8) -> Speech {
        Speech { level: 30, immediate, medium, long }
    }

    #[test]
    fn the_score_is_that_of_the_paper() {
        for (active, of, rate, expected) in [(5, 5, 24.0, 113.356), (2, 10, 47.0, 87.025), (10, 13, 0.78, 4.695)] {
            assert!((likelihood(active, of, rate) - expected).abs() < 0.01, "{}", likelihood(active, of, rate));
        }
        assert_eq!(likelihood(0, 5, 24.0), 1e-10);
    }

    #[test]
    fn who_has_stopped_gives_way_and_who_speaks_does_not() {
        let talking = speech(8, 5, 9);
        assert!(dominates(&talking, &Speech::SILENCE));
        assert!(dominates(&talking, &speech(0, 0, 8)), "stopped a moment ago");
        assert!(!dominates(&talking, &speech(7, 4, 3)), "still speaks");
        assert!(!dominates(&speech(8, 5, 6), &speech(0, 0, 6)), "a pause between words");
    }

    #[test]
    fn a_cough_takes_nothing() {
        for dominant in [Speech::SILENCE, speech(0, 0, 2), speech(7, 5, 10)] {
            assert!(!dominates(&speech(13, 5, 3), &dominant));
        }
    }

    #[test]
    fn a_shard_listens_while_somebody_wants_to_know_and_the_elected_one_is_told_with_its_ids() {
        use crate::signal::post::Output;
        use crate::signal::session::SessionId;
        use crate::signal::voice::tests::speaker;

        let (mut voices, mut post) = (Voices::default(), Post::default());
        let (id, of, now) = (ProducerId(4), speaker(3), Instant::ZERO + Duration::from_secs(9));
        voices.add(&mut post, now, id, of);
        assert!(!voices.heard(now, id, speech(9, 5, 9)) && post.output.is_empty(), "nobody listens");
        let audience = BTreeSet::from([PeerId(1)]);
        post.mailboxes.attach(PeerId(1), SessionId(1));
        voices.listen_where_wanted(&mut post, &audience);
        let listen = Command::Listen { producer: id, listen: true };
        assert_eq!(post.output.pop_front(), Some(Output::Command { shard: of.shard, command: listen }));
        assert!(voices.heard(now, id, speech(9, 5, 9)) && !voices.heard(now, id, speech(9, 5, 9)));
        voices.observe(&mut post, &audience, now, Duration::ZERO);
        let Some(Output::Send { text, .. }) = post.output.pop_front() else { panic!("it is told") };
        assert!(text.to_string().contains(&of.producer.to_string()) && !voices.is_quiet(now));
        post.output.clear();
        voices.remove(&mut post, &audience, id);
        let Some(Output::Send { text, .. }) = post.output.pop_front() else { panic!("nobody speaks: told as well") };
        assert!(text.to_string().contains("null"), "{text}");
    }
}
