use super::super::{parse_capabilities, plan_producer, router_capabilities};
use super::*;
use crate::base::id::Layers;
use crate::shard::command::MediaKind;
use serde_json::{Value, json};

const TRANSPORT_CC: &str = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
const ABS_SEND_TIME: &str = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time";
const ABS_CAPTURE_TIME: &str = "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time";

fn video(mime_type: &str, parameters: Value) -> ProducerPlan {
    let rtp_parameters = json!({
        "mid": "0",
        "codecs": [{"mimeType": mime_type, "payloadType": 45, "clockRate": 90000, "parameters": parameters}],
        "encodings": [{"ssrc": 5, "maxBitrate": 1000}],
        "rtcp": {"cname": "theirs"},
        "msid": "stream track"
    });
    plan_producer(MediaKind::Video, &rtp_parameters).unwrap()
}

fn audio() -> ProducerPlan {
    let codec = json!({"mimeType": "audio/opus", "payloadType": 111, "clockRate": 48000, "channels": 2,
        "parameters": {"useinbandfec": 1}});
    plan_producer(MediaKind::Audio, &json!({"codecs": [codec], "encodings": [{"ssrc": 6}]})).unwrap()
}

/// A receiver that takes everything the router offers.
fn everything() -> Value {
    serde_json::to_value(router_capabilities()).unwrap()
}

fn without_extension(uri: &str) -> Value {
    let mut capabilities = everything();
    capabilities["headerExtensions"].as_array_mut().unwrap().retain(|entry| entry["uri"] != uri);
    capabilities
}

fn consume_as(plan: &ProducerPlan, capabilities: &Value, cname: &str) -> Result<ConsumerPlan, OrtcError> {
    let identity = ConsumerIdentity {
        mid: Mid::new(b"7").unwrap(),
        ssrc: Ssrc(100),
        rtx_ssrc: Ssrc(101),
        cname: cname.to_owned(),
        msid: None,
    };
    let capabilities = parse_capabilities(capabilities).unwrap();
    assert_eq!(can_consume(plan, &capabilities), plan_consumer(plan, &capabilities, identity.clone()).is_ok());
    plan_consumer(plan, &capabilities, identity)
}

fn consume(plan: &ProducerPlan, capabilities: &Value) -> ConsumerPlan {
    consume_as(plan, capabilities, "ours").unwrap()
}

fn uris(plan: &ConsumerPlan) -> Vec<&'static str> {
    plan.rtp_parameters.header_extensions.iter().map(|entry| entry.extension.uri()).collect()
}

#[test]
fn a_consumer_reads_the_routers_numbers() {
    let plan = consume(&video("video/VP8", json!({})), &everything());
    let vp8 = json!({"mimeType": "video/VP8", "payloadType": 100, "clockRate": 90000, "parameters": {},
        "rtcpFeedback": [{"type": "nack", "parameter": ""}, {"type": "nack", "parameter": "pli"},
            {"type": "ccm", "parameter": "fir"}, {"type": "transport-cc", "parameter": ""}]});
    let rtx = json!({"mimeType": "video/rtx", "payloadType": 101, "clockRate": 90000, "parameters": {"apt": 100},
        "rtcpFeedback": []});
    let extension = |uri: &str, id: u8| json!({"uri": uri, "id": id, "encrypt": false, "parameters": {}});
    let expected = json!({
        "mid": "7",
        "codecs": [vp8, rtx],
        "headerExtensions": [
            extension("urn:ietf:params:rtp-hdrext:sdes:mid", 1), extension(TRANSPORT_CC, 5),
            extension("http://www.webrtc.org/experiments/rtp-hdrext/playout-delay", 10)
        ],
        "encodings": [{"ssrc": 100, "rtx": {"ssrc": 101}, "maxBitrate": 1000}],
        "rtcp": {"cname": "ours", "reducedSize": true, "mux": true},
        "msid": "stream track"
    });
    assert_eq!(serde_json::to_value(&plan.rtp_parameters).unwrap(), expected);
    assert_eq!(plan.spec.payload_type, PayloadType(100));
    assert_eq!(plan.spec.rtx, Some((PayloadType(101), Ssrc(101))));
    assert!(plan.spec.feedback.nack && plan.spec.feedback.transport_cc && !plan.spec.feedback.remb);
    assert!(plan.spec.extensions.contains(Extension::TransportCc) && !plan.spec.extensions.contains(Extension::Rid));
}

