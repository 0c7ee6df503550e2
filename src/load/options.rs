//! The command line of `weirgate load`, and the loads it has names for.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::base::time::Duration;
use crate::load::size::Size;
use crate::secure::srtp::SrtpProfile;

const AFTER: &str = "\
Examples:
  weirgate load --preset one-to-50 --pid $(pidof weirgate)
      one publisher, fifty subscribers; what a packet costs the server
  weirgate load --channels 10 --peers 4 --video 1000 --json result.json
      ten calls of four
  weirgate load --search --publishers 16 --subscribers 100 --pid $(pidof weirgate)
      the most packets a second that the server holds
  weirgate load --idle --subscribers 10000 --ramp 500
      ten thousand connected transports without media

Exit code: 0 when everything was delivered as it was sent, 1 when the load could not be set up, 2 when an option is
wrong, 3 when packets were lost (without --loss) or were not what was sent.";

/// Puts load on a server that speaks the protocol of docs/PROTOCOL.md, checks every packet that comes back, and reports
/// what was delivered, how late, and at what cost.
#[derive(Parser, Clone, Debug)]
#[command(name = "weirgate load", after_help = AFTER, max_term_width = 110)]
pub struct Options {
    /// The server's WebSocket, without channelId; with auth=TOKEN where the server asks for tokens, for the channels
    /// load-*
    #[arg(long, value_name = "URL", default_value = "ws://127.0.0.1:4443/socket")]
    pub url: String,

    /// With a URL of wss: take whatever certificate the server has
    #[arg(long)]
    pub insecure: bool,

    /// A load with a name: sets peers, channels and media, which further options override
    #[arg(long, value_name = "NAME")]
    pub preset: Option<Preset>,

    /// Peers of each channel that only send; with --search, at most so many
    #[arg(long, value_name = "COUNT")]
    pub publishers: Option<usize>,

    /// Peers of each channel that only receive, each everything that is sent in it
    #[arg(long, value_name = "COUNT")]
    pub subscribers: Option<usize>,

    /// Peers of each channel that send, and receive all the others
    #[arg(long, value_name = "COUNT")]
    pub peers: Option<usize>,

    /// How many senders each receiver watches, like the tiles on a page [default: all of its channel]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub tiles: Option<u32>,

    /// How many channels [default: 1]
    #[arg(long, value_name = "COUNT")]
    pub channels: Option<usize>,

    /// Video of each sender in kbit/s, VP8; 0: none [default: 2500]
    #[arg(long, value_name = "KBIT")]
    pub video: Option<u32>,

    /// Video frames a second
    #[arg(long, value_name = "COUNT", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=240))]
    pub fps: u32,

    /// Opus packets a second of each sender; 0: none [default: 50]
    #[arg(long, value_name = "COUNT")]
    pub audio: Option<u32>,

    /// Milliseconds between the packets of one frame, as a slow uplink spaces them
    #[arg(long, value_name = "MS", default_value_t = 0.0, value_parser = milliseconds)]
    pub spacing: f64,

    /// Percentage of RTP packets thrown away on purpose, in each direction
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0, value_parser = percentage)]
    pub loss: f64,

    /// Joins a second
    #[arg(long, value_name = "COUNT", default_value_t = 50.0, value_parser = positive)]
    pub ramp: f64,

    /// Seconds that everything may take to be joined, connected and running, beside the ramp
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0, value_parser = positive)]
    pub setup: f64,

    /// Seconds between that and the measurement
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = milliseconds)]
    pub warmup: f64,

    /// Seconds of the measurement; with --search, of each step
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = positive)]
    pub duration: f64,

    /// Only joins, makes and connects transports, and keeps them: no media
    #[arg(long)]
    pub idle: bool,

    /// Looks for the most publishers that are forwarded with at most 1 % loss and a p99 of at most 50 ms
    #[arg(long, conflicts_with = "idle")]
    pub search: bool,

    /// SRTP: aead (AEAD_AES_128_GCM) or cm (AES_CM_128_HMAC_SHA1_80)
    #[arg(long, value_name = "WHICH", default_value = "aead")]
    pub profile: SrtpOffer,

    /// The server's process: its CPU time is part of the report
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,

    /// The cpu to run on
    #[arg(long, value_name = "CPU")]
    pub cpu: Option<usize>,

    /// Receives runs as runs (UDP_GRO). On loopback that spares the server the cutting, and flatters it
    #[arg(long)]
    pub gro: bool,

    /// Milliseconds between two looks at the sockets; arrival times are the kernel's
    #[arg(long, value_name = "MS", default_value_t = 10.0, value_parser = milliseconds)]
    pub collect: f64,

    /// Where the report goes as JSON; - is stdout, and the table then goes to stderr
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum SrtpOffer {
    Aead,
    Cm,
}

impl SrtpOffer {
    pub const fn offer(self) -> &'static [SrtpProfile] {
        match self {
            SrtpOffer::Aead => &[SrtpProfile::AeadAes128Gcm],
            SrtpOffer::Cm => &[SrtpProfile::Aes128CmSha1_80],
        }
    }
}

/// The loads for comparing servers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Preset {
    /// 1 publisher, 1 subscriber
    Pair,
    /// 1 publisher, 50 subscribers
    #[value(name = "one-to-50")]
    OneTo50,
    /// 1 publisher, 100 subscribers
    #[value(name = "one-to-100")]
    OneTo100,
    /// 10 channels of 4 peers
    Channels,
    /// 1 publisher of audio, 100 subscribers
    #[value(name = "opus-100")]
    Opus100,
    /// 20 peers with audio
    #[value(name = "opus-20")]
    Opus20,
    /// 300 publishers of 180p at 150 kbit/s, 300 subscribers who watch 25 of them each
    Thumbnails,
}

