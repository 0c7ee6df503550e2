//! The negotiation of one consumer: from a producer and a receiver's capabilities to the receiver's parameters and the
//! shard's spec: one codec with its RTX, in the router's payload types, and one encoding.

use super::capabilities::direction;
use super::codec_match::Format;
use super::error::OrtcError;
use super::h264::ProfileLevel;
use super::parse::ConsumerCapabilities;
use super::producer::{ProducerPlan, ProducerType, one_estimator};
use super::types::{
    CodecParameters, ExtensionDirection, RtcpFeedback, RtcpParameters, RtpCodecCapability, RtpCodecParameters,
    RtpEncodingParameters, RtpHeaderExtensionParameters, RtpParameters, RtxParameters, feedback_flags,
};
use crate::base::id::{Mid, PayloadType, Ssrc};
use crate::shard::command::ConsumerSpec;
use crate::wire::codec::Codec;
use crate::wire::extension::{Extension, ExtensionSet};

/// The consumer's own values, from the session: SSRCs and mid are never used twice on a transport.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConsumerIdentity {
    pub mid: Mid,
    pub ssrc: Ssrc,
    pub rtx_ssrc: Ssrc,
    /// One for all consumers of a publisher's tracks, or they are not played in step. Empty: the producer's own.
    pub cname: String,
    /// None: the producer's own.
    pub msid: Option<String>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct ConsumerPlan {
    pub spec: ConsumerSpec,
    /// The `rtpParameters` of consumer-params.
    pub rtp_parameters: RtpParameters,
    pub r#type: ProducerType,
}

/// Whether a receiver with these capabilities can decode the producer.
pub fn can_consume(plan: &ProducerPlan, rtp_capabilities: &ConsumerCapabilities) -> bool {
    matching_codec(plan, rtp_capabilities).is_some()
}

pub fn plan_consumer(
    plan: &ProducerPlan,
    capabilities: &ConsumerCapabilities,
    identity: ConsumerIdentity,
) -> Result<ConsumerPlan, OrtcError> {
    let Some(capability) = matching_codec(plan, capabilities) else {
        return Err(OrtcError::CannotConsume { codec: plan.codec.mime_type });
    };
    let router = plan.codec;
    let rtx_payload_type = router.rtx_payload_type().filter(|_| can_rtx(capability, capabilities));
    let extensions = extensions(plan, capabilities);
    let feedback = feedback(plan, capability, rtx_payload_type.is_some(), &extensions);
    let ConsumerIdentity { mid, ssrc, rtx_ssrc, cname, msid } = identity;
    let cname = first_non_empty([&cname, &plan.cname, mid.as_str()]);

    let mut set = ExtensionSet::default();
    for entry in &extensions {
        set.insert(entry.extension);
    }
    let spec = ConsumerSpec {
        codec: router.codec,
        clock_rate: router.clock_rate,
        encodings: plan.spec.encodings.len(),
        top: plan.spec.top,
        payload_type: PayloadType(router.payload_type),
        ssrc,
        rtx: rtx_payload_type.map(|payload_type| (PayloadType(payload_type), rtx_ssrc)),
        mid,
        cname: cname.clone(),
        extensions: set,
        feedback: feedback_flags(&feedback),
    };

    let mut codecs = vec![RtpCodecParameters {
        mime_type: router.mime_type.to_owned(),
        payload_type: router.payload_type,
        clock_rate: router.clock_rate,
        channels: router.channels,
        parameters: codec_parameters(plan, capability),
        rtcp_feedback: feedback,
    }];
    codecs.extend(rtx_payload_type.map(|payload_type| RtpCodecParameters {
        mime_type: "video/rtx".to_owned(),
        payload_type,
        clock_rate: router.clock_rate,
        channels: None,
        parameters: [("apt".to_owned(), u32::from(router.payload_type).into())].into(),
        rtcp_feedback: vec![],
    }));
    let encoding = RtpEncodingParameters {
        ssrc: Some(ssrc.0),
        rtx: rtx_payload_type.map(|_| RtxParameters { ssrc: rtx_ssrc.0 }),
        scalability_mode: plan.scalability_mode.clone(),
        max_bitrate: plan.max_bitrate,
        ..RtpEncodingParameters::default()
    };
    let rtp_parameters = RtpParameters {
        mid: Some(mid),
        codecs,
        header_extensions: extensions,
        encodings: vec![encoding],
        rtcp: RtcpParameters { cname, reduced_size: true, mux: true },
        msid: msid.or_else(|| plan.msid.clone()),
    };
    Ok(ConsumerPlan { spec, rtp_parameters, r#type: plan.r#type })
}

fn matching_codec<'a>(plan: &ProducerPlan, capabilities: &'a ConsumerCapabilities) -> Option<&'a RtpCodecCapability> {
    capabilities.codecs.iter().find(|capability| Format::from(*capability).matches(plan.codec))
}

