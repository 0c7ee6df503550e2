//! Clients that differ in DTLS: the role, and the SRTP profiles.

use weirgate::base::units::Bitrate;
use weirgate::client::Call;
use weirgate::client::media_thread::LocalSettings;
use weirgate::secure::srtp::SrtpProfile;
use weirgate::sim::endpoint::DtlsRole;
use weirgate::wire::codec::Codec;

use crate::support::{Server, all_more, sink};

const ALL: &[SrtpProfile] = &SrtpProfile::ALL;
const GCM_128: &[SrtpProfile] = &[SrtpProfile::AeadAes128Gcm];
const GCM_256: &[SrtpProfile] = &[SrtpProfile::AeadAes256Gcm];
const CM: &[SrtpProfile] = &[SrtpProfile::Aes128CmSha1_80];
/// As Chromium orders them.
const CM_FIRST: &[SrtpProfile] = &[SrtpProfile::Aes128CmSha1_80, SrtpProfile::AeadAes128Gcm];

#[test]
fn every_kind_of_client_hears_and_sees_every_other() {
    let server = Server::start(&["--spread", "always"]);
    let mut kinds = Vec::new();
    for (role, srtp_profiles, name) in [
        (DtlsRole::Client, GCM_128, "AEAD_AES_128_GCM"),
        (DtlsRole::Client, GCM_256, "AEAD_AES_256_GCM"),
        (DtlsRole::Client, CM, "AES_CM_128_HMAC_SHA1_80"),
        (DtlsRole::Client, CM_FIRST, "AEAD_AES_128_GCM"),
        (DtlsRole::Server, ALL, "AEAD_AES_128_GCM"),
    ] {
        let user = format!("user{}", kinds.len());
        let local = LocalSettings { role, srtp_profiles };
        let mut call = Call::connect_as(server.address, &user, "room", local).unwrap();
        let audio = call.produce_audio().unwrap();
        let video = call.produce_video(Codec::Vp8, Bitrate::kbps(200)).unwrap();
        kinds.push((call, [audio, video], name));
    }
    let count = kinds.len();
    let mut received = Vec::new();
    for (place, next) in (0..count).map(|place| (place, (place + 1) % count)) {
        let [audio, video] = kinds[next].1.clone();
        received.push([audio, video].map(|stream| kinds[place].0.consume(Some(&stream.id)).unwrap()));
    }
    let streams = kinds.iter().zip(&received).flat_map(|((call, ..), streams)| streams.iter().map(move |s| (call, s)));
    all_more(streams, 40);
    for ((call, _, name), streams) in kinds.iter().zip(&received) {
        for stream in streams {
            let stats = sink(call, stream);
            assert_eq!((stats.lost, stats.frames_dropped, stats.foreign), (0, 0, 0), "{name} {stats:?}");
        }
        let stats = call.stats();
        for transport in [stats.send.unwrap(), stats.receive.unwrap()] {
            assert_eq!(transport.srtp_profile, Some(*name));
            assert_eq!((transport.fingerprint_right, transport.stray), (Some(true), 0), "{name}");
            let seen = transport.endpoint.seen;
            assert!(seen.compared > 0 && seen.disputed == 0, "{name}: another SRTP sees the same: {seen:?}");
        }
    }
    let metrics = server.metrics();
    assert_eq!(metrics.sum("dtls_handshakes_failed_total"), 0);
    assert_eq!(metrics.dropped("srtp_bad_tag"), 0);
    server.stop();
}
