//! The model's peers that come back: by tokens as clients do, with what they received counted, and every text exactly once
//! and in order.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use weirgate::base::limits::AWAY_TOLD_AFTER;
use weirgate::base::time::Instant;
use weirgate::signal::{Output, ResumeError};

use super::{CLIENTS, Model, STAYS, Session, Way, text};
use crate::choices::Choices;

/// A session's tokens and counts, from its first token on.
#[derive(Default)]
pub(super) struct Returns {
    token: Option<String>,
    /// The one that opened its socket, as long as nothing was said there.
    unconfirmed: Option<String>,
    spent: Vec<String>,
    /// All that it was told, whether or not that arrived.
    log: Vec<Value>,
    /// Before this nothing is kept.
    kept_from: usize,
    said: u64,
    /// When others are told that it is away, if they are not yet.
    told_at: Option<Instant>,
}

impl Returns {
    pub(super) fn heard(&mut self, message: &Value) {
        if self.token.is_some() && message["type"] != "resumed" {
            self.log.push(message.clone());
        }
    }

    pub(super) fn said(&mut self) {
        if self.token.is_some() {
            self.said += 1;
            self.spent.extend(self.unconfirmed.take());
        }
    }

    /// Its next socket does not count.
    pub(super) fn lose_all(&mut self) {
        self.kept_from = self.log.len();
    }
}

/// What a session knows of who is away.
#[derive(Default)]
pub(super) struct Known {
    away: BTreeSet<usize>,
    /// It is told nothing of that, since it lost its socket.
    unaware: bool,
    /// When it is told again.
    late: Option<Instant>,
}

impl Model {
    /// Adds the user where a message has the peer's id alone.
    pub(super) fn named(&mut self, message: &mut Value) {
        if matches!(message["type"].as_str(), Some("peer-away" | "peer-back")) {
            let id = text(&message["data"]["id"]);
            let of = self.sessions.iter().find(|session| session.external.as_ref() == Some(&id));
            message["data"]["user"] = json!(of.expect("it is a peer").user);
        }
    }

    /// With `subscribe`, of whose reply nothing else is looked at here.
    pub(super) fn ask_for_token(&mut self, me: usize) {
        if self.sessions[me].returns.token.is_some() {
            return;
        }
        let Some(data) = self.ask(me, "get-rtp-capabilities", json!({ "resume": true }), "rtp-capabilities") else {
            return;
        };
        assert!(data.get("resume").is_none(), "it stands beside the data");
        let tag = self.tag;
        let (_, reply) =
            self.said.iter().find(|(at, said)| *at == me && said["requestId"] == tag).expect("it is there");
        if !matches!(self.sessions[me].way, Way::Socket(_)) {
            return assert_eq!(reply["resume"], Value::Null, "it has no socket to lose");
        }
        let (token, reply) = (text(&reply["resume"]), reply.clone());
        let returns = &mut self.sessions[me].returns;
        (returns.token, returns.said, returns.log) = (Some(token), 1, vec![reply]);
    }

    pub(super) fn goes_away(&mut self, me: usize) {
        self.sessions[me].way = Way::Away(self.now + STAYS);
        self.sessions[me].returns.told_at = Some(self.now + AWAY_TOLD_AFTER);
        (self.sessions[me].presence.unaware, self.sessions[me].presence.late) = (true, None);
    }

    pub(super) fn breaks(&mut self, me: usize) {
        let Way::Socket(id) = self.sessions[me].way else { return };
        self.hub.broken(self.now, id, "lost");
        match self.sessions[me].returns.token {
            Some(_) => self.goes_away(me),
            None => self.left(me),
        }
    }

    /// It has a socket again, which gets what it missed.
    pub(super) fn is_back(&mut self, me: usize) {
        let missed = std::mem::take(&mut self.sessions[me].missed);
        self.due.extend(missed.into_iter().map(|what| (me, what)));
        let told = self.was_told(me);
        self.sessions[me].returns.told_at = None;
        if self.sessions[me].presence.unaware {
            self.sessions[me].presence.late = Some(self.now + AWAY_TOLD_AFTER);
        }
        if told {
            self.tell_presence(me);
        }
    }

    /// Those with a socket are told at once. Who lost it is told when it is back for a while.
    fn tell_presence(&mut self, of: usize) {
        for at in 0..self.sessions.len() {
            let session = &self.sessions[at];
            let told = matches!(session.way, Way::Socket(_)) && !session.presence.unaware;
            if told && at != of && session.channel == self.sessions[of].channel {
                self.learns(at, of);
            }
        }
    }

    /// The session is told whether that one is away, unless it knows.
    fn learns(&mut self, at: usize, of: usize) {
        let (away, known) = (self.was_told(of), &mut self.sessions[at].presence.away);
        let news = if away { known.insert(of) } else { known.remove(&of) };
        if news {
            let kind = if away { "peer-away" } else { "peer-back" };
            self.tell_one(at, format!("{kind} {}", self.sessions[of].user));
        }
    }

    fn learns_of_all(&mut self, at: usize) {
        for of in 0..self.sessions.len() {
            let Session { open, waits, channel, ref rights, .. } = self.sessions[of];
            if open && !waits && !rights.hidden && of != at && channel == self.sessions[at].channel {
                self.learns(at, of);
            }
        }
    }

