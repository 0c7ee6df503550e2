//! The thread that keeps a certificate young: orders, waits, and orders again. A fault of it, or of the library, ends one
//! order and nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use super::challenges::Challenges;
use super::fault::{AcmeFault, AcmeWhy};
use super::https::Asked;
use super::kept::{Folder, KeptCertificate};
use super::order::{Job, Obtained, roots};
use super::schedule::{self, Waits};
use super::settings::AcmeSettings;
use crate::base::limits::{ACME_ORDER_PAUSE, ACME_ORDER_WAIT};
use crate::server::in_use::{InUse, Presented, Validity, certified};
use crate::server::{clock, self_signed};

/// The wall clock may be set, and stands still while a machine sleeps: it is looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Counts orders; [`crate::server::metrics`] shows them.
#[derive(Default)]
pub(in crate::server) struct Orders {
    done: AtomicU64,
    failed: [AtomicU64; AcmeWhy::NAMES.len()],
}

impl Orders {
    pub(in crate::server) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// By its place in [`AcmeWhy::NAMES`].
    pub(in crate::server) fn failed(&self, place: usize) -> u64 {
        self.failed[place].load(Ordering::Relaxed)
    }
}

pub(in crate::server) struct Keeper {
    job: Job,
    in_use: Arc<InUse>,
    orders: Arc<Orders>,
    /// Of the certificate that was kept.
    kept: Option<Validity>,
}

/// A self-signed one until the authority's is there.
fn stopgap(settings: &AcmeSettings, challenges: &Challenges) -> Result<Presented, String> {
    let (chain, key) = self_signed::make(settings.domains.clone()).map_err(|error| error.to_string())?;
    let certified = certified(vec![chain], key).map_err(|error| error.to_string())?;
    challenges.beside(certified, None).map_err(|error| error.to_string())
}

impl Keeper {
    /// Takes up what the folder keeps. Blocks on the disk.
    pub(in crate::server) fn open(settings: AcmeSettings) -> Result<Keeper, AcmeFault> {
        let folder = Folder::open(&settings.folder, &settings.directory)?;
        roots(&settings)?;
        let challenges = Challenges::default();
        let kept = folder.certificate(&settings.domains).filter(|kept| kept.validity.ends > clock::wall());
        let validity = kept.as_ref().map(|kept| kept.validity);
        let presented = match kept {
            Some(KeptCertificate { certified, validity }) => {
                challenges.beside(certified, Some(validity)).map_err(|error| error.to_string())
            }
            None => stopgap(&settings, &challenges),
        };
        let presented = presented.map_err(|error| {
            let what = format!("no certificate could be made: {error}");
            AcmeFault::local(&what, "see that the system's random source is available")
        })?;
        let in_use = Arc::new(InUse::new(presented));
        let job = Job { settings, folder, challenges };
        Ok(Keeper { job, in_use, orders: Arc::default(), kept: validity })
    }

    pub(in crate::server) fn in_use(&self) -> Arc<InUse> {
        self.in_use.clone()
    }

    pub(in crate::server) fn orders(&self) -> &Orders {
        &self.orders
    }

    /// For ever, or until it is dropped; the thread ends then. `asked`: somebody has mended what was in the way.
    pub(in crate::server) async fn run(&self, asked: &Notify) {
        let (_alive, ended) = oneshot::channel::<()>();
        let wake = Arc::<Notify>::default();
        let round = Rounds {
            job: self.job.clone(),
            in_use: self.in_use.clone(),
            orders: self.orders.clone(),
            wake: wake.clone(),
        };
        let kept = self.kept;
        let thread = std::thread::Builder::new().name("acme".into()).spawn(move || round.run(kept, ended));
        if let Err(error) = thread {
            tracing::error!(%error, "there is no thread for ACME: no certificate is ordered or renewed");
        }
        loop {
            asked.notified().await;
            wake.notify_one();
        }
    }
}

