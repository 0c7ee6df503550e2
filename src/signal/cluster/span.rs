//! One channel as this node shares it: the other members and how far each is known, the entry, and when what is told. Reads
//! no clock and sends nothing itself; [`super::spans`] carries its steps out.

use std::collections::{BTreeMap, BTreeSet};

use super::channel_messages::{RosterPage, Says};
use super::numbers::{Numbers, Taken};
use super::pages::Assembly;
use super::retry::Retry;
use super::span_news::SpanNews;
use super::told::RosterOp;
use crate::base::limits::MEMBERS_PER_CHANNEL_MAX;
use crate::base::node_id::NodeId;
use crate::base::time::{Duration, Instant};

/// How long the texts of the first comers wait for the other members.
const JOIN_WAIT: Duration = Duration::from_millis(250);
/// What happens within this time goes out together.
const TOGETHER: Duration = Duration::from_millis(5);
/// When a number is told again after the last event, then at which interval.
const TAILS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];
const TAIL_EVERY: Duration = Duration::from_secs(30);
/// A channel is listened to for so long after its last peer here has left, so that coming and going makes no churn.
const LINGER: Duration = Duration::from_secs(60);
/// While the answers to `enter` are under way nobody is asked twice.
const PATIENCE: Duration = Duration::from_millis(300);
/// The least time between two rosters for one node.
const ROSTER_GAP: Duration = Duration::from_millis(50);

#[derive(PartialEq, Debug)]
pub(super) enum SpanStep {
    Enter {
        q: u64,
        empty: bool,
    },
    Leave {
        q: u64,
    },
    Tail {
        q: u64,
        rank: u64,
    },
    Sync {
        to: NodeId,
        q: u64,
    },
    /// To who asked: this node has nobody of the channel, or has told of nobody yet.
    Nobody {
        reply: String,
    },
    Nothing {
        reply: String,
    },
    Unsubscribe,
    Tell(SpanNews),
}

#[derive(Debug, Default)]
struct Member {
    numbers: Numbers<Vec<RosterOp>>,
    rank: u64,
    pages: Option<Assembly<RosterOp>>,
    /// Its roster is wanted.
    sync: Option<Retry>,
    /// When it was last given ours.
    given: Option<Instant>,
}

#[derive(Debug)]
struct Joining {
    until: Instant,
    /// Whose rosters are waited for; None: nobody has answered.
    awaited: Option<BTreeSet<NodeId>>,
}

#[derive(Debug, Default)]
pub(super) struct Span {
    /// There are peers of it here.
    here: bool,
    /// The number of what was last told.
    q: u64,
    rank: u64,
    members: BTreeMap<NodeId, Member>,
    joining: Option<Joining>,
    entering: Option<Retry>,
    tail: Option<(Instant, usize)>,
    flush_at: Option<Instant>,
    unsubscribe_at: Option<Instant>,
}

impl Span {
    /// Numbers of earlier spans of this node are below `floor`.
    pub(super) fn new(floor: u64) -> Span {
        Span { q: floor, ..Span::default() }
    }

    pub(super) const fn q(&self) -> u64 {
        self.q
    }

    pub(super) const fn rank(&self) -> u64 {
        self.rank
    }

    pub(super) const fn is_here(&self) -> bool {
        self.here
    }

    pub(super) const fn is_joining(&self) -> bool {
        self.joining.is_some()
    }

    pub(super) fn members(&self) -> impl Iterator<Item = NodeId> {
        self.members.keys().copied()
    }

    /// Whether the roster of this member is known.
    pub(super) fn knows(&self, node: NodeId) -> bool {
        self.members.get(&node).is_some_and(|member| member.numbers.is_known())
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let own = [self.joining.as_ref().map(|joining| joining.until), self.entering.map(|retry| retry.at())];
        let more = [self.tail.map(|(at, _)| at), self.flush_at, self.unsubscribe_at];
        let syncs = self.members.values().filter_map(|member| member.sync).map(|retry| retry.at());
        own.into_iter().chain(more).flatten().chain(syncs).min()
    }

    /// The first peer here.
    pub(super) fn come(&mut self, now: Instant, bus_is_up: bool, out: &mut Vec<SpanStep>) {
        self.here = true;
        self.unsubscribe_at = None;
        self.rank = 0;
        self.q += 1;
        self.entering = Some(Retry::of_enter(now));
        self.joining = Some(Joining { until: now + JOIN_WAIT, awaited: None });
        if !bus_is_up {
            self.entering = None;
            self.settle(out);
        }
        self.act(now, out);
    }

    /// The last peer here has left.
    pub(super) fn leave(&mut self, now: Instant, out: &mut Vec<SpanStep>) {
        self.q += 1;
        out.push(SpanStep::Leave { q: self.q });
        let q = self.q;
        *self = Span { q, unsubscribe_at: Some(now + LINGER), ..Span::default() };
    }

