//! When a client's codec is one of the router's. The mime type is not enough: H264 also has a profile and a
//! packetization mode, VP9 and AV1 a profile, multiopus a layout. Levels are left out: browsers name one whatever they
//! send.

use super::capabilities::{RouterCodec, Variant};
use super::h264::ProfileLevel;
use super::types::{CodecParameters, RtpCodecCapability, RtpCodecParameters};

/// The identity of a codec, from either of the two shapes that clients send.
#[derive(Clone, Copy)]
pub(super) struct Format<'a> {
    pub(super) mime_type: &'a str,
    pub(super) clock_rate: u32,
    pub(super) channels: Option<u8>,
    pub(super) parameters: &'a CodecParameters,
}

impl<'a> From<&'a RtpCodecParameters> for Format<'a> {
    fn from(codec: &'a RtpCodecParameters) -> Self {
        let RtpCodecParameters { mime_type, clock_rate, channels, parameters, .. } = codec;
        Format { mime_type, clock_rate: *clock_rate, channels: *channels, parameters }
    }
}

impl<'a> From<&'a RtpCodecCapability> for Format<'a> {
    fn from(codec: &'a RtpCodecCapability) -> Self {
        let RtpCodecCapability { mime_type, clock_rate, channels, parameters, .. } = codec;
        Format { mime_type, clock_rate: *clock_rate, channels: *channels, parameters }
    }
}

impl Format<'_> {
    /// A retransmission payload (RFC 4588 section 8), which is no codec of its own.
    pub(super) fn is_rtx(&self) -> bool {
        self.mime_type.split_once('/').is_some_and(|(_, name)| name.eq_ignore_ascii_case("rtx"))
    }

    /// A numeric parameter, 0 where it is missing; None where it is no number.
    fn number(&self, name: &str) -> Option<u32> {
        self.number_or(name, 0)
    }

    pub(super) fn number_or(&self, name: &str, default: u32) -> Option<u32> {
        self.parameters.get(name).map_or(Some(default), |value| value.number())
    }

    /// H264's profile and level; None where the text names none.
    pub(super) fn profile_level(&self) -> Option<ProfileLevel> {
        match self.parameters.get("profile-level-id") {
            None => Some(ProfileLevel::DEFAULT),
            Some(value) => value.text().and_then(ProfileLevel::parse),
        }
    }

    pub(super) fn matches(&self, router: &RouterCodec) -> bool {
        self.mime_type.eq_ignore_ascii_case(router.mime_type)
            && self.clock_rate == router.clock_rate
            && self.channels == router.channels
            && match router.variant {
                Variant::Plain => true,
                Variant::Multiopus { channel_mapping, num_streams, coupled_streams } => {
                    self.number("num_streams") == Some(num_streams)
                        && self.number("coupled_streams") == Some(coupled_streams)
                        && self.parameters.get("channel_mapping").is_none_or(|map| map.text() == Some(channel_mapping))
                }
                //= RFC 9628 section 6, profile-id: if this parameter is not present, a value of 0 MUST be inferred.
                Variant::Vp9 { profile_id } => self.number("profile-id") == Some(profile_id),
                // RTP Payload Format For AV1, section 7.2.1: a profile that is not present is 0.
                Variant::Av1 { profile } => self.number("profile") == Some(profile),
                // RFC 6184 section 8.2.2: the packetization mode is used symmetrically or not at all.
                Variant::H264 { packetization_mode, profile } => {
                    self.number("packetization-mode") == Some(packetization_mode)
                        && self.profile_level().is_some_and(|theirs| theirs.profile.plays(profile))
                }
            }
    }
}

#[cfg(test)]
mod tests {
    use super::super::capabilities::router_codecs;
    use super::*;

    fn matched(mime_type: &str, parameters: &[(&str, &str)]) -> Vec<u8> {
        matched_as(mime_type, 90_000, None, parameters)
    }

    fn matched_as(mime_type: &str, clock_rate: u32, channels: Option<u8>, parameters: &[(&str, &str)]) -> Vec<u8> {
        let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
        let format = Format { mime_type, clock_rate, channels, parameters: &parameters };
        router_codecs().filter(|codec| format.matches(codec)).map(|codec| codec.payload_type).collect()
    }

    #[test]
    fn every_h264_of_a_browser_is_one_of_the_routers() {
        let mut seen = Vec::new();
        for mode in ["0", "1"] {
            for profile in ["42e01f", "42001f", "4d001f", "64001f"] {
                let parameters = [("packetization-mode", mode), ("profile-level-id", profile)];
                let found = matched("video/h264", &parameters);
                assert_eq!(found.len(), 1, "{mode} {profile}");
                assert!(!seen.contains(&found[0]));
                seen.push(found[0]);
            }
        }
        let safari = matched("video/H264", &[("packetization-mode", "1"), ("profile-level-id", "640c1f")]);
        assert_eq!(safari, matched("video/H264", &[("packetization-mode", "1"), ("profile-level-id", "640034")]));
        assert_eq!(matched("video/H264", &[]), matched("video/H264", &[("profile-level-id", "42e01f")]));
        assert!(matched("video/H264", &[("profile-level-id", "f4001f")]).is_empty());
        assert!(matched("video/H264", &[("packetization-mode", "2")]).is_empty());
    }

    #[test]
    fn vp9_and_av1_match_by_profile_and_vp8_by_name() {
        assert_eq!(matched("video/VP9", &[]), matched("video/vp9", &[("profile-id", "0")]));
        assert_ne!(matched("video/VP9", &[("profile-id", "2")]), matched("video/VP9", &[]));
        for other in ["1", "3", "", "x"] {
            assert!(matched("video/VP9", &[("profile-id", other)]).is_empty(), "{other}");
        }
        let av1 = matched("video/AV1", &[]);
        assert_eq!(av1.len(), 1);
        assert_eq!(matched("video/av1", &[("profile", "0"), ("level-idx", "19"), ("tier", "1")]), av1);
        for other in ["1", "2", "", "x"] {
            assert!(matched("video/AV1", &[("profile", other)]).is_empty(), "{other}");
        }
        assert_eq!(matched("VIDEO/vp8", &[("profile-id", "1"), ("max-fs", "1")]).len(), 1, "VP8 has no profiles");
        assert!(matched("video/H265", &[]).is_empty());
    }

    #[test]
    fn sound_matches_by_clock_rate_channels_and_layout() {
        let opus = |clock_rate, channels| matched_as("audio/opus", clock_rate, channels, &[("stereo", "1")]);
        assert_eq!(opus(48_000, Some(2)).len(), 1);
        for other in [opus(48_000, Some(1)), opus(48_000, None), opus(16_000, Some(2)), opus(90_000, None)] {
            assert!(other.is_empty());
        }
        let surround = |mapping, streams, coupled| {
            let layout = [("channel_mapping", mapping), ("num_streams", streams), ("coupled_streams", coupled)];
            matched_as("audio/multiopus", 48_000, Some(6), &layout)
        };
        assert_eq!(surround("0,4,1,2,3,5", "4", "2"), [98]);
        for other in
            [surround("0,1,2,3,4,5", "4", "2"), surround("0,4,1,2,3,5", "6", "0"), surround("0,4,1,2,3,5", "4", "1")]
        {
            assert!(other.is_empty());
        }
        let unmapped = [("num_streams", "4"), ("coupled_streams", "2")];
        assert_eq!(matched_as("audio/multiopus", 48_000, Some(6), &unmapped), [98]);
    }
}
