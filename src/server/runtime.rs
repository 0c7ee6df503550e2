//! The signalling thread: accepts connections, feeds the shards' events and the hub's deadlines to
//! [`super::control`], and ends all of it in order.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use tokio::time::{interval, sleep, sleep_until, timeout};

use super::auth::AuthKeys;
use super::certificates::Certificates;
use super::clock;
use super::clustering::{ClusterGreeting, Clustering};
use super::connections::Place;
use super::control::Control;
use super::http::{self, Face};
use super::own_words::OwnWords;
use super::streaming::Streaming;
use super::tasks::Task;
use super::timing::Timing;
use super::tls::{self, HandshakeFault, Spoken};
use super::tower::Tower;
use super::watched::Reload;
use super::webhooks::{HookCounts, HookMouth, Hooks, Webhooks};
use crate::base::id::ShardId;
use crate::base::limits::{HTTP_HEAD_BYTES_MAX, HTTP_HEADERS_MAX};
use crate::base::time::Instant;
use crate::shard::command::Event;
use crate::signal::{Hub, HubSettings, Origins};

/// Shard events that are handled before connections get a turn again.
const EVENTS_PER_TURN: usize = 256;
/// How often the hub is told how busy the shards are; they measure once a second.
const MEASURE_EVERY: Duration = Duration::from_secs(1);
/// The steps in which the thread's own time is counted.
const AWAKE_STEP: Duration = Duration::from_millis(250);
/// The interval of warnings that connections cannot be accepted.
const WARN_EVERY: Duration = Duration::from_secs(60);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub struct Settings {
    pub listener: TcpListener,
    /// For the operator's machines alone; None: nowhere.
    pub admin: Option<TcpListener>,
    /// Host names under which that one may be asked for the admin API.
    pub admin_hosts: Vec<String>,
    /// Of the public listener; None: it speaks plain HTTP.
    pub tls: Option<Certificates>,
    /// The origins whose pages may open a WebSocket.
    pub origins: Origins,
    /// What tokens are checked with; None: a name lets in.
    pub auth: Option<AuthKeys>,
    pub shards: Vec<ShardId>,
    pub hub: HubSettings,
    pub tower: Box<dyn Tower>,
    pub events: UnboundedReceiver<(ShardId, Event)>,
    pub timing: Timing,
    /// None: nobody is told.
    pub webhooks: Option<Webhooks>,
    /// None: this server is no node of a cluster.
    pub cluster: Option<Clustering>,
}

/// The running control edge.
pub struct Server {
    address: SocketAddr,
    admin: Option<SocketAddr>,
    reload: Arc<Reload>,
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
    thread: JoinHandle<()>,
    hooks: Option<Hooks>,
    greeting: Option<oneshot::Receiver<ClusterGreeting>>,
}

/// The signalling thread panicked.
#[derive(Debug)]
pub struct SignallingPanicked;

impl Server {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// To have the files of certificate and keys read again, where there are some.
    pub fn reload(&self) -> Arc<Reload> {
        self.reload.clone()
    }

    /// What is known of the cluster when this node's start in it has ended. None: it takes longer than `most`, or there is
    /// no cluster.
    pub async fn cluster_greeting(&mut self, most: Duration) -> Option<ClusterGreeting> {
        timeout(most, self.greeting.take()?).await.ok()?.ok()
    }

    /// Resolves when the thread has ended, which it does by itself only after a fault.
    pub async fn ended(&mut self) {
        // Nothing is ever sent: the thread's end drops the sender.
        let _ = (&mut self.ended).await;
    }

    /// Closes every socket with 1001, waits for them within the goodbye time, and joins the thread.
    pub fn stop(self) -> Result<(), SignallingPanicked> {
        // A thread that has ended already is found by the join.
        let _ = self.stop.send(());
        let ended = self.thread.join();
        let told = self.hooks.map_or(Ok(()), Hooks::join);
        ended.and(told).map_err(|_| SignallingPanicked)
    }
}

