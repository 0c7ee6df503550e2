//! A client that comes back as docs/PROTOCOL.md says: it counts what it received, and keeps what it sent until it knows
//! that it was taken.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::http::HeaderValue;
use tungstenite::{Error, Message, WebSocket};

const WAIT: Duration = Duration::from_secs(20);
/// Without progress for this long its connection is broken.
const PATIENCE: Duration = Duration::from_millis(300);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    Message,
    Subprotocol,
    Url,
}

pub(crate) struct Socket(WebSocket<TcpStream>);

fn is_wait(error: &Error) -> bool {
    matches!(error, Error::Io(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

impl Socket {
    pub(crate) fn open(address: SocketAddr, query: &str, protocols: &str) -> Result<Socket, String> {
        let mut request = format!("ws://{address}/socket?{query}").into_client_request().unwrap();
        if !protocols.is_empty() {
            request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_str(protocols).unwrap());
        }
        let stream = TcpStream::connect(address).map_err(|error| error.to_string())?;
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (socket, _) = tungstenite::client(request, stream).map_err(|error| error.to_string())?;
        Ok(Socket(socket))
    }

    /// Opens a socket for the peer of this token. Returns it with its first text.
    pub(crate) fn resume(
        address: SocketAddr,
        way: Way,
        token: &str,
        received: Option<u64>,
    ) -> Result<(Socket, Value), String> {
        let mut socket = Socket::knock(address, way, token, received)?;
        let patience = Instant::now();
        loop {
            match socket.0.read() {
                Ok(Message::Text(text)) => {
                    let first: Value = serde_json::from_str(&text).unwrap();
                    let resumed = first["type"] == "resumed";
                    return if resumed { Ok((socket, first)) } else { Err(first.to_string()) };
                }
                Err(error) if is_wait(&error) && patience.elapsed() < PATIENCE => {}
                Err(error) => return Err(error.to_string()),
                Ok(_) => {}
            }
        }
    }

    fn knock(address: SocketAddr, way: Way, token: &str, received: Option<u64>) -> Result<Socket, String> {
        let count = received.map_or(String::new(), |received| format!("received={received}"));
        match way {
            Way::Url => Socket::open(address, &format!("resume={token}&{count}"), ""),
            Way::Subprotocol => Socket::open(address, &count, &format!("weirgate, weirgate.resume.{token}")),
            Way::Message => {
                let mut socket = Socket::open(address, "resume", "")?;
                let data = json!({ "token": token, "received": received });
                socket.try_say(&json!({ "type": "resume", "data": data }).to_string())?;
                Ok(socket)
            }
        }
    }

    /// The code of the one error, and of the close after it.
    pub(crate) fn refused(address: SocketAddr, way: Way, token: &str, received: Option<u64>) -> (String, u16) {
        let mut socket = Socket::knock(address, way, token, received).expect("the upgrade is taken");
        let error = socket.hear();
        assert_eq!(error["type"], "error", "{error}");
        (error["data"]["code"].as_str().unwrap().to_owned(), socket.close_code())
    }

    fn try_say(&mut self, text: &str) -> Result<(), String> {
        self.0.send(Message::text(text)).map_err(|error| error.to_string())
    }

    pub(crate) fn say(&mut self, text: &str) {
        self.try_say(text).unwrap();
    }

    /// The next text.
    pub(crate) fn hear(&mut self) -> Value {
        let started = Instant::now();
        loop {
            match self.0.read() {
                Ok(Message::Text(text)) => return serde_json::from_str(&text).unwrap(),
                Ok(Message::Close(frame)) => panic!("closed: {frame:?}"),
                Ok(_) => {}
                Err(error) if is_wait(&error) => assert!(started.elapsed() < WAIT, "nothing came"),
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub(crate) fn ask(&mut self, request: &Value) -> Value {
        self.say(&request.to_string());
        self.hear()
    }

    pub(crate) fn close_code(&mut self) -> u16 {
        let started = Instant::now();
        loop {
            match self.0.read() {
                Ok(Message::Close(frame)) => return frame.expect("it has a code").code.into(),
                Ok(other) => panic!("not closed: {other}"),
                Err(error) if is_wait(&error) => assert!(started.elapsed() < WAIT, "nothing came"),
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub(crate) fn only_answers_for(&mut self, time: Duration) {
        let started = Instant::now();
        while started.elapsed() < time {
            match self.0.read() {
                Ok(Message::Ping(_)) => {}
                Ok(other) => panic!("{other}"),
                Err(error) => assert!(is_wait(&error), "{error}"),
            }
        }
    }

    pub(crate) fn close(mut self) {
        self.0.close(None).unwrap();
        let _ = self.0.flush();
    }

    pub(crate) fn reset(self) {
        socket2::SockRef::from(self.0.get_ref()).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

pub(crate) struct Returner {
    address: SocketAddr,
    socket: Option<Socket>,
    token: String,
    received: u64,
    /// What the server may not have taken; the first is number `first`.
    sent: VecDeque<String>,
    first: u64,
    progress: Instant,
    pub(crate) heard: Vec<Value>,
    pub(crate) came_back: usize,
}

impl Returner {
    pub(crate) fn join(address: SocketAddr, query: &str) -> Returner {
        let mut socket = Socket::open(address, query, "").unwrap();
        let ask = json!({ "type": "subscribe", "data": { "resume": true } });
        let token = socket.ask(&ask)["data"]["resume"].as_str().expect("a token").to_owned();
        socket.0.get_ref().set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        Returner {
            address,
            socket: Some(socket),
            token,
            received: 1,
            sent: VecDeque::from([ask.to_string()]),
            first: 1,
            progress: Instant::now(),
            heard: Vec::new(),
            came_back: 0,
        }
    }

    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    pub(crate) fn send(&mut self, request: Value) {
        let text = request.to_string();
        if let Some(socket) = &mut self.socket {
            // What is not sent now is sent when it is back.
            let _ = socket.try_say(&text);
        }
        self.sent.push_back(text);
    }

    /// Reads what is there; comes back where the connection is broken.
    pub(crate) fn turn(&mut self, way: Way) {
        let Some(socket) = &mut self.socket else { return self.come_back(way) };
        match socket.0.read() {
            Ok(Message::Text(text)) => {
                self.received += 1;
                self.heard.push(serde_json::from_str(&text).unwrap());
                self.progress = Instant::now();
            }
            Ok(Message::Close(frame)) => panic!("closed by the server: {frame:?}"),
            Ok(_) => {}
            Err(error) if is_wait(&error) && self.progress.elapsed() < PATIENCE => {}
            Err(_) => self.socket = None,
        }
    }

    fn come_back(&mut self, way: Way) {
        let resumed = Socket::resume(self.address, way, &self.token, Some(self.received));
        let (mut socket, resumed) = match resumed {
            Ok(back) => back,
            Err(refused) => {
                return assert!(!refused.contains("unauthorized") && !refused.contains("expired"), "{refused}");
            }
        };
        self.came_back += 1;
        self.token = resumed["data"]["resume"].as_str().unwrap().to_owned();
        let taken = resumed["data"]["received"].as_u64().unwrap();
        while self.first <= taken {
            self.sent.pop_front().expect("it takes no more than was sent");
            self.first += 1;
        }
        for text in &self.sent {
            let _ = socket.try_say(text);
        }
        socket.0.get_ref().set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        (self.socket, self.progress) = (Some(socket), Instant::now());
    }

    /// The ids of the requests that were answered.
    pub(crate) fn replies(&self) -> Vec<u64> {
        self.heard.iter().filter_map(|text| text["requestId"].as_u64()).collect()
    }

    /// The numbers of the producers that it heard of.
    pub(crate) fn producers(&self) -> Vec<u64> {
        let news = self.heard.iter().filter(|text| text["type"] == "new-producer");
        news.filter_map(|text| text["data"]["appData"]["n"].as_u64()).collect()
    }
}
