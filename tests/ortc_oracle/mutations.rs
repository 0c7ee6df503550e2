//! Single changes to a publisher's parameters and a receiver's capabilities, each with its effect on the two answers.
//! `Stricter` and `Laxer` are the whole list of differences from mediasoup in what is accepted.

use super::browsers::{ABS_SEND_TIME, CAPTURE_TIME, OFFSET, TRANSPORT_CC};
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    /// Both accept, or both refuse.
    Same,
    /// mediasoup's ortc.js accepts what we refuse; why.
    Stricter(&'static str),
    /// mediasoup refuses what we accept; why.
    Laxer(&'static str),
}
use Answer::{Laxer, Same, Stricter};

/// Makes the change; false where it does not apply.
type Change = Box<dyn Fn(&mut Value, &mut StdRng) -> bool>;

pub(crate) struct Mutation {
    pub(crate) name: String,
    pub(crate) answer: Answer,
    pub(crate) change: Change,
}

fn at(answer: Answer, pointer: &'static str, value: Value) -> Mutation {
    let change = {
        let value = value.clone();
        move |target: &mut Value, _: &mut StdRng| set(target, pointer, value.clone())
    };
    Mutation { name: format!("{pointer} = {value}"), answer, change: Box::new(change) }
}

fn with(answer: Answer, name: &str, change: impl Fn(&mut Value, &mut StdRng) -> bool + 'static) -> Mutation {
    Mutation { name: name.to_owned(), answer, change: Box::new(change) }
}

/// Sets a field (its parent must be there), or removes it where the value is null.
fn set(target: &mut Value, pointer: &str, value: Value) -> bool {
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    match target.pointer_mut(parent) {
        Some(Value::Object(object)) if value.is_null() => object.remove(field).is_some(),
        Some(Value::Object(object)) => object.insert(field.to_owned(), value.clone()) != Some(value),
        Some(Value::Array(list)) => match field.parse::<usize>().ok().and_then(|index| list.get_mut(index)) {
            Some(element) => std::mem::replace(element, value.clone()) != value,
            None => false,
        },
        _ => false,
    }
}

fn push(target: &mut Value, field: &str, entry: Value) -> bool {
    target[field].as_array_mut().is_some_and(|list| {
        list.push(entry);
        true
    })
}

fn named(target: &Value, name: &str) -> bool {
    target["codecs"][0]["mimeType"] == name
}

const RANGE: &str = "RTP bounds its numbers; mediasoup leaves that to its worker or to nobody";
const FORM: &str = "mediasoup replaces a malformed optional field by its default";
const TEXT: &str = "WEBRTC.md: numbers are accepted as text too";
const SDP: &str = "control characters would become lines of other clients' SDP";

pub(crate) fn of_parameters() -> Vec<Mutation> {
    let mut all = vec![
        at(Same, "/codecs", json!(null)),
        at(Same, "/codecs", json!({})),
        at(Stricter("a producer without a codec is refused by mediasoup's worker"), "/codecs", json!([])),
        at(Same, "/codecs/0", json!(null)),
        at(Same, "/codecs/0", json!("VP8")),
        at(Same, "/codecs/0/mimeType", json!(null)),
        at(Same, "/codecs/0/mimeType", json!(7)),
        at(Same, "/codecs/0/mimeType", json!("text/VP8")),
        at(Same, "/codecs/0/mimeType", json!("video")),
        at(Same, "/codecs/0/mimeType", json!("video/H266")),
        at(Same, "/codecs/0/mimeType", json!("audio/red")),
        at(Same, "/codecs/0/payloadType", json!(null)),
        at(Same, "/codecs/0/payloadType", json!("96")),
        at(Stricter(RANGE), "/codecs/1/payloadType", json!(-1)),
        at(Stricter(RANGE), "/codecs/1/payloadType", json!(128)),
        at(Stricter(RANGE), "/codecs/1/payloadType", json!(72)),
        at(Same, "/codecs/0/clockRate", json!(null)),
        at(Same, "/codecs/0/clockRate", json!("90000")),
        at(Same, "/codecs/0/clockRate", json!(16000)),
        at(Same, "/codecs/0/parameters", json!(null)),
        at(Same, "/codecs/0/parameters/foo", json!("bar")),
        at(Same, "/codecs/0/parameters/foo", json!(1.5)),
        at(Same, "/codecs/0/parameters/foo", json!("")),
        at(Same, "/codecs/0/parameters/foo", json!(true)),
        at(Same, "/codecs/0/parameters/foo", json!({})),
        at(Stricter(SDP), "/codecs/0/parameters/foo", json!("1\r\na=x")),
        at(Stricter(FORM), "/codecs/0/parameters", json!("x")),
        at(Same, "/codecs/0/rtcpFeedback", json!(null)),
        at(Same, "/codecs/0/rtcpFeedback", json!([])),
        at(Same, "/codecs/0/rtcpFeedback", json!([{"type": "nack", "parameter": 1}])),
        at(Same, "/codecs/0/rtcpFeedback", json!([{"parameter": "pli"}])),
        at(Same, "/codecs/0/rtcpFeedback", json!(["nack"])),
        at(Stricter(FORM), "/codecs/0/rtcpFeedback", json!("nack")),
        at(Same, "/codecs/1/parameters/apt", json!(null)),
        at(Same, "/codecs/1/parameters/apt", json!(33)),
        at(Same, "/codecs/1/parameters/apt", json!("x")),
        at(Same, "/headerExtensions", json!(null)),
        at(Same, "/headerExtensions", json!([])),
        at(Same, "/headerExtensions", json!("x")),
        at(Same, "/headerExtensions/0", json!(5)),
        at(Same, "/headerExtensions/0/uri", json!(null)),
        at(Same, "/headerExtensions/0/uri", json!("urn:nobody:knows")),
        at(Same, "/headerExtensions/0/id", json!(null)),
        at(Same, "/headerExtensions/0/id", json!("4")),
        at(Stricter(RANGE), "/headerExtensions/0/id", json!(0)),
        at(Stricter(RANGE), "/headerExtensions/0/id", json!(15)),
        at(Stricter(RANGE), "/headerExtensions/0/id", json!(256)),
        at(Laxer("an extension's own parameters are not read"), "/headerExtensions/0/parameters", json!({"x": true})),
        at(Laxer("only true encrypts"), "/headerExtensions/0/encrypt", json!("yes")),
        at(Same, "/encodings", json!("x")),
        at(Same, "/encodings", json!(null)),
        at(Same, "/encodings", json!([])),
        at(Same, "/encodings/0", json!(3)),
        at(Same, "/encodings/0/ssrc", json!("1")),
        at(Stricter(RANGE), "/encodings/0/ssrc", json!(0)),
        at(Stricter(RANGE), "/encodings/0/ssrc", json!(-5)),
        at(Stricter(RANGE), "/encodings/0/ssrc", json!(1.5)),
        at(Stricter(RANGE), "/encodings/0/ssrc", json!(4_294_967_296_u64)),
        at(Same, "/encodings/0/rid", json!(5)),
        at(Stricter(RANGE), "/encodings/0/rid", json!("r".repeat(32))),
        at(Same, "/encodings/0/rtx", json!("x")),
        at(Same, "/encodings/0/rtx", json!({})),
        at(Same, "/encodings/0/dtx", json!("yes")),
        at(Same, "/encodings/0/scalabilityMode", json!(5)),
        at(Same, "/encodings/0/scalabilityMode", json!("L3T3_KEY")),
        at(Same, "/encodings/0/scalabilityMode", json!("S2T1")),
        at(Same, "/encodings/0/scalabilityMode", json!("nonsense")),
        at(Same, "/encodings/0/maxBitrate", json!(300_000)),
        at(Same, "/encodings/0/adaptivePtime", json!(true)),
        at(Same, "/encodings/0/scaleResolutionDownBy", json!("four")),
        at(Same, "/rtcp", json!(null)),
        at(Same, "/rtcp", json!("x")),
        at(Same, "/rtcp/cname", json!(null)),
        at(Same, "/rtcp/cname", json!(5)),
        at(Same, "/rtcp/reducedSize", json!(false)),
        at(Stricter(SDP), "/rtcp/cname", json!("a\nb")),
        at(Same, "/msid", json!("stream track")),
        at(Same, "/msid", json!(5)),
        at(Stricter(SDP), "/msid", json!("a\nb")),
        at(Same, "/mid", json!(5)),
        at(Stricter(RANGE), "/mid", json!("m".repeat(32))),
    ];
    all.extend(of_codec_details());
    all
}

fn of_codec_details() -> Vec<Mutation> {
    let h264 = |answer, field: &'static str, value: Value| {
        with(answer, &format!("H264 {field} = {value}"), move |target, _| {
            named(target, "video/H264") && set(target, &format!("/codecs/0/parameters/{field}"), value.clone())
        })
    };
    let vp9 = |answer, value: Value| {
        with(answer, &format!("VP9 profile-id = {value}"), move |target, _| {
            named(target, "video/VP9") && set(target, "/codecs/0/parameters/profile-id", value.clone())
        })
    };
    vec![
        h264(Same, "packetization-mode", json!(null)),
        h264(Same, "packetization-mode", json!(2)),
        h264(Laxer(TEXT), "packetization-mode", json!("1")),
        h264(Laxer(TEXT), "packetization-mode", json!("0")),
        h264(Same, "profile-level-id", json!(null)),
        h264(Same, "profile-level-id", json!("f4001f")),
        h264(Same, "profile-level-id", json!("nonsense")),
        h264(Same, "profile-level-id", json!("42E034")),
        h264(Same, "profile-level-id", json!("42f00b")),
        h264(Same, "profile-level-id", json!("4d801f")),
        h264(Same, "profile-level-id", json!("58c01f")),
        h264(Same, "profile-level-id", json!("58801f")),
        h264(Same, "profile-level-id", json!("64001f")),
        h264(Laxer("constrained high is taken as high"), "profile-level-id", json!("640c1f")),
        h264(Same, "level-asymmetry-allowed", json!(null)),
        h264(Same, "level-asymmetry-allowed", json!("1")),
        vp9(Same, json!(null)),
        vp9(Same, json!(1)),
        vp9(Same, json!(2)),
        vp9(Laxer(TEXT), json!("2")),
        with(Stricter("a receiver of another profile cannot decode it"), "AV1 profile = 1", |target, _| {
            named(target, "video/AV1") && set(target, "/codecs/0/parameters/profile", json!(1))
        }),
        with(Same, "AV1 without profile, level and tier", |target, _| {
            named(target, "video/AV1") && set(target, "/codecs/0/parameters", json!({}))
        }),
        with(Same, "Opus in mono", |target, _| {
            named(target, "audio/opus") && set(target, "/codecs/0/channels", json!(1))
        }),
        with(Same, "Opus without channels", |target, _| {
            named(target, "audio/opus") && set(target, "/codecs/0/channels", json!(null))
        }),
        with(Same, "video with channels", |target, _| {
            !named(target, "audio/opus") && set(target, "/codecs/0/channels", json!(2))
        }),
        with(Laxer(TEXT), "apt as text", |target, _| {
            let apt = target["codecs"][1]["parameters"]["apt"].to_string();
            set(target, "/codecs/1/parameters/apt", json!(apt))
        }),
        with(Same, "apt to itself", |target, _| {
            let own = target["codecs"][1]["payloadType"].clone();
            set(target, "/codecs/1/parameters/apt", own)
        }),
        with(Same, "RTX first", |target, _| {
            let codecs = target["codecs"].as_array_mut().unwrap();
            codecs.reverse();
            codecs.len() > 1
        }),
        with(Same, "no RTX", |target, _| target["codecs"].as_array_mut().unwrap().drain(1..).count() > 0),
        with(Stricter(RANGE), "one payload type twice", |target, _| {
            let media = target["codecs"][0]["payloadType"].clone();
            set(target, "/codecs/1/payloadType", media)
        }),
        with(Same, "RTX for audio", |target, _| {
            named(target, "audio/opus")
                && push(
                    target,
                    "codecs",
                    json!({"mimeType": "audio/rtx", "payloadType": 63, "clockRate": 48000,
                    "parameters": {"apt": target["codecs"][0]["payloadType"]}}),
                )
        }),
        with(Stricter("every codec is of the producer's kind"), "a codec of the other kind after it", |target, _| {
            let other = if named(target, "audio/opus") { ("video/VP8", 90000, 1) } else { ("audio/opus", 48000, 2) };
            push(
                target,
                "codecs",
                json!({"mimeType": other.0, "payloadType": 36, "clockRate": other.1, "channels": other.2}),
            )
        }),
        with(Laxer("codecs after the first are ignored"), "an unknown codec after it", |target, _| {
            let kind = if named(target, "audio/opus") { "audio" } else { "video" };
            push(target, "codecs", json!({"mimeType": format!("{kind}/H266"), "payloadType": 36, "clockRate": 90000}))
        }),
        with(Same, "a second known codec after it", |target, _| {
            let codecs = target["codecs"].as_array().unwrap();
            codecs.iter().all(|codec| codec["payloadType"] != 36)
                && !named(target, "audio/opus")
                && push(target, "codecs", json!({"mimeType": "video/vp8", "payloadType": 36, "clockRate": 90000}))
        }),
        with(Stricter("one SSRC is one stream"), "an SSRC twice", |target, _| {
            let ssrc = target["encodings"][0]["ssrc"].clone();
            ssrc.is_u64() && push(target, "encodings", json!({"ssrc": ssrc}))
        }),
        with(Stricter("one SSRC is one stream"), "RTX under the media's SSRC", |target, _| {
            let ssrc = target["encodings"][0]["ssrc"].clone();
            ssrc.is_u64() && set(target, "/encodings/0/rtx", json!({"ssrc": ssrc}))
        }),
        with(
            Stricter("a nameless encoding among several cannot be told"),
            "a nameless second encoding",
            |target, _| push(target, "encodings", json!({})),
        ),
        with(Stricter("without a name no packet finds its producer"), "neither SSRC, rid nor mid", |target, _| {
            set(target, "/mid", json!(null));
            set(target, "/encodings", json!([]))
        }),
        with(Stricter("an id names one extension"), "one extension id twice", |target, _| {
            let first = target["headerExtensions"][0]["id"].clone();
            set(target, "/headerExtensions/1", json!({"uri": OFFSET, "id": first}))
        }),
    ]
}

