//! Everybody's connection breaks at once, as when a proxy restarts: nobody ends before its time, what each is told adds up,
//! and no turn is long.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use weirgate::base::limits::{AWAY_TOLD_AFTER, PARTINGS_PER_TURN_MAX, TOLD_PER_TURN_MAX};
use weirgate::base::time::{Duration, Instant};
use weirgate::signal::{Entrance, Hub, HubSettings, Output, ReturnSettings, SessionId};

use crate::cpu::thread_cpu;
use crate::world::{CLIENTS, settings};

const GRACE: Duration = Duration::from_secs(15);
const SUBSCRIBED: &str = r#"{"type":"subscribed","data":{"peerId":""#;

/// A client that counts, and believes what it is told.
#[derive(Default)]
struct Client {
    session: Option<SessionId>,
    external: String,
    token: String,
    received: u64,
    away: BTreeSet<String>,
    gone: BTreeSet<String>,
    /// By type, without replies.
    told: BTreeMap<String, usize>,
}

impl Client {
    fn hears(&mut self, text: &Value) {
        let (kind, data) = (text["type"].as_str().expect("each has a type"), &text["data"]);
        let id = || data["id"].as_str().expect("it is about a peer").to_owned();
        match kind {
            "resumed" => return self.token = data["resume"].as_str().expect("the next").to_owned(),
            "peer-away" => assert!(self.away.insert(id()) && !self.gone.contains(&id()), "{text} twice"),
            "peer-back" => assert!(self.away.remove(&id()) && !self.gone.contains(&id()), "{text} without the other"),
            "peer-left" => {
                self.away.remove(&id());
                assert!(self.gone.insert(id()), "{text} twice");
            }
            "rtp-capabilities" => self.token = text["resume"].as_str().expect("it was asked for").to_owned(),
            "pong" => {}
            _ => panic!("{text}"),
        }
        self.received += 1;
        if !matches!(kind, "rtp-capabilities" | "pong") {
            *self.told.entry(kind.to_owned()).or_default() += 1;
        }
    }

    fn was_told(&self, kind: &str) -> usize {
        self.told.get(kind).copied().unwrap_or_default()
    }
}

struct Crowd {
    hub: Hub,
    now: Instant,
    clients: Vec<Client>,
    of: BTreeMap<SessionId, usize>,
    /// The most texts that one turn had for the others.
    longest: usize,
    /// The most time of one turn.
    slowest: std::time::Duration,
}

impl Crowd {
    /// The first has no token: its connection does not break.
    fn new(peers: usize) -> Crowd {
        let returns = ReturnSettings { key: [5; 32], grace: GRACE, ..Default::default() };
        let hub = Hub::new(HubSettings { returns, ..settings(1) });
        let mut crowd = Crowd {
            hub,
            now: Instant::ZERO,
            clients: Vec::new(),
            of: BTreeMap::new(),
            longest: 0,
            slowest: Default::default(),
        };
        for n in 0..=peers {
            let entrance = Entrance::named(&format!("user {n}"), "room");
            let session = crowd.hub.open(crowd.now, CLIENTS, &entrance).expect("there is room");
            crowd.clients.push(Client { session: Some(session), ..Client::default() });
            crowd.of.insert(session, n);
        }
        for n in 0..=peers {
            if n > 0 {
                crowd.says(n, "get-rtp-capabilities", json!({ "resume": true }));
            }
            crowd.says(n, "subscribe", Value::Null);
        }
        crowd
    }

