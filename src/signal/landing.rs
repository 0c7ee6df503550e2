//! Where the media of a ghost's producer comes in: on the shard of its peer's first consumer here, which has it from its
//! home, and from which the other shards have it as from any.

use crate::base::id::{PeerId, ProducerId, ShardId};
use crate::shard::command::{Command, ImportSpec, ProducerSpec};
use crate::signal::channel::Channel;
use crate::signal::peer::{Peer, Producer};
use crate::signal::place::PeerPlace;
use crate::signal::post::Post;

/// The home of a producer for a consumer on this shard. The first consumer of a ghost's producer orders its import.
fn home(channel: &mut Channel, post: &mut Post, source: PeerId, id: ProducerId, consumer: ShardId) -> Option<ShardId> {
    let peer = channel.peers.get_mut(&source)?;
    let PeerPlace::There { node, landing } = &mut peer.place else { return peer.place.shard() };
    let home = *landing.get_or_insert(consumer);
    let node = *node;
    let producer = peer.producers.get_mut(&id)?;
    let (uuid, spec) = (producer.external.to_bytes(), Box::new(import_spec(&producer.plan.spec)));
    let abroad = producer.abroad.as_mut()?;
    if !std::mem::replace(&mut abroad.imported, true) {
        post.command(home, Command::Import { producer: id, uuid, from: (node, abroad.shard), spec });
    }
    Some(home)
}

fn import_spec(spec: &ProducerSpec) -> ImportSpec {
    let ProducerSpec { codec, clock_rate, ref encodings, top, ranking, .. } = *spec;
    ImportSpec { codec, clock_rate, encodings: encodings.len(), top, ranking }
}

/// A shard has it no more; its consumers are told by the shard.
pub(super) fn lost<'a>(mut channels: impl Iterator<Item = &'a mut Channel>, id: ProducerId) {
    let Some(channel) = channels.find(|channel| channel.producers.contains_key(&id)) else { return };
    let Some(peer) = channel.producers.get(&id).and_then(|owner| channel.peers.get_mut(owner)) else { return };
    if let Some(abroad) = peer.producers.get_mut(&id).and_then(|producer| producer.abroad.as_mut()) {
        abroad.imported = false;
        rest(peer);
    }
}

/// Has a consumer on this shard get the producer, as its home says.
pub(super) fn order(
    channel: &mut Channel,
    post: &mut Post,
    (source, id): (PeerId, ProducerId),
    shard: ShardId,
    consume: impl FnOnce(ShardId) -> Command,
) {
    if let Some(home) = home(channel, post, source, id, shard) {
        post.command(shard, consume(home));
    }
}

/// Its last consumer here is gone.
pub(super) fn let_go(peer: &mut Peer, post: &mut Post, id: ProducerId) {
    let PeerPlace::There { landing, .. } = peer.place else { return };
    let Some(producer) = peer.producers.get_mut(&id).filter(|producer| producer.consumers.is_empty()) else { return };
    let imported = producer.abroad.as_mut().is_some_and(|abroad| std::mem::take(&mut abroad.imported));
    if let Some(home) = landing.filter(|_| imported) {
        post.command(home, Command::DropImport { producer: id });
    }
    rest(peer);
}

/// The producer has ended, and its consumers with it.
pub(super) fn ended(peer: &mut Peer, post: &mut Post, id: ProducerId, producer: &Producer) {
    let imported = producer.abroad.is_some_and(|abroad| abroad.imported);
    if let PeerPlace::There { landing: Some(home), .. } = peer.place
        && imported
    {
        post.command(home, Command::DropImport { producer: id });
        rest(peer);
    }
}

/// With its last import a peer has no landing any more: the next consumer finds another.
fn rest(peer: &mut Peer) {
    let imported = peer.producers.values().any(|producer| producer.abroad.is_some_and(|abroad| abroad.imported));
    if let (PeerPlace::There { landing, .. }, false) = (&mut peer.place, imported) {
        *landing = None;
    }
}

