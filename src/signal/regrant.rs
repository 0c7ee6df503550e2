//! Other rights for a peer that is here: what it may do no longer ends, and the others see it come or go. They come with
//! a new token, or from a moderator, whose word outlives the token.

use serde_json::json;

use crate::base::id::{ConsumerId, PeerId, ProducerId};
use crate::signal::act::{By, GrantsChange};
use crate::signal::channel::Channel;
use crate::signal::closing::{self, Ending};
use crate::signal::cluster::RosterOp;
use crate::signal::desk::Desk;
use crate::signal::entering;
use crate::signal::grants::Grants;
use crate::signal::news::News;
use crate::signal::peer::Producer;
use crate::signal::telling;

/// A new token grants this; what a moderator has given or taken stays so.
pub(super) fn renew(channel: &mut Channel, desk: &mut Desk, id: PeerId, granted: &Grants) {
    channel.lobby.with(id, |peer| peer.grants = granted.clone());
    if let Some(grants) = channel.peers.get(&id).map(|peer| peer.changed.apply(granted)) {
        regrant(channel, desk, id, grants);
    }
}

/// A moderator gives and takes. The peer is told, whether it subscribes or not.
pub(super) fn change(channel: &mut Channel, desk: &mut Desk, id: PeerId, change: GrantsChange, by: By) {
    let Some(peer) = channel.peers.get_mut(&id) else { return };
    let grants = change.apply(&peer.grants);
    peer.changed.add(change);
    if peer.grants == grants {
        return;
    }
    let data = json!({ "grants": grants.describe(), "by": by.to_string() });
    desk.post.notify(id, "grants-changed", &data);
    regrant(channel, desk, id, grants);
}

