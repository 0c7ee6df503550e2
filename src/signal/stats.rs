//! get-stats, the only request that a shard answers: the open questions, their timeout, and the JSON of the numbers.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::base::id::{PeerId, ShardId};
use crate::base::limits::STATS_PENDING_PER_PEER_MAX;
use crate::base::time::{Duration, Instant};
use crate::base::units::Bitrate;
use crate::shard::command::{Command, EncodingStats, RequestId, Stats, StatsOf};
use crate::signal::desk::Desk;
use crate::signal::message::{self, Code, Refusal, RequestTag};
use crate::signal::session::SessionId;

const ANSWER_MAX: Duration = Duration::from_secs(5);
const REQUEST: &str = "get-stats";

struct Waiting {
    session: SessionId,
    tag: Option<RequestTag>,
    of: StatsOf,
    /// The id as the client gave it, and its field.
    external: String,
    path: &'static str,
    deadline: Instant,
}

/// Request numbers only grow and all wait equally long: the first key is the first to run out.
#[derive(Default)]
pub(super) struct PendingStats {
    waiting: BTreeMap<u64, Waiting>,
    by_session: BTreeMap<SessionId, usize>,
}

impl PendingStats {
    fn remove(&mut self, request: RequestId) -> Option<Waiting> {
        let waiting = self.waiting.remove(&request.0)?;
        if let Some(count) = self.by_session.get_mut(&waiting.session) {
            *count -= 1;
            if *count == 0 {
                self.by_session.remove(&waiting.session);
            }
        }
        Some(waiting)
    }

    fn those(&self, wanted: impl Fn(&Waiting) -> bool) -> Vec<RequestId> {
        self.waiting.iter().filter(|(_, waiting)| wanted(waiting)).map(|(request, _)| RequestId(*request)).collect()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|(_, waiting)| waiting.deadline)
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn asker(&self, request: RequestId) -> Option<PeerId> {
        self.waiting.get(&request.0).map(|waiting| PeerId(waiting.session.0))
    }
}

/// The client's question.
pub(super) struct Question {
    pub(super) of: StatsOf,
    pub(super) external: String,
    pub(super) path: &'static str,
    pub(super) tag: Option<RequestTag>,
}

impl Desk {
    pub(super) fn stats_asked(
        &mut self,
        now: Instant,
        session: SessionId,
        shard: ShardId,
        question: Question,
    ) -> Result<(), Refusal> {
        let count = self.stats.by_session.entry(session).or_default();
        if *count >= STATS_PENDING_PER_PEER_MAX {
            let message = format!("{STATS_PENDING_PER_PEER_MAX} get-stats wait for their answers already");
            return Err(Refusal::new(Code::Limit, message));
        }
        *count += 1;
        let request = RequestId(self.ids.number());
        let Question { of, external, path, tag } = question;
        let waiting = Waiting { session, tag, of, external, path, deadline: now + ANSWER_MAX };
        self.stats.waiting.insert(request.0, waiting);
        self.command(shard, Command::GetStats { request, of });
        Ok(())
    }

    /// `transport` is the client's id of the transport that a producer's answer names.
    pub(super) fn stats_answered(&mut self, request: RequestId, stats: Option<&Stats>, transport: Option<String>) {
        let Some(waiting) = self.stats.remove(request) else { return };
        match stats {
            Some(stats) => {
                let data = to_json(&waiting.external, stats, transport);
                self.send(waiting.session, message::reply("stats", waiting.tag.as_ref(), &data));
            }
            None => self.refuse_stats(&waiting, &Refusal::not_found(waiting.path)),
        }
    }

    pub(super) fn stats_object_gone(&mut self, of: StatsOf) {
        for request in self.stats.those(|waiting| waiting.of == of) {
            self.stats_answered(request, None, None);
        }
    }

    pub(super) fn stats_session_gone(&mut self, peer: PeerId) {
        for request in self.stats.those(|waiting| waiting.session.0 == peer.0) {
            self.stats.remove(request);
        }
    }

    pub(super) fn stats_timeout(&mut self, now: Instant) {
        for request in self.stats.those(|waiting| waiting.deadline <= now) {
            if let Some(waiting) = self.stats.remove(request) {
                let refusal = Refusal::new(Code::Unavailable, "no answer came in time: try again later");
                self.refuse_stats(&waiting, &refusal);
            }
        }
    }

