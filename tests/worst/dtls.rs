//! What DTLS datagrams cost, to a session that has heard nothing yet, to one in the middle of its handshake and to one that
//! is done; beside the everyday first ClientHello, which is answered with a cookie.

use weirgate::base::time::{Duration, Instant};
use weirgate::secure::certificate::Identity;
use weirgate::secure::dtls::{DtlsEngine, DtlsSettings, SecureEngine, SecureOutput, SecureSession, SessionTag, Side};

use super::{COUNT, Cost, PLAIN_MAX, median, timed};

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
const CLIENT_HELLO: u8 = 1;

struct End {
    engine: DtlsEngine,
    session: Box<dyn SecureSession>,
    established: bool,
}

impl End {
    fn new(now: Instant, side: Side, identity: &Identity) -> End {
        let mut engine =
            DtlsEngine::new(identity.clone(), DtlsSettings::default(), weirgate::net::clock::Clock::process().start())
                .expect("there is randomness");
        let session = engine.open(now, side, SessionTag(1));
        End { engine, session, established: false }
    }

    /// Takes a datagram, and says what comes of it.
    fn turn(&mut self, now: Instant, datagram: Option<&[u8]>) -> Vec<Vec<u8>> {
        if let Some(datagram) = datagram {
            // Most of what is measured is dropped.
            let _ = self.session.handle_datagram(now, datagram);
        }
        if self.engine.next_deadline().is_some_and(|due| due <= now) {
            self.engine.pump(now);
        }
        let mut said = Vec::new();
        while let Some(output) = self.session.poll() {
            match output {
                SecureOutput::Transmit(datagram) => said.push(datagram),
                SecureOutput::Established(_) => self.established = true,
                SecureOutput::Application(_) | SecureOutput::Closed(_) => {}
            }
        }
        said
    }
}

/// How far the server's end is.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Fresh,
    /// The cookie came back, and its own flight is on the way.
    Halfway,
    Done,
}

struct Pair {
    now: Instant,
    server: End,
    first_hello: Vec<u8>,
    last_of_client: Vec<u8>,
}

impl Pair {
    fn at(stage: Stage) -> Pair {
        let mut now = Instant::ZERO + Duration::from_secs(1);
        let identity = Identity::generate().expect("there is randomness");
        let (mut server, mut client) = (End::new(now, Side::Server, &identity), End::new(now, Side::Client, &identity));
        let (mut first_hello, mut last_of_client) = (Vec::new(), Vec::new());
        for _ in 0..2_000 {
            now = now + Duration::from_millis(5);
            let to_server = client.turn(now, None);
            let mut answers = server.turn(now, None);
            for datagram in &to_server {
                if first_hello.is_empty() {
                    first_hello.clone_from(datagram);
                }
                last_of_client.clone_from(datagram);
            }
            let reached = match stage {
                Stage::Fresh => !first_hello.is_empty(),
                // A server's flight is longer than a cookie.
                Stage::Halfway => answers.iter().map(Vec::len).sum::<usize>() > 300,
                Stage::Done => server.established && client.established,
            };
            if reached {
                return Pair { now, server, first_hello, last_of_client };
            }
            for datagram in to_server {
                answers.extend(server.turn(now, Some(&datagram)));
            }
            if stage == Stage::Halfway && answers.iter().map(Vec::len).sum::<usize>() > 300 {
                return Pair { now, server, first_hello, last_of_client };
            }
            for datagram in answers {
                let said = client.turn(now, Some(&datagram));
                for datagram in said {
                    last_of_client.clone_from(&datagram);
                    let answers = server.turn(now, Some(&datagram));
                    answers.iter().for_each(|answer| drop(client.turn(now, Some(answer))));
                }
            }
        }
        panic!("the handshake does not come so far");
    }

    /// Nanoseconds of one of these datagrams, whatever those before have left behind.
    fn cost(&mut self, mut write: impl FnMut(u64) -> Vec<u8>) -> f64 {
        let times = (0..COUNT as u64).map(|number| {
            let datagram = write(number);
            assert!(datagram.len() <= PLAIN_MAX, "{}", datagram.len());
            self.now = self.now + Duration::from_millis(1);
            timed(|| drop(self.server.turn(self.now, Some(&datagram))))
        });
        median(times.collect())
    }
}

