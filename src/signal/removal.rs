//! The removal of a peer by a moderator: what it is told before its socket closes, what the others are told, and the
//! ban. The peer itself is ended by `hub`, once the moderator's turn is over.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::base::id::PeerId;
use crate::base::limits::BANS_PER_CHANNEL_MAX;
use crate::base::time::{Duration, Instant};
use crate::signal::act::{Actor, By};
use crate::signal::channel::Channel;
use crate::signal::cluster::RosterOp;
use crate::signal::desk::Desk;
use crate::signal::dismissal::{Cause, Dismissal};
use crate::signal::message::Refusal;
use crate::signal::meter::Cost;
use crate::signal::peer::Peer;

/// Notes that the peer has to go, and what is to be said of it.
pub(super) fn dismiss(
    channel: &mut Channel,
    desk: &mut Desk,
    (actor, by): (Actor, By),
    id: PeerId,
    cause: Cause,
    notice: Option<&str>,
) {
    let mut parting = json!({ "reason": cause.reason(), "by": by.to_string() });
    let mut sentence = cause.sentence().to_owned();
    if let Some(notice) = notice {
        parting["message"] = json!(notice);
        sentence = format!("{sentence}: {notice}");
    }
    let of_it = |peer: &mut Peer| peer.parting = Some(parting);
    match channel.peers.get_mut(&id) {
        Some(peer) => of_it(peer),
        None => channel.lobby.with(id, of_it),
    }
    desk.dismissals.push_back(Dismissal { peer: id, refusal: Refusal::new(cause.code(), sentence), actor });
}

/// Removes a peer, whether it is inside or waits; with a ban all of its user.
pub(super) fn remove(
    now: Instant,
    channel: &mut Channel,
    desk: &mut Desk,
    who: (Actor, By),
    external: &str,
    notice: Option<&str>,
    ban: Option<Duration>,
) -> Result<(), Refusal> {
    let id = channel.find_peer(external).or_else(|| channel.lobby.find(external));
    let id = id.ok_or_else(|| Refusal::not_found("data.peerId"))?;
    let Some(seconds) = ban else {
        dismiss(channel, desk, who, id, Cause::Removed, notice);
        return Ok(());
    };
    let user: Option<Arc<str>> = channel.all().find(|(known, _)| *known == id).map(|(_, peer)| peer.user.clone());
    let Some(user) = user else { return Err(Refusal::not_found("data.peerId")) };
    if !self::ban(channel, desk, who, &user, notice, now + seconds) {
        return Err(Refusal::limit("bans of a channel", BANS_PER_CHANNEL_MAX));
    }
    let (seconds, by, notice) = (seconds.as_secs(), who.1, notice.map(str::to_owned));
    channel.tell_abroad(&mut desk.post, || RosterOp::Banned { user, seconds, by, notice });
    Ok(())
}

/// Bans a user, and removes all its peers that are here. False: there are too many bans.
pub(super) fn ban(
    channel: &mut Channel,
    desk: &mut Desk,
    who: (Actor, By),
    user: &Arc<str>,
    notice: Option<&str>,
    until: Instant,
) -> bool {
    let here = |peer: &Peer| peer.user == *user && peer.place.node().is_none();
    let theirs: Vec<PeerId> = channel.all().filter(|(_, peer)| here(peer)).map(|(id, _)| id).collect();
    desk.post.work.add(Cost::walked(channel.peers.len() + desk.bans.channels()));
    if !desk.bans.ban(&channel.name, user, until) {
        return false;
    }
    // None of them is told of the others.
    theirs.iter().for_each(|id| channel.hush(*id));
    for id in theirs {
        dismiss(channel, desk, who, id, Cause::Banned, notice);
    }
    true
}

/// What is said of its end, beside what is said of every end.
pub(super) fn told_of(peer: &Peer, mut data: Value) -> Value {
    if let (Some(Value::Object(parting)), Value::Object(data)) = (&peer.parting, &mut data) {
        data.extend(parting.clone());
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::fixture::{ANNA, BERTA, call};
    use crate::signal::message::Code;

    const WHO: (Actor, By) = (Actor::Operator, By::Operator);

    #[test]
    fn who_is_removed_is_told_why_and_so_are_the_others() {
        let (mut channel, mut desk) = call();
        let anna = channel.peers[&ANNA].external.to_string();
        remove(Instant::ZERO, &mut channel, &mut desk, WHO, &anna, Some("be kind"), None).unwrap();
        let Some(Dismissal { peer: ANNA, refusal, .. }) = desk.dismissals.pop_front() else { panic!("she has to go") };
        assert_eq!(refusal.code, Code::Removed);
        assert!(refusal.message.ends_with(": be kind"), "{}", refusal.message);
        let data = told_of(&channel.peers[&ANNA], json!({ "id": anna }));
        assert_eq!(data, json!({ "id": anna, "reason": "removed", "by": "operator", "message": "be kind" }));
        assert_eq!(desk.bans.len(), 0);
    }

    #[test]
    fn a_ban_is_for_the_user_and_ends_all_its_peers() {
        let (mut channel, mut desk) = call();
        channel.peers.get_mut(&BERTA).unwrap().user = "anna".into();
        let anna = channel.peers[&ANNA].external.to_string();
        let ban = Some(Duration::from_secs(60));
        remove(Instant::ZERO, &mut channel, &mut desk, WHO, &anna, None, ban).unwrap();
        let gone: Vec<_> = desk.dismissals.drain(..).map(|gone| (gone.peer, gone.refusal.code)).collect();
        assert_eq!(gone, [(ANNA, Code::Banned), (BERTA, Code::Banned)]);
        assert!(desk.bans.holds(Instant::ZERO, "room", "anna"));
    }
}
