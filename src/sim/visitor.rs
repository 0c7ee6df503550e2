//! The people of the simulated world: each has one socket at signalling and sends what a mediasoup-client page would,
//! strictly with the five messages where that does. Extends `world`.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::base::id::Ssrc;
use crate::base::time::Duration;
use crate::shard::command::Metrics;
use crate::signal::{Counts, Entrance, SessionId};
use crate::sim::browser::Browser;
use crate::sim::decoder::{Decoder, Strictness};
use crate::sim::endpoint::DtlsRole;
use crate::sim::engine::SimEngine;
use crate::sim::ice_client::RemoteIce;
use crate::sim::link::{LinkModel, LinkSettings};
use crate::sim::script::{self, Media};
use crate::sim::sink::SinkStats;
use crate::sim::source::BrowserSource;
use crate::sim::tap::{LinkDirection, Tap, TappedEngine};
use crate::sim::world::{End, EndId, SERVER, World};

/// The address of all pages: no quota counts them.
const CLIENTS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// One page in one channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Visitor {
    pub session: SessionId,
}

/// A client's transport with the id that signalling gave it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VisitorTransport {
    pub visitor: Visitor,
    pub id: String,
    pub end: EndId,
}

/// A producer and its streams in the browser.
#[derive(Clone, Debug)]
pub struct Publication {
    pub visitor: Visitor,
    pub id: String,
    pub end: EndId,
    pub media: Media,
    /// Places in the browser's list, one per encoding.
    pub sources: Vec<usize>,
    /// The SSRC of the first encoding; each takes two.
    pub ssrc: u32,
}

/// A consumer and its stream in the browser.
#[derive(Clone, Debug)]
pub struct Subscription {
    pub visitor: Visitor,
    pub id: String,
    pub producer: String,
    pub end: EndId,
    pub sink: usize,
    pub ssrc: Ssrc,
}

impl World {
    pub fn join(&mut self, user: &str, channel: &str) -> Visitor {
        self.come_in(&Entrance::named(user, channel))
    }

    pub fn come_in(&mut self, entrance: &Entrance) -> Visitor {
        let opened = self.hub.open(self.now(), CLIENTS, entrance);
        let session = opened.expect("the names are well-formed and there is room");
        self.drain_hub();
        Visitor { session }
    }

    /// The page is gone, and all its objects.
    pub fn leave(&mut self, visitor: Visitor, ends: &[EndId]) {
        self.hub.close(self.now(), visitor.session);
        self.drain_hub();
        self.inboxes.remove(&visitor.session);
        for end in ends {
            self.ends[end.0].open = false;
        }
    }

    /// Sends a message and takes the reply, whatever it is; notifications stay for [`World::heard`].
    pub fn say(&mut self, visitor: Visitor, kind: &str, data: Value) -> Value {
        let message = json!({ "type": kind, "data": data, "requestId": "now" });
        self.hub.handle_text(self.now(), visitor.session, &message.to_string());
        self.drain_hub();
        // Only statistics need the answer of a shard.
        for _ in 0..3 {
            let inbox = self.inboxes.entry(visitor.session).or_default();
            if let Some(at) = inbox.iter().position(|message| message["requestId"] == "now") {
                return inbox.remove(at).unwrap_or_default();
            }
            self.run(Duration::from_micros(100));
        }
        panic!("no reply to {kind}");
    }

    /// Sends a request, and expects a reply that is no error.
    pub fn ask(&mut self, visitor: Visitor, kind: &str, data: Value) -> Value {
        let mut reply = self.say(visitor, kind, data);
        assert_ne!(reply["type"], "error", "{kind}: {reply}");
        reply["data"].take()
    }

    /// Notifications of one type so far; all others are forgotten.
    pub fn heard(&mut self, visitor: Visitor, kind: &str) -> Vec<Value> {
        let inbox: VecDeque<Value> = self.inboxes.remove(&visitor.session).unwrap_or_default();
        inbox.into_iter().filter(|message| message["type"] == kind).map(|mut message| message["data"].take()).collect()
    }

