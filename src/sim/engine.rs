//! A stand-in for DTLS in the simulation: two round trips, each repeated until it is answered, give both sides the same
//! keys and each other's certificate. As with the real one, a side that finishes has read the server's messages. It
//! costs microseconds instead of a millisecond and its randomness is seeded. It protects nothing; that is what
//! `secure::dtls` is for.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

use crate::base::time::{Duration, Instant};
use crate::secure::SecureDrop;
use crate::secure::dtls::{Keying, SecureEngine, SecureOutput, SecureSession, SessionTag, Side};
use crate::secure::srtp::{MasterKey, SrtpProfile};

const REPEAT: Duration = Duration::from_millis(50);
/// A handshake record of DTLS 1.2 (RFC 6347 section 4.1) up to its length: demultiplexing and lanes look at it.
const RECORD: [u8; 11] = [22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0];
const LENGTH: usize = 2;
/// As the messages of the real one that they stand for.
const HELLO: u8 = 1;
const ANSWER: u8 = 2;
/// Both hellos were read; sent by the client and answered in kind.
const FINISHED: u8 = 20;
const RANDOM_LEN: usize = 16;

pub struct SimEngine {
    profile: SrtpProfile,
    certificate: Vec<u8>,
    rng: SmallRng,
    /// The lines of the clients, who alone repeat their flights.
    clients: Vec<Weak<Mutex<Line>>>,
    ready: VecDeque<SessionTag>,
}

/// One session's state, shared between it and the engine that repeats its hello.
struct Line {
    tag: SessionTag,
    profile: SrtpProfile,
    certificate: Vec<u8>,
    random: [u8; RANDOM_LEN],
    /// The message repeated until it is answered.
    repeats: Option<(u8, Instant)>,
    /// The other end's random and certificate.
    peer: Option<([u8; RANDOM_LEN], Vec<u8>)>,
    established: bool,
    output: VecDeque<SecureOutput>,
}

struct SimSession(Arc<Mutex<Line>>);

impl SimEngine {
    /// `certificate` stands for the DER a real engine would present: its hash is the fingerprint to announce.
    pub fn new(profile: SrtpProfile, certificate: Vec<u8>, seed: u64) -> SimEngine {
        SimEngine {
            profile,
            certificate,
            rng: SmallRng::seed_from_u64(seed),
            clients: Vec::new(),
            ready: VecDeque::new(),
        }
    }
}

fn lock(line: &Mutex<Line>) -> MutexGuard<'_, Line> {
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Line {
    fn say(&mut self, what: u8) {
        // A client that finishes repeats what it was told.
        let random = self.peer.as_ref().filter(|_| what == FINISHED).map_or(self.random, |(theirs, _)| *theirs);
        let length = (1 + RANDOM_LEN + self.certificate.len()) as u16;
        let datagram = [&RECORD, &length.to_be_bytes()[..], &[what], &random, &self.certificate].concat();
        self.output.push_back(SecureOutput::Transmit(datagram));
    }

    fn establish(&mut self, side: Side) -> Result<(), SecureDrop> {
        let Some((theirs, peer_certificate)) = self.peer.clone() else { return Err(SecureDrop::DtlsOutOfPlace) };
        let theirs = &theirs[..];
        let (client, server) = match side {
            Side::Client => (&self.random[..], theirs),
            Side::Server => (theirs, &self.random[..]),
        };
        let master = |label: &[u8]| {
            let digest = |part: &[u8]| {
                Sha256::new()
                    .chain_update(client)
                    .chain_update(server)
                    .chain_update(label)
                    .chain_update(part)
                    .finalize()
            };
            let (key, salt) = (digest(b"key"), digest(b"salt"));
            MasterKey::new(self.profile, &key[..self.profile.key_len()], &salt[..self.profile.salt_len()])
        };
        let (Some(of_client), Some(of_server)) = (master(b"client"), master(b"server")) else {
            return Err(SecureDrop::DtlsMalformed);
        };
        let (local, remote) = match side {
            Side::Client => (of_client, of_server),
            Side::Server => (of_server, of_client),
        };
        self.established = true;
        self.repeats = None;
        let keying = Keying { profile: self.profile, suite: "simulated", local, remote, peer_certificate };
        self.output.push_back(SecureOutput::Established(Box::new(keying)));
        Ok(())
    }
}

