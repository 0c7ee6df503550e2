//! Reads the configuration, checks the machine, starts and connects the two towers, and ends them in order.

mod cluster_key;
mod joining;
mod machine;
mod mint;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use machine::{Finding, PortPurpose};
use socket2::Socket;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use weirgate::base::id::{ShardId, ShardLabel};
use weirgate::config::{self, AcmeSource, Config, Loaded, LogFormat, TlsSource};
#[cfg(feature = "load")]
use weirgate::load;
use weirgate::net::threads::handshakes::Handshakes;
use weirgate::net::udp::addresses::Expanded;
use weirgate::net::{self, Birth, Door, Inherited, MediaTower, NetSettings, ShardSetup, SteeringInUse, SteeringMode};
use weirgate::secure::certificate::Identity;
use weirgate::secure::dtls::DtlsSettings;
use weirgate::server::{
    self, AcmeSettings, AuthKeys, CertificateFiles, Certificates, Clustering, Reload, Server, Settings, Timing, Tower,
};
use weirgate::server::{WebhookSettings, WebhookTiming, Webhooks};
use weirgate::shard::command::Command;
use weirgate::shard::{Shard, ShardSettings};
use weirgate::signal::{Candidate, HubSettings, IceServerSecret, IceServers, LogSettings, ReturnSettings};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A clean end takes far less; a part that hangs longer is left to the operating system.
const STOP_MAX: Duration = Duration::from_secs(10);
/// How long the start text waits for the other nodes of a cluster.
const CLUSTER_WAIT: Duration = Duration::from_millis(2_500);
/// RFC 8445 section 5.1.2.2: the type preference of host candidates.
const HOST_PREFERENCE: u32 = 126;

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    let word = args.get(1).and_then(|word| word.to_str()).unwrap_or_default().to_owned();
    #[cfg(feature = "load")]
    if word == "load" {
        return load::main(args.into_iter().skip(1).peekable());
    }
    if word == "token" {
        return mint::main(args.into_iter().skip(1));
    }
    if word == "cluster-key" {
        return cluster_key::main(args.into_iter().skip(1));
    }
    let only_check = word == "check";
    if only_check {
        args.remove(1);
    }
    let cpus: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().iter().map(|cpu| cpu.id).collect();
    match Config::load(args, &cpus) {
        Ok(Loaded::Run(config)) if only_check => check(&config),
        Ok(Loaded::Run(config)) => run(&config).unwrap_or_else(|findings| {
            report(&findings, LogFormat::Text);
            ExitCode::FAILURE
        }),
        Ok(Loaded::Print(text)) => {
            // A reader that closes the pipe early has read enough.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

/// `format`: the format of a log that has begun; a failed start is reported in plain text.
fn report(findings: &[Finding], format: LogFormat) {
    for Finding { fatal, what, cure } in findings {
        match (format, fatal) {
            (LogFormat::Json, true) => tracing::error!(cure, "{what}"),
            (LogFormat::Json, false) => tracing::warn!(cure, "{what}"),
            (LogFormat::Text, _) => {
                eprintln!("{}: {what}", if *fatal { "error" } else { "warning" });
                if let Some(cure) = cure {
                    eprintln!("  cure: {cure}");
                }
            }
        }
    }
}

/// `weirgate check`: prints what a start would find, and starts nothing.
fn check(config: &Config) -> ExitCode {
    let findings = survey(config).map_or_else(|findings| findings, |survey| survey.findings);
    report(&findings, LogFormat::Text);
    let errors = findings.iter().filter(|finding| finding.fatal).count();
    println!("{errors} errors, {} warnings", findings.len() - errors);
    if errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The machine's findings for these settings, and the sockets that were bound or inherited.
struct Survey {
    addresses: Vec<SocketAddr>,
    inherited: Vec<Socket>,
    listener: Option<TcpListener>,
    admin: Option<TcpListener>,
    /// None: plain HTTP, or a fault that is among the findings.
    certificates: Option<Certificates>,
    /// None: there are none, or a fault that is among the findings.
    webhooks: Option<Webhooks>,
    /// None: there is none, or a fault that is among the findings.
    cluster: Option<Clustering>,
    ice_servers: IceServers,
    auth: Option<AuthKeys>,
    findings: Vec<Finding>,
}

fn survey(config: &Config) -> Result<Survey, Vec<Finding>> {
    let inherited = Inherited::take().map_err(broken("the inherited sockets"))?;
    let (media, expanded) = media_addresses(config, &inherited)?;
    let candidates = config::candidates(config, &media);
    let mut findings = unknown_variables();
    findings.extend(machine::check(config.cores.len(), config.io.wants_ring(), &media, &candidates, &expanded));
    if inherited.udp.is_empty() {
        findings.extend(machine::taken_ports(&media));
    }
    let mut listen = |what_for, address| match TcpListener::bind(address) {
        Ok(listener) => Some(listener),
        Err(error) => {
            findings.extend(machine::port_finding(what_for, address, error));
            None
        }
    };
    let listener = inherited.http.or_else(|| listen(PortPurpose::Http, config.listen));
    let admin = inherited.admin.or_else(|| config.admin_listen.and_then(|address| listen(PortPurpose::Admin, address)));
    findings.extend(acme_port(config, listener.as_ref()));
    let certificates = certificates(config).unwrap_or_else(|finding| {
        findings.push(finding);
        None
    });
    let ending = certificates.as_ref().and_then(Certificates::warning);
    findings.extend(ending.map(|fault| Finding::warning(fault.what, fault.cure)));
    let webhooks = webhooks(config).unwrap_or_else(|finding| {
        findings.push(finding);
        None
    });
    let cluster = joining::clustering(config).unwrap_or_else(|finding| {
        findings.push(finding);
        None
    });
    let ice_servers = ice_servers(config).unwrap_or_else(|finding| {
        findings.push(finding);
        IceServers::default()
    });
    let auth = auth(config).unwrap_or_else(|finding| {
        findings.push(finding);
        None
    });
    let (addresses, inherited) = (expanded.addresses, inherited.udp);
    Ok(Survey { addresses, inherited, listener, admin, certificates, webhooks, cluster, ice_servers, auth, findings })
}

fn ice_servers(config: &Config) -> Result<IceServers, Finding> {
    let secret = match &config.ice_server_secret {
        None => None,
        Some(path) => {
            let fault = |what: String| {
                let cure = "a text file that this user may read, with the TURN server's static-auth-secret in it";
                Finding { fatal: true, what, cure: Some(cure.to_owned()) }
            };
            let shown = path.display();
            let text = std::fs::read_to_string(path)
                .map_err(|error| fault(format!("the secret {shown} of --ice-server-secret cannot be read: {error}")))?;
            let secret = IceServerSecret::from_text(&text);
            Some(secret.ok_or_else(|| fault(format!("the file {shown} of --ice-server-secret is empty")))?)
        }
    };
    Ok(IceServers { urls: config.ice_servers.clone(), secret, lifetime: config.ice_server_lifetime })
}

fn auth(config: &Config) -> Result<Option<AuthKeys>, Finding> {
    let Some(auth) = &config.auth else { return Ok(None) };
    let keys = AuthKeys::load(auth.keys.clone(), auth.leeway);
    keys.map(Some).map_err(|fault| Finding { fatal: true, what: fault.what, cure: Some(fault.cure) })
}

fn certificates(config: &Config) -> Result<Option<Certificates>, Finding> {
    let certificates = match &config.tls {
        TlsSource::Off => return Ok(None),
        TlsSource::SelfSigned => Certificates::self_signed(own_names(config)),
        TlsSource::Acme(acme) => Certificates::acme(acme_settings(acme)),
        TlsSource::Files { certificate, key } => {
            Certificates::load(CertificateFiles { certificate: certificate.clone(), key: key.clone() })
        }
    };
    let fatal = |fault: server::TlsFault| Finding { fatal: true, what: fault.what, cure: Some(fault.cure) };
    certificates.map(Some).map_err(fatal)
}

fn acme_settings(acme: &AcmeSource) -> AcmeSettings {
    let AcmeSource { domains, contact, folder, directory, roots } = acme.clone();
    // systemd's list of folders for state; the first is as good as any.
    let state = std::env::var("STATE_DIRECTORY").unwrap_or_default();
    let state = state.split(':').next().unwrap_or_default();
    let folder = folder.unwrap_or_else(|| Path::new(if state.is_empty() { "." } else { state }).join("acme"));
    AcmeSettings { domains, contact, folder, directory, roots }
}

/// RFC 8737 section 3: names are proved on port 443.
fn acme_port(config: &Config, listener: Option<&TcpListener>) -> Option<Finding> {
    let port = listener.and_then(|listener| listener.local_addr().ok()).map_or(config.listen.port(), |at| at.port());
    let right = port == 443 || !matches!(config.tls, TlsSource::Acme(_));
    (!right).then(|| {
        let what = format!("the authority proves the names of --acme-domain on TCP port 443, and --listen has {port}");
        Finding::warning(what, "have port 443 of these names forwarded to it, or give it with --listen")
    })
}

fn webhooks(config: &Config) -> Result<Option<Webhooks>, Finding> {
    let Some(hooks) = config.webhooks.clone() else { return Ok(None) };
    let settings = WebhookSettings { urls: hooks.urls, secret: hooks.secret, ca: hooks.ca };
    let fatal = |fault: server::WebhookFault| Finding { fatal: true, what: fault.what, cure: Some(fault.cure) };
    Webhooks::load(settings, WebhookTiming::default()).map(Some).map_err(fatal)
}

/// The names and addresses at which clients of a LAN find this machine.
fn own_names(config: &Config) -> Vec<String> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    // RFC 6762: the name under .local is the one that a LAN without a DNS server knows. A kernel that does not tell the
    // name, or has one that no certificate can carry, leaves the addresses.
    let host = joining::host_name();
    if !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.')) {
        names.extend([host.clone(), format!("{}.local", host.split('.').next().unwrap_or(&host))]);
    }
    let any = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let any = any.map(|ip| SocketAddr::new(ip, config.listen.port()));
    let own = net::udp::addresses::expand(&any, &[]).unwrap_or_default().addresses;
    let addresses = own.iter().map(SocketAddr::ip).chain([config.listen.ip()]).chain(config.announce.iter().copied());
    names.extend(addresses.filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string()));
    names.sort();
    names.dedup();
    names
}