    /// All notifications that were not taken yet.
    pub fn inbox(&self, visitor: Visitor) -> Vec<Value> {
        self.inboxes.get(&visitor.session).map(|inbox| inbox.iter().cloned().collect()).unwrap_or_default()
    }

    pub fn hub_counts(&self) -> Counts {
        self.hub.counts()
    }

    /// Creates and connects a transport; `link` is both directions of its path.
    pub fn transport(&mut self, visitor: Visitor, direction: &str, link: LinkSettings) -> VisitorTransport {
        self.transport_over(visitor, direction, [link, link], DtlsRole::Client)
    }

    /// `links`: up, down.
    pub fn transport_over(
        &mut self,
        visitor: Visitor,
        direction: &str,
        links: [LinkSettings; 2],
        role: DtlsRole,
    ) -> VisitorTransport {
        let params = self.ask(visitor, "create-transport", json!({ "direction": direction }));
        let seed: u64 = self.rng().random();
        let certificate = format!("certificate of {seed}").into_bytes();
        let mut dtls = script::dtls_parameters(&certificate);
        if role == DtlsRole::Server {
            dtls["role"] = json!("server");
        }
        let id = text(&params["id"]);
        self.ask(visitor, "connect-transport", json!({ "transportId": id, "dtlsParameters": dtls }));
        let engine = TappedEngine::new(SimEngine::new(self.settings.profile, certificate, seed));
        let browser = Browser::new(self.now(), &remote_ice(&params["iceParameters"]), role, seed);
        let end = self.add_end(browser, engine, links.map(LinkModel::new));
        VisitorTransport { visitor, id, end }
    }

    /// Runs until media may flow on it.
    pub fn connect(&mut self, transport: &VisitorTransport) -> Duration {
        let end = transport.end;
        self.wait(Duration::from_secs(5), |world| world.ends[end.0].browser.endpoint.is_connected())
            .expect("it connects within 5 s")
    }

    /// Starts to send, and tells signalling.
    pub fn publish(&mut self, transport: &VisitorTransport, media: &Media) -> Publication {
        let mut publication = self.start(transport, media);
        self.produce(&mut publication);
        publication
    }

    /// Starts to send without a word to signalling.
    pub fn start(&mut self, transport: &VisitorTransport, media: &Media) -> Publication {
        let ssrc = 10_000 + self.rng().random_range(0..100_000u32) * 16;
        let now = self.now();
        let end = &mut self.ends[transport.end.0];
        let sources = (0..media.encodings())
            .map(|at| end.browser.add_started(|rng| media.start(now, at, ssrc + 2 * at as u32, rng)))
            .collect();
        self.touch(transport.end);
        let (visitor, end) = (transport.visitor, transport.end);
        Publication { visitor, id: String::new(), end, media: media.clone(), sources, ssrc }
    }

    /// Without a transportId, as a client of the five messages: it is found by its packets.
    pub fn produce(&mut self, publication: &mut Publication) {
        let reply = self.ask(publication.visitor, "produce", publication.media.produce(publication.ssrc));
        publication.id = text(&reply["id"]);
    }

    /// The page replaces its encoder: the same mid, other SSRCs. Signalling is not told.
    pub fn replace_source(&mut self, publication: &mut Publication) {
        let (now, seed) = (self.now(), self.rng().random());
        publication.ssrc += 1_600_000;
        let mut rng = SmallRng::seed_from_u64(seed);
        for (at, place) in publication.sources.iter().enumerate() {
            let source = publication.media.start(now, at, publication.ssrc + 2 * at as u32, &mut rng);
            self.ends[publication.end.0].browser.sources[*place] = source;
        }
        self.touch(publication.end);
    }

    /// With every codec there is; `producer: None` takes the oldest that this client does not have yet.
    pub fn subscribe(&mut self, transport: &VisitorTransport, producer: Option<&str>) -> Subscription {
        self.subscribe_as(transport, producer, false)
    }

