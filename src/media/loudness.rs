//! The level of one audio source, and how much it has spoken in the last second: fed with the level in each packet (RFC
//! 6464), a few operations a packet. It compares no sources: signalling does, with the [`Speech`] that shards send it.
//! A source without levels has no `Loudness`.

use crate::base::time::{Duration, Instant};

/// The unit of speech: the duration of most encoders' packets.
const SLOT: Duration = Duration::from_millis(20);
/// Slots that one packet may stand for, itself the last (RFC 6716 section 2.1.4: Opus packets last up to 120 ms). A
/// longer gap is silence, as an encoder in DTX mode leaves it.
const PACKET_SLOTS_MAX: u64 = 6;
/// Slots of the medium score, and groups of that many for the long one: one second in all.
const GROUP: u32 = 5;
const GROUPS: u32 = 10;
/// Slots of a group that make it an active one.
const GROUP_ACTIVE: u32 = 3;
/// The lowest level that counts as speech, and how far it must stand out of the background, in dB.
const SPEECH_MIN: f32 = 67.0;
const PROMINENCE_MIN: f32 = 12.0;
/// The rise of the background, in dB a slot. The background is the quietest level heard, forgotten at this rate: a fan
/// becomes background after some seconds; speech, which pauses, never does.
const BACKGROUND_RISE: f32 = 0.04;
const BACKGROUND_MIN: f32 = 50.0;
/// The dB above the background of one step of the immediate score.
const STEP: f32 = 5.0;
/// The share of the way to a new level that one slot goes, upwards and downwards.
const ATTACK: f32 = 0.25;
const DECAY: f32 = 0.125;

/// The state of a source at one moment. Three scores after I. Volfin and I. Cohen, "Dominant speaker identification for
/// multipoint videoconferencing" (2012): now, in the last tenth of a second, in the last second.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Speech {
    /// Smoothed; 0 is the loudest, 127 silence, in -dBov.
    pub level: u8,
    /// Steps above the background, while it is active at all.
    pub immediate: u8,
    /// Active slots among the newest.
    pub medium: u8,
    /// Active groups of slots.
    pub long: u8,
}

impl Speech {
    pub const SILENCE: Speech = Speech { level: 127, immediate: 0, medium: 0, long: 0 };
    pub const IMMEDIATE_MAX: u8 = 13;
    pub const MEDIUM_MAX: u8 = GROUP as u8;
    pub const LONG_MAX: u8 = GROUPS as u8;
    /// Quieter sources count as silent.
    pub const AUDIBLE: u8 = 70;

    /// Active, or was a moment ago.
    pub fn is_audible(&self) -> bool {
        self.level <= Self::AUDIBLE || self.long > 0
    }

    /// Speech right now, or a noise like it.
    pub fn speaks(&self) -> bool {
        u32::from(self.medium) >= GROUP_ACTIVE
    }
}

#[derive(Debug)]
pub struct Loudness {
    /// 127 is the loudest here, 0 silence.
    volume: f32,
    background: f32,
    /// One bit a slot, the newest lowest: whether it was active.
    active: u64,
    /// The number of the newest slot.
    newest: u64,
    /// The duration of the packets in slots.
    span: u64,
    /// The state that signalling knows.
    told: Speech,
    /// Due for the next report to signalling.
    pub queued: bool,
}

impl Default for Loudness {
    fn default() -> Self {
        Loudness {
            volume: 0.0,
            background: BACKGROUND_MIN,
            active: 0,
            newest: 0,
            span: 1,
            told: Speech::SILENCE,
            queued: false,
        }
    }
}

impl Loudness {
    /// A packet of this level in -dBov; None: comfort noise, whatever level it claims.
    pub fn on_packet(&mut self, now: Instant, level: Option<u8>) {
        let slot = slot(now).max(self.newest);
        let gap = slot - self.newest;
        let silent = if gap > PACKET_SLOTS_MAX { gap - 1 } else { 0 };
        let covered = gap - silent;
        if (1..=PACKET_SLOTS_MAX).contains(&gap) {
            self.span = gap;
        }
        self.newest = slot;
        self.volume = approach(self.volume, 0.0, DECAY, silent);
        let Some(level) = level else {
            self.volume = approach(self.volume, 0.0, DECAY, covered);
            self.active = shifted(self.active, gap);
            return;
        };
        let volume = f32::from(127 - level.min(127));
        let rate = if volume > self.volume { ATTACK } else { DECAY };
        self.volume = approach(self.volume, volume, rate, covered);
        self.background = (self.background + BACKGROUND_RISE * covered as f32).min(volume).max(BACKGROUND_MIN);
        let active = volume >= SPEECH_MIN && volume >= self.background + PROMINENCE_MIN;
        self.active = shifted(self.active, gap);
        if active {
            self.active |= (1 << covered.max(1)) - 1;
        }
    }

    pub fn speech(&self, now: Instant) -> Speech {
        // The next packet may be under way, and a little late.
        let silent = slot(now).saturating_sub(self.newest).saturating_sub(self.span + 1);
        let active = shifted(self.active, silent);
        let volume = approach(self.volume, 0.0, DECAY, silent);
        let group = |at: u32| (active >> (at * GROUP) & ((1 << GROUP) - 1)).count_ones();
        let medium = group(0);
        let steps = if medium > 0 { (volume - self.background) / STEP } else { 0.0 };
        Speech {
            level: (127.0 - volume).round() as u8,
            immediate: steps.clamp(0.0, f32::from(Speech::IMMEDIATE_MAX)) as u8,
            medium: medium as u8,
            long: (0..GROUPS).filter(|at| group(*at) >= GROUP_ACTIVE).count() as u8,
        }
    }