/// Every media address that some shard has, and the settings' own addresses without their wildcards.
fn media_addresses(config: &Config, inherited: &Inherited) -> Result<(Vec<SocketAddr>, Expanded), Vec<Finding>> {
    if !inherited.udp.is_empty() {
        let addresses = inherited.media_addresses();
        return Ok((addresses.clone(), Expanded { addresses, ..Expanded::default() }));
    }
    let expanded = net::udp::addresses::expand(&config.rtc_listen, &config.rtc_exclude)
        .map_err(broken("the list of network interfaces"))?;
    Ok((bound_addresses(config, &expanded.addresses), expanded))
}

fn unknown_variables() -> Vec<Finding> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let unknown = config::unknown_variables(names).into_iter();
    let finding = |(name, nearest): (String, String)| {
        let cure = format!("the setting that is most like it is {nearest}; weirgate --help lists them all");
        Finding::warning(format!("the environment variable {name} sets nothing"), cure)
    };
    unknown.map(finding).collect()
}

fn run(config: &Config) -> Result<ExitCode, Vec<Finding>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(broken("its runtime"))?;
    // From here on a signal waits until there is something to end.
    let mut signals = {
        let _guard = runtime.enter();
        Signals::new().map_err(broken("the signal handlers"))?
    };
    start_log(config);
    let mut survey = survey(config)?;
    let Some(listener) = survey.listener.take().filter(|_| !survey.findings.iter().any(|finding| finding.fatal)) else {
        return Err(survey.findings);
    };
    report(&survey.findings, config.log_format);

    let (mut server, tower) = start(config, survey, listener)?;
    let reads_files = config.auth.is_some()
        || config.cluster.is_some()
        || config.webhooks.is_some()
        || matches!(config.tls, TlsSource::Files { .. } | TlsSource::Acme(_));
    signals.reload = reads_files.then(|| server.reload());
    let greeting = runtime.block_on(server.cluster_greeting(CLUSTER_WAIT));
    announce_start(config, &server, &tower, joining::greeting_line(config, greeting));
    Ok(runtime.block_on(serve(server, tower, &mut signals)))
}

