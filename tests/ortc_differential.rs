//! Our ORTC beside mediasoup's own (its npm package's ortc.js) on the parameters of three browsers and on broken forms
//! of them: what is accepted, the codec it maps to, who can consume it, and the consumers' parameters. Every intended
//! difference is named, here or in `ortc_oracle/mutations.rs`; any other fails.

#[path = "ortc_oracle/browsers.rs"]
mod browsers;
#[path = "ortc_oracle/mutations.rs"]
mod mutations;
#[path = "ortc_oracle/node.rs"]
mod node;

use browsers::{BROWSERS, native};
use mutations::{Answer, Mutation};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write;
use weirgate::base::id::{Mid, Ssrc};
use weirgate::shard::command::MediaKind;
use weirgate::signal::ortc::{
    ConsumerIdentity, ProducerPlan, can_consume, parse_capabilities, plan_consumer, plan_producer, router_capabilities,
};

struct Case {
    name: String,
    kind: &'static str,
    parameters: Value,
    capabilities: Value,
    produce: Answer,
    consume: Answer,
}

/// The router's codecs as a set of (mime type, fmtp) that a browser's native list is matched against.
fn routers(kind: &str) -> Vec<Value> {
    let capabilities = serde_json::to_value(router_capabilities()).unwrap();
    capabilities["codecs"].as_array().unwrap().iter().filter(|codec| codec["kind"] == kind).cloned().collect()
}

/// A browser's codec together with its RTX, as mediasoup-client puts them into rtpParameters.
fn codec_pairs(browser: &str, kind: &str) -> Vec<Vec<Value>> {
    let native = native(browser);
    let codecs = native["codecs"].as_array().unwrap();
    let offered: BTreeSet<String> =
        routers(kind).iter().map(|codec| codec["mimeType"].as_str().unwrap().to_owned()).collect();
    let as_parameters = |codec: &Value| {
        let mut codec = codec.clone();
        let object = codec.as_object_mut().unwrap();
        let payload_type = object.remove("preferredPayloadType").unwrap();
        object.remove("kind");
        object.insert("payloadType".to_owned(), payload_type);
        codec
    };
    let media = codecs.iter().filter(|codec| {
        let mime_type = codec["mimeType"].as_str().unwrap();
        codec["kind"] == kind && mime_type != "video/rtx" && offered.contains(mime_type)
            // Laxer here, and among the mutations: in no base shape.
            && codec["parameters"]["profile-level-id"] != "640c1f"
    });
    media
        .map(|codec| {
            let rtx = codecs.iter().filter(|other| other["parameters"]["apt"] == codec["preferredPayloadType"]);
            std::iter::once(codec).chain(rtx).map(as_parameters).collect()
        })
        .collect()
}

fn encodings(kind: &str, rng: &mut StdRng) -> Value {
    let ssrc: u32 = rng.random_range(1..u32::MAX - 9);
    let single = json!([{"ssrc": ssrc, "rtx": {"ssrc": ssrc + 1}, "active": true, "dtx": true}]);
    match (kind, rng.random_range(0..5)) {
        ("audio", _) => json!([{"ssrc": ssrc}]),
        (_, 0) => json!([
            {"rid": "r0", "scaleResolutionDownBy": 4, "scalabilityMode": "L1T3", "maxBitrate": 100_000},
            {"rid": "r1", "scaleResolutionDownBy": 2, "scalabilityMode": "L1T3", "maxBitrate": 300_000},
            {"rid": "r2", "scalabilityMode": "L1T3", "maxBitrate": 900_000}
        ]),
        (_, 1) => json!([{"ssrc": ssrc, "scalabilityMode": "L3T3_KEY", "rtx": {"ssrc": ssrc + 1}}]),
        (_, 2) => json!([{"ssrc": ssrc}, {"ssrc": ssrc + 1}]),
        _ => single,
    }
}

/// A browser's `rtpParameters` for produce.
fn parameters(base: &Base, rng: &mut StdRng) -> Value {
    json!({
        "mid": "0", "codecs": base.codecs, "headerExtensions": base.extensions,
        "encodings": encodings(base.kind, rng), "rtcp": {"cname": "b6f2ce0c", "reducedSize": true}, "msid": "- 5c1e"
    })
}

