//! mediasoup-client itself, on a fake browser, accepts our ORTC: it loads the router's capabilities, produces every
//! codec of every browser, and consumes it in every browser that has the codec.

#[path = "ortc_oracle/browsers.rs"]
#[allow(dead_code, reason = "the other test uses the rest")]
mod browsers;
#[path = "ortc_oracle/node.rs"]
mod node;

use browsers::{BROWSERS, MID, RID, TRANSPORT_CC};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout};
use weirgate::base::id::{Mid, Ssrc};
use weirgate::shard::command::MediaKind;
use weirgate::signal::ortc::{
    ConsumerIdentity, ProducerPlan, can_consume, parse_capabilities, plan_consumer, plan_producer, router_capabilities,
};

struct Client {
    child: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Client {
    fn start() -> Option<Client> {
        let mut child = node::start("client.mjs")?;
        let requests = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Some(Client { child, requests, answers })
    }

    #[track_caller]
    fn ask(&mut self, request: Value) -> Value {
        writeln!(self.requests.as_mut().unwrap(), "{request}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        let mut answer: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        assert!(answer["error"].is_null(), "{request}\n{}", answer["error"].as_str().unwrap_or_default());
        answer["value"].take()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.requests = None;
        let _ = self.child.wait();
    }
}

struct Published {
    by: &'static str,
    plan: ProducerPlan,
}

fn kind(name: &str) -> MediaKind {
    if name == "audio" { MediaKind::Audio } else { MediaKind::Video }
}

fn published(by: &'static str, request: &Value) -> Published {
    let plan = plan_producer(kind(request["kind"].as_str().unwrap()), &request["rtpParameters"]);
    Published { by, plan: plan.unwrap_or_else(|error| panic!("{by}: {error}\n{request}")) }
}

/// Every browser loads our capabilities and publishes each codec that it shares with us.
fn publish_everything(client: &mut Client, capabilities: &mut Vec<Value>) -> Vec<Published> {
    let mut all = Vec::new();
    for browser in BROWSERS {
        let native = browsers::native(browser);
        let loaded = client.ask(json!({
            "op": "load", "name": browser, "native": native, "routerCapabilities": router_capabilities()
        }));
        assert_eq!(loaded["canProduce"], json!({"audio": true, "video": true}), "{browser}");
        for codec in loaded["rtpCapabilities"]["codecs"].as_array().unwrap() {
            if codec["mimeType"] == "video/rtx" {
                continue;
            }
            let request = client.ask(json!({"op": "produce", "name": browser, "kind": codec["kind"], "codec": codec}));
            all.push(published(browser, &request));
        }
        capabilities.push(loaded["rtpCapabilities"].clone());
    }
    all
}

fn offered(published: &Published, capabilities: &Value, number: u32) -> Option<Value> {
    let capabilities = parse_capabilities(capabilities).unwrap();
    if !can_consume(&published.plan, &capabilities) {
        return None;
    }
    let identity = ConsumerIdentity {
        mid: Mid::new(number.to_string().as_bytes()).unwrap(),
        ssrc: Ssrc(10_000 + 2 * number),
        rtx_ssrc: Ssrc(10_001 + 2 * number),
        cname: "one-cname-a-peer".to_owned(),
        msid: None,
    };
    let plan = plan_consumer(&published.plan, &capabilities, identity).unwrap();
    let kind = if published.plan.kind == MediaKind::Audio { "audio" } else { "video" };
    Some(json!({
        "id": format!("consumer-{number}"), "producerId": format!("producer-{number}"), "kind": kind,
        "rtpParameters": plan.rtp_parameters,
    }))
}

#[test]
fn every_browser_publishes_and_receives_what_it_shares_with_us() {
    let Some(mut client) = Client::start() else { return };
    let mut capabilities = Vec::new();
    let all = publish_everything(&mut client, &mut capabilities);
    let count = |browser: &str| all.iter().filter(|published| published.by == browser).count();
    // Opus and the video codecs of each; Safari's constrained high is no codec that mediasoup-client sees in our list.
    assert_eq!(BROWSERS.map(count), [11, 7, 7]);

    let mut number = 0;
    for published in &all {
        for (browser, capabilities) in BROWSERS.iter().zip(&capabilities) {
            let Some(consumer) = offered(published, capabilities, number) else {
                assert_ne!(*browser, published.by, "a browser receives what it sends");
                continue;
            };
            number += 1;
            let made = client.ask(json!({"op": "consume", "name": browser, "consumer": consumer}));
            assert_eq!(made["codec"], published.plan.codec.mime_type);
        }
    }
    assert!(number > 50, "{number}");
}

#[test]
fn the_offer_shows_our_numbers_to_the_browser() {
    let Some(mut client) = Client::start() else { return };
    let mut capabilities = Vec::new();
    let all = publish_everything(&mut client, &mut capabilities);
    let vp8 = all.iter().find(|published| published.plan.codec.mime_type == "video/VP8").unwrap();
    let consumer = offered(vp8, &capabilities[0], 0).unwrap();
    let offer = client.ask(json!({"op": "offer", "consumer": consumer}));
    let sdp = offer["sdp"].as_str().unwrap();
    for line in [
        "a=mid:0",
        "a=rtpmap:100 VP8/90000",
        "a=rtpmap:101 rtx/90000",
        "a=fmtp:101 apt=100",
        "a=rtcp-fb:100 nack",
        "a=rtcp-fb:100 nack pli",
        "a=rtcp-fb:100 transport-cc",
        &format!("a=extmap:1 {MID}"),
        &format!("a=extmap:5 {TRANSPORT_CC}"),
        "a=ssrc:10000 cname:one-cname-a-peer",
        "a=ssrc:10001 cname:one-cname-a-peer",
        "a=ssrc-group:FID 10000 10001",
        "a=rtcp-rsize",
    ] {
        assert!(sdp.lines().any(|other| other.trim_end() == line), "{line} is missing in\n{sdp}");
    }
    assert!(!sdp.contains("goog-remb") && !sdp.contains(RID));
}

#[test]
fn simulcast_and_svc_come_as_one_stream() {
    let Some(mut client) = Client::start() else { return };
    publish_everything(&mut client, &mut Vec::new());
    let mut produce = |codec: &str, encodings: Value| {
        let codec = router_capabilities().codecs.into_iter().find(|offered| offered.mime_type == codec).unwrap();
        let request =
            json!({"op": "produce", "name": "chromium", "kind": "video", "codec": codec, "encodings": encodings});
        published("chromium", &client.ask(request)).plan
    };
    let layers = json!([{"scaleResolutionDownBy": 2, "scalabilityMode": "L1T3"}, {"scalabilityMode": "L1T3"}]);
    let simulcast = produce("video/VP8", layers);
    assert_eq!((simulcast.r#type.name(), simulcast.spec.encodings.len()), ("simulcast", 2));
    let svc = produce("video/VP9", json!([{"scalabilityMode": "L3T3_KEY"}]));
    assert_eq!((svc.r#type.name(), svc.spec.encodings.len()), ("svc", 1));
}
