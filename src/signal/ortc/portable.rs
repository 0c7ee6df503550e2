//! A producer's plan as one node tells it to another: all that [`plan_consumer`](super::plan_consumer) reads, and what the
//! shard that stands in for the publisher has to know. SSRCs, payload types and extension ids of the publisher stay at its
//! node: between nodes media travels in the router's.

use super::capabilities::{RouterCodec, router_codecs};
use super::error::OrtcError;
use super::parse;
use super::producer::{ProducerPlan, ProducerType};
use super::read::At;
use crate::base::id::{Layers, PayloadType};
use crate::base::limits::{CNAME_BYTES_MAX, ENCODINGS_MAX, EXTENSIONS_PER_PARAMETERS_MAX, NAME_BYTES_MAX};
use crate::base::ranking::Ranking;
use crate::shard::command::{EncodingSpec, FeedbackSpec, ProducerSpec};
use crate::wire::extension::{Extension, ExtensionIds};
use serde_json::{Value, json};

const TYPES: [ProducerType; 3] = [ProducerType::Simple, ProducerType::Simulcast, ProducerType::Svc];
/// As many layers as a descriptor can name (AV1 RTP, appendix A).
const LAYERS_MAX: u32 = 8;

pub fn write_plan(plan: &ProducerPlan) -> Value {
    let ProducerPlan { spec, kind: _, r#type, codec, parameters, scalability_mode, max_bitrate, cname, msid, mid } =
        plan;
    let encodings = spec.encodings.len().min(ENCODINGS_MAX);
    let extensions = Extension::ALL.into_iter().filter(|extension| spec.extensions.get(*extension).is_some());
    let mut data = json!({
        // The router's own number of the codec.
        "codec": codec.payload_type,
        "type": r#type.name(),
        "rtx": spec.rtx_payload_type.is_some(),
        "encodings": encodings,
        "ranking": &spec.ranking.encodings()[..encodings],
        "ranked": spec.ranked,
        "top": [spec.top.spatial, spec.top.temporal],
        "extensions": extensions.map(Extension::id).collect::<Vec<_>>(),
    });
    let mut add = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            data[name] = value;
        }
    };
    add("parameters", (!parameters.is_empty()).then(|| json!(parameters)));
    add("scalabilityMode", scalability_mode.as_ref().map(|mode| json!(mode)));
    add("maxBitrate", max_bitrate.map(|rate| json!(rate)));
    add("cname", (!cname.is_empty()).then(|| json!(cname)));
    add("msid", msid.as_ref().map(|msid| json!(msid)));
    add("mid", mid.map(|mid| json!(mid.as_str())));
    data
}

/// Reads what [`write_plan`] writes, within the bounds that hold for a publisher's own parameters.
pub fn read_plan(value: &Value) -> Result<ProducerPlan, OrtcError> {
    let at = At::root("plan", value);
    at.object()?;
    let number = at.field("codec").integer(0..=127)?;
    let codec = router_codecs().find(|codec| u32::from(codec.payload_type) == number);
    let codec = codec.ok_or_else(|| at.field("codec").error("must be a codec of the router"))?;
    let name = at.field("type").text(NAME_BYTES_MAX)?;
    let r#type = TYPES.into_iter().find(|known| known.name() == name);
    let max_bitrate = at.field("maxBitrate");
    Ok(ProducerPlan {
        spec: spec(&at, codec)?,
        kind: codec.kind(),
        r#type: r#type.ok_or_else(|| at.field("type").error("must be simple, simulcast or svc"))?,
        codec,
        parameters: parse::codec_parameters(&at.field("parameters"))?,
        scalability_mode: at.field("scalabilityMode").optional_text(NAME_BYTES_MAX)?.map(str::to_owned),
        max_bitrate: match max_bitrate.is_absent() {
            true => None,
            false => Some(max_bitrate.value().as_u64().ok_or_else(|| max_bitrate.error("must be a bitrate"))?),
        },
        cname: at.field("cname").optional_text(CNAME_BYTES_MAX)?.unwrap_or_default().to_owned(),
        msid: at.field("msid").optional_text(2 * CNAME_BYTES_MAX)?.map(str::to_owned),
        mid: parse::short_name(&at.field("mid"))?,
    })
}

