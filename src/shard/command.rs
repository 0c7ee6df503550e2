//! The only door between the towers: the commands of signalling to a shard, the replies, and the shard's events. Plain
//! data, sent by value. Commands are carried out in the order they were sent; only those that carry a [`RequestId`] are
//! answered, each exactly once. Refusals of the others come as events about the object they name.

use std::net::SocketAddr;

use crate::base::buffer::{LocalIndex, Path};
use crate::base::histogram::Histogram;
use crate::base::id::{ConsumerId, Layers, PeerId, ProducerId, Rid, ShardId, TransportId};
use crate::base::node_id::NodeId;
use crate::base::ranking::Ranking;
use crate::base::time::{Duration, NtpTime};
use crate::base::units::Bitrate;
pub use crate::media::loudness::Speech;
pub use crate::router::spec::{ConsumerSpec, EncodingSpec, FeedbackSpec, MediaKind, ProducerSpec};
pub use crate::router::verdict::State as VerdictState;
pub use crate::secure::certificate::{Fingerprint, HashAlgorithm};
pub use crate::secure::srtp::SrtpKeys;
pub use crate::transport::ice_lite::IceCredentialsLocal as IceCredentials;
pub use crate::transport::link::{Announcement, RemoteDtlsRole};
use crate::transport::send_buffer::SendCounts;
use crate::wire::codec::Codec;
use crate::wire::lane::ProducerUuid;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RequestId(pub u64);

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    CreateTransport {
        transport: TransportId,
        peer: PeerId,
        ice: IceCredentials,
    },
    /// RTP without ICE and DTLS, with RTCP on the same address (RFC 5761).
    CreatePlainTransport {
        transport: TransportId,
        peer: PeerId,
        plain: Box<PlainRtpSpec>,
    },
    Announce {
        transport: TransportId,
        announcement: Announcement,
    },
    RestartIce {
        transport: TransportId,
        ice: IceCredentials,
    },
    CloseTransport {
        transport: TransportId,
    },

    /// `transport: None` binds by what arrives: the ssrc, else mid and rid, else mid, on any transport of this peer.
    Produce {
        producer: ProducerId,
        peer: PeerId,
        transport: Option<TransportId>,
        spec: Box<ProducerSpec>,
        paused: bool,
    },
    PauseProducer {
        producer: ProducerId,
    },
    ResumeProducer {
        producer: ProducerId,
    },
    /// Whether the shard reports this one's level ([`Event::Speech`]).
    Listen {
        producer: ProducerId,
        listen: bool,
    },
    /// Whether its packets go to nobody, because others of its channel are louder.
    Withhold {
        producer: ProducerId,
        withheld: bool,
    },
    CloseProducer {
        producer: ProducerId,
    },

    /// `home` is the shard that owns the producer: if it is another one, the shards arrange a relay between them.
    Consume {
        consumer: ConsumerId,
        transport: TransportId,
        producer: ProducerId,
        home: ShardId,
        spec: Box<ConsumerSpec>,
        paused: bool,
    },
    PauseConsumer {
        consumer: ConsumerId,
    },
    ResumeConsumer {
        consumer: ConsumerId,
    },
    CloseConsumer {
        consumer: ConsumerId,
    },
    /// The most the client wants; bandwidth may allow less. Nothing to a consumer without layers.
    SetPreferredLayers {
        consumer: ConsumerId,
        layers: Layers,
    },
    RequestKeyFrame {
        consumer: ConsumerId,
    },

    /// Among the consumers of its transport; 1, the lowest, is the default.
    SetPriority {
        consumer: ConsumerId,
        priority: u8,
    },
    /// None leaves a bound as it is, zero lifts it.
    SetMaxBitrate {
        transport: TransportId,
        incoming: Option<Bitrate>,
        outgoing: Option<Bitrate>,
    },

    /// The nodes of the cluster, all of them; only in a cluster.
    Nodes {
        nodes: Box<LaneNodes>,
    },
    /// Other nodes may ask for this producer, under the name that all nodes know.
    Publish {
        producer: ProducerId,
        uuid: ProducerUuid,
    },
    /// Subscribes to a producer of another node, for consumers here and on the other shards, to whom this is its home.
    Import {
        producer: ProducerId,
        uuid: ProducerUuid,
        from: (NodeId, ShardId),
        spec: Box<ImportSpec>,
    },
    DropImport {
        producer: ProducerId,
    },

    /// Answered by [`Reply::Stats`].
    GetStats {
        request: RequestId,
        of: StatsOf,
    },
    /// Answered by [`Reply::Metrics`].
    GetMetrics {
        request: RequestId,
    },
    /// Closes everything; the shard's loop ends after it.
    Shutdown,
}

