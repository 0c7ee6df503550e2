//! One suite for every kind of bus: by a real nats-server, and by a socket of this machine. Says that the first was
//! skipped where there is no nats-server.

use std::cell::RefCell;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::Receiver;
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

use super::{Bus, BusWay, EngineSettings, open};
use crate::base::limits::BUS_MESSAGE_BYTES_MAX;
use crate::base::node_id::NodeId;
use crate::signal::cluster::BusEvent;

const WAIT: Duration = Duration::from_secs(20);

/// A bus and what comes from it.
struct End {
    bus: Rc<dyn Bus>,
    events: Receiver<BusEvent>,
}

impl End {
    async fn next(&mut self) -> BusEvent {
        timeout(WAIT, self.events.recv()).await.expect("something comes").expect("the bus lives")
    }

    /// What comes next, connections aside.
    async fn hears(&mut self) -> BusEvent {
        loop {
            let event = self.next().await;
            if !matches!(event, BusEvent::Connected { .. } | BusEvent::Disconnected) {
                return event;
            }
        }
    }

    async fn connected(&mut self) -> String {
        loop {
            if let BusEvent::Connected { engine } = self.next().await {
                return engine;
            }
        }
    }

    async fn disconnected(&mut self) {
        while self.next().await != BusEvent::Disconnected {}
    }

    /// Asks where nobody listens until it is told so: what it sent before has been taken by then.
    async fn settles(&mut self) {
        self.bus.subscribe("t.in.settle.>");
        for number in 0.. {
            let inbox = format!("t.in.settle.{number}");
            self.bus.publish("t.nobody", Some(&inbox), Vec::new());
            let comes = async { while self.next().await != (BusEvent::Nobody { inbox: inbox.clone() }) {} };
            if timeout(Duration::from_millis(500), comes).await.is_ok() {
                return;
            }
        }
    }
}

fn message(subject: &str, reply: Option<&str>, payload: &[u8]) -> BusEvent {
    BusEvent::Message { subject: subject.to_owned(), reply: reply.map(str::to_owned), payload: payload.to_vec() }
}

/// What the suite is run against.
trait Engine {
    fn way(&self) -> BusWay;
    /// It dies, and comes back. The ends that are given may be what it consists of.
    async fn restart(&self, ends: &mut Vec<End>);
}

struct UnixSocket(PathBuf);

impl UnixSocket {
    fn new() -> UnixSocket {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        UnixSocket(std::env::temp_dir().join(format!("weirgate-bus-{}-{number}", std::process::id())))
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
        let _ = std::fs::remove_file(self.0.with_added_extension("lock"));
    }
}

impl Engine for UnixSocket {
    fn way(&self) -> BusWay {
        BusWay::Unix(self.0.clone())
    }

    /// The first one listens: it goes, and another takes its place.
    async fn restart(&self, ends: &mut Vec<End>) {
        drop(ends.remove(0));
    }
}

struct NatsServer {
    port: u16,
    child: RefCell<Child>,
}