fn spec(at: &At<'_>, codec: &RouterCodec) -> Result<ProducerSpec, OrtcError> {
    let truth = |name: &str| at.field(name).value() == true;
    let encodings = at.field("encodings").integer(1..=ENCODINGS_MAX as u32)?;
    let rtx = codec.rtx_payload_type().filter(|_| truth("rtx")).map(PayloadType);
    let mut order = Vec::new();
    for place in at.field("ranking").elements(ENCODINGS_MAX)? {
        // The range makes the cast exact.
        order.push(place.integer(0..=encodings - 1)? as u8);
    }
    let ranking = Ranking::smallest_first(order);
    let mut top = Vec::new();
    for layer in at.field("top").elements(2)? {
        top.push(layer.integer(0..=LAYERS_MAX - 1)? as u8);
    }
    let &[spatial, temporal] = top.as_slice() else { return Err(at.field("top").error("must be two layers")) };
    let mut extensions = ExtensionIds::default();
    for entry in at.field("extensions").elements(EXTENSIONS_PER_PARAMETERS_MAX)? {
        let id = entry.integer(0..=255)?;
        let known = Extension::ALL.into_iter().find(|extension| u32::from(extension.id()) == id);
        known.into_iter().for_each(|extension| extensions.set(extension, extension.id()));
    }
    Ok(ProducerSpec {
        kind: codec.kind(),
        codec: codec.codec,
        clock_rate: codec.clock_rate,
        payload_type: PayloadType(codec.payload_type),
        rtx_payload_type: rtx,
        mid: None,
        encodings: vec![EncodingSpec::default(); encodings as usize],
        ranking: ranking.ok_or_else(|| at.field("ranking").error("must name each encoding once"))?,
        ranked: truth("ranked"),
        top: Layers { spatial, temporal },
        extensions,
        feedback: FeedbackSpec::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{ShortName, Ssrc};
    use crate::shard::command::MediaKind;
    use crate::signal::ortc::{
        ConsumerIdentity, can_consume, parse_capabilities, plan_consumer, plan_producer, router_capabilities,
    };

    fn plan(kind: MediaKind, mime: &str, parameters: Value, encodings: Value) -> ProducerPlan {
        let clock = if kind == MediaKind::Audio { 48_000 } else { 90_000 };
        let mut codec = json!({
            "mimeType": mime, "payloadType": 101, "clockRate": clock, "parameters": parameters,
            "rtcpFeedback": [{ "type": "nack" }, { "type": "nack", "parameter": "pli" }, { "type": "transport-cc" }],
        });
        if kind == MediaKind::Audio {
            codec["channels"] = json!(2);
        }
        let mut codecs = vec![codec];
        if kind == MediaKind::Video {
            let apt = json!({ "apt": 101 });
            codecs.push(json!({ "mimeType": "video/rtx", "payloadType": 102, "clockRate": clock, "parameters": apt }));
        }
        let names = ["urn:ietf:params:rtp-hdrext:ssrc-audio-level", "urn:ietf:params:rtp-hdrext:sdes:mid"];
        let extensions: Vec<_> = (1..).zip(names).map(|(id, uri)| json!({ "uri": uri, "id": id })).collect();
        let parameters = json!({
            "mid": "3", "msid": "stream track", "rtcp": { "cname": "anna" },
            "codecs": codecs, "encodings": encodings, "headerExtensions": extensions,
        });
        plan_producer(kind, &parameters).expect("it is well-formed")
    }

    fn plans() -> Vec<ProducerPlan> {
        let simulcast = json!([
            { "rid": "h", "maxBitrate": 900_000, "scaleResolutionDownBy": 1 },
            { "rid": "l", "maxBitrate": 100_000, "scaleResolutionDownBy": 4 },
        ]);
        let h264 = json!({ "packetization-mode": 1, "profile-level-id": "42e01f", "level-asymmetry-allowed": 1 });
        let svc = json!([{ "ssrc": 9, "scalabilityMode": "L3T3_KEY", "rtx": { "ssrc": 10 } }]);
        vec![
            plan(MediaKind::Audio, "audio/opus", json!({ "useinbandfec": 1, "stereo": "1" }), json!([{ "ssrc": 7 }])),
            plan(MediaKind::Video, "video/VP8", json!({}), simulcast),
            plan(MediaKind::Video, "video/H264", h264, json!([{ "ssrc": 7, "maxBitrate": 5 }])),
            plan(MediaKind::Video, "video/VP9", json!({ "profile-id": 0 }), svc),
        ]
    }

    #[test]
    fn what_another_node_reads_serves_its_consumers_as_the_plan_itself_does() {
        let capabilities = parse_capabilities(&json!(router_capabilities())).unwrap();
        let identity = || ConsumerIdentity {
            mid: ShortName::new(b"0").unwrap(),
            ssrc: Ssrc(1),
            rtx_ssrc: Ssrc(2),
            cname: String::new(),
            msid: None,
        };
        for plan in plans() {
            let text = write_plan(&plan).to_string();
            let there = read_plan(&serde_json::from_str(&text).unwrap()).unwrap();
            assert!(can_consume(&there, &capabilities));
            assert_eq!(
                plan_consumer(&there, &capabilities, identity()),
                plan_consumer(&plan, &capabilities, identity()),
                "{text}"
            );
            let of = |plan: &ProducerPlan| {
                let ProducerSpec { kind, codec, clock_rate, encodings, ranking, ranked, top, .. } = plan.spec.clone();
                (kind, codec, clock_rate, encodings.len(), ranking, ranked, top, plan.r#type, plan.mid)
            };
            assert_eq!(of(&there), of(&plan));
            assert_eq!(write_plan(&there), write_plan(&plan), "it can be handed on");
            assert!(there.spec.encodings.iter().all(|encoding| *encoding == EncodingSpec::default()));
        }
    }

    #[test]
    fn a_plan_that_lacks_something_or_has_too_much_is_refused() {
        let whole = write_plan(&plans()[1]);
        let mut broken = vec![json!(null), json!([]), json!({})];
        for (name, wrong) in [
            ("codec", json!(101)),
            ("codec", json!("96")),
            ("type", json!("layered")),
            ("encodings", json!(0)),
            ("encodings", json!(ENCODINGS_MAX + 1)),
            ("ranking", json!([0, 0])),
            ("ranking", json!([2])),
            ("ranking", json!(vec![0; ENCODINGS_MAX + 1])),
            ("top", json!([0])),
            ("top", json!([0, 0, 0])),
            ("top", json!([0, LAYERS_MAX])),
            ("extensions", json!([256])),
            ("parameters", json!({ "x": "y".repeat(2_000) })),
            ("scalabilityMode", json!("L\n")),
            ("maxBitrate", json!(-1)),
            ("cname", json!("c".repeat(CNAME_BYTES_MAX + 1))),
            ("msid", json!(7)),
            ("mid", json!("a b")),
        ] {
            let mut plan = whole.clone();
            plan[name] = wrong;
            broken.push(plan);
        }
        for plan in broken {
            assert!(read_plan(&plan).is_err(), "{plan}");
        }
        let mut later = whole.clone();
        later["extensions"] = json!([15]);
        later["heat"] = json!(40);
        assert!(read_plan(&later).is_ok(), "what a later release adds is passed over");
    }
}
