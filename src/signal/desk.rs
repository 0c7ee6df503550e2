//! The state that every part of signalling shares besides the channels: settings, ids, placement, the outputs, and the
//! owner of each object on a shard.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use rustc_hash::FxHashMap;
use serde_json::{Value, json};

use crate::base::id::{ConsumerId, PeerId, ProducerId, ShardId, ShardLabel, TransportId};
use crate::shard::command::{Command, IceCredentials};
use crate::signal::ids::Ids;
use crate::signal::last_n::LastN;
use crate::signal::life::Lives;
use crate::signal::message::{self, Code, Refusal, RequestTag};
use crate::signal::meter::Cost;
use crate::signal::peer_log::LogSettings;
use crate::signal::placement::{ChannelSpread, Placement};
use crate::signal::quota::{Ledger, Quotas};
use crate::signal::session::SessionId;
use crate::signal::stats::PendingStats;
use crate::signal::text::{About, Text};

/// An address where clients reach a shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// None: every shard is reached here (one port for all of them).
    pub shard: Option<ShardId>,
    pub ip: IpAddr,
    pub port: u16,
    /// RFC 8445 section 5.1.2.
    pub priority: u32,
}

#[derive(Clone, Debug)]
pub struct HubSettings {
    pub shards: Vec<(ShardId, ShardLabel)>,
    pub candidates: Vec<Candidate>,
    /// The certificate's fingerprint as in SDP: hex pairs with colons.
    pub fingerprint_sha256: String,
    pub spread: ChannelSpread,
    pub last_n: LastN,
    pub log: LogSettings,
    pub quotas: Quotas,
    /// From the machine's randomness (ICE passwords come from it), or fixed to replay a simulation.
    pub seed: [u8; 32],
}

impl HubSettings {
    fn candidates_for(&self, shard: ShardId) -> impl Iterator<Item = &Candidate> {
        self.candidates.iter().filter(move |candidate| candidate.shard.is_none_or(|only| only == shard))
    }

    pub(super) fn label(&self, shard: ShardId) -> Option<ShardLabel> {
        self.shards.iter().find(|(id, _)| *id == shard).map(|(_, label)| *label)
    }
}

/// The outputs for the edge to carry out, in this order.
#[derive(Clone, PartialEq, Debug)]
pub enum Output {
    Send {
        session: SessionId,
        text: Text,
        /// None: always delivered.
        about: Option<About>,
    },
    /// Close the socket with this WebSocket status (RFC 6455 section 7.4). Its peer is gone already.
    Disconnect {
        session: SessionId,
        code: u16,
        reason: &'static str,
    },
    Command {
        shard: ShardId,
        command: Command,
    },
}

/// The owner of each object: looked up when a shard reports something about it. The keys are our own numbers.
#[derive(Default)]
pub(super) struct Owners {
    pub(super) transports: FxHashMap<TransportId, PeerId>,
    pub(super) producers: FxHashMap<ProducerId, PeerId>,
    pub(super) consumers: FxHashMap<ConsumerId, PeerId>,
}

pub(super) struct Desk {
    pub(super) settings: HubSettings,
    pub(super) ids: Ids,
    pub(super) placement: Placement,
    pub(super) owners: Owners,
    pub(super) stats: PendingStats,
    pub(super) lives: Lives,
    pub(super) output: VecDeque<Output>,
    pub(super) refusals: BTreeMap<Code, u64>,
    pub(super) ledger: Ledger,
    /// The cost of the present input so far.
    pub(super) work: Cost,
    /// Transports by shard.
    pub(super) carried: BTreeMap<ShardId, usize>,
}

impl Desk {
    pub(super) fn new(settings: HubSettings) -> Desk {
        Desk {
            ids: Ids::new(settings.seed),
            placement: Placement::new(settings.spread, settings.shards.iter().map(|(shard, _)| *shard)),
            owners: Owners::default(),
            stats: PendingStats::default(),
            lives: Lives::new(settings.log.clone()),
            output: VecDeque::new(),
            refusals: BTreeMap::new(),
            ledger: Ledger::new(settings.quotas),
            work: Cost::default(),
            carried: BTreeMap::new(),
            settings,
        }
    }

    pub(super) fn command(&mut self, shard: ShardId, command: Command) {
        self.output.push_back(Output::Command { shard, command });
    }

    /// A reply.
    pub(super) fn send(&mut self, session: SessionId, text: impl Into<Text>) {
        self.output.push_back(Output::Send { session, text: text.into(), about: None });
    }

    /// One socket is one peer: they share their number.
    pub(super) fn notify(&mut self, peer: PeerId, kind: &str, data: &Value) {
        self.notify_all(std::iter::once(&peer), kind, data, None);
    }

    /// The same text for many; it is made once.
    pub(super) fn notify_all<'a>(
        &mut self,
        peers: impl Iterator<Item = &'a PeerId>,
        kind: &str,
        data: &Value,
        about: Option<About>,
    ) {
        let mut text = None;
        let mut receivers = 0;
        for peer in peers {
            let text = text.get_or_insert_with(|| Text::from(message::notification(kind, data))).clone();
            self.output.push_back(Output::Send { session: SessionId(peer.0), text, about });
            receivers += 1;
        }
        self.work.add(Cost::told(receivers, text.map_or(0, |text| text.len())));
    }

    pub(super) fn refuse(
        &mut self,
        session: SessionId,
        refusal: &Refusal,
        request: Option<&str>,
        tag: Option<&RequestTag>,
    ) {
        *self.refusals.entry(refusal.code).or_default() += 1;
        self.send(session, message::error(refusal, request, tag));
    }

    pub(super) fn ice_parameters(ice: &IceCredentials) -> Value {
        json!({ "usernameFragment": ice.ufrag, "password": ice.pwd, "iceLite": true })
    }

    /// In the form that every mediasoup-client 3.x reads: older ones `ip`, newer ones `address`.
    pub(super) fn ice_candidates(&self, shard: ShardId) -> Vec<Value> {
        let describe = |(index, candidate): (usize, &Candidate)| {
            json!({
                "foundation": format!("udp{index}"),
                "priority": candidate.priority,
                "ip": candidate.ip,
                "address": candidate.ip,
                "protocol": "udp",
                "port": candidate.port,
                "type": "host",
            })
        };
        self.settings.candidates_for(shard).enumerate().map(describe).collect()
    }

    pub(super) fn dtls_parameters(&self) -> Value {
        let fingerprint = json!({ "algorithm": "sha-256", "value": self.settings.fingerprint_sha256 });
        json!({ "role": "auto", "fingerprints": [fingerprint] })
    }
}
