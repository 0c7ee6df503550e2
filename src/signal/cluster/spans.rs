//! All channels that this node shares or may share: each with its subject on the bus, and the list of them that mends what
//! interest has missed. Knows no peer and no producer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::channel_hash::ChannelHash;
use super::channel_messages::{ChannelMessage, HeldList, Says, text};
use super::heard::BusNews;
use super::messages::BusMessage;
use super::node::ClusterNode;
use super::pages;
use super::span::{Span, SpanStep};
use super::span_news::SpanNews;
use crate::base::limits::BUS_MESSAGE_BYTES_MAX;
use crate::base::node_id::NodeId;
use crate::base::time::{Duration, Instant};
use crate::signal::act::{Act, By};

const HELD_EVERY: Duration = Duration::from_secs(10);
/// All tails after an outage go out within this time.
const SPREAD_MILLIS: u64 = 2_000;
/// Of a change, what is not its list.
const ENVELOPE: usize = 4 * 1024;

struct Shared {
    span: Span,
    hash: ChannelHash,
    due: Option<Instant>,
}

#[derive(Default)]
pub(in crate::signal) struct Spans {
    by_name: BTreeMap<Arc<str>, Shared>,
    by_hash: BTreeMap<ChannelHash, Arc<str>>,
    due: BTreeSet<(Instant, Arc<str>)>,
    /// No number that this node ever gave is higher.
    floor: u64,
    held_at: Option<Instant>,
    held_part: usize,
    news: VecDeque<(Arc<str>, SpanNews)>,
    pub(in crate::signal) counts: SpanCounts,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SpanCounts {
    /// Rosters that were asked for, because something was missing.
    pub syncs: u64,
    /// Members that a list found and interest had missed.
    pub held_mends: u64,
}

impl Spans {
    pub(in crate::signal) fn poll_news(&mut self) -> Option<(Arc<str>, SpanNews)> {
        self.news.pop_front()
    }

    /// News that nobody has taken are due at once.
    pub(in crate::signal) fn deadline(&self) -> Option<Instant> {
        if !self.news.is_empty() {
            return Some(Instant::ZERO);
        }
        self.due.first().map(|(at, _)| *at).into_iter().chain(self.held_at).min()
    }

    /// Whether texts of the channel's peers wait.
    pub(in crate::signal) fn is_joining(&self, channel: &str) -> bool {
        self.by_name.get(channel).is_some_and(|shared| shared.span.is_joining())
    }

    /// Channels with other members.
    pub(in crate::signal) fn shared(&self) -> impl Iterator<Item = (&str, u64, Vec<NodeId>)> {
        let here =
            self.by_name.iter().filter(|(_, Shared { span, .. })| span.is_here() && span.members().next().is_some());
        here.map(|(name, Shared { span, .. })| (&**name, span.rank(), span.members().collect()))
    }

    /// Channels that are listened to.
    pub(in crate::signal) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// The first peer of a channel is here.
    pub(in crate::signal) fn come(&mut self, now: Instant, node: &mut ClusterNode, channel: &Arc<str>) {
        let hash = ChannelHash::of(channel);
        if !self.by_name.contains_key(channel) {
            let span = Span::new(self.floor);
            self.by_name.insert(channel.clone(), Shared { span, hash, due: None });
            self.by_hash.insert(hash, channel.clone());
            node.subscribe(node.subjects().channel(hash));
        }
        let up = node.bus_is_up();
        self.with(node, channel, |span, out| span.come(now, up, out));
    }

    /// The last peer of a channel here has left.
    pub(in crate::signal) fn leave(&mut self, now: Instant, node: &mut ClusterNode, channel: &Arc<str>) {
        self.with(node, channel, |span, out| span.leave(now, out));
    }

    /// Something happened in the channel that others are to be told.
    pub(in crate::signal) fn touched(&mut self, now: Instant, node: &mut ClusterNode, channel: &Arc<str>) {
        self.with(node, channel, |span, _| span.touched(now));
    }

    /// Tells what happened, in its order.
    pub(in crate::signal) fn tell(
        &mut self,
        now: Instant,
        node: &mut ClusterNode,
        channel: &Arc<str>,
        told: Vec<String>,
    ) {
        let Some(Shared { span, hash, .. }) = self.by_name.get_mut(channel) else { return };
        span.flushed();
        let most = BUS_MESSAGE_BYTES_MAX - ENVELOPE;
        let mut rest = told.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take_while(|told| {
                bytes += told.len() + 1;
                bytes <= most
            });
            let (now_told, later) = rest.split_at(fits.count().max(1));
            rest = later;
            let q = span.tells(now);
            let text = text::change(channel, (q, span.rank()), now_told);
            node.publish_text(node.subjects().channel(*hash), None, "change", &text);
        }
        self.with(node, channel, |_, _| {});
    }

