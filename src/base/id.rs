//! Names of things. Numeric ids are given by the signalling thread, which never uses one twice in a process; clients
//! see other, random strings, kept in `signal`.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number!(ShardId(u16));
number!(PeerId(u64));
number!(TransportId(u64));
number!(ProducerId(u64));
number!(ConsumerId(u64));
number!(
    /// RTP synchronisation source (RFC 3550 section 5.1).
    Ssrc(u32)
);
number!(
    /// RTP payload type, 7 bits.
    PayloadType(u8)
);

/// A place in a layered stream: `spatial` is the encoding of a simulcast or the spatial layer of SVC. 0 is the lowest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Layers {
    pub spatial: u8,
    pub temporal: u8,
}

impl Layers {
    /// Above the layers of any stream.
    pub const ALL: Layers = Layers { spatial: u8::MAX, temporal: u8::MAX };

    /// The lower of both, each dimension by itself.
    pub fn at_most(self, other: Layers) -> Layers {
        Layers { spatial: self.spatial.min(other.spatial), temporal: self.temporal.min(other.temporal) }
    }
}

/// The two letters at the start of an ICE ufrag that name the transport's shard; drawn anew at every start.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ShardLabel(pub [u8; 2]);

/// A short name out of SDP (mid, rid) kept inline: at most [`ShortName::MAX`] bytes of ASCII.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ShortName {
    len: u8,
    bytes: [u8; ShortName::MAX],
}

impl ShortName {
    /// RFC 8852 section 3.1 bounds a rid by 255; browsers and mediasoup-client stay far below this.
    pub const MAX: usize = 31;

    /// None when empty, too long or not printable ASCII.
    pub fn new(text: &[u8]) -> Option<ShortName> {
        if text.is_empty() || text.len() > Self::MAX || !text.iter().all(u8::is_ascii_graphic) {
            return None;
        }
        let mut bytes = [0; Self::MAX];
        bytes[..text.len()].copy_from_slice(text);
        Some(ShortName { len: text.len() as u8, bytes })
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

impl fmt::Debug for ShortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

pub type Mid = ShortName;
pub type Rid = ShortName;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_name_is_bounded_ascii() {
        assert_eq!(ShortName::new(b"hi").unwrap().as_str(), "hi");
        assert!(ShortName::new(b"").is_none());
        assert!(ShortName::new(&[b'a'; 32]).is_none());
        assert!(ShortName::new(b"a b").is_none());
        assert!(ShortName::new("é".as_bytes()).is_none());
    }
}
