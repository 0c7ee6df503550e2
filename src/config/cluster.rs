//! The settings of a cluster: where its engine is, what its nodes have in common, and what this one is called.

use std::path::PathBuf;

use clap::Args;
use hyper::Uri;

use super::error::ConfigError;
use super::source::{Given, SettingSources};
use crate::base::limits::{NODE_NAME_BYTES_MAX, NODE_URL_BYTES_MAX};
use crate::base::secret::Secret;
use crate::signal::cluster::is_cluster_name;

/// Servers of one engine; they tell of others by themselves.
const URLS_MAX: usize = 16;
const PORT: u16 = 4_222;

#[derive(Args, Debug)]
pub(super) struct ClusterFlags {
    /// NATS server by which this server is one of several that share channels, as nats://10.0.0.2:4222 or tls://HOST;
    /// repeatable, for the servers of one engine. unix:/PATH: for processes of one machine, without an engine
    /// [default: none]
    #[arg(long, value_name = "URL", env = "WEIRGATE_CLUSTER", hide_env_values = true, value_delimiter = ',')]
    cluster: Vec<String>,

    /// Credentials file for --cluster, or the seed of an nkey [default: none]
    #[arg(long, value_name = "FILE", env = "WEIRGATE_CLUSTER_CREDS", hide_env_values = true)]
    cluster_creds: Option<String>,

    /// Certificates in PEM that a tls:// --cluster may show in place of those that the system trusts [default: none]
    #[arg(long, value_name = "FILE", env = "WEIRGATE_CLUSTER_CA", hide_env_values = true)]
    cluster_ca: Option<String>,

    /// What the nodes of --cluster seal their messages with; weirgate cluster-key writes one. Read again when it changes,
    /// and on SIGHUP [default: none]
    #[arg(long, value_name = "FILE", env = "WEIRGATE_CLUSTER_KEY", hide_env_values = true)]
    cluster_key: Option<String>,

    /// Which of the clusters of one engine this is [default: default]
    #[arg(long, value_name = "NAME", env = "WEIRGATE_CLUSTER_NAME", hide_env_values = true)]
    cluster_name: Option<String>,

    /// How this node of the cluster is shown [default: the host's name]
    #[arg(long, value_name = "NAME", env = "WEIRGATE_NODE_NAME", hide_env_values = true)]
    node_name: Option<String>,

    /// Where this node of the cluster is, as eu or us-east [default: -]
    #[arg(long, value_name = "NAME", env = "WEIRGATE_REGION", hide_env_values = true)]
    region: Option<String>,

    /// Where clients reach this node alone, as wss://sfu-7.example [default: none]
    #[arg(long, value_name = "URL", env = "WEIRGATE_PUBLIC_URL", hide_env_values = true)]
    public_url: Option<String>,
}

/// What nodes speak over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClusterEngine {
    /// At least one, without a user.
    Urls {
        urls: Vec<String>,
        user: Option<(String, Secret)>,
    },
    Socket(PathBuf),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterConfig {
    pub engine: ClusterEngine,
    pub creds: Option<PathBuf>,
    pub ca: Option<PathBuf>,
    pub key: PathBuf,
    pub name: String,
    /// None: the host's.
    pub node_name: Option<String>,
    pub region: String,
    pub public_url: Option<String>,
}

type Parsed<T> = Result<T, (String, String)>;

fn wrong<T>(why: &str, right: &str) -> Parsed<T> {
    Err((why.to_owned(), right.to_owned()))
}

/// One server, and who this one is to it.
struct EngineUrl {
    url: String,
    user: Option<(String, Secret)>,
}

fn engine_url(text: &str) -> Parsed<EngineUrl> {
    const RIGHT: &str =
        "nats://HOST:4222 or tls://HOST:4222, with USER:PASSWORD@ in front of the host where it asks for one";
    let Ok(uri) = text.parse::<Uri>() else { return wrong("it is no URL", RIGHT) };
    let (Some(scheme @ ("nats" | "tls")), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return wrong("its scheme is neither nats nor tls, or it has no host", RIGHT);
    };
    if authority.host().is_empty() || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return wrong("it has no host, or more than one", RIGHT);
    }
    let url = format!("{scheme}://{}:{}", authority.host(), authority.port_u16().unwrap_or(PORT));
    let user = match authority.as_str().rsplit_once('@') {
        None => None,
        Some((user, _)) => match user.split_once(':') {
            Some((user, password)) if !user.is_empty() => Some((user.to_owned(), Secret::new(password))),
            _ => return wrong("its user has no password", RIGHT),
        },
    };
    Ok(EngineUrl { url, user })
}

fn cluster_name(text: &str) -> Parsed<String> {
    if is_cluster_name(text) {
        Ok(text.to_owned())
    } else {
        wrong("it is no name", "up to 32 letters, digits, - and _")
    }
}

fn node_name(text: &str) -> Parsed<String> {
    let fine = (1..=NODE_NAME_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
    if fine { Ok(text.to_owned()) } else { wrong("it is no name", "1 to 64 bytes that can be shown, as sfu-7") }
}

fn public_url(text: &str) -> Parsed<String> {
    const RIGHT: &str = "ws://, wss://, http:// or https:// and a host, as wss://sfu-7.example";
    let uri = text.parse::<Uri>().ok().filter(|_| text.len() <= NODE_URL_BYTES_MAX);
    let fine = uri.is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("ws" | "wss" | "http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
    });
    if fine { Ok(text.to_owned()) } else { wrong("it is no URL that a client could open", RIGHT) }
}

