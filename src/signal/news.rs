//! The notifications for many: their types, and which unread one each makes old, where queues may fold them.

use crate::base::id::{PeerId, ProducerId};
use crate::signal::text::{About, Step};

pub(super) struct News {
    pub(super) kind: &'static str,
    /// None: it is delivered whatever comes after it.
    pub(super) about: Option<About>,
}

impl News {
    pub(super) const fn peer_joined(id: PeerId) -> News {
        News::of("peer-joined", id.0, Step::Begins)
    }

    pub(super) const fn peer_left(id: PeerId) -> News {
        News::of("peer-left", id.0, Step::Ends)
    }

    pub(super) const fn peer_updated(id: PeerId) -> News {
        News::of("peer-updated", id.0, Step::Describes)
    }

    pub(super) const fn peer_waiting(id: PeerId) -> News {
        News::of("peer-waiting", id.0, Step::Begins)
    }

    pub(super) const fn waiting_ended(id: PeerId) -> News {
        News::of("waiting-ended", id.0, Step::Ends)
    }

    pub(super) const fn message() -> News {
        News { kind: "message", about: None }
    }

    /// It is away, or back.
    pub(super) const fn peer_away(id: PeerId, away: bool) -> News {
        News::of(if away { "peer-away" } else { "peer-back" }, id.0, Step::ChangesPresence)
    }

    pub(super) const fn new_producer(id: ProducerId) -> News {
        News::of("new-producer", id.0, Step::Begins)
    }

    pub(super) const fn producer_closed(id: ProducerId) -> News {
        News::of("producer-closed", id.0, Step::Ends)
    }

    pub(super) const fn producer_paused(id: ProducerId, paused: bool) -> News {
        News::of(if paused { "producer-paused" } else { "producer-resumed" }, id.0, Step::Changes)
    }

    // The single things of a channel. Ids count from 1 and never get so far.

    pub(super) const fn last_n_changed() -> News {
        News::of("last-n-changed", u64::MAX, Step::Changes)
    }

    pub(super) const fn active_speaker() -> News {
        News::of("active-speaker", u64::MAX - 1, Step::Changes)
    }

    pub(super) const fn audio_levels() -> News {
        News::of("audio-levels", u64::MAX - 2, Step::Changes)
    }

    pub(super) const fn channel_changed() -> News {
        News::of("channel-changed", u64::MAX - 3, Step::Changes)
    }

    const fn of(kind: &'static str, thing: u64, step: Step) -> News {
        News { kind, about: Some(About { thing, step }) }
    }
}
