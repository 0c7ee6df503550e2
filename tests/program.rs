//! The binary as a user meets it: settings, help, the machine check, and its end.
#![cfg(feature = "edge")]
#![expect(clippy::disallowed_methods, reason = "the real binary: its tests wait by the clock")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tungstenite::Message;
use weirgate::base::units::Bitrate;
use weirgate::client::Call;
use weirgate::client::media_thread::LocalSettings;
use weirgate::shard::Drops;
use weirgate::sim::endpoint::DtlsRole;
use weirgate::wire::codec::Codec;

const WAIT: Duration = Duration::from_secs(20);

fn weirgate(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weirgate"));
    command.args(args).stdin(Stdio::null()).env_remove("COLUMNS");
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WEIRGATE_")) {
        command.env_remove(name);
    }
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A UDP port of loopback that was free a moment ago.
fn free_port() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A running program; killed when a test ends early.
struct Running {
    child: Child,
    banner: String,
    address: SocketAddr,
    admin: Option<SocketAddr>,
    log: Arc<Mutex<String>>,
}

impl Running {
    fn start(args: &[&str]) -> Running {
        Running::start_as(weirgate(&[]), args)
    }

    fn start_as(mut command: Command, args: &[&str]) -> Running {
        let media = free_port().to_string();
        command.args(["--cores", "1"]).args(args);
        let any = "127.0.0.1:0";
        for (flag, value) in [("--listen", any), ("--admin-listen", any), ("--rtc-listen", &media)] {
            if !args.contains(&flag) {
                command.args([flag, value]);
            }
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut banner = String::new();
        while !banner.contains("  stop ") {
            if out.read_line(&mut banner).unwrap() == 0 {
                let mut error = String::new();
                child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
                panic!("it did not start: {banner}{error}");
            }
        }
        let at = |word| {
            let line = banner.lines().find(|line| line.trim_start().starts_with(word)).unwrap();
            line.split("http://").nth(1).map(|rest| rest.split('/').next().unwrap().parse().unwrap())
        };
        let (address, admin) = (at("console").unwrap(), at("admin"));
        let log = Arc::<Mutex<String>>::default();
        let errors = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn({
            let log = Arc::clone(&log);
            move || errors.lines().map_while(Result::ok).for_each(|line| *log.lock().unwrap() += &(line + "\n"))
        });
        Running { child, banner, address, admin, log }
    }

    /// Waits until the log holds a line with all of these.
    fn logged(&self, parts: &[&str]) -> String {
        let started = Instant::now();
        loop {
            let log = self.log.lock().unwrap().clone();
            if let Some(line) = log.lines().find(|line| parts.iter().all(|part| line.contains(part))) {
                return line.to_owned();
            }
            assert!(started.elapsed() < WAIT, "no line with {parts:?} in\n{log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    fn get(&self, path: &str) -> String {
        let admin = self.admin.filter(|_| path == "/metrics");
        let mut stream = TcpStream::connect(admin.unwrap_or(self.address)).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone is what most tests want.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_wrong_setting_is_named_where_it_stands_and_exits_with_2() {
    let path = std::env::temp_dir().join(format!("weirgate-test-{}.toml", std::process::id()));
    std::fs::write(&path, "steering = \"by-file\"\n").unwrap();
    let file = path.to_str().unwrap();

    let by_file = weirgate(&["--config", file]).output().unwrap();
    let by_env = weirgate(&["--config", file]).env("WEIRGATE_STEERING", "by-env").output().unwrap();
    let by_flag =
        weirgate(&["--config", file, "--steering", "by-flag"]).env("WEIRGATE_STEERING", "by-env").output().unwrap();
    let empty = weirgate(&["--config", file]).env("WEIRGATE_STEERING", "").output().unwrap();
    std::fs::remove_file(&path).unwrap();

    for (output, place, value) in [
        (by_file, format!("key `steering` of {file}"), "by-file"),
        (by_env, "WEIRGATE_STEERING".into(), "by-env"),
        (by_flag, "--steering".into(), "by-flag"),
        (empty, format!("key `steering` of {file}"), "by-file"),
    ] {
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.starts_with(&format!("error: {place} has a wrong value: {value:?}")), "{text}");
        assert!(text.contains("right: bpf, handover, port-per-core or auto"), "{text}");
    }
    let listed = weirgate(&[]).env("WEIRGATE_RTC_LISTEN", "127.0.0.1:1,nonsense").output().unwrap();
    assert!(stderr(&listed).contains("WEIRGATE_RTC_LISTEN has a wrong value: \"nonsense\""), "{}", stderr(&listed));
    let unknown = weirgate(&["--lissten", "x"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(2));
    assert!(stderr(&unknown).contains("--listen"), "the nearest flag is offered: {}", stderr(&unknown));
}

#[test]
fn help_reads_as_it_was_agreed() {
    let output = weirgate(&["--help"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let help = String::from_utf8(output.stdout).unwrap();
    assert_eq!(help, include_str!("data/help.txt"), "if this is meant: weirgate --help > tests/data/help.txt");
    assert!(help.lines().all(|line| line.chars().count() <= 100), "it fits a terminal");
    let version = weirgate(&["--version"]).output().unwrap();
    assert_eq!(String::from_utf8(version.stdout).unwrap(), format!("weirgate {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_port_in_use_names_the_cure() {
    let http = TcpListener::bind("127.0.0.1:0").unwrap();
    let media = UdpSocket::bind("127.0.0.1:0").unwrap();
    let admin = TcpListener::bind("127.0.0.1:0").unwrap();
    let (http, media) = (http.local_addr().unwrap(), (media.local_addr().unwrap(), http, media));
    let (listen, rtc, at) = (http.to_string(), media.0.to_string(), admin.local_addr().unwrap());
    let output =
        weirgate(&["--listen", &listen, "--rtc-listen", &rtc, "--admin-listen", &at.to_string()]).output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for part in [
        format!("error: TCP port {} of 127.0.0.1 is taken", http.port()),
        format!("error: UDP port {} of 127.0.0.1 is taken", media.0.port()),
        format!("`ss -ltnp 'sport = :{}'`", http.port()),
        "give --rtc-listen another port".to_owned(),
        format!("error: TCP port {} of 127.0.0.1 is taken", at.port()),
        "give --admin-listen another port, or off".to_owned(),
    ] {
        assert!(text.contains(&part), "{part} is missing in {text}");
    }
}

#[test]
fn two_programs_never_share_a_media_port() {
    let first = Running::start(&[]);
    let shard = first.banner.lines().find(|line| line.contains("media on UDP")).unwrap();
    let media = shard.rsplit(' ').next().unwrap();
    let output =
        weirgate(&["--listen", "127.0.0.1:0", "--admin-listen", "off", "--rtc-listen", media]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("is taken"), "{}", stderr(&output));
}

#[test]
fn it_starts_says_where_and_ends_cleanly() {
    for signal in ["-TERM", "-INT"] {
        let mut running = Running::start(&["--log", "warn"]);
        for part in
            ["ws://127.0.0.1:", "/socket?auth=USER_ID&channelId=CHANNEL_ID", "admin  ", "/metrics", "shard 0", "cpu "]
        {
            assert!(running.banner.contains(part), "{part} is missing in {}", running.banner);
        }
        let health = running.get("/healthz");
        assert!(health.starts_with("HTTP/1.1 200") && health.contains("\"status\":\"ok\""), "{health}");
        let metrics = running.get("/metrics");
        for (why, _) in Drops::default().all() {
            let sample = format!("weirgate_dropped_packets_total{{shard=\"0\",why=\"{why}\"}} 0");
            assert!(metrics.contains(&sample), "{sample} is missing");
        }
        let stream = TcpStream::connect(running.address).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        let url = format!("ws://{}/socket?auth=anna&channelId=room", running.address);
        let (mut socket, _) = tungstenite::client(url, stream).unwrap();
        socket.send(Message::text("{\"type\":\"create-transport\"}")).unwrap();
        let params = socket.read().unwrap().into_text().unwrap();
        assert!(params.contains("\"transport-params\"") && params.contains("127.0.0.1"), "{params}");

        running.signal(signal);
        match socket.read().unwrap() {
            Message::Close(Some(frame)) => assert_eq!(u16::from(frame.code), 1001),
            other => panic!("{other:?} instead of a close frame"),
        }
        drop(socket);
        assert_eq!(running.child.wait().unwrap().code(), Some(0));
        assert!(UdpSocket::bind(params_port(&params)).is_ok(), "the media port is free again");
    }
}

/// The first candidate's address.
fn params_port(params: &str) -> SocketAddr {
    let params: serde_json::Value = serde_json::from_str(params).unwrap();
    let candidate = &params["data"]["iceCandidates"][0];
    format!("{}:{}", candidate["ip"].as_str().unwrap(), candidate["port"]).parse().unwrap()
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut running = Running::start(&["--log", "warn"]);
    let url = format!("ws://{}/socket?auth=anna&channelId=room", running.address);
    let stream = TcpStream::connect(running.address).unwrap();
    stream.set_read_timeout(Some(WAIT)).unwrap();
    let (mut socket, _) = tungstenite::client(url, stream).unwrap();
    running.signal("-TERM");
    assert!(matches!(socket.read().unwrap(), Message::Close(_)));
    // The socket stays open, so that the program still waits for its goodbye.
    running.signal("-INT");
    assert_eq!(running.child.wait().unwrap().code(), Some(130));
    drop(socket);
}

/// The program in a network of its own that `setup` makes, until its banner has come; returns its output on each
/// stream. None where this user may make none.
fn start_in_network(setup: &str, args: &str) -> Option<(String, String)> {
    let allowed = Command::new("unshare").args(["--net", "ip", "link"]).output().is_ok_and(|run| run.status.success());
    if !allowed {
        eprintln!("skipped: this user may not make a network namespace");
        return None;
    }
    let script =
        format!("set -e; ip link set lo up; {setup}; exec {} --cores 1 {args}", env!("CARGO_BIN_EXE_weirgate"));
    let mut shell = Command::new("unshare");
    shell.args(["--net", "sh", "-c", &script]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = shell.spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut banner = String::new();
    while !banner.contains("  stop ") && out.read_line(&mut banner).unwrap() > 0 {}
    // Already gone is one of the ends.
    let _ = child.kill();
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    child.wait().unwrap();
    Some((banner, text))
}

/// Two interfaces, the first with an IPv6 address that stays tentative for a minute.
const TENTATIVE: &str = "ip link add wt0 type veth peer name wt1; echo 60 > /proc/sys/net/ipv6/conf/wt0/dad_transmits; \
    ip link set wt0 up; ip link set wt1 up; ip address add 192.0.2.1/24 dev wt0; ip address add 198.51.100.1/24 dev wt1; \
    ip address add 2001:db8::5/64 dev wt0";

#[test]
fn a_tentative_address_of_a_wildcard_is_left_out_with_a_warning() {
    let args = "--listen 127.0.0.1:4443 --rtc-listen [::]:40000 --rtc-listen 0.0.0.0:40000";
    let Some((banner, text)) = start_in_network(TENTATIVE, args) else { return };
    let media = banner.lines().find(|line| line.contains("media on UDP")).unwrap_or_else(|| panic!("{banner}{text}"));
    assert!(media.ends_with("media on UDP 192.0.2.1:40000 198.51.100.1:40000"), "{media}");
    assert!(text.contains("warning: 2001:db8::5 of wt0 cannot be bound"), "{text}");
    assert!(text.contains("cure: `ip address show dev wt0` says which"), "{text}");
    // An explicit address is used as it is.
    let named = "--listen 127.0.0.1:4443 --rtc-listen [2001:db8::5]:40000";
    let (banner, text) = start_in_network(TENTATIVE, named).unwrap();
    assert!(banner.is_empty() && text.contains("error: 2001:db8::5 is no address of this machine"), "{banner}{text}");
}

#[test]
fn an_excluded_interface_or_range_is_no_candidate() {
    for exclude in ["wt1", "wt1*,nothing0", "198.51.100.0/24", "198.51.100.1"] {
        let args = format!("--listen 127.0.0.1:4443 --rtc-exclude '{exclude}'");
        let Some((banner, text)) = start_in_network(TENTATIVE, &args) else { return };
        assert!(banner.contains("media on UDP 192.0.2.1:40000\n"), "{exclude}: {banner}{text}");
    }
    let (banner, text) = start_in_network(TENTATIVE, "--listen 127.0.0.1:4443 --rtc-exclude 'wt*,lo'").unwrap();
    assert!(
        banner.is_empty() && text.contains("error: --rtc-exclude leaves no address to listen at"),
        "{banner}{text}"
    );
}

#[test]
fn an_announced_address_is_what_clients_are_told() {
    let running = Running::start(&["--announce", "203.0.113.7"]);
    let (mut socket, _) = tungstenite::client(
        format!("ws://{}/socket?auth=anna&channelId=room", running.address),
        TcpStream::connect(running.address).unwrap(),
    )
    .unwrap();
    socket.send(Message::text("{\"type\":\"create-transport\"}")).unwrap();
    let params: serde_json::Value = serde_json::from_str(&socket.read().unwrap().into_text().unwrap()).unwrap();
    let candidates = params["data"]["iceCandidates"].as_array().unwrap();
    assert_eq!(candidates.len(), 1, "{candidates:?}");
    assert_eq!(candidates[0]["address"], "203.0.113.7");
    assert!(running.banner.contains(&format!("media on UDP 203.0.113.7:{}", candidates[0]["port"])));
}

/// Joins as a page of `origin` would; returns the status, and the body.
fn join_from(running: &Running, origin: &str) -> String {
    let mut stream = TcpStream::connect(running.address).unwrap();
    stream.set_read_timeout(Some(WAIT)).unwrap();
    let key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    let upgrade = format!("Upgrade: websocket\r\nConnection: Upgrade\r\n{key}");
    let path = "/socket?auth=anna&channelId=room";
    write!(stream, "GET {path} HTTP/1.1\r\nHost: sfu.example\r\nOrigin: {origin}\r\n{upgrade}\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let mut part = [0; 2048];
    // A refusal has a body, which may come behind its head.
    while !answer.starts_with(b"HTTP/1.1 101") && !answer.ends_with(b"}") {
        match stream.read(&mut part).unwrap() {
            0 => break,
            len => answer.extend_from_slice(&part[..len]),
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_strange_origin_is_refused_at_the_upgrade_and_in_the_log_once_in_a_while() {
    let running = Running::start(&["--allow-origin", "https://meet.example", "--allow-origin", "http://b.example:81"]);
    for origin in ["https://meet.example", "http://b.example:81", "http://localhost:5173", "https://sfu.example"] {
        assert!(join_from(&running, origin).starts_with("HTTP/1.1 101"), "{origin}");
    }
    for _ in 0..20 {
        let refused = join_from(&running, "https://evil.example");
        assert!(refused.starts_with("HTTP/1.1 403") && refused.contains("--allow-origin https://evil.example"));
    }
    let line = running.logged(&["WARN", "\"https://evil.example\"", "--allow-origin"]);
    assert!(line.contains("host=Some(\"sfu.example\")"), "{line}");
    assert_eq!(running.log.lock().unwrap().matches("evil.example").count(), 1, "a flood is one line");
    assert!(running.get("/metrics").contains("weirgate_origins_refused_total 20\n"));

    let by_env = Running::start_as(
        {
            let mut command = weirgate(&[]);
            command.env("WEIRGATE_ALLOW_ORIGIN", "https://a.example,https://b.example");
            command
        },
        &[],
    );
    assert!(join_from(&by_env, "https://b.example").starts_with("HTTP/1.1 101"));
    assert!(join_from(&by_env, "https://c.example").starts_with("HTTP/1.1 403"));
}

#[test]
fn without_an_admin_listener_metrics_are_nowhere() {
    let running = Running::start(&["--admin-listen", "off"]);
    assert!(running.banner.contains("  admin       off\n"), "{}", running.banner);
    assert!(running.get("/metrics").starts_with("HTTP/1.1 404"));
    let ready = running.get("/readyz");
    assert!(ready.starts_with("HTTP/1.1 200") && ready.contains("\"status\":\"ready\""), "{ready}");
}

#[test]
fn other_signals_end_nothing() {
    let mut running = Running::start(&[]);
    for (signal, name) in [("-HUP", "SIGHUP"), ("-USR1", "SIGUSR1"), ("-USR2", "SIGUSR2")] {
        running.signal(signal);
        running.logged(&["INFO", &format!("{name} changes nothing")]);
        assert!(running.get("/healthz").starts_with("HTTP/1.1 200"), "{signal}");
    }
    running.signal("-TERM");
    assert_eq!(running.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_check_finds_what_a_start_would_and_starts_nothing() {
    let media = free_port().to_string();
    let fine = ["check", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--rtc-listen", &media];
    let output = weirgate(&fine).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{told}{}", stderr(&output));
    assert!(told.starts_with("0 errors, ") && !told.contains("console"), "{told}");

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap().to_string();
    let output =
        weirgate(&["check", "--listen", &at, "--admin-listen", "off", "--rtc-listen", &media]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("is taken") && output.stdout.starts_with(b"1 errors, "), "{}", stderr(&output));
    assert_eq!(weirgate(&["check", "--io", "epoll"]).output().unwrap().status.code(), Some(2));
}

#[test]
fn a_variable_that_sets_nothing_is_named_with_the_one_that_was_meant() {
    let output = weirgate(&["check", "--listen", "127.0.0.1:0", "--admin-listen", "off"])
        .env("WEIRGATE_LOGFORMAT", "json")
        .env("WEIRGATE_RTC_LISTEN", free_port().to_string())
        .output()
        .unwrap();
    let text = stderr(&output);
    assert!(text.contains("warning: the environment variable WEIRGATE_LOGFORMAT sets nothing"), "{text}");
    assert!(text.contains("WEIRGATE_LOG_FORMAT;"), "{text}");
    assert!(!text.contains("WEIRGATE_RTC_LISTEN"), "{text}");
}

/// Both ends of a call on one server, until the picture runs; then both leave.
fn short_call(running: &Running, user: &str) {
    let local = LocalSettings { role: DtlsRole::Server, ..LocalSettings::default() };
    let mut alice = Call::connect_as(running.address, user, "room", local).unwrap();
    let video = alice.produce_video(Codec::Vp8, Bitrate::kbps(300)).unwrap();
    let mut bob = Call::connect(running.address, "bob", "room").unwrap();
    bob.consume(Some(&video.id)).unwrap();
    let started = Instant::now();
    while bob.stats().receive.is_none_or(|receive| receive.sinks.iter().all(|(sink, _)| sink.frames_decoded < 30)) {
        assert!(started.elapsed() < WAIT, "no picture");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn the_life_of_a_peer_stands_in_the_log() {
    let running = Running::start(&[]);
    short_call(&running, "alice");
    let joined = running.logged(&["weirgate::peer: joined", "user=\"alice\""]);
    assert!(joined.contains("channel=\"room\"") && joined.contains("remote=127.0.0.1"), "{joined}");
    let peer = joined.split("peer=\"").nth(1).unwrap().split('"').next().unwrap();
    let connected = running.logged(&["weirgate::peer: connected", peer]);
    let media = running.banner.split("media on UDP ").nth(1).unwrap().lines().next().unwrap();
    for part in [
        &format!("local={media} remote=127.0.0.1:"),
        "dtls=\"DTLS 1.2 TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256\" srtp=\"AEAD_AES_128_GCM\"",
        " announced_ms=",
        " checked_ms=",
        " connected_ms=",
        " handshake_ms=",
        " first_in_ms=",
        " first_out_ms=",
    ] {
        assert!(connected.contains(part), "{part} is missing in {connected}");
    }
    let left = running.logged(&["weirgate::peer: left", peer]);
    for part in ["why=\"l", " seconds=", " transports=1 connected=1 bytes_in=", " lost_in=0 ", " refused=0"] {
        assert!(left.contains(part), "{part} is missing in {left}");
    }
    let bytes: u64 = left.split("bytes_in=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(bytes > 10_000, "{left}");
}

#[test]
fn the_log_is_json_and_names_no_address_where_that_is_wanted() {
    let mut running = Running::start(&["--log-format", "json", "--log-addresses", "off", "--log", "debug"]);
    short_call(&running, "a%E2%80%AE%22b");
    running.logged(&["\"left\"", "bob"]);
    running.signal("-TERM");
    assert_eq!(running.child.wait().unwrap().code(), Some(0));
    running.logged(&["stopping"]);
    let log = running.log.lock().unwrap().clone();
    let lines: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect();
    let of_peers = |message: &str| {
        let found = lines.iter().find(|line| line["target"] == "weirgate::peer" && line["message"] == message);
        found.unwrap_or_else(|| panic!("no {message} in {log}"))
    };
    assert_eq!(of_peers("joined")["user"], "a\\u{202e}\"b");
    assert!(of_peers("connected")["connected_ms"].is_u64() && of_peers("left")["bytes_in"].is_u64());
    let media = running.banner.split("media on UDP ").nth(1).unwrap().lines().next().unwrap();
    let elsewhere = log.replace(media, "").replace(&running.address.to_string(), "");
    assert!(!elsewhere.contains("127.0.0.1"), "{elsewhere}");
}

#[test]
fn killed_and_started_again_it_serves_on_the_same_ports() {
    let first = Running::start(&[]);
    let media = first.banner.split("media on UDP ").nth(1).unwrap().lines().next().unwrap().to_owned();
    let (listen, admin) = (first.address.to_string(), first.admin.unwrap().to_string());
    // A call that is under way, and sockets that only listen: all of them break off.
    let mut alice = Call::connect(first.address, "alice", "room").unwrap();
    alice.produce_audio().unwrap();
    let idle: Vec<_> = (0..50).map(|_| TcpStream::connect(first.address).unwrap()).collect();
    first.signal("-KILL");
    let mut first = first;
    assert!(!first.child.wait().unwrap().success());
    let again = Running::start(&["--listen", &listen, "--admin-listen", &admin, "--rtc-listen", &media]);
    assert!(again.get("/readyz").starts_with("HTTP/1.1 200"));
    short_call(&again, "alice");
    drop((alice, idle));
}

#[test]
fn a_program_out_of_descriptors_warns_once_and_goes_on() {
    let mut running = Running::start(&["--log", "warn"]);
    let pid = running.child.id().to_string();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let limit = |files: usize| {
        let files = format!("--nofile={files}:");
        Command::new("prlimit").args(["--pid", &pid, &files]).status().unwrap().success()
    };
    assert!(limit(open + 8));
    // More than it can take; a connection that waits for a request makes room for the next.
    let held: Vec<TcpStream> = (0..60).map(|_| TcpStream::connect(running.address).unwrap()).collect();
    std::thread::sleep(Duration::from_secs(2));
    let health = running.get("/healthz");
    assert!(health.starts_with("HTTP/1.1 200"), "{health}");
    drop(held);
    let metrics = running.get("/metrics");
    let failed = metrics.lines().find_map(|line| line.strip_prefix("weirgate_http_accepts_failed_total "));
    assert!(failed.unwrap().parse::<u64>().unwrap() > 1, "{failed:?}");
    running.signal("-TERM");
    running.child.wait().unwrap();
    let log = running.log.lock().unwrap().clone();
    assert_eq!(log.matches("could not be accepted").count(), 1, "{log}");
}
