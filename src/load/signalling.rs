//! All peers' WebSockets on one thread: each joins, publishes by its plan, and consumes every producer of the others in
//! its channel. Uses the five messages that every server of the protocol knows, one at a time, so that replies need no
//! ids; the peers tell each other here who produces what.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::base::id::{Mid, Ssrc};
use crate::base::time::Duration;
use crate::base::units::Bitrate;
use crate::client::parameters::{consumed, extension_ids, payload_types, produce};
use crate::load::dial::{Trust, Wire, dial};
use crate::load::media::{MediaCommand, SourceSetup};
use crate::load::progress::{Progress, count};
use crate::load::sink::SinkSetup;
use crate::load::size::{PeerPlan, Size};
use crate::load::source::Rhythm;
use crate::load::transport::TransportSetup;
use crate::net::clock::Clock;
use crate::net::udp::socket::{Sharing, bind};
use crate::net::udp::stamped;
use crate::secure::certificate::Fingerprint;
use crate::sim::ice_client::RemoteIce;
use crate::sim::source::SourceConfig;
use crate::wire::codec::Codec;
use crate::wire::extension::Extension;

/// The interval of attempts of a request that came too fast for the server.
const RATE_PAUSE: Duration = Duration::from_millis(250);
const REPLY_WAIT: Duration = Duration::from_secs(30);
/// Sockets bound to one loopback address, well below the ports that the kernel hands out.
const SOCKETS_PER_ADDRESS: usize = 20_000;

#[derive(Clone)]
pub struct JoinSettings {
    pub url: String,
    /// For `wss:`.
    pub trust: Trust,
    /// Part of the names of channels and users, so that two runs never meet.
    pub run: u32,
    pub size: Size,
    pub peers: Vec<PeerPlan>,
    pub joins_a_second: f64,
    /// None in either: not sent.
    pub video: Option<Rhythm>,
    pub audio: Option<Rhythm>,
    /// Makes and connects transports, and neither produces nor consumes.
    pub idle: bool,
    pub gro: bool,
    pub fingerprint_sha256: String,
}

