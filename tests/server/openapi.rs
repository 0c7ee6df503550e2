//! `docs/openapi.json` against a running server: every path and method that it has, each status that it names, and every
//! body by its schema; and no route of the server that it lacks.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use weirgate::base::limits::ADMIN_BODY_BYTES_MAX;
use weirgate::server::Timing;
use weirgate::signal::Occurrence;
use weirgate::signal::admin::ROUTES;

use super::admin::{Call, Listener, call, edge_of_tokens};
use super::{Answer, Edge, SHARDS, edge};

const METHODS: [&str; 4] = ["get", "post", "patch", "delete"];

fn document() -> Value {
    serde_json::from_str(include_str!("../../docs/openapi.json")).unwrap()
}

/// Whether a body is what the document says, with the document's own schemas at hand.
fn assert_fits(document: &Value, schema: &Value, body: &Value, of: &str) {
    let mut whole = schema.clone();
    whole["components"] = document["components"].clone();
    let validator = jsonschema::draft202012::new(&whole).unwrap_or_else(|error| panic!("{of}: {error}"));
    let faults: Vec<String> =
        validator.iter_errors(body).map(|fault| format!("{}: {fault}", fault.instance_path)).collect();
    assert!(faults.is_empty(), "{of}: {body}\n{faults:#?}");
}

/// Holds answers against the document, and notes which it has seen.
struct Judge {
    document: Value,
    seen: BTreeSet<(String, String, String)>,
}

impl Judge {
    fn answered(&mut self, method: &str, template: &str, answer: &Answer) {
        let of = format!("{method} {template}: {}", answer.status);
        let status = answer.status.to_string();
        let operation = &self.document["paths"][template][method];
        let response = &operation["responses"][&status];
        assert!(response.is_object(), "{of} is not in the document: {}", answer.body);
        match response.pointer("/content/application~1json/schema") {
            Some(schema) => assert_fits(&self.document, schema, &answer.json(), &of),
            None => assert_eq!(answer.body, "", "{of}"),
        }
        self.seen.insert((method.to_owned(), template.to_owned(), status));
    }

    /// Asks, and holds the answer against the document.
    fn ask(&mut self, edge: &Edge, method: &str, template: &str, path: &str, headers: &str, body: &str) -> u16 {
        let answer = edge.call(&method.to_uppercase(), path, headers, body);
        self.answered(method, template, &answer);
        answer.status
    }
}

/// The ids of a call in place of a template's words.
fn filled(template: &str, made: &Call) -> String {
    let anna = template.contains("producer") || template.contains("transport");
    let of = if anna { &made.of_anna } else { &made.of_berta };
    let peer = of.rsplit('/').next().unwrap();
    let words = [("channel", "room"), ("peer", peer), ("user", "mallory"), ("transport", &made.transport)];
    let words = words.into_iter().chain([("producer", &*made.producer), ("consumer", &*made.consumer)]);
    words.fold(template.to_owned(), |path, (word, value)| path.replace(&format!("{{{word}}}"), value))
}

const JSON: &str = "Content-Type: application/json\r\n";

/// A body that does what its path is for.
fn body(method: &str, template: &str) -> Option<Value> {
    Some(match (method, template.rsplit('/').next().unwrap()) {
        ("post", "messages") => json!({ "data": 1 }),
        ("post", "mute" | "unmute") => json!({ "kinds": ["audio"] }),
        ("post", "move") => json!({ "shard": 1 }),
        ("post", "admit") => json!({}),
        ("post", "revocations") => json!({ "user": "nobody", "seconds": 60 }),
        ("patch", "{channel}") => json!({ "locked": false }),
        ("patch", "{peer}") => json!({ "name": "Somebody" }),
        ("patch", "{producer}") => json!({ "muted": true }),
        ("get" | "delete", _) => return None,
        other => panic!("{other:?} has no body here"),
    })
}

