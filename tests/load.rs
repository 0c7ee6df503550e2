//! `weirgate load` against the server it is shipped with, both as processes: small loads arrive whole, deliberate loss
//! is seen, and the report has the fields that the documents name.

#![cfg(feature = "edge")]
#![expect(clippy::disallowed_methods, reason = "a real server on real sockets: its tests wait by the clock")]

mod server_process;

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use server_process::ServerProcess;

/// Two seconds of a load: its report, and whether its exit code was `code`.
fn load_on(server: &ServerProcess, args: &str, code: i32) -> Value {
    let pid = server.child.id();
    let common = format!("--url ws://{} --pid {pid} --warmup 0.5 --duration 2 --json - {args}", server.address);
    let output = load(&common);
    let table = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args}\n{table}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {table}"))
}

fn load(args: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weirgate"));
    command.arg("load").args(args.split(' ').filter(|arg| !arg.is_empty())).output().unwrap()
}

fn number(report: &Value, path: &str) -> f64 {
    report.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} is no number in {report:#}"))
}

#[test]
fn small_loads_arrive_whole() {
    let server = ServerProcess::start();
    for (args, streams) in [
        ("--publishers 1 --subscribers 2 --video 300 --profile aead", 4.0),
        ("--publishers 1 --subscribers 1 --video 300 --audio 0 --profile cm --gro", 1.0),
        ("--publishers 1 --subscribers 1 --video 500 --audio 0 --spacing 2", 1.0),
        ("--channels 2 --peers 3 --video 0", 12.0),
    ] {
        let report = load_on(&server, args, 0);
        assert_eq!(report["ok"], true, "{report:#}");
        assert_eq!(number(&report, "/measured/lost_packets"), 0.0);
        assert_eq!(number(&report, "/measured/sequence_holes"), 0.0);
        assert_eq!(number(&report, "/measured/streams"), streams);
        assert!(number(&report, "/measured/delivered_packets") > streams * 30.0, "{report:#}");
        assert!(number(&report, "/measured/delay_us/p50") > 0.0);
        assert!(number(&report, "/measured/delay_us/p99") >= number(&report, "/measured/delay_us/p50"));
        assert!(number(&report, "/measured/server_cpu_ns_per_packet") > 0.0);
        assert!(number(&report, "/setup/connected_ms/p50") > 0.0);
        // What another SRTP reads otherwise is a wrong packet, and the report not ok.
        assert!(number(&report, "/measured/compared_packets") > streams, "{report:#}");
    }
}

#[test]
fn what_is_lost_on_purpose_is_seen_and_mostly_repaired() {
    let server = ServerProcess::start();
    let report = load_on(&server, "--publishers 1 --subscribers 2 --video 1000 --loss 5", 0);
    for path in ["dropped_on_purpose_sending", "dropped_on_purpose_receiving", "nacked_packets", "repaired_packets"] {
        assert!(number(&report, &format!("/measured/{path}")) > 0.0, "{path}: {report:#}");
    }
    // Audio has no repair, video has.
    assert!(number(&report, "/measured/lost_packets") > 0.0, "{report:#}");
    let video = load_on(&server, "--publishers 1 --subscribers 2 --video 1000 --audio 0 --loss 5", 0);
    assert!(number(&video, "/measured/loss_percent") < 5.0, "{video:#}");
}

#[test]
fn transports_alone_and_a_search_are_reported() {
    let server = ServerProcess::start();
    let idle = load_on(&server, "--idle --subscribers 3 --peers 1", 0);
    assert_eq!((number(&idle, "/setup/connected"), number(&idle, "/measured/expected_packets")), (5.0, 0.0));
    let search = load_on(&server, "--search --publishers 2 --subscribers 1 --video 0", 0);
    let steps = search["search"].as_array().unwrap();
    assert_eq!(steps.iter().map(|step| number(step, "/publishers")).collect::<Vec<_>>(), [1.0, 2.0]);
    assert_eq!(number(&search, "/measured/streams"), 2.0, "the best step: {search:#}");
}

#[test]
fn a_load_goes_over_tls_to_who_is_trusted() {
    let server = ServerProcess::start_with(&["--tls", "self-signed"]);
    let common = format!("--url wss://{} --peers 2 --video 0 --warmup 0.5 --duration 1", server.address);
    let stranger = load(&format!("{common} --setup 3"));
    let told = String::from_utf8_lossy(&stranger.stdout);
    assert_eq!(stranger.status.code(), Some(1), "{told}");
    assert!(told.contains("invalid peer certificate") && told.contains("needs --insecure"), "{told}");
    let output = load(&format!("{common} --insecure --json -"));
    let table = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{table}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["ok"], number(&report, "/measured/streams")), (&Value::Bool(true), 2.0), "{report:#}");
}

#[test]
fn a_load_comes_in_by_a_token() {
    let folder = std::env::temp_dir().join(format!("weirgate-load-token-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let key = folder.join("key");
    fs::write(&key, [b'k'; 32]).unwrap();
    let key = key.to_str().unwrap();
    let server = ServerProcess::start_with(&["--auth", "token", "--auth-key", key]);
    let common = format!("--url ws://{}/socket", server.address);
    let stranger = load(&format!("{common} --setup 3"));
    assert_eq!(stranger.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&stranger.stdout).contains("unauthorized"));
    let mut mint = Command::new(env!("CARGO_BIN_EXE_weirgate"));
    let made = mint.args(["token", "--key", key, "--user", "load", "--channel", "load-*"]).output().unwrap();
    let token = String::from_utf8(made.stdout).unwrap();
    let media = "--peers 2 --video 0 --warmup 0.5 --duration 1";
    let output = load(&format!("{common}?auth={} {media}", token.trim()));
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_load_that_cannot_be_set_up_says_why() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = load(&format!("--url ws://{nobody} --setup 1"));
    let told = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("0 of 2 peers joined") && told.contains("no WebSocket at ws://"), "{told}");
    for wrong in ["--preset nonsense", "--loss 200", "--search --idle"] {
        assert_eq!(load(wrong).status.code(), Some(2), "{wrong}");
    }
    let unreadable = load("--pid 4294967295");
    assert_eq!(unreadable.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unreadable.stderr).contains("the CPU time of process 4294967295"));
}

/// Every path to a value, those of objects left out.
fn paths(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let deeper = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                paths(value, &deeper, found);
            }
        }
        _ => {
            found.insert(path.to_owned());
        }
    }
}

#[test]
fn the_report_has_the_fields_that_the_documents_name() {
    let figures = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/FIGURES.md")).unwrap();
    let section = figures.split("\n## ").find(|section| section.starts_with("Measuring with weirgate load")).unwrap();
    let mut documented = BTreeSet::new();
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let names = row.trim_start_matches("| ").split(" | ").next().unwrap();
        documented.extend(names.split('`').skip(1).step_by(2).flat_map(|name| {
            // One name may stand for several: delay_us.{p50,p99}.
            let (head, list) = name.split_once('{').unwrap_or((name, "}"));
            list.trim_end_matches('}').split(',').map(|tail| format!("{head}{tail}")).collect::<Vec<_>>()
        }));
    }
    let report = load_on(&ServerProcess::start(), "--publishers 1 --subscribers 1 --video 100 --audio 50", 0);
    let mut reported = BTreeSet::new();
    paths(&report, "", &mut reported);
    assert_eq!(reported, documented);
}
