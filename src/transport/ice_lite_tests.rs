//! Tests of the ICE-lite agent.

use super::*;
use crate::base::buffer::LocalIndex;
use crate::transport::stun::{ICE_CONTROLLING, USERNAME};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::net::SocketAddr;
use stun::integrity::MessageIntegrity;
use stun::message::{BINDING_REQUEST, Getter};

const ERROR_CODE: u16 = 0x0009;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;

const PWD: &str = "abcdefghijklmnopqrstuvwx";

fn credentials(ufrag: &str, pwd: &str) -> IceCredentialsLocal {
    IceCredentialsLocal { ufrag: ufrag.into(), pwd: pwd.into() }
}

fn agent() -> IceLite {
    IceLite::new(credentials("ab12345678", PWD))
}

fn path(port: u16) -> Path {
    Path::udp(LocalIndex(0), SocketAddr::from(([192, 0, 2, 1], port)))
}

fn at(millis: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(millis)
}

/// A check as browsers send it, with the parts that differ between them.
fn check(username: &str, pwd: &str, priority: u32, more: &[(u16, &[u8])]) -> Vec<u8> {
    let mut message = Message { typ: BINDING_REQUEST, transaction_id: TransactionId([9; 12]), ..Message::new() };
    message.write_header();
    message.add(AttrType(USERNAME), username.as_bytes());
    message.add(AttrType(ICE_CONTROLLING), &[1; 8]);
    message.add(AttrType(PRIORITY), &priority.to_be_bytes());
    for (kind, value) in more {
        message.add(AttrType(*kind), value);
    }
    finish(&mut message, &IntegrityKey::new(pwd));
    message.raw
}

const NOMINATE: (u16, &[u8]) = (USE_CANDIDATE, &[]);

fn plain() -> Vec<u8> {
    check("ab12345678:far1", PWD, 100, &[])
}

fn nominating(priority: u32) -> Vec<u8> {
    check("ab12345678:far1", PWD, priority, &[NOMINATE])
}

fn error_code(reply: &[u8]) -> Option<u16> {
    let code = StunView::parse(reply).unwrap().attribute(ERROR_CODE)?;
    Some(u16::from(code[2]) * 100 + u16::from(code[3]))
}

#[test]
fn a_check_is_answered_with_its_address_and_validates_the_path() {
    let (mut ice, mut reply) = (agent(), Vec::new());
    let remotes = [path(5000).remote, "[2001:db8::5]:777".parse().unwrap()];
    for remote in remotes {
        let path = Path::udp(LocalIndex(1), remote);
        let request = plain();
        let outcome = ice.handle(at(1), path, &request, &mut reply).unwrap();
        assert!(outcome.replied && outcome.path_validated == Some(path) && !outcome.revived);
        assert!(reply.len() <= request.len() + 16);
        // The crate reads it as another implementation would.
        let mut message = Message::new();
        message.unmarshal_binary(&reply).unwrap();
        let mut mapped = XorMappedAddress::default();
        mapped.get_from(&message).unwrap();
        assert_eq!((mapped.ip, mapped.port), (remote.ip(), remote.port()));
        assert_eq!(message.transaction_id, TransactionId([9; 12]));
        MessageIntegrity::new_short_term_integrity(PWD.into()).check(&mut message).unwrap();
        stun::fingerprint::FINGERPRINT.check(&message).unwrap();
    }
    assert_eq!(ice.paths().count(), 2);
}

