//! The JSON shapes towards clients, with the field names of mediasoup's RtpCapabilities and RtpParameters. `parse`
//! reads clients' input into the same types and checks it on the way.

use super::kind::kind_name;
use crate::base::id::{Mid, Rid};
use crate::shard::command::{FeedbackSpec, MediaKind};
use crate::wire::extension::Extension;
use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};
use std::collections::BTreeMap;

#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RtpCapabilities {
    pub codecs: Vec<RtpCodecCapability>,
    pub header_extensions: Vec<RtpHeaderExtension>,
}

#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RtpCodecCapability {
    #[serde(serialize_with = "as_word")]
    pub kind: MediaKind,
    pub mime_type: String,
    /// Always there in what we send; clients may leave it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preferred_payload_type: Option<u8>,
    pub clock_rate: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<u8>,
    pub parameters: CodecParameters,
    pub rtcp_feedback: Vec<RtcpFeedback>,
}

#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RtpHeaderExtension {
    #[serde(serialize_with = "as_word")]
    pub kind: MediaKind,
    #[serde(serialize_with = "uri")]
    pub uri: Extension,
    pub preferred_id: u8,
    pub preferred_encrypt: bool,
    pub direction: ExtensionDirection,
}

/// Which way the router uses an extension: `Recvonly` is what publishers may send and consumers never get.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ExtensionDirection {
    Sendrecv,
    Recvonly,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RtpParameters {
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "short_name")]
    pub mid: Option<Mid>,
    pub codecs: Vec<RtpCodecParameters>,
    pub header_extensions: Vec<RtpHeaderExtensionParameters>,
    pub encodings: Vec<RtpEncodingParameters>,
    pub rtcp: RtcpParameters,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub msid: Option<String>,
}

#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RtpCodecParameters {
    pub mime_type: String,
    pub payload_type: u8,
    pub clock_rate: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<u8>,
    pub parameters: CodecParameters,
    pub rtcp_feedback: Vec<RtcpFeedback>,
}

/// An extension the SFU knows, under the id its sender uses. Others are dropped when they are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RtpHeaderExtensionParameters {
    pub extension: Extension,
    pub id: u8,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RtpEncodingParameters {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssrc: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "short_name")]
    pub rid: Option<Rid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtx: Option<RtxParameters>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub codec_payload_type: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scalability_mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bitrate: Option<u64>,
    /// Read from a publisher's encoding, and told to nobody.
    #[serde(skip)]
    pub extent: Extent,
}

/// The client's scaleResolutionDownBy.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Extent {
    pub scale_resolution_down_by: Option<f64>,
    pub max_framerate: Option<f64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct RtxParameters {
    pub ssrc: u32,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RtcpParameters {
    pub cname: String,
    pub reduced_size: bool,
    pub mux: bool,
}

/// An fmtp value. Sorted keys, so that the same parameters are always the same text.
pub type CodecParameters = BTreeMap<String, ParameterValue>;

#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(untagged)]
pub enum ParameterValue {
    Number(serde_json::Number),
    Text(String),
}

impl ParameterValue {
    /// As a number, also where a client wrote it as text.
    pub fn number(&self) -> Option<u32> {
        match self {
            ParameterValue::Number(number) => number.as_u64().and_then(|number| u32::try_from(number).ok()),
            ParameterValue::Text(text) => text.parse().ok(),
        }
    }

    pub fn text(&self) -> Option<&str> {
        match self {
            ParameterValue::Number(_) => None,
            ParameterValue::Text(text) => Some(text),
        }
    }
}

impl From<u32> for ParameterValue {
    fn from(number: u32) -> Self {
        ParameterValue::Number(number.into())
    }
}

impl From<&str> for ParameterValue {
    fn from(text: &str) -> Self {
        ParameterValue::Text(text.to_owned())
    }
}

/// The RTCP feedback messages the SFU speaks (RFC 4585 section 4.2, RFC 5104 section 7.1); others are dropped when
/// they are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RtcpFeedback {
    Nack,
    NackPli,
    CcmFir,
    GoogRemb,
    TransportCc,
}

impl RtcpFeedback {
    const ALL: [RtcpFeedback; 5] = [
        RtcpFeedback::Nack,
        RtcpFeedback::NackPli,
        RtcpFeedback::CcmFir,
        RtcpFeedback::GoogRemb,
        RtcpFeedback::TransportCc,
    ];

    /// `type` and `parameter` as in SDP's a=rtcp-fb.
    pub const fn names(self) -> (&'static str, &'static str) {
        match self {
            RtcpFeedback::Nack => ("nack", ""),
            RtcpFeedback::NackPli => ("nack", "pli"),
            RtcpFeedback::CcmFir => ("ccm", "fir"),
            RtcpFeedback::GoogRemb => ("goog-remb", ""),
            RtcpFeedback::TransportCc => ("transport-cc", ""),
        }
    }

    pub(super) fn from_names(names: (&str, &str)) -> Option<RtcpFeedback> {
        RtcpFeedback::ALL.into_iter().find(|feedback| feedback.names() == names)
    }
}

/// The same as flags, for the media plane.
pub(super) fn feedback_flags(list: &[RtcpFeedback]) -> FeedbackSpec {
    let has = |feedback| list.contains(&feedback);
    FeedbackSpec {
        nack: has(RtcpFeedback::Nack),
        pli: has(RtcpFeedback::NackPli),
        fir: has(RtcpFeedback::CcmFir),
        transport_cc: has(RtcpFeedback::TransportCc),
        remb: has(RtcpFeedback::GoogRemb),
    }
}

impl Serialize for RtcpFeedback {
    /// With an empty `parameter` rather than none, as mediasoup's servers write it.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (name, parameter) = self.names();
        let mut out = serializer.serialize_struct("RtcpFeedback", 2)?;
        out.serialize_field("type", name)?;
        out.serialize_field("parameter", parameter)?;
        out.end()
    }
}

impl Serialize for RtpHeaderExtensionParameters {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("RtpHeaderExtensionParameters", 4)?;
        out.serialize_field("uri", self.extension.uri())?;
        out.serialize_field("id", &self.id)?;
        out.serialize_field("encrypt", &false)?;
        out.serialize_field("parameters", &CodecParameters::new())?;
        out.end()
    }
}

fn as_word<S: Serializer>(kind: &MediaKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(kind_name(*kind))
}

fn uri<S: Serializer>(extension: &Extension, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(extension.uri())
}

fn short_name<S: Serializer>(name: &Option<Mid>, serializer: S) -> Result<S::Ok, S::Error> {
    match name {
        Some(name) => serializer.serialize_str(name.as_str()),
        None => serializer.serialize_none(),
    }
}
