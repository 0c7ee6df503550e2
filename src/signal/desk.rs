//! The state that requests and events share besides their channel: the settings, and one machine each for ids,
//! placement, owners, open questions, the log, quotas and the outputs.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use serde_json::{Value, json};

use crate::base::id::{ShardId, ShardLabel};
use crate::base::node_id::NodeId;
use crate::base::time::Instant;
use crate::shard::command::IceCredentials;
use crate::signal::bans::Bans;
use crate::signal::dismissal::Dismissal;
use crate::signal::get_stats::PendingStats;
use crate::signal::ice_servers::IceServers;
use crate::signal::ids::{ExternalId, Ids};
use crate::signal::last_n::LastN;
use crate::signal::owners::Owners;
use crate::signal::peer_life::Lives;
use crate::signal::peer_log::LogSettings;
use crate::signal::placement::{ChannelSpread, Placement};
use crate::signal::post::Post;
use crate::signal::quota::{Accounts, Quotas};
use crate::signal::resume_token::TokenSealer;
use crate::signal::return_settings::{ResumeCounts, ReturnSettings};

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
    pub ice_servers: IceServers,
    pub returns: ReturnSettings,
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

/// What there is here of other nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct GhostCounts {
    pub(super) peers: usize,
    pub(super) producers: usize,
    /// What other nodes told that is not about their own, or beyond a bound.
    pub(super) refused: u64,
}

pub(super) struct Desk {
    pub(super) settings: HubSettings,
    pub(super) ids: Ids,
    /// Of resume tokens.
    pub(super) sealer: TokenSealer,
    pub(super) resumes: ResumeCounts,
    pub(super) placement: Placement,
    pub(super) owners: Owners,
    pub(super) stats: PendingStats,
    pub(super) lives: Lives,
    pub(super) accounts: Accounts,
    pub(super) post: Post,
    pub(super) bans: Bans,
    /// Peers that have to go, for `hub` to end.
    pub(super) dismissals: VecDeque<Dismissal>,
    /// Seconds since 1970, and when it was them; what is told to clients may hold for hours.
    pub(super) date: (Instant, u64),
    /// Of a cluster. None: there is none.
    pub(super) node: Option<NodeId>,
    pub(super) ghosts: GhostCounts,
    /// Transports by shard.
    pub(super) carried: BTreeMap<ShardId, usize>,
}

impl Desk {
    pub(super) fn new(settings: HubSettings) -> Desk {
        Desk {
            ids: Ids::new(settings.seed),
            sealer: TokenSealer::new(&settings.returns.key),
            resumes: ResumeCounts::default(),
            placement: Placement::new(settings.spread, settings.shards.iter().map(|(shard, _)| *shard)),
            owners: Owners::default(),
            stats: PendingStats::default(),
            lives: Lives::new(settings.log.clone()),
            accounts: Accounts::new(settings.quotas),
            post: Post::default(),
            bans: Bans::default(),
            dismissals: VecDeque::new(),
            date: (Instant::ZERO, 0),
            node: None,
            ghosts: GhostCounts::default(),
            carried: BTreeMap::new(),
            settings,
        }
    }

    /// Adds the servers that a client needs to reach us by a relay to a reply. Where the operator has set none it gains no
    /// field.
    pub(super) fn add_ice_servers(&self, now: Instant, peer: ExternalId, data: &mut Value) {
        let (then, date) = self.date;
        if let Some(servers) = self.settings.ice_servers.told(date + now.since(then).as_secs(), &peer.to_string()) {
            data["iceServers"] = servers;
        }
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
