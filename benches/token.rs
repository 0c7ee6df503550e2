//! The check of a token under each algorithm, and of one that is refused. The bound is 200 µs.

use criterion::{Criterion, criterion_group, criterion_main};
use ring::rand::SystemRandom;
use serde_json::json;
use std::hint::black_box;
use weirgate::token::{Signer, TokenKeys};

const NOW: u64 = 1_800_000_000;
const SECRET: &[u8] = b"a secret of more than 32 bytes, for benches alone";
const RSA: &[u8] = include_bytes!("../tests/data/token/rsa.pem");
const RSA_PUBLIC: &[u8] = include_bytes!("../tests/data/token/rsa.pub.pem");
const ED: &[u8] = include_bytes!("../tests/data/token/ed.pem");
const ED_PUBLIC: &[u8] = include_bytes!("../tests/data/token/ed.pub.pem");

fn checks(criterion: &mut Criterion) {
    let claims = json!({
        "sub": "anna", "name": "Anna A.", "channel": ["lobby", "school-*"], "exp": NOW + 3_600, "iat": NOW, "jti": "7",
        "grants": { "join": true, "publish": { "kinds": ["audio"], "sources": ["microphone"] }, "subscribe": true },
    });
    let mut long = claims.clone();
    long["more"] = json!("x".repeat(5_500));
    let mut group = criterion.benchmark_group("token");
    for (name, alg, private, public, claims) in [
        ("HS256", "HS256", SECRET, SECRET, &claims),
        ("RS256", "RS256", RSA, RSA_PUBLIC, &claims),
        ("EdDSA", "EdDSA", ED, ED_PUBLIC, &claims),
        ("EdDSA of 8 KiB", "EdDSA", ED, ED_PUBLIC, &long),
    ] {
        let keys = TokenKeys::read([(name, public)]).expect("it is a key");
        let signer = Signer::read(private).expect("it is a key");
        let token = signer.sign(&json!({ "alg": alg }), claims, &SystemRandom::new()).expect("it signs");
        group.bench_function(name, |bencher| {
            bencher.iter(|| keys.verify(black_box(&token), NOW, 0).expect("it is good"));
        });
        let forged = format!("{}A{}", &token[..token.len() - 30], &token[token.len() - 29..]);
        group.bench_function(format!("{name}, forged"), |bencher| {
            bencher.iter(|| assert!(keys.verify(black_box(&forged), NOW, 0).is_err()));
        });
    }
    group.finish();
}

criterion_group!(benches, checks);
criterion_main!(benches);
