//! Layers towards clients: those that flow to a consumer, and those of a producer that are watched; the others may stop
//! being encoded. `layer_changes` gathers the changes for a moment, and each is told once.

use crate::base::id::{ConsumerId, Layers, ProducerId};
use crate::base::ranking::Ranking;
use crate::base::time::{Duration, Now};
use crate::media::encoding_choice::Allowance;
use crate::router::consumer::Consumer;
use crate::router::keys::{ConsumerKey, SourceKey};
use crate::router::source::{Elsewhere, SourceOrigin};
use crate::shard::command::Event;
use crate::shard::commons::Commons;
use crate::shard::relay::{Feed, Order};
use crate::shard::wiring::Share;
use crate::transport::Transport;

/// How long a layer must be unwatched before its publisher is told: bringing one back costs a keyframe.
const UNWATCHED: Duration = Duration::from_secs(3);

pub(super) fn set_preferred(commons: &mut Commons, now: Now, id: ConsumerId, layers: Layers) {
    let Some(key) = commons.registry.consumer_keys.get(&id).copied() else { return };
    let Some(consumer) = commons.registry.consumers.get_mut(key) else { return };
    consumer.set_preferred(layers);
    let (source, transport) = (consumer.source, consumer.transport);
    note_watched(commons, now, source);
    commons.settling.share(&mut commons.registry, transport, Share::Anew);
}

/// Notes that a consumer of a producer with layers began or ceased to flow.
pub(super) fn note_changed(commons: &mut Commons, now: Now, key: ConsumerKey) {
    let Some(consumer) = commons.registry.consumers.get_mut(key) else { return };
    let source = consumer.source;
    if let Some(layered) = &mut consumer.layered {
        if !std::mem::replace(&mut layered.noticed, true) {
            commons.layer_changes.of_consumer(now.mono, key);
        }
        note_watched(commons, now, source);
    }
}

/// Notes that other layers of this source may be watched now.
pub(super) fn note_watched(commons: &mut Commons, now: Now, key: SourceKey) {
    if let Some(watched) = commons.registry.sources.get_mut(key).and_then(|source| source.watched.as_mut())
        && !std::mem::replace(&mut watched.noticed, true)
    {
        commons.layer_changes.of_source(now.mono, key);
    }
}

/// Sets the layer of each encoding, flowing ones included. Nobody is cut off: a consumer that should have another
/// encoding changes to it at a keyframe.
pub(super) fn ranked(commons: &mut Commons, now: Now, key: SourceKey, ranking: Ranking) {
    let Some(source) = commons.registry.sources.get_mut(key) else { return };
    source.active.ranking = ranking;
    commons.port.feed_all(source, Feed::Ranked { ranking });
    for key in source.consumers.clone() {
        if let Some(consumer) = commons.registry.consumers.get_mut(key)
            && let (Some(encoding), Some(layered)) = (consumer.attached(), &mut consumer.layered)
        {
            layered.ranked(ranking.layer(encoding));
            note_changed(commons, now, key);
        }
    }
    note_watched(commons, now, key);
}

/// Notes how many layers of a producer the consumers on another shard, or on a node beyond, watch.
pub(super) fn watched_elsewhere(commons: &mut Commons, now: Now, producer: ProducerId, from: Elsewhere, layers: u8) {
    let Some(key) = commons.registry.source_keys.get(&producer).copied() else { return };
    let Some(watched) = commons.registry.sources.get_mut(key).and_then(|source| source.watched.as_mut()) else {
        return;
    };
    watched.elsewhere.retain(|(shard, _)| *shard != from);
    if layers > 0 {
        watched.elsewhere.push((from, layers));
    }
    note_watched(commons, now, key);
}

pub(super) fn tell(commons: &mut Commons, now: Now) {
    let Some((consumers, sources)) = commons.layer_changes.take_due(now.mono) else { return };
    for key in consumers {
        tell_consumer(commons, key);
    }
    for key in sources {
        tell_publisher(commons, now, key);
    }
}

fn tell_consumer(commons: &mut Commons, key: ConsumerKey) {
    let Some(consumer) = commons.registry.consumers.get_mut(key) else { return };
    let by_bandwidth = consumer.allowance == Allowance::Paused && !consumer.paused;
    let layers = match &consumer.layered {
        Some(_) => consumer.current(),
        // A consumer without layers is told only when bandwidth pauses it and when that ends.
        None => (!by_bandwidth).then(Layers::default),
    };
    if let Some(layered) = &mut consumer.layered {
        layered.noticed = false;
        if std::mem::replace(&mut layered.told, layers) == layers {
            return;
        }
    }
    commons.ledger.events.push_back(Event::ConsumerLayers { consumer: consumer.id, layers, by_bandwidth });
}

