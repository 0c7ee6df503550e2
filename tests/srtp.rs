//! SRTP against another implementation, against hostile bytes, and against itself: no nonce twice.

use rand::{Rng, SeedableRng, rngs::StdRng};
use std::collections::HashSet;
use webrtc_srtp::context::Context;
use webrtc_srtp::protection_profile::ProtectionProfile;
use weirgate::base::id::Ssrc;
use weirgate::base::seq::Seq;
use weirgate::secure::SecureDrop;
use weirgate::secure::srtp::{
    DueTags, MasterKey, OVERHEAD_MAX, Opener, Placed, SealError, SealPlace, Sealer, SrtpProfile,
};

const PROFILES: [SrtpProfile; 3] = SrtpProfile::ALL;

fn theirs(profile: SrtpProfile) -> ProtectionProfile {
    match profile {
        SrtpProfile::AeadAes128Gcm => ProtectionProfile::AeadAes128Gcm,
        SrtpProfile::AeadAes256Gcm => ProtectionProfile::AeadAes256Gcm,
        SrtpProfile::Aes128CmSha1_80 => ProtectionProfile::Aes128CmHmacSha1_80,
    }
}

struct Keys {
    profile: SrtpProfile,
    master: MasterKey,
}

impl Keys {
    fn random(profile: SrtpProfile, rng: &mut StdRng) -> Keys {
        let key: Vec<u8> = (0..profile.key_len()).map(|_| rng.random()).collect();
        let salt: Vec<u8> = (0..profile.salt_len()).map(|_| rng.random()).collect();
        Keys { profile, master: MasterKey::new(profile, &key, &salt).unwrap() }
    }

    fn sealer(&self) -> Sealer {
        Sealer::new(self.profile, &self.master)
    }

    fn opener(&self) -> Opener {
        Opener::new(self.profile, &self.master)
    }

    fn oracle(&self) -> Context {
        Context::new(self.master.key(), self.master.salt(), theirs(self.profile), None, None).unwrap()
    }
}

/// A packet with the header's length: any number of CSRCs, perhaps a header extension, any payload.
fn random_packet(rng: &mut StdRng, ssrc: u32, seq: u16) -> (Vec<u8>, usize) {
    let csrcs = if rng.random_bool(0.2) { rng.random_range(0..16u8) } else { 0 };
    let extended = rng.random_bool(0.5);
    let mut packet = vec![0x80 | u8::from(extended) << 4 | csrcs, rng.random()];
    packet.extend(seq.to_be_bytes());
    packet.extend(rng.random::<[u8; 4]>());
    packet.extend(ssrc.to_be_bytes());
    (0..csrcs).for_each(|_| packet.extend(rng.random::<[u8; 4]>()));
    if extended {
        // One-byte elements that fill their words exactly, as the other implementation writes them.
        let words = rng.random_range(1..5u16);
        packet.extend([0xBE, 0xDE]);
        packet.extend(words.to_be_bytes());
        (0..words).for_each(|id| packet.extend([(id as u8 + 1) << 4 | 2, 1, 2, 3]));
    }
    let header_len = packet.len();
    let payload_len = rng.random_range(0..1_200);
    packet.extend((0..payload_len).map(|_| rng.random::<u8>()));
    (packet, header_len)
}

fn random_compound(rng: &mut StdRng, ssrc: u32) -> Vec<u8> {
    let words = rng.random_range(1..60u16);
    let mut packet = vec![0x80, 201];
    packet.extend(words.to_be_bytes());
    packet.extend(ssrc.to_be_bytes());
    (1..words).for_each(|_| packet.extend(rng.random::<[u8; 4]>()));
    packet
}

fn seal(sealer: &mut Sealer, index: u64, packet: &[u8], header_len: usize) -> Result<Vec<u8>, SealError> {
    let mut buffer = packet.to_vec();
    buffer.resize(packet.len() + OVERHEAD_MAX, 0);
    let len = sealer.seal_rtp(index, &mut buffer, header_len, packet.len())?;
    buffer.truncate(len);
    Ok(buffer)
}

