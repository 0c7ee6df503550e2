//! A client's requests: from text to a checked [`Request`]. Whether one is allowed now is decided elsewhere.

use serde_json::Value;

use crate::base::id::Layers;
use crate::base::limits::{APP_DATA_BYTES_MAX, BITRATE_MAX, FINGERPRINTS_MAX, LAST_N_MAX, REQUEST_ID_BYTES_MAX};
use crate::base::secret::Secret;
use crate::base::units::Bitrate;
use crate::shard::command::{Announcement, Fingerprint, HashAlgorithm, MediaKind, RemoteDtlsRole};
use crate::signal::act::{self, Act};
use crate::signal::fields::{Fields, bad, excerpt, kind_of, misshapen, missing, wrong};
use crate::signal::message::{Code, Refusal, RequestTag};
use crate::signal::salvage;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Direction {
    Send,
    Receive,
}

/// The object of a request: the client names it by its id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum StatsTarget {
    Transport(String),
    Producer(String),
    Consumer(String),
}

#[derive(Debug)]
pub(super) struct Produce {
    pub(super) transport: Option<String>,
    pub(super) kind: MediaKind,
    pub(super) rtp_parameters: Value,
    pub(super) paused: bool,
    pub(super) app_data: Value,
    /// Bytes of the appData as JSON.
    pub(super) app_data_bytes: usize,
}

#[derive(Debug)]
pub(super) struct Consume {
    pub(super) transport: Option<String>,
    pub(super) producer: Option<String>,
    pub(super) rtp_capabilities: Value,
    pub(super) paused: bool,
}

#[derive(Debug)]
pub(super) enum Request {
    GetRtpCapabilities {
        resume: bool,
    },
    CreateTransport {
        direction: Option<Direction>,
    },
    ConnectTransport {
        transport: Option<String>,
        announcement: Announcement,
    },
    Produce(Box<Produce>),
    Consume(Box<Consume>),
    Subscribe {
        resume: bool,
    },
    GetProducers,
    PauseProducer {
        producer: String,
    },
    ResumeProducer {
        producer: String,
    },
    CloseProducer {
        producer: String,
    },
    PauseConsumer {
        consumer: String,
    },
    ResumeConsumer {
        consumer: String,
    },
    CloseConsumer {
        consumer: String,
    },
    CloseTransport {
        transport: String,
    },
    RestartIce {
        transport: Option<String>,
    },
    SetPreferredLayers {
        consumer: String,
        layers: Layers,
    },
    KeyFrame {
        consumer: String,
    },
    SetLastN {
        n: Option<usize>,
    },
    SetPriority {
        consumer: String,
        priority: u8,
    },
    SetMaxBitrate {
        transport: String,
        incoming: Option<Bitrate>,
        outgoing: Option<Bitrate>,
    },
    GetStats {
        of: StatsTarget,
    },
    Authenticate {
        token: Secret,
    },
    /// The first message of a socket alone.
    Resume {
        token: Secret,
        received: Option<u64>,
    },
    /// `received`: how many texts the client has got.
    Ping {
        received: Option<u64>,
    },
    Act(Act),
}

/// A message as far as it could be read: a refusal still carries the id and type it came with.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) tag: Option<RequestTag>,
    pub(super) kind: Option<String>,
    pub(super) request: Result<Request, Refusal>,
}

pub(super) fn parse(text: &str) -> Parsed {
    let nameless = |refusal| Parsed { tag: None, kind: None, request: Err(refusal) };
    let unreadable = |message: String| {
        let tag = salvage::request_id(text).and_then(|id| request_tag(id).ok().flatten());
        Parsed { tag, kind: None, request: Err(Refusal::new(Code::BadJson, message)) }
    };
    if let Some(why) = misshapen(text) {
        return unreadable(why.to_owned());
    }
    let mut map = match serde_json::from_str(text) {
        Ok(Value::Object(map)) => map,
        Ok(other) => {
            let message = format!("the message must be a JSON object with a \"type\", not {}", kind_of(&other));
            return nameless(Refusal::new(Code::BadJson, message));
        }
        Err(error) => return unreadable(format!("the message is not JSON: {error}")),
    };
    let tag = match map.remove("requestId").map(request_tag).transpose() {
        Ok(tag) => tag.flatten(),
        Err(refusal) => return nameless(refusal),
    };
    let kind = match map.remove("type") {
        Some(Value::String(kind)) => kind,
        None | Some(Value::Null) => return Parsed { tag, kind: None, request: Err(missing("type", "a string")) },
        Some(other) => return Parsed { tag, kind: None, request: Err(wrong("type", "a string", &other)) },
    };
    let request = Fields::of("data", map.remove("data")).and_then(|data| read(&kind, data));
    Parsed { tag, kind: Some(excerpt(&kind)), request }
}

