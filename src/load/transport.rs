//! One transport of the generator: ICE, DTLS and SRTP on a connected socket of its own, its receiving streams, and a
//! browser's RTCP. Publishing streams live in [`LoadState`], for their timers; `media` drives it all.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::sync::Arc;

use rand::Rng;
use rand::rngs::SmallRng;
use socket2::Socket;

use crate::base::id::Ssrc;
use crate::base::seq::Seq;
use crate::base::time::{Duration, Instant, Now};
use crate::client::witness::OtherSrtp;
use crate::load::payload::PacketLabel;
use crate::load::progress::{Progress, count};
use crate::load::repair::Wanted;
use crate::load::sink::{LoadSink, SinkSetup, WrongPacket};
use crate::load::source::LoadSource;
use crate::load::tally::Tally;
use crate::media::arrival_log::ArrivalLog;
use crate::net::udp::stamped::UnixNanos;
use crate::secure::SecureDrop;
use crate::secure::certificate::{Fingerprint, matches};
use crate::secure::dtls::DtlsEngine;
use crate::secure::srtp::OVERHEAD_MAX;
use crate::sim::endpoint::{DtlsRole, Endpoint, Received, Refused, WitnessCounts};
use crate::sim::ice_client::RemoteIce;
use crate::wire::extension::transport_cc_seq;
use crate::wire::feedback::Feedback;
use crate::wire::rtcp::{self, Rtcp};
use crate::wire::rtcp_write::RtcpWriter;
use crate::wire::rtp::RtpHeader;
use crate::wire::transport_cc::FeedbackBuilder;
use crate::wire::{Kind, classify};

const REPORT_GAP: Duration = Duration::from_secs(1);
/// The SSRC that browsers share which only receive.
const RECEIVER_SSRC: Ssrc = Ssrc(1);
const PACKET_MAX: usize = 1_500;

/// A timer, and its owner.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Due {
    Frame(usize),
    Check(usize),
    Nack(usize),
    Feedback(usize),
    Report(usize),
}

/// The readings of one turn of the loop.
#[derive(Clone, Copy)]
pub struct TurnTime {
    pub now: Now,
    /// CLOCK_REALTIME at `now`.
    pub unix: UnixNanos,
}

/// The state that all transports share.
pub struct LoadState {
    pub sources: Vec<LoadSource>,
    pub engine: DtlsEngine,
    pub timers: BinaryHeap<Reverse<(Instant, Due)>>,
    pub tally: Tally,
    pub progress: Arc<Progress>,
    pub rng: SmallRng,
    /// Share of RTP that is thrown away on purpose, in each direction.
    pub loss: f64,
    /// Everything is set up: packets of unknown streams are wrong from here on.
    pub settled: bool,
    pub handshaking: usize,
    pub compound: Vec<u8>,
}

impl LoadState {
    pub fn arm(&mut self, at: Instant, due: Due) {
        self.timers.push(Reverse((at, due)));
    }

    /// Counts a packet.
    fn count(
        &mut self,
        sink: &mut LoadSink,
        taken: Result<Option<PacketLabel>, WrongPacket>,
        bytes: usize,
        at: UnixNanos,
    ) {
        match taken {
            Ok(Some(label)) => {
                self.tally.delivered += 1;
                if self.sources[label.stream as usize].window.contains(&label.index) {
                    sink.counted += 1;
                    self.tally.count(sink.setup.video, bytes, at.saturating_sub(label.sent_at));
                }
            }
            Ok(None) => self.tally.padding_only += 1,
            Err(WrongPacket::PayloadType) => self.tally.wrong.payload_type += 1,
            Err(WrongPacket::Payload) => self.tally.wrong.payload += 1,
        }
    }

    fn loses(&mut self) -> bool {
        self.loss > 0.0 && self.rng.random_bool(self.loss)
    }
}

/// The results of signalling.
pub struct TransportSetup {
    /// Connected to `remote`.
    pub socket: Socket,
    pub remote: SocketAddr,
    pub ice: RemoteIce,
    pub fingerprints: Vec<Fingerprint>,
}

