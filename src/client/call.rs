//! One user in one channel: joins, publishes synthetic media, consumes other producers, and reports the outcome.
//! Blocking; `signalling` and `media_thread` do the work.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use rand::Rng;
use serde_json::{Value, json};

use crate::base::id::{Mid, Ssrc};
use crate::base::units::Bitrate;
use crate::client::media_thread::{LocalSettings, MediaStats, MediaThread, RemoteTransport};
use crate::client::parameters::{consumed, extension_ids, payload_types, produce};
use crate::client::signalling::{Signalling, SignallingError};
use crate::secure::certificate::{Fingerprint, Identity};
use crate::sim::endpoint::DtlsRole;
use crate::sim::ice_client::RemoteIce;
use crate::sim::source::SourceConfig;
use crate::wire::codec::Codec;

#[derive(Debug)]
pub enum CallError {
    Signalling(SignallingError),
    /// A reply lacks a field: its name, and the reply.
    Reply(&'static str, Value),
    Machine(String),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::Signalling(error) => error.fmt(f),
            CallError::Reply(what, came) => write!(f, "the server's reply has no usable {what}: {came}"),
            CallError::Machine(why) => write!(f, "this machine does not let the client run: {why}"),
        }
    }
}

impl std::error::Error for CallError {}

impl From<SignallingError> for CallError {
    fn from(error: SignallingError) -> CallError {
        CallError::Signalling(error)
    }
}

struct Transport {
    id: String,
    media: MediaThread,
    candidates: Vec<SocketAddr>,
    streams: usize,
}

/// A stream: the server's id for it, and its number among the sources or sinks of [`MediaStats`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CallStream {
    pub id: String,
    pub index: usize,
}

#[derive(Clone, Debug, Default)]
pub struct CallStats {
    pub send: Option<MediaStats>,
    pub receive: Option<MediaStats>,
}

pub struct Call {
    // Hangs up before the transports end: the server closes them with the socket.
    signalling: Signalling,
    capabilities: Value,
    identity: Identity,
    local: LocalSettings,
    cname: String,
    send: Option<Transport>,
    receive: Option<Transport>,
}

impl Call {
    pub fn connect(server: SocketAddr, user: &str, channel: &str) -> Result<Call, CallError> {
        Call::connect_as(server, user, channel, LocalSettings::default())
    }

    pub fn connect_as(server: SocketAddr, user: &str, channel: &str, local: LocalSettings) -> Result<Call, CallError> {
        let signalling = Signalling::connect(server, user, channel)?;
        let capabilities = signalling.request("get-rtp-capabilities", Value::Null)?;
        let identity = Identity::generate().map_err(|error| CallError::Machine(error.to_string()))?;
        let cname = format!("{:016x}", rand::rng().random::<u64>());
        Ok(Call { signalling, capabilities, identity, local, cname, send: None, receive: None })
    }

    pub fn signalling(&self) -> &Signalling {
        &self.signalling
    }

    pub fn produce_audio(&mut self) -> Result<CallStream, CallError> {
        self.produce(Codec::Opus, Bitrate::kbps(48), 50)
    }

    pub fn produce_video(&mut self, codec: Codec, bitrate: Bitrate) -> Result<CallStream, CallError> {
        self.produce(codec, bitrate, 30)
    }

    fn produce(&mut self, codec: Codec, bitrate: Bitrate, frame_rate: u32) -> Result<CallStream, CallError> {
        if self.send.is_none() {
            self.send = Some(self.open("send")?);
        }
        let Some(transport) = &mut self.send else { return Err(CallError::Machine("no transport".into())) };
        let (payload_type, rtx) = payload_types(codec);
        let ssrc = || Ssrc(rand::rng().random_range(10_000..=u32::MAX));
        let config = SourceConfig {
            codec,
            clock_rate: if codec.is_video() { 90_000 } else { 48_000 },
            payload_type,
            ssrc: ssrc(),
            rtx: rtx.map(|payload_type| (payload_type, ssrc())),
            mid: Mid::new(transport.streams.to_string().as_bytes()),
            cname: self.cname.clone(),
            bitrate,
            frame_rate,
            extensions: extension_ids(codec),
        };
        let (kind, rtp_parameters) = produce(&config);
        let data = json!({ "transportId": transport.id, "kind": kind, "rtpParameters": rtp_parameters });
        let id = text(&self.signalling.request("produce", data)?, "id")?;
        transport.media.add_source(config);
        transport.streams += 1;
        Ok(CallStream { id, index: transport.streams - 1 })
    }

