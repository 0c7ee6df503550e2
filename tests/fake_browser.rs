//! The fake browsers of `sim` against the ICE agent and the secure layer of the SFU, over links with delay and loss on
//! virtual time. A relay without a mind stands for the SFU: it opens, and seals again for the other side.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use weirgate::base::buffer::{LocalIndex, Path};
use weirgate::base::id::{Mid, PayloadType, Ssrc};
use weirgate::base::seq::ExtSeq;
use weirgate::base::time::{Duration, Instant, Now, NtpTime};
use weirgate::base::units::Bitrate;
use weirgate::secure::certificate::Identity;
use weirgate::secure::dtls::{DtlsEngine, DtlsSettings, SecureEngine, SecureOutput, SecureSession, SessionTag, Side};
use weirgate::secure::srtp::{OVERHEAD_MAX, Opener, Sealer, SrtpProfile};
use weirgate::sim::browser::Browser;
use weirgate::sim::endpoint::DtlsRole;
use weirgate::sim::engine::SimEngine;
use weirgate::sim::ice_client::RemoteIce;
use weirgate::sim::sink::SinkConfig;
use weirgate::sim::source::SourceConfig;
use weirgate::transport::ice_lite::{IceCredentialsLocal, IceLite};
use weirgate::wire::codec::Codec;
use weirgate::wire::extension::{Extension, ExtensionIds};
use weirgate::wire::rtp::RtpHeader;
use weirgate::wire::{Kind, classify};

const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), 40_000);
const DELAY: Duration = Duration::from_millis(20);

fn now_at(mono: Instant) -> Now {
    Now { mono, wall: NtpTime::from_unix(Duration::from_nanos(1_750_000_000_000_000_000 + mono.as_nanos())) }
}

/// The SFU's end of one transport.
struct Leg {
    ice: IceLite,
    engine: Box<dyn SecureEngine>,
    session: Option<Box<dyn SecureSession>>,
    browser_listens: bool,
    keys: Option<(Sealer, Opener)>,
    indices: BTreeMap<u32, ExtSeq>,
    send: Vec<Vec<u8>>,
}

impl Leg {
    fn new(credentials: IceCredentialsLocal, engine: Box<dyn SecureEngine>) -> Leg {
        let ice = IceLite::new(credentials);
        Leg {
            ice,
            engine,
            session: None,
            browser_listens: false,
            keys: None,
            indices: BTreeMap::new(),
            send: Vec::new(),
        }
    }

    /// Media that came, opened.
    fn receive(&mut self, now: Instant, path: Path, mut bytes: Vec<u8>) -> Option<Vec<u8>> {
        match classify(&bytes) {
            Kind::Stun => {
                let mut reply = Vec::new();
                self.ice.handle(now, path, &bytes, &mut reply).unwrap();
                self.send.push(reply);
                if self.browser_listens && self.session.is_none() && self.ice.selected().is_some() {
                    self.session = Some(self.engine.open(now, Side::Client, SessionTag(1)));
                    self.drain();
                }
                None
            }
            Kind::Dtls => {
                assert!(self.ice.is_valid_path(path), "DTLS only after a check");
                let session = self.session.get_or_insert_with(|| self.engine.open(now, Side::Server, SessionTag(1)));
                session.handle_datagram(now, &bytes).unwrap();
                self.drain();
                None
            }
            Kind::Rtp => {
                let header = RtpHeader::parse(&bytes).unwrap();
                let opener = &mut self.keys.as_mut()?.1;
                let len = opener.open_rtp(header.len(), header.ssrc, header.seq, &mut bytes).ok()?;
                bytes.truncate(len);
                Some(bytes)
            }
            Kind::Rtcp => {
                let len = self.keys.as_mut()?.1.open_rtcp(&mut bytes).ok()?;
                bytes.truncate(len);
                Some(bytes)
            }
            Kind::Unknown => panic!("a datagram of no kind"),
        }
    }

