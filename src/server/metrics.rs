//! `/metrics`, `/healthz` and `/readyz`: the control edge's own counters, the hub's counts, and every shard's answer. A
//! shard that does not answer in time is dead, and all pages say so.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use tokio::sync::{Mutex, Notify};
use tokio::time::timeout;

use super::clock;
use super::control::{Control, Task};
use super::own_words::OwnAnswers;
use super::websocket::End;
use crate::base::id::ShardId;
use crate::base::limits::SHARD_ANSWER_WAIT;
use crate::base::time::Instant;
use crate::shard::command::{Command, Metrics, RequestId};

pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Questions of this file carry numbers from here on; the hub counts its own from zero and never gets this far.
const REQUESTS_FROM: u64 = 1 << 63;
/// The age up to which the shards' answers are used again, so that many readers cost the shards no more than one.
const FRESH: Duration = Duration::from_millis(250);
/// Pages that are made anew within [`FRESH`].
const PAGES_PER_SPAN: u32 = 8;
/// Every status this edge answers with.
pub(super) const STATUS_CODES: [u16; 11] = [101, 200, 400, 403, 404, 405, 414, 426, 429, 431, 503];

#[derive(Default)]
pub(super) struct Counters {
    opened: Cell<u64>,
    closed: [Cell<u64>; End::NAMES.len()],
    messages_sent: Cell<u64>,
    responses: [Cell<u64>; STATUS_CODES.len()],
    connections_refused: Cell<u64>,
    origins_refused: Cell<u64>,
    connections_evicted: Cell<u64>,
    accepts_failed: Cell<u64>,
    pub(super) own_answers: Arc<OwnAnswers>,
}

fn count(cell: &Cell<u64>) {
    cell.set(cell.get().wrapping_add(1));
}

impl Counters {
    pub(super) fn socket_opened(&self) {
        count(&self.opened);
    }

    pub(super) fn socket_closed(&self, end: &End) {
        count(&self.closed[end.index()]);
    }

    pub(super) fn message_sent(&self) {
        count(&self.messages_sent);
    }

    pub(super) fn responded(&self, status: u16) {
        if let Some(place) = STATUS_CODES.iter().position(|code| *code == status) {
            count(&self.responses[place]);
        }
    }

    pub(super) fn connection_refused(&self) {
        count(&self.connections_refused);
    }

    pub(super) fn origin_refused(&self) {
        count(&self.origins_refused);
    }

    pub(super) fn connections_evicted(&self, number: u64) {
        self.connections_evicted.set(self.connections_evicted.get().wrapping_add(number));
    }

    pub(super) fn accept_failed(&self) {
        count(&self.accepts_failed);
    }
}

/// The answer of each shard; None: nothing in time.
type Answers = Vec<(ShardId, Option<Metrics>)>;

/// The open question to the shards, and the last answers.
pub(super) struct Scrapes {
    shards: Vec<ShardId>,
    last: Mutex<Option<(Instant, Rc<Answers>)>>,
    asked: Cell<u64>,
    answers: RefCell<BTreeMap<ShardId, Metrics>>,
    complete: Notify,
    pages: RefCell<Pages>,
}

/// Pages made in the span that began then.
#[derive(Default)]
struct Pages {
    since: Instant,
    made: u32,
    last: Bytes,
}

impl Scrapes {
    pub(super) fn new(shards: Vec<ShardId>) -> Scrapes {
        Scrapes {
            shards,
            last: Mutex::new(None),
            asked: Cell::new(REQUESTS_FROM),
            answers: RefCell::default(),
            complete: Notify::new(),
            pages: RefCell::default(),
        }
    }

    pub(super) fn shards(&self) -> &[ShardId] {
        &self.shards
    }

    pub(super) fn answered(&self, shard: ShardId, request: RequestId, metrics: Metrics) {
        if request.0 != self.asked.get() || !self.shards.contains(&shard) {
            return;
        }
        let mut answers = self.answers.borrow_mut();
        answers.insert(shard, metrics);
        if answers.len() == self.shards.len() {
            self.complete.notify_one();
        }
    }