fn open(opener: &mut Opener, packet: &[u8], header_len: usize) -> Result<Vec<u8>, SecureDrop> {
    let mut packet = packet.to_vec();
    let ssrc = Ssrc(u32::from_be_bytes(packet[8..12].try_into().unwrap()));
    let seq = Seq(u16::from_be_bytes(packet[2..4].try_into().unwrap()));
    let len = opener.open_rtp(header_len, ssrc, seq, &mut packet)?;
    packet.truncate(len);
    Ok(packet)
}

fn open_rtcp(opener: &mut Opener, packet: &[u8]) -> Result<Vec<u8>, SecureDrop> {
    let mut packet = packet.to_vec();
    let len = opener.open_rtcp(&mut packet)?;
    packet.truncate(len);
    Ok(packet)
}

/// The order packets leave in: mostly upwards, now and then a few places back or a jump, over several rollovers.
fn walk(rng: &mut StdRng, steps: usize) -> Vec<u64> {
    let mut used = HashSet::new();
    let mut highest = rng.random_range(1_000..32_768u64);
    let mut walk = vec![highest];
    used.insert(highest);
    while walk.len() < steps {
        let index = match rng.random_range(0..10) {
            0 => highest + rng.random_range(1..20_000),
            1..4 => highest.saturating_sub(rng.random_range(1..900)),
            _ => highest + 1,
        };
        if used.insert(index) {
            highest = highest.max(index);
            walk.push(index);
        }
    }
    walk
}

#[test]
fn what_we_seal_the_other_implementation_opens() {
    for profile in PROFILES {
        let mut rng = StdRng::seed_from_u64(1);
        let keys = Keys::random(profile, &mut rng);
        let (mut sealer, mut oracle) = (keys.sealer(), keys.oracle());
        for ssrc in [1, 0xFFFF_FFFF] {
            let walk = walk(&mut rng, 300);
            assert!(walk.iter().any(|index| index >> 16 > 1), "rollovers are part of this");
            for index in walk {
                let (packet, header_len) = random_packet(&mut rng, ssrc, index as u16);
                let sealed = seal(&mut sealer, index, &packet, header_len).unwrap();
                assert_eq!(sealed.len(), packet.len() + profile.tag_len());
                assert_eq!(oracle.decrypt_rtp(&sealed).unwrap(), packet, "{} index {index}", profile.name());
                let compound = random_compound(&mut rng, ssrc);
                let mut sealed = compound.clone();
                sealer.seal_rtcp(&mut sealed).unwrap();
                assert_eq!(oracle.decrypt_rtcp(&sealed).unwrap(), compound);
            }
        }
    }
}

#[test]
fn what_the_other_implementation_seals_we_open() {
    for profile in PROFILES {
        let mut rng = StdRng::seed_from_u64(2);
        let keys = Keys::random(profile, &mut rng);
        let (mut opener, mut oracle) = (keys.opener(), keys.oracle());
        for ssrc in [7, 0x8000_0000] {
            for index in walk(&mut rng, 300) {
                let (packet, header_len) = random_packet(&mut rng, ssrc, index as u16);
                let sealed = oracle.encrypt_rtp(&packet).unwrap();
                assert_eq!(open(&mut opener, &sealed, header_len).unwrap(), packet, "{} {index}", profile.name());
                assert_eq!(open(&mut opener, &sealed, header_len), Err(SecureDrop::Replayed));
                let compound = random_compound(&mut rng, ssrc);
                let sealed = oracle.encrypt_rtcp(&compound).unwrap();
                assert_eq!(open_rtcp(&mut opener, &sealed).unwrap(), compound);
                assert_eq!(open_rtcp(&mut opener, &sealed), Err(SecureDrop::Replayed));
            }
        }
    }
}

/// Around the blocks of the ciphers and hashes, where a length that is one off would show.
#[test]
fn every_length_is_sealed_and_opened_as_the_other_implementation_does() {
    for profile in PROFILES {
        let mut rng = StdRng::seed_from_u64(11);
        let keys = Keys::random(profile, &mut rng);
        let (mut sealer, mut opener, mut oracle) = (keys.sealer(), keys.opener(), keys.oracle());
        for len in 0..=200u16 {
            let mut packet = vec![0x80, 96];
            packet.extend(len.to_be_bytes());
            packet.extend([0, 0, 0, 0, 0, 0, 0, 9]);
            packet.extend((0..len).map(|_| rng.random::<u8>()));
            let sealed = seal(&mut sealer, u64::from(len), &packet, 12).unwrap();
            assert_eq!(sealed, oracle.encrypt_rtp(&packet).unwrap(), "{} {len}", profile.name());
            assert_eq!(open(&mut opener, &sealed, 12).unwrap(), packet);
        }
    }
}

