//! RTP parameters as mediasoup-client writes and reads them, without any SDP: the fake browser's streams in the
//! protocol's JSON.

use serde_json::{Value, json};

use crate::base::id::{PayloadType, Ssrc};
use crate::sim::sink::SinkConfig;
use crate::sim::source::SourceConfig;
use crate::wire::codec::Codec;
use crate::wire::extension::{Extension, ExtensionIds};

/// The payload types and extension ids of our publishers: unlike the server's, as a browser's are.
pub fn payload_types(codec: Codec) -> (PayloadType, Option<PayloadType>) {
    let (media, rtx) = match codec {
        Codec::Opus => (109, None),
        Codec::Vp8 => (120, Some(124)),
        Codec::Vp9 => (121, Some(125)),
        Codec::H264 => (126, Some(119)),
        Codec::Av1 => (98, Some(99)),
    };
    (PayloadType(media), rtx.map(PayloadType))
}

pub fn extension_ids(codec: Codec) -> ExtensionIds {
    let mut ids = ExtensionIds::default();
    ids.set(Extension::Mid, 9);
    ids.set(Extension::AbsSendTime, 3);
    ids.set(Extension::TransportCc, 7);
    if !codec.is_video() {
        ids.set(Extension::AudioLevel, 1);
    }
    ids
}

fn mime_type(codec: Codec) -> &'static str {
    match codec {
        Codec::Opus => "audio/opus",
        Codec::Vp8 => "video/VP8",
        Codec::Vp9 => "video/VP9",
        Codec::H264 => "video/H264",
        Codec::Av1 => "video/AV1",
    }
}

/// The `kind` and `rtpParameters` of `produce`.
pub fn produce(source: &SourceConfig) -> (&'static str, Value) {
    let codec = source.codec;
    let feedback = if codec.is_video() {
        json!([
            { "type": "goog-remb", "parameter": "" }, { "type": "transport-cc", "parameter": "" },
            { "type": "ccm", "parameter": "fir" }, { "type": "nack", "parameter": "" },
            { "type": "nack", "parameter": "pli" },
        ])
    } else {
        json!([{ "type": "transport-cc", "parameter": "" }])
    };
    let parameters = match codec {
        Codec::Opus => json!({ "minptime": 10, "useinbandfec": 1 }),
        Codec::Vp9 => json!({ "profile-id": 0 }),
        Codec::H264 => json!({
            "level-asymmetry-allowed": 1, "packetization-mode": 1, "profile-level-id": "42e01f",
        }),
        Codec::Vp8 | Codec::Av1 => json!({}),
    };
    let mut codecs = vec![json!({
        "mimeType": mime_type(codec), "payloadType": source.payload_type.0, "clockRate": source.clock_rate,
        "parameters": parameters, "rtcpFeedback": feedback,
    })];
    if !codec.is_video() {
        codecs[0]["channels"] = json!(2);
    }
    let mut encoding = json!({ "ssrc": source.ssrc.0, "dtx": false });
    if let Some((payload_type, ssrc)) = source.rtx {
        codecs.push(json!({
            "mimeType": "video/rtx", "payloadType": payload_type.0, "clockRate": source.clock_rate,
            "parameters": { "apt": source.payload_type.0 }, "rtcpFeedback": [],
        }));
        encoding["rtx"] = json!({ "ssrc": ssrc.0 });
    }
    let extension = |extension: Extension| {
        let id = source.extensions.get(extension)?;
        Some(json!({ "uri": extension.uri(), "id": id, "encrypt": false, "parameters": {} }))
    };
    let extensions: Vec<Value> = Extension::ALL.into_iter().filter_map(extension).collect();
    let parameters = json!({
        "mid": source.mid.as_ref().map(|mid| mid.as_str()),
        "codecs": codecs,
        "headerExtensions": extensions,
        "encodings": [encoding],
        "rtcp": { "cname": source.cname, "reducedSize": true },
    });
    (if codec.is_video() { "video" } else { "audio" }, parameters)
}

/// The stream that `consumer-params` announces; None when a part is missing or unknown.
pub fn consumed(rtp_parameters: &Value) -> Option<SinkConfig> {
    let codecs = rtp_parameters["codecs"].as_array()?;
    let media = codecs.first()?;
    let codec = match media["mimeType"].as_str()?.to_ascii_lowercase().as_str() {
        "audio/opus" => Codec::Opus,
        "video/vp8" => Codec::Vp8,
        "video/vp9" => Codec::Vp9,
        "video/h264" => Codec::H264,
        "video/av1" => Codec::Av1,
        _ => return None,
    };
    let payload_type = |codec: &Value| Some(PayloadType(u8::try_from(codec["payloadType"].as_u64()?).ok()?));
    let ssrc = |value: &Value| Some(Ssrc(u32::try_from(value.as_u64()?).ok()?));
    let rtx = codecs
        .iter()
        .find(|other| other["parameters"]["apt"] == media["payloadType"])
        .and_then(|rtx| Some((payload_type(rtx)?, ssrc(&rtp_parameters["encodings"][0]["rtx"]["ssrc"])?)));
    let feedback = media["rtcpFeedback"].as_array()?;
    Some(SinkConfig {
        codec,
        clock_rate: u32::try_from(media["clockRate"].as_u64()?).ok()?,
        payload_type: payload_type(media)?,
        ssrc: ssrc(&rtp_parameters["encodings"][0]["ssrc"])?,
        rtx,
        nack: feedback
            .iter()
            .any(|entry| entry["type"] == "nack" && entry["parameter"].as_str().is_none_or(str::is_empty)),
        stamped: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::Mid;
    use crate::base::units::Bitrate;

    #[test]
    fn what_is_produced_reads_back_as_a_stream() {
        for codec in [Codec::Opus, Codec::Vp8, Codec::Vp9, Codec::H264, Codec::Av1] {
            let (payload_type, rtx) = payload_types(codec);
            let source = SourceConfig {
                codec,
                clock_rate: if codec.is_video() { 90_000 } else { 48_000 },
                payload_type,
                ssrc: Ssrc(77),
                rtx: rtx.map(|payload_type| (payload_type, Ssrc(78))),
                mid: Mid::new(b"0"),
                cname: "name".into(),
                bitrate: Bitrate::kbps(100),
                frame_rate: 30,
                extensions: extension_ids(codec),
            };
            let (kind, parameters) = produce(&source);
            assert_eq!(kind == "video", codec.is_video());
            let sink = consumed(&parameters).unwrap();
            assert_eq!((sink.codec, sink.payload_type, sink.ssrc), (codec, payload_type, Ssrc(77)));
            assert_eq!((sink.rtx, sink.nack), (source.rtx, codec.is_video()));
        }
    }

    #[test]
    fn parameters_with_parts_missing_are_refused() {
        assert!(consumed(&json!({})).is_none());
        assert!(consumed(&json!({ "codecs": [{ "mimeType": "video/VP8", "payloadType": 300 }] })).is_none());
    }
}
