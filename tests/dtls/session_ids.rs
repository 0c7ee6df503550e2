//! Hellos with a session id (RFC 5246 section 7.4.1.2), which the first library does not take: lengths, both hellos, and the
//! cookie exchange between them.

use super::*;

/// `hello`, a ClientHello in one record, with another session id and cookie, as message `sequence`.
fn changed(hello: &[u8], sequence: u16, session_id: &[u8], cookie: &[u8]) -> Vec<u8> {
    let body = &hello[13 + 12..];
    let (head, rest) = body.split_at(34);
    let rest = &rest[1 + usize::from(rest[0])..];
    let rest = &rest[1 + usize::from(rest[0])..];
    let (id_len, cookie_len) = ([session_id.len() as u8], [cookie.len() as u8]);
    let body = [head, &id_len, session_id, &cookie_len, cookie, rest].concat();
    record(22, 0, u64::from(sequence), &fragment(1, sequence, body.len(), 0, &body))
}

/// A world, and its peer's first hello, which is not on its way.
fn world_and_hello() -> (World, Vec<u8>) {
    let world = World::new(Side::Server, &[CM_80, GCM_128]);
    let mut hello = Vec::new();
    while hello.is_empty() {
        hello = world.peer.pump().concat();
        std::thread::sleep(STEP);
    }
    (world, hello)
}

/// The cookie of a HelloVerifyRequest (RFC 6347 section 4.2.1).
fn cookie_of(datagrams: &[Vec<u8>]) -> Vec<u8> {
    let [request] = datagrams else { panic!("{datagrams:?}") };
    assert_eq!((request[0], request[13]), (22, 3), "a HelloVerifyRequest");
    request[13 + 12 + 3..].to_vec()
}

/// The messages of a flight: their types and the length of the ServerHello's session id.
fn assert_server_flight(datagrams: &[Vec<u8>]) {
    let mut kinds = Vec::new();
    for record in datagrams.iter().flat_map(|datagram| records(datagram)) {
        if record[13] == 2 {
            assert_eq!(record[13 + 12 + 34], 0, "no session to resume later (RFC 5246 section 7.4.1.3)");
        }
        kinds.push(record[13]);
    }
    kinds.dedup();
    assert_eq!(kinds, [2, 11, 12, 13, 14], "ServerHello, Certificate, ServerKeyExchange, CertificateRequest, Done");
}

#[test]
fn every_length_that_an_id_may_have_gets_a_full_handshake_begun() {
    for len in [0, 1, 31, 32] {
        let (mut world, hello) = world_and_hello();
        let id = vec![9; len];
        assert_eq!(world.receive(&changed(&hello, 0, &id, &[])), Ok(()), "an id of {len} bytes");
        let cookie = cookie_of(&world.poll());
        // The first hello again asks for the same answer again.
        assert_eq!(world.receive(&changed(&hello, 0, &id, &[])), Ok(()));
        assert_eq!(cookie_of(&world.poll()), cookie);
        assert_eq!(world.receive(&changed(&hello, 1, &id, &cookie)), Ok(()));
        assert_server_flight(&world.poll());
        assert_eq!(world.engine.started(), 1);
    }
}

#[test]
fn a_hello_without_the_right_cookie_is_asked_for_it() {
    let (mut world, hello) = world_and_hello();
    assert_eq!(world.receive(&changed(&hello, 0, &[9; 32], &[1; 20])), Ok(()));
    let cookie = cookie_of(&world.poll());
    assert_eq!(world.receive(&changed(&hello, 1, &[9; 32], &cookie)), Ok(()));
    assert_server_flight(&world.poll());
}

#[test]
fn an_id_that_is_too_long_gets_an_alert() {
    let (mut world, hello) = world_and_hello();
    assert_eq!(world.receive(&changed(&hello, 0, &[9; 33], &[])), Err(SecureDrop::DtlsMalformed));
    assert_eq!(world.poll(), [HANDSHAKE_FAILURE.to_vec()]);
    assert_eq!(world.engine.started(), 0);
    assert_eq!(world.receive(&hello), Ok(()), "the right one still may come");
    let agreed = world.handshake(&mut clean);
    assert_agreement(&world, &agreed, Side::Server);
}

