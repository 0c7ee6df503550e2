//! The speech observer of a channel: gathers the shards' reports of its audio producers, elects the dominant speaker,
//! and tells the subscribers both. One observer a channel, whichever shards its peers are on. Levels are measured in
//! the media tower; `last_n` decides from the same reports who is forwarded.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::base::id::{PeerId, ProducerId};
use crate::base::slab::Key;
use crate::base::time::{Duration, Instant};
use crate::shard::command::{Command, Speech};
use crate::signal::channel::{ACTIVE_SPEAKER, AUDIO_LEVELS, Channel};
use crate::signal::desk::Desk;
use crate::signal::hub::Hub;
use crate::signal::last_n;
use crate::signal::peer::Producer;
use crate::signal::session::SessionId;
use crate::wire::extension::Extension;

/// How long an active speaker stays at least.
const ACTIVE_MIN: Duration = Duration::from_millis(250);
/// The interval of checks on channels that no shard may report on.
const ROUND_GAP: Duration = Duration::from_millis(300);
/// A shard reports an audible producer four times a second: one that it leaves out has stopped.
const REPORT_LIFE: Duration = Duration::from_millis(500);
/// The interval of `audio-levels` for one client. With very many clients it grows, so that all together are sent 5,000
/// a second at most.
const LEVELS_GAP: Duration = Duration::from_millis(500);
const LEVELS_GAP_PER_CLIENT: Duration = Duration::from_micros(200);
/// The loudest that one `audio-levels` lists.
const LEVELS_MAX: usize = 16;
/// A smaller change, in dB, is not worth a message.
const LEVEL_STEP: u8 = 3;

/// One audio producer that states its level.
pub(super) struct Voice {
    speech: Speech,
    told_at: Option<Instant>,
    pub(super) spoke_at: Option<Instant>,
    /// Forwarded, and since when.
    pub(super) forwarded: bool,
    pub(super) placed_at: Instant,
}

impl Voice {
    pub(super) fn new(now: Instant) -> Voice {
        Voice { speech: Speech::SILENCE, told_at: None, spoke_at: None, forwarded: true, placed_at: now }
    }

    /// The shard's report of it.
    pub(super) fn told(&mut self, now: Instant, speech: Speech) {
        self.speech = speech;
        self.told_at = Some(now);
        if speech.speaks() {
            self.spoke_at = Some(now);
        }
    }

    pub(super) fn speech(&self, now: Instant) -> Speech {
        match self.told_at {
            Some(at) if now.since(at) < REPORT_LIFE => self.speech,
            _ => Speech::SILENCE,
        }
    }
}

/// The state of a channel's speakers.
#[derive(Default)]
pub(super) struct Voices {
    known: BTreeMap<ProducerId, Voice>,
    pub(super) last_n: Option<usize>,
    active: Option<ProducerId>,
    /// The shards were told to listen.
    listening: bool,
    /// Something was heard since the last check.
    fresh: bool,
    /// It is checked in every round.
    awake: bool,
    /// The time of the latest report.
    now: Instant,
    elected_at: Option<Instant>,
    levels_at: Instant,
    /// The levels last told to subscribers, loudest first.
    levels: Vec<(ProducerId, u8)>,
}

