//! The configuration: flags, environment and a TOML file, read once into values that are all valid. Flag beats
//! environment beats file beats default. `main` calls [`Config::load`]; nothing here opens a socket or asks the machine
//! anything: the existing cpus and addresses are passed in.

mod cluster;
mod error;
mod hooks;
mod source;
mod value;
mod variables;

pub use cluster::{ClusterConfig, ClusterEngine};
pub use error::ConfigError;
pub use hooks::HookConfig;
pub use value::{LogFilter, LogFormat};
pub use variables::unknown_variables;

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{CommandFactory, FromArgMatches, Parser};

use crate::base::limits::{ACME_DOMAINS_MAX, ICE_SERVERS_MAX, LOCAL_ADDRESSES_MAX};
use crate::base::time::Duration;
use crate::net::udp::addresses::Exclusion;
use crate::net::{IoMode, SteeringMode};
use crate::signal::{ChannelSpread, IceServerUrl, LastN, Origins, Quotas, SameUser};
use source::{Given, SettingSources};

/// Let's Encrypt's, of which every browser trusts the root.
const ACME_DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";

const USAGE: &str = "weirgate [OPTIONS]
       weirgate check [OPTIONS]
       weirgate token [OPTIONS]
       weirgate cluster-key [OPTIONS]
       weirgate load [OPTIONS]";

const EXAMPLES: &str = "\
Each setting can also come from the environment variable beside it, or from the file that --config
names, under the flag's name. A flag beats the environment, the environment beats the file.

Examples:
  weirgate
      every core, HTTP on port 4443, media on UDP port 40000 of every IPv4 address
  weirgate --listen 127.0.0.1:8080 --rtc-listen 127.0.0.1:40000
      for this machine only
  weirgate --announce 203.0.113.7
      behind a NAT that forwards UDP port 40000 of 203.0.113.7 to this machine
  weirgate --rtc-listen 0.0.0.0:3478 --rtc-listen [::]:3478
      media on UDP port 3478, over IPv4 and IPv6
  weirgate --cores 2-7 --log debug
      six shards, on cpus 2 to 7
  weirgate --allow-origin https://meet.example
      pages of that site may open a WebSocket, too
  weirgate --tls-cert fullchain.pem --tls-key privkey.pem
      https and wss on port 4443
  weirgate --listen 0.0.0.0:443 --acme-domain meet.example
      the same on port 443, with a certificate that it gets and renews by itself
  weirgate --tls self-signed
      https and wss in a LAN, where browsers warn of the certificate once
  weirgate --auth token --auth-key secret.txt
      nobody comes in without a token; weirgate token makes one for trying
  weirgate --cluster nats://10.0.0.2:4222 --cluster-key cluster.key
      one of several servers
  WEIRGATE_CORES=4 weirgate --config /etc/weirgate.toml
      four shards, the rest as the file says
  weirgate check --cores 2-7
      only looks whether the machine can run this, and says what is in the way
  weirgate load --help
      another program in this one: puts load on a server, and measures it

Sockets that a service manager passes, named http, admin and udp, are used in place of --listen,
--admin-listen and --rtc-listen.

Exit code: 0 after SIGTERM or Ctrl-C, and when a check finds no error, 1 when the machine refuses something, 2 when a setting is wrong.";

/// Weirgate, a selective forwarding unit for WebRTC: browsers that use mediasoup-client join a channel over one
/// WebSocket and send and receive audio and video through one UDP port.
#[derive(Parser, Debug)]
#[command(name = "weirgate", version, override_usage = USAGE, after_help = EXAMPLES, max_term_width = 110)]
struct Flags {
    /// Where HTTP, WebSocket and the console listen [default: 0.0.0.0:4443]
    #[arg(long, value_name = "IP:PORT", env = "WEIRGATE_LISTEN", hide_env_values = true)]
    listen: Option<String>,

