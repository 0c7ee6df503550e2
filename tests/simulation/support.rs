//! The common beginnings of the tests.

use weirgate::base::time::Duration;
use weirgate::sim::link::LinkSettings;
use weirgate::sim::script::Media;
use weirgate::sim::visitor::{Publication, Subscription, Visitor, VisitorTransport};
use weirgate::sim::world::World;
use weirgate::wire::codec::Codec;

pub(crate) const DELAY: Duration = Duration::from_millis(20);
pub(crate) const CLEAN: LinkSettings = LinkSettings::clean(DELAY);
pub(crate) const AUDIO: Media = Media::audio();
pub(crate) const VIDEO: Media = Media::video(Codec::Vp8);

pub(crate) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A page with a transport for each direction, both connected.
pub(crate) struct Page {
    pub(crate) visitor: Visitor,
    pub(crate) send: VisitorTransport,
    pub(crate) recv: VisitorTransport,
}

impl Page {
    pub(crate) fn join(world: &mut World, user: &str, link: LinkSettings) -> Page {
        Page::join_in(world, user, "room", link)
    }

    pub(crate) fn join_in(world: &mut World, user: &str, channel: &str, link: LinkSettings) -> Page {
        let visitor = world.join(user, channel);
        let send = world.transport(visitor, "send", link);
        let recv = world.transport(visitor, "recv", link);
        world.connect(&send);
        world.connect(&recv);
        Page { visitor, send, recv }
    }

    pub(crate) fn leave(&self, world: &mut World) {
        world.leave(self.visitor, &[self.send.end, self.recv.end]);
    }
}

/// One who sends and one who watches, a second into it.
pub(crate) struct Pair {
    pub(crate) world: World,
    pub(crate) alice: Page,
    pub(crate) bob: Page,
    pub(crate) video: Publication,
    pub(crate) seen: Subscription,
}

impl Pair {
    pub(crate) fn new(mut world: World, media: &Media, link: LinkSettings) -> Pair {
        let alice = Page::join(&mut world, "alice", link);
        let bob = Page::join(&mut world, "bob", link);
        let video = world.publish(&alice.send, media);
        let seen = world.subscribe(&bob.recv, Some(&video.id));
        world.run(seconds(1));
        Pair { world, alice, bob, video, seen }
    }
}
