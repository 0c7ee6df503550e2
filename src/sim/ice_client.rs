//! The controlling side of ICE towards a lite server: what a browser does on one local socket, without candidates of
//! its own to offer. It checks every remote candidate, nominates the first that answers and keeps asking for consent.
//! Used by `endpoint`; it knows nothing of sockets.

use std::net::SocketAddr;

use rand::Rng;
use rand::rngs::SmallRng;
use stun::agent::TransactionId;
use stun::attributes::AttrType;
use stun::message::{BINDING_REQUEST, Message};

use crate::base::time::{Duration, Instant};
use crate::transport::stun::{
    ICE_CONTROLLING, IntegrityKey, PRIORITY, StunClass, StunView, USE_CANDIDATE, USERNAME, finish,
};

/// The interval of checks that nobody answered yet, and of checks that keep consent (libwebrtc's figures).
const CHECK_UNANSWERED: Duration = Duration::from_millis(50);
const CHECK_ANSWERED: Duration = Duration::from_millis(2_500);
/// An answered pair goes back to quick checks when an answer stays out this long.
const ANSWER_WAIT: Duration = Duration::from_millis(500);

/// The server's side, from transport-params.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RemoteIce {
    pub ufrag: String,
    pub pwd: String,
    pub candidates: Vec<SocketAddr>,
}

struct Pair {
    remote: SocketAddr,
    /// Checks since the last answer, newest last; an answer to any of them counts.
    open: Vec<[u8; 12]>,
    answered: bool,
    next_at: Instant,
}

/// Checks whose answers are still accepted.
const OPEN_MAX: usize = 20;

pub struct IceClient {
    ufrag: String,
    remote_ufrag: String,
    key: IntegrityKey,
    pairs: Vec<Pair>,
    nominated: Option<usize>,
    tie_breaker: [u8; 8],
    rng: SmallRng,
}

impl IceClient {
    pub fn new(now: Instant, remote: &RemoteIce, mut rng: SmallRng) -> IceClient {
        let mut client = IceClient {
            ufrag: String::new(),
            remote_ufrag: String::new(),
            key: IntegrityKey::new(""),
            pairs: Vec::new(),
            nominated: None,
            tie_breaker: rng.random(),
            rng,
        };
        client.restart(now, remote);
        client
    }

    /// Starts over with other credentials of the server, and an own ufrag that is new too.
    pub fn restart(&mut self, now: Instant, remote: &RemoteIce) {
        self.ufrag = format!("{:08x}", self.rng.random::<u32>());
        self.remote_ufrag = remote.ufrag.clone();
        self.key = IntegrityKey::new(&remote.pwd);
        let pair = |remote: &SocketAddr| Pair { remote: *remote, open: Vec::new(), answered: false, next_at: now };
        self.pairs = remote.candidates.iter().map(pair).collect();
        self.nominated = None;
    }

    /// Checks all pairs again at once, as after a change of the own address: the server learns the new one from it.
    pub fn recheck(&mut self, now: Instant) {
        for pair in &mut self.pairs {
            pair.next_at = now;
        }
    }

    /// The pair that was nominated.
    pub fn selected(&self) -> Option<SocketAddr> {
        self.nominated.map(|index| self.pairs[index].remote)
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.pairs.iter().map(|pair| pair.next_at).min()
    }

    /// The next check that is due.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<(SocketAddr, Vec<u8>)> {
        let index = self.pairs.iter().position(|pair| pair.next_at <= now)?;
        let transaction: [u8; 12] = self.rng.random();
        let nominates = self.nominated == Some(index);
        let pair = &mut self.pairs[index];
        if pair.open.len() == OPEN_MAX {
            pair.open.remove(0);
        }
        pair.open.push(transaction);
        pair.next_at = now + if pair.answered { ANSWER_WAIT } else { CHECK_UNANSWERED };
        pair.answered = false;

