//! The memory of a client, counted by the allocator with the real DTLS library: a transport that is connected and idle,
//! a consumer that is being served, and a history that is shared by all its consumers.

#![expect(unsafe_code, reason = "an allocator can only be counted by standing in front of it")]

#[expect(dead_code, reason = "what other tests need of it")]
mod shard_rig;

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicIsize, Ordering};

use rand::SeedableRng;
use rand::rngs::SmallRng;
use shard_rig::{Rig, SERVER, Stream, millis};
use weirgate::base::buffer::{Batch, LocalIndex, Path};
use weirgate::base::id::{PeerId, ShardId, ShardLabel, TransportId};
use weirgate::base::time::{Duration, Instant, Now};
use weirgate::secure::certificate::{Fingerprint, Identity};
use weirgate::secure::dtls::{DtlsEngine, DtlsSettings};
use weirgate::shard::command::{Announcement, Command, IceCredentials, RemoteDtlsRole};
use weirgate::shard::{Shard, ShardSettings};
use weirgate::sim::endpoint::{DtlsRole, Endpoint};
use weirgate::sim::ice_client::RemoteIce;
use weirgate::sim::world::SentDatagrams;
use weirgate::transport::Transport;

struct Counting;

static HELD: AtomicIsize = AtomicIsize::new(0);

fn grow(by: usize) {
    HELD.fetch_add(by as isize, Ordering::Relaxed);
}

fn shrink(by: usize) {
    HELD.fetch_sub(by as isize, Ordering::Relaxed);
}

// SAFETY: every call goes on to the system's allocator as it came; counting touches no memory of its.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller's promises about `layout` are the ones that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        shrink(layout.size());
        // SAFETY: `at` came from `System`, as everything here does.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        grow(size);
        shrink(layout.size());
        // SAFETY: `at` came from `System`, and the caller's promises are the ones it asks for.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn held() -> isize {
    HELD.load(Ordering::Relaxed)
}

/// The design's goal; the measured value is far below it.
const IDLE_TRANSPORT_MAX: isize = 24 * 1024;

/// The share of one transport in arena and tables, which have their size from the start.
const PLACES: isize = size_of::<Transport>() as isize + 512;

fn at(mono: Instant) -> Now {
    Now { mono, ..Now::default() }
}

fn shard() -> Shard {
    let labels = vec![(ShardId(0), ShardLabel(*b"aa"))];
    let settings = ShardSettings { id: ShardId(0), labels, seed: [7; 32], lane: None, handover: false };
    let engine = DtlsEngine::new(
        Identity::generate().unwrap(),
        DtlsSettings::default(),
        weirgate::net::clock::Clock::process().start(),
    )
    .unwrap();
    Shard::new(settings, Box::new(engine))
}

/// A client comes, connects, and leaves without a word: only the shard's own memory stays.
fn connect(shard: &mut Shard, now: &mut Instant, number: u64, identity: &Identity, role: DtlsRole) {
    let pwd = format!("{number:024}");
    let ice = IceCredentials { ufrag: format!("aa{number:08}"), pwd };
    let remote = RemoteIce { ufrag: ice.ufrag.clone(), pwd: ice.pwd.clone(), candidates: vec![SERVER] };
    let transport = TransportId(number);
    shard.handle_command(at(*now), Command::CreateTransport { transport, peer: PeerId(number), ice });
    let fingerprints = vec![Fingerprint::parse("sha-256", &identity.fingerprint_sha256()).unwrap()];
    let theirs = if role == DtlsRole::Client { RemoteDtlsRole::ClientOrAuto } else { RemoteDtlsRole::Server };
    let announcement = Announcement { fingerprints, role: theirs, certain: true };
    shard.handle_command(at(*now), Command::Announce { transport, announcement });

    let mut engine =
        DtlsEngine::new(identity.clone(), DtlsSettings::default(), weirgate::net::clock::Clock::process().start())
            .unwrap();
    let mut peer = Endpoint::new(*now, &remote, role, SmallRng::seed_from_u64(number));
    let remote = SocketAddr::from(([198, 51, 100, 1], 10_000 + number as u16));
    let path = Path::udp(LocalIndex(0), remote);
    let mut batch = Batch::new(64);
    let mut quiet = 0;
    for _ in 0..1_000 {
        *now = *now + millis(5);
        peer.handle_timeout(*now, &mut engine);
        batch.clear();
        while let Some(datagram) = peer.poll_transmit() {
            batch.push(path, *now, &datagram.bytes);
        }
        shard.handle_batch(at(*now), &mut batch);
        if shard.poll_timeout().is_some_and(|due| due <= *now) {
            shard.handle_timeout(at(*now));
        }
        let mut sent = SentDatagrams::default();
        shard.flush(at(*now), &mut sent);
        while shard.poll_event().is_some() {}
        while shard.poll_path().is_some() {}
        quiet = if batch.is_empty() && sent.0.is_empty() && peer.is_connected() { quiet + 1 } else { 0 };
        for (_, mut datagram) in sent.0 {
            peer.handle_datagram(*now, &mut engine, SERVER, &mut datagram);
        }
        if quiet > 10 {
            return;
        }
        assert_eq!(peer.closed(), None);
    }
    panic!("the client did not connect");
}

fn idle_transport(role: DtlsRole) -> isize {
    const TRANSPORTS: isize = 100;
    let identity = Identity::generate().unwrap();
    let mut now = Instant::ZERO + Duration::from_secs(1);
    let mut shard = shard();
    // The first one pays for the shared parts.
    connect(&mut shard, &mut now, 0, &identity, role);
    let before = held();
    for number in 1..=TRANSPORTS as u64 {
        connect(&mut shard, &mut now, number, &identity, role);
    }
    (held() - before) / TRANSPORTS + PLACES
}

/// Bytes of one more consumer, with the transport it is on and without.
fn active_consumer() -> (isize, isize) {
    const CONSUMERS: u64 = 100;
    let mut rig = Rig::new(1);
    let publisher = rig.connected(0, 1_000, 1_000);
    rig.produce(0, 1, 1_000, 5_000);
    let mut stream = Stream::new(5_000);
    let serve = |rig: &mut Rig, stream: &mut Stream| {
        for number in 0..600 {
            let frame = stream.frame(number == 0, 1_100);
            rig.clients[publisher].peer.send_rtp(&frame);
            rig.run(millis(5));
            rig.clients.iter_mut().for_each(|client| client.rtp.clear());
        }
    };
    serve(&mut rig, &mut stream);
    for number in 0..CONSUMERS {
        rig.connected(0, number, number);
    }
    rig.events = Vec::new();
    let idle = held();
    for number in 0..CONSUMERS {
        rig.consume(0, number, number, 1, 0, 10_000 + 2 * number as u32);
    }
    serve(&mut rig, &mut stream);
    let history = rig.gauge(0, "history_bytes");
    rig.events = Vec::new();
    let consumers = held() - idle;
    (consumers / CONSUMERS as isize, history as isize)
}

/// One test only: nothing else may run beside it.
#[test]
fn a_client_costs_little() {
    for role in [DtlsRole::Client, DtlsRole::Server] {
        let idle = idle_transport(role);
        println!("idle transport, the client's end being {role:?}: {idle} bytes");
        assert!(idle > 0 && idle < IDLE_TRANSPORT_MAX, "{idle} bytes for an idle transport ({role:?})");
    }
    let (consumer, history) = active_consumer();
    println!("active consumer: {consumer} bytes; the history they share: {history} bytes");
    assert!(consumer * 10 < history, "{consumer} bytes for a consumer of a history of {history}");
}
