//! DTLS sessions against the dtls crate itself, over bad links and under attack. Its known faults, by the numbers that
//! tests here have in their names:
//! 1. 60,000 one-byte ClientHello fragments overflow the stack.
//! 2. An extension block of 1 to 3 bytes panics.
//! 3. A lost last flight is never sent again.
//! 4. A plaintext alert or data record closes an established session.
//! 5. An error from the socket makes its reader spin.
//! 6. Early encrypted records and empty fragments queue without limit.
//! 7. Its HelloVerifyRequest keeps state.
//! 8. A lost close_notify leaves the session behind.
//! 9. It picks the SRTP profile by the client's order.
//! 10. Each handshake makes throw-away certificates.

#[path = "dtls/openssl.rs"]
mod openssl;
mod peer;
#[path = "dtls/session_ids.rs"]
mod session_ids;

use peer::*;
use rand::{Rng, SeedableRng, rngs::StdRng};
use weirgate::base::limits::{HANDSHAKE_MAX, REFUSALS_MAX};
use weirgate::base::time::{Duration, Instant};
use weirgate::secure::SecureDrop;
use weirgate::secure::certificate::{Fingerprint, Identity, matches};
use weirgate::secure::dtls::{
    ClosedBy, DtlsEngine, DtlsSettings, HANDSHAKE_FAILURE, Keying, SecureEngine, SecureOutput, SecureSession,
    SessionTag, Side,
};
use weirgate::secure::srtp::SrtpProfile;

const STEP: Duration = Duration::from_millis(2);
/// Four seconds: the crate's timers run on the real clock.
const STEPS_MAX: usize = 2_000;

fn engine() -> DtlsEngine {
    let settings = DtlsSettings { flight_interval: Duration::from_millis(30), ..DtlsSettings::default() };
    DtlsEngine::new(Identity::generate().unwrap(), settings, weirgate::net::clock::Clock::process().start()).unwrap()
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    ToUs,
    ToPeer,
}

/// The datagrams that a link makes of one: none, itself, several.
type Link<'a> = &'a mut dyn FnMut(Way, &[u8]) -> Vec<Vec<u8>>;

fn clean(_: Way, datagram: &[u8]) -> Vec<Vec<u8>> {
    vec![datagram.to_vec()]
}

struct World {
    engine: DtlsEngine,
    session: Box<dyn SecureSession>,
    peer: Peer,
    now: Instant,
    keying: Option<Keying>,
    application: Vec<Vec<u8>>,
    closed: Option<ClosedBy>,
    drops: Vec<SecureDrop>,
}

impl World {
    fn new(side: Side, profiles: &[webrtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile]) -> World {
        World::with(side, Peer::start(side == Side::Server, config(profiles)))
    }

    fn with(side: Side, peer: Peer) -> World {
        let mut engine = engine();
        let now = Instant::from_nanos(1_000_000_000);
        let session = engine.open(now, side, SessionTag(1));
        World { engine, session, peer, now, keying: None, application: Vec::new(), closed: None, drops: Vec::new() }
    }

    fn receive(&mut self, datagram: &[u8]) -> Result<(), SecureDrop> {
        self.session.handle_datagram(self.now, datagram)
    }

    /// Takes all output of the session; returns the datagrams.
    fn poll(&mut self) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        while let Some(output) = self.session.poll() {
            match output {
                SecureOutput::Transmit(datagram) => sent.push(datagram),
                SecureOutput::Established(keying) => assert!(self.keying.replace(*keying).is_none()),
                SecureOutput::Application(data) => self.application.push(data),
                SecureOutput::Closed(why) => assert!(self.closed.replace(why).is_none()),
            }
        }
        sent
    }

    fn step(&mut self, link: Link<'_>) {
        self.now = self.now + STEP;
        let mut moved = false;
        for datagram in self.peer.pump() {
            for datagram in link(Way::ToUs, &datagram) {
                moved = true;
                if let Err(why) = self.receive(&datagram) {
                    self.drops.push(why);
                }
            }
        }
        if self.engine.next_deadline().is_some_and(|due| due <= self.now) {
            self.engine.pump(self.now);
        }
        for datagram in self.poll() {
            for datagram in link(Way::ToPeer, &datagram) {
                moved = true;
                self.peer.push(&datagram);
            }
        }
        if !moved {
            std::thread::sleep(STEP);
        }
    }

    fn run(&mut self, link: Link<'_>, mut until: impl FnMut(&World) -> bool) -> bool {
        (0..STEPS_MAX).any(|_| {
            self.step(link);
            until(self)
        })
    }

    fn handshake(&mut self, link: Link<'_>) -> Agreed {
        assert!(self.run(link, |world| world.keying.is_some() && world.peer.finished()), "{:?}", self.closed);
        self.peer.agreed().unwrap()
    }

    fn still_works(&mut self) {
        assert_eq!(self.closed, None);
        self.peer.close();
        assert!(self.run(&mut clean, |world| world.closed.is_some()));
        assert_eq!(self.closed, Some(ClosedBy::Peer));
    }
}

