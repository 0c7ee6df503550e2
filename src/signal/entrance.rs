//! Who comes in, where to, and with which rights: what the entry stage has found out before there is a peer.

use std::sync::Arc;

use crate::base::time::Instant;
use crate::signal::grants::Grants;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entrance {
    pub user: Arc<str>,
    pub channel: Arc<str>,
    /// The display name, where a token gives one.
    pub name: Option<Arc<str>>,
    pub grants: Grants,
    /// The end of the token; None: the peer may stay.
    pub expires: Option<Instant>,
    pub token: Option<TokenId>,
}

/// The `jti` of a token: what it is revoked by. Nobody is ever shown it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenId {
    pub jti: Arc<str>,
    /// It opens one peer and no other.
    pub once: bool,
}

impl Entrance {
    /// Somebody who gave a name and proved nothing.
    pub fn named(user: &str, channel: &str) -> Entrance {
        Entrance {
            user: user.into(),
            channel: channel.into(),
            name: None,
            grants: Grants::everyday(),
            expires: None,
            token: None,
        }
    }
}