pub fn start(mut settings: Settings) -> io::Result<Server> {
    let address = settings.listener.local_addr()?;
    let admin = settings.admin.as_ref().map(TcpListener::local_addr).transpose()?;
    for listener in [Some(&settings.listener), settings.admin.as_ref()].into_iter().flatten() {
        listener.set_nonblocking(true)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (stop, stopped) = oneshot::channel();
    let (alive, ended) = oneshot::channel();
    let reload = Arc::<Reload>::default();
    let asked = reload.clone();
    let counts = Arc::<HookCounts>::default();
    let hooks = settings.webhooks.take().map(|webhooks| webhooks.start(counts.clone(), reload.clone())).transpose()?;
    let mouth = hooks.as_ref().map(|hooks| (hooks.mouth(), counts));
    let (greet, greeting) = oneshot::channel();
    let greeting = settings.cluster.is_some().then_some(greeting);
    let thread = std::thread::Builder::new().name("signalling".into()).spawn(move || {
        let _alive: oneshot::Sender<()> = alive;
        LocalSet::new().block_on(&runtime, run(settings, mouth, asked, greet, stopped));
    })?;
    Ok(Server { address, admin, reload, stop, ended, thread, hooks, greeting })
}

async fn run(
    settings: Settings,
    hooks: Option<(HookMouth, Arc<HookCounts>)>,
    reload: Arc<Reload>,
    greet: oneshot::Sender<ClusterGreeting>,
    mut stopped: oneshot::Receiver<()>,
) {
    let Settings {
        listener,
        admin,
        admin_hosts,
        tls,
        origins,
        auth,
        shards,
        hub,
        tower,
        mut events,
        timing,
        cluster,
        ..
    } = settings;
    let auth = auth.map(Rc::new);
    let tls = tls.map(Rc::new);
    let mut control = Control::new(Hub::new(hub), shards, tower, origins, auth.clone(), tls.clone());
    control.admin_hosts = admin_hosts;
    if let Some((mouth, counts)) = hooks {
        control.tell(mouth, counts);
    }
    let in_cluster = match cluster {
        Some(cluster) => Some(cluster.begin(&mut control, reload.clone()).await),
        None => None,
    };
    let control = Rc::new(control);
    if let Some(work) = in_cluster {
        work.start(&control, greet);
    }
    let awake = control.awake.clone();
    let step = AWAKE_STEP.min(timing.silence_max / 16);
    let counting = tokio::task::spawn_local(async move { awake.run(step).await });
    let posting = control.posting.clone();
    tokio::task::spawn_local(async move { posting.run().await });
    keep_up(tls.clone(), auth, reload);
    let mut accepting = Vec::new();
    for (listener, face, tls) in [(Some(listener), Face::Public, tls), (admin, Face::Admin, None)] {
        let Some(listener) = listener else { continue };
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => {
                accepting.push(tokio::task::spawn_local(accept(listener, face, tls, control.clone(), timing)));
            }
            Err(error) => return tracing::error!(%error, "a listening socket cannot be used"),
        }
    }
    let mut measure = interval(MEASURE_EVERY);
    loop {
        tokio::select! {
            () = next_input(&control, &mut events) => {}
            _ = measure.tick() => control.measure(),
            _ = &mut stopped => break,
        }
    }
    accepting.iter().for_each(tokio::task::JoinHandle::abort);
    counting.abort();
    end(&control, &mut events, timing).await;
}

/// Keeps up with the files of certificates and keys, for ever.
fn keep_up(tls: Option<Rc<Certificates>>, auth: Option<Rc<AuthKeys>>, reload: Arc<Reload>) {
    if let Some(tls) = tls {
        let reload = reload.clone();
        tokio::task::spawn_local(async move { tls.keep_up(&reload.certificates).await });
    }
    if let Some(auth) = auth {
        tokio::task::spawn_local(async move { auth.keep_up(&reload.keys).await });
    }
}

/// Ends sockets and connections in order.
async fn end(control: &Control, events: &mut UnboundedReceiver<(ShardId, Event)>, timing: Timing) {
    control.begin_stop();
    let last_words = async {
        loop {
            tokio::select! {
                () = next_input(control, events) => {}
                () = control.tasks.none_left() => break,
            }
        }
    };
    let grace = timing.goodbye + timing.goodbye / 4;
    if timeout(grace, last_words).await.is_err() {
        tracing::warn!("connections were cut off at shutdown");
    }
    control.bus_flushed().await;
    control.end_log();
}