#[test]
fn the_document_has_every_route_and_no_other() {
    let document = document();
    let of_document: BTreeMap<&str, BTreeSet<&str>> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(path, operations)| {
            let methods = METHODS.iter().filter(|method| operations.get(**method).is_some());
            (path.as_str(), methods.copied().collect())
        })
        .collect();
    let lower = |methods: &str| methods.to_lowercase().split(", ").map(str::to_owned).collect::<Vec<_>>();
    let of_server: BTreeMap<&str, BTreeSet<&str>> = ROUTES
        .iter()
        .map(|(path, _, methods)| {
            let own = lower(methods);
            (*path, METHODS.iter().filter(|method| own.iter().any(|own| own == *method)).copied().collect())
        })
        .collect();
    assert_eq!(of_document, of_server);
    for (path, operations) in document["paths"].as_object().unwrap() {
        let words: BTreeSet<&str> =
            path.split('/').filter_map(|word| word.strip_prefix('{')?.strip_suffix('}')).collect();
        let named = operations["parameters"].as_array().into_iter().flatten().map(|of| of["name"].as_str().unwrap());
        assert_eq!(named.collect::<BTreeSet<_>>(), words, "{path}");
    }
    let kinds = document["components"]["schemas"]["Event"]["properties"]["type"]["enum"].as_array().unwrap();
    let kinds: BTreeSet<&str> = kinds.iter().map(|kind| kind.as_str().unwrap()).collect();
    assert_eq!(kinds, Occurrence::ALL.map(Occurrence::name).into());
}

#[test]
fn every_answer_is_as_the_document_says() {
    let edge = edge(Timing { head_wait: std::time::Duration::from_millis(300), ..Timing::default() });
    let mut judge = Judge { document: document(), seen: BTreeSet::new() };
    let paths = judge.document["paths"].as_object().unwrap().clone();
    let mut listener = Listener::open(&edge, "/v1/events", "");
    for (template, operations) in &paths {
        for method in METHODS.iter().filter(|method| operations.get(**method).is_some()) {
            if template == "/v1/events" {
                continue;
            }
            faults(&edge, &mut judge, method, template);
            let made = call(&edge, "room");
            let path = filled(template, &made);
            let (path, _comer) = with_a_reason_to_be(&edge, template, path, &made);
            let (headers, body) = match body(method, template) {
                Some(body) => (JSON, body.to_string()),
                None => ("", String::new()),
            };
            let status = judge.ask(&edge, method, template, &path, headers, &body);
            assert!((200..300).contains(&status), "{method} {path}: {status}");
            if *method == "get" && operations["get"].to_string().contains("\"stats\"") {
                judge.ask(&edge, method, template, &format!("{path}?stats=true"), "", "");
            }
            drop(made);
            edge.call("DELETE", "/v1/channels/room", "", "");
        }
    }
    let mut events = 0;
    while events < 50 {
        let (_, kind, data) = listener.next().unwrap();
        assert_eq!(data["type"], kind);
        assert_fits(&judge.document, &json!({ "$ref": "#/components/schemas/Event" }), &data, &kind);
        events += 1;
    }
    let of_events = edge.call("GET", "/v1/events?nothing=1", "", "");
    judge.answered("get", "/v1/events", &of_events);
    late_and_busy(&edge, &mut judge);
    without_a_token(&mut judge, &paths);
    let missing: Vec<_> = documented(&paths).difference(&judge.seen).cloned().collect();
    let shown = |(_, template, status): &(String, String, String)| !is_shown_elsewhere(template, status);
    let missing: Vec<_> = missing.into_iter().filter(shown).collect();
    assert!(missing.is_empty(), "the document has what no answer has shown: {missing:#?}");
}

/// What the public listener says to who brings no token; the last is one too many for an address.
fn without_a_token(judge: &mut Judge, paths: &serde_json::Map<String, Value>) {
    let edge = edge_of_tokens();
    for (template, operations) in paths {
        for method in METHODS.iter().filter(|method| operations.get(**method).is_some()) {
            let answer = edge.request(&method.to_uppercase(), &template.replace(['{', '}'], ""), "");
            assert_eq!(answer.status, 401, "{method} {template}");
            assert!(answer.head.contains("www-authenticate: bearer\r\n"), "{}", answer.head);
            judge.answered(method, template, &answer);
        }
    }
}

fn documented(paths: &serde_json::Map<String, Value>) -> BTreeSet<(String, String, String)> {
    let mut all = BTreeSet::new();
    for (template, operations) in paths {
        for method in METHODS.iter().filter(|method| operations.get(**method).is_some()) {
            for status in operations[method]["responses"].as_object().unwrap().keys() {
                all.insert(((*method).to_owned(), template.clone(), status.clone()));
            }
        }
    }
    all
}

/// What takes a full channel, a full lobby or a full server: the tests of those limits show it.
fn is_shown_elsewhere(template: &str, status: &str) -> bool {
    let last = template.rsplit('/').next().unwrap();
    match status {
        "409" => last != "move",
        "503" => last == "messages",
        "429" => true,
        "200" => template == "/v1/events",
        "404" | "403" => template == "/v1/events",
        _ => false,
    }
}

