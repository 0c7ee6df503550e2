//! The operator's settings of peers that come back, and the names of what became of their tries.

use crate::base::time::Duration;

/// What becomes of a user's old peer when the same user joins the same channel anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SameUser {
    /// Both are there.
    #[default]
    Keep,
    /// It ends.
    Replace,
}

#[derive(Clone, PartialEq, Eq, Default)]
pub struct ReturnSettings {
    /// Seals the tokens. From the machine's randomness.
    pub key: [u8; 32],
    /// How long a peer outlives its socket; zero: nobody comes back.
    pub grace: Duration,
    pub same_user: SameUser,
}

impl std::fmt::Debug for ReturnSettings {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReturnSettings {{ grace: {:?}, same_user: {:?} }}", self.grace, self.same_user)
    }
}

/// What became of a try; a label of `weirgate_signalling_resumes_total`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ResumeOutcome {
    Resumed,
    /// The same while the old socket was open.
    TakenOver,
    Unauthorized,
    Gone,
    NotKept,
    WrongCount,
    RateLimited,
}

const NAMES: [&str; 7] = ["resumed", "taken-over", "unauthorized", "gone", "not-kept", "wrong-count", "rate-limited"];

#[derive(Default)]
pub(super) struct ResumeCounts([u64; NAMES.len()]);

impl ResumeCounts {
    pub(super) fn count(&mut self, outcome: ResumeOutcome) {
        self.0[outcome as usize] += 1;
    }

    pub(super) fn all(&self) -> Vec<(&'static str, u64)> {
        NAMES.into_iter().zip(self.0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_has_its_name_and_the_key_is_never_shown() {
        let mut counts = ResumeCounts::default();
        counts.count(ResumeOutcome::Resumed);
        counts.count(ResumeOutcome::RateLimited);
        let counted: Vec<_> = counts.all().into_iter().filter(|(_, count)| *count > 0).map(|(name, _)| name).collect();
        assert_eq!(counted, ["resumed", "rate-limited"]);
        let settings = ReturnSettings { key: [77; 32], ..ReturnSettings::default() };
        assert!(!format!("{settings:?}").contains("77"));
    }
}