/// Handles one input: a batch of events, or a deadline of the hub.
async fn next_input(control: &Control, events: &mut UnboundedReceiver<(ShardId, Event)>) {
    let deadline = control.deadline();
    let due = async {
        match deadline {
            Some(deadline) => sleep_until(clock::at(deadline)).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        event = events.recv() => {
            // With no shard left no event comes any more; the sockets still get their answers.
            let Some((shard, event)) = event else { return control.deadline_moved.notified().await };
            control.handle_event(shard, event);
            for _ in 1..EVENTS_PER_TURN {
                let Ok((shard, event)) = events.try_recv() else { break };
                control.handle_event(shard, event);
            }
        }
        () = due => control.handle_timeout(),
        () = control.deadline_moved.notified() => {}
    }
}

async fn accept(
    listener: tokio::net::TcpListener,
    face: Face,
    tls: Option<Rc<Certificates>>,
    control: Rc<Control>,
    timing: Timing,
) {
    let (task, connections) = match face {
        Face::Public | Face::Insecure => (Task::Http, &control.connections),
        Face::Admin => (Task::Admin, &control.admin_connections),
    };
    let mut warned: Option<Instant> = None;
    loop {
        let (stream, remote) = match listener.accept().await {
            // An IPv4 client of an IPv6 listener is the same client.
            Ok((stream, remote)) => (stream, remote.ip().to_canonical()),
            Err(error) => {
                // Out of descriptors, or a connection that broke while it waited: the next one may do.
                control.counters.accept_failed();
                let now = clock::now();
                if warned.is_none_or(|at| now.since(at) >= WARN_EVERY) {
                    warned = Some(now);
                    tracing::warn!(%error, "connections could not be accepted; weirgate_http_accepts_failed_total counts them");
                }
                control.connections.make_room();
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (place, evicted) = connections.admit(remote);
        control.counters.connections_evicted(evicted);
        let Some(place) = place else {
            control.counters.connection_refused();
            continue;
        };
        let running = control.tasks.begin(task);
        let (control, tls) = (control.clone(), tls.clone());
        tokio::task::spawn_local(async move {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "TCP_NODELAY is refused");
            }
            match tls {
                None => serve(stream, face, remote, &control, place, timing).await,
                Some(tls) => serve_tls(stream, &tls, remote, &control, place, timing).await,
            }
            drop(running);
        });
    }
}

/// The handshake, in which the connection counts as one that waits for its request, and HTTP after it.
async fn serve_tls(
    stream: TcpStream,
    tls: &Certificates,
    remote: IpAddr,
    control: &Rc<Control>,
    place: Place,
    timing: Timing,
) {
    let opened = tokio::select! {
        opened = timeout(timing.head_wait, tls::open(stream, tls.acceptor(), &control.handshakes, || {
            control.shakes_hands(remote)
        })) => opened.unwrap_or(Err(HandshakeFault::Silent)),
        () = place.evicted() => return,
        () = control.stop.notified() => return,
    };
    match opened {
        Ok(Spoken::Tls(stream)) => {
            control.counters.handshake_done();
            serve(*stream, Face::Public, remote, control, place, timing).await;
        }
        Ok(Spoken::Validation) => control.counters.validated(),
        Ok(Spoken::Plain(stream)) => serve(stream, Face::Insecure, remote, control, place, timing).await,
        Err(fault) => {
            control.counters.handshake_failed(&fault);
            tracing::debug!("a TLS handshake came to nothing: {fault}");
        }
    }
}

/// A stream of events may last as long as it likes.
async fn lasted(max: Duration, streaming: &Streaming) {
    sleep(max).await;
    while streaming.is_on() {
        sleep(max).await;
    }
}

/// HTTP on one connection, until it ends, has lasted long enough, or has become a WebSocket.
async fn serve<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: IO,
    face: Face,
    remote: IpAddr,
    control: &Rc<Control>,
    place: Place,
    timing: Timing,
) {
    if control.stopping() {
        return;
    }
    let place = &place;
    let streaming = &Rc::<Streaming>::default();
    let service = service_fn(|request| async move {
        place.has_request();
        let mut answer = http::respond(control.clone(), timing, face, remote, request).await;
        if let Ok(answer) = &mut answer {
            answer.body_mut().carried_by(streaming);
        }
        if !streaming.is_on() {
            place.wait_for_request();
        }
        answer
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(timing.head_wait)
        .max_buf_size(HTTP_HEAD_BYTES_MAX)
        .max_headers(HTTP_HEADERS_MAX)
        .serve_connection(TokioIo::new(OwnWords::new(stream, control.counters.own_answers.clone())), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    tokio::select! {
        // How a connection ended does not matter: its requests are answered and counted.
        _ = connection.as_mut() => return,
        () = place.evicted() => return,
        () = streaming.has_been_cut() => return,
        () = lasted(timing.connection_max, streaming) => {}
        () = control.stop.notified() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(timing.goodbye, connection).await;
}