    /// Only one question is open at a time: a later reader waits for its answers.
    async fn ask(&self, control: &Control) -> Rc<Answers> {
        let mut last = self.last.lock().await;
        if let Some((at, answers)) = &*last
            && clock::now().since(*at) < FRESH
        {
            return answers.clone();
        }
        self.asked.set(self.asked.get() + 1);
        self.answers.borrow_mut().clear();
        for shard in &self.shards {
            control.tell(*shard, Command::GetMetrics { request: RequestId(self.asked.get()) });
        }
        let all_here = async {
            while self.answers.borrow().len() < self.shards.len() {
                self.complete.notified().await;
            }
        };
        // Late is dead: a shard that has not answered by now is missing below.
        let _ = timeout(SHARD_ANSWER_WAIT, all_here).await;
        let mut answers = std::mem::take(&mut *self.answers.borrow_mut());
        let answers: Rc<Answers> = Rc::new(self.shards.iter().map(|shard| (*shard, answers.remove(shard))).collect());
        *last = Some((clock::now(), answers.clone()));
        answers
    }
}

/// The shards that do not answer.
pub(super) async fn dead_shards(control: &Control) -> Vec<ShardId> {
    let answers = control.scrapes.ask(control).await;
    answers.iter().filter(|(_, metrics)| metrics.is_none()).map(|(shard, _)| *shard).collect()
}

/// The whole page, `# EOF` included. A reader that asks more often than [`PAGES_PER_SPAN`] gets the last one again.
pub(super) async fn page(control: &Control) -> Bytes {
    let answers = control.scrapes.ask(control).await;
    let mut pages = control.scrapes.pages.borrow_mut();
    let now = clock::now();
    if now.since(pages.since) >= FRESH {
        (pages.since, pages.made) = (now, 0);
    }
    if pages.made < PAGES_PER_SPAN {
        pages.made += 1;
        pages.last = encode(control, &answers).into();
    }
    pages.last.clone()
}

fn encode(control: &Control, answers: &Answers) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Snapshot::of(control, answers)));
    let mut page = String::new();
    text::encode(&mut page, &registry).expect("writing to a String does not fail");
    page
}

#[derive(Debug)]
enum Value {
    Counter(u64),
    Gauge(i64),
    Histogram(f64, Vec<(f64, u64)>),
}