    /// A list says who is away.
    pub(super) fn is_listed(&mut self, me: usize, peers: &Value) {
        for peer in peers.as_array().expect("a list") {
            let of = self.sessions.iter().position(|other| other.user == peer["user"]).expect("it is somebody");
            let away = peer.get("away").is_some();
            assert_eq!(away, self.was_told(of), "{peer}");
            let known = &mut self.sessions[me].presence.away;
            _ = if away { known.insert(of) } else { known.remove(&of) };
        }
    }

    fn was_told(&self, me: usize) -> bool {
        self.sessions[me].returns.told_at == Some(Instant::ZERO)
    }

    /// By a socket with a token, whether the old one is broken or not.
    pub(super) fn resume(&mut self, me: usize, choices: &mut Choices<'_>) {
        let Some(next) = self.sessions[me].returns.token.clone() else { return };
        let returns = &self.sessions[me].returns;
        let token = returns.unconfirmed.clone().filter(|_| choices.yes()).unwrap_or(next);
        let counts = choices.of(4) > 0;
        let received = returns.kept_from + choices.of(returns.log.len() - returns.kept_from + 1);
        let again: Vec<Value> = returns.log[received..].to_vec();
        let was_away = matches!(self.sessions[me].way, Way::Away(_));
        let back = self.hub.resume(self.now, CLIENTS, &token, counts.then_some(received as u64));
        let id = match back {
            Ok(id) => id,
            Err(ResumeError::RateLimited(_)) if self.sessions[me].flooded => return,
            // It came back too often.
            Err(ResumeError::NotKept) if self.sessions[me].flooded => {
                if was_away {
                    self.left(me);
                }
                return;
            }
            Err(refused) => panic!("{refused:?}"),
        };
        assert!(self.sockets.insert(id), "{id:?} is given twice");
        if let Way::Socket(old) = std::mem::replace(&mut self.sessions[me].way, Way::Socket(id)) {
            self.replaced.insert(old);
        }
        let mut first: Vec<Value> = Vec::new();
        let expected = 1 + if counts { again.len() } else { 0 };
        while first.len() < expected {
            match self.hub.poll_output().expect("it is answered") {
                Output::Send { session, text, .. } if session == id => {
                    let mut message = serde_json::from_str(&text.to_string()).expect("the hub speaks JSON");
                    self.named(&mut message);
                    first.push(message);
                }
                Output::Disconnect { session, .. } => assert!(self.replaced.remove(&session), "{session:?}"),
                other => panic!("{other:?}"),
            }
        }
        let resumed = first.remove(0);
        assert_eq!(
            (&resumed["type"], &resumed["data"]["received"]),
            (&json!("resumed"), &json!(self.sessions[me].returns.said))
        );
        if counts {
            assert_eq!(first, again, "what it had not received, in order");
        }
        let returns = &mut self.sessions[me].returns;
        returns.kept_from = if counts { received } else { returns.log.len() };
        let used = returns.token.replace(text(&resumed["data"]["resume"]));
        if Some(&token) == used.as_ref() {
            returns.spent.extend(returns.unconfirmed.replace(token));
        }
        self.is_back(me);
    }

    /// A ping that says what was received.
    pub(super) fn acknowledge(&mut self, me: usize, choices: &mut Choices<'_>) {
        let returns = &self.sessions[me].returns;
        if returns.token.is_none() || !matches!(self.sessions[me].way, Way::Socket(_)) {
            return;
        }
        let (kept_from, told) = (returns.kept_from, returns.log.len());
        let received = kept_from + choices.of(told - kept_from + 3);
        let expected = if received > told { "bad-field" } else { "pong" };
        if self.ask(me, "ping", json!({ "received": received }), expected).is_some() {
            self.sessions[me].returns.kept_from = received;
        }
    }

    /// A token that is used, or nobody's.
    pub(super) fn forge(&mut self, choices: &mut Choices<'_>) {
        let Some(of) = choices.one(self.sessions.len()) else { return };
        let Session { returns, flooded, open, .. } = &self.sessions[of];
        let (expected, token) = match returns.spent.last() {
            Some(_) if *flooded => return,
            Some(token) if *open => (ResumeError::Unauthorized, token.clone()),
            Some(token) => (ResumeError::Gone, token.clone()),
            None => (ResumeError::Unauthorized, "0".repeat(choices.of(100))),
        };
        let received = choices.yes().then_some(u64::MAX);
        assert_eq!(self.hub.resume(self.now, CLIENTS, &token, received), Err(expected));
    }

    /// Tells of those that are away for long enough, and lets go of those that stayed away, in the order of their times.
    pub(super) fn wait_for_the_away(&mut self) {
        let due = |session: &Session| {
            let Way::Away(until) = session.way else {
                return session.presence.late.filter(|_| session.open).map(|at| (at, session.peer));
            };
            let told_at = session.returns.told_at.filter(|at| *at > Instant::ZERO && *at < until);
            session.open.then(|| (told_at.unwrap_or(until), session.peer))
        };
        loop {
            let first = (0..self.sessions.len()).filter_map(|at| Some((due(&self.sessions[at])?, at))).min();
            let Some(((when, _), at)) = first.filter(|((when, _), _)| *when <= self.now) else { return };
            if self.sessions[at].presence.late.take().is_some() {
                self.sessions[at].presence.unaware = false;
                self.learns_of_all(at);
            } else if Way::Away(when) == self.sessions[at].way {
                self.left(at);
            } else if self.sessions[at].waits || self.sessions[at].rights.hidden {
                self.sessions[at].returns.told_at = None;
            } else {
                self.sessions[at].returns.told_at = Some(Instant::ZERO);
                self.tell_presence(at);
            }
        }
    }
}