pub struct LoadSignalling {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl LoadSignalling {
    pub fn start(
        settings: JoinSettings,
        commands: mpsc::Sender<MediaCommand>,
        progress: Arc<Progress>,
    ) -> io::Result<LoadSignalling> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let run = move || {
            let tasks = tokio::task::LocalSet::new();
            let channels = settings.peers.iter().map(|peer| peer.channel + 1).max().unwrap_or(0);
            let lobby = Rc::new(Lobby {
                channels: (0..channels).map(|_| watch::Sender::new(Vec::new())).collect(),
                next_transport: Cell::new(0),
                next_source: Cell::new(0),
                settings,
                commands,
                progress,
            });
            for number in 0..lobby.settings.peers.len() {
                tasks.spawn_local(attend(lobby.clone(), number));
            }
            tasks.block_on(&runtime, async {
                // Dropped or sent to: the end.
                let _ = stopped.await;
            });
        };
        let thread = std::thread::Builder::new().name("signalling".into()).spawn(run)?;
        Ok(LoadSignalling { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for LoadSignalling {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic of that thread has been reported there.
            let _ = thread.join();
        }
    }
}

/// A producer that the others may consume.
#[derive(Clone, Debug)]
struct OfferedProducer {
    peer: usize,
    /// Among the senders of its channel.
    place: usize,
    producer: String,
    source: usize,
}

struct Lobby {
    settings: JoinSettings,
    commands: mpsc::Sender<MediaCommand>,
    progress: Arc<Progress>,
    channels: Vec<watch::Sender<Vec<OfferedProducer>>>,
    next_transport: Cell<usize>,
    next_source: Cell<usize>,
}

/// A counter's value.
fn next(counter: &Cell<usize>) -> usize {
    counter.replace(counter.get() + 1)
}

type Failure = String;

async fn attend(lobby: Rc<Lobby>, number: usize) {
    tokio::time::sleep(Duration::from_secs_f64(number as f64 / lobby.settings.joins_a_second)).await;
    let user = format!("load-{:08x}-{number}", lobby.settings.run);
    if let Err(why) = lobby.join(number, &user).await {
        lobby.progress.fail(format!("{user}: {why}"));
    }
}

impl Lobby {
    /// Until the server hangs up, which is a failure.
    async fn join(&self, number: usize, user: &str) -> Result<(), Failure> {
        let peer = self.settings.peers[number];
        let started = Clock::process().mono();
        let channel = format!("load-{:08x}-{}", self.settings.run, peer.channel);
        let mut line = Line::connect(&self.settings.url, &self.settings.trust, user, &channel).await?;
        let capabilities = line.request("get-rtp-capabilities", Value::Null, "rtp-capabilities").await?;
        let answered = |_: &Value| {
            let waited = Clock::process().mono().since(started);
            self.progress.time(|times| times.answered.record(waited, 1));
        };
        let mut first = Some(answered);
        if let Some(publisher) = peer.publisher {
            let transport = self.open(&mut line, "send", first.take()).await?;
            let kinds = [(Codec::Opus, self.settings.audio), (Codec::Vp8, self.settings.video)];
            let streams = kinds.into_iter().filter_map(|(codec, rhythm)| Some((codec, rhythm?)));
            for (place, (codec, rhythm)) in streams.enumerate().filter(|_| !self.settings.idle) {
                let source = self.produce(&mut line, &transport, publisher, place, codec, rhythm).await?;
                self.channels[peer.channel]
                    .send_modify(|list| list.push(OfferedProducer { peer: number, place: peer.place, ..source }));
            }
        }
        let receive = match peer.takes {
            true => Some(self.open(&mut line, "recv", first.take()).await?),
            false => None,
        };
        count(&self.progress.joined);
        let mut list = self.channels[peer.channel].subscribe();
        let mut seen = 0;
        loop {
            if let Some(transport) = &receive {
                while let Some(other) = { list.borrow_and_update().get(seen).cloned() } {
                    seen += 1;
                    if other.peer != number && self.settings.size.watches(peer.place, other.place) {
                        let all = || self.channels[peer.channel].borrow().clone();
                        self.consume(&mut line, transport, &capabilities, &other, all).await?;
                    }
                }
            }
            tokio::select! {
                // The sender is our own lobby's.
                _ = list.changed() => {}
                ended = line.listen() => return Err(ended),
            }
        }
    }

    /// Asks for a transport, announces our certificate and lets the media thread connect it.
    async fn open(&self, line: &mut Line, direction: &str, told: Option<impl Fn(&Value)>) -> Result<Opened, Failure> {
        let data = json!({ "direction": direction });
        let reply = line.request("create-transport", data, "transport-params").await?;
        if let Some(told) = told {
            told(&reply);
        }
        let id = text(&reply, "id")?;
        let remote = candidate(&reply["iceCandidates"], line.server)?;
        let given = reply["dtlsParameters"]["fingerprints"].as_array();
        let fingerprint = |given: &Value| Fingerprint::parse(given["algorithm"].as_str()?, given["value"].as_str()?);
        let fingerprints: Vec<_> = given.into_iter().flatten().filter_map(fingerprint).collect();
        let ice = &reply["iceParameters"];
        let (ufrag, pwd) = (text(ice, "usernameFragment")?, text(ice, "password")?);
        let fingerprint = json!({ "algorithm": "sha-256", "value": self.settings.fingerprint_sha256 });
        let dtls = json!({ "role": "client", "fingerprints": [fingerprint] });
        let data = json!({ "transportId": id, "dtlsParameters": dtls });
        line.request("connect-transport", data, "transport-connected").await?;

        let number = self.next_transport.get();
        let socket = self.socket(number, remote).map_err(|error| format!("no UDP socket: {error}"))?;
        let ice = RemoteIce { ufrag, pwd, candidates: vec![remote] };
        self.command(MediaCommand::Open(Box::new(TransportSetup { socket, remote, ice, fingerprints })));
        next(&self.next_transport);
        count(&self.progress.transports_open);
        Ok(Opened { id, number })
    }

