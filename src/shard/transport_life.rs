//! The events about a transport: its state, and for the log how it was connected, its first packets, and its totals at
//! the end. Gathered with opening, closing and the reports, never with a packet.

use crate::base::time::{Duration, Instant};
use crate::router::consumer::Consumer;
use crate::router::producer::Producer;
use crate::router::verdict::{State, Verdict};
use crate::secure::srtp::SrtpProfile;
use crate::shard::command::{Connected, Event, HandshakeReport, Totals, TransportState};
use crate::transport::Transport;
use crate::transport::kind::TransportKind;

/// A shorter obstacle is part of any join.
const WORTH_TELLING: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Default, Debug)]
pub struct TransportLife {
    /// When the first datagram of a handshake came or went.
    hello: Option<Instant>,
    /// Packets missing of what was received and of what was sent, of streams that have ended.
    lost_received: i64,
    lost_sent: i64,
    worst: Option<(State, Duration)>,
}

impl TransportLife {
    pub(super) fn handshake_began(&mut self, now: Instant) {
        self.hello.get_or_insert(now);
    }

    /// A handshake has ended in this cipher suite.
    pub(super) fn handshake(&self, now: Instant, suite: &'static str) -> HandshakeReport {
        HandshakeReport { suite, took: now.since(self.hello.unwrap_or(now)) }
    }

    /// Called with the reports: about once a second.
    pub(super) fn note(&mut self, now: Instant, verdict: Verdict) {
        let Verdict { state, since } = verdict;
        // A wish is no fault.
        let wanted = matches!(state, State::Flowing | State::PausedByClient | State::ProducerPaused);
        let span = now.since(since);
        if !wanted && span >= WORTH_TELLING && self.worst.is_none_or(|(_, longest)| span > longest) {
            self.worst = Some((state, span));
        }
    }

    pub(super) fn consumer_ended(&mut self, consumer: &Consumer) {
        self.lost_sent += consumer.reports.packets_lost;
    }

    pub(super) fn producer_ended(&mut self, producer: &Producer) {
        self.lost_received += producer.streams.iter().map(|stream| stream.receiver.packets_lost()).sum::<i64>();
    }

    pub(super) fn ended(self, transport: &Transport) -> Event {
        let totals = Totals {
            bytes_received: transport.traffic.bytes_received,
            packets_received: transport.traffic.packets_received,
            bytes_sent: transport.traffic.bytes_sent,
            packets_sent: transport.traffic.packets_sent,
            lost_received: self.lost_received,
            lost_sent: self.lost_sent,
            worst: self.worst,
        };
        Event::TransportEnded { transport: transport.id, totals: Box::new(totals) }
    }
}

/// The event that tells how it was connected.
pub(super) fn connected(transport: &Transport, handshake: Option<HandshakeReport>) -> Option<Event> {
    let (path, srtp) = (transport.kind.exit()?, transport.kind.srtp()?.profile());
    let report = Box::new(Connected { path, handshake, srtp: srtp.map(SrtpProfile::name) });
    Some(Event::TransportConnected { transport: transport.id, report })
}

pub(super) fn state_of(transport: &Transport) -> TransportState {
    match &transport.kind {
        TransportKind::WebRtc(web_rtc) if web_rtc.link.has_failed() => TransportState::Failed,
        TransportKind::WebRtc(web_rtc) if web_rtc.disconnected_since.is_some() => TransportState::Disconnected,
        kind if kind.exit().is_none() => TransportState::New,
        kind if kind.srtp().is_some() => TransportState::Connected,
        _ => TransportState::Connecting,
    }
}

/// The event that tells the transport's state. Call when it may have changed.
pub(super) fn state(transport: &Transport) -> Event {
    Event::TransportState { transport: transport.id, state: state_of(transport) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_obstacle_that_nobody_wished_for_is_told() {
        let mut life = TransportLife::default();
        let at = |seconds: u64| Instant::ZERO + Duration::from_secs(seconds);
        let mut note = |now, state, since| life.note(at(now), Verdict { state, since: at(since) });
        note(20, State::PausedByClient, 0);
        note(20, State::WaitingKeyFrame, 17);
        note(30, State::WaitingKeyFrame, 28);
        note(40, State::Flowing, 30);
        assert_eq!(life.worst, Some((State::WaitingKeyFrame, Duration::from_secs(3))));
    }
}