/// Whether one of the receiver's RTX entries repairs this codec. An entry without an apt serves any.
fn can_rtx(media: &RtpCodecCapability, capabilities: &ConsumerCapabilities) -> bool {
    capabilities.codecs.iter().any(|capability| {
        let apt = capability.parameters.get("apt").and_then(|apt| apt.number());
        let payload_type = media.preferred_payload_type.map(u32::from);
        Format::from(capability).is_rtx()
            && capability.clock_rate == media.clock_rate
            && (apt.is_none() || payload_type.is_none() || apt == payload_type)
    })
}

/// Extensions that the router sends for the kind and the receiver knows under the router's id.
fn extensions(plan: &ProducerPlan, capabilities: &ConsumerCapabilities) -> Vec<RtpHeaderExtensionParameters> {
    let comes = |extension: Extension| plan.spec.extensions.get(extension).is_some();
    let sent = |extension: &Extension| {
        let goes_out = match extension {
            // Passed on from the publisher: nobody gets what it does not send.
            Extension::AbsCaptureTime => comes(*extension),
            // The publisher's send time, which means nothing on this hop.
            Extension::TransmissionOffset => false,
            // Where upper layers cannot be decoded without it.
            Extension::DependencyDescriptor => {
                plan.codec.codec == Codec::Av1 && plan.spec.top.spatial > 0 && comes(*extension)
            }
            _ => direction(*extension, plan.kind) == Some(ExtensionDirection::Sendrecv),
        };
        goes_out && capabilities.extensions.contains(*extension)
    };
    let entry = |extension: Extension| RtpHeaderExtensionParameters { extension, id: extension.id() };
    let mut extensions: Vec<Extension> = Extension::ALL.into_iter().filter(sent).collect();
    if extensions.contains(&Extension::TransportCc) {
        // Transport-wide numbers tell all that send times would, and those are four bytes of each packet.
        extensions.retain(|extension| *extension != Extension::AbsSendTime);
    }
    extensions.into_iter().map(entry).collect()
}

fn feedback(
    plan: &ProducerPlan,
    capability: &RtpCodecCapability,
    has_rtx: bool,
    extensions: &[RtpHeaderExtensionParameters],
) -> Vec<RtcpFeedback> {
    let both = plan.codec.feedback().iter().copied().filter(|feedback| {
        // RFC 7714 section 8: sealing twice under one nonce gives the authentication key away. Without RTX a repair
        // would do that, so that nobody may ask for one.
        capability.rtcp_feedback.contains(feedback) && (has_rtx || *feedback != RtcpFeedback::Nack)
    });
    one_estimator(both.collect(), |extension| extensions.iter().any(|entry| entry.extension == extension))
}

/// The publisher's parameters, which describe the stream. For H264 the receiver reads its own name of the profile,
/// because browsers compare profiles strictly, and the publisher's level, bounded by the router's where the publisher
/// does not allow levels to differ (RFC 6184 section 8.2.2). For AV1 it reads its own level and tier, which may differ:
/// browsers compare those too.
fn codec_parameters(plan: &ProducerPlan, capability: &RtpCodecCapability) -> CodecParameters {
    let mut parameters = plan.parameters.clone();
    let stream = Format { parameters: &plan.parameters, ..Format::from(capability) };
    if let (true, Some(stream), Some(receiver)) =
        (plan.codec.is_h264(), stream.profile_level(), Format::from(capability).profile_level())
    {
        let asymmetric = parameters.get("level-asymmetry-allowed").and_then(|value| value.number()) == Some(1);
        let level = if asymmetric { stream.level } else { stream.level.min(ProfileLevel::DEFAULT.level) };
        let text = ProfileLevel { profile: receiver.profile, level }.to_string();
        parameters.insert("profile-level-id".to_owned(), text.as_str().into());
    }
    if plan.codec.codec == Codec::Av1 {
        // RTP Payload Format For AV1, section 7.2.1: the values of absent parameters.
        for (name, default) in [("level-idx", 5), ("tier", 0)] {
            if stream.number_or(name, default) != Format::from(capability).number_or(name, default) {
                parameters.remove(name);
                parameters.extend(capability.parameters.get_key_value(name).map(|(k, v)| (k.clone(), v.clone())));
            }
        }
    }
    parameters
}

/// A receiver that reads an empty cname writes no a=ssrc lines at all.
fn first_non_empty(candidates: [&str; 3]) -> String {
    candidates.into_iter().find(|candidate| !candidate.is_empty()).unwrap_or_default().to_owned()
}

#[cfg(test)]
#[path = "consumer_tests.rs"]
mod tests;
