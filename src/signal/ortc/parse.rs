//! Reads clients' parameters into the types, field by field, within the bounds of `base::limits`. Checks form; the
//! meaning of a value among the others is for `producer` and `consumer`.

use super::codec_match::Format;
use super::error::OrtcError;
use super::kind::kind_name;
use super::read::At;
use super::types::{
    CodecParameters, Extent, ParameterValue, RtcpFeedback, RtcpParameters, RtpCodecCapability, RtpCodecParameters,
    RtpEncodingParameters, RtpHeaderExtensionParameters, RtpParameters, RtxParameters,
};
use crate::base::id::ShortName;
use crate::base::limits::{
    CNAME_BYTES_MAX, CODEC_PARAMETER_BYTES_MAX, CODECS_PER_PARAMETERS_MAX, ENCODINGS_MAX,
    EXTENSIONS_PER_PARAMETERS_MAX, FEEDBACK_PER_CODEC_MAX, NAME_BYTES_MAX, PARAMETERS_PER_CODEC_MAX,
};
use crate::shard::command::MediaKind;
use crate::wire::extension::{Extension, ExtensionSet};
use serde_json::Value;

/// The capabilities of a receiver, checked once; [`parse_capabilities`] makes it.
#[derive(Clone, PartialEq, Debug)]
pub struct ConsumerCapabilities {
    pub(super) codecs: Vec<RtpCodecCapability>,
    /// Extensions that it knows under the router's ids.
    pub(super) extensions: ExtensionSet,
}

/// Reads the `rtpCapabilities` of a consume request.
pub fn parse_capabilities(value: &Value) -> Result<ConsumerCapabilities, OrtcError> {
    let at = At::root("rtpCapabilities", value);
    at.object()?;
    let mut codecs = Vec::new();
    for codec in at.field("codecs").elements(CODECS_PER_PARAMETERS_MAX)? {
        codecs.push(codec_capability(&codec)?);
    }
    let mut extensions = ExtensionSet::default();
    for entry in at.field("headerExtensions").elements(EXTENSIONS_PER_PARAMETERS_MAX)? {
        entry.object()?;
        // Checked, and then ignored: a browser's audio and video sections share their ids, of which mediasoup-client
        // keeps one entry, under the kind it saw last.
        if !matches!(entry.field("kind").text(NAME_BYTES_MAX), Ok("audio" | "video")) {
            return Err(entry.field("kind").error("must be \"audio\" or \"video\""));
        }
        let uri = entry.field("uri").text(NAME_BYTES_MAX)?;
        let id = entry.field("preferredId").integer(0..=255)?;
        if let Some(extension) = Extension::from_uri(uri).filter(|known| u32::from(known.id()) == id) {
            extensions.insert(extension);
        }
    }
    Ok(ConsumerCapabilities { codecs, extensions })
}

fn codec_capability(at: &At<'_>) -> Result<RtpCodecCapability, OrtcError> {
    at.object()?;
    let (kind, mime_type) = mime_type(at)?;
    let payload_type = at.field("preferredPayloadType");
    Ok(RtpCodecCapability {
        kind,
        mime_type,
        preferred_payload_type: if payload_type.is_absent() { None } else { Some(byte(&payload_type, 127)?) },
        clock_rate: at.field("clockRate").integer(1..=u32::MAX)?,
        channels: channels(at, kind)?,
        parameters: codec_parameters(&at.field("parameters"))?,
        rtcp_feedback: rtcp_feedback(&at.field("rtcpFeedback"))?,
    })
}

