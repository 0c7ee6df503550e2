//! One peer: the transports, producers and consumers that its requests made, and the choices among them that the client
//! left open. Every id that a client names is looked up here first, and nowhere else but for the producers it consumes.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::base::id::{ConsumerId, PeerId, ProducerId, ShardId, Ssrc, TransportId};
use crate::base::node_id::NodeId;
use crate::shard::command::{ProducerSpec, TransportState};
use crate::signal::act::GrantsChange;
use crate::signal::cluster::GhostEntry;
use crate::signal::entrance::Entrance;
use crate::signal::grants::Grants;
use crate::signal::ids::{ConsumerNames, ExternalId};
use crate::signal::ortc::ProducerPlan;
use crate::signal::pause::Pause;
use crate::signal::place::PeerPlace;
use crate::signal::request::Direction;
use crate::wire::extension::Extension;

pub(super) struct Transport {
    pub(super) external: ExternalId,
    pub(super) direction: Option<Direction>,
    pub(super) state: TransportState,
    /// Its handshake was done once: it needs no further fingerprint.
    pub(super) connected: bool,
    /// A connect-transport named it: announcements without a transport are not for it.
    pub(super) named: bool,
    pub(super) fingerprints: usize,
    pub(super) carried_consumers: bool,
    pub(super) names: ConsumerNames,
}

impl Transport {
    /// Whether an announcement that names no transport may be meant for this one.
    pub(super) fn awaits_announcement(&self) -> bool {
        !self.connected && !self.named && self.is_usable()
    }

    fn is_usable(&self) -> bool {
        !matches!(self.state, TransportState::Failed | TransportState::Closed)
    }
}

pub(super) struct Producer {
    pub(super) external: ExternalId,
    pub(super) plan: ProducerPlan,
    pub(super) app_data: Value,
    /// Bytes of its appData as JSON.
    pub(super) app_data_bytes: usize,
    pub(super) pause: Pause,
    pub(super) silent: bool,
    /// The transport of its packets: stated by the client, or by the shard once they arrive.
    pub(super) transport: Option<TransportId>,
    /// Of a ghost's.
    pub(super) abroad: Option<FromAbroad>,
    pub(super) consumers: BTreeMap<ConsumerId, PeerId>,
}

/// A producer of another node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FromAbroad {
    /// Of its node.
    pub(super) shard: ShardId,
    /// A shard here has it, for consumers here.
    pub(super) imported: bool,
}

impl Producer {
    /// Where its media comes from, as its client says.
    pub(super) fn source(&self) -> Option<&str> {
        self.app_data.get("source").and_then(Value::as_str)
    }

    /// Audio whose packets carry its level (RFC 6464).
    pub(super) fn states_its_level(&self) -> bool {
        let spec = &self.plan.spec;
        !spec.codec.is_video() && spec.extensions.get(Extension::AudioLevel).is_some()
    }
}

pub(super) struct Consumer {
    pub(super) external: ExternalId,
    pub(super) transport: TransportId,
    pub(super) producer: ProducerId,
    pub(super) producer_external: ExternalId,
    pub(super) paused: bool,
}

pub(super) struct Peer {
    pub(super) external: ExternalId,
    pub(super) user: Arc<str>,
    /// A token says who it is.
    pub(super) proven: bool,
    /// The display name, where there is one.
    pub(super) name: Option<Arc<str>>,
    /// A token or a moderator gave the name or took it: the peer itself may not change it.
    pub(super) name_given: bool,
    /// Null: none.
    pub(super) app_data: Value,
    /// Bytes of its appData as JSON.
    pub(super) app_data_bytes: usize,
    /// What is said of its end, once a moderator has ended it.
    pub(super) parting: Option<Value>,
    pub(super) grants: Grants,
    /// What moderators have given and taken of them.
    pub(super) changed: GrantsChange,
    /// Its connection is broken, and others were told.
    pub(super) away: bool,
    pub(super) place: PeerPlace,
    /// One for all its producers: receivers group audio and video for lip sync by it.
    pub(super) cname: Option<String>,
    /// connect-transports that named no transport, less those whose transport is connected.
    pub(super) announcements_open: usize,
    pub(super) transports: BTreeMap<TransportId, Transport>,
    pub(super) producers: BTreeMap<ProducerId, Producer>,
    pub(super) consumers: BTreeMap<ConsumerId, Consumer>,
    /// The number of its consumers of each producer.
    pub(super) consuming: BTreeMap<ProducerId, usize>,
}

impl Peer {
    pub(super) fn new(external: ExternalId, entrance: &Entrance) -> Peer {
        Peer {
            external,
            user: entrance.user.clone(),
            proven: entrance.expires.is_some(),
            name: entrance.name.clone(),
            name_given: entrance.name.is_some(),
            app_data: Value::Null,
            app_data_bytes: 0,
            parting: None,
            grants: entrance.grants.clone(),
            changed: GrantsChange::default(),
            away: false,
            place: PeerPlace::Here(None),
            cname: None,
            announcements_open: 0,
            transports: BTreeMap::new(),
            producers: BTreeMap::new(),
            consumers: BTreeMap::new(),
            consuming: BTreeMap::new(),
        }
    }

