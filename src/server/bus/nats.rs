//! The bus by NATS servers: the one file that knows their client. Of NATS its core alone is used, from 2.9 on.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, Event, ServerAddr, Subscriber};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::{AbortHandle, spawn_local, unconstrained};
use tokio::time::timeout;

use super::Bus;
use crate::base::limits::BUS_QUEUE_MAX;
use crate::base::node_id::NodeId;
use crate::base::secret::Secret;
use crate::base::time::Instant;
use crate::server::clock;
use crate::signal::cluster::BusEvent;

/// What the bus needs of a server: requests that nobody hears are answered, and subjects have permissions.
const OLDEST: (u64, u64, u64) = (2, 9, 0);
/// From these on a race of SUB and UNSUB loses no interest (nats-server issue 8233).
const MENDED: [(u64, u64, u64); 2] = [(2, 12, 10), (2, 14, 2)];
const PING_EVERY: Duration = Duration::from_secs(1);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(800);
/// A wait before the next try is longer by so much each time, up to the greatest, give or take a fifth.
const RECONNECT_STEP: Duration = Duration::from_millis(50);
const RECONNECT_MAX: Duration = Duration::from_millis(500);
/// The interval of warnings that no server can be reached.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// News of the connection that wait; the client itself keeps some more, and drops what is beyond.
const NEWS_MAX: usize = 128;
/// How long the last words may take.
const FLUSH_MAX: Duration = Duration::from_millis(300);

/// Who this node is to the engine.
#[derive(Clone, Debug)]
pub enum EngineCredentials {
    Password {
        user: String,
        password: Secret,
    },
    /// The text of a credentials file: a JWT and a seed.
    File(Secret),
    /// The seed of an nkey.
    Seed(Secret),
}

#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// As `nats://host:port` or `tls://host:port`, without a user; at least one.
    pub urls: Vec<String>,
    pub credentials: Option<EngineCredentials>,
    /// PEM, read at each connection.
    pub ca: Option<PathBuf>,
    /// Shown in the engine's list of connections.
    pub name: String,
}

struct NatsBus {
    client: Client,
    /// Whether the server is one that will do.
    usable: Rc<Cell<bool>>,
    events: Sender<BusEvent>,
    listening: RefCell<BTreeMap<String, AbortHandle>>,
}

/// A command to the client, if its queue has room for it. None: it has none.
fn at_once<T>(command: impl Future<Output = T>) -> Option<T> {
    unconstrained(command).now_or_never()
}

pub(super) async fn open(settings: EngineSettings, node: NodeId, events: Sender<BusEvent>) -> Rc<dyn Bus> {
    let (told, noticed) = mpsc::channel(NEWS_MAX);
    let options = options(&settings, node).event_callback(move |event| {
        let told = told.clone();
        async move {
            // The bus has ended.
            let _ = told.send(event).await;
        }
    });
    let urls: Vec<ServerAddr> = settings.urls.iter().filter_map(|url| url.parse().ok()).collect();
    match options.connect(urls).await {
        Ok(client) => {
            let usable = Rc::<Cell<bool>>::default();
            let news = News { client: client.clone(), usable: usable.clone(), events: events.clone(), settings };
            spawn_local(news.run(noticed));
            Rc::new(NatsBus { client, usable, events, listening: RefCell::default() })
        }
        // It connects later by itself, so that only the settings can be at fault.
        Err(error) => {
            tracing::error!(%error, "the bus of the cluster cannot be set up: this node stays alone");
            Rc::new(NoBus)
        }
    }
}

impl EngineCredentials {
    /// Reads a credentials file, or the seed of an nkey. Err: what it is not.
    pub fn read(text: &str) -> Result<EngineCredentials, String> {
        let is_seed = |line: &&str| line.starts_with("SU") && line.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let seed = text.lines().map(str::trim).find(is_seed);
        match seed {
            None => Err("holds neither a JWT with its seed nor the seed of a user's nkey".to_owned()),
            Some(_) if text.contains("BEGIN NATS USER JWT") => {
                let fits = ConnectOptions::with_credentials(text).map(|_| EngineCredentials::File(Secret::new(text)));
                fits.map_err(|error| format!("is no credentials file: {error}"))
            }
            Some(seed) => Ok(EngineCredentials::Seed(Secret::new(seed))),
        }
    }

