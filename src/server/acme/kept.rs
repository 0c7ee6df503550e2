//! The folder in which account and certificate are kept. A file is replaced as a whole, or not; what cannot be used is
//! as good as absent. Chain and key are one file, so that no crash parts them.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use instant_acme::AccountCredentials;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::fault::AcmeFault;
use crate::base::limits::{ACME_BODY_BYTES_MAX, TLS_FILE_BYTES_MAX};
use crate::server::in_use::{Validity, certified};
use crate::server::watched;

const FOLDER_CURE: &str = "give --acme-dir a folder that this user may write to and nobody else";

/// A certificate that can be presented.
pub(super) struct KeptCertificate {
    pub(super) certified: CertifiedKey,
    pub(super) validity: Validity,
}

impl KeptCertificate {
    /// Reads chain and key out of one PEM text. Err: what is wrong with it. It names all of these.
    pub(super) fn read(pem: &[u8], domains: &[String]) -> Result<KeptCertificate, String> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let chain = chain.map_err(|error| format!("is no PEM: {error}"))?;
        let first = chain.first().ok_or("holds no certificate")?;
        let validity = Validity::of(first).ok_or("holds a certificate that cannot be read")?;
        if let Some(missing) = domains.iter().find(|name| !names(first, name)) {
            return Err(format!("holds a certificate that does not name {missing}"));
        }
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(|error| format!("holds no private key: {error}"))?;
        let certified = certified(chain, key).map_err(|error| format!("cannot be used: {error}"))?;
        Ok(KeptCertificate { certified, validity })
    }
}

fn names(certificate: &CertificateDer<'_>, domain: &str) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return false };
    let is_it = |name: &GeneralName| matches!(name, GeneralName::DNSName(name) if name.eq_ignore_ascii_case(domain));
    names.value.general_names.iter().any(is_it)
}

#[derive(Clone)]
pub(super) struct Folder {
    path: PathBuf,
    /// Of the authority: another one has other files.
    id: String,
    directory: String,
}

impl Folder {
    /// Makes it where it is missing, and sees that it can be written to.
    pub(super) fn open(path: &Path, directory: &str) -> Result<Folder, AcmeFault> {
        let folder = Folder { path: path.to_owned(), id: id(directory), directory: directory.to_owned() };
        let shown = path.display();
        let fault = |error: io::Error| {
            AcmeFault::local(&format!("the folder {shown} of --acme-dir cannot be used: {error}"), FOLDER_CURE)
        };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(fault)?;
        if fs::metadata(path).map_err(fault)?.mode() & 0o022 != 0 {
            let what = format!("the folder {shown} of --acme-dir can be written to by others");
            return Err(AcmeFault::local(
                &what,
                "take that right away (chmod go-w), or give --acme-dir another folder",
            ));
        }
        folder.probe().map_err(fault)?;
        Ok(folder)
    }

    /// Whether a certificate would be kept: one that is not is ordered again at each start, until the authority's limit.
    pub(super) fn probe(&self) -> io::Result<()> {
        let path = self.path.join(format!("probe-{}", self.id));
        self.write(&path, b"")?;
        fs::remove_file(path)
    }

    fn account_path(&self) -> PathBuf {
        self.path.join(format!("account-{}.json", self.id))
    }

    fn certificate_path(&self) -> PathBuf {
        self.path.join(format!("certificate-{}.pem", self.id))
    }

    pub(super) fn account(&self) -> Option<AccountCredentials> {
        let path = self.account_path();
        let read = self.read(&path, ACME_BODY_BYTES_MAX as u64)?;
        let account = read.and_then(|bytes| self.read_account(&bytes));
        account.map_err(|why| warn(&path, &why, "a new account is opened")).ok()
    }

    fn read_account(&self, bytes: &[u8]) -> Result<AccountCredentials, String> {
        let none = |error: serde_json::Error| format!("holds no account: {error}");
        let account: Value = serde_json::from_slice(bytes).map_err(none)?;
        if account["directory"] != self.directory {
            return Err("holds an account of another directory".to_owned());
        }
        serde_json::from_value(account).map_err(none)
    }

    pub(super) fn keep_account(&self, account: &AccountCredentials) -> io::Result<()> {
        self.write(&self.account_path(), &serde_json::to_vec(account)?)
    }

    /// None: there is none that can be used for these.
    pub(super) fn certificate(&self, domains: &[String]) -> Option<KeptCertificate> {
        let path = self.certificate_path();
        let read = self.read(&path, TLS_FILE_BYTES_MAX)?;
        let kept = read.and_then(|pem| KeptCertificate::read(&pem, domains));
        kept.map_err(|why| warn(&path, &why, "another certificate is ordered")).ok()
    }

    pub(super) fn keep_certificate(&self, pem: &str) -> io::Result<()> {
        self.write(&self.certificate_path(), pem.as_bytes())
    }

    /// None: it is not there.
    fn read(&self, path: &Path, max: u64) -> Option<Result<Vec<u8>, String>> {
        path.symlink_metadata().is_ok().then(|| watched::read(path, max))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let new = path.with_extension("new");
        // What a crash has left.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(&self.path)?.sync_all()
    }
}