#[test]
fn the_second_hello_has_the_id_of_the_first() {
    for (first, second) in [(&[][..], &[9; 32][..]), (&[9; 32], &[]), (&[9; 32], &[8; 32]), (&[9; 32], &[9; 31])] {
        let (mut world, hello) = world_and_hello();
        assert_eq!(world.receive(&changed(&hello, 0, first, &[])), Ok(()));
        let cookie = cookie_of(&world.poll());
        assert_eq!(world.receive(&changed(&hello, 1, second, &cookie)), Err(SecureDrop::DtlsHelloChanged));
        assert_eq!(world.poll(), Vec::<Vec<u8>>::new(), "anybody may have forged it");
        assert_eq!(world.receive(&changed(&hello, 1, first, &cookie)), Ok(()));
        assert_server_flight(&world.poll());
    }
}

/// Our own flights are sent again: when the client repeats itself, and by the clock.
#[test]
fn a_lost_flight_is_sent_again() {
    let (mut world, hello) = world_and_hello();
    let id = [9; 32];
    world.receive(&changed(&hello, 0, &id, &[])).unwrap();
    let cookie = cookie_of(&world.poll());
    world.receive(&changed(&hello, 1, &id, &cookie)).unwrap();
    let flight = world.poll();
    world.now = world.now + Duration::from_secs(1);
    assert_eq!(world.receive(&changed(&hello, 1, &id, &cookie)), Ok(()));
    assert_eq!(world.poll(), flight, "verbatim");
    world.now = world.now + Duration::from_secs(1);
    assert!(world.engine.next_deadline().is_some_and(|due| due <= world.now));
    world.engine.pump(world.now);
    assert_server_flight(&world.poll());
    world.now = world.now + HANDSHAKE_MAX;
    world.engine.pump(world.now);
    assert_eq!(world.poll(), [HANDSHAKE_FAILURE.to_vec()]);
    assert_eq!(world.closed, Some(ClosedBy::HandshakeTimeout));
}

/// Of a hello that is well formed but offers nothing we have, with an id and without: an alert and the end.
#[test]
fn what_cannot_be_agreed_on_is_refused_aloud() {
    for id in [&[][..], &[9; 32]] {
        let (mut world, hello) = world_and_hello();
        let mut other = changed(&hello, 0, id, &[]);
        // The list of suites, behind the cookie: all of them become TLS_RSA_WITH_NULL_MD5.
        let at = 13 + 12 + 34 + 1 + id.len() + 1;
        let len = usize::from(u16::from_be_bytes([other[at], other[at + 1]]));
        other[at + 2..][..len].chunks_exact_mut(2).for_each(|suite| suite.copy_from_slice(&[0, 1]));
        world.receive(&other).unwrap();
        let mut sent = world.poll();
        // The first library looks at suites when the cookie is there.
        if world.closed.is_none() {
            let cookie = cookie_of(&sent);
            let body = [&other[25..at - 1], &[cookie.len() as u8], &cookie, &other[at..]].concat();
            world.receive(&record(22, 0, 1, &fragment(1, 1, body.len(), 0, &body))).unwrap();
            sent = world.poll();
        }
        assert!(matches!(world.closed, Some(ClosedBy::HandshakeFailed(_))), "id of {}", id.len());
        assert!(sent.iter().any(|datagram| datagram[0] == 21 && datagram[13] == 2), "a fatal alert: {sent:?}");
    }
}

/// Bytes changed in what the second library gets: it may refuse, and never breaks.
#[test]
fn changed_bytes_never_break_the_second_library() {
    for seed in 0..300 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut world, hello) = world_and_hello();
        let mut mangled = changed(&hello, 0, &[9; 32], &[]);
        for _ in 0..rng.random_range(0..3) {
            let at = rng.random_range(25 + 34..mangled.len());
            mangled[at] = rng.random();
        }
        let _ = world.receive(&mangled);
        world.poll();
        for sequence in 1..5 {
            for kind in [1, 11, 15, 16] {
                let len = rng.random_range(0..90);
                let body: Vec<u8> = (0..len).map(|_| rng.random()).collect();
                let _ = world.receive(&record(22, 0, 9, &fragment(kind, sequence, len, 0, &body)));
                let _ = world.receive(&record(22, 1, u64::from(sequence), &body));
                let _ = world.receive(&record(20, 0, 9, &[1]));
                world.poll();
            }
        }
    }
}
