//! The remote end of one transport: ICE checks, the DTLS client, SRTP. Datagrams and time go in; datagrams, decrypted
//! packets and the next deadline come out. What the packets mean is `browser`'s concern, where they travel the
//! simulation's or `client`'s.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use rand::rngs::SmallRng;

use crate::base::seq::ExtSeq;
use crate::base::time::Instant;
use crate::secure::dtls::{Keying, SecureEngine, SecureOutput, SecureSession, SessionTag, Side};
use crate::secure::srtp::{OVERHEAD_MAX, Opener, Sealer, SrtpProfile};
use crate::sim::ice_client::{IceClient, RemoteIce};
use crate::wire::rtp::RtpHeader;
use crate::wire::{Kind, classify};

/// Which end of DTLS the peer plays; nearly all browsers are the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DtlsRole {
    Client,
    /// pymediasoup and old mediasoup-clients when they send.
    Server,
}

pub struct Datagram {
    pub to: SocketAddr,
    pub bytes: Vec<u8>,
}

/// The kind of a decrypted datagram.
pub enum Received<'a> {
    Rtp(RtpHeader, &'a [u8]),
    Rtcp(&'a [u8]),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PeerStats {
    pub datagrams_sent: u64,
    pub datagrams_received: u64,
    /// STUN that answered nothing, DTLS out of place, SRTP that did not open, and other useless datagrams.
    pub refused: u64,
}

struct Secured {
    profile: SrtpProfile,
    sealer: Sealer,
    opener: Opener,
    peer_certificate: Vec<u8>,
}

impl Secured {
    fn new(keying: Keying) -> Secured {
        Secured {
            profile: keying.profile,
            sealer: Sealer::new(keying.profile, &keying.local),
            opener: Opener::new(keying.profile, &keying.remote),
            peer_certificate: keying.peer_certificate,
        }
    }
}

pub struct Peer {
    ice: IceClient,
    role: DtlsRole,
    session: Option<Box<dyn SecureSession>>,
    secured: Option<Secured>,
    closed: bool,
    /// Rollover counters of sent packets, by SSRC.
    outgoing: BTreeMap<u32, ExtSeq>,
    transmit: VecDeque<Datagram>,
    stats: PeerStats,
}

impl Peer {
    pub fn new(now: Instant, remote: &RemoteIce, role: DtlsRole, rng: SmallRng) -> Peer {
        Peer {
            ice: IceClient::new(now, remote, rng),
            role,
            session: None,
            secured: None,
            closed: false,
            outgoing: BTreeMap::new(),
            transmit: VecDeque::new(),
            stats: PeerStats::default(),
        }
    }

    pub fn restart_ice(&mut self, now: Instant, remote: &RemoteIce) {
        self.ice.restart(now, remote);
    }

    /// The own address has changed.
    pub fn recheck(&mut self, now: Instant) {
        self.ice.recheck(now);
    }

    /// Media may flow.
    pub fn is_connected(&self) -> bool {
        self.secured.is_some() && self.ice.selected().is_some() && !self.closed
    }

    /// The server ended the DTLS session.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    pub fn profile(&self) -> Option<SrtpProfile> {
        self.secured.as_ref().map(|secured| secured.profile)
    }

    /// The server's certificate, for a comparison with the fingerprint in its transport-params.
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        self.secured.as_ref().map(|secured| &secured.peer_certificate[..])
    }

    pub fn stats(&self) -> PeerStats {
        self.stats
    }

    pub fn deadline(&self, engine: &dyn SecureEngine) -> Option<Instant> {
        [self.ice.deadline(), engine.next_deadline()].into_iter().flatten().min()
    }

    pub fn poll_transmit(&mut self) -> Option<Datagram> {
        let datagram = self.transmit.pop_front()?;
        self.stats.datagrams_sent += 1;
        Some(datagram)
    }

    pub fn handle_timeout(&mut self, now: Instant, engine: &mut dyn SecureEngine) {
        if engine.next_deadline().is_some_and(|at| at <= now) {
            engine.pump(now);
        }
        while let Some((to, bytes)) = self.ice.poll_transmit(now) {
            self.transmit.push_back(Datagram { to, bytes });
        }
        self.drain_session();
    }

    /// Takes one datagram, decrypts it in place, and returns its kind if it was media.
    pub fn handle_datagram<'a>(
        &mut self,
        now: Instant,
        engine: &mut dyn SecureEngine,
        from: SocketAddr,
        bytes: &'a mut [u8],
    ) -> Option<Received<'a>> {
        self.stats.datagrams_received += 1;
        let received = match classify(bytes) {
            Kind::Stun => {
                let answered = self.ice.handle(now, from, bytes);
                if answered && self.session.is_none() && self.role == DtlsRole::Client {
                    self.session = Some(engine.open(now, Side::Client, SessionTag::default()));
                }
                if answered {
                    self.handle_timeout(now, engine);
                    return None;
                }
                None
            }
            Kind::Dtls => {
                if self.session.is_none() && self.role == DtlsRole::Server {
                    self.session = Some(engine.open(now, Side::Server, SessionTag::default()));
                }
                let taken = self.session.as_mut().is_some_and(|session| session.handle_datagram(now, bytes).is_ok());
                self.drain_session();
                if taken {
                    return None;
                }
                None
            }
            Kind::Rtp => self.open_rtp(bytes),
            Kind::Rtcp => self.open_rtcp(bytes),
            Kind::Unknown => None,
        };
        self.stats.refused += u64::from(received.is_none());
        received
    }

    fn open_rtp<'a>(&mut self, bytes: &'a mut [u8]) -> Option<Received<'a>> {
        let header = RtpHeader::parse(bytes).ok()?;
        let len = self.secured.as_mut()?.opener.open_rtp(header.len(), header.ssrc, header.seq, bytes).ok()?;
        Some(Received::Rtp(header, &bytes[..len]))
    }

    fn open_rtcp<'a>(&mut self, bytes: &'a mut [u8]) -> Option<Received<'a>> {
        let len = self.secured.as_mut()?.opener.open_rtcp(bytes).ok()?;
        Some(Received::Rtcp(&bytes[..len]))
    }

    fn drain_session(&mut self) {
        let Some(session) = &mut self.session else { return };
        while let Some(output) = session.poll() {
            match output {
                // Nothing can have been established before a pair was nominated.
                SecureOutput::Transmit(bytes) => {
                    if let Some(to) = self.ice.selected() {
                        self.transmit.push_back(Datagram { to, bytes });
                    }
                }
                SecureOutput::Established(keying) => self.secured = Some(Secured::new(*keying)),
                // Never asked for.
                SecureOutput::Application(_) => {}
                SecureOutput::Closed(_) => self.closed = true,
            }
        }
    }

    /// Seals and queues one RTP packet; false while the transport is not connected, or when the sealer refuses it.
    pub fn send_rtp(&mut self, packet: &[u8]) -> bool {
        let (Some(secured), Some(to)) = (&mut self.secured, self.ice.selected()) else { return false };
        let Ok(header) = RtpHeader::parse(packet) else { return false };
        // RFC 3711 section 3.3.1: the rollover counter starts at 0, an extended number one round further.
        let last = self.outgoing.get(&header.ssrc.0);
        let at = last.map_or(ExtSeq::first(header.seq), |last| last.nearest(header.seq));
        let index = at.0.saturating_sub(1 << 16);
        let mut bytes = Vec::with_capacity(packet.len() + OVERHEAD_MAX);
        bytes.extend_from_slice(packet);
        bytes.resize(packet.len() + OVERHEAD_MAX, 0);
        let Ok(len) = secured.sealer.seal_rtp(index, &mut bytes, header.len(), packet.len()) else { return false };
        bytes.truncate(len);
        self.outgoing.insert(header.ssrc.0, at);
        self.transmit.push_back(Datagram { to, bytes });
        true
    }

    /// Seals and queues one RTCP compound; false as for RTP.
    pub fn send_rtcp(&mut self, mut compound: Vec<u8>) -> bool {
        let (Some(secured), Some(to)) = (&mut self.secured, self.ice.selected()) else { return false };
        if secured.sealer.seal_rtcp(&mut compound).is_err() {
            return false;
        }
        self.transmit.push_back(Datagram { to, bytes: compound });
        true
    }

    /// Queues a datagram as it is, on the path of media.
    pub fn send_raw(&mut self, bytes: Vec<u8>) {
        if let Some(to) = self.ice.selected() {
            self.transmit.push_back(Datagram { to, bytes });
        }
    }

    /// Sends close_notify.
    pub fn close(&mut self) {
        if let Some(session) = &mut self.session {
            session.close();
        }
        self.drain_session();
    }
}
