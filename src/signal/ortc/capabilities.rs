//! The router's RTP capabilities: one fixed list for every channel. Consumers receive its payload types and extension
//! ids.

use super::h264::{Profile, ProfileLevel};
use super::types::{
    CodecParameters, ExtensionDirection, RtcpFeedback, RtpCapabilities, RtpCodecCapability, RtpHeaderExtension,
};
use crate::shard::command::MediaKind;
use crate::wire::codec::Codec;
use crate::wire::extension::Extension;

/// A codec the router forwards.
#[derive(PartialEq, Eq, Debug)]
pub struct RouterCodec {
    pub codec: Codec,
    pub mime_type: &'static str,
    pub clock_rate: u32,
    pub channels: Option<u8>,
    pub payload_type: u8,
    pub(super) variant: Variant,
}

/// The parameters that distinguish codecs of one mime type.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Variant {
    Plain,
    Multiopus { channel_mapping: &'static str, num_streams: u32, coupled_streams: u32 },
    Vp9 { profile_id: u32 },
    Av1 { profile: u32 },
    H264 { packetization_mode: u32, profile: Profile },
}

const fn audio(payload_type: u8, mime_type: &'static str, channels: u8, variant: Variant) -> RouterCodec {
    RouterCodec { codec: Codec::Opus, mime_type, clock_rate: 48_000, channels: Some(channels), payload_type, variant }
}

const fn video(payload_type: u8, codec: Codec, mime_type: &'static str, variant: Variant) -> RouterCodec {
    RouterCodec { codec, mime_type, clock_rate: 90_000, channels: None, payload_type, variant }
}

const fn multiopus(mapping: &'static str, num_streams: u32, coupled_streams: u32) -> Variant {
    Variant::Multiopus { channel_mapping: mapping, num_streams, coupled_streams }
}

const fn h264(payload_type: u8, packetization_mode: u32, profile: Profile) -> RouterCodec {
    video(payload_type, Codec::H264, "video/H264", Variant::H264 { packetization_mode, profile })
}

/// Clients take the first of a kind: Opus and VP8 lead. A video codec's RTX has the payload type after its own.
/// 127 stays free: mediasoup-client probes with it. RED is left out: mediasoup-client keeps one codec of a kind and
/// then writes `100/100=`, which Chromium drops.
static CODECS: [RouterCodec; 16] = [
    audio(96, "audio/opus", 2, Variant::Plain),
    audio(97, "audio/multiopus", 4, multiopus("0,1,2,3", 2, 2)),
    audio(98, "audio/multiopus", 6, multiopus("0,4,1,2,3,5", 4, 2)),
    audio(99, "audio/multiopus", 8, multiopus("0,6,1,2,3,4,5,7", 5, 3)),
    video(100, Codec::Vp8, "video/VP8", Variant::Plain),
    video(102, Codec::Vp9, "video/VP9", Variant::Vp9 { profile_id: 0 }),
    video(104, Codec::Vp9, "video/VP9", Variant::Vp9 { profile_id: 2 }),
    h264(106, 1, Profile::ConstrainedBaseline),
    h264(108, 0, Profile::ConstrainedBaseline),
    h264(110, 1, Profile::Baseline),
    h264(112, 0, Profile::Baseline),
    h264(114, 1, Profile::Main),
    h264(116, 0, Profile::Main),
    h264(118, 1, Profile::High),
    h264(120, 0, Profile::High),
    video(122, Codec::Av1, "video/AV1", Variant::Av1 { profile: 0 }),
];

pub(super) fn router_codecs() -> impl Iterator<Item = &'static RouterCodec> {
    CODECS.iter()
}

impl RouterCodec {
    pub fn kind(&self) -> MediaKind {
        if self.codec.is_video() { MediaKind::Video } else { MediaKind::Audio }
    }

    /// The payload type of its retransmissions; audio has none.
    pub fn rtx_payload_type(&self) -> Option<u8> {
        self.codec.is_video().then(|| self.payload_type + 1)
    }

    pub(super) fn is_h264(&self) -> bool {
        self.codec == Codec::H264
    }

