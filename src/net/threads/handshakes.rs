//! DTLS handshakes on threads of their own: a step of one takes as long as hundreds of packets, and media must not wait
//! for it. A few threads own the DTLS library; a shard's sessions hand them received datagrams, and get back datagrams,
//! keys or the end. Once a handshake is done its session lives on the shard alone. A thread may use any core and yields
//! to the shards: on a full machine handshakes take longer, and media does not wait.

#![expect(unsafe_code, reason = "setpriority(2)")]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap;

use crate::base::id::ShardId;
use crate::base::limits::{HANDSHAKE_DATAGRAMS_WAITING_MAX, HANDSHAKE_MAX, HANDSHAKE_REPORTS_WAITING_MAX};
use crate::base::time::Instant;
use crate::net::clock::Clock;
use crate::net::doorbell::Doorbell;
use crate::net::threads::guard::message;
use crate::secure::SecureDrop;
use crate::secure::certificate::Identity;
use crate::secure::dtls::{
    ClosedBy, DtlsEngine, DtlsSession, DtlsSettings, Keying, SecureEngine, SecureOutput, SecureSession, SessionTag,
    Settled, Side,
};

/// Shards per thread. One thread does about a thousand handshakes a second.
const SHARDS_PER_THREAD: usize = 4;

/// The priority: below every thread of this process, so that a shard that wakes takes the core at once.
const NICE: libc::c_int = 10;

/// The running threads. They end when the last clone and the last engine are gone.
#[derive(Clone)]
pub struct Handshakes {
    threads: Arc<[Sender<Job>]>,
    /// Numbers of sessions, in the whole process.
    next: Arc<AtomicU64>,
}

struct Job {
    session: u64,
    answers: Arc<HandshakeAnswers>,
    what: What,
}

enum What {
    Open(Side),
    Datagram(Box<[u8]>),
    /// The session is no longer wanted.
    Forget,
}

/// A thread's answer about a session.
enum Said {
    Transmit(Vec<u8>),
    Established(Box<Keying>, Box<Settled>),
    Closed(ClosedBy),
    Dropped(SecureDrop),
}

/// The answers of the threads of handshakes to one shard.
struct HandshakeAnswers {
    said: Mutex<Vec<(u64, Said)>>,
    /// An answer is there: read without the lock.
    any: AtomicBool,
    /// Datagrams of the shard that no thread has looked at yet.
    waiting: AtomicUsize,
    bell: Doorbell,
}

impl HandshakeAnswers {
    fn locked(&self) -> MutexGuard<'_, Vec<(u64, Said)>> {
        // A panic while it is held leaves nothing half done.
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, session: u64, what: Said) {
        self.say_all(session, [what]);
    }

    /// All answers at once: a shard that sees the last flight sees the keys, too, before it sends anything. The peer
    /// answers that flight with media.
    fn say_all(&self, session: u64, all: impl IntoIterator<Item = Said>) {
        let mut said = self.locked();
        for what in all {
            // A datagram that a shard does not fetch in time is lost, as on any link.
            if said.len() < HANDSHAKE_REPORTS_WAITING_MAX || !matches!(what, Said::Transmit(_) | Said::Dropped(_)) {
                said.push((session, what));
            }
        }
        drop(said);
        self.any.store(true, Ordering::Release);
        self.bell.ring();
    }
}

impl Handshakes {
    pub fn start(identity: &Identity, settings: DtlsSettings, shards: usize) -> io::Result<Handshakes> {
        let start = |number: usize| {
            let (sender, jobs) = channel();
            let (ready, started) = channel();
            let identity = identity.clone();
            std::thread::Builder::new().name(format!("handshakes-{number}")).spawn(move || {
                let engine = DtlsEngine::new(identity, settings, crate::net::clock::Clock::process().start());
                let outcome = engine.map(|engine| (ready.send(Ok(())), engine));
                match outcome {
                    Ok((_, engine)) => Worker { engine, jobs, seats: FxHashMap::default() }.run(),
                    Err(error) => drop(ready.send(Err(error))),
                }
            })?;
            started.recv().unwrap_or_else(|_| Err(io::Error::other("the thread ended at once")))?;
            Ok(sender)
        };
        let threads = (0..shards.div_ceil(SHARDS_PER_THREAD)).map(start).collect::<io::Result<Vec<_>>>()?;
        Ok(Handshakes { threads: threads.into(), next: Arc::default() })
    }

