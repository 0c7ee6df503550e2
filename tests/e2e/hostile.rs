//! Datagrams of strangers and of clients gone bad in a running call: the call does not notice, and every datagram is
//! counted under the name of its fault.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use stun::agent::TransactionId;
use stun::attributes::AttrType;
use stun::message::{BINDING_REQUEST, Message};
use weirgate::base::units::Bitrate;
use weirgate::client::Call;
use weirgate::client::call::CallStream;
use weirgate::client::signalling::Signalling;
use weirgate::transport::stun::{IntegrityKey, USERNAME, finish};
use weirgate::wire::codec::Codec;

use crate::support::{Metrics, Server, both_connected, frames_more, sink};

/// Sent at once, before the call has gone on by a frame.
const BURST: usize = 25;

fn stun(kind: u16, attributes: &[u8]) -> Vec<u8> {
    let mut bytes = kind.to_be_bytes().to_vec();
    bytes.extend((attributes.len() as u16).to_be_bytes());
    bytes.extend([0x21, 0x12, 0xa4, 0x42]);
    bytes.extend([9; 12]);
    bytes.extend(attributes);
    bytes
}

pub(crate) fn check(username: &str, password: Option<&str>) -> Vec<u8> {
    let mut message = Message { typ: BINDING_REQUEST, transaction_id: TransactionId([7; 12]), ..Message::new() };
    message.write_header();
    message.add(AttrType(USERNAME), username.as_bytes());
    if let Some(password) = password {
        finish(&mut message, &IntegrityKey::new(password));
    }
    message.raw
}

/// One of so many bytes, under a password that is none: attributes that nobody knows (RFC 8489 section 5) fill it up.
pub(crate) fn long_check(username: &str, bytes: usize) -> Vec<u8> {
    let mut message = Message { typ: BINDING_REQUEST, transaction_id: TransactionId([7; 12]), ..Message::new() };
    message.write_header();
    message.add(AttrType(USERNAME), username.as_bytes());
    while message.raw.len() + 60 < bytes {
        message.add(AttrType(0xc0ff), &[7; 24]);
    }
    finish(&mut message, &IntegrityKey::new("guessed"));
    message.raw
}

pub(crate) fn dtls(content: u8, epoch: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![content, 254, 253];
    bytes.extend(epoch.to_be_bytes());
    bytes.extend([0, 0, 0, 0, 0, 9]);
    bytes.extend((body.len() as u16).to_be_bytes());
    bytes.extend(body);
    bytes
}

/// (name, datagram, drop reason from a stranger, drop reason from the address of a client in a call)
fn zoo(ufrag: &str) -> Vec<(&'static str, Vec<u8>, &'static str, &'static str)> {
    let mut rtp = vec![0x80, 111, 0, 7, 0, 0, 0, 9, 0, 0, 0, 5];
    rtp.extend([0x55; 80]);
    let mut long_csrcs = rtp[..20].to_vec();
    long_csrcs[0] = 0x8f;
    let mut rtcp = vec![0x80, 201, 0, 1, 0, 0, 0, 1];
    rtcp.extend([0x55; 32]);
    // The E bit (RFC 3711 section 3.4), so that the tag is looked at.
    rtcp[36] |= 0x80;
    let mut cut = check(ufrag, Some("guessed"));
    cut.truncate(cut.len() - 3);
    let both = |what, bytes, why| (what, bytes, why, why);
    vec![
        both("nothing", vec![], "unknown_protocol"),
        both("a ZRTP hello", vec![16; 60], "unknown_protocol"),
        both("a TURN channel", vec![0x40; 60], "unknown_protocol"),
        both("an RTP header cut short", rtp[..11].to_vec(), "unknown_protocol"),
        both("a STUN message cut short", cut, "stun_malformed"),
        both("STUN of a wrong length", stun(0x0001, &[1, 2, 3]), "stun_malformed"),
        both("a STUN response", stun(0x0101, &[]), "stun_not_a_request"),
        both("a STUN indication", stun(0x0011, &[]), "stun_indication"),
        both("a GOOG_PING", stun(0x0200, &[]), "stun_goog_ping"),
        both("a request without a name", stun(0x0001, &[]), "stun_no_username"),
        both("a request for nobody", check("zz12345678:x", Some("guessed")), "unknown_ufrag"),
        both("a request without a tag", check(ufrag, None), "stun_no_integrity"),
        both("a request under a guessed password", check(ufrag, Some("guessed")), "stun_bad_integrity"),
        ("forged RTP", rtp, "unknown_path", "srtp_bad_tag"),
        ("RTP with more sources than bytes", long_csrcs, "unknown_path", "malformed_rtp"),
        ("forged RTCP", rtcp, "unknown_path", "srtp_bad_tag"),
        ("RTCP without room for a tag", vec![0x80, 201, 0, 1, 0, 0, 0, 1], "unknown_path", "srtp_too_short"),
        ("a DTLS alert in the clear", dtls(21, 0, &[2, 40]), "unknown_path", "dtls_plaintext"),
        ("a ClientHello out of place", dtls(22, 0, &[1; 60]), "unknown_path", "dtls_out_of_place"),
        ("a record cut short", dtls(22, 0, &[1; 60])[..40].to_vec(), "unknown_path", "dtls_malformed"),
    ]
}