#[test]
fn what_is_not_authentic_is_dropped_in_silence() {
    let (mut ice, mut reply) = (agent(), vec![1, 2, 3]);
    let mut drop_of = |datagram: &[u8]| {
        let why = ice.handle(at(1), path(1), datagram, &mut reply).unwrap_err();
        assert!(reply.is_empty() && ice.paths().count() == 0 && ice.consent_deadline().is_none());
        why
    };
    assert_eq!(drop_of(&check("ab12345678:far1", "another password here...", 1, &[])), IceDrop::BadIntegrity);
    assert_eq!(drop_of(&check("ab12345679:far1", PWD, 1, &[])), IceDrop::WrongUfrag);
    assert_eq!(drop_of(&check("ab12345678", PWD, 1, &[])), IceDrop::NoUsername);
    assert_eq!(drop_of(b"\x00\x01"), IceDrop::Malformed);
    let mut wrong_fingerprint = plain();
    *wrong_fingerprint.last_mut().unwrap() ^= 1;
    assert_eq!(drop_of(&wrong_fingerprint), IceDrop::BadFingerprint);
    for (kind, why) in [
        (0x0011u16, IceDrop::Indication),
        (0x0200, IceDrop::GoogPing),
        (0x0101, IceDrop::NotARequest),
        (0x0111, IceDrop::NotARequest),
        (0x0003, IceDrop::NotARequest),
    ] {
        let mut other = plain();
        other[..2].copy_from_slice(&kind.to_be_bytes());
        assert_eq!(drop_of(&other), why);
    }
    let mut bare = Message { typ: BINDING_REQUEST, ..Message::new() };
    bare.write_header();
    bare.add(AttrType(USERNAME), b"ab12345678:far1");
    assert_eq!(drop_of(&bare.raw), IceDrop::NoIntegrity);
    let names: std::collections::BTreeSet<_> = IceDrop::ALL.iter().map(|why| why.name()).collect();
    assert_eq!(names.len(), IceDrop::ALL.len());
}

#[test]
fn attributes_that_others_send() {
    let (mut ice, mut reply) = (agent(), Vec::new());
    // Network cost, GOOG_MISC_INFO, both NOMINATIONs: taken, and nothing of them comes back.
    let harmless: &[(u16, &[u8])] = &[(0xc057, &[0; 4]), (0xc059, &[0; 6]), (0xc001, &[0; 4]), (0x0030, &[0; 4])];
    assert!(ice.handle(at(1), path(1), &check("ab12345678:x", PWD, 1, harmless), &mut reply).is_ok());
    assert_eq!(error_code(&reply), None);
    let kinds: Vec<u16> = StunView::parse(&reply).unwrap().attributes().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, [XOR_MAPPED_ADDRESS]);

    let unknown: &[(u16, &[u8])] = &[(0x0031, &[]), (0x7fff, &[1, 2, 3])];
    let request = check("ab12345678:x", PWD, 1, unknown);
    let outcome = ice.handle(at(2), path(2), &request, &mut reply).unwrap();
    assert_eq!(outcome, IceOutcome { replied: true, ..IceOutcome::default() });
    assert_eq!(error_code(&reply), Some(420));
    let view = StunView::parse(&reply).unwrap();
    assert_eq!(view.attribute(0x000a), Some(&[0x00, 0x31, 0x7f, 0xff][..]));
    assert!(view.integrity_holds(&IntegrityKey::new(PWD)) && view.fingerprint_holds());
    assert!(!ice.is_valid_path(path(2)));

    // An attribute list longer than anybody writes is not read again and again.
    for (count, handled) in [(50, Ok(true)), (100, Err(IceDrop::Malformed)), (400, Err(IceDrop::TooLong))] {
        let many: Vec<(u16, &[u8])> = (0..count).map(|index| (0x4000 + index, &[][..])).collect();
        let request = check("ab12345678:x", PWD, 1, &many);
        assert_eq!(ice.handle(at(2), path(2), &request, &mut reply).map(|outcome| outcome.replied), handled, "{count}");
        assert!(reply.len() < 128);
    }
}

#[test]
fn a_controlled_peer_is_told_of_the_conflict() {
    let (mut ice, mut reply) = (agent(), Vec::new());
    let outcome =
        ice.handle(at(1), path(1), &check("ab12345678:x", PWD, 1, &[(ICE_CONTROLLED, &[0; 8])]), &mut reply).unwrap();
    assert_eq!(outcome, IceOutcome { replied: true, ..IceOutcome::default() });
    assert_eq!(error_code(&reply), Some(487));
    assert!(StunView::parse(&reply).unwrap().integrity_holds(&IntegrityKey::new(PWD)));
}

/// `number`: of NOMINATION, under either of its types.
fn numbered(kind: u16, number: u32, priority: u32) -> Vec<u8> {
    check("ab12345678:far1", PWD, priority, &[(kind, &number.to_be_bytes())])
}

