//! A thousand joins and leaves: nothing stays behind, by the program's own counts and by the memory it holds.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};
use weirgate::base::units::Bitrate;
use weirgate::client::Call;
use weirgate::wire::codec::Codec;

use crate::support::{Server, both_connected, frames_more, within};

const JOINS: usize = 1_000;
/// The number of sockets that are busy at the same time.
const AT_ONCE: usize = 4;
/// One client in so many really talks.
const TALKERS: usize = 25;

/// A client of the five messages that never sends a datagram: the server has to do with it all the same.
pub(crate) struct Mute {
    socket: WebSocket<TcpStream>,
}

impl Mute {
    pub(crate) fn join(server: SocketAddr, user: &str, channel: &str) -> Mute {
        let stream = TcpStream::connect(server).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let url = format!("ws://{server}/socket?auth={user}&channelId={channel}");
        Mute { socket: tungstenite::client(url, stream).unwrap().0 }
    }

    pub(crate) fn ask(&mut self, kind: &str, data: Value) -> Value {
        self.socket.send(Message::text(json!({ "type": kind, "data": data }).to_string())).unwrap();
        let reply: Value = serde_json::from_str(self.socket.read().unwrap().to_text().unwrap()).unwrap();
        assert_ne!(reply["type"], "error", "{kind}: {reply}");
        reply["data"].clone()
    }

    fn five_messages(&mut self, ssrc: usize) {
        let capabilities = self.ask("get-rtp-capabilities", json!({}));
        self.ask("create-transport", json!({}));
        self.ask("create-transport", json!({}));
        let fingerprint = json!({ "algorithm": "sha-256", "value": vec!["AB"; 32].join(":") });
        self.ask("connect-transport", json!({ "dtlsParameters": { "role": "client", "fingerprints": [fingerprint] } }));
        let rtp = json!({
            "mid": "0",
            "codecs": [{ "mimeType": "audio/opus", "payloadType": 111, "clockRate": 48000, "channels": 2 }],
            "encodings": [{ "ssrc": ssrc }],
        });
        self.ask("produce", json!({ "kind": "audio", "rtpParameters": rtp }));
        self.ask("consume", json!({ "rtpCapabilities": capabilities }));
    }
}

/// Joins a host's channel, with media or without, always with all five messages, and leaves without a word.
fn visit(server: SocketAddr, number: usize) {
    let (user, channel) = (format!("guest{number}"), format!("room{}", number % AT_ONCE));
    if number.is_multiple_of(TALKERS) {
        let mut call = Call::connect(server, &user, &channel).unwrap();
        call.produce_audio().unwrap();
        let video = call.produce_video(Codec::Vp8, Bitrate::kbps(300)).unwrap();
        let heard = call.consume(None).unwrap();
        frames_more(&call, &heard, 5);
        within("both transports", || both_connected(&call.stats()).then_some(()));
        if number.is_multiple_of(2 * TALKERS) {
            call.signalling().request("close-producer", json!({ "producerId": video.id })).unwrap();
        }
    } else {
        let mut mute = Mute::join(server, &user, &channel);
        mute.five_messages(10_000 + number);
        if number.is_multiple_of(2) {
            mute.socket.close(None).unwrap();
        }
    }
}

fn visits(server: SocketAddr, numbers: std::ops::Range<usize>) {
    std::thread::scope(|scope| {
        for lane in 0..AT_ONCE {
            let numbers = numbers.clone();
            scope.spawn(move || {
                for number in numbers.filter(|number| number % AT_ONCE == lane) {
                    visit(server, number);
                }
            });
        }
    });
}

/// Gauges of the program's health, not of its holdings; and the connection that reads them.
pub(crate) const STATES: [&str; 11] = [
    "build",
    "shard_up",
    "shard_pinned",
    "shard_on_glommio",
    "shard_on_ring",
    "shard_load_permille",
    "shard_longest_round_us",
    "added_delay_p50_us",
    "added_delay_p99_us",
    "added_delay_p999_us",
    "http_connections",
];

#[test]
fn a_thousand_joins_and_leaves_leave_nothing_behind() {
    let server = Server::start(&["--spread", "always"]);
    let host = |lane: usize| {
        let mut host = server.join_channel("host", &format!("room{lane}"));
        host.produce_audio().unwrap();
        host
    };
    let hosts: Vec<Call> = (0..AT_ONCE).map(host).collect();
    let only_hosts = |server: &Server| {
        server.until("the hosts alone", |metrics| {
            metrics.sum("signalling_peers") == AT_ONCE as i64 && metrics.sum("transports") == AT_ONCE as i64
        });
    };
    visits(server.address, 0..JOINS / 2);
    only_hosts(&server);
    let half_way = server.resident_kib();
    visits(server.address, JOINS / 2..JOINS);
    only_hosts(&server);
    let at_the_end = server.resident_kib();
    assert!(at_the_end < half_way + half_way / 4 + 4_096, "{half_way} KiB, then {at_the_end} KiB");

    drop(hosts);
    let empty = server
        .until("nothing", |metrics| metrics.gauges().all(|name| metrics.sum(name) == 0 || STATES.contains(&name)));
    for name in ["sockets", "signalling_consumers", "transports", "paths", "history_bytes", "shard_expected_load"] {
        assert!(empty.gauges().any(|gauge| gauge == name), "{name} is gone: {empty:?}");
    }
    assert!(empty.gauges().any(|gauge| gauge == "steering_paths") || !server.banner.contains("steering    bpf"));
    assert_eq!(empty.sum("sockets_opened_total"), (JOINS + AT_ONCE) as i64);
    let talked = (JOINS.div_ceil(TALKERS) * 2 + AT_ONCE) as i64;
    assert_eq!(empty.sum("dtls_handshakes_total"), talked);
    server.stop();
}
