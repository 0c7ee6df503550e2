//! The display name and the appData of a peer, which may change while it is here.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::base::id::PeerId;
use crate::signal::act::By;
use crate::signal::channel::Channel;
use crate::signal::desk::Desk;
use crate::signal::news::News;
use crate::signal::peer::Peer;

/// `by`: who did it, unless it was the peer itself.
pub(super) fn rename(channel: &mut Channel, desk: &mut Desk, id: PeerId, name: Option<String>, by: Option<By>) {
    change(channel, desk, id, by, |peer| {
        peer.name = name.map(Arc::from);
        peer.name_given |= by.is_some();
    });
}

pub(super) fn set_app_data(channel: &mut Channel, desk: &mut Desk, id: PeerId, app_data: Value, by: Option<By>) {
    change(channel, desk, id, by, |peer| {
        peer.app_data_bytes = if app_data.is_null() { 0 } else { app_data.to_string().len() };
        peer.app_data = app_data;
    });
}

/// As another node tells of a peer of its own.
pub(super) fn is_now(
    channel: &mut Channel,
    desk: &mut Desk,
    id: PeerId,
    name: Option<Arc<str>>,
    app_data: Value,
    by: Option<By>,
) {
    change(channel, desk, id, by, |peer| {
        peer.name = name;
        peer.app_data_bytes = if app_data.is_null() { 0 } else { app_data.to_string().len() };
        peer.app_data = app_data;
    });
}

fn change(channel: &mut Channel, desk: &mut Desk, id: PeerId, by: Option<By>, change: impl FnOnce(&mut Peer)) {
    let Some(peer) = channel.peers.get_mut(&id) else { return };
    let before = (peer.name.clone(), peer.app_data.clone());
    change(peer);
    if before == (peer.name.clone(), peer.app_data.clone()) {
        return;
    }
    // All of it, so that the latest is enough to who has not read the others.
    let mut data = peer.describe();
    if let Some(by) = by {
        data["by"] = json!(by.to_string());
        desk.post.notify(id, "peer-updated", &data);
    }
    if !peer.grants.hidden {
        channel.tell_others(&mut desk.post, id, &News::peer_updated(id), &data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::fixture::{ANNA, BERTA, call, heard};

    #[test]
    fn others_are_told_all_of_it_when_something_changes() {
        let (mut channel, mut desk) = call();
        let anna = channel.peers[&ANNA].external.to_string();
        let told = |desk: &mut Desk| -> Vec<_> {
            heard(desk).0.into_iter().map(|(to, text)| (to, text["data"].clone())).collect()
        };
        let (named, mut data) = (Some("Anna".to_owned()), json!({ "id": anna, "user": "anna", "name": "Anna" }));
        rename(&mut channel, &mut desk, ANNA, named.clone(), None);
        assert_eq!(told(&mut desk), [(BERTA.0, data.clone())], "she knows it herself");
        rename(&mut channel, &mut desk, ANNA, named, None);
        assert_eq!(told(&mut desk), []);
        data["appData"] = json!({ "hand": true });
        set_app_data(&mut channel, &mut desk, ANNA, json!({ "hand": true }), None);
        assert_eq!((told(&mut desk), channel.peers[&ANNA].name_given), (vec![(BERTA.0, data)], false));
        rename(&mut channel, &mut desk, ANNA, None, Some(By::Operator));
        let data = json!({ "id": anna, "user": "anna", "appData": { "hand": true }, "by": "operator" });
        assert_eq!(told(&mut desk), [(ANNA.0, data.clone()), (BERTA.0, data)]);
        assert!(channel.peers[&ANNA].name_given);
        set_app_data(&mut channel, &mut desk, ANNA, Value::Null, None);
        assert_eq!((channel.peers[&ANNA].app_data_bytes, told(&mut desk).len()), (0, 1));
        channel.peers.get_mut(&ANNA).unwrap().grants.hidden = true;
        rename(&mut channel, &mut desk, ANNA, Some("Nobody".to_owned()), None);
        assert_eq!(told(&mut desk), []);
    }
}
