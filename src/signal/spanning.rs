//! The channels of the hub as the other members of a cluster see them: what those tell is done to the ghosts here, and what
//! happens here is told to them.

use std::sync::Arc;

use crate::base::node_id::NodeId;
use crate::base::time::Instant;
use crate::signal::act::{Act, Actor, By};
use crate::signal::channel::Channel;
use crate::signal::cluster::{RosterOp, SpanNews};
use crate::signal::clustered::ClusterDesk;
use crate::signal::desk::Desk;
use crate::signal::entering;
use crate::signal::ghosts;
use crate::signal::hub::Hub;
use crate::signal::meter::Cost;
use crate::signal::outbox::ActAbroad;
use crate::signal::session::SessionId;
use crate::signal::{moderation, telling};

impl Hub {
    /// Takes what came from the other nodes, until there is nothing left.
    pub(super) fn heed_others(&mut self, now: Instant) {
        self.cluster.tell_shards(&mut self.desk, None);
        while let Some(cluster) = &mut self.cluster.0 {
            if let Some(heard) = cluster.node.poll_heard() {
                cluster.spans.hear(now, &mut cluster.node, heard);
            } else if let Some((channel, news)) = cluster.spans.poll_news() {
                // Nobody here pays for what others do: their nodes have had it paid.
                self.desk.post.work = Cost::default();
                self.take_news(now, &channel, news);
                self.let_go_the_lost(now);
            } else {
                break;
            }
        }
    }

    /// What happened here goes to the other nodes: acts at once, after what happened before them.
    fn heed_outbox(&mut self, now: Instant) {
        for channel in std::mem::take(&mut self.desk.post.abroad.touched) {
            if let Some(cluster) = &mut self.cluster.0 {
                cluster.spans.touched(now, &mut cluster.node, &channel);
            }
        }
        for ActAbroad { channel, node, by, act } in std::mem::take(&mut self.desk.post.abroad.acts) {
            self.flush(now, &channel);
            if let Some(cluster) = &mut self.cluster.0 {
                cluster.spans.send_act(&mut cluster.node, node, &channel, by, &act);
            }
        }
    }

    fn flush(&mut self, now: Instant, channel: &Arc<str>) {
        let place = self.names.get(channel).and_then(|key| self.channels.get_mut(*key));
        let told = place.and_then(|place| place.abroad.as_mut()).map(|abroad| abroad.take()).unwrap_or_default();
        if let Some(cluster) = &mut self.cluster.0 {
            cluster.spans.tell(now, &mut cluster.node, channel, told);
        }
    }

    fn take_news(&mut self, now: Instant, channel: &Arc<str>, news: SpanNews) {
        match news {
            SpanNews::Flush => return self.flush(now, channel),
            SpanNews::RosterWanted { reply } => {
                self.flush(now, channel);
                return self.give_roster(now, channel, &reply);
            }
            SpanNews::Joined { spans } => return self.joined(now, channel, spans),
            _ => {}
        }
        let Hub { desk, names, channels, .. } = self;
        let Some(place) = names.get(channel).and_then(|key| channels.get_mut(*key)) else { return };
        match news {
            SpanNews::Spans(true) => drop(place.abroad.get_or_insert_default()),
            // Its ghosts have ended.
            SpanNews::Spans(false) => place.abroad = None,
            SpanNews::Roster { node, told, joining } => ghosts::roster(now, place, desk, node, told, joining),
            SpanNews::Told { node, told } => {
                told.into_iter().for_each(|told| ghosts::happened(now, place, desk, node, told));
            }
            SpanNews::Gone { node, fault } => ghosts::gone(place, desk, node, fault),
            SpanNews::Act { node, by, act } => act_of_another(now, place, desk, (node, by), *act),
            SpanNews::Flush | SpanNews::RosterWanted { .. } | SpanNews::Joined { .. } => {}
        }
    }