fn request_tag(value: Value) -> Result<Option<RequestTag>, Refusal> {
    match value {
        Value::Null => Ok(None),
        Value::Number(number) => Ok(Some(RequestTag::Number(number))),
        Value::String(text) if text.len() <= REQUEST_ID_BYTES_MAX => Ok(Some(RequestTag::Text(text))),
        Value::String(_) => Err(bad(format!("requestId: at most {REQUEST_ID_BYTES_MAX} bytes"))),
        other => Err(wrong("requestId", "a number or a string", &other)),
    }
}

fn read(kind: &str, mut data: Fields) -> Result<Request, Refusal> {
    Ok(match kind {
        "get-rtp-capabilities" => Request::GetRtpCapabilities { resume: data.boolean("resume")?.unwrap_or(false) },
        "create-transport" => Request::CreateTransport {
            direction: data.word("direction", &[("send", Direction::Send), ("recv", Direction::Receive)])?,
        },
        "connect-transport" => Request::ConnectTransport {
            transport: data.string("transportId")?,
            announcement: announcement(&mut data.needed_fields("dtlsParameters")?)?,
        },
        "produce" => Request::Produce(Box::new(produce(&mut data)?)),
        "consume" => Request::Consume(Box::new(Consume {
            transport: data.string("transportId")?,
            producer: data.string("producerId")?,
            rtp_capabilities: data.needed_object("rtpCapabilities")?,
            paused: data.boolean("paused")?.unwrap_or(false),
        })),
        "subscribe" => Request::Subscribe { resume: data.boolean("resume")?.unwrap_or(false) },
        "get-producers" => Request::GetProducers,
        "pause-producer" => Request::PauseProducer { producer: data.needed_string("producerId")? },
        "resume-producer" => Request::ResumeProducer { producer: data.needed_string("producerId")? },
        "close-producer" => Request::CloseProducer { producer: data.needed_string("producerId")? },
        "pause-consumer" => Request::PauseConsumer { consumer: data.needed_string("consumerId")? },
        "resume-consumer" => Request::ResumeConsumer { consumer: data.needed_string("consumerId")? },
        "close-consumer" => Request::CloseConsumer { consumer: data.needed_string("consumerId")? },
        "close-transport" => Request::CloseTransport { transport: data.needed_string("transportId")? },
        "restart-ice" => Request::RestartIce { transport: data.string("transportId")? },
        "set-preferred-layers" => Request::SetPreferredLayers {
            consumer: data.needed_string("consumerId")?,
            layers: Layers {
                spatial: layer(&mut data, "spatialLayer")?
                    .ok_or_else(|| missing("data.spatialLayer", "a whole number from 0"))?,
                temporal: layer(&mut data, "temporalLayer")?.unwrap_or(Layers::ALL.temporal),
            },
        },
        "request-key-frame" => Request::KeyFrame { consumer: data.needed_string("consumerId")? },
        "set-last-n" => Request::SetLastN { n: data.count("n", 1..=LAST_N_MAX)? },
        "set-priority" => Request::SetPriority {
            consumer: data.needed_string("consumerId")?,
            priority: data.count("priority", 1..=255)?.ok_or_else(|| missing("data.priority", "a number"))? as u8,
        },
        "set-max-bitrate" => Request::SetMaxBitrate {
            transport: data.needed_string("transportId")?,
            incoming: data.count("maxIncomingBitrate", 0..=BITRATE_MAX)?.map(|rate| Bitrate(rate as u64)),
            outgoing: data.count("maxOutgoingBitrate", 0..=BITRATE_MAX)?.map(|rate| Bitrate(rate as u64)),
        },
        "get-stats" => Request::GetStats { of: stats_target(&mut data)? },
        "authenticate" => Request::Authenticate { token: Secret::new(data.needed_string("token")?) },
        "resume" => Request::Resume {
            token: Secret::new(data.needed_string("token")?),
            received: data.count("received", 0..=usize::MAX)?.map(|texts| texts as u64),
        },
        "ping" => {
            let received = data.count("received", 0..=usize::MAX)?;
            Request::Ping { received: received.map(|received| received as u64) }
        }
        other => {
            if let Some(act) = Act::read(other, &mut data)? {
                return Ok(Request::Act(act));
            }
            let message = format!("there is no message of type \"{}\"; docs/PROTOCOL.md lists them", excerpt(other));
            return Err(Refusal::new(Code::UnknownType, message));
        }
    })
}

