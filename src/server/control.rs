//! The state that the signalling thread's tasks share: the hub, the open sockets and the way to the shards. Every input
//! goes through here, and the hub's outputs are carried out after each one, so that nothing waits for a later turn.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use serde_json::json;
use tokio::sync::Notify;

use super::auth::AuthKeys;
use super::bus::Bus;
use super::certificates::Certificates;
use super::clock;
use super::connections::Connections;
use super::counters::Counters;
use super::duty::Duty;
use super::end::SocketEnd;
use super::entry::{Credential, Offer, Promise};
use super::event_log::{Ear, EventLog, LoggedEvent};
use super::heard::AwakeClock;
use super::inquiries::Inquiries;
use super::outbox::Outbox;
use super::pages::Pages;
use super::posting::Posting;
use super::refusal::OpenRefusal;
use super::scrapes::Scrapes;
use super::seldom::Seldom;
use super::sockets::Sockets;
use super::tasks::Tasks;
use super::tower::Tower;
use super::turnstile::Turnstile;
use super::webhooks::{HookCounts, HookMouth};
use crate::base::id::ShardId;
use crate::base::limits::{ADMIN_CONNECTIONS_MAX, ENTRY_SOCKETS_MAX, HTTP_CONNECTIONS_MAX};
use crate::base::secret::Secret;
use crate::base::time::Instant;
use crate::shard::command::{Event, Reply};
use crate::signal::admin::{AdminOutcome, Emptying, Operation, Problem};
use crate::signal::cluster::{BusEvent, ClusterKeys, ClusterNode, ClusterSettings, NodeState};
use crate::signal::{Entrance, Hub, Interest, JournalEntry, OpenError, Origins, Output, SessionId, Verification};

pub(super) struct Control {
    hub: RefCell<Hub>,
    pub(super) sockets: Sockets,
    pub(super) awake: Rc<AwakeClock>,
    pub(super) posting: Rc<Posting>,
    pub(super) connections: Rc<Connections>,
    pub(super) admin_connections: Rc<Connections>,
    /// Sockets that have no peer yet, or get none.
    pub(super) entering: Rc<Connections>,
    pub(super) handshakes: Turnstile,
    tower: Box<dyn Tower>,
    /// The hub's deadline as the event loop last saw it.
    deadline: Cell<Option<Instant>>,
    pub(super) deadline_moved: Notify,
    pub(super) counters: Counters,
    pub(super) scrapes: Scrapes,
    pub(super) pages: Pages,
    /// What tokens are checked with; None: a name lets in.
    auth: Option<Rc<AuthKeys>>,
    /// Of the public listener; None: it speaks plain HTTP.
    pub(super) certificates: Option<Rc<Certificates>>,
    refusals: Seldom,
    pub(super) origins: Origins,
    pub(super) strangers: Seldom,
    /// Names by which the admin API may be asked for, beside addresses.
    pub(super) admin_hosts: Vec<String>,
    pub(super) duty: Duty,
    pub(super) inquiries: Inquiries,
    pub(super) events: Rc<EventLog>,
    /// None: this server is no node of a cluster.
    bus: Option<Rc<dyn Bus>>,
    /// None: there are no webhooks.
    hooks: Option<HookMouth>,
    pub(super) hook_counts: Arc<HookCounts>,
    stopping: Cell<bool>,
    pub(super) stop: Notify,
    pub(super) tasks: Rc<Tasks>,
}

/// A socket's place in the hub, and when it has to end.
pub(super) type Entered = Result<(Session, Option<Instant>), OpenRefusal>;

impl Control {
    pub(super) fn new(
        hub: Hub,
        shards: Vec<ShardId>,
        tower: Box<dyn Tower>,
        origins: Origins,
        auth: Option<Rc<AuthKeys>>,
        certificates: Option<Rc<Certificates>>,
    ) -> Control {
        Control {
            hub: RefCell::new(hub),
            sockets: Sockets::default(),
            awake: Rc::default(),
            posting: Rc::default(),
            connections: Rc::new(Connections::new(HTTP_CONNECTIONS_MAX)),
            admin_connections: Rc::new(Connections::new(ADMIN_CONNECTIONS_MAX)),
            entering: Rc::new(Connections::new(ENTRY_SOCKETS_MAX)),
            handshakes: Turnstile::default(),
            tower,
            deadline: Cell::new(None),
            deadline_moved: Notify::new(),
            counters: Counters::default(),
            scrapes: Scrapes::new(shards),
            pages: Pages::default(),
            auth,
            certificates,
            refusals: Seldom::default(),
            origins,
            strangers: Seldom::default(),
            admin_hosts: Vec::new(),
            bus: None,
            hooks: None,
            hook_counts: Arc::default(),
            duty: Duty::default(),
            inquiries: Inquiries::default(),
            events: Rc::new(EventLog::new(rand::random())),
            stopping: Cell::new(false),
            stop: Notify::new(),
            tasks: Rc::default(),
        }
    }