/// The stage of a transport's set-up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Connecting,
    Connected,
    Failed,
}

pub struct LoadTransport {
    pub socket: Socket,
    remote: SocketAddr,
    number: usize,
    endpoint: Endpoint,
    stage: Stage,
    check_at: Option<Instant>,
    fingerprints: Vec<Fingerprint>,
    opened_at: Instant,
    pub sources: Vec<usize>,
    sinks: Vec<LoadSink>,
    /// The sink of the last packet: packets of one stream come in runs.
    last: usize,
    /// The id of transport-wide numbers in received packets, where agreed.
    transport_cc: Option<u8>,
    arrivals: ArrivalLog,
    feedback_armed: bool,
    feedback_count: u8,
    nack_armed: bool,
    transport_seq: u16,
}

impl LoadTransport {
    pub fn new(turn: TurnTime, number: usize, setup: TransportSetup, state: &mut LoadState) -> LoadTransport {
        let rng = rand::SeedableRng::from_rng(&mut state.rng);
        let mut endpoint = Endpoint::new(turn.now.mono, &setup.ice, DtlsRole::Client, rng);
        endpoint.watched_by(Box::<OtherSrtp>::default());
        state.handshaking += 1;
        let mut transport = LoadTransport {
            socket: setup.socket,
            remote: setup.remote,
            number,
            endpoint,
            stage: Stage::Connecting,
            check_at: None,
            fingerprints: setup.fingerprints,
            opened_at: turn.now.mono,
            sources: Vec::new(),
            sinks: Vec::new(),
            last: 0,
            transport_cc: None,
            arrivals: ArrivalLog::new(),
            feedback_armed: false,
            feedback_count: 0,
            nack_armed: false,
            transport_seq: state.rng.random(),
        };
        transport.drive(turn, state);
        transport
    }

    pub fn sinks_mut(&mut self) -> &mut [LoadSink] {
        &mut self.sinks
    }

    pub fn has_media(&self) -> bool {
        !(self.sources.is_empty() && self.sinks.is_empty())
    }

    pub fn add_sink(&mut self, setup: SinkSetup, transport_cc: Option<u8>, state: &LoadState) {
        self.transport_cc = transport_cc.or(self.transport_cc);
        let mut sink = LoadSink::new(setup);
        sink.wanted = (state.loss > 0.0 && setup.nack).then(Wanted::default);
        self.sinks.push(sink);
    }

    pub fn is_handshaking(&self) -> bool {
        self.stage == Stage::Connecting
    }

    pub fn is_connected(&self) -> bool {
        self.stage == Stage::Connected
    }

    /// The verdicts of another SRTP on its packets.
    pub fn seen(&self) -> WitnessCounts {
        self.endpoint.stats().seen
    }

    /// A check was due at `at`; another time may have been set since.
    pub fn check_due(&mut self, at: Instant, turn: TurnTime, state: &mut LoadState) {
        if self.check_at == Some(at) {
            self.check_at = None;
            self.drive(turn, state);
        }
    }

    pub fn handle(&mut self, turn: TurnTime, state: &mut LoadState, at: UnixNanos, bytes: &mut [u8]) {
        if classify(bytes) == Kind::Rtp && state.loses() {
            state.tally.lost_receiving += 1;
            return;
        }
        let len = bytes.len();
        match self.endpoint.handle_datagram(turn.now.mono, &mut state.engine, self.remote, bytes) {
            Received::Rtp(header, packet) => self.handle_rtp(turn, state, at, &header, packet, len),
            Received::Rtcp(compound) => self.handle_rtcp(turn, state, compound),
            Received::Taken => self.drive(turn, state),
            Received::Refused(Refused::Unreadable) => state.tally.wrong.unreadable += 1,
            Received::Refused(Refused::NotOpened(SecureDrop::Replayed)) => state.tally.wrong.twice += 1,
            Received::Refused(Refused::NotOpened(_)) => state.tally.wrong.not_opened += 1,
            // The server's last flight may come again, or still be on its way.
            Received::Refused(Refused::Early | Refused::OutOfPlace) => {}
        }
    }