    /// Something happened here that others are to be told.
    pub(super) fn touched(&mut self, now: Instant) {
        self.flush_at.get_or_insert(now + TOGETHER);
    }

    /// It is told now: the numbers that it takes.
    pub(super) fn tells(&mut self, now: Instant) -> u64 {
        self.q += 1;
        self.tail = Some((now + TAILS[0], 1));
        self.q
    }

    /// The flush is done.
    pub(super) fn flushed(&mut self) {
        self.flush_at = None;
    }

    /// The bus was away: whatever was told meanwhile is lost, and so is what others told. `jitter`: some time within 2 s.
    pub(super) fn bus_back(&mut self, now: Instant, jitter: Duration) {
        if !self.here {
            return;
        }
        let at = now + jitter;
        match self.members.is_empty() {
            true => self.entering = Some(Retry::of_enter(if self.is_joining() { now } else { at })),
            false => self.tail = Some((at, 0)),
        }
    }

    /// Nobody else listens to the channel.
    pub(super) fn nobody(&mut self, out: &mut Vec<SpanStep>) {
        if self.members.is_empty() && self.joining.as_ref().is_some_and(|joining| joining.awaited.is_none()) {
            self.settle(out);
        }
    }

    /// A node has ended, or is dead.
    pub(super) fn node_gone(&mut self, node: NodeId, fault: bool, out: &mut Vec<SpanStep>) {
        if self.members.remove(&node).is_some() {
            out.push(SpanStep::Tell(SpanNews::Gone { node, fault }));
            if self.members.is_empty() && !self.is_joining() {
                self.tail = None;
                out.push(SpanStep::Tell(SpanNews::Spans(false)));
            }
        }
    }

    /// A node has this channel, as it says. Whether that was not known.
    pub(super) fn is_held(&mut self, now: Instant, node: NodeId, out: &mut Vec<SpanStep>) -> bool {
        if !self.here || self.members.get(&node).is_some_and(|member| member.numbers.is_known()) {
            return false;
        }
        self.wants_roster(now, node, out)
    }

    /// A node does not have it any more: it is asked, and says so.
    pub(super) fn is_not_held(&mut self, now: Instant, node: NodeId) {
        if let Some(member) = self.members.get_mut(&node) {
            member.sync.get_or_insert(Retry::of_sync(now));
        }
    }

    /// The member, new or known. None: there are too many.
    fn member(&mut self, node: NodeId, out: &mut Vec<SpanStep>) -> Option<&mut Member> {
        if !self.members.contains_key(&node) {
            if self.members.len() >= MEMBERS_PER_CHANNEL_MAX {
                return None;
            }
            if self.members.is_empty() && !self.is_joining() {
                // What happened while nobody was told has no numbers.
                self.q += 1;
                out.push(SpanStep::Tell(SpanNews::Spans(true)));
            }
        }
        Some(self.members.entry(node).or_default())
    }

    fn wants_roster(&mut self, at: Instant, node: NodeId, out: &mut Vec<SpanStep>) -> bool {
        let Some(member) = self.member(node, out) else { return false };
        member.sync.get_or_insert(Retry::of_sync(at)).at() == at
    }

    /// What another member says. `reply`: where it wants the answer.
    pub(super) fn hear(
        &mut self,
        now: Instant,
        from: (NodeId, NodeId),
        says: Says,
        reply: Option<String>,
        out: &mut Vec<SpanStep>,
    ) {
        let (node, me) = from;
        if !self.here {
            if let (Says::Sync { .. }, Some(reply)) = (says, reply) {
                out.push(SpanStep::Nobody { reply });
            }
            return;
        }
        let patient = if self.is_joining() { now + PATIENCE } else { now };
        match says {
            Says::Enter { q, empty } => self.entered(now, node, q, empty, reply, out),
            Says::Roster(page) => self.roster(now, node, me, page, out),
            Says::Change { q, rank, told } => {
                let Some(member) = self.member(node, out) else { return };
                member.rank = rank;
                match member.numbers.take(q, told) {
                    Taken::Old => {}
                    Taken::Gap => drop(member.sync.get_or_insert(Retry::of_sync(patient))),
                    Taken::Next(next) => tell(node, next, out),
                }
            }
            Says::Leave { q } => {
                if self.members.get(&node).is_some_and(|member| member.numbers.ends(q)) {
                    self.node_gone(node, false, out);
                }
            }
            Says::Tail { q, rank } => {
                let Some(member) = self.member(node, out) else { return };
                member.rank = rank;
                if member.numbers.is_behind(q) {
                    member.sync.get_or_insert(Retry::of_sync(patient));
                }
            }
            Says::Sync { q } => {
                let Some(member) = self.member(node, out) else { return };
                if member.numbers.is_behind(q) {
                    member.sync.get_or_insert(Retry::of_sync(patient));
                }
                let lately = member.given.is_some_and(|at| now.since(at) < ROSTER_GAP);
                if let (false, Some(reply)) = (lately, reply) {
                    member.given = Some(now);
                    self.give(reply, out);
                }
            }
            // Not about the roster.
            Says::Act { .. } => {}
        }
        self.act(now, out);
    }

