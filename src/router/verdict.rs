//! The verdict on a consumer: why its picture or sound flows or stands still, and since when. Pure functions of state
//! that the consumer, its source and its transport keep anyway; no packet pays for them. `shard` asks for statistics
//! and metrics.

use crate::base::time::{Duration, Instant};
use crate::media::encoding_choice::{Allowance, SILENT};
use crate::router::consumer::{Consumer, Flow};
use crate::router::source::Source;
use crate::transport::Transport;

/// Reports about one stream come 0.5 to 1.5 s apart for video and 2.5 to 7.5 s for audio, and some are lost.
const UNHEARD_VIDEO: Duration = Duration::from_secs(5);
const UNHEARD_AUDIO: Duration = Duration::from_secs(16);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum State {
    #[default]
    Flowing,
    PausedByClient,
    ProducerPaused,
    /// The receiver's transport is not connected (yet), or its consent has run out.
    TransportDown,
    /// The publisher sends nothing, though it is not paused.
    NoPackets,
    /// The receiver's path takes less than the least that could be sent.
    NoBandwidth,
    /// The receiver has nothing to start with, or asked for a keyframe that has not come.
    WaitingKeyFrame,
    /// Packets go out, and no report acknowledges them.
    NotAcknowledged,
}

impl State {
    pub const ALL: [State; 8] = [
        State::Flowing,
        State::PausedByClient,
        State::ProducerPaused,
        State::TransportDown,
        State::NoPackets,
        State::NoBandwidth,
        State::WaitingKeyFrame,
        State::NotAcknowledged,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            State::Flowing => "flowing",
            State::PausedByClient => "paused-by-client",
            State::ProducerPaused => "producer-paused",
            State::TransportDown => "transport-down",
            State::NoPackets => "no-packets-from-producer",
            State::NoBandwidth => "no-bandwidth",
            State::WaitingKeyFrame => "waiting-keyframe",
            State::NotAcknowledged => "not-acknowledged",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    pub state: State,
    pub since: Instant,
}

/// The obstacles, each with its beginning; None: it is not one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Obstacles {
    pub paused_by_client: Option<Instant>,
    pub producer_paused: Option<Instant>,
    pub transport_down: Option<Instant>,
    pub no_packets: Option<Instant>,
    pub no_bandwidth: Option<Instant>,
    pub waiting_key_frame: Option<Instant>,
    pub not_acknowledged: Option<Instant>,
}

impl Obstacles {
    /// A wish comes before every fault: a stream that somebody paused is not missing. Then come faults that stop
    /// everything for this receiver, then the packets' way from the publisher on: the first obstacle is the cause.
    pub fn first(&self) -> Option<Verdict> {
        let in_order = [
            (State::PausedByClient, self.paused_by_client),
            (State::ProducerPaused, self.producer_paused),
            (State::TransportDown, self.transport_down),
            (State::NoPackets, self.no_packets),
            (State::NoBandwidth, self.no_bandwidth),
            (State::WaitingKeyFrame, self.waiting_key_frame),
            (State::NotAcknowledged, self.not_acknowledged),
        ];
        in_order.into_iter().find_map(|(state, since)| since.map(|since| Verdict { state, since }))
    }
}

pub fn verdict(now: Instant, consumer: &Consumer, source: &Source, transport: &Transport) -> Verdict {
    let obstacles = Obstacles {
        paused_by_client: consumer.paused.then_some(consumer.paused_at),
        producer_paused: source.paused.then_some(source.paused_at),
        transport_down: transport.down_since,
        no_packets: no_packets(now, consumer, source),
        no_bandwidth: (consumer.allowance == Allowance::Paused).then_some(consumer.flow_since),
        waiting_key_frame: waiting(now, consumer, source),
        not_acknowledged: unheard(now, consumer, source),
    };
    obstacles.first().unwrap_or_else(|| Verdict { state: State::Flowing, since: flowing_since(now, consumer, source) })
}

fn no_packets(now: Instant, consumer: &Consumer, source: &Source) -> Option<Instant> {
    let silent_since = match source.active.last_packet() {
        None => Some(source.paused_at),
        Some(last) => Some(last.max(source.paused_at)).filter(|last| now.since(*last) >= SILENT),
    };
    // Sound starts with any packet: a consumer that waits for one has had none.
    let awaits_sound = consumer.flow == Flow::KeyFrame && !consumer.codec.is_video();
    silent_since.or(awaits_sound.then_some(consumer.flow_since))
}