/// What the thread has.
struct Rounds {
    job: Job,
    in_use: Arc<InUse>,
    orders: Arc<Orders>,
    wake: Arc<Notify>,
}

impl Rounds {
    fn run(self, kept: Option<Validity>, ended: oneshot::Receiver<()>) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return tracing::error!(%error, "no certificate is ordered or renewed"),
        };
        runtime.block_on(async {
            tokio::select! {
                () = self.keep_young(kept) => {}
                _ = ended => {}
            }
        });
        // A look-up of a name may hang.
        runtime.shutdown_background();
    }

    async fn keep_young(&self, kept: Option<Validity>) {
        let mut waits = Waits::default();
        let mut due = match kept {
            Some(validity) => {
                let due = schedule::renewal(validity, rand::random());
                tracing::info!(renewal = %date(due), "the certificate that is kept is in use");
                due
            }
            None => clock::wall(),
        };
        let mut not_before = clock::wall();
        loop {
            self.wait_for(&mut due, not_before, &waits).await;
            let asked = Asked::default();
            match self.order(&asked).await {
                Ok(validity) => {
                    waits.succeeded();
                    let now = clock::wall();
                    due = schedule::after_success(validity, now, rand::random());
                    not_before = now + ACME_ORDER_PAUSE;
                    tracing::info!(ends = %date(validity.ends), renewal = %date(due), "a new certificate is in use");
                }
                Err(fault) => {
                    let wish = asked.take();
                    let fault = if wish.is_some() { fault.limited() } else { fault };
                    self.orders.failed[fault.why.index()].fetch_add(1, Ordering::Relaxed);
                    let wait = waits.after_failure(wish, rand::random());
                    let now = clock::wall();
                    due = now + wait;
                    not_before = now + wish.unwrap_or_default().max(ACME_ORDER_PAUSE);
                    let (why, cure) = (AcmeWhy::NAMES[fault.why.index()], fault.cure);
                    tracing::warn!(why, cure, again_in_s = wait.as_secs(), "no certificate was obtained: {fault}");
                }
            }
        }
    }

    async fn wait_for(&self, due: &mut SystemTime, not_before: SystemTime, waits: &Waits) {
        while let Ok(left) = due.duration_since(clock::wall()).map(|left| left.min(LOOK_EVERY)) {
            if left.is_zero() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(left) => {}
                () = self.wake.notified() => match waits.failing() {
                    true => *due = not_before.min(*due),
                    false => tracing::info!(renewal = %date(*due), "the certificate is young: none is ordered"),
                },
            }
        }
    }

    async fn order(&self, asked: &Asked) -> Result<Validity, AcmeFault> {
        tracing::info!(domains = self.job.settings.domains.join(" "), "a certificate is ordered");
        let (job, asks) = (self.job.clone(), asked.clone());
        // A task of its own: the library panics over some answers.
        let mut task = tokio::spawn(async move { job.run(&asks).await });
        let outcome = timeout(ACME_ORDER_WAIT, &mut task).await;
        self.job.challenges.clear();
        let Obtained { kept, pem } = match outcome {
            Ok(Ok(outcome)) => outcome?,
            Ok(Err(_)) => return Err(AcmeFault::senseless("the authority's answers made the ACME library panic")),
            Err(_) => {
                task.abort();
                let what = format!("the order is not done within {} s", ACME_ORDER_WAIT.as_secs());
                return Err(AcmeFault::silent(&what));
            }
        };
        let validity = kept.validity;
        if let Err(error) = self.job.folder.keep_certificate(&pem) {
            tracing::error!(%error, "the new certificate is in use and cannot be kept: the next start orders another");
        }
        let presented = self.job.challenges.beside(kept.certified, Some(validity));
        self.in_use.replace(presented.map_err(|error| AcmeFault::senseless(&error.to_string()))?);
        self.orders.done.fetch_add(1, Ordering::Relaxed);
        Ok(validity)
    }
}

/// As HTTP writes it.
fn date(time: SystemTime) -> httpdate::HttpDate {
    time.into()
}