    /// The engine of this shard; `bell` wakes it for answers.
    pub fn engine(&self, shard: ShardId, bell: Doorbell) -> OffloadedEngine {
        let jobs = self.threads[usize::from(shard.0) % self.threads.len()].clone();
        let answers = HandshakeAnswers {
            said: Mutex::default(),
            any: AtomicBool::default(),
            waiting: AtomicUsize::default(),
            bell,
        };
        let exchange = Exchange { jobs, answers: Arc::new(answers), unread: RefCell::default() };
        let (ready, dropped) = (VecDeque::new(), VecDeque::new());
        OffloadedEngine { exchange: Rc::new(exchange), next: Arc::clone(&self.next), ready, dropped }
    }
}

/// A [`SecureEngine`] whose handshakes run on a thread of handshakes.
pub struct OffloadedEngine {
    exchange: Rc<Exchange>,
    next: Arc<AtomicU64>,
    ready: VecDeque<SessionTag>,
    dropped: VecDeque<SecureDrop>,
}

/// The state that a shard's engine shares with its sessions.
struct Exchange {
    jobs: Sender<Job>,
    answers: Arc<HandshakeAnswers>,
    /// The sessions whose handshake is not done.
    unread: RefCell<FxHashMap<u64, (SessionTag, VecDeque<Said>)>>,
}

impl Exchange {
    fn send(&self, session: u64, what: What) {
        // The threads end only after the shards.
        let _ = self.jobs.send(Job { session, answers: Arc::clone(&self.answers), what });
    }
}

impl SecureEngine for OffloadedEngine {
    fn open(&mut self, _: Instant, side: Side, tag: SessionTag) -> Box<dyn SecureSession> {
        let session = self.next.fetch_add(1, Ordering::Relaxed);
        self.exchange.unread.borrow_mut().insert(session, (tag, VecDeque::new()));
        self.exchange.send(session, What::Open(side));
        Box::new(OffloadedSession::Away(Away { exchange: Rc::clone(&self.exchange), session }))
    }

    fn pump(&mut self, _: Instant) {
        self.exchange.answers.any.store(false, Ordering::Relaxed);
        let said = std::mem::take(&mut *self.exchange.answers.locked());
        let mut unread = self.exchange.unread.borrow_mut();
        for (session, said) in said {
            if let Said::Dropped(why) = said {
                self.dropped.push_back(why);
            } else if let Some((tag, answers)) = unread.get_mut(&session) {
                answers.push_back(said);
                self.ready.push_back(*tag);
            }
        }
    }

    fn ready(&mut self) -> Option<SessionTag> {
        self.ready.pop_front()
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.exchange.answers.any.load(Ordering::Acquire).then_some(Instant::ZERO)
    }

    fn dropped(&mut self) -> Option<SecureDrop> {
        self.dropped.pop_front()
    }

    fn waiting(&self) -> usize {
        self.exchange.answers.waiting.load(Ordering::Relaxed)
    }
}

enum OffloadedSession {
    Away(Away),
    Here(Box<Settled>),
    Over,
}

/// A session whose handshake runs on a thread, which forgets it when this is dropped.
struct Away {
    exchange: Rc<Exchange>,
    session: u64,
}

impl Drop for Away {
    fn drop(&mut self) {
        self.exchange.unread.borrow_mut().remove(&self.session);
        self.exchange.send(self.session, What::Forget);
    }
}

impl SecureSession for OffloadedSession {
    fn handle_datagram(&mut self, now: Instant, bytes: &[u8]) -> Result<(), SecureDrop> {
        match self {
            OffloadedSession::Away(Away { exchange, session }) => {
                // Only this shard adds: it cannot pass the bound.
                if exchange.answers.waiting.load(Ordering::Relaxed) >= HANDSHAKE_DATAGRAMS_WAITING_MAX {
                    return Err(SecureDrop::DtlsQueueFull);
                }
                exchange.answers.waiting.fetch_add(1, Ordering::Relaxed);
                exchange.send(*session, What::Datagram(bytes.into()));
                Ok(())
            }
            OffloadedSession::Here(settled) => settled.handle_datagram(now, bytes),
            OffloadedSession::Over => Err(SecureDrop::DtlsClosed),
        }
    }