fn tell_publisher(commons: &mut Commons, now: Now, key: SourceKey) {
    let Some(source) = commons.registry.sources.get(key) else { return };
    let top = source.top.spatial;
    let wants = |consumer: &Consumer| {
        let open =
            !consumer.paused && commons.registry.transports.get(consumer.transport).is_some_and(Transport::is_open);
        let preferred = consumer.layered.as_ref().map_or(Layers::ALL, |layered| layered.preferred());
        if open { preferred.spatial.min(top).saturating_add(1) } else { 0 }
    };
    let here =
        source.consumers.iter().filter_map(|key| commons.registry.consumers.get(*key)).map(wants).max().unwrap_or(0);
    let Some(source) = commons.registry.sources.get_mut(key) else { return };
    let Some(watched) = &mut source.watched else { return };
    watched.noticed = false;
    let all = top.saturating_add(1);
    let layers = watched.elsewhere.iter().map(|(_, layers)| *layers).fold(here, u8::max).min(all);
    // The order of the encodings is still being measured, which takes all of them.
    let layers = if source.ordering.is_some() && layers > 0 { all } else { layers };
    if layers == watched.told {
        watched.falls_since = None;
        return;
    }
    let (producer, ranking) = (source.producer, source.active.ranking);
    match source.origin {
        SourceOrigin::Relay(_) => {
            watched.told = layers;
            commons.port.order_home(source, Order::Watched { layers });
        }
        SourceOrigin::Local(_) | SourceOrigin::Lane => {
            let since = *watched.falls_since.get_or_insert(now.mono);
            if layers < watched.told && now.mono.since(since) < UNWATCHED {
                note_watched(commons, now, key);
                return;
            }
            (watched.told, watched.falls_since) = (layers, None);
            if let SourceOrigin::Lane = source.origin {
                return commons.port.order_home(source, Order::Watched { layers });
            }
            commons.ledger.events.push_back(Event::ProducerLayers { producer, watched: layers, of: all, ranking });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::command::{EncodingSpec, ProducerSpec};
    use crate::shard::fixture::{Fixture, HERE, THERE, video};

    fn simulcast() -> ProducerSpec {
        let encodings = vec![EncodingSpec::default(); 3];
        ProducerSpec { encodings, top: Layers { spatial: 2, temporal: 0 }, ..video(100) }
    }

    fn tell_later(fixture: &mut Fixture) -> Vec<Event> {
        fixture.wait(100);
        tell(&mut fixture.commons, fixture.now);
        fixture.events()
    }

    #[test]
    fn a_publisher_hears_late_that_layers_are_unwatched_and_soon_that_they_are_wanted() {
        let mut fixture = Fixture::new();
        fixture.connected(1);
        fixture.producer(7, 1, simulcast());
        let source = fixture.source(7);
        note_watched(&mut fixture.commons, fixture.now, source);
        fixture.events();
        let mut waited = 0;
        let told = loop {
            let told = tell_later(&mut fixture);
            waited += 100;
            if !told.is_empty() || waited > 10_000 {
                break told;
            }
        };
        assert!(matches!(told[..], [Event::ProducerLayers { watched: 0, of: 3, .. }]), "{told:?}");
        assert!((3_000..3_500).contains(&waited), "{waited} ms");
        watched_elsewhere(&mut fixture.commons, fixture.now, ProducerId(7), Elsewhere::Shard(THERE), 2);
        let told = tell_later(&mut fixture);
        assert!(matches!(told[..], [Event::ProducerLayers { watched: 2, .. }]), "{told:?}");
    }

    #[test]
    fn a_client_is_told_once_when_its_layers_have_changed() {
        let mut fixture = Fixture::new();
        fixture.connected(1);
        fixture.producer(7, 1, simulcast());
        let key = fixture.consumer(3, 1, 7, HERE);
        let consumer = fixture.commons.registry.consumers.get_mut(key).unwrap();
        assert!(consumer.layered.as_ref().is_some_and(|layered| layered.told.is_none()));
        consumer.flow = crate::router::consumer::Flow::Open { encoding: 1, epoch: 0 };
        consumer.layered.as_mut().unwrap().ranked(1);
        fixture.events();
        for _ in 0..3 {
            note_changed(&mut fixture.commons, fixture.now, key);
        }
        let told = tell_later(&mut fixture);
        let changes = told.iter().filter(|event| matches!(event, Event::ConsumerLayers { .. })).count();
        note_changed(&mut fixture.commons, fixture.now, key);
        let again =
            tell_later(&mut fixture).iter().filter(|event| matches!(event, Event::ConsumerLayers { .. })).count();
        assert_eq!((changes, again), (1, 0), "{told:?}");
    }
}