fn layer(data: &mut Fields, name: &str) -> Result<Option<u8>, Refusal> {
    Ok(data.count(name, 0..=usize::from(u8::MAX))?.and_then(|layer| u8::try_from(layer).ok()))
}

fn produce(data: &mut Fields) -> Result<Produce, Refusal> {
    let (transport, kind) = (
        data.string("transportId")?,
        data.needed_word("kind", &[("audio", MediaKind::Audio), ("video", MediaKind::Video)])?,
    );
    let (rtp_parameters, paused) = (data.needed_object("rtpParameters")?, data.boolean("paused")?.unwrap_or(false));
    let app_data = data.take("appData").unwrap_or(Value::Null);
    let (app_data, app_data_bytes) = act::bounded(app_data, "data.appData", APP_DATA_BYTES_MAX)?;
    Ok(Produce { transport, kind, rtp_parameters, paused, app_data, app_data_bytes })
}

fn stats_target(data: &mut Fields) -> Result<StatsTarget, Refusal> {
    let transport = data.string("transportId")?.map(StatsTarget::Transport);
    let producer = data.string("producerId")?.map(StatsTarget::Producer);
    let consumer = data.string("consumerId")?.map(StatsTarget::Consumer);
    match (transport, producer, consumer) {
        (Some(target), None, None) | (None, Some(target), None) | (None, None, Some(target)) => Ok(target),
        _ => Err(bad("data: exactly one of transportId, producerId and consumerId is needed here".to_owned())),
    }
}

fn announcement(dtls: &mut Fields) -> Result<Announcement, Refusal> {
    const PATH: &str = "data.dtlsParameters.fingerprints";
    let roles = [
        ("auto", RemoteDtlsRole::ClientOrAuto),
        ("client", RemoteDtlsRole::ClientOrAuto),
        ("server", RemoteDtlsRole::Server),
    ];
    let role = dtls.word("role", &roles)?.unwrap_or(RemoteDtlsRole::ClientOrAuto);
    let values = dtls.needed_array("fingerprints")?;
    if values.is_empty() {
        return Err(bad(format!("{PATH} is empty: at least one fingerprint is needed")));
    }
    if values.len() > FINGERPRINTS_MAX {
        return Err(Refusal::new(Code::Limit, format!("{PATH}: at most {FINGERPRINTS_MAX} fingerprints")));
    }
    let mut fingerprints = Vec::with_capacity(values.len());
    for (index, value) in values.into_iter().enumerate() {
        let path = format!("{PATH}[{index}]");
        if !value.is_object() {
            return Err(wrong(&path, "an object", &value));
        }
        fingerprints.extend(fingerprint(&path, &mut Fields::of(path.as_str(), Some(value))?)?);
    }
    if fingerprints.is_empty() {
        let message = format!("{PATH}: none is of a hash that is accepted here: sha-256, sha-384 or sha-512");
        return Err(Refusal::new(Code::Unsupported, message));
    }
    Ok(Announcement { fingerprints, role, certain: false })
}

/// None for a hash function that is not accepted: any other fingerprint of the same message may match.
fn fingerprint(path: &str, fields: &mut Fields) -> Result<Option<Fingerprint>, Refusal> {
    let name = fields.needed_string("algorithm")?;
    let text = fields.needed_string("value")?;
    let (algorithm, length) = match name.to_ascii_lowercase().as_str() {
        "sha-256" => (HashAlgorithm::Sha256, 32),
        "sha-384" => (HashAlgorithm::Sha384, 48),
        "sha-512" => (HashAlgorithm::Sha512, 64),
        _ => return Ok(None),
    };
    match hex_pairs(&text).filter(|value| value.len() == length) {
        Some(value) => Ok(Some(Fingerprint { algorithm, value })),
        None => Err(bad(format!("{path}.value: {length} bytes wanted, in hex with colons between (AB:CD:…)"))),
    }
}