    fn socket(&self, number: usize, remote: SocketAddr) -> io::Result<socket2::Socket> {
        let local: IpAddr = match remote.ip() {
            IpAddr::V4(ip) if ip.is_loopback() => {
                Ipv4Addr::new(127, 0, 0, 1 + (number / SOCKETS_PER_ADDRESS) as u8).into()
            }
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = bind(SocketAddr::new(local, 0), Sharing::Alone)?;
        socket.connect(&remote.into())?;
        stamped::prepare(&socket, self.settings.gro)?;
        Ok(socket)
    }

    async fn produce(
        &self,
        line: &mut Line,
        transport: &Opened,
        publisher: usize,
        place: usize,
        codec: Codec,
        rhythm: Rhythm,
    ) -> Result<OfferedProducer, Failure> {
        let (payload_type, rtx) = payload_types(codec);
        let ssrc = || Ssrc(rand::random_range(10_000..=u32::MAX));
        let config = SourceConfig {
            codec,
            clock_rate: if codec.is_video() { 90_000 } else { 48_000 },
            payload_type,
            ssrc: ssrc(),
            rtx: rtx.map(|payload_type| (payload_type, ssrc())),
            mid: Mid::new(place.to_string().as_bytes()),
            cname: format!("{:08x}", self.settings.run.wrapping_add(publisher as u32)),
            bitrate: Bitrate::kbps(0),
            frame_rate: 0,
            extensions: extension_ids(codec),
        };
        let (kind, parameters) = produce(&config);
        let data = json!({ "transportId": transport.id, "kind": kind, "rtpParameters": parameters });
        let producer = text(&line.request("produce", data, "producer-id").await?, "id")?;
        let setup = SourceSetup { config, rhythm, transport: transport.number, publisher };
        self.command(MediaCommand::Publish(Box::new(setup)));
        Ok(OfferedProducer { peer: 0, place: 0, producer, source: next(&self.next_source) })
    }

    /// Asks for `other`'s producer; a server that knows no producerId gives the oldest that is left, which `all` has.
    async fn consume(
        &self,
        line: &mut Line,
        transport: &Opened,
        capabilities: &Value,
        other: &OfferedProducer,
        all: impl Fn() -> Vec<OfferedProducer>,
    ) -> Result<(), Failure> {
        let data =
            json!({ "transportId": transport.id, "producerId": other.producer, "rtpCapabilities": capabilities });
        let reply = line.request("consume", data, "consumer-params").await?;
        let producer = text(&reply, "producerId")?;
        let all = all();
        let published = all.iter().find(|published| published.producer == producer);
        let Some(published) = published else { return Err(format!("consume gave a producer of nobody: {reply}")) };
        let parameters = &reply["rtpParameters"];
        let Some(sink) = consumed(parameters) else {
            return Err(format!("consumer-params without usable rtpParameters: {reply}"));
        };
        let extensions = parameters["headerExtensions"].as_array();
        let transport_cc = extensions
            .into_iter()
            .flatten()
            .find(|extension| extension["uri"] == Extension::TransportCc.uri())
            .and_then(|extension| u8::try_from(extension["id"].as_u64()?).ok());
        let sink = SinkSetup {
            ssrc: sink.ssrc,
            rtx_ssrc: sink.rtx.map(|(_, ssrc)| ssrc),
            payload_type: sink.payload_type,
            video: sink.codec.is_video(),
            nack: sink.nack,
            stream: published.source as u32,
            since: Clock::process().mono(),
        };
        self.command(MediaCommand::Receive { transport: transport.number, sink, transport_cc });
        count(&self.progress.consumed);
        Ok(())
    }

    fn command(&self, command: MediaCommand) {
        // It fails only when the media thread has ended, which shows by streams that do not start.
        let _ = self.commands.send(command);
    }
}

/// The URL of a peer. A token in the given one says who every peer is.
fn with_names(url: &str, user: &str, channel: &str) -> String {
    match url.split_once('?') {
        None => format!("{url}?auth={user}&channelId={channel}"),
        Some((_, query)) if query.split('&').any(|part| part.starts_with("auth=")) => {
            format!("{url}&channelId={channel}")
        }
        Some(_) => format!("{url}&auth={user}&channelId={channel}"),
    }
}

struct Opened {
    id: String,
    number: usize,
}

/// One WebSocket.
struct Line {
    socket: WebSocketStream<Box<dyn Wire>>,
    server: Option<IpAddr>,
}

impl Line {
    async fn connect(url: &str, trust: &Trust, user: &str, channel: &str) -> Result<Line, Failure> {
        let (socket, server) = dial(&with_names(url, user, channel), trust).await?;
        Ok(Line { socket, server })
    }

