//! A wrong configuration, in words: the setting, the fault, and the right form.

use std::fmt;

#[derive(Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// The command line does not parse; the text is the whole message.
    Usage(String),
    /// A setting has a value that cannot be used.
    Wrong {
        /// `--listen`, `WEIRGATE_LISTEN` or "key `listen` of /etc/weirgate.toml".
        place: String,
        value: String,
        why: String,
        right: String,
    },
    /// The file cannot be read, or is no TOML.
    File { path: String, why: String, cure: String },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::Usage(text) => f.write_str(text.trim_end()),
            ConfigError::Wrong { place, value, why, right } => {
                write!(f, "error: {place} has a wrong value: {value:?}\n  why:   {why}\n  right: {right}")
            }
            ConfigError::File { path, why, cure } => {
                write!(f, "error: the configuration file {path} cannot be used\n  why:  {why}\n  cure: {cure}")
            }
        }
    }
}

impl std::error::Error for ConfigError {}