    /// self-signed: --listen speaks TLS with a certificate that is made at the start, which browsers warn of, for a LAN;
    /// off: without one of --tls-cert it is plain HTTP [default: off]
    #[arg(long, value_name = "WAY", env = "WEIRGATE_TLS", hide_env_values = true)]
    tls: Option<String>,

    /// Certificate of --listen in PEM, with its intermediates: it speaks TLS then, and nothing else. Read again when it
    /// changes, and on SIGHUP [default: none]
    #[arg(long, value_name = "FILE", env = "WEIRGATE_TLS_CERT", hide_env_values = true)]
    tls_cert: Option<String>,

    /// The private key of --tls-cert in PEM: PKCS#8, SEC1 or PKCS#1 [default: none]
    #[arg(long, value_name = "FILE", env = "WEIRGATE_TLS_KEY", hide_env_values = true)]
    tls_key: Option<String>,

    /// Name for which --listen gets its certificate by itself, over ACME (RFC 8555); repeatable. TCP port 443 of the name
    /// has to come to --listen [default: none]
    #[arg(long, value_name = "NAME", env = "WEIRGATE_ACME_DOMAIN", hide_env_values = true, value_delimiter = ',')]
    acme_domain: Vec<String>,

    /// Mail address that the authority may write to, about certificates that end [default: none]
    #[arg(long, value_name = "MAIL", env = "WEIRGATE_ACME_CONTACT", hide_env_values = true)]
    acme_contact: Option<String>,

    /// Where account and certificate are kept [default: the folder acme in systemd's StateDirectory, else in the working
    /// directory]
    #[arg(long, value_name = "FOLDER", env = "WEIRGATE_ACME_DIR", hide_env_values = true)]
    acme_dir: Option<String>,

    /// The authority's directory [default: Let's Encrypt's]
    #[arg(long, value_name = "URL", env = "WEIRGATE_ACME_DIRECTORY", hide_env_values = true)]
    acme_directory: Option<String>,

    /// Root, in PEM, that the authority's own TLS is checked with, for a private one [default: the system's]
    #[arg(long, value_name = "FILE", env = "WEIRGATE_ACME_CA", hide_env_values = true)]
    acme_ca: Option<String>,

    /// Who may open a WebSocket: none (whoever gives a name), token (who brings one that a key of --auth-key has signed)
    /// [default: none]
    #[arg(long, value_name = "WAY", env = "WEIRGATE_AUTH", hide_env_values = true)]
    auth: Option<String>,

    /// Key for --auth token, repeatable: a secret of at least 32 bytes, a public key in PEM (RSA, Ed25519), or a JWKS.
    /// Read again when it changes, and on SIGHUP [default: none]
    #[arg(long, value_name = "FILE", env = "WEIRGATE_AUTH_KEY", hide_env_values = true, value_delimiter = ',')]
    auth_key: Vec<String>,

    /// By which the clocks of who makes tokens and of this machine may differ [default: 5s]
    #[arg(long, value_name = "TIME", env = "WEIRGATE_AUTH_LEEWAY", hide_env_values = true)]
    auth_leeway: Option<String>,

    /// Where machines of the operator ask: /metrics and the admin API; off: nowhere. Who reaches it rules this server
    /// [default: 127.0.0.1:4444]
    #[arg(long, value_name = "IP:PORT", env = "WEIRGATE_ADMIN_LISTEN", hide_env_values = true)]
    admin_listen: Option<String>,

    /// Host name under which --admin-listen answers for the admin API, beside addresses and localhost; repeatable
    /// [default: none]
    #[arg(long, value_name = "NAME", env = "WEIRGATE_ADMIN_HOST", hide_env_values = true, value_delimiter = ',')]
    admin_host: Vec<String>,

    /// Server that is told what happens in channels, as https://hooks.example/weirgate; repeatable [default: none]
    #[arg(long, value_name = "URL", env = "WEIRGATE_WEBHOOK", hide_env_values = true, value_delimiter = ',')]
    webhook: Vec<String>,

