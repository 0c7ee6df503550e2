//! The remote end of one transport: ICE checks, the DTLS client and SRTP, or for plain RTP its keys alone, if any.
//! Datagrams and time go in; datagrams, decrypted packets and the next deadline come out. `browser` knows what the
//! packets mean, the simulation or `client` where they travel.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use rand::rngs::SmallRng;

use crate::base::seq::ExtSeq;
use crate::base::time::Instant;
use crate::secure::SecureDrop;
use crate::secure::dtls::{ClosedBy, Keying, SecureEngine, SecureOutput, SecureSession, SessionTag, Side};
use crate::secure::srtp::{OVERHEAD_MAX, SrtpContext, SrtpProfile};
use crate::sim::ice_client::{IceClient, RemoteIce};
use crate::wire::rtp::RtpHeader;
use crate::wire::{Kind, classify};

/// Which end of DTLS an endpoint plays; nearly all browsers are the client.
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

/// The result of taking a datagram.
pub enum ReceivedDatagram<'a> {
    /// Decrypted.
    Rtp(RtpHeader, &'a [u8]),
    Rtcp(&'a [u8]),
    /// ICE or DTLS has taken it.
    Taken,
    Refused(RefusedDatagram),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefusedDatagram {
    /// No packet of WebRTC, or not well formed.
    Unreadable,
    /// Media before there are keys.
    Early,
    NotOpened(SecureDrop),
    /// STUN that answers nothing, or DTLS that may not come now.
    OutOfPlace,
}

/// Another SRTP, which is shown packets of one end of a transport and says which it reads otherwise.
pub trait Witness: Send {
    fn keyed(&mut self, keying: &Keying);
    /// Whether this packet is to be shown, in plaintext and sealed.
    fn wants(&mut self, kind: Kind, packet: &[u8]) -> bool;
    fn compare(&mut self, heading: Heading, kind: Kind, sealed: &[u8], plain: &[u8]);
    fn seen(&self) -> WitnessCounts;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heading {
    Sent,
    Received,
}

/// The packets that a [`Witness`] was shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WitnessCounts {
    pub compared: u64,
    /// Packets that it did not open, or read otherwise.
    pub disputed: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EndpointStats {
    pub datagrams_sent: u64,
    pub datagrams_received: u64,
    /// STUN that answered nothing, DTLS out of place, SRTP that did not open, and other useless datagrams.
    pub refused: u64,
    pub seen: WitnessCounts,
}

struct Secured {
    srtp: SrtpContext,
    peer_certificate: Option<Vec<u8>>,
}

impl Secured {
    fn new(keying: Keying) -> Secured {
        Secured {
            srtp: SrtpContext::new(keying.profile, &keying.local, &keying.remote),
            peer_certificate: Some(keying.peer_certificate),
        }
    }
}

/// How an endpoint comes to the address that it sends to.
enum Way {
    Ice(Box<IceClient>),
    /// The address was given.
    Told(SocketAddr),
}

impl Way {
    fn ice(&mut self) -> Option<&mut IceClient> {
        match self {
            Way::Ice(ice) => Some(ice),
            Way::Told(_) => None,
        }
    }

    fn selected(&self) -> Option<SocketAddr> {
        match self {
            Way::Ice(ice) => ice.selected(),
            Way::Told(to) => Some(*to),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match self {
            Way::Ice(ice) => ice.deadline(),
            Way::Told(_) => None,
        }
    }
}

pub struct Endpoint {
    way: Way,
    role: DtlsRole,
    session: Option<Box<dyn SecureSession>>,
    secured: Option<Secured>,
    closed: Option<ClosedBy>,
    witness: Option<Box<dyn Witness>>,
    /// Rollover counters of sent packets, by SSRC.
    outgoing: BTreeMap<u32, ExtSeq>,
    transmit: VecDeque<Datagram>,
    stats: EndpointStats,
}

impl Endpoint {
    pub fn new(now: Instant, remote: &RemoteIce, role: DtlsRole, rng: SmallRng) -> Endpoint {
        Endpoint::by(Way::Ice(Box::new(IceClient::new(now, remote, rng))), role, None)
    }

    /// The end of a plain-RTP transport.
    pub fn plain(to: SocketAddr, srtp: SrtpContext) -> Endpoint {
        Endpoint::by(Way::Told(to), DtlsRole::Client, Some(Secured { srtp, peer_certificate: None }))
    }

    fn by(way: Way, role: DtlsRole, secured: Option<Secured>) -> Endpoint {
        Endpoint {
            way,
            role,
            session: None,
            secured,
            closed: None,
            witness: None,
            outgoing: BTreeMap::new(),
            transmit: VecDeque::new(),
            stats: EndpointStats::default(),
        }
    }

    pub fn watched_by(&mut self, witness: Box<dyn Witness>) {
        self.witness = Some(witness);
    }

    pub fn restart_ice(&mut self, now: Instant, remote: &RemoteIce) {
        if let Some(ice) = self.way.ice() {
            ice.restart(now, remote);
        }
    }

    /// The own address has changed.
    pub fn recheck(&mut self, now: Instant) {
        if let Some(ice) = self.way.ice() {
            ice.recheck(now);
        }
    }

    /// Media may flow.
    pub fn is_connected(&self) -> bool {
        self.secured.is_some() && self.way.selected().is_some() && self.closed.is_none()
    }

    /// Why the DTLS session ended, once it has.
    pub fn closed(&self) -> Option<&ClosedBy> {
        self.closed.as_ref()
    }

    /// Drops the DTLS session and keeps its keys. From here on close_notify is neither sent nor heard.
    pub fn leave_session(&mut self) {
        self.session.take_if(|_| self.secured.is_some());
    }

    pub fn profile(&self) -> Option<SrtpProfile> {
        self.secured.as_ref().and_then(|secured| secured.srtp.profile())
    }

    /// The server's certificate, for a comparison with the fingerprint in its transport-params.
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        self.secured.as_ref().and_then(|secured| secured.peer_certificate.as_deref())
    }

    pub fn stats(&self) -> EndpointStats {
        EndpointStats { seen: self.witness.as_ref().map(|witness| witness.seen()).unwrap_or_default(), ..self.stats }
    }

    /// The deadline of the next ICE check.
    pub fn check_deadline(&self) -> Option<Instant> {
        self.way.deadline()
    }

    pub fn deadline(&self, engine: &dyn SecureEngine) -> Option<Instant> {
        [self.way.deadline(), engine.next_deadline()].into_iter().flatten().min()
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
        while let Some((to, bytes)) = self.way.ice().and_then(|ice| ice.poll_transmit(now)) {
            self.transmit.push_back(Datagram { to, bytes });
        }
        self.drain_session();
    }

    /// Takes one datagram; media is decrypted in place.
    pub fn handle_datagram<'a>(
        &mut self,
        now: Instant,
        engine: &mut dyn SecureEngine,
        from: SocketAddr,
        bytes: &'a mut [u8],
    ) -> ReceivedDatagram<'a> {
        self.stats.datagrams_received += 1;
        let received = match classify(bytes) {
            Kind::Stun if self.way.ice().is_some_and(|ice| ice.handle(now, from, bytes)) => {
                if self.role == DtlsRole::Client {
                    self.open_session(now, engine, Side::Client);
                }
                self.handle_timeout(now, engine);
                Ok(ReceivedDatagram::Taken)
            }
            Kind::Dtls => {
                if self.role == DtlsRole::Server {
                    self.open_session(now, engine, Side::Server);
                }
                let taken = self.session.as_mut().is_some_and(|session| session.handle_datagram(now, bytes).is_ok());
                self.drain_session();
                if taken { Ok(ReceivedDatagram::Taken) } else { Err(RefusedDatagram::OutOfPlace) }
            }
            Kind::Rtp => self.open_rtp(bytes),
            Kind::Rtcp => self.open_rtcp(bytes),
            Kind::Stun => Err(RefusedDatagram::OutOfPlace),
            Kind::Unknown => Err(RefusedDatagram::Unreadable),
        };
        self.stats.refused += u64::from(received.is_err());
        received.unwrap_or_else(ReceivedDatagram::Refused)
    }

    fn open_session(&mut self, now: Instant, engine: &mut dyn SecureEngine, side: Side) {
        if self.session.is_none() && self.secured.is_none() {
            self.session = Some(engine.open(now, side, SessionTag::default()));
        }
    }

    fn open_rtp<'a>(&mut self, bytes: &'a mut [u8]) -> Result<ReceivedDatagram<'a>, RefusedDatagram> {
        let header = RtpHeader::parse(bytes).map_err(|_| RefusedDatagram::Unreadable)?;
        let secured = self.secured.as_mut().ok_or(RefusedDatagram::Early)?;
        let sealed = shown(&mut self.witness, Kind::Rtp, bytes);
        let opened = secured.srtp.opener.open_rtp(header.len(), header.ssrc, header.seq, bytes);
        let plain = &bytes[..opened.map_err(RefusedDatagram::NotOpened)?];
        if let (Some(witness), Some(sealed)) = (&mut self.witness, sealed) {
            witness.compare(Heading::Received, Kind::Rtp, &sealed, plain);
        }
        Ok(ReceivedDatagram::Rtp(header, plain))
    }

    fn open_rtcp<'a>(&mut self, bytes: &'a mut [u8]) -> Result<ReceivedDatagram<'a>, RefusedDatagram> {
        let secured = self.secured.as_mut().ok_or(RefusedDatagram::Early)?;
        let sealed = shown(&mut self.witness, Kind::Rtcp, bytes);
        let opened = secured.srtp.opener.open_rtcp(bytes);
        let plain = &bytes[..opened.map_err(RefusedDatagram::NotOpened)?];
        if let (Some(witness), Some(sealed)) = (&mut self.witness, sealed) {
            witness.compare(Heading::Received, Kind::Rtcp, &sealed, plain);
        }
        Ok(ReceivedDatagram::Rtcp(plain))
    }

    fn drain_session(&mut self) {
        let Some(session) = &mut self.session else { return };
        while let Some(output) = session.poll() {
            match output {
                // Nothing can have been established before a pair was nominated.
                SecureOutput::Transmit(bytes) => {
                    if let Some(to) = self.way.selected() {
                        self.transmit.push_back(Datagram { to, bytes });
                    }
                }
                SecureOutput::Established(keying) => {
                    if let Some(witness) = &mut self.witness {
                        witness.keyed(&keying);
                    }
                    self.secured = Some(Secured::new(*keying));
                }
                // Never asked for.
                SecureOutput::Application(_) => {}
                SecureOutput::Closed(why) => self.closed = Some(why),
            }
        }
    }

    /// Seals and queues one RTP packet; false while the transport is not connected, or when the sealer refuses it.
    pub fn send_rtp(&mut self, packet: &[u8]) -> bool {
        let Some(to) = self.way.selected().filter(|_| self.secured.is_some()) else { return false };
        let Ok(header) = RtpHeader::parse(packet) else { return false };
        // RFC 3711 section 3.3.1: the rollover counter starts at 0, an extended number one round further.
        let last = self.outgoing.get(&header.ssrc.0);
        let at = last.map_or(ExtSeq::first(header.seq), |last| last.nearest(header.seq));
        let index = at.0.saturating_sub(1 << 16);
        let mut bytes = Vec::with_capacity(packet.len() + OVERHEAD_MAX);
        bytes.extend_from_slice(packet);
        bytes.resize(packet.len() + OVERHEAD_MAX, 0);
        let Some(len) = self.seal_rtp(index, &mut bytes, header.len(), packet.len()) else { return false };
        bytes.truncate(len);
        self.outgoing.insert(header.ssrc.0, at);
        self.transmit.push_back(Datagram { to, bytes });
        true
    }

    /// Seals the packet at the front of `bytes`, whose SRTP index the caller counts, and returns its new length.
    pub fn seal_rtp(&mut self, index: u64, bytes: &mut [u8], header_len: usize, len: usize) -> Option<usize> {
        let secured = self.secured.as_mut()?;
        let plain = shown(&mut self.witness, Kind::Rtp, &bytes[..len]);
        let len = secured.srtp.sealer.seal_rtp(index, bytes, header_len, len).ok()?;
        if let (Some(witness), Some(plain)) = (&mut self.witness, plain) {
            witness.compare(Heading::Sent, Kind::Rtp, &bytes[..len], &plain);
        }
        Some(len)
    }

    /// Seals and queues one RTCP compound; false as for RTP.
    pub fn send_rtcp(&mut self, mut compound: Vec<u8>) -> bool {
        let Some(to) = self.way.selected().filter(|_| self.seal_rtcp(&mut compound)) else { return false };
        self.transmit.push_back(Datagram { to, bytes: compound });
        true
    }

    /// False before there are keys, or when the sealer refuses the compound.
    pub fn seal_rtcp(&mut self, compound: &mut Vec<u8>) -> bool {
        let Some(secured) = &mut self.secured else { return false };
        let plain = shown(&mut self.witness, Kind::Rtcp, compound);
        let sealed = secured.srtp.sealer.seal_rtcp(compound).is_ok();
        if let (Some(witness), Some(plain), true) = (&mut self.witness, plain, sealed) {
            witness.compare(Heading::Sent, Kind::Rtcp, compound, &plain);
        }
        sealed
    }

    /// Queues a datagram as it is, on the path of media.
    pub fn send_raw(&mut self, bytes: Vec<u8>) {
        if let Some(to) = self.way.selected() {
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

/// A copy of the packet, if the witness wants it.
fn shown(witness: &mut Option<Box<dyn Witness>>, kind: Kind, packet: &[u8]) -> Option<Vec<u8>> {
    witness.as_mut().is_some_and(|witness| witness.wants(kind, packet)).then(|| packet.to_vec())
}
