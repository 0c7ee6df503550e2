//! What `--cluster` brings to the server: the key file and what keeps up with it, the way to the engine, and the tasks that
//! join the bus with the hub. Without it nothing of this is there.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::Receiver;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::bus::{self, BusWay, EngineCredentials, EngineSettings};
use super::control::Control;
use super::watched::{self, Reload, Stamp};
use crate::base::limits::{CLUSTER_KEY_FILE_BYTES_MAX, TLS_FILE_BYTES_MAX};
use crate::base::node_id::NodeId;
use crate::signal::cluster::{BusEvent, ClusterKeys, ClusterNode, ClusterSettings, NodeProfile, NodeState};

/// What is wrong with a file of the cluster, and what to do about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterFault {
    pub what: String,
    pub cure: String,
}

/// Where the engine is, as it was set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EngineAt {
    /// Without users.
    Urls(Vec<String>),
    Socket(PathBuf),
}

/// The settings of a cluster, before its files are read.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    pub engine: EngineAt,
    /// User and password, out of the URL.
    pub user: Option<EngineCredentials>,
    /// A credentials file, or the seed of an nkey.
    pub credentials: Option<PathBuf>,
    pub ca: Option<PathBuf>,
    pub key: PathBuf,
    pub cluster: String,
    pub profile: NodeProfile,
    /// Drawn at this start.
    pub node: NodeId,
}

/// Settings that have been found to be usable.
pub struct Clustering {
    way: BusWay,
    settings: ClusterSettings,
    key: PathBuf,
    /// The state of the file that the keys were read from, or an older one.
    read: Stamp,
}

/// What a start shows of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterGreeting {
    /// With this one.
    pub nodes: usize,
    /// None: the bus does not work yet.
    pub engine: Option<String>,
}

fn keys(path: &Path) -> Result<ClusterKeys, ClusterFault> {
    let fault = |why: String| ClusterFault {
        what: format!("the file {} of --cluster-key {why}", path.display()),
        cure: "have `weirgate cluster-key` write it, and give every node of the cluster the same".to_owned(),
    };
    let bytes = watched::read(path, CLUSTER_KEY_FILE_BYTES_MAX).map_err(fault)?;
    let text = String::from_utf8(bytes).map_err(|_| fault("is no text".to_owned()))?;
    ClusterKeys::parse(&text).map_err(|why| fault(why.to_string()))
}

fn credentials(path: &Path) -> Result<EngineCredentials, ClusterFault> {
    let fault = |why: String| ClusterFault {
        what: format!("the file {} of --cluster-creds {why}", path.display()),
        cure: "give it the credentials file of a user of the engine, or the seed of its nkey".to_owned(),
    };
    let bytes = watched::read(path, TLS_FILE_BYTES_MAX).map_err(fault)?;
    EngineCredentials::read(&String::from_utf8_lossy(&bytes)).map_err(fault)
}

fn authorities(path: &Path) -> Result<(), ClusterFault> {
    let fault = |why: &str| ClusterFault {
        what: format!("the file {} of --cluster-ca {why}", path.display()),
        cure: "give it the certificate of the engine's authority in PEM".to_owned(),
    };
    let pem = watched::read(path, TLS_FILE_BYTES_MAX).map_err(|why| fault(&why))?;
    let holds = String::from_utf8_lossy(&pem).contains("BEGIN CERTIFICATE");
    if holds { Ok(()) } else { Err(fault("holds no certificate in PEM")) }
}

impl Clustering {
    /// Reads the files. Blocks on the disk.
    pub fn load(options: ClusterOptions) -> Result<Clustering, ClusterFault> {
        let ClusterOptions { engine, user, credentials: file, ca, key, cluster, profile, node } = options;
        let read = watched::stamp(std::slice::from_ref(&key));
        let keys = keys(&key)?;
        let way = match engine {
            EngineAt::Socket(path) => BusWay::Unix(path),
            EngineAt::Urls(urls) => {
                ca.as_deref().map_or(Ok(()), authorities)?;
                let credentials = file.as_deref().map(credentials).transpose()?.or(user);
                BusWay::Engine(EngineSettings { urls, credentials, ca, name: profile.name.clone() })
            }
        };
        let settings = ClusterSettings { node, cluster, keys, profile };
        Ok(Clustering { way, settings, key, read })
    }

    /// Joins the cluster, on the signalling thread's runtime. Gives the bus for what the hub wants of it, and the work that
    /// goes on from there.
    pub(super) async fn begin(self, control: &mut Control, reload: Arc<Reload>) -> ClusterWork {
        let Clustering { way, settings, key, read } = self;
        let (bus, events) = bus::open(way, settings.node).await;
        control.join_cluster(settings, bus);
        ClusterWork { events, key, read, reload }
    }
}

/// What a node of a cluster does beside serving.
pub(super) struct ClusterWork {
    events: Receiver<BusEvent>,
    key: PathBuf,
    read: Stamp,
    reload: Arc<Reload>,
}

/// How often a start looks whether the cluster is there.
const LOOK_EVERY: Duration = Duration::from_millis(20);

impl ClusterWork {
    /// `greeting`: told once, when the start of this node has ended.
    pub(super) fn start(self, control: &Rc<Control>, greeting: oneshot::Sender<ClusterGreeting>) {
        let ClusterWork { mut events, key, read, reload } = self;
        let waits = control.clone();
        tokio::task::spawn_local(async move {
            while waits.in_cluster(|node| node.state() == NodeState::Starting) == Some(true) && !greeting.is_closed() {
                sleep(LOOK_EVERY).await;
            }
            let greet = |node: &ClusterNode| ClusterGreeting {
                nodes: node.others().count() + 1,
                engine: node.engine().map(str::to_owned),
            };
            if let Some(greets) = waits.in_cluster(greet) {
                // Nobody may wait for it any more.
                let _ = greeting.send(greets);
            }
        });
        let hears = control.clone();
        tokio::task::spawn_local(async move {
            while let Some(event) = events.recv().await {
                hears.handle_bus(event);
            }
        });
        let control = control.clone();
        tokio::task::spawn_local(async move {
            let again = async || match watched::blocking({
                let key = key.clone();
                move || keys(&key)
            })
            .await
            {
                Some(Ok(keys)) => control.use_cluster_keys(keys),
                Some(Err(ClusterFault { what, cure })) => tracing::warn!(cure, "the cluster keys in use stay: {what}"),
                None => tracing::warn!("the cluster keys in use stay: reading the file panicked"),
            };
            watched::keep_up(vec![key.clone()], read, &reload.cluster_keys, again).await;
        });
    }
}
