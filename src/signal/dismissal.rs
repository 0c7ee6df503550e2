//! A peer that has to go: why, and in which words. `removal` writes it, `hub` carries it out once the turn is over.

use crate::base::id::PeerId;
use crate::signal::act::Actor;
use crate::signal::message::{Code, Refusal};

/// A peer that has to go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Dismissal {
    pub(super) peer: PeerId,
    pub(super) refusal: Refusal,
    /// Who pays for the news of it.
    pub(super) actor: Actor,
}

/// Why a peer has to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cause {
    Removed,
    Banned,
    /// It waited, and is not let in.
    TurnedAway,
    /// It waited, and there is no waiting any more.
    Locked,
    /// It waited, the channel is open again, and it is full.
    Full,
}

impl Cause {
    /// For the peer.
    pub(super) const fn code(self) -> Code {
        match self {
            Cause::Removed | Cause::TurnedAway => Code::Removed,
            Cause::Banned => Code::Banned,
            Cause::Locked => Code::Locked,
            Cause::Full => Code::Full,
        }
    }

    /// For the others.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Cause::Removed => "removed",
            Cause::Banned => "banned",
            Cause::TurnedAway => "turned-away",
            Cause::Locked => "locked",
            Cause::Full => "full",
        }
    }

    pub(super) const fn sentence(self) -> &'static str {
        match self {
            Cause::Removed => "a moderator has removed this peer from the channel",
            Cause::Banned => "a moderator has banned this user from the channel",
            Cause::TurnedAway => "a moderator does not let this peer in",
            Cause::Locked => "the channel is locked, and nobody may wait any more",
            Cause::Full => "the channel is open again, but full",
        }
    }
}