    /// Has webhooks told from now on, whose events are counted there.
    pub(super) fn tell(&mut self, hooks: HookMouth, counts: Arc<HookCounts>) {
        (self.hooks, self.hook_counts) = (Some(hooks), counts);
        self.hub.borrow_mut().set_interest(self.interest());
    }

    /// Makes this server a node of a cluster, which is reached by this bus.
    pub(super) fn join_cluster(&mut self, settings: ClusterSettings, bus: Rc<dyn Bus>) {
        self.bus = Some(bus);
        self.hub.borrow_mut().join_cluster(clock::now(), settings);
        self.carry_out();
    }

    pub(super) fn handle_bus(&self, event: BusEvent) {
        self.input(|hub, now| hub.handle_bus(now, event));
    }

    pub(super) fn use_cluster_keys(&self, keys: ClusterKeys) {
        self.hub.borrow_mut().use_cluster_keys(keys);
    }

    /// None: this server is no node of a cluster.
    pub(super) fn in_cluster<T>(&self, look: impl FnOnce(&ClusterNode) -> T) -> Option<T> {
        self.hub.borrow().cluster().map(look)
    }

    /// Whether this is a node that takes no sockets yet.
    pub(super) fn starting(&self) -> bool {
        self.in_cluster(|node| node.state() == NodeState::Starting) == Some(true)
    }

    /// Waits until the last words to the cluster are on their way.
    pub(super) async fn bus_flushed(&self) {
        if let Some(bus) = &self.bus {
            bus.flushed().await;
        }
    }

    /// Tells the hub how busy the shards are, and the date.
    pub(super) fn measure(&self) {
        let mut hub = self.hub.borrow_mut();
        for shard in self.scrapes.shards() {
            hub.measured_load(*shard, self.tower.load_permille(*shard));
        }
        if self.events.expire(clock::now()) {
            hub.set_interest(self.interest());
        }
        let date = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
        hub.tell_date(clock::now(), date.as_secs());
    }

    /// Whether users are those of tokens.
    pub(super) fn takes_tokens(&self) -> bool {
        self.auth.is_some()
    }

    /// What a token says, for this channel.
    fn entrance(&self, token: &Secret, channel: &str) -> Result<Entrance, OpenError> {
        let Some(auth) = &self.auth else {
            return Err(OpenError::Unauthorized("this server asks for no tokens: it runs with --auth none"));
        };
        auth.entrance(token.expose(), channel)
    }

    /// Gives a socket its peer; and until when.
    pub(super) fn enter(self: &Rc<Self>, remote: IpAddr, credential: &Credential) -> Entered {
        if self.stopping.get() {
            return Err(OpenRefusal::Stopping);
        }
        match credential {
            Credential::Names { user, channel } => self.open(remote, &Entrance::named(user, channel)),
            Credential::Token { token, channel } => match self.entrance(token, channel) {
                Ok(entrance) => self.open(remote, &entrance),
                Err(why) => self.knocked_in_vain(remote, why),
            },
            Credential::Resume { token, received } => self.resume(remote, token, *received),
        }
    }

    /// Whether a token opens the admin API, and until when.
    pub(super) fn admits_operator(&self, remote: IpAddr, token: Option<&str>) -> Result<Option<Instant>, OpenRefusal> {
        self.knock(remote)?;
        let judged = match (&self.auth, token) {
            (Some(auth), Some(token)) => auth.operator(token),
            _ => Err(OpenError::Unauthorized("a token is needed here: Authorization: Bearer TOKEN")),
        };
        let judged = judged.and_then(|way| self.hub.borrow_mut().use_way(clock::now(), &way).map(|()| way.expires));
        judged.or_else(|why| self.knocked_in_vain(remote, why))
    }

    fn knocked_in_vain<T>(&self, remote: IpAddr, why: OpenError) -> Result<T, OpenRefusal> {
        let now = clock::now();
        self.hub.borrow_mut().knocked_in_vain(now, remote);
        if let Some(left_out) = self.refusals.now(now) {
            tracing::info!(code = why.code(), left_out, "a credential was refused: {why}");
        }
        Err(OpenRefusal::Hub(why))
    }