    fn drain(&mut self) -> usize {
        let mut texts = 0;
        while let Some(output) = self.hub.poll_output() {
            match output {
                Output::Send { session, text, .. } => {
                    texts += 1;
                    let client = &mut self.clients[self.of[&session]];
                    assert_eq!(client.session, Some(session), "an old socket is told nothing");
                    match text.pieces().next().and_then(|first| first.strip_prefix(SUBSCRIBED)) {
                        // The rest is a long list.
                        Some(rest) => {
                            (client.external, client.received) = (rest[..36].to_owned(), client.received + 1);
                        }
                        None => client.hears(&serde_json::from_str(&text.to_string()).expect("the hub speaks JSON")),
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        texts
    }

    fn says(&mut self, n: usize, kind: &str, data: Value) {
        let session = self.clients[n].session.expect("it has a socket");
        self.hub.handle_text(self.now, session, &json!({ "type": kind, "data": data }).to_string());
        self.drain();
    }

    fn later(&mut self, time: Duration) {
        self.now = self.now + time;
        while self.hub.poll_timeout().is_some_and(|due| due <= self.now) {
            let before = thread_cpu();
            self.hub.handle_timeout(self.now);
            self.slowest = (thread_cpu() - before).max(self.slowest);
            self.longest = self.drain().max(self.longest);
        }
    }

    /// Those with a socket say what they have received.
    fn all_ping(&mut self) {
        for n in 1..self.clients.len() {
            if self.clients[n].session.is_some() {
                self.says(n, "ping", json!({ "received": self.clients[n].received }));
            }
        }
    }

    fn all_break(&mut self) {
        for client in &mut self.clients[1..] {
            self.hub.broken(self.now, client.session.take().expect("it has a socket"), "lost");
        }
        assert_eq!((self.drain(), self.hub.counts().away), (0, self.clients.len() - 1));
    }

    fn returns(&mut self, n: usize) {
        let client = &self.clients[n];
        let session = self.hub.resume(self.now, CLIENTS, &client.token, Some(client.received)).expect("it is there");
        self.clients[n].session = Some(session);
        self.of.insert(session, n);
        self.drain();
    }

    fn peers(&self) -> usize {
        self.hub.counts().peers
    }

    /// Nobody believes that somebody is away who is not, or the reverse.
    fn all_know(&self, away: &BTreeSet<String>) {
        for (n, client) in self.clients.iter().enumerate().filter(|(_, client)| client.session.is_some()) {
            let others: BTreeSet<_> = away.iter().filter(|id| **id != client.external).cloned().collect();
            assert!(client.away == others, "client {n}: {} of {}", client.away.len(), others.len());
        }
    }
}

#[test]
fn a_thousand_break_together_and_nobody_ends_before_its_time() {
    const PEERS: usize = 1_000;
    let mut crowd = Crowd::new(PEERS);
    crowd.all_ping();
    crowd.all_break();
    crowd.later(Duration::from_secs(4));
    assert_eq!((crowd.peers(), crowd.clients[0].was_told("peer-away")), (PEERS + 1, PEERS));
    crowd.later(Duration::from_secs(1));
    (1..=PEERS / 2).for_each(|n| crowd.returns(n));
    let stay_away: BTreeSet<String> = crowd.clients[1 + PEERS / 2..].iter().map(|one| one.external.clone()).collect();
    assert_eq!((crowd.clients[0].away == stay_away, crowd.clients[0].was_told("peer-back")), (true, PEERS / 2));
    crowd.later(AWAY_TOLD_AFTER);
    crowd.all_know(&stay_away);
    crowd.all_ping();
    crowd.later(Duration::from_millis(7_999));
    assert_eq!(crowd.peers(), PEERS + 1, "each has its whole grace");
    crowd.later(Duration::from_millis(1));
    assert_eq!((crowd.peers(), crowd.hub.counts().away), (PEERS / 2 + 1, 0));
    for client in &crowd.clients[1..=PEERS / 2] {
        let told = ["peer-away", "peer-back", "peer-left"].map(|kind| client.was_told(kind));
        assert_eq!((told, &client.gone), ([PEERS / 2, 0, PEERS / 2], &stay_away));
    }
    crowd.all_know(&BTreeSet::new());
    println!("the longest turn: {} texts, {:?}", crowd.longest, crowd.slowest);
    assert!(crowd.longest <= TOLD_PER_TURN_MAX + PEERS, "{} texts in one turn", crowd.longest);
}

#[test]
fn who_all_come_back_within_two_seconds_of_each_other_hear_nothing_of_it() {
    const PEERS: usize = 1_000;
    let mut crowd = Crowd::new(PEERS);
    crowd.all_break();
    crowd.later(Duration::from_secs(5));
    for n in 1..=PEERS {
        crowd.later(Duration::from_millis(1));
        crowd.returns(n);
    }
    crowd.later(Duration::from_secs(60));
    assert_eq!((crowd.peers(), crowd.clients[1..].iter().filter(|client| !client.told.is_empty()).count()), (1_001, 0));
    let watcher = &crowd.clients[0];
    assert_eq!((watcher.was_told("peer-away"), watcher.was_told("peer-back"), watcher.away.len()), (PEERS, PEERS, 0));
}

#[test]
fn who_come_back_one_after_the_other_are_told_what_adds_up() {
    const PEERS: usize = 300;
    let mut crowd = Crowd::new(PEERS);
    for round in 0..3 {
        crowd.all_break();
        crowd.later(Duration::from_secs(2));
        for n in 1..=PEERS {
            crowd.later(Duration::from_millis(20 + round));
            crowd.returns(n);
        }
        crowd.later(AWAY_TOLD_AFTER);
        crowd.all_know(&BTreeSet::new());
    }
    assert_eq!(crowd.peers(), PEERS + 1);
    for client in &crowd.clients {
        assert_eq!(client.was_told("peer-away"), client.was_told("peer-back"));
    }
    assert!(crowd.clients[1].was_told("peer-away") > PEERS / 2, "{:?}", crowd.clients[1].told);
}

#[test]
fn who_leave_together_when_their_time_is_over_keep_nothing_for_each_other() {
    const PEERS: usize = 1_500;
    let mut crowd = Crowd::new(PEERS);
    // Elsewhere, away for as long.
    let entrance = Entrance::named("anna", "another room");
    let [anna, berta] = [(); 2].map(|()| crowd.hub.open(crowd.now, CLIENTS, &entrance).expect("there is room"));
    for request in [r#"{"type":"subscribe"}"#, r#"{"type":"get-rtp-capabilities","data":{"resume":true}}"#] {
        crowd.hub.handle_text(crowd.now, anna, request);
    }
    let mut token = Value::Null;
    while let Some(Output::Send { text, .. }) = crowd.hub.poll_output() {
        token = serde_json::from_str::<Value>(&text.to_string()).expect("the hub speaks JSON")["resume"].clone();
    }
    crowd.all_ping();
    crowd.all_break();
    crowd.now = crowd.now + Duration::from_millis(1);
    crowd.hub.broken(crowd.now, anna, "lost");
    let message = json!({ "type": "send-message", "data": { "data": "x".repeat(2_000) } }).to_string();
    for _ in 0..200 {
        crowd.now = crowd.now + Duration::from_millis(40);
        crowd.hub.handle_text(crowd.now, berta, &message);
        while crowd.hub.poll_output().is_some() {}
    }
    while crowd.peers() > 3 {
        let before = crowd.peers();
        crowd.now = crowd.now.max(crowd.hub.poll_timeout().expect("they end some day"));
        crowd.hub.handle_timeout(crowd.now);
        crowd.drain();
        assert!(before - crowd.peers() <= PARTINGS_PER_TURN_MAX, "a few a turn");
    }
    let token = token.as_str().expect("it was asked for");
    crowd.hub.resume(crowd.now, CLIENTS, token, None).expect("their news displaces nobody else");
}