#[test]
fn without_rtx_nobody_may_ask_for_a_packet_again() {
    let mut capabilities = everything();
    capabilities["codecs"].as_array_mut().unwrap().retain(|codec| codec["mimeType"] != "video/rtx");
    let plan = consume(&video("video/VP8", json!({})), &capabilities);
    assert_eq!(plan.rtp_parameters.codecs.len(), 1);
    assert_eq!(plan.rtp_parameters.encodings[0].rtx, None);
    assert_eq!(plan.spec.rtx, None);
    assert!(!plan.spec.feedback.nack && plan.spec.feedback.pli && plan.spec.feedback.fir);
    assert!(!plan.rtp_parameters.codecs[0].rtcp_feedback.contains(&RtcpFeedback::Nack));

    // RTX of other codecs only does not serve this one.
    let mut capabilities = everything();
    capabilities["codecs"].as_array_mut().unwrap().retain(|codec| codec["parameters"]["apt"] != 100);
    assert_eq!(consume(&video("video/VP8", json!({})), &capabilities).spec.rtx, None);
    assert!(consume(&video("video/VP9", json!({})), &capabilities).spec.rtx.is_some());
}

#[test]
fn audio_has_neither_nack_nor_rtx_nor_transport_cc() {
    let mut capabilities = everything();
    capabilities["codecs"][0]["rtcpFeedback"].as_array_mut().unwrap().push(json!({"type": "nack"}));
    let plan = consume(&audio(), &capabilities);
    assert_eq!((plan.spec.rtx, plan.spec.feedback), (None, Default::default()));
    assert!(plan.rtp_parameters.codecs[0].rtcp_feedback.is_empty());
    assert!(!uris(&plan).contains(&TRANSPORT_CC));
    assert!(uris(&plan).contains(&"urn:ietf:params:rtp-hdrext:ssrc-audio-level"));
    assert!(uris(&plan).contains(&ABS_SEND_TIME));
    assert_eq!(plan.rtp_parameters.codecs[0].parameters["useinbandfec"].number(), Some(1));
}

#[test]
fn one_bandwidth_estimator_is_left() {
    let vp8 = video("video/VP8", json!({}));
    let estimators = |capabilities: &Value| {
        let feedback = consume(&vp8, capabilities).spec.feedback;
        (feedback.transport_cc, feedback.remb)
    };
    assert_eq!(estimators(&everything()), (true, false));
    assert!(!uris(&consume(&vp8, &everything())).contains(&ABS_SEND_TIME), "its time is spared");
    let mut capabilities = without_extension(TRANSPORT_CC);
    assert_eq!(estimators(&capabilities), (false, true));
    assert!(uris(&consume(&vp8, &capabilities)).contains(&ABS_SEND_TIME), "REMB goes by send times");
    assert!(!uris(&consume(&vp8, &everything())).contains(&ABS_SEND_TIME), "and transport-cc by its numbers");
    capabilities["headerExtensions"].as_array_mut().unwrap().retain(|entry| entry["uri"] != ABS_SEND_TIME);
    assert_eq!(estimators(&capabilities), (false, false));
}

#[test]
fn extensions_are_known_by_uri_and_id_whatever_their_kind() {
    let mut capabilities = everything();
    for entry in capabilities["headerExtensions"].as_array_mut().unwrap() {
        entry["kind"] = json!("video");
    }
    assert!(uris(&consume(&audio(), &capabilities)).contains(&"urn:ietf:params:rtp-hdrext:sdes:mid"));
    for entry in capabilities["headerExtensions"].as_array_mut().unwrap() {
        entry["preferredId"] = json!(14);
    }
    assert!(uris(&consume(&audio(), &capabilities)).is_empty());
}

#[test]
fn capture_time_is_announced_where_the_producer_has_it() {
    let mut plan = video("video/VP8", json!({}));
    assert!(!uris(&consume(&plan, &everything())).contains(&ABS_CAPTURE_TIME));
    plan.spec.extensions.set(Extension::AbsCaptureTime, 12);
    assert!(uris(&consume(&plan, &everything())).contains(&ABS_CAPTURE_TIME));
}

#[test]
fn the_cname_is_never_empty() {
    let cname = |plan: &ProducerPlan, ours: &str| {
        let plan = consume_as(plan, &everything(), ours).unwrap();
        assert_eq!(plan.spec.cname, plan.rtp_parameters.rtcp.cname);
        plan.spec.cname
    };
    assert_eq!(cname(&video("video/VP8", json!({})), "ours"), "ours");
    assert_eq!(cname(&video("video/VP8", json!({})), ""), "theirs");
    assert_eq!(cname(&audio(), ""), "7");
}

