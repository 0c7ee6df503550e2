//! The messages of the simulation's clients to signalling, and their reading of the answers: RTP parameters as a
//! browser's mediasoup-client would send them. Used by `world`; knows no socket and no time.

use rand::rngs::SmallRng;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::base::id::{Mid, PayloadType, Rid, Ssrc};
use crate::base::time::{Duration, Instant};
use crate::base::units::Bitrate;
use crate::sim::payload::Encryption;
use crate::sim::scalability::Scalability;
use crate::sim::sink::SinkConfig;
use crate::sim::source::{BrowserSource, SourceConfig};
use crate::wire::codec::Codec;
use crate::wire::extension::{Extension, ExtensionIds};

/// The ids a publisher uses: its own, not the router's.
const EXTENSIONS: [(Extension, u8); 6] = [
    (Extension::AbsSendTime, 2),
    (Extension::TransportCc, 3),
    (Extension::Mid, 4),
    (Extension::Rid, 10),
    (Extension::RepairedRid, 11),
    (Extension::AudioLevel, 1),
];

const DESCRIPTOR_ID: u8 = 12;

/// A stream that a client publishes.
#[derive(Clone, Debug)]
pub struct Media {
    pub codec: Codec,
    pub bitrate: Bitrate,
    pub frame_rate: u32,
    pub mid: &'static str,
    /// With RTX and NACK.
    pub repair: bool,
    /// More than one is simulcast: such encodings are announced by rid, smallest first.
    pub rids: &'static [&'static str],
    pub listing: EncodingListing,
    /// The delay of the next higher encoding's start.
    pub ramp: Duration,
    pub scalability: Scalability,
    pub encryption: Encryption,
}

/// The order in which a client lists its encodings.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EncodingListing {
    pub largest_first: bool,
    /// It names their scale.
    pub scaled: bool,
}

impl Media {
    pub const fn audio() -> Media {
        let bitrate = Bitrate::kbps(40);
        Media { codec: Codec::Opus, bitrate, frame_rate: 50, mid: "0", repair: false, ..Media::video(Codec::Opus) }
    }

    pub const fn video(codec: Codec) -> Media {
        Media {
            codec,
            bitrate: Bitrate::kbps(700),
            frame_rate: 30,
            mid: "1",
            repair: true,
            rids: &[],
            listing: EncodingListing { largest_first: false, scaled: false },
            ramp: Duration::ZERO,
            scalability: Scalability::L1T1,
            encryption: Encryption::None,
        }
    }

    fn payload_types(&self) -> (u8, u8) {
        match self.codec {
            Codec::Opus => (111, 0),
            Codec::Vp8 => (96, 97),
            Codec::Vp9 => (98, 99),
            Codec::H264 => (102, 103),
            Codec::Av1 => (45, 46),
        }
    }

    fn clock_rate(&self) -> u32 {
        if self.codec.is_video() { 90_000 } else { 48_000 }
    }

    pub fn encodings(&self) -> usize {
        self.rids.len().max(1)
    }

    /// The number of encodings smaller than the one listed at `at`.
    pub fn rank(&self, at: usize) -> usize {
        if self.listing.largest_first { self.encodings() - 1 - at } else { at }
    }

    /// The stream of encoding `at`; its SSRCs are `ssrc` and the one after it.
    pub fn source(&self, at: usize, ssrc: u32) -> SourceConfig {
        let (payload_type, rtx) = self.payload_types();
        let mut extensions = ExtensionIds::default();
        for (extension, id) in EXTENSIONS {
            extensions.set(extension, id);
        }
        if self.describes() {
            extensions.set(Extension::DependencyDescriptor, DESCRIPTOR_ID);
        }
        // Each encoding has four times the bits of the one below it.
        let share = 4u64.pow((self.encodings() - 1 - self.rank(at)) as u32);
        SourceConfig {
            codec: self.codec,
            clock_rate: self.clock_rate(),
            payload_type: PayloadType(payload_type),
            ssrc: Ssrc(ssrc),
            rtx: self.repair.then_some((PayloadType(rtx), Ssrc(ssrc + 1))),
            mid: Mid::new(self.mid.as_bytes()),
            cname: "a browser".into(),
            bitrate: Bitrate(self.bitrate.bps() / share),
            frame_rate: self.frame_rate,
            extensions,
        }
    }

    /// AV1's layers come with descriptors: other codecs have theirs in the payload.
    fn describes(&self) -> bool {
        self.codec == Codec::Av1 && self.scalability != Scalability::L1T1
    }

    /// Encoding `at` as its browser starts it.
    pub fn start(&self, now: Instant, at: usize, ssrc: u32, rng: &mut SmallRng) -> BrowserSource {
        let mut source = BrowserSource::new(now, self.source(at, ssrc), rng);
        if let Some(rid) = self.rid(at) {
            source.set_rid(rid);
        }
        source.set_scalability(self.scalability);
        source.set_silent_until(now + self.ramp * self.rank(at) as u32);
        source.set_encryption(self.encryption);
        source
    }

    pub fn rid(&self, at: usize) -> Option<Rid> {
        self.rids.get(at).and_then(|rid| Rid::new(rid.as_bytes()))
    }

