//! A running program on free ports of loopback, its metrics, and waiting for its output and the clients'.
#![expect(clippy::disallowed_methods, reason = "tests on real sockets wait in real time")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use weirgate::client::Call;
use weirgate::client::call::{CallStats, CallStream};
use weirgate::sim::sink::SinkStats;

/// No test waits this long unless it is about to fail: other work may share the machine.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(30);

pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// Its output at the start.
    pub(crate) banner: String,
    stderr: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

/// The program that is tested: the one built beside the tests, or E2E_PROGRAM, for figures of a release build.
pub(crate) fn program() -> Command {
    Command::new(std::env::var_os("E2E_PROGRAM").unwrap_or_else(|| env!("CARGO_BIN_EXE_weirgate").into()))
}

/// How many, where the environment does not say otherwise.
pub(crate) fn setting(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().unwrap())
}

impl Server {
    pub(crate) fn start(args: &[&str]) -> Server {
        Server::spawn(program, args).unwrap_or_else(|error| panic!("{error}"))
    }

    /// At the ports of a program that is gone: of signalling and of media.
    pub(crate) fn start_at(listen: SocketAddr, media: &str, args: &[&str]) -> Server {
        Server::try_spawn(program(), listen, media, args).unwrap_or_else(|error| panic!("{error}"))
    }

    /// `Err`: it did not start, with its output.
    pub(crate) fn spawn(command: impl Fn() -> Command, args: &[&str]) -> Result<Server, String> {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        loop {
            match Server::try_spawn(command(), listen, &two_free_ports().to_string(), args) {
                // A client of another test may take a port between our look at it and the program's.
                Err(said) if said.contains("is taken") => {}
                outcome => return outcome,
            }
        }
    }

