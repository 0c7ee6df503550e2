//! The mutes that stand for a peer: a producer that it makes anew begins muted, until a moderator lets go. A source is
//! the client's own word, so while any of a kind is muted all new ones of that kind begin so, whatever they are called.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::base::id::PeerId;
use crate::base::limits::{MUTED_SOURCES_MAX, NAME_BYTES_MAX};
use crate::shard::command::MediaKind;
use crate::signal::peer::Peer;

/// Whose mutes they are.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Muted {
    /// Proved by a token.
    User(Arc<str>),
    Peer(PeerId),
}

impl Muted {
    pub(super) fn of(id: PeerId, peer: &Peer) -> Muted {
        if peer.proven { Muted::User(peer.user.clone()) } else { Muted::Peer(id) }
    }
}

#[derive(Debug)]
enum Hold {
    /// `appData.source` of each that was muted.
    Sources(BTreeSet<Option<Arc<str>>>),
    Whole,
}

#[derive(Debug, Default)]
pub(super) struct Mutes {
    audio: Option<Hold>,
    video: Option<Hold>,
}

impl Mutes {
    fn of(&mut self, kind: MediaKind) -> &mut Option<Hold> {
        match kind {
            MediaKind::Audio => &mut self.audio,
            MediaKind::Video => &mut self.video,
        }
    }

    /// One producer is muted. Of too many sources, and of one that is too long, the whole kind is.
    pub(super) fn hold(&mut self, kind: MediaKind, source: Option<&str>) {
        let of = self.of(kind);
        let sources = match of.get_or_insert_with(|| Hold::Sources(BTreeSet::new())) {
            Hold::Whole => return,
            Hold::Sources(sources) => sources,
        };
        sources.insert(source.map(Arc::from));
        if sources.len() > MUTED_SOURCES_MAX || source.is_some_and(|source| source.len() > NAME_BYTES_MAX) {
            *of = Some(Hold::Whole);
        }
    }

    pub(super) fn hold_whole(&mut self, kind: MediaKind) {
        *self.of(kind) = Some(Hold::Whole);
    }

    /// One producer is let go, the last of its source that was muted. The mute of a whole kind stays.
    pub(super) fn let_go(&mut self, kind: MediaKind, source: Option<&str>) {
        let of = self.of(kind);
        if let Some(Hold::Sources(sources)) = of {
            sources.retain(|held| held.as_deref() != source);
            if sources.is_empty() {
                *of = None;
            }
        }
    }

    pub(super) fn let_go_whole(&mut self, kind: MediaKind) {
        *self.of(kind) = None;
    }

    /// Whether a new producer of this kind begins muted.
    pub(super) fn holds(&self, kind: MediaKind) -> bool {
        match kind {
            MediaKind::Audio => self.audio.is_some(),
            MediaKind::Video => self.video.is_some(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.audio.is_none() && self.video.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAMERA: Option<&str> = Some("camera");
    const SCREEN: Option<&str> = Some("screen");

    #[test]
    fn a_kind_is_held_until_all_that_was_muted_of_it_is_let_go() {
        let mut mutes = Mutes::default();
        mutes.hold(MediaKind::Video, CAMERA);
        mutes.hold(MediaKind::Video, None);
        mutes.hold(MediaKind::Video, None);
        assert!(mutes.holds(MediaKind::Video) && !mutes.holds(MediaKind::Audio));
        mutes.let_go(MediaKind::Video, SCREEN);
        mutes.let_go(MediaKind::Audio, CAMERA);
        mutes.let_go(MediaKind::Video, None);
        assert!(mutes.holds(MediaKind::Video), "the camera is not let go");
        mutes.let_go(MediaKind::Video, CAMERA);
        assert!(mutes.is_empty());
    }

    #[test]
    fn a_whole_kind_is_let_go_as_a_whole() {
        let mut mutes = Mutes::default();
        mutes.hold_whole(MediaKind::Audio);
        mutes.hold(MediaKind::Audio, CAMERA);
        mutes.let_go(MediaKind::Audio, CAMERA);
        assert!(mutes.holds(MediaKind::Audio));
        mutes.let_go_whole(MediaKind::Video);
        assert!(mutes.holds(MediaKind::Audio));
        mutes.let_go_whole(MediaKind::Audio);
        assert!(mutes.is_empty());
    }

    #[test]
    fn many_sources_and_long_ones_become_the_whole_kind() {
        let mut mutes = Mutes::default();
        (0..=MUTED_SOURCES_MAX).for_each(|n| mutes.hold(MediaKind::Audio, Some(&n.to_string())));
        (0..=MUTED_SOURCES_MAX).for_each(|n| mutes.let_go(MediaKind::Audio, Some(&n.to_string())));
        assert!(matches!(mutes.audio, Some(Hold::Whole)));
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        mutes.hold(MediaKind::Video, Some(&long));
        assert!(matches!(mutes.video, Some(Hold::Whole)));
    }
}
