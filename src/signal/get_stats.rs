//! get-stats, the only request that a shard answers: the open questions, their timeout, and the JSON of the numbers.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::base::buffer::Path;
use crate::base::id::PeerId;
use crate::base::limits::STATS_PENDING_PER_PEER_MAX;
use crate::base::time::{Duration, Instant};
use crate::base::units::Bitrate;
use crate::shard::command::{Command, EncodingStats, RequestId, Stats, StatsOf};
use crate::signal::ids::Ids;
use crate::signal::message::{self, Code, Refusal, RequestTag};
use crate::signal::post::Post;

const ANSWER_MAX: Duration = Duration::from_secs(5);
const REQUEST: &str = "get-stats";

struct Waiting {
    asker: PeerId,
    tag: Option<RequestTag>,
    of: StatsOf,
    /// The id as the client gave it, and its field.
    external: String,
    path: &'static str,
    deadline: Instant,
}

/// The client's question.
pub(super) struct Question {
    pub(super) of: StatsOf,
    pub(super) external: String,
    pub(super) path: &'static str,
    pub(super) tag: Option<RequestTag>,
}

/// The open questions. Request numbers only grow and all wait equally long: the first key is the first to run out.
#[derive(Default)]
pub(super) struct PendingStats {
    waiting: BTreeMap<u64, Waiting>,
    by_peer: BTreeMap<PeerId, usize>,
}

impl PendingStats {
    /// The question for the shard, or why there is none.
    pub(super) fn asked(
        &mut self,
        now: Instant,
        asker: PeerId,
        ids: &mut Ids,
        question: Question,
    ) -> Result<Command, Refusal> {
        let count = self.by_peer.entry(asker).or_default();
        if *count >= STATS_PENDING_PER_PEER_MAX {
            let message = format!("{STATS_PENDING_PER_PEER_MAX} get-stats wait for their answers already");
            return Err(Refusal::new(Code::Limit, message));
        }
        *count += 1;
        let request = RequestId(ids.number());
        let Question { of, external, path, tag } = question;
        self.waiting.insert(request.0, Waiting { asker, tag, of, external, path, deadline: now + ANSWER_MAX });
        Ok(Command::GetStats { request, of })
    }

    /// `transport` is the client's id of the transport that a producer's answer names.
    pub(super) fn answered(
        &mut self,
        post: &mut Post,
        request: RequestId,
        stats: Option<&Stats>,
        transport: Option<String>,
    ) {
        let Some(waiting) = self.remove(request) else { return };
        match stats {
            Some(stats) => {
                let data = to_json(&waiting.external, stats, transport);
                post.reply(waiting.asker, message::reply("stats", waiting.tag.as_ref(), &data));
            }
            None => waiting.refuse(post, &Refusal::not_found(waiting.path)),
        }
    }

    pub(super) fn object_gone(&mut self, post: &mut Post, of: StatsOf) {
        for request in self.those(|waiting| waiting.of == of) {
            self.answered(post, request, None, None);
        }
    }

    pub(super) fn peer_gone(&mut self, peer: PeerId) {
        for request in self.those(|waiting| waiting.asker == peer) {
            self.remove(request);
        }
    }

    pub(super) fn handle_timeout(&mut self, post: &mut Post, now: Instant) {
        for request in self.those(|waiting| waiting.deadline <= now) {
            if let Some(waiting) = self.remove(request) {
                let refusal = Refusal::new(Code::Unavailable, "no answer came in time: try again later");
                waiting.refuse(post, &refusal);
            }
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|(_, waiting)| waiting.deadline)
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn asker(&self, request: RequestId) -> Option<PeerId> {
        self.waiting.get(&request.0).map(|waiting| waiting.asker)
    }

    fn remove(&mut self, request: RequestId) -> Option<Waiting> {
        let waiting = self.waiting.remove(&request.0)?;
        if let Some(count) = self.by_peer.get_mut(&waiting.asker) {
            *count -= 1;
            if *count == 0 {
                self.by_peer.remove(&waiting.asker);
            }
        }
        Some(waiting)
    }

    fn those(&self, wanted: impl Fn(&Waiting) -> bool) -> Vec<RequestId> {
        self.waiting.iter().filter(|(_, waiting)| wanted(waiting)).map(|(request, _)| RequestId(*request)).collect()
    }
}

impl Waiting {
    fn refuse(&self, post: &mut Post, refusal: &Refusal) {
        let text = post.refusal(refusal, Some(REQUEST), self.tag.as_ref());
        post.reply(self.asker, text);
    }
}

fn millis(span: Option<Duration>) -> Option<f64> {
    span.map(|span| span.as_secs_f64() * 1_000.0)
}

pub(super) fn to_json(id: &str, stats: &Stats, transport_id: Option<String>) -> Value {
    match stats {
        Stats::Transport(stats) => json!({
            "id": id,
            "of": "transport",
            "timestamp": stats.at.unix_millis(),
            "state": stats.state.name(),
            "iceState": stats.ice_state,
            "dtlsState": stats.dtls_state,
            "remote": stats.path.map(|path| path.remote),
            "selectedCandidatePair": stats.path.map(|Path { leg, remote }| {
                json!({ "protocol": leg.protocol(), "remote": remote, "nominated": stats.nominated })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{ConsumerId, TransportId};
    use crate::shard::command::TransportStats;
    use crate::signal::post::Output;
    use crate::signal::session::SessionId;

    #[test]
    fn each_question_has_one_answer_whatever_becomes_of_it() {
        let (mut stats, mut post, mut ids) = (PendingStats::default(), Post::default(), Ids::new([1; 32]));
        let (asker, now) = (PeerId(7), Instant::ZERO);
        post.mailboxes.attach(asker, SessionId(1));
        let mut ask = |stats: &mut PendingStats, now, of| {
            let question = Question { of, external: "x".to_owned(), path: "data.transportId", tag: None };
            match stats.asked(now, asker, &mut ids, question) {
                Ok(Command::GetStats { request, .. }) => Some(request),
                _ => None,
            }
        };
        let transport = StatsOf::Transport(TransportId(3));
        let answered = ask(&mut stats, now, transport).expect("the first");
        ask(&mut stats, now, StatsOf::Consumer(ConsumerId(4))).expect("the second");
        ask(&mut stats, now + ANSWER_MAX / 2, transport).expect("the third");
        assert_eq!(stats.asker(answered), Some(asker));
        let numbers = Stats::Transport(TransportStats::default());
        for _ in 0..2 {
            stats.answered(&mut post, answered, Some(&numbers), None);
        }
        stats.object_gone(&mut post, StatsOf::Consumer(ConsumerId(4)));
        assert_eq!(stats.deadline(), Some(now + ANSWER_MAX / 2 + ANSWER_MAX));
        stats.handle_timeout(&mut post, now + ANSWER_MAX / 2 + ANSWER_MAX);
        let mut said = Vec::new();
        for output in post.output.drain(..) {
            let Output::Send { text, .. } = output else { panic!("{output:?}") };
            said.push(text.to_string());
        }
        let parts = ["\"type\":\"stats\"", "not-found", "unavailable"];
        assert!(said.len() == 3 && said.iter().zip(parts).all(|(text, part)| text.contains(part)), "{said:?}");

        while ask(&mut stats, now, transport).is_some() {}
        assert_eq!(stats.len(), STATS_PENDING_PER_PEER_MAX);
        stats.peer_gone(asker);
        assert_eq!((stats.len(), stats.by_peer.len()), (0, 0));
    }
}