/// Both ends hold the same keys, in opposite directions, and each other's certificate.
fn assert_agreement(world: &World, agreed: &Agreed, side: Side) {
    let keying = world.keying.as_ref().unwrap();
    let (key_len, salt_len) = (keying.profile.key_len(), keying.profile.salt_len());
    let (keys, salts) = agreed.material.split_at(2 * key_len);
    let (client, server) = ((&keys[..key_len], &salts[..salt_len]), (&keys[key_len..], &salts[salt_len..]));
    let (local, remote) = if side == Side::Server { (server, client) } else { (client, server) };
    assert_eq!((keying.local.key(), keying.local.salt()), local);
    assert_eq!((keying.remote.key(), keying.remote.salt()), remote);
    assert_eq!(keying.peer_certificate, world.peer.certificate);
}

#[test]
fn both_roles_agree_with_the_library() {
    for side in [Side::Server, Side::Client] {
        let mut world = World::new(side, &[GCM_128, CM_80]);
        let agreed = world.handshake(&mut clean);
        assert_agreement(&world, &agreed, side);
        assert_eq!(world.drops, []);
        assert_eq!(world.engine.next_deadline(), None, "no tick once nothing is open");
        world.still_works();
        assert_eq!(world.engine.tasks(), 0);
    }
}

#[test]
fn every_handshake_presents_the_one_certificate() {
    let identity = Identity::generate().unwrap();
    let announced = [Fingerprint::parse("sha-256", &identity.fingerprint_sha256()).unwrap()];
    for side in [Side::Server, Side::Client, Side::Server] {
        let mut world = World::new(side, &[GCM_128]);
        world.engine =
            DtlsEngine::new(identity.clone(), DtlsSettings::default(), weirgate::net::clock::Clock::process().start())
                .unwrap();
        world.session = world.engine.open(world.now, side, SessionTag(1));
        let agreed = world.handshake(&mut clean);
        assert!(matches(&announced, &agreed.certificate));
    }
}

#[test]
fn messages_in_pieces_are_put_together() {
    for side in [Side::Server, Side::Client] {
        for size in [1, 7, 100] {
            let mut world = World::new(side, &[GCM_128]);
            let mut link = |way, datagram: &[u8]| match way {
                Way::ToUs => {
                    let mut shreds = shredded(datagram, size);
                    shreds.reverse();
                    shreds
                }
                Way::ToPeer => vec![datagram.to_vec()],
            };
            let agreed = world.handshake(&mut link);
            assert_agreement(&world, &agreed, side);
        }
        let mut small = config(&[GCM_128]);
        small.mtu = 120;
        let mut world = World::with(side, Peer::start(side == Side::Server, small));
        let agreed = world.handshake(&mut clean);
        assert_agreement(&world, &agreed, side);
    }
}

