//! Files of the operator: read within a bound, and read again when they change or somebody asks.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tokio::sync::Notify;
use tokio::time::{Duration, MissedTickBehavior, interval};

/// How often the files are looked at. A change that two looks agree on is read, so that all are written by then.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Tells one state of the files from another; None: a file is not there.
pub(super) type Stamp = Option<Vec<(u64, i64, i64, u64)>>;

/// Taken before the files are read, so that a change in between is found. Blocks on the disk.
pub(super) fn stamp(paths: &[PathBuf]) -> Stamp {
    let of = |path: &PathBuf| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.size()))
    };
    paths.iter().map(of).collect()
}

/// Err: what is wrong with it, after its name. Blocks on the disk.
pub(super) fn read(path: &Path, max: u64) -> Result<Vec<u8>, String> {
    let metadata = fs::metadata(path);
    let read = metadata.and_then(|metadata| match metadata.is_file() {
        true => {
            let mut bytes = Vec::new();
            File::open(path)?.take(max + 1).read_to_end(&mut bytes).map(|_| Some(bytes))
        }
        false => Ok(None),
    });
    match read {
        Ok(Some(bytes)) if bytes.len() as u64 > max => Err(format!("is longer than {max} bytes")),
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err("is no regular file".to_owned()),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

/// The operator wants everything read again.
#[derive(Default)]
pub struct Reload {
    pub(super) certificates: Notify,
    pub(super) keys: Notify,
    pub(super) webhook_secrets: Notify,
    pub(super) cluster_keys: Notify,
}

impl Reload {
    pub fn ask(&self) {
        self.certificates.notify_one();
        self.keys.notify_one();
        self.webhook_secrets.notify_one();
        self.cluster_keys.notify_one();
    }
}

/// Calls `reload` whenever the files are no longer as they were in the state `used`, or somebody has asked for it. For
/// ever.
pub(super) async fn keep_up(paths: Vec<PathBuf>, mut used: Stamp, asked: &Notify, reload: impl AsyncFn()) {
    let look = || {
        let paths = paths.clone();
        blocking(move || stamp(&paths))
    };
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = used.clone();
    loop {
        let asked = tokio::select! {
            () = asked.notified() => true,
            _ = looks.tick() => false,
        };
        let Some(stamp) = look().await else { continue };
        let settled = std::mem::replace(&mut seen, stamp.clone()) == stamp;
        if asked || settled && stamp != used {
            used = stamp;
            reload().await;
        }
    }
}

/// On a thread that may wait for the disk. None: it panicked.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}