fn nats_server(port: u16) -> Option<Child> {
    let mut command = Command::new("nats-server");
    command.args(["-a", "127.0.0.1", "-p", &port.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()
}

impl NatsServer {
    fn start() -> Option<NatsServer> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = nats_server(port);
        if child.is_none() {
            // Straight to the descriptor: what a test prints that passes is kept.
            let _ = writeln!(std::io::stderr(), "SKIPPED: there is no nats-server to try the bus with");
        }
        let server = NatsServer { port, child: RefCell::new(child?) };
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(server)
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn settings(port: u16) -> EngineSettings {
    let urls = vec![format!("nats://127.0.0.1:{port}")];
    EngineSettings { urls, credentials: None, ca: None, name: "test".to_owned() }
}

impl Engine for NatsServer {
    fn way(&self) -> BusWay {
        BusWay::Engine(settings(self.port))
    }

    async fn restart(&self, ends: &mut Vec<End>) {
        drop(ends.remove(0));
        self.child.borrow_mut().kill().unwrap();
        self.child.borrow_mut().wait().unwrap();
        for end in ends.iter_mut() {
            end.disconnected().await;
        }
        *self.child.borrow_mut() = nats_server(self.port).unwrap();
    }
}

async fn ends(engine: &impl Engine, number: u64) -> Vec<End> {
    let mut ends = Vec::new();
    for node in 0..number {
        let (bus, events) = open(engine.way(), NodeId(node)).await;
        let mut end = End { bus, events };
        assert!(!end.connected().await.is_empty());
        ends.push(end);
    }
    ends
}

async fn messages_come_to_all_that_listen_but_their_sender(engine: &impl Engine) {
    let mut ends = ends(engine, 3).await;
    for end in &mut ends {
        end.bus.subscribe("t.nodes");
        end.bus.subscribe("t.in.1.>");
        end.settles().await;
    }
    ends[0].bus.publish("t.nodes", None, b"hello".to_vec());
    ends[0].bus.publish("t.in.1.a.b", Some("t.in.0.x"), vec![7; BUS_MESSAGE_BYTES_MAX]);
    for end in &mut ends[1..] {
        assert_eq!(end.hears().await, message("t.nodes", None, b"hello"));
        assert!(end.hears().await == message("t.in.1.a.b", Some("t.in.0.x"), &[7; BUS_MESSAGE_BYTES_MAX]));
    }
    ends[1].bus.unsubscribe("t.nodes");
    ends[1].settles().await;
    ends[0].bus.publish("t.nodes", None, b"again".to_vec());
    ends[0].bus.publish("t.in.1.end", None, Vec::new());
    assert_eq!(ends[1].hears().await, message("t.in.1.end", None, b""));
    assert_eq!(ends[2].hears().await, message("t.nodes", None, b"again"));
}

async fn a_question_is_answered_by_who_listens_or_by_the_bus(engine: &impl Engine) {
    let mut ends = ends(engine, 2).await;
    ends[0].bus.subscribe("t.in.0.>");
    ends[0].bus.subscribe("t.ask");
    ends[0].settles().await;
    ends[0].bus.publish("t.ask", Some("t.in.0.1"), b"?".to_vec());
    assert_eq!(ends[0].hears().await, BusEvent::Nobody { inbox: "t.in.0.1".to_owned() }, "it does not hear itself");
    ends[1].bus.subscribe("t.ask");
    ends[1].settles().await;
    ends[0].bus.publish("t.ask", Some("t.in.0.2"), b"?".to_vec());
    assert_eq!(ends[1].hears().await, message("t.ask", Some("t.in.0.2"), b"?"));
    ends[1].bus.publish("t.in.0.2", None, b"!".to_vec());
    assert_eq!(ends[0].hears().await, message("t.in.0.2", None, b"!"));
}

async fn what_one_node_sends_comes_in_order(engine: &impl Engine) {
    let mut ends = ends(engine, 2).await;
    ends[1].bus.subscribe("t.many");
    ends[1].settles().await;
    for number in 0..1_000u32 {
        ends[0].bus.publish("t.many", None, number.to_be_bytes().to_vec());
        if number % 100 == 99 {
            ends[0].bus.flushed().await;
        }
    }
    for number in 0..1_000u32 {
        assert_eq!(ends[1].hears().await, message("t.many", None, &number.to_be_bytes()));
    }
}

async fn what_is_listened_to_outlives_the_connection_and_the_engine(engine: &impl Engine) {
    let mut ends = ends(engine, 3).await;
    for end in &mut ends {
        end.bus.subscribe("t.nodes");
        end.settles().await;
    }
    ends[1].bus.force_reconnect();
    ends[1].disconnected().await;
    ends[1].connected().await;
    ends[1].settles().await;
    ends[2].bus.publish("t.nodes", None, b"one".to_vec());
    assert_eq!(ends[1].hears().await, message("t.nodes", None, b"one"));
    engine.restart(&mut ends).await;
    for end in &mut ends {
        end.connected().await;
    }
    for end in &mut ends {
        end.settles().await;
    }
    ends[0].bus.publish("t.nodes", None, b"two".to_vec());
    assert_eq!(ends[1].hears().await, message("t.nodes", None, b"two"));
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

macro_rules! of_each_bus {
    ($($name:ident),* $(,)?) => {
        mod by_an_engine {
            $(#[test]
            fn $name() {
                if let Some(server) = super::NatsServer::start() {
                    super::run(super::$name(&server));
                }
            })*
        }
        mod by_a_socket {
            $(#[test]
            fn $name() {
                super::run(super::$name(&super::UnixSocket::new()));
            })*
        }
    };
}

of_each_bus!(
    messages_come_to_all_that_listen_but_their_sender,
    a_question_is_answered_by_who_listens_or_by_the_bus,
    what_one_node_sends_comes_in_order,
    what_is_listened_to_outlives_the_connection_and_the_engine,
);

/// Says what a server of this release says, and takes whatever comes.
async fn pretends(listener: tokio::net::TcpListener, release: &'static str) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::task::spawn_local(async move {
            let info = format!(
                "INFO {{\"server_id\":\"x\",\"server_name\":\"x\",\"version\":\"{release}\",\"host\":\"127.0.0.1\",\
                 \"port\":1,\"max_payload\":1048576,\"proto\":1,\"headers\":true}}\r\nPONG\r\n"
            );
            stream.write_all(info.as_bytes()).await.unwrap();
            let mut said = [0; 1_024];
            while stream.read(&mut said).await.is_ok_and(|read| read > 0) {}
        });
    }
}

#[test]
fn an_engine_that_is_too_old_or_strange_is_not_used() {
    run(async {
        for (release, serves) in [("2.8.4", false), ("", false), ("99999999999999999999.1.1", false), ("2.9.0", true)] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let engine = tokio::task::spawn_local(pretends(listener, release));
            let (_bus, mut events) = open(BusWay::Engine(settings(port)), NodeId(1)).await;
            let event = timeout(Duration::from_millis(700), events.recv()).await;
            assert_eq!(matches!(event, Ok(Some(BusEvent::Connected { .. }))), serves, "{release}: {event:?}");
            engine.abort();
        }
    });
}

