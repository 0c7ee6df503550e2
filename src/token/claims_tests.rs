use serde_json::json;

use super::super::fixture::{NOW, SECRET, claims, claims_with, hs256, judged, keys};
use super::*;

#[test]
fn a_token_says_who_where_and_what_for() {
    let all = json!({
        "sub": "anna", "name": "Anna A.", "channel": ["room", "school-*"], "exp": NOW + 60, "nbf": NOW, "iat": NOW,
        "jti": "7", "once": true, "aud": ["else", "weirgate"], "iss": "anybody", "more": { "of": "it" },
        "grants": { "join": true, "moderate": true },
    });
    let claims = keys(&[SECRET]).verify(&hs256(&all), NOW, 0).unwrap();
    let now = Instant::ZERO + Duration::from_secs(5);
    let entrance = claims.entrance("school-7", NOW, now, 0).unwrap();
    let name = entrance.name.as_deref();
    assert_eq!((&*entrance.user, &*entrance.channel, name), ("anna", "school-7", Some("Anna A.")));
    assert_eq!(entrance.expires, Some(now + Duration::from_secs(60)));
    assert!(entrance.grants.join && entrance.grants.moderate && !entrance.grants.subscribe);
    assert_eq!(entrance.token, Some(TokenId { jti: "7".into(), once: true }));
    assert_eq!(claims.entrance("school", NOW, now, 0), Err(TokenFault::Channel));
}

#[test]
fn each_claim_that_is_needed_is_missed() {
    assert_eq!(judged(&claims()), Ok(()));
    for name in ["sub", "exp", "channel", "grants"] {
        let refused = judged(&claims_with(name, Value::Null));
        assert!(matches!(refused, Err(TokenFault::Claim(why)) if why.contains(name)), "{name}: {refused:?}");
    }
}

#[test]
fn each_claim_that_is_malformed_is_named() {
    for (name, values) in [
        ("sub", vec![json!(""), json!(" "), json!(7), json!(["anna"]), json!("a\nb"), json!("x".repeat(257))]),
        ("name", vec![json!(""), json!(7), json!("\u{200b}"), json!("x".repeat(257))]),
        ("channel", vec![json!(""), json!(7), json!([]), json!([7]), json!({})]),
        ("grants", vec![json!([]), json!("all"), json!({ "joins": true }), json!({ "join": "yes" })]),
        ("once", vec![json!(1), json!("true"), json!(true)]),
        ("jti", vec![json!(7), json!(""), json!("x".repeat(257))]),
        ("aud", vec![json!("else"), json!([]), json!(["else"]), json!(7)]),
    ] {
        for value in values {
            let refused = judged(&claims_with(name, value.clone()));
            let named = matches!(refused, Err(TokenFault::Claim(why)) if why.contains(name));
            assert!(named, "{name}: {value}: {refused:?}");
        }
    }
    for (name, rest) in [("exp", NOW + 60), ("nbf", NOW), ("iat", NOW)] {
        for value in [
            json!(rest.to_string()),
            json!(rest as f64),
            json!(-1),
            json!(true),
            json!([rest]),
            json!(rest * 1_000),
            json!(u64::MAX),
            json!(1e300),
        ] {
            let refused = judged(&claims_with(name, value.clone()));
            let named = matches!(refused, Err(TokenFault::Claim(why)) if why.contains(name));
            assert!(named, "{name}: {value}: {refused:?}");
        }
    }
}

#[test]
fn a_payload_is_one_object_that_says_nothing_twice() {
    let payload = claims().to_string();
    assert!(Claims::read(payload.as_bytes()).is_ok());
    let inner = &payload[..payload.len() - 1];
    let deep = format!("{inner},\"x\":{}{}}}", "[".repeat(500), "]".repeat(500));
    for wrong in [
        "[]".to_owned(),
        String::new(),
        format!("{payload}{payload}"),
        format!("{inner},\"sub\":\"berta\"}}"),
        format!("{inner},\"exp\":9999999999}}"),
        format!("{inner},\"s\\u0075b\":\"berta\"}}"),
        payload.replace("\"join\":true", "\"join\":true,\"join\":false"),
        deep,
    ] {
        assert_eq!(Claims::read(wrong.as_bytes()), Err(TokenFault::Payload), "{wrong}");
    }
}

#[test]
fn a_token_holds_from_one_moment_to_another() {
    let at = |unix: u64, leeway: u64| {
        let token = hs256(&claims_with("nbf", json!(NOW)));
        keys(&[SECRET]).verify(&token, unix, leeway).map(|_| ())
    };
    assert_eq!([at(NOW - 1, 0), at(NOW, 0), at(NOW + 59, 0)], [Err(TokenFault::NotYet), Ok(()), Ok(())]);
    assert_eq!(
        [at(NOW + 60, 0), at(NOW + 64, 5), at(NOW + 65, 5)],
        [Err(TokenFault::Expired), Ok(()), Err(TokenFault::Expired)]
    );
    assert_eq!([at(NOW - 5, 5), at(NOW - 6, 5)], [Ok(()), Err(TokenFault::NotYet)]);
    assert_eq!(at(0, u64::MAX), Ok(()), "no sum overflows");
    let claims = keys(&[SECRET]).verify(&hs256(&claims()), NOW + 62, 5).unwrap();
    let entrance = claims.entrance("room", NOW + 62, Instant::ZERO, 5).unwrap();
    assert_eq!(entrance.expires, Some(Instant::ZERO + Duration::from_secs(3)));
}