    fn options(&self) -> ConnectOptions {
        match self {
            EngineCredentials::Password { user, password } => {
                ConnectOptions::with_user_and_password(user.clone(), password.expose().to_owned())
            }
            EngineCredentials::Seed(seed) => ConnectOptions::with_nkey(seed.expose().to_owned()),
            // It was read at the start already.
            EngineCredentials::File(text) => ConnectOptions::with_credentials(text.expose()).unwrap_or_default(),
        }
    }
}

fn options(settings: &EngineSettings, node: NodeId) -> ConnectOptions {
    let options = settings.credentials.as_ref().map(EngineCredentials::options).unwrap_or_default();
    let options = options
        .name(&settings.name)
        .no_echo()
        .retry_on_initial_connect()
        .ping_interval(PING_EVERY)
        .connection_timeout(CONNECT_TIMEOUT)
        .subscription_capacity(BUS_QUEUE_MAX)
        .custom_inbox_prefix(format!("wg.in.{node}"))
        .reconnect_delay_callback(reconnect_delay);
    match settings.ca.clone() {
        Some(ca) => options.add_root_certificates(ca),
        None => options,
    }
}

fn reconnect_delay(attempt: usize) -> Duration {
    let tries = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
    let delay = RECONNECT_STEP.saturating_mul(tries).min(RECONNECT_MAX);
    delay.mul_f64(rand::random_range(0.8..1.2))
}

/// Major, minor, patch.
fn version(text: &str) -> Option<(u64, u64, u64)> {
    let mut numbers = text.split(['.', '-', '+']).map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next()??))
}

/// Turns what happens to the connection into events of the bus.
struct News {
    client: Client,
    usable: Rc<Cell<bool>>,
    events: Sender<BusEvent>,
    settings: EngineSettings,
}

impl News {
    async fn run(self, mut noticed: Receiver<Event>) {
        let (mut warned, mut mending_told) = (None, false);
        while let Some(event) = noticed.recv().await {
            let event = match event {
                Event::Connected => {
                    let info = self.client.server_info();
                    let known = version(&info.version);
                    if known.is_none_or(|version| version < OLDEST) {
                        self.warn(
                            &mut warned,
                            &format!("nats-server 2.9 or later is needed, and this is {:?}", info.version),
                        );
                        continue;
                    }
                    if known.is_some_and(|version| !is_mended(version)) && !std::mem::replace(&mut mending_told, true) {
                        tracing::info!(
                            version = info.version,
                            "nats-server from 2.12.10 or 2.14.2 on loses no interest (its issue 8233); this one is older"
                        );
                    }
                    self.usable.set(true);
                    BusEvent::Connected { engine: self.engine(&info.host, info.port, &info.version) }
                }
                Event::Disconnected | Event::Closed if self.usable.replace(false) => BusEvent::Disconnected,
                Event::SlowConsumer(_) => BusEvent::Behind,
                Event::ClientError(error) => {
                    self.warn(&mut warned, &error.to_string());
                    continue;
                }
                Event::ServerError(error) => {
                    self.warn(&mut warned, &error.to_string());
                    continue;
                }
                _ => continue,
            };
            if self.events.send(event).await.is_err() {
                return;
            }
        }
    }

    /// At most once in a while.
    fn warn(&self, warned: &mut Option<Instant>, why: &str) {
        let now = clock::now();
        if warned.is_none_or(|at| now.since(at) >= WARN_EVERY) {
            *warned = Some(now);
            let urls = self.settings.urls.join(",");
            tracing::warn!("the engine of --cluster {urls} does not serve this node, and is tried again: {why}");
        }
    }

    /// The server's address: the one that was given, or of several the one that it says.
    fn engine(&self, host: &str, port: u16, version: &str) -> String {
        match self.settings.urls.as_slice() {
            [only] => format!("{only} ({version})"),
            _ => format!("nats://{host}:{port} ({version})"),
        }
    }
}

fn is_mended(version: (u64, u64, u64)) -> bool {
    let [older, newer] = MENDED;
    version >= newer || version >= older && version.1 == older.1
}