    /// Speech has begun that signalling does not know of.
    pub fn begins(&self, now: Instant) -> bool {
        !self.told.speaks() && self.speech(now).speaks()
    }

    /// Takes the report for signalling.
    pub fn tell(&mut self, now: Instant) -> Speech {
        self.told = self.speech(now);
        self.told
    }
}

fn slot(at: Instant) -> u64 {
    (u128::from(at.as_nanos()) / SLOT.as_nanos()) as u64
}

fn shifted(bits: u64, by: u64) -> u64 {
    u32::try_from(by).ok().and_then(|by| bits.checked_shl(by)).unwrap_or(0)
}

fn approach(from: f32, to: f32, rate: f32, slots: u64) -> f32 {
    from + (to - from) * (1.0 - (1.0 - rate).powi(slots.min(1_000) as i32))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Voice {
        loudness: Loudness,
        at_ms: u64,
    }

    impl Voice {
        fn new() -> Voice {
            Voice { loudness: Loudness::default(), at_ms: 5_000 }
        }

        /// Packets of `every` milliseconds for so long.
        fn sends(&mut self, millis: u64, every: u64, level: Option<u8>) {
            for _ in 0..millis / every {
                self.at_ms += every;
                self.loudness.on_packet(Instant::from_nanos(self.at_ms * 1_000_000), level);
            }
        }

        fn speech_in(&self, millis: u64) -> Speech {
            self.loudness.speech(Instant::from_nanos((self.at_ms + millis) * 1_000_000))
        }
    }

    #[test]
    fn a_second_of_speech_fills_every_score_whatever_the_packets_last() {
        for every in [10, 20, 40, 60, 120] {
            let mut voice = Voice::new();
            voice.sends(1_200, every, Some(30));
            let speech = voice.speech_in(0);
            assert_eq!((speech.level, speech.medium, speech.long), (30, 5, 10), "{every} ms");
            assert!(speech.immediate >= 8 && speech.speaks() && speech.is_audible());
        }
    }

    #[test]
    fn silence_and_a_stop_let_it_fade() {
        let mut voice = Voice::new();
        voice.sends(1_000, 20, Some(30));
        assert!(voice.speech_in(40).speaks(), "the next packet may be on its way");
        let stopped = voice.speech_in(400);
        assert!(!stopped.speaks() && (5..8).contains(&stopped.long), "{stopped:?}");
        assert_eq!(voice.speech_in(3_000), Speech::SILENCE);
        voice.sends(400, 20, Some(127));
        let muted = voice.speech_in(0);
        assert!(!muted.speaks() && muted.level > 100 && muted.long == 6, "{muted:?}");
    }

    #[test]
    fn comfort_noise_is_no_speech_whatever_it_claims() {
        let mut voice = Voice::new();
        voice.sends(1_000, 20, Some(30));
        voice.sends(800, 400, None);
        let paused = voice.speech_in(0);
        assert!(!paused.speaks() && paused.level > 120 && paused.long <= 2, "{paused:?}");
        let mut never = Voice::new();
        never.sends(4_000, 400, None);
        assert_eq!(never.speech_in(0), Speech::SILENCE);
    }

    #[test]
    fn a_short_noise_fills_no_more_than_its_time() {
        let mut voice = Voice::new();
        voice.sends(2_000, 20, Some(90));
        voice.sends(300, 20, Some(15));
        let cough = voice.speech_in(0);
        assert!(cough.speaks() && (2..=3).contains(&cough.long), "{cough:?}");
    }

    #[test]
    fn a_steady_hum_becomes_background_and_speech_stands_out_of_it() {
        let mut voice = Voice::new();
        voice.sends(1_000, 20, Some(50));
        assert!(voice.speech_in(0).speaks());
        voice.sends(20_000, 20, Some(50));
        let hum = voice.speech_in(0);
        assert!(!hum.speaks() && hum.long == 0 && hum.is_audible(), "{hum:?}");
        for _ in 0..5 {
            voice.sends(160, 20, Some(22));
            voice.sends(40, 20, Some(50));
        }
        assert!(voice.speech_in(0).long >= 8, "{:?}", voice.speech_in(0));
    }

    #[test]
    fn time_that_stands_or_jumps_harms_nothing() {
        let mut loudness = Loudness::default();
        let late = Instant::from_nanos(u64::MAX);
        for at in [late, Instant::ZERO, late] {
            for level in [Some(0), Some(255), None] {
                loudness.on_packet(at, level);
                let speech = loudness.speech(at);
                assert!(speech.level <= 127 && speech.immediate <= Speech::IMMEDIATE_MAX);
            }
        }
    }

    #[test]
    fn only_what_was_not_told_begins() {
        let mut voice = Voice::new();
        voice.sends(200, 20, Some(90));
        voice.sends(40, 20, Some(30));
        let now = |voice: &Voice| Instant::from_nanos(voice.at_ms * 1_000_000);
        assert!(!voice.loudness.begins(now(&voice)), "too short to tell");
        voice.sends(60, 20, Some(30));
        assert!(voice.loudness.begins(now(&voice)));
        let at = now(&voice);
        voice.loudness.tell(at);
        voice.sends(60, 20, Some(30));
        assert!(!voice.loudness.begins(now(&voice)));
    }
}
