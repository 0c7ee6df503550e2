//! Moderators at the whole binary: what who is removed, banned, kept out or kept waiting reads on its socket.
#![cfg(feature = "edge")]
#![expect(clippy::disallowed_methods, reason = "the real binary: its tests wait by the clock")]

#[expect(dead_code, reason = "what other tests need of it")]
mod server_process;

use std::net::TcpStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::rand::SystemRandom;
use serde_json::{Value, json};
use server_process::ServerProcess;
use tungstenite::{Message, WebSocket};
use weirgate::token::Signer;

const SECRET: &[u8] = b"a secret of more than 32 bytes, for tests alone\n";

struct Place {
    server: ServerProcess,
    key: std::path::PathBuf,
}

impl Place {
    fn new(test: &str) -> Place {
        let key = std::env::temp_dir().join(format!("weirgate-moderation-{test}-{}", std::process::id()));
        std::fs::write(&key, SECRET).unwrap();
        let server = ServerProcess::start_with(&["--auth", "token", "--auth-key", key.to_str().unwrap()]);
        Place { server, key }
    }

    /// A socket of this user; it subscribes to nothing.
    fn enter(&self, user: &str, moderate: bool) -> Socket {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let claims = json!({
            "sub": user, "channel": "room", "exp": now + 600,
            "grants": { "join": true, "publish": true, "subscribe": true, "moderate": moderate },
        });
        let signer = Signer::read(SECRET).unwrap();
        let token = signer.sign(&json!({ "alg": "HS256" }), &claims, &SystemRandom::new()).unwrap();
        let stream = TcpStream::connect(self.server.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let url = format!("ws://{}/socket?auth={token}&channelId=room", self.server.address);
        Socket(tungstenite::client(url, stream).unwrap().0)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.key);
    }
}

struct Socket(WebSocket<TcpStream>);

impl Socket {
    fn hear(&mut self) -> Value {
        loop {
            match self.0.read().unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    /// The reply of this type; what is told before it is passed over.
    fn ask(&mut self, kind: &str, data: Value, expected: &str) -> Value {
        self.0.send(Message::text(json!({ "type": kind, "data": data }).to_string())).unwrap();
        self.until(expected)
    }

    fn until(&mut self, expected: &str) -> Value {
        loop {
            let mut message = self.hear();
            if message["type"] == expected {
                return message["data"].take();
            }
            assert_ne!(message["type"], "error", "{message}");
        }
    }

    /// One error and the close, and nothing after them.
    fn put_out(&mut self) -> (String, u16) {
        let error = self.until("error");
        assert_eq!(error.get("request"), Some(&Value::Null), "{error}");
        let code = match self.0.read().unwrap() {
            Message::Close(frame) => frame.expect("a code is given").code.into(),
            other => panic!("one error and no more: {other:?}"),
        };
        (error["code"].as_str().unwrap().to_owned(), code)
    }
}

fn refused(code: &str) -> (String, u16) {
    (code.to_owned(), 4403)
}

#[test]
fn who_is_removed_or_banned_reads_why_and_a_banned_one_does_not_come_back() {
    let place = Place::new("bans");
    let mut moderator = place.enter("moderator", true);
    moderator.ask("subscribe", json!({}), "subscribed");
    for (ban, code) in [(Value::Null, "removed"), (json!(60), "banned")] {
        let mut mallory = place.enter("mallory", false);
        let id = moderator.until("peer-joined")["id"].clone();
        mallory.ask("subscribe", json!({}), "subscribed");
        moderator.ask("remove-peer", json!({ "peerId": id, "banSeconds": ban, "reason": "enough" }), "ok");
        assert_eq!(mallory.put_out(), refused(code));
        let left = moderator.until("peer-left");
        assert_eq!((&left["reason"], &left["message"]), (&json!(code), &json!("enough")));
    }
    assert_eq!(place.enter("mallory", false).put_out(), refused("banned"));
    moderator.ask("unban", json!({ "user": "mallory" }), "ok");
    place.enter("mallory", false).ask("ping", json!({}), "pong");
}

#[test]
fn who_is_kept_out_reads_why_and_who_is_admitted_goes_on_on_its_socket() {
    let place = Place::new("lobby");
    let mut moderator = place.enter("moderator", true);
    moderator.ask("subscribe", json!({}), "subscribed");
    moderator.ask("set-channel", json!({ "peersMax": 1 }), "ok");
    assert_eq!(place.enter("comer", false).put_out(), refused("full"));
    moderator.ask("set-channel", json!({ "peersMax": 0, "locked": true }), "ok");
    assert_eq!(place.enter("comer", false).put_out(), refused("locked"));
    moderator.ask("set-channel", json!({ "waiting": true }), "ok");
    let [mut admitted, mut turned_away] = ["comer", "another"].map(|user| place.enter(user, false));
    let [first, second] = [(); 2].map(|()| moderator.until("peer-waiting")["id"].clone());
    let own = admitted.until("waiting")["peerId"].clone();
    assert_eq!(own, first);
    moderator.ask("admit-peer", json!({ "peerId": first }), "ok");
    admitted.until("admitted");
    admitted.ask("create-transport", json!({}), "transport-params");
    turned_away.until("waiting");
    moderator.ask("turn-away-peer", json!({ "peerId": second }), "ok");
    assert_eq!(turned_away.put_out(), refused("removed"));
}