#[test]
fn h264_reads_the_receivers_profile_at_the_publishers_level() {
    let text = |theirs: Value, capabilities: &Value| {
        let plan = consume(&video("video/H264", theirs), capabilities);
        plan.rtp_parameters.codecs[0].parameters["profile-level-id"].text().unwrap().to_owned()
    };
    let asymmetric = json!({"packetization-mode": 1, "profile-level-id": "640c34", "level-asymmetry-allowed": 1});
    assert_eq!(text(asymmetric.clone(), &everything()), "640034");
    assert_eq!(text(json!({"packetization-mode": 1, "profile-level-id": "42e034"}), &everything()), "42e01f");
    assert_eq!(text(json!({}), &everything()), "42e01f");

    let mut safari = everything();
    for codec in safari["codecs"].as_array_mut().unwrap() {
        if codec["parameters"]["profile-level-id"] == "64001f" {
            codec["parameters"]["profile-level-id"] = json!("640c1f");
        }
    }
    assert_eq!(text(asymmetric, &safari), "640c34");
}

#[test]
fn numbers_stay_numbers_towards_receivers() {
    let plan = consume(&video("video/VP9", json!({"profile-id": "2"})), &everything());
    let out = serde_json::to_value(&plan.rtp_parameters).unwrap();
    assert_eq!(out["codecs"][0]["parameters"], json!({"profile-id": 2}));
    assert_eq!(out["codecs"][1]["parameters"], json!({"apt": 104}));
    let mut as_text = everything();
    for codec in as_text["codecs"].as_array_mut().unwrap() {
        for (_, value) in codec["parameters"].as_object_mut().unwrap() {
            if value.is_number() {
                *value = json!(value.to_string());
            }
        }
    }
    assert_eq!(consume(&video("video/VP9", json!({"profile-id": 2})), &as_text), plan);
}

#[test]
fn what_a_receiver_lacks_it_cannot_consume() {
    let only = |mime_type: &str| {
        let mut capabilities = everything();
        capabilities["codecs"].as_array_mut().unwrap().retain(|codec| codec["mimeType"] == mime_type);
        capabilities
    };
    let vp8 = video("video/VP8", json!({}));
    assert!(consume_as(&vp8, &only("video/VP8"), "c").is_ok());
    for capabilities in [only("audio/opus"), only("video/rtx"), json!({})] {
        let error = consume_as(&vp8, &capabilities, "c").unwrap_err();
        assert_eq!(error.to_string(), "rtpCapabilities.codecs: none can receive this producer's video/VP8");
    }
    let mode_0 = video("video/H264", json!({"profile-level-id": "42e01f"}));
    let mut capabilities = only("video/H264");
    capabilities["codecs"].as_array_mut().unwrap().retain(|codec| codec["parameters"]["packetization-mode"] == 1);
    assert!(consume_as(&mode_0, &capabilities, "c").is_err());
}

#[test]
fn bad_capabilities_are_named() {
    let fails = |value: Value| parse_capabilities(&value).unwrap_err().to_string();
    assert_eq!(fails(json!(null)), "rtpCapabilities: must be an object");
    assert_eq!(fails(json!({"codecs": 1})), "rtpCapabilities.codecs: must be an array");
    assert_eq!(fails(json!({"codecs": [1]})), "rtpCapabilities.codecs[0]: must be an object");
    let extension = |entry: Value| json!({"headerExtensions": [entry]});
    assert_eq!(
        fails(extension(json!({"kind": "x", "uri": "u", "preferredId": 1}))),
        "rtpCapabilities.headerExtensions[0].kind: must be \"audio\" or \"video\""
    );
    assert_eq!(
        fails(extension(json!({"kind": "audio", "uri": "u"}))),
        "rtpCapabilities.headerExtensions[0].preferredId: must be an integer in 0..=255"
    );
}

