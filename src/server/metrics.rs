//! `/metrics`: the control edge's own counters, the hub's counts, and every shard's answer. A shard that does not answer
//! in time is dead, and the page says so.

use std::collections::BTreeMap;
use std::fmt;
use std::time::UNIX_EPOCH;

use hyper::body::Bytes;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::acme::{AcmeWhy, Orders};
use super::clock;
use super::control::Control;
use super::counters::STATUS_CODES;
use super::end::SocketEnd;
use super::refusal::OpenRefusal;
use super::scrapes::Answers;
use super::tasks::Task;
use super::tls::HandshakeFault;
use crate::signal::cluster::{ClusterNode, Liveness};

pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The whole page, `# EOF` included.
pub(super) async fn page(control: &Control) -> Bytes {
    let answers = control.scrapes.ask(control.tower()).await;
    control.pages.page(clock::now(), || encode(control, &answers).into())
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
        control.in_cluster(|node| snapshot.cluster(node));
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
        let sockets = i64::try_from(control.sockets.len()).unwrap_or(i64::MAX);
        self.add("sockets", "Open WebSockets", &[], Value::Gauge(sockets));
        self.add("sockets_opened", "WebSockets opened", &[], Value::Counter(counters.opened.get()));
        for (why, cell) in SocketEnd::NAMES.iter().zip(&counters.closed) {
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
        let connections = i64::try_from(control.tasks.of(Task::Http)).unwrap_or(i64::MAX);
        self.add("http_connections", "Open connections that are no WebSockets", &[], Value::Gauge(connections));
        let origins = Value::Counter(counters.origins_refused.get());
        self.add("origins_refused", "WebSockets refused for the Origin of their page", &[], origins);
        self.door(control);
        let refused = Value::Counter(counters.connections_refused.get());
        self.add("http_connections_refused", "Connections closed at once: too many are open", &[], refused);
        let evicted = Value::Counter(counters.connections_evicted.get());
        let help = "Connections without a request closed for others: too many are open";
        self.add("http_connections_evicted", help, &[], evicted);
        let failed = Value::Counter(counters.accepts_failed.get());
        self.add("http_accepts_failed", "Connections that could not be accepted", &[], failed);
        let handshakes = Value::Counter(counters.handshakes.get());
        self.add("tls_handshakes", "TLS handshakes that were completed", &[], handshakes);
        for (why, cell) in HandshakeFault::NAMES.iter().zip(&counters.handshakes_failed) {
            let labels = [("why", (*why).to_owned())];
            let help = "TLS handshakes that came to nothing, by reason";
            self.add("tls_handshakes_failed", help, &labels, Value::Counter(cell.get()));
        }
        self.certificates(control);
        self.operators(control);
        let held = Value::Gauge(i64::try_from(control.sockets.held()).unwrap_or(i64::MAX));
        let help = "Bytes queued to WebSockets, and read from them of messages that are not whole";
        self.add("sockets_held_bytes", help, &[], held);
    }

    fn certificates(&mut self, control: &Control) {
        let certificates = control.certificates.as_ref();
        let ends = certificates.and_then(|certificates| certificates.validity()).map(|validity| validity.ends);
        let ends = ends.and_then(|ends| ends.duration_since(UNIX_EPOCH).ok()).unwrap_or_default().as_secs();
        let help =
            "End of the certificate that new connections get, in seconds since 1970; 0: it has none that is known";
        self.add("tls_certificate_end_seconds", help, &[], Value::Gauge(i64::try_from(ends).unwrap_or(i64::MAX)));
        let orders = certificates.and_then(|certificates| certificates.orders());
        let done = Value::Counter(orders.map_or(0, Orders::done));
        self.add("acme_orders", "Certificates that were obtained by ACME", &[], done);
        for (place, why) in AcmeWhy::NAMES.iter().enumerate() {
            let labels = [("why", (*why).to_owned())];
            let failed = Value::Counter(orders.map_or(0, |orders| orders.failed(place)));
            self.add("acme_orders_failed", "Orders by ACME that came to nothing, by reason", &labels, failed);
        }
        let validations = Value::Counter(control.counters.validations.get());
        self.add("acme_validations", "Connections that were shown the proof of a name", &[], validations);
    }

    /// Event streams and webhooks.
    fn operators(&mut self, control: &Control) {
        let listeners = Value::Gauge(i64::try_from(control.events.listeners()).unwrap_or(i64::MAX));
        self.add("event_listeners", "Open event streams of the admin API", &[], listeners);
        let counts = &control.hook_counts;
        for (outcome, count) in counts.events() {
            let labels = [("outcome", outcome.to_owned())];
            let help = "Events for webhooks, by what became of them";
            self.add("webhook_events", help, &labels, Value::Counter(count));
        }
        for (why, count) in counts.failures() {
            let labels = [("why", why.to_owned())];
            self.add("webhook_failures", "Attempts to reach a webhook that failed", &labels, Value::Counter(count));
        }
        let waiting = Value::Gauge(i64::try_from(counts.waiting()).unwrap_or(i64::MAX));
        self.add("webhook_events_waiting", "Events that wait for a webhook", &[], waiting);
    }

    fn door(&mut self, control: &Control) {
        let entering = i64::try_from(control.tasks.of(Task::Entry)).unwrap_or(i64::MAX);
        let help = "WebSockets that have no peer yet, or are being turned away";
        self.add("entry_sockets", help, &[], Value::Gauge(entering));
        let evicted = Value::Counter(control.counters.entries_evicted.get());
        self.add("entry_sockets_evicted", "Such WebSockets that gave way to newer ones", &[], evicted);
        for (code, cell) in OpenRefusal::CODES.iter().zip(&control.counters.entries_refused) {
            let labels = [("code", (*code).to_owned())];
            let help = "Clients that were turned away at the door, by code";
            self.add("entries_refused", help, &labels, Value::Counter(cell.get()));
        }
    }

    fn hub(&mut self, control: &Control) {
        let counts = control.counts();
        for (name, help, number) in [
            ("signalling_channels", "Channels with at least one peer", counts.channels),
            ("signalling_peers", "Peers in channels", counts.peers),
            ("signalling_peers_waiting", "Peers that wait to be let into a locked channel", counts.waiting),
            ("signalling_bans", "Users that are banned from a channel", counts.bans),
            ("signalling_peers_away", "Peers whose socket broke and that may come back", counts.away),
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
        for (outcome, number) in counts.resumes {
            let labels = [("outcome", outcome.to_owned())];
            let help = "Sockets that came for a peer with its resume token, by what became of it";
            self.add("signalling_resumes", help, &labels, Value::Counter(number));
        }
        for (shard, micros) in counts.expected_load {
            let help = "Microseconds of CPU time a second that the shard's peers are expected to take, for placement";
            let load = Value::Gauge(i64::try_from(micros).unwrap_or(i64::MAX));
            self.add("shard_expected_load", help, &[("shard", shard.to_string())], load);
        }
    }

    fn cluster(&mut self, node: &ClusterNode) {
        for seen in Liveness::ALL {
            let labels = [("state", seen.name().to_owned())];
            let number = Value::Gauge(i64::try_from(node.seen_as(seen)).unwrap_or(i64::MAX));
            self.add(
                "cluster_nodes",
                "Nodes of the cluster with this one, as they are seen from here",
                &labels,
                number,
            );
        }
        self.add("bus_up", "1 while the cluster's bus answers", &[], Value::Gauge(node.bus_is_up().into()));
        let counts = node.counts();
        let (sum, buckets) = counts.round_trips();
        let help = "Time until the bus answers a question that nobody hears";
        self.add("bus_round_trip_seconds", help, &[], Value::Histogram(sum, buckets));
        let again = Value::Counter(counts.reconnects());
        self.add("bus_reconnects", "Connections to the cluster's engine beside the first", &[], again);
        for (way, kind, count) in counts.messages() {
            let labels = [("way", way.to_owned()), ("type", kind.to_owned())];
            self.add("bus_messages", "Messages on the cluster's bus", &labels, Value::Counter(count));
        }
        let fields = Value::Counter(counts.fields_unknown());
        self.add("bus_fields_unknown", "Fields of messages that this release does not know", &[], fields);
        for (why, count) in counts.unopened_by_reason() {
            let labels = [("why", why.to_owned())];
            self.add("bus_unopened", "Messages that were not opened, by reason", &labels, Value::Counter(count));
        }
        for (key, count) in node.opened_by_key() {
            let labels = [("key", key.to_string())];
            self.add("bus_opened", "Messages that were opened, by the id of their key", &labels, Value::Counter(count));
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