#[test]
fn bytes_that_are_no_frames_end_their_connection_alone() {
    run(async {
        let socket = UnixSocket::new();
        let mut ends = ends(&socket, 2).await;
        ends[1].bus.subscribe("t.nodes");
        ends[1].settles().await;
        for bytes in [&[0xff_u8; 64] as &[u8], &[0, 0, 0, 1, 99], b"GET / HTTP/1.1\r\n\r\n", &[0, 0, 0, 9, 3]] {
            let mut stranger = tokio::net::UnixStream::connect(&socket.0).await.unwrap();
            stranger.write_all(bytes).await.unwrap();
            stranger.shutdown().await.unwrap();
            let mut answer = Vec::new();
            let ended = timeout(WAIT, stranger.read_to_end(&mut answer)).await.expect("it is closed");
            assert!(ended.is_err() || answer.is_empty());
        }
        ends[0].bus.publish("t.nodes", None, b"x".to_vec());
        assert_eq!(ends[1].hears().await, message("t.nodes", None, b"x"));
    });
}

#[test]
fn who_does_not_read_is_told_that_it_missed_something() {
    run(async {
        let socket = UnixSocket::new();
        let mut ends = ends(&socket, 2).await;
        ends[1].bus.subscribe("t.much");
        ends[1].settles().await;
        // More than its queues and the socket's buffers hold.
        for _ in 0..20 {
            for _ in 0..1_000 {
                ends[0].bus.publish("t.much", None, vec![0; 1_000]);
            }
            sleep(Duration::from_millis(5)).await;
        }
        let mut heard = 0;
        while ends[1].hears().await != BusEvent::Behind {
            heard += 1;
            if heard % 1_000 == 0 {
                ends[0].bus.publish("t.much", None, Vec::new());
            }
        }
        assert!(heard < 20_000, "{heard}");
    });
}