/// To stderr.
fn start_log(config: &Config) {
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match config.log_format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => {
            // The lines of a panic must not stand between the objects.
            std::panic::set_hook(Box::new(|panic| tracing::error!("a thread panicked: {panic}")));
            lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
    };
    tracing_subscriber::registry().with(lines).with(config.log.0.clone()).init();
}

/// A failure that the machine check did not find; its own text names the cure, where there is one.
fn broken<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> Vec<Finding> {
    move |error| vec![Finding { fatal: true, what: format!("{what} could not be set up: {error}"), cure: None }]
}

/// Every media address that some shard will bind.
fn bound_addresses(config: &Config, addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let ports = if config.steering == SteeringMode::PortPerCore { config.cores.len() } else { 1 };
    let of_shard = |n: usize| {
        // A port past the last one is for the media tower to refuse, which it does by name.
        addresses
            .iter()
            .map(move |at| SocketAddr::new(at.ip(), at.port().saturating_add(u16::try_from(n).unwrap_or(u16::MAX))))
    };
    (0..ports).flat_map(of_shard).collect()
}

struct Doors(Vec<Door>);

impl Tower for Doors {
    fn send(&self, shard: ShardId, command: Command) {
        if let Some(door) = self.0.get(usize::from(shard.0)) {
            door.send(command);
        }
    }

