//! A channel's part of what it shares with other nodes: who of its peers is a ghost, and what happened here that the others
//! have not been told. A channel has one while it has other members.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::id::PeerId;
use crate::base::node_id::NodeId;
use crate::signal::cluster::RosterOp;
use crate::signal::meter::Cost;
use crate::signal::post::Post;

#[derive(Default)]
pub(super) struct Abroad {
    pub(super) ghosts: BTreeMap<PeerId, NodeId>,
    /// Their producers.
    pub(super) producers: usize,
    told: Vec<String>,
}

impl Abroad {
    /// At the expense of who caused it: the others are told there what they would be told here.
    pub(super) fn tell(&mut self, post: &mut Post, channel: &Arc<str>, told: &RosterOp) {
        let text = told.write();
        post.work.add(Cost::told(self.ghosts.len(), text.len()));
        if self.told.is_empty() {
            post.abroad.touched.push(channel.clone());
        }
        self.told.push(text);
    }

    pub(super) fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.told)
    }

    pub(super) fn of_node(&self, node: NodeId) -> Vec<PeerId> {
        self.ghosts.iter().filter(|(_, of)| **of == node).map(|(ghost, _)| *ghost).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_touched_once_until_it_is_taken_and_who_tells_many_pays_for_it() {
        let (mut abroad, mut post, channel) = (Abroad::default(), Post::default(), Arc::from("room"));
        let told = RosterOp::Unbanned { user: "mallory".into() };
        assert!(post.abroad.is_empty());
        abroad.tell(&mut post, &channel, &told);
        let alone = post.work;
        abroad.tell(&mut post, &channel, &told);
        assert_eq!((post.abroad.touched.len(), abroad.take()), (1, vec![told.write(), told.write()]));
        post.work = Cost::default();
        abroad.ghosts.extend((0..99).map(|ghost| (PeerId(ghost), NodeId(1 + ghost % 2))));
        abroad.tell(&mut post, &channel, &told);
        assert!(post.work != alone && post.abroad.touched.len() == 2);
        assert_eq!((abroad.of_node(NodeId(1)).len(), abroad.of_node(NodeId(3)).len()), (50, 0));
    }
}
