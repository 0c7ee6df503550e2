//! The change of a peer's grants while it is here: what they no longer allow ends at once.

use serde_json::json;

use crate::base::id::PeerId;
use crate::signal::act::By;
use crate::signal::channel::Channel;
use crate::signal::closing::{self, Ending};
use crate::signal::desk::Desk;
use crate::signal::entering;
use crate::signal::grants::Grants;

/// `by`: who changed them, unless the peer brought them itself. The peer is told whether it subscribes or not.
pub(super) fn change(channel: &mut Channel, desk: &mut Desk, id: PeerId, grants: Grants, by: Option<By>) {
    let Some(peer) = channel.peers.get_mut(&id) else { return };
    if peer.grants == grants {
        return;
    }
    let before = std::mem::replace(&mut peer.grants, grants.clone());
    let mut data = json!({ "grants": grants.describe() });
    if let Some(by) = by {
        data["by"] = json!(by.to_string());
    }
    let may = |kind, source| grants.may_produce(kind, source);
    let denied = peer.producers.iter().filter(|(_, producer)| !may(producer.plan.kind, producer.source()));
    let denied: Vec<_> = denied.map(|(id, _)| *id).collect();
    let deaf: Vec<_> = if grants.subscribe { vec![] } else { peer.consumers.keys().copied().collect() };
    desk.post.notify(id, "grants-changed", &data);
    for producer in denied {
        closing::close_producer(channel, desk, producer, Ending::Denied);
    }
    for consumer in deaf {
        closing::close_consumer(channel, desk, consumer, Ending::Denied);
    }
    if !grants.subscribe && channel.subscribers.remove(&id) {
        channel.voices.listen_where_wanted(&mut desk.post, &channel.subscribers);
    }
    if grants.moderate && !before.moderate && channel.subscribers.contains(&id) {
        entering::tell_who_waits(channel, &mut desk.post, id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::command::Command;
    use crate::signal::entrance::Entrance;
    use crate::signal::fixture::{ANNA, BERTA, CAMERA, WATCHING, call, said, told};
    use crate::signal::grants::Publish;
    use crate::signal::peer::Peer;

    #[test]
    fn what_is_taken_ends_at_once() {
        let (mut channel, mut desk) = call();
        let mute = Grants { publish: Publish::Nothing, ..Grants::everyday() };
        for expected in [
            told(&[
                (1, "grants-changed "),
                (2, "consumer-closed producer-closed"),
                (1, "producer-closed forbidden"),
                (2, "producer-closed forbidden"),
            ]),
            vec![],
        ] {
            change(&mut channel, &mut desk, ANNA, mute.clone(), Some(By::Operator));
            assert_eq!(said(&mut desk).0, expected);
        }
        assert!(channel.producers.is_empty());

        let (mut channel, mut desk) = call();
        let deaf = Grants { subscribe: false, ..Grants::everyday() };
        change(&mut channel, &mut desk, BERTA, deaf, None);
        let (heard, commands) = said(&mut desk);
        assert_eq!(heard, told(&[(2, "grants-changed "), (2, "consumer-closed forbidden")]));
        assert_eq!(commands, [Command::CloseConsumer { consumer: WATCHING }]);
        assert!(!channel.subscribers.contains(&BERTA) && channel.producer(CAMERA).is_some());
    }

    #[test]
    fn a_new_moderator_learns_who_waits() {
        let (mut channel, mut desk) = call();
        let comer = Peer::new(desk.ids.external(), &Entrance::named("carol", "room"));
        channel.lobby.wait(PeerId(9), comer);
        let grants = Grants { moderate: true, ..Grants::everyday() };
        change(&mut channel, &mut desk, ANNA, grants, Some(By::Operator));
        assert_eq!(said(&mut desk).0, told(&[(1, "grants-changed "), (1, "peer-waiting ")]));
    }
}
