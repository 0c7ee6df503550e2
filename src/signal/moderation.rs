//! The acts of moderation, done: each finds its object, asks whether the actor may, and leaves the rest to the file of its
//! mechanism. A peer acts in its own channel, by `turn`; the operator in any, by `operator`.

use serde_json::{Value, json};

use crate::base::id::PeerId;
use crate::base::limits::PEERS_PER_CHANNEL_MAX;
use crate::base::node_id::NodeId;
use crate::base::time::Instant;
use crate::signal::act::{Act, Actor, By, ChannelChange};
use crate::signal::channel::Channel;
use crate::signal::closing::{self, Ending};
use crate::signal::cluster::{ChannelSettings, RosterOp};
use crate::signal::desk::Desk;
use crate::signal::dismissal::{Cause, Dismissal};
use crate::signal::message::{Code, Refusal};
use crate::signal::news::News;
use crate::signal::outbox::ActAbroad;
use crate::signal::{chat, entering, muting, permission, profile, regrant, removal, returns};

/// Does it. Returns the data of the reply `ok`.
pub(super) fn take(
    now: Instant,
    channel: &mut Channel,
    desk: &mut Desk,
    actor: Actor,
    act: Act,
) -> Result<Value, Refusal> {
    let request = act.name();
    let id = Scene { now, channel, desk, actor }.take(act)?;
    Ok(match id {
        Some(id) => json!({ "request": request, "id": id }),
        None => json!({ "request": request }),
    })
}

struct Scene<'a> {
    now: Instant,
    channel: &'a mut Channel,
    desk: &'a mut Desk,
    actor: Actor,
}

fn not_found() -> Refusal {
    Refusal::not_found("data.peerId")
}

