//! The keys that tokens are checked with, where a token is what lets in. They are read from files at the start by
//! `main`, and again on the signalling thread's behalf when they change or somebody asks. Files that cannot be used
//! change nothing.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use tokio::sync::Notify;

use super::{clock, watched};
use crate::base::limits::TOKEN_KEY_FILE_BYTES_MAX;
use crate::base::time::Duration;
use crate::signal::{Entrance, OpenError};
use crate::token::{Claims, KeyFault, TokenFault, TokenKeys};

/// Keys and their files.
pub struct AuthKeys {
    files: Vec<PathBuf>,
    /// By which clocks may differ.
    leeway: Duration,
    /// The state of the files that the first were read from, or an older one.
    read: watched::Stamp,
    current: RefCell<Arc<TokenKeys>>,
}

/// Blocks on the disk.
fn load(files: &[PathBuf]) -> Result<TokenKeys, KeyFault> {
    let mut read = Vec::new();
    for path in files {
        let name = format!("the file {} of --auth-key", path.display());
        let bytes = watched::read(path, TOKEN_KEY_FILE_BYTES_MAX).map_err(|why| KeyFault {
            what: format!("{name} {why}"),
            cure: "name a file that this user may read with --auth-key".to_owned(),
        })?;
        read.push((name, bytes));
    }
    TokenKeys::read(read.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())))
}

impl AuthKeys {
    /// Reads the files.
    pub fn load(files: Vec<PathBuf>, leeway: Duration) -> Result<AuthKeys, KeyFault> {
        let read = watched::stamp(&files);
        let current = RefCell::new(Arc::new(load(&files)?));
        Ok(AuthKeys { files, leeway, read, current })
    }

    /// What the token says, for this channel.
    pub(super) fn entrance(&self, token: &str, channel: &str) -> Result<Entrance, OpenError> {
        self.way(token, |claims, unix, leeway| claims.entrance(channel, unix, clock::now(), leeway))
    }

    /// What the token says, for the admin API.
    pub(super) fn operator(&self, token: &str) -> Result<Entrance, OpenError> {
        self.way(token, |claims, unix, leeway| claims.operator(unix, clock::now(), leeway))
    }

    fn way(
        &self,
        token: &str,
        to: impl FnOnce(&Claims, u64, u64) -> Result<Entrance, TokenFault>,
    ) -> Result<Entrance, OpenError> {
        // A clock from before 1970 has every token expire.
        let unix = clock::wall().duration_since(UNIX_EPOCH).map_or(u64::MAX, |since| since.as_secs());
        let leeway = self.leeway.as_secs();
        let keys = self.current.borrow().clone();
        let claims = keys.verify(token, unix, leeway);
        claims.and_then(|claims| to(&claims, unix, leeway)).map_err(told)
    }

    /// Keeps up with the files for ever. `asked`: somebody wants them read at once.
    pub(super) async fn keep_up(self: Rc<Self>, asked: &Notify) {
        watched::keep_up(self.files.clone(), self.read.clone(), asked, async || self.reload().await).await;
    }

    async fn reload(&self) {
        let files = self.files.clone();
        match watched::blocking(move || load(&files)).await {
            Some(Ok(keys)) => {
                tracing::info!(keys = keys.len(), "new tokens are checked with the keys that were just read");
                self.current.replace(Arc::new(keys));
            }
            Some(Err(KeyFault { what, cure })) => tracing::warn!(cure, "the keys in use stay: {what}"),
            None => tracing::warn!("the keys in use stay: reading the files panicked"),
        }
    }
}

/// By the code that a client is told.
fn told(refused: TokenFault) -> OpenError {
    match refused {
        TokenFault::Expired => OpenError::Expired,
        TokenFault::Channel | TokenFault::NotAdmin => OpenError::Forbidden(refused.words()),
        _ => OpenError::Unauthorized(refused.words()),
    }
}
