//! The binary as a user meets it: settings, help, the machine check, and its end.
#![cfg(feature = "edge")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use tungstenite::Message;
use weirgate::shard::Drops;

const WAIT: Duration = Duration::from_secs(20);

fn weirgate(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weirgate"));
    command.args(args).stdin(Stdio::null()).env_remove("COLUMNS");
    for name in
        ["LISTEN", "RTC_LISTEN", "RTC_EXCLUDE", "ANNOUNCE", "CORES", "STEERING", "IO", "SPREAD", "LOG", "CONFIG"]
    {
        command.env_remove(format!("WEIRGATE_{name}"));
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
}

impl Running {
    fn start(args: &[&str]) -> Running {
        let media = free_port().to_string();
        let args = [&["--listen", "127.0.0.1:0", "--rtc-listen", &media, "--cores", "1"], args].concat();
        let mut child = weirgate(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut banner = String::new();
        while !banner.contains("  stop ") {
            if out.read_line(&mut banner).unwrap() == 0 {
                let mut error = String::new();
                child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
                panic!("it did not start: {banner}{error}");
            }
        }
        let console = banner.lines().find(|line| line.contains("console")).unwrap();
        let address = console.split("http://").nth(1).unwrap().trim_end_matches('/').parse().unwrap();
        Running { child, banner, address }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
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
    let (http, media) = (http.local_addr().unwrap(), (media.local_addr().unwrap(), http, media));
    let output = weirgate(&["--listen", &http.to_string(), "--rtc-listen", &media.0.to_string()]).output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for part in [
        format!("error: TCP port {} of 127.0.0.1 is taken", http.port()),
        format!("error: UDP port {} of 127.0.0.1 is taken", media.0.port()),
        format!("`ss -ltnp 'sport = :{}'`", http.port()),
        "give --rtc-listen another port".to_owned(),
    ] {
        assert!(text.contains(&part), "{part} is missing in {text}");
    }
}

#[test]
fn two_programs_never_share_a_media_port() {
    let first = Running::start(&[]);
    let shard = first.banner.lines().find(|line| line.contains("media on UDP")).unwrap();
    let media = shard.rsplit(' ').next().unwrap();
    let output = weirgate(&["--listen", "127.0.0.1:0", "--rtc-listen", media]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("is taken"), "{}", stderr(&output));
}

#[test]
fn it_starts_says_where_and_ends_cleanly() {
    for signal in ["-TERM", "-INT"] {
        let mut running = Running::start(&["--log", "warn"]);
        for part in
            ["ws://127.0.0.1:", "/socket?auth=USER_ID&channelId=CHANNEL_ID", "shard 0", "cpu ", "steering ", "io "]
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

/// The program in a network of its own that `setup` makes, until its banner has come; what it printed on each stream. None
/// where this user may make none.
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
    // Who names it means it.
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

#[test]
fn a_program_out_of_descriptors_warns_once_and_goes_on() {
    let mut running = Running::start(&["--log", "warn"]);
    let pid = running.child.id().to_string();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let limit = |files: usize| {
        let files = format!("--nofile={files}:20000");
        Command::new("prlimit").args(["--pid", &pid, &files]).status().unwrap().success()
    };
    assert!(limit(open + 8));
    // More than it can take; who waits for a request makes room for the next.
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
    let mut log = String::new();
    running.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert_eq!(log.matches("could not be accepted").count(), 1, "{log}");
}
