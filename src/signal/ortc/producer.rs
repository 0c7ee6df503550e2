//! The plan of one producer: from a publisher's `rtpParameters` to the shard's spec and the values that its consumers
//! need.
//!
//! A producer is one codec: the first that is not RTX, with its RTX. Browsers list more only after renegotiations that
//! mediasoup-client does not do; further ones are ignored.

use super::capabilities::{RouterCodec, router_codecs};
use super::codec_match::Format;
use super::error::OrtcError;
use super::parse;
use super::read::At;
use super::types::{
    CodecParameters, ParameterValue, RtcpFeedback, RtpCodecParameters, RtpEncodingParameters,
    RtpHeaderExtensionParameters, RtpParameters, feedback_flags,
};
use crate::base::id::{self as base, Mid, PayloadType, Ssrc};
use crate::base::ranking::Ranking;
use crate::shard::command::{EncodingSpec, MediaKind, ProducerSpec};
use crate::wire::extension::{Extension, ExtensionIds};
use serde_json::Value;

/// The kind of a producer's layers, in mediasoup's words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProducerType {
    Simple,
    Simulcast,
    Svc,
}

impl ProducerType {
    pub const fn name(self) -> &'static str {
        match self {
            ProducerType::Simple => "simple",
            ProducerType::Simulcast => "simulcast",
            ProducerType::Svc => "svc",
        }
    }
}

/// A producer, checked.
#[derive(Clone, PartialEq, Debug)]
pub struct ProducerPlan {
    pub spec: ProducerSpec,
    pub kind: MediaKind,
    pub r#type: ProducerType,
    /// The router's codec it maps to.
    pub codec: &'static RouterCodec,
    /// The publisher's own fmtp: it describes the stream and goes on to consumers.
    pub(super) parameters: CodecParameters,
    /// The values that consumers read in their single encoding.
    pub(super) scalability_mode: Option<String>,
    pub(super) max_bitrate: Option<u64>,
    /// Empty where the publisher named none.
    pub cname: String,
    pub msid: Option<String>,
    pub mid: Option<Mid>,
}

/// Checks the `rtpParameters` of a produce request and maps them to the router.
pub fn plan_producer(kind: MediaKind, rtp_parameters: &Value) -> Result<ProducerPlan, OrtcError> {
    let parameters = parse::rtp_parameters(&At::root("rtpParameters", rtp_parameters), kind)?;
    let (codec, router) = first_codec(&parameters.codecs)?;
    let rtx = rtx_payload_type(&parameters.codecs, codec, router)?;
    check_encodings(kind, &parameters, codec.payload_type)?;

    let RtpParameters { mid, encodings, rtcp, msid, header_extensions, .. } = &parameters;
    let layers = Layers::of(encodings);
    let (ranking, ranked) = ranking(encodings);
    let spec = ProducerSpec {
        kind,
        codec: router.codec,
        clock_rate: router.clock_rate,
        payload_type: PayloadType(codec.payload_type),
        rtx_payload_type: rtx,
        mid: *mid,
        encodings: encoding_specs(encodings, rtx.is_some()),
        ranking,
        ranked,
        top: top(kind, encodings),
        extensions: extension_ids(header_extensions),
        feedback: feedback_flags(&feedback(codec, router, header_extensions)),
    };
    Ok(ProducerPlan {
        r#type: match encodings.len() {
            0 | 1 if kind == MediaKind::Video && layers.spatial.max(layers.temporal) > 1 => ProducerType::Svc,
            0 | 1 => ProducerType::Simple,
            _ => ProducerType::Simulcast,
        },
        spec,
        kind,
        codec: router,
        parameters: codec.parameters.clone(),
        scalability_mode: consumer_scalability_mode(encodings),
        max_bitrate: encodings.iter().filter_map(|encoding| encoding.max_bitrate).max(),
        cname: rtcp.cname.clone(),
        msid: msid.clone(),
        mid: *mid,
    })
}

fn invalid(path: String, expected: impl Into<String>) -> OrtcError {
    OrtcError::Invalid { path, expected: expected.into() }
}

fn first_codec(codecs: &[RtpCodecParameters]) -> Result<(&RtpCodecParameters, &'static RouterCodec), OrtcError> {
    let Some((index, codec)) = codecs.iter().enumerate().find(|(_, codec)| !Format::from(*codec).is_rtx()) else {
        return Err(invalid("rtpParameters.codecs".to_owned(), "must have a media codec"));
    };
    let format = Format::from(codec);
    match router_codecs().find(|router| format.matches(router)) {
        Some(router) => Ok((codec, router)),
        None => Err(OrtcError::UnsupportedCodec {
            path: format!("rtpParameters.codecs[{index}]"),
            codec: description(codec),
        }),
    }
}