impl Preset {
    pub const fn size(self) -> Size {
        let none = Size {
            channels: 1,
            publishers: 0,
            subscribers: 0,
            peers: 0,
            video_kbit: 2_500,
            audio_packets: 50,
            tiles: usize::MAX,
        };
        match self {
            Preset::Pair => Size { publishers: 1, subscribers: 1, ..none },
            Preset::OneTo50 => Size { publishers: 1, subscribers: 50, ..none },
            Preset::OneTo100 => Size { publishers: 1, subscribers: 100, ..none },
            Preset::Channels => Size { channels: 10, peers: 4, ..none },
            Preset::Opus100 => Size { publishers: 1, subscribers: 100, video_kbit: 0, ..none },
            Preset::Opus20 => Size { peers: 20, video_kbit: 0, ..none },
            Preset::Thumbnails => {
                Size { publishers: 300, subscribers: 300, video_kbit: 150, audio_packets: 0, tiles: 25, ..none }
            }
        }
    }
}

impl Options {
    /// The preset with the options given beside it; without either a pair, so that there is something to see.
    pub fn size(&self) -> Size {
        let counts = [self.publishers, self.subscribers, self.peers];
        let given = counts.iter().any(Option::is_some);
        let base = match self.preset {
            Some(preset) => preset.size(),
            None if given => Size { publishers: 0, subscribers: 0, peers: 0, ..Preset::Pair.size() },
            None if self.search => Size { publishers: 16, ..Preset::OneTo100.size() },
            None => Preset::Pair.size(),
        };
        Size {
            channels: self.channels.unwrap_or(base.channels),
            publishers: self.publishers.unwrap_or(base.publishers),
            subscribers: self.subscribers.unwrap_or(base.subscribers),
            peers: self.peers.unwrap_or(base.peers),
            video_kbit: self.video.unwrap_or(base.video_kbit),
            audio_packets: self.audio.unwrap_or(base.audio_packets),
            tiles: self.tiles.map_or(base.tiles, |tiles| tiles as usize),
        }
    }
}

pub fn seconds(value: f64) -> Duration {
    Duration::from_secs_f64(value)
}

fn number(text: &str, range: std::ops::RangeInclusive<f64>) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "it is not a number".to_owned())?;
    if range.contains(&value) {
        Ok(value)
    } else {
        Err(format!("it is not within {} to {}", range.start(), range.end()))
    }
}

fn milliseconds(text: &str) -> Result<f64, String> {
    number(text, 0.0..=100_000.0)
}

fn percentage(text: &str) -> Result<f64, String> {
    number(text, 0.0..=100.0)
}

fn positive(text: &str) -> Result<f64, String> {
    number(text, 0.001..=1_000_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(args: &[&str]) -> Options {
        Options::try_parse_from([&["load"], args].concat()).unwrap()
    }

    #[test]
    fn presets_are_loads_and_options_override_them() {
        let streams = [("pair", 2), ("one-to-50", 100), ("one-to-100", 200), ("channels", 240)];
        for (name, streams) in streams.into_iter().chain([("opus-100", 100), ("opus-20", 380)]) {
            assert_eq!(options(&["--preset", name]).size().streams(), streams, "{name}");
        }
        let size = options(&["--preset", "channels", "--peers", "3", "--video", "0"]).size();
        assert_eq!((size.channels, size.peers, size.video_kbit, size.audio_packets), (10, 3, 0, 50));
        assert_eq!(options(&[]).size(), Preset::Pair.size());
        assert_eq!(options(&["--peers", "2"]).size().publishers, 0);
    }

    #[test]
    fn a_plan_has_everybody_once() {
        let size = options(&["--channels", "2", "--publishers", "1", "--peers", "2", "--subscribers", "3"]).size();
        let plan = size.plan();
        assert_eq!((plan.len(), size.transports(), size.publishers_in_all()), (12, 16, 6));
        let publishers: Vec<_> = plan.iter().filter_map(|peer| peer.publisher).collect();
        assert_eq!(publishers, [0, 1, 2, 3, 4, 5]);
        assert_eq!(plan.iter().filter(|peer| peer.channel == 1 && peer.takes).count(), 5);
        assert_eq!(size.streams(), 2 * (3 * 3 + 2 * 2) * 2);
    }

    #[test]
    fn each_receiver_watches_as_many_senders_as_it_has_tiles() {
        let size = options(&["--preset", "thumbnails"]).size();
        assert_eq!(size.streams(), 300 * 25);
        let watched = |place| (0..300).filter(|other| size.watches(place, *other)).count();
        assert!((0..300).all(|place| watched(place) == 25));
        let viewers = |other| (0..300).filter(|place| size.watches(*place, other)).count();
        assert!((0..300).all(|other| viewers(other) == 25), "and each sender has as many viewers");
        let meeting = options(&["--peers", "4", "--tiles", "3"]).size();
        assert!((0..4).all(|place| (0..4).all(|other| meeting.watches(place, other) == (place != other))));
    }

    #[test]
    fn odd_values_are_refused() {
        for args in [["--loss", "101"], ["--ramp", "0"], ["--spacing", "-1"], ["--fps", "0"], ["--duration", "nan"]] {
            assert!(Options::try_parse_from([&["load"][..], &args].concat()).is_err(), "{args:?}");
        }
    }
}