    /// The secrets that sign what --webhook is told, one a line, as whsec_BASE64. Read again when it changes, and on
    /// SIGHUP [default: none]
    #[arg(long, value_name = "FILE", env = "WEIRGATE_WEBHOOK_SECRET", hide_env_values = true)]
    webhook_secret: Option<String>,

    /// Certificates in PEM that an https --webhook may show beside those that the system trusts [default: none]
    #[arg(long, value_name = "FILE", env = "WEIRGATE_WEBHOOK_CA", hide_env_values = true)]
    webhook_ca: Option<String>,

    /// Pages that may open a WebSocket beside the server's own and those of this machine, as https://meet.example;
    /// repeatable. *: any page [default: none]
    #[arg(long, value_name = "ORIGIN", env = "WEIRGATE_ALLOW_ORIGIN", hide_env_values = true, value_delimiter = ',')]
    allow_origin: Vec<String>,

    /// UDP address for media; repeatable. 0.0.0.0 and [::] stand for every IPv4 or IPv6 address of the machine
    /// [default: 0.0.0.0:40000]
    #[arg(long, value_name = "IP:PORT", env = "WEIRGATE_RTC_LISTEN", hide_env_values = true, value_delimiter = ',')]
    rtc_listen: Vec<String>,

    /// Interface (docker0, br-*) or range of addresses (10.0.0.0/8) that 0.0.0.0 and [::] do not stand for;
    /// repeatable
    #[arg(long, value_name = "WHAT", env = "WEIRGATE_RTC_EXCLUDE", hide_env_values = true, value_delimiter = ',')]
    rtc_exclude: Vec<String>,

    /// Address that clients are told instead of the machine's own of the same family; repeatable. For servers
    /// behind NAT
    #[arg(long, value_name = "IP", env = "WEIRGATE_ANNOUNCE", hide_env_values = true, value_delimiter = ',')]
    announce: Vec<String>,

    /// STUN or TURN server that clients are told of, as turn:turn.example.org:443?transport=tcp; repeatable. For clients
    /// whose network lets no UDP through [default: none]
    #[arg(long, value_name = "URL", env = "WEIRGATE_ICE_SERVER", hide_env_values = true, value_delimiter = ',')]
    ice_server: Vec<String>,

    /// The secret that TURN servers share with this one (coturn's static-auth-secret): clients are given credentials
    /// that end by themselves [default: none]
    #[arg(long, value_name = "FILE", env = "WEIRGATE_ICE_SERVER_SECRET", hide_env_values = true)]
    ice_server_secret: Option<String>,

    /// How long a client's credentials for TURN hold, as 30m or 12h [default: 12h]
    #[arg(long, value_name = "TIME", env = "WEIRGATE_ICE_SERVER_LIFETIME", hide_env_values = true)]
    ice_server_lifetime: Option<String>,

    /// Cpus to run on, one shard each: how many (4), which (0,2,4-7; one cpu: 3-3), or all [default: all]
    #[arg(long, value_name = "COUNT|LIST", env = "WEIRGATE_CORES", hide_env_values = true)]
    cores: Option<String>,

    /// How a datagram finds its shard: bpf (a kernel program; needs CAP_BPF), handover (from shard to shard),
    /// port-per-core (each shard a port of its own), auto (bpf where allowed, else handover) [default: auto]
    #[arg(long, value_name = "WAY", env = "WEIRGATE_STEERING", hide_env_values = true)]
    steering: Option<String>,

    /// How shards read and write their sockets: ring (io_uring; plain where the machine forbids it), plain (recvmmsg and
    /// sendmmsg), auto (what measures best: plain) [default: auto]
    #[arg(long, value_name = "WAY", env = "WEIRGATE_IO", hide_env_values = true)]
    io: Option<String>,

    /// Peers of one channel: auto keeps them on one core until it is busy, always gives each to the least busy core
    /// (for few, large channels) [default: auto]
    #[arg(long, value_name = "WHEN", env = "WEIRGATE_SPREAD", hide_env_values = true)]
    spread: Option<String>,

