//! The mute of a producer, or of all that a peer sends, by a moderator. It stays until it is let go: what the peer makes
//! anew of a muted kind begins muted, and where tokens prove who somebody is, that holds for the user who comes again.

use std::sync::Arc;

use crate::base::id::{PeerId, ProducerId};
use crate::base::limits::MUTED_PER_CHANNEL_MAX;
use crate::shard::command::MediaKind;
use crate::signal::act::By;
use crate::signal::channel::Channel;
use crate::signal::desk::Desk;
use crate::signal::message::Refusal;
use crate::signal::meter::Cost;
use crate::signal::mutes::{Muted, Mutes};
use crate::signal::pause::Pause;
use crate::signal::pausing;
use crate::signal::peer::Peer;

/// Whether a new producer of this peer begins muted.
pub(super) fn begins_muted(channel: &Channel, id: PeerId, kind: MediaKind) -> bool {
    let muted = channel.peers.get(&id).map(|peer| Muted::of(id, peer));
    muted.and_then(|muted| channel.mutes.get(&muted)).is_some_and(|mutes| mutes.holds(kind))
}

fn mutes(channel: &mut Channel, muted: Muted) -> Result<&mut Mutes, Refusal> {
    if channel.mutes.len() >= MUTED_PER_CHANNEL_MAX && !channel.mutes.contains_key(&muted) {
        return Err(Refusal::limit("muted users in a channel", MUTED_PER_CHANNEL_MAX));
    }
    Ok(channel.mutes.entry(muted).or_default())
}

fn set(channel: &mut Channel, desk: &mut Desk, by: By, id: ProducerId, muted: bool) {
    pausing::change(channel, desk, id, Some(by), |pause| Pause { muted, ..pause });
}

pub(super) fn producer(
    channel: &mut Channel,
    desk: &mut Desk,
    by: By,
    external: &str,
    muted: bool,
) -> Result<(), Refusal> {
    let not_found = || Refusal::not_found("data.producerId");
    let id = channel.find_producer(external).ok_or_else(not_found)?;
    let (owner, producer) = channel.producer(id).ok_or_else(not_found)?;
    let (kind, source) = (producer.plan.kind, producer.source().map(Arc::<str>::from));
    let peer = channel.peers.get(&owner).ok_or_else(not_found)?;
    let whose = Muted::of(owner, peer);
    if muted {
        mutes(channel, whose)?.hold(kind, source.as_deref());
        set(channel, desk, by, id, true);
        return Ok(());
    }
    // Another of the same source keeps the mute, be it at another peer of the same user.
    let theirs: Vec<&Peer> = match &whose {
        Muted::Peer(_) => vec![peer],
        Muted::User(user) => {
            desk.post.work.add(Cost::walked(channel.peers.len()));
            channel.peers.values().filter(|other| other.proven && other.user == *user).collect()
        }
    };
    let others = theirs.iter().flat_map(|peer| &peer.producers).filter(|(other, _)| **other != id);
    let held = others
        .filter(|(_, other)| other.pause.muted && other.plan.kind == kind)
        .any(|(_, other)| other.source() == source.as_deref());
    if !held {
        let_go(channel, &whose, |mutes| mutes.let_go(kind, source.as_deref()));
    }
    set(channel, desk, by, id, false);
    Ok(())
}

fn let_go(channel: &mut Channel, whose: &Muted, change: impl FnOnce(&mut Mutes)) {
    if let Some(mutes) = channel.mutes.get_mut(whose) {
        change(mutes);
        if mutes.is_empty() {
            channel.mutes.remove(whose);
        }
    }
}

/// All that the peer sends of these kinds, now and later.
pub(super) fn peer(
    channel: &mut Channel,
    desk: &mut Desk,
    by: By,
    id: PeerId,
    kinds: &[MediaKind],
    muted: bool,
) -> Result<(), Refusal> {
    let peer = channel.peers.get(&id).ok_or_else(|| Refusal::not_found("data.peerId"))?;
    let whose = Muted::of(id, peer);
    let of_kinds = peer.producers.iter().filter(|(_, producer)| kinds.contains(&producer.plan.kind));
    let producers: Vec<_> = of_kinds.map(|(id, _)| *id).collect();
    desk.post.work.add(Cost::walked(producers.len()));
    if muted {
        let mutes = mutes(channel, whose)?;
        kinds.iter().for_each(|kind| mutes.hold_whole(*kind));
    } else {
        let_go(channel, &whose, |mutes| kinds.iter().for_each(|kind| mutes.let_go_whole(*kind)));
    }
    for producer in producers {
        set(channel, desk, by, producer, muted);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::fixture::{ANNA, BERTA, CAMERA, call};

    #[test]
    fn a_mute_stays_with_the_peer_until_it_is_let_go() {
        let (mut channel, mut desk) = call();
        let external = channel.producer(CAMERA).unwrap().1.external.to_string();
        let audio = MediaKind::Audio;
        let mut mute = |muted| producer(&mut channel, &mut desk, By::Operator, &external, muted);
        assert_eq!((mute(true), mute(true)), (Ok(()), Ok(())));
        assert!(begins_muted(&channel, ANNA, audio) && !begins_muted(&channel, ANNA, MediaKind::Video));
        assert!(!begins_muted(&channel, BERTA, audio));
        assert_eq!(producer(&mut channel, &mut desk, By::Operator, &external, false), Ok(()));
        assert!(!begins_muted(&channel, ANNA, audio) && channel.mutes.is_empty());
        let (both, not) = ([audio, MediaKind::Video], [MediaKind::Video]);
        peer(&mut channel, &mut desk, By::Operator, ANNA, &both, true).unwrap();
        assert!(channel.producer(CAMERA).unwrap().1.pause.muted && begins_muted(&channel, ANNA, MediaKind::Video));
        peer(&mut channel, &mut desk, By::Operator, ANNA, &not, false).unwrap();
        assert!(channel.producer(CAMERA).unwrap().1.pause.muted && !begins_muted(&channel, ANNA, MediaKind::Video));
    }

    #[test]
    fn who_is_proved_by_a_token_stays_muted_when_it_comes_again() {
        let (mut channel, mut desk) = call();
        channel.peers.get_mut(&ANNA).unwrap().proven = true;
        peer(&mut channel, &mut desk, By::Operator, ANNA, &[MediaKind::Audio], true).unwrap();
        let berta = channel.peers.get_mut(&BERTA).unwrap();
        berta.user = "anna".into();
        assert!(!begins_muted(&channel, BERTA, MediaKind::Audio), "anybody may call herself so");
        channel.peers.get_mut(&BERTA).unwrap().proven = true;
        assert!(begins_muted(&channel, BERTA, MediaKind::Audio));
    }

    #[test]
    fn the_number_of_muted_users_is_bounded() {
        let (mut channel, mut desk) = call();
        for n in 0..MUTED_PER_CHANNEL_MAX {
            channel.mutes.entry(Muted::User(n.to_string().into())).or_default().hold_whole(MediaKind::Audio);
        }
        let mut mute = || peer(&mut channel, &mut desk, By::Operator, ANNA, &[MediaKind::Audio], true);
        assert_eq!(mute().unwrap_err().code, crate::signal::message::Code::Limit);
        assert!(!channel.producer(CAMERA).unwrap().1.pause.muted);
        channel.mutes.pop_first();
        assert_eq!(peer(&mut channel, &mut desk, By::Operator, ANNA, &[MediaKind::Audio], true), Ok(()));
    }
}
