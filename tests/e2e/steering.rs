//! Two shards on one port: 40 transports whose datagrams the kernel spreads, under each way of steering.

use std::os::unix::process::CommandExt;
use std::process::Command;

use weirgate::client::Call;
use weirgate::client::call::CallStream;

use crate::support::{NOBODY, Server, all_more, is_root, one_core, runnable_by_all, sink, skipped};

const CHANNELS: usize = 5;
const PEERS_PER_CHANNEL: usize = 4;

/// 20 peers with two transports each; every one speaks and hears its neighbour.
struct Town {
    peers: Vec<(Call, CallStream)>,
}

impl Town {
    fn settle(server: &Server) -> Town {
        let mut peers = Vec::new();
        for channel in 0..CHANNELS {
            let name = format!("channel {channel}").replace(' ', "-");
            let mut calls: Vec<_> =
                (0..PEERS_PER_CHANNEL).map(|peer| server.join_channel(&format!("peer{peer}"), &name)).collect();
            let spoken: Vec<_> = calls.iter_mut().map(|call| call.produce_audio().unwrap()).collect();
            for (place, mut call) in calls.into_iter().enumerate() {
                let heard = call.consume(Some(&spoken[(place + 1) % PEERS_PER_CHANNEL].id)).unwrap();
                peers.push((call, heard));
            }
        }
        let town = Town { peers };
        all_more(town.peers.iter().map(|(call, heard)| (call, heard)), 10);
        town
    }

    /// Until thousands of datagrams more have reached the server.
    fn live_on(&self, server: &Server) {
        let from = server.metrics().sum("udp_datagrams_received_total");
        server.until("3,000 datagrams", |metrics| metrics.sum("udp_datagrams_received_total") > from + 3_000);
    }

    fn heard_everything(&self) {
        all_more(self.peers.iter().map(|(call, heard)| (call, heard)), 1);
        for (call, heard) in &self.peers {
            let stats = sink(call, heard);
            assert_eq!((stats.lost, stats.duplicates, stats.foreign), (0, 0, 0), "{stats:?}");
            let all = call.stats();
            for transport in [all.send.unwrap(), all.receive.unwrap()] {
                assert_eq!((transport.fingerprint_right, transport.stray), (Some(true), 0));
            }
        }
    }
}

/// Each shard owns a part of the town.
fn both_shards_serve(server: &Server) {
    let metrics = server.metrics();
    assert_eq!(metrics.sum("transports"), 2 * (CHANNELS * PEERS_PER_CHANNEL) as i64);
    for shard in 0..2 {
        assert!(metrics.of_shard("transports", shard) >= 16, "{metrics:?}");
        assert!(metrics.of_shard("udp_datagrams_received_total", shard) > 0, "{metrics:?}");
    }
}

#[test]
fn the_kernel_brings_every_datagram_to_its_shard() {
    let command = || Command::new(env!("CARGO_BIN_EXE_weirgate"));
    let server = match Server::spawn(command, &["--cores", "2", "--steering", "bpf"]) {
        Ok(server) => server,
        Err(said) if said.contains("CAP_BPF") && !is_root() => {
            return skipped("the kernel's steering needs root or CAP_BPF");
        }
        Err(said) if one_core(&said) => return,
        Err(said) => panic!("{said}"),
    };
    assert!(server.banner.contains("steering    bpf"), "{}", server.banner);
    let town = Town::settle(&server);
    both_shards_serve(&server);
    let before = server.metrics();
    town.live_on(&server);
    let after = server.metrics();
    assert_eq!(after.sum("handed_over_datagrams_total"), before.sum("handed_over_datagrams_total"));
    for name in ["steering_unknown_sender_total", "steering_unselected_total", "steering_paths_full_total"] {
        assert_eq!(after.sum(name), 0, "{name}");
    }
    assert_eq!(after.sum("steering_paths"), after.sum("transports"));
    town.heard_everything();
    drop(town);
    server.until("an empty map", |metrics| metrics.sum("steering_paths") == 0);
    server.stop();
}

#[test]
fn without_the_right_to_steer_shards_hand_over_and_say_so() {
    // Where the binary lies another user may not look.
    let program = runnable_by_all("steering");
    let command = || {
        let mut command = Command::new(&program.path);
        if is_root() {
            command.uid(NOBODY).gid(NOBODY).current_dir("/");
        }
        command
    };
    let server = Server::spawn(command, &["--cores", "2", "--steering", "auto"]);
    let server = match server {
        Ok(server) => server,
        Err(said) if one_core(&said) => return,
        Err(said) => panic!("{said}"),
    };
    if server.banner.contains("steering    bpf") {
        return skipped("this user has CAP_BPF, so nothing is handed over");
    }
    assert!(server.banner.contains("steering    handover"), "{}", server.banner);
    let said = server.log();
    let warning = said.lines().find(|line| line.contains("WARN") && line.contains("CAP_BPF"));
    assert!(warning.is_some_and(|line| line.contains("hand them over")), "{said}");
    let town = Town::settle(&server);
    both_shards_serve(&server);
    let before = server.metrics();
    town.live_on(&server);
    let after = server.metrics();
    let grown = |name| after.sum(name) - before.sum(name);
    // A client speaks as soon as its check is answered: by then the other shard knows whose it is.
    assert_eq!(after.dropped("unknown_path"), 0, "{after:?}");
    assert!(grown("handed_over_datagrams_total") > 300, "{}", grown("handed_over_datagrams_total"));
    assert_eq!((after.dropped("mesh_full"), after.dropped("mesh_unfit")), (0, 0));
    town.heard_everything();
    drop(town);
    server.until("an empty town", |metrics| metrics.sum("transports") == 0 && metrics.sum("paths") == 0);
    server.stop();
}

#[test]
fn with_a_port_each_nothing_is_handed_over() {
    let command = || Command::new(env!("CARGO_BIN_EXE_weirgate"));
    let server = match Server::spawn(command, &["--cores", "2", "--steering", "port-per-core"]) {
        Ok(server) => server,
        Err(said) if one_core(&said) => return,
        Err(said) => panic!("{said}"),
    };
    let ports: Vec<u16> = (server.banner.lines())
        .filter(|line| line.contains("media on UDP"))
        .map(|line| line.rsplit(':').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(ports, [ports[0], ports[0] + 1]);
    let town = Town::settle(&server);
    both_shards_serve(&server);
    town.live_on(&server);
    let metrics = server.metrics();
    assert_eq!((metrics.sum("handed_over_datagrams_total"), metrics.dropped("unknown_path")), (0, 0));
    town.heard_everything();
    drop(town);
    server.stop();
}
