//! Whether a peer's grants allow a request: the one place that decides it.

use serde_json::Value;

use crate::signal::act::Act;
use crate::signal::grants::Publish;
use crate::signal::message::{Code, Refusal};
use crate::signal::peer::Peer;
use crate::signal::request::Request;

pub(super) fn check(peer: &Peer, request: &Request) -> Result<(), Refusal> {
    let grants = &peer.grants;
    match request {
        Request::Produce(_) if grants.hidden => Err(denied("this peer is hidden, and produces nothing")),
        Request::Produce(produce) => {
            let source = produce.app_data.get("source").and_then(Value::as_str);
            needs(grants.may_produce(produce.kind, source), "publish this kind or source")
        }
        Request::Consume(_) | Request::Subscribe { .. } | Request::GetProducers => needs(grants.subscribe, "subscribe"),
        // It withholds what others say. Where names prove nothing there are no moderators.
        Request::SetLastN { .. } if peer.proven => needs(grants.moderate, "moderate"),
        _ => Ok(()),
    }
}

/// The same of an act of moderation. Nothing is looked up before, so that who may not moderate learns nothing.
pub(super) fn act(peer: &Peer, act: &Act) -> Result<(), Refusal> {
    let grants = &peer.grants;
    if grants.moderate {
        return Ok(());
    }
    let itself = |id: &Option<String>| id.as_deref().is_none_or(|id| id == peer.external.to_string());
    let takes_part = || needs(grants.subscribe || grants.publish != Publish::Nothing, "publish or subscribe");
    match act {
        Act::SendMessage { .. } if grants.hidden => Err(denied("this peer is hidden, and sends no messages")),
        Act::SendMessage { .. } => takes_part(),
        // All are told: who has no say does not get it by these. What is taken away says nothing.
        Act::SetAppData { peer: whose, app_data: Value::Null } if itself(whose) => Ok(()),
        Act::SetAppData { peer: whose, .. } if itself(whose) => takes_part(),
        Act::Rename { peer: whose, .. } if itself(whose) && peer.name_given => {
            Err(denied("the name of this peer was given to it: a moderator may change it"))
        }
        Act::Rename { peer: whose, name: None } if itself(whose) => Ok(()),
        Act::Rename { peer: whose, .. } if itself(whose) => takes_part(),
        _ => needs(false, "moderate"),
    }
}

fn needs(granted: bool, right: &str) -> Result<(), Refusal> {
    match granted {
        true => Ok(()),
        false => Err(denied(&format!("this peer was not granted the right to {right}"))),
    }
}

fn denied(why: &str) -> Refusal {
    Refusal::new(Code::Forbidden, why)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::base::time::Instant;
    use crate::signal::entrance::Entrance;
    use crate::signal::grants::Grants;
    use crate::signal::ids::Ids;
    use crate::signal::request::parse;

    fn code(entrance: &Entrance, kind: &str, data: &Value) -> Option<Code> {
        let request = parse(&json!({ "type": kind, "data": data }).to_string()).request.expect("it is well-formed");
        check(&Peer::new(Ids::new([1; 32]).external(), entrance), &request).err().map(|refusal| refusal.code)
    }

    #[test]
    fn who_proves_nothing_sets_last_n_and_who_has_a_token_by_its_grant() {
        let n = json!({ "n": 3 });
        let named = Entrance::named("anna", "room");
        assert_eq!(code(&named, "set-last-n", &n), None);
        let mut token = Entrance { expires: Some(Instant::ZERO), ..named };
        assert_eq!(code(&token, "set-last-n", &n), Some(Code::Forbidden));
        token.grants.moderate = true;
        assert_eq!(code(&token, "set-last-n", &n), None);
    }

    #[test]
    fn each_request_asks_for_its_own_right() {
        let refused = |grants: &Value, kind: &str, data: Value| {
            let grants = Grants::read(grants).unwrap();
            code(&Entrance { grants, ..Entrance::named("anna", "room") }, kind, &data)
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