/// Reads the `rtpParameters` of a produce request.
pub(super) fn rtp_parameters(at: &At<'_>, kind: MediaKind) -> Result<RtpParameters, OrtcError> {
    at.object()?;
    if at.field("codecs").is_absent() {
        return Err(at.field("codecs").error("must be an array"));
    }
    let mut parameters = RtpParameters { mid: short_name(&at.field("mid"))?, ..RtpParameters::default() };
    for entry in at.field("codecs").elements(CODECS_PER_PARAMETERS_MAX)? {
        let codec = codec(&entry, kind)?;
        if parameters.codecs.iter().any(|other| other.payload_type == codec.payload_type) {
            return Err(entry.field("payloadType").error(format!("{} is used twice", codec.payload_type)));
        }
        parameters.codecs.push(codec);
    }
    for entry in at.field("headerExtensions").elements(EXTENSIONS_PER_PARAMETERS_MAX)? {
        if let Some(extension) = header_extension(&entry, &parameters.header_extensions)? {
            parameters.header_extensions.push(extension);
        }
    }
    for entry in at.field("encodings").elements(ENCODINGS_MAX)? {
        parameters.encodings.push(encoding(&entry)?);
    }
    let rtcp = at.field("rtcp");
    if !rtcp.is_absent() {
        rtcp.object()?;
    }
    let cname = rtcp.field("cname").optional_text(CNAME_BYTES_MAX)?.unwrap_or_default().to_owned();
    parameters.rtcp = RtcpParameters { cname, reduced_size: true, mux: true };
    parameters.msid = at.field("msid").optional_text(NAME_BYTES_MAX)?.map(str::to_owned);
    Ok(parameters)
}

fn codec(at: &At<'_>, kind: MediaKind) -> Result<RtpCodecParameters, OrtcError> {
    at.object()?;
    let (its_kind, mime_type) = mime_type(at)?;
    if its_kind != kind {
        return Err(at.field("mimeType").error(format!("{mime_type} is no {} codec", kind_name(kind))));
    }
    let payload_type = byte(&at.field("payloadType"), 127)?;
    // RFC 5761 section 4: with RTP and RTCP on one port these cannot be told from RTCP packet types.
    if (64..=95).contains(&payload_type) {
        return Err(at.field("payloadType").error("must not be in 64..=95, which RTCP packets use"));
    }
    let codec = RtpCodecParameters {
        mime_type,
        payload_type,
        clock_rate: at.field("clockRate").integer(1..=u32::MAX)?,
        channels: channels(at, kind)?,
        parameters: codec_parameters(&at.field("parameters"))?,
        rtcp_feedback: rtcp_feedback(&at.field("rtcpFeedback"))?,
    };
    if Format::from(&codec).is_rtx() && !codec.parameters.contains_key("apt") {
        return Err(at.field("parameters").field("apt").error("must name the payload type it repairs"));
    }
    Ok(codec)
}

fn mime_type(at: &At<'_>) -> Result<(MediaKind, String), OrtcError> {
    let field = at.field("mimeType");
    let text = field.text(NAME_BYTES_MAX)?;
    let kind = match text.split_once('/') {
        Some((kind, name)) if kind.eq_ignore_ascii_case("audio") && !name.is_empty() => MediaKind::Audio,
        Some((kind, name)) if kind.eq_ignore_ascii_case("video") && !name.is_empty() => MediaKind::Video,
        _ => return Err(field.error("must be audio/… or video/…")),
    };
    Ok((kind, text.to_owned()))
}

/// One where audio does not say; video has none.
fn channels(at: &At<'_>, kind: MediaKind) -> Result<Option<u8>, OrtcError> {
    let field = at.field("channels");
    match kind {
        MediaKind::Video => Ok(None),
        MediaKind::Audio if field.is_absent() => Ok(Some(1)),
        MediaKind::Audio => byte(&field, 255).map(Some),
    }
}

fn codec_parameters(at: &At<'_>) -> Result<CodecParameters, OrtcError> {
    let object = match at.value() {
        Value::Null => return Ok(CodecParameters::new()),
        Value::Object(object) => object,
        _ => return Err(at.error("must be an object")),
    };
    if object.len() > PARAMETERS_PER_CODEC_MAX {
        return Err(at.error(format!("must have at most {PARAMETERS_PER_CODEC_MAX} entries")));
    }
    let mut parameters = CodecParameters::new();
    for name in object.keys() {
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            return Err(at.error("has a name that is empty, too long or has control characters"));
        }
        let field = at.field(name);
        let value = match field.value() {
            Value::Null => continue,
            Value::Number(number) => ParameterValue::Number(number.clone()),
            Value::String(text) if text.is_empty() => ParameterValue::Text(String::new()),
            Value::String(_) => ParameterValue::Text(field.text(CODEC_PARAMETER_BYTES_MAX)?.to_owned()),
            _ => return Err(field.error("must be a string or a number")),
        };
        if name == "apt" && value.number().is_none_or(|apt| apt > 127) {
            return Err(field.error("must be a payload type"));
        }
        parameters.insert(name.clone(), settled(name, value));
    }
    Ok(parameters)
}