#[test]
fn a_dependency_descriptor_goes_to_who_names_it_where_layers_need_it() {
    const DESCRIPTOR: &str = "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension";
    let av1 = |mode: &str, extensions: Value| {
        let rtp_parameters = json!({
            "mid": "0",
            "codecs": [{"mimeType": "video/AV1", "payloadType": 45, "clockRate": 90000, "parameters": {}}],
            "headerExtensions": extensions,
            "encodings": [{"ssrc": 5, "scalabilityMode": mode}],
        });
        plan_producer(MediaKind::Video, &rtp_parameters).unwrap()
    };
    let sent = json!([{"uri": DESCRIPTOR, "id": 9}]);
    let scalable = consume(&av1("L3T3", sent.clone()), &everything());
    assert!(uris(&scalable).contains(&DESCRIPTOR));
    assert_eq!(scalable.spec.top, Layers { spatial: 2, temporal: 2 });
    assert!(!uris(&consume(&av1("L3T3", sent.clone()), &without_extension(DESCRIPTOR))).contains(&DESCRIPTOR));
    assert!(!uris(&consume(&av1("L1T3", sent), &everything())).contains(&DESCRIPTOR));
    assert!(!uris(&consume(&av1("L3T3", json!([])), &everything())).contains(&DESCRIPTOR));
}

#[test]
fn only_what_was_agreed_is_sent() {
    let agreed = |plan: &ProducerPlan, capabilities: &Value| {
        let consumer = consume(plan, capabilities);
        let sent: Vec<_> = Extension::ALL.into_iter().filter(|e| consumer.spec.extensions.contains(*e)).collect();
        assert_eq!(sent.iter().map(|extension| extension.uri()).collect::<Vec<_>>(), uris(&consumer));
        sent
    };
    let every = Extension::ALL.map(|extension| json!({"uri": extension.uri(), "id": extension.id()}));
    let publisher = |kind, mut parameters: Value| {
        parameters["headerExtensions"] = json!(every);
        plan_producer(kind, &parameters).unwrap()
    };
    let opus = json!({"mimeType": "audio/opus", "payloadType": 111, "clockRate": 48000, "channels": 2});
    let av1 = json!({"mimeType": "video/AV1", "payloadType": 45, "clockRate": 90000});
    let sound = publisher(MediaKind::Audio, json!({"codecs": [opus], "encodings": [{"ssrc": 6}]}));
    let scalable = json!({"codecs": [av1], "encodings": [{"ssrc": 5, "scalabilityMode": "L3T3"}]});
    let picture = publisher(MediaKind::Video, scalable);
    for plan in [&sound, &picture] {
        let mut capabilities = everything();
        for nothing in [json!([]), json!(null)] {
            capabilities["headerExtensions"] = nothing;
            assert_eq!(agreed(plan, &capabilities), []);
        }
        // One by one, under the router's id and under another.
        for extension in Extension::ALL {
            let entry = |id| json!([{"kind": "video", "uri": extension.uri(), "preferredId": id}]);
            capabilities["headerExtensions"] = entry(extension.id());
            // The transmission offset ends here: it holds the time when the publisher sent a packet.
            let goes_out = extension != Extension::TransmissionOffset
                && direction(extension, plan.kind) == Some(ExtensionDirection::Sendrecv);
            assert_eq!(agreed(plan, &capabilities), if goes_out { vec![extension] } else { vec![] });
            capabilities["headerExtensions"] = entry(extension.id() + 20);
            assert_eq!(agreed(plan, &capabilities), []);
        }
    }
}

/// The orientation of pictures is agreed with a publisher for all its viewers, and some of them do not know it.
#[test]
fn orientation_is_left_to_the_publisher() {
    const ORIENTATION: &str = "urn:3gpp:video-orientation";
    let offered = everything();
    let named = |list: &Value| list["headerExtensions"].as_array().unwrap().iter().any(|e| e["uri"] == ORIENTATION);
    assert!(!named(&offered));
    // A publisher's orientation is not passed on, whoever asks for it.
    let rtp_parameters = json!({
        "codecs": [{"mimeType": "video/VP8", "payloadType": 96, "clockRate": 90000}],
        "headerExtensions": [{"uri": ORIENTATION, "id": 13}],
        "encodings": [{"ssrc": 5}],
    });
    let plan = plan_producer(MediaKind::Video, &rtp_parameters).unwrap();
    assert_eq!(plan.spec.extensions.find(13), None);
    let mut asks = everything();
    let entry = json!({"kind": "video", "uri": ORIENTATION, "preferredId": 7});
    asks["headerExtensions"].as_array_mut().unwrap().push(entry);
    assert!(!named(&serde_json::to_value(consume(&plan, &asks).rtp_parameters).unwrap()));
}

