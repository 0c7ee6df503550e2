//! The measured loads: senders, receivers and times. The six of the goals, a grid of thumbnails, and three that fill a core.

use std::time::Duration;

/// The packets of `weirgate load` at 2.5 Mbit/s and Opus: lengths are those of whole RTP packets before they are
/// sealed.
pub const FRAME_PACKETS: usize = 9;
pub const VIDEO_BYTES: usize = 1_192;
pub const AUDIO_BYTES: usize = 176;
const THUMBNAIL_BYTES: usize = 661;
const FRAME_INTERVAL: Duration = Duration::from_nanos(1_000_000_000 / 30);
const AUDIO_INTERVAL: Duration = Duration::from_millis(20);

/// The time of the next packets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// At the times of a camera and a microphone.
    RealTime,
    /// As soon as the server has finished all but this many of those before, a frame or an audio packet counted as one.
    Saturated { ahead: u64 },
}

#[derive(Clone, Copy)]
pub struct Load {
    pub name: &'static str,
    pub channels: usize,
    /// In each channel. They receive each other's media if `meeting`.
    pub publishers: usize,
    pub meeting: bool,
    /// In each channel, beside the publishers.
    pub watchers: usize,
    /// Each watcher gets so many of its channel's publishers: those after its own place, all the way round.
    pub tiles: usize,
    /// Packets of a video frame; none without video.
    pub frame: usize,
    /// The length of each.
    pub video_bytes: usize,
    pub audio: bool,
    pub pace: Pace,
}

const ONE_TO_MANY: Load = Load {
    name: "",
    channels: 1,
    publishers: 1,
    meeting: false,
    watchers: 1,
    tiles: usize::MAX,
    frame: FRAME_PACKETS,
    video_bytes: VIDEO_BYTES,
    audio: true,
    pace: Pace::RealTime,
};

const SATURATED: Load = Load { watchers: 100, audio: false, pace: Pace::Saturated { ahead: 4 }, ..ONE_TO_MANY };

pub const LOADS: [Load; 10] = [
    Load { name: "pair", ..ONE_TO_MANY },
    Load { name: "one-to-50", watchers: 50, ..ONE_TO_MANY },
    Load { name: "one-to-100", watchers: 100, ..ONE_TO_MANY },
    Load { name: "channels", channels: 10, publishers: 4, meeting: true, watchers: 0, ..ONE_TO_MANY },
    Load { name: "opus-100", watchers: 100, frame: 0, ..ONE_TO_MANY },
    Load { name: "opus-20", publishers: 20, meeting: true, watchers: 0, frame: 0, ..ONE_TO_MANY },
    Load {
        name: "thumbnails",
        publishers: 300,
        watchers: 300,
        tiles: 25,
        frame: 1,
        video_bytes: THUMBNAIL_BYTES,
        audio: false,
        ..ONE_TO_MANY
    },
    Load { name: "saturated-video", ..SATURATED },
    Load { name: "saturated-mixed", publishers: 10, audio: true, ..SATURATED },
    Load { name: "saturated-runs-of-3", frame: 3, ..SATURATED },
];

/// One publisher's packets of one kind.
#[derive(Clone)]
pub struct Stream {
    pub publisher: usize,
    /// Packets that leave at once, the last of them with the marker bit.
    pub packets: usize,
    pub bytes: usize,
    pub interval: Duration,
    /// The time of the next ones, from the start of the run.
    pub due: Duration,
}

impl Load {
    pub fn publishers(&self) -> usize {
        self.channels * self.publishers
    }

    pub fn receivers(&self) -> usize {
        self.channels * self.listeners()
    }

    fn listeners(&self) -> usize {
        self.watchers + if self.meeting { self.publishers } else { 0 }
    }

    /// The receivers of each publisher's media.
    pub fn routes(&self) -> Vec<Vec<usize>> {
        let listeners = self.listeners();
        (0..self.publishers())
            .map(|publisher| {
                let (channel, own) = (publisher / self.publishers, publisher % self.publishers);
                let gets = |at: usize| {
                    let after = (own + 2 * self.publishers - at % self.publishers - 1) % self.publishers;
                    (!self.meeting || at != own) && after < self.tiles
                };
                (0..listeners).filter(|at| gets(*at)).map(|at| channel * listeners + at).collect()
            })
            .collect()
    }

    /// Frames and audio packets that a publisher sends in this time.
    pub fn sends_in(&self, time: Duration) -> u32 {
        let sends = |has, interval: Duration| if has { (time.as_nanos() / interval.as_nanos()) as u32 } else { 0 };
        sends(self.frame > 0, FRAME_INTERVAL) + sends(self.audio, AUDIO_INTERVAL)
    }

    /// Streams are independent of each other: their frames are spread evenly over the interval.
    pub fn streams(&self) -> Vec<Stream> {
        let slots = 2 * self.publishers() as u32;
        let stream = |publisher, slot: u32, packets, bytes, interval: Duration| {
            let due = interval * slot / slots;
            Stream { publisher, packets, bytes, interval, due }
        };
        let mut streams = Vec::new();
        for (publisher, slot) in (0..self.publishers()).zip((0..).step_by(2)) {
            if self.frame > 0 {
                streams.push(stream(publisher, slot, self.frame, self.video_bytes, FRAME_INTERVAL));
            }
            if self.audio {
                streams.push(stream(publisher, slot + 1, 1, AUDIO_BYTES, AUDIO_INTERVAL));
            }
        }
        streams
    }
}
