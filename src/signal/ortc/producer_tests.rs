use super::*;
use serde_json::json;

/// A camera as Chromium's mediasoup-client sends it, in the browser's own payload types and ids.
fn camera() -> Value {
    json!({
        "mid": "1",
        "codecs": [
            {"mimeType": "video/VP8", "payloadType": 96, "clockRate": 90000, "parameters": {}, "rtcpFeedback": [
                {"type": "goog-remb", "parameter": ""}, {"type": "transport-cc", "parameter": ""},
                {"type": "ccm", "parameter": "fir"}, {"type": "nack", "parameter": ""},
                {"type": "nack", "parameter": "pli"}, {"type": "rrtr"}]},
            {"mimeType": "video/rtx", "payloadType": 97, "clockRate": 90000, "parameters": {"apt": 96}}
        ],
        "headerExtensions": [
            {"uri": "urn:ietf:params:rtp-hdrext:sdes:mid", "id": 9, "encrypt": false, "parameters": {}},
            {"uri": "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01", "id": 3},
            {"uri": "http://www.webrtc.org/experiments/rtp-hdrext/video-timing", "id": 7}
        ],
        "encodings": [{"ssrc": 1111, "rtx": {"ssrc": 2222}, "dtx": false, "active": true, "maxBitrate": 900000}],
        "rtcp": {"cname": "YZcsBLwAS7BRZzNr", "reducedSize": true},
        "msid": "stream track"
    })
}

fn microphone() -> Value {
    json!({
        "codecs": [{"mimeType": "audio/opus", "payloadType": 111, "clockRate": 48000, "channels": 2,
            "parameters": {"minptime": 10, "useinbandfec": 1}, "rtcpFeedback": [{"type": "transport-cc"}]}],
        "encodings": [{"ssrc": 3333}]
    })
}

fn h264(parameters: Value) -> Value {
    let mut camera = camera();
    camera["codecs"][0]["mimeType"] = json!("video/H264");
    camera["codecs"][0]["parameters"] = parameters;
    camera
}

fn video(parameters: &Value) -> Result<ProducerPlan, OrtcError> {
    plan_producer(MediaKind::Video, parameters)
}

/// The camera with one change, and the words of the refusal.
#[track_caller]
fn refused(change: impl FnOnce(&mut Value), words: &str) {
    let mut parameters = camera();
    change(&mut parameters);
    assert_eq!(video(&parameters).expect_err(words).to_string(), words);
}