#[test]
fn a_receiver_of_another_profile_is_passed_over() {
    let only = |mime_type: &str, parameters: Value| {
        json!({"codecs": [{"kind": "video", "mimeType": mime_type, "preferredPayloadType": 122, "clockRate": 90000,
            "parameters": parameters}]})
    };
    let decodes = |mime_type: &str, sent: Value, receives: Value| {
        can_consume(&video(mime_type, sent), &parse_capabilities(&only(mime_type, receives)).unwrap())
    };
    let av1 = |sent, receives| decodes("video/AV1", sent, receives);
    for profile_0 in [json!({}), json!({"profile": 0}), json!({"profile": "0", "level-idx": 8, "tier": 1})] {
        assert!(av1(profile_0.clone(), json!({})) && av1(profile_0.clone(), json!({"profile": 0})), "{profile_0}");
        assert!(!av1(profile_0.clone(), json!({"profile": 1})) && !av1(profile_0, json!({"profile": 2})));
    }
    let vp9 = |sent, receives| decodes("video/VP9", sent, receives);
    assert!(vp9(json!({}), json!({"profile-id": 0})) && vp9(json!({"profile-id": 2}), json!({"profile-id": "2"})));
    assert!(!vp9(json!({}), json!({"profile-id": 2})) && !vp9(json!({"profile-id": 2}), json!({})));
    let h264 = |sent, receives| decodes("video/H264", sent, receives);
    assert!(h264(json!({}), json!({"profile-level-id": "42e034", "packetization-mode": 0})));
    assert!(!h264(json!({}), json!({"packetization-mode": 1})));
    assert!(!h264(json!({}), json!({"profile-level-id": "64001f"})));
    let opus = json!({"kind": "audio", "mimeType": "audio/opus", "clockRate": 48000, "channels": 1});
    let mono = parse_capabilities(&json!({"codecs": [opus]})).unwrap();
    assert!(!can_consume(&audio(), &mono));
}

#[test]
fn av1_reads_the_receivers_level_and_tier_where_they_differ() {
    let read = |sent: Value, receives: Value| {
        let mut capabilities = everything();
        for codec in capabilities["codecs"].as_array_mut().unwrap() {
            if codec["mimeType"] == "video/AV1" {
                codec["parameters"] = receives.clone();
            }
        }
        let plan = consume(&video("video/AV1", sent), &capabilities);
        serde_json::to_value(&plan.rtp_parameters.codecs[0].parameters).unwrap()
    };
    let usual = json!({"level-idx": 5, "profile": 0, "tier": 0});
    assert_eq!(read(usual.clone(), usual.clone()), usual);
    assert_eq!(read(usual.clone(), json!({})), usual, "5 and 0 are what is inferred");
    assert_eq!(read(json!({"level-idx": 8, "tier": 1}), usual), json!({"level-idx": 5, "tier": 0}));
    assert_eq!(read(json!({"level-idx": 8, "tier": 1}), json!({})), json!({}));
    assert_eq!(read(json!({}), json!({"level-idx": "9", "tier": 0})), json!({"level-idx": "9"}));
}

/// A level is the most that a receiver promises to decode at once (RFC 6184 section 8.1; RTP Payload Format For AV1, section
/// 7.2.1), and browsers promise one and the same whatever they decode: it is told, and keeps nobody from consuming.
#[test]
fn a_lower_level_or_tier_keeps_nobody_from_consuming() {
    let told = |mime_type: &str, sent: &Value, receives: &Value| {
        let mut capabilities = everything();
        for codec in capabilities["codecs"].as_array_mut().unwrap() {
            let same = codec["parameters"]["packetization-mode"] == sent["packetization-mode"];
            if codec["mimeType"] == mime_type && same {
                codec["parameters"] = receives.clone();
            }
        }
        let plan = video(mime_type, sent.clone());
        assert!(can_consume(&plan, &parse_capabilities(&capabilities).unwrap()), "{sent} to {receives}");
        serde_json::to_value(&consume(&plan, &capabilities).rtp_parameters.codecs[0].parameters).unwrap()
    };
    // Level 5.2 to a receiver of level 1: bounded by 3.1, which is the router's, where the sender promised symmetry.
    let h264 = |level: &str, asymmetric: u8| json!({"packetization-mode": 1, "profile-level-id": level, "level-asymmetry-allowed": asymmetric});
    for (asymmetric, level) in [(1, "42e034"), (0, "42e01f")] {
        let parameters = told("video/H264", &h264("42e034", asymmetric), &h264("42e00a", 1));
        assert_eq!(parameters["profile-level-id"], level);
    }
    let av1 = |level: u8, tier: u8| json!({"profile": 0, "level-idx": level, "tier": tier});
    assert_eq!(told("video/AV1", &av1(19, 1), &av1(0, 0)), av1(0, 0));
    assert_eq!(told("video/AV1", &av1(0, 0), &av1(19, 1)), av1(19, 1));
}