impl SecureSession for SimSession {
    fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) -> Result<(), SecureDrop> {
        let rest = datagram.strip_prefix(&RECORD).ok_or(SecureDrop::DtlsMalformed)?;
        let rest = rest.get(LENGTH..).ok_or(SecureDrop::DtlsMalformed)?;
        let (what, rest) = rest.split_first().ok_or(SecureDrop::DtlsMalformed)?;
        let (random, certificate) = rest.split_at_checked(RANDOM_LEN).ok_or(SecureDrop::DtlsMalformed)?;
        let random: [u8; RANDOM_LEN] = random.try_into().map_err(|_| SecureDrop::DtlsMalformed)?;
        let mut line = lock(&self.0);
        let same = line.peer.as_ref().is_none_or(|(theirs, _)| *theirs == random);
        match (*what, line.repeats.map(|(said, _)| said), line.established) {
            (HELLO, None, _) if same => {
                line.peer = Some((random, certificate.to_vec()));
                line.say(ANSWER);
                Ok(())
            }
            (ANSWER, Some(HELLO), false) => {
                line.peer = Some((random, certificate.to_vec()));
                line.repeats = Some((FINISHED, now + REPEAT));
                line.say(FINISHED);
                Ok(())
            }
            (FINISHED, Some(FINISHED), false) if random == line.random => line.establish(Side::Client),
            (FINISHED, None, established) if random == line.random && line.peer.is_some() => {
                line.say(FINISHED);
                if established { Ok(()) } else { line.establish(Side::Server) }
            }
            _ => Err(SecureDrop::DtlsOutOfPlace),
        }
    }

    fn poll(&mut self) -> Option<SecureOutput> {
        lock(&self.0).output.pop_front()
    }

    fn close(&mut self) {
        lock(&self.0).repeats = None;
    }
}

impl SecureEngine for SimEngine {
    fn open(&mut self, now: Instant, side: Side, tag: SessionTag) -> Box<dyn SecureSession> {
        let mut line = Line {
            tag,
            profile: self.profile,
            certificate: self.certificate.clone(),
            random: self.rng.random(),
            repeats: None,
            peer: None,
            established: false,
            output: VecDeque::new(),
        };
        if side == Side::Server {
            return Box::new(SimSession(Arc::new(Mutex::new(line))));
        }
        line.say(HELLO);
        line.repeats = Some((HELLO, now + REPEAT));
        let line = Arc::new(Mutex::new(line));
        self.clients.retain(|line| line.strong_count() > 0);
        self.clients.push(Arc::downgrade(&line));
        Box::new(SimSession(line))
    }

    fn pump(&mut self, now: Instant) {
        self.ready.clear();
        for line in self.clients.iter().filter_map(Weak::upgrade) {
            let mut line = lock(&line);
            if let Some((what, _)) = line.repeats.filter(|(_, at)| *at <= now) {
                line.repeats = Some((what, now + REPEAT));
                line.say(what);
                self.ready.push_back(line.tag);
            }
        }
    }

    fn ready(&mut self) -> Option<SessionTag> {
        self.ready.pop_front()
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.clients.iter().filter_map(Weak::upgrade).filter_map(|line| lock(&line).repeats.map(|(_, at)| at)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_get_the_same_keys_though_the_first_two_datagrams_are_lost() {
        let now = Instant::ZERO;
        let mut client_engine = SimEngine::new(SrtpProfile::AeadAes128Gcm, b"client's".to_vec(), 1);
        let mut server_engine = SimEngine::new(SrtpProfile::AeadAes128Gcm, b"server's".to_vec(), 2);
        let mut client = client_engine.open(now, Side::Client, SessionTag(1));
        let mut server = server_engine.open(now, Side::Server, SessionTag(2));
        let sent = |session: &mut Box<dyn SecureSession>| match session.poll() {
            Some(SecureOutput::Transmit(datagram)) => datagram,
            _ => panic!("nothing to send"),
        };
        let keys = |session: &mut Box<dyn SecureSession>| match session.poll() {
            Some(SecureOutput::Established(keying)) => keying,
            _ => panic!("not established"),
        };
        sent(&mut client);
        let later = client_engine.next_deadline().unwrap();
        client_engine.pump(later);
        server.handle_datagram(later, &sent(&mut client)).unwrap();
        sent(&mut server);
        let later = client_engine.next_deadline().unwrap();
        client_engine.pump(later);
        server.handle_datagram(later, &sent(&mut client)).unwrap();
        client.handle_datagram(later, &sent(&mut server)).unwrap();
        let finished = sent(&mut client);
        let mut blind = finished.clone();
        blind[RECORD.len() + LENGTH + 1] ^= 1;
        assert!(server.handle_datagram(later, &blind).is_err() && server.poll().is_none());
        server.handle_datagram(later, &finished).unwrap();
        sent(&mut server);
        let at_server = keys(&mut server);
        let later = client_engine.next_deadline().unwrap();
        client_engine.pump(later);
        server.handle_datagram(later, &sent(&mut client)).unwrap();
        client.handle_datagram(later, &sent(&mut server)).unwrap();
        let at_client = keys(&mut client);
        assert!(at_client.local == at_server.remote && at_client.remote == at_server.local);
        assert!(at_client.local != at_client.remote);
        assert_eq!(
            (&at_client.peer_certificate[..], &at_server.peer_certificate[..]),
            (&b"server's"[..], &b"client's"[..])
        );
        assert_eq!(client_engine.next_deadline(), None);
        assert!(client.handle_datagram(later, &RECORD).is_err());
    }
}