/// Packets of several clients share a buffer, and the tags of some are computed together: each is what it is alone.
#[test]
fn what_is_sealed_in_a_slab_is_what_is_sealed_alone() {
    let mut rng = StdRng::seed_from_u64(12);
    for round in 0..60 {
        let clients: Vec<_> = (0..4).map(|_| Keys::random(PROFILES[rng.random_range(0..3)], &mut rng)).collect();
        let mut sealers: Vec<_> = clients.iter().map(|keys| (keys.sealer(), keys.sealer())).collect();
        let (mut buffer, mut due, mut placed) = (vec![0xA5; 64 * 1_500], DueTags::default(), Vec::new());
        let (mut start, packets) = (0, rng.random_range(0..40));
        for index in 65_536 - 20..65_536 - 20 + packets {
            // One client for some rounds, as in a run of video; else any, as in audio to many.
            let client = if round % 2 == 0 { 0 } else { rng.random_range(0..clients.len()) };
            let (packet, header_len) = random_packet(&mut rng, 7, index as u16);
            let place = Placed { start, header_len, len: packet.len() };
            buffer[start..start + packet.len()].copy_from_slice(&packet);
            let (together, alone) = &mut sealers[client];
            let sealed = together.seal_in_buffer(&mut SealPlace::default(), index, place, &mut buffer, &mut due);
            let expected = seal(alone, index, &packet, header_len);
            assert_eq!(sealed, expected.as_ref().map(Vec::len).map_err(|why| *why));
            if let Ok(expected) = expected {
                assert_eq!(
                    together.seal_in_buffer(&mut SealPlace::default(), index, place, &mut buffer, &mut due),
                    Err(SealError::IndexUsed)
                );
                placed.push((client, start, packet, expected));
                start += sealed.unwrap();
            }
        }
        due.write(&mut buffer);
        let mut oracles: Vec<_> = clients.iter().map(Keys::oracle).collect();
        for (client, start, packet, expected) in placed {
            let sealed = &buffer[start..start + expected.len()];
            assert_eq!(sealed, expected, "{} in round {round}", clients[client].profile.name());
            assert_eq!(oracles[client].decrypt_rtp(sealed).unwrap(), packet);
        }
        assert!(buffer[start..].iter().all(|byte| *byte == 0xA5), "nothing behind what was sealed");
        assert_eq!(
            sealers[0].0.seal_in_buffer(
                &mut SealPlace::default(),
                1,
                Placed { start: 96_001, header_len: 12, len: 12 },
                &mut buffer,
                &mut due
            ),
            Err(SealError::Lengths)
        );
    }
}

/// The other implementation of AES_CM may differ from the standard as ours does: a third one has the last word on tags.
#[test]
fn the_tag_covers_the_rollover_counter_that_was_asked_for() {
    let keys = Keys::random(SrtpProfile::Aes128CmSha1_80, &mut StdRng::seed_from_u64(3));
    // RFC 3711 section 4.3.2: the authentication key is the 20 bytes of label 1.
    let mut authentication = Vec::new();
    for number in 0..2u8 {
        use aes::cipher::{BlockEncrypt, KeyInit, generic_array::GenericArray};
        let mut block = [0u8; 16];
        block[..14].copy_from_slice(keys.master.salt());
        block[7] ^= 1;
        block[15] = number;
        let mut block = GenericArray::from(block);
        aes::Aes128::new(GenericArray::from_slice(keys.master.key())).encrypt_block(&mut block);
        authentication.extend(block);
    }
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &authentication[..20]);
    let mut sealer = keys.sealer();
    let mut rng = StdRng::seed_from_u64(4);
    for index in walk(&mut rng, 500) {
        let (packet, header_len) = random_packet(&mut rng, 9, index as u16);
        let sealed = seal(&mut sealer, index, &packet, header_len).unwrap();
        let (body, tag) = sealed.split_at(packet.len());
        // RFC 3711 section 4.2: M is the packet followed by the rollover counter.
        let message = [body, &((index >> 16) as u32).to_be_bytes()].concat();
        assert_eq!(&ring::hmac::sign(&key, &message).as_ref()[..10], tag, "index {index}");
    }
}