fn sent_extensions(browser: &str, kind: &str) -> Vec<Value> {
    let sent = |entry: &&Value| kind == "video" || entry["kind"] == "audio" || in_audio_too(entry);
    let native = native(browser);
    let list = native["headerExtensions"].as_array().unwrap().iter().filter(sent);
    list.map(|entry| json!({"uri": entry["uri"], "id": entry["preferredId"], "encrypt": false, "parameters": {}}))
        .collect()
}

/// Extensions that audio sections have as well.
fn in_audio_too(entry: &Value) -> bool {
    [browsers::MID, browsers::ABS_SEND_TIME, browsers::TRANSPORT_CC].iter().any(|uri| entry["uri"] == *uri)
}

/// A browser's capabilities for consume as mediasoup-client makes them: the router's codecs that it has, under the
/// router's numbers.
fn capabilities(browser: &str) -> Value {
    let native = native(browser);
    let uris: BTreeSet<&str> =
        native["headerExtensions"].as_array().unwrap().iter().map(|entry| entry["uri"].as_str().unwrap()).collect();
    let mut router = serde_json::to_value(router_capabilities()).unwrap();
    router["headerExtensions"]
        .as_array_mut()
        .unwrap()
        .retain(|entry| entry["direction"] == "sendrecv" && uris.contains(entry["uri"].as_str().unwrap()));
    let has = |codec: &Value| {
        native["codecs"].as_array().unwrap().iter().any(|own| {
            let same = |field: &str| {
                own["parameters"][field] == codec["parameters"][field]
                    || (own["parameters"][field].is_null() && codec["parameters"][field] == 0)
            };
            own["mimeType"] == codec["mimeType"]
                && own["channels"] == codec["channels"]
                && ["profile-id", "packetization-mode", "profile-level-id"].into_iter().all(same)
        })
    };
    let codecs = router["codecs"].as_array_mut().unwrap();
    let kept: BTreeSet<u64> =
        codecs.iter().filter(|codec| has(codec)).map(|codec| codec["preferredPayloadType"].as_u64().unwrap()).collect();
    codecs.retain(|codec| {
        let own = codec["parameters"]["apt"].as_u64().unwrap_or(codec["preferredPayloadType"].as_u64().unwrap());
        kept.contains(&own)
    });
    router
}

struct Base {
    name: String,
    kind: &'static str,
    codecs: Vec<Value>,
    extensions: Vec<Value>,
}

fn bases() -> Vec<Base> {
    let mut all = Vec::new();
    for browser in BROWSERS {
        for kind in ["audio", "video"] {
            for codecs in codec_pairs(browser, kind) {
                let name = format!("{browser} {} {}", codecs[0]["mimeType"], codecs[0]["parameters"]);
                all.push(Base { name, kind, codecs, extensions: sent_extensions(browser, kind) });
            }
        }
    }
    all
}

fn case(base: &Base, receivers: &[(&str, Value)], rng: &mut StdRng) -> Case {
    let (receiver, capabilities) = receivers.choose(rng).unwrap();
    Case {
        name: format!("{} to {receiver}", base.name),
        kind: base.kind,
        parameters: parameters(base, rng),
        capabilities: capabilities.clone(),
        produce: Answer::Same,
        consume: Answer::Same,
    }
}

fn mutate(case: &mut Case, mutation: &Mutation, on: fn(&mut Case) -> (&mut Value, &mut Answer), rng: &mut StdRng) {
    let (target, answer) = on(case);
    if (mutation.change)(target, rng) {
        *answer = mutation.answer;
        case.name = format!("{}, {}", case.name, mutation.name);
    }
}

fn on_parameters(case: &mut Case) -> (&mut Value, &mut Answer) {
    (&mut case.parameters, &mut case.produce)
}

fn on_capabilities(case: &mut Case) -> (&mut Value, &mut Answer) {
    (&mut case.capabilities, &mut case.consume)
}

