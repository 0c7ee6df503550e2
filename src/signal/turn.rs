//! One client's turn: the handling of each request. A turn sees the client's own channel and nothing of the others.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::base::id::{ConsumerId, PeerId, ProducerId, ShardId, TransportId};
use crate::base::limits::{
    CONSUMERS_PER_PEER_AND_PRODUCER_MAX, CONSUMERS_PER_PEER_MAX, CONSUMERS_PER_PRODUCER_MAX, FINGERPRINTS_PER_PEER_MAX,
    PRODUCERS_PER_CHANNEL_MAX, PRODUCERS_PER_PEER_MAX, TRANSPORTS_PER_PEER_MAX, TRANSPORTS_PER_SHARD_MAX,
};
use crate::base::secret::Secret;
use crate::base::time::Instant;
use crate::shard::command::{Announcement, Closed, Command, StatsOf, TransportState};
use crate::signal::act::{Act, Actor};
use crate::signal::channel::Channel;
use crate::signal::closing::{self, Ending};
use crate::signal::desk::Desk;
use crate::signal::entering;
use crate::signal::entry_message::EntryTag;
use crate::signal::get_stats::Question;
use crate::signal::journal::Occurrence;
use crate::signal::landing;
use crate::signal::last_n::LastN;
use crate::signal::listing::Listing;
use crate::signal::message::{Code, Refusal, RequestTag};
use crate::signal::moderation;
use crate::signal::muting;
use crate::signal::news::News;
use crate::signal::ortc::kind_name;
use crate::signal::ortc::{self, ConsumerIdentity, OrtcError};
use crate::signal::pause::Pause;
use crate::signal::pausing;
use crate::signal::peer::{Consumer, Peer, Producer, Transport};
use crate::signal::permission;
use crate::signal::place::PeerPlace;
use crate::signal::post::{Output, Verification};
use crate::signal::producing;
use crate::signal::quota::Holder;
use crate::signal::request::{Consume, Direction, Produce, Request, StatsTarget};
use crate::signal::returns;
use crate::signal::voice::Speaker;

pub(super) enum Answer {
    Now {
        kind: &'static str,
        data: Value,
    },
    /// With a resume token beside it.
    WithToken {
        kind: &'static str,
        data: Value,
        token: Value,
    },
    /// A list between two texts, which make it the data together.
    Listed {
        kind: &'static str,
        before: String,
        listing: Arc<Listing>,
        after: String,
    },
    /// The shard is asked, and answers later.
    Later,
}

fn answer(kind: &'static str, data: Value) -> Result<Answer, Refusal> {
    Ok(Answer::Now { kind, data })
}

/// For requests whose only result is that they were done.
fn done(request: &str, id: &str) -> Result<Answer, Refusal> {
    answer("ok", json!({ "request": request, "id": id }))
}

pub(super) struct Turn<'a> {
    pub(super) now: Instant,
    pub(super) me: PeerId,
    /// The account of its objects.
    pub(super) holder: &'a Holder,
    pub(super) channel: &'a mut Channel,
    pub(super) desk: &'a mut Desk,
}

