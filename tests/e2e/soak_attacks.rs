//! The attacks on a server during a soak: each kind that ever broke a call, at a share of the rate at which it did.
//! They come from an address of their own, except those that need keys.
#![expect(clippy::disallowed_methods, reason = "attacks on real sockets are paced in real time")]

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tungstenite::{Message, WebSocket};
use weirgate::base::id::Ssrc;
use weirgate::base::seq::Seq;
use weirgate::base::units::Bitrate;
use weirgate::client::Call;
use weirgate::wire::codec::Codec;
use weirgate::wire::rtcp_write::RtcpWriter;

use crate::hostile::{address_of, check, dtls, long_check};
use crate::idle::come_and_go;
use crate::support::setting;

/// Of the full rate; SOAK_PERMILLE says another. A build for debugging takes a tenth of what is meant.
pub(crate) static SHARE: LazyLock<f64> = LazyLock::new(|| {
    let permille = setting("SOAK_PERMILLE", if cfg!(debug_assertions) { 5 } else { 50 });
    permille as f64 / 1_000.0
});
pub(crate) const HOSTILE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);
const TICK: Duration = Duration::from_millis(20);
/// A WebSocket ping of 125 bytes, with a mask of zeros.
const PING: [u8; 131] = {
    let mut ping = [0; 131];
    (ping[0], ping[1]) = (0x89, 0xfd);
    ping
};

pub(crate) struct Stage {
    pub(crate) server: SocketAddr,
    pub(crate) stop: AtomicBool,
}

/// A kind of attack, and how often it did something.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    run: fn(&Stage, &AtomicU64) -> Option<()>,
    pub(crate) done: AtomicU64,
}

impl Attack {
    pub(crate) fn all() -> Vec<Attack> {
        type Run = fn(&Stage, &AtomicU64) -> Option<()>;
        let kinds: [(&str, Run); 23] = [
            ("pings that nobody reads the answers of", ping_flood),
            ("bursts of get-producers", list_bursts),
            ("one who consumes itself", self_consumer),
            ("floods of transport feedback", feedback_flood),
            ("checks from somebody else's address", amplifier),
            ("unknown streams with a thousand extensions", many_extensions),
            ("transports that are never checked", idle_transports),
            ("request heads that never end", half_heads),
            ("producers replaced all the time", replaced_producers),
            ("pages of another origin", foreign_pages),
            ("files and metrics", fetches),
            ("messages of the greatest size", large_messages),
            ("names that nobody can read", odd_names),
            ("forged DTLS records", forged_dtls),
            ("checks with a wrong password", wrong_passwords),
            ("two who quarrel about one address", quarrels),
            ("coming and going that a crowd is told of", told_crowd),
            ("clients that shake hands and go", short_calls),
            ("sockets opened and closed", sockets_in_and_out),
            ("JSON that goes deep, and frames that are none", bombs),
            ("requests that are none", odd_requests),
            ("receivers that ask for everything again", insatiable),
            ("a new stream for each packet", ever_new_streams),
        ];
        kinds.into_iter().map(|(name, run)| Attack { name, run, done: AtomicU64::new(0) }).collect()
    }