    /// Sends what ICE and DTLS have to say, and sees how far they are.
    pub fn drive(&mut self, turn: TurnTime, state: &mut LoadState) {
        self.endpoint.handle_timeout(turn.now.mono, &mut state.engine);
        while let Some(datagram) = self.endpoint.poll_transmit() {
            let sent = self.socket.send(&datagram.bytes).is_ok();
            state.tally.send_failed += u64::from(!sent);
        }
        if let Some(at) = self.endpoint.check_deadline().filter(|at| self.check_at != Some(*at)) {
            self.check_at = Some(at);
            state.arm(at, Due::Check(self.number));
        }
        if self.stage != Stage::Connecting {
            return;
        }
        if let Some(why) = self.endpoint.closed() {
            state.progress.fail(why.to_string());
            state.handshaking -= 1;
            self.stage = Stage::Failed;
        } else if self.endpoint.is_connected() {
            self.establish(turn, state);
        }
    }

    fn establish(&mut self, turn: TurnTime, state: &mut LoadState) {
        if !self.endpoint.peer_certificate().is_some_and(|presented| matches(&self.fingerprints, presented)) {
            state.progress.fail("the server presented another certificate than it announced".into());
        }
        // The server learns of the end from the WebSocket, and thousands of sessions need room.
        self.endpoint.leave_session();
        self.stage = Stage::Connected;
        state.handshaking -= 1;
        count(&state.progress.transports_connected);
        state.progress.time(|times| times.connected.record(turn.now.mono.since(self.opened_at), 1));
        let phase = state.rng.random_range(0.0..1.0);
        state.arm(turn.now.mono + REPORT_GAP.mul_f64(phase), Due::Report(self.number));
        for source in &self.sources {
            state.arm(turn.now.mono, Due::Frame(*source));
        }
    }

    /// Sends all packets of a source that are due, each stamped just before it is sealed.
    pub fn publish(&mut self, turn: TurnTime, state: &mut LoadState, number: usize, stamp: fn() -> UnixNanos) {
        if !self.is_connected() {
            return;
        }
        let mut buffer = [0; PACKET_MAX + OVERHEAD_MAX];
        let lossy = state.loss > 0.0;
        let source = &mut state.sources[number];
        source.skip(turn.now.mono);
        while source.due() <= turn.now.mono {
            let written = source.write(turn.now, stamp(), &mut self.transport_seq, &mut buffer);
            let sealed = self.endpoint.seal_rtp(written.srtp_index, &mut buffer, written.header_len, written.len);
            if lossy && state.rng.random_bool(state.loss) {
                state.tally.lost_sending += 1;
            } else if sealed.is_some_and(|len| self.socket.send(&buffer[..len]).is_ok()) {
                state.tally.sent += 1;
            } else {
                state.tally.send_failed += 1;
            }
            source.skip(turn.now.mono);
        }
        let at = source.due();
        state.arm(at, Due::Frame(number));
    }

    fn handle_rtp(
        &mut self,
        turn: TurnTime,
        state: &mut LoadState,
        at: UnixNanos,
        header: &RtpHeader,
        packet: &[u8],
        bytes: usize,
    ) {
        if let Some(id) = self.transport_cc
            && let Some(seq) = header
                .extensions(packet)
                .find(|(theirs, _)| *theirs == id)
                .and_then(|(_, value)| transport_cc_seq(value))
        {
            let ago = Duration::from_nanos(turn.unix.saturating_sub(at));
            self.arrivals.on_packet(turn.now.mono - ago, seq);
        }
        if self.sinks.get(self.last).is_none_or(|sink| sink.setup.ssrc != header.ssrc) {
            let Some(found) = self.sinks.iter().position(|sink| sink.setup.ssrc == header.ssrc) else {
                return self.handle_repair(state, at, header, packet);
            };
            self.last = found;
        }
        let sink = &mut self.sinks[self.last];
        if !sink.has_started() {
            count(&state.progress.started);
            let waited = turn.now.mono.since(sink.setup.since);
            state.progress.time(|times| times.first_packet.record(waited, 1));
        }
        let taken = sink.take(turn.now.mono, header, packet);
        state.count(sink, taken, bytes, at);
    }

