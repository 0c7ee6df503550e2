//! The counters of an open window, and the result of a closed one.

use serde_json::{Map, Value, json};

use crate::base::histogram::Histogram;
use crate::base::time::Duration;

/// Packets that should not have come as they did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wrong {
    /// The SRTP tag or index was wrong.
    pub not_opened: u64,
    /// The same packet again.
    pub twice: u64,
    /// An SSRC that no consumer-params announced.
    pub unknown_stream: u64,
    pub payload_type: u64,
    /// Not as it was sent, or of another stream.
    pub payload: u64,
    /// No packet of WebRTC, or not well formed.
    pub unreadable: u64,
    /// Sent or received, and another SRTP does not read it as ours does.
    pub disputed: u64,
}

impl Wrong {
    pub fn named(&self) -> [(&'static str, u64); 7] {
        [
            ("not_opened", self.not_opened),
            ("twice", self.twice),
            ("unknown_stream", self.unknown_stream),
            ("payload_type", self.payload_type),
            ("payload", self.payload),
            ("unreadable", self.unreadable),
            ("disputed", self.disputed),
        ]
    }

    pub fn sum(&self) -> u64 {
        self.named().iter().map(|(_, count)| count).sum()
    }

    pub fn json(&self) -> Value {
        Value::Object(
            self.named().iter().map(|(name, count)| ((*name).to_owned(), json!(count))).collect::<Map<_, _>>(),
        )
    }
}

#[derive(Clone, Default)]
pub struct Tally {
    pub sent: u64,
    pub send_failed: u64,
    /// Verified packets, whether of the window or not.
    pub delivered: u64,
    /// Of the window.
    pub counted: u64,
    pub counted_bytes: u64,
    pub video_delays: Histogram,
    pub audio_delays: Histogram,
    pub delays: Histogram,
    /// Thrown away on purpose.
    pub lost_sending: u64,
    pub lost_receiving: u64,
    pub padding_only: u64,
    /// Packets on RTX streams, and those of them that had been missing and are of the window.
    pub repairs: u64,
    pub repaired: u64,
    /// Packets that receivers asked for again.
    pub asked: u64,
    /// Packets that the server asked publishers for again.
    pub nacked: u64,
    pub key_frames_requested: u64,
    /// Packets, sent and received, that another SRTP was shown.
    pub compared: u64,
    pub wrong: Wrong,
}

impl Tally {
    /// A packet of the window.
    pub fn count(&mut self, video: bool, bytes: usize, delay_nanos: u64) {
        self.counted += 1;
        self.counted_bytes += bytes as u64;
        let delay = Duration::from_nanos(delay_nanos);
        self.delays.record(delay, 1);
        if video {
            self.video_delays.record(delay, 1);
        } else {
            self.audio_delays.record(delay, 1);
        }
    }
}

/// The result of one window.
#[derive(Clone, Default)]
pub struct Measured {
    pub length: Duration,
    pub tally: Tally,
    /// Packets to be delivered: each that was sent, once to each of its consumers.
    pub expected: u64,
    /// Numbers missing in the received streams.
    pub holes: i64,
    /// Streams that lost something, and the largest share that one of them lost.
    pub streams: usize,
    pub streams_with_loss: usize,
    pub worst_loss: f64,
    /// Frames left out because the generator was late.
    pub late_frames: u64,
    pub cpu_own: Option<Duration>,
    pub cpu_server: Option<Duration>,
}

impl Measured {
    pub fn lost(&self) -> u64 {
        self.expected.saturating_sub(self.tally.counted)
    }

    pub fn loss(&self) -> f64 {
        if self.expected == 0 { 0.0 } else { self.lost() as f64 / self.expected as f64 }
    }

    pub fn packets_a_second(&self) -> f64 {
        self.tally.counted as f64 / self.length.as_secs_f64().max(1e-9)
    }

    /// Share of one core.
    pub fn share(&self, cpu: Option<Duration>) -> Option<f64> {
        Some(cpu?.as_secs_f64() / self.length.as_secs_f64().max(1e-9))
    }

    pub fn cpu_nanos_a_packet(&self) -> Option<f64> {
        let nanos = self.cpu_server?.as_nanos() as f64;
        (self.tally.counted > 0).then(|| nanos / self.tally.counted as f64)
    }
}
