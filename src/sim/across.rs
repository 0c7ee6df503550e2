//! The shards of a world as nodes of their own: what crosses goes over lanes on links of the simulation. One hub stands for
//! the control towers of all nodes; before a consumer of another node's producer it orders the import, as they will.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use rand::rngs::SmallRng;

use crate::base::buffer::{Leg, LocalIndex, Path};
use crate::base::id::{ProducerId, ShardId};
use crate::base::node_id::NodeId;
use crate::base::ranking::Ranking;
use crate::base::time::Instant;
use crate::shard::command::{Command, Fingerprint, ImportSpec, LaneNode, LaneNodes};
use crate::sim::link::{LinkModel, LinkSettings};
use crate::sim::script::fingerprint;

#[derive(Clone, Copy, PartialEq, Debug)]
pub struct AcrossSettings {
    pub link: LinkSettings,
    /// The longest datagram that passes, in bytes of UDP payload.
    pub datagram_max: usize,
}

pub struct Across {
    settings: AcrossSettings,
    certificate: String,
    shards: usize,
    /// By sender and receiver.
    pub links: BTreeMap<(usize, usize), LinkModel>,
    /// Bytes that each sender has put onto each link.
    pub bytes: BTreeMap<(usize, usize), u64>,
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

/// Where the other of two nodes gets a datagram that left on this path, and whom from.
pub(super) fn other_end(path: Path) -> (LocalIndex, SocketAddr) {
    let from = usize::from(path.leg.local() == lane_local(ShardId(1)));
    (lane_local(ShardId(1 - from as u16)), address(from))
}

/// The name of a producer on all nodes.
fn uuid(producer: ProducerId) -> [u8; 16] {
    u128::from(producer.0).to_be_bytes()
}

impl Across {
    pub(super) fn new(settings: AcrossSettings, shards: u16, certificate: &[u8]) -> Across {
        let count = usize::from(shards);
        let pairs = (0..count).flat_map(|from| (0..count).map(move |to| (from, to))).filter(|(from, to)| from != to);
        Across {
            settings,
            certificate: fingerprint(certificate),
            shards: count,
            links: pairs.map(|pair| (pair, LinkModel::new(settings.link))).collect(),
            bytes: BTreeMap::new(),
            rankings: BTreeMap::new(),
            imports: BTreeSet::new(),
        }
    }

    /// What a node's shard is told of the others.
    pub(super) fn nodes(&self, own: usize) -> Command {
        let told = |shard: usize| {
            let fingerprint = Fingerprint::parse("sha-256", &self.certificate).expect("it is one");
            // Each node has the one shard that its own number names.
            let port = address(shard).port() - shard as u16;
            let address = SocketAddr::new(address(shard).ip(), port);
            LaneNode { node: node(shard), address, shards: shard as u16 + 1, fingerprint }
        };
        let others = (0..self.shards).filter(|other| *other != own).map(told).collect();
        Command::Nodes { nodes: Box::new(LaneNodes { own: node(own), bus_up: true, others }) }
    }

    /// The commands that a cluster's control towers would give in place of this one.
    pub(super) fn commands(&mut self, shard: ShardId, command: Command) -> Vec<Command> {
        match command {
            Command::Produce { producer, ref spec, .. } => {
                self.rankings.insert(producer, spec.ranking);
                vec![command, Command::Publish { producer, uuid: uuid(producer) }]
            }
            Command::Consume { consumer, transport, producer, home, spec, paused } if home != shard => {
                let first = self.imports.insert((usize::from(shard.0), producer));
                let import = first.then(|| Command::Import {
                    producer,
                    uuid: uuid(producer),
                    from: (node(home.0.into()), home),
                    spec: Box::new(ImportSpec {
                        codec: spec.codec,
                        clock_rate: spec.clock_rate,
                        encodings: spec.encodings,
                        top: spec.top,
                        ranking: self.rankings.get(&producer).copied().unwrap_or_default(),
                    }),
                });
                let consume = Command::Consume { consumer, transport, producer, home: shard, spec, paused };
                import.into_iter().chain([consume]).collect()
            }
            command => vec![command],
        }
    }

    /// Forgets what is imported here, and names it.
    pub(super) fn dropped(&mut self, shard: u16) -> Vec<ProducerId> {
        let here = |(at, _): &(usize, ProducerId)| *at == usize::from(shard);
        let dropped = self.imports.iter().filter(|import| here(import)).map(|(_, producer)| *producer).collect();
        self.imports.retain(|import| !here(import));
        dropped
    }

    /// Sends a datagram of a lane: the path on which the other node gets it, and when. None: it is lost.
    pub(super) fn send(
        &mut self,
        now: Instant,
        path: Path,
        len: usize,
        rng: &mut SmallRng,
    ) -> Option<(Path, [Option<Instant>; 2])> {
        let is_at = |shard: &usize| path.leg == Leg::Udp(lane_local(ShardId(*shard as u16)));
        let from = (0..self.shards).find(is_at)?;
        let to = (0..self.shards).find(|shard| address(*shard) == path.remote)?;
        *self.bytes.entry((from, to)).or_default() += len as u64;
        let link = self.links.get_mut(&(from, to)).filter(|_| len <= self.settings.datagram_max)?;
        Some((Path::udp(lane_local(ShardId(to as u16)), address(from)), link.send(now, len, rng)))
    }
}
