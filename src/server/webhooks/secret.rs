//! The secrets of webhooks, and their signatures as Standard Webhooks has them (version 1): HMAC-SHA256 over the id, the
//! time of the attempt and the body. Several secrets sign together, so that one can follow another.

use std::fmt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac::{self, HMAC_SHA256, Key};

use crate::base::limits::WEBHOOK_SECRETS_MAX;
use crate::server::watched;

const PREFIX: &str = "whsec_";
/// Of a secret, decoded.
const BYTES: std::ops::RangeInclusive<usize> = 24..=64;
const FILE_BYTES_MAX: u64 = 4 * 1024;

/// What is wrong with the settings of webhooks, and what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WebhookFault {
    pub what: String,
    pub cure: String,
}

impl WebhookFault {
    pub(super) fn new(what: impl Into<String>, cure: &str) -> WebhookFault {
        WebhookFault { what: what.into(), cure: cure.to_owned() }
    }
}

impl fmt::Display for WebhookFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.cure)
    }
}

pub(super) struct Secrets(Vec<Key>);

impl Secrets {
    /// Blocks on the disk.
    pub(super) fn load(path: &Path) -> Result<Secrets, WebhookFault> {
        let text = watched::read(path, FILE_BYTES_MAX).map_err(|why| {
            let what = format!("the file {} of --webhook-secret {why}", path.display());
            WebhookFault::new(what, "name a file that this user may read with --webhook-secret")
        })?;
        Secrets::parse(&String::from_utf8_lossy(&text)).map_err(|why| {
            let what = format!("the file {} of --webhook-secret {why}", path.display());
            let cure = "write one secret a line: printf 'whsec_%s\\n' \"$(openssl rand -base64 32)\" > FILE";
            WebhookFault::new(what, cure)
        })
    }

    fn parse(text: &str) -> Result<Secrets, String> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let mut keys = Vec::new();
        for line in lines {
            let encoded = line.strip_prefix(PREFIX).ok_or(format!("has a line that does not begin with {PREFIX}"))?;
            let secret = STANDARD.decode(encoded).map_err(|_| format!("has no base64 behind {PREFIX}"))?;
            if !BYTES.contains(&secret.len()) {
                return Err(format!(
                    "has a secret of {} bytes, not {} to {}",
                    secret.len(),
                    BYTES.start(),
                    BYTES.end()
                ));
            }
            if keys.len() == WEBHOOK_SECRETS_MAX {
                return Err(format!("has more than {WEBHOOK_SECRETS_MAX} secrets"));
            }
            keys.push(Key::new(HMAC_SHA256, &secret));
        }
        if keys.is_empty() { Err("holds no secret".to_owned()) } else { Ok(Secrets(keys)) }
    }

    /// The value of `webhook-signature`.
    pub(super) fn sign(&self, id: &str, timestamp: u64, body: &str) -> String {
        let signed = format!("{id}.{timestamp}.{body}");
        let one = |key: &Key| format!("v1,{}", STANDARD.encode(hmac::sign(key, signed.as_bytes())));
        self.0.iter().map(one).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standards_own_example_is_signed_as_it_says() {
        let secrets = Secrets::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
        let body = "{\"test\": 2432232314}";
        let signed = secrets.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn two_secrets_sign_together_and_what_is_none_is_named() {
        let one = format!("whsec_{}", STANDARD.encode([1; 24]));
        let two = format!("# the new one\n\n  {one}\nwhsec_{}\n", STANDARD.encode([2; 64]));
        assert_eq!(Secrets::parse(&two).unwrap().sign("a", 1, "b").split(' ').count(), 2);
        let short = format!("whsec_{}", STANDARD.encode([1; 23]));
        let many = format!("{one}\n").repeat(WEBHOOK_SECRETS_MAX + 1);
        for bad in ["", "# nothing", "secret", "whsec_%%%", &short, &many] {
            assert!(Secrets::parse(bad).is_err(), "{bad}");
        }
    }
}