/// Somebody waits, or is banned, where the path is about that.
fn with_a_reason_to_be(edge: &Edge, template: &str, path: String, made: &Call) -> (String, Option<super::Socket>) {
    if template.ends_with("/bans/{user}") {
        let mallory = edge.socket("mallory", "room");
        let peers = edge.look("/v1/channels/room/peers");
        let is_hers = |peer: &&Value| peer["user"] == "mallory";
        let id = peers["peers"].as_array().unwrap().iter().find(is_hers).unwrap()["id"].as_str().unwrap().to_owned();
        let banned = edge.call("DELETE", &format!("/v1/channels/room/peers/{id}?banSeconds=60"), "", "");
        assert_eq!(banned.status, 204);
        return (path, Some(mallory));
    }
    if !template.contains("/waiting") {
        return (path, None);
    }
    let lock = json!({ "locked": true, "waiting": true }).to_string();
    assert_eq!(edge.call("PATCH", "/v1/channels/room", JSON, &lock).status, 200);
    let mut comer = edge.socket("comer", "room");
    let told = comer.hear();
    let id = told["data"]["peerId"].as_str().unwrap_or_else(|| panic!("{told}"));
    (path.replace(made.of_berta.rsplit('/').next().unwrap(), id), Some(comer))
}

/// What every path answers to requests that are wrong.
fn faults(edge: &Edge, judge: &mut Judge, method: &str, template: &str) {
    let made = call(edge, "room");
    let path = filled(template, &made);
    let body = body(method, template).map(|body| body.to_string());
    let (headers, body) = (if body.is_some() { JSON } else { "" }, body.unwrap_or_default());
    let mut ask = |path: &str, headers: &str, body: &str| judge.ask(edge, method, template, path, headers, body);
    assert_eq!(ask(&path, &format!("{headers}Origin: https://evil.example\r\n"), &body), 403);
    assert_eq!(ask(&format!("{path}?nothing=1"), headers, &body), 400);
    if let Some(at) = template.find('{') {
        let end = template[at..].find('/').map_or(template.len(), |end| at + end);
        let other = template[..at].to_owned() + "none" + &template[end..];
        let other = filled(&other, &made);
        if !template.ends_with("/bans") {
            assert_eq!(ask(&other, headers, &body), 404, "{method} {other}");
        }
    }
    if headers == JSON {
        assert_eq!(ask(&path, "Content-Type: text/plain\r\n", &body), 415);
        assert_eq!(ask(&path, JSON, &" ".repeat(ADMIN_BODY_BYTES_MAX + 1)), 413);
        let late = format!(
            "{} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{JSON}Content-Length: 99\r\n\r\n{{",
            method.to_uppercase()
        );
        let late = edge.raw_at(edge.admin, &late);
        assert_eq!(late.status, 408);
        judge.answered(method, template, &late);
    }
    drop(made);
    edge.call("DELETE", "/v1/channels/room", "", "");
}

/// A shard that is silent, too many listeners, and a peer that is where it is to go.
fn late_and_busy(edge: &Edge, judge: &mut Judge) {
    let made = call(edge, "room");
    for (kind, id) in [("transport", &made.transport), ("producer", &made.producer)] {
        let path = format!("{}/{kind}s/{id}", made.of_anna);
        silent(edge, judge, kind, &path);
    }
    silent(edge, judge, "consumer", &format!("{}/consumers/{}", made.of_berta, made.consumer));
    let to = "/v1/channels/{channel}/peers/{peer}/move";
    let there = json!({ "shard": 0 }).to_string();
    assert_eq!(judge.ask(edge, "post", to, &format!("{}/move", made.of_anna), JSON, &there), 409);
    // One listens already.
    let others = 1..weirgate::base::limits::EVENT_LISTENERS_MAX;
    let _others: Vec<Listener> = others.map(|_| Listener::open(edge, "/v1/events", "")).collect();
    assert_eq!(judge.ask(edge, "get", "/v1/events", "/v1/events", "", ""), 503);
}

fn silent(edge: &Edge, judge: &mut Judge, kind: &str, path: &str) {
    let list = format!("/v1/channels/{{channel}}/peers/{{peer}}/{kind}s");
    *edge.dead.lock().unwrap() = Some(SHARDS[0]);
    assert_eq!(judge.ask(edge, "get", &format!("{list}/{{{kind}}}"), path, "", ""), 503);
    let all = path.rsplit_once('/').unwrap().0;
    assert_eq!(judge.ask(edge, "get", &list, &format!("{all}?stats=true"), "", ""), 503);
    *edge.dead.lock().unwrap() = None;
}
