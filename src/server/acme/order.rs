//! One order, from the account to a certificate that can be presented. What the authority says is believed only where
//! it fits what was asked.

use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Error, Identifier, NewAccount, NewOrder, Order, OrderStatus,
    RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use super::challenges::Challenges;
use super::fault::AcmeFault;
use super::https::{Asked, Https};
use super::kept::{Folder, KeptCertificate};
use super::settings::AcmeSettings;
use crate::base::limits::TLS_FILE_BYTES_MAX;
use crate::server::{clock, watched};

/// While names are checked, and while the certificate is made.
const POLLS: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(500)).backoff(1.5).timeout(Duration::from_secs(120));
const FOLDER_CURE: &str = "let this user write to the folder of --acme-dir; the disk may be full";
const RANDOM_CURE: &str = "see that the system's random source is available";

/// All that an order needs.
#[derive(Clone)]
pub(super) struct Job {
    pub(super) settings: AcmeSettings,
    pub(super) folder: Folder,
    pub(super) challenges: Challenges,
}

/// The chain and its key, and the same as the text that is kept.
pub(super) struct Obtained {
    pub(super) kept: KeptCertificate,
    pub(super) pem: String,
}

/// The roots that the authority's own certificate is checked with. Blocks on the disk.
pub(super) fn roots(settings: &AcmeSettings) -> Result<RootCertStore, AcmeFault> {
    let mut store = RootCertStore::empty();
    let Some(path) = &settings.roots else {
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let cure = "install the package ca-certificates, or name the authority's root with --acme-ca";
        return if store.is_empty() {
            Err(AcmeFault::local("the system has no roots of trust", cure))
        } else {
            Ok(store)
        };
    };
    let cure = "name a PEM file that this user may read with --acme-ca, with the root of the authority's own TLS";
    let fault = |why: &str| AcmeFault::local(&format!("the file {} of --acme-ca {why}", path.display()), cure);
    let pem = watched::read(path, TLS_FILE_BYTES_MAX).map_err(|why| fault(&why))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    store.add_parsable_certificates(found.map_err(|error| fault(&format!("is no PEM: {error}")))?);
    if store.is_empty() { Err(fault("holds no certificate")) } else { Ok(store) }
}

impl Job {
    /// Nothing is kept of it; `asked` gets the authority's wish to wait.
    pub(super) async fn run(&self, asked: &Asked) -> Result<Obtained, AcmeFault> {
        self.folder.probe().map_err(|error| {
            AcmeFault::local(&format!("the certificate could not be kept, so none is ordered: {error}"), FOLDER_CURE)
        })?;
        let account = self.account(asked).await?;
        let names: Vec<Identifier> = self.settings.domains.iter().cloned().map(Identifier::Dns).collect();
        let order = account.new_order(&NewOrder::new(&names)).await;
        let mut order = order.map_err(|error| AcmeFault::of("the order", &error))?;
        self.prove(&mut order).await?;
        match order.poll_ready(&POLLS).await {
            Ok(OrderStatus::Ready) => {}
            Ok(_) => {
                return Err(unproved(&mut order).await.unwrap_or_else(|| AcmeFault::unproved("the order is invalid")));
            }
            Err(error) => {
                let why = AcmeFault::of("the check of the names", &error);
                return Err(unproved(&mut order).await.unwrap_or(why));
            }
        }
        self.collect(&mut order).await
    }

    fn https(&self, asked: &Asked) -> Result<Box<Https>, AcmeFault> {
        let https = Https::new(roots(&self.settings)?, asked.clone());
        https.map(Box::new).map_err(|error| AcmeFault::local(&format!("no TLS client: {error}"), RANDOM_CURE))
    }

    /// The account that is kept, where the authority still knows it; otherwise a new one.
    async fn account(&self, asked: &Asked) -> Result<Account, AcmeFault> {
        if let Some(kept) = self.folder.account() {
            match Account::builder_with_http(self.https(asked)?).from_credentials(kept).await {
                Ok(account) if self.is_known(&account).await? => return Ok(account),
                Ok(_) | Err(Error::KeyRejected) => {
                    tracing::warn!("the ACME account that is kept is of no use: a new one is opened");
                }
                Err(error) => return Err(AcmeFault::of("the directory", &error)),
            }
        }
        let contact = self.settings.contact.as_ref().map(|mail| format!("mailto:{mail}"));
        let contact: Vec<&str> = contact.as_deref().into_iter().collect();
        let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let builder = Account::builder_with_http(self.https(asked)?);
        let made = builder.create(&new, self.settings.directory.clone(), None).await;
        let (account, credentials) = made.map_err(|error| AcmeFault::of("the new account", &error))?;
        self.folder
            .keep_account(&credentials)
            .map_err(|error| AcmeFault::local(&format!("the new account cannot be kept: {error}"), FOLDER_CURE))?;
        Ok(account)
    }

