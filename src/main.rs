//! Reads the configuration, checks the machine, starts the two towers and connects them, and ends them in order.

mod machine;

use std::io::{IsTerminal, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::ExitCode;
use std::time::Duration;

use machine::Finding;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use weirgate::base::id::{ShardId, ShardLabel};
use weirgate::config::{self, Config, Loaded};
use weirgate::load;
use weirgate::net::handshakes::Handshakes;
use weirgate::net::{self, Birth, Door, MediaTower, NetSettings, ShardSetup, SteeringInUse, SteeringMode};
use weirgate::secure::certificate::Identity;
use weirgate::secure::dtls::DtlsSettings;
use weirgate::server::{self, Server, Settings, Timing, Tower};
use weirgate::shard::command::Command;
use weirgate::shard::{Shard, ShardSettings};
use weirgate::signal::{Candidate, HubSettings};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A clean end takes far less; whatever hangs longer is left to the operating system.
const STOP_MAX: Duration = Duration::from_secs(10);
/// RFC 8445 section 5.1.2.2: the type preference of host candidates.
const HOST_PREFERENCE: u32 = 126;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1).peekable();
    if args.peek().is_some_and(|first| first == "load") {
        return load::main(args);
    }
    let cpus: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().iter().map(|cpu| cpu.id).collect();
    match Config::load(std::env::args_os(), &cpus) {
        Ok(Loaded::Run(config)) => run(&config).unwrap_or_else(|findings| {
            report(&findings);
            ExitCode::FAILURE
        }),
        Ok(Loaded::Print(text)) => {
            // Whoever closes the pipe early has read enough.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn report(findings: &[Finding]) {
    for finding in findings {
        let word = if finding.fatal { "error" } else { "warning" };
        eprintln!("{word}: {}", finding.what);
        if let Some(cure) = &finding.cure {
            eprintln!("  cure: {cure}");
        }
    }
}

fn run(config: &Config) -> Result<ExitCode, Vec<Finding>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(broken("its runtime"))?;
    // From here on a signal waits until there is something to end.
    let mut signals = {
        let _guard = runtime.enter();
        Signals::new().map_err(broken("the signal handlers"))?
    };
    tracing_subscriber::registry()
        .with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal()))
        .with(config.log.0.clone())
        .init();

    let expanded = net::addresses::expand(&config.rtc_listen, &config.rtc_exclude)
        .map_err(broken("the list of network interfaces"))?;
    let media = bound_addresses(config, &expanded.addresses);
    let candidates = config::candidates(config, &media);
    let mut findings = machine::check(config.cores.len(), config.io.wants_ring(), &media, &candidates, &expanded);
    let addresses = expanded.addresses;
    let listener = match TcpListener::bind(config.listen) {
        Ok(listener) => Some(listener),
        Err(error) => {
            findings.extend(machine::port_finding("TCP", config.listen, error));
            None
        }
    };
    let Some(listener) = listener.filter(|_| !findings.iter().any(|finding| finding.fatal)) else {
        return Err(findings);
    };
    report(&findings);

    let (server, tower) = start(config, addresses, listener)?;
    announce_start(config, &server, &tower);
    Ok(runtime.block_on(serve(server, tower, &mut signals)))
}

/// A failure that the check of the machine did not foresee; its own text says what helps, where anything does.
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

fn start(
    config: &Config,
    addresses: Vec<SocketAddr>,
    listener: TcpListener,
) -> Result<(Server, MediaTower), Vec<Finding>> {
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
        steering: config.steering,
        coalesce_max: config.coalesce_max,
        io: config.io,
        events: sender,
    };
    let tower = net::start(net_settings, move |birth| shard(birth, &handshakes)).map_err(broken("the media tower"))?;
    let settings = Settings {
        listener,
        shards: shards.iter().map(|(id, _)| *id).collect(),
        hub: HubSettings {
            candidates: candidates(config, &tower, &shards),
            shards,
            fingerprint_sha256,
            spread: config.spread,
            last_n: config.last_n,
            quotas: config.quotas,
            seed: rand::random(),
        },
        tower: Box::new(Doors(tower.doors())),
        events,
        timing: Timing::default(),
    };
    let server = server::start(settings).map_err(broken("the signalling thread"))?;
    Ok((server, tower))
}

/// A shard's core; its random numbers start from a seed that is never used twice.
fn shard(birth: Birth, handshakes: &Handshakes) -> Shard {
    let settings = ShardSettings {
        id: birth.setup.id,
        label: birth.setup.label,
        labels: birth.labels,
        seed: rand::random(),
        handover: birth.steering == SteeringInUse::Handover,
    };
    let engine = handshakes.engine(birth.setup.id, birth.bell);
    Shard::new(settings, Box::new(engine), birth.now)
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

fn announce_start(config: &Config, server: &Server, tower: &MediaTower) {
    let at = server.address();
    let port = at.port();
    let (here, elsewhere) = if at.ip().is_unspecified() {
        // An address list that cannot be read only makes this text shorter.
        let own = net::addresses::expand(&[at], &[]).unwrap_or_default();
        let urls = own.addresses.iter().map(|own| format!("http://{own}/")).collect::<Vec<_>>();
        ("localhost".to_owned(), format!("  (from elsewhere {})", urls.join(" ")))
    } else {
        (host(at.ip()), String::new())
    };
    let mut lines = vec![
        format!("Weirgate {}", env!("CARGO_PKG_VERSION")),
        format!("  console     http://{here}:{port}/{elsewhere}"),
        format!("  signalling  ws://{here}:{port}/socket?auth=USER_ID&channelId=CHANNEL_ID"),
    ];
    for (door, core) in tower.doors().iter().zip(&config.cores) {
        let candidates = config::candidates(config, &tower.addresses_of(door.shard()));
        let told: Vec<String> = candidates.iter().map(SocketAddr::to_string).collect();
        lines.push(format!("  shard {} cpu {core}, media on UDP {}", door.shard(), told.join(" ")));
    }
    lines.push(format!("  steering    {}", steering_text(tower.steering())));
    lines.push(format!("  io          {}", tower.io()));
    lines.push("  stop        Ctrl-C or SIGTERM".to_owned());
    let mut out = std::io::stdout().lock();
    // A closed stdout is no reason not to serve.
    let _ = writeln!(out, "{}", lines.join("\n")).and_then(|()| out.flush());
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
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The exit code that a shell shows for a program which this signal ended.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.terminate.recv() => 128 + 15,
            _ = self.interrupt.recv() => 128 + 2,
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
        // Nobody waits any more only when the process is on its way out.
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