    /// Says to a request that asks for no socket whether its credential would open one.
    pub(super) fn judge(&self, remote: IpAddr, offer: &Offer) -> Result<(), OpenRefusal> {
        let judged = match offer {
            Offer::Complete(Credential::Token { token, channel }) => {
                self.knock(remote)?;
                self.entrance(token, channel).map(|_| ())
            }
            Offer::Promised(Promise::Authenticate { .. }) => Err(OpenError::Unauthorized("a token is needed here")),
            _ => Ok(()),
        };
        judged.or_else(|why| self.knocked_in_vain(remote, why))
    }

    /// Whether this address may begin a TLS handshake now.
    pub(super) fn shakes_hands(&self, remote: IpAddr) -> bool {
        self.hub.borrow_mut().shake_hands(clock::now(), remote).is_ok()
    }

    /// Lets a socket without a peer wait for what it has to say, or says why not.
    pub(super) fn knock(&self, remote: IpAddr) -> Result<(), OpenRefusal> {
        if self.stopping.get() {
            return Err(OpenRefusal::Stopping);
        }
        self.hub.borrow_mut().knock(clock::now(), remote).map_err(OpenRefusal::Hub)
    }

    fn open(self: &Rc<Self>, remote: IpAddr, entrance: &Entrance) -> Entered {
        let (now, mut hub) = (clock::now(), self.hub.borrow_mut());
        let id = hub.open(now, remote, entrance).map_err(|why| {
            hub.kept_out(now, remote, entrance, &why);
            OpenRefusal::Hub(why)
        })?;
        drop(hub);
        Ok((self.session(id), entrance.expires))
    }

    /// Gives a socket the peer that comes back.
    fn resume(self: &Rc<Self>, remote: IpAddr, token: &Secret, received: Option<u64>) -> Entered {
        let resumed = self.hub.borrow_mut().resume(clock::now(), remote, token.expose(), received);
        match resumed {
            Ok(id) => Ok((self.session(id), None)),
            Err(error) => {
                // It may have ended the peer.
                self.carry_out();
                self.knocked_in_vain(remote, error.into())
            }
        }
    }

    fn session(self: &Rc<Self>, id: SessionId) -> Session {
        let outbox = self.sockets.open(id);
        self.counters.socket_opened();
        self.carry_out();
        Session { control: self.clone(), id, outbox, open: true }
    }

    pub(super) fn handle_event(&self, shard: ShardId, event: Event) {
        match event {
            Event::Answer { request, reply: Reply::Metrics(metrics) } => {
                self.scrapes.answered(shard, request, *metrics)
            }
            Event::Answer { request, reply: Reply::Stats(mut stats) } => {
                if !self.inquiries.answered(request, &mut stats) {
                    let event = Event::Answer { request, reply: Reply::Stats(stats) };
                    self.input(|hub, now| hub.handle_event(now, event));
                }
            }
            event => self.input(|hub, now| hub.handle_event(now, event)),
        }
    }

    pub(super) fn handle_timeout(&self) {
        self.input(|hub, now| hub.handle_timeout(now));
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline.get()
    }

    pub(super) fn tower(&self) -> &dyn Tower {
        &*self.tower
    }

    pub(super) fn counts(&self) -> crate::signal::Counts {
        self.hub.borrow().counts()
    }

    pub(super) fn operate(&self, operation: &Operation) -> Result<AdminOutcome, Problem> {
        let outcome = self.hub.borrow_mut().administer(clock::now(), operation);
        self.carry_out();
        if matches!(operation, Operation::Revoke(..)) {
            self.events.let_guests_go();
        }
        outcome
    }

    /// Removes some of a channel's peers. True: none is left of those that it had.
    pub(super) fn empty(&self, emptying: &Emptying) -> bool {
        let empty = self.hub.borrow_mut().empty(clock::now(), emptying);
        self.carry_out();
        empty
    }

    /// A listener of the event stream. None: there are too many.
    pub(super) fn listen(&self, last: Option<&str>, guest: bool) -> Option<Ear> {
        let ear = self.events.listen(last, guest)?;
        self.hub.borrow_mut().set_interest(self.interest());
        Some(ear)
    }

    fn interest(&self) -> Interest {
        match (self.events.is_kept(), &self.hooks) {
            (true, _) => Interest::Everything,
            (false, Some(_)) => Interest::Milestones,
            (false, None) => Interest::Nothing,
        }
    }