/// Two who talk while the others do their worst.
pub(crate) struct Quarry {
    pub(crate) alice: Call,
    bob: Call,
    heard: CallStream,
    seen: CallStream,
}

impl Quarry {
    pub(crate) fn talk(server: &Server) -> Quarry {
        let (mut alice, mut bob) = (server.join("alice"), server.join("bob"));
        let audio = alice.produce_audio().unwrap();
        let video = alice.produce_video(Codec::Vp8, Bitrate::kbps(400)).unwrap();
        let heard = bob.consume(Some(&audio.id)).unwrap();
        let seen = bob.consume(Some(&video.id)).unwrap();
        frames_more(&bob, &seen, 5);
        Quarry { alice, bob, heard, seen }
    }

    pub(crate) fn is_unharmed(&self) {
        frames_more(&self.bob, &self.seen, 15);
        frames_more(&self.bob, &self.heard, 25);
        for stream in [&self.heard, &self.seen] {
            let stats = sink(&self.bob, stream);
            assert_eq!((stats.lost, stats.duplicates, stats.foreign, stats.frames_dropped), (0, 0, 0, 0), "{stats:?}");
            assert_eq!(stats.repaired, 0, "nothing had to be sent twice: {stats:?}");
        }
        assert!(both_connected(&self.alice.stats()) && both_connected(&self.bob.stats()));
    }
}

pub(crate) fn address_of(transport: &Value) -> SocketAddr {
    let candidate = &transport["iceCandidates"][0];
    SocketAddr::new(candidate["ip"].as_str().unwrap().parse().unwrap(), candidate["port"].as_u64().unwrap() as u16)
}

#[test]
fn what_does_not_belong_is_dropped_under_its_name() {
    let server = Server::start(&["--cores", "1", "--steering", "handover"]);
    let quarry = Quarry::talk(&server);
    let mallory = Signalling::connect(server.address, "mallory", "room").unwrap();
    let transport = mallory.request("create-transport", json!({})).unwrap();
    let ufrag = format!("{}:x", transport["iceParameters"]["usernameFragment"].as_str().unwrap());
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    stranger.connect(address_of(&transport)).unwrap();
    for (what, bytes, from_stranger, from_client) in zoo(&ufrag) {
        let before = server.metrics();
        stranger.send(&bytes).unwrap();
        quarry.alice.inject(&bytes);
        let mut expected = BTreeMap::new();
        for why in [from_stranger, from_client] {
            *expected.entry(why.to_owned()).or_default() += 1;
        }
        let came = server.until(what, |metrics| metrics.dropped_since(&before).values().sum::<i64>() >= 2);
        assert_eq!(came.dropped_since(&before), expected, "{what}");
    }
    quarry.is_unharmed();
    server.stop();
}

#[test]
fn a_flood_of_forms_bent_at_random_is_counted_to_the_last() {
    let server = Server::start(&["--spread", "always"]);
    let quarry = Quarry::talk(&server);
    let mallory = Signalling::connect(server.address, "mallory", "room").unwrap();
    let transport = mallory.request("create-transport", json!({})).unwrap();
    let ufrag = format!("{}:x", transport["iceParameters"]["usernameFragment"].as_str().unwrap());
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    stranger.connect(address_of(&transport)).unwrap();
    let templates: Vec<Vec<u8>> = zoo(&ufrag).into_iter().map(|(_, bytes, _, _)| bytes).collect();
    let mut rng = SmallRng::seed_from_u64(11);
    let before = server.metrics();
    let mut sent = 0;
    for _ in 0..40 {
        for _ in 0..BURST {
            let mut bytes = templates[rng.random_range(0..templates.len())].clone();
            match rng.random_range(0..4) {
                0 => bytes = (0..rng.random_range(0..1_400)).map(|_| rng.random()).collect(),
                1 => bytes.truncate(rng.random_range(0..=bytes.len())),
                2 => bytes.extend((0..rng.random_range(0..200)).map(|_| rng.random::<u8>())),
                _ => {}
            }
            for _ in 0..rng.random_range(0..3) {
                let len = bytes.len();
                if let Some(byte) = bytes.get_mut(rng.random_range(0..len.max(1))) {
                    *byte = rng.random();
                }
            }
            // Encrypted records are DTLS's own to judge, which drops them in silence.
            if matches!(bytes[..], [20..=63, _, _, epoch, low, ..] if (epoch, low) != (0, 0)) {
                continue;
            }
            stranger.send(&bytes).unwrap();
            quarry.bob.inject(&bytes);
            sent += 2;
        }
        frames_more(&quarry.bob, &quarry.heard, 1);
    }
    let count = |metrics: &Metrics| {
        let steered = |name: &str| if server.banner.contains("steering    bpf") { metrics.sum(name) } else { 0 };
        let in_shards: i64 = metrics.dropped_since(&before).values().sum();
        in_shards + steered("steering_unknown_sender_total") + steered("steering_unknown_label_total")
    };
    let steered_before = count(&before);
    let after = server.until("the whole flood", |metrics| count(metrics) - steered_before >= sent);
    assert_eq!(count(&after) - steered_before, sent, "{:?}", after.dropped_since(&before));
    quarry.is_unharmed();
    server.stop();
}