/// RFC 8122 section 5: two hex digits a byte, colons between; case does not matter.
fn hex_pairs(text: &str) -> Option<Vec<u8>> {
    let pair = |pair: &str| match pair.as_bytes() {
        [high, low] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => u8::from_str_radix(pair, 16).ok(),
        _ => None,
    };
    text.split(':').map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refusal(message: Value) -> (Code, String) {
        let refusal = parse(&message.to_string()).request.unwrap_err();
        (refusal.code, refusal.message)
    }

    fn connect(fingerprint: Value) -> Value {
        json!({ "type": "connect-transport", "data": { "dtlsParameters": { "fingerprints": [fingerprint] } } })
    }

    #[test]
    fn the_envelope_is_checked() {
        for text in ["", "{", "[1]", "nul", "{\"type\":1e999}", "\u{0}"] {
            assert_eq!(parse(text).request.unwrap_err().code, Code::BadJson, "{text}");
        }
        assert_eq!(parse(&"[".repeat(100_000)).request.unwrap_err().code, Code::BadJson);
        assert_eq!(refusal(json!({})), (Code::BadField, "type is missing: a string is needed here".into()));
        assert_eq!(refusal(json!({ "type": 5 })).1, "type: a string wanted, a number given");
        assert_eq!(refusal(json!({ "type": "x".repeat(999) })).0, Code::UnknownType);
        assert_eq!(refusal(json!({ "type": "ping", "data": [] })).1, "data: an object wanted, an array given");
        assert_eq!(refusal(json!({ "type": "ping", "requestId": {} })).0, Code::BadField);
        assert_eq!(refusal(json!({ "type": "ping", "requestId": "x".repeat(257) })).0, Code::BadField);
    }

    #[test]
    fn a_refusal_keeps_the_request_id_and_type() {
        let parsed = parse(r#"{"type":"produce","requestId":"r1","data":{"kind":"smell"}}"#);
        assert_eq!(parsed.tag, Some(RequestTag::Text("r1".into())));
        assert_eq!(parsed.kind.as_deref(), Some("produce"));
        let message = parsed.request.unwrap_err().message;
        assert_eq!(message, "data.kind: \"audio\" or \"video\" wanted, \"smell\" given");
    }

    #[test]
    fn fingerprints_are_read_in_any_case_and_foreign_hashes_are_passed_over() {
        let value = ["aB"; 32].join(":");
        let message = json!({ "type": "connect-transport", "data": { "dtlsParameters": { "role": "server",
            "fingerprints": [{ "algorithm": "sha-1", "value": "00" }, { "algorithm": "SHA-256", "value": value }] } } });
        let Ok(Request::ConnectTransport { transport: None, announcement }) = parse(&message.to_string()).request
        else {
            panic!("not read");
        };
        assert_eq!(announcement.role, RemoteDtlsRole::Server);
        assert_eq!(announcement.fingerprints.len(), 1);
        assert_eq!(announcement.fingerprints[0].value, [0xab; 32]);
    }

    #[test]
    fn bad_fingerprints_are_named_by_path() {
        let (code, message) = refusal(connect(json!({ "algorithm": "sha-1", "value": "00" })));
        assert!(code == Code::Unsupported && message.starts_with("data.dtlsParameters.fingerprints"), "{message}");
        for value in ["", "AB", &["AB"; 31].join(":"), &["+B"; 32].join(":"), &["ABC"; 32].join(":"), &"é".repeat(64)]
        {
            let (code, message) = refusal(connect(json!({ "algorithm": "sha-256", "value": value })));
            assert_eq!(code, Code::BadField);
            assert!(message.starts_with("data.dtlsParameters.fingerprints[0].value"), "{message}");
        }
        assert_eq!(
            refusal(connect(json!(7))).1,
            "data.dtlsParameters.fingerprints[0]: an object wanted, a number given"
        );
        assert_eq!(refusal(connect(json!(null))).0, Code::BadField);
    }

    #[test]
    fn app_data_is_bounded() {
        let data = json!({ "kind": "audio", "rtpParameters": {}, "appData": "x".repeat(APP_DATA_BYTES_MAX) });
        let message = json!({ "type": "produce", "data": data });
        assert_eq!(refusal(message).0, Code::Limit);
    }

    #[test]
    fn numbers_are_checked() {
        let priority =
            |value: Value| json!({ "type": "set-priority", "data": { "consumerId": "c", "priority": value } });
        for value in [json!(0), json!(256), json!(1.5), json!(-1), json!("7")] {
            let (code, message) = refusal(priority(value));
            assert!(code == Code::BadField && message.starts_with("data.priority: "), "{message}");
        }
        assert_eq!(refusal(priority(Value::Null)).1, "data.priority is missing: a number is needed here");
        assert!(parse(&priority(json!(255)).to_string()).request.is_ok());
        let data = json!({ "transportId": "t", "maxIncomingBitrate": 300_000 });
        let parsed = parse(&json!({ "type": "set-max-bitrate", "data": data }).to_string()).request;
        let Ok(Request::SetMaxBitrate { incoming: Some(Bitrate(300_000)), outgoing: None, .. }) = parsed else {
            panic!("{parsed:?}");
        };
    }

    #[test]
    fn stats_are_about_one_thing() {
        assert_eq!(refusal(json!({ "type": "get-stats" })).0, Code::BadField);
        let two = json!({ "type": "get-stats", "data": { "transportId": "a", "consumerId": "b" } });
        assert_eq!(refusal(two).0, Code::BadField);
    }
}
