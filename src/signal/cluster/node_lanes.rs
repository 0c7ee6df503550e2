//! What a node tells of its lanes.

use std::net::SocketAddr;

use serde_json::{Map, Value, json};

use crate::shard::command::Fingerprint;

/// Where a node's lanes come in, and the certificate that is shown there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeLanes {
    /// Of the first shard; each further one has the next port.
    pub address: SocketAddr,
    /// Of SHA-256, as in SDP: hex pairs with colons.
    pub fingerprint: String,
}

impl NodeLanes {
    /// Ok(None): the node has none. Err: what it says of them is nothing.
    pub(super) fn read(fields: &mut Map<String, Value>) -> Result<Option<NodeLanes>, ()> {
        let (Some(lanes), Some(fingerprint)) = (fields.remove("lanes"), fields.remove("fingerprint")) else {
            return Ok(None);
        };
        let address = lanes.get(0).and_then(Value::as_str).and_then(|text| text.parse().ok()).ok_or(())?;
        let Value::String(fingerprint) = fingerprint else { return Err(()) };
        let lanes = NodeLanes { address, fingerprint };
        if lanes.parsed().is_none() || lanes.address.ip().is_unspecified() || lanes.address.port() == 0 {
            return Err(());
        }
        Ok(Some(lanes))
    }

    pub(super) fn write(&self, text: &mut Value) {
        text["lanes"] = json!([self.address.to_string()]);
        text["fingerprint"] = json!(self.fingerprint);
    }

    pub(super) fn parsed(&self) -> Option<Fingerprint> {
        Fingerprint::parse("sha-256", &self.fingerprint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes() -> NodeLanes {
        NodeLanes { address: ([10, 0, 0, 7], 41_000).into(), fingerprint: vec!["AB"; 32].join(":") }
    }

    #[test]
    fn what_is_written_is_read_back_and_what_nobody_could_reach_is_refused() {
        let mut text = json!({});
        lanes().write(&mut text);
        let read = |text: &Value| NodeLanes::read(&mut text.as_object().unwrap().clone());
        assert_eq!(read(&text), Ok(Some(lanes())));
        assert_eq!(read(&json!({ "lanes": ["10.0.0.7:41000"] })), Ok(None), "a node without lanes");
        for (field, wrong) in [
            ("lanes", json!([])),
            ("lanes", json!("10.0.0.7:41000")),
            ("lanes", json!(["sfu-7:41000"])),
            ("lanes", json!(["0.0.0.0:41000"])),
            ("lanes", json!(["10.0.0.7:0"])),
            ("fingerprint", json!("AB:CD")),
            ("fingerprint", json!(7)),
        ] {
            let mut text = text.clone();
            text[field] = wrong;
            assert_eq!(read(&text), Err(()), "{text}");
        }
    }
}