/// The ghosts' producers that came in on this shard, which has lost them.
pub(super) fn lost_with(channel: &Channel, shard: ShardId) -> Vec<ProducerId> {
    let ghosts = channel.abroad.iter().flat_map(|abroad| abroad.ghosts.keys());
    let landed = ghosts
        .filter_map(|ghost| channel.peers.get(ghost))
        .filter(|peer| matches!(peer.place, PeerPlace::There { landing: Some(landing), .. } if landing == shard));
    landed.flat_map(|peer| peer.producers.keys().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::node_id::NodeId;
    use crate::signal::fixture::{ANNA, CAMERA, WATCHING, call, said};
    use crate::signal::peer::FromAbroad;

    /// The call of the fixture with Anna on another node, and nobody watching.
    fn ghost() -> (Channel, crate::signal::desk::Desk) {
        let (mut channel, desk) = call();
        let anna = channel.peers.get_mut(&ANNA).unwrap();
        anna.place = PeerPlace::There { node: NodeId(7), landing: None };
        let camera = anna.producers.get_mut(&CAMERA).unwrap();
        camera.abroad = Some(FromAbroad { shard: ShardId(3), imported: false });
        camera.consumers.clear();
        (channel, desk)
    }

    #[test]
    fn the_first_consumer_orders_the_import_and_the_last_one_drops_it() {
        let (mut channel, mut desk) = ghost();
        let spec = Box::new(import_spec(&channel.producer(CAMERA).unwrap().1.plan.spec));
        assert_eq!((spec.encodings, spec.clock_rate), (1, 48_000));
        let uuid = channel.producer(CAMERA).unwrap().1.external.to_bytes();
        let post = &mut desk.post;
        let homes = [2, 1].map(|shard| home(&mut channel, post, ANNA, CAMERA, ShardId(shard)));
        assert_eq!(homes, [Some(ShardId(2)); 2], "other shards have it from the first");
        let import = Command::Import { producer: CAMERA, uuid, from: (NodeId(7), ShardId(3)), spec };
        assert_eq!(said(&mut desk).1, [import]);
        channel.producer_mut(CAMERA).unwrap().consumers.insert(WATCHING, ANNA);
        let anna = channel.peers.get_mut(&ANNA).unwrap();
        let_go(anna, &mut desk.post, CAMERA);
        assert_eq!(said(&mut desk).1, [], "somebody watches");
        assert_eq!(lost_with(&channel, ShardId(2)), [], "the channel shares nothing");
        let anna = channel.peers.get_mut(&ANNA).unwrap();
        anna.producers.get_mut(&CAMERA).unwrap().consumers.clear();
        let_go(anna, &mut desk.post, CAMERA);
        assert_eq!(said(&mut desk).1, [Command::DropImport { producer: CAMERA }]);
        assert_eq!(anna_lands(&channel), None);
        let_go(channel.peers.get_mut(&ANNA).unwrap(), &mut desk.post, CAMERA);
        assert_eq!(said(&mut desk).1, [], "once");
    }

    fn anna_lands(channel: &Channel) -> Option<ShardId> {
        match channel.peers[&ANNA].place {
            PeerPlace::There { landing, .. } => landing,
            PeerPlace::Here(_) => panic!("she is a ghost"),
        }
    }

    #[test]
    fn a_producer_that_ends_takes_its_import_with_it() {
        let (mut channel, mut desk) = ghost();
        home(&mut channel, &mut desk.post, ANNA, CAMERA, ShardId(0));
        channel.abroad.get_or_insert_default().ghosts.insert(ANNA, NodeId(7));
        assert_eq!(lost_with(&channel, ShardId(0)), [CAMERA]);
        assert_eq!(lost_with(&channel, ShardId(1)), []);
        let anna = channel.peers.get_mut(&ANNA).unwrap();
        let camera = anna.producers.remove(&CAMERA).unwrap();
        ended(anna, &mut desk.post, CAMERA, &camera);
        assert_eq!(said(&mut desk).1[1..], [Command::DropImport { producer: CAMERA }]);
        assert_eq!(anna_lands(&channel), None);
    }

    #[test]
    fn an_import_that_is_lost_is_ordered_anew_by_the_next_consumer() {
        let (mut channel, mut desk) = ghost();
        home(&mut channel, &mut desk.post, ANNA, CAMERA, ShardId(0));
        lost([&mut channel].into_iter(), CAMERA);
        assert_eq!((anna_lands(&channel), said(&mut desk).1.len()), (None, 1));
        assert_eq!(home(&mut channel, &mut desk.post, ANNA, CAMERA, ShardId(1)), Some(ShardId(1)));
        assert!(matches!(said(&mut desk).1[..], [Command::Import { .. }]));
    }

    #[test]
    fn a_producer_of_this_node_is_at_home_where_it_is() {
        let (mut channel, mut desk) = call();
        assert_eq!(home(&mut channel, &mut desk.post, ANNA, CAMERA, ShardId(5)), Some(ShardId(0)));
        assert_eq!(said(&mut desk).1, []);
    }
}