fn waiting(now: Instant, consumer: &Consumer, source: &Source) -> Option<Instant> {
    match consumer.flow {
        Flow::Closed => None,
        Flow::KeyFrame => consumer.codec.is_video().then_some(consumer.flow_since),
        // The attached encoding has stopped: the consumer can go on with a keyframe of another one only.
        Flow::Open { encoding, .. } if !source.active.is_active(now, encoding) => {
            source.active.last_packet_of(encoding)
        }
        Flow::Open { .. } => consumer.reports.waits_for(last_keyframe(consumer, source)),
    }
}

/// Since when packets go out unacknowledged, once that lasts too long.
pub fn unheard(now: Instant, consumer: &Consumer, source: &Source) -> Option<Instant> {
    let limit = if consumer.codec.is_video() { UNHEARD_VIDEO } else { UNHEARD_AUDIO };
    let went_out = Some(consumer.flow_since).max(source.active.since(now));
    let since = went_out.max(consumer.reports.advanced_at).filter(|_| consumer.attached().is_some())?;
    (now.since(since) >= limit).then_some(since)
}

fn flowing_since(now: Instant, consumer: &Consumer, source: &Source) -> Instant {
    let answered = consumer.reports.answered(last_keyframe(consumer, source));
    let ends = [source.active.since(now), consumer.reports.recovered_at, answered];
    ends.into_iter().flatten().fold(consumer.flow_since, Instant::max)
}

