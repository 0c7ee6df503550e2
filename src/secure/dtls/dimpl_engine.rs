//! The second engine: the crate `dimpl`, sans-IO, here DTLS 1.2. It takes what the first one cannot, a ClientHello with a
//! session id (RFC 5246 section 7.4.1.2); no session is ever resumed, so each gets a full handshake. It yields no keys for
//! records, so that it stays and is the record layer too. It prefers AEAD_AES_256_GCM to what `SrtpProfile::ALL` prefers,
//! and knows no RSA certificates.

use super::library::{Handshake, HandshakeProgress, Library, Opened, RecordLayer, Secured};
use super::message::ECDSA_SUITE;
use super::record::{DtlsRecord, HANDSHAKE, RECORD_HEADER_LEN, is_client_hello};
use super::ring_provider::{opened, ring_provider};
use super::session::{Keying, Side};
use crate::base::buffer::DATAGRAM_MAX;
use crate::base::limits::{DTLS_QUEUE_MAX, FLIGHT_RESENDS_MAX, HANDSHAKE_MAX};
use crate::base::time::{Duration, Instant};
use crate::secure::certificate::Identity;
use crate::secure::dropped::SecureDrop;
use crate::secure::srtp::SrtpProfile;
use dimpl::{Config, CryptoError, CryptoOperation, Dtls, DtlsCertificate, Error, Output, SecurityError};
use std::collections::VecDeque;
use std::sync::Arc;

/// What it may send in one datagram, as much as QUIC's minimum (RFC 9000 section 14).
const MTU: usize = 1_200;
/// Explicit nonce and tag, behind the header.
const OVERHEAD: usize = 8 + 16;

/// The crate's time from ours: it wants the clock's own type and only ever compares.
#[derive(Clone, Copy)]
struct Epoch(std::time::Instant);

impl Epoch {
    fn of(self, now: Instant) -> std::time::Instant {
        self.0 + now.since(Instant::ZERO)
    }
}

pub(super) struct DimplEngine {
    config: Arc<Config>,
    certificate: DtlsCertificate,
    epoch: Epoch,
}

impl DimplEngine {
    /// `origin` is any instant of the clock that the system has.
    pub(super) fn new(
        identity: &Identity,
        flight_interval: Duration,
        origin: std::time::Instant,
    ) -> std::io::Result<DimplEngine> {
        let config = Config::builder()
            .with_crypto_provider(ring_provider())
            .mtu(MTU)
            .require_client_certificate(true)
            .flight_start_rto(flight_interval)
            // The gate's deadline ends it first.
            .flight_retries(FLIGHT_RESENDS_MAX as usize)
            .handshake_timeout(HANDSHAKE_MAX)
            .build()
            .map_err(std::io::Error::other)?;
        let certificate =
            DtlsCertificate { certificate: identity.der().to_vec(), private_key: identity.private_key().to_vec() };
        Ok(DimplEngine { config: Arc::new(config), certificate, epoch: Epoch(origin) })
    }
}

impl Library for DimplEngine {
    fn start(&self, now: Instant, side: Side, _: &[SrtpProfile]) -> Box<dyn Handshake> {
        let mut dtls = Dtls::new_12(Arc::clone(&self.config), self.certificate.clone(), self.epoch.of(now));
        dtls.set_active(side == Side::Client);
        let waiting = VecDeque::new();
        let mut handshake = DimplHandshake {
            dtls: Some(Box::new(dtls)),
            epoch: self.epoch,
            side,
            waiting,
            due: None,
            agreed: Agreed::default(),
            progress: HandshakeProgress::default(),
        };
        handshake.advance(now);
        Box::new(handshake)
    }
}

#[derive(Default)]
struct Agreed {
    connected: bool,
    exported: Option<(SrtpProfile, Vec<u8>)>,
    peer_certificate: Option<Vec<u8>>,
}

struct DimplHandshake {
    /// None: it is over.
    dtls: Option<Box<Dtls>>,
    epoch: Epoch,
    side: Side,
    waiting: VecDeque<Vec<u8>>,
    due: Option<std::time::Instant>,
    agreed: Agreed,
    progress: HandshakeProgress,
}

impl DimplHandshake {
    fn advance(&mut self, now: Instant) {
        let now = self.epoch.of(now);
        let Some(dtls) = &mut self.dtls else { return };
        let mut result = dtls.handle_timeout(now);
        let mut hello = false;
        // Record by record: in a datagram a record that does not open takes those behind it along.
        while let Some(datagram) = self.waiting.pop_front() {
            let mut rest = &datagram[..];
            while let Some((record, behind)) = DtlsRecord::split(rest) {
                rest = behind;
                hello |= is_client_hello(record.whole);
                result = result.and_then(|()| dtls.handle_packet(record.whole).or_else(survived));
            }
        }
        self.collect();
        // What it cannot parse it passes over; whoever sent it is told all the same.
        let silent = hello && self.progress.sent.is_empty();
        let refused = silent.then(|| "the ClientHello offers nothing that the DTLS library has".to_owned());
        if let Some(why) = result.err().map(|error| error.to_string()).or(refused) {
            self.dtls = None;
            self.progress.end = Some(Err(why));
        }
    }

