//! A thousand peers that come back at once, beside a call: by the load generator's report of the call, and beside the same
//! call without them.

use std::process::Command;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::returner::{Socket, Way};
use crate::server_process::ServerProcess;

const PEERS: usize = 1_000;
const CHANNEL: usize = 20;
const THREADS: usize = 8;

/// Four seconds of a call.
fn call(server: &ServerProcess) -> Value {
    let common = format!("--url ws://{} --warmup 1 --duration 4 --json -", server.address);
    let args = "--publishers 1 --subscribers 2 --video 300";
    let mut command = Command::new(env!("CARGO_BIN_EXE_weirgate"));
    let output = command.arg("load").args(common.split(' ').chain(args.split(' '))).output().unwrap();
    serde_json::from_slice(&output.stdout).expect("a report")
}

fn number(report: &Value, path: &str) -> f64 {
    report.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} is no number in {report:#}"))
}

#[test]
fn a_thousand_returns_in_a_second_leave_the_call_beside_them_alone() {
    let server = ServerProcess::start();
    let mut peers: Vec<(Option<Socket>, String)> = (0..PEERS)
        .map(|n| {
            let query = format!("auth=user{n}&channelId=crowd{}", n / CHANNEL);
            let mut socket = Socket::open(server.address, &query, "").unwrap();
            let reply = socket.ask(&serde_json::json!({ "type": "subscribe", "data": { "resume": true } }));
            (Some(socket), reply["data"]["resume"].as_str().unwrap().to_owned())
        })
        .collect();
    let control = call(&server);
    let mut took = Vec::new();
    let beside = scope(|scope| {
        let call = scope.spawn(|| call(&server));
        sleep(Duration::from_millis(1_500));
        while !call.is_finished() {
            let begun = Instant::now();
            peers.iter_mut().filter_map(|(socket, _)| socket.take()).for_each(Socket::reset);
            all_return(&server, &mut peers);
            took.push(begun.elapsed());
            sleep(Duration::from_secs(1).saturating_sub(begun.elapsed()));
        }
        call.join().unwrap()
    });
    println!("{PEERS} returns took {took:?}");
    for path in ["/measured/delay_us/p50", "/measured/delay_us/p99", "/measured/lost_packets"] {
        println!("{path}: {} beside {} without", number(&beside, path), number(&control, path));
    }
    assert!(number(&beside, "/measured/delivered_packets") > 100.0);
    assert!(number(&beside, "/measured/lost_packets") <= number(&control, "/measured/lost_packets"));
    assert!(number(&beside, "/measured/delay_us/p50") <= 5.0 * number(&control, "/measured/delay_us/p50"));
}

/// Each comes back once.
fn all_return(server: &ServerProcess, peers: &mut [(Option<Socket>, String)]) {
    scope(|scope| {
        for share in peers.chunks_mut(PEERS / THREADS) {
            scope.spawn(move || {
                for (socket, token) in share {
                    let (next, resumed) = Socket::resume(server.address, Way::Subprotocol, token, None).unwrap();
                    (*socket, *token) = (Some(next), resumed["data"]["resume"].as_str().unwrap().to_owned());
                }
            });
        }
    });
}