/// The encoding that the consumer is attached to.
pub fn last_keyframe(consumer: &Consumer, source: &Source) -> Option<Instant> {
    source.encodings.get(usize::from(consumer.attached()?))?.keyframes.last_keyframe()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::Layers;
    use crate::base::id::{ConsumerId, PeerId, ProducerId, ShardId, TransportId};
    use crate::base::slab::Key;
    use crate::media::rewrite::Rewriter;
    use crate::media::sampled::Sampled;
    use crate::router::consumer::Resent;
    use crate::router::layered::Layered;
    use crate::router::source::SourceOrigin;
    use crate::transport::ice_lite::{IceCredentialsLocal, IceLite};
    use crate::transport::kind::Kind;
    use crate::transport::web_rtc::WebRtc;
    use crate::wire::codec::Codec;

    fn at(seconds: f64) -> Instant {
        Instant::from_nanos((seconds * 1e9) as u64)
    }

    /// A consumer in the middle of a call, and the inputs of its verdict.
    struct Scene {
        consumer: Consumer,
        source: Source,
        transport: Transport,
    }

    impl Scene {
        /// Opened at 1 s with a keyframe, acknowledged and heard until `until`.
        fn flowing(codec: Codec, until: f64) -> Scene {
            let top = Layers { spatial: 1, temporal: 0 };
            let mut source =
                Source::new(at(0.5), ProducerId(1), SourceOrigin::Relay(ShardId(0)), codec, 90_000, 2, top);
            let credentials = IceCredentialsLocal { ufrag: "ufrag".into(), pwd: "password".into() };
            let kind = Kind::WebRtc(WebRtc::new(IceLite::new(credentials)));
            let mut transport = Transport::new(at(0.2), TransportId(1), PeerId(1), kind);
            assert_eq!(transport.down_since, Some(at(0.2)), "as long as it is not connected");
            transport.down_since = None;
            let mut consumer = Consumer {
                id: ConsumerId(1),
                producer: ProducerId(1),
                source: Key::from_parts(0, 0),
                transport: Key::from_parts(0, 0),
                outgoing: Key::from_parts(0, 0),
                codec,
                nack: true,
                paused: false,
                paused_at: at(0.6),
                priority: 1,
                flow: Flow::Closed,
                flow_since: at(0.6),
                allowance: Allowance::default(),
                layered: Some(Box::new(Layered::new(codec, 2, false))),
                rewriter: Rewriter::new(1, 1, 90_000, true),
                opened: Some(at(1.0)),
                resent: Resent::default(),
                reports: Box::default(),
                rate: Sampled::default(),
            };
            source.encodings[0].keyframes.on_keyframe(at(1.0));
            consumer.set_flow(at(1.0), Flow::Open { encoding: 0, epoch: 0 });
            let mut scene = Scene { consumer, source, transport };
            scene.packets(1.0, until);
            scene.reports(1.0, until);
            scene
        }

        fn packets(&mut self, from: f64, until: f64) {
            for n in 0..=((until - from) / 0.1) as u32 {
                self.source.active.on_packet(at(from + 0.1 * f64::from(n)), 0, n);
            }
        }

        /// Once a second, each with more packets than the one before.
        fn reports(&mut self, from: f64, until: f64) {
            for n in 1..=(until - from) as u32 {
                let now = at(from + f64::from(n));
                let keyframe = last_keyframe(&self.consumer, &self.source);
                let stood_still = unheard(now, &self.consumer, &self.source).is_some();
                self.consumer.reports.on_highest(now, now.as_millis() as u32, keyframe, stood_still);
            }
        }

        fn says(&self, now: f64) -> (State, f64) {
            let verdict = verdict(at(now), &self.consumer, &self.source, &self.transport);
            (verdict.state, verdict.since.as_nanos() as f64 / 1e9)
        }
    }

    #[test]
    fn the_first_cause_in_the_order_of_causes_is_named() {
        let mut obstacles = Obstacles {
            paused_by_client: Some(at(1.0)),
            producer_paused: Some(at(2.0)),
            transport_down: Some(at(3.0)),
            no_packets: Some(at(4.0)),
            no_bandwidth: Some(at(5.0)),
            waiting_key_frame: Some(at(6.0)),
            not_acknowledged: Some(at(7.0)),
        };
        let mut named = Vec::new();
        while let Some(Verdict { state, since }) = obstacles.first() {
            named.push((state.name(), since.as_nanos() / 1_000_000_000));
            *match state {
                State::PausedByClient => &mut obstacles.paused_by_client,
                State::ProducerPaused => &mut obstacles.producer_paused,
                State::TransportDown => &mut obstacles.transport_down,
                State::NoPackets => &mut obstacles.no_packets,
                State::NoBandwidth => &mut obstacles.no_bandwidth,
                State::WaitingKeyFrame => &mut obstacles.waiting_key_frame,
                State::NotAcknowledged => &mut obstacles.not_acknowledged,
                State::Flowing => unreachable!("it is no obstacle"),
            } = None;
        }
        let expected = [
            ("paused-by-client", 1),
            ("producer-paused", 2),
            ("transport-down", 3),
            ("no-packets-from-producer", 4),
            ("no-bandwidth", 5),
            ("waiting-keyframe", 6),
            ("not-acknowledged", 7),
        ];
        assert_eq!(named, expected);
        let all: Vec<_> = State::ALL.iter().map(|state| state.name()).collect();
        assert_eq!(all[1..], expected.map(|(name, _)| name));
    }

    #[test]
    fn what_flows_has_done_so_since_it_opened() {
        let scene = Scene::flowing(Codec::Vp8, 20.0);
        assert_eq!(scene.says(20.0), (State::Flowing, 1.0));
        let scene = Scene::flowing(Codec::Opus, 20.0);
        assert_eq!(scene.says(20.0), (State::Flowing, 1.0));
    }

    #[test]
    fn pauses_count_from_when_they_were_ordered_and_repeating_the_order_changes_nothing() {
        let mut scene = Scene::flowing(Codec::Vp8, 10.0);
        scene.consumer.set_paused(at(5.0), true);
        scene.consumer.set_paused(at(6.0), true);
        assert_eq!(scene.says(10.0), (State::PausedByClient, 5.0));
        (scene.source.paused, scene.source.paused_at) = (true, at(4.0));
        assert_eq!(scene.says(10.0), (State::PausedByClient, 5.0));
        scene.consumer.set_paused(at(7.0), false);
        assert_eq!(scene.says(10.0), (State::ProducerPaused, 4.0));
    }

    #[test]
    fn a_source_that_falls_silent_is_named_after_a_while_and_what_follows_counts_anew() {
        let mut scene = Scene::flowing(Codec::Vp8, 10.0);
        assert_eq!(scene.says(11.9).0, State::Flowing);
        assert_eq!(scene.says(12.1), (State::NoPackets, 10.0));
        scene.packets(15.0, 16.0);
        assert_eq!(scene.says(16.0), (State::Flowing, 15.0));
        // Reports stood still with it, and are given their time again.
        assert_eq!(scene.says(16.5), (State::Flowing, 15.0));
    }

    #[test]
    fn who_never_sent_is_silent_since_the_start_and_who_goes_on_is_given_time() {
        let mut scene = Scene::flowing(Codec::Vp8, 1.0);
        scene.source.active = Default::default();
        assert_eq!(scene.says(1.1), (State::NoPackets, 0.5));
        let mut scene = Scene::flowing(Codec::Vp8, 10.0);
        scene.source.paused_at = at(60.0);
        scene.consumer.set_flow(at(60.0), Flow::Closed);
        scene.consumer.set_flow(at(60.0), Flow::KeyFrame);
        assert_eq!(scene.says(61.0), (State::WaitingKeyFrame, 60.0));
        assert_eq!(scene.says(62.0), (State::NoPackets, 60.0));
    }

    #[test]
    fn sound_that_waits_for_its_first_packet_waits_for_the_publisher() {
        let mut scene = Scene::flowing(Codec::Opus, 10.0);
        scene.consumer.set_flow(at(9.9), Flow::KeyFrame);
        assert_eq!(scene.says(10.0), (State::NoPackets, 9.9));
    }

    #[test]
    fn a_receiver_that_asks_for_a_keyframe_waits_until_one_comes() {
        let mut scene = Scene::flowing(Codec::Vp8, 10.0);
        let keyframe = last_keyframe(&scene.consumer, &scene.source);
        scene.consumer.reports.asks(at(8.0), keyframe);
        scene.consumer.reports.asks(at(9.0), keyframe);
        assert_eq!(scene.says(10.0), (State::WaitingKeyFrame, 8.0), "the first request counts");
        scene.source.encodings[0].keyframes.on_keyframe(at(10.5));
        scene.packets(10.0, 20.0);
        assert_eq!(scene.says(10.6), (State::Flowing, 10.5));
        scene.reports(10.0, 20.0);
        scene.source.encodings[0].keyframes.on_keyframe(at(19.0));
        assert_eq!(scene.says(20.0), (State::Flowing, 10.5), "a later keyframe ends nothing");
    }

    #[test]
    fn where_keyframes_cannot_be_read_nobody_waits_for_one() {
        let mut scene = Scene::flowing(Codec::Vp8, 10.0);
        scene.source.encodings[0].keyframes = Default::default();
        scene.consumer.reports.asks(at(8.0), None);
        assert_eq!(scene.says(10.0), (State::Flowing, 1.0));
    }

    #[test]
    fn who_hangs_on_an_encoding_that_stopped_waits_for_a_keyframe_of_another() {
        let mut scene = Scene::flowing(Codec::Vp8, 10.0);
        for n in 0..200 {
            scene.source.active.on_packet(at(1.0 + f64::from(n) * 0.1), 1, n);
        }
        assert_eq!(scene.says(11.0).0, State::Flowing);
        assert_eq!(scene.says(15.0), (State::WaitingKeyFrame, 10.0));
    }

    #[test]
    fn reports_that_stand_still_are_named_and_when_they_go_on_it_flows_anew() {
        for (codec, patience) in [(Codec::Vp8, 5.0), (Codec::Opus, 16.0)] {
            let mut scene = Scene::flowing(codec, 10.0);
            scene.packets(10.0, 50.0);
            assert_eq!(scene.says(10.0 + patience - 0.1), (State::Flowing, 1.0));
            assert_eq!(scene.says(10.0 + patience), (State::NotAcknowledged, 10.0));
            // A report that acknowledges nothing new is none.
            scene.consumer.reports.on_highest(at(27.0), 10_000, None, true);
            assert_eq!(scene.says(30.0), (State::NotAcknowledged, 10.0));
            scene.reports(30.0, 40.0);
            assert_eq!(scene.says(40.0), (State::Flowing, 31.0));
        }
    }

    #[test]
    fn a_receiver_that_never_reports_counts_from_the_first_packet() {
        let mut scene = Scene::flowing(Codec::Vp8, 1.0);
        scene.packets(1.0, 10.0);
        assert_eq!(scene.says(10.0), (State::NotAcknowledged, 1.0));
        scene.transport.down_since = Some(at(9.0));
        assert_eq!(scene.says(10.0), (State::TransportDown, 9.0), "and that explains it");
    }
}
