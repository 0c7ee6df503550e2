//! Layers towards clients: those that flow to a consumer, and those of a producer that are watched (the others may stop
//! being encoded). Changes are gathered for a moment and told once.

use crate::base::id::{ConsumerId, Layers, ProducerId, ShardId};
use crate::base::ranking::Ranking;
use crate::base::time::{Duration, Now};
use crate::media::layers::Allowance;
use crate::router::consumer::Consumer;
use crate::router::keys::{ConsumerKey, SourceKey};
use crate::router::source::Origin;
use crate::shard::command::Event;
use crate::shard::relay::RelayMessage;
use crate::shard::shard::Shard;
use crate::shard::wiring::Share;
use crate::transport::Transport;

/// How long a layer must be unwatched before its publisher is told: bringing one back costs a keyframe.
const UNWATCHED: Duration = Duration::from_secs(3);

impl Shard {
    pub(super) fn set_preferred_layers(&mut self, now: Now, id: ConsumerId, layers: Layers) {
        let Some(key) = self.commons.registry.consumer_keys.get(&id).copied() else { return };
        let Some(consumer) = self.commons.registry.consumers.get_mut(key) else { return };
        consumer.set_preferred(layers);
        let (source, transport) = (consumer.source, consumer.transport);
        self.layers_watched(now, source);
        self.commons.settling.share(&mut self.commons.registry, transport, Share::Anew);
    }

    /// The new allocation of the consumer.
    pub fn allow(&mut self, now: Now, key: ConsumerKey, allowance: Allowance) {
        let Some(consumer) = self.commons.registry.consumers.get_mut(key) else { return };
        let before = consumer.allowance;
        if consumer.set_allowance(allowance) {
            self.commons.news.of_consumer(now.mono, key);
            self.reopen(now, key);
        } else if before != allowance {
            self.ask_for_aim(now, key);
        }
    }

    /// Where it flows and should go on with another encoding: each packet of what bandwidth takes from it makes matters
    /// worse, so it does not wait for the next one of the other.
    fn ask_for_aim(&mut self, now: Now, key: ConsumerKey) {
        let Some(consumer) = self.commons.registry.consumers.get(key) else { return };
        let source = consumer.source;
        if let (Some(layered), Some(_)) = (&consumer.layered, consumer.attached())
            && let Some(aim) =
                self.commons.registry.sources.get(source).and_then(|source| layered.aim(now.mono, &source.active))
        {
            self.request_key_frame(now, source, Some(aim), false);
        }
    }

    /// It does not wait for the keyframe of a lower encoding with what flows: that fills the path, so that neither it nor
    /// the keyframe would arrive whole, nor sound beside them.
    pub(super) fn leave_at_once(&mut self, now: Now, key: ConsumerKey) {
        let Some(consumer) = self.commons.registry.consumers.get_mut(key) else { return };
        let (Some(layered), Some(flows)) = (&consumer.layered, consumer.attached()) else { return };
        let Some(active) = self.commons.registry.sources.get(consumer.source).map(|source| &source.active) else {
            return;
        };
        if layered.aim(now.mono, active).is_some_and(|aim| active.layer(aim) < active.layer(flows)) {
            consumer.begin_anew(now.mono);
            self.layers_changed(now, key);
        }
    }

    /// A consumer of a producer with layers began or ceased to flow.
    pub(super) fn layers_changed(&mut self, now: Now, key: ConsumerKey) {
        let Some(consumer) = self.commons.registry.consumers.get_mut(key) else { return };
        let source = consumer.source;
        if let Some(layered) = &mut consumer.layered {
            if !std::mem::replace(&mut layered.noticed, true) {
                self.commons.news.of_consumer(now.mono, key);
            }
            self.layers_watched(now, source);
        }
    }

    /// This source's layers may be watched differently now.
    pub(super) fn layers_watched(&mut self, now: Now, key: SourceKey) {
        if let Some(watched) = self.commons.registry.sources.get_mut(key).and_then(|source| source.watched.as_mut())
            && !std::mem::replace(&mut watched.noticed, true)
        {
            self.commons.news.of_source(now.mono, key);
        }
    }