#[derive(Debug)]
struct Family {
    help: String,
    samples: Vec<(Vec<(&'static str, String)>, Value)>,
}

/// Families by name, without the `_total` of a counter.
#[derive(Debug, Default)]
struct Snapshot {
    families: BTreeMap<String, Family>,
}

impl Snapshot {
    fn of(control: &Control, answers: &Answers) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.edge(control);
        snapshot.hub(control);
        for (shard, metrics) in answers {
            let shard = shard.to_string();
            let of_shard = |value| ([("shard", shard.clone())], value);
            let (labels, up) = of_shard(Value::Gauge(metrics.is_some().into()));
            snapshot.add("shard_up", "1 while the shard answers", &labels, up);
            let Some(metrics) = metrics else { continue };
            for (name, help, value) in &metrics.counters {
                let (labels, value) = of_shard(Value::Counter(*value));
                snapshot.add(name, help, &labels, value);
            }
            for (name, help, value) in &metrics.gauges {
                let (labels, value) = of_shard(Value::Gauge(*value));
                snapshot.add(name, help, &labels, value);
            }
            for histogram in &metrics.histograms {
                let (labels, value) = of_shard(Value::Histogram(histogram.sum, histogram.buckets.clone()));
                snapshot.add(histogram.name, histogram.help, &labels, value);
            }
            for (verdict, consumers) in &metrics.verdicts {
                let labels = [("shard", shard.clone()), ("verdict", verdict.name().to_owned())];
                snapshot.add("consumer_verdicts", "Consumers by verdict", &labels, Value::Gauge(*consumers));
            }
            for (why, value) in &metrics.drops {
                let labels = [("shard", shard.clone()), ("why", (*why).to_owned())];
                snapshot.add("dropped_packets", "Packets dropped, by reason", &labels, Value::Counter(*value));
            }
        }
        snapshot
    }

    fn edge(&mut self, control: &Control) {
        let counters = &control.counters;
        let version = [("version", env!("CARGO_PKG_VERSION").to_owned())];
        self.add("build", "Always 1; the label says which version runs", &version, Value::Gauge(1));
        let sockets = i64::try_from(control.sockets()).unwrap_or(i64::MAX);
        self.add("sockets", "Open WebSockets", &[], Value::Gauge(sockets));
        self.add("sockets_opened", "WebSockets opened", &[], Value::Counter(counters.opened.get()));
        for (why, cell) in End::NAMES.iter().zip(&counters.closed) {
            let labels = [("why", (*why).to_owned())];
            self.add("sockets_closed", "WebSockets closed, by reason", &labels, Value::Counter(cell.get()));
        }
        let sent = Value::Counter(counters.messages_sent.get());
        self.add("sockets_texts_queued", "Texts queued to WebSockets", &[], sent);
        for (code, cell) in STATUS_CODES.iter().zip(&counters.responses) {
            let labels = [("code", code.to_string())];
            let count = cell.get() + counters.own_answers.counted(*code);
            self.add("http_responses", "HTTP responses, by status code", &labels, Value::Counter(count));
        }
        let connections = i64::try_from(control.tasks(Task::Http)).unwrap_or(i64::MAX);
        self.add("http_connections", "Open connections that are no WebSockets", &[], Value::Gauge(connections));
        let origins = Value::Counter(counters.origins_refused.get());
        self.add("origins_refused", "WebSockets refused for the Origin of their page", &[], origins);
        let refused = Value::Counter(counters.connections_refused.get());
        self.add("http_connections_refused", "Connections closed at once: too many are open", &[], refused);
        let evicted = Value::Counter(counters.connections_evicted.get());
        let help = "Connections without a request closed for others: too many are open";
        self.add("http_connections_evicted", help, &[], evicted);
        let failed = Value::Counter(counters.accepts_failed.get());
        self.add("http_accepts_failed", "Connections that could not be accepted", &[], failed);
        let held = Value::Gauge(i64::try_from(control.held()).unwrap_or(i64::MAX));
        let help = "Bytes queued to WebSockets, and read from them of messages that are not whole";
        self.add("sockets_held_bytes", help, &[], held);
    }

    fn hub(&mut self, control: &Control) {
        let counts = control.counts();
        for (name, help, number) in [
            ("signalling_channels", "Channels with at least one peer", counts.channels),
            ("signalling_peers", "Peers in channels", counts.peers),
            ("signalling_transports", "Transports of all peers", counts.transports),
            ("signalling_unchecked_transports", "Transports that no check has come for", counts.unchecked_transports),
            ("signalling_producers", "Producers of all peers", counts.producers),
            ("signalling_consumers", "Consumers of all peers", counts.consumers),
        ] {
            self.add(name, help, &[], Value::Gauge(i64::try_from(number).unwrap_or(i64::MAX)));
        }
        let received = Value::Counter(counts.messages);
        self.add("signalling_messages", "Text and binary messages from WebSockets", &[], received);
        for (code, number) in counts.errors {
            let labels = [("code", code.to_owned())];
            self.add("signalling_errors", "Error replies to clients, by code", &labels, Value::Counter(number));
        }
        for (shard, micros) in counts.expected_load {
            let help = "Microseconds of CPU time a second that the shard's peers are expected to take, for placement";
            let load = Value::Gauge(i64::try_from(micros).unwrap_or(i64::MAX));
            self.add("shard_expected_load", help, &[("shard", shard.to_string())], load);
        }
    }

    fn add(&mut self, name: &str, help: &str, labels: &[(&'static str, String)], value: Value) {
        let family = self
            .families
            .entry(format!("weirgate_{name}"))
            .or_insert_with(|| Family { help: help.to_owned(), samples: Vec::new() });
        family.samples.push((labels.to_vec(), value));
    }
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        for (name, family) in &self.families {
            let kind = match family.samples.first() {
                Some((_, Value::Counter(_))) => MetricType::Counter,
                Some((_, Value::Histogram(..))) => MetricType::Histogram,
                _ => MetricType::Gauge,
            };
            let mut metric = encoder.encode_descriptor(name, &family.help, None, kind)?;
            for (labels, value) in &family.samples {
                let mut encode = |value: &Value| match value {
                    Value::Counter(count) if labels.is_empty() => {
                        metric.encode_counter::<NoLabelSet, _, u64>(count, None)
                    }
                    Value::Counter(count) => {
                        metric.encode_family(labels)?.encode_counter::<NoLabelSet, _, u64>(count, None)
                    }
                    Value::Gauge(level) if labels.is_empty() => metric.encode_gauge(level),
                    Value::Gauge(level) => metric.encode_family(labels)?.encode_gauge(level),
                    Value::Histogram(sum, buckets) => {
                        let count = buckets.iter().map(|(_, count)| count).sum();
                        metric.encode_family(labels)?.encode_histogram::<NoLabelSet>(*sum, count, buckets, None)
                    }
                };
                encode(value)?;
            }
        }
        Ok(())
    }
}
