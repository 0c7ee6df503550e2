//! The real server with real sockets under the loads of the goals, and at its limit: over loopback, and over a veth
//! pair between two network namespaces that this program makes (which takes root). `weirgate load` sends and receives;
//! the server has cpu 0, the load cpu 1. CPU time of all the server's threads, per delivered packet.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Output, Stdio};

use clap::Parser;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

const LOADS: [&str; 7] = ["pair", "one-to-50", "one-to-100", "channels", "opus-100", "opus-20", "thumbnails"];
/// A range, because a single number would be a count.
const SERVER_CPU: &str = "0-0";
const LOAD_CPU: &str = "1";
/// Addresses for documentation (RFC 5737), which nothing else on the machine uses.
const VETH_SERVER: &str = "192.0.2.1";
const VETH_LOAD: &str = "192.0.2.2";

#[derive(Parser)]
#[command(about = "CPU time per delivered packet of the whole server")]
struct Arguments {
    /// One of the loads of `weirgate load --preset`, or saturated; all when none is named.
    #[arg(long)]
    load: Option<String>,
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
    /// The number of runs whose median is shown; the search for the limit runs once.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// One JSON object for each load, in place of the table.
    #[arg(long)]
    json: bool,
    /// Further options for the server, as in --server-options "--coalesce-max 0".
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    server_options: String,
    /// Passed by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The program, in a namespace or outside.
fn weirgate(namespace: Option<&str>) -> Command {
    let program = env!("CARGO_BIN_EXE_weirgate");
    let Some(namespace) = namespace else { return Command::new(program) };
    let mut command = Command::new("ip");
    // It becomes the program: the process that we start is the one that is measured.
    command.args(["netns", "exec", namespace, program]);
    command
}

/// A way between server and load.
struct Network<'a> {
    name: &'static str,
    /// The addresses of the server: signalling and media.
    listen: SocketAddr,
    media: SocketAddr,
    server: Option<&'a str>,
    load: Option<&'a str>,
}

/// A running server; ended with its owner.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(network: &Network, further: &str) -> Result<Server, String> {
        let (listen, media) = (network.listen.to_string(), network.media.to_string());
        let mut child = weirgate(network.server)
            .args(["--listen", &listen, "--rtc-listen", &media, "--cores", SERVER_CPU, "--admin-listen", "off"])
            .args(further.split_whitespace())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let console = lines.map_while(Result::ok).find_map(|line| Some(line.split_once("http://")?.1.to_owned()));
        match console {
            Some(console) => Ok(Server { child, url: format!("ws://{}/socket", console.trim_end_matches('/')) }),
            None => Err("the server did not start".to_owned()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Either it is there, or it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two network namespaces with a veth pair between them, so that the machine's firewall and routes play no part.
/// Removed with their owner, also when a signal ends it; those of a killed run go when the next are made.
struct Namespaces {
    server: String,
    load: String,
}

const SIDES: [&str; 2] = ["weirgate-server-", "weirgate-load-"];

impl Namespaces {
    fn make() -> Result<Namespaces, String> {
        remove_stale();
        let [server, load] = SIDES.map(|side| format!("{side}{}", std::process::id()));
        remove_on_signals([server.clone(), load.clone()]).map_err(|error| format!("signal handlers: {error}"))?;
        let namespaces = Namespaces { server, load };
        let Namespaces { server, load } = &namespaces;
        ip(&format!("netns add {server}"))?;
        ip(&format!("netns add {load}"))?;
        ip(&format!("-n {server} link add veth type veth peer name veth netns {load}"))?;
        for (namespace, address) in [(server, VETH_SERVER), (load, VETH_LOAD)] {
            ip(&format!("-n {namespace} address add {address}/30 dev veth"))?;
            ip(&format!("-n {namespace} link set veth up"))?;
            ip(&format!("-n {namespace} link set lo up"))?;
        }
        Ok(namespaces)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        remove(&self.server);
        remove(&self.load);
    }
}

/// Ends what still runs in it. The pair goes with its ends; a namespace that was never made is no loss.
fn remove(namespace: &str) {
    if let Ok(output) = Command::new("ip").args(["netns", "pids", namespace]).output() {
        for pid in String::from_utf8_lossy(&output.stdout).split_whitespace() {
            let _ = Command::new("kill").args(["-KILL", pid]).status();
        }
    }
    let _ = ip(&format!("netns delete {namespace}"));
}

/// Those that carry the process id of a run which is no more.
fn remove_stale() {
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = SIDES.iter().find_map(|side| name.strip_prefix(side)?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()) {
            remove(&name);
        }
    }
}

/// A signal ends this program without a `Drop`.
fn remove_on_signals(namespaces: [String; 2]) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _context = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::spawn(move || {
        let code = runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
            }
        });
        namespaces.iter().for_each(|name| remove(name));
        std::process::exit(code);
    });
    Ok(())
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output().map_err(|error| format!("ip(8): {error}"))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}