impl Voices {
    fn is_quiet(&self, now: Instant) -> bool {
        self.levels.is_empty() && self.known.values().all(|voice| !voice.speech(now).is_audible())
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

impl Channel {
    pub(super) fn voice_added(&mut self, desk: &mut Desk, now: Instant, id: ProducerId) {
        // A producer without levels can be neither elected nor withheld.
        let says = |producer: &Producer| producer.plan.spec.extensions.get(Extension::AudioLevel).is_some();
        if !self.producer(id).is_some_and(|(_, producer)| !producer.plan.spec.codec.is_video() && says(producer)) {
            return;
        }
        self.voices.now = self.voices.now.max(now);
        self.voices.known.insert(id, Voice::new(now));
        if self.voices.listening {
            self.order(desk, id, Command::Listen { producer: id, listen: true });
        }
        self.choose(desk);
    }

    /// `gone`: its peer, when that is no longer there to be told.
    pub(super) fn voice_removed(&mut self, desk: &mut Desk, id: ProducerId, gone: Option<PeerId>) {
        if self.voices.known.remove(&id).is_none() {
            return;
        }
        if self.voices.active == Some(id) {
            self.voices.active = None;
            self.tell_active(desk, gone);
        }
        self.choose(desk);
    }

    /// Call when that may have changed: shards listen only where somebody wants to know.
    pub(super) fn listen_where_wanted(&mut self, desk: &mut Desk) {
        let listen = !self.subscribers.is_empty() || self.voices.last_n.is_some();
        if std::mem::replace(&mut self.voices.listening, listen) != listen {
            for &producer in self.voices.known.keys() {
                self.order(desk, producer, Command::Listen { producer, listen });
            }
        }
    }

    pub(super) fn set_last_n(&mut self, desk: &mut Desk, now: Instant, n: Option<usize>) {
        self.voices.now = self.voices.now.max(now);
        self.voices.last_n = n;
        self.listen_where_wanted(desk);
        self.choose(desk);
    }

    /// As in `active-speaker`.
    pub(super) fn active_speaker(&self) -> Value {
        let active = self.voices.active.and_then(|id| self.named(id));
        let (producer, peer) = active.unzip();
        json!({ "producerId": producer, "peerId": peer })
    }

    /// The ids that clients know.
    fn named(&self, id: ProducerId) -> Option<(String, String)> {
        let (owner, producer) = self.producer(id)?;
        Some((producer.external.to_string(), self.peers.get(&owner)?.external.to_string()))
    }

    fn order(&self, desk: &mut Desk, id: ProducerId, command: Command) {
        let owner = self.producers.get(&id).and_then(|owner| self.peers.get(owner));
        if let Some(shard) = owner.and_then(|peer| peer.shard) {
            desk.command(shard, command);
        }
    }

    /// A shard reports a producer. True when the channel is to be checked.
    fn heard(&mut self, now: Instant, id: ProducerId, speech: Speech) -> bool {
        let Some(voice) = self.voices.known.get_mut(&id).filter(|_| self.voices.listening) else { return false };
        voice.told(now, speech);
        self.voices.now = self.voices.now.max(now);
        !std::mem::replace(&mut self.voices.fresh, true)
    }

    fn observe(&mut self, desk: &mut Desk, now: Instant, levels_gap: Duration) {
        self.voices.fresh = false;
        self.voices.now = self.voices.now.max(now);
        self.choose(desk);
        self.elect(desk, now);
        if now.since(self.voices.levels_at) >= levels_gap {
            self.tell_levels(desk, now);
        }
    }

    fn choose(&mut self, desk: &mut Desk) {
        let Voices { known, last_n, active, now, .. } = &mut self.voices;
        for (producer, forwarded) in last_n::choose(known, *last_n, *active, *now) {
            self.order(desk, producer, Command::Withhold { producer, withheld: !forwarded });
        }
    }

    fn elect(&mut self, desk: &mut Desk, now: Instant) {
        let voices = &self.voices;
        if voices.elected_at.is_some_and(|at| now.since(at) < ACTIVE_MIN) {
            return;
        }
        let dominant = voices.active.and_then(|id| voices.known.get(&id));
        let dominant = dominant.map_or(Speech::SILENCE, |voice| voice.speech(now));
        let challengers = voices.known.iter().filter(|(id, _)| voices.active != Some(**id));
        let elected = challengers
            .map(|(id, voice)| (*id, voice.speech(now)))
            .filter(|(_, speech)| dominates(speech, &dominant))
            .max_by_key(|(_, speech)| (speech.long, speech.medium, speech.immediate, 127 - speech.level));
        if let Some((id, _)) = elected {
            self.voices.active = Some(id);
            self.voices.elected_at = Some(now);
            self.tell_active(desk, None);
        }
    }

    fn tell_active(&self, desk: &mut Desk, gone: Option<PeerId>) {
        let data = self.active_speaker();
        desk.notify_all(
            self.subscribers.iter().filter(|peer| Some(**peer) != gone),
            "active-speaker",
            &data,
            Some(ACTIVE_SPEAKER),
        );
    }

    fn tell_levels(&mut self, desk: &mut Desk, now: Instant) {
        let levels = self.voices.audible(now);
        if !self.voices.differs(&levels) {
            return;
        }
        let entry = |(id, level): &(ProducerId, u8)| {
            let (producer, peer) = self.named(*id)?;
            Some(json!({ "producerId": producer, "peerId": peer, "volume": -i32::from(*level) }))
        };
        let data = json!({ "levels": levels.iter().filter_map(entry).collect::<Vec<_>>() });
        desk.notify_all(self.subscribers.iter(), "audio-levels", &data, Some(AUDIO_LEVELS));
        self.voices.levels = levels;
        self.voices.levels_at = now;
    }
}

/// The audible channels: they are checked until they are quiet, because a shard whose audio has stopped reports
/// nothing.
#[derive(Default)]
pub(super) struct Rounds {
    awake: Vec<Key<Channel>>,
    pub(super) due: Option<Instant>,
}

impl Hub {
    pub(super) fn speech_came(&mut self, now: Instant, levels: &[(ProducerId, Speech)]) {
        let gap = self.levels_gap();
        let mut heard = Vec::new();
        for (producer, speech) in levels {
            let owner = self.desk.owners.producers.get(producer);
            let Some(session) = owner.and_then(|owner| self.sessions.get(&SessionId(owner.0))) else { continue };
            let Some(channel) = self.channels.get_mut(session.channel) else { continue };
            if channel.heard(now, *producer, *speech) {
                heard.push(session.channel);
            }
        }
        for key in heard {
            let Some(channel) = self.channels.get_mut(key) else { continue };
            channel.observe(&mut self.desk, now, gap);
            if !std::mem::replace(&mut channel.voices.awake, true) {
                self.rounds.awake.push(key);
            }
        }
        if !self.rounds.awake.is_empty() {
            self.rounds.due.get_or_insert(now + ROUND_GAP);
        }
    }

    pub(super) fn speech_round(&mut self, now: Instant) {
        if self.rounds.due.is_none_or(|due| due > now) {
            return;
        }
        let gap = self.levels_gap();
        let (channels, desk) = (&mut self.channels, &mut self.desk);
        self.rounds.awake.retain(|key| {
            let Some(channel) = channels.get_mut(*key) else { return false };
            channel.observe(desk, now, gap);
            channel.voices.awake = !channel.voices.is_quiet(now);
            channel.voices.awake
        });
        self.rounds.due = (!self.rounds.awake.is_empty()).then_some(now + ROUND_GAP);
    }

    fn levels_gap(&self) -> Duration {
        LEVELS_GAP.max(LEVELS_GAP_PER_CLIENT * self.sessions.len() as u32)
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
}
