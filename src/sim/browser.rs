//! A fake browser's transport with its streams: an [`Endpoint`] whose packets come from [`BrowserSource`]s and go to
//! [`BrowserSink`]s, and the RTCP between them. The simulation and `client` drive it alike: hand in datagrams and time,
//! send what `poll_transmit` gives, come back at `deadline`.

use std::net::SocketAddr;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::base::id::Ssrc;
use crate::base::time::{Duration, Instant, Now};
use crate::base::units::Bitrate;
use crate::media::arrival_log::ArrivalLog;
use crate::secure::dtls::SecureEngine;
use crate::secure::srtp::SrtpContext;
use crate::sim::endpoint::{Datagram, DtlsRole, Endpoint, ReceivedDatagram};
use crate::sim::ice_client::RemoteIce;
use crate::sim::sink::{BrowserSink, SinkConfig};
use crate::sim::source::{BrowserSource, SourceConfig};
use crate::wire::extension::Extension;
use crate::wire::feedback::Feedback;
use crate::wire::rtcp::{self, Rtcp};
use crate::wire::rtcp_write::RtcpWriter;
use crate::wire::transport_cc::FeedbackBuilder;

const SENDER_REPORT_GAP: Duration = Duration::from_millis(500);

/// The server's reports about the sources.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct FeedbackStats {
    pub receiver_reports: u64,
    pub last_fraction_lost: u8,
    pub transport_feedbacks: u64,
    pub remb: Option<Bitrate>,
    pub sender_reports: u64,
    pub byes: u64,
}

pub struct Browser {
    pub endpoint: Endpoint,
    pub sources: Vec<BrowserSource>,
    pub sinks: Vec<BrowserSink>,
    feedback: FeedbackStats,
    /// Sender of feedback; browsers that only receive share 1.
    own_ssrc: Ssrc,
    transport_seq: u16,
    /// Set: sends transport-cc feedback, as real browsers do.
    pub arrivals: Option<ArrivalLog>,
    feedback_count: u8,
    report_at: Instant,
    packet: Vec<u8>,
    rng: SmallRng,
    /// Packets that belong to no sink.
    stray: u64,
}

impl Browser {
    pub fn new(now: Instant, remote: &RemoteIce, role: DtlsRole, seed: u64) -> Browser {
        let mut rng = SmallRng::seed_from_u64(seed);
        let endpoint = Endpoint::new(now, remote, role, SmallRng::from_rng(&mut rng));
        Browser::with(now, endpoint, rng)
    }

    /// No browser: a program that speaks plain RTP, and answers feedback all the same.
    pub fn plain(now: Instant, to: SocketAddr, srtp: SrtpContext, seed: u64) -> Browser {
        Browser::with(now, Endpoint::plain(to, srtp), SmallRng::seed_from_u64(seed))
    }

    fn with(now: Instant, endpoint: Endpoint, mut rng: SmallRng) -> Browser {
        Browser {
            endpoint,
            sources: Vec::new(),
            sinks: Vec::new(),
            feedback: FeedbackStats::default(),
            own_ssrc: Ssrc(1),
            transport_seq: rng.random(),
            arrivals: None,
            feedback_count: 0,
            report_at: now,
            packet: Vec::new(),
            rng,
            stray: 0,
        }
    }

    /// Starts a stream; its time starts now, and it sends as soon as the transport is connected.
    pub fn add_source(&mut self, now: Instant, config: SourceConfig) -> usize {
        self.sources.push(BrowserSource::new(now, config, &mut self.rng));
        self.sources.len() - 1
    }

    /// Starts a stream that may have more than its configuration.
    pub fn add_started(&mut self, start: impl FnOnce(&mut SmallRng) -> BrowserSource) -> usize {
        self.sources.push(start(&mut self.rng));
        self.sources.len() - 1
    }

    pub fn add_sink(&mut self, now: Instant, config: SinkConfig) -> usize {
        self.sinks.push(BrowserSink::new(now, config));
        self.sinks.len() - 1
    }

    pub fn feedback(&self) -> FeedbackStats {
        self.feedback
    }

    pub fn stray(&self) -> u64 {
        self.stray
    }

    pub fn deadline(&self, engine: &dyn SecureEngine) -> Option<Instant> {
        let media = self.endpoint.is_connected().then(|| {
            let sources = self.sources.iter().map(BrowserSource::deadline);
            let feedback = self.arrivals.as_ref().and_then(ArrivalLog::next_deadline);
            sources
                .chain(self.sinks.iter().map(BrowserSink::deadline))
                .chain(feedback)
                .fold(self.report_at, Instant::min)
        });
        [self.endpoint.deadline(engine), media].into_iter().flatten().min()
    }

