//! Messages between peers, for chat and signals of an app: to one peer, or to all that subscribe, in one order for all
//! of them. What is in one is the app's own.

use serde_json::{Value, json};

use crate::base::id::PeerId;
use crate::base::limits::AWAY_SAID_BYTES_MAX;
use crate::signal::act::By;
use crate::signal::channel::Channel;
use crate::signal::cluster::RosterOp;
use crate::signal::desk::Desk;
use crate::signal::ids::ExternalId;
use crate::signal::message::{Code, Refusal};
use crate::signal::meter::Cost;
use crate::signal::news::News;
use crate::signal::said::Audience;

/// More than what a text has around its data.
const FRAME: usize = 160;

/// `from` hears of it by the reply alone, which has the same place in the order.
pub(super) fn send(
    channel: &Channel,
    desk: &mut Desk,
    from: (Option<PeerId>, By),
    to: Option<&str>,
    data: &Value,
) -> Result<(), Refusal> {
    let (sender, by) = from;
    let mut message = json!({ "from": by.to_string(), "data": data });
    let said = data.to_string().len();
    let (bytes, said) = (said + FRAME, Cost::said(said));
    desk.post.work.add(said);
    if sender.is_some() {
        desk.post.said.add(said);
    }
    let Some(to) = to else {
        let others = channel.subscribers.iter().filter(|peer| Some(**peer) != sender);
        let mailboxes = &mut desk.post.mailboxes;
        let others: Vec<PeerId> =
            others.copied().filter(|peer| mailboxes.takes_message(*peer, bytes, Audience::All)).collect();
        desk.post.notify_all(others.iter(), &News::message(), &message);
        return Ok(());
    };
    let not_found = || Refusal::not_found("data.peerId");
    let id = channel.find_peer(to).ok_or_else(not_found)?;
    // A hidden peer is nobody to the others.
    if channel.peers.get(&id).is_none_or(|peer| peer.grants.hidden && Some(id) != sender && by != By::Operator) {
        return Err(not_found());
    }
    if channel.peers.get(&id).is_some_and(|peer| peer.place.node().is_some()) {
        return Ok(());
    }
    if !channel.subscribers.contains(&id) {
        let message = "data.peerId: this peer has not subscribed, so nothing can be told to it";
        return Err(Refusal::new(Code::Unavailable, message));
    }
    if !desk.post.mailboxes.takes_message(id, bytes, Audience::One) {
        return Err(Refusal::limit("bytes of messages kept for a peer that is away", AWAY_SAID_BYTES_MAX));
    }
    message["to"] = json!(to);
    desk.post.notify_all([id].iter(), &News::message(), &message);
    Ok(())
}

/// Hands a message that was sent here on to the other nodes, in the order of whatever else they are told. It is delivered
/// there at most once, and its sender does not hear whether.
pub(super) fn pass_on(channel: &mut Channel, desk: &mut Desk, from: By, to: Option<&str>, data: &Value) {
    let to = match to {
        None => None,
        Some(to) => {
            let ghost = |id: &PeerId| channel.peers.get(id).is_some_and(|peer| peer.place.node().is_some());
            if !channel.find_peer(to).is_some_and(|id| ghost(&id)) {
                return;
            }
            ExternalId::parse(to)
        }
    };
    channel.tell_abroad(&mut desk.post, || RosterOp::Said { from, to, data: data.clone() });
}

/// A message from another node.
pub(super) fn deliver(channel: &Channel, desk: &mut Desk, from: By, to: Option<ExternalId>, data: &Value) {
    let mut message = json!({ "from": from.to_string(), "data": data });
    let Some(to) = to else { return desk.post.notify_all(channel.subscribers.iter(), &News::message(), &message) };
    let Some(id) = channel.peer_named(to).filter(|id| channel.subscribers.contains(id)) else { return };
    if channel.peers.get(&id).is_some_and(|peer| !peer.grants.hidden) {
        message["to"] = json!(to.to_string());
        desk.post.notify_all([id].iter(), &News::message(), &message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::fixture::{ANNA, BERTA, call, heard};

    #[test]
    fn a_message_is_for_all_others_or_for_one_that_listens() {
        let (mut channel, mut desk) = call();
        let [anna, berta] = [ANNA, BERTA].map(|id| channel.peers[&id].external);
        let from = (Some(ANNA), By::Peer(anna));
        let name = berta.to_string();
        send(&channel, &mut desk, from, None, &json!("hi")).unwrap();
        send(&channel, &mut desk, from, Some(&name), &json!([1])).unwrap();
        send(&channel, &mut desk, (None, By::Operator), None, &json!(2)).unwrap();
        let told: Vec<_> = heard(&mut desk).0.into_iter().map(|(to, text)| (to, text["data"].clone())).collect();
        let anna = anna.to_string();
        let expected = [
            (2, json!({ "from": anna, "data": "hi" })),
            (2, json!({ "from": anna, "to": name, "data": [1] })),
            (1, json!({ "from": "operator", "data": 2 })),
            (2, json!({ "from": "operator", "data": 2 })),
        ];
        assert_eq!(told, expected);
        channel.subscribers.remove(&BERTA);
        let mut refused = |to: &str| send(&channel, &mut desk, from, Some(to), &json!(0)).unwrap_err().code;
        assert_eq!([refused(&name), refused("nobody")], [Code::Unavailable, Code::NotFound]);
        channel.peers.get_mut(&BERTA).unwrap().grants.hidden = true;
        assert_eq!(send(&channel, &mut desk, from, Some(&name), &json!(0)).unwrap_err().code, Code::NotFound);
    }
}