    /// Gives who asked all that is here.
    pub(in crate::signal) fn give(
        &mut self,
        node: &mut ClusterNode,
        channel: &Arc<str>,
        reply: &str,
        all: Vec<String>,
    ) {
        let Some(Shared { span, .. }) = self.by_name.get(channel) else { return };
        let pages = pages::cut(all);
        for (page, entries) in pages.iter().enumerate() {
            let numbers = (span.q(), span.rank());
            let text = text::roster(channel, numbers, (page, pages.len()), span.members(), entries);
            node.publish_text(reply.to_owned(), None, "roster", &text);
        }
    }

    /// An act goes to the node of the peer that it is about.
    pub(in crate::signal) fn send_act(&mut self, node: &mut ClusterNode, to: NodeId, channel: &str, by: By, act: &Act) {
        let text = text::act(channel, &by, act);
        node.publish_text(node.subjects().of(to), None, "act", &text);
    }

    pub(in crate::signal) fn hear(&mut self, now: Instant, node: &mut ClusterNode, heard: BusNews) {
        match heard {
            BusNews::Said { from, subject, reply, message } => match message {
                BusMessage::Channel(message) => self.said(now, node, from, &subject, reply, *message),
                BusMessage::Held(list) => self.held(now, node, from, &list),
                BusMessage::Hello(_) | BusMessage::Bye => {}
            },
            BusNews::Nobody { inbox } => {
                let hash = node.subjects().entered(&inbox);
                if let Some(channel) = hash.and_then(|hash| self.by_hash.get(&hash)).cloned() {
                    self.with(node, &channel, |span, out| span.nobody(out));
                }
            }
            BusNews::BusBack => {
                self.held_at = Some(now);
                let channels: Vec<_> = self.by_name.iter().map(|(name, of)| (name.clone(), of.hash.low())).collect();
                for (channel, low) in channels {
                    let jitter = Duration::from_millis((u64::from(low) ^ node.id().0) % SPREAD_MILLIS);
                    self.with(node, &channel, |span, _| span.bus_back(now, jitter));
                }
            }
            BusNews::NodeJoined(other) => {
                let subject = node.subjects().of(other);
                self.parts().into_iter().for_each(|part| node.publish_to(subject.clone(), &BusMessage::Held(part)));
            }
            BusNews::NodeGone { node: gone, fault } => {
                let shared =
                    |(name, of): (&Arc<str>, &Shared)| of.span.members().any(|m| m == gone).then(|| name.clone());
                let channels: Vec<_> = self.by_name.iter().filter_map(shared).collect();
                for channel in channels {
                    self.with(node, &channel, |span, out| span.node_gone(gone, fault, out));
                }
            }
        }
    }

    fn said(
        &mut self,
        now: Instant,
        node: &mut ClusterNode,
        from: NodeId,
        subject: &str,
        reply: Option<String>,
        message: ChannelMessage,
    ) {
        let ChannelMessage { channel, says } = message;
        // Answers go to who asked, and to nobody that it names.
        let reply = reply.filter(|reply| node.subjects().is_inbox_of(reply, from));
        let Some((name, shared)) = self.by_name.get_key_value(&channel) else {
            if let (Says::Sync { .. }, Some(reply)) = (says, reply) {
                let text = text::bare("leave", &channel, self.floor);
                node.publish_text(reply, None, "leave", &text);
            }
            return;
        };
        let for_all = matches!(says, Says::Enter { .. } | Says::Change { .. } | Says::Tail { .. });
        if for_all && subject != node.subjects().channel(shared.hash) {
            return;
        }
        let name = name.clone();
        if let Says::Act { by, act } = says {
            return self.news.push_back((name, SpanNews::Act { node: from, by, act }));
        }
        let us = (from, node.id());
        self.with(node, &name, |span, out| span.hear(now, us, says, reply, out));
    }