    /// Until the stage is closed; a client that is thrown out comes back.
    pub(crate) fn run(&self, stage: &Stage) {
        while !stage.is_closed() {
            let _ = (self.run)(stage, &self.done);
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Stage {
    pub(crate) fn is_closed(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Attacks at [`SHARE`] of this rate, until it fails.
    fn paced(&self, full_rate: f64, done: &AtomicU64, mut act: impl FnMut() -> Option<()>) -> Option<()> {
        // The first one at once, however seldom.
        let (started, mut times) = (Instant::now(), 0.0);
        while !self.is_closed() {
            while times <= started.elapsed().as_secs_f64() * full_rate * *SHARE && !self.is_closed() {
                act()?;
                times += 1.0;
                done.fetch_add(1, Ordering::Relaxed);
            }
            std::thread::sleep(TICK);
        }
        Some(())
    }

    fn tcp(&self) -> Option<TcpStream> {
        connect_from(HOSTILE, self.server).ok()
    }

    pub(crate) fn socket(&self, user: &str, channel: &str) -> Option<Line> {
        Line::open(self.tcp()?, self.server, user, channel)
    }
}

pub(crate) fn connect_from(source: Ipv4Addr, server: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect_timeout(&server.into(), Duration::from_secs(5))?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_write_timeout(Some(Duration::from_secs(2)))?;
    Ok(stream)
}

/// A WebSocket that says what it likes.
pub(crate) struct Line(pub(crate) WebSocket<TcpStream>);

impl Line {
    pub(crate) fn open(stream: TcpStream, server: SocketAddr, user: &str, channel: &str) -> Option<Line> {
        let url = format!("ws://{server}/socket?auth={user}&channelId={channel}");
        tungstenite::client(url, stream).ok().map(|(socket, _)| Line(socket))
    }

    /// The next text that comes.
    pub(crate) fn next_text(&mut self) -> String {
        loop {
            match self.0.read().expect("the socket is open") {
                Message::Text(text) => return text.to_string(),
                _ => continue,
            }
        }
    }

    /// Waits for a notification of this type.
    pub(crate) fn until(&mut self, kind: &str) {
        let word = format!("\"{kind}\"");
        while !self.next_text().contains(&word) {}
    }

    /// The reply's data; what else comes is passed over.
    pub(crate) fn ask(&mut self, kind: &str, data: Value) -> Option<Value> {
        let message = json!({ "type": kind, "requestId": 1, "data": data });
        self.0.send(Message::text(message.to_string())).ok()?;
        loop {
            let Message::Text(text) = self.0.read().ok()? else { continue };
            let mut reply: Value = serde_json::from_str(&text).ok()?;
            if reply["requestId"] == 1 {
                return (reply["type"] != "error").then(|| reply["data"].take());
            }
        }
    }
}

pub(crate) fn audio(ssrc: u32, mid: &str) -> Value {
    json!({
        "kind": "audio",
        "rtpParameters": {
            "mid": mid,
            "codecs": [{ "mimeType": "audio/opus", "payloadType": 111, "clockRate": 48000, "channels": 2 }],
            "encodings": [{ "ssrc": ssrc }],
        },
    })
}

fn ping_flood(stage: &Stage, done: &AtomicU64) -> Option<()> {
    let mut line = stage.socket("pinger", "hostile")?;
    let stream = line.0.get_mut();
    // 48 MB a second were answered.
    stage.paced(366_000.0 / 20.0, done, || stream.write_all(&PING.repeat(20)).ok())
}

fn list_bursts(stage: &Stage, done: &AtomicU64) -> Option<()> {
    let mut producers = stage.socket("lister", "lists")?;
    producers.ask("create-transport", json!({}))?;
    for n in 0..24 {
        let mut data = audio(50_000 + n, &format!("{n}"));
        data["appData"] = json!("x".repeat(16_000));
        producers.ask("produce", data)?;
    }
    let burst = Message::text(r#"{"type":"get-producers"}"#);
    stage.paced(2.5, done, || {
        let mut line = stage.socket("lister", "lists")?;
        (0..400).try_for_each(|_| line.0.write(burst.clone()).ok())?;
        line.0.flush().ok()?;
        std::thread::sleep(Duration::from_secs(1));
        Some(())
    })
}

fn self_consumer(stage: &Stage, done: &AtomicU64) -> Option<()> {
    let mut line = stage.socket("narcissus", "mirror")?;
    let capabilities = line.ask("get-rtp-capabilities", Value::Null)?;
    let transport = line.ask("create-transport", json!({}))?["id"].clone();
    let producer = line.ask("produce", audio(60_000, "0"))?["id"].clone();
    let consume = json!({ "rtpCapabilities": capabilities, "producerId": producer });
    for _ in 0..(1_024.0 * *SHARE) as usize {
        // A server that bounds it has said so.
        if line.ask("consume", consume.clone()).is_none() {
            break;
        }
    }
    line.ask("set-max-bitrate", json!({ "transportId": transport, "maxOutgoingBitrate": 100_000 }))?;
    stage.paced(140.0, done, || {
        line.ask("pause-producer", json!({ "producerId": producer }))?;
        line.ask("resume-producer", json!({ "producerId": producer }))?;
        Some(())
    })
}

/// Both may be there, so neither is believed for good.
fn quarrels(stage: &Stage, done: &AtomicU64) -> Option<()> {
    let socket = UdpSocket::bind((HOSTILE, 0)).ok()?;
    let mut lines = Vec::new();
    for name in ["one", "other"] {
        let mut line = stage.socket(name, "hostile")?;
        let transport = line.ask("create-transport", json!({}))?;
        let ice = &transport["iceParameters"];
        let request = check(&format!("{}:x", ice["usernameFragment"].as_str()?), ice["password"].as_str());
        lines.push((line, request, address_of(&transport)));
    }
    let mut n = 0;
    stage.paced(2_000.0, done, || {
        n += 1;
        let (_, request, to) = &lines[n % lines.len()];
        socket.send_to(request, to).ok().map(drop)
    })
}

fn told_crowd(stage: &Stage, done: &AtomicU64) -> Option<()> {
    let mut members: Vec<Line> = (0..20).filter_map(|_| stage.socket("listener", "hall")).collect();
    for member in &mut members {
        member.ask("subscribe", Value::Null)?;
    }
    // Nobody reads what is told.
    stage.paced(100.0, done, || stage.socket("passer", "hall").map(drop))
}

fn short_calls(stage: &Stage, done: &AtomicU64) -> Option<()> {
    stage.paced(20.0, done, || connected(stage, "hasty").map(drop))
}

fn sockets_in_and_out(stage: &Stage, done: &AtomicU64) -> Option<()> {
    let mut number = 0;
    stage.paced(1_000.0, done, || {
        number += 1;
        come_and_go(number, stage.server);
        Some(())
    })
}

fn bombs(stage: &Stage, done: &AtomicU64) -> Option<()> {
    let deep =
        ["[".repeat(200_000), r#"{"a":"#.repeat(40_000), format!(r#"{{"type":"{}"}}"#, "\\u0000".repeat(40_000))];
    // A reserved opcode, a ping in pieces, a continuation of nothing, a close of one byte, no mask.
    let frames: [&[u8]; 5] = [
        &[0x83, 0x81, 0, 0, 0, 0, b'x'],
        &[0x09, 0x81, 0, 0, 0, 0, b'x'],
        &[0x80, 0x81, 0, 0, 0, 0, b'x'],
        &[0x88, 0x81, 0, 0, 0, 0, 0x03],
        &[0x81, 0x01, b'x'],
    ];
    let mut n = 0;
    stage.paced(40.0, done, || {
        n += 1;
        let mut line = stage.socket("bomber", "hostile")?;
        if n % 2 == 0 {
            let _ = line.0.send(Message::text(deep[n / 2 % deep.len()].clone()));
        } else {
            let _ = line.0.get_mut().write_all(frames[n / 2 % frames.len()]);
        }
        let _ = line.0.read();
        Some(())
    })
}

fn odd_requests(stage: &Stage, done: &AtomicU64) -> Option<()> {
    let requests: [&[u8]; 6] = [
        b"GET /../../etc/passwd HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: t\r\nHost: u\r\nConnection: close\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /socket?auth=a&channelId=b HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    ];
    let mut n = 0;
    stage.paced(200.0, done, || {
        n += 1;
        let mut stream = stage.tcp()?;
        let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
        let _ = stream.write_all(requests[n % requests.len()]);
        let _ = stream.read(&mut [0; 1_000]);
        Some(())
    })
}

/// NACKs of thousands of packets, PLIs and FIRs, by who may ask.
fn insatiable(stage: &Stage, done: &AtomicU64) -> Option<()> {
    let mut call = Call::connect(stage.server, "greedy", "greed").ok()?;
    let produced = call.produce_video(Codec::Vp8, Bitrate::kbps(200)).ok()?;
    let consumed = call.consume(Some(&produced.id)).ok()?;
    let stats = call.signalling().request("get-stats", json!({ "consumerId": consumed.id })).ok()?;
    let ssrc = Ssrc(stats["ssrc"].as_u64()? as u32);
    let mut n = 0u16;
    stage.paced(1_000.0, done, || {
        n = n.wrapping_add(1);
        let mut compound = Vec::new();
        let mut to = RtcpWriter::new(&mut compound);
        to.pli(Ssrc(1), ssrc);
        let seqs: Vec<Seq> = (0..600).map(|seq: u16| Seq(seq.wrapping_add(n.wrapping_mul(600)))).collect();
        to.nack(Ssrc(1), ssrc, &seqs);
        call.seal(&compound);
        (!n.is_multiple_of(64) || call.stats().receive?.connected).then_some(())
    })
}

fn ever_new_streams(stage: &Stage, done: &AtomicU64) -> Option<()> {
    let call = connected(stage, "legion")?;
    let mut ssrc = 0u32;
    stage.paced(4_000.0, done, || {
        ssrc += 1;
        let mut packet = vec![0x80, 111, 0, 1, 0, 0, 0, 1];
        packet.extend((0x4000_0000 + ssrc).to_be_bytes());
        packet.extend([1; 60]);
        call.seal(&packet);
        (!ssrc.is_multiple_of(64) || call.stats().send?.connected).then_some(())
    })
}

/// A client with keys, whose transport is connected.
pub(crate) fn connected(stage: &Stage, user: &str) -> Option<Call> {
    let mut call = Call::connect(stage.server, user, "keyed").ok()?;
    call.produce_audio().ok()?;
    for _ in 0..100 {
        if call.stats().send?.connected {
            return Some(call);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    None
}

fn feedback_flood(stage: &Stage, done: &AtomicU64) -> Option<()> {
    let call = connected(stage, "flooder")?;
    let mut compound = Vec::new();
    for n in 0..50u8 {
        // 8,191 packets that were not received, in one chunk, of 24 bytes.
        compound.extend([0x8f, 205, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0, 0, n, 0x1f, 0xff, 0, 0, 0, n, 0x1f, 0xff, 0, 0]);
    }
    stage.paced(400.0, done, || {
        call.seal(&compound);
        call.stats().send?.connected.then_some(())
    })
}

/// Its own credentials, from an address that is not its own: packets would be sent there.
fn amplifier(stage: &Stage, done: &AtomicU64) -> Option<()> {
    let mut line = stage.socket("mallory", "hostile")?;
    let transport = line.ask("create-transport", json!({}))?;
    let ice = &transport["iceParameters"];
    let request = check(&format!("{}:x", ice["usernameFragment"].as_str()?), ice["password"].as_str());
    let victim = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 99), 0)).ok()?;
    let to = address_of(&transport);
    stage.paced(20.0, done, || victim.send_to(&request, to).ok().map(drop))
}

fn many_extensions(stage: &Stage, done: &AtomicU64) -> Option<()> {
    let call = connected(stage, "extended")?;
    let mut seq = 0u16;
    stage.paced(4_900.0, done, || {
        seq = seq.wrapping_add(1);
        let mut packet = vec![0x90, 111];
        packet.extend(seq.to_be_bytes());
        packet.extend([0, 0, 0, 1, 0xde, 0xad, 0xbe, 0xef]);
        // Two-byte elements (RFC 8285 section 4.3) without a byte in them.
        packet.extend([0x10, 0x00, 0x01, 0x00]);
        packet.extend([14, 0].repeat(512));
        packet.extend([1; 20]);
        call.seal(&packet);
        (!seq.is_multiple_of(64) || call.stats().send?.connected).then_some(())
    })
}

fn idle_transports(stage: &Stage, done: &AtomicU64) -> Option<()> {
    let mut lines = Vec::new();
    stage.paced(34.0, done, || {
        let mut line = stage.socket("idler", "hostile")?;
        for _ in 0..16 {
            let _ = line.ask("create-transport", json!({}));
        }
        lines.push(line);
        if lines.len() > 51 {
            lines.remove(0);
        }
        Some(())
    })
}

fn half_heads(stage: &Stage, done: &AtomicU64) -> Option<()> {
    let mut halves = Vec::new();
    stage.paced(400.0, done, || {
        let mut stream = stage.tcp()?;
        stream.write_all(b"GET /socket HTTP/1.1\r\nHost: t\r\nX-Slow: ").ok()?;
        halves.push(stream);
        if halves.len() > (4_096.0 * *SHARE) as usize {
            halves.remove(0);
        }
        Some(())
    })
}

fn replaced_producers(stage: &Stage, done: &AtomicU64) -> Option<()> {
    let mut members: Vec<Line> = (0..4).filter_map(|_| stage.socket("member", "crowd")).collect();
    for member in &mut members {
        member.ask("subscribe", Value::Null)?;
    }
    let mut line = stage.socket("fidget", "crowd")?;
    line.ask("create-transport", json!({}))?;
    let mut data = audio(70_000, "0");
    data["appData"] = json!("x".repeat(16_000));
    // Not read by the members: it waits in the server.
    stage.paced(50.0, done, || line.ask("produce", data.clone()).map(drop))
}

fn foreign_pages(stage: &Stage, done: &AtomicU64) -> Option<()> {
    stage.paced(20.0, done, || {
        let mut stream = stage.tcp()?;
        let head = "GET /socket?auth=a&channelId=b HTTP/1.1\r\nHost: t\r\nOrigin: http://evil.example\r\n\
                    Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                    Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
        stream.write_all(head.as_bytes()).ok()?;
        let _ = stream.read(&mut [0; 1_000]);
        Some(())
    })
}

fn fetches(stage: &Stage, done: &AtomicU64) -> Option<()> {
    stage.paced(400.0, done, || {
        let mut stream = stage.tcp()?;
        stream.write_all(b"GET /main.js HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").ok()?;
        let _ = stream.read_to_end(&mut Vec::new());
        Some(())
    })
}

fn large_messages(stage: &Stage, done: &AtomicU64) -> Option<()> {
    let mut line = stage.socket("talker", "hostile")?;
    let filling = "y".repeat(250_000);
    stage.paced(20.0, done, || {
        let _ = line.ask("ping", json!({ "filling": filling }))?;
        Some(())
    })
}

fn odd_names(stage: &Stage, done: &AtomicU64) -> Option<()> {
    stage.paced(20.0, done, || {
        let stream = stage.tcp()?;
        // U+200B and U+202E alone; and a lone surrogate in a message.
        if let Some(mut line) = Line::open(stream, stage.server, "%E2%80%8B%E2%80%AE", "%E2%80%8B") {
            let _ = line.0.send(Message::text(r#"{"type":"ping","requestId":"\ud800"}"#));
            let _ = line.0.read();
        }
        Some(())
    })
}

fn forged_dtls(stage: &Stage, done: &AtomicU64) -> Option<()> {
    let mut line = stage.socket("forger", "hostile")?;
    let transport = line.ask("create-transport", json!({}))?;
    let ice = &transport["iceParameters"];
    let request = check(&format!("{}:x", ice["usernameFragment"].as_str()?), ice["password"].as_str());
    let socket = UdpSocket::bind((HOSTILE, 0)).ok()?;
    let to = address_of(&transport);
    let records = [dtls(22, 0, &[1; 60]), dtls(22, 1, &[7; 60]), dtls(23, 1, &[7; 60]), dtls(21, 0, &[2, 40])];
    let mut n = 0;
    stage.paced(400.0, done, || {
        n += 1;
        let datagram = if n % 16 == 1 { &request } else { &records[n % records.len()] };
        socket.send_to(datagram, to).ok().map(drop)
    })
}

fn wrong_passwords(stage: &Stage, done: &AtomicU64) -> Option<()> {
    let mut line = stage.socket("guesser", "hostile")?;
    let transport = line.ask("create-transport", json!({}))?;
    let name = format!("{}:x", transport["iceParameters"]["usernameFragment"].as_str()?);
    let requests = [check(&name, Some("guessed")), long_check(&name, 700), long_check(&name, 2_000)];
    let socket = UdpSocket::bind((HOSTILE, 0)).ok()?;
    let to = address_of(&transport);
    let mut n = 0;
    stage.paced(25_000.0, done, || {
        n += 1;
        socket.send_to(&requests[n % requests.len()], to).ok().map(drop)
    })
}
