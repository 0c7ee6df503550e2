//! A bus of several engines on virtual time: interest that spreads late, order for each publisher, loss, engines that
//! hang, die, come back and lose each other. Stands in for the engine and for the client that connects to it.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::base::time::{Duration, Instant};
use crate::signal::cluster::{BusEvent, BusOutput};

/// The time after which a client gives an engine up that does not answer, and until it tries again.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(800);
const RETRY: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EngineState {
    Running,
    /// Its connections stay open, and nothing comes of them.
    Hanging,
    Dead,
}

#[derive(Clone, Copy, Debug)]
pub struct FakeBusSettings {
    pub seed: u64,
    pub engines: usize,
    /// One way, up to so much.
    pub delay: Duration,
    /// How late interest is known at other engines, up to so much.
    pub interest_delay: Duration,
    /// The share of messages that come to nobody.
    pub loss: f64,
}

#[derive(Debug)]
enum Due {
    Event {
        to: usize,
        event: BusEvent,
    },
    /// The client tries to connect to this engine.
    Connect {
        client: usize,
        engine: usize,
    },
}

#[derive(Debug, Default)]
struct Client {
    /// None: it is not connected.
    engine: Option<usize>,
    /// Subjects, and from when on others than its own engine know of them.
    interest: BTreeMap<String, Instant>,
    /// Nothing sent to it comes earlier than what was sent before.
    last: Instant,
}

pub struct FakeBus {
    settings: FakeBusSettings,
    rng: SmallRng,
    engines: Vec<EngineState>,
    /// Engines that cannot reach the others.
    alone: BTreeSet<usize>,
    clients: BTreeMap<usize, Client>,
    queue: BTreeMap<(Instant, u64), Due>,
    queued: u64,
    /// Messages that came to somebody.
    pub delivered: u64,
}

fn fits(interest: &str, subject: &str) -> bool {
    match interest.strip_suffix('>') {
        Some(start) => subject.starts_with(start) && subject.len() > start.len(),
        None => interest == subject,
    }
}

impl FakeBus {
    pub fn new(settings: FakeBusSettings) -> FakeBus {
        FakeBus {
            rng: SmallRng::seed_from_u64(settings.seed),
            engines: vec![EngineState::Running; settings.engines],
            alone: BTreeSet::new(),
            clients: BTreeMap::new(),
            queue: BTreeMap::new(),
            queued: 0,
            delivered: 0,
            settings,
        }
    }

    /// A client comes, or a new one under the number of one that went.
    pub fn join(&mut self, now: Instant, client: usize) {
        self.clients.insert(client, Client::default());
        let engine = self.rng.random_range(0..self.engines.len());
        self.push(now, Due::Connect { client, engine });
    }

    /// A client goes without a word.
    pub fn leave(&mut self, client: usize) {
        self.clients.remove(&client);
    }

    /// What becomes of an engine. One that dies tells its clients so.
    pub fn set(&mut self, now: Instant, engine: usize, state: EngineState) {
        self.engines[engine] = state;
        if state != EngineState::Dead {
            return;
        }
        let there: Vec<usize> =
            self.clients.iter().filter(|(_, client)| client.engine == Some(engine)).map(|(id, _)| *id).collect();
        for client in there {
            self.disconnect(now, client);
        }
    }

    /// Engines lose sight of this one, or see it again.
    pub fn cut(&mut self, engine: usize, off: bool) {
        if off {
            self.alone.insert(engine);
        } else {
            self.alone.remove(&engine);
        }
    }

    /// Has this client connect to that engine.
    pub fn move_to(&mut self, now: Instant, client: usize, engine: usize) {
        self.disconnect(now, client);
        self.queue.retain(|_, due| !matches!(due, Due::Connect { client: of, .. } if *of == client));
        self.push(now, Due::Connect { client, engine });
    }

    pub fn engine_of(&self, client: usize) -> Option<usize> {
        self.clients.get(&client)?.engine
    }

    fn push(&mut self, at: Instant, due: Due) {
        self.queued += 1;
        self.queue.insert((at, self.queued), due);
    }