    fn collect(&mut self) {
        let Some(dtls) = &mut self.dtls else { return };
        let mut buffer = vec![0; DATAGRAM_MAX];
        loop {
            match dtls.poll_output(&mut buffer) {
                Output::Packet(datagram) => self.progress.sent.push(datagram.to_vec()),
                Output::BufferTooSmall { needed } => buffer.resize(needed, 0),
                Output::Connected => self.agreed.connected = true,
                Output::PeerCert(der) => self.agreed.peer_certificate = Some(der.to_vec()),
                Output::KeyingMaterial(material, profile) => {
                    self.agreed.exported = our_profile(profile).map(|profile| (profile, material.to_vec()));
                }
                Output::Timeout(at) => {
                    self.due = Some(at);
                    break;
                }
                _ => {}
            }
        }
        if self.agreed.connected
            && let Some(dtls) = self.dtls.take()
        {
            self.progress.end = Some(std::mem::take(&mut self.agreed).secured(self.side, dtls));
        }
    }
}

impl Agreed {
    fn secured(self, side: Side, dtls: Box<Dtls>) -> Result<Secured, String> {
        let (profile, material) = self.exported.ok_or("no SRTP profile was agreed on")?;
        let peer_certificate = self.peer_certificate.ok_or("the peer sent no certificate")?;
        let keying = Keying::from_exported(side, profile, ECDSA_SUITE, &material, peer_certificate);
        let keying = keying.ok_or("the exported keys have the wrong length")?;
        Ok(Secured { keying, records: Box::new(DimplRecords { dtls, farewell: None }) })
    }
}

/// The crate takes a record that its keys do not open for the end of a handshake. It has neither kept nor changed anything by
/// then, and whoever forged the record must not end it (RFC 6347 section 4.1.2.7).
fn survived(error: Error) -> Result<(), Error> {
    match error {
        Error::CryptoError(CryptoError::OperationFailed(CryptoOperation::Decrypt)) => Ok(()),
        error => Err(error),
    }
}

fn our_profile(profile: dimpl::SrtpProfile) -> Option<SrtpProfile> {
    match profile {
        dimpl::SrtpProfile::AEAD_AES_128_GCM => Some(SrtpProfile::AeadAes128Gcm),
        dimpl::SrtpProfile::AEAD_AES_256_GCM => Some(SrtpProfile::AeadAes256Gcm),
        dimpl::SrtpProfile::AES128_CM_SHA1_80 => Some(SrtpProfile::Aes128CmSha1_80),
        _ => None,
    }
}

impl Handshake for DimplHandshake {
    fn push(&mut self, datagram: Vec<u8>) -> bool {
        let room = self.waiting.len() < DTLS_QUEUE_MAX;
        if room {
            self.waiting.push_back(datagram);
        }
        room
    }

    fn drive(&mut self, now: Instant) {
        self.advance(now);
    }

    fn tick(&mut self, now: Instant) {
        if self.due.is_some_and(|due| due <= self.epoch.of(now)) {
            self.advance(now);
        }
    }

    fn take(&mut self) -> HandshakeProgress {
        std::mem::take(&mut self.progress)
    }
}

struct DimplRecords {
    dtls: Box<Dtls>,
    /// The crate's own answer to the peer's close_notify.
    farewell: Option<Vec<u8>>,
}

impl DimplRecords {
    /// The one datagram that it has to send.
    fn packet(&mut self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; DATAGRAM_MAX];
        let mut packet = None;
        loop {
            match self.dtls.poll_output(&mut buffer) {
                Output::Packet(datagram) => packet = Some(datagram.to_vec()),
                Output::BufferTooSmall { needed } => buffer.resize(needed, 0),
                Output::Timeout(_) => return packet,
                _ => {}
            }
        }
    }
}

impl RecordLayer for DimplRecords {
    fn open(&mut self, _: Instant, record: &DtlsRecord<'_>) -> Result<Opened, SecureDrop> {
        if record.epoch != 1 || record.whole.len() > DATAGRAM_MAX {
            return Err(SecureDrop::DtlsOutOfPlace);
        }
        let before = opened();
        let result = self.dtls.handle_packet(record.whole);
        if opened() == before {
            return Err(SecureDrop::DtlsForged);
        }
        let mut found = Opened::Nothing;
        let mut buffer = vec![0; DATAGRAM_MAX];
        loop {
            match self.dtls.poll_output(&mut buffer) {
                Output::ApplicationData(data) => found = Opened::Application(data.to_vec()),
                Output::CloseNotify => found = Opened::Closed,
                Output::Packet(datagram) => self.farewell = Some(datagram.to_vec()),
                Output::BufferTooSmall { needed } => buffer.resize(needed, 0),
                Output::Timeout(_) => break,
                _ => {}
            }
        }
        match result {
            Ok(()) if record.kind == HANDSHAKE && found == Opened::Nothing => Ok(Opened::FlightRepeated),
            Ok(()) => Ok(found),
            Err(Error::SecurityError(SecurityError::FatalAlert { .. })) => Ok(Opened::Closed),
            Err(_) => Err(SecureDrop::DtlsOutOfPlace),
        }
    }