    fn subscribe_as(&mut self, transport: &VisitorTransport, producer: Option<&str>, paused: bool) -> Subscription {
        let visitor = transport.visitor;
        let capabilities = self.ask(visitor, "get-rtp-capabilities", Value::Null);
        let mut data = json!({ "transportId": transport.id, "rtpCapabilities": capabilities, "paused": paused });
        if let Some(producer) = producer {
            data["producerId"] = json!(producer);
        }
        let params = self.ask(visitor, "consume", data);
        let config = script::sink(&params["rtpParameters"]).expect("consumer-params are whole");
        let (now, ssrc) = (self.now(), config.ssrc);
        let sink = self.ends[transport.end.0].browser.add_sink(now, config);
        self.touch(transport.end);
        Subscription {
            visitor,
            id: text(&params["id"]),
            producer: text(&params["producerId"]),
            end: transport.end,
            sink,
            ssrc,
        }
    }

    /// A page's reaction to a closed consumer.
    pub fn remove_sink(&mut self, subscription: &Subscription) {
        self.ends[subscription.end.0].browser.sinks[subscription.sink].close();
        self.touch(subscription.end);
    }

    pub fn sink(&self, subscription: &Subscription) -> SinkStats {
        self.ends[subscription.end.0].browser.sinks[subscription.sink].stats()
    }

    /// From its first packet on, a model decoder judges this consumer's stream.
    pub fn judge(&mut self, subscription: &Subscription, strictness: Strictness) {
        self.ends[subscription.end.0].browser.sinks[subscription.sink].set_decoder(strictness);
    }

    pub fn decoder(&self, subscription: &Subscription) -> &Decoder {
        let sink = &self.ends[subscription.end.0].browser.sinks[subscription.sink];
        sink.decoder().expect("the subscription is judged, and video")
    }

    /// Encoding `at` of several.
    pub fn encoding(&mut self, publication: &Publication, at: usize) -> &mut BrowserSource {
        let place = publication.sources[at];
        &mut self.ends[publication.end.0].browser.sources[place]
    }

    pub fn source(&mut self, publication: &Publication) -> &mut BrowserSource {
        let place = publication.sources[0];
        &mut self.ends[publication.end.0].browser.sources[place]
    }

    /// Restarts ICE as the page does it: asks for new parameters, then checks with them.
    pub fn restart_ice(&mut self, transport: &VisitorTransport) {
        let reply = self.ask(transport.visitor, "restart-ice", json!({ "transportId": transport.id }));
        let now = self.now();
        let remote = remote_ice(&reply["iceParameters"]);
        self.ends[transport.end.0].browser.endpoint.restart_ice(now, &remote);
        self.touch(transport.end);
    }

    /// Records everything on this end from here on.
    pub fn tap(&mut self, end: EndId) {
        let End { engine, tap_up, tap_down, .. } = &mut self.ends[end.0];
        *tap_up = Some(Tap::new(LinkDirection::Up, engine.keys()));
        *tap_down = Some(Tap::new(LinkDirection::Down, engine.keys()));
    }
}

/// One counter, gauge or drop reason of a shard.
pub fn metric(metrics: &Metrics, name: &str) -> i64 {
    let counters = metrics.counters.iter().map(|(known, _, value)| (*known, *value as i64));
    let gauges = metrics.gauges.iter().map(|(known, _, value)| (*known, *value));
    let drops = metrics.drops.iter().map(|(known, value)| (*known, *value as i64));
    let found = counters.chain(gauges).chain(drops).find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("there is no metric {name}")).1
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("an id was expected, not {value}")).to_owned()
}

fn remote_ice(parameters: &Value) -> RemoteIce {
    let (ufrag, pwd) = (text(&parameters["usernameFragment"]), text(&parameters["password"]));
    RemoteIce { ufrag, pwd, candidates: vec![SERVER] }
}