#[test]
fn while_nothing_is_nominated_the_first_path_goes_on() {
    let (mut ice, mut reply) = (agent(), Vec::new());
    assert!(ice.handle(at(0), path(1), &plain(), &mut reply).unwrap().selected_changed);
    assert!(!ice.handle(at(10), path(2), &plain(), &mut reply).unwrap().selected_changed);
    assert_eq!((ice.selected(), ice.is_nominated()), (Some(path(1)), false));
    assert!(ice.handle(at(20), path(2), &nominating(100), &mut reply).unwrap().selected_changed);
    assert_eq!((ice.selected(), ice.is_nominated()), (Some(path(2)), true));
}

/// Firefox: every check of every pair nominates, and it uses the pair with the highest priority.
#[test]
fn of_pairs_that_are_all_nominated_the_best_is_used_until_it_falls_silent() {
    let (mut ice, mut reply) = (agent(), Vec::new());
    for step in 0..20 {
        ice.handle(at(100 * step), path(1), &nominating(100), &mut reply).unwrap();
        ice.handle(at(100 * step + 50), path(2), &nominating(50), &mut reply).unwrap();
        assert_eq!(ice.selected(), Some(path(1)), "step {step}");
    }
    // Equal or higher: the client moved.
    ice.handle(at(2_000), path(3), &nominating(100), &mut reply).unwrap();
    assert_eq!(ice.selected(), Some(path(3)));
    ice.handle(at(6_999), path(2), &nominating(50), &mut reply).unwrap();
    assert_eq!(ice.selected(), Some(path(3)));
    ice.handle(at(7_000), path(2), &nominating(50), &mut reply).unwrap();
    assert_eq!(ice.selected(), Some(path(2)), "3 has not been checked for 5 s");
    ice.handle(at(7_010), path(1), &plain(), &mut reply).unwrap();
    assert_eq!(ice.selected(), Some(path(2)), "a plain check moves nothing");
}

/// mediasoup#1585, #1607, livekit#642, ice4j#311: a client that moves to a pair of lower priority goes on checking the
/// pair it leaves.
#[test]
fn a_client_that_only_checks_its_old_path_is_followed_at_once() {
    let (mut ice, mut reply) = (agent(), Vec::new());
    ice.handle(at(0), path(1), &nominating(100), &mut reply).unwrap();
    ice.handle(at(2_500), path(1), &plain(), &mut reply).unwrap();
    assert!(ice.handle(at(2_600), path(2), &nominating(50), &mut reply).unwrap().selected_changed);
    for step in 0..20 {
        ice.handle(at(3_000 + 480 * step), path(2), &nominating(50), &mut reply).unwrap();
        ice.handle(at(3_100 + 480 * step), path(1), &plain(), &mut reply).unwrap();
        assert_eq!(ice.selected(), Some(path(2)));
    }
    // And back, however low.
    ice.handle(at(13_000), path(2), &plain(), &mut reply).unwrap();
    ice.handle(at(13_001), path(3), &nominating(1), &mut reply).unwrap();
    assert_eq!(ice.selected(), Some(path(3)));
}

/// mediasoup#734, #744, #756: mediasoup-client writes ice-options:renomination, so native clients number their nominations
/// and send no USE-CANDIDATE. draft-thatcher-ice-renomination has expired and could not be had: attribute and rule are
/// those of libwebrtc, libnice and pion.
#[test]
fn the_highest_numbered_nomination_wins_at_once_and_for_good() {
    for kind in [NOMINATION, NOMINATION_EARLIER] {
        let (mut ice, mut reply) = (agent(), Vec::new());
        ice.handle(at(0), path(1), &numbered(kind, 1, 100), &mut reply).unwrap();
        assert_eq!((ice.selected(), ice.is_nominated()), (Some(path(1)), true));
        assert_eq!(error_code(&reply), None);
        assert!(ice.handle(at(10), path(2), &numbered(kind, 2, 50), &mut reply).unwrap().selected_changed);
        // An overtaken check comes late, again and again; the selected path is only checked.
        for step in 1..40 {
            ice.handle(at(500 * step), path(1), &numbered(kind, 1, 100), &mut reply).unwrap();
            ice.handle(at(500 * step + 1), path(2), &plain(), &mut reply).unwrap();
            assert_eq!(ice.selected(), Some(path(2)), "step {step}");
        }
        let both = check("ab12345678:x", PWD, 1, &[(kind, &3u32.to_be_bytes()), NOMINATE]);
        ice.handle(at(20_500), path(3), &both, &mut reply).unwrap();
        assert_eq!(ice.selected(), Some(path(3)), "with USE-CANDIDATE, too");
        // A check without a number is older than those with one, until the selected path is given up.
        ice.handle(at(20_600), path(1), &nominating(200), &mut reply).unwrap();
        assert_eq!(ice.selected(), Some(path(3)));
        ice.handle(at(25_500), path(1), &nominating(200), &mut reply).unwrap();
        assert_eq!(ice.selected(), Some(path(1)));
        ice.handle(at(25_600), path(2), &numbered(kind, 1, 1), &mut reply).unwrap();
        assert_eq!(ice.selected(), Some(path(2)), "any number outranks none");
    }
}