    /// The most that a packet waits for others while its core is busy, to leave in one send with them: 500us, 2ms; 0
    /// never waits [default: 2ms]
    #[arg(long, value_name = "TIME", env = "WEIRGATE_COALESCE_MAX", hide_env_values = true)]
    coalesce_max: Option<String>,

    /// Audio of a channel that is forwarded: off (all of it), a number (that many producers, the loudest), peers (all
    /// of it, until a peer of the channel asks for a number) [default: off]
    #[arg(long, value_name = "N", env = "WEIRGATE_LAST_N", hide_env_values = true)]
    last_n: Option<String>,

    /// WebSockets that one address may have open, an IPv6 one with all of its /64; 0 sets no bound. Loopback has none:
    /// a proxy stands there [default: 1000]
    #[arg(long, value_name = "N", env = "WEIRGATE_SOCKETS_PER_ADDRESS", hide_env_values = true)]
    sockets_per_address: Option<String>,

    /// WebSockets that one user (auth) at one address may have open; 0 sets no bound [default: 100]
    #[arg(long, value_name = "N", env = "WEIRGATE_SOCKETS_PER_USER", hide_env_values = true)]
    sockets_per_user: Option<String>,

    /// How long a peer with a resume token outlives its socket: 15s, 500ms, up to 10min; 0: no peer does [default: 15s]
    #[arg(long, value_name = "TIME", env = "WEIRGATE_RESUME_GRACE", hide_env_values = true)]
    resume_grace: Option<String>,

    /// A user who joins a channel that it is in: keep (both peers are there) or replace (the old one ends; only where
    /// names are proved) [default: keep]
    #[arg(long, value_name = "WHAT", env = "WEIRGATE_SAME_USER", hide_env_values = true)]
    same_user: Option<String>,

    #[command(flatten)]
    cluster: cluster::ClusterFlags,

    /// error, warn, info, debug or trace; or per module, as in warn,weirgate::signal=debug [default: info]
    #[arg(long, value_name = "LEVEL", env = "WEIRGATE_LOG", hide_env_values = true)]
    log: Option<String>,

    /// Of the log: text, or json, an object on each line [default: text]
    #[arg(long, value_name = "FORMAT", env = "WEIRGATE_LOG_FORMAT", hide_env_values = true)]
    log_format: Option<String>,

    /// Whether the log names the addresses of clients: on or off [default: on]
    #[arg(long, value_name = "ON|OFF", env = "WEIRGATE_LOG_ADDRESSES", hide_env_values = true)]
    log_addresses: Option<String>,

    /// TOML file with these settings; its keys are named like the flags
    #[arg(long, value_name = "FILE", env = "WEIRGATE_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
}

/// Where the public listener's certificate comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TlsSource {
    /// It speaks plain HTTP.
    Off,
    Files {
        certificate: PathBuf,
        key: PathBuf,
    },
    /// Made at the start.
    SelfSigned,
    Acme(AcmeSource),
}

/// How a certificate is obtained.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AcmeSource {
    /// In lower case, no two alike, at least one.
    pub domains: Vec<String>,
    pub contact: Option<String>,
    /// None: where the program's state is.
    pub folder: Option<PathBuf>,
    /// An https URL.
    pub directory: String,
    /// None: the system's roots.
    pub roots: Option<PathBuf>,
}