    /// Receives a producer, or the oldest that is left when none is named. It starts paused and is resumed once the
    /// sink is in place, so that nothing is missed.
    pub fn consume(&mut self, producer: Option<&str>) -> Result<CallStream, CallError> {
        if self.receive.is_none() {
            self.receive = Some(self.open("recv")?);
        }
        let Some(transport) = &mut self.receive else { return Err(CallError::Machine("no transport".into())) };
        let mut data = json!({ "transportId": transport.id, "rtpCapabilities": self.capabilities, "paused": true });
        if let Some(producer) = producer {
            data["producerId"] = json!(producer);
        }
        let reply = self.signalling.request("consume", data)?;
        let id = text(&reply, "id")?;
        let config = consumed(&reply["rtpParameters"]).ok_or(CallError::Reply("rtpParameters", reply))?;
        transport.media.add_sink(config);
        transport.streams += 1;
        self.signalling.request("resume-consumer", json!({ "consumerId": id }))?;
        Ok(CallStream { id, index: transport.streams - 1 })
    }

    pub fn pause_source(&self, stream: &CallStream, paused: bool) {
        if let Some(transport) = &self.send {
            transport.media.pause_source(stream.index, paused);
        }
    }

    /// Restarts ICE on both transports; the candidates stay the same.
    pub fn restart_ice(&self) -> Result<(), CallError> {
        for transport in self.transports() {
            let reply = self.signalling.request("restart-ice", json!({ "transportId": transport.id }))?;
            transport.media.restart_ice(remote_ice(&reply["iceParameters"], transport.candidates.clone())?);
        }
        Ok(())
    }

    /// Moves both transports to new sockets.
    pub fn change_address(&self) {
        self.transports().for_each(|transport| transport.media.change_address());
    }

    /// Loses so many of 1,000 RTP packets from here on, in both directions.
    pub fn lose(&self, permille: u32) {
        self.transports().for_each(|transport| transport.media.lose(permille));
    }

    /// Sends a datagram as it is from the address of each transport.
    pub fn inject(&self, bytes: &[u8]) {
        self.transports().for_each(|transport| transport.media.inject(bytes.to_vec()));
    }

    /// Seals any RTP packet or RTCP compound, and sends it on each transport.
    pub fn seal(&self, packet: &[u8]) {
        self.transports().for_each(|transport| transport.media.seal(packet.to_vec()));
    }

    fn transports(&self) -> impl Iterator<Item = &Transport> {
        [&self.send, &self.receive].into_iter().flatten()
    }

    pub fn stats(&self) -> CallStats {
        let of = |transport: &Option<Transport>| transport.as_ref().and_then(|transport| transport.media.stats());
        CallStats { send: of(&self.send), receive: of(&self.receive) }
    }

    /// Asks for a transport, starts it and announces our certificate.
    fn open(&self, direction: &str) -> Result<Transport, CallError> {
        let reply = self.signalling.request("create-transport", json!({ "direction": direction }))?;
        let id = text(&reply, "id")?;
        let candidates = candidates(&reply["iceCandidates"])?;
        let ice = remote_ice(&reply["iceParameters"], candidates.clone())?;
        let given = reply["dtlsParameters"]["fingerprints"].as_array();
        let fingerprint = |given: &Value| Fingerprint::parse(given["algorithm"].as_str()?, given["value"].as_str()?);
        let fingerprints: Vec<_> = given.into_iter().flatten().filter_map(fingerprint).collect();
        if fingerprints.is_empty() {
            return Err(CallError::Reply("dtlsParameters.fingerprints", reply));
        }
        let remote = RemoteTransport { ice, fingerprints };
        let media = MediaThread::start(remote, self.identity.clone(), self.local, rand::rng().random())
            .map_err(|error| CallError::Machine(error.to_string()))?;
        let fingerprint = json!({ "algorithm": "sha-256", "value": self.identity.fingerprint_sha256() });
        let role = match self.local.role {
            DtlsRole::Client => "client",
            DtlsRole::Server => "server",
        };
        let dtls = json!({ "role": role, "fingerprints": [fingerprint] });
        self.signalling.request("connect-transport", json!({ "transportId": id, "dtlsParameters": dtls }))?;
        Ok(Transport { id, media, candidates, streams: 0 })
    }
}

fn text(value: &Value, field: &'static str) -> Result<String, CallError> {
    value[field].as_str().map(str::to_owned).ok_or_else(|| CallError::Reply(field, value.clone()))
}

fn remote_ice(parameters: &Value, candidates: Vec<SocketAddr>) -> Result<RemoteIce, CallError> {
    let (ufrag, pwd) = (text(parameters, "usernameFragment")?, text(parameters, "password")?);
    Ok(RemoteIce { ufrag, pwd, candidates })
}

fn candidates(given: &Value) -> Result<Vec<SocketAddr>, CallError> {
    let address = |candidate: &Value| {
        let ip: IpAddr = candidate["ip"].as_str()?.parse().ok()?;
        let port = u16::try_from(candidate["port"].as_u64()?).ok()?;
        (candidate["protocol"] == "udp").then_some(SocketAddr::new(ip, port))
    };
    let found: Vec<_> = given.as_array().into_iter().flatten().filter_map(address).collect();
    if found.is_empty() { Err(CallError::Reply("iceCandidates", given.clone())) } else { Ok(found) }
}
