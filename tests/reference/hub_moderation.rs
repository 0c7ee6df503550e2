//! The part of the hub's reference model that moderators change: who may, who waits, who is muted, banned or renamed.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use weirgate::base::time::{Duration, Instant};
use weirgate::signal::{Act, Entrance, OpenError};

use super::{CHANNELS, Ending, Model, Rights, Way};
use crate::choices::Choices;

const BAN: u64 = 3;

/// What moderators have given and taken: publish, subscribe, moderate.
#[derive(Clone, Copy, Default)]
pub(super) struct Changed([Option<bool>; 3]);

impl Changed {
    pub(super) fn over(self, rights: Rights) -> Rights {
        let [publish, subscribe, moderate] = self.0;
        Rights {
            publish: publish.unwrap_or(rights.publish),
            subscribe: subscribe.unwrap_or(rights.subscribe),
            moderate: moderate.unwrap_or(rights.moderate),
            hidden: rights.hidden,
        }
    }
}

/// All producers of the model are audio without a source.
#[derive(Clone, Copy, Default)]
pub(super) struct Mutes {
    one: bool,
    all: bool,
}

impl Mutes {
    pub(super) fn hold(self) -> bool {
        self.one || self.all
    }
}

/// What moderators have set of a channel.
#[derive(Default)]
pub(super) struct Hall {
    pub(super) locked: bool,
    waiting: bool,
    peers_max: usize,
    bans: BTreeMap<String, Instant>,
}

impl Model {
    fn inside(&self, channel: usize) -> usize {
        self.sessions.iter().filter(|session| session.open && session.channel == channel && !session.waits).count()
    }

    pub(super) fn refuses(&self, channel: usize, entrance: &Entrance) -> Option<OpenError> {
        let hall = &self.halls[channel];
        if entrance.grants.moderate {
            return None;
        }
        match (hall.locked, hall.waiting) {
            (true, true) => None,
            (true, false) => Some(OpenError::Locked),
            (false, _) => self.is_full(channel).then_some(OpenError::ChannelFull),
        }
    }

    fn is_full(&self, channel: usize) -> bool {
        let max = self.halls[channel].peers_max;
        max > 0 && self.inside(channel) >= max
    }

    /// What was set ends with the last in the channel; bans do not.
    pub(super) fn hall_ended(&mut self, channel: usize) {
        if !self.sessions.iter().any(|session| session.open && session.channel == channel) {
            let bans = std::mem::take(&mut self.halls[channel].bans);
            self.halls[channel] = Hall { bans, ..Hall::default() };
        }
    }

    /// A rename that changes nothing is answered with the peer's own id; who waits is told it.
    pub(super) fn learn_its_id(&mut self, me: usize) {
        let id = if self.sessions[me].waits {
            self.drain();
            self.due.push((me, "waiting ".to_owned()));
            let told = self.said.iter().find(|(at, message)| *at == me && message["type"] == "waiting");
            told.map(|(_, message)| message["data"]["peerId"].clone())
        } else {
            self.ask(me, "rename", json!({}), "ok").map(|data| data["id"].clone())
        };
        let id = id.expect("it has an id").as_str().expect("a text").to_owned();
        assert!(self.ids.insert(id.clone()), "{id} was given before");
        self.sessions[me].external = Some(id);
    }