#[test]
fn a_camera_is_mapped_in_the_browsers_own_numbers() {
    let plan = video(&camera()).unwrap();
    assert_eq!(plan.codec.mime_type, "video/VP8");
    assert_eq!(plan.r#type.name(), "simple");
    let ProducerSpec { payload_type, rtx_payload_type, encodings, extensions, feedback, mid, .. } = plan.spec;
    assert_eq!((payload_type, rtx_payload_type), (PayloadType(96), Some(PayloadType(97))));
    assert_eq!(encodings, [EncodingSpec { ssrc: Some(Ssrc(1111)), rtx_ssrc: Some(Ssrc(2222)), rid: None }]);
    assert_eq!(extensions.get(Extension::Mid), Some(9));
    assert_eq!(extensions.find(7), None, "an unknown extension is ignored");
    assert!(feedback.nack && feedback.pli && feedback.fir && feedback.transport_cc);
    assert!(!feedback.remb, "one estimator: the one whose extension comes");
    assert_eq!(mid.unwrap().as_str(), "1");
    assert_eq!((plan.cname.as_str(), plan.msid.as_deref()), ("YZcsBLwAS7BRZzNr", Some("stream track")));
}

#[test]
fn numbers_are_taken_as_text_too() {
    let plan = |parameters| video(&h264(parameters)).unwrap();
    let as_text =
        plan(json!({"packetization-mode": "1", "profile-level-id": "4d001f", "level-asymmetry-allowed": "1"}));
    let as_numbers = plan(json!({"packetization-mode": 1, "profile-level-id": "4d001f", "level-asymmetry-allowed": 1}));
    assert_eq!(as_text, as_numbers);
    assert_eq!(plan(json!({"profile-level-id": 640032})).codec, plan(json!({"profile-level-id": "64001f"})).codec);

    let mut parameters = camera();
    parameters["codecs"][1]["parameters"]["apt"] = json!("96");
    assert_eq!(video(&parameters).unwrap().spec.rtx_payload_type, Some(PayloadType(97)));
    parameters["codecs"][0]["mimeType"] = json!("video/VP9");
    parameters["codecs"][0]["parameters"] = json!({"profile-id": "2"});
    assert_eq!(video(&parameters).unwrap().codec.payload_type, 104);
}

#[test]
fn safaris_constrained_high_is_high() {
    let plan = video(&h264(json!({"packetization-mode": 1, "profile-level-id": "640c1f"}))).unwrap();
    let high = video(&h264(json!({"packetization-mode": 1, "profile-level-id": "64001f"}))).unwrap();
    assert_eq!(plan.codec, high.codec);
}

#[test]
fn only_the_first_media_codec_counts() {
    let mut parameters = camera();
    let codecs = parameters["codecs"].as_array_mut().unwrap();
    codecs.swap(0, 1);
    codecs.push(json!({"mimeType": "video/H266", "payloadType": 40, "clockRate": 90000}));
    codecs.push(json!({"mimeType": "video/rtx", "payloadType": 41, "clockRate": 90000, "parameters": {"apt": 40}}));
    let plan = video(&parameters).unwrap();
    assert_eq!((plan.spec.payload_type, plan.spec.rtx_payload_type), (PayloadType(96), Some(PayloadType(97))));

    refused(
        |p| p["codecs"][0]["mimeType"] = json!("video/H266"),
        "rtpParameters.codecs[0]: video/H266/90000 is not supported; get-rtp-capabilities lists the codecs that are",
    );
}

#[test]
fn an_unsupported_codec_is_named_with_what_makes_it_so() {
    let error = video(&h264(json!({"profile-level-id": "f4001f", "packetization-mode": 1, "x": 1}))).unwrap_err();
    let named =
        "rtpParameters.codecs[0]: video/H264/90000 profile-level-id=f4001f packetization-mode=1 is not supported";
    assert!(error.to_string().starts_with(named), "{error}");
}

#[test]
fn a_codec_of_the_other_kind_is_refused() {
    let error = plan_producer(MediaKind::Audio, &camera()).unwrap_err();
    assert_eq!(error.to_string(), "rtpParameters.codecs[0].mimeType: video/VP8 is no audio codec");
    let error = video(&microphone()).unwrap_err();
    assert_eq!(error.to_string(), "rtpParameters.codecs[0].mimeType: audio/opus is no video codec");
}

#[test]
fn every_ssrc_is_positive_and_unlike_the_others() {
    let one_more = |p: &mut Value, encoding| p["encodings"].as_array_mut().unwrap().push(encoding);
    for bad in [json!(0), json!(-1), json!(4_294_967_296_u64), json!(1.5), json!("1")] {
        refused(
            |p| one_more(p, json!({"ssrc": bad})),
            "rtpParameters.encodings[1].ssrc: must be an integer in 1..=4294967295",
        );
    }
    refused(|p| one_more(p, json!({"ssrc": 1111})), "rtpParameters.encodings[1].ssrc: 1111 is used twice");
    refused(
        |p| one_more(p, json!({"ssrc": 9, "rtx": {"ssrc": 1111}})),
        "rtpParameters.encodings[1].rtx.ssrc: 1111 is used twice",
    );
    refused(
        |p| p["encodings"][0]["rtx"] = json!({}),
        "rtpParameters.encodings[0].rtx.ssrc: must be an integer in 1..=4294967295",
    );
}

#[test]
fn simulcast_is_named_by_rid() {
    let mut parameters = camera();
    parameters["encodings"] = json!([
        {"rid": "r0", "scaleResolutionDownBy": 4, "scalabilityMode": "L1T3", "active": true, "adaptivePtime": false},
        {"rid": "r1", "scaleResolutionDownBy": 2, "scalabilityMode": "L1T3", "priority": "low", "maxBitrate": 7},
        {"rid": "r2", "scalabilityMode": "L1T3", "maxBitrate": 5}
    ]);
    let plan = video(&parameters).unwrap();
    assert_eq!(plan.r#type, ProducerType::Simulcast);
    let rids: Vec<_> = plan.spec.encodings.iter().map(|encoding| encoding.rid.unwrap().as_str().to_owned()).collect();
    assert_eq!(rids, ["r0", "r1", "r2"]);
    assert_eq!((plan.scalability_mode.as_deref(), plan.max_bitrate), (Some("L3T3"), Some(7)));

    parameters["encodings"][2]["rid"] = json!("r1");
    assert_eq!(video(&parameters).unwrap_err().to_string(), "rtpParameters.encodings[2].rid: is used twice");
    parameters["encodings"][2] = json!({});
    let words = "rtpParameters.encodings[2]: must have an ssrc or a rid, as one of several encodings";
    assert_eq!(video(&parameters).unwrap_err().to_string(), words);
}

#[test]
fn layers_of_one_encoding_are_svc() {
    let kind_of = |mode: &str| {
        let mut parameters = camera();
        parameters["encodings"][0]["scalabilityMode"] = json!(mode);
        video(&parameters).unwrap().r#type
    };
    assert_eq!(kind_of("L3T3_KEY"), ProducerType::Svc);
    assert_eq!(kind_of("L1T2"), ProducerType::Svc);
    for simple in ["", "L1T1", "L0T3", "x", "L", "L3", "3T3", "LT", "L3Tx"] {
        assert_eq!(kind_of(simple), ProducerType::Simple, "{simple}");
    }
}

#[test]
fn an_encoding_without_a_name_needs_a_mid() {
    for encodings in [json!(null), json!([]), json!([{}])] {
        let mut parameters = camera();
        parameters["encodings"] = encodings;
        let plan = video(&parameters).unwrap();
        assert_eq!(plan.spec.encodings, [EncodingSpec::default()]);
        parameters["mid"] = json!(null);
        let words = "rtpParameters.mid: must be given where no encoding has an ssrc or a rid";
        assert_eq!(video(&parameters).unwrap_err().to_string(), words);
    }
    refused(|p| p["mid"] = json!("x".repeat(32)), "rtpParameters.mid: must be at most 31 bytes long");
}

#[test]
fn rtx_repairs_a_media_codec_of_the_list() {
    let words =
        "rtpParameters.codecs[1].parameters.apt: must be the payloadType of a media codec in rtpParameters.codecs";
    for apt in [98, 97] {
        refused(|p| p["codecs"][1]["parameters"]["apt"] = json!(apt), words);
    }
    let missing = "rtpParameters.codecs[1].parameters.apt: must name the payload type it repairs";
    refused(|p| p["codecs"][1]["parameters"] = json!({}), missing);
    refused(
        |p| p["codecs"][1]["parameters"]["apt"] = json!("x"),
        "rtpParameters.codecs[1].parameters.apt: must be a payload type",
    );

    let mut without = camera();
    without["codecs"].as_array_mut().unwrap().pop();
    let plan = video(&without).unwrap();
    assert_eq!(plan.spec.rtx_payload_type, None);
    assert_eq!(plan.spec.encodings[0].rtx_ssrc, None, "an RTX SSRC is nothing without its payload type");
}

#[test]
fn extension_ids_are_1_to_255_without_15() {
    let set = |id: Value| move |p: &mut Value| p["headerExtensions"][0]["id"] = id;
    for bad in [0, 15] {
        refused(set(json!(bad)), "rtpParameters.headerExtensions[0].id: must be in 1..=14 or 16..=255");
    }
    refused(set(json!(256)), "rtpParameters.headerExtensions[0].id: must be an integer in 0..=255");
    refused(set(json!(3)), "rtpParameters.headerExtensions[1].id: 3 is used twice");
    let mut parameters = camera();
    parameters["headerExtensions"][0]["id"] = json!(200);
    assert_eq!(video(&parameters).unwrap().spec.extensions.get(Extension::Mid), Some(200));
    parameters["headerExtensions"][0]["encrypt"] = json!(true);
    assert_eq!(video(&parameters).unwrap().spec.extensions.get(Extension::Mid), None);
}

#[test]
fn payload_types_are_distinct_and_no_rtcp() {
    refused(|p| p["codecs"][1]["payloadType"] = json!(96), "rtpParameters.codecs[1].payloadType: 96 is used twice");
    let words = "rtpParameters.codecs[0].payloadType: must not be in 64..=95, which RTCP packets use";
    refused(|p| p["codecs"][0]["payloadType"] = json!(72), words);
    let words = "rtpParameters.codecs[0].payloadType: must be an integer in 0..=127";
    refused(|p| p["codecs"][0]["payloadType"] = json!(128), words);
}

#[test]
fn nothing_of_a_publisher_breaks_another_clients_sdp() {
    let words = "rtpParameters.rtcp.cname: must not contain control characters";
    refused(|p| p["rtcp"]["cname"] = json!("a\r\na=x"), words);
    refused(|p| p["msid"] = json!("a\nb"), "rtpParameters.msid: must not contain control characters");
    refused(
        |p| p["codecs"][0]["parameters"]["x"] = json!("1\n"),
        "rtpParameters.codecs[0].parameters.x: must not contain control characters",
    );
}

#[test]
fn everything_is_bounded() {
    refused(|p| p["encodings"] = json!(vec![json!({}); 9]), "rtpParameters.encodings: must have at most 8 elements");
    refused(|p| p["codecs"] = json!(vec![json!({}); 65]), "rtpParameters.codecs: must have at most 64 elements");
    refused(
        |p| p["headerExtensions"] = json!(vec![json!({}); 65]),
        "rtpParameters.headerExtensions: must have at most 64 elements",
    );
    refused(
        |p| p["rtcp"]["cname"] = json!("x".repeat(256)),
        "rtpParameters.rtcp.cname: must be at most 255 bytes long",
    );
}

#[test]
fn missing_and_wrong_fields_are_named() {
    let fails = |value: Value| video(&value).unwrap_err().to_string();
    assert_eq!(fails(json!(null)), "rtpParameters: must be an object");
    assert_eq!(fails(json!([])), "rtpParameters: must be an object");
    assert_eq!(fails(json!({})), "rtpParameters.codecs: must be an array");
    assert_eq!(fails(json!({"codecs": []})), "rtpParameters.codecs: must have a media codec");
    refused(
        |p| p["codecs"][0]["clockRate"] = json!(null),
        "rtpParameters.codecs[0].clockRate: must be an integer in 1..=4294967295",
    );
    refused(
        |p| p["codecs"][0]["mimeType"] = json!("video"),
        "rtpParameters.codecs[0].mimeType: must be audio/… or video/…",
    );
    refused(|p| p["headerExtensions"][1]["uri"] = json!(5), "rtpParameters.headerExtensions[1].uri: must be a string");
    refused(|p| p["rtcp"] = json!("x"), "rtpParameters.rtcp: must be an object");
    refused(|p| p["encodings"] = json!({}), "rtpParameters.encodings: must be an array");
    refused(
        |p| p["encodings"][0]["codecPayloadType"] = json!(97),
        "rtpParameters.encodings[0].codecPayloadType: must be 96, the first codec's",
    );
}

#[test]
fn opus_has_one_encoding_and_no_rtx() {
    let plan = plan_producer(MediaKind::Audio, &microphone()).unwrap();
    assert_eq!((plan.codec.mime_type, plan.r#type), ("audio/opus", ProducerType::Simple));
    assert!(!plan.spec.feedback.transport_cc, "its extension is not there");

    let mut two = microphone();
    two["encodings"] = json!([{"ssrc": 1}, {"ssrc": 2}]);
    let error = plan_producer(MediaKind::Audio, &two).unwrap_err();
    assert_eq!(error.to_string(), "rtpParameters.encodings: must have one element for audio");

    let mut rtx = microphone();
    let entry = json!({"mimeType": "audio/rtx", "payloadType": 63, "clockRate": 48000, "parameters": {"apt": 111}});
    rtx["codecs"].as_array_mut().unwrap().push(entry);
    assert!(matches!(plan_producer(MediaKind::Audio, &rtx), Err(OrtcError::UnsupportedCodec { .. })));

    let mut mono = microphone();
    mono["codecs"][0]["channels"] = json!(1);
    assert!(matches!(plan_producer(MediaKind::Audio, &mono), Err(OrtcError::UnsupportedCodec { .. })));
}

#[test]
fn multiopus_matches_by_its_layout() {
    let mut parameters = microphone();
    parameters["codecs"][0]["mimeType"] = json!("audio/multiopus");
    parameters["codecs"][0]["channels"] = json!(6);
    parameters["codecs"][0]["parameters"] =
        json!({"channel_mapping": "0,4,1,2,3,5", "num_streams": 4, "coupled_streams": 2});
    assert_eq!(plan_producer(MediaKind::Audio, &parameters).unwrap().codec.payload_type, 98);
    parameters["codecs"][0]["parameters"]["coupled_streams"] = json!(1);
    assert!(plan_producer(MediaKind::Audio, &parameters).is_err());
}

/// The camera's encodings, as a list of fields each.
fn encodings(list: &Value) -> ProducerPlan {
    let mut parameters = camera();
    parameters["encodings"] = list.clone();
    video(&parameters).unwrap()
}

#[test]
fn encodings_are_layers_by_what_they_are_wherever_they_are_listed() {
    // (encodings, the layer of each, whether that is stated)
    let table = [
        // The W3C's example order, h, m, l.
        (
            json!([{"rid": "h"}, {"rid": "m", "scaleResolutionDownBy": 2}, {"rid": "l", "scaleResolutionDownBy": 4.0}]),
            &[2, 1, 0][..],
            true,
        ),
        (
            json!([{"rid": "l", "scaleResolutionDownBy": 4}, {"rid": "m", "scaleResolutionDownBy": 2}, {"rid": "h"}]),
            &[0, 1, 2],
            true,
        ),
        (
            json!([{"ssrc": 1, "scaleResolutionDownBy": 2}, {"ssrc": 2, "scaleResolutionDownBy": 4}, {"ssrc": 3}]),
            &[1, 0, 2],
            true,
        ),
        (
            json!([{"rid": "a", "maxBitrate": 900_000}, {"rid": "b", "maxBitrate": 100_000}, {"rid": "c"}]),
            &[1, 0, 2],
            true,
        ),
        (
            json!([{"rid": "a", "scaleResolutionDownBy": 1, "maxBitrate": 9}, {"rid": "b", "scaleResolutionDownBy": 1, "maxBitrate": 5}]),
            &[1, 0],
            true,
        ),
        (
            json!([{"rid": "a", "scaleResolutionDownBy": 1, "maxBitrate": 5}, {"rid": "b", "scaleResolutionDownBy": 2, "maxBitrate": 9}]),
            &[1, 0],
            true,
        ),
        (json!([{"rid": "a", "maxFramerate": 30}, {"rid": "b", "maxFramerate": 7.5}]), &[1, 0], true),
        // Nothing that tells them apart.
        (json!([{"rid": "2"}, {"rid": "1"}, {"rid": "0"}]), &[0, 1, 2], false),
        (json!([{"rid": "a", "maxBitrate": 5}, {"rid": "b", "maxBitrate": 5}]), &[0, 1], false),
        (json!([{"rid": "a"}, {"rid": "b"}, {"rid": "c", "scaleResolutionDownBy": 4}]), &[1, 2, 0], false),
        (
            json!([{"rid": "a", "scaleResolutionDownBy": "four"}, {"rid": "b", "scaleResolutionDownBy": 0}]),
            &[0, 1],
            false,
        ),
        (
            json!([{"rid": "a", "scaleResolutionDownBy": null, "maxBitrate": null}, {"rid": "b", "scaleResolutionDownBy": -1}]),
            &[0, 1],
            false,
        ),
        (json!([{"ssrc": 1}]), &[0], true),
    ];
    for (list, layers, said) in table {
        let ProducerSpec { ranking, ranked, encodings: listed, .. } = encodings(&list).spec;
        let found: Vec<_> = (0..listed.len() as u8).map(|at| ranking.layer(at)).collect();
        assert_eq!((found.as_slice(), ranked), (layers, said), "{list}");
        let names: Vec<_> =
            listed.iter().map(|encoding| (encoding.rid.map(|rid| rid.as_str().to_owned()), encoding.ssrc)).collect();
        for (name, element) in names.iter().zip(list.as_array().unwrap()) {
            assert_eq!(name.0.as_deref(), element["rid"].as_str(), "the list stays as it is");
        }
    }
    let eight: Vec<Value> = (0..8).map(|at| json!({"ssrc": at + 1, "maxBitrate": 100 - at})).collect();
    assert_eq!(encodings(&json!(eight)).spec.ranking.encodings(), [7, 6, 5, 4, 3, 2, 1, 0]);
}

/// Every way to a field of an object within `value`, as JSON pointers.
fn fields_of(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                let path = format!("{path}/{name}");
                fields_of(value, &path, found);
                found.push(path);
            }
        }
        Value::Array(list) => {
            for (at, value) in list.iter().enumerate() {
                fields_of(value, &format!("{path}/{at}"), found);
            }
        }
        _ => {}
    }
}

#[test]
fn null_counts_as_absent_in_every_field() {
    let mut full = camera();
    full["codecs"][0]["channels"] = json!(1);
    full["codecs"][0]["parameters"] = json!({"x-google-start-bitrate": 1000, "profile-id": "0", "max-fs": 12288});
    full["encodings"][0]["codecPayloadType"] = json!(96);
    full["encodings"][0]["rid"] = json!("h");
    full["encodings"][0]["scalabilityMode"] = json!("L1T3");
    full["encodings"][0]["scaleResolutionDownBy"] = json!(2);
    full["encodings"][0]["maxFramerate"] = json!(30);
    let h264 = h264(json!({"packetization-mode": 1, "profile-level-id": "42e01f", "level-asymmetry-allowed": 1}));
    let capabilities = serde_json::to_value(super::super::router_capabilities()).unwrap();
    let mut seen = 0;
    for (kind, message) in [("video", full), ("video", h264), ("audio", microphone()), ("", capabilities)] {
        let read = |value: &Value| match kind {
            "video" => format!("{:?}", video(value)),
            "audio" => format!("{:?}", plan_producer(MediaKind::Audio, value)),
            _ => format!("{:?}", super::super::parse_capabilities(value)),
        };
        let mut paths = Vec::new();
        fields_of(&message, "", &mut paths);
        for path in paths {
            let (parent, name) = path.rsplit_once('/').unwrap();
            let (mut null, mut absent) = (message.clone(), message.clone());
            *null.pointer_mut(&path).unwrap() = Value::Null;
            absent.pointer_mut(parent).and_then(Value::as_object_mut).unwrap().remove(name);
            assert_eq!(read(&null), read(&absent), "{path}");
            seen += 1;
        }
    }
    assert!(seen > 200, "{seen}");
    let mut parameters = microphone();
    parameters["codecs"][0]["parameters"] = json!({"useinbandfec": null, "minptime": 10});
    let plan = plan_producer(MediaKind::Audio, &parameters).unwrap();
    assert!(plan.parameters.contains_key("minptime") && !plan.parameters.contains_key("useinbandfec"));
}

#[test]
fn a_profile_that_the_router_does_not_forward_is_refused_by_name() {
    let refused = |mime: &str, parameters: Value| {
        let mut camera = camera();
        camera["codecs"][0]["mimeType"] = json!(mime);
        camera["codecs"][0]["parameters"] = parameters;
        let error = video(&camera).unwrap_err();
        assert!(matches!(error, OrtcError::UnsupportedCodec { .. }));
        error.to_string()
    };
    assert!(refused("video/AV1", json!({"profile": 1})).contains("video/AV1/90000 profile=1 is not supported"));
    assert!(refused("video/AV1", json!({"profile": "2", "tier": 0})).contains("profile=2"));
    assert!(refused("video/VP9", json!({"profile-id": 1})).contains("profile-id=1"));
    assert!(refused("video/H264", json!({"packetization-mode": 2})).contains("packetization-mode=2"));
}