#[test]
fn a_bad_link_only_delays() {
    for seed in 0..8 {
        let side = if seed % 2 == 0 { Side::Server } else { Side::Client };
        let mut rng = StdRng::seed_from_u64(seed);
        let mut world = World::new(side, &[GCM_128]);
        let mut late: Vec<(Way, Vec<u8>)> = Vec::new();
        let mut link = |way: Way, datagram: &[u8]| {
            // As a server the library never repeats its last flight (fault 3): that one gets through.
            let last =
                side == Side::Client && way == Way::ToUs && records(datagram).iter().any(|record| record[4] == 1);
            let mut out = Vec::new();
            if !last && rng.random_bool(0.2) {
                return out;
            }
            if !last && rng.random_bool(0.2) {
                late.push((way, datagram.to_vec()));
                return out;
            }
            (0..rng.random_range(1..3)).for_each(|_| out.push(datagram.to_vec()));
            late.retain(|(late_way, datagram)| {
                let now = *late_way == way;
                if now {
                    out.push(datagram.clone());
                }
                !now
            });
            out
        };
        let agreed = world.handshake(&mut link);
        assert_agreement(&world, &agreed, side);
    }
}

/// Our two ends with each other: both repair a lost last flight.
#[test]
fn our_own_ends_survive_heavy_loss() {
    for seed in 0..3 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut engines = [engine(), engine()];
        let mut now = Instant::from_nanos(0);
        let mut sessions =
            [engines[0].open(now, Side::Server, SessionTag(1)), engines[1].open(now, Side::Client, SessionTag(1))];
        let mut keying: [Option<Box<Keying>>; 2] = [None, None];
        for _ in 0..STEPS_MAX {
            now = now + STEP;
            for end in 0..2 {
                engines[end].pump(now);
                while let Some(output) = sessions[end].poll() {
                    match output {
                        SecureOutput::Transmit(datagram) if rng.random_bool(0.6) => {
                            let _ = sessions[1 - end].handle_datagram(now, &datagram);
                        }
                        SecureOutput::Transmit(_) => {}
                        SecureOutput::Established(keys) => keying[end] = Some(keys),
                        SecureOutput::Application(data) => panic!("{data:?}"),
                        SecureOutput::Closed(why) => panic!("{why}"),
                    }
                }
            }
            if keying.iter().all(Option::is_some) {
                break;
            }
            std::thread::sleep(STEP);
        }
        let [Some(server), Some(client)] = keying else { panic!("no agreement with seed {seed}") };
        assert_eq!((&server.local, &server.remote), (&client.remote, &client.local));
        assert_eq!(server.profile, SrtpProfile::AeadAes128Gcm);
    }
}

/// A ClientHello that takes the library's first panic (fault 2) from it: one to three bytes of extensions.
fn torn_hello(torn: usize) -> Vec<u8> {
    let mut body = vec![0xFE, 0xFD];
    body.extend([7; 32]);
    body.extend([0, 0, 0, 2, 0xC0, 0x2B, 1, 0, 0, torn as u8]);
    body.extend(vec![0; torn]);
    record(22, 0, 0, &fragment(1, 0, body.len(), 0, &body))
}

#[test]
fn fault_1_sixty_thousand_fragments_overflow_nothing() {
    let mut world = World::new(Side::Server, &[GCM_128]);
    for offset in 0..60_000 {
        let datagram = record(22, 0, offset as u64, &fragment(1, 0, 60_000, offset, &[1]));
        assert_eq!(world.receive(&datagram), Err(SecureDrop::DtlsTooLarge));
    }
    // As many as are allowed: the message is whole, and then found to be nonsense.
    for offset in 0..8_000 {
        let datagram = record(22, 0, offset as u64, &fragment(1, 0, 8_000, offset, &[1]));
        let expected = if offset == 7_999 { Err(SecureDrop::DtlsMalformed) } else { Ok(()) };
        assert_eq!(world.receive(&datagram), expected);
    }
    assert_eq!(world.engine.started(), 0);
    assert_eq!(world.poll(), [HANDSHAKE_FAILURE.to_vec()], "which whoever sent it is told");
    world.handshake(&mut clean);
    world.still_works();
}

#[test]
fn fault_2_torn_extensions_do_not_reach_the_library() {
    let mut world = World::new(Side::Server, &[GCM_128]);
    for torn in 1..=3 {
        assert_eq!(world.receive(&torn_hello(torn)), Err(SecureDrop::DtlsMalformed));
        assert_eq!(world.poll(), [HANDSHAKE_FAILURE.to_vec()]);
    }
    assert_eq!(world.engine.started(), 0);
    world.handshake(&mut clean);
    world.still_works();
}

