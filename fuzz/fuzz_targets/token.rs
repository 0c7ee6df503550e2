//! Tokens and the files of their keys. The first byte says what the rest is: a token as it came; a header and a payload
//! (a zero byte between them) whose signature is right, so that what is behind it is reached; or a file of keys. Nothing
//! may panic, and what is let in says all that is needed, in one spelling.
#![no_main]

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use ring::hmac;
use weirgate::base::time::Instant;
use weirgate::signal::{EntryMessage, is_name};
use weirgate::token::{Signer, TokenKeys};

const NOW: u64 = 1_800_000_000;
const SECRET: &[u8] = b"a secret of more than 32 bytes, for fuzzing alone";

static KEYS: LazyLock<TokenKeys> = LazyLock::new(|| {
    let files: [(&str, &[u8]); 3] = [
        ("secret", SECRET),
        ("rsa", include_bytes!("../../tests/data/token/rsa.pub.pem")),
        ("ed", include_bytes!("../../tests/data/token/ed.pub.pem")),
    ];
    TokenKeys::read(files).expect("they are keys")
});

fn judge(token: &str) {
    let Ok(claims) = KEYS.verify(token, NOW, 5) else { return };
    assert!(is_name(&claims.user) && claims.expires + 5 > NOW);
    assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)));
    if let Ok(entrance) = claims.entrance("room", NOW, Instant::ZERO, 5) {
        assert!(claims.channels.hold("room") && entrance.expires.is_some_and(|expires| expires > Instant::ZERO));
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&kind, rest)) = input.split_first() else { return };
    match kind % 3 {
        0 => {
            let text = String::from_utf8_lossy(rest);
            judge(&text);
            let _ = EntryMessage::parse(&text);
        }
        1 => {
            let mut parts = rest.splitn(2, |byte| *byte == 0);
            let [header, payload] = [parts.next(), parts.next()].map(|part| URL_SAFE_NO_PAD.encode(part.unwrap_or_default()));
            let message = format!("{header}.{payload}");
            let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), message.as_bytes());
            judge(&format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)));
        }
        _ => {
            if let Ok(keys) = TokenKeys::read([("a file", rest)]) {
                assert!(!keys.is_empty());
                assert!(keys.verify("eyJhbGciOiJIUzI1NiJ9.e30.AA", NOW, 0).is_err());
            }
            let _ = Signer::read(rest);
        }
    }
});