    fn refuse_stats(&mut self, waiting: &Waiting, refusal: &Refusal) {
        self.refuse(waiting.session, refusal, Some(REQUEST), waiting.tag.as_ref());
    }
}

fn millis(span: Option<Duration>) -> Option<f64> {
    span.map(|span| span.as_secs_f64() * 1_000.0)
}

fn to_json(id: &str, stats: &Stats, transport_id: Option<String>) -> Value {
    match stats {
        Stats::Transport(stats) => json!({
            "id": id,
            "of": "transport",
            "timestamp": stats.at.unix_millis(),
            "state": stats.state.name(),
            "iceState": stats.ice_state,
            "dtlsState": stats.dtls_state,
            "remote": stats.remote,
            "selectedCandidatePair": stats.remote.map(|remote| {
                json!({ "protocol": "udp", "remote": remote, "nominated": stats.nominated })
            }),
            "selectedCandidatePairChanges": stats.selected_candidate_pair_changes,
            "srtpProfile": stats.srtp_profile,
            "bytesReceived": stats.bytes_received,
            "packetsReceived": stats.packets_received,
            "recvBitrate": stats.recv_bitrate,
            "bytesSent": stats.bytes_sent,
            "packetsSent": stats.packets_sent,
            "sendBitrate": stats.send_bitrate,
            "currentRoundTripTimeMs": millis(stats.round_trip_time),
            "availableOutgoingBitrate": stats.available_outgoing_bitrate.map(Bitrate::bps),
        }),
        Stats::Producer(stats) => json!({
            "id": id,
            "of": "producer",
            "timestamp": stats.at.unix_millis(),
            "transportId": transport_id,
            "paused": stats.paused,
            "encodings": stats.encodings.iter().map(encoding).collect::<Vec<_>>(),
        }),
        Stats::Consumer(stats) => json!({
            "id": id,
            "of": "consumer",
            "timestamp": stats.at.unix_millis(),
            "verdict": { "state": stats.verdict.name(), "sinceMs": millis(Some(stats.verdict_for)) },
            "ssrc": stats.ssrc,
            "rtxSsrc": stats.rtx_ssrc,
            "paused": stats.paused,
            "producerPaused": stats.producer_paused,
            "withheld": stats.withheld,
            "waitingKeyFrame": stats.waiting_key_frame,
            "packetsSent": stats.packets_sent,
            "bytesSent": stats.bytes_sent,
            "bitrate": stats.bitrate,
            "packetsRetransmitted": stats.packets_retransmitted,
            "bytesRetransmitted": stats.bytes_retransmitted,
            "nackCount": stats.nack_count,
            "nackPacketCount": stats.nack_packet_count,
            "pliCount": stats.pli_count,
            "firCount": stats.fir_count,
            "packetsLost": stats.packets_lost,
            "fractionLost": stats.fraction_lost,
            "jitterMs": millis(Some(stats.jitter)),
            "lastAcknowledgedMs": millis(stats.last_acknowledged),
            "roundTripTimeMs": millis(stats.round_trip_time),
        }),
    }
}

fn encoding(stats: &EncodingStats) -> Value {
    json!({
        "ssrc": stats.ssrc,
        "rtxSsrc": stats.rtx_ssrc,
        "rid": stats.rid.map(|rid| rid.as_str().to_owned()),
        "packetsReceived": stats.packets_received,
        "bytesReceived": stats.bytes_received,
        "bitrate": stats.bitrate,
        "packetsLost": stats.packets_lost,
        "fractionLost": stats.fraction_lost,
        "packetsDiscarded": stats.packets_discarded,
        "packetsRetransmitted": stats.packets_retransmitted,
        "packetsRepaired": stats.packets_repaired,
        "jitterMs": millis(Some(stats.jitter)),
        "nackCount": stats.nack_count,
        "nackPacketCount": stats.nack_packet_count,
        "pliCount": stats.pli_count,
        "firCount": stats.fir_count,
        "keyFrames": stats.key_frames,
        "framesReceived": stats.frames_received,
        "framesPerSecond": stats.frames_per_second,
        "lastPacketMs": millis(stats.last_packet),
        "roundTripTimeMs": millis(stats.round_trip_time),
    })
}