fn warn(path: &Path, why: &str, consequence: &str) {
    tracing::warn!("the file {} {why}: {consequence}", path.display());
}

/// The host of the directory, for people, and part of a hash of its URL.
fn id(directory: &str) -> String {
    let host = directory.split("://").nth(1).and_then(|rest| rest.split(['/', ':', '?']).next()).unwrap_or_default();
    let host: String = host.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.')).take(64).collect();
    let hash = Sha256::digest(directory.as_bytes());
    let hash: String = hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("{host}-{hash}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIRECTORY: &str = "https://ca.example:14000/dir";

    struct Temporary(PathBuf);

    impl Temporary {
        fn new(name: &str) -> Temporary {
            let path = std::env::temp_dir().join(format!("weirgate-kept-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Temporary(path)
        }

        fn open(&self) -> Folder {
            Folder::open(&self.0, DIRECTORY).unwrap()
        }
    }

    impl Drop for Temporary {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn pem(name: &str) -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_file_is_for_its_owner_alone_and_replaced_as_a_whole() {
        let temporary = Temporary::new("modes");
        let folder = temporary.open();
        assert_eq!(mode(&temporary.0), 0o700);
        let (certificate, key) = pem("a.example");
        let path = folder.certificate_path();
        // What a crash in the middle of a write leaves.
        fs::write(path.with_extension("new"), "half").unwrap();
        folder.keep_certificate(&(certificate + &key)).unwrap();
        assert_eq!(mode(&path), 0o600);
        let left: Vec<_> = fs::read_dir(&temporary.0).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, [path]);
        assert!(folder.certificate(&["a.example".to_owned()]).is_some());
        assert!(folder.certificate(&["A.example".to_owned(), "b.example".to_owned()]).is_none(), "another name is new");
        let other = Folder::open(&temporary.0, "https://ca.example:14000/other").unwrap();
        assert!(other.certificate(&["a.example".to_owned()]).is_none(), "it is of another authority");
    }

    #[test]
    fn what_cannot_be_used_is_as_good_as_absent() {
        let temporary = Temporary::new("broken");
        let folder = temporary.open();
        let domains = ["a.example".to_owned()];
        assert!(folder.certificate(&domains).is_none() && folder.account().is_none());
        let ((certificate, key), (_, other)) = (pem("a.example"), pem("a.example"));
        let whole = certificate.clone() + &key;
        assert!(KeptCertificate::read(whole.as_bytes(), &domains).is_ok());
        for (broken, why) in [
            (String::new(), "holds no certificate"),
            (key.clone(), "holds no certificate"),
            (certificate.clone(), "holds no private key"),
            (certificate.clone() + &other, "cannot be used"),
            (pem("b.example").0 + &key, "does not name a.example"),
            (whole.replace("MII", "!!!"), "is no PEM"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned() + &key, "cannot be read"),
        ] {
            let fault = KeptCertificate::read(broken.as_bytes(), &domains).err().unwrap();
            assert!(fault.contains(why), "{why}: {fault}");
            folder.keep_certificate(&broken).unwrap();
            assert!(folder.certificate(&domains).is_none());
        }
        for end in 0..whole.len() {
            // Its last line break may go.
            let read = KeptCertificate::read(&whole.as_bytes()[..end], &domains);
            assert!(read.is_err() || end + 2 >= whole.len(), "{end} of {}", whole.len());
        }
        for broken in ["", "{", "[]", "{\"id\":1}", "{\"id\":\"a\",\"key_pkcs8\":\"!\",\"directory\":\"d\"}"] {
            fs::write(folder.account_path(), broken).unwrap();
            assert!(folder.account().is_none(), "{broken}");
        }
        fs::write(folder.account_path(), "x".repeat(ACME_BODY_BYTES_MAX + 1)).unwrap();
        assert!(folder.account().is_none());
    }

    #[test]
    fn a_folder_that_others_write_to_or_that_is_none_is_refused() {
        let temporary = Temporary::new("others");
        temporary.open();
        fs::set_permissions(&temporary.0, fs::Permissions::from_mode(0o770)).unwrap();
        let fault = Folder::open(&temporary.0, DIRECTORY).err().unwrap();
        assert!(fault.what.contains("by others") && fault.cure.contains("chmod"), "{fault}");
        fs::set_permissions(&temporary.0, fs::Permissions::from_mode(0o755)).unwrap();
        let file = temporary.0.join("file");
        fs::write(&file, "").unwrap();
        assert!(Folder::open(&file, DIRECTORY).err().unwrap().what.contains("cannot be used"));
        temporary.open();
    }

    #[test]
    fn a_name_of_a_file_holds_no_path() {
        assert!(id(DIRECTORY).starts_with("ca.example-"));
        for directory in ["https://../../etc/passwd", "https://a/b", "", "https://[::1]:1/x"] {
            assert!(!id(directory).contains('/'), "{directory}");
        }
    }
}