#[test]
fn a_lossy_reordered_duplicated_stream_is_opened_once_each() {
    for profile in PROFILES {
        let mut rng = StdRng::seed_from_u64(5);
        let keys = Keys::random(profile, &mut rng);
        let (mut sealer, mut opener) = (keys.sealer(), keys.opener());
        let mut flight = Vec::new();
        let mut opened = HashSet::new();
        for index in 64_000..68_000u64 {
            let (packet, header_len) = random_packet(&mut rng, 3, index as u16);
            let sealed = seal(&mut sealer, index, &packet, header_len).unwrap();
            for _ in 0..rng.random_range(0..3) {
                flight.push((index, packet.clone(), header_len, sealed.clone()));
            }
            while flight.len() > 20 {
                let (index, packet, header_len, sealed) = flight.swap_remove(rng.random_range(0..flight.len()));
                match open(&mut opener, &sealed, header_len) {
                    Ok(plain) => assert!(plain == packet && opened.insert(index)),
                    Err(why) => assert!(why == SecureDrop::Replayed && opened.contains(&index), "{why:?} {index}"),
                }
            }
        }
        assert!(opened.len() > 2_000);
    }
}

#[test]
fn a_changed_byte_is_refused_and_moves_nothing() {
    for profile in PROFILES {
        let mut rng = StdRng::seed_from_u64(6);
        let keys = Keys::random(profile, &mut rng);
        let (mut sealer, mut opener) = (keys.sealer(), keys.opener());
        let (packet, header_len) = random_packet(&mut rng, 5, 65_535);
        let packet = &packet[..packet.len().min(header_len + 40)];
        let sealed = seal(&mut sealer, 65_535, packet, header_len).unwrap();
        for at in 0..sealed.len() {
            let mut forged = sealed.clone();
            forged[at] ^= 1 << rng.random_range(0..8);
            assert_eq!(open(&mut opener, &forged, header_len), Err(SecureDrop::BadTag), "{} byte {at}", profile.name());
        }
        assert_eq!(open(&mut opener, &sealed, header_len).unwrap(), packet);

        // Forgeries far ahead neither move the rollover counter nor the window.
        let (next, next_header) = random_packet(&mut rng, 5, 0);
        let next_sealed = seal(&mut sealer, 65_536, &next, next_header).unwrap();
        for seq in (0..32_000u16).step_by(500) {
            let mut forged = next_sealed.clone();
            forged[2..4].copy_from_slice(&(seq + 1).to_be_bytes());
            assert_eq!(open(&mut opener, &forged, next_header), Err(SecureDrop::BadTag));
        }
        assert_eq!(open(&mut opener, &next_sealed, next_header).unwrap(), next);

        let compound = random_compound(&mut rng, 5);
        let mut sealed = compound.clone();
        sealer.seal_rtcp(&mut sealed).unwrap();
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut forged = sealed.clone();
                forged[at] ^= 1 << bit;
                let why = open_rtcp(&mut opener, &forged).unwrap_err();
                assert!(
                    matches!(why, SecureDrop::BadTag | SecureDrop::Unencrypted),
                    "{} byte {at}: {why:?}",
                    profile.name()
                );
            }
        }
        assert_eq!(open_rtcp(&mut opener, &sealed).unwrap(), compound);
    }
}

#[test]
fn unencrypted_rtcp_is_refused_whatever_its_tag() {
    for profile in PROFILES {
        let mut rng = StdRng::seed_from_u64(7);
        let mut opener = Keys::random(profile, &mut rng).opener();
        let mut packet = random_compound(&mut rng, 5);
        packet.extend([0; 14]);
        packet.extend([0; 20]);
        assert_eq!(open_rtcp(&mut opener, &packet), Err(SecureDrop::Unencrypted), "{}", profile.name());
    }
}