#[test]
fn a_nomination_without_a_whole_number_is_none() {
    let (mut ice, mut reply) = (agent(), Vec::new());
    ice.handle(at(0), path(1), &plain(), &mut reply).unwrap();
    for value in [&[][..], &[0, 0, 0, 0], &[0, 0, 2], &[0, 0, 0, 2, 0]] {
        ice.handle(at(1), path(2), &check("ab12345678:x", PWD, 100, &[(NOMINATION, value)]), &mut reply).unwrap();
        assert_eq!((ice.selected(), ice.is_nominated(), error_code(&reply)), (Some(path(1)), false, None));
    }
    // Two of the same attribute: the first counts (RFC 8489 section 14).
    let twice = check("ab12345678:x", PWD, 1, &[(NOMINATION, &[0, 0, 0, 9]), (NOMINATION, &[0, 0, 1, 0])]);
    ice.handle(at(2), path(2), &twice, &mut reply).unwrap();
    ice.handle(at(3), path(3), &numbered(NOMINATION, 10, 1), &mut reply).unwrap();
    assert_eq!(ice.selected(), Some(path(3)));
}

/// RFC 7675 section 5.1: nothing is sent on a pair without consent, though other pairs of the client have it.
#[test]
fn a_selected_path_without_consent_gives_way_to_one_that_is_checked() {
    for first in [nominating(100), numbered(NOMINATION, 7, 100)] {
        let (mut ice, mut reply) = (agent(), Vec::new());
        ice.handle(at(0), path(1), &first, &mut reply).unwrap();
        for step in 0..12 {
            ice.handle(at(2_500 * step), path(2), &plain(), &mut reply).unwrap();
            assert_eq!(ice.selected(), Some(path(1)));
        }
        let outcome = ice.handle(at(30_000), path(2), &plain(), &mut reply).unwrap();
        assert!(outcome.selected_changed && outcome.path_removed == Some(path(1)));
        assert_eq!((ice.selected(), ice.is_nominated()), (Some(path(2)), false));
        ice.handle(at(30_100), path(1), &numbered(NOMINATION, 1, 1), &mut reply).unwrap();
        assert_eq!(ice.selected(), Some(path(1)), "it may be chosen anew");
    }
}

#[test]
fn a_restart_keeps_the_old_credentials_until_the_new_ones_are_used() {
    let (mut ice, mut reply) = (agent(), Vec::new());
    ice.handle(at(0), path(1), &nominating(100), &mut reply).unwrap();
    ice.restart(credentials("abLOST5678", "never reaches the client"));
    ice.restart(credentials("abNEW45678", "zyxwvutsrqponmlkjihgfedc"));
    assert_eq!(ice.ufrags().collect::<Vec<_>>(), ["abNEW45678", "ab12345678"]);
    ice.handle(at(10), path(1), &nominating(100), &mut reply).unwrap();
    // The new generation's nomination takes the path whatever its priority.
    let renewed = check("abNEW45678:far2", "zyxwvutsrqponmlkjihgfedc", 1, &[NOMINATE]);
    assert!(ice.handle(at(20), path(2), &renewed, &mut reply).unwrap().selected_changed);
    assert_eq!((ice.selected(), ice.is_valid_path(path(1))), (Some(path(2)), true));
    assert_eq!(ice.ufrags().collect::<Vec<_>>(), ["abNEW45678"]);
    assert_eq!(ice.handle(at(30), path(1), &plain(), &mut reply), Err(IceDrop::WrongUfrag));
}

