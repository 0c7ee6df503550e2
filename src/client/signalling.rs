//! The client's end of the WebSocket: a thread that sends requests, gives each its reply by `requestId`, keeps the
//! server's notifications, and answers pings. Blocking for its callers; knows JSON objects, not their meaning.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

/// How long the thread listens before it checks for something to send.
const LISTEN: Duration = Duration::from_millis(5);
const REPLY_WAIT: Duration = Duration::from_secs(10);

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SignallingError {
    Connect(String),
    /// The socket has ended.
    Closed,
    NoReply {
        request: String,
    },
    Refused {
        request: String,
        code: String,
        message: String,
    },
}

impl fmt::Display for SignallingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SignallingError::Connect(why) => write!(f, "no WebSocket: {why}; is the server's --listen address right?"),
            SignallingError::Closed => f.write_str("the server closed the WebSocket; its log says why"),
            SignallingError::NoReply { request } => {
                write!(f, "no reply to {request} within {} s; is the server overloaded?", REPLY_WAIT.as_secs())
            }
            SignallingError::Refused { request, code, message } => write!(f, "{request} refused: {message} ({code})"),
        }
    }
}

impl std::error::Error for SignallingError {}

struct Request {
    kind: String,
    data: Value,
    reply: Sender<Value>,
}

pub struct Signalling {
    requests: Option<Sender<Request>>,
    notifications: Receiver<Value>,
    thread: Option<JoinHandle<()>>,
}

impl Signalling {
    pub fn connect(server: SocketAddr, user: &str, channel: &str) -> Result<Signalling, SignallingError> {
        let failed = |error: &dyn fmt::Display| SignallingError::Connect(error.to_string());
        let stream = TcpStream::connect(server).map_err(|error| failed(&error))?;
        stream.set_nodelay(true).map_err(|error| failed(&error))?;
        stream.set_read_timeout(Some(REPLY_WAIT)).map_err(|error| failed(&error))?;
        let url = format!("ws://{server}/socket?auth={user}&channelId={channel}");
        let (socket, _) = tungstenite::client(url, stream).map_err(|error| failed(&error))?;
        socket.get_ref().set_read_timeout(Some(LISTEN)).map_err(|error| failed(&error))?;
        let (requests, incoming) = mpsc::channel();
        let (told, notifications) = mpsc::channel();
        let run = move || Line { socket, incoming, told, pending: HashMap::new(), next_id: 1 }.run();
        let thread = std::thread::Builder::new().name("signalling".into()).spawn(run);
        let thread = thread.map_err(|error| failed(&error))?;
        Ok(Signalling { requests: Some(requests), notifications, thread: Some(thread) })
    }

    /// Sends a request, waits for its reply and returns the reply's data.
    pub fn request(&self, kind: &str, data: Value) -> Result<Value, SignallingError> {
        let (reply, replied) = mpsc::channel();
        let request = Request { kind: kind.to_owned(), data, reply };
        let requests = self.requests.as_ref().ok_or(SignallingError::Closed)?;
        requests.send(request).map_err(|_| SignallingError::Closed)?;
        let mut message = replied.recv_timeout(REPLY_WAIT).map_err(|error| match error {
            RecvTimeoutError::Timeout => SignallingError::NoReply { request: kind.to_owned() },
            RecvTimeoutError::Disconnected => SignallingError::Closed,
        })?;
        let data = message["data"].take();
        if message["type"] == "error" {
            let text = |field: &str| data[field].as_str().unwrap_or_default().to_owned();
            return Err(SignallingError::Refused {
                request: kind.to_owned(),
                code: text("code"),
                message: text("message"),
            });
        }
        Ok(data)
    }

    /// The next notification.
    pub fn notification(&self, wait: Duration) -> Option<Value> {
        self.notifications.recv_timeout(wait).ok()
    }
}

impl Drop for Signalling {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // A panic of that thread has been reported there.
            let _ = thread.join();
        }
    }
}

struct Line {
    socket: WebSocket<TcpStream>,
    incoming: Receiver<Request>,
    told: Sender<Value>,
    pending: HashMap<u64, Sender<Value>>,
    next_id: u64,
}

impl Line {
    /// Runs until the other side hangs up, or ours does.
    fn run(mut self) {
        loop {
            loop {
                match self.incoming.try_recv() {
                    Ok(request) => {
                        let mut message = json!({ "type": request.kind, "requestId": self.next_id });
                        if !request.data.is_null() {
                            message["data"] = request.data;
                        }
                        self.pending.insert(self.next_id, request.reply);
                        self.next_id += 1;
                        if self.socket.send(Message::text(message.to_string())).is_err() {
                            return;
                        }
                    }
                    Err(mpsc::TryRecvError::Empty) => break,
                    Err(mpsc::TryRecvError::Disconnected) => return self.hang_up(),
                }
            }
            match self.socket.read() {
                Ok(Message::Text(text)) => self.take(&text),
                Ok(_) => {}
                Err(tungstenite::Error::Io(error))
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(_) => return,
            }
        }
    }

    fn take(&mut self, text: &str) {
        let Ok(message) = serde_json::from_str::<Value>(text) else { return };
        let replied = message["requestId"].as_u64().and_then(|id| self.pending.remove(&id));
        // The asker may have stopped waiting; notifications may interest nobody.
        let _ = match replied {
            Some(reply) => reply.send(message),
            None => self.told.send(message),
        };
    }

    fn hang_up(mut self) {
        if self.socket.close(None).is_ok() {
            // Until the close is confirmed or nothing comes any more.
            while self.socket.read().is_ok() {}
        }
    }
}