    /// One of another node.
    pub(super) fn ghost(node: NodeId, entry: GhostEntry) -> Peer {
        let GhostEntry { id, user, name, app_data, away: _, moderates } = entry;
        let mut entrance = Entrance::named(&user, "");
        entrance.grants.moderate = moderates;
        Peer {
            name,
            app_data_bytes: if app_data.is_null() { 0 } else { app_data.to_string().len() },
            app_data,
            place: PeerPlace::There { node, landing: None },
            ..Peer::new(id, &entrance)
        }
    }

    /// Who it is, for the others.
    pub(super) fn describe(&self) -> Value {
        let mut data = self.introduce();
        if !self.app_data.is_null() {
            data["appData"] = self.app_data.clone();
        }
        data
    }

    /// The same without its appData, which may be long.
    pub(super) fn introduce(&self) -> Value {
        let mut data = json!({ "id": self.external.to_string(), "user": &*self.user });
        if let Some(name) = &self.name {
            data["name"] = json!(&**name);
        }
        data
    }

    pub(super) fn transport(&self, external: &str) -> Option<TransportId> {
        let external = ExternalId::parse(external)?;
        self.transports.iter().find(|(_, transport)| transport.external == external).map(|(id, _)| *id)
    }

    pub(super) fn producer(&self, external: &str) -> Option<ProducerId> {
        let external = ExternalId::parse(external)?;
        self.producers.iter().find(|(_, producer)| producer.external == external).map(|(id, _)| *id)
    }

    pub(super) fn consumer(&self, external: &str) -> Option<ConsumerId> {
        let external = ExternalId::parse(external)?;
        self.consumers.iter().find(|(_, consumer)| consumer.external == external).map(|(id, _)| *id)
    }

    pub(super) fn sends_with(&self, ssrc: Ssrc) -> bool {
        self.producers.values().any(|producer| ssrcs(&producer.plan.spec).any(|own| own == ssrc))
    }

    /// The producers that one with this plan replaces: they share an SSRC with it and may be on the same transport, or
    /// a mid and are on the same transport. Where no transport is known yet the shard finds a shared mid, when packets
    /// bind the new one.
    pub(super) fn replaced_by(&self, plan: &ProducerPlan, transport: Option<TransportId>) -> Vec<ProducerId> {
        let replaces = |old: &Producer| {
            let one_transport = old.transport == transport && transport.is_some();
            let maybe_one_transport = one_transport || old.transport.is_none() || transport.is_none();
            let shares_ssrc = ssrcs(&old.plan.spec).any(|ssrc| ssrcs(&plan.spec).any(|new| new == ssrc));
            let shares_mid = plan.spec.mid.is_some() && old.plan.spec.mid == plan.spec.mid;
            (shares_ssrc && maybe_one_transport) || (shares_mid && one_transport)
        };
        self.producers.iter().filter(|(_, old)| replaces(old)).map(|(id, _)| *id).collect()
    }

    /// The transport of a consumer that names none: the one made to receive; one that carries consumers already; a
    /// connected one that carries no producer; the newest that is not connected; any.
    pub(super) fn transport_for_consumer(&self) -> Option<TransportId> {
        let usable = || self.transports.iter().rev().filter(|(_, transport)| transport.is_usable());
        if let Some((&id, _)) = usable().find(|(_, transport)| transport.direction == Some(Direction::Receive)) {
            return Some(id);
        }
        let open = || usable().filter(|(_, transport)| transport.direction != Some(Direction::Send));
        let carries_producer = |id| self.producers.values().any(|producer| producer.transport == Some(id));
        if let Some((&id, _)) = open().find(|(id, transport)| transport.carried_consumers && !carries_producer(**id)) {
            return Some(id);
        }
        let free = || open().filter(|(id, _)| !carries_producer(**id));
        let connected = free().find(|(_, transport)| transport.connected);
        let unconnected = free().find(|(_, transport)| !transport.connected);
        let producer_on_its_way = self.producers.values().any(|producer| producer.transport.is_none());
        let choice = match (producer_on_its_way, self.announcements_open) {
            (false, _) => connected.or(unconnected),
            // The producer is on a connected one, though nobody has seen its packets yet: no other was announced.
            // mediasoup-client connects its receiving transport only after it was told what to receive.
            (true, 0) => unconnected.or(connected),
            // It may be on either; clients create their sending transport first.
            (true, _) => free().next(),
        };
        choice.or_else(|| open().next()).or_else(|| usable().next()).map(|(id, _)| *id)
    }
}

fn ssrcs(spec: &ProducerSpec) -> impl Iterator<Item = Ssrc> {
    spec.encodings.iter().flat_map(|encoding| [encoding.ssrc, encoding.rtx_ssrc]).flatten()
}