impl Scene<'_> {
    /// Returns the id of its object.
    fn take(&mut self, act: Act) -> Result<Option<String>, Refusal> {
        self.permit(&act)?;
        let by = self.by();
        if let Some((node, object)) = self.elsewhere(&act) {
            let channel = self.channel.name.clone();
            self.desk.post.abroad.acts.push(ActAbroad { channel, node, by, act });
            return Ok(Some(object));
        }
        match act {
            Act::MuteProducer { producer, muted } => {
                muting::producer(self.channel, self.desk, by, &producer, muted)?;
                Ok(Some(producer))
            }
            Act::StopProducer { producer } => {
                let id = self.channel.find_producer(&producer);
                let id = id.ok_or_else(|| Refusal::not_found("data.producerId"))?;
                closing::close_producer(self.channel, self.desk, id, Ending::Stopped(by));
                Ok(Some(producer))
            }
            Act::MutePeer { peer, kinds, muted } => {
                let id = self.peer(&peer)?;
                muting::peer(self.channel, self.desk, by, id, &kinds, muted)?;
                Ok(Some(peer))
            }
            Act::RemovePeer { peer, reason, ban } => {
                let (notice, who) = (reason.as_deref(), (self.actor, by));
                removal::remove(self.now, self.channel, self.desk, who, &peer, notice, ban)?;
                Ok(Some(peer))
            }
            Act::Unban { user } => match self.desk.bans.lift(&self.channel.name, &user) {
                true => {
                    self.channel.tell_abroad(&mut self.desk.post, || RosterOp::Unbanned { user: user.into() });
                    Ok(None)
                }
                false => Err(no_ban()),
            },
            Act::SetChannel(change) => {
                self.set_channel(change);
                Ok(None)
            }
            Act::AdmitPeer { peer } => {
                let id = self.comer(&peer)?;
                self.admit(id)?;
                Ok(Some(peer))
            }
            Act::TurnAwayPeer { peer, reason } => {
                let id = self.comer(&peer)?;
                self.dismiss(id, Cause::TurnedAway, reason.as_deref());
                Ok(Some(peer))
            }
            Act::SetGrants { peer, change } => {
                let id = self.peer(&peer)?;
                regrant::change(self.channel, self.desk, id, change, by);
                Ok(Some(peer))
            }
            Act::Rename { peer, name } => {
                let (id, by) = self.whom(peer.as_deref())?;
                profile::rename(self.channel, self.desk, id, name, by);
                Ok(self.shown(id))
            }
            Act::SetAppData { peer, app_data } => {
                let (id, by) = self.whom(peer.as_deref())?;
                profile::set_app_data(self.channel, self.desk, id, app_data, by);
                Ok(self.shown(id))
            }
            Act::SendMessage { peer, data } => self.say(by, peer.as_deref(), &data).map(|()| None),
        }
    }

    fn say(&mut self, by: By, to: Option<&str>, data: &Value) -> Result<(), Refusal> {
        let sender = match self.actor {
            Actor::Peer(id) => Some(id),
            Actor::Operator | Actor::Hidden => None,
        };
        chat::send(self.channel, self.desk, (sender, by), to, data)?;
        chat::pass_on(self.channel, self.desk, by, to, data);
        Ok(())
    }

    fn permit(&self, act: &Act) -> Result<(), Refusal> {
        match self.actor {
            Actor::Operator | Actor::Hidden => Ok(()),
            Actor::Peer(id) => permission::act(self.channel.peers.get(&id).ok_or_else(not_found)?, act),
        }
    }

    fn by(&self) -> By {
        let peer = match self.actor {
            Actor::Operator => return By::Operator,
            Actor::Hidden => return By::Hidden,
            Actor::Peer(id) => self.channel.peers.get(&id),
        };
        peer.filter(|peer| !peer.grants.hidden).map_or(By::Hidden, |peer| By::Peer(peer.external))
    }

    /// The node of the peer, or of the producer's peer, that an act is about, and how clients call it. None: it is of this
    /// node, or about the channel.
    fn elsewhere(&self, act: &Act) -> Option<(NodeId, String)> {
        let (id, object) = match act {
            Act::MuteProducer { producer, .. } | Act::StopProducer { producer } => {
                (*self.channel.producers.get(&self.channel.find_producer(producer)?)?, producer)
            }
            Act::MutePeer { peer, .. }
            | Act::RemovePeer { peer, ban: None, .. }
            | Act::SetGrants { peer, .. }
            | Act::Rename { peer: Some(peer), .. }
            | Act::SetAppData { peer: Some(peer), .. } => (self.channel.find_peer(peer)?, peer),
            _ => return None,
        };
        Some((self.channel.peers.get(&id)?.place.node()?, object.clone()))
    }

    fn peer(&self, external: &str) -> Result<PeerId, Refusal> {
        self.channel.find_peer(external).ok_or_else(not_found)
    }

    fn comer(&self, external: &str) -> Result<PeerId, Refusal> {
        self.channel.lobby.find(external).ok_or_else(not_found)
    }

    /// The peer that an act is about, and who did it to another than itself.
    fn whom(&self, external: Option<&str>) -> Result<(PeerId, Option<By>), Refusal> {
        match (external, self.actor) {
            (None, Actor::Peer(id)) => Ok((id, None)),
            (None, Actor::Operator | Actor::Hidden) => {
                Err(Refusal::new(Code::BadField, "data.peerId is missing: a string is needed here"))
            }
            (Some(external), actor) => {
                let id = self.peer(external)?;
                Ok((id, (actor != Actor::Peer(id)).then(|| self.by())))
            }
        }
    }

    fn shown(&self, id: PeerId) -> Option<String> {
        self.channel.peers.get(&id).map(|peer| peer.external.to_string())
    }

    fn dismiss(&mut self, id: PeerId, cause: Cause, notice: Option<&str>) {
        let who = (self.actor, self.by());
        removal::dismiss(self.channel, self.desk, who, id, cause, notice);
    }

    /// `leaves`: peers that go in exchange.
    fn has_room(&self, leaves: usize) -> bool {
        let inside = self.channel.peers.len().saturating_sub(leaves);
        self.channel.here().saturating_sub(leaves) < PEERS_PER_CHANNEL_MAX && self.channel.lobby.has_room(inside)
    }

    fn admit(&mut self, id: PeerId) -> Result<(), Refusal> {
        let same_user = self.desk.settings.returns.same_user;
        let comer = self.channel.lobby.get(id).ok_or_else(not_found)?;
        let old = returns::replaced(same_user, Some(self.channel), &comer.user);
        if !self.has_room(usize::from(old.is_some())) {
            let message = "the channel holds as many peers as it may: set-channel changes its peersMax";
            return Err(Refusal::new(Code::Limit, message));
        }
        let by = self.by().to_string();
        let replaced = old.and_then(|old| self.channel.peers.get(&old)).and_then(returns::seen_as);
        if !entering::admit(self.channel, &mut self.desk.post, id, &by, replaced) {
            return Err(not_found());
        }
        self.desk.dismissals.extend(old.map(Dismissal::replaced));
        Ok(())
    }

    /// Where the channel is open again, those who wait come in, as far as there is room; where it is closed to them, they
    /// go.
    fn set_channel(&mut self, change: ChannelChange) {
        if !self.channel.lobby.change(change) {
            return;
        }
        let by = self.by();
        if let Some(node) = self.desk.node {
            let counter = self.channel.set_by.map_or(0, |(counter, _)| counter) + 1;
            self.channel.set_by = Some((counter, node));
            let settings = self.channel.lobby.settings(counter, node);
            self.channel.tell_abroad(&mut self.desk.post, || RosterOp::Settings { settings, by: Some(by) });
        }
        self.settle(by);
    }

    /// Tells what is set, and does to those who wait what follows from it.
    fn settle(&mut self, by: By) {
        let mut data = json!({ "channel": self.channel.lobby.describe(), "by": by.to_string() });
        if data["channel"].is_null() {
            data["channel"] = json!({});
        }
        let all = self.channel.subscribers.iter();
        self.desk.post.notify_all(all, &News::channel_changed(), &data);
        let open = !self.channel.lobby.is_locked();
        if !open && self.channel.lobby.keeps_waiting() {
            return;
        }
        let comers: Vec<_> = self.channel.lobby.comers().map(|(id, _)| id).collect();
        for id in comers {
            match open {
                true if self.admit(id).is_ok() => {}
                true => self.dismiss(id, Cause::Full, None),
                false => self.dismiss(id, Cause::Locked, None),
            }
        }
    }
}