#[test]
fn forged_ssrcs_leave_no_state() {
    for profile in PROFILES {
        let mut rng = StdRng::seed_from_u64(8);
        let keys = Keys::random(profile, &mut rng);
        let (mut sealer, mut opener) = (keys.sealer(), keys.opener());
        for ssrc in 0..6_000u32 {
            let mut forged = vec![0x80, 96, 0, 1, 0, 0, 0, 0];
            forged.extend(ssrc.to_be_bytes());
            forged.extend([0; 30]);
            assert_eq!(open(&mut opener, &forged, 12), Err(SecureDrop::BadTag));
            forged[4..8].copy_from_slice(&ssrc.to_be_bytes());
            let tail = forged.len();
            forged[tail - 14] = 0x80;
            forged[tail - 4] = 0x80;
            assert_eq!(open_rtcp(&mut opener, &forged), Err(SecureDrop::BadTag));
        }
        // More forged SSRCs than any table holds, and a new one is still welcome.
        let (packet, header_len) = random_packet(&mut rng, 77, 4);
        let sealed = seal(&mut sealer, 4, &packet, header_len).unwrap();
        assert_eq!(open(&mut opener, &sealed, header_len).unwrap(), packet);
    }
}

#[test]
fn no_length_and_no_content_panics() {
    for profile in PROFILES {
        let mut rng = StdRng::seed_from_u64(9);
        let keys = Keys::random(profile, &mut rng);
        let (mut sealer, mut opener) = (keys.sealer(), keys.opener());
        let mut compound = random_compound(&mut rng, 1);
        compound.resize(20, 0);
        sealer.seal_rtcp(&mut compound).unwrap();
        let (packet, header_len) = random_packet(&mut rng, 1, 1);
        let sealed = seal(&mut sealer, 1, &packet, header_len).unwrap();
        let whole = compound.len();
        for len in 0..=40 {
            assert!(opener.open_rtcp(&mut compound[..len.min(whole - 1)].to_vec()).is_err());
            for header_len in [0, 4, 12, 13, 16, 40, 72, usize::MAX - 3] {
                let short = sealed.get(..len).unwrap_or(&sealed);
                let _ = opener.open_rtp(header_len, Ssrc(1), Seq(1), &mut short.to_vec());
            }
        }
        for _ in 0..20_000 {
            let len = rng.random_range(0..60);
            let mut junk: Vec<u8> = (0..len).map(|_| rng.random()).collect();
            assert!(opener.open_rtcp(&mut junk.clone()).is_err());
            let header_len = rng.random_range(0..64);
            assert!(opener.open_rtp(header_len, Ssrc(rng.random()), Seq(rng.random()), &mut junk).is_err());
        }
        assert!(open(&mut opener, &sealed, header_len).is_ok());
    }
}

/// Same key and IV must mean same bytes (RFC 7714 section 8). Seals whatever it is asked in every wrong way and
/// counts the (SSRC, index) pairs that went through: the IV is a function of exactly these.
#[test]
fn no_key_and_iv_is_used_twice() {
    for profile in PROFILES {
        let mut rng = StdRng::seed_from_u64(10);
        let mut sealer = Keys::random(profile, &mut rng).sealer();
        let mut spent = HashSet::new();
        let mut highest = [0u64; 4];
        let mut refused = 0;
        for round in 0..60_000 {
            let stream = rng.random_range(0..4usize);
            let index = match rng.random_range(0..20) {
                0 => highest[stream] + rng.random_range(0..40_000),
                1 => rng.random_range(0..1 << 20),
                2..8 => highest[stream].saturating_sub(rng.random_range(0..1_500)),
                _ => highest[stream] + 1,
            };
            if round % 20_000 == 19_999 {
                // The stream ends, and a later one wrongly takes its SSRC again.
                sealer.retire(Ssrc(stream as u32));
            }
            let mut packet = vec![0x80, 96];
            packet.extend((index as u16).to_be_bytes());
            packet.extend([round as u8; 4]);
            packet.extend((stream as u32).to_be_bytes());
            packet.extend([7; 8]);
            match seal(&mut sealer, index, &packet, 12) {
                Ok(_) => {
                    assert!(spent.insert((stream, index)), "{} index {index} went out twice", profile.name());
                    highest[stream] = highest[stream].max(index);
                }
                Err(_) => refused += 1,
            }
        }
        assert!(spent.iter().any(|(_, index)| index >> 16 > 2) && refused > 10_000);

        // SRTCP: the index that is sent is the one in the IV.
        let mut indices = HashSet::new();
        for round in 0..2_000u32 {
            let mut packet = random_compound(&mut rng, round % 3);
            let ssrc = round % 3;
            sealer.seal_rtcp(&mut packet).unwrap();
            let at = packet.len() - if profile == SrtpProfile::Aes128CmSha1_80 { 14 } else { 4 };
            assert!(indices.insert((ssrc, packet[at..at + 4].to_vec())));
        }
    }
}

