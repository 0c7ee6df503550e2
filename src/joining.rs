//! What a start does for `--cluster`: reads its files, draws the node's id, and says in the start text what came of it.

use weirgate::base::node_id::NodeId;
use weirgate::config::{ClusterConfig, ClusterEngine, Config};
use weirgate::server::{ClusterFault, ClusterGreeting, ClusterOptions, Clustering, EngineAt, EngineCredentials};
use weirgate::signal::cluster::{NodeProfile, Speaks};

use crate::machine::Finding;

/// As the kernel knows it; empty where it does not tell.
pub(crate) fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

fn node_name(cluster: &ClusterConfig) -> String {
    let host = || Some(host_name()).filter(|name| !name.is_empty()).unwrap_or_else(|| "node".to_owned());
    cluster.node_name.clone().unwrap_or_else(host)
}

/// None: this server is alone.
pub(crate) fn clustering(config: &Config) -> Result<Option<Clustering>, Finding> {
    let Some(cluster) = &config.cluster else { return Ok(None) };
    let (engine, user) = match cluster.engine.clone() {
        ClusterEngine::Urls { urls, user } => (EngineAt::Urls(urls), user),
        ClusterEngine::Socket(path) => (EngineAt::Socket(path), None),
    };
    let options = ClusterOptions {
        engine,
        user: user.map(|(user, password)| EngineCredentials::Password { user, password }),
        credentials: cluster.creds.clone(),
        ca: cluster.ca.clone(),
        key: cluster.key.clone(),
        cluster: cluster.name.clone(),
        profile: NodeProfile {
            name: node_name(cluster),
            region: cluster.region.clone(),
            url: cluster.public_url.clone(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
            shards: config.cores.len() as u64,
            speaks: Speaks::ours(),
        },
        node: NodeId(rand::random()),
    };
    let fatal = |ClusterFault { what, cure }| Finding { fatal: true, what, cure: Some(cure) };
    Clustering::load(options).map(Some).map_err(fatal)
}

/// For the start text; None: this server is alone. An engine that cannot be reached is warned of.
pub(crate) fn greeting_line(config: &Config, greeting: Option<ClusterGreeting>) -> Option<String> {
    let cluster = config.cluster.as_ref()?;
    let who = format!("{}, node {}", cluster.name, node_name(cluster));
    let reached = greeting.and_then(|greeting| Some((greeting.nodes, greeting.engine?)));
    Some(match reached {
        Some((1, engine)) => format!("  cluster     {who}, 1 node, engine {engine}"),
        Some((nodes, engine)) => format!("  cluster     {who}, {nodes} nodes, engine {engine}"),
        None => {
            let engine = match &cluster.engine {
                ClusterEngine::Urls { urls, .. } => urls.join(","),
                ClusterEngine::Socket(path) => format!("unix:{}", path.display()),
            };
            tracing::warn!(
                cure = "start it, or look at the address, the firewall and its log",
                "the engine {engine} of --cluster does not answer: this node serves alone, and tries it again"
            );
            format!("  cluster     {who}, alone, engine {engine} does not answer yet")
        }
    })
}