    fn disconnect(&mut self, now: Instant, client: usize) {
        let Some(known) = self.clients.get_mut(&client) else { return };
        if known.engine.take().is_some() {
            self.push(now, Due::Event { to: client, event: BusEvent::Disconnected });
            let engine = self.rng.random_range(0..self.engines.len());
            self.push(now + RETRY, Due::Connect { client, engine });
        }
    }

    fn send(&mut self, now: Instant, to: usize, event: BusEvent) {
        let most = self.settings.delay.as_micros() as u64;
        let delay = Duration::from_micros(self.rng.random_range(0..=most));
        let Some(client) = self.clients.get_mut(&to) else { return };
        let at = (now + delay).max(client.last);
        client.last = at;
        self.push(at, Due::Event { to, event });
    }

    fn runs(&self, engine: usize) -> bool {
        self.engines[engine] == EngineState::Running
    }

    fn reach(&self, one: usize, other: usize) -> bool {
        one == other || !(self.alone.contains(&one) || self.alone.contains(&other))
    }

    /// What a client wants of the bus.
    pub fn act(&mut self, now: Instant, client: usize, output: BusOutput) {
        match output {
            BusOutput::Subscribe { subject } => {
                let most = self.settings.interest_delay.as_micros() as u64;
                let known = now + Duration::from_micros(self.rng.random_range(0..=most));
                if let Some(client) = self.clients.get_mut(&client) {
                    client.interest.insert(subject, known);
                }
            }
            BusOutput::Unsubscribe { subject } => {
                if let Some(client) = self.clients.get_mut(&client) {
                    client.interest.remove(&subject);
                }
            }
            BusOutput::ForceReconnect => self.disconnect(now, client),
            BusOutput::Publish { subject, reply, payload } => self.publish(now, client, &subject, reply, &payload),
        }
    }

    fn publish(&mut self, now: Instant, from: usize, subject: &str, reply: Option<String>, payload: &[u8]) {
        let Some(at) = self.engine_of(from).filter(|engine| self.runs(*engine)) else { return };
        let hears = |(id, client): (&usize, &Client)| {
            let engine = client.engine.filter(|engine| self.runs(*engine) && self.reach(at, *engine))?;
            let known =
                |(interest, from): (&String, &Instant)| fits(interest, subject) && (engine == at || *from <= now);
            (*id != from && client.interest.iter().any(known)).then_some(*id)
        };
        let hearers: Vec<usize> = self.clients.iter().filter_map(hears).collect();
        if let (Some(inbox), true) = (&reply, hearers.is_empty()) {
            return self.send(now, from, BusEvent::Nobody { inbox: inbox.clone() });
        }
        for to in hearers {
            if self.rng.random_bool(self.settings.loss) {
                continue;
            }
            self.delivered += 1;
            let (subject, reply, payload) = (subject.to_owned(), reply.clone(), payload.to_vec());
            self.send(now, to, BusEvent::Message { subject, reply, payload });
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.queue.keys().next().map(|(at, _)| *at)
    }

    /// What comes to whom by now.
    pub fn poll(&mut self, now: Instant) -> Option<(usize, BusEvent)> {
        loop {
            let entry = self.queue.first_entry().filter(|entry| entry.key().0 <= now)?;
            let ((at, _), due) = entry.remove_entry();
            match due {
                Due::Event { to, event } => {
                    let engine = self.engine_of(to);
                    let passes = match event {
                        BusEvent::Disconnected => true,
                        _ => engine.is_some_and(|engine| self.runs(engine)),
                    };
                    if passes && self.clients.contains_key(&to) {
                        return Some((to, event));
                    }
                }
                Due::Connect { client, engine } => {
                    let next = (engine + 1) % self.engines.len();
                    let Some(known) = self.clients.get_mut(&client).filter(|client| client.engine.is_none()) else {
                        continue;
                    };
                    match self.engines[engine] {
                        EngineState::Running => {
                            known.engine = Some(engine);
                            known.last = at;
                            return Some((client, BusEvent::Connected { engine: engine.to_string() }));
                        }
                        EngineState::Hanging => self.push(at + CONNECT_TIMEOUT, Due::Connect { client, engine: next }),
                        EngineState::Dead => self.push(at + RETRY, Due::Connect { client, engine: next }),
                    }
                }
            }
        }
    }
}