    /// The list of a node says which channels it has: where a roster of it is missing, or one is here that it would not
    /// have, it is asked.
    fn held(&mut self, now: Instant, node: &mut ClusterNode, from: NodeId, list: &HeldList) {
        let here: Vec<_> = self.by_name.iter().filter(|(_, shared)| shared.span.is_here()).collect();
        let listed = here.into_iter().filter_map(|(name, shared)| Some((list.has(shared.hash.low())?, name, shared)));
        let differs = listed.filter(|(has, _, shared)| *has != shared.span.knows(from));
        let differs: Vec<_> = differs.map(|(has, name, shared)| (has, name.clone(), shared.hash)).collect();
        for (has, name, hash) in differs {
            let mut mended = false;
            self.with(node, &name, |span, out| {
                match has {
                    true => mended = span.is_held(now, from, out),
                    false => span.is_not_held(now, from),
                }
                span.act(now, out);
            });
            if mended {
                self.counts.held_mends += 1;
                // Interest may be what failed.
                let subject = node.subjects().channel(hash);
                node.unsubscribe(subject.clone());
                node.subscribe(subject);
            }
        }
    }

    fn parts(&self) -> Vec<HeldList> {
        let here = self.by_name.values().filter(|shared| shared.span.is_here());
        HeldList::of(here.map(|shared| shared.hash.low()))
    }

    pub(in crate::signal) fn handle_timeout(&mut self, now: Instant, node: &mut ClusterNode) {
        while let Some((_, channel)) = self.due.first().filter(|(at, _)| *at <= now).cloned() {
            self.with(node, &channel, |span, out| span.act(now, out));
        }
        if self.held_at.is_none_or(|at| at <= now) {
            self.held_at = Some(now + HELD_EVERY);
            let mut parts = self.parts();
            self.held_part = (self.held_part + 1) % parts.len();
            node.publish_to(node.subjects().nodes(), &BusMessage::Held(parts.swap_remove(self.held_part)));
        }
    }

    /// Has a channel do something, and carries out what comes of it.
    fn with(&mut self, node: &mut ClusterNode, channel: &Arc<str>, does: impl FnOnce(&mut Span, &mut Vec<SpanStep>)) {
        let Some(Shared { span, hash, .. }) = self.by_name.get_mut(channel) else { return };
        let (mut out, hash) = (Vec::new(), *hash);
        does(span, &mut out);
        let mut ends = false;
        for step in out {
            ends |= step == SpanStep::Unsubscribe;
            self.carry_out(node, channel, hash, step);
        }
        if ends {
            self.end(channel);
        }
        self.schedule(channel);
    }

    fn carry_out(&mut self, node: &mut ClusterNode, channel: &Arc<str>, hash: ChannelHash, step: SpanStep) {
        let all = node.subjects().channel(hash);
        match step {
            SpanStep::Enter { q, empty } => {
                let inbox = node.subjects().entering_inbox(hash);
                node.publish_text(all, Some(inbox), "enter", &text::enter(channel, q, empty));
            }
            SpanStep::Leave { q } => node.publish_text(all, None, "leave", &text::bare("leave", channel, q)),
            SpanStep::Tail { q, rank } => node.publish_text(all, None, "tail", &text::tail(channel, q, rank)),
            SpanStep::Sync { to, q } => {
                self.counts.syncs += 1;
                let (to, inbox) = (node.subjects().of(to), node.subjects().sync_inbox(hash));
                node.publish_text(to, Some(inbox), "sync", &text::bare("sync", channel, q));
            }
            SpanStep::Nobody { reply } => {
                let q = self.by_name.get(channel).map_or(self.floor, |shared| shared.span.q());
                node.publish_text(reply, None, "leave", &text::bare("leave", channel, q));
            }
            SpanStep::Nothing { reply } => self.give(node, channel, &reply, Vec::new()),
            SpanStep::Unsubscribe => node.unsubscribe(all),
            SpanStep::Tell(news) => self.news.push_back((channel.clone(), news)),
        }
    }

    fn end(&mut self, channel: &Arc<str>) {
        let Some(Shared { span, hash, due }) = self.by_name.remove(channel) else { return };
        self.floor = self.floor.max(span.q());
        self.by_hash.remove(&hash);
        if let Some(due) = due {
            self.due.remove(&(due, channel.clone()));
        }
    }

    fn schedule(&mut self, channel: &Arc<str>) {
        let Some(shared) = self.by_name.get_mut(channel) else { return };
        let due = shared.span.deadline();
        if due == shared.due {
            return;
        }
        if let Some(before) = std::mem::replace(&mut shared.due, due) {
            self.due.remove(&(before, channel.clone()));
        }
        if let Some(due) = due {
            self.due.insert((due, channel.clone()));
        }
    }
}
