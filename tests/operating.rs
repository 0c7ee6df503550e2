//! docs/ADMIN.md against the program: every command of it is run as it stands, and every answer has the form that is
//! shown; the check of a signature is the standard's own.
#![cfg(feature = "edge")]

#[path = "server_process/mod.rs"]
#[expect(clippy::disallowed_methods, dead_code, reason = "it waits for a process; each test takes what it needs of it")]
mod server_process;

use std::net::TcpListener;
use std::process::Command;

use serde_json::{Value, json};
use server_process::ServerProcess;
use tungstenite::stream::MaybeTlsStream;
use tungstenite::{Message, WebSocket};

fn page() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/ADMIN.md")).unwrap()
}

/// The fenced blocks: language and text.
fn blocks(page: &str) -> Vec<(&str, &str)> {
    page.split("```").skip(1).step_by(2).filter_map(|block| block.split_once('\n')).collect()
}

struct Peer {
    socket: WebSocket<MaybeTlsStream<std::net::TcpStream>>,
    id: String,
}

impl Peer {
    fn join(server: &ServerProcess, user: &str) -> Peer {
        let url = format!("ws://{}/socket?auth={user}&channelId=room", server.address);
        let mut peer = Peer { socket: tungstenite::connect(url).unwrap().0, id: String::new() };
        peer.id = peer.ask("subscribe", json!({}))["peerId"].as_str().unwrap().to_owned();
        peer
    }

    fn ask(&mut self, kind: &str, data: Value) -> Value {
        let message = json!({ "type": kind, "requestId": 1, "data": data });
        self.socket.send(Message::text(message.to_string())).unwrap();
        loop {
            let Message::Text(text) = self.socket.read().unwrap() else { continue };
            let reply: Value = serde_json::from_str(&text).unwrap();
            if reply["requestId"] == 1 {
                return reply["data"].clone();
            }
        }
    }
}

/// Whether both have the same fields, all the way down.
fn has_the_form(shown: &Value, given: &Value) -> bool {
    match (shown, given) {
        (Value::Object(shown), Value::Object(given)) => {
            shown.len() == given.len()
                && shown.iter().all(|(key, value)| given.get(key).is_some_and(|given| has_the_form(value, given)))
        }
        (Value::Array(shown), Value::Array(given)) => {
            shown.iter().zip(given).all(|(shown, given)| has_the_form(shown, given)) && shown.len() == given.len()
        }
        _ => std::mem::discriminant(shown) == std::mem::discriminant(given) || shown.is_null(),
    }
}

#[test]
fn every_command_does_what_the_page_says() {
    let admin = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = ServerProcess::start_with(&["--admin-listen", &admin.to_string(), "--cores", "2"]);
    let (mut anna, mut berta) = (Peer::join(&server, "anna"), Peer::join(&server, "berta"));
    anna.ask("create-transport", json!({}));
    let opus = json!({ "mimeType": "audio/opus", "payloadType": 111, "clockRate": 48000, "channels": 2 });
    let parameters = json!({ "codecs": [opus], "encodings": [{ "ssrc": 7 }] });
    let producer = anna.ask("produce", json!({ "kind": "audio", "rtpParameters": parameters }));
    berta.ask("create-transport", json!({}));
    let capabilities = berta.ask("get-rtp-capabilities", json!({}));
    berta.ask("consume", json!({ "producerId": producer["id"], "rtpCapabilities": capabilities }));

    let page = page();
    let mut commands = 0;
    let mut last = String::new();
    for (language, text) in blocks(&page) {
        match language {
            "sh" => {
                for command in text.replace("\\\n", " ").lines() {
                    commands += 1;
                    let command = command.replace("127.0.0.1:4444", &admin.to_string());
                    let output = Command::new("sh")
                        .args(["-c", &command])
                        .env("PEER", &anna.id)
                        .env("VIEWER", &berta.id)
                        .env("PRODUCER", producer["id"].as_str().unwrap())
                        .output()
                        .unwrap();
                    last = String::from_utf8(output.stdout).unwrap();
                    assert!(output.status.success(), "{command}: {} {last}", output.status);
                }
            }
            "json" => {
                let shown: Value = serde_json::from_str(text).unwrap();
                // The stream was open for a second, in which nothing happened.
                if shown["type"] == "peer.joined" {
                    assert!(last.starts_with(": events follow\n"), "{last}");
                    continue;
                }
                let given: Value = serde_json::from_str(&last).unwrap_or_else(|error| panic!("{error}: {last}"));
                assert!(has_the_form(&shown, &given), "{shown} is shown and {given} given");
            }
            _ => {}
        }
    }
    assert!(commands > 15, "{commands}");
}

#[test]
fn the_check_of_a_signature_is_one() {
    let page = page();
    let (_, check) = blocks(&page).into_iter().find(|(language, _)| *language == "js").unwrap();
    // The clock of the standard's example stands at its time.
    let driver = r#"
        Date.now = () => 1614265330_000;
        const headers = {
          'webhook-id': 'msg_p5jXN8AQM9LWM0D4loKWxJek', 'webhook-timestamp': '1614265330',
          'webhook-signature': 'v1,AAAA v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=',
        };
        const secret = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw';
        const old = { ...headers, 'webhook-timestamp': '1614264000' };
        console.log([
          isGenuine(headers, '{"test": 2432232314}', secret), isGenuine(headers, '{"test": 1}', secret),
          isGenuine(old, '{"test": 2432232314}', secret),
        ].join());"#;
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("check-{}.mjs", std::process::id()));
    std::fs::write(&path, format!("{check}{driver}")).unwrap();
    match Command::new("node").arg(&path).output() {
        Ok(output) => {
            let said = String::from_utf8(output.stdout).unwrap();
            assert_eq!(said.trim(), "true,false,false", "{}", String::from_utf8_lossy(&output.stderr));
        }
        Err(error) => eprintln!("SKIPPED: node does not run the check of docs/ADMIN.md: {error}"),
    }
}

#[test]
fn settings_of_webhooks_that_cannot_work_are_named_before_the_start() {
    let says = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weirgate"));
        let output = command.args(["check", "--cores", "1"]).args(args).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), text)
    };
    let tmp = env!("CARGO_TARGET_TMPDIR");
    let file = |name: &str, text: &str| {
        let path = format!("{tmp}/operating-{name}-{}", std::process::id());
        std::fs::write(&path, text).unwrap();
        path
    };
    let url = "https://hooks.example/";
    let secret = file("secret", &format!("whsec_{}\n", "A".repeat(32)));
    let (empty, none) = (file("empty", "# none yet\n"), format!("{tmp}/nowhere"));
    for (code, args, parts) in [
        (2, &["--webhook", url][..], ["would not be signed", "--webhook-secret"]),
        (2, &["--webhook-secret", &secret], ["nobody is told", "--webhook"]),
        (2, &["--webhook", "ftp://x/", "--webhook-secret", &secret], ["neither http nor https", "https://hooks"]),
        (1, &["--webhook", url, "--webhook-secret", &none], ["cannot be read", "--webhook-secret"]),
        (1, &["--webhook", url, "--webhook-secret", &empty], ["holds no secret", "openssl rand"]),
        (1, &["--webhook", url, "--webhook-secret", &secret, "--webhook-ca", &empty], ["holds no certificate", "PEM"]),
    ] {
        let (given, text) = says(args);
        assert!(given == code && parts.iter().all(|part| text.contains(part)), "{args:?}: {given} {text}");
    }
}