    /// The layer of each encoding, flowing ones included: nobody is cut off, and a consumer that should have another
    /// one goes on with it from a keyframe.
    pub(super) fn ranked(&mut self, now: Now, key: SourceKey, ranking: Ranking) {
        let Some(source) = self.commons.registry.sources.get_mut(key) else { return };
        source.active.ranking = ranking;
        let producer = source.producer;
        let (consumers, relays) = (source.consumers.clone(), source.relays.clone());
        for key in consumers {
            if let Some(consumer) = self.commons.registry.consumers.get_mut(key)
                && let (Some(encoding), Some(layered)) = (consumer.attached(), &mut consumer.layered)
            {
                layered.ranked(ranking.layer(encoding));
                self.layers_changed(now, key);
            }
        }
        for shard in relays {
            self.send_relay(shard, &RelayMessage::Ranked { producer, ranking });
        }
        self.layers_watched(now, key);
    }

    /// Another shard's consumers of a producer of ours want this many of its layers.
    pub(super) fn layers_watched_elsewhere(&mut self, now: Now, producer: ProducerId, from: ShardId, layers: u8) {
        let Some(key) = self.commons.registry.source_keys.get(&producer).copied() else { return };
        let Some(watched) = self.commons.registry.sources.get_mut(key).and_then(|source| source.watched.as_mut())
        else {
            return;
        };
        watched.elsewhere.retain(|(shard, _)| *shard != from);
        if layers > 0 {
            watched.elsewhere.push((from, layers));
        }
        self.layers_watched(now, key);
    }

    pub(super) fn tell_layers(&mut self, now: Now) {
        let Some((consumers, sources)) = self.commons.news.take_due(now.mono) else { return };
        for key in consumers {
            self.tell_consumer(key);
        }
        for key in sources {
            self.tell_publisher(now, key);
        }
    }

    fn tell_consumer(&mut self, key: ConsumerKey) {
        let Some(consumer) = self.commons.registry.consumers.get_mut(key) else { return };
        let by_bandwidth = consumer.allowance == Allowance::Paused && !consumer.paused;
        let layers = match &consumer.layered {
            Some(_) => consumer.current(),
            // One without layers is told only that bandwidth pauses it and no longer does.
            None => (!by_bandwidth).then(Layers::default),
        };
        if let Some(layered) = &mut consumer.layered {
            layered.noticed = false;
            if std::mem::replace(&mut layered.told, layers) == layers {
                return;
            }
        }
        self.commons.ledger.events.push_back(Event::ConsumerLayers { consumer: consumer.id, layers, by_bandwidth });
    }

    fn tell_publisher(&mut self, now: Now, key: SourceKey) {
        let Some(source) = self.commons.registry.sources.get(key) else { return };
        let top = source.top.spatial;
        let wants = |consumer: &Consumer| {
            let open = !consumer.paused
                && self.commons.registry.transports.get(consumer.transport).is_some_and(Transport::is_open);
            let preferred = consumer.layered.as_ref().map_or(Layers::ALL, |layered| layered.preferred());
            if open { preferred.spatial.min(top).saturating_add(1) } else { 0 }
        };
        let here = source
            .consumers
            .iter()
            .filter_map(|key| self.commons.registry.consumers.get(*key))
            .map(wants)
            .max()
            .unwrap_or(0);
        let Some(source) = self.commons.registry.sources.get_mut(key) else { return };
        let Some(watched) = &mut source.watched else { return };
        watched.noticed = false;
        let all = top.saturating_add(1);
        let layers = watched.elsewhere.iter().map(|(_, layers)| *layers).fold(here, u8::max).min(all);
        // Which ones they are is found out by what comes of all of them.
        let layers = if source.ordering.is_some() && layers > 0 { all } else { layers };
        if layers == watched.told {
            watched.falls_since = None;
            return;
        }
        let (producer, ranking) = (source.producer, source.active.ranking);
        match source.origin {
            Origin::Relay(home) => {
                watched.told = layers;
                self.send_relay(home, &RelayMessage::Watched { producer, layers });
            }
            Origin::Local(_) => {
                let since = *watched.falls_since.get_or_insert(now.mono);
                if layers < watched.told && now.mono.since(since) < UNWATCHED {
                    self.layers_watched(now, key);
                    return;
                }
                (watched.told, watched.falls_since) = (layers, None);
                self.commons.ledger.events.push_back(Event::ProducerLayers {
                    producer,
                    watched: layers,
                    of: all,
                    ranking,
                });
            }
        }
    }
}
