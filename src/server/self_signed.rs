//! A certificate for networks without names in public DNS: made at the start, kept nowhere, and trusted by nobody who
//! is not told to.

use std::time::Duration;

use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, PKCS_ECDSA_P256_SHA256};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::clock;

/// Some clients refuse a certificate that is to last longer than 825 days, whoever trusts it.
const VALID_FOR: Duration = Duration::from_secs(800 * 24 * 3_600);
/// Clocks of a LAN may be behind ours.
const VALID_BEFORE: Duration = Duration::from_secs(24 * 3_600);

/// For these host names and addresses.
pub(super) fn make(names: Vec<String>) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Weirgate");
    let now = clock::wall();
    params.not_before = (now - VALID_BEFORE).into();
    params.not_after = (now + VALID_FOR).into();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params.self_signed(&key)?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
    Ok((certificate.der().clone(), key))
}
