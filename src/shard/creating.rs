//! New transports, producers and consumers, as signalling orders them. A refused one leaves nothing behind.

use rand::Rng;
use rand::rngs::StdRng;

use crate::base::id::{ConsumerId, Layers, PeerId, ProducerId, ShardId, ShortName, TransportId};
use crate::base::limits::{CONSUMERS_PER_PRODUCER_MAX, CONSUMERS_PER_TRANSPORT_MAX, SOURCES_PER_SHARD_MAX};
use crate::base::time::Now;
use crate::media::encoding_choice::Allowance;
use crate::media::ordering::Ordering;
use crate::media::rewrite::Rewriter;
use crate::media::sampled::Sampled;
use crate::router::consumer::{Consumer, Flow, Resent};
use crate::router::keys::{ProducerKey, SourceKey};
use crate::router::layered::Layered;
use crate::router::producer::Producer;
use crate::router::source::{Source, SourceOrigin};
use crate::secure::srtp::SealPlace;
use crate::shard::command::{Closed, ConsumerSpec, IceCredentials, ProducerSpec};
use crate::shard::commons::Commons;
use crate::shard::demux::Demux;
use crate::shard::flow::{self, FIRST_REPORT};
use crate::shard::registry::Registry;
use crate::shard::relay::Order;
use crate::transport::Transport;
use crate::transport::edits::Edits;
use crate::transport::ice_lite::IceLite;
use crate::transport::kind::Kind;
use crate::transport::outgoing::{Outgoing, Rtx, Sent};
use crate::transport::web_rtc::WebRtc;
use crate::wire::extension::Extension;

pub(super) fn transport(
    commons: &mut Commons,
    demux: &mut Demux,
    now: Now,
    id: TransportId,
    peer: PeerId,
    ice: IceCredentials,
) -> Result<(), Closed> {
    let name = ShortName::new(ice.ufrag.as_bytes());
    let kind = Kind::WebRtc(WebRtc::new(IceLite::new(ice)));
    let transport = Transport::new(now.mono, id, peer, kind);
    let added = name.and_then(|name| Some((name, commons.registry.add_transport(transport)?)));
    let (name, key) = added.ok_or(Closed::Limit("transports per shard"))?;
    commons.registry.wiring[key.slot()].ufrags.push(name);
    demux.ufrags.insert(name, key);
    Ok(())
}

/// Adds new credentials beside those in use, until a check comes under the new ones.
pub(super) fn restart_ice(commons: &mut Commons, demux: &mut Demux, id: TransportId, ice: IceCredentials) {
    let Some(key) = commons.registry.transport_keys.get(&id).copied() else { return };
    let Some(name) = ShortName::new(ice.ufrag.as_bytes()) else { return };
    let Registry { transports, wiring, .. } = &mut commons.registry;
    let Some(web_rtc) = transports.get_mut(key).and_then(|transport| transport.kind.web_rtc_mut()) else { return };
    web_rtc.ice.restart(ice);
    let wiring = &mut wiring[key.slot()];
    wiring.ufrags.push(name);
    demux.ufrags.insert(name, key);
    // Of earlier restarts only the set that is still in use stays valid.
    wiring.ufrags.retain(|known| {
        let valid = web_rtc.ice.ufrags().any(|ufrag| ufrag.as_bytes() == known.as_bytes());
        if !valid {
            demux.ufrags.remove(known);
        }
        valid
    });
}

/// Makes a producer and its source. The producer has a transport where signalling names one.
pub(super) fn producer(
    commons: &mut Commons,
    now: Now,
    (id, peer): (ProducerId, PeerId),
    transport: Option<TransportId>,
    spec: Box<ProducerSpec>,
    paused: bool,
) -> Result<ProducerKey, Closed> {
    let home = match transport {
        Some(id) => Some(commons.registry.transport_keys.get(&id).copied().ok_or(Closed::TransportClosed)?),
        None => None,
    };
    if commons.registry.sources.len() >= SOURCES_PER_SHARD_MAX {
        return Err(Closed::Limit("sources per shard"));
    }
    let encodings = spec.encodings.len();
    // A placeholder until the producer has a key.
    let origin = SourceOrigin::Relay(ShardId(0));
    let mut source = Source::new(now.mono, id, origin, spec.codec, spec.clock_rate, encodings, spec.top);
    source.paused = paused;
    source.active.ranking = spec.ranking;
    if encodings > 1 && !spec.ranked {
        source.ordering = Some(Box::new(Ordering::new(encodings, spec.ranking)));
    }
    if let Some(watched) = &mut source.watched {
        // A publisher begins with all layers.
        watched.told = source.top.spatial.saturating_add(1);
    }
    let source_key = commons.registry.sources.insert(source);
    let key = commons.registry.add_producer(Producer::new(now.mono, id, peer, home, spec, paused, source_key));
    if let Some(source) = commons.registry.sources.get_mut(source_key) {
        source.origin = SourceOrigin::Local(key);
    }
    commons.registry.source_keys.insert(id, source_key);
    if let Some(home) = home {
        commons.registry.wiring[home.slot()].producers.push(key);
        commons.arm(home, now.mono + FIRST_REPORT);
    }
    Ok(key)
}