fn cases() -> Vec<Case> {
    let rng = &mut StdRng::seed_from_u64(1);
    let bases = bases();
    let receivers = BROWSERS.map(|browser| (browser, capabilities(browser)));
    let mut all = Vec::new();
    for base in &bases {
        all.extend((0..4).map(|_| case(base, &receivers, rng)));
    }
    for mutation in mutations::of_parameters() {
        for kind in ["audio", "video"] {
            // To three shapes of this kind that it applies to, if there are so many.
            let mut of_kind: Vec<&Base> = bases.iter().filter(|base| base.kind == kind).collect();
            of_kind.shuffle(rng);
            let mut applied = 0;
            for base in of_kind {
                let mut case = case(base, &receivers, rng);
                let before = case.parameters.clone();
                mutate(&mut case, &mutation, on_parameters, rng);
                if case.parameters != before {
                    all.push(case);
                    applied += 1;
                }
                if applied == 3 {
                    break;
                }
            }
        }
    }
    for mutation in mutations::of_capabilities() {
        for _ in 0..5 {
            let mut case = case(bases.choose(rng).unwrap(), &receivers, rng);
            mutate(&mut case, &mutation, on_capabilities, rng);
            all.push(case);
        }
    }
    // Two changes at once, of those that both of us answer alike.
    let same = |mut list: Vec<Mutation>| {
        list.retain(|mutation| mutation.answer == Answer::Same);
        list
    };
    let (of_parameters, of_capabilities) = (same(mutations::of_parameters()), same(mutations::of_capabilities()));
    for _ in 0..300 {
        let mut case = case(bases.choose(rng).unwrap(), &receivers, rng);
        mutate(&mut case, of_parameters.choose(rng).unwrap(), on_parameters, rng);
        mutate(&mut case, of_parameters.choose(rng).unwrap(), on_parameters, rng);
        mutate(&mut case, of_capabilities.choose(rng).unwrap(), on_capabilities, rng);
        all.push(case);
    }
    all
}

