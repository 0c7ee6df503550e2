//! Sockets that do nothing, by the thousand, and sockets that come and go without end: who is honest notices nothing, and
//! what they took is given back. `IDLE_SOCKETS` and `OPENED_SOCKETS` say how many.
#![expect(clippy::disallowed_methods, reason = "tests on real sockets wait in real time")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rlimit::Resource;
use socket2::SockRef;

use crate::hostile::Quarry;
use crate::soak_attacks::connect_from;
use crate::support::{Server, frames_more, setting, skipped};

const IDLE: usize = 5_000;
/// In a release build all 30,000 of them.
const OPENED: usize = 3_000;
const PER_CHANNEL: usize = 10;
/// Of memory: an upgraded socket with its peer. It takes some 13.
const KIB_PER_SOCKET: u64 = 40;
/// What may come and go by itself.
const SLACK_KIB: u64 = 6_144;

/// This process may open so many.
pub(crate) fn descriptors_for(sockets: usize) -> bool {
    let needed = sockets as u64 + 500;
    let (soft, hard) = Resource::NOFILE.get().expect("the limit can be read");
    soft >= needed || Resource::NOFILE.set(needed.min(hard), hard).is_ok() && hard >= needed
}

/// From one of eight addresses, as if behind as many routers.
fn source(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, 1 + (number % 8) as u8)
}

fn ask_for_upgrade(number: usize, server: SocketAddr) -> TcpStream {
    let mut stream = connect_from(source(number), server).expect("it listens");
    let head = format!(
        "GET /socket?auth=idler{number}&channelId=idle{} HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        number / PER_CHANNEL
    );
    stream.write_all(head.as_bytes()).expect("it is being read");
    stream
}

/// Many at a time: each waits for its answer while the next ones ask.
fn upgraded(numbers: std::ops::Range<usize>, server: SocketAddr) -> Vec<TcpStream> {
    let mut streams: Vec<TcpStream> = Vec::with_capacity(numbers.len());
    for chunk in numbers.collect::<Vec<_>>().chunks(100) {
        let mut opened: Vec<TcpStream> = chunk.iter().map(|number| ask_for_upgrade(*number, server)).collect();
        for stream in &mut opened {
            let mut status = [0; 12];
            stream.read_exact(&mut status).expect("it answers");
            assert_eq!(&status, b"HTTP/1.1 101", "everybody is let in");
        }
        streams.append(&mut opened);
    }
    streams
}

#[test]
fn thousands_of_idle_sockets_are_in_nobodys_way() {
    let idle = setting("IDLE_SOCKETS", IDLE);
    if !descriptors_for(idle) {
        return skipped("thousands_of_idle_sockets_are_in_nobodys_way: this process may not open as many files");
    }
    let server = Server::start(&["--cores", "1"]);
    let mut joining = Instant::now();
    let quarry = Quarry::talk(&server);
    let alone = joining.elapsed();
    let (descriptors, before) = (server.descriptors(), server.resident_kib());
    let mut sizes = Vec::new();
    for _ in 0..2 {
        let began = Instant::now();
        let streams = upgraded(0..idle, server.address);
        let all = server.until("all of them", |metrics| metrics.sum("sockets") == idle as i64 + 2);
        assert_eq!(all.sum("signalling_peers"), idle as i64 + 2);
        sizes.push(server.resident_kib());
        println!("{idle} sockets in {:?}, {} KiB, {} before", began.elapsed(), sizes[sizes.len() - 1], before);
        // Who comes now is served like who came first, and the call goes on.
        joining = Instant::now();
        let mut guest = server.join("guest");
        let heard = guest.consume(None).expect("somebody sends");
        frames_more(&guest, &heard, 5);
        let beside = joining.elapsed();
        println!("a call after {alone:?} alone, after {beside:?} beside them");
        assert!(beside < 5 * alone.max(Duration::from_millis(200)), "{alone:?} alone, {beside:?} beside idle sockets");
        drop((guest, streams));
        server.until("nobody but the call", |metrics| metrics.sum("sockets") == 2);
    }
    quarry.is_unharmed();
    let each = (sizes[0].saturating_sub(before)) * 1_024 / idle as u64;
    println!("{each} bytes of memory a socket");
    assert!(each < KIB_PER_SOCKET * 1_024, "{each} bytes a socket");
    // What is not given back would be there twice; on a busy machine some is given back late.
    let grown = |size: u64| size.saturating_sub(before);
    assert!(
        2 * grown(sizes[1]) <= 3 * grown(sizes[0]),
        "{sizes:?} KiB, {before} before: what is given back is used again"
    );
    drop(quarry);
    server.until("as many descriptors as before", |_| server.descriptors() <= descriptors);
    server.stop();
}

/// However a client ends a connection, and in whatever state.
pub(crate) fn come_and_go(number: usize, server: SocketAddr) {
    let reset = |stream: &TcpStream| SockRef::from(stream).set_linger(Some(Duration::ZERO)).expect("it is a socket");
    match number % 6 {
        0 => drop(connect_from(source(number), server)),
        1 => reset(&connect_from(source(number), server).expect("it listens")),
        2 => {
            let mut stream = connect_from(source(number), server).expect("it listens");
            let _ = stream.write_all(b"GET /socket HTTP/1.1\r\nHost: t\r\nX-Half: ");
        }
        3 => {
            let mut stream = connect_from(source(number), server).expect("it listens");
            let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
            let _ = stream.read_to_end(&mut Vec::new());
        }
        4 => {
            let mut streams = upgraded(number..number + 1, server);
            // A close frame with the code 1000, masked with zeros.
            let _ = streams[0].write_all(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]);
            let _ = streams[0].read_to_end(&mut Vec::new());
        }
        _ => upgraded(number..number + 1, server).iter().for_each(reset),
    }
}

#[test]
fn sockets_opened_and_closed_by_the_thousand_leave_nothing_behind() {
    let opened = setting("OPENED_SOCKETS", OPENED);
    let server = Server::start(&["--cores", "1"]);
    let quarry = Quarry::talk(&server);
    let rounds = 3;
    let mut resident = Vec::new();
    let descriptors = server.descriptors();
    for round in 0..rounds {
        let began = Instant::now();
        std::thread::scope(|scope| {
            for lane in 0..4 {
                let address = server.address;
                let numbers = (opened * round / rounds..opened * (round + 1) / rounds).filter(move |n| n % 4 == lane);
                scope.spawn(move || numbers.for_each(|number| come_and_go(number, address)));
            }
        });
        server.until("nobody but the call", |metrics| metrics.sum("sockets") == 2);
        server.until("as many descriptors as before", |_| server.descriptors() <= descriptors);
        resident.push(server.resident_kib());
        println!("{} sockets in {:?}, {resident:?} KiB", opened / rounds, began.elapsed());
    }
    assert!(resident[2] <= resident[0] + resident[0] / 20 + SLACK_KIB, "memory grew: {resident:?} KiB");
    quarry.is_unharmed();
    drop(quarry);
    server.stop();
}