    fn handle_repair(&mut self, state: &mut LoadState, at: UnixNanos, header: &RtpHeader, packet: &[u8]) {
        let Some(sink) = self.sinks.iter_mut().find(|sink| sink.setup.rtx_ssrc == Some(header.ssrc)) else {
            state.tally.wrong.unknown_stream += u64::from(state.settled);
            return;
        };
        state.tally.repairs += 1;
        let taken = sink.take_repair(header, packet);
        if taken != Ok(None) {
            let before = state.tally.counted;
            state.count(sink, taken, packet.len(), at);
            state.tally.repaired += state.tally.counted - before;
        }
    }

    /// Called after a batch: packets may have to be requested again, and feedback is due some time after the first
    /// packet that it covers.
    pub fn arm(&mut self, state: &mut LoadState) {
        if state.loss > 0.0 && !self.nack_armed {
            let wanted = self.sinks.iter().filter_map(|sink| sink.wanted.as_ref()?.deadline()).min();
            if let Some(at) = wanted {
                self.nack_armed = true;
                state.arm(at, Due::Nack(self.number));
            }
        }
        if let Some(at) = self.arrivals.next_deadline().filter(|_| !self.feedback_armed) {
            self.feedback_armed = true;
            state.arm(at, Due::Feedback(self.number));
        }
    }

    pub fn feed_back(&mut self, turn: TurnTime, state: &mut LoadState) {
        self.feedback_armed = false;
        let Some(media) = self.sinks.first().map(|sink| sink.setup.ssrc) else { return };
        while let Some(window) = self.arrivals.poll(turn.now.mono) {
            let mut packets = window.packets().peekable();
            let mut compound = std::mem::take(&mut state.compound);
            // More than one message only where arrivals lie far apart.
            while let Some((base_seq, _)) = packets.peek().copied() {
                compound.clear();
                let feedback_count = self.feedback_count;
                let builder = FeedbackBuilder { sender: RECEIVER_SSRC, media, base_seq, feedback_count };
                let taken = builder.write(packets.clone(), &mut compound);
                if taken == 0 {
                    break;
                }
                packets.by_ref().take(taken).for_each(drop);
                self.feedback_count = feedback_count.wrapping_add(1);
                send_rtcp(&mut self.endpoint, &self.socket, &mut state.tally, &mut compound);
            }
            state.compound = compound;
        }
        self.arm(state);
    }

    /// Requests missing packets.
    pub fn ask_again(&mut self, turn: TurnTime, state: &mut LoadState) {
        self.nack_armed = false;
        let mut compound = std::mem::take(&mut state.compound);
        compound.clear();
        let mut writer = RtcpWriter::new(&mut compound);
        for sink in &mut self.sinks {
            let seqs = sink.wanted.as_mut().map(|wanted| wanted.ask(turn.now.mono)).unwrap_or_default();
            if !seqs.is_empty() {
                state.tally.asked += seqs.len() as u64;
                writer.nack(RECEIVER_SSRC, sink.setup.ssrc, &seqs);
            }
        }
        if !compound.is_empty() {
            send_rtcp(&mut self.endpoint, &self.socket, &mut state.tally, &mut compound);
        }
        state.compound = compound;
        self.arm(state);
    }

