//! The words of the protocol for the two kinds of media.

use crate::shard::command::MediaKind;

pub(in crate::signal) const fn kind_name(kind: MediaKind) -> &'static str {
    match kind {
        MediaKind::Audio => "audio",
        MediaKind::Video => "video",
    }
}

/// None: it is neither word.
pub(in crate::signal) fn kind_named(word: &str) -> Option<MediaKind> {
    [MediaKind::Audio, MediaKind::Video].into_iter().find(|kind| kind_name(*kind) == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_of_one_kind() {
        assert_eq!(["audio", "video", "smell"].map(kind_named), [Some(MediaKind::Audio), Some(MediaKind::Video), None]);
    }
}