impl Turn<'_> {
    pub(super) fn take(&mut self, request: Request, tag: Option<&RequestTag>) -> Result<Answer, Refusal> {
        self.permit(&request)?;
        match request {
            Request::GetRtpCapabilities { resume } => Ok(self.capabilities(resume)),
            Request::CreateTransport { direction } => self.create_transport(direction),
            Request::ConnectTransport { transport, announcement } => {
                self.connect_transport(transport.as_deref(), announcement)
            }
            Request::Produce(produce) => self.produce(*produce),
            Request::Consume(consume) => self.consume(&consume),
            Request::Subscribe { resume } => Ok(self.subscribe(resume)),
            Request::GetProducers => Ok(Answer::Listed {
                kind: "producers",
                before: "{\"producers\":[".to_owned(),
                listing: self.channel.list_producers(&mut self.desk.post.work),
                after: "]}".to_owned(),
            }),
            Request::PauseProducer { producer } => self.pause_producer(&producer, true),
            Request::ResumeProducer { producer } => self.pause_producer(&producer, false),
            Request::CloseProducer { producer } => {
                let id = self.own_producer(&producer)?;
                closing::close_producer(self.channel, self.desk, id, Ending::Asked);
                done("close-producer", &producer)
            }
            Request::PauseConsumer { consumer } => self.pause_consumer(&consumer, true),
            Request::ResumeConsumer { consumer } => self.pause_consumer(&consumer, false),
            Request::CloseConsumer { consumer } => {
                let id = self.own_consumer(&consumer)?;
                closing::close_consumer(self.channel, self.desk, id, Ending::Asked);
                done("close-consumer", &consumer)
            }
            Request::CloseTransport { transport } => {
                let id = self.own_transport(&transport)?;
                closing::close_transport(self.channel, self.desk, id, Ending::Asked);
                done("close-transport", &transport)
            }
            Request::RestartIce { transport } => self.restart_ice(transport.as_deref()),
            Request::SetPreferredLayers { consumer, layers } => {
                let id = self.own_consumer(&consumer)?;
                self.command(Command::SetPreferredLayers { consumer: id, layers });
                done("set-preferred-layers", &consumer)
            }
            Request::KeyFrame { consumer } => {
                let id = self.own_consumer(&consumer)?;
                self.command(Command::RequestKeyFrame { consumer: id });
                done("request-key-frame", &consumer)
            }
            Request::SetLastN { n } => self.set_last_n(n),
            Request::SetPriority { consumer, priority } => {
                let id = self.own_consumer(&consumer)?;
                self.command(Command::SetPriority { consumer: id, priority });
                done("set-priority", &consumer)
            }
            Request::SetMaxBitrate { transport, incoming, outgoing } => {
                let id = self.own_transport(&transport)?;
                self.command(Command::SetMaxBitrate { transport: id, incoming, outgoing });
                done("set-max-bitrate", &transport)
            }
            Request::GetStats { of } => self.get_stats(of, tag),
            Request::Authenticate { token } => self.authenticate(token, tag),
            Request::Resume { .. } => {
                let message = "resume is the first message of a socket, and this one has its peer";
                Err(Refusal::new(Code::WrongStep, message))
            }
            Request::Ping { received } => self.ping(received),
            Request::Act(act) => self.moderate(act),
        }
    }

    /// Whether the peer may ask for this. While it waits to be let in it may keep its socket and its token alive.
    fn permit(&self, request: &Request) -> Result<(), Refusal> {
        match (self.channel.lobby.has(self.me), request) {
            (true, Request::Ping { .. } | Request::Authenticate { .. }) => Ok(()),
            (true, _) => Err(entering::not_let_in()),
            (false, _) => permission::check(self.peer(), request),
        }
    }

    fn moderate(&mut self, act: Act) -> Result<Answer, Refusal> {
        answer("ok", moderation::take(self.now, self.channel, self.desk, Actor::Peer(self.me), act)?)
    }

    fn peer(&self) -> &Peer {
        self.channel.peers.get(&self.me).expect("this is its turn, so it is there")
    }

    fn peer_mut(&mut self) -> &mut Peer {
        self.channel.peers.get_mut(&self.me).expect("this is its turn, so it is there")
    }

    fn own_transport(&self, external: &str) -> Result<TransportId, Refusal> {
        self.peer().transport(external).ok_or_else(|| Refusal::not_found("data.transportId"))
    }

    fn own_producer(&self, external: &str) -> Result<ProducerId, Refusal> {
        self.peer().producer(external).ok_or_else(|| Refusal::not_found("data.producerId"))
    }

    fn own_consumer(&self, external: &str) -> Result<ConsumerId, Refusal> {
        self.peer().consumer(external).ok_or_else(|| Refusal::not_found("data.consumerId"))
    }

    /// A command to this peer's shard; a peer without a shard has nothing a command could be about.
    fn command(&mut self, command: Command) {
        if let Some(shard) = self.peer().place.shard() {
            self.desk.post.command(shard, command);
        }
    }

    fn shard(&mut self) -> Result<ShardId, Refusal> {
        if let Some(shard) = self.peer().place.shard() {
            return Ok(shard);
        }
        let shard = self.desk.placement.place(&mut self.channel.spread);
        let shard = shard.ok_or_else(|| Refusal::new(Code::Unavailable, "no media shard is running"))?;
        self.peer_mut().place = PeerPlace::Here(Some(shard));
        Ok(shard)
    }

    fn capabilities(&mut self, resume: bool) -> Answer {
        let (kind, data) = ("rtp-capabilities", json!(ortc::router_capabilities()));
        match resume {
            true => Answer::WithToken { kind, data, token: returns::token(self.desk, self.me) },
            false => Answer::Now { kind, data },
        }
    }

    fn ping(&mut self, received: Option<u64>) -> Result<Answer, Refusal> {
        let pinged = self.desk.post.mailboxes.pinged(self.now, self.me, received);
        pinged.map_err(|_| Refusal::new(Code::BadField, "data.received: this peer was sent fewer texts"))?;
        answer("pong", Value::Null)
    }

    fn subscribe(&mut self, resume: bool) -> Answer {
        let token = resume.then(|| format!(",\"resume\":{}", returns::token(self.desk, self.me)));
        self.channel.subscribe(self.me);
        self.channel.voices.listen_where_wanted(&mut self.desk.post, &self.channel.subscribers);
        let (speaker, last_n) = (self.channel.voices.active_speaker(), json!(self.channel.voices.last_n()));
        Answer::Listed {
            kind: "subscribed",
            before: format!("{{\"peerId\":\"{}\",\"peers\":[", self.peer().external),
            listing: self.channel.list_peers(&mut self.desk.post.work),
            after: format!(
                "],\"activeSpeaker\":{speaker},\"lastN\":{last_n}{}{}}}",
                entering::standing(self.channel, self.me),
                token.as_deref().unwrap_or_default()
            ),
        }
    }

    fn create_transport(&mut self, direction: Option<Direction>) -> Result<Answer, Refusal> {
        if self.peer().transports.len() >= TRANSPORTS_PER_PEER_MAX {
            return Err(Refusal::limit("transports a peer", TRANSPORTS_PER_PEER_MAX));
        }
        let shard = self.shard()?;
        if self.desk.carried.get(&shard).is_some_and(|carried| *carried >= TRANSPORTS_PER_SHARD_MAX) {
            return Err(Refusal::limit("transports a shard of this server", TRANSPORTS_PER_SHARD_MAX));
        }
        let label = self.desk.settings.label(shard).expect("placement knows only the shards of the settings");
        let id = TransportId(self.desk.ids.number());
        self.desk.accounts.transport_made(self.now, self.holder, id)?;
        *self.desk.carried.entry(shard).or_default() += 1;
        let transport = Transport {
            external: self.desk.ids.external(),
            direction,
            state: TransportState::New,
            connected: false,
            named: false,
            fingerprints: 0,
            carried_consumers: false,
            names: self.desk.ids.names(),
        };
        let ice = self.desk.ids.ice(label);
        let mut data = json!({
            "id": transport.external.to_string(),
            "iceParameters": Desk::ice_parameters(&ice),
            "iceCandidates": self.desk.ice_candidates(shard),
            "dtlsParameters": self.desk.dtls_parameters(),
        });
        self.desk.add_ice_servers(self.now, self.peer().external, &mut data);
        self.desk.lives.transport_made(self.now, id, transport.external, self.me, shard);
        self.peer_mut().transports.insert(id, transport);
        self.desk.owners.transports.insert(id, self.me);
        self.command(Command::CreateTransport { transport: id, peer: self.me, ice });
        let (of, peer) = (&data["id"], self.peer().external);
        self.desk.post.journal.note(
            Occurrence::TransportCreated,
            &self.channel.name,
            || json!({ "id": of, "peerId": peer.to_string(), "shard": shard.0 }),
        );
        answer("transport-params", data)
    }

    fn connect_transport(&mut self, named: Option<&str>, announcement: Announcement) -> Result<Answer, Refusal> {
        let certain = named.is_some();
        let targets: Vec<TransportId> = match named {
            Some(external) => vec![self.own_transport(external)?],
            None => {
                let waiting = self.peer().transports.iter().filter(|(_, transport)| transport.awaits_announcement());
                waiting.map(|(id, _)| *id).collect()
            }
        };
        let wrong_step = |message: &str| Err(Refusal::new(Code::WrongStep, message));
        if self.peer().transports.is_empty() {
            return wrong_step("there is no transport to connect: send create-transport first");
        }
        if targets.is_empty() {
            return wrong_step("every transport of this peer is connected already");
        }
        let count = announcement.fingerprints.len();
        let max = FINGERPRINTS_PER_PEER_MAX;
        for id in &targets {
            let Some(transport) = self.peer().transports.get(id) else { continue };
            if certain && (transport.connected || transport.named) {
                return wrong_step("data.transportId: this transport was connected already");
            }
            if transport.fingerprints + count > max {
                return Err(Refusal::limit("fingerprints announced to one transport", max));
            }
        }
        if !certain {
            self.peer_mut().announcements_open += 1;
        }
        self.desk.lives.announced(self.now, self.me, &targets, certain);
        // As many announcements as transports that wait for one: each is about to be connected. With fewer, one of
        // them is, and the others may wait for an hour.
        let all_meant = certain || self.peer().announcements_open >= targets.len();
        for id in targets {
            if all_meant {
                self.desk.accounts.transport_announced(self.now, id);
            }
            if let Some(transport) = self.peer_mut().transports.get_mut(&id) {
                transport.named |= certain;
                transport.fingerprints += count;
            }
            let announcement = Announcement { certain, ..announcement.clone() };
            self.command(Command::Announce { transport: id, announcement });
        }
        answer("transport-connected", named.map_or(Value::Null, |id| json!({ "id": id })))
    }

    fn produce(&mut self, produce: Produce) -> Result<Answer, Refusal> {
        let transport = produce.transport.as_deref().map(|external| self.own_transport(external)).transpose()?;
        if self.peer().transports.is_empty() {
            let message = "there is no transport to produce on: send create-transport first";
            return Err(Refusal::new(Code::WrongStep, message));
        }
        let plan = ortc::plan_producer(produce.kind, &produce.rtp_parameters).map_err(of_ortc)?;
        let replaced = self.peer().replaced_by(&plan, transport);
        if self.peer().producers.len() - replaced.len() >= PRODUCERS_PER_PEER_MAX {
            return Err(Refusal::limit("producers a peer", PRODUCERS_PER_PEER_MAX));
        }
        if self.channel.producers_here() - replaced.len() >= PRODUCERS_PER_CHANNEL_MAX {
            return Err(Refusal::limit("producers a channel", PRODUCERS_PER_CHANNEL_MAX));
        }
        for old in replaced {
            closing::close_producer(self.channel, self.desk, old, Ending::Ordered(Closed::Replaced));
        }
        let id = ProducerId(self.desk.ids.number());
        let external = self.desk.ids.external();
        let spec = Box::new(plan.spec.clone());
        if self.peer().cname.is_none() {
            let cname = if plan.cname.is_empty() { self.desk.ids.cname() } else { plan.cname.clone() };
            self.peer_mut().cname = Some(cname);
        }
        let pause = Pause { own: produce.paused, muted: muting::begins_muted(self.channel, self.me, produce.kind) };
        let producer = Producer {
            external,
            plan,
            app_data: produce.app_data,
            app_data_bytes: produce.app_data_bytes,
            pause,
            silent: false,
            transport,
            abroad: None,
            consumers: Default::default(),
        };
        self.command(Command::Produce { producer: id, peer: self.me, transport, spec, paused: pause.holds() });
        let news = producing::announce(self.channel, self.desk, self.me, id, producer);
        self.add_voice(id);
        self.desk.post.journal.note(
            Occurrence::ProducerCreated,
            &self.channel.name,
            || json!({ "id": news["id"], "peerId": news["peerId"], "user": news["user"], "kind": news["kind"] }),
        );
        let mut data = json!({ "id": external.to_string() });
        if pause.muted {
            data["muted"] = json!(true);
        }
        answer("producer-id", data)
    }

    /// A producer without levels can be neither elected nor withheld.
    fn add_voice(&mut self, id: ProducerId) {
        let peer = self.peer();
        let Some(producer) = peer.producers.get(&id).filter(|producer| producer.states_its_level()) else { return };
        if let Some(shard) = peer.place.shard() {
            let of = Speaker { shard, producer: producer.external, peer: peer.external };
            self.channel.voices.add(&mut self.desk.post, self.now, id, of);
        }
    }

    /// The bounds on consumers: by peer, by peer and producer, by producer.
    fn may_consume(&self, producer: ProducerId) -> Result<(), Refusal> {
        if self.peer().consumers.len() >= CONSUMERS_PER_PEER_MAX {
            return Err(Refusal::limit("consumers a peer", CONSUMERS_PER_PEER_MAX));
        }
        let own = self.peer().consuming.get(&producer).copied().unwrap_or(0);
        if own >= CONSUMERS_PER_PEER_AND_PRODUCER_MAX {
            return Err(Refusal::limit("consumers of one producer a peer", CONSUMERS_PER_PEER_AND_PRODUCER_MAX));
        }
        let consumers = self.channel.producer(producer).map_or(0, |(_, producer)| producer.consumers.len());
        if consumers >= CONSUMERS_PER_PRODUCER_MAX {
            return Err(Refusal::limit("consumers a producer", CONSUMERS_PER_PRODUCER_MAX));
        }
        Ok(())
    }

    fn consume(&mut self, consume: &Consume) -> Result<Answer, Refusal> {
        let transport = match &consume.transport {
            Some(external) => self.own_transport(external)?,
            None => self.peer().transport_for_consumer().ok_or_else(|| {
                Refusal::new(Code::WrongStep, "there is no transport to consume on: send create-transport first")
            })?,
        };
        let capabilities = ortc::parse_capabilities(&consume.rtp_capabilities).map_err(of_ortc)?;
        let producer = match &consume.producer {
            Some(external) => {
                self.channel.find_producer(external).ok_or_else(|| Refusal::not_found("data.producerId"))?
            }
            None => {
                self.channel.oldest_receivable(&mut self.desk.post.work, self.me, &capabilities).ok_or_else(|| {
                    let message = "nobody else in this channel sends anything that these rtpCapabilities can receive \
                               and that is not consumed already";
                    Refusal::new(Code::NoProducer, message)
                })?
            }
        };
        self.may_consume(producer)?;
        let (source, wanted) = self.channel.producer(producer).expect("it was found in this channel just now");
        if !ortc::can_consume(&wanted.plan, &capabilities) {
            let message = "data.rtpCapabilities: they hold no codec of this producer";
            return Err(Refusal::new(Code::Unsupported, message));
        }
        let (msid, shard) = (wanted.plan.msid.clone(), self.shard()?);
        let source_peer = self.channel.peers.get(&source);
        let cname = source_peer.and_then(|peer| peer.cname.clone()).expect("set with a peer's first producer");
        let identity = self.identity(transport, cname, msid)?;
        let (_, wanted) = self.channel.producer(producer).expect("it was found in this channel just now");
        let plan = ortc::plan_consumer(&wanted.plan, &capabilities, identity).map_err(of_ortc)?;

        let id = ConsumerId(self.desk.ids.number());
        let external = self.desk.ids.external();
        let mut data = json!({
            "id": external.to_string(),
            "producerId": wanted.external.to_string(),
            "kind": kind_name(wanted.plan.kind),
            "rtpParameters": plan.rtp_parameters,
            "type": plan.r#type.name(),
            "producerPaused": wanted.pause.holds(),
            "paused": consume.paused,
            "appData": wanted.app_data,
            "peerId": source_peer_id(self.channel, source),
        });
        let consumer =
            Consumer { external, transport, producer, producer_external: wanted.external, paused: consume.paused };
        let peer = self.peer_mut();
        peer.consumers.insert(id, consumer);
        *peer.consuming.entry(producer).or_default() += 1;
        if let Some(transport) = peer.transports.get_mut(&transport) {
            transport.carried_consumers = true;
            data["transportId"] = json!(transport.external.to_string());
        }
        if let Some(source) = self.channel.peers.get_mut(&source).and_then(|peer| peer.producers.get_mut(&producer)) {
            source.consumers.insert(id, self.me);
        }
        self.desk.owners.consumers.insert(id, self.me);
        let (spec, paused) = (Box::new(plan.spec), consume.paused);
        let order = |home| Command::Consume { consumer: id, transport, producer, home, spec, paused };
        landing::order(self.channel, &mut self.desk.post, (source, producer), shard, order);
        let peer = self.peer().external;
        self.desk.post.journal.note(
            Occurrence::ConsumerCreated,
            &self.channel.name,
            || json!({ "id": data["id"], "peerId": peer.to_string(), "producerId": data["producerId"] }),
        );
        answer("consumer-params", data)
    }

    /// The names under which a consumer is sent on this transport.
    fn identity(
        &mut self,
        transport: TransportId,
        cname: String,
        msid: Option<String>,
    ) -> Result<ConsumerIdentity, Refusal> {
        let peer = self.peer_mut();
        let mut names = peer.transports.get(&transport).expect("it was found at this peer just now").names.clone();
        let mut ssrc = || names.ssrc(|ssrc| peer.sends_with(ssrc));
        let ssrcs = ssrc().zip(ssrc());
        let mid = names.mid();
        if let Some(transport) = peer.transports.get_mut(&transport) {
            transport.names = names;
        }
        let used_up = || Refusal::new(Code::Limit, "this transport has used up its SSRCs: create a new one");
        let (ssrc, rtx_ssrc) = ssrcs.ok_or_else(used_up)?;
        Ok(ConsumerIdentity { mid: mid.ok_or_else(used_up)?, ssrc, rtx_ssrc, cname, msid })
    }

    fn pause_producer(&mut self, external: &str, paused: bool) -> Result<Answer, Refusal> {
        let id = self.own_producer(external)?;
        pausing::change(self.channel, self.desk, id, None, |pause| Pause { own: paused, ..pause });
        done(if paused { "pause-producer" } else { "resume-producer" }, external)
    }

    fn pause_consumer(&mut self, external: &str, paused: bool) -> Result<Answer, Refusal> {
        let id = self.own_consumer(external)?;
        let before =
            self.peer_mut().consumers.get_mut(&id).map(|consumer| std::mem::replace(&mut consumer.paused, paused));
        if before != Some(paused) {
            self.command(match paused {
                true => Command::PauseConsumer { consumer: id },
                false => Command::ResumeConsumer { consumer: id },
            });
        }
        done(if paused { "pause-consumer" } else { "resume-consumer" }, external)
    }

    fn restart_ice(&mut self, named: Option<&str>) -> Result<Answer, Refusal> {
        let id = match named {
            Some(external) => self.own_transport(external)?,
            None => {
                let mut ids = self.peer().transports.keys();
                match (ids.next(), ids.next()) {
                    (Some(only), None) => *only,
                    (None, _) => {
                        let message = "there is no transport to restart: send create-transport first";
                        return Err(Refusal::new(Code::WrongStep, message));
                    }
                    _ => {
                        let message = "data.transportId is missing: this peer has several transports";
                        return Err(Refusal::new(Code::BadField, message));
                    }
                }
            }
        };
        let shard = self.shard()?;
        let label = self.desk.settings.label(shard).expect("placement knows only the shards of the settings");
        let ice = self.desk.ids.ice(label);
        let transport = self.peer().transports.get(&id).expect("it was found at this peer just now");
        let mut data = json!({
            "id": transport.external.to_string(), "iceParameters": Desk::ice_parameters(&ice),
        });
        self.desk.add_ice_servers(self.now, self.peer().external, &mut data);
        self.command(Command::RestartIce { transport: id, ice });
        answer("ice-parameters", data)
    }

    fn authenticate(&mut self, token: Secret, tag: Option<&RequestTag>) -> Result<Answer, Refusal> {
        let (channel, tag) = (self.channel.name.clone(), EntryTag(tag.cloned()));
        let question = Verification { peer: self.me, channel, token, tag };
        self.desk.post.output.push_back(Output::Verify(Box::new(question)));
        Ok(Answer::Later)
    }

    fn set_last_n(&mut self, n: Option<usize>) -> Result<Answer, Refusal> {
        if self.desk.settings.last_n != LastN::Peers {
            let message = "peers may set it only where the server is run with --last-n peers";
            return Err(Refusal::new(Code::Unsupported, message));
        }
        if self.channel.voices.last_n() != n {
            self.channel.voices.set_last_n(&mut self.desk.post, &self.channel.subscribers, self.now, n);
            let mut data = json!({ "n": n });
            if !self.peer().grants.hidden {
                data["peerId"] = json!(self.peer().external.to_string());
            }
            self.channel.tell_others(&mut self.desk.post, self.me, &News::last_n_changed(), &data);
        }
        answer("last-n", json!({ "n": n }))
    }

    fn get_stats(&mut self, of: StatsTarget, tag: Option<&RequestTag>) -> Result<Answer, Refusal> {
        let (of, external, path) = match of {
            StatsTarget::Transport(id) => (StatsOf::Transport(self.own_transport(&id)?), id, "data.transportId"),
            StatsTarget::Producer(id) => (StatsOf::Producer(self.own_producer(&id)?), id, "data.producerId"),
            StatsTarget::Consumer(id) => (StatsOf::Consumer(self.own_consumer(&id)?), id, "data.consumerId"),
        };
        let shard = self.shard()?;
        let question = Question { of, external, path, tag: tag.cloned() };
        let command = self.desk.stats.asked(self.now, self.me, &mut self.desk.ids, question)?;
        self.desk.post.command(shard, command);
        Ok(Answer::Later)
    }
}

fn source_peer_id(channel: &Channel, source: PeerId) -> Option<String> {
    channel.peers.get(&source).map(|peer| peer.external.to_string())
}

/// Its text begins with the path below `data`.
fn of_ortc(error: OrtcError) -> Refusal {
    let code = match error {
        OrtcError::Invalid { .. } => Code::BadField,
        OrtcError::UnsupportedCodec { .. } | OrtcError::CannotConsume { .. } => Code::Unsupported,
    };
    Refusal::new(code, format!("data.{error}"))
}

#[cfg(test)]
#[path = "turn_tests.rs"]
mod tests;