    fn publish(&self, entry: JournalEntry) {
        let kind = entry.what.name();
        let text = json!({ "type": kind, "timestamp": clock::timestamp(), "data": entry.data }).to_string();
        let text = Arc::<str>::from(text);
        if let (Some(hooks), Some(channel), Interest::Milestones) = (&self.hooks, &entry.channel, entry.what.interest())
        {
            hooks.say(channel, &text);
        }
        if self.events.is_kept() {
            self.events.push(LoggedEvent { kind, channel: entry.channel, text });
        }
    }

    /// Opens no socket from now on, and tells the open ones to go.
    pub(super) fn begin_stop(&self) {
        self.stopping.set(true);
        self.events.end();
        self.hub.borrow_mut().leave_cluster();
        self.sockets.end_all(&SocketEnd::Shutdown);
        self.input(|hub, now| hub.end_away(now, SocketEnd::NAMES[SocketEnd::Shutdown.index()]));
        self.stop.notify_waiters();
    }

    /// Ends the log, which waits for nothing any more.
    pub(super) fn end_log(&self) {
        self.hub.borrow_mut().end_log(clock::now());
    }

    pub(super) fn stopping(&self) -> bool {
        self.stopping.get()
    }

    fn input(&self, input: impl FnOnce(&mut Hub, Instant)) {
        input(&mut self.hub.borrow_mut(), clock::now());
        self.carry_out();
    }

    fn carry_out(&self) {
        let mut hub = self.hub.borrow_mut();
        while let Some(output) = hub.poll_output() {
            match output {
                Output::Send { session, text, about } => {
                    if self.sockets.send(&self.posting, session, text, about) {
                        self.counters.message_sent();
                    }
                }
                Output::Disconnect { session, code, reason } => {
                    self.sockets.end(session, SocketEnd::Refused { code, reason: reason.to_string() });
                }
                Output::Command { shard, command } => self.tower.send(shard, command),
                Output::Verify(question) => {
                    let Verification { peer, channel, token, tag } = *question;
                    hub.verified(clock::now(), peer, &tag, self.entrance(&token, &channel));
                }
            }
        }
        while let Some(entry) = hub.poll_journal() {
            self.publish(entry);
        }
        if let Some(bus) = &self.bus {
            while let Some(output) = hub.poll_bus() {
                bus.carry_out(output);
            }
        }
        self.sockets.keep_to_budget();
        let deadline = hub.poll_timeout();
        if self.deadline.replace(deadline) != deadline {
            self.deadline_moved.notify_one();
        }
    }
}

/// One open socket's place in the hub. Dropping it closes the session, so that nothing stays behind whichever way the
/// socket's task ends.
pub(super) struct Session {
    control: Rc<Control>,
    id: SessionId,
    outbox: Rc<Outbox>,
    open: bool,
}

impl Session {
    pub(super) fn outbox(&self) -> &Rc<Outbox> {
        &self.outbox
    }

    pub(super) fn handle_text(&self, text: &str) {
        self.control.input(|hub, now| hub.handle_text(now, self.id, text));
    }

    pub(super) fn handle_binary(&self, bytes: usize) {
        self.control.input(|hub, now| hub.handle_binary(now, self.id, bytes));
    }

    pub(super) fn handle_control(&self, bytes: usize) {
        self.control.input(|hub, now| hub.handle_control(now, self.id, bytes));
    }

    pub(super) fn handle_overhead(&self, bytes: usize) {
        self.control.input(|hub, now| hub.handle_overhead(now, self.id, bytes));
    }

    /// Whether this client's silence means that its connection is broken.
    pub(super) fn pings_regularly(&self) -> bool {
        self.control.hub.borrow().pings_regularly(self.id)
    }

    pub(super) fn look_at_budget(&self) {
        self.control.sockets.keep_to_budget();
    }

    /// Unwritten frames stay in the outbox.
    pub(super) fn close(mut self, end: &SocketEnd) -> Rc<Outbox> {
        self.leave(end);
        self.outbox.clone()
    }

    fn leave(&mut self, end: &SocketEnd) {
        if std::mem::take(&mut self.open) {
            self.control.sockets.close(self.id);
            self.control.counters.socket_closed(end);
            let why = SocketEnd::NAMES[end.index()];
            self.control.input(|hub, now| match end.is_break() {
                true => hub.broken(now, self.id, why),
                false => hub.leave(now, self.id, why),
            });
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.leave(&SocketEnd::Lost);
    }
}
