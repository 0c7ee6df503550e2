//! The shards of a world as nodes of their own: what crosses goes over lanes on links of the simulation. One hub stands for
//! the control towers of all nodes; before a consumer of another node's producer it orders the import, as they will.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crate::base::buffer::{Leg, LocalIndex, Path};
use crate::base::id::{ProducerId, ShardId};
use crate::base::node_id::NodeId;
use crate::base::ranking::Ranking;
use crate::base::time::Instant;
use crate::shard::command::{Command, Fingerprint, ImportSpec, LaneNode, LaneNodes};
use crate::sim::link::{LinkModel, LinkSettings};
use crate::sim::script::fingerprint;
use crate::sim::world::{CERTIFICATE, Happening, World};

#[derive(Clone, Copy, PartialEq, Debug)]
pub struct AcrossSettings {
    pub link: LinkSettings,
    /// The longest datagram that passes, in bytes of UDP payload.
    pub datagram_max: usize,
}

pub struct Across {
    settings: AcrossSettings,
    /// By sender and receiver.
    pub links: BTreeMap<(usize, usize), LinkModel>,
    /// Bytes that each sender has put onto each link.
    pub bytes: BTreeMap<(usize, usize), u64>,
    /// Where each producer lives.
    homes: BTreeMap<ProducerId, ShardId>,
    rankings: BTreeMap<ProducerId, Ranking>,
    /// What is imported where.
    imports: BTreeSet<(usize, ProducerId)>,
}

/// Each node has a socket of its own for lanes.
pub(super) fn lane_local(shard: ShardId) -> LocalIndex {
    LocalIndex(32 + shard.0 as u8)
}

fn node(shard: usize) -> NodeId {
    NodeId(100 + shard as u64)
}

fn address(shard: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1 + shard as u8], 41_000))
}

/// The name of a producer on all nodes.
fn uuid(producer: ProducerId) -> [u8; 16] {
    u128::from(producer.0).to_be_bytes()
}

impl World {
    pub(super) fn join_nodes(&mut self) {
        let Some(settings) = self.settings.across else { return };
        let count = usize::from(self.settings.shards);
        let mut across = Across {
            settings,
            links: BTreeMap::new(),
            bytes: BTreeMap::new(),
            homes: BTreeMap::new(),
            rankings: BTreeMap::new(),
            imports: BTreeSet::new(),
        };
        let told = |shard: usize| {
            let fingerprint = Fingerprint::parse("sha-256", &fingerprint(CERTIFICATE)).expect("it is one");
            // Each node has the one shard that its own number names.
            let port = address(shard).port() - shard as u16;
            let address = SocketAddr::new(address(shard).ip(), port);
            LaneNode { node: node(shard), address, shards: shard as u16 + 1, fingerprint }
        };
        for from in 0..count {
            self.sockets.insert(Leg::Udp(lane_local(ShardId(from as u16))), from);
            let others = (0..count).filter(|other| *other != from);
            across.links.extend(others.clone().map(|to| ((from, to), LinkModel::new(settings.link))));
            let nodes = LaneNodes { own: node(from), bus_up: true, others: others.map(told).collect() };
            self.command(from as u16, Command::Nodes { nodes: Box::new(nodes) });
        }
        self.across = Some(across);
    }

    /// The commands that a cluster's control towers would give in place of this one.
    pub(super) fn across(&mut self, shard: ShardId, command: Command) -> Vec<Command> {
        let Some(across) = &mut self.across else { return vec![command] };
        match command {
            Command::Produce { producer, ref spec, .. } => {
                across.homes.insert(producer, shard);
                across.rankings.insert(producer, spec.ranking);
                vec![command, Command::Publish { producer, uuid: uuid(producer) }]
            }
            Command::Consume { consumer, transport, producer, home, spec, paused } if home != shard => {
                let at = usize::from(shard.0);
                let first = across.imports.insert((at, producer));
                let import = first.then(|| Command::Import {
                    producer,
                    uuid: uuid(producer),
                    from: (node(home.0.into()), home),
                    spec: Box::new(ImportSpec {
                        codec: spec.codec,
                        clock_rate: spec.clock_rate,
                        encodings: spec.encodings,
                        top: spec.top,
                        ranking: across.rankings.get(&producer).copied().unwrap_or_default(),
                    }),
                });
                let consume = Command::Consume { consumer, transport, producer, home: shard, spec, paused };
                import.into_iter().chain([consume]).collect()
            }
            command => vec![command],
        }
    }

    /// Lets everything go that is imported here, as for consumers that have all left.
    pub fn drop_imports(&mut self, shard: u16) {
        let Some(across) = &mut self.across else { return };
        let here = |(at, _): &(usize, ProducerId)| *at == usize::from(shard);
        let dropped: Vec<_> = across.imports.iter().copied().filter(here).collect();
        across.imports.retain(|import| !here(import));
        for (_, producer) in dropped {
            self.command(shard, Command::DropImport { producer });
        }
    }

    /// The link of lanes from one node to another.
    pub fn lane_link(&mut self, from: usize, to: usize) -> &mut LinkModel {
        let link = self.across.as_mut().and_then(|across| across.links.get_mut(&(from, to)));
        link.expect("these are nodes of a world across nodes")
    }

    /// Bytes sent from one node to another so far.
    pub fn lane_bytes(&self, from: usize, to: usize) -> u64 {
        let bytes = self.across.as_ref().and_then(|across| across.bytes.get(&(from, to)));
        bytes.copied().unwrap_or(0)
    }

    pub(super) fn send_across(&mut self, path: Path, bytes: Vec<u8>) {
        let from = self.sockets.get(&path.leg).copied();
        let to = (0..usize::from(self.settings.shards)).find(|shard| address(*shard) == path.remote);
        let now = self.now();
        let (Some(from), Some(to), Some(across)) = (from, to, &mut self.across) else {
            self.astray += 1;
            return;
        };
        *across.bytes.entry((from, to)).or_default() += bytes.len() as u64;
        let Some(link) = across.links.get_mut(&(from, to)) else { return };
        if bytes.len() > across.settings.datagram_max {
            return;
        }
        let arrivals: [Option<Instant>; 2] = link.send(now, bytes.len(), &mut self.rng);
        let path = Path::udp(lane_local(ShardId(to as u16)), address(from));
        for arrival in arrivals.into_iter().flatten() {
            self.decide(arrival, Happening::ToServer { path, bytes: bytes.clone() });
        }
    }
}