    fn poll(&mut self) -> Option<SecureOutput> {
        let away = match self {
            OffloadedSession::Away(away) => away,
            OffloadedSession::Here(settled) => return settled.poll(),
            OffloadedSession::Over => return None,
        };
        let said = away.exchange.unread.borrow_mut().get_mut(&away.session)?.1.pop_front()?;
        match said {
            Said::Transmit(datagram) => Some(SecureOutput::Transmit(datagram)),
            Said::Established(keying, settled) => {
                *self = OffloadedSession::Here(settled);
                Some(SecureOutput::Established(keying))
            }
            Said::Closed(why) => {
                *self = OffloadedSession::Over;
                Some(SecureOutput::Closed(why))
            }
            Said::Dropped(_) => None,
        }
    }

    fn close(&mut self) {
        match self {
            OffloadedSession::Here(settled) => settled.close(),
            OffloadedSession::Away(_) | OffloadedSession::Over => *self = OffloadedSession::Over,
        }
    }

    fn send(&mut self, data: &[u8]) -> bool {
        match self {
            OffloadedSession::Here(settled) => settled.send(data),
            OffloadedSession::Away(_) | OffloadedSession::Over => false,
        }
    }

    fn accept_application(&mut self) {
        if let OffloadedSession::Here(settled) = self {
            settled.accept_application();
        }
    }
}

/// One thread: the library, and a seat for each handshake that is not done.
struct Worker {
    engine: DtlsEngine,
    jobs: Receiver<Job>,
    seats: FxHashMap<u64, Seat>,
}

struct Seat {
    session: DtlsSession,
    answers: Arc<HandshakeAnswers>,
}

