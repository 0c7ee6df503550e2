//! `weirgate token`: a token for trying, on stdout and nothing else there.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Parser;
use ring::rand::SystemRandom;
use serde_json::{Map, Value, json};
use weirgate::signal::{Grants, is_name};
use weirgate::token::{Signer, TokenOrder};

const EXAMPLES: &str = "\
Examples:
  weirgate token --key secret.txt --user anna --channel lobby
      for an hour, to join, publish and subscribe
  weirgate token --key secret.txt --user berta --channel lobby --grant join,publish,subscribe,moderate
      the same, and to moderate: the rights that are named are all
  weirgate token --key ed25519.pem --user anna --channel 'school-*' --ttl 600 --grant join,subscribe
      for ten minutes, to listen in any channel that begins so

Whoever has the token is that user: it is for trying, and applications make their own.

Exit code: 0, 1 when the key is of no use, 2 when an option is wrong.";

/// Makes a JSON Web Token for a server that runs with --auth token, and has the public half of the key or the same
/// secret.
#[derive(Parser, Debug)]
#[command(name = "weirgate token", bin_name = "weirgate token", after_help = EXAMPLES, max_term_width = 110)]
struct Options {
    /// What signs it: a private key in PEM (RSA: RS256, Ed25519: EdDSA), or a secret of at least 32 bytes (HS256)
    #[arg(long, value_name = "FILE")]
    key: PathBuf,

    /// The user id that others are shown
    #[arg(long, value_name = "NAME")]
    user: String,

    /// Where it lets in; * stands for any characters; repeatable. Needed, but for --admin
    #[arg(long, value_name = "NAME", required_unless_present = "admin")]
    channel: Vec<String>,

    /// The display name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// For how many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3_600)]
    ttl: u64,

    /// Rights: join, subscribe, publish, publish:audio, publish:video, publish:source=NAME, moderate, hidden; repeatable
    #[arg(long, value_name = "RIGHT", value_delimiter = ',', default_values = ["join", "publish", "subscribe"])]
    grant: Vec<String>,

    /// An id to revoke it by
    #[arg(long, value_name = "ID")]
    jti: Option<String>,

    /// It lets in once; needs --jti
    #[arg(long, requires = "jti")]
    once: bool,

    /// It may use the admin API on the public listener
    #[arg(long)]
    admin: bool,
}

pub(crate) fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let options = match Options::try_parse_from(args) {
        Ok(options) => options,
        Err(error) => {
            // Help goes to stdout, and a fault to stderr.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    match token(&options) {
        Ok(token) => {
            // A reader that closes the pipe early has read enough.
            let _ = writeln!(std::io::stdout(), "{token}");
            ExitCode::SUCCESS
        }
        Err(Fault { code, text }) => {
            eprintln!("error: {text}");
            ExitCode::from(code)
        }
    }
}

struct Fault {
    code: u8,
    text: String,
}

#[expect(clippy::disallowed_methods, reason = "the program's edge: a token says when it was made")]
fn token(options: &Options) -> Result<String, Fault> {
    let wrong = |text: String| Fault { code: 2, text };
    let broken = |text: String| Fault { code: 1, text };
    let names = std::iter::once(&options.user).chain(&options.channel).chain(&options.name);
    if let Some(bad) = names.into_iter().find(|name| !is_name(name)) {
        return Err(wrong(format!("{bad:?} is no name: 1 to 256 bytes in which something is seen")));
    }
    let grants = grants(&options.grant).map_err(wrong)?;
    let path = options.key.display();
    let bytes =
        std::fs::read(&options.key).map_err(|error| broken(format!("the key {path} cannot be read: {error}")))?;
    let signer = Signer::read(&bytes).map_err(|fault| broken(format!("the key {path} is of no use: {fault}")))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let order = TokenOrder {
        user: options.user.clone(),
        channels: options.channel.clone(),
        name: options.name.clone(),
        grants,
        issued: now,
        expires: now.saturating_add(options.ttl),
        jti: options.jti.clone(),
        once: options.once,
        admin: options.admin,
    };
    signer.token(&order, &SystemRandom::new()).map_err(|fault| broken(format!("the key {path}: {fault}")))
}

/// The claim, from words.
fn grants(words: &[String]) -> Result<Value, String> {
    let (mut grants, mut kinds, mut sources) = (Map::new(), Vec::new(), Vec::new());
    for word in words {
        match word.split_once(':') {
            None if ["join", "subscribe", "publish", "moderate", "hidden"].contains(&word.as_str()) => {
                grants.insert(word.clone(), json!(true));
            }
            Some(("publish", kind @ ("audio" | "video"))) => kinds.push(kind),
            Some(("publish", source)) if source.starts_with("source=") => sources.push(&source["source=".len()..]),
            _ => return Err(format!("--grant {word:?} is no right; --help lists them")),
        }
    }
    let lists = [("kinds", kinds), ("sources", sources)].into_iter().filter(|(_, list)| !list.is_empty());
    let only: Map<String, Value> = lists.map(|(name, list)| (name.to_owned(), json!(list))).collect();
    if !only.is_empty() && grants.insert("publish".to_owned(), Value::Object(only)).is_some() {
        return Err(
            "--grant publish is all of it: leave it out beside publish:audio, publish:video or a source".to_owned()
        );
    }
    let grants = Value::Object(grants);
    Grants::read(&grants).map(|_| grants)
}
