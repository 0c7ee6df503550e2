//! Opus payloads (RFC 6716 section 3, RFC 7587).

use super::PayloadInfo;

/// Every packet is a frame that decodes by itself.
pub(super) fn inspect(payload: &[u8]) -> PayloadInfo {
    let readable = !payload.is_empty();
    PayloadInfo { starts_keyframe: readable, starts_frame: readable, ..PayloadInfo::default() }
}

/// Whether the encoder is silent here: the table of contents alone, or its frames of no length. Encoders in DTX mode
/// send such a packet at the start of a pause and about every 400 ms within it.
pub fn is_dtx(payload: &[u8]) -> bool {
    let [toc, rest @ ..] = payload else { return false };
    // RFC 6716 section 3.2: codes 0 and 1 hold frames of one size, 2 a length first, 3 a frame count first.
    match (toc & 3, rest) {
        (0 | 1, rest) => rest.is_empty(),
        (2, rest) => matches!(rest, [] | [0]),
        // Without padding nothing but the frame count is left when all frames are empty.
        (_, rest) => matches!(rest, [] | [_]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dtx_is_a_packet_without_sound_in_it() {
        for silent in [&[0x78][..], &[0x79], &[0x7A, 0], &[0x7B, 0x02]] {
            assert!(is_dtx(silent), "{silent:?}");
        }
        for sound in [&[][..], &[0x78, 1], &[0x79, 1, 2], &[0x7A, 1, 2], &[0x7B, 2, 1, 2]] {
            assert!(!is_dtx(sound), "{sound:?}");
        }
    }

    #[test]
    fn every_packet_can_be_the_first() {
        assert!(inspect(&[0x78]).starts_keyframe);
        assert_eq!(inspect(&[]), PayloadInfo::default());
    }
}