/// Where the keys of tokens come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenAuth {
    /// At least one.
    pub keys: Vec<PathBuf>,
    pub leeway: Duration,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    pub listen: SocketAddr,
    /// None: whoever gives a name may come in.
    pub auth: Option<TokenAuth>,
    pub tls: TlsSource,
    /// None: there is no such listener.
    pub admin_listen: Option<SocketAddr>,
    /// In small letters.
    pub admin_hosts: Vec<String>,
    pub webhooks: Option<HookConfig>,
    pub origins: Origins,
    /// As given: may hold wildcards, which [`crate::net::udp::addresses::expand`] replaces. No two alike, no port 0.
    pub rtc_listen: Vec<SocketAddr>,
    /// The exclusions from its wildcards.
    pub rtc_exclude: Vec<Exclusion>,
    /// Each has an rtc address of its family.
    pub announce: Vec<IpAddr>,
    pub ice_servers: Vec<IceServerUrl>,
    /// There is one where a TURN server is among them.
    pub ice_server_secret: Option<PathBuf>,
    pub ice_server_lifetime: Duration,
    /// One shard each; allowed to this process, no two alike, at least one.
    pub cores: Vec<usize>,
    pub steering: SteeringMode,
    pub io: IoMode,
    pub spread: ChannelSpread,
    pub coalesce_max: Duration,
    pub last_n: LastN,
    pub quotas: Quotas,
    pub resume_grace: Duration,
    pub same_user: SameUser,
    /// None: this server is alone.
    pub cluster: Option<ClusterConfig>,
    pub log: LogFilter,
    pub log_format: LogFormat,
    pub log_addresses: bool,
}

/// The action that the command line asks for.
#[derive(Debug)]
pub enum Loaded {
    Run(Box<Config>),
    /// `--help` or `--version`: print this and exit with 0.
    Print(String),
}

impl Config {
    /// `args` as from the operating system, program name first; `cpus` are those this process may run on.
    pub fn load(args: impl IntoIterator<Item = OsString>, cpus: &[usize]) -> Result<Loaded, ConfigError> {
        let matches = match Flags::command().try_get_matches_from(args) {
            Ok(matches) => matches,
            Err(error) if error.use_stderr() => return Err(ConfigError::Usage(error.render().to_string())),
            Err(text) => return Ok(Loaded::Print(text.render().to_string())),
        };
        let flags =
            Flags::from_arg_matches(&matches).map_err(|error| ConfigError::Usage(error.render().to_string()))?;
        let file = match flags.config.as_ref().filter(|path| !path.as_os_str().is_empty()) {
            Some(path) => Some(source::File::read(path)?),
            None => None,
        };
        SettingSources { flags: &matches, file: file.as_ref() }
            .resolve(cpus)
            .map(|config| Loaded::Run(Box::new(config)))
    }
}