fn ask_mediasoup(cases: &[Case]) -> Option<Value> {
    let mut child = node::start("compare.mjs")?;
    let inputs: Vec<Value> = cases
        .iter()
        .map(|case| json!({"kind": case.kind, "rtpParameters": case.parameters, "rtpCapabilities": case.capabilities}))
        .collect();
    let request = json!({"routerCapabilities": router_capabilities(), "cases": inputs}).to_string();
    child.stdin.take().unwrap().write_all(request.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// True where both accept; unexpected differences go to `wrong`.
fn check(
    wrong: &mut Vec<String>,
    case: &Case,
    answer: Answer,
    ours: Result<(), String>,
    theirs: Result<(), String>,
) -> bool {
    let expected = match answer {
        Answer::Same => ours.is_ok() == theirs.is_ok(),
        Answer::Stricter(_) => ours.is_err() && theirs.is_ok(),
        Answer::Laxer(_) => ours.is_ok() && theirs.is_err(),
    };
    if !expected {
        wrong.push(format!("{}: {answer:?}, but ours {ours:?} and theirs {theirs:?}", case.name));
    }
    ours.is_ok() && theirs.is_ok()
}

fn theirs(outcome: &Value) -> Result<(), String> {
    match outcome["error"].as_str() {
        Some(error) => Err(error.to_owned()),
        None => Ok(()),
    }
}

fn media_codecs(list: &Value) -> Vec<&Value> {
    let is_media = |codec: &&Value| !codec["mimeType"].as_str().unwrap().to_lowercase().ends_with("/rtx");
    list.as_array().unwrap().iter().filter(is_media).collect()
}

/// The four parameters that we write as numbers, whichever way they came.
fn settled(parameters: &Value) -> Value {
    let mut parameters = parameters.clone();
    for name in ["apt", "profile-id", "packetization-mode", "level-asymmetry-allowed"] {
        if let Some(number) = parameters[name].as_str().and_then(|text| text.parse::<u32>().ok()) {
            parameters[name] = json!(number);
        }
    }
    parameters
}

fn feedback(codec: &Value) -> BTreeSet<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    codec["rtcpFeedback"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (text(&entry["type"]), text(&entry["parameter"])))
        .collect()
}

fn extensions(parameters: &Value) -> BTreeSet<(String, u64)> {
    let list = parameters["headerExtensions"].as_array().unwrap();
    list.iter().map(|entry| (entry["uri"].as_str().unwrap().to_owned(), entry["id"].as_u64().unwrap())).collect()
}

fn compare_producers(case: &Case, plan: &ProducerPlan, mapping: &Value) {
    let mapped = |payload_type: u64| {
        let entries = mapping["codecs"].as_array().unwrap();
        let entry = entries.iter().find(|entry| entry["payloadType"] == payload_type);
        entry.and_then(|entry| entry["mappedPayloadType"].as_u64())
    };
    let media = u64::from(plan.spec.payload_type.0);
    assert_eq!(mapped(media), Some(u64::from(plan.codec.payload_type)), "{}", case.name);
    if let Some(rtx) = plan.spec.rtx_payload_type {
        assert_eq!(mapped(u64::from(rtx.0)), plan.codec.rtx_payload_type().map(u64::from), "{}", case.name);
    }
    let encodings = mapping["encodings"].as_array().unwrap();
    let named: Vec<_> =
        encodings.iter().map(|entry| (entry["ssrc"].as_u64(), entry["rid"].as_str().map(str::to_owned))).collect();
    let ours: Vec<_> = plan
        .spec
        .encodings
        .iter()
        .map(|entry| (entry.ssrc.map(|ssrc| u64::from(ssrc.0)), entry.rid.map(|rid| rid.as_str().to_owned())))
        .collect();
    assert_eq!(ours, named, "{}", case.name);
}

fn compare_consumers(case: &Case, plan: &ProducerPlan, ours: &Value, theirs: &Value) {
    let name = &case.name;
    let our_codecs = ours["codecs"].as_array().unwrap();
    let media = &our_codecs[0];
    // One codec here, all that match there.
    let their_codecs = theirs["codecs"].as_array().unwrap();
    let their_media = their_codecs.iter().find(|codec| codec["payloadType"] == media["payloadType"]).expect(name);
    for field in ["mimeType", "clockRate", "channels"] {
        assert_eq!(media[field], their_media[field], "{name}");
    }
    assert_eq!(media["parameters"], settled(&their_media["parameters"]), "{name}");

    // RTX there for any RTX of the receiver's, here for one that names this codec (or none).
    let their_rtx = their_codecs.iter().find(|codec| codec["parameters"]["apt"] == media["payloadType"]);
    match (our_codecs.get(1), their_rtx) {
        (Some(ours), theirs) => {
            assert_eq!(
                (&ours["mimeType"], Some(&ours["payloadType"])),
                (&json!("video/rtx"), theirs.map(|codec| &codec["payloadType"])),
                "{name}"
            );
        }
        (None, Some(_)) => assert!(name.contains("RTX of other payload types"), "{name}"),
        (None, None) => {}
    }
    let has_rtx = our_codecs.len() > 1;

    // There what the receiver names, here only what the router speaks too; and no generic nack without RTX.
    let spoken: BTreeSet<_> = routers(case.kind)
        .iter()
        .filter(|codec| codec["preferredPayloadType"] == media["payloadType"])
        .flat_map(feedback)
        .collect();
    let mut expected: BTreeSet<_> = feedback(their_media).intersection(&spoken).cloned().collect();
    if !has_rtx {
        expected.remove(&("nack".to_owned(), String::new()));
    }
    assert_eq!(feedback(media), expected, "{name}");
    // The descriptor there in every consumer that knows it, here where upper layers cannot be decoded without it.
    let mut expected = extensions(theirs);
    let sent = case.parameters["headerExtensions"].as_array();
    let comes = sent.is_some_and(|sent| sent.iter().any(|entry| entry["uri"] == browsers::DESCRIPTOR));
    if media["mimeType"] != "video/AV1" || plan.spec.top.spatial == 0 || !comes {
        expected.retain(|(uri, _)| uri != browsers::DESCRIPTOR);
    }
    // Both there, here the second alone: send times are four bytes a packet, and say nothing that its feedback does not.
    if expected.iter().any(|(uri, _)| uri == browsers::TRANSPORT_CC) {
        expected.retain(|(uri, _)| uri != browsers::ABS_SEND_TIME);
    }
    // Passed on there, here the publisher's hop's.
    expected.retain(|(uri, _)| uri != browsers::OFFSET);
    assert_eq!(extensions(ours), expected, "{name}");

    let (encoding, their_encoding) = (&ours["encodings"][0], &theirs["encodings"][0]);
    for field in ["scalabilityMode", "maxBitrate"] {
        assert_eq!(encoding[field], their_encoding[field], "{name}");
    }
    assert_eq!(ours["encodings"].as_array().unwrap().len(), 1);
    assert_eq!(encoding["rtx"].is_object(), has_rtx, "{name}");
    assert_eq!(ours["msid"], theirs["msid"], "{name}");
    assert_eq!(ours["rtcp"]["reducedSize"], theirs["rtcp"]["reducedSize"]);
    // There the transport fills a missing one in.
    assert_eq!(plan.cname, theirs["rtcp"]["cname"].as_str().unwrap_or_default(), "{name}");
}

#[test]
fn we_answer_as_mediasoup_does_but_for_what_is_named() {
    let cases = cases();
    assert!(cases.len() > 700, "{}", cases.len());
    let Some(answers) = ask_mediasoup(&cases) else { return };
    let mut wrong = Vec::new();
    let (mut accepted, mut consumed) = (0, 0);
    for (case, result) in cases.iter().zip(answers["results"].as_array().unwrap()) {
        let kind = if case.kind == "audio" { MediaKind::Audio } else { MediaKind::Video };
        let producer = plan_producer(kind, &case.parameters);
        let outcome = producer.as_ref().map(|_| ()).map_err(ToString::to_string);
        let both_produce = check(&mut wrong, case, case.produce, outcome, theirs(&result["producer"]));
        let capabilities = parse_capabilities(&case.capabilities);
        let outcome = capabilities.as_ref().map(|_| ()).map_err(ToString::to_string);
        let both_read = check(&mut wrong, case, case.consume, outcome, theirs(&result["capabilities"]));
        let (true, true, Ok(plan), Ok(capabilities)) = (both_produce, both_read, producer, capabilities) else {
            continue;
        };
        accepted += 1;
        compare_producers(case, &plan, &result["producer"]["mapping"]);

        let ours = can_consume(&plan, &capabilities);
        let their_codecs = media_codecs(&case.parameters["codecs"]);
        if their_codecs.len() == 1 {
            assert_eq!(json!(ours), result["canConsume"], "{}", case.name);
        } else {
            // A second codec that a receiver has instead helps it there, where producers keep all of them.
            assert!(!ours || result["canConsume"] == true, "{}", case.name);
        }
        if ours {
            let identity = ConsumerIdentity {
                mid: Mid::new(b"0").unwrap(),
                ssrc: Ssrc(1),
                rtx_ssrc: Ssrc(2),
                cname: String::new(),
                msid: None,
            };
            let consumer = plan_consumer(&plan, &capabilities, identity).unwrap();
            let ours = serde_json::to_value(&consumer.rtp_parameters).unwrap();
            compare_consumers(case, &plan, &ours, &result["consumer"]["value"]);
            consumed += 1;
        }
    }
    assert!(wrong.is_empty(), "{} differences\n{}", wrong.len(), wrong.join("\n"));
    assert!(accepted > 300 && consumed > 150, "{accepted} {consumed} of {}", cases.len());
}

#[test]
fn the_routers_capabilities_are_mediasoups_for_the_same_codecs() {
    let Some(answers) = ask_mediasoup(&[]) else { return };
    let theirs = &answers["capabilities"];
    let ours = serde_json::to_value(router_capabilities()).unwrap();

    let (our_codecs, their_codecs) = (media_codecs(&ours["codecs"]), media_codecs(&theirs["codecs"]));
    assert_eq!(our_codecs.len(), their_codecs.len());
    for (our, their) in our_codecs.iter().zip(their_codecs) {
        for field in ["kind", "mimeType", "clockRate", "channels", "preferredPayloadType", "parameters"] {
            assert_eq!(our[field], their[field], "{our}");
        }
        let mut expected = feedback(their);
        if our["kind"] == "audio" {
            // No packet is sealed twice, so that audio, which has no RTX, has no nack.
            assert!(expected.remove(&("nack".to_owned(), String::new())));
        }
        assert_eq!(feedback(our), expected, "{our}");
    }

    // The same extensions and directions, but for the descriptor, which mediasoup keeps from receivers (decision 0017),
    // and for the orientation, which some receivers do not know; the ids are ours, and packet-id is between mediasoup's own routers.
    let shape = |capabilities: &Value| -> BTreeSet<(String, String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let list = capabilities["headerExtensions"].as_array().unwrap();
        let own = |entry: &&Value| entry["uri"] != "urn:mediasoup:params:rtp-hdrext:packet-id";
        list.iter()
            .filter(own)
            .map(|entry| (text(&entry["kind"]), text(&entry["uri"]), text(&entry["direction"])))
            .collect()
    };
    let descriptor = |direction: &str| ("video".to_owned(), browsers::DESCRIPTOR.to_owned(), direction.to_owned());
    let mut expected = shape(theirs);
    assert!(expected.remove(&("video".to_owned(), browsers::ORIENTATION.to_owned(), "sendrecv".to_owned())));
    assert!(expected.remove(&descriptor("recvonly")) && expected.insert(descriptor("sendrecv")));
    assert_eq!(shape(&ours), expected);
}