#[test]
fn fault_3_a_lost_last_flight_is_sent_again() {
    let mut world = World::new(Side::Server, &[GCM_128]);
    let mut lost = 0;
    let mut link = |way, datagram: &[u8]| {
        let last = way == Way::ToPeer && records(datagram).iter().any(|record| record[4] == 1);
        if last && lost < 3 {
            lost += 1;
            return vec![];
        }
        vec![datagram.to_vec()]
    };
    let agreed = world.handshake(&mut link);
    assert_agreement(&world, &agreed, Side::Server);
    assert_eq!(lost, 3);
    world.still_works();
}

#[test]
fn fault_3_only_the_peer_s_own_repeats_are_answered() {
    let mut world = World::new(Side::Server, &[GCM_128]);
    let mut finished = Vec::new();
    world.handshake(&mut |way, datagram: &[u8]| {
        if way == Way::ToUs {
            finished.extend(records(datagram).into_iter().filter(|record| record[4] == 1));
        }
        vec![datagram.to_vec()]
    });
    // An overheard record may be repeated by anybody: it is answered once. Records under foreign keys never are.
    let mut forged = finished[0].clone();
    *forged.last_mut().unwrap() ^= 1;
    for number in 0..200 {
        world.now = world.now + Duration::from_secs(1);
        // Under a number that has been opened it is not even looked at.
        let expected = if number == 0 { SecureDrop::DtlsForged } else { SecureDrop::DtlsOutOfPlace };
        assert_eq!(world.receive(&forged), Err(expected));
        let result = world.receive(&finished[0]);
        assert_eq!(result, if number == 0 { Ok(()) } else { Err(SecureDrop::DtlsOutOfPlace) });
        assert_eq!(world.poll().is_empty(), number > 0);
    }
    world.still_works();
}

#[test]
fn fault_4_plaintext_does_not_close_a_session() {
    for side in [Side::Server, Side::Client] {
        let mut world = World::new(side, &[GCM_128]);
        let forged = [
            record(21, 0, 900, &[2, 40]),
            record(21, 0, 901, &[1, 0]),
            record(23, 0, 902, b"data"),
            record(22, 0, 903, &fragment(0, 0, 0, 0, &[])),
            record(20, 0, 904, &[1]),
            record(99, 0, 905, &[1]),
        ];
        // While it runs …
        let mut link = |way, datagram: &[u8]| {
            let mut out = vec![datagram.to_vec()];
            if way == Way::ToUs {
                out.extend([forged[0].clone(), forged[1].clone(), forged[2].clone(), forged[5].clone()]);
            }
            out
        };
        world.handshake(&mut link);
        assert!(world.drops.iter().all(|&why| why == SecureDrop::DtlsPlaintext), "{:?}", world.drops);
        // … and once it is done.
        for datagram in &forged {
            assert!(world.receive(datagram).is_err());
            assert_eq!(world.poll(), Vec::<Vec<u8>>::new());
        }
        world.still_works();
    }
}

#[test]
fn fault_4_forged_encrypted_records_do_not_close_a_session() {
    for side in [Side::Server, Side::Client] {
        let mut world = World::new(side, &[GCM_128]);
        world.handshake(&mut clean);
        for kind in [20, 21, 22, 23] {
            for len in 1..80 {
                let _ = world.receive(&record(kind, 1, 1 << 40 | len as u64, &vec![0xAA; len]));
                world.poll();
            }
        }
        world.still_works();
    }
}

/// Data would fill the library's queue of one and stop its reader: a later close_notify would not be seen.
#[test]
fn data_does_not_block_the_close() {
    let mut world = World::new(Side::Server, &[GCM_128]);
    world.handshake(&mut clean);
    for _ in 0..10 {
        world.peer.write(b"data nobody asked for");
        world.step(&mut clean);
    }
    assert_eq!(world.drops, vec![SecureDrop::DtlsOutOfPlace; world.drops.len()]);
    world.still_works();
}

