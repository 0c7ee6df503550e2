//! A peer that has to go: why, and in which words. `removal` writes it, `hub` carries it out once the turn is over.

use crate::base::id::PeerId;
use crate::signal::act::Actor;
use crate::signal::message::{Code, Refusal};

/// A peer that has to go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Dismissal {
    pub(super) peer: PeerId,
    pub(super) refusal: Refusal,
    /// Who pays for the news of it; not a peer: its own account does.
    pub(super) actor: Actor,
}

/// The WebSocket status of a peer that has to go, and may not come again as it is.
const DISMISSED: u16 = 4403;
/// The WebSocket status of a socket whose peer another one has taken up or replaced: its client has no need to come back.
pub(super) const TAKEN_OVER: u16 = 4409;

impl Dismissal {
    /// Its user has joined anew.
    pub(super) fn replaced(peer: PeerId) -> Dismissal {
        let refusal = Refusal::new(Code::Replaced, "this user has joined this channel anew");
        Dismissal { peer, refusal, actor: Actor::Operator }
    }

    pub(super) fn close_code(&self) -> u16 {
        if self.refusal.code == Code::Replaced { TAKEN_OVER } else { DISMISSED }
    }
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
    /// It waited, as too many others of its address or user did, and somebody else came.
    Crowded,
}

impl Cause {
    /// For the peer.
    pub(super) const fn code(self) -> Code {
        match self {
            Cause::Removed | Cause::TurnedAway => Code::Removed,
            Cause::Banned => Code::Banned,
            Cause::Locked | Cause::Crowded => Code::Locked,
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
            Cause::Crowded => "crowded",
        }
    }

    pub(super) const fn sentence(self) -> &'static str {
        match self {
            Cause::Removed => "a moderator has removed this peer from the channel",
            Cause::Banned => "a moderator has banned this user from the channel",
            Cause::TurnedAway => "a moderator does not let this peer in",
            Cause::Locked => "the channel is locked, and nobody may wait any more",
            Cause::Full => "the channel is open again, but full",
            Cause::Crowded => "too many wait, most of them of this address or user: another has this place",
        }
    }
}