/// What a shard knows of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LaneNodes {
    pub own: NodeId,
    /// Whether our own bus answers; lanes tell it to their other ends.
    pub bus_up: bool,
    pub others: Vec<LaneNode>,
}

/// Another node, by what it says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LaneNode {
    pub node: NodeId,
    /// The address of its first shard's lanes; each further shard has the next port.
    pub address: SocketAddr,
    pub shards: u16,
    pub fingerprint: Fingerprint,
}

/// What a stand-in for a producer of another node has to know of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImportSpec {
    pub codec: Codec,
    pub clock_rate: u32,
    pub encodings: usize,
    pub top: Layers,
    pub ranking: Ranking,
}

/// A lane to a shard of another node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LaneState {
    Opening,
    Up,
    /// Nobody uses it.
    Closed,
    /// It could not be opened, or nothing is heard any more.
    Dead,
}

/// Why an import ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ImportEnd {
    /// The node that was asked knows of no such producer.
    Gone,
    /// The producer ended.
    Closed,
    /// A bound was reached; the text names it.
    Limit(&'static str),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlainRtpSpec {
    /// Its alone: a bound address that no client is told of.
    pub local: LocalIndex,
    /// The only address that it takes packets from and sends to. None: that of the first packet that opens under the
    /// keys; without keys, of the first RTP with the SSRC of one of its producers, so that one with consumers alone
    /// has to be told.
    pub remote: Option<SocketAddr>,
    /// None: in the clear.
    pub srtp: Option<SrtpKeys>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum StatsOf {
    Transport(TransportId),
    Producer(ProducerId),
    Consumer(ConsumerId),
}

#[derive(Clone, PartialEq, Debug)]
pub enum Reply {
    Stats(Option<Stats>),
    Metrics(Box<Metrics>),
}

#[derive(Clone, PartialEq, Debug)]
pub enum Stats {
    Transport(TransportStats),
    Producer(ProducerStats),
    Consumer(ConsumerStats),
}

/// Names as in the W3C WebRTC statistics where one fits, else as mediasoup's, in all that follows.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct TransportStats {
    /// By the wall clock.
    pub at: NtpTime,
    pub state: TransportState,
    /// The one that it sends on, once there is one.
    pub path: Option<Path>,
    pub nominated: bool,
    pub selected_candidate_pair_changes: u64,
    /// None: it has no ICE.
    pub ice_state: Option<&'static str>,
    /// None: it has no DTLS.
    pub dtls_state: Option<&'static str>,
    pub srtp_profile: Option<&'static str>,
    pub bytes_received: u64,
    pub packets_received: u64,
    pub bytes_sent: u64,
    pub packets_sent: u64,
    /// Bits per second, as in all fields named so.
    pub recv_bitrate: u64,
    pub send_bitrate: u64,
    /// None: no feedback has come, and nothing is held back.
    pub available_outgoing_bitrate: Option<Bitrate>,
    pub round_trip_time: Option<Duration>,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct EncodingStats {
    pub ssrc: Option<u32>,
    pub rtx_ssrc: Option<u32>,
    pub rid: Option<Rid>,
    pub packets_received: u64,
    pub bytes_received: u64,
    pub bitrate: u64,
    pub packets_lost: i64,
    /// In the last report to the publisher.
    pub fraction_lost: f64,
    pub packets_discarded: u64,
    /// Came as retransmissions; those that were needed are repaired.
    pub packets_retransmitted: u64,
    pub packets_repaired: u64,
    pub jitter: Duration,
    pub nack_count: u64,
    pub nack_packet_count: u64,
    pub pli_count: u64,
    pub fir_count: u64,
    pub key_frames: u64,
    pub frames_received: u64,
    pub frames_per_second: f64,
    pub round_trip_time: Option<Duration>,
    /// The time since the last packet came that was not withheld.
    pub last_packet: Option<Duration>,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct ProducerStats {
    pub at: NtpTime,
    pub transport: Option<TransportId>,
    pub paused: bool,
    pub encodings: Vec<EncodingStats>,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct ConsumerStats {
    pub at: NtpTime,
    pub verdict: VerdictState,
    pub verdict_for: Duration,
    pub ssrc: u32,
    pub rtx_ssrc: Option<u32>,
    pub paused: bool,
    pub producer_paused: bool,
    /// Its producer is not among the loudest that the channel forwards.
    pub withheld: bool,
    /// True while nothing is forwarded because no keyframe has come yet.
    pub waiting_key_frame: bool,
    pub packets_sent: u64,
    pub bytes_sent: u64,
    pub bitrate: u64,
    pub packets_retransmitted: u64,
    pub bytes_retransmitted: u64,
    pub nack_count: u64,
    pub nack_packet_count: u64,
    pub pli_count: u64,
    pub fir_count: u64,
    /// From the receiver's reports.
    pub packets_lost: i64,
    pub fraction_lost: f64,
    pub jitter: Duration,
    /// The time since a report last acknowledged new packets.
    pub last_acknowledged: Option<Duration>,
    pub round_trip_time: Option<Duration>,
}

/// A shard's counters at one moment: names as they appear in /metrics, without the prefix and the `_total`.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Metrics {
    /// (name, help, value)
    pub counters: Vec<(&'static str, &'static str, u64)>,
    pub gauges: Vec<(&'static str, &'static str, i64)>,
    pub histograms: Vec<Distribution>,
    /// Consumers by verdict, every verdict that there is.
    pub verdicts: Vec<(VerdictState, i64)>,
    /// (reason, count), every reason that exists, also those that never happened.
    pub drops: Vec<(&'static str, u64)>,
}

/// A histogram as /metrics shows it.
#[derive(Clone, PartialEq, Debug)]
pub struct Distribution {
    pub name: &'static str,
    pub help: &'static str,
    pub sum: f64,
    /// (upper bound, how many lie between the bound before and this one); the last bound is infinite.
    pub buckets: Vec<(f64, u64)>,
}

impl Distribution {
    pub fn of_delays(delays: &Histogram) -> Distribution {
        const BOUNDS_MICROS: [u64; 13] =
            [50, 100, 250, 500, 1_000, 2_000, 3_000, 5_000, 10_000, 20_000, 50_000, 100_000, 500_000];
        let mut below = 0;
        let mut bucket = |bound: f64, at_most: u64| {
            let count = at_most - below;
            below = at_most;
            (bound, count)
        };
        let mut buckets: Vec<_> = BOUNDS_MICROS
            .iter()
            .map(|micros| bucket(*micros as f64 / 1e6, delays.at_most(Duration::from_micros(*micros))))
            .collect();
        buckets.push(bucket(f64::INFINITY, delays.count()));
        Distribution {
            name: "added_delay_seconds",
            help: "From a packet's arrival to the end of its send, of the oldest packet of each send",
            sum: delays.sum().as_secs_f64(),
            buckets,
        }
    }

    pub fn of_runs(counts: &SendCounts) -> Distribution {
        let last = counts.runs_up_to.len() - 1;
        let bound = |at: usize| if at == last { f64::INFINITY } else { (1u64 << at) as f64 };
        Distribution {
            name: "run_datagrams",
            help: "Datagrams in each send",
            sum: counts.packets as f64,
            buckets: counts.runs_up_to.iter().enumerate().map(|(at, count)| (bound(at), *count)).collect(),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TransportState {
    /// No authenticated check yet.
    #[default]
    New,
    /// ICE has a path, DTLS is not done.
    Connecting,
    /// Media may flow.
    Connected,
    /// Consent lost (RFC 7675): silent, kept for a check or a restart-ice.
    Disconnected,
    /// The handshake failed (fingerprint, timeout, protocol error): nothing will ever flow.
    Failed,
    Closed,
}

impl TransportState {
    pub const fn name(self) -> &'static str {
        match self {
            TransportState::New => "new",
            TransportState::Connecting => "connecting",
            TransportState::Connected => "connected",
            TransportState::Disconnected => "disconnected",
            TransportState::Failed => "failed",
            TransportState::Closed => "closed",
        }
    }
}

/// How a transport was connected, for the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Connected {
    pub path: Path,
    /// None: its keys, if it has any, came with the command.
    pub handshake: Option<HandshakeReport>,
    /// The SRTP profile as the IANA registry calls it; None: RTP in the clear.
    pub srtp: Option<&'static str>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HandshakeReport {
    /// The cipher suite as the IANA registry calls it.
    pub suite: &'static str,
    /// From its first datagram to the keys.
    pub took: Duration,
}

/// The totals of a transport, for the log.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    pub bytes_received: u64,
    pub packets_received: u64,
    pub bytes_sent: u64,
    pub packets_sent: u64,
    /// RTP packets missing of what it sent, by our count, and of what it was sent, by its reports.
    pub lost_received: i64,
    pub lost_sent: i64,
    /// The unwanted cause that kept one of its consumers from flowing for the longest time.
    pub worst: Option<(VerdictState, Duration)>,
}

/// Why a shard closed something by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Closed {
    /// A newer producer took its mid or ssrc on the same transport.
    Replaced,
    /// Its transport went away (close, ten minutes without consent, dtls close).
    TransportClosed,
    /// The producer it consumed went away.
    ProducerClosed,
    /// A bound was reached; the text names it.
    Limit(&'static str),
    /// A panic was caught while this object was handled, or its shard was restarted.
    Fault,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    Answer {
        request: RequestId,
        reply: Reply,
    },
    TransportState {
        transport: TransportId,
        state: TransportState,
    },
    /// It has keys; told once, after the state.
    TransportConnected {
        transport: TransportId,
        report: Box<Connected>,
    },
    /// The first packet under its keys came from it or went to it.
    FirstPacket {
        transport: TransportId,
        incoming: bool,
    },
    /// Told before the state.
    HandshakeFailed {
        transport: TransportId,
        why: String,
    },
    /// The last word about a transport, whoever closed it.
    TransportEnded {
        transport: TransportId,
        totals: Box<Totals>,
    },
    /// The shard closed a transport by itself; its producers and consumers follow with their own events.
    TransportClosed {
        transport: TransportId,
        why: Closed,
    },
    /// Its packets arrive on this transport.
    ProducerBound {
        producer: ProducerId,
        transport: TransportId,
    },
    ProducerClosed {
        producer: ProducerId,
        why: Closed,
    },
    /// It sent RTCP BYE for all its streams, or nothing for 10 s; `false` when packets come again.
    ProducerSilent {
        producer: ProducerId,
        silent: bool,
    },
    ConsumerClosed {
        consumer: ConsumerId,
        why: Closed,
    },
    /// The audible producers among those that signalling listens to, and each once more when it is no longer audible.
    /// One without a recent report is silent.
    Speech {
        levels: Vec<(ProducerId, Speech)>,
    },
    /// The layers that flow now; None: none do, because of bandwidth or for another reason.
    ConsumerLayers {
        consumer: ConsumerId,
        layers: Option<Layers>,
        by_bandwidth: bool,
    },
    /// The number of its spatial layers (or encodings), from the lowest on, that are watched.
    ProducerLayers {
        producer: ProducerId,
        watched: u8,
        of: u8,
        ranking: Ranking,
    },
    /// A lane has become this. `bus_up`: what its other end says of its own bus.
    Lane {
        node: NodeId,
        /// The shard here and the one there.
        shards: (ShardId, ShardId),
        state: LaneState,
        bus_up: bool,
    },
    /// Its consumers follow with their own events.
    ImportLost {
        producer: ProducerId,
        why: ImportEnd,
    },
    /// The shard lost all it owned (two panics within a second) and starts empty.
    ShardRestarted {
        shard: ShardId,
    },
}
