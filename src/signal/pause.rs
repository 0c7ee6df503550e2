//! The pause of a producer: the wish of its owner and the mute of a moderator, of which neither touches the other. Its
//! packets reach nobody while one of them holds.

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Pause {
    /// Its owner has paused it.
    pub(super) own: bool,
    /// A moderator has muted it.
    pub(super) muted: bool,
}

impl Pause {
    pub(super) const fn holds(self) -> bool {
        self.own || self.muted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_holds() {
        let holds = |own, muted| Pause { own, muted }.holds();
        assert_eq!(
            [holds(false, false), holds(true, false), holds(false, true), holds(true, true)],
            [false, true, true, true]
        );
    }
}