/// Changes to capabilities; the answer is can_consume's, or that of reading them.
pub(crate) fn of_capabilities() -> Vec<Mutation> {
    let retain = |name: &str, list: &'static str, keep: fn(&Value) -> bool| {
        with(Same, name, move |target, _| {
            let list = target[list].as_array_mut().unwrap();
            let before = list.len();
            list.retain(keep);
            list.len() != before
        })
    };
    vec![
        at(Same, "/codecs", json!(null)),
        at(Same, "/codecs", json!("x")),
        at(Same, "/codecs/0", json!(1)),
        at(Same, "/codecs/0/mimeType", json!(null)),
        at(Same, "/codecs/0/mimeType", json!("audio/OPUS")),
        at(Same, "/codecs/0/clockRate", json!(null)),
        at(Same, "/codecs/0/clockRate", json!(8000)),
        at(Same, "/codecs/0/preferredPayloadType", json!(null)),
        at(Same, "/codecs/0/preferredPayloadType", json!("96")),
        at(Same, "/codecs/0/parameters/x", json!(false)),
        at(Stricter(FORM), "/codecs/0/parameters", json!("x")),
        at(Stricter(FORM), "/codecs/0/rtcpFeedback", json!("x")),
        at(Same, "/codecs/0/rtcpFeedback", json!([{}])),
        at(Same, "/headerExtensions", json!(null)),
        at(Same, "/headerExtensions", json!("x")),
        at(Same, "/headerExtensions/0/kind", json!("text")),
        at(Same, "/headerExtensions/0/uri", json!(null)),
        at(Same, "/headerExtensions/0/preferredId", json!(null)),
        at(Same, "/headerExtensions/0/preferredId", json!(13)),
        at(Stricter(RANGE), "/headerExtensions/0/preferredId", json!(1000)),
        retain("no video RTX", "codecs", |codec| codec["mimeType"] != "video/rtx"),
        retain("no VP8", "codecs", |codec| codec["mimeType"] != "video/VP8"),
        retain("no audio", "codecs", |codec| codec["kind"] != "audio"),
        retain("no H264 of mode 1", "codecs", |codec| codec["parameters"]["packetization-mode"] != 1),
        retain("no transport-cc", "headerExtensions", |entry| entry["uri"] != TRANSPORT_CC),
        retain("no abs-send-time", "headerExtensions", |entry| entry["uri"] != ABS_SEND_TIME),
        retain("neither", "headerExtensions", |entry| entry["uri"] != TRANSPORT_CC && entry["uri"] != ABS_SEND_TIME),
        retain("no capture time", "headerExtensions", |entry| entry["uri"] != CAPTURE_TIME),
        with(Same, "one kind for all extensions", |target, _| {
            for entry in target["headerExtensions"].as_array_mut().unwrap() {
                entry["kind"] = json!("video");
            }
            true
        }),
        with(Same, "feedback of the client's own", |target, _| {
            for codec in target["codecs"].as_array_mut().unwrap() {
                codec["rtcpFeedback"].as_array_mut().unwrap().push(json!({"type": "rrtr"}));
            }
            true
        }),
        with(Same, "less feedback", |target, rng| {
            for codec in target["codecs"].as_array_mut().unwrap() {
                codec["rtcpFeedback"].as_array_mut().unwrap().retain(|_| rng.random_bool(0.5));
            }
            true
        }),
        with(Same, "RTX of other payload types", |target, _| {
            for codec in target["codecs"].as_array_mut().unwrap() {
                if codec["mimeType"] == "video/rtx" {
                    codec["parameters"]["apt"] = json!(33);
                }
            }
            true
        }),
        with(Same, "the codecs in another order", |target, _| {
            target["codecs"].as_array_mut().unwrap().reverse();
            true
        }),
    ]
}
