//! The way of a comer into a channel: straight in, into its lobby, or away again; and the way from the lobby. `hub` asks
//! for each comer, `moderation` for those who wait.

use serde_json::{Value, json};

use crate::base::id::PeerId;
use crate::base::limits::PEERS_PER_CHANNEL_MAX;
use crate::base::time::Instant;
use crate::signal::act::Actor;
use crate::signal::auth::OpenError;
use crate::signal::bans::Bans;
use crate::signal::channel::Channel;
use crate::signal::dismissal::{Cause, Dismissal};
use crate::signal::entrance::Entrance;
use crate::signal::ids::ExternalId;
use crate::signal::journal::Occurrence;
use crate::signal::lobby::Doorway;
use crate::signal::message::{Code, Refusal};
use crate::signal::meter::Cost;
use crate::signal::news::News;
use crate::signal::peer::Peer;
use crate::signal::post::Post;
use crate::signal::quota::Holder;

/// Whether who comes has to wait, or why it may not come at all. `channel`: None where it would be the first; `leaves`:
/// peers of it that go in exchange.
pub(super) fn waits(
    now: Instant,
    bans: &Bans,
    channel: Option<&Channel>,
    (entrance, holder): (&Entrance, &Holder),
    leaves: usize,
) -> Result<bool, OpenError> {
    if bans.holds(now, &entrance.channel, &entrance.user) {
        return Err(OpenError::Banned);
    }
    let Some(channel) = channel else { return Ok(false) };
    let inside = channel.peers.len().saturating_sub(leaves);
    if inside >= PEERS_PER_CHANNEL_MAX {
        return Err(OpenError::ChannelFull);
    }
    match channel.lobby.doorway(inside, entrance.grants.moderate) {
        Doorway::Open => Ok(false),
        Doorway::Wait => Ok(true),
        Doorway::Locked if channel.lobby.gives_way(holder).is_some() => Ok(true),
        Doorway::Locked => Err(OpenError::Locked),
        Doorway::Full => Err(OpenError::ChannelFull),
    }
}

/// The peer is in the channel from now on, in place of the one with the id `replaced`.
pub(super) fn enter(channel: &mut Channel, post: &mut Post, id: PeerId, peer: Peer, replaced: Option<ExternalId>) {
    if !peer.grants.hidden {
        let mut data = peer.describe();
        if let Some(replaced) = replaced {
            data["replaces"] = json!(replaced.to_string());
        }
        channel.tell_others(post, id, &News::peer_joined(id), &data);
    }
    post.journal.note(Occurrence::PeerJoined, &channel.name, || peer.introduce());
    channel.insert(id, peer);
}

/// The peer waits in the lobby; those who moderate are told. Another may have to go for it.
pub(super) fn wait(
    channel: &mut Channel,
    post: &mut Post,
    id: PeerId,
    (peer, holder): (Peer, &Holder),
) -> Option<Dismissal> {
    let crowded = channel.lobby.gives_way(holder).map(|other| {
        channel.lobby.with(other, |peer| peer.parting = Some(json!({ "reason": Cause::Crowded.reason() })));
        let refusal = Refusal::new(Cause::Crowded.code(), Cause::Crowded.sentence());
        Dismissal { peer: other, refusal, actor: Actor::Operator }
    });
    tell_moderators(channel, post, &News::peer_waiting(id), &peer.describe());
    post.journal.note(Occurrence::PeerWaiting, &channel.name, || peer.introduce());
    channel.lobby.wait(id, peer, holder.clone());
    crowded
}

/// What a peer that waits is told as soon as it has a socket.
pub(super) fn greet(channel: &Channel, post: &mut Post, id: PeerId) {
    if let Some(peer) = channel.lobby.get(id) {
        post.notify(id, "waiting", &json!({ "peerId": peer.external.to_string() }));
    }
}

/// The rest of `subscribed`: what moderators have set of the channel, where they have, and for a moderator who waits.
pub(super) fn standing(channel: &Channel, id: PeerId) -> String {
    let mut rest = String::new();
    let set = channel.lobby.describe();
    if !set.is_null() {
        rest += &format!(",\"channel\":{set}");
    }
    let moderates = channel.peers.get(&id).is_some_and(|peer| peer.grants.moderate);
    if moderates && !channel.lobby.is_empty() {
        let waiting: Vec<_> = channel.lobby.comers().map(|(_, peer)| peer.describe()).collect();
        rest += &format!(",\"waiting\":{}", json!(waiting));
    }
    rest
}

/// The answer to whatever else a peer that waits asks for.
pub(super) fn not_let_in() -> Refusal {
    Refusal::new(Code::Forbidden, "the channel is locked: a moderator has not let this peer in yet")
}