/// Takes what is set of the channel elsewhere, unless something later is set here.
pub(super) fn agree(now: Instant, channel: &mut Channel, desk: &mut Desk, settings: ChannelSettings, by: By) {
    let ChannelSettings { counter, node, locked, waiting, peers_max } = settings;
    if channel.set_by >= Some((counter, node)) {
        return;
    }
    channel.set_by = Some((counter, node));
    let peers_max = Some(peers_max.unwrap_or(0));
    if channel.lobby.change(ChannelChange { locked: Some(locked), waiting: Some(waiting), peers_max }) {
        Scene { now, channel, desk, actor: Actor::Operator }.settle(by);
    }
}

pub(super) fn no_ban() -> Refusal {
    Refusal::new(Code::NotFound, "data.user: there is no ban of this user here (any more)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::entrance::Entrance;
    use crate::signal::fixture::{ANNA, BERTA, CAMERA, call, said, told};
    use crate::signal::peer::Peer;
    use crate::signal::quota::Holder;

    fn acts(channel: &Channel) -> Vec<Act> {
        let peer = channel.peers[&BERTA].external.to_string();
        let producer = channel.producer(CAMERA).unwrap().1.external.to_string();
        let data = json!({ "peerId": peer, "producerId": producer, "user": "x", "grants": {}, "name": "x" });
        let kinds = [
            "mute-producer",
            "stop-producer",
            "mute-peer",
            "remove-peer",
            "unban",
            "set-channel",
            "admit-peer",
            "turn-away-peer",
            "set-grants",
            "rename",
            "set-app-data",
        ];
        kinds.iter().map(|kind| Act::parse(kind, data.clone()).unwrap()).collect()
    }

    #[test]
    fn who_may_not_moderate_learns_nothing_by_trying() {
        let (mut channel, mut desk) = call();
        for act in acts(&channel) {
            let name = act.name();
            let refused = take(Instant::ZERO, &mut channel, &mut desk, Actor::Peer(ANNA), act);
            assert_eq!(refused.unwrap_err().code, Code::Forbidden, "{name}");
            let nothing = json!({ "peerId": "x", "producerId": "x", "user": "x", "grants": {} });
            let act = Act::parse(name, nothing).unwrap();
            let refused = take(Instant::ZERO, &mut channel, &mut desk, Actor::Peer(ANNA), act);
            assert_eq!(refused.unwrap_err().code, Code::Forbidden, "{name} of nothing");
        }
        assert_eq!(said(&mut desk), (vec![], vec![]));
    }

    #[test]
    fn an_open_channel_takes_in_those_who_wait_as_far_as_there_is_room() {
        let (mut channel, mut desk) = call();
        let mut set = |channel: &mut Channel, data: Value| {
            let act = Act::parse("set-channel", data).unwrap();
            take(Instant::ZERO, channel, &mut desk, Actor::Operator, act).unwrap();
            let gone: Vec<_> = desk.dismissals.drain(..).map(|gone| (gone.peer.0, gone.refusal.code)).collect();
            (said(&mut desk).0.len(), gone)
        };
        assert_eq!(set(&mut channel, json!({ "locked": true, "waiting": true, "peersMax": 3 })), (2, vec![]));
        assert_eq!(set(&mut channel, json!({ "locked": true })), (0, vec![]), "nothing changes");
        let mut ids = crate::signal::ids::Ids::new([2; 32]);
        let holder = || Holder::new([192, 0, 2, 1].into(), "comer");
        for id in [50, 51] {
            channel.lobby.wait(PeerId(id), Peer::new(ids.external(), &Entrance::named("comer", "room")), holder());
        }
        let (_, gone) = set(&mut channel, json!({ "locked": false }));
        assert_eq!(gone, [(51, Code::Full)]);
        assert!(channel.peers.contains_key(&PeerId(50)));
        channel.lobby.take(PeerId(51));
        channel.lobby.wait(PeerId(52), Peer::new(ids.external(), &Entrance::named("comer", "room")), holder());
        let (_, gone) = set(&mut channel, json!({ "locked": true, "waiting": false }));
        assert_eq!(gone, [(52, Code::Locked)]);
    }

    #[test]
    fn the_news_say_who_did_it_unless_it_is_hidden() {
        let (mut channel, mut desk) = call();
        let berta = channel.peers.get_mut(&BERTA).unwrap();
        berta.grants.moderate = true;
        let (external, shown) = (berta.external.to_string(), |channel: &mut Channel, desk: &mut Desk, name: &str| {
            let peer = channel.peers[&ANNA].external.to_string();
            let act = Act::Rename { peer: Some(peer), name: Some(name.to_owned()) };
            take(Instant::ZERO, channel, desk, Actor::Peer(BERTA), act).unwrap();
            crate::signal::fixture::heard(desk).0[0].1["data"]["by"].clone()
        });
        assert_eq!(shown(&mut channel, &mut desk, "A"), json!(external));
        channel.peers.get_mut(&BERTA).unwrap().grants.hidden = true;
        assert_eq!(shown(&mut channel, &mut desk, "B"), json!("moderator"));
        let act = Act::StopProducer { producer: channel.producer(CAMERA).unwrap().1.external.to_string() };
        take(Instant::ZERO, &mut channel, &mut desk, Actor::Operator, act).unwrap();
        let expected =
            [(2, "consumer-closed producer-closed"), (1, "producer-closed stopped"), (2, "producer-closed stopped")];
        assert_eq!(said(&mut desk).0, told(&expected));
    }
}