    fn drain(&mut self) {
        let Some(session) = &mut self.session else { return };
        while let Some(output) = session.poll() {
            match output {
                SecureOutput::Transmit(datagram) => self.send.push(datagram),
                SecureOutput::Established(keying) => {
                    let sealer = Sealer::new(keying.profile, &keying.local);
                    self.keys = Some((sealer, Opener::new(keying.profile, &keying.remote)));
                }
                SecureOutput::Application(data) => panic!("{data:?}"),
                SecureOutput::Closed(why) => panic!("{why}"),
            }
        }
    }

    fn forward(&mut self, mut bytes: Vec<u8>) {
        let Some((sealer, _)) = &mut self.keys else { return };
        if classify(&bytes) == Kind::Rtcp {
            sealer.seal_rtcp(&mut bytes).unwrap();
        } else {
            let (header, len) = (RtpHeader::parse(&bytes).unwrap(), bytes.len());
            let last = self.indices.get(&header.ssrc.0);
            let at = last.map_or(ExtSeq::first(header.seq), |last| last.nearest(header.seq));
            self.indices.insert(header.ssrc.0, at);
            bytes.resize(len + OVERHEAD_MAX, 0);
            let sealed = sealer.seal_rtp(at.0 - (1 << 16), &mut bytes, header.len(), len).unwrap();
            bytes.truncate(sealed);
        }
        self.send.push(bytes);
    }
}

/// Two browsers, each with its leg; what one sends the other gets.
struct World {
    now: Instant,
    browsers: [Browser; 2],
    engines: [Box<dyn SecureEngine>; 2],
    legs: [Leg; 2],
    /// In flight: arrival, which side, whether towards the server.
    links: Vec<(Instant, usize, bool, Vec<u8>)>,
    /// Chance of loss in percent on every link, once media flows.
    loss: u32,
    rng: SmallRng,
}

impl World {
    fn new(seed: u64, loss: u32) -> World {
        let engine = |index: u64| -> Box<dyn SecureEngine> {
            let certificate = format!("certificate {index}").into_bytes();
            Box::new(SimEngine::new(SrtpProfile::AeadAes128Gcm, certificate, seed + index))
        };
        World::with_engines(seed, loss, DtlsRole::Client, engine)
    }

    fn with_engines(seed: u64, loss: u32, role: DtlsRole, engine: impl Fn(u64) -> Box<dyn SecureEngine>) -> World {
        let side = |side: u64| {
            let pwd = format!("password-number-{side}-long-enough");
            let credentials = IceCredentialsLocal { ufrag: format!("ab1234567{side}"), pwd };
            let remote =
                RemoteIce { ufrag: credentials.ufrag.clone(), pwd: credentials.pwd.clone(), candidates: vec![SERVER] };
            let browser = Browser::new(Instant::ZERO, &remote, role, seed + side);
            let leg = Leg { browser_listens: role == DtlsRole::Server, ..Leg::new(credentials, engine(20 + side)) };
            (browser, engine(10 + side), leg)
        };
        let (first, second) = (side(0), side(1));
        World {
            now: Instant::ZERO,
            browsers: [first.0, second.0],
            engines: [first.1, second.1],
            legs: [first.2, second.2],
            links: Vec::new(),
            loss,
            rng: SmallRng::seed_from_u64(seed),
        }
    }

    fn send(&mut self, side: usize, to_server: bool, bytes: Vec<u8>) {
        let protected = matches!(classify(&bytes), Kind::Stun | Kind::Dtls) || self.loss == 0;
        if protected || self.rng.random_range(0..100) >= self.loss {
            self.links.push((self.now + DELAY, side, to_server, bytes));
        }
    }

