//! Why an order came to nothing, and what to do.

use std::fmt;

use instant_acme::{Error, Problem};

use super::https::HttpsFault;

/// A label of `weirgate_acme_orders_failed_total`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::server) enum AcmeWhy {
    /// No answer, or none by TLS that is trusted.
    Unreachable,
    /// The authority has a limit, or is busy.
    Limited,
    /// A name was not proved.
    Unproved,
    /// The authority says no.
    Refused,
    /// The answer is none that RFC 8555 has, or its certificate is of no use.
    Senseless,
    /// Something on this machine: the folder, the roots.
    Local,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::server) struct AcmeFault {
    pub(in crate::server) why: AcmeWhy,
    pub(in crate::server) what: String,
    pub(in crate::server) cure: &'static str,
}

/// The authority's words in a log are bounded.
const WORDS_MAX: usize = 600;

const REACH: &str = "see that this machine may open TCP connections to the host of --acme-directory, and that its \
                     certificate is signed by one of the system's roots or of --acme-ca";
const PROVE: &str = "see that each --acme-domain leads to this machine in public DNS, and that TCP port 443 of it comes \
                     to --listen without a TLS proxy between";
const WAIT_CURE: &str = "wait: the next try comes by itself";
const SENSE: &str = "see that --acme-directory is the URL of an ACME directory (RFC 8555)";

impl AcmeWhy {
    pub(in crate::server) const NAMES: [&str; 6] =
        ["unreachable", "limited", "unproved", "refused", "senseless", "local"];

    /// Its place in [`AcmeWhy::NAMES`].
    pub(in crate::server) const fn index(self) -> usize {
        self as usize
    }
}

/// One line, without control characters, of bounded length.
fn words(text: &str) -> String {
    let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    printable.take(WORDS_MAX).collect()
}

impl AcmeFault {
    fn new(why: AcmeWhy, what: &str, cure: &'static str) -> AcmeFault {
        AcmeFault { why, what: words(what), cure }
    }

    pub(super) fn local(what: &str, cure: &'static str) -> AcmeFault {
        AcmeFault::new(AcmeWhy::Local, what, cure)
    }

    pub(super) fn unproved(what: &str) -> AcmeFault {
        AcmeFault::new(AcmeWhy::Unproved, what, PROVE)
    }

    pub(super) fn senseless(what: &str) -> AcmeFault {
        AcmeFault::new(AcmeWhy::Senseless, what, SENSE)
    }

    pub(super) fn silent(what: &str) -> AcmeFault {
        AcmeFault::new(AcmeWhy::Unreachable, what, REACH)
    }

    /// The authority has said when it wants to be asked again.
    pub(super) fn limited(self) -> AcmeFault {
        AcmeFault { why: AcmeWhy::Limited, cure: WAIT_CURE, ..self }
    }

    /// `step`: what was asked.
    pub(super) fn of(step: &str, error: &Error) -> AcmeFault {
        match error {
            Error::Api(problem) => AcmeFault::told(step, problem),
            Error::Other(error) => match error.downcast_ref::<HttpsFault>() {
                Some(fault @ (HttpsFault::Redirect(_) | HttpsFault::NotHttps | HttpsFault::Endless)) => {
                    AcmeFault::senseless(&format!("{step}: {fault}"))
                }
                Some(fault) => AcmeFault::silent(&format!("{step}: {fault}")),
                None => AcmeFault::senseless(&format!("{step}: {error}")),
            },
            Error::Timeout(_) => AcmeFault::silent(&format!("{step}: the authority is not done in time")),
            error => AcmeFault::senseless(&format!("{step}: {error}")),
        }
    }

    /// RFC 8555 section 6.7.
    fn told(step: &str, problem: &Problem) -> AcmeFault {
        let kind = problem.r#type.as_deref().unwrap_or_default();
        let what = format!("{step}: {problem}");
        match kind.strip_prefix("urn:ietf:params:acme:error:").unwrap_or_default() {
            "rateLimited" => AcmeFault::new(AcmeWhy::Limited, &what, WAIT_CURE),
            "serverInternal" | "badNonce" => {
                AcmeFault::new(AcmeWhy::Limited, &what, "wait: the fault is the authority's")
            }
            "connection" | "tls" | "dns" | "unauthorized" | "incorrectResponse" => AcmeFault::unproved(&what),
            "caa" => AcmeFault::new(AcmeWhy::Refused, &what, "let the CAA record of the name allow this authority"),
            "invalidContact" | "unsupportedContact" => {
                AcmeFault::new(AcmeWhy::Refused, &what, "give --acme-contact an address that the authority takes")
            }
            "rejectedIdentifier" | "unsupportedIdentifier" => {
                AcmeFault::new(AcmeWhy::Refused, &what, "leave out the --acme-domain that the authority does not take")
            }
            "externalAccountRequired" => AcmeFault::new(
                AcmeWhy::Refused,
                &what,
                "choose an --acme-directory that needs no external account, or another ACME client with --tls-cert",
            ),
            _ => AcmeFault::new(AcmeWhy::Refused, &what, "see what the authority says"),
        }
    }
}

impl fmt::Display for AcmeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_label() {
        for (why, name) in [
            (AcmeWhy::Unreachable, "unreachable"),
            (AcmeWhy::Limited, "limited"),
            (AcmeWhy::Unproved, "unproved"),
            (AcmeWhy::Refused, "refused"),
            (AcmeWhy::Senseless, "senseless"),
            (AcmeWhy::Local, "local"),
        ] {
            assert_eq!(AcmeWhy::NAMES[why.index()], name);
        }
    }

    #[test]
    fn an_authoritys_words_are_one_short_line() {
        let detail = format!("a\nb\u{1b}[31m{}", "x".repeat(10_000));
        let problem = Problem { r#type: None, detail: Some(detail), status: None, subproblems: vec![] };
        let fault = AcmeFault::of("an order", &Error::Api(problem));
        assert!(fault.what.len() <= WORDS_MAX && !fault.what.contains(char::is_control), "{fault}");
        assert_eq!(fault.why, AcmeWhy::Refused);
    }
}