    fn seal(&mut self, data: &[u8]) -> Option<Vec<u8>> {
        if RECORD_HEADER_LEN + OVERHEAD + data.len() > DATAGRAM_MAX {
            return None;
        }
        self.dtls.send_application_data(data).ok()?;
        self.packet()
    }

    fn farewell(&mut self) -> Option<Vec<u8>> {
        if let Some(farewell) = self.farewell.take() {
            return Some(farewell);
        }
        self.dtls.close().ok()?;
        self.packet()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine() -> DimplEngine {
        DimplEngine::new(
            &Identity::generate().unwrap(),
            Duration::from_millis(30),
            crate::net::clock::Clock::process().start(),
        )
        .unwrap()
    }

    /// Both sides of it until both are done; `link` says what becomes of each datagram, the number of which it gets.
    fn agree(mut link: impl FnMut(usize, Vec<u8>) -> Option<Vec<u8>>) -> [Secured; 2] {
        let (engine, mut now, mut sent) = (engine(), Instant::ZERO, 0);
        let mut ends = [Side::Server, Side::Client].map(|side| engine.start(now, side, &SrtpProfile::ALL));
        let mut secured: [Option<Secured>; 2] = [None, None];
        for _ in 0..1_000 {
            now = now + Duration::from_millis(10);
            for from in 0..2 {
                ends[from].tick(now);
                let progress = ends[from].take();
                for datagram in progress.sent {
                    sent += 1;
                    if let Some(datagram) = link(sent, datagram) {
                        assert!(ends[1 - from].push(datagram));
                        ends[1 - from].drive(now);
                    }
                }
                secured[from] = progress.end.map(Result::unwrap).or(secured[from].take());
            }
            if secured.iter().all(Option::is_some) {
                break;
            }
        }
        secured.map(|secured| secured.expect("agreement"))
    }

    fn open(records: &mut dyn RecordLayer, datagram: &[u8]) -> Result<Opened, SecureDrop> {
        let (record, rest) = DtlsRecord::split(datagram).unwrap();
        assert!(rest.is_empty());
        records.open(Instant::ZERO, &record)
    }

    #[test]
    fn both_sides_of_it_agree_and_its_own_timers_repair_loss() {
        for lost in 0..3 {
            let [server, client] = agree(|sent, datagram| (sent > lost).then_some(datagram));
            assert_eq!((server.keying.local, server.keying.remote), (client.keying.remote, client.keying.local));
            assert_eq!(server.keying.profile, SrtpProfile::AeadAes256Gcm);
        }
    }

    /// Between ChangeCipherSpec and Finished, where the crate by itself would give up.
    #[test]
    fn forged_records_do_not_end_a_handshake() {
        let mut forged = 0;
        let [server, client] = agree(|_, datagram| {
            let mut mixed = Vec::new();
            let mut rest = &datagram[..];
            while let Some((record, behind)) = DtlsRecord::split(rest) {
                if record.epoch == 1 {
                    forged += 1;
                    let header = [HANDSHAKE, 0xFE, 0xFD, 0, 1, 0, 0, 0, 0, 0, 99, 0, 48];
                    mixed.extend([&header[..], &[0x55; 48]].concat());
                }
                mixed.extend(record.whole);
                rest = behind;
            }
            Some(mixed)
        });
        assert!(forged >= 2, "either side was sent one");
        assert_eq!(server.keying.local, client.keying.remote);
    }

    #[test]
    fn it_carries_application_data_and_tells_forged_records() {
        let [mut server, mut client] = agree(|_, datagram| Some(datagram));
        for data in [&b"data"[..], &[7; 1_300]] {
            let sealed = server.records.seal(data).unwrap();
            let mut forged = sealed.clone();
            *forged.last_mut().unwrap() ^= 1;
            assert_eq!(open(&mut *client.records, &forged), Err(SecureDrop::DtlsForged));
            assert_eq!(open(&mut *client.records, &sealed), Ok(Opened::Application(data.to_vec())));
            assert_eq!(open(&mut *client.records, &sealed), Err(SecureDrop::DtlsForged), "a replay");
            let sealed = client.records.seal(data).unwrap();
            assert_eq!(open(&mut *server.records, &sealed), Ok(Opened::Application(data.to_vec())));
        }
        assert!(server.records.seal(&[0; DATAGRAM_MAX]).is_none());
    }

    #[test]
    fn it_hears_a_close_and_answers_it() {
        let [mut server, mut client] = agree(|_, datagram| Some(datagram));
        let farewell = client.records.farewell().unwrap();
        assert_eq!(open(&mut *server.records, &farewell), Ok(Opened::Closed));
        let answer = server.records.farewell().unwrap();
        assert_eq!(DtlsRecord::split(&answer).map(|(record, _)| (record.kind, record.epoch)), Some((21, 1)));
        assert!(server.records.seal(b"more").is_none());
    }
}
