//! The entry stage: sockets that are opened for a first message or to be told why not.

use std::time::Duration;

use tungstenite::client::IntoClientRequest;
use tungstenite::http::HeaderValue;

use super::*;

impl Edge {
    /// A socket at this query, with the subprotocols that it offers, and the one that was selected.
    pub(crate) fn enter(&self, query: &str, protocols: &str) -> (Socket, Option<String>) {
        let mut request = format!("ws://{}/socket?{query}", self.address).into_client_request().unwrap();
        if !protocols.is_empty() {
            let value = HeaderValue::from_str(protocols).unwrap();
            request.headers_mut().insert("sec-websocket-protocol", value);
        }
        let (socket, answer) = tungstenite::client(request, self.connect()).unwrap();
        let selected = answer.headers().get("sec-websocket-protocol");
        let selected = selected.map(|name| name.to_str().unwrap().to_owned());
        (Socket(socket), selected)
    }
}

impl Socket {
    /// The one error that it is told, and the close code after it.
    pub(crate) fn turned_away(&mut self) -> (String, u16) {
        let error = self.hear();
        assert_eq!((&error["type"], error["data"].get("request")), (&json!("error"), Some(&Value::Null)), "{error}");
        assert!(error["data"]["message"].as_str().unwrap().len() > 10, "{error}");
        (error["data"]["code"].as_str().unwrap().to_owned(), self.close_code())
    }
}

#[test]
fn only_the_spoken_subprotocol_is_selected() {
    let edge = edge(Timing::default());
    let names = "auth=anna&channelId=room";
    assert_eq!(edge.enter(names, "").1, None);
    let (mut socket, selected) = edge.enter(names, "mqtt, weirgate");
    assert_eq!(selected.as_deref(), Some("weirgate"));
    assert_eq!(socket.ask(json!({ "type": "ping" }))["type"], "pong");
    // The library of this test refuses a server that selects none; the answer is there all the same.
    let mut other = edge.connect();
    write!(other, "GET /socket?{names} HTTP/1.1\r\nHost: a\r\n{HANDSHAKE}Sec-WebSocket-Protocol: mqtt\r\n\r\n")
        .unwrap();
    let head: Vec<String> =
        BufReader::new(other).lines().map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
    assert!(head[0].contains(" 101 ") && !head.join(" ").to_lowercase().contains("sec-websocket-protocol"), "{head:?}");
    let token = format!("{HANDSHAKE}Sec-WebSocket-Protocol: weirgate, weirgate.auth.a.b.c\r\n");
    let token = edge.request("GET", &format!("/socket?{names}"), &token);
    assert_eq!((token.status, token.error_code().as_str()), (400, "bad-auth"));
}

#[test]
fn a_token_to_resume_that_is_nobodys_is_refused_by_every_way() {
    let edge = edge(Timing { goodbye: Duration::from_millis(300), ..Timing::default() });
    let refused = ("unauthorized".to_owned(), 4401);
    assert_eq!(edge.enter("resume=abc", "").0.turned_away(), refused);
    let (mut socket, selected) = edge.enter("", "weirgate, weirgate.resume.abc");
    assert_eq!((socket.turned_away(), selected.as_deref()), (refused.clone(), Some("weirgate")));
    let (mut socket, _) = edge.enter("resume", "");
    socket.say(json!({ "type": "resume", "data": { "token": "abc", "received": 7 } }).to_string());
    assert_eq!(socket.turned_away(), refused);
    edge.await_metric("weirgate_entries_refused_total{code=\"unauthorized\"}", 3.0);
    assert_eq!(edge.metric("weirgate_sockets_opened_total"), 0.0);
    edge.await_metric("weirgate_entry_sockets", 0.0);
}

#[test]
fn a_first_message_comes_in_time_is_short_and_is_the_right_one() {
    let wait = Duration::from_millis(600);
    let edge = edge(Timing { entry_wait: wait, goodbye: wait, ..Timing::default() });
    let refused = ("unauthorized".to_owned(), 4401);
    for message in
        ["{", r#"{"type":"ping"}"#, r#"{"type":"resume"}"#, r#"{"type":"authenticate","data":{"token":"a"}}"#]
    {
        let (mut socket, _) = edge.enter("resume=", "");
        socket.say(message);
        assert_eq!(socket.turned_away(), refused, "{message}");
    }
    let long = json!({ "type": "resume", "data": { "token": "a".repeat(20_000) } }).to_string();
    let (mut socket, _) = edge.enter("resume=", "");
    // A part of it is enough; the rest is read and thrown away.
    socket.say(long);
    assert_eq!(socket.turned_away(), refused);
    let (mut socket, _) = edge.enter("resume=", "");
    socket.0.send(Message::binary(vec![1])).unwrap();
    assert_eq!(socket.turned_away(), refused);
    let (mut socket, _) = edge.enter("resume=", "");
    socket.0.send(Message::Ping(vec![].into())).unwrap();
    assert_eq!(socket.turned_away(), refused);
    edge.await_metric("weirgate_entry_sockets", 0.0);
}

#[test]
fn who_waits_at_the_door_is_told_of_the_end() {
    let edge = edge(Timing::default());
    let (mut socket, _) = edge.enter("resume", "");
    edge.await_metric("weirgate_entry_sockets", 1.0);
    let stopping = std::thread::spawn(move || edge.server.stop().is_ok());
    assert_eq!(socket.turned_away(), ("stopping".to_owned(), 1001));
    drop(socket);
    assert!(stopping.join().unwrap());
}
