//! A producer is in the channel from now on, whoever has it: a peer here, or one of another node.

use serde_json::{Value, json};

use crate::base::id::{PeerId, ProducerId};
use crate::shard::command::Command;
use crate::signal::channel::{Channel, describe_producer};
use crate::signal::desk::Desk;
use crate::signal::news::News;
use crate::signal::peer::Producer;

/// Returns what the others were told.
pub(super) fn announce(
    channel: &mut Channel,
    desk: &mut Desk,
    owner: PeerId,
    id: ProducerId,
    producer: Producer,
) -> Value {
    let (kind, external) = (producer.plan.kind, producer.external);
    let mut news = describe_producer(&producer, &mut usize::MAX.clone());
    let Some(peer) = channel.peers.get_mut(&owner) else { return news };
    news["peerId"] = json!(peer.external.to_string());
    news["user"] = json!(&*peer.user);
    peer.producers.insert(id, producer);
    channel.producers.insert(id, owner);
    channel.by_external.insert(external, id);
    desk.owners.producers.insert(id, owner);
    desk.placement.producer_added(&mut channel.spread, kind);
    if let (Some(_), Some(shard)) = (desk.node, channel.peers.get(&owner).and_then(|peer| peer.place.shard())) {
        desk.post.command(shard, Command::Publish { producer: id, uuid: external.to_bytes() });
    }
    channel.tell_others(&mut desk.post, owner, &News::new_producer(id), &news);
    news
}