/// The producer of a new consumer, and where it lives.
#[derive(Clone, Copy)]
pub(super) struct Of {
    pub producer: ProducerId,
    pub home: ShardId,
    /// This shard.
    pub here: ShardId,
}

/// Makes a consumer. The first one of a producer on another shard makes a stand-in source, too.
pub(super) fn consumer(
    commons: &mut Commons,
    rng: &mut StdRng,
    now: Now,
    (id, transport): (ConsumerId, TransportId),
    of: Of,
    spec: ConsumerSpec,
    paused: bool,
) -> Result<(), Closed> {
    let transport_key = commons.registry.transport_keys.get(&transport).copied().ok_or(Closed::TransportClosed)?;
    // Checked before a source is made that nobody would end.
    if commons.registry.wiring[transport_key.slot()].consumers.len() >= CONSUMERS_PER_TRANSPORT_MAX {
        return Err(Closed::Limit("consumers of one transport"));
    }
    let source_key = source_for(commons, now, of, &spec)?;
    let registry = &mut commons.registry;
    let (Some(source), Some(transport)) =
        (registry.sources.get_mut(source_key), registry.transports.get_mut(transport_key))
    else {
        return Ok(());
    };
    if source.consumers.len() >= CONSUMERS_PER_PRODUCER_MAX {
        return Err(Closed::Limit("consumers of one producer"));
    }
    let ssrcs = std::iter::once(spec.ssrc).chain(spec.rtx.map(|(_, ssrc)| ssrc));
    let described = spec.extensions.contains(Extension::DependencyDescriptor);
    let layered = (spec.top != Layers::default() || source.encodings.len() > 1)
        .then(|| Box::new(Layered::new(spec.codec, source.encodings.len(), described)));
    let nack = spec.feedback.nack && spec.rtx.is_some();
    // RFC 3550 section 5.1 wants a random start; below 2^15 a lost first packet cannot look like a wrap.
    let first_seq = rng.random_range(1_000..=32_767u16);
    let rewriter = Rewriter::new(first_seq, rng.random(), spec.clock_rate, nack);
    let codec = spec.codec;
    let outgoing = transport.outgoing.insert(outgoing(id, spec, layered.is_some(), rng));
    let key = registry.consumers.insert(Consumer {
        id,
        producer: of.producer,
        source: source_key,
        transport: transport_key,
        outgoing,
        codec,
        nack,
        paused,
        paused_at: now.mono,
        priority: 1,
        flow: Flow::Closed,
        flow_since: now.mono,
        allowance: Allowance::default(),
        layered,
        rewriter,
        opened: None,
        resent: Resent::default(),
        reports: Box::default(),
        rate: Sampled::default(),
    });
    source.consumers.push(key);
    registry.consumer_keys.insert(id, key);
    registry.wiring[transport_key.slot()].add_consumer(key, ssrcs);
    commons.arm(transport_key, now.mono + FIRST_REPORT);
    flow::open_later(commons, now, key);
    Ok(())
}

/// The source of the producer, made where there is none.
fn source_for(commons: &mut Commons, now: Now, of: Of, spec: &ConsumerSpec) -> Result<SourceKey, Closed> {
    match commons.registry.source_keys.get(&of.producer).copied() {
        Some(key) => Ok(key),
        None if of.home == of.here => Err(Closed::ProducerClosed),
        None if commons.registry.sources.len() >= SOURCES_PER_SHARD_MAX => Err(Closed::Limit("sources per shard")),
        None => Ok(open_relay(commons, now, of, spec)),
    }
}

