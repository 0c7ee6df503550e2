//! One audio producer whose packets carry its level: what its shard last reported, and whether it is forwarded.

use crate::base::id::ShardId;
use crate::base::time::{Duration, Instant};
use crate::shard::command::Speech;
use crate::signal::ids::ExternalId;

/// A shard reports an audible producer four times a second: one that it leaves out has stopped.
const REPORT_LIFE: Duration = Duration::from_millis(500);

/// Whose voice it is: the shard that hears it, and the ids that clients know.
#[derive(Clone, Copy)]
pub(super) struct Speaker {
    pub(super) shard: ShardId,
    pub(super) producer: ExternalId,
    pub(super) peer: ExternalId,
}

pub(super) struct Voice {
    pub(super) of: Speaker,
    speech: Speech,
    told_at: Option<Instant>,
    pub(super) spoke_at: Option<Instant>,
    /// Whether it is forwarded, and since when.
    pub(super) forwarded: bool,
    pub(super) placed_at: Instant,
}

impl Voice {
    pub(super) fn new(now: Instant, of: Speaker) -> Voice {
        Voice { of, speech: Speech::SILENCE, told_at: None, spoke_at: None, forwarded: true, placed_at: now }
    }

    /// Takes the shard's report of it.
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::signal::ids::Ids;

    pub(in crate::signal) fn speaker(shard: u16) -> Speaker {
        let mut ids = Ids::new([shard as u8; 32]);
        Speaker { shard: ShardId(shard), producer: ids.external(), peer: ids.external() }
    }

    #[test]
    fn a_report_that_is_not_renewed_is_silence() {
        let mut voice = Voice::new(Instant::ZERO, speaker(0));
        let speech = Speech { level: 30, immediate: 9, medium: 5, long: 5 };
        voice.told(Instant::ZERO, speech);
        assert_eq!(voice.speech(Instant::ZERO + REPORT_LIFE / 2), speech);
        assert_eq!(voice.speech(Instant::ZERO + REPORT_LIFE), Speech::SILENCE);
        assert_eq!(voice.spoke_at, Some(Instant::ZERO));
    }
}