    fn try_spawn(mut command: Command, listen: SocketAddr, media: &str, args: &[&str]) -> Result<Server, String> {
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WEIRGATE_")) {
            command.env_remove(name);
        }
        command.args(["--listen", &listen.to_string(), "--admin-listen", "127.0.0.1:0", "--rtc-listen", media]);
        command.args(["--log", "warn"]).args(args);
        let pipes = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = pipes.spawn().map_err(|error| error.to_string())?;
        let (stdout, errors) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let stderr = Arc::new(Mutex::new(String::new()));
        let reader = std::thread::spawn({
            let stderr = Arc::clone(&stderr);
            move || {
                for line in BufReader::new(errors).lines().map_while(Result::ok) {
                    let mut text = stderr.lock().unwrap();
                    text.push_str(&line);
                    text.push('\n');
                }
            }
        });
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Server { child, address, admin: address, banner: String::new(), stderr, reader: Some(reader) };
        let mut out = BufReader::new(stdout);
        while !server.banner.contains("  stop ") {
            if out.read_line(&mut server.banner).unwrap() == 0 {
                return Err(server.ended());
            }
        }
        let at = |word| {
            let line = server.banner.lines().find(|line| line.trim_start().starts_with(word)).unwrap();
            line.split("http://").nth(1).unwrap().split('/').next().unwrap().parse().unwrap()
        };
        (server.address, server.admin) = (at("console"), at("admin"));
        Ok(server)
    }

    /// Waits for its end; what it wrote to stderr.
    fn ended(mut self) -> String {
        let _ = self.child.wait();
        self.reader.take().map(JoinHandle::join);
        self.log()
    }

    pub(crate) fn log(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    pub(crate) fn join(&self, user: &str) -> Call {
        self.join_channel(user, "room")
    }

    pub(crate) fn join_channel(&self, user: &str, channel: &str) -> Call {
        Call::connect(self.address, user, channel).unwrap()
    }

    /// Up to 250 ms old: wait with `until` for a state that was caused just now.
    pub(crate) fn metrics(&self) -> Metrics {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        assert!(page.ends_with("# EOF\n"), "{page}");
        Metrics::parse(&page)
    }

    /// Until the metrics are as `done` wants them.
    pub(crate) fn until(&self, what: &str, done: impl Fn(&Metrics) -> bool) -> Metrics {
        let mut last = self.metrics();
        let started = Instant::now();
        while !done(&last) {
            assert!(started.elapsed() < PATIENCE, "{what} never came: {last:?}\n{}", self.log());
            std::thread::sleep(LOOK_AGAIN);
            last = self.metrics();
        }
        last
    }

    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// At once, without a word.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// The CPU time of all its threads.
    pub(crate) fn cpu(&self) -> Duration {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let used = threads.filter_map(|thread| {
            let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(used.sum())
    }

    /// Ends it as an operator would; it must have been in order to the last.
    pub(crate) fn stop(mut self) {
        let metrics = self.metrics();
        assert_eq!(metrics.sum("faults_total") + metrics.sum("shard_panics_total"), 0, "{}", self.log());
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let status: ExitStatus = self.child.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{}", self.log());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Gone already is what most tests want.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.reader.take().map(JoinHandle::join);
        if std::thread::panicking() {
            eprintln!("the program said:\n{}", self.log());
        }
    }
}

/// A UDP port of loopback which is free, as is the next one.
pub(crate) fn two_free_ports() -> SocketAddr {
    loop {
        let first = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = first.local_addr().unwrap();
        let next = address.port().checked_add(1);
        if next.is_some_and(|port| UdpSocket::bind(("127.0.0.1", port)).is_ok()) {
            return address;
        }
    }
}

/// Samples by name (without `weirgate_`) and labels.
#[derive(Debug)]
pub(crate) struct Metrics {
    samples: BTreeMap<String, Vec<(String, i64)>>,
    gauges: BTreeSet<String>,
}

impl Metrics {
    fn parse(page: &str) -> Metrics {
        let kinds = page.lines().filter_map(|line| line.strip_prefix("# TYPE weirgate_")?.strip_suffix(" gauge"));
        let gauges = kinds.map(str::to_owned).collect();
        let mut samples: BTreeMap<String, Vec<(String, i64)>> = BTreeMap::new();
        for line in page.lines().filter_map(|line| line.strip_prefix("weirgate_")) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = name.split_once('{').unwrap_or((name, ""));
            // The sum of a histogram is no whole number.
            let value: f64 = value.parse().unwrap();
            samples.entry(name.to_owned()).or_default().push((labels.to_owned(), value as i64));
        }
        Metrics { samples, gauges }
    }

    /// The names of everything that can go down again.
    pub(crate) fn gauges(&self) -> impl Iterator<Item = &str> {
        self.gauges.iter().map(String::as_str)
    }

    fn samples(&self, name: &str) -> &[(String, i64)] {
        self.samples.get(name).unwrap_or_else(|| panic!("there is no metric {name}"))
    }

    /// Over all labels.
    pub(crate) fn sum(&self, name: &str) -> i64 {
        self.samples(name).iter().map(|(_, value)| value).sum()
    }

    pub(crate) fn of_shard(&self, name: &str, shard: u16) -> i64 {
        let label = format!("shard=\"{shard}\"");
        self.samples(name).iter().filter(|(labels, _)| labels.contains(&label)).map(|(_, value)| value).sum()
    }

    /// Over all samples that have this value among their labels.
    pub(crate) fn labelled(&self, name: &str, value: &str) -> i64 {
        let label = format!("=\"{value}\"");
        self.samples.get(name).into_iter().flatten().filter(|(labels, _)| labels.contains(&label)).map(|at| at.1).sum()
    }

    pub(crate) fn dropped(&self, why: &str) -> i64 {
        let label = format!("why=\"{why}\"");
        let samples = self.samples("dropped_packets_total");
        assert!(samples.iter().any(|(labels, _)| labels.contains(&label)), "there is no reason {why}");
        samples.iter().filter(|(labels, _)| labels.contains(&label)).map(|(_, value)| value).sum()
    }

    /// Every drop reason that grew since `before`, and by how much.
    pub(crate) fn dropped_since(&self, before: &Metrics) -> BTreeMap<String, i64> {
        let reason = |labels: &str| labels.split("why=\"").nth(1).unwrap().trim_end_matches(['"', '}']).to_owned();
        let mut grown = BTreeMap::new();
        for (metrics, sign) in [(self, 1), (before, -1)] {
            for (labels, value) in metrics.samples("dropped_packets_total") {
                *grown.entry(reason(labels)).or_default() += sign * value;
            }
        }
        grown.retain(|_, grown| *grown != 0);
        grown
    }
}

/// Waits until `done`, looking at intervals.
pub(crate) fn within<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(result) = done() {
            return result;
        }
        assert!(started.elapsed() < PATIENCE, "{what} never came");
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// The stream as it is received.
pub(crate) fn sink(call: &Call, stream: &CallStream) -> SinkStats {
    call.stats().receive.unwrap().sinks[stream.index].0
}

/// Waits until this many more frames (for audio: packets) have been decoded; returns the state then.
pub(crate) fn frames_more(call: &Call, stream: &CallStream, more: u64) -> SinkStats {
    all_more([(call, stream)], more);
    sink(call, stream)
}

/// The same for several streams, during the same time.
pub(crate) fn all_more<'a>(streams: impl IntoIterator<Item = (&'a Call, &'a CallStream)>, more: u64) {
    let goal = |(call, stream)| (call, stream, sink(call, stream).frames_decoded + more);
    for (call, stream, goal) in streams.into_iter().map(goal).collect::<Vec<_>>() {
        within("media", || (sink(call, stream).frames_decoded >= goal).then_some(()));
    }
}

pub(crate) fn both_connected(stats: &CallStats) -> bool {
    [&stats.send, &stats.receive].into_iter().flatten().all(|transport| transport.connected)
}

/// The next notification of this type.
pub(crate) fn told(call: &Call, kind: &str) -> serde_json::Value {
    let started = Instant::now();
    while let Some(message) = call.signalling().notification(PATIENCE.saturating_sub(started.elapsed())) {
        if message["type"] == kind {
            return message["data"].clone();
        }
    }
    panic!("nobody said {kind}");
}

pub(crate) fn is_root() -> bool {
    Path::new("/proc/self").metadata().is_ok_and(|process| process.uid() == 0)
}

/// A user without privileges.
pub(crate) const NOBODY: u32 = 65_534;

/// A copy of the program that every user may run; removed on drop.
pub(crate) struct ForAll {
    pub(crate) path: PathBuf,
}

/// `name`: the test's own.
pub(crate) fn runnable_by_all(name: &str) -> ForAll {
    let path = std::env::temp_dir().join(format!("weirgate-e2e-{name}-{}", std::process::id()));
    std::fs::copy(env!("CARGO_BIN_EXE_weirgate"), &path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    ForAll { path }
}

impl Drop for ForAll {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Past the test harness, which keeps the output of tests that pass to itself.
pub(crate) fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

/// Two shards need two cpus.
pub(crate) fn one_core(said: &str) -> bool {
    let one = said.contains("--cores has a wrong value");
    if one {
        skipped("this process may use one cpu only");
    }
    one
}