    fn run(&mut self, span: Duration) {
        let until = self.now + span;
        while self.now < until {
            let due = |link: &(Instant, usize, bool, Vec<u8>)| link.0 <= self.now;
            let (arrived, flying) = std::mem::take(&mut self.links).into_iter().partition(due);
            self.links = flying;
            for (_, side, to_server, mut bytes) in arrived {
                if to_server {
                    let remote = SocketAddr::from(([198, 51, 100, side as u8], 50_000));
                    let path = Path::udp(LocalIndex(0), remote);
                    if let Some(media) = self.legs[side].receive(self.now, path, bytes) {
                        self.legs[1 - side].forward(media);
                    }
                } else {
                    let (browser, engine) = (&mut self.browsers[side], self.engines[side].as_mut());
                    browser.handle_datagram(now_at(self.now), engine, SERVER, &mut bytes);
                }
            }
            for side in 0..2 {
                let due = self.browsers[side].deadline(self.engines[side].as_ref());
                if due.is_some_and(|at| at <= self.now) {
                    self.browsers[side].handle_timeout(now_at(self.now), self.engines[side].as_mut());
                }
                while let Some(datagram) = self.browsers[side].poll_transmit() {
                    assert_eq!(datagram.to, SERVER);
                    self.send(side, true, datagram.bytes);
                }
                for bytes in std::mem::take(&mut self.legs[side].send) {
                    self.send(side, false, bytes);
                }
            }
            self.now = self.now + Duration::from_millis(1);
        }
    }
}

fn source(codec: Codec, ssrc: u32) -> SourceConfig {
    let mut extensions = ExtensionIds::default();
    extensions.set(Extension::Mid, 4);
    extensions.set(Extension::TransportCc, 5);
    extensions.set(Extension::AbsSendTime, 2);
    let video = codec.is_video();
    SourceConfig {
        codec,
        clock_rate: if video { 90_000 } else { 48_000 },
        payload_type: PayloadType(if video { 96 } else { 111 }),
        ssrc: Ssrc(ssrc),
        rtx: video.then_some((PayloadType(97), Ssrc(ssrc + 1))),
        mid: Mid::new(b"0"),
        cname: "fake".into(),
        bitrate: if video { Bitrate::mbps(2) } else { Bitrate::kbps(48) },
        frame_rate: if video { 30 } else { 50 },
        extensions,
    }
}

fn sink(source: &SourceConfig) -> SinkConfig {
    SinkConfig {
        codec: source.codec,
        clock_rate: source.clock_rate,
        payload_type: source.payload_type,
        ssrc: source.ssrc,
        rtx: source.rtx,
        nack: source.rtx.is_some(),
        stamped: true,
    }
}

const VIDEO: [Codec; 4] = [Codec::Vp8, Codec::Vp9, Codec::H264, Codec::Av1];

#[test]
fn audio_and_video_arrive_whole_over_a_clean_link() {
    for codec in VIDEO {
        let mut world = World::new(1, 0);
        let (audio, video) = (source(Codec::Opus, 10), source(codec, 20));
        for config in [audio, video] {
            world.browsers[1].add_sink(world.now, sink(&config));
            world.browsers[0].add_source(world.now, config);
        }
        world.run(Duration::from_secs(10));
        let [audio, video] = [0, 1].map(|index| world.browsers[1].sinks[index].stats());
        for stats in [audio, video] {
            assert_eq!((stats.lost, stats.duplicates, stats.foreign, stats.nacked), (0, 0, 0, 0), "{codec:?}");
        }
        assert!((470..=500).contains(&audio.frames_decoded), "{}", audio.frames_decoded);
        assert!((280..=300).contains(&video.frames_decoded), "{codec:?} {video:?}");
        assert!((1..=2).contains(&video.key_frames_decoded), "{codec:?} {video:?}");
        assert!(video.longest_freeze <= Duration::from_millis(40), "{codec:?} {video:?}");
        // Twice 20 ms, and a millisecond for each step.
        let delays = world.browsers[1].sinks[1].delays_us();
        assert!(delays.iter().all(|delay| (40_000..=43_000).contains(delay)));
        let feedback = world.browsers[0].feedback();
        assert!(feedback.receiver_reports >= 16 && feedback.last_fraction_lost == 0, "{feedback:?}");
        assert!(world.browsers[1].feedback().sender_reports >= 30);
        assert_eq!(
            world.browsers.each_ref().map(|browser| (browser.endpoint.stats().refused, browser.stray())),
            [(0, 0); 2]
        );
        let bytes = world.browsers[0].sources[1].stats().octets;
        assert!((2_300_000..2_900_000).contains(&bytes), "{bytes} bytes in 10 s at 2 Mbit/s");
    }
}