    pub fn poll_transmit(&mut self) -> Option<Datagram> {
        self.endpoint.poll_transmit()
    }

    pub fn handle_datagram(&mut self, now: Now, engine: &mut dyn SecureEngine, from: SocketAddr, bytes: &mut [u8]) {
        match self.endpoint.handle_datagram(now.mono, engine, from, bytes) {
            ReceivedDatagram::Rtp(header, packet) => {
                let mine = self.sinks.iter_mut().any(|sink| sink.handle_rtp(now.mono, &header, packet));
                self.stray += u64::from(!mine);
                // Browsers report nothing about packets that belong to no media section.
                if let Some(arrivals) = self.arrivals.as_mut().filter(|_| mine) {
                    let id = Extension::TransportCc.id();
                    let number = header.extensions(packet).find(|(known, _)| *known == id);
                    if let Some(seq) = number.and_then(|(_, data)| data.try_into().ok()) {
                        arrivals.on_packet(now.mono, u16::from_be_bytes(seq));
                    }
                }
            }
            ReceivedDatagram::Rtcp(compound) => {
                for packet in rtcp::parse(compound).flatten() {
                    self.handle_rtcp(now, packet);
                }
            }
            ReceivedDatagram::Taken | ReceivedDatagram::Refused(_) => {}
        }
    }

    fn handle_rtcp(&mut self, now: Now, packet: Rtcp<'_>) {
        match packet {
            Rtcp::SenderReport(report) => {
                self.feedback.sender_reports += 1;
                for sink in &mut self.sinks {
                    sink.handle_sender_report(now, &report);
                }
                for block in report.blocks() {
                    self.count_report(block.fraction_lost);
                }
            }
            Rtcp::ReceiverReport(report) => {
                for block in report.blocks() {
                    self.count_report(block.fraction_lost);
                }
            }
            Rtcp::Bye(_) => self.feedback.byes += 1,
            Rtcp::Feedback(feedback) => self.handle_feedback(feedback),
            Rtcp::Sdes(_) | Rtcp::Other { .. } => {}
        }
    }

    fn count_report(&mut self, fraction_lost: u8) {
        self.feedback.receiver_reports += 1;
        self.feedback.last_fraction_lost = fraction_lost;
    }

    fn handle_feedback(&mut self, feedback: Feedback<'_>) {
        match feedback {
            Feedback::Nack(nack) => {
                if let Some(source) = self.source(nack.media) {
                    source.handle_nack(nack.seqs());
                }
            }
            Feedback::Pli(pli) => {
                if let Some(source) = self.source(pli.media) {
                    source.request_key_frame();
                }
            }
            Feedback::Fir(fir) => {
                for (target, _) in fir.requests() {
                    if let Some(source) = self.source(target) {
                        source.request_key_frame();
                    }
                }
            }
            Feedback::Remb(remb) => self.feedback.remb = Some(remb.bitrate),
            Feedback::TransportCc(_) => self.feedback.transport_feedbacks += 1,
            Feedback::Other { .. } => {}
        }
    }

    fn source(&mut self, ssrc: Ssrc) -> Option<&mut BrowserSource> {
        self.sources.iter_mut().find(|source| source.config().ssrc == ssrc)
    }

    /// Does everything that is due: checks, handshake, frames, reports and requests.
    pub fn handle_timeout(&mut self, now: Now, engine: &mut dyn SecureEngine) {
        self.endpoint.handle_timeout(now.mono, engine);
        if !self.endpoint.is_connected() {
            return;
        }
        for source in &mut self.sources {
            while source.poll(now, &mut self.transport_seq, &mut self.packet) {
                self.endpoint.send_rtp(&self.packet);
            }
        }
        let mut compound = Vec::new();
        let mut writer = RtcpWriter::new(&mut compound);
        if now.mono >= self.report_at {
            self.report_at = now.mono + SENDER_REPORT_GAP;
            for source in &self.sources {
                source.write_report(now, &mut writer);
            }
        }
        if let Some(arrivals) = &mut self.arrivals {
            while let Some(window) = arrivals.poll(now.mono) {
                let (sender, feedback_count) = (self.own_ssrc, self.feedback_count);
                self.feedback_count = feedback_count.wrapping_add(1);
                let builder = FeedbackBuilder { sender, media: Ssrc(0), base_seq: window.base, feedback_count };
                let mut packet = Vec::new();
                builder.write(window.packets(), &mut packet);
                // Alone: an empty receiver report would add nothing (RFC 5506).
                if !packet.is_empty() {
                    self.endpoint.send_rtcp(packet);
                }
            }
        }
        for sink in &mut self.sinks {
            sink.write_rtcp(now, self.own_ssrc, &mut writer);
        }
        if !compound.is_empty() {
            self.endpoint.send_rtcp(compound);
        }
    }
}