/// As in SDP, with those parameters that tell codecs of one name apart: `video/H264/90000 profile-level-id=f4001f`.
fn description(codec: &RtpCodecParameters) -> String {
    let mut text = format!("{}/{}", codec.mime_type, codec.clock_rate);
    if let Some(channels) = codec.channels {
        text.push_str(&format!("/{channels}"));
    }
    for name in ["profile-level-id", "packetization-mode", "profile-id", "profile", "num_streams", "coupled_streams"] {
        match codec.parameters.get(name) {
            Some(ParameterValue::Number(number)) => text.push_str(&format!(" {name}={number}")),
            Some(ParameterValue::Text(value)) => text.push_str(&format!(" {name}={value}")),
            None => {}
        }
    }
    text
}

/// The payload type that repairs `media`. Every RTX entry must repair some media codec of the list (RFC 4588 8.6).
fn rtx_payload_type(
    codecs: &[RtpCodecParameters],
    media: &RtpCodecParameters,
    router: &RouterCodec,
) -> Result<Option<PayloadType>, OrtcError> {
    let mut found = None;
    for (index, codec) in codecs.iter().enumerate().filter(|(_, codec)| Format::from(*codec).is_rtx()) {
        let apt = codec.parameters.get("apt").and_then(|apt| apt.number());
        let is_repaired =
            |other: &&RtpCodecParameters| apt == Some(u32::from(other.payload_type)) && !Format::from(*other).is_rtx();
        let Some(repaired) = codecs.iter().find(is_repaired) else {
            return Err(invalid(
                format!("rtpParameters.codecs[{index}].parameters.apt"),
                "must be the payloadType of a media codec in rtpParameters.codecs",
            ));
        };
        if router.rtx_payload_type().is_none() {
            return Err(OrtcError::UnsupportedCodec {
                path: format!("rtpParameters.codecs[{index}]"),
                codec: format!("RTX for {}", router.mime_type),
            });
        }
        if repaired.payload_type == media.payload_type && found.is_none() {
            found = Some(PayloadType(codec.payload_type));
        }
    }
    Ok(found)
}

/// Each stream must be recognisable when its packets come: by SSRC, by rid, or, alone, by mid.
fn check_encodings(kind: MediaKind, parameters: &RtpParameters, payload_type: u8) -> Result<(), OrtcError> {
    let RtpParameters { encodings, mid, .. } = parameters;
    let path = |index: usize, field: &str| format!("rtpParameters.encodings[{index}]{field}");
    if kind == MediaKind::Audio && encodings.len() > 1 {
        return Err(invalid("rtpParameters.encodings".to_owned(), "must have one element for audio"));
    }
    let mut ssrcs = Vec::new();
    for (index, encoding) in encodings.iter().enumerate() {
        if encoding.codec_payload_type.is_some_and(|theirs| theirs != payload_type) {
            return Err(invalid(
                path(index, ".codecPayloadType"),
                format!("must be {payload_type}, the first codec's"),
            ));
        }
        let named = [(".ssrc", encoding.ssrc), (".rtx.ssrc", encoding.rtx.map(|rtx| rtx.ssrc))];
        for (field, ssrc) in named.into_iter().filter_map(|(field, ssrc)| ssrc.map(|ssrc| (field, ssrc))) {
            if ssrcs.contains(&ssrc) {
                return Err(invalid(path(index, field), format!("{ssrc} is used twice")));
            }
            ssrcs.push(ssrc);
        }
        if encoding.rid.is_some() && encodings[..index].iter().any(|other| other.rid == encoding.rid) {
            return Err(invalid(path(index, ".rid"), "is used twice"));
        }
        if encodings.len() > 1 && encoding.ssrc.is_none() && encoding.rid.is_none() {
            return Err(invalid(path(index, ""), "must have an ssrc or a rid, as one of several encodings"));
        }
    }
    let anonymous = encodings.iter().all(|encoding| encoding.ssrc.is_none() && encoding.rid.is_none());
    if anonymous && mid.is_none() {
        return Err(invalid("rtpParameters.mid".to_owned(), "must be given where no encoding has an ssrc or a rid"));
    }
    Ok(())
}

/// Without encodings there is one, which its mid names.
fn encoding_specs(encodings: &[RtpEncodingParameters], has_rtx: bool) -> Vec<EncodingSpec> {
    let spec = |encoding: &RtpEncodingParameters| EncodingSpec {
        ssrc: encoding.ssrc.map(Ssrc),
        rtx_ssrc: encoding.rtx.filter(|_| has_rtx).map(|rtx| Ssrc(rtx.ssrc)),
        rid: encoding.rid,
    };
    if encodings.is_empty() { vec![EncodingSpec::default()] } else { encodings.iter().map(spec).collect() }
}

