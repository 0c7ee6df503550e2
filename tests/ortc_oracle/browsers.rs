//! The capabilities of three browsers as mediasoup-client reads them out of their SDP (August 2026), and their
//! parameters. mediasoup-client keeps one header extension an id, under the kind of the section it read last: video.

use serde_json::{Value, json};

pub(crate) const BROWSERS: [&str; 3] = ["chromium", "firefox", "safari"];

pub(crate) const MID: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";
pub(crate) const RID: &str = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id";
pub(crate) const REPAIRED_RID: &str = "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id";
pub(crate) const ABS_SEND_TIME: &str = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time";
pub(crate) const TRANSPORT_CC: &str = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
pub(crate) const AUDIO_LEVEL: &str = "urn:ietf:params:rtp-hdrext:ssrc-audio-level";
pub(crate) const ORIENTATION: &str = "urn:3gpp:video-orientation";
pub(crate) const OFFSET: &str = "urn:ietf:params:rtp-hdrext:toffset";
pub(crate) const PLAYOUT_DELAY: &str = "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay";
pub(crate) const CAPTURE_TIME: &str = "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time";
pub(crate) const DESCRIPTOR: &str =
    "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension";
pub(crate) const TIMING: &str = "http://www.webrtc.org/experiments/rtp-hdrext/video-timing";

fn h264(packetization_mode: u8, profile_level_id: &str) -> Value {
    json!({"level-asymmetry-allowed": 1, "packetization-mode": packetization_mode, "profile-level-id": profile_level_id})
}

/// (name, payload type, RTX payload type, fmtp)
fn video_codecs(browser: &str) -> Vec<(&'static str, u8, u8, Value)> {
    match browser {
        "chromium" => vec![
            ("VP8", 96, 97, json!({})),
            ("H264", 103, 104, h264(1, "42001f")),
            ("H264", 107, 108, h264(0, "42001f")),
            ("H264", 109, 114, h264(1, "42e01f")),
            ("H264", 115, 116, h264(0, "42e01f")),
            ("H264", 117, 118, h264(1, "4d001f")),
            ("H264", 39, 40, h264(0, "4d001f")),
            ("AV1", 45, 46, json!({"level-idx": 5, "profile": 0, "tier": 0})),
            ("VP9", 98, 99, json!({"profile-id": 0})),
            ("VP9", 100, 101, json!({"profile-id": 2})),
            ("H265", 49, 50, json!({"profile-id": 1, "tier-flag": 0, "level-id": 180, "tx-mode": "SRST"})),
        ],
        "firefox" => vec![
            ("VP8", 120, 124, json!({"max-fs": 12288, "max-fr": 60})),
            ("VP9", 121, 125, json!({"max-fs": 12288, "max-fr": 60})),
            ("H264", 126, 127, h264(1, "42e01f")),
            ("H264", 97, 98, json!({"profile-level-id": "42e01f", "level-asymmetry-allowed": 1})),
            ("H264", 105, 106, h264(1, "42001f")),
            ("AV1", 99, 100, json!({})),
        ],
        _ => vec![
            ("H264", 96, 97, h264(1, "640c1f")),
            ("H264", 98, 99, h264(1, "42e01f")),
            ("H264", 100, 101, h264(0, "640c1f")),
            ("H264", 102, 125, h264(0, "42e01f")),
            ("H265", 104, 105, json!({"level-id": 93, "tx-mode": "SRST"})),
            ("VP8", 106, 107, json!({})),
            ("VP9", 108, 109, json!({"profile-id": 0})),
            ("VP9", 127, 124, json!({"profile-id": 2})),
            ("AV1", 45, 46, json!({"level-idx": 5, "profile": 0, "tier": 0})),
        ],
    }
}

fn opus(browser: &str) -> (u8, Value) {
    match browser {
        "firefox" => (109, json!({"maxplaybackrate": 48000, "stereo": 1, "useinbandfec": 1})),
        _ => (111, json!({"minptime": 10, "useinbandfec": 1})),
    }
}

/// (kind of the last section that had it, uri, id)
fn extensions(browser: &str) -> Vec<(&'static str, &'static str, u8)> {
    match browser {
        "firefox" => vec![
            ("audio", AUDIO_LEVEL, 1),
            ("audio", "urn:ietf:params:rtp-hdrext:csrc-audio-level", 2),
            ("video", MID, 3),
            ("video", ABS_SEND_TIME, 4),
            ("video", OFFSET, 5),
            ("video", PLAYOUT_DELAY, 6),
            ("video", TRANSPORT_CC, 7),
            ("video", RID, 8),
            ("video", REPAIRED_RID, 9),
        ],
        _ => vec![
            ("audio", AUDIO_LEVEL, 1),
            ("video", ABS_SEND_TIME, 2),
            ("video", TRANSPORT_CC, 3),
            ("video", MID, 4),
            ("video", PLAYOUT_DELAY, 5),
            ("video", TIMING, 7),
            ("video", CAPTURE_TIME, 9),
            ("video", RID, 10),
            ("video", REPAIRED_RID, 11),
            ("video", DESCRIPTOR, 12),
            ("video", ORIENTATION, 13),
            ("video", OFFSET, 14),
        ],
    }
}

fn video_feedback() -> Value {
    json!([{"type": "goog-remb"}, {"type": "transport-cc"}, {"type": "ccm", "parameter": "fir"}, {"type": "nack"},
        {"type": "nack", "parameter": "pli"}])
}

/// The browser's own capabilities, before any server is asked. mediasoup-client adds `nack` to Opus.
pub(crate) fn native(browser: &str) -> Value {
    let (payload_type, parameters) = opus(browser);
    let audio = |mime_type: &str, payload_type: u8, clock_rate: u32, channels: u8, parameters: Value| {
        json!({"kind": "audio", "mimeType": mime_type, "preferredPayloadType": payload_type, "clockRate": clock_rate,
            "channels": channels, "parameters": parameters, "rtcpFeedback": [{"type": "transport-cc"}, {"type": "nack"}]})
    };
    let mut codecs = vec![
        audio("audio/opus", payload_type, 48000, 2, parameters),
        audio("audio/G722", 9, 8000, 1, json!({})),
        audio("audio/PCMU", 0, 8000, 1, json!({})),
        audio("audio/telephone-event", 126, 8000, 1, json!({})),
    ];
    for (name, payload_type, rtx, parameters) in video_codecs(browser) {
        codecs.push(json!({"kind": "video", "mimeType": format!("video/{name}"), "preferredPayloadType": payload_type,
            "clockRate": 90000, "parameters": parameters, "rtcpFeedback": video_feedback()}));
        codecs.push(json!({"kind": "video", "mimeType": "video/rtx", "preferredPayloadType": rtx, "clockRate": 90000,
            "parameters": {"apt": payload_type}, "rtcpFeedback": []}));
    }
    let extensions: Vec<_> = extensions(browser)
        .into_iter()
        .map(|(kind, uri, id)| json!({"kind": kind, "uri": uri, "preferredId": id}))
        .collect();
    json!({"codecs": codecs, "headerExtensions": extensions})
}