#[test]
fn the_path_silent_longest_gives_way_and_never_the_nominated_one() {
    let (mut ice, mut reply) = (agent(), Vec::new());
    ice.handle(at(0), path(0), &nominating(100), &mut reply).unwrap();
    for port in 1..8 {
        ice.handle(at(u64::from(port)), path(port), &plain(), &mut reply).unwrap();
    }
    ice.handle(at(9), path(1), &plain(), &mut reply).unwrap();
    let outcome = ice.handle(at(10), path(8), &plain(), &mut reply).unwrap();
    assert_eq!((outcome.path_validated, outcome.path_removed), (Some(path(8)), Some(path(2))));
    assert_eq!(ice.paths().count(), REMOTE_ADDRESSES_PER_TRANSPORT_MAX);
    // Consent is counted for each pair: silent ones go one by one as the others are checked.
    let outcome = ice.handle(at(30_004), path(0), &plain(), &mut reply).unwrap();
    assert_eq!((outcome.path_removed, ice.selected()), (Some(path(3)), Some(path(0))));
}

#[test]
fn consent_ends_after_thirty_seconds_and_the_next_check_revives() {
    let (mut ice, mut reply) = (agent(), Vec::new());
    assert!(!ice.has_consent(at(0)) && ice.consent_deadline().is_none());
    assert!(!ice.handle(at(100), path(1), &nominating(1), &mut reply).unwrap().revived);
    assert_eq!(ice.consent_deadline(), Some(at(30_100)));
    assert!(ice.has_consent(at(30_099)) && !ice.has_consent(at(30_100)));
    assert_eq!(ice.handle(at(40_000), path(1), &plain()[..50], &mut reply), Err(IceDrop::Malformed));
    assert!(!ice.has_consent(at(40_000)));
    let outcome = ice.handle(at(40_000), path(1), &plain(), &mut reply).unwrap();
    assert!(outcome.revived && outcome.path_validated.is_none() && ice.has_consent(at(69_999)));
    assert_eq!(ice.selected(), Some(path(1)));
}

#[test]
fn attributes_after_the_integrity_change_nothing() {
    let (mut ice, mut reply) = (agent(), Vec::new());
    ice.handle(at(0), path(1), &nominating(1), &mut reply).unwrap();
    // Somebody on the way strips the fingerprint of a plain check and adds USE-CANDIDATE.
    let mut forged = plain();
    forged.truncate(forged.len() - 8);
    forged.extend_from_slice(&[0x00, 0x25, 0, 0]);
    let length = (forged.len() - 20) as u16;
    forged[2..4].copy_from_slice(&length.to_be_bytes());
    ice.handle(at(1), path(2), &forged, &mut reply).unwrap();
    assert_eq!(ice.selected(), Some(path(1)));
}

#[test]
fn no_cut_and_no_mutation_panics_or_passes() {
    let mut rng = SmallRng::seed_from_u64(5769);
    let (mut ice, mut reply) = (agent(), Vec::new());
    let seeds = [plain(), nominating(7), check("ab12345678:y", PWD, 1, &[(0x8022, b"software"), (0x0030, &[0; 4])])];
    for seed in &seeds {
        for len in 0..seed.len() {
            assert_eq!(ice.handle(at(0), path(1), &seed[..len], &mut reply), Err(IceDrop::Malformed));
        }
    }
    for _ in 0..60_000 {
        let mut bytes = seeds[rng.random_range(0..seeds.len())].clone();
        for _ in 0..rng.random_range(1..6) {
            let index = rng.random_range(0..bytes.len());
            bytes[index] = rng.random();
        }
        if rng.random_ratio(1, 4) {
            bytes.truncate(rng.random_range(0..=bytes.len()) & !3);
            if let (true, length) = (bytes.len() >= 20, bytes.len().saturating_sub(20) as u16) {
                bytes[2..4].copy_from_slice(&length.to_be_bytes());
            }
        }
        let _ = peek(&bytes);
        // A sender without the password can change nothing but the tail behind the integrity, and the length.
        let vouched = |seed: &Vec<u8>| {
            bytes.len() >= seed.len() - 8
                && seed[..2] == bytes[..2]
                && seed[4..seed.len() - 8] == bytes[4..seed.len() - 8]
        };
        if ice.handle(at(0), path(1), &bytes, &mut reply).is_ok() {
            assert!(seeds.iter().any(vouched), "{bytes:02x?}");
        }
    }
}
