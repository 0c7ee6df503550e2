//! Real nodes and real engines on loopback, on ports that were free a moment ago; each ends with its test.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

/// For what has no goal of its own.
pub const WAIT: Duration = Duration::from_secs(60);

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// How long it takes until this is so.
pub fn until(most: Duration, what: &str, mut is_so: impl FnMut() -> bool) -> Duration {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < most, "{what}: not within {most:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    started.elapsed()
}

/// A figure for whoever reads the test's output.
pub fn measured(what: &str, took: Duration) {
    println!("measured: {what}: {:.2} s", took.as_secs_f64());
}

/// Whether there is no engine; then it is said, straight to the descriptor: what a test prints that passes is kept.
pub fn skipped() -> bool {
    let found = Command::new("nats-server").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_err() {
        let _ = writeln!(std::io::stderr(), "SKIPPED: there is no nats-server for the nodes of a cluster");
    }
    found.is_err()
}

pub fn signal(child: &Child, name: &str) {
    let done = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap();
    assert!(done.success());
}

/// Files of one test.
pub struct Place(PathBuf);

impl Place {
    pub fn new() -> Place {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("weirgate-cluster-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        Place(folder)
    }

    pub fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    pub fn write(&self, name: &str, text: &str) -> String {
        // As a careful operator does: nobody reads half of it.
        fs::write(self.path("new"), text).unwrap();
        fs::rename(self.path("new"), self.path(name)).unwrap();
        self.path(name)
    }

    /// A file of keys that the program itself has made.
    pub fn key(&self, name: &str) -> String {
        self.write(name, &key(1))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A line of a file of keys.
pub fn key(id: u8) -> String {
    let made = Command::new(env!("CARGO_BIN_EXE_weirgate")).args(["cluster-key", "--id", &id.to_string()]).output();
    String::from_utf8(made.unwrap().stdout).unwrap()
}

/// A nats-server.
pub struct Engine {
    pub child: Child,
    pub port: u16,
    args: Vec<String>,
}

impl Engine {
    pub fn start() -> Engine {
        Engine::start_with(free_port(), &[])
    }

    pub fn start_with(port: u16, args: &[&str]) -> Engine {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let mut engine = Engine { child: Engine::spawn(port, &args), port, args };
        until(WAIT, "the engine", || {
            assert!(engine.child.try_wait().unwrap().is_none(), "the engine has ended");
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        engine
    }

    fn spawn(port: u16, args: &[String]) -> Child {
        let mut command = Command::new("nats-server");
        command.args(["-a", "127.0.0.1", "-p", &port.to_string()]).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Two servers of one engine.
    pub fn pair() -> [Engine; 2] {
        let routes = [free_port(), free_port()];
        [0, 1].map(|place| {
            let own = format!("nats://127.0.0.1:{}", routes[place]);
            let other = format!("nats://127.0.0.1:{}", routes[1 - place]);
            Engine::start_with(free_port(), &["-cluster", &own, "-cluster_name", "wg", "-routes", &other])
        })
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// As by `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn restart(&mut self) {
        self.child = Engine::spawn(self.port, &self.args);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server, and what it has said.
pub struct Node {
    pub child: Child,
    pub admin: SocketAddr,
    said: Arc<Mutex<String>>,
}

fn hear(output: impl Read + Send + 'static, said: &Arc<Mutex<String>>) {
    let said = Arc::clone(said);
    std::thread::spawn(move || {
        let lines = BufReader::new(output).lines().map_while(Result::ok);
        lines.for_each(|line| *said.lock().unwrap() += &(line + "\n"));
    });
}

impl Node {
    /// With what makes it a node of this cluster.
    pub fn start(name: &str, engine: &str, key: &str) -> Node {
        Node::start_with(&["--cluster", engine, "--cluster-key", key, "--node-name", name])
    }

    pub fn start_with(args: &[&str]) -> Node {
        let mut node = Node::begin(([127, 0, 0, 1], 0).into(), args);
        let started = Instant::now();
        while !node.says("  stop        ") {
            assert!(started.elapsed() < WAIT && node.child.try_wait().unwrap().is_none(), "{}", node.said());
            std::thread::sleep(Duration::from_millis(10));
        }
        let admin = node.said().split("http://").find_map(|rest| rest.split_once("/metrics")).map(|(at, _)| at.parse());
        node.admin = admin.unwrap().unwrap();
        node
    }

    /// Does not wait until it serves.
    pub fn begin(admin: SocketAddr, args: &[&str]) -> Node {
        let media = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_weirgate"));
        command.args(["--listen", "127.0.0.1:0", "--admin-listen", &admin.to_string(), "--rtc-listen", &media]);
        command.args(["--cores", "1", "--io", "plain", "--steering", "handover"]).args(args);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let said = Arc::default();
        hear(child.stdout.take().unwrap(), &said);
        hear(child.stderr.take().unwrap(), &said);
        Node { child, admin, said }
    }

    pub fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    pub fn says(&self, part: &str) -> bool {
        self.said.lock().unwrap().contains(part)
    }

    /// The status and the body of an answer on the admin listener.
    pub fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        let host = self.admin;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    pub fn cluster(&self) -> Value {
        let (status, body) = self.get("/cluster");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// The names of the other nodes that are seen so, sorted.
    pub fn sees(&self, how: &str) -> Vec<String> {
        let view = self.cluster();
        let nodes = view["nodes"].as_array().unwrap().iter().filter(|node| node["seen"] == how);
        let mut names: Vec<String> = nodes.map(|node| node["name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    }

    pub fn bus_is_up(&self) -> bool {
        self.cluster()["bus"]["up"] == true
    }

    /// The value of a series; 0 where it is not there.
    pub fn metric(&self, series: &str) -> u64 {
        let (_, page) = self.get("/metrics");
        let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().unwrap())
    }

    pub fn unopened(&self, why: &str) -> u64 {
        self.metric(&format!("weirgate_bus_unopened_total{{why=\"{why}\"}}"))
    }

    /// CPU time of the process so far.
    pub fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        // The 14th and 15th field of proc(5), in hundredths of a second.
        let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        Duration::from_millis(10 * ticks)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
