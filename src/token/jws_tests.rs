use ring::hmac;
use serde_json::json;

use super::super::fixture::{ED, ED_PUBLIC, NOW, RSA, RSA_PUBLIC, SECRET, claims, hs256, keys, signed};
use super::*;
use crate::token::TokenKeys;

fn encoded(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// Signed with the secret, whatever the parts are.
fn sealed(header: &str, payload: &str) -> String {
    let message = format!("{header}.{payload}");
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn verdict(token: &str) -> Result<(), TokenFault> {
    keys(&[SECRET]).verify(token, NOW, 0).map(|_| ())
}

fn with_header(header: &str) -> Result<(), TokenFault> {
    verdict(&sealed(&encoded(header), &encoded(&claims().to_string())))
}

#[test]
fn each_algorithm_opens_with_its_own_key_and_with_no_other() {
    let all = keys(&[SECRET, RSA_PUBLIC, ED_PUBLIC]);
    for (signer, alg, public) in [(SECRET, "HS256", SECRET), (RSA, "RS256", RSA_PUBLIC), (ED, "EdDSA", ED_PUBLIC)] {
        let token = signed(signer, &json!({ "alg": alg, "typ": "jwt", "kid": "any" }), &claims());
        assert!(all.verify(&token, NOW, 0).is_ok() && keys(&[public]).verify(&token, NOW, 0).is_ok(), "{alg}");
        for other in [SECRET, RSA_PUBLIC, ED_PUBLIC].iter().filter(|other| **other != public) {
            assert_eq!(keys(&[other]).verify(&token, NOW, 0), Err(TokenFault::NoKey), "{alg}");
        }
        // A signature of one algorithm under the name of another.
        for other in ["HS256", "RS256", "EdDSA"].iter().filter(|other| **other != alg) {
            let token = signed(signer, &json!({ "alg": other }), &claims());
            assert_eq!(all.verify(&token, NOW, 0), Err(TokenFault::Signature), "{alg} as {other}");
        }
    }
    let secret = b"another secret of more than 32 bytes, for tests";
    assert_eq!(keys(&[secret]).verify(&hs256(&claims()), NOW, 0), Err(TokenFault::Signature));
    assert_eq!(TokenKeys::default().verify(&hs256(&claims()), NOW, 0), Err(TokenFault::NoKey));
}

/// RFC 8725 sections 2.1 and 3.1.
#[test]
fn a_token_does_not_choose_how_it_is_checked() {
    for alg in ["none", "None", "NONE", "nOnE", "", "HS512", "hs256", "RS256", "ES256"] {
        let header = json!({ "alg": alg }).to_string();
        assert_eq!(with_header(&header), Err(TokenFault::NoKey), "{alg}");
        let unsigned = format!("{}.{}.", encoded(&header), encoded(&claims().to_string()));
        assert_eq!(verdict(&unsigned), Err(TokenFault::NoKey), "{alg}");
    }
    // The text of a public key is no secret: whoever has it cannot sign with it, in whatever form.
    let spki = x509_parser::pem::Pem::iter_from_buffer(RSA_PUBLIC).next().unwrap().unwrap().contents;
    let public = keys(&[RSA_PUBLIC]);
    for secret in [RSA_PUBLIC, RSA_PUBLIC.trim_ascii(), &spki] {
        for alg in ["HS256", "RS256"] {
            let message = format!("{}.{}", encoded(&json!({ "alg": alg }).to_string()), encoded(&claims().to_string()));
            let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
            let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature));
            assert!(public.verify(&token, NOW, 0).is_err(), "{alg}");
        }
    }
}

