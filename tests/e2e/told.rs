//! What it costs to tell many that somebody has come or gone, beside the same bytes written to as many sockets by nobody
//! but the kernel. For the figures of a release build:
//! `E2E_PROGRAM=target/release/weirgate TOLD_RECEIVERS=1000 cargo test --test e2e news -- --nocapture`.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use serde_json::Value;

use crate::idle::descriptors_for;
use crate::soak_attacks::{Line, connect_from};
use crate::support::{Server, setting};

const RECEIVERS: usize = 200;
const ROUNDS: usize = 30;
/// Of one who is told of to one who is written to. A build for debugging takes some twelve times as long.
const RATIO_MAX: f64 = 30.0;
const MEMBER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 44);
/// Between two rounds: nobody's memory is warm from the one before.
const PAUSE: Duration = Duration::from_millis(20);

fn socket(server: SocketAddr, user: &str, channel: &str) -> Line {
    let stream = connect_from(MEMBER, server).expect("it listens");
    Line::open(stream, server, user, channel).expect("it is let in")
}

/// Seconds of the server for so many who come and go.
fn rounds(server: &Server, channel: &str, witness: Option<&mut Line>) -> f64 {
    let mut witness = witness;
    let before = server.cpu();
    for _ in 0..ROUNDS {
        let guest = socket(server.address, "guest", channel);
        let heard = |witness: &mut Option<&mut Line>, what| witness.as_mut().map(|line| line.until(what));
        heard(&mut witness, "peer-joined");
        std::thread::sleep(PAUSE);
        drop(guest);
        heard(&mut witness, "peer-left");
        std::thread::sleep(PAUSE);
    }
    (server.cpu() - before).as_secs_f64()
}

/// CPU seconds of this thread.
fn own_cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("the kernel counts");
    text.split_whitespace().next().and_then(|nanos| nanos.parse::<f64>().ok()).expect("it is a number") / 1e9
}

/// Seconds of a plain write of so many bytes, to one after the other of so many sockets that nobody reads.
fn floor(receivers: usize, bytes: usize) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let to = listener.local_addr().expect("it is bound");
    let mut pairs: Vec<(TcpStream, TcpStream)> = (0..receivers)
        .map(|_| {
            let theirs = TcpStream::connect(to).expect("it listens");
            let ours = listener.accept().expect("somebody has come").0;
            ours.set_nodelay(true).expect("it is a socket");
            (ours, theirs)
        })
        .collect();
    let text = vec![b'x'; bytes];
    let mut spent = 0.0;
    for _ in 0..2 * ROUNDS {
        let before = own_cpu();
        pairs.iter_mut().for_each(|(ours, _)| ours.write_all(&text).expect("there is room"));
        spent += own_cpu() - before;
        std::thread::sleep(PAUSE);
    }
    let mut read = vec![0; bytes];
    pairs.iter_mut().for_each(|(_, theirs)| theirs.read_exact(&mut read).expect("it was written"));
    spent / (2 * ROUNDS * receivers) as f64
}

#[test]
fn news_for_a_crowd_cost_little_more_than_writing_them() {
    let receivers = setting("TOLD_RECEIVERS", RECEIVERS);
    descriptors_for(4 * receivers);
    let server = Server::start(&["--cores", "1"]);
    // Coming and going by itself, where nobody is told.
    rounds(&server, "desert", None);
    let alone = rounds(&server, "desert", None);
    let mut members: Vec<Line> = (0..receivers).map(|n| socket(server.address, &format!("m{n}"), "room")).collect();
    for member in &mut members {
        assert!(member.ask("subscribe", Value::Null).is_some());
    }
    let before = server.metrics().sum("sockets_texts_queued_total");
    let (witness, others) = members.split_first_mut().expect("there are some");
    let crowd = rounds(&server, "room", Some(witness));
    let told = (server.metrics().sum("sockets_texts_queued_total") - before) as f64;
    // A last one, so that what was told is known to have come.
    let _last = socket(server.address, "last", "room");
    let (mut news, mut bytes) = (0, 0);
    for member in others {
        loop {
            let text = member.next_text();
            if text.contains("\"last\"") {
                break;
            }
            (news, bytes) = (news + 1, bytes + text.len() + 2);
        }
    }
    assert!(news >= ROUNDS * (receivers - 1), "hardly anybody was told: {news}");
    let each = (crowd - alone) / told;
    let floor = floor(receivers, bytes / news);
    println!(
        "a join and a leave told to {receivers}: {:.2} ms, {:.2} us a receiver; a plain write of {} bytes: {:.2} us; ratio {:.2}",
        (crowd - alone) * 1e3 / ROUNDS as f64,
        each * 1e6,
        bytes / news,
        floor * 1e6,
        each / floor,
    );
    assert!(each < RATIO_MAX * floor, "{each} s a receiver, {floor} s a write");
    server.stop();
}