impl SettingSources<'_> {
    fn at_most_one<T>(
        &self,
        key: &str,
        parse: impl FnOnce(&str) -> Parsed<T>,
    ) -> Result<Option<(Given, T)>, ConfigError> {
        let mut given = self.many(key, &[])?;
        let Some(single) = given.pop() else { return Ok(None) };
        if !given.is_empty() {
            return Err(single.wrong("this setting takes one value, here is a list", "one value"));
        }
        let value = single.parse_with(parse)?;
        Ok(Some((single, value)))
    }

    fn engine(&self, given: &[Given]) -> Result<Option<ClusterEngine>, ConfigError> {
        let Some(first) = given.first() else { return Ok(None) };
        let socket = |text: &str| Ok(text.strip_prefix("unix:").map(str::to_owned));
        if let Some(path) = first.parse_with(socket)? {
            if !path.starts_with('/') || given.len() > 1 {
                return Err(
                    first.wrong("a socket has one path from the root", "unix:/run/weirgate/bus, and nothing else")
                );
            }
            return Ok(Some(ClusterEngine::Socket(path.into())));
        }
        let mut all = Vec::new();
        for given in given {
            let EngineUrl { url, user } = given.parse_with(engine_url)?;
            if all.len() == URLS_MAX {
                return Err(given.wrong("there are too many", &format!("at most {URLS_MAX} servers")));
            }
            all.push((given, url, user));
        }
        let user = all.iter().find_map(|(_, _, user)| user.clone());
        if let Some((other, ..)) = all.iter().find(|(_, _, own)| own.is_some() && *own != user) {
            return Err(
                other.wrong("another server is given with another user", "one user for all servers of the engine")
            );
        }
        Ok(Some(ClusterEngine::Urls { urls: all.into_iter().map(|(_, url, _)| url).collect(), user }))
    }

    pub(super) fn cluster(&self) -> Result<Option<ClusterConfig>, ConfigError> {
        let given = self.many("cluster", &[])?;
        let (creds, ca, key) = (self.path("cluster-creds")?, self.path("cluster-ca")?, self.path("cluster-key")?);
        let name = self.at_most_one("cluster-name", cluster_name)?;
        let node_name = self.at_most_one("node-name", node_name)?;
        let region = self.at_most_one("region", self::node_name)?;
        let public_url = self.at_most_one("public-url", public_url)?;
        let Some(engine) = self.engine(&given)? else {
            let files = [creds, ca, key].into_iter().flatten().map(|(given, _)| given);
            let names = [name, node_name, region, public_url].into_iter().flatten().map(|(given, _)| given);
            let stray = files.chain(names).next();
            return stray.map_or(Ok(None), |stray| Err(stray.wrong("there is no cluster", "--cluster URL as well")));
        };
        let Some((_, key)) = key else {
            return Err(given[0].wrong(
                "nothing would keep strangers out",
                "--cluster-key FILE as well, the same for each node; weirgate cluster-key writes one",
            ));
        };
        match (&engine, &creds, &ca) {
            (ClusterEngine::Socket(_), Some((given, _)), _) | (ClusterEngine::Socket(_), _, Some((given, _))) => {
                return Err(given.wrong("a socket of this machine asks for none", "--cluster unix:/PATH without it"));
            }
            (ClusterEngine::Urls { user: Some(_), .. }, Some((given, _)), _) => {
                return Err(given.wrong("the URL has a user already", "one of the two"));
            }
            _ => {}
        }
        Ok(Some(ClusterConfig {
            engine,
            creds: creds.map(|(_, path)| path),
            ca: ca.map(|(_, path)| path),
            key,
            name: name.map_or_else(|| "default".to_owned(), |(_, name)| name),
            node_name: node_name.map(|(_, name)| name),
            region: region.map_or_else(|| "-".to_owned(), |(_, region)| region),
            public_url: public_url.map(|(_, url)| url),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_has_a_scheme_a_host_and_maybe_a_user() {
        let read = |text: &str| engine_url(text).map(|engine| (engine.url, engine.user));
        assert_eq!(read("nats://10.0.0.2"), Ok(("nats://10.0.0.2:4222".to_owned(), None)));
        assert_eq!(read("tls://nats.example:7/"), Ok(("tls://nats.example:7".to_owned(), None)));
        let user = Some(("sfu".to_owned(), Secret::new("a:b")));
        assert_eq!(read("nats://sfu:a:b@[::1]:4222"), Ok(("nats://[::1]:4222".to_owned(), user)));
        let bad = [
            "",
            "10.0.0.2:4222",
            "nats://",
            "http://a",
            "ws://a",
            "nats://a/b",
            "nats://a?b",
            "nats://u@a",
            "nats://:p@a",
        ];
        assert!(bad.iter().all(|text| read(text).is_err()));
    }

    #[test]
    fn names_and_urls_are_held_to_their_forms() {
        assert!(cluster_name("prod-1").is_ok() && cluster_name("a.b").is_err());
        assert!(node_name("sfu 7").is_ok() && node_name("").is_err() && node_name(&"a".repeat(65)).is_err());
        assert!(["wss://a.example", "http://10.0.0.1:8080/x"].iter().all(|url| public_url(url).is_ok()));
        assert!(["", "a.example", "ftp://a", "wss://"].iter().all(|url| public_url(url).is_err()));
    }
}