#[test]
fn an_application_record_goes_both_ways_after_the_handshake() {
    for side in [Side::Server, Side::Client] {
        let mut world = World::new(side, &[GCM_128]);
        assert!(!world.session.send(b"too soon"));
        world.handshake(&mut clean);
        world.session.accept_application();
        for number in 0..3 {
            world.peer.write(b"from the library");
            assert!(world.run(&mut clean, |world| world.application.len() > number));
            assert!(world.session.send(b"from us"));
            assert!(world.run(&mut clean, |world| world.peer.read().len() > number));
        }
        assert_eq!(world.application, vec![b"from the library".to_vec(); 3]);
        assert_eq!(world.peer.read(), vec![b"from us".to_vec(); 3]);
        assert_eq!(world.drops, []);
        world.still_works();
        assert!(!world.session.send(b"too late"));
    }
}

/// With an error from its socket the library's reader spins: then none of these calls would return.
#[test]
fn fault_5_nothing_spins_after_the_end() {
    let mut world = World::new(Side::Server, &[GCM_128]);
    world.step(&mut clean);
    world.session.close();
    assert_eq!(world.receive(&[22]), Err(SecureDrop::DtlsClosed));
    world.engine.pump(world.now);
    assert_eq!(world.engine.tasks(), 0);

    let mut world = World::new(Side::Client, &[GCM_128]);
    world.handshake(&mut clean);
    world.session.close();
    let farewell = world.poll();
    assert_eq!(farewell.len(), 1, "close_notify");
    assert_eq!(world.closed, None, "we know that we closed it");
    world.engine.pump(world.now);
    assert_eq!(world.engine.tasks(), 0);
    world.peer.push(&farewell[0]);
    assert!(world.run(&mut clean, |world| world.peer.closed()));
    world.session.close();
    assert_eq!(world.poll(), Vec::<Vec<u8>>::new());
}

#[test]
fn fault_6_floods_of_early_records_and_empty_fragments_pass_by() {
    for side in [Side::Server, Side::Client] {
        let mut world = World::new(side, &[GCM_128]);
        let flood = |world: &mut World| {
            for number in 0..10_000u64 {
                let _ = world.receive(&record(22, 1, number, &[0x55; 48]));
                assert!(world.receive(&record(22, 0, number, &fragment(1, 0, 100, 0, &[]))).is_err());
                assert!(world.receive(&record(22, 0, number, &[])).is_err());
                assert!(world.receive(&record(22, 1, number, &[0x55; 1_000])).is_err());
            }
        };
        flood(&mut world);
        let mut link = |way, datagram: &[u8]| {
            let mut out = vec![datagram.to_vec()];
            if way == Way::ToUs {
                (0..3).for_each(|number| out.insert(0, record(22, 1, number, &[0x77; 48])));
            }
            out
        };
        let agreed = world.handshake(&mut link);
        assert_agreement(&world, &agreed, side);
        world.still_works();
    }
}

/// The library keeps state for its HelloVerifyRequest: so only one whole hello starts it, once a session.
#[test]
fn faults_7_and_10_the_library_starts_once_and_only_for_a_hello() {
    let mut world = World::new(Side::Server, &[GCM_128]);
    let mut rng = StdRng::seed_from_u64(3);
    for _ in 0..20_000 {
        let len = rng.random_range(0..80);
        let junk: Vec<u8> = (0..len).map(|_| rng.random()).collect();
        let _ = world.receive(&junk);
        let _ = world.receive(&record(22, 0, 1, &junk));
        let _ = world.receive(&record(22, 0, 1, &fragment(1, 0, len, 0, &junk)));
    }
    assert_eq!((world.engine.started(), world.engine.tasks()), (0, 0));
    // Hellos that cannot be taken are refused, a few times.
    let refused = world.poll();
    assert_eq!(refused, vec![HANDSHAKE_FAILURE.to_vec(); REFUSALS_MAX as usize]);
    let mut hellos = Vec::new();
    world.handshake(&mut |way, datagram: &[u8]| {
        if way == Way::ToUs && hellos.len() < 2 {
            hellos.push(datagram.to_vec());
        }
        vec![datagram.to_vec()]
    });
    for _ in 0..100 {
        for hello in &hellos {
            assert!(world.receive(hello).is_err());
        }
    }
    assert_eq!(world.engine.started(), 1);
    world.still_works();
}