        let mut message =
            Message { typ: BINDING_REQUEST, transaction_id: TransactionId(transaction), ..Message::new() };
        message.write_header();
        // RFC 8445 section 7.2.2: the receiver's ufrag first.
        message.add(AttrType(USERNAME), format!("{}:{}", self.remote_ufrag, self.ufrag).as_bytes());
        message.add(AttrType(ICE_CONTROLLING), &self.tie_breaker);
        // RFC 8445 section 5.1.2.1: peer-reflexive, one component, the first candidate preferred.
        let priority = 110 << 24 | (u32::from(u16::MAX) - index as u32) << 8 | 255;
        message.add(AttrType(PRIORITY), &priority.to_be_bytes());
        if nominates {
            message.add(AttrType(USE_CANDIDATE), &[]);
        }
        finish(&mut message, &self.key);
        Some((pair.remote, message.raw))
    }

    /// True when the datagram answered a check of ours. The server is lite: it sends no checks.
    pub fn handle(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) -> bool {
        let Ok(view) = StunView::parse(datagram) else { return false };
        if view.class() != StunClass::BindingResponse || !view.is_success() {
            return false;
        }
        let transaction = view.transaction();
        // RFC 8445 section 7.2.5.2.1: only an answer from the address that was checked.
        let asked = |pair: &Pair| pair.remote == from && pair.open.contains(&transaction);
        let Some(index) = self.pairs.iter().position(asked) else { return false };
        if !view.integrity_holds(&self.key) || !view.fingerprint_holds() {
            return false;
        }
        let pair = &mut self.pairs[index];
        pair.open.clear();
        pair.answered = true;
        pair.next_at = now + CHECK_ANSWERED;
        if self.nominated.is_none() {
            self.nominated = Some(index);
            pair.next_at = now;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::buffer::{LocalIndex, Path};
    use crate::transport::ice_lite::{IceCredentialsLocal, IceLite};
    use rand::SeedableRng;

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    fn remote(ufrag: &str) -> RemoteIce {
        let candidates = vec!["192.0.2.1:40000".parse().unwrap(), "192.0.2.2:40000".parse().unwrap()];
        RemoteIce { ufrag: ufrag.into(), pwd: "a password of twenty-four".into(), candidates }
    }

    fn server(remote: &RemoteIce) -> IceLite {
        IceLite::new(IceCredentialsLocal { ufrag: remote.ufrag.clone(), pwd: remote.pwd.clone() })
    }

    /// Lets both talk until `until`; the first candidate is dead.
    fn run(client: &mut IceClient, server: &mut IceLite, from: Instant, until: Instant) -> usize {
        let path = Path::udp(LocalIndex(1), "198.51.100.7:50000".parse().unwrap());
        let (mut checks, mut reply, mut now) = (0, Vec::new(), from);
        while now < until {
            while let Some((to, datagram)) = client.poll_transmit(now) {
                if to == SocketAddr::from(([192, 0, 2, 2], 40_000)) {
                    checks += 1;
                    if server.handle(now, path, &datagram, &mut reply).is_ok() {
                        assert!(client.handle(now, to, &reply));
                    }
                }
            }
            now = client.deadline().unwrap();
        }
        checks
    }

    #[test]
    fn the_first_pair_that_answers_is_nominated_and_kept_alive() {
        let remote = remote("abcdefghij");
        let (mut client, mut server) = (IceClient::new(at(0), &remote, SmallRng::seed_from_u64(1)), server(&remote));
        let checks = run(&mut client, &mut server, at(0), at(10_000));
        assert_eq!(client.selected(), Some("192.0.2.2:40000".parse().unwrap()));
        assert!(server.selected().is_some() && server.has_consent(at(10_000)));
        assert_eq!(checks, 5, "one, one that nominates, and one every 2.5 s");
    }

    #[test]
    fn a_restart_checks_with_the_new_credentials() {
        let old = remote("abcdefghij");
        let (mut client, mut server) = (IceClient::new(at(0), &old, SmallRng::seed_from_u64(1)), server(&old));
        run(&mut client, &mut server, at(0), at(100));
        let new = RemoteIce { pwd: "another password of this size".into(), ..remote("abklmnopqr") };
        server.restart(IceCredentialsLocal { ufrag: new.ufrag.clone(), pwd: new.pwd.clone() });
        client.restart(at(100), &new);
        run(&mut client, &mut server, at(100), at(200));
        assert!(client.selected().is_some());
        assert_eq!(server.ufrags().collect::<Vec<_>>(), ["abklmnopqr"]);
    }

    #[test]
    fn a_forged_answer_is_none() {
        let remote = remote("abcdefghij");
        let mut client = IceClient::new(at(0), &remote, SmallRng::seed_from_u64(1));
        let mut stranger = server(&RemoteIce { pwd: "not the password at all!".into(), ..remote.clone() });
        let (to, check) = client.poll_transmit(at(0)).unwrap();
        let path = Path::udp(LocalIndex(0), "198.51.100.7:50000".parse().unwrap());
        let mut reply = Vec::new();
        assert!(stranger.handle(at(0), path, &check, &mut reply).is_err());
        server(&remote).handle(at(0), path, &check, &mut reply).unwrap();
        assert!(!client.handle(at(0), "192.0.2.9:40000".parse().unwrap(), &reply), "from elsewhere");
        let last = reply.len() - 20;
        reply[last] ^= 1;
        assert!(!client.handle(at(0), to, &reply), "not authentic");
        assert_eq!(client.selected(), None);
    }
}