    /// Sets the contact as it is now, which only an account that the authority knows can have set.
    async fn is_known(&self, account: &Account) -> Result<bool, AcmeFault> {
        let contact = self.settings.contact.as_ref().map(|mail| format!("mailto:{mail}"));
        let contact: Vec<&str> = contact.as_deref().into_iter().collect();
        match account.update_contacts(&contact).await {
            Ok(()) => Ok(true),
            // RFC 8555 section 7.3.1 and 7.3.6.
            Err(Error::Api(problem))
                if matches!(problem.status, Some(400 | 401 | 403 | 404)) && is_of_account(&problem) =>
            {
                Ok(false)
            }
            Err(error) => Err(AcmeFault::of("the account", &error)),
        }
    }

    async fn prove(&self, order: &mut Order) -> Result<(), AcmeFault> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(|error| AcmeFault::of("an authorization", &error))?;
            let Identifier::Dns(name) = authorization.identifier().identifier.clone() else {
                return Err(AcmeFault::senseless("the authority wants something proved that is no name"));
            };
            let name = name.to_ascii_lowercase();
            if !self.settings.domains.contains(&name) {
                return Err(AcmeFault::senseless(&format!(
                    "the authority wants {name:?} proved, which was not ordered"
                )));
            }
            match authorization.status {
                AuthorizationStatus::Valid => continue,
                AuthorizationStatus::Pending => {}
                status => return Err(AcmeFault::unproved(&format!("the authorization of {name} is {status:?}"))),
            }
            let Some(mut challenge) = authorization.challenge(ChallengeType::TlsAlpn01) else {
                return Err(AcmeFault::senseless(&format!("the authority offers no tls-alpn-01 for {name}")));
            };
            let digest = challenge.key_authorization().digest();
            let digest = digest.as_ref().try_into().map_err(|_| AcmeFault::senseless("a digest of a wrong length"))?;
            let added = self.challenges.add(&name, digest);
            added.map_err(|error| AcmeFault::local(&format!("no certificate could be made: {error}"), RANDOM_CURE))?;
            let ready = challenge.set_ready().await;
            ready.map_err(|error| AcmeFault::of(&format!("the check of {name}"), &error))?;
        }
        Ok(())
    }

    /// RFC 8555 section 7.4: from the proved names to the certificate, under a key that is new.
    async fn collect(&self, order: &mut Order) -> Result<Obtained, AcmeFault> {
        let local = |error: rcgen::Error| {
            AcmeFault::local(&format!("no request for a certificate could be made: {error}"), RANDOM_CURE)
        };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(local)?;
        let mut params = CertificateParams::new(self.settings.domains.clone()).map_err(local)?;
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&key).map_err(local)?;
        let finalized = order.finalize_csr(request.der()).await;
        finalized.map_err(|error| AcmeFault::of("the request for the certificate", &error))?;
        let chain = order.poll_certificate(&POLLS).await;
        let mut pem = chain.map_err(|error| AcmeFault::of("the certificate", &error))?;
        if pem.contains("PRIVATE KEY") {
            return Err(AcmeFault::senseless("the authority's certificate comes with a key"));
        }
        if !pem.ends_with('\n') {
            pem.push('\n');
        }
        pem += &key.serialize_pem();
        let kept = KeptCertificate::read(pem.as_bytes(), &self.settings.domains)
            .map_err(|why| AcmeFault::senseless(&format!("the authority's answer {why}")))?;
        if kept.validity.ends <= clock::wall() {
            return Err(AcmeFault::local(
                "the certificate that was just made has ended by this machine's clock",
                "set the clock of this machine; if it is right, the authority's is wrong",
            ));
        }
        Ok(Obtained { kept, pem })
    }
}

fn is_of_account(problem: &instant_acme::Problem) -> bool {
    let kind = problem.r#type.as_deref().unwrap_or_default();
    ["accountDoesNotExist", "unauthorized", "malformed"].iter().any(|name| kind.ends_with(name))
}

/// What the authority found wrong with the first name that it could not check.
async fn unproved(order: &mut Order) -> Option<AcmeFault> {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else { continue };
        let Identifier::Dns(name) = state.identifier().identifier.clone() else { continue };
        let found = state.challenges.iter().find_map(|challenge| challenge.error.clone());
        if let Some(problem) = found {
            return Some(AcmeFault::of(&format!("the check of {name}"), &Error::Api(problem)));
        }
    }
    None
}