fn regrant(channel: &mut Channel, desk: &mut Desk, id: PeerId, grants: Grants) {
    let Some(peer) = channel.peers.get_mut(&id) else { return };
    let before = std::mem::replace(&mut peer.grants, grants);
    let grants = &peer.grants;
    let denied = |producer: &Producer| !grants.may_produce(producer.plan.kind, producer.source());
    let producers: Vec<ProducerId> =
        peer.producers.iter().filter(|(_, producer)| denied(producer)).map(|(id, _)| *id).collect();
    let consumers: Vec<ConsumerId> =
        if grants.subscribe { Vec::new() } else { peer.consumers.keys().copied().collect() };
    let (hides, subscribes, moderates) = (grants.hidden, grants.subscribe, grants.moderate && !before.moderate);
    let (shown, has_moderate) = (!before.hidden && !hides, grants.moderate);
    let (who, gone) = (peer.describe(), json!({ "id": peer.external.to_string(), "user": &*peer.user }));
    for consumer in consumers {
        closing::close_consumer(channel, desk, consumer, Ending::Forbidden);
    }
    for producer in producers {
        closing::close_producer(channel, desk, producer, Ending::Forbidden);
    }
    if !subscribes && channel.subscribers.remove(&id) {
        channel.voices.listen_where_wanted(&mut desk.post, &channel.subscribers);
    }
    match (before.hidden, hides) {
        (false, true) => channel.tell_others(&mut desk.post, id, &News::peer_left(id), &gone),
        (true, false) => channel.tell_others(&mut desk.post, id, &News::peer_joined(id), &who),
        _ => {}
    }
    if shown && before.moderate != has_moderate {
        let entry = |channel: &Channel| channel.peers.get(&id).map(telling::peer_entry);
        if let Some(entry) = entry(channel) {
            channel.tell_abroad(&mut desk.post, || RosterOp::Peer { entry, replaces: None, by: None });
        }
    }
    if moderates && channel.subscribers.contains(&id) {
        entering::tell_who_waits(channel, &mut desk.post, id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::command::{Command, MediaKind};
    use crate::signal::act::Act;
    use crate::signal::entrance::Entrance;
    use crate::signal::fixture::{ANNA, BERTA, CAMERA, WATCHING, call, said, told};
    use crate::signal::peer::Peer;
    use crate::signal::quota::Holder;

    fn grants(text: serde_json::Value) -> Grants {
        Grants::read(&text).expect("they are well-formed")
    }

    #[test]
    fn what_is_not_granted_any_more_ends_and_who_has_it_is_told() {
        let (mut channel, mut desk) = call();
        regrant(&mut channel, &mut desk, ANNA, grants(json!({ "subscribe": true, "publish": { "kinds": ["video"] } })));
        let expected = [
            (BERTA.0, "consumer-closed producer-closed"),
            (ANNA.0, "producer-closed forbidden"),
            (BERTA.0, "producer-closed forbidden"),
        ];
        let (heard, commands) = said(&mut desk);
        assert_eq!(heard, told(&expected));
        assert!(commands.contains(&Command::CloseProducer { producer: CAMERA }), "{commands:?}");

        let (mut channel, mut desk) = call();
        regrant(&mut channel, &mut desk, BERTA, grants(json!({ "publish": true })));
        let (heard, commands) = said(&mut desk);
        assert_eq!(heard, told(&[(BERTA.0, "consumer-closed forbidden")]));
        assert!(commands.contains(&Command::CloseConsumer { consumer: WATCHING }), "{commands:?}");
        assert!(!channel.subscribers.contains(&BERTA));
    }

    #[test]
    fn more_rights_change_nothing_that_is_there() {
        let (mut channel, mut desk) = call();
        regrant(&mut channel, &mut desk, ANNA, Grants { moderate: true, ..Grants::everyday() });
        assert_eq!(said(&mut desk), (vec![], vec![]));
        assert!(channel.peers[&ANNA].grants.moderate);
    }

    #[test]
    fn who_hides_leaves_for_the_others_and_comes_back() {
        let (mut channel, mut desk) = call();
        let listed = |channel: &mut Channel, desk: &mut Desk| channel.list_peers(&mut desk.post.work).len();
        assert_eq!(listed(&mut channel, &mut desk), 2);
        regrant(&mut channel, &mut desk, BERTA, Grants { hidden: true, ..Grants::everyday() });
        assert_eq!((said(&mut desk).0, listed(&mut channel, &mut desk)), (told(&[(ANNA.0, "peer-left ")]), 1));
        regrant(&mut channel, &mut desk, BERTA, Grants::everyday());
        assert_eq!((said(&mut desk).0, listed(&mut channel, &mut desk)), (told(&[(ANNA.0, "peer-joined ")]), 2));
    }
    fn given(grants: serde_json::Value) -> GrantsChange {
        let data = json!({ "peerId": "p", "grants": grants });
        match Act::parse("set-grants", data) {
            Ok(Act::SetGrants { change, .. }) => change,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn who_is_given_or_loses_a_right_by_a_moderator_is_told_and_a_new_token_changes_nothing_of_it() {
        let (mut channel, mut desk) = call();
        let taken = [
            (ANNA.0, "grants-changed "),
            (BERTA.0, "consumer-closed producer-closed"),
            (ANNA.0, "producer-closed forbidden"),
            (BERTA.0, "producer-closed forbidden"),
        ];
        for expected in [told(&taken), vec![]] {
            change(&mut channel, &mut desk, ANNA, given(json!({ "publish": false })), By::Operator);
            assert_eq!(said(&mut desk).0, expected);
        }
        renew(&mut channel, &mut desk, ANNA, &Grants { subscribe: false, ..Grants::everyday() });
        let grants = &channel.peers[&ANNA].grants;
        assert_eq!((grants.may_produce(MediaKind::Audio, None), grants.subscribe), (false, false));
        change(&mut channel, &mut desk, ANNA, given(json!({ "publish": true })), By::Operator);
        renew(&mut channel, &mut desk, ANNA, &Grants::default());
        assert!(channel.peers[&ANNA].grants.may_produce(MediaKind::Audio, None), "that was the last word");
    }

    #[test]
    fn a_new_moderator_learns_who_waits() {
        let (mut channel, mut desk) = call();
        let comer = Peer::new(desk.ids.external(), &Entrance::named("carol", "room"));
        channel.lobby.wait(PeerId(9), comer, Holder::new([192, 0, 2, 1].into(), "comer"));
        change(&mut channel, &mut desk, ANNA, given(json!({ "moderate": true })), By::Operator);
        assert_eq!(said(&mut desk).0, told(&[(1, "grants-changed "), (1, "peer-waiting ")]));
        renew(&mut channel, &mut desk, PeerId(9), &Grants::default());
        assert!(channel.lobby.get(PeerId(9)).is_some_and(|peer| !peer.grants.subscribe));
    }
}