/// The packets `indices` of one SSRC, sealed by another implementation.
fn sealed_by_another(keys: &Keys, rng: &mut StdRng, ssrc: u32, indices: &[u64]) -> Vec<(Vec<u8>, usize, Vec<u8>)> {
    let mut oracle = keys.oracle();
    // It counts rollovers itself: what leads up to them is lost on the way.
    let mut at = 0;
    let mut sealed = Vec::new();
    for index in indices {
        while at + 20_000 < *index {
            at += 20_000;
            oracle.encrypt_rtp(&random_packet(rng, ssrc, at as u16).0).unwrap();
        }
        at = at.max(*index);
        let (packet, header_len) = random_packet(rng, ssrc, *index as u16);
        let bytes = oracle.encrypt_rtp(&packet).unwrap();
        sealed.push((packet, header_len, bytes.to_vec()));
    }
    sealed
}

/// libsrtp#729, SymphonyMediaBridge#386: the rollover counter at first sight need not be 0, and half a turn or all of
/// one may be lost in between.
#[test]
fn a_counter_that_is_one_rollover_behind_is_caught_up_with() {
    for profile in PROFILES {
        let mut rng = StdRng::seed_from_u64(31);
        let keys = Keys::random(profile, &mut rng);
        // The number of indices at the end that do not open: one shows that something is wrong.
        let cases: &[(&[u64], usize)] = &[
            // The first packets, up to the rollover, were lost.
            (&[65_536, 65_537, 65_538], 0),
            (&[65_536 + 30_000, 65_536 + 30_001], 0),
            // They come late.
            (&[65_537, 65_535, 65_536, 65_534], 0),
            // A gap of over half a turn, which looks like a step back: once, and twice in a row.
            (&[500, 40_500, 40_501], 0),
            (&[40_000, 40_000 + 33_000, 40_000 + 66_000, 40_000 + 66_001], 0),
            (&[5, 65_530, 65_531, 65_536], 0),
            // A whole turn, which looks like the next packet.
            (&[500, 501, 502 + 65_536, 503 + 65_536, 504 + 65_536], 1),
            (&[70_000, 70_003 + 65_536, 70_001 + 65_536, 70_004 + 65_536], 1),
        ];
        for (ssrc, (indices, lost)) in (1..).zip(cases) {
            let mut opener = keys.opener();
            let mut dropped = 0;
            for (packet, header_len, sealed) in sealed_by_another(&keys, &mut rng, ssrc, indices) {
                match open(&mut opener, &sealed, header_len) {
                    Ok(plain) => assert_eq!(plain, packet),
                    Err(why) => {
                        assert_eq!(why, SecureDrop::BadTag);
                        dropped += 1;
                    }
                }
                let again = open(&mut opener, &sealed, header_len);
                assert!(again.is_err() || dropped == *lost, "{} {indices:?}: replayed", profile.name());
            }
            assert_eq!(dropped, *lost, "{} {indices:?}", profile.name());
        }
    }
}

#[test]
fn forgeries_never_move_the_counter_whatever_it_is_tried_with() {
    for profile in PROFILES {
        let mut rng = StdRng::seed_from_u64(32);
        let keys = Keys::random(profile, &mut rng);
        let mut opener = keys.opener();
        let honest: Vec<u64> = (65_000..66_000).collect();
        for (packet, header_len, sealed) in sealed_by_another(&keys, &mut rng, 9, &honest) {
            for _ in 0..3 {
                let mut forged = sealed.clone();
                forged[2..4].copy_from_slice(&rng.random::<[u8; 2]>());
                *forged.last_mut().unwrap() ^= 1;
                assert!(open(&mut opener, &forged, header_len).is_err());
            }
            assert_eq!(open(&mut opener, &sealed, header_len), Ok(packet), "{}", profile.name());
            assert!(open(&mut opener, &sealed, header_len).is_err());
        }
    }
}