    fn load_permille(&self, shard: ShardId) -> u32 {
        self.0.get(usize::from(shard.0)).map_or(0, Door::load_permille)
    }
}

fn start(config: &Config, survey: Survey, listener: TcpListener) -> Result<(Server, MediaTower), Vec<Finding>> {
    let Survey { addresses, inherited, admin, certificates, webhooks, cluster, ice_servers, auth, .. } = survey;
    let identity = Identity::generate().map_err(broken("the certificate"))?;
    let fingerprint_sha256 = identity.fingerprint_sha256();
    let handshakes = Handshakes::start(&identity, DtlsSettings::default(), config.cores.len())
        .map_err(broken("the threads of handshakes"))?;
    let labels = labels(config.cores.len());
    let ids = (0..).map(ShardId);
    let shards: Vec<(ShardId, ShardLabel)> = ids.zip(labels).collect();
    let setups = shards.iter().zip(&config.cores);
    let (sender, events) = mpsc::unbounded_channel();
    let net_settings = NetSettings {
        shards: setups.map(|(&(id, label), &core)| ShardSetup { id, label, core }).collect(),
        addresses,
        inherited,
        steering: config.steering,
        coalesce_max: config.coalesce_max,
        io: config.io,
        events: sender,
    };
    let tower = net::start(net_settings, move |birth| shard(birth, &handshakes)).map_err(broken("the media tower"))?;
    let settings = Settings {
        listener,
        admin,
        admin_hosts: config.admin_hosts.clone(),
        tls: certificates,
        origins: config.origins.clone(),
        auth,
        shards: shards.iter().map(|(id, _)| *id).collect(),
        hub: HubSettings {
            candidates: candidates(config, &tower, &shards),
            shards,
            fingerprint_sha256,
            spread: config.spread,
            last_n: config.last_n,
            log: LogSettings {
                addresses: config.log_addresses,
                local: tower.doors().iter().map(|door| (door.shard(), tower.addresses_of(door.shard()))).collect(),
            },
            quotas: config.quotas,
            ice_servers,
            returns: ReturnSettings { key: rand::random(), grace: config.resume_grace, same_user: config.same_user },
            seed: rand::random(),
        },
        tower: Box::new(Doors(tower.doors())),
        events,
        timing: Timing::default(),
        webhooks,
        cluster,
    };
    let server = server::start(settings).map_err(broken("the signalling thread"))?;
    Ok((server, tower))
}

/// Makes a shard's core; its random numbers start from a seed that is never used twice.
fn shard(birth: Birth, handshakes: &Handshakes) -> Shard {
    let settings = ShardSettings {
        id: birth.setup.id,
        labels: birth.labels,
        seed: rand::random(),
        handover: birth.steering == SteeringInUse::Handover,
    };
    let engine = handshakes.engine(birth.setup.id, birth.bell);
    Shard::new(settings, Box::new(engine))
}

/// Two letters for each shard, no two alike, drawn anew at every start: a ufrag of an earlier process names nobody.
fn labels(count: usize) -> Vec<ShardLabel> {
    let letter = || {
        let place: u8 = rand::random_range(0..52);
        if place < 26 { b'a' + place } else { b'A' + place - 26 }
    };
    let mut labels: Vec<ShardLabel> = Vec::with_capacity(count);
    while labels.len() < count {
        let label = ShardLabel([letter(), letter()]);
        if !labels.contains(&label) {
            labels.push(label);
        }
    }
    labels
}

fn candidates(config: &Config, tower: &MediaTower, shards: &[(ShardId, ShardLabel)]) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    for (shard, _) in shards {
        for (place, address) in config::candidates(config, &tower.addresses_of(*shard)).iter().enumerate() {
            // RFC 8445 section 5.1.2.1, component 1: the addresses come in the order of preference.
            let local_preference = 65_535 - u32::try_from(place).unwrap_or(65_535).min(65_535);
            let priority = HOST_PREFERENCE << 24 | local_preference << 8 | 255;
            candidates.push(Candidate { shard: Some(*shard), ip: address.ip(), port: address.port(), priority });
        }
    }
    candidates
}

