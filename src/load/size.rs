//! The size of a load: who sends, who receives, and who watches whom.

/// The size of a load.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size {
    pub channels: usize,
    pub publishers: usize,
    pub subscribers: usize,
    pub peers: usize,
    pub video_kbit: u32,
    pub audio_packets: u32,
    /// The most senders that one receiver watches.
    pub tiles: usize,
}

/// One client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerPlan {
    pub channel: usize,
    /// Its place among the senders of its channel, or among those who only receive.
    pub place: usize,
    /// Its number as a publisher, if it sends.
    pub publisher: Option<usize>,
    /// Whether it receives the streams of others.
    pub takes: bool,
}

impl Size {
    /// Everybody, in the order of joining. Publishers are numbered over all channels, one channel after the other.
    pub fn plan(&self) -> Vec<PeerPlan> {
        let mut plan = Vec::new();
        let senders = self.publishers + self.peers;
        for channel in 0..self.channels {
            let sends = |place| Some(channel * senders + place);
            plan.extend((0..senders).map(|place| PeerPlan {
                channel,
                place,
                publisher: sends(place),
                takes: place >= self.publishers,
            }));
            plan.extend((0..self.subscribers).map(|place| PeerPlan { channel, place, publisher: None, takes: true }));
        }
        plan
    }

    /// Whether the receiver at `place` watches the sender at `other`: it watches those after its own place, in a
    /// circle.
    pub fn watches(&self, place: usize, other: usize) -> bool {
        let senders = self.publishers + self.peers;
        (other + 2 * senders - place % senders - 1) % senders < self.tiles
    }

    pub fn publishers_in_all(&self) -> usize {
        self.channels * (self.publishers + self.peers)
    }

    pub fn transports(&self) -> usize {
        self.channels * (self.publishers + self.subscribers + 2 * self.peers)
    }

    /// The number of consumed streams, one for each producer and receiver.
    pub fn streams(&self) -> usize {
        let kinds = usize::from(self.video_kbit > 0) + usize::from(self.audio_packets > 0);
        let senders = self.publishers + self.peers;
        let pairs = self.subscribers * senders.min(self.tiles) + self.peers * senders.saturating_sub(1).min(self.tiles);
        self.channels * pairs * kinds
    }
}
