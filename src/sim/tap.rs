//! Listens on one direction of a client's transport with the client's own keys, before the link loses any packet. The
//! simulation's models judge the SFU by it; the packets themselves go on untouched.

use std::cell::RefCell;
use std::rc::Rc;

use crate::base::id::{PayloadType, Ssrc};
use crate::base::seq::Seq;
use crate::base::time::Instant;
use crate::secure::SecureDrop;
use crate::secure::dtls::{Keying, SecureEngine, SecureOutput, SecureSession, SessionTag, Side};
use crate::secure::srtp::Opener;
use crate::sim::engine::SimEngine;
use crate::wire::rtp::RtpHeader;
use crate::wire::{Kind, classify};

/// The keys of a client's transport, once it has them.
pub type Keys = Rc<RefCell<Option<Keying>>>;

/// A client's engine that tells its keys.
pub struct TappedEngine {
    inner: SimEngine,
    keys: Keys,
}

struct TappedSession {
    inner: Box<dyn SecureSession>,
    keys: Keys,
}

impl TappedEngine {
    pub fn new(inner: SimEngine) -> TappedEngine {
        TappedEngine { inner, keys: Keys::default() }
    }

    pub fn keys(&self) -> Keys {
        self.keys.clone()
    }
}

impl SecureEngine for TappedEngine {
    fn open(&mut self, now: Instant, side: Side, tag: SessionTag) -> Box<dyn SecureSession> {
        Box::new(TappedSession { inner: self.inner.open(now, side, tag), keys: self.keys.clone() })
    }

    fn pump(&mut self, now: Instant) {
        self.inner.pump(now);
    }

    fn ready(&mut self) -> Option<SessionTag> {
        self.inner.ready()
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.inner.next_deadline()
    }
}

impl SecureSession for TappedSession {
    fn handle_datagram(&mut self, now: Instant, bytes: &[u8]) -> Result<(), SecureDrop> {
        self.inner.handle_datagram(now, bytes)
    }

    fn poll(&mut self) -> Option<SecureOutput> {
        let output = self.inner.poll();
        if let Some(SecureOutput::Established(keying)) = &output {
            *self.keys.borrow_mut() = Some(Keying::clone(keying));
        }
        output
    }

    fn close(&mut self) {
        self.inner.close();
    }

    fn send(&mut self, data: &[u8]) -> bool {
        self.inner.send(data)
    }

    fn accept_application(&mut self) {
        self.inner.accept_application();
    }
}

/// One RTP packet in plain text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Overheard {
    pub sent_at: Instant,
    /// None: the link lost it.
    pub arrives_at: Option<Instant>,
    pub ssrc: Ssrc,
    pub seq: Seq,
    pub timestamp: u32,
    pub marker: bool,
    pub payload_type: PayloadType,
    /// The original sequence number still leads a retransmission's (RFC 4588 section 4).
    pub payload: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkDirection {
    Up,
    Down,
}

pub struct Tap {
    direction: LinkDirection,
    keys: Keys,
    opener: Option<Opener>,
    /// Packets that passed before the client had its keys.
    waiting: Vec<(Instant, Option<Instant>, Vec<u8>)>,
    heard: Vec<Overheard>,
    refused: u64,
}

impl Tap {
    pub fn new(direction: LinkDirection, keys: Keys) -> Tap {
        Tap { direction, keys, opener: None, waiting: Vec::new(), heard: Vec::new(), refused: 0 }
    }

    pub fn heard(&self) -> &[Overheard] {
        &self.heard
    }

    /// The same, once: for runs that are too long to keep them all.
    pub fn take_heard(&mut self) -> Vec<Overheard> {
        std::mem::take(&mut self.heard)
    }

    /// Packets that did not open: above all, a number that was used twice under one key.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    pub fn listen(&mut self, now: Instant, arrives_at: Option<Instant>, datagram: &[u8]) {
        if classify(datagram) != Kind::Rtp {
            return;
        }
        self.waiting.push((now, arrives_at, datagram.to_vec()));
        if self.opener.is_none() {
            self.opener = self.keys.borrow().as_ref().map(|keying| {
                let key = match self.direction {
                    LinkDirection::Up => &keying.local,
                    LinkDirection::Down => &keying.remote,
                };
                Opener::new(keying.profile, key)
            });
        }
        let Some(opener) = &mut self.opener else { return };
        for (sent_at, arrives_at, mut bytes) in self.waiting.drain(..) {
            match open(opener, &mut bytes) {
                Some((header, payload)) => self.heard.push(Overheard {
                    sent_at,
                    arrives_at,
                    ssrc: header.ssrc,
                    seq: header.seq,
                    timestamp: header.timestamp,
                    marker: header.marker,
                    payload_type: header.payload_type,
                    payload,
                }),
                None => self.refused += 1,
            }
        }
    }
}

fn open(opener: &mut Opener, bytes: &mut [u8]) -> Option<(RtpHeader, Vec<u8>)> {
    let header = RtpHeader::parse(bytes).ok()?;
    let len = opener.open_rtp(header.len(), header.ssrc, header.seq, bytes).ok()?;
    let payload = header.payload(&bytes[..len]).ok()?.to_vec();
    Some((header, payload))
}
