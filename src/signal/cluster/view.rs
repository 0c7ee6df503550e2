//! What `GET /cluster` shows: this node, its bus, and the other nodes as they are seen from here.

use serde_json::{Value, json};

use super::messages::NodeLoad;
use super::node::ClusterNode;
use crate::base::time::Instant;

fn load(load: &NodeLoad) -> Value {
    let NodeLoad { peers, channels, expected, capacity, permille } = load;
    json!({ "peers": peers, "channels": channels, "expected": expected, "capacity": capacity, "permille": permille })
}

impl ClusterNode {
    pub fn view(&self, now: Instant) -> Value {
        let own = &self.profile;
        let nodes: Vec<Value> = self
            .nodes
            .iter()
            .map(|(id, node, seen)| {
                let hello = &node.hello;
                json!({
                    "id": id.to_string(), "name": hello.name, "region": hello.region, "release": hello.release,
                    "url": hello.url, "state": hello.state.name(), "seen": seen.name(), "upSeconds": hello.up,
                    "heardMsAgo": now.since(node.heard).as_millis() as u64, "shards": hello.shards,
                    "load": load(&hello.load), "speaks": hello.speaks.to_json(), "apart": self.apart.contains(id),
                })
            })
            .collect();
        json!({
            "cluster": self.cluster,
            "node": {
                "id": self.id.to_string(), "name": own.name, "region": own.region, "release": own.release, "url": own.url,
                "state": self.state().name(), "upSeconds": now.since(self.started).as_secs(), "shards": own.shards,
                "load": load(&self.load), "speaks": own.speaks.to_json(),
            },
            "bus": {
                "up": self.life.is_up(), "engine": self.engine, "reconnects": self.counts.reconnects,
                "roundTripMicros": self.round_trip.map(|took| took.as_micros() as u64),
                "keys": self.seal.keys().ids().collect::<Vec<_>>(),
            },
            "nodes": nodes,
        })
    }
}