fn record(kind: u8, epoch: u16, number: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, 0xfe, 0xfd];
    bytes.extend(epoch.to_be_bytes());
    bytes.extend(&number.to_be_bytes()[2..]);
    bytes.extend((payload.len() as u16).to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// RFC 6347 section 4.2.2.
fn fragment(kind: u8, length: u32, sequence: u16, offset: u32, bytes: &[u8]) -> Vec<u8> {
    let mut fragment = vec![kind];
    fragment.extend(&length.to_be_bytes()[1..]);
    fragment.extend(sequence.to_be_bytes());
    fragment.extend(&offset.to_be_bytes()[1..]);
    fragment.extend(&(bytes.len() as u32).to_be_bytes()[1..]);
    fragment.extend(bytes);
    fragment
}

/// As many as a datagram has room for.
fn filled(one: impl Fn(u64) -> Vec<u8>) -> Vec<u8> {
    let mut all = Vec::new();
    for at in 0.. {
        let next = one(at);
        if all.len() + next.len() > PLAIN_MAX - 13 {
            break;
        }
        all.extend(next);
    }
    all
}

type Write = Box<dyn Fn(u64) -> Vec<u8>>;

fn kinds() -> Vec<(&'static str, Write)> {
    let many = |kind, epoch, payload: &'static [u8]| -> Write {
        Box::new(move |number| filled(|at| record(kind, epoch, 1_000 + 200 * number + at, payload)))
    };
    let hello = |of: fn(u64, u64) -> Vec<u8>| -> Write {
        Box::new(move |number| record(HANDSHAKE, 0, 1_000 + number, &filled(|at| of(number, at))))
    };
    vec![
        ("hellos in pieces of a byte", hello(|n, at| fragment(CLIENT_HELLO, 8_000, 0, (n * 110 + at) as u32, &[1]))),
        (
            "every second byte of eight messages",
            hello(|n, at| fragment(CLIENT_HELLO, 8_000, (at % 8) as u16, (2 * (n * 14 + at / 8)) as u32, &[1])),
        ),
        (
            "pieces that contradict each other",
            hello(|n, at| fragment(CLIENT_HELLO, 100 + (n + at) as u32 % 50, 0, 0, &[n as u8; 20])),
        ),
        (
            "a hello of three hundred extensions",
            Box::new(|number| {
                let mut body = vec![0xfe, 0xfd];
                body.extend([7; 32]);
                body.extend([0, 0, 0, 2, 0xc0, 0x2b, 1, 0]);
                body.extend((4 * 300u16).to_be_bytes());
                body.extend((0..300u16).flat_map(|at| [(0x4000 + at).to_be_bytes(), [0, 0]]).flatten());
                record(HANDSHAKE, 0, 1_000 + number, &fragment(CLIENT_HELLO, body.len() as u32, 0, 0, &body))
            }),
        ),
        ("records of a strange epoch", many(HANDSHAKE, 7, &[1])),
        ("alerts in the clear", many(ALERT, 0, &[2, 40])),
        ("data in the clear", many(DATA, 0, &[1])),
        ("forged alerts", many(ALERT, 1, &[7; 26])),
        ("forged data", many(DATA, 1, &[7; 26])),
        ("forged handshake records", many(HANDSHAKE, 1, &[7; 40])),
        ("one long forged alert", Box::new(|number| record(ALERT, 1, 1_000 + number, &[7; PLAIN_MAX - 13]))),
        ("records that are none", Box::new(|_| vec![HANDSHAKE; PLAIN_MAX])),
    ]
}

pub fn dtls() -> Vec<Cost> {
    let mut fresh = Pair::at(Stage::Fresh);
    let hello = fresh.first_hello.clone();
    let typical = fresh.cost(|_| hello.clone());
    let mut costs = Vec::new();
    for (name, write) in kinds() {
        let worst = [Stage::Fresh, Stage::Halfway, Stage::Done].map(|stage| Pair::at(stage).cost(&write));
        costs.push(Cost { name, typical, worst: worst.into_iter().fold(0.0, f64::max) });
    }
    let mut done = Pair::at(Stage::Done);
    let last = done.last_of_client.clone();
    costs.push(Cost { name: "the end of a handshake, repeated", typical, worst: done.cost(|_| last.clone()) });
    costs
}