impl Worker {
    fn run(mut self) {
        // SAFETY: no pointers are passed; 0 is the calling thread. Refused, it runs as everybody does.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
        let clock = Clock::process();
        loop {
            let now = clock.mono();
            let due = self.engine.next_deadline();
            if due.is_some_and(|due| due <= now) {
                self.guarded(None, |worker| worker.tick(now));
            }
            let wait = self.engine.next_deadline().map_or(HANDSHAKE_MAX, |due| due.since(now));
            match self.jobs.recv_timeout(wait) {
                Ok(job) => {
                    let whose = (job.session, Arc::clone(&job.answers));
                    self.guarded(Some(whose), |worker| worker.handle(clock.mono(), job));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// A panic costs the handshake that it was in.
    fn guarded(&mut self, whose: Option<(u64, Arc<HandshakeAnswers>)>, work: impl FnOnce(&mut Worker)) {
        let Err(payload) = catch_unwind(AssertUnwindSafe(|| work(self))) else { return };
        tracing::error!(panic = message(&*payload), "a panic was caught in a handshake");
        if let Some((session, answers)) = whose {
            let seat = self.seats.remove(&session);
            // The state that a panic has left may panic once more.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(seat)));
            answers.say(session, Said::Closed(ClosedBy::HandshakeFailed("a panic was caught".to_owned())));
        }
    }

    fn tick(&mut self, now: Instant) {
        self.engine.pump(now);
        while let Some(SessionTag(session)) = self.engine.ready() {
            self.report(session);
        }
    }

    fn handle(&mut self, now: Instant, Job { session, answers, what }: Job) {
        match what {
            What::Open(side) => {
                let opened = self.engine.open_session(now, side, SessionTag(session));
                self.seats.insert(session, Seat { session: opened, answers });
            }
            What::Datagram(bytes) => {
                answers.waiting.fetch_sub(1, Ordering::Relaxed);
                let outcome = match self.seats.get_mut(&session) {
                    Some(seat) => seat.session.handle_datagram(now, &bytes),
                    None => Err(SecureDrop::DtlsClosed),
                };
                if let Err(why) = outcome {
                    answers.say(session, Said::Dropped(why));
                }
            }
            What::Forget => drop(self.seats.remove(&session)),
        }
        self.report(session);
    }

    /// Delivers the output of a session, which ends here when its handshake does.
    fn report(&mut self, session: u64) {
        let Some(seat) = self.seats.get_mut(&session) else { return };
        let mut established = None;
        let mut over = false;
        let mut all = Vec::new();
        while let Some(output) = seat.session.poll() {
            match output {
                SecureOutput::Transmit(datagram) => all.push(Said::Transmit(datagram)),
                SecureOutput::Established(keying) => established = Some(keying),
                // Only a session that is established here has any.
                SecureOutput::Application(_) => {}
                SecureOutput::Closed(why) => {
                    over = true;
                    all.push(Said::Closed(why));
                }
            }
        }
        let answers = Arc::clone(&seat.answers);
        if (over || established.is_some())
            && let Some(Seat { session: done, .. }) = self.seats.remove(&session)
            && let (Some(keying), Some(settled)) = (established, done.settle())
        {
            all.push(Said::Established(keying, settled));
        }
        if !all.is_empty() {
            answers.say_all(session, all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Duration;

    struct Ends {
        engine: OffloadedEngine,
        session: Box<dyn SecureSession>,
        client_engine: DtlsEngine,
        client: Box<dyn SecureSession>,
        keys: [Option<Keying>; 2],
        closed: [Option<ClosedBy>; 2],
    }

    fn threads() -> Handshakes {
        Handshakes::start(&Identity::generate().unwrap(), DtlsSettings::default(), 1).unwrap()
    }

    impl Ends {
        fn new(threads: &Handshakes) -> Ends {
            let mut engine = threads.engine(ShardId(0), Doorbell::new().unwrap());
            let mut client_engine = DtlsEngine::new(
                Identity::generate().unwrap(),
                DtlsSettings::default(),
                crate::net::clock::Clock::process().start(),
            )
            .unwrap();
            let now = Clock::process().mono();
            let session = engine.open(now, Side::Server, SessionTag(7));
            let client = client_engine.open(now, Side::Client, SessionTag(8));
            Ends { engine, session, client_engine, client, keys: [None, None], closed: [None, None] }
        }

        /// Both ends in turn until `done`.
        fn run(&mut self, done: impl Fn(&Ends) -> bool) {
            while !done(self) {
                let now = Clock::process().mono();
                self.client_engine.pump(now);
                let mut to_server = Vec::new();
                take(&mut self.client, &mut to_server, &mut self.keys[1], &mut self.closed[1]);
                for datagram in to_server {
                    let _ = self.session.handle_datagram(now, &datagram);
                }
                let mut to_client = Vec::new();
                if self.engine.next_deadline().is_some() {
                    self.engine.pump(now);
                    while let Some(tag) = self.engine.ready() {
                        assert_eq!(tag, SessionTag(7));
                    }
                }
                take(&mut self.session, &mut to_client, &mut self.keys[0], &mut self.closed[0]);
                for datagram in to_client {
                    let _ = self.client.handle_datagram(now, &datagram);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    fn take(
        session: &mut Box<dyn SecureSession>,
        sent: &mut Vec<Vec<u8>>,
        keys: &mut Option<Keying>,
        closed: &mut Option<ClosedBy>,
    ) {
        while let Some(output) = session.poll() {
            match output {
                SecureOutput::Transmit(datagram) => sent.push(datagram),
                SecureOutput::Established(keying) => *keys = Some(*keying),
                SecureOutput::Application(data) => panic!("{data:?}"),
                SecureOutput::Closed(why) => *closed = Some(why),
            }
        }
    }

    #[test]
    fn a_handshake_elsewhere_gives_keys_here_and_a_session_that_hears_the_close() {
        let threads = threads();
        let mut ends = Ends::new(&threads);
        ends.run(|ends| ends.keys.iter().all(Option::is_some));
        let [Some(server), Some(client)] = &ends.keys else { panic!("no keys") };
        assert_eq!((&server.local, &server.remote), (&client.remote, &client.local));
        assert!(ends.engine.exchange.unread.borrow().is_empty(), "the session is here alone");
        assert_eq!(ends.engine.waiting(), 0);
        ends.client.close();
        ends.run(|ends| ends.closed[0].is_some());
        assert_eq!(ends.closed[0], Some(ClosedBy::Peer));
    }

    /// The peer sends media as soon as it has our last flight: with its first record under keys, ours are there.
    #[test]
    fn the_keys_come_with_the_last_flight_and_not_after_it() {
        let threads = threads();
        for _ in 0..20 {
            let mut ends = Ends::new(&threads);
            let mut last_flight = false;
            while ends.keys[0].is_none() {
                let now = Clock::process().mono();
                ends.client_engine.pump(now);
                let mut to_server = Vec::new();
                take(&mut ends.client, &mut to_server, &mut ends.keys[1], &mut ends.closed[1]);
                for datagram in to_server {
                    let _ = ends.session.handle_datagram(now, &datagram);
                }
                if ends.engine.next_deadline().is_some() {
                    ends.engine.pump(now);
                }
                let mut to_client = Vec::new();
                take(&mut ends.session, &mut to_client, &mut ends.keys[0], &mut ends.closed[0]);
                // Type, version, epoch: Finished follows ChangeCipherSpec in one datagram.
                last_flight |= to_client.iter().any(|datagram| datagram[0] == 20);
                assert_eq!(last_flight, ends.keys[0].is_some());
                for datagram in to_client {
                    let _ = ends.client.handle_datagram(now, &datagram);
                }
            }
            assert!(last_flight);
        }
    }

    #[test]
    fn what_is_dropped_elsewhere_is_told_here() {
        let threads = threads();
        let mut ends = Ends::new(&threads);
        let now = Clock::process().mono();
        ends.session.handle_datagram(now, &[22]).unwrap();
        while ends.engine.next_deadline().is_none() {
            std::thread::yield_now();
        }
        ends.engine.pump(now);
        assert_eq!(ends.engine.dropped(), Some(SecureDrop::DtlsMalformed));
        assert_eq!(ends.engine.dropped(), None);
    }

    /// Nobody works on the jobs here, so that they stay where they are.
    #[test]
    fn what_waits_is_bounded_and_a_forgotten_session_leaves_nothing() {
        let (sender, jobs) = channel();
        let threads = Handshakes { threads: Arc::new([sender]), next: Arc::default() };
        let mut engine = threads.engine(ShardId(3), Doorbell::new().unwrap());
        let mut session = engine.open(Instant::ZERO, Side::Server, SessionTag(1));
        for _ in 0..HANDSHAKE_DATAGRAMS_WAITING_MAX {
            assert_eq!(session.handle_datagram(Instant::ZERO, &[22]), Ok(()));
        }
        assert_eq!(session.handle_datagram(Instant::ZERO, &[22]), Err(SecureDrop::DtlsQueueFull));
        assert_eq!(engine.waiting(), HANDSHAKE_DATAGRAMS_WAITING_MAX);
        let answers = Arc::clone(&engine.exchange.answers);
        for _ in 0..HANDSHAKE_REPORTS_WAITING_MAX + 10 {
            answers.say(0, Said::Transmit(vec![1]));
        }
        answers.say(0, Said::Closed(ClosedBy::HandshakeTimeout));
        assert_eq!(answers.locked().len(), HANDSHAKE_REPORTS_WAITING_MAX + 1, "an end is never lost");
        drop(session);
        assert!(engine.exchange.unread.borrow().is_empty());
        engine.pump(Instant::ZERO);
        assert_eq!(engine.ready(), None, "what is said of it finds nobody");
        assert!(matches!(jobs.try_iter().last(), Some(Job { session: 0, what: What::Forget, .. })));
    }

    #[test]
    fn a_panic_costs_one_handshake() {
        let (_sender, jobs) = channel();
        let engine = DtlsEngine::new(
            Identity::generate().unwrap(),
            DtlsSettings::default(),
            crate::net::clock::Clock::process().start(),
        )
        .unwrap();
        let mut worker = Worker { engine, jobs, seats: FxHashMap::default() };
        let answers = HandshakeAnswers {
            said: Mutex::default(),
            any: AtomicBool::default(),
            waiting: AtomicUsize::default(),
            bell: Doorbell::new().unwrap(),
        };
        let answers = Arc::new(answers);
        for session in [1, 2] {
            worker
                .handle(Instant::ZERO, Job { session, answers: Arc::clone(&answers), what: What::Open(Side::Server) });
        }
        worker.guarded(Some((1, Arc::clone(&answers))), |_| panic!("asked to"));
        assert_eq!(worker.seats.keys().collect::<Vec<_>>(), [&2]);
        let said = answers.locked();
        assert!(matches!(&said[..], [(1, Said::Closed(ClosedBy::HandshakeFailed(_)))]));
    }
}