/// The median run's figures, as `weirgate load --json` names them.
fn measure(load: &str, server: &Server, network: &Network, arguments: &Arguments) -> Result<Value, String> {
    let saturated = load == "saturated";
    let runs = if saturated { 1 } else { arguments.runs.max(1) };
    let mut figures = Vec::new();
    for _ in 0..runs {
        let (pid, seconds) = (server.child.id().to_string(), arguments.seconds.to_string());
        let mut command = weirgate(network.load);
        command.args(["load", "--url", &server.url, "--pid", &pid, "--cpu", LOAD_CPU, "--json", "-"]);
        command.args(["--ramp", "200", "--setup", "10", "--warmup", "0.5", "--duration", &seconds]);
        if saturated {
            command.arg("--search")
        } else {
            command.args(["--preset", load])
        };
        let output = command.output().map_err(|error| error.to_string())?;
        figures.push(measured(&output)?);
    }
    figures.sort_by(|a, b| cpu_nanos(a).total_cmp(&cpu_nanos(b)));
    Ok(figures.swap_remove(figures.len() / 2))
}

fn measured(output: &Output) -> Result<Value, String> {
    let report: Value = serde_json::from_slice(&output.stdout)
        .map_err(|_| String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned())?;
    match report["measured"].as_object() {
        Some(_) => Ok(report["measured"].clone()),
        None => Err("nothing was measured".to_owned()),
    }
}

fn figure(measured: &Value, name: &str) -> f64 {
    measured[name].as_f64().unwrap_or(f64::NAN)
}

fn cpu_nanos(measured: &Value) -> f64 {
    figure(measured, "server_cpu_ns_per_packet")
}

fn print(network: &str, load: &str, measured: &Value, as_json: bool) {
    if as_json {
        println!("{}", json!({ "network": network, "load": load, "measured": measured }));
        return;
    }
    let delays = &measured["delay_us"];
    println!(
        "{network:9} {load:12} {:12.0} {:12.0} {:9.1} {:10.0} {:10.0} {:9.2} {:9.1}",
        cpu_nanos(measured),
        figure(measured, "delivered_packets_per_second"),
        figure(measured, "server_cpu_share") * 100.0,
        figure(delays, "p50"),
        figure(delays, "p99"),
        figure(measured, "loss_percent"),
        figure(measured, "generator_cpu_share") * 100.0,
    );
}

fn run(network: &Network, arguments: &Arguments) -> Result<(), String> {
    let server = Server::start(network, &arguments.server_options)?;
    let all = LOADS.into_iter().chain(["saturated"]);
    for load in all.filter(|load| arguments.load.as_deref().is_none_or(|name| name == *load)) {
        match measure(load, &server, network, arguments) {
            Ok(measured) => print(network.name, load, &measured, arguments.json),
            Err(why) => eprintln!("{} {load}: {why}", network.name),
        }
    }
    Ok(())
}

fn loopback() -> Result<Network<'static>, String> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let free = UdpSocket::bind(any).and_then(|socket| socket.local_addr()).map_err(|error| error.to_string())?;
    Ok(Network { name: "loopback", listen: any, media: free, server: None, load: None })
}

fn veth(namespaces: &Namespaces) -> Network<'_> {
    let at = |port| SocketAddr::new(VETH_SERVER.parse().expect("an address of ours"), port);
    let (server, load) = (Some(&*namespaces.server), Some(&*namespaces.load));
    Network { name: "veth", listen: at(4_443), media: at(40_000), server, load }
}

fn main() -> Result<(), String> {
    let arguments = Arguments::parse();
    if !arguments.json {
        println!(
            "{:22} {:>12} {:>12} {:>9} {:>10} {:>10} {:>9} {:>9}",
            "end to end", "CPU ns/pkt", "packets/s", "core %", "p50 us", "p99 us", "loss %", "load %"
        );
    }
    run(&loopback()?, &arguments)?;
    match Namespaces::make() {
        Ok(namespaces) => run(&veth(&namespaces), &arguments),
        Err(why) => {
            eprintln!("veth: skipped, as network namespaces take root and iproute2: {why}");
            Ok(())
        }
    }
}