/// The peer that waits is let in, in place of the one with the id `replaced`. False: nobody waits under this number.
pub(super) fn admit(
    channel: &mut Channel,
    post: &mut Post,
    id: PeerId,
    by: &str,
    replaced: Option<ExternalId>,
) -> bool {
    let Some(peer) = channel.lobby.take(id) else { return false };
    ended(channel, post, id, &peer, json!({ "reason": "admitted", "by": by }));
    post.notify(id, "admitted", &json!({ "peerId": peer.external.to_string() }));
    enter(channel, post, id, peer, replaced);
    true
}

/// The peer that waited is gone: those who moderate are told. False: it did not wait.
pub(super) fn stop_waiting(channel: &mut Channel, post: &mut Post, id: PeerId) -> bool {
    let Some(peer) = channel.lobby.take(id) else { return false };
    channel.presence.gone(id);
    let parting = peer.parting.clone().unwrap_or_else(|| json!({ "reason": "left" }));
    ended(channel, post, id, &peer, parting);
    true
}

fn ended(channel: &Channel, post: &mut Post, id: PeerId, peer: &Peer, mut data: Value) {
    data["id"] = json!(peer.external.to_string());
    data["user"] = json!(&*peer.user);
    tell_moderators(channel, post, &News::waiting_ended(id), &data);
    post.journal.note(Occurrence::WaitingEnded, &channel.name, || data);
}

fn tell_moderators(channel: &Channel, post: &mut Post, news: &News, data: &Value) {
    let moderates = |id: &&PeerId| channel.peers.get(id).is_some_and(|peer| peer.grants.moderate);
    post.work.add(Cost::walked(channel.subscribers.len()));
    post.notify_all(channel.subscribers.iter().filter(moderates), news, data);
}

/// Who has just become a moderator is told who waits.
pub(super) fn tell_who_waits(channel: &Channel, post: &mut Post, moderator: PeerId) {
    for (id, peer) in channel.lobby.comers() {
        post.notify_all([moderator].iter(), &News::peer_waiting(id), &peer.describe());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::Duration;
    use crate::signal::act::ChannelChange;
    use crate::signal::fixture::{ANNA, call, said, told};
    use crate::signal::session::SessionId;

    const COMER: PeerId = PeerId(9);

    fn holder() -> Holder {
        Holder::new([192, 0, 2, 1].into(), "comer")
    }

    fn way(channel: &Channel, bans: &Bans, moderates: bool) -> Result<bool, OpenError> {
        let mut entrance = Entrance::named("mallory", "room");
        entrance.grants.moderate = moderates;
        waits(Instant::ZERO, bans, Some(channel), (&entrance, &holder()), 0)
    }

    #[test]
    fn a_ban_outweighs_a_moderators_right_and_a_lock_does_not() {
        let ((mut channel, _), mut bans) = (call(), Bans::default());
        channel.lobby.change(ChannelChange { locked: Some(true), ..Default::default() });
        assert_eq!([false, true].map(|moderates| way(&channel, &bans, moderates)), [Err(OpenError::Locked), Ok(false)]);
        bans.ban(&"room".into(), &"mallory".into(), Instant::ZERO + Duration::from_secs(9));
        assert_eq!(
            [false, true].map(|moderates| way(&channel, &bans, moderates)),
            [Err(OpenError::Banned), Err(OpenError::Banned)]
        );
        let mallory = Entrance::named("mallory", "room");
        assert_eq!(waits(Instant::ZERO, &bans, None, (&mallory, &holder()), 0), Err(OpenError::Banned));
    }

    #[test]
    fn who_waits_is_known_to_moderators_alone_until_it_is_let_in() {
        let (mut channel, mut desk) = call();
        channel.peers.get_mut(&ANNA).unwrap().grants.moderate = true;
        desk.post.mailboxes.attach(COMER, SessionId(9));
        let comer = Peer::new(desk.ids.external(), &Entrance::named("carol", "room"));
        assert!(wait(&mut channel, &mut desk.post, COMER, (comer, &holder())).is_none());
        assert_eq!(said(&mut desk).0, told(&[(1, "peer-waiting ")]));
        assert!(!channel.peers.contains_key(&COMER));
        assert!(admit(&mut channel, &mut desk.post, COMER, "operator", None));
        assert!(!admit(&mut channel, &mut desk.post, COMER, "operator", None), "she is in");
        let expected = [(1, "waiting-ended admitted"), (9, "admitted "), (1, "peer-joined "), (2, "peer-joined ")];
        assert_eq!(said(&mut desk).0, told(&expected));
        assert!(!stop_waiting(&mut channel, &mut desk.post, COMER) && channel.peers.contains_key(&COMER));
    }
}
