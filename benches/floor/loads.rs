//! The loads that are measured: who sends what to whom, and when. The six of the goals, and three that fill a core.

use std::time::Duration;

/// Of 2.5 Mbit/s: 30 frames a second of nine packets. Lengths are those of whole RTP packets before they are sealed.
pub const FRAME_PACKETS: usize = 9;
pub const VIDEO_BYTES: usize = 1_160;
pub const AUDIO_BYTES: usize = 150;
const FRAME_INTERVAL: Duration = Duration::from_nanos(1_000_000_000 / 30);
const AUDIO_INTERVAL: Duration = Duration::from_millis(20);

/// When the next packets leave.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// When a camera and a microphone would send them.
    RealTime,
    /// When the server has done all but this many of those before, a frame or an audio packet counted as one.
    Saturated { ahead: u64 },
}

#[derive(Clone, Copy)]
pub struct Load {
    pub name: &'static str,
    pub channels: usize,
    /// In each channel. They take each other's media if `meeting`.
    pub publishers: usize,
    pub meeting: bool,
    /// In each channel, beside the publishers.
    pub watchers: usize,
    /// Packets of a video frame; none without video.
    pub frame: usize,
    pub audio: bool,
    pub pace: Pace,
}

const ONE_TO_MANY: Load = Load {
    name: "",
    channels: 1,
    publishers: 1,
    meeting: false,
    watchers: 1,
    frame: FRAME_PACKETS,
    audio: true,
    pace: Pace::RealTime,
};

const SATURATED: Load = Load { watchers: 100, audio: false, pace: Pace::Saturated { ahead: 4 }, ..ONE_TO_MANY };

pub const LOADS: [Load; 9] = [
    Load { name: "pair", ..ONE_TO_MANY },
    Load { name: "one-to-50", watchers: 50, ..ONE_TO_MANY },
    Load { name: "one-to-100", watchers: 100, ..ONE_TO_MANY },
    Load { name: "channels", channels: 10, publishers: 4, meeting: true, watchers: 0, ..ONE_TO_MANY },
    Load { name: "opus-100", watchers: 100, frame: 0, ..ONE_TO_MANY },
    Load { name: "opus-20", publishers: 20, meeting: true, watchers: 0, frame: 0, ..ONE_TO_MANY },
    Load { name: "saturated-video", ..SATURATED },
    Load { name: "saturated-mixed", publishers: 10, audio: true, ..SATURATED },
    Load { name: "saturated-runs-of-3", frame: 3, ..SATURATED },
];

/// What one publisher sends of one kind.
#[derive(Clone)]
pub struct Stream {
    pub publisher: usize,
    /// Packets that leave at once, the last of them with the marker bit.
    pub packets: usize,
    pub bytes: usize,
    pub interval: Duration,
    /// When the next ones leave, from the start of the run.
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

    /// Whom each publisher's media goes to.
    pub fn routes(&self) -> Vec<Vec<usize>> {
        let listeners = self.listeners();
        (0..self.publishers())
            .map(|publisher| {
                let (channel, own) = (publisher / self.publishers, publisher % self.publishers);
                (0..listeners).filter(|at| !self.meeting || *at != own).map(|at| channel * listeners + at).collect()
            })
            .collect()
    }

    /// Publishers are independent of each other: their frames are spread evenly over the interval.
    pub fn streams(&self) -> Vec<Stream> {
        let video = (self.frame > 0).then_some((self.frame, VIDEO_BYTES, FRAME_INTERVAL));
        let audio = self.audio.then_some((1, AUDIO_BYTES, AUDIO_INTERVAL));
        let count = self.publishers() as u32;
        let publishers = 0..self.publishers();
        publishers
            .flat_map(|publisher| video.into_iter().chain(audio).map(move |kind| (publisher, kind)))
            .map(|(publisher, (packets, bytes, interval))| {
                let due = interval * publisher as u32 / count;
                Stream { publisher, packets, bytes, interval, due }
            })
            .collect()
    }
}