fn announce_start(config: &Config, server: &Server, tower: &MediaTower, cluster: Option<String>) {
    let at = server.address();
    let port = at.port();
    let (http, ws) = if config.tls == TlsSource::Off { ("http", "ws") } else { ("https", "wss") };
    let query = if config.auth.is_some() { "?auth=TOKEN" } else { "" };
    let (here, elsewhere) = if at.ip().is_unspecified() {
        // An address list that cannot be read only makes this text shorter.
        let own = net::udp::addresses::expand(&[at], &[]).unwrap_or_default();
        let urls = own.addresses.iter().map(|own| format!("{http}://{own}/{query}")).collect::<Vec<_>>();
        ("localhost".to_owned(), format!("  (from elsewhere {})", urls.join(" ")))
    } else {
        (host(at.ip()), String::new())
    };
    let mut lines = vec![
        format!("Weirgate {}", env!("CARGO_PKG_VERSION")),
        format!("  console     {http}://{here}:{port}/{query}{elsewhere}"),
        format!("  signalling  {ws}://{here}:{port}/socket?auth={}&channelId=CHANNEL_ID", user_text(config)),
        format!("  admin       {}", admin_text(server.admin_address())),
    ];
    for (door, core) in tower.doors().iter().zip(&config.cores) {
        let candidates = config::candidates(config, &tower.addresses_of(door.shard()));
        let told: Vec<String> = candidates.iter().map(SocketAddr::to_string).collect();
        lines.push(format!("  shard {} cpu {core}, media on UDP {}", door.shard(), told.join(" ")));
    }
    lines.push(format!("  steering    {}", steering_text(tower.steering())));
    lines.push(format!("  io          {}", tower.io()));
    lines.extend(cluster);
    lines.push("  stop        Ctrl-C or SIGTERM".to_owned());
    let mut out = std::io::stdout().lock();
    // A closed stdout is no reason not to serve.
    let _ = writeln!(out, "{}", lines.join("\n")).and_then(|()| out.flush());
}

const fn user_text(config: &Config) -> &'static str {
    if config.auth.is_some() { "TOKEN" } else { "USER_ID" }
}

fn admin_text(at: Option<SocketAddr>) -> String {
    at.map_or_else(|| "off".to_owned(), |at| format!("http://{at}/metrics"))
}

const fn steering_text(steering: SteeringInUse) -> &'static str {
    match steering {
        SteeringInUse::Bpf => "bpf: the kernel brings each datagram to its shard",
        SteeringInUse::Handover => "handover: shards pass on what is not theirs",
        SteeringInUse::PortPerCore => "port-per-core: each shard has its own port",
    }
}

/// As a URL writes it.
fn host(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// The signals that would end a program without a handler for them.
    others: [(&'static str, Signal); 3],
    /// What SIGHUP is for, where there is something to read again.
    reload: Option<Arc<Reload>>,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        let others = [
            ("SIGHUP", signal(SignalKind::hangup())?),
            ("SIGUSR1", signal(SignalKind::user_defined1())?),
            ("SIGUSR2", signal(SignalKind::user_defined2())?),
        ];
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Signals { terminate, interrupt, others, reload: None })
    }

    /// The exit code that a shell shows for a program which this signal ended.
    async fn next(&mut self) -> u8 {
        let Signals { terminate, interrupt, others: [(hup, hangup), (usr1, user1), (usr2, user2)], reload } = self;
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => return 128 + 15,
                _ = interrupt.recv() => return 128 + 2,
                _ = hangup.recv() => match reload {
                    Some(reload) => {
                        reload.ask();
                        continue;
                    }
                    None => *hup,
                },
                _ = user1.recv() => *usr1,
                _ = user2.recv() => *usr2,
            };
            tracing::info!("{name} changes nothing: SIGTERM ends this program, and settings are read at its start");
        }
    }
}

/// Waits for the end, and makes it a clean one: sockets first, so that clients hear of it, then the shards.
async fn serve(mut server: Server, tower: MediaTower, signals: &mut Signals) -> ExitCode {
    let code = tokio::select! {
        _ = signals.next() => ExitCode::SUCCESS,
        () = server.ended() => {
            tracing::error!("the signalling thread ended by itself");
            ExitCode::FAILURE
        }
    };
    tracing::info!("stopping; a second signal ends at once");
    let (done, stopped) = oneshot::channel();
    std::thread::spawn(move || {
        let signalling = server.stop().is_ok();
        let media = tower.stop();
        // The receiver is gone only when the process is on its way out.
        let _ = done.send(signalling && media);
    });
    tokio::select! {
        clean = tokio::time::timeout(STOP_MAX, stopped) => match clean {
            Ok(Ok(true)) => code,
            _ => {
                tracing::error!("not everything ended in order");
                ExitCode::FAILURE
            }
        },
        signal = signals.next() => std::process::exit(signal.into()),
    }
}
