//! What a DTLS session is to its owner, whoever does the handshake: datagrams and the time go in; datagrams, keys,
//! application data and the end come out. Types alone; `engine` implements them here, the simulation and the threads of
//! handshakes elsewhere.

use crate::base::limits::HANDSHAKE_MAX;
use crate::base::time::Instant;
use crate::secure::dropped::SecureDrop;
use crate::secure::srtp::{MasterKey, SrtpProfile};
use std::fmt;

/// Our role in the handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Server,
    Client,
}

/// By which the owner of a session knows it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct SessionTag(pub u64);

pub trait SecureEngine {
    /// A session on a path that passed ICE. The client side sends its first flight at once.
    fn open(&mut self, now: Instant, side: Side, tag: SessionTag) -> Box<dyn SecureSession>;
    /// Drives the timers of open handshakes; then the sessions that [`SecureEngine::ready`] names want a `poll`.
    fn pump(&mut self, now: Instant);
    /// The next of those that may have something to say since the last `pump`. One may be named that has nothing, or that
    /// is gone.
    fn ready(&mut self) -> Option<SessionTag>;
    /// When `pump` is due: None while no handshake is open.
    fn next_deadline(&self) -> Option<Instant>;
    /// What was dropped, by the last `pump`, of that which sessions had taken.
    fn dropped(&mut self) -> Option<SecureDrop> {
        None
    }
    /// Datagrams that were taken and not yet looked at.
    fn waiting(&self) -> usize {
        0
    }
}

pub trait SecureSession {
    /// Takes a datagram of the DTLS range (RFC 7983). An error names the first thing in it that was dropped; what was
    /// good has been taken all the same, so poll in either case.
    fn handle_datagram(&mut self, now: Instant, bytes: &[u8]) -> Result<(), SecureDrop>;
    fn poll(&mut self) -> Option<SecureOutput>;
    /// Sends close_notify if established; poll once more for it.
    fn close(&mut self);
    /// Protects `data` as one application record; poll once more for it. False: the session is not established, has
    /// ended, carries no application data, or `data` does not fit into a datagram.
    fn send(&mut self, _data: &[u8]) -> bool {
        false
    }
    /// From now on application records are opened and come out of `poll`. Before, each is dropped unopened: nobody would
    /// take what is in it.
    fn accept_application(&mut self) {}
}

#[derive(Debug)]
pub enum SecureOutput {
    Transmit(Vec<u8>),
    Established(Box<Keying>),
    /// The plaintext of one application record.
    Application(Vec<u8>),
    /// Nothing follows.
    Closed(ClosedBy),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClosedBy {
    /// close_notify, or a fatal alert under the session's own keys.
    Peer,
    HandshakeFailed(String),
    /// The handshake took longer than [`HANDSHAKE_MAX`].
    HandshakeTimeout,
}

impl fmt::Display for ClosedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClosedBy::Peer => f.write_str("the peer closed the DTLS session"),
            ClosedBy::HandshakeFailed(reason) => write!(f, "the DTLS handshake failed: {reason}"),
            ClosedBy::HandshakeTimeout => write!(f, "the DTLS handshake took over {} s", HANDSHAKE_MAX.as_secs()),
        }
    }
}

/// What a finished handshake yields. The peer is nobody yet: its certificate is still to be compared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Keying {
    pub profile: SrtpProfile,
    /// DTLS's own cipher suite, as the IANA registry calls it.
    pub suite: &'static str,
    pub local: MasterKey,
    pub remote: MasterKey,
    /// DER.
    pub peer_certificate: Vec<u8>,
}

impl Keying {
    /// From what the exporter "EXTRACTOR-dtls_srtp" yields, in its order: client key, server key, client salt, server
    /// salt (RFC 5764 section 4.2). None where `material` is shorter than `profile` needs.
    pub(super) fn from_exported(
        side: Side,
        profile: SrtpProfile,
        suite: &'static str,
        material: &[u8],
        peer_certificate: Vec<u8>,
    ) -> Option<Box<Keying>> {
        let (client_key, rest) = material.split_at_checked(profile.key_len())?;
        let (server_key, rest) = rest.split_at_checked(profile.key_len())?;
        let (client_salt, rest) = rest.split_at_checked(profile.salt_len())?;
        let server_salt = rest.get(..profile.salt_len())?;
        let client = MasterKey::new(profile, client_key, client_salt)?;
        let server = MasterKey::new(profile, server_key, server_salt)?;
        let (local, remote) = if side == Side::Client { (client, server) } else { (server, client) };
        Some(Box::new(Keying { profile, suite, local, remote, peer_certificate }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_cut_as_rfc_5764_orders_them() {
        let material: Vec<u8> = (0..56).collect();
        let cut = |side, material: &[u8]| {
            Keying::from_exported(side, SrtpProfile::AeadAes128Gcm, "suite", material, vec![48])
        };
        let ours = cut(Side::Client, &material).unwrap();
        assert_eq!((ours.local.key(), ours.local.salt()), (&material[..16], &material[32..44]));
        assert_eq!((ours.remote.key(), ours.remote.salt()), (&material[16..32], &material[44..]));
        let theirs = cut(Side::Server, &material).unwrap();
        assert_eq!((&theirs.local, &theirs.remote), (&ours.remote, &ours.local));
        assert!(cut(Side::Server, &material[1..]).is_none());
    }
}