/// What comes to a subscription, until the bus ends.
async fn pass_on(mut subscriber: Subscriber, events: Sender<BusEvent>) {
    while let Some(message) = subscriber.next().await {
        let subject = message.subject.to_string();
        let event = match message.status {
            Some(async_nats::StatusCode::NO_RESPONDERS) => BusEvent::Nobody { inbox: subject },
            Some(_) => continue,
            None => BusEvent::Message {
                subject,
                reply: message.reply.map(|reply| reply.to_string()),
                payload: message.payload.into(),
            },
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
}

impl NatsBus {
    fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }
}

impl Bus for NatsBus {
    fn subscribe(&self, subject: &str) {
        let (client, events, of) = (self.client.clone(), self.events.clone(), subject.to_owned());
        // Before anything that is published next, wherever there is room for it.
        let begun = at_once(client.subscribe(of.clone()));
        let listening = spawn_local(async move {
            let subscriber = match begun {
                Some(subscriber) => subscriber,
                None => client.subscribe(of).await,
            };
            match subscriber {
                Ok(subscriber) => pass_on(subscriber, events).await,
                Err(error) => tracing::error!(%error, "a subject of the cluster cannot be listened to"),
            }
        });
        let listening = listening.abort_handle();
        if let Some(before) = self.listening.borrow_mut().insert(subject.to_owned(), listening) {
            before.abort();
        }
    }

    fn unsubscribe(&self, subject: &str) {
        if let Some(listening) = self.listening.borrow_mut().remove(subject) {
            listening.abort();
        }
    }

    fn publish(&self, subject: &str, reply: Option<&str>, payload: Vec<u8>) {
        // What waited for a connection would be old when it goes out.
        if !self.usable.get() {
            return;
        }
        let (subject, payload) = (subject.to_owned(), payload.into());
        let sent = match reply {
            Some(reply) => at_once(self.client.publish_with_reply(subject, reply.to_owned(), payload)),
            None => at_once(self.client.publish(subject, payload)),
        };
        match sent {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::debug!(%error, "a message of the cluster cannot be sent"),
            None => tracing::debug!("a message of the cluster was not sent: too many wait"),
        }
    }

    fn force_reconnect(&self) {
        // While it connects, another demand would only end the connection that comes of it.
        if self.is_connected() {
            let _ = at_once(self.client.force_reconnect());
        }
    }

    fn flushed(&self) -> Pin<Box<dyn Future<Output = ()>>> {
        let (client, connected) = (self.client.clone(), self.is_connected());
        Box::pin(async move {
            if connected {
                let _ = timeout(FLUSH_MAX, client.flush()).await;
            }
        })
    }
}

/// In place of one that cannot be set up.
struct NoBus;

impl Bus for NoBus {
    fn subscribe(&self, _: &str) {}

    fn unsubscribe(&self, _: &str) {}

    fn publish(&self, _: &str, _: Option<&str>, _: Vec<u8>) {}

    fn force_reconnect(&self) {}

    fn flushed(&self) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(std::future::ready(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_told_apart() {
        assert_eq!(version("2.9.10"), Some((2, 9, 10)));
        assert_eq!(version("2.12.0-beta.1"), Some((2, 12, 0)));
        let strange = ["", "2", "2.9", "x.y.z", "99999999999999999999999.1.1"];
        assert!(strange.iter().all(|text| version(text).is_none()));
        let mended = [(2, 12, 10), (2, 12, 11), (2, 14, 2), (2, 15, 0), (3, 0, 0)];
        assert!(mended.iter().all(|version| is_mended(*version)));
        assert!([(2, 9, 10), (2, 12, 9), (2, 13, 5), (2, 14, 1)].iter().all(|version| !is_mended(*version)));
    }

    #[test]
    fn waits_grow_to_a_bound_and_differ() {
        assert_eq!((reconnect_delay(0), reconnect_delay(1)), (Duration::ZERO, Duration::ZERO));
        let later: Vec<Duration> = (2..40).map(reconnect_delay).collect();
        let fits = |delay: &Duration| (Duration::from_millis(40)..Duration::from_millis(600)).contains(delay);
        assert!(later.iter().all(fits) && later[20] >= Duration::from_millis(400), "{later:?}");
    }

    #[test]
    fn a_seed_and_a_credentials_file_are_told_apart() {
        // Of the documents of NATS; nobody's.
        let seed = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
        let read = |text: &str| EngineCredentials::read(text);
        assert!(matches!(read(&format!("{seed}\n")), Ok(EngineCredentials::Seed(_))));
        let file = format!(
            "-----BEGIN NATS USER JWT-----\neyJ0.e30.x\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        assert!(matches!(read(&file), Ok(EngineCredentials::File(_))));
        assert!(read("").is_err() && read("hunter2").is_err());
    }
}
