//! Other rights for a peer that is here: what it may do no longer ends, and the others see it come or go.

use serde_json::json;

use crate::base::id::{ConsumerId, PeerId, ProducerId};
use crate::signal::channel::Channel;
use crate::signal::closing::{self, Ending};
use crate::signal::desk::Desk;
use crate::signal::grants::Grants;
use crate::signal::news::News;
use crate::signal::peer::Producer;

pub(super) fn regrant(channel: &mut Channel, desk: &mut Desk, id: PeerId, grants: Grants) {
    let Some(peer) = channel.peers.get_mut(&id) else { return };
    let before = std::mem::replace(&mut peer.grants, grants);
    let grants = &peer.grants;
    let denied = |producer: &Producer| !grants.may_produce(producer.plan.kind, producer.source());
    let producers: Vec<ProducerId> =
        peer.producers.iter().filter(|(_, producer)| denied(producer)).map(|(id, _)| *id).collect();
    let consumers: Vec<ConsumerId> =
        if grants.subscribe { Vec::new() } else { peer.consumers.keys().copied().collect() };
    let (hides, subscribes) = (grants.hidden, grants.subscribe);
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::command::Command;
    use crate::signal::fixture::{ANNA, BERTA, CAMERA, WATCHING, call, said, told};

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
}