/// Makes a stand-in source for a producer whose home is another shard, and subscribes there.
fn open_relay(commons: &mut Commons, now: Now, of: Of, spec: &ConsumerSpec) -> SourceKey {
    let ConsumerSpec { codec, clock_rate, encodings, top, .. } = spec;
    let (producer, origin) = (of.producer, SourceOrigin::Relay(of.home));
    let source = Source::new(now.mono, producer, origin, *codec, *clock_rate, *encodings, *top);
    let key = commons.registry.sources.insert(source);
    commons.registry.source_keys.insert(producer, key);
    commons.port.order(of.home, producer, Order::Subscribe);
    key
}

/// The stream of a consumer on its transport.
fn outgoing(id: ConsumerId, spec: ConsumerSpec, layered: bool, rng: &mut impl Rng) -> Outgoing {
    Outgoing {
        consumer: id,
        ssrc: spec.ssrc,
        seal_place: SealPlace::default(),
        payload_type: spec.payload_type,
        rtx: spec.rtx.map(|(payload_type, ssrc)| Rtx {
            payload_type,
            ssrc,
            next_index: u64::from(rng.random_range(1_000..=32_767u16)),
        }),
        mid: spec.mid,
        cname: spec.cname.into_boxed_str(),
        audio: !spec.codec.is_video(),
        extensions: spec.extensions,
        acknowledged: false,
        sent: Sent::default(),
        edits: layered.then(|| Box::new(Edits::new(spec.codec))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::slab::Key;
    use crate::shard::fixture::{Fixture, HERE, THERE, of_video, video};

    fn consume(fixture: &mut Fixture, id: u64, of: u64, home: ShardId) -> Result<(), Closed> {
        let of = Of { producer: ProducerId(of), home, here: HERE };
        let Fixture { commons, rng, now, .. } = fixture;
        consumer(commons, rng, *now, (ConsumerId(id), TransportId(1)), of, of_video(10 * id as u32), false)
    }

    #[test]
    fn what_is_refused_leaves_nothing_behind() {
        let mut fixture = Fixture::new();
        assert_eq!(consume(&mut fixture, 1, 7, THERE), Err(Closed::TransportClosed));
        let key = fixture.connected(1);
        assert_eq!(consume(&mut fixture, 1, 7, HERE), Err(Closed::ProducerClosed), "it would be here");
        let wiring = &mut fixture.commons.registry.wiring[key.slot()];
        wiring.consumers = vec![Key::from_parts(9, 9); CONSUMERS_PER_TRANSPORT_MAX];
        assert_eq!(consume(&mut fixture, 1, 7, THERE), Err(Closed::Limit("consumers of one transport")));
        assert!(
            fixture.commons.registry.sources.is_empty() && fixture.said().is_empty(),
            "nobody would end that relay"
        );
        fixture.commons.registry.wiring[key.slot()].consumers.clear();
        assert_eq!((consume(&mut fixture, 1, 7, THERE), consume(&mut fixture, 2, 7, THERE)), (Ok(()), Ok(())));
        let subscriptions = fixture.said().iter().filter(|said| said.contains("Subscribe")).count();
        assert_eq!(subscriptions, 1, "one for all consumers");
    }

    #[test]
    fn a_producer_on_a_transport_that_is_gone_is_refused() {
        let mut fixture = Fixture::new();
        let (ids, spec) = ((ProducerId(7), PeerId(1)), Box::new(video(100)));
        let refused = producer(&mut fixture.commons, fixture.now, ids, Some(TransportId(1)), spec, false);
        assert_eq!(refused, Err(Closed::TransportClosed));
        assert!(fixture.commons.registry.sources.is_empty() && fixture.commons.registry.peers.is_empty());
    }

    #[test]
    fn of_restarts_only_the_last_and_the_one_in_use_stay_valid() {
        let mut fixture = Fixture::new();
        fixture.connected(1);
        for n in 0..3 {
            let ice = IceCredentials { ufrag: format!("aanew{n}"), pwd: "a password of twenty-four".into() };
            restart_ice(&mut fixture.commons, &mut fixture.demux, TransportId(1), ice);
        }
        let mut names: Vec<_> = fixture.demux.ufrags.keys().map(|name| name.as_str().to_owned()).collect();
        names.sort();
        assert_eq!(names, ["aa000001", "aanew2"]);
    }
}