/// The layer of each encoding, and whether the client states it: by its scale, then by its maximum bitrate, then by its
/// frame rate. Where those are equal the order is that of the list.
fn ranking(encodings: &[RtpEncodingParameters]) -> (Ranking, bool) {
    // W3C WebRTC, addTransceiver: where one has a scale, those without have 1; where none has, the list decides.
    let size = |encoding: &RtpEncodingParameters| {
        let scale = encoding.extent.scale_resolution_down_by.unwrap_or(1.0);
        let bitrate = encoding.max_bitrate.unwrap_or(u64::MAX);
        (-scale, bitrate, encoding.extent.max_framerate.unwrap_or(f64::INFINITY))
    };
    let compare = |a: &u8, b: &u8| {
        let [a, b] = [a, b].map(|at| size(&encodings[usize::from(*at)]));
        a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)).then(a.2.total_cmp(&b.2))
    };
    // At most ENCODINGS_MAX.
    let mut order: Vec<u8> = (0..encodings.len() as u8).collect();
    order.sort_by(compare);
    let ranked = order.windows(2).all(|pair| compare(&pair[0], &pair[1]).is_lt());
    (Ranking::smallest_first(order).unwrap_or_default(), ranked)
}

fn extension_ids(extensions: &[RtpHeaderExtensionParameters]) -> ExtensionIds {
    let mut ids = ExtensionIds::default();
    for entry in extensions {
        ids.set(entry.extension, entry.id);
    }
    ids
}

/// The feedback that both sides speak; of the two bandwidth estimators the one whose header extension the publisher
/// sends.
fn feedback(
    codec: &RtpCodecParameters,
    router: &RouterCodec,
    extensions: &[RtpHeaderExtensionParameters],
) -> Vec<RtcpFeedback> {
    let both = router.feedback().iter().copied().filter(|feedback| codec.rtcp_feedback.contains(feedback)).collect();
    one_estimator(both, |extension| extensions.iter().any(|entry| entry.extension == extension))
}

/// Transport-wide feedback where its extension is there, else REMB where abs-send-time is, else neither.
pub(super) fn one_estimator(mut feedback: Vec<RtcpFeedback>, has: impl Fn(Extension) -> bool) -> Vec<RtcpFeedback> {
    let dropped: &[RtcpFeedback] = if has(Extension::TransportCc) {
        &[RtcpFeedback::GoogRemb]
    } else if has(Extension::AbsSendTime) {
        &[RtcpFeedback::TransportCc]
    } else {
        &[RtcpFeedback::TransportCc, RtcpFeedback::GoogRemb]
    };
    feedback.retain(|entry| !dropped.contains(entry));
    feedback
}

/// The number of layers in a scalability mode (W3C WebRTC-SVC section 6): `L3T2_KEY` is 3 and 2; one each where there
/// is none, or one that cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Layers {
    spatial: u8,
    temporal: u8,
}

impl Layers {
    const ONE: Layers = Layers { spatial: 1, temporal: 1 };

    fn of(encodings: &[RtpEncodingParameters]) -> Layers {
        mode(encodings).and_then(Layers::parse).unwrap_or(Layers::ONE)
    }

    fn parse(mode: &str) -> Option<Layers> {
        let (spatial, rest) = leading_number(mode.strip_prefix(['L', 'S'])?)?;
        let (temporal, _) = leading_number(rest.strip_prefix('T')?)?;
        Some(Layers { spatial, temporal })
    }
}

/// The highest layers there are to choose from.
fn top(kind: MediaKind, encodings: &[RtpEncodingParameters]) -> base::Layers {
    let layers = Layers::of(encodings);
    let spatial = if encodings.len() > 1 { encodings.len() as u8 } else { layers.spatial };
    match kind {
        MediaKind::Audio => base::Layers::default(),
        MediaKind::Video => base::Layers { spatial: spatial - 1, temporal: layers.temporal - 1 },
    }
}

/// 1 to 99 at the start of `text`, and the rest.
fn leading_number(text: &str) -> Option<(u8, &str)> {
    let digits = text.bytes().take(2).take_while(u8::is_ascii_digit).count();
    let number = text[..digits].parse().ok().filter(|_| !text.starts_with('0'))?;
    Some((number, &text[digits..]))
}

/// Encodings of one producer are assumed to share their mode.
fn mode(encodings: &[RtpEncodingParameters]) -> Option<&str> {
    encodings.iter().find_map(|encoding| encoding.scalability_mode.as_deref())
}

/// Simulcast reads like spatial layers: the receiver gets one stream in any case.
fn consumer_scalability_mode(encodings: &[RtpEncodingParameters]) -> Option<String> {
    match encodings.len() {
        0 | 1 => mode(encodings).map(str::to_owned),
        streams => Some(format!("L{streams}T{}", Layers::of(encodings).temporal)),
    }
}

#[cfg(test)]
#[path = "producer_tests.rs"]
mod tests;