    /// The refusal that outweighs all others.
    pub(super) fn granted(&self, me: usize, kind: &str) -> Option<&'static str> {
        let session = &self.sessions[me];
        let denied = match kind {
            "ping" => false,
            _ if session.waits => true,
            "subscribe" | "get-producers" | "consume" => !session.rights.subscribe,
            "produce" => !session.rights.produces(),
            _ => false,
        };
        denied.then_some("forbidden")
    }

    pub(super) fn tell_moderators(&mut self, channel: usize, what: String) {
        for at in 0..self.sessions.len() {
            if self.sessions[at].channel == channel && self.sessions[at].rights.moderate {
                self.tell_one(at, what.clone());
            }
        }
    }

    /// What moderators do to it is told to an owner that does not subscribe, too.
    pub(super) fn tell_owner(&mut self, at: usize, what: String, why: &str) {
        match why {
            "stopped" | "forbidden" if self.sessions[at].open => self.owe(at, what),
            _ => self.tell_one(at, what),
        }
    }

    pub(super) fn operate(&mut self, choices: &mut Choices<'_>) {
        let channel = choices.of(CHANNELS.len());
        self.moderate(None, channel, choices);
    }

    pub(super) fn moderate(&mut self, actor: Option<usize>, channel: usize, choices: &mut Choices<'_>) {
        match choices.of(15) {
            0..=2 => self.mute_producer(actor, channel, choices),
            3 => self.stop_producer(actor, channel, choices),
            4 => self.mute_peer(actor, channel, choices),
            5 => self.remove(actor, channel, choices),
            6 => self.unban_and_come(actor, channel, choices),
            7 => self.set_channel(actor, channel, choices),
            8..=11 => self.let_in(actor, channel, choices),
            12 => self.set_grants(actor, channel, choices),
            13 => self.describe(actor, channel, choices),
            _ => self.send(actor, channel, choices),
        }
    }

    /// Whether it was done. `found`: what it is about is in the channel.
    fn done(&mut self, actor: Option<usize>, channel: usize, kind: &str, data: Value, found: bool) -> bool {
        let expected = match actor {
            Some(me) if !self.sessions[me].rights.moderate => "forbidden",
            _ if found => "ok",
            _ => "not-found",
        };
        self.done_as(actor, channel, kind, data, expected)
    }

    fn done_as(&mut self, actor: Option<usize>, channel: usize, kind: &str, data: Value, expected: &str) -> bool {
        if let Some(me) = actor {
            return self.ask(me, kind, data, expected).is_some();
        }
        let there = self.sessions.iter().any(|session| session.open && session.channel == channel);
        let expected = if there || kind == "unban" { expected } else { "not-found" };
        let act = Act::parse(kind, data).expect("it is well-formed");
        let done = self.hub.operate(self.now, CHANNELS[channel], act);
        self.drain();
        assert_eq!(done.as_ref().map_or_else(|refusal| refusal.code.name(), |_| "ok"), expected, "{kind}");
        done.is_ok()
    }

    fn mute_producer(&mut self, actor: Option<usize>, channel: usize, choices: &mut Choices<'_>) {
        let Some(at) = choices.one(self.producers.len()) else { return };
        let muted = choices.yes();
        let (owner, data) = (self.producers[at].session, json!({ "producerId": self.producers[at].external }));
        let found = self.producers[at].open && self.sessions[owner].channel == channel;
        if !self.done(actor, channel, if muted { "mute-producer" } else { "unmute-producer" }, data, found) {
            return;
        }
        self.set_pause(at, self.producers[at].paused, muted);
        let more = self.producers.iter().any(|other| other.open && other.session == owner && other.muted);
        let mutes = &mut self.sessions[owner].mutes;
        mutes.one = muted || mutes.one && more;
    }

    fn stop_producer(&mut self, actor: Option<usize>, channel: usize, choices: &mut Choices<'_>) {
        let Some(at) = choices.one(self.producers.len()) else { return };
        let data = json!({ "producerId": self.producers[at].external });
        let found = self.producers[at].open && self.sessions[self.producers[at].session].channel == channel;
        if self.done(actor, channel, "stop-producer", data, found) {
            self.end_producer(at, Ending::Told("stopped"));
        }
    }

    /// Any session that ever was and whose id is known; its id, and whether it is inside the channel.
    fn any_peer(&self, channel: usize, choices: &mut Choices<'_>) -> Option<(usize, Value, bool)> {
        let at = choices.one(self.sessions.len())?;
        let session = &self.sessions[at];
        let inside = session.open && session.channel == channel && !session.waits;
        Some((at, json!(session.external.clone()?), inside))
    }

    fn mute_peer(&mut self, actor: Option<usize>, channel: usize, choices: &mut Choices<'_>) {
        let Some((at, id, inside)) = self.any_peer(channel, choices) else { return };
        let muted = choices.yes();
        let kind = if muted { "mute-peer" } else { "unmute-peer" };
        if !self.done(actor, channel, kind, json!({ "peerId": id }), inside) {
            return;
        }
        let mutes = &mut self.sessions[at].mutes;
        *mutes = Mutes { one: mutes.one && muted, all: muted };
        for producer in 0..self.producers.len() {
            if self.producers[producer].open && self.producers[producer].session == at {
                self.set_pause(producer, self.producers[producer].paused, muted);
            }
        }
    }

    /// It goes, and is told so if it has a socket.
    fn goes(&mut self, at: usize, code: &'static str, reason: &str) {
        if let Way::Socket(_) = self.sessions[at].way {
            let told = self.put_out.iter().position(|put_out| *put_out == (at, code));
            self.put_out.remove(told.expect("it is told, and its socket closed"));
        }
        self.left_for(at, reason);
    }

    fn remove(&mut self, actor: Option<usize>, channel: usize, choices: &mut Choices<'_>) {
        let Some((at, id, inside)) = self.any_peer(channel, choices) else { return };
        let session = &self.sessions[at];
        let found = inside || session.open && session.channel == channel;
        let (bans, user) = (choices.yes(), session.user.clone());
        let mut data = json!({ "peerId": id });
        if bans {
            data["banSeconds"] = json!(BAN);
        }
        if !self.done(actor, channel, "remove-peer", data, found) {
            return;
        }
        let (code, until) = if bans { ("banned", BAN) } else { ("removed", 0) };
        if bans {
            self.halls[channel].bans.insert(user, self.now + Duration::from_secs(until));
        }
        self.goes(at, code, code);
    }

    /// A banned user tries to come in; or the ban is lifted.
    fn unban_and_come(&mut self, actor: Option<usize>, channel: usize, choices: &mut Choices<'_>) {
        let now = self.now;
        let banned: Vec<_> = self.halls[channel].bans.iter().map(|(user, until)| (user.clone(), *until)).collect();
        let Some((user, until)) = choices.one(banned.len()).map(|at| banned[at].clone()) else {
            self.done(actor, channel, "unban", json!({ "user": "nobody" }), false);
            return;
        };
        if choices.yes() {
            // One that has ended is known until the hub looks at its timers.
            self.hub.handle_timeout(now);
            self.drain();
            if self.done(actor, channel, "unban", json!({ "user": user }), until > now) || until <= now {
                self.halls[channel].bans.remove(&user);
            }
        } else if until > now {
            let entrance = Entrance::named(&user, CHANNELS[channel]);
            assert_eq!(self.hub.open(now, super::CLIENTS, &entrance), Err(OpenError::Banned));
        }
    }

    pub(super) fn comers(&self, channel: usize) -> Vec<usize> {
        let waits = |at: &usize| {
            let session = &self.sessions[*at];
            session.open && session.channel == channel && session.waits
        };
        (0..self.sessions.len()).filter(waits).collect()
    }

    fn set_channel(&mut self, actor: Option<usize>, channel: usize, choices: &mut Choices<'_>) {
        let (locked, waiting, max) = (choices.of(3) > 0, choices.of(3) > 0, 4 * choices.of(4));
        self.set(actor, channel, (locked, waiting, max));
    }

    fn set(&mut self, actor: Option<usize>, channel: usize, to: (bool, bool, usize)) {
        let (locked, waiting, max) = to;
        let data = json!({ "locked": locked, "waiting": waiting, "peersMax": max });
        if !self.done(actor, channel, "set-channel", data, true) {
            return;
        }
        let hall = &mut self.halls[channel];
        let before = (hall.locked, hall.waiting, hall.peers_max);
        (hall.locked, hall.waiting, hall.peers_max) = (locked, waiting, max);
        if before == to {
            return;
        }
        self.tell(channel, None, "channel-changed ".to_owned());
        for comer in self.comers(channel) {
            match (locked, waiting) {
                (true, true) => {}
                (true, false) => self.goes(comer, "locked", "locked"),
                (false, _) if self.is_full(channel) => self.goes(comer, "full", "full"),
                (false, _) => self.admitted(comer),
            }
        }
    }

    fn admitted(&mut self, at: usize) {
        let (channel, user) = (self.sessions[at].channel, self.sessions[at].user.clone());
        self.tell_moderators(channel, format!("waiting-ended {user} admitted"));
        self.sessions[at].waits = false;
        self.owe(at, "admitted ".to_owned());
        if !self.sessions[at].rights.hidden {
            self.tell(channel, Some(at), format!("peer-joined {user}"));
        }
    }

    fn let_in(&mut self, actor: Option<usize>, channel: usize, choices: &mut Choices<'_>) {
        if self.comers(channel).is_empty() && choices.yes() {
            self.set(None, channel, (true, true, self.halls[channel].peers_max));
            self.join(channel);
        }
        let comers = self.comers(channel);
        // Also one that does not wait.
        let at = choices.one(comers.len()).map(|at| comers[at]).unwrap_or(0);
        let id = json!({ "peerId": self.sessions[at].external });
        let found = comers.contains(&at);
        if choices.yes() {
            let may = actor.is_none_or(|me| self.sessions[me].rights.moderate);
            let done = match self.is_full(channel) && found && may {
                true => self.done_as(actor, channel, "admit-peer", id, "limit"),
                false => self.done(actor, channel, "admit-peer", id, found),
            };
            if done {
                self.admitted(at);
            }
        } else if self.done(actor, channel, "turn-away-peer", id, found) {
            self.goes(at, "removed", "turned-away");
        }
    }

    fn set_grants(&mut self, actor: Option<usize>, channel: usize, choices: &mut Choices<'_>) {
        let Some((at, id, inside)) = self.any_peer(channel, choices) else { return };
        let (which, value) = (choices.of(3), choices.yes());
        let grants = json!({ ["publish", "subscribe", "moderate"][which]: value });
        if !self.done(actor, channel, "set-grants", json!({ "peerId": id, "grants": grants }), inside) {
            return;
        }
        let session = &mut self.sessions[at];
        session.changed.0[which] = Some(value);
        let rights = session.changed.over(session.rights);
        if rights != session.rights {
            self.owe(at, "grants-changed ".to_owned());
            self.regrant(at, rights);
        }
    }

    /// A name, or appData.
    fn describe(&mut self, actor: Option<usize>, channel: usize, choices: &mut Choices<'_>) {
        let Some((at, id, inside)) = self.any_peer(channel, choices) else { return };
        let (names, own) = (choices.yes(), actor == Some(at));
        let value = [Value::Null, json!("one"), json!("two")][choices.of(3)].clone();
        let (kind, field) = if names { ("rename", "name") } else { ("set-app-data", "appData") };
        let data = json!({ "peerId": id, field: value });
        let Rights { publish, subscribe, moderate, .. } = self.sessions[at].rights;
        let has_a_say = publish || subscribe || moderate || value.is_null();
        let free = own && has_a_say && !(names && self.sessions[at].name_given && !moderate);
        let done = match free {
            true => self.done_as(actor, channel, kind, data, "ok"),
            false => self.done(actor, channel, kind, data, inside),
        };
        if !done {
            return;
        }
        let session = &mut self.sessions[at];
        session.name_given |= names && !own;
        let known = if names { &mut session.profile.0 } else { &mut session.profile.1 };
        if std::mem::replace(known, value.clone()) != value {
            let what = format!("peer-updated {}", session.user);
            if !own {
                self.owe_afresh(at, &what);
            }
            if !self.sessions[at].rights.hidden {
                self.tell(channel, Some(at), what);
            }
        }
    }

    /// What the peer itself is told is not left out for what comes later.
    fn owe_afresh(&mut self, at: usize, what: &str) {
        match self.sessions[at].way {
            Way::Away(_) => self.sessions[at].missed.push(what.to_owned()),
            _ => self.owe(at, what.to_owned()),
        }
    }

    fn send(&mut self, actor: Option<usize>, channel: usize, choices: &mut Choices<'_>) {
        self.tag += 1;
        let what = format!("message {}", self.tag);
        let may = actor.is_none_or(|me| {
            let Rights { publish, subscribe, moderate, hidden } = self.sessions[me].rights;
            (publish || subscribe) && !hidden || moderate
        });
        let mut data = json!({ "data": self.tag });
        if choices.yes() {
            let done = self.done_as(actor, channel, "send-message", data, if may { "ok" } else { "forbidden" });
            return if done {
                self.tell(channel, actor, what)
            };
        }
        let Some((at, id, inside)) = self.any_peer(channel, choices) else { return };
        data["peerId"] = id;
        let unseen = self.sessions[at].rights.hidden && actor.is_some_and(|me| me != at);
        let expected = match (may, inside && !unseen, self.sessions[at].subscribed) {
            (false, ..) => "forbidden",
            (true, false, _) => "not-found",
            (true, true, false) => "unavailable",
            (true, true, true) => "ok",
        };
        if self.done_as(actor, channel, "send-message", data, expected) {
            self.owe(at, what);
        }
    }
}
