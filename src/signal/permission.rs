//! Whether a peer's grants allow a request: the one place that decides it.

use serde_json::Value;

use crate::signal::act::Act;
use crate::signal::grants::{Grants, Publish};
use crate::signal::message::{Code, Refusal};
use crate::signal::peer::Peer;
use crate::signal::request::Request;

pub(super) fn check(grants: &Grants, request: &Request) -> Result<(), Refusal> {
    let (allowed, right) = match request {
        Request::Produce(produce) => {
            let source = produce.app_data.get("source").and_then(Value::as_str);
            let right =
                if grants.hidden { "to produce: this peer is hidden" } else { "to publish this kind or source" };
            (grants.may_produce(produce.kind, source), right)
        }
        Request::Consume(_) | Request::Subscribe { .. } | Request::GetProducers => (grants.subscribe, "to subscribe"),
        _ => return Ok(()),
    };
    match allowed {
        true => Ok(()),
        false => Err(Refusal::new(Code::Forbidden, format!("this peer was not granted the right {right}"))),
    }
}

/// The same of an act of moderation. Nothing is looked up before, so that who may not moderate learns nothing.
pub(super) fn act(peer: &Peer, act: &Act) -> Result<(), Refusal> {
    let grants = &peer.grants;
    let itself = |id: &Option<String>| id.as_deref().is_none_or(|id| id == peer.external.to_string());
    let takes_part = grants.subscribe || grants.publish != Publish::Nothing;
    let (allowed, right) = match act {
        Act::SendMessage { .. } => (takes_part && !grants.hidden, "to take part, or is hidden, and sends no messages"),
        // All are told: who has no say does not get it by these. What is taken away says nothing.
        Act::SetAppData { peer: whose, app_data } if itself(whose) => {
            (takes_part || app_data.is_null(), "to take part")
        }
        Act::Rename { peer: whose, name } if itself(whose) && !peer.name_given => {
            (takes_part || name.is_none(), "to take part")
        }
        Act::Rename { .. } => (false, "to moderate: the name of another, or one that was given, is fixed"),
        _ => (false, "to moderate"),
    };
    match allowed || grants.moderate {
        true => Ok(()),
        false => Err(Refusal::new(Code::Forbidden, format!("this peer was not granted the right {right}"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::signal::request::parse;

    #[test]
    fn each_request_asks_for_its_own_right() {
        let refused = |grants: &Value, kind: &str, data: Value| {
            let request = parse(&json!({ "type": kind, "data": data }).to_string()).request.expect("it is well-formed");
            check(&Grants::read(grants).unwrap(), &request).err().map(|refusal| refusal.code)
        };
        let produce = |kind: &str, source: Value| json!({ "kind": kind, "rtpParameters": {}, "appData": source });
        let (listens, speaks) = (json!({ "subscribe": true }), json!({ "publish": { "sources": ["mic"] } }));
        for (kind, data) in
            [("subscribe", json!({})), ("get-producers", json!({})), ("consume", json!({ "rtpCapabilities": {} }))]
        {
            assert_eq!(refused(&listens, kind, data.clone()), None);
            assert_eq!(refused(&speaks, kind, data), Some(Code::Forbidden), "{kind}");
        }
        assert_eq!(refused(&speaks, "produce", produce("audio", json!({ "source": "mic" }))), None);
        for app_data in [json!({ "source": "camera" }), json!({ "source": ["mic"] }), json!("mic"), Value::Null] {
            assert_eq!(refused(&speaks, "produce", produce("audio", app_data)), Some(Code::Forbidden));
        }
        assert_eq!(refused(&listens, "produce", produce("audio", Value::Null)), Some(Code::Forbidden));
        for kind in ["ping", "get-rtp-capabilities", "create-transport"] {
            assert_eq!(refused(&json!({}), kind, json!({})), None, "{kind}");
        }
    }
}