    fn entered(
        &mut self,
        now: Instant,
        node: NodeId,
        q: u64,
        empty: bool,
        reply: Option<String>,
        out: &mut Vec<SpanStep>,
    ) {
        let Some(member) = self.member(node, out) else { return };
        member.given = Some(now);
        if empty {
            if let Some(next) = member.numbers.whole(q) {
                member.sync = None;
                out.push(SpanStep::Tell(SpanNews::Roster { node, told: Vec::new(), joining: false }));
                tell(node, next, out);
            }
        } else if member.numbers.is_behind(q) {
            member.sync.get_or_insert(Retry::of_sync(now));
        }
        if let Some(reply) = reply {
            self.give(reply, out);
        }
    }

    /// The own roster goes to who asked for it.
    fn give(&self, reply: String, out: &mut Vec<SpanStep>) {
        out.push(match self.is_joining() {
            true => SpanStep::Nothing { reply },
            false => SpanStep::Tell(SpanNews::RosterWanted { reply }),
        });
    }

    fn roster(&mut self, now: Instant, node: NodeId, me: NodeId, page: RosterPage, out: &mut Vec<SpanStep>) {
        let RosterPage { q, rank, page, of, members, told } = page;
        self.entering = None;
        if let Some(joining) = &mut self.joining {
            let others = || members.into_iter().filter(|member| *member != me).chain([node]).collect();
            joining.awaited.get_or_insert_with(others);
        }
        let joining = self.is_joining();
        let Some(member) = self.member(node, out) else { return };
        member.rank = rank;
        if let Some(told) = Assembly::take(&mut member.pages, q, page, of, told)
            && let Some(next) = member.numbers.whole(q)
        {
            let again = member.numbers.is_behind(q);
            member.sync = again.then(|| Retry::of_sync(now + ROSTER_GAP));
            out.push(SpanStep::Tell(SpanNews::Roster { node, told, joining }));
            tell(node, next, out);
        }
        let awaited = self.joining.as_ref().and_then(|joining| joining.awaited.as_ref());
        if awaited.is_some_and(|awaited| awaited.iter().all(|node| self.knows(*node))) {
            self.settle(out);
        }
    }

    /// The joining has ended: the comers' texts are taken, and the others are told of them.
    fn settle(&mut self, out: &mut Vec<SpanStep>) {
        self.joining = None;
        let highest = self.members.values().map(|member| member.rank).max().unwrap_or(0);
        // What a member says is at most half of what there is, and so is this.
        self.rank = (highest + 1).min(u64::MAX / 2);
        let spans = !self.members.is_empty();
        if !spans {
            // The comers are told to nobody.
            self.q += 1;
        }
        out.push(SpanStep::Tell(SpanNews::Joined { spans }));
    }

    /// What time alone brings.
    pub(super) fn act(&mut self, now: Instant, out: &mut Vec<SpanStep>) {
        if self.joining.as_ref().is_some_and(|joining| joining.until <= now) {
            self.settle(out);
        }
        if let Some(retry) = self.entering.filter(|retry| retry.at() <= now) {
            out.push(SpanStep::Enter { q: self.q, empty: self.is_joining() });
            self.entering = retry.ask(now);
        }
        for (node, member) in &mut self.members {
            if let Some(retry) = member.sync.filter(|retry| retry.at() <= now) {
                out.push(SpanStep::Sync { to: *node, q: self.q });
                member.sync = retry.ask(now);
            }
        }
        if self.flush_at.take_if(|at| *at <= now).is_some() {
            out.push(SpanStep::Tell(SpanNews::Flush));
        }
        if let Some((_, told)) = self.tail.filter(|(at, _)| *at <= now) {
            self.tail = Some((now + TAILS.get(told).copied().unwrap_or(TAIL_EVERY), told + 1));
            out.push(SpanStep::Tail { q: self.q, rank: self.rank });
        }
        if self.unsubscribe_at.take_if(|at| *at <= now).is_some() {
            out.push(SpanStep::Unsubscribe);
        }
    }
}

fn tell(node: NodeId, told: Vec<Vec<RosterOp>>, out: &mut Vec<SpanStep>) {
    out.extend(told.into_iter().map(|told| SpanStep::Tell(SpanNews::Told { node, told })));
}

#[cfg(test)]
#[path = "span_tests.rs"]
mod tests;