#[test]
fn fault_8_what_a_lost_close_leaves_goes_with_the_session() {
    let mut world = World::new(Side::Server, &[GCM_128]);
    world.handshake(&mut clean);
    world.peer.close();
    for _ in 0..50 {
        world.step(&mut |_, _| vec![]);
    }
    assert_eq!(world.closed, None, "nobody told us; consent expiry will");
    assert_eq!(world.engine.tasks(), 0, "the library went with the handshake");
    let World { engine, session, .. } = world;
    drop(session);
    assert_eq!(engine.tasks(), 0);
}

#[test]
fn fault_9_gcm_is_taken_whatever_the_client_prefers() {
    for (offered, expected) in [
        (&[CM_80, CM_32, GCM_256, GCM_128][..], SrtpProfile::AeadAes128Gcm),
        (&[CM_80, GCM_256], SrtpProfile::AeadAes256Gcm),
        (&[CM_32, CM_80], SrtpProfile::Aes128CmSha1_80),
    ] {
        let mut world = World::new(Side::Server, offered);
        let agreed = world.handshake(&mut clean);
        assert_eq!(world.keying.as_ref().unwrap().profile, expected);
        assert_eq!(agreed.profile as u16, expected.id());
        assert_agreement(&world, &agreed, Side::Server);
    }
    // As client we offer ours, best first, and take what the server picks.
    for (accepted, expected) in
        [(&[CM_80, GCM_128][..], SrtpProfile::AeadAes128Gcm), (&[CM_80], SrtpProfile::Aes128CmSha1_80)]
    {
        let mut world = World::new(Side::Client, accepted);
        let agreed = world.handshake(&mut clean);
        assert_eq!(world.keying.as_ref().unwrap().profile, expected);
        assert_agreement(&world, &agreed, Side::Client);
    }
}

#[test]
fn a_client_without_a_profile_of_ours_is_refused_at_once() {
    let mut world = World::new(Side::Server, &[CM_32]);
    assert!(world.run(&mut clean, |world| world.closed.is_some()));
    assert!(matches!(&world.closed, Some(ClosedBy::HandshakeFailed(reason)) if reason.contains("SRTP")));
    assert!(world.run(&mut clean, |world| world.peer.finished()), "the alert reached it");
    assert!(world.peer.agreed().is_err());
    assert_eq!(world.engine.started(), 0);
}

#[test]
fn a_peer_without_certificate_or_extended_master_secret_gets_no_keys() {
    for side in [Side::Server, Side::Client] {
        let mut plain = config(&[GCM_128]);
        plain.extended_master_secret = webrtc_dtls::config::ExtendedMasterSecretType::Disable;
        let mut world = World::with(side, Peer::start(side == Side::Server, plain));
        assert!(world.run(&mut clean, |world| world.closed.is_some()));
        assert!(world.keying.is_none() && matches!(world.closed, Some(ClosedBy::HandshakeFailed(_))));
        assert_eq!(world.engine.tasks(), 0);
    }
    let mut nameless = config(&[GCM_128]);
    nameless.certificates.clear();
    let mut world = World::with(Side::Server, Peer::start(true, nameless));
    for _ in 0..100 {
        world.step(&mut clean);
    }
    assert!(world.keying.is_none() && world.drops.contains(&SecureDrop::DtlsMalformed));
}

#[test]
fn a_handshake_that_hangs_ends() {
    for side in [Side::Server, Side::Client] {
        let mut world = World::new(side, &[GCM_128]);
        for _ in 0..20 {
            // The first flights arrive, ours are lost.
            world.step(&mut |way, datagram: &[u8]| if way == Way::ToUs { vec![datagram.to_vec()] } else { vec![] });
        }
        let due = world.engine.next_deadline().unwrap();
        assert!(due.since(world.now) <= Duration::from_millis(20));
        world.now = world.now + HANDSHAKE_MAX;
        world.engine.pump(world.now);
        world.poll();
        assert_eq!(world.closed, Some(ClosedBy::HandshakeTimeout));
        assert_eq!(world.engine.next_deadline(), None);
        assert_eq!(world.engine.tasks(), 0);
        assert_eq!(world.receive(&torn_hello(1)), Err(SecureDrop::DtlsClosed));
    }
}