#[test]
fn what_a_header_brings_or_asks_for_is_refused_by_its_name() {
    assert_eq!(with_header(r#"{"alg":"HS256"}"#), Ok(()));
    assert_eq!(with_header(r#"{"alg":"HS256","x5t":"AA","cty":"x"}"#), Ok(()), "names that change nothing");
    for field in [
        r#""crit":["exp"]"#,
        r#""crit":[]"#,
        r#""b64":false"#,
        r#""b64":true"#,
        r#""jwk":{"kty":"oct","k":"YWFhYQ"}"#,
        r#""jku":"https://example.com/keys""#,
        r#""x5u":"https://example.com/cert""#,
        r#""x5c":["MIIB"]"#,
        r#""zip":"DEF""#,
        r#""typ":"at+jwt""#,
        r#""typ":7"#,
        r#""kid":7"#,
        r#""kid":["a"]"#,
        r#""kid":null"#,
    ] {
        let refused = with_header(&format!(r#"{{"alg":"HS256",{field}}}"#));
        assert!(matches!(refused, Err(TokenFault::HeaderField(_))), "{field}: {refused:?}");
    }
    for header in [
        "",
        "[]",
        "HS256",
        "{}",
        r#"{"alg":null}"#,
        r#"{"alg":["HS256"]}"#,
        r#"{"alg":"HS256","alg":"none"}"#,
        r#"{"alg":"none","\u0061lg":"HS256"}"#,
        r#"{"alg":"HS256"} "x""#,
    ] {
        assert_eq!(with_header(header), Err(TokenFault::Header), "{header}");
    }
    let deep = format!(r#"{{"alg":"HS256","x":{}{}}}"#, "[".repeat(999), "]".repeat(999));
    assert_eq!(with_header(&deep), Err(TokenFault::Header));
}

#[test]
fn a_kid_names_one_of_our_keys_and_nothing_else() {
    let jwk = |kid: &str, secret: &[u8]| json!({ "kty": "oct", "kid": kid, "k": URL_SAFE_NO_PAD.encode(secret) });
    let other = b"another secret of more than 32 bytes, for tests";
    let set = json!({ "keys": [jwk("a", SECRET), jwk("b", other)] }).to_string();
    let keys = keys(&[set.as_bytes()]);
    let verdict = |header: serde_json::Value| keys.verify(&signed(SECRET, &header, &claims()), NOW, 0).map(|_| ());
    assert_eq!(verdict(json!({ "alg": "HS256", "kid": "a" })), Ok(()));
    assert_eq!(verdict(json!({ "alg": "HS256" })), Ok(()), "without one, each is tried");
    assert_eq!(verdict(json!({ "alg": "HS256", "kid": "b" })), Err(TokenFault::Signature));
    for kid in ["", "A", "a\0", "../../dev/null", "' OR 1=1 --", "a,b", "*"] {
        assert_eq!(verdict(json!({ "alg": "HS256", "kid": kid })), Err(TokenFault::NoKey), "{kid}");
    }
}

#[test]
fn one_token_has_one_spelling() {
    let token = hs256(&claims());
    assert_eq!(verdict(&token), Ok(()));
    let [header, payload, signature] = [0, 1, 2].map(|part| token.split('.').nth(part).unwrap());
    for wrong in [
        String::new(),
        "..".to_owned(),
        format!("{header}.{payload}"),
        format!("{header}.{payload}.{signature}."),
        format!("{token}.{signature}"),
        format!(" {token}"),
        format!("{token}\n"),
        format!("{header}. {payload}.{signature}"),
        format!("{header}.{payload}.{signature}="),
        format!("{header}=.{payload}.{signature}"),
        format!("{header}.{payload}.{signature}A"),
        format!("{}.{payload}.{signature}", header.replace('e', "+")),
        format!("{header}.{payload}.{}", "é".repeat(20)),
    ] {
        assert!(
            matches!(verdict(&wrong), Err(TokenFault::Form | TokenFault::Header | TokenFault::Signature)),
            "{wrong}: {:?}",
            verdict(&wrong)
        );
    }
    // 32 bytes are 43 characters; the last has two bits that mean nothing and have to be 0.
    assert_eq!(signature.len(), 43);
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let last = ALPHABET.find(&signature[42..]).unwrap();
    for bits in 1..4 {
        let other = &ALPHABET[last + bits..=last + bits];
        assert_eq!(verdict(&format!("{header}.{payload}.{}{other}", &signature[..42])), Err(TokenFault::Form));
    }
    // The JSON of a flattened JWS, and the five parts of a JWE.
    let flattened = json!({ "protected": header, "payload": payload, "signature": signature }).to_string();
    assert_eq!(verdict(&flattened), Err(TokenFault::Form));
    assert_eq!(verdict(&format!("{header}.a.{payload}.b.{signature}")), Err(TokenFault::Form));
    // Each byte counts.
    for at in (0..token.len()).step_by(7) {
        let mut bytes = token.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        assert!(verdict(&String::from_utf8(bytes).unwrap()).is_err(), "{at}");
    }
}

#[test]
fn a_long_token_is_not_looked_at() {
    let long = super::super::fixture::claims_with("padding", json!("x".repeat(5_900)));
    let token = hs256(&long);
    assert!(token.len() > 7_000 && token.len() <= TOKEN_BYTES_MAX);
    assert_eq!(verdict(&token), Ok(()));
    let long = super::super::fixture::claims_with("padding", json!("x".repeat(6_100)));
    assert_eq!(verdict(&hs256(&long)), Err(TokenFault::TooLong));
}

/// RFC 7515 appendix A.2 and RFC 8037 appendix A.4: made by others, with their keys.
#[test]
fn signatures_of_the_standards_are_right() {
    let rsa = json!({ "kty": "RSA", "e": "AQAB", "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddx\
        HmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-\
        bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7a\
        GhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ" });
    let signed = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19\
        yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujG\
        bds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383\
        LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrB\
        p0igcN_IoypGlUPQGe77Rw";
    let key = |jwk: serde_json::Value| TokenKeys::read([("a set", jwk.to_string().as_bytes())]).unwrap();
    let opened = |jwk: serde_json::Value, token: &str| key(jwk).verify(token, 0, 0);
    // The signature is right; what the token says is not enough for us.
    assert!(matches!(opened(rsa, signed), Err(TokenFault::Claim(_))));
    let ed = json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" });
    let signed = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6\
        dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    assert_eq!(opened(ed, signed).map(|_| ()), Err(TokenFault::Payload));
}
