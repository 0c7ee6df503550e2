//! The webhooks' thread: takes events from the signalling thread through a bounded channel, gives them to every hook,
//! and keeps up with the file of secrets.

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::Uri;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::sleep;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::client::Target;
use super::counts::{GivenUp, HookCounts};
use super::delivery::{Hook, WebhookTiming};
use super::queue::Parcel;
use super::secret::{Secrets, WebhookFault};
use crate::base::limits::{TLS_FILE_BYTES_MAX, WEBHOOK_EVENTS_ON_THE_WAY_MAX, WEBHOOK_PARALLEL_MAX};
use crate::server::clock;
use crate::server::watched::{self, Reload, Stamp};

/// How long the last events may take when the server ends.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Threads that wait for the names of hosts; one whose server does not answer takes long.
const NAME_THREADS: usize = 4;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WebhookSettings {
    pub urls: Vec<Uri>,
    pub secret: PathBuf,
    /// Certificates in PEM that hooks may show beside those that the system trusts.
    pub ca: Option<PathBuf>,
}

/// Settings that have been found to be usable.
pub struct Webhooks {
    targets: Vec<Target>,
    secret: PathBuf,
    secrets: Secrets,
    /// The state of the file that they were read from, or an older one.
    read: Stamp,
    timing: WebhookTiming,
}

impl Webhooks {
    /// Reads the files. Blocks on the disk.
    pub fn load(settings: WebhookSettings, timing: WebhookTiming) -> Result<Webhooks, WebhookFault> {
        let read = watched::stamp(std::slice::from_ref(&settings.secret));
        let secrets = Secrets::load(&settings.secret)?;
        let encrypted = settings.urls.iter().any(|uri| uri.scheme_str() == Some("https"));
        let tls = if encrypted { Some(trust(settings.ca.as_deref())?) } else { None };
        let target = |uri: Uri| {
            let tls = tls.clone().filter(|_| uri.scheme_str() == Some("https"));
            let port = uri.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            Target { uri, host, port, tls }
        };
        let targets = settings.urls.into_iter().map(target).collect();
        Ok(Webhooks { targets, secret: settings.secret, secrets, read, timing })
    }

    /// Starts the thread.
    pub(in crate::server) fn start(self, counts: Arc<HookCounts>, reload: Arc<Reload>) -> io::Result<Hooks> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(NAME_THREADS).build()?;
        let (sender, received) = mpsc::channel(WEBHOOK_EVENTS_ON_THE_WAY_MAX);
        let counted = counts.clone();
        let thread = std::thread::Builder::new().name("webhooks".into()).spawn(move || {
            LocalSet::new().block_on(&runtime, run(self, received, &reload, &counted));
            // A name server that does not answer is not waited for.
            runtime.shutdown_background();
        })?;
        Ok(Hooks { sender, thread, counts, last: rand::random::<u64>() >> 1 })
    }
}

/// What https hooks are trusted by.
fn trust(ca: Option<&Path>) -> Result<Arc<ClientConfig>, WebhookFault> {
    let mut roots = RootCertStore::empty();
    // What of the system's cannot be read is not trusted, and the hook's failures say so.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca {
        let fault = |why: &str| {
            let what = format!("the file {} of --webhook-ca {why}", path.display());
            WebhookFault::new(what, "give it the certificates of the authorities in PEM")
        };
        let pem = watched::read(path, TLS_FILE_BYTES_MAX).map_err(|why| fault(&why))?;
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        let certificates = certificates.map_err(|error| fault(&format!("is no PEM: {error}")))?;
        let given = certificates.len();
        let (taken, _) = roots.add_parsable_certificates(certificates);
        if taken == 0 || taken < given {
            return Err(fault("holds no certificate, or one that cannot be used"));
        }
    }
    if roots.is_empty() {
        let cure = "install the system's certificates (ca-certificates), or give the hook's with --webhook-ca";
        return Err(WebhookFault::new("no certificate is trusted, so that no https webhook can be reached", cure));
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_protocol_versions(&[&TLS13, &TLS12]);
    let builder = builder.map_err(|error| WebhookFault::new(error.to_string(), "report this"))?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The signalling thread's end.
pub(in crate::server) struct Hooks {
    sender: Sender<Parcel>,
    thread: JoinHandle<()>,
    counts: Arc<HookCounts>,
    /// The last number of an id, from a place that another process does not begin at.
    last: u64,
}

impl Hooks {
    /// For the signalling thread; the thread ends when it is dropped.
    pub(in crate::server) fn mouth(&self) -> HookMouth {
        HookMouth { sender: self.sender.clone(), counts: self.counts.clone(), last: std::cell::Cell::new(self.last) }
    }

    /// Ends the thread, once its mouth is gone.
    pub(in crate::server) fn join(self) -> std::thread::Result<()> {
        drop(self.sender);
        self.thread.join()
    }
}

/// Where events go in. Never waits.
pub(in crate::server) struct HookMouth {
    sender: Sender<Parcel>,
    counts: Arc<HookCounts>,
    last: std::cell::Cell<u64>,
}

impl HookMouth {
    pub(in crate::server) fn say(&self, channel: &Arc<str>, text: &Arc<str>) {
        self.last.set(self.last.get() + 1);
        let id = format!("msg_{:016x}", self.last.get()).into();
        let parcel = Parcel { id, channel: channel.clone(), text: text.clone(), made: clock::now() };
        if self.sender.try_send(parcel).is_err() {
            self.counts.given_up(GivenUp::QueueFull);
        }
    }
}

async fn run(webhooks: Webhooks, mut received: Receiver<Parcel>, reload: &Reload, counts: &Arc<HookCounts>) {
    let Webhooks { targets, secret, secrets, read, timing } = webhooks;
    let secrets = Rc::new(RefCell::new(secrets));
    let hook = |target| Rc::new(Hook::new(target, timing, secrets.clone(), counts.clone()));
    let hooks: Vec<Rc<Hook>> = targets.into_iter().map(hook).collect();
    for hook in &hooks {
        for _ in 0..WEBHOOK_PARALLEL_MAX {
            let hook = hook.clone();
            spawn_local(async move { hook.run().await });
        }
    }
    let taking = async {
        while let Some(parcel) = received.recv().await {
            hooks.iter().for_each(|hook| hook.push(parcel.clone()));
        }
    };
    tokio::select! {
        () = taking => {}
        () = keep_up(&secret, read, &secrets, reload) => {}
    }
    let mut left = LAST_WORDS;
    const LOOK: Duration = Duration::from_millis(10);
    while hooks.iter().any(|hook| hook.waiting() > 0) && !left.is_zero() {
        sleep(LOOK).await;
        left = left.saturating_sub(LOOK);
    }
    for hook in &hooks {
        (0..hook.waiting()).for_each(|_| hook.lost(GivenUp::Stopped));
    }
}

/// Keeps up with the file of secrets, for ever. One that cannot be used changes nothing.
async fn keep_up(path: &Path, read: Stamp, secrets: &RefCell<Secrets>, reload: &Reload) {
    let again = async || {
        let file = path.to_owned();
        match watched::blocking(move || Secrets::load(&file)).await {
            Some(Ok(read)) => {
                secrets.replace(read);
                tracing::info!("webhooks are signed with the secrets that were just read");
            }
            Some(Err(WebhookFault { what, cure })) => tracing::warn!(cure, "the secrets in use stay: {what}"),
            None => tracing::warn!("the webhooks' secrets in use stay: reading the file panicked"),
        }
    };
    watched::keep_up(vec![path.to_owned()], read, &reload.webhook_secrets, again).await;
}
