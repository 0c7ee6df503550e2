//! What the operator says about certificates by ACME.

use std::path::PathBuf;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AcmeSettings {
    /// In lower case, no two alike, at least one: one certificate names them all.
    pub domains: Vec<String>,
    /// The mail address that the authority may write to.
    pub contact: Option<String>,
    /// Account and certificate are kept there.
    pub folder: PathBuf,
    /// An https URL.
    pub directory: String,
    /// PEM, the roots that the directory's own certificate is checked with; None: those of the system.
    pub roots: Option<PathBuf>,
}