    /// Opus has no `nack`: without RTX a packet could only be repeated under its old key and nonce.
    pub(super) fn feedback(&self) -> &'static [RtcpFeedback] {
        if self.codec.is_video() {
            &[
                RtcpFeedback::Nack,
                RtcpFeedback::NackPli,
                RtcpFeedback::CcmFir,
                RtcpFeedback::GoogRemb,
                RtcpFeedback::TransportCc,
            ]
        } else {
            &[RtcpFeedback::TransportCc]
        }
    }

    fn parameters(&self) -> CodecParameters {
        let pairs = match self.variant {
            // Profile 0 is what a receiver infers where none is named.
            Variant::Plain | Variant::Av1 { .. } => vec![],
            Variant::Multiopus { channel_mapping, num_streams, coupled_streams } => vec![
                ("channel_mapping", channel_mapping.into()),
                ("num_streams", num_streams.into()),
                ("coupled_streams", coupled_streams.into()),
            ],
            Variant::Vp9 { profile_id } => vec![("profile-id", profile_id.into())],
            Variant::H264 { packetization_mode, profile } => vec![
                ("level-asymmetry-allowed", 1.into()),
                ("packetization-mode", packetization_mode.into()),
                ("profile-level-id", ProfileLevel { profile, ..ProfileLevel::DEFAULT }.to_string().as_str().into()),
            ],
        };
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// How the router uses an extension for a kind; None: not at all.
///
/// Mid and rid identify streams; a consumer is one stream, so that rid never goes out. Bandwidth is estimated on video,
/// so that audio carries the transport-wide number only towards us. The dependency descriptor is offered to all
/// receivers, and `consumer` gives it to those that cannot do without (docs/decisions/0017).
pub(super) fn direction(extension: Extension, kind: MediaKind) -> Option<ExtensionDirection> {
    let video = kind == MediaKind::Video;
    match extension {
        Extension::Mid | Extension::AbsSendTime | Extension::PlayoutDelay | Extension::AbsCaptureTime => {
            Some(ExtensionDirection::Sendrecv)
        }
        Extension::TransportCc => Some(if video { ExtensionDirection::Sendrecv } else { ExtensionDirection::Recvonly }),
        Extension::AudioLevel => (!video).then_some(ExtensionDirection::Sendrecv),
        Extension::TransmissionOffset | Extension::DependencyDescriptor => {
            video.then_some(ExtensionDirection::Sendrecv)
        }
        Extension::Rid | Extension::RepairedRid => video.then_some(ExtensionDirection::Recvonly),
    }
}

/// The answer to get-rtp-capabilities: the same for everyone.
pub fn router_capabilities() -> RtpCapabilities {
    let mut codecs = Vec::new();
    for codec in router_codecs() {
        codecs.push(RtpCodecCapability {
            kind: codec.kind(),
            mime_type: codec.mime_type.to_owned(),
            preferred_payload_type: Some(codec.payload_type),
            clock_rate: codec.clock_rate,
            channels: codec.channels,
            parameters: codec.parameters(),
            rtcp_feedback: codec.feedback().to_vec(),
        });
        if let Some(rtx) = codec.rtx_payload_type() {
            codecs.push(RtpCodecCapability {
                kind: codec.kind(),
                mime_type: "video/rtx".to_owned(),
                preferred_payload_type: Some(rtx),
                clock_rate: codec.clock_rate,
                channels: None,
                parameters: [("apt".to_owned(), u32::from(codec.payload_type).into())].into(),
                rtcp_feedback: vec![],
            });
        }
    }
    let mut header_extensions = Vec::new();
    for uri in Extension::ALL {
        for kind in [MediaKind::Audio, MediaKind::Video] {
            if let Some(direction) = direction(uri, kind) {
                let preferred_id = uri.id();
                header_extensions.push(RtpHeaderExtension {
                    kind,
                    uri,
                    preferred_id,
                    preferred_encrypt: false,
                    direction,
                });
            }
        }
    }
    RtpCapabilities { codecs, header_extensions }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::collections::BTreeSet;

    fn capabilities() -> Value {
        serde_json::to_value(router_capabilities()).unwrap()
    }

    #[test]
    fn every_codec_has_a_numeric_payload_type_of_its_own_and_a_clock_rate() {
        let mut seen = BTreeSet::new();
        for codec in capabilities()["codecs"].as_array().unwrap() {
            let payload_type = codec["preferredPayloadType"].as_u64().unwrap();
            assert!((96..=126).contains(&payload_type) || (35..=63).contains(&payload_type));
            assert!(seen.insert(payload_type), "{payload_type} twice");
            assert!(codec["clockRate"].is_u64());
            for name in ["apt", "profile-id", "packetization-mode", "level-asymmetry-allowed"] {
                let value = &codec["parameters"][name];
                assert!(value.is_null() || value.is_u64(), "{codec}");
            }
            let profile_level_id = &codec["parameters"]["profile-level-id"];
            assert!(profile_level_id.is_null() || profile_level_id.is_string());
        }
    }

    #[test]
    fn opus_and_vp8_come_first_and_red_is_not_offered() {
        let codecs = router_capabilities().codecs;
        let first = |kind| codecs.iter().find(|codec| codec.kind == kind).unwrap().mime_type.as_str();
        assert_eq!(first(MediaKind::Audio), "audio/opus");
        assert_eq!(first(MediaKind::Video), "video/VP8");
        assert!(codecs.iter().all(|codec| codec.mime_type != "audio/red"));
    }

    #[test]
    fn every_video_codec_and_only_they_have_rtx() {
        let codecs = router_capabilities().codecs;
        for codec in codecs.iter().filter(|codec| !codec.mime_type.ends_with("/rtx")) {
            let apt = u32::from(codec.preferred_payload_type.unwrap());
            let rtx = codecs
                .iter()
                .filter(|other| other.mime_type == "video/rtx" && other.parameters["apt"].number() == Some(apt));
            assert_eq!(rtx.count(), usize::from(codec.kind == MediaKind::Video));
        }
    }

    #[test]
    fn an_extension_has_one_entry_a_kind_and_one_id() {
        let capabilities = capabilities();
        let extensions = capabilities["headerExtensions"].as_array().unwrap();
        let mut entries = BTreeSet::new();
        for extension in extensions {
            let (kind, uri) = (extension["kind"].as_str().unwrap(), extension["uri"].as_str().unwrap());
            assert!(entries.insert((kind, uri)));
            assert!((1..=14).contains(&extension["preferredId"].as_u64().unwrap()));
            let same = extensions.iter().filter(|other| other["uri"] == extension["uri"]);
            assert!(same.into_iter().all(|other| other["preferredId"] == extension["preferredId"]));
        }
        for extension in Extension::ALL {
            assert!(entries.iter().any(|(_, uri)| *uri == extension.uri()));
        }
        let mid = json!({"kind": "audio", "uri": Extension::Mid.uri(), "preferredId": 1, "preferredEncrypt": false,
            "direction": "sendrecv"});
        assert_eq!(extensions[0], mid);
    }
}
