//! The settings of webhooks, and of the names under which the operator's listener answers.

use std::path::PathBuf;

use hyper::Uri;

use super::error::ConfigError;
use super::source::SettingSources;
use crate::base::limits::{NAME_BYTES_MAX, WEBHOOKS_MAX};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HookConfig {
    /// At least one; each is http or https and has a host.
    pub urls: Vec<Uri>,
    pub secret: PathBuf,
    pub ca: Option<PathBuf>,
}

fn wrong<T>(why: &str, right: &str) -> Result<T, (String, String)> {
    Err((why.to_owned(), right.to_owned()))
}

fn url(text: &str) -> Result<Uri, (String, String)> {
    const RIGHT: &str = "http:// or https://, a host, and a path: https://hooks.example/weirgate";
    let Ok(uri) = text.parse::<Uri>() else { return wrong("it is no URL", RIGHT) };
    match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(authority)) if !authority.host().is_empty() => {
            if authority.as_str().contains('@') {
                return wrong("it names a user, whom nobody asks for: what it is told is signed", RIGHT);
            }
            Ok(uri)
        }
        _ => wrong("its scheme is neither http nor https, or it has no host", RIGHT),
    }
}

/// A host name in small letters.
fn host(text: &str) -> Result<String, (String, String)> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.bytes().all(fine) {
        return wrong("it is no host name", "a name without scheme and port, as admin.example");
    }
    Ok(text.to_ascii_lowercase())
}

impl SettingSources<'_> {
    pub(super) fn admin_hosts(&self) -> Result<Vec<String>, ConfigError> {
        self.many("admin-host", &[])?.iter().map(|given| given.parse_with(host)).collect()
    }

    pub(super) fn webhooks(&self) -> Result<Option<HookConfig>, ConfigError> {
        let given = self.many("webhook", &[])?;
        let (secret, ca) = (self.path("webhook-secret")?, self.path("webhook-ca")?);
        let Some(first) = given.first() else {
            let stray = secret.or(ca).map(|(given, _)| given.wrong("nobody is told anything", "--webhook as well"));
            return stray.map_or(Ok(None), Err);
        };
        let Some((_, secret)) = secret else {
            return Err(first.wrong("what it is told would not be signed", "--webhook-secret as well"));
        };
        let mut urls = Vec::new();
        for given in &given {
            let url = given.parse_with(url)?;
            if urls.contains(&url) {
                return Err(given.wrong("it is given twice", "each URL once"));
            }
            if urls.len() == WEBHOOKS_MAX {
                return Err(given.wrong("there are too many", &format!("at most {WEBHOOKS_MAX} webhooks")));
            }
            urls.push(url);
        }
        Ok(Some(HookConfig { urls, secret, ca: ca.map(|(_, path)| path) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_has_a_scheme_and_a_host_and_no_user() {
        for fine in ["http://localhost:8080", "https://hooks.example/a?b=c", "https://[::1]:9/"] {
            assert_eq!(url(fine).unwrap(), fine.parse::<Uri>().unwrap());
        }
        for bad in ["", "hooks.example", "/path", "ftp://hooks.example", "https://", "https://user:word@hooks.example/"]
        {
            assert!(url(bad).is_err(), "{bad}");
        }
        assert_eq!(host("Admin.Example"), Ok("admin.example".to_owned()));
        assert!(["", "http://a", "a:1", "a b"].iter().all(|bad| host(bad).is_err()));
    }
}