/// A session nobody talks to wakes nobody before its time is up.
#[test]
fn a_server_that_waits_does_not_tick() {
    let mut engine = engine();
    let now = Instant::from_nanos(5);
    let mut session = engine.open(now, Side::Server, SessionTag(1));
    assert_eq!(engine.next_deadline(), Some(now + HANDSHAKE_MAX));
    engine.pump(now + HANDSHAKE_MAX);
    assert!(matches!(session.poll(), Some(SecureOutput::Transmit(alert)) if alert == HANDSHAKE_FAILURE));
    assert!(matches!(session.poll(), Some(SecureOutput::Closed(ClosedBy::HandshakeTimeout))));
    assert!(session.poll().is_none());
    assert_eq!(engine.next_deadline(), None);
}

/// A hello with a cookie may not differ from the first: the library goes by the first, the transcript by the second.
#[test]
fn a_changed_second_hello_is_dropped() {
    let mut world = World::new(Side::Server, &[GCM_128, CM_80]);
    let mut link = |way, datagram: &[u8]| {
        let mut datagram = datagram.to_vec();
        // Message sequence 1, and the random of the hello behind record and handshake header.
        if way == Way::ToUs && datagram[13] == 1 && datagram[18] == 1 {
            datagram[13 + 12 + 10] ^= 1;
        }
        vec![datagram]
    };
    assert!(world.run(&mut link, |world| world.drops.contains(&SecureDrop::DtlsHelloChanged)));
    world.handshake(&mut clean);
}

/// Genuine flights with bytes changed reach deeper than junk: whatever passes the gate, the library survives.
#[test]
fn changed_bytes_never_break_the_library() {
    let mut ends = [0; 2];
    for seed in 0..200 {
        let side = if seed % 2 == 0 { Side::Server } else { Side::Client };
        let mut rng = StdRng::seed_from_u64(seed);
        let mut world = World::new(side, &[GCM_128, CM_80]);
        for _ in 0..12 {
            world.step(&mut |way, datagram: &[u8]| {
                let mut datagram = datagram.to_vec();
                if way == Way::ToUs && rng.random_bool(0.5) {
                    for _ in 0..rng.random_range(1..4) {
                        let at = rng.random_range(0..datagram.len());
                        datagram[at] = rng.random();
                    }
                }
                vec![datagram]
            });
        }
        if let Some(ClosedBy::HandshakeFailed(reason)) = &world.closed {
            assert!(!reason.contains("gave up"), "a panic in the library with seed {seed}");
        }
        ends[usize::from(world.keying.is_some())] += 1;
    }
    assert!(ends[0] > 20 && ends[1] > 5, "both ends are met: {ends:?}");
}

#[test]
fn a_hello_that_cannot_be_taken_is_answered_and_the_right_one_still_may_come() {
    let mut world = World::new(Side::Server, &[GCM_128]);
    let mut hello = Vec::new();
    while hello.is_empty() {
        hello = world.peer.pump().concat();
        std::thread::sleep(STEP);
    }
    assert_eq!(world.receive(&torn_hello(2)), Err(SecureDrop::DtlsMalformed));
    assert_eq!(world.poll(), [HANDSHAKE_FAILURE.to_vec()]);
    for _ in 0..100 {
        let _ = world.receive(&torn_hello(1));
    }
    assert!(world.poll().len() < 10, "not for ever");
    assert_eq!(world.receive(&hello), Ok(()));
    let agreed = world.handshake(&mut clean);
    assert_agreement(&world, &agreed, Side::Server);
    let _ = world.receive(&torn_hello(1));
    assert!(world.poll().is_empty(), "a handshake that is done is nobody's to end");
    world.still_works();
}

#[test]
fn a_stranger_s_hello_gets_the_peer_s_handshake_no_alert() {
    let mut world = World::new(Side::Server, &[GCM_128]);
    let agreed = world.handshake(&mut |way, datagram: &[u8]| match way {
        Way::ToUs => vec![datagram.to_vec(), torn_hello(3)],
        Way::ToPeer => {
            assert_ne!(datagram, HANDSHAKE_FAILURE);
            vec![datagram.to_vec()]
        }
    });
    assert_agreement(&world, &agreed, Side::Server);
}