    /// What other members have set and whom they have banned is known: who may be here is let in, and told of.
    fn joined(&mut self, now: Instant, channel: &Arc<str>, spans: bool) {
        let Hub { desk, names, channels, members, .. } = self;
        if let Some(place) = names.get(channel).and_then(|key| channels.get_mut(*key)) {
            for id in ghosts::judge(now, place, desk) {
                let Some(member) = members.get(id) else { continue };
                let crowded = entering::back_to_the_door(place, &mut desk.post, id, &member.holder);
                desk.dismissals.extend(crowded);
            }
        }
        self.let_go_the_lost(now);
        let Hub { desk, names, channels, cluster, .. } = self;
        if let (true, Some(place)) = (spans, names.get(channel).and_then(|key| channels.get_mut(*key))) {
            // What happened so far is in it.
            place.abroad.get_or_insert_default().take();
            let all = everything(now, place, desk);
            if let Some(cluster) = &mut cluster.0 {
                cluster.spans.tell(now, &mut cluster.node, channel, all);
            }
        }
        let texts = self.cluster.0.as_mut().map(|cluster| cluster.waiting.release(channel)).unwrap_or_default();
        for (session, text) in texts {
            self.take_text(now, session, &text);
        }
    }

    fn give_roster(&mut self, now: Instant, channel: &Arc<str>, reply: &str) {
        let Hub { desk, names, channels, cluster, .. } = self;
        let Some(place) = names.get(channel).and_then(|key| channels.get(*key)) else { return };
        let all = everything(now, place, desk);
        if let Some(cluster) = &mut cluster.0 {
            cluster.spans.give(&mut cluster.node, channel, reply, all);
        }
    }

    pub fn handle_text(&mut self, now: Instant, session: SessionId, text: &str) {
        if !self.waits(now, session, text) {
            self.take_text(now, session, text);
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.heed_outbox(now);
        self.time_passes(now);
        self.tell_of_the_away(now);
        self.heed_others(now);
    }

    /// Whether a text has to wait until the other members of its peer's channel are known.
    fn waits(&mut self, now: Instant, session: SessionId, text: &str) -> bool {
        let Some(ClusterDesk { spans, waiting, .. }) = self.cluster.0.as_deref_mut() else { return false };
        let peer = self.desk.post.mailboxes.peer_of(session);
        let member = peer.and_then(|peer| self.members.get(peer));
        let Some(channel) = member.and_then(|member| self.channels.get(member.channel)) else { return false };
        if !spans.is_joining(&channel.name) {
            return false;
        }
        if waiting.hold(&channel.name, session, text) {
            return true;
        }
        // Their order matters more than what they could be told.
        for (session, text) in waiting.release(&channel.name.clone()) {
            self.take_text(now, session, &text);
        }
        false
    }
}

/// All that others may know of a channel.
fn everything(now: Instant, channel: &Channel, desk: &Desk) -> Vec<String> {
    let settings = channel.set_by.map(|(counter, node)| {
        RosterOp::Settings { settings: channel.lobby.settings(counter, node), by: None }.write()
    });
    let ban = |(user, until): (&str, Instant)| {
        let seconds = until.since(now).as_secs().max(1);
        RosterOp::Banned { user: user.into(), seconds, by: By::Operator, notice: None }.write()
    };
    let bans = desk.bans.of(&channel.name).map(ban);
    settings.into_iter().chain(bans).chain(telling::all(&channel.peers, &channel.producers)).collect()
}

/// A moderator elsewhere acts on a peer that is here, or on a producer of one.
fn act_of_another(now: Instant, channel: &mut Channel, desk: &mut Desk, who: (NodeId, By), act: Act) {
    let about = match &act {
        Act::MuteProducer { producer, .. } | Act::StopProducer { producer } => {
            channel.find_producer(producer).and_then(|id| channel.producers.get(&id).copied())
        }
        Act::MutePeer { peer, .. }
        | Act::RemovePeer { peer, ban: None, .. }
        | Act::SetGrants { peer, .. }
        | Act::Rename { peer: Some(peer), .. }
        | Act::SetAppData { peer: Some(peer), .. } => channel.find_peer(peer),
        // What is about the channel is told to all.
        _ => None,
    };
    let here = about.and_then(|id| channel.peers.get(&id)).is_some_and(|peer| peer.place.node().is_none());
    let actor: Option<Actor> = ghosts::actor(channel, who.0, who.1).filter(|_| here);
    let done = actor.map(|actor| moderation::take(now, channel, desk, actor, act));
    if !matches!(done, Some(Ok(_))) {
        desk.ghosts.refused += 1;
    }
}
