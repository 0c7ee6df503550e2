//! A shard has lost what came in on it from other nodes: its consumers on all shards end, and their clients consume anew.

use crate::base::id::ShardId;
use crate::shard::command::Closed;
use crate::signal::channel::Channel;
use crate::signal::closing::{self, Ending};
use crate::signal::desk::Desk;
use crate::signal::landing;

pub(super) fn shard_lost(channel: &mut Channel, desk: &mut Desk, shard: ShardId) {
    for producer in landing::lost_with(channel, shard) {
        let consumers = channel.producer(producer).map(|(_, producer)| producer.consumers.keys().copied());
        for consumer in consumers.map(|ids| ids.collect::<Vec<_>>()).unwrap_or_default() {
            closing::close_consumer(channel, desk, consumer, Ending::Ordered(Closed::Fault));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::node_id::NodeId;
    use crate::shard::command::Command;
    use crate::signal::fixture::{ANNA, CAMERA, WATCHING, call, said, told};
    use crate::signal::peer::FromAbroad;
    use crate::signal::place::PeerPlace;

    #[test]
    fn who_watches_by_way_of_the_shard_is_told_that_it_failed() {
        let (mut channel, mut desk) = call();
        let anna = channel.peers.get_mut(&ANNA).unwrap();
        anna.place = PeerPlace::There { node: NodeId(7), landing: Some(ShardId(1)) };
        anna.producers.get_mut(&CAMERA).unwrap().abroad = Some(FromAbroad { shard: ShardId(3), imported: true });
        channel.abroad.get_or_insert_default().ghosts.insert(ANNA, NodeId(7));
        shard_lost(&mut channel, &mut desk, ShardId(0));
        assert_eq!(said(&mut desk), (vec![], vec![]), "it landed on another");
        shard_lost(&mut channel, &mut desk, ShardId(1));
        let commands = vec![Command::CloseConsumer { consumer: WATCHING }, Command::DropImport { producer: CAMERA }];
        assert_eq!(said(&mut desk), (told(&[(2, "consumer-closed fault")]), commands));
        assert!(channel.producer(CAMERA).is_some(), "it goes on elsewhere");
    }
}