    /// Sender and receiver reports.
    pub fn report(&mut self, turn: TurnTime, state: &mut LoadState) {
        state.arm(turn.now.mono + REPORT_GAP, Due::Report(self.number));
        let mut compound = std::mem::take(&mut state.compound);
        compound.clear();
        let mut writer = RtcpWriter::new(&mut compound);
        for source in &self.sources {
            state.sources[*source].write_report(turn.now, &mut writer);
        }
        let blocks: Vec<_> = self.sinks.iter_mut().filter_map(|sink| sink.report(turn.now.mono)).collect();
        if !blocks.is_empty() {
            writer.receiver_report(RECEIVER_SSRC, &blocks);
        }
        let waits = |sink: &&LoadSink| {
            sink.setup.video && !sink.has_started() && state.sources[sink.setup.stream as usize].active
        };
        for sink in self.sinks.iter().filter(waits) {
            writer.pli(RECEIVER_SSRC, sink.setup.ssrc);
        }
        if !compound.is_empty() {
            send_rtcp(&mut self.endpoint, &self.socket, &mut state.tally, &mut compound);
        }
        state.compound = compound;
    }

    fn handle_rtcp(&mut self, turn: TurnTime, state: &mut LoadState, compound: &[u8]) {
        let mut repairs = Vec::new();
        for packet in rtcp::parse(compound) {
            let Ok(packet) = packet else {
                state.tally.wrong.unreadable += 1;
                return;
            };
            let mut acknowledge = |ssrc: u32| {
                if let Some(source) = self.sources.iter().find(|source| state.sources[**source].ssrc().0 == ssrc) {
                    state.sources[*source].acknowledged = true;
                }
            };
            match packet {
                Rtcp::SenderReport(report) => {
                    if let Some(sink) = self.sinks.iter_mut().find(|sink| sink.setup.ssrc == report.ssrc) {
                        sink.on_sender_report(turn.now.mono, report.ntp);
                    }
                    report.blocks().for_each(|block| acknowledge(block.ssrc));
                }
                Rtcp::ReceiverReport(report) => report.blocks().for_each(|block| acknowledge(block.ssrc)),
                Rtcp::Feedback(Feedback::Pli(pli)) => self.request_key_frame(state, pli.media),
                Rtcp::Feedback(Feedback::Fir(fir)) => {
                    fir.requests().for_each(|(target, _)| self.request_key_frame(state, target));
                }
                Rtcp::Feedback(Feedback::Nack(nack)) => repairs.extend(nack.seqs().map(|seq| (nack.media, seq))),
                Rtcp::Feedback(_) | Rtcp::Bye(_) | Rtcp::Sdes(_) | Rtcp::Other { .. } => {}
            }
        }
        state.tally.nacked += repairs.len() as u64;
        repairs.into_iter().for_each(|(ssrc, seq)| self.repair(turn, state, ssrc, seq));
    }

    /// Resends a packet that the server requests.
    fn repair(&mut self, turn: TurnTime, state: &mut LoadState, ssrc: Ssrc, seq: Seq) {
        let Some(number) = self.sources.iter().find(|source| state.sources[**source].ssrc() == ssrc) else {
            return;
        };
        let mut buffer = [0; PACKET_MAX + OVERHEAD_MAX];
        let source = &mut state.sources[*number];
        let Some(written) = source.write_repair(turn.now, seq, &mut self.transport_seq, &mut buffer) else { return };
        let sealed = self.endpoint.seal_rtp(written.srtp_index, &mut buffer, written.header_len, written.len);
        if state.loses() {
            state.tally.lost_sending += 1;
        } else if sealed.is_none_or(|len| self.socket.send(&buffer[..len]).is_err()) {
            state.tally.send_failed += 1;
        }
    }

    fn request_key_frame(&self, state: &mut LoadState, ssrc: Ssrc) {
        if let Some(source) = self.sources.iter().find(|source| state.sources[**source].ssrc() == ssrc) {
            state.sources[*source].request_key_frame();
            state.tally.key_frames_requested += 1;
        }
    }
}

fn send_rtcp(endpoint: &mut Endpoint, socket: &Socket, tally: &mut Tally, compound: &mut Vec<u8>) {
    let sent = endpoint.seal_rtcp(compound) && socket.send(compound).is_ok();
    tally.send_failed += u64::from(!sent);
}
