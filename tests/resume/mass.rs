//! A proxy that restarts: the connections of a whole room are cut at once. All come back, half of them seconds after the
//! others, and what each was told of who is away adds up.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::WAIT;
use crate::cut::Proxy;
use crate::returner::{Socket, Way};
use crate::server_process::ServerProcess;

const PEERS: usize = 300;

struct Client {
    socket: Socket,
    token: String,
    external: String,
    received: u64,
    away: BTreeSet<String>,
    told: usize,
}

impl Client {
    fn subscribe(mut socket: Socket, resume: bool) -> Client {
        let reply = socket.ask(&json!({ "type": "subscribe", "data": { "resume": resume } }))["data"].take();
        let text = |name: &str| reply[name].as_str().unwrap_or_default().to_owned();
        Client { socket, token: text("resume"), external: text("peerId"), received: 1, away: BTreeSet::new(), told: 0 }
    }

    fn hears(&mut self) {
        let text = self.socket.hear();
        let id = text["data"]["id"].as_str().expect("it is about a peer").to_owned();
        match text["type"].as_str().unwrap() {
            "peer-away" => assert!(self.away.insert(id), "{text} twice"),
            "peer-back" => assert!(self.away.remove(&id), "{text} without the other"),
            _ => panic!("{text}"),
        }
        self.received += 1;
        self.told += 1;
    }

    fn hears_until_away(&mut self, away: &BTreeSet<String>) {
        while self.away != *away {
            self.hears();
        }
    }

    fn comes_back(&mut self, proxy: &Proxy) {
        let started = Instant::now();
        loop {
            match Socket::resume(proxy.address, Way::Subprotocol, &self.token, Some(self.received)) {
                Ok((socket, resumed)) => {
                    self.token = resumed["data"]["resume"].as_str().unwrap().to_owned();
                    return self.socket = socket;
                }
                // Its answer may be late.
                Err(why) => assert!(started.elapsed() < WAIT && !why.contains("error\""), "{why}"),
            }
        }
    }

    fn has_heard_all(&mut self) {
        let reply = self.socket.ask(&json!({ "type": "ping" }));
        assert_eq!(reply["type"], "pong", "nothing else was left to be told: {reply}");
    }
}

#[test]
fn a_room_whose_connections_are_all_cut_comes_back_whole_and_each_is_told_what_adds_up() {
    let server = ServerProcess::start_with(&["--resume-grace", "120s"]);
    let proxy = Proxy::start(server.address);
    let open = |address, n: usize| Socket::open(address, &format!("auth=user{n}&channelId=room"), "").unwrap();
    let watcher = open(server.address, PEERS);
    let sockets: Vec<_> = (0..PEERS).map(|n| open(proxy.address, n)).collect();
    let mut clients: Vec<_> = sockets.into_iter().map(|socket| Client::subscribe(socket, true)).collect();
    let mut watcher = Client::subscribe(watcher, false);
    proxy.cut_from_now(Default::default());
    let all: BTreeSet<_> = clients.iter().map(|client| client.external.clone()).collect();
    watcher.hears_until_away(&all);

    let (soon, late) = clients.split_at_mut(PEERS / 2);
    let still: BTreeSet<_> = late.iter().map(|client| client.external.clone()).collect();
    soon.iter_mut().for_each(|client| client.comes_back(&proxy));
    soon.iter_mut().for_each(|client| client.hears_until_away(&still));
    watcher.hears_until_away(&still);
    late.iter_mut().for_each(|client| client.comes_back(&proxy));
    // Longer than a break has to be to be told.
    sleep(Duration::from_millis(2_500));
    let nobody = BTreeSet::new();
    for client in clients.iter_mut().chain([&mut watcher]) {
        client.hears_until_away(&nobody);
        client.has_heard_all();
    }
    let told: usize = clients.iter().map(|client| client.told).sum();
    println!("{PEERS} came back; all together were told {told} times who is away or back");
    assert_eq!((watcher.told, watcher.away.len()), (2 * PEERS, 0));
    let listed = watcher.socket.ask(&json!({ "type": "subscribe" }));
    let peers = listed["data"]["peers"].as_array().unwrap();
    let here = peers.iter().filter(|peer| peer.get("away").is_none() && all.contains(peer["id"].as_str().unwrap()));
    assert_eq!(here.count(), PEERS, "none ended");
}
