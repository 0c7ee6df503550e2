//! What a hostile engine, and a hostile node that has the key, can send. The first byte says what the rest is: a payload as
//! it came; a text that another node has sealed, so that what is behind the seal is reached; or a file of keys. Nothing may
//! panic, what the seal refuses changes nothing, and what is known of others stays within its bounds.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use weirgate::base::limits::NODES_MAX;
use weirgate::base::node_id::NodeId;
use weirgate::base::time::{Duration, Instant};
use weirgate::signal::cluster::{
    BusEvent, BusSeal, ClusterKeys, ClusterNode, ClusterSettings, NodeLoad, NodeProfile, SocketsInUse, Speaks, read, write,
};

static KEYS: LazyLock<ClusterKeys> = LazyLock::new(|| {
    ClusterKeys::parse(&ClusterKeys::line(1, [7; 32])).expect("it is a key")
});

const NODES: &str = "wg.fuzz.nodes";

fn node() -> ClusterNode {
    let profile = NodeProfile {
        name: "own".to_owned(),
        region: "-".to_owned(),
        url: None,
        release: "0".to_owned(),
        shards: 1,
        speaks: Speaks::ours(),
    };
    let settings = ClusterSettings { node: NodeId(0), cluster: "fuzz".to_owned(), keys: KEYS.clone(), profile };
    ClusterNode::new(Instant::ZERO, settings)
}

fn message(payload: Vec<u8>) -> BusEvent {
    BusEvent::Message { subject: NODES.to_owned(), reply: None, payload }
}

/// Lets some seconds pass, as the edge would.
fn live(node: &mut ClusterNode) {
    let mut now = Instant::ZERO;
    while let Some(due) = node.poll_timeout().filter(|due| *due < Instant::ZERO + Duration::from_secs(8)) {
        assert!(due > now || now == Instant::ZERO, "a deadline is met");
        now = due.max(now + Duration::from_micros(1));
        node.handle_timeout(now, NodeLoad::default(), SocketsInUse::default());
        while node.poll_output().is_some() {}
    }
    assert!(node.others().count() <= NODES_MAX);
    let _ = node.view(now).to_string();
}

fuzz_target!(|input: &[u8]| {
    let Some((&kind, rest)) = input.split_first() else { return };
    match kind % 3 {
        0 => {
            let mut node = node();
            let before = node.view(Instant::ZERO);
            node.handle_bus(Instant::ZERO, message(rest.to_vec()));
            node.handle_bus(Instant::ZERO, BusEvent::Nobody { inbox: String::from_utf8_lossy(rest).into_owned() });
            assert_eq!(node.view(Instant::ZERO)["nodes"], before["nodes"], "nobody without the key changes anything");
            live(&mut node);
        }
        1 => {
            let mut node = node();
            let mut other = BusSeal::new(NodeId(1), KEYS.clone());
            // A zero byte ends a text.
            for text in rest.split(|byte| *byte == 0).take(8) {
                if let Ok((message, _)) = read(text) {
                    let (again, _) = read(write(&message).as_bytes()).expect("what is written is read");
                    assert_eq!(again, message);
                }
                node.handle_bus(Instant::ZERO, message(other.seal(NODES, text)));
            }
            live(&mut node);
        }
        _ => {
            if let Ok(keys) = ClusterKeys::parse(&String::from_utf8_lossy(rest)) {
                assert!((1..=4).contains(&keys.ids().count()));
                let mut one = BusSeal::new(NodeId(1), keys.clone());
                let mut sealed = one.seal(NODES, rest);
                assert_eq!(BusSeal::new(NodeId(2), keys).open(NODES, &mut sealed).expect("it has the key").text, rest);
            }
        }
    }
});