impl SettingSources<'_> {
    /// None: no name is given.
    fn acme(&self) -> Result<Option<(Given, AcmeSource)>, ConfigError> {
        let mut domains: Vec<String> = Vec::new();
        let mut given = self.many("acme-domain", &[])?;
        for name in &given {
            let domain = name.parse_with(value::domain)?;
            if domains.contains(&domain) {
                return Err(name.wrong("it is given twice", "each name once"));
            }
            if domains.len() == ACME_DOMAINS_MAX {
                return Err(name.wrong("there are too many", &format!("at most {ACME_DOMAINS_MAX} names")));
            }
            domains.push(domain);
        }
        let contact = self.many("acme-contact", &[])?;
        if let Some(second) = contact.get(1) {
            return Err(second.wrong("this setting takes one value, here is a list", "one mail address"));
        }
        let address = contact.first().map(|contact| contact.parse_with(value::mail)).transpose()?;
        let directory = self.one("acme-directory", ACME_DIRECTORY)?.parse_with(value::acme_directory)?;
        let folder = self.path("acme-dir")?.map(|(_, path)| path);
        let roots = self.path("acme-ca")?;
        match given.pop() {
            Some(last) => {
                let roots = roots.map(|(_, path)| path);
                Ok(Some((last, AcmeSource { domains, contact: address, folder, directory, roots })))
            }
            None => match contact.first().or(roots.as_ref().map(|(given, _)| given)) {
                Some(alone) => Err(alone.wrong("no name is given", "--acme-domain NAME with it")),
                None => Ok(None),
            },
        }
    }

    /// Both files or neither; or a certificate of our own; or one that is obtained.
    fn tls(&self) -> Result<TlsSource, ConfigError> {
        let way = self.one("tls", "off")?;
        let own = way.parse_with(value::self_signed)?;
        let (certificate, key) = (self.path("tls-cert")?, self.path("tls-key")?);
        if let Some((name, acme)) = self.acme()? {
            if own || certificate.is_some() || key.is_some() {
                let right = "--acme-domain, or --tls-cert and --tls-key, or --tls self-signed";
                return Err(name.wrong("a certificate comes from elsewhere already", right));
            }
            return Ok(TlsSource::Acme(acme));
        }
        match (certificate, key) {
            (None, None) => Ok(if own { TlsSource::SelfSigned } else { TlsSource::Off }),
            _ if own => Err(way.wrong("a certificate is given", "self-signed, or --tls-cert and --tls-key")),
            (Some((_, certificate)), Some((_, key))) => Ok(TlsSource::Files { certificate, key }),
            (Some((given, _)), None) => Err(given.wrong("its key is missing", "--tls-cert and --tls-key together")),
            (None, Some((given, _))) => {
                Err(given.wrong("its certificate is missing", "--tls-cert and --tls-key together"))
            }
        }
    }

    /// A TURN server and its secret, or neither; STUN servers in any case.
    fn ice_servers(&self) -> Result<(Vec<IceServerUrl>, Option<PathBuf>), ConfigError> {
        let given = self.many("ice-server", &[])?;
        let urls: Vec<_> = given.iter().map(|given| given.parse_with(value::ice_server)).collect::<Result<_, _>>()?;
        if let Some(given) = given.get(ICE_SERVERS_MAX) {
            return Err(given.wrong("there are too many", &format!("at most {ICE_SERVERS_MAX} servers")));
        }
        let relay = given.iter().zip(&urls).find(|(_, url)| url.relays()).map(|(given, _)| given);
        match (relay, self.path("ice-server-secret")?) {
            (None, Some((secret, _))) => {
                Err(secret.wrong("no TURN server is given", "--ice-server turn:HOST with it, or no secret"))
            }
            (Some(relay), None) => {
                Err(relay.wrong("its secret is missing", "--ice-server-secret FILE with it, the secret that it shares"))
            }
            (_, secret) => Ok((urls, secret.map(|(_, path)| path))),
        }
    }

    fn auth(&self) -> Result<Option<TokenAuth>, ConfigError> {
        let way = self.one("auth", "none")?;
        let tokens = way.parse_with(value::asks_for_tokens)?;
        let leeway = self.one("auth-leeway", "5s")?.parse_with(value::leeway)?;
        let keys = self.many("auth-key", &[])?;
        let paths = keys.iter().map(|key| key.parse_with(value::path)).collect::<Result<Vec<_>, _>>()?;
        match (tokens, keys.first()) {
            (true, None) => {
                Err(way.wrong("there is no key to check a token with", "--auth token with --auth-key FILE"))
            }
            (false, Some(key)) => Err(key.wrong("no tokens are asked for", "--auth-key FILE with --auth token")),
            (true, Some(_)) => Ok(Some(TokenAuth { keys: paths, leeway })),
            (false, None) => Ok(None),
        }
    }

    fn quotas(&self) -> Result<Quotas, ConfigError> {
        Ok(Quotas {
            sockets_per_address: self.one("sockets-per-address", "1000")?.parse_with(value::sockets)?,
            sockets_per_user: self.one("sockets-per-user", "100")?.parse_with(value::sockets)?,
        })
    }

    fn origins(&self, tls: &TlsSource) -> Result<Origins, ConfigError> {
        let mut origins = Origins { tls: *tls != TlsSource::Off, ..Origins::default() };
        for given in self.many("allow-origin", &[])? {
            match given.parse_with(value::allowed_origin)? {
                Some(origin) => origins.listed.push(origin),
                None => origins.any = true,
            }
        }
        Ok(origins)
    }

    fn resolve(&self, cpus: &[usize]) -> Result<Config, ConfigError> {
        let listen = self.one("listen", "0.0.0.0:4443")?.parse_with(value::address)?;
        let admin = self.one("admin-listen", "127.0.0.1:4444")?;
        let admin_listen = admin.parse_with(value::admin_address)?;
        if listen.port() != 0 && admin_listen == Some(listen) {
            return Err(admin.wrong("it is where --listen listens", "another port, or off"));
        }
        let tls = self.tls()?;
        let origins = self.origins(&tls)?;
        let rtc = self.many("rtc-listen", &["0.0.0.0:40000"])?;
        let mut rtc_listen = Vec::new();
        for given in &rtc {
            let address = given.parse_with(value::rtc_address)?;
            if rtc_listen.contains(&address) {
                return Err(given.wrong("it is given twice", "each address once"));
            }
            if rtc_listen.len() == LOCAL_ADDRESSES_MAX {
                return Err(given.wrong("there are too many", &format!("at most {LOCAL_ADDRESSES_MAX} addresses")));
            }
            rtc_listen.push(address);
        }
        let excluded = self.many("rtc-exclude", &[])?;
        let rtc_exclude = excluded.iter().map(|given| given.parse_with(value::exclusion)).collect::<Result<_, _>>()?;
        let mut announce: Vec<IpAddr> = Vec::new();
        for given in self.many("announce", &[])? {
            let ip = given.parse_with(value::announced)?;
            if !rtc_listen.iter().any(|address| address.is_ipv4() == ip.is_ipv4()) {
                let (family, any) = if ip.is_ipv4() { ("IPv4", "0.0.0.0") } else { ("IPv6", "[::]") };
                let right = format!("an address of the family in use, or also --rtc-listen {any}:40000");
                return Err(given.wrong(&format!("no --rtc-listen is {family}, so nothing would answer there"), &right));
            }
            if !announce.contains(&ip) {
                announce.push(ip);
            }
        }
        let (ice_servers, ice_server_secret) = self.ice_servers()?;
        Ok(Config {
            listen,
            auth: self.auth()?,
            tls,
            admin_listen,
            admin_hosts: self.admin_hosts()?,
            webhooks: self.webhooks()?,
            origins,
            rtc_listen,
            rtc_exclude,
            announce,
            ice_servers,
            ice_server_secret,
            ice_server_lifetime: self.one("ice-server-lifetime", "12h")?.parse_with(value::lifetime)?,
            cores: self.one("cores", "all")?.parse_with(|text| value::cores(text, cpus))?,
            steering: self.one("steering", "auto")?.parse_with(value::steering)?,
            io: self.one("io", "auto")?.parse_with(value::io)?,
            spread: self.one("spread", "auto")?.parse_with(value::spread)?,
            coalesce_max: self.one("coalesce-max", "2ms")?.parse_with(value::coalesce_max)?,
            last_n: self.one("last-n", "off")?.parse_with(value::last_n)?,
            quotas: self.quotas()?,
            resume_grace: self.one("resume-grace", "15s")?.parse_with(value::resume_grace)?,
            same_user: self.one("same-user", "keep")?.parse_with(value::same_user)?,
            cluster: self.cluster()?,
            log: self.one("log", "info")?.parse_with(value::log)?,
            log_format: self.one("log-format", "text")?.parse_with(value::log_format)?,
            log_addresses: self.one("log-addresses", "on")?.parse_with(value::on_or_off)?,
        })
    }
}

/// The addresses for clients, of the addresses `bound` by one shard: an announced address of the same family replaces
/// the bound one, with its port.
pub fn candidates(config: &Config, bound: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut candidates: Vec<SocketAddr> = Vec::new();
    for address in bound {
        let mut announced: Vec<IpAddr> =
            config.announce.iter().copied().filter(|ip| ip.is_ipv4() == address.is_ipv4()).collect();
        if announced.is_empty() {
            announced.push(address.ip());
        }
        for ip in announced {
            let candidate = SocketAddr::new(ip, address.port());
            if !candidates.contains(&candidate) {
                candidates.push(candidate);
            }
        }
    }
    candidates
}

#[cfg(test)]
mod tests;