    /// Sends a request and gives back the data of its reply, which is of type `reply`.
    async fn request(&mut self, kind: &str, data: Value, reply: &str) -> Result<Value, Failure> {
        let mut message = json!({ "type": kind });
        if !data.is_null() {
            message["data"] = data;
        }
        let message = message.to_string();
        loop {
            self.socket.send(Message::text(message.clone())).await.map_err(|error| hung_up(kind, &error))?;
            let answer = tokio::time::timeout(REPLY_WAIT, self.reply(kind, reply)).await;
            let answer = answer.map_err(|_| format!("no reply to {kind} within {} s", REPLY_WAIT.as_secs()))?;
            match answer? {
                Answer::Data(data) => return Ok(data),
                Answer::TooFast => tokio::time::sleep(RATE_PAUSE).await,
            }
        }
    }

    async fn reply(&mut self, kind: &str, reply: &str) -> Result<Answer, Failure> {
        while let Some(message) = self.socket.next().await {
            let Message::Text(text) = message.map_err(|error| hung_up(kind, &error))? else { continue };
            let Ok(mut message) = serde_json::from_str::<Value>(&text) else {
                return Err(format!("the reply to {kind} is not JSON: {text}"));
            };
            let data = message["data"].take();
            if message["type"] == reply {
                return Ok(Answer::Data(data));
            }
            if message["type"] == "error" {
                if data["code"] == "rate-limited" {
                    return Ok(Answer::TooFast);
                }
                return Err(format!("{kind} refused: {data}"));
            }
        }
        Err(format!("the server closed the WebSocket instead of answering {kind}"))
    }

    /// Lets the socket answer pings; its end comes back.
    async fn listen(&mut self) -> Failure {
        loop {
            match self.socket.next().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => return hung_up("join", &error),
                None => return "the server closed the WebSocket".to_owned(),
            }
        }
    }
}

enum Answer {
    Data(Value),
    TooFast,
}

fn hung_up(kind: &str, error: &dyn std::fmt::Display) -> Failure {
    format!("the WebSocket broke after {kind}: {error}")
}

fn text(value: &Value, field: &str) -> Result<String, Failure> {
    value[field].as_str().map(str::to_owned).ok_or_else(|| format!("a reply without {field}: {value}"))
}

/// The server's address that the WebSocket reached if it is among the UDP candidates, else the first of them.
fn candidate(given: &Value, server: Option<IpAddr>) -> Result<SocketAddr, Failure> {
    let address = |candidate: &Value| {
        let ip: IpAddr = candidate["ip"].as_str().or(candidate["address"].as_str())?.parse().ok()?;
        let port = u16::try_from(candidate["port"].as_u64()?).ok()?;
        (candidate["protocol"] == "udp").then_some(SocketAddr::new(ip, port))
    };
    let found: Vec<_> = given.as_array().into_iter().flatten().filter_map(address).collect();
    let nearest = found.iter().find(|address| Some(address.ip()) == server).or(found.first());
    nearest.copied().ok_or_else(|| format!("no UDP address among the candidates: {given}"))
}