    /// The data of `produce`; `ssrc` is that of the first encoding.
    pub fn produce(&self, ssrc: u32) -> Value {
        let (payload_type, rtx) = self.payload_types();
        let (mime, parameters) = match self.codec {
            Codec::Opus => ("audio/opus", json!({ "minptime": 10, "useinbandfec": 1 })),
            Codec::Vp8 => ("video/VP8", json!({})),
            Codec::Vp9 => ("video/VP9", json!({ "profile-id": 0 })),
            Codec::H264 => (
                "video/H264",
                json!({ "profile-level-id": "42e01f", "packetization-mode": 1, "level-asymmetry-allowed": 1 }),
            ),
            Codec::Av1 => ("video/AV1", json!({})),
        };
        let mut feedback = vec![json!({ "type": "transport-cc" })];
        if self.codec.is_video() {
            feedback.push(json!({ "type": "nack", "parameter": "pli" }));
            feedback.push(json!({ "type": "ccm", "parameter": "fir" }));
        }
        if self.repair {
            feedback.push(json!({ "type": "nack" }));
        }
        let mut codec = json!({
            "mimeType": mime, "payloadType": payload_type, "clockRate": self.clock_rate(),
            "parameters": parameters, "rtcpFeedback": feedback,
        });
        if !self.codec.is_video() {
            codec["channels"] = json!(2);
        }
        let mut codecs = vec![codec];
        if self.repair {
            codecs.push(json!({
                "mimeType": "video/rtx", "payloadType": rtx, "clockRate": self.clock_rate(),
                "parameters": { "apt": payload_type }, "rtcpFeedback": [],
            }));
        }
        let wanted = |extension: &Extension| (*extension == Extension::AudioLevel) != self.codec.is_video();
        let descriptor = self.describes().then_some((Extension::DependencyDescriptor, DESCRIPTOR_ID));
        let header_extensions: Vec<Value> = EXTENSIONS
            .iter()
            .chain(&descriptor)
            .filter(|(extension, _)| wanted(extension) || matches!(extension, Extension::Mid | Extension::TransportCc))
            .map(|(extension, id)| json!({ "uri": extension.uri(), "id": id }))
            .collect();
        let mut encodings: Vec<Value> = match (self.rids, self.repair) {
            ([], true) => vec![json!({ "ssrc": ssrc, "rtx": { "ssrc": ssrc + 1 } })],
            ([], false) => vec![json!({ "ssrc": ssrc })],
            (rids, _) => rids.iter().map(|rid| json!({ "rid": rid })).collect(),
        };
        for (at, encoding) in encodings.iter_mut().enumerate().filter(|_| self.listing.scaled) {
            encoding["scaleResolutionDownBy"] = json!(1 << (self.encodings() - 1 - self.rank(at)));
        }
        if let Some(mode) = self.scalability.name() {
            encodings.iter_mut().for_each(|encoding| encoding["scalabilityMode"] = json!(mode));
        }
        json!({
            "kind": if self.codec.is_video() { "video" } else { "audio" },
            "rtpParameters": {
                "mid": self.mid,
                "codecs": codecs,
                "headerExtensions": header_extensions,
                "encodings": encodings,
                "rtcp": { "cname": "a browser", "reducedSize": true },
            },
        })
    }
}

/// The data of `connect-transport`.
pub fn dtls_parameters(certificate: &[u8]) -> Value {
    let fingerprint = json!({ "algorithm": "sha-256", "value": fingerprint(certificate) });
    json!({ "role": "client", "fingerprints": [fingerprint] })
}

pub fn fingerprint(certificate: &[u8]) -> String {
    let pairs: Vec<String> = Sha256::digest(certificate).iter().map(|byte| format!("{byte:02X}")).collect();
    pairs.join(":")
}

/// The receiving side's parameters from `consumer-params`; None when a required field is missing.
pub fn sink(rtp_parameters: &Value) -> Option<SinkConfig> {
    let codecs = rtp_parameters["codecs"].as_array()?;
    let mime_is = |codec: &Value, name: &str| codec["mimeType"].as_str().is_some_and(|mime| mime.ends_with(name));
    let media = codecs.iter().find(|codec| !mime_is(codec, "/rtx"))?;
    let kinds =
        [("opus", Codec::Opus), ("VP8", Codec::Vp8), ("VP9", Codec::Vp9), ("H264", Codec::H264), ("AV1", Codec::Av1)];
    let (_, codec) = kinds.into_iter().find(|(name, _)| mime_is(media, name))?;
    let payload_type = |codec: &Value| codec["payloadType"].as_u64().map(|number| PayloadType(number as u8));
    let ssrc = |value: &Value| value["ssrc"].as_u64().map(|number| Ssrc(number as u32));
    let encoding = &rtp_parameters["encodings"][0];
    let rtx = codecs.iter().find(|codec| mime_is(codec, "/rtx"));
    let feedback = media["rtcpFeedback"].as_array()?;
    let plain = |parameter: &Value| parameter.as_str().is_none_or(str::is_empty);
    Some(SinkConfig {
        codec,
        clock_rate: media["clockRate"].as_u64()? as u32,
        payload_type: payload_type(media)?,
        ssrc: ssrc(encoding)?,
        rtx: rtx.and_then(payload_type).zip(ssrc(&encoding["rtx"])),
        nack: feedback.iter().any(|entry| entry["type"] == "nack" && plain(&entry["parameter"])),
        stamped: true,
    })
}