#[test]
fn loss_is_repaired_by_retransmission() {
    for codec in VIDEO {
        let mut world = World::new(2, 5);
        let video = source(codec, 20);
        world.browsers[1].add_sink(world.now, sink(&video));
        world.browsers[0].add_source(world.now, video);
        world.run(Duration::from_secs(20));
        let stats = world.browsers[1].sinks[0].stats();
        assert!(stats.repaired > 300 && stats.lost == 0, "{codec:?} {stats:?}");
        assert!(stats.frames_decoded > 560 && stats.key_frames_decoded <= 2, "{codec:?} {stats:?}");
        assert!(world.browsers[0].sources[0].stats().retransmitted >= stats.repaired);
    }
}

#[test]
fn without_retransmission_a_keyframe_is_asked_for_and_decoding_goes_on() {
    let mut world = World::new(3, 1);
    let video = SourceConfig { rtx: None, bitrate: Bitrate::kbps(500), ..source(Codec::Vp8, 20) };
    world.browsers[1].add_sink(world.now, sink(&video));
    world.browsers[0].add_source(world.now, video);
    world.run(Duration::from_secs(20));
    let stats = world.browsers[1].sinks[0].stats();
    assert!(stats.lost > 10 && stats.plis > 10 && stats.key_frames_decoded > 10, "{stats:?}");
    assert!(stats.frames_decoded > 300 && stats.frames_dropped > 20, "{stats:?}");
    assert!(stats.longest_freeze < Duration::from_secs(2), "{stats:?}");
}

/// Both roles of DTLS with the engine that the SFU uses.
#[test]
fn media_flows_under_keys_of_a_real_handshake() {
    for role in [DtlsRole::Client, DtlsRole::Server] {
        let engine = |_| -> Box<dyn SecureEngine> {
            Box::new(
                DtlsEngine::new(
                    Identity::generate().unwrap(),
                    DtlsSettings::default(),
                    weirgate::net::clock::Clock::process().start(),
                )
                .unwrap(),
            )
        };
        let mut world = World::with_engines(6, 0, role, engine);
        let video = source(Codec::Vp8, 20);
        world.browsers[1].add_sink(world.now, sink(&video));
        world.browsers[0].add_source(world.now, video);
        world.run(Duration::from_secs(2));
        let stats = world.browsers[1].sinks[0].stats();
        assert!(stats.frames_decoded > 40 && stats.lost == 0, "{role:?} {stats:?}");
        for browser in &world.browsers {
            assert_eq!(browser.endpoint.profile(), Some(SrtpProfile::AeadAes128Gcm));
            assert!(browser.endpoint.peer_certificate().is_some_and(|der| der.starts_with(&[0x30])));
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_call() {
    let call = || {
        let mut world = World::new(4, 5);
        let video = source(Codec::Vp8, 20);
        world.browsers[1].add_sink(world.now, sink(&video));
        world.browsers[0].add_source(world.now, video);
        world.run(Duration::from_secs(3));
        (world.browsers[1].sinks[0].stats(), world.browsers[1].sinks[0].delays_us().to_vec())
    };
    assert_eq!(call(), call());
}

#[test]
fn a_late_sink_asks_for_a_keyframe() {
    let mut world = World::new(5, 0);
    let video = source(Codec::Vp8, 20);
    world.browsers[0].add_source(world.now, video.clone());
    world.run(Duration::from_secs(3));
    let joined_at = world.now;
    world.browsers[1].add_sink(joined_at, sink(&video));
    world.run(Duration::from_secs(2));
    let stats = world.browsers[1].sinks[0].stats();
    // A frame to notice, a round trip through both links, the next frame of the source.
    let waited = stats.first_decoded_at.unwrap().since(joined_at);
    assert!(stats.plis == 1 && waited < Duration::from_millis(200), "{waited:?} {stats:?}");
}