/// The type of each parameter towards clients, whichever way it came: mediasoup-client compares these with `===`.
fn settled(name: &str, value: ParameterValue) -> ParameterValue {
    match (name, value) {
        ("apt" | "profile-id" | "packetization-mode" | "level-asymmetry-allowed", value) => {
            value.number().map_or(value, ParameterValue::from)
        }
        ("profile-level-id", ParameterValue::Number(number)) => ParameterValue::Text(number.to_string()),
        (_, value) => value,
    }
}

fn rtcp_feedback(at: &At<'_>) -> Result<Vec<RtcpFeedback>, OrtcError> {
    let mut list = Vec::new();
    for entry in at.elements(FEEDBACK_PER_CODEC_MAX)? {
        entry.object()?;
        let name = entry.field("type").text(NAME_BYTES_MAX)?;
        let parameter = entry.field("parameter").value().as_str().unwrap_or_default();
        if let Some(feedback) = RtcpFeedback::from_names((name, parameter)).filter(|known| !list.contains(known)) {
            list.push(feedback);
        }
    }
    Ok(list)
}

/// None for unknown extensions, for encrypted ones (RFC 6904), and for a second id of the same extension.
fn header_extension(
    at: &At<'_>,
    earlier: &[RtpHeaderExtensionParameters],
) -> Result<Option<RtpHeaderExtensionParameters>, OrtcError> {
    at.object()?;
    let uri = at.field("uri").text(NAME_BYTES_MAX)?;
    let id = byte(&at.field("id"), 255)?;
    let Some(extension) = Extension::from_uri(uri) else { return Ok(None) };
    if at.field("encrypt").value() == true || earlier.iter().any(|other| other.extension == extension) {
        return Ok(None);
    }
    // RFC 8285 section 4.2: 0 is padding, 15 ends the block.
    if id == 0 || id == 15 {
        return Err(at.field("id").error("must be in 1..=14 or 16..=255"));
    }
    if earlier.iter().any(|other| other.id == id) {
        return Err(at.field("id").error(format!("{id} is used twice")));
    }
    Ok(Some(RtpHeaderExtensionParameters { extension, id }))
}

/// Other fields (active, priority, adaptivePtime, dtx …) are the browser's business.
fn encoding(at: &At<'_>) -> Result<RtpEncodingParameters, OrtcError> {
    at.object()?;
    let ssrc = |field: At<'_>| field.integer(1..=u32::MAX);
    let rtx = at.field("rtx");
    let codec_payload_type = at.field("codecPayloadType");
    // A value that is no number counts as absent.
    let positive = |name: &str| at.field(name).value().as_f64().filter(|number| *number > 0.0);
    if !rtx.is_absent() {
        rtx.object()?;
    }
    Ok(RtpEncodingParameters {
        ssrc: if at.field("ssrc").is_absent() { None } else { Some(ssrc(at.field("ssrc"))?) },
        rid: short_name(&at.field("rid"))?,
        rtx: if rtx.is_absent() { None } else { Some(RtxParameters { ssrc: ssrc(rtx.field("ssrc"))? }) },
        codec_payload_type: if codec_payload_type.is_absent() { None } else { Some(byte(&codec_payload_type, 127)?) },
        scalability_mode: at.field("scalabilityMode").optional_text(NAME_BYTES_MAX)?.map(str::to_owned),
        // Saturates.
        max_bitrate: positive("maxBitrate").map(|rate| rate as u64).filter(|rate| *rate > 0),
        extent: Extent {
            scale_resolution_down_by: positive("scaleResolutionDownBy"),
            max_framerate: positive("maxFramerate"),
        },
    })
}

fn short_name(at: &At<'_>) -> Result<Option<ShortName>, OrtcError> {
    let Some(text) = at.optional_text(ShortName::MAX)? else { return Ok(None) };
    match ShortName::new(text.as_bytes()) {
        Some(name) => Ok(Some(name)),
        None => Err(at.error("must be ASCII letters, digits and signs without spaces")),
    }
}

fn byte(at: &At<'_>, max: u8) -> Result<u8, OrtcError> {
    // The range makes the cast exact.
    at.integer(0..=u32::from(max)).map(|number| number as u8)
}
